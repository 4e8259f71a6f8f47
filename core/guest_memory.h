// SPDX-License-Identifier: GPL-2.0-or-later
//
// The guest's memory as a device's DMA sees it.
//
// Nothing outside this class keeps a host pointer into guest memory longer
// than one operation: objects hold guest-physical addresses (GPA) and resolve
// them here, through the current table. Every write goes through writable()
// or write(), which report it to the dirty log.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "rdma_host.h"

namespace rdma {

class GuestMemory {
public:
    using DirtyFn = void (*)(void* opaque, uint64_t gpa, uint64_t size);

    // Replaces the whole table. Regions need not be sorted.
    void set_table(std::span<const RdmaMemoryRegion> regions);

    // dirty is called after every write while on.
    void set_dirty_log(bool on, DirtyFn dirty, void* opaque);

    // The longest readable run at gpa, at most size bytes; empty where gpa is
    // not guest memory. Valid until the next set_table.
    std::span<const std::byte> readable(uint64_t gpa, uint64_t size) const;

    // As readable, for memory about to be written; reports the returned run
    // to the dirty log. Empty where gpa is not memory or is read-only.
    std::span<std::byte> writable(uint64_t gpa, uint64_t size);

    // Copies exactly out.size() bytes from gpa, across regions. False, with
    // out undefined, where any byte is not guest memory.
    [[nodiscard]] bool read(uint64_t gpa, std::span<std::byte> out) const;

    // Copies all of in to gpa. False, with guest memory possibly partly
    // written, where any byte is not writable guest memory.
    [[nodiscard]] bool write(uint64_t gpa, std::span<const std::byte> in);

    // True when all of [gpa, gpa + size) is guest memory (writable if asked).
    bool covers(uint64_t gpa, uint64_t size, bool for_write) const;

    // A piece of guest memory in the file that it is a shared mapping of.
    struct FilePiece {
        int fd;          // as long as the table stays
        uint64_t offset; // bytes
        uint64_t size;   // bytes, at most as asked for
    };
    // The longest piece at gpa, at most size bytes; nothing where that is not
    // writable guest memory, or not shared.
    std::optional<FilePiece> file_piece(uint64_t gpa, uint64_t size) const;

    // Copy one trivially copyable object out of or into guest memory: the
    // single fetch that validation then works on.
    template <typename T>
    [[nodiscard]] bool read_object(uint64_t gpa, T& out) const
    {
        static_assert(std::is_trivially_copyable_v<T>);
        return read(gpa, std::as_writable_bytes(std::span(&out, 1)));
    }
    template <typename T>
    [[nodiscard]] bool write_object(uint64_t gpa, const T& in)
    {
        static_assert(std::is_trivially_copyable_v<T>);
        return write(gpa, std::as_bytes(std::span(&in, 1)));
    }

    // Naturally aligned 32-bit word shared with a running guest: one atomic
    // access with the ordering a ring index needs. False as for read/write.
    [[nodiscard]] bool load_acquire(uint64_t gpa, uint32_t& out) const;
    [[nodiscard]] bool store_release(uint64_t gpa, uint32_t value);

    // 64-bit atomic read-modify-write of naturally aligned guest memory, for
    // RDMA atomics: atomic against the guest's own CPUs too. The word is in
    // the guest's byte order (little-endian). old receives the value before.
    [[nodiscard]] bool compare_swap(uint64_t gpa, uint64_t compare, uint64_t swap, uint64_t& old);
    [[nodiscard]] bool fetch_add(uint64_t gpa, uint64_t add, uint64_t& old);

private:
    const RdmaMemoryRegion* find(uint64_t gpa) const;

    std::vector<RdmaMemoryRegion> _regions; // sorted by gpa
    mutable size_t _last = 0;               // index of the region found last
    DirtyFn _dirty = nullptr;
    void* _dirty_opaque = nullptr;
};

} // namespace rdma
