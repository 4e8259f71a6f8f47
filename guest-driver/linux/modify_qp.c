// SPDX-License-Identifier: GPL-2.0-only
/*
 * A queue pair's attributes and states.
 */
#include <linux/capability.h>
#include <rdma/ib_mad.h>

#include "virtio_rdma.h"

/* Attributes that are the device's, and those that are always the same on RoCE. */
static const struct {
	u32 ib;
	u32 device;
} vrdma_attributes[] = {
	{ IB_QP_STATE, VIRTIO_RDMA_ATTR_STATE },
	{ IB_QP_CUR_STATE, VIRTIO_RDMA_ATTR_CURRENT_STATE },
	{ IB_QP_ACCESS_FLAGS, VIRTIO_RDMA_ATTR_ACCESS },
	{ IB_QP_QKEY, VIRTIO_RDMA_ATTR_QKEY },
	{ IB_QP_AV, VIRTIO_RDMA_ATTR_AV },
	{ IB_QP_PATH_MTU, VIRTIO_RDMA_ATTR_PATH_MTU },
	{ IB_QP_TIMEOUT, VIRTIO_RDMA_ATTR_TIMEOUT },
	{ IB_QP_RETRY_CNT, VIRTIO_RDMA_ATTR_RETRY_COUNT },
	{ IB_QP_RNR_RETRY, VIRTIO_RDMA_ATTR_RNR_RETRY },
	{ IB_QP_RQ_PSN, VIRTIO_RDMA_ATTR_RQ_PSN },
	{ IB_QP_MAX_QP_RD_ATOMIC, VIRTIO_RDMA_ATTR_MAX_RD_ATOMIC },
	{ IB_QP_MIN_RNR_TIMER, VIRTIO_RDMA_ATTR_MIN_RNR_TIMER },
	{ IB_QP_SQ_PSN, VIRTIO_RDMA_ATTR_SQ_PSN },
	{ IB_QP_MAX_DEST_RD_ATOMIC, VIRTIO_RDMA_ATTR_MAX_DEST_RD_ATOMIC },
	{ IB_QP_DEST_QPN, VIRTIO_RDMA_ATTR_DEST_QPN },
	{ IB_QP_EN_SQD_ASYNC_NOTIFY, VIRTIO_RDMA_ATTR_SQD_EVENT },
	{ IB_QP_PKEY_INDEX, 0 },
	{ IB_QP_PORT, 0 },
};

/* The device's mask of attributes; -EOPNOTSUPP for what it does not have. */
static int vrdma_attribute_mask(int mask, u32 *to)
{
	unsigned int i;
	u32 known = 0;

	*to = 0;
	for (i = 0; i < ARRAY_SIZE(vrdma_attributes); i++) {
		known |= vrdma_attributes[i].ib;
		if (mask & vrdma_attributes[i].ib)
			*to |= vrdma_attributes[i].device;
	}
	return mask & ~known ? -EOPNOTSUPP : 0;
}

static u8 vrdma_to_state(enum ib_qp_state state)
{
	switch (state) {
	case IB_QPS_RESET:
		return VIRTIO_RDMA_QP_RESET;
	case IB_QPS_INIT:
		return VIRTIO_RDMA_QP_INIT;
	case IB_QPS_RTR:
		return VIRTIO_RDMA_QP_RTR;
	case IB_QPS_RTS:
		return VIRTIO_RDMA_QP_RTS;
	case IB_QPS_SQD:
		return VIRTIO_RDMA_QP_SQD;
	case IB_QPS_SQE:
		return VIRTIO_RDMA_QP_SQE;
	default:
		return VIRTIO_RDMA_QP_ERR;
	}
}

static enum ib_qp_state vrdma_from_state(u8 state)
{
	switch (state) {
	case VIRTIO_RDMA_QP_RESET:
		return IB_QPS_RESET;
	case VIRTIO_RDMA_QP_INIT:
		return IB_QPS_INIT;
	case VIRTIO_RDMA_QP_RTR:
		return IB_QPS_RTR;
	case VIRTIO_RDMA_QP_RTS:
		return IB_QPS_RTS;
	case VIRTIO_RDMA_QP_SQD:
		return IB_QPS_SQD;
	case VIRTIO_RDMA_QP_SQE:
		return IB_QPS_SQE;
	default:
		return IB_QPS_ERR;
	}
}

static void vrdma_to_attributes(struct vrdma_dev *dev,
				const struct ib_qp_attr *attr, int mask,
				struct virtio_rdma_qp_attributes *to)
{
	if (mask & IB_QP_STATE)
		to->state = vrdma_to_state(attr->qp_state);
	if (mask & IB_QP_CUR_STATE)
		to->current_state = vrdma_to_state(attr->cur_qp_state);
	if (mask & IB_QP_ACCESS_FLAGS)
		to->access = cpu_to_le32(vrdma_access(dev, attr->qp_access_flags));
	if (mask & IB_QP_QKEY)
		to->qkey = cpu_to_le32(attr->qkey);
	if (mask & IB_QP_AV)
		vrdma_av(&attr->ah_attr, &to->av);
	if (mask & IB_QP_PATH_MTU)
		to->path_mtu = attr->path_mtu;
	if (mask & IB_QP_TIMEOUT)
		to->timeout = attr->timeout;
	if (mask & IB_QP_RETRY_CNT)
		to->retry_count = attr->retry_cnt;
	if (mask & IB_QP_RNR_RETRY)
		to->rnr_retry = attr->rnr_retry;
	if (mask & IB_QP_RQ_PSN)
		to->rq_psn = cpu_to_le32(attr->rq_psn & 0xffffff);
	if (mask & IB_QP_MAX_QP_RD_ATOMIC)
		to->max_rd_atomic = attr->max_rd_atomic;
	if (mask & IB_QP_MIN_RNR_TIMER)
		to->min_rnr_timer = attr->min_rnr_timer;
	if (mask & IB_QP_SQ_PSN)
		to->sq_psn = cpu_to_le32(attr->sq_psn & 0xffffff);
	if (mask & IB_QP_MAX_DEST_RD_ATOMIC)
		to->max_dest_rd_atomic = attr->max_dest_rd_atomic;
	if (mask & IB_QP_DEST_QPN)
		to->dest_qpn = cpu_to_le32(attr->dest_qp_num & 0xffffff);
	if (mask & IB_QP_EN_SQD_ASYNC_NOTIFY)
		to->sqd_event = attr->en_sqd_async_notify;
}

static int vrdma_check_attr(struct vrdma_qp *qp, const struct ib_qp_attr *attr,
			    int mask)
{
	if (mask & IB_QP_PORT && attr->port_num != VRDMA_PORT)
		return -EINVAL;
	if (mask & IB_QP_PKEY_INDEX && attr->pkey_index)
		return -EINVAL;
	if (mask & IB_QP_AV &&
	    (attr->ah_attr.type != RDMA_AH_ATTR_TYPE_ROCE ||
	     !(rdma_ah_get_ah_flags(&attr->ah_attr) & IB_AH_GRH)))
		return -EINVAL;
#if !VRDMA_CORE_CHECKS_QKEY
	/* [virtio-rdma SEC-4] */
	if (qp->user && mask & IB_QP_QKEY && attr->qkey & IB_QP_SET_QKEY &&
	    !capable(CAP_NET_RAW))
		return -EPERM;
#endif
	return 0;
}

/* [virtio-rdma REQ-2] */
static void vrdma_rewind(struct vrdma_wq *wq)
{
	unsigned long flags;

	if (!wq->state)
		return;
	spin_lock_irqsave(&wq->lock, flags);
	wq->producer = 0;
	WRITE_ONCE(wq->state->producer, cpu_to_le32(0));
	spin_unlock_irqrestore(&wq->lock, flags);
}

static void vrdma_wait_for_post(struct vrdma_wq *wq)
{
	if (!wq->state)
		return;
	spin_lock_irq(&wq->lock);
	spin_unlock_irq(&wq->lock);
}

/* Changes the state that posting goes by, behind those that are posting. */
static void vrdma_set_state(struct vrdma_qp *qp, enum ib_qp_state state)
{
	WRITE_ONCE(qp->state, state);
	vrdma_wait_for_post(&qp->sq);
	vrdma_wait_for_post(&qp->rq);
}

static int vrdma_change_qp(struct vrdma_dev *dev, struct vrdma_qp *qp,
			   const struct ib_qp_attr *attr, int mask)
{
	struct virtio_rdma_modify_qp request = {
		.request.command = cpu_to_le32(VIRTIO_RDMA_MODIFY_QP),
		.request.object = cpu_to_le32(qp->qpn),
	};
	enum ib_qp_state old = qp->state, new;
	struct virtio_rdma_reply reply;
	u32 attributes;
	int ret;

	if (mask & IB_QP_CUR_STATE)
		old = attr->cur_qp_state;
	new = mask & IB_QP_STATE ? attr->qp_state : old;
	if (!ib_modify_qp_is_ok(old, new, qp->ibqp.qp_type, mask))
		return -EINVAL;
	ret = vrdma_attribute_mask(mask, &attributes);
	if (ret)
		return ret;
	request.attributes.mask = cpu_to_le32(attributes);
	vrdma_to_attributes(dev, attr, mask, &request.attributes);

	old = qp->state;
	/* Nothing is posted any more while the device forgets what has been (REQ-1, REQ-2). */
	if (new == IB_QPS_RESET)
		vrdma_set_state(qp, new);
	ret = vrdma_exec(dev, &request, sizeof(request), NULL, &reply,
			 sizeof(reply));
	if (ret) {
		if (new == IB_QPS_RESET)
			vrdma_set_state(qp, old);
		return ret;
	}
	if (new == IB_QPS_RESET) {
		vrdma_rewind(&qp->sq);
		vrdma_rewind(&qp->rq);
	}
	vrdma_set_state(qp, new);
	return 0;
}

int vrdma_modify_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		    struct ib_udata *udata)
{
	struct vrdma_qp *qp = to_vqp(ibqp);
	int ret;

	ret = vrdma_check_attr(qp, attr, mask);
	if (ret)
		return ret;
	mutex_lock(&qp->mutex);
	ret = vrdma_change_qp(to_vdev(ibqp->device), qp, attr, mask);
	mutex_unlock(&qp->mutex);
	return ret;
}

static void vrdma_from_av(const struct virtio_rdma_av *av,
			  struct rdma_ah_attr *attr)
{
	union ib_gid dgid;

	memcpy(dgid.raw, av->dgid, sizeof(dgid.raw));
	attr->type = RDMA_AH_ATTR_TYPE_ROCE;
	rdma_ah_set_port_num(attr, VRDMA_PORT);
	rdma_ah_set_sl(attr, av->sl);
	rdma_ah_set_grh(attr, &dgid, le32_to_cpu(av->flow_label),
			le16_to_cpu(av->sgid_index), av->hop_limit,
			av->traffic_class);
	memcpy(attr->roce.dmac, av->dmac, sizeof(attr->roce.dmac));
}

static int vrdma_from_access(u32 rights)
{
	int access = 0;

	if (rights & VIRTIO_RDMA_LOCAL_WRITE)
		access |= IB_ACCESS_LOCAL_WRITE;
	if (rights & VIRTIO_RDMA_REMOTE_WRITE)
		access |= IB_ACCESS_REMOTE_WRITE;
	if (rights & VIRTIO_RDMA_REMOTE_READ)
		access |= IB_ACCESS_REMOTE_READ;
	if (rights & VIRTIO_RDMA_REMOTE_ATOMIC)
		access |= IB_ACCESS_REMOTE_ATOMIC;
	return access;
}

int vrdma_query_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		   struct ib_qp_init_attr *init_attr)
{
	struct vrdma_qp *qp = to_vqp(ibqp);
	const struct virtio_rdma_request request = {
		.command = cpu_to_le32(VIRTIO_RDMA_QUERY_QP),
		.object = cpu_to_le32(qp->qpn),
	};
	struct virtio_rdma_query_qp_reply reply;
	const struct virtio_rdma_qp_attributes *from = &reply.attributes;
	int ret;

	ret = vrdma_exec(to_vdev(ibqp->device), &request, sizeof(request),
			 NULL, &reply, sizeof(reply));
	if (ret)
		return ret;
	memset(attr, 0, sizeof(*attr));
	memset(init_attr, 0, sizeof(*init_attr));
	attr->qp_state = vrdma_from_state(from->state);
	attr->cur_qp_state = attr->qp_state;
	attr->path_mtu = (enum ib_mtu)from->path_mtu;
	attr->path_mig_state = IB_MIG_MIGRATED;
	attr->qkey = le32_to_cpu(from->qkey);
	attr->rq_psn = le32_to_cpu(from->rq_psn);
	attr->sq_psn = le32_to_cpu(from->sq_psn);
	attr->dest_qp_num = le32_to_cpu(from->dest_qpn);
	attr->qp_access_flags = vrdma_from_access(le32_to_cpu(from->access));
	attr->cap.max_send_wr = qp->sq.entries;
	attr->cap.max_recv_wr = qp->rq.entries;
	attr->cap.max_send_sge = qp->sq.max_sges;
	attr->cap.max_recv_sge = qp->rq.max_sges;
	attr->cap.max_inline_data = qp->sq.max_inline;
	if (ibqp->qp_type == IB_QPT_RC)
		vrdma_from_av(&from->av, &attr->ah_attr);
	attr->sq_draining = from->sq_draining;
	attr->max_rd_atomic = from->max_rd_atomic;
	attr->max_dest_rd_atomic = from->max_dest_rd_atomic;
	attr->min_rnr_timer = from->min_rnr_timer;
	attr->port_num = VRDMA_PORT;
	attr->timeout = from->timeout;
	attr->retry_cnt = from->retry_count;
	attr->rnr_retry = from->rnr_retry;

	init_attr->event_handler = ibqp->event_handler;
	init_attr->qp_context = ibqp->qp_context;
	init_attr->send_cq = ibqp->send_cq;
	init_attr->recv_cq = ibqp->recv_cq;
	init_attr->srq = ibqp->srq;
	init_attr->cap = attr->cap;
	init_attr->sq_sig_type = qp->signal_all ? IB_SIGNAL_ALL_WR :
						  IB_SIGNAL_REQ_WR;
	init_attr->qp_type = ibqp->qp_type;
	init_attr->port_num = VRDMA_PORT;
	return 0;
}
