/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The provider's objects, each around the one that libibverbs has of it. */
#ifndef VIRTIO_RDMA_H
#define VIRTIO_RDMA_H

#include <pthread.h>
#include <stddef.h>

#include <ccan/minmax.h>
#include <infiniband/driver.h>
#include <util/util.h>

#include "virtio_rdma-abi.h"
#include "wr.h"

struct vrdma_context {
	struct verbs_context ibv_ctx;
	struct virtio_rdma_uresp_alloc_context device;
	void *doorbell_page;
};

struct vrdma_pd {
	struct ibv_pd ibv_pd;
	uint32_t pdn;
};

/* What the kernel and the device are told of: states in the first page, entries behind it. */
struct vrdma_buffer {
	void *start;
	size_t length; /* bytes */
};

struct vrdma_cq {
	struct verbs_cq verbs_cq;
	struct vrdma_buffer buffer;
	pthread_spinlock_t lock;
	struct vrdma_cq_ring ring;
};

struct vrdma_srq {
	struct ibv_srq ibv_srq;
	struct vrdma_buffer buffer;
	pthread_spinlock_t lock;
	struct vrdma_ring ring;
	uint32_t max_sges;
};

struct vrdma_qp {
	struct verbs_qp verbs_qp;
	struct vrdma_buffer buffer;
	pthread_spinlock_t sq_lock, rq_lock;
	struct vrdma_ring sq, rq; /* with an SRQ, the RQ has no entries */
	struct vrdma_send_limits send_limits;
	uint32_t max_recv_sges;
};

static inline struct vrdma_context *to_vcontext(struct ibv_context *context)
{
	return container_of(context, struct vrdma_context, ibv_ctx.context);
}

static inline struct vrdma_cq *to_vcq(struct ibv_cq *cq)
{
	return container_of(cq, struct vrdma_cq, verbs_cq.cq);
}

static inline struct vrdma_srq *to_vsrq(struct ibv_srq *srq)
{
	return container_of(srq, struct vrdma_srq, ibv_srq);
}

static inline struct vrdma_qp *to_vqp(struct ibv_qp *qp)
{
	return container_of(qp, struct vrdma_qp, verbs_qp.qp);
}

/*
 * A zeroed buffer for the states of an object's queues and for so many bytes of entries; pages
 * that no fork() shares. False where there is no memory.
 */
bool vrdma_buffer_alloc(struct vrdma_buffer *buffer, size_t entries);
void vrdma_buffer_free(struct vrdma_buffer *buffer);

/* Bytes of a queue's pages. */
static inline size_t vrdma_pages(size_t bytes)
{
	return align(bytes, VIRTIO_RDMA_PAGE_SIZE);
}

/* The number of entries for a queue that is to have at least so many. */
static inline uint32_t vrdma_entries(uint32_t least)
{
	return (uint32_t)roundup_pow_of_two(least ? least : 1);
}

/* verbs.c: PDs, regions and address handles. */
struct ibv_pd *vrdma_alloc_pd(struct ibv_context *context);
int vrdma_dealloc_pd(struct ibv_pd *pd);
struct ibv_mr *vrdma_reg_mr(struct ibv_pd *pd, void *addr, size_t length, uint64_t hca_va,
			    int access);
int vrdma_dereg_mr(struct verbs_mr *vmr);
struct ibv_ah *vrdma_create_ah(struct ibv_pd *pd, struct ibv_ah_attr *attr);
int vrdma_destroy_ah(struct ibv_ah *ah);

/* cq.c */
struct ibv_cq *vrdma_create_cq(struct ibv_context *context, int cqe,
			       struct ibv_comp_channel *channel, int comp_vector);
int vrdma_destroy_cq(struct ibv_cq *cq);
int vrdma_poll_cq(struct ibv_cq *cq, int num_entries, struct ibv_wc *wc);
int vrdma_req_notify_cq(struct ibv_cq *cq, int solicited_only);
/* Completions of a queue pair that has been destroyed or reset are given out no more. */
void vrdma_drop_completions(struct ibv_cq *cq, uint32_t qpn);

/* srq.c */
struct ibv_srq *vrdma_create_srq(struct ibv_pd *pd, struct ibv_srq_init_attr *attr);
int vrdma_modify_srq(struct ibv_srq *srq, struct ibv_srq_attr *attr, int mask);
int vrdma_query_srq(struct ibv_srq *srq, struct ibv_srq_attr *attr);
int vrdma_destroy_srq(struct ibv_srq *srq);
int vrdma_post_srq_recv(struct ibv_srq *srq, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad_wr);

/* qp.c */
struct ibv_qp *vrdma_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr);
int vrdma_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask);
int vrdma_query_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask,
		   struct ibv_qp_init_attr *init_attr);
int vrdma_destroy_qp(struct ibv_qp *qp);
int vrdma_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad_wr);
int vrdma_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad_wr);

#endif
