/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/guest-random.h"
#include "qemu/iov.h"
#include "hw/virtio/virtio-bus.h"
#include "migration/qemu-file-types.h"
#include "standard-headers/linux/virtio_ids.h"
#include "virtio_rdma_abi.h"
#include "virtio_rdma_vdev.h"

#define VIRTIO_RDMA_CONTROL_QUEUE_SIZE 64
#define VIRTIO_RDMA_EVENT_QUEUE_SIZE 64
#define VIRTIO_RDMA_COMPLETION_QUEUE_SIZE 256

/* A request that has been taken from the control queue. */
struct VirtioRdmaCommand {
    VirtQueueElement elem;
    uint64_t tag;
    QTAILQ_ENTRY(VirtioRdmaCommand) next;
};

static unsigned virtio_rdma_queues(VirtioRdma *s)
{
    return VIRTIO_RDMA_VQ_COMPLETION + s->config.vectors;
}

static int virtio_rdma_queue_size(unsigned index)
{
    switch (index) {
    case VIRTIO_RDMA_VQ_CONTROL:
        return VIRTIO_RDMA_CONTROL_QUEUE_SIZE;
    case VIRTIO_RDMA_VQ_EVENT:
        return VIRTIO_RDMA_EVENT_QUEUE_SIZE;
    default:
        return VIRTIO_RDMA_COMPLETION_QUEUE_SIZE;
    }
}

/* QEMU makes all queues, and those of a device that has been reset, of one size. */
static void virtio_rdma_set_queue_sizes(VirtioRdma *s)
{
    for (unsigned i = 0; i < virtio_rdma_queues(s); i++) {
        virtio_queue_set_num(VIRTIO_DEVICE(s), i, virtio_rdma_queue_size(i));
    }
}

/* Whether buffers may be used: the driver is ready, the device realized, the VM runs. */
static bool virtio_rdma_is_live(VirtioRdma *s)
{
    /* [virtio-rdma MIG-1] */
    return s->core.device && VIRTIO_DEVICE(s)->vm_running;
}

/*
 * Calls serve() for a virtqueue, until nothing has come for it meanwhile. What the device
 * does of it may lead back to the same queue, and to the device's end (rdma_device.h).
 */
typedef void VirtioRdmaServe(VirtioRdma *s, VirtQueue *vq);

static void virtio_rdma_serve(VirtioRdma *s, unsigned index, VirtioRdmaServe *serve)
{
    uint32_t bit = 1u << index;
    Object *owner;

    if (s->serving & bit) {
        s->serve_again |= bit;
        return;
    }
    owner = OBJECT(s->core.pci_dev);
    object_ref(owner);
    s->serving |= bit;
    do {
        s->serve_again &= ~bit;
        if (virtio_rdma_is_live(s)) {
            serve(s, virtio_get_queue(VIRTIO_DEVICE(s), index));
        }
    } while (s->serve_again & bit);
    s->serving &= ~bit;
    object_unref(owner);
}

/* Commands */

static void virtio_rdma_answer(VirtQueue *vq, VirtioRdmaCommand *command, const uint8_t *reply,
                               size_t size)
{
    /* [virtio-rdma CTL-7] */
    size = iov_from_buf(command->elem.in_sg, command->elem.in_num, 0, reply, size);
    virtqueue_push(vq, &command->elem, size);
    g_free(command);
}

/* Whether it has been answered. */
static bool virtio_rdma_carry_out(VirtioRdma *s, VirtQueue *vq, VirtioRdmaCommand *command)
{
    VirtQueueElement *elem = &command->elem;
    size_t size = MIN(iov_size(elem->out_sg, elem->out_num),
                      virtio_rdma_max_request(&s->config) + 1);
    size_t room = MIN(iov_size(elem->in_sg, elem->in_num), RDMA_MAX_REPLY);
    g_autofree uint8_t *request = g_malloc(size);
    uint8_t reply[RDMA_MAX_REPLY];
    int64_t written;

    iov_to_buf(elem->out_sg, elem->out_num, 0, request, size);
    command->tag = ++s->last_tag;
    /* In the list already: a reset that comes of the command takes it from there. */
    QTAILQ_INSERT_TAIL(&s->deferred, command, next);
    written = rdma_device_command(s->core.device, command->tag, request, size, reply, room);
    if (written < 0 || QTAILQ_LAST(&s->deferred) != command) {
        return false;
    }
    QTAILQ_REMOVE(&s->deferred, command, next);
    virtio_rdma_answer(vq, command, reply, written);
    return true;
}

static void virtio_rdma_serve_control(VirtioRdma *s, VirtQueue *vq)
{
    VirtioRdmaCommand *command;
    bool answered = false;

    /* [virtio-rdma CTL-4] */
    while (s->core.device && (command = virtqueue_pop(vq, sizeof(*command)))) {
        answered |= virtio_rdma_carry_out(s, vq, command);
    }
    if (answered && s->core.device) {
        virtio_notify(VIRTIO_DEVICE(s), vq);
    }
}

static void virtio_rdma_serve_replies(VirtioRdma *s)
{
    VirtQueue *vq = virtio_get_queue(VIRTIO_DEVICE(s), VIRTIO_RDMA_VQ_CONTROL);
    uint8_t reply[RDMA_MAX_REPLY];
    VirtioRdmaCommand *command;
    bool answered = false;
    uint64_t tag;
    size_t size;

    while (s->core.device &&
           (size = rdma_device_take_reply(s->core.device, &tag, reply)) > 0) {
        QTAILQ_FOREACH(command, &s->deferred, next) {
            if (command->tag == tag) {
                QTAILQ_REMOVE(&s->deferred, command, next);
                virtio_rdma_answer(vq, command, reply, size);
                answered = true;
                break;
            }
        }
    }
    if (answered && s->core.device) {
        virtio_notify(VIRTIO_DEVICE(s), vq);
    }
}

/* Their buffers belong to the driver again. */
static void virtio_rdma_forget_commands(VirtioRdma *s)
{
    VirtQueue *vq = virtio_get_queue(VIRTIO_DEVICE(s), VIRTIO_RDMA_VQ_CONTROL);
    VirtioRdmaCommand *command;

    while ((command = QTAILQ_FIRST(&s->deferred))) {
        QTAILQ_REMOVE(&s->deferred, command, next);
        virtqueue_detach_element(vq, &command->elem, 0);
        g_free(command);
    }
}

/* Events */

/* The driver is not asked for notifications as long as it has buffers in the queue. */
/* [virtio-rdma EVT-6] */
static void virtio_rdma_ask_for_buffers(VirtQueue *vq, bool ask)
{
    if (virtio_queue_get_notification(vq) != ask) {
        virtio_queue_set_notification(vq, ask);
    }
}

static VirtQueueElement *virtio_rdma_pop_buffer(VirtQueue *vq)
{
    VirtQueueElement *elem = virtqueue_pop(vq, sizeof(*elem));

    if (!elem) {
        virtio_rdma_ask_for_buffers(vq, true);
        elem = virtqueue_pop(vq, sizeof(*elem));
    }
    if (elem) {
        virtio_rdma_ask_for_buffers(vq, false);
    }
    return elem;
}

static void virtio_rdma_serve_events(VirtioRdma *s, VirtQueue *vq)
{
    unsigned index = virtio_get_queue_index(vq);
    size_t least = index == VIRTIO_RDMA_VQ_EVENT ? sizeof(struct virtio_rdma_event)
                                                 : sizeof(struct virtio_rdma_completion_event);
    uint8_t event[RDMA_MAX_REPLY];
    VirtQueueElement *elem;
    bool used = false;

    while (s->core.device && (elem = virtio_rdma_pop_buffer(vq))) {
        size_t size = 0;

        /* [virtio-rdma EVT-5] [virtio-rdma EVT-9] */
        if (iov_size(elem->in_sg, elem->in_num) >= least) {
            size = rdma_device_take_event(s->core.device, index, event);
            if (!s->core.device) {
                g_free(elem);
                return;
            }
            if (size == 0) {
                virtqueue_unpop(vq, elem, 0);
                g_free(elem);
                break;
            }
            size = iov_from_buf(elem->in_sg, elem->in_num, 0, event, size);
        }
        virtqueue_push(vq, elem, size);
        g_free(elem);
        used = true;
    }
    if (used && s->core.device) {
        virtio_notify(VIRTIO_DEVICE(s), vq);
    }
}

static void virtio_rdma_handle_control(VirtIODevice *vdev, VirtQueue *vq)
{
    virtio_rdma_serve(VIRTIO_RDMA(vdev), VIRTIO_RDMA_VQ_CONTROL, virtio_rdma_serve_control);
}

static void virtio_rdma_handle_events(VirtIODevice *vdev, VirtQueue *vq)
{
    virtio_rdma_serve(VIRTIO_RDMA(vdev), virtio_get_queue_index(vq), virtio_rdma_serve_events);
}

/* What the core asks of its host */

static RdmaDevice *virtio_rdma_create(RdmaCore *core, const RdmaBackendConfig *backend,
                                      const RdmaHostOps *host, void *opaque, char **message)
{
    VirtioRdma *s = container_of(core, VirtioRdma, core);

    qemu_guest_getrandom_nofail(&s->config.number_seed, sizeof(s->config.number_seed));
    return virtio_rdma_device_create(&s->config, backend, host, opaque, message);
}

/* The vector is a virtqueue, for which there is something. */
static void virtio_rdma_raise_irq(RdmaCore *core, unsigned vector)
{
    VirtioRdma *s = container_of(core, VirtioRdma, core);
    Object *owner = OBJECT(core->pci_dev);

    if (vector == VIRTIO_RDMA_VQ_CONTROL) {
        object_ref(owner);
        virtio_rdma_serve_replies(s);
        object_unref(owner);
    } else if (vector < virtio_rdma_queues(s)) {
        virtio_rdma_serve(s, vector, virtio_rdma_serve_events);
    }
}

static void virtio_rdma_set_intx(RdmaCore *core, bool level)
{
    /* The transport has the pin. */
}

static void virtio_rdma_link_changed(RdmaCore *core)
{
    /* [virtio-rdma DEV-10] */
    virtio_notify_config(VIRTIO_DEVICE(container_of(core, VirtioRdma, core)));
}

/* Saved states */

/* A number, and of each command its tag and its buffer, as QEMU has it. */
static int virtio_rdma_put_deferred(QEMUFile *f, void *pv, size_t size,
                                    const VMStateField *field, JSONWriter *vmdesc)
{
    VirtioRdma *s = container_of(pv, VirtioRdma, deferred);
    VirtioRdmaCommand *command;
    uint32_t count = 0;

    QTAILQ_FOREACH(command, &s->deferred, next) {
        count++;
    }
    qemu_put_be32(f, count);
    QTAILQ_FOREACH(command, &s->deferred, next) {
        qemu_put_be64(f, command->tag);
        qemu_put_virtqueue_element(VIRTIO_DEVICE(s), f, &command->elem);
    }
    return 0;
}

static int virtio_rdma_get_deferred(QEMUFile *f, void *pv, size_t size, const VMStateField *field)
{
    VirtioRdma *s = container_of(pv, VirtioRdma, deferred);
    uint32_t count = qemu_get_be32(f);

    if (count > VIRTQUEUE_MAX_SIZE) {
        error_report(TYPE_VIRTIO_RDMA ": %" PRIu32 " commands cannot be without a reply", count);
        return -EINVAL;
    }
    while (count-- > 0) {
        uint64_t tag = qemu_get_be64(f);
        VirtioRdmaCommand *command =
            qemu_get_virtqueue_element(VIRTIO_DEVICE(s), f, sizeof(*command));

        command->tag = tag;
        QTAILQ_INSERT_TAIL(&s->deferred, command, next);
    }
    return 0;
}

static const VMStateInfo virtio_rdma_deferred_info = {
    .name = "commands whose reply comes later",
    .get = virtio_rdma_get_deferred,
    .put = virtio_rdma_put_deferred,
};

static const VMStateDescription vmstate_virtio_rdma = {
    .name = "virtio-rdma",
    .version_id = 2,
    .minimum_version_id = 2,
    .fields = (const VMStateField[]) {
        VMSTATE_VIRTIO_DEVICE,
        VMSTATE_RDMA_CORE(core, VirtioRdma),
        VMSTATE_UINT64(last_tag, VirtioRdma),
        {
            .name = "deferred",
            .info = &virtio_rdma_deferred_info,
            .flags = VMS_SINGLE,
            .offset = offsetof(VirtioRdma, deferred),
        },
        VMSTATE_END_OF_LIST()
    },
};

/* As pvrdma's: sent while the VM still runs at the source. */
static const VMStateDescription vmstate_virtio_rdma_config = {
    .name = "virtio-rdma-config",
    .version_id = 2,
    .minimum_version_id = 2,
    .early_setup = true,
    .fields = (const VMStateField[]) {
        VMSTATE_RDMA_CONFIG(),
        VMSTATE_END_OF_LIST()
    },
};

static const RdmaCoreOps virtio_rdma_core_ops = {
    .name = "virtio-rdma",
    .create = virtio_rdma_create,
    .raise_irq = virtio_rdma_raise_irq,
    .set_intx = virtio_rdma_set_intx,
    .link_changed = virtio_rdma_link_changed,
    .config_vmsd = &vmstate_virtio_rdma_config,
};

/* The transport's side */

/* What a device of this kind always offers, and what it never does. */
static void virtio_rdma_fix_features(VirtIODevice *vdev)
{
    /* [virtio-rdma DEV-3] */
    virtio_add_feature(&vdev->host_features, VIRTIO_F_IOMMU_PLATFORM);
    /* [virtio-rdma DEV-5] */
    virtio_clear_feature(&vdev->host_features, VIRTIO_F_IN_ORDER);
    virtio_clear_feature(&vdev->host_features, VIRTIO_F_NOTIFICATION_DATA);
}

static uint64_t virtio_rdma_get_features(VirtIODevice *vdev, uint64_t features, Error **errp)
{
    return features | rdma_device_offered_features(VIRTIO_RDMA(vdev)->core.device);
}

static void virtio_rdma_get_config(VirtIODevice *vdev, uint8_t *bytes)
{
    VirtioRdma *s = VIRTIO_RDMA(vdev);
    struct virtio_rdma_config config = {
        .status = cpu_to_le16(rdma_nic_link_is_up(&s->core.nic) ? VIRTIO_RDMA_S_LINK_UP : 0),
        .num_completion_queues = cpu_to_le32(s->config.vectors),
    };

    /* [virtio-rdma DEV-11] */
    memcpy(config.mac, s->core.nic.mac, sizeof(config.mac));
    memcpy(bytes, &config, sizeof(config));
}

/* Which event queues there are, without the one that is being reset. */
static void virtio_rdma_tell_event_queues(VirtioRdma *s, unsigned without)
{
    uint32_t queues = 0;

    for (unsigned i = VIRTIO_RDMA_VQ_EVENT; i < virtio_rdma_queues(s); i++) {
        if (i != without && virtio_queue_enabled(VIRTIO_DEVICE(s), i)) {
            queues |= 1u << i;
        }
    }
    rdma_device_set_event_queues(s->core.device, queues);
}

static void virtio_rdma_reset(VirtIODevice *vdev)
{
    VirtioRdma *s = VIRTIO_RDMA(vdev);

    virtio_rdma_forget_commands(s);
    rdma_device_reset(s->core.device);
}

/* [virtio-rdma DEV-20] */
static void virtio_rdma_queue_reset(VirtIODevice *vdev, uint32_t index)
{
    VirtioRdma *s = VIRTIO_RDMA(vdev);

    if (index == VIRTIO_RDMA_VQ_CONTROL) {
        virtio_rdma_forget_commands(s);
    } else if (vdev->status & VIRTIO_CONFIG_S_DRIVER_OK) {
        virtio_rdma_tell_event_queues(s, index);
    }
}

static void virtio_rdma_queue_enable(VirtIODevice *vdev, uint32_t index)
{
    if (vdev->status & VIRTIO_CONFIG_S_DRIVER_OK) {
        virtio_rdma_tell_event_queues(VIRTIO_RDMA(vdev), VIRTIO_RDMA_VQ_CONTROL);
    }
}

/*
 * The driver is ready, or the VM runs again: buffers may have been added that nobody has
 * been notified of.
 */
static void virtio_rdma_look_at_queues(VirtioRdma *s)
{
    unsigned queues = virtio_rdma_queues(s);
    Object *owner = OBJECT(s->core.pci_dev);

    object_ref(owner);
    for (unsigned i = 0; i < queues && s->core.device; i++) {
        virtio_rdma_serve(s, i, i == VIRTIO_RDMA_VQ_CONTROL ? virtio_rdma_serve_control
                                                           : virtio_rdma_serve_events);
    }
    object_unref(owner);
}

/* Also called with the present status, where the VM runs or stops. */
static void virtio_rdma_set_status(VirtIODevice *vdev, uint8_t status)
{
    VirtioRdma *s = VIRTIO_RDMA(vdev);
    uint8_t set = status & ~vdev->status;
    uint8_t cleared = vdev->status & ~status;

    if (set & VIRTIO_CONFIG_S_ACKNOWLEDGE) {
        virtio_rdma_set_queue_sizes(s);
    }
    if ((set & VIRTIO_CONFIG_S_FEATURES_OK) && !virtio_vdev_has_feature(vdev, VIRTIO_F_VERSION_1)) {
        virtio_error(vdev, "virtio-rdma: the driver has not accepted VIRTIO_F_VERSION_1");
    }
    /*
     * Bus mastering is off: the driver is done with the device, or another kernel takes
     * the memory of its queues over (kexec).
     */
    if (cleared & VIRTIO_CONFIG_S_DRIVER_OK) {
        virtio_rdma_reset(vdev);
    }
    if (set & VIRTIO_CONFIG_S_DRIVER_OK) {
        rdma_device_set_features(s->core.device, vdev->guest_features);
        virtio_rdma_tell_event_queues(s, VIRTIO_RDMA_VQ_CONTROL);
    }
    if ((status & VIRTIO_CONFIG_S_DRIVER_OK) && vdev->vm_running) {
        virtio_rdma_look_at_queues(s);
    }
}

/* Doorbells */

/* [virtio-rdma DEV-15] */
static uint64_t virtio_rdma_doorbell_read(void *opaque, hwaddr addr, unsigned size)
{
    return 0;
}

static void virtio_rdma_doorbell_write(void *opaque, hwaddr addr, uint64_t value, unsigned size)
{
    VirtioRdma *s = opaque;

    /* A CPU may come here with what it found before the device was unplugged. */
    if (s->core.device) {
        rdma_device_bar_write(s->core.device, VIRTIO_RDMA_DOORBELLS, addr, value, size);
    }
}

static const MemoryRegionOps virtio_rdma_doorbell_ops = {
    .read = virtio_rdma_doorbell_read,
    .write = virtio_rdma_doorbell_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 4, .max_access_size = 4 },
    .impl = { .min_access_size = 4, .max_access_size = 4 },
};

/* The device */

static void virtio_rdma_realize(DeviceState *dev, Error **errp)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VirtioRdma *s = VIRTIO_RDMA(dev);
    DeviceState *transport = qdev_get_parent_bus(dev)->parent;

    if (!object_dynamic_cast(OBJECT(transport), TYPE_PCI_DEVICE)) {
        error_setg(errp, TYPE_VIRTIO_RDMA " needs PCI: use virtio-rdma-pci");
        return;
    }
    if (!rdma_core_realize(&s->core, PCI_DEVICE(transport), &virtio_rdma_core_ops, errp)) {
        return;
    }
    /* QEMU has a name for the numbers before this one alone. */
    virtio_init(vdev, VIRTIO_ID_NET, sizeof(struct virtio_rdma_config));
    vdev->device_id = VIRTIO_RDMA_ID;
    vdev->name = "virtio-rdma";
    virtio_rdma_fix_features(vdev);
    QTAILQ_INIT(&s->deferred);
    for (unsigned i = 0; i < virtio_rdma_queues(s); i++) {
        virtio_add_queue(vdev, virtio_rdma_queue_size(i),
                         i == VIRTIO_RDMA_VQ_CONTROL ? virtio_rdma_handle_control
                                                     : virtio_rdma_handle_events);
    }
    virtio_rdma_set_queue_sizes(s);
    memory_region_init_io(&s->doorbells, OBJECT(transport), &virtio_rdma_doorbell_ops, s,
                          "virtio-rdma-doorbells",
                          (uint64_t)s->config.max_contexts * VIRTIO_RDMA_PAGE_SIZE);
    rdma_core_start(&s->core);
}

static void virtio_rdma_unrealize(DeviceState *dev)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VirtioRdma *s = VIRTIO_RDMA(dev);

    virtio_rdma_forget_commands(s);
    rdma_core_unrealize(&s->core);
    for (unsigned i = 0; i < virtio_rdma_queues(s); i++) {
        virtio_del_queue(vdev, i);
    }
    virtio_cleanup(vdev);
}

static const Property virtio_rdma_properties[] = {
    DEFINE_RDMA_CORE_PROPERTIES(VirtioRdma, core)
#define VIRTIO_RDMA_PROPERTY(type, member, name, value, ...) \
    VIRTIO_RDMA_PROPERTY_##type(name, member, value),
#define VIRTIO_RDMA_PROPERTY_uint32_t(name, member, value) \
    DEFINE_PROP_UINT32(name, VirtioRdma, config.member, value)
#define VIRTIO_RDMA_PROPERTY_uint64_t(name, member, value) \
    DEFINE_PROP_UINT64(name, VirtioRdma, config.member, value)
    VIRTIO_RDMA_PROPERTIES(VIRTIO_RDMA_PROPERTY)
#undef VIRTIO_RDMA_PROPERTY
    RDMA_PROPERTIES_END
};

/* For -device virtio-rdma-pci,help. */
static void virtio_rdma_describe_properties(ObjectClass *klass)
{
    rdma_core_describe_properties(klass);
#define VIRTIO_RDMA_DESCRIBE(type, member, name, value, least, most, power_of_two, description) \
    rdma_core_describe_number(klass, name, least, most, power_of_two, description);
    VIRTIO_RDMA_PROPERTIES(VIRTIO_RDMA_DESCRIBE)
#undef VIRTIO_RDMA_DESCRIBE
}

static void virtio_rdma_get_stats(Object *obj, Visitor *v, const char *name, void *opaque,
                                  Error **errp)
{
    rdma_core_get_stats(&VIRTIO_RDMA(obj)->core, v, name, errp);
}

static void virtio_rdma_instance_post_init(Object *obj)
{
    rdma_core_default_properties(&VIRTIO_RDMA(obj)->core);
}

static void virtio_rdma_class_init(ObjectClass *klass, RdmaClassData *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_CLASS(klass);

    vdc->realize = virtio_rdma_realize;
    vdc->unrealize = virtio_rdma_unrealize;
    vdc->get_features = virtio_rdma_get_features;
    vdc->get_config = virtio_rdma_get_config;
    vdc->reset = virtio_rdma_reset;
    vdc->set_status = virtio_rdma_set_status;
    vdc->queue_reset = virtio_rdma_queue_reset;
    vdc->queue_enable = virtio_rdma_queue_enable;
    dc->vmsd = &vmstate_virtio_rdma;
    dc->desc = "virtio RDMA device (RoCE)";
    device_class_set_props(dc, virtio_rdma_properties);
    virtio_rdma_describe_properties(klass);
    set_bit(DEVICE_CATEGORY_NETWORK, dc->categories);

    object_class_property_add(klass, "stats", "VirtioRdmaStats", virtio_rdma_get_stats,
                              NULL, NULL, NULL);
    object_class_property_set_description(klass, "stats", RDMA_CORE_STATS_DESCRIPTION);
}

const TypeInfo virtio_rdma_type = {
    .name = TYPE_VIRTIO_RDMA,
    .parent = TYPE_VIRTIO_DEVICE,
    .instance_size = sizeof(VirtioRdma),
    .instance_post_init = virtio_rdma_instance_post_init,
    .class_init = virtio_rdma_class_init,
};
