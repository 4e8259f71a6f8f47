// SPDX-License-Identifier: GPL-2.0-or-later
#include <gtest/gtest.h>

#include "pvrdma_guest.h"

namespace rdma::test {

namespace {

using State = GuestRing::State;

struct RingTest : testing::Test {
    GuestMemory memory;
    GuestRam ram{memory};
    uint64_t state = ram.page();
    std::vector<uint64_t> pages = ram.pages(2);
    // 8 slots of 1 KiB in two pages.
    GuestRing ring{state, pages, 1024, 8};
    DriverRing driver{ram, state, pages, 1024, 8};
};
using PvrdmaRing = RingTest;

} // namespace

TEST_F(PvrdmaRing, is_empty_at_first)
{
    EXPECT_EQ(ring.peek(memory).state, State::none);
    EXPECT_EQ(ring.reserve(memory).state, State::ready);
}

TEST_F(PvrdmaRing, gives_entries_in_order_for_several_turns)
{
    for (uint32_t i = 0; i < 40; ++i) {
        driver.next<uint32_t>() = i;
        driver.publish();
        GuestRing::Slot slot = ring.peek(memory);
        ASSERT_EQ(slot.state, State::ready);
        EXPECT_EQ(slot.gpa, pages[i % 8 / 4] + i % 4 * 1024);
        EXPECT_EQ(ram.at<uint32_t>(slot.gpa), i);
        ASSERT_TRUE(ring.consume(memory, slot));
        EXPECT_FALSE(driver.has_data());
    }
    EXPECT_EQ(driver.head(), 40u % 16);
}

TEST_F(PvrdmaRing, tells_full_from_empty)
{
    for (int i = 0; i < 8; ++i) {
        GuestRing::Slot slot = ring.reserve(memory);
        ASSERT_EQ(slot.state, State::ready);
        ASSERT_TRUE(ring.publish(memory, slot));
    }
    EXPECT_EQ(ring.reserve(memory).state, State::none);
    EXPECT_EQ(driver.unread(), 8u);
    driver.take<uint32_t>();
    EXPECT_EQ(ring.reserve(memory).state, State::ready);
}

TEST_F(PvrdmaRing, an_index_beyond_its_generation_bit_is_invalid)
{
    driver.tail() = 16;
    EXPECT_EQ(ring.peek(memory).state, State::invalid);
    driver.tail() = 0;
    driver.head() = 0xffffffff;
    EXPECT_EQ(ring.peek(memory).state, State::invalid);
    EXPECT_EQ(ring.reserve(memory).state, State::invalid);
}

TEST_F(PvrdmaRing, more_entries_than_slots_are_invalid)
{
    driver.tail() = 9;
    EXPECT_EQ(ring.peek(memory).state, State::invalid);
    driver.tail() = 8;
    EXPECT_EQ(ring.peek(memory).state, State::ready);
    driver.tail() = 0;
    driver.head() = 1; // a consumer ahead of the producer
    EXPECT_EQ(ring.reserve(memory).state, State::invalid);
}

TEST_F(PvrdmaRing, goes_on_where_the_driver_puts_the_indices)
{
    driver.publish();
    driver.publish();
    driver.tail() = driver.head() = 0; // reset of a queue
    EXPECT_EQ(ring.peek(memory).state, State::none);
    driver.publish();
    EXPECT_EQ(ring.peek(memory).gpa, pages[0]);
}

TEST_F(PvrdmaRing, a_state_that_cannot_be_written_is_told)
{
    GuestRing rom(GuestRam::rom, pages, 1024, 8);
    GuestRing::Slot slot = rom.reserve(memory);
    EXPECT_EQ(slot.state, State::ready);
    EXPECT_FALSE(rom.publish(memory, slot));
    EXPECT_FALSE(rom.consume(memory, slot));
}

TEST_F(PvrdmaRing, memory_that_is_gone_is_invalid)
{
    ram.unplug();
    EXPECT_EQ(ring.peek(memory).state, State::invalid);
    EXPECT_EQ(ring.reserve(memory).state, State::invalid);
}

TEST_F(PvrdmaRing, a_ring_without_slots_is_invalid)
{
    EXPECT_EQ(GuestRing().peek(memory).state, State::invalid);
    EXPECT_EQ(GuestRing().reserve(memory).state, State::invalid);
}

} // namespace rdma::test
