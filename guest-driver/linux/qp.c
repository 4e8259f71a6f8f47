// SPDX-License-Identifier: GPL-2.0-only
/*
 * Queue pairs: how they are made and destroyed.
 */
#include <linux/log2.h>

#include "virtio_rdma.h"

/* vrdma_recv_sges - SGEs of a receive in an entry of so many bytes */
u32 vrdma_recv_sges(struct vrdma_dev *dev, u32 entry_size)
{
	u32 room = entry_size - sizeof(struct virtio_rdma_rq_entry);

	return min_t(u32, room / sizeof(struct virtio_rdma_sge),
		     dev->limits.max_recv_sges);
}

/* Bytes of a send queue's entry before its SGEs, of what has SGEs and most before them. */
static u32 vrdma_send_header(enum ib_qp_type type)
{
	if (type == IB_QPT_RC)
		return sizeof(struct virtio_rdma_sq_rdma);
	return sizeof(struct virtio_rdma_sq_datagram);
}

static u8 vrdma_qp_type(enum ib_qp_type type)
{
	switch (type) {
	case IB_QPT_GSI:
		return VIRTIO_RDMA_QP_GSI;
	case IB_QPT_UD:
		return VIRTIO_RDMA_QP_UD;
	default:
		return VIRTIO_RDMA_QP_RC;
	}
}

/* What requests of the send queue may have, by the size of its entries. */
static void vrdma_send_limits(struct vrdma_dev *dev, struct vrdma_qp *qp,
			      enum ib_qp_type type)
{
	u32 room = qp->sq.entry_size - vrdma_send_header(type);

	qp->sq.max_sges = min_t(u32, room / sizeof(struct virtio_rdma_sge),
				dev->limits.max_send_sges);
	qp->sq.max_inline = min(room, dev->limits.max_inline);
}

static void vrdma_free_qp(struct vrdma_dev *dev, struct vrdma_qp *qp)
{
	ib_umem_release(qp->umem);
	vrdma_wq_free(dev, &qp->sq);
	vrdma_wq_free(dev, &qp->rq);
}

static int vrdma_kernel_qp(struct vrdma_dev *dev, struct vrdma_qp *qp,
			   const struct ib_qp_init_attr *attr,
			   u64 *sq_state, u64 *rq_state,
			   struct vrdma_pages **pages)
{
	const struct ib_qp_cap *cap = &attr->cap;
	u32 room = max_t(u32, cap->max_send_sge * sizeof(struct virtio_rdma_sge),
			 cap->max_inline_data);
	/* An atomic, and a registration, take no more. */
	u32 least = sizeof(struct virtio_rdma_sq_atomic) +
		    sizeof(struct virtio_rdma_sge);
	u32 n;
	int ret;

	qp->sq.entries = roundup_pow_of_two(max(cap->max_send_wr, 1U));
	qp->sq.entry_size = roundup_pow_of_two(max(least, room +
				vrdma_send_header(attr->qp_type)));
	ret = vrdma_wq_alloc(dev, &qp->sq);
	if (ret)
		return ret;
	n = vrdma_ring_pages(qp->sq.entries, qp->sq.entry_size);
	if (!attr->srq) {
		qp->rq.entries = roundup_pow_of_two(max(cap->max_recv_wr, 1U));
		qp->rq.entry_size =
			roundup_pow_of_two(sizeof(struct virtio_rdma_rq_entry) +
					   max(cap->max_recv_sge, 1U) *
						   sizeof(struct virtio_rdma_sge));
		ret = vrdma_wq_alloc(dev, &qp->rq);
		if (ret)
			goto fail;
		n += vrdma_ring_pages(qp->rq.entries, qp->rq.entry_size);
		*rq_state = qp->rq.state_dma;
	}
	*sq_state = qp->sq.state_dma;
	*pages = vrdma_pages_alloc(dev, n);
	if (!*pages) {
		ret = -ENOMEM;
		goto fail;
	}
	vrdma_ring_add_pages(&qp->sq.ring, *pages);
	if (!attr->srq)
		vrdma_ring_add_pages(&qp->rq.ring, *pages);
	return 0;
fail:
	vrdma_free_qp(dev, qp);
	return ret;
}

static int vrdma_user_qp(struct vrdma_dev *dev, struct vrdma_qp *qp,
			 const struct ib_qp_init_attr *attr,
			 struct ib_udata *udata, u64 *sq_state, u64 *rq_state,
			 struct vrdma_pages **pages)
{
	struct virtio_rdma_ureq_create_qp request;
	u32 n;
	int ret;

	ret = vrdma_copy_in(udata, &request, sizeof(request));
	if (ret)
		return ret;
	if (!vrdma_wq_fits(request.sq_entries, dev->limits.max_sq_entries,
			   request.sq_entry_size,
			   sizeof(struct virtio_rdma_sq_atomic) +
				   sizeof(struct virtio_rdma_sge)))
		return -EINVAL;
	n = vrdma_ring_pages(request.sq_entries, request.sq_entry_size);
	if (attr->srq) {
		if (request.rq_entries || request.rq_entry_size)
			return -EINVAL;
	} else {
		if (!vrdma_wq_fits(request.rq_entries,
				   dev->limits.max_rq_entries,
				   request.rq_entry_size,
				   sizeof(struct virtio_rdma_rq_entry) +
					   sizeof(struct virtio_rdma_sge)))
			return -EINVAL;
		n += vrdma_ring_pages(request.rq_entries,
				      request.rq_entry_size);
	}
	qp->sq.entries = request.sq_entries;
	qp->sq.entry_size = request.sq_entry_size;
	qp->rq.entries = request.rq_entries;
	qp->rq.entry_size = request.rq_entry_size;
	qp->umem = vrdma_queue_umem(dev, request.buf, n, sq_state, pages);
	if (IS_ERR(qp->umem)) {
		ret = PTR_ERR(qp->umem);
		qp->umem = NULL;
		return ret;
	}
	if (!attr->srq)
		*rq_state = *sq_state + VIRTIO_RDMA_RQ_STATE_OFFSET;
	return 0;
}

static int vrdma_check_qp(struct vrdma_dev *dev,
			  const struct ib_qp_init_attr *attr)
{
	const struct vrdma_limits *limits = &dev->limits;
	const struct ib_qp_cap *cap = &attr->cap;

	if (attr->create_flags)
		return -EOPNOTSUPP;
	if (attr->qp_type != IB_QPT_RC && attr->qp_type != IB_QPT_UD &&
	    attr->qp_type != IB_QPT_GSI)
		return -EOPNOTSUPP;
	if (cap->max_send_wr > limits->max_sq_entries ||
	    cap->max_send_sge > limits->max_send_sges ||
	    cap->max_inline_data > limits->max_inline)
		return -EINVAL;
	if (!attr->srq && (cap->max_recv_wr > limits->max_rq_entries ||
			   cap->max_recv_sge > limits->max_recv_sges))
		return -EINVAL;
	return 0;
}

int vrdma_create_qp(struct ib_qp *ibqp, struct ib_qp_init_attr *attr,
		    struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibqp->device);
	struct virtio_rdma_create_qp request = {
		.request.command = cpu_to_le32(VIRTIO_RDMA_CREATE_QP),
		.request.object = cpu_to_le32(to_vpd(ibqp->pd)->pdn),
		.context = cpu_to_le32(vrdma_context(udata)),
		.type = vrdma_qp_type(attr->qp_type),
		.send_cq = cpu_to_le32(to_vcq(attr->send_cq)->cqn),
		.recv_cq = cpu_to_le32(to_vcq(attr->recv_cq)->cqn),
	};
	struct virtio_rdma_uresp_create_qp response = {};
	struct vrdma_qp *qp = to_vqp(ibqp);
	struct virtio_rdma_reply reply;
	u64 sq_state, rq_state = 0;
	struct vrdma_pages *pages;
	int ret;

	ret = vrdma_check_qp(dev, attr);
	if (ret)
		return ret;
	vrdma_ref_init(&qp->ref);
	mutex_init(&qp->mutex);
	qp->state = IB_QPS_RESET;
	qp->user = !!udata;
	qp->signal_all = attr->sq_sig_type == IB_SIGNAL_ALL_WR;
	if (udata)
		ret = vrdma_user_qp(dev, qp, attr, udata, &sq_state, &rq_state,
				    &pages);
	else
		ret = vrdma_kernel_qp(dev, qp, attr, &sq_state, &rq_state,
				      &pages);
	if (ret)
		return ret;

	if (qp->signal_all)
		request.flags |= VIRTIO_RDMA_QP_SIGNAL_ALL;
	if (attr->srq) {
		request.flags |= VIRTIO_RDMA_QP_USES_SRQ;
		request.srq = cpu_to_le32(to_vsrq(attr->srq)->srqn);
	}
	request.sq_entries = cpu_to_le16(qp->sq.entries);
	request.sq_entry_size = cpu_to_le16(qp->sq.entry_size);
	request.rq_entries = cpu_to_le16(qp->rq.entries);
	request.rq_entry_size = cpu_to_le16(qp->rq.entry_size);
	request.sq_state = cpu_to_le64(sq_state);
	request.rq_state = cpu_to_le64(rq_state);
	ret = vrdma_exec(dev, &request, sizeof(request), pages, &reply,
			 sizeof(reply));
	if (ret)
		goto err_memory;
	qp->qpn = le32_to_cpu(reply.object);
	ibqp->qp_num = qp->qpn;
	ret = xa_insert_irq(&dev->qps, qp->qpn, qp, GFP_KERNEL);
	if (ret)
		goto err_destroy;

	vrdma_send_limits(dev, qp, attr->qp_type);
	attr->cap.max_send_wr = qp->sq.entries;
	attr->cap.max_send_sge = qp->sq.max_sges;
	attr->cap.max_inline_data = qp->sq.max_inline;
	if (!attr->srq) {
		qp->rq.max_sges = vrdma_recv_sges(dev, qp->rq.entry_size);
		attr->cap.max_recv_wr = qp->rq.entries;
		attr->cap.max_recv_sge = qp->rq.max_sges;
	}
	if (udata) {
		response.qpn = qp->qpn;
		ret = vrdma_copy_out(udata, &response, sizeof(response));
		if (ret)
			goto err_erase;
	}
	return 0;

err_erase:
	xa_erase_irq(&dev->qps, qp->qpn);
err_destroy:
	vrdma_destroy(dev, VIRTIO_RDMA_DESTROY_QP, qp->qpn);
err_memory:
	vrdma_free_qp(dev, qp);
	return ret;
}

/* Behind this, nobody who polls has the QP in hand: it is found no more. */
static void vrdma_wait_for_poll(struct ib_cq *ibcq)
{
	struct vrdma_cq *cq = to_vcq(ibcq);

	spin_lock_irq(&cq->lock);
	spin_unlock_irq(&cq->lock);
}

/* [virtio-rdma CTL-15] */
int vrdma_destroy_qp(struct ib_qp *ibqp, struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibqp->device);
	struct vrdma_qp *qp = to_vqp(ibqp);
	int ret;

	ret = vrdma_destroy(dev, VIRTIO_RDMA_DESTROY_QP, qp->qpn);
	if (ret)
		return ret;
	xa_erase_irq(&dev->qps, qp->qpn);
	vrdma_wait_for_poll(ibqp->send_cq);
	vrdma_wait_for_poll(ibqp->recv_cq);
	vrdma_ref_wait(&qp->ref);
	vrdma_free_qp(dev, qp);
	return 0;
}
