// SPDX-License-Identifier: GPL-2.0-or-later
//
// Doorbells, and requests out of the guest's send, receive and shared receive
// queues. The guest writes them with the kernel's structs.
#include <gtest/gtest.h>

#include <memory>

#include "pvrdma_guest.h"

namespace rdma::test {

namespace {

struct PvrdmaWorkQueue : testing::Test {
    PvrdmaWorkQueue() { guest.set_up(); }

    // The driver's part of posting: fill in the WQE that is returned, then
    // posted(qp).
    pvrdma_sq_wqe_hdr& next_send(ModelQp& qp, uint32_t opcode, uint64_t wr_id = 1)
    {
        auto& wqe = qp.sq.next<pvrdma_sq_wqe_hdr>();
        wqe.wr_id = wr_id;
        wqe.opcode = opcode;
        return wqe;
    }
    template <typename Header>
    static void add_sge(Header& wqe, const pvrdma_sge& sge)
    {
        reinterpret_cast<pvrdma_sge*>(&wqe + 1)[wqe.num_sge++] = sge;
    }
    // What the backend gets, which must be a request.
    SendRequest& pull_send(ModelQp& qp)
    {
        qp.sq.publish();
        EXPECT_TRUE(guest.device.pull_send(qp.handle, *send));
        EXPECT_FALSE(qp.sq.has_data());
        return *send;
    }
    RecvRequest& pull_recv(ModelQp& qp)
    {
        qp.rq.publish();
        EXPECT_TRUE(guest.device.pull_recv(qp.handle, recv));
        EXPECT_FALSE(qp.rq.has_data());
        return recv;
    }
    void expect_malformed(const SendRequest& request, uint64_t wr_id,
                          ibv_wc_status status = IBV_WC_LOC_QP_OP_ERR)
    {
        EXPECT_EQ(request.malformed, status);
        EXPECT_EQ(request.wr.wr_id, wr_id);
        EXPECT_EQ(request.wr.num_sge, 0);
    }
    uint32_t async_events(uint32_t type)
    {
        uint32_t count = 0;
        for (auto ring = guest.async_ring(); ring.has_data();) {
            count += ring.take<EventEntry>().type == type;
        }
        return count;
    }

    ModelGuest guest;
    std::unique_ptr<SendRequest> send = std::make_unique<SendRequest>();
    RecvRequest recv;
};
using PvrdmaDoorbells = PvrdmaWorkQueue;

} // namespace

// Doorbells.

TEST_F(PvrdmaDoorbells, of_a_qp_reach_the_backend)
{
    ModelQp qp = guest.create_qp({});
    guest.ring(uar_qp_offset, qp.handle | uar_qp_send);
    guest.ring(uar_qp_offset, qp.handle | uar_qp_recv);
    EXPECT_EQ(guest.backend.send_doorbells, std::vector{qp.handle});
    EXPECT_EQ(guest.backend.recv_doorbells, std::vector{qp.handle});
    guest.ring(uar_qp_offset, qp.handle | uar_qp_send | uar_qp_recv);
    EXPECT_EQ(guest.backend.send_doorbells.size(), 2u);
    EXPECT_EQ(guest.backend.recv_doorbells.size(), 2u);
}

TEST_F(PvrdmaDoorbells, of_an_srq_reach_the_backend)
{
    ModelSrq srq = guest.create_srq(16, 2);
    guest.ring(uar_srq_offset, srq.handle | uar_srq_recv);
    EXPECT_EQ(guest.backend.srq_doorbells, std::vector{srq.handle});
}

TEST_F(PvrdmaDoorbells, work_on_every_page)
{
    ModelQp qp = guest.create_qp({});
    for (uint64_t page : {0u, 1u, 1023u}) {
        guest.ring(uar_qp_offset, qp.handle | uar_qp_send, page);
    }
    EXPECT_EQ(guest.backend.send_doorbells.size(), 3u);
}

TEST_F(PvrdmaDoorbells, of_what_does_not_exist_are_counted)
{
    guest.ring(uar_qp_offset, 77 | uar_qp_send);
    guest.ring(uar_qp_offset, uar_handle_mask | uar_qp_send | uar_qp_recv);
    guest.ring(uar_srq_offset, 77 | uar_srq_recv);
    guest.ring(uar_cq_offset, 77 | uar_cq_arm);
    guest.ring(12, 0);
    guest.ring(4092, 0xffffffff);
    EXPECT_EQ(guest.stats.guest_doorbell_errors, 6u);
    EXPECT_TRUE(guest.backend.send_doorbells.empty());
    EXPECT_TRUE(guest.backend.srq_doorbells.empty());
}

TEST_F(PvrdmaDoorbells, that_ask_for_nothing_are_counted)
{
    ModelQp qp = guest.create_qp({});
    guest.ring(uar_qp_offset, qp.handle);
    guest.ring(uar_cq_offset, guest.cq.handle);
    EXPECT_EQ(guest.stats.guest_doorbell_errors, 2u);
}

// Send requests.

TEST_F(PvrdmaWorkQueue, an_empty_queue_gives_nothing)
{
    ModelQp qp = guest.create_qp({});
    EXPECT_FALSE(guest.device.pull_send(qp.handle, *send));
    EXPECT_FALSE(guest.device.pull_recv(qp.handle, recv));
    EXPECT_FALSE(guest.device.pull_send(77, *send));
    EXPECT_FALSE(guest.device.pull_recv(77, recv));
    EXPECT_FALSE(guest.device.pull_srq_recv(77, recv));
}

TEST_F(PvrdmaWorkQueue, a_send_has_its_sges_flags_and_id)
{
    ModelQp qp = guest.create_qp({});
    auto& wqe = next_send(qp, PVRDMA_WR_SEND, 0x1122334455667788);
    wqe.send_flags = IBV_SEND_SIGNALED | IBV_SEND_SOLICITED;
    add_sge(wqe, {0x1000, 10, 0x101});
    add_sge(wqe, {0x2000, 20, 0x202});
    const SendRequest& request = pull_send(qp);
    EXPECT_EQ(request.malformed, IBV_WC_SUCCESS);
    EXPECT_EQ(request.opcode, IBV_WR_SEND);
    EXPECT_EQ(request.wr.wr_id, 0x1122334455667788u);
    EXPECT_EQ(request.wr.send_flags, IBV_SEND_SIGNALED | IBV_SEND_SOLICITED);
    ASSERT_EQ(request.wr.num_sge, 2);
    EXPECT_EQ(request.sge[1].addr, 0x2000u);
    EXPECT_EQ(request.sge[1].length, 20u);
    EXPECT_EQ(request.sge[1].lkey, 0x202u);
}

TEST_F(PvrdmaWorkQueue, immediate_data_keeps_its_byte_order)
{
    ModelQp qp = guest.create_qp({});
    for (pvrdma_wr_opcode opcode : {PVRDMA_WR_SEND_WITH_IMM, PVRDMA_WR_RDMA_WRITE_WITH_IMM}) {
        next_send(qp, opcode).ex.imm_data = 0x01020304;
        EXPECT_EQ(pull_send(qp).wr.imm_data, 0x01020304u);
        EXPECT_EQ(send->opcode, static_cast<int>(opcode));
    }
}

TEST_F(PvrdmaWorkQueue, rdma_requests_have_address_and_key)
{
    ModelQp qp = guest.create_qp({});
    for (pvrdma_wr_opcode opcode :
         {PVRDMA_WR_RDMA_WRITE, PVRDMA_WR_RDMA_WRITE_WITH_IMM, PVRDMA_WR_RDMA_READ}) {
        auto& wqe = next_send(qp, opcode);
        wqe.wr.rdma.remote_addr = 0xabcdef0123;
        wqe.wr.rdma.rkey = 0x777;
        const SendRequest& request = pull_send(qp);
        EXPECT_EQ(request.opcode, static_cast<int>(opcode));
        EXPECT_EQ(request.wr.wr.rdma.remote_addr, 0xabcdef0123u);
        EXPECT_EQ(request.wr.wr.rdma.rkey, 0x777u);
    }
}

TEST_F(PvrdmaWorkQueue, atomics_have_their_operands)
{
    ModelQp qp = guest.create_qp({});
    auto& wqe = next_send(qp, PVRDMA_WR_ATOMIC_CMP_AND_SWP);
    wqe.wr.atomic.remote_addr = 0x5000;
    wqe.wr.atomic.compare_add = 11;
    wqe.wr.atomic.swap = 22;
    wqe.wr.atomic.rkey = 33;
    const SendRequest& request = pull_send(qp);
    EXPECT_EQ(request.opcode, IBV_WR_ATOMIC_CMP_AND_SWP);
    EXPECT_EQ(request.wr.wr.atomic.remote_addr, 0x5000u);
    EXPECT_EQ(request.wr.wr.atomic.compare_add, 11u);
    EXPECT_EQ(request.wr.wr.atomic.swap, 22u);
    EXPECT_EQ(request.wr.wr.atomic.rkey, 33u);
    next_send(qp, PVRDMA_WR_ATOMIC_FETCH_AND_ADD);
    EXPECT_EQ(pull_send(qp).opcode, IBV_WR_ATOMIC_FETCH_AND_ADD);
}

TEST_F(PvrdmaWorkQueue, invalidations_have_their_key)
{
    ModelQp qp = guest.create_qp({});
    next_send(qp, PVRDMA_WR_LOCAL_INV).ex.invalidate_rkey = 0x123;
    EXPECT_EQ(pull_send(qp).opcode, IBV_WR_LOCAL_INV);
    EXPECT_EQ(send->wr.invalidate_rkey, 0x123u);
    next_send(qp, PVRDMA_WR_SEND_WITH_INV).ex.invalidate_rkey = 0x456;
    EXPECT_EQ(pull_send(qp).opcode, IBV_WR_SEND_WITH_INV);
    EXPECT_EQ(send->wr.invalidate_rkey, 0x456u);
}

TEST_F(PvrdmaWorkQueue, a_fast_registration_has_its_page_list)
{
    ModelQp qp = guest.create_qp({});
    auto pages = guest.ram.pages(3);
    auto& reg = next_send(qp, PVRDMA_WR_FAST_REG_MR).wr.fast_reg;
    reg = {.iova_start = 0x7000'0010,
           .pl_pdir_dma = guest.ram.directory(pages),
           .page_shift = 12,
           .page_list_len = 3,
           .length = 9000,
           .access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | 1u << 20,
           .rkey = 0x901,
           .reserved = 0};
    const SendRequest& request = pull_send(qp);
    EXPECT_EQ(request.malformed, IBV_WC_SUCCESS);
    EXPECT_EQ(request.opcode, wr_fast_reg);
    EXPECT_EQ(request.fast_reg.iova, 0x7000'0010u);
    EXPECT_EQ(request.fast_reg.length, 9000u);
    EXPECT_EQ(request.fast_reg.key, 0x901u);
    EXPECT_EQ(request.fast_reg.access, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ);
    ASSERT_EQ(request.fast_reg.num_pages, 3u);
    EXPECT_TRUE(std::ranges::equal(pages, std::span(request.fast_reg.pages).first(3)));
}

TEST_F(PvrdmaWorkQueue, a_bad_fast_registration_is_malformed)
{
    ModelQp qp = guest.create_qp({});
    auto pages = guest.ram.pages(129);
    uint64_t directory = guest.ram.directory(pages);
    const decltype(pvrdma_sq_wqe_hdr::wr.fast_reg) bad[] = {
        {0, directory, 12, 129, 4096, 0, 1, 0},        // too long a list
        {0, directory, 12, 0, 4096, 0, 1, 0},          // none
        {0, directory, 12, 0xffffffff, 4096, 0, 1, 0}, // far too long
        {0, directory, 16, 1, 4096, 0, 1, 0},          // 64 KiB pages
        {0, GuestRam::hole, 12, 1, 4096, 0, 1, 0},     // not guest memory
    };
    uint64_t wr_id = 50;
    for (const auto& reg : bad) {
        next_send(qp, PVRDMA_WR_FAST_REG_MR, ++wr_id).wr.fast_reg = reg;
        expect_malformed(pull_send(qp), wr_id, IBV_WC_MW_BIND_ERR);
    }
}

TEST_F(PvrdmaWorkQueue, a_datagram_has_its_destination)
{
    ModelQp qp = guest.create_qp({.type = qpt_ud});
    auto& wqe = next_send(qp, PVRDMA_WR_SEND);
    wqe.wr.ud.remote_qpn = 0x123;
    wqe.wr.ud.remote_qkey = 0x80010000;
    pvrdma_av& av = wqe.wr.ud.av;
    av.port_pd = guest.pd | 1u << 24;
    av.sl_tclass_flowlabel = 0xabu << 20 | 0x12345;
    av.dgid[15] = 42;
    av.gid_index = 6;
    av.hop_limit = 63;
    av.dmac[0] = 0x52;
    av.dmac[5] = 0x01;
    const SendRequest& request = pull_send(qp);
    EXPECT_EQ(request.malformed, IBV_WC_SUCCESS);
    EXPECT_EQ(request.wr.wr.ud.remote_qpn, 0x123u);
    EXPECT_EQ(request.wr.wr.ud.remote_qkey, 0x80010000u);
    const ibv_ah_attr& ah = request.av.attr;
    EXPECT_EQ(ah.is_global, 1);
    EXPECT_EQ(ah.grh.dgid.raw[15], 42);
    EXPECT_EQ(ah.grh.sgid_index, 6);
    EXPECT_EQ(ah.grh.hop_limit, 63);
    EXPECT_EQ(ah.grh.traffic_class, 0xab);
    EXPECT_EQ(ah.grh.flow_label, 0x12345u);
    EXPECT_EQ(request.av.dmac, (Mac{0x52, 0, 0, 0, 0, 0x01}));
}

TEST_F(PvrdmaWorkQueue, a_datagrams_address_belongs_to_port_and_pd_of_the_qp)
{
    ModelQp qp = guest.create_qp({.type = qpt_ud});
    for (uint32_t port_pd : {guest.pd, guest.pd | 2u << 24, (guest.pd + 1) | 1u << 24}) {
        next_send(qp, PVRDMA_WR_SEND).wr.ud.av.port_pd = port_pd;
        expect_malformed(pull_send(qp), 1);
    }
}

TEST_F(PvrdmaWorkQueue, datagrams_are_only_sent)
{
    ModelQp ud = guest.create_qp({.type = qpt_ud});
    ModelQp gsi = guest.create_qp({.type = qpt_gsi});
    for (ModelQp* qp : {&ud, &gsi}) {
        for (pvrdma_wr_opcode opcode :
             {PVRDMA_WR_RDMA_WRITE, PVRDMA_WR_RDMA_READ, PVRDMA_WR_ATOMIC_FETCH_AND_ADD,
              PVRDMA_WR_LOCAL_INV, PVRDMA_WR_SEND_WITH_INV, PVRDMA_WR_FAST_REG_MR}) {
            next_send(*qp, opcode).wr.ud.av.port_pd = guest.pd | 1u << 24;
            expect_malformed(pull_send(*qp), 1);
        }
    }
}

TEST_F(PvrdmaWorkQueue, what_cannot_be_carried_out_is_malformed_and_passed)
{
    ModelQp qp = guest.create_qp({});
    const uint32_t opcodes[] = {PVRDMA_WR_LSO,
                                PVRDMA_WR_RDMA_READ_WITH_INV,
                                PVRDMA_WR_MASKED_ATOMIC_CMP_AND_SWP,
                                PVRDMA_WR_MASKED_ATOMIC_FETCH_AND_ADD,
                                PVRDMA_WR_BIND_MW,
                                PVRDMA_WR_REG_SIG_MR,
                                PVRDMA_WR_ERROR,
                                0x100,
                                0x80000000,
                                0xffffffff};
    uint64_t wr_id = 100;
    for (uint32_t opcode : opcodes) {
        auto& wqe = next_send(qp, opcode, ++wr_id);
        wqe.send_flags = IBV_SEND_SIGNALED;
        const SendRequest& request = pull_send(qp);
        expect_malformed(request, wr_id);
        EXPECT_EQ(request.wr.send_flags, +IBV_SEND_SIGNALED);
    }
    EXPECT_EQ(guest.stats.guest_wqe_errors, 10u);
    next_send(qp, PVRDMA_WR_SEND);
    EXPECT_EQ(pull_send(qp).malformed, IBV_WC_SUCCESS) << "the next one is good again";
}

TEST_F(PvrdmaWorkQueue, inline_data_is_refused_unless_there_is_none)
{
    ModelQp qp = guest.create_qp({});
    auto& wqe = next_send(qp, PVRDMA_WR_SEND);
    wqe.send_flags = IBV_SEND_INLINE;
    add_sge(wqe, {0x1000, 1, 0x101});
    expect_malformed(pull_send(qp), 1);
    auto& empty = next_send(qp, PVRDMA_WR_SEND);
    empty.send_flags = IBV_SEND_INLINE;
    add_sge(empty, {0x1000, 0, 0x101});
    EXPECT_EQ(pull_send(qp).malformed, IBV_WC_SUCCESS);
}

TEST_F(PvrdmaWorkQueue, the_largest_request_has_all_its_sges)
{
    ModelQp qp = guest.create_qp({.send_wr = 16, .send_sge = 16});
    for (uint32_t turn = 0; turn < 40; ++turn) {
        auto& wqe = next_send(qp, PVRDMA_WR_SEND);
        for (uint32_t i = 0; i < 16; ++i) {
            add_sge(wqe, {turn * 0x1000 + i, i, i});
        }
        const SendRequest& request = pull_send(qp);
        ASSERT_EQ(request.wr.num_sge, 16);
        EXPECT_EQ(request.sge[15].addr, turn * 0x1000 + 15);
    }
}

TEST_F(PvrdmaWorkQueue, requests_come_in_order_up_to_a_full_queue)
{
    ModelQp qp = guest.create_qp({});
    for (uint64_t i = 0; i < 8; ++i) {
        next_send(qp, PVRDMA_WR_SEND, i);
        qp.sq.publish();
    }
    for (uint64_t i = 0; i < 8; ++i) {
        ASSERT_TRUE(guest.device.pull_send(qp.handle, *send));
        EXPECT_EQ(send->wr.wr_id, i);
    }
    EXPECT_FALSE(guest.device.pull_send(qp.handle, *send));
}

TEST_F(PvrdmaWorkQueue, starts_anew_after_reset_of_the_qp)
{
    ModelQp qp = guest.create_qp({});
    next_send(qp, PVRDMA_WR_SEND);
    qp.sq.publish();
    guest.ask<RespHdr>(cmd_modify_qp, CmdModifyQp{.qp_handle = qp.handle,
                                                  .attr_mask = IBV_QP_STATE,
                                                  .attrs = {.qp_state = IBV_QPS_RESET}});
    qp.sq.tail() = qp.sq.head() = 0; // as driver and library do then
    qp.rq.tail() = qp.rq.head() = 0;
    EXPECT_FALSE(guest.device.pull_send(qp.handle, *send));
    next_send(qp, PVRDMA_WR_SEND, 9);
    EXPECT_EQ(pull_send(qp).wr.wr_id, 9u);
}

// Receive requests.

TEST_F(PvrdmaWorkQueue, a_receive_has_its_sges_and_id)
{
    ModelQp qp = guest.create_qp({});
    auto& wqe = qp.rq.next<pvrdma_rq_wqe_hdr>();
    wqe.wr_id = 5;
    add_sge(wqe, {0x3000, 30, 0x303});
    const RecvRequest& request = pull_recv(qp);
    EXPECT_EQ(request.wr_id, 5u);
    EXPECT_EQ(request.malformed, IBV_WC_SUCCESS);
    ASSERT_EQ(request.num_sge, 1u);
    EXPECT_EQ(request.sge[0].addr, 0x3000u);
    EXPECT_EQ(request.sge[0].length, 30u);
    EXPECT_EQ(request.sge[0].lkey, 0x303u);
}

TEST_F(PvrdmaWorkQueue, a_receive_with_too_many_sges_is_malformed)
{
    ModelQp qp = guest.create_qp({});
    auto& wqe = qp.rq.next<pvrdma_rq_wqe_hdr>();
    wqe.wr_id = 6;
    wqe.num_sge = 3;
    const RecvRequest& request = pull_recv(qp);
    EXPECT_EQ(request.malformed, IBV_WC_LOC_QP_OP_ERR);
    EXPECT_EQ(request.wr_id, 6u);
    EXPECT_EQ(request.num_sge, 0u);
    EXPECT_EQ(guest.stats.guest_wqe_errors, 1u);
}

TEST_F(PvrdmaWorkQueue, send_and_receive_queue_do_not_share_pages)
{
    ModelQp qp = guest.create_qp({.send_wr = 64, .recv_wr = 64, .send_sge = 16, .recv_sge = 16});
    for (uint64_t i = 0; i < 64; ++i) {
        next_send(qp, PVRDMA_WR_SEND, 1000 + i);
        qp.sq.publish();
        qp.rq.next<pvrdma_rq_wqe_hdr>().wr_id = 2000 + i;
        qp.rq.publish();
    }
    for (uint64_t i = 0; i < 64; ++i) {
        ASSERT_TRUE(guest.device.pull_send(qp.handle, *send));
        ASSERT_TRUE(guest.device.pull_recv(qp.handle, recv));
        EXPECT_EQ(send->wr.wr_id, 1000 + i);
        EXPECT_EQ(recv.wr_id, 2000 + i);
    }
}

TEST_F(PvrdmaWorkQueue, a_shared_receive_queue_gives_its_requests)
{
    ModelSrq srq = guest.create_srq(16, 3);
    for (uint64_t i = 0; i < 40; ++i) {
        auto& wqe = srq.ring.next<pvrdma_rq_wqe_hdr>();
        wqe.wr_id = i;
        add_sge(wqe, {i, 1, 1});
        srq.ring.publish();
        ASSERT_TRUE(guest.device.pull_srq_recv(srq.handle, recv));
        EXPECT_EQ(recv.wr_id, i);
        EXPECT_EQ(recv.sge[0].addr, i);
    }
    EXPECT_FALSE(guest.device.pull_srq_recv(srq.handle, recv));
}

TEST_F(PvrdmaWorkQueue, a_qp_with_an_srq_has_none_of_its_own)
{
    ModelSrq srq = guest.create_srq(16, 2);
    ModelQp qp = guest.create_qp({.srq = srq.handle});
    EXPECT_FALSE(guest.device.pull_recv(qp.handle, recv));
    EXPECT_EQ(guest.stats.guest_ring_errors, 0u);
}

// Rings that lie.

TEST_F(PvrdmaWorkQueue, a_ring_that_lies_is_empty_and_the_guest_is_told_once)
{
    ModelQp qp = guest.create_qp({});
    for (uint32_t tail : {16u, 9u, 0xffffffffu, 0x80000000u}) {
        qp.sq.tail() = tail;
        EXPECT_FALSE(guest.device.pull_send(qp.handle, *send));
    }
    EXPECT_EQ(guest.stats.guest_ring_errors, 4u);
    EXPECT_EQ(async_events(IBV_EVENT_QP_FATAL), 1u);
}

TEST_F(PvrdmaWorkQueue, a_ring_that_is_put_right_works_again)
{
    ModelQp qp = guest.create_qp({});
    qp.rq.tail() = 99;
    EXPECT_FALSE(guest.device.pull_recv(qp.handle, recv));
    qp.rq.tail() = 0;
    qp.rq.next<pvrdma_rq_wqe_hdr>().wr_id = 3;
    EXPECT_EQ(pull_recv(qp).wr_id, 3u);
}

TEST_F(PvrdmaWorkQueue, an_srq_that_lies_is_an_srq_error)
{
    ModelSrq srq = guest.create_srq(16, 2);
    srq.ring.head() = 64;
    EXPECT_FALSE(guest.device.pull_srq_recv(srq.handle, recv));
    EXPECT_FALSE(guest.device.pull_srq_recv(srq.handle, recv));
    EXPECT_EQ(async_events(IBV_EVENT_SRQ_ERR), 1u);
    EXPECT_EQ(guest.stats.guest_ring_errors, 2u);
}

TEST_F(PvrdmaWorkQueue, rings_whose_memory_is_gone_are_empty)
{
    ModelQp qp = guest.create_qp({});
    next_send(qp, PVRDMA_WR_SEND);
    qp.sq.publish();
    guest.ram.unplug();
    EXPECT_FALSE(guest.device.pull_send(qp.handle, *send));
    EXPECT_FALSE(guest.device.pull_recv(qp.handle, recv));
    EXPECT_EQ(guest.stats.async_events_lost, 1u);
}

} // namespace rdma::test
