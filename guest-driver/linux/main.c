// SPDX-License-Identifier: GPL-2.0-only
/*
 * The driver of the virtio RDMA device: how it comes, finds its network device, and goes.
 */
#include <linux/dmapool.h>
#include <linux/etherdevice.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>

#include "virtio_rdma.h"

#if VRDMA_CORE_FOLLOWS_NETDEV
/* The driver's own notifier has seen to it: the core does not know of the device's link. */
static void vrdma_report_port_event(struct ib_device *ibdev,
				    struct net_device *ndev, unsigned long event)
{
}
#endif

static const struct ib_device_ops vrdma_ops = {
	.owner = THIS_MODULE,
	.driver_id = RDMA_DRIVER_UNKNOWN,
	.uverbs_abi_ver = VIRTIO_RDMA_ABI_VERSION,

	.add_gid = vrdma_add_gid,
	.alloc_mr = vrdma_alloc_mr,
	.alloc_pd = vrdma_alloc_pd,
	.alloc_ucontext = vrdma_alloc_ucontext,
	.create_ah = vrdma_create_ah,
	.create_cq = vrdma_create_cq,
	.create_qp = vrdma_create_qp,
	.create_srq = vrdma_create_srq,
	.create_user_ah = vrdma_create_ah,
	.dealloc_pd = vrdma_dealloc_pd,
	.dealloc_ucontext = vrdma_dealloc_ucontext,
	.del_gid = vrdma_del_gid,
	.dereg_mr = vrdma_dereg_mr,
	.destroy_ah = vrdma_destroy_ah,
	.destroy_cq = vrdma_destroy_cq,
	.destroy_qp = vrdma_destroy_qp,
	.destroy_srq = vrdma_destroy_srq,
	.disassociate_ucontext = vrdma_disassociate_ucontext,
	.get_dma_mr = vrdma_get_dma_mr,
	.get_link_layer = vrdma_get_link_layer,
	.get_port_immutable = vrdma_get_port_immutable,
	.map_mr_sg = vrdma_map_mr_sg,
	.mmap = vrdma_mmap,
	.mmap_free = vrdma_mmap_free,
	.modify_qp = vrdma_modify_qp,
	.modify_srq = vrdma_modify_srq,
	.poll_cq = vrdma_poll_cq,
	.post_recv = vrdma_post_recv,
	.post_send = vrdma_post_send,
	.post_srq_recv = vrdma_post_srq_recv,
	.query_device = vrdma_query_device,
	.query_pkey = vrdma_query_pkey,
	.query_port = vrdma_query_port,
	.query_qp = vrdma_query_qp,
	.query_srq = vrdma_query_srq,
	.reg_user_mr = vrdma_reg_user_mr,
	.req_notify_cq = vrdma_req_notify_cq,
#if VRDMA_CORE_FOLLOWS_NETDEV
	.report_port_event = vrdma_report_port_event,
#endif

	INIT_RDMA_OBJ_SIZE(ib_ah, vrdma_ah, ibah),
	INIT_RDMA_OBJ_SIZE(ib_cq, vrdma_cq, ibcq),
	INIT_RDMA_OBJ_SIZE(ib_pd, vrdma_pd, ibpd),
	INIT_RDMA_OBJ_SIZE(ib_qp, vrdma_qp, ibqp),
	INIT_RDMA_OBJ_SIZE(ib_srq, vrdma_srq, ibsrq),
	INIT_RDMA_OBJ_SIZE(ib_ucontext, vrdma_ucontext, ibucontext),
};

/* Sets up the virtqueues: as many completion event queues as device and processors can use. */
static int vrdma_find_queues(struct vrdma_dev *dev)
{
	struct virtqueue_info info[VIRTIO_RDMA_VQ_COMPLETION +
				   VIRTIO_RDMA_MAX_COMPLETION_QUEUES] = {};
	struct virtqueue *vqs[ARRAY_SIZE(info)];
	/* The control queue and the event queue may be served anywhere. */
	struct irq_affinity affinity = { .pre_vectors = VIRTIO_RDMA_VQ_COMPLETION };
	unsigned int i, n;
	u32 available;
	int ret;

	virtio_cread_le(dev->vdev, struct virtio_rdma_config,
			num_completion_queues, &available);
	if (!available || available > VIRTIO_RDMA_MAX_COMPLETION_QUEUES)
		return -EINVAL;
	/* [virtio-rdma DEV-17] */
	n = min_t(unsigned int, available, num_online_cpus());
	info[VIRTIO_RDMA_VQ_CONTROL].name = "control";
	info[VIRTIO_RDMA_VQ_CONTROL].callback = vrdma_control_done;
	info[VIRTIO_RDMA_VQ_EVENT].name = "event";
	info[VIRTIO_RDMA_VQ_EVENT].callback = vrdma_event_done;
	for (i = 0; i < n; i++) {
		info[VIRTIO_RDMA_VQ_COMPLETION + i].name = "completion";
		info[VIRTIO_RDMA_VQ_COMPLETION + i].callback =
			vrdma_completion_done;
	}
	ret = vrdma_find_vqs(dev->vdev, VIRTIO_RDMA_VQ_COMPLETION + n, vqs,
			     info, &affinity);
	if (ret)
		return ret;
	dev->control = vqs[VIRTIO_RDMA_VQ_CONTROL];
	dev->event = vqs[VIRTIO_RDMA_VQ_EVENT];
	for (i = 0; i < n; i++)
		dev->completion[i] = vqs[VIRTIO_RDMA_VQ_COMPLETION + i];
	dev->num_completion = n;
	return 0;
}

static int vrdma_find_doorbells(struct vrdma_dev *dev)
{
	struct virtio_shm_region region;

	if (!virtio_get_shm_region(dev->vdev, &region,
				   VIRTIO_RDMA_SHM_DOORBELLS) ||
	    !PAGE_ALIGNED(region.addr) || region.len < PAGE_SIZE) {
		dev_err(&dev->vdev->dev, "the device has no doorbells\n");
		return -ENODEV;
	}
	dev->doorbells = region.addr;
	dev->max_context = min_t(u64, region.len >> PAGE_SHIFT, INT_MAX) - 1;
	dev->doorbell = ioremap(region.addr, VIRTIO_RDMA_PAGE_SIZE);
	return dev->doorbell ? 0 : -ENOMEM;
}

/* Whether it is the network card that the device's packets go through. */
static bool vrdma_is_own_netdev(struct vrdma_dev *dev, struct net_device *ndev)
{
	return ndev->addr_len == ETH_ALEN &&
	       ether_addr_equal_unaligned(ndev->perm_addr, dev->mac) &&
	       list_empty(&ndev->adj_list.lower) && !netif_is_failover(ndev);
}

static int vrdma_netdev_event(struct notifier_block *nb, unsigned long event,
			      void *info)
{
	struct vrdma_dev *dev = container_of(nb, struct vrdma_dev, netdev_nb);
	struct net_device *ndev = netdev_notifier_info_to_dev(info);

	switch (event) {
	case NETDEV_REGISTER:
		if (dev->netdev || !vrdma_is_own_netdev(dev, ndev) ||
		    ib_device_set_netdev(&dev->ibdev, ndev, VRDMA_PORT))
			return NOTIFY_DONE;
		dev->netdev = ndev;
		break;
	case NETDEV_UNREGISTER:
		if (dev->netdev != ndev)
			return NOTIFY_DONE;
		dev->netdev = NULL;
		ib_device_set_netdev(&dev->ibdev, NULL, VRDMA_PORT);
		break;
	case NETDEV_UP:
	case NETDEV_DOWN:
	case NETDEV_CHANGE:
		if (dev->netdev != ndev)
			return NOTIFY_DONE;
		break;
	default:
		return NOTIFY_DONE;
	}
	if (READ_ONCE(dev->registered))
		schedule_work(&dev->link_work);
	return NOTIFY_OK;
}

/* vrdma_port_state - of the network device and of the device's link, under rtnl_lock */
enum ib_port_state vrdma_port_state(struct vrdma_dev *dev)
{
	u16 status;

	/* [virtio-rdma DEV-8] */
	virtio_cread_le(dev->vdev, struct virtio_rdma_config, status, &status);
	if (status & VIRTIO_RDMA_S_LINK_UP && dev->netdev &&
	    netif_running(dev->netdev) && netif_carrier_ok(dev->netdev))
		return IB_PORT_ACTIVE;
	return IB_PORT_DOWN;
}

static void vrdma_link_work(struct work_struct *work)
{
	struct vrdma_dev *dev = container_of(work, struct vrdma_dev, link_work);
	struct ib_event event = {
		.device = &dev->ibdev,
		.element.port_num = VRDMA_PORT,
	};
	enum ib_port_state state;

	rtnl_lock();
	state = vrdma_port_state(dev);
	rtnl_unlock();
	if (state == dev->port_state)
		return;
	dev->port_state = state;
	event.event = state == IB_PORT_ACTIVE ? IB_EVENT_PORT_ACTIVE :
						IB_EVENT_PORT_ERR;
	ib_dispatch_event(&event);
}

static void vrdma_config_changed(struct virtio_device *vdev)
{
	struct vrdma_dev *dev = vdev->priv;

	if (READ_ONCE(dev->registered))
		schedule_work(&dev->link_work);
}

static int vrdma_register(struct vrdma_dev *dev)
{
	struct ib_device *ibdev = &dev->ibdev;
	int ret;

	ibdev->node_type = RDMA_NODE_IB_CA;
	ibdev->num_comp_vectors = dev->num_completion;
	ibdev->dev.parent = dev->dma_dev;
	strscpy(ibdev->node_desc, "virtio RDMA device",
		sizeof(ibdev->node_desc));
	ib_set_device_ops(ibdev, &vrdma_ops);
	ret = vrdma_counters_init(dev);
	if (ret)
		return ret;
	dma_set_max_seg_size(dev->dma_dev, UINT_MAX);
	ret = ib_register_device(ibdev, "virtio_rdma%d", dev->dma_dev);
	if (ret)
		return ret;
	WRITE_ONCE(dev->registered, true);
	schedule_work(&dev->link_work);
	return 0;
}

/* [virtio-rdma DEV-1] */
static int vrdma_validate(struct virtio_device *vdev)
{
	if (!virtio_has_feature(vdev, VIRTIO_F_VERSION_1) ||
	    !virtio_has_feature(vdev, VIRTIO_F_ACCESS_PLATFORM)) {
		dev_err(&vdev->dev,
			"the device lacks VERSION_1 or ACCESS_PLATFORM\n");
		return -EINVAL;
	}
	return 0;
}

static int vrdma_probe(struct virtio_device *vdev)
{
	struct vrdma_dev *dev;
	int ret;

	dev = ib_alloc_device(vrdma_dev, ibdev);
	if (!dev)
		return -ENOMEM;
	vdev->priv = dev;
	dev->vdev = vdev;
	dev->dma_dev = vdev->dev.parent;
	dev->weak_barriers = !virtio_has_feature(vdev, VIRTIO_F_ORDER_PLATFORM);
	dev->ibdev.phys_port_cnt = 1;
	dev->port_state = IB_PORT_DOWN;
	INIT_WORK(&dev->link_work, vrdma_link_work);
	vrdma_control_init(dev);
	xa_init_flags(&dev->cqs, XA_FLAGS_LOCK_IRQ);
	xa_init_flags(&dev->srqs, XA_FLAGS_LOCK_IRQ);
	xa_init_flags(&dev->qps, XA_FLAGS_LOCK_IRQ);
	ida_init(&dev->contexts);

	/* It tells of the network devices that there are, too, and before the core's. */
	virtio_cread_bytes(vdev, offsetof(struct virtio_rdma_config, mac),
			   dev->mac, sizeof(dev->mac));
	dev->netdev_nb.notifier_call = vrdma_netdev_event;
	dev->netdev_nb.priority = 1;
	ret = register_netdevice_notifier(&dev->netdev_nb);
	if (ret)
		goto err_free;
	/* [virtio-rdma DEV-9] */
	if (!dev->netdev) {
		dev_dbg(&vdev->dev, "no network device %pM yet\n", dev->mac);
		ret = -EPROBE_DEFER;
		goto err_notifier;
	}

	ret = vrdma_find_doorbells(dev);
	if (ret)
		goto err_notifier;
	/* Both halves of a state are one unit of 128 bytes. */
	dev->states = dma_pool_create("virtio_rdma", dev->dma_dev,
				      sizeof(struct virtio_rdma_queue_state),
				      VIRTIO_RDMA_STATE_ALIGNMENT, 0);
	if (!dev->states) {
		ret = -ENOMEM;
		goto err_doorbells;
	}
	ret = vrdma_find_queues(dev);
	if (ret)
		goto err_states;
	ret = vrdma_events_init(dev);
	if (ret)
		goto err_queues;
	virtio_device_ready(vdev);
	vrdma_events_start(dev);
	ret = vrdma_device_init(dev);
	if (ret)
		goto err_queues;
	ret = vrdma_register(dev);
	if (ret)
		goto err_queues;
	return 0;

err_queues:
	virtio_reset_device(vdev);
	vrdma_control_drop(dev);
	vrdma_events_free(dev);
	vdev->config->del_vqs(vdev);
err_states:
	dma_pool_destroy(dev->states);
err_doorbells:
	iounmap(dev->doorbell);
err_notifier:
	unregister_netdevice_notifier(&dev->netdev_nb);
	/* So that the next attempt can negotiate features. */
	virtio_reset_device(vdev);
err_free:
	vdev->priv = NULL;
	ib_dealloc_device(&dev->ibdev);
	return ret;
}

static void vrdma_remove(struct virtio_device *vdev)
{
	struct vrdma_dev *dev = vdev->priv;

	if (virtqueue_is_broken(dev->control))
		vrdma_control_stop(dev);
	/* The notifier runs under this lock. */
	rtnl_lock();
	WRITE_ONCE(dev->registered, false);
	rtnl_unlock();
	cancel_work_sync(&dev->link_work);
	ib_unregister_device(&dev->ibdev);
	unregister_netdevice_notifier(&dev->netdev_nb);
	virtio_reset_device(vdev);
	vrdma_control_drop(dev);
	vrdma_events_free(dev);
	vdev->config->del_vqs(vdev);
	dma_pool_destroy(dev->states);
	iounmap(dev->doorbell);
	ida_destroy(&dev->contexts);
	xa_destroy(&dev->cqs);
	xa_destroy(&dev->srqs);
	xa_destroy(&dev->qps);
	ib_dealloc_device(&dev->ibdev);
}

#ifdef CONFIG_PM_SLEEP
/* A device's objects do not outlive a suspension, and their users could not make them again. */
static int vrdma_freeze(struct virtio_device *vdev)
{
	dev_err(&vdev->dev,
		"an RDMA device cannot be suspended; remove virtio_rdma first\n");
	return -EOPNOTSUPP;
}

static int vrdma_restore(struct virtio_device *vdev)
{
	return -EOPNOTSUPP;
}
#endif

static const struct virtio_device_id vrdma_ids[] = {
	{ VIRTIO_RDMA_ID, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, vrdma_ids);

static unsigned int vrdma_features[] = {
	VIRTIO_RDMA_F_ATOMICS,
	VIRTIO_RDMA_F_FAST_REGISTRATION,
	VIRTIO_RDMA_F_SRQ,
};

static struct virtio_driver vrdma_driver = {
	.driver.name = KBUILD_MODNAME,
	.driver.owner = THIS_MODULE,
	.id_table = vrdma_ids,
	.feature_table = vrdma_features,
	.feature_table_size = ARRAY_SIZE(vrdma_features),
	.validate = vrdma_validate,
	.probe = vrdma_probe,
	.remove = vrdma_remove,
	.config_changed = vrdma_config_changed,
#ifdef CONFIG_PM_SLEEP
	.freeze = vrdma_freeze,
	.restore = vrdma_restore,
#endif
};
module_virtio_driver(vrdma_driver);

MODULE_DESCRIPTION("Driver of the virtio RDMA device");
MODULE_LICENSE("GPL");
