// SPDX-License-Identifier: GPL-2.0-or-later
//
// Runners of the verbs backend. Built without libibverbs (no_verbs_runner.cc),
// open_host_port() says so.
#pragma once

#include <memory>

#include "runner.h"

namespace rdma {

namespace verbs {
class HostPort;
}

// Throws std::runtime_error with what is wrong, for whoever gave the properties.
std::shared_ptr<verbs::HostPort> open_host_port(const RdmaHostPortConfig& config);
const ibv_device_attr& host_attributes(const verbs::HostPort& port);
// limits: no higher than the host's.
std::unique_ptr<Runner> make_verbs_runner(std::shared_ptr<verbs::HostPort> port,
                                          const Limits& limits, GuestMemory& memory,
                                          Statistics& stats, DeviceHost& host);

} // namespace rdma
