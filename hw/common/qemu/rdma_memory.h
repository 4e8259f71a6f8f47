/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory for an RDMA device: follows the function's DMA address space
 * and hands the table of RAM regions to the core. As long as a virtual IOMMU
 * translates that address space, the table is that of the machine's memory,
 * and the core asks for each page.
 */
#ifndef HW_RDMA_MEMORY_H
#define HW_RDMA_MEMORY_H

#include "compat.h"
#include "hw/pci/pci.h"
#include "rdma_device.h"

typedef struct RdmaMemory RdmaMemory;
typedef struct RdmaIommu RdmaIommu;

/* An address space, and the RAM regions in it. */
typedef struct RdmaAddressSpace {
    MemoryListener listener;
    AddressSpace *as;
    RdmaMemory *memory;
    GArray *regions; /* RdmaMemoryRegion */
} RdmaAddressSpace;

struct RdmaMemory {
    RdmaDevice *device;
    RdmaAddressSpace function; /* what the function's DMA sees */
    RdmaAddressSpace machine;
    QLIST_HEAD(, RdmaIommu) iommus; /* in the function's address space */
    RdmaTranslate *translate;
    GArray *regions; /* the core's table, in the order of addresses */
    GArray *caches;  /* MemoryRegionCache, one for each of these */
    bool refused;    /* a virtual IOMMU, and it has been said */
};

/*
 * Follow @as until rdma_memory_stop(). @translate calls
 * rdma_memory_translate(); NULL: behind a virtual IOMMU there is no memory.
 */
void rdma_memory_start(RdmaMemory *m, AddressSpace *as, RdmaDevice *device,
                       RdmaTranslate *translate);
void rdma_memory_stop(RdmaMemory *m);

/* As RdmaTranslate. */
bool rdma_memory_translate(RdmaMemory *m, uint64_t address, bool write,
                           uint64_t *gpa);

/*
 * Whether the machine's RAM is a shared mapping of a file, so that it can be
 * mapped again. False, with @errp set to what to change, where not.
 */
bool rdma_memory_check_shared(Error **errp);

/*
 * Whether no virtual IOMMU is in front of the function. False, with @errp set
 * to what to change, where one is.
 */
bool rdma_memory_check_direct(PCIDevice *pci_dev, Error **errp);

/* [gpa, gpa + size), which lies in one region, has been written. */
void rdma_memory_mark_dirty(RdmaMemory *m, uint64_t gpa, uint64_t size);

#endif
