/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which backend stands behind a device, as a hypervisor says it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* On where it serves every operation, on where there is any, off. */
enum { RDMA_ODP_AUTO, RDMA_ODP_ON, RDMA_ODP_OFF };

/* Which port of a host's RDMA device stands behind a device, and how. */
typedef struct RdmaHostPortConfig {
    const char *ibdev;    /* its name; NULL or empty: not given */
    uint32_t ibport;      /* 1.. */
    int32_t gid_index;    /* of the GID all packets come from; negative: the guest's own */
    bool add_addresses;   /* put addresses of the guest on the host's interface */
    /* The addresses that the guest may use, "ADDRESS[/BITS][+...]"; NULL or empty: any,
     * which add_addresses does not allow. */
    const char *gid_allow;
    int odp;              /* on-demand paging: RDMA_ODP_* */
    uint16_t peer_port;   /* TCP port of the control channel between devices, 0: none */
    bool lose_on_migrate; /* QPs that cannot come along go to the error state;
                           * otherwise they keep the device from migrating */
    /*
     * How messages of connection management pass: the socket of rdmacm-mux, or "off"
     * (umad); NULL or empty: its well-known socket where there is one, or umad.
     */
    const char *cm_mux;
} RdmaHostPortConfig;

typedef struct RdmaBackendConfig {
    const char *name;        /* "roce" or "verbs" */
    RdmaHostPortConfig port; /* of verbs; all zero for others */
} RdmaBackendConfig;

#ifdef __cplusplus
}
#endif
