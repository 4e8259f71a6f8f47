// SPDX-License-Identifier: GPL-2.0-or-later
//
// Frames put together: the headers that all packets to one destination share, and each packet.
#pragma once

#include <cstring>
#include <optional>
#include <span>

#include "wire.h"

namespace rdma::roce {

// Largest frame: Ethernet with a VLAN tag, IPv6, UDP, BTH, RETH with
// immediate data (or AtomicETH), payload, ICRC.
inline constexpr size_t max_frame = 18 + 40 + 8 + 12 + 28 + 4 + max_mtu + 3 + icrc_size;

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
    void append(const void* bytes, size_t size)
    {
        std::memcpy(_frame.data() + _size, bytes, size);
        _size += size;
    }

    std::array<uint8_t, max_frame> _frame;
    size_t _size = 0;
    size_t _ip = 0; // where the IP header or GRH is
    size_t _bth = 0;
    size_t _payload_size = 0;
    NetworkType _network = NetworkType::roce_v1;
};

} // namespace rdma::roce
