// SPDX-License-Identifier: GPL-2.0-or-later
//
// Pages of guest memory as one contiguous piece of this process's address space,
// which is what a host MR is registered over. It is made by mapping the file of
// the guest's RAM once more, a mapping for each run of neighbouring pages; it
// does not depend on the memory table once it is made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <utility>

#include "guest_memory.h"

namespace rdma::verbs {

class MemoryMapping {
public:
    // An errno value and what is wrong, for the log.
    struct Error {
        int code;
        std::string what;
    };

    MemoryMapping() = default;
    // pages: GPAs of 4 KiB pages, at least one. max_runs: mappings it may be made of.
    static std::expected<MemoryMapping, Error>
    make(const GuestMemory& memory, std::span<const uint64_t> pages, size_t max_runs = SIZE_MAX);
    // Mappings that all of a process may have for this: half of what the kernel allows it,
    // so that the process still has what it needs itself.
    static size_t max_process_runs();
    MemoryMapping(MemoryMapping&& other) noexcept { swap(other); }
    MemoryMapping& operator=(MemoryMapping&& other) noexcept
    {
        swap(other);
        return *this;
    }
    ~MemoryMapping();

    // Where the first page begins.
    std::byte* data() const { return _base + _skipped; }
    // Mappings it is made of.
    size_t runs() const { return _runs; }

private:
    MemoryMapping(std::byte* base, size_t size) : _base(base), _size(size) {}
    void swap(MemoryMapping& other)
    {
        std::swap(_base, other._base);
        std::swap(_size, other._size);
        std::swap(_skipped, other._skipped);
        std::swap(_runs, other._runs);
    }

    std::byte* _base = nullptr;
    size_t _size = 0;    // bytes reserved
    size_t _skipped = 0; // bytes before the first page, within a huge page
    size_t _runs = 0;
};

} // namespace rdma::verbs
