// SPDX-License-Identifier: GPL-2.0-or-later
//
// The daemon's one thread: clients at a Unix socket, ports of the host behind them.
// Nothing in it waits but run(). A client that does not read loses datagrams; one that
// breaks the protocol (mux_protocol.h) is hung up on. All there is of anything is
// bounded.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "listener.h"
#include "mux_protocol.h"
#include "router.h"
#include "spare_descriptor.h"

namespace rdma::mux {

// A port of the host that messages go out and come in at.
class SharedPort {
public:
    virtual ~SharedPort() = default;

    // Polls readable when receive() has something.
    virtual int fd() const = 0;
    // Never waits. False: there is no room for more of that client's.
    virtual bool send(const verbs::Mad& mad, ClientId client) = 0;
    virtual bool receive(verbs::Mad& mad) = 0;
    // The client has gone.
    virtual void forget(ClientId client) = 0;
    // It is of no use any more.
    virtual bool is_gone() const = 0;
    virtual bool has_gid(uint8_t index, const ibv_gid& gid) const = 0;
};

struct Counters {
    uint64_t sent = 0;      // messages of clients, given to the port
    uint64_t delivered = 0; // messages given to clients
    // Messages dropped: of clients,
    uint64_t bad_message = 0; // no message of connection management
    uint64_t foreign_gid = 0; // from a GID that is not the client's
    uint64_t foreign_id = 0;  // with a communication id of another's
    uint64_t port_full = 0;   // too many wait to be sent
    // and that have come.
    uint64_t unknown = 0;     // no message of connection management
    uint64_t no_client = 0;   // for a GID that no client has
    uint64_t ambiguous = 0;   // for a GID that several have, and none by what it says
    uint64_t client_full = 0; // the client does not read
    // Clients hung up on for what they sent, or because their port cannot be had.
    uint64_t bad_clients = 0;
};

class Server {
public:
    // Throws std::runtime_error with the reason, which the client is told.
    using OpenPort =
        std::function<std::unique_ptr<SharedPort>(const std::string& device, uint8_t port)>;
    using Log = std::function<void(std::string_view line)>;

    static constexpr size_t max_clients = 128;
    static constexpr size_t max_ports = 32;
    // Of one process, that is of one VM: its devices' connections. Processes of another PID
    // namespace have no number here: those of one user at one socket count as one.
    static constexpr size_t default_max_per_process = 16;

    // Throws std::runtime_error where there are no descriptors.
    Server(std::vector<Listener> listeners, OpenPort open, Log log,
           size_t max_per_process = default_max_per_process);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    // Opens a port that stays open without clients; where that fails, once one asks.
    void keep(const std::string& device, uint8_t port);
    // Waits for something to do, at most so long (-1: for ever), and does it.
    void run(int timeout_ms);
    // Polls readable when run() has something to do.
    int fd() const { return _epoll; }
    const Counters& counters() const { return _counters; }
    size_t num_clients() const { return _clients.size(); }
    size_t num_ports() const { return _ports.size(); }

private:
    using PortName = std::pair<std::string, uint8_t>;
    struct Port {
        std::unique_ptr<SharedPort> port;
        Router router;
        uint32_t id;
        size_t clients = 0;
        bool kept = false;
    };
    struct Client {
        int fd = -1;
        const Listener* listener = nullptr;
        pid_t process = 0;    // that has connected, as the kernel says; 0: of another PID namespace
        uid_t user = 0;       // its user
        Port* port = nullptr; // after its Hello
        PortName name;
    };

    void watch(int fd, uint64_t what);
    void accept_clients(const Listener& listener);
    void accept_client(int fd, const Listener& listener);
    bool make_room(size_t limit, const std::function<bool(const Client&)>& is_counted);
    void read_client(ClientId id);
    bool take(ClientId id, Client& client, std::span<const std::byte> packet);
    bool take_hello(Client& client, const verbs::mux::Hello& hello);
    bool is_allowed(const Listener& listener, const verbs::OwnAddress& address) const;
    bool take_address(ClientId id, Client& client, const verbs::mux::SetAddress& message);
    void take_datagram(ClientId id, Client& client, const verbs::mux::Datagram& message);
    void refuse(int fd, const std::string& reason);
    void hang_up(ClientId id);
    Port& open(const PortName& name);
    void read_port(uint32_t id);
    void close_port(uint32_t id);
    void deliver(Port& port, const verbs::Mad& mad);

    const std::vector<Listener> _listeners;
    OpenPort _open;
    Log _log;
    const size_t _max_per_process;
    int _epoll;
    verbs::SpareDescriptor _spare;
    ClientId _next_client = 0;
    uint32_t _next_port = 0;
    std::map<ClientId, Client> _clients;
    std::map<PortName, Port> _ports;
    std::set<PortName> _kept;
    Counters _counters;
};

} // namespace rdma::mux
