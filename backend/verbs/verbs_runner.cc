// SPDX-License-Identifier: GPL-2.0-or-later
//
// The verbs backend in whatever thread the host calls: a doorbell gives requests
// to the host's device at once, and its events come through a descriptor that the
// host watches. No thread of our own, no lock but the device's.
#include "runner.h"
#include "verbs_backend.h"

namespace rdma::verbs {

namespace {

class VerbsRunner final : public Runner {
public:
    VerbsRunner(std::shared_ptr<HostPort> port, const Limits& limits, const RunnerParts& parts)
        : _backend(std::move(port), limits, parts.memory, parts.stats,
                   [&ops = parts.ops, opaque = parts.opaque](int level, std::string_view message) {
                       ops.log(opaque, level, std::string(message).c_str());
                   })
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
    VerbsBackend _backend;
};

class OpenedVerbs final : public OpenedBackend {
public:
    explicit OpenedVerbs(const RdmaHostPortConfig& config)
        : _port(std::make_shared<HostPort>(config))
    {
    }

    const ibv_device_attr* host_attributes() const override { return &_port->attributes(); }
    std::unique_ptr<Runner> make_runner(const Limits& limits, const RunnerParts& parts) override
    {
        return std::make_unique<VerbsRunner>(_port, limits, parts);
    }

private:
    std::shared_ptr<HostPort> _port;
};

} // namespace

std::unique_ptr<OpenedBackend> open(const RdmaBackendConfig& config)
{
    return std::make_unique<OpenedVerbs>(config.port);
}

} // namespace rdma::verbs
