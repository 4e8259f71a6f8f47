// SPDX-License-Identifier: GPL-2.0-or-later
//
// Asynchronous events, completion events and replies that come late: they wait here for a buffer
// of the guest's.
#include <algorithm>
#include <cstring>

#include "virtio_rdma_device.h"

namespace rdma {

namespace {

constexpr uint32_t bit_of(uint32_t type)
{
    return 1u << type;
}

} // namespace

void VirtioRdmaDevice::async_event(ibv_event_type type, uint32_t id)
{
    auto of_qp = [&](virtio_rdma_event_type event) {
        if (Qp* qp = _qps.find(id)) {
            add_event(event, qp->qpn, qp->pending_events);
        }
    };
    auto of_srq = [&](virtio_rdma_event_type event) {
        if (Srq* srq = _srqs.find(id)) {
            add_event(event, srq->number, srq->pending_events);
        }
    };
    switch (type) {
    case IBV_EVENT_DEVICE_FATAL:
        if (!(_pending_device_events & bit_of(VIRTIO_RDMA_EVENT_DEVICE_FATAL))) {
            _has_failed = true;
            add_event(VIRTIO_RDMA_EVENT_DEVICE_FATAL, 0, _pending_device_events);
        }
        break;
    case IBV_EVENT_CQ_ERR:
        if (Cq* cq = _cqs.find(id)) {
            add_event(VIRTIO_RDMA_EVENT_CQ_ERR, cq->number, cq->pending_events);
        }
        break;
    case IBV_EVENT_SRQ_ERR:
        of_srq(VIRTIO_RDMA_EVENT_SRQ_ERR);
        break;
    case IBV_EVENT_SRQ_LIMIT_REACHED:
        of_srq(VIRTIO_RDMA_EVENT_SRQ_LIMIT);
        break;
    case IBV_EVENT_QP_FATAL:
        of_qp(VIRTIO_RDMA_EVENT_QP_FATAL);
        break;
    case IBV_EVENT_QP_REQ_ERR:
        of_qp(VIRTIO_RDMA_EVENT_QP_REQ_ERR);
        break;
    case IBV_EVENT_QP_ACCESS_ERR:
        of_qp(VIRTIO_RDMA_EVENT_QP_ACCESS_ERR);
        break;
    case IBV_EVENT_COMM_EST:
        of_qp(VIRTIO_RDMA_EVENT_COMM_EST);
        break;
    case IBV_EVENT_SQ_DRAINED:
        of_qp(VIRTIO_RDMA_EVENT_SQ_DRAINED);
        break;
    case IBV_EVENT_QP_LAST_WQE_REACHED:
        of_qp(VIRTIO_RDMA_EVENT_LAST_WQE);
        break;
    default:
        break; // the port's: the configuration tells of them
    }
}

void VirtioRdmaDevice::add_event(virtio_rdma_event_type type, uint32_t number, uint32_t& pending)
{
    ++_stats.async_events;
    // [virtio-rdma EVT-3] [virtio-rdma SEC-5]
    if (pending & bit_of(type)) {
        return;
    }
    pending |= bit_of(type);
    _events.push_back({type, number});
    if (_events.size() == 1) {
        _host.raise_irq(VIRTIO_RDMA_VQ_EVENT);
    }
}

void VirtioRdmaDevice::add_completion_event(uint32_t id, Cq& cq)
{
    // [virtio-rdma EVT-8]
    if (cq.event_pending) {
        return;
    }
    cq.event_pending = true;
    auto& events = _completion_events[cq.vector];
    events.push_back(id);
    if (events.size() == 1) {
        _host.raise_irq(VIRTIO_RDMA_VQ_COMPLETION + cq.vector);
    }
}

// [virtio-rdma EVT-4]
void VirtioRdmaDevice::forget_events(uint32_t types, uint32_t number)
{
    for (uint32_t type = 0; types != 0; ++type, types >>= 1) {
        if (types & 1) {
            _events.remove({type, number});
        }
    }
}

uint32_t* VirtioRdmaDevice::pending_events_of(const Event& event)
{
    switch (event.type) {
    case VIRTIO_RDMA_EVENT_DEVICE_FATAL:
        return event.object == 0 ? &_pending_device_events : nullptr;
    case VIRTIO_RDMA_EVENT_CQ_ERR: {
        auto id = _cqs.id_of(event.object);
        return id ? &_cqs.find(*id)->pending_events : nullptr;
    }
    case VIRTIO_RDMA_EVENT_SRQ_ERR:
    case VIRTIO_RDMA_EVENT_SRQ_LIMIT: {
        auto id = _srqs.id_of(event.object);
        return id ? &_srqs.find(*id)->pending_events : nullptr;
    }
    default: {
        auto id = find_qp(event.object);
        return id ? &_qps.find(*id)->pending_events : nullptr;
    }
    }
}

size_t VirtioRdmaDevice::take_event(unsigned queue, std::span<uint8_t> out)
{
    if (queue == VIRTIO_RDMA_VQ_EVENT && !_events.empty()) {
        virtio_rdma_event event{_events.front().type, _events.front().object};
        *pending_events_of(_events.front()) &= ~bit_of(event.type);
        _events.pop_front();
        std::memcpy(out.data(), &event, sizeof(event));
        return sizeof(event);
    }
    unsigned vector = queue - VIRTIO_RDMA_VQ_COMPLETION;
    if (vector < _completion_events.size() && !_completion_events[vector].empty()) {
        Cq* cq = _cqs.find(_completion_events[vector].front());
        _completion_events[vector].pop_front();
        cq->event_pending = false;
        virtio_rdma_completion_event event{cq->number};
        std::memcpy(out.data(), &event, sizeof(event));
        return sizeof(event);
    }
    return 0;
}

// Events may have waited for such a queue.
void VirtioRdmaDevice::set_event_queues(uint32_t queues)
{
    _event_queues = queues;
    if (!_events.empty()) {
        _host.raise_irq(VIRTIO_RDMA_VQ_EVENT);
    }
    for (unsigned vector = 0; vector < _completion_events.size(); ++vector) {
        if (!_completion_events[vector].empty()) {
            _host.raise_irq(VIRTIO_RDMA_VQ_COMPLETION + vector);
        }
    }
}

void VirtioRdmaDevice::add_reply(const Deferred& command, std::span<const uint8_t> bytes)
{
    Reply& reply = _replies.push_back();
    reply.tag = command.tag;
    reply.bytes.assign(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(std::min<size_t>(
                                                          bytes.size(), command.room)));
    if (_replies.size() == 1) {
        _host.raise_irq(VIRTIO_RDMA_VQ_CONTROL);
    }
}

size_t VirtioRdmaDevice::take_reply(uint64_t& tag, std::span<uint8_t> out)
{
    if (_replies.empty()) {
        return 0;
    }
    Reply& reply = _replies.front();
    size_t size = reply.bytes.size();
    tag = reply.tag;
    std::ranges::copy(reply.bytes, out.begin());
    _replies.pop_front();
    return size;
}

} // namespace rdma
