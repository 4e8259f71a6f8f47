/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The driver of the virtio RDMA device. docs/virtio-rdma specifies the device; names such as
 * QUE-4 are its rules.
 */
#ifndef VIRTIO_RDMA_H
#define VIRTIO_RDMA_H

#include <linux/completion.h>
#include <linux/idr.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/virtio.h>
#include <linux/virtio_ring.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <rdma/ib_verbs.h>

#include "compat.h"
#include "virtio_rdma_abi.h"
#include "virtio_rdma-abi.h"

#define VRDMA_PORT 1
/* An entry of a work queue is not longer; entries are counted by 16 bits. */
#define VRDMA_MAX_ENTRY_SIZE 4096
#define VRDMA_MAX_ENTRIES 32768

struct vrdma_pages;

/* The limits that QUERY_DEVICE gave, within what this driver can use. */
struct vrdma_limits {
	u64 max_mr_size;
	u64 page_sizes;
	u32 max_pd, max_mr, max_cq, max_srq, max_qp;
	u32 max_mr_pages, max_fast_registration_pages;
	u32 max_cq_entries, max_srq_entries, max_sq_entries, max_rq_entries;
	u32 max_message_size;
	u32 max_send_sges, max_recv_sges, max_inline;
	u32 max_dest_rd_atomic, max_rd_atomic;
	u32 num_gids;
	u8 max_mtu, ack_delay;
};

struct vrdma_dev {
	struct ib_device ibdev;
	struct virtio_device *vdev;
	struct device *dma_dev;
	struct vrdma_limits limits;
	u8 mac[ETH_ALEN];
	/* Whether virt_ barriers are enough: VIRTIO_F_ORDER_PLATFORM. */
	bool weak_barriers;

	/* Control queue. */
	struct virtqueue *control;
	spinlock_t control_lock; /* The control queue and the list of commands. */
	struct list_head commands; /* That the device has. */
	wait_queue_head_t control_space;
	bool control_stopped;

	/* Event queues. */
	struct virtqueue *event;
	struct virtqueue *completion[VIRTIO_RDMA_MAX_COMPLETION_QUEUES];
	struct vrdma_event_slot *slots;
	unsigned int num_completion;

	/* Objects by the number that the device gave them, for events. */
	struct xarray cqs;
	struct xarray srqs;
	struct xarray qps;

	/* Doorbell pages. */
	phys_addr_t doorbells;
	void __iomem *doorbell; /* Of context 0. */
	struct ida contexts;
	unsigned int max_context; /* In pages of the platform. */

	struct dma_pool *states;

	/* The network device and the port. */
	struct notifier_block netdev_nb;
	struct net_device *netdev; /* Under rtnl_lock; for comparison alone. */
	struct work_struct link_work;
	enum ib_port_state port_state; /* That has been told to the core. */
	bool registered;

	u8 counter[VIRTIO_RDMA_NUM_COUNTERS]; /* Those that are shown. */
	struct rdma_stat_desc counter_descs[VIRTIO_RDMA_NUM_COUNTERS];
	unsigned int num_counters;
};

struct vrdma_ucontext {
	struct ib_ucontext ibucontext;
	u32 index; /* Page of the platform. */
	u32 number; /* Of the device's context. */
	struct rdma_user_mmap_entry *doorbell;
};

struct vrdma_pd {
	struct ib_pd ibpd;
	u32 pdn;
};

struct vrdma_mr {
	struct ib_mr ibmr;
	u32 mrn;
	u32 access; /* enum ib_access_flags */
	struct ib_umem *umem;
	/* Fast registration: addresses of pages. */
	__le64 *pages;
	dma_addr_t pages_dma;
	size_t pages_size; /* bytes */
	u32 max_pages;
	u32 num_pages;
};

/* An array of entries, in memory of the kernel's: entries do not straddle its chunks. */
struct vrdma_ring {
	void **chunks; /* Of PAGE_SIZE bytes. */
	dma_addr_t *dma;
	unsigned int num_chunks;
	u32 entries;
	u32 entry_size;
};

/* A queue that requests are posted to, of a kernel's user. */
struct vrdma_wq {
	spinlock_t lock; /* Posting. */
	struct vrdma_ring ring;
	struct virtio_rdma_queue_state *state;
	dma_addr_t state_dma;
	u32 producer;
	u32 max_sges;
	u32 max_inline;
	u32 entries;
	u32 entry_size;
};

/* What events find by number: it lives until the last event has been delivered. */
struct vrdma_ref {
	refcount_t count;
	struct completion free;
};

struct vrdma_cq {
	struct ib_cq ibcq;
	struct vrdma_ref ref;
	u32 cqn;
	u32 entries;
	spinlock_t lock; /* Polling and arming. */
	struct vrdma_ring ring;
	struct virtio_rdma_cq_state *state;
	dma_addr_t state_dma;
	u32 consumer;
	u32 arm;
	struct ib_umem *umem;
};

struct vrdma_srq {
	struct ib_srq ibsrq;
	struct vrdma_ref ref;
	u32 srqn;
	struct vrdma_wq wq;
	struct ib_umem *umem;
};

struct vrdma_qp {
	struct ib_qp ibqp;
	struct vrdma_ref ref;
	u32 qpn;
	bool user;
	struct mutex mutex; /* Changes of the state. */
	enum ib_qp_state state; /* As the driver has set it. */
	struct vrdma_wq sq;
	struct vrdma_wq rq;
	bool signal_all;
	struct ib_umem *umem;
};

struct vrdma_ah {
	struct ib_ah ibah;
	struct virtio_rdma_av av;
};

static inline struct vrdma_dev *to_vdev(struct ib_device *ibdev)
{
	return container_of(ibdev, struct vrdma_dev, ibdev);
}

static inline struct vrdma_ucontext *to_vucontext(struct ib_ucontext *ibucontext)
{
	return container_of(ibucontext, struct vrdma_ucontext, ibucontext);
}

static inline struct vrdma_pd *to_vpd(struct ib_pd *ibpd)
{
	return container_of(ibpd, struct vrdma_pd, ibpd);
}

static inline struct vrdma_mr *to_vmr(struct ib_mr *ibmr)
{
	return container_of(ibmr, struct vrdma_mr, ibmr);
}

static inline struct vrdma_cq *to_vcq(struct ib_cq *ibcq)
{
	return container_of(ibcq, struct vrdma_cq, ibcq);
}

static inline struct vrdma_srq *to_vsrq(struct ib_srq *ibsrq)
{
	return container_of(ibsrq, struct vrdma_srq, ibsrq);
}

static inline struct vrdma_qp *to_vqp(struct ib_qp *ibqp)
{
	return container_of(ibqp, struct vrdma_qp, ibqp);
}

static inline struct vrdma_ah *to_vah(struct ib_ah *ibah)
{
	return container_of(ibah, struct vrdma_ah, ibah);
}

/* The context of an object's process: 0 is the kernel's. */
static inline u32 vrdma_context(struct ib_udata *udata)
{
	struct vrdma_ucontext *context = rdma_udata_to_drv_context(udata,
			struct vrdma_ucontext, ibucontext);

	return context ? context->number : 0;
}

/* Entry of a ring that an index, which runs freely, stands for. */
static inline void *vrdma_entry(const struct vrdma_ring *ring, u32 index)
{
	size_t offset = (size_t)(index & (ring->entries - 1)) * ring->entry_size;

	return ring->chunks[offset >> PAGE_SHIFT] + offset_in_page(offset);
}

/* Makes an index visible after all accesses to memory before it. */
static inline void vrdma_publish(struct vrdma_dev *dev, __le32 *word, u32 value)
{
	if (dev->weak_barriers) {
		/* The other side is another processor: it acquires the word. */
		virt_store_release(word, cpu_to_le32(value));
	} else {
		/* The other side may be a device; reads of entries are ordered, too. */
		mb();
		WRITE_ONCE(*word, cpu_to_le32(value));
	}
}

/* Orders later accesses after the read of an index. */
static inline u32 vrdma_acquire(struct vrdma_dev *dev, const __le32 *word)
{
	u32 value = le32_to_cpu(READ_ONCE(*word));

	virtio_rmb(dev->weak_barriers);
	return value;
}

/* control.c */
void vrdma_control_init(struct vrdma_dev *dev);
void vrdma_control_done(struct virtqueue *vq);
void vrdma_control_stop(struct vrdma_dev *dev);
void vrdma_control_drop(struct vrdma_dev *dev);
int vrdma_exec(struct vrdma_dev *dev, const void *request, size_t request_size,
	       struct vrdma_pages *pages, void *reply, size_t reply_size);
int vrdma_command(struct vrdma_dev *dev, u32 command, u32 object);
int vrdma_destroy(struct vrdma_dev *dev, u32 command, u32 object);
struct vrdma_pages *vrdma_pages_alloc(struct vrdma_dev *dev, size_t count);
void vrdma_pages_add(struct vrdma_pages *pages, u64 address);
void vrdma_pages_free(struct vrdma_pages *pages);

/* events.c */
int vrdma_events_init(struct vrdma_dev *dev);
void vrdma_events_start(struct vrdma_dev *dev);
void vrdma_events_free(struct vrdma_dev *dev);
void vrdma_event_done(struct virtqueue *vq);
void vrdma_completion_done(struct virtqueue *vq);
void vrdma_ref_init(struct vrdma_ref *ref);
void vrdma_ref_put(struct vrdma_ref *ref);
void vrdma_ref_wait(struct vrdma_ref *ref);

/* device.c */
int vrdma_device_init(struct vrdma_dev *dev);
int vrdma_query_device(struct ib_device *ibdev, struct ib_device_attr *attr,
		       struct ib_udata *udata);
int vrdma_query_port(struct ib_device *ibdev, u32 port,
		     struct ib_port_attr *attr);
int vrdma_query_pkey(struct ib_device *ibdev, u32 port, u16 index, u16 *pkey);
int vrdma_get_port_immutable(struct ib_device *ibdev, u32 port,
			     struct ib_port_immutable *immutable);
enum rdma_link_layer vrdma_get_link_layer(struct ib_device *ibdev, u32 port);

/* main.c */
enum ib_port_state vrdma_port_state(struct vrdma_dev *dev);

/* counters.c */
int vrdma_counters_init(struct vrdma_dev *dev);

/* gid.c */
int vrdma_add_gid(const struct ib_gid_attr *attr, void **context);
int vrdma_del_gid(const struct ib_gid_attr *attr, void **context);

/* context.c */
int vrdma_alloc_ucontext(struct ib_ucontext *ibucontext, struct ib_udata *udata);
void vrdma_dealloc_ucontext(struct ib_ucontext *ibucontext);
int vrdma_mmap(struct ib_ucontext *ibucontext, struct vm_area_struct *vma);
void vrdma_mmap_free(struct rdma_user_mmap_entry *entry);
void vrdma_disassociate_ucontext(struct ib_ucontext *ibucontext);
int vrdma_alloc_pd(struct ib_pd *ibpd, struct ib_udata *udata);
int vrdma_dealloc_pd(struct ib_pd *ibpd, struct ib_udata *udata);

/* mr.c */
struct ib_mr *vrdma_get_dma_mr(struct ib_pd *ibpd, int access);
struct ib_mr *vrdma_reg_user_mr(struct ib_pd *ibpd, u64 start, u64 length,
				u64 iova, int access, VRDMA_DMAH
				struct ib_udata *udata);
struct ib_mr *vrdma_alloc_mr(struct ib_pd *ibpd, enum ib_mr_type type,
			     u32 max_pages);
int vrdma_map_mr_sg(struct ib_mr *ibmr, struct scatterlist *sg, int sg_nents,
		    unsigned int *sg_offset);
int vrdma_dereg_mr(struct ib_mr *ibmr, struct ib_udata *udata);
u32 vrdma_access(struct vrdma_dev *dev, int access);

/* queue.c */
int vrdma_ring_alloc(struct vrdma_dev *dev, struct vrdma_ring *ring,
		     u32 entries, u32 entry_size);
void vrdma_ring_free(struct vrdma_dev *dev, struct vrdma_ring *ring);
u32 vrdma_ring_pages(u32 entries, u32 entry_size);
void vrdma_ring_add_pages(const struct vrdma_ring *ring,
			  struct vrdma_pages *pages);
int vrdma_wq_alloc(struct vrdma_dev *dev, struct vrdma_wq *wq);
void vrdma_wq_free(struct vrdma_dev *dev, struct vrdma_wq *wq);
bool vrdma_wq_fits(u32 entries, u32 max_entries, u32 entry_size,
		   u32 min_entry_size);
struct ib_umem *vrdma_queue_umem(struct vrdma_dev *dev, u64 buf, u32 pages,
				 u64 *state, struct vrdma_pages **list);

/* cq.c */
int vrdma_create_cq(struct ib_cq *ibcq, const struct ib_cq_init_attr *attr,
		    VRDMA_CQ_ATTRS *attrs);
int vrdma_destroy_cq(struct ib_cq *ibcq, struct ib_udata *udata);

/* srq.c */
int vrdma_create_srq(struct ib_srq *ibsrq, struct ib_srq_init_attr *attr,
		     struct ib_udata *udata);
int vrdma_modify_srq(struct ib_srq *ibsrq, struct ib_srq_attr *attr,
		     enum ib_srq_attr_mask mask, struct ib_udata *udata);
int vrdma_query_srq(struct ib_srq *ibsrq, struct ib_srq_attr *attr);
int vrdma_destroy_srq(struct ib_srq *ibsrq, struct ib_udata *udata);

/* ah.c */
void vrdma_av(const struct rdma_ah_attr *attr, struct virtio_rdma_av *av);
int vrdma_create_ah(struct ib_ah *ibah, struct rdma_ah_init_attr *attr,
		    struct ib_udata *udata);
int vrdma_destroy_ah(struct ib_ah *ibah, u32 flags);

/* qp.c */
u32 vrdma_recv_sges(struct vrdma_dev *dev, u32 entry_size);
int vrdma_create_qp(struct ib_qp *ibqp, struct ib_qp_init_attr *attr,
		    struct ib_udata *udata);
int vrdma_destroy_qp(struct ib_qp *ibqp, struct ib_udata *udata);

/* modify_qp.c */
int vrdma_modify_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		    struct ib_udata *udata);
int vrdma_query_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		   struct ib_qp_init_attr *init_attr);

/* post.c */
int vrdma_post_send(struct ib_qp *ibqp, const struct ib_send_wr *wr,
		    const struct ib_send_wr **bad_wr);
int vrdma_post_recv(struct ib_qp *ibqp, const struct ib_recv_wr *wr,
		    const struct ib_recv_wr **bad_wr);
int vrdma_post_srq_recv(struct ib_srq *ibsrq, const struct ib_recv_wr *wr,
			const struct ib_recv_wr **bad_wr);

/* poll.c */
int vrdma_poll_cq(struct ib_cq *ibcq, int num_entries, struct ib_wc *wc);
int vrdma_req_notify_cq(struct ib_cq *ibcq, enum ib_cq_notify_flags flags);

#endif
