// SPDX-License-Identifier: GPL-2.0-or-later
//
// The engine's objects: creation, change, destruction.
#include <cerrno>

#include "engine.h"
#include "qp_rules.h"

namespace rdma::roce {

namespace {

// Ids 0 and 1 belong to the QPs of those numbers (SMI, GSI).
// [virtio-rdma CTL-17]
constexpr uint32_t first_qp_id = 2;
constexpr unsigned qpn_generation_shift = 16;

// Whether requests are left from before the send queue was told to drain.
// [virtio-rdma REQ-6]
bool is_draining(const QueuePair& qp)
{
    return qp.state == IBV_QPS_SQD && !qp.req.window.empty();
}

} // namespace

Engine::Engine(const Limits& limits, GuestMemory& memory, Statistics& stats, Link& link)
    : _ctx(limits, memory, stats, link), _requester(_ctx), _responder(_ctx),
      _datagram(_ctx, _requester), _pds(limits.max_pd),
      _qps(limits.max_qp, first_qp_id),
      // Other bits than the regions': a QPN does not tell where keys begin.
      _first_generation(static_cast<uint8_t>(limits.number_seed >> 32))
{
    if (limits.max_qp > first_qp_id) {
        _qps.rotate(first_qp_id + static_cast<uint32_t>((limits.number_seed >> 40) %
                                                        (limits.max_qp - first_qp_id)));
    }
    _ctx.find_by_qpn = [this](uint32_t qpn) { return find_by_qpn(qpn); };
}

void Engine::reset()
{
    _gsi.reset();
    _qps.clear();
    _ctx.srqs.clear();
    _ctx.cqs.clear();
    _ctx.regions.clear();
    _pds.clear();
    _ctx.gids.clear();
    _ctx.timers.clear();
    _ctx.loopback.clear();
    _ctx.last_frames.clear();
    _ctx.answering.clear();
    _ctx.ready.clear();
    _ctx.overrun_cqs.clear();
    _ctx.failing_qps.clear();
    _loaded_inline.clear();
    _ctx.accepted = 0;
    _ctx.overrun_noted = false;
}

Result<uint32_t> Engine::alloc_pd()
{
    auto [pd, id] = _pds.emplace();
    if (!pd) {
        return std::unexpected(ENOMEM);
    }
    return id;
}

int Engine::dealloc_pd(uint32_t id)
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

Result<MrKeys> Engine::reg_mr(const MrInit& init)
{
    if (!_pds.find(init.pd)) {
        return std::unexpected(ENOENT);
    }
    auto keys = _ctx.regions.add(init);
    if (keys) {
        ++_pds.find(init.pd)->users;
    }
    return keys;
}

int Engine::dereg_mr(uint32_t id)
{
    if (const MemoryRegion* mr = _ctx.regions.at(id)) {
        --_pds.find(mr->pd)->users;
    }
    return _ctx.regions.remove(id);
}

Result<uint32_t> Engine::create_cq()
{
    auto [cq, id] = _ctx.cqs.emplace();
    if (!cq) {
        return std::unexpected(ENOMEM);
    }
    if (_ctx.overrun_cqs.capacity() < _ctx.cqs.size()) {
        _ctx.overrun_cqs.reserve(2 * _ctx.cqs.size());
    }
    return id;
}

int Engine::destroy_cq(uint32_t id)
{
    Cq* cq = _ctx.cqs.find(id);
    if (!cq) {
        return ENOENT;
    }
    if (cq->users > 0) {
        return EBUSY;
    }
    std::erase(_ctx.overrun_cqs, id);
    _ctx.cqs.erase(id);
    return 0;
}

Result<uint32_t> Engine::create_srq(uint32_t pd_id, const ibv_srq_attr& attr)
{
    Pd* pd = _pds.find(pd_id);
    if (!pd) {
        return std::unexpected(ENOENT);
    }
    if (attr.max_wr > _ctx.limits.max_srq_wr) {
        return std::unexpected(EINVAL);
    }
    auto [srq, id] = _ctx.srqs.emplace(pd_id, attr);
    if (!srq) {
        return std::unexpected(ENOMEM);
    }
    ++pd->users;
    return id;
}

int Engine::modify_srq(uint32_t id, const ibv_srq_attr& attr, int mask)
{
    Srq* srq = _ctx.srqs.find(id);
    if (!srq) {
        return ENOENT;
    }
    if ((mask & ~IBV_SRQ_LIMIT) != 0 || attr.srq_limit > srq->attr.max_wr) {
        return EINVAL; // resizing is not offered
    }
    if (mask & IBV_SRQ_LIMIT) {
        srq->attr.srq_limit = attr.srq_limit;
        _ctx.check_srq_limit(id);
    }
    return 0;
}

int Engine::query_srq(uint32_t id, ibv_srq_attr& attr)
{
    Srq* srq = _ctx.srqs.find(id);
    if (!srq) {
        return ENOENT;
    }
    attr = srq->attr;
    return 0;
}

int Engine::destroy_srq(uint32_t id)
{
    Srq* srq = _ctx.srqs.find(id);
    if (!srq) {
        return ENOENT;
    }
    if (srq->users > 0) {
        return EBUSY;
    }
    --_pds.find(srq->pd)->users;
    _ctx.srqs.erase(id);
    return 0;
}

void Engine::count_qp_users(const QpInit& init, int change)
{
    auto add = static_cast<uint32_t>(change);
    _pds.find(init.pd)->users += add;
    _ctx.cqs.find(init.send_cq)->users += add;
    _ctx.cqs.find(init.recv_cq)->users += add;
    if (init.use_srq) {
        _ctx.srqs.find(init.srq)->users += add;
    }
}

bool Engine::has_parts_of(const QpInit& init) const
{
    return _pds.find(init.pd) && _ctx.cqs.find(init.send_cq) && _ctx.cqs.find(init.recv_cq) &&
           (!init.use_srq || _ctx.srqs.find(init.srq));
}

Result<QpNumbers> Engine::create_qp(const QpInit& init)
{
    const Limits& limits = _ctx.limits;
    if (!has_parts_of(init)) {
        return std::unexpected(ENOENT);
    }
    if (check_init(init, limits) != 0) {
        return std::unexpected(EINVAL);
    }
    QueuePair* qp;
    uint32_t id = gsi_qpn;
    if (init.gsi) {
        if (_gsi) {
            return std::unexpected(EBUSY);
        }
        _gsi = std::make_unique<QueuePair>();
        qp = _gsi.get();
    } else {
        std::tie(qp, id) = _qps.emplace();
        if (!qp) {
            return std::unexpected(ENOMEM);
        }
    }
    qp->id = id;
    qp->qpn = id;
    if (!init.gsi && limits.qpn_generations) {
        _generation.resize(limits.max_qp, _first_generation);
        qp->qpn |= static_cast<uint32_t>(_generation[id]++) << qpn_generation_shift;
    }
    qp->init = init;
    reset_qp(*qp);
    count_qp_users(init, 1);
    reserve_turns();
    return QpNumbers{id, qp->qpn};
}

// So that no packet that gives a QP something to send needs memory for that.
void Engine::reserve_turns()
{
    size_t qps = count(ObjectKind::qp);
    _ctx.ready.reserve(qps);
    _ctx.answering.reserve(qps);
}

// [virtio-rdma CTL-22] [virtio-rdma CTL-23]
int Engine::destroy_qp(uint32_t id)
{
    QueuePair* qp = find(id);
    if (!qp) {
        return ENOENT;
    }
    if (qp->answering) {
        _responder.acknowledge_last(*qp);
    }
    count_qp_users(qp->init, -1);
    std::erase(_ctx.failing_qps, id);
    _ctx.accepted -= qp->req.window.size();
    if (qp->scheduled) {
        _ctx.ready.remove(id);
    }
    if (qp->answering) {
        _ctx.answering.remove(id);
    }
    if (qp->init.gsi) {
        _gsi.reset();
    } else {
        _qps.erase(id);
        _ctx.timers.tidy([this](uint32_t owner) { return find_timer(owner); });
    }
    return 0;
}

// [virtio-rdma REQ-4]
void Engine::reset_qp(QueuePair& qp)
{
    qp.state = IBV_QPS_RESET;
    qp.attr = {};
    qp.attr.cap = qp.init.cap;
    qp.attr.port_num = 1;
    qp.attr.path_mtu = IBV_MTU_1024;
    qp.dmac = {};
    qp.path = {};
    qp.mtu = 0;
    qp.peer_rnr_retry = rnr_retry_infinite;
    qp.knows_peer_rnr_retry = false;
    Timer timer = qp.req.timer;
    _ctx.accepted -= qp.req.window.size();
    qp.req = {};
    qp.req.timer = timer; // its entry is still queued
    _ctx.set_timer(qp, no_deadline);
    qp.resp = {};
}

int Engine::modify_qp(uint32_t id, const ibv_qp_attr& attr, int mask, const Mac& dmac)
{
    QueuePair* qp = find(id);
    if (!qp) {
        return ENOENT;
    }
    if ((mask & IBV_QP_CUR_STATE) && attr.cur_qp_state != qp->state) {
        return EINVAL;
    }
    ibv_qp_state to = mask & IBV_QP_STATE ? attr.qp_state : qp->state;
    if (check_transition(qp->init.type, qp->init.gsi, qp->state, to, mask) != 0 ||
        check_attributes(attr, mask, _ctx.limits, max_path_mtu()) != 0) {
        return EINVAL;
    }
    // 10.3.1.5: a queue that is still draining can only be given up.
    if (is_draining(*qp) && to != IBV_QPS_ERR && to != IBV_QPS_RESET) {
        return EINVAL;
    }
    if (mask & IBV_QP_AV) {
        uint32_t peer = mask & IBV_QP_DEST_QPN ? attr.dest_qp_num : qp->attr.dest_qp_num;
        Path path = _ctx.path_of({attr.ah_attr, dmac}, qp->qpn, peer);
        if (!path.valid()) {
            return EINVAL; // no such GID
        }
        qp->path = path;
        qp->dmac = dmac;
    }
    merge_attributes(qp->attr, attr, mask);
    return enter_state(*qp, to);
}

// That a QP may have just now.
ibv_mtu Engine::max_path_mtu() const
{
    // [virtio-rdma CTL-19]
    return _ctx.limits.any_path_mtu ? IBV_MTU_4096 : active_mtu(_ctx.link.mtu());
}

int Engine::enter_state(QueuePair& qp, ibv_qp_state to)
{
    ibv_qp_state from = qp.state;
    switch (to) {
    case IBV_QPS_RESET:
        reset_qp(qp);
        return 0;
    case IBV_QPS_ERR:
        if (from == IBV_QPS_RESET) {
            qp.state = to;
        }
        enter_error(_ctx, qp);
        qp.resp.window.forget_owed(); // it may have been in error with a NAK to send
        return 0;
    case IBV_QPS_RTR:
        if (from == IBV_QPS_INIT) {
            qp.mtu = mtu_bytes(qp.attr.path_mtu);
            Responder::start(qp);
        }
        break;
    case IBV_QPS_RTS:
        if (from == IBV_QPS_RTR) {
            Requester::start(qp);
            if (qp.is_reliable() && !qp.knows_peer_rnr_retry) {
                qp.peer_rnr_retry = qp.attr.rnr_retry;
            }
        } else if (from == IBV_QPS_SQD) {
            Requester::renew_retries(qp);
        }
        break;
    default:
        break;
    }
    qp.state = to;
    if (qp.is_reliable() && qp.can_receive()) {
        qp.resp.window.limit(qp.attr.max_dest_rd_atomic);
    }
    if (to == IBV_QPS_SQD && from != IBV_QPS_SQD && qp.req.window.empty() &&
        qp.attr.en_sqd_async_notify) {
        qp.attr.en_sqd_async_notify = 0;
        _ctx.client->async_event(IBV_EVENT_SQ_DRAINED, qp.id);
    }
    _ctx.schedule(qp);
    return 0;
}

int Engine::query_qp(uint32_t id, ibv_qp_attr& attr, Mac& dmac)
{
    QueuePair* qp = find(id);
    if (!qp) {
        return ENOENT;
    }
    attr = qp->attr;
    attr.qp_state = qp->state;
    attr.cur_qp_state = qp->state;
    attr.sq_psn = qp->req.window.next().value();
    attr.rq_psn = qp->resp.window.expected().value();
    attr.sq_draining = is_draining(*qp);
    dmac = qp->dmac;
    return 0;
}

bool Engine::exists(ObjectKind kind, uint32_t id) const
{
    switch (kind) {
    case ObjectKind::pd:
        return _pds.find(id);
    case ObjectKind::mr:
        return _ctx.regions.at(id);
    case ObjectKind::cq:
        return _ctx.cqs.find(id);
    case ObjectKind::srq:
        return _ctx.srqs.find(id);
    case ObjectKind::qp:
        return find(id);
    }
    return false;
}

size_t Engine::count(ObjectKind kind) const
{
    switch (kind) {
    case ObjectKind::pd:
        return _pds.size();
    case ObjectKind::mr:
        return _ctx.regions.size();
    case ObjectKind::cq:
        return _ctx.cqs.size();
    case ObjectKind::srq:
        return _ctx.srqs.size();
    case ObjectKind::qp:
        return _qps.size() + (_gsi ? 1 : 0);
    }
    return 0;
}

int Engine::add_gid(uint32_t index, const ibv_gid& gid, uint32_t type,
                    std::optional<uint16_t> vlan)
{
    // An address comes with the NIC's interface, whose MAC may be new.
    _ctx.mac = _ctx.link.mac();
    return _ctx.gids.add(index, gid, type, vlan);
}

int Engine::del_gid(uint32_t index)
{
    return _ctx.gids.remove(index);
}

void Engine::send_doorbell(uint32_t id)
{
    QueuePair* qp = find(id);
    if (!qp) {
        ++_ctx.stats.guest_doorbell_errors;
        return;
    }
    if (qp->state == IBV_QPS_ERR || qp->state == IBV_QPS_SQE) {
        flush_send_queue(_ctx, *qp);
    } else {
        _ctx.schedule(*qp);
    }
}

void Engine::recv_doorbell(uint32_t id)
{
    QueuePair* qp = find(id);
    if (!qp) {
        ++_ctx.stats.guest_doorbell_errors;
        return;
    }
    // Receive requests are taken when a message needs one.
    if (qp->state == IBV_QPS_ERR) {
        flush_receive_queue(_ctx, *qp);
    }
}

} // namespace rdma::roce
