// SPDX-License-Identifier: GPL-2.0-or-later
#include "frame_switch.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <stdexcept>
#include <system_error>

namespace frame_switch {

namespace {

constexpr size_t max_frame = 65536 + 64;
constexpr size_t ethernet_header = 14;
constexpr size_t max_learnt = 1024;
constexpr uint32_t max_captured = 96; // bytes of a frame
// Frames taken from a port before it is another's turn.
constexpr int batch = 32;
constexpr uint64_t max_delay_ns = 2'000'000;

sockaddr_un address_of(const std::string& path)
{
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) {
        throw std::runtime_error("path too long: " + path);
    }
    std::ranges::copy(path, address.sun_path);
    return address;
}

int datagram_socket()
{
    int result = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (result < 0) {
        throw std::system_error(errno, std::generic_category(), "socket");
    }
    return result;
}

int64_t now_ns()
{
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

Mac mac_at(const Frame& frame, size_t offset)
{
    Mac mac;
    std::copy_n(frame.begin() + static_cast<std::ptrdiff_t>(offset), mac.size(), mac.begin());
    return mac;
}

bool is_group(const Mac& mac)
{
    return mac[0] & 1;
}

// RoCEv1, or UDP to port 4791 over IPv4 or IPv6, behind a VLAN tag or not.
bool is_roce(const Frame& frame)
{
    auto word = [&](size_t at) {
        return at + 1 < frame.size() ? frame[at] << 8 | frame[at + 1] : 0;
    };
    size_t type = word(12) == 0x8100 ? 16 : 12;
    size_t ip = type + 2;
    switch (word(type)) {
    case 0x8915:
        return true;
    case 0x0800:
        return (word(ip + 8) & 0xff) == 17 && word(ip + 22) == 4791;
    case 0x86dd:
        return word(ip + 6) >> 8 == 17 && word(ip + 42) == 4791;
    default:
        return false;
    }
}

} // namespace

Port::Port(const std::string& own, std::string peer) : _input(datagram_socket()), _peer(std::move(peer))
{
    unlink(own.c_str());
    sockaddr_un address = address_of(own);
    if (bind(_input, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
        throw std::system_error(errno, std::generic_category(), own);
    }
}

Port::~Port()
{
    close(_input);
    unplug();
}

bool Port::receive(Frame& out)
{
    out.resize(max_frame);
    ssize_t size = recv(_input, out.data(), out.size(), 0);
    out.resize(size > 0 ? static_cast<size_t>(size) : 0);
    return size > 0;
}

// A socket of its own, because a connected one would hear this peer only, and
// not the next that binds the path.
bool Port::plug()
{
    if (_output < 0) {
        _output = datagram_socket();
        sockaddr_un address = address_of(_peer);
        if (connect(_output, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
            unplug();
        }
    }
    return _output >= 0;
}

void Port::unplug()
{
    if (_output >= 0) {
        close(_output);
        _output = -1;
    }
}

void Port::send(Frame frame, Counters& counters)
{
    if (_queue.size() >= max_queue) {
        ++counters.congested;
        return;
    }
    _queue.push_back(std::move(frame));
    flush(counters);
}

void Port::flush(Counters& counters)
{
    while (!_queue.empty()) {
        if (!plug()) {
            counters.unplugged += _queue.size();
            _queue.clear();
            return;
        }
        const Frame& frame = _queue.front();
        if (::send(_output, frame.data(), frame.size(), MSG_NOSIGNAL) < 0) {
            if (errno == EAGAIN || errno == ENOBUFS) {
                return;
            }
            unplug(); // the peer has gone; there may be a new one
            continue;
        }
        ++counters.sent;
        _queue.pop_front();
    }
}

bool Switch::happens(double chance)
{
    return chance > 0 && std::uniform_real_distribution<>(0, 1)(_random) < chance;
}

bool Switch::capture(const std::string& file)
{
    _capture.close();
    if (file.empty()) {
        return true;
    }
    constexpr uint32_t ethernet = 1; // LINKTYPE_ETHERNET
    constexpr std::array<uint32_t, 6> header{0xa1b2c3d4, 4 << 16 | 2, 0, 0, max_captured, ethernet};
    _capture.open(file, std::ios::binary);
    _capture.write(reinterpret_cast<const char*>(header.data()), sizeof(header));
    return _capture.good();
}

void Switch::record(const Frame& frame)
{
    using namespace std::chrono;
    auto time = system_clock::now().time_since_epoch() / microseconds(1);
    size_t size = std::min<size_t>(frame.size(), max_captured);
    std::array<uint32_t, 4> header{static_cast<uint32_t>(time / 1'000'000),
                                   static_cast<uint32_t>(time % 1'000'000),
                                   static_cast<uint32_t>(size), static_cast<uint32_t>(frame.size())};
    _capture.write(reinterpret_cast<const char*>(header.data()), sizeof(header));
    _capture.write(reinterpret_cast<const char*>(frame.data()), static_cast<std::streamsize>(size));
}

void Switch::forward(size_t from, Frame& frame)
{
    if (frame.size() < ethernet_header) {
        return;
    }
    if (_capture.is_open()) {
        record(frame);
    }
    Mac source = mac_at(frame, 6);
    if (!is_group(source) && (_learnt.contains(source) || _learnt.size() < max_learnt)) {
        _learnt[source] = from;
    }
    if (happens(_faults.lose)) {
        ++_counters.lost;
        return;
    }
    if (_faults.corrupt > 0 && is_roce(frame) && happens(_faults.corrupt)) {
        size_t bit = _random() % ((frame.size() - ethernet_header) * 8);
        uint8_t& byte = frame[ethernet_header + bit / 8];
        byte = static_cast<uint8_t>(byte ^ 1 << bit % 8);
        ++_counters.corrupted;
    }
    Mac destination = mac_at(frame, 0);
    auto known = _learnt.find(destination);
    for (size_t port = 0; port < _ports.size(); ++port) {
        bool wanted = is_group(destination) || known == _learnt.end() || known->second == port;
        if (port != from && wanted) {
            deliver(port, frame);
        }
    }
}

void Switch::deliver(size_t port, const Frame& frame)
{
    if (happens(_faults.repeat)) {
        ++_counters.repeated;
        _ports[port]->send(frame, _counters);
    }
    if (happens(_faults.reorder)) {
        ++_counters.reordered;
        auto delay = static_cast<int64_t>(_random() % max_delay_ns);
        _held.emplace(now_ns() + delay, Held{port, frame});
        return;
    }
    _ports[port]->send(frame, _counters);
}

int64_t Switch::release_held()
{
    while (!_held.empty()) {
        auto first = _held.begin();
        int64_t left = first->first - now_ns();
        if (left > 0) {
            return left;
        }
        _ports[first->second.port]->send(std::move(first->second.frame), _counters);
        _held.erase(first);
    }
    return -1;
}

void Switch::run_until_readable(int descriptor)
{
    std::vector<pollfd> waiting;
    Frame frame;
    for (;;) {
        int64_t left = release_held();
        waiting.assign(1, {descriptor, POLLIN, 0});
        for (const auto& port : _ports) {
            waiting.push_back({port->input(), POLLIN, 0});
            // A full peer: its socket tells when there is room again.
            waiting.push_back({port->waiting() ? port->output() : -1, POLLOUT, 0});
        }
        timespec timeout{0, static_cast<long>(std::min<int64_t>(left, 999'999'999))};
        if (ppoll(waiting.data(), waiting.size(), left < 0 ? nullptr : &timeout, nullptr) < 0) {
            if (errno == EINTR) {
                continue;
            }
            throw std::system_error(errno, std::generic_category(), "ppoll");
        }
        if (waiting[0].revents != 0) {
            return;
        }
        for (size_t i = 0; i < _ports.size(); ++i) {
            if (waiting[2 + 2 * i].revents != 0) {
                _ports[i]->flush(_counters);
            }
            for (int n = 0; n < batch && waiting[1 + 2 * i].revents != 0; ++n) {
                if (!_ports[i]->receive(frame)) {
                    break;
                }
                ++_counters.received;
                forward(i, frame);
            }
        }
    }
}

} // namespace frame_switch
