// SPDX-License-Identifier: GPL-2.0-or-later
//
// Keys that a guest knows by another number than the host does: those of regions that
// have come from another host.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <unordered_set>

namespace rdma::verbs {

class GuestKeys {
public:
    void add(uint32_t guest, uint32_t host)
    {
        if (guest != host) {
            _hosts[guest] = host;
        }
    }
    bool remove(uint32_t guest) { return _hosts.erase(guest) != 0; }
    void clear() { _hosts.clear(); }
    bool empty() const { return _hosts.empty(); }
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

private:
    std::unordered_map<uint32_t, uint32_t> _hosts;
};

// Those of this device's regions. No region may have on the host the number that the guest
// knows another region by, or has known one by that has come from another host: peers go
// on using the host's number that they have been told for it.
class OwnKeys {
public:
    // Replaces what was known of the guest's key.
    void set(uint32_t guest, uint32_t host, uint32_t region)
    {
        remove(guest);
        if (guest != host) {
            _keys.add(guest, host);
            _regions[host] = region;
        }
    }
    // The region has ended.
    void retire(uint32_t guest)
    {
        if (remove(guest)) {
            _retired.insert(guest);
        }
    }
    void clear()
    {
        _keys.clear();
        _regions.clear();
        _retired.clear();
    }
    bool empty() const { return _keys.empty(); }
    uint32_t host_key(uint32_t guest) const { return _keys.host_key(guest); }
    bool is_reserved(uint32_t host) const { return _keys.contains(host) || _retired.contains(host); }
    // The region, of those that have come from another host, that has this key on the host.
    std::optional<uint32_t> region_with(uint32_t host) const
    {
        auto found = _regions.find(host);
        return found == _regions.end() ? std::nullopt : std::optional(found->second);
    }

private:
    bool remove(uint32_t guest)
    {
        if (!_keys.contains(guest)) {
            return false;
        }
        _regions.erase(_keys.host_key(guest));
        return _keys.remove(guest);
    }

    GuestKeys _keys;
    std::unordered_map<uint32_t, uint32_t> _regions; // by the host's key
    std::unordered_set<uint32_t> _retired;
};

} // namespace rdma::verbs
