// SPDX-License-Identifier: GPL-2.0-or-later
//
// Two verbs backends on RDMA devices of this host.
#include <poll.h>

#include <chrono>
#include <stdexcept>

#include "backend_end.h"
#include "gid.h"
#include "verbs_backend.h"

namespace rdma::test {

namespace {

using verbs::HostPort;
using verbs::VerbsBackend;

// Longer than the slowest host takes for whatever a test asks for.
constexpr std::chrono::seconds patience{20};

std::shared_ptr<HostPort> open_port(const std::string& device)
{
    RdmaHostPortConfig config{};
    config.ibdev = device.c_str();
    config.ibport = 1;
    config.gid_index = -1;
    return std::make_shared<HostPort>(config);
}

// The port's RoCEv2 GID of an IPv4 address.
ibv_gid find_gid(const HostPort& port)
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

void print(int, std::string_view message)
{
    fprintf(stderr, "log: %.*s\n", static_cast<int>(message.size()), message.data());
}

class VerbsPair final : public BackendPair {
public:
    VerbsPair(const std::string& first, const std::string& second)
        : _port_a(open_port(first)), _port_b(open_port(second)),
          _backend_a(_port_a, a.limits, a.memory, a.stats, print),
          _backend_b(_port_b, b.limits, b.memory, b.stats, print)
    {
        set_up(a, _backend_a, *_port_a);
        set_up(b, _backend_b, *_port_b);
    }

    bool run_until(const std::function<bool()>& done) override
    {
        auto end = std::chrono::steady_clock::now() + patience;
        while (!done()) {
            auto left = std::chrono::ceil<std::chrono::milliseconds>(
                end - std::chrono::steady_clock::now());
            pollfd fds[] = {{_backend_a.event_fd(), POLLIN, 0}, {_backend_b.event_fd(), POLLIN, 0}};
            if (left.count() <= 0 || poll(fds, 2, static_cast<int>(left.count())) == 0) {
                return false;
            }
            _backend_a.handle_events();
            _backend_b.handle_events();
        }
        return true;
    }

private:
    static void set_up(BackendEnd& end, VerbsBackend& backend, const HostPort& port)
    {
        backend.set_client(end);
        end.wait_events = [&backend] {
            pollfd fd{backend.event_fd(), POLLIN, 0};
            bool some = poll(&fd, 1, std::chrono::milliseconds(patience).count()) > 0;
            backend.handle_events();
            return some;
        };
        end.gid = find_gid(port);
        end.set_up(backend);
    }

    std::shared_ptr<HostPort> _port_a;
    std::shared_ptr<HostPort> _port_b;
    VerbsBackend _backend_a;
    VerbsBackend _backend_b;
};

} // namespace

std::unique_ptr<BackendPair> make_verbs_pair(const std::string& first, const std::string& second)
{
    return std::make_unique<VerbsPair>(first, second);
}

} // namespace rdma::test
