// SPDX-License-Identifier: GPL-2.0-or-later
//
// The port's GIDs: the addresses its packets come from and are taken for.
//
// A driver that has GIDs on VLANs need not say on which (Linux's vmw_pvrdma
// does not). It shows in the other traffic of the guest's network card: a GID is
// on the VLAN that frames from its IP address were last sent with.
#pragma once

#include <algorithm>
#include <cerrno>
#include <optional>
#include <span>
#include <vector>

#include "gid.h"
#include "wire.h"

namespace rdma::roce {

class GidTable {
public:
    struct Entry {
        bool valid = false;
        ibv_gid gid{};
        NetworkType network{};
        std::optional<uint16_t> vlan; // nothing: not known
        bool vlan_given = false;      // by the guest: not to be learnt
    };

    explicit GidTable(uint32_t size) : _entries(size) {}

    // As Backend::add_gid.
    int add(uint32_t index, const ibv_gid& gid, uint32_t type, std::optional<uint16_t> vlan)
    {
        if (index >= _entries.size() || type < 1 || type > 2 || vlan > vlan_mask) {
            return EINVAL;
        }
        NetworkType network = type == 1           ? NetworkType::roce_v1
                              : is_v4_mapped(gid) ? NetworkType::ipv4
                                                  : NetworkType::ipv6;
        forget(_entries[index]);
        _entries[index] = {true, gid, network, vlan ? vlan : vlan_seen(gid), vlan.has_value()};
        _end = std::max<size_t>(_end, index + 1);
        return 0;
    }
    // An entry as it was saved. False where it makes no sense.
    [[nodiscard]] bool restore(uint32_t index, const Entry& entry)
    {
        bool is_v2 = entry.network != NetworkType::roce_v1;
        NetworkType expected =
            is_v4_mapped(entry.gid) ? NetworkType::ipv4 : NetworkType::ipv6;
        if (index >= _entries.size() || _entries[index].valid ||
            (is_v2 && entry.network != expected) || entry.vlan.value_or(0) > vlan_mask) {
            return false;
        }
        _entries[index] = entry;
        _entries[index].valid = true;
        _end = std::max<size_t>(_end, index + 1);
        return true;
    }
    int remove(uint32_t index)
    {
        if (index >= _entries.size() || !_entries[index].valid) {
            return EINVAL;
        }
        forget(_entries[index]);
        return 0;
    }
    void clear() { std::ranges::for_each(_entries, [this](Entry& entry) { forget(entry); }); }

    // The network card sends from this address with the tag of this VLAN, or
    // none. A VLAN has its link-local address in common with its parent, often:
    // that is the parent's.
    void sent_from(const ibv_gid& address, uint16_t vlan)
    {
        bool bound = false;
        for (Entry& entry : used()) {
            if (entry.valid && same_gid(entry.gid, address)) {
                bound = true;
                if (!entry.vlan_given && (entry.vlan != no_vlan || !is_link_local(address))) {
                    entry.vlan = vlan;
                }
            }
        }
        if (!bound) {
            remember({address, vlan});
        }
    }
    // The entry of a GID that was at the index. It may have been deleted and added again, and be at
    // another one: Linux keeps an index from being used while a QP names it. Null: there is none.
    const Entry* find(const ibv_gid& gid, NetworkType network, uint32_t index) const
    {
        auto is_it = [&](const Entry& e) {
            return e.valid && e.network == network && same_gid(e.gid, gid);
        };
        if (index < _end && is_it(_entries[index])) {
            return &_entries[index];
        }
        auto found = std::ranges::find_if(used(), is_it);
        return found == used().end() ? nullptr : &*found;
    }
    // Whether a packet to this GID may come with this tag. Where the VLAN is not
    // known, any; learn() then takes it for known.
    bool is_vlan_ok(const ibv_gid& gid, uint16_t vlan) const
    {
        return std::ranges::any_of(used(), [&](const Entry& e) {
            return e.valid && same_gid(e.gid, gid) && e.vlan.value_or(vlan) == vlan;
        });
    }
    // Whether learn() has nothing to learn of this GID.
    bool knows_vlan(const ibv_gid& gid) const
    {
        return std::ranges::none_of(used(), [&](const Entry& e) {
            return e.valid && !e.vlan && same_gid(e.gid, gid);
        });
    }
    void learn(const ibv_gid& gid, uint16_t vlan)
    {
        for (Entry& entry : used()) {
            if (entry.valid && !entry.vlan && same_gid(entry.gid, gid)) {
                entry.vlan = vlan;
            }
        }
    }

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
    std::span<Entry> used() { return std::span(_entries).first(_end); }

    // Addresses seen that are no GIDs, or not yet: the newest.
    static constexpr size_t max_seen = 64;
    struct Seen {
        ibv_gid address;
        uint16_t vlan;
    };

    std::optional<uint16_t> vlan_seen(const ibv_gid& gid) const
    {
        auto seen = std::ranges::find_if(
            _seen, [&](const Seen& s) { return same_gid(s.address, gid); });
        return seen == _seen.end() ? std::nullopt : std::optional(seen->vlan);
    }
    void remember(const Seen& seen)
    {
        auto place = std::ranges::find_if(
            _seen, [&](const Seen& s) { return same_gid(s.address, seen.address); });
        if (place != _seen.end()) {
            if (place->vlan != no_vlan || !is_link_local(seen.address)) {
                place->vlan = seen.vlan;
            }
        } else if (_seen.size() < max_seen) {
            _seen.push_back(seen);
        } else {
            _seen[_oldest] = seen;
            _oldest = (_oldest + 1) % max_seen;
        }
    }
    void forget(Entry& entry)
    {
        if (entry.valid && entry.vlan && !entry.vlan_given) {
            remember({entry.gid, *entry.vlan});
        }
        entry = {};
    }

    std::vector<Entry> _entries;
    size_t _end = 0;
    std::vector<Seen> _seen;
    size_t _oldest = 0; // of _seen, once it is full
};

} // namespace rdma::roce
