// SPDX-License-Identifier: GPL-2.0-or-later
//
// UD queue pairs (IBTA vol. 1, 9.8.3): the GRH before the data, Q_Keys, lengths,
// shared receive queues, and the error state of the send queue.
#include <algorithm>

#include "engine_harness.h"

namespace rdma::test {
namespace {

using namespace roce;

constexpr uint64_t a_buffer = ram_base;
constexpr uint64_t b_buffer = ram_base + 0x100000;
constexpr uint32_t qkey = 0x11111111;

struct Datagram : testing::Test {
    Node a{1}, b{2};
    Network network;
    MrKeys ka = a.register_ram(), kb = b.register_ram();
    QpNumbers qa = a.create_qp(IBV_QPT_UD), qb = b.create_qp(IBV_QPT_UD);

    void SetUp() override
    {
        network.add(a);
        network.add(b);
        bring_up(a, qa);
        bring_up(b, qb);
        for (size_t i = 0; i < 4096; ++i) {
            *(a.at(a_buffer) + i) = static_cast<std::byte>(i * 3 + 1);
        }
    }
    static void bring_up(Node& node, QpNumbers qp)
    {
        ibv_qp_attr attr{};
        attr.port_num = 1;
        attr.qkey = qkey;
        attr.sq_psn = 0x1234;
        const std::pair<ibv_qp_state, int> way[] = {
            {IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY},
            {IBV_QPS_RTR, 0},
            {IBV_QPS_RTS, IBV_QP_SQ_PSN}};
        for (auto [state, mask] : way) {
            attr.qp_state = state;
            ASSERT_EQ(node.engine.modify_qp(qp.id, attr, mask | IBV_QP_STATE, {}), 0);
        }
    }
    SendRequest datagram(uint32_t size, uint32_t remote_qkey = qkey)
    {
        SendRequest request = send_request(IBV_WR_SEND, 1, a_buffer, size, ka.lkey);
        request.wr.wr.ud.remote_qpn = qb.qpn;
        request.wr.wr.ud.remote_qkey = remote_qkey;
        request.av.attr.is_global = 1;
        request.av.attr.grh.dgid = b.gid;
        request.av.attr.grh.hop_limit = 9;
        request.av.attr.grh.traffic_class = 0x2e << 2 | 2; // EF, ECT(0)
        request.av.dmac = b.mac();
        return request;
    }
    ibv_wc_status send(const SendRequest& request)
    {
        a.send_queues[qa.id].push_back(request);
        network.ring(a, qa.id);
        EXPECT_TRUE(network.settle());
        auto done = a.take_completions();
        return done.size() == 1 ? done[0].wc.status : IBV_WC_GENERAL_ERR;
    }
    void post_recv(uint64_t wr_id, uint32_t size)
    {
        b.recv_queues[qb.id].push_back(recv_request(wr_id, b_buffer, size, kb.lkey));
    }
    uint8_t grh(size_t at) { return static_cast<uint8_t>(*b.at(b_buffer + at)); }
};

// [IBTA 9.3.2-1] [IBTA 9.8.3-4] [IBTA A17.4.5.2-1] [IBTA CA17-3]
TEST_F(Datagram, has_40_bytes_before_it_with_the_ipv4_header_last)
{
    post_recv(5, 1000);
    ASSERT_EQ(send(datagram(100)), IBV_WC_SUCCESS);
    auto done = b.take_completions();
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(done[0].wc.wr_id, 5u);
    EXPECT_EQ(done[0].wc.byte_len, 140u);
    EXPECT_EQ(done[0].wc.src_qp, qa.qpn);
    EXPECT_EQ(done[0].wc.wc_flags, +IBV_WC_GRH);
    EXPECT_EQ(done[0].network, NetworkType::ipv4);
    EXPECT_EQ(done[0].smac, a.mac());
    EXPECT_EQ(grh(20), 0x45);
    EXPECT_EQ(grh(21), 0x2e << 2 | 2);
    EXPECT_EQ(grh(28), 9);
    EXPECT_TRUE(std::equal(a.gid.raw + 12, a.gid.raw + 16,
                           reinterpret_cast<uint8_t*>(b.at(b_buffer + 32))));
    EXPECT_EQ(std::memcmp(a.at(a_buffer), b.at(b_buffer + 40), 100), 0);
}

TEST_F(Datagram, marked_by_a_congested_router_shows_it_in_the_grh)
{
    network.filter = [](Node&, std::vector<uint8_t>& frame) {
        frame[15] |= 3; // CE
        return true;
    };
    post_recv(5, 1000);
    ASSERT_EQ(send(datagram(100)), IBV_WC_SUCCESS);
    ASSERT_EQ(b.take_completions().size(), 1u);
    EXPECT_EQ(grh(21), 0x2e << 2 | 3);
}

// [IBTA A17.4.5.2-1] [IBTA CA17-16] [IBTA CA17-19] [IBTA CA17-42] [IBTA CA17-43]
TEST_F(Datagram, over_ipv6_has_the_whole_header_before_it)
{
    ibv_gid ga{}, gb{};
    ga.raw[0] = gb.raw[0] = 0xfd;
    ga.raw[15] = 1;
    gb.raw[15] = 2;
    for (uint32_t type : {2u, 1u}) {
        a.add_gid(1, ga, type);
        b.add_gid(1, gb, type);
        SendRequest request = datagram(100);
        request.av.attr.grh.dgid = gb;
        request.av.attr.grh.sgid_index = 1;
        request.av.attr.grh.flow_label = 0x54321;
        post_recv(5, 1000);
        ASSERT_EQ(send(request), IBV_WC_SUCCESS);
        auto done = b.take_completions();
        ASSERT_EQ(done.size(), 1u);
        EXPECT_EQ(done[0].network, type == 2 ? NetworkType::ipv6 : NetworkType::roce_v1);
        const uint8_t first[] = {0x6b, 0xa5, 0x43, 0x21}; // version, class, label
        for (size_t i = 0; i < 4; ++i) {
            EXPECT_EQ(grh(i), first[i]) << i;
        }
        EXPECT_EQ(grh(6), type == 2 ? 17 : 0x1b);
        EXPECT_EQ(grh(7), 9);
        EXPECT_TRUE(std::equal(ga.raw, ga.raw + 16, reinterpret_cast<uint8_t*>(b.at(b_buffer + 8))));
        EXPECT_TRUE(
            std::equal(gb.raw, gb.raw + 16, reinterpret_cast<uint8_t*>(b.at(b_buffer + 24))));
    }
}

// [IBTA 9.3.2-1] [IBTA 9.6.1-6] [IBTA 9.8.3-2]
TEST_F(Datagram, needs_the_receivers_qkey)
{
    post_recv(5, 1000);
    EXPECT_EQ(send(datagram(100, qkey + 1)), IBV_WC_SUCCESS) << "the sender is not told";
    EXPECT_TRUE(b.take_completions().empty());
    EXPECT_EQ(b.stats.drop_qkey, 1u);
    // [virtio-rdma REQ-20]
    EXPECT_EQ(send(datagram(100, 0x80000000)), IBV_WC_SUCCESS) << "the QP's own";
    EXPECT_EQ(b.take_completions().size(), 1u);
}

TEST_F(Datagram, follows_a_qkey_that_changes)
{
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_RTS;
    attr.qkey = 0x22222222;
    ASSERT_EQ(b.engine.modify_qp(qb.id, attr, IBV_QP_STATE | IBV_QP_QKEY, {}), 0);
    post_recv(5, 1000);
    EXPECT_EQ(send(datagram(100)), IBV_WC_SUCCESS);
    EXPECT_TRUE(b.take_completions().empty());
    EXPECT_EQ(send(datagram(100, 0x22222222)), IBV_WC_SUCCESS);
    EXPECT_EQ(b.take_completions().size(), 1u);
}

// [IBTA 9.8.3.2.2-1]
TEST_F(Datagram, that_is_too_long_leaves_the_receive_request)
{
    post_recv(5, 139);
    EXPECT_EQ(send(datagram(100)), IBV_WC_SUCCESS);
    EXPECT_TRUE(b.take_completions().empty());
    EXPECT_EQ(send(datagram(99)), IBV_WC_SUCCESS);
    EXPECT_EQ(b.take_completions().size(), 1u);
}

// [IBTA 9.8.3-1]
TEST_F(Datagram, fits_the_ports_mtu)
{
    a.port_mtu = 1500; // a path MTU of 1024
    post_recv(5, 4096);
    EXPECT_EQ(send(datagram(1024)), IBV_WC_SUCCESS);
    EXPECT_EQ(b.take_completions().size(), 1u);
    EXPECT_EQ(send(datagram(1025)), IBV_WC_LOC_LEN_ERR);
}

// [virtio-rdma REQ-5] [virtio-rdma REQ-14]
TEST_F(Datagram, error_stops_the_send_queue_until_it_is_resumed)
{
    EXPECT_EQ(send(datagram(5000)), IBV_WC_LOC_LEN_ERR);
    ibv_qp_attr attr{};
    Mac dmac;
    ASSERT_EQ(a.engine.query_qp(qa.id, attr, dmac), 0);
    EXPECT_EQ(attr.qp_state, IBV_QPS_SQE);
    EXPECT_EQ(send(datagram(100)), IBV_WC_WR_FLUSH_ERR);
    attr.qp_state = IBV_QPS_RTS;
    ASSERT_EQ(a.engine.modify_qp(qa.id, attr, IBV_QP_STATE, {}), 0);
    post_recv(5, 1000);
    EXPECT_EQ(send(datagram(100)), IBV_WC_SUCCESS);
    EXPECT_EQ(b.take_completions().size(), 1u);
}

// [IBTA 9.8.3-3]
TEST_F(Datagram, takes_from_a_shared_receive_queue_and_counts_towards_its_limit)
{
    uint32_t srq = b.engine.create_srq(b.pd, {16, 1, 0}).value();
    QpInit init = b.qp_init(IBV_QPT_UD);
    init.use_srq = true;
    init.srq = srq;
    init.cap.max_recv_wr = init.cap.max_recv_sge = 0;
    qb = b.engine.create_qp(init).value();
    bring_up(b, qb);
    for (uint64_t id : {20u, 21u}) {
        b.srq_queues[srq].push_back(recv_request(id, b_buffer, 1000, kb.lkey));
    }
    ASSERT_EQ(b.engine.modify_srq(srq, {0, 0, 1}, IBV_SRQ_LIMIT), 0);
    ASSERT_EQ(send(datagram(100)), IBV_WC_SUCCESS);
    EXPECT_TRUE(b.events.empty());
    ASSERT_EQ(send(datagram(100)), IBV_WC_SUCCESS);
    auto done = b.take_completions();
    ASSERT_EQ(done.size(), 2u);
    EXPECT_EQ(done[0].wc.wr_id, 20u);
    EXPECT_EQ(done[1].wc.wr_id, 21u);
    EXPECT_EQ(done[1].wc.byte_len, 140u);
    ASSERT_EQ(b.events.size(), 1u);
    EXPECT_EQ(b.events[0].type, IBV_EVENT_SRQ_LIMIT_REACHED);
    EXPECT_EQ(send(datagram(100)), IBV_WC_SUCCESS) << "none left: the datagram is lost";
    EXPECT_EQ(b.stats.drop_no_receive, 1u);
}

// [IBTA 9.2-2]
TEST_F(Datagram, solicits_an_event_where_it_says_so)
{
    for (bool solicited : {true, false}) {
        post_recv(5, 1000);
        SendRequest request = datagram(10);
        request.wr.send_flags |= solicited ? IBV_SEND_SOLICITED : 0;
        ASSERT_EQ(send(request), IBV_WC_SUCCESS);
        EXPECT_EQ(b.take_completions().at(0).solicited, solicited);
    }
}

// [IBTA 9.8.3-5]
TEST_F(Datagram, has_the_next_psn_which_its_receiver_does_not_look_at)
{
    std::vector<uint32_t> psns;
    network.filter = [&](Node&, std::vector<uint8_t>& frame) {
        constexpr size_t psn = 14 + 20 + 8 + 9; // of BTH behind Ethernet, IPv4, UDP
        psns.push_back(uint32_t{frame[psn]} << 16 | uint32_t{frame[psn + 1]} << 8 | frame[psn + 2]);
        return psns.size() != 2;
    };
    for (uint64_t i = 0; i < 3; ++i) {
        post_recv(i, 1000);
        ASSERT_EQ(send(datagram(100)), IBV_WC_SUCCESS);
    }
    EXPECT_EQ(psns, (std::vector<uint32_t>{0x1234, 0x1235, 0x1236}));
    EXPECT_EQ(b.take_completions().size(), 2u) << "all but the one that was lost";
}

// [IBTA 9.8.3-6]
TEST_F(Datagram, has_no_operations_but_sends)
{
    for (int opcode : {int{IBV_WR_RDMA_WRITE}, int{IBV_WR_RDMA_READ}, int{IBV_WR_SEND_WITH_INV},
                       int{IBV_WR_ATOMIC_FETCH_AND_ADD}}) {
        SendRequest request = datagram(8);
        request.opcode = opcode;
        EXPECT_EQ(send(request), IBV_WC_LOC_QP_OP_ERR);
        ibv_qp_attr attr{};
        attr.qp_state = IBV_QPS_RTS;
        ASSERT_EQ(a.engine.modify_qp(qa.id, attr, IBV_QP_STATE, {}), 0);
    }
    EXPECT_EQ(a.stats.tx_packets, 0u);
}

} // namespace
} // namespace rdma::test
