// SPDX-License-Identifier: GPL-2.0-or-later
#include "gid_map.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "interface_address.h"

namespace rdma::verbs {

bool GidMap::add_to_host(Entry& entry)
{
    uint32_t interface = _port.interface_index();
    int error = interface ? add_interface_address(interface, entry.gid) : ENODEV;
    if (error == 0) {
        entry.added_to = interface;
        return true;
    }
    // A GID without an address that this name space knows of serves as well.
    bool has_it = error == EEXIST || entry.host_index;
    if (!has_it) {
        _log(RDMA_LOG_WARNING,
             fmt::format("the guest's address {} cannot be added to interface {} of RDMA device "
                         "'{}': {}{}",
                         address_of(entry.gid), interface_name(interface), _port.device_name(),
                         strerror(error), error == EPERM ? " (CAP_NET_ADMIN is needed)" : ""));
    }
    return has_it;
}

// [virtio-rdma SEC-9]
int GidMap::add(uint32_t index, const ibv_gid& gid, uint32_t type)
{
    if (index >= _entries.size() || type < 1 || type > 2) {
        return EINVAL;
    }
    Entry& entry = _entries[index];
    release(entry);
    if (!_port.allows(gid)) {
        _log(RDMA_LOG_WARNING,
             fmt::format("the guest's address {} is not among those of property 'gid-allow', so "
                         "the guest cannot use it for RDMA",
                         address_of(gid)));
        return EADDRNOTAVAIL;
    }
    Entry next{type, gid, 0, _port.fixed_gid()};
    bool is_there = next.host_index.has_value();
    if (!is_there) {
        // The kernel makes and removes GIDs a while after addresses: that in the table may be of
        // an address that is gone, and that of an added one is found later, by host_index().
        next.host_index = _port.find_gid(gid, type);
        is_there = next.host_index && (!_port.adds_addresses() || has_address(gid));
    }
    if (!is_there && _port.adds_addresses()) {
        if (!add_to_host(next)) {
            return EADDRNOTAVAIL;
        }
    } else if (!is_there) {
        _log(RDMA_LOG_WARNING,
             fmt::format(
                 "the guest's address {} is not on interface {} of RDMA device '{}', so the "
                 "guest cannot use it for RDMA: put it there (ip addr add), or set "
                 "gid-policy=add",
                 address_of(gid), interface_name(_port.interface_index()), _port.device_name()));
        return EADDRNOTAVAIL;
    }
    entry = next;
    return 0;
}

void GidMap::release(Entry& entry)
{
    if (entry.added_to != 0) {
        remove_interface_address(entry.added_to, entry.gid);
    }
    entry = {};
}

int GidMap::remove(uint32_t index)
{
    if (index >= _entries.size() || _entries[index].type == 0) {
        return EINVAL;
    }
    release(_entries[index]);
    return 0;
}

void GidMap::clear()
{
    std::ranges::for_each(_entries, [this](Entry& entry) { release(entry); });
}

std::optional<uint8_t> GidMap::host_index(uint32_t index)
{
    if (index >= _entries.size() || _entries[index].type == 0) {
        return std::nullopt;
    }
    Entry& entry = _entries[index];
    if (!entry.host_index) {
        entry.host_index = _port.find_gid(entry.gid, entry.type);
    }
    // An address vector has 8 bits for it.
    return entry.host_index && *entry.host_index <= UINT8_MAX
               ? std::optional(static_cast<uint8_t>(*entry.host_index))
               : std::nullopt;
}

const ibv_gid* GidMap::find_by_host_index(uint32_t index)
{
    for (uint32_t i = 0; i < _entries.size(); ++i) {
        if (host_index(i) == index) {
            return &_entries[i].gid;
        }
    }
    return nullptr;
}

void GidMap::forget_indices()
{
    for (Entry& entry : _entries) {
        entry.host_index = entry.type != 0 ? _port.fixed_gid() : std::nullopt;
    }
}

} // namespace rdma::verbs
