// SPDX-License-Identifier: GPL-2.0-or-later
//
// Ports of RDMA devices of this host, for tests.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "gid.h"
#include "host_port.h"
#include "verbs_backend.h"

namespace rdma::test {

inline std::shared_ptr<verbs::HostPort> open_port(const std::string& device,
                                                  uint16_t peer_port = 0,
                                                  bool lose_on_migrate = false)
{
    RdmaHostPortConfig config{};
    config.ibdev = device.c_str();
    config.ibport = 1;
    config.gid_index = -1;
    config.peer_port = peer_port;
    config.lose_on_migrate = lose_on_migrate;
    return std::make_shared<verbs::HostPort>(config);
}

// The port's RoCEv2 GID of an IPv4 address.
inline ibv_gid find_gid(const verbs::HostPort& port)
{
    std::vector<ibv_gid_entry> table(256);
    ssize_t count = ibv_query_gid_table(port.context(), table.data(), table.size(), 0);
    for (ssize_t i = 0; i < count; ++i) {
        const ibv_gid_entry& entry = table[static_cast<size_t>(i)];
        if (entry.gid_type == IBV_GID_TYPE_ROCE_V2 && is_v4_mapped(entry.gid)) {
            return entry.gid;
        }
    }
    throw std::runtime_error(port.device_name() + " has no IPv4 address");
}

// The status of a command, as system() has it.
inline int shell(const std::string& command)
{
    return std::system(("{ " + command + "; } >/dev/null 2>&1").c_str());
}

inline void print_log(int, std::string_view message)
{
    fprintf(stderr, "log: %.*s\n", static_cast<int>(message.size()), message.data());
}

} // namespace rdma::test
