// SPDX-License-Identifier: GPL-2.0-or-later
#include "idle_polls.h"

#include <gtest/gtest.h>

namespace rdma {
namespace {

// How many of count polls by a page ask for a pause.
int pauses(IdlePolls& polls, uint32_t page, unsigned count)
{
    int result = 0;
    for (unsigned i = 0; i < count; ++i) {
        result += polls.poll(page);
    }
    return result;
}

TEST(IdlePolls, AskForOnePauseInSixteen)
{
    IdlePolls polls;
    EXPECT_EQ(pauses(polls, 1, 15), 0);
    EXPECT_TRUE(polls.poll(1));
    EXPECT_EQ(pauses(polls, 1, 160), 10);
}

TEST(IdlePolls, BeginAnewAfterProgress)
{
    IdlePolls polls;
    for (int i = 0; i < 100; ++i) {
        EXPECT_EQ(pauses(polls, 1, 15), 0);
        polls.progress();
    }
}

TEST(IdlePolls, AreCountedByPage)
{
    IdlePolls polls;
    EXPECT_EQ(pauses(polls, 1, 15), 0);
    EXPECT_EQ(pauses(polls, 2, 15), 0);
    EXPECT_TRUE(polls.poll(1));
    EXPECT_TRUE(polls.poll(2));
    // Pages that share a counter take it from each other.
    EXPECT_EQ(pauses(polls, 1, 15), 0);
    EXPECT_EQ(pauses(polls, 17, 15), 0);
    EXPECT_EQ(pauses(polls, 1, 15), 0);
}

} // namespace
} // namespace rdma
