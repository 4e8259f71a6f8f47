// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest_memory.h"

#include <algorithm>

#ifdef RDMA_FUZZ
void (*rdma_before_guest_read)(uint64_t gpa, uint64_t size);
#endif

namespace rdma {

void GuestMemory::set_table(std::span<const RdmaMemoryRegion> regions)
{
    _last = &no_region;
    _regions.assign(regions.begin(), regions.end());
    std::ranges::sort(_regions, {}, &RdmaMemoryRegion::gpa);
    invalidate_translations();
}

void GuestMemory::set_translation(RdmaTranslate* ask, void* opaque)
{
    // They stay once there are any: an access may be under way.
    if (ask && !_translations) {
        _translations = std::make_unique<std::array<Translation, translation_slots>>();
    }
    _translate = ask;
    _translate_opaque = opaque;
    invalidate_translations();
}

void GuestMemory::set_dirty_log(bool on, DirtyFn dirty, void* opaque)
{
    _dirty = on ? dirty : nullptr;
    _dirty_opaque = opaque;
}

namespace {

bool holds(const RdmaMemoryRegion& region, uint64_t gpa)
{
    // This wraps to a large number below the region.
    return gpa - region.gpa < region.size;
}

} // namespace

bool GuestMemory::find(uint64_t gpa) const
{
    auto it = std::ranges::upper_bound(_regions, gpa, {}, &RdmaMemoryRegion::gpa);
    if (it == _regions.begin() || !holds(*--it, gpa)) {
        return false;
    }
    _last = &*it;
    return true;
}

GuestMemory::Translated GuestMemory::translate(uint64_t& address, bool for_write) const
{
    uint64_t offset = address % page_bytes;
    uint64_t page = address - offset;
    Translation& known = (*_translations)[page / page_bytes % translation_slots];
    bool holds = known.generation == _generation && known.page == page;
    if (!holds || !(for_write ? known.writable : known.readable)) {
        uint64_t generation = _generation;
        uint64_t gpa = 0;
        _ended = false;
        bool mapped = _translate(_translate_opaque, page, for_write, &gpa);
        if (_ended) {
            return Translated::refused;
        }
        if (generation != _generation) {
            return Translated::changed;
        }
        if (!mapped) {
            return Translated::refused;
        }
        if (!holds || known.gpa != gpa) {
            known = {page, gpa, generation, false, false};
        }
        (for_write ? known.writable : known.readable) = true;
    }
    address = known.gpa + offset;
    return Translated::mapped;
}

bool GuestMemory::translate_piece(uint64_t& address, uint64_t& size, bool for_write) const
{
    // An IOMMU may find out as it is asked that it does not translate for the device any more.
    unsigned changes_left = 1;
    while (_translate) {
        size = std::min(size, page_bytes - address % page_bytes);
        Translated result = translate(address, for_write);
        if (result == Translated::mapped) {
            break;
        }
        if (result == Translated::refused || changes_left-- == 0) {
            return false;
        }
    }
    return true;
}

// Nearly every access is to the region of the one before, and is not translated.
// [virtio-rdma DEV-6]
inline GuestMemory::Piece GuestMemory::resolve(uint64_t address, uint64_t size,
                                               bool for_write) const
{
    if (_translate && !translate_piece(address, size, for_write)) [[unlikely]] {
        return {};
    }
    if (!holds(*_last, address) && !find(address)) [[unlikely]] {
        return {};
    }
    const RdmaMemoryRegion& region = *_last;
    if (for_write && region.readonly) {
        return {};
    }
    return {&region, address, std::min(size, region.size - (address - region.gpa))};
}

std::span<const std::byte> GuestMemory::readable(uint64_t gpa, uint64_t size) const
{
#ifdef RDMA_FUZZ
    if (rdma_before_guest_read) {
        rdma_before_guest_read(gpa, size);
    }
#endif
    Piece piece = resolve(gpa, size, false);
    if (!piece.region) {
        return {};
    }
    return {static_cast<const std::byte*>(piece.region->hva) + (piece.gpa - piece.region->gpa),
            piece.size};
}

std::span<std::byte> GuestMemory::writable(uint64_t gpa, uint64_t size)
{
    Piece piece = resolve(gpa, size, true);
    if (!piece.region) {
        return {};
    }
    // [virtio-rdma MIG-4]
    if (_dirty && piece.size > 0) {
        _dirty(_dirty_opaque, piece.gpa, piece.size);
    }
    return {static_cast<std::byte*>(piece.region->hva) + (piece.gpa - piece.region->gpa),
            piece.size};
}

std::optional<GuestMemory::FilePiece> GuestMemory::file_piece(uint64_t gpa, uint64_t size) const
{
    Piece piece = resolve(gpa, size, true);
    if (!piece.region || !piece.region->shared) {
        return std::nullopt;
    }
    return FilePiece{piece.region->fd, piece.region->fd_offset + (piece.gpa - piece.region->gpa),
                     piece.size};
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
        uint64_t run = resolve(gpa, size, for_write).size;
        if (run == 0) {
            return false;
        }
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

bool GuestMemory::load_acquire(uint64_t gpa, uint32_t& first, uint32_t& second) const
{
    auto run = readable(gpa, 2 * sizeof(uint32_t));
    if (run.size() < 2 * sizeof(uint32_t)) {
        // They may lie in two pieces of memory.
        return load_acquire(gpa, first) && load_acquire(gpa + sizeof(uint32_t), second);
    }
    const uint32_t* words = word_of<uint32_t>(run, gpa);
    if (!words) {
        return false;
    }
    first = __atomic_load_n(words, __ATOMIC_ACQUIRE);
    second = __atomic_load_n(words + 1, __ATOMIC_ACQUIRE);
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

uint64_t* GuestMemory::atomic_word(uint64_t gpa)
{
    if (readable(gpa, sizeof(uint64_t)).empty()) {
        return nullptr;
    }
    return word_of<uint64_t>(writable(gpa, sizeof(uint64_t)), gpa);
}

// [IBTA 9.4.5-3]
bool GuestMemory::compare_swap(uint64_t gpa, uint64_t compare, uint64_t swap, uint64_t& old)
{
    uint64_t* word = atomic_word(gpa);
    if (!word) {
        return false;
    }
    old = compare;
    __atomic_compare_exchange_n(word, &old, swap, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return true;
}

// [IBTA 9.4.5-3]
bool GuestMemory::fetch_add(uint64_t gpa, uint64_t add, uint64_t& old)
{
    uint64_t* word = atomic_word(gpa);
    if (!word) {
        return false;
    }
    old = __atomic_fetch_add(word, add, __ATOMIC_SEQ_CST);
    return true;
}

} // namespace rdma
