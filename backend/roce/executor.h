// SPDX-License-Identifier: GPL-2.0-or-later
//
// Who runs the engine, and when: to completion, in whichever thread brings it
// work. A doorbell sends at once and a packet that arrives is answered at
// once; there is no hand-off between threads.
//
// The thread holds the host's device lock, which QEMU's network layer asks for
// in any case; no other lock is taken.
#pragma once

#include <span>
#include <vector>

#include "engine.h"
#include "growing_ring.h"
#include "rdma_host.h"

namespace rdma::roce {

class Executor final : public Link {
public:
    Executor(const RdmaHostOps& ops, void* opaque, Statistics& stats)
        : _ops(ops), _opaque(opaque), _stats(stats)
    {}
    void attach(Engine& engine) { _engine = &engine; }

    // A frame on its way to the NIC. True: it was for the engine.
    bool receive(std::span<const uint8_t> frame);
    // The deadline has come, the network takes frames again, or a doorbell may
    // have brought work.
    void timer();
    void tx_ready();
    void run_if_needed()
    {
        if (_engine->has_work()) {
            run();
        }
    }
    // After reset of the engine: forgets what waits.
    void reset();
    // A reset is to follow, as soon as the call is over that has led here.
    void halt() { _engine->set_resting(true); }
    // The engine rests from stop() to start(); refuse: peers' requests are
    // answered with RNR NAK meanwhile (Engine::receive_stopped). Both may come from within
    // send_packet.
    void stop(bool refuse);
    void start();
    bool is_stopped() const { return _stopped; }

    bool send(std::span<const uint8_t> frame) override;
    Mac mac() override;
    uint32_t mtu() override;

private:
    void run();
    bool has_work() const;
    void take_waiting(int64_t now);
    void update_timer();

    // Packets sent before the thread is given back to what it was doing.
    static constexpr unsigned budget = 512;
    // Frames that come while the engine is sending (a network that delivers
    // within its send), kept until it is done.
    static constexpr size_t max_waiting = 256;

    const RdmaHostOps& _ops;
    void* _opaque;
    Statistics& _stats;
    Engine* _engine = nullptr;
    GrowingRing<std::vector<uint8_t>> _waiting;
    std::vector<uint8_t> _received; // the one of them being received
    bool _running = false;
    bool _stopped = false;
    bool _refuse = false; // while stopped
    int64_t _deadline = no_deadline; // as last given to set_timer
};

} // namespace rdma::roce
