// SPDX-License-Identifier: GPL-2.0-or-later
//
// Other devices of this kind, at the other ends of QPs. Before one of two moves to
// another host, both rest: nothing is in flight. On the new host QPs and regions have
// other numbers; the other end hears them and connects its QP anew, with the requests
// that wait in it (docs/verbs-backend.md).
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "gid.h"
#include "interface_address.h"
#include "opcodes.h"
#include "verbs_backend.h"

namespace rdma::verbs {

namespace {

using namespace std::chrono_literals;

// Where nothing has been completed for so many waits for events or ticks, what is in flight
// waits for a receive request that will not come: it stays for the other host. By their
// number, not the clock: while a thread does not run it sees nothing complete. A peer's
// ticks end before the waits of the one that has asked it.
constexpr auto tick_period = 50ms;
constexpr int enough_ticks = 3;
constexpr auto short_wait = 10ms;
constexpr int enough_waits = 25;
// Most that a stop of the VM waits for.
constexpr auto rest_time = 1s;
// Until a peer that cannot be reached after a migration is given up.
constexpr auto arrival_time = 10s;
// Until QPs go on whose peer was about to move and has not been heard of since.
constexpr auto suspension_time = 60s;
// Before a peer is asked again that was not there or not of this kind.
constexpr auto retry_time = 10s;
// After which a device that is stopped says again that its peers are to rest.
constexpr auto refresh_time = suspension_time / 3;
// Devices that are remembered.
constexpr size_t max_peers = 4096;

uint32_t random_psn()
{
    static std::mt19937 generator{std::random_device{}()};
    return std::uniform_int_distribution<uint32_t>(0, 0xffffff)(generator);
}

} // namespace

// ---- what this device asks ----

PeerName VerbsBackend::peer_name(const ibv_qp_attr& attr) const
{
    const ibv_gid* own = _gids.find(attr.ah_attr.grh.sgid_index);
    return {own ? *own : ibv_gid{}, attr.ah_attr.grh.dgid};
}

std::shared_ptr<VerbsBackend::Peer> VerbsBackend::remember_peer(const PeerName& name)
{
    if (_peers.size() >= max_peers) {
        std::erase_if(_peers, [](const auto& entry) { return entry.second.use_count() == 1; });
    }
    auto& peer = _peers[name];
    if (!peer) {
        peer = std::make_shared<Peer>();
    }
    return peer;
}

uint32_t VerbsBackend::ask(const PeerName& name, PeerMessage kind,
                           const std::vector<uint8_t>& body, Answered answered)
{
    uint32_t id = _peer_channel->ask(name, kind, body);
    _questions[id] = std::move(answered);
    return id;
}

// What the host's number of the QP is that this one is to be connected to. The question,
// or 0: nobody is asked.
uint32_t VerbsBackend::ask_for_qp(Qp& qp, const ibv_qp_attr& attr)
{
    qp.peer.reset();
    if (!_peer_channel || qp.is_datagram()) {
        return 0;
    }
    PeerName name = peer_name(attr);
    auto peer = remember_peer(name);
    if (!peer->known && Clock::now() < peer->retry) {
        return 0;
    }
    auto question = std::make_shared<uint32_t>();
    *question = ask(name, PeerMessage::find, encode(FindRequest{{attr.dest_qp_num, qp.qpn}}),
                    [this, id = qp.id, question, name, peer](auto body) {
                        take_found(id, *question, name, peer, body);
                    });
    return *question;
}

void VerbsBackend::take_found(uint32_t id, uint32_t question, const PeerName& name,
                              const std::shared_ptr<Peer>& peer,
                              std::optional<std::span<const uint8_t>> body)
{
    FindAnswer answer;
    bool understood = body && understand(*body, answer);
    // One that is known and cannot be reached just now is known still: other QPs may be
    // connected to it.
    peer->known = understood || (peer->known && !body);
    if (understood && answer.linked) {
        set_keys(*peer, answer.keys);
    } else if (!peer->known) {
        peer->retry = Clock::now() + retry_time;
    }
    Qp* qp = _qps.find(id);
    if (!qp || !qp->change || qp->change->question != question) {
        return;
    }
    qp->change->host_qpn = answer.host_qpn;
    qp->peer = answer.host_qpn != 0 ? peer : nullptr;
    qp->change->question = 0;
    _answered = true;
    // It was connected to this QP first, and could not be told our keys then.
    KeysRequest keys{answer.linked ? keys_for(name) : KeyList()};
    if (!keys.keys.empty()) {
        auto told = std::make_shared<uint32_t>();
        *told = ask(name, PeerMessage::keys, encode(keys), [this, id, told](auto) {
            Qp* asked = _qps.find(id);
            if (asked && asked->change && asked->change->question == *told) {
                asked->change->question = 0;
                _answered = true;
            }
        });
        qp->change->question = *told;
    }
}

void VerbsBackend::peer_answers(uint32_t id, std::optional<std::span<const uint8_t>> body)
{
    if (auto question = _questions.extract(id)) {
        question.mapped()(body);
    }
}

void VerbsBackend::set_keys(Peer& peer, const KeyList& keys)
{
    peer.keys.clear();
    for (const KeyEntry& key : keys) {
        peer.keys.add(key.guest, key.host);
    }
}

// What a device may know of our keys: those of regions in the PDs of QPs that are connected to
// it, or about to be.
KeyList VerbsBackend::keys_for(const PeerName& name) const
{
    KeyList keys;
    if (_rkeys.empty()) {
        return keys;
    }
    std::set<uint32_t> pds;
    _qps.for_each([&](uint32_t, const Qp& qp) {
        if (is_connected_to(qp, name) || is_about_to_be(qp, name)) {
            pds.insert(qp.init.pd);
        }
    });
    _mrs.for_each([&](uint32_t, const Mr& mr) {
        if (mr.host && mr.rkey != mr.host->rkey && pds.contains(mr.pd)) {
            keys.push_back({mr.rkey, mr.host->rkey});
        }
    });
    return keys;
}

// The same for one who asks, who does not have all QPs and regions looked at for each of many
// questions: as they were at the first of this turn.
const KeyList& VerbsBackend::keys_told(const PeerName& name)
{
    auto [entry, is_first] = _keys_told.try_emplace(name);
    if (is_first) {
        entry->second = keys_for(name);
    }
    return entry->second;
}

// False: it is no such body, or has more keys than a device like this one has regions.
template <typename Body>
bool VerbsBackend::understand(std::span<const uint8_t> bytes, Body& body) const
{
    return decode(bytes, body) && body.keys.size() <= _limits.max_mr;
}

// QPs by the device at their other end, where that is known.
std::map<PeerName, std::vector<uint32_t>> VerbsBackend::connections() const
{
    std::map<PeerName, std::vector<uint32_t>> connections;
    _qps.for_each([&](uint32_t id, Qp& qp) {
        if (qp.is_connected() && qp.peer && qp.peer->known) {
            connections[peer_name(qp.attr)].push_back(id);
        }
    });
    return connections;
}

std::vector<uint8_t> VerbsBackend::encode_links(const std::vector<uint32_t>& qps) const
{
    LinksRequest request;
    for (uint32_t id : qps) {
        const Qp& qp = *_qps.find(id);
        request.links.push_back({qp.attr.dest_qp_num, qp.qpn});
    }
    return encode(request);
}

// ---- what others ask ----

void VerbsBackend::peer_asks(const PeerName& from, const PeerChannel::Asker& asker,
                             std::span<const uint8_t> body)
{
    std::vector<uint8_t> answer;
    switch (asker.kind) {
    case PeerMessage::find:
        if (FindRequest request; decode(body, request)) {
            answer = encode(find(from, request));
        }
        break;
    case PeerMessage::keys:
        if (KeysRequest request; understand(body, request)) {
            answer = encode(take_keys(from, request));
        }
        break;
    case PeerMessage::suspend:
        if (LinksRequest request; decode(body, request)) {
            suspend(from, asker, request);
            return;
        }
        break;
    case PeerMessage::resume:
        if (LinksRequest request; decode(body, request)) {
            answer = encode(resume(from, request));
        }
        break;
    case PeerMessage::move:
        if (MoveRequest request; understand(body, request)) {
            answer = encode(take_moves(from, request));
        }
        break;
    default:
        break;
    }
    // A request that is not understood has an empty answer, which is none.
    _peer_channel->answer(asker, answer);
}

bool VerbsBackend::is_connected_to(const Qp& qp, const PeerName& from) const
{
    return qp.is_connected() && peer_name(qp.attr) == from;
}

// The guest has asked for it, and it waits for the peer's answer.
bool VerbsBackend::is_about_to_be(const Qp& qp, const PeerName& from) const
{
    return qp.change && (qp.change->mask & IBV_QP_DEST_QPN) && peer_name(qp.change->attr) == from;
}

VerbsBackend::Qp* VerbsBackend::find_link(const PeerName& from, const QpLink& link)
{
    Qp* qp = find_by_qpn(link.qpn);
    bool fits = qp && is_connected_to(*qp, from) && qp->attr.dest_qp_num == link.peer_qpn;
    return fits ? qp : nullptr;
}

// Whether the guest has anything to do with that device. Others are told no more than the
// host's number of a QP that they may be about to be connected to, and are not remembered.
bool VerbsBackend::is_peer(const PeerName& from) const
{
    bool found = false;
    _qps.for_each([&](uint32_t, const Qp& qp) {
        found |= is_connected_to(qp, from) || is_about_to_be(qp, from);
    });
    return found;
}

FindAnswer VerbsBackend::find(const PeerName& from, const FindRequest& request)
{
    const Qp* qp = find_by_qpn(request.link.qpn);
    if (!qp || !qp->host || (qp->is_connected() && !is_connected_to(*qp, from))) {
        return {};
    }
    FindAnswer answer{qp->host->qp_num, false, {}};
    answer.linked =
        (is_connected_to(*qp, from) && qp->attr.dest_qp_num == request.link.peer_qpn) ||
        (is_about_to_be(*qp, from) && qp->change->attr.dest_qp_num == request.link.peer_qpn);
    if (answer.linked) {
        answer.keys = keys_told(from);
    }
    return answer;
}

KeysAnswer VerbsBackend::take_keys(const PeerName& from, const KeysRequest& request)
{
    if (!is_peer(from)) {
        return {false};
    }
    set_keys(*remember_peer(from), request.keys);
    return {true};
}

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

// ---- a QP's new connection ----

void VerbsBackend::poll_cqs(const Qp& qp)
{
    for (uint32_t id : {qp.init.send_cq, qp.init.recv_cq}) {
        Cq& cq = *_cqs.find(id);
        // No more can be in it, but for what the host adds for other QPs meanwhile.
        poll_cq(cq, static_cast<unsigned>(cq.host->cqe) + 1);
        wait_more(cq);
    }
}

// What this end says of the connection that it is about to make.
void VerbsBackend::begin_connection(Qp& qp)
{
    qp.arriving = qp.suspended = true;
    qp.announced = false;
    qp.sq_psn = random_psn();
    qp.rq_psn = random_psn();
    qp.num_received_before = std::exchange(qp.num_received, 0);
}

// Connects the host's QP, whatever it was before, to the peer's with the PSNs that have
// been agreed on. What it held goes to it again, but for what the peer has received.
// 0 or a positive errno value.
int VerbsBackend::reconnect(Qp& qp, uint64_t received_by_peer)
{
    if (int error = reset_host(qp)) {
        return error;
    }
    if (!finish_executed(qp, received_by_peer)) {
        return EIO;
    }
    return connect_host(qp);
}

// What the host's QP holds is here again. 0 or a positive errno value.
int VerbsBackend::reset_host(Qp& qp)
{
    if (!qp.host) {
        return EIO;
    }
    auto sends = qp.sends.keep_all();
    auto recvs = qp.recvs.keep_all();
    ibv_qp_attr host{};
    host.qp_state = IBV_QPS_RESET;
    if (int error = ibv_modify_qp(qp.host.get(), &host, IBV_QP_STATE)) {
        return host_error(error);
    }
    drain_cqs(qp);
    qp.frozen = false;
    qp.sends.clear();
    qp.recvs.clear();
    qp.num_received = 0;
    qp.replays.insert(qp.replays.begin(), std::make_move_iterator(sends.begin()),
                      std::make_move_iterator(sends.end()));
    qp.recv_replays.insert(qp.recv_replays.begin(), std::make_move_iterator(recvs.begin()),
                           std::make_move_iterator(recvs.end()));
    return 0;
}

int VerbsBackend::connect_host(Qp& qp)
{
    ibv_qp_attr host;
    auto change = [&](ibv_qp_state state, int mask) {
        if (int error = to_host(qp, qp.attr, mask, host)) {
            return error;
        }
        host.qp_state = state;
        host.sq_psn = qp.sq_psn;
        host.rq_psn = qp.rq_psn;
        int error = ibv_modify_qp(qp.host.get(), &host, mask | IBV_QP_STATE);
        return error != 0 ? host_error(error) : 0;
    };
    bool is_rc = qp.init.type == IBV_QPT_RC;
    if (int error = change(IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)) {
        return error;
    }
    pump_recvs(qp);
    if (qp.state == IBV_QPS_INIT) {
        return 0;
    }
    if (int error = change(IBV_QPS_RTR, IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                                            IBV_QP_RQ_PSN |
                                            (is_rc ? IBV_QP_MAX_DEST_RD_ATOMIC |
                                                         IBV_QP_MIN_RNR_TIMER
                                                   : 0))) {
        return error;
    }
    if (qp.state == IBV_QPS_RTR) {
        return 0;
    }
    if (int error =
            change(IBV_QPS_RTS, IBV_QP_SQ_PSN | (is_rc ? IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
                                                             IBV_QP_RNR_RETRY |
                                                             IBV_QP_MAX_QP_RD_ATOMIC
                                                       : 0))) {
        return error;
    }
    return qp.state == IBV_QPS_SQD ? change(IBV_QPS_SQD, 0) : 0;
}

// Requests that the peer has carried out, though its last acknowledgements have not come,
// are complete: up to the last that took one of its receives. Those behind it can be
// carried out again. False: that is not so of an atomic, which has been or may have been.
bool VerbsBackend::finish_executed(Qp& qp, uint64_t received_by_peer)
{
    uint64_t left = received_by_peer > qp.num_sent ? received_by_peer - qp.num_sent : 0;
    qp.num_sent = 0;
    size_t done = 0;
    bool ok = true;
    for (size_t i = 0; i < qp.replays.size() && ok; ++i) {
        const int opcode = qp.replays[i].request.opcode;
        if (takes_receive(opcode)) {
            if (left == 0) {
                break; // neither this nor what is behind it
            }
            done = i + 1;
            --left;
        }
        ok = !is_atomic(opcode);
    }
    std::deque<KeptSend> again; // the memory READs are for has not been written
    for (; done > 0; --done) {
        KeptSend kept = std::move(qp.replays.front());
        qp.replays.pop_front();
        ibv_wc_opcode opcode = wc_opcode_of(kept.request.opcode);
        if (opcode == IBV_WC_RDMA_READ) {
            again.push_back(std::move(kept));
            continue;
        }
        complete_without_host(
            qp, true, {kept.request.wr.wr_id, IBV_WC_SUCCESS, opcode, kept.request.signaled});
    }
    qp.replays.insert(qp.replays.begin(), std::make_move_iterator(again.begin()),
                      std::make_move_iterator(again.end()));
    return ok;
}

// The connection does not outlive a migration.
void VerbsBackend::lose(Qp& qp)
{
    qp.arriving = qp.suspended = qp.lost = false;
    if (std::exchange(qp.frozen, false)) {
        flush_host_requests(qp); // the host has given them up
    }
    _client->async_event(IBV_EVENT_QP_FATAL, qp.id);
    fail_host(qp);
    enter_error(qp);
}

// ---- stopping and starting ----

// Has the peers rest and waits for what is in flight, so that nothing writes to the
// guest's memory any more.
void VerbsBackend::rest()
{
    if (!_peer_channel || _dead || _arrived) {
        return;
    }
    _told_to_rest = true;
    // Of those that do not answer.
    auto stalled = std::make_shared<std::set<uint32_t>>();
    auto asked = std::make_shared<size_t>(0);
    for (const auto& [name, qps] : connections()) {
        ++*asked;
        stalled->insert(qps.begin(), qps.end());
        ask(name, PeerMessage::suspend, encode_links(qps), [=](auto body) {
            --*asked;
            LinksAnswer answer;
            bool ok = body && decode(*body, answer) && answer.links.size() == qps.size();
            for (size_t i = 0; ok && i < qps.size(); ++i) {
                if (answer.links[i] == LinkStatus::quiet) {
                    stalled->erase(qps[i]);
                }
            }
        });
    }
    auto all_of_qps = [this](auto&& is) {
        bool all = true;
        _qps.for_each([&](uint32_t, Qp& qp) { all &= is(qp); });
        return all;
    };
    work_until([&] {
        return *asked == 0 && all_of_qps([](const Qp& qp) { return qp.sends.used() == 0; });
    });
    // What is in flight still will not be done: of each request it must be known whether
    // it was.
    _qps.for_each([&](uint32_t id, Qp& qp) {
        if (qp.is_connected() && qp.peer && (qp.sends.used() > 0 || stalled->contains(id))) {
            freeze(qp);
        }
    });
    work_until([&] {
        return all_of_qps([](const Qp& qp) {
            return !qp.frozen || qp.num_flushed >= qp.sends.used() + qp.recvs.used();
        });
    });
    report_all_written();
    _refresh = Clock::now() + refresh_time;
    if (!connections().empty()) {
        set_tick(true); // which ends by itself
    }
}

// The host's device has written where it has not told.
void VerbsBackend::report_all_written()
{
    _mrs.for_each([this](uint32_t, Mr& mr) { report_written(mr); });
}

void VerbsBackend::finish_migration()
{
    if (!_stopped || _dead || _arrived) {
        return;
    }
    if (_port->loses_on_migrate()) {
        // Completions of what is flushed are the guest's, as in rest(); it gives nothing more.
        _resting = true;
        _stopped = false;
        watch(EPOLL_CTL_ADD);
        work_until([this] {
            bool all_flushed = true;
            _qps.for_each([&](uint32_t, Qp& qp) {
                // Also one that the guest has had connected just before it stopped.
                if (!can_move(qp)) {
                    lose(qp);
                }
                all_flushed &= qp.state != IBV_QPS_ERR ||
                               (qp.sends.used() == 0 && qp.recvs.used() == 0);
            });
            return all_flushed;
        });
        finish_stop();
    }
    // Peers of another kind may have written to memory since the VM stopped.
    report_all_written();
}

// Until done(), or nothing more happens, but for a second at most.
void VerbsBackend::work_until(const std::function<bool()>& done)
{
    auto end = Clock::now() + rest_time;
    uint64_t progress = _progress;
    for (int fruitless = 0;;) {
        handle_events();
        if (_progress != std::exchange(progress, _progress)) {
            fruitless = 0;
        }
        if (done() || fruitless == enough_waits || Clock::now() >= end) {
            return;
        }
        pollfd fd{_epoll, POLLIN, 0};
        fruitless += poll(&fd, 1, short_wait.count()) == 0;
    }
}

// The host's QP takes and sends nothing more; its requests stay here.
void VerbsBackend::freeze(Qp& qp)
{
    qp.frozen = true;
    qp.num_flushed = 0;
    fail_host(qp);
}

// The device goes on: where it was, or where it has come to.
void VerbsBackend::wake_peers()
{
    _resting = false;
    if (!_peer_channel) {
        return;
    }
    if (std::exchange(_silent, false)) {
        _gids.for_each([this](uint32_t, const ibv_gid& gid, uint32_t) { _peer_channel->listen(gid); });
        ask_again();
    }
    bool has_rested = std::exchange(_told_to_rest, false);
    if (std::exchange(_arrived, false)) {
        arrive();
    } else if (has_rested) {
        resume_peers();
    }
}

// What has not been answered when the channel was closed.
void VerbsBackend::ask_again()
{
    for (uint32_t id : _changing) {
        Qp& qp = *_qps.find(id);
        if (qp.change->question != 0) {
            qp.change->question = ask_for_qp(qp, qp.change->attr);
        }
    }
    _qps.for_each([](uint32_t, Qp& qp) { qp.announced = false; }); // announce() asks again
    _answered = true;
    kick();
}

// It goes on where it was: frozen QPs are connected anew, others are as they were.
void VerbsBackend::resume_peers()
{
    _give_up = Clock::now() + arrival_time;
    _qps.for_each([this](uint32_t, Qp& qp) {
        if (qp.frozen) {
            begin_connection(qp);
            if (reset_host(qp) != 0 || connect_host(qp) != 0) {
                lose(qp);
            }
        }
    });
    for (auto& [name, qps] : connections()) {
        std::erase_if(qps, [this](uint32_t id) { return _qps.find(id)->arriving; });
        if (!qps.empty()) {
            ask(name, PeerMessage::resume, encode_links(qps), [](auto) {});
        }
    }
    announce();
}

// A state has been loaded, and the device starts.
void VerbsBackend::arrive()
{
    _give_up = Clock::now() + arrival_time;
    _srqs.for_each([this](uint32_t, Srq& srq) { pump_srq(srq); });
    _qps.for_each([this](uint32_t, Qp& qp) {
        if (qp.lost) {
            lose(qp);
        } else if (qp.state == IBV_QPS_INIT || qp.arriving) {
            if (qp.arriving) {
                begin_connection(qp);
            }
            if (connect_host(qp) != 0) {
                lose(qp);
            }
        }
    });
    _arrivals.clear();
    announce();
}

// Tells the peers of those QPs that they have not been told of.
void VerbsBackend::announce()
{
    std::map<PeerName, std::vector<uint32_t>> to_tell;
    for (const auto& [name, qps] : connections()) {
        std::ranges::copy_if(qps, std::back_inserter(to_tell[name]), [this](uint32_t id) {
            const Qp& qp = *_qps.find(id);
            return qp.arriving && !qp.announced;
        });
    }
    std::erase_if(to_tell, [](const auto& entry) { return entry.second.empty(); });
    for (const auto& [name, qps] : to_tell) {
        MoveRequest request;
        for (uint32_t id : qps) {
            Qp& qp = *_qps.find(id);
            qp.announced = true;
            request.moves.push_back({{qp.attr.dest_qp_num, qp.qpn},
                                     qp.host->qp_num,
                                     qp.peer_host_qpn,
                                     qp.rq_psn,
                                     qp.sq_psn,
                                     qp.num_received_before});
        }
        request.keys = keys_for(name);
        auto peer = remember_peer(name);
        ask(name, PeerMessage::move, encode(request),
            [this, qps, peer](auto body) { take_moved(qps, *peer, body); });
    }
    if (!to_tell.empty()) {
        set_tick(true);
    }
}

void VerbsBackend::take_moved(const std::vector<uint32_t>& qps, Peer& peer,
                              std::optional<std::span<const uint8_t>> body)
{
    MoveAnswer answer;
    bool ok = body && understand(*body, answer) && answer.moved.size() == qps.size();
    if (ok) {
        set_keys(peer, answer.keys);
    }
    for (size_t i = 0; i < qps.size(); ++i) {
        Qp* qp = _qps.find(qps[i]);
        if (!qp || !qp->arriving) {
            continue;
        }
        qp->announced = false; // unless all is well, the tick has it asked again
        if (ok) {
            take_moved(*qp, answer.moved[i]);
        }
    }
}

void VerbsBackend::take_moved(Qp& qp, const Moved& moved)
{
    switch (moved.status) {
    case MoveStatus::done:
        if (!finish_executed(qp, moved.received)) {
            lose(qp);
            break;
        }
        qp.arriving = qp.suspended = false;
        touch(qp);
        break;
    case MoveStatus::elsewhere:
        qp.peer_host_qpn = moved.host_qpn;
        if (reset_host(qp) != 0 || connect_host(qp) != 0) {
            lose(qp);
        }
        break;
    case MoveStatus::not_now:
        _give_up = Clock::now() + arrival_time; // it is there
        break;
    case MoveStatus::mine:
        qp.announced = true;
        break;
    default:
        lose(qp);
        break;
    }
}

// ---- time ----

void VerbsBackend::set_tick(bool on)
{
    itimerspec spec{};
    if (on) {
        spec.it_value.tv_nsec = spec.it_interval.tv_nsec =
            std::chrono::nanoseconds(tick_period).count();
    }
    timerfd_settime(_timer, 0, &spec, nullptr);
}

void VerbsBackend::tick()
{
    uint64_t expirations;
    if (read(_timer, &expirations, sizeof(expirations)) < 0) {
        return;
    }
    bool idle = _progress == std::exchange(_last_progress, _progress);
    _idle_ticks = idle ? _idle_ticks + 1 : 0;
    answer_rests(_idle_ticks >= enough_ticks);
    bool wanted = !_rests.empty();
    auto now = Clock::now();
    if (_stopped && _told_to_rest && !_silent) {
        wanted = true;
        if (now >= _refresh) {
            _refresh = now + refresh_time;
            for (const auto& [name, qps] : connections()) {
                ask(name, PeerMessage::suspend, encode_links(qps), [](auto) {});
            }
        }
    } else if (!_stopped) {
        _qps.for_each([&](uint32_t, Qp& qp) {
            if (qp.arriving && now >= _give_up) {
                lose(qp);
            } else if (qp.suspended && !qp.arriving && now >= qp.suspended_until) {
                qp.suspended = false;
                touch(qp);
            }
            wanted |= qp.suspended || qp.arriving;
        });
        announce();
    }
    set_tick(wanted);
}

// Why not, for a person.
std::optional<std::string> VerbsBackend::migration_obstacle() const
{
    if (!_peer_channel) {
        return _port->fixed_gid() ? "property 'gid-index' is set: devices that share an address "
                                    "cannot be told apart"
                                  : "property 'peer-port' is 0: peers cannot be told";
    }
    if (_dead) {
        return fmt::format("RDMA device '{}' is gone", _port->device_name());
    }
    if (_port->loses_on_migrate()) {
        return std::nullopt;
    }
    constexpr size_t max_named = 8;
    std::vector<std::string> named;
    size_t count = 0;
    _qps.for_each([&](uint32_t, const Qp& qp) {
        if (can_move(qp)) {
            return;
        }
        if (++count <= max_named) {
            named.push_back(qp.is_datagram()
                                ? fmt::format("QP {} (datagrams)", qp.qpn)
                                : fmt::format("QP {} (to QP {} at {})", qp.qpn,
                                              qp.attr.dest_qp_num,
                                              address_of(qp.attr.ah_attr.grh.dgid)));
        }
    });
    if (count == 0) {
        return std::nullopt;
    }
    return fmt::format("{}{}: the other end is no device with backend=verbs that can be told "
                       "(property 'on-migrate=error' gives such QPs up)",
                       fmt::join(named, ", "),
                       count > max_named ? fmt::format(" and {} more", count - max_named) : "");
}

// Whether a QP outlives a migration.
bool VerbsBackend::can_move(const Qp& qp)
{
    return qp.is_datagram() ? qp.state == IBV_QPS_RESET || qp.state == IBV_QPS_ERR
                            : !qp.is_connected() || (qp.peer && qp.peer->known);
}

} // namespace rdma::verbs
