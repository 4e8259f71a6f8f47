// SPDX-License-Identifier: GPL-2.0-or-later
//
// Asynchronous events and CQ notifications.
#include <algorithm>

#include "capabilities.h"
#include "pvrdma_device.h"

namespace rdma {

using namespace pvrdma;

void PvrdmaDevice::async_event(ibv_event_type type, uint32_t object)
{
    if (!_ready || type > IBV_EVENT_GID_CHANGE) {
        return; // nobody to tell, or nothing that the guest knows
    }
    ++_stats.async_events;
    GuestRing::Slot slot = _async_ring.reserve(_memory);
    if (slot.state != GuestRing::State::ready ||
        !_memory.write_object(slot.gpa, EventEntry{type, object}) ||
        !_async_ring.publish(_memory, slot)) {
        ++_stats.async_events_lost;
        return;
    }
    _interrupts.raise(vector_async);
}

void PvrdmaDevice::link_changed()
{
    bool up = _host.nic_info().link_up;
    if (_ready && up != _link_up) {
        _link_up = up;
        async_event(up ? IBV_EVENT_PORT_ACTIVE : IBV_EVENT_PORT_ERR, port_number);
    }
}

bool PvrdmaDevice::write_notification(uint32_t handle)
{
    GuestRing::Slot slot = _cq_notification_ring.reserve(_memory);
    return slot.state == GuestRing::State::ready &&
           _memory.write_object(slot.gpa, CqNotification{handle}) &&
           _cq_notification_ring.publish(_memory, slot);
}

// A CQ that has a completion to tell of. There may be more CQs than slots in the
// ring, so one that finds no room waits for the next chance.
void PvrdmaDevice::notify(uint32_t handle, Cq& cq)
{
    if (cq.notify_late) {
        return;
    }
    if (_late_notifications.empty() && write_notification(handle)) {
        _interrupts.raise(vector_cq);
    } else {
        cq.notify_late = true;
        _late_notifications.push_back(handle);
    }
}

void PvrdmaDevice::write_late_notifications()
{
    auto written = std::ranges::find_if(_late_notifications, [this](uint32_t handle) {
        if (!write_notification(handle)) {
            return true;
        }
        _cqs.find(handle)->notify_late = false;
        return false;
    });
    if (written != _late_notifications.begin()) {
        _late_notifications.erase(_late_notifications.begin(), written);
        _interrupts.raise(vector_cq);
    }
}

} // namespace rdma
