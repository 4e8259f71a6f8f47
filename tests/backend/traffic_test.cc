// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests that are carried out.
#include <numeric>

#include "backend_test.h"

namespace rdma::test {
namespace {

constexpr unsigned grh_size = 40; // at the beginning of a datagram's buffer

// Bytes that differ from one place to the next.
void fill(BackendEnd& end, uint64_t gpa, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; ++i) {
        end.at(gpa)[i] = static_cast<std::byte>(i * 31 + i / 251 + seed);
    }
}

bool same(BackendEnd& a, uint64_t at_a, BackendEnd& b, uint64_t at_b, size_t size)
{
    return std::ranges::equal(std::span(a.at(at_a), size), std::span(b.at(at_b), size));
}

TEST_P(BackendTest, a_message_arrives)
{
    connect_pair();
    a.write(source, "hello");
    b.post_recv(qb.id, recv_request(77, target, 4096, b.mr.lkey));
    a.post_send(qa.id, send_request(IBV_WR_SEND, 88, source, 5, a.mr.lkey));
    Completion sent = next(a)[0];
    EXPECT_EQ(sent.wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(sent.wc.opcode, IBV_WC_SEND);
    EXPECT_EQ(sent.wc.wr_id, 88u);
    EXPECT_EQ(sent.wc.qp_num, qa.qpn);
    EXPECT_EQ(sent.qp, qa.id);
    Completion received = next(b)[0];
    EXPECT_EQ(received.wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(received.wc.opcode, IBV_WC_RECV);
    EXPECT_EQ(received.wc.wr_id, 77u);
    EXPECT_EQ(received.wc.byte_len, 5u);
    EXPECT_EQ(received.wc.qp_num, qb.qpn);
    EXPECT_EQ(received.qp, qb.id);
    EXPECT_EQ(b.text(target, 5), "hello");
}

TEST_P(BackendTest, a_message_is_gathered_and_scattered)
{
    connect_pair();
    fill(a, source, 3000, 1);
    RecvRequest recv = recv_request(1, target, 1000, b.mr.lkey);
    recv.num_sge = 3;
    recv.sge[1] = {target + 5000, 1500, b.mr.lkey};
    recv.sge[2] = {target + 9000, 4096, b.mr.lkey};
    b.post_recv(qb.id, recv);
    SendRequest send = send_request(IBV_WR_SEND, 2, source, 700, a.mr.lkey);
    send.wr.num_sge = 2;
    send.sge[1] = {source + 700, 2300, a.mr.lkey};
    a.post_send(qa.id, send);
    EXPECT_EQ(next(b)[0].wc.byte_len, 3000u);
    EXPECT_TRUE(same(a, source, b, target, 1000));
    EXPECT_TRUE(same(a, source + 1000, b, target + 5000, 1500));
    EXPECT_TRUE(same(a, source + 2500, b, target + 9000, 500));
}

// [IBTA 9.3.6-1] [IBTA 9.4.1-1]
TEST_P(BackendTest, immediate_data_arrive)
{
    connect_pair();
    b.post_recv(qb.id, recv_request(1, target, 4096, b.mr.lkey));
    SendRequest send = send_request(IBV_WR_SEND_WITH_IMM, 2, source, 0, a.mr.lkey);
    send.wr.num_sge = 0;
    send.wr.imm_data = 0x04030201;
    a.post_send(qa.id, send);
    Completion received = next(b)[0];
    EXPECT_EQ(received.wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(received.wc.byte_len, 0u);
    EXPECT_TRUE(received.wc.wc_flags & IBV_WC_WITH_IMM);
    EXPECT_EQ(received.wc.imm_data, 0x04030201u);
}

// [IBTA 9.4.3-1]
TEST_P(BackendTest, a_write_lands_at_its_address)
{
    connect_pair();
    constexpr uint32_t size = 1 << 20;
    fill(a, source, size, 2);
    a.post_send(
        qa.id, send_request(IBV_WR_RDMA_WRITE, 1, source, size, a.mr.lkey, target + 13, b.mr.rkey));
    Completion done = next(a)[0];
    EXPECT_EQ(done.wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(done.wc.opcode, IBV_WC_RDMA_WRITE);
    EXPECT_TRUE(same(a, source, b, target + 13, size));
    EXPECT_TRUE(b.completions.empty());
}

// [IBTA 9.4.3-2]
TEST_P(BackendTest, a_write_with_immediate_data_tells_the_peer)
{
    connect_pair();
    fill(a, source, 5000, 3);
    b.post_recv(qb.id, recv_request(5, target, 0, b.mr.lkey));
    SendRequest write =
        send_request(IBV_WR_RDMA_WRITE_WITH_IMM, 1, source, 5000, a.mr.lkey, target, b.mr.rkey);
    write.wr.imm_data = 7;
    a.post_send(qa.id, write);
    Completion received = next(b)[0];
    EXPECT_EQ(received.wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(received.wc.opcode, IBV_WC_RECV_RDMA_WITH_IMM);
    EXPECT_EQ(received.wc.byte_len, 5000u);
    EXPECT_EQ(received.wc.imm_data, 7u);
    EXPECT_TRUE(same(a, source, b, target, 5000));
}

TEST_P(BackendTest, a_read_fetches)
{
    connect_pair();
    constexpr uint32_t size = 300000;
    fill(b, target, size, 4);
    a.post_send(qa.id,
                send_request(IBV_WR_RDMA_READ, 1, source, size, a.mr.lkey, target, b.mr.rkey));
    Completion done = next(a)[0];
    EXPECT_EQ(done.wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(done.wc.opcode, IBV_WC_RDMA_READ);
    EXPECT_TRUE(same(b, target, a, source, size));
}

// [IBTA 9.4.5-1] [IBTA 9.4.5-2]
TEST_P(BackendTest, atomics_change_a_word_and_return_the_old_one)
{
    connect_pair();
    b.word(target) = 40;
    SendRequest add =
        send_request(IBV_WR_ATOMIC_FETCH_AND_ADD, 1, source, 8, a.mr.lkey, target, b.mr.rkey);
    add.wr.wr.atomic.compare_add = 2;
    a.post_send(qa.id, add);
    Completion done = next(a)[0];
    EXPECT_EQ(done.wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(done.wc.opcode, IBV_WC_FETCH_ADD);
    EXPECT_EQ(a.word(source), 40u);
    EXPECT_EQ(b.word(target), 42u);
    SendRequest swap =
        send_request(IBV_WR_ATOMIC_CMP_AND_SWP, 2, source, 8, a.mr.lkey, target, b.mr.rkey);
    swap.wr.wr.atomic.compare_add = 42;
    swap.wr.wr.atomic.swap = 99;
    a.post_send(qa.id, swap);
    EXPECT_EQ(next(a)[0].wc.opcode, IBV_WC_COMP_SWAP);
    EXPECT_EQ(a.word(source), 42u);
    EXPECT_EQ(b.word(target), 99u);
    a.post_send(qa.id, swap); // compares unequal
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(a.word(source), 99u);
    EXPECT_EQ(b.word(target), 99u);
}

TEST_P(BackendTest, unsignaled_requests_do_not_complete)
{
    connect_pair();
    SendRequest quiet = send_request(IBV_WR_RDMA_WRITE, 1, source, 8, a.mr.lkey, target, b.mr.rkey);
    quiet.wr.send_flags = 0;
    for (int i = 0; i < 200; ++i) { // more than the queue is deep
        a.post_send(qa.id, quiet);
    }
    a.post_send(qa.id, send_request(IBV_WR_RDMA_WRITE, 2, source, 8, a.mr.lkey, target, b.mr.rkey));
    EXPECT_EQ(next(a)[0].wc.wr_id, 2u);
    EXPECT_TRUE(a.completions.empty());
}

TEST_P(BackendTest, a_qp_can_signal_all)
{
    QpInit init = a.qp_init(IBV_QPT_RC);
    init.sq_sig_all = true;
    qa = a.backend->create_qp(init).value();
    qb = create(b, IBV_QPT_RC);
    connect(qa, qb);
    SendRequest quiet = send_request(IBV_WR_RDMA_WRITE, 1, source, 8, a.mr.lkey, target, b.mr.rkey);
    quiet.wr.send_flags = 0;
    a.post_send(qa.id, quiet);
    EXPECT_EQ(next(a)[0].wc.wr_id, 1u);
}

// [IBTA 9.5-1] [IBTA 9.5-2] [IBTA 9.5-5]
// [virtio-rdma REQ-8]
TEST_P(BackendTest, many_messages_keep_their_order)
{
    connect_pair(IBV_QPT_RC, {}, 16);
    constexpr unsigned count = 500;
    for (unsigned i = 0; i < count; ++i) {
        b.post_recv(qb.id, recv_request(i, target + i * 256, 256, b.mr.lkey));
        a.word(source + i * 256) = i;
        a.post_send(qa.id, send_request(IBV_WR_SEND, i, source + i * 256, 256, a.mr.lkey));
    }
    auto sent = next(a, count);
    auto received = next(b, count);
    for (unsigned i = 0; i < count; ++i) {
        ASSERT_EQ(sent[i].wc.status, IBV_WC_SUCCESS);
        ASSERT_EQ(sent[i].wc.wr_id, i);
        ASSERT_EQ(received[i].wc.wr_id, i);
        ASSERT_EQ(b.word(target + i * 256), i);
    }
}

TEST_P(BackendTest, a_sender_waits_for_a_receive_request)
{
    connect_pair();
    a.post_send(qa.id, send_request(IBV_WR_SEND, 1, source, 8, a.mr.lkey));
    a.post_send(qa.id, send_request(IBV_WR_SEND, 2, source, 8, a.mr.lkey));
    b.post_recv(qb.id, recv_request(3, target, 64, b.mr.lkey));
    EXPECT_EQ(next(a)[0].wc.wr_id, 1u);
    EXPECT_EQ(next(b)[0].wc.wr_id, 3u);
    b.post_recv(qb.id, recv_request(4, target, 64, b.mr.lkey));
    EXPECT_EQ(next(a)[0].wc.wr_id, 2u);
    EXPECT_EQ(next(b)[0].wc.wr_id, 4u);
}

TEST_P(BackendTest, pages_of_a_region_may_lie_anywhere)
{
    connect_pair();
    // Neighbours, a step back, the same page twice.
    const uint64_t pages[] = {target,
                              target + page_size,
                              target + 10 * page_size,
                              target + 5 * page_size,
                              target + 5 * page_size,
                              target + 6 * page_size};
    constexpr uint64_t iova = 0x7f0000000000 + 100;
    constexpr uint32_t size = 6 * page_size - 100;
    MrKeys keys = b.register_list(iova, size, all_rights, pages).value();
    fill(a, source, size, 5);
    a.post_send(qa.id,
                send_request(IBV_WR_RDMA_WRITE, 1, source, size, a.mr.lkey, iova, keys.rkey));
    ASSERT_EQ(next(a)[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_TRUE(same(a, source, b, target + 100, 2 * page_size - 100));
    EXPECT_TRUE(same(a, source + 2 * page_size - 100, b, target + 10 * page_size, page_size));
    EXPECT_TRUE(same(a, source + 4 * page_size - 100, b, target + 5 * page_size, 2 * page_size));
    a.post_send(qa.id, send_request(IBV_WR_RDMA_READ, 1, source + (1 << 16), size, a.mr.lkey, iova,
                                    keys.rkey));
    ASSERT_EQ(next(a)[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_TRUE(same(a, source, a, source + (1 << 16), 3 * page_size - 100));
    EXPECT_EQ(b.backend->dereg_mr(keys.id), 0);
}

TEST_P(BackendTest, qps_of_one_device_reach_each_other)
{
    qa = create(a, IBV_QPT_RC);
    QpNumbers other = create(a, IBV_QPT_RC);
    connect_end(a, qa, IBV_QPT_RC, a, other, {});
    // Both begin with the same PSN: they are at the same end.
    ASSERT_EQ(to_init(a, other.id, IBV_QPT_RC), 0);
    ASSERT_EQ(to_rtr(a, other.id, IBV_QPT_RC, a, qa.qpn, psn_a), 0);
    ASSERT_EQ(to_rts(a, other.id, IBV_QPT_RC, psn_b), 0);
    fill(a, source, 5000, 6);
    a.post_send(qa.id,
                send_request(IBV_WR_RDMA_WRITE, 1, source, 5000, a.mr.lkey, target, a.mr.rkey));
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_TRUE(same(a, source, a, target, 5000));
}

TEST_P(BackendTest, completions_go_to_the_cqs_of_their_queues)
{
    QpInit init = b.qp_init(IBV_QPT_RC);
    init.recv_cq = b.backend->create_cq().value();
    qb = b.backend->create_qp(init).value();
    qa = create(a, IBV_QPT_RC);
    connect(qa, qb);
    b.full_cq = init.send_cq; // which gets none
    b.post_recv(qb.id, recv_request(1, target, 64, b.mr.lkey));
    a.post_send(qa.id, send_request(IBV_WR_SEND, 2, source, 8, a.mr.lkey));
    EXPECT_EQ(next(b)[0].wc.wr_id, 1u);
    EXPECT_EQ(b.backend->destroy_cq(init.recv_cq), EBUSY);
    EXPECT_EQ(b.backend->destroy_qp(qb.id), 0);
    EXPECT_EQ(b.backend->destroy_cq(init.recv_cq), 0);
}

TEST_P(BackendTest, an_srq_serves_several_qps)
{
    QpInit init = b.qp_init(IBV_QPT_RC);
    init.use_srq = true;
    init.srq = b.backend->create_srq(b.pd, {64, 1, 0}).value();
    constexpr unsigned qps = 3;
    QpNumbers at_a[qps];
    QpNumbers at_b[qps];
    for (unsigned i = 0; i < qps; ++i) {
        at_a[i] = create(a, IBV_QPT_RC);
        at_b[i] = b.backend->create_qp(init).value();
        connect(at_a[i], at_b[i]);
    }
    for (uint64_t i = 0; i < 30; ++i) {
        b.post_srq(init.srq, recv_request(i, target + i * 64, 64, b.mr.lkey));
    }
    for (unsigned i = 0; i < 30; ++i) {
        a.post_send(at_a[i % qps].id, send_request(IBV_WR_SEND, i, source, 8, a.mr.lkey));
    }
    for (const Completion& sent : next(a, 30)) {
        EXPECT_EQ(sent.wc.status, IBV_WC_SUCCESS);
    }
    std::map<uint32_t, int> by_qp;
    std::set<uint64_t> requests;
    for (const Completion& received : next(b, 30)) {
        EXPECT_EQ(received.wc.status, IBV_WC_SUCCESS);
        ++by_qp[received.qp];
        requests.insert(received.wc.wr_id);
    }
    for (const QpNumbers& qp : at_b) {
        EXPECT_EQ(by_qp[qp.id], 10);
    }
    EXPECT_EQ(requests.size(), 30u);
}

TEST_P(BackendTest, an_srq_tells_when_its_limit_is_reached)
{
    QpInit init = b.qp_init(IBV_QPT_RC);
    init.use_srq = true;
    init.srq = b.backend->create_srq(b.pd, {64, 1, 0}).value();
    qa = create(a, IBV_QPT_RC);
    qb = b.backend->create_qp(init).value();
    connect(qa, qb);
    for (uint64_t i = 0; i < 6; ++i) {
        b.post_srq(init.srq, recv_request(i, target, 64, b.mr.lkey));
    }
    ASSERT_EQ(b.backend->modify_srq(init.srq, {0, 0, 4}, IBV_SRQ_LIMIT), 0);
    ibv_srq_attr attr{};
    ASSERT_EQ(b.backend->query_srq(init.srq, attr), 0);
    EXPECT_EQ(attr.srq_limit, 4u);
    for (unsigned i = 0; i < 2; ++i) {
        a.post_send(qa.id, send_request(IBV_WR_SEND, i, source, 8, a.mr.lkey));
    }
    next(b, 2);
    EXPECT_FALSE(b.has_event(IBV_EVENT_SRQ_LIMIT_REACHED, init.srq)); // 4 are left
    a.post_send(qa.id, send_request(IBV_WR_SEND, 9, source, 8, a.mr.lkey));
    EXPECT_TRUE(
        pair->run_until([&] { return b.has_event(IBV_EVENT_SRQ_LIMIT_REACHED, init.srq); }));
    ASSERT_EQ(b.backend->query_srq(init.srq, attr), 0);
    EXPECT_EQ(attr.srq_limit, 0u);
}

TEST_P(BackendTest, an_srq_limit_that_is_reached_already_is_told_at_once)
{
    uint32_t srq = b.backend->create_srq(b.pd, {64, 1, 0}).value();
    b.post_srq(srq, recv_request(1, target, 64, b.mr.lkey));
    ASSERT_EQ(b.backend->modify_srq(srq, {0, 0, 2}, IBV_SRQ_LIMIT), 0);
    EXPECT_TRUE(b.has_event(IBV_EVENT_SRQ_LIMIT_REACHED, srq));
}

TEST_P(BackendTest, a_datagram_arrives_behind_its_grh)
{
    Connection c;
    connect_pair(IBV_QPT_UD, c);
    fill(a, source, 1000, 7);
    b.post_recv(qb.id, recv_request(2, target, 4096, b.mr.lkey));
    SendRequest send = datagram(b, qb.qpn, c.qkey, source, 1000, a.mr.lkey);
    send.opcode = IBV_WR_SEND_WITH_IMM;
    send.wr.imm_data = 5;
    a.post_send(qa.id, send);
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_SUCCESS);
    Completion received = next(b)[0];
    EXPECT_EQ(received.wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(received.wc.byte_len, 1000u + grh_size);
    EXPECT_EQ(received.wc.src_qp, qa.qpn);
    EXPECT_EQ(received.wc.imm_data, 5u);
    EXPECT_EQ(received.network, NetworkType::ipv4);
    EXPECT_TRUE(received.wc.wc_flags & IBV_WC_GRH);
    EXPECT_TRUE(same(a, source, b, target + grh_size, 1000));
}

TEST_P(BackendTest, a_datagram_needs_the_right_qkey)
{
    Connection c;
    connect_pair(IBV_QPT_UD, c);
    b.post_recv(qb.id, recv_request(2, target, 4096, b.mr.lkey));
    a.word(source) = 1;
    a.post_send(qa.id, datagram(b, qb.qpn, c.qkey + 1, source, 8, a.mr.lkey));
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_SUCCESS);
    a.word(source + 8) = 2;
    a.post_send(qa.id, datagram(b, qb.qpn, c.qkey, source + 8, 8, a.mr.lkey));
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(next(b)[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(b.word(target + grh_size), 2u);
}

TEST_P(BackendTest, many_datagrams_to_one_destination)
{
    Connection c;
    connect_pair(IBV_QPT_UD, c);
    constexpr unsigned count = 60;
    for (unsigned i = 0; i < count; ++i) {
        b.post_recv(qb.id, recv_request(i, target + i * 4096, 4096, b.mr.lkey));
    }
    for (unsigned i = 0; i < count; ++i) {
        a.post_send(qa.id, datagram(b, qb.qpn, c.qkey, source, 64, a.mr.lkey));
        next(a);
    }
    for (const Completion& received : next(b, count)) {
        EXPECT_EQ(received.wc.byte_len, 64u + grh_size);
    }
}

TEST_P(BackendTest, unreliable_connections_carry_messages_and_writes)
{
    connect_pair(IBV_QPT_UC);
    fill(a, source, 5000, 8);
    b.post_recv(qb.id, recv_request(1, target, 8192, b.mr.lkey));
    a.post_send(qa.id, send_request(IBV_WR_SEND, 2, source, 5000, a.mr.lkey));
    EXPECT_EQ(next(a)[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(next(b)[0].wc.byte_len, 5000u);
    EXPECT_TRUE(same(a, source, b, target, 5000));
    b.post_recv(qb.id, recv_request(3, target, 0, b.mr.lkey));
    SendRequest write = send_request(IBV_WR_RDMA_WRITE_WITH_IMM, 4, source, 3000, a.mr.lkey,
                                     target + 10000, b.mr.rkey);
    a.post_send(qa.id, write);
    EXPECT_EQ(next(b)[0].wc.wr_id, 3u);
    EXPECT_TRUE(same(a, source, b, target + 10000, 3000));
}

} // namespace
} // namespace rdma::test
