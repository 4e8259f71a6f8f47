// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Protection domains, memory regions and address handles. */

#include <errno.h>
#include <stdlib.h>

#include "virtio_rdma.h"

struct alloc_pd_resp {
	struct ib_uverbs_alloc_pd_resp ibv_resp;
	struct virtio_rdma_uresp_alloc_pd driver;
};

struct create_ah_resp {
	struct ib_uverbs_create_ah_resp ibv_resp;
	struct virtio_rdma_uresp_create_ah driver;
};

struct ibv_pd *vrdma_alloc_pd(struct ibv_context *context)
{
	struct ibv_alloc_pd cmd = {};
	struct alloc_pd_resp resp = {};
	struct vrdma_pd *pd = calloc(1, sizeof(*pd));
	int error;

	if (!pd)
		return NULL;
	error = ibv_cmd_alloc_pd(context, &pd->ibv_pd, &cmd, sizeof(cmd), &resp.ibv_resp,
				 sizeof(resp));
	if (error) {
		free(pd);
		errno = error;
		return NULL;
	}
	pd->pdn = resp.driver.pdn;
	return &pd->ibv_pd;
}

int vrdma_dealloc_pd(struct ibv_pd *ibv_pd)
{
	const int error = ibv_cmd_dealloc_pd(ibv_pd);

	if (!error)
		free(container_of(ibv_pd, struct vrdma_pd, ibv_pd));
	return error;
}

struct ibv_mr *vrdma_reg_mr(struct ibv_pd *pd, void *addr, size_t length, uint64_t hca_va,
			    int access)
{
	struct ibv_reg_mr cmd;
	struct ib_uverbs_reg_mr_resp resp;
	struct verbs_mr *vmr = calloc(1, sizeof(*vmr));
	int error;

	if (!vmr)
		return NULL;
	error = ibv_cmd_reg_mr(pd, addr, length, hca_va, access, vmr, &cmd, sizeof(cmd), &resp,
			       sizeof(resp));
	if (error) {
		free(vmr);
		errno = error;
		return NULL;
	}
	return &vmr->ibv_mr;
}

int vrdma_dereg_mr(struct verbs_mr *vmr)
{
	const int error = ibv_cmd_dereg_mr(vmr);

	if (!error)
		free(vmr);
	return error;
}

struct ibv_ah *vrdma_create_ah(struct ibv_pd *pd, struct ibv_ah_attr *attr)
{
	struct create_ah_resp resp = {};
	struct vrdma_ah *ah = calloc(1, sizeof(*ah));
	int error;

	if (!ah)
		return NULL;
	error = ibv_cmd_create_ah(pd, &ah->ibv_ah, attr, &resp.ibv_resp, sizeof(resp));
	if (error) {
		free(ah);
		errno = error;
		return NULL;
	}
	static_assert(sizeof(ah->av) == sizeof(resp.driver.av), "an address vector has 32 bytes");
	memcpy(&ah->av, resp.driver.av, sizeof(ah->av));
	return &ah->ibv_ah;
}

int vrdma_destroy_ah(struct ibv_ah *ibv_ah)
{
	const int error = ibv_cmd_destroy_ah(ibv_ah);

	if (!error)
		free(container_of(ibv_ah, struct vrdma_ah, ibv_ah));
	return error;
}
