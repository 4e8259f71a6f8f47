// SPDX-License-Identifier: GPL-2.0-or-later
//
// Memory regions of the roce backend: keys, access rights, and copies between
// guest memory and packets through them.
//
// A key is the region's id in bits 31..8 and a variant in bits 7..0, which a
// fast registration may change. Ids are used in turn and the variant differs from region
// to region, so that a stale key does not reach a new region. L_Key and R_Key are the same.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend.h"
#include "guest_memory.h"
#include "handle_table.h"

namespace rdma::roce {

struct MemoryRegion {
    MrInit::Kind kind;
    uint32_t pd;
    uint32_t key;
    bool valid; // false: fast_reg region that is not registered (or invalidated)
    int access;
    uint64_t iova;
    uint64_t length;
    uint32_t max_pages;
    std::vector<uint64_t> pages; // GPA of each 4 KiB page from iova's on

    // The GPA of address, which is in range, and bytes up to the page's end.
    uint64_t gpa_of(uint64_t address) const
    {
        uint64_t from_first_page = address - (iova & ~(page_size - 1));
        return pages[from_first_page / page_size] + from_first_page % page_size;
    }
};

// A fast registration (11.2.8.4), taken from a SendRequest.
struct FastRegistration {
    uint64_t iova = 0;
    uint64_t length = 0;
    uint32_t key = 0;
    int access = 0;
    std::vector<uint64_t> pages;
};

class MemoryRegions {
public:
    // Keys begin anywhere, depending on seed; 0: with the lowest.
    MemoryRegions(uint32_t max_mr, uint64_t max_mr_size, GuestMemory& memory, uint64_t seed = 0);

    Result<MrKeys> add(const MrInit& init);
    int remove(uint32_t id);
    void clear();

    // Executes a fast registration WR / an invalidation, on behalf of a QP of
    // that PD. False: the request is not allowed. remote: it comes from the
    // peer, for whom a region without remote rights does not exist.
    [[nodiscard]] bool fast_register(const FastRegistration& request, uint32_t pd);
    [[nodiscard]] bool invalidate(uint32_t key, uint32_t pd, bool remote);

    // The region that key names, if it belongs to pd, is valid, grants every
    // right in access (ibv_access_flags) and holds [address, address + length).
    const MemoryRegion* check(uint32_t key, uint32_t pd, uint64_t address, uint64_t length,
                              int access) const;

    // Whether all of a scatter/gather list may be used. access: 0 to read from
    // it, IBV_ACCESS_LOCAL_WRITE to write to it.
    bool check(std::span<const ibv_sge> sges, uint32_t pd, int access) const;

    // Copies between bytes [offset, offset + size) of a list and a buffer.
    // False where a region has gone or its pages are no guest memory.
    [[nodiscard]] bool gather(std::span<const ibv_sge> sges, uint32_t pd, uint64_t offset,
                              std::span<std::byte> out) const;
    [[nodiscard]] bool scatter(std::span<const ibv_sge> sges, uint32_t pd, uint64_t offset,
                               std::span<const std::byte> in);

    // Copies at one address of one region that check() has returned.
    [[nodiscard]] bool read(const MemoryRegion& mr, uint64_t address,
                            std::span<std::byte> out) const;
    [[nodiscard]] bool write(const MemoryRegion& mr, uint64_t address,
                             std::span<const std::byte> in);

    size_t size() const { return _table.size(); }
    // The region of that id, or null.
    const MemoryRegion* at(uint32_t id) const { return _table.find(id); }
    // Pages that regions may have beside those there are.
    uint64_t pages_left() const { return max_pages_registered - _num_pages; }

    // Migration: fn(id, region) for each; a region as it was saved, false where
    // it makes no sense or its id is in use; the next key's variant.
    template <typename Fn>
    void for_each(Fn&& fn) const
    {
        _table.for_each(fn);
    }
    [[nodiscard]] bool restore(uint32_t id, MemoryRegion&& mr);
    uint8_t key_variant() const { return _variant; }
    void set_key_variant(uint8_t variant) { _variant = variant; }
    // The id of the next region.
    uint32_t next_id() const { return _table.next(); }
    [[nodiscard]] bool set_next_id(uint32_t id);

private:
    const MemoryRegion* find(uint32_t key) const;

    uint64_t _max_mr_size;
    GuestMemory& _memory;
    HandleTable<MemoryRegion> _table;
    uint8_t _variant = 0;
    uint64_t _num_pages = 0; // of all regions, at most max_pages_registered
};

} // namespace rdma::roce
