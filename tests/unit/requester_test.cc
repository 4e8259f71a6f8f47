// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the requester of an RC QP sends when, and what restarts its timer and its counters
// (IBTA vol. 1, 9.7.3 and 9.7.6.1).
#include "reliable_connection.h"

namespace rdma::test {
namespace {

constexpr int64_t ms = 1'000'000;

struct Requesting : ReliableConnection {
    SendRequest write(uint64_t wr_id, uint32_t length = 8)
    {
        return send_request(IBV_WR_RDMA_WRITE, wr_id, a_buffer, length, ka.lkey, b_buffer, kb.rkey);
    }
    SendRequest read(uint64_t wr_id, uint32_t length)
    {
        return send_request(IBV_WR_RDMA_READ, wr_id, a_buffer, length, ka.lkey, b_buffer, kb.rkey);
    }
    uint32_t fast_reg_key() { return a.fast_reg_region(1, IBV_ACCESS_LOCAL_WRITE).lkey; }
    static SendRequest registration(uint64_t wr_id, uint32_t key, unsigned flags = 0)
    {
        return fast_registration(wr_id, key, a_buffer, page_size, {a_buffer}, IBV_ACCESS_LOCAL_WRITE,
                                 flags);
    }
    // A region whose pages are no RAM: requests from it fail when they are sent.
    MrKeys region_without_ram(uint32_t pages)
    {
        std::vector<uint64_t> gpas;
        for (uint32_t i = 0; i < pages; ++i) {
            gpas.push_back(uint64_t{1} << 40 | uint64_t{i} * page_size);
        }
        MrInit init;
        init.pd = a.pd;
        init.access = IBV_ACCESS_LOCAL_WRITE;
        init.iova = a_buffer;
        init.length = pages * page_size;
        init.pages = gpas;
        return a.engine.reg_mr(init).value();
    }
    // A write and one that fails are posted together.
    void expect_acknowledged_before(const SendRequest& failing)
    {
        a.send_queues[qa.id] = {write(1), failing};
        network.ring(a, qa.id);
        EXPECT_TRUE(network.settle());
        auto done = a.take_completions();
        ASSERT_EQ(done.size(), 2u);
        EXPECT_EQ(done[0].wc.status, IBV_WC_SUCCESS);
        EXPECT_EQ(done[1].wc.status, IBV_WC_LOC_PROT_ERR);
    }
    int modify(ibv_qp_state state, const ibv_qp_attr& given, int mask)
    {
        ibv_qp_attr attr = given;
        attr.qp_state = state;
        return a.engine.modify_qp(qa.id, attr, IBV_QP_STATE | mask, {});
    }
    // As many frames as a sends while b hears none of them.
    std::vector<uint8_t> operations_sent_unanswered(std::initializer_list<SendRequest> requests)
    {
        std::vector<uint8_t> operations;
        network.filter = [&](Node&, std::vector<uint8_t>& frame) {
            operations.push_back(frame[14 + 20 + 8]);
            return false;
        };
        a.send_queues[qa.id].insert(a.send_queues[qa.id].end(), requests);
        network.ring(a, qa.id);
        network.filter = nullptr;
        return operations;
    }
};

// timeout code 8: 1 ms.
TEST_F(Requesting, local_operations_are_no_sign_of_the_peer)
{
    connect_up({.timeout = 8, .retry_cnt = 3});
    network.faults.lose = 1;
    post(write(1));
    for (uint64_t i = 0; i < 20; ++i) {
        post(registration(100 + i, fast_reg_key()));
        network.settle(ms / 2);
    }
    EXPECT_EQ(a.stats.timeouts, 4u);
    auto done = a.take_completions();
    ASSERT_FALSE(done.empty());
    EXPECT_EQ(done[0].wc.status, IBV_WC_RETRY_EXC_ERR);
}

TEST_F(Requesting, retry_counters_changed_while_drained_hold_at_once)
{
    connect_up({.rnr_retry = 0});
    ASSERT_EQ(modify(IBV_QPS_SQD, {}, 0), 0);
    ibv_qp_attr attr{};
    attr.rnr_retry = 3;
    attr.retry_cnt = 2;
    ASSERT_EQ(modify(IBV_QPS_SQD, attr, IBV_QP_RNR_RETRY | IBV_QP_RETRY_CNT), 0);
    ASSERT_EQ(modify(IBV_QPS_RTS, {}, 0), 0);
    post(send_request(IBV_WR_SEND, 1, a_buffer, 8, ka.lkey)); // no receive
    EXPECT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_RNR_RETRY_EXC_ERR);
    EXPECT_EQ(a.stats.rnr_naks_received, 4u);
}

// Without an ACK timeout nothing but an answer leads on.
TEST_F(Requesting, a_request_before_one_that_fails_is_acknowledged)
{
    connect_up({.timeout = 0});
    auto failing = write(2);
    failing.sge[0].lkey = region_without_ram(1).lkey;
    expect_acknowledged_before(failing);
}

TEST_F(Requesting, a_request_before_one_that_fails_in_its_middle_is_acknowledged)
{
    connect_up({.timeout = 0});
    auto failing = write(2, 2000);
    failing.wr.num_sge = 2;
    failing.sge[0].length = 1500;
    failing.sge[1] = {a_buffer, 500, region_without_ram(1).lkey};
    expect_acknowledged_before(failing);
}

// [IBTA 9.2-7]
TEST_F(Requesting, a_request_before_a_registration_that_fails_is_acknowledged)
{
    connect_up({.timeout = 0});
    a.send_queues[qa.id] = {write(1), write(2), registration(3, 0xffffff00)};
    network.ring(a, qa.id);
    EXPECT_TRUE(network.settle());
    auto done = a.take_completions();
    ASSERT_EQ(done.size(), 3u);
    EXPECT_EQ(done[1].wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(done[2].wc.status, IBV_WC_MW_BIND_ERR);
}

// A READ's answers are the responder's to send: max_rd_atomic bounds them.
TEST_F(Requesting, long_reads_leave_the_window_to_what_follows)
{
    connect_up({.rd_atomic = 4});
    uint32_t n = 256 * 1024;
    auto sent = operations_sent_unanswered({read(1, n), read(2, n), read(3, n), write(4), read(5, n)});
    EXPECT_EQ(sent, (std::vector<uint8_t>{op_read_request, op_read_request, op_read_request,
                                          op_write_only, op_read_request}));
    EXPECT_TRUE(network.settle());
    auto done = a.take_completions();
    ASSERT_EQ(done.size(), 5u);
    for (size_t i = 0; i < done.size(); ++i) {
        EXPECT_EQ(done[i].wc.status, IBV_WC_SUCCESS);
        EXPECT_EQ(done[i].wc.wr_id, i + 1);
    }
}

TEST_F(Requesting, a_short_window_is_one_of_requests)
{
    connect_up({.timeout = 8, .rd_atomic = 4});
    network.faults.lose = 1;
    a.send_queues[qa.id] = {read(1, 4096), read(2, 4096)};
    network.ring(a, qa.id);
    network.settle(3 * ms / 2); // one timeout: a window of one packet
    network.faults.lose = 0;
    EXPECT_TRUE(network.settle());
    EXPECT_EQ(a.take_completions().size(), 2u);
}

// A local operation that a retry carried out again would fail: its region is valid already.
struct LocalOperations : Requesting, testing::WithParamInterface<double> {};

INSTANTIATE_TEST_SUITE_P(Loss, LocalOperations, testing::Values(0, 0.02, 0.2), [](const auto& p) {
    return std::to_string(static_cast<int>(p.param * 100)) + "_percent";
});

// [virtio-rdma REQ-12]
TEST_P(LocalOperations, are_carried_out_once_and_in_order)
{
    connect_up({.timeout = 8, .rnr_retry = 7});
    network.faults = {.lose = GetParam(), .repeat = GetParam(), .reorder = GetParam()};
    uint32_t key = fast_reg_key();
    for (uint32_t i = 0; i < 200; ++i) {
        key = (key & ~0xffu) | ((key + 1) & 0xff);
        post_recv(i, b_buffer + 0x80000, 64);
        auto send = send_request(IBV_WR_SEND, 1, a_buffer, 64, key);
        auto data = write(2, 3000);
        data.sge[0].lkey = key;
        SendRequest invalidation;
        invalidation.opcode = IBV_WR_LOCAL_INV;
        invalidation.wr.wr_id = i;
        invalidation.wr.invalidate_rkey = key;
        send.wr.send_flags = data.wr.send_flags = IBV_SEND_FENCE;
        invalidation.wr.send_flags = IBV_SEND_SIGNALED | IBV_SEND_FENCE;
        for (const auto& request :
             {registration(0, key, IBV_SEND_FENCE), send, data, invalidation}) {
            a.send_queues[qa.id].push_back(request);
        }
    }
    network.ring(a, qa.id);
    EXPECT_TRUE(network.settle());
    auto done = a.take_completions();
    ASSERT_EQ(done.size(), 200u);
    for (size_t i = 0; i < done.size(); ++i) {
        EXPECT_EQ(done[i].wc.status, IBV_WC_SUCCESS) << i;
        EXPECT_EQ(done[i].wc.wr_id, i);
    }
    EXPECT_EQ(b.take_completions().size(), 200u);
    if (GetParam() == 0) {
        EXPECT_EQ(a.stats.retransmitted_packets, 0u);
    }
}

// The ACK timeout is 1 ms; the pauses that the peer asks for are longer.
struct RnrPause : Requesting, testing::WithParamInterface<uint8_t> {};

INSTANTIATE_TEST_SUITE_P(Codes, RnrPause, testing::Values(0, 1, 12, 31));

// [IBTA 9.7.5.2.8-3]
TEST_P(RnrPause, is_as_long_as_asked_and_spends_no_retry)
{
    connect_up({.timeout = 8, .retry_cnt = 1, .rnr_retry = 1, .min_rnr_timer = GetParam()});
    post(send_request(IBV_WR_SEND, 1, a_buffer, 8, ka.lkey));
    int64_t pause = rnr_timer_ns(GetParam());
    network.settle(pause - 1000);
    EXPECT_EQ(b.stats.rnr_naks_sent, 1u) << "it sends again too early";
    post_recv(1, b_buffer, 8);
    network.settle(10'000);
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS) << "it sends again too late";
    EXPECT_TRUE(network.settle());
    EXPECT_EQ(a.stats.timeouts, 0u);
    EXPECT_EQ(b.stats.rnr_naks_sent, 1u);
}

} // namespace
} // namespace rdma::test
