// SPDX-License-Identifier: GPL-2.0-or-later
#include "server.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include <fmt/format.h>

namespace rdma::mux {

using namespace verbs::mux;
using verbs::Mad;

namespace {

// What is done for one before it is another's turn.
constexpr int events_per_turn = 64;
constexpr unsigned packets_per_turn = 32;
constexpr unsigned accepted_per_turn = 16;

// What a descriptor is, and whose.
constexpr uint64_t listener_tag = 0;
constexpr uint64_t client_tag = uint64_t{1} << 32;
constexpr uint64_t port_tag = uint64_t{2} << 32;

// A name as the kernel has them; no path.
bool is_device_name(std::string_view name)
{
    return !name.empty() && std::ranges::all_of(name, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_' || c == '-';
    });
}

ibv_gid to_gid(const Gid& bytes)
{
    ibv_gid gid;
    std::ranges::copy(bytes, gid.raw);
    return gid;
}

template <typename T>
ssize_t send_packet(int fd, const T& message)
{
    return ::send(fd, &message, sizeof(message), MSG_DONTWAIT | MSG_NOSIGNAL);
}

} // namespace

Server::Server(std::vector<Listener> listeners, OpenPort open, Log log, size_t max_per_process)
    : _listeners(std::move(listeners)), _open(std::move(open)), _log(std::move(log)),
      _max_per_process(max_per_process), _epoll(epoll_create1(EPOLL_CLOEXEC))
{
    if (_epoll < 0) {
        throw std::runtime_error(fmt::format("no event descriptors: {}", strerror(errno)));
    }
    for (uint64_t i = 0; i < _listeners.size(); ++i) {
        watch(_listeners[i].fd, listener_tag | i);
        if (_listeners[i].allowed.empty()) {
            _log(
                fmt::format("the socket '{}' has no list of addresses: whoever may open it may use "
                            "every address of the ports, also another VM's",
                            _listeners[i].path));
        }
    }
}

Server::~Server()
{
    for (auto& [id, client] : _clients) {
        close(client.fd);
    }
    close(_epoll);
}

void Server::watch(int fd, uint64_t what)
{
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = what;
    epoll_ctl(_epoll, EPOLL_CTL_ADD, fd, &event);
}

void Server::run(int timeout_ms)
{
    std::array<epoll_event, events_per_turn> events;
    int count = epoll_wait(_epoll, events.data(), events_per_turn, timeout_ms);
    for (int i = 0; i < count; ++i) {
        uint64_t what = events[static_cast<size_t>(i)].data.u64;
        auto id = static_cast<uint32_t>(what);
        switch (what - id) {
        case client_tag:
            read_client(id);
            break;
        case port_tag:
            read_port(id);
            break;
        default:
            accept_clients(_listeners[id]);
        }
    }
}

void Server::accept_clients(const Listener& listener)
{
    for (unsigned i = 0; i < accepted_per_turn; ++i) {
        int fd = accept4(listener.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if ((errno == EMFILE || errno == ENFILE) &&
                !make_room(_clients.size(), [](const Client&) { return true; })) {
                _spare.refuse(listener.fd,
                              [this](int client) { refuse(client, "it has no descriptors left"); });
            }
            return;
        }
        accept_client(fd, listener);
    }
}

void Server::accept_client(int fd, const Listener& listener)
{
    ucred peer{};
    socklen_t size = sizeof(peer);
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    auto is_any = [](const Client&) { return true; };
    auto is_its = [&](const Client& client) {
        return client.process == peer.pid &&
               (peer.pid != 0 || (client.user == peer.uid && client.listener == &listener));
    };
    std::string reason;
    if (!make_room(max_clients, is_any)) {
        reason = fmt::format("it serves {} devices already", max_clients);
    } else if (!make_room(_max_per_process, is_its)) {
        reason = fmt::format("it serves {} devices of process {} already", _max_per_process,
                             peer.pid);
    }
    if (!reason.empty()) {
        refuse(fd, reason);
        close(fd);
        return;
    }
    while (_clients.contains(_next_client)) {
        ++_next_client;
    }
    ClientId id = _next_client++;
    Client& client = _clients[id];
    client.fd = fd;
    client.listener = &listener;
    client.process = peer.pid;
    client.user = peer.uid;
    watch(fd, client_tag | id);
}

// Of those that are counted there are at most limit - 1 afterwards: the one that has said
// nothing for longest is hung up on. False: all of them have.
bool Server::make_room(size_t limit, const std::function<bool(const Client&)>& is_counted)
{
    auto is_silent = [&](const auto& entry) { return is_counted(entry.second) && !entry.second.port; };
    auto count = std::ranges::count_if(
        _clients, [&](const auto& entry) { return is_counted(entry.second); });
    if (static_cast<size_t>(count) < limit) {
        return true;
    }
    auto silent = std::ranges::find_if(_clients, is_silent);
    if (silent == _clients.end()) {
        return false;
    }
    hang_up(silent->first);
    return true;
}

void Server::refuse(int fd, const std::string& reason)
{
    Refusal refusal;
    reason.copy(refusal.reason.data(), refusal.reason.size() - 1);
    send_packet(fd, refusal);
}

void Server::hang_up(ClientId id)
{
    auto found = _clients.find(id);
    if (found == _clients.end()) {
        return;
    }
    Client client = found->second;
    _clients.erase(found);
    close(client.fd);
    if (client.port) {
        client.port->router.remove(id);
        client.port->port->forget(id);
        if (--client.port->clients == 0 && !client.port->kept) {
            _ports.erase(client.name);
        }
    }
}

void Server::read_client(ClientId id)
{
    // One byte more than any packet has: a longer one is told from it.
    std::array<std::byte, max_message + 1> packet;
    for (unsigned i = 0; i < packets_per_turn; ++i) {
        auto client = _clients.find(id);
        if (client == _clients.end()) {
            return;
        }
        ssize_t size = recv(client->second.fd, packet.data(), packet.size(), MSG_DONTWAIT);
        if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (size <= 0) {
            hang_up(id);
            return;
        }
        if (!take(id, client->second, {packet.data(), static_cast<size_t>(size)})) {
            ++_counters.bad_clients;
            hang_up(id);
            return;
        }
    }
}

// False: it is to be hung up on.
bool Server::take(ClientId id, Client& client, std::span<const std::byte> packet)
{
    Type type{};
    if (packet.size() < sizeof(type)) {
        return false;
    }
    std::memcpy(&type, packet.data(), sizeof(type));
    if (!client.port) {
        Hello hello;
        return type == Type::hello && read_as(packet, hello) && take_hello(client, hello);
    }
    switch (type) {
    case Type::set_address: {
        SetAddress message;
        return read_as(packet, message) && take_address(id, client, message);
    }
    case Type::clear_address: {
        ClearAddress message;
        if (!read_as(packet, message)) {
            return false;
        }
        client.port->router.clear_address(id, message.slot);
        return true;
    }
    case Type::datagram: {
        Datagram message;
        if (!read_as(packet, message)) {
            return false;
        }
        take_datagram(id, client, message);
        return true;
    }
    default:
        return false;
    }
}

bool Server::take_hello(Client& client, const Hello& hello)
{
    std::string_view device(hello.device.data(), strnlen(hello.device.data(), hello.device.size()));
    if (hello.magic != magic) {
        return false;
    }
    std::string reason;
    if (hello.version != version) {
        reason =
            fmt::format("it speaks version {} of their protocol, not {}", version, hello.version);
    } else if (!is_device_name(device) || device.size() == hello.device.size() || hello.port < 1 ||
               hello.port > UINT8_MAX) {
        reason = "there is no such port";
    } else {
        try {
            PortName name(device, static_cast<uint8_t>(hello.port));
            Port& port = open(name);
            // The port is the client's now: it goes with the client, also with one that
            // has gone already.
            ++port.clients;
            client.port = &port;
            client.name = name;
            return send_packet(client.fd, Welcome{}) >= 0;
        } catch (const std::runtime_error& error) {
            reason = error.what();
        }
    }
    _log(fmt::format("a device is refused: {}", reason));
    refuse(client.fd, reason);
    return false;
}

// A GID that devices share is in no list, or its clients' own: it is the host's. What a
// list says is of those at its socket.
bool Server::is_allowed(const Listener& listener, const verbs::OwnAddress& address) const
{
    const verbs::AddressPrefixes& allowed = listener.allowed;
    if (allowed.empty() || !address.shared) {
        return allowed.empty() || allowed.contains(address.host_gid);
    }
    return allowed.contains(address.guest_gid) &&
           (allowed.contains(address.host_gid) ||
            std::ranges::none_of(_listeners, [&](const Listener& other) {
                return other.allowed.contains(address.host_gid);
            }));
}

bool Server::take_address(ClientId id, Client& client, const SetAddress& message)
{
    verbs::OwnAddress address{message.slot, message.gid_index, message.shared != 0,
                              to_gid(message.host_gid), to_gid(message.guest_gid)};
    int error = EADDRNOTAVAIL;
    client.port->router.clear_address(id, message.slot);
    if (!is_allowed(*client.listener, address)) {
        error = EACCES;
    } else if (client.port->port->has_gid(address.gid_index, address.host_gid)) {
        error = client.port->router.set_address(id, address);
    }
    if (error == 0) {
        return true;
    }
    AddressRefused refused;
    refused.slot = message.slot;
    refused.error = static_cast<uint32_t>(error);
    return send_packet(client.fd, refused) >= 0;
}

void Server::take_datagram(ClientId id, Client& client, const Datagram& message)
{
    Mad mad = to_mad(message);
    switch (client.port->router.check_send(id, mad)) {
    case 0:
        ++(client.port->port->send(mad, id) ? _counters.sent : _counters.port_full);
        break;
    case EACCES:
        ++_counters.foreign_gid;
        break;
    case EADDRINUSE:
        ++_counters.foreign_id;
        break;
    default:
        ++_counters.bad_message;
    }
}

Server::Port& Server::open(const PortName& name)
{
    if (auto found = _ports.find(name); found != _ports.end()) {
        return found->second;
    }
    if (_ports.size() >= max_ports) {
        throw std::runtime_error(fmt::format("it serves {} ports already", max_ports));
    }
    auto opened = _open(name.first, name.second);
    Port& port = _ports[name];
    port.port = std::move(opened);
    port.id = _next_port++;
    port.kept = _kept.contains(name);
    watch(port.port->fd(), port_tag | port.id);
    return port;
}

void Server::keep(const std::string& device, uint8_t port)
{
    PortName name(device, port);
    _kept.insert(name);
    try {
        open(name);
    } catch (const std::runtime_error& error) {
        _log(fmt::format("{}; it is tried again when a device asks for it", error.what()));
    }
}

void Server::read_port(uint32_t id)
{
    auto found =
        std::ranges::find_if(_ports, [id](const auto& entry) { return entry.second.id == id; });
    if (found == _ports.end()) {
        return;
    }
    Port& port = found->second;
    Mad mad;
    for (unsigned i = 0; i < packets_per_turn && port.port->receive(mad); ++i) {
        deliver(port, mad);
    }
    if (port.port->is_gone()) {
        _log(fmt::format("port {} of RDMA device '{}' is gone", found->first.second,
                         found->first.first));
        close_port(id);
    }
}

// Its clients come back, and are told why it cannot be opened or find it anew.
void Server::close_port(uint32_t id)
{
    auto found =
        std::ranges::find_if(_ports, [id](const auto& entry) { return entry.second.id == id; });
    found->second.kept = true; // until all of them are gone
    PortName name = found->first;
    for (auto client = _clients.begin(); client != _clients.end();) {
        ClientId of = client->first;
        bool is_its = client->second.port == &found->second;
        ++client;
        if (is_its) {
            hang_up(of);
        }
    }
    _ports.erase(name);
}

void Server::deliver(Port& port, const Mad& mad)
{
    auto client = port.router.route(mad);
    if (!client) {
        switch (client.error()) {
        case Router::Drop::no_message:
            ++_counters.unknown;
            break;
        case Router::Drop::no_client:
            ++_counters.no_client;
            break;
        case Router::Drop::ambiguous:
            ++_counters.ambiguous;
            break;
        }
        return;
    }
    bool taken = send_packet(_clients.at(*client).fd, to_datagram(mad)) >= 0;
    ++(taken ? _counters.delivered : _counters.client_full);
}

} // namespace rdma::mux
