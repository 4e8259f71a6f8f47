// SPDX-License-Identifier: GPL-2.0-or-later
#include "listener.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include <fmt/format.h>

namespace rdma::mux {

namespace {

constexpr int first_inherited = 3; // SD_LISTEN_FDS_START
constexpr int backlog = 64;

int new_socket()
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        throw std::runtime_error(fmt::format("no socket: {}", strerror(errno)));
    }
    return fd;
}

sockaddr_un address_of(const std::string& path)
{
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) {
        throw std::runtime_error(fmt::format("the socket's name '{}' is too long", path));
    }
    std::ranges::copy(path, address.sun_path);
    return address;
}

bool is_served(const sockaddr_un& address)
{
    int probe = new_socket();
    bool connected =
        connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ||
        errno == EAGAIN;
    close(probe);
    return connected;
}

} // namespace

std::optional<int> inherited_listener()
{
    const char* pid = getenv("LISTEN_PID");
    const char* count = getenv("LISTEN_FDS");
    if (!pid || !count || pid != std::to_string(getpid())) {
        return std::nullopt;
    }
    int type = 0;
    socklen_t size = sizeof(type);
    if (std::string(count) != "1" ||
        getsockopt(first_inherited, SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
        type != SOCK_SEQPACKET) {
        throw std::runtime_error("what was passed to it is not one socket for packets "
                                 "(ListenSequentialPacket= in the .socket unit)");
    }
    fcntl(first_inherited, F_SETFD, FD_CLOEXEC);
    fcntl(first_inherited, F_SETFL, fcntl(first_inherited, F_GETFL) | O_NONBLOCK);
    return first_inherited;
}

int make_listener(const std::string& path)
{
    sockaddr_un address = address_of(path);
    if (is_served(address)) {
        throw std::runtime_error(fmt::format("another one listens at '{}'", path));
    }
    unlink(path.c_str());
    int fd = new_socket();
    if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        listen(fd, backlog) != 0) {
        int error = errno;
        close(fd);
        throw std::runtime_error(fmt::format("cannot listen at '{}': {}", path, strerror(error)));
    }
    return fd;
}

} // namespace rdma::mux
