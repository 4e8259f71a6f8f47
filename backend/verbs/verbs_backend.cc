// SPDX-License-Identifier: GPL-2.0-or-later
//
// The backend as a whole, and protection domains, completion queues, shared receive queues, GIDs.
#include "verbs_backend.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
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
            .atomics = _port->attributes().atomic_cap != IBV_ATOMIC_NONE,
            .max_inline = 0};
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
