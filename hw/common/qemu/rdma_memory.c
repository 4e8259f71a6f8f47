/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/rcu.h"
#ifdef RDMA_FUZZ
#include "hw/boards.h"
#endif
#include "rdma_memory.h"

#define RDMA_PAGE_SIZE 4096

/* A piece of the function's address space that a virtual IOMMU translates. */
struct RdmaIommu {
    IOMMUNotifier notifier;
    MemoryRegion *mr;
    RdmaMemory *memory;
    QLIST_ENTRY(RdmaIommu) next;
};

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
    RdmaAddressSpace *space = container_of(listener, RdmaAddressSpace, listener);

    g_array_set_size(space->regions, 0);
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

bool rdma_memory_check_direct(PCIDevice *pci_dev, Error **errp)
{
    if (pci_device_iommu_address_space(pci_dev) == &address_space_memory) {
        return true;
    }
    error_setg(errp, "backend=verbs does not work behind a virtual IOMMU");
    error_append_hint(errp, "Give the device a bus that the IOMMU leaves out:\n"
                      "  -device pxb-pcie,bypass_iommu=on,... and a "
                      "pcie-root-port on it,\n"
                      "or -machine q35,default_bus_bypass_iommu=on.\n");
    return false;
}

/* The core asks again for what it still uses. */
static void rdma_memory_unmapped(IOMMUNotifier *notifier, IOMMUTLBEntry *entry)
{
    RdmaIommu *iommu = container_of(notifier, RdmaIommu, notifier);

    rdma_device_invalidate_translations(iommu->memory->device);
}

static void rdma_memory_iommu_add(RdmaMemory *m, MemoryRegionSection *section)
{
    RdmaIommu *iommu = g_new0(RdmaIommu, 1);
    Int128 last = int128_sub(int128_add(
        int128_make64(section->offset_within_region), section->size),
        int128_one());
    Error *err = NULL;

    iommu->mr = section->mr;
    iommu->memory = m;
    iommu_notifier_init(&iommu->notifier, rdma_memory_unmapped,
                        IOMMU_NOTIFIER_UNMAP, section->offset_within_region,
                        int128_get64(last),
                        memory_region_iommu_attrs_to_index(
                            IOMMU_MEMORY_REGION(section->mr),
                            MEMTXATTRS_UNSPECIFIED));
    if (memory_region_register_iommu_notifier(section->mr, &iommu->notifier,
                                              &err)) {
        /* What is unmapped would be accessed: there is no memory then. */
        error_reportf_err(err, "RDMA device behind a virtual IOMMU: ");
        iommu->mr = NULL;
    }
    QLIST_INSERT_HEAD(&m->iommus, iommu, next);
}

static void rdma_memory_iommu_del(RdmaMemory *m, RdmaIommu *iommu)
{
    if (iommu->mr) {
        memory_region_unregister_iommu_notifier(iommu->mr, &iommu->notifier);
    }
    QLIST_REMOVE(iommu, next);
    g_free(iommu);
}

static void rdma_memory_region_del(MemoryListener *listener,
                                   MemoryRegionSection *section)
{
    RdmaAddressSpace *space = container_of(listener, RdmaAddressSpace, listener);
    RdmaIommu *iommu, *next;

    if (!memory_region_is_iommu(section->mr)) {
        return;
    }
    QLIST_FOREACH_SAFE(iommu, &space->memory->iommus, next, next) {
        if (iommu->notifier.start == section->offset_within_region &&
            (!iommu->mr || iommu->mr == section->mr)) {
            rdma_memory_iommu_del(space->memory, iommu);
            return;
        }
    }
}

static void rdma_memory_region_nop(MemoryListener *listener,
                                   MemoryRegionSection *section)
{
    RdmaAddressSpace *space = container_of(listener, RdmaAddressSpace, listener);
    MemoryRegion *mr = section->mr;
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
    g_array_append_val(space->regions, region);
}

static void rdma_memory_region_add(MemoryListener *listener,
                                   MemoryRegionSection *section)
{
    RdmaAddressSpace *space = container_of(listener, RdmaAddressSpace, listener);

    if (space == &space->memory->function &&
        memory_region_is_iommu(section->mr)) {
        rdma_memory_iommu_add(space->memory, section);
    }
    rdma_memory_region_nop(listener, section);
}

static gint rdma_memory_compare(gconstpointer a, gconstpointer b)
{
    const RdmaMemoryRegion *x = a, *y = b;

    return x->gpa < y->gpa ? -1 : x->gpa > y->gpa;
}

/* Whether the core may have the machine's memory by translation. */
static bool rdma_memory_may_translate(RdmaMemory *m)
{
    RdmaIommu *iommu;

    QLIST_FOREACH(iommu, &m->iommus, next) {
        if (!iommu->mr) {
            return false;
        }
    }
    if (!m->translate && !m->refused) {
        m->refused = true;
        error_report("backend=verbs does not work behind a virtual IOMMU, which "
                     "the guest has turned on: the RDMA device has no memory "
                     "until it is off");
    }
    return m->translate;
}

static void rdma_memory_commit(MemoryListener *listener)
{
    RdmaAddressSpace *space = container_of(listener, RdmaAddressSpace, listener);
    RdmaMemory *m = space->memory;
    bool translated = !QLIST_EMPTY(&m->iommus);

    if (space == &m->machine) {
        if (!translated) {
            return;
        }
    } else if (translated) {
        space = &m->machine;
    }
    rdma_memory_drop_caches(m);
    g_array_set_size(m->regions, 0);
    if (!translated || rdma_memory_may_translate(m)) {
        g_array_append_vals(m->regions, space->regions->data,
                            space->regions->len);
    }
    g_array_sort(m->regions, rdma_memory_compare);
    g_array_set_size(m->caches, m->regions->len);
    RCU_READ_LOCK_GUARD();
    for (guint i = 0; i < m->regions->len; i++) {
        RdmaMemoryRegion *r = &g_array_index(m->regions, RdmaMemoryRegion, i);
        MemoryRegionCache *cache =
            &g_array_index(m->caches, MemoryRegionCache, i);

        address_space_cache_init_empty(cache);
        if (!r->readonly) {
            int64_t len = address_space_cache_init(cache, space->as,
                                                   r->gpa, r->size, true);
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
    rdma_device_set_translation(m->device, translated ? m->translate : NULL);
    rdma_device_set_memory(m->device,
                           (RdmaMemoryRegion *)m->regions->data,
                           m->regions->len);
}

bool rdma_memory_translate(RdmaMemory *m, uint64_t address, bool write,
                           uint64_t *gpa)
{
    RCU_READ_LOCK_GUARD();
    IOMMUTLBEntry entry = address_space_get_iotlb_entry(
        m->function.as, address, write, MEMTXATTRS_UNSPECIFIED);

    if (entry.target_as != &address_space_memory ||
        entry.addr_mask < RDMA_PAGE_SIZE - 1) {
        return false;
    }
    *gpa = entry.translated_addr | (address & entry.addr_mask);
    return true;
}

static bool rdma_memory_log_start(MemoryListener *listener, Error **errp)
{
    RdmaAddressSpace *space = container_of(listener, RdmaAddressSpace, listener);

    rdma_device_set_dirty_log(space->memory->device, true);
    return true;
}

static void rdma_memory_log_stop(MemoryListener *listener)
{
    RdmaAddressSpace *space = container_of(listener, RdmaAddressSpace, listener);

    /* TCG must hear of writes to pages that it has translated code from. */
    rdma_device_set_dirty_log(space->memory->device, tcg_enabled());
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

static void rdma_memory_follow(RdmaMemory *m, RdmaAddressSpace *space,
                               AddressSpace *as)
{
    space->as = as;
    space->memory = m;
    space->regions = g_array_new(false, true, sizeof(RdmaMemoryRegion));
    space->listener = (MemoryListener) {
        .name = "rdma",
        .begin = rdma_memory_begin,
        .region_add = rdma_memory_region_add,
        .region_nop = rdma_memory_region_nop,
        .region_del = rdma_memory_region_del,
        .commit = rdma_memory_commit,
        .log_global_start = rdma_memory_log_start,
        .log_global_stop = rdma_memory_log_stop,
    };
    memory_listener_register(&space->listener, as);
}

static void rdma_memory_unfollow(RdmaAddressSpace *space)
{
    memory_listener_unregister(&space->listener);
    g_array_free(space->regions, true);
}

void rdma_memory_start(RdmaMemory *m, AddressSpace *as, RdmaDevice *device,
                       RdmaTranslate *translate)
{
    m->device = device;
    m->translate = translate;
    m->regions = g_array_new(false, true, sizeof(RdmaMemoryRegion));
    m->caches = g_array_new(false, true, sizeof(MemoryRegionCache));
    QLIST_INIT(&m->iommus);
#ifdef RDMA_FUZZ
    rdma_before_guest_read = rdma_memory_fuzz_read;
#endif
    rdma_device_set_dirty_log(device, tcg_enabled());
    rdma_memory_follow(m, &m->machine, &address_space_memory);
    rdma_memory_follow(m, &m->function, as);
}

void rdma_memory_stop(RdmaMemory *m)
{
    rdma_memory_unfollow(&m->function);
    rdma_memory_unfollow(&m->machine);
    rdma_device_set_memory(m->device, NULL, 0);
    rdma_memory_drop_caches(m);
    g_array_free(m->caches, true);
    g_array_free(m->regions, true);
}
