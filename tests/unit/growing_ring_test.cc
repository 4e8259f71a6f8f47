// SPDX-License-Identifier: GPL-2.0-or-later
#include "growing_ring.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>
#include <set>

namespace rdma::test {
namespace {

// Rings that share a pool hold what deques would.
TEST(GrowingRing, IsAQueueWithAndWithoutAPool)
{
    std::mt19937 random(1);
    SlotPool<int> pool(64);
    std::vector<GrowingRing<int>> rings(4);
    std::vector<std::deque<int>> models(4);
    for (int step = 0; step < 200'000; ++step) {
        size_t i = random() % rings.size();
        auto& ring = rings[i];
        auto& model = models[i];
        switch (random() % 8) {
        case 0:
        case 1:
            ring.push_back(pool) = step;
            model.push_back(step);
            break;
        case 2:
            ring.push_back(step);
            model.push_back(step);
            break;
        case 3:
            ring.release(pool);
            break;
        case 4:
            if (random() % 16 == 0) {
                size_t size = random() % (model.size() + 1);
                ring.truncate(size);
                model.resize(size);
            }
            break;
        default:
            if (!model.empty()) {
                ASSERT_EQ(ring.front(), model.front());
                ring.pop_front();
                model.pop_front();
            }
        }
        ASSERT_EQ(ring.size(), model.size());
        for (size_t at = 0; at < model.size(); ++at) {
            ASSERT_EQ(ring[at], model[at]);
        }
        ASSERT_LE(pool.kept(), 64u);
    }
}

// The slots of one ring serve the next: elements keep what they own.
TEST(GrowingRing, GivesItsSlotsToTheNext)
{
    SlotPool<std::vector<int>> pool(64);
    GrowingRing<std::vector<int>> first;
    for (int i = 0; i < 8; ++i) {
        first.push_back(pool).assign(100, i);
    }
    std::set<const int*> owned;
    for (size_t i = 0; i < first.size(); ++i) {
        owned.insert(first[i].data());
    }
    while (!first.empty()) {
        first.pop_front();
    }
    first.release(pool);
    EXPECT_GE(pool.kept(), 8u);

    // Where eight were in use at a time, eight are there at once.
    first.push_back(pool);
    first.pop_front();
    for (int i = 0; i < 8; ++i) {
        EXPECT_TRUE(owned.contains(first.push_back(pool).data()));
    }
}

TEST(GrowingRing, KeepsItsSlotsWhileItHoldsAnything)
{
    SlotPool<int> pool(64);
    GrowingRing<int> ring;
    ring.push_back(pool) = 1;
    ring.release(pool);
    EXPECT_EQ(pool.kept(), 0u);
    EXPECT_EQ(ring.front(), 1);
}

TEST(SlotPool, KeepsNoMoreThanItsBound)
{
    SlotPool<int> pool(10);
    pool.give(std::vector<int>(8));
    pool.give(std::vector<int>(4));
    EXPECT_EQ(pool.kept(), 8u);
    EXPECT_EQ(pool.take(8).size(), 8u);
    EXPECT_EQ(pool.kept(), 0u);
    EXPECT_EQ(pool.take(4).size(), 4u);
}

TEST(SlotPool, HasAPlaceForEverySize)
{
    SlotPool<int> pool(64);
    EXPECT_TRUE(pool.take(0).empty());
    pool.give({});
    EXPECT_EQ(pool.kept(), 0u);
    pool.give(std::vector<int>(1));
    EXPECT_EQ(pool.take(1).size(), 1u);
    EXPECT_EQ(pool.kept(), 0u);
}

} // namespace
} // namespace rdma::test
