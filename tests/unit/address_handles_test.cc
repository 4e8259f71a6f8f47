// SPDX-License-Identifier: GPL-2.0-or-later
//
// Host address handles: made elsewhere, kept for the next request, and not too many.
// Once more under TSan by tools/test threads.
#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "address_handles.h"

namespace rdma::verbs {
namespace {

using Refusal = AddressHandles::Refusal;

// In place of the host: makes handles, and holds back those of slow destinations.
class Host {
public:
    Result<SharedAh> make(const ibv_ah_attr& attr)
    {
        std::unique_lock lock(_mutex);
        ++_made[attr.grh.flow_label];
        ++_working;
        _changed.notify_all();
        _changed.wait(lock, [&] { return !_slow.contains(attr.grh.flow_label); });
        --_working;
        if (_dead.contains(attr.grh.flow_label)) {
            return std::unexpected(EHOSTUNREACH);
        }
        most = std::max(most, ++_handles);
        return SharedAh(new ibv_ah{}, [this](ibv_ah* handle) {
            delete handle;
            std::lock_guard guard(_mutex);
            --_handles;
        });
    }
    void set_slow(uint32_t destination, bool slow)
    {
        put(_slow, destination, slow);
    }
    void set_dead(uint32_t destination, bool dead)
    {
        put(_dead, destination, dead);
    }
    void wait_working(size_t count)
    {
        std::unique_lock lock(_mutex);
        _changed.wait(lock, [&] { return _working >= count; });
    }
    size_t handles()
    {
        std::lock_guard lock(_mutex);
        return _handles;
    }
    size_t times_made(uint32_t destination)
    {
        std::lock_guard lock(_mutex);
        return _made[destination];
    }

    size_t most = 0; // handles at once

private:
    void put(std::set<uint32_t>& destinations, uint32_t destination, bool is_one)
    {
        std::lock_guard lock(_mutex);
        if (is_one) {
            destinations.insert(destination);
        } else {
            destinations.erase(destination);
        }
        _changed.notify_all();
    }

    std::mutex _mutex;
    std::condition_variable _changed;
    std::set<uint32_t> _slow;
    std::set<uint32_t> _dead;
    std::map<uint32_t, size_t> _made;
    size_t _working = 0;
    size_t _handles = 0;
};

ibv_ah_attr to(uint32_t destination)
{
    ibv_ah_attr attr{};
    attr.grh.flow_label = destination;
    return attr;
}

class AddressHandlesTest : public testing::Test {
protected:
    void wait_news()
    {
        std::unique_lock lock(_mutex);
        _told.wait(lock, [this] { return resolver.take_news(); });
    }
    // As a queue does whose first request goes there.
    std::expected<AddressHandles::Use, Refusal> get(uint32_t destination)
    {
        for (AddressHandles::Ticket waiting;;) {
            auto use = handles.acquire(to(destination), waiting);
            if (use || use.error() != Refusal::pending) {
                return use;
            }
            wait_news();
        }
    }
    void tell()
    {
        std::lock_guard lock(_mutex);
        _told.notify_all();
    }

    std::mutex _mutex;
    std::condition_variable _told;
    Host host;
    AddressResolver resolver{[this] { tell(); }};
    AddressHandles::Ticket ticket;
    AddressHandles handles{resolver, [this](ibv_ah_attr attr) { return host.make(attr); }};
};

TEST_F(AddressHandlesTest, a_handle_is_made_once)
{
    EXPECT_EQ(handles.acquire(to(1), ticket).error(), Refusal::pending);
    auto first = get(1);
    auto second = get(1);
    ASSERT_TRUE(first && second);
    EXPECT_EQ(first->handle, second->handle);
    EXPECT_EQ(host.times_made(1), 1u);
}

TEST_F(AddressHandlesTest, a_slow_destination_holds_up_no_other)
{
    host.set_slow(1, true);
    EXPECT_EQ(handles.acquire(to(1), ticket).error(), Refusal::pending);
    host.wait_working(1);
    EXPECT_TRUE(get(2).has_value());
    EXPECT_EQ(handles.acquire(to(1), ticket).error(), Refusal::pending);
    host.set_slow(1, false);
    EXPECT_TRUE(get(1).has_value());
    EXPECT_EQ(host.times_made(1), 1u);
}

TEST_F(AddressHandlesTest, what_cannot_be_reached_is_not_tried_at_once_again)
{
    host.set_dead(1, true);
    EXPECT_EQ(get(1).error(), Refusal::unreachable);
    EXPECT_EQ(get(1).error(), Refusal::unreachable);
    EXPECT_EQ(host.times_made(1), 1u);
}

TEST_F(AddressHandlesTest, ever_new_destinations_do_not_make_ever_more_handles)
{
    for (uint32_t destination = 0; destination < 3 * AddressHandles::max_entries; ++destination) {
        auto use = get(destination);
        ASSERT_TRUE(use.has_value());
        handles.release(use->index);
    }
    EXPECT_EQ(host.handles(), AddressHandles::max_entries);
    EXPECT_LE(host.most, AddressHandles::max_entries + AddressResolver::max_threads);
}

TEST_F(AddressHandlesTest, the_one_used_last_longest_ago_goes_first)
{
    for (uint32_t destination = 0; destination < AddressHandles::max_entries; ++destination) {
        handles.release(get(destination)->index);
    }
    handles.release(get(0)->index);
    handles.release(get(1000)->index); // in the place of 1
    handles.release(get(0)->index);
    EXPECT_EQ(host.times_made(0), 1u);
    handles.release(get(1)->index);
    EXPECT_EQ(host.times_made(1), 2u);
}

TEST_F(AddressHandlesTest, what_is_in_use_stays)
{
    std::vector<AddressHandles::Use> uses;
    for (uint32_t destination = 0; destination < AddressHandles::max_entries; ++destination) {
        uses.push_back(*get(destination));
    }
    EXPECT_EQ(handles.acquire(to(1000), ticket).error(), Refusal::full);
    EXPECT_EQ(host.handles(), AddressHandles::max_entries);
    handles.release(uses[7].index);
    EXPECT_TRUE(get(1000).has_value());
    EXPECT_EQ(get(7).error(), Refusal::full);
}

TEST_F(AddressHandlesTest, what_is_waited_for_stays)
{
    std::vector<AddressHandles::Ticket> tickets(AddressHandles::max_entries);
    for (uint32_t destination = 0; destination < AddressHandles::max_entries; ++destination) {
        EXPECT_EQ(handles.acquire(to(destination), tickets[destination]).error(), Refusal::pending);
    }
    while (!std::ranges::all_of(
        tickets, &AddressResolver::Request::is_done,
        [](const auto& held) -> auto& { return *held; })) {
        wait_news();
    }
    EXPECT_EQ(handles.acquire(to(1000), ticket).error(), Refusal::full);
    tickets[7].reset(); // given up
    EXPECT_TRUE(get(1000).has_value());
    EXPECT_TRUE(handles.acquire(to(8), tickets[8]).has_value());
    EXPECT_EQ(tickets[8], nullptr);
    EXPECT_EQ(host.times_made(8), 1u);
}

TEST_F(AddressHandlesTest, a_changed_gid_table_makes_all_handles_anew)
{
    auto in_use = get(1);
    handles.release(get(2)->index);
    handles.forget();
    EXPECT_EQ(host.handles(), 1u);
    auto anew = get(1);
    EXPECT_NE(anew->handle, in_use->handle);
    EXPECT_EQ(host.times_made(1), 2u);
    handles.release(in_use->index);
    EXPECT_EQ(host.handles(), 1u);
}

TEST_F(AddressHandlesTest, all_ends_while_a_handle_is_being_made)
{
    host.set_slow(1, true);
    EXPECT_EQ(handles.acquire(to(1), ticket).error(), Refusal::pending);
    host.wait_working(1);
    handles.clear();
    host.set_slow(1, false);
    EXPECT_TRUE(get(2).has_value());
}

TEST_F(AddressHandlesTest, many_queues_and_destinations)
{
    constexpr uint32_t destinations = 1000;
    struct Queue {
        uint32_t destination;
        AddressHandles::Ticket ticket;
    };
    std::vector<Queue> waiting;
    for (uint32_t destination = 0; destination < destinations; ++destination) {
        host.set_dead(destination, destination % 7 == 0);
        waiting.push_back({destination, nullptr});
    }
    size_t reached = 0;
    while (!waiting.empty()) {
        size_t before = waiting.size();
        std::erase_if(waiting, [&](Queue& queue) {
            auto use = handles.acquire(to(queue.destination), queue.ticket);
            if (use) {
                handles.release(use->index);
                ++reached;
            }
            return use || use.error() == Refusal::unreachable;
        });
        if (waiting.size() == before) {
            wait_news();
        }
    }
    EXPECT_EQ(reached, destinations - (destinations + 6) / 7);
    for (uint32_t destination = 0; destination < destinations; ++destination) {
        EXPECT_EQ(host.times_made(destination), 1u);
    }
}

} // namespace
} // namespace rdma::verbs
