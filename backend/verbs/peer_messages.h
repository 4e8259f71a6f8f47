// SPDX-License-Identifier: GPL-2.0-or-later
//
// What two devices with this backend tell each other over TCP, so that one of them can
// move to another host (docs/verbs-backend.md has the protocol). QPs go by the numbers
// that the guests know.
//
//   frame  le32 bytes that follow, le16 kind, le16 version (2), le32 id, body
//
// An answer has the request's kind with answer_bit, and its id. Bodies are described as
// sections of the state stream are (migration/archive.h), and read as if an attacker
// had made them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "archive.h"

namespace rdma::verbs {

inline constexpr size_t peer_length_size = 4;
inline constexpr size_t peer_header_size = 8; // behind the length
inline constexpr uint32_t max_peer_frame = 4 << 20;
inline constexpr uint16_t peer_version = 2;
inline constexpr uint16_t answer_bit = 0x8000;

enum class PeerMessage : uint16_t {
    find = 1,    // what is the host's number of your QP, and of your keys?
    suspend = 2, // let these QPs rest; answered once they do
    resume = 3,  // they can go on as before
    move = 4,    // their peers have new numbers
    keys = 5,    // the host's numbers of my keys
};

// A QP of the receiver's and the sender's that it is connected to.
struct QpLink {
    uint32_t qpn = 0;
    uint32_t peer_qpn = 0;
};

// Keys of remote access whose number on the sender's host is another one.
struct KeyEntry {
    uint32_t guest = 0;
    uint32_t host = 0;
};
using KeyList = std::vector<KeyEntry>;

struct FindRequest {
    QpLink link; // that there is, or is to be
};
struct FindAnswer {
    uint32_t host_qpn = 0; // 0: there is no such QP, or another has it
    bool linked = false;   // the answerer's QP is connected to the asker's, or about to be
    KeyList keys;          // only then
};

struct KeysRequest {
    KeyList keys;
};
struct KeysAnswer {
    bool taken = false; // otherwise no QP is connected to the sender's address
};

struct LinksRequest { // suspend, resume
    std::vector<QpLink> links;
};
enum class LinkStatus : uint8_t {
    unknown, // there is no such connection
    quiet,   // nothing is in flight
    stalled, // what is in flight waits, for a receive request most likely
};
struct LinksAnswer {
    std::vector<LinkStatus> links;
};

struct Move {
    QpLink link;
    uint32_t host_qpn = 0;          // the sender's, now
    uint32_t receiver_host_qpn = 0; // that the sender's has been connected to
    uint32_t receiver_psn = 0; // of the receiver's first packet
    uint32_t sender_psn = 0;
    uint64_t received = 0; // messages that took a receive of the sender's, since the last move
};
struct MoveRequest {
    std::vector<Move> moves;
    KeyList keys;
};
enum class MoveStatus : uint8_t {
    done,
    unknown,  // there is no such connection
    failed,   // the QP is in the error state
    not_now,  // the device is about to move itself: ask again
    mine,     // both have moved: wait for the receiver's own request
    elsewhere, // the receiver's has another number: connect to that, and ask again
};
struct Moved {
    MoveStatus status = MoveStatus::unknown;
    uint32_t host_qpn = 0;
    uint64_t received = 0;
};
struct MoveAnswer {
    std::vector<Moved> moved;
    KeyList keys;
};

// The next frame at the start of bytes that have come.
struct PeerFrame {
    enum class State {
        whole,
        partial, // more is to come
        wrong,   // no frame of this version
    };
    State state = State::partial;
    uint16_t kind = 0;
    uint32_t id = 0;
    std::span<const uint8_t> body;
    size_t size = 0; // bytes of all of it, as soon as it is known
};
PeerFrame first_frame(std::span<const uint8_t> bytes);
void append_frame(std::vector<uint8_t>& bytes, uint16_t kind, uint32_t id,
                  std::span<const uint8_t> body);

inline constexpr size_t max_peer_links = 65536;
inline constexpr size_t max_peer_keys = 262144;

template <typename Archive>
void describe(Archive& a, QpLink& link)
{
    a.u32("qpn", link.qpn);
    a.u32("peer_qpn", link.peer_qpn);
}

template <typename Archive>
void describe(Archive& a, KeyList& keys)
{
    a.list("keys", keys, max_peer_keys, [](auto& each, KeyEntry& key) {
        each.u32("guest", key.guest);
        each.u32("host", key.host);
    });
}

template <typename Archive>
void describe(Archive& a, FindRequest& request)
{
    describe(a, request.link);
}

template <typename Archive>
void describe(Archive& a, KeysRequest& request)
{
    describe(a, request.keys);
}

template <typename Archive>
void describe(Archive& a, KeysAnswer& answer)
{
    a.flag("taken", answer.taken);
}

template <typename Archive>
void describe(Archive& a, FindAnswer& answer)
{
    a.u32("host_qpn", answer.host_qpn, 0xffffff);
    a.flag("linked", answer.linked);
    describe(a, answer.keys);
}

template <typename Archive>
void describe(Archive& a, LinksRequest& request)
{
    a.list("links", request.links, max_peer_links,
           [](auto& each, QpLink& link) { describe(each, link); });
}

template <typename Archive>
void describe(Archive& a, LinksAnswer& answer)
{
    a.list("links", answer.links, max_peer_links, [](auto& each, LinkStatus& status) {
        each.u8("status", status, static_cast<uint8_t>(LinkStatus::stalled));
    });
}

template <typename Archive>
void describe(Archive& a, MoveRequest& request)
{
    a.list("moves", request.moves, max_peer_links, [](auto& each, Move& move) {
        describe(each, move.link);
        each.u32("host_qpn", move.host_qpn, 0xffffff);
        each.u32("receiver_host_qpn", move.receiver_host_qpn, 0xffffff);
        each.u32("receiver_psn", move.receiver_psn, 0xffffff);
        each.u32("sender_psn", move.sender_psn, 0xffffff);
        each.u64("received", move.received);
    });
    describe(a, request.keys);
}

template <typename Archive>
void describe(Archive& a, MoveAnswer& answer)
{
    a.list("moved", answer.moved, max_peer_links, [](auto& each, Moved& moved) {
        each.u8("status", moved.status, static_cast<uint8_t>(MoveStatus::elsewhere));
        each.u32("host_qpn", moved.host_qpn, 0xffffff);
        each.u64("received", moved.received);
    });
    describe(a, answer.keys);
}

// The body of a message.
template <typename Body>
std::vector<uint8_t> encode(Body body)
{
    std::vector<uint8_t> bytes;
    migration::FieldWriter writer(bytes);
    describe(writer, body);
    return bytes;
}

// False: it is none.
template <typename Body>
bool decode(std::span<const uint8_t> bytes, Body& body)
{
    migration::FieldReader reader(bytes);
    describe(reader, body);
    return reader.finish().has_value();
}

} // namespace rdma::verbs
