// SPDX-License-Identifier: GPL-2.0-or-later
//
// One RoCE packet, taken apart after every check that needs no queue pair.
#pragma once

#include <expected>
#include <span>

#include "network_layer.h"

namespace rdma::roce {

// A received packet. Spans point into the frame it was parsed from.
struct Packet {
    NetworkType network;
    Mac source_mac;
    uint16_t vlan;       // VLAN identifier; no_vlan without a tag
    uint8_t priority;    // of the tag
    ibv_gid source;      // IPv4 addresses as ::ffff:a.b.c.d
    ibv_gid destination;
    bool congestion_experienced; // ECN bits were CE
    uint8_t opcode;
    // A request of RC that cannot be carried out: an operation that there is none of, or other
    // headers or more payload than the operation has. What follows BTH is not taken apart.
    bool is_invalid;
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
    std::span<const uint8_t> grh;     // UD: 40 bytes to put before the datagram
    uint8_t operation() const { return opcode & 0x1f; }
    uint8_t transport() const { return opcode & transport_mask; }
    bool is_response() const
    {
        return transport() == transport_rc && operation() >= op_read_response_first &&
               operation() <= op_atomic_acknowledge;
    }
};

// Takes a frame apart of which parse_network() has found the layers. scratch receives what grh of
// a datagram points at (for IPv4, A17.4.5.2). packet is undefined where the frame is refused.
ParseError parse(const Layers& layers, std::span<uint8_t, grh_size> scratch, Packet& packet);
// The same of a frame as it has come.
std::expected<Packet, ParseError> parse(std::span<const uint8_t> frame,
                                        std::span<uint8_t, grh_size> scratch);

} // namespace rdma::roce
