// SPDX-License-Identifier: GPL-2.0-or-later
//
// The virtio RDMA device in a state stream. Guest memory is not looked at: on the destination it
// comes by another way.
#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "state_fields.h"

namespace rdma {

using namespace virtio;
using migration::read_section;
using migration::Section;
using migration::SectionKind;

namespace {

migration::Status wrong(std::string what)
{
    return std::unexpected(std::move(what));
}

// [virtio-rdma MIG-5]
// Whether the array has the pages that its entries take, and no more: memory is in proportion to
// what the guest could have created.
bool is_array_ok(const EntryArray& array, uint32_t least_size, uint32_t max_entries)
{
    uint32_t size = array.entry_size();
    return std::has_single_bit(size) && size >= least_size && size <= page_size &&
           std::has_single_bit(array.entries()) && array.entries() <= max_entries &&
           array.num_pages() == EntryArray::pages_for(size, array.entries());
}

template <typename Queue>
bool is_queue_ok(const Queue& queue, uint32_t least_size, uint32_t max_entries)
{
    return queue.state() % VIRTIO_RDMA_STATE_ALIGNMENT == 0 &&
           is_array_ok(queue.array(), least_size, max_entries);
}

} // namespace

void VirtioRdmaDevice::save(migration::StreamWriter& stream)
{
    DeviceState device{.features = _features,
                       .event_queues = _event_queues,
                       .has_failed = _has_failed,
                       .has_guid = _guid.has_value(),
                       .guid = _guid.value_or(0),
                       .next_pd = _pds.next(),
                       .next_cq = _cqs.next(),
                       .next_srq = _srqs.next()};
    _contexts.for_each([&](uint32_t number, Context&) { device.contexts.push_back(number); });
    for (uint32_t index = 0; index < _gids.size(); ++index) {
        if (_gids[index]) {
            device.gids.push_back(index);
        }
    }
    for (size_t i = 0; i < _events.size(); ++i) {
        device.events.push_back(_events[i]);
    }
    for (const auto& events : _completion_events) {
        for (size_t i = 0; i < events.size(); ++i) {
            device.completion_events.push_back(events[i]);
        }
    }
    // [virtio-rdma MIG-1]
    for (const auto& [qp, waiting] : _waiting) {
        device.waiting.push_back({qp, waiting});
    }
    for (size_t i = 0; i < _replies.size(); ++i) {
        device.replies.push_back(_replies[i]);
    }
    stream.section(SectionKind::virtio_rdma_device, [&](auto& a) { describe(a, device); });
    _pds.for_each([&](uint32_t id, Pd& pd) {
        stream.section(SectionKind::virtio_rdma_pd, [&](auto& a) { describe(a, id, pd); });
    });
    _mrs.for_each([&](uint32_t id, Mr& mr) {
        stream.section(SectionKind::virtio_rdma_mr, [&](auto& a) { describe(a, id, mr); });
    });
    _cqs.for_each([&](uint32_t id, Cq& cq) {
        stream.section(SectionKind::virtio_rdma_cq, [&](auto& a) { describe(a, id, cq); });
    });
    _srqs.for_each([&](uint32_t id, Srq& srq) {
        stream.section(SectionKind::virtio_rdma_srq, [&](auto& a) { describe(a, id, srq); });
    });
    _qps.for_each([&](uint32_t id, Qp& qp) {
        stream.section(SectionKind::virtio_rdma_qp, [&](auto& a) { describe(a, id, qp); });
    });
}

migration::Status VirtioRdmaDevice::load(const Section& section)
{
    switch (section.kind) {
    case SectionKind::virtio_rdma_device:
        return load_device(section);
    case SectionKind::virtio_rdma_pd:
        return load_pd(section);
    case SectionKind::virtio_rdma_mr:
        return load_mr(section);
    case SectionKind::virtio_rdma_cq:
        return load_cq(section);
    case SectionKind::virtio_rdma_srq:
        return load_srq(section);
    case SectionKind::virtio_rdma_qp:
        return load_qp(section);
    default:
        return wrong("a section that this device does not have");
    }
}

migration::Status VirtioRdmaDevice::load_device(const Section& section)
{
    DeviceState device;
    auto read = read_section(section, [&](auto& a) { describe(a, device); });
    if (!read) {
        return read;
    }
    if (device.features & ~offered_features()) {
        return wrong(fmt::format("features {:#x} are not all here", device.features));
    }
    if (!_pds.set_next(device.next_pd) || !_cqs.set_next(device.next_cq) ||
        (_config.max_srq > 0 && !_srqs.set_next(device.next_srq))) {
        return wrong("the next number of a kind of object is out of range");
    }
    for (uint32_t number : device.contexts) {
        if (!_contexts.insert(number, Context{})) {
            return wrong(fmt::format("context {} does not fit", number));
        }
    }
    for (uint32_t index : device.gids) {
        if (index >= _gids.size() || _gids[index]) {
            return wrong(fmt::format("GID {} does not fit", index));
        }
        _gids[index] = true;
    }
    _features = device.features;
    _event_queues = device.event_queues;
    _has_failed = device.has_failed;
    _guid = device.has_guid ? std::optional(device.guid) : std::nullopt;
    for (const Event& event : device.events) {
        _events.push_back(event);
    }
    // Sorted by vector when the CQs are known.
    for (uint32_t cq : device.completion_events) {
        _completion_events[0].push_back(cq);
    }
    for (auto& command : device.waiting) {
        if (!_waiting.try_emplace(command.qp, std::move(command.waiting)).second) {
            return wrong(fmt::format("QP {} waits twice", command.qp));
        }
    }
    _waiting_is_loaded = !_waiting.empty();
    for (Reply& reply : device.replies) {
        _replies.push_back(reply);
    }
    return {};
}

migration::Status VirtioRdmaDevice::load_pd(const Section& section)
{
    uint32_t id = 0;
    Pd pd;
    auto read = read_section(section, [&](auto& a) { describe(a, id, pd); });
    if (read && (!_backend.exists(ObjectKind::pd, id) || !_pds.restore(id, std::move(pd)))) {
        return wrong(fmt::format("PD {} does not fit", id));
    }
    return read;
}

migration::Status VirtioRdmaDevice::load_mr(const Section& section)
{
    uint32_t id = 0;
    Mr mr;
    auto read = read_section(section, [&](auto& a) { describe(a, id, mr); });
    if (!read) {
        return read;
    }
    if (!_backend.exists(ObjectKind::mr, id) || !has_room_for(mr.num_pages) ||
        !_mrs.insert(id, Mr{mr})) {
        return wrong(fmt::format("MR {} does not fit", id));
    }
    _num_pages += mr.num_pages;
    return {};
}

migration::Status VirtioRdmaDevice::load_cq(const Section& section)
{
    uint32_t id = 0;
    Cq cq;
    auto read = read_section(section, [&](auto& a) { describe(a, id, cq); });
    if (!read) {
        return read;
    }
    constexpr uint32_t entry_size = sizeof(virtio_rdma_cq_entry);
    uint64_t num_pages = cq.num_pages();
    if (!is_queue_ok(cq.queue, entry_size, _config.max_cqe) ||
        cq.queue.array().entry_size() != entry_size || cq.vector >= _config.vectors ||
        !has_room_for(num_pages) || !_backend.exists(ObjectKind::cq, id) ||
        !_cqs.restore(id, std::move(cq))) {
        return wrong(fmt::format("CQ {} does not fit", id));
    }
    _num_pages += num_pages;
    return {};
}

migration::Status VirtioRdmaDevice::load_srq(const Section& section)
{
    uint32_t id = 0;
    Srq srq;
    auto read = read_section(section, [&](auto& a) { describe(a, id, srq); });
    if (!read) {
        return read;
    }
    uint64_t num_pages = srq.num_pages();
    uint32_t context = srq.context;
    srq.limits = entry_limits(srq.queue.array().entry_size());
    if (!is_queue_ok(srq.queue, least_receive_entry, _config.max_srq_wr) ||
        !is_context(context) || !has_room_for(num_pages) ||
        !_backend.exists(ObjectKind::srq, id) || !_srqs.restore(id, std::move(srq))) {
        return wrong(fmt::format("SRQ {} does not fit", id));
    }
    use_context(context, 1);
    _num_pages += num_pages;
    return {};
}

migration::Status VirtioRdmaDevice::load_qp(const Section& section)
{
    uint32_t id = 0;
    Qp qp;
    auto read = read_section(section, [&](auto& a) { describe(a, id, qp); });
    if (!read) {
        return read;
    }
    bool has_rq = qp.rq.array().entries() > 0;
    uint64_t num_pages = qp.num_pages();
    bool is_type = qp.type == VIRTIO_RDMA_QP_GSI || qp.type == VIRTIO_RDMA_QP_RC ||
                   qp.type == VIRTIO_RDMA_QP_UD;
    bool is_gsi = qp.type == VIRTIO_RDMA_QP_GSI;
    if (!is_queue_ok(qp.sq, least_send_entry, _config.max_qp_wr) ||
        (has_rq && !is_queue_ok(qp.rq, least_receive_entry, _config.max_qp_wr)) ||
        (!has_rq && qp.num_pages() != qp.sq.array().num_pages()) || !is_type ||
        is_gsi != (id == gsi_id) || is_gsi != (qp.qpn == VIRTIO_RDMA_GSI_QPN) ||
        !is_context(qp.context) || !has_room_for(num_pages) ||
        !_backend.exists(ObjectKind::qp, id) || _qps.find(id) ||
        !_qp_ids.try_emplace(qp.qpn, id).second) {
        return wrong(fmt::format("QP {} does not fit", id));
    }
    set_entry_limits(qp);
    use_context(qp.context, 1);
    _num_pages += num_pages;
    _qps.insert(id, std::move(qp));
    return {};
}

// Marks the objects that events wait of. False: one of them is of no object, or waits twice.
bool VirtioRdmaDevice::take_loaded_events()
{
    for (size_t i = 0; i < _events.size(); ++i) {
        uint32_t* pending = pending_events_of(_events[i]);
        uint32_t bit = 1u << _events[i].type;
        if (!pending || (*pending & bit)) {
            return false;
        }
        *pending |= bit;
    }
    GrowingRing<uint32_t> all;
    std::swap(all, _completion_events[0]);
    for (size_t i = 0; i < all.size(); ++i) {
        Cq* cq = _cqs.find(all[i]);
        if (!cq || cq->event_pending) {
            return false;
        }
        cq->event_pending = true;
        _completion_events[cq->vector].push_back(all[i]);
    }
    return true;
}

// [virtio-rdma MIG-5]
migration::Status VirtioRdmaDevice::finish_load()
{
    if (_pds.size() != _backend.count(ObjectKind::pd) ||
        _mrs.size() != _backend.count(ObjectKind::mr) ||
        _cqs.size() != _backend.count(ObjectKind::cq) ||
        _srqs.size() != _backend.count(ObjectKind::srq) ||
        _qps.size() != _backend.count(ObjectKind::qp)) {
        return wrong("the objects of the device and of its backend are not the same");
    }
    if (!take_loaded_events()) {
        return wrong("an event is of no object, or is there twice");
    }
    for (const auto& [qp, waiting] : _waiting) {
        if (!_qps.find(qp)) {
            return wrong(fmt::format("a command waits for QP {}, which does not exist", qp));
        }
    }
    return {};
}

} // namespace rdma
