// SPDX-License-Identifier: GPL-2.0-or-later
//
// A device at the other end of QPs moves to another host: before it does, the QPs here rest,
// and once it is there they are connected anew.
#include <algorithm>
#include <cstring>
#include <utility>

#include "verbs_backend.h"

namespace rdma::verbs {

void VerbsBackend::suspend(const PeerName& from, const PeerChannel::Asker& asker,
                           const LinksRequest& request)
{
    // One that asks again has its answer now: a peer does not decide how many wait.
    std::erase_if(_rests, [&](const Rest& rest) {
        bool again = rest.from == from;
        if (again) {
            _peer_channel->answer(rest.asker, encode(status_of(rest)));
        }
        return again;
    });
    Rest rest{from, asker, {}};
    for (const QpLink& link : request.links) {
        Qp* qp = find_link(from, link);
        if (qp) {
            qp->suspended = true;
            qp->suspended_until = Clock::now() + suspension_time;
        }
        rest.qps.push_back(qp ? qp->id : 0);
    }
    _rests.push_back(std::move(rest));
    _idle_ticks = 0;
    set_tick(true);
}

LinksAnswer VerbsBackend::status_of(const Rest& rest) const
{
    LinksAnswer answer;
    for (uint32_t id : rest.qps) {
        const Qp* qp = _qps.find(id);
        answer.links.push_back(!qp                     ? LinkStatus::unknown
                               : qp->sends.used() == 0 ? LinkStatus::quiet
                                                       : LinkStatus::stalled);
    }
    return answer;
}

// Answers those who want QPs to rest that do. stalled: nothing has completed for long.
void VerbsBackend::answer_rests(bool stalled)
{
    std::erase_if(_rests, [&](const Rest& rest) {
        LinksAnswer answer = status_of(rest);
        auto& links = answer.links;
        bool done = stalled || std::ranges::find(links, LinkStatus::stalled) == links.end();
        if (done) {
            _peer_channel->answer(rest.asker, encode(answer));
        }
        return done;
    });
}

LinksAnswer VerbsBackend::resume(const PeerName& from, const LinksRequest& request)
{
    LinksAnswer answer;
    for (const QpLink& link : request.links) {
        Qp* qp = find_link(from, link);
        answer.links.push_back(qp ? LinkStatus::quiet : LinkStatus::unknown);
        if (qp && !qp->arriving) {
            qp->suspended = false;
            touch(*qp);
        }
    }
    return answer;
}

MoveAnswer VerbsBackend::take_moves(const PeerName& from, const MoveRequest& request)
{
    MoveAnswer answer;
    answer.moved.resize(request.moves.size());
    if (std::ranges::none_of(request.moves,
                             [&](const Move& move) { return find_link(from, move.link); })) {
        return answer;
    }
    auto peer = remember_peer(from);
    peer->known = true;
    set_keys(*peer, request.keys);
    std::ranges::transform(request.moves, answer.moved.begin(),
                           [&](const Move& move) { return take_move(from, move); });
    answer.keys = keys_told(from);
    return answer;
}

Moved VerbsBackend::take_move(const PeerName& from, const Move& move)
{
    Qp* qp = find_link(from, move.link);
    if (!qp || _dead) {
        return {MoveStatus::unknown, 0, 0};
    }
    // Asked again: the answer has been lost.
    if (qp->peer_host_qpn == move.host_qpn && qp->sq_psn == move.receiver_psn &&
        qp->rq_psn == move.sender_psn && !qp->arriving) {
        return {MoveStatus::done, qp->host->qp_num, qp->num_received_before};
    }
    if (_stopped || _resting) {
        return {MoveStatus::not_now, 0, 0};
    }
    // A connection that has gone on since cannot be what it was.
    if (!qp->suspended) {
        return {MoveStatus::failed, 0, 0};
    }
    if (move.receiver_host_qpn != qp->host->qp_num) {
        return {MoveStatus::elsewhere, qp->host->qp_num, 0};
    }
    // Where both have come to another host, the request of one of them counts.
    if (qp->arriving && std::memcmp(from.own.raw, from.peer.raw, sizeof(from.own.raw)) < 0) {
        return {MoveStatus::mine, 0, 0};
    }
    // What has been completed is, and the rest waits for the new connection.
    poll_cqs(*qp);
    if (!qp->is_connected()) {
        return {MoveStatus::failed, 0, 0};
    }
    qp->peer = remember_peer(from);
    qp->peer_host_qpn = move.host_qpn;
    qp->sq_psn = move.receiver_psn;
    qp->rq_psn = move.sender_psn;
    qp->num_received_before = qp->num_received;
    if (reconnect(*qp, move.received) != 0) {
        lose(*qp);
        return {MoveStatus::failed, 0, 0};
    }
    qp->arriving = qp->suspended = false;
    touch(*qp);
    return {MoveStatus::done, qp->host->qp_num, qp->num_received_before};
}

} // namespace rdma::verbs
