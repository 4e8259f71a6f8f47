// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests and receives as entries, and entries as completions: byte for byte what
// docs/virtio-rdma/queues.md says.
#include <cerrno>
#include <cstddef>

#include <gtest/gtest.h>

#include "model_device.h"

namespace {

constexpr uint32_t all_features =
    1U << VIRTIO_RDMA_F_ATOMICS | 1U << VIRTIO_RDMA_F_FAST_REGISTRATION;

struct SendQueue : ModelWorkQueue {
    explicit SendQueue(ibv_qp_type type, uint32_t entry_size = 128,
                       uint32_t features = all_features)
        : ModelWorkQueue(8, entry_size)
    {
        limits.datagrams = type == IBV_QPT_UD;
        limits.opcodes = vrdma_send_opcodes(type, features);
        limits.max_sges = vrdma_send_entry_sges(limits.datagrams, entry_size);
        limits.max_inline = vrdma_send_entry_inline(limits.datagrams, entry_size);
    }
    vrdma_send_limits limits{};
    ibv_send_wr* bad = nullptr;
    int post_send(ibv_send_wr* wr) { return vrdma_ring_post_send(&ring, wr, &bad, &limits); }
};

template <typename T>
T at(const std::vector<uint8_t>& entry, size_t offset)
{
    T value;
    std::memcpy(&value, entry.data() + offset, sizeof value);
    return value;
}

struct Sges {
    std::array<ibv_sge, 2> sges{{{0x1122334455667788, 100, 0xaabb}, {0x2000, 8, 0xccdd}}};
};

ibv_send_wr request(ibv_wr_opcode opcode, std::span<ibv_sge> sges, unsigned flags = 0)
{
    ibv_send_wr wr{};
    wr.wr_id = 0x0102030405060708;
    wr.opcode = opcode;
    wr.sg_list = sges.data();
    wr.num_sge = static_cast<int>(sges.size());
    wr.send_flags = flags;
    return wr;
}

void expect_sges(const std::vector<uint8_t>& entry, size_t offset, std::span<const ibv_sge> sges)
{
    for (const auto& sge : sges) {
        EXPECT_EQ(at<uint64_t>(entry, offset), sge.addr);
        EXPECT_EQ(at<uint32_t>(entry, offset + 8), sge.length);
        EXPECT_EQ(at<uint32_t>(entry, offset + 12), sge.lkey);
        offset += 16;
    }
}

TEST(WorkRequest, SendsHaveTheirSgesAtByte16)
{
    struct Case {
        ibv_wr_opcode opcode;
        uint8_t number;
        uint32_t field;
    };
    for (const auto& c : {Case{IBV_WR_SEND, 2, 0}, Case{IBV_WR_SEND_WITH_IMM, 3, 0xdeadbeef},
                          Case{IBV_WR_SEND_WITH_INV, 9, 0xdeadbeef}}) {
        SendQueue queue(IBV_QPT_RC);
        Sges s;
        auto wr =
            request(c.opcode, s.sges, IBV_SEND_FENCE | IBV_SEND_SIGNALED | IBV_SEND_SOLICITED);
        wr.imm_data = 0xdeadbeef; // or invalidate_rkey: as it is, on this machine
        ASSERT_EQ(queue.post_send(&wr), 0);
        const auto entry = queue.take();
        EXPECT_EQ(at<uint64_t>(entry, 0), wr.wr_id);
        EXPECT_EQ(entry[8], c.number);
        EXPECT_EQ(entry[9], 1 | 2 | 4);
        EXPECT_EQ(at<uint16_t>(entry, 10), 2);
        EXPECT_EQ(at<uint32_t>(entry, 12), c.field);
        expect_sges(entry, 16, s.sges);
    }
}

TEST(WorkRequest, WritesAndReadsHaveTheirSgesAtByte32)
{
    struct Case {
        ibv_wr_opcode opcode;
        uint8_t number;
        uint32_t field;
    };
    for (const auto& c : {Case{IBV_WR_RDMA_WRITE, 0, 0}, Case{IBV_WR_RDMA_WRITE_WITH_IMM, 1, 5},
                          Case{IBV_WR_RDMA_READ, 4, 0}}) {
        SendQueue queue(IBV_QPT_RC);
        Sges s;
        auto wr = request(c.opcode, s.sges);
        wr.imm_data = 5;
        wr.wr.rdma.remote_addr = 0x1234567890;
        wr.wr.rdma.rkey = 0x77;
        ASSERT_EQ(queue.post_send(&wr), 0);
        const auto entry = queue.take();
        EXPECT_EQ(entry[8], c.number);
        EXPECT_EQ(entry[9], 0);
        EXPECT_EQ(at<uint32_t>(entry, 12), c.field);
        EXPECT_EQ(at<uint64_t>(entry, 16), 0x1234567890U);
        EXPECT_EQ(at<uint32_t>(entry, 24), 0x77U);
        EXPECT_EQ(at<uint32_t>(entry, 28), 0U);
        expect_sges(entry, 32, s.sges);
    }
}

TEST(WorkRequest, AtomicsHaveOneSgeAtByte48)
{
    for (const auto opcode : {IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WR_ATOMIC_FETCH_AND_ADD}) {
        const bool swap = opcode == IBV_WR_ATOMIC_CMP_AND_SWP;
        SendQueue queue(IBV_QPT_RC, 64);
        Sges s;
        auto wr = request(opcode, std::span(s.sges).first(1));
        wr.wr.atomic = {.remote_addr = 0x9000, .compare_add = 11, .swap = 22, .rkey = 0x99};
        ASSERT_EQ(queue.post_send(&wr), 0);
        const auto entry = queue.take();
        EXPECT_EQ(entry[8], swap ? 5 : 6);
        EXPECT_EQ(at<uint64_t>(entry, 16), 0x9000U);
        EXPECT_EQ(at<uint64_t>(entry, 24), 11U);
        EXPECT_EQ(at<uint64_t>(entry, 32), swap ? 22U : 0U);
        EXPECT_EQ(at<uint32_t>(entry, 40), 0x99U);
        EXPECT_EQ(at<uint32_t>(entry, 44), 0U);
        expect_sges(entry, 48, std::span(s.sges).first(1));

        wr.num_sge = 2;
        EXPECT_EQ(queue.post_send(&wr), EINVAL);
    }
}

TEST(WorkRequest, DatagramsHaveTheirDestinationAndTheirSgesAtByte56)
{
    for (const auto opcode : {IBV_WR_SEND, IBV_WR_SEND_WITH_IMM}) {
        SendQueue queue(IBV_QPT_UD);
        Sges s;
        vrdma_ah ah{};
        for (uint8_t i = 0; i < 16; ++i)
            ah.av.dgid[i] = i;
        ah.av.sgid_index = 3;
        ah.av.dmac[5] = 0x42;
        auto wr = request(opcode, s.sges);
        wr.imm_data = 6;
        wr.wr.ud.ah = &ah.ibv_ah;
        wr.wr.ud.remote_qpn = 0x123456;
        wr.wr.ud.remote_qkey = 0x11111111;
        ASSERT_EQ(queue.post_send(&wr), 0);
        const auto entry = queue.take();
        EXPECT_EQ(entry[8], opcode == IBV_WR_SEND ? 2 : 3);
        EXPECT_EQ(at<uint32_t>(entry, 12), opcode == IBV_WR_SEND ? 0U : 6U);
        EXPECT_EQ(at<uint32_t>(entry, 16), 0x123456U);
        EXPECT_EQ(at<uint32_t>(entry, 20), 0x11111111U);
        EXPECT_EQ(std::memcmp(entry.data() + 24, &ah.av, 32), 0);
        expect_sges(entry, 56, s.sges);
    }
}

TEST(WorkRequest, InlineBytesAreGatheredAndCountsTheirNumber)
{
    SendQueue queue(IBV_QPT_RC);
    std::array<char, 3> one{'a', 'b', 'c'};
    std::array<char, 2> two{'d', 'e'};
    std::array<ibv_sge, 3> sges{{{reinterpret_cast<uintptr_t>(one.data()), 3, 0},
                                 {0, 0, 0},
                                 {reinterpret_cast<uintptr_t>(two.data()), 2, 0}}};
    auto wr = request(IBV_WR_SEND, sges, IBV_SEND_INLINE);
    ASSERT_EQ(queue.post_send(&wr), 0);
    const auto entry = queue.take();
    EXPECT_EQ(entry[9], 8);
    EXPECT_EQ(at<uint16_t>(entry, 10), 5);
    EXPECT_EQ(std::memcmp(entry.data() + 16, "abcde", 5), 0);
}

// [virtio-rdma DEV-2]
TEST(WorkRequest, WhatAQueueDoesNotTakeIsRefusedAndNothingIsPosted)
{
    std::array<char, 97> bytes{};
    ibv_sge all{reinterpret_cast<uintptr_t>(bytes.data()), 97, 0};
    std::array<ibv_sge, 7> many{};
    Sges s;
    const auto refused = [](SendQueue& queue, ibv_send_wr wr) {
        const int error = queue.post_send(&wr);
        EXPECT_EQ(queue.bad, &wr);
        EXPECT_EQ(queue.state.producer, 0U);
        EXPECT_EQ(queue.take_doorbell(), 0U);
        return error;
    };
    SendQueue rc(IBV_QPT_RC), ud(IBV_QPT_UD), bare(IBV_QPT_RC, 128, 0);
    EXPECT_EQ(rc.limits.max_inline, 96U);
    EXPECT_EQ(refused(rc, request(IBV_WR_SEND, {&all, 1}, IBV_SEND_INLINE)), EINVAL);
    EXPECT_EQ(refused(rc, request(IBV_WR_SEND, many)), EINVAL);
    EXPECT_EQ(refused(rc, request(IBV_WR_RDMA_READ, s.sges, IBV_SEND_INLINE)), EINVAL);
    EXPECT_EQ(refused(rc, request(IBV_WR_LOCAL_INV, {})), EINVAL);
    EXPECT_EQ(refused(rc, request(IBV_WR_TSO, {})), EINVAL);
    EXPECT_EQ(refused(ud, request(IBV_WR_RDMA_WRITE, s.sges)), EINVAL);
    EXPECT_EQ(refused(bare, request(IBV_WR_ATOMIC_FETCH_AND_ADD, std::span(s.sges).first(1))),
              EINVAL);
    EXPECT_EQ(refused(bare, request(IBV_WR_SEND_WITH_INV, s.sges)), EINVAL);
}

TEST(WorkRequest, AListIsPostedUpToTheFirstThatIsRefusedWithOneDoorbell)
{
    SendQueue queue(IBV_QPT_RC);
    Sges s;
    auto third = request(IBV_WR_LOCAL_INV, {});
    auto second = request(IBV_WR_SEND, s.sges), first = second;
    first.next = &second;
    second.next = &third;
    EXPECT_EQ(queue.post_send(&first), EINVAL);
    EXPECT_EQ(queue.bad, &third);
    EXPECT_EQ(queue.waiting(), 2U);
    EXPECT_NE(queue.take_doorbell(), 0U);
}

TEST(WorkRequest, AFullQueueAnswersENOMEM)
{
    SendQueue queue(IBV_QPT_RC);
    std::array<ibv_send_wr, 10> list{};
    for (size_t i = 0; i < list.size(); ++i) {
        list[i] = request(IBV_WR_SEND, {});
        if (i)
            list[i - 1].next = &list[i];
    }
    EXPECT_EQ(queue.post_send(&list[0]), ENOMEM);
    EXPECT_EQ(queue.bad, &list[8]);
    EXPECT_EQ(queue.waiting(), 8U);
}

TEST(WorkRequest, AnEntryHasRoomForWhatIsAskedForAndTheSpecificationSays)
{
    EXPECT_EQ(vrdma_send_entry_sges(false, 64), 2U);
    EXPECT_EQ(vrdma_send_entry_inline(false, 64), 32U);
    EXPECT_EQ(vrdma_send_entry_sges(true, 128), 4U);
    EXPECT_EQ(vrdma_recv_entry_sges(32), 1U);
    EXPECT_EQ(vrdma_send_entry_size(true, 0, 0), 64U);
    EXPECT_EQ(vrdma_recv_entry_size(0), 32U);
    for (uint32_t n = 0; n <= 128; ++n) {
        for (const bool datagrams : {false, true}) {
            const auto by_sges = vrdma_send_entry_size(datagrams, n, 0),
                       by_bytes = vrdma_send_entry_size(datagrams, 0, n);
            EXPECT_GE(vrdma_send_entry_sges(datagrams, by_sges), n);
            EXPECT_GE(vrdma_send_entry_inline(datagrams, by_bytes), n);
            EXPECT_TRUE(std::has_single_bit(by_sges) && std::has_single_bit(by_bytes));
        }
        EXPECT_GE(vrdma_recv_entry_sges(vrdma_recv_entry_size(n)), n);
    }
}

TEST(WorkRequest, AReceiveHasItsSgesAtByte16AndNothingElse)
{
    ModelWorkQueue queue(4, 64);
    Sges s;
    ibv_recv_wr *bad = nullptr, wr{};
    wr.wr_id = 99;
    wr.sg_list = s.sges.data();
    wr.num_sge = 2;
    std::memset(vrdma_ring_slot(&queue.ring), 0xff, 64);
    ASSERT_EQ(vrdma_ring_post_recv(&queue.ring, &wr, &bad, 3), 0);
    const auto entry = queue.take();
    EXPECT_EQ(at<uint64_t>(entry, 0), 99U);
    EXPECT_EQ(at<uint64_t>(entry, 8), 2U);
    expect_sges(entry, 16, s.sges);
    EXPECT_EQ(vrdma_ring_post_recv(&queue.ring, &wr, &bad, 1), EINVAL);
    EXPECT_EQ(bad, &wr);
}

ibv_wc completion(const virtio_rdma_cq_entry& entry)
{
    ModelCompletionQueue cq(2);
    cq.complete(entry);
    return cq.poll(1).at(0);
}

TEST(Completion, EachStatusIsLibibverbs)
{
    constexpr std::array expected{
        IBV_WC_SUCCESS,        IBV_WC_LOC_LEN_ERR,     IBV_WC_LOC_QP_OP_ERR,
        IBV_WC_LOC_PROT_ERR,   IBV_WC_WR_FLUSH_ERR,    IBV_WC_BAD_RESP_ERR,
        IBV_WC_LOC_ACCESS_ERR, IBV_WC_REM_INV_REQ_ERR, IBV_WC_REM_ACCESS_ERR,
        IBV_WC_REM_OP_ERR,     IBV_WC_RETRY_EXC_ERR,   IBV_WC_RNR_RETRY_EXC_ERR,
        IBV_WC_REM_ABORT_ERR,  IBV_WC_FATAL_ERR,       IBV_WC_RESP_TIMEOUT_ERR,
        IBV_WC_GENERAL_ERR,    IBV_WC_MW_BIND_ERR,     IBV_WC_GENERAL_ERR};
    for (uint8_t status = 0; status < expected.size(); ++status) {
        virtio_rdma_cq_entry entry{};
        entry.status = status;
        entry.vendor_err = 5;
        EXPECT_EQ(completion(entry).status, expected[status]) << int{status};
        EXPECT_EQ(completion(entry).vendor_err, 5U);
    }
}

TEST(Completion, EachOpcodeIsLibibverbs)
{
    constexpr std::array expected{IBV_WC_SEND,      IBV_WC_RDMA_WRITE,         IBV_WC_RDMA_READ,
                                  IBV_WC_RECV,      IBV_WC_RECV_RDMA_WITH_IMM, IBV_WC_COMP_SWAP,
                                  IBV_WC_FETCH_ADD, IBV_WC_LOCAL_INV};
    for (uint8_t opcode = 0; opcode < expected.size(); ++opcode) {
        virtio_rdma_cq_entry entry{};
        entry.opcode = opcode;
        EXPECT_EQ(completion(entry).opcode, expected[opcode]) << int{opcode};
    }
}

TEST(Completion, ADatagramHasItsSenderAndItsFlags)
{
    virtio_rdma_cq_entry entry{};
    entry.wr_id = 1ULL << 60;
    entry.qpn = 12;
    entry.byte_len = 140;
    entry.imm_data = 0x01020304;
    entry.src_qpn = 0x654321;
    entry.sl = 3;
    entry.opcode = VIRTIO_RDMA_WC_RECV;
    entry.flags = VIRTIO_RDMA_WC_GRH | VIRTIO_RDMA_WC_IMM;
    auto wc = completion(entry);
    EXPECT_EQ(wc.wr_id, 1ULL << 60);
    EXPECT_EQ(wc.qp_num, 12U);
    EXPECT_EQ(wc.byte_len, 140U);
    EXPECT_EQ(wc.imm_data, 0x01020304U);
    EXPECT_EQ(wc.src_qp, 0x654321U);
    EXPECT_EQ(wc.sl, 3);
    EXPECT_EQ(wc.wc_flags, static_cast<unsigned>(IBV_WC_GRH | IBV_WC_WITH_IMM));

    entry.flags = VIRTIO_RDMA_WC_INVALIDATED;
    wc = completion(entry);
    EXPECT_EQ(wc.wc_flags, static_cast<unsigned>(IBV_WC_WITH_INV));
    EXPECT_EQ(wc.invalidated_rkey, 0x01020304U);
}

} // namespace
