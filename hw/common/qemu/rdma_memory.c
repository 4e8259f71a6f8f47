/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/rcu.h"
#ifdef RDMA_FUZZ
#include "hw/boards.h"
#endif
#include "rdma_memory.h"

/* Rebuilt from nothing in each transaction: begin, region_add/nop, commit. */

static void rdma_memory_drop_caches(RdmaMemory *m)
{
    for (guint i = 0; i < m->caches->len; i++) {
        address_space_cache_destroy(
            &g_array_index(m->caches, MemoryRegionCache, i));
    }
    g_array_set_size(m->caches, 0);
}

static void rdma_memory_begin(MemoryListener *listener)
{
    RdmaMemory *m = container_of(listener, RdmaMemory, listener);

    g_array_set_size(m->regions, 0);
}

static bool rdma_memory_is_shared(MemoryRegion *mr)
{
    return memory_region_get_fd(mr) >= 0 && qemu_ram_is_shared(mr->ram_block);
}

bool rdma_memory_check_shared(Error **errp)
{
    MemoryRegionSection section = memory_region_find(get_system_memory(), 0, 1);
    bool shared = section.mr && memory_region_is_ram(section.mr) &&
                  rdma_memory_is_shared(section.mr);

    memory_region_unref(section.mr);
    if (!shared) {
        error_setg(errp, "backend=verbs maps guest RAM for the host's RDMA "
                   "device: it must be shared memory with a file descriptor");
        error_append_hint(errp, "Give the machine such RAM, of the size of -m:\n"
                          "  -object memory-backend-memfd,id=ram,size=SIZE,"
                          "share=on -machine memory-backend=ram\n"
                          "or memory-backend-file with share=on.\n");
    }
    return shared;
}

static void rdma_memory_region_add(MemoryListener *listener,
                                   MemoryRegionSection *section)
{
    RdmaMemory *m = container_of(listener, RdmaMemory, listener);
    MemoryRegion *mr = section->mr;

    if (memory_region_is_iommu(mr)) {
        if (!m->iommu_warned) {
            m->iommu_warned = true;
            warn_report("RDMA device behind a virtual IOMMU: its accesses to "
                        "translated memory fail; exclude it from the IOMMU");
        }
        return;
    }
    if (!memory_region_is_ram(mr) || memory_region_is_ram_device(mr)) {
        return;
    }

    RdmaMemoryRegion region = {
        .gpa = section->offset_within_address_space,
        .size = int128_get64(section->size),
        .hva = (uint8_t *)memory_region_get_ram_ptr(mr) +
               section->offset_within_region,
        .readonly = section->readonly || memory_region_is_rom(mr),
    };
    if (rdma_memory_is_shared(mr)) {
        region.shared = true;
        region.fd = memory_region_get_fd(mr);
        region.fd_offset = mr->ram_block->fd_offset +
                           section->offset_within_region;
    }
    g_array_append_val(m->regions, region);
}

static gint rdma_memory_compare(gconstpointer a, gconstpointer b)
{
    const RdmaMemoryRegion *x = a, *y = b;

    return x->gpa < y->gpa ? -1 : x->gpa > y->gpa;
}

static void rdma_memory_commit(MemoryListener *listener)
{
    RdmaMemory *m = container_of(listener, RdmaMemory, listener);

    g_array_sort(m->regions, rdma_memory_compare);
    rdma_memory_drop_caches(m);
    g_array_set_size(m->caches, m->regions->len);
    RCU_READ_LOCK_GUARD();
    for (guint i = 0; i < m->regions->len; i++) {
        RdmaMemoryRegion *r = &g_array_index(m->regions, RdmaMemoryRegion, i);
        MemoryRegionCache *cache =
            &g_array_index(m->caches, MemoryRegionCache, i);

        address_space_cache_init_empty(cache);
        if (!r->readonly) {
            int64_t len = address_space_cache_init(cache, m->as, r->gpa,
                                                   r->size, true);
            /* What could not be mapped could not be marked dirty either. */
            r->size = len > 0 ? len : 0;
        }
    }
    for (guint i = m->regions->len; i > 0; i--) {
        if (g_array_index(m->regions, RdmaMemoryRegion, i - 1).size == 0) {
            address_space_cache_destroy(
                &g_array_index(m->caches, MemoryRegionCache, i - 1));
            g_array_remove_index(m->regions, i - 1);
            g_array_remove_index(m->caches, i - 1);
        }
    }
    rdma_device_set_memory(m->device,
                           (RdmaMemoryRegion *)m->regions->data,
                           m->regions->len);
}

static bool rdma_memory_log_start(MemoryListener *listener, Error **errp)
{
    RdmaMemory *m = container_of(listener, RdmaMemory, listener);

    rdma_device_set_dirty_log(m->device, true);
    return true;
}

static void rdma_memory_log_stop(MemoryListener *listener)
{
    RdmaMemory *m = container_of(listener, RdmaMemory, listener);

    /* TCG must hear of writes to pages that it has translated code from. */
    rdma_device_set_dirty_log(m->device, tcg_enabled());
}

void rdma_memory_mark_dirty(RdmaMemory *m, uint64_t gpa, uint64_t size)
{
    /* A binary search: there are few regions. */
    guint lo = 0, hi = m->regions->len;

    while (lo < hi) {
        guint mid = lo + (hi - lo) / 2;
        RdmaMemoryRegion *r = &g_array_index(m->regions, RdmaMemoryRegion, mid);

        if (gpa < r->gpa) {
            hi = mid;
        } else if (gpa - r->gpa >= r->size) {
            lo = mid + 1;
        } else {
            address_space_cache_invalidate(
                &g_array_index(m->caches, MemoryRegionCache, mid),
                gpa - r->gpa, size);
            return;
        }
    }
}

#ifdef RDMA_FUZZ
/* QEMU's device fuzzer fills memory as a device reads it. */
static void rdma_memory_fuzz_read(uint64_t gpa, uint64_t size)
{
    fuzz_dma_read_cb(gpa, size, current_machine->ram);
}
#endif

void rdma_memory_start(RdmaMemory *m, AddressSpace *as, RdmaDevice *device)
{
    m->as = as;
    m->device = device;
    m->regions = g_array_new(false, true, sizeof(RdmaMemoryRegion));
    m->caches = g_array_new(false, true, sizeof(MemoryRegionCache));
    m->listener = (MemoryListener) {
        .name = "rdma",
        .begin = rdma_memory_begin,
        .region_add = rdma_memory_region_add,
        .region_nop = rdma_memory_region_add,
        .commit = rdma_memory_commit,
        .log_global_start = rdma_memory_log_start,
        .log_global_stop = rdma_memory_log_stop,
    };
#ifdef RDMA_FUZZ
    rdma_before_guest_read = rdma_memory_fuzz_read;
#endif
    rdma_device_set_dirty_log(device, tcg_enabled());
    memory_listener_register(&m->listener, as);
}

void rdma_memory_stop(RdmaMemory *m)
{
    memory_listener_unregister(&m->listener);
    rdma_device_set_memory(m->device, NULL, 0);
    rdma_memory_drop_caches(m);
    g_array_free(m->caches, true);
    g_array_free(m->regions, true);
}
