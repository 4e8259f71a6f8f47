// SPDX-License-Identifier: GPL-2.0-or-later
//
// Destinations whose Ethernet address the host has to look up, on its RDMA devices:
// what waits for them and what does not.
#include <cerrno>

#include "backend_test.h"

namespace rdma::test {
namespace {

class AddressLookup : public BackendTest {
protected:
    AddressLookup() : nobody(a.gid) { nobody.raw[15] = 77; }

    SendRequest datagram_to(const ibv_gid& gid, uint64_t wr_id)
    {
        SendRequest request = datagram(b, qb.qpn, c.qkey, source, 8, a.mr.lkey);
        request.wr.wr_id = wr_id;
        request.av.attr.grh.dgid = gid;
        return request;
    }
    // INIT to RTR, with a peer of this address.
    int start_change(QpNumbers qp, const ibv_gid& gid)
    {
        ibv_qp_attr attr{};
        attr.qp_state = IBV_QPS_RTR;
        attr.path_mtu = c.mtu;
        attr.dest_qp_num = qb.qpn;
        attr.rq_psn = psn_b;
        attr.ah_attr.is_global = 1;
        attr.ah_attr.grh.dgid = gid;
        attr.ah_attr.grh.hop_limit = 64;
        attr.ah_attr.port_num = 1;
        return a.backend->modify_qp(
            qp.id, attr,
            IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN, {});
    }

    Connection c;
    ibv_gid nobody; // on the host's network, and nobody answers
};

TEST_P(AddressLookup, datagrams_to_nobody_hold_up_their_own_queue_alone)
{
    QpNumbers other = create(a, IBV_QPT_UD);
    connect_pair(IBV_QPT_UD, c);
    connect_end(a, other, IBV_QPT_UD, b, qb, c);
    a.post_send(qa.id, datagram_to(nobody, 1));
    a.post_send(qa.id, datagram_to(b.gid, 2));
    a.post_send(other.id, datagram_to(b.gid, 3));
    auto sent = next(a, 3);
    EXPECT_EQ(sent[0].wc.wr_id, 3u);
    EXPECT_EQ(sent[1].wc.wr_id, 1u); // lost on the way
    EXPECT_EQ(sent[2].wc.wr_id, 2u);
    for (const Completion& completion : sent) {
        EXPECT_EQ(completion.wc.status, IBV_WC_SUCCESS);
    }
    EXPECT_EQ(a.stats.drop_unreachable, 1u);
}

TEST_P(AddressLookup, datagrams_that_wait_are_flushed)
{
    connect_pair(IBV_QPT_UD, c);
    a.post_send(qa.id, datagram_to(nobody, 1));
    a.post_send(qa.id, datagram_to(b.gid, 2));
    ASSERT_EQ(to_state(a, qa.id, IBV_QPS_ERR), 0);
    auto flushed = next(a, 2);
    EXPECT_EQ(flushed[0].wc.wr_id, 1u);
    EXPECT_EQ(flushed[1].wc.wr_id, 2u);
    EXPECT_EQ(flushed[0].wc.status, IBV_WC_WR_FLUSH_ERR);
    EXPECT_EQ(flushed[1].wc.status, IBV_WC_WR_FLUSH_ERR);
}

TEST_P(AddressLookup, a_queue_that_waits_can_be_reset)
{
    connect_pair(IBV_QPT_UD, c);
    a.post_send(qa.id, datagram_to(nobody, 1));
    ASSERT_EQ(to_state(a, qa.id, IBV_QPS_RESET), 0);
    connect_end(a, qa, IBV_QPT_UD, b, qb, c);
    a.post_send(qa.id, datagram_to(b.gid, 2));
    EXPECT_EQ(next(a)[0].wc.wr_id, 2u);
}

TEST_P(AddressLookup, a_change_that_waits_holds_up_nothing_else)
{
    connect_pair();
    QpNumbers qp = create(a, IBV_QPT_UC);
    ASSERT_EQ(to_init(a, qp.id, IBV_QPT_UC), 0);
    ASSERT_EQ(start_change(qp, nobody), EINPROGRESS);
    a.post_send(qa.id, send_request(IBV_WR_RDMA_WRITE, 7, source, 8, a.mr.lkey, target, b.mr.rkey));
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_FALSE(a.outcomes.contains(qp.id));
    EXPECT_EQ(state_of(a, qp.id), IBV_QPS_INIT);
    ASSERT_TRUE(pair->run_until([&] { return a.outcomes.contains(qp.id); }));
    EXPECT_NE(a.outcomes[qp.id], 0);
    EXPECT_EQ(state_of(a, qp.id), IBV_QPS_INIT);
    // It can be made all the same, with a peer that is there.
    EXPECT_EQ(to_rtr(a, qp.id, IBV_QPT_UC, b, qb.qpn, psn_b), 0);
    EXPECT_EQ(state_of(a, qp.id), IBV_QPS_RTR);
}

TEST_P(AddressLookup, a_change_that_waits_is_taken_back_by_the_next)
{
    qb = create(b, IBV_QPT_UC);
    qa = create(a, IBV_QPT_UC);
    ASSERT_EQ(to_init(a, qa.id, IBV_QPT_UC), 0);
    ASSERT_EQ(start_change(qa, nobody), EINPROGRESS);
    ASSERT_EQ(to_state(a, qa.id, IBV_QPS_RESET), 0);
    ASSERT_EQ(to_init(a, qa.id, IBV_QPT_UC), 0);
    ASSERT_EQ(start_change(qa, nobody), EINPROGRESS);
    EXPECT_EQ(to_rtr(a, qa.id, IBV_QPT_UC, b, qb.qpn, psn_b), 0);
    EXPECT_EQ(state_of(a, qa.id), IBV_QPS_RTR);
}

TEST_P(AddressLookup, what_waits_can_be_destroyed)
{
    connect_pair(IBV_QPT_UD, c);
    QpNumbers qp = create(a, IBV_QPT_UC);
    ASSERT_EQ(to_init(a, qp.id, IBV_QPT_UC), 0);
    ASSERT_EQ(start_change(qp, nobody), EINPROGRESS);
    a.post_send(qa.id, datagram_to(nobody, 1));
    EXPECT_EQ(a.backend->destroy_qp(qp.id), 0);
    EXPECT_EQ(a.backend->destroy_qp(qa.id), 0);
    EXPECT_EQ(a.backend->dereg_mr(a.mr.id), 0);
    EXPECT_EQ(a.backend->dealloc_pd(a.pd), 0);
    a.pd = a.backend->alloc_pd().value();
    a.backend->reset();
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(AddressLookup);
INSTANTIATE_TEST_SUITE_P(Backend, AddressLookup, testing::ValuesIn(host_kinds()), name_of);

} // namespace
} // namespace rdma::test
