// SPDX-License-Identifier: GPL-2.0-or-later
//
// Completions into the guest's rings, arming, notifications and asynchronous
// events. Entries are read with the kernel's structs.
#include <gtest/gtest.h>

#include "pvrdma_guest.h"

namespace rdma::test {

namespace {

struct PvrdmaCompletion : testing::Test {
    PvrdmaCompletion() { guest.set_up(); }

    bool complete(const Completion& completion)
    {
        return guest.device.complete(guest.cq.handle, completion);
    }
    bool complete(uint64_t wr_id = 1)
    {
        Completion completion;
        completion.wc.wr_id = wr_id;
        return complete(completion);
    }
    // The entry the driver finds after this completion.
    pvrdma_cqe entry_of(const Completion& completion)
    {
        EXPECT_TRUE(complete(completion));
        return guest.cq.ring.take<pvrdma_cqe>();
    }
    void arm() { guest.ring(uar_cq_offset, guest.cq.handle | uar_cq_arm); }
    void arm_solicited() { guest.ring(uar_cq_offset, guest.cq.handle | uar_cq_arm_solicited); }
    // What the notification ring holds.
    std::vector<uint32_t> notified()
    {
        std::vector<uint32_t> handles;
        for (auto ring = guest.notifications(); ring.has_data();) {
            handles.push_back(ring.take<CqNotification>().cq_handle);
        }
        return handles;
    }

    ModelGuest guest;
};
using PvrdmaArming = PvrdmaCompletion;
using PvrdmaOverrun = PvrdmaCompletion;
using PvrdmaEvents = PvrdmaCompletion;

} // namespace

// Entries.

TEST_F(PvrdmaCompletion, an_entry_has_what_the_driver_reads)
{
    Completion completion;
    completion.qp = 7;
    completion.wc.qp_num = 0x050007; // the entry has the handle instead
    completion.wc.wr_id = 0x1122334455667788;
    completion.wc.opcode = IBV_WC_RECV;
    completion.wc.byte_len = 4096;
    completion.wc.src_qp = 0x123456;
    completion.wc.vendor_err = 3;
    pvrdma_cqe cqe = entry_of(completion);
    EXPECT_EQ(cqe.qp, 7u);
    EXPECT_EQ(cqe.wr_id, 0x1122334455667788u);
    EXPECT_EQ(cqe.opcode, +PVRDMA_WC_RECV);
    EXPECT_EQ(cqe.status, +PVRDMA_WC_SUCCESS);
    EXPECT_EQ(cqe.byte_len, 4096u);
    EXPECT_EQ(cqe.src_qp, 0x123456u);
    EXPECT_EQ(cqe.vendor_err, 3u);
    EXPECT_EQ(cqe.wc_flags, 0u);
    EXPECT_EQ(cqe.port_num, 1);
}

TEST_F(PvrdmaCompletion, opcodes_are_the_guests)
{
    const std::pair<int, uint32_t> opcodes[] = {
        {IBV_WC_SEND, PVRDMA_WC_SEND},
        {IBV_WC_RDMA_WRITE, PVRDMA_WC_RDMA_WRITE},
        {IBV_WC_RDMA_READ, PVRDMA_WC_RDMA_READ},
        {IBV_WC_COMP_SWAP, PVRDMA_WC_COMP_SWAP},
        {IBV_WC_FETCH_ADD, PVRDMA_WC_FETCH_ADD},
        {IBV_WC_LOCAL_INV, PVRDMA_WC_LOCAL_INV},
        {wc_fast_reg, PVRDMA_WC_FAST_REG_MR},
        {IBV_WC_RECV, PVRDMA_WC_RECV},
        {IBV_WC_RECV_RDMA_WITH_IMM, PVRDMA_WC_RECV_RDMA_WITH_IMM},
    };
    for (auto [ours, theirs] : opcodes) {
        Completion completion;
        completion.wc.opcode = static_cast<ibv_wc_opcode>(ours);
        EXPECT_EQ(entry_of(completion).opcode, theirs);
    }
}

TEST_F(PvrdmaCompletion, statuses_are_the_same)
{
    for (int status = IBV_WC_SUCCESS; status <= IBV_WC_GENERAL_ERR; ++status) {
        Completion completion;
        completion.wc.status = static_cast<ibv_wc_status>(status);
        EXPECT_EQ(entry_of(completion).status, static_cast<uint32_t>(status));
    }
}

TEST_F(PvrdmaCompletion, immediate_data_keeps_its_byte_order)
{
    Completion completion;
    completion.wc.opcode = IBV_WC_RECV_RDMA_WITH_IMM;
    completion.wc.wc_flags = IBV_WC_WITH_IMM;
    completion.wc.imm_data = 0x01020304;
    pvrdma_cqe cqe = entry_of(completion);
    EXPECT_EQ(cqe.wc_flags, +PVRDMA_WC_WITH_IMM);
    EXPECT_EQ(cqe.imm_data, 0x01020304u);
}

TEST_F(PvrdmaCompletion, an_invalidated_key_has_the_guests_flag)
{
    Completion completion;
    completion.wc.opcode = IBV_WC_RECV;
    completion.wc.wc_flags = IBV_WC_WITH_INV;
    completion.wc.invalidated_rkey = 0x555;
    pvrdma_cqe cqe = entry_of(completion);
    EXPECT_EQ(cqe.wc_flags, +PVRDMA_WC_WITH_INVALIDATE);
    EXPECT_EQ(cqe.imm_data, 0x555u);
}

TEST_F(PvrdmaCompletion, a_datagram_tells_its_network)
{
    const std::pair<NetworkType, int> networks[] = {
        {NetworkType::roce_v1, PVRDMA_NETWORK_ROCE_V1},
        {NetworkType::ipv4, PVRDMA_NETWORK_IPV4},
        {NetworkType::ipv6, PVRDMA_NETWORK_IPV6},
    };
    for (auto [ours, theirs] : networks) {
        Completion completion;
        completion.wc.opcode = IBV_WC_RECV;
        completion.wc.wc_flags = IBV_WC_GRH;
        completion.network = ours;
        completion.smac = {1, 2, 3, 4, 5, 6};
        pvrdma_cqe cqe = entry_of(completion);
        EXPECT_EQ(cqe.wc_flags, PVRDMA_WC_GRH | PVRDMA_WC_WITH_NETWORK_HDR_TYPE);
        EXPECT_EQ(cqe.network_hdr_type, theirs);
        EXPECT_EQ(cqe.smac[5], 6);
    }
}

TEST_F(PvrdmaCompletion, entries_come_in_order_for_several_turns)
{
    for (uint64_t i = 0; i < 1000; ++i) {
        ASSERT_TRUE(complete(i));
        EXPECT_EQ(guest.cq.ring.take<pvrdma_cqe>().wr_id, i);
    }
}

TEST_F(PvrdmaCompletion, of_an_unknown_cq_is_lost)
{
    EXPECT_FALSE(guest.device.complete(77, {}));
}

// Driver and library purge the entries of a QP that goes: they move the others
// towards the tail and the head after them.
TEST_F(PvrdmaCompletion, the_driver_may_move_the_head)
{
    for (uint64_t i = 0; i < 10; ++i) {
        ASSERT_TRUE(complete(i));
    }
    guest.cq.ring.head() = 7;
    EXPECT_TRUE(complete(10));
    EXPECT_EQ(guest.cq.ring.unread(), 4u);
}

// Overruns.

TEST_F(PvrdmaOverrun, a_full_queue_is_told_once_and_stays_in_error)
{
    for (int i = 0; i < 64; ++i) {
        ASSERT_TRUE(complete());
    }
    EXPECT_FALSE(complete());
    EXPECT_FALSE(complete());
    guest.cq.ring.take<pvrdma_cqe>();
    EXPECT_FALSE(complete()) << "completions have been lost";
    EXPECT_EQ(guest.stats.cq_overruns, 3u);
    DriverRing events = guest.async_ring();
    ASSERT_EQ(events.unread(), 1u);
    auto event = events.take<EventEntry>();
    EXPECT_EQ(event.type, +IBV_EVENT_CQ_ERR);
    EXPECT_EQ(event.info, guest.cq.handle);
}

TEST_F(PvrdmaOverrun, does_not_touch_entries)
{
    for (uint64_t i = 0; i < 64; ++i) {
        ASSERT_TRUE(complete(i));
    }
    EXPECT_FALSE(complete(999));
    for (uint64_t i = 0; i < 64; ++i) {
        EXPECT_EQ(guest.cq.ring.take<pvrdma_cqe>().wr_id, i);
    }
}

TEST_F(PvrdmaOverrun, indices_that_lie_are_a_cq_error)
{
    guest.cq.ring.head() = 5000;
    EXPECT_FALSE(complete());
    EXPECT_EQ(guest.stats.guest_ring_errors, 1u);
    EXPECT_EQ(guest.async_ring().take<EventEntry>().type, +IBV_EVENT_CQ_ERR);
}

// Arming.

TEST_F(PvrdmaArming, a_queue_that_is_not_armed_is_silent)
{
    complete();
    EXPECT_TRUE(notified().empty());
    EXPECT_EQ(guest.host.irqs[vector_cq], 0);
}

TEST_F(PvrdmaArming, an_armed_queue_notifies_once)
{
    arm();
    EXPECT_EQ(guest.host.irqs[vector_cq], 0);
    complete();
    complete();
    EXPECT_EQ(notified(), std::vector{guest.cq.handle});
    EXPECT_EQ(guest.host.irqs[vector_cq], 1);
    arm();
    complete();
    EXPECT_EQ(guest.host.irqs[vector_cq], 2);
}

TEST_F(PvrdmaArming, the_entry_is_there_when_the_notification_comes)
{
    arm();
    complete(5);
    EXPECT_EQ(guest.cq.ring.take<pvrdma_cqe>().wr_id, 5u);
    EXPECT_EQ(notified().size(), 1u);
}

TEST_F(PvrdmaArming, for_solicited_events_waits_for_one)
{
    arm_solicited();
    complete();
    EXPECT_TRUE(notified().empty());
    Completion solicited;
    solicited.solicited = true;
    complete(solicited);
    EXPECT_EQ(notified().size(), 1u);
    complete(solicited);
    EXPECT_TRUE(notified().empty());
}

TEST_F(PvrdmaArming, for_any_completion_is_not_weakened)
{
    arm();
    arm_solicited();
    complete();
    EXPECT_EQ(notified().size(), 1u);
}

TEST_F(PvrdmaArming, a_poll_does_nothing)
{
    guest.ring(uar_cq_offset, guest.cq.handle | uar_cq_poll);
    guest.ring(uar_cq_offset, 0xffffff | uar_cq_poll);
    complete();
    EXPECT_TRUE(notified().empty());
    EXPECT_EQ(guest.stats.guest_doorbell_errors, 0u);
}

TEST_F(PvrdmaArming, a_poll_does_not_disarm)
{
    arm();
    guest.ring(uar_cq_offset, guest.cq.handle | uar_cq_poll);
    complete();
    EXPECT_EQ(notified().size(), 1u);
}

TEST_F(PvrdmaArming, shows_in_the_cause_register)
{
    guest.read(reg_icr);
    arm();
    complete();
    EXPECT_EQ(guest.read(reg_icr), 1u << vector_cq);
}

// The trap of the two event rings: the driver takes its 1536 and 3072 slots for
// a power of two, and so uses 512 and 1024.

TEST_F(PvrdmaEvents, the_notification_ring_follows_the_drivers_arithmetic)
{
    DriverRing ring = guest.notifications();
    EXPECT_EQ(ring.slots(), 3072u);
    for (uint32_t i = 0; i < 5000; ++i) {
        arm();
        complete();
        guest.cq.ring.head() = guest.cq.ring.tail();
        ASSERT_TRUE(ring.has_data());
        ASSERT_EQ(ring.head() & (3072 - 1), i % 1024) << "the driver's slot";
        ASSERT_EQ(ring.take<CqNotification>().cq_handle, guest.cq.handle);
        ASSERT_FALSE(ring.has_data());
    }
}

TEST_F(PvrdmaEvents, the_async_ring_follows_the_drivers_arithmetic)
{
    DriverRing ring = guest.async_ring();
    EXPECT_EQ(ring.slots(), 1536u);
    for (uint32_t i = 0; i < 2500; ++i) {
        guest.device.async_event(IBV_EVENT_QP_FATAL, i);
        ASSERT_TRUE(ring.has_data());
        ASSERT_EQ(ring.head() & (1536 - 1), i % 512) << "the driver's slot";
        ASSERT_EQ(ring.take<EventEntry>().info, i);
        ASSERT_FALSE(ring.has_data());
    }
}

TEST_F(PvrdmaEvents, the_async_ring_holds_512_and_loses_the_rest)
{
    for (uint32_t i = 0; i < 600; ++i) {
        guest.device.async_event(IBV_EVENT_QP_FATAL, i);
    }
    EXPECT_EQ(guest.stats.async_events, 600u);
    EXPECT_EQ(guest.stats.async_events_lost, 88u);
    DriverRing ring = guest.async_ring();
    for (uint32_t i = 0; i < 512; ++i) {
        ASSERT_TRUE(ring.has_data());
        ASSERT_EQ(ring.take<EventEntry>().info, i);
    }
    EXPECT_FALSE(ring.has_data());
    guest.device.async_event(IBV_EVENT_QP_FATAL, 600);
    EXPECT_EQ(ring.take<EventEntry>().info, 600u);
}

TEST_F(PvrdmaEvents, have_the_guests_numbers)
{
    DriverRing ring = guest.async_ring();
    for (uint32_t type = 0; type <= 18; ++type) {
        guest.device.async_event(static_cast<ibv_event_type>(type), 3);
        auto event = ring.take<EventEntry>();
        EXPECT_EQ(event.type, type);
        EXPECT_EQ(event.info, 3u);
    }
    EXPECT_EQ(guest.host.irqs[vector_async], 19);
    guest.device.async_event(IBV_EVENT_WQ_FATAL, 3);
    EXPECT_FALSE(ring.has_data()) << "the guest does not know it";
}

TEST_F(PvrdmaEvents, the_nics_link_is_the_ports)
{
    guest.host.nic.link_up = false;
    guest.device.link_changed();
    guest.host.nic.link_up = true;
    guest.device.link_changed();
    DriverRing ring = guest.async_ring();
    auto down = ring.take<EventEntry>();
    auto up = ring.take<EventEntry>();
    EXPECT_EQ(down.type, +IBV_EVENT_PORT_ERR);
    EXPECT_EQ(up.type, +IBV_EVENT_PORT_ACTIVE);
    EXPECT_EQ(up.info, 1u);
}

TEST(PvrdmaEventsEarly, before_bring_up_there_is_nobody_to_tell)
{
    ModelGuest guest;
    guest.device.link_changed();
    EXPECT_EQ(guest.stats.async_events, 0u);
    EXPECT_EQ(guest.stats.async_events_lost, 0u);
}

TEST_F(PvrdmaEvents, a_ring_that_lies_loses_events)
{
    guest.async_ring().head() = 0x10000;
    guest.device.async_event(IBV_EVENT_QP_FATAL, 1);
    EXPECT_EQ(guest.stats.async_events_lost, 1u);
}

// There may be more CQs than slots in the notification ring.
TEST_F(PvrdmaEvents, notifications_that_find_no_room_come_later)
{
    std::vector<ModelCq> cqs;
    for (int i = 0; i < 1100; ++i) {
        cqs.push_back(guest.create_cq(1));
        guest.ring(uar_cq_offset, cqs.back().handle | uar_cq_arm);
    }
    for (const ModelCq& cq : cqs) {
        ASSERT_TRUE(guest.device.complete(cq.handle, {}));
    }
    std::vector<uint32_t> first = notified();
    EXPECT_EQ(first.size(), 1024u);
    int interrupts = guest.host.irqs[vector_cq];
    guest.ring(uar_cq_offset, cqs[0].handle | uar_cq_poll); // any sign of life
    EXPECT_EQ(guest.host.irqs[vector_cq], interrupts + 1);
    std::vector<uint32_t> rest = notified();
    ASSERT_EQ(rest.size(), 76u);
    EXPECT_EQ(rest.front(), cqs[1024].handle) << "in order";
    EXPECT_EQ(rest.back(), cqs[1099].handle);
    guest.ring(uar_cq_offset, cqs[0].handle | uar_cq_poll);
    EXPECT_TRUE(notified().empty());
}

TEST_F(PvrdmaEvents, a_cq_that_is_gone_has_no_late_notification)
{
    std::vector<ModelCq> cqs;
    for (int i = 0; i < 1026; ++i) {
        cqs.push_back(guest.create_cq(1));
        guest.ring(uar_cq_offset, cqs.back().handle | uar_cq_arm);
        ASSERT_TRUE(guest.device.complete(cqs.back().handle, {}));
    }
    EXPECT_EQ(guest.destroy(cmd_destroy_cq, cqs[1024].handle), 0u);
    notified();
    guest.ring(uar_cq_offset, cqs[0].handle | uar_cq_poll);
    EXPECT_EQ(notified(), std::vector{cqs[1025].handle});
}

} // namespace rdma::test
