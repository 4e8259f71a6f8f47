// SPDX-License-Identifier: GPL-2.0-or-later
//
// The guest's memory as a device's DMA sees it.
//
// Nothing outside this class keeps a host pointer into guest memory longer
// than one operation: objects hold guest-physical addresses (GPA) and resolve
// them here, through the current table. Every write goes through writable()
// or write(), which report it to the dirty log.
//
// Behind a virtual IOMMU what is called a GPA here is an address of the IOMMU's, which
// translates it page by page to one of the table's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
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

    // Null: addresses are those of the table.
    void set_translation(RdmaTranslate* ask, void* opaque);
    // What has been translated is asked for again.
    void invalidate_translations() { ++_generation; }
    // An access that is just being translated fails: what is under way has ended.
    void end_access() { _ended = true; }

    // dirty is called after every write while on, with an address of the table.
    void set_dirty_log(bool on, DirtyFn dirty, void* opaque);

    // The longest readable run at gpa, at most size bytes; empty where gpa is
    // not guest memory, or not for reading. Valid until the next set_table or
    // invalidate_translations.
    std::span<const std::byte> readable(uint64_t gpa, uint64_t size) const;

    // As readable, for memory about to be written; reports the returned run
    // to the dirty log. Empty where gpa is not memory, or not for writing.
    std::span<std::byte> writable(uint64_t gpa, uint64_t size);

    // Copies exactly out.size() bytes from gpa, across regions. False, with
    // out undefined, where any byte is not guest memory.
    [[nodiscard]] bool read(uint64_t gpa, std::span<std::byte> out) const;

    // Copies all of in to gpa. False, with guest memory possibly partly
    // written, where any byte is not writable guest memory.
    [[nodiscard]] bool write(uint64_t gpa, std::span<const std::byte> in);

    // True when all of [gpa, gpa + size) is guest memory (writable if asked).
    bool covers(uint64_t gpa, uint64_t size, bool for_write) const;

    // True when all of [gpa, gpa + size) is guest memory, as far as that shows without an access:
    // whether a translated page is mapped, and for what, shows when it is accessed.
    bool is_memory(uint64_t gpa, uint64_t size) const
    {
        return _translate || covers(gpa, size, false);
    }

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
    // The same of two such words, the second behind the first, each read by itself.
    [[nodiscard]] bool load_acquire(uint64_t gpa, uint32_t& first, uint32_t& second) const;
    [[nodiscard]] bool store_release(uint64_t gpa, uint32_t value);

    // 64-bit atomic read-modify-write of naturally aligned guest memory, for
    // RDMA atomics: atomic against the guest's own CPUs too. The word is in
    // the guest's byte order (little-endian). old receives the value before.
    [[nodiscard]] bool compare_swap(uint64_t gpa, uint64_t compare, uint64_t swap, uint64_t& old);
    [[nodiscard]] bool fetch_add(uint64_t gpa, uint64_t add, uint64_t& old);

private:
    static constexpr uint64_t page_bytes = 4096;
    static constexpr size_t translation_slots = 256; // of a direct-mapped cache

    struct Translation {
        uint64_t page;
        uint64_t gpa;
        uint64_t generation; // older than the memory's: empty
        bool readable;
        bool writable;
    };
    // Bytes that lie one behind the other in a region.
    struct Piece {
        const RdmaMemoryRegion* region = nullptr; // null: not memory, or not for such an access
        uint64_t gpa = 0;                         // in the table
        uint64_t size = 0;
    };
    // The longest piece at an address, at most size bytes.
    Piece resolve(uint64_t address, uint64_t size, bool for_write) const;
    enum class Translated {
        mapped,  // address is one of the table's now
        refused, // not mapped, or not for such an access
        changed, // memory or translation is not what it was: to be tried again
    };
    Translated translate(uint64_t& address, bool for_write) const;
    // A word that is read and written; null where it is not aligned whole memory.
    uint64_t* atomic_word(uint64_t gpa);
    // The address in the table, and how far it is valid. False: it is not mapped, or not for
    // such an access.
    bool translate_piece(uint64_t& address, uint64_t& size, bool for_write) const;
    // Makes the region that holds gpa the last one. False: none does.
    bool find(uint64_t gpa) const;

    static constexpr RdmaMemoryRegion no_region{};

    std::vector<RdmaMemoryRegion> _regions; // sorted by gpa
    mutable const RdmaMemoryRegion* _last = &no_region; // the one found last
    RdmaTranslate* _translate = nullptr;
    void* _translate_opaque = nullptr;
    uint64_t _generation = 1; // of translations
    mutable bool _ended = false;
    std::unique_ptr<std::array<Translation, translation_slots>> _translations;
    DirtyFn _dirty = nullptr;
    void* _dirty_opaque = nullptr;
};

} // namespace rdma
