// SPDX-License-Identifier: GPL-2.0-or-later
//
// A virtio RDMA device that is saved in the middle of traffic goes on where it is loaded.
#include <gtest/gtest.h>

#include "virtio_rdma_guest.h"

namespace rdma::test {
namespace {

virtio_rdma_sq_entry send_entry(uint64_t wr_id, uint16_t count, uint8_t flags = 0)
{
    virtio_rdma_sq_entry entry{};
    entry.wr_id = wr_id;
    entry.opcode = VIRTIO_RDMA_OP_SEND;
    entry.flags = static_cast<uint8_t>(flags | VIRTIO_RDMA_SEND_SIGNALED);
    entry.count = count;
    return entry;
}

class VirtioRdmaState : public ::testing::Test {
protected:
    VirtioRdmaState()
    {
        VirtioGuest::join(a, b);
        for (VirtioGuest* guest : {&a, &b}) {
            guest->bring_up();
        }
        pd = a.create_pd();
        cq = a.create_cq();
        qp = a.create_qp(pd, cq, {.sq_entry_size = 4096});
        peer_pd = b.create_pd();
        peer_cq = b.create_cq();
        peer_qp = b.create_qp(peer_pd, peer_cq);
        buffer = b.ram.pages(1);
        mr = b.register_ram(peer_pd, buffer, page_size);
        a.connect(qp, 2, peer_qp.qpn);
        b.connect(peer_qp, 1, qp.qpn);
    }
    // The state of a, in another device over the same memory.
    void move()
    {
        a.stop();
        auto saved = a.save();
        ASSERT_EQ(a.load(saved), "");
        EXPECT_EQ(a.save(), saved);
        a.start();
    }

    VirtioGuest a{1};
    VirtioGuest b{2};
    uint32_t pd, peer_pd;
    GuestCq cq, peer_cq;
    GuestQp qp, peer_qp;
    uint64_t buffer;
    GuestMr mr;
};

TEST_F(VirtioRdmaState, BytesInlineThatAreOnTheirWayComeAlong)
{
    std::vector<std::byte> data(1500); // of two packets
    for (size_t i = 0; i < data.size(); ++i) {
        data[i] = static_cast<std::byte>(i * 7);
    }
    VirtioRdmaConfig config = VirtioGuest::defaults();
    ASSERT_GE(config.max_inline, 500u);
    data.resize(config.max_inline);
    b.post_receive(peer_qp.rq, 7, {{buffer, page_size, mr.lkey}});
    a.drops_frames = true;
    a.post(qp.sq, send_entry(3, static_cast<uint16_t>(data.size()), VIRTIO_RDMA_SEND_INLINE), data);
    a.kick(qp.sq);
    a.post(qp.sq, send_entry(4, 0));
    a.kick(qp.sq);
    a.drops_frames = false;
    b.post_receive(peer_qp.rq, 8, {});
    move();
    EXPECT_EQ(a.take(cq).wr_id, 3u);
    EXPECT_EQ(a.take(cq).wr_id, 4u);
    EXPECT_EQ(b.take(peer_cq).byte_len, data.size());
    EXPECT_TRUE(std::ranges::equal(b.ram.bytes(buffer, data.size()), data));
}

TEST_F(VirtioRdmaState, IndicesAndPhasesGoOn)
{
    for (uint64_t i = 0; i < 100; ++i) {
        if (i % 10 == 5) {
            move();
        }
        b.post_receive(peer_qp.rq, i, {});
        a.post(qp.sq, send_entry(i, 0));
        EXPECT_TRUE(a.kick(qp.sq)) << i;
        EXPECT_EQ(a.take(cq).wr_id, i);
        EXPECT_EQ(b.take(peer_cq).wr_id, i);
    }
}

// [virtio-rdma MIG-2]
TEST_F(VirtioRdmaState, EntriesPostedWhileItWasStoppedNeedNoDoorbell)
{
    b.post_receive(peer_qp.rq, 1, {});
    a.stop();
    a.post(qp.sq, send_entry(1, 0));
    auto saved = a.save();
    ASSERT_EQ(a.load(saved), "");
    a.start();
    EXPECT_EQ(a.take(cq).wr_id, 1u);
}

// [virtio-rdma EVT-3] [virtio-rdma EVT-8] [virtio-rdma MIG-2]
TEST_F(VirtioRdmaState, EventsWithoutABufferComeAlong)
{
    a.arm(cq);
    b.post_receive(peer_qp.rq, 1, {});
    a.post(qp.sq, send_entry(1, 0));
    a.kick(qp.sq);
    // An entry that is no memory of the queue's any more: the producer makes no sense.
    a.state(qp.sq).producer += 1000;
    a.ring(qp.sq);
    a.irqs.clear();
    move();
    EXPECT_EQ(a.irqs[VIRTIO_RDMA_VQ_EVENT], 1u);
    EXPECT_EQ(a.irqs[VIRTIO_RDMA_VQ_COMPLETION], 1u);
    EXPECT_EQ(a.completion_event(), cq.number);
    auto event = a.event();
    ASSERT_TRUE(event);
    EXPECT_EQ(event->type, VIRTIO_RDMA_EVENT_QP_FATAL);
    EXPECT_EQ(event->object, qp.qpn);
    EXPECT_FALSE(a.event());
    EXPECT_EQ(a.query(qp).state, VIRTIO_RDMA_QP_ERR);
}

// [virtio-rdma CTL-9]
TEST_F(VirtioRdmaState, NumbersAreNotGivenAgainAfterwards)
{
    uint32_t destroyed = a.create_pd();
    ASSERT_EQ(a.simple(VIRTIO_RDMA_DESTROY_PD, destroyed), VIRTIO_RDMA_OK);
    ASSERT_EQ(a.simple(VIRTIO_RDMA_CREATE_CONTEXT, 5), VIRTIO_RDMA_OK);
    GuestQp other = a.create_qp(pd, cq, {.context = 5});
    move();
    EXPECT_GT(a.create_pd(), destroyed);
    EXPECT_EQ(a.simple(VIRTIO_RDMA_DESTROY_CONTEXT, 5), VIRTIO_RDMA_ERR_BUSY);
    EXPECT_EQ(a.simple(VIRTIO_RDMA_DESTROY_QP, other.qpn), VIRTIO_RDMA_OK);
    EXPECT_EQ(a.simple(VIRTIO_RDMA_DESTROY_CONTEXT, 5), VIRTIO_RDMA_OK);
    EXPECT_EQ(a.add_gid(0, 1), VIRTIO_RDMA_ERR_BUSY);
}

// [virtio-rdma MIG-5]
TEST_F(VirtioRdmaState, AStateThatIsCutShortLeavesNothingBehind)
{
    a.stop();
    auto saved = a.save();
    for (size_t size = 0; size < saved.size(); size += 13) {
        ASSERT_NE(a.load(std::span(saved).first(size)), "") << size;
        EXPECT_EQ(a.statistic("qps"), 0u);
        EXPECT_EQ(a.statistic("cqs"), 0u);
    }
    EXPECT_EQ(a.load(saved), "");
}

} // namespace
} // namespace rdma::test
