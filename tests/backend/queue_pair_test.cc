// SPDX-License-Identifier: GPL-2.0-or-later
//
// States and attributes of queue pairs (IBTA vol. 1, 10.3.1 and 11.2.5.2).
#include <cerrno>

#include "backend_test.h"

namespace rdma::test {
namespace {

TEST_P(BackendTest, a_qp_goes_through_its_states)
{
    connect_pair();
    EXPECT_EQ(state_of(a, qa.id), IBV_QPS_RTS);
    EXPECT_EQ(to_state(a, qa.id, IBV_QPS_ERR), 0);
    EXPECT_EQ(state_of(a, qa.id), IBV_QPS_ERR);
    EXPECT_EQ(to_state(a, qa.id, IBV_QPS_RESET), 0);
    EXPECT_EQ(state_of(a, qa.id), IBV_QPS_RESET);
}

TEST_P(BackendTest, transitions_that_are_not_legal_change_nothing)
{
    QpNumbers qp = create(a, IBV_QPT_RC);
    EXPECT_EQ(to_rtr(a, qp.id, IBV_QPT_RC, b, 1000, psn_b), EINVAL);
    EXPECT_EQ(to_rts(a, qp.id, IBV_QPT_RC, psn_a), EINVAL);
    EXPECT_EQ(to_state(a, qp.id, IBV_QPS_INIT), EINVAL); // attributes are missing
    EXPECT_EQ(state_of(a, qp.id), IBV_QPS_RESET);
    EXPECT_EQ(to_init(a, qp.id, IBV_QPT_RC), 0);
    EXPECT_EQ(to_rts(a, qp.id, IBV_QPT_RC, psn_a), EINVAL);
    EXPECT_EQ(to_state(a, qp.id, IBV_QPS_RTR), EINVAL);
    EXPECT_EQ(state_of(a, qp.id), IBV_QPS_INIT);
    EXPECT_EQ(to_rtr(a, qp.id, IBV_QPT_RC, b, 1000, psn_b), 0);
    EXPECT_EQ(to_init(a, qp.id, IBV_QPT_RC), EINVAL);
    EXPECT_EQ(state_of(a, qp.id), IBV_QPS_RTR);
    EXPECT_EQ(to_state(a, 50, IBV_QPS_ERR), ENOENT);
}

TEST_P(BackendTest, attributes_out_of_range_are_refused)
{
    QpNumbers qp = create(a, IBV_QPT_RC);
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = 2;
    int mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
    EXPECT_EQ(modify(a, qp.id, attr, mask), EINVAL);
    attr.port_num = 1;
    attr.pkey_index = 1;
    EXPECT_EQ(modify(a, qp.id, attr, mask), EINVAL);
    ASSERT_EQ(to_init(a, qp.id, IBV_QPT_RC), 0);
    Connection c;
    c.mtu = static_cast<ibv_mtu>(6);
    EXPECT_EQ(to_rtr(a, qp.id, IBV_QPT_RC, b, 1000, psn_b, c), EINVAL);
    c = {};
    c.min_rnr_timer = 32;
    EXPECT_EQ(to_rtr(a, qp.id, IBV_QPT_RC, b, 1000, psn_b, c), EINVAL);
    c = {};
    c.rd_atomic = 17;
    EXPECT_EQ(to_rtr(a, qp.id, IBV_QPT_RC, b, 1000, psn_b, c), EINVAL);
    ASSERT_EQ(to_rtr(a, qp.id, IBV_QPT_RC, b, 1000, psn_b), 0);
    c = {};
    c.timeout = 32;
    EXPECT_EQ(to_rts(a, qp.id, IBV_QPT_RC, psn_a, c), EINVAL);
    c = {};
    c.retry_cnt = 8;
    EXPECT_EQ(to_rts(a, qp.id, IBV_QPT_RC, psn_a, c), EINVAL);
    c = {};
    c.rnr_retry = 8;
    EXPECT_EQ(to_rts(a, qp.id, IBV_QPT_RC, psn_a, c), EINVAL);
    EXPECT_EQ(state_of(a, qp.id), IBV_QPS_RTR);
}

TEST_P(BackendTest, a_path_needs_a_gid_that_there_is)
{
    QpNumbers qp = create(a, IBV_QPT_RC);
    ASSERT_EQ(to_init(a, qp.id, IBV_QPT_RC), 0);
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_RTR;
    attr.path_mtu = IBV_MTU_1024;
    attr.max_dest_rd_atomic = 1;
    attr.dest_qp_num = 1000;
    attr.ah_attr.port_num = 1;
    attr.ah_attr.is_global = 1;
    attr.ah_attr.grh.dgid = b.gid;
    attr.ah_attr.grh.sgid_index = 3;
    int mask = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
               IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
    EXPECT_EQ(modify(a, qp.id, attr, mask, b.mac), EINVAL);
    attr.ah_attr.grh.sgid_index = 0;
    attr.ah_attr.is_global = 0;
    EXPECT_EQ(modify(a, qp.id, attr, mask, b.mac), EINVAL);
    attr.ah_attr.is_global = 1;
    EXPECT_EQ(modify(a, qp.id, attr, mask, b.mac), 0);
}

TEST_P(BackendTest, the_state_that_is_expected_is_checked)
{
    QpNumbers qp = create(a, IBV_QPT_RC);
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_ERR;
    attr.cur_qp_state = IBV_QPS_RTS;
    EXPECT_EQ(modify(a, qp.id, attr, IBV_QP_STATE | IBV_QP_CUR_STATE), EINVAL);
    attr.cur_qp_state = IBV_QPS_RESET;
    EXPECT_EQ(modify(a, qp.id, attr, IBV_QP_STATE | IBV_QP_CUR_STATE), 0);
}

TEST_P(BackendTest, a_query_tells_what_was_set)
{
    Connection c;
    c.timeout = 15;
    c.retry_cnt = 5;
    c.rnr_retry = 3;
    c.min_rnr_timer = 12;
    c.rd_atomic = 7;
    c.mtu = IBV_MTU_512;
    connect_pair(IBV_QPT_RC, c);
    ibv_qp_attr attr{};
    Mac mac{};
    ASSERT_EQ(a.backend->query_qp(qa.id, attr, mac), 0);
    EXPECT_EQ(attr.qp_state, IBV_QPS_RTS);
    EXPECT_EQ(attr.cur_qp_state, IBV_QPS_RTS);
    EXPECT_EQ(attr.path_mtu, IBV_MTU_512);
    EXPECT_EQ(attr.dest_qp_num, qb.qpn);
    EXPECT_EQ(attr.sq_psn, psn_a);
    EXPECT_EQ(attr.rq_psn, psn_b);
    EXPECT_EQ(attr.timeout, 15);
    EXPECT_EQ(attr.retry_cnt, 5);
    EXPECT_EQ(attr.rnr_retry, 3);
    EXPECT_EQ(attr.min_rnr_timer, 12);
    EXPECT_EQ(attr.max_rd_atomic, 7);
    EXPECT_EQ(attr.max_dest_rd_atomic, 7);
    EXPECT_EQ(attr.port_num, 1);
    EXPECT_EQ(attr.qp_access_flags, c.access);
    EXPECT_EQ(attr.ah_attr.grh.sgid_index, 0);
    EXPECT_EQ(attr.ah_attr.grh.hop_limit, 64);
    EXPECT_TRUE(std::ranges::equal(attr.ah_attr.grh.dgid.raw, b.gid.raw));
    EXPECT_EQ(attr.cap.max_send_wr, 64u);
    EXPECT_EQ(mac, b.mac);
    EXPECT_EQ(a.backend->query_qp(50, attr, mac), ENOENT);
}

TEST_P(BackendTest, attributes_can_change_while_a_qp_sends)
{
    connect_pair();
    ibv_qp_attr attr{};
    attr.min_rnr_timer = 20;
    attr.qp_access_flags = IBV_ACCESS_REMOTE_READ;
    EXPECT_EQ(modify(b, qb.id, attr, IBV_QP_MIN_RNR_TIMER | IBV_QP_ACCESS_FLAGS), 0);
    Mac mac;
    ASSERT_EQ(b.backend->query_qp(qb.id, attr, mac), 0);
    EXPECT_EQ(attr.min_rnr_timer, 20);
    EXPECT_EQ(attr.qp_state, IBV_QPS_RTS);
    a.post_send(qa.id, send_request(IBV_WR_RDMA_WRITE, 1, source, 8, a.mr.lkey, target, b.mr.rkey));
    // rxe takes it for an operation that the QP does not have.
    expect_status(next(a)[0], IBV_WC_REM_ACCESS_ERR, IBV_WC_REM_INV_REQ_ERR);
    EXPECT_EQ(state_of(a, qa.id), IBV_QPS_ERR);
}

} // namespace
} // namespace rdma::test
