// SPDX-License-Identifier: GPL-2.0-or-later
//
// GIDs on VLANs: the tag of a frame is that of the GID it comes from, which the
// guest tells or which shows in what its network card sends.
#include <cerrno>

#include "engine_harness.h"

namespace rdma::test {
namespace {

using namespace roce;

constexpr uint64_t a_buffer = ram_base;
constexpr uint64_t b_buffer = ram_base + 0x100000;
constexpr uint16_t vlan = 0x123;
using Bytes = std::vector<uint8_t>;

ibv_gid link_local(uint8_t host)
{
    ibv_gid gid{};
    gid.raw[0] = 0xfe;
    gid.raw[1] = 0x80;
    gid.raw[15] = host;
    return gid;
}

// An Ethernet frame up to its EtherType, with a tag or without.
Bytes ethernet(uint16_t ethertype, uint16_t tag)
{
    Bytes frame(12, 0x02);
    if (tag != no_vlan) {
        frame.insert(frame.end(),
                     {0x81, 0x00, static_cast<uint8_t>(tag >> 8), static_cast<uint8_t>(tag)});
    }
    frame.insert(frame.end(), {static_cast<uint8_t>(ethertype >> 8), static_cast<uint8_t>(ethertype)});
    return frame;
}
// What a NIC sends from an IP address: ARP, or an IP packet of no bytes.
Bytes arp_from(const ibv_gid& gid, uint16_t tag)
{
    Bytes frame = ethernet(0x0806, tag);
    frame.insert(frame.end(), {0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2});
    frame.insert(frame.end(), gid.raw + 12, gid.raw + 16);
    frame.insert(frame.end(), {0, 0, 0, 0, 0, 0, 10, 0, 0, 9});
    return frame;
}
Bytes ipv4_from(const ibv_gid& gid, uint16_t tag, uint8_t protocol = 6, uint16_t port = 0)
{
    Bytes frame = ethernet(0x0800, tag);
    frame.insert(frame.end(), {0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0});
    frame.insert(frame.end(), gid.raw + 12, gid.raw + 16);
    frame.insert(frame.end(), {10, 0, 0, 9, 0xc0, 0, static_cast<uint8_t>(port >> 8),
                               static_cast<uint8_t>(port), 0, 8, 0, 0});
    return frame;
}
Bytes ipv6_from(const ibv_gid& gid, uint16_t tag)
{
    Bytes frame = ethernet(0x86dd, tag);
    frame.insert(frame.end(), {0x60, 0, 0, 0, 0, 0, 58, 255});
    frame.insert(frame.end(), gid.raw, gid.raw + 16);
    frame.insert(frame.end(), 16, 0xff);
    return frame;
}

struct Vlan : testing::Test {
    Node a{1}, b{2};
    Network network;
    MrKeys ka = a.register_ram(), kb = b.register_ram();
    Bytes last_from_a;

    void SetUp() override
    {
        network.add(a);
        network.add(b);
        network.filter = [this](Node& from, Bytes& frame) {
            if (&from == &a) {
                last_from_a = frame;
            }
            return true;
        };
    }
    // The tag (priority and identifier) of the frames of a write from a to b;
    // nothing where it fails.
    std::optional<unsigned> tag_of_write(const Connection& c = {})
    {
        Connection few = c;
        few.retry_cnt = 1;
        QpNumbers qa = a.create_qp(IBV_QPT_RC), qb = b.create_qp(IBV_QPT_RC);
        connect(a, qa, b, qb, true, few);
        a.send_queues[qa.id].push_back(
            send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 100, ka.lkey, b_buffer, kb.rkey));
        network.ring(a, qa.id);
        EXPECT_TRUE(network.settle());
        if (a.take_completions().at(0).wc.status != IBV_WC_SUCCESS) {
            return std::nullopt;
        }
        bool tagged = last_from_a[12] == 0x81 && last_from_a[13] == 0;
        return tagged ? unsigned{last_from_a[14]} << 8 | last_from_a[15] : no_vlan;
    }
};

TEST_F(Vlan, none_where_nothing_tells_of_one)
{
    EXPECT_EQ(tag_of_write(), 0u);
}

TEST_F(Vlan, shows_in_arp_and_ip_of_the_nic)
{
    for (auto make : {+[](const ibv_gid& gid, uint16_t tag) { return arp_from(gid, tag); },
                      +[](const ibv_gid& gid, uint16_t tag) { return ipv4_from(gid, tag); }}) {
        for (uint16_t tag : {vlan, uint16_t{0}, uint16_t{1}, uint16_t{4094}}) {
            a.engine.observe_sent(make(a.gid, tag));
            b.engine.observe_sent(make(b.gid, tag));
            EXPECT_EQ(tag_of_write(), tag);
        }
    }
}

TEST_F(Vlan, shows_in_ipv6_of_the_nic)
{
    ibv_gid ga{}, gb{};
    ga.raw[0] = gb.raw[0] = 0xfd;
    ga.raw[15] = 1;
    gb.raw[15] = 2;
    a.add_gid(1, ga, 2);
    b.add_gid(1, gb, 2);
    a.engine.observe_sent(ipv6_from(ga, vlan));
    b.engine.observe_sent(ipv6_from(gb, vlan));
    EXPECT_EQ(tag_of_write({.gid_index = 1}), vlan);
    EXPECT_EQ(tag_of_write(), 0u) << "the other GID is on none";
}

TEST_F(Vlan, of_a_connection_is_the_gids_of_the_moment)
{
    QpNumbers qa = a.create_qp(IBV_QPT_RC), qb = b.create_qp(IBV_QPT_RC);
    connect(a, qa, b, qb);
    a.engine.observe_sent(arp_from(a.gid, vlan));
    a.send_queues[qa.id].push_back(
        send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 100, ka.lkey, b_buffer, kb.rkey));
    network.ring(a, qa.id);
    ASSERT_TRUE(network.settle());
    EXPECT_EQ(a.take_completions().at(0).wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(last_from_a[12], 0x81);
}

TEST_F(Vlan, seen_before_the_gid_is_bound_counts)
{
    ibv_gid late = a.gid;
    late.raw[15] = 77;
    a.engine.observe_sent(arp_from(late, vlan));
    b.engine.observe_sent(arp_from(b.gid, vlan));
    a.add_gid(1, late, 2);
    b.add_gid(1, b.gid, 2);
    EXPECT_EQ(tag_of_write({.gid_index = 1}), vlan);
    ASSERT_EQ(a.engine.del_gid(1), 0);
    a.add_gid(1, late, 2);
    EXPECT_EQ(tag_of_write({.gid_index = 1}), vlan) << "nor is it forgotten with the binding";
}

TEST_F(Vlan, other_addresses_of_the_nic_do_not_crowd_out_a_gids)
{
    a.engine.observe_sent(arp_from(a.gid, vlan));
    b.engine.observe_sent(arp_from(b.gid, vlan));
    ibv_gid other = a.gid;
    for (int i = 0; i < 1000; ++i) {
        other.raw[13] = static_cast<uint8_t>(1 + i / 256);
        other.raw[14] = static_cast<uint8_t>(i);
        a.engine.observe_sent(arp_from(other, no_vlan));
    }
    EXPECT_EQ(tag_of_write(), vlan);
}

TEST_F(Vlan, told_by_the_guest_is_not_learnt)
{
    ASSERT_EQ(a.engine.add_gid(0, a.gid, 2, vlan), 0);
    ASSERT_EQ(b.engine.add_gid(0, b.gid, 2, vlan), 0);
    a.engine.observe_sent(arp_from(a.gid, 9));
    EXPECT_EQ(tag_of_write(), vlan);
    EXPECT_EQ(a.engine.add_gid(0, a.gid, 2, uint16_t{4096}), EINVAL);
}

TEST_F(Vlan, priority_is_the_service_level)
{
    a.engine.observe_sent(arp_from(a.gid, vlan));
    b.engine.observe_sent(arp_from(b.gid, vlan));
    EXPECT_EQ(tag_of_write({.sl = 5}), 5u << 13 | vlan);
}

TEST_F(Vlan, another_is_another_network)
{
    a.engine.observe_sent(arp_from(a.gid, vlan));
    b.engine.observe_sent(arp_from(b.gid, vlan + 1));
    EXPECT_EQ(tag_of_write(), std::nullopt);
    EXPECT_GT(b.stats.drop_vlan, 0u);
    b.engine.observe_sent(arp_from(b.gid, no_vlan));
    EXPECT_EQ(tag_of_write(), std::nullopt);
}

TEST_F(Vlan, unknown_is_learnt_from_the_first_packet_for_a_qp)
{
    a.engine.observe_sent(arp_from(a.gid, vlan));
    EXPECT_EQ(tag_of_write(), vlan); // b answers with the same, or a would drop it
    a.engine.observe_sent(arp_from(a.gid, vlan + 1));
    EXPECT_EQ(tag_of_write(), std::nullopt) << "a packet does not change what is known";
}

// A stranger's packet has an address, a queue pair number and an ICRC; only a peer's, or
// one with the Q_Key, tells of the VLAN.
// [IBTA 9.6.1-2]
TEST_F(Vlan, is_not_learnt_from_a_stranger)
{
    Node stranger(3);
    QpNumbers qa = a.create_qp(IBV_QPT_RC), qb = b.create_qp(IBV_QPT_RC);
    connect(a, qa, b, qb);
    QpNumbers ud = b.create_qp(IBV_QPT_UD);
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = 1;
    attr.qkey = 7;
    ASSERT_EQ(b.engine.modify_qp(
                  ud.id, attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY, {}),
              0);
    FrameBuilder builder;
    auto forge = [&](const Node& from, uint8_t op, uint32_t qpn, auto header) {
        Path path(NetworkType::ipv4, Mac{2, 0, 0, 0, 0, from.number}, b.mac(),
                  from.gid, b.gid, 0, 0, 64, 0xc000);
        builder.begin(path, vlan, op, qpn, Psn(Connection{}.psn_a), true, false);
        builder.header(header);
        b.engine.receive(builder.finish(), network.now);
    };
    forge(stranger, transport_rc | op_write_only, qb.qpn, Reth{b_buffer, kb.rkey, 0});
    EXPECT_EQ(b.stats.drop_peer_mismatch, 1u);
    forge(stranger, transport_ud | op_send_only, ud.qpn, Deth{7, 0, 5}); // still in INIT
    EXPECT_EQ(b.stats.drop_qp_state, 1u);
    attr.qp_state = IBV_QPS_RTR;
    ASSERT_EQ(b.engine.modify_qp(ud.id, attr, IBV_QP_STATE, {}), 0);
    forge(stranger, transport_ud | op_send_only, ud.qpn, Deth{8, 0, 5});
    EXPECT_EQ(b.stats.drop_qkey, 1u);
    EXPECT_EQ(tag_of_write(), 0u) << "what comes without a tag is still taken";
}

// VID 0 is a priority tag: the frame is of no VLAN (IEEE 802.1Q, 9.6).
TEST_F(Vlan, a_priority_tag_is_no_vlan)
{
    a.engine.observe_sent(arp_from(a.gid, no_vlan));
    b.engine.observe_sent(arp_from(b.gid, no_vlan));
    network.filter = [this](Node&, Bytes& frame) {
        const uint8_t tag[] = {0x81, 0x00, 5 << 5, 0}; // priority 5
        frame.insert(frame.begin() + 12, std::begin(tag), std::end(tag));
        last_from_a = frame;
        return true;
    };
    EXPECT_EQ(tag_of_write(), 5u << 13);
    EXPECT_EQ(b.stats.drop_vlan, 0u);
    EXPECT_EQ(a.stats.drop_vlan, 0u);
}

TEST_F(Vlan, is_learnt_from_a_datagram_with_the_q_key)
{
    QpNumbers ud = b.create_qp(IBV_QPT_UD);
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = 1;
    attr.qkey = 7;
    ASSERT_EQ(b.engine.modify_qp(
                  ud.id, attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY, {}),
              0);
    attr.qp_state = IBV_QPS_RTR;
    ASSERT_EQ(b.engine.modify_qp(ud.id, attr, IBV_QP_STATE, {}), 0);
    FrameBuilder builder;
    Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
    builder.begin(path, vlan, transport_ud | op_send_only, ud.qpn, Psn(0), false, false);
    builder.header(Deth{7, 0, 5});
    b.engine.receive(builder.finish(), network.now);
    a.engine.observe_sent(arp_from(a.gid, vlan));
    EXPECT_EQ(tag_of_write(), vlan);
    a.engine.observe_sent(arp_from(a.gid, no_vlan));
    EXPECT_EQ(tag_of_write(), std::nullopt) << "without a tag it is another network";
}

TEST_F(Vlan, roce_frames_of_the_nic_itself_tell_nothing)
{
    a.engine.observe_sent(arp_from(a.gid, vlan));
    b.engine.observe_sent(arp_from(b.gid, vlan));
    a.engine.observe_sent(ipv4_from(a.gid, no_vlan, 17, 4791));
    EXPECT_EQ(tag_of_write(), vlan);
    a.engine.observe_sent(ipv4_from(a.gid, no_vlan, 17, 4790));
    EXPECT_EQ(tag_of_write(), std::nullopt) << "other UDP does";
}

// fe80::...: a VLAN interface has its parent's MAC, and so its link-local address.
TEST_F(Vlan, a_link_local_address_is_the_parents)
{
    a.add_gid(1, link_local(1), 2);
    b.add_gid(1, link_local(2), 2);
    a.engine.observe_sent(ipv6_from(link_local(1), no_vlan));
    a.engine.observe_sent(ipv6_from(link_local(1), vlan));
    EXPECT_EQ(tag_of_write({.gid_index = 1}), 0u);
}

TEST_F(Vlan, frames_cut_short_tell_nothing)
{
    ibv_gid gid{};
    gid.raw[0] = 0xfd;
    gid.raw[15] = 1;
    a.add_gid(1, gid, 2);
    for (const Bytes& frame : {arp_from(a.gid, vlan), ipv4_from(a.gid, vlan), ipv6_from(gid, vlan)}) {
        for (size_t size = 0; size < 18 + 20; ++size) {
            Bytes cut(frame.begin(), frame.begin() + static_cast<ptrdiff_t>(size));
            cut.shrink_to_fit();
            a.engine.observe_sent(cut);
        }
    }
    SUCCEED(); // the sanitizers watch
}

TEST_F(Vlan, connections_within_the_device_work)
{
    QpNumbers first = a.create_qp(IBV_QPT_RC), second = a.create_qp(IBV_QPT_RC);
    connect(a, first, a, second);
    for (uint16_t tag : {no_vlan, vlan}) {
        a.send_queues[first.id].push_back(
            send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 8, ka.lkey, b_buffer, ka.rkey));
        network.ring(a, first.id);
        ASSERT_TRUE(network.settle());
        EXPECT_EQ(a.take_completions().at(0).wc.status, IBV_WC_SUCCESS);
        a.engine.observe_sent(arp_from(a.gid, tag == no_vlan ? vlan : tag));
    }
}

} // namespace
} // namespace rdma::test
