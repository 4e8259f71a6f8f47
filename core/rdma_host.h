/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a hypervisor lends to a device: guest memory, the network, time and
 * interrupts.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One contiguous piece of guest RAM or ROM. Regions do not overlap. */
typedef struct RdmaMemoryRegion {
    uint64_t gpa;  /* guest-physical address, as the device's DMA sees it but for translation */
    uint64_t size; /* bytes, > 0 */
    void *hva;     /* where the host has it mapped */
    bool readonly; /* device writes are refused */
    /* Whether it is a shared mapping of a file, which another mapping of the file
     * sees too, and which one: a descriptor that stays open as long as the
     * region is in the table, and where the region begins, bytes. */
    bool shared;
    int fd;
    uint64_t fd_offset;
} RdmaMemoryRegion;

/*
 * Behind a virtual IOMMU the guest's addresses are not those of the table of regions. Gets the
 * opaque of RdmaHostOps and sets *gpa to where in the table a page begins; address is a multiple
 * of 4096. False: the page is not mapped, or not for such an access. The device keeps an answer
 * until rdma_device_invalidate_translations(), rdma_device_set_translation() or
 * rdma_device_set_memory(). It may call these three, and may lead back into the device as
 * raise_irq may: an IOMMU tells the guest what it refuses.
 */
typedef bool RdmaTranslate(void *opaque, uint64_t address, bool write, uint64_t *gpa);

/* What the network card in function 0 is just now. */
typedef struct RdmaNicInfo {
    uint8_t mac[6];  /* the address the guest has given it */
    uint32_t mtu;    /* bytes of an IP packet, 0 if not known */
    bool link_up;    /* carrier */
} RdmaNicInfo;

enum { RDMA_LOG_ERROR, RDMA_LOG_WARNING, RDMA_LOG_GUEST_ERROR, RDMA_LOG_TRACE };

/* Interrupt vectors that MSI-X has at most. */
#define RDMA_MAX_VECTORS 2048u

/*
 * What the host lends to the device. No callback may be NULL. raise_irq and
 * send_packet may lead back to any function of the device's but save and load: a guest
 * can have an MSI message written to any address, and a network that delivers within its
 * send has another card of the guest raise one. What comes within a call does this:
 *  - accesses to the device's BARs are ignored;
 *  - a packet that comes within send_packet is queued;
 *  - memory, dirty log, stop and start take effect at once;
 *  - after reset and destroy the device neither reads nor writes guest memory, sends
 *    nothing and raises no interrupt; what is left of it goes at the end of the outermost
 *    call. After destroy there is no callback any more: what opaque points to may be freed.
 * tx_ready must not come before the send_packet that it belongs to has returned.
 * All other callbacks must not call back into the device.
 */
typedef struct RdmaHostOps {
    /* Monotonic time in nanoseconds that stands still while the VM is
     * stopped. */
    int64_t (*now)(void *opaque);
    /* Call rdma_device_timer() at this time (same clock as now);
     * INT64_MAX: never. Replaces the earlier deadline. */
    void (*set_timer)(void *opaque, int64_t deadline_ns);
    /* Put one Ethernet frame (no FCS) on the network. True: more may follow.
     * False: the frame is accepted (queued), but send nothing more before
     * rdma_device_tx_ready(). */
    bool (*send_packet)(void *opaque, const uint8_t *frame, size_t size);
    /* Raise an interrupt vector, less than RDMA_MAX_VECTORS, numbered as the kind of
     * device has it, when MSI-X or MSI is on; with INTx, nothing (set_intx drives the pin). */
    void (*raise_irq)(void *opaque, unsigned vector);
    /* Level of the INTx pin; ignored by the host when MSI or MSI-X is on. */
    void (*set_intx)(void *opaque, bool level);
    /* The device has written guest memory [gpa, gpa + size). */
    void (*mark_dirty)(void *opaque, uint64_t gpa, uint64_t size);
    void (*nic_info)(void *opaque, RdmaNicInfo *info);
    /* The guest polls for completions in a tight loop and finds none: the host
     * may let the vCPU that made the present access wait for poll_end. */
    void (*poll_idle)(void *opaque);
    /* A completion has been written. */
    void (*poll_end)(void *opaque);
    void (*log)(void *opaque, int level, const char *message);
} RdmaHostOps;

#ifdef RDMA_FUZZ
/*
 * In fuzzing builds only: called before the device looks at guest memory, so
 * that the memory can change between two looks, as another CPU of the guest
 * could change it.
 */
extern void (*rdma_before_guest_read)(uint64_t gpa, uint64_t size);
#endif

#ifdef __cplusplus
}
#endif
