// SPDX-License-Identifier: GPL-2.0-or-later
//
// Whose message it is: of all clients at one port of the host. It does no I/O.
//
// A message that comes for a GID that one client has is that client's. Where several
// share it, it is told by
// - the communication id that the sender gives as the receiver's, learned from what
//   clients have sent;
// - of a message without one that is known, the id of the sender: the client that had
//   the REQ has what follows it;
// - of a REQ or SIDR_REQ, the IP address that it is for, where one client alone has it.
// What cannot be told is dropped: nobody gets what may be another's.
//
// Clients are not trusted. One sends only with GIDs that it has registered, cannot take
// a GID that another has not agreed to share, and cannot take another's communication
// id while that is in use: they are chosen at random by the guests' kernels, so that an
// honest guest meets one once in 2^32, and tries again with another.
#pragma once

#include <cstdint>
#include <expected>
#include <list>
#include <map>
#include <set>
#include <unordered_map>

#include "cm_message.h"
#include "mad_port.h"

namespace rdma::mux {

using ClientId = uint32_t;

class Router {
public:
    // Communications that are remembered for each client: those it has given an id to,
    // and those that it was asked for. Of more, what was used last stays, and what has
    // ended goes first.
    static constexpr size_t max_own = 4096;
    static constexpr size_t max_peers = 1024;

    enum class Drop : uint8_t {
        no_message, // of connection management
        no_client,  // has that GID
        ambiguous,  // several have
    };

    // client: has no address yet, nor does it need to be known here.
    // 0; EADDRINUSE: another has that GID, and they do not share it.
    int set_address(ClientId client, const verbs::OwnAddress& address);
    void clear_address(ClientId client, uint8_t slot);
    // The client has gone.
    void remove(ClientId client);

    // Whether the client may send this. 0; EBADMSG: no message of connection management
    // to a QP that can be for it; EACCES: from a GID that is not its own; EADDRINUSE:
    // another's communication id.
    int check_send(ClientId client, const verbs::Mad& mad);
    // Whose that is.
    std::expected<ClientId, Drop> route(const verbs::Mad& mad);

    size_t remembered(ClientId client) const;

private:
    struct Key {
        enum class Kind : uint8_t { own, own_sidr, peer, peer_sidr };

        Kind kind;
        uint8_t gid_index;
        uint32_t id;
        ibv_gid peer; // of Kind::peer and Kind::peer_sidr

        bool is_own() const { return kind == Kind::own || kind == Kind::own_sidr; }
        bool operator==(const Key& other) const;
    };
    struct Hash {
        size_t operator()(const Key& key) const;
    };
    // The oldest first.
    using Order = std::list<Key>;
    struct Communication {
        ClientId client;
        bool ended;
        Order::iterator place;
    };
    struct Client {
        std::map<uint8_t, verbs::OwnAddress> addresses; // by slot
        Order own;
        Order peers;
    };

    bool has(ClientId client, uint8_t gid_index) const;
    std::set<ClientId> holders(uint8_t gid_index) const;
    std::set<ClientId> holders_of(uint8_t gid_index, const ibv_gid& address) const;
    Order& order(ClientId client, const Key& key);
    void remember(const Key& key, ClientId client);
    void end(const Key& key);
    void forget(const Key& key);
    std::expected<ClientId, Drop> find(const verbs::Mad& mad, const verbs::CmMessage& message,
                                       const std::set<ClientId>& candidates);

    std::unordered_map<ClientId, Client> _clients;
    std::unordered_map<Key, Communication, Hash> _communications;
};

} // namespace rdma::mux
