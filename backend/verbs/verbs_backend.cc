// SPDX-License-Identifier: GPL-2.0-or-later
//
// Protection domains, memory regions, completion queues, shared receive queues.
#include "verbs_backend.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include <fmt/format.h>

#include "gid.h"
#include "request_batch.h"

namespace rdma::verbs {

namespace {

// Ids 0 and 1 belong to the QPs of those numbers (SMI, GSI).
constexpr uint32_t first_qp_id = 2;
// A host CQ as it is made; it grows with what is put on it.
constexpr int first_cqe = 64;

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

// What a guest can cause it cannot fill the log with.
VerbsBackend::Log limited(VerbsBackend::Log log)
{
    constexpr unsigned logged = 20;
    return [log = std::move(log), left = logged](int level, std::string_view message) mutable {
        if (level == RDMA_LOG_ERROR || left > 0) {
            left -= level != RDMA_LOG_ERROR;
            log(level, message);
        }
    };
}

// A PD ends before the context, and both with their last user: a deleter would keep the
// context for as long as there are weak pointers.
struct OwnedPd {
    OwnedPd(HostContext its_context, ibv_pd* its_pd) : context(std::move(its_context)), pd(its_pd)
    {
    }
    ~OwnedPd() { ibv_dealloc_pd(pd); }
    OwnedPd(const OwnedPd&) = delete;
    OwnedPd& operator=(const OwnedPd&) = delete;

    HostContext context;
    ibv_pd* pd;
};

// On a thread of the resolver's.
Result<SharedAh> make_address_handle(const std::weak_ptr<ibv_pd>& of, ibv_ah_attr attr)
{
    HostPd pd = of.lock();
    ibv_ah* handle = pd ? ibv_create_ah(pd.get(), &attr) : nullptr;
    if (!handle) {
        return std::unexpected(pd ? errno : EIO);
    }
    return SharedAh(handle, [pd](ibv_ah* ended) { ibv_destroy_ah(ended); });
}

} // namespace

VerbsBackend::Pd::Pd(HostPd pd, AddressResolver& resolver)
    : host(std::move(pd)), addresses(resolver, [weak = std::weak_ptr(host)](ibv_ah_attr attr) {
          return make_address_handle(weak, attr);
      })
{
}

VerbsBackend::VerbsBackend(std::shared_ptr<HostPort> port, const Limits& limits,
                           GuestMemory& memory, Statistics& stats, Log log)
    : _port(std::move(port)), _limits(limits), _memory(memory), _stats(stats),
      _log(limited(std::move(log))), _channel(ibv_create_comp_channel(_port->context())),
      _removal(_port->context()->device->dev_name), _gids(*_port, limits.gid_tbl_len, _log),
      _pds(limits.max_pd), _mrs(limits.max_mr + 1, 1), _cqs(limits.max_cq), _srqs(limits.max_srq),
      _qps(limits.max_qp, first_qp_id), _batch(std::make_unique<Batch>())
{
    if (!_channel) {
        throw std::runtime_error(fmt::format("RDMA device '{}': no completion channel: {}",
                                             _port->device_name(), strerror(errno)));
    }
    set_nonblocking(_channel->fd);
    _kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    _epoll = epoll_create1(EPOLL_CLOEXEC);
    _timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (_kick < 0 || _epoll < 0 || _timer < 0) {
        throw std::runtime_error(fmt::format("no event descriptors: {}", strerror(errno)));
    }
    if (_port->peer_port() != 0) {
        _peer_channel = std::make_unique<PeerChannel>(
            static_cast<PeerChannel::Handler&>(*this), _port->peer_port(), _log);
        for (int fd : {_peer_channel->fd(), _timer}) {
            epoll_event event{};
            event.events = EPOLLIN;
            epoll_ctl(_epoll, EPOLL_CTL_ADD, fd, &event);
        }
    }
    _resolver.emplace([this] { kick(); });
    watch(EPOLL_CTL_ADD);
}

VerbsBackend::~VerbsBackend()
{
    reset();
    _resolver.reset();
    close(_epoll);
    close(_kick);
    close(_timer);
}

// The order is that of use.
void VerbsBackend::reset()
{
    _touched.clear();
    _waiting_qps.clear();
    _changing.clear();
    _overrun_qps.clear();
    _waiting_cqs.clear();
    _id_by_host_qpn.clear();
    _id_by_qpn.clear();
    _lkeys.clear();
    _rkeys.clear();
    _rests.clear();
    _questions.clear();
    _resting = _told_to_rest = _arrived = _silent = false;
    set_tick(false);
    if (_peer_channel) {
        _peer_channel->close();
    }
    _peers.clear();
    _arrivals.clear();
    _mads.reset();
    _gsi.reset();
    _qps.clear();
    _srqs.clear();
    _cqs.clear();
    _mrs.for_each([this](uint32_t, Mr& mr) { report_written(mr); });
    _mrs.clear();
    _dma_regions.clear();
    _num_pages = _num_runs = 0;
    _pds.clear();
    _gids.clear();
}

Features VerbsBackend::features() const
{
    return {.fast_registration = false,
            .atomics = _port->attributes().atomic_cap != IBV_ATOMIC_NONE};
}

std::optional<ibv_port_attr> VerbsBackend::host_port() const
{
    auto port = _dead ? std::nullopt : _port->query();
    if (!port) {
        port.emplace();
        port->state = IBV_PORT_DOWN;
    }
    return port;
}

Result<HostPd> VerbsBackend::alloc_host_pd()
{
    if (_dead) {
        return std::unexpected(EIO);
    }
    ibv_pd* host = ibv_alloc_pd(_port->context());
    if (!host) {
        return std::unexpected(host_error(errno));
    }
    auto owned = std::make_shared<OwnedPd>(_port->shared_context(), host);
    return HostPd(owned, host);
}

Result<uint32_t> VerbsBackend::alloc_pd()
{
    auto host = alloc_host_pd();
    if (!host) {
        return std::unexpected(host.error());
    }
    auto [pd, id] = _pds.emplace(std::move(*host), *_resolver);
    if (!pd) {
        return std::unexpected(ENOMEM);
    }
    return id;
}

int VerbsBackend::dealloc_pd(uint32_t id)
{
    Pd* pd = _pds.find(id);
    if (!pd) {
        return ENOENT;
    }
    if (pd->users > 0) {
        return EBUSY;
    }
    _pds.erase(id);
    return 0;
}

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

Result<uint32_t> VerbsBackend::create_cq()
{
    if (_dead) {
        return std::unexpected(EIO);
    }
    auto [cq, id] = _cqs.emplace();
    if (!cq) {
        return std::unexpected(ENOMEM);
    }
    cq->id = id;
    if (int error = create_host_cq(*cq)) {
        _cqs.erase(id);
        return std::unexpected(error);
    }
    return id;
}

int VerbsBackend::create_host_cq(Cq& cq)
{
    int entries = std::min(first_cqe, _port->attributes().max_cqe);
    cq.host.reset(ibv_create_cq(_port->context(), entries, &cq, _channel.get(), 0));
    int error = cq.host ? ibv_req_notify_cq(cq.host.get(), 0) : errno;
    return error != 0 ? host_error(error) : 0;
}

int VerbsBackend::destroy_cq(uint32_t id)
{
    Cq* cq = _cqs.find(id);
    if (!cq) {
        return ENOENT;
    }
    if (cq->users > 0) {
        return EBUSY;
    }
    std::erase(_waiting_cqs, id);
    _cqs.erase(id);
    return 0;
}

// Makes room for so many requests more: 0 or a positive errno value.
int VerbsBackend::reserve(Cq& cq, uint32_t requests)
{
    uint64_t needed = uint64_t{cq.needed} + requests;
    if (needed > static_cast<uint64_t>(cq.host->cqe)) {
        if (needed > static_cast<uint64_t>(_port->attributes().max_cqe)) {
            return ENOMEM;
        }
        uint64_t entries = std::min<uint64_t>(std::bit_ceil(needed),
                                              static_cast<uint64_t>(_port->attributes().max_cqe));
        if (int error = ibv_resize_cq(cq.host.get(), static_cast<int>(entries))) {
            _log(RDMA_LOG_WARNING,
                 fmt::format("a completion queue of RDMA device '{}' cannot grow to {} entries: {}",
                             _port->device_name(), entries, strerror(error)));
            return host_error(error);
        }
    }
    cq.needed = static_cast<uint32_t>(needed);
    return 0;
}

Result<uint32_t> VerbsBackend::create_srq(uint32_t pd_id, const ibv_srq_attr& attr)
{
    Pd* pd = _pds.find(pd_id);
    if (!pd || _dead) {
        return std::unexpected(pd ? EIO : ENOENT);
    }
    if (attr.max_wr == 0 || attr.max_wr > _limits.max_srq_wr) {
        return std::unexpected(EINVAL);
    }
    auto host = create_host_srq(pd_id, attr);
    if (!host) {
        return std::unexpected(host.error());
    }
    auto [srq, id] = _srqs.emplace(std::move(*host), 0u, pd_id, attr);
    if (!srq) {
        return std::unexpected(ENOMEM);
    }
    srq->id = id;
    srq->host->srq_context = srq;
    ++pd->users;
    return id;
}

Result<HostSrq> VerbsBackend::create_host_srq(uint32_t pd, const ibv_srq_attr& attr)
{
    ibv_srq_init_attr init{};
    init.attr = {attr.max_wr, std::max(attr.max_sge, 1u), 0};
    HostSrq host(ibv_create_srq(_pds.find(pd)->host.get(), &init));
    if (!host) {
        return std::unexpected(host_error(errno));
    }
    return host;
}

int VerbsBackend::modify_srq(uint32_t id, const ibv_srq_attr& attr, int mask)
{
    Srq* srq = _srqs.find(id);
    if (!srq || _dead) {
        return srq ? EIO : ENOENT;
    }
    if ((mask & ~IBV_SRQ_LIMIT) != 0 || attr.srq_limit > srq->attr.max_wr) {
        return EINVAL; // resizing is not offered
    }
    if (!(mask & IBV_SRQ_LIMIT)) {
        return 0;
    }
    pump_srq(*srq);
    // The host looks at the limit when it takes a request.
    bool reached = attr.srq_limit > srq->posted.used() + _client->srq_depth(id);
    ibv_srq_attr host{0, 0, reached ? 0 : attr.srq_limit};
    int error = ibv_modify_srq(srq->host.get(), &host, IBV_SRQ_LIMIT);
    if (error == 0) {
        srq->attr.srq_limit = host.srq_limit;
        if (reached) {
            _client->async_event(IBV_EVENT_SRQ_LIMIT_REACHED, id);
        }
    }
    return host_error(error);
}

int VerbsBackend::query_srq(uint32_t id, ibv_srq_attr& attr)
{
    Srq* srq = _srqs.find(id);
    if (!srq) {
        return ENOENT;
    }
    attr = srq->attr;
    return 0;
}

int VerbsBackend::destroy_srq(uint32_t id)
{
    Srq* srq = _srqs.find(id);
    if (!srq) {
        return ENOENT;
    }
    if (srq->users > 0) {
        return EBUSY;
    }
    --_pds.find(srq->pd)->users;
    _srqs.erase(id);
    return 0;
}

int VerbsBackend::add_gid(uint32_t index, const ibv_gid& gid, uint32_t type,
                          std::optional<uint16_t>)
{
    return change_gid(index, [&] { return _dead ? EIO : _gids.add(index, gid, type); });
}

int VerbsBackend::del_gid(uint32_t index)
{
    return change_gid(index, [&] { return _gids.remove(index); });
}

// change() may put another address in the place of the index, or none. Peers find those that
// there are.
int VerbsBackend::change_gid(uint32_t index, const std::function<int()>& change)
{
    const ibv_gid* found = _gids.find(index);
    std::optional<ibv_gid> before = found ? std::optional(*found) : std::nullopt;
    int error = change();
    const ibv_gid* after = _gids.find(index);
    if (_peer_channel && before) {
        bool is_left = false;
        _gids.for_each(
            [&](uint32_t, const ibv_gid& gid, uint32_t) { is_left |= same_gid(gid, *before); });
        if (!is_left) {
            _peer_channel->ignore(*before);
        }
    }
    if (_peer_channel && error == 0 && after) {
        _peer_channel->listen(*after);
    }
    tell_addresses();
    return error;
}

bool VerbsBackend::exists(ObjectKind kind, uint32_t id) const
{
    switch (kind) {
    case ObjectKind::pd:
        return _pds.find(id);
    case ObjectKind::mr:
        return _mrs.find(id);
    case ObjectKind::cq:
        return _cqs.find(id);
    case ObjectKind::srq:
        return _srqs.find(id);
    case ObjectKind::qp:
        return find_qp(id);
    }
    return false;
}

size_t VerbsBackend::count(ObjectKind kind) const
{
    switch (kind) {
    case ObjectKind::pd:
        return _pds.size();
    case ObjectKind::mr:
        return _mrs.size();
    case ObjectKind::cq:
        return _cqs.size();
    case ObjectKind::srq:
        return _srqs.size();
    case ObjectKind::qp:
        return _qps.size() + (_gsi ? 1 : 0);
    }
    return 0;
}

} // namespace rdma::verbs
