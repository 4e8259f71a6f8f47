// SPDX-License-Identifier: GPL-2.0-or-later
#include "timer_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace rdma::test {
namespace {

using namespace roce;

// Owners by id, as an engine has them.
class Owners {
public:
    Timer& operator[](uint32_t id) { return _timers[id]; }
    void remove(uint32_t id) { _timers.erase(id); }
    auto find()
    {
        return [this](uint32_t id) -> Timer* {
            auto timer = _timers.find(id);
            return timer == _timers.end() ? nullptr : &timer->second;
        };
    }

private:
    std::map<uint32_t, Timer> _timers;
};

constexpr int64_t hours = 3600'000'000'000;

// Every deadline fires once and in time, whatever was set, put off or tidied
// away before.
TEST(TimerQueue, FiresEachDeadlineOnce)
{
    std::mt19937 random(1);
    TimerQueue queue;
    Owners owners;
    std::map<uint32_t, int64_t> model;
    int64_t now = 0;
    for (int step = 0; step < 100'000; ++step) {
        auto id = static_cast<uint32_t>(random() % 50);
        switch (random() % 8) {
        case 0:
            owners.remove(id);
            model.erase(id);
            break;
        case 1:
            queue.set(owners[id], id, no_deadline);
            model.erase(id);
            break;
        case 2:
            queue.tidy(owners.find());
            break;
        case 3: {
            now += random() % 1000;
            std::map<uint32_t, int64_t> due;
            std::erase_if(model, [&](const auto& entry) {
                return entry.second <= now && due.insert(entry).second;
            });
            queue.expire(now, UINT_MAX, owners.find(), [&](uint32_t fired) {
                ASSERT_EQ(due.erase(fired), 1u) << "step " << step;
            });
            ASSERT_TRUE(due.empty()) << "step " << step;
            break;
        }
        default: {
            int64_t deadline = now + 1 + static_cast<int64_t>(random() % 5000);
            queue.set(owners[id], id, deadline);
            model[id] = deadline;
        }
        }
        for (const auto& [owner, deadline] : model) {
            ASSERT_LE(queue.next(), deadline) << "step " << step;
        }
    }
}

// A timeout may be hours ahead. Queue pairs that come and go, and short waits
// in between, must not pile up entries until then.
TEST(TimerQueue, DoesNotGrowWithWhatNobodyWaitsFor)
{
    TimerQueue queue;
    Owners owners;
    for (uint32_t id = 0; id < 10'000; ++id) {
        queue.set(owners[id], id, 2 * hours);
        owners.remove(id);
        queue.tidy(owners.find());
        ASSERT_LE(queue.size(), 64u);
    }
    int64_t now = 0;
    for (int round = 0; round < 10'000; ++round) {
        now += 1000;
        queue.set(owners[1], 1, now + 2 * hours);
        queue.set(owners[1], 1, now + 500);
        queue.tidy(owners.find());
        queue.expire(now + 500, UINT_MAX, owners.find(), [](uint32_t) {});
        ASSERT_LE(queue.size(), 66u);
    }
}

struct TimersInOrder : testing::Test {
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

TEST_F(TimersInOrder, timers_fire_in_order_once)
{
    set(1, 30);
    set(2, 10);
    set(3, 20);
    EXPECT_EQ(expire(9), Ids{});
    EXPECT_EQ(expire(20), (Ids{2, 3}));
    EXPECT_EQ(expire(100), Ids{1});
    EXPECT_EQ(queue.next(), no_deadline);
}

TEST_F(TimersInOrder, a_timer_put_off_fires_at_the_later_time)
{
    set(1, 10);
    set(1, 50);
    EXPECT_LE(queue.next(), 50);
    EXPECT_EQ(expire(10), Ids{});
    EXPECT_EQ(queue.next(), 50);
    set(1, no_deadline);
    EXPECT_EQ(expire(50), Ids{});
}

TEST_F(TimersInOrder, a_timer_brought_forward_fires_once)
{
    set(1, 50);
    set(1, 10);
    EXPECT_EQ(expire(10), Ids{1});
    EXPECT_EQ(expire(50), Ids{});
}

TEST_F(TimersInOrder, the_timer_of_what_has_gone_does_not_fire)
{
    set(1, 10);
    timers.erase(1);
    EXPECT_EQ(expire(10), Ids{});
}

// A guest can have all its QPs time out at once; the thread is not theirs for
// so long.
TEST_F(TimersInOrder, no_more_fire_at_once_than_allowed_and_none_is_forgotten)
{
    for (uint32_t id = 0; id < 5; ++id) {
        set(id, 10);
    }
    EXPECT_EQ(expire(10, 3).size(), 3u);
    EXPECT_EQ(queue.next(), 10) << "the rest is due at once";
    EXPECT_EQ(expire(10, 3).size(), 2u);
    EXPECT_EQ(queue.next(), no_deadline);
}

} // namespace
} // namespace rdma::test
