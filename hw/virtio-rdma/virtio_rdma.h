/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The virtio RDMA device (docs/virtio-rdma): its properties, and how a device is made. For all
 * else there is rdma_device.h: commands, replies and events are those of its control and event
 * queues, features are VIRTIO_RDMA_F_* by their bits, and the doorbell region is BAR
 * VIRTIO_RDMA_DOORBELLS. Virtqueues, configuration and feature negotiation stay with the
 * hypervisor.
 */
#pragma once

#include "rdma_backend.h"
#include "rdma_device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* For rdma_device_bar_read() and rdma_device_bar_write(): max-contexts pages of 4096 bytes, 32-bit
 * accesses. */
#define VIRTIO_RDMA_DOORBELLS 0u

/*
 * The properties that guests see, of one number each: every list of them is made from this.
 *   X(type, member, "name", default, least, most, power_of_two, "description")
 * Names are those of ibv_device_attr and of pvrdma's.
 */
#define VIRTIO_RDMA_MAX_WR 32768
#define VIRTIO_RDMA_MAX_CQE 4194304

#define VIRTIO_RDMA_PROPERTIES(X)                                                                 \
    X(uint32_t, vectors, "vectors", 2, 1, 8, 0,                                                   \
      "completion vectors, each with a virtqueue")                                                \
    X(uint32_t, max_qp, "max-qp", 32768, 2, 65533, 0,                                            \
      "queue pairs, of which one is the GSI's")                                                   \
    X(uint32_t, max_qp_wr, "max-qp-wr", 32768, 64, VIRTIO_RDMA_MAX_WR, 1,                         \
      "work requests in a queue of a QP")                                                         \
    X(uint32_t, max_sge, "max-sge", 16, 1, 32, 0,                                                 \
      "scatter/gather entries of a work request")                                                 \
    X(uint32_t, max_inline, "max-inline", 512, 0, 2048, 0,                                        \
      "bytes of a work request that can be inline")                                               \
    X(uint32_t, max_cq, "max-cq", 65536, 1, 1048576, 0,                                           \
      "completion queues")                                                                        \
    X(uint32_t, max_cqe, "max-cqe", 262144, 64, VIRTIO_RDMA_MAX_CQE, 1,                           \
      "entries of a CQ")                                                                          \
    X(uint32_t, max_mr, "max-mr", 262144, 2, 16777215, 0,                                         \
      "memory regions")                                                                           \
    X(uint64_t, max_mr_size, "max-mr-size", 4294967296, 4096, 549755813888, 0,                    \
      "bytes of a memory region")                                                                 \
    X(uint32_t, max_pd, "max-pd", 32768, 1, 16777215, 0,                                          \
      "protection domains")                                                                       \
    X(uint32_t, max_srq, "max-srq", 4096, 0, 1048576, 0,                                          \
      "shared receive queues; 0: none")                                                           \
    X(uint32_t, max_srq_wr, "max-srq-wr", 32768, 64, VIRTIO_RDMA_MAX_WR, 1,                       \
      "work requests in an SRQ")                                                                  \
    X(uint32_t, max_contexts, "max-contexts", 512, 16, 65536, 1,                                  \
      "doorbell pages: processes that use the device at once; the BAR has 4 KiB for each")        \
    X(uint32_t, gid_tbl_len, "gid-tbl-len", 64, 1, 256, 0,                                        \
      "entries of the GID table")                                                                 \
    X(uint32_t, max_qp_rd_atom, "max-qp-rd-atom", 128, 1, 128, 0,                                 \
      "READs and atomics outstanding at a QP as responder")                                       \
    X(uint32_t, max_qp_init_rd_atom, "max-qp-init-rd-atom", 128, 1, 128, 0,                       \
      "READs and atomics outstanding of a QP as requester")                                       \
    X(uint64_t, node_guid, "node-guid", 0, 0, UINT64_MAX, 0,                                      \
      "node GUID, in host byte order; 0: made from the card's MAC address")

typedef struct VirtioRdmaConfig {
#define VIRTIO_RDMA_MEMBER(type, member, ...) type member;
    VIRTIO_RDMA_PROPERTIES(VIRTIO_RDMA_MEMBER)
#undef VIRTIO_RDMA_MEMBER
    uint64_t number_seed; /* random: where QPNs and keys begin; 0: with the lowest */
} VirtioRdmaConfig;

/* The defaults. */
void virtio_rdma_config_default(VirtioRdmaConfig *config);

/*
 * Creates a virtio RDMA device over that backend (NULL: roce). With a host's device behind it,
 * limits are those of config or, where they are lower, the host device's. On a bad limit or
 * backend returns NULL and sets *error to a message (free() it) that names the property with
 * its valid range.
 */
RdmaDevice *virtio_rdma_device_create(const VirtioRdmaConfig *config,
                                      const RdmaBackendConfig *backend, const RdmaHostOps *ops,
                                      void *opaque, char **error);

/*
 * Migration: the device's state has the commands whose replies are to come, and the replies and
 * events that nobody has taken. The host carries along the buffers of those commands (whose
 * rdma_device_command() returned -EINPROGRESS and whose reply rdma_device_take_reply() has not
 * given) with their tags. Features and event queues are loaded with the device. rdma_device_start()
 * raises an interrupt for each queue that has something to take.
 */

/* The longest request that such a device takes, bytes. The host copies no more of a request than
 * one byte above it. */
size_t virtio_rdma_max_request(const VirtioRdmaConfig *config);

#ifdef __cplusplus
}
#endif
