// SPDX-License-Identifier: GPL-2.0-or-later
//
// The fields of the PVRDMA device's objects in a state stream
// (migration/archive.h has the notation). Positions in rings are in guest
// memory and not here.
#pragma once

#include <algorithm>
#include <optional>

#include "archive.h"
#include "pvrdma_device.h"
#include "queue_abi.h"

namespace rdma::pvrdma {

// Most pages of a ring: those of the largest CQ there can be; the largest entry of another
// queue is no larger than a page.
inline constexpr uint32_t max_ring_pages = GuestRing::pages_for(sizeof(Cqe), max_cqe_limit);
static_assert(max_ring_pages >= GuestRing::pages_for(page_size, max_wr_limit));
static_assert(max_ring_pages < page_dir_max_pages);
// Of an event ring, its state page apart; Linux's driver uses 3.
inline constexpr uint32_t max_event_pages = max_event_ring_pages - 1;

// What there is once of a device.
struct DeviceState {
    uint64_t dsr_address = 0;
    uint32_t error = 0;
    Interrupts::State interrupts{};
    bool link_up = false;
    bool ready = false; // the fields after it hold
    uint64_t command_slot = 0;
    uint64_t response_slot = 0;
    GuestRing async_ring;
    GuestRing cq_notification_ring;
    std::vector<uint32_t> contexts;
    std::vector<uint32_t> late_notifications;
};

template <typename Archive>
void describe(Archive& a, DeviceState& device)
{
    a.u64("dsr_address", device.dsr_address);
    a.u32("error", device.error);
    a.u32("interrupt_cause", device.interrupts.cause);
    a.u32("interrupt_held", device.interrupts.held);
    a.u32("interrupt_mask", device.interrupts.mask);
    a.flag("link_up", device.link_up);
    a.flag("ready", device.ready);
    a.u64("command_slot", device.command_slot);
    a.u64("response_slot", device.response_slot);
    a.record("async_ring", [&] { describe(a, device.async_ring, max_event_pages); });
    a.record("cq_notification_ring",
             [&] { describe(a, device.cq_notification_ring, max_event_pages); });
    a.list("contexts", device.contexts, 65536,
           [](auto& b, uint32_t& handle) { b.u32("handle", handle); });
    a.list("late_notifications", device.late_notifications, 65536,
           [](auto& b, uint32_t& handle) { b.u32("cq", handle); });
}

} // namespace rdma::pvrdma

namespace rdma {

// most: pages; where it is not given, those that the entries take, and exactly those.
template <typename Archive>
void describe(Archive& a, GuestRing& ring, std::optional<uint32_t> most = {})
{
    uint64_t state = ring.state();
    uint32_t entry_size = ring.entry_size();
    uint32_t slots = ring.slots();
    std::vector<uint64_t> pages = ring.pages();
    a.u64("state", state);
    a.u32("entry_size", entry_size);
    a.u32("slots", slots);
    a.pages("pages", pages,
            most.value_or(std::min(GuestRing::pages_for(entry_size, slots), pvrdma::max_ring_pages)));
    if constexpr (Archive::is_reader) {
        ring = GuestRing(state, std::move(pages), entry_size, slots);
    }
}

template <typename Archive>
void describe(Archive& a, uint32_t& handle, PvrdmaDevice::Cq& cq)
{
    a.u32("handle", handle);
    a.record("ring", [&] { describe(a, cq.ring); });
    a.flag("armed", cq.armed);
    a.flag("armed_solicited", cq.armed_solicited);
    a.flag("overrun", cq.overrun);
}

template <typename Archive>
void describe(Archive& a, uint32_t& handle, PvrdmaDevice::Srq& srq)
{
    a.u32("handle", handle);
    a.record("ring", [&] { describe(a, srq.ring); });
    a.u32("max_sge", srq.max_sge, max_sge_limit);
    a.flag("ring_failed", srq.ring_failed);
}

template <typename Archive>
void describe(Archive& a, uint32_t& handle, PvrdmaDevice::Qp& qp)
{
    a.u32("handle", handle);
    a.record("sq", [&] { describe(a, qp.sq); });
    a.record("rq", [&] { describe(a, qp.rq); });
    a.u32("max_send_sge", qp.send_limits.max_sge, max_sge_limit);
    a.u32("max_recv_sge", qp.max_recv_sge, max_sge_limit);
    a.u32("pd", qp.send_limits.pd);
    a.flag("datagram", qp.send_limits.datagram);
    a.flag("ring_failed", qp.ring_failed);
}

} // namespace rdma
