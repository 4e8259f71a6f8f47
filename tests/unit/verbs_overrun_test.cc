// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the verbs backend does with queue pairs whose completion queue has lost a completion
// (IBTA vol. 1, 11.6.3.2).
#include <algorithm>

#include "../backend/backend_test.h"
#include "../backend/moving_home.h"
#include "stand_in_host.h"

namespace rdma::test {
namespace {

constexpr size_t count = 200;
constexpr size_t most_in_a_run = 64;

Limits many_qps()
{
    Limits limits = small_limits();
    limits.max_qp = count + 2;
    return limits;
}

class VerbsOverrun : public testing::Test {
protected:
    QpNumbers create(uint32_t send_cq, uint32_t recv_cq)
    {
        QpInit init = a.qp_init(IBV_QPT_RC);
        init.send_cq = send_cq;
        init.recv_cq = recv_cq;
        return a.backend->create_qp(init).value();
    }
    QpNumbers ready(uint32_t send_cq, uint32_t recv_cq)
    {
        QpNumbers qp = create(send_cq, recv_cq);
        EXPECT_EQ(to_init(a, qp.id, IBV_QPT_RC), 0);
        return qp;
    }
    // A receive request of the QP is flushed.
    void flush_one(QpNumbers qp)
    {
        a.post_recv(qp.id, recv_request(1, ram_base, 64, a.mr.lkey));
        EXPECT_EQ(to_state(a, qp.id, IBV_QPS_ERR), 0);
    }
    size_t fatal_events() const
    {
        return static_cast<size_t>(std::ranges::count(a.events, IBV_EVENT_QP_FATAL, &Event::type));
    }

    struct Network : StandInHost {
        Network() { add_device("alpha", {gid_of("127.0.6.1")}); }
    };
    Network host;
    BackendEnd a{many_qps()};
    Home home{a, "alpha", 0};
    uint32_t other_cq = a.backend->create_cq().value();
};

TEST_F(VerbsOverrun, moves_every_qp_of_the_queue_to_the_error_state)
{
    QpNumbers first = ready(other_cq, a.cq), sends = ready(a.cq, other_cq);
    QpNumbers neither = ready(other_cq, other_cq);
    QpNumbers fresh = create(a.cq, a.cq);
    a.full_cq = a.cq;
    flush_one(first);
    EXPECT_EQ(state_of(a, sends.id), IBV_QPS_ERR);
    EXPECT_EQ(state_of(a, neither.id), IBV_QPS_INIT);
    EXPECT_EQ(state_of(a, fresh.id), IBV_QPS_RESET);
    ASSERT_EQ(fatal_events(), 1u);
    EXPECT_TRUE(a.has_event(IBV_EVENT_QP_FATAL, sends.id));
}

TEST_F(VerbsOverrun, fails_few_qps_in_a_run_and_the_others_later)
{
    QpNumbers first = ready(a.cq, a.cq);
    for (size_t i = 1; i < count; ++i) {
        ready(i % 2 ? a.cq : other_cq, a.cq);
    }
    a.full_cq = a.cq;
    flush_one(first);
    EXPECT_LE(fatal_events(), most_in_a_run);
    for (size_t before = fatal_events(); before < count - 1; before = fatal_events()) {
        pollfd fd{home.backend->event_fd(), POLLIN, 0};
        ASSERT_EQ(poll(&fd, 1, 0), 1) << "there is more to do";
        home.backend->handle_events();
        ASSERT_GT(fatal_events(), before);
        ASSERT_LE(fatal_events(), before + most_in_a_run);
    }
}

TEST_F(VerbsOverrun, fails_all_qps_before_a_stop_is_done)
{
    QpNumbers first = ready(a.cq, a.cq);
    for (size_t i = 1; i < count; ++i) {
        ready(a.cq, a.cq);
    }
    a.full_cq = a.cq;
    flush_one(first);
    home.backend->handle_events();
    EXPECT_LE(fatal_events(), most_in_a_run);
    home.backend->stop();
    EXPECT_EQ(fatal_events(), count - 1);
}

TEST_F(VerbsOverrun, fails_a_qp_that_is_connected_later_as_well)
{
    QpNumbers first = ready(a.cq, a.cq);
    QpNumbers later = create(a.cq, other_cq), peer = create(other_cq, other_cq);
    a.full_cq = a.cq;
    flush_one(first);
    a.wait_events = [this] {
        home.backend->handle_events();
        return true;
    };
    for (auto [own, other] : {std::pair(later, peer), std::pair(peer, later)}) {
        ASSERT_EQ(to_init(a, own.id, IBV_QPT_RC), 0);
        ASSERT_EQ(to_rtr(a, own.id, IBV_QPT_RC, a, other.qpn, 0), 0);
        ASSERT_EQ(to_rts(a, own.id, IBV_QPT_RC, 0), 0);
    }
    // Its completion goes to a queue that takes nothing.
    a.post_send(later.id, send_request(IBV_WR_RDMA_WRITE, 1, ram_base, 8, a.mr.lkey, ram_base + 64,
                                       a.mr.rkey));
    home.backend->handle_events();
    EXPECT_EQ(state_of(a, later.id), IBV_QPS_ERR);
    EXPECT_TRUE(a.has_event(IBV_EVENT_QP_FATAL, later.id));
}

} // namespace
} // namespace rdma::test
