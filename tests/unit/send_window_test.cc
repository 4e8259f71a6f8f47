// SPDX-License-Identifier: GPL-2.0-or-later
#include "send_window.h"

#include <gtest/gtest.h>

namespace rdma::roce {
namespace {

constexpr uint32_t before_wrap = 0xfffffe;

struct SendWindowTest : testing::Test {
    SlotPool<SendWqe> pool{64};
    SendWindow window;

    void SetUp() override { window.start(Psn(before_wrap)); }
    SendWqe& accept(int opcode, uint32_t packets)
    {
        SendWqe& wqe = window.push(pool);
        wqe.opcode = opcode;
        wqe.status = IBV_WC_SUCCESS;
        window.number(wqe, packets);
        return wqe;
    }
    void send(size_t index)
    {
        ASSERT_EQ(window.cursor(), index);
        SendWqe& wqe = window[index];
        if (wqe.num_packets == 0) {
            window.executed(wqe);
            return;
        }
        while (window.cursor() == index) {
            uint32_t left = wqe.end_psn().distance_from(window.send());
            bool last = left == 1 || wqe.has_response();
            window.sent(wqe, wqe.has_response() ? left : 1, last);
        }
    }
    // The responses to the READ or atomic that is next.
    void answer(unsigned times)
    {
        for (unsigned i = 0; i < times; ++i) {
            window.answered(*window.find(window.una()));
            window.skip_acknowledged();
        }
    }
    unsigned completed()
    {
        unsigned count = 0;
        while (!window.empty() && window.front_is_done()) {
            window.pop();
            ++count;
        }
        return count;
    }
    Psn at(uint32_t n) { return Psn(before_wrap) + n; }
};

// [IBTA 9.7.1-3]
TEST_F(SendWindowTest, gives_out_psns_in_the_order_of_the_requests)
{
    accept(IBV_WR_SEND, 3);
    accept(IBV_WR_LOCAL_INV, 0);
    SendWqe& last = accept(IBV_WR_RDMA_WRITE, 1);
    EXPECT_EQ(last.first_psn, at(3));
    EXPECT_EQ(window.next(), at(4));
    EXPECT_EQ(window.outstanding(), 4u);
    EXPECT_EQ(window.find(at(2)), &window[0]);
    EXPECT_EQ(window.find(at(3)), &window[2]);
    EXPECT_EQ(window.find(at(4)), nullptr);
}

// [IBTA 9.7.2-2]
TEST_F(SendWindowTest, completes_what_is_acknowledged_to_its_end)
{
    accept(IBV_WR_SEND, 2);
    accept(IBV_WR_SEND, 2);
    send(0);
    send(1);
    EXPECT_EQ(window.unacknowledged(), 4u);
    auto acknowledged = window.acknowledge(at(3));
    EXPECT_EQ(acknowledged.packets, 3u);
    EXPECT_FALSE(acknowledged.blocked);
    EXPECT_EQ(completed(), 1u);
    EXPECT_EQ(window.acknowledge(at(2)).packets, 0u) << "an old one";
    EXPECT_EQ(window.acknowledge(at(4)).packets, 1u);
    EXPECT_EQ(completed(), 1u);
    EXPECT_TRUE(window.all_acknowledged());
}

// [IBTA 9.7.2-3]
TEST_F(SendWindowTest, reads_are_acknowledged_by_their_answers_only)
{
    accept(IBV_WR_SEND, 1);
    accept(IBV_WR_RDMA_READ, 4);
    accept(IBV_WR_SEND, 1);
    for (size_t i = 0; i < 3; ++i) {
        send(i);
    }
    EXPECT_EQ(window.outstanding_reads(), 1u);
    auto acknowledged = window.acknowledge(at(6));
    EXPECT_TRUE(acknowledged.blocked);
    EXPECT_EQ(acknowledged.packets, 1u);
    EXPECT_EQ(window.una(), at(1));
    answer(4);
    EXPECT_EQ(completed(), 2u);
    EXPECT_EQ(window.outstanding_reads(), 0u);
    EXPECT_FALSE(window.acknowledge(at(6)).blocked);
    EXPECT_EQ(completed(), 1u);
}

TEST_F(SendWindowTest, a_read_on_its_way_is_one_packet)
{
    accept(IBV_WR_RDMA_READ, 100);
    accept(IBV_WR_SEND, 2);
    accept(IBV_WR_RDMA_READ, 50);
    for (size_t i = 0; i < 3; ++i) {
        send(i);
    }
    EXPECT_EQ(window.unacknowledged(), 4u);
    answer(99);
    EXPECT_EQ(window.unacknowledged(), 4u);
    answer(1);
    EXPECT_EQ(window.unacknowledged(), 3u);
    window.acknowledge(at(102));
    EXPECT_EQ(window.unacknowledged(), 1u);
    answer(50);
    EXPECT_EQ(window.unacknowledged(), 0u);
}

// [IBTA 9.7.3-3]
TEST_F(SendWindowTest, a_read_sent_again_asks_for_the_rest)
{
    accept(IBV_WR_RDMA_READ, 10);
    accept(IBV_WR_SEND, 1);
    send(0);
    send(1);
    answer(3);
    window.go_back();
    EXPECT_EQ(window.send(), at(3));
    EXPECT_EQ(window.cursor(), 0u);
    EXPECT_TRUE(window.sends_again());
    EXPECT_EQ(window.unacknowledged(), 0u);
    answer(2); // late ones
    EXPECT_EQ(window.send(), at(5));
    send(0);
    EXPECT_EQ(window.unacknowledged(), 1u);
    send(1);
    EXPECT_EQ(window.unacknowledged(), 2u);
    EXPECT_FALSE(window.sends_again());
    answer(5);
    EXPECT_EQ(window.unacknowledged(), 1u);
}

TEST_F(SendWindowTest, what_was_acknowledged_meanwhile_is_not_sent_again)
{
    accept(IBV_WR_SEND, 2);
    accept(IBV_WR_SEND, 2);
    send(0);
    send(1);
    window.go_back();
    window.acknowledge(at(3));
    window.skip_acknowledged();
    EXPECT_EQ(window.send(), at(3));
    EXPECT_EQ(completed(), 1u);
    EXPECT_EQ(window.cursor(), 0u);
}

TEST_F(SendWindowTest, the_packet_before_a_request_alone_can_be_sent_again)
{
    accept(IBV_WR_SEND, 3);
    SendWqe& second = accept(IBV_WR_SEND, 2);
    send(0);
    window.sent(second, 1, false);
    window.send_last_before_again(second);
    EXPECT_EQ(window.send(), at(2));
    EXPECT_EQ(window.cursor(), 0u);
    send(0);
    EXPECT_EQ(window.cursor(), 1u);
    window.acknowledge(at(3));
    window.send_last_before_again(second);
    EXPECT_EQ(window.send(), at(3)) << "it is acknowledged";
}

TEST_F(SendWindowTest, a_read_before_a_request_is_not_sent_again_for_it)
{
    accept(IBV_WR_RDMA_READ, 3);
    SendWqe& second = accept(IBV_WR_SEND, 1);
    send(0);
    window.send_last_before_again(second);
    EXPECT_EQ(window.send(), at(3));
}

TEST_F(SendWindowTest, local_operations_are_not_carried_out_again)
{
    accept(IBV_WR_SEND, 1);
    accept(wr_fast_reg, 0);
    accept(IBV_WR_SEND, 1);
    for (size_t i = 0; i < 3; ++i) {
        send(i);
    }
    window.go_back();
    send(0);
    window.skip_acknowledged();
    window.acknowledge(at(1));
    EXPECT_EQ(completed(), 2u);
}

TEST_F(SendWindowTest, a_state_read_back_goes_on_where_it_was)
{
    accept(IBV_WR_RDMA_READ, 10);
    accept(IBV_WR_SEND, 2);
    accept(IBV_WR_SEND, 2);
    send(0);
    send(1);
    answer(4);
    uint32_t unacknowledged = window.unacknowledged();
    EXPECT_EQ(window.restore(true), nullptr);
    EXPECT_EQ(window.cursor(), 2u);
    EXPECT_EQ(window.outstanding_reads(), 1u);
    EXPECT_EQ(window.unacknowledged(), unacknowledged);
}

TEST_F(SendWindowTest, a_state_whose_psns_do_not_fit_is_refused)
{
    accept(IBV_WR_SEND, 2);
    accept(IBV_WR_SEND, 2);
    window[1].first_psn += 1;
    EXPECT_NE(window.restore(true), nullptr);
    window[1].first_psn -= 1;
    EXPECT_EQ(window.restore(true), nullptr);
    window[0].num_packets = 1;
    EXPECT_NE(window.restore(true), nullptr);
    window[0].num_packets = 2;
    window[1].num_packets = 3;
    EXPECT_NE(window.restore(true), nullptr) << "behind next";
}

} // namespace
} // namespace rdma::roce
