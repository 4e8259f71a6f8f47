// SPDX-License-Identifier: GPL-2.0-or-later
#include "frame_builder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "network_layer.h"

namespace rdma::roce {

namespace {

constexpr uint16_t ipv4_dont_fragment = 0x4000;

// The one's complement sum of the header's words, folded (RFC 791), in their order of bytes: words
// may be added as they lie in memory, and two at a time (RFC 1071, 2).
uint16_t ipv4_checksum(const uint8_t* header)
{
    std::array<uint32_t, sizeof(Ipv4Header) / sizeof(uint32_t)> words;
    std::memcpy(words.data(), header, sizeof(words));
    uint64_t sum = uint64_t{words[0]} + words[1] + words[2] + words[3] + words[4];
    sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<uint16_t>(~sum);
}

} // namespace

Path::Path(NetworkType network, const Mac& smac, const Mac& dmac, const ibv_gid& source,
           const ibv_gid& destination, uint8_t traffic_class, uint32_t flow_label,
           uint8_t hop_limit, uint16_t source_port, uint32_t gid_index, uint8_t priority)
    : _network(network), _source(source), _destination(destination), _gid_index(gid_index),
      _priority(priority)
{
    EthernetHeader ethernet{dmac, smac, ethertype_ipv4};
    uint8_t* at = _headers.data() + sizeof(ethernet);
    // [IBTA CA17-1]
    if (network == NetworkType::ipv4) {
        Ipv4Header ip{};
        // [IBTA CA17-3]
        ip.version_ihl = ipv4_no_options;
        // [IBTA CA17-4]
        ip.tos = traffic_class;
        // [IBTA CA17-7] [IBTA CA17-8]
        ip.fragment = ipv4_dont_fragment;
        // [IBTA CA17-9]
        ip.ttl = hop_limit;
        // [IBTA CA17-10]
        ip.protocol = ip_protocol_udp;
        // [IBTA CA17-11]
        std::copy_n(source.raw + 12, 4, ip.source.begin());
        // [IBTA CA17-12]
        std::copy_n(destination.raw + 12, 4, ip.destination.begin());
        std::memcpy(at, &ip, sizeof(ip));
        at += sizeof(ip);
    } else {
        bool v1 = network == NetworkType::roce_v1;
        ethernet.ethertype = v1 ? ethertype_roce_v1 : ethertype_ipv6;
        Ipv6Header ip{};
        // [IBTA CA17-13]
        ip.version_class_flow = 6u << 28 | static_cast<uint32_t>(traffic_class) << 20 |
                                (flow_label & flow_label_mask);
        // [IBTA CA17-16]
        ip.next_header = v1 ? grh_next_header_bth : ip_protocol_udp;
        // [IBTA CA17-17]
        ip.hop_limit = hop_limit;
        // [IBTA CA17-18]
        std::copy_n(source.raw, 16, ip.source.begin());
        // [IBTA CA17-19]
        std::copy_n(destination.raw, 16, ip.destination.begin());
        std::memcpy(at, &ip, sizeof(ip));
        at += sizeof(ip);
    }
    std::memcpy(_headers.data(), &ethernet, sizeof(ethernet));
    if (network != NetworkType::roce_v1) {
        // A UDP checksum of zero: the ICRC covers more (A17.3.1.3).
        // [IBTA CA17-20] [IBTA A17.3.2.4-1]
        UdpHeader udp{source_port, roce_v2_port, 0, 0};
        std::memcpy(at, &udp, sizeof(udp));
        at += sizeof(udp);
    }
    _size = static_cast<size_t>(at - _headers.data());
}

std::optional<Path> Path::from_headers(std::span<const uint8_t> headers, uint32_t gid_index,
                                       uint8_t priority)
{
    Reader reader(headers);
    EthernetHeader ethernet;
    if (!reader.take(ethernet)) {
        return std::nullopt;
    }
    NetworkType network;
    ibv_gid source;
    ibv_gid destination;
    uint8_t traffic_class;
    uint32_t flow_label = 0;
    uint8_t hop_limit;
    uint8_t next;
    if (ethernet.ethertype == ethertype_ipv4) {
        Ipv4Header ip;
        if (!reader.take(ip) || ip.version_ihl != ipv4_no_options) {
            return std::nullopt;
        }
        network = NetworkType::ipv4;
        source = mapped(ip.source);
        destination = mapped(ip.destination);
        traffic_class = ip.tos;
        hop_limit = ip.ttl;
        next = ip.protocol;
    } else {
        Ipv6Header ip;
        bool v1 = ethernet.ethertype == ethertype_roce_v1;
        if ((!v1 && ethernet.ethertype != ethertype_ipv6) || !reader.take(ip) ||
            ip.version_class_flow >> 28 != 6) {
            return std::nullopt;
        }
        network = v1 ? NetworkType::roce_v1 : NetworkType::ipv6;
        source = as_gid(ip.source);
        destination = as_gid(ip.destination);
        traffic_class = static_cast<uint8_t>(ip.version_class_flow >> 20);
        flow_label = ip.version_class_flow & flow_label_mask;
        hop_limit = ip.hop_limit;
        next = ip.next_header;
    }
    UdpHeader udp{};
    bool is_v1 = network == NetworkType::roce_v1;
    if (next != (is_v1 ? grh_next_header_bth : ip_protocol_udp) ||
        (!is_v1 && (!reader.take(udp) || udp.destination_port != roce_v2_port)) ||
        !reader.rest().empty()) {
        return std::nullopt;
    }
    return Path(network, ethernet.source, ethernet.destination, source, destination,
                traffic_class, flow_label, hop_limit, udp.source_port, gid_index, priority);
}

void FrameBuilder::begin(const Path& path, uint16_t vlan, uint8_t opcode, uint32_t destination_qp,
                         Psn psn, bool ack_request, bool solicited)
{
    _size = 0;
    _payload_size = 0;
    _network = path._network;
    // All that a path has room for each time: what it does not fill is written over.
    header(path._headers);
    if (vlan != no_vlan) {
        constexpr size_t at_ethertype = offsetof(EthernetHeader, ethertype);
        _size = at_ethertype;
        header(VlanTag{ethertype_vlan, static_cast<uint16_t>(
                                                  path._priority << vlan_priority_shift | vlan)});
        append(path._headers.data() + at_ethertype, path._headers.size() - at_ethertype);
    }
    _size -= path._headers.size() - path._size;
    _ip = _size - path._size + sizeof(EthernetHeader);
    _bth = _size;
    Bth bth{};
    bth.opcode = opcode;
    // [IBTA 9.2-3]
    bth.flags = static_cast<uint8_t>(bth_migreq | (solicited ? bth_solicited : 0));
    // [IBTA 9.2-6]
    bth.pkey = default_pkey;
    bth.destination_qp = destination_qp;
    bth.ack_request = ack_request ? bth_ack_request : 0;
    // [IBTA 9.2-8]
    bth.psn = psn.value();
    header(bth);
}

std::span<std::byte> FrameBuilder::payload(size_t size)
{
    auto room = std::as_writable_bytes(std::span(_frame)).subspan(_size, size);
    _size += size;
    _payload_size = size;
    return room;
}

std::span<const uint8_t> FrameBuilder::finish()
{
    // [IBTA 9.2-4]
    size_t pad = (4 - _payload_size % 4) % 4;
    std::fill_n(_frame.data() + _size, pad, uint8_t{0});
    _size += pad;
    uint8_t& flags = _frame[_bth + offsetof(Bth, flags)];
    flags = static_cast<uint8_t>(flags | pad << bth_pad_shift);

    size_t transport_size = _size - _bth + icrc_size;
    uint8_t* ip = _frame.data() + _ip;
    auto store16 = [](uint8_t* at, size_t value) {
        be16 word(static_cast<uint16_t>(value));
        std::memcpy(at, &word, sizeof(word));
    };
    if (_network == NetworkType::ipv4) {
        // [IBTA CA17-6]
        store16(ip + offsetof(Ipv4Header, total_length),
                sizeof(Ipv4Header) + sizeof(UdpHeader) + transport_size);
        uint16_t checksum = ipv4_checksum(ip);
        std::memcpy(ip + offsetof(Ipv4Header, checksum), &checksum, sizeof(checksum));
    } else {
        size_t udp = _network == NetworkType::ipv6 ? sizeof(UdpHeader) : 0;
        // [IBTA CA17-15]
        store16(ip + offsetof(Ipv6Header, payload_length), udp + transport_size);
    }
    if (_network != NetworkType::roce_v1) {
        // [IBTA CA17-21]
        store16(_frame.data() + _bth - sizeof(UdpHeader) + offsetof(UdpHeader, length),
                sizeof(UdpHeader) + transport_size);
    }
    auto frame = std::span(std::as_const(_frame));
    uint32_t icrc =
        icrc_of(_network, frame.subspan(_ip, _bth - _ip), frame.subspan(_bth, _size - _bth));
    append(&icrc, icrc_size);
    return frame.first(_size);
}

} // namespace rdma::roce
