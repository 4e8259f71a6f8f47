// SPDX-License-Identifier: GPL-2.0-or-later
//
// The control queue as docs/virtio-rdma/control.md has it: lengths, statuses, contexts, events.
#include <gtest/gtest.h>

#include "virtio_rdma_guest.h"

namespace rdma::test {
namespace {

struct CommandShape {
    uint32_t command;
    size_t request; // bytes
    bool has_addresses;
    size_t reply;
};
// By hand from the specification.
constexpr CommandShape commands[] = {
    {0, 8, false, 96},  {1, 8, false, 88},  {2, 8, false, 8},   {3, 8, false, 8},
    {4, 8, false, 8},   {5, 8, false, 8},   {6, 32, true, 16},  {7, 8, false, 8},
    {8, 24, true, 8},   {9, 8, false, 8},   {10, 24, true, 8},  {11, 16, false, 8},
    {12, 8, false, 16}, {13, 8, false, 8},  {14, 56, true, 8},  {15, 76, false, 8},
    {16, 8, false, 76}, {17, 8, false, 8},  {18, 32, false, 8}, {19, 8, false, 8},
};

uint32_t status_of(std::span<const uint8_t> reply)
{
    uint32_t status;
    std::memcpy(&status, reply.data(), sizeof(status));
    return status;
}

class VirtioRdmaControl : public ::testing::Test {
protected:
    VirtioRdmaControl() { guest.bring_up(); }
    std::vector<uint8_t> request_of(uint32_t command, uint32_t object, size_t size)
    {
        std::vector<uint8_t> bytes(size);
        virtio_rdma_request header{command, object};
        std::memcpy(bytes.data(), &header, std::min(size, sizeof(header)));
        return bytes;
    }

    VirtioGuest guest{1};
};

// [virtio-rdma CTL-6]
TEST_F(VirtioRdmaControl, ARequestOrReplyOfAnotherLengthIsAnsweredSoAndChangesNothing)
{
    for (const auto& shape : commands) {
        SCOPED_TRACE(shape.command);
        for (size_t size = 8; size < shape.request; ++size) {
            auto reply = guest.send(request_of(shape.command, 0, size), 256);
            ASSERT_EQ(reply.size(), 8u);
            EXPECT_EQ(status_of(reply), VIRTIO_RDMA_ERR_LENGTH) << size;
        }
        if (!shape.has_addresses) {
            EXPECT_EQ(status_of(guest.send(request_of(shape.command, 0, shape.request + 1), 256)),
                      VIRTIO_RDMA_ERR_LENGTH);
        }
        for (size_t room = 8; room < shape.reply; ++room) {
            EXPECT_EQ(status_of(guest.send(request_of(shape.command, 0, shape.request), room)),
                      VIRTIO_RDMA_ERR_LENGTH)
                << room;
        }
        for (size_t room = 0; room < 8; ++room) {
            EXPECT_EQ(guest.send(request_of(shape.command, 0, shape.request), room).size(), 0u);
        }
    }
    EXPECT_EQ(guest.statistic("pds"), 0u);
    EXPECT_EQ(guest.statistic("contexts"), 0u);
}

TEST_F(VirtioRdmaControl, AnUnknownCommandIsAnsweredSo)
{
    for (uint32_t command : {20u, 21u, 0x80000000u, UINT32_MAX}) {
        EXPECT_EQ(status_of(guest.send(request_of(command, 0, 8), 256)), VIRTIO_RDMA_ERR_COMMAND);
    }
}

TEST_F(VirtioRdmaControl, ANumberOfNoObjectIsAnsweredSo)
{
    for (uint32_t command : {VIRTIO_RDMA_DESTROY_CONTEXT, VIRTIO_RDMA_DESTROY_PD,
                             VIRTIO_RDMA_DESTROY_MR, VIRTIO_RDMA_DESTROY_CQ,
                             VIRTIO_RDMA_QUERY_SRQ, VIRTIO_RDMA_DESTROY_SRQ, VIRTIO_RDMA_QUERY_QP,
                             VIRTIO_RDMA_DESTROY_QP, VIRTIO_RDMA_DELETE_GID}) {
        EXPECT_EQ(status_of(guest.send(request_of(command, 63, 8), 256)), VIRTIO_RDMA_ERR_OBJECT)
            << command;
    }
    EXPECT_EQ(guest.ask(virtio_rdma_arm_srq{{VIRTIO_RDMA_ARM_SRQ, 63}, 0, 0}).first,
              VIRTIO_RDMA_ERR_OBJECT);
    EXPECT_EQ(guest.ask(virtio_rdma_modify_qp{{VIRTIO_RDMA_MODIFY_QP, 63}, {}}).first,
              VIRTIO_RDMA_ERR_OBJECT);
}

TEST_F(VirtioRdmaControl, CommandsOfAFeatureThatWasNotNegotiatedAreNotKnown)
{
    rdma_device_set_features(guest.handle(), 0);
    uint32_t pd = guest.create_pd();
    for (uint32_t command : {VIRTIO_RDMA_CREATE_SRQ, VIRTIO_RDMA_ARM_SRQ, VIRTIO_RDMA_QUERY_SRQ,
                             VIRTIO_RDMA_DESTROY_SRQ}) {
        EXPECT_EQ(guest.simple(command, 1), VIRTIO_RDMA_ERR_COMMAND);
    }
    auto limits = guest.limits();
    EXPECT_EQ(limits.max_srq, 0u);
    EXPECT_EQ(limits.max_srq_entries, 0u);
    EXPECT_EQ(limits.max_fast_registration_pages, 0u);
    virtio_rdma_create_mr fast{{VIRTIO_RDMA_CREATE_MR, pd}, VIRTIO_RDMA_MR_FAST_REGISTRATION, 12,
                               0, 0, 0, page_size};
    EXPECT_EQ(guest.ask<virtio_rdma_create_mr_reply>(fast).first, VIRTIO_RDMA_ERR_INVALID);
    virtio_rdma_create_mr atomic{{VIRTIO_RDMA_CREATE_MR, pd}, VIRTIO_RDMA_MR_PAGES, 12, 0,
                                 VIRTIO_RDMA_LOCAL_WRITE | VIRTIO_RDMA_REMOTE_ATOMIC, Ram::base,
                                 page_size};
    EXPECT_EQ(guest.ask<virtio_rdma_create_mr_reply>(atomic, std::array{Ram::base}).first,
              VIRTIO_RDMA_ERR_INVALID);
}

TEST_F(VirtioRdmaControl, WhatIsInUseIsNotDestroyed)
{
    uint32_t pd = guest.create_pd();
    GuestCq cq = guest.create_cq();
    ASSERT_EQ(guest.simple(VIRTIO_RDMA_CREATE_CONTEXT, 3), VIRTIO_RDMA_OK);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_CREATE_CONTEXT, 3), VIRTIO_RDMA_ERR_BUSY);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_CREATE_CONTEXT, 0), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_CREATE_CONTEXT, 512), VIRTIO_RDMA_ERR_INVALID);
    GuestWorkQueue srq = guest.create_srq(pd);
    GuestQp qp = guest.create_qp(
        pd, cq, {.flags = VIRTIO_RDMA_QP_USES_SRQ, .context = 3, .srq = srq.number});
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_DESTROY_PD, pd), VIRTIO_RDMA_ERR_BUSY);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_DESTROY_CQ, cq.number), VIRTIO_RDMA_ERR_BUSY);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_DESTROY_SRQ, srq.number), VIRTIO_RDMA_ERR_BUSY);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_DESTROY_CONTEXT, 3), VIRTIO_RDMA_ERR_BUSY);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_DESTROY_QP, qp.qpn), VIRTIO_RDMA_OK);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_DESTROY_SRQ, srq.number), VIRTIO_RDMA_OK);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_DESTROY_CQ, cq.number), VIRTIO_RDMA_OK);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_DESTROY_PD, pd), VIRTIO_RDMA_OK);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_DESTROY_CONTEXT, 3), VIRTIO_RDMA_OK);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_DESTROY_PD, pd), VIRTIO_RDMA_ERR_OBJECT);
    // [virtio-rdma CTL-9]
    EXPECT_GT(guest.create_pd(), pd); // CTL-9
}

TEST_F(VirtioRdmaControl, RegionsThatMayNotBeAreRefused)
{
    uint32_t pd = guest.create_pd();
    uint64_t page = guest.ram.pages(2);
    auto status = [&](auto change, std::vector<uint64_t> pages) {
        virtio_rdma_create_mr request{{VIRTIO_RDMA_CREATE_MR, pd}, VIRTIO_RDMA_MR_PAGES, 12, 0,
                                      VIRTIO_RDMA_LOCAL_WRITE, page, page_size};
        change(request);
        return guest.ask<virtio_rdma_create_mr_reply>(request, pages).first;
    };
    using Mr = virtio_rdma_create_mr;
    EXPECT_EQ(status([](Mr&) {}, {page}), VIRTIO_RDMA_OK);
    EXPECT_EQ(status([](Mr&) {}, {}), VIRTIO_RDMA_ERR_LENGTH);
    EXPECT_EQ(status([](Mr&) {}, {page, page}), VIRTIO_RDMA_ERR_LENGTH);
    EXPECT_EQ(status([](Mr& m) { m.iova += 1; }, {page}), VIRTIO_RDMA_ERR_LENGTH);
    EXPECT_EQ(status([](Mr& m) { m.length = 0; }, {page}), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(status([](Mr& m) { m.iova = UINT64_MAX; }, {page}), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(status([](Mr& m) { m.type = 3; }, {page}), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(status([](Mr& m) { m.page_shift = 13; }, {page}), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(status([](Mr& m) { m.reserved = 1; }, {page}), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(status([](Mr& m) { m.access = VIRTIO_RDMA_REMOTE_WRITE; }, {page}),
              VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(status([](Mr& m) { m.access = 16; }, {page}), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(status([](Mr&) {}, {page + 8}), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(status([](Mr& m) { m.request.object = 77; }, {page}), VIRTIO_RDMA_ERR_OBJECT);
    EXPECT_EQ(status([](Mr&) {}, {uint64_t{1} << 40}), VIRTIO_RDMA_ERR_ADDRESS);
    auto dma = [](Mr& m) {
        m.type = VIRTIO_RDMA_MR_DMA;
        m.iova = m.length = 0;
    };
    EXPECT_EQ(status(dma, {}), VIRTIO_RDMA_OK);
    EXPECT_EQ(status([&](Mr& m) { dma(m); m.access |= VIRTIO_RDMA_REMOTE_READ; }, {}),
              VIRTIO_RDMA_ERR_INVALID);
}

// [virtio-rdma REQ-3]
TEST_F(VirtioRdmaControl, TransitionsThatDoNotExistAreToldFromAttributesThatDoNotFit)
{
    uint32_t pd = guest.create_pd();
    GuestCq cq = guest.create_cq();
    GuestQp qp = guest.create_qp(pd, cq);
    EXPECT_EQ(guest.to_state(qp, VIRTIO_RDMA_QP_RTR), VIRTIO_RDMA_ERR_STATE);
    EXPECT_EQ(guest.to_state(qp, VIRTIO_RDMA_QP_INIT), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(guest.to_state(qp, 7), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(guest.modify(qp, {.mask = 1u << 14}), VIRTIO_RDMA_ERR_INVALID);
    guest.connect(qp, 2, 5, VIRTIO_RDMA_QP_INIT);
    EXPECT_EQ(guest.query(qp).state, VIRTIO_RDMA_QP_INIT);
    EXPECT_EQ(guest.query(qp).path_mtu, 0u);
    // [virtio-rdma CTL-19]
    // The path MTU is the driver's to know, whatever the network's is.
    virtio_rdma_qp_attributes rtr{};
    rtr.mask = VIRTIO_RDMA_ATTR_STATE | VIRTIO_RDMA_ATTR_AV | VIRTIO_RDMA_ATTR_PATH_MTU |
               VIRTIO_RDMA_ATTR_DEST_QPN | VIRTIO_RDMA_ATTR_RQ_PSN |
               VIRTIO_RDMA_ATTR_MAX_DEST_RD_ATOMIC | VIRTIO_RDMA_ATTR_MIN_RNR_TIMER;
    rtr.state = VIRTIO_RDMA_QP_RTR;
    rtr.path_mtu = VIRTIO_RDMA_MTU_4096;
    rtr.av = guest.address_of(2, 1);
    EXPECT_EQ(guest.modify(qp, rtr), VIRTIO_RDMA_ERR_INVALID); // no such GID
    rtr.av.sgid_index = 0;
    EXPECT_EQ(guest.modify(qp, rtr), VIRTIO_RDMA_OK);
    EXPECT_EQ(guest.query(qp).path_mtu, VIRTIO_RDMA_MTU_4096);
    EXPECT_EQ(guest.modify(qp, {.mask = VIRTIO_RDMA_ATTR_STATE | VIRTIO_RDMA_ATTR_CURRENT_STATE,
                                .state = VIRTIO_RDMA_QP_ERR,
                                .current_state = VIRTIO_RDMA_QP_RTS}),
              VIRTIO_RDMA_ERR_STATE);
    EXPECT_EQ(guest.to_state(qp, VIRTIO_RDMA_QP_SQE), VIRTIO_RDMA_ERR_STATE);
    EXPECT_EQ(guest.query(qp).state, VIRTIO_RDMA_QP_RTR);
}

TEST_F(VirtioRdmaControl, GidsAreCheckedAndNotReplaced)
{
    auto add = [&](uint32_t index, auto change) {
        virtio_rdma_add_gid request{{VIRTIO_RDMA_ADD_GID, index}, {}, {}, VIRTIO_RDMA_NO_VLAN};
        std::ranges::copy(VirtioGuest::gid_of(9).raw, request.gid);
        std::ranges::copy(VirtioGuest::mac_of(9), request.mac);
        change(request);
        return guest.ask(request).first;
    };
    using Gid = virtio_rdma_add_gid;
    EXPECT_EQ(add(0, [](Gid&) {}), VIRTIO_RDMA_ERR_BUSY);
    EXPECT_EQ(add(64, [](Gid&) {}), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(add(1, [](Gid& g) { g.gid[0] = 0xff; }), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(add(1, [](Gid& g) { g.gid[12] = 224; }), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(add(1, [](Gid& g) { std::ranges::fill(g.gid, uint8_t{0}); }),
              VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(add(1, [](Gid& g) { g.mac[0] |= 1; }), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(add(1, [](Gid& g) { std::ranges::fill(g.mac, uint8_t{0}); }),
              VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(add(1, [](Gid& g) { g.vlan = 0; }), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(add(1, [](Gid& g) { g.vlan = 4095; }), VIRTIO_RDMA_ERR_INVALID);
    EXPECT_EQ(add(1, [](Gid& g) { g.vlan = 4094; }), VIRTIO_RDMA_OK);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_DELETE_GID, 1), VIRTIO_RDMA_OK);
    EXPECT_EQ(guest.simple(VIRTIO_RDMA_DELETE_GID, 1), VIRTIO_RDMA_ERR_OBJECT);
}

// [virtio-rdma QUE-9]
TEST_F(VirtioRdmaControl, ADoorbellOfAnotherContextHasNoEffect)
{
    uint32_t pd = guest.create_pd();
    GuestCq cq = guest.create_cq();
    ASSERT_EQ(guest.simple(VIRTIO_RDMA_CREATE_CONTEXT, 3), VIRTIO_RDMA_OK);
    ASSERT_EQ(guest.simple(VIRTIO_RDMA_CREATE_CONTEXT, 4), VIRTIO_RDMA_OK);
    GuestQp qp = guest.create_qp(pd, cq, {.context = 3});
    ASSERT_EQ(guest.to_state(qp, VIRTIO_RDMA_QP_ERR), VIRTIO_RDMA_OK);
    virtio_rdma_sq_entry entry{};
    entry.opcode = VIRTIO_RDMA_OP_SEND;
    guest.post(qp.sq, entry);
    uint32_t value = VIRTIO_RDMA_DOORBELL(VIRTIO_RDMA_DOORBELL_SQ, qp.qpn);
    for (auto [context, wrong] : {std::pair{0u, value}, std::pair{4u, value}, std::pair{5u, value},
                                  std::pair{3u, value | 1u << 24}, std::pair{3u, value | 3u << 30},
                                  std::pair{3u, value ^ 1u}}) {
        guest.ring(context, wrong);
        EXPECT_FALSE(guest.poll(cq));
    }
    guest.ring(3, value);
    EXPECT_EQ(guest.take(cq).status, VIRTIO_RDMA_WC_WR_FLUSH_ERR);
}

TEST_F(VirtioRdmaControl, AnOverrunTellsOfTheQueueAndFailsItsQueuePairs)
{
    uint32_t pd = guest.create_pd();
    GuestCq cq = guest.create_cq(1);
    GuestQp qp = guest.create_qp(pd, cq, {.type = VIRTIO_RDMA_QP_UD, .sq_entry_size = 128});
    guest.open(qp, 1);
    virtio_rdma_sq_datagram send{};
    send.entry.opcode = VIRTIO_RDMA_OP_SEND;
    send.entry.flags = VIRTIO_RDMA_SEND_SIGNALED;
    send.qpn = 77;
    send.av = guest.address_of(2);
    guest.post(qp.sq, send);
    guest.post(qp.sq, send);
    guest.kick(qp.sq);
    auto first = guest.event();
    ASSERT_TRUE(first);
    EXPECT_EQ(first->type, VIRTIO_RDMA_EVENT_CQ_ERR);
    EXPECT_EQ(first->object, cq.number);
    auto second = guest.event();
    ASSERT_TRUE(second);
    EXPECT_EQ(second->type, VIRTIO_RDMA_EVENT_QP_FATAL);
    EXPECT_EQ(second->object, qp.qpn);
    EXPECT_FALSE(guest.event());
    EXPECT_EQ(guest.query(qp).state, VIRTIO_RDMA_QP_ERR);
}

// [virtio-rdma QUE-8]
TEST_F(VirtioRdmaControl, AProducerThatMakesNoSenseFailsItsQueuePairUntilAReset)
{
    uint32_t pd = guest.create_pd();
    GuestCq cq = guest.create_cq();
    GuestQp qp = guest.create_qp(pd, cq);
    guest.connect(qp, 2, 5);
    guest.state(qp.sq).producer = 65;
    guest.ring(qp.sq);
    guest.ring(qp.sq);
    auto event = guest.event();
    ASSERT_TRUE(event);
    EXPECT_EQ(event->type, VIRTIO_RDMA_EVENT_QP_FATAL);
    EXPECT_FALSE(guest.event());
    EXPECT_EQ(guest.query(qp).state, VIRTIO_RDMA_QP_ERR);
    EXPECT_FALSE(guest.poll(cq));
    ASSERT_EQ(guest.to_state(qp, VIRTIO_RDMA_QP_RESET), VIRTIO_RDMA_OK);
    guest.restart(qp.sq);
    ASSERT_EQ(guest.to_state(qp, VIRTIO_RDMA_QP_ERR), VIRTIO_RDMA_OK);
    guest.post(qp.sq, virtio_rdma_sq_entry{});
    EXPECT_TRUE(guest.kick(qp.sq));
    EXPECT_EQ(guest.take(cq).status, VIRTIO_RDMA_WC_WR_FLUSH_ERR);
}

TEST_F(VirtioRdmaControl, NoEventComesOfWhatHasBeenDestroyed)
{
    uint32_t pd = guest.create_pd();
    GuestCq cq = guest.create_cq();
    GuestQp qp = guest.create_qp(pd, cq);
    guest.connect(qp, 2, 5);
    guest.arm(cq);
    guest.post(qp.sq, virtio_rdma_sq_entry{.wr_id = 1, .opcode = 200});
    guest.kick(qp.sq); // a completion, and its event
    guest.state(qp.sq).producer = 1000;
    guest.ring(qp.sq);
    ASSERT_EQ(guest.simple(VIRTIO_RDMA_DESTROY_QP, qp.qpn), VIRTIO_RDMA_OK);
    ASSERT_EQ(guest.simple(VIRTIO_RDMA_DESTROY_CQ, cq.number), VIRTIO_RDMA_OK);
    EXPECT_FALSE(guest.event());
    // [virtio-rdma CTL-16]
    EXPECT_FALSE(guest.completion_event());
}

} // namespace
} // namespace rdma::test
