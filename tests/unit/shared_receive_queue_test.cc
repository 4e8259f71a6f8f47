// SPDX-License-Identifier: GPL-2.0-or-later
//
// Shared receive queues (IBTA vol. 1, 10.2.9): several QPs take from one
// queue, and a limit tells when it runs low.
#include <algorithm>
#include <cerrno>

#include "engine_harness.h"

namespace rdma::test {
namespace {

constexpr uint64_t a_buffer = ram_base;
constexpr uint64_t b_buffer = ram_base + 0x100000;

struct SharedReceiveQueue : testing::Test {
    Node a{1}, b{2};
    Network network;
    MrKeys ka = a.register_ram(), kb = b.register_ram();
    uint32_t srq = b.engine.create_srq(b.pd, {16, 2, 0}).value();
    std::vector<QpNumbers> senders, receivers;

    void SetUp() override
    {
        network.add(a);
        network.add(b);
    }
    void add_connection(const Connection& c = {})
    {
        QpInit init;
        init.pd = b.pd;
        init.send_cq = init.recv_cq = b.cq;
        init.use_srq = true;
        init.srq = srq;
        init.cap = {16, 0, 2, 0, 0};
        senders.push_back(a.create_qp(IBV_QPT_RC));
        receivers.push_back(b.engine.create_qp(init).value());
        connect(a, senders.back(), b, receivers.back(), true, c);
    }
    void post_recv(uint64_t first, int count)
    {
        for (int i = 0; i < count; ++i) {
            uint64_t id = first + static_cast<uint64_t>(i);
            b.srq_queues[srq].push_back(recv_request(id, b_buffer + id * 64, 64, kb.lkey));
        }
        b.engine.srq_doorbell(srq);
    }
    void send(size_t connection)
    {
        uint32_t qp = senders[connection].id;
        a.send_queues[qp].push_back(send_request(IBV_WR_SEND, 1, a_buffer, 32, ka.lkey));
        network.ring(a, qp);
        network.settle();
    }
    int arm(uint32_t limit) { return b.engine.modify_srq(srq, {0, 0, limit}, IBV_SRQ_LIMIT); }
    uint32_t armed_limit()
    {
        ibv_srq_attr attr{};
        EXPECT_EQ(b.engine.query_srq(srq, attr), 0);
        return attr.srq_limit;
    }
    size_t limit_events()
    {
        auto events = std::exchange(b.events, {});
        return static_cast<size_t>(std::ranges::count_if(events, [&](const Event& event) {
            return event.type == IBV_EVENT_SRQ_LIMIT_REACHED && event.object == srq;
        }));
    }
};

TEST_F(SharedReceiveQueue, serves_qps_in_the_order_of_their_messages)
{
    add_connection();
    add_connection();
    post_recv(0, 4);
    for (size_t connection : {0u, 1u, 1u, 0u}) {
        send(connection);
    }
    auto done = b.take_completions();
    ASSERT_EQ(done.size(), 4u);
    for (size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(done[i].wc.wr_id, i);
        EXPECT_EQ(done[i].wc.status, IBV_WC_SUCCESS);
    }
    EXPECT_EQ(done[0].qp, receivers[0].id);
    EXPECT_EQ(done[1].qp, receivers[1].id);
    EXPECT_EQ(done[2].qp, receivers[1].id);
    EXPECT_EQ(done[3].qp, receivers[0].id);
}

TEST_F(SharedReceiveQueue, an_empty_one_makes_the_sender_wait)
{
    add_connection({.rnr_retry = 2});
    send(0);
    EXPECT_EQ(a.stats.rnr_naks_received, 3u);
    auto done = a.take_completions();
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(done[0].wc.status, IBV_WC_RNR_RETRY_EXC_ERR);
    EXPECT_TRUE(b.take_completions().empty());
}

TEST_F(SharedReceiveQueue, its_limit_is_told_once_below_it)
{
    add_connection();
    post_recv(0, 4);
    ASSERT_EQ(arm(3), 0);
    EXPECT_EQ(armed_limit(), 3u);
    send(0); // 3 are left
    EXPECT_EQ(limit_events(), 0u);
    send(0); // 2
    EXPECT_EQ(limit_events(), 1u);
    EXPECT_EQ(armed_limit(), 0u);
    send(0);
    EXPECT_EQ(limit_events(), 0u);
    // Armed again, it counts again.
    post_recv(4, 3); // 4
    ASSERT_EQ(arm(4), 0);
    EXPECT_EQ(limit_events(), 0u);
    send(0);
    EXPECT_EQ(limit_events(), 1u);
}

TEST_F(SharedReceiveQueue, a_limit_above_what_is_there_is_told_at_once)
{
    post_recv(0, 2);
    ASSERT_EQ(arm(3), 0);
    EXPECT_EQ(limit_events(), 1u);
    EXPECT_EQ(armed_limit(), 0u);
    EXPECT_EQ(arm(17), EINVAL); // more than it holds
    EXPECT_EQ(arm(0), 0);
    EXPECT_EQ(limit_events(), 0u);
}

// [virtio-rdma REQ-5]
TEST_F(SharedReceiveQueue, a_qp_in_error_leaves_the_rest_to_others)
{
    add_connection();
    add_connection();
    post_recv(0, 3);
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_ERR;
    ASSERT_EQ(b.engine.modify_qp(receivers[0].id, attr, IBV_QP_STATE, {}), 0);
    EXPECT_TRUE(b.take_completions().empty());
    ASSERT_EQ(b.events.size(), 1u);
    EXPECT_EQ(b.events[0].type, IBV_EVENT_QP_LAST_WQE_REACHED);
    EXPECT_EQ(b.events[0].object, receivers[0].id);
    send(1);
    auto done = b.take_completions();
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(done[0].wc.wr_id, 0u);
}

TEST_F(SharedReceiveQueue, in_use_it_cannot_be_destroyed)
{
    add_connection();
    EXPECT_EQ(b.engine.destroy_srq(srq), EBUSY);
    EXPECT_EQ(b.engine.destroy_qp(receivers[0].id), 0);
    EXPECT_EQ(b.engine.destroy_srq(srq), 0);
    EXPECT_EQ(b.engine.destroy_srq(srq), ENOENT);
}

} // namespace
} // namespace rdma::test
