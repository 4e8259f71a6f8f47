// SPDX-License-Identifier: GPL-2.0-or-later
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "timer_queue.h"

namespace rdma::roce {

namespace {

struct TimerQueueTest : testing::Test {
    std::vector<uint32_t> expire(int64_t now, unsigned limit = 1000)
    {
        std::vector<uint32_t> fired;
        queue.expire(
            now, limit,
            [this](uint32_t id) {
                auto it = timers.find(id);
                return it == timers.end() ? nullptr : &it->second;
            },
            [&](uint32_t id) { fired.push_back(id); });
        return fired;
    }
    void set(uint32_t id, int64_t deadline) { queue.set(timers[id], id, deadline); }

    TimerQueue queue;
    std::map<uint32_t, Timer> timers;
};

using Ids = std::vector<uint32_t>;

} // namespace

TEST_F(TimerQueueTest, timers_fire_in_order_once)
{
    set(1, 30);
    set(2, 10);
    set(3, 20);
    EXPECT_EQ(expire(9), Ids{});
    EXPECT_EQ(expire(20), (Ids{2, 3}));
    EXPECT_EQ(expire(100), Ids{1});
    EXPECT_EQ(queue.next(), no_deadline);
}

TEST_F(TimerQueueTest, a_timer_put_off_fires_at_the_later_time)
{
    set(1, 10);
    set(1, 50);
    EXPECT_LE(queue.next(), 50);
    EXPECT_EQ(expire(10), Ids{});
    EXPECT_EQ(queue.next(), 50);
    set(1, no_deadline);
    EXPECT_EQ(expire(50), Ids{});
}

TEST_F(TimerQueueTest, a_timer_brought_forward_fires_once)
{
    set(1, 50);
    set(1, 10);
    EXPECT_EQ(expire(10), Ids{1});
    EXPECT_EQ(expire(50), Ids{});
}

TEST_F(TimerQueueTest, the_timer_of_what_has_gone_does_not_fire)
{
    set(1, 10);
    timers.erase(1);
    EXPECT_EQ(expire(10), Ids{});
}

// A guest can have all its QPs time out at once; the thread is not theirs for
// so long.
TEST_F(TimerQueueTest, no_more_fire_at_once_than_allowed_and_none_is_forgotten)
{
    for (uint32_t id = 0; id < 5; ++id) {
        set(id, 10);
    }
    EXPECT_EQ(expire(10, 3).size(), 3u);
    EXPECT_EQ(queue.next(), 10) << "the rest is due at once";
    EXPECT_EQ(expire(10, 3).size(), 2u);
    EXPECT_EQ(queue.next(), no_deadline);
}

} // namespace rdma::roce
