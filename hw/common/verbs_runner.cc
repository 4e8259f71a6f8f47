// SPDX-License-Identifier: GPL-2.0-or-later
//
// The verbs backend in whatever thread the host calls: a doorbell gives requests
// to the host's device at once, and its events come through a descriptor that the
// host watches. No thread of our own, no lock but the device's.
#include "verbs_runner.h"

#include "verbs_backend.h"

namespace rdma {

namespace {

class VerbsRunner final : public Runner {
public:
    VerbsRunner(std::shared_ptr<verbs::HostPort> port, const Limits& limits, GuestMemory& memory,
                Statistics& stats, DeviceHost& host)
        : _backend(std::move(port), limits, memory, stats,
                   [&host](int level, std::string_view message) { host.log(level, message); })
    {
    }

    Backend& backend() override { return _backend; }
    const char* backend_name() const override { return "verbs"; }
    void set_client(BackendClient& client) override { _backend.set_client(client); }
    std::optional<std::string> migration_obstacle() const override
    {
        return _backend.migration_obstacle();
    }
    // Peers are the host device's to answer.
    void stop(bool) override { _backend.stop(); }
    void start() override { _backend.start(); }
    void finish_migration() override { _backend.finish_migration(); }
    bool is_stopped() const override { return _backend.is_stopped(); }
    int event_fd() const override { return _backend.event_fd(); }
    void handle_events() override { _backend.handle_events(); }

private:
    verbs::VerbsBackend _backend;
};

} // namespace

std::shared_ptr<verbs::HostPort> open_host_port(const RdmaHostPortConfig& config)
{
    return std::make_shared<verbs::HostPort>(config);
}

const ibv_device_attr& host_attributes(const verbs::HostPort& port)
{
    return port.attributes();
}

std::unique_ptr<Runner> make_verbs_runner(std::shared_ptr<verbs::HostPort> port,
                                          const Limits& limits, GuestMemory& memory,
                                          Statistics& stats, DeviceHost& host)
{
    return std::make_unique<VerbsRunner>(std::move(port), limits, memory, stats, host);
}

} // namespace rdma
