// SPDX-License-Identifier: GPL-2.0-or-later
//
// Finds guests that poll for completions in a tight loop. Such a loop takes a
// CPU, and the device's lock again and again, from the very thread that would
// bring the completion; where CPUs are scarce it is quicker to let the vCPU
// wait (docs/architecture.md has the figures).
#pragma once

#include <array>
#include <cstdint>

namespace rdma {

class IdlePolls {
public:
    // Empty polls for which a vCPU is made to wait once: a program that has
    // other work between its polls is hardly held up.
    static constexpr unsigned polls_per_pause = 16;

    // A poll that found nothing, by the owner of a doorbell page. True: let
    // the vCPU wait for the next completion, for a while.
    bool poll(uint32_t page)
    {
        Poller& poller = _pollers[page % _pollers.size()];
        if (poller.page != page || poller.progress != _progress) {
            poller = {page, _progress, 0};
        }
        return ++poller.count % polls_per_pause == 0;
    }

    // A completion was written, or a request posted.
    void progress() { ++_progress; }

private:
    struct Poller {
        uint32_t page = 0;
        uint32_t progress = 0; // when it began
        unsigned count = 0;
    };
    std::array<Poller, 16> _pollers{};
    uint32_t _progress = 0;
};

} // namespace rdma
