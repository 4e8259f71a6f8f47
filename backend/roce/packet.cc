// SPDX-License-Identifier: GPL-2.0-or-later
#include "packet.h"

#include <algorithm>
#include <cstring>

namespace rdma::roce {

namespace {

constexpr uint8_t ecn_mask = 3;
constexpr uint8_t ecn_ce = 3;

// The extended headers behind BTH, by operation (9.2.1, table 38).
enum HeaderBits : unsigned {
    has_reth = 1,
    has_imm = 2,
    has_aeth = 4,
    has_atomic = 8,
    has_atomic_ack = 16,
    has_ieth = 32,
    has_deth = 64,
    has_payload = 128,
    unknown_operation = 256,
};

unsigned headers_of(uint8_t opcode)
{
    uint8_t transport = opcode & transport_mask;
    uint8_t operation = opcode & 0x1f;
    if (transport == transport_ud) {
        switch (operation) {
        case op_send_only:
            return has_deth | has_payload;
        case op_send_only_imm:
            return has_deth | has_imm | has_payload;
        default:
            return unknown_operation;
        }
    }
    if (transport != transport_rc && transport != transport_uc) {
        return unknown_operation;
    }
    switch (operation) {
    case op_send_first:
    case op_send_middle:
    case op_send_last:
    case op_send_only:
    case op_write_middle:
    case op_write_last:
        return has_payload;
    case op_send_last_imm:
    case op_send_only_imm:
    case op_write_last_imm:
        return has_imm | has_payload;
    case op_write_first:
    case op_write_only:
        return has_reth | has_payload;
    case op_write_only_imm:
        return has_reth | has_imm | has_payload;
    default:
        break;
    }
    if (transport == transport_uc) {
        return unknown_operation;
    }
    switch (operation) {
    case op_read_request:
        return has_reth;
    case op_read_response_middle:
        return has_payload;
    case op_read_response_first:
    case op_read_response_last:
    case op_read_response_only:
        return has_aeth | has_payload;
    case op_acknowledge:
        return has_aeth;
    case op_atomic_acknowledge:
        return has_aeth | has_atomic_ack;
    case op_compare_swap:
    case op_fetch_add:
        return has_atomic;
    case op_send_last_inv:
    case op_send_only_inv:
        return has_ieth | has_payload;
    default:
        return unknown_operation;
    }
}

bool take_extended(Reader& reader, unsigned bits, Packet& packet)
{
    if (bits & has_deth) {
        Deth deth;
        if (!reader.take(deth)) {
            return false;
        }
        packet.qkey = deth.qkey;
        packet.source_qp = deth.source_qp;
    }
    if (bits & has_reth) {
        Reth reth;
        if (!reader.take(reth)) {
            return false;
        }
        packet.remote_address = reth.virtual_address;
        packet.rkey = reth.rkey;
        packet.dma_length = reth.length;
    }
    if (bits & has_atomic) {
        AtomicEth atomic;
        if (!reader.take(atomic)) {
            return false;
        }
        packet.remote_address = atomic.virtual_address;
        packet.rkey = atomic.rkey;
        packet.swap_add = atomic.swap_add;
        packet.compare = atomic.compare;
    }
    if (bits & has_aeth) {
        Aeth aeth;
        if (!reader.take(aeth)) {
            return false;
        }
        packet.syndrome = aeth.syndrome;
        packet.msn = aeth.msn;
    }
    if (bits & has_atomic_ack) {
        AtomicAckEth ack;
        if (!reader.take(ack)) {
            return false;
        }
        packet.original = ack.original;
    }
    if (bits & has_imm) {
        ImmDt imm;
        if (!reader.take(imm)) {
            return false;
        }
        std::memcpy(&packet.immediate, imm.bytes.data(), sizeof(packet.immediate));
    }
    if (bits & has_ieth) {
        Ieth ieth;
        if (!reader.take(ieth)) {
            return false;
        }
        packet.rkey = ieth.rkey;
    }
    return true;
}

} // namespace

ParseError parse(const Layers& layers, std::span<uint8_t, grh_size> scratch, Packet& packet)
{
    const auto& [l2, l3] = layers;
    if (l3.transport.size() < sizeof(Bth) + icrc_size) {
        return ParseError::malformed;
    }
    size_t covered = l3.transport.size() - icrc_size;
    uint32_t icrc;
    std::memcpy(&icrc, l3.transport.data() + covered, icrc_size);
    auto body = l3.transport.first(covered);
    // [IBTA CA17-24]
    if (icrc_of(l3.network, l3.headers, body) != icrc) {
        return ParseError::icrc;
    }

    Reader reader(body);
    Bth bth;
    reader.take(bth);
    packet = {};
    packet.network = l3.network;
    packet.source_mac = l2.ethernet.source;
    packet.vlan = l2.vlan;
    packet.priority = l2.priority;
    packet.source = l3.source;
    packet.destination = l3.destination;
    packet.congestion_experienced = (l3.traffic_class & ecn_mask) == ecn_ce;
    packet.opcode = bth.opcode;
    packet.solicited = bth.flags & bth_solicited;
    packet.ack_request = bth.ack_request & bth_ack_request;
    packet.pkey = bth.pkey;
    packet.destination_qp = bth.destination_qp;
    packet.psn = Psn(bth.psn);
    if (bth.opcode == opcode_cnp) {
        return ParseError::none;
    }
    unsigned bits = headers_of(bth.opcode);
    // [IBTA 9.2-5]
    if ((bth.flags & bth_tver_mask) != 0) {
        return ParseError::malformed;
    }
    // [IBTA 9.2-4]
    size_t pad = (bth.flags >> bth_pad_shift) & 3;
    bool valid = !(bits & unknown_operation) && take_extended(reader, bits, packet);
    auto payload = reader.rest();
    if (!valid || payload.size() < pad || (payload.size() > 0 && !(bits & has_payload)) ||
        payload.size() % 4 != 0 || payload.size() > max_mtu) {
        if (packet.transport() != transport_rc || packet.is_response()) {
            return ParseError::malformed;
        }
        packet.is_invalid = true;
        return ParseError::none;
    }
    packet.payload = payload.first(payload.size() - pad);
    if (packet.transport() != transport_ud) {
        return ParseError::none;
    }

    std::fill(scratch.begin(), scratch.end(), uint8_t{0});
    // An IPv4 header lies in the last 20 bytes (A17.4.5.2).
    // [IBTA A17.4.5.2-1]
    size_t at = packet.network == NetworkType::ipv4 ? grh_size - sizeof(Ipv4Header) : 0;
    std::copy_n(l3.headers.begin(), grh_size - at, scratch.begin() + static_cast<ptrdiff_t>(at));
    packet.grh = scratch;
    return ParseError::none;
}

std::expected<Packet, ParseError> parse(std::span<const uint8_t> frame,
                                        std::span<uint8_t, grh_size> scratch)
{
    Layers layers;
    ParseError error = parse_network(frame, layers);
    Packet packet;
    if (error == ParseError::none) {
        error = parse(layers, scratch, packet);
    }
    if (error != ParseError::none) {
        return std::unexpected(error);
    }
    return packet;
}

} // namespace rdma::roce
