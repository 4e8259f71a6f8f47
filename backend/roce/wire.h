// SPDX-License-Identifier: GPL-2.0-or-later
//
// RoCE packets as they are on the wire: IBTA vol. 1, chapter 9 (transport
// headers), annex A16 (RoCE) and annex A17 (RoCEv2).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "backend.h"
#include "psn.h"

namespace rdma::roce {

// Unsigned integers stored most significant byte first, of any alignment.
template <typename T, size_t Bytes = sizeof(T)>
class BigEndian {
public:
    constexpr BigEndian() = default;
    constexpr BigEndian(T value)
    {
        if constexpr (Bytes == sizeof(T)) {
            _bytes = std::bit_cast<std::array<uint8_t, Bytes>>(swapped(value));
            return;
        }
        for (size_t i = Bytes; i-- > 0; value = static_cast<T>(value >> 8)) {
            _bytes[i] = static_cast<uint8_t>(value);
        }
    }
    constexpr operator T() const
    {
        if constexpr (Bytes == sizeof(T)) {
            return swapped(std::bit_cast<T>(_bytes));
        }
        T value = 0;
        for (uint8_t byte : _bytes) {
            value = static_cast<T>((value << 8) | byte);
        }
        return value;
    }

private:
    // Between the byte orders of the host and of the wire.
    static constexpr T swapped(T value)
    {
        return std::endian::native == std::endian::little ? std::byteswap(value) : value;
    }

    std::array<uint8_t, Bytes> _bytes{};
};

using be16 = BigEndian<uint16_t>;
using be24 = BigEndian<uint32_t, 3>;
using be32 = BigEndian<uint32_t>;
using be64 = BigEndian<uint64_t>;

inline constexpr uint16_t ethertype_ipv4 = 0x0800;
inline constexpr uint16_t ethertype_arp = 0x0806;
inline constexpr uint16_t ethertype_ipv6 = 0x86dd;
inline constexpr uint16_t ethertype_vlan = 0x8100;
inline constexpr uint16_t ethertype_roce_v1 = 0x8915; // A16.4.1
inline constexpr uint8_t ip_protocol_udp = 17;
inline constexpr uint8_t grh_next_header_bth = 0x1b; // 8.3.6
inline constexpr uint16_t roce_v2_port = 4791;       // A17.3.1.3
inline constexpr uint16_t default_pkey = 0xffff;     // A16.4.5: the one P_Key
inline constexpr uint16_t pkey_base_mask = 0x7fff;   // without the membership bit
inline constexpr uint32_t gsi_qpn = 1;
inline constexpr uint32_t gsi_qkey = 0x80010000;     // 3.5.3
inline constexpr size_t icrc_size = 4;
inline constexpr size_t grh_size = 40; // in front of every received datagram
inline constexpr unsigned max_mtu = 4096;
inline constexpr unsigned least_mtu = 256;

struct EthernetHeader {
    Mac destination;
    Mac source;
    be16 ethertype;
};
static_assert(sizeof(EthernetHeader) == 14);

// The tag between the addresses and the EtherType (IEEE 802.1Q, 9.6).
struct VlanTag {
    be16 ethertype; // ethertype_vlan
    be16 control;   // priority in bits 15..13, identifier in bits 11..0
};
static_assert(sizeof(VlanTag) == 4);
inline constexpr unsigned vlan_priority_shift = 13;
inline constexpr uint16_t vlan_mask = 0xfff;
// No VLAN: the identifier of a tag that carries a priority only.
inline constexpr uint16_t no_vlan = 0;

// ARP for IPv4 over Ethernet (RFC 826).
struct ArpPacket {
    be16 hardware_type;
    be16 protocol_type; // ethertype_ipv4
    uint8_t hardware_size;
    uint8_t protocol_size;
    be16 operation;
    Mac sender_mac;
    std::array<uint8_t, 4> sender;
    Mac target_mac;
    std::array<uint8_t, 4> target;
};
static_assert(sizeof(ArpPacket) == 28);

struct Ipv4Header {
    uint8_t version_ihl;
    uint8_t tos;
    be16 total_length;
    be16 identification;
    be16 fragment; // bit 14 DF, bit 13 MF, bits 12..0 offset
    uint8_t ttl;
    uint8_t protocol;
    be16 checksum;
    std::array<uint8_t, 4> source;
    std::array<uint8_t, 4> destination;
};
static_assert(sizeof(Ipv4Header) == 20);

inline constexpr uint32_t flow_label_mask = 0xfffff;
// Also the GRH, which has the same shape (8.3).
struct Ipv6Header {
    be32 version_class_flow; // 4, 8 and 20 bits
    be16 payload_length;
    uint8_t next_header;
    uint8_t hop_limit;
    std::array<uint8_t, 16> source;
    std::array<uint8_t, 16> destination;
};
static_assert(sizeof(Ipv6Header) == grh_size);

struct UdpHeader {
    be16 source_port;
    be16 destination_port;
    be16 length;
    be16 checksum;
};
static_assert(sizeof(UdpHeader) == 8);

// Base transport header, 9.2.
struct Bth {
    uint8_t opcode;
    uint8_t flags; // bit 7 SE, bit 6 MigReq, bits 5..4 PadCnt, bits 3..0 TVer
    be16 pkey;
    // [IBTA CA17-29]
    uint8_t congestion; // bit 7 FECN, bit 6 BECN; masked in the ICRC
    be24 destination_qp;
    uint8_t ack_request; // bit 7 AckReq
    be24 psn;
};
static_assert(sizeof(Bth) == 12);

inline constexpr uint8_t bth_solicited = 0x80;
inline constexpr uint8_t bth_migreq = 0x40; // primary path is the current one
inline constexpr unsigned bth_pad_shift = 4;
inline constexpr uint8_t bth_tver_mask = 0x0f;
inline constexpr uint8_t bth_ack_request = 0x80;

struct Reth { // 9.3.3
    be64 virtual_address;
    be32 rkey;
    be32 length;
};
static_assert(sizeof(Reth) == 16);

struct AtomicEth { // 9.3.4
    be64 virtual_address;
    be32 rkey;
    be64 swap_add;
    be64 compare;
};
static_assert(sizeof(AtomicEth) == 28);

struct Aeth { // 9.3.5
    uint8_t syndrome;
    be24 msn;
};
static_assert(sizeof(Aeth) == 4);

struct AtomicAckEth { // 9.3.5.3
    be64 original;
};
static_assert(sizeof(AtomicAckEth) == 8);

struct Deth { // 9.3.2
    be32 qkey;
    uint8_t reserved;
    be24 source_qp;
};
static_assert(sizeof(Deth) == 8);

// Immediate data is opaque: it is carried in the order it lies in memory.
struct ImmDt {
    std::array<uint8_t, 4> bytes;
};
static_assert(sizeof(ImmDt) == 4);

struct Ieth { // 9.3.7
    be32 rkey;
};
static_assert(sizeof(Ieth) == 4);

// AETH syndromes, 9.7.5.1: the type in bits 6..5, its value in bits 4..0.
// [IBTA 9.7.5.2.1-1]
inline constexpr uint8_t aeth_type_mask = 0x60;
inline constexpr uint8_t aeth_value_mask = 0x1f;
inline constexpr uint8_t aeth_ack = 0x00;
inline constexpr uint8_t aeth_rnr_nak = 0x20;
inline constexpr uint8_t aeth_wake = aeth_rnr_nak | 1; // with the shortest timer, 0.01 ms
inline constexpr uint8_t aeth_nak = 0x60;
inline constexpr uint8_t aeth_ack_no_credits = 0x1f; // end-to-end flow control unused
inline constexpr uint8_t aeth_nak_sequence = 0x60;
inline constexpr uint8_t aeth_nak_invalid_request = 0x61;
inline constexpr uint8_t aeth_nak_remote_access = 0x62;
inline constexpr uint8_t aeth_nak_remote_operational = 0x63;

// BTH opcodes, 9.2.1: the transport in bits 7..5, the operation in 4..0.
inline constexpr uint8_t transport_mask = 0xe0;
inline constexpr uint8_t transport_rc = 0x00;
inline constexpr uint8_t transport_uc = 0x20;
inline constexpr uint8_t transport_ud = 0x60;
inline constexpr uint8_t opcode_cnp = 0x81; // A17.9.3

enum Operation : uint8_t {
    op_send_first = 0,
    op_send_middle = 1,
    op_send_last = 2,
    op_send_last_imm = 3,
    op_send_only = 4,
    op_send_only_imm = 5,
    op_write_first = 6,
    op_write_middle = 7,
    op_write_last = 8,
    op_write_last_imm = 9,
    op_write_only = 10,
    op_write_only_imm = 11,
    op_read_request = 12,
    op_read_response_first = 13,
    op_read_response_middle = 14,
    op_read_response_last = 15,
    op_read_response_only = 16,
    op_acknowledge = 17,
    op_atomic_acknowledge = 18,
    op_compare_swap = 19,
    op_fetch_add = 20,
    op_send_last_inv = 22,
    op_send_only_inv = 23,
};

// QPNs and MSNs have 24 bits, too.
inline constexpr uint32_t qpn_mask = 0xffffff;
inline constexpr uint32_t msn_mask = 0xffffff;

// PSNs that a SEND, WRITE, READ or atomic of that length takes.
constexpr uint32_t packets_of(uint64_t length, uint32_t mtu)
{
    return length == 0 ? 1 : static_cast<uint32_t>((length + mtu - 1) / mtu);
}

// Bytes of a path MTU. Zero for a value that is none.
constexpr uint32_t mtu_bytes(ibv_mtu mtu)
{
    return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096 ? 128u << mtu : 0;
}

} // namespace rdma::roce
