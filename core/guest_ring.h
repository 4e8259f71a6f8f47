// SPDX-License-Identifier: GPL-2.0-or-later
//
// A ring shared with the guest: entries in pages of guest memory, and a state
// {producer's tail, consumer's head}. An index is a slot and, above it, a
// generation bit that flips with every turn, so that full and empty differ.
//
// Both indices live in guest memory alone and are read for each step: driver and
// library put them back to 0 when they reset a queue and move a CQ's head
// themselves when they purge entries. A guest that lies about them has its own
// entries misread; whatever they hold, a step stays within the ring and moves by
// one entry.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "guest_memory.h"

namespace rdma {

class GuestRing {
public:
    enum class State {
        none,    // nothing to take, or no room
        ready,   // an entry
        invalid, // the indices make no sense
    };
    struct Slot {
        State state = State::invalid;
        uint32_t index = 0; // of the ring's state
        uint64_t gpa = 0;   // of the entry; entries do not straddle pages
    };

    GuestRing() = default;
    // state: GPA of the RingState; pages: GPAs of the entries' pages;
    // entry_size: bytes, a power of two, at most a page; slots: a power of two
    // whose entries the pages hold.
    GuestRing(uint64_t state, std::vector<uint64_t> pages, uint32_t entry_size, uint32_t slots)
        : _state(state), _pages(std::move(pages)), _entry_size(entry_size), _slots(slots)
    {
    }

    // Pages that the entries of a ring take.
    static constexpr uint32_t pages_for(uint32_t entry_size, uint32_t slots)
    {
        return static_cast<uint32_t>((uint64_t{entry_size} * slots + 4095) / 4096);
    }

    uint64_t state() const { return _state; }
    const std::vector<uint64_t>& pages() const { return _pages; }
    uint32_t entry_size() const { return _entry_size; }
    uint32_t slots() const { return _slots; }
    size_t num_pages() const { return _pages.size(); }

    // As consumer: the oldest entry.
    Slot peek(const GuestMemory& memory) const
    {
        uint32_t tail;
        uint32_t head;
        if (!load(memory, tail, head)) {
            return {};
        }
        return {tail == head ? State::none : State::ready, head, gpa_of(head)};
    }
    // Entries that the consumer has not taken; 0 where the state makes no sense.
    uint32_t count(const GuestMemory& memory) const
    {
        uint32_t tail;
        uint32_t head;
        return load(memory, tail, head) ? (tail - head) & index_mask() : 0;
    }
    // As consumer: done with the entry. False where the state cannot be written:
    // the same entry would come again.
    [[nodiscard]] bool consume(GuestMemory& memory, const Slot& slot)
    {
        return memory.store_release(_state + head_offset, next(slot.index));
    }

    // As producer: the next free entry.
    Slot reserve(const GuestMemory& memory) const
    {
        uint32_t tail;
        uint32_t head;
        if (!load(memory, tail, head)) {
            return {};
        }
        return {tail == (head ^ _slots) ? State::none : State::ready, tail, gpa_of(tail)};
    }
    // As producer: the entry has been written. False as for consume.
    [[nodiscard]] bool publish(GuestMemory& memory, const Slot& slot)
    {
        return memory.store_release(_state + tail_offset, next(slot.index));
    }

private:
    static constexpr uint64_t tail_offset = 0;
    static constexpr uint64_t head_offset = 4;

    uint32_t index_mask() const { return _slots * 2 - 1; }
    uint32_t next(uint32_t index) const { return (index + 1) & index_mask(); }

    bool load(const GuestMemory& memory, uint32_t& tail, uint32_t& head) const
    {
        static_assert(head_offset == tail_offset + sizeof(tail));
        return _slots > 0 && memory.load_acquire(_state + tail_offset, tail, head) &&
               tail <= index_mask() && head <= index_mask() && ((tail - head) & index_mask()) <= _slots;
    }
    uint64_t gpa_of(uint32_t index) const
    {
        uint64_t offset = uint64_t{index & (_slots - 1)} * _entry_size;
        return _pages[offset / 4096] + offset % 4096;
    }

    uint64_t _state = 0;
    std::vector<uint64_t> _pages;
    uint32_t _entry_size = 0;
    uint32_t _slots = 0;
};

} // namespace rdma
