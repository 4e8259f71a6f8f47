/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The module that the loader opens: its note and its one function. */
#include "qemu/osdep.h"
#include "qemu/qemu-plugin.h"
#include "hw/net/vmxnet3_defs.h"
#include "hw/pci/pci_device.h"
#include "hw/virtio/virtio-pci.h"
#include "net/filter.h"
#include "hw/common/qemu/compat.h"
#include "hw/qemu/rdma_types.h"
#include "module_note.h"

#define ALIGNED_4(size) (((size) + 3) & ~3)

struct RdmaElfNote {
    uint32_t owner_size;
    uint32_t size;
    uint32_t type;
    char owner[ALIGNED_4(sizeof(RDMA_MODULE_OWNER))];
    struct RdmaModuleNote note;
};

__attribute__((section(".note.qemu-rdma"), aligned(4), used))
static const struct RdmaElfNote rdma_elf_note = {
    .owner_size = sizeof(RDMA_MODULE_OWNER),
    .size = sizeof(struct RdmaModuleNote),
    .type = RDMA_MODULE_NOTE,
    .owner = RDMA_MODULE_OWNER,
    .note = {
        .plugin_api = QEMU_PLUGIN_VERSION,
        .build_id = RDMA_QEMU_BUILD_ID,
        .version = RDMA_QEMU_VERSION,
    },
};

/*
 * The types that ours derive from or look into, for check-layout: the sizes that QEMU's own
 * TypeInfo has. 0: a class that is not looked into.
 */
struct RdmaSizes {
    char name[32];
    char parent[32];
    uint64_t instance;
    uint64_t klass;
};

__attribute__((section(".rdma_sizes"), used))
static const struct RdmaSizes rdma_sizes[] = {
    { TYPE_DEVICE, TYPE_OBJECT, sizeof(DeviceState), sizeof(DeviceClass) },
    { TYPE_PCI_DEVICE, TYPE_DEVICE, sizeof(PCIDevice), sizeof(PCIDeviceClass) },
    { TYPE_NETFILTER, TYPE_OBJECT, sizeof(NetFilterState), sizeof(NetFilterClass) },
    { TYPE_MEMORY_REGION, TYPE_OBJECT, sizeof(MemoryRegion), sizeof(MemoryRegionClass) },
    { TYPE_IOMMU_MEMORY_REGION, TYPE_MEMORY_REGION, sizeof(IOMMUMemoryRegion),
      sizeof(IOMMUMemoryRegionClass) },
    { TYPE_VIRTIO_DEVICE, TYPE_DEVICE, sizeof(VirtIODevice), sizeof(VirtioDeviceClass) },
    { TYPE_VIRTIO_BUS, TYPE_BUS, sizeof(VirtioBusState), sizeof(VirtioBusClass) },
    { TYPE_VIRTIO_PCI, TYPE_PCI_DEVICE, sizeof(VirtIOPCIProxy), sizeof(VirtioPCIClass) },
    { TYPE_VMXNET3, TYPE_PCI_DEVICE, sizeof(VMXNET3State), 0 },
};

void RDMA_MODULE_REGISTER(void);

__attribute__((visibility("default"))) void RDMA_MODULE_REGISTER(void)
{
    rdma_register_types();
}
