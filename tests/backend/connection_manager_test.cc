// SPDX-License-Identifier: GPL-2.0-or-later
//
// Messages of connection management between the GSI QPs of devices, through rdmacm-mux
// and through umad alone. On the devices of the command line: where that is one, both
// ends are at its port.
#include "cm_end.h"
#include "umad_port.h"

namespace rdma::test {
namespace {

// An address of tests at the first port's interface.
const ibv_gid second_address = v4_gid(10, 0, 0, 31);

class ConnectionManager : public testing::TestWithParam<std::string> {
protected:
    bool is_one_link() const { return GetParam() == all_devices().back(); }
    void start_ends(const std::string& mux)
    {
        a = std::make_unique<CmEnd>(GetParam(), mux);
        b = is_one_link() ? std::make_unique<CmEnd>(GetParam(), mux, second_address)
                          : std::make_unique<CmEnd>(all_devices().back(), mux);
        // The kernel makes the GID of an address that is added a while later.
        ASSERT_TRUE(run_until({a.get(), b.get()}, [&] { return b->host_index() != 255; }));
    }
    // Sends until one of its kind arrives: these are datagrams, and there may be no way yet.
    void send_until_it_arrives(CmEnd& from, const ibv_gid& gid, const Mad& mad, CmKind kind, CmEnd& to)
    {
        size_t before = to.count(kind);
        auto last = std::chrono::steady_clock::now() + patience;
        while (to.count(kind) == before) {
            ASSERT_LT(std::chrono::steady_clock::now(), last) << "nothing arrives";
            from.send(gid, mad);
            pollfd fds[] = {{from.backend->event_fd(), POLLIN, 0},
                            {to.backend->event_fd(), POLLIN, 0}};
            poll(fds, 2, 100);
            from.take();
            to.take();
        }
    }
    void reach(CmEnd& from, CmEnd& to, uint32_t id)
    {
        send_until_it_arrives(from, to.end.gid, cm_mad(CmKind::req, id), CmKind::req, to);
    }
    void expect_all_kinds_arrive()
    {
        for (auto [from, to] : {std::pair(a.get(), b.get()), std::pair(b.get(), a.get())}) {
            from->received.clear();
            to->received.clear();
            for (CmKind kind : all_cm_kinds) {
                from->send(to->end.gid, cm_mad(kind, 0x77, 0x88));
            }
            // What reach() has sent more than once may come late.
            auto is_other = [](const CmEnd::Received& r) { return r.first_id() != 0x77; };
            EXPECT_TRUE(run_until({from, to}, [&, end = to] {
                std::erase_if(end->received, is_other);
                return end->received.size() >= all_cm_kinds.size();
            }));
            std::erase_if(from->received, is_other);
            // In order, once each, as they were sent (but for umad's half of the TID).
            ASSERT_EQ(to->received.size(), all_cm_kinds.size());
            for (size_t i = 0; i < all_cm_kinds.size(); ++i) {
                const CmEnd::Received& got = to->received[i];
                EXPECT_EQ(got.kind(), all_cm_kinds[i]);
                Mad sent = cm_mad(all_cm_kinds[i], 0x77, 0x88);
                std::copy_n(got.mad.bytes.begin() + 8, 4, sent.bytes.begin() + 8);
                EXPECT_EQ(got.mad.bytes, sent.bytes);
                EXPECT_EQ(got.wc.byte_len, grh_size + verbs::mad_size);
                EXPECT_EQ(got.wc.src_qp, 1u);
                // IPv4 in the GRH's place: source and destination.
                EXPECT_EQ(std::memcmp(&got.grh[32], from->end.gid.raw + 12, 4), 0);
                EXPECT_EQ(std::memcmp(&got.grh[36], to->end.gid.raw + 12, 4), 0);
            }
            EXPECT_TRUE(from->received.empty());
        }
    }

    Daemon daemon;
    std::unique_ptr<CmEnd> a;
    std::unique_ptr<CmEnd> b;
};

TEST_P(ConnectionManager, every_message_passes_through_the_daemon)
{
    daemon.start();
    start_ends(mux_path);
    reach(*a, *b, 1);
    reach(*b, *a, 2);
    expect_all_kinds_arrive();
}

TEST_P(ConnectionManager, a_daemon_that_is_missing_comes_and_is_restarted)
{
    start_ends(mux_path);
    EXPECT_TRUE(a->has_told("the guest has no RDMA CM until rdmacm-mux serves it at '" + mux_path));
    a->send(b->end.gid, cm_mad(CmKind::req, 1));
    EXPECT_EQ(a->end.stats.drop_unreachable, 1u);
    for (int signal : {SIGKILL, SIGTERM}) {
        daemon.start();
        reach(*a, *b, 2);
        reach(*b, *a, 3);
        expect_all_kinds_arrive();
        a->log.clear();
        daemon.kill(signal);
        ASSERT_TRUE(run_until({a.get(), b.get()}, [&] { return a->has_told("it has ended"); }));
    }
    EXPECT_EQ(a->log.size(), 1u);
}

TEST_P(ConnectionManager, a_device_that_is_reset_has_its_messages_again)
{
    daemon.start();
    start_ends(mux_path);
    reach(*a, *b, 1);
    b.reset();
    a->send(a->end.gid, cm_mad(CmKind::req, 5)); // to itself
    ASSERT_TRUE(run_until({a.get()}, [&] { return a->count(CmKind::req) == 1; }));
    start_ends(mux_path);
    reach(*a, *b, 2);
    expect_all_kinds_arrive();
}

TEST_P(ConnectionManager, a_daemon_serves_the_devices_it_is_told_to)
{
    daemon.start("nosuch:1");
    CmEnd end(GetParam(), mux_path);
    EXPECT_TRUE(run_until({&end}, [&] {
        return end.has_told("it does not serve port 1 of RDMA device '" + GetParam());
    }));
    daemon.kill();
    daemon.start(GetParam());
    EXPECT_TRUE(run_until({&end}, [&] { return end.has_told("rdmacm-mux serves the guest"); }));
}

// Two devices behind one GID: each has the answers to what it asked.
TEST_P(ConnectionManager, devices_that_share_a_gid_are_told_apart_by_their_ids)
{
    daemon.start();
    int index = 0;
    ibv_gid gid;
    {
        CmEnd probe(GetParam(), "off");
        index = probe.host_index();
        gid = probe.end.gid;
    }
    CmEnd first(GetParam(), mux_path, v4_gid(10, 50, 0, 1), index);
    CmEnd second(GetParam(), mux_path, v4_gid(10, 50, 0, 2), index);
    b = is_one_link() ? std::make_unique<CmEnd>(GetParam(), mux_path, second_address)
                      : std::make_unique<CmEnd>(all_devices().back(), mux_path);
    ASSERT_TRUE(run_until({b.get()}, [&] { return b->host_index() != 255; }));
    reach(first, *b, 100);
    reach(second, *b, 200);
    send_until_it_arrives(*b, gid, cm_mad(CmKind::rep, 900, 200), CmKind::rep, second);
    send_until_it_arrives(*b, gid, cm_mad(CmKind::rep, 901, 100), CmKind::rep, first);
    first.take();
    second.take();
    for (auto [end, id] : {std::pair(&first, 901u), std::pair(&second, 900u)}) {
        for (const CmEnd::Received& got : end->received) {
            EXPECT_EQ(got.first_id(), id);
        }
    }
    // A request by the address that it is for.
    Mad request = cm_mad(CmKind::req, 902);
    ask_for(request, tcp_service | 7, second.end.gid);
    send_until_it_arrives(*b, gid, request, CmKind::req, second);
    first.take();
    EXPECT_EQ(first.count(CmKind::req), 0u);
}

TEST_P(ConnectionManager, a_destination_that_does_not_answer_stops_nobody)
{
    daemon.start();
    start_ends(mux_path);
    reach(*a, *b, 1);
    auto begin = std::chrono::steady_clock::now();
    for (uint8_t i = 0; i < 16; ++i) {
        a->send(v4_gid(10, 0, 0, static_cast<uint8_t>(200 + i)), cm_mad(CmKind::req, i));
    }
    auto posted = std::chrono::steady_clock::now() - begin;
    // One at a time they would take 16 seconds; b's are not behind them.
    reach(*b, *a, 3);
    auto reached = std::chrono::steady_clock::now() - begin;
    fmt::print("posted after {} ms, another's arrived after {} ms\n",
               posted / std::chrono::milliseconds(1), reached / std::chrono::milliseconds(1));
    EXPECT_LT(posted, std::chrono::seconds(2));
    EXPECT_LT(reached, std::chrono::seconds(5));
}

TEST_P(ConnectionManager, messages_pass_through_umad_alone)
{
    if (is_one_link()) {
        CmEnd first(GetParam(), "off");
        CmEnd second(GetParam(), "off");
        EXPECT_TRUE(first.log.empty());
        EXPECT_TRUE(second.has_told("has a connection manager already"));
        first.send(first.end.gid, cm_mad(CmKind::req, 5));
        EXPECT_TRUE(run_until({&first}, [&] { return first.count(CmKind::req) == 1; }));
        return;
    }
    start_ends("off");
    reach(*a, *b, 1);
    expect_all_kinds_arrive();
    auto begin = std::chrono::steady_clock::now();
    for (uint8_t i = 0; i < 16; ++i) {
        a->send(v4_gid(10, 0, 0, static_cast<uint8_t>(200 + i)), cm_mad(CmKind::req, i));
    }
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
}

TEST_P(ConnectionManager, what_is_no_message_of_connection_management_is_not_sent)
{
    CmEnd end(GetParam(), "off");
    Mad mad = cm_mad(CmKind::req, 1);
    mad.bytes[1] = std::byte{0x03}; // subnet administration
    end.send(end.end.gid, mad);
    EXPECT_EQ(end.end.stats.drop_unreachable, 1u);
}

// Why sending is left to threads.
TEST_P(ConnectionManager, umad_waits_for_the_address_of_a_destination)
{
    CmEnd end(GetParam(), "off");
    verbs::UmadAgent agent(GetParam(), 1, false);
    Mad mad = cm_mad(CmKind::req, 1);
    mad.gid_index = end.host_index();
    mad.peer = end.end.gid;
    EXPECT_EQ(agent.send(mad), 0);
    mad.peer.raw[15] = 230;
    auto begin = std::chrono::steady_clock::now();
    EXPECT_NE(agent.send(mad), 0);
    fmt::print("umad_send returned after {} ms\n",
               (std::chrono::steady_clock::now() - begin) / std::chrono::milliseconds(1));
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ConnectionManager);
INSTANTIATE_TEST_SUITE_P(Backend, ConnectionManager, testing::ValuesIn(devices_under_test()));

} // namespace
} // namespace rdma::test
