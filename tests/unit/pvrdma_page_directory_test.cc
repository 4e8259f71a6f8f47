// SPDX-License-Identifier: GPL-2.0-or-later
#include "page_directory.h"

#include <gtest/gtest.h>

#include "pvrdma_guest.h"

namespace rdma::test {

namespace {

struct PvrdmaPageDirectory : testing::Test {
    bool read(uint64_t directory, size_t count)
    {
        pages.assign(count, 0);
        return read_page_directory(memory, directory, pages);
    }

    GuestMemory memory;
    GuestRam ram{memory};
    std::vector<uint64_t> pages;
};

} // namespace

TEST_F(PvrdmaPageDirectory, gives_the_pages_in_order)
{
    auto expected = ram.pages(3);
    ASSERT_TRUE(read(ram.directory(expected), 3));
    EXPECT_EQ(pages, expected);
}

TEST_F(PvrdmaPageDirectory, goes_on_in_the_next_table)
{
    auto expected = ram.pages(513);
    ASSERT_TRUE(read(ram.directory(expected), 513));
    EXPECT_EQ(pages, expected);
}

TEST_F(PvrdmaPageDirectory, reads_no_more_than_it_is_asked_for)
{
    auto some = ram.pages(2);
    uint64_t directory = ram.directory(some);
    ram.at<uint64_t>(directory + 8) = GuestRam::hole; // a second table
    EXPECT_TRUE(read(directory, 2));
}

TEST_F(PvrdmaPageDirectory, has_at_least_one_page_and_at_most_a_gigabyte)
{
    auto some = ram.pages(1);
    uint64_t directory = ram.directory(some);
    EXPECT_FALSE(read(directory, 0));
    EXPECT_FALSE(read(directory, page_dir_max_pages + 1));
}

TEST_F(PvrdmaPageDirectory, is_all_guest_memory)
{
    auto some = ram.pages(2);
    EXPECT_FALSE(read(GuestRam::hole, 2));
    uint64_t directory = ram.directory(some);
    EXPECT_FALSE(read(directory, 513)) << "there is no second table";
    some[1] = GuestRam::hole;
    EXPECT_FALSE(read(ram.directory(some), 2));
    some[1] = UINT64_MAX - 4095;
    EXPECT_FALSE(read(ram.directory(some), 2));
}

TEST_F(PvrdmaPageDirectory, is_all_aligned)
{
    auto some = ram.pages(2);
    uint64_t directory = ram.directory(some);
    EXPECT_FALSE(read(directory + 8, 1));
    some[1] += 8;
    EXPECT_FALSE(read(ram.directory(some), 2));
}

} // namespace rdma::test
