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
    ibv_qp_state state_of(QpNumbers qp)
    {
        ibv_qp_attr attr{};
        Mac dmac;
        EXPECT_EQ(a.engine.query_qp(qp.id, attr, dmac), 0);
        return attr.qp_state;
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
    EXPECT_EQ(state_of(sends), IBV_QPS_ERR);
    EXPECT_EQ(state_of(receives), IBV_QPS_ERR);
    EXPECT_EQ(state_of(neither), IBV_QPS_RTS);
    EXPECT_EQ(state_of(fresh), IBV_QPS_RESET);
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
    EXPECT_EQ(state_of(later), IBV_QPS_ERR);
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

} // namespace
} // namespace rdma::test
