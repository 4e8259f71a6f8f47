// SPDX-License-Identifier: GPL-2.0-or-later
#include "mux_port.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "gid.h"
#include "interface_address.h"
#include "mux_protocol.h"
#include "rdma_host.h"

namespace rdma::verbs {

namespace {

// Packets taken before the thread is given back where none is a datagram.
constexpr unsigned max_packets = 64;

} // namespace

bool OwnAddress::operator==(const OwnAddress& other) const
{
    return slot == other.slot && gid_index == other.gid_index && shared == other.shared &&
           same_gid(host_gid, other.host_gid) && same_gid(guest_gid, other.guest_gid);
}

MuxPort::MuxPort(std::string path, std::string device, uint8_t port, Log log,
                 std::chrono::milliseconds retry)
    : _path(std::move(path)), _device(std::move(device)), _port(port), _log(std::move(log)),
      _retry(retry), _epoll(epoll_create1(EPOLL_CLOEXEC)),
      _timer(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC))
{
    epoll_event event{};
    event.events = EPOLLIN;
    if (_epoll < 0 || _timer < 0 || epoll_ctl(_epoll, EPOLL_CTL_ADD, _timer, &event) != 0) {
        int error = errno;
        close(_epoll);
        close(_timer);
        throw std::runtime_error(fmt::format("no event descriptors: {}", strerror(error)));
    }
    connect();
}

MuxPort::~MuxPort()
{
    if (_socket >= 0) {
        close(_socket);
    }
    close(_timer);
    close(_epoll);
}

// A Unix socket's connect() is done at once or not at all.
void MuxPort::connect()
{
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (_path.size() >= sizeof(address.sun_path)) {
        disconnect("the socket's name is too long");
        return;
    }
    std::ranges::copy(_path, address.sun_path);
    _socket = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    epoll_event event{};
    event.events = EPOLLIN;
    if (_socket < 0 ||
        ::connect(_socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        epoll_ctl(_epoll, EPOLL_CTL_ADD, _socket, &event) != 0) {
        disconnect(errno == EAGAIN ? "it does not answer" : strerror(errno));
        return;
    }
    mux::Hello hello;
    _device.copy(hello.device.data(), hello.device.size() - 1);
    hello.port = _port;
    for (auto& [slot, entry] : _addresses) {
        entry.offered = false;
    }
    if (write(hello)) {
        set_timer();
    }
}

// Told once until it is back, and again where the daemon has another reason.
void MuxPort::tell_gone(const std::string& why, bool refused)
{
    if (_told == Told::gone && (!refused || _why == why)) {
        return;
    }
    _told = Told::gone;
    _why = why;
    _log(
        RDMA_LOG_WARNING,
        fmt::format("the guest has no RDMA CM until rdmacm-mux serves it at '{}': {}", _path, why));
}

void MuxPort::disconnect(const std::string& why, bool refused)
{
    if (_socket >= 0) {
        close(_socket);
        _socket = -1;
    }
    _welcome = false;
    tell_gone(why, refused);
    set_timer();
}

void MuxPort::set_timer()
{
    itimerspec spec{};
    auto seconds = std::chrono::floor<std::chrono::seconds>(_retry);
    spec.it_value = {seconds.count(), std::chrono::nanoseconds(_retry - seconds).count()};
    timerfd_settime(_timer, 0, &spec, nullptr);
}

void MuxPort::take_timer()
{
    uint64_t expired;
    if (read(_timer, &expired, sizeof(expired)) != sizeof(expired)) {
        return;
    }
    if (_socket < 0) {
        connect();
    } else if (!_welcome) {
        tell_gone("it does not answer", false);
    } else {
        offer_addresses();
    }
}

bool MuxPort::write(const void* message, size_t size)
{
    if (_socket < 0) {
        return false;
    }
    if (::send(_socket, message, size, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
        return true;
    }
    if (errno != EAGAIN && errno != ENOBUFS) {
        disconnect(errno == EPIPE || errno == ECONNRESET ? "it has ended" : strerror(errno));
    }
    return false;
}

bool MuxPort::send(const Mad& mad)
{
    return _welcome && write(mux::to_datagram(mad));
}

void MuxPort::set_addresses(const std::vector<OwnAddress>& addresses)
{
    std::map<uint8_t, Address> next;
    for (const OwnAddress& address : addresses) {
        auto before = _addresses.find(address.slot);
        next[address.slot] = before != _addresses.end() && before->second.address == address
                                 ? before->second
                                 : Address{address};
    }
    // Where a packet finds no room, all is said again on a new connection.
    for (const auto& [slot, entry] : std::exchange(_addresses, next)) {
        if (_welcome && !next.contains(slot)) {
            mux::ClearAddress message;
            message.slot = slot;
            if (!write(message) && _socket >= 0) {
                disconnect("it does not answer");
            }
        }
    }
    offer_addresses();
}

// Those that the daemon does not have. What finds no room is offered again later.
void MuxPort::offer_addresses()
{
    if (!_welcome) {
        return;
    }
    for (auto& [slot, entry] : _addresses) {
        if (entry.offered) {
            continue;
        }
        mux::SetAddress message;
        message.slot = slot;
        message.gid_index = entry.address.gid_index;
        message.shared = entry.address.shared;
        std::ranges::copy(entry.address.host_gid.raw, message.host_gid.begin());
        std::ranges::copy(entry.address.guest_gid.raw, message.guest_gid.begin());
        entry.offered = write(message);
        if (!entry.offered) {
            set_timer();
            return;
        }
    }
}

void MuxPort::take_refused(uint8_t slot, int error)
{
    auto found = _addresses.find(slot);
    if (found == _addresses.end()) {
        return;
    }
    Address& entry = found->second;
    if (!std::exchange(entry.told, true)) {
        _log(RDMA_LOG_WARNING,
             fmt::format("rdmacm-mux does not let the guest have {} for RDMA CM: {}",
                         address_of(entry.address.guest_gid),
                         error == EADDRINUSE ? "another VM has it"
                         : error == EACCES   ? "its socket does not allow it"
                                             : strerror(error)));
    }
    entry.offered = false;
    set_timer();
}

// A packet of the daemon's. True: a datagram.
bool MuxPort::take(std::span<const std::byte> packet, Mad& mad)
{
    mux::Type type{};
    if (packet.size() >= sizeof(type)) {
        std::memcpy(&type, packet.data(), sizeof(type));
    }
    switch (type) {
    case mux::Type::datagram: {
        mux::Datagram datagram;
        if (mux::read_as(packet, datagram)) {
            mad = mux::to_mad(datagram);
            return true;
        }
        break;
    }
    case mux::Type::welcome: {
        mux::Welcome welcome;
        if (mux::read_as(packet, welcome) && welcome.version == mux::version) {
            _welcome = true;
            if (std::exchange(_told, Told::back) == Told::gone) {
                _log(RDMA_LOG_WARNING,
                     fmt::format("rdmacm-mux serves the guest's RDMA CM at '{}'", _path));
            }
            offer_addresses();
            return false;
        }
        break;
    }
    case mux::Type::refusal: {
        mux::Refusal refusal;
        if (mux::read_as(packet, refusal)) {
            refusal.reason.back() = 0;
            disconnect(refusal.reason.data(), true);
            return false;
        }
        break;
    }
    case mux::Type::address_refused: {
        mux::AddressRefused refused;
        if (mux::read_as(packet, refused)) {
            take_refused(refused.slot, static_cast<int>(refused.error));
            return false;
        }
        break;
    }
    default:
        break;
    }
    disconnect("it is of another version");
    return false;
}

bool MuxPort::receive(Mad& mad)
{
    take_timer();
    // One byte more than any packet has: a longer one is told from it.
    std::array<std::byte, mux::max_message + 1> packet;
    for (unsigned i = 0; _socket >= 0 && i < max_packets; ++i) {
        ssize_t size = recv(_socket, packet.data(), packet.size(), MSG_DONTWAIT);
        if (size < 0 && errno == ECONNRESET) {
            continue; // it has hung up; what it has said before comes next
        }
        if (size <= 0) {
            if (size == 0 || errno != EAGAIN) {
                disconnect("it has ended");
            }
            return false;
        }
        if (take({packet.data(), static_cast<size_t>(size)}, mad)) {
            return true;
        }
    }
    return false;
}

} // namespace rdma::verbs
