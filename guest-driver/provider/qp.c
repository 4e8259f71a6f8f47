// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause

#include <errno.h>
#include <stdlib.h>

#include "virtio_rdma.h"

struct create_qp_cmd {
	struct ibv_create_qp ibv_cmd;
	struct virtio_rdma_ureq_create_qp driver;
};

struct create_qp_resp {
	struct ib_uverbs_create_qp_resp ibv_resp;
	struct virtio_rdma_uresp_create_qp driver;
};

static bool can_create_qp(const struct virtio_rdma_uresp_alloc_context *device,
			  const struct ibv_qp_init_attr *attr)
{
	const struct ibv_qp_cap *cap = &attr->cap;

	if (attr->qp_type != IBV_QPT_RC && attr->qp_type != IBV_QPT_UD)
		return false;
	if (cap->max_send_wr > device->max_sq_entries || cap->max_send_sge > device->max_sges ||
	    cap->max_inline_data > device->max_inline)
		return false;
	return attr->srq || (cap->max_recv_wr <= device->max_rq_entries &&
			     cap->max_recv_sge <= device->max_sges);
}

/* The queues in the buffer, and what requests they take. */
static bool lay_out_queues(struct vrdma_qp *qp, const struct vrdma_context *context,
			   const struct ibv_qp_init_attr *attr)
{
	const struct virtio_rdma_uresp_alloc_context *device = &context->device;
	const bool datagrams = attr->qp_type == IBV_QPT_UD;
	const struct ibv_qp_cap *cap = &attr->cap;
	size_t sq_bytes, rq_bytes = 0;

	qp->sq.entries = vrdma_entries(cap->max_send_wr);
	qp->sq.entry_size = vrdma_send_entry_size(datagrams, cap->max_send_sge,
						  cap->max_inline_data);
	sq_bytes = vrdma_pages((size_t)qp->sq.entries * qp->sq.entry_size);
	qp->send_limits = (struct vrdma_send_limits){
		.opcodes = vrdma_send_opcodes(attr->qp_type, device->features),
		.max_sges = min_t(uint32_t, device->max_sges,
				  vrdma_send_entry_sges(datagrams, qp->sq.entry_size)),
		.max_inline = min_t(uint32_t, device->max_inline,
				    vrdma_send_entry_inline(datagrams, qp->sq.entry_size)),
		.datagrams = datagrams,
	};
	if (!attr->srq) {
		qp->rq.entries = vrdma_entries(cap->max_recv_wr);
		qp->rq.entry_size = vrdma_recv_entry_size(cap->max_recv_sge);
		qp->max_recv_sges = min_t(uint32_t, device->max_sges,
					  vrdma_recv_entry_sges(qp->rq.entry_size));
		rq_bytes = vrdma_pages((size_t)qp->rq.entries * qp->rq.entry_size);
	}

	if (!vrdma_buffer_alloc(&qp->buffer, sq_bytes + rq_bytes))
		return false;
	qp->sq.state = qp->buffer.start;
	qp->sq.slots = qp->buffer.start + VIRTIO_RDMA_PAGE_SIZE;
	qp->sq.doorbell_page = context->doorbell_page;
	if (!attr->srq) {
		qp->rq.state = qp->buffer.start + VIRTIO_RDMA_RQ_STATE_OFFSET;
		qp->rq.slots = qp->sq.slots + sq_bytes;
		qp->rq.doorbell_page = context->doorbell_page;
	}
	return true;
}

static struct ibv_qp_cap qp_capabilities(const struct vrdma_qp *qp)
{
	return (struct ibv_qp_cap){
		.max_send_wr = qp->sq.entries,
		.max_recv_wr = qp->rq.entries,
		.max_send_sge = qp->send_limits.max_sges,
		.max_recv_sge = qp->max_recv_sges,
		.max_inline_data = qp->send_limits.max_inline,
	};
}

struct ibv_qp *vrdma_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	const struct vrdma_context *context = to_vcontext(pd->context);
	struct create_qp_resp resp = {};
	struct create_qp_cmd cmd = {};
	struct vrdma_qp *qp;
	int error;

	if (!can_create_qp(&context->device, attr)) {
		errno = EINVAL;
		return NULL;
	}
	qp = calloc(1, sizeof(*qp));
	if (!qp)
		return NULL;
	if (!lay_out_queues(qp, context, attr))
		goto free_qp;

	attr->cap = qp_capabilities(qp);
	cmd.driver = (struct virtio_rdma_ureq_create_qp){
		.buf = (uintptr_t)qp->buffer.start,
		.sq_entries = qp->sq.entries,
		.sq_entry_size = qp->sq.entry_size,
		.rq_entries = qp->rq.entries,
		.rq_entry_size = qp->rq.entry_size,
	};
	error = ibv_cmd_create_qp(pd, &qp->verbs_qp.qp, attr, &cmd.ibv_cmd, sizeof(cmd),
				  &resp.ibv_resp, sizeof(resp));
	if (error) {
		errno = error;
		goto free_buffer;
	}
	attr->cap = qp_capabilities(qp);
	qp->sq.doorbell = VIRTIO_RDMA_DOORBELL(VIRTIO_RDMA_DOORBELL_SQ, resp.driver.qpn);
	qp->rq.doorbell = VIRTIO_RDMA_DOORBELL(VIRTIO_RDMA_DOORBELL_RQ, resp.driver.qpn);
	pthread_spin_init(&qp->sq_lock, PTHREAD_PROCESS_PRIVATE);
	pthread_spin_init(&qp->rq_lock, PTHREAD_PROCESS_PRIVATE);
	return &qp->verbs_qp.qp;

free_buffer:
	vrdma_buffer_free(&qp->buffer);
free_qp:
	free(qp);
	return NULL;
}

static void drop_completions(const struct ibv_qp *qp)
{
	vrdma_drop_completions(qp->send_cq, qp->qp_num);
	if (qp->recv_cq != qp->send_cq)
		vrdma_drop_completions(qp->recv_cq, qp->qp_num);
}

/* The device has forgotten what was posted, and begins at index 0 (REQ-2, REQ-4). */
/* [virtio-rdma REQ-2] */
static void restart_queues(struct vrdma_qp *qp)
{
	pthread_spin_lock(&qp->sq_lock);
	vrdma_ring_restart(&qp->sq);
	pthread_spin_unlock(&qp->sq_lock);
	if (qp->rq.entries == 0)
		return;
	pthread_spin_lock(&qp->rq_lock);
	vrdma_ring_restart(&qp->rq);
	pthread_spin_unlock(&qp->rq_lock);
}

int vrdma_modify_qp(struct ibv_qp *ibv_qp, struct ibv_qp_attr *attr, int mask)
{
	struct ibv_modify_qp cmd = {};
	const int error = ibv_cmd_modify_qp(ibv_qp, attr, mask, &cmd, sizeof(cmd));

	if (!error && mask & IBV_QP_STATE && attr->qp_state == IBV_QPS_RESET) {
		ibv_qp->state = IBV_QPS_RESET; /* nothing is posted from here on */
		drop_completions(ibv_qp);
		restart_queues(to_vqp(ibv_qp));
	}
	return error;
}

int vrdma_query_qp(struct ibv_qp *ibv_qp, struct ibv_qp_attr *attr, int mask,
		   struct ibv_qp_init_attr *init_attr)
{
	struct ibv_query_qp cmd;
	const int error = ibv_cmd_query_qp(ibv_qp, attr, mask, init_attr, &cmd, sizeof(cmd));

	if (!error) {
		init_attr->cap = qp_capabilities(to_vqp(ibv_qp));
		attr->cap = init_attr->cap;
	}
	return error;
}

int vrdma_destroy_qp(struct ibv_qp *ibv_qp)
{
	struct vrdma_qp *qp = to_vqp(ibv_qp);
	const int error = ibv_cmd_destroy_qp(ibv_qp);

	if (error)
		return error;
	drop_completions(ibv_qp);
	pthread_spin_destroy(&qp->sq_lock);
	pthread_spin_destroy(&qp->rq_lock);
	vrdma_buffer_free(&qp->buffer);
	free(qp);
	return 0;
}

int vrdma_post_send(struct ibv_qp *ibv_qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad_wr)
{
	struct vrdma_qp *qp = to_vqp(ibv_qp);
	int error;

	/* [virtio-rdma REQ-1] */
	if (ibv_qp->state < IBV_QPS_RTS) { /* RESET, INIT, RTR: REQ-1 */
		*bad_wr = wr;
		return EINVAL;
	}
	pthread_spin_lock(&qp->sq_lock);
	error = vrdma_ring_post_send(&qp->sq, wr, bad_wr, &qp->send_limits);
	pthread_spin_unlock(&qp->sq_lock);
	return error;
}

int vrdma_post_recv(struct ibv_qp *ibv_qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad_wr)
{
	struct vrdma_qp *qp = to_vqp(ibv_qp);
	int error;

	/* [virtio-rdma REQ-1] */
	if (ibv_qp->state == IBV_QPS_RESET || qp->rq.entries == 0) { /* REQ-1 */
		*bad_wr = wr;
		return EINVAL;
	}
	pthread_spin_lock(&qp->rq_lock);
	error = vrdma_ring_post_recv(&qp->rq, wr, bad_wr, qp->max_recv_sges);
	pthread_spin_unlock(&qp->rq_lock);
	return error;
}
