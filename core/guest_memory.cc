// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest_memory.h"

#include <algorithm>

#ifdef RDMA_FUZZ
void (*rdma_before_guest_read)(uint64_t gpa, uint64_t size);
#endif

namespace rdma {

void GuestMemory::set_table(std::span<const RdmaMemoryRegion> regions)
{
    _regions.assign(regions.begin(), regions.end());
    std::ranges::sort(_regions, {}, &RdmaMemoryRegion::gpa);
    _last = 0;
}

void GuestMemory::set_dirty_log(bool on, DirtyFn dirty, void* opaque)
{
    _dirty = on ? dirty : nullptr;
    _dirty_opaque = opaque;
}

const RdmaMemoryRegion* GuestMemory::find(uint64_t gpa) const
{
    // gpa - r.gpa wraps to a large number below the region.
    auto holds = [gpa](const RdmaMemoryRegion& r) { return gpa - r.gpa < r.size; };
    if (_last < _regions.size() && holds(_regions[_last])) {
        return &_regions[_last];
    }
    auto it = std::ranges::upper_bound(_regions, gpa, {}, &RdmaMemoryRegion::gpa);
    if (it == _regions.begin() || !holds(*--it)) {
        return nullptr;
    }
    _last = static_cast<size_t>(it - _regions.begin());
    return &*it;
}

std::span<const std::byte> GuestMemory::readable(uint64_t gpa, uint64_t size) const
{
#ifdef RDMA_FUZZ
    if (rdma_before_guest_read) {
        rdma_before_guest_read(gpa, size);
    }
#endif
    const RdmaMemoryRegion* r = find(gpa);
    if (!r) {
        return {};
    }
    uint64_t offset = gpa - r->gpa;
    return {static_cast<const std::byte*>(r->hva) + offset, std::min(size, r->size - offset)};
}

std::span<std::byte> GuestMemory::writable(uint64_t gpa, uint64_t size)
{
    const RdmaMemoryRegion* r = find(gpa);
    if (!r || r->readonly) {
        return {};
    }
    uint64_t offset = gpa - r->gpa;
    uint64_t run = std::min(size, r->size - offset);
    if (_dirty && run > 0) {
        _dirty(_dirty_opaque, gpa, run);
    }
    return {static_cast<std::byte*>(r->hva) + offset, run};
}

std::optional<GuestMemory::FilePiece> GuestMemory::file_piece(uint64_t gpa, uint64_t size) const
{
    const RdmaMemoryRegion* r = find(gpa);
    if (!r || r->readonly || !r->shared) {
        return std::nullopt;
    }
    uint64_t offset = gpa - r->gpa;
    return FilePiece{r->fd, r->fd_offset + offset, std::min(size, r->size - offset)};
}

bool GuestMemory::read(uint64_t gpa, std::span<std::byte> out) const
{
    while (!out.empty()) {
        auto run = readable(gpa, out.size());
        if (run.empty()) {
            return false;
        }
        std::memcpy(out.data(), run.data(), run.size());
        out = out.subspan(run.size());
        gpa += run.size();
    }
    return true;
}

bool GuestMemory::write(uint64_t gpa, std::span<const std::byte> in)
{
    while (!in.empty()) {
        auto run = writable(gpa, in.size());
        if (run.empty()) {
            return false;
        }
        std::memcpy(run.data(), in.data(), run.size());
        in = in.subspan(run.size());
        gpa += run.size();
    }
    return true;
}

bool GuestMemory::covers(uint64_t gpa, uint64_t size, bool for_write) const
{
    while (size > 0) {
        const RdmaMemoryRegion* r = find(gpa);
        if (!r || (for_write && r->readonly)) {
            return false;
        }
        uint64_t run = std::min(size, r->size - (gpa - r->gpa));
        size -= run;
        if (size > 0 && gpa + run < gpa) {
            return false; // the end of the address space
        }
        gpa += run;
    }
    return true;
}

namespace {

// The word of type T at gpa, or null where it is not aligned whole memory.
template <typename T>
T* word_of(std::span<const std::byte> run, uint64_t gpa)
{
    if (run.size() < sizeof(T) || gpa % sizeof(T) != 0) {
        return nullptr;
    }
    return reinterpret_cast<T*>(const_cast<std::byte*>(run.data()));
}

} // namespace

bool GuestMemory::load_acquire(uint64_t gpa, uint32_t& out) const
{
    const uint32_t* word = word_of<uint32_t>(readable(gpa, sizeof(uint32_t)), gpa);
    if (!word) {
        return false;
    }
    out = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    return true;
}

bool GuestMemory::store_release(uint64_t gpa, uint32_t value)
{
    uint32_t* word = word_of<uint32_t>(writable(gpa, sizeof(uint32_t)), gpa);
    if (!word) {
        return false;
    }
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    return true;
}

bool GuestMemory::compare_swap(uint64_t gpa, uint64_t compare, uint64_t swap, uint64_t& old)
{
    uint64_t* word = word_of<uint64_t>(writable(gpa, sizeof(uint64_t)), gpa);
    if (!word) {
        return false;
    }
    old = compare;
    __atomic_compare_exchange_n(word, &old, swap, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return true;
}

bool GuestMemory::fetch_add(uint64_t gpa, uint64_t add, uint64_t& old)
{
    uint64_t* word = word_of<uint64_t>(writable(gpa, sizeof(uint64_t)), gpa);
    if (!word) {
        return false;
    }
    old = __atomic_fetch_add(word, add, __ATOMIC_SEQ_CST);
    return true;
}

} // namespace rdma
