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
            queue.expire(now, owners.find(), [&](uint32_t fired) {
                ASSERT_EQ(due.erase(fired), 1u) << "step " << step;
            });
            ASSERT_TRUE(due.empty()) << "step " << step;
            break;
        }
        default: {
            int64_t deadline = now + 1 + random() % 5000;
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
        queue.expire(now + 500, owners.find(), [](uint32_t) {});
        ASSERT_LE(queue.size(), 66u);
    }
}

} // namespace
} // namespace rdma::test
