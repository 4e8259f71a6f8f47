// SPDX-License-Identifier: GPL-2.0-or-later
//
// A descriptor to give up where accept() finds none: a connection that nobody takes would
// wait, and its listener poll readable, for ever.
#pragma once

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace rdma::verbs {

class SpareDescriptor {
public:
    SpareDescriptor() : _fd(eventfd(0, EFD_CLOEXEC))
    {
        if (_fd < 0) {
            throw std::runtime_error(fmt::format("no event descriptors: {}", strerror(errno)));
        }
    }
    ~SpareDescriptor() { close(_fd); }
    SpareDescriptor(const SpareDescriptor&) = delete;
    SpareDescriptor& operator=(const SpareDescriptor&) = delete;

    // After EMFILE or ENFILE: takes the connection that waits at the listener, does say(fd)
    // and ends it.
    template <typename Fn>
    void refuse(int listener, Fn&& say)
    {
        close(_fd);
        int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            say(fd);
            close(fd);
        }
        _fd = eventfd(0, EFD_CLOEXEC);
    }

private:
    int _fd;
};

} // namespace rdma::verbs
