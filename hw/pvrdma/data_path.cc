// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests out of the guest's rings, completions into them.
#include "completion_entry.h"
#include "pvrdma_device.h"

namespace rdma {

using namespace pvrdma;

namespace {

enum class Taken { request, nothing, failure };

// Takes the oldest entry: read(gpa) decodes it. A step is taken whatever the
// entry holds, so that a bad one cannot come again.
template <typename Read>
Taken take(GuestMemory& memory, GuestRing& ring, Read&& read)
{
    GuestRing::Slot slot = ring.peek(memory);
    if (slot.state == GuestRing::State::none) {
        return Taken::nothing;
    }
    if (slot.state == GuestRing::State::invalid) {
        return Taken::failure;
    }
    bool is_read = read(slot.gpa);
    return ring.consume(memory, slot) && is_read ? Taken::request : Taken::failure;
}

} // namespace

// Indices or entries of the queue cannot be read: nothing is taken from it
// until the guest has put that right, of which it is told once.
void PvrdmaDevice::report_ring_failure(uint32_t handle, Qp& qp)
{
    guest_error(_stats.guest_ring_errors, "the rings of QP {} are not valid", handle);
    if (!qp.ring_failed) {
        qp.ring_failed = true;
        async_event(IBV_EVENT_QP_FATAL, handle);
    }
}

void PvrdmaDevice::report_ring_failure(uint32_t handle, Srq& srq)
{
    guest_error(_stats.guest_ring_errors, "the ring of SRQ {} is not valid", handle);
    if (!srq.ring_failed) {
        srq.ring_failed = true;
        async_event(IBV_EVENT_SRQ_ERR, handle);
    }
}

template <typename Object, typename Request, typename Read>
bool PvrdmaDevice::pull(uint32_t handle, Object& object, GuestRing& ring, Request& out, Read&& read)
{
    switch (take(_memory, ring, read)) {
    case Taken::request:
        _stats.guest_wqe_errors += out.malformed != IBV_WC_SUCCESS;
        return true;
    case Taken::failure:
        report_ring_failure(handle, object);
        return false;
    default:
        return false;
    }
}

bool PvrdmaDevice::pull_send(uint32_t handle, SendRequest& out)
{
    Qp* qp = _qps.find(handle);
    return qp && pull(handle, *qp, qp->sq, out, [&](uint64_t gpa) {
               return read_send_wqe(_memory, gpa, qp->send_limits, out);
           });
}

bool PvrdmaDevice::pull_recv(uint32_t handle, RecvRequest& out)
{
    Qp* qp = _qps.find(handle);
    return qp && qp->rq.slots() > 0 && pull(handle, *qp, qp->rq, out, [&](uint64_t gpa) {
               return read_recv_wqe(_memory, gpa, qp->max_recv_sge, out);
           });
}

bool PvrdmaDevice::pull_srq_recv(uint32_t handle, RecvRequest& out)
{
    Srq* srq = _srqs.find(handle);
    return srq && pull(handle, *srq, srq->ring, out, [&](uint64_t gpa) {
               return read_recv_wqe(_memory, gpa, srq->max_sge, out);
           });
}

uint32_t PvrdmaDevice::srq_depth(uint32_t handle)
{
    Srq* srq = _srqs.find(handle);
    return srq ? srq->ring.count(_memory) : 0;
}

bool PvrdmaDevice::complete(uint32_t handle, const Completion& completion)
{
    Cq* cq = _cqs.find(handle);
    if (!cq) {
        return false;
    }
    GuestRing::Slot slot = cq->overrun ? GuestRing::Slot{} : cq->ring.reserve(_memory);
    if (slot.state != GuestRing::State::ready ||
        !_memory.write_object(slot.gpa, encode_completion(completion)) ||
        !cq->ring.publish(_memory, slot)) {
        // A CQ that has lost a completion is of no use any more.
        ++_stats.cq_overruns;
        if (!cq->overrun) {
            cq->overrun = true;
            _stats.guest_ring_errors += slot.state == GuestRing::State::invalid;
            async_event(IBV_EVENT_CQ_ERR, handle);
        }
        return false;
    }
    if (!_late_notifications.empty()) {
        write_late_notifications();
    }
    _idle_polls.progress();
    _host.poll_end();
    if (cq->armed || (cq->armed_solicited && completion.solicited)) {
        cq->armed = cq->armed_solicited = false;
        notify(handle, *cq);
    }
    return true;
}

} // namespace rdma
