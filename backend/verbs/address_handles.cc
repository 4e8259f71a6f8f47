// SPDX-License-Identifier: GPL-2.0-or-later
#include "address_handles.h"

#include <algorithm>

#include "gid.h"

namespace rdma::verbs {

namespace {

constexpr std::chrono::seconds retry_interval{1};

bool same(const ibv_ah_attr& a, const ibv_ah_attr& b)
{
    return same_gid(a.grh.dgid, b.grh.dgid) && a.grh.sgid_index == b.grh.sgid_index &&
           a.grh.flow_label == b.grh.flow_label && a.grh.hop_limit == b.grh.hop_limit &&
           a.grh.traffic_class == b.grh.traffic_class && a.sl == b.sl;
}

} // namespace

AddressHandles::Entry* AddressHandles::find(const ibv_ah_attr& attr)
{
    auto fits = [&](const Entry& e) { return e.used != 0 && !e.stale && same(e.attr, attr); };
    if (_last < _entries.size() && fits(_entries[_last])) {
        return &_entries[_last];
    }
    auto found = std::ranges::find_if(_entries, fits);
    if (found == _entries.end()) {
        return nullptr;
    }
    _last = static_cast<size_t>(found - _entries.begin());
    return &*found;
}

// The one unused for longest; a new one as long as there are few, and where all
// are in use.
AddressHandles::Entry& AddressHandles::make_room()
{
    Entry* oldest = nullptr;
    if (_entries.size() >= usual_entries) {
        for (Entry& entry : _entries) {
            if (entry.users == 0 && (!oldest || entry.used < oldest->used)) {
                oldest = &entry;
            }
        }
    }
    if (!oldest) {
        return _entries.emplace_back();
    }
    *oldest = Entry{};
    return *oldest;
}

std::optional<AddressHandles::Use> AddressHandles::acquire(ibv_pd* pd, const ibv_ah_attr& attr)
{
    Entry* entry = find(attr);
    if (!entry) {
        entry = &make_room();
        entry->attr = attr;
    }
    entry->used = ++_uses;
    if (!entry->handle) {
        auto now = Clock::now();
        if (now < entry->retry) {
            return std::nullopt;
        }
        entry->handle.reset(ibv_create_ah(pd, &entry->attr));
        if (!entry->handle) {
            entry->retry = Clock::now() + retry_interval;
            return std::nullopt;
        }
    }
    ++entry->users;
    return Use{entry->handle.get(), static_cast<uint32_t>(entry - _entries.data())};
}

void AddressHandles::forget()
{
    for (Entry& entry : _entries) {
        entry.stale = true;
    }
}

} // namespace rdma::verbs
