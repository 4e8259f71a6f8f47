// SPDX-License-Identifier: GPL-2.0-or-later
//
// The engine and its executor.
#include "executor.h"
#include "runner.h"

namespace rdma {

namespace {

class RoceRunner final : public Runner {
public:
    RoceRunner(const Limits& limits, const RdmaHostOps& ops, void* opaque, GuestMemory& memory,
               Statistics& stats)
        : _executor(ops, opaque, stats), _engine(limits, memory, stats, _executor)
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
    roce::Engine _engine;
};

} // namespace

std::unique_ptr<Runner> make_roce_runner(const Limits& limits, const RdmaHostOps& ops, void* opaque,
                                         GuestMemory& memory, Statistics& stats)
{
    return std::make_unique<RoceRunner>(limits, ops, opaque, memory, stats);
}

} // namespace rdma
