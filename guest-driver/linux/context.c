// SPDX-License-Identifier: GPL-2.0-only
/*
 * Contexts of processes, each with a doorbell page of its own, and PDs.
 */
#include <linux/slab.h>

#include "virtio_rdma.h"

/* Doorbell pages that are in one page of the platform: only the first is used. */
#define VRDMA_DOORBELLS_A_PAGE (PAGE_SIZE / VIRTIO_RDMA_PAGE_SIZE)

int vrdma_alloc_ucontext(struct ib_ucontext *ibucontext, struct ib_udata *udata)
{
	struct vrdma_ucontext *context = to_vucontext(ibucontext);
	struct vrdma_dev *dev = to_vdev(ibucontext->device);
	const struct vrdma_limits *limits = &dev->limits;
	struct virtio_rdma_uresp_alloc_context response = {
		.max_sq_entries = limits->max_sq_entries,
		.max_rq_entries = limits->max_rq_entries,
		.max_srq_entries = limits->max_srq_entries,
		.max_cq_entries = limits->max_cq_entries,
		.max_sges = limits->max_send_sges,
		.max_inline = limits->max_inline,
		.features = lower_32_bits(dev->vdev->features),
	};
	int ret;

	if (!dev->max_context)
		return -ENOSPC;
	ret = ida_alloc_range(&dev->contexts, 1, dev->max_context, GFP_KERNEL);
	if (ret < 0)
		return ret;
	context->index = ret;
	context->number = context->index * VRDMA_DOORBELLS_A_PAGE;
	/* [virtio-rdma SEC-2] */
	ret = vrdma_command(dev, VIRTIO_RDMA_CREATE_CONTEXT, context->number);
	if (ret)
		goto err_index;
	context->doorbell = kzalloc(sizeof(*context->doorbell), GFP_KERNEL);
	if (!context->doorbell) {
		ret = -ENOMEM;
		goto err_context;
	}
	ret = rdma_user_mmap_entry_insert(ibucontext, context->doorbell,
					  PAGE_SIZE);
	if (ret) {
		kfree(context->doorbell);
		goto err_context;
	}
	response.doorbell = rdma_user_mmap_get_offset(context->doorbell);
	ret = vrdma_copy_out(udata, &response, sizeof(response));
	if (ret)
		goto err_doorbell;
	return 0;

err_doorbell:
	rdma_user_mmap_entry_remove(context->doorbell);
err_context:
	vrdma_destroy(dev, VIRTIO_RDMA_DESTROY_CONTEXT, context->number);
err_index:
	ida_free(&dev->contexts, context->index);
	return ret;
}

void vrdma_dealloc_ucontext(struct ib_ucontext *ibucontext)
{
	struct vrdma_ucontext *context = to_vucontext(ibucontext);
	struct vrdma_dev *dev = to_vdev(ibucontext->device);

	rdma_user_mmap_entry_remove(context->doorbell);
	/* A number whose context is still there is not given again. */
	if (!vrdma_destroy(dev, VIRTIO_RDMA_DESTROY_CONTEXT, context->number))
		ida_free(&dev->contexts, context->index);
}

/* The doorbell page is all that a process maps. */
/* [virtio-rdma SEC-1] */
int vrdma_mmap(struct ib_ucontext *ibucontext, struct vm_area_struct *vma)
{
	struct vrdma_ucontext *context = to_vucontext(ibucontext);
	struct vrdma_dev *dev = to_vdev(ibucontext->device);
	struct rdma_user_mmap_entry *entry;
	int ret;

	entry = rdma_user_mmap_entry_get(ibucontext, vma);
	if (!entry)
		return -EINVAL;
	ret = rdma_user_mmap_io(ibucontext, vma,
				PHYS_PFN(dev->doorbells) + context->index,
				PAGE_SIZE, pgprot_noncached(vma->vm_page_prot),
				entry);
	rdma_user_mmap_entry_put(entry);
	return ret;
}

void vrdma_mmap_free(struct rdma_user_mmap_entry *entry)
{
	kfree(entry);
}

/* The core takes the doorbell pages away; nothing else is shared. */
void vrdma_disassociate_ucontext(struct ib_ucontext *ibucontext)
{
}

int vrdma_alloc_pd(struct ib_pd *ibpd, struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibpd->device);
	const struct virtio_rdma_request request = {
		.command = cpu_to_le32(VIRTIO_RDMA_CREATE_PD),
	};
	struct virtio_rdma_uresp_alloc_pd response = {};
	struct vrdma_pd *pd = to_vpd(ibpd);
	struct virtio_rdma_reply reply;
	int ret;

	ret = vrdma_exec(dev, &request, sizeof(request), NULL, &reply,
			 sizeof(reply));
	if (ret)
		return ret;
	pd->pdn = le32_to_cpu(reply.object);
	if (!udata)
		return 0;
	response.pdn = pd->pdn;
	ret = vrdma_copy_out(udata, &response, sizeof(response));
	if (ret)
		vrdma_destroy(dev, VIRTIO_RDMA_DESTROY_PD, pd->pdn);
	return ret;
}

int vrdma_dealloc_pd(struct ib_pd *ibpd, struct ib_udata *udata)
{
	return vrdma_destroy(to_vdev(ibpd->device), VIRTIO_RDMA_DESTROY_PD,
			     to_vpd(ibpd)->pdn);
}
