/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Work requests and completions of libibverbs, and what stands for them in the queues. Of
 * libibverbs it needs the public header alone.
 */
#ifndef VIRTIO_RDMA_WR_H
#define VIRTIO_RDMA_WR_H

#include <infiniband/verbs.h>

#include "ring.h"

struct vrdma_ah {
	struct ibv_ah ibv_ah;
	struct virtio_rdma_av av;
};

/* What requests a queue takes. */
struct vrdma_send_limits {
	uint32_t opcodes; /* bit n: enum ibv_wr_opcode */
	uint32_t max_sges;
	uint32_t max_inline; /* bytes */
	bool datagrams; /* each request has a destination */
};

/* The opcodes of a queue pair, by the device's features (bit n: VIRTIO_RDMA_F_*). */
uint32_t vrdma_send_opcodes(enum ibv_qp_type type, uint32_t features);

/*
 * The size of a send queue's entries, such that each opcode has room for max_sges and for
 * max_inline bytes: a power of two, at least 64. And what has room in an entry of such a size.
 */
uint32_t vrdma_send_entry_size(bool datagrams, uint32_t max_sges, uint32_t max_inline);
uint32_t vrdma_send_entry_sges(bool datagrams, uint32_t entry_size);
uint32_t vrdma_send_entry_inline(bool datagrams, uint32_t entry_size);
/* The same for a receive queue's. */
uint32_t vrdma_recv_entry_size(uint32_t max_sges);
uint32_t vrdma_recv_entry_sges(uint32_t entry_size);

/* Write an entry. They return 0, or EINVAL for a request that the queue does not take. */
int vrdma_write_send(void *slot, const struct ibv_send_wr *wr,
		     const struct vrdma_send_limits *limits);
int vrdma_write_recv(void *slot, const struct ibv_recv_wr *wr, uint32_t max_sges);

/*
 * Post a list: one doorbell for all, if any. They return 0, ENOMEM where the queue is full, or
 * EINVAL; *bad_wr is then the first that has not been posted.
 */
int vrdma_ring_post_send(struct vrdma_ring *ring, struct ibv_send_wr *wr,
			 struct ibv_send_wr **bad_wr, const struct vrdma_send_limits *limits);
int vrdma_ring_post_recv(struct vrdma_ring *ring, struct ibv_recv_wr *wr,
			 struct ibv_recv_wr **bad_wr, uint32_t max_sges);

/* Takes up to num completions out, and returns how many. */
int vrdma_cq_ring_poll(struct vrdma_cq_ring *cq, int num, struct ibv_wc *wc);

#endif
