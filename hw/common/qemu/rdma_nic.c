/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include <sched.h>
#include <sys/syscall.h>
#include "qapi/error.h"
#include "block/aio.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qom/object.h"
#include "hw/net/vmxnet3_defs.h"
#include "hw/pci/pci.h"
#include "net/queue.h"
#include "net/vhost_net.h"
#include "system/runstate.h"
#include "rdma_nic.h"

#define TYPE_FILTER_RDMA "filter-rdma"
OBJECT_DECLARE_SIMPLE_TYPE(FilterRdma, FILTER_RDMA)

struct FilterRdma {
    NetFilterState parent_obj;
    RdmaNic *nic;
};

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

/*
 * A stopped VM's card takes no frames, and the network would be read no more
 * while one waits for it; but the RDMA device has to answer in that time. So
 * frames wait here. Those for a VM that is still to come are its other self's.
 */
static void filter_rdma_hold(RdmaNic *nic, NetClientState *sender,
                             unsigned flags, const struct iovec *iov,
                             int iovcnt)
{
    if (!runstate_check(RUN_STATE_INMIGRATE)) {
        qemu_net_queue_append_iov(nic->held, sender, flags, iov, iovcnt, NULL);
    }
}

void rdma_nic_started(RdmaNic *nic)
{
    if (nic->nc && nic->filter) {
        qemu_net_queue_flush(nic->held);
    }
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
    if (sender != nf->netdev) {
        uint8_t head[RDMA_OBSERVED_BYTES];
        size_t n = iov_to_buf(iov, iovcnt, skip, head, sizeof(head));

        rdma_device_observe_sent(f->nic->device, head, n);
        return 0;
    }
    /* A VM that has been migrated away is silent: its other self answers. */
    if (runstate_check(RUN_STATE_POSTMIGRATE)) {
        return 0;
    }
    if (iovcnt == 1) {
        frame = iov->iov_base;
    } else {
        linear = g_malloc(size);
        iov_to_buf(iov, iovcnt, 0, linear, size);
        frame = linear;
    }
    /* An interrupt may lead to the device's end (rdma_device.h). */
    object_ref(OBJECT(f));
    taken = rdma_device_receive(f->nic->device, frame + skip, size - skip);
    if (taken && f->nic) {
        qemu_bh_schedule(f->nic->drain);
    }
    if (!taken && f->nic && !runstate_is_running()) {
        filter_rdma_hold(f->nic, sender, flags, iov, iovcnt);
        taken = true;
    }
    object_unref(OBJECT(f));
    return taken ? size : 0;
}

/*
 * A socket network hands over one packet for each turn of the main loop, which
 * polls everything there is in QEMU. Where one packet came, more are likely to
 * wait: take them with turns of the network's own handlers only.
 */
static void rdma_nic_drain(void *opaque)
{
    enum { MAX_TURNS = 64 };
    RdmaNic *nic = opaque;
    Object *owner = OBJECT(nic->pci_dev);

    object_ref(owner);
    /* A packet may lead to the device's end. */
    for (int i = 0; i < MAX_TURNS && nic->nc; i++) {
        if (!aio_poll(iohandler_get_aio_context(), false)) {
            if (nic->nc) {
                qemu_bh_cancel(nic->drain);
            }
            break;
        }
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
        /* QEMU would keep what a stopped VM sends: straight to the network. */
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
    info->link_up = !nic->nc->link_down;
    info->mtu = 0;
    if (object_dynamic_cast(OBJECT(nic->card), TYPE_VMXNET3)) {
        info->mtu = VMXNET3(nic->card)->mtu;
    }
}

static void rdma_nic_disconnect(RdmaNic *nic)
{
    QLIST_REMOVE(nic, next);
    nic->nc->info = nic->original_info;
    qemu_bh_delete(nic->drain);
    qemu_del_net_queue(nic->held);
    nic->nc = NULL;
    if (nic->filter) {
        NetFilterState *filter = nic->filter;

        FILTER_RDMA(filter)->nic = NULL;
        nic->filter = NULL;
        object_unparent(OBJECT(filter));
    }
}

static void rdma_nic_link_status_changed(NetClientState *nc)
{
    RdmaNic *nic = rdma_nic_of(nc);

    if (nic->original_info->link_status_changed) {
        nic->original_info->link_status_changed(nc);
    }
    rdma_device_link_changed(nic->device);
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

static void filter_rdma_class_init(ObjectClass *klass, void *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(klass);

    nfc->setup = filter_rdma_setup;
    nfc->cleanup = filter_rdma_cleanup;
    nfc->receive_iov = filter_rdma_receive_iov;
}

static const TypeInfo filter_rdma_info = {
    .name = TYPE_FILTER_RDMA,
    .parent = TYPE_NETFILTER,
    .instance_size = sizeof(FilterRdma),
    .class_init = filter_rdma_class_init,
};

static void filter_rdma_register_types(void)
{
    type_register_static(&filter_rdma_info);
}

type_init(filter_rdma_register_types)

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
                          "multifunction=on -device pvrdma,addr=%x.1\n",
                          slot, slot);
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
    nic->filter = NETFILTER(filter);
    FILTER_RDMA(filter)->nic = nic;

    nic->drain = qemu_bh_new(rdma_nic_drain, nic);
    nic->held = qemu_new_net_queue(qemu_netfilter_pass_to_next, nic->filter);

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
        rdma_device_link_changed(nic->device);
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
