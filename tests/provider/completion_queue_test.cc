// SPDX-License-Identifier: GPL-2.0-or-later
//
// Phases, what is dropped of a queue pair that is gone, and arming (QUE-13 to QUE-16, CTL-21).
#include <random>

#include <gtest/gtest.h>

#include "model_device.h"

namespace {

virtio_rdma_cq_entry completion(uint64_t wr_id, uint32_t qpn = 7)
{
    virtio_rdma_cq_entry entry{};
    entry.wr_id = wr_id;
    entry.qpn = qpn;
    return entry;
}

TEST(CompletionQueue, AnEmptyPollWritesNothing)
{
    ModelCompletionQueue cq(4);
    const auto state = cq.state;
    EXPECT_TRUE(cq.poll(4).empty());
    EXPECT_EQ(std::memcmp(&state, &cq.state, sizeof state), 0);
}

// [virtio-rdma QUE-13] [virtio-rdma QUE-16]
TEST(CompletionQueue, CompletionsComeInOrderOverManyTurnsAndOverTheEndOfTheIndex)
{
    for (const uint32_t entries : {1U, 2U, 16U}) {
        for (const uint32_t first : {0U, 0U - 4 * entries}) {
            ModelCompletionQueue cq(entries, first);
            std::mt19937 random(entries);
            uint64_t completed = 0, polled = 0;
            while (polled < 200) {
                for (auto num = random() % 20; num && cq.has_room(); --num)
                    cq.complete(completion(completed++));
                for (const auto& wc : cq.poll(1 + static_cast<int>(random() % 9)))
                    EXPECT_EQ(wc.wr_id, polled++);
                EXPECT_LE(polled, completed);
                EXPECT_EQ(cq.state.consumer, first + static_cast<uint32_t>(polled));
            }
        }
    }
}

// [virtio-rdma CTL-21] [virtio-rdma QUE-16]
TEST(CompletionQueue, CompletionsOfAQueuePairThatIsGoneAreNotGivenOut)
{
    ModelCompletionQueue cq(8);
    for (uint64_t i = 0; i < 8; ++i)
        cq.complete(completion(i, i % 2 ? 7 : 9));
    const auto before = cq.slots;
    vrdma_cq_drop(&cq.ring, 9);
    vrdma_cq_drop(&cq.ring, 9);
    const auto polled = cq.poll(8);
    ASSERT_EQ(polled.size(), 4U);
    for (const auto& wc : polled)
        EXPECT_EQ(wc.qp_num, 7U);
    EXPECT_EQ(std::memcmp(before.data(), cq.slots.data(), 8 * sizeof before[0]), 0);
    // The slot behind the last that was given out is taken out by the next poll.
    EXPECT_TRUE(cq.poll(8).empty());
    EXPECT_EQ(cq.state.consumer, 8U);
    EXPECT_EQ(cq.ring.num_stale, 0U);
}

TEST(CompletionQueue, ANumberThatIsInUseAgainHasItsCompletionsGivenOut)
{
    ModelCompletionQueue cq(4);
    for (uint64_t i = 0; i < 3; ++i)
        cq.complete(completion(i, 9));
    vrdma_cq_drop(&cq.ring, 9);
    cq.complete(completion(3, 9));
    auto polled = cq.poll(4);
    ASSERT_EQ(polled.size(), 1U);
    EXPECT_EQ(polled[0].wr_id, 3U);
    for (uint64_t i = 4; i < 8; ++i)
        cq.complete(completion(i, 9));
    EXPECT_EQ(cq.poll(8).size(), 4U);
}

TEST(Arming, EachWordIsANewOneOnceItsEventHasBeenSent)
{
    ModelCompletionQueue cq(4);
    vrdma_cq_arm(&cq.ring, false);
    EXPECT_EQ(cq.state.arm, 1U << 2 | VIRTIO_RDMA_ARM_NEXT);
    cq.complete(completion(0));
    EXPECT_TRUE(cq.send_event());
    vrdma_cq_arm(&cq.ring, true);
    EXPECT_EQ(cq.state.arm, 2U << 2 | VIRTIO_RDMA_ARM_SOLICITED);
}

// [virtio-rdma QUE-15]
TEST(Arming, ACqThatIsArmedAlreadyKeepsItsWord)
{
    ModelCompletionQueue cq(4);
    vrdma_cq_arm(&cq.ring, true);
    const auto solicited = cq.state.arm;
    vrdma_cq_arm(&cq.ring, true);
    EXPECT_EQ(cq.state.arm, solicited);
    vrdma_cq_arm(&cq.ring, false); // NEXT is more
    const auto next = cq.state.arm;
    EXPECT_EQ(next, 2U << 2 | VIRTIO_RDMA_ARM_NEXT);
    vrdma_cq_arm(&cq.ring, true); // and SOLICITED less
    vrdma_cq_arm(&cq.ring, false);
    EXPECT_EQ(cq.state.arm, next);
}

TEST(Arming, TheSequenceNumberGoesOverItsEndAndTheWordNeverIsTheOneThatArmsNothing)
{
    ModelCompletionQueue cq(4);
    cq.ring.arm = cq.state.arm = 0x3fffffffU << 2 | VIRTIO_RDMA_ARM_NEXT;
    cq.state.notified = cq.state.arm;
    vrdma_cq_arm(&cq.ring, true);
    EXPECT_EQ(cq.state.arm, static_cast<uint32_t>(VIRTIO_RDMA_ARM_SOLICITED));
    EXPECT_NE(cq.state.arm, 0U);
}

// Who polls until nothing is there, arms, and polls again, is woken for each completion.
TEST(Arming, NoCompletionIsLeftWithoutAnEvent)
{
    ModelCompletionQueue cq(16);
    std::mt19937 random(1);
    uint64_t completed = 0, polled = 0, events = 0, waits = 0;
    bool event = false, waiting = false;
    while (polled < 5000) {
        if (random() % 2) {
            for (auto num = random() % 4; num && cq.has_room(); --num)
                cq.complete(completion(completed++));
            if (cq.send_event()) {
                event = true;
                ++events;
            }
            if (waiting && completed > polled) {
                EXPECT_TRUE(event);
            }
        } else if (!waiting || event) {
            event = waiting = false;
            polled += cq.poll(16).size();
            vrdma_cq_arm(&cq.ring, false);
            const auto more = cq.poll(16).size();
            polled += more;
            waiting = more == 0;
            waits += waiting;
        }
    }
    EXPECT_LE(events, waits + 1);
}

TEST(Arming, AnEventOfASolicitedWordIsNotSentForOtherCompletions)
{
    ModelCompletionQueue cq(16);
    vrdma_cq_arm(&cq.ring, true);
    cq.complete(completion(0));
    EXPECT_FALSE(cq.send_event());
    cq.complete(completion(1), true);
    EXPECT_TRUE(cq.send_event());
    cq.complete(completion(2), true);
    EXPECT_FALSE(cq.send_event());
}

} // namespace
