/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Work queues and completion queues in memory that the process shares with the device:
 * indices, doorbells, phases and arming (docs/virtio-rdma/queues.md). It needs nothing of
 * libibverbs. Callers hold the queue's lock.
 */
#ifndef VIRTIO_RDMA_RING_H
#define VIRTIO_RDMA_RING_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "virtio_rdma_abi.h"

/* All accesses before it are seen before all after it, by the device too. */
static inline void vrdma_full_barrier(void)
{
#ifdef __aarch64__
	/* The device may be outside of what processors share (VIRTIO_F_ORDER_PLATFORM). */
	__asm__ volatile("dmb sy" ::: "memory");
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

static inline uint32_t vrdma_read(const __le32 *word)
{
	return le32toh(__atomic_load_n(word, __ATOMIC_RELAXED));
}

/* What the device wrote before the word is seen after it. */
static inline uint32_t vrdma_read_acquire(const __le32 *word)
{
	return le32toh(__atomic_load_n(word, __ATOMIC_ACQUIRE));
}

/* All reads and writes before it are over when the device sees the word. */
static inline void vrdma_publish(__le32 *word, uint32_t value)
{
	__atomic_store_n(word, htole32(value), __ATOMIC_RELEASE);
}

/* A send queue, receive queue or shared receive queue. */
struct vrdma_ring {
	struct virtio_rdma_queue_state *state;
	uint8_t *slots;
	void *doorbell_page;
	uint32_t doorbell; /* VIRTIO_RDMA_DOORBELL() of this queue */
	uint32_t entries; /* a power of two */
	uint32_t entry_size; /* bytes, a power of two */
	uint32_t next; /* index of the next entry to be written */
	uint32_t producer; /* as published last */
	uint32_t consumer; /* as read last */
};

/* Both sides begin at index 0 again: at creation, and after the reply to a reset (REQ-2). */
static inline void vrdma_ring_restart(struct vrdma_ring *ring)
{
	ring->next = 0;
	ring->producer = 0;
	ring->consumer = 0;
	/* [virtio-rdma REQ-2] */
	vrdma_publish(&ring->state->producer, 0);
}

/*
 * The slot of the next entry, or NULL while there is no free one (QUE-1). The caller fills it,
 * and adds 1 to next; the device sees it after vrdma_ring_submit().
 */
static inline void *vrdma_ring_slot(struct vrdma_ring *ring)
{
	if (ring->next - ring->consumer >= ring->entries) {
		/* [virtio-rdma QUE-1] */
		ring->consumer = vrdma_read_acquire(&ring->state->consumer);
		if (ring->next - ring->consumer >= ring->entries)
			return NULL;
	}
	return ring->slots + (size_t)(ring->next & (ring->entries - 1)) * ring->entry_size;
}

/* Publishes all entries up to next, and rings the doorbell if the device wants it (QUE-2 to 4). */
static inline void vrdma_ring_submit(struct vrdma_ring *ring)
{
	const uint32_t old = ring->producer, new_ = ring->next;

	if (old == new_)
		return;
	ring->producer = new_;
	/* [virtio-rdma QUE-2] */
	vrdma_publish(&ring->state->producer, new_);
	/* [virtio-rdma QUE-3] */
	vrdma_full_barrier();
	/* [virtio-rdma QUE-4] [virtio-rdma DEV-13] */
	if (new_ - 1 - vrdma_read(&ring->state->doorbell) < new_ - old)
		__atomic_store_n((volatile __le32 *)ring->doorbell_page, htole32(ring->doorbell),
				 __ATOMIC_RELAXED);
}

struct vrdma_cq_ring {
	struct virtio_rdma_cq_state *state;
	const struct virtio_rdma_cq_entry *slots;
	/*
	 * A bit for each slot: its completion is of a queue pair that has been destroyed or reset.
	 * The process must not write to entries (QUE-16).
	 */
	uint64_t *stale;
	uint32_t num_stale;
	uint32_t entries; /* a power of two */
	uint32_t consumer; /* index of the next entry to be taken out */
	uint32_t arm; /* the word written last */
};

/* Words of vrdma_cq_ring.stale. */
static inline size_t vrdma_cq_stale_words(uint32_t entries)
{
	return (entries + 63) / 64;
}

/* Entry index, or NULL if the device has not written it (QUE-13). */
static inline const struct virtio_rdma_cq_entry *vrdma_cq_entry(const struct vrdma_cq_ring *cq,
								 uint32_t index)
{
	const struct virtio_rdma_cq_entry *entry = &cq->slots[index & (cq->entries - 1)];
	const uint8_t phase = (index & cq->entries) == 0;

	/* [virtio-rdma QUE-13] */
	return __atomic_load_n(&entry->phase, __ATOMIC_ACQUIRE) == phase ? entry : NULL;
}

/*
 * Takes the next completion out, or returns NULL. The entry may be read until
 * vrdma_cq_release() has been called.
 */
static inline const struct virtio_rdma_cq_entry *vrdma_cq_next(struct vrdma_cq_ring *cq)
{
	const struct virtio_rdma_cq_entry *entry;

	while ((entry = vrdma_cq_entry(cq, cq->consumer)) != NULL) {
		const uint32_t slot = cq->consumer++ & (cq->entries - 1);
		const uint64_t bit = (uint64_t)1 << slot % 64;

		if (cq->num_stale == 0 || !(cq->stale[slot / 64] & bit))
			return entry;
		cq->stale[slot / 64] &= ~bit;
		--cq->num_stale;
	}
	return NULL;
}

/* Gives the slots of all completions that were taken out back to the device (QUE-16). */
/* [virtio-rdma QUE-16] */
static inline void vrdma_cq_release(struct vrdma_cq_ring *cq)
{
	vrdma_publish(&cq->state->consumer, cq->consumer);
}

/* The next completion, or the next one that is solicited or failed, is to send an event. */
static inline void vrdma_cq_arm(struct vrdma_cq_ring *cq, bool solicited_only)
{
	const uint32_t kind = solicited_only ? VIRTIO_RDMA_ARM_SOLICITED : VIRTIO_RDMA_ARM_NEXT;
	const uint32_t armed = cq->arm & 3;
	const bool suffices = armed == VIRTIO_RDMA_ARM_NEXT || armed == kind;

	/* Where the event of a sufficient word is still to come, the word stays (QUE-15). */
	/* [virtio-rdma QUE-15] */
	if (!suffices || vrdma_read(&cq->state->notified) == cq->arm) {
		cq->arm = (cq->arm & ~(uint32_t)3) + 4 + kind;
		vrdma_publish(&cq->state->arm, cq->arm);
	}
	/* [virtio-rdma QUE-14] */
	vrdma_full_barrier(); /* before the caller looks at the queue again (QUE-14) */
}

/*
 * A queue pair has been destroyed or reset: its completions that are in the queue are not given
 * out (CTL-21). To be called after the kernel's answer, when no more are written.
 */
/* [virtio-rdma CTL-21] */
static inline void vrdma_cq_drop(struct vrdma_cq_ring *cq, uint32_t qpn)
{
	const struct virtio_rdma_cq_entry *entry;
	uint32_t index;

	for (index = cq->consumer; index - cq->consumer < cq->entries; ++index) {
		const uint32_t slot = index & (cq->entries - 1);
		const uint64_t bit = (uint64_t)1 << slot % 64;

		entry = vrdma_cq_entry(cq, index);
		if (!entry)
			return;
		if (le32toh(entry->qpn) == qpn && !(cq->stale[slot / 64] & bit)) {
			cq->stale[slot / 64] |= bit;
			++cq->num_stale;
		}
	}
}

#endif
