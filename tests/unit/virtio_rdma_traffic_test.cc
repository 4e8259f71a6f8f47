// SPDX-License-Identifier: GPL-2.0-or-later
//
// Traffic between two virtio RDMA devices, each with a driver that does as docs/virtio-rdma has
// it.
#include <gtest/gtest.h>

#include "virtio_rdma_guest.h"

namespace rdma::test {
namespace {

constexpr uint32_t qkey = 0x11111111;
constexpr uint32_t gsi_qkey = 0x80010000;

virtio_rdma_sq_entry header(uint8_t opcode, uint64_t wr_id, uint16_t count,
                            uint8_t flags = VIRTIO_RDMA_SEND_SIGNALED)
{
    virtio_rdma_sq_entry entry{};
    entry.wr_id = wr_id;
    entry.opcode = opcode;
    entry.flags = flags;
    entry.count = count;
    return entry;
}

struct End {
    explicit End(uint8_t number) : guest(number)
    {
        guest.bring_up();
        pd = guest.create_pd();
        cq = guest.create_cq();
        buffer = guest.ram.pages(16);
        mr = guest.register_ram(pd, buffer, 16 * page_size);
    }
    virtio_rdma_sge sge(uint64_t offset, uint32_t length) const
    {
        return {buffer + offset, length, mr.lkey};
    }
    void fill(uint64_t offset, std::string_view text)
    {
        std::ranges::copy(std::as_bytes(std::span(text)),
                          guest.ram.bytes(buffer + offset, text.size()).begin());
    }
    std::string text(uint64_t offset, size_t size)
    {
        auto bytes = guest.ram.bytes(buffer + offset, size);
        return {reinterpret_cast<const char*>(bytes.data()), size};
    }

    VirtioGuest guest;
    uint32_t pd;
    GuestCq cq;
    uint64_t buffer;
    GuestMr mr;
    GuestQp qp;
};

class VirtioRdmaTraffic : public ::testing::Test {
protected:
    VirtioRdmaTraffic() { VirtioGuest::join(a.guest, b.guest); }
    void connect(const VirtioGuest::QpShape& shape = {})
    {
        a.qp = a.guest.create_qp(a.pd, a.cq, shape);
        b.qp = b.guest.create_qp(b.pd, b.cq, shape);
        a.guest.connect(a.qp, 2, b.qp.qpn);
        b.guest.connect(b.qp, 1, a.qp.qpn);
    }
    void open_datagrams(const VirtioGuest::QpShape& shape, uint32_t key)
    {
        a.qp = a.guest.create_qp(a.pd, a.cq, shape);
        b.qp = b.guest.create_qp(b.pd, b.cq, shape);
        a.guest.open(a.qp, key);
        b.guest.open(b.qp, key);
    }

    End a{1};
    End b{2};
};

// [virtio-rdma CTL-18]
TEST_F(VirtioRdmaTraffic, ASendArrivesInTheReceive)
{
    connect();
    a.fill(0, "hello");
    b.guest.post_receive(b.qp.rq, 7, {b.sge(100, 64)});
    a.guest.post(a.qp.sq, header(VIRTIO_RDMA_OP_SEND, 3, 1), {a.sge(0, 5)});
    EXPECT_TRUE(a.guest.kick(a.qp.sq));

    auto sent = a.guest.take(a.cq);
    EXPECT_EQ(sent.wr_id, 3u);
    EXPECT_EQ(sent.status, VIRTIO_RDMA_WC_SUCCESS);
    EXPECT_EQ(sent.opcode, VIRTIO_RDMA_WC_SEND);
    EXPECT_EQ(sent.qpn, a.qp.qpn);
    auto received = b.guest.take(b.cq);
    EXPECT_EQ(received.wr_id, 7u);
    EXPECT_EQ(received.status, VIRTIO_RDMA_WC_SUCCESS);
    EXPECT_EQ(received.opcode, VIRTIO_RDMA_WC_RECV);
    EXPECT_EQ(received.byte_len, 5u);
    EXPECT_EQ(received.qpn, b.qp.qpn);
    EXPECT_EQ(b.text(100, 5), "hello");
    EXPECT_FALSE(a.guest.poll(a.cq));
    EXPECT_FALSE(b.guest.poll(b.cq));
}

// [virtio-rdma REQ-11]
TEST_F(VirtioRdmaTraffic, BytesInlineNeedNoKey)
{
    connect();
    b.guest.post_receive(b.qp.rq, 7, {b.sge(0, 64)});
    std::string_view text = "carried by the entry itself";
    a.guest.post(a.qp.sq,
                 header(VIRTIO_RDMA_OP_SEND, 3, static_cast<uint16_t>(text.size()),
                        VIRTIO_RDMA_SEND_SIGNALED | VIRTIO_RDMA_SEND_INLINE),
                 std::as_bytes(std::span(text)));
    a.guest.kick(a.qp.sq);
    EXPECT_EQ(a.guest.take(a.cq).status, VIRTIO_RDMA_WC_SUCCESS);
    EXPECT_EQ(b.guest.take(b.cq).byte_len, text.size());
    EXPECT_EQ(b.text(0, text.size()), text);
}

// [virtio-rdma REQ-11]
TEST_F(VirtioRdmaTraffic, BytesInlineAreSentAgainAsTheyWere)
{
    connect();
    std::string_view text = "lost at first";
    a.guest.drops_frames = true;
    b.guest.post_receive(b.qp.rq, 7, {b.sge(0, 64)});
    a.guest.post(a.qp.sq,
                 header(VIRTIO_RDMA_OP_SEND, 3, static_cast<uint16_t>(text.size()),
                        VIRTIO_RDMA_SEND_SIGNALED | VIRTIO_RDMA_SEND_INLINE),
                 std::as_bytes(std::span(text)));
    a.guest.kick(a.qp.sq);
    std::ranges::fill(a.guest.entry(a.qp.sq, 0), std::byte{0}); // the slot is free again
    a.guest.drops_frames = false;
    ASSERT_TRUE(a.guest.run_timer());
    EXPECT_EQ(a.guest.take(a.cq).status, VIRTIO_RDMA_WC_SUCCESS);
    EXPECT_EQ(b.text(0, text.size()), text);
}

TEST_F(VirtioRdmaTraffic, CountersTellWhatLossHasDone)
{
    connect();
    auto counter = [](End& end, virtio_rdma_counter which) {
        auto [status, reply] =
            end.guest.ask<virtio_rdma_counters>(virtio_rdma_request{VIRTIO_RDMA_QUERY_COUNTERS, 0});
        EXPECT_EQ(status, VIRTIO_RDMA_OK);
        return reply.counters[which];
    };
    auto write = [&] {
        a.guest.post(a.qp.sq,
                     virtio_rdma_sq_rdma{header(VIRTIO_RDMA_OP_WRITE, 1, 1), b.buffer, b.mr.rkey, 0},
                     {a.sge(0, 8)});
        a.guest.kick(a.qp.sq);
    };
    a.guest.drops_frames = true;
    write();
    a.guest.drops_frames = false;
    write();
    EXPECT_EQ(counter(b, VIRTIO_RDMA_OUT_OF_SEQUENCE), 1u);
    EXPECT_EQ(counter(a, VIRTIO_RDMA_SEQUENCE_NAKS), 1u);
    EXPECT_EQ(a.guest.take(a.cq).status, VIRTIO_RDMA_WC_SUCCESS);
    EXPECT_EQ(a.guest.take(a.cq).status, VIRTIO_RDMA_WC_SUCCESS);
    EXPECT_EQ(counter(a, VIRTIO_RDMA_TIMEOUTS), 0u);
    a.guest.drops_frames = true;
    write();
    uint64_t timers = 0;
    while (a.guest.run_timer()) {
        ++timers;
    }
    EXPECT_EQ(a.guest.take(a.cq).status, VIRTIO_RDMA_WC_RETRY_EXC_ERR);
    EXPECT_EQ(counter(a, VIRTIO_RDMA_TIMEOUTS), timers);
    EXPECT_EQ(counter(a, VIRTIO_RDMA_RETRIES_EXCEEDED), 1u);
}

TEST_F(VirtioRdmaTraffic, WriteReadAndAtomicsReachThePeersMemory)
{
    connect();
    a.fill(0, "written!");
    a.guest.post(a.qp.sq,
                 virtio_rdma_sq_rdma{header(VIRTIO_RDMA_OP_WRITE, 1, 1), b.buffer, b.mr.rkey, 0},
                 {a.sge(0, 8)});
    a.guest.post(a.qp.sq,
                 virtio_rdma_sq_rdma{header(VIRTIO_RDMA_OP_READ, 2, 1), b.buffer, b.mr.rkey, 0},
                 {a.sge(64, 8)});
    a.guest.post(a.qp.sq,
                 virtio_rdma_sq_atomic{header(VIRTIO_RDMA_OP_FETCH_ADD, 3, 1), b.buffer + 128, 5, 0,
                                       b.mr.rkey, 0},
                 {a.sge(128, 8)});
    a.guest.post(a.qp.sq,
                 virtio_rdma_sq_atomic{header(VIRTIO_RDMA_OP_CMP_SWAP, 4, 1), b.buffer + 128, 5, 9,
                                       b.mr.rkey, 0},
                 {a.sge(136, 8)});
    a.guest.kick(a.qp.sq);
    const std::pair<uint8_t, uint32_t> expected[] = {{VIRTIO_RDMA_WC_WRITE, 0},
                                                     {VIRTIO_RDMA_WC_READ, 8},
                                                     {VIRTIO_RDMA_WC_FETCH_ADD, 8},
                                                     {VIRTIO_RDMA_WC_CMP_SWAP, 8}};
    for (auto [opcode, length] : expected) {
        auto entry = a.guest.take(a.cq);
        EXPECT_EQ(entry.status, VIRTIO_RDMA_WC_SUCCESS);
        EXPECT_EQ(entry.opcode, opcode);
        EXPECT_EQ(entry.byte_len, length);
    }
    EXPECT_EQ(b.text(0, 8), "written!");
    EXPECT_EQ(a.text(64, 8), "written!");
    EXPECT_EQ(a.guest.ram.at<uint64_t>(a.buffer + 128), 0u);
    EXPECT_EQ(a.guest.ram.at<uint64_t>(a.buffer + 136), 5u);
    EXPECT_EQ(b.guest.ram.at<uint64_t>(b.buffer + 128), 9u);
}

TEST_F(VirtioRdmaTraffic, ImmediateDataStandsAsItGoesOverTheWire)
{
    connect();
    b.guest.post_receive(b.qp.rq, 7, {});
    virtio_rdma_sq_rdma write{header(VIRTIO_RDMA_OP_WRITE_IMM, 1, 1), b.buffer, b.mr.rkey, 0};
    write.entry.imm_data = 0x04030201;
    a.fill(0, "data");
    a.guest.post(a.qp.sq, write, {a.sge(0, 4)});
    a.guest.kick(a.qp.sq);
    auto received = b.guest.take(b.cq);
    EXPECT_EQ(received.opcode, VIRTIO_RDMA_WC_RECV_WRITE_IMM);
    EXPECT_EQ(received.flags, VIRTIO_RDMA_WC_IMM);
    EXPECT_EQ(received.imm_data, 0x04030201u);
    EXPECT_EQ(received.byte_len, 4u);
    EXPECT_EQ(b.text(0, 4), "data");
}

// [virtio-rdma CTL-13] [virtio-rdma REQ-16]
TEST_F(VirtioRdmaTraffic, FastRegistrationAndInvalidationByThePeer)
{
    connect();
    GuestMr region = b.guest.create_mr({{VIRTIO_RDMA_CREATE_MR, b.pd},
                                        VIRTIO_RDMA_MR_FAST_REGISTRATION, 12, 0, 0, 0,
                                        4 * page_size});
    EXPECT_EQ(region.lkey, region.rkey);
    uint64_t array = b.guest.ram.pages(1);
    b.guest.ram.at<uint64_t>(array) = b.buffer;
    uint32_t key = (region.rkey & ~0xffu) | 0x5a;
    virtio_rdma_sq_registration registration{
        header(VIRTIO_RDMA_OP_FAST_REGISTRATION, 1, 0), 0x10000, page_size, array, key,
        VIRTIO_RDMA_LOCAL_WRITE | VIRTIO_RDMA_REMOTE_WRITE, 12, 0};
    b.guest.post(b.qp.sq, registration);
    b.guest.kick(b.qp.sq);
    auto registered = b.guest.take(b.cq);
    EXPECT_EQ(registered.status, VIRTIO_RDMA_WC_SUCCESS);
    EXPECT_EQ(registered.opcode, VIRTIO_RDMA_WC_FAST_REGISTRATION);

    a.fill(0, "through the new key");
    b.guest.post_receive(b.qp.rq, 7, {});
    a.guest.post(a.qp.sq, virtio_rdma_sq_rdma{header(VIRTIO_RDMA_OP_WRITE, 1, 1), 0x10000, key, 0},
                 {a.sge(0, 19)});
    auto send = header(VIRTIO_RDMA_OP_SEND_INV, 2, 0);
    send.key = key;
    a.guest.post(a.qp.sq, send);
    a.guest.kick(a.qp.sq);
    EXPECT_EQ(a.guest.take(a.cq).status, VIRTIO_RDMA_WC_SUCCESS);
    EXPECT_EQ(a.guest.take(a.cq).status, VIRTIO_RDMA_WC_SUCCESS);
    EXPECT_EQ(b.text(0, 19), "through the new key");
    auto received = b.guest.take(b.cq);
    EXPECT_EQ(received.flags, VIRTIO_RDMA_WC_INVALIDATED);
    EXPECT_EQ(received.key, key);
}

TEST_F(VirtioRdmaTraffic, ADatagramHasItsHeadersBeforeItsData)
{
    open_datagrams({.type = VIRTIO_RDMA_QP_UD, .sq_entry_size = 128}, qkey);
    b.guest.post_receive(b.qp.rq, 7, {b.sge(0, 256)});
    a.fill(0, "datagram");
    virtio_rdma_sq_datagram send{header(VIRTIO_RDMA_OP_SEND, 3, 1), b.qp.qpn, qkey,
                                 a.guest.address_of(2)};
    a.guest.post(a.qp.sq, send, {a.sge(0, 8)});
    a.guest.kick(a.qp.sq);
    EXPECT_EQ(a.guest.take(a.cq).status, VIRTIO_RDMA_WC_SUCCESS);
    auto received = b.guest.take(b.cq);
    EXPECT_EQ(received.status, VIRTIO_RDMA_WC_SUCCESS);
    EXPECT_EQ(received.flags, VIRTIO_RDMA_WC_GRH);
    EXPECT_EQ(received.byte_len, 48u);
    EXPECT_EQ(received.src_qpn, a.qp.qpn);
    EXPECT_EQ(received.network, VIRTIO_RDMA_NETWORK_IPV4);
    EXPECT_TRUE(std::ranges::equal(received.smac, VirtioGuest::mac_of(1)));
    EXPECT_EQ(b.text(20, 1)[0], 0x45); // of the IPv4 header
    EXPECT_EQ(b.text(40, 8), "datagram");
}

TEST_F(VirtioRdmaTraffic, ADatagramIsAsLongAsTheCardsMtuAllowsWhereThatIsKnown)
{
    open_datagrams({.type = VIRTIO_RDMA_QP_UD, .sq_entry_size = 128}, qkey);
    auto send = [&](uint32_t length) {
        b.guest.post_receive(b.qp.rq, 7, {b.sge(0, 40 + 4096)});
        virtio_rdma_sq_datagram entry{header(VIRTIO_RDMA_OP_SEND, 3, 1), b.qp.qpn, qkey,
                                      a.guest.address_of(2)};
        a.guest.post(a.qp.sq, entry, {a.sge(0, length)});
        a.guest.kick(a.qp.sq);
        return a.guest.take(a.cq).status;
    };
    a.guest.card_mtu = 0;
    EXPECT_EQ(send(4096), VIRTIO_RDMA_WC_SUCCESS);
    EXPECT_EQ(b.guest.take(b.cq).byte_len, 40u + 4096);
    a.guest.card_mtu = 1500;
    EXPECT_EQ(send(4096), VIRTIO_RDMA_WC_LOC_LEN_ERR);
}

TEST_F(VirtioRdmaTraffic, TheGsiQueuePairTakesMads)
{
    open_datagrams({.type = VIRTIO_RDMA_QP_GSI, .sq_entry_size = 128}, gsi_qkey);
    EXPECT_EQ(a.qp.qpn, 1u);
    b.guest.post_receive(b.qp.rq, 7, {b.sge(0, 512)});
    virtio_rdma_sq_datagram send{header(VIRTIO_RDMA_OP_SEND, 3, 1), VIRTIO_RDMA_GSI_QPN, gsi_qkey,
                                 a.guest.address_of(2)};
    a.guest.post(a.qp.sq, send, {a.sge(0, 256)});
    a.guest.kick(a.qp.sq);
    auto received = b.guest.take(b.cq);
    EXPECT_EQ(received.status, VIRTIO_RDMA_WC_SUCCESS);
    EXPECT_EQ(received.byte_len, 296u);
    EXPECT_EQ(received.src_qpn, 1u);
}

TEST_F(VirtioRdmaTraffic, ASharedReceiveQueueTellsOfItsLimitOnce)
{
    GuestWorkQueue srq = b.guest.create_srq(b.pd);
    a.qp = a.guest.create_qp(a.pd, a.cq);
    b.qp = b.guest.create_qp(b.pd, b.cq, {.flags = VIRTIO_RDMA_QP_USES_SRQ, .srq = srq.number});
    a.guest.connect(a.qp, 2, b.qp.qpn);
    b.guest.connect(b.qp, 1, a.qp.qpn);
    for (uint64_t i = 0; i < 3; ++i) {
        b.guest.post_receive(srq, i, {b.sge(64 * i, 64)});
    }
    EXPECT_EQ(b.guest.ask(virtio_rdma_arm_srq{{VIRTIO_RDMA_ARM_SRQ, srq.number}, 2, 0}).first,
              VIRTIO_RDMA_OK);
    for (unsigned i = 0; i < 3; ++i) {
        a.guest.post(a.qp.sq, header(VIRTIO_RDMA_OP_SEND, i, 1), {a.sge(0, 8)});
        a.guest.kick(a.qp.sq);
        EXPECT_EQ(b.guest.take(b.cq).wr_id, i);
    }
    auto event = b.guest.event();
    ASSERT_TRUE(event);
    EXPECT_EQ(event->type, VIRTIO_RDMA_EVENT_SRQ_LIMIT);
    EXPECT_EQ(event->object, srq.number);
    EXPECT_FALSE(b.guest.event());
    auto [status, reply] = b.guest.ask<virtio_rdma_query_srq_reply>(
        virtio_rdma_request{VIRTIO_RDMA_QUERY_SRQ, srq.number});
    EXPECT_EQ(status, VIRTIO_RDMA_OK);
    EXPECT_EQ(reply.limit, 0u);
}

// [virtio-rdma QUE-5] [virtio-rdma REQ-5]
TEST_F(VirtioRdmaTraffic, WhatIsPostedInErrorIsFlushedHoweverMuchThereWas)
{
    connect({.sq_entries = 4, .rq_entries = 4});
    for (uint64_t i = 0; i < 4; ++i) {
        a.guest.post_receive(a.qp.rq, i, {});
    }
    ASSERT_EQ(a.guest.to_state(a.qp, VIRTIO_RDMA_QP_ERR), VIRTIO_RDMA_OK);
    for (uint64_t i = 0; i < 4; ++i) {
        EXPECT_EQ(a.guest.take(a.cq).status, VIRTIO_RDMA_WC_WR_FLUSH_ERR);
    }
    for (uint64_t i = 10; i < 40; ++i) {
        a.guest.post(a.qp.sq, header(VIRTIO_RDMA_OP_SEND, i, 0));
        EXPECT_TRUE(a.guest.kick(a.qp.sq));
        auto sent = a.guest.take(a.cq);
        EXPECT_EQ(sent.wr_id, i);
        EXPECT_EQ(sent.status, VIRTIO_RDMA_WC_WR_FLUSH_ERR);
        a.guest.post_receive(a.qp.rq, i, {});
        EXPECT_EQ(a.guest.take(a.cq).wr_id, i);
    }
}

// [virtio-rdma QUE-5]
TEST_F(VirtioRdmaTraffic, ADoorbellIsWantedByADeviceThatWaitsAlone)
{
    connect();
    a.guest.drops_frames = true;
    a.guest.post(a.qp.sq, header(VIRTIO_RDMA_OP_SEND, 0, 0));
    EXPECT_TRUE(a.guest.kick(a.qp.sq));
    // It has looked for the next one and waits.
    EXPECT_EQ(a.guest.state(a.qp.sq).doorbell, 1u);
    a.guest.post(a.qp.sq, header(VIRTIO_RDMA_OP_SEND, 1, 0));
    EXPECT_TRUE(a.guest.kick(a.qp.sq));
    // A receive queue is looked at when a message comes.
    b.guest.post_receive(b.qp.rq, 0, {});
    unsigned doorbells = b.guest.doorbells;
    for (uint64_t i = 1; i < 10; ++i) {
        b.guest.post_receive(b.qp.rq, i, {});
    }
    EXPECT_EQ(b.guest.doorbells, doorbells);
}

// [virtio-rdma QUE-20]
TEST_F(VirtioRdmaTraffic, AnArmedQueueSendsOneEvent)
{
    connect();
    a.guest.arm(a.cq);
    for (unsigned i = 0; i < 3; ++i) {
        a.guest.post(a.qp.sq,
                     virtio_rdma_sq_rdma{header(VIRTIO_RDMA_OP_WRITE, i, 0), 0, 0, 0});
    }
    a.guest.kick(a.qp.sq);
    EXPECT_EQ(a.guest.irqs[VIRTIO_RDMA_VQ_COMPLETION], 1u);
    EXPECT_EQ(a.guest.completion_event(), a.cq.number);
    EXPECT_FALSE(a.guest.completion_event());
    EXPECT_EQ(a.guest.state(a.cq).notified, a.guest.state(a.cq).arm);
}

} // namespace
} // namespace rdma::test
