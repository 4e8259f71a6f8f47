// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which packets are looked at, before what they ask for is (IBTA vol. 1, 9.6 and A17.4): all
// others are dropped silently, and what comes after them is as it would have been.
#include <functional>

#include "reliable_connection.h"

namespace rdma::test {
namespace {

using Frame = std::vector<uint8_t>;

constexpr size_t ip_at = 14, bth_at = 14 + 20 + 8; // Ethernet, IPv4, UDP

struct PacketValidation : Responding {
    Frame frame_of(uint8_t op, const ibv_gid& destination,
                   NetworkType network_type = NetworkType::ipv4)
    {
        FrameBuilder builder;
        Path path(network_type, a.mac(), b.mac(), a.gid, destination, 0, 0, 64, 0xc000);
        builder.begin(path, no_vlan, op, qb.qpn, psn, true, false);
        builder.header(Reth{b_buffer, kb.rkey, 0});
        auto frame = builder.finish();
        return {frame.begin(), frame.end()};
    }
    Frame write_frame() { return frame_of(op_write_only, b.gid); }
    // The same with its header changed and an ICRC that is right for it.
    Frame changed(const std::function<void(Frame&)>& change)
    {
        Frame frame = write_frame();
        change(frame);
        auto bytes = std::span<const uint8_t>(frame);
        size_t icrc_at = frame.size() - icrc_size;
        uint32_t icrc = icrc_of(NetworkType::ipv4, bytes.subspan(ip_at, bth_at - ip_at),
                                bytes.subspan(bth_at, icrc_at - bth_at));
        std::memcpy(&frame[icrc_at], &icrc, sizeof(icrc));
        return frame;
    }
    void receive(const Frame& frame)
    {
        ASSERT_TRUE(b.engine.wants(frame));
        b.engine.receive(frame, network.now);
        run();
    }
    void expect_taken(const Frame& frame)
    {
        answers.clear();
        receive(frame);
        ASSERT_EQ(answers.size(), 1u);
        EXPECT_EQ(answers[0].psn, psn);
        EXPECT_EQ(answers[0].syndrome & aeth_type_mask, aeth_ack);
        ++psn;
    }
    void expect_dropped(const Frame& frame)
    {
        answers.clear();
        receive(frame);
        EXPECT_TRUE(answers.empty());
        EXPECT_TRUE(b.events.empty());
        expect_taken(write_frame());
    }
};

// [IBTA 9.2-5]
TEST_F(PacketValidation, another_version_of_the_transport_header_is_dropped)
{
    connect_up();
    for (unsigned version = 1; version < 16; ++version) {
        expect_dropped(changed([&](Frame& frame) {
            frame[bth_at + 1] = static_cast<uint8_t>(frame[bth_at + 1] | version);
        }));
    }
}

// [IBTA 9.6.1-3]
TEST_F(PacketValidation, the_opcode_of_another_transport_is_dropped)
{
    connect_up();
    for (unsigned transport : {0x20u, 0x40u, 0x60u, 0xa0u}) { // UC, RD, UD, XRC
        expect_dropped(changed([&](Frame& frame) {
            frame[bth_at] = static_cast<uint8_t>(frame[bth_at] | transport);
        }));
    }
}

// [IBTA 9.6.1-4]
TEST_F(PacketValidation, a_packet_of_another_partition_is_dropped)
{
    connect_up();
    auto of_partition = [this](unsigned pkey) {
        return changed([&](Frame& frame) {
            frame[bth_at + 2] = static_cast<uint8_t>(pkey >> 8);
            frame[bth_at + 3] = static_cast<uint8_t>(pkey);
        });
    };
    for (unsigned pkey : {0x0000u, 0x1234u, 0x8000u, 0xfffeu}) {
        expect_dropped(of_partition(pkey));
    }
    expect_taken(of_partition(0x7fff)); // of a limited member of ours
}

// [IBTA CA17-33]
TEST_F(PacketValidation, a_packet_to_qp_0_is_dropped)
{
    connect_up();
    expect_dropped(changed([](Frame& frame) { std::fill_n(&frame[bth_at + 5], 3, uint8_t{0}); }));
}

// [IBTA 9.6.1-9]
TEST_F(PacketValidation, a_packet_for_another_address_of_the_port_is_dropped)
{
    ibv_gid other = b.gid;
    other.raw[15] = 99;
    b.add_gid(1, other, 2);
    connect_up();
    expect_dropped(frame_of(op_write_only, other));
}

// [IBTA CA17-41]
TEST_F(PacketValidation, a_packet_of_the_other_roce_version_than_the_qps_is_dropped)
{
    b.add_gid(1, b.gid, 1);
    connect_up();
    expect_dropped(frame_of(op_write_only, b.gid, NetworkType::roce_v1));
}

// [IBTA CA17-27]
TEST_F(PacketValidation, an_ip_version_that_is_not_the_ethertypes_is_not_ours)
{
    for (auto type : {NetworkType::ipv4, NetworkType::ipv6, NetworkType::roce_v1}) {
        Frame frame = frame_of(op_write_only, b.gid, type);
        EXPECT_TRUE(b.engine.wants(frame));
        for (unsigned version = 0; version < 16; ++version) {
            if (version != (type == NetworkType::ipv4 ? 4u : 6u)) {
                frame[ip_at] = static_cast<uint8_t>((frame[ip_at] & 0xf) | version << 4);
                EXPECT_FALSE(b.engine.wants(frame)) << version;
            }
        }
    }
}

// [IBTA 9.6.1-7]
// [virtio-rdma REQ-21]
TEST_F(PacketValidation, the_gsi_qp_has_its_own_q_key_whatever_is_set)
{
    QpInit init = b.qp_init(IBV_QPT_UD);
    init.gsi = true;
    QpNumbers gsi = b.engine.create_qp(init).value();
    ibv_qp_attr attr{};
    attr.port_num = 1;
    attr.qkey = 5;
    attr.qp_state = IBV_QPS_INIT;
    int mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY;
    ASSERT_EQ(b.engine.modify_qp(gsi.id, attr, mask, {}), 0);
    attr.qp_state = IBV_QPS_RTR;
    ASSERT_EQ(b.engine.modify_qp(gsi.id, attr, IBV_QP_STATE, {}), 0);
    b.recv_queues[gsi.id].push_back(recv_request(1, b_buffer, 512, kb.lkey));
    auto datagram = [&](uint32_t qkey) {
        FrameBuilder builder;
        Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
        builder.begin(path, no_vlan, transport_ud | op_send_only, 1, Psn(0), false, false);
        builder.header(Deth{qkey, 0, 1});
        b.engine.receive(builder.finish(), network.now);
        return b.take_completions().size();
    };
    EXPECT_EQ(datagram(5), 0u);
    EXPECT_EQ(datagram(0x80010000), 1u);
}

} // namespace
} // namespace rdma::test
