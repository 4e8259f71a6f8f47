// SPDX-License-Identifier: GPL-2.0-or-later
//
// Sockets that clients connect to.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "address_prefixes.h"

namespace rdma::mux {

// A listening Unix socket for packets, which is closed with the object.
struct Listener {
    Listener() = default;
    Listener(Listener&& other) noexcept
        : fd(std::exchange(other.fd, -1)), lock(std::exchange(other.lock, -1)),
          path(std::move(other.path)), allowed(std::move(other.allowed))
    {}
    Listener& operator=(Listener&&) = delete;
    ~Listener();

    int fd = -1;
    // The file PATH.lock, locked, of a socket that this process has made; otherwise negative.
    int lock = -1;
    std::string path;
    // Addresses that its clients may have. Empty: every one of the port's.
    verbs::AddressPrefixes allowed;
};

// Those that systemd has made and passes to us (sd_listen_fds(3)); empty: it has not.
// Throws std::runtime_error where one is none for packets.
std::vector<Listener> inherited_listeners();

// Makes one at a path, where no other daemon listens; a socket that another has left
// there is replaced. Throws std::runtime_error, also where there is anything else.
Listener make_listener(const std::string& path);

} // namespace rdma::mux
