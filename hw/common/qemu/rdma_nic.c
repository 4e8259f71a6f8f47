/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include <sched.h>
#include <sys/syscall.h>
#include "qapi/error.h"
#include "block/aio.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qom/object.h"
#include "hw/net/vmxnet3_defs.h"
#include "hw/pci/pci.h"
#include "net/vhost_net.h"
#include "compat.h"
#include "rdma_nic.h"

#define TYPE_FILTER_RDMA "filter-rdma"
OBJECT_DECLARE_SIMPLE_TYPE(FilterRdma, FILTER_RDMA)

struct FilterRdma {
    NetFilterState parent_obj;
    RdmaNic *nic;
};

/* Packets are being taken, for all devices. */
static bool rdma_nic_draining;

static QLIST_HEAD(, RdmaNic) rdma_nics = QLIST_HEAD_INITIALIZER(rdma_nics);

static RdmaNic *rdma_nic_of(NetClientState *nc)
{
    RdmaNic *nic;

    QLIST_FOREACH(nic, &rdma_nics, next) {
        if (nic->nc == nc) {
            return nic;
        }
    }
    return NULL;
}

/* Frames */

/* Bytes of frames that wait for a stopped VM's card: the newest ones. */
#define RDMA_MAX_HELD_BYTES (1 * MiB)

struct RdmaHeldFrame {
    QTAILQ_ENTRY(RdmaHeldFrame) next;
    unsigned flags;
    size_t size;
    uint8_t bytes[];
};

static RdmaHeldFrame *rdma_nic_take_held(RdmaNic *nic)
{
    RdmaHeldFrame *frame = QTAILQ_FIRST(&nic->held);

    if (frame) {
        QTAILQ_REMOVE(&nic->held, frame, next);
        nic->held_bytes -= frame->size;
        nic->held_frames--;
    }
    return frame;
}

static void rdma_nic_drop_held(RdmaNic *nic, size_t max_bytes)
{
    while (nic->held_bytes > max_bytes) {
        g_free(rdma_nic_take_held(nic));
        nic->dropped_frames++;
    }
}

/*
 * A stopped VM's card takes no frames. QEMU would stop to read the network when
 * one waits for it, but the RDMA device has to answer in that time. So frames
 * wait here. A destination that waits for its VM takes none: the source, which
 * still runs, gets them.
 */
static void rdma_nic_hold(RdmaNic *nic, unsigned flags,
                          const struct iovec *iov, int iovcnt, size_t size)
{
    RdmaHeldFrame *frame;

    if (runstate_check(RUN_STATE_INMIGRATE)) {
        return;
    }
    frame = g_malloc(sizeof(*frame) + size);
    frame->flags = flags;
    frame->size = size;
    iov_to_buf(iov, iovcnt, 0, frame->bytes, size);
    QTAILQ_INSERT_TAIL(&nic->held, frame, next);
    nic->held_bytes += size;
    nic->held_frames++;
    rdma_nic_drop_held(nic, RDMA_MAX_HELD_BYTES);
}

/*
 * What does not go to the card now; false: it goes there. QEMU's own queue
 * takes no frames for a guest that sleeps either, and reads the network no more;
 * vmxnet3 does not tell it that the guest is awake. So such frames are dropped, as
 * a card without power does; and so are those for a virtio-net card without a driver, for
 * which that queue would wait and the RDMA device with it.
 */
static bool rdma_nic_keep_from_card(RdmaNic *nic, unsigned flags,
                                    const struct iovec *iov, int iovcnt,
                                    size_t size)
{
    if (!nic->running) {
        rdma_nic_hold(nic, flags, iov, iovcnt, size);
        return true;
    }
    if (runstate_check(RUN_STATE_SUSPENDED) ||
        (g_str_has_prefix(nic->nc->model, "virtio-net") &&
         !nic->nc->info->can_receive(nic->nc))) {
        nic->dropped_frames++;
        return true;
    }
    return false;
}

void rdma_nic_stopped(RdmaNic *nic)
{
    nic->running = false;
}

void rdma_nic_started(RdmaNic *nic)
{
    Object *owner = OBJECT(nic->pci_dev);
    RdmaHeldFrame *frame;

    nic->running = true;
    if (runstate_check(RUN_STATE_SUSPENDED)) {
        rdma_nic_drop_held(nic, 0);
    }
    /* A frame may lead to the device's end, or stop the VM. */
    object_ref(owner);
    while (nic->running && nic->nc && nic->filter &&
           (frame = rdma_nic_take_held(nic))) {
        struct iovec iov = {
            .iov_base = frame->bytes, .iov_len = frame->size,
        };

        qemu_netfilter_pass_to_next(nic->filter->netdev, frame->flags, &iov, 1,
                                    nic->filter);
        g_free(frame);
    }
    object_unref(owner);
}

static ssize_t filter_rdma_receive_iov(NetFilterState *nf,
                                       NetClientState *sender, unsigned flags,
                                       const struct iovec *iov, int iovcnt,
                                       NetPacketSent *sent_cb)
{
    FilterRdma *f = FILTER_RDMA(nf);
    size_t size = iov_size(iov, iovcnt);
    size_t skip = flags & QEMU_NET_PACKET_FLAG_RAW ?
                  0 : qemu_get_vnet_hdr_len(nf->netdev);
    g_autofree uint8_t *linear = NULL;
    const uint8_t *frame;
    bool taken;

    if (!f->nic || f->nic->nc->link_down || size <= skip) {
        return 0;
    }
    /*
     * An interrupt may lead to the device's end (rdma_device.h), and to the
     * filter's: QEMU, which would go on with the next filter, is told that the
     * frame has been taken.
     */
    object_ref(OBJECT(f));
    if (sender != nf->netdev) {
        uint8_t head[RDMA_OBSERVED_BYTES];
        size_t n = iov_to_buf(iov, iovcnt, skip, head, sizeof(head));

        rdma_device_observe_sent(f->nic->device, head, n);
        taken = !f->nic;
    } else if (runstate_check(RUN_STATE_POSTMIGRATE)) {
        /* A VM that has been migrated away is silent: its other self answers. */
        taken = false;
    } else {
        if (iovcnt == 1) {
            frame = iov->iov_base;
        } else {
            linear = g_malloc(size);
            iov_to_buf(iov, iovcnt, 0, linear, size);
            frame = linear;
        }
        taken = rdma_device_receive(f->nic->device, frame + skip, size - skip);
        if (!f->nic) {
            taken = true;
        } else if (!taken) {
            taken = rdma_nic_keep_from_card(f->nic, flags, iov, iovcnt, size);
        } else if (!rdma_nic_draining) {
            qemu_bh_schedule(f->nic->drain);
        }
    }
    object_unref(OBJECT(f));
    return taken ? size : 0;
}

/*
 * A socket network hands over one packet for each turn of the main loop, which
 * polls everything there is in QEMU. Where one packet came, more are likely to
 * wait: take them with turns of the network's own handlers only.
 *
 * Those handlers, among which are the monitor's, must not run in a nested event
 * loop (QEMU's AIO_WAIT_WHILE() in the middle of a snapshot, say). So this
 * bottom half belongs to their context, which only the main loop's own turn
 * dispatches. It has no guard against re-entrancy: QEMU would refuse a vCPU's
 * access to the device while a handler has released the big lock.
 */
static void rdma_nic_drain(void *opaque)
{
    enum { MAX_TURNS = 64 };
    RdmaNic *nic = opaque;
    Object *owner = OBJECT(nic->pci_dev);
    int turns = 0;

    /* Each turn runs bottom halves, too. */
    if (rdma_nic_draining) {
        return;
    }
    rdma_nic_draining = true;
    object_ref(owner);
    /* A packet may lead to the device's end. */
    while (nic->nc && turns < MAX_TURNS &&
           aio_poll(iohandler_get_aio_context(), false)) {
        turns++;
    }
    rdma_nic_draining = false;
    if (nic->nc && turns == MAX_TURNS) {
        qemu_bh_schedule(nic->drain);
    }
    object_unref(owner);
}

static void rdma_nic_sent(NetClientState *nc, ssize_t len)
{
    RdmaNic *nic = rdma_nic_of(nc);

    if (nic) {
        rdma_device_tx_ready(nic->device);
    }
}

bool rdma_nic_send(RdmaNic *nic, const uint8_t *frame, size_t size)
{
    static const uint8_t no_offload[64];
    int header;
    struct iovec iov[2] = {
        { .iov_base = (void *)no_offload },
        { .iov_base = (void *)frame, .iov_len = size },
    };

    if (!nic->nc) {
        return true; /* no card */
    }
    header = qemu_get_vnet_hdr_len(nic->nc->peer);
    iov[0].iov_len = header;
    if (!runstate_is_running()) {
        /* QEMU would keep what a VM that is stopped or sleeps sends: straight
         * to the network. */
        g_autofree uint8_t *linear = g_malloc0(header + size);

        memcpy(linear + header, frame, size);
        qemu_receive_packet(nic->nc->peer, linear, header + size);
        return true;
    }
    if (header == 0) {
        return qemu_send_packet_async(nic->nc, frame, size,
                                      rdma_nic_sent) != 0;
    }
    return qemu_sendv_packet_async(nic->nc, iov, 2, rdma_nic_sent) != 0;
}

void rdma_nic_info(RdmaNic *nic, RdmaNicInfo *info)
{
    NICState *state = qemu_get_nic(nic->nc);

    memcpy(info->mac, state->conf->macaddr.a, sizeof(info->mac));
    info->link_up = rdma_nic_link_is_up(nic);
    info->mtu = 0;
    if (object_dynamic_cast(OBJECT(nic->card), TYPE_VMXNET3)) {
        info->mtu = VMXNET3(nic->card)->mtu;
    }
}

bool rdma_nic_link_is_up(RdmaNic *nic)
{
    return nic->nc && !nic->nc->link_down;
}

static void rdma_nic_disconnect(RdmaNic *nic)
{
    QLIST_REMOVE(nic, next);
    nic->nc->info = nic->original_info;
    qemu_bh_delete(nic->drain);
    rdma_nic_drop_held(nic, 0);
    nic->nc = NULL;
    if (nic->filter) {
        NetFilterState *filter = nic->filter;

        FILTER_RDMA(filter)->nic = NULL;
        nic->filter = NULL;
        object_unparent(OBJECT(filter));
    }
}

/* The device's and then the host's part of a change. The device may come to its end. */
static void rdma_nic_tell_link(RdmaNic *nic)
{
    rdma_device_link_changed(nic->device);
    if (nic->nc) {
        nic->link_changed(nic);
    }
}

static void rdma_nic_link_status_changed(NetClientState *nc)
{
    RdmaNic *nic = rdma_nic_of(nc);
    Object *owner = OBJECT(nic->pci_dev);

    /* The card's interrupt may lead to the device's end. */
    object_ref(owner);
    if (nic->original_info->link_status_changed) {
        nic->original_info->link_status_changed(nc);
    }
    if (nic->nc) {
        rdma_nic_tell_link(nic);
    }
    object_unref(owner);
}

/* The card goes first when a slot is unplugged, or at exit. */
static void rdma_nic_cleanup(NetClientState *nc)
{
    RdmaNic *nic = rdma_nic_of(nc);

    rdma_nic_disconnect(nic);
    if (nc->info->cleanup) {
        nc->info->cleanup(nc);
    }
}

/* The filter object */

static void filter_rdma_setup(NetFilterState *nf, Error **errp)
{
}

static void filter_rdma_cleanup(NetFilterState *nf)
{
    FilterRdma *f = FILTER_RDMA(nf);

    if (f->nic) {
        f->nic->filter = NULL;
        f->nic = NULL;
    }
}

static void filter_rdma_class_init(ObjectClass *klass, RdmaClassData *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(klass);

    nfc->setup = filter_rdma_setup;
    nfc->cleanup = filter_rdma_cleanup;
    nfc->receive_iov = filter_rdma_receive_iov;
}

const TypeInfo filter_rdma_type = {
    .name = TYPE_FILTER_RDMA,
    .parent = TYPE_NETFILTER,
    .instance_size = sizeof(FilterRdma),
    .class_init = filter_rdma_class_init,
};

/* Attaching */

/*
 * A guest that polls keeps its vCPU threads always running; packets are
 * handled by the main thread, which sleeps in between. Where there are more
 * such threads than CPUs, Linux's scheduler lets a running thread finish its
 * slice (about 3 ms) before the main thread gets its turn, unless the main
 * thread has asked for a shorter slice (Linux 6.12 and later; elsewhere this
 * does nothing).
 */
static void rdma_nic_ask_for_short_slice(void)
{
#ifdef __NR_sched_setattr
    enum { SCHED_RESET_ON_FORK_FLAG = 1 }; /* SCHED_FLAG_RESET_ON_FORK */
    struct {
        uint32_t size;
        uint32_t policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime; /* nanoseconds */
        uint64_t deadline;
        uint64_t period;
    } attr = { .size = sizeof(attr) };

    if (syscall(__NR_sched_getattr, 0, &attr, sizeof(attr), 0) == 0 &&
        attr.policy == SCHED_OTHER) {
        attr.runtime = 100 * 1000;
        if (attr.nice >= 0) {
            attr.flags |= SCHED_RESET_ON_FORK_FLAG;
        }
        syscall(__NR_sched_setattr, 0, &attr, 0);
    }
#endif
}

static NetClientState *rdma_nic_find(PCIDevice *pci_dev, Error **errp)
{
    PCIDevice *card = pci_get_function_0(pci_dev);
    int slot = PCI_SLOT(pci_dev->devfn);
    g_autofree char *netdev = NULL;
    NetClientState *peer;

    if (!card || card == pci_dev ||
        !object_property_find(OBJECT(card), "netdev")) {
        error_setg(errp, "function 0 of PCI slot %d is not a network card",
                   slot);
        error_append_hint(errp, "The device shares the slot and the network "
                          "of a network card that is given before it:\n"
                          "  -device vmxnet3,netdev=ID,addr=%x.0,"
                          "multifunction=on -device %s,addr=%x.1\n",
                          slot, object_get_typename(OBJECT(pci_dev)), slot);
        return NULL;
    }
    netdev = object_property_get_str(OBJECT(card), "netdev", NULL);
    peer = netdev && *netdev ? qemu_find_netdev(netdev) : NULL;
    if (!peer || !peer->peer) {
        error_setg(errp, "the network card in function 0 of PCI slot %d is "
                   "not connected to a network: give it a netdev=", slot);
        return NULL;
    }
    if (get_vhost_net(peer)) {
        error_setg(errp, "network '%s' passes packets by vhost, where the "
                   "RDMA device cannot see them: set vhost=off", netdev);
        return NULL;
    }
    if (rdma_nic_of(peer->peer)) {
        error_setg(errp, "the network card in function 0 of PCI slot %d has "
                   "an RDMA device already", slot);
        return NULL;
    }
    return peer->peer;
}

static void rdma_nic_find_own_mac(RdmaNic *nic)
{
    const MACAddr *mac = &qemu_get_nic(nic->nc)->conf->macaddr;

    /* The one card here that gives the guest's address the place of its own. */
    if (object_dynamic_cast(OBJECT(nic->card), TYPE_VMXNET3)) {
        mac = &VMXNET3(nic->card)->perm_mac;
    }
    memcpy(nic->mac, mac->a, sizeof(nic->mac));
}

static bool rdma_nic_connect(RdmaNic *nic, Error **errp)
{
    NetClientState *nc = rdma_nic_find(nic->pci_dev, errp);
    Object *filter;

    if (!nc) {
        return false;
    }
    filter = object_new_with_props(TYPE_FILTER_RDMA, OBJECT(nic->pci_dev),
                                   "rdma-filter", errp,
                                   "netdev", nc->peer->name, NULL);
    if (!filter) {
        return false;
    }
    nic->nc = nc;
    nic->card = pci_get_function_0(nic->pci_dev);
    rdma_nic_find_own_mac(nic);
    nic->filter = NETFILTER(filter);
    FILTER_RDMA(filter)->nic = nic;

    nic->drain = aio_bh_new(iohandler_get_aio_context(), rdma_nic_drain, nic);

    /* To hear of set_link and of the card's end. */
    nic->original_info = nc->info;
    nic->info = *nic->original_info;
    nic->info.link_status_changed = rdma_nic_link_status_changed;
    nic->info.cleanup = rdma_nic_cleanup;
    nc->info = &nic->info;
    QLIST_INSERT_HEAD(&rdma_nics, nic, next);
    return true;
}

/* A device somewhere in the machine is ready. */
static void rdma_nic_device_realized(DeviceListener *listener,
                                     DeviceState *dev)
{
    RdmaNic *nic = container_of(listener, RdmaNic, listener);
    Error *err = NULL;

    if (nic->nc || dev != DEVICE(pci_get_function_0(nic->pci_dev))) {
        return;
    }
    if (rdma_nic_connect(nic, &err)) {
        rdma_nic_tell_link(nic);
    } else {
        warn_reportf_err(err, "RDMA device '%s' has no network: ",
                         nic->pci_dev->qdev.id ?: nic->pci_dev->name);
    }
}

bool rdma_nic_attach(RdmaNic *nic, PCIDevice *pci_dev, RdmaDevice *device,
                     Error **errp)
{
    bool card_follows = DEVICE(pci_dev)->hotplugged &&
                        !pci_get_function_0(pci_dev);

    nic->pci_dev = pci_dev;
    nic->device = device;
    nic->running = runstate_is_live(runstate_get());
    QTAILQ_INIT(&nic->held);
    if (!card_follows && !rdma_nic_connect(nic, errp)) {
        return false;
    }
    nic->listener.realize = rdma_nic_device_realized;
    device_listener_register(&nic->listener);
    rdma_nic_ask_for_short_slice();
    return true;
}

void rdma_nic_detach(RdmaNic *nic)
{
    device_listener_unregister(&nic->listener);
    if (nic->nc) {
        rdma_nic_disconnect(nic);
    }
}
