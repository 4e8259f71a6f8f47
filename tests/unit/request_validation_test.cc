// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a responder makes of requests that are not as they should be, packet by packet, and of those
// that come after them (IBTA vol. 1, 9.7.4.1 and 9.8.2.2).
#include <algorithm>
#include <utility>

#include "reliable_connection.h"

namespace rdma::test {
namespace {

constexpr uint32_t mtu = 1024;

// One packet of the peer's. length: of RETH, where it has one.
struct Sent {
    uint8_t op;
    size_t size = 0;
    uint32_t length = 0;
};

bool has_reth(uint8_t op)
{
    return op == op_write_first || op == op_write_only || op == op_read_request;
}

struct RequestValidation : Responding {
    ibv_qp_type type = IBV_QPT_RC;
    uint64_t address = b_buffer; // of RETH and AtomicETH
    uint32_t rkey = kb.rkey;

    // A connection of its own for each use; b has a receive request.
    void connect_up(const Connection& c = {})
    {
        qa = a.create_qp(type);
        qb = b.create_qp(type);
        psn = Psn(c.psn_a);
        connect(a, qa, b, qb, type == IBV_QPT_RC, c);
        note_answers();
        answers.clear();
        b.events.clear();
        b.completions.clear();
        post_recv(1, b_buffer + 0x10000, 0x10000);
    }
    void send(const Sent& sent)
    {
        FrameBuilder builder;
        Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
        uint8_t transport = type == IBV_QPT_RC ? transport_rc : transport_uc;
        builder.begin(path, no_vlan, static_cast<uint8_t>(transport | sent.op), qb.qpn, psn, true,
                      false);
        if (has_reth(sent.op)) {
            builder.header(Reth{address, rkey, sent.length});
        } else if (sent.op == op_fetch_add) {
            builder.header(AtomicEth{address, rkey, 1, 0});
        }
        std::ranges::fill(builder.payload(sent.size), std::byte{0x77});
        b.engine.receive(builder.finish(), network.now);
        run();
        ++psn;
    }
    // The last packet is, and those before it are not.
    void expect_refused(std::initializer_list<Sent> packets,
                        uint8_t syndrome = aeth_nak_invalid_request)
    {
        connect_up();
        for (const Sent& sent : packets) {
            EXPECT_EQ(b.state_of(qb), IBV_QPS_RTS);
            send(sent);
        }
        ASSERT_FALSE(answers.empty());
        EXPECT_EQ(answers.back().op, op_acknowledge);
        EXPECT_EQ(answers.back().psn, psn - 1);
        EXPECT_EQ(answers.back().syndrome, syndrome);
        EXPECT_EQ(b.state_of(qb), IBV_QPS_ERR);
    }
    size_t written()
    {
        return static_cast<size_t>(
            std::ranges::count(std::span(b.at(b_buffer), 0x10000), std::byte{0x77}));
    }
};

// [IBTA 9.7.4.1.2-2]
TEST_F(RequestValidation, packets_that_do_not_follow_each_other_are_refused)
{
    for (Operation op : {op_send_middle, op_send_last, op_send_last_imm, op_send_last_inv,
                         op_write_middle, op_write_last, op_write_last_imm}) {
        SCOPED_TRACE(testing::Message() << "without a first one: " << +op);
        expect_refused({{op, mtu}});
    }
    for (const Sent& next :
         {Sent{op_send_first, mtu}, Sent{op_send_only, 8}, Sent{op_write_first, mtu, 2 * mtu},
          Sent{op_write_middle, mtu}, Sent{op_write_last, 8}, Sent{op_write_only, 8, 8},
          Sent{op_read_request, 0, 8}, Sent{op_fetch_add}}) {
        SCOPED_TRACE(testing::Message() << "within a SEND: " << +next.op);
        expect_refused({{op_send_first, mtu}, next});
    }
    for (const Sent& next :
         {Sent{op_write_first, mtu, 2 * mtu}, Sent{op_write_only, 8, 8}, Sent{op_send_first, mtu},
          Sent{op_send_middle, mtu}, Sent{op_send_last, 8}, Sent{op_send_only, 8},
          Sent{op_read_request, 0, 8}, Sent{op_fetch_add}}) {
        SCOPED_TRACE(testing::Message() << "within a WRITE: " << +next.op);
        expect_refused({{op_write_first, mtu, 4 * mtu}, next});
    }
}

// [IBTA C9-92]
TEST_F(RequestValidation, packets_that_are_not_as_long_as_their_place_asks_for_are_refused)
{
    expect_refused({{op_send_first, mtu - 4}});
    expect_refused({{op_send_first, mtu + 4}});
    expect_refused({{op_send_only, mtu + 4}});
    expect_refused({{op_send_first, mtu}, {op_send_middle, mtu - 4}});
    expect_refused({{op_send_first, mtu}, {op_send_middle, mtu + 4}});
    expect_refused({{op_send_first, mtu}, {op_send_last, mtu + 4}});
    expect_refused({{op_send_first, mtu}, {op_send_last, 0}});
    expect_refused({{op_write_first, mtu - 4, 4 * mtu}});
    expect_refused({{op_write_first, mtu + 4, 4 * mtu}});
    expect_refused({{op_write_only, mtu + 4, mtu + 4}});
    expect_refused({{op_write_first, mtu, 4 * mtu}, {op_write_middle, mtu - 4}});
}

// [IBTA 9.7.4.1.6-1]
TEST_F(RequestValidation, a_write_of_more_or_fewer_bytes_than_it_says_is_refused)
{
    expect_refused({{op_write_only, 4, 8}});
    expect_refused({{op_write_only, 12, 8}});
    expect_refused({{op_write_only, 4, 0}});
    expect_refused({{op_write_first, mtu, mtu - 1}});
    expect_refused({{op_write_first, mtu, 2 * mtu}, {op_write_last, mtu - 4}});
    expect_refused({{op_write_first, mtu, 2 * mtu - 4}, {op_write_last, mtu}});
    expect_refused({{op_write_first, mtu, 3 * mtu}, {op_write_last, mtu}});
    expect_refused({{op_write_first, mtu, 2 * mtu}, {op_write_middle, mtu}});
}

// [IBTA C9-94]
TEST_F(RequestValidation, a_length_above_2_to_the_31_is_an_invalid_request)
{
    constexpr uint32_t most = 1u << 31;
    for (const Sent& sent : {Sent{op_write_first, mtu}, Sent{op_read_request}}) {
        expect_refused({{sent.op, sent.size, most + 1}}, aeth_nak_invalid_request);
        // Longer than the region.
        expect_refused({{sent.op, sent.size, most}}, aeth_nak_remote_access);
    }
}

// [IBTA C9-88]
TEST_F(RequestValidation, requests_of_no_bytes_need_no_key)
{
    rkey = 0x12345678;
    address = 1;
    connect_up();
    send({op_write_only});
    send({op_read_request});
    ASSERT_EQ(answers.size(), 2u);
    EXPECT_EQ(answers[0].syndrome & aeth_type_mask, aeth_ack);
    EXPECT_EQ(answers[1].op, op_read_response_only);
    EXPECT_EQ(b.state_of(qb), IBV_QPS_RTS);
}

// [IBTA 9.7.4.1.5-3]
// [virtio-rdma REQ-15]
TEST_F(RequestValidation, a_region_of_another_protection_domain_is_out_of_reach)
{
    uint32_t own = std::exchange(b.pd, b.engine.alloc_pd().value());
    rkey = b.register_ram().rkey;
    b.pd = own;
    for (const Sent& sent :
         {Sent{op_write_only, 8, 8}, Sent{op_read_request, 0, 8}, Sent{op_fetch_add}}) {
        expect_refused({sent}, aeth_nak_remote_access);
    }
    EXPECT_EQ(written(), 0u);
}

// [IBTA 9.7.5.1.2-5]
TEST_F(RequestValidation, a_duplicate_atomic_that_is_not_remembered_is_dropped)
{
    connect_up({.rd_atomic = 1});
    Psn first = psn;
    send({op_fetch_add});
    send({op_fetch_add});
    answers.clear();
    psn = first;
    send({op_fetch_add});
    EXPECT_TRUE(answers.empty());
    EXPECT_TRUE(b.events.empty());
    send({op_fetch_add});
    EXPECT_EQ(answers.size(), 1u) << "the other one is";
    uint64_t sum;
    std::memcpy(&sum, b.at(b_buffer), sizeof(sum));
    EXPECT_EQ(sum, 2u);
}

// [IBTA 9.6.1-2] [IBTA 9.7.5.1.3-3]
TEST_F(RequestValidation, nothing_is_carried_out_after_a_refusal)
{
    expect_refused({{op_send_middle, mtu}});
    answers.clear();
    psn -= 1;
    for (int i = 0; i < 3; ++i) {
        send({op_write_only, 8, 8});
    }
    EXPECT_TRUE(answers.empty());
    EXPECT_EQ(written(), 0u);
}

struct UnreliableRequestValidation : RequestValidation {
    UnreliableRequestValidation() { type = IBV_QPT_UC; }

    // What comes next is taken, and nobody is told of anything.
    void expect_unharmed()
    {
        b.completions.clear();
        std::memset(b.at(b_buffer), 0, 0x10000);
        send({op_write_only, 8, 8});
        EXPECT_EQ(written(), 8u);
        send({op_send_first, mtu});
        send({op_send_last, 8});
        auto done = b.take_completions();
        ASSERT_EQ(done.size(), 1u);
        EXPECT_EQ(done[0].wc.status, IBV_WC_SUCCESS);
        EXPECT_EQ(done[0].wc.byte_len, mtu + 8);
        EXPECT_EQ(b.state_of(qb), IBV_QPS_RTS);
        EXPECT_TRUE(b.events.empty());
        EXPECT_TRUE(answers.empty());
    }
};

// [IBTA 9.8.2.2-1] [IBTA 9.8.2.2-4]
TEST_F(UnreliableRequestValidation, invalid_messages_are_dropped_in_silence)
{
    const std::vector<Sent> messages[] = {{{op_send_middle, mtu}},
                                          {{op_write_last, 8}},
                                          {{op_write_only, 4, 8}},
                                          {{op_write_only, 12, 8}},
                                          {{op_write_first, mtu - 4, 2 * mtu}, {op_write_last, mtu}},
                                          {{op_write_first, mtu, 2 * mtu}, {op_write_last, 8}}};
    for (const std::vector<Sent>& message : messages) {
        connect_up();
        for (const Sent& sent : message) {
            send(sent);
        }
        expect_unharmed();
    }
    connect_up();
    std::memset(b.at(b_buffer), 0, 0x10000);
    rkey ^= 0x100;
    send({op_write_first, mtu, 3 * mtu});
    send({op_write_middle, mtu});
    send({op_write_last, mtu});
    EXPECT_EQ(written(), 0u);
    rkey = kb.rkey;
    expect_unharmed();
}

// [IBTA 9.8.2.2-3]
TEST_F(UnreliableRequestValidation, a_message_without_a_receive_is_dropped_whole)
{
    connect_up();
    auto receive = std::exchange(b.recv_queues[qb.id], {});
    send({op_send_first, mtu});
    b.recv_queues[qb.id] = receive;
    send({op_send_middle, mtu});
    send({op_send_last, mtu});
    EXPECT_TRUE(b.take_completions().empty());
    expect_unharmed();
}

} // namespace
} // namespace rdma::test
