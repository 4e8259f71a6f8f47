// SPDX-License-Identifier: GPL-2.0-or-later
#include "packet.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace rdma::roce {

namespace {

constexpr uint8_t ipv4_no_options = 0x45;
constexpr uint16_t ipv4_dont_fragment = 0x4000;
constexpr uint16_t ipv4_fragment_bits = 0x3fff; // MF and offset
constexpr uint8_t ecn_mask = 3;
constexpr uint8_t ecn_ce = 3;

ibv_gid mapped(const std::array<uint8_t, 4>& v4)
{
    ibv_gid gid{};
    gid.raw[10] = 0xff;
    gid.raw[11] = 0xff;
    std::copy(v4.begin(), v4.end(), gid.raw + 12);
    return gid;
}

ibv_gid as_gid(const std::array<uint8_t, 16>& v6)
{
    ibv_gid gid;
    std::copy(v6.begin(), v6.end(), gid.raw);
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

// The ICRC (A17.3.3) over the headers from the IP header on, with what routers
// may change set to ones, behind eight bytes of ones that stand for the LRH.
// network_headers: IP and UDP, or the GRH; rest: from BTH to before the ICRC.
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

// The one's complement sum of the header's words, folded (RFC 791).
uint16_t ipv4_checksum(const uint8_t* header)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < sizeof(Ipv4Header); i += 2) {
        sum += static_cast<uint32_t>(header[i] << 8 | header[i + 1]);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<uint16_t>(~sum);
}

// Where a frame's network header starts and what it is.
struct Layer2 {
    EthernetHeader ethernet;
    uint16_t vlan;
    uint16_t ethertype;
    std::span<const uint8_t> rest;
};

bool parse_ethernet(std::span<const uint8_t> frame, Layer2& out)
{
    Reader reader(frame);
    if (!reader.take(out.ethernet)) {
        return false;
    }
    out.vlan = no_vlan;
    out.ethertype = out.ethernet.ethertype;
    if (out.ethertype == ethertype_vlan) {
        be16 tag;
        be16 inner;
        if (!reader.take(tag) || !reader.take(inner)) {
            return false;
        }
        out.vlan = tag & vlan_mask;
        out.ethertype = inner;
    }
    out.rest = reader.rest();
    return true;
}

// The network layer of a frame: which headers, where BTH starts.
struct Layer3 {
    NetworkType network;
    ibv_gid source;
    ibv_gid destination;
    uint8_t traffic_class;
    std::span<const uint8_t> headers; // IP and UDP, or GRH
    std::span<const uint8_t> transport; // BTH up to and with the ICRC
};

std::expected<Layer3, ParseError> parse_udp(std::span<const uint8_t> packet, size_t ip_size,
                                            Layer3 l3)
{
    // packet is cut to what the IP header says.
    UdpHeader udp;
    Reader reader(packet.subspan(ip_size));
    if (!reader.take(udp)) {
        return std::unexpected(ParseError::not_roce);
    }
    if (udp.destination_port != roce_v2_port) {
        return std::unexpected(ParseError::not_roce);
    }
    size_t length = udp.length;
    if (length < sizeof(UdpHeader) || length > packet.size() - ip_size) {
        return std::unexpected(ParseError::malformed);
    }
    l3.headers = packet.first(ip_size + sizeof(UdpHeader));
    l3.transport = packet.subspan(ip_size + sizeof(UdpHeader), length - sizeof(UdpHeader));
    return l3;
}

std::expected<Layer3, ParseError> parse_ipv4(std::span<const uint8_t> bytes)
{
    Ipv4Header ip;
    if (!Reader(bytes).take(ip) || ip.version_ihl != ipv4_no_options ||
        ip.protocol != ip_protocol_udp || (ip.fragment & ipv4_fragment_bits) != 0) {
        return std::unexpected(ParseError::not_roce);
    }
    Layer3 l3{NetworkType::ipv4, mapped(ip.source), mapped(ip.destination), ip.tos, {}, {}};
    size_t length = ip.total_length;
    if (length < sizeof(ip) || length > bytes.size()) {
        return std::unexpected(ParseError::not_roce);
    }
    return parse_udp(bytes.first(length), sizeof(ip), l3);
}

std::expected<Layer3, ParseError> parse_ipv6(std::span<const uint8_t> bytes, NetworkType network)
{
    Ipv6Header ip;
    bool v1 = network == NetworkType::roce_v1;
    uint8_t next = v1 ? grh_next_header_bth : ip_protocol_udp;
    if (!Reader(bytes).take(ip) || ip.version_class_flow >> 28 != 6 || ip.next_header != next) {
        return std::unexpected(ParseError::not_roce);
    }
    Layer3 l3{network, as_gid(ip.source), as_gid(ip.destination),
              static_cast<uint8_t>(ip.version_class_flow >> 20), {}, {}};
    size_t length = ip.payload_length;
    if (length > bytes.size() - sizeof(ip)) {
        return std::unexpected(v1 ? ParseError::malformed : ParseError::not_roce);
    }
    bytes = bytes.first(sizeof(ip) + length);
    if (!v1) {
        return parse_udp(bytes, sizeof(ip), l3);
    }
    l3.headers = bytes.first(sizeof(ip));
    l3.transport = bytes.subspan(sizeof(ip));
    return l3;
}

std::expected<Layer3, ParseError> parse_network(const Layer2& l2)
{
    switch (l2.ethertype) {
    case ethertype_ipv4:
        return parse_ipv4(l2.rest);
    case ethertype_ipv6:
        return parse_ipv6(l2.rest, NetworkType::ipv6);
    case ethertype_roce_v1:
        return parse_ipv6(l2.rest, NetworkType::roce_v1);
    default:
        return std::unexpected(ParseError::not_roce);
    }
}

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

std::expected<ibv_gid, ParseError> peek_destination(std::span<const uint8_t> frame)
{
    Layer2 l2;
    if (!parse_ethernet(frame, l2)) {
        return std::unexpected(ParseError::not_roce);
    }
    auto l3 = parse_network(l2);
    if (!l3) {
        return std::unexpected(l3.error());
    }
    return l3->destination;
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

std::expected<Packet, ParseError> parse(std::span<const uint8_t> frame,
                                        std::span<uint8_t, grh_size> scratch)
{
    Layer2 l2;
    if (!parse_ethernet(frame, l2)) {
        return std::unexpected(ParseError::not_roce);
    }
    auto l3 = parse_network(l2);
    if (!l3) {
        return std::unexpected(l3.error());
    }
    if (l3->transport.size() < sizeof(Bth) + icrc_size) {
        return std::unexpected(ParseError::malformed);
    }
    size_t covered = l3->transport.size() - icrc_size;
    uint32_t icrc;
    std::memcpy(&icrc, l3->transport.data() + covered, icrc_size);
    auto body = l3->transport.first(covered);
    if (icrc_of(l3->network, l3->headers, body) != icrc) {
        return std::unexpected(ParseError::icrc);
    }

    Reader reader(body);
    Bth bth;
    reader.take(bth);
    Packet packet{};
    packet.network = l3->network;
    packet.source_mac = l2.ethernet.source;
    packet.vlan = l2.vlan;
    packet.source = l3->source;
    packet.destination = l3->destination;
    packet.congestion_experienced = (l3->traffic_class & ecn_mask) == ecn_ce;
    packet.opcode = bth.opcode;
    packet.solicited = bth.flags & bth_solicited;
    packet.ack_request = bth.ack_request & bth_ack_request;
    packet.pkey = bth.pkey;
    packet.destination_qp = bth.destination_qp;
    packet.psn = Psn(bth.psn);
    if (bth.opcode == opcode_cnp) {
        return packet;
    }
    unsigned bits = headers_of(bth.opcode);
    if ((bth.flags & bth_tver_mask) != 0 || (bits & unknown_operation) ||
        !take_extended(reader, bits, packet)) {
        return std::unexpected(ParseError::malformed);
    }
    size_t pad = (bth.flags >> bth_pad_shift) & 3;
    auto payload = reader.rest();
    if (payload.size() < pad || (payload.size() > 0 && !(bits & has_payload)) ||
        payload.size() % 4 != 0 || payload.size() > max_mtu) {
        return std::unexpected(ParseError::malformed);
    }
    packet.payload = payload.first(payload.size() - pad);

    std::fill(scratch.begin(), scratch.end(), uint8_t{0});
    // An IPv4 header lies in the last 20 bytes (A17.4.5.2).
    size_t at = packet.network == NetworkType::ipv4 ? grh_size - sizeof(Ipv4Header) : 0;
    std::copy_n(l3->headers.begin(), grh_size - at, scratch.begin() + static_cast<ptrdiff_t>(at));
    packet.grh = scratch;
    return packet;
}

Path::Path(NetworkType network, const Mac& smac, const Mac& dmac, const ibv_gid& source,
           const ibv_gid& destination, uint8_t traffic_class, uint32_t flow_label,
           uint8_t hop_limit, uint16_t source_port, uint32_t gid_index, uint8_t priority)
    : _network(network), _source(source), _destination(destination), _gid_index(gid_index),
      _priority(priority)
{
    EthernetHeader ethernet{dmac, smac, ethertype_ipv4};
    uint8_t* at = _headers.data() + sizeof(ethernet);
    if (network == NetworkType::ipv4) {
        Ipv4Header ip{};
        ip.version_ihl = ipv4_no_options;
        ip.tos = traffic_class;
        ip.fragment = ipv4_dont_fragment;
        ip.ttl = hop_limit;
        ip.protocol = ip_protocol_udp;
        std::copy_n(source.raw + 12, 4, ip.source.begin());
        std::copy_n(destination.raw + 12, 4, ip.destination.begin());
        std::memcpy(at, &ip, sizeof(ip));
        at += sizeof(ip);
    } else {
        bool v1 = network == NetworkType::roce_v1;
        ethernet.ethertype = v1 ? ethertype_roce_v1 : ethertype_ipv6;
        Ipv6Header ip{};
        ip.version_class_flow = 6u << 28 | static_cast<uint32_t>(traffic_class) << 20 |
                                (flow_label & flow_label_mask);
        ip.next_header = v1 ? grh_next_header_bth : ip_protocol_udp;
        ip.hop_limit = hop_limit;
        std::copy_n(source.raw, 16, ip.source.begin());
        std::copy_n(destination.raw, 16, ip.destination.begin());
        std::memcpy(at, &ip, sizeof(ip));
        at += sizeof(ip);
    }
    std::memcpy(_headers.data(), &ethernet, sizeof(ethernet));
    if (network != NetworkType::roce_v1) {
        // A UDP checksum of zero: the ICRC covers more (A17.3.1.3).
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
        flow_label = ip.version_class_flow & 0xfffff;
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

void FrameBuilder::append(const void* bytes, size_t size)
{
    std::memcpy(_frame.data() + _size, bytes, size);
    _size += size;
}

void FrameBuilder::begin(const Path& path, uint16_t vlan, uint8_t opcode, uint32_t destination_qp,
                         Psn psn, bool ack_request, bool solicited)
{
    _size = 0;
    _payload_size = 0;
    _network = path._network;
    constexpr size_t at_ethertype = offsetof(EthernetHeader, ethertype);
    append(path._headers.data(), at_ethertype);
    if (vlan != no_vlan) {
        header(VlanTag{ethertype_vlan, static_cast<uint16_t>(
                                                  path._priority << vlan_priority_shift | vlan)});
    }
    append(path._headers.data() + at_ethertype, path._size - at_ethertype);
    _ip = _size - path._size + sizeof(EthernetHeader);
    _bth = _size;
    Bth bth{};
    bth.opcode = opcode;
    bth.flags = static_cast<uint8_t>(bth_migreq | (solicited ? bth_solicited : 0));
    bth.pkey = default_pkey;
    bth.destination_qp = destination_qp;
    bth.ack_request = ack_request ? bth_ack_request : 0;
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
        store16(ip + offsetof(Ipv4Header, total_length),
                sizeof(Ipv4Header) + sizeof(UdpHeader) + transport_size);
        store16(ip + offsetof(Ipv4Header, checksum), ipv4_checksum(ip));
    } else {
        size_t udp = _network == NetworkType::ipv6 ? sizeof(UdpHeader) : 0;
        store16(ip + offsetof(Ipv6Header, payload_length), udp + transport_size);
    }
    if (_network != NetworkType::roce_v1) {
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
