// SPDX-License-Identifier: GPL-2.0-or-later
#include "listener.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
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

// Of two daemons that begin at once, one alone has the path.
void take_lock(Listener& listener)
{
    std::string name = listener.path + ".lock";
    listener.lock = open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (listener.lock < 0) {
        throw std::runtime_error(fmt::format("cannot open '{}': {}", name, strerror(errno)));
    }
    if (flock(listener.lock, LOCK_EX | LOCK_NB) != 0) {
        throw std::runtime_error(fmt::format("another one has locked '{}'", name));
    }
}

// Nothing but a socket is ever removed.
void remove_old_socket(const std::string& path)
{
    struct stat status {};
    if (lstat(path.c_str(), &status) != 0) {
        return;
    }
    if (!S_ISSOCK(status.st_mode)) {
        throw std::runtime_error(fmt::format("'{}' is there and is no socket", path));
    }
    unlink(path.c_str());
}

std::string path_of(int fd)
{
    sockaddr_un address{};
    socklen_t size = sizeof(address);
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
        return {};
    }
    return {address.sun_path, strnlen(address.sun_path, sizeof(address.sun_path))};
}

} // namespace

Listener::~Listener()
{
    if (fd >= 0) {
        // Not where another has bound a socket of its own there first.
        if (lock >= 0 && path_of(fd) == path) {
            unlink(path.c_str());
        }
        close(fd);
    }
    if (lock >= 0) {
        close(lock); // its file stays: another may be about to lock it
    }
}

std::vector<Listener> inherited_listeners()
{
    const char* pid = getenv("LISTEN_PID");
    const char* count = getenv("LISTEN_FDS");
    std::vector<Listener> listeners;
    if (!pid || !count || pid != std::to_string(getpid())) {
        return listeners;
    }
    for (int fd = first_inherited; fd < first_inherited + atoi(count); ++fd) {
        int type = 0;
        socklen_t size = sizeof(type);
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_SEQPACKET) {
            throw std::runtime_error("what was passed to it is no socket for packets "
                                     "(ListenSequentialPacket= in the .socket unit)");
        }
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        Listener& listener = listeners.emplace_back();
        listener.fd = fd;
        listener.path = path_of(fd);
    }
    return listeners;
}

Listener make_listener(const std::string& path)
{
    sockaddr_un address = address_of(path);
    Listener listener;
    listener.path = path;
    take_lock(listener);
    if (is_served(address)) {
        throw std::runtime_error(fmt::format("another one listens at '{}'", path));
    }
    remove_old_socket(path);
    listener.fd = new_socket();
    if (bind(listener.fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        listen(listener.fd, backlog) != 0) {
        throw std::runtime_error(fmt::format("cannot listen at '{}': {}", path, strerror(errno)));
    }
    return listener;
}

} // namespace rdma::mux
