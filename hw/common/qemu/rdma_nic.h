/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The network card in function 0 of an RDMA device's slot: its network is
 * the RDMA fabric. Frames on their way to the card are offered to the RDMA
 * device by a net filter; frames of the RDMA device leave as if the card had
 * sent them.
 *
 * When a slot is hot-plugged, function 0 comes last (that is when the guest
 * looks at the slot), and when it is unplugged, it may go first: the device has no
 * network in between, as with a link that is down.
 */
#ifndef HW_RDMA_NIC_H
#define HW_RDMA_NIC_H

#include "hw/pci/pci_device.h"
#include "net/filter.h"
#include "net/net.h"
#include "rdma_device.h"

typedef struct RdmaHeldFrame RdmaHeldFrame;

typedef struct RdmaNic {
    RdmaDevice *device;
    PCIDevice *pci_dev;    /* the RDMA device */
    PCIDevice *card;       /* function 0 */
    uint8_t mac[6];        /* the card's own, also where its guest has given it another one */
    /* After the device has been told; set before rdma_nic_attach(). */
    void (*link_changed)(struct RdmaNic *nic);
    NetClientState *nc;    /* the card's side of its network; NULL: no card */
    NetFilterState *filter;
    bool running;          /* the VM is not stopped; its guest may sleep (S3) */
    QTAILQ_HEAD(, RdmaHeldFrame) held; /* for the card while the VM is stopped */
    size_t held_bytes;
    uint64_t held_frames;
    uint64_t dropped_frames; /* for the card, since the device was created */
    QEMUBH *drain;         /* takes the packets that wait behind one */
    NetClientInfo *original_info;
    NetClientInfo info;    /* original_info with callbacks of ours */
    QLIST_ENTRY(RdmaNic) next;
    DeviceListener listener; /* hears of the card that is plugged later */
} RdmaNic;

/* The filter's, to be registered before the first rdma_nic_attach(). */
extern const TypeInfo filter_rdma_type;

/*
 * Find the card beside @pci_dev and attach to its network, or wait for the card if
 * @pci_dev is hot-plugged into an empty slot. False, with @errp set, where there is
 * none or its network is out of reach.
 */
bool rdma_nic_attach(RdmaNic *nic, PCIDevice *pci_dev, RdmaDevice *device,
                     Error **errp);
void rdma_nic_detach(RdmaNic *nic);
/* The VM runs again, or has stopped. */
void rdma_nic_started(RdmaNic *nic);
void rdma_nic_stopped(RdmaNic *nic);

/* RdmaHostOps.send_packet and .nic_info. */
bool rdma_nic_send(RdmaNic *nic, const uint8_t *frame, size_t size);
void rdma_nic_info(RdmaNic *nic, RdmaNicInfo *info);
bool rdma_nic_link_is_up(RdmaNic *nic);

#endif
