/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory for an RDMA device: follows the device's DMA address space
 * and hands the table of RAM regions to the core.
 */
#ifndef HW_RDMA_MEMORY_H
#define HW_RDMA_MEMORY_H

#include "compat.h"
#include "rdma_device.h"

typedef struct RdmaMemory {
    MemoryListener listener;
    AddressSpace *as;
    RdmaDevice *device;
    GArray *regions; /* RdmaMemoryRegion, in the order of addresses */
    GArray *caches;  /* MemoryRegionCache, one for each region */
    bool iommu_warned;
} RdmaMemory;

/* Follow @as until rdma_memory_stop(). */
void rdma_memory_start(RdmaMemory *m, AddressSpace *as, RdmaDevice *device);
void rdma_memory_stop(RdmaMemory *m);

/*
 * Whether the machine's RAM is a shared mapping of a file, so that it can be
 * mapped again. False, with @errp set to what to change, where not.
 */
bool rdma_memory_check_shared(Error **errp);

/* [gpa, gpa + size), which lies in one region, has been written. */
void rdma_memory_mark_dirty(RdmaMemory *m, uint64_t gpa, uint64_t size);

#endif
