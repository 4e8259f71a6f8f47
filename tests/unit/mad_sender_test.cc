// SPDX-License-Identifier: GPL-2.0-or-later
//
// Sending on threads: order, shares, and what becomes of destinations that do not answer.
// A stand-in for the host keeps a destination waiting until the test lets it go.
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "../cm_messages.h"
#include "mad_sender.h"

namespace rdma::test {
namespace {

using verbs::MadSender;

// Destinations by the last byte of their address; what is sent, by its first id.
class Host {
public:
    bool send(const Mad& mad)
    {
        uint8_t to = mad.peer.raw[15];
        std::unique_lock lock(_mutex);
        _begun.push_back({to, word_at(mad, cm_data_at)});
        _changed.notify_all();
        _changed.wait(lock, [&] { return !_held.contains(to); });
        _sent.push_back({to, word_at(mad, cm_data_at)});
        _changed.notify_all();
        return !_dead.contains(to);
    }
    void hold(uint8_t to)
    {
        std::lock_guard lock(_mutex);
        _held.insert(to);
    }
    void let_go(uint8_t to, bool reached = true)
    {
        std::lock_guard lock(_mutex);
        _held.erase(to);
        if (!reached) {
            _dead.insert(to);
        }
        _changed.notify_all();
    }
    using Sent = std::vector<std::pair<uint8_t, uint32_t>>;
    Sent wait_sent(size_t count) { return wait(_sent, count); }
    Sent wait_begun(size_t count) { return wait(_begun, count); }

private:
    Sent wait(const Sent& list, size_t count)
    {
        std::unique_lock lock(_mutex);
        _changed.wait(lock, [&] { return list.size() >= count; });
        return list;
    }

    std::mutex _mutex;
    std::condition_variable _changed;
    std::set<uint8_t> _held;
    std::set<uint8_t> _dead;
    Sent _begun;
    Sent _sent;
};

Mad to(uint8_t destination, uint32_t id)
{
    Mad mad = cm_mad(CmKind::req, id);
    mad.peer = v4_gid(10, 0, 0, destination);
    return mad;
}

class MadSending : public testing::Test {
protected:
    // The threads may outlive the sender.
    std::shared_ptr<Host> host = std::make_shared<Host>();
    MadSender make(MadSender::Sizes sizes)
    {
        return {[host = host] { return [host](const Mad& mad) { return host->send(mad); }; },
                sizes};
    }
};

TEST_F(MadSending, datagrams_to_one_destination_keep_their_order)
{
    MadSender sender = make({.threads = 4, .threads_per_source = 4, .waiting_per_source = 64});
    for (uint32_t id = 0; id < 50; ++id) {
        ASSERT_TRUE(sender.send(to(1, id)));
    }
    auto sent = host->wait_sent(50);
    for (uint32_t id = 0; id < 50; ++id) {
        EXPECT_EQ(sent[id].second, id);
    }
}

TEST_F(MadSending, a_destination_that_waits_keeps_no_other_waiting)
{
    MadSender sender = make({.threads = 2, .threads_per_source = 2, .waiting_per_source = 64});
    host->hold(1);
    ASSERT_TRUE(sender.send(to(1, 0)));
    ASSERT_TRUE(sender.send(to(1, 1)));
    host->wait_begun(1);
    for (uint32_t id = 2; id < 12; ++id) {
        ASSERT_TRUE(sender.send(to(2, id)));
    }
    auto sent = host->wait_sent(10);
    EXPECT_EQ(sent.front(), (std::pair<uint8_t, uint32_t>(2, 2)));
    EXPECT_EQ(sent.back(), (std::pair<uint8_t, uint32_t>(2, 11)));
    host->let_go(1);
    sent = host->wait_sent(12);
    EXPECT_EQ(sent[10].second, 0u);
    EXPECT_EQ(sent[11].second, 1u);
}

// As the daemon has it: two threads for each of as many sources as there may be.
TEST_F(MadSending, no_number_of_sources_that_wait_keeps_another_waiting)
{
    constexpr uint8_t others = 100;
    MadSender sender = make({.threads = 2 * (others + 1), .threads_per_source = 2});
    for (uint8_t source = 0; source < others; ++source) {
        for (uint8_t destination : {source, static_cast<uint8_t>(source + others)}) {
            host->hold(destination);
            ASSERT_TRUE(sender.send(to(destination, 0), source));
        }
    }
    host->wait_begun(2 * others);
    ASSERT_TRUE(sender.send(to(250, 7), others));
    auto sent = host->wait_sent(1);
    EXPECT_EQ(sent[0], (std::pair<uint8_t, uint32_t>(250, 7)));
    for (uint8_t destination = 0; destination < 2 * others; ++destination) {
        host->let_go(destination);
    }
    host->wait_sent(2 * others + 1);
}

TEST_F(MadSending, a_source_has_no_more_than_its_share)
{
    MadSender sender = make({.threads = 3, .threads_per_source = 2, .waiting_per_source = 4});
    for (uint8_t i = 1; i <= 6; ++i) {
        host->hold(i);
    }
    for (uint8_t i = 1; i <= 2; ++i) {
        ASSERT_TRUE(sender.send(to(i, i), 100));
    }
    host->wait_begun(2);
    for (uint8_t i = 3; i <= 6; ++i) {
        ASSERT_TRUE(sender.send(to(i, i), 100));
    }
    EXPECT_FALSE(sender.send(to(7, 7), 100)) << "two are begun, four wait";
    // Another's has a thread at once.
    ASSERT_TRUE(sender.send(to(8, 8), 200));
    EXPECT_EQ(host->wait_sent(1)[0].second, 8u);
    EXPECT_EQ(host->wait_begun(3).size(), 3u);
    for (uint8_t i = 1; i <= 6; ++i) {
        host->let_go(i);
    }
    host->wait_sent(7);
}

TEST_F(MadSending, what_waits_for_a_destination_that_is_not_reached_is_lost)
{
    MadSender sender = make({.threads = 1, .threads_per_source = 1, .waiting_per_source = 64});
    host->hold(1);
    ASSERT_TRUE(sender.send(to(1, 0)));
    host->wait_begun(1);
    for (uint32_t id = 1; id < 10; ++id) {
        ASSERT_TRUE(sender.send(to(1, id)));
    }
    ASSERT_TRUE(sender.send(to(2, 20)));
    host->let_go(1, false);
    auto sent = host->wait_sent(2);
    EXPECT_EQ(sent.size(), 2u);
    EXPECT_EQ(sent[1].second, 20u);
}

TEST_F(MadSending, of_a_source_that_has_gone_nothing_more_is_begun)
{
    MadSender sender = make({.threads = 1, .threads_per_source = 1, .waiting_per_source = 64});
    host->hold(1);
    ASSERT_TRUE(sender.send(to(1, 0), 100));
    host->wait_begun(1);
    ASSERT_TRUE(sender.send(to(1, 1), 100));
    ASSERT_TRUE(sender.send(to(2, 2), 100));
    ASSERT_TRUE(sender.send(to(2, 3), 200));
    sender.forget(100);
    host->let_go(1);
    EXPECT_EQ(host->wait_sent(2)[1].second, 3u);
}

TEST_F(MadSending, an_end_does_not_wait_for_what_has_been_begun)
{
    host->hold(1);
    {
        MadSender sender = make({.threads = 1, .threads_per_source = 1, .waiting_per_source = 64});
        ASSERT_TRUE(sender.send(to(1, 0)));
        host->wait_begun(1);
        ASSERT_TRUE(sender.send(to(2, 1)));
    }
    host->let_go(1);
    EXPECT_EQ(host->wait_sent(1).size(), 1u);
}

} // namespace
} // namespace rdma::test
