// SPDX-License-Identifier: GPL-2.0-or-later
//
// Whom the verbs backend tells what, and whom it believes, on the control channel between
// devices. The test itself speaks to it, over the loopback interface.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include <fmt/format.h>

#include "../backend/backend_test.h"
#include "../backend/moving_home.h"
#include "peer_messages.h"
#include "stand_in_host.h"

namespace rdma::test {
namespace {

using namespace rdma::verbs;

constexpr uint16_t peer_port = 4793;
constexpr uint64_t area = ram_base + (1 << 20);

// Whoever can open a TCP connection to the device.
class Stranger {
public:
    Stranger(const char* own, const char* to) : _fd(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0))
    {
        sockaddr_in from = address(own, 0);
        sockaddr_in device = address(to, peer_port);
        bind(_fd, reinterpret_cast<sockaddr*>(&from), sizeof(from));
        if (connect(_fd, reinterpret_cast<sockaddr*>(&device), sizeof(device)) != 0 &&
            errno != EINPROGRESS) {
            throw std::runtime_error("no connection");
        }
    }
    ~Stranger() { close(_fd); }
    Stranger(const Stranger&) = delete;
    Stranger& operator=(const Stranger&) = delete;

    int fd() const { return _fd; }
    void ask(PeerMessage kind, const std::vector<uint8_t>& body)
    {
        append_frame(_out, static_cast<uint16_t>(kind), ++_id, body);
    }
    void send_bytes(std::vector<uint8_t> bytes) { _out = std::move(bytes); }
    // Sends and takes what can be.
    void work()
    {
        if (ssize_t n = ::send(_fd, _out.data(), _out.size(), MSG_NOSIGNAL); n > 0) {
            _out.erase(_out.begin(), _out.begin() + n);
        }
        uint8_t bytes[65536];
        ssize_t n = recv(_fd, bytes, sizeof(bytes), 0);
        if (n > 0) {
            _in.insert(_in.end(), bytes, bytes + n);
        }
        ended |= n == 0 || (n < 0 && errno == ECONNRESET);
    }
    // Of the last question, once it is whole.
    std::optional<std::vector<uint8_t>> answer()
    {
        PeerFrame frame = first_frame(_in);
        if (frame.state != PeerFrame::State::whole) {
            return std::nullopt;
        }
        std::vector<uint8_t> body(frame.body.begin(), frame.body.end());
        _in.erase(_in.begin(), _in.begin() + static_cast<ptrdiff_t>(frame.size));
        return body;
    }

    // Of all its questions, those that have been answered.
    size_t take_answers()
    {
        size_t count = 0;
        while (answer()) {
            ++count;
        }
        return count;
    }

    bool ended = false; // by the device

private:
    static sockaddr_in address(const char* text, uint16_t port)
    {
        sockaddr_in in{};
        in.sin_family = AF_INET;
        in.sin_port = htons(port);
        inet_pton(AF_INET, text, &in.sin_addr);
        return in;
    }

    int _fd;
    uint32_t _id = 0;
    std::vector<uint8_t> _out;
    std::vector<uint8_t> _in;
};

class VerbsTrust : public testing::Test {
protected:
    static constexpr const char* address_a = "127.0.3.1";
    static constexpr const char* address_b = "127.0.3.2";
    static constexpr const char* address_c = "127.0.3.3"; // nobody's

    VerbsTrust()
    {
        a.wait_events = b.wait_events = [this] {
            work();
            return Clock::now() < _end;
        };
    }

    void work()
    {
        pollfd fds[] = {{home_a.backend->event_fd(), POLLIN, 0},
                        {home_b.backend->event_fd(), POLLIN, 0}};
        poll(fds, 2, 20);
        home_a.backend->handle_events();
        home_b.backend->handle_events();
    }
    // By the answer's kind; false: none.
    template <typename Body>
    bool ask(Stranger& stranger, PeerMessage kind, const std::vector<uint8_t>& request,
             Body& answer)
    {
        stranger.ask(kind, request);
        std::optional<std::vector<uint8_t>> body;
        while (!(body = stranger.answer()) && !stranger.ended && Clock::now() < _end) {
            stranger.work();
            work();
        }
        return body && decode(*body, answer);
    }
    void connect(QpNumbers at_a, QpNumbers at_b)
    {
        ASSERT_EQ(to_init(a, at_a.id, IBV_QPT_RC), 0);
        ASSERT_EQ(to_init(b, at_b.id, IBV_QPT_RC), 0);
        ASSERT_EQ(to_rtr(a, at_a.id, IBV_QPT_RC, b, at_b.qpn, psn_b), 0);
        ASSERT_EQ(to_rtr(b, at_b.id, IBV_QPT_RC, a, at_a.qpn, psn_a), 0);
        ASSERT_EQ(to_rts(a, at_a.id, IBV_QPT_RC, psn_a), 0);
        ASSERT_EQ(to_rts(b, at_b.id, IBV_QPT_RC, psn_b), 0);
    }
    // a's word there has been written by b, through these QPs and with this key.
    bool write(QpNumbers at_b, uint64_t to, uint32_t rkey)
    {
        a.word(to) = 0;
        b.word(area) = 7;
        size_t done = b.completions.size();
        b.post_send(at_b.id, send_request(IBV_WR_RDMA_WRITE, 1, area, 8, b.mr.lkey, to, rkey));
        while (b.completions.size() == done && Clock::now() < _end) {
            work();
        }
        return b.completions.size() > done && b.completions.back().wc.status == IBV_WC_SUCCESS &&
               a.word(to) == 7;
    }

    using Clock = std::chrono::steady_clock;
    struct Network : StandInHost {
        Network()
        {
            add_device("alpha", {gid_of(address_a)});
            add_device("beta", {gid_of(address_b)});
            // Where a comes to.
            add_device("gamma", {gid_of(address_a)});
        }
    };
    Network host;
    BackendEnd a{small_limits()};
    BackendEnd b{small_limits()};
    Home home_a{a, "alpha", peer_port};
    Home home_b{b, "beta", peer_port};
    const Clock::time_point _end = Clock::now() + std::chrono::seconds(20);
};

// a has come from another host, where its regions had other keys, and b is its peer.
class VerbsTrustAfterMove : public VerbsTrust {
protected:
    void SetUp() override
    {
        qp_a = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
        qp_b = b.backend->create_qp(b.qp_init(IBV_QPT_RC)).value();
        connect(qp_a, qp_b);
        first = a.register_pages(area, 4096, all_rights).value();
        second = a.register_pages(area + 4096, 4096, all_rights).value();
        other_pd = a.backend->alloc_pd().value();
        std::swap(a.pd, other_pd);
        elsewhere = a.register_pages(area + 8192, 4096, all_rights).value();
        std::swap(a.pd, other_pd);
        waiting = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
        ASSERT_EQ(to_init(a, waiting.id, IBV_QPT_RC), 0);

        auto state = leave(home_a, &home_b);
        // Another VM has the first two keys there, and the first QPNs.
        neighbour->register_pages(area, 4096, all_rights).value();
        for (int i = 0; i < 4; ++i) {
            neighbour->backend->create_qp(neighbour->qp_init(IBV_QPT_RC)).value();
        }
        home_a.port = open_port("gamma", peer_port);
        arrive(home_a, state);
        while (!can_send() && Clock::now() < _end) {
            work();
        }
        ASSERT_NE(home_a.backend->host_qpn(waiting.id), waiting.qpn);
    }
    // The connection has moved along.
    bool can_send() { return write(qp_b, area, first.rkey); }

    std::optional<BackendEnd> neighbour{std::in_place, small_limits()};
    std::optional<Home> home_neighbour{std::in_place, *neighbour, "gamma", uint16_t{0}};
    QpNumbers qp_a{};
    QpNumbers qp_b{};
    QpNumbers waiting{}; // of a, not connected yet
    MrKeys first{};
    MrKeys second{};
    MrKeys elsewhere{}; // in other_pd
    uint32_t other_pd = 0;
};

std::vector<uint32_t> guest_keys(const KeyList& keys)
{
    std::vector<uint32_t> guests;
    std::ranges::transform(keys, std::back_inserter(guests), &KeyEntry::guest);
    std::ranges::sort(guests);
    return guests;
}

TEST_F(VerbsTrustAfterMove, a_stranger_is_told_no_keys_and_nothing_of_connections)
{
    Stranger stranger(address_c, address_a);
    FindAnswer found;
    ASSERT_TRUE(ask(stranger, PeerMessage::find, encode(FindRequest{{qp_a.qpn, qp_b.qpn}}), found));
    EXPECT_TRUE(found.keys.empty());
    EXPECT_EQ(found.host_qpn, 0u);
    // One that may be about to connect to a QP must know its number.
    ASSERT_TRUE(ask(stranger, PeerMessage::find, encode(FindRequest{{waiting.qpn, 100}}), found));
    EXPECT_TRUE(found.keys.empty());
    EXPECT_EQ(found.host_qpn, home_a.backend->host_qpn(waiting.id));

    MoveAnswer moved;
    MoveRequest move;
    move.moves.push_back({{qp_a.qpn, qp_b.qpn}, 77, 0, 0, 0, 0});
    ASSERT_TRUE(ask(stranger, PeerMessage::move, encode(move), moved));
    ASSERT_EQ(moved.moved.size(), 1u);
    EXPECT_EQ(moved.moved[0].status, MoveStatus::unknown);
    EXPECT_TRUE(moved.keys.empty());
}

TEST_F(VerbsTrustAfterMove, a_peer_is_told_the_keys_of_its_connections_pd_alone)
{
    Stranger stranger(address_b, address_a);
    FindAnswer found;
    ASSERT_TRUE(ask(stranger, PeerMessage::find, encode(FindRequest{{qp_a.qpn, qp_b.qpn}}), found));
    EXPECT_EQ(guest_keys(found.keys), (std::vector{a.mr.rkey, first.rkey, second.rkey}));
    EXPECT_EQ(found.host_qpn, home_a.backend->host_qpn(qp_a.id));
}

TEST_F(VerbsTrustAfterMove, keys_in_a_move_without_a_connection_are_not_believed)
{
    // From b's address, of a QP that b does not have.
    Stranger stranger(address_b, address_a);
    MoveRequest move;
    move.moves.push_back({{qp_a.qpn, qp_b.qpn + 100}, 77, 0, 0, 0, 0});
    move.keys.push_back({b.mr.rkey, 0xdead});
    MoveAnswer moved;
    ASSERT_TRUE(ask(stranger, PeerMessage::move, encode(move), moved));
    EXPECT_EQ(moved.moved.at(0).status, MoveStatus::unknown);
    EXPECT_TRUE(moved.keys.empty());
    a.post_send(qp_a.id, send_request(IBV_WR_RDMA_WRITE, 1, area, 8, a.mr.lkey, area, b.mr.rkey));
    while (a.completions.empty() && Clock::now() < _end) {
        work();
    }
    ASSERT_FALSE(a.completions.empty());
    EXPECT_EQ(a.completions[0].wc.status, IBV_WC_SUCCESS);
}

TEST_F(VerbsTrustAfterMove, no_number_the_guest_knows_a_region_by_is_the_hosts_of_another)
{
    // A peer of another kind uses the keys that its guest knows as the host's.
    const auto word = std::as_bytes(std::span("stolen"));
    uint32_t host_qpn = home_a.backend->host_qpn(qp_a.id);
    for (const MrKeys& keys : {a.mr, first, second, elsewhere}) {
        EXPECT_FALSE(host.write_from_outside("gamma", host_qpn, keys.rkey, area, word));
    }
    EXPECT_TRUE(write(qp_b, area + 4096, second.rkey));
    EXPECT_FALSE(write(qp_b, area + 8192, elsewhere.rkey)); // another PD's
}

TEST_F(VerbsTrustAfterMove, a_number_of_a_region_that_has_moved_is_not_given_out_again)
{
    ASSERT_EQ(a.backend->dereg_mr(first.id), 0);
    // On the host it is free now.
    home_neighbour.reset();
    for (int i = 0; i < 4; ++i) {
        MrKeys made = a.register_pages(area, 4096, all_rights).value();
        EXPECT_NE(made.rkey, first.rkey);
        EXPECT_NE(made.lkey, first.lkey);
        EXPECT_TRUE(write(qp_b, area, made.rkey));
    }
}

TEST_F(VerbsTrustAfterMove, a_connection_made_later_is_served_by_keys_of_before)
{
    for (bool a_first : {true, false}) {
        SCOPED_TRACE(a_first);
        QpNumbers at_a = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
        QpNumbers at_b = b.backend->create_qp(b.qp_init(IBV_QPT_RC)).value();
        ASSERT_EQ(to_init(a, at_a.id, IBV_QPT_RC), 0);
        ASSERT_EQ(to_init(b, at_b.id, IBV_QPT_RC), 0);
        for (bool now_a : {a_first, !a_first}) {
            ASSERT_EQ(now_a ? to_rtr(a, at_a.id, IBV_QPT_RC, b, at_b.qpn, psn_b)
                            : to_rtr(b, at_b.id, IBV_QPT_RC, a, at_a.qpn, psn_a),
                      0);
        }
        ASSERT_EQ(to_rts(b, at_b.id, IBV_QPT_RC, psn_b), 0);
        EXPECT_TRUE(write(at_b, area, first.rkey));
    }
}

// b has been told no keys as yet: it knows none of a's QPs.
TEST_F(VerbsTrustAfterMove, the_first_connection_after_a_move_is_served_by_keys_of_before)
{
    ASSERT_EQ(b.backend->destroy_qp(qp_b.id), 0);
    ASSERT_EQ(a.backend->destroy_qp(qp_a.id), 0);
    home_b.backend->reset();
    b.set_up(*home_b.backend);
    QpNumbers at_b = b.backend->create_qp(b.qp_init(IBV_QPT_RC)).value();
    ASSERT_EQ(to_init(b, at_b.id, IBV_QPT_RC), 0);
    // As by RDMA CM: the end that has been asked is ready first.
    ASSERT_EQ(to_rtr(b, at_b.id, IBV_QPT_RC, a, waiting.qpn, psn_a), 0);
    ASSERT_EQ(to_rts(b, at_b.id, IBV_QPT_RC, psn_b), 0);
    ASSERT_EQ(to_rtr(a, waiting.id, IBV_QPT_RC, b, at_b.qpn, psn_b), 0);
    EXPECT_TRUE(write(at_b, area, first.rkey));
    EXPECT_EQ(home_a.backend->migration_obstacle(), std::nullopt);
    EXPECT_EQ(home_b.backend->migration_obstacle(), std::nullopt);
}

// Its number on this host is another one, which a peer of another kind cannot know.
TEST_F(VerbsTrustAfterMove, a_qp_that_has_moved_is_not_connected_to_a_peer_of_another_kind)
{
    BackendEnd foreign{small_limits()};
    foreign.gid = gid_of(address_c);
    EXPECT_EQ(to_rtr(a, waiting.id, IBV_QPT_RC, foreign, 100, psn_b), ENOTSUP);
    EXPECT_EQ(state_of(a, waiting.id), IBV_QPS_INIT);
    // One that was made here can be.
    QpNumbers made = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
    ASSERT_EQ(to_init(a, made.id, IBV_QPT_RC), 0);
    EXPECT_EQ(to_rtr(a, made.id, IBV_QPT_RC, foreign, 100, psn_b), 0);
}

TEST_F(VerbsTrust, a_stranger_cannot_have_the_device_keep_large_messages)
{
    Stranger stranger(address_c, address_a);
    std::vector<uint8_t> bytes;
    append_frame(bytes, static_cast<uint16_t>(PeerMessage::move), 1, {});
    // A megabyte is to come.
    bytes[0] = bytes[1] = bytes[3] = 0;
    bytes[2] = 0x10;
    stranger.send_bytes(bytes);
    while (!stranger.ended && Clock::now() < _end) {
        stranger.work();
        work();
    }
    EXPECT_TRUE(stranger.ended);
}

TEST_F(VerbsTrust, a_peer_with_more_keys_than_a_device_has_regions_is_not_believed)
{
    QpNumbers qp_a = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
    QpNumbers qp_b = b.backend->create_qp(b.qp_init(IBV_QPT_RC)).value();
    connect(qp_a, qp_b);
    Stranger stranger(address_b, address_a);
    MoveRequest move;
    move.moves.push_back({{qp_a.qpn, qp_b.qpn}, 77, 0, 0, 0, 0});
    for (uint32_t i = 0; i <= a.limits.max_mr; ++i) {
        move.keys.push_back({i, 0x100000 + i});
    }
    MoveAnswer moved;
    EXPECT_FALSE(ask(stranger, PeerMessage::move, encode(move), moved));
}

// While something is in flight, and the peer asks before that is found to go on for long.
TEST_F(VerbsTrust, no_more_than_one_question_of_a_peer_waits_for_its_qps_to_rest)
{
    QpNumbers qp_a = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
    QpNumbers qp_b = b.backend->create_qp(b.qp_init(IBV_QPT_RC)).value();
    connect(qp_a, qp_b);
    a.post_send(qp_a.id, send_request(IBV_WR_SEND, 1, area, 8, a.mr.lkey)); // b does not receive
    Stranger peer(address_b, address_a);
    constexpr size_t questions = 1000;
    auto request = encode(LinksRequest{{{qp_a.qpn, qp_b.qpn}}});
    size_t answered = 0;
    for (size_t i = 0; i < questions; ++i) {
        peer.ask(PeerMessage::suspend, request);
        peer.work();
        home_a.backend->handle_events();
        answered += peer.take_answers();
    }
    EXPECT_GE(answered, questions - 100);
    while (answered < questions && !peer.ended && Clock::now() < _end) {
        peer.work();
        work();
        answered += peer.take_answers();
    }
    EXPECT_EQ(answered, questions);
}

// A VM that is stopped goes on before the peer has its answer, and has nothing to tell it.
TEST_F(VerbsTrust, who_waits_for_qps_to_rest_is_answered_though_the_vm_goes_on)
{
    BackendEnd other{small_limits()};
    other.gid = gid_of(address_c);
    QpNumbers qp = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
    ASSERT_EQ(to_init(a, qp.id, IBV_QPT_RC), 0);
    ASSERT_EQ(to_rtr(a, qp.id, IBV_QPT_RC, other, 100, psn_b), 0);
    ASSERT_EQ(to_rts(a, qp.id, IBV_QPT_RC, psn_a), 0);
    a.post_send(qp.id, send_request(IBV_WR_SEND, 1, area, 8, a.mr.lkey)); // nobody takes it
    home_a.backend->stop();
    Stranger peer(address_c, address_a);
    peer.ask(PeerMessage::suspend, encode(LinksRequest{{{qp.qpn, 100}}}));
    peer.ask(PeerMessage::find, encode(FindRequest{{qp.qpn, 100}}));
    size_t answered = 0;
    auto work_until_answered = [&](size_t count) {
        while (answered < count && !peer.ended && Clock::now() < _end) {
            peer.work();
            work();
            answered += peer.take_answers();
        }
    };
    work_until_answered(1); // which it is at once
    home_a.backend->start();
    work_until_answered(2);
    EXPECT_EQ(answered, 2u);
}

// The VM has been stopped and saved while a QP waited for its peer, and goes on where it was.
TEST_F(VerbsTrust, a_question_that_a_save_has_cut_off_is_asked_again)
{
    QpNumbers qp_a = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
    QpNumbers qp_b = b.backend->create_qp(b.qp_init(IBV_QPT_RC)).value();
    ASSERT_EQ(to_init(a, qp_a.id, IBV_QPT_RC), 0);
    ASSERT_EQ(to_init(b, qp_b.id, IBV_QPT_RC), 0);
    a.wait_events = [] { return false; };
    ASSERT_EQ(to_rtr(a, qp_a.id, IBV_QPT_RC, b, qp_b.qpn, psn_b), EINPROGRESS);
    home_a.backend->stop(); // b does not answer
    saved_state(home_a);
    home_a.backend->start();
    while (!a.outcomes.contains(qp_a.id) && Clock::now() < _end) {
        work();
    }
    ASSERT_TRUE(a.outcomes.contains(qp_a.id));
    EXPECT_EQ(a.outcomes[qp_a.id], 0);
    EXPECT_EQ(state_of(a, qp_a.id), IBV_QPS_RTR);
}

// The next look for one of its QPs fails, as it is away just then.
TEST_F(VerbsTrust, a_peer_that_cannot_be_reached_once_is_a_peer_still)
{
    QpNumbers qp_a = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
    QpNumbers qp_b = b.backend->create_qp(b.qp_init(IBV_QPT_RC)).value();
    connect(qp_a, qp_b);
    ASSERT_EQ(home_a.backend->migration_obstacle(), std::nullopt);
    leave(home_b, &home_a);
    QpNumbers other = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
    ASSERT_EQ(to_init(a, other.id, IBV_QPT_RC), 0);
    ASSERT_EQ(to_rtr(a, other.id, IBV_QPT_RC, b, 100, psn_b), 0);
    // Of this one nothing is known.
    auto obstacle = home_a.backend->migration_obstacle();
    ASSERT_TRUE(obstacle);
    EXPECT_TRUE(obstacle->starts_with(fmt::format("QP {} (to QP 100 at", other.qpn))) << *obstacle;
    ASSERT_EQ(a.backend->destroy_qp(other.id), 0);
    EXPECT_EQ(home_a.backend->migration_obstacle(), std::nullopt);
}

// Another device of this kind, which says nothing of moves.
class SilentOnMoves final : public PeerChannel::Handler {
public:
    explicit SilentOnMoves(const ibv_gid& gid) { _channel.listen(gid); }

    // Has the device stop meanwhile, and returns its state.
    std::vector<uint8_t> leave(Home& home)
    {
        std::atomic<bool> left = false;
        std::jthread answers([&] {
            while (!left) {
                work();
            }
        });
        home.backend->stop();
        left = true;
        answers.join();
        return saved_state(home);
    }
    void work()
    {
        pollfd fd{_channel.fd(), POLLIN, 0};
        poll(&fd, 1, 20);
        _channel.handle();
    }

    static constexpr uint32_t qpn = 100;
    size_t moves = 0; // that it has been told of

private:
    void peer_asks(const PeerName&, const PeerChannel::Asker& asker,
                   std::span<const uint8_t> body) override
    {
        LinksRequest request;
        if (asker.kind == PeerMessage::move) {
            ++moves;
        } else if (asker.kind == PeerMessage::find) {
            _channel.answer(asker, encode(FindAnswer{qpn, true, {}}));
        } else if (decode(body, request)) {
            LinksAnswer answer;
            answer.links.resize(request.links.size(), LinkStatus::quiet);
            _channel.answer(asker, encode(answer));
        }
    }
    void peer_answers(uint32_t, std::optional<std::span<const uint8_t>>) override {}
    bool is_peer(const PeerName&) const override { return true; }

    PeerChannel _channel{*this, peer_port, print_log};
};

// The VM has come from another host, is stopped and saved once more before its peer has
// answered, and goes on where it was.
TEST_F(VerbsTrust, a_peer_that_a_save_has_cut_off_is_told_of_the_move_again)
{
    BackendEnd other{small_limits()};
    other.gid = gid_of(address_c);
    SilentOnMoves peer(other.gid);
    a.wait_events = [&] {
        peer.work();
        home_a.backend->handle_events();
        return Clock::now() < _end;
    };
    QpNumbers qp = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
    ASSERT_EQ(to_init(a, qp.id, IBV_QPT_RC), 0);
    ASSERT_EQ(to_rtr(a, qp.id, IBV_QPT_RC, other, peer.qpn, psn_b), 0);
    ASSERT_EQ(to_rts(a, qp.id, IBV_QPT_RC, psn_a), 0);
    auto state = peer.leave(home_a);
    home_a.port = open_port("gamma", peer_port);
    arrive(home_a, state);
    while (peer.moves == 0 && a.wait_events()) {
    }
    ASSERT_EQ(peer.moves, 1u);
    peer.leave(home_a);
    ASSERT_EQ(peer.moves, 1u);
    home_a.backend->start();
    while (peer.moves == 1 && !a.has_event(IBV_EVENT_QP_FATAL, qp.id) && a.wait_events()) {
    }
    EXPECT_EQ(peer.moves, 2u);
    EXPECT_EQ(state_of(a, qp.id), IBV_QPS_RTS);
}

} // namespace
} // namespace rdma::test
