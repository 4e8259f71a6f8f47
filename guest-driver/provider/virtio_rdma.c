// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The provider for Linux's virtio_rdma driver: which devices it is for, and their contexts. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "virtio_rdma.h"

struct alloc_context_resp {
	struct ib_uverbs_get_context_resp ibv_resp;
	struct virtio_rdma_uresp_alloc_context driver;
};

bool vrdma_buffer_alloc(struct vrdma_buffer *buffer, size_t entries)
{
	buffer->length = VIRTIO_RDMA_PAGE_SIZE + entries;
	/* [virtio-rdma CTL-15] */
	buffer->start = mmap(NULL, buffer->length, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer->start == MAP_FAILED)
		return false;
	errno = ibv_dontfork_range(buffer->start, buffer->length);
	if (errno) {
		munmap(buffer->start, buffer->length);
		return false;
	}
	return true;
}

void vrdma_buffer_free(struct vrdma_buffer *buffer)
{
	ibv_dofork_range(buffer->start, buffer->length);
	munmap(buffer->start, buffer->length);
}

static int vrdma_query_device(struct ibv_context *context,
			      const struct ibv_query_device_ex_input *input,
			      struct ibv_device_attr_ex *attr, size_t attr_size)
{
	struct ib_uverbs_ex_query_device_resp resp;
	size_t resp_size = sizeof(resp);

	return ibv_cmd_query_device_any(context, input, attr, attr_size, &resp, &resp_size);
}

static int vrdma_query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr)
{
	struct ibv_query_port cmd;

	return ibv_cmd_query_port(context, port, attr, &cmd, sizeof(cmd));
}

static void vrdma_free_context(struct ibv_context *ibv_context)
{
	struct vrdma_context *context = to_vcontext(ibv_context);

	munmap(context->doorbell_page, VIRTIO_RDMA_PAGE_SIZE);
	verbs_uninit_context(&context->ibv_ctx);
	free(context);
}

static const struct verbs_context_ops vrdma_context_ops = {
	.alloc_pd = vrdma_alloc_pd,
	.create_ah = vrdma_create_ah,
	.create_cq = vrdma_create_cq,
	.create_qp = vrdma_create_qp,
	.create_srq = vrdma_create_srq,
	.dealloc_pd = vrdma_dealloc_pd,
	.dereg_mr = vrdma_dereg_mr,
	.destroy_ah = vrdma_destroy_ah,
	.destroy_cq = vrdma_destroy_cq,
	.destroy_qp = vrdma_destroy_qp,
	.destroy_srq = vrdma_destroy_srq,
	.free_context = vrdma_free_context,
	.modify_qp = vrdma_modify_qp,
	.modify_srq = vrdma_modify_srq,
	.poll_cq = vrdma_poll_cq,
	.post_recv = vrdma_post_recv,
	.post_send = vrdma_post_send,
	.post_srq_recv = vrdma_post_srq_recv,
	.query_device_ex = vrdma_query_device,
	.query_port = vrdma_query_port,
	.query_qp = vrdma_query_qp,
	.query_srq = vrdma_query_srq,
	.reg_mr = vrdma_reg_mr,
	.req_notify_cq = vrdma_req_notify_cq,
};

static struct verbs_context *vrdma_alloc_context(struct ibv_device *device, int cmd_fd,
						 void *private_data)
{
	struct ibv_get_context cmd = {};
	struct alloc_context_resp resp = {};
	struct vrdma_context *context;

	context = verbs_init_and_alloc_context(device, cmd_fd, context, ibv_ctx,
					       RDMA_DRIVER_UNKNOWN);
	if (!context)
		return NULL;
	if (ibv_cmd_get_context(&context->ibv_ctx, &cmd, sizeof(cmd), &resp.ibv_resp,
				sizeof(resp)))
		goto uninit;
	context->device = resp.driver;
	context->doorbell_page = mmap(NULL, VIRTIO_RDMA_PAGE_SIZE, PROT_WRITE, MAP_SHARED, cmd_fd,
				      (off_t)resp.driver.doorbell);
	if (context->doorbell_page == MAP_FAILED)
		goto uninit;
	verbs_set_ops(&context->ibv_ctx, &vrdma_context_ops);
	return &context->ibv_ctx;

uninit:
	verbs_uninit_context(&context->ibv_ctx);
	free(context);
	return NULL;
}

static struct verbs_device *vrdma_device_alloc(struct verbs_sysfs_dev *sysfs_dev)
{
	return calloc(1, sizeof(struct verbs_device));
}

static void vrdma_device_free(struct verbs_device *device)
{
	free(device);
}

/*
 * Linux has given the driver no number of its own (enum rdma_driver_id). The RDMA device's parent
 * is the virtio device, or the PCI function that it is on.
 */
static const struct verbs_match_ent match_table[] = {
	VERBS_MODALIAS_MATCH("virtio:d0000002Av*", NULL),
	VERBS_PCI_MATCH(0x1af4, 0x1040 + VIRTIO_RDMA_ID, NULL),
	{},
};

static const struct verbs_device_ops vrdma_device_ops = {
	.name = "virtio_rdma",
	.match_min_abi_version = VIRTIO_RDMA_ABI_VERSION,
	.match_max_abi_version = VIRTIO_RDMA_ABI_VERSION,
	.match_table = match_table,
	.alloc_device = vrdma_device_alloc,
	.uninit_device = vrdma_device_free,
	.alloc_context = vrdma_alloc_context,
};

PROVIDER_DRIVER(virtio_rdma, vrdma_device_ops);
