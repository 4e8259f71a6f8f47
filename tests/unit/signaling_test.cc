// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a consumer is told: completions by signal flags, solicited events, and
// asynchronous events of queue pairs (IBTA vol. 1, 10.8.3, 11.4.2.2, 11.6.3).
#include <array>
#include <cerrno>

#include "engine_harness.h"

namespace rdma::test {
namespace {

using namespace roce;

constexpr uint64_t a_buffer = ram_base;
constexpr uint64_t b_buffer = ram_base + 0x100000;

struct Signaling : testing::Test {
    Node a{1}, b{2};
    Network network;
    MrKeys ka = a.register_ram(), kb = b.register_ram();
    QpNumbers qa{}, qb{};

    void SetUp() override
    {
        network.add(a);
        network.add(b);
    }
    void connect_up(bool sq_sig_all = false, const Connection& c = {})
    {
        QpInit init = a.qp_init(IBV_QPT_RC);
        init.sq_sig_all = sq_sig_all;
        qa = a.engine.create_qp(init).value();
        qb = b.create_qp(IBV_QPT_RC);
        connect(a, qa, b, qb, true, c);
    }
    SendRequest write(uint64_t wr_id, unsigned flags, uint32_t rkey_error = 0)
    {
        SendRequest request = send_request(IBV_WR_RDMA_WRITE, wr_id, a_buffer, 8, ka.lkey, b_buffer,
                                           kb.rkey + rkey_error);
        request.wr.send_flags = flags;
        return request;
    }
    // The wr_ids that complete at a.
    std::vector<uint64_t> carry_out(std::initializer_list<SendRequest> requests)
    {
        a.send_queues[qa.id].insert(a.send_queues[qa.id].end(), requests);
        network.ring(a, qa.id);
        EXPECT_TRUE(network.settle());
        std::vector<uint64_t> ids;
        for (const Completion& completion : a.take_completions()) {
            ids.push_back(completion.wc.wr_id);
        }
        return ids;
    }
    int modify(Node& node, QpNumbers qp, ibv_qp_state state, int mask = 0, uint8_t notify = 0)
    {
        ibv_qp_attr attr{};
        attr.qp_state = state;
        attr.en_sqd_async_notify = notify;
        return node.engine.modify_qp(qp.id, attr, IBV_QP_STATE | mask, {});
    }
    ibv_qp_attr query(Node& node, QpNumbers qp)
    {
        ibv_qp_attr attr{};
        Mac dmac;
        EXPECT_EQ(node.engine.query_qp(qp.id, attr, dmac), 0);
        return attr;
    }
    using Ids = std::vector<uint64_t>;
};

TEST_F(Signaling, only_what_asks_for_it_completes)
{
    connect_up();
    EXPECT_EQ(carry_out({write(1, 0), write(2, IBV_SEND_SIGNALED), write(3, 0)}), Ids{2});
}

TEST_F(Signaling, all_complete_where_the_qp_says_so)
{
    connect_up(true);
    EXPECT_EQ(carry_out({write(1, 0), write(2, IBV_SEND_SIGNALED), write(3, 0)}),
              (Ids{1, 2, 3}));
}

TEST_F(Signaling, what_fails_completes_in_any_case)
{
    connect_up();
    EXPECT_EQ(carry_out({write(1, 0), write(2, 0, 1), write(3, 0)}), (Ids{2, 3}));
}

// [IBTA 9.2-2]
// [virtio-rdma REQ-13]
TEST_F(Signaling, a_receive_is_solicited_where_the_sender_says_so)
{
    connect_up();
    for (unsigned flag : {0u, unsigned{IBV_SEND_SOLICITED}}) {
        b.recv_queues[qb.id].push_back(recv_request(7, b_buffer, 5000, kb.lkey));
        SendRequest send = send_request(IBV_WR_SEND, 1, a_buffer, 5000, ka.lkey);
        send.wr.send_flags |= flag;
        carry_out({send});
        EXPECT_EQ(b.take_completions().at(0).solicited, flag != 0);
    }
}

// [virtio-rdma REQ-13]
TEST_F(Signaling, an_error_counts_as_solicited)
{
    connect_up();
    b.recv_queues[qb.id].push_back(recv_request(7, b_buffer, 8, kb.lkey));
    carry_out({send_request(IBV_WR_SEND, 1, a_buffer, 9, ka.lkey)});
    EXPECT_TRUE(b.take_completions().at(0).solicited);
}

TEST_F(Signaling, the_first_packet_in_rtr_establishes_the_connection)
{
    qa = a.create_qp(IBV_QPT_RC);
    qb = b.create_qp(IBV_QPT_RC);
    Connection c;
    connect_end(a, qa, b, qb, true, c, c.psn_a, c.psn_b);
    c.up_to = IBV_QPS_RTR; // b has not heard yet that a is ready
    connect_end(b, qb, a, qa, true, c, c.psn_b, c.psn_a);
    EXPECT_TRUE(b.events.empty());
    EXPECT_EQ(carry_out({write(1, IBV_SEND_SIGNALED), write(2, IBV_SEND_SIGNALED)}), (Ids{1, 2}));
    ASSERT_EQ(b.events.size(), 1u);
    EXPECT_EQ(b.events[0].type, IBV_EVENT_COMM_EST);
    EXPECT_EQ(b.events[0].object, qb.id);
}

// [virtio-rdma REQ-6]
TEST_F(Signaling, draining_waits_for_what_was_begun)
{
    connect_up();
    network.faults.lose = 1;
    a.send_queues[qa.id].push_back(write(1, IBV_SEND_SIGNALED));
    network.ring(a, qa.id);
    ASSERT_EQ(modify(a, qa, IBV_QPS_SQD, IBV_QP_EN_SQD_ASYNC_NOTIFY, 1), 0);
    EXPECT_TRUE(query(a, qa).sq_draining);
    EXPECT_TRUE(a.events.empty());
    EXPECT_EQ(modify(a, qa, IBV_QPS_RTS), EINVAL) << "not while it drains";
    EXPECT_EQ(modify(a, qa, IBV_QPS_SQD, IBV_QP_RETRY_CNT), EINVAL);
    network.faults.lose = 0;
    ASSERT_TRUE(network.settle()); // sent again after the timeout
    EXPECT_EQ(a.take_completions().size(), 1u);
    EXPECT_FALSE(query(a, qa).sq_draining);
    ASSERT_EQ(a.events.size(), 1u);
    EXPECT_EQ(a.events[0].type, IBV_EVENT_SQ_DRAINED);
    EXPECT_EQ(a.events[0].object, qa.id);
    EXPECT_EQ(modify(a, qa, IBV_QPS_RTS), 0);
    EXPECT_EQ(carry_out({write(2, IBV_SEND_SIGNALED)}), Ids{2});
}

TEST_F(Signaling, draining_without_the_flag_is_silent)
{
    connect_up();
    ASSERT_EQ(modify(a, qa, IBV_QPS_SQD), 0);
    EXPECT_TRUE(a.events.empty());
}

TEST_F(Signaling, while_it_drains_a_queue_answers_its_peer)
{
    connect_up();
    ASSERT_EQ(modify(b, qb, IBV_QPS_SQD), 0);
    EXPECT_EQ(carry_out({write(1, IBV_SEND_SIGNALED)}), Ids{1});
}

// [IBTA C9-140]
TEST_F(Signaling, a_drained_queue_takes_new_attributes)
{
    connect_up();
    ASSERT_EQ(modify(a, qa, IBV_QPS_SQD), 0);
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_SQD;
    attr.retry_cnt = 1;
    attr.timeout = 10;
    ASSERT_EQ(a.engine.modify_qp(qa.id, attr,
                                 IBV_QP_STATE | IBV_QP_RETRY_CNT | IBV_QP_TIMEOUT, {}),
              0);
    ASSERT_EQ(modify(a, qa, IBV_QPS_RTS), 0);
    EXPECT_EQ(carry_out({write(1, 0)}), Ids{}) << "it still knows its peer";
    network.faults.lose = 1;
    int64_t start = network.now;
    EXPECT_EQ(carry_out({write(2, 0)}), Ids{2});
    EXPECT_EQ(a.stats.timeouts, 2u);
    EXPECT_GE(network.now - start, 2 * (int64_t{4096} << 10));
}

// [IBTA 9.9.3-1] [IBTA 9.9.3-2]
TEST_F(Signaling, the_peers_wrong_requests_are_told_where_no_receive_tells_of_them)
{
    connect_up();
    carry_out({write(1, 0, 1)});
    ASSERT_EQ(b.events.size(), 1u);
    EXPECT_EQ(b.events[0].type, IBV_EVENT_QP_ACCESS_ERR);
    EXPECT_EQ(b.events[0].object, qb.id);
    EXPECT_EQ(query(b, qb).qp_state, IBV_QPS_ERR);
}

// 9.7.5.2.8, table 45, in milliseconds.
// [IBTA 9.7.5.2.8-4]
TEST_F(Signaling, rnr_timers_are_as_the_standards_table_has_them)
{
    static constexpr double milliseconds[32] = {
        655.36, 0.01, 0.02, 0.03, 0.04,  0.06,  0.08,  0.12,  0.16,  0.24,   0.32,
        0.48,   0.64, 0.96, 1.28, 1.92,  2.56,  3.84,  5.12,  7.68,  10.24,  15.36,
        20.48,  30.72, 40.96, 61.44, 81.92, 122.88, 163.84, 245.76, 327.68, 491.52};
    for (uint8_t code = 0; code < 32; ++code) {
        connect_up(false, {.timeout = 0, .rnr_retry = 1, .min_rnr_timer = code});
        int64_t start = network.now;
        carry_out({send_request(IBV_WR_SEND, 1, a_buffer, 8, ka.lkey)}); // tried twice
        int64_t waited = network.now - start;
        EXPECT_NEAR(static_cast<double>(waited), milliseconds[code] * 1e6, 10e3) << +code;
    }
}

TEST_F(Signaling, an_rnr_timer_can_be_changed_while_connected)
{
    connect_up(false, {.timeout = 0, .rnr_retry = 1, .min_rnr_timer = 1});
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_RTS;
    attr.min_rnr_timer = 20; // 10.24 ms
    ASSERT_EQ(b.engine.modify_qp(qb.id, attr, IBV_QP_STATE | IBV_QP_MIN_RNR_TIMER, {}), 0);
    int64_t start = network.now;
    carry_out({send_request(IBV_WR_SEND, 1, a_buffer, 8, ka.lkey)});
    EXPECT_GE(network.now - start, 10'240'000);
}

// 9.7.3.1: no more READs and atomics on their way than max_rd_atomic.
// [IBTA 9.7.3.1-1]
TEST_F(Signaling, the_requester_keeps_to_max_rd_atomic)
{
    for (uint8_t most : std::array<uint8_t, 3>{1, 3, 16}) {
        connect_up(false, {.rd_atomic = most});
        unsigned requests = 0;
        network.filter = [&](Node& from, std::vector<uint8_t>& frame) {
            constexpr size_t bth = 14 + 20 + 8;
            requests += &from == &a && (frame[bth] == op_read_request || frame[bth] == op_fetch_add);
            return false; // lost
        };
        for (uint64_t i = 0; i < 20; ++i) {
            a.send_queues[qa.id].push_back(
                i % 2 ? send_request(IBV_WR_RDMA_READ, i, a_buffer, 8, ka.lkey, b_buffer, kb.rkey)
                      : send_request(IBV_WR_ATOMIC_FETCH_AND_ADD, i, a_buffer, 8, ka.lkey, b_buffer,
                                     kb.rkey));
        }
        network.ring(a, qa.id);
        EXPECT_EQ(requests, most);
        network.filter = {};
        ASSERT_TRUE(network.settle());
        EXPECT_EQ(a.take_completions().size(), 20u);
        EXPECT_TRUE(b.events.empty());
    }
}

TEST_F(Signaling, without_initiator_depth_reads_and_atomics_are_refused)
{
    connect_up(false, {.rd_atomic = 0});
    carry_out({send_request(IBV_WR_RDMA_READ, 1, a_buffer, 8, ka.lkey, b_buffer, kb.rkey)});
    EXPECT_EQ(query(a, qa).qp_state, IBV_QPS_ERR);
    EXPECT_TRUE(b.events.empty()) << "nothing was sent";
}

} // namespace
} // namespace rdma::test
