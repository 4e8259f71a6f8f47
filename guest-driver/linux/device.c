// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the device and its port are.
 */
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <rdma/ib_addr.h>
#include <rdma/ib_mad.h>

#include "virtio_rdma.h"

/* SGEs that fit in an entry of 4096 bytes behind what the opcode has. */
#define VRDMA_MAX_SEND_SGES \
	((u32)((VRDMA_MAX_ENTRY_SIZE - sizeof(struct virtio_rdma_sq_datagram)) / \
	       sizeof(struct virtio_rdma_sge)))
#define VRDMA_MAX_RECV_SGES \
	((u32)((VRDMA_MAX_ENTRY_SIZE - sizeof(struct virtio_rdma_rq_entry)) / \
	       sizeof(struct virtio_rdma_sge)))
#define VRDMA_MAX_INLINE \
	((u32)(VRDMA_MAX_ENTRY_SIZE - sizeof(struct virtio_rdma_sq_datagram)))

static u32 vrdma_max_entries(__le32 limit)
{
	u32 entries = min_t(u32, le32_to_cpu(limit), VRDMA_MAX_ENTRIES);

	return entries ? rounddown_pow_of_two(entries) : 0;
}

/* vrdma_device_init - ask the device what it has */
int vrdma_device_init(struct vrdma_dev *dev)
{
	const struct virtio_rdma_request request = {
		.command = cpu_to_le32(VIRTIO_RDMA_QUERY_DEVICE),
	};
	struct vrdma_limits *to = &dev->limits;
	struct virtio_rdma_limits from;
	u32 cq_entries;
	int ret;

	ret = vrdma_exec(dev, &request, sizeof(request), NULL, &from,
			 sizeof(from));
	if (ret)
		return ret;
	memcpy(&dev->ibdev.node_guid, from.node_guid, sizeof(from.node_guid));
	to->max_mr_size = le64_to_cpu(from.max_mr_size);
	to->page_sizes = le64_to_cpu(from.page_sizes);
	to->max_pd = le32_to_cpu(from.max_pd);
	to->max_mr = le32_to_cpu(from.max_mr);
	to->max_cq = le32_to_cpu(from.max_cq);
	to->max_srq = le32_to_cpu(from.max_srq);
	to->max_qp = le32_to_cpu(from.max_qp);
	to->max_mr_pages = le32_to_cpu(from.max_mr_pages);
	/* The array of a registration is in one page. */
	to->max_fast_registration_pages =
		min_t(u32, le32_to_cpu(from.max_fast_registration_pages),
		      VIRTIO_RDMA_PAGE_SIZE / sizeof(__le64));
	cq_entries = le32_to_cpu(from.max_cq_entries);
	cq_entries = min_t(u32, cq_entries, 1U << 30);
	to->max_cq_entries = cq_entries ? rounddown_pow_of_two(cq_entries) : 0;
	to->max_srq_entries = vrdma_max_entries(from.max_srq_entries);
	to->max_sq_entries = vrdma_max_entries(from.max_sq_entries);
	to->max_rq_entries = vrdma_max_entries(from.max_rq_entries);
	to->max_message_size = le32_to_cpu(from.max_message_size);
	to->max_send_sges = min_t(u32, le16_to_cpu(from.max_sges),
				  VRDMA_MAX_SEND_SGES);
	to->max_recv_sges = min_t(u32, le16_to_cpu(from.max_sges),
				  VRDMA_MAX_RECV_SGES);
	to->max_inline = min_t(u32, le16_to_cpu(from.max_inline),
			       VRDMA_MAX_INLINE);
	to->max_dest_rd_atomic = le16_to_cpu(from.max_dest_rd_atomic);
	to->max_rd_atomic = le16_to_cpu(from.max_rd_atomic);
	to->num_gids = le16_to_cpu(from.num_gids);
	to->max_mtu = from.max_mtu;
	to->ack_delay = from.ack_delay;
	if (!(to->page_sizes & VIRTIO_RDMA_PAGE_SIZE) || !to->max_cq_entries ||
	    !to->max_sq_entries || !to->max_rq_entries || !to->max_send_sges ||
	    to->max_mtu < VIRTIO_RDMA_MTU_256 ||
	    to->max_mtu > VIRTIO_RDMA_MTU_4096) {
		dev_err(&dev->vdev->dev, "the device's limits make no sense\n");
		return -EINVAL;
	}
	return 0;
}

int vrdma_query_device(struct ib_device *ibdev, struct ib_device_attr *attr,
		       struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibdev);
	const struct vrdma_limits *limits = &dev->limits;

	memset(attr, 0, sizeof(*attr));
	attr->sys_image_guid = ibdev->node_guid;
	attr->max_mr_size = limits->max_mr_size;
	attr->page_size_cap = limits->page_sizes;
	attr->vendor_id = dev->vdev->id.vendor;
	attr->vendor_part_id = dev->vdev->id.device;
	attr->max_qp = limits->max_qp;
	attr->max_qp_wr = min(limits->max_sq_entries, limits->max_rq_entries);
	attr->device_cap_flags = IB_DEVICE_RC_RNR_NAK_GEN |
				 IB_DEVICE_CURR_QP_STATE_MOD |
				 IB_DEVICE_PORT_ACTIVE_EVENT |
				 IB_DEVICE_SYS_IMAGE_GUID;
	attr->max_send_sge = limits->max_send_sges;
	attr->max_recv_sge = limits->max_recv_sges;
	attr->max_sge_rd = limits->max_send_sges;
	attr->max_cq = limits->max_cq;
	attr->max_cqe = limits->max_cq_entries;
	attr->max_mr = limits->max_mr;
	attr->max_pd = limits->max_pd;
	attr->max_qp_rd_atom = limits->max_dest_rd_atomic;
	attr->max_qp_init_rd_atom = limits->max_rd_atomic;
	attr->max_res_rd_atom = limits->max_qp * limits->max_dest_rd_atomic;
	attr->max_ah = INT_MAX;
	attr->max_pkeys = 1;
	attr->local_ca_ack_delay = limits->ack_delay;
	attr->atomic_cap = IB_ATOMIC_NONE;
	if (virtio_has_feature(dev->vdev, VIRTIO_RDMA_F_ATOMICS))
		attr->atomic_cap = IB_ATOMIC_HCA;
	if (virtio_has_feature(dev->vdev, VIRTIO_RDMA_F_FAST_REGISTRATION)) {
		attr->device_cap_flags |= IB_DEVICE_MEM_MGT_EXTENSIONS;
		attr->max_fast_reg_page_list_len =
			limits->max_fast_registration_pages;
	}
	if (virtio_has_feature(dev->vdev, VIRTIO_RDMA_F_SRQ)) {
		attr->max_srq = limits->max_srq;
		attr->max_srq_wr = limits->max_srq_entries;
		attr->max_srq_sge = limits->max_recv_sges;
	}
	return 0;
}

int vrdma_query_port(struct ib_device *ibdev, u32 port,
		     struct ib_port_attr *attr)
{
	struct vrdma_dev *dev = to_vdev(ibdev);
	enum ib_mtu mtu = IB_MTU_256;
	int ret;

	attr->max_mtu = (enum ib_mtu)dev->limits.max_mtu;
	attr->gid_tbl_len = dev->limits.num_gids;
	attr->ip_gids = true;
	attr->port_cap_flags = IB_PORT_CM_SUP;
	attr->max_msg_sz = dev->limits.max_message_size;
	attr->pkey_tbl_len = 1;
	attr->max_vl_num = 1;

	rtnl_lock();
	if (dev->netdev)
		mtu = iboe_get_mtu(READ_ONCE(dev->netdev->mtu));
	attr->state = vrdma_port_state(dev);
	rtnl_unlock();
	attr->active_mtu = min(attr->max_mtu, mtu ? mtu : IB_MTU_256);
	attr->phys_state = attr->state == IB_PORT_ACTIVE ?
				   IB_PORT_PHYS_STATE_LINK_UP :
				   IB_PORT_PHYS_STATE_DISABLED;

	ret = ib_get_eth_speed(ibdev, port, &attr->active_speed,
			       &attr->active_width);
	if (ret) {
		/* There is no network device now. */
		attr->active_speed = IB_SPEED_SDR;
		attr->active_width = IB_WIDTH_1X;
	}
	return 0;
}

int vrdma_query_pkey(struct ib_device *ibdev, u32 port, u16 index, u16 *pkey)
{
	if (index)
		return -EINVAL;
	*pkey = IB_DEFAULT_PKEY_FULL;
	return 0;
}

int vrdma_get_port_immutable(struct ib_device *ibdev, u32 port,
			     struct ib_port_immutable *immutable)
{
	immutable->gid_tbl_len = to_vdev(ibdev)->limits.num_gids;
	immutable->pkey_tbl_len = 1;
	immutable->core_cap_flags = RDMA_CORE_PORT_IBA_ROCE_UDP_ENCAP;
	immutable->max_mad_size = IB_MGMT_MAD_SIZE;
	return 0;
}

enum rdma_link_layer vrdma_get_link_layer(struct ib_device *ibdev, u32 port)
{
	return IB_LINK_LAYER_ETHERNET;
}
