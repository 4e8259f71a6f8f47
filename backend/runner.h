// SPDX-License-Identifier: GPL-2.0-or-later
//
// A backend and what drives it: brings it packets, time and the host's events.
// Devices know backends by this alone. The calls are those of rdma_device.h, whose lock is
// held; a runner of a backend without packets or without host events leaves theirs as they
// are here.
//
// A further backend is a folder, with an OpenedBackend, and a line in backends.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "backend.h"
#include "guest_memory.h"
#include "rdma_backend.h"
#include "rdma_host.h"
#include "statistics.h"

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

// What a runner stands on. All stays where it is as long as the runner; ops may become others.
struct RunnerParts {
    const RdmaHostOps& ops;
    void* opaque; // of ops
    GuestMemory& memory;
    Statistics& stats;
};

// A backend that has been chosen and found to work, before the device's limits are known.
class OpenedBackend {
public:
    virtual ~OpenedBackend() = default;
    // What the host's device behind it can do; null where there is none.
    virtual const ibv_device_attr* host_attributes() const { return nullptr; }
    // limits: no higher than host_attributes(). Once.
    virtual std::unique_ptr<Runner> make_runner(const Limits& limits, const RunnerParts& parts) = 0;
};

// config: null for roce. Throws std::runtime_error with what is wrong, for whoever gave the
// properties.
std::unique_ptr<OpenedBackend> open_backend(const RdmaBackendConfig* config);

namespace roce {
std::unique_ptr<OpenedBackend> open(const RdmaBackendConfig& config);
}
// Built without libibverbs (no_verbs.cc), open() says so.
namespace verbs {
std::unique_ptr<OpenedBackend> open(const RdmaBackendConfig& config);
}

} // namespace rdma
