// SPDX-License-Identifier: GPL-2.0-or-later
//
// A backend and what drives it: brings it packets, time and the host's events.
// The C boundary knows backends by this alone. The calls are those of
// rdma_device.h, whose lock is held; a runner of a backend without packets or
// without host events leaves theirs as they are here.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "backend.h"
#include "device.h"
#include "guest_memory.h"
#include "rdma_device.h"

namespace rdma {

class Runner {
public:
    virtual ~Runner() = default;

    virtual Backend& backend() = 0;
    // As in a saved state.
    virtual const char* backend_name() const = 0;
    // Must be called before anything else.
    virtual void set_client(BackendClient& client) = 0;

    // The guest has written a register or doorbell.
    virtual void run_if_needed() {}
    // After a reset of the backend: forgets what waits.
    virtual void reset() {}
    // A reset or the end follows when the call that is under way is over: it does no more.
    virtual void halt() {}
    // The backend rests from stop() to start(). refuse_peers: as
    // rdma_device_stop's rnr_nak.
    virtual void stop(bool refuse_peers) = 0;
    virtual void start() = 0;
    virtual bool is_stopped() const = 0;
    virtual void finish_migration() {}
    // Nothing where the backend can move to another host, or why not, for a person.
    virtual std::optional<std::string> migration_obstacle() const { return std::nullopt; }
    // Whether the backend's save() may be called, to learn how much it is, while it runs.
    virtual bool can_save_running() const { return false; }

    virtual bool receive(std::span<const uint8_t>) { return false; }
    virtual void observe_sent(std::span<const uint8_t>) {}
    virtual void tx_ready() {}
    virtual void timer() {}

    virtual int event_fd() const { return -1; }
    virtual void handle_events() {}
};

// ops: stay where they are, and may become others.
std::unique_ptr<Runner> make_roce_runner(const Limits& limits, const RdmaHostOps& ops, void* opaque,
                                         GuestMemory& memory, Statistics& stats);

} // namespace rdma
