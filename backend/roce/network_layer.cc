// SPDX-License-Identifier: GPL-2.0-or-later
#include "network_layer.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace rdma::roce {

namespace {

constexpr uint16_t ipv4_fragment_bits = 0x3fff; // MF and offset

ParseError parse_udp(std::span<const uint8_t> packet, size_t ip_size, Layer3& l3)
{
    // packet is cut to what the IP header says.
    UdpHeader udp;
    Reader reader(packet.subspan(ip_size));
    if (!reader.take(udp)) {
        return ParseError::not_roce;
    }
    // [IBTA CA17-24]
    if (udp.destination_port != roce_v2_port) {
        return ParseError::not_roce;
    }
    size_t length = udp.length;
    if (length < sizeof(UdpHeader) || length > packet.size() - ip_size) {
        return ParseError::malformed;
    }
    l3.headers = packet.first(ip_size + sizeof(UdpHeader));
    l3.transport = packet.subspan(ip_size + sizeof(UdpHeader), length - sizeof(UdpHeader));
    return ParseError::none;
}

ParseError parse_ipv4(std::span<const uint8_t> bytes, Layer3& l3)
{
    Ipv4Header ip;
    // [IBTA CA17-24] [IBTA CA17-27]
    if (!Reader(bytes).take(ip) || ip.version_ihl != ipv4_no_options ||
        ip.protocol != ip_protocol_udp || (ip.fragment & ipv4_fragment_bits) != 0) {
        return ParseError::not_roce;
    }
    l3.network = NetworkType::ipv4;
    l3.source = mapped(ip.source);
    l3.destination = mapped(ip.destination);
    l3.traffic_class = ip.tos;
    size_t length = ip.total_length;
    if (length < sizeof(ip) || length > bytes.size()) {
        return ParseError::not_roce;
    }
    return parse_udp(bytes.first(length), sizeof(ip), l3);
}

ParseError parse_ipv6(std::span<const uint8_t> bytes, NetworkType network, Layer3& l3)
{
    Ipv6Header ip;
    bool v1 = network == NetworkType::roce_v1;
    uint8_t next = v1 ? grh_next_header_bth : ip_protocol_udp;
    // [IBTA CA17-27]
    if (!Reader(bytes).take(ip) || ip.version_class_flow >> 28 != 6 || ip.next_header != next) {
        return ParseError::not_roce;
    }
    l3.network = network;
    l3.source = as_gid(ip.source);
    l3.destination = as_gid(ip.destination);
    l3.traffic_class = static_cast<uint8_t>(ip.version_class_flow >> 20);
    size_t length = ip.payload_length;
    if (length > bytes.size() - sizeof(ip)) {
        return v1 ? ParseError::malformed : ParseError::not_roce;
    }
    bytes = bytes.first(sizeof(ip) + length);
    if (!v1) {
        return parse_udp(bytes, sizeof(ip), l3);
    }
    l3.headers = bytes.first(sizeof(ip));
    l3.transport = bytes.subspan(sizeof(ip));
    return ParseError::none;
}

// False where the frame is too short.
bool parse_ethernet(std::span<const uint8_t> frame, Layer2& out)
{
    Reader reader(frame);
    if (!reader.take(out.ethernet)) {
        return false;
    }
    out.vlan = no_vlan;
    out.priority = 0;
    out.ethertype = out.ethernet.ethertype;
    if (out.ethertype == ethertype_vlan) {
        be16 tag;
        be16 inner;
        if (!reader.take(tag) || !reader.take(inner)) {
            return false;
        }
        out.vlan = tag & vlan_mask;
        out.priority = static_cast<uint8_t>(tag >> vlan_priority_shift);
        out.ethertype = inner;
    }
    out.rest = reader.rest();
    return true;
}

} // namespace

// [IBTA CA17-22]
uint32_t icrc_of(NetworkType network, std::span<const uint8_t> network_headers,
                 std::span<const uint8_t> rest)
{
    std::array<uint8_t, 8 + 48 + sizeof(Bth)> masked;
    std::fill_n(masked.begin(), 8, uint8_t{0xff});
    uint8_t* ip = masked.data() + 8;
    std::memcpy(ip, network_headers.data(), network_headers.size());
    if (network == NetworkType::ipv4) {
        ip[offsetof(Ipv4Header, tos)] = 0xff;
        ip[offsetof(Ipv4Header, ttl)] = 0xff;
        std::memset(ip + offsetof(Ipv4Header, checksum), 0xff, 2);
    } else {
        ip[0] |= 0x0f; // traffic class and flow label
        std::memset(ip + 1, 0xff, 3);
        ip[offsetof(Ipv6Header, hop_limit)] = 0xff;
    }
    if (network != NetworkType::roce_v1) {
        std::memset(ip + network_headers.size() - 2, 0xff, 2); // UDP checksum
    }
    uint8_t* bth = ip + network_headers.size();
    std::memcpy(bth, rest.data(), sizeof(Bth));
    bth[offsetof(Bth, congestion)] = 0xff;
    size_t masked_size = 8 + network_headers.size() + sizeof(Bth);
    uint32_t crc = crc32_gzip_refl(0, masked.data(), masked_size);
    return crc32_gzip_refl(crc, rest.data() + sizeof(Bth), rest.size() - sizeof(Bth));
}

ParseError parse_network(std::span<const uint8_t> frame, Layers& layers)
{
    if (!parse_ethernet(frame, layers.l2)) {
        return ParseError::not_roce;
    }
    std::span<const uint8_t> rest = layers.l2.rest;
    switch (layers.l2.ethertype) {
    case ethertype_ipv4:
        return parse_ipv4(rest, layers.l3);
    case ethertype_ipv6:
        return parse_ipv6(rest, NetworkType::ipv6, layers.l3);
    case ethertype_roce_v1:
        return parse_ipv6(rest, NetworkType::roce_v1, layers.l3);
    default:
        return ParseError::not_roce;
    }
}

std::optional<Sender> peek_sender(std::span<const uint8_t> head)
{
    Layer2 l2;
    if (!parse_ethernet(head, l2)) {
        return std::nullopt;
    }
    Sender sender{{}, l2.vlan};
    Reader reader(l2.rest);
    bool udp = false;
    bool unspecified;
    if (l2.ethertype == ethertype_arp) {
        ArpPacket arp;
        if (!reader.take(arp) || arp.protocol_type != ethertype_ipv4) {
            return std::nullopt;
        }
        sender.address = mapped(arp.sender);
        unspecified = arp.sender == decltype(arp.sender){};
    } else if (l2.ethertype == ethertype_ipv4) {
        Ipv4Header ip;
        if (!reader.take(ip)) {
            return std::nullopt;
        }
        sender.address = mapped(ip.source);
        unspecified = ip.source == decltype(ip.source){};
        udp = ip.version_ihl == ipv4_no_options && ip.protocol == ip_protocol_udp;
    } else if (l2.ethertype == ethertype_ipv6) {
        Ipv6Header ip;
        if (!reader.take(ip)) {
            return std::nullopt;
        }
        sender.address = as_gid(ip.source);
        unspecified = ip.source == decltype(ip.source){};
        udp = ip.next_header == ip_protocol_udp;
    } else {
        return std::nullopt;
    }
    UdpHeader header;
    if (unspecified ||
        (udp && reader.take(header) && header.destination_port == roce_v2_port)) {
        return std::nullopt;
    }
    return sender;
}

} // namespace rdma::roce
