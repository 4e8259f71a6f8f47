// SPDX-License-Identifier: GPL-2.0-or-later
//
// What kind of address a GID is.
#pragma once

#include <infiniband/verbs.h>

#include <cstring>

namespace rdma {

inline bool same_gid(const ibv_gid& a, const ibv_gid& b)
{
    return std::memcmp(a.raw, b.raw, sizeof(a.raw)) == 0;
}

// fe80::/64
inline bool is_link_local(const ibv_gid& gid)
{
    return gid.raw[0] == 0xfe && (gid.raw[1] & 0xc0) == 0x80;
}

// ::ffff:a.b.c.d
inline bool is_v4_mapped(const ibv_gid& gid)
{
    static constexpr uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return std::memcmp(gid.raw, prefix, sizeof(prefix)) == 0;
}

} // namespace rdma
