// SPDX-License-Identifier: GPL-2.0-only
/*
 * The control queue: many commands may be on their way, each with a completion of its own.
 */
#include <linux/kref.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>

#include "virtio_rdma.h"

#define VRDMA_REQUEST_SIZE 96
#define VRDMA_REPLY_SIZE 104
/* A request, a reply and pieces of an array take a descriptor each. */
#define VRDMA_MAX_PIECES 62
#define VRDMA_MAX_PIECE_ORDER 8
/* How often somebody who waits looks whether the device is still there. */
#define VRDMA_LOOK_AGAIN (HZ)

/* An array of pages' addresses, in pieces that are as large as they are to be had. */
struct vrdma_pages {
	size_t count;
	size_t added;
	unsigned int num_pieces;
	unsigned int piece; /* That the next address goes into. */
	unsigned int in_piece; /* Addresses in it. */
	struct {
		void *data;
		u8 order;
	} pieces[VRDMA_MAX_PIECES];
};

/* Whoever waits for a command holds it, and the control queue does. */
struct vrdma_cmd {
	struct kref kref;
	struct list_head list; /* Of the device's commands. */
	struct completion done;
	int error;
	u32 used; /* bytes of the reply */
	struct vrdma_pages *pages;
	u8 request[VRDMA_REQUEST_SIZE] ____cacheline_aligned;
	u8 reply[VRDMA_REPLY_SIZE] ____cacheline_aligned;
};

/**
 * vrdma_pages_alloc - make room for addresses that follow a command
 * @dev: the device
 * @count: how many
 *
 * Return: the array, or NULL where there is no memory
 */
struct vrdma_pages *vrdma_pages_alloc(struct vrdma_dev *dev, size_t count)
{
	unsigned int max_pieces = virtqueue_get_vring_size(dev->control);
	unsigned int order = VRDMA_MAX_PIECE_ORDER;
	size_t left = count * sizeof(__le64);
	struct vrdma_pages *pages;

	max_pieces = clamp(max_pieces, 3U, VRDMA_MAX_PIECES + 2U) - 2;
	pages = kzalloc(sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return NULL;
	pages->count = count;
	while (left) {
		gfp_t gfp = GFP_KERNEL | __GFP_NOWARN;
		void *data;

		if (pages->num_pieces == max_pieces)
			goto fail;
		order = min_t(unsigned int, order, get_order(left));
		if (order)
			gfp |= __GFP_NORETRY;
		data = (void *)__get_free_pages(gfp, order);
		if (!data) {
			if (!order)
				goto fail;
			order--;
			continue;
		}
		pages->pieces[pages->num_pieces].data = data;
		pages->pieces[pages->num_pieces++].order = order;
		left -= min_t(size_t, left, PAGE_SIZE << order);
	}
	return pages;
fail:
	vrdma_pages_free(pages);
	return NULL;
}

/* vrdma_pages_add - put the next address into the array */
void vrdma_pages_add(struct vrdma_pages *pages, u64 address)
{
	size_t room;
	__le64 *data;

	if (WARN_ON_ONCE(pages->added == pages->count))
		return;
	data = pages->pieces[pages->piece].data;
	room = (PAGE_SIZE << pages->pieces[pages->piece].order) / sizeof(*data);
	data[pages->in_piece++] = cpu_to_le64(address);
	pages->added++;
	if (pages->in_piece == room) {
		pages->piece++;
		pages->in_piece = 0;
	}
}

void vrdma_pages_free(struct vrdma_pages *pages)
{
	unsigned int i;

	if (!pages)
		return;
	for (i = 0; i < pages->num_pieces; i++)
		free_pages((unsigned long)pages->pieces[i].data,
			   pages->pieces[i].order);
	kfree(pages);
}

void vrdma_control_init(struct vrdma_dev *dev)
{
	spin_lock_init(&dev->control_lock);
	INIT_LIST_HEAD(&dev->commands);
	init_waitqueue_head(&dev->control_space);
}

static void vrdma_cmd_release(struct kref *kref)
{
	struct vrdma_cmd *cmd = container_of(kref, struct vrdma_cmd, kref);

	vrdma_pages_free(cmd->pages);
	kfree(cmd);
}

static void vrdma_cmd_put(struct vrdma_cmd *cmd)
{
	kref_put(&cmd->kref, vrdma_cmd_release);
}

/* Ends the wait for a command, under the control lock: once for each. */
static void vrdma_cmd_end(struct vrdma_cmd *cmd, int error)
{
	if (list_empty(&cmd->list))
		return;
	list_del_init(&cmd->list);
	cmd->error = error;
	complete(&cmd->done);
}

/* vrdma_control_done - the device has answered commands */
void vrdma_control_done(struct virtqueue *vq)
{
	struct vrdma_dev *dev = vq->vdev->priv;
	struct vrdma_cmd *cmd;
	unsigned long flags;
	unsigned int used;

	spin_lock_irqsave(&dev->control_lock, flags);
	do {
		virtqueue_disable_cb(vq);
		while ((cmd = virtqueue_get_buf(vq, &used))) {
			cmd->used = used;
			/* [virtio-rdma CTL-3] */
			vrdma_cmd_end(cmd, 0);
			vrdma_cmd_put(cmd);
		}
	} while (!virtqueue_enable_cb(vq));
	spin_unlock_irqrestore(&dev->control_lock, flags);
	wake_up_all(&dev->control_space);
}

/* vrdma_control_stop - no command is answered any more: those that wait fail, as later ones do */
void vrdma_control_stop(struct vrdma_dev *dev)
{
	struct vrdma_cmd *cmd, *next;
	unsigned long flags;

	spin_lock_irqsave(&dev->control_lock, flags);
	dev->control_stopped = true;
	list_for_each_entry_safe(cmd, next, &dev->commands, list)
		vrdma_cmd_end(cmd, -ENODEV);
	spin_unlock_irqrestore(&dev->control_lock, flags);
	wake_up_all(&dev->control_space);
}

/* vrdma_control_drop - let go of commands that the device, which has been reset, had */
void vrdma_control_drop(struct vrdma_dev *dev)
{
	struct vrdma_cmd *cmd;

	while ((cmd = virtqueue_detach_unused_buf(dev->control)))
		vrdma_cmd_put(cmd);
}

/*
 * Stops the control queue where the device does not serve it any more: it is gone, it needs
 * a reset, or it has been reset (a bus reset, say) without the driver.
 */
static void vrdma_control_look(struct vrdma_dev *dev)
{
	u8 status = dev->vdev->config->get_status(dev->vdev);

	if (virtqueue_is_broken(dev->control) ||
	    !(status & VIRTIO_CONFIG_S_DRIVER_OK) ||
	    (status & VIRTIO_CONFIG_S_NEEDS_RESET))
		vrdma_control_stop(dev);
}

/* Gives a command to the device, if there is room. -ENOSPC: there is none now. */
static int vrdma_cmd_send(struct vrdma_dev *dev, struct vrdma_cmd *cmd,
			  struct scatterlist *sgs[], unsigned int out)
{
	unsigned long flags;
	bool notify;
	int ret;

	spin_lock_irqsave(&dev->control_lock, flags);
	if (dev->control_stopped) {
		spin_unlock_irqrestore(&dev->control_lock, flags);
		return -ENODEV;
	}
	kref_get(&cmd->kref);
	ret = virtqueue_add_sgs(dev->control, sgs, out, 1, cmd, GFP_ATOMIC);
	if (ret) {
		spin_unlock_irqrestore(&dev->control_lock, flags);
		vrdma_cmd_put(cmd);
		/* -EIO: the queue is broken, which it stays. */
		return ret == -EIO ? -ENODEV : ret;
	}
	list_add_tail(&cmd->list, &dev->commands);
	notify = virtqueue_kick_prepare(dev->control);
	spin_unlock_irqrestore(&dev->control_lock, flags);
	if (notify)
		virtqueue_notify(dev->control);
	return 0;
}

/* Whether a command can be sent now, or never. */
static bool vrdma_cmd_try(struct vrdma_dev *dev, struct vrdma_cmd *cmd,
			  struct scatterlist *sgs[], unsigned int out, int *ret)
{
	*ret = vrdma_cmd_send(dev, cmd, sgs, out);
	return *ret != -ENOSPC && *ret != -ENOMEM;
}

static void vrdma_cmd_wait(struct vrdma_dev *dev, struct vrdma_cmd *cmd)
{
	while (!wait_for_completion_timeout(&cmd->done, VRDMA_LOOK_AGAIN))
		vrdma_control_look(dev);
}

static int vrdma_status(u32 status)
{
	switch (status) {
	case VIRTIO_RDMA_OK:
		return 0;
	case VIRTIO_RDMA_ERR_COMMAND:
		return -EOPNOTSUPP;
	case VIRTIO_RDMA_ERR_LENGTH:
	case VIRTIO_RDMA_ERR_INVALID:
	case VIRTIO_RDMA_ERR_OBJECT:
	case VIRTIO_RDMA_ERR_STATE:
		return -EINVAL;
	case VIRTIO_RDMA_ERR_BUSY:
		return -EBUSY;
	case VIRTIO_RDMA_ERR_LIMIT:
		return -ENOMEM;
	case VIRTIO_RDMA_ERR_ADDRESS:
		return -EFAULT;
	default:
		return -EIO;
	}
}

/**
 * vrdma_exec - have the device carry out a command, and wait for its reply
 * @dev: the device
 * @request: the request, which begins with its header
 * @request_size: bytes of it
 * @pages: addresses that follow it, or NULL; they are freed in any case
 * @reply: where the reply goes, which begins with its header
 * @reply_size: bytes of it
 *
 * Return: 0; -ENODEV where the device is gone; otherwise as its status says
 */
int vrdma_exec(struct vrdma_dev *dev, const void *request, size_t request_size,
	       struct vrdma_pages *pages, void *reply, size_t reply_size)
{
	struct scatterlist *sgs[VRDMA_MAX_PIECES + 2];
	struct scatterlist *sg;
	const struct virtio_rdma_reply *header;
	struct vrdma_cmd *cmd;
	unsigned int i, n = 0;
	size_t left;
	int ret;

	if (WARN_ON(request_size > sizeof(cmd->request) ||
		    reply_size > sizeof(cmd->reply) ||
		    (pages && pages->added != pages->count))) {
		vrdma_pages_free(pages);
		return -EINVAL;
	}
	cmd = kzalloc(sizeof(*cmd), GFP_KERNEL);
	if (!cmd) {
		vrdma_pages_free(pages);
		return -ENOMEM;
	}
	kref_init(&cmd->kref);
	INIT_LIST_HEAD(&cmd->list);
	init_completion(&cmd->done);
	cmd->pages = pages;
	memcpy(cmd->request, request, request_size);

	sg = kcalloc(VRDMA_MAX_PIECES + 2, sizeof(*sg), GFP_KERNEL);
	if (!sg) {
		ret = -ENOMEM;
		goto out;
	}
	sg_init_one(&sg[n], cmd->request, request_size);
	sgs[n] = &sg[n];
	n++;
	left = pages ? pages->count * sizeof(__le64) : 0;
	for (i = 0; left; i++) {
		size_t size = min_t(size_t, left,
				    PAGE_SIZE << pages->pieces[i].order);

		sg_init_one(&sg[n], pages->pieces[i].data, size);
		sgs[n] = &sg[n];
		n++;
		left -= size;
	}
	sg_init_one(&sg[n], cmd->reply, reply_size);
	sgs[n] = &sg[n];

	while (!wait_event_timeout(dev->control_space,
				   vrdma_cmd_try(dev, cmd, sgs, n, &ret),
				   VRDMA_LOOK_AGAIN))
		vrdma_control_look(dev);
	kfree(sg);
	if (ret)
		goto out;
	vrdma_cmd_wait(dev, cmd);
	ret = cmd->error;
	if (ret)
		goto out;
	header = (const struct virtio_rdma_reply *)cmd->reply;
	if (cmd->used < sizeof(*header)) {
		ret = -EIO;
		goto out;
	}
	/* [virtio-rdma CTL-2] */
	ret = vrdma_status(le32_to_cpu(header->status));
	if (!ret && cmd->used < reply_size)
		ret = -EIO;
	if (!ret)
		memcpy(reply, cmd->reply, reply_size);
out:
	vrdma_cmd_put(cmd);
	return ret;
}

/* vrdma_command - a command that is its header alone, as its reply is */
int vrdma_command(struct vrdma_dev *dev, u32 command, u32 object)
{
	/* [virtio-rdma CTL-1] */
	const struct virtio_rdma_request request = {
		.command = cpu_to_le32(command),
		.object = cpu_to_le32(object),
	};
	struct virtio_rdma_reply reply;

	return vrdma_exec(dev, &request, sizeof(request), NULL, &reply,
			  sizeof(reply));
}

/**
 * vrdma_destroy - destroy an object
 * @dev: the device
 * @command: the command that does so
 * @object: the object's number
 *
 * Return: 0, also where the device is gone, and the object with it
 */
int vrdma_destroy(struct vrdma_dev *dev, u32 command, u32 object)
{
	int ret = vrdma_command(dev, command, object);

	return ret == -ENODEV ? 0 : ret;
}
