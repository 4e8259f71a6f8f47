// SPDX-License-Identifier: GPL-2.0-or-later
//
// Memory of a guest.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <span>
#include <stdexcept>

#include "backend.h"
#include "rdma_host.h"

namespace rdma::test {

// Guest RAM. What is not touched costs nothing.
class Ram {
public:
    static constexpr uint64_t base = 0x100000;

    explicit Ram(uint64_t size) : _size(size)
    {
        void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            throw std::bad_alloc();
        }
        _bytes = static_cast<std::byte*>(memory);
    }
    ~Ram() { munmap(_bytes, _size); }
    Ram(const Ram&) = delete;
    Ram& operator=(const Ram&) = delete;

    RdmaMemoryRegion region() const { return {base, _size, _bytes, false}; }
    template <typename T>
    T& at(uint64_t gpa)
    {
        return *reinterpret_cast<T*>(_bytes + (gpa - base));
    }
    std::span<std::byte> bytes(uint64_t gpa, uint64_t size)
    {
        return {_bytes + (gpa - base), size};
    }
    // Pages of zeros, one behind the other; the GPA of the first.
    uint64_t pages(uint64_t count)
    {
        uint64_t gpa = _next;
        _next += count * page_size;
        if (_next > base + _size) {
            throw std::runtime_error("the guest is out of memory");
        }
        return gpa;
    }
    // A page directory of count pages that lie one behind the other.
    uint64_t directory(uint64_t first, uint64_t count)
    {
        uint64_t root = pages(1);
        for (uint64_t i = 0; i < count; ++i) {
            auto& table = at<uint64_t>(root + i / (page_size / 8) * 8);
            if (table == 0) {
                table = pages(1);
            }
            at<uint64_t>(table + i % (page_size / 8) * 8) = first + i * page_size;
        }
        return root;
    }

private:
    std::byte* _bytes;
    uint64_t _size;
    uint64_t _next = base;
};

} // namespace rdma::test
