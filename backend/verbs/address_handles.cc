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

// A new one as long as there is room, then the one unused for longest. Null where all
// are in use.
AddressHandles::Entry* AddressHandles::make_room()
{
    if (_entries.size() < max_entries) {
        return &_entries.emplace_back();
    }
    Entry* oldest = nullptr;
    for (Entry& entry : _entries) {
        if (entry.request.use_count() == 1) {
            collect(entry);
        }
        if (entry.users == 0 && !entry.request && (!oldest || entry.used < oldest->used)) {
            oldest = &entry;
        }
    }
    if (oldest) {
        *oldest = Entry{};
    }
    return oldest;
}

void AddressHandles::collect(Entry& entry)
{
    if (!entry.request || !entry.request->is_done()) {
        return;
    }
    if (Result<SharedAh>& result = entry.request->result()) {
        entry.handle = std::move(*result);
    } else {
        entry.retry = Clock::now() + retry_interval;
    }
    entry.request.reset();
}

std::expected<AddressHandles::Use, AddressHandles::Refusal>
AddressHandles::acquire(const ibv_ah_attr& attr, Ticket& ticket)
{
    Entry* entry = find(attr);
    ticket.reset();
    if (!entry) {
        entry = make_room();
        if (!entry) {
            return std::unexpected(Refusal::full);
        }
        entry->attr = attr;
    }
    entry->used = ++_uses;
    collect(*entry);
    if (!entry->handle) {
        if (!entry->request) {
            if (Clock::now() < entry->retry) {
                return std::unexpected(Refusal::unreachable);
            }
            entry->request = look_up(attr);
        }
        ticket = entry->request;
        return std::unexpected(Refusal::pending);
    }
    ++entry->users;
    return Use{entry->handle.get(), static_cast<uint32_t>(entry - _entries.data())};
}

void AddressHandles::release(uint32_t index)
{
    Entry& entry = _entries[index];
    if (--entry.users == 0 && entry.stale) {
        entry = {};
    }
}

void AddressHandles::forget()
{
    for (Entry& entry : _entries) {
        if (entry.users == 0) {
            entry = {};
        } else {
            entry.stale = true;
        }
    }
}

} // namespace rdma::verbs
