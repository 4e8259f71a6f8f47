// SPDX-License-Identifier: GPL-2.0-only
/*
 * Completions of the kernel's own users, and arming.
 */
#include <linux/etherdevice.h>

#include "virtio_rdma.h"

static const enum ib_wc_status vrdma_statuses[] = {
	[VIRTIO_RDMA_WC_SUCCESS] = IB_WC_SUCCESS,
	[VIRTIO_RDMA_WC_LOC_LEN_ERR] = IB_WC_LOC_LEN_ERR,
	[VIRTIO_RDMA_WC_LOC_QP_OP_ERR] = IB_WC_LOC_QP_OP_ERR,
	[VIRTIO_RDMA_WC_LOC_PROT_ERR] = IB_WC_LOC_PROT_ERR,
	[VIRTIO_RDMA_WC_WR_FLUSH_ERR] = IB_WC_WR_FLUSH_ERR,
	[VIRTIO_RDMA_WC_BAD_RESP_ERR] = IB_WC_BAD_RESP_ERR,
	[VIRTIO_RDMA_WC_LOC_ACCESS_ERR] = IB_WC_LOC_ACCESS_ERR,
	[VIRTIO_RDMA_WC_REM_INV_REQ_ERR] = IB_WC_REM_INV_REQ_ERR,
	[VIRTIO_RDMA_WC_REM_ACCESS_ERR] = IB_WC_REM_ACCESS_ERR,
	[VIRTIO_RDMA_WC_REM_OP_ERR] = IB_WC_REM_OP_ERR,
	[VIRTIO_RDMA_WC_RETRY_EXC_ERR] = IB_WC_RETRY_EXC_ERR,
	[VIRTIO_RDMA_WC_RNR_RETRY_EXC_ERR] = IB_WC_RNR_RETRY_EXC_ERR,
	[VIRTIO_RDMA_WC_REM_ABORT_ERR] = IB_WC_REM_ABORT_ERR,
	[VIRTIO_RDMA_WC_FATAL_ERR] = IB_WC_FATAL_ERR,
	[VIRTIO_RDMA_WC_RESP_TIMEOUT_ERR] = IB_WC_RESP_TIMEOUT_ERR,
	[VIRTIO_RDMA_WC_GENERAL_ERR] = IB_WC_GENERAL_ERR,
	[VIRTIO_RDMA_WC_MW_BIND_ERR] = IB_WC_MW_BIND_ERR,
};

static const enum ib_wc_opcode vrdma_opcodes[] = {
	[VIRTIO_RDMA_WC_SEND] = IB_WC_SEND,
	[VIRTIO_RDMA_WC_WRITE] = IB_WC_RDMA_WRITE,
	[VIRTIO_RDMA_WC_READ] = IB_WC_RDMA_READ,
	[VIRTIO_RDMA_WC_RECV] = IB_WC_RECV,
	[VIRTIO_RDMA_WC_RECV_WRITE_IMM] = IB_WC_RECV_RDMA_WITH_IMM,
	[VIRTIO_RDMA_WC_CMP_SWAP] = IB_WC_COMP_SWAP,
	[VIRTIO_RDMA_WC_FETCH_ADD] = IB_WC_FETCH_ADD,
	[VIRTIO_RDMA_WC_LOCAL_INV] = IB_WC_LOCAL_INV,
	[VIRTIO_RDMA_WC_FAST_REGISTRATION] = IB_WC_REG_MR,
};

/* The entry that is next, if the device has written it: what it holds is read later (QUE-13). */
static const struct virtio_rdma_cq_entry *vrdma_next(struct vrdma_dev *dev,
						     struct vrdma_cq *cq)
{
	const struct virtio_rdma_cq_entry *entry =
		vrdma_entry(&cq->ring, cq->consumer);
	u8 phase = !(cq->consumer & cq->entries);

	/* [virtio-rdma QUE-13] */
	if (READ_ONCE(entry->phase) != phase)
		return NULL;
	virtio_rmb(dev->weak_barriers);
	return entry;
}

/* What a datagram that was received tells of its sender. */
static void vrdma_wc_datagram(const struct virtio_rdma_cq_entry *entry,
			      struct ib_wc *wc)
{
	wc->src_qp = le32_to_cpu(entry->src_qpn);
	wc->network_hdr_type = entry->network == VIRTIO_RDMA_NETWORK_IPV4 ?
				       RDMA_NETWORK_IPV4 : RDMA_NETWORK_IPV6;
	wc->wc_flags |= IB_WC_WITH_NETWORK_HDR_TYPE;
	if (!is_zero_ether_addr(entry->smac)) {
		ether_addr_copy(wc->smac, entry->smac);
		wc->wc_flags |= IB_WC_WITH_SMAC;
	}
	if (entry->flags & VIRTIO_RDMA_WC_VLAN) {
		wc->vlan_id = le16_to_cpu(entry->vlan);
		wc->sl = entry->sl;
		wc->wc_flags |= IB_WC_WITH_VLAN;
	}
}

static void vrdma_wc(const struct virtio_rdma_cq_entry *entry,
		     struct vrdma_qp *qp, struct ib_wc *wc)
{
	memset(wc, 0, sizeof(*wc));
	wc->wr_id = le64_to_cpu(entry->wr_id);
	wc->qp = &qp->ibqp;
	wc->port_num = VRDMA_PORT;
	wc->status = entry->status < ARRAY_SIZE(vrdma_statuses) ?
			     vrdma_statuses[entry->status] : IB_WC_GENERAL_ERR;
	if (wc->status != IB_WC_SUCCESS) {
		wc->vendor_err = le32_to_cpu(entry->vendor_err);
		return;
	}
	if (entry->opcode < ARRAY_SIZE(vrdma_opcodes))
		wc->opcode = vrdma_opcodes[entry->opcode];
	wc->byte_len = le32_to_cpu(entry->byte_len);
	if (entry->flags & VIRTIO_RDMA_WC_IMM) {
		wc->ex.imm_data = entry->imm_data;
		wc->wc_flags |= IB_WC_WITH_IMM;
	} else if (entry->flags & VIRTIO_RDMA_WC_INVALIDATED) {
		wc->ex.invalidate_rkey = le32_to_cpu(entry->key);
		wc->wc_flags |= IB_WC_WITH_INVALIDATE;
	}
	if (entry->flags & VIRTIO_RDMA_WC_GRH)
		wc->wc_flags |= IB_WC_GRH;
	if (wc->opcode == IB_WC_RECV && qp->ibqp.qp_type != IB_QPT_RC)
		vrdma_wc_datagram(entry, wc);
}

int vrdma_poll_cq(struct ib_cq *ibcq, int num_entries, struct ib_wc *wc)
{
	struct vrdma_dev *dev = to_vdev(ibcq->device);
	const struct virtio_rdma_cq_entry *entry;
	struct vrdma_cq *cq = to_vcq(ibcq);
	struct vrdma_qp *qp;
	unsigned long flags;
	int n = 0;
	u32 old;

	spin_lock_irqsave(&cq->lock, flags);
	old = cq->consumer;
	while (n < num_entries && (entry = vrdma_next(dev, cq))) {
		/* [virtio-rdma CTL-21] */
		/* Those of a QP that has been destroyed are dropped (CTL-21). */
		qp = xa_load(&dev->qps, le32_to_cpu(entry->qpn));
		if (qp)
			vrdma_wc(entry, qp, &wc[n++]);
		cq->consumer++;
	}
	if (cq->consumer != old)
		/* [virtio-rdma QUE-16] */
		vrdma_publish(dev, &cq->state->consumer, cq->consumer);
	spin_unlock_irqrestore(&cq->lock, flags);
	return n;
}

/* Arms the CQ for a kind of completion, unless it is armed already (QUE-15). */
static void vrdma_arm(struct vrdma_cq *cq, u32 kind)
{
	u32 notified = le32_to_cpu(READ_ONCE(cq->state->notified));
	u32 armed = cq->arm & 3;

	/* [virtio-rdma QUE-15] */
	if (cq->arm != notified &&
	    (armed == VIRTIO_RDMA_ARM_NEXT || armed == kind))
		return;
	cq->arm = (((cq->arm >> 2) + 1) << 2) | kind;
	WRITE_ONCE(cq->state->arm, cpu_to_le32(cq->arm));
}

int vrdma_req_notify_cq(struct ib_cq *ibcq, enum ib_cq_notify_flags flags)
{
	struct vrdma_dev *dev = to_vdev(ibcq->device);
	struct vrdma_cq *cq = to_vcq(ibcq);
	unsigned long irq_flags;
	int ret = 0;

	spin_lock_irqsave(&cq->lock, irq_flags);
	vrdma_arm(cq, (flags & IB_CQ_SOLICITED_MASK) == IB_CQ_SOLICITED ?
			      VIRTIO_RDMA_ARM_SOLICITED : VIRTIO_RDMA_ARM_NEXT);
	/* [virtio-rdma QUE-14] */
	virtio_mb(dev->weak_barriers);
	if (flags & IB_CQ_REPORT_MISSED_EVENTS)
		ret = vrdma_next(dev, cq) ? 1 : 0;
	spin_unlock_irqrestore(&cq->lock, irq_flags);
	return ret;
}
