// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of queues: entries and states, of the kernel's own users and of processes.
 */
#include <linux/dma-mapping.h>
#include <linux/dmapool.h>
#include <linux/log2.h>
#include <linux/slab.h>

#include "virtio_rdma.h"

/* vrdma_ring_pages - pages of 4096 bytes that entries take */
u32 vrdma_ring_pages(u32 entries, u32 entry_size)
{
	return DIV_ROUND_UP_ULL((u64)entries * entry_size,
				VIRTIO_RDMA_PAGE_SIZE);
}

/**
 * vrdma_ring_alloc - allocate a kernel queue's entries, which are 0
 * @dev: the device
 * @ring: what is filled in
 * @entries: how many; a power of two
 * @entry_size: bytes of each; a power of two, of 4096 at most
 *
 * Return: 0 or -ENOMEM
 */
int vrdma_ring_alloc(struct vrdma_dev *dev, struct vrdma_ring *ring,
		     u32 entries, u32 entry_size)
{
	unsigned int n = DIV_ROUND_UP_ULL((u64)entries * entry_size, PAGE_SIZE);

	ring->entries = entries;
	ring->entry_size = entry_size;
	ring->num_chunks = 0;
	ring->chunks = kvcalloc(n, sizeof(*ring->chunks), GFP_KERNEL);
	ring->dma = kvcalloc(n, sizeof(*ring->dma), GFP_KERNEL);
	if (!ring->chunks || !ring->dma)
		goto fail;
	for (; ring->num_chunks < n; ring->num_chunks++) {
		unsigned int i = ring->num_chunks;

		ring->chunks[i] = dma_alloc_coherent(dev->dma_dev, PAGE_SIZE,
						     &ring->dma[i], GFP_KERNEL);
		if (!ring->chunks[i])
			goto fail;
	}
	return 0;
fail:
	vrdma_ring_free(dev, ring);
	return -ENOMEM;
}

void vrdma_ring_free(struct vrdma_dev *dev, struct vrdma_ring *ring)
{
	unsigned int i;

	for (i = 0; i < ring->num_chunks; i++)
		dma_free_coherent(dev->dma_dev, PAGE_SIZE, ring->chunks[i],
				  ring->dma[i]);
	kvfree(ring->chunks);
	kvfree(ring->dma);
	memset(ring, 0, sizeof(*ring));
}

/* vrdma_ring_add_pages - add the addresses of a ring's pages to a command's */
void vrdma_ring_add_pages(const struct vrdma_ring *ring,
			  struct vrdma_pages *pages)
{
	u32 n = vrdma_ring_pages(ring->entries, ring->entry_size);
	u32 i;

	for (i = 0; i < n; i++) {
		u64 offset = (u64)i * VIRTIO_RDMA_PAGE_SIZE;

		vrdma_pages_add(pages, ring->dma[offset >> PAGE_SHIFT] +
					       offset_in_page(offset));
	}
}

/* vrdma_wq_alloc - allocate a kernel's work queue of wq->entries of wq->entry_size bytes */
int vrdma_wq_alloc(struct vrdma_dev *dev, struct vrdma_wq *wq)
{
	int ret;

	spin_lock_init(&wq->lock);
	ret = vrdma_ring_alloc(dev, &wq->ring, wq->entries, wq->entry_size);
	if (ret)
		return ret;
	/* [virtio-rdma CTL-15] */
	wq->state = dma_pool_zalloc(dev->states, GFP_KERNEL, &wq->state_dma);
	if (!wq->state) {
		vrdma_ring_free(dev, &wq->ring);
		return -ENOMEM;
	}
	return 0;
}

/* vrdma_wq_free - free what vrdma_wq_alloc has allocated, if it has */
void vrdma_wq_free(struct vrdma_dev *dev, struct vrdma_wq *wq)
{
	if (!wq->state)
		return;
	dma_pool_free(dev->states, wq->state, wq->state_dma);
	wq->state = NULL;
	vrdma_ring_free(dev, &wq->ring);
}

/* vrdma_wq_fits - whether a process's work queue has a shape that it may have */
bool vrdma_wq_fits(u32 entries, u32 max_entries, u32 entry_size,
		   u32 min_entry_size)
{
	return is_power_of_2(entries) && entries <= max_entries &&
	       is_power_of_2(entry_size) && entry_size >= min_entry_size &&
	       entry_size <= VRDMA_MAX_ENTRY_SIZE;
}

/**
 * vrdma_queue_umem - hold the memory of a process's queues
 * @dev: the device
 * @buf: the process's address of it, page aligned: a page of states, and then the entries
 * @pages: pages of entries, of 4096 bytes
 * @state: is set to the address of the states
 * @list: is set to the addresses of the entries' pages
 *
 * Return: the memory, or an error
 */
struct ib_umem *vrdma_queue_umem(struct vrdma_dev *dev, u64 buf, u32 pages,
				 u64 *state, struct vrdma_pages **list)
{
	size_t size = ((size_t)pages + 1) * VIRTIO_RDMA_PAGE_SIZE;
	struct ib_block_iter block;
	struct ib_umem *umem;
	bool first = true;

	if (buf % VIRTIO_RDMA_PAGE_SIZE)
		return ERR_PTR(-EINVAL);
	umem = vrdma_umem_get(&dev->ibdev, buf, size, IB_ACCESS_LOCAL_WRITE);
	if (IS_ERR(umem))
		return umem;
	*list = vrdma_pages_alloc(dev, pages);
	if (!*list) {
		ib_umem_release(umem);
		return ERR_PTR(-ENOMEM);
	}
	rdma_umem_for_each_dma_block(umem, &block, VIRTIO_RDMA_PAGE_SIZE) {
		if (first)
			*state = rdma_block_iter_dma_address(&block);
		else
			vrdma_pages_add(*list,
					rdma_block_iter_dma_address(&block));
		first = false;
	}
	return umem;
}
