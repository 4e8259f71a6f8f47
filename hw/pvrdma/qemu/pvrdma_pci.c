/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -device pvrdma: VMware's paravirtual RDMA function. What its guests see: properties,
 * BARs, interrupts. All else of QEMU is in hw/common/qemu, the device itself in the C++
 * core (pvrdma.h).
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/guest-random.h"
#include "hw/pci/msi.h"
#include "hw/pci/msix.h"
#include "hw/pci/pci_device.h"
#include "hw/pci/pci_ids.h"
#include "migration/vmstate.h"
#include "hw/common/qemu/compat.h"
#include "hw/common/qemu/rdma_core.h"
#include "pvrdma.h"
#include "pvrdma_pci.h"

#define TYPE_PVRDMA "pvrdma"
OBJECT_DECLARE_SIMPLE_TYPE(PvrdmaState, PVRDMA)

#define PVRDMA_PCI_DEVICE_ID 0x0820
#define PVRDMA_REVISION 1
#define PVRDMA_MSIX_BAR 0
#define PVRDMA_MSIX_BAR_SIZE 4096

struct PvrdmaState {
    PCIDevice parent_obj;

    RdmaCore core;
    PvrdmaConfig config;
    char *roce;
    bool use_msix;
    bool use_msi;

    MemoryRegion no_msix; /* in the place of the MSI-X BAR */
    MemoryRegion regs;
    MemoryRegion uar;
};

/* BARs */

static uint64_t pvrdma_regs_read(void *opaque, hwaddr addr, unsigned size)
{
    PvrdmaState *s = opaque;

    return rdma_device_bar_read(s->core.device, PVRDMA_BAR_REGS, addr, size);
}

static void pvrdma_regs_write(void *opaque, hwaddr addr, uint64_t value,
                              unsigned size)
{
    PvrdmaState *s = opaque;

    rdma_device_bar_write(s->core.device, PVRDMA_BAR_REGS, addr, value, size);
}

static uint64_t pvrdma_uar_read(void *opaque, hwaddr addr, unsigned size)
{
    PvrdmaState *s = opaque;

    return rdma_device_bar_read(s->core.device, PVRDMA_BAR_UAR, addr, size);
}

static void pvrdma_uar_write(void *opaque, hwaddr addr, uint64_t value,
                             unsigned size)
{
    PvrdmaState *s = opaque;

    rdma_device_bar_write(s->core.device, PVRDMA_BAR_UAR, addr, value, size);
}

static const MemoryRegionOps pvrdma_regs_ops = {
    .read = pvrdma_regs_read,
    .write = pvrdma_regs_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .impl = { .min_access_size = 4, .max_access_size = 4 },
};

static const MemoryRegionOps pvrdma_uar_ops = {
    .read = pvrdma_uar_read,
    .write = pvrdma_uar_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .impl = { .min_access_size = 4, .max_access_size = 4 },
};

/* Saved states */

static const VMStateDescription vmstate_pvrdma = {
    .name = TYPE_PVRDMA,
    .version_id = 2,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_PCI_DEVICE(parent_obj, PvrdmaState),
        VMSTATE_MSIX(parent_obj, PvrdmaState),
        VMSTATE_RDMA_CORE(core, PvrdmaState),
        VMSTATE_END_OF_LIST()
    },
};

/*
 * Sent at the beginning, while the VM still runs at the source: a destination
 * that does not fit refuses there and then.
 */
static const VMStateDescription vmstate_pvrdma_config = {
    .name = TYPE_PVRDMA "-config",
    .version_id = 2,
    .minimum_version_id = 1,
    .early_setup = true,
    .fields = (const VMStateField[]) {
        VMSTATE_RDMA_CONFIG(),
        VMSTATE_END_OF_LIST()
    },
};

/* The device */

static RdmaDevice *pvrdma_create(RdmaCore *core,
                                 const RdmaBackendConfig *backend,
                                 const RdmaHostOps *host, void *opaque,
                                 char **message)
{
    PvrdmaState *s = container_of(core, PvrdmaState, core);

    qemu_guest_getrandom_nofail(&s->config.number_seed,
                                sizeof(s->config.number_seed));
    return pvrdma_device_create(&s->config, backend, host, opaque, message);
}

static void pvrdma_raise_irq(RdmaCore *core, unsigned vector)
{
    if (msix_enabled(core->pci_dev)) {
        msix_notify(core->pci_dev, vector);
    } else if (msi_enabled(core->pci_dev)) {
        msi_notify(core->pci_dev, 0);
    }
}

static void pvrdma_set_intx(RdmaCore *core, bool level)
{
    if (!msix_enabled(core->pci_dev) && !msi_enabled(core->pci_dev)) {
        pci_set_irq(core->pci_dev, level);
    }
}

static const RdmaCoreOps pvrdma_core_ops = {
    .name = TYPE_PVRDMA,
    .create = pvrdma_create,
    .raise_irq = pvrdma_raise_irq,
    .set_intx = pvrdma_set_intx,
    .config_vmsd = &vmstate_pvrdma_config,
};

static void pvrdma_get_stats(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    rdma_core_get_stats(&PVRDMA(obj)->core, v, name, errp);
}

/* A guest takes MSI-X, or else MSI, or else INTx. */
static bool pvrdma_init_interrupts(PvrdmaState *s, Error **errp)
{
    PCIDevice *pci_dev = PCI_DEVICE(s);

    pci_config_set_interrupt_pin(pci_dev->config, 1);
    if (s->use_msix) {
        if (msix_init_exclusive_bar(pci_dev, PVRDMA_VECTORS, PVRDMA_MSIX_BAR,
                                    errp)) {
            return false;
        }
        for (unsigned i = 0; i < PVRDMA_VECTORS; i++) {
            msix_vector_use(pci_dev, i);
        }
    } else {
        /* Linux's driver wants to see the BAR all the same. */
        memory_region_init(&s->no_msix, OBJECT(s), "pvrdma-no-msix",
                           PVRDMA_MSIX_BAR_SIZE);
        pci_register_bar(pci_dev, PVRDMA_MSIX_BAR,
                         PCI_BASE_ADDRESS_SPACE_MEMORY, &s->no_msix);
    }
    if (s->use_msi && msi_init(pci_dev, 0, 1, true, false, errp)) {
        msix_uninit_exclusive_bar(pci_dev);
        return false;
    }
    return true;
}

static void pvrdma_exit(PCIDevice *pci_dev)
{
    PvrdmaState *s = PVRDMA(pci_dev);

    rdma_core_unrealize(&s->core);
    msix_uninit_exclusive_bar(pci_dev);
    msi_uninit(pci_dev);
}

static void pvrdma_realize(PCIDevice *pci_dev, Error **errp)
{
    static const char *const versions[] = { "v1", "v2", NULL };
    PvrdmaState *s = PVRDMA(pci_dev);
    int version;

    if (!rdma_core_choose("roce", s->roce, versions, &version, errp)) {
        return;
    }
    s->config.roce_version = version + 1;
    if (!rdma_core_realize(&s->core, pci_dev, &pvrdma_core_ops, errp)) {
        return;
    }
    if (!pvrdma_init_interrupts(s, errp)) {
        rdma_core_unrealize(&s->core);
        return;
    }
    memory_region_init_io(&s->regs, OBJECT(s), &pvrdma_regs_ops, s,
                          "pvrdma-regs", PVRDMA_REGS_BAR_SIZE);
    memory_region_init_io(&s->uar, OBJECT(s), &pvrdma_uar_ops, s, "pvrdma-uar",
                          (uint64_t)s->config.max_uar * PVRDMA_UAR_PAGE_SIZE);
    pci_register_bar(pci_dev, PVRDMA_BAR_REGS, PCI_BASE_ADDRESS_SPACE_MEMORY,
                     &s->regs);
    /* Prefetchable only to fit a bridge's window for 64-bit addresses. */
    pci_register_bar(pci_dev, PVRDMA_BAR_UAR,
                     PCI_BASE_ADDRESS_SPACE_MEMORY |
                     PCI_BASE_ADDRESS_MEM_TYPE_64 |
                     PCI_BASE_ADDRESS_MEM_PREFETCH, &s->uar);
    rdma_core_start(&s->core);
}

/*
 * A guest that turns bus mastering off is done with the device: its driver has
 * gone, or its kernel gives way to another (kexec), to which the memory of the
 * old queues and regions belongs. What was left of them would come to life again
 * when the next driver turns bus mastering on, a while before it sets the
 * device up anew.
 */
static void pvrdma_config_write(PCIDevice *pci_dev, uint32_t addr,
                                uint32_t value, int size)
{
    PvrdmaState *s = PVRDMA(pci_dev);

    pci_default_write_config(pci_dev, addr, value, size);
    if (range_covers_byte(addr, size, PCI_COMMAND) &&
        !(pci_get_word(pci_dev->config + PCI_COMMAND) & PCI_COMMAND_MASTER)) {
        rdma_device_reset(s->core.device);
    }
}

static void pvrdma_reset_hold(Object *obj, ResetType type)
{
    PvrdmaState *s = PVRDMA(obj);

    rdma_device_reset(s->core.device);
}

static const Property pvrdma_properties[] = {
    DEFINE_RDMA_CORE_PROPERTIES(PvrdmaState, core)
    DEFINE_PROP_STRING("roce", PvrdmaState, roce),
    DEFINE_PROP_BOOL("msix", PvrdmaState, use_msix, true),
    DEFINE_PROP_BOOL("msi", PvrdmaState, use_msi, true),
#define PVRDMA_PROPERTY(type, member, name, value, ...) \
    PVRDMA_PROPERTY_##type(name, member, value),
#define PVRDMA_PROPERTY_uint32_t(name, member, value) \
    DEFINE_PROP_UINT32(name, PvrdmaState, config.member, value)
#define PVRDMA_PROPERTY_uint64_t(name, member, value) \
    DEFINE_PROP_UINT64(name, PvrdmaState, config.member, value)
    PVRDMA_PROPERTIES(PVRDMA_PROPERTY)
#undef PVRDMA_PROPERTY
    RDMA_PROPERTIES_END
};

static void pvrdma_instance_post_init(Object *obj)
{
    PvrdmaState *s = PVRDMA(obj);

    s->roce = s->roce ?: g_strdup("v2");
    rdma_core_default_properties(&s->core);
}

/* For -device pvrdma,help. */
static void pvrdma_describe_properties(ObjectClass *klass)
{
    rdma_core_describe_properties(klass);
    object_class_property_set_description(klass, "roce",
        "v1 or v2: the one RoCE version that is offered");
    object_class_property_set_description(klass, "msix",
        "whether the function has MSI-X");
    object_class_property_set_description(klass, "msi",
        "whether the function has MSI");
#define PVRDMA_DESCRIBE(type, member, name, value, least, most, power_of_two, \
                        description) \
    rdma_core_describe_number(klass, name, least, most, power_of_two, \
                              description);
    PVRDMA_PROPERTIES(PVRDMA_DESCRIBE)
#undef PVRDMA_DESCRIBE
}

static void pvrdma_class_init(ObjectClass *klass, RdmaClassData *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    ResettableClass *rc = RESETTABLE_CLASS(klass);

    pc->realize = pvrdma_realize;
    pc->exit = pvrdma_exit;
    pc->config_write = pvrdma_config_write;
    pc->vendor_id = PCI_VENDOR_ID_VMWARE;
    pc->device_id = PVRDMA_PCI_DEVICE_ID;
    pc->revision = PVRDMA_REVISION;
    pc->class_id = PCI_CLASS_NETWORK_OTHER;
    rc->phases.hold = pvrdma_reset_hold;
    dc->vmsd = &vmstate_pvrdma;
    dc->desc = "VMware paravirtual RDMA (RoCE)";
    device_class_set_props(dc, pvrdma_properties);
    pvrdma_describe_properties(klass);
    set_bit(DEVICE_CATEGORY_NETWORK, dc->categories);

    object_class_property_add(klass, "stats", "PvrdmaStats", pvrdma_get_stats,
                              NULL, NULL, NULL);
    object_class_property_set_description(klass, "stats",
                                          RDMA_CORE_STATS_DESCRIPTION);
}

const TypeInfo pvrdma_type = {
    .name = TYPE_PVRDMA,
    .parent = TYPE_PCI_DEVICE,
    .instance_size = sizeof(PvrdmaState),
    .instance_post_init = pvrdma_instance_post_init,
    .class_init = pvrdma_class_init,
    .interfaces = (InterfaceInfo[]) {
        { INTERFACE_CONVENTIONAL_PCI_DEVICE },
        { }
    },
};
