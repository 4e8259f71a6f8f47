// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest_memory.h"

#include <array>
#include <functional>
#include <map>
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

// [virtio-rdma MIG-4]
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

// An IOMMU with pages of 4096 bytes in front of three pages of RAM and one of ROM.
struct TranslatedMemoryTest : testing::Test {
    static constexpr uint64_t page = 4096;
    static constexpr uint64_t ram_base = 0x100000;
    struct Mapping {
        uint64_t gpa;
        bool readable;
        bool writable;
    };

    void SetUp() override
    {
        RdmaMemoryRegion regions[] = {{ram_base, 3 * page, ram.data(), false},
                                      {rom_base, page, rom.data(), true}};
        memory.set_table(regions);
        memory.set_translation(translate, this);
    }
    static bool translate(void* opaque, uint64_t address, bool write, uint64_t* gpa)
    {
        auto& self = *static_cast<TranslatedMemoryTest*>(opaque);
        ++self.asked;
        EXPECT_EQ(address % page, 0u);
        if (self.while_asked) {
            self.while_asked();
        }
        auto mapping = self.mappings.find(address);
        if (mapping == self.mappings.end() ||
            !(write ? mapping->second.writable : mapping->second.readable)) {
            return false;
        }
        *gpa = mapping->second.gpa;
        return true;
    }

    static constexpr uint64_t rom_base = 0x200000;
    std::vector<std::byte> ram{3 * page}, rom{page};
    std::map<uint64_t, Mapping> mappings; // by the IOMMU's address
    std::function<void()> while_asked;
    int asked = 0;
    GuestMemory memory;
};

TEST_F(TranslatedMemoryTest, neighbouring_addresses_may_lie_anywhere)
{
    mappings[0x7000] = {ram_base + 2 * page, true, true};
    mappings[0x8000] = {ram_base, true, true};
    std::vector<std::byte> in(16, std::byte{7});
    EXPECT_TRUE(memory.write(0x7ff8, in));
    EXPECT_EQ(ram[3 * page - 1], std::byte{7});
    EXPECT_EQ(ram[0], std::byte{7});
    EXPECT_EQ(ram[7], std::byte{7});
    EXPECT_EQ(ram[8], std::byte{0});
    std::vector<std::byte> out(16);
    EXPECT_TRUE(memory.read(0x7ff8, out));
    EXPECT_EQ(out, in);
    EXPECT_TRUE(memory.covers(0x7000, 2 * page, true));
    EXPECT_FALSE(memory.covers(0x7000, 2 * page + 1, true));
}

// [virtio-rdma DEV-6]
TEST_F(TranslatedMemoryTest, addresses_of_the_table_are_none_of_the_devices)
{
    std::byte byte{};
    EXPECT_FALSE(memory.read(ram_base, {&byte, 1}));
    memory.set_translation(nullptr, nullptr);
    EXPECT_TRUE(memory.read(ram_base, {&byte, 1}));
}

TEST_F(TranslatedMemoryTest, a_mapping_is_for_reading_or_writing_as_it_says)
{
    mappings[0x7000] = {ram_base, true, false};
    mappings[0x8000] = {ram_base, false, true};
    mappings[0x9000] = {rom_base, true, true};
    std::byte byte{};
    uint64_t old = 0;
    EXPECT_TRUE(memory.read(0x7000, {&byte, 1}));
    EXPECT_FALSE(memory.write(0x7000, {&byte, 1}));
    EXPECT_FALSE(memory.fetch_add(0x7000, 1, old));
    EXPECT_TRUE(memory.write(0x8000, {&byte, 1}));
    EXPECT_FALSE(memory.read(0x8000, {&byte, 1}));
    EXPECT_FALSE(memory.compare_swap(0x8000, 0, 1, old));
    EXPECT_TRUE(memory.read(0x9000, {&byte, 1}));
    EXPECT_FALSE(memory.write(0x9000, {&byte, 1})) << "ROM stays ROM";
    EXPECT_EQ(ram[0], std::byte{0});
}

TEST_F(TranslatedMemoryTest, a_page_is_asked_for_once_until_it_is_invalidated)
{
    mappings[0x7000] = {ram_base, true, true};
    uint32_t word = 0;
    for (uint64_t i = 0; i < 10; ++i) {
        EXPECT_TRUE(memory.load_acquire(0x7000 + 4 * i, word));
        EXPECT_TRUE(memory.store_release(0x7000 + 4 * i, 1));
    }
    EXPECT_EQ(asked, 2) << "for reading and for writing";
    mappings[0x7000] = {ram_base + page, true, true};
    memory.invalidate_translations();
    EXPECT_TRUE(memory.load_acquire(0x7000, word));
    EXPECT_EQ(word, 0u) << "of the other page";
    EXPECT_TRUE(memory.store_release(0x7000, 2));
    EXPECT_EQ(ram[page], std::byte{2});
    mappings.clear();
    memory.invalidate_translations();
    EXPECT_FALSE(memory.load_acquire(0x7000, word));
}

TEST_F(TranslatedMemoryTest, two_words_may_lie_in_two_pages)
{
    mappings[0x7000] = {ram_base + page, true, true};
    mappings[0x8000] = {ram_base, true, true};
    EXPECT_TRUE(memory.store_release(0x7ffc, 1));
    EXPECT_TRUE(memory.store_release(0x8000, 2));
    uint32_t first = 0;
    uint32_t second = 0;
    EXPECT_TRUE(memory.load_acquire(0x7ffc, first, second));
    EXPECT_EQ(first, 1u);
    EXPECT_EQ(second, 2u);
    EXPECT_TRUE(memory.load_acquire(0x8000, first, second));
    EXPECT_EQ(first, 2u);
    EXPECT_FALSE(memory.load_acquire(0x8002, first, second)) << "not aligned";
    EXPECT_FALSE(memory.load_acquire(0x8ffc, first, second)) << "no page for the second";
}

TEST_F(TranslatedMemoryTest, pages_of_one_slot_of_the_cache_are_told_apart)
{
    for (uint64_t i = 0; i < 3; ++i) {
        mappings[0x7000 + i * (page << 20)] = {ram_base + i * page, true, true};
    }
    for (int round = 0; round < 2; ++round) {
        for (uint64_t i = 0; i < 3; ++i) {
            EXPECT_TRUE(memory.write_object(0x7000 + i * (page << 20), i));
            uint64_t value = 0;
            EXPECT_TRUE(memory.read_object(0x7000 + i * (page << 20), value));
            EXPECT_EQ(value, i);
            EXPECT_EQ(std::memcmp(&ram[i * page], &value, 8), 0);
        }
    }
}

TEST_F(TranslatedMemoryTest, the_dirty_log_has_addresses_of_the_table)
{
    std::vector<uint64_t> dirty;
    memory.set_dirty_log(
        true,
        [](void* opaque, uint64_t gpa, uint64_t) {
            static_cast<std::vector<uint64_t>*>(opaque)->push_back(gpa);
        },
        &dirty);
    mappings[0x7000] = {ram_base + page, true, true};
    EXPECT_TRUE(memory.store_release(0x7010, 1));
    EXPECT_EQ(dirty, std::vector<uint64_t>{ram_base + page + 0x10});
}

// As QEMU's intel-iommu does at the first access of a device that the guest has given an identity
// mapping.
TEST_F(TranslatedMemoryTest, an_iommu_that_turns_itself_off_as_it_is_asked_is_no_failure)
{
    while_asked = [this] { memory.set_translation(nullptr, nullptr); };
    std::byte byte{1};
    EXPECT_TRUE(memory.write(ram_base, {&byte, 1}));
    EXPECT_EQ(ram[0], std::byte{1});
    EXPECT_EQ(asked, 1);
}

// An IOMMU tells the guest what it refuses, by an interrupt that the guest may have sent anywhere.
TEST_F(TranslatedMemoryTest, what_is_taken_away_while_it_is_translated_is_not_accessed)
{
    mappings[0x7000] = {ram_base, true, true};
    std::byte byte{1};
    while_asked = [this] { memory.invalidate_translations(); };
    EXPECT_FALSE(memory.write(0x7000, {&byte, 1}));
    while_asked = [this] { memory.end_access(); };
    EXPECT_FALSE(memory.write(0x7000, {&byte, 1}));
    while_asked = [this] { memory.set_table({}); };
    EXPECT_FALSE(memory.write(0x7000, {&byte, 1}));
    while_asked = [this] { memory.set_translation(nullptr, nullptr); };
    EXPECT_FALSE(memory.write(0x7000, {&byte, 1}));
    EXPECT_EQ(ram[0], std::byte{0});
}

} // namespace
} // namespace rdma
