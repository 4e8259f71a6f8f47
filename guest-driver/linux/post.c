// SPDX-License-Identifier: GPL-2.0-only
/*
 * Requests of the kernel's own users: send queues, receive queues and SRQs.
 */
#include <linux/io.h>
#include <linux/log2.h>

#include "virtio_rdma.h"

/* Whether there is a slot for the next entry (QUE-1). */
/* [virtio-rdma QUE-1] */
static bool vrdma_wq_full(struct vrdma_dev *dev, struct vrdma_wq *wq)
{
	return wq->producer - vrdma_acquire(dev, &wq->state->consumer) >=
	       wq->entries;
}

/* Tells the device of entries since old, by a doorbell if it wants one (QUE-2 to QUE-4). */
static void vrdma_wq_publish(struct vrdma_dev *dev, struct vrdma_wq *wq,
			     u32 old, u32 kind, u32 number)
{
	u32 new = wq->producer;
	u32 wanted;

	if (new == old)
		return;
	/* [virtio-rdma QUE-2] */
	vrdma_publish(dev, &wq->state->producer, new);
	/* [virtio-rdma QUE-3] */
	virtio_mb(dev->weak_barriers);
	wanted = le32_to_cpu(READ_ONCE(wq->state->doorbell));
	/* [virtio-rdma QUE-4] [virtio-rdma DEV-13] */
	if ((u32)(new - 1 - wanted) < (u32)(new - old))
		writel(VIRTIO_RDMA_DOORBELL(kind, number), dev->doorbell);
}

static void vrdma_put_sges(struct virtio_rdma_sge *to, const struct ib_sge *from,
			   unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		to[i].addr = cpu_to_le64(from[i].addr);
		to[i].length = cpu_to_le32(from[i].length);
		to[i].lkey = cpu_to_le32(from[i].lkey);
	}
}

/* Copies the bytes of a request into its entry; their number, or -EINVAL: they do not fit. */
static int vrdma_put_inline(void *to, const struct ib_send_wr *wr, u32 max)
{
	u32 length = 0;
	int i;

	for (i = 0; i < wr->num_sge; i++) {
		const struct ib_sge *sge = &wr->sg_list[i];

		if (sge->length > max - length)
			return -EINVAL;
		memcpy(to + length, (const void *)(uintptr_t)sge->addr,
		       sge->length);
		length += sge->length;
	}
	return length;
}

/* SGEs or bytes of a request, behind what its opcode has. */
static int vrdma_put_data(const struct vrdma_wq *wq,
			  const struct ib_send_wr *wr,
			  struct virtio_rdma_sq_entry *entry, void *data)
{
	int ret;

	if (wr->send_flags & IB_SEND_INLINE) {
		ret = vrdma_put_inline(data, wr, wq->max_inline);
		if (ret < 0)
			return ret;
		entry->flags |= VIRTIO_RDMA_SEND_INLINE;
		entry->count = cpu_to_le16(ret);
		return 0;
	}
	if (wr->num_sge > wq->max_sges)
		return -EINVAL;
	vrdma_put_sges(data, wr->sg_list, wr->num_sge);
	entry->count = cpu_to_le16(wr->num_sge);
	return 0;
}

static int vrdma_put_send(struct vrdma_qp *qp, const struct ib_send_wr *wr,
			  struct virtio_rdma_sq_entry *entry)
{
	struct virtio_rdma_sq_datagram *datagram;
	const struct ib_ud_wr *ud;

	switch (wr->opcode) {
	case IB_WR_SEND:
		entry->opcode = VIRTIO_RDMA_OP_SEND;
		break;
	case IB_WR_SEND_WITH_IMM:
		entry->opcode = VIRTIO_RDMA_OP_SEND_IMM;
		entry->imm_data = wr->ex.imm_data;
		break;
	default:
		entry->opcode = VIRTIO_RDMA_OP_SEND_INV;
		entry->key = cpu_to_le32(wr->ex.invalidate_rkey);
		break;
	}
	if (qp->ibqp.qp_type == IB_QPT_RC)
		return vrdma_put_data(&qp->sq, wr, entry, entry + 1);

	ud = ud_wr(wr);
	datagram = (struct virtio_rdma_sq_datagram *)entry;
	datagram->qpn = cpu_to_le32(ud->remote_qpn);
	datagram->qkey = cpu_to_le32(ud->remote_qkey);
	datagram->av = to_vah(ud->ah)->av;
	return vrdma_put_data(&qp->sq, wr, entry, datagram + 1);
}

static int vrdma_put_rdma(struct vrdma_qp *qp, const struct ib_send_wr *wr,
			  struct virtio_rdma_sq_entry *entry)
{
	struct virtio_rdma_sq_rdma *rdma = (struct virtio_rdma_sq_rdma *)entry;

	switch (wr->opcode) {
	case IB_WR_RDMA_WRITE:
		entry->opcode = VIRTIO_RDMA_OP_WRITE;
		break;
	case IB_WR_RDMA_WRITE_WITH_IMM:
		entry->opcode = VIRTIO_RDMA_OP_WRITE_IMM;
		entry->imm_data = wr->ex.imm_data;
		break;
	default:
		if (wr->send_flags & IB_SEND_INLINE)
			return -EINVAL;
		entry->opcode = VIRTIO_RDMA_OP_READ;
		break;
	}
	rdma->remote_addr = cpu_to_le64(rdma_wr(wr)->remote_addr);
	rdma->rkey = cpu_to_le32(rdma_wr(wr)->rkey);
	rdma->reserved = 0;
	return vrdma_put_data(&qp->sq, wr, entry, rdma + 1);
}

static int vrdma_put_atomic(const struct ib_send_wr *wr,
			    struct virtio_rdma_sq_entry *entry)
{
	struct virtio_rdma_sq_atomic *atomic =
		(struct virtio_rdma_sq_atomic *)entry;

	if (wr->num_sge != 1 || wr->send_flags & IB_SEND_INLINE)
		return -EINVAL;
	if (wr->opcode == IB_WR_ATOMIC_CMP_AND_SWP) {
		entry->opcode = VIRTIO_RDMA_OP_CMP_SWAP;
		atomic->swap = cpu_to_le64(atomic_wr(wr)->swap);
	} else {
		entry->opcode = VIRTIO_RDMA_OP_FETCH_ADD;
		atomic->swap = 0;
	}
	atomic->compare_add = cpu_to_le64(atomic_wr(wr)->compare_add);
	atomic->remote_addr = cpu_to_le64(atomic_wr(wr)->remote_addr);
	atomic->rkey = cpu_to_le32(atomic_wr(wr)->rkey);
	atomic->reserved = 0;
	entry->count = cpu_to_le16(1);
	vrdma_put_sges((struct virtio_rdma_sge *)(atomic + 1), wr->sg_list, 1);
	return 0;
}

static int vrdma_put_registration(struct vrdma_dev *dev,
				  const struct ib_send_wr *wr,
				  struct virtio_rdma_sq_entry *entry)
{
	struct virtio_rdma_sq_registration *registration =
		(struct virtio_rdma_sq_registration *)entry;
	const struct ib_reg_wr *reg = reg_wr(wr);
	const struct vrdma_mr *mr = to_vmr(reg->mr);

	if (wr->num_sge)
		return -EINVAL;
	entry->opcode = VIRTIO_RDMA_OP_FAST_REGISTRATION;
	registration->iova = cpu_to_le64(reg->mr->iova);
	registration->length = cpu_to_le64(reg->mr->length);
	registration->pages = cpu_to_le64(mr->pages_dma);
	registration->key = cpu_to_le32(reg->key);
	registration->access = cpu_to_le16(vrdma_access(dev, reg->access));
	registration->page_shift = ilog2(reg->mr->page_size);
	registration->reserved = 0;
	return 0;
}

static u8 vrdma_send_flags(int flags)
{
	u8 to = 0;

	if (flags & IB_SEND_FENCE)
		to |= VIRTIO_RDMA_SEND_FENCE;
	if (flags & IB_SEND_SIGNALED)
		to |= VIRTIO_RDMA_SEND_SIGNALED;
	if (flags & IB_SEND_SOLICITED)
		to |= VIRTIO_RDMA_SEND_SOLICITED;
	return to;
}

/* Writes the entry of a request. */
static int vrdma_put_request(struct vrdma_dev *dev, struct vrdma_qp *qp,
			     const struct ib_send_wr *wr,
			     struct virtio_rdma_sq_entry *entry)
{
	bool connected = qp->ibqp.qp_type == IB_QPT_RC;

	entry->wr_id = cpu_to_le64(wr->wr_id);
	entry->flags = vrdma_send_flags(wr->send_flags);
	entry->count = 0;
	entry->key = 0;
	if (!connected && wr->opcode != IB_WR_SEND &&
	    wr->opcode != IB_WR_SEND_WITH_IMM)
		return -EINVAL;
	switch (wr->opcode) {
	case IB_WR_SEND:
	case IB_WR_SEND_WITH_IMM:
	case IB_WR_SEND_WITH_INV:
		return vrdma_put_send(qp, wr, entry);
	case IB_WR_RDMA_WRITE:
	case IB_WR_RDMA_WRITE_WITH_IMM:
	case IB_WR_RDMA_READ:
		return vrdma_put_rdma(qp, wr, entry);
	case IB_WR_ATOMIC_CMP_AND_SWP:
	case IB_WR_ATOMIC_FETCH_AND_ADD:
		return vrdma_put_atomic(wr, entry);
	case IB_WR_LOCAL_INV:
		entry->opcode = VIRTIO_RDMA_OP_LOCAL_INV;
		entry->key = cpu_to_le32(wr->ex.invalidate_rkey);
		return 0;
	case IB_WR_REG_MR:
		return vrdma_put_registration(dev, wr, entry);
	default:
		return -EOPNOTSUPP;
	}
}

int vrdma_post_send(struct ib_qp *ibqp, const struct ib_send_wr *wr,
		    const struct ib_send_wr **bad_wr)
{
	struct vrdma_dev *dev = to_vdev(ibqp->device);
	struct vrdma_qp *qp = to_vqp(ibqp);
	struct vrdma_wq *wq = &qp->sq;
	unsigned long flags;
	int ret = 0;
	u32 old;

	spin_lock_irqsave(&wq->lock, flags);
	old = wq->producer;
	/* [virtio-rdma REQ-1] */
	if (qp->state == IB_QPS_RESET || qp->state == IB_QPS_INIT ||
	    qp->state == IB_QPS_RTR) {
		ret = -EINVAL; /* REQ-1 */
		goto out;
	}
	for (; wr; wr = wr->next) {
		if (vrdma_wq_full(dev, wq)) {
			ret = -ENOMEM;
			break;
		}
		ret = vrdma_put_request(dev, qp, wr,
					vrdma_entry(&wq->ring, wq->producer));
		if (ret)
			break;
		wq->producer++;
	}
	vrdma_wq_publish(dev, wq, old, VIRTIO_RDMA_DOORBELL_SQ, qp->qpn);
out:
	spin_unlock_irqrestore(&wq->lock, flags);
	if (ret)
		*bad_wr = wr;
	return ret;
}

/* Puts receives into a queue, under its lock; wr is set to the one that could not be. */
static int vrdma_put_receives(struct vrdma_dev *dev, struct vrdma_wq *wq,
			      const struct ib_recv_wr **wr, u32 kind,
			      u32 number)
{
	u32 old = wq->producer;
	int ret = 0;

	for (; *wr; *wr = (*wr)->next) {
		struct virtio_rdma_rq_entry *entry;

		if ((*wr)->num_sge < 0 || (*wr)->num_sge > wq->max_sges) {
			ret = -EINVAL;
			break;
		}
		if (vrdma_wq_full(dev, wq)) {
			ret = -ENOMEM;
			break;
		}
		entry = vrdma_entry(&wq->ring, wq->producer);
		entry->wr_id = cpu_to_le64((*wr)->wr_id);
		entry->count = cpu_to_le16((*wr)->num_sge);
		memset(entry->reserved, 0, sizeof(entry->reserved));
		vrdma_put_sges((struct virtio_rdma_sge *)(entry + 1),
			       (*wr)->sg_list, (*wr)->num_sge);
		wq->producer++;
	}
	vrdma_wq_publish(dev, wq, old, kind, number);
	return ret;
}

int vrdma_post_recv(struct ib_qp *ibqp, const struct ib_recv_wr *wr,
		    const struct ib_recv_wr **bad_wr)
{
	struct vrdma_dev *dev = to_vdev(ibqp->device);
	struct vrdma_qp *qp = to_vqp(ibqp);
	struct vrdma_wq *wq = &qp->rq;
	unsigned long flags;
	int ret;

	if (!wq->state) {
		*bad_wr = wr;
		return -EINVAL;
	}
	spin_lock_irqsave(&wq->lock, flags);
	/* [virtio-rdma REQ-1] */
	if (qp->state == IB_QPS_RESET)
		ret = -EINVAL; /* REQ-1 */
	else
		ret = vrdma_put_receives(dev, wq, &wr, VIRTIO_RDMA_DOORBELL_RQ,
					 qp->qpn);
	spin_unlock_irqrestore(&wq->lock, flags);
	if (ret)
		*bad_wr = wr;
	return ret;
}

int vrdma_post_srq_recv(struct ib_srq *ibsrq, const struct ib_recv_wr *wr,
			const struct ib_recv_wr **bad_wr)
{
	struct vrdma_dev *dev = to_vdev(ibsrq->device);
	struct vrdma_srq *srq = to_vsrq(ibsrq);
	unsigned long flags;
	int ret;

	spin_lock_irqsave(&srq->wq.lock, flags);
	ret = vrdma_put_receives(dev, &srq->wq, &wr, VIRTIO_RDMA_DOORBELL_SRQ,
				 srq->srqn);
	spin_unlock_irqrestore(&srq->wq.lock, flags);
	if (ret)
		*bad_wr = wr;
	return ret;
}
