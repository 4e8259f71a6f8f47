// SPDX-License-Identifier: GPL-2.0-or-later
//
// Keys that a guest knows by another number than the host does: those of regions that
// have come from another host.
#pragma once

#include <cstdint>
#include <unordered_map>

namespace rdma::verbs {

class GuestKeys {
public:
    void add(uint32_t guest, uint32_t host)
    {
        if (guest != host) {
            _hosts[guest] = host;
        }
    }
    void remove(uint32_t guest) { _hosts.erase(guest); }
    void clear() { _hosts.clear(); }
    bool contains(uint32_t guest) const { return _hosts.contains(guest); }
    // The host's of a guest's; keys that are not known are the same.
    uint32_t host_key(uint32_t guest) const
    {
        if (_hosts.empty()) {
            return guest;
        }
        auto found = _hosts.find(guest);
        return found == _hosts.end() ? guest : found->second;
    }
    auto begin() const { return _hosts.begin(); }
    auto end() const { return _hosts.end(); }
    size_t size() const { return _hosts.size(); }

private:
    std::unordered_map<uint32_t, uint32_t> _hosts;
};

} // namespace rdma::verbs
