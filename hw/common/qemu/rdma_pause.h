/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lets a vCPU that polls in vain wait until there is news, or for a while.
 * Linux only; elsewhere vCPUs go on polling.
 */
#ifndef HW_RDMA_PAUSE_H
#define HW_RDMA_PAUSE_H

#include "qom/object.h"

typedef struct RdmaPause {
    Object *owner;        /* the object this is part of */
    uint32_t news;        /* changes with every piece of news; a futex */
    int waiting;          /* vCPUs */
    uint32_t max_ns;      /* longest pause; 0: never pause */
} RdmaPause;

/* Make the vCPU that runs this thread wait, once it is out of its MMIO. */
void rdma_pause_vcpu(RdmaPause *pause);
/* There is news. */
void rdma_pause_end(RdmaPause *pause);

#endif
