// SPDX-License-Identifier: GPL-2.0-or-later
//
// The host runs out of memory at any allocation of the device's. That is no reason for
// QEMU to end: the call fails, and with it the device, whose guest is told and can set it
// up anew.
#include "counted_heap.h"
#include "virtio_rdma_guest.h"
#include "whole_device.h"

#include <gtest/gtest.h>

namespace rdma::test {
namespace {

constexpr uint8_t number = 1;

// Memory fails after so many allocations, until the end of the scope.
struct ScarceMemory {
    explicit ScarceMemory(size_t left)
    {
        allocations_left = left;
        failed_allocations = 0;
    }
    ~ScarceMemory() { allocations_left = SIZE_MAX; }
    static bool has_run_out() { return failed_allocations > 0; }
};

std::pair<RdmaMemoryRegion, RdmaMemoryRegion> halves_of(const RdmaMemoryRegion& whole)
{
    RdmaMemoryRegion low = whole;
    RdmaMemoryRegion high = whole;
    low.size /= 2;
    high.gpa += low.size;
    high.size -= low.size;
    high.hva = static_cast<std::byte*>(high.hva) + low.size;
    return {low, high};
}

// A program with two QPs connected to each other; whether its message has arrived. Throws
// where a command fails.
bool run_program(WholeDevice& device)
{
    uint32_t pd = device.create_pd().value();
    DeviceCq cq = device.create_cq(64, device.queue_pages(1)).value();
    uint64_t buffer = device.ram.pages(1);
    DeviceMr mr = device.register_ram(pd, buffer, page_size);
    QueueShape shape;
    DeviceQp a = device.create_qp(shape, pd, cq.handle, device.qp_pages(shape)).value();
    DeviceQp b = device.create_qp(shape, pd, cq.handle, device.qp_pages(shape)).value();
    device.connect(a, number, b.qpn);
    device.connect(b, number, a.qpn);
    device.post_recv(b, 1, buffer, 8, mr.lkey);
    device.post_send(a, wr_send, 2, buffer + 64, 8, mr.lkey);
    device.ring_send(a);
    unsigned completions = 0;
    while (const Cqe* cqe = device.poll(cq)) {
        completions += cqe->status == IBV_WC_SUCCESS;
    }
    return completions == 2;
}

TEST(OutOfMemory, TheDeviceFailsAndItsGuestIsToldAndSetsItUpAnew)
{
    bool has_run_out = true;
    for (size_t allocations = 0; has_run_out; ++allocations) {
        SCOPED_TRACE(allocations);
        ASSERT_LT(allocations, 1000u);
        WholeDevice device(number);
        device.bring_up();
        bool done = false;
        {
            ScarceMemory memory(allocations);
            try {
                done = run_program(device);
            } catch (...) {
            }
        }
        has_run_out = ScarceMemory::has_run_out();
        if (!has_run_out) {
            EXPECT_TRUE(done);
        } else {
            EXPECT_EQ(device.events(), 1u);
            EXPECT_EQ(device.last_event().type, +IBV_EVENT_DEVICE_FATAL);
            EXPECT_FALSE(device.create_pd().has_value());
        }
        device.bring_up(); // as a driver does that is loaded again
        EXPECT_TRUE(run_program(device));
    }
}

TEST(OutOfMemory, ANewTableOfGuestMemoryIsNotUsedInPart)
{
    WholeDevice device(number);
    device.bring_up();
    auto [low, high] = halves_of(device.ram.region());
    const RdmaMemoryRegion table[] = {high, low};
    {
        ScarceMemory memory(0);
        rdma_device_set_memory(device.handle(), table, 2);
    }
    EXPECT_FALSE(device.create_pd().has_value());
    rdma_device_set_memory(device.handle(), table, 2);
    device.bring_up();
    EXPECT_TRUE(run_program(device));
}

TEST(OutOfMemory, AStateThatCannotBeSavedIsAnErrorAndTheDeviceGoesOn)
{
    WholeDevice device(number);
    device.bring_up();
    ASSERT_TRUE(run_program(device));
    device.stop();
    auto put = [](void* calls, const uint8_t*, size_t) { ++*static_cast<unsigned*>(calls); };
    for (size_t allocations : {0u, 1u, 2u, 3u, 4u, 5u}) {
        unsigned calls = 0;
        char* error = nullptr;
        char* obstacle = nullptr;
        bool saved;
        bool can_migrate;
        {
            ScarceMemory memory(allocations);
            saved = rdma_device_save(device.handle(), put, &calls, &error);
        }
        {
            ScarceMemory memory(allocations);
            can_migrate = rdma_device_can_migrate(device.handle(), &obstacle);
        }
        EXPECT_FALSE(saved);
        EXPECT_FALSE(can_migrate);
        EXPECT_STREQ(error, "std::bad_alloc");
        EXPECT_STREQ(obstacle, "std::bad_alloc");
        EXPECT_EQ(calls, 0u);
        free(error);
        free(obstacle);
    }
    device.start();
    EXPECT_TRUE(run_program(device));
}

// EVT-2, events.md: its objects are gone, so that what a driver destroys then is not there.
TEST(OutOfMemory, AVirtioDeviceThatHasFailedTellsOfItAndAnswersSoUntilItIsReset)
{
    VirtioGuest guest(number);
    guest.bring_up();
    uint32_t pd = guest.create_pd();
    GuestCq cq = guest.create_cq();
    GuestWorkQueue srq = guest.create_srq(pd);
    GuestQp qp = guest.create_qp(pd, cq);
    GuestMr mr = guest.register_ram(pd, guest.ram.pages(1), page_size);
    VirtioGuest::require(guest.simple(VIRTIO_RDMA_CREATE_CONTEXT, 3), "CREATE_CONTEXT");
    auto [low, high] = halves_of(guest.ram.region());
    const RdmaMemoryRegion table[] = {low, high};
    guest.irqs[VIRTIO_RDMA_VQ_EVENT] = 0; // which takes memory
    {
        ScarceMemory memory(0);
        rdma_device_set_memory(guest.handle(), table, 2);
    }
    EXPECT_EQ(guest.irqs[VIRTIO_RDMA_VQ_EVENT], 1u);
    auto event = guest.event();
    ASSERT_TRUE(event);
    EXPECT_EQ(event->type, VIRTIO_RDMA_EVENT_DEVICE_FATAL);
    EXPECT_EQ(event->object, 0u);
    EXPECT_FALSE(guest.event());
    for (const char* counted : {"contexts", "pds", "mrs", "cqs", "srqs", "qps"}) {
        EXPECT_EQ(guest.statistic(counted), 0u) << counted;
    }
    const std::pair<uint32_t, uint32_t> destructions[] = {
        {VIRTIO_RDMA_DESTROY_QP, qp.qpn},      {VIRTIO_RDMA_DESTROY_SRQ, srq.number},
        {VIRTIO_RDMA_DESTROY_CQ, cq.number},   {VIRTIO_RDMA_DESTROY_MR, mr.number},
        {VIRTIO_RDMA_DESTROY_CONTEXT, 3},      {VIRTIO_RDMA_DESTROY_PD, pd}};
    for (auto [command, object] : destructions) {
        EXPECT_EQ(guest.simple(command, object), VIRTIO_RDMA_ERR_OBJECT) << command;
    }
    for (uint32_t command :
         {VIRTIO_RDMA_CREATE_CONTEXT, VIRTIO_RDMA_CREATE_PD, VIRTIO_RDMA_DELETE_GID}) {
        EXPECT_EQ(guest.simple(command, 0), VIRTIO_RDMA_ERR_DEVICE) << command;
    }
    rdma_device_reset(guest.handle());
    rdma_device_set_memory(guest.handle(), table, 2);
    guest.bring_up();
    guest.create_pd();
    EXPECT_FALSE(guest.event());
}

} // namespace
} // namespace rdma::test
