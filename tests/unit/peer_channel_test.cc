// SPDX-License-Identifier: GPL-2.0-or-later
//
// The control channel between devices, over the loopback interface: each device has an
// address of 127.0.0.0/8. What comes from others is written by the test itself.
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "counted_heap.h"
#include "peer_channel.h"

namespace rdma::verbs {
namespace {

constexpr std::chrono::seconds patience{10};

// A port that nobody has just now.
uint16_t free_port()
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    socklen_t size = sizeof(address);
    bind(fd, reinterpret_cast<sockaddr*>(&address), size);
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
    close(fd);
    return ntohs(address.sin_port);
}

ibv_gid gid_of(const char* address)
{
    ibv_gid gid{};
    gid.raw[10] = gid.raw[11] = 0xff;
    inet_pton(AF_INET, address, gid.raw + 12);
    return gid;
}

std::vector<uint8_t> bytes_of(std::string_view text)
{
    return {text.begin(), text.end()};
}

struct Device final : PeerChannel::Handler {
    struct Asked {
        PeerName from;
        PeerChannel::Asker asker;
        std::string body;
    };
    struct Answer {
        uint32_t id;
        std::optional<std::string> body;
    };

    Device(const char* address, uint16_t port) : gid(gid_of(address)), channel(*this, port, log())
    {
        channel.listen(gid);
    }
    PeerChannel::Log log()
    {
        return [this](int, std::string_view message) { logged.emplace_back(message); };
    }
    void peer_asks(const PeerName& from, const PeerChannel::Asker& asker,
                   std::span<const uint8_t> body) override
    {
        asked.push_back({from, asker, std::string(body.begin(), body.end())});
        if (answers) {
            channel.answer(asker, body);
        }
    }
    void peer_answers(uint32_t id, std::optional<std::span<const uint8_t>> body) override
    {
        answered.push_back({id, body ? std::optional(std::string(body->begin(), body->end()))
                                     : std::nullopt});
    }

    bool is_peer(const PeerName&) const override
    {
        ++looks;
        return trusts;
    }

    ibv_gid gid;
    bool answers = true;
    bool trusts = true;
    mutable size_t looks = 0; // for whether somebody is a peer
    std::vector<Asked> asked;
    std::vector<Answer> answered;
    std::vector<std::string> logged;
    PeerChannel channel;
};

class PeerChannelTest : public testing::Test {
protected:
    bool run_until(const std::function<bool()>& done)
    {
        auto end = std::chrono::steady_clock::now() + patience;
        while (!done() && std::chrono::steady_clock::now() < end) {
            pollfd fds[] = {{a.channel.fd(), POLLIN, 0}, {b.channel.fd(), POLLIN, 0}};
            poll(fds, 2, 100);
            a.channel.handle();
            b.channel.handle();
        }
        return done();
    }
    sockaddr_in address_of(uint32_t address, uint16_t at)
    {
        sockaddr_in in{};
        in.sin_family = AF_INET;
        in.sin_port = htons(at);
        in.sin_addr.s_addr = htonl(address);
        return in;
    }
    // A connection of nobody's that b has taken, or will take.
    int connect_to_b(uint32_t from = INADDR_LOOPBACK)
    {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in own = address_of(from, 0);
        sockaddr_in to = address_of(0x7f000102, port);
        EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&own), sizeof(own)), 0);
        EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
        return fd;
    }
    static bool is_closed_now(int fd)
    {
        char byte;
        return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
    }
    bool is_closed(int fd)
    {
        return run_until([fd] { return is_closed_now(fd); });
    }

    uint16_t port = free_port();
    Device a{"127.0.1.1", port};
    Device b{"127.0.1.2", port};
    PeerName b_of_a{a.gid, b.gid};
    PeerName a_of_b{b.gid, a.gid};
};

TEST_F(PeerChannelTest, a_question_is_answered_and_names_who_asks)
{
    uint32_t id = a.channel.ask(b_of_a, PeerMessage::find, bytes_of("which?"));
    ASSERT_TRUE(run_until([&] { return a.answered.size() == 1; }));
    EXPECT_EQ(a.answered[0].id, id);
    EXPECT_EQ(a.answered[0].body, "which?");
    ASSERT_EQ(b.asked.size(), 1u);
    EXPECT_TRUE(b.asked[0].from == a_of_b);
    EXPECT_EQ(b.asked[0].asker.kind, PeerMessage::find);
}

TEST_F(PeerChannelTest, large_messages_pass_in_both_directions)
{
    std::vector<uint8_t> large(3 << 20, 0x5a);
    a.channel.ask(b_of_a, PeerMessage::move, large);
    b.channel.ask(a_of_b, PeerMessage::move, large);
    ASSERT_TRUE(run_until([&] { return a.answered.size() == 1 && b.answered.size() == 1; }));
    EXPECT_EQ(a.answered[0].body->size(), large.size());
    EXPECT_EQ(b.answered[0].body->size(), large.size());
}

TEST_F(PeerChannelTest, answers_may_come_late_and_in_any_order)
{
    b.answers = false;
    uint32_t first = a.channel.ask(b_of_a, PeerMessage::suspend, bytes_of("1"));
    uint32_t second = a.channel.ask(b_of_a, PeerMessage::suspend, bytes_of("2"));
    ASSERT_TRUE(run_until([&] { return b.asked.size() == 2; }));
    b.channel.answer(b.asked[1].asker, bytes_of("second"));
    b.channel.answer(b.asked[0].asker, bytes_of("first"));
    ASSERT_TRUE(run_until([&] { return a.answered.size() == 2; }));
    EXPECT_EQ(a.answered[0].id, second);
    EXPECT_EQ(a.answered[0].body, "second");
    EXPECT_EQ(a.answered[1].id, first);
}

TEST_F(PeerChannelTest, nobody_there_is_no_answer)
{
    PeerName nobody{a.gid, gid_of("127.0.1.3")};
    uint32_t id = a.channel.ask(nobody, PeerMessage::find, {});
    ASSERT_TRUE(run_until([&] { return a.answered.size() == 1; }));
    EXPECT_EQ(a.answered[0].id, id);
    EXPECT_FALSE(a.answered[0].body);
    // Addresses of one link alone have nobody.
    ibv_gid link_local{};
    link_local.raw[0] = 0xfe;
    link_local.raw[1] = 0x80;
    a.channel.ask({a.gid, link_local}, PeerMessage::find, {});
    ASSERT_TRUE(run_until([&] { return a.answered.size() == 2; }));
    EXPECT_FALSE(a.answered[1].body);
}

TEST_F(PeerChannelTest, who_has_gone_does_not_answer_any_more)
{
    b.answers = false;
    a.channel.ask(b_of_a, PeerMessage::suspend, {});
    ASSERT_TRUE(run_until([&] { return b.asked.size() == 1; }));
    b.channel.close();
    ASSERT_TRUE(run_until([&] { return a.answered.size() == 1; }));
    EXPECT_FALSE(a.answered[0].body);
    b.channel.answer(b.asked[0].asker, {}); // to nobody
    // It is found again where it listens again.
    b.answers = true;
    b.channel.listen(b.gid);
    a.channel.ask(b_of_a, PeerMessage::suspend, {});
    ASSERT_TRUE(run_until([&] { return a.answered.size() == 2; }));
    EXPECT_TRUE(a.answered[1].body);
}

TEST_F(PeerChannelTest, an_address_that_is_given_up_has_nobody)
{
    b.channel.ignore(b.gid);
    a.channel.ask(b_of_a, PeerMessage::find, {});
    ASSERT_TRUE(run_until([&] { return a.answered.size() == 1; }));
    EXPECT_FALSE(a.answered[0].body);
}

TEST_F(PeerChannelTest, an_address_that_is_taken_is_told)
{
    Device other("127.0.1.2", port);
    ASSERT_EQ(other.logged.size(), 1u);
    EXPECT_NE(other.logged[0].find("127.0.1.2"), std::string::npos);
}

TEST_F(PeerChannelTest, what_is_no_frame_ends_the_connection)
{
    const std::vector<std::vector<uint8_t>> wrong = {
        {0xff, 0xff, 0xff, 0xff},                              // too long
        {7, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0},                     // too short
        {8, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0},                  // of another version
        {8, 0, 0, 0, 1, 0x80, 2, 0, 1, 0, 0, 0},               // an answer to no question
    };
    for (const auto& bytes : wrong) {
        int fd = connect_to_b();
        ASSERT_EQ(send(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
        EXPECT_TRUE(is_closed(fd));
        close(fd);
    }
    EXPECT_TRUE(b.asked.empty());
    // Others are still served.
    a.channel.ask(b_of_a, PeerMessage::find, {});
    EXPECT_TRUE(run_until([&] { return a.answered.size() == 1; }));
}

TEST_F(PeerChannelTest, a_frame_may_come_in_pieces)
{
    int fd = connect_to_b();
    const std::vector<uint8_t> bytes = {10, 0, 0, 0, 1, 0, 2, 0, 9, 0, 0, 0, 'o', 'k'};
    for (uint8_t byte : bytes) {
        ASSERT_EQ(send(fd, &byte, 1, 0), 1);
        a.channel.handle();
        b.channel.handle();
    }
    ASSERT_TRUE(run_until([&] { return b.asked.size() == 1; }));
    EXPECT_EQ(b.asked[0].body, "ok");
    EXPECT_EQ(b.asked[0].asker.id, 9u);
    close(fd);
}

TEST_F(PeerChannelTest, one_that_takes_no_answers_is_dropped)
{
    int fd = connect_to_b();
    std::vector<uint8_t> question;
    append_frame(question, 1, 1, std::vector<uint8_t>(1 << 20));
    // b answers each with as much, which is not read.
    EXPECT_TRUE(run_until([&] {
        return send(fd, question.data(), question.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
               errno != EAGAIN;
    }));
    close(fd);
}

TEST_F(PeerChannelTest, a_stranger_that_takes_no_answers_is_dropped_early)
{
    b.trusts = false;
    int fd = connect_to_b();
    int small = 4096; // what the kernel holds of answers
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    std::vector<uint8_t> questions;
    size_t sent = 0;
    append_frame(questions, 1, 1, std::vector<uint8_t>(8));
    while (questions.size() < 65536) {
        append_frame(questions, 1, 1, std::vector<uint8_t>(8));
    }
    EXPECT_TRUE(run_until([&] {
        ssize_t n = send(fd, questions.data(), questions.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        sent += static_cast<size_t>(std::max<ssize_t>(n, 0));
        return n < 0 && errno != EAGAIN;
    }));
    // Of 16 MB none can be answered but what the kernel takes.
    EXPECT_LT(sent, size_t{16} << 20);
    close(fd);
}

// What has been sent is not kept, also where there always is something more to send.
TEST_F(PeerChannelTest, what_has_been_sent_takes_no_memory)
{
    constexpr size_t body = 65536;
    constexpr size_t total = size_t{96} << 20;
    int fd = connect_to_b();
    std::vector<uint8_t> question;
    append_frame(question, 1, 1, std::vector<uint8_t>(body));
    std::vector<uint8_t> answers(1 << 20);
    size_t asked = 0; // bytes, of whole questions or not
    size_t read = 0;
    size_t before = test::heap;
    size_t most = 0;
    bool ended = false;
    auto end = std::chrono::steady_clock::now() + 6 * patience;
    while (!ended && read < total && std::chrono::steady_clock::now() < end) {
        // Answers are as long as questions: 8 to 12 MB are on their way back, more than the
        // kernel takes.
        bool sends = asked - read < size_t{12} << 20;
        bool reads = asked - read > size_t{8} << 20;
        short events = static_cast<short>((sends ? POLLOUT : 0) | (reads ? POLLIN : 0));
        pollfd fds[] = {{fd, events, 0}, {b.channel.fd(), POLLIN, 0}};
        poll(fds, 2, 100);
        if (sends) {
            size_t offset = asked % question.size();
            ssize_t n = send(fd, question.data() + offset, question.size() - offset,
                             MSG_DONTWAIT | MSG_NOSIGNAL);
            asked += static_cast<size_t>(std::max<ssize_t>(n, 0));
        }
        if (reads) {
            ssize_t n = recv(fd, answers.data(), answers.size(), MSG_DONTWAIT);
            ended = n == 0;
            read += static_cast<size_t>(std::max<ssize_t>(n, 0));
        }
        b.channel.handle();
        most = std::max(most, test::heap);
        b.asked.clear();
    }
    EXPECT_GE(read, total);
    EXPECT_FALSE(ended);
    EXPECT_LT(most, before + (size_t{64} << 20));
    close(fd);
}

// Each look goes over all queue pairs: a peer with many small questions does not have it
// done for each.
TEST_F(PeerChannelTest, who_asks_is_looked_up_once_in_a_turn)
{
    int fd = connect_to_b();
    std::vector<uint8_t> questions;
    constexpr size_t count = 800;
    for (size_t i = 0; i < count; ++i) {
        append_frame(questions, 1, 1, std::vector<uint8_t>(64));
    }
    ASSERT_EQ(send(fd, questions.data(), questions.size(), 0), std::ssize(questions));
    size_t turns = 0;
    run_until([&] {
        ++turns;
        return b.asked.size() >= count;
    });
    EXPECT_EQ(b.asked.size(), count);
    EXPECT_LE(b.looks, turns + 1);
    close(fd);
}

TEST_F(PeerChannelTest, one_that_leaves_many_questions_open_has_gone)
{
    b.answers = false;
    constexpr size_t count = 100'000;
    for (size_t i = 0; i < count; ++i) {
        a.channel.ask(b_of_a, PeerMessage::find, bytes_of("which?"));
        if (i % 100 == 0) {
            a.channel.handle();
            b.channel.handle();
            b.asked.clear();
        }
    }
    run_until([&] { return a.answered.size() + 1024 >= count; });
    EXPECT_GE(a.answered.size() + 1024, count);
    EXPECT_TRUE(
        std::ranges::none_of(a.answered, [](auto& answer) { return answer.body.has_value(); }));
}

// Few: a QEMU has some 1000 descriptors in all.
TEST_F(PeerChannelTest, strangers_take_no_more_than_a_few_connections_and_keep_no_peer_out)
{
    b.trusts = false;
    std::vector<int> fds;
    for (uint32_t i = 1; i <= 400; ++i) {
        fds.push_back(connect_to_b(0x7f010000 + i)); // 127.1.x.y
        b.channel.handle();
    }
    size_t open = 0;
    for (int fd : fds) {
        open += !is_closed_now(fd);
    }
    EXPECT_LE(open, 256u);
    EXPECT_FALSE(is_closed_now(fds.back()));
    a.channel.ask(b_of_a, PeerMessage::find, {});
    EXPECT_TRUE(run_until([&] { return a.answered.size() == 1; }));
    EXPECT_TRUE(a.answered.at(0).body);
    std::ranges::for_each(fds, close);
}

// Each may have 4 MiB of a message on its way in.
TEST_F(PeerChannelTest, all_peers_together_hold_no_more_than_a_share)
{
    constexpr size_t bound = size_t{128} << 20;
    std::vector<uint8_t> question;
    append_frame(question, 1, 1, std::vector<uint8_t>((4 << 20) - 64));
    question.pop_back();
    std::vector<int> fds;
    size_t before = test::heap;
    size_t most = 0;
    for (uint32_t i = 1; i <= 64; ++i) {
        int fd = fds.emplace_back(connect_to_b(0x7f010000 + i));
        size_t sent = 0;
        EXPECT_TRUE(run_until([&] {
            ssize_t n = send(fd, question.data() + sent, question.size() - sent,
                             MSG_DONTWAIT | MSG_NOSIGNAL);
            sent += static_cast<size_t>(std::max<ssize_t>(n, 0));
            most = std::max(most, test::heap);
            return sent == question.size() || (n < 0 && errno != EAGAIN);
        }));
    }
    EXPECT_GT(most, before + bound / 2);
    EXPECT_LT(most, before + bound + bound / 8);
    // Who holds little is served.
    a.channel.ask(b_of_a, PeerMessage::find, {});
    EXPECT_TRUE(run_until([&] { return a.answered.size() == 1; }));
    EXPECT_TRUE(a.answered.at(0).body);
    std::ranges::for_each(fds, close);
}

TEST_F(PeerChannelTest, few_connections_are_kept_that_nothing_waits_for)
{
    auto num_descriptors = [] {
        auto entries = std::filesystem::directory_iterator("/proc/self/fd");
        return std::distance(begin(entries), end(entries));
    };
    constexpr unsigned peers = 200;
    std::vector<PeerName> names;
    for (unsigned i = 1; i <= peers; ++i) {
        names.push_back({a.gid, gid_of(fmt::format("127.0.2.{}", i).c_str())});
        b.channel.listen(names.back().peer);
    }
    auto before = num_descriptors();
    auto ask = [&](const PeerName& name) {
        a.answered.clear();
        a.channel.ask(name, PeerMessage::find, {});
        EXPECT_TRUE(run_until([&] { return a.answered.size() == 1; }));
        EXPECT_TRUE(a.answered.at(0).body);
    };
    std::ranges::for_each(names, ask);
    auto kept = [&] { return num_descriptors() - before; };
    EXPECT_TRUE(run_until([&] { return kept() <= 2 * 64; })) << kept(); // both ends are here
    ask(names.front()); // it has gone, and is made again
    ask(names.back());

    // As before a stop: all are asked at once.
    a.answered.clear();
    for (const PeerName& name : names) {
        a.channel.ask(name, PeerMessage::suspend, {});
    }
    EXPECT_GE(kept(), std::ssize(names));
    ASSERT_TRUE(run_until([&] { return a.answered.size() == peers; }));
    EXPECT_TRUE(std::ranges::all_of(a.answered, [](auto& each) { return each.body.has_value(); }));
    EXPECT_TRUE(run_until([&] { return kept() <= 2 * 64; })) << kept();
}

TEST_F(PeerChannelTest, without_descriptors_it_does_not_spin)
{
    std::vector<int> fds{connect_to_b(), connect_to_b()};
    rlimit before{};
    getrlimit(RLIMIT_NOFILE, &before);
    int lowest = dup(fds[0]); // of those that are free
    close(lowest);
    rlimit none{static_cast<rlim_t>(lowest), before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    unsigned turns = 0;
    for (pollfd fd{b.channel.fd(), POLLIN, 0}; turns < 100 && poll(&fd, 1, 0) > 0; ++turns) {
        b.channel.handle();
    }
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_LT(turns, 100u) << "there always is something to do";
    // Once there are some, others are taken.
    a.channel.ask(b_of_a, PeerMessage::find, {});
    EXPECT_TRUE(run_until([&] { return a.answered.size() == 1; }));
    EXPECT_TRUE(a.answered.at(0).body);
    std::ranges::for_each(fds, close);
}

TEST_F(PeerChannelTest, connections_from_one_address_are_few)
{
    std::vector<int> fds;
    for (int i = 0; i < 8; ++i) {
        fds.push_back(connect_to_b());
    }
    int too_many = connect_to_b();
    EXPECT_TRUE(is_closed(too_many));
    // From another address they are still taken.
    a.channel.ask(b_of_a, PeerMessage::find, {});
    EXPECT_TRUE(run_until([&] { return a.answered.size() == 1; }));
    fds.push_back(too_many);
    std::ranges::for_each(fds, close);
}

} // namespace
} // namespace rdma::verbs
