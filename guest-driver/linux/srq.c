// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shared receive queues.
 */
#include <linux/log2.h>

#include "virtio_rdma.h"

static void vrdma_free_srq(struct vrdma_dev *dev, struct vrdma_srq *srq)
{
	ib_umem_release(srq->umem);
	vrdma_wq_free(dev, &srq->wq);
}

static int vrdma_kernel_srq(struct vrdma_dev *dev, struct vrdma_srq *srq,
			    const struct ib_srq_attr *attr, u64 *state,
			    struct vrdma_pages **pages)
{
	struct vrdma_wq *wq = &srq->wq;
	int ret;

	wq->entries = roundup_pow_of_two(attr->max_wr);
	wq->entry_size = roundup_pow_of_two(sizeof(struct virtio_rdma_rq_entry) +
					    max(attr->max_sge, 1U) *
						    sizeof(struct virtio_rdma_sge));
	ret = vrdma_wq_alloc(dev, wq);
	if (ret)
		return ret;
	*pages = vrdma_pages_alloc(dev, vrdma_ring_pages(wq->entries,
							 wq->entry_size));
	if (!*pages) {
		vrdma_wq_free(dev, wq);
		return -ENOMEM;
	}
	vrdma_ring_add_pages(&wq->ring, *pages);
	*state = wq->state_dma;
	return 0;
}

static int vrdma_user_srq(struct vrdma_dev *dev, struct vrdma_srq *srq,
			  struct ib_udata *udata, u64 *state,
			  struct vrdma_pages **pages)
{
	struct virtio_rdma_ureq_create_srq request;
	struct vrdma_wq *wq = &srq->wq;
	int ret;

	ret = vrdma_copy_in(udata, &request, sizeof(request));
	if (ret)
		return ret;
	if (!vrdma_wq_fits(request.entries, dev->limits.max_srq_entries,
			   request.entry_size,
			   sizeof(struct virtio_rdma_rq_entry) +
				   sizeof(struct virtio_rdma_sge)))
		return -EINVAL;
	wq->entries = request.entries;
	wq->entry_size = request.entry_size;
	srq->umem = vrdma_queue_umem(dev, request.buf,
				     vrdma_ring_pages(wq->entries,
						      wq->entry_size),
				     state, pages);
	if (IS_ERR(srq->umem)) {
		ret = PTR_ERR(srq->umem);
		srq->umem = NULL;
	}
	return ret;
}

static int vrdma_arm_srq(struct vrdma_dev *dev, struct vrdma_srq *srq, u32 limit)
{
	const struct virtio_rdma_arm_srq request = {
		.request.command = cpu_to_le32(VIRTIO_RDMA_ARM_SRQ),
		.request.object = cpu_to_le32(srq->srqn),
		.limit = cpu_to_le32(limit),
	};
	struct virtio_rdma_reply reply;

	return vrdma_exec(dev, &request, sizeof(request), NULL, &reply,
			  sizeof(reply));
}

int vrdma_create_srq(struct ib_srq *ibsrq, struct ib_srq_init_attr *init_attr,
		     struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibsrq->device);
	struct virtio_rdma_create_srq request = {
		.request.command = cpu_to_le32(VIRTIO_RDMA_CREATE_SRQ),
		.request.object = cpu_to_le32(to_vpd(ibsrq->pd)->pdn),
		.context = cpu_to_le32(vrdma_context(udata)),
	};
	struct virtio_rdma_uresp_create_srq response = {};
	struct ib_srq_attr *attr = &init_attr->attr;
	struct vrdma_srq *srq = to_vsrq(ibsrq);
	struct virtio_rdma_reply reply;
	struct vrdma_pages *pages;
	u64 state;
	int ret;

	if (init_attr->srq_type != IB_SRQT_BASIC ||
	    !virtio_has_feature(dev->vdev, VIRTIO_RDMA_F_SRQ))
		return -EOPNOTSUPP;
	if (!attr->max_wr || attr->max_wr > dev->limits.max_srq_entries ||
	    attr->max_sge > dev->limits.max_recv_sges)
		return -EINVAL;
	vrdma_ref_init(&srq->ref);
	if (udata)
		ret = vrdma_user_srq(dev, srq, udata, &state, &pages);
	else
		ret = vrdma_kernel_srq(dev, srq, attr, &state, &pages);
	if (ret)
		return ret;

	request.entries = cpu_to_le16(srq->wq.entries);
	request.entry_size = cpu_to_le16(srq->wq.entry_size);
	request.state = cpu_to_le64(state);
	ret = vrdma_exec(dev, &request, sizeof(request), pages, &reply,
			 sizeof(reply));
	if (ret)
		goto err_memory;
	srq->srqn = le32_to_cpu(reply.object);
	ret = xa_insert_irq(&dev->srqs, srq->srqn, srq, GFP_KERNEL);
	if (ret)
		goto err_destroy;
	srq->wq.max_sges = vrdma_recv_sges(dev, srq->wq.entry_size);
	attr->max_wr = srq->wq.entries;
	attr->max_sge = srq->wq.max_sges;
	if (udata) {
		response.srqn = srq->srqn;
		ret = vrdma_copy_out(udata, &response, sizeof(response));
		if (ret)
			goto err_erase;
	}
	return 0;

err_erase:
	xa_erase_irq(&dev->srqs, srq->srqn);
err_destroy:
	vrdma_destroy(dev, VIRTIO_RDMA_DESTROY_SRQ, srq->srqn);
err_memory:
	vrdma_free_srq(dev, srq);
	return ret;
}

int vrdma_modify_srq(struct ib_srq *ibsrq, struct ib_srq_attr *attr,
		     enum ib_srq_attr_mask mask, struct ib_udata *udata)
{
	struct vrdma_srq *srq = to_vsrq(ibsrq);

	if (mask & ~IB_SRQ_LIMIT)
		return -EOPNOTSUPP;
	if (!(mask & IB_SRQ_LIMIT))
		return 0;
	return vrdma_arm_srq(to_vdev(ibsrq->device), srq, attr->srq_limit);
}

int vrdma_query_srq(struct ib_srq *ibsrq, struct ib_srq_attr *attr)
{
	struct vrdma_srq *srq = to_vsrq(ibsrq);
	const struct virtio_rdma_request request = {
		.command = cpu_to_le32(VIRTIO_RDMA_QUERY_SRQ),
		.object = cpu_to_le32(srq->srqn),
	};
	struct virtio_rdma_query_srq_reply reply;
	int ret;

	ret = vrdma_exec(to_vdev(ibsrq->device), &request, sizeof(request),
			 NULL, &reply, sizeof(reply));
	if (ret)
		return ret;
	attr->max_wr = srq->wq.entries;
	attr->max_sge = srq->wq.max_sges;
	attr->srq_limit = le32_to_cpu(reply.limit);
	return 0;
}

/* [virtio-rdma CTL-15] */
int vrdma_destroy_srq(struct ib_srq *ibsrq, struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibsrq->device);
	struct vrdma_srq *srq = to_vsrq(ibsrq);
	int ret;

	ret = vrdma_destroy(dev, VIRTIO_RDMA_DESTROY_SRQ, srq->srqn);
	if (ret)
		return ret;
	xa_erase_irq(&dev->srqs, srq->srqn);
	vrdma_ref_wait(&srq->ref);
	vrdma_free_srq(dev, srq);
	return 0;
}
