// SPDX-License-Identifier: GPL-2.0-or-later
//
// A verbs backend that moves: its state is saved and loaded into another one, which
// makes all objects anew, on the same RDMA device here, where numbers and keys are
// others all the same. The peer is a backend on the command line's second device.
#include <poll.h>

#include <array>
#include <chrono>

#include <fmt/format.h>

#include "backend_test.h"
#include "interface_address.h"
#include "moving_home.h"

namespace rdma::test {
namespace {

using verbs::HostPort;
using namespace std::chrono_literals;
using DevicePair = std::pair<std::string, std::string>;

constexpr uint16_t peer_port = 4793;
constexpr std::chrono::seconds patience{20};
constexpr uint64_t area = ram_base + (1 << 20);

class VerbsMigration : public testing::TestWithParam<DevicePair> {
protected:
    VerbsMigration()
    {
        a.wait_events = b.wait_events = [this] {
            bool any = false;
            work(50ms, &any);
            return Clock::now() < _end;
        };
    }
    void SetUp() override { connect(); }

    // Both work for as long, or until something has happened.
    void work(std::chrono::milliseconds time, bool* any = nullptr)
    {
        pollfd fds[] = {{home_a.backend->event_fd(), POLLIN, 0},
                        {home_b.backend->event_fd(), POLLIN, 0}};
        int ready = poll(fds, 2, static_cast<int>(time.count()));
        home_a.backend->handle_events();
        home_b.backend->handle_events();
        if (any) {
            *any = ready > 0;
        }
    }
    bool run_until(const std::function<bool()>& done)
    {
        auto end = Clock::now() + patience;
        while (!done() && Clock::now() < end) {
            work(50ms);
        }
        return done();
    }

    void connect()
    {
        qp_a = a.backend->create_qp(init_a()).value();
        qp_b = b.backend->create_qp(b.qp_init(IBV_QPT_RC)).value();
        _end = Clock::now() + patience;
        ASSERT_EQ(to_init(a, qp_a.id, IBV_QPT_RC), 0);
        ASSERT_EQ(to_init(b, qp_b.id, IBV_QPT_RC), 0);
        ASSERT_EQ(to_rtr(a, qp_a.id, IBV_QPT_RC, b, qp_b.qpn, psn_b), 0);
        ASSERT_EQ(to_rtr(b, qp_b.id, IBV_QPT_RC, a, qp_a.qpn, psn_a), 0);
        ASSERT_EQ(to_rts(a, qp_a.id, IBV_QPT_RC, psn_a, connection()), 0);
        ASSERT_EQ(to_rts(b, qp_b.id, IBV_QPT_RC, psn_b, connection()), 0);
    }
    virtual QpInit init_a() { return a.qp_init(IBV_QPT_RC); }
    virtual Connection connection() const { return {}; }

    static uint32_t host_qpn(const Home& home, const QpNumbers& qp)
    {
        return home.backend->host_qpn(qp.id);
    }

    void send_all(BackendEnd& from, uint32_t qp, uint32_t count, uint64_t first_id)
    {
        for (uint32_t i = 0; i < count; ++i) {
            uint64_t at = area + (first_id + i) * 64;
            from.word(at) = first_id + i;
            from.post_send(qp, send_request(IBV_WR_SEND, first_id + i, at, 64, from.mr.lkey));
        }
    }
    void receive_all(BackendEnd& to, uint32_t qp, uint32_t count, uint64_t first_id)
    {
        for (uint32_t i = 0; i < count; ++i) {
            to.post_recv(qp, recv_request(first_id + i, receive_area + (first_id + i) * 64, 64,
                                          to.mr.lkey));
        }
    }
    // By a, of b's first word.
    void post_increment(uint64_t wr_id)
    {
        auto add = send_request(IBV_WR_ATOMIC_FETCH_AND_ADD, wr_id, area, 8, a.mr.lkey, area, b.mr.rkey);
        add.wr.wr.atomic.compare_add = 1;
        a.post_send(qp_a.id, add);
    }
    static size_t completed(const BackendEnd& end, ibv_wc_opcode opcode)
    {
        return static_cast<size_t>(std::ranges::count_if(end.completions, [&](const auto& c) {
            return c.wc.opcode == opcode && c.wc.status == IBV_WC_SUCCESS;
        }));
    }
    // Whether so many messages have been sent and received in each direction.
    bool all_done(size_t count) const
    {
        return std::ranges::all_of(std::array{&a, &b}, [count](const BackendEnd* end) {
            return completed(*end, IBV_WC_RECV) == count && completed(*end, IBV_WC_SEND) == count;
        });
    }
    // wr_ids of what has completed, in order.
    static std::vector<uint64_t> ids(const BackendEnd& end, ibv_wc_opcode opcode)
    {
        std::vector<uint64_t> ids;
        for (const Completion& completion : end.completions) {
            EXPECT_EQ(completion.wc.status, IBV_WC_SUCCESS);
            if (completion.wc.opcode == opcode) {
                ids.push_back(completion.wc.wr_id);
            }
        }
        return ids;
    }
    static std::vector<uint64_t> numbers(uint64_t first, uint64_t count)
    {
        std::vector<uint64_t> numbers;
        for (uint64_t i = 0; i < count; ++i) {
            numbers.push_back(first + i);
        }
        return numbers;
    }

    using Clock = std::chrono::steady_clock;
    static constexpr uint64_t receive_area = area + (2 << 20);

    BackendEnd a{small_limits()};
    BackendEnd b{small_limits()};
    Home home_a{a, GetParam().first, peer_port};
    Home home_b{b, GetParam().second, peer_port};
    QpNumbers qp_a{};
    QpNumbers qp_b{};

private:
    Clock::time_point _end;
};

TEST_P(VerbsMigration, a_connection_outlives_a_move)
{
    receive_all(a, qp_a.id, 8, 1);
    receive_all(b, qp_b.id, 8, 1);
    send_all(a, qp_a.id, 4, 100);
    send_all(b, qp_b.id, 4, 100);
    ASSERT_TRUE(run_until([&] { return all_done(4); }));
    EXPECT_EQ(home_a.backend->migration_obstacle(), std::nullopt);
    uint32_t before = host_qpn(home_a, qp_a);

    move(home_a, home_b);
    EXPECT_NE(host_qpn(home_a, qp_a), before);
    // Receives that were posted before serve what is sent after, with keys of before.
    send_all(a, qp_a.id, 4, 104);
    send_all(b, qp_b.id, 4, 104);
    ASSERT_TRUE(run_until([&] { return all_done(8); }));
    for (const BackendEnd* end : {&a, &b}) {
        EXPECT_EQ(ids(*end, IBV_WC_RECV), numbers(1, 8));
        EXPECT_EQ(ids(*end, IBV_WC_SEND), numbers(100, 8));
        EXPECT_TRUE(end->events.empty());
    }
    for (uint64_t i = 0; i < 8; ++i) {
        EXPECT_EQ(a.word(receive_area + (1 + i) * 64), 100 + i);
        EXPECT_EQ(b.word(receive_area + (1 + i) * 64), 100 + i);
    }
    EXPECT_TRUE(std::ranges::all_of(a.completions, [&](const Completion& c) {
        return c.wc.qp_num == qp_a.qpn && c.qp == qp_a.id;
    }));
}

TEST_P(VerbsMigration, keys_of_before_serve_both_ends)
{
    move(home_a, home_b);
    a.word(area) = 0;
    b.word(area) = 7;
    b.post_send(qp_b.id, send_request(IBV_WR_RDMA_WRITE, 1, area, 8, b.mr.lkey, area, a.mr.rkey));
    b.post_send(qp_b.id, send_request(IBV_WR_ATOMIC_FETCH_AND_ADD, 2, area + 8, 8, b.mr.lkey, area,
                                      a.mr.rkey));
    b.post_send(qp_b.id,
                send_request(IBV_WR_RDMA_READ, 3, area + 16, 8, b.mr.lkey, area, a.mr.rkey));
    a.post_send(qp_a.id,
                send_request(IBV_WR_RDMA_READ, 4, area + 24, 8, a.mr.lkey, area, b.mr.rkey));
    ASSERT_TRUE(run_until([&] { return b.completions.size() == 3 && a.completions.size() == 1; }));
    EXPECT_EQ(ids(b, IBV_WC_RDMA_WRITE), numbers(1, 1));
    EXPECT_EQ(a.word(area), 7u);
    EXPECT_EQ(b.word(area + 16), 7u);
    EXPECT_EQ(a.word(area + 24), 7u);

    // A region and a QP that are made now have numbers that nobody has.
    MrKeys keys = a.register_pages(area, 4096, all_rights).value();
    EXPECT_NE(keys.lkey, a.mr.lkey);
    EXPECT_NE(keys.rkey, a.mr.rkey);
    EXPECT_NE(a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value().qpn, qp_a.qpn);
}

TEST_P(VerbsMigration, requests_that_wait_for_a_receive_move_along)
{
    // Neither end has a receive: all of it waits on the host.
    send_all(a, qp_a.id, 3, 100);
    send_all(b, qp_b.id, 3, 100);
    work(0ms);
    move(home_a, home_b);
    receive_all(a, qp_a.id, 3, 1);
    receive_all(b, qp_b.id, 3, 1);
    ASSERT_TRUE(run_until([&] { return all_done(3); }));
    for (const BackendEnd* end : {&a, &b}) {
        EXPECT_EQ(ids(*end, IBV_WC_RECV), numbers(1, 3));
        EXPECT_EQ(ids(*end, IBV_WC_SEND), numbers(100, 3));
        for (uint64_t i = 0; i < 3; ++i) {
            EXPECT_EQ(end == &a ? a.word(receive_area + (1 + i) * 64)
                                : b.word(receive_area + (1 + i) * 64),
                      100 + i);
        }
    }
}

// No packet of RoCEv2 leaves by a port's interface meanwhile.
class Silence {
public:
    explicit Silence(const HostPort& port) : _interface(verbs::interface_name(port.interface_index()))
    {
        if (shell(fmt::format("tc qdisc add dev {0} clsact && tc filter add dev {0} egress protocol ip u32 "
                              "match ip protocol 17 0xff match ip dport 4791 0xffff action drop",
                              _interface)) != 0) {
            throw std::runtime_error("no filter on " + _interface);
        }
    }
    ~Silence() { shell("tc qdisc del dev " + _interface + " clsact"); }
    Silence(const Silence&) = delete;
    Silence& operator=(const Silence&) = delete;

private:
    std::string _interface;
};

class VerbsMigrationUnacknowledged : public VerbsMigration {
protected:
    // 1.07 s: with its retries longer than a move takes.
    Connection connection() const override { return {.timeout = 18}; }

    // What a sends is carried out by b, and no acknowledgement comes back before `moving` has
    // left.
    void move_unacknowledged(Home& moving, Home& other, const std::function<void()>& send,
                             const std::function<bool()>& carried_out)
    {
        std::vector<uint8_t> state;
        {
            Silence silence(*home_b.port);
            send();
            ASSERT_TRUE(run_until(carried_out));
            EXPECT_TRUE(a.completions.empty());
            state = leave(moving, &other);
        }
        arrive(moving, state);
    }
};

TEST_P(VerbsMigrationUnacknowledged, what_was_received_completes_and_comes_once)
{
    for (uint64_t first : {0u, 10u}) {
        SCOPED_TRACE(first);
        receive_all(b, qp_b.id, 4, first);
        bool b_moves = first > 0;
        move_unacknowledged(b_moves ? home_b : home_a, b_moves ? home_a : home_b,
                            [&] { send_all(a, qp_a.id, 2, 100 + first); },
                            [&] { return completed(b, IBV_WC_RECV) == 2; });
        send_all(a, qp_a.id, 2, 102 + first);
        ASSERT_TRUE(run_until([&] {
            return completed(a, IBV_WC_SEND) == 4 && completed(b, IBV_WC_RECV) == 4;
        }));
        EXPECT_EQ(ids(a, IBV_WC_SEND), numbers(100 + first, 4));
        EXPECT_EQ(ids(b, IBV_WC_RECV), numbers(first, 4));
        for (uint64_t i = 0; i < 4; ++i) {
            EXPECT_EQ(b.word(receive_area + (first + i) * 64), 100 + first + i);
        }
        EXPECT_TRUE(a.events.empty());
        EXPECT_TRUE(b.events.empty());
        a.completions.clear();
        b.completions.clear();
    }
}

// Its answer is lost, and it must not be carried out twice.
TEST_P(VerbsMigrationUnacknowledged, an_atomic_ends_the_connection)
{
    receive_all(b, qp_b.id, 1, 1);
    b.word(area) = 7;
    move_unacknowledged(
        home_a, home_b,
        [&] {
            send_all(a, qp_a.id, 1, 100);
            post_increment(101);
        },
        [&] { return b.word(area) != 7; });
    ASSERT_TRUE(run_until([&] { return a.has_event(IBV_EVENT_QP_FATAL, qp_a.id); }));
    ASSERT_TRUE(run_until([&] { return a.completions.size() == 2; }));
    EXPECT_EQ(a.completions[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(a.completions[1].wc.wr_id, 101u);
    EXPECT_EQ(a.completions[1].wc.status, IBV_WC_WR_FLUSH_ERR);
    EXPECT_EQ(state_of(a, qp_a.id), IBV_QPS_ERR);
    EXPECT_EQ(b.word(area), 8u);
}

TEST_P(VerbsMigration, an_atomic_behind_what_waits_for_a_receive_moves_along)
{
    b.word(area) = 7;
    send_all(a, qp_a.id, 1, 100);
    post_increment(101);
    move(home_a, home_b);
    EXPECT_EQ(b.word(area), 7u);
    receive_all(b, qp_b.id, 1, 1);
    ASSERT_TRUE(run_until([&] { return a.completions.size() == 2; }));
    EXPECT_EQ(ids(a, IBV_WC_FETCH_ADD), numbers(101, 1));
    EXPECT_EQ(b.word(area), 8u);
    EXPECT_TRUE(a.events.empty());
}

TEST_P(VerbsMigration, back_and_forth_with_both_ends)
{
    for (uint64_t round = 0; round < 6; ++round) {
        SCOPED_TRACE(round);
        receive_all(a, qp_a.id, 4, 1 + round * 4);
        receive_all(b, qp_b.id, 4, 1 + round * 4);
        send_all(a, qp_a.id, 4, 100 + round * 4);
        send_all(b, qp_b.id, 4, 100 + round * 4);
        if (round % 2 == 0) {
            move(home_a, home_b);
        } else {
            move(home_b, home_a);
        }
        ASSERT_TRUE(run_until([&] { return all_done(4 * (round + 1)); }));
    }
    for (const BackendEnd* end : {&a, &b}) {
        EXPECT_EQ(ids(*end, IBV_WC_RECV), numbers(1, 24));
        EXPECT_EQ(ids(*end, IBV_WC_SEND), numbers(100, 24));
    }
}

TEST_P(VerbsMigration, both_ends_at_once)
{
    receive_all(a, qp_a.id, 4, 1);
    receive_all(b, qp_b.id, 4, 1);
    auto state_b = leave(home_b, &home_a);
    auto state_a = leave(home_a, nullptr); // b has gone: nobody answers
    arrive(home_a, state_a);
    arrive(home_b, state_b);
    send_all(a, qp_a.id, 4, 100);
    send_all(b, qp_b.id, 4, 100);
    ASSERT_TRUE(run_until([&] { return all_done(4); }));
    EXPECT_TRUE(a.events.empty());
    EXPECT_TRUE(b.events.empty());
}

TEST_P(VerbsMigration, after_a_failure_it_goes_on_where_it_was)
{
    // What is done before, what waits while it stops, what comes after.
    receive_all(a, qp_a.id, 3, 1);
    receive_all(b, qp_b.id, 3, 1);
    send_all(a, qp_a.id, 3, 100);
    send_all(b, qp_b.id, 3, 100);
    ASSERT_TRUE(run_until([&] { return all_done(3); }));
    send_all(a, qp_a.id, 2, 103);
    send_all(b, qp_b.id, 2, 103);
    leave(home_a, &home_b);
    send_all(b, qp_b.id, 2, 105);
    home_a.backend->start();
    send_all(a, qp_a.id, 2, 105);
    receive_all(a, qp_a.id, 4, 4);
    receive_all(b, qp_b.id, 4, 4);
    ASSERT_TRUE(run_until([&] { return all_done(7); }));
    for (const BackendEnd* end : {&a, &b}) {
        EXPECT_EQ(ids(*end, IBV_WC_RECV), numbers(1, 7));
        EXPECT_EQ(ids(*end, IBV_WC_SEND), numbers(100, 7));
    }
}

TEST_P(VerbsMigration, a_peer_that_is_gone_is_a_fatal_event_of_the_qp)
{
    receive_all(a, qp_a.id, 1, 1);
    auto state = leave(home_a, &home_b);
    home_b.backend->reset();
    arrive(home_a, state);
    ASSERT_TRUE(run_until([&] { return a.has_event(IBV_EVENT_QP_FATAL, qp_a.id); }));
    ASSERT_TRUE(run_until([&] { return a.completions.size() == 1; }));
    EXPECT_EQ(a.completions[0].wc.status, IBV_WC_WR_FLUSH_ERR);
    EXPECT_EQ(state_of(a, qp_a.id), IBV_QPS_ERR);
}

TEST_P(VerbsMigration, datagrams_keep_a_device_from_moving)
{
    QpNumbers ud = a.backend->create_qp(a.qp_init(IBV_QPT_UD)).value();
    EXPECT_EQ(home_a.backend->migration_obstacle(), std::nullopt);
    ASSERT_EQ(to_init(a, ud.id, IBV_QPT_UD), 0);
    auto obstacle = home_a.backend->migration_obstacle();
    ASSERT_TRUE(obstacle);
    EXPECT_NE(obstacle->find("QP " + std::to_string(ud.qpn) + " (datagrams)"), std::string::npos)
        << *obstacle;
}

TEST_P(VerbsMigration, qps_that_are_not_connected_yet_move_along)
{
    QpNumbers reset = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
    QpNumbers ud = a.backend->create_qp(a.qp_init(IBV_QPT_UD)).value();
    QpNumbers init = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
    QpNumbers other = b.backend->create_qp(b.qp_init(IBV_QPT_RC)).value();
    ASSERT_EQ(to_init(a, init.id, IBV_QPT_RC), 0);
    receive_all(a, init.id, 1, 1);
    move(home_a, home_b);
    EXPECT_EQ(state_of(a, reset.id), IBV_QPS_RESET);
    EXPECT_EQ(state_of(a, ud.id), IBV_QPS_RESET);
    EXPECT_EQ(state_of(a, init.id), IBV_QPS_INIT);
    EXPECT_EQ(to_init(a, reset.id, IBV_QPT_RC), 0);
    EXPECT_EQ(to_init(a, ud.id, IBV_QPT_UD), 0);
    ASSERT_EQ(to_init(b, other.id, IBV_QPT_RC), 0);
    ASSERT_EQ(to_rtr(a, init.id, IBV_QPT_RC, b, other.qpn, psn_b), 0);
    ASSERT_EQ(to_rtr(b, other.id, IBV_QPT_RC, a, init.qpn, psn_a), 0);
    ASSERT_EQ(to_rts(b, other.id, IBV_QPT_RC, psn_b), 0);
    send_all(b, other.id, 1, 100);
    ASSERT_TRUE(run_until([&] { return completed(a, IBV_WC_RECV) == 1; }));
    EXPECT_EQ(ids(a, IBV_WC_RECV), numbers(1, 1));
}

// The property on-migrate=error.
TEST_P(VerbsMigration, what_cannot_move_fails_where_that_is_asked_for)
{
    QpNumbers ud = a.backend->create_qp(a.qp_init(IBV_QPT_UD)).value();
    ASSERT_EQ(to_init(a, ud.id, IBV_QPT_UD), 0);
    a.post_recv(ud.id, recv_request(70, receive_area, 64, a.mr.lkey));
    home_a.port = open_port(GetParam().first, peer_port, true);
    // Where it starts this is not yet so.
    ASSERT_TRUE(home_a.backend->migration_obstacle());
    move(home_a, home_b);
    EXPECT_EQ(home_a.backend->migration_obstacle(), std::nullopt);
    ASSERT_TRUE(run_until([&] { return a.has_event(IBV_EVENT_QP_FATAL, ud.id); }));
    ASSERT_TRUE(run_until([&] { return !a.completions.empty(); }));
    EXPECT_EQ(a.completions[0].wc.wr_id, 70u);
    EXPECT_EQ(a.completions[0].wc.status, IBV_WC_WR_FLUSH_ERR);
    EXPECT_EQ(state_of(a, ud.id), IBV_QPS_ERR);
    EXPECT_FALSE(a.has_event(IBV_EVENT_QP_FATAL, qp_a.id));
    // The other one is connected.
    a.completions.clear();
    receive_all(a, qp_a.id, 1, 1);
    receive_all(b, qp_b.id, 1, 1);
    send_all(a, qp_a.id, 1, 100);
    send_all(b, qp_b.id, 1, 100);
    EXPECT_TRUE(run_until([&] { return all_done(1); }));
}

TEST_P(VerbsMigration, a_damaged_state_is_refused_or_loaded_and_leaves_nothing)
{
    receive_all(a, qp_a.id, 2, 1);
    send_all(a, qp_a.id, 2, 100);
    auto state = leave(home_a, &home_b);
    auto stream = migration::StreamReader::open(state, migration::DeviceKind::pvrdma);
    ASSERT_TRUE(stream);
    std::vector<migration::Section> sections;
    while (auto section = stream->next()) {
        sections.push_back(*section);
    }
    auto next = home_a.make();
    next->stop();
    size_t refused = 0;
    for (size_t damaged = 0; damaged < sections.size(); ++damaged) {
        std::vector<uint8_t> body(sections[damaged].body.begin(), sections[damaged].body.end());
        // Pages of a large region are many; the first bytes of each section tell.
        for (size_t at = 0; at < std::min<size_t>(body.size(), 300); at += 3) {
            auto changed = body;
            changed[at] ^= 0x5a;
            for (size_t i = 0; i < sections.size(); ++i) {
                migration::Section section = sections[i];
                if (i == damaged) {
                    section.body = changed;
                }
                if (!next->load(section)) {
                    ++refused;
                    break;
                }
            }
            next->reset();
        }
        // And cut short.
        migration::Section cut = sections[damaged];
        cut.body = cut.body.first(cut.body.size() - 1);
        for (size_t i = 0; i < damaged; ++i) {
            ASSERT_TRUE(next->load(sections[i]));
        }
        EXPECT_FALSE(next->load(cut));
        next->reset();
    }
    EXPECT_GT(refused, 0u);
    EXPECT_EQ(next->count(ObjectKind::qp), 0u);
    // What was right still is.
    ASSERT_TRUE(load(*next, state));
    EXPECT_EQ(next->count(ObjectKind::qp), 1u);
}

// Traffic of both ends over several QPs that goes on while one end after the other moves:
// messages that must come once and in order, and atomics that must be done once.
class VerbsMigrationUnderLoad : public VerbsMigration {
protected:
    static constexpr uint32_t num_qps = 8;
    static constexpr uint32_t depth = 16;
    static constexpr uint64_t slot_size = 64;

    struct Flow {
        uint64_t posted = 0;    // requests of this end
        uint64_t done = 0;
        uint64_t messages = 0;  // those of them that the peer receives
        uint64_t received = 0;  // messages of the peer
        uint64_t receives = 0;  // receives posted
        uint64_t added = 0;     // by atomics of this end
    };
    struct Side {
        BackendEnd& end;
        BackendEnd& peer;
        std::vector<QpNumbers> qps;
        std::vector<Flow> flows = std::vector<Flow>(num_qps);
        size_t taken = 0; // completions
    };

    void SetUp() override
    {
        for (uint32_t i = 0; i < num_qps; ++i) {
            connect();
            side_a.qps.push_back(qp_a);
            side_b.qps.push_back(qp_b);
        }
    }

    // A place of its own for each QP, kind of use and slot.
    static uint64_t place(uint32_t qp, uint32_t use, uint64_t slot)
    {
        return area + ((qp * 4 + use) * depth + slot % depth) * slot_size;
    }
    // That the peer's atomics add to.
    static uint64_t counter(uint32_t qp) { return place(qp, 3, 0); }

    void post_receives(Side& side, uint32_t i)
    {
        Flow& flow = side.flows[i];
        for (; flow.receives < flow.received + depth; ++flow.receives) {
            side.end.post_recv(side.qps[i].id,
                               recv_request(flow.receives, place(i, 1, flow.receives), slot_size,
                                            side.end.mr.lkey));
        }
    }
    void post(Side& side, uint32_t i)
    {
        post_receives(side, i);
        Flow& flow = side.flows[i];
        uint32_t qp = side.qps[i].id;
        for (; flow.posted < flow.done + depth; ++flow.posted) {
            uint64_t at = place(i, 0, flow.posted);
            SendRequest request;
            if (flow.posted % 3 == 2) {
                request = send_request(IBV_WR_ATOMIC_FETCH_AND_ADD, flow.posted, at, 8,
                                       side.end.mr.lkey, counter(i), side.peer.mr.rkey);
                request.wr.wr.atomic.compare_add = 1;
            } else {
                side.end.word(at) = flow.messages;
                bool write = flow.posted % 3 == 1;
                request = send_request(write ? IBV_WR_RDMA_WRITE_WITH_IMM : IBV_WR_SEND_WITH_IMM,
                                       flow.posted, at, slot_size, side.end.mr.lkey,
                                       place(i, 2, flow.messages), side.peer.mr.rkey);
                request.wr.imm_data = static_cast<uint32_t>(flow.messages++);
            }
            side.end.post_send(qp, request);
        }
    }
    void take(Side& side, bool last = false)
    {
        for (; side.taken < side.end.completions.size(); ++side.taken) {
            const Completion completion = side.end.completions[side.taken];
            ASSERT_EQ(completion.wc.status, IBV_WC_SUCCESS) << completion.wc.wr_id;
            auto i = static_cast<uint32_t>(
                std::ranges::find(side.qps, completion.qp, &QpNumbers::id) - side.qps.begin());
            Flow& flow = side.flows[i];
            bool write = completion.wc.opcode == IBV_WC_RECV_RDMA_WITH_IMM;
            if (write || completion.wc.opcode == IBV_WC_RECV) {
                ASSERT_EQ(completion.wc.wr_id, flow.received);
                ASSERT_EQ(completion.wc.imm_data, flow.received);
                ASSERT_EQ(side.end.word(place(i, write ? 2 : 1, flow.received)), flow.received);
                ++flow.received;
            } else {
                ASSERT_EQ(completion.wc.wr_id, flow.done);
                ++flow.done;
                flow.added += completion.wc.opcode == IBV_WC_FETCH_ADD;
            }
            // The last requests need receives as well: the peer may have taken none yet of those
            // that it has acknowledged.
            if (last) {
                post_receives(side, i);
            } else {
                post(side, i);
            }
        }
    }
    // Until so many more requests of each QP are done.
    void exchange(uint64_t count)
    {
        uint64_t until = side_a.flows[0].done + count;
        auto all = [&](const Side& side) {
            return std::ranges::all_of(side.flows,
                                       [&](const Flow& flow) { return flow.done >= until; });
        };
        ASSERT_TRUE(run_until([&] {
            take(side_a);
            take(side_b);
            return HasFatalFailure() || (all(side_a) && all(side_b));
        }));
    }

    // For a person: of each QP at a and at b.
    std::string progress() const
    {
        std::string text;
        for (const Side* side : {&side_a, &side_b}) {
            for (const Flow& flow : side->flows) {
                text += fmt::format("{}: {} of {} requests done, {} of {} receives taken\n",
                                    side == &side_a ? "a" : "b", flow.done, flow.posted,
                                    flow.received, flow.receives);
            }
        }
        return text;
    }

    Side side_a{a, b, {}};
    Side side_b{b, a, {}};
};

TEST_P(VerbsMigrationUnderLoad, nothing_is_lost_repeated_or_reordered)
{
    std::ranges::fill(std::span(a.at(area), 1 << 20), std::byte{});
    std::ranges::fill(std::span(b.at(area), 1 << 20), std::byte{});
    for (uint32_t i = 0; i < num_qps; ++i) {
        post(side_a, i);
        post(side_b, i);
    }
    constexpr unsigned moves = 20;
    for (unsigned i = 0; i < moves && !HasFatalFailure(); ++i) {
        SCOPED_TRACE(i);
        exchange(20);
        if (i % 3 == 2) {
            move(home_b, home_a);
        } else {
            move(home_a, home_b);
        }
    }
    exchange(20);
    // What was in flight in the end has its place in the counts, too.
    ASSERT_TRUE(run_until([&] {
        return std::ranges::all_of(std::array{&side_a, &side_b}, [&](Side* side) {
            take(*side, true);
            return std::ranges::all_of(side->flows,
                                       [](const Flow& flow) { return flow.done == flow.posted; });
        });
    })) << progress();
    for (uint32_t i = 0; i < num_qps; ++i) {
        EXPECT_EQ(b.word(counter(i)), side_a.flows[i].added);
        EXPECT_EQ(a.word(counter(i)), side_b.flows[i].added);
    }
    EXPECT_TRUE(a.events.empty());
    EXPECT_TRUE(b.events.empty());
}

// Requests of a shared receive queue move, too.
class VerbsMigrationWithSrq : public VerbsMigration {
protected:
    QpInit init_a() override
    {
        srq = a.backend->create_srq(a.pd, {32, 2, 0}).value();
        QpInit init = a.qp_init(IBV_QPT_RC);
        init.use_srq = true;
        init.srq = srq;
        return init;
    }
    void receive_shared(uint64_t first_id, uint64_t count)
    {
        for (uint64_t i = 0; i < count; ++i) {
            a.post_srq(srq, recv_request(first_id + i, receive_area + (first_id + i) * 64, 64,
                                         a.mr.lkey));
        }
    }
    uint32_t srq = 0;
};

TEST_P(VerbsMigrationWithSrq, receives_of_a_shared_queue_move_along)
{
    receive_shared(1, 4);
    send_all(b, qp_b.id, 2, 100);
    ASSERT_TRUE(run_until([&] { return completed(a, IBV_WC_RECV) == 2; }));
    move(home_a, home_b);
    send_all(b, qp_b.id, 4, 102);
    ASSERT_TRUE(run_until([&] { return completed(a, IBV_WC_RECV) == 4; }));
    receive_shared(5, 2);
    ASSERT_TRUE(run_until(
        [&] { return completed(a, IBV_WC_RECV) == 6 && completed(b, IBV_WC_SEND) == 6; }));
    EXPECT_EQ(ids(a, IBV_WC_RECV), numbers(1, 6));
    EXPECT_EQ(ids(b, IBV_WC_SEND), numbers(100, 6));
}

// Two devices, each with an address of its own.
std::vector<DevicePair> two_devices()
{
    auto devices = all_devices();
    return devices.size() == 2 && devices[0] != devices[1]
               ? std::vector{DevicePair(devices[0], devices[1])}
               : std::vector<DevicePair>{};
}

// On one device there are none.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(VerbsMigration);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(VerbsMigrationUnacknowledged);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(VerbsMigrationUnderLoad);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(VerbsMigrationWithSrq);
INSTANTIATE_TEST_SUITE_P(Verbs, VerbsMigration, testing::ValuesIn(two_devices()));
INSTANTIATE_TEST_SUITE_P(Verbs, VerbsMigrationUnacknowledged, testing::ValuesIn(two_devices()));
INSTANTIATE_TEST_SUITE_P(Verbs, VerbsMigrationUnderLoad, testing::ValuesIn(two_devices()));
INSTANTIATE_TEST_SUITE_P(Verbs, VerbsMigrationWithSrq, testing::ValuesIn(two_devices()));

} // namespace
} // namespace rdma::test
