// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests that cannot be carried out, and what becomes of the others.
#include "backend_test.h"

namespace rdma::test {
namespace {

class Failures : public BackendTest {
protected:
    // A request of a's that fails: it and the two behind it complete, and the QP
    // is in error. So is the peer's where it has refused the request (9.9.3).
    void expect_failure(const SendRequest& bad, ibv_wc_status status,
                        ibv_wc_status other = IBV_WC_SUCCESS)
    {
        SendRequest good =
            send_request(IBV_WR_RDMA_WRITE, 90, source, 8, a.mr.lkey, target, b.mr.rkey);
        good.wr.send_flags = 0; // flushed requests complete all the same
        a.send_queues[qa.id] = {bad, good, good};
        a.backend->send_doorbell(qa.id);
        auto done = next(a, 3);
        EXPECT_EQ(done[0].wc.wr_id, bad.wr.wr_id);
        expect_status(done[0], status, other == IBV_WC_SUCCESS ? status : other);
        for (int i : {1, 2}) {
            EXPECT_EQ(done[static_cast<size_t>(i)].wc.wr_id, 90u);
            EXPECT_EQ(done[static_cast<size_t>(i)].wc.status, IBV_WC_WR_FLUSH_ERR);
        }
        EXPECT_EQ(state_of(a, qa.id), IBV_QPS_ERR);
        bool refused = status == IBV_WC_REM_ACCESS_ERR;
        expect_peer_state(refused ? IBV_QPS_ERR : IBV_QPS_RTS);
    }
    // Of the engine alone: when a host's device changes it is not known.
    void expect_peer_state(ibv_qp_state state)
    {
        if (is_roce()) {
            EXPECT_EQ(state_of(b, qb.id), state);
        }
    }
    SendRequest write_to(uint64_t remote, uint32_t rkey)
    {
        return send_request(IBV_WR_RDMA_WRITE, 80, source, 64, a.mr.lkey, remote, rkey);
    }
};

TEST_P(Failures, a_write_needs_a_key_that_there_is)
{
    connect_pair();
    expect_failure(write_to(target, b.mr.rkey + 0x10000), IBV_WC_REM_ACCESS_ERR);
}

TEST_P(Failures, a_write_stays_within_its_region)
{
    connect_pair();
    MrKeys page = b.register_pages(target, page_size, all_rights).value();
    expect_failure(write_to(target + page_size - 63, page.rkey), IBV_WC_REM_ACCESS_ERR);
}

TEST_P(Failures, a_write_needs_the_right)
{
    connect_pair();
    MrKeys page = b.register_pages(target, page_size, IBV_ACCESS_REMOTE_READ).value();
    expect_failure(write_to(target, page.rkey), IBV_WC_REM_ACCESS_ERR);
}

TEST_P(Failures, a_read_needs_the_right)
{
    connect_pair();
    MrKeys page =
        b.register_pages(target, page_size, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)
            .value();
    expect_failure(send_request(IBV_WR_RDMA_READ, 80, source, 64, a.mr.lkey, target, page.rkey),
                   IBV_WC_REM_ACCESS_ERR);
}

TEST_P(Failures, an_atomic_needs_the_right)
{
    connect_pair();
    MrKeys page =
        b.register_pages(target, page_size,
                         IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)
            .value();
    expect_failure(
        send_request(IBV_WR_ATOMIC_FETCH_AND_ADD, 80, source, 8, a.mr.lkey, target, page.rkey),
        IBV_WC_REM_ACCESS_ERR);
}

// [virtio-rdma CTL-14]
TEST_P(Failures, a_region_that_is_gone_is_not_written)
{
    connect_pair();
    MrKeys page = b.register_pages(target, page_size, all_rights).value();
    a.post_send(qa.id, write_to(target, page.rkey));
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_SUCCESS);
    ASSERT_EQ(b.backend->dereg_mr(page.id), 0);
    expect_failure(write_to(target, page.rkey), IBV_WC_REM_ACCESS_ERR);
}

TEST_P(Failures, a_message_needs_a_key_of_its_own)
{
    connect_pair();
    b.post_recv(qb.id, recv_request(1, target, 4096, b.mr.lkey));
    expect_failure(send_request(IBV_WR_SEND, 80, source, 64, a.mr.lkey + 0x10000),
                   // Linux 6.12's rxe flushes the failed request with the others.
                   IBV_WC_LOC_PROT_ERR, IBV_WC_WR_FLUSH_ERR);
}

// [virtio-rdma REQ-14]
TEST_P(Failures, a_request_that_cannot_be_decoded_fails_at_its_turn)
{
    connect_pair();
    SendRequest before = write_to(target, b.mr.rkey);
    before.wr.wr_id = 70;
    a.send_queues[qa.id].push_back(before);
    SendRequest bad = write_to(target, b.mr.rkey);
    bad.malformed = IBV_WC_LOC_QP_OP_ERR;
    a.send_queues[qa.id].push_back(bad);
    a.backend->send_doorbell(qa.id);
    auto done = next(a, 2);
    EXPECT_EQ(done[0].wc.wr_id, 70u);
    EXPECT_EQ(done[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(done[1].wc.wr_id, 80u);
    EXPECT_EQ(done[1].wc.status, IBV_WC_LOC_QP_OP_ERR);
    EXPECT_EQ(state_of(a, qa.id), IBV_QPS_ERR);
    expect_peer_state(IBV_QPS_RTS);
}

// [virtio-rdma QUE-25] [virtio-rdma REQ-14]
TEST_P(Failures, a_receive_request_that_cannot_be_decoded_fails_at_its_turn)
{
    connect_pair();
    b.post_recv(qb.id, recv_request(1, target, 64, b.mr.lkey));
    RecvRequest bad = recv_request(2, target, 64, b.mr.lkey);
    bad.malformed = IBV_WC_LOC_QP_OP_ERR;
    b.post_recv(qb.id, bad);
    a.post_send(qa.id, send_request(IBV_WR_SEND, 1, source, 8, a.mr.lkey));
    Completion good = next(b)[0];
    EXPECT_EQ(good.wc.wr_id, 1u);
    EXPECT_EQ(good.wc.status, IBV_WC_SUCCESS);
    a.post_send(qa.id, send_request(IBV_WR_SEND, 2, source, 8, a.mr.lkey));
    Completion failed = next(b)[0];
    EXPECT_EQ(failed.wc.wr_id, 2u);
    EXPECT_EQ(failed.wc.status, IBV_WC_LOC_QP_OP_ERR);
    EXPECT_EQ(state_of(b, qb.id), IBV_QPS_ERR);
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_SUCCESS);
    if (is_roce()) {
        EXPECT_EQ(next(a)[0].wc.status, IBV_WC_REM_OP_ERR);
        EXPECT_EQ(state_of(a, qa.id), IBV_QPS_ERR);
    }
}

TEST_P(Failures, a_message_must_fit_its_receive_request)
{
    connect_pair();
    b.post_recv(qb.id, recv_request(1, target, 32, b.mr.lkey));
    a.post_send(qa.id, send_request(IBV_WR_SEND, 2, source, 64, a.mr.lkey));
    // rxe fails the operation.
    expect_status(next(b)[0], IBV_WC_LOC_LEN_ERR, IBV_WC_LOC_QP_OP_ERR);
    expect_status(next(a)[0], IBV_WC_REM_INV_REQ_ERR, IBV_WC_REM_OP_ERR);
    EXPECT_EQ(state_of(a, qa.id), IBV_QPS_ERR);
    EXPECT_EQ(state_of(b, qb.id), IBV_QPS_ERR);
}

TEST_P(Failures, a_sender_gives_up_where_nothing_is_received)
{
    Connection c;
    c.rnr_retry = 1;
    connect_pair(IBV_QPT_RC, c);
    a.post_send(qa.id, send_request(IBV_WR_SEND, 1, source, 8, a.mr.lkey));
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_RNR_RETRY_EXC_ERR);
    EXPECT_EQ(state_of(a, qa.id), IBV_QPS_ERR);
    expect_peer_state(IBV_QPS_RTS);
}

// [virtio-rdma CTL-22]
TEST_P(Failures, a_sender_gives_up_where_nobody_answers)
{
    Connection c;
    c.timeout = 10; // 4 ms
    c.retry_cnt = 1;
    connect_pair(IBV_QPT_RC, c);
    ASSERT_EQ(b.backend->destroy_qp(qb.id), 0);
    a.post_send(qa.id, send_request(IBV_WR_SEND, 1, source, 8, a.mr.lkey));
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_RETRY_EXC_ERR);
    EXPECT_EQ(state_of(a, qa.id), IBV_QPS_ERR);
}

// [virtio-rdma REQ-5]
TEST_P(Failures, what_is_posted_to_a_qp_in_error_is_flushed)
{
    connect_pair();
    for (uint64_t i = 0; i < 5; ++i) {
        b.post_recv(qb.id, recv_request(i, target, 64, b.mr.lkey));
    }
    ASSERT_EQ(to_state(b, qb.id, IBV_QPS_ERR), 0);
    auto flushed = next(b, 5);
    for (uint64_t i = 0; i < 5; ++i) {
        EXPECT_EQ(flushed[i].wc.wr_id, i);
        EXPECT_EQ(flushed[i].wc.status, IBV_WC_WR_FLUSH_ERR);
        EXPECT_TRUE(flushed[i].solicited);
    }
    b.post_recv(qb.id, recv_request(10, target, 64, b.mr.lkey));
    EXPECT_EQ(next(b)[0].wc.wr_id, 10u);
    b.post_send(qb.id, send_request(IBV_WR_SEND, 11, source, 8, b.mr.lkey));
    Completion sent = next(b)[0];
    EXPECT_EQ(sent.wc.wr_id, 11u);
    EXPECT_EQ(sent.wc.status, IBV_WC_WR_FLUSH_ERR);
    EXPECT_EQ(state_of(b, qb.id), IBV_QPS_ERR);
    EXPECT_EQ(state_of(a, qa.id), IBV_QPS_RTS) << "nobody has told it";
}

TEST_P(Failures, a_qp_is_of_use_again_after_a_reset)
{
    connect_pair();
    b.post_recv(qb.id, recv_request(1, target, 64, b.mr.lkey));
    expect_failure(write_to(target, b.mr.rkey + 0x10000), IBV_WC_REM_ACCESS_ERR);
    for (BackendEnd* end : {&a, &b}) {
        ASSERT_EQ(to_state(*end, end == &a ? qa.id : qb.id, IBV_QPS_RESET), 0);
        end->completions.clear();
        end->send_queues.clear();
        end->recv_queues.clear();
    }
    connect(qa, qb);
    b.post_recv(qb.id, recv_request(2, target, 64, b.mr.lkey));
    a.post_send(qa.id, send_request(IBV_WR_SEND, 3, source, 8, a.mr.lkey));
    Completion received = next(b)[0];
    EXPECT_EQ(received.wc.wr_id, 2u);
    EXPECT_EQ(received.wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_SUCCESS);
}

TEST_P(Failures, a_qp_can_end_with_requests_in_it)
{
    connect_pair();
    for (uint64_t i = 0; i < 20; ++i) {
        b.post_recv(qb.id, recv_request(i, target, 64, b.mr.lkey));
        a.post_send(qa.id, send_request(IBV_WR_SEND, i, source, 8, a.mr.lkey));
    }
    ASSERT_EQ(a.backend->destroy_qp(qa.id), 0);
    ASSERT_EQ(b.backend->destroy_qp(qb.id), 0);
    a.completions.clear();
    b.completions.clear();
    a.send_queues.clear();
    b.recv_queues.clear();
    connect_pair();
    b.post_recv(qb.id, recv_request(30, target, 64, b.mr.lkey));
    a.post_send(qa.id, send_request(IBV_WR_SEND, 31, source, 8, a.mr.lkey));
    EXPECT_EQ(next(a)[0].wc.wr_id, 31u);
    EXPECT_EQ(next(b)[0].wc.wr_id, 30u);
}

TEST_P(Failures, the_qps_of_a_cq_that_overruns_fail)
{
    connect_pair();
    b.full_cq = b.cq;
    for (uint64_t i = 0; i < 2; ++i) {
        b.post_recv(qb.id, recv_request(i, target, 64, b.mr.lkey));
    }
    a.post_send(qa.id, send_request(IBV_WR_SEND, 1, source, 8, a.mr.lkey));
    EXPECT_TRUE(pair->run_until([&] { return b.has_event(IBV_EVENT_QP_FATAL, qb.id); }));
    EXPECT_EQ(state_of(b, qb.id), IBV_QPS_ERR);
}

TEST_P(Failures, requests_that_a_transport_does_not_have_fail)
{
    connect_pair(IBV_QPT_UC);
    a.post_send(qa.id, send_request(IBV_WR_RDMA_READ, 1, source, 64, a.mr.lkey, target, b.mr.rkey));
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_LOC_QP_OP_ERR);
    EXPECT_EQ(state_of(a, qa.id), IBV_QPS_SQE) << "its send queue alone has failed";
    expect_peer_state(IBV_QPS_RTS);
}

// That its receive queue goes on (10.3.1.7) is in tests/unit/unreliable_connection_test.cc: Linux 6.12's
// rxe moves a UC QP whose send fails by its key to the error state, and flushes both queues.

INSTANTIATE_TEST_SUITE_P(Backend, Failures, testing::ValuesIn(kinds_under_test()), name_of);

} // namespace
} // namespace rdma::test
