// SPDX-License-Identifier: GPL-2.0-or-later
//
// Sends management datagrams on threads of its own: the host looks up the Ethernet
// address of the destination, which takes it up to a second where nobody answers.
//
// Datagrams to one destination keep their order. A source, whoever that is, cannot
// have more than its share of threads and room. Where there are threads for as many
// sources as there may be, no source's destinations keep another's datagrams waiting,
// unless both send to the same destination. What finds no room is lost, as on a network, and so is
// what waits for a destination that has just not been reached.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "mad_port.h"

namespace rdma::verbs {

class MadSender {
public:
    // False: the destination is not reached.
    using Send = std::function<bool(const Mad&)>;
    // Makes what sends on one thread; called when that thread is first needed, on it.
    using MakeSend = std::function<Send()>;

    struct Sizes {
        unsigned threads = 4;
        unsigned threads_per_source = 4;
        unsigned spare_threads = 4; // that stay when there is nothing to do
        size_t waiting_per_source = 64; // datagrams
    };

    MadSender(MakeSend make, Sizes sizes);
    // Does not wait for what has been begun: its thread ends by itself.
    ~MadSender();
    MadSender(const MadSender&) = delete;
    MadSender& operator=(const MadSender&) = delete;

    // False: there is no room.
    bool send(const Mad& mad, uint32_t source = 0);
    // Of this source nothing more is begun.
    void forget(uint32_t source);

private:
    struct State;
    static void work(const std::shared_ptr<State>& state);
    void add_thread();

    std::shared_ptr<State> _state; // the threads' too
};

} // namespace rdma::verbs
