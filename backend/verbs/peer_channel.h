// SPDX-License-Identifier: GPL-2.0-or-later
//
// The control channel between devices with this backend: requests and answers
// (peer_messages.h) over TCP connections from one GID's address to the other's. Never
// blocks. Bytes from the network are read as an attacker's; who a message is from is
// the address it comes from, no more than RoCE itself asks for.
#pragma once

#include <infiniband/verbs.h>

#include <compare>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "peer_messages.h"
#include "spare_descriptor.h"

namespace rdma::verbs {

// A device at the other end: the GIDs of both.
struct PeerName {
    ibv_gid own{};
    ibv_gid peer{};

    friend bool operator==(const PeerName& a, const PeerName& b) { return (a <=> b) == 0; }
    friend std::strong_ordering operator<=>(const PeerName& a, const PeerName& b)
    {
        int order = std::memcmp(&a, &b, sizeof(PeerName));
        return order <=> 0;
    }
};

class PeerChannel {
public:
    // Where an answer goes.
    struct Asker {
        uint64_t connection = 0;
        uint32_t id = 0;
        PeerMessage kind{};
    };

    class Handler {
    public:
        // To be answered by answer(), now or later.
        virtual void peer_asks(const PeerName& from, const Asker& asker,
                               std::span<const uint8_t> body) = 0;
        // The answer to what ask() has returned; nothing: the peer cannot be reached,
        // or has gone.
        virtual void peer_answers(uint32_t id, std::optional<std::span<const uint8_t>> body) = 0;
        // Whether this device has to do with that one. Others may ask small questions and
        // hold little of its memory.
        virtual bool is_peer(const PeerName& from) const = 0;

    protected:
        ~Handler() = default;
    };

    using Log = std::function<void(int level, std::string_view message)>;

    // port: TCP's, 1 to 65535. Throws std::runtime_error.
    PeerChannel(Handler& handler, uint16_t port, Log log);
    ~PeerChannel();
    PeerChannel(const PeerChannel&) = delete;
    PeerChannel& operator=(const PeerChannel&) = delete;

    // Polls readable when handle() has something to do.
    int fd() const { return _epoll; }
    // Calls the handler.
    void handle();

    // Takes connections to this GID's address, or no more. A GID that is no address of
    // global scope has no peers.
    void listen(const ibv_gid& gid);
    void ignore(const ibv_gid& gid);
    // Gives up all connections and addresses. Questions are not answered.
    void close();

    // The outcome comes out of a later handle().
    uint32_t ask(const PeerName& peer, PeerMessage kind, std::span<const uint8_t> body);
    void answer(const Asker& asker, std::span<const uint8_t> body);

private:
    struct Connection;
    struct Listener;

    Connection* connect(const PeerName& peer);
    void accept(Listener& listener);
    void drop_oldest_stranger();
    void drop_idle(size_t most);
    void count(Connection& connection);
    void work(Connection& connection, uint32_t events);
    bool is_trusted(Connection& connection) const;
    void receive(Connection& connection);
    bool take_frame(Connection& connection, const PeerFrame& frame);
    void send(Connection& connection, uint16_t kind, uint32_t id, std::span<const uint8_t> body);
    void flush(Connection& connection);
    void watch(Connection& connection, uint32_t events);
    void fail(Connection& connection);
    void bury();

    Handler& _handler;
    const uint16_t _port;
    Log _log;
    int _epoll = -1;
    int _kick = -1; // an eventfd: there are connections to bury
    SpareDescriptor _spare;
    uint64_t _turn = 1; // handle()'s
    uint64_t _next_connection = 1;
    uint32_t _next_id = 1;
    std::map<uint64_t, std::unique_ptr<Connection>> _connections;
    size_t _held = 0; // bytes, by all of them
    std::map<uint64_t, std::unique_ptr<Listener>> _listeners;
    std::map<PeerName, uint64_t> _outgoing;
    std::vector<uint32_t> _refused; // questions that no connection took
};

} // namespace rdma::verbs
