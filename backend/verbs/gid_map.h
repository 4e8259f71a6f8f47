// SPDX-License-Identifier: GPL-2.0-or-later
//
// The guest's GID table on the host's: by address, for the same address may have
// another index there, and may get another one when the interface changes.
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "host_port.h"

namespace rdma::verbs {

class GidMap {
public:
    using Log = std::function<void(int level, std::string_view message)>;

    GidMap(HostPort& port, uint32_t length, Log log)
        : _port(port), _log(std::move(log)), _entries(length)
    {
    }
    ~GidMap() { clear(); }
    GidMap(const GidMap&) = delete;
    GidMap& operator=(const GidMap&) = delete;

    // type: 1 RoCEv1, 2 RoCEv2. 0; EINVAL: no such index or type; EADDRNOTAVAIL: the guest
    // may not use the address, or the host's interface does not have it, nor was it to be added.
    int add(uint32_t index, const ibv_gid& gid, uint32_t type);
    int remove(uint32_t index); // 0, EINVAL
    void clear();

    // The host's index for a guest's; nothing where the guest has no such GID or the
    // host has lost it.
    std::optional<uint8_t> host_index(uint32_t index);
    // The guest's GID that has this index in the host's table; null: none.
    const ibv_gid* find_by_host_index(uint32_t index);
    // fn(index, gid, type)
    template <typename Fn>
    void for_each(Fn&& fn) const
    {
        for (uint32_t index = 0; index < _entries.size(); ++index) {
            if (_entries[index].type != 0) {
                fn(index, _entries[index].gid, _entries[index].type);
            }
        }
    }
    // The host's table has changed.
    void forget_indices();
    const ibv_gid* find(uint32_t index) const
    {
        return index < _entries.size() && _entries[index].type != 0 ? &_entries[index].gid
                                                                    : nullptr;
    }

private:
    struct Entry {
        uint32_t type = 0; // 0: free
        ibv_gid gid{};
        uint32_t added_to = 0; // the host's interface that it was added to by us
        std::optional<uint32_t> host_index;
    };

    bool add_to_host(Entry& entry);
    void release(Entry& entry);

    HostPort& _port;
    Log _log;
    std::vector<Entry> _entries;
};

} // namespace rdma::verbs
