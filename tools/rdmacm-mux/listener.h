// SPDX-License-Identifier: GPL-2.0-or-later
//
// The socket that clients connect to.
#pragma once

#include <optional>
#include <string>

namespace rdma::mux {

// The one that systemd has made and passes to us (sd_listen_fds(3)); nothing: it has
// not. Throws std::runtime_error where it is none for packets.
std::optional<int> inherited_listener();

// Makes one at a path, where no other daemon listens; what another has left there is
// replaced. Throws std::runtime_error.
int make_listener(const std::string& path);

} // namespace rdma::mux
