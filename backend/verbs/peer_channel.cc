// SPDX-License-Identifier: GPL-2.0-or-later
#include "peer_channel.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <set>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "gid.h"
#include "interface_address.h"
#include "rdma_host.h"

namespace rdma::verbs {

namespace {

// Of those that others have made.
constexpr size_t max_incoming = 4096;
constexpr size_t max_incoming_from_one = 8;
// Those among them of strangers: of more the oldest goes. QEMU's descriptors are few.
constexpr size_t max_strangers = 256;
// What a connection that is not read from may hold, and one by which nobody asks that this
// device has to do with.
constexpr size_t max_unsent = 16 << 20;
constexpr size_t max_unsent_to_stranger = 4096;
// The largest frame by such a connection: one that asks for a QP has 20 bytes.
constexpr size_t max_stranger_frame = 64;
// What all connections hold, bytes: of more the connection that holds most goes.
constexpr size_t max_held = 128 << 20;
// Connections that this device has made, and those among them that nothing waits for: of more
// the one that was asked by least recently goes. A later question makes a new one.
constexpr size_t max_outgoing = 4096;
constexpr size_t max_idle = 64;
// Questions to one peer that it has not answered. A QP has one, and a driver one QP at a time.
constexpr size_t max_unanswered = 1024;
// Until a peer that does not answer counts as gone, milliseconds and seconds.
constexpr int user_timeout = 2000;
constexpr int keepalive_idle = 2;

struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t size = 0;
    sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

// Nothing for addresses that mean something on one link alone.
std::optional<SocketAddress> address_of_gid(const ibv_gid& gid, uint16_t port)
{
    SocketAddress address;
    if (is_v4_mapped(gid)) {
        auto& in = reinterpret_cast<sockaddr_in&>(address.storage);
        in.sin_family = AF_INET;
        in.sin_port = htons(port);
        std::memcpy(&in.sin_addr, gid.raw + 12, 4);
        address.size = sizeof(in);
        return address;
    }
    auto& in6 = reinterpret_cast<sockaddr_in6&>(address.storage);
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(port);
    std::memcpy(&in6.sin6_addr, gid.raw, sizeof(gid.raw));
    address.size = sizeof(in6);
    if (IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr) || IN6_IS_ADDR_UNSPECIFIED(&in6.sin6_addr)) {
        return std::nullopt;
    }
    return address;
}

ibv_gid gid_of(const sockaddr_storage& storage)
{
    ibv_gid gid{};
    if (storage.ss_family == AF_INET) {
        gid.raw[10] = gid.raw[11] = 0xff;
        std::memcpy(gid.raw + 12, &reinterpret_cast<const sockaddr_in&>(storage).sin_addr, 4);
    } else {
        std::memcpy(gid.raw, &reinterpret_cast<const sockaddr_in6&>(storage).sin6_addr, 16);
    }
    return gid;
}

void set(int fd, int level, int option, int value)
{
    setsockopt(fd, level, option, &value, sizeof(value));
}

int make_socket(int family)
{
    return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

// A peer that has gone without a word is found out.
void expect_life(int fd)
{
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, user_timeout);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, keepalive_idle);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

} // namespace

struct PeerChannel::Connection {
    ~Connection() { ::close(fd); }

    uint64_t number = 0;
    int fd = -1;
    PeerName name;
    bool outgoing = false;
    bool stranger = false;  // it was, when it was looked at last
    uint64_t looked_at = 0; // the turn when it was
    bool failed = false;
    uint32_t events = 0;
    std::vector<uint8_t> in;
    std::vector<uint8_t> out;
    size_t sent = 0;            // of out
    size_t counted = 0;         // of _held
    std::set<uint32_t> waiting; // ids of questions
    uint32_t last_question = 0;
};

struct PeerChannel::Listener {
    ~Listener() { ::close(fd); }

    int fd = -1;
    ibv_gid gid{};
};

PeerChannel::PeerChannel(Handler& handler, uint16_t port, Log log)
    : _handler(handler), _port(port), _log(std::move(log)),
      _epoll(epoll_create1(EPOLL_CLOEXEC)), _kick(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC))
{
    epoll_event event{};
    event.events = EPOLLIN;
    if (_epoll < 0 || _kick < 0 || epoll_ctl(_epoll, EPOLL_CTL_ADD, _kick, &event) != 0) {
        throw std::runtime_error(fmt::format("no event descriptors: {}", strerror(errno)));
    }
}

PeerChannel::~PeerChannel()
{
    close();
    ::close(_epoll);
    ::close(_kick);
}

void PeerChannel::close()
{
    _connections.clear();
    _held = 0;
    _listeners.clear();
    _outgoing.clear();
    _refused.clear();
}

void PeerChannel::listen(const ibv_gid& gid)
{
    auto address = address_of_gid(gid, _port);
    if (!address) {
        return;
    }
    ignore(gid);
    auto listener = std::make_unique<Listener>();
    listener->gid = gid;
    listener->fd = make_socket(address->storage.ss_family);
    set(listener->fd, SOL_SOCKET, SO_REUSEADDR, 1);
    // The kernel may have the address only a while later.
    set(listener->fd, IPPROTO_IP, IP_FREEBIND, 1);
    if (address->storage.ss_family == AF_INET6) {
        set(listener->fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    }
    uint64_t number = _next_connection++;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = number;
    if (bind(listener->fd, address->get(), address->size) != 0 ||
        ::listen(listener->fd, SOMAXCONN) != 0 ||
        epoll_ctl(_epoll, EPOLL_CTL_ADD, listener->fd, &event) != 0) {
        _log(RDMA_LOG_WARNING,
             fmt::format("no other device can tell this one of its migration, nor the other way "
                         "round: cannot listen at {}, TCP port {}: {}",
                         address_of(gid), _port, strerror(errno)));
        return;
    }
    _listeners[number] = std::move(listener);
}

void PeerChannel::ignore(const ibv_gid& gid)
{
    std::erase_if(_listeners, [&](const auto& entry) {
        return std::memcmp(&entry.second->gid, &gid, sizeof(gid)) == 0;
    });
}

// Null: it cannot be tried.
PeerChannel::Connection* PeerChannel::connect(const PeerName& peer)
{
    auto own = address_of_gid(peer.own, 0);
    auto to = address_of_gid(peer.peer, _port);
    if (!own || !to || own->storage.ss_family != to->storage.ss_family) {
        return nullptr;
    }
    drop_idle(max_idle - 1);
    if (_outgoing.size() >= max_outgoing) {
        return nullptr;
    }
    auto connection = std::make_unique<Connection>();
    connection->number = _next_connection++;
    connection->name = peer;
    connection->outgoing = true;
    connection->fd = make_socket(to->storage.ss_family);
    expect_life(connection->fd);
    set(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    epoll_event event{};
    event.events = connection->events = EPOLLIN | EPOLLOUT;
    event.data.u64 = connection->number;
    // By the address that it is from the peer knows who asks.
    if (bind(connection->fd, own->get(), own->size) != 0 ||
        (::connect(connection->fd, to->get(), to->size) != 0 && errno != EINPROGRESS) ||
        epoll_ctl(_epoll, EPOLL_CTL_ADD, connection->fd, &event) != 0) {
        return nullptr;
    }
    Connection* raw = connection.get();
    _outgoing[peer] = raw->number;
    _connections[raw->number] = std::move(connection);
    return raw;
}

uint32_t PeerChannel::ask(const PeerName& peer, PeerMessage kind, std::span<const uint8_t> body)
{
    uint32_t id = _next_id++;
    auto known = _outgoing.find(peer);
    Connection* connection =
        known != _outgoing.end() ? _connections.at(known->second).get() : connect(peer);
    if (!connection) {
        _refused.push_back(id);
        eventfd_write(_kick, 1);
        return id;
    }
    if (connection->waiting.size() >= max_unanswered) {
        fail(*connection);
    }
    connection->waiting.insert(id);
    connection->last_question = id;
    send(*connection, static_cast<uint16_t>(kind), id, body);
    return id;
}

void PeerChannel::answer(const Asker& asker, std::span<const uint8_t> body)
{
    auto found = _connections.find(asker.connection);
    if (found != _connections.end() && !found->second->failed) {
        send(*found->second, static_cast<uint16_t>(asker.kind) | answer_bit, asker.id, body);
    }
}

// To find out takes a look at all QPs: once in a turn.
bool PeerChannel::is_trusted(Connection& connection) const
{
    if (connection.looked_at != _turn) {
        connection.looked_at = _turn;
        connection.stranger = !connection.outgoing && !_handler.is_peer(connection.name);
    }
    return !connection.stranger;
}

void PeerChannel::send(Connection& connection, uint16_t kind, uint32_t id,
                       std::span<const uint8_t> body)
{
    auto& out = connection.out;
    size_t unsent = out.size() - connection.sent + body.size();
    if (peer_header_size + body.size() > max_peer_frame || unsent > max_unsent ||
        (unsent > max_unsent_to_stranger && !is_trusted(connection))) {
        fail(connection);
        return;
    }
    append_frame(out, kind, id, body);
    watch(connection, EPOLLIN | EPOLLOUT);
    count(connection);
}

// Its buffers, among those of all.
void PeerChannel::count(Connection& connection)
{
    size_t now = connection.failed ? 0 : connection.in.capacity() + connection.out.capacity();
    _held = _held - connection.counted + now;
    connection.counted = now;
    if (_held > max_held) {
        fail(*std::ranges::max_element(_connections, {}, [](const auto& entry) {
                  return entry.second->counted;
              })->second);
    }
}

void PeerChannel::watch(Connection& connection, uint32_t events)
{
    if (connection.events != events && (!connection.failed || events == 0)) {
        epoll_event event{};
        event.events = connection.events = events;
        event.data.u64 = connection.number;
        epoll_ctl(_epoll, EPOLL_CTL_MOD, connection.fd, &event);
    }
}

// It is buried later: somebody may be at work on it.
void PeerChannel::fail(Connection& connection)
{
    connection.failed = true;
    watch(connection, 0);
    eventfd_write(_kick, 1);
    count(connection);
}

void PeerChannel::bury()
{
    for (uint32_t id : std::exchange(_refused, {})) {
        _handler.peer_answers(id, std::nullopt);
    }
    std::vector<std::unique_ptr<Connection>> dead;
    for (auto entry = _connections.begin(); entry != _connections.end();) {
        if (entry->second->failed) {
            dead.push_back(std::move(entry->second));
            entry = _connections.erase(entry);
        } else {
            ++entry;
        }
    }
    for (const auto& connection : dead) {
        auto outgoing = _outgoing.find(connection->name);
        if (outgoing != _outgoing.end() && outgoing->second == connection->number) {
            _outgoing.erase(outgoing);
        }
    }
    for (const auto& connection : dead) {
        for (uint32_t id : connection->waiting) {
            _handler.peer_answers(id, std::nullopt);
        }
    }
}

// Of the connections of this device's that nothing waits for, so many are kept.
void PeerChannel::drop_idle(size_t most)
{
    if (_outgoing.size() <= most) {
        return;
    }
    std::vector<Connection*> idle;
    for (const auto& [name, number] : _outgoing) {
        Connection& connection = *_connections.at(number);
        if (connection.waiting.empty() && !connection.failed) {
            idle.push_back(&connection);
        }
    }
    if (idle.size() <= most) {
        return;
    }
    std::ranges::sort(idle, {}, &Connection::last_question);
    for (Connection* oldest : std::span(idle).first(idle.size() - most)) {
        fail(*oldest);
        _outgoing.erase(oldest->name); // it is no failure of the next question
    }
}

void PeerChannel::drop_oldest_stranger()
{
    for (const auto& [number, connection] : _connections) {
        if (!connection->stranger || connection->failed) {
            continue;
        }
        if (!is_trusted(*connection)) {
            fail(*connection);
            return;
        }
    }
}

void PeerChannel::accept(Listener& listener)
{
    SocketAddress from;
    from.size = sizeof(from.storage);
    int fd = accept4(listener.fd, from.get(), &from.size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE) {
            _spare.refuse(listener.fd, [](int) {});
            drop_oldest_stranger();
        }
        return;
    }
    auto connection = std::make_unique<Connection>();
    connection->fd = fd;
    connection->name = {listener.gid, gid_of(from.storage)};
    size_t incoming = 0;
    size_t from_there = 0;
    size_t strangers = 0;
    for (const auto& [number, other] : _connections) {
        incoming += !other->outgoing;
        strangers += other->stranger && !other->failed;
        from_there += !other->outgoing && other->name == connection->name;
    }
    if (incoming >= max_incoming || from_there >= max_incoming_from_one) {
        return;
    }
    if (!is_trusted(*connection) && strangers >= max_strangers) {
        drop_oldest_stranger();
    }
    expect_life(fd);
    connection->number = _next_connection++;
    epoll_event event{};
    event.events = connection->events = EPOLLIN;
    event.data.u64 = connection->number;
    if (epoll_ctl(_epoll, EPOLL_CTL_ADD, fd, &event) == 0) {
        _connections[connection->number] = std::move(connection);
    }
}

void PeerChannel::flush(Connection& connection)
{
    auto& out = connection.out;
    while (connection.sent < out.size()) {
        ssize_t n = ::send(connection.fd, out.data() + connection.sent,
                           out.size() - connection.sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            // No more is moved than has been sent.
            if (connection.sent >= out.size() / 2) {
                out.erase(out.begin(), out.begin() + static_cast<ptrdiff_t>(connection.sent));
                connection.sent = 0;
            }
            return;
        }
        if (n <= 0) {
            fail(connection);
            return;
        }
        connection.sent += static_cast<size_t>(n);
    }
    out.clear();
    out.shrink_to_fit();
    connection.sent = 0;
    watch(connection, EPOLLIN);
    count(connection);
}

// False: nobody has asked for it.
bool PeerChannel::take_frame(Connection& connection, const PeerFrame& frame)
{
    if (frame.kind & answer_bit) {
        if (connection.waiting.erase(frame.id) == 0) {
            return false;
        }
        _handler.peer_answers(frame.id, frame.body);
        return true;
    }
    Asker asker{connection.number, frame.id, static_cast<PeerMessage>(frame.kind)};
    _handler.peer_asks(connection.name, asker, frame.body);
    return true;
}

void PeerChannel::receive(Connection& connection)
{
    std::array<uint8_t, 65536> piece;
    auto& in = connection.in;
    ssize_t n = recv(connection.fd, piece.data(), piece.size(), 0);
    in.insert(in.end(), piece.begin(), piece.begin() + std::max<ssize_t>(n, 0));
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        fail(connection);
        return;
    }
    size_t taken = 0;
    while (!connection.failed) {
        PeerFrame frame = first_frame(std::span(in).subspan(taken));
        if (frame.size > max_stranger_frame && !is_trusted(connection)) {
            fail(connection);
            return;
        }
        if (frame.state == PeerFrame::State::partial) {
            break;
        }
        if (frame.state == PeerFrame::State::wrong || !take_frame(connection, frame)) {
            fail(connection);
            return;
        }
        taken += frame.size;
    }
    in.erase(in.begin(), in.begin() + static_cast<ptrdiff_t>(taken));
    if (in.empty()) {
        in.shrink_to_fit();
    }
    count(connection);
}

void PeerChannel::work(Connection& connection, uint32_t events)
{
    if (!connection.failed && (events & (EPOLLIN | EPOLLERR | EPOLLHUP))) {
        receive(connection);
    }
    if (!connection.failed && (events & EPOLLOUT)) {
        flush(connection);
    }
}

void PeerChannel::handle()
{
    constexpr int max_events = 16;
    ++_turn;
    eventfd_t ignored;
    eventfd_read(_kick, &ignored);
    epoll_event events[max_events];
    int count = epoll_wait(_epoll, events, max_events, 0);
    for (int i = 0; i < count; ++i) {
        uint64_t number = events[i].data.u64;
        if (auto listener = _listeners.find(number); listener != _listeners.end()) {
            accept(*listener->second);
        } else if (auto found = _connections.find(number); found != _connections.end()) {
            work(*found->second, events[i].events);
        }
    }
    drop_idle(max_idle);
    bury();
}

} // namespace rdma::verbs
