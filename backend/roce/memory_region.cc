// SPDX-License-Identifier: GPL-2.0-or-later
#include "memory_region.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace rdma::roce {

namespace {

constexpr unsigned key_variant_bits = 8;
constexpr int remote_rights =
    IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

// Remote write and atomic need local write (11.2.8.2).
bool is_access_ok(int access)
{
    return (access & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)) == 0 ||
           (access & IBV_ACCESS_LOCAL_WRITE) != 0;
}

// How many pages [iova, iova + length) touches; length > 0 and no overflow.
uint64_t pages_touched(uint64_t iova, uint64_t length)
{
    return (iova % page_size + length - 1) / page_size + 1;
}

// Pages that a region has room for.
uint64_t pages_held(const MemoryRegion& mr)
{
    return mr.kind == MrInit::Kind::fast_reg ? mr.max_pages : mr.pages.size();
}

// A DMA region is all of guest memory, without a page list.
bool is_range_ok(uint64_t address, uint64_t length)
{
    return length == 0 || address + length - 1 >= address;
}

// Calls piece(address, skipped, n) for every run of bytes [offset, offset + size) that
// lies in one entry; skipped is how far into the request it is.
template <typename Fn>
bool for_each_piece(std::span<const ibv_sge> sges, uint64_t offset, uint64_t size, Fn&& piece)
{
    uint64_t done = 0;
    for (const ibv_sge& sge : sges) {
        if (done == size) {
            break;
        }
        if (offset >= sge.length) {
            offset -= sge.length;
            continue;
        }
        uint64_t n = std::min<uint64_t>(sge.length - offset, size - done);
        if (!piece(sge, sge.addr + offset, done, n)) {
            return false;
        }
        offset = 0;
        done += n;
    }
    return done == size;
}

} // namespace

MemoryRegions::MemoryRegions(uint32_t max_mr, uint64_t max_mr_size, GuestMemory& memory,
                             uint64_t seed)
    // Ids are 1 and above, so that no region has key 0.
    : _max_mr_size(max_mr_size), _memory(memory), _table(max_mr + 1, 1),
      _variant(static_cast<uint8_t>(seed))
{
    _table.rotate(1 + static_cast<uint32_t>((seed >> 8) % std::max(max_mr, 1u)));
}

bool MemoryRegions::set_next_id(uint32_t id)
{
    if (!_table.is_id(id)) {
        return false;
    }
    _table.rotate(id);
    return true;
}

void MemoryRegions::clear()
{
    _table.clear();
    _num_pages = 0;
}

Result<MrKeys> MemoryRegions::add(const MrInit& init)
{
    MemoryRegion mr{init.kind, init.pd, 0, true, init.access, 0, 0, 0, {}};
    switch (init.kind) {
    case MrInit::Kind::user:
        if (init.length == 0 || init.length > _max_mr_size ||
            !is_range_ok(init.iova, init.length) ||
            init.pages.size() != pages_touched(init.iova, init.length) ||
            !is_access_ok(init.access)) {
            return std::unexpected(EINVAL);
        }
        mr.iova = init.iova;
        mr.length = init.length;
        mr.pages.assign(init.pages.begin(), init.pages.end());
        break;
    case MrInit::Kind::dma:
        if (init.access & ~IBV_ACCESS_LOCAL_WRITE) {
            return std::unexpected(EINVAL);
        }
        mr.length = UINT64_MAX;
        break;
    case MrInit::Kind::fast_reg:
        if (init.max_pages == 0 || init.max_pages > max_fast_reg_pages) {
            return std::unexpected(EINVAL);
        }
        mr.max_pages = init.max_pages;
        mr.pages.reserve(init.max_pages);
        mr.valid = false;
        break;
    }
    uint64_t num_pages = pages_held(mr);
    if (_num_pages + num_pages > max_pages_registered) {
        return std::unexpected(ENOMEM);
    }
    auto [slot, id] = _table.emplace(std::move(mr));
    if (!slot) {
        return std::unexpected(ENOMEM);
    }
    _num_pages += num_pages;
    // [virtio-rdma CTL-9] [virtio-rdma CTL-13]
    slot->key = id << key_variant_bits | _variant++;
    return MrKeys{id, slot->key, slot->key};
}

bool MemoryRegions::restore(uint32_t id, MemoryRegion&& mr)
{
    bool fits;
    switch (mr.kind) {
    case MrInit::Kind::user:
        fits = mr.valid && mr.max_pages == 0 && mr.length > 0 && mr.length <= _max_mr_size &&
               is_range_ok(mr.iova, mr.length) &&
               mr.pages.size() == pages_touched(mr.iova, mr.length);
        break;
    case MrInit::Kind::dma:
        fits = mr.valid && mr.max_pages == 0 && mr.iova == 0 && mr.length == UINT64_MAX &&
               mr.pages.empty() && (mr.access & ~IBV_ACCESS_LOCAL_WRITE) == 0;
        break;
    default:
        fits = mr.max_pages > 0 && mr.pages.size() <= mr.max_pages &&
               (!mr.valid || (mr.length > 0 && is_range_ok(mr.iova, mr.length) &&
                              pages_touched(mr.iova, mr.length) <= mr.pages.size()));
    }
    uint64_t num_pages = pages_held(mr);
    if (!fits || mr.key >> key_variant_bits != id ||
        _num_pages + num_pages > max_pages_registered || !_table.insert(id, std::move(mr))) {
        return false;
    }
    _num_pages += num_pages;
    return true;
}

// [virtio-rdma CTL-14]
int MemoryRegions::remove(uint32_t id)
{
    MemoryRegion* mr = _table.find(id);
    if (!mr) {
        return ENOENT;
    }
    _num_pages -= pages_held(*mr);
    _table.erase(id);
    return 0;
}

const MemoryRegion* MemoryRegions::find(uint32_t key) const
{
    const MemoryRegion* mr = _table.find(key >> key_variant_bits);
    // [virtio-rdma CTL-13]
    return mr && mr->key == key ? mr : nullptr;
}

// [virtio-rdma REQ-18]
bool MemoryRegions::fast_register(const FastRegistration& request, uint32_t pd)
{
    // The consumer may change the variant (11.2.8.4), so look the id up only.
    MemoryRegion* mr = _table.find(request.key >> key_variant_bits);
    if (!mr || mr->kind != MrInit::Kind::fast_reg || mr->pd != pd || mr->valid ||
        request.pages.empty() || request.pages.size() > mr->max_pages || request.length == 0 ||
        !is_access_ok(request.access) || !is_range_ok(request.iova, request.length) ||
        pages_touched(request.iova, request.length) > request.pages.size()) {
        return false;
    }
    mr->key = request.key;
    mr->access = request.access;
    mr->iova = request.iova;
    mr->length = request.length;
    mr->pages.assign(request.pages.begin(), request.pages.end());
    mr->valid = true;
    return true;
}

// [virtio-rdma REQ-17]
bool MemoryRegions::invalidate(uint32_t key, uint32_t pd, bool remote)
{
    auto* mr = const_cast<MemoryRegion*>(find(key));
    if (!mr || mr->kind != MrInit::Kind::fast_reg || mr->pd != pd || !mr->valid ||
        // [IBTA 9.4.1-3]
        (remote && (mr->access & remote_rights) == 0)) {
        return false;
    }
    mr->valid = false;
    mr->pages.clear();
    return true;
}

// [IBTA 9.7.4.1.5-1]
const MemoryRegion* MemoryRegions::check(uint32_t key, uint32_t pd, uint64_t address,
                                         uint64_t length, int access) const
{
    const MemoryRegion* mr = find(key);
    // [IBTA 9.7.4.1.5-3]
    // [virtio-rdma REQ-15] [virtio-rdma REQ-18] [virtio-rdma SEC-3]
    if (!mr || !mr->valid || mr->pd != pd || (access & ~mr->access) != 0) {
        return nullptr;
    }
    if (!is_range_ok(address, length) || address < mr->iova || length > mr->length ||
        address - mr->iova > mr->length - length) {
        return nullptr;
    }
    return mr;
}

bool MemoryRegions::check(std::span<const ibv_sge> sges, uint32_t pd, int access) const
{
    return std::ranges::all_of(sges, [&](const ibv_sge& sge) {
        // [virtio-rdma REQ-10]
        return sge.length == 0 || check(sge.lkey, pd, sge.addr, sge.length, access) != nullptr;
    });
}

bool MemoryRegions::read(const MemoryRegion& mr, uint64_t address, std::span<std::byte> out) const
{
    if (mr.kind == MrInit::Kind::dma) {
        return _memory.read(address, out);
    }
    while (!out.empty()) {
        uint64_t n = std::min<uint64_t>(out.size(), page_size - address % page_size);
        if (!_memory.read(mr.gpa_of(address), out.first(n))) {
            return false;
        }
        out = out.subspan(n);
        address += n;
    }
    return true;
}

bool MemoryRegions::write(const MemoryRegion& mr, uint64_t address, std::span<const std::byte> in)
{
    if (mr.kind == MrInit::Kind::dma) {
        return _memory.write(address, in);
    }
    while (!in.empty()) {
        uint64_t n = std::min<uint64_t>(in.size(), page_size - address % page_size);
        if (!_memory.write(mr.gpa_of(address), in.first(n))) {
            return false;
        }
        in = in.subspan(n);
        address += n;
    }
    return true;
}

bool MemoryRegions::gather(std::span<const ibv_sge> sges, uint32_t pd, uint64_t offset,
                           std::span<std::byte> out) const
{
    return for_each_piece(
        sges, offset, out.size(),
        [&](const ibv_sge& sge, uint64_t address, uint64_t at, uint64_t n) {
            const MemoryRegion* mr = check(sge.lkey, pd, address, n, 0);
            return mr && read(*mr, address, out.subspan(at, n));
        });
}

bool MemoryRegions::scatter(std::span<const ibv_sge> sges, uint32_t pd, uint64_t offset,
                            std::span<const std::byte> in)
{
    return for_each_piece(
        sges, offset, in.size(),
        [&](const ibv_sge& sge, uint64_t address, uint64_t at, uint64_t n) {
            const MemoryRegion* mr = check(sge.lkey, pd, address, n, IBV_ACCESS_LOCAL_WRITE);
            return mr && write(*mr, address, in.subspan(at, n));
        });
}

} // namespace rdma::roce
