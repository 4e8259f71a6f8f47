// SPDX-License-Identifier: GPL-2.0-or-later
//
// While the VM is stopped, to be saved or for any other reason: peers are told
// to be patient, and are told again when it is over.
//
// A stopped responder answers with RNR NAK: a peer waits and tries again without
// end if its rnr_retry is 7, and its retry counter is left alone. The first
// waits are short, so that a short stop costs little, and become longer. A peer
// whose rnr_retry is not without end (QueuePair::peer_rnr_retry) is made to wait for long each time,
// and has no more RNR NAKs than that: after them, as where it is 0 (Linux's NFS), it is not
// answered, and has its retry counter and its ACK timeout.
//
// After the stop, an RNR NAK with the shortest wait ends the wait of those that
// have no end of their patience: Linux's rxe, too, starts its timer anew. The others
// have the last acknowledgement once more, which our own requester takes as a
// sign.
#include "engine.h"

namespace rdma::roce {

namespace {

// RNR NAK timer codes (table 45) of the first, second, ... answer to a QP's
// peer: 1.28 ms, doubled each time, up to 655.36 ms (code 0).
constexpr uint8_t first_wait_code = 14;
constexpr uint8_t wait_code_step = 2;
constexpr uint8_t num_wait_codes = 9;

uint8_t wait_code(const QueuePair& qp, uint8_t refusals)
{
    return qp.peer_rnr_retry == rnr_retry_infinite && refusals < num_wait_codes
               ? static_cast<uint8_t>(first_wait_code + wait_code_step * refusals)
               : uint8_t{0};
}

// From which PSN on the responder is not ready: not past an answer that it has
// yet to send, or the NAK would be an implied NAK to the peer; and not before
// what the peer waits for, or it would be dropped. An answer sent again may be one
// that the peer has had.
Psn first_not_ready(const QueuePair& qp, Psn requested)
{
    const ReceiveWindow& window = qp.resp.window;
    Psn psn = requested < window.expected() ? requested : window.expected();
    for (size_t i = 0; i < window.num_responses(); ++i) {
        const Response& response = window.response(i);
        if (!response.again) {
            return response.psn < psn ? response.psn : psn;
        }
    }
    return psn;
}

} // namespace

void Engine::stop(int64_t now)
{
    while (!_ctx.loopback.empty()) {
        receive_own(now);
    }
    _stopped_at = now;
    _refusals.assign(std::max(_qps.end(), gsi_qpn + 1), 0);
}

// [virtio-rdma MIG-3]
void Engine::receive_stopped(std::span<const uint8_t> frame)
{
    count_received(frame);
    std::array<uint8_t, grh_size> grh;
    auto packet = parse(frame, grh);
    QueuePair* qp = packet ? find_by_qpn(packet->destination_qp) : nullptr;
    if (!qp || !qp->is_reliable() || packet->transport() != transport_rc || !qp->can_receive() ||
        !qp->path.valid() || !is_from_peer(*qp, *packet) || packet->is_response() ||
        !_ctx.gids.is_vlan_ok(packet->destination, packet->vlan) || !_ctx.source_of(qp->path)) {
        ++_ctx.stats.drop_stopped;
        return;
    }
    uint8_t& refusals = _refusals[qp->id];
    Psn not_ready = first_not_ready(*qp, packet->psn);
    // Of packets that come together, one costs such a peer a retry.
    if (qp->peer_rnr_retry != rnr_retry_infinite &&
        (refusals >= qp->peer_rnr_retry || packet->psn != not_ready)) {
        ++_ctx.stats.drop_stopped;
        return;
    }
    FrameBuilder& builder =
        _ctx.begin_frame(qp->path, transport_rc | op_acknowledge, qp->attr.dest_qp_num,
                         not_ready);
    builder.header(
        Aeth{static_cast<uint8_t>(aeth_rnr_nak | wait_code(*qp, refusals)), qp->resp.window.msn()});
    auto answer = builder.finish();
    refusals = std::min<uint8_t>(refusals + 1, num_wait_codes);
    ++_ctx.stats.stopped_rnr_naks_sent;
    ++_ctx.stats.tx_packets;
    _ctx.stats.tx_bytes += answer.size();
    _ctx.link.send(answer);
}

void Engine::start(int64_t now)
{
    // The clock may be another host's.
    int64_t shift = now - _stopped_at;
    _ctx.now = now;
    _ctx.timers.clear();
    for_each_qp([&](QueuePair& qp) {
        int64_t deadline = qp.req.timer.deadline;
        qp.req.timer = {};
        if (deadline != no_deadline) {
            _ctx.set_timer(qp, deadline + shift);
        }
        if (qp.is_reliable() && qp.path.valid() && qp.can_receive()) {
            _responder.wake(qp);
        }
        if (qp.is_reliable() && qp.can_send() && !qp.req.window.all_acknowledged() &&
            !qp.req.rnr_wait) {
            _requester.resend(qp);
        }
        _ctx.schedule(qp);
    });
}

} // namespace rdma::roce
