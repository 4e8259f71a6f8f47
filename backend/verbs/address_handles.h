// SPDX-License-Identifier: GPL-2.0-or-later
//
// Host address handles of one PD. A guest's datagram brings its destination along,
// libibverbs wants an object made of it: the ones made are kept for the next.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "host_objects.h"

namespace rdma::verbs {

class AddressHandles {
public:
    // An address handle in use, to be given back to release().
    struct Use {
        ibv_ah* handle;
        uint32_t index;
    };

    // attr: with the host's GID index and port. Nothing where the destination is
    // not to be reached. Making one may take the host a while: it looks up the
    // Ethernet address. What fails is not tried again for a second.
    std::optional<Use> acquire(ibv_pd* pd, const ibv_ah_attr& attr);
    void release(uint32_t index) { --_entries[index].users; }
    // The host's GID table has changed: no handle is used for anything new.
    void forget();
    void clear() { _entries.clear(); }

private:
    using Clock = std::chrono::steady_clock;
    struct Entry {
        ibv_ah_attr attr{};
        HostAh handle;
        uint32_t users = 0;
        bool stale = false;
        Clock::time_point retry{}; // without a handle: not before
        uint64_t used = 0;         // when: the higher the later
    };

    static constexpr size_t usual_entries = 256;

    Entry* find(const ibv_ah_attr& attr);
    Entry& make_room();

    std::vector<Entry> _entries;
    size_t _last = 0; // found last
    uint64_t _uses = 0;
};

} // namespace rdma::verbs
