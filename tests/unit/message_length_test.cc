// SPDX-License-Identifier: GPL-2.0-or-later
//
// Messages from a peer have at most 2^31 bytes (IBTA vol. 1, 9.7.1), however large the
// buffers are.
#include "reliable_connection.h"

namespace rdma::test {
namespace {

constexpr uint64_t region_size = 1u << 30;
constexpr uint32_t mtu = 4096;

Limits limits_for_long_messages()
{
    Limits limits = Node::default_limits();
    limits.max_mr_size = region_size;
    return limits;
}

struct MessageLength : testing::TestWithParam<uint64_t> {
    Node a{1}, b{2, limits_for_long_messages()};
    QpNumbers qa = a.create_qp(IBV_QPT_RC), qb = b.create_qp(IBV_QPT_RC);
    MrKeys key = register_repeated();
    std::vector<std::byte> payload{mtu, std::byte{0x33}};
    Psn psn{Connection{}.psn_a};
    uint8_t last_syndrome = 0;

    void SetUp() override
    {
        Connection c;
        c.mtu = IBV_MTU_4096;
        connect(a, qa, b, qb, true, c);
        b.transmit = [this](std::vector<uint8_t> frame) { last_syndrome = frame[14 + 20 + 8 + 12]; };
    }
    // 1 GiB of addresses, all of them the same page.
    MrKeys register_repeated()
    {
        std::vector<uint64_t> pages(region_size / page_size, ram_base);
        MrInit init;
        init.pd = b.pd;
        init.access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
        init.length = region_size;
        init.pages = pages;
        return b.engine.reg_mr(init).value();
    }
    void post_recv(uint64_t length)
    {
        RecvRequest request = recv_request(1, 0, 0, key.lkey);
        request.num_sge = 0;
        for (uint64_t rest = length; rest > 0;) {
            uint64_t n = std::min(rest, region_size);
            request.sge[request.num_sge++] = {0, static_cast<uint32_t>(n), key.lkey};
            rest -= n;
        }
        b.recv_queues[qb.id].push_back(request);
    }
    // One packet of a SEND.
    void packet(uint8_t op, size_t size)
    {
        FrameBuilder builder;
        Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
        builder.begin(path, no_vlan, op, qb.qpn, psn, op == op_send_last, false);
        std::memcpy(builder.payload(size).data(), payload.data(), size);
        ++psn;
        b.engine.receive(builder.finish(), 0);
        b.engine.run(0, 64);
    }
    void send(uint64_t length)
    {
        packet(op_send_first, mtu);
        for (length -= mtu; length > mtu; length -= mtu) {
            packet(op_send_middle, mtu);
        }
        packet(op_send_last, length);
    }
};

INSTANTIATE_TEST_SUITE_P(Bytes, MessageLength,
                         testing::Values((uint64_t{1} << 30) + mtu, uint64_t{1} << 31));

TEST_P(MessageLength, up_to_2_to_the_31_is_received_and_the_state_can_be_saved)
{
    post_recv(GetParam());
    send(GetParam());
    auto done = b.take_completions();
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(done[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(done[0].wc.byte_len, GetParam());
    b.engine.stop(0);
    b.migrate(0);
    b.engine.start(0);
    post_recv(mtu);
    packet(op_send_only, mtu);
    EXPECT_EQ(b.take_completions().at(0).wc.byte_len, mtu);
}

TEST_P(MessageLength, the_state_can_be_saved_anywhere_in_a_message)
{
    post_recv(GetParam());
    packet(op_send_first, mtu);
    uint64_t left = GetParam() - mtu;
    for (; left > 2 * mtu; left -= mtu) {
        packet(op_send_middle, mtu);
    }
    b.engine.stop(0);
    b.migrate(0);
    b.engine.start(0);
    for (; left > mtu; left -= mtu) {
        packet(op_send_middle, mtu);
    }
    packet(op_send_last, left);
    EXPECT_EQ(b.take_completions().at(0).wc.byte_len, GetParam());
}

using LongerMessage = MessageLength;
INSTANTIATE_TEST_SUITE_P(Bytes, LongerMessage,
                         testing::Values((uint64_t{1} << 31) + 1, (uint64_t{1} << 32) + 5));

// [IBTA 9.7.1-6]
TEST_P(LongerMessage, is_refused)
{
    post_recv(uint64_t{5} << 30);
    send(GetParam());
    auto done = b.take_completions();
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(done[0].wc.status, IBV_WC_LOC_LEN_ERR);
    EXPECT_EQ(last_syndrome, aeth_nak_invalid_request);
    EXPECT_EQ(b.stats.error_naks_sent, 1u);
}

} // namespace
} // namespace rdma::test
