/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR BSD-2-Clause */
/*
 * What Linux's virtio_rdma driver and rdma-core's provider tell each other, beside what
 * docs/virtio-rdma has. Every object's queues are in one buffer of the process: page aligned,
 * zeroed, not shared with another object. Its first page has the queues' states (those of the
 * SQ, CQ or SRQ at byte 0, that of the RQ at byte 128); the entries follow from the second
 * page on, those of the RQ from the page after the SQ's last.
 */
#ifndef VIRTIO_RDMA_USER_ABI_H
#define VIRTIO_RDMA_USER_ABI_H

#include <linux/types.h>

#define VIRTIO_RDMA_ABI_VERSION 1

#define VIRTIO_RDMA_RQ_STATE_OFFSET 128

struct virtio_rdma_uresp_alloc_context {
	__aligned_u64 doorbell; /* offset for mmap() of 4096 bytes */
	__u32 max_sq_entries;
	__u32 max_rq_entries;
	__u32 max_srq_entries;
	__u32 max_cq_entries;
	__u16 max_sges;
	__u16 max_inline; /* bytes */
	__u32 features; /* VIRTIO_RDMA_F_*: bit n */
};

struct virtio_rdma_uresp_alloc_pd {
	__u32 pdn;
	__u32 reserved;
};

struct virtio_rdma_ureq_create_cq {
	__aligned_u64 buf;
	__u32 entries; /* a power of two */
	__u32 reserved;
};
struct virtio_rdma_uresp_create_cq {
	__u32 cqn;
	__u32 reserved;
};

struct virtio_rdma_ureq_create_srq {
	__aligned_u64 buf;
	__u32 entries; /* a power of two */
	__u32 entry_size; /* bytes, a power of two */
};
struct virtio_rdma_uresp_create_srq {
	__u32 srqn;
	__u32 reserved;
};

struct virtio_rdma_ureq_create_qp {
	__aligned_u64 buf;
	__u32 sq_entries; /* powers of two; those of the RQ are 0 with an SRQ */
	__u32 sq_entry_size; /* bytes */
	__u32 rq_entries;
	__u32 rq_entry_size;
};
struct virtio_rdma_uresp_create_qp {
	__u32 qpn;
	__u32 reserved;
};

/*
 * An address handle is the process's own: the kernel resolves the destination's Ethernet address
 * and gives back what stands in a datagram's entry.
 */
struct virtio_rdma_uresp_create_ah {
	__u8 av[32]; /* struct virtio_rdma_av */
};

#endif
