// SPDX-License-Identifier: GPL-2.0-or-later
//
// Host address handles of one PD. A guest's datagram brings its destination along,
// libibverbs wants an object made of it: those used last are kept for the next.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <vector>

#include "address_resolver.h"

namespace rdma::verbs {

class AddressHandles {
public:
    // Most that there are at once, and destinations that are known not to be reached.
    static constexpr size_t max_entries = 256;

    using Make = std::function<Result<SharedAh>(ibv_ah_attr)>;

    // make: see AddressResolver::Make.
    AddressHandles(AddressResolver& resolver, Make make)
        : _resolver(resolver), _make(std::move(make))
    {
    }

    // An address handle in use, to be given back to release(): a provider may look it
    // up as late as when it carries the request out.
    struct Use {
        ibv_ah* handle;
        uint32_t index;
    };
    enum class Refusal {
        pending,     // being made: ask again when the resolver has news
        full,        // all are in use: ask again after a release or the end of a ticket
        unreachable, // not tried again for a second
    };
    // Of a handle that is being made, which is kept for those who hold one.
    using Ticket = std::shared_ptr<AddressResolver::Request>;
    // attr: with the host's GID index and port. ticket: what was got for the same before,
    // if anything was; there is one afterwards where the handle is pending.
    std::expected<Use, Refusal> acquire(const ibv_ah_attr& attr, Ticket& ticket);
    void release(uint32_t index);
    // A handle for nobody, so that the host knows the address once it is done.
    Ticket look_up(const ibv_ah_attr& attr) const
    {
        return _resolver.start([make = _make, attr] { return make(attr); });
    }
    // The host's GID table has changed: no handle is used for anything new.
    void forget();
    void clear() { _entries.clear(); }

private:
    using Clock = std::chrono::steady_clock;
    struct Entry {
        ibv_ah_attr attr{};
        SharedAh handle;
        Ticket request; // while it is being made, or waited for
        uint32_t users = 0;
        bool stale = false;
        Clock::time_point retry{}; // without a handle: not before
        uint64_t used = 0;         // when: the higher the later
    };

    Entry* find(const ibv_ah_attr& attr);
    Entry* make_room();
    static void collect(Entry& entry);

    AddressResolver& _resolver;
    Make _make;
    std::vector<Entry> _entries;
    size_t _last = 0; // found last
    uint64_t _uses = 0;
};

} // namespace rdma::verbs
