// SPDX-License-Identifier: GPL-2.0-or-later
//
// RC queue pairs, wire event by wire event, in virtual time.
#include "reliable_connection.h"

#include <utility>

namespace rdma::test {
namespace {

// [IBTA 9.7.1-2] [IBTA 9.7.2-1] [IBTA 9.7.3-1]
TEST_F(ReliableConnection, a_write_of_every_size_arrives)
{
    connect_up();
    for (uint32_t size : {0u, 1u, 1023u, 1024u, 1025u, 65536u, 0x100000u}) {
        std::memset(b.at(b_buffer), 0, 0x100000 + 1);
        post(send_request(IBV_WR_RDMA_WRITE, size, a_buffer, size, ka.lkey, b_buffer, kb.rkey));
        ASSERT_TRUE(network.settle());
        EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS) << size;
        EXPECT_TRUE(same(a_buffer, b_buffer, size)) << size;
        EXPECT_EQ(*(b.at(b_buffer) + size), std::byte{0}) << size;
    }
    EXPECT_EQ(a.stats.retransmitted_packets, 0u);
}

// [IBTA 9.3.6-1]
TEST_F(ReliableConnection, a_send_with_immediate_completes_at_both_ends)
{
    connect_up();
    post_recv(77, b_buffer, 4000);
    auto request = send_request(IBV_WR_SEND_WITH_IMM, 5, a_buffer, 3000, ka.lkey);
    request.wr.imm_data = 0x01020304;
    request.wr.send_flags |= IBV_SEND_SOLICITED;
    post(request);
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
    auto done = b.take_completions();
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(done[0].wc.opcode, IBV_WC_RECV);
    EXPECT_EQ(done[0].wc.wr_id, 77u);
    EXPECT_EQ(done[0].wc.byte_len, 3000u);
    EXPECT_EQ(done[0].wc.imm_data, 0x01020304u);
    EXPECT_EQ(done[0].wc.wc_flags, static_cast<unsigned>(IBV_WC_WITH_IMM));
    EXPECT_TRUE(done[0].solicited);
    EXPECT_TRUE(same(a_buffer, b_buffer, 3000));
}

// [IBTA 9.3.5-1] [IBTA 9.4.4-1]
TEST_F(ReliableConnection, a_read_of_every_size_comes_back)
{
    connect_up();
    std::memcpy(b.at(b_buffer), a.at(a_buffer), 0x100000);
    for (uint32_t size : {0u, 1u, 1023u, 1024u, 1025u, 65536u, 0x80000u}) {
        std::memset(a.at(a_buffer + 0x200000), 0, 0x80000 + 1);
        post(send_request(IBV_WR_RDMA_READ, size, a_buffer + 0x200000, size, ka.lkey, b_buffer,
                          kb.rkey));
        ASSERT_TRUE(network.settle());
        EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS) << size;
        EXPECT_TRUE(same(a_buffer + 0x200000, b_buffer, size)) << size;
        EXPECT_EQ(*(a.at(a_buffer + 0x200000) + size), std::byte{0});
    }
}

// [IBTA 9.3.4-1]
TEST_F(ReliableConnection, atomics_return_the_value_before)
{
    connect_up();
    uint64_t value = 40;
    std::memcpy(b.at(b_buffer), &value, 8);
    auto add = send_request(IBV_WR_ATOMIC_FETCH_AND_ADD, 1, a_buffer, 8, ka.lkey, b_buffer, kb.rkey);
    add.wr.wr.atomic.compare_add = 2;
    post(add);
    auto swap =
        send_request(IBV_WR_ATOMIC_CMP_AND_SWP, 2, a_buffer + 8, 8, ka.lkey, b_buffer, kb.rkey);
    swap.wr.wr.atomic.compare_add = 42;
    swap.wr.wr.atomic.swap = 7;
    post(swap);
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.take_completions().size(), 2u);
    uint64_t first, second, now;
    std::memcpy(&first, a.at(a_buffer), 8);
    std::memcpy(&second, a.at(a_buffer + 8), 8);
    std::memcpy(&now, b.at(b_buffer), 8);
    EXPECT_EQ(first, 40u);
    EXPECT_EQ(second, 42u);
    EXPECT_EQ(now, 7u);
}

// [IBTA 9.7.5.1.2-3]
TEST_F(ReliableConnection, a_duplicate_atomic_is_answered_from_the_record)
{
    connect_up();
    lose_nth(b, 0); // the answer
    auto add = send_request(IBV_WR_ATOMIC_FETCH_AND_ADD, 1, a_buffer, 8, ka.lkey, b_buffer, kb.rkey);
    add.wr.wr.atomic.compare_add = 1;
    std::memset(b.at(b_buffer), 0, 8);
    post(add);
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
    uint64_t now;
    std::memcpy(&now, b.at(b_buffer), 8);
    EXPECT_EQ(now, 1u);
    EXPECT_EQ(b.stats.duplicate_requests, 1u);
    EXPECT_EQ(a.stats.timeouts, 1u);
}

// [IBTA 9.7.3-2] [IBTA 9.7.5.1.3-1] [IBTA 9.7.6-3]
TEST_F(ReliableConnection, a_lost_request_packet_is_nakked_once_and_sent_again)
{
    connect_up();
    lose_nth(a, 3);
    post(send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 20 * 1024, ka.lkey, b_buffer, kb.rkey));
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
    EXPECT_TRUE(same(a_buffer, b_buffer, 20 * 1024));
    EXPECT_EQ(b.stats.sequence_naks_sent, 1u);
    EXPECT_EQ(a.stats.sequence_naks_received, 1u);
    EXPECT_EQ(a.stats.timeouts, 0u);
}

// [IBTA 9.7.6.1.3-1]
TEST_F(ReliableConnection, a_lost_last_packet_is_sent_again_after_the_timeout)
{
    connect_up();
    lose_nth(a, 0);
    post(send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 100, ka.lkey, b_buffer, kb.rkey));
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
    EXPECT_EQ(a.stats.timeouts, 1u);
    EXPECT_GE(network.now, ack_timeout_ns(8));
}

// [IBTA 9.7.3-3] [IBTA 9.7.6-2]
TEST_F(ReliableConnection, a_lost_read_response_is_asked_for_again)
{
    connect_up();
    lose_nth(b, 5);
    std::memcpy(b.at(b_buffer), a.at(a_buffer), 16 * 1024);
    post(send_request(IBV_WR_RDMA_READ, 1, a_buffer + 0x200000, 16 * 1024, ka.lkey, b_buffer,
                      kb.rkey));
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
    EXPECT_TRUE(same(a_buffer + 0x200000, b_buffer, 16 * 1024));
    EXPECT_EQ(a.stats.implied_naks, 1u);
    EXPECT_EQ(a.stats.timeouts, 0u);
}

// Acknowledgements of what is behind the READ say that its answers are lost. Who forges them has
// a READ asked for once more for each answer that has come, however many are forged, and spends
// no retry: a READ is asked for again without delay where its answers are really lost (9.7.5.2.1).
TEST_F(ReliableConnection, forged_acknowledgements_of_a_read_cost_one_request_for_each_answer)
{
    constexpr uint32_t packets = 64;
    constexpr uint32_t length = packets * 256;
    constexpr int forged_for_each = 8;
    const Connection c{.mtu = IBV_MTU_256, .retry_cnt = 1};
    connect_up(c);
    std::memcpy(b.at(b_buffer), a.at(a_buffer), length);
    unsigned requests = 0;
    bool forging = false;
    network.filter = [&](Node& from, std::vector<uint8_t>&) {
        requests += &from == &a;
        if (&from == &b && !forging) {
            forging = true;
            for (int i = 0; i < forged_for_each; ++i) {
                FrameBuilder builder;
                Path path(NetworkType::ipv4, b.mac(), a.mac(), b.gid, a.gid, 0, 0, 64, 0xc000);
                builder.begin(path, no_vlan, op_acknowledge, qa.qpn, Psn(c.psn_a) + (packets - 1), false,
                              false);
                builder.header(Aeth{aeth_ack, 1});
                auto frame = builder.finish();
                b.transmit({frame.begin(), frame.end()});
            }
            forging = false;
        }
        return true;
    };
    post(
        send_request(IBV_WR_RDMA_READ, 1, a_buffer + 0x200000, length, ka.lkey, b_buffer, kb.rkey));
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
    EXPECT_TRUE(same(a_buffer + 0x200000, b_buffer, length));
    EXPECT_GT(a.stats.implied_naks, 0u);
    EXPECT_LE(requests, 1 + packets);
    EXPECT_EQ(a.stats.timeouts, 0u);
}

// [IBTA 9.7.5.2.8-1] [IBTA 9.7.5.2.8-3]
TEST_F(ReliableConnection, without_a_receive_the_sender_waits_as_the_rnr_nak_says)
{
    Connection c;
    c.min_rnr_timer = 14; // 1.28 ms
    connect_up(c);
    post(send_request(IBV_WR_SEND, 1, a_buffer, 100, ka.lkey));
    network.run_engines();
    ASSERT_FALSE(network.settle(1'000'000)); // still waiting after 1 ms
    post_recv(1, b_buffer, 100);
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
    EXPECT_EQ(b.only_status(), IBV_WC_SUCCESS);
    EXPECT_EQ(b.stats.rnr_naks_sent, 1u);
    EXPECT_EQ(a.stats.timeouts, 0u);
}

// [IBTA 9.7.5.2.8-5]
TEST_F(ReliableConnection, rnr_retries_run_out)
{
    Connection c;
    c.rnr_retry = 2;
    connect_up(c);
    post(send_request(IBV_WR_SEND, 1, a_buffer, 100, ka.lkey));
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_RNR_RETRY_EXC_ERR);
    EXPECT_EQ(b.stats.rnr_naks_sent, 3u);
}

// [IBTA 9.7.6.1.3-2]
TEST_F(ReliableConnection, retries_run_out_when_nobody_answers)
{
    Connection c;
    c.retry_cnt = 3;
    connect_up(c);
    network.faults.lose = 1;
    post(send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 100, ka.lkey, b_buffer, kb.rkey));
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_RETRY_EXC_ERR);
    EXPECT_EQ(a.stats.timeouts, 4u);
    EXPECT_GE(network.now, 4 * ack_timeout_ns(8));
}

// A host that is too busy, or a full network: what has not been sent again has not
// been lost again.
TEST_F(ReliableConnection, retries_are_not_spent_while_there_is_no_turn_to_send)
{
    Connection c;
    c.retry_cnt = 1;
    connect_up(c);
    bool lost = false;
    network.filter = [&](Node&, std::vector<uint8_t>&) { return std::exchange(lost, true); };
    post(send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 100, ka.lkey, b_buffer, kb.rkey));
    for (int i = 1; i <= 10; ++i) {
        a.engine.advance(i * ack_timeout_ns(8)); // without run()
    }
    network.now = 10 * ack_timeout_ns(8);
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
    EXPECT_EQ(a.stats.timeouts, 1u);
}

// A slow responder, as rxe is with a long READ, that has much left to send of its
// first answer when it is asked again.
TEST_F(ReliableConnection, retries_are_not_spent_while_the_first_answer_to_a_read_still_comes)
{
    constexpr uint32_t size = 16 * 1024;
    Connection c;
    c.retry_cnt = 1;
    connect_up(c);
    int64_t arrival = 0;
    network.filter = [&, count = 0](Node& from, std::vector<uint8_t>&) mutable {
        if (&from == &b) {
            if (count++ == 0) {
                return false;
            }
            arrival = std::max(arrival, network.now) + ack_timeout_ns(8) * 4 / 5;
            network.delay = arrival - network.now;
        }
        return true;
    };
    std::memcpy(b.at(b_buffer), a.at(a_buffer), size);
    post(send_request(IBV_WR_RDMA_READ, 1, a_buffer + 0x200000, size, ka.lkey, b_buffer, kb.rkey));
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
    EXPECT_TRUE(same(a_buffer + 0x200000, b_buffer, size));
    EXPECT_EQ(a.stats.implied_naks, 1u);
    EXPECT_EQ(a.stats.timeouts, 0u);
}

// [IBTA 9.7.5.1.3-2] [IBTA 9.9.2-2]
// [virtio-rdma REQ-5]
TEST_F(ReliableConnection, after_an_error_the_rest_is_flushed_in_order)
{
    connect_up();
    a.send_queues[qa.id].push_back(
        send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 8, ka.lkey, b_buffer, kb.rkey));
    a.send_queues[qa.id].push_back(
        send_request(IBV_WR_RDMA_WRITE, 2, a_buffer, 8, ka.lkey, b_buffer, kb.rkey + 1));
    auto unsignaled = send_request(IBV_WR_RDMA_WRITE, 3, a_buffer, 8, ka.lkey, b_buffer, kb.rkey);
    unsignaled.wr.send_flags = 0;
    a.send_queues[qa.id].push_back(unsignaled);
    a.recv_queues[qa.id].push_back(recv_request(9, a_buffer, 8, ka.lkey));
    network.ring(a, qa.id);
    ASSERT_TRUE(network.settle());
    auto done = a.take_completions();
    ASSERT_EQ(done.size(), 4u);
    EXPECT_EQ(done[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(done[1].wc.status, IBV_WC_REM_ACCESS_ERR);
    EXPECT_EQ(done[2].wc.status, IBV_WC_WR_FLUSH_ERR);
    EXPECT_EQ(done[2].wc.wr_id, 3u);
    EXPECT_EQ(done[3].wc.status, IBV_WC_WR_FLUSH_ERR);
    EXPECT_EQ(done[3].wc.wr_id, 9u);
    ASSERT_EQ(b.events.size(), 1u);
    EXPECT_EQ(b.events[0].type, IBV_EVENT_QP_ACCESS_ERR);
    // What is posted now is flushed at once.
    post(send_request(IBV_WR_SEND, 4, a_buffer, 8, ka.lkey));
    EXPECT_EQ(a.only_status(), IBV_WC_WR_FLUSH_ERR);
}

struct RemoteFault {
    const char* name;
    int opcode;
    uint64_t offset; // of the remote address in RAM
    uint32_t length;
    uint32_t bad_key;
    unsigned access; // of the responder's QP
    ibv_wc_status expected;
};

class RemoteAccess : public ReliableConnection, public testing::WithParamInterface<RemoteFault> {};

// [IBTA 9.7.4.1.3-1] [IBTA 9.7.4.1.5-1] [IBTA 9.7.4.1.5-2] [IBTA 9.7.6-4]
// [virtio-rdma REQ-15]
TEST_P(RemoteAccess, is_checked)
{
    const RemoteFault& fault = GetParam();
    Connection c;
    c.access = fault.access;
    connect_up(c);
    post(send_request(fault.opcode, 1, a_buffer, fault.length, ka.lkey, ram_base + fault.offset,
                      kb.rkey + fault.bad_key));
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), fault.expected);
    EXPECT_EQ(b.stats.error_naks_sent, 1u);
}

constexpr unsigned every_access =
    IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
INSTANTIATE_TEST_SUITE_P(
    Faults, RemoteAccess,
    testing::Values(
        RemoteFault{"write_key", IBV_WR_RDMA_WRITE, 0, 8, 256, every_access,
                    IBV_WC_REM_ACCESS_ERR},
        RemoteFault{"write_past_end", IBV_WR_RDMA_WRITE, ram_size - 7, 8, 0, every_access,
                    IBV_WC_REM_ACCESS_ERR},
        RemoteFault{"write_wrapping", IBV_WR_RDMA_WRITE, 0 - ram_base - 4, 8, 0, every_access,
                    IBV_WC_REM_ACCESS_ERR},
        RemoteFault{"write_right", IBV_WR_RDMA_WRITE, 0, 8, 0, IBV_ACCESS_REMOTE_READ,
                    IBV_WC_REM_ACCESS_ERR},
        RemoteFault{"read_key", IBV_WR_RDMA_READ, 0, 8, 1, every_access, IBV_WC_REM_ACCESS_ERR},
        RemoteFault{"read_right", IBV_WR_RDMA_READ, 0, 8, 0, IBV_ACCESS_REMOTE_WRITE,
                    IBV_WC_REM_ACCESS_ERR},
        RemoteFault{"read_past_end", IBV_WR_RDMA_READ, ram_size, 1, 0, every_access,
                    IBV_WC_REM_ACCESS_ERR},
        RemoteFault{"atomic_right", IBV_WR_ATOMIC_FETCH_AND_ADD, 0, 8, 0, IBV_ACCESS_REMOTE_WRITE,
                    IBV_WC_REM_ACCESS_ERR},
        RemoteFault{"atomic_alignment", IBV_WR_ATOMIC_FETCH_AND_ADD, 4, 8, 0, every_access,
                    IBV_WC_REM_INV_REQ_ERR}),
    [](const auto& test_info) { return test_info.param.name; });

// [IBTA 9.9.2-1]
TEST_F(ReliableConnection, a_bad_local_key_fails_at_its_turn_and_sends_nothing)
{
    connect_up();
    post(send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 8, ka.lkey + 1, b_buffer, kb.rkey));
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_LOC_PROT_ERR);
    EXPECT_EQ(a.stats.tx_packets, 0u);
}

// [IBTA 9.7.4.1.6-2] [IBTA 9.9.3-2]
TEST_F(ReliableConnection, a_message_longer_than_the_receive_buffer_fails_at_both_ends)
{
    connect_up();
    post_recv(3, b_buffer, 2000);
    post(send_request(IBV_WR_SEND, 1, a_buffer, 5000, ka.lkey));
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_REM_INV_REQ_ERR);
    EXPECT_EQ(b.only_status(), IBV_WC_LOC_LEN_ERR);
}

// [IBTA 9.7.4-1]
TEST_F(ReliableConnection, a_receive_with_a_bad_key_fails_at_both_ends)
{
    connect_up();
    b.recv_queues[qb.id].push_back(recv_request(3, b_buffer, 2000, kb.lkey + 1));
    post(send_request(IBV_WR_SEND, 1, a_buffer, 500, ka.lkey));
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_REM_OP_ERR);
    EXPECT_EQ(b.only_status(), IBV_WC_LOC_PROT_ERR);
}

// [IBTA 9.7.2-1] [IBTA 9.7.2-2] [IBTA 9.5-2]
TEST_F(ReliableConnection, small_messages_share_acknowledgements)
{
    connect_up();
    for (uint64_t i = 0; i < 100; ++i) {
        a.send_queues[qa.id].push_back(
            send_request(IBV_WR_RDMA_WRITE, i, a_buffer, 8, ka.lkey, b_buffer, kb.rkey));
    }
    network.ring(a, qa.id);
    ASSERT_TRUE(network.settle());
    auto done = a.take_completions();
    ASSERT_EQ(done.size(), 100u);
    for (uint64_t i = 0; i < 100; ++i) {
        EXPECT_EQ(done[i].wc.wr_id, i);
    }
    EXPECT_LE(b.stats.acks_sent, 8u);
}

TEST_F(ReliableConnection, psns_wrap)
{
    Connection c;
    c.psn_a = 0xfffff0;
    connect_up(c);
    post(send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 64 * 1024, ka.lkey, b_buffer, kb.rkey));
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
    EXPECT_TRUE(same(a_buffer, b_buffer, 64 * 1024));
}

// [IBTA 9.4.1-1]
// [virtio-rdma REQ-10]
TEST_F(ReliableConnection, scattered_entries_at_odd_places_are_put_together)
{
    connect_up();
    SendRequest request = send_request(IBV_WR_SEND, 1, 0, 0, 0);
    RecvRequest receive;
    receive.wr_id = 1;
    receive.num_sge = 16;
    std::vector<std::byte> expected;
    for (uint32_t i = 0; i < 16; ++i) {
        request.sge[i] = {a_buffer + 4096 * i + 4090 + i, 101 * i, ka.lkey};
        expected.insert(expected.end(), a.at(request.sge[i].addr),
                        a.at(request.sge[i].addr) + request.sge[i].length);
        receive.sge[i] = {b_buffer + 8192 * i + 4095 - i, 1000 - 7 * i, kb.lkey};
    }
    request.wr.num_sge = 16;
    b.recv_queues[qb.id].push_back(receive);
    post(request);
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
    EXPECT_EQ(b.only_status(), IBV_WC_SUCCESS);
    size_t at = 0;
    for (uint32_t i = 0; i < 16 && at < expected.size(); ++i) {
        size_t n = std::min<size_t>(receive.sge[i].length, expected.size() - at);
        EXPECT_EQ(std::memcmp(b.at(receive.sge[i].addr), expected.data() + at, n), 0) << i;
        at += n;
    }
}

// [IBTA 9.5-4]
// [virtio-rdma REQ-12]
TEST_F(ReliableConnection, a_fenced_request_waits_for_the_reads_before_it)
{
    connect_up();
    std::memset(b.at(b_buffer), 0x11, 4096);
    a.send_queues[qa.id].push_back(send_request(IBV_WR_RDMA_READ, 1, a_buffer + 0x200000, 4096,
                                                ka.lkey, b_buffer, kb.rkey));
    // Writes back what was read.
    auto fenced = send_request(IBV_WR_RDMA_WRITE, 2, a_buffer + 0x200000, 4096, ka.lkey,
                               b_buffer + 0x10000, kb.rkey);
    fenced.wr.send_flags |= IBV_SEND_FENCE;
    a.send_queues[qa.id].push_back(fenced);
    network.ring(a, qa.id);
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.take_completions().size(), 2u);
    EXPECT_EQ(*b.at(b_buffer + 0x10000), std::byte{0x11});
}

// [virtio-rdma REQ-5]
TEST_F(ReliableConnection, a_draining_queue_takes_nothing_new_until_it_is_resumed)
{
    connect_up();
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_SQD;
    attr.en_sqd_async_notify = 1;
    ASSERT_EQ(a.engine.modify_qp(qa.id, attr, IBV_QP_STATE | IBV_QP_EN_SQD_ASYNC_NOTIFY, {}), 0);
    ASSERT_EQ(a.events.size(), 1u);
    EXPECT_EQ(a.events[0].type, IBV_EVENT_SQ_DRAINED);
    post(send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 8, ka.lkey, b_buffer, kb.rkey));
    ASSERT_TRUE(network.settle());
    EXPECT_TRUE(a.take_completions().empty());
    attr.qp_state = IBV_QPS_RTS;
    ASSERT_EQ(a.engine.modify_qp(qa.id, attr, IBV_QP_STATE, {}), 0);
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
}

// [IBTA 9.6.1-8]
TEST_F(ReliableConnection, packets_of_a_stranger_are_dropped)
{
    connect_up();
    Node c(3);
    Network other;
    std::vector<uint8_t> stranger;
    a.transmit = [&](std::vector<uint8_t> frame) {
        // The same packet from another source address, with a right ICRC.
        FrameBuilder builder;
        Path path(NetworkType::ipv4, a.mac(), b.mac(), c.gid, b.gid, 0, 0, 64, 0xc000);
        builder.begin(path, no_vlan, transport_rc | op_write_only, qb.qpn, Psn(0x111111), true, false);
        builder.header(Reth{b_buffer, kb.rkey, 0});
        auto forged = builder.finish();
        stranger.assign(forged.begin(), forged.end());
        (void)frame;
    };
    post(send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 0, ka.lkey, b_buffer, kb.rkey));
    ASSERT_FALSE(stranger.empty());
    b.engine.receive(stranger, network.now);
    EXPECT_EQ(b.stats.drop_peer_mismatch, 1u);
}

TEST(LoopbackConnection, two_qps_of_one_device_talk_without_the_network)
{
    Node a(1);
    Network network;
    network.add(a);
    MrKeys k = a.register_ram();
    QpNumbers q1 = a.create_qp(IBV_QPT_RC), q2 = a.create_qp(IBV_QPT_RC);
    connect(a, q1, a, q2);
    a.transmit = [](std::vector<uint8_t>) { FAIL() << "a frame left the device"; };
    std::memset(a.at(a_buffer), 0x5a, 100000);
    a.send_queues[q1.id].push_back(
        send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 100000, k.lkey, b_buffer, k.rkey));
    network.ring(a, q1.id);
    ASSERT_TRUE(network.settle());
    ASSERT_EQ(a.completions.size(), 1u);
    EXPECT_EQ(a.completions[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(std::memcmp(a.at(a_buffer), a.at(b_buffer), 100000), 0);
    EXPECT_GT(a.stats.loopback_packets, 98u);
}

} // namespace
} // namespace rdma::test
