// SPDX-License-Identifier: GPL-2.0-or-later
//
// Pages of guest memory as one contiguous piece, for the host's RDMA device.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include <gtest/gtest.h>

#include "backend.h"
#include "memory_mapping.h"

namespace rdma::verbs {
namespace {

constexpr uint64_t base = 0x100000;
constexpr uint64_t size = 16 * page_size;
constexpr uint64_t hole = 3 * page_size; // of the file, before the guest's memory
constexpr uint64_t huge = 2 << 20;

class MemoryMappingTest : public testing::Test {
protected:
    explicit MemoryMappingTest(unsigned flags = 0, uint64_t bytes = size + hole)
        : _bytes(bytes), _fd(memfd_create("guest", MFD_CLOEXEC | flags))
    {
        void* mapped = MAP_FAILED;
        if (_fd >= 0 && ftruncate(_fd, static_cast<off_t>(bytes)) == 0) {
            mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, _fd, 0);
        }
        if (mapped != MAP_FAILED) {
            _file = static_cast<std::byte*>(mapped);
        }
    }
    ~MemoryMappingTest() override
    {
        if (_file) {
            munmap(_file, _bytes);
        }
        close(_fd);
    }

    // The guest's memory as it is usually: one region, not at the file's beginning.
    void set_usual()
    {
        RdmaMemoryRegion region{base, size, _file + hole, false, true, _fd, hole};
        memory.set_table({&region, 1});
    }
    std::byte* guest(uint64_t gpa) { return _file + hole + (gpa - base); }
    int error_of(std::span<const uint64_t> pages)
    {
        auto mapping = MemoryMapping::make(memory, pages);
        return mapping ? 0 : mapping.error().code;
    }
    // Each page of the mapping is that page of the guest, both ways.
    void expect_same(const MemoryMapping& mapping, std::span<const uint64_t> pages)
    {
        for (size_t i = 0; i < pages.size(); ++i) {
            auto* here = mapping.data() + i * page_size + 100;
            auto* there = guest(pages[i]) + 100;
            *there = static_cast<std::byte>(i + 1);
            EXPECT_EQ(*here, static_cast<std::byte>(i + 1)) << i;
            *here = static_cast<std::byte>(i + 101);
            EXPECT_EQ(*there, static_cast<std::byte>(i + 101)) << i;
        }
    }

    GuestMemory memory;
    uint64_t _bytes;
    int _fd;
    std::byte* _file = nullptr;
};

TEST_F(MemoryMappingTest, neighbouring_pages_are_one_mapping)
{
    set_usual();
    std::vector<uint64_t> pages(16);
    for (size_t i = 0; i < pages.size(); ++i) {
        pages[i] = base + i * page_size;
    }
    auto mapping = MemoryMapping::make(memory, pages);
    ASSERT_TRUE(mapping.has_value());
    EXPECT_EQ(mapping->runs(), 1u);
    expect_same(*mapping, pages);
}

TEST_F(MemoryMappingTest, scattered_pages_lie_one_behind_the_other)
{
    set_usual();
    const uint64_t pages[] = {base + 5 * page_size, base + 6 * page_size, base,
                              base + 9 * page_size, base + 8 * page_size};
    auto mapping = MemoryMapping::make(memory, pages);
    ASSERT_TRUE(mapping.has_value());
    EXPECT_EQ(mapping->runs(), 4u);
    expect_same(*mapping, pages);
}

TEST_F(MemoryMappingTest, a_page_may_come_twice)
{
    set_usual();
    const uint64_t pages[] = {base, base, base + page_size};
    auto mapping = MemoryMapping::make(memory, pages);
    ASSERT_TRUE(mapping.has_value());
    *guest(base) = std::byte{7};
    EXPECT_EQ(mapping->data()[0], std::byte{7});
    EXPECT_EQ(mapping->data()[page_size], std::byte{7});
}

TEST_F(MemoryMappingTest, neighbours_in_the_file_are_one_mapping_across_regions)
{
    RdmaMemoryRegion regions[] = {
        {base, 2 * page_size, _file, false, true, _fd, 0},
        {uint64_t{1} << 32, 2 * page_size, _file + 2 * page_size, false, true, _fd, 2 * page_size}};
    memory.set_table(regions);
    const uint64_t pages[] = {base + page_size, uint64_t{1} << 32};
    auto mapping = MemoryMapping::make(memory, pages);
    ASSERT_TRUE(mapping.has_value());
    EXPECT_EQ(mapping->runs(), 1u);
    _file[2 * page_size] = std::byte{9};
    EXPECT_EQ(mapping->data()[page_size], std::byte{9});
}

TEST_F(MemoryMappingTest, what_is_not_shared_memory_is_refused)
{
    std::byte* file = _file;
    RdmaMemoryRegion regions[] = {
        {base, 2 * page_size, file, false, true, _fd, 0},
        {base + 2 * page_size, page_size, file, true, true, _fd, 0},    // ROM
        {base + 3 * page_size, page_size, file, false, false, 0, 0},    // not shared
        {base + 4 * page_size, 100, file, false, true, _fd, 0},         // part of a page
        {base + 6 * page_size, page_size, file, false, true, _fd, 100}, // not on pages
    };
    memory.set_table(regions);
    for (uint64_t bad : {2u, 3u, 4u, 5u, 6u}) {
        const uint64_t pages[] = {base, base + bad * page_size};
        EXPECT_EQ(error_of(pages), EFAULT) << bad;
        EXPECT_EQ(error_of(std::span(pages).last(1)), EFAULT) << bad;
    }
    const uint64_t odd = base + 1;
    EXPECT_EQ(error_of({&odd, 1}), EFAULT);
    const uint64_t good[] = {base, base + page_size};
    EXPECT_EQ(error_of(good), 0);
}

TEST_F(MemoryMappingTest, it_outlives_the_memory_table)
{
    set_usual();
    const uint64_t page = base;
    auto mapping = MemoryMapping::make(memory, {&page, 1});
    ASSERT_TRUE(mapping.has_value());
    memory.set_table({});
    *guest(base) = std::byte{5};
    MemoryMapping moved = std::move(*mapping);
    EXPECT_EQ(*moved.data(), std::byte{5});
    EXPECT_EQ(mapping->data(), nullptr);
}

TEST_F(MemoryMappingTest, it_has_no_more_runs_than_allowed)
{
    set_usual();
    const uint64_t pages[] = {base, base + page_size, base + 5 * page_size};
    EXPECT_TRUE(MemoryMapping::make(memory, pages, 2).has_value());
    auto refused = MemoryMapping::make(memory, pages, 1);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, ENOMEM);
    EXPECT_FALSE(MemoryMapping::make(memory, pages, 0).has_value());
    EXPECT_GE(MemoryMapping::max_process_runs(), 1000u);
}

class HugePages : public MemoryMappingTest {
protected:
    HugePages() : MemoryMappingTest(MFD_HUGETLB, 4 * huge) {}

    void SetUp() override
    {
        if (!_file) {
            GTEST_SKIP() << "no huge pages (vm.nr_hugepages)";
        }
        RdmaMemoryRegion region{0, 4 * huge, _file, false, true, _fd, 0};
        memory.set_table({&region, 1});
    }
};

TEST_F(HugePages, pages_must_lie_together)
{
    std::vector<uint64_t> pages(600);
    for (size_t i = 0; i < pages.size(); ++i) {
        pages[i] = huge - 10 * page_size + i * page_size;
    }
    auto mapping = MemoryMapping::make(memory, pages);
    ASSERT_TRUE(mapping.has_value());
    EXPECT_EQ(mapping->runs(), 1u);
    _file[huge] = std::byte{3};
    EXPECT_EQ(mapping->data()[10 * page_size], std::byte{3});
    // Whole huge pages in another order do; two pieces of one page do not.
    std::rotate(pages.begin(), pages.begin() + 10, pages.end());
    EXPECT_EQ(error_of(pages), EOPNOTSUPP);
    const uint64_t apart[] = {0, 5 * page_size};
    EXPECT_EQ(error_of(apart), EOPNOTSUPP);
}

} // namespace
} // namespace rdma::verbs
