// SPDX-License-Identifier: GPL-2.0-or-later
#include "frame_builder.h"
#include "packet.h"

#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace rdma::roce {
namespace {

ibv_gid gid_of(std::initializer_list<uint8_t> bytes)
{
    ibv_gid gid;
    std::copy(bytes.begin(), bytes.end(), gid.raw);
    return gid;
}

const ibv_gid v4_a = gid_of({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1});
const ibv_gid v4_b = gid_of({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2});
const ibv_gid v6_a = gid_of({0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1});
const ibv_gid v6_b = gid_of({0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2});

Path path_for(NetworkType network)
{
    bool v4 = network == NetworkType::ipv4;
    return Path(network, {2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, v4 ? v4_a : v6_a,
                v4 ? v4_b : v6_b, 0x2a, 0x12345, 64, 0xc123);
}

std::vector<uint8_t> write_frame(NetworkType network, size_t size)
{
    static FrameBuilder builder;
    builder.begin(path_for(network), no_vlan, transport_rc | op_write_only, 0x12, Psn(0xfffffe), true, true);
    builder.header(Reth{0x1122334455667788, 0xcafe, static_cast<uint32_t>(size)});
    auto payload = builder.payload(size);
    for (size_t i = 0; i < size; ++i) {
        payload[i] = static_cast<std::byte>(i);
    }
    auto frame = builder.finish();
    return {frame.begin(), frame.end()};
}

class PacketTest : public testing::TestWithParam<NetworkType> {};

// [IBTA 9.2-4] [IBTA CA17-6] [IBTA CA17-8] [IBTA CA17-15] [IBTA CA17-21]
TEST_P(PacketTest, what_is_built_is_what_is_parsed)
{
    for (size_t size : {0u, 1u, 2u, 3u, 4u, 1024u, 4095u, 4096u}) {
        auto frame = write_frame(GetParam(), size);
        std::array<uint8_t, grh_size> grh;
        auto packet = parse(frame, grh);
        ASSERT_TRUE(packet) << size;
        EXPECT_EQ(packet->network, GetParam());
        EXPECT_EQ(packet->opcode, transport_rc | op_write_only);
        EXPECT_EQ(packet->psn, Psn(0xfffffe));
        EXPECT_EQ(packet->destination_qp, 0x12u);
        EXPECT_TRUE(packet->ack_request);
        EXPECT_TRUE(packet->solicited);
        EXPECT_EQ(packet->remote_address, 0x1122334455667788u);
        EXPECT_EQ(packet->rkey, 0xcafeu);
        EXPECT_EQ(packet->dma_length, size);
        ASSERT_EQ(packet->payload.size(), size);
        for (size_t i = 0; i < size; ++i) {
            ASSERT_EQ(packet->payload[i], static_cast<uint8_t>(i));
        }
    }
}

// [IBTA CA17-22] [IBTA CA17-24] [IBTA CA17-29]
TEST_P(PacketTest, every_flipped_bit_that_no_router_may_change_is_noticed)
{
    auto frame = write_frame(GetParam(), 16);
    std::array<uint8_t, grh_size> grh;
    size_t first = sizeof(EthernetHeader);
    unsigned accepted = 0;
    for (size_t bit = first * 8; bit < frame.size() * 8; ++bit) {
        auto damaged = frame;
        damaged[bit / 8] = static_cast<uint8_t>(damaged[bit / 8] ^ (1 << bit % 8));
        accepted += parse(damaged, grh).has_value();
    }
    // Masked in the ICRC (A17.3.3): IPv4 TOS, TTL, checksum; IPv6 and GRH
    // traffic class, flow label, hop limit; the UDP checksum; BTH's reserved
    // byte with FECN and BECN.
    unsigned network = GetParam() == NetworkType::ipv4 ? 8 + 8 + 16 : 28 + 8;
    unsigned udp = GetParam() == NetworkType::roce_v1 ? 0 : 16;
    EXPECT_EQ(accepted, network + udp + 8);
}

TEST_P(PacketTest, a_frame_cut_short_anywhere_is_refused)
{
    auto frame = write_frame(GetParam(), 100);
    std::array<uint8_t, grh_size> grh;
    for (size_t size = 0; size < frame.size(); ++size) {
        EXPECT_FALSE(parse(std::span(frame).first(size), grh)) << size;
    }
}

TEST_P(PacketTest, damaged_frames_do_no_harm)
{
    std::mt19937 random(42);
    std::array<uint8_t, grh_size> grh;
    for (int i = 0; i < 20000; ++i) {
        auto frame = write_frame(GetParam(), random() % 64);
        for (int n = 1 + static_cast<int>(random() % 8); n > 0; --n) {
            size_t at = sizeof(EthernetHeader) + random() % (frame.size() - sizeof(EthernetHeader));
            frame[at] = static_cast<uint8_t>(random());
        }
        frame.resize(random() % (frame.size() + 1));
        (void)parse(frame, grh); // no crash, nothing read out of bounds
    }
}

INSTANTIATE_TEST_SUITE_P(Networks, PacketTest,
                         testing::Values(NetworkType::roce_v1, NetworkType::ipv4,
                                         NetworkType::ipv6));

// [IBTA CA17-24]
TEST(Packet, other_traffic_is_not_taken)
{
    auto frame = write_frame(NetworkType::ipv4, 8);
    Layers layers;
    EXPECT_EQ(parse_network(frame, layers), ParseError::none);
    auto other_port = frame;
    other_port[14 + 20 + 3] = 1; // UDP destination port
    EXPECT_EQ(parse_network(other_port, layers), ParseError::not_roce);
    auto fragment = frame;
    fragment[14 + 6] = 0x20; // more fragments
    EXPECT_EQ(parse_network(fragment, layers), ParseError::not_roce);
    auto tcp = frame;
    tcp[14 + 9] = 6;
    EXPECT_EQ(parse_network(tcp, layers), ParseError::not_roce);
}

} // namespace
} // namespace rdma::roce
