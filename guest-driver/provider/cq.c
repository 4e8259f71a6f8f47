// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause

#include <errno.h>
#include <stdlib.h>

#include "virtio_rdma.h"

struct create_cq_cmd {
	struct ibv_create_cq ibv_cmd;
	struct virtio_rdma_ureq_create_cq driver;
};

struct create_cq_resp {
	struct ib_uverbs_create_cq_resp ibv_resp;
	struct virtio_rdma_uresp_create_cq driver;
};

struct ibv_cq *vrdma_create_cq(struct ibv_context *context, int cqe,
			       struct ibv_comp_channel *channel, int comp_vector)
{
	struct create_cq_resp resp = {};
	struct create_cq_cmd cmd = {};
	struct vrdma_cq *cq;
	uint32_t entries;
	int error;

	if (cqe < 1 || (uint32_t)cqe > to_vcontext(context)->device.max_cq_entries) {
		errno = EINVAL;
		return NULL;
	}
	entries = vrdma_entries((uint32_t)cqe);
	cq = calloc(1, sizeof(*cq));
	if (!cq)
		return NULL;
	cq->ring.stale = calloc(vrdma_cq_stale_words(entries), sizeof(*cq->ring.stale));
	if (!cq->ring.stale)
		goto free_cq;
	if (!vrdma_buffer_alloc(&cq->buffer,
				vrdma_pages(entries * sizeof(struct virtio_rdma_cq_entry))))
		goto free_stale;
	cq->ring.state = cq->buffer.start;
	cq->ring.slots = cq->buffer.start + VIRTIO_RDMA_PAGE_SIZE;
	cq->ring.entries = entries;

	cmd.driver.buf = (uintptr_t)cq->buffer.start;
	cmd.driver.entries = entries;
	error = ibv_cmd_create_cq(context, (int)entries, channel, comp_vector, &cq->verbs_cq.cq,
				  &cmd.ibv_cmd, sizeof(cmd), &resp.ibv_resp, sizeof(resp));
	if (error) {
		errno = error;
		goto free_buffer;
	}
	pthread_spin_init(&cq->lock, PTHREAD_PROCESS_PRIVATE);
	return &cq->verbs_cq.cq;

free_buffer:
	vrdma_buffer_free(&cq->buffer);
free_stale:
	free(cq->ring.stale);
free_cq:
	free(cq);
	return NULL;
}

int vrdma_destroy_cq(struct ibv_cq *ibv_cq)
{
	struct vrdma_cq *cq = to_vcq(ibv_cq);
	const int error = ibv_cmd_destroy_cq(ibv_cq);

	if (error)
		return error;
	pthread_spin_destroy(&cq->lock);
	vrdma_buffer_free(&cq->buffer);
	free(cq->ring.stale);
	free(cq);
	return 0;
}

int vrdma_poll_cq(struct ibv_cq *ibv_cq, int num_entries, struct ibv_wc *wc)
{
	struct vrdma_cq *cq = to_vcq(ibv_cq);
	int taken;

	pthread_spin_lock(&cq->lock);
	taken = vrdma_cq_ring_poll(&cq->ring, num_entries, wc);
	pthread_spin_unlock(&cq->lock);
	return taken;
}

int vrdma_req_notify_cq(struct ibv_cq *ibv_cq, int solicited_only)
{
	struct vrdma_cq *cq = to_vcq(ibv_cq);

	pthread_spin_lock(&cq->lock);
	vrdma_cq_arm(&cq->ring, solicited_only);
	pthread_spin_unlock(&cq->lock);
	return 0;
}

void vrdma_drop_completions(struct ibv_cq *ibv_cq, uint32_t qpn)
{
	struct vrdma_cq *cq = to_vcq(ibv_cq);

	pthread_spin_lock(&cq->lock);
	vrdma_cq_drop(&cq->ring, qpn);
	pthread_spin_unlock(&cq->lock);
}
