// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device's counters, as "rdma statistic show link" has them.
 */
#include "virtio_rdma.h"

static const char *const vrdma_counter_names[] = {
	[VIRTIO_RDMA_SENT_PACKETS] = "sent_pkts",
	[VIRTIO_RDMA_RECEIVED_PACKETS] = "rcvd_pkts",
	[VIRTIO_RDMA_DROPPED_PACKETS] = "dropped_pkts",
	[VIRTIO_RDMA_DUPLICATE_REQUESTS] = "duplicate_request",
	[VIRTIO_RDMA_OUT_OF_SEQUENCE] = "out_of_seq_request",
	[VIRTIO_RDMA_SEQUENCE_NAKS] = "rcvd_seq_err",
	[VIRTIO_RDMA_RNR_NAKS_SENT] = "send_rnr_err",
	[VIRTIO_RDMA_RNR_NAKS_RECEIVED] = "rcvd_rnr_err",
	[VIRTIO_RDMA_TIMEOUTS] = "requester_timeout",
	[VIRTIO_RDMA_RETRIES_EXCEEDED] = "retry_exceeded_err",
};

static int vrdma_query_counters(struct vrdma_dev *dev,
				struct virtio_rdma_counters *counters)
{
	const struct virtio_rdma_request request = {
		.command = cpu_to_le32(VIRTIO_RDMA_QUERY_COUNTERS),
	};

	return vrdma_exec(dev, &request, sizeof(request), NULL, counters,
			  sizeof(*counters));
}

static struct rdma_hw_stats *vrdma_alloc_hw_port_stats(struct ib_device *ibdev,
						       u32 port)
{
	struct vrdma_dev *dev = to_vdev(ibdev);

	return rdma_alloc_hw_stats_struct(dev->counter_descs, dev->num_counters,
					  RDMA_HW_STATS_DEFAULT_LIFESPAN);
}

static int vrdma_get_hw_stats(struct ib_device *ibdev,
			      struct rdma_hw_stats *stats, u32 port, int index)
{
	struct vrdma_dev *dev = to_vdev(ibdev);
	struct virtio_rdma_counters counters;
	unsigned int i;
	int ret;

	if (port != VRDMA_PORT)
		return -EINVAL;
	ret = vrdma_query_counters(dev, &counters);
	if (ret)
		return ret;
	for (i = 0; i < dev->num_counters; i++)
		stats->value[i] =
			le64_to_cpu(counters.counters[dev->counter[i]]);
	return dev->num_counters;
}

static const struct ib_device_ops vrdma_counter_ops = {
	.alloc_hw_port_stats = vrdma_alloc_hw_port_stats,
	.get_hw_stats = vrdma_get_hw_stats,
};

/* vrdma_counters_init - find out which counters there are: what is not counted is not shown */
int vrdma_counters_init(struct vrdma_dev *dev)
{
	struct virtio_rdma_counters counters;
	unsigned int i, n = 0;
	int ret;

	BUILD_BUG_ON(ARRAY_SIZE(vrdma_counter_names) != VIRTIO_RDMA_NUM_COUNTERS);
	ret = vrdma_query_counters(dev, &counters);
	if (ret)
		return ret;
	for (i = 0; i < VIRTIO_RDMA_NUM_COUNTERS; i++) {
		if (le64_to_cpu(counters.counters[i]) == VIRTIO_RDMA_NOT_COUNTED)
			continue;
		dev->counter_descs[n].name = vrdma_counter_names[i];
		dev->counter[n++] = i;
	}
	dev->num_counters = n;
	if (n)
		ib_set_device_ops(&dev->ibdev, &vrdma_counter_ops);
	return 0;
}
