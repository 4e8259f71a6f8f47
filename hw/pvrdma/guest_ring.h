// SPDX-License-Identifier: GPL-2.0-or-later
//
// A ring shared with the guest: entries in pages of guest memory, and a state
// {producer's tail, consumer's head}. An index is a slot and, above it, a
// generation bit that flips with every turn, so that full and empty differ.
//
// Both indices are read from guest memory each time: the driver puts them back
// to 0 when it resets a queue. Whatever they hold, one call does one step.
#pragma once

#include <cstdint>
#include <vector>

#include "guest_memory.h"

namespace rdma::pvrdma {

class GuestRing {
public:
    enum class State { empty, full, ready, invalid };

    GuestRing() = default;
    // state: GPA of the RingState; pages: GPAs of the entries' pages;
    // entry_size: bytes, a power of two, at most a page; slots: a power of two
    // whose entries the pages hold.
    GuestRing(uint64_t state, std::vector<uint64_t> pages, uint32_t entry_size, uint32_t slots)
        : _state(state), _pages(std::move(pages)), _entry_size(entry_size), _slots(slots)
    {}

    uint32_t slots() const { return _slots; }
    uint32_t entry_size() const { return _entry_size; }

    // As consumer: the GPA of the oldest entry, where the state is ready.
    State peek(const GuestMemory& memory, uint64_t& entry) const
    {
        uint32_t tail;
        uint32_t head;
        if (!load(memory, tail, head)) {
            return State::invalid;
        }
        entry = entry_of(head);
        return tail == head ? State::empty : State::ready;
    }
    // As consumer: done with the oldest entry.
    void consume(GuestMemory& memory) { step(memory, head_offset); }

    // As producer: the GPA of the next free entry, where the state is ready.
    State reserve(const GuestMemory& memory, uint64_t& entry) const
    {
        uint32_t tail;
        uint32_t head;
        if (!load(memory, tail, head)) {
            return State::invalid;
        }
        entry = entry_of(tail);
        return tail == (head ^ _slots) ? State::full : State::ready;
    }
    // As producer: the reserved entry has been written.
    void publish(GuestMemory& memory) { step(memory, tail_offset); }

private:
    static constexpr uint64_t tail_offset = 0;
    static constexpr uint64_t head_offset = 4;

    uint32_t index_mask() const { return _slots * 2 - 1; }

    bool load(const GuestMemory& memory, uint32_t& tail, uint32_t& head) const
    {
        return _slots > 0 && memory.load_acquire(_state + tail_offset, tail) &&
               memory.load_acquire(_state + head_offset, head) && (tail & ~index_mask()) == 0 &&
               (head & ~index_mask()) == 0;
    }
    uint64_t entry_of(uint32_t index) const
    {
        uint64_t offset = uint64_t{index & (_slots - 1)} * _entry_size;
        return _pages[offset / 4096] + offset % 4096;
    }
    void step(GuestMemory& memory, uint64_t offset)
    {
        uint32_t index;
        if (memory.load_acquire(_state + offset, index)) {
            // The state was valid a moment ago; the guest may have changed it.
            (void)memory.store_release(_state + offset, (index + 1) & index_mask());
        }
    }

    uint64_t _state = 0;
    std::vector<uint64_t> _pages;
    uint32_t _entry_size = 0;
    uint32_t _slots = 0;
};

} // namespace rdma::pvrdma
