// SPDX-License-Identifier: GPL-2.0-or-later
//
// Memory regions: guest memory that the host's device may read and write, and the keys that
// name it.
#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "verbs_backend.h"

namespace rdma::verbs {

namespace {

constexpr int remote_rights =
    IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
constexpr int writing_rights =
    IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;

std::string locked_memory_limit()
{
    rlimit limit{};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    return limit.rlim_cur == RLIM_INFINITY ? "unlimited"
                                           : fmt::format("{} KiB", limit.rlim_cur / 1024);
}

} // namespace

int VerbsBackend::register_user_mr(const MrInit& init, Mr& mr)
{
    uint64_t skipped = init.iova % page_size;
    if (init.length == 0 || init.length > _limits.max_mr_size ||
        init.iova + init.length - 1 < init.iova ||
        init.pages.size() != (skipped + init.length - 1) / page_size + 1 ||
        ((init.access & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)) &&
         !(init.access & IBV_ACCESS_LOCAL_WRITE))) {
        return EINVAL;
    }
    if (_num_pages + init.pages.size() > max_pages_registered) {
        return ENOMEM;
    }
    auto mapping = MemoryMapping::make(_memory, init.pages, _max_runs - _num_runs);
    if (!mapping) {
        _log(RDMA_LOG_WARNING, fmt::format("a memory region of {} bytes cannot be mapped: {}",
                                           init.length, mapping.error().what));
        return mapping.error().code;
    }
    mr.mapping = std::move(*mapping);
    mr.host = register_on_host(mr);
    if (!mr.host) {
        int error = errno;
        _log(RDMA_LOG_WARNING,
             fmt::format("RDMA device '{}' does not register a memory region of {} bytes: {}{}",
                         _port->device_name(), init.length, strerror(error),
                         error == ENOMEM
                             ? fmt::format(": RLIMIT_MEMLOCK is {}, and must cover all memory that "
                                           "the guest registers (ulimit -l, memtune in libvirt)",
                                           locked_memory_limit())
                             : std::string()));
        return host_error(error);
    }
    for (uint64_t page : init.pages) {
        if (mr.pieces.empty() || mr.pieces.back().gpa + mr.pieces.back().size != page) {
            mr.pieces.push_back({page, 0});
        }
        mr.pieces.back().size += page_size;
    }
    report_written(mr);
    return 0;
}

// A DMA region serves the GSI QP alone, which reads guest memory itself. Its key is
// that of a region of the host's over no memory of the guest's and with no rights,
// so that a request of another QP fails as with a wrong key.
int VerbsBackend::register_guard(const MrInit& init, Mr& mr)
{
    if (init.access & ~IBV_ACCESS_LOCAL_WRITE) {
        return EINVAL;
    }
    mr.host = register_on_host(mr);
    return mr.host ? 0 : host_error(errno);
}

HostMr VerbsBackend::register_guard_page(uint32_t pd)
{
    alignas(page_size) static std::byte guard[page_size];
    return HostMr(ibv_reg_mr(_pds.find(pd)->host.get(), guard, sizeof(guard), 0));
}

HostMr VerbsBackend::register_once(const Mr& mr)
{
    if (mr.dma) {
        return register_guard_page(mr.pd);
    }
    unsigned access = static_cast<unsigned>(mr.access) & (IBV_ACCESS_LOCAL_WRITE | remote_rights);
    if (_port->on_demand_paging()) {
        access |= IBV_ACCESS_ON_DEMAND;
    }
    return HostMr(ibv_reg_mr_iova2(_pds.find(mr.pd)->host.get(),
                                   mr.mapping.data() + mr.iova % page_size, mr.length, mr.iova,
                                   access));
}

bool VerbsBackend::is_reserved(const ibv_mr& mr) const
{
    return _lkeys.is_reserved(mr.lkey) || _rkeys.is_reserved(mr.rkey);
}

// Under keys that the guest knows no other region by. Null: not, and errno says why.
HostMr VerbsBackend::register_on_host(const Mr& mr)
{
    constexpr int most_attempts = 64;
    // What has the reserved numbers meanwhile: pages of no use, for the region may be large.
    std::vector<HostMr> guards;
    for (int attempt = 0; attempt < most_attempts; ++attempt) {
        HostMr host = register_once(mr);
        if (!host || !is_reserved(*host)) {
            return host;
        }
        host.reset();
        do {
            guards.push_back(register_guard_page(mr.pd));
            if (!guards.back()) {
                return nullptr;
            }
        } while (is_reserved(*guards.back()));
        guards.pop_back(); // a number for the region, with luck
    }
    errno = ENOMEM;
    return nullptr;
}

// The keys that a region has on the host are those that the guest knows another one by, which
// has been loaded after it: it gets others. 0 or a positive errno value.
int VerbsBackend::register_again(uint32_t id)
{
    Mr& mr = *_mrs.find(id);
    // The old ones are free only when it has the new ones.
    HostMr host = register_on_host(mr);
    if (!host) {
        return host_error(errno);
    }
    mr.host = std::move(host);
    know_keys(id, mr);
    return 0;
}

void VerbsBackend::know_keys(uint32_t id, const Mr& mr)
{
    _lkeys.set(mr.lkey, mr.host->lkey, id);
    _rkeys.set(mr.rkey, mr.host->rkey, id);
}

// What the host's device has written it does not tell: all of the region counts.
void VerbsBackend::report_written(const Mr& mr)
{
    if (!(mr.access & writing_rights)) {
        return;
    }
    for (Piece piece : mr.pieces) {
        while (piece.size > 0) {
            size_t run = _memory.writable(piece.gpa, piece.size).size();
            if (run == 0) {
                break; // it has been unplugged
            }
            piece.gpa += run;
            piece.size -= run;
        }
    }
}

// What is kept of all regions together, of one that there is now.
void VerbsBackend::count_region(uint32_t id, Mr& mr, size_t num_pages)
{
    ++_pds.find(mr.pd)->users;
    mr.num_pages = num_pages;
    _num_pages += num_pages;
    _num_runs += mr.mapping.runs();
    if (mr.dma) {
        _dma_regions[mr.lkey] = id;
    }
}

void VerbsBackend::uncount_region(const Mr& mr)
{
    --_pds.find(mr.pd)->users;
    _num_pages -= mr.num_pages;
    _num_runs -= mr.mapping.runs();
    if (mr.dma) {
        _dma_regions.erase(mr.lkey);
    }
}

Result<MrKeys> VerbsBackend::reg_mr(const MrInit& init)
{
    Pd* pd = _pds.find(init.pd);
    if (!pd || _dead) {
        return std::unexpected(pd ? EIO : ENOENT);
    }
    Mr made;
    if (int error = register_region(init, made)) {
        return std::unexpected(error);
    }
    made.lkey = made.host->lkey;
    made.rkey = made.host->rkey;
    auto [mr, id] = _mrs.emplace(std::move(made));
    if (!mr) {
        return std::unexpected(ENOMEM);
    }
    count_region(id, *mr, init.pages.size());
    return MrKeys{id, mr->lkey, mr->rkey};
}

int VerbsBackend::register_region(const MrInit& init, Mr& mr)
{
    mr.pd = init.pd;
    mr.dma = init.kind == MrInit::Kind::dma;
    mr.access = init.access;
    mr.iova = init.iova;
    mr.length = init.length;
    switch (init.kind) {
    case MrInit::Kind::user:
        return register_user_mr(init, mr);
    case MrInit::Kind::dma:
        return register_guard(init, mr);
    default:
        return EOPNOTSUPP;
    }
}

int VerbsBackend::dereg_mr(uint32_t id)
{
    Mr* mr = _mrs.find(id);
    if (!mr) {
        return ENOENT;
    }
    _lkeys.retire(mr->lkey);
    _rkeys.retire(mr->rkey);
    uncount_region(*mr);
    Mr ended = std::move(*mr);
    _mrs.erase(id);
    ended.host.reset();
    report_written(ended);
    return 0;
}

} // namespace rdma::verbs
