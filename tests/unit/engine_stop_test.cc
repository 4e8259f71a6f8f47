// SPDX-License-Identifier: GPL-2.0-or-later
//
// A stopped VM's engine, seen by its peer and by what it does afterwards; the
// peer is an engine too, in virtual time. In the migrate tests a new engine is
// made from the stopped one's stream.
#include "engine_harness.h"

namespace rdma::test {
namespace {

using namespace roce;

constexpr uint64_t a_buffer = ram_base;
constexpr uint64_t b_buffer = ram_base + 0x100000;
constexpr int64_t ms = 1'000'000;
constexpr int64_t second = 1000 * ms;
constexpr int64_t round_trip = 2000; // the harness's network

enum class Move { stays, migrates };

struct EngineStop : testing::TestWithParam<Move> {
    Node a{1}, b{2};
    Network network;
    MrKeys ka = a.register_ram(), kb = b.register_ram();
    QpNumbers qa = a.create_qp(IBV_QPT_RC), qb = b.create_qp(IBV_QPT_RC);

    void SetUp() override
    {
        network.add(a);
        network.add(b);
        for (size_t i = 0; i < 0x100000; ++i) {
            *(a.at(a_buffer) + i) = static_cast<std::byte>(i * 7 + i / 256);
        }
    }
    void connect_up(const Connection& c = {}) { connect(a, qa, b, qb, true, c); }
    void post(const SendRequest& request)
    {
        a.send_queues[qa.id].push_back(request);
        network.ring(a, qa.id);
    }
    void post_write(uint64_t wr_id, uint32_t size)
    {
        post(send_request(IBV_WR_RDMA_WRITE, wr_id, a_buffer, size, ka.lkey, b_buffer, kb.rkey));
    }
    void post_read(uint64_t wr_id, uint32_t size)
    {
        post(send_request(IBV_WR_RDMA_READ, wr_id, a_buffer, size, ka.lkey, b_buffer, kb.rkey));
    }
    // The end of the stop: where told so, on another host.
    void go_on(Node& node)
    {
        if (GetParam() == Move::migrates) {
            node.migrate(network.now);
        }
        network.start(node);
    }
    bool same(uint64_t from, uint64_t to, size_t n)
    {
        return std::memcmp(a.at(from), b.at(to), n) == 0;
    }
    void expect_done(size_t count)
    {
        auto done = a.take_completions();
        ASSERT_EQ(done.size(), count);
        for (size_t i = 0; i < count; ++i) {
            EXPECT_EQ(done[i].wc.status, IBV_WC_SUCCESS) << i;
            EXPECT_EQ(done[i].wc.wr_id, i + 1);
        }
    }
};

INSTANTIATE_TEST_SUITE_P(Moves, EngineStop, testing::Values(Move::stays, Move::migrates),
                         [](const auto& p) {
                             return p.param == Move::stays ? "stays" : "migrates";
                         });

// [virtio-rdma MIG-1] [virtio-rdma MIG-3]
TEST_P(EngineStop, a_request_is_answered_with_rnr_nak_and_not_carried_out)
{
    connect_up();
    network.stop(b);
    post_write(1, 100);
    EXPECT_FALSE(network.settle(1 * ms));
    EXPECT_EQ(b.stats.stopped_rnr_naks_sent, 1u);
    EXPECT_EQ(a.stats.rnr_naks_received, 1u);
    EXPECT_FALSE(same(a_buffer, b_buffer, 100));
    EXPECT_TRUE(a.take_completions().empty());
    go_on(b);
    EXPECT_TRUE(network.settle());
    expect_done(1);
    EXPECT_TRUE(same(a_buffer, b_buffer, 100));
}

// A VM that has come and does not run yet, be it paused, has its QPs' packets already.
TEST_P(EngineStop, a_request_to_a_device_that_has_not_started_yet_is_answered_too)
{
    for (int i = 0; i < 300; ++i) {
        qb = b.create_qp(IBV_QPT_RC); // ids that are not among the lowest
    }
    connect_up();
    network.stop(b);
    if (GetParam() == Move::migrates) {
        b.migrate(network.now);
    }
    post_write(1, 100);
    EXPECT_FALSE(network.settle(1 * ms));
    EXPECT_EQ(b.stats.stopped_rnr_naks_sent, 1u);
    network.start(b);
    EXPECT_TRUE(network.settle());
    expect_done(1);
}

// timeout code 10: 4 ms.
TEST_P(EngineStop, a_peer_with_one_retry_of_4_ms_lasts_2_s)
{
    connect_up({.timeout = 10, .retry_cnt = 1});
    network.stop(b);
    post_write(1, 50'000);
    network.settle(2 * second);
    go_on(b);
    EXPECT_TRUE(network.settle());
    expect_done(1);
    EXPECT_TRUE(same(a_buffer, b_buffer, 50'000));
    EXPECT_EQ(a.stats.timeouts, 0u);
}

TEST_P(EngineStop, without_rnr_naks_that_peer_gives_up)
{
    connect_up({.timeout = 10, .retry_cnt = 1});
    b.refuses = false;
    network.stop(b);
    post_write(1, 50'000);
    network.settle(2 * second);
    go_on(b);
    network.settle();
    auto done = a.take_completions();
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(done[0].wc.status, IBV_WC_RETRY_EXC_ERR);
}

// The longest wait that an RNR NAK asks for is 655 ms, which a stop of 2 s has
// come to.
TEST_P(EngineStop, the_peer_goes_on_within_a_round_trip_of_the_start)
{
    connect_up();
    network.stop(b);
    post_write(1, 1000);
    network.settle(2 * second);
    go_on(b);
    network.settle(2 * round_trip);
    expect_done(1);
    EXPECT_EQ(a.stats.wakes_received, 1u);
}

TEST_P(EngineStop, a_stopped_requester_goes_on_where_it_was)
{
    connect_up({.timeout = 20});
    post_write(1, 1'000'000);
    post_write(2, 1000);
    network.settle(5000); // somewhere in the middle
    ASSERT_TRUE(a.completions.empty());
    network.stop(a);
    network.settle(1 * second); // what b answers is lost
    go_on(a);
    network.settle(100 * ms);
    expect_done(2);
    EXPECT_TRUE(same(a_buffer, b_buffer, 1'000'000));
}

TEST_P(EngineStop, answers_of_a_read_that_were_to_come_do_come)
{
    for (size_t i = 0; i < 0x100000; ++i) {
        *(b.at(b_buffer) + i) = static_cast<std::byte>(i * 13 + i / 128);
    }
    connect_up({.timeout = 20});
    // b takes the request, and then has no time for its answers.
    network.filter = [this](Node& from, std::vector<uint8_t>&) {
        return &from == &a || network.now < 1;
    };
    post_read(1, 500'000);
    network.settle(1500);
    network.stop(b);
    network.filter = nullptr;
    auto write = send_request(IBV_WR_RDMA_WRITE, 2, a_buffer, 100, ka.lkey, b_buffer, kb.rkey);
    write.wr.send_flags |= IBV_SEND_FENCE; // what the READ brings
    post(write);
    network.settle(20 * ms);
    go_on(b);
    network.settle(100 * ms);
    expect_done(2);
    EXPECT_TRUE(std::memcmp(a.at(a_buffer), b.at(b_buffer), 100) == 0);
    EXPECT_TRUE(std::memcmp(a.at(a_buffer) + 100, b.at(b_buffer) + 100, 499'900) == 0);
}

// Its answer is lost; the peer asks again after the migration.
TEST_P(EngineStop, an_atomic_is_not_carried_out_twice)
{
    connect_up();
    uint64_t value = 5;
    std::memcpy(b.at(b_buffer), &value, 8);
    network.filter = [this](Node& from, std::vector<uint8_t>&) { return &from == &a; };
    auto request = send_request(IBV_WR_ATOMIC_FETCH_AND_ADD, 1, a_buffer, 8, ka.lkey, b_buffer,
                                kb.rkey);
    request.wr.wr.atomic.compare_add = 3;
    post(request);
    network.settle(1500);
    network.stop(b);
    network.filter = nullptr;
    network.settle(5 * ms);
    go_on(b);
    network.settle(100 * ms);
    expect_done(1);
    std::memcpy(&value, a.at(a_buffer), 8);
    EXPECT_EQ(value, 5u);
    std::memcpy(&value, b.at(b_buffer), 8);
    EXPECT_EQ(value, 8u);
}

TEST_P(EngineStop, a_message_half_received_is_received_to_its_end)
{
    connect_up();
    b.recv_queues[qb.id].push_back(recv_request(77, b_buffer, 1'000'000, kb.lkey));
    auto request = send_request(IBV_WR_SEND_WITH_IMM, 1, a_buffer, 600'000, ka.lkey);
    request.wr.imm_data = 0x12345678;
    post(request);
    network.settle(3000);
    ASSERT_TRUE(b.completions.empty());
    network.stop(b);
    network.settle(10 * ms);
    go_on(b);
    network.settle(100 * ms);
    expect_done(1);
    auto received = b.take_completions();
    ASSERT_EQ(received.size(), 1u);
    EXPECT_EQ(received[0].wc.wr_id, 77u);
    EXPECT_EQ(received[0].wc.byte_len, 600'000u);
    EXPECT_EQ(received[0].wc.imm_data, 0x12345678u);
    EXPECT_TRUE(same(a_buffer, b_buffer, 600'000));
}

TEST_P(EngineStop, an_error_in_the_middle_of_a_message_ends_it)
{
    connect_up();
    b.recv_queues[qb.id].push_back(recv_request(77, b_buffer, 1'000'000, kb.lkey));
    post(send_request(IBV_WR_SEND, 1, a_buffer, 600'000, ka.lkey));
    network.settle(3000);
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_ERR;
    ASSERT_EQ(b.engine.modify_qp(qb.id, attr, IBV_QP_STATE, {}), 0);
    auto received = b.take_completions();
    ASSERT_EQ(received.size(), 1u);
    EXPECT_EQ(received[0].wc.status, IBV_WC_WR_FLUSH_ERR);
    network.stop(b);
    go_on(b);
}

TEST_P(EngineStop, both_ends_may_stop_at_once)
{
    connect_up();
    post_write(1, 500'000);
    network.settle(4000);
    network.stop(a);
    network.stop(b);
    network.settle(300 * ms);
    go_on(a);
    network.settle(40 * ms);
    go_on(b);
    network.settle(100 * ms);
    expect_done(1);
    EXPECT_TRUE(same(a_buffer, b_buffer, 500'000));
}

// QPs connected without the guest's connection manager: this end's rnr_retry tells of the peer's.
// timeout code 14 is 67 ms, after each of 7 of which a peer sends again; an RNR NAK asks for 655 ms.
TEST_P(EngineStop, a_peer_with_few_rnr_retries_lives_through_a_stop)
{
    for (uint8_t rnr_retry : {uint8_t{0}, uint8_t{1}, uint8_t{3}}) {
        SCOPED_TRACE(rnr_retry);
        qa = a.create_qp(IBV_QPT_RC);
        qb = b.create_qp(IBV_QPT_RC);
        connect_up({.timeout = 14, .rnr_retry = rnr_retry});
        uint64_t before = b.stats.stopped_rnr_naks_sent;
        network.stop(b);
        post_write(1, 20'000);
        network.settle(rnr_retry * 655 * ms + 400 * ms);
        EXPECT_EQ(b.stats.stopped_rnr_naks_sent - before, rnr_retry);
        go_on(b);
        EXPECT_TRUE(network.settle());
        expect_done(1);
        EXPECT_TRUE(same(a_buffer, b_buffer, 20'000));
    }
}

// The guest's connection manager asks for the peer's rnr_retry in its REQ.
struct EngineStopConnected : EngineStop {
    void send_req(Node& node, QpNumbers qp, uint8_t rnr_retry)
    {
        QpInit init;
        init.type = IBV_QPT_UD;
        init.gsi = true;
        init.pd = node.pd;
        init.send_cq = init.recv_cq = node.cq;
        init.cap = {8, 8, 1, 1, 0};
        ASSERT_TRUE(node.engine.create_qp(init).has_value());
        ibv_qp_attr attr{};
        attr.qp_state = IBV_QPS_INIT;
        attr.port_num = 1;
        int mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY;
        ASSERT_EQ(node.engine.modify_qp(gsi_qpn, attr, mask, {}), 0);
        attr.qp_state = IBV_QPS_RTR;
        ASSERT_EQ(node.engine.modify_qp(gsi_qpn, attr, IBV_QP_STATE, {}), 0);
        attr.qp_state = IBV_QPS_RTS;
        ASSERT_EQ(node.engine.modify_qp(gsi_qpn, attr, IBV_QP_STATE | IBV_QP_SQ_PSN, {}), 0);
        uint64_t buffer = ram_base + 0x300000;
        std::array<uint8_t, 256> mad{};
        mad[0] = 1;                // base version
        mad[1] = 0x07;             // communication management
        mad[2] = 2;                // class version
        mad[17] = 0x10;            // REQ
        mad[56] = static_cast<uint8_t>(qp.qpn >> 16);
        mad[57] = static_cast<uint8_t>(qp.qpn >> 8);
        mad[58] = static_cast<uint8_t>(qp.qpn);
        mad[74] = static_cast<uint8_t>(IBV_MTU_1024 << 4 | rnr_retry);
        std::memcpy(node.at(buffer), mad.data(), mad.size());
        uint32_t lkey = &node == &a ? ka.lkey : kb.lkey;
        auto request = send_request(IBV_WR_SEND, 900, buffer, 256, lkey);
        request.wr.wr.ud.remote_qpn = 1;
        request.wr.wr.ud.remote_qkey = gsi_qkey;
        request.av.attr.grh.dgid = (&node == &a ? b : a).gid;
        node.send_queues[gsi_qpn].push_back(request);
        network.ring(node, gsi_qpn);
        network.settle(1 * ms);
        node.take_completions();
    }
};

INSTANTIATE_TEST_SUITE_P(Moves, EngineStopConnected,
                         testing::Values(Move::stays, Move::migrates), [](const auto& p) {
                             return p.param == Move::stays ? "stays" : "migrates";
                         });

TEST_P(EngineStopConnected, a_peer_that_bears_no_rnr_nak_gets_none)
{
    send_req(b, qb, 0);
    connect_up({.timeout = 14, .retry_cnt = 6, .rnr_retry = 0}); // 67 ms
    if (GetParam() == Move::migrates) {
        network.stop(b);
        go_on(b); // it is remembered
    }
    network.stop(b);
    post_write(1, 1000);
    network.settle(300 * ms);
    EXPECT_EQ(b.stats.stopped_rnr_naks_sent, 0u);
    go_on(b);
    network.settle(100 * ms); // its next timeout
    expect_done(1);
}

TEST_P(EngineStopConnected, a_peer_that_bears_few_waits_long_each_time)
{
    send_req(b, qb, 2);
    connect_up({.rnr_retry = 2});
    network.stop(b);
    post_write(1, 1000);
    network.settle(1 * second); // 655 ms, twice
    EXPECT_EQ(b.stats.stopped_rnr_naks_sent, 2u);
    go_on(b);
    network.settle(2 * round_trip);
    expect_done(1);
}

// Half of 1 KiB; the other half is for what the device has of it.
TEST(EngineState, an_idle_connected_qp_takes_at_most_512_bytes)
{
    Node a{1}, b{2};
    auto size = [&] {
        migration::StreamWriter stream(migration::DeviceKind::pvrdma);
        a.engine.stop(0);
        a.engine.save(stream);
        return stream.finish().size();
    };
    size_t before = size();
    for (int i = 0; i < 100; ++i) {
        connect(a, a.create_qp(IBV_QPT_RC), b, b.create_qp(IBV_QPT_RC));
    }
    EXPECT_LE(size() - before, 100u * 512);
}

TEST_P(EngineStop, packets_of_a_device_to_itself_are_not_lost)
{
    QpNumbers first = a.create_qp(IBV_QPT_UD), second_qp = a.create_qp(IBV_QPT_UD);
    for (QpNumbers qp : {first, second_qp}) {
        ibv_qp_attr attr{};
        attr.qp_state = IBV_QPS_INIT;
        attr.port_num = 1;
        attr.qkey = 7;
        ASSERT_EQ(a.engine.modify_qp(
                      qp.id, attr,
                      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY, {}),
                  0);
        attr.qp_state = IBV_QPS_RTR;
        ASSERT_EQ(a.engine.modify_qp(qp.id, attr, IBV_QP_STATE, {}), 0);
        attr.qp_state = IBV_QPS_RTS;
        ASSERT_EQ(a.engine.modify_qp(qp.id, attr, IBV_QP_STATE | IBV_QP_SQ_PSN, {}), 0);
    }
    a.recv_queues[second_qp.id].push_back(recv_request(9, ram_base + 0x200000, 4096, ka.lkey));
    auto request = send_request(IBV_WR_SEND, 1, a_buffer, 64, ka.lkey);
    request.wr.wr.ud.remote_qpn = second_qp.qpn;
    request.wr.wr.ud.remote_qkey = 7;
    request.av.attr.is_global = 1;
    request.av.attr.grh.dgid = a.gid;
    a.send_queues[first.id].push_back(request);
    a.engine.send_doorbell(first.id);
    a.engine.run(network.now, 1); // sent, not received
    ASSERT_EQ(a.completions.size(), 1u);
    network.stop(a);
    go_on(a);
    network.settle(ms);
    ASSERT_EQ(a.completions.size(), 2u);
    EXPECT_EQ(a.completions[1].wc.wr_id, 9u);
    EXPECT_EQ(a.completions[1].wc.byte_len, 64u + 40);
}

} // namespace
} // namespace rdma::test
