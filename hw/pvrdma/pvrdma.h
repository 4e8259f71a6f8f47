/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VMware's PVRDMA function: its BARs, its properties, and how a device is made. For all
 * else there is rdma_device.h.
 */
#pragma once

#include "rdma_backend.h"
#include "rdma_device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* BAR 0, MSI-X, stays with the hypervisor. */
enum {
    PVRDMA_BAR_REGS = 1, /* registers, PVRDMA_REGS_BAR_SIZE bytes, 32-bit accesses */
    PVRDMA_BAR_UAR = 2,  /* doorbell pages, max_uar * PVRDMA_UAR_PAGE_SIZE bytes, 32-bit accesses */
};

#define PVRDMA_REGS_BAR_SIZE 4096u
#define PVRDMA_UAR_PAGE_SIZE 4096u

/* Interrupt vectors: response, asynchronous event, completion. */
#define PVRDMA_VECTORS 3u

/*
 * The properties that guests see, of one number each: every list of them is made from this.
 *   X(type, member, "name", default, least, most, power_of_two, "description")
 * Names are those of ibv_device_attr; defaults are VMware's, but for max-qp-wr (UCX asks for 4096 receives of a
 * UD QP) and max-uar (2 MiB is what firmware keeps free behind a port for hot-plug). power_of_two: 1 where the number
 * must be one. max-qp: QP handles 0 and 1 are special, and a CQE has 16 bits for the handle.
 * gid-tbl-len: an address vector names a GID in 8 bits.
 */
#define PVRDMA_MAX_WR 32768
#define PVRDMA_MAX_CQE 4194304

#define PVRDMA_PROPERTIES(X)                                                                      \
    X(uint32_t, version, "version", 20, 17, 20, 0,                                                \
      "version of the device (PVRDMA_REG_VERSION); 17 is for RoCEv1 only")                        \
    X(uint32_t, max_qp, "max-qp", 32768, 3, 65535, 0,                                             \
      "queue pairs, of which two are the GSI's and the SMI's")                                    \
    X(uint32_t, max_qp_wr, "max-qp-wr", 16384, 1, PVRDMA_MAX_WR, 1,                                \
      "work requests in a queue of a QP")                                                         \
    X(uint32_t, max_sge, "max-sge", 16, 1, 32, 0,                                                 \
      "scatter/gather entries of a work request")                                                 \
    X(uint32_t, max_cq, "max-cq", 4096, 1, 65536, 0,                                              \
      "completion queues")                                                                        \
    X(uint32_t, max_cqe, "max-cqe", 262144, 1, PVRDMA_MAX_CQE, 1,                                 \
      "entries of a CQ")                                                                          \
    X(uint32_t, max_mr, "max-mr", 262144, 2, 16777215, 0,                                         \
      "memory regions")                                                                           \
    X(uint64_t, max_mr_size, "max-mr-size", 4294967295, 4096, 549755813888, 0,                    \
      "bytes of a memory region; its page directory holds 1 GiB")                                 \
    X(uint32_t, max_pd, "max-pd", 32768, 1, 16777215, 0,                                          \
      "protection domains")                                                                       \
    X(uint32_t, max_srq, "max-srq", 4096, 0, 65535, 0,                                            \
      "shared receive queues; 0: none")                                                           \
    X(uint32_t, max_srq_wr, "max-srq-wr", 4096, 1, PVRDMA_MAX_WR, 1,                              \
      "work requests in an SRQ")                                                                  \
    X(uint32_t, max_srq_sge, "max-srq-sge", 16, 1, 32, 0,                                         \
      "scatter/gather entries of a work request in an SRQ")                                       \
    X(uint32_t, max_ah, "max-ah", 65536, 1, 2147483647, 0,                                        \
      "address handles, which the driver keeps alone")                                            \
    X(uint32_t, max_uar, "max-uar", 512, 2, 65536, 1,                                             \
      "doorbell pages: processes that use the device at once; BAR 2 has 4 KiB for each")          \
    X(uint32_t, gid_tbl_len, "gid-tbl-len", 64, 1, 256, 0,                                        \
      "entries of the GID table")                                                                 \
    X(uint32_t, max_qp_rd_atom, "max-qp-rd-atom", 128, 1, 128, 0,                                 \
      "READs and atomics outstanding at a QP as responder")                                       \
    X(uint32_t, max_qp_init_rd_atom, "max-qp-init-rd-atom", 128, 1, 128, 0,                       \
      "READs and atomics outstanding of a QP as requester")                                       \
    X(uint64_t, node_guid, "node-guid", 0, 0, UINT64_MAX, 0,                                      \
      "node GUID, in host byte order; 0: made from the card's MAC address")

/* Limits and identity of a PVRDMA device. */
typedef struct PvrdmaConfig {
#define PVRDMA_MEMBER(type, member, ...) type member;
    PVRDMA_PROPERTIES(PVRDMA_MEMBER)
#undef PVRDMA_MEMBER
    uint32_t roce_version; /* 1 or 2 */
    uint64_t number_seed;  /* random: where QPNs and keys begin; 0: with the lowest */
} PvrdmaConfig;

/* The defaults, with RoCEv2. */
void pvrdma_config_default(PvrdmaConfig *config);

/*
 * Creates a PVRDMA device over that backend (NULL: roce). With a host's device behind it,
 * limits are those of config or, where they are lower, the host device's. On a bad limit or
 * backend returns NULL and sets *error to a message (free() it) that names the property with
 * its valid range.
 */
RdmaDevice *pvrdma_device_create(const PvrdmaConfig *config, const RdmaBackendConfig *backend,
                                 const RdmaHostOps *ops, void *opaque, char **error);

#ifdef __cplusplus
}
#endif
