// SPDX-License-Identifier: GPL-2.0-or-later
//
// A connection after as many packets as there are PSNs: nothing that is remembered of
// the packet that had a PSN before counts for the one that has it now.
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

} // namespace
} // namespace rdma::test
