// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause

#include <errno.h>
#include <stdlib.h>

#include "virtio_rdma.h"

struct create_srq_cmd {
	struct ibv_create_srq ibv_cmd;
	struct virtio_rdma_ureq_create_srq driver;
};

struct create_srq_resp {
	struct ib_uverbs_create_srq_resp ibv_resp;
	struct virtio_rdma_uresp_create_srq driver;
};

struct ibv_srq *vrdma_create_srq(struct ibv_pd *pd, struct ibv_srq_init_attr *attr)
{
	const struct vrdma_context *context = to_vcontext(pd->context);
	struct create_srq_resp resp = {};
	struct create_srq_cmd cmd = {};
	uint32_t entries, entry_size;
	struct vrdma_srq *srq;
	int error;

	if (attr->attr.max_wr > context->device.max_srq_entries ||
	    attr->attr.max_sge > context->device.max_sges) {
		errno = EINVAL;
		return NULL;
	}
	entries = vrdma_entries(attr->attr.max_wr);
	entry_size = vrdma_recv_entry_size(attr->attr.max_sge);
	srq = calloc(1, sizeof(*srq));
	if (!srq)
		return NULL;
	if (!vrdma_buffer_alloc(&srq->buffer, vrdma_pages((size_t)entries * entry_size)))
		goto free_srq;

	attr->attr.max_wr = entries;
	attr->attr.max_sge = min_t(uint32_t, vrdma_recv_entry_sges(entry_size),
				   context->device.max_sges);
	srq->max_sges = attr->attr.max_sge;
	srq->ring = (struct vrdma_ring){
		.state = srq->buffer.start,
		.slots = srq->buffer.start + VIRTIO_RDMA_PAGE_SIZE,
		.doorbell_page = context->doorbell_page,
		.entries = entries,
		.entry_size = entry_size,
	};
	cmd.driver.buf = (uintptr_t)srq->buffer.start;
	cmd.driver.entries = entries;
	cmd.driver.entry_size = entry_size;
	error = ibv_cmd_create_srq(pd, &srq->ibv_srq, attr, &cmd.ibv_cmd, sizeof(cmd),
				   &resp.ibv_resp, sizeof(resp));
	if (error) {
		errno = error;
		goto free_buffer;
	}
	attr->attr.max_wr = entries;
	attr->attr.max_sge = srq->max_sges;
	srq->ring.doorbell = VIRTIO_RDMA_DOORBELL(VIRTIO_RDMA_DOORBELL_SRQ, resp.driver.srqn);
	pthread_spin_init(&srq->lock, PTHREAD_PROCESS_PRIVATE);
	return &srq->ibv_srq;

free_buffer:
	vrdma_buffer_free(&srq->buffer);
free_srq:
	free(srq);
	return NULL;
}

int vrdma_modify_srq(struct ibv_srq *srq, struct ibv_srq_attr *attr, int mask)
{
	struct ibv_modify_srq cmd;

	return ibv_cmd_modify_srq(srq, attr, mask, &cmd, sizeof(cmd));
}

int vrdma_query_srq(struct ibv_srq *srq, struct ibv_srq_attr *attr)
{
	struct ibv_query_srq cmd;

	return ibv_cmd_query_srq(srq, attr, &cmd, sizeof(cmd));
}

int vrdma_destroy_srq(struct ibv_srq *ibv_srq)
{
	struct vrdma_srq *srq = to_vsrq(ibv_srq);
	const int error = ibv_cmd_destroy_srq(ibv_srq);

	if (error)
		return error;
	pthread_spin_destroy(&srq->lock);
	vrdma_buffer_free(&srq->buffer);
	free(srq);
	return 0;
}

int vrdma_post_srq_recv(struct ibv_srq *ibv_srq, struct ibv_recv_wr *wr,
			struct ibv_recv_wr **bad_wr)
{
	struct vrdma_srq *srq = to_vsrq(ibv_srq);
	int error;

	pthread_spin_lock(&srq->lock);
	error = vrdma_ring_post_recv(&srq->ring, wr, bad_wr, srq->max_sges);
	pthread_spin_unlock(&srq->lock);
	return error;
}
