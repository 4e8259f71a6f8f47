// SPDX-License-Identifier: GPL-2.0-or-later
//
// The port's GIDs: the addresses its packets come from and are taken for.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <vector>

#include "wire.h"

namespace rdma::roce {

inline bool same_gid(const ibv_gid& a, const ibv_gid& b)
{
    return std::memcmp(a.raw, b.raw, sizeof(a.raw)) == 0;
}

// ::ffff:a.b.c.d
inline bool is_v4_mapped(const ibv_gid& gid)
{
    static constexpr uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return std::memcmp(gid.raw, prefix, sizeof(prefix)) == 0;
}

class GidTable {
public:
    struct Entry {
        bool valid = false;
        ibv_gid gid{};
        NetworkType network{};
    };

    explicit GidTable(uint32_t size) : _entries(size) {}

    // type: 1 RoCEv1, 2 RoCEv2.
    int add(uint32_t index, const ibv_gid& gid, uint32_t type)
    {
        if (index >= _entries.size() || type < 1 || type > 2) {
            return EINVAL;
        }
        NetworkType network = type == 1           ? NetworkType::roce_v1
                              : is_v4_mapped(gid) ? NetworkType::ipv4
                                                  : NetworkType::ipv6;
        _entries[index] = {true, gid, network};
        _end = std::max<size_t>(_end, index + 1);
        return 0;
    }
    int remove(uint32_t index)
    {
        if (index >= _entries.size() || !_entries[index].valid) {
            return EINVAL;
        }
        _entries[index] = {};
        return 0;
    }
    void clear() { std::ranges::fill(_entries, Entry{}); }

    const Entry* find(uint32_t index) const
    {
        return index < _entries.size() && _entries[index].valid ? &_entries[index] : nullptr;
    }
    bool owns(const ibv_gid& gid) const
    {
        return std::ranges::any_of(
            used(), [&](const Entry& e) { return e.valid && same_gid(e.gid, gid); });
    }
    bool owns(const ibv_gid& gid, NetworkType network) const
    {
        return std::ranges::any_of(used(), [&](const Entry& e) {
            return e.valid && e.network == network && same_gid(e.gid, gid);
        });
    }

private:
    // The entries up to the highest that has been valid: a guest has few of them,
    // and every packet looks for one.
    std::span<const Entry> used() const { return std::span(_entries).first(_end); }

    std::vector<Entry> _entries;
    size_t _end = 0;
};

} // namespace rdma::roce
