// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a host queue holds, as the guest gave it: with a migration it is given to
// another host. Room for as many as the queue is deep is made with it.
#pragma once

#include <infiniband/verbs.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "slot_table.h"

namespace rdma::verbs {

struct PostedSend {
    // As in SendRequest.
    ibv_send_wr wr{};
    int opcode = IBV_WR_SEND;
    bool signaled = false;
    bool has_address = false;
    uint32_t address = 0; // of Pd::addresses
};

struct PostedRecv {
    uint64_t wr_id = 0;
    uint32_t num_sge = 0;
};

// A request with its SGEs.
template <typename T>
struct Kept {
    T request;
    std::vector<ibv_sge> sges;
};
using KeptSend = Kept<PostedSend>;
using KeptRecv = Kept<PostedRecv>;

inline uint32_t num_sge(const PostedSend& request)
{
    return static_cast<uint32_t>(request.wr.num_sge);
}
inline uint32_t num_sge(const PostedRecv& request)
{
    return request.num_sge;
}

template <typename T>
class PostedRequests {
public:
    // width: SGEs kept of each request; 0: none, where there will be no migration.
    PostedRequests(uint32_t depth, uint32_t width)
        : _width(width), _slots(depth), _sges(size_t{depth} * width)
    {
    }

    bool full() const { return _slots.full(); }
    uint32_t used() const { return _slots.used(); }

    // There must be a free slot.
    uint32_t put(const T& request, std::span<const ibv_sge> sges)
    {
        uint32_t slot = _slots.put(request);
        std::ranges::copy(sges.first(std::min<size_t>(sges.size(), _width)), begin_of(slot));
        return slot;
    }
    bool take(uint32_t slot, T& request) { return _slots.take(slot, request); }
    std::vector<T> take_all() { return _slots.take_all(); }
    void clear() { _slots.clear(); }

    // All there are, in the order they were put.
    std::vector<Kept<T>> keep_all() const
    {
        std::vector<Kept<T>> kept;
        _slots.for_each([&](uint32_t slot, const T& request) {
            auto begin = begin_of(slot);
            kept.push_back({request, {begin, begin + std::min(num_sge(request), _width)}});
        });
        return kept;
    }

private:
    ptrdiff_t offset_of(uint32_t slot) const
    {
        return static_cast<ptrdiff_t>(size_t{slot} * _width);
    }
    auto begin_of(uint32_t slot) { return _sges.begin() + offset_of(slot); }
    auto begin_of(uint32_t slot) const { return _sges.begin() + offset_of(slot); }

    uint32_t _width;
    SlotTable<T> _slots;
    std::vector<ibv_sge> _sges;
};

} // namespace rdma::verbs
