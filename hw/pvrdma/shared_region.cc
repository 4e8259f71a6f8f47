// SPDX-License-Identifier: GPL-2.0-or-later
//
// Bring-up: the shared region, in which the driver tells where slots and event
// rings are, and the device what it can do.
#include "capabilities.h"
#include "page_directory.h"
#include "pvrdma_device.h"

namespace rdma {

using namespace pvrdma;

namespace {

constexpr uint32_t min_event_ring_pages = 2; // state page included

// The driver masks indices as if its number of slots were a power of two. With
// 3 pages of entries it is not, and then only as many slots as the lowest set bit
// of that number says are ever used: 512 of 1536, 1024 of 3072.
bool make_event_ring(const GuestMemory& memory, const RingPageInfo& info, uint32_t entry_size,
                     GuestRing& ring)
{
    if (info.num_pages < min_event_ring_pages || info.num_pages > max_event_ring_pages) {
        return false;
    }
    std::vector<uint64_t> pages(info.num_pages);
    if (!read_page_directory(memory, info.pdir_dma, pages)) {
        return false;
    }
    uint32_t entries = (info.num_pages - 1) * static_cast<uint32_t>(page_size) / entry_size;
    uint32_t slots = entries & (~entries + 1);
    uint64_t state = pages.front() + ring_rx_offset;
    pages.erase(pages.begin());
    ring = GuestRing(state, std::move(pages), entry_size, slots);
    return true;
}

} // namespace

void PvrdmaDevice::drop_shared_region()
{
    _ready = false;
    _backend.reset();
    _qps.clear();
    _cqs.clear();
    _srqs.clear();
    _queue_pages = 0;
    _contexts.clear();
    _late_notifications.clear();
    _unanswered.reset();
    _async_ring = {};
    _cq_notification_ring = {};
}

bool PvrdmaDevice::set_up_shared_region()
{
    SharedRegion region;
    RdmaNicInfo nic = _host.nic_info();
    if (!_memory.read_object(_dsr_address, region) ||
        !_memory.covers(region.cmd_slot_dma, sizeof(CommandSlot), false) ||
        !_memory.covers(region.resp_slot_dma, sizeof(ResponseSlot), true) ||
        !make_event_ring(_memory, region.async_ring, sizeof(EventEntry), _async_ring) ||
        !make_event_ring(_memory, region.cq_ring, sizeof(CqNotification), _cq_notification_ring) ||
        !_memory.write_object(_dsr_address + offsetof(SharedRegion, caps),
                              capabilities_of(_config, nic, _backend))) {
        guest_error(_stats.guest_command_errors,
                    "the shared region at {:#x}, or what it points at, is not in guest memory",
                    _dsr_address);
        return false;
    }
    _command_slot = region.cmd_slot_dma;
    _response_slot = region.resp_slot_dma;
    _link_up = nic.link_up;
    _ready = true;
    return true;
}

} // namespace rdma
