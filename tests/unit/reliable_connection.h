// SPDX-License-Identifier: GPL-2.0-or-later
//
// Two nodes with a connected RC queue pair each; and one of them, b, whose peer on the
// wire the test plays.
#pragma once

#include "engine_harness.h"

namespace rdma::test {

using namespace roce;

inline constexpr uint64_t a_buffer = ram_base;
inline constexpr uint64_t b_buffer = ram_base + 0x100000;

struct ReliableConnection : testing::Test {
    Node a{1}, b{2};
    Network network;
    MrKeys ka = a.register_ram(), kb = b.register_ram();
    QpNumbers qa = a.create_qp(IBV_QPT_RC), qb = b.create_qp(IBV_QPT_RC);

    void SetUp() override
    {
        network.add(a);
        network.add(b);
        for (size_t i = 0; i < 0x100000; ++i) {
            *(a.at(a_buffer) + i) = static_cast<std::byte>(i * 7 + i / 256);
        }
    }
    void connect_up(const Connection& c = {}) { connect(a, qa, b, qb, true, c); }

    void post(const SendRequest& request)
    {
        a.send_queues[qa.id].push_back(request);
        network.ring(a, qa.id);
    }
    void post_recv(uint64_t wr_id, uint64_t address, uint32_t length)
    {
        b.recv_queues[qb.id].push_back(recv_request(wr_id, address, length, kb.lkey));
    }
    bool same(uint64_t from, uint64_t to, size_t n)
    {
        return std::memcmp(a.at(from), b.at(to), n) == 0;
    }
    // Loses the nth frame (from 0) that a node sends.
    void lose_nth(Node& from, int n)
    {
        network.filter = [&from, n, count = 0](Node& sender, std::vector<uint8_t>&) mutable {
            return &sender != &from || count++ != n;
        };
    }
};

// The test plays a's part on the wire, and sees what b answers.
struct Responding : ReliableConnection {
    struct Answer {
        uint8_t op;
        Psn psn;
        uint8_t syndrome;
        std::vector<uint8_t> frame;
    };
    std::vector<Answer> answers;
    Psn psn{Connection{}.psn_a};

    void connect_up(const Connection& c = {})
    {
        ReliableConnection::connect_up(c);
        note_answers();
    }
    void note_answers()
    {
        b.transmit = [this](std::vector<uint8_t> frame) {
            constexpr size_t bth = 14 + 20 + 8;
            answers.push_back({frame[bth],
                               Psn(uint32_t{frame[bth + 9]} << 16 |
                                   uint32_t{frame[bth + 10]} << 8 | frame[bth + 11]),
                               frame[bth + 12], frame});
        };
    }
    // b's link takes one frame more and is then blocked, until open_link().
    void block_link() { b.link_takes_more = false; }
    void open_link()
    {
        b.link_takes_more = true;
        b.engine.tx_ready();
        run();
    }
    template <typename... Header>
    void request(uint8_t op, Psn at, const Header&... headers)
    {
        FrameBuilder builder;
        Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
        builder.begin(path, no_vlan, op, qb.qpn, at, true, false);
        (builder.header(headers), ...);
        b.engine.receive(builder.finish(), network.now);
    }
    void add(Psn at) { request(op_fetch_add, at, AtomicEth{b_buffer, kb.rkey, 1, 0}); }
    void read(Psn at, uint32_t n = 8) { request(op_read_request, at, Reth{b_buffer, kb.rkey, n}); }
    void write(Psn at) { request(op_write_only, at, Reth{b_buffer, kb.rkey, 0}); }
    void run() { b.engine.run(network.now, 1u << 20); }
};

} // namespace rdma::test
