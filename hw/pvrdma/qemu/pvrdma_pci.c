/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -device pvrdma: VMware's paravirtual RDMA function. This file only wires
 * the C++ core (rdma_device.h) to QEMU.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qemu/error-report.h"
#include "qemu/guest-random.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "hw/pci/msi.h"
#include "hw/pci/msix.h"
#include "hw/pci/pci_device.h"
#include "hw/pci/pci_ids.h"
#include "hw/qdev-properties.h"
#include "migration/misc.h"
#include "migration/client-options.h"
#include "migration/qemu-file-types.h"
#include "migration/vmstate.h"
#include "system/runstate.h"
#include "hw/common/qemu/rdma_memory.h"
#include "hw/common/qemu/rdma_nic.h"
#include "hw/common/qemu/rdma_pause.h"

#define TYPE_PVRDMA "pvrdma"
OBJECT_DECLARE_SIMPLE_TYPE(PvrdmaState, PVRDMA)

#define PVRDMA_PCI_DEVICE_ID 0x0820
#define PVRDMA_REVISION 1
#define PVRDMA_MSIX_BAR 0
#define PVRDMA_VECTORS 3
#define PVRDMA_MSIX_BAR_SIZE 4096
#define PVRDMA_MAX_POLL_PAUSE_US 1000

struct PvrdmaState {
    PCIDevice parent_obj;

    PvrdmaConfig config;
    char *roce;
    char *backend;
    char *ibdev;
    uint32_t ibport;
    int32_t gid_index;
    char *gid_policy;
    char *gid_allow;
    char *odp;
    char *cm_mux;
    uint32_t poll_pause_us;
    bool stopped_rnr_nak;
    bool use_msix;
    bool use_msi;

    RdmaDevice *device;
    RdmaMemory memory;
    RdmaNic nic;
    RdmaPause pause;
    MemoryRegion no_msix; /* in the place of the MSI-X BAR */
    MemoryRegion regs;
    MemoryRegion uar;
    QEMUTimer *timer;
    VMChangeStateEntry *run_state;
    NotifierWithReturn migration_notifier;
    NotifierWithReturn precopy_notifier;
    uint16_t peer_port;
    char *on_migrate;
};

/* What the core asks of its host */

static int64_t pvrdma_now(void *opaque)
{
    return qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
}

static void pvrdma_set_timer(void *opaque, int64_t deadline_ns)
{
    PvrdmaState *s = opaque;

    if (deadline_ns == INT64_MAX) {
        timer_del(s->timer);
    } else {
        timer_mod_ns(s->timer, deadline_ns);
    }
}

static bool pvrdma_send_packet(void *opaque, const uint8_t *frame, size_t size)
{
    PvrdmaState *s = opaque;

    return rdma_nic_send(&s->nic, frame, size);
}

static void pvrdma_raise_irq(void *opaque, unsigned vector)
{
    PCIDevice *pci_dev = opaque;

    if (msix_enabled(pci_dev)) {
        msix_notify(pci_dev, vector);
    } else if (msi_enabled(pci_dev)) {
        msi_notify(pci_dev, 0);
    }
}

static void pvrdma_set_intx(void *opaque, bool level)
{
    PCIDevice *pci_dev = opaque;

    if (!msix_enabled(pci_dev) && !msi_enabled(pci_dev)) {
        pci_set_irq(pci_dev, level);
    }
}

static void pvrdma_mark_dirty(void *opaque, uint64_t gpa, uint64_t size)
{
    PvrdmaState *s = opaque;

    rdma_memory_mark_dirty(&s->memory, gpa, size);
}

static bool pvrdma_translate(void *opaque, uint64_t address, bool write,
                             uint64_t *gpa)
{
    PvrdmaState *s = opaque;

    return rdma_memory_translate(&s->memory, address, write, gpa);
}

static void pvrdma_nic_info(void *opaque, RdmaNicInfo *info)
{
    PvrdmaState *s = opaque;

    if (s->nic.nc) {
        rdma_nic_info(&s->nic, info);
    }
}

static void pvrdma_poll_idle(void *opaque)
{
    PvrdmaState *s = opaque;

    rdma_pause_vcpu(&s->pause);
}

static void pvrdma_poll_end(void *opaque)
{
    PvrdmaState *s = opaque;

    rdma_pause_end(&s->pause);
}

static void pvrdma_log(void *opaque, int level, const char *message)
{
    switch (level) {
    case RDMA_LOG_ERROR:
        error_report("%s", message);
        break;
    case RDMA_LOG_WARNING:
        warn_report("%s", message);
        break;
    case RDMA_LOG_GUEST_ERROR:
        qemu_log_mask(LOG_GUEST_ERROR, "%s\n", message);
        break;
    default:
        break;
    }
}

static const RdmaHostOps pvrdma_host_ops = {
    .now = pvrdma_now,
    .set_timer = pvrdma_set_timer,
    .send_packet = pvrdma_send_packet,
    .raise_irq = pvrdma_raise_irq,
    .set_intx = pvrdma_set_intx,
    .mark_dirty = pvrdma_mark_dirty,
    .nic_info = pvrdma_nic_info,
    .poll_idle = pvrdma_poll_idle,
    .poll_end = pvrdma_poll_end,
    .log = pvrdma_log,
};

static void pvrdma_timer_expired(void *opaque)
{
    PvrdmaState *s = opaque;

    rdma_device_timer(s->device);
}

/* BARs */

static uint64_t pvrdma_regs_read(void *opaque, hwaddr addr, unsigned size)
{
    PvrdmaState *s = opaque;

    return rdma_device_bar_read(s->device, RDMA_BAR_REGS, addr, size);
}

static void pvrdma_regs_write(void *opaque, hwaddr addr, uint64_t value,
                              unsigned size)
{
    PvrdmaState *s = opaque;

    rdma_device_bar_write(s->device, RDMA_BAR_REGS, addr, value, size);
}

static uint64_t pvrdma_uar_read(void *opaque, hwaddr addr, unsigned size)
{
    PvrdmaState *s = opaque;

    return rdma_device_bar_read(s->device, RDMA_BAR_UAR, addr, size);
}

static void pvrdma_uar_write(void *opaque, hwaddr addr, uint64_t value,
                             unsigned size)
{
    PvrdmaState *s = opaque;

    rdma_device_bar_write(s->device, RDMA_BAR_UAR, addr, value, size);
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

/* Statistics */

typedef struct PvrdmaVisit {
    Visitor *v;
    Error **errp;
    bool ok;
} PvrdmaVisit;

static void pvrdma_visit_counter(void *opaque, const char *name,
                                 uint64_t value)
{
    PvrdmaVisit *visit = opaque;

    visit->ok = visit->ok &&
                visit_type_uint64(visit->v, name, &value, visit->errp);
}

static void pvrdma_get_stats(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    PvrdmaState *s = PVRDMA(obj);
    PvrdmaVisit visit = { .v = v, .errp = errp, .ok = true };

    if (!s->device) {
        error_setg(errp, "the device is not realized");
        return;
    }
    if (!visit_start_struct(v, name, NULL, 0, errp)) {
        return;
    }
    rdma_device_statistics(s->device, pvrdma_visit_counter, &visit);
    pvrdma_visit_counter(&visit, "card-frames-held", s->nic.held_frames);
    pvrdma_visit_counter(&visit, "card-frames-dropped", s->nic.dropped_frames);
    if (visit.ok) {
        visit_check_struct(v, errp);
    }
    visit_end_struct(v, NULL);
}

/* Stop, start, migration */

static void pvrdma_run_state_changed(void *opaque, bool running,
                                     RunState state)
{
    PvrdmaState *s = opaque;

    if (running) {
        rdma_device_start(s->device);
        rdma_nic_started(&s->nic);
    } else {
        rdma_nic_stopped(&s->nic);
        rdma_device_stop(s->device, s->stopped_rnr_nak);
    }
}

/*
 * Both kinds of state are a length and so many bytes. The length has 64 bits; in version 1
 * it had 32.
 */
static void pvrdma_put_bytes(void *opaque, const uint8_t *bytes, size_t size)
{
    QEMUFile *f = opaque;

    qemu_put_be64(f, size);
    qemu_put_buffer(f, bytes, size);
}

typedef bool PvrdmaTake(RdmaDevice *device, const uint8_t *state, size_t size,
                        char **error);

static int pvrdma_get_bytes(QEMUFile *f, PvrdmaState *s, int version,
                            PvrdmaTake *take)
{
    uint64_t size = version == 1 ? qemu_get_be32(f) : qemu_get_be64(f);
    g_autofree uint8_t *bytes = NULL;
    char *message = NULL;

    if (size > RDMA_MAX_STATE) {
        error_report("pvrdma: a saved state of %" PRIu64 " bytes cannot be",
                     size);
        return -EINVAL;
    }
    bytes = g_try_malloc(size);
    if (size && !bytes) {
        error_report("pvrdma: no memory for a saved state of %" PRIu64
                     " bytes", size);
        return -ENOMEM;
    }
    if (qemu_get_buffer(f, bytes, size) != size) {
        error_report("pvrdma: the saved state is cut short");
        return -EIO;
    }
    if (!take(s->device, bytes, size, &message)) {
        error_report("pvrdma: the saved state does not fit: %s", message);
        free(message);
        return -EINVAL;
    }
    return 0;
}

typedef bool PvrdmaSave(RdmaDevice *device, RdmaPutState *put, void *opaque,
                        char **error);

/* QEMU goes on with the VM here where a device's state cannot be sent. */
static int pvrdma_save_bytes(QEMUFile *f, PvrdmaState *s, PvrdmaSave *save)
{
    char *message = NULL;

    if (!save(s->device, pvrdma_put_bytes, f, &message)) {
        error_report("pvrdma: the state cannot be saved: %s", message);
        free(message);
        return -EBUSY;
    }
    return 0;
}

static int pvrdma_put_state(QEMUFile *f, void *pv, size_t size,
                            const VMStateField *field, JSONWriter *vmdesc)
{
    return pvrdma_save_bytes(f, pv, rdma_device_save);
}

static int pvrdma_get_state(QEMUFile *f, void *pv, size_t size,
                            const VMStateField *field)
{
    return pvrdma_get_bytes(f, pv, 2, rdma_device_load);
}

static int pvrdma_get_state_v1(QEMUFile *f, void *pv, size_t size,
                               const VMStateField *field)
{
    return pvrdma_get_bytes(f, pv, 1, rdma_device_load);
}

/* Before anything is sent: what cannot come along is told. */
static int pvrdma_check_migration(NotifierWithReturn *notifier,
                                  MigrationEvent *event, Error **errp)
{
    PvrdmaState *s = container_of(notifier, PvrdmaState, migration_notifier);
    char *message = NULL;

    if (event->type != MIG_EVENT_PRECOPY_SETUP) {
        return 0;
    }
    /* Regions are registered before the VM starts, with all their memory. */
    if (migrate_postcopy_ram()) {
        error_setg(errp, "pvrdma: backend=verbs does not migrate by post-copy");
        return -1;
    }
    /* The host's device writes to memory past QEMU's write protection. */
    if (migrate_background_snapshot()) {
        error_setg(errp, "pvrdma: backend=verbs does not make background "
                   "snapshots");
        return -1;
    }
    if (!rdma_device_can_migrate(s->device, &message)) {
        error_setg(errp, "pvrdma: %s", message);
        free(message);
        return -1;
    }
    return 0;
}

/* The VM has stopped, paused before or not; memory goes out for the last time. */
static int pvrdma_precopy(NotifierWithReturn *notifier, void *data,
                          Error **errp)
{
    PvrdmaState *s = container_of(notifier, PvrdmaState, precopy_notifier);
    PrecopyNotifyData *precopy = data;

    if (precopy->reason == PRECOPY_NOTIFY_COMPLETE) {
        rdma_device_finish_migration(s->device);
    }
    return 0;
}

static int pvrdma_put_config(QEMUFile *f, void *pv, size_t size,
                             const VMStateField *field, JSONWriter *vmdesc)
{
    PvrdmaState *s = pv;
    char *message = NULL;

    /* A snapshot comes without asking. */
    if (!rdma_device_can_migrate(s->device, &message)) {
        error_report("pvrdma: %s", message);
        free(message);
        return -EBUSY;
    }
    return pvrdma_save_bytes(f, s, rdma_device_save_config);
}

static int pvrdma_get_config(QEMUFile *f, void *pv, size_t size,
                             const VMStateField *field)
{
    return pvrdma_get_bytes(f, pv, 2, rdma_device_check_config);
}

static int pvrdma_get_config_v1(QEMUFile *f, void *pv, size_t size,
                                const VMStateField *field)
{
    return pvrdma_get_bytes(f, pv, 1, rdma_device_check_config);
}

static const VMStateInfo pvrdma_state_info = {
    .name = "pvrdma state",
    .get = pvrdma_get_state,
    .put = pvrdma_put_state,
};

static const VMStateInfo pvrdma_config_info = {
    .name = "pvrdma configuration",
    .get = pvrdma_get_config,
    .put = pvrdma_put_config,
};

static const VMStateInfo pvrdma_state_info_v1 = {
    .name = "pvrdma state",
    .get = pvrdma_get_state_v1,
};

static const VMStateInfo pvrdma_config_info_v1 = {
    .name = "pvrdma configuration",
    .get = pvrdma_get_config_v1,
};

static bool pvrdma_is_v1(void *opaque, int version_id)
{
    return version_id == 1;
}

static bool pvrdma_is_v2(void *opaque, int version_id)
{
    return version_id == 2;
}

/* The whole device, which the core reads and writes. */
#define PVRDMA_VMSTATE_WHOLE(_info, _exists) { \
    .name = "state", \
    .info = &(_info), \
    .flags = VMS_SINGLE, \
    .field_exists = (_exists), \
}

static const VMStateDescription vmstate_pvrdma = {
    .name = TYPE_PVRDMA,
    .version_id = 2,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_PCI_DEVICE(parent_obj, PvrdmaState),
        VMSTATE_MSIX(parent_obj, PvrdmaState),
        PVRDMA_VMSTATE_WHOLE(pvrdma_state_info, pvrdma_is_v2),
        PVRDMA_VMSTATE_WHOLE(pvrdma_state_info_v1, pvrdma_is_v1),
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
        PVRDMA_VMSTATE_WHOLE(pvrdma_config_info, pvrdma_is_v2),
        PVRDMA_VMSTATE_WHOLE(pvrdma_config_info_v1, pvrdma_is_v1),
        VMSTATE_END_OF_LIST()
    },
};

/* The device */

/* The index of a property's value in a list that ends with NULL. */
static bool pvrdma_choose(const char *property, const char *value,
                          const char *const *choices, int *index, Error **errp)
{
    g_autofree char *list = NULL;

    for (*index = 0; choices[*index]; (*index)++) {
        if (!strcmp(value, choices[*index])) {
            return true;
        }
    }
    list = g_strjoinv(" or ", (char **)choices);
    error_setg(errp, "property '%s' is '%s': it must be %s", property, value,
               list);
    return false;
}

static void pvrdma_host_events(void *opaque)
{
    PvrdmaState *s = opaque;

    rdma_device_events(s->device);
}

static void pvrdma_destroy_core(PvrdmaState *s)
{
    int fd = rdma_device_event_fd(s->device);

    if (fd >= 0) {
        qemu_set_fd_handler(fd, NULL, NULL, NULL);
        migration_remove_notifier(&s->migration_notifier);
        precopy_remove_notifier(&s->precopy_notifier);
    }
    timer_free(s->timer);
    s->timer = NULL;
    rdma_device_destroy(s->device);
    s->device = NULL;
}

/* The device on a port of the host, and what that asks of the VM. */
static bool pvrdma_create_on_host(PvrdmaState *s, Error **errp)
{
    static const char *const policies[] = { "match", "add", NULL };
    static const char *const paging[] = {
        [RDMA_ODP_AUTO] = "auto", [RDMA_ODP_ON] = "on", [RDMA_ODP_OFF] = "off",
        NULL
    };
    RdmaHostPortConfig port = {
        .ibdev = s->ibdev, .ibport = s->ibport, .gid_index = s->gid_index,
        .cm_mux = s->cm_mux, .gid_allow = s->gid_allow,
    };
    static const char *const on_migrate[] = { "refuse", "error", NULL };
    int policy, lose;
    char *message = NULL;

    if (!pvrdma_choose("gid-policy", s->gid_policy, policies, &policy, errp) ||
        !pvrdma_choose("odp", s->odp, paging, &port.odp, errp) ||
        !pvrdma_choose("on-migrate", s->on_migrate, on_migrate, &lose, errp) ||
        !rdma_memory_check_direct(PCI_DEVICE(s), errp) ||
        !rdma_memory_check_shared(errp)) {
        return false;
    }
    port.add_addresses = policy == 1;
    port.peer_port = s->peer_port;
    port.lose_on_migrate = lose == 1;
    s->device = pvrdma_device_create_verbs(&s->config, &port, &pvrdma_host_ops,
                                           s, &message);
    if (!s->device) {
        error_setg(errp, "%s", message);
        free(message);
        return false;
    }
    migration_add_notifier(&s->migration_notifier, pvrdma_check_migration);
    s->precopy_notifier.notify = pvrdma_precopy;
    precopy_add_notifier(&s->precopy_notifier);
    qemu_set_fd_handler(rdma_device_event_fd(s->device), pvrdma_host_events,
                        NULL, s);
    return true;
}

static bool pvrdma_create_core(PvrdmaState *s, Error **errp)
{
    static const char *const backends[] = { "roce", "verbs", NULL };
    int backend;
    char *message = NULL;

    if (!pvrdma_choose("backend", s->backend, backends, &backend, errp)) {
        return false;
    }
    if (!strcmp(s->roce, "v1")) {
        s->config.roce_version = 1;
    } else if (!strcmp(s->roce, "v2")) {
        s->config.roce_version = 2;
    } else {
        error_setg(errp, "property 'roce' is '%s': it must be v1 or v2",
                   s->roce);
        return false;
    }
    if (s->poll_pause_us > PVRDMA_MAX_POLL_PAUSE_US) {
        error_setg(errp, "property 'poll-pause' is %" PRIu32 ": it must be "
                   "0 to %d microseconds", s->poll_pause_us,
                   PVRDMA_MAX_POLL_PAUSE_US);
        return false;
    }
    s->pause.owner = OBJECT(s);
    s->pause.max_ns = s->poll_pause_us * SCALE_US;
    if (backend == 1) {
        return pvrdma_create_on_host(s, errp);
    }
    if (s->ibdev) {
        error_setg(errp, "property 'ibdev' is for backend=verbs");
        return false;
    }
    qemu_guest_getrandom_nofail(&s->config.number_seed,
                                sizeof(s->config.number_seed));
    s->device = pvrdma_device_create(&s->config, &pvrdma_host_ops, s,
                                     &message);
    if (!s->device) {
        error_setg(errp, "%s", message);
        free(message);
        return false;
    }
    return true;
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

    vmstate_unregister(VMSTATE_IF(s), &vmstate_pvrdma_config, s);
    qemu_del_vm_change_state_handler(s->run_state);
    rdma_nic_detach(&s->nic);
    rdma_memory_stop(&s->memory);
    pvrdma_destroy_core(s);
    msix_uninit_exclusive_bar(pci_dev);
    msi_uninit(pci_dev);
}

static void pvrdma_realize(PCIDevice *pci_dev, Error **errp)
{
    PvrdmaState *s = PVRDMA(pci_dev);

    if (!pvrdma_create_core(s, errp)) {
        return;
    }
    s->timer = timer_new_ns(QEMU_CLOCK_VIRTUAL, pvrdma_timer_expired, s);

    if (!rdma_nic_attach(&s->nic, pci_dev, s->device, errp)) {
        goto fail_nic;
    }
    if (!pvrdma_init_interrupts(s, errp)) {
        goto fail_interrupts;
    }
    memory_region_init_io(&s->regs, OBJECT(s), &pvrdma_regs_ops, s,
                          "pvrdma-regs", RDMA_REGS_BAR_SIZE);
    memory_region_init_io(&s->uar, OBJECT(s), &pvrdma_uar_ops, s, "pvrdma-uar",
                          (uint64_t)s->config.max_uar * RDMA_UAR_PAGE_SIZE);
    pci_register_bar(pci_dev, RDMA_BAR_REGS, PCI_BASE_ADDRESS_SPACE_MEMORY,
                     &s->regs);
    /* Prefetchable only to fit a bridge's window for 64-bit addresses. */
    pci_register_bar(pci_dev, RDMA_BAR_UAR,
                     PCI_BASE_ADDRESS_SPACE_MEMORY |
                     PCI_BASE_ADDRESS_MEM_TYPE_64 |
                     PCI_BASE_ADDRESS_MEM_PREFETCH, &s->uar);
    rdma_memory_start(&s->memory, pci_get_address_space(pci_dev), s->device,
                      strcmp(s->backend, "roce") ? NULL : pvrdma_translate);
    if (!s->nic.running) {
        rdma_device_stop(s->device, s->stopped_rnr_nak);
    }
    s->run_state = qdev_add_vm_change_state_handler(
        DEVICE(s), pvrdma_run_state_changed, s);
    vmstate_register_any(VMSTATE_IF(s), &vmstate_pvrdma_config, s);
    return;

fail_interrupts:
    rdma_nic_detach(&s->nic);
fail_nic:
    pvrdma_destroy_core(s);
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
        rdma_device_reset(s->device);
    }
}

static void pvrdma_reset_hold(Object *obj, ResetType type)
{
    PvrdmaState *s = PVRDMA(obj);

    rdma_device_reset(s->device);
}

static void pvrdma_instance_init(Object *obj)
{
    PvrdmaState *s = PVRDMA(obj);

    pvrdma_config_default(&s->config);
}

static const Property pvrdma_properties[] = {
    DEFINE_PROP_STRING("backend", PvrdmaState, backend),
    DEFINE_PROP_STRING("ibdev", PvrdmaState, ibdev),
    DEFINE_PROP_UINT32("ibport", PvrdmaState, ibport, 1),
    DEFINE_PROP_INT32("gid-index", PvrdmaState, gid_index, -1),
    DEFINE_PROP_STRING("gid-policy", PvrdmaState, gid_policy),
    DEFINE_PROP_STRING("gid-allow", PvrdmaState, gid_allow),
    DEFINE_PROP_STRING("odp", PvrdmaState, odp),
    DEFINE_PROP_UINT16("peer-port", PvrdmaState, peer_port, 4793),
    DEFINE_PROP_STRING("on-migrate", PvrdmaState, on_migrate),
    DEFINE_PROP_STRING("cm-mux", PvrdmaState, cm_mux),
    DEFINE_PROP_STRING("roce", PvrdmaState, roce),
    DEFINE_PROP_UINT32("poll-pause", PvrdmaState, poll_pause_us, 50),
    DEFINE_PROP_BOOL("stopped-rnr-nak", PvrdmaState, stopped_rnr_nak, true),
    DEFINE_PROP_BOOL("msix", PvrdmaState, use_msix, true),
    DEFINE_PROP_BOOL("msi", PvrdmaState, use_msi, true),
#define PVRDMA_PROPERTY(name, field) \
    DEFINE_PROP_UNSIGNED_NODEFAULT(name, PvrdmaState, config.field, \
                                   qdev_prop_uint32, uint32_t)
    PVRDMA_PROPERTY("version", version),
    PVRDMA_PROPERTY("max-qp", max_qp),
    PVRDMA_PROPERTY("max-qp-wr", max_qp_wr),
    PVRDMA_PROPERTY("max-sge", max_sge),
    PVRDMA_PROPERTY("max-cq", max_cq),
    PVRDMA_PROPERTY("max-cqe", max_cqe),
    PVRDMA_PROPERTY("max-mr", max_mr),
    PVRDMA_PROPERTY("max-pd", max_pd),
    PVRDMA_PROPERTY("max-srq", max_srq),
    PVRDMA_PROPERTY("max-srq-wr", max_srq_wr),
    PVRDMA_PROPERTY("max-srq-sge", max_srq_sge),
    PVRDMA_PROPERTY("max-ah", max_ah),
    PVRDMA_PROPERTY("max-uar", max_uar),
    PVRDMA_PROPERTY("gid-tbl-len", gid_tbl_len),
    PVRDMA_PROPERTY("max-qp-rd-atom", max_qp_rd_atom),
    PVRDMA_PROPERTY("max-qp-init-rd-atom", max_qp_init_rd_atom),
#undef PVRDMA_PROPERTY
    DEFINE_PROP_UNSIGNED_NODEFAULT("max-mr-size", PvrdmaState,
                                   config.max_mr_size, qdev_prop_uint64,
                                   uint64_t),
    DEFINE_PROP_UNSIGNED_NODEFAULT("node-guid", PvrdmaState, config.node_guid,
                                   qdev_prop_uint64, uint64_t),
};

static void pvrdma_instance_post_init(Object *obj)
{
    PvrdmaState *s = PVRDMA(obj);

    s->roce = s->roce ?: g_strdup("v2");
    s->backend = s->backend ?: g_strdup("roce");
    s->gid_policy = s->gid_policy ?: g_strdup("match");
    s->on_migrate = s->on_migrate ?: g_strdup("refuse");
    s->odp = s->odp ?: g_strdup("auto");
}

static void pvrdma_class_init(ObjectClass *klass, void *data)
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
    set_bit(DEVICE_CATEGORY_NETWORK, dc->categories);

    object_class_property_add(klass, "stats", "PvrdmaStats", pvrdma_get_stats,
                              NULL, NULL, NULL);
    object_class_property_set_description(klass, "stats",
        "Counters of packets, errors and drops since the device was created, "
        "and the objects that exist now");
}

static const TypeInfo pvrdma_info = {
    .name = TYPE_PVRDMA,
    .parent = TYPE_PCI_DEVICE,
    .instance_size = sizeof(PvrdmaState),
    .instance_init = pvrdma_instance_init,
    .instance_post_init = pvrdma_instance_post_init,
    .class_init = pvrdma_class_init,
    .interfaces = (InterfaceInfo[]) {
        { INTERFACE_CONVENTIONAL_PCI_DEVICE },
        { }
    },
};

static void pvrdma_register_types(void)
{
    type_register_static(&pvrdma_info);
}

type_init(pvrdma_register_types)
