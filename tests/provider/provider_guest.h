// SPDX-License-Identifier: GPL-2.0-or-later
//
// A guest of a whole virtio RDMA device whose queues are those of the provider, with what its
// memory must hold and what must come out of its completion queues.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "virtio_rdma_guest.h"

extern "C" {
#include "../../guest-driver/provider/wr.h" // its folder has a virtio_rdma.h, too
}

namespace rdma::test {

constexpr uint32_t receive_bytes = page_size; // of memory for each receive
constexpr uint32_t area_bytes = 16 * page_size;

// A guest's memory region. Sources are never written; peers write, read and count in windows; what
// READs and atomics bring goes to landings; receives have a place of receive_bytes each.
enum Area : uint64_t { sources, windows, landings, receives };
constexpr uint64_t num_places = 64;
constexpr uint64_t region_bytes = receives * area_bytes + num_places * receive_bytes;

using Bytes = std::vector<uint8_t>;

// One of the provider's rings, over a queue that the device has.
struct Ring {
    Ring(VirtioGuest& its_guest, const GuestWorkQueue& its_queue)
        : guest(its_guest), queue(its_queue)
    {
        ring.state = &guest.state(queue);
        ring.slots = &guest.ram.at<uint8_t>(queue.first);
        ring.doorbell_page = &doorbell;
        ring.doorbell = VIRTIO_RDMA_DOORBELL(queue.kind, queue.number);
        ring.entries = queue.entries;
        ring.entry_size = queue.entry_size;
    }
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    // The device sees what has been written to the doorbell page.
    void ring_doorbell()
    {
        if (uint32_t value = std::exchange(doorbell, 0))
            guest.ring(queue.context, value);
    }

    VirtioGuest& guest;
    GuestWorkQueue queue;
    uint32_t doorbell = 0;
    vrdma_ring ring{};
};

struct Receive {
    uint64_t wr_id = 0;
    std::vector<ibv_sge> sges;
    uint64_t place = 0;
};

// A receive queue or a shared one.
struct ReceiveQueue {
    ReceiveQueue(VirtioGuest& guest, const GuestWorkQueue& queue) : ring(guest, queue) {}
    Ring ring;
    std::deque<Receive> posted;
};

struct Expected {
    ibv_wc wc{};
    std::optional<uint64_t> place; // of a receive, which is free again when it has been polled
};

// A completion queue: the provider's view, and what is to come out.
struct Completions {
    Completions(VirtioGuest& guest, uint32_t entries)
        : queue(guest.create_cq(entries)), stale(vrdma_cq_stale_words(entries))
    {
        ring.state = &guest.state(queue);
        ring.slots = &guest.ram.at<virtio_rdma_cq_entry>(queue.first);
        ring.stale = stale.data();
        ring.entries = entries;
    }
    Completions(const Completions&) = delete;
    Completions& operator=(const Completions&) = delete;

    bool has(size_t index) const
    {
        return vrdma_cq_entry(&ring, ring.consumer + static_cast<uint32_t>(index)) != nullptr;
    }
    bool have_come() const { return expected.empty() || has(expected.size() - 1); }
    void expect(const ibv_wc& wc, bool solicited, std::optional<uint64_t> place = {})
    {
        expected.push_back({wc, place});
        if (armed == VIRTIO_RDMA_ARM_NEXT || (armed == VIRTIO_RDMA_ARM_SOLICITED && solicited)) {
            armed = VIRTIO_RDMA_ARM_NONE;
            ++events;
        }
    }
    void arm(bool solicited_only)
    {
        vrdma_cq_arm(&ring, solicited_only);
        if (!solicited_only)
            armed = VIRTIO_RDMA_ARM_NEXT;
        else if (armed == VIRTIO_RDMA_ARM_NONE)
            armed = VIRTIO_RDMA_ARM_SOLICITED;
    }

    GuestCq queue;
    std::vector<uint64_t> stale;
    vrdma_cq_ring ring{};
    std::deque<Expected> expected;
    int armed = VIRTIO_RDMA_ARM_NONE;
    unsigned events = 0; // that are to come
};

struct Side {
    explicit Side(uint8_t its_number) : number(its_number), guest(its_number)
    {
        guest.bring_up();
        pd = guest.create_pd();
        start = guest.ram.pages(region_bytes / page_size);
        mr = guest.register_ram(pd, start, region_bytes);
        expected.resize(region_bytes);
        for (uint64_t place = 0; place < num_places; ++place)
            free_places.push_back(place);
    }
    uint64_t address(Area area, uint64_t offset) const
    {
        return start + area * area_bytes + offset;
    }
    // Of what must be in memory.
    uint8_t* at(uint64_t address) { return expected.data() + (address - start); }
    std::span<const std::byte> actual() { return guest.ram.bytes(start, region_bytes); }

    uint8_t number;
    VirtioGuest guest;
    uint32_t pd = 0;
    uint64_t start = 0;
    GuestMr mr;
    Bytes expected;
    std::deque<uint64_t> free_places;
    std::shared_ptr<ReceiveQueue> shared;
};

} // namespace rdma::test
