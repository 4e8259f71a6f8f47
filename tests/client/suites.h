// SPDX-License-Identifier: GPL-2.0-or-later
//
// What rdma-verify can check. Both sides call the same suite; the client's
// side is the one that requests, where there is a difference.
#pragma once

#include "control.h"
#include "verbs.h"

namespace verify {

struct Peer {
    Device device;
    Control control;
    bool is_client;
};

struct StreamOptions {
    unsigned qps = 8;
    unsigned depth = 32;      // requests outstanding per QP
    unsigned messages = 500;  // per QP and direction, unless seconds is given
    unsigned seconds = 0;     // how long to go on, unless SIGTERM comes before
    size_t min_size = 0;      // bytes of a message
    size_t max_size = 16384;  // bytes of a message
    uint64_t seed = 1;
};

struct ScaleOptions {
    unsigned qps = 1000;     // connected at once
    unsigned regions = 0;    // registered at once before that
    unsigned rounds = 2;     // of each
    size_t size = 1024;      // bytes of a message
    std::string pipe;        // a named pipe: waits for a writer where memory can be looked at
};

// Every opcode of RC at every size, 1 and 16 pieces at odd offsets.
void verify_opcodes(Peer& peer);
// The largest messages.
void verify_maximum(Peer& peer);
// UD: every size to the MTU, 1 and 16 pieces, what is to be dropped.
void verify_datagrams(Peer& peer);
// Many QPs, all opcodes mixed, both directions at once: order, no loss, no
// repeat.
void verify_stream(Peer& peer, const StreamOptions& options);
// Very many QPs and regions at once.
void verify_scale(Peer& peer, const ScaleOptions& options);
// A client without patience (retry_cnt 1, timeout 10) sends a message for each
// line of its standard input, until the line "end".
void verify_patience(Peer& peer);
// Bad requests: their status, what becomes of the QPs, and that they can be
// used again.
void verify_errors(Peer& peer);

} // namespace verify
