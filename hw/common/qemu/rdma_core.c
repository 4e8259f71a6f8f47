/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qemu/error-report.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "migration/misc.h"
#include "migration/client-options.h"
#include "migration/qemu-file-types.h"
#include "compat.h"
#include "rdma_core.h"

#define RDMA_CORE_MAX_POLL_PAUSE_US 1000

/* What the core asks of its host */

static int64_t rdma_core_now(void *opaque)
{
    return qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
}

static void rdma_core_set_timer(void *opaque, int64_t deadline_ns)
{
    RdmaCore *core = opaque;

    if (deadline_ns == INT64_MAX) {
        timer_del(core->timer);
    } else {
        timer_mod_ns(core->timer, deadline_ns);
    }
}

static bool rdma_core_send_packet(void *opaque, const uint8_t *frame, size_t size)
{
    RdmaCore *core = opaque;

    return rdma_nic_send(&core->nic, frame, size);
}

static void rdma_core_raise_irq(void *opaque, unsigned vector)
{
    RdmaCore *core = opaque;

    core->ops->raise_irq(core, vector);
}

static void rdma_core_set_intx(void *opaque, bool level)
{
    RdmaCore *core = opaque;

    core->ops->set_intx(core, level);
}

static void rdma_core_link_changed(RdmaNic *nic)
{
    RdmaCore *core = container_of(nic, RdmaCore, nic);

    if (core->ops->link_changed) {
        core->ops->link_changed(core);
    }
}

static void rdma_core_mark_dirty(void *opaque, uint64_t gpa, uint64_t size)
{
    RdmaCore *core = opaque;

    rdma_memory_mark_dirty(&core->memory, gpa, size);
}

static bool rdma_core_translate(void *opaque, uint64_t address, bool write,
                                uint64_t *gpa)
{
    RdmaCore *core = opaque;

    return rdma_memory_translate(&core->memory, address, write, gpa);
}

static void rdma_core_nic_info(void *opaque, RdmaNicInfo *info)
{
    RdmaCore *core = opaque;

    if (core->nic.nc) {
        rdma_nic_info(&core->nic, info);
    }
}

static void rdma_core_poll_idle(void *opaque)
{
    RdmaCore *core = opaque;

    rdma_pause_vcpu(&core->pause);
}

static void rdma_core_poll_end(void *opaque)
{
    RdmaCore *core = opaque;

    rdma_pause_end(&core->pause);
}

static void rdma_core_log(void *opaque, int level, const char *message)
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

static const RdmaHostOps rdma_core_host_ops = {
    .now = rdma_core_now,
    .set_timer = rdma_core_set_timer,
    .send_packet = rdma_core_send_packet,
    .raise_irq = rdma_core_raise_irq,
    .set_intx = rdma_core_set_intx,
    .mark_dirty = rdma_core_mark_dirty,
    .nic_info = rdma_core_nic_info,
    .poll_idle = rdma_core_poll_idle,
    .poll_end = rdma_core_poll_end,
    .log = rdma_core_log,
};

static void rdma_core_timer_expired(void *opaque)
{
    RdmaCore *core = opaque;

    rdma_device_timer(core->device);
}

/* Statistics */

typedef struct RdmaCoreVisit {
    Visitor *v;
    Error **errp;
    bool ok;
} RdmaCoreVisit;

static void rdma_core_visit_counter(void *opaque, const char *name,
                                    uint64_t value)
{
    RdmaCoreVisit *visit = opaque;

    visit->ok = visit->ok &&
                visit_type_uint64(visit->v, name, &value, visit->errp);
}

void rdma_core_get_stats(RdmaCore *core, Visitor *v, const char *name,
                         Error **errp)
{
    RdmaCoreVisit visit = { .v = v, .errp = errp, .ok = true };

    if (!core->device) {
        error_setg(errp, "the device is not realized");
        return;
    }
    if (!visit_start_struct(v, name, NULL, 0, errp)) {
        return;
    }
    rdma_device_statistics(core->device, rdma_core_visit_counter, &visit);
    rdma_core_visit_counter(&visit, "card-frames-held", core->nic.held_frames);
    rdma_core_visit_counter(&visit, "card-frames-dropped",
                            core->nic.dropped_frames);
    if (visit.ok) {
        visit_check_struct(v, errp);
    }
    visit_end_struct(v, NULL);
}

/* Stop, start, migration */

static void rdma_core_run_state_changed(void *opaque, bool running,
                                        RunState state)
{
    RdmaCore *core = opaque;

    if (running) {
        rdma_device_start(core->device);
        rdma_nic_started(&core->nic);
    } else {
        rdma_nic_stopped(&core->nic);
        rdma_device_stop(core->device, core->stopped_rnr_nak);
    }
}

/*
 * Both kinds of state are a length and so many bytes. The length has 64 bits; in version 1
 * it had 32.
 */
static void rdma_core_put_bytes(void *opaque, const uint8_t *bytes, size_t size)
{
    QEMUFile *f = opaque;

    qemu_put_be64(f, size);
    qemu_put_buffer(f, bytes, size);
}

typedef bool RdmaCoreTake(RdmaDevice *device, const uint8_t *state, size_t size,
                          char **error);

static int rdma_core_get_bytes(QEMUFile *f, RdmaCore *core,
                               const VMStateField *field, RdmaCoreTake *take)
{
    uint64_t size = field->version_id == 1 ? qemu_get_be32(f) : qemu_get_be64(f);
    g_autofree uint8_t *bytes = NULL;
    char *message = NULL;

    if (size > RDMA_MAX_STATE) {
        error_report("%s: a saved state of %" PRIu64 " bytes cannot be",
                     core->ops->name, size);
        return -EINVAL;
    }
    bytes = g_try_malloc(size);
    if (size && !bytes) {
        error_report("%s: no memory for a saved state of %" PRIu64 " bytes",
                     core->ops->name, size);
        return -ENOMEM;
    }
    if (qemu_get_buffer(f, bytes, size) != size) {
        error_report("%s: the saved state is cut short", core->ops->name);
        return -EIO;
    }
    if (!take(core->device, bytes, size, &message)) {
        error_report("%s: the saved state does not fit: %s", core->ops->name,
                     message);
        free(message);
        return -EINVAL;
    }
    return 0;
}

typedef bool RdmaCoreSave(RdmaDevice *device, RdmaPutState *put, void *opaque,
                          char **error);

/* QEMU goes on with the VM here where a device's state cannot be sent. */
static int rdma_core_save_bytes(QEMUFile *f, RdmaCore *core, RdmaCoreSave *save)
{
    char *message = NULL;

    if (!save(core->device, rdma_core_put_bytes, f, &message)) {
        error_report("%s: the state cannot be saved: %s", core->ops->name,
                     message);
        free(message);
        return -EBUSY;
    }
    return 0;
}

static int rdma_core_put_state(QEMUFile *f, void *pv, size_t size,
                               const VMStateField *field, JSONWriter *vmdesc)
{
    return rdma_core_save_bytes(f, pv, rdma_device_save);
}

static int rdma_core_get_state(QEMUFile *f, void *pv, size_t size,
                               const VMStateField *field)
{
    return rdma_core_get_bytes(f, pv, field, rdma_device_load);
}

/* Before anything is sent: what cannot come along is told. */
static int rdma_core_check_migration(NotifierWithReturn *notifier,
                                     MigrationEvent *event, Error **errp)
{
    RdmaCore *core = container_of(notifier, RdmaCore, migration_notifier);
    char *message = NULL;

    if (event->type != MIG_EVENT_PRECOPY_SETUP) {
        return 0;
    }
    /* Regions are registered before the VM starts, with all their memory. */
    if (migrate_postcopy_ram()) {
        error_setg(errp, "%s: backend=verbs does not migrate by post-copy",
                   core->ops->name);
        return -1;
    }
    /* The host's device writes to memory past QEMU's write protection. */
    if (migrate_background_snapshot()) {
        error_setg(errp, "%s: backend=verbs does not make background "
                   "snapshots", core->ops->name);
        return -1;
    }
    if (!rdma_device_can_migrate(core->device, &message)) {
        error_setg(errp, "%s: %s", core->ops->name, message);
        free(message);
        return -1;
    }
    return 0;
}

/* The VM has stopped, paused before or not; memory goes out for the last time. */
static int rdma_core_precopy(NotifierWithReturn *notifier, void *data,
                             Error **errp)
{
    RdmaCore *core = container_of(notifier, RdmaCore, precopy_notifier);
    PrecopyNotifyData *precopy = data;

    if (precopy->reason == PRECOPY_NOTIFY_COMPLETE) {
        rdma_device_finish_migration(core->device);
    }
    return 0;
}

static int rdma_core_put_config(QEMUFile *f, void *pv, size_t size,
                                const VMStateField *field, JSONWriter *vmdesc)
{
    RdmaCore *core = pv;
    char *message = NULL;

    /* A snapshot comes without asking. */
    if (!rdma_device_can_migrate(core->device, &message)) {
        error_report("%s: %s", core->ops->name, message);
        free(message);
        return -EBUSY;
    }
    return rdma_core_save_bytes(f, core, rdma_device_save_config);
}

static int rdma_core_get_config(QEMUFile *f, void *pv, size_t size,
                                const VMStateField *field)
{
    return rdma_core_get_bytes(f, pv, field, rdma_device_check_config);
}

const VMStateInfo rdma_core_state_info = {
    .name = "RDMA device state",
    .get = rdma_core_get_state,
    .put = rdma_core_put_state,
};

const VMStateInfo rdma_core_config_info = {
    .name = "RDMA device configuration",
    .get = rdma_core_get_config,
    .put = rdma_core_put_config,
};

bool rdma_core_is_v1(void *opaque, int version_id)
{
    return version_id == 1;
}

bool rdma_core_is_v2(void *opaque, int version_id)
{
    return version_id == 2;
}

/* The device */

void rdma_core_default_properties(RdmaCore *core)
{
#define DEFAULT_STRING(member, value) \
    core->member = core->member ?: g_strdup(value);
#define DEFAULT_BOOL(member, value)
#define DEFAULT_UINT16(member, value)
#define DEFAULT_UINT32(member, value)
#define DEFAULT_INT32(member, value)
#define X(kind, name, member, value, ...) DEFAULT_##kind(member, value)
    RDMA_CORE_PROPERTIES(X)
#undef X
}

void rdma_core_describe_properties(ObjectClass *klass)
{
#define X(kind, name, member, value, description, ...) \
    object_class_property_set_description(klass, name, description);
    RDMA_CORE_PROPERTIES(X)
#undef X
}

void rdma_core_describe_number(ObjectClass *klass, const char *name,
                               uint64_t least, uint64_t most,
                               bool power_of_two, const char *description)
{
    g_autofree char *text = g_strdup_printf(
        "%s; %s%" PRIu64 " to %" PRIu64, description,
        power_of_two ? "a power of two, " : "", least, most);

    object_class_property_set_description(klass, name, text);
}

bool rdma_core_choose(const char *property, const char *value,
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

/* The backend as the properties say it. */
static bool rdma_core_backend_config(RdmaCore *core, RdmaBackendConfig *config,
                                     Error **errp)
{
    static const char *const policies[] = { "match", "add", NULL };
    static const char *const paging[] = {
        [RDMA_ODP_AUTO] = "auto", [RDMA_ODP_ON] = "on", [RDMA_ODP_OFF] = "off",
        NULL
    };
    static const char *const on_migrate[] = { "refuse", "error", NULL };
    int policy, paging_mode, lose;

    if (!rdma_core_choose("gid-policy", core->gid_policy, policies, &policy,
                          errp) ||
        !rdma_core_choose("odp", core->odp, paging, &paging_mode, errp) ||
        !rdma_core_choose("on-migrate", core->on_migrate, on_migrate, &lose,
                          errp)) {
        return false;
    }
    *config = (RdmaBackendConfig) {
        .name = core->backend,
        .port = {
            .ibdev = core->ibdev,
            .ibport = core->ibport,
            .gid_index = core->gid_index,
            .add_addresses = policy == 1,
            .gid_allow = core->gid_allow,
            .odp = paging_mode,
            .peer_port = core->peer_port,
            .lose_on_migrate = lose == 1,
            .cm_mux = core->cm_mux,
        },
    };
    return true;
}

static void rdma_core_host_events(void *opaque)
{
    RdmaCore *core = opaque;

    rdma_device_events(core->device);
}

static bool rdma_core_is_on_host(RdmaCore *core)
{
    return !strcmp(core->backend, "verbs");
}

static bool rdma_core_create(RdmaCore *core, Error **errp)
{
    RdmaBackendConfig config;
    char *message = NULL;
    int fd;

    if (core->poll_pause_us > RDMA_CORE_MAX_POLL_PAUSE_US) {
        error_setg(errp, "property 'poll-pause' is %" PRIu32 ": it must be "
                   "0 to %d microseconds", core->poll_pause_us,
                   RDMA_CORE_MAX_POLL_PAUSE_US);
        return false;
    }
    core->pause.owner = OBJECT(core->pci_dev);
    core->pause.max_ns = core->poll_pause_us * SCALE_US;
    if (!rdma_core_backend_config(core, &config, errp)) {
        return false;
    }
    /* The guest's memory is mapped once more for the host's device. */
    if (rdma_core_is_on_host(core) &&
        (!rdma_memory_check_direct(core->pci_dev, errp) ||
         !rdma_memory_check_shared(errp))) {
        return false;
    }
    core->device = core->ops->create(core, &config, &rdma_core_host_ops, core,
                                     &message);
    if (!core->device) {
        error_setg(errp, "%s", message);
        free(message);
        return false;
    }
    core->timer = timer_new_ns(QEMU_CLOCK_VIRTUAL, rdma_core_timer_expired,
                               core);
    /* A host's device is behind it. */
    fd = rdma_device_event_fd(core->device);
    if (fd >= 0) {
        migration_add_notifier(&core->migration_notifier,
                               rdma_core_check_migration);
        core->precopy_notifier.notify = rdma_core_precopy;
        precopy_add_notifier(&core->precopy_notifier);
        qemu_set_fd_handler(fd, rdma_core_host_events, NULL, core);
    }
    return true;
}

static void rdma_core_destroy(RdmaCore *core)
{
    int fd = rdma_device_event_fd(core->device);

    if (fd >= 0) {
        qemu_set_fd_handler(fd, NULL, NULL, NULL);
        migration_remove_notifier(&core->migration_notifier);
        precopy_remove_notifier(&core->precopy_notifier);
    }
    timer_free(core->timer);
    core->timer = NULL;
    rdma_device_destroy(core->device);
    core->device = NULL;
}

bool rdma_core_realize(RdmaCore *core, PCIDevice *pci_dev,
                       const RdmaCoreOps *ops, Error **errp)
{
    core->pci_dev = pci_dev;
    core->ops = ops;
    if (!rdma_core_create(core, errp)) {
        return false;
    }
    core->nic.link_changed = rdma_core_link_changed;
    if (!rdma_nic_attach(&core->nic, pci_dev, core->device, errp)) {
        rdma_core_destroy(core);
        return false;
    }
    return true;
}

void rdma_core_start(RdmaCore *core)
{
    DeviceState *dev = DEVICE(core->pci_dev);

    rdma_memory_start(&core->memory, pci_get_address_space(core->pci_dev),
                      core->device,
                      rdma_core_is_on_host(core) ? NULL : rdma_core_translate);
    if (!core->nic.running) {
        rdma_device_stop(core->device, core->stopped_rnr_nak);
    }
    core->run_state = qdev_add_vm_change_state_handler(
        dev, rdma_core_run_state_changed, core);
    vmstate_register_any(VMSTATE_IF(dev), core->ops->config_vmsd, core);
}

void rdma_core_unrealize(RdmaCore *core)
{
    bool started = core->run_state != NULL;

    if (started) {
        vmstate_unregister(VMSTATE_IF(DEVICE(core->pci_dev)),
                           core->ops->config_vmsd, core);
        qemu_del_vm_change_state_handler(core->run_state);
        core->run_state = NULL;
    }
    rdma_nic_detach(&core->nic);
    if (started) {
        rdma_memory_stop(&core->memory);
    }
    rdma_core_destroy(core);
}
