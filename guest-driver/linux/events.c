// SPDX-License-Identifier: GPL-2.0-only
/*
 * The event queue and the completion event queues: buffers that the device fills, and what
 * happens then. Both run in interrupts, one at a time for each queue.
 */
#include <linux/slab.h>

#include "virtio_rdma.h"

/* [virtio-rdma DEV-18] */
/* Buffers that each queue has at most (DEV-18). */
#define VRDMA_MAX_SLOTS 64

struct vrdma_event_slot {
	union {
		struct virtio_rdma_event event;
		struct virtio_rdma_completion_event completion;
	};
} ____cacheline_aligned;

void vrdma_ref_init(struct vrdma_ref *ref)
{
	refcount_set(&ref->count, 1);
	init_completion(&ref->free);
}

void vrdma_ref_put(struct vrdma_ref *ref)
{
	if (refcount_dec_and_test(&ref->count))
		complete(&ref->free);
}

/* vrdma_ref_wait - let go of an object that no event finds any more, behind the last that did */
void vrdma_ref_wait(struct vrdma_ref *ref)
{
	vrdma_ref_put(ref);
	wait_for_completion(&ref->free);
}

static unsigned int vrdma_slots(struct virtqueue *vq)
{
	return min_t(unsigned int, virtqueue_get_vring_size(vq), VRDMA_MAX_SLOTS);
}

static int vrdma_give(struct virtqueue *vq, struct vrdma_event_slot *slot,
		      size_t size)
{
	struct scatterlist sg;

	sg_init_one(&sg, slot, size);
	return virtqueue_add_inbuf(vq, &sg, 1, slot, GFP_ATOMIC);
}

int vrdma_events_init(struct vrdma_dev *dev)
{
	struct vrdma_event_slot *slot;
	unsigned int i, j, n, total;
	int ret = 0;

	total = vrdma_slots(dev->event);
	for (i = 0; i < dev->num_completion; i++)
		total += vrdma_slots(dev->completion[i]);
	dev->slots = kcalloc(total, sizeof(*dev->slots), GFP_KERNEL);
	if (!dev->slots)
		return -ENOMEM;
	slot = dev->slots;
	n = vrdma_slots(dev->event);
	for (i = 0; i < n && !ret; i++)
		ret = vrdma_give(dev->event, slot++,
				 sizeof(struct virtio_rdma_event));
	for (j = 0; j < dev->num_completion; j++) {
		n = vrdma_slots(dev->completion[j]);
		for (i = 0; i < n && !ret; i++)
			ret = vrdma_give(dev->completion[j], slot++,
					 sizeof(struct virtio_rdma_completion_event));
	}
	return ret;
}

/* vrdma_events_start - tell the device of the buffers, once it is in operation */
void vrdma_events_start(struct vrdma_dev *dev)
{
	unsigned int i;

	virtqueue_kick(dev->event);
	for (i = 0; i < dev->num_completion; i++)
		virtqueue_kick(dev->completion[i]);
}

void vrdma_events_free(struct vrdma_dev *dev)
{
	kfree(dev->slots);
	dev->slots = NULL;
}

/*
 * The object of a number, held, or NULL: it may have been destroyed (EVT-1).
 * ref: where its struct vrdma_ref is, bytes.
 */
/* [virtio-rdma EVT-1] [virtio-rdma EVT-7] */
static void *vrdma_find(struct xarray *objects, u32 number, size_t ref)
{
	unsigned long flags;
	void *object;

	xa_lock_irqsave(objects, flags);
	object = xa_load(objects, number);
	if (object)
		refcount_inc(&((struct vrdma_ref *)(object + ref))->count);
	xa_unlock_irqrestore(objects, flags);
	return object;
}

static void vrdma_cq_event(struct vrdma_dev *dev, u32 number)
{
	struct vrdma_cq *cq = vrdma_find(&dev->cqs, number,
					 offsetof(struct vrdma_cq, ref));
	struct ib_event event = { .device = &dev->ibdev, .event = IB_EVENT_CQ_ERR };

	if (!cq)
		return;
	event.element.cq = &cq->ibcq;
	if (cq->ibcq.event_handler)
		cq->ibcq.event_handler(&event, cq->ibcq.cq_context);
	vrdma_ref_put(&cq->ref);
}

static void vrdma_srq_event(struct vrdma_dev *dev, u32 number,
			    enum ib_event_type type)
{
	struct vrdma_srq *srq = vrdma_find(&dev->srqs, number,
					   offsetof(struct vrdma_srq, ref));
	struct ib_event event = { .device = &dev->ibdev, .event = type };

	if (!srq)
		return;
	event.element.srq = &srq->ibsrq;
	if (srq->ibsrq.event_handler)
		srq->ibsrq.event_handler(&event, srq->ibsrq.srq_context);
	vrdma_ref_put(&srq->ref);
}

static void vrdma_qp_event(struct vrdma_dev *dev, u32 number,
			   enum ib_event_type type)
{
	struct vrdma_qp *qp = vrdma_find(&dev->qps, number,
					 offsetof(struct vrdma_qp, ref));
	struct ib_event event = { .device = &dev->ibdev, .event = type };

	if (!qp)
		return;
	event.element.qp = &qp->ibqp;
	if (qp->ibqp.event_handler)
		qp->ibqp.event_handler(&event, qp->ibqp.qp_context);
	vrdma_ref_put(&qp->ref);
}

static void vrdma_event(struct vrdma_dev *dev, u32 type, u32 object)
{
	struct ib_event event = { .device = &dev->ibdev };

	switch (type) {
	case VIRTIO_RDMA_EVENT_DEVICE_FATAL:
		dev_err(&dev->vdev->dev, "the device has failed\n");
		event.event = IB_EVENT_DEVICE_FATAL;
		event.element.port_num = VRDMA_PORT;
		if (READ_ONCE(dev->registered))
			ib_dispatch_event(&event);
		break;
	case VIRTIO_RDMA_EVENT_CQ_ERR:
		vrdma_cq_event(dev, object);
		break;
	case VIRTIO_RDMA_EVENT_SRQ_ERR:
		vrdma_srq_event(dev, object, IB_EVENT_SRQ_ERR);
		break;
	case VIRTIO_RDMA_EVENT_SRQ_LIMIT:
		vrdma_srq_event(dev, object, IB_EVENT_SRQ_LIMIT_REACHED);
		break;
	case VIRTIO_RDMA_EVENT_QP_FATAL:
		vrdma_qp_event(dev, object, IB_EVENT_QP_FATAL);
		break;
	case VIRTIO_RDMA_EVENT_QP_REQ_ERR:
		vrdma_qp_event(dev, object, IB_EVENT_QP_REQ_ERR);
		break;
	case VIRTIO_RDMA_EVENT_QP_ACCESS_ERR:
		vrdma_qp_event(dev, object, IB_EVENT_QP_ACCESS_ERR);
		break;
	case VIRTIO_RDMA_EVENT_COMM_EST:
		vrdma_qp_event(dev, object, IB_EVENT_COMM_EST);
		break;
	case VIRTIO_RDMA_EVENT_SQ_DRAINED:
		vrdma_qp_event(dev, object, IB_EVENT_SQ_DRAINED);
		break;
	case VIRTIO_RDMA_EVENT_LAST_WQE:
		vrdma_qp_event(dev, object, IB_EVENT_QP_LAST_WQE_REACHED);
		break;
	default:
		dev_warn_ratelimited(&dev->vdev->dev, "unknown event %u\n",
				     type);
	}
}

/* vrdma_event_done - the device has sent asynchronous events */
void vrdma_event_done(struct virtqueue *vq)
{
	struct vrdma_dev *dev = vq->vdev->priv;
	struct vrdma_event_slot *slot;
	unsigned int used;

	do {
		virtqueue_disable_cb(vq);
		while ((slot = virtqueue_get_buf(vq, &used))) {
			u32 type = le32_to_cpu(slot->event.type);
			u32 object = le32_to_cpu(slot->event.object);

			vrdma_give(vq, slot, sizeof(slot->event));
			virtqueue_kick(vq);
			if (used >= sizeof(slot->event))
				vrdma_event(dev, type, object);
		}
	} while (!virtqueue_enable_cb(vq));
}

/* vrdma_completion_done - CQs that were armed have completions */
void vrdma_completion_done(struct virtqueue *vq)
{
	struct vrdma_dev *dev = vq->vdev->priv;
	struct vrdma_event_slot *slot;
	unsigned int used;

	do {
		virtqueue_disable_cb(vq);
		while ((slot = virtqueue_get_buf(vq, &used))) {
			u32 number = le32_to_cpu(slot->completion.cq);
			struct vrdma_cq *cq;

			vrdma_give(vq, slot, sizeof(slot->completion));
			if (used < sizeof(slot->completion))
				continue;
			cq = vrdma_find(&dev->cqs, number,
					offsetof(struct vrdma_cq, ref));
			if (!cq)
				continue;
			if (cq->ibcq.comp_handler)
				cq->ibcq.comp_handler(&cq->ibcq,
						      cq->ibcq.cq_context);
			vrdma_ref_put(&cq->ref);
		}
		virtqueue_kick(vq);
	} while (!virtqueue_enable_cb(vq));
}
