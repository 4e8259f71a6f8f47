// SPDX-License-Identifier: GPL-2.0-or-later
//
// Whose message of connection management it is.
#include <cerrno>

#include <gtest/gtest.h>

#include "../cm_messages.h"
#include "router.h"

namespace rdma::test {
namespace {

using mux::ClientId;
using mux::Router;
using verbs::OwnAddress;
using verbs::parse_cm_message;

constexpr ClientId alice = 1;
constexpr ClientId bob = 2;
constexpr ClientId carol = 3;
constexpr uint8_t gid_a = 4; // GID indices of the host
constexpr uint8_t gid_b = 5;

const ibv_gid remote = v4_gid(10, 0, 0, 99);
const ibv_gid other_remote = v4_gid(10, 0, 0, 98);

OwnAddress address(uint8_t slot, uint8_t gid_index, const ibv_gid& guest = {}, bool shared = false)
{
    OwnAddress own;
    own.slot = slot;
    own.gid_index = gid_index;
    own.guest_gid = guest;
    own.shared = shared;
    return own;
}

Mad at(uint8_t gid_index, Mad mad, const ibv_gid& peer = remote)
{
    mad.gid_index = gid_index;
    mad.peer = peer;
    return mad;
}

class CmRouter : public testing::Test {
protected:
    // Alice and Bob behind one GID of the host, each with an address of their own.
    void share()
    {
        ASSERT_EQ(router.set_address(alice, address(0, gid_a, v4_gid(10, 1, 0, 1), true)), 0);
        ASSERT_EQ(router.set_address(bob, address(0, gid_a, v4_gid(10, 1, 0, 2), true)), 0);
    }
    void expect_to(ClientId client, const Mad& mad)
    {
        auto to = router.route(mad);
        ASSERT_TRUE(to.has_value()) << static_cast<int>(to.error());
        EXPECT_EQ(*to, client);
    }
    void expect_drop(Router::Drop why, const Mad& mad)
    {
        auto to = router.route(mad);
        ASSERT_FALSE(to.has_value()) << *to;
        EXPECT_EQ(to.error(), why);
    }

    Router router;
};

TEST(CmMessage, ids_of_every_kind)
{
    for (CmKind kind : all_cm_kinds) {
        auto message = parse_cm_message(cm_mad(kind, 0x11223344, 0x55667788).bytes);
        ASSERT_TRUE(message.has_value());
        EXPECT_EQ(message->kind, kind);
        bool request = kind == CmKind::req || kind == CmKind::sidr_req;
        EXPECT_EQ(message->sender_id, kind == CmKind::sidr_rep ? 0 : 0x11223344);
        EXPECT_EQ(message->receiver_id, request                    ? 0u
                                        : kind == CmKind::sidr_rep ? 0x11223344
                                                                   : 0x55667788);
    }
}

TEST(CmMessage, what_is_none_is_refused)
{
    Mad mad = cm_mad(CmKind::req, 1);
    EXPECT_FALSE(parse_cm_message(std::span(mad.bytes).first(255)).has_value());
    for (size_t i : {0u, 1u, 2u, 3u, 16u}) {
        Mad spoilt = mad;
        spoilt.bytes[i] ^= std::byte{0x40};
        EXPECT_FALSE(parse_cm_message(spoilt.bytes).has_value()) << i;
    }
    for (auto attribute : std::to_array<uint16_t>({0x0f, 0x1b, 0x1c, 0x01})) {
        EXPECT_FALSE(parse_cm_message(cm_mad(static_cast<CmKind>(attribute), 1).bytes).has_value());
    }
}

TEST(CmMessage, the_address_that_a_request_is_for)
{
    for (CmKind kind : {CmKind::req, CmKind::sidr_req}) {
        Mad mad = cm_mad(kind, 1);
        ibv_gid v4 = v4_gid(10, 1, 0, 2);
        ask_for(mad, tcp_service | 7471, v4);
        auto message = parse_cm_message(mad.bytes);
        ASSERT_TRUE(message && message->ip_destination);
        EXPECT_EQ(std::memcmp(message->ip_destination->raw, v4.raw, 16), 0);

        ibv_gid v6{};
        v6.raw[0] = 0xfd;
        v6.raw[15] = 7;
        mad = cm_mad(kind, 1);
        ask_for(mad, tcp_service, v6, true);
        message = parse_cm_message(mad.bytes);
        ASSERT_TRUE(message && message->ip_destination);
        EXPECT_EQ(std::memcmp(message->ip_destination->raw, v6.raw, 16), 0);

        ask_for(mad, 0x1000'0000'0106'0000, v6, true);
        message = parse_cm_message(mad.bytes);
        EXPECT_TRUE(message && !message->ip_destination) << "another kind of service";
    }
}

TEST_F(CmRouter, a_gid_of_one_client_is_its_own)
{
    ASSERT_EQ(router.set_address(alice, address(0, gid_a)), 0);
    ASSERT_EQ(router.set_address(bob, address(0, gid_b)), 0);
    for (CmKind kind : all_cm_kinds) {
        expect_to(alice, at(gid_a, cm_mad(kind, 7, 8)));
        expect_to(bob, at(gid_b, cm_mad(kind, 7, 8)));
        expect_drop(Router::Drop::no_client, at(6, cm_mad(kind, 7, 8)));
    }
    Mad none = at(gid_a, cm_mad(CmKind::req, 1));
    none.bytes[1] = std::byte{0x03};
    expect_drop(Router::Drop::no_message, none);
}

TEST_F(CmRouter, a_gid_is_not_taken_from_another)
{
    ASSERT_EQ(router.set_address(alice, address(0, gid_a)), 0);
    EXPECT_EQ(router.set_address(bob, address(0, gid_a)), EADDRINUSE);
    EXPECT_EQ(router.set_address(bob, address(0, gid_a, {}, true)), EADDRINUSE);
    // The same client may have it twice.
    EXPECT_EQ(router.set_address(alice, address(1, gid_a)), 0);
    router.clear_address(alice, 0);
    EXPECT_EQ(router.set_address(bob, address(0, gid_a)), EADDRINUSE);
    router.clear_address(alice, 1);
    EXPECT_EQ(router.set_address(bob, address(0, gid_a, {}, true)), 0);
    EXPECT_EQ(router.set_address(alice, address(0, gid_a)), EADDRINUSE);
    EXPECT_EQ(router.set_address(alice, address(0, gid_a, {}, true)), 0);
}

TEST_F(CmRouter, a_slot_that_is_set_again_gives_up_what_it_had)
{
    ASSERT_EQ(router.set_address(alice, address(0, gid_a)), 0);
    ASSERT_EQ(router.set_address(alice, address(0, gid_b)), 0);
    expect_drop(Router::Drop::no_client, at(gid_a, cm_mad(CmKind::req, 1)));
    ASSERT_EQ(router.set_address(bob, address(0, gid_a)), 0);
    EXPECT_EQ(router.set_address(bob, address(0, gid_b)), EADDRINUSE);
    expect_drop(Router::Drop::no_client, at(gid_a, cm_mad(CmKind::req, 1)));
}

TEST_F(CmRouter, a_client_sends_from_its_own_gids_only)
{
    ASSERT_EQ(router.set_address(alice, address(0, gid_a)), 0);
    ASSERT_EQ(router.set_address(bob, address(0, gid_b)), 0);
    for (CmKind kind : all_cm_kinds) {
        EXPECT_EQ(router.check_send(alice, at(gid_a, cm_mad(kind, 10, 11))), 0);
        EXPECT_EQ(router.check_send(alice, at(gid_b, cm_mad(kind, 10, 11))), EACCES);
        EXPECT_EQ(router.check_send(carol, at(gid_a, cm_mad(kind, 10, 11))), EACCES);
    }
}

TEST_F(CmRouter, a_client_sends_nothing_but_connection_management)
{
    ASSERT_EQ(router.set_address(alice, address(0, gid_a)), 0);
    Mad mad = at(gid_a, cm_mad(CmKind::req, 1));
    mad.peer_qpn = 0;
    EXPECT_EQ(router.check_send(alice, mad), EBADMSG);
    mad.peer_qpn = 0x1000000;
    EXPECT_EQ(router.check_send(alice, mad), EBADMSG);
    mad.peer_qpn = 1;
    mad.bytes[1] = std::byte{0x01}; // subnet management
    EXPECT_EQ(router.check_send(alice, mad), EBADMSG);
}

// The active end of a connection, then the passive one, both behind a shared GID.
TEST_F(CmRouter, answers_find_the_client_that_asked)
{
    share();
    ASSERT_EQ(router.check_send(alice, at(gid_a, cm_mad(CmKind::req, 100))), 0);
    ASSERT_EQ(router.check_send(bob, at(gid_a, cm_mad(CmKind::req, 200))), 0);
    for (CmKind kind : {CmKind::mra, CmKind::rep, CmKind::lap, CmKind::apr, CmKind::dreq,
                        CmKind::rej, CmKind::drep}) {
        expect_to(alice, at(gid_a, cm_mad(kind, 900, 100)));
        expect_to(bob, at(gid_a, cm_mad(kind, 901, 200)));
    }
    // Repeated after the end.
    expect_to(alice, at(gid_a, cm_mad(CmKind::dreq, 900, 100)));
    expect_drop(Router::Drop::ambiguous, at(gid_a, cm_mad(CmKind::rep, 900, 300)));
    expect_drop(Router::Drop::no_client, at(gid_b, cm_mad(CmKind::rep, 900, 100)));
}

TEST_F(CmRouter, a_request_for_an_address_finds_who_has_it)
{
    share();
    for (CmKind kind : {CmKind::req, CmKind::sidr_req}) {
        Mad mad = at(gid_a, cm_mad(kind, 500));
        ask_for(mad, tcp_service | 7471, v4_gid(10, 1, 0, 2));
        expect_to(bob, mad);
        mad = at(gid_a, cm_mad(kind, 501));
        ask_for(mad, tcp_service | 7471, v4_gid(10, 1, 0, 3));
        expect_drop(Router::Drop::ambiguous, mad);
        mad = at(gid_a, cm_mad(kind, 502));
        ask_for(mad, 0x1234, v4_gid(10, 1, 0, 2));
        expect_drop(Router::Drop::ambiguous, mad);
    }
    // What follows from the same end, with Bob's id and without.
    ASSERT_EQ(router.check_send(bob, at(gid_a, cm_mad(CmKind::rep, 77, 500))), 0);
    expect_to(bob, at(gid_a, cm_mad(CmKind::rtu, 500, 77)));
    expect_to(bob, at(gid_a, cm_mad(CmKind::rej, 500, 0)));
    expect_drop(Router::Drop::ambiguous, at(gid_a, cm_mad(CmKind::rej, 500, 0), other_remote));
}

TEST_F(CmRouter, an_address_that_two_have_is_nobodys)
{
    share();
    ASSERT_EQ(router.set_address(carol, address(0, gid_a, v4_gid(10, 1, 0, 2), true)), 0);
    Mad mad = at(gid_a, cm_mad(CmKind::req, 500));
    ask_for(mad, tcp_service, v4_gid(10, 1, 0, 2));
    expect_drop(Router::Drop::ambiguous, mad);
}

TEST_F(CmRouter, service_resolution_has_ids_of_its_own)
{
    share();
    ASSERT_EQ(router.check_send(alice, at(gid_a, cm_mad(CmKind::sidr_req, 100))), 0);
    ASSERT_EQ(router.check_send(bob, at(gid_a, cm_mad(CmKind::req, 100))), 0);
    expect_to(alice, at(gid_a, cm_mad(CmKind::sidr_rep, 100)));
    expect_to(bob, at(gid_a, cm_mad(CmKind::rep, 5, 100)));
    expect_drop(Router::Drop::ambiguous, at(gid_a, cm_mad(CmKind::sidr_rep, 101)));
}

TEST_F(CmRouter, an_id_in_use_is_not_taken_from_another)
{
    share();
    ASSERT_EQ(router.check_send(alice, at(gid_a, cm_mad(CmKind::req, 100))), 0);
    EXPECT_EQ(router.check_send(bob, at(gid_a, cm_mad(CmKind::req, 100))), EADDRINUSE);
    EXPECT_EQ(router.check_send(bob, at(gid_a, cm_mad(CmKind::mra, 100, 9))), EADDRINUSE);
    expect_to(alice, at(gid_a, cm_mad(CmKind::rep, 9, 100)));
    // Nor ended.
    EXPECT_EQ(router.check_send(bob, at(gid_a, cm_mad(CmKind::drep, 100, 9))), 0);
    EXPECT_EQ(router.check_send(bob, at(gid_a, cm_mad(CmKind::rej, 100, 9))), 0);
    EXPECT_EQ(router.check_send(bob, at(gid_a, cm_mad(CmKind::req, 100))), EADDRINUSE);
    // Once it has ended it is free.
    EXPECT_EQ(router.check_send(alice, at(gid_a, cm_mad(CmKind::drep, 100, 9))), 0);
    EXPECT_EQ(router.check_send(bob, at(gid_a, cm_mad(CmKind::req, 100))), 0);
    expect_to(bob, at(gid_a, cm_mad(CmKind::rep, 9, 100)));
    EXPECT_EQ(router.remembered(alice), 0u);
}

TEST_F(CmRouter, an_answer_to_the_unknown_makes_no_id_ones_own)
{
    share();
    EXPECT_EQ(router.check_send(alice, at(gid_a, cm_mad(CmKind::drep, 100, 9))), 0);
    EXPECT_EQ(router.check_send(alice, at(gid_a, cm_mad(CmKind::rej, 101, 9))), 0);
    EXPECT_EQ(router.check_send(alice, at(gid_a, cm_mad(CmKind::rej, 0, 9))), 0);
    EXPECT_EQ(router.remembered(alice), 0u);
    EXPECT_EQ(router.check_send(bob, at(gid_a, cm_mad(CmKind::req, 100))), 0);
}

TEST_F(CmRouter, what_a_client_has_is_bounded)
{
    share();
    for (uint32_t id = 1; id <= Router::max_own + 10; ++id) {
        ASSERT_EQ(router.check_send(alice, at(gid_a, cm_mad(CmKind::req, id))), 0);
        // Stays because it is used.
        expect_to(alice, at(gid_a, cm_mad(CmKind::mra, 9, 1)));
    }
    EXPECT_EQ(router.remembered(alice), Router::max_own);
    expect_to(alice, at(gid_a, cm_mad(CmKind::rep, 9, 1)));
    expect_to(alice, at(gid_a, cm_mad(CmKind::rep, 9, Router::max_own + 10)));
    expect_drop(Router::Drop::ambiguous, at(gid_a, cm_mad(CmKind::rep, 9, 2)));
    // What has ended goes first.
    ASSERT_EQ(router.check_send(alice, at(gid_a, cm_mad(CmKind::drep, 1, 9))), 0);
    ASSERT_EQ(router.check_send(alice, at(gid_a, cm_mad(CmKind::req, 1'000'000))), 0);
    expect_drop(Router::Drop::ambiguous, at(gid_a, cm_mad(CmKind::rep, 9, 1)));
    expect_to(alice, at(gid_a, cm_mad(CmKind::rep, 9, 50)));
}

TEST_F(CmRouter, a_flood_of_requests_does_not_push_connections_out)
{
    share();
    ASSERT_EQ(router.check_send(bob, at(gid_a, cm_mad(CmKind::req, 7))), 0);
    for (uint32_t id = 1; id <= 2 * Router::max_peers; ++id) {
        Mad mad = at(gid_a, cm_mad(CmKind::req, id));
        ask_for(mad, tcp_service, v4_gid(10, 1, 0, 2));
        expect_to(bob, mad);
    }
    EXPECT_EQ(router.remembered(bob), Router::max_peers + 1);
    expect_to(bob, at(gid_a, cm_mad(CmKind::rep, 9, 7)));
}

TEST_F(CmRouter, nothing_is_left_of_a_client_that_goes)
{
    share();
    ASSERT_EQ(router.check_send(alice, at(gid_a, cm_mad(CmKind::req, 100))), 0);
    ASSERT_EQ(router.set_address(carol, address(0, gid_a, v4_gid(10, 1, 0, 3), true)), 0);
    router.remove(alice);
    router.remove(alice);
    EXPECT_EQ(router.remembered(alice), 0u);
    EXPECT_EQ(router.check_send(alice, at(gid_a, cm_mad(CmKind::req, 100))), EACCES);
    expect_drop(Router::Drop::ambiguous, at(gid_a, cm_mad(CmKind::rep, 9, 100)));
    EXPECT_EQ(router.check_send(bob, at(gid_a, cm_mad(CmKind::req, 100))), 0);
    router.remove(carol);
    expect_to(bob, at(gid_a, cm_mad(CmKind::rep, 9, 4711)));
}

} // namespace
} // namespace rdma::test
