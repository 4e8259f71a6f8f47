// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is below a packet's BTH: Ethernet with or without a VLAN tag, and IPv4 or IPv6 with UDP
// (RoCEv2, annex A17) or a GRH (RoCEv1, annex A16); and the ICRC, which covers it.
#pragma once

#include <cstring>
#include <optional>
#include <span>

#include "wire.h"

namespace rdma::roce {

inline constexpr uint8_t ipv4_no_options = 0x45;

// IPv4 addresses as ::ffff:a.b.c.d
inline ibv_gid mapped(const std::array<uint8_t, 4>& v4)
{
    ibv_gid gid{};
    gid.raw[10] = 0xff;
    gid.raw[11] = 0xff;
    std::memcpy(gid.raw + 12, v4.data(), v4.size());
    return gid;
}
inline ibv_gid as_gid(const std::array<uint8_t, 16>& v6)
{
    ibv_gid gid;
    std::memcpy(gid.raw, v6.data(), v6.size());
    return gid;
}

// A cursor over bytes that never goes past their end.
class Reader {
public:
    explicit Reader(std::span<const uint8_t> bytes) : _bytes(bytes) {}
    template <typename Header>
    bool take(Header& out)
    {
        if (_bytes.size() < sizeof(Header)) {
            return false;
        }
        std::memcpy(&out, _bytes.data(), sizeof(Header));
        _bytes = _bytes.subspan(sizeof(Header));
        return true;
    }
    std::span<const uint8_t> rest() const { return _bytes; }

private:
    std::span<const uint8_t> _bytes;
};

enum class ParseError {
    none,
    not_roce,  // some other traffic: not ours to take
    malformed, // too short, lengths that do not fit, bad version or opcode
    icrc,
};

// Where a frame's network header starts and what it is.
struct Layer2 {
    EthernetHeader ethernet;
    uint16_t vlan;
    uint8_t priority; // 0 without a tag
    uint16_t ethertype;
    std::span<const uint8_t> rest;
};

// The network layer of a frame: which headers, where BTH starts.
struct Layer3 {
    NetworkType network;
    ibv_gid source;
    ibv_gid destination;
    uint8_t traffic_class;
    std::span<const uint8_t> headers; // IP and UDP, or GRH
    std::span<const uint8_t> transport; // BTH up to and with the ICRC
};

// What a frame has below its BTH. Spans point into the frame.
struct Layers {
    Layer2 l2;
    Layer3 l3;
};

// Whether a frame claims to be RoCE at all, and where its layers are: the look at every frame of
// the NIC. IPv4 fragments are not ours. layers is undefined where the frame has been refused.
ParseError parse_network(std::span<const uint8_t> frame, Layers& layers);

// The ICRC (A17.3.3) over the headers from the IP header on, with what routers
// may change set to ones, behind eight bytes of ones that stand for the LRH.
// network_headers: IP and UDP, or the GRH; rest: from BTH to before the ICRC.
uint32_t icrc_of(NetworkType network, std::span<const uint8_t> network_headers,
                 std::span<const uint8_t> rest);

// Where a frame of any other traffic comes from: the IP address of its sender
// (IPv4, IPv6, ARP), and on which VLAN. head: its beginning, 96 bytes suffice.
// Nothing for RoCE, for what has no such address, and for the unspecified one.
struct Sender {
    ibv_gid address; // IPv4 addresses as ::ffff:a.b.c.d
    uint16_t vlan;
};
std::optional<Sender> peek_sender(std::span<const uint8_t> head);

} // namespace rdma::roce
