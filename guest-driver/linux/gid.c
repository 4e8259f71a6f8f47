// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device's GID table follows the core's, which follows the network device's addresses.
 */
#include <linux/if_vlan.h>
#include <rdma/ib_cache.h>

#include "virtio_rdma.h"

int vrdma_add_gid(const struct ib_gid_attr *attr, void **context)
{
	struct vrdma_dev *dev = to_vdev(attr->device);
	struct virtio_rdma_add_gid request = {
		.request.command = cpu_to_le32(VIRTIO_RDMA_ADD_GID),
		.request.object = cpu_to_le32(attr->index),
	};
	struct virtio_rdma_reply reply;
	u16 vlan;
	int ret;

	ret = rdma_read_gid_l2_fields(attr, &vlan, request.mac);
	if (ret)
		return ret;
	request.vlan = cpu_to_le16(vlan < VLAN_N_VID ? vlan :
						       VIRTIO_RDMA_NO_VLAN);
	memcpy(request.gid, attr->gid.raw, sizeof(request.gid));
	return vrdma_exec(dev, &request, sizeof(request), NULL, &reply,
			  sizeof(reply));
}

int vrdma_del_gid(const struct ib_gid_attr *attr, void **context)
{
	return vrdma_destroy(to_vdev(attr->device), VIRTIO_RDMA_DELETE_GID,
			     attr->index);
}
