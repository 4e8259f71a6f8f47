// SPDX-License-Identifier: GPL-2.0-or-later
//
// The responder of an RC queue pair, whose peer on the wire the test plays: what it
// answers, and what it owes.
#include "reliable_connection.h"

namespace rdma::test {
namespace {

TEST_F(Responding, answers_sent_again_give_way_to_new_requests)
{
    // The requester went back, then had the first answers after all.
    Connection c;
    c.rd_atomic = 2;
    connect_up(c);
    read(psn);
    add(psn + 1);
    run();
    read(psn);
    add(psn + 1);
    add(psn + 2);
    read(psn + 3);
    run();
    EXPECT_TRUE(b.events.empty());
    ASSERT_GE(answers.size(), 4u);
    EXPECT_EQ(answers[answers.size() - 2].psn, psn + 2);
    EXPECT_EQ(answers[answers.size() - 1].psn, psn + 3);
}

// [IBTA 9.7.4.1.7-1]
TEST_F(Responding, more_reads_and_atomics_at_once_than_agreed_are_refused)
{
    for (bool atomic : {false, true}) {
        SCOPED_TRACE(atomic);
        Connection c;
        c.rd_atomic = 2;
        qa = a.create_qp(IBV_QPT_RC);
        qb = b.create_qp(IBV_QPT_RC);
        connect_up(c);
        answers.clear();
        b.events.clear();
        read(psn);
        read(psn + 1);
        atomic ? add(psn + 2) : read(psn + 2);
        run();
        ASSERT_EQ(answers.size(), 3u);
        EXPECT_EQ(answers[2].op, op_acknowledge);
        EXPECT_EQ(answers[2].psn, psn + 2);
        EXPECT_EQ(answers[2].syndrome, aeth_nak_invalid_request);
        ASSERT_EQ(b.events.size(), 1u);
        EXPECT_EQ(b.events[0].type, IBV_EVENT_QP_REQ_ERR);
    }
}

// [IBTA 9.7.5.1.2-1]
TEST_F(Responding, a_duplicate_write_before_a_read_is_acknowledged_alone)
{
    connect_up();
    write(psn);
    read(psn + 1);
    write(psn + 2);
    run();
    answers.clear();
    write(psn);
    run();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].psn, psn);
    EXPECT_EQ(answers[0].syndrome & aeth_type_mask, aeth_ack);
    write(psn + 2);
    run();
    ASSERT_EQ(answers.size(), 2u);
    EXPECT_EQ(answers[1].psn, psn + 2);
}

// [IBTA 9.7.2-3]
TEST_F(Responding, an_answer_with_data_is_the_only_acknowledgement)
{
    connect_up();
    write(psn);
    add(psn + 1);
    run();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].op, op_atomic_acknowledge);
    EXPECT_EQ(answers[0].psn, psn + 1);
    write(psn + 2);
    read(psn + 3);
    run();
    ASSERT_EQ(answers.size(), 2u);
    EXPECT_EQ(answers[1].op, op_read_response_only);
    EXPECT_EQ(answers[1].psn, psn + 3);
    write(psn + 4);
    run();
    ASSERT_EQ(answers.size(), 3u);
    EXPECT_EQ(answers[2].psn, psn + 4);
}

// rxe would take an acknowledgement of the atomic for its answer, had that been lost.
TEST_F(Responding, a_wake_does_not_stand_for_an_answer)
{
    connect_up();
    add(psn);
    run();
    b.engine.stop(network.now);
    answers.clear();
    b.engine.start(network.now);
    run();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].op, op_acknowledge);
    EXPECT_EQ(answers[0].psn, psn + 1);
    EXPECT_EQ(answers[0].syndrome, aeth_wake);
}

TEST_F(Responding, naks_of_one_packet_are_one_answer)
{
    connect_up();
    for (int i = 0; i < 10000; ++i) {
        request(op_send_only, psn); // no receive
    }
    run();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].syndrome & aeth_type_mask, aeth_rnr_nak);
    read(psn);
    run();
    EXPECT_EQ(answers.back().op, op_read_response_only);
}

// A READ may be asked for again from any of its packets on.
TEST_F(Responding, reads_sent_again_in_pieces_are_bounded)
{
    Connection c;
    c.rd_atomic = 2;
    connect_up(c);
    read(psn, 64 * 1024);
    run();
    answers.clear();
    for (uint32_t i = 0; i < 64; ++i) {
        request(op_read_request, psn + i, Reth{b_buffer + i * 1024, kb.rkey, 1024});
    }
    run();
    EXPECT_EQ(answers.size(), 2u);
    EXPECT_EQ(answers.back().psn, psn + 63) << "the last ones are what it waits for";
}

TEST_F(Responding, fewer_reads_than_before_leave_a_state_that_can_be_loaded)
{
    Connection c;
    c.rd_atomic = 8;
    connect_up(c);
    for (uint32_t i = 0; i < 8; ++i) {
        add(psn + i);
    }
    run();
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_SQD;
    ASSERT_EQ(b.engine.modify_qp(qb.id, attr, IBV_QP_STATE, {}), 0);
    attr.max_dest_rd_atomic = 2;
    ASSERT_EQ(b.engine.modify_qp(qb.id, attr, IBV_QP_STATE | IBV_QP_MAX_DEST_RD_ATOMIC, {}), 0);
    b.engine.stop(network.now);
    b.migrate(network.now);
    b.engine.start(network.now);
    run();
    answers.clear();
    add(psn + 7);
    run();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].op, op_atomic_acknowledge);
}

// Whatever is owed when the VM stops is sent where it goes on.
TEST_F(Responding, what_is_owed_moves_along)
{
    connect_up();
    block_link();
    write(psn);
    read(psn + 1, 2048);
    run();          // the READ's first packet
    write(psn);     // a duplicate from before the READ
    write(psn + 5); // a gap
    answers.clear();
    b.engine.stop(network.now);
    b.migrate(network.now);
    b.link_takes_more = true;
    b.engine.start(network.now);
    run();
    ASSERT_EQ(answers.size(), 3u);
    EXPECT_EQ(answers[0].psn, psn);
    EXPECT_EQ(answers[0].op, op_acknowledge);
    EXPECT_EQ(answers[1].psn, psn + 2);
    EXPECT_EQ(answers[1].op, op_read_response_last);
    EXPECT_EQ(answers[2].psn, psn + 3);
    EXPECT_NE(answers[2].syndrome & aeth_type_mask, aeth_ack);
}

// A NAK says which packet is missing; once that has come, its acknowledgement counts.
TEST_F(Responding, a_nak_that_its_packet_overtakes_is_not_sent)
{
    connect_up();
    block_link();
    write(psn);
    run();
    answers.clear();
    write(psn + 2); // NAK of psn + 1
    write(psn + 1);
    open_link();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].psn, psn + 1);
    EXPECT_EQ(answers[0].syndrome & aeth_type_mask, aeth_ack);
    EXPECT_EQ(b.stats.sequence_naks_sent, 0u);
    // And a gap after it is told again.
    write(psn + 4);
    run();
    ASSERT_EQ(answers.size(), 2u);
    EXPECT_EQ(answers[1].psn, psn + 2);
    EXPECT_EQ(answers[1].syndrome, aeth_nak_sequence);
}

TEST_F(Responding, an_rnr_nak_that_its_packet_overtakes_is_not_sent)
{
    connect_up();
    block_link();
    write(psn);
    run();
    answers.clear();
    request(op_send_only, psn + 1); // no receive
    post_recv(1, b_buffer, 100);
    request(op_send_only, psn + 1);
    open_link();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].psn, psn + 1);
    EXPECT_EQ(answers[0].syndrome & aeth_type_mask, aeth_ack);
}

// A NAK acknowledges all before it: one frame for both.
// [IBTA 9.7.5.1.3-2]
TEST_F(Responding, a_nak_acknowledges_what_was_carried_out_before_it)
{
    connect_up();
    block_link();
    write(psn);
    run();
    answers.clear();
    write(psn + 1);
    write(psn + 3);
    open_link();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].psn, psn + 2);
    EXPECT_EQ(answers[0].syndrome, aeth_nak_sequence);
}

// [IBTA 9.5-6] [IBTA 9.7.5.1.3-2]
TEST_F(Responding, what_precedes_the_nak_of_a_refused_request_is_sent)
{
    connect_up();
    read(psn, 4096);
    request(op_write_only, psn + 4, Reth{b_buffer, kb.rkey + 1, 0x100});
    run();
    ASSERT_EQ(answers.size(), 5u);
    for (uint32_t i = 0; i < 4; ++i) {
        EXPECT_EQ(answers[i].psn, psn + i);
        EXPECT_NE(answers[i].op, op_acknowledge);
    }
    EXPECT_EQ(answers[4].psn, psn + 4);
    EXPECT_EQ(answers[4].syndrome & aeth_type_mask, aeth_nak);
}

// A program ends when its last message has come, while the network takes nothing: its peer learns
// that it has come all the same.
TEST_F(Responding, a_qp_that_is_destroyed_still_acknowledges)
{
    connect_up();
    block_link();
    write(psn);
    run(); // its acknowledgement is the last that the link takes
    write(psn + 1);
    answers.clear();
    ASSERT_EQ(b.engine.destroy_qp(qb.id), 0);
    open_link();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].op, op_acknowledge);
    EXPECT_EQ(answers[0].psn, psn + 1);
    EXPECT_EQ(answers[0].syndrome & aeth_type_mask, aeth_ack);
}

TEST_F(Responding, a_qp_that_is_destroyed_sends_nothing_from_a_gid_that_is_gone)
{
    connect_up();
    block_link();
    write(psn);
    run();
    write(psn + 1);
    answers.clear();
    ASSERT_EQ(b.engine.destroy_qp(qb.id), 0);
    ASSERT_EQ(b.engine.del_gid(0), 0);
    open_link();
    EXPECT_TRUE(answers.empty());
}

// A stopped device answers what a running one takes, and nothing else.
TEST_F(Responding, a_stopped_device_does_not_answer_what_is_not_for_it)
{
    constexpr uint16_t vlan = 7;
    ASSERT_EQ(b.engine.del_gid(0), 0);
    ASSERT_EQ(b.engine.add_gid(0, b.gid, 2, vlan), 0);
    connect_up();
    b.engine.stop(network.now);
    auto send = [&](uint16_t tag) {
        FrameBuilder builder;
        Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
        builder.begin(path, tag, op_send_only, qb.qpn, psn, true, false);
        b.engine.receive_stopped(builder.finish());
    };
    send(no_vlan);
    send(vlan + 1);
    EXPECT_TRUE(answers.empty());
    send(vlan);
    EXPECT_EQ(answers.size(), 1u);
}

// Nothing of its life before is sent in the next.
// [virtio-rdma DEV-19]
TEST_F(Responding, a_device_that_is_reset_owes_nothing_for_destroyed_qps)
{
    connect_up();
    block_link();
    write(psn);
    run();
    write(psn + 1);
    answers.clear();
    ASSERT_EQ(b.engine.destroy_qp(qb.id), 0);
    b.engine.reset();
    open_link();
    EXPECT_TRUE(answers.empty());
}

enum class Leaving { error, reset, requester_error, error_after_refusal };

struct LeavingTheConnection : Responding, testing::WithParamInterface<Leaving> {
    void modify(ibv_qp_state to)
    {
        ibv_qp_attr attr{};
        attr.qp_state = to;
        ASSERT_EQ(b.engine.modify_qp(qb.id, attr, IBV_QP_STATE, {}), 0);
    }
};

INSTANTIATE_TEST_SUITE_P(Ways, LeavingTheConnection,
                         testing::Values(Leaving::error, Leaving::reset, Leaving::requester_error,
                                         Leaving::error_after_refusal));

// The consumer revokes a peer's access so; the buffer is for other use then.
TEST_P(LeavingTheConnection, ends_reads_so_that_new_content_of_the_buffer_stays_here)
{
    constexpr uint32_t size = 64 * 1024;
    constexpr uint8_t old_content = 0x5a, new_content = 0xa5;
    Connection c;
    c.retry_cnt = 0;
    connect_up(c);
    // A request of b's own that is never answered.
    b.send_queues[qb.id].push_back(
        send_request(IBV_WR_RDMA_WRITE, 1, b_buffer, 0, kb.lkey, a_buffer, ka.rkey));
    b.engine.send_doorbell(qb.id);
    run();
    std::memset(b.at(b_buffer), old_content, size);
    answers.clear();
    block_link();
    read(psn, size);
    run();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].op, op_read_response_first);
    switch (GetParam()) {
    case Leaving::error_after_refusal:
        request(op_write_only, psn + 64, Reth{b_buffer, kb.rkey + 1, 0x100});
        [[fallthrough]];
    case Leaving::error:
        modify(IBV_QPS_ERR);
        break;
    case Leaving::reset:
        modify(IBV_QPS_RESET);
        break;
    case Leaving::requester_error:
        b.engine.advance(network.now + ack_timeout_ns(8));
        ASSERT_EQ(b.take_completions().at(0).wc.status, IBV_WC_RETRY_EXC_ERR);
        break;
    }
    std::memset(b.at(b_buffer), new_content, size);
    open_link();
    for (const Answer& answer : answers) {
        EXPECT_EQ(std::ranges::count(answer.frame, new_content), 0);
    }
    EXPECT_EQ(answers.size(), 1u);
    EXPECT_FALSE(b.engine.has_work());
}

// 9.7.4.1.2: an operation that the responder does not know, or whose headers are not its own, is an
// invalid request. Linux's rxe sends FLUSH (28) and ATOMIC WRITE (29).
struct InvalidRequest : Responding, testing::WithParamInterface<uint8_t> {};

INSTANTIATE_TEST_SUITE_P(Operations, InvalidRequest,
                         testing::Values(21, 24, 28, 29, 31, op_read_request, op_write_only,
                                         op_fetch_add));

// [IBTA 9.7.4.1-1] [IBTA 9.7.4.1.2-1]
TEST_P(InvalidRequest, is_nakked_in_its_turn)
{
    connect_up();
    write(psn);
    run();
    answers.clear();
    request(GetParam(), psn + 2); // with no header behind BTH
    run();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].psn, psn + 1);
    EXPECT_EQ(answers[0].syndrome, aeth_nak_sequence);
    request(GetParam(), psn); // a duplicate, of what it was not
    run();
    EXPECT_EQ(answers.size(), 1u);
    request(GetParam(), psn + 1);
    run();
    ASSERT_EQ(answers.size(), 2u);
    EXPECT_EQ(answers[1].op, op_acknowledge);
    EXPECT_EQ(answers[1].psn, psn + 1);
    EXPECT_EQ(answers[1].syndrome, aeth_nak_invalid_request);
    ASSERT_FALSE(b.events.empty());
    EXPECT_EQ(b.events.back().type, IBV_EVENT_QP_REQ_ERR);
}

// A peer that keeps READs outstanding does not keep this end's own requests.
TEST_F(Responding, requests_take_turns_with_the_answers_to_a_read)
{
    connect_up();
    b.send_queues[qb.id].push_back(
        send_request(IBV_WR_RDMA_WRITE, 1, b_buffer, 3 * 1024, kb.lkey, a_buffer, ka.rkey));
    read(psn, 64 * 1024);
    b.engine.send_doorbell(qb.id);
    run();
    ASSERT_EQ(answers.size(), 67u);
    size_t last = 0;
    for (size_t i = 0; i < answers.size(); ++i) {
        if (answers[i].op == op_write_last) {
            last = i;
        }
    }
    EXPECT_LE(last, 6u);
}

// Va and length wrap the address space, or end just at its end.
TEST_F(Responding, ranges_at_the_end_of_the_address_space_are_refused)
{
    for (uint8_t op : {uint8_t{op_write_first}, uint8_t{op_read_request}}) {
        for (uint32_t length : {1024u, 1025u}) {
            SCOPED_TRACE(op);
            answers.clear();
            qa = a.create_qp(IBV_QPT_RC);
            qb = b.create_qp(IBV_QPT_RC);
            connect_up();
            FrameBuilder builder;
            Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
            auto one = static_cast<uint8_t>(op == op_write_first && length == 1024 ? uint8_t{op_write_only} : op);
            builder.begin(path, no_vlan, one, qb.qpn, psn, true, false);
            builder.header(Reth{~uint64_t{0} - 1023, kb.rkey, length});
            if (op == op_write_first) {
                builder.payload(1024);
            }
            b.engine.receive(builder.finish(), network.now);
            run();
            ASSERT_EQ(answers.size(), 1u);
            EXPECT_EQ(answers[0].syndrome, aeth_nak_remote_access);
        }
    }
}

// 9.7.5.1.2: it is carried out again, from where it says: what the requester may read, it may.
// [IBTA 9.7.5.1.2-2]
TEST_F(Responding, a_duplicate_read_of_another_address_of_the_region_has_what_is_there)
{
    connect_up();
    uint64_t there = 0x1122334455667788;
    std::memcpy(b.at(b_buffer + 64), &there, sizeof(there));
    read(psn);
    run();
    answers.clear();
    request(op_read_request, psn, Reth{b_buffer + 64, kb.rkey, 8});
    run();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].op, op_read_response_only);
    constexpr size_t data = 14 + 20 + 8 + 12 + 4; // Ethernet, IPv4, UDP, BTH, AETH
    EXPECT_EQ(std::memcmp(&answers[0].frame.at(data), &there, sizeof(there)), 0);
    EXPECT_TRUE(b.events.empty());
}

// A duplicate has been answered before: the requester may have taken the region back since.
TEST_F(Responding, an_answer_sent_again_does_not_fail_the_qp_when_its_region_has_gone)
{
    connect_up();
    read(psn);
    run();
    read(psn);
    ASSERT_EQ(b.engine.dereg_mr(kb.id), 0);
    answers.clear();
    run();
    EXPECT_TRUE(answers.empty());
    EXPECT_TRUE(b.events.empty());
    EXPECT_EQ(b.state_of(qb), IBV_QPS_RTS);
}

// A peer of an earlier life of this machine goes on sending: numbers and keys are others now.
// [IBTA 9.6.1-1]
TEST_F(Responding, packets_for_the_qp_of_an_earlier_life_change_nothing)
{
    connect_up();
    Limits other = Node::default_limits();
    other.number_seed = 0x123456789abcdef0;
    Node reborn{2, other};
    QpNumbers qp = reborn.create_qp(IBV_QPT_RC);
    MrKeys keys = reborn.register_ram();
    connect_end(reborn, qp, a, qa, true, {}, Connection{}.psn_b, Connection{}.psn_a);
    EXPECT_NE(qp.qpn, qb.qpn);
    EXPECT_NE(keys.rkey, kb.rkey);
    size_t sent = 0;
    reborn.transmit = [&](std::vector<uint8_t>) { ++sent; };
    auto before = reborn.ram;
    FrameBuilder builder;
    Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
    builder.begin(path, no_vlan, op_fetch_add, qb.qpn, psn, true, false);
    builder.header(AtomicEth{b_buffer, kb.rkey, 1, 0});
    reborn.engine.receive(builder.finish(), 0);
    reborn.engine.run(0, 64);
    EXPECT_EQ(sent, 0u);
    EXPECT_TRUE(reborn.ram == before);
    EXPECT_EQ(reborn.state_of(qp), IBV_QPS_RTS);
}

// What a duplicate READ asks for is checked as the first one was, and is no more than that.
// [IBTA 9.7.5.1.2-2]
TEST_F(Responding, a_duplicate_read_has_no_more_rights_than_the_first)
{
    connect_up();
    read(psn, 2048);
    run();
    answers.clear();
    request(op_read_request, psn, Reth{b_buffer, kb.rkey, 4096});
    request(op_read_request, psn, Reth{b_buffer, kb.rkey + 1, 2048});
    request(op_read_request, psn, Reth{~uint64_t{0} - 1023, kb.rkey, 1025});
    request(op_read_request, psn + 1, Reth{b_buffer, kb.rkey, 2048});
    run();
    EXPECT_TRUE(answers.empty());
    read(psn, 2048);
    run();
    EXPECT_EQ(answers.size(), 2u);
}

} // namespace
} // namespace rdma::test
