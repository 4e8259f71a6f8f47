// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <bit>
#include <cstdint>

namespace rdma {

// EUI-64 of an EUI-48, in network order (RFC 4291, appendix A).
inline uint64_t eui64_of(const uint8_t mac[6])
{
    const uint8_t bytes[8] = {
        static_cast<uint8_t>(mac[0] ^ 2), mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]};
    return std::bit_cast<uint64_t>(bytes);
}

} // namespace rdma
