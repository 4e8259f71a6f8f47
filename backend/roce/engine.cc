// SPDX-License-Identifier: GPL-2.0-or-later
//
// Packets, time and the order of sending.
#include "engine.h"

namespace rdma::roce {

namespace {

// Packets a QP may send before it is another's turn.
constexpr unsigned burst = 8;

// Timers that fire before whoever drives the engine has its thread back. Each
// may flush two queues, and a guest can have all its QPs time out at once.
constexpr unsigned max_timeouts = 64;

} // namespace

bool Engine::wants(std::span<const uint8_t> frame) const
{
    auto destination = peek_destination(frame);
    if (!destination) {
        return false;
    }
    return _ctx.gids.owns(*destination);
}

void Engine::receive(std::span<const uint8_t> frame, int64_t now)
{
    _ctx.now = now;
    ++_ctx.stats.rx_packets;
    _ctx.stats.rx_bytes += frame.size();
    std::array<uint8_t, grh_size> grh;
    auto packet = parse(frame, grh);
    if (!packet) {
        ++(packet.error() == ParseError::icrc ? _ctx.stats.drop_icrc : _ctx.stats.drop_malformed);
        return;
    }
    dispatch(*packet);
}

QueuePair* Engine::find_by_qpn(uint32_t qpn) const
{
    if (qpn == gsi_qpn) {
        return _gsi.get();
    }
    QueuePair* qp = _qps.find(qpn & 0xffff);
    return qp && qp->qpn == qpn ? qp : nullptr;
}

// 9.6: the checks that come before the transport's own.
void Engine::dispatch(const Packet& packet)
{
    if (packet.opcode == opcode_cnp) {
        ++_ctx.stats.cnps_received;
        return;
    }
    QueuePair* qp = find_by_qpn(packet.destination_qp);
    if (!qp || qp->state == IBV_QPS_RESET) {
        ++_ctx.stats.drop_unknown_qp;
        return;
    }
    if (packet.transport() != qp->transport()) {
        ++_ctx.stats.drop_opcode;
        return;
    }
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
    // 9.6.1.5: a connected QP hears its peer only.
    if (packet.network != qp->path.network() ||
        !same_gid(packet.source, qp->path.destination()) ||
        !same_gid(packet.destination, qp->path.source())) {
        ++_ctx.stats.drop_peer_mismatch;
        return;
    }
    if (packet.is_response()) {
        _requester.handle_response(*qp, packet);
    } else {
        _responder.handle_request(*qp, packet);
    }
}

void Engine::advance(int64_t now)
{
    _ctx.now = now;
    auto find = [this](uint32_t id) -> Timer* {
        QueuePair* qp = _qps.find(id);
        return qp ? &qp->req.timer : nullptr;
    };
    _ctx.timers.expire(now, max_timeouts, find, [this](uint32_t id) {
        _requester.handle_timeout(*_qps.find(id));
    });
}

// One packet of the QP: responses first, so that a peer does not wait for us.
bool Engine::transmit(QueuePair& qp)
{
    if (qp.is_datagram()) {
        return _datagram.transmit(qp);
    }
    return _responder.transmit(qp) || _requester.transmit(qp);
}

bool Engine::run(int64_t now, unsigned budget)
{
    _ctx.now = now;
    auto next_qp = [this]() -> QueuePair* {
        while (!_ctx.ready.empty()) {
            uint32_t id = _ctx.ready.front();
            _ctx.ready.pop_front();
            QueuePair* qp = id == gsi_qpn ? _gsi.get() : _qps.find(id);
            if (qp && qp->scheduled) {
                qp->scheduled = false;
                return qp;
            }
        }
        return nullptr;
    };
    while (budget > 0) {
        if (!_ctx.loopback.empty()) {
            // Moved out first: its answer goes into the same ring.
            Context::Frame frame = _ctx.loopback.front();
            _ctx.loopback.pop_front();
            receive(std::span(frame.bytes).first(frame.size), now);
            --budget;
            continue;
        }
        if (!_ctx.can_emit()) {
            return false;
        }
        QueuePair* qp = next_qp();
        if (!qp) {
            return false;
        }
        bool more = true;
        for (unsigned i = 0; i < burst && budget > 0 && more && _ctx.can_emit(); ++i) {
            more = transmit(*qp);
            budget -= more;
        }
        if (more) {
            _ctx.schedule(*qp);
        }
    }
    return has_work();
}

} // namespace rdma::roce
