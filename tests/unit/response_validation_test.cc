// SPDX-License-Identifier: GPL-2.0-or-later
//
// The requester of an RC queue pair, whose peer on the wire the test plays: which responses it
// takes, and what it does without any (IBTA vol. 1, 9.7.1 and 9.7.6).
#include <algorithm>
#include <functional>

#include "reliable_connection.h"

namespace rdma::test {
namespace {

constexpr size_t mtu = 1024;

struct ResponseValidation : ReliableConnection {
    std::vector<uint8_t> sent; // operations
    Psn psn{Connection{}.psn_a}; // of the next request

    void connect_up(const Connection& c = {})
    {
        qa = a.create_qp(IBV_QPT_RC);
        qb = b.create_qp(IBV_QPT_RC);
        connect(a, qa, b, qb, true, c);
        a.transmit = [this](std::vector<uint8_t> frame) { sent.push_back(frame[14 + 20 + 8]); };
        sent.clear();
        a.completions.clear();
        psn = Psn(c.psn_a);
    }
    // Not carried out but by respond().
    void request(int opcode, uint32_t length)
    {
        post(send_request(opcode, 1, a_buffer, length, ka.lkey, b_buffer, kb.rkey));
        ASSERT_FALSE(sent.empty());
    }
    template <typename... Header>
    void respond(uint8_t op, Psn at, size_t size, const Header&... headers)
    {
        FrameBuilder builder;
        Path path(NetworkType::ipv4, b.mac(), a.mac(), b.gid, a.gid, 0, 0, 64, 0xc000);
        builder.begin(path, no_vlan, op, qa.qpn, at, false, false);
        (builder.header(headers), ...);
        std::ranges::fill(builder.payload(size), std::byte{0x77});
        a.engine.receive(builder.finish(), network.now);
        a.engine.run(network.now, 64);
    }
    void acknowledge(Psn at, uint8_t syndrome = aeth_ack | aeth_ack_no_credits)
    {
        respond(op_acknowledge, at, 0, Aeth{syndrome, 1});
    }
    void expect_ignored()
    {
        EXPECT_TRUE(a.completions.empty());
        EXPECT_EQ(a.state_of(qa), IBV_QPS_RTS);
        EXPECT_EQ(sent.size(), 1u) << "nothing is sent again";
    }
};

// [IBTA 9.7.6-1]
TEST_F(ResponseValidation, responses_to_nothing_outstanding_are_dropped)
{
    connect_up();
    request(IBV_WR_RDMA_WRITE, 8);
    for (Psn ghost : {psn - 2, psn - 1, psn + 1, psn + 100, psn + Psn::half}) {
        acknowledge(ghost);
        acknowledge(ghost, aeth_nak_remote_access);
        respond(op_read_response_only, ghost, 8, Aeth{aeth_ack, 1});
        respond(op_atomic_acknowledge, ghost, 0, Aeth{aeth_ack, 1}, AtomicAckEth{5});
        expect_ignored();
    }
    acknowledge(psn);
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
    acknowledge(psn); // once more
    acknowledge(psn, aeth_nak_invalid_request);
    expect_ignored();
}

// [IBTA 9.7.5.2.1-2]
TEST_F(ResponseValidation, reserved_syndromes_are_ignored)
{
    connect_up();
    request(IBV_WR_RDMA_WRITE, 8);
    for (unsigned value = 0; value < 32; ++value) {
        acknowledge(psn, static_cast<uint8_t>(0x40 | value)); // a type that is reserved
        if (value > 4) {
            acknowledge(psn, static_cast<uint8_t>(aeth_nak | value));
        }
        expect_ignored();
    }
    acknowledge(psn);
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
}

// [IBTA 9.7.6-5]
TEST_F(ResponseValidation, a_read_response_that_is_not_the_one_due_ends_the_request)
{
    Aeth aeth{aeth_ack, 1};
    // Of a READ of two packets, what comes first, and what comes after a good first one.
    const std::function<void()> wrong[] = {
        [&] { respond(op_read_response_first, psn, mtu - 4, aeth); },
        [&] { respond(op_read_response_first, psn, mtu + 4, aeth); },
        [&] { respond(op_read_response_only, psn, mtu, aeth); },
        [&] { respond(op_read_response_last, psn, mtu, aeth); },
        [&] { respond(op_atomic_acknowledge, psn, 0, aeth, AtomicAckEth{5}); },
        [&] { respond(op_read_response_middle, psn + 1, 8); },
        [&] { respond(op_read_response_last, psn + 1, 4, aeth); },
        [&] { respond(op_read_response_last, psn + 1, 12, aeth); },
    };
    for (size_t i = 0; i < std::size(wrong); ++i) {
        SCOPED_TRACE(i);
        connect_up();
        request(IBV_WR_RDMA_READ, mtu + 8);
        if (i > 4) {
            respond(op_read_response_first, psn, mtu, aeth);
            EXPECT_EQ(a.state_of(qa), IBV_QPS_RTS);
        }
        wrong[i]();
        EXPECT_EQ(a.only_status(), IBV_WC_BAD_RESP_ERR);
        EXPECT_EQ(a.state_of(qa), IBV_QPS_ERR);
    }
    connect_up();
    request(IBV_WR_RDMA_READ, mtu + 8);
    respond(op_read_response_first, psn, mtu, aeth);
    respond(op_read_response_last, psn + 1, 8, aeth);
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
}

// [IBTA C9-140]
TEST_F(ResponseValidation, without_an_ack_timeout_nothing_is_sent_again)
{
    connect_up({.timeout = 0});
    request(IBV_WR_RDMA_WRITE, 8);
    EXPECT_EQ(a.engine.next_deadline(), no_deadline);
    a.engine.advance(int64_t{1} << 62);
    a.engine.run(network.now, 64);
    expect_ignored();
}

// [IBTA 9.7.5.2.8-6]
TEST_F(ResponseValidation, an_rnr_retry_count_of_7_has_no_end)
{
    connect_up({.rnr_retry = 7});
    request(IBV_WR_SEND, 8);
    for (size_t i = 1; i <= 100; ++i) {
        acknowledge(psn, aeth_rnr_nak | 1);
        network.now = a.engine.next_deadline();
        a.engine.advance(network.now);
        a.engine.run(network.now, 64);
        ASSERT_EQ(sent.size(), i + 1) << "it tries again";
    }
    acknowledge(psn);
    EXPECT_EQ(a.only_status(), IBV_WC_SUCCESS);
}

// [IBTA 9.7.1-4]
TEST_F(ResponseValidation, fewer_than_half_of_all_psns_are_outstanding)
{
    // READs of 1 GiB in packets of 256 bytes: 2^22 PSNs each.
    constexpr uint32_t size = 1u << 30;
    Limits limits = Node::default_limits();
    limits.max_mr_size = size;
    Node large{3, limits};
    network.add(large);
    std::vector<uint64_t> pages(size / page_size, ram_base); // all of them the same
    MrInit init;
    init.pd = large.pd;
    init.access = IBV_ACCESS_LOCAL_WRITE;
    init.length = size;
    init.pages = pages;
    MrKeys keys = large.engine.reg_mr(init).value();
    QpNumbers qp = large.create_qp(IBV_QPT_RC);
    connect(large, qp, b, qb, true, {.mtu = IBV_MTU_256});
    uint32_t outstanding = 0;
    large.transmit = [&](std::vector<uint8_t>) { outstanding += size / 256; };
    for (uint64_t i = 0; i < 3; ++i) {
        large.send_queues[qp.id].push_back(send_request(IBV_WR_RDMA_READ, i, 0, size,
                                                        keys.lkey, b_buffer, kb.rkey));
    }
    network.ring(large, qp.id);
    EXPECT_GT(outstanding, 0u);
    EXPECT_LT(outstanding, Psn::half);
}

} // namespace
} // namespace rdma::test
