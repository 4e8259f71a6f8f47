/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between the kernels that the driver is built for: 6.1 and later.
 */
#ifndef VIRTIO_RDMA_COMPAT_H
#define VIRTIO_RDMA_COMPAT_H

#include <linux/version.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <rdma/ib_umem.h>
#include <rdma/ib_verbs.h>
#include <rdma/iter.h>
#include <rdma/uverbs_ioctl.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)

struct virtqueue_info {
	const char *name;
	vq_callback_t *callback;
};

#define VRDMA_MAX_VQS 10

static inline int vrdma_find_vqs(struct virtio_device *vdev, unsigned int nvqs,
				 struct virtqueue *vqs[],
				 struct virtqueue_info info[],
				 struct irq_affinity *affinity)
{
	vq_callback_t *callbacks[VRDMA_MAX_VQS];
	const char *names[VRDMA_MAX_VQS];
	unsigned int i;

	for (i = 0; i < nvqs; i++) {
		callbacks[i] = info[i].callback;
		names[i] = info[i].name;
	}
	return virtio_find_vqs(vdev, nvqs, vqs, callbacks, names, affinity);
}

/* CREATE_CQ had the driver's data alone. */
#define VRDMA_CQ_ATTRS struct ib_udata
#define vrdma_cq_udata(attrs) (attrs)

#else

#define vrdma_find_vqs virtio_find_vqs
#define VRDMA_CQ_ATTRS struct uverbs_attr_bundle
#define vrdma_cq_udata(attrs) ((attrs) ? &(attrs)->driver_udata : NULL)

#endif

/* From 6.13 on, the core itself follows the network device's state. */
#define VRDMA_CORE_FOLLOWS_NETDEV \
	(LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0))

/* SEC-4: who may set a Q_Key with bit 31. */
#define VRDMA_CORE_CHECKS_QKEY \
	(LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0))

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
#define VRDMA_DMAH
#define vrdma_has_dmah() false
#else
#define VRDMA_DMAH struct ib_dmah *dmah,
#define vrdma_has_dmah() (dmah)
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 2, 0)
#define vrdma_umem_get ib_umem_get
#else
#define vrdma_umem_get ib_umem_get_va
#endif

/*
 * vrdma_copy_in - copy what a process says of an object to be made
 * It may be longer than what is known, if the rest is 0.
 */
static inline int vrdma_copy_in(struct ib_udata *udata, void *to, size_t length)
{
	if (udata->inlen < length)
		return -EINVAL;
	if (udata->inlen > length &&
	    !ib_is_udata_cleared(udata, length, udata->inlen - length))
		return -EOPNOTSUPP;
	return ib_copy_from_udata(to, udata, length);
}

/* vrdma_copy_out - copy a response to a process, as much as it has room for */
static inline int vrdma_copy_out(struct ib_udata *udata, void *from,
				 size_t length)
{
	return ib_copy_to_udata(udata, from, min(udata->outlen, length));
}

#endif
