// SPDX-License-Identifier: GPL-2.0-or-later
#include "counted_heap.h"

#include <malloc.h>

#include <cstdlib>
#include <new>

namespace rdma::test {
namespace {

void* counted_allocate(size_t size, size_t alignment)
{
    if (allocations_left == 0) {
        ++failed_allocations;
        throw std::bad_alloc();
    }
    void* memory = aligned_alloc(alignment, (size + alignment - 1) & ~(alignment - 1));
    if (!memory) {
        throw std::bad_alloc();
    }
    allocations_left -= allocations_left != SIZE_MAX;
    heap += malloc_usable_size(memory);
    ++allocations;
    return memory;
}

void counted_release(void* memory)
{
    heap -= malloc_usable_size(memory);
    free(memory);
}

} // namespace
} // namespace rdma::test


void* operator new(size_t size)
{
    return rdma::test::counted_allocate(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(size_t size, std::align_val_t alignment)
{
    return rdma::test::counted_allocate(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept
{
    rdma::test::counted_release(memory);
}
void operator delete(void* memory, size_t) noexcept
{
    rdma::test::counted_release(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept
{
    rdma::test::counted_release(memory);
}
void operator delete(void* memory, size_t, std::align_val_t) noexcept
{
    rdma::test::counted_release(memory);
}
