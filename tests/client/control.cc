// SPDX-License-Identifier: GPL-2.0-or-later
#include "control.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace verify {

namespace {

[[noreturn]] void fail(const char* what)
{
    throw std::system_error(errno, std::generic_category(), what);
}

int wait_for_client(uint16_t port)
{
    int listener = socket(AF_INET6, SOCK_STREAM, 0);
    int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(port);
    if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        listen(listener, 1) != 0) {
        fail("listen");
    }
    int client = accept(listener, nullptr, nullptr);
    if (client < 0) {
        fail("accept");
    }
    close(listener);
    return client;
}

int connect_to(const std::string& server, uint16_t port)
{
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(server.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
        throw std::runtime_error("no such host: " + server);
    }
    int result = socket(found->ai_family, SOCK_STREAM, 0);
    if (connect(result, found->ai_addr, found->ai_addrlen) != 0) {
        fail("connect");
    }
    freeaddrinfo(found);
    return result;
}

} // namespace

Control::Control(const std::string& server, uint16_t port)
    : _socket(server.empty() ? wait_for_client(port) : connect_to(server, port))
{
    int on = 1;
    setsockopt(_socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

Control::~Control()
{
    close(_socket);
}

void Control::write(std::span<const std::byte> data)
{
    while (!data.empty()) {
        ssize_t n = ::send(_socket, data.data(), data.size(), MSG_NOSIGNAL);
        if (n <= 0) {
            fail("the peer is gone");
        }
        data = data.subspan(static_cast<size_t>(n));
    }
}

void Control::read(std::span<std::byte> data)
{
    while (!data.empty()) {
        ssize_t n = recv(_socket, data.data(), data.size(), 0);
        if (n == 0) {
            throw std::runtime_error("the peer has given up");
        }
        if (n < 0) {
            fail("recv");
        }
        data = data.subspan(static_cast<size_t>(n));
    }
}

bool Control::readable() const
{
    pollfd query{_socket, POLLIN, 0};
    return poll(&query, 1, 0) > 0;
}

} // namespace verify
