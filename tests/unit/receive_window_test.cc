// SPDX-License-Identifier: GPL-2.0-or-later
#include "receive_window.h"

#include <gtest/gtest.h>

namespace rdma::roce {
namespace {

constexpr Psn first{0xfffffe};
constexpr uint8_t reads = 4; // max_dest_rd_atomic

struct ReceiveWindowTest : testing::Test {
    ReceiveWindow window;

    void SetUp() override
    {
        window.start(first);
        window.limit(reads);
    }
    static Response read_of(Psn psn, uint32_t packets, bool again = false)
    {
        return {Response::Kind::read, again, psn, packets, false, 0, 0, packets * 1024, 0};
    }
    void write() { window.carried_out(window.expected() + 1, true); }
    // A READ is carried out and its answer owed.
    void read(uint32_t packets)
    {
        Psn psn = window.expected();
        window.remember({false, psn, packets, 0}, reads);
        window.owe(read_of(psn, packets));
        window.carried_out(psn + packets, true);
    }
    void answer_all()
    {
        while (window.num_responses() > 0) {
            window.pop_response();
        }
    }
};

// [IBTA 9.7.1-5] [IBTA 9.7.7.1-1]
TEST_F(ReceiveWindowTest, tells_duplicates_from_what_is_ahead_over_the_wrap)
{
    write();
    write();
    EXPECT_EQ(window.expected(), Psn(0));
    EXPECT_EQ(window.msn(), 2u);
    using Place = ReceiveWindow::Place;
    EXPECT_EQ(window.place(Psn(0)), Place::expected);
    EXPECT_EQ(window.place(Psn(1)), Place::ahead);
    EXPECT_EQ(window.place(Psn(0xffffff)), Place::duplicate);
    EXPECT_EQ(window.place(Psn(Psn::half - 1)), Place::ahead);
    EXPECT_EQ(window.place(Psn(Psn::half)), Place::duplicate);
}

// [IBTA 9.7.5.1.3-1]
TEST_F(ReceiveWindowTest, a_gap_is_nakked_once_until_its_packet_comes)
{
    EXPECT_TRUE(window.owe_nak_of_gap());
    EXPECT_FALSE(window.owe_nak_of_gap());
    EXPECT_EQ(window.take_nak(), aeth_nak_sequence);
    EXPECT_EQ(window.take_nak(), std::nullopt);
    EXPECT_FALSE(window.owe_nak_of_gap());
    window.arrived();
    EXPECT_TRUE(window.owe_nak_of_gap());
    window.arrived();
    EXPECT_EQ(window.take_nak(), std::nullopt) << "its packet has come";
}

// [IBTA 9.7.5.2.8-2]
TEST_F(ReceiveWindowTest, a_nak_stands_for_the_acknowledgement)
{
    write();
    window.owe_ack();
    window.owe_rnr_nak(aeth_rnr_nak | 3);
    EXPECT_FALSE(window.owe_nak_of_gap()) << "what follows is ahead because of the RNR NAK";
    EXPECT_EQ(window.take_nak(), aeth_rnr_nak | 3);
    EXPECT_FALSE(window.take_ack());
    window.owe_ack();
    EXPECT_TRUE(window.take_ack());
    EXPECT_FALSE(window.take_ack());
}

TEST_F(ReceiveWindowTest, an_answer_with_data_is_the_only_acknowledgement)
{
    read(2);
    window.owe_ack();
    EXPECT_FALSE(window.take_ack());
    write();
    window.owe_ack();
    EXPECT_TRUE(window.take_ack());
}

// [IBTA 9.5-6]
TEST_F(ReceiveWindowTest, a_duplicate_from_before_a_read_is_acknowledged_before_its_answer)
{
    write();
    read(3);
    window.owe_ack_of_duplicate(first);
    EXPECT_FALSE(window.sends_read_next());
    EXPECT_EQ(window.take_duplicate_ack(), first);
    EXPECT_TRUE(window.sends_read_next());
    EXPECT_EQ(window.take_duplicate_ack(), std::nullopt);
    answer_all();
    write();
    window.owe_ack_of_duplicate(first + 4);
    EXPECT_EQ(window.take_duplicate_ack(), std::nullopt);
    EXPECT_TRUE(window.take_ack());
}

// [IBTA 9.7.5.1.2-4]
TEST_F(ReceiveWindowTest, remembers_the_newest_reads_and_atomics)
{
    for (uint32_t i = 0; i < 6; ++i) {
        window.remember({i % 2 == 1, window.expected(), 1, 100 + i}, reads);
        write();
    }
    EXPECT_EQ(window.remembered(first + 1, true), nullptr) << "of six, four are remembered";
    ASSERT_NE(window.remembered(first + 3, true), nullptr);
    EXPECT_EQ(window.remembered(first + 3, true)->original, 103u);
    EXPECT_EQ(window.remembered(first + 3, false), nullptr) << "it was an atomic";
    window.limit(1);
    EXPECT_EQ(window.remembered(first + 3, true), nullptr);
    EXPECT_NE(window.remembered(first + 5, true), nullptr);
}

TEST_F(ReceiveWindowTest, forgets_what_is_half_the_circle_old)
{
    window.remember({true, first, 1, 7}, reads);
    write();
    window.carried_out(first + (Psn::half - 1), true);
    EXPECT_NE(window.remembered(first, true), nullptr);
    write();
    EXPECT_EQ(window.remembered(first, true), nullptr);
}

TEST_F(ReceiveWindowTest, answers_sent_again_give_way_to_new_ones)
{
    for (uint32_t i = 0; i < reads; ++i) {
        EXPECT_TRUE(window.make_room(reads));
        window.owe(read_of(first + i, 1, i < 2));
    }
    EXPECT_TRUE(window.make_room(reads));
    window.owe(read_of(first + 4, 1));
    EXPECT_TRUE(window.make_room(reads));
    window.owe(read_of(first + 5, 1));
    EXPECT_FALSE(window.make_room(reads));
}

// [IBTA C9-110]
TEST_F(ReceiveWindowTest, a_read_asked_for_again_from_its_middle_ends_there)
{
    window.owe(read_of(first, 2));
    window.owe(read_of(first + 2, 4));
    window.owe(read_of(first + 6, 1));
    window.forget_answers_from(first + 4);
    ASSERT_EQ(window.num_responses(), 1u);
    EXPECT_EQ(window.response(0).psn, first);
}

TEST_F(ReceiveWindowTest, what_is_forgotten_is_not_sent)
{
    read(1);
    window.owe_ack_of_duplicate(first - 1);
    window.owe_ack();
    window.owe_nak(aeth_nak_remote_access);
    window.forget_owed();
    EXPECT_EQ(window.num_responses(), 0u);
    EXPECT_EQ(window.take_duplicate_ack(), std::nullopt);
    EXPECT_EQ(window.take_nak(), std::nullopt);
    EXPECT_FALSE(window.take_ack());
}

TEST_F(ReceiveWindowTest, answers_of_a_saved_state_have_as_many_packets_as_bytes)
{
    window.owe(read_of(first, 3));
    EXPECT_TRUE(window.is_sound(1024));
    EXPECT_FALSE(window.is_sound(2048));
    EXPECT_FALSE(window.is_sound(0));
}

} // namespace
} // namespace rdma::roce
