// SPDX-License-Identifier: GPL-2.0-only
/*
 * Completion queues: how they are made and destroyed. poll.c takes completions out.
 */
#include <linux/dmapool.h>
#include <linux/log2.h>

#include "virtio_rdma.h"

static void vrdma_free_cq(struct vrdma_dev *dev, struct vrdma_cq *cq)
{
	if (cq->umem) {
		ib_umem_release(cq->umem);
		return;
	}
	if (cq->state)
		dma_pool_free(dev->states, cq->state, cq->state_dma);
	vrdma_ring_free(dev, &cq->ring);
}

/* Memory of a kernel's CQ; pages are its addresses. */
static int vrdma_kernel_cq(struct vrdma_dev *dev, struct vrdma_cq *cq,
			   u64 *state, struct vrdma_pages **pages)
{
	const u32 size = sizeof(struct virtio_rdma_cq_entry);
	int ret;

	ret = vrdma_ring_alloc(dev, &cq->ring, cq->entries, size);
	if (ret)
		return ret;
	/* [virtio-rdma CTL-15] */
	cq->state = dma_pool_zalloc(dev->states, GFP_KERNEL, &cq->state_dma);
	*pages = vrdma_pages_alloc(dev, vrdma_ring_pages(cq->entries, size));
	if (!cq->state || !*pages) {
		vrdma_pages_free(*pages);
		vrdma_free_cq(dev, cq);
		return -ENOMEM;
	}
	vrdma_ring_add_pages(&cq->ring, *pages);
	*state = cq->state_dma;
	return 0;
}

/* The same of a process's. */
static int vrdma_user_cq(struct vrdma_dev *dev, struct vrdma_cq *cq,
			 struct ib_udata *udata, u64 *state,
			 struct vrdma_pages **pages)
{
	struct virtio_rdma_ureq_create_cq request;
	int ret;

	ret = vrdma_copy_in(udata, &request, sizeof(request));
	if (ret)
		return ret;
	if (!is_power_of_2(request.entries) || request.reserved ||
	    request.entries < cq->entries ||
	    request.entries > dev->limits.max_cq_entries)
		return -EINVAL;
	cq->entries = request.entries;
	cq->umem = vrdma_queue_umem(dev, request.buf,
				    vrdma_ring_pages(cq->entries,
						     sizeof(struct virtio_rdma_cq_entry)),
				    state, pages);
	if (IS_ERR(cq->umem)) {
		ret = PTR_ERR(cq->umem);
		cq->umem = NULL;
	}
	return ret;
}

int vrdma_create_cq(struct ib_cq *ibcq, const struct ib_cq_init_attr *attr,
		    VRDMA_CQ_ATTRS *attrs)
{
	struct ib_udata *udata = vrdma_cq_udata(attrs);
	struct vrdma_dev *dev = to_vdev(ibcq->device);
	struct virtio_rdma_create_cq request = {
		.request.command = cpu_to_le32(VIRTIO_RDMA_CREATE_CQ),
	};
	struct virtio_rdma_uresp_create_cq response = {};
	struct vrdma_cq *cq = to_vcq(ibcq);
	struct virtio_rdma_reply reply;
	struct vrdma_pages *pages;
	u64 state;
	int ret;

	if (attr->flags)
		return -EOPNOTSUPP;
	if (!attr->cqe || attr->cqe > dev->limits.max_cq_entries ||
	    attr->comp_vector >= dev->num_completion)
		return -EINVAL;
	spin_lock_init(&cq->lock);
	vrdma_ref_init(&cq->ref);
	cq->entries = roundup_pow_of_two(attr->cqe);
	if (udata)
		ret = vrdma_user_cq(dev, cq, udata, &state, &pages);
	else
		ret = vrdma_kernel_cq(dev, cq, &state, &pages);
	if (ret)
		return ret;

	request.request.object = cpu_to_le32(attr->comp_vector);
	request.entries = cpu_to_le32(cq->entries);
	request.state = cpu_to_le64(state);
	ret = vrdma_exec(dev, &request, sizeof(request), pages, &reply,
			 sizeof(reply));
	if (ret)
		goto err_memory;
	cq->cqn = le32_to_cpu(reply.object);
	cq->ibcq.cqe = cq->entries;
	ret = xa_insert_irq(&dev->cqs, cq->cqn, cq, GFP_KERNEL);
	if (ret)
		goto err_destroy;
	if (udata) {
		response.cqn = cq->cqn;
		ret = vrdma_copy_out(udata, &response, sizeof(response));
		if (ret)
			goto err_erase;
	}
	return 0;

err_erase:
	xa_erase_irq(&dev->cqs, cq->cqn);
err_destroy:
	vrdma_destroy(dev, VIRTIO_RDMA_DESTROY_CQ, cq->cqn);
err_memory:
	vrdma_free_cq(dev, cq);
	return ret;
}

/* [virtio-rdma CTL-15] */
int vrdma_destroy_cq(struct ib_cq *ibcq, struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibcq->device);
	struct vrdma_cq *cq = to_vcq(ibcq);
	int ret;

	ret = vrdma_destroy(dev, VIRTIO_RDMA_DESTROY_CQ, cq->cqn);
	if (ret)
		return ret;
	xa_erase_irq(&dev->cqs, cq->cqn);
	vrdma_ref_wait(&cq->ref);
	vrdma_free_cq(dev, cq);
	return 0;
}
