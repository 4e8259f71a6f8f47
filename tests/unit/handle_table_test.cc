// SPDX-License-Identifier: GPL-2.0-or-later
#include "handle_table.h"

#include "counted_heap.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace rdma::test {
namespace {

// Whatever the order of creation and destruction, the lowest free id is handed
// out, and lookups find what a map finds.
TEST(HandleTable, HandsOutTheLowestFreeId)
{
    constexpr uint32_t first = 2;
    constexpr uint32_t limit = 300;
    std::mt19937 random(1);
    HandleTable<uint64_t> table(limit, first);
    std::map<uint32_t, uint64_t> model;
    std::set<uint32_t> free;
    for (uint32_t id = first; id < limit; ++id) {
        free.insert(id);
    }
    for (uint64_t step = 0; step < 200'000; ++step) {
        // Now mostly filling, now mostly emptying.
        bool create = random() % 100 < (step / 1000 % 2 ? 60u : 40u);
        if (create) {
            auto [object, id] = table.emplace(step);
            ASSERT_EQ(object != nullptr, !free.empty());
            if (object) {
                ASSERT_EQ(id, *free.begin());
                ASSERT_EQ(*object, step);
                free.erase(id);
                model[id] = step;
            }
        } else {
            auto id = static_cast<uint32_t>(random() % (limit + 10));
            ASSERT_EQ(table.erase(id), model.erase(id) == 1);
            if (id >= first && id < limit) {
                free.insert(id);
            }
        }
        auto id = static_cast<uint32_t>(random() % (limit + 10));
        auto expected = model.find(id);
        uint64_t* found = table.find(id);
        ASSERT_EQ(found != nullptr, expected != model.end());
        ASSERT_TRUE(!found || *found == expected->second);
        ASSERT_EQ(table.size(), model.size());
    }
}

// An id comes again when all the others have been used since.
TEST(HandleTable, HandsOutIdsInTurnWhereItIsToldSo)
{
    constexpr uint32_t first = 2;
    constexpr uint32_t limit = 1300;
    std::mt19937 random(1);
    HandleTable<uint64_t> table(limit, first);
    table.rotate(1000);
    std::map<uint32_t, uint64_t> model;
    uint32_t expected = 1000;
    for (uint64_t step = 0; step < 50'000; ++step) {
        bool create = random() % 100 < (step / 5000 % 2 ? 60u : 40u);
        if (create) {
            auto [object, id] = table.emplace(step);
            ASSERT_EQ(object != nullptr, model.size() < limit - first);
            if (object) {
                while (model.contains(expected)) {
                    expected = expected + 1 < limit ? expected + 1 : first;
                }
                ASSERT_EQ(id, expected);
                model[id] = step;
                expected = expected + 1 < limit ? expected + 1 : first;
            }
        } else {
            auto id = static_cast<uint32_t>(random() % (limit + 10));
            ASSERT_EQ(table.erase(id), model.erase(id) == 1);
        }
        auto id = static_cast<uint32_t>(random() % (limit + 10));
        auto found = model.find(id);
        ASSERT_EQ(table.find(id) != nullptr, found != model.end());
        ASSERT_EQ(table.size(), model.size());
    }
    std::map<uint32_t, uint64_t> seen;
    table.for_each([&](uint32_t id, uint64_t& object) { seen[id] = object; });
    EXPECT_EQ(seen, model);
}

TEST(HandleTable, AnIdBelowTheFirstNamesNothing)
{
    HandleTable<int> table(10, 2);
    table.emplace(1);
    EXPECT_EQ(table.find(0), nullptr);
    EXPECT_EQ(table.find(1), nullptr);
    EXPECT_FALSE(table.erase(1));
    EXPECT_FALSE(table.erase(UINT32_MAX));
}

TEST(HandleTable, ClearForgetsAll)
{
    HandleTable<int> table(10);
    table.emplace(1);
    table.emplace(2);
    table.erase(0);
    table.clear();
    EXPECT_EQ(table.size(), 0u);
    EXPECT_EQ(table.find(1), nullptr);
    EXPECT_EQ(table.emplace(3).second, 0u);
    EXPECT_EQ(table.emplace(4).second, 1u);
}

// An object whose construction fails takes no id.
TEST(HandleTable, AFailedConstructionLeavesTheTableAsItWas)
{
    struct Picky {
        explicit Picky(bool fail)
        {
            if (fail) {
                throw 1;
            }
        }
    };
    HandleTable<Picky> table(10);
    table.emplace(false);
    table.emplace(false);
    table.erase(0);
    EXPECT_THROW(table.emplace(true), int);
    EXPECT_EQ(table.size(), 1u);
    EXPECT_EQ(table.emplace(false).second, 0u);
    EXPECT_EQ(table.emplace(false).second, 2u);
}

// As in a state that is loaded.
TEST(HandleTable, IdsBetweenRestoredObjectsAreHandedOut)
{
    HandleTable<int> table(200, 2);
    std::set<uint32_t> used{3, 66, 130};
    for (uint32_t id : used) {
        ASSERT_TRUE(table.insert(id, 1));
        EXPECT_FALSE(table.insert(id, 1));
    }
    EXPECT_FALSE(table.insert(1, 1));
    EXPECT_FALSE(table.insert(200, 1));
    for (uint32_t id = 2; id < 200; ++id) {
        if (!used.contains(id)) {
            ASSERT_EQ(table.emplace(1).second, id);
        }
    }
    EXPECT_EQ(table.emplace(1).first, nullptr);
}

TEST(HandleTable, ARestoredObjectWithAHighIdTakesEightBytesForEach256IdsBelow)
{
    constexpr uint32_t limit = 1u << 24;
    size_t before = heap;
    HandleTable<int> table(limit);
    ASSERT_TRUE(table.insert(limit - 1, 7));
    EXPECT_LT(heap - before, size_t{9} * limit / 256);
    EXPECT_TRUE(table.erase(limit - 1));
    EXPECT_EQ(table.emplace(1).second, 0u);
}

} // namespace
} // namespace rdma::test
