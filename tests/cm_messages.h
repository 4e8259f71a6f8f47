// SPDX-License-Identifier: GPL-2.0-or-later
//
// Messages of connection management as tests send them (IBTA vol. 1, 12.6).
#pragma once

#include <array>
#include <cstring>

#include "cm_message.h"
#include "mad_port.h"

namespace rdma::test {

using verbs::CmKind;
using verbs::Mad;

inline constexpr std::array all_cm_kinds = {
    CmKind::req,  CmKind::mra, CmKind::rej,      CmKind::rep,      CmKind::rtu, CmKind::dreq,
    CmKind::drep, CmKind::lap, CmKind::sidr_req, CmKind::sidr_rep, CmKind::apr};

// Of the TCP port space of the RDMA IP CM service.
inline constexpr uint64_t tcp_service = 0x0000'0000'0106'0000;

inline constexpr size_t cm_data_at = 24;

template <typename T>
void put_big_endian(Mad& mad, size_t at, T value)
{
    for (size_t i = sizeof(T); i-- > 0; value = static_cast<T>(value >> 8)) {
        mad.bytes[at + i] = static_cast<std::byte>(value & 0xff);
    }
}
inline uint32_t word_at(const Mad& mad, size_t at)
{
    uint32_t word;
    std::memcpy(&word, &mad.bytes[at], sizeof(word));
    return be32toh(word);
}

inline Mad cm_mad(CmKind kind, uint32_t first_id, uint32_t second_id = 0)
{
    Mad mad;
    mad.bytes[0] = std::byte{1};    // base version
    mad.bytes[1] = std::byte{0x07}; // class
    mad.bytes[2] = std::byte{2};    // class version
    mad.bytes[3] = std::byte{0x03}; // Send
    put_big_endian<uint64_t>(mad, 8, first_id);
    put_big_endian(mad, 16, static_cast<uint16_t>(kind));
    put_big_endian(mad, cm_data_at, first_id);
    if (kind != CmKind::req && kind != CmKind::sidr_req && kind != CmKind::sidr_rep) {
        put_big_endian(mad, cm_data_at + 4, second_id);
    }
    return mad;
}

inline ibv_gid v4_gid(uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
    ibv_gid gid{};
    gid.raw[10] = gid.raw[11] = 0xff;
    gid.raw[12] = a;
    gid.raw[13] = b;
    gid.raw[14] = c;
    gid.raw[15] = d;
    return gid;
}

// Of a REQ or SIDR_REQ: the service, and the address that the request is for, in the
// private data (annex A11).
inline void ask_for(Mad& mad, uint64_t service, const ibv_gid& address, bool v6 = false)
{
    bool sidr = mad.bytes[17] == std::byte{0x17};
    put_big_endian(mad, cm_data_at + 8, service);
    size_t at = cm_data_at + (sidr ? 16 : 140);
    mad.bytes[at + 1] = std::byte(v6 ? 0x60 : 0x40);
    size_t skipped = v6 ? 0 : 12;
    std::memcpy(&mad.bytes[at + 20 + skipped], address.raw + skipped, 16 - skipped);
}

} // namespace rdma::test
