// SPDX-License-Identifier: GPL-2.0-or-later
#include "router.h"

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "gid.h"

namespace rdma::mux {

using verbs::CmMessage;
using verbs::Mad;
using verbs::OwnAddress;

namespace {

constexpr uint32_t max_qpn = 0xffffff;

} // namespace

bool Router::Key::operator==(const Key& other) const
{
    return kind == other.kind && gid_index == other.gid_index && id == other.id &&
           same_gid(peer, other.peer);
}

// Ids and peers are chosen by whoever sends, but each client has a small share of the
// table only.
size_t Router::Hash::operator()(const Key& key) const
{
    std::string_view peer(reinterpret_cast<const char*>(key.peer.raw), sizeof(key.peer.raw));
    uint64_t rest =
        uint64_t{key.id} << 16 | uint64_t{key.gid_index} << 8 | static_cast<uint64_t>(key.kind);
    return std::hash<std::string_view>()(peer) ^ std::hash<uint64_t>()(rest * 0x9e3779b97f4a7c15);
}

bool Router::has(ClientId client, uint8_t gid_index) const
{
    auto found = _clients.find(client);
    return found != _clients.end() &&
           std::ranges::any_of(found->second.addresses, [gid_index](const auto& entry) {
               return entry.second.gid_index == gid_index;
           });
}

std::set<ClientId> Router::holders(uint8_t gid_index) const
{
    std::set<ClientId> clients;
    for (const auto& [id, client] : _clients) {
        if (has(id, gid_index)) {
            clients.insert(id);
        }
    }
    return clients;
}

std::set<ClientId> Router::holders_of(uint8_t gid_index, const ibv_gid& address) const
{
    std::set<ClientId> clients;
    for (const auto& [id, client] : _clients) {
        for (const auto& [slot, own] : client.addresses) {
            if (own.gid_index == gid_index && same_gid(own.guest_gid, address)) {
                clients.insert(id);
            }
        }
    }
    return clients;
}

int Router::set_address(ClientId client, const OwnAddress& address)
{
    clear_address(client, address.slot);
    for (const auto& [id, other] : _clients) {
        for (const auto& [slot, theirs] : other.addresses) {
            if (id != client && theirs.gid_index == address.gid_index &&
                !(theirs.shared && address.shared)) {
                return EADDRINUSE;
            }
        }
    }
    _clients[client].addresses[address.slot] = address;
    return 0;
}

void Router::clear_address(ClientId client, uint8_t slot)
{
    if (auto found = _clients.find(client); found != _clients.end()) {
        found->second.addresses.erase(slot);
    }
}

void Router::remove(ClientId client)
{
    auto found = _clients.find(client);
    if (found == _clients.end()) {
        return;
    }
    for (const Order* keys : {&found->second.own, &found->second.peers}) {
        for (const Key& key : *keys) {
            _communications.erase(key);
        }
    }
    _clients.erase(found);
}

Router::Order& Router::order(ClientId client, const Key& key)
{
    Client& its = _clients[client];
    return key.is_own() ? its.own : its.peers;
}

void Router::forget(const Key& key)
{
    auto found = _communications.find(key);
    Order& keys = order(found->second.client, key);
    auto place = found->second.place;
    _communications.erase(found);
    keys.erase(place);
}

// It is the client's, and has just been used.
void Router::remember(const Key& key, ClientId client)
{
    auto found = _communications.find(key);
    Order& keys = order(client, key);
    if (found != _communications.end() && found->second.client == client) {
        keys.splice(keys.end(), keys, found->second.place);
        found->second.ended = false;
        return;
    }
    if (found != _communications.end()) {
        forget(key);
    }
    if (keys.size() >= (key.is_own() ? max_own : max_peers)) {
        Key oldest = keys.front();
        forget(oldest);
    }
    keys.push_back(key);
    _communications[key] = {client, false, std::prev(keys.end())};
}

// It still is the client's, for what is repeated, until another needs the room or id.
void Router::end(const Key& key)
{
    if (auto found = _communications.find(key); found != _communications.end()) {
        Order& keys = order(found->second.client, key);
        keys.splice(keys.begin(), keys, found->second.place);
        found->second.ended = true;
    }
}

int Router::check_send(ClientId client, const Mad& mad)
{
    auto message = verbs::parse_cm_message(mad.bytes);
    if (!message || mad.peer_qpn == 0 || mad.peer_qpn > max_qpn) {
        return EBADMSG;
    }
    if (!has(client, mad.gid_index)) {
        return EACCES;
    }
    if (message->kind == verbs::CmKind::sidr_rep || message->sender_id == 0) {
        return 0;
    }
    Key key{message->is_sidr() ? Key::Kind::own_sidr : Key::Kind::own,
            mad.gid_index,
            message->sender_id,
            {}};
    auto found = _communications.find(key);
    bool known = found != _communications.end();
    bool others = known && found->second.client != client;
    // What answers the unknown (a REJ, a DREP) repeats an id that the other end has
    // made up: it makes nothing the client's own.
    if (message->is_last()) {
        if (known && !others) {
            end(key);
        }
        return 0;
    }
    if (others && !found->second.ended) {
        return EADDRINUSE;
    }
    remember(key, client);
    return 0;
}

std::expected<ClientId, Router::Drop> Router::find(const Mad& mad, const CmMessage& message,
                                                   const std::set<ClientId>& candidates)
{
    if (candidates.size() == 1) {
        return *candidates.begin();
    }
    auto known = [&](const Key& key) -> std::expected<ClientId, Drop> {
        auto found = _communications.find(key);
        if (found != _communications.end() && candidates.contains(found->second.client)) {
            return found->second.client;
        }
        return std::unexpected(Drop::ambiguous);
    };
    Key own{message.is_sidr() ? Key::Kind::own_sidr : Key::Kind::own,
            mad.gid_index,
            message.receiver_id,
            {}};
    Key peer{message.is_sidr() ? Key::Kind::peer_sidr : Key::Kind::peer, mad.gid_index,
             message.sender_id, mad.peer};
    if (!message.is_request()) {
        auto found = known(own);
        return found ? found : known(peer);
    }
    if (auto found = known(peer)) {
        return found;
    }
    if (message.ip_destination) {
        auto having = holders_of(mad.gid_index, *message.ip_destination);
        if (having.size() == 1) {
            return *having.begin();
        }
    }
    return std::unexpected(Drop::ambiguous);
}

std::expected<ClientId, Router::Drop> Router::route(const Mad& mad)
{
    auto message = verbs::parse_cm_message(mad.bytes);
    if (!message) {
        return std::unexpected(Drop::no_message);
    }
    auto candidates = holders(mad.gid_index);
    if (candidates.empty()) {
        return std::unexpected(Drop::no_client);
    }
    auto client = find(mad, *message, candidates);
    if (!client) {
        return client;
    }
    Key own{message->is_sidr() ? Key::Kind::own_sidr : Key::Kind::own,
            mad.gid_index,
            message->receiver_id,
            {}};
    Key peer{message->is_sidr() ? Key::Kind::peer_sidr : Key::Kind::peer, mad.gid_index,
             message->sender_id, mad.peer};
    if (message->is_request()) {
        remember(peer, *client);
    } else if (auto found = _communications.find(own);
               found != _communications.end() && found->second.client == *client) {
        if (message->is_last()) {
            end(own);
        } else {
            remember(own, *client);
        }
    }
    return client;
}

size_t Router::remembered(ClientId client) const
{
    auto found = _clients.find(client);
    return found == _clients.end() ? 0 : found->second.own.size() + found->second.peers.size();
}

} // namespace rdma::mux
