// SPDX-License-Identifier: GPL-2.0-or-later
//
// A verbs backend that moves: its state is saved and loaded into another one.
#pragma once

#include <poll.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "backend_end.h"
#include "verbs_backend.h"
#include "verbs_host.h"

namespace rdma::test {

// Where a guest is at home: its backend is replaced by the one that it moves to.
struct Home {
    Home(BackendEnd& its_end, const std::string& device, uint16_t peer_port,
         bool lose_on_migrate = false)
        : end(its_end), port(open_port(device, peer_port, lose_on_migrate)), backend(make())
    {
        end.gid = find_gid(*port);
        end.set_up(*backend);
    }

    std::unique_ptr<verbs::VerbsBackend> make()
    {
        auto made = std::make_unique<verbs::VerbsBackend>(port, end.limits, end.memory, end.stats,
                                                          print_log);
        made->set_client(end);
        return made;
    }

    BackendEnd& end;
    std::shared_ptr<verbs::HostPort> port;
    std::unique_ptr<verbs::VerbsBackend> backend;
};

// Of a backend that has stopped.
inline std::vector<uint8_t> saved_state(Home& home)
{
    migration::StreamWriter stream(migration::DeviceKind::pvrdma);
    home.backend->save(stream);
    auto bytes = stream.finish();
    return {bytes.begin(), bytes.end()};
}

// The state of a home that stops, while the other one, if there is one, goes on.
inline std::vector<uint8_t> leave(Home& home, Home* other)
{
    std::atomic<bool> left = other == nullptr;
    std::jthread others([&] {
        while (!left) {
            pollfd fd{other->backend->event_fd(), POLLIN, 0};
            poll(&fd, 1, 10);
            other->backend->handle_events();
        }
    });
    home.backend->stop();
    left = true;
    others.join();
    return saved_state(home);
}

inline migration::Status load(verbs::VerbsBackend& backend, std::span<const uint8_t> bytes)
{
    auto stream = migration::StreamReader::open(bytes, migration::DeviceKind::pvrdma);
    if (!stream) {
        return std::unexpected(stream.error());
    }
    while (auto section = stream->next()) {
        if (auto status = backend.load(*section); !status) {
            return status;
        }
    }
    return {};
}

inline void arrive(Home& home, std::span<const uint8_t> bytes)
{
    auto next = home.make();
    next->stop();
    auto status = load(*next, bytes);
    ASSERT_TRUE(status) << status.error();
    // The old one is there until the new one has started, and its host objects are.
    std::swap(home.backend, next);
    home.end.backend = home.backend.get();
    home.backend->start();
}

inline void move(Home& home, Home& other)
{
    arrive(home, leave(home, &other));
}

} // namespace rdma::test
