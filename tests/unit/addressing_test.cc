// SPDX-License-Identifier: GPL-2.0-or-later
//
// Addresses and header fields on the wire, looked at byte by byte: RoCE
// versions, several GIDs, traffic class, ECN, hop limit, flow label, CNPs.
#include <algorithm>
#include <array>

#include "engine_harness.h"

namespace rdma::test {
namespace {

using namespace roce;

constexpr uint64_t a_buffer = ram_base;
constexpr uint64_t b_buffer = ram_base + 0x100000;

ibv_gid ipv6(uint8_t subnet, uint8_t host)
{
    ibv_gid gid{};
    gid.raw[0] = 0xfd;
    gid.raw[7] = subnet;
    gid.raw[15] = host;
    return gid;
}
ibv_gid ipv4(uint8_t subnet, uint8_t host)
{
    ibv_gid gid{};
    gid.raw[10] = gid.raw[11] = 0xff;
    gid.raw[12] = 10;
    gid.raw[14] = subnet;
    gid.raw[15] = host;
    return gid;
}

// Fields of a frame without a VLAN tag, by their offsets in the standards.
struct Wire {
    std::vector<uint8_t> bytes;

    unsigned word(size_t at) const
    {
        return static_cast<unsigned>(bytes.at(at) << 8 | bytes.at(at + 1));
    }
    unsigned ethertype() const { return word(12); }
    bool is_ipv4() const { return ethertype() == 0x0800; }
    size_t ip_size() const { return is_ipv4() ? 20 : 40; }
    unsigned traffic_class() const { return is_ipv4() ? bytes[15] : word(14) >> 4 & 0xff; }
    unsigned hop_limit() const { return bytes.at(is_ipv4() ? 22 : 21); }
    unsigned flow_label() const { return (word(14) & 0xf) << 16 | word(16); }
    std::vector<uint8_t> source() const
    {
        size_t at = is_ipv4() ? 26 : 22, size = is_ipv4() ? 4 : 16;
        auto first = bytes.begin() + static_cast<ptrdiff_t>(at);
        return {first, first + static_cast<ptrdiff_t>(size)};
    }
    unsigned udp_source() const { return word(14 + ip_size()); }
    unsigned udp_destination() const { return word(14 + ip_size() + 2); }
};

std::vector<uint8_t> low_bytes(const ibv_gid& gid, size_t size)
{
    return {gid.raw + 16 - size, gid.raw + 16};
}

struct Addressing : testing::Test {
    Node a{1}, b{2};
    Network network;
    MrKeys ka = a.register_ram(), kb = b.register_ram();
    std::vector<Wire> from_a, from_b;

    void SetUp() override
    {
        network.add(a);
        network.add(b);
        network.filter = [this](Node& from, std::vector<uint8_t>& frame) {
            (&from == &a ? from_a : from_b).push_back({frame});
            return true;
        };
    }
    // A write from a to b over a new connection; the frames are in from_a and from_b.
    ibv_wc_status write(const Connection& c)
    {
        QpNumbers qa = a.create_qp(IBV_QPT_RC), qb = b.create_qp(IBV_QPT_RC);
        connect(a, qa, b, qb, true, c);
        from_a.clear();
        from_b.clear();
        a.send_queues[qa.id].push_back(
            send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 100, ka.lkey, b_buffer, kb.rkey));
        network.ring(a, qa.id);
        EXPECT_TRUE(network.settle());
        auto done = a.take_completions();
        return done.size() == 1 ? done[0].wc.status : IBV_WC_GENERAL_ERR;
    }
    void add_gids(uint8_t index, ibv_gid (*make)(uint8_t, uint8_t), uint8_t subnet, uint32_t type)
    {
        a.add_gid(index, make(subnet, 1), type);
        b.add_gid(index, make(subnet, 2), type);
    }
};

// [IBTA CA17-1] [IBTA CA17-20]
TEST_F(Addressing, an_ipv6_gid_sends_ipv6)
{
    add_gids(1, ipv6, 3, 2);
    ASSERT_EQ(write({.gid_index = 1}), IBV_WC_SUCCESS);
    EXPECT_EQ(from_a.at(0).ethertype(), 0x86ddu);
    EXPECT_EQ(from_a[0].udp_destination(), 4791u);
    EXPECT_EQ(from_a[0].source(), low_bytes(ipv6(3, 1), 16));
}

// [IBTA CA17-1] [IBTA CA17-12] [IBTA CA17-20]
TEST_F(Addressing, a_v4_mapped_gid_sends_ipv4)
{
    ASSERT_EQ(write({}), IBV_WC_SUCCESS);
    EXPECT_EQ(from_a.at(0).ethertype(), 0x0800u);
    EXPECT_EQ(from_a[0].udp_destination(), 4791u);
    EXPECT_EQ(from_a[0].source(), low_bytes(a.gid, 4));
}

// [IBTA CA17-40]
TEST_F(Addressing, roce_v1_sends_a_grh_for_both)
{
    add_gids(1, ipv6, 3, 1);
    add_gids(2, ipv4, 3, 1);
    for (uint8_t index : std::array<uint8_t, 2>{1, 2}) {
        ASSERT_EQ(write({.gid_index = index}), IBV_WC_SUCCESS);
        EXPECT_EQ(from_a.at(0).ethertype(), 0x8915u);
        EXPECT_EQ(from_a[0].bytes[20], 0x1b) << "next header: BTH";
        EXPECT_EQ(from_a[0].source(), low_bytes(a.gids[index], 16));
        EXPECT_EQ(from_b.at(0).ethertype(), 0x8915u);
    }
}

// [IBTA CA17-11] [IBTA CA17-18]
TEST_F(Addressing, each_qp_sends_from_the_gid_it_names)
{
    for (uint8_t index = 1; index < 16; ++index) {
        add_gids(index, index % 2 ? ipv6 : ipv4, index, 2);
    }
    for (uint8_t index = 1; index < 16; ++index) {
        ASSERT_EQ(write({.gid_index = index}), IBV_WC_SUCCESS);
        size_t size = index % 2 ? 16 : 4;
        EXPECT_EQ(from_a.at(0).source(), low_bytes(a.gids[index], size));
        EXPECT_EQ(from_b.at(0).source(), low_bytes(b.gids[index], size));
    }
}

TEST_F(Addressing, a_gid_that_is_gone_is_no_address_of_ours)
{
    add_gids(1, ipv6, 3, 2);
    ASSERT_EQ(write({.gid_index = 1}), IBV_WC_SUCCESS);
    auto frame = from_a.at(0).bytes;
    EXPECT_TRUE(b.engine.wants(frame));
    ASSERT_EQ(b.engine.del_gid(1), 0);
    EXPECT_FALSE(b.engine.wants(frame));
}

// What QPs send from it is lost until it is there again.
// [virtio-rdma CTL-26]
TEST_F(Addressing, nothing_is_sent_from_a_gid_that_is_gone)
{
    add_gids(1, ipv6, 3, 2);
    std::array<QpNumbers, 4> qas, qbs;
    for (size_t i = 0; i < qas.size(); ++i) {
        qas[i] = a.create_qp(IBV_QPT_RC);
        qbs[i] = b.create_qp(IBV_QPT_RC);
        connect(a, qas[i], b, qbs[i], true, {.gid_index = 1});
    }
    auto write_a = [&](size_t i) {
        return carry_out(network, a, qas[i], send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 100,
                                                          ka.lkey, b_buffer, kb.rkey));
    };
    ibv_gid gid = a.gids[1];
    ASSERT_EQ(a.engine.del_gid(1), 0);
    from_a.clear();
    EXPECT_EQ(write_a(0), IBV_WC_RETRY_EXC_ERR);
    a.add_gid(1, ipv6(4, 1), 2);
    EXPECT_EQ(write_a(1), IBV_WC_RETRY_EXC_ERR);
    EXPECT_TRUE(from_a.empty()) << "another GID at the index is not theirs";
    ASSERT_EQ(a.engine.del_gid(1), 0);
    a.add_gid(3, gid, 2); // as Linux does while QPs name its first index
    EXPECT_EQ(write_a(2), IBV_WC_SUCCESS);
    // The responder's answers are lost as well, on both ways.
    ASSERT_EQ(b.engine.del_gid(1), 0);
    b.add_gid(1, ipv6(4, 2), 2);
    from_b.clear();
    EXPECT_EQ(write_a(3), IBV_WC_RETRY_EXC_ERR);
    EXPECT_TRUE(from_b.empty());
}

// [IBTA CA17-4] [IBTA CA17-9] [IBTA CA17-13] [IBTA CA17-17]
TEST_F(Addressing, traffic_class_and_hop_limit_are_on_every_packet)
{
    add_gids(1, ipv6, 3, 2);
    add_gids(2, ipv6, 4, 1);
    for (uint8_t index : std::array<uint8_t, 3>{0, 1, 2}) {
        for (uint8_t traffic_class : std::array<uint8_t, 5>{0x00, 0x2e << 2, 0xff, 0x01, 0x02}) {
            ASSERT_EQ(write({.gid_index = index, .traffic_class = traffic_class, .hop_limit = 7}),
                      IBV_WC_SUCCESS);
            for (const Wire& wire : {from_a.at(0), from_b.at(0)}) {
                EXPECT_EQ(wire.traffic_class(), traffic_class) << "ECN bits included";
                EXPECT_EQ(wire.hop_limit(), 7u);
            }
        }
    }
}

TEST_F(Addressing, a_hop_limit_of_0_does_not_go_out)
{
    ASSERT_EQ(write({.hop_limit = 0}), IBV_WC_SUCCESS);
    EXPECT_EQ(from_a.at(0).hop_limit(), 64u);
}

TEST_F(Addressing, the_flow_label_is_in_ipv6_and_steers_the_udp_port)
{
    add_gids(1, ipv6, 3, 2);
    // label: port, as Linux's rdma_flow_label_to_udp_sport() gives it.
    const std::pair<uint32_t, unsigned> labels[] = {
        {0x00001, 0xc001}, {0x04000, 0xc001}, {0x12345, 0xe341}, {0xfffff, 0xffc0}};
    for (auto [label, port] : labels) {
        for (uint8_t index : std::array<uint8_t, 2>{0, 1}) {
            ASSERT_EQ(write({.gid_index = index, .flow_label = label}), IBV_WC_SUCCESS);
            EXPECT_EQ(from_a.at(0).udp_source(), port);
            if (index == 1) {
                EXPECT_EQ(from_a[0].flow_label(), label);
            }
        }
    }
}

TEST_F(Addressing, without_a_flow_label_the_udp_port_is_dynamic_and_a_qps_own)
{
    std::vector<unsigned> ports;
    for (int i = 0; i < 16; ++i) {
        ASSERT_EQ(write({}), IBV_WC_SUCCESS);
        ports.push_back(from_a.at(0).udp_source());
        EXPECT_GE(ports.back(), 0xc000u);
    }
    std::ranges::sort(ports);
    EXPECT_GT(std::ranges::unique(ports).begin() - ports.begin(), 8);
}

// A router that is congested marks a packet CE; the ICRC leaves that out.
TEST_F(Addressing, a_packet_marked_on_its_way_is_taken)
{
    network.filter = [this](Node& from, std::vector<uint8_t>& frame) {
        if (&from == &a) {
            frame[15] |= 3;
        }
        return true;
    };
    EXPECT_EQ(write({.traffic_class = 0x02}), IBV_WC_SUCCESS);
    EXPECT_EQ(b.stats.drop_icrc, 0u);
}

TEST_F(Addressing, congestion_notifications_are_counted)
{
    QpNumbers qa = a.create_qp(IBV_QPT_RC), qb = b.create_qp(IBV_QPT_RC);
    connect(a, qa, b, qb);
    network.run_engines();
    FrameBuilder builder;
    Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
    builder.begin(path, no_vlan, opcode_cnp, qb.qpn, Psn(0), false, false);
    std::ranges::fill(builder.payload(16), std::byte{0}); // reserved
    auto frame = builder.finish();
    for (int i = 0; i < 3; ++i) {
        b.engine.receive(frame, network.now);
    }
    EXPECT_EQ(b.stats.cnps_received, 3u);
    EXPECT_TRUE(b.events.empty());
    EXPECT_FALSE(b.engine.has_work());
}

// [IBTA 9.2-3] [IBTA CA17-7] [IBTA A17.3.2.1-1] [IBTA A17.3.2.4-1]
TEST_F(Addressing, what_is_the_same_on_every_packet_of_a_qp)
{
    add_gids(1, ipv6, 3, 2);
    for (uint8_t index : std::array<uint8_t, 2>{0, 1}) {
        QpNumbers qa = a.create_qp(IBV_QPT_RC), qb = b.create_qp(IBV_QPT_RC);
        connect(a, qa, b, qb, true, {.gid_index = index});
        from_a.clear();
        a.send_queues[qa.id].push_back(
            send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 5000, ka.lkey, b_buffer, kb.rkey));
        network.ring(a, qa.id);
        ASSERT_TRUE(network.settle());
        ASSERT_EQ(from_a.size(), 5u);
        for (const Wire& wire : from_a) {
            size_t udp = 14 + wire.ip_size(), bth = udp + 8;
            EXPECT_EQ(wire.udp_source(), from_a[0].udp_source());
            EXPECT_EQ(wire.word(udp + 6), 0u) << "no checksum";
            EXPECT_TRUE(wire.bytes.at(bth + 1) & 0x40) << "MigReq";
            if (index == 0) {
                EXPECT_EQ(wire.word(20), 0x4000u) << "do not fragment";
            }
        }
    }
}

} // namespace
} // namespace rdma::test
