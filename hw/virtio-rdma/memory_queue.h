// SPDX-License-Identifier: GPL-2.0-or-later
//
// Queues in memory (docs/virtio-rdma/queues.md): entries in pages of 4096 bytes, and beside them
// a state with the words of both sides. Indices run freely; entry i is in slot i modulo the
// number of entries.
//
// What the device knows of a queue it has here and does not read back (QUE-11).
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "backend.h"
#include "guest_memory.h"
#include "virtio_rdma_abi.h"

namespace rdma::virtio {

// The pages of a queue's entries.
class EntryArray {
public:
    EntryArray() = default;
    // pages: addresses of so many as entries take. entry_size: bytes, a power of two, at most a
    // page; entries: a power of two.
    EntryArray(std::vector<uint64_t> pages, uint32_t entry_size, uint32_t entries)
        : _pages(std::move(pages)), _entry_size(entry_size), _entries(entries)
    {
    }

    static constexpr uint32_t pages_for(uint32_t entry_size, uint32_t entries)
    {
        return static_cast<uint32_t>((uint64_t{entry_size} * entries + page_size - 1) / page_size);
    }

    const std::vector<uint64_t>& pages() const { return _pages; }
    size_t num_pages() const { return _pages.size(); }
    uint32_t entry_size() const { return _entry_size; }
    uint32_t entries() const { return _entries; }

    // Of entry index; entries do not straddle pages.
    uint64_t address_of(uint32_t index) const
    {
        uint64_t offset = uint64_t{index & (_entries - 1)} * _entry_size;
        return _pages[offset / page_size] + offset % page_size;
    }

private:
    std::vector<uint64_t> _pages;
    uint32_t _entry_size = 0;
    uint32_t _entries = 0;
};

// SQ, RQ or SRQ: the driver posts, the device takes.
class WorkQueue {
public:
    enum class Taken {
        entry,   // address has it
        nothing, // a doorbell will tell of the next one
        failure, // what is there makes no sense: nothing is taken any more
    };

    WorkQueue() = default;
    // state: address of its virtio_rdma_queue_state.
    WorkQueue(uint64_t state, EntryArray array) : _state(state), _array(std::move(array)) {}

    uint64_t state() const { return _state; }
    const EntryArray& array() const { return _array; }
    uint32_t consumer() const { return _consumer; }
    bool has_failed() const { return _failed; }

    // Takes the oldest entry: read(address) copies it, and returns whether it is memory. Where
    // there is none, asks for a doorbell and looks again (QUE-5). failure is returned once;
    // nothing after that (QUE-8).
    template <typename Read>
    Taken take(GuestMemory& memory, Read&& read)
    {
        if (_failed) {
            return Taken::nothing;
        }
        uint32_t posted = 0;
        bool valid = look(memory, posted);
        if (valid && posted == 0) {
            // [virtio-rdma QUE-5]
            valid = want_doorbell(memory) && look(memory, posted);
        }
        // [virtio-rdma QUE-10]
        if (valid && posted == 0) {
            return Taken::nothing;
        }
        // [virtio-rdma QUE-6] [virtio-rdma QUE-8]
        if (!valid || !read(_array.address_of(_consumer)) ||
            !memory.store_release(_state + offsetof(virtio_rdma_queue_state, consumer),
                                  _consumer + 1)) {
            _failed = true;
            return Taken::failure;
        }
        ++_consumer;
        return Taken::entry;
    }

    // Entries that have been posted and not taken; 0 where that cannot be told.
    uint32_t count(const GuestMemory& memory) const
    {
        uint32_t posted = 0;
        return !_failed && look(memory, posted) ? posted : 0;
    }

    // Both sides begin at index 0 again (REQ-4).
    void reset(GuestMemory& memory)
    {
        _consumer = 0;
        _failed = false;
        // Where these words are no memory any more, taking finds out.
        (void)memory.store_release(_state + offsetof(virtio_rdma_queue_state, consumer), 0);
        (void)memory.store_release(_state + offsetof(virtio_rdma_queue_state, doorbell), 0);
    }

    // As saved.
    void restore(uint32_t consumer, bool failed)
    {
        _consumer = consumer;
        _failed = failed;
    }

private:
    bool look(const GuestMemory& memory, uint32_t& posted) const
    {
        uint32_t producer = 0;
        if (!memory.load_acquire(_state + offsetof(virtio_rdma_queue_state, producer), producer)) {
            return false;
        }
        posted = producer - _consumer;
        return posted <= _array.entries();
    }
    bool want_doorbell(GuestMemory& memory)
    {
        bool written = memory.store_release(_state + offsetof(virtio_rdma_queue_state, doorbell),
                                            _consumer);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        return written;
    }

    uint64_t _state = 0;
    EntryArray _array;
    // [virtio-rdma QUE-11]
    uint32_t _consumer = 0;
    bool _failed = false;
};

// CQ: the device writes, the driver takes.
class CompletionQueue {
public:
    enum class Event { none, wanted };

    CompletionQueue() = default;
    // state: address of its virtio_rdma_cq_state.
    CompletionQueue(uint64_t state, EntryArray array) : _state(state), _array(std::move(array)) {}

    uint64_t state() const { return _state; }
    const EntryArray& array() const { return _array; }
    uint32_t producer() const { return _producer; }
    uint32_t notified() const { return _notified; }
    bool has_failed() const { return _failed; }

    // Writes an entry, whose phase is set here. False: it is lost, and so are all that follow
    // (QUE-18).
    [[nodiscard]] bool write(GuestMemory& memory, virtio_rdma_cq_entry entry)
    {
        uint32_t consumer = 0;
        _failed = _failed ||
                  !memory.load_acquire(_state + offsetof(virtio_rdma_cq_state, consumer), consumer) ||
                  _producer - consumer >= _array.entries();
        if (_failed) {
            return false;
        }
        entry.phase = phase_of(_producer);
        // [virtio-rdma QUE-17]
        // The last word goes last (QUE-17).
        constexpr size_t last = sizeof(entry) - sizeof(uint32_t);
        uint64_t address = _array.address_of(_producer);
        auto bytes = std::as_bytes(std::span(&entry, 1));
        uint32_t last_word = 0;
        std::memcpy(&last_word, bytes.data() + last, sizeof(last_word));
        if (!memory.write(address, bytes.first(last)) ||
            !memory.store_release(address + last, last_word)) {
            _failed = true;
            return false;
        }
        ++_producer;
        return true;
    }

    // After entries have been written: whether the driver wants an event (QUE-19, QUE-20).
    // solicited: one of them is such a completion.
    // [virtio-rdma QUE-19] [virtio-rdma QUE-20]
    Event look_at_arm(GuestMemory& memory, bool solicited)
    {
        std::atomic_thread_fence(std::memory_order_seq_cst);
        constexpr uint32_t kind_mask = 3;
        uint32_t word = 0;
        if (!memory.load_acquire(_state + offsetof(virtio_rdma_cq_state, arm), word) ||
            word == _notified) {
            return Event::none;
        }
        uint32_t kind = word & kind_mask;
        if (kind != VIRTIO_RDMA_ARM_NEXT && !(kind == VIRTIO_RDMA_ARM_SOLICITED && solicited)) {
            return Event::none;
        }
        _notified = word;
        // Where that is no memory any more, the next entry finds out.
        (void)memory.store_release(_state + offsetof(virtio_rdma_cq_state, notified), word);
        return Event::wanted;
    }

    // As saved.
    void restore(uint32_t producer, uint32_t notified, bool failed)
    {
        _producer = producer;
        _notified = notified;
        _failed = failed;
    }

private:
    uint8_t phase_of(uint32_t index) const
    {
        return static_cast<uint8_t>((index / _array.entries() + 1) & 1);
    }

    uint64_t _state = 0;
    EntryArray _array;
    uint32_t _producer = 0;
    // [virtio-rdma QUE-11]
    uint32_t _notified = 0; // the word that the last event was for
    bool _failed = false;
};

} // namespace rdma::virtio
