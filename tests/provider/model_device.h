// SPDX-License-Identifier: GPL-2.0-or-later
//
// The device's side of queues in memory, as docs/virtio-rdma/queues.md has it: a few lines that
// share nothing with the device of hw/virtio-rdma.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <infiniband/verbs.h>

extern "C" {
#include "wr.h"
}

static_assert(std::endian::native == std::endian::little);

// A work queue of both sides, whose indices begin at `first` instead of 0.
class ModelWorkQueue {
public:
    ModelWorkQueue(uint32_t entries, uint32_t entry_size, uint32_t first = 0)
        : _entries(entries), _entry_size(entry_size), _slots(size_t{entries} * entry_size),
          _taken(first)
    {
        ring.state = &state;
        ring.slots = _slots.data();
        ring.doorbell_page = &_doorbell;
        ring.doorbell = VIRTIO_RDMA_DOORBELL(VIRTIO_RDMA_DOORBELL_SQ, 0x1234);
        ring.entries = entries;
        ring.entry_size = entry_size;
        ring.next = ring.producer = ring.consumer = first;
        state.producer = state.consumer = state.doorbell = first;
    }

    // The driver's side.
    alignas(VIRTIO_RDMA_STATE_ALIGNMENT) virtio_rdma_queue_state state{};
    vrdma_ring ring{};
    bool post(uint64_t wr_id)
    {
        void* slot = vrdma_ring_slot(&ring);
        if (!slot)
            return false;
        std::memcpy(slot, &wr_id, sizeof wr_id);
        ++ring.next;
        return true;
    }

    // The device's side.
    // The value of the doorbell that has been rung since the last call; 0 for none.
    uint32_t take_doorbell() { return __atomic_exchange_n(&_doorbell, 0U, __ATOMIC_ACQUIRE); }
    uint32_t waiting() const { return __atomic_load_n(&state.producer, __ATOMIC_ACQUIRE) - _taken; }
    // Takes the next entry; there must be one.
    std::vector<uint8_t> take()
    {
        const auto* slot = _slots.data() + size_t{_taken % _entries} * _entry_size;
        std::vector<uint8_t> copy(slot, slot + _entry_size);
        ++_taken;
        __atomic_store_n(&state.consumer, _taken, __ATOMIC_RELEASE);
        return copy;
    }
    // QUE-5: false where an entry has come meanwhile, for which there may be no doorbell.
    bool wait_for_doorbell()
    {
        __atomic_store_n(&state.doorbell, _taken, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        return waiting() == 0;
    }
    uint32_t taken() const { return _taken; }

private:
    uint32_t _entries, _entry_size;
    alignas(64) uint32_t _doorbell = 0;
    std::vector<uint8_t> _slots;
    uint32_t _taken;
};

class ModelCompletionQueue {
public:
    explicit ModelCompletionQueue(uint32_t entries, uint32_t first = 0)
        : slots(entries), _stale(vrdma_cq_stale_words(entries)), _producer(first)
    {
        ring.state = &state;
        ring.slots = slots.data();
        ring.stale = _stale.data();
        ring.entries = entries;
        ring.consumer = first;
        state.consumer = first;
        // As they are in the middle of a CQ's life: of the last turn.
        for (uint32_t i = 0; i < entries && first; ++i)
            slots[(first - 1 - i) % entries].phase = phase(first - 1 - i);
    }

    // The driver's side.
    virtio_rdma_cq_state state{};
    vrdma_cq_ring ring{};
    std::vector<virtio_rdma_cq_entry> slots;
    std::vector<ibv_wc> poll(int num)
    {
        std::vector<ibv_wc> wc(static_cast<size_t>(num));
        wc.resize(static_cast<size_t>(vrdma_cq_ring_poll(&ring, num, wc.data())));
        return wc;
    }

    // The device's side.
    bool has_room() const { return _producer - state.consumer < slots.size(); }
    void complete(virtio_rdma_cq_entry entry, bool solicited = false)
    {
        entry.phase = phase(_producer);
        slots[_producer++ % slots.size()] = entry;
        _solicited |= solicited;
        _any = true;
    }
    // QUE-20: whether an event is sent for what has been completed since the last call.
    bool send_event()
    {
        const uint32_t arm = state.arm, kind = arm & 3;
        const bool wanted = (kind == VIRTIO_RDMA_ARM_NEXT && _any) ||
                            (kind == VIRTIO_RDMA_ARM_SOLICITED && _solicited);
        _any = _solicited = false;
        if (!wanted || arm == _notified)
            return false;
        state.notified = _notified = arm;
        return true;
    }

private:
    uint8_t phase(uint32_t index) const { return (index / slots.size() + 1) % 2; }
    std::vector<uint64_t> _stale;
    uint32_t _producer, _notified = 0;
    bool _any = false, _solicited = false;
};
