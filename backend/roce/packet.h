// SPDX-License-Identifier: GPL-2.0-or-later
//
// One RoCE packet: taken apart after every check that needs no queue pair,
// and put together.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <span>

#include "wire.h"

namespace rdma::roce {

// Largest frame: Ethernet with a VLAN tag, IPv6, UDP, BTH, RETH with
// immediate data (or AtomicETH), payload, ICRC.
inline constexpr size_t max_frame = 18 + 40 + 8 + 12 + 28 + 4 + max_mtu + 3 + icrc_size;

// A received packet. Spans point into the frame it was parsed from.
struct Packet {
    NetworkType network;
    Mac source_mac;
    uint16_t vlan;       // VLAN identifier; no_vlan without a tag
    ibv_gid source;      // IPv4 addresses as ::ffff:a.b.c.d
    ibv_gid destination;
    bool congestion_experienced; // ECN bits were CE
    uint8_t opcode;
    bool solicited;
    bool ack_request;
    uint16_t pkey;
    uint32_t destination_qp;
    Psn psn;
    // Extended headers; meaningful where the opcode has them.
    uint64_t remote_address; // RETH, AtomicETH
    uint32_t rkey;           // RETH, AtomicETH, IETH
    uint32_t dma_length;     // RETH
    uint64_t swap_add;       // AtomicETH
    uint64_t compare;        // AtomicETH
    uint64_t original;       // AtomicAckETH
    uint8_t syndrome;        // AETH
    uint32_t msn;            // AETH
    uint32_t qkey;           // DETH
    uint32_t source_qp;      // DETH
    uint32_t immediate;      // ImmDt, as it lies in memory
    std::span<const uint8_t> payload; // without pad bytes
    std::span<const uint8_t> grh;     // 40 bytes to put before a datagram
    uint8_t operation() const { return opcode & 0x1f; }
    uint8_t transport() const { return opcode & transport_mask; }
    bool is_response() const
    {
        return transport() == transport_rc && operation() >= op_read_response_first &&
               operation() <= op_atomic_acknowledge;
    }
};

enum class ParseError {
    not_roce,  // some other traffic: not ours to take
    malformed, // too short, lengths that do not fit, bad version or opcode
    icrc,
};

// Whether a frame claims to be RoCE at all, and for which address: the cheap
// look at every frame of the NIC. IPv4 fragments are not ours.
std::expected<ibv_gid, ParseError> peek_destination(std::span<const uint8_t> frame);

// Where a frame of any other traffic comes from: the IP address of its sender
// (IPv4, IPv6, ARP), and on which VLAN. head: its beginning, 96 bytes suffice.
// Nothing for RoCE, for what has no such address, and for the unspecified one.
struct Sender {
    ibv_gid address; // IPv4 addresses as ::ffff:a.b.c.d
    uint16_t vlan;
};
std::optional<Sender> peek_sender(std::span<const uint8_t> head);

// scratch receives what grh of the packet points at (for IPv4, A17.4.5.2).
std::expected<Packet, ParseError> parse(std::span<const uint8_t> frame,
                                        std::span<uint8_t, grh_size> scratch);

// Everything below BTH of the packets to one destination, ready to copy, but for
// the VLAN tag.
class Path {
public:
    Path() = default;
    // network tells the encapsulation. source_port: RoCEv2 entropy (A17.3.1.3).
    // gid_index: of source. priority: of a VLAN tag, 0 to 7.
    Path(NetworkType network, const Mac& smac, const Mac& dmac, const ibv_gid& source,
         const ibv_gid& destination, uint8_t traffic_class, uint32_t flow_label,
         uint8_t hop_limit, uint16_t source_port, uint32_t gid_index = 0, uint8_t priority = 0);

    // The path whose packets start with these headers, as headers() returns
    // them; nothing where they are not those of a RoCE packet.
    static std::optional<Path> from_headers(std::span<const uint8_t> headers, uint32_t gid_index,
                                            uint8_t priority);

    bool valid() const { return _size > 0; }
    size_t size() const { return _size; } // bytes in front of BTH
    std::span<const uint8_t> headers() const { return std::span(_headers).first(_size); }
    NetworkType network() const { return _network; }
    const ibv_gid& source() const { return _source; }
    const ibv_gid& destination() const { return _destination; }
    uint32_t gid_index() const { return _gid_index; }
    uint8_t priority() const { return _priority; }

    static constexpr size_t max_headers = 14 + 40 + 8; // Ethernet, IPv6, UDP

private:
    friend class FrameBuilder;
    std::array<uint8_t, max_headers> _headers{};
    size_t _size = 0;
    NetworkType _network = NetworkType::roce_v1;
    ibv_gid _source{};
    ibv_gid _destination{};
    uint32_t _gid_index = 0;
    uint8_t _priority = 0;
};

// Puts one frame together, front to back, in a buffer of its own:
// begin(), header() for each extended header, payload(), finish().
class FrameBuilder {
public:
    // vlan: the identifier of the tag; no_vlan for none.
    void begin(const Path& path, uint16_t vlan, uint8_t opcode, uint32_t destination_qp,
               Psn psn, bool ack_request, bool solicited);
    template <typename Header>
    void header(const Header& h)
    {
        append(&h, sizeof(h));
    }
    // Room for size payload bytes (at most max_mtu), to be filled by the caller
    // before finish().
    std::span<std::byte> payload(size_t size);
    // Adds pad bytes, lengths, checksum and ICRC.
    std::span<const uint8_t> finish();

private:
    void append(const void* bytes, size_t size);

    std::array<uint8_t, max_frame> _frame;
    size_t _size = 0;
    size_t _ip = 0; // where the IP header or GRH is
    size_t _bth = 0;
    size_t _payload_size = 0;
    NetworkType _network = NetworkType::roce_v1;
};

} // namespace rdma::roce
