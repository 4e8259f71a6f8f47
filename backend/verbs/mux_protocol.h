// SPDX-License-Identifier: GPL-2.0-or-later
//
// What devices and the daemon rdmacm-mux, which shares the messages of connection
// management of a host's ports among them, tell each other over a Unix socket of type
// SOCK_SEQPACKET: one of these structures is one packet. Numbers are in the host's byte
// order, but for GIDs and MADs, which are as on the wire.
//
//   client  Hello                      first, and once
//   daemon  Welcome | Refusal          after a Refusal it hangs up
//   client  SetAddress, ClearAddress   any time after Hello
//   daemon  AddressRefused             where another has that GID to itself; the client
//                                      may ask again
//   client  Datagram                   to be sent, from an address that is set
//   daemon  Datagram                   has come for such an address
//
// The daemon hangs up on a client that sends anything else. Datagrams may be lost in
// either direction, as on a network.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "mad_port.h"

namespace rdma::verbs::mux {

inline constexpr const char* default_socket = "/run/rdmacm-mux.sock";

inline constexpr uint32_t magic = 0x52434d58; // "RCMX"
inline constexpr uint16_t version = 1;
inline constexpr size_t max_slots = 256;

enum class Type : uint16_t {
    hello = 1,
    welcome,
    refusal,
    set_address,
    clear_address,
    address_refused,
    datagram,
};

using Gid = std::array<uint8_t, 16>;

struct Hello {
    Type type = Type::hello;
    uint16_t version = mux::version;
    uint32_t magic = mux::magic;
    std::array<char, 64> device{}; // name of the host's RDMA device, ends with 0
    uint32_t port = 0;             // 1..255
};
static_assert(sizeof(Hello) == 76);

struct Welcome {
    Type type = Type::welcome;
    uint16_t version = mux::version;
};
static_assert(sizeof(Welcome) == 4);

struct Refusal {
    Type type = Type::refusal;
    uint16_t version = mux::version; // the daemon's
    std::array<char, 252> reason{};  // for people, ends with 0
};
static_assert(sizeof(Refusal) == 256);

struct SetAddress {
    Type type = Type::set_address;
    uint8_t slot = 0;      // of the client's; what was in it before is cleared
    uint8_t gid_index = 0; // in the table of the host's port
    uint8_t shared = 0;    // 1: other clients may set it too, if they say the same
    std::array<uint8_t, 3> reserved{};
    Gid host_gid{};  // that has this index
    Gid guest_gid{}; // the address that the guest knows as its own
};
static_assert(sizeof(SetAddress) == 40);

struct ClearAddress {
    Type type = Type::clear_address;
    uint8_t slot = 0;
    uint8_t reserved = 0;
};
static_assert(sizeof(ClearAddress) == 4);

struct AddressRefused {
    Type type = Type::address_refused;
    uint8_t slot = 0;
    uint8_t reserved = 0;
    // EADDRINUSE: another has it; EADDRNOTAVAIL: the host's port has not; EACCES: the
    // daemon's administrator has not allowed it to clients of this socket.
    uint32_t error = 0;
};
static_assert(sizeof(AddressRefused) == 8);

struct Datagram {
    Type type = Type::datagram;
    uint8_t gid_index = 0; // the client's end
    uint8_t sl = 0;
    uint8_t hop_limit = 0;
    uint8_t traffic_class = 0;
    uint16_t reserved = 0;
    uint32_t flow_label = 0;
    uint32_t peer_qpn = 0;
    Gid peer{};
    std::array<std::byte, mad_size> mad{};
};
static_assert(sizeof(Datagram) == 288);

inline constexpr size_t max_message = sizeof(Datagram);

// A packet as one of these. False: it has another size.
template <typename T>
bool read_as(std::span<const std::byte> packet, T& out)
{
    if (packet.size() != sizeof(T)) {
        return false;
    }
    std::memcpy(&out, packet.data(), sizeof(T));
    return true;
}

Datagram to_datagram(const Mad& mad);
Mad to_mad(const Datagram& datagram);

} // namespace rdma::verbs::mux
