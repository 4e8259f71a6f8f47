// SPDX-License-Identifier: GPL-2.0-or-later
//
// Other devices of this kind, at the other ends of QPs: which are known, what their QPs and
// regions are called on their hosts, and the questions and answers by which both learn it.
#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "verbs_backend.h"

namespace rdma::verbs {

namespace {

using namespace std::chrono_literals;

// Before a peer is asked again that was not there or not of this kind.
constexpr auto retry_time = 10s;
// Devices that are remembered.
constexpr size_t max_peers = 4096;

} // namespace

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

} // namespace rdma::verbs
