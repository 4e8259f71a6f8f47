// SPDX-License-Identifier: GPL-2.0-or-later
//
// Two verbs backends on RDMA devices of this host.
#include <poll.h>

#include <chrono>

#include "backend_end.h"
#include "verbs_host.h"

namespace rdma::test {

namespace {

using verbs::HostPort;
using verbs::VerbsBackend;

// Longer than the slowest host takes for whatever a test asks for.
constexpr std::chrono::seconds patience{20};

class VerbsPair final : public BackendPair {
public:
    VerbsPair(const std::string& first, const std::string& second)
        : _port_a(open_port(first)), _port_b(open_port(second)),
          _backend_a(_port_a, a.limits, a.memory, a.stats, print_log),
          _backend_b(_port_b, b.limits, b.memory, b.stats, print_log)
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
