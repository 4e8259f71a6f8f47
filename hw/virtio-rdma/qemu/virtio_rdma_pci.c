/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -device virtio-rdma-pci: the virtio RDMA device as a PCI function, with the doorbell region
 * in a BAR of its own. Modern alone.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hw/pci/pci_ids.h"
#include "hw/virtio/virtio-pci.h"
#include "virtio_rdma_abi.h"
#include "virtio_rdma_vdev.h"

#define TYPE_VIRTIO_RDMA_PCI "virtio-rdma-pci-base"
OBJECT_DECLARE_SIMPLE_TYPE(VirtioRdmaPci, VIRTIO_RDMA_PCI)

/* Beside virtio-pci's: 1 has MSI-X, 4 and 5 are the modern structures. */
#define VIRTIO_RDMA_PCI_PIO_BAR 0
#define VIRTIO_RDMA_PCI_DOORBELL_BAR 2

struct VirtioRdmaPci {
    VirtIOPCIProxy parent_obj;

    VirtioRdma vdev;
};

static void virtio_rdma_pci_realize(VirtIOPCIProxy *proxy, Error **errp)
{
    VirtioRdma *s = &VIRTIO_RDMA_PCI(proxy)->vdev;

    if (proxy->nvectors == DEV_NVECTORS_UNSPECIFIED) {
        /* Each queue, and the configuration. */
        proxy->nvectors = VIRTIO_RDMA_VQ_COMPLETION + s->config.vectors + 1;
    }
    /* [virtio-rdma DEV-3] */
    virtio_pci_force_virtio_1(proxy);
    proxy->modern_io_bar_idx = VIRTIO_RDMA_PCI_PIO_BAR;
    if (!qdev_realize(DEVICE(s), BUS(&proxy->bus), errp)) {
        return;
    }
    /* [virtio-rdma DEV-16] */
    pci_register_bar(&proxy->pci_dev, VIRTIO_RDMA_PCI_DOORBELL_BAR,
                     PCI_BASE_ADDRESS_SPACE_MEMORY |
                     PCI_BASE_ADDRESS_MEM_TYPE_64 |
                     PCI_BASE_ADDRESS_MEM_PREFETCH, &s->doorbells);
    virtio_pci_add_shm_cap(proxy, VIRTIO_RDMA_PCI_DOORBELL_BAR, 0,
                           memory_region_size(&s->doorbells), VIRTIO_RDMA_SHM_DOORBELLS);
}

static const Property virtio_rdma_pci_properties[] = {
    DEFINE_PROP_UINT32("msix-vectors", VirtIOPCIProxy, nvectors, DEV_NVECTORS_UNSPECIFIED),
    RDMA_PROPERTIES_END
};

static void virtio_rdma_pci_class_init(ObjectClass *klass, RdmaClassData *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    VIRTIO_PCI_CLASS(klass)->realize = virtio_rdma_pci_realize;
    pc->class_id = PCI_CLASS_NETWORK_OTHER; /* IDs are the transport's */
    dc->desc = "virtio RDMA device (RoCE)";
    device_class_set_props(dc, virtio_rdma_pci_properties);
    object_class_property_set_description(klass, "msix-vectors",
        "interrupt vectors; one for each queue and one for the configuration by default, 0: INTx");
    set_bit(DEVICE_CATEGORY_NETWORK, dc->categories);
}

static void virtio_rdma_pci_init(Object *obj)
{
    VirtioRdma *s = &VIRTIO_RDMA_PCI(obj)->vdev;

    virtio_instance_init_common(obj, s, sizeof(*s), TYPE_VIRTIO_RDMA);
}

void virtio_rdma_register_pci(void)
{
    static const VirtioPCIDeviceTypeInfo type = {
        .base_name = TYPE_VIRTIO_RDMA_PCI,
        .non_transitional_name = "virtio-rdma-pci",
        .instance_size = sizeof(VirtioRdmaPci),
        .instance_init = virtio_rdma_pci_init,
        .class_init = virtio_rdma_pci_class_init,
    };

    virtio_pci_types_register(&type);
}
