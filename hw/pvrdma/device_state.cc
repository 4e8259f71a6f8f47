// SPDX-License-Identifier: GPL-2.0-or-later
//
// The PVRDMA device in a state stream. Guest memory is not looked at: on the
// destination it comes by another way.
#include <bit>

#include <fmt/format.h>

#include "state_fields.h"

namespace rdma {

using namespace pvrdma;
using migration::read_section;
using migration::Section;
using migration::SectionKind;
using migration::Status;

namespace {

Status wrong(std::string what)
{
    return std::unexpected(std::move(what));
}

// Whether a ring's entries have that size and lie within its pages.
bool holds_entries(const GuestRing& ring, uint32_t entry_size)
{
    return ring.entry_size() == entry_size && std::has_single_bit(entry_size) &&
           entry_size <= page_size && std::has_single_bit(ring.slots()) &&
           ring.num_pages() >= GuestRing::pages_for(entry_size, ring.slots());
}

// An event ring may have pages that none of its slots is in (shared_region.cc). Without a
// shared region (ready) there need be none.
bool is_event_ring_ok(const GuestRing& ring, uint32_t entry_size, bool ready)
{
    return (!ready && ring.slots() == 0) ||
           (holds_entries(ring, entry_size) && ring.num_pages() <= max_event_pages);
}

// A queue's ring has the pages that its entries take, and no more: memory is in proportion
// to what the guest could have created.
bool is_ring_ok(const GuestRing& ring, uint32_t entry_size, uint32_t max_slots)
{
    return holds_entries(ring, entry_size) && ring.slots() <= max_slots &&
           ring.num_pages() == GuestRing::pages_for(entry_size, ring.slots());
}

} // namespace

void PvrdmaDevice::save(migration::StreamWriter& stream)
{
    DeviceState device{_dsr_address,  _error,         _interrupts.state(), _link_up,
                       _ready,        _command_slot,  _response_slot,      _async_ring,
                       _cq_notification_ring, {},     _late_notifications};
    _contexts.for_each([&](uint32_t handle, Context&) { device.contexts.push_back(handle); });
    stream.section(SectionKind::pvrdma_device, [&](auto& a) { describe(a, device); });
    _cqs.for_each([&](uint32_t handle, Cq& cq) {
        stream.section(SectionKind::pvrdma_cq, [&](auto& a) { describe(a, handle, cq); });
    });
    _srqs.for_each([&](uint32_t handle, Srq& srq) {
        stream.section(SectionKind::pvrdma_srq, [&](auto& a) { describe(a, handle, srq); });
    });
    _qps.for_each([&](uint32_t handle, Qp& qp) {
        stream.section(SectionKind::pvrdma_qp, [&](auto& a) { describe(a, handle, qp); });
    });
}

Status PvrdmaDevice::load(const Section& section)
{
    switch (section.kind) {
    case SectionKind::pvrdma_device:
        return load_device(section);
    case SectionKind::pvrdma_cq:
        return load_cq(section);
    case SectionKind::pvrdma_srq:
        return load_srq(section);
    case SectionKind::pvrdma_qp:
        return load_qp(section);
    default:
        return wrong("a section that this device does not have");
    }
}

Status PvrdmaDevice::load_device(const Section& section)
{
    DeviceState device;
    Status read = read_section(section, [&](auto& a) { describe(a, device); });
    if (!read) {
        return read;
    }
    if (!is_event_ring_ok(device.async_ring, sizeof(EventEntry), device.ready) ||
        !is_event_ring_ok(device.cq_notification_ring, sizeof(CqNotification), device.ready)) {
        return wrong("an event ring does not fit its pages");
    }
    for (uint32_t handle : device.contexts) {
        if (!_contexts.insert(handle, Context{})) {
            return wrong(fmt::format("context {} does not fit", handle));
        }
    }
    _dsr_address = device.dsr_address;
    _error = device.error;
    _interrupts.restore(device.interrupts);
    _link_up = device.link_up;
    _ready = device.ready;
    _command_slot = device.command_slot;
    _response_slot = device.response_slot;
    _async_ring = std::move(device.async_ring);
    _cq_notification_ring = std::move(device.cq_notification_ring);
    _late_notifications = std::move(device.late_notifications);
    return {};
}

Status PvrdmaDevice::load_cq(const Section& section)
{
    uint32_t handle = 0;
    Cq cq;
    Status read = read_section(section, [&](auto& a) { describe(a, handle, cq); });
    if (!read) {
        return read;
    }
    if (!is_ring_ok(cq.ring, sizeof(Cqe), _config.max_cqe) || !has_room_for(cq.num_pages()) ||
        _cqs.find(handle) || !_backend.exists(ObjectKind::cq, handle)) {
        return wrong(fmt::format("CQ {} does not fit", handle));
    }
    insert(_cqs, handle, std::move(cq));
    return {};
}

Status PvrdmaDevice::load_srq(const Section& section)
{
    uint32_t handle = 0;
    Srq srq{};
    Status read = read_section(section, [&](auto& a) { describe(a, handle, srq); });
    if (!read) {
        return read;
    }
    if (!is_ring_ok(srq.ring, rq_wqe_size(srq.max_sge), _config.max_srq_wr) ||
        !has_room_for(srq.num_pages()) || _srqs.find(handle) ||
        !_backend.exists(ObjectKind::srq, handle)) {
        return wrong(fmt::format("SRQ {} does not fit", handle));
    }
    insert(_srqs, handle, std::move(srq));
    return {};
}

Status PvrdmaDevice::load_qp(const Section& section)
{
    uint32_t handle = 0;
    Qp qp{};
    Status read = read_section(section, [&](auto& a) { describe(a, handle, qp); });
    if (!read) {
        return read;
    }
    bool has_rq = qp.rq.slots() > 0;
    if (!is_ring_ok(qp.sq, sq_wqe_size(qp.send_limits.max_sge), _config.max_qp_wr) ||
        (has_rq && !is_ring_ok(qp.rq, rq_wqe_size(qp.max_recv_sge), _config.max_qp_wr)) ||
        !has_room_for(qp.num_pages()) || _qps.find(handle) ||
        !_backend.exists(ObjectKind::qp, handle)) {
        return wrong(fmt::format("QP {} does not fit", handle));
    }
    insert(_qps, handle, std::move(qp));
    return {};
}

Status PvrdmaDevice::finish_load()
{
    if (_cqs.size() != _backend.count(ObjectKind::cq) ||
        _srqs.size() != _backend.count(ObjectKind::srq) ||
        _qps.size() != _backend.count(ObjectKind::qp)) {
        return wrong("the objects of the device and of its backend are not the same");
    }
    for (uint32_t handle : _late_notifications) {
        Cq* cq = _cqs.find(handle);
        if (!cq || cq->notify_late) {
            return wrong(fmt::format("CQ {} has no notification to come", handle));
        }
        cq->notify_late = true;
    }
    return {};
}

} // namespace rdma
