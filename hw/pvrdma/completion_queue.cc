// SPDX-License-Identifier: GPL-2.0-or-later
//
// Work out of the guest's rings, completions and events into them.
#include <cerrno>

#include <fmt/format.h>

#include "pvrdma_device.h"
#include "work_queue.h"

namespace rdma {

using namespace pvrdma;

// The state or an entry of the QP's rings makes no sense: the QP can do nothing
// any more, which it is told once.
void PvrdmaDevice::report_ring_failure(uint32_t handle, Qp& qp)
{
    guest_error(_stats.guest_ring_errors,
                fmt::format("pvrdma: the rings of QP {} are not valid", handle));
    if (!qp.ring_failed) {
        qp.ring_failed = true;
        async_event(IBV_EVENT_QP_FATAL, handle);
    }
}

bool PvrdmaDevice::pull_send(uint32_t handle, SendRequest& out)
{
    auto it = _qps.find(handle);
    if (it == _qps.end()) {
        return false;
    }
    Qp& qp = it->second;
    uint64_t entry;
    switch (qp.sq.peek(_memory, entry)) {
    case GuestRing::State::ready:
        break;
    case GuestRing::State::invalid:
        report_ring_failure(handle, qp);
        return false;
    default:
        return false;
    }
    bool read = read_send_wqe(_memory, entry, qp.max_send_sge, qp.datagram, out);
    qp.sq.consume(_memory);
    if (!read) {
        report_ring_failure(handle, qp);
        return false;
    }
    _stats.guest_wqe_errors += out.malformed != IBV_WC_SUCCESS;
    return true;
}

bool PvrdmaDevice::pull_recv(uint32_t handle, RecvRequest& out)
{
    auto it = _qps.find(handle);
    if (it == _qps.end() || it->second.rq.slots() == 0) {
        return false;
    }
    Qp& qp = it->second;
    uint64_t entry;
    switch (qp.rq.peek(_memory, entry)) {
    case GuestRing::State::ready:
        break;
    case GuestRing::State::invalid:
        report_ring_failure(handle, qp);
        return false;
    default:
        return false;
    }
    bool read = read_recv_wqe(_memory, entry, qp.max_recv_sge, out);
    qp.rq.consume(_memory);
    if (!read) {
        report_ring_failure(handle, qp);
        return false;
    }
    _stats.guest_wqe_errors += out.malformed != IBV_WC_SUCCESS;
    return true;
}

bool PvrdmaDevice::pull_srq_recv(uint32_t handle, RecvRequest& out)
{
    auto it = _srqs.find(handle);
    if (it == _srqs.end()) {
        return false;
    }
    Srq& srq = it->second;
    uint64_t entry;
    GuestRing::State state = srq.ring.peek(_memory, entry);
    if (state != GuestRing::State::ready) {
        if (state == GuestRing::State::invalid) {
            guest_error(_stats.guest_ring_errors,
                        fmt::format("pvrdma: the ring of SRQ {} is not valid", handle));
        }
        return false;
    }
    bool read = read_recv_wqe(_memory, entry, srq.max_sge, out);
    srq.ring.consume(_memory);
    _stats.guest_wqe_errors += !read || out.malformed != IBV_WC_SUCCESS;
    return read;
}

bool PvrdmaDevice::complete(uint32_t handle, const Completion& completion)
{
    auto it = _cqs.find(handle);
    if (it == _cqs.end()) {
        return false;
    }
    Cq& cq = it->second;
    uint64_t entry;
    if (cq.ring.reserve(_memory, entry) != GuestRing::State::ready ||
        !_memory.write_object(entry, encode_cqe(completion))) {
        // 11.6.3.1: the CQ is in error from now on.
        ++_stats.cq_overruns;
        if (!cq.overrun) {
            cq.overrun = true;
            async_event(IBV_EVENT_CQ_ERR, handle);
        }
        return false;
    }
    cq.ring.publish(_memory);
    if (cq.armed || (cq.armed_solicited && completion.solicited)) {
        cq.armed = cq.armed_solicited = false;
        notify(handle);
    }
    return true;
}

void PvrdmaDevice::arm(uint32_t handle, bool solicited)
{
    auto it = _cqs.find(handle);
    if (it == _cqs.end()) {
        guest_error(_stats.guest_doorbell_errors,
                    fmt::format("pvrdma: doorbell of CQ {}, which does not exist", handle));
        return;
    }
    (solicited ? it->second.armed_solicited : it->second.armed) = true;
}

void PvrdmaDevice::notify(uint32_t handle)
{
    uint64_t entry;
    if (_cq_notification_ring.reserve(_memory, entry) == GuestRing::State::ready &&
        _memory.write_object(entry, handle)) {
        _cq_notification_ring.publish(_memory);
    } else {
        ++_stats.async_events_lost;
    }
    raise(vector_cq);
}

void PvrdmaDevice::async_event(ibv_event_type type, uint32_t object)
{
    // The guest's event types are ib_event_type's, which ibv_event_type follows.
    ++_stats.async_events;
    EventEntry event{static_cast<uint32_t>(type), object};
    uint64_t entry;
    if (!_ready || _async_ring.reserve(_memory, entry) != GuestRing::State::ready ||
        !_memory.write_object(entry, event)) {
        ++_stats.async_events_lost;
        return;
    }
    _async_ring.publish(_memory);
    raise(vector_async);
}

} // namespace rdma
