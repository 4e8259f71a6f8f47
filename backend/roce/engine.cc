// SPDX-License-Identifier: GPL-2.0-or-later
//
// Packets, time and the order of sending.
#include "engine.h"

namespace rdma::roce {

namespace {

// Packets a QP may send before it is another's turn.
// [virtio-rdma QUE-12] [virtio-rdma SEC-5]
constexpr unsigned burst = 8;

// Timers that fire before whoever drives the engine has its thread back. Each
// may flush two queues, and a guest can have all its QPs time out at once.
constexpr unsigned max_timeouts = 64;

// What a QP that fails takes of a budget of packets: two queues are flushed.
constexpr unsigned failure_cost = 8;
// QPs that one run() looks at for whether they must fail.
constexpr unsigned max_checked = 4096;

} // namespace

bool Engine::wants(std::span<const uint8_t> frame, Layers& layers) const
{
    return parse_network(frame, layers) == ParseError::none &&
           _ctx.gids.owns(layers.l3.destination);
}

void Engine::count_received(std::span<const uint8_t> frame)
{
    ++_ctx.stats.rx_packets;
    _ctx.stats.rx_bytes += frame.size();
}

void Engine::receive(std::span<const uint8_t> frame, const Layers& layers, int64_t now)
{
    _ctx.now = now;
    count_received(frame);
    std::array<uint8_t, grh_size> grh;
    Packet packet;
    ParseError error = parse(layers, grh, packet);
    if (error != ParseError::none) {
        ++(error == ParseError::icrc ? _ctx.stats.drop_icrc : _ctx.stats.drop_malformed);
        return;
    }
    dispatch(packet);
}

void Engine::receive(std::span<const uint8_t> frame, int64_t now)
{
    Layers layers;
    if (parse_network(frame, layers) != ParseError::none) {
        count_received(frame);
        ++_ctx.stats.drop_malformed;
        return;
    }
    receive(frame, layers, now);
}

void Engine::observe_sent(std::span<const uint8_t> head)
{
    if (auto sender = peek_sender(head)) {
        _ctx.gids.sent_from(sender->address, sender->vlan);
    }
}

QueuePair* Engine::find_by_qpn(uint32_t qpn) const
{
    if (qpn == gsi_qpn) {
        return _gsi.get();
    }
    // [IBTA CA17-33]
    QueuePair* qp = _qps.find(qpn & 0xffff);
    return qp && qp->qpn == qpn ? qp : nullptr;
}

// 9.6.1.5: a connected QP hears its peer only.
// [IBTA 9.6.1-8]
bool Engine::is_from_peer(const QueuePair& qp, const Packet& packet)
{
    // [IBTA CA17-41]
    return packet.network == qp.path.network() &&
           same_gid(packet.source, qp.path.destination()) &&
           // [IBTA 9.6.1-9]
           same_gid(packet.destination, qp.path.source());
}

// 9.6: the checks that come before the transport's own.
void Engine::dispatch(const Packet& packet)
{
    if (!_ctx.gids.is_vlan_ok(packet.destination, packet.vlan)) {
        ++_ctx.stats.drop_vlan;
        return;
    }
    if (packet.opcode == opcode_cnp) {
        ++_ctx.stats.cnps_received;
        return;
    }
    QueuePair* qp = find_by_qpn(packet.destination_qp);
    // [IBTA 9.6.1-1]
    if (!qp || qp->state == IBV_QPS_RESET) {
        ++_ctx.stats.drop_unknown_qp;
        return;
    }
    // [IBTA 9.6.1-3]
    if (packet.transport() != qp->transport()) {
        ++_ctx.stats.drop_opcode;
        return;
    }
    // [IBTA 9.6.1-4]
    if ((packet.pkey & pkey_base_mask) != (default_pkey & pkey_base_mask)) {
        ++_ctx.stats.drop_pkey;
        return;
    }
    if (qp->is_datagram()) {
        _datagram.handle(*qp, packet);
        return;
    }
    if (!qp->path.valid()) {
        ++_ctx.stats.drop_qp_state;
        return;
    }
    if (!is_from_peer(*qp, packet)) {
        ++_ctx.stats.drop_peer_mismatch;
        return;
    }
    if (qp->can_receive()) {
        _ctx.learn_vlan(packet);
    }
    if (packet.is_response()) {
        _requester.handle_response(*qp, packet);
    } else {
        _responder.handle_request(*qp, packet);
    }
}

Timer* Engine::find_timer(uint32_t id) const
{
    QueuePair* qp = _qps.find(id);
    return qp ? &qp->req.timer : nullptr;
}

void Engine::advance(int64_t now)
{
    _ctx.now = now;
    auto find = [this](uint32_t id) { return find_timer(id); };
    _ctx.timers.tidy(find);
    _ctx.timers.expire(now, max_timeouts, find, [this](uint32_t id) {
        _requester.handle_timeout(*_qps.find(id));
    });
}

// One packet of the QP. Its responder and its requester take turns: a peer that keeps a READ
// outstanding does not keep the QP's own requests, nor they its answers.
bool Engine::transmit(QueuePair& qp)
{
    if (flush_more(_ctx, qp)) {
        return true;
    }
    if (qp.is_datagram()) {
        return _datagram.transmit(qp);
    }
    // Noted first: a packet may have the QP saved.
    qp.requesters_turn = !qp.requesters_turn;
    return qp.requesters_turn ? _requester.transmit(qp) || _responder.transmit(qp)
                              : _responder.transmit(qp) || _requester.transmit(qp);
}

bool Engine::uses_overrun_cq(const QueuePair& qp) const
{
    return _ctx.cqs.find(qp.init.send_cq)->overrun || _ctx.cqs.find(qp.init.recv_cq)->overrun;
}

// A CQ that has overrun takes no completions any more, so its QPs are of no use
// (11.6.3.2): each goes to the error state with a fatal event. As far as the budget goes;
// the next call goes on.
void Engine::fail_qps_of_overrun_cqs(unsigned& budget)
{
    uint32_t end = std::max(_qps.end(), gsi_qpn + 1);
    if (std::exchange(_ctx.overrun_noted, false)) {
        _qps_to_check = end;
    }
    for (unsigned i = 0; i < max_checked && budget > 0 && _qps_to_check > 0; ++i) {
        --_qps_to_check;
        if (_next_to_check >= end) {
            _next_to_check = 0;
        }
        QueuePair* qp = find(_next_to_check++);
        if (qp && uses_overrun_cq(*qp) && qp->state != IBV_QPS_RESET &&
            qp->state != IBV_QPS_ERR) {
            budget -= std::min(budget, failure_cost);
            _ctx.client->async_event(IBV_EVENT_QP_FATAL, qp->id);
            enter_error(_ctx, *qp);
        }
    }
    if (_qps_to_check == 0) {
        for (uint32_t cq : _ctx.overrun_cqs) {
            _ctx.cqs.find(cq)->overrun = false;
        }
        _ctx.overrun_cqs.clear();
    }
}

// Those whose queues the device can take nothing from.
void Engine::fail_qps(unsigned& budget)
{
    while (budget > 0 && !_ctx.failing_qps.empty()) {
        QueuePair* qp = find(_ctx.failing_qps.back());
        _ctx.failing_qps.pop_back();
        if (qp && qp->state != IBV_QPS_RESET && qp->state != IBV_QPS_ERR) {
            budget -= std::min(budget, failure_cost);
            _ctx.client->async_event(IBV_EVENT_QP_FATAL, qp->id);
            enter_error(_ctx, *qp);
        }
    }
}

// The oldest frame to ourselves.
void Engine::receive_own(int64_t now)
{
    // Out of the ring first: its answer goes into the same one.
    _loopback_frame.swap(_ctx.loopback.front());
    _ctx.loopback.pop_front();
    receive(_loopback_frame, now);
}

// The oldest frame of a QP that is no more.
void Engine::send_last()
{
    // Out of the ring first: what it leads to may add one.
    auto last = std::exchange(_ctx.last_frames.front(), {});
    _ctx.last_frames.pop_front();
    _ctx.send_frame(last.path, last.bytes);
}

// The QP that has waited longest in the list; null: none.
QueuePair* Engine::next_of(GrowingRing<uint32_t>& list, bool QueuePair::*listed)
{
    while (!list.empty()) {
        QueuePair* qp = find(list.front());
        list.pop_front();
        if (qp && qp->*listed) {
            qp->*listed = false;
            return qp;
        }
    }
    return nullptr;
}

// Acknowledgements go before all requests of all QPs: a peer whose timer runs
// does not wait for a long queue of ours. False: there is none.
bool Engine::answer(unsigned& budget)
{
    QueuePair* qp = next_of(_ctx.answering, &QueuePair::answering);
    if (!qp) {
        return false;
    }
    bool more = true;
    while (budget > 0 && more && _ctx.can_emit()) {
        more = _responder.transmit_short(*qp);
        budget -= more;
    }
    if (more) {
        _ctx.schedule_answer(*qp);
    } else if (qp->resp.window.num_responses() > 0) {
        _ctx.schedule(*qp); // READ data
    } else if (!qp->scheduled) {
        _ctx.release_slots(*qp);
    }
    return true;
}

bool Engine::run(int64_t now, unsigned budget)
{
    _ctx.now = now;
    if (!_ctx.overrun_cqs.empty() && !_ctx.resting) {
        fail_qps_of_overrun_cqs(budget);
    }
    if (!_ctx.resting) {
        fail_qps(budget);
    }
    while (budget > 0 && !_ctx.resting) {
        if (!_ctx.loopback.empty()) {
            receive_own(now);
            --budget;
            continue;
        }
        if (!_ctx.can_emit()) {
            break;
        }
        if (!_ctx.last_frames.empty()) {
            send_last();
            --budget;
            continue;
        }
        if (answer(budget)) {
            continue;
        }
        QueuePair* qp = next_of(_ctx.ready, &QueuePair::scheduled);
        if (!qp) {
            break;
        }
        bool more = true;
        for (unsigned i = 0; i < burst && budget > 0 && more && _ctx.can_emit(); ++i) {
            more = transmit(*qp);
            budget -= more;
        }
        if (more) {
            _ctx.schedule(*qp);
        } else {
            _ctx.release_slots(*qp);
        }
    }
    return has_work();
}

} // namespace rdma::roce
