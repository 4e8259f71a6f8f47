// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest_memory.h"

#include <array>
#include <vector>

#include <gtest/gtest.h>

namespace rdma {
namespace {

struct GuestMemoryTest : testing::Test {
    std::array<std::byte, 64> low{}, high{}, rom{};
    GuestMemory memory;
    std::vector<std::pair<uint64_t, uint64_t>> dirty;

    void SetUp() override
    {
        RdmaMemoryRegion regions[] = {
            {0x2000, 64, rom.data(), true},
            {0x1040, 64, high.data(), false}, // right behind low
            {0x1000, 64, low.data(), false},
        };
        memory.set_table(regions);
    }
};

TEST_F(GuestMemoryTest, a_copy_may_cross_neighbouring_regions)
{
    std::array<std::byte, 16> in;
    in.fill(std::byte{7});
    EXPECT_TRUE(memory.write(0x1038, in));
    EXPECT_EQ(low[63], std::byte{7});
    EXPECT_EQ(high[7], std::byte{7});
    EXPECT_EQ(high[8], std::byte{0});
}

TEST_F(GuestMemoryTest, what_is_not_memory_is_refused)
{
    std::array<std::byte, 16> bytes{};
    EXPECT_FALSE(memory.read(0xff8, bytes));
    EXPECT_FALSE(memory.read(0x1078, bytes));
    EXPECT_FALSE(memory.read(UINT64_MAX - 7, bytes));
    EXPECT_FALSE(memory.covers(0x1000, 129, false));
    EXPECT_TRUE(memory.covers(0x1000, 128, true));
    EXPECT_FALSE(memory.covers(0x1000, UINT64_MAX, false));
}

TEST_F(GuestMemoryTest, read_only_memory_is_not_written)
{
    std::array<std::byte, 8> bytes{};
    EXPECT_TRUE(memory.read(0x2000, bytes));
    EXPECT_FALSE(memory.write(0x2000, bytes));
    EXPECT_FALSE(memory.store_release(0x2000, 1));
}

TEST_F(GuestMemoryTest, every_write_is_in_the_dirty_log_while_it_is_on)
{
    memory.set_dirty_log(
        true,
        [](void* opaque, uint64_t gpa, uint64_t size) {
            static_cast<GuestMemoryTest*>(opaque)->dirty.emplace_back(gpa, size);
        },
        this);
    std::array<std::byte, 16> in{};
    uint64_t old;
    EXPECT_TRUE(memory.write(0x1038, in));
    EXPECT_TRUE(memory.store_release(0x1000, 1));
    EXPECT_TRUE(memory.fetch_add(0x1008, 1, old));
    EXPECT_EQ(dirty, (std::vector<std::pair<uint64_t, uint64_t>>{
                         {0x1038, 8}, {0x1040, 8}, {0x1000, 4}, {0x1008, 8}}));
    memory.set_dirty_log(false, nullptr, nullptr);
    EXPECT_TRUE(memory.store_release(0x1000, 2));
    EXPECT_EQ(dirty.size(), 4u);
}

TEST_F(GuestMemoryTest, atomics_need_alignment_and_return_the_old_value)
{
    uint64_t old = 1;
    EXPECT_TRUE(memory.fetch_add(0x1010, 5, old));
    EXPECT_EQ(old, 0u);
    EXPECT_TRUE(memory.compare_swap(0x1010, 4, 9, old));
    EXPECT_EQ(old, 5u);
    EXPECT_TRUE(memory.compare_swap(0x1010, 5, 9, old));
    EXPECT_TRUE(memory.fetch_add(0x1010, 0, old));
    EXPECT_EQ(old, 9u);
    EXPECT_FALSE(memory.fetch_add(0x1011, 1, old));
    EXPECT_FALSE(memory.fetch_add(0x107c, 1, old));
}

} // namespace
} // namespace rdma
