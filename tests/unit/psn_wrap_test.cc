// SPDX-License-Identifier: GPL-2.0-or-later
//
// A connection after as many packets as there are PSNs: nothing that is remembered of
// the packet that had a PSN before counts for the one that has it now.
#include <cstdlib>

#include "reliable_connection.h"

namespace rdma::test {
namespace {

struct PsnWrap : Responding {
    uint64_t atomic_answer(const Answer& answer)
    {
        constexpr size_t original = 14 + 20 + 8 + 12 + 4; // Ethernet, IPv4, UDP, BTH, AETH
        be64 value;
        std::memcpy(&value, &answer.frame.at(original), sizeof(value));
        return value;
    }
    void set_counter(uint64_t value) { std::memcpy(b.at(b_buffer), &value, sizeof(value)); }
    // WRITEs without data at count PSNs from first on, which ask for nothing.
    void fill(Psn first, uint32_t count)
    {
        FrameBuilder builder;
        Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
        for (uint32_t i = 0; i < count; ++i) {
            builder.begin(path, no_vlan, op_write_only, qb.qpn, first + i, false, false);
            builder.header(Reth{b_buffer, kb.rkey, 0});
            b.engine.receive(builder.finish(), network.now);
        }
    }
};

TEST_F(PsnWrap, atomics_of_one_lap_are_no_answer_in_the_next)
{
    connect_up();
    set_counter(100);
    add(psn);
    run();
    fill(psn + 1, Psn::mask); // all the others
    answers.clear();

    // A WRITE with the PSN that the atomic had is acknowledged, and again if it is
    // repeated.
    write(psn);
    run();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].op, op_acknowledge);
    EXPECT_EQ(answers[0].psn, psn);
    write(psn);
    run();
    ASSERT_EQ(answers.size(), 2u);
    EXPECT_EQ(answers[1].psn, psn);
}

// [IBTA 9.3.5.3-1]
TEST_F(PsnWrap, a_duplicate_atomic_has_the_answer_of_its_own_lap)
{
    connect_up();
    set_counter(100);
    add(psn);
    run();
    fill(psn + 1, Psn::mask);
    set_counter(500);
    add(psn);
    run();
    answers.clear();
    add(psn);
    run();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].op, op_atomic_acknowledge);
    EXPECT_EQ(atomic_answer(answers[0]), 500u);
}

// Requests of both ends, on a network with faults; PSNs go past their end, and past all of them
// with RDMA_NIGHTLY.
struct PsnLaps : ReliableConnection {
    static constexpr uint32_t size = 0x40000; // bytes of a long message
    static constexpr uint32_t mtu = 256;
    static constexpr uint64_t read_target = 0x80000, counter = 0xf0000, add_target = 0xf0008;

    struct End {
        Node* node;
        QpNumbers qp;
        MrKeys keys;
        uint64_t adds = 0;
    };
    // A WRITE, a FETCH_ADD and a READ, of bytes that are others each time.
    void post_round(End& from, const End& to, uint64_t round, uint32_t bytes)
    {
        uint64_t area = from.node == &a ? a_buffer : b_buffer;
        for (uint32_t i = 0; i < bytes; i += mtu) {
            uint64_t mark = round << 20 | i;
            std::memcpy(from.node->at(area + i), &mark, sizeof(mark));
        }
        uint32_t lkey = from.keys.lkey, rkey = to.keys.rkey;
        SendRequest add = send_request(IBV_WR_ATOMIC_FETCH_AND_ADD, 2, area + add_target, 8, lkey,
                                       area + counter, rkey);
        add.wr.wr.atomic.compare_add = 1;
        uint64_t remote = area + size;
        from.node->send_queues[from.qp.id] = {
            send_request(IBV_WR_RDMA_WRITE, 1, area, bytes, lkey, remote, rkey), add,
            send_request(IBV_WR_RDMA_READ, 3, area + read_target, bytes, lkey, remote, rkey)};
        from.node->engine.send_doorbell(from.qp.id);
    }
    void verify_round(End& from, const End& to, uint32_t bytes)
    {
        uint64_t area = from.node == &a ? a_buffer : b_buffer;
        auto done = from.node->take_completions();
        ASSERT_EQ(done.size(), 3u);
        for (size_t i = 0; i < 3; ++i) {
            ASSERT_EQ(done[i].wc.wr_id, i + 1);
            ASSERT_EQ(done[i].wc.status, IBV_WC_SUCCESS);
        }
        ASSERT_EQ(std::memcmp(from.node->at(area), to.node->at(area + size), bytes), 0);
        ASSERT_EQ(std::memcmp(from.node->at(area), from.node->at(area + read_target), bytes), 0);
        uint64_t before;
        std::memcpy(&before, from.node->at(area + add_target), sizeof(before));
        ASSERT_EQ(before, from.adds++);
    }
};

// [IBTA 9.7.6.1.3-3]
TEST_F(PsnLaps, requests_of_all_kinds_go_on_past_all_psns)
{
    constexpr uint32_t margin = 1u << 17; // packets, before and after the last PSN
    uint32_t packets = (std::getenv("RDMA_NIGHTLY") ? Psn::mask : 0) + 2 * margin;
    Connection c;
    c.mtu = IBV_MTU_256;
    c.psn_a = Psn::mask - margin;
    connect_up(c);
    uint64_t zero = 0;
    std::memcpy(a.at(b_buffer + counter), &zero, sizeof(zero));
    std::memcpy(b.at(a_buffer + counter), &zero, sizeof(zero));
    network.faults = {0.001, 0.001, 0.001, 0.0005, 0.001};
    End at_a{&a, qa, ka}, at_b{&b, qb, kb};
    uint32_t sent = 0;
    for (uint64_t round = 1; sent < packets; ++round) {
        post_round(at_a, at_b, round, size);
        post_round(at_b, at_a, round, 8 * mtu);
        ASSERT_TRUE(network.settle());
        ASSERT_NO_FATAL_FAILURE(verify_round(at_a, at_b, size)) << round;
        ASSERT_NO_FATAL_FAILURE(verify_round(at_b, at_a, 8 * mtu)) << round;
        sent += 2 * (size / mtu) + 1;
    }
    EXPECT_GT(a.stats.retransmitted_packets, 0u);
}

} // namespace
} // namespace rdma::test
