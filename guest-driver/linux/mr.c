// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory regions: of a process's pages, of all that the device reaches, for fast registration.
 */
#include <linux/dma-mapping.h>
#include <linux/log2.h>
#include <linux/slab.h>

#include "virtio_rdma.h"

#define VRDMA_ACCESS (IB_ACCESS_LOCAL_WRITE | IB_ACCESS_REMOTE_WRITE | \
		      IB_ACCESS_REMOTE_READ | IB_ACCESS_REMOTE_ATOMIC)

/* vrdma_access - access rights as the device has them, without what it does not have */
u32 vrdma_access(struct vrdma_dev *dev, int access)
{
	u32 rights = 0;

	if (access & IB_ACCESS_LOCAL_WRITE)
		rights |= VIRTIO_RDMA_LOCAL_WRITE;
	if (access & IB_ACCESS_REMOTE_WRITE)
		rights |= VIRTIO_RDMA_REMOTE_WRITE;
	if (access & IB_ACCESS_REMOTE_READ)
		rights |= VIRTIO_RDMA_REMOTE_READ;
	if (access & IB_ACCESS_REMOTE_ATOMIC &&
	    virtio_has_feature(dev->vdev, VIRTIO_RDMA_F_ATOMICS))
		rights |= VIRTIO_RDMA_REMOTE_ATOMIC;
	return rights;
}

static struct virtio_rdma_create_mr vrdma_mr_request(struct ib_pd *ibpd, u8 type,
						     u32 access)
{
	return (struct virtio_rdma_create_mr){
		.request.command = cpu_to_le32(VIRTIO_RDMA_CREATE_MR),
		.request.object = cpu_to_le32(to_vpd(ibpd)->pdn),
		.type = type,
		.page_shift = ilog2(VIRTIO_RDMA_PAGE_SIZE),
		.access = cpu_to_le32(access),
	};
}

static int vrdma_create_mr(struct vrdma_dev *dev, struct vrdma_mr *mr,
			   const struct virtio_rdma_create_mr *request,
			   struct vrdma_pages *pages)
{
	struct virtio_rdma_create_mr_reply reply;
	int ret;

	ret = vrdma_exec(dev, request, sizeof(*request), pages, &reply,
			 sizeof(reply));
	if (ret)
		return ret;
	mr->mrn = le32_to_cpu(reply.reply.object);
	mr->ibmr.lkey = le32_to_cpu(reply.lkey);
	mr->ibmr.rkey = le32_to_cpu(reply.rkey);
	return 0;
}

struct ib_mr *vrdma_get_dma_mr(struct ib_pd *ibpd, int access)
{
	struct vrdma_dev *dev = to_vdev(ibpd->device);
	struct virtio_rdma_create_mr request;
	struct vrdma_mr *mr;
	int ret;

	/* [virtio-rdma SEC-2] */
	/* A key that gives peers all memory is not to be had (SEC-2). */
	if (access & ~(IB_ACCESS_LOCAL_WRITE | IB_ACCESS_OPTIONAL))
		return ERR_PTR(-EOPNOTSUPP);
	mr = kzalloc(sizeof(*mr), GFP_KERNEL);
	if (!mr)
		return ERR_PTR(-ENOMEM);
	request = vrdma_mr_request(ibpd, VIRTIO_RDMA_MR_DMA,
				   vrdma_access(dev, access));
	ret = vrdma_create_mr(dev, mr, &request, NULL);
	if (ret) {
		kfree(mr);
		return ERR_PTR(ret);
	}
	return &mr->ibmr;
}

struct ib_mr *vrdma_reg_user_mr(struct ib_pd *ibpd, u64 start, u64 length,
				u64 iova, int access, VRDMA_DMAH
				struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibpd->device);
	struct virtio_rdma_create_mr request;
	struct ib_block_iter block;
	struct vrdma_pages *pages;
	unsigned long page_size;
	struct vrdma_mr *mr;
	size_t count;
	int ret;

	if (vrdma_has_dmah())
		return ERR_PTR(-EOPNOTSUPP);
	if (access & ~(VRDMA_ACCESS | IB_ACCESS_HUGETLB | IB_ACCESS_OPTIONAL))
		return ERR_PTR(-EOPNOTSUPP);
	if (!length || length > dev->limits.max_mr_size)
		return ERR_PTR(-EINVAL);
	mr = kzalloc(sizeof(*mr), GFP_KERNEL);
	if (!mr)
		return ERR_PTR(-ENOMEM);
	mr->umem = vrdma_umem_get(ibpd->device, start, length, access);
	if (IS_ERR(mr->umem)) {
		ret = PTR_ERR(mr->umem);
		goto err_free;
	}
	page_size = ib_umem_find_best_pgsz(mr->umem, dev->limits.page_sizes,
					   iova);
	if (!page_size) {
		ret = -EINVAL;
		goto err_umem;
	}
	count = ib_umem_num_dma_blocks(mr->umem, page_size);
	if (count > dev->limits.max_mr_pages) {
		ret = -EINVAL;
		goto err_umem;
	}
	pages = vrdma_pages_alloc(dev, count);
	if (!pages) {
		ret = -ENOMEM;
		goto err_umem;
	}
	rdma_umem_for_each_dma_block(mr->umem, &block, page_size)
		vrdma_pages_add(pages, rdma_block_iter_dma_address(&block));

	request = vrdma_mr_request(ibpd, VIRTIO_RDMA_MR_PAGES,
				   vrdma_access(dev, access));
	request.page_shift = ilog2(page_size);
	request.iova = cpu_to_le64(iova);
	request.length = cpu_to_le64(length);
	ret = vrdma_create_mr(dev, mr, &request, pages);
	if (ret)
		goto err_umem;
	return &mr->ibmr;

err_umem:
	ib_umem_release(mr->umem);
err_free:
	kfree(mr);
	return ERR_PTR(ret);
}

struct ib_mr *vrdma_alloc_mr(struct ib_pd *ibpd, enum ib_mr_type type,
			     u32 max_pages)
{
	struct vrdma_dev *dev = to_vdev(ibpd->device);
	struct virtio_rdma_create_mr request;
	struct vrdma_mr *mr;
	int ret = -ENOMEM;

	if (type != IB_MR_TYPE_MEM_REG ||
	    !virtio_has_feature(dev->vdev, VIRTIO_RDMA_F_FAST_REGISTRATION))
		return ERR_PTR(-EOPNOTSUPP);
	if (!max_pages || max_pages > dev->limits.max_fast_registration_pages)
		return ERR_PTR(-EINVAL);
	mr = kzalloc(sizeof(*mr), GFP_KERNEL);
	if (!mr)
		return ERR_PTR(-ENOMEM);
	mr->max_pages = max_pages;
	/* Of a size that is a power of two, it is aligned to it and does not straddle a page. */
	mr->pages_size = roundup_pow_of_two(max_pages * sizeof(__le64));
	mr->pages = kzalloc(mr->pages_size, GFP_KERNEL);
	if (!mr->pages)
		goto err_free;
	mr->pages_dma = dma_map_single(dev->dma_dev, mr->pages, mr->pages_size,
				       DMA_TO_DEVICE);
	if (dma_mapping_error(dev->dma_dev, mr->pages_dma))
		goto err_pages;
	request = vrdma_mr_request(ibpd, VIRTIO_RDMA_MR_FAST_REGISTRATION, 0);
	request.length = cpu_to_le64((u64)max_pages * VIRTIO_RDMA_PAGE_SIZE);
	ret = vrdma_create_mr(dev, mr, &request, NULL);
	if (ret)
		goto err_map;
	return &mr->ibmr;

err_map:
	dma_unmap_single(dev->dma_dev, mr->pages_dma, mr->pages_size,
			 DMA_TO_DEVICE);
err_pages:
	kfree(mr->pages);
err_free:
	kfree(mr);
	return ERR_PTR(ret);
}

static int vrdma_set_page(struct ib_mr *ibmr, u64 address)
{
	struct vrdma_mr *mr = to_vmr(ibmr);

	if (mr->num_pages == mr->max_pages)
		return -ENOMEM;
	mr->pages[mr->num_pages++] = cpu_to_le64(address);
	return 0;
}

int vrdma_map_mr_sg(struct ib_mr *ibmr, struct scatterlist *sg, int sg_nents,
		    unsigned int *sg_offset)
{
	struct vrdma_dev *dev = to_vdev(ibmr->device);
	struct vrdma_mr *mr = to_vmr(ibmr);
	int ret;

	mr->num_pages = 0;
	dma_sync_single_for_cpu(dev->dma_dev, mr->pages_dma, mr->pages_size,
				DMA_TO_DEVICE);
	ret = ib_sg_to_pages(ibmr, sg, sg_nents, sg_offset, vrdma_set_page);
	dma_sync_single_for_device(dev->dma_dev, mr->pages_dma, mr->pages_size,
				   DMA_TO_DEVICE);
	return ret;
}

int vrdma_dereg_mr(struct ib_mr *ibmr, struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibmr->device);
	struct vrdma_mr *mr = to_vmr(ibmr);
	int ret;

	/* [virtio-rdma CTL-12] */
	ret = vrdma_destroy(dev, VIRTIO_RDMA_DESTROY_MR, mr->mrn);
	if (ret)
		return ret;
	if (mr->pages) {
		dma_unmap_single(dev->dma_dev, mr->pages_dma, mr->pages_size,
				 DMA_TO_DEVICE);
		kfree(mr->pages);
	}
	ib_umem_release(mr->umem);
	kfree(mr);
	return 0;
}
