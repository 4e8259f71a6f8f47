// SPDX-License-Identifier: GPL-2.0-only
/*
 * Address handles: an address vector, which goes into each datagram's entry. The device has no
 * part in them.
 */
#include <linux/etherdevice.h>
#include <rdma/ib_addr.h>

#include "virtio_rdma.h"

/* vrdma_av - an address vector as the device has it */
void vrdma_av(const struct rdma_ah_attr *attr, struct virtio_rdma_av *av)
{
	const struct ib_global_route *grh = rdma_ah_read_grh(attr);

	memset(av, 0, sizeof(*av));
	memcpy(av->dgid, grh->dgid.raw, sizeof(av->dgid));
	av->flow_label = cpu_to_le32(grh->flow_label & 0xfffff);
	av->sgid_index = cpu_to_le16(grh->sgid_index);
	av->hop_limit = grh->hop_limit;
	av->traffic_class = grh->traffic_class;
	memcpy(av->dmac, attr->roce.dmac, sizeof(av->dmac));
	av->sl = rdma_ah_get_sl(attr) & 7;
}

int vrdma_create_ah(struct ib_ah *ibah, struct rdma_ah_init_attr *attr,
		    struct ib_udata *udata)
{
	struct virtio_rdma_uresp_create_ah response = {};
	struct vrdma_ah *ah = to_vah(ibah);

	if (attr->ah_attr->type != RDMA_AH_ATTR_TYPE_ROCE ||
	    !(rdma_ah_get_ah_flags(attr->ah_attr) & IB_AH_GRH))
		return -EINVAL;
	/* Multicast is a feature that the device does not have yet. */
	if (rdma_is_multicast_addr((struct in6_addr *)
				   rdma_ah_read_grh(attr->ah_attr)->dgid.raw))
		return -EOPNOTSUPP;
	vrdma_av(attr->ah_attr, &ah->av);
	if (!udata)
		return 0;
	BUILD_BUG_ON(sizeof(response.av) != sizeof(ah->av));
	memcpy(response.av, &ah->av, sizeof(response.av));
	return vrdma_copy_out(udata, &response, sizeof(response));
}

int vrdma_destroy_ah(struct ib_ah *ibah, u32 flags)
{
	return 0;
}
