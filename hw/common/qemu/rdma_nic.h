/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The network card in function 0 of an RDMA device's slot: its network is
 * the RDMA fabric. Frames on their way to the card are offered to the RDMA
 * device by a net filter; frames of the RDMA device leave as if the card had
 * sent them.
 */
#ifndef HW_RDMA_NIC_H
#define HW_RDMA_NIC_H

#include "hw/pci/pci_device.h"
#include "net/filter.h"
#include "net/net.h"
#include "rdma_device.h"

typedef struct RdmaNic {
    RdmaDevice *device;
    PCIDevice *pci;        /* function 0 */
    Object *owner;         /* the RDMA device, which this is a part of */
    NetClientState *nc;    /* the card's side of its network; NULL: detached */
    NetFilterState *filter;
    QEMUBH *drain;         /* takes the packets that wait behind one */
    const NetClientInfo *original_info;
    NetClientInfo info;    /* original_info with callbacks of ours */
    QLIST_ENTRY(RdmaNic) next;
} RdmaNic;

/*
 * Find the card beside @pci_dev and attach to its network. False, with @errp
 * set, where there is none or its network is out of reach.
 */
bool rdma_nic_attach(RdmaNic *nic, PCIDevice *pci_dev, RdmaDevice *device,
                     Error **errp);
void rdma_nic_detach(RdmaNic *nic);

/* RdmaHostOps.send_packet and .nic_info. */
bool rdma_nic_send(RdmaNic *nic, const uint8_t *frame, size_t size);
void rdma_nic_info(RdmaNic *nic, RdmaNicInfo *info);

#endif
