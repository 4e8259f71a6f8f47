// SPDX-License-Identifier: GPL-2.0-or-later
//
// Deadlines of queue pairs, one each. Putting a deadline off, which happens
// with every acknowledgement, costs nothing: the queue's entry stays at the
// earlier time and is put back when it comes up. The queue has at most twice as
// many entries as owners that wait, and a few.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace rdma::roce {

inline constexpr int64_t no_deadline = std::numeric_limits<int64_t>::max();

// The part of it in each queue pair.
struct Timer {
    int64_t deadline = no_deadline; // nanoseconds
    int64_t queued = no_deadline;   // the entry that stands for it
};

class TimerQueue {
public:
    // id names the owner of timer.
    void set(Timer& timer, uint32_t id, int64_t deadline)
    {
        timer.deadline = deadline;
        if (deadline < timer.queued) {
            timer.queued = deadline;
            _heap.push_back({deadline, id});
            std::ranges::push_heap(_heap, later);
        }
    }

    // When expire() should be called next; may be early, never late.
    int64_t next() const { return _heap.empty() ? no_deadline : _heap.front().deadline; }

    // Calls fire(id) for deadlines that have come, at most limit of them: where
    // next() is still in the past, call again. find(id) is the timer of an owner,
    // or null when it has gone.
    template <typename Find, typename Fire>
    void expire(int64_t now, unsigned limit, Find&& find, Fire&& fire)
    {
        while (limit > 0 && !_heap.empty() && _heap.front().deadline <= now) {
            Entry entry = _heap.front();
            std::ranges::pop_heap(_heap, later);
            _heap.pop_back();
            Timer* timer = find(entry.id);
            if (!timer || timer->queued != entry.deadline) {
                continue; // superseded by an earlier entry, or the owner has gone
            }
            timer->queued = no_deadline;
            if (timer->deadline > now) {
                if (timer->deadline != no_deadline) {
                    set(*timer, entry.id, timer->deadline);
                }
                continue;
            }
            timer->deadline = no_deadline;
            --limit;
            fire(entry.id);
        }
    }

    // Removes what nobody waits for: entries of owners that have gone, and those
    // that an earlier deadline has superseded, which may lie hours ahead. To be
    // called now and then; most calls do nothing.
    template <typename Find>
    void tidy(Find&& find)
    {
        if (_heap.size() < _tidy_at) {
            return;
        }
        std::erase_if(_heap, [&](const Entry& entry) {
            Timer* timer = find(entry.id);
            return !timer || timer->queued != entry.deadline;
        });
        std::ranges::make_heap(_heap, later);
        _tidy_at = std::max(min_tidy, 2 * _heap.size());
    }

    void clear() { _heap.clear(); }
    size_t size() const { return _heap.size(); }

private:
    static constexpr size_t min_tidy = 64; // entries

    struct Entry {
        int64_t deadline;
        uint32_t id;
    };
    static bool later(const Entry& a, const Entry& b) { return a.deadline > b.deadline; }
    std::vector<Entry> _heap;
    size_t _tidy_at = min_tidy;
};

} // namespace rdma::roce
