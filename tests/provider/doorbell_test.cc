// SPDX-License-Identifier: GPL-2.0-or-later
//
// When the provider rings (QUE-1 to QUE-4).
#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "model_device.h"

namespace {

// [virtio-rdma QUE-2] [virtio-rdma QUE-4]
TEST(Doorbell, TheFirstEntryOfANewQueueRings)
{
    ModelWorkQueue queue(8, 64);
    queue.post(1);
    EXPECT_EQ(queue.state.producer, 0U);
    vrdma_ring_submit(&queue.ring);
    EXPECT_EQ(queue.state.producer, 1U);
    EXPECT_EQ(queue.take_doorbell(), 0x1234U);
}

// [virtio-rdma QUE-4]
TEST(Doorbell, NothingRingsWhileTheDeviceIsAtWork)
{
    ModelWorkQueue queue(8, 64);
    queue.post(1);
    vrdma_ring_submit(&queue.ring);
    queue.take_doorbell();
    for (uint64_t i = 2; i < 8; ++i) {
        queue.post(i);
        vrdma_ring_submit(&queue.ring);
        EXPECT_EQ(queue.take_doorbell(), 0U);
    }
}

// [virtio-rdma QUE-4]
TEST(Doorbell, AListRingsOnceWhicheverOfItsEntriesTheDeviceWaitsFor)
{
    for (uint32_t awaited = 0; awaited < 12; ++awaited) {
        ModelWorkQueue queue(16, 64);
        for (uint64_t i = 0; i < 4; ++i)
            queue.post(i);
        vrdma_ring_submit(&queue.ring);
        queue.take_doorbell();
        queue.state.doorbell = awaited;
        for (uint64_t i = 4; i < 10; ++i)
            queue.post(i);
        vrdma_ring_submit(&queue.ring);
        // Entries 4 to 9 have been posted since it was decided last.
        EXPECT_EQ(queue.take_doorbell() != 0, awaited >= 4 && awaited < 10) << awaited;
    }
}

TEST(Doorbell, SubmittingNothingRingsNot)
{
    ModelWorkQueue queue(8, 64);
    vrdma_ring_submit(&queue.ring);
    EXPECT_EQ(queue.take_doorbell(), 0U);
}

// [virtio-rdma QUE-1]
TEST(Doorbell, AFullQueueHasNoSlotUntilTheDeviceHasTakenAnEntry)
{
    ModelWorkQueue queue(4, 64, 0xfffffffe);
    for (uint64_t i = 0; i < 4; ++i)
        EXPECT_TRUE(queue.post(i));
    EXPECT_FALSE(queue.post(4));
    vrdma_ring_submit(&queue.ring);
    EXPECT_EQ(queue.waiting(), 4U);
    queue.take();
    EXPECT_TRUE(queue.post(4));
    EXPECT_FALSE(queue.post(5));
}

// [virtio-rdma REQ-2]
TEST(Doorbell, AResetQueueBeginsAtIndexZeroAgain)
{
    ModelWorkQueue queue(4, 64, 77);
    queue.post(1);
    vrdma_ring_submit(&queue.ring);
    queue.take_doorbell();
    queue.state.consumer = queue.state.doorbell = 0; // the device's part: REQ-4
    vrdma_ring_restart(&queue.ring);
    EXPECT_EQ(queue.state.producer, 0U);
    for (uint64_t i = 0; i < 4; ++i)
        EXPECT_TRUE(queue.post(i));
    vrdma_ring_submit(&queue.ring);
    EXPECT_EQ(queue.state.producer, 4U);
    EXPECT_NE(queue.take_doorbell(), 0U);
}

// Whatever the order of posts and looks, over the end of the index too.
// [virtio-rdma QUE-4]
TEST(Doorbell, ADeviceThatWaitsGetsADoorbellAndOneThatWorksGetsNone)
{
    for (const uint32_t first : {0U, 0xffffff00U, 0x7fffff00U}) {
        ModelWorkQueue queue(16, 64, first);
        std::mt19937 random(first);
        bool asleep = true; // a new queue's `doorbell` is its first index
        uint64_t posted = 0, seen = 0;
        while (seen < 2000) {
            if (random() % 2) {
                const auto num = random() % 6;
                for (uint32_t i = 0; i < num && queue.post(posted); ++i)
                    ++posted;
                const bool work = queue.ring.next != queue.ring.producer;
                vrdma_ring_submit(&queue.ring);
                EXPECT_EQ(queue.take_doorbell() != 0, asleep && work);
                asleep = asleep && !work;
            } else if (!asleep) {
                for (auto num = random() % 8; num && queue.waiting(); --num) {
                    uint64_t wr_id;
                    std::memcpy(&wr_id, queue.take().data(), sizeof wr_id);
                    EXPECT_EQ(wr_id, seen++);
                }
                if (queue.waiting() == 0)
                    asleep = queue.wait_for_doorbell();
            }
        }
    }
}

// A device on another processor that knows of entries by doorbells alone once it waits: without the
// barrier of QUE-3 it would wait for ever.
// [virtio-rdma QUE-3]
TEST(Doorbell, NoEntryIsMissedByADeviceOfAnotherThread)
{
    constexpr uint32_t count = 200'000;
    ModelWorkQueue queue(64, 64, 0xffff0000);
    std::atomic<bool> stop = false;
    std::atomic<uint32_t> taken = 0;
    std::thread device([&] {
        bool asleep = true;
        while (!stop) {
            if (asleep && !queue.take_doorbell())
                continue;
            while (queue.waiting()) {
                queue.take();
                ++taken;
            }
            asleep = queue.wait_for_doorbell();
        }
    });
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    uint32_t posted = 0;
    while (taken < count && std::chrono::steady_clock::now() < deadline) {
        // One at a time: the device falls asleep between them.
        if (posted == taken && posted < count && queue.post(posted)) {
            ++posted;
            vrdma_ring_submit(&queue.ring);
        }
    }
    stop = true;
    device.join();
    EXPECT_EQ(taken, count);
}

} // namespace
