// SPDX-License-Identifier: GPL-2.0-or-later
//
// What becomes of queue pairs whose completion queue has lost a completion
// (IBTA vol. 1, 11.6.3.2).
#include <algorithm>

#include "engine_harness.h"

namespace rdma::test {
namespace {

constexpr uint64_t a_buffer = ram_base;
constexpr uint64_t b_buffer = ram_base + 0x100000;

struct CqOverrun : testing::Test {
    Node a{1}, b{2};
    Network network;
    MrKeys ka = a.register_ram(), kb = b.register_ram();
    uint32_t other_cq = a.engine.create_cq().value();

    void SetUp() override
    {
        network.add(a);
        network.add(b);
    }
    // A connected QP of a's with these CQs.
    QpNumbers connected(uint32_t send_cq, uint32_t recv_cq)
    {
        QpInit init = a.qp_init(IBV_QPT_RC);
        init.send_cq = send_cq;
        init.recv_cq = recv_cq;
        QpNumbers own = a.engine.create_qp(init).value(), peer = b.create_qp(IBV_QPT_RC);
        connect(a, own, b, peer);
        return own;
    }
    void write(QpNumbers qp)
    {
        a.send_queues[qp.id].push_back(
            send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 8, ka.lkey, b_buffer, kb.rkey));
        network.ring(a, qp.id);
        EXPECT_TRUE(network.settle());
    }
    size_t fatal_events(QpNumbers qp)
    {
        return static_cast<size_t>(std::ranges::count_if(a.events, [&](const Event& event) {
            return event.type == IBV_EVENT_QP_FATAL && event.object == qp.id;
        }));
    }
};

TEST_F(CqOverrun, moves_every_qp_of_the_queue_to_the_error_state)
{
    QpNumbers sends = connected(a.cq, other_cq), receives = connected(other_cq, a.cq);
    QpNumbers neither = connected(other_cq, other_cq);
    QpNumbers fresh = a.create_qp(IBV_QPT_RC); // in RESET: nothing to lose
    a.overrun_cq = a.cq;
    write(sends);
    EXPECT_EQ(a.state_of(sends), IBV_QPS_ERR);
    EXPECT_EQ(a.state_of(receives), IBV_QPS_ERR);
    EXPECT_EQ(a.state_of(neither), IBV_QPS_RTS);
    EXPECT_EQ(a.state_of(fresh), IBV_QPS_RESET);
    EXPECT_EQ(fatal_events(sends), 1u);
    EXPECT_EQ(fatal_events(receives), 1u);
    EXPECT_EQ(fatal_events(neither), 0u);
    EXPECT_EQ(fatal_events(fresh), 0u);
    write(neither);
    EXPECT_EQ(a.take_completions().at(0).wc.status, IBV_WC_SUCCESS);
}

TEST_F(CqOverrun, is_told_to_each_qp_once)
{
    QpNumbers qp = connected(a.cq, a.cq);
    a.overrun_cq = a.cq;
    write(qp);
    write(qp); // flushed, into a queue that takes nothing
    EXPECT_EQ(fatal_events(qp), 1u);
    EXPECT_FALSE(a.engine.has_work());
}

TEST_F(CqOverrun, fails_a_qp_that_is_connected_later_as_well)
{
    a.overrun_cq = a.cq;
    write(connected(a.cq, a.cq));
    QpNumbers later = connected(a.cq, a.cq);
    write(later);
    EXPECT_EQ(a.state_of(later), IBV_QPS_ERR);
    EXPECT_EQ(fatal_events(later), 1u);
}

TEST_F(CqOverrun, flushes_to_a_queue_that_is_whole)
{
    QpNumbers qp = connected(a.cq, other_cq);
    a.recv_queues[qp.id].push_back(recv_request(7, a_buffer, 8, ka.lkey));
    a.overrun_cq = a.cq;
    write(qp);
    auto done = a.take_completions();
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(done[0].wc.wr_id, 7u);
    EXPECT_EQ(done[0].wc.status, IBV_WC_WR_FLUSH_ERR);
}

// A queue that many queue pairs have in common.
struct CqOverrunOfMany : CqOverrun {
    static constexpr size_t count = 200;
    static constexpr size_t most_in_a_run = 64;
    std::vector<QpNumbers> qps;

    void SetUp() override
    {
        CqOverrun::SetUp();
        for (size_t i = 0; i < count; ++i) {
            qps.push_back(connected(a.cq, i % 2 ? a.cq : other_cq));
        }
        a.overrun_cq = a.cq;
    }
    // A completion is lost; the engine has not had its turn since.
    void lose_completion()
    {
        QpNumbers qp = qps[count / 2];
        a.send_queues[qp.id].push_back(
            send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 8, ka.lkey, b_buffer, kb.rkey));
        std::vector<uint8_t> answer;
        b.transmit = [&](std::vector<uint8_t> frame) { answer = std::move(frame); };
        a.transmit = [&](std::vector<uint8_t> frame) { b.engine.receive(frame, network.now); };
        a.engine.send_doorbell(qp.id);
        a.engine.run(network.now, 64);
        b.engine.run(network.now, 64);
        ASSERT_FALSE(answer.empty());
        a.engine.receive(answer, network.now);
    }
    size_t failed()
    {
        return static_cast<size_t>(std::ranges::count_if(
            qps, [&](QpNumbers qp) { return a.state_of(qp) == IBV_QPS_ERR; }));
    }
    void run_to_the_end()
    {
        for (int i = 0; i < 100 && a.engine.has_work(); ++i) {
            size_t before = failed();
            a.engine.run(network.now, 64);
            EXPECT_LE(failed() - before, most_in_a_run);
        }
        EXPECT_FALSE(a.engine.has_work());
    }
};

TEST_F(CqOverrunOfMany, fails_a_bounded_number_of_qps_in_a_run)
{
    lose_completion();
    ASSERT_TRUE(a.engine.has_work());
    run_to_the_end();
    EXPECT_EQ(failed(), count);
    for (QpNumbers qp : qps) {
        EXPECT_EQ(fatal_events(qp), 1u) << qp.id;
    }
}

TEST_F(CqOverrunOfMany, goes_on_while_the_link_is_blocked)
{
    a.link_takes_more = false;
    lose_completion();
    run_to_the_end();
    EXPECT_EQ(failed(), count);
}

TEST_F(CqOverrunOfMany, goes_on_after_a_migration)
{
    lose_completion();
    a.engine.run(network.now, 64);
    size_t before = failed();
    EXPECT_LT(before, count);
    a.engine.stop(network.now);
    EXPECT_LE(failed() - before, most_in_a_run);
    a.migrate(network.now);
    a.engine.start(network.now);
    run_to_the_end();
    EXPECT_EQ(failed(), count);
    for (QpNumbers qp : qps) {
        EXPECT_LE(fatal_events(qp), 1u) << qp.id;
    }
}

TEST_F(CqOverrunOfMany, leaves_no_trace_of_what_is_destroyed_meanwhile)
{
    lose_completion();
    a.engine.run(network.now, 64);
    for (QpNumbers qp : qps) {
        ASSERT_EQ(a.engine.destroy_qp(qp.id), 0);
    }
    ASSERT_EQ(a.engine.destroy_cq(a.cq), 0);
    EXPECT_EQ(a.engine.create_cq().value(), a.cq);
    a.overrun_cq.reset();
    QpNumbers qp = connected(a.cq, a.cq);
    for (int i = 0; i < 10; ++i) {
        a.engine.run(network.now, 64);
    }
    EXPECT_EQ(a.state_of(qp), IBV_QPS_RTS);
    EXPECT_FALSE(a.engine.has_work());
}

} // namespace
} // namespace rdma::test
