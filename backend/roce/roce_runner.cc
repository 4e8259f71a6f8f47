// SPDX-License-Identifier: GPL-2.0-or-later
//
// The engine and its executor.
#include <stdexcept>

#include "executor.h"
#include "runner.h"

namespace rdma::roce {

namespace {

class RoceRunner final : public Runner {
public:
    RoceRunner(const Limits& limits, const RunnerParts& parts)
        : _executor(parts.ops, parts.opaque, parts.stats),
          _engine(limits, parts.memory, parts.stats, _executor)
    {
        _executor.attach(_engine);
    }

    Backend& backend() override { return _engine; }
    const char* backend_name() const override { return "roce"; }
    void set_client(BackendClient& client) override { _engine.set_client(client); }
    void run_if_needed() override { _executor.run_if_needed(); }
    void reset() override { _executor.reset(); }
    void halt() override { _executor.halt(); }
    bool can_save_running() const override { return true; }
    void stop(bool refuse_peers) override { _executor.stop(refuse_peers); }
    void start() override { _executor.start(); }
    bool is_stopped() const override { return _executor.is_stopped(); }
    bool receive(std::span<const uint8_t> frame) override { return _executor.receive(frame); }
    void observe_sent(std::span<const uint8_t> head) override { _engine.observe_sent(head); }
    void tx_ready() override { _executor.tx_ready(); }
    void timer() override { _executor.timer(); }

private:
    Executor _executor;
    Engine _engine;
};

class OpenedRoce final : public OpenedBackend {
public:
    std::unique_ptr<Runner> make_runner(const Limits& limits, const RunnerParts& parts) override
    {
        return std::make_unique<RoceRunner>(limits, parts);
    }
};

} // namespace

std::unique_ptr<OpenedBackend> open(const RdmaBackendConfig& config)
{
    if (config.port.ibdev) {
        throw std::runtime_error("property 'ibdev' is for backend=verbs");
    }
    return std::make_unique<OpenedRoce>();
}

} // namespace rdma::roce
