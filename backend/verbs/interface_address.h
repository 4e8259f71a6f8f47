// SPDX-License-Identifier: GPL-2.0-or-later
//
// Addresses of a network interface of the host, set by rtnetlink: what the host's
// kernel makes GIDs of.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <string>

namespace rdma::verbs {

// The IP address that a GID stands for: "10.0.0.1" or "fe80::1".
std::string address_of(const ibv_gid& gid);
// The interface's name, or "interface N" where it has none.
std::string interface_name(uint32_t interface);

// Whether an interface has the address of a GID, with whatever prefix. False, too, where the
// kernel does not tell.
bool has_address(const ibv_gid& gid);
// Adds the address of a GID, as one host (/32, /128), or removes it. 0 or a
// positive errno value: EEXIST (it is there), EPERM (not permitted), ENODEV (no
// such interface), EADDRNOTAVAIL (it is not there).
int add_interface_address(uint32_t interface, const ibv_gid& gid);
int remove_interface_address(uint32_t interface, const ibv_gid& gid);

} // namespace rdma::verbs
