// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests out of the guest's queues, completions into them.
#include "virtio_rdma_device.h"

namespace rdma {

using namespace virtio;

namespace {

bool read_entry(const GuestMemory& memory, uint64_t address, const EntryLimits& limits,
                SendRequest& out)
{
    return read_send_entry(memory, address, limits, out);
}
bool read_entry(const GuestMemory& memory, uint64_t address, const EntryLimits& limits,
                RecvRequest& out)
{
    return read_receive_entry(memory, address, limits, out);
}

// The next entry of the queue, decoded. One that cannot be carried out is counted.
template <typename Request>
WorkQueue::Taken take(WorkQueue& queue, GuestMemory& memory, const EntryLimits& limits,
                      Request& out, Statistics& stats)
{
    auto taken = queue.take(memory, [&](uint64_t address) {
        return read_entry(memory, address, limits, out);
    });
    stats.guest_wqe_errors +=
        taken == WorkQueue::Taken::entry && out.malformed != IBV_WC_SUCCESS;
    return taken;
}

} // namespace

// [virtio-rdma QUE-8] [virtio-rdma DEV-22]
// QUE-8: nothing is taken from the SRQ any more, of which the guest is told once.
void VirtioRdmaDevice::report_failure(Srq& srq)
{
    guest_error(_stats.guest_ring_errors, "SRQ {} or its state is not valid", srq.number);
    add_event(VIRTIO_RDMA_EVENT_SRQ_ERR, srq.number, srq.pending_events);
}

bool VirtioRdmaDevice::pull_send(uint32_t id, SendRequest& out)
{
    Qp* qp = _qps.find(id);
    if (!qp) {
        return false;
    }
    auto taken = take(qp->sq, _memory, qp->send_limits, out, _stats);
    if (taken == WorkQueue::Taken::failure) {
        guest_error(_stats.guest_ring_errors, "the send queue of QP {} or its state is not valid",
                    qp->qpn);
        _backend.fail_qp(id);
    }
    return taken == WorkQueue::Taken::entry;
}

bool VirtioRdmaDevice::pull_recv(uint32_t id, RecvRequest& out)
{
    Qp* qp = _qps.find(id);
    if (!qp || qp->rq.array().entries() == 0) {
        return false;
    }
    auto taken = take(qp->rq, _memory, qp->receive_limits, out, _stats);
    if (taken == WorkQueue::Taken::failure) {
        guest_error(_stats.guest_ring_errors,
                    "the receive queue of QP {} or its state is not valid", qp->qpn);
        _backend.fail_qp(id);
    }
    return taken == WorkQueue::Taken::entry;
}

bool VirtioRdmaDevice::pull_srq_recv(uint32_t id, RecvRequest& out)
{
    Srq* srq = _srqs.find(id);
    if (!srq) {
        return false;
    }
    auto taken = take(srq->queue, _memory, srq->limits, out, _stats);
    if (taken == WorkQueue::Taken::failure) {
        report_failure(*srq);
    }
    return taken == WorkQueue::Taken::entry;
}

uint32_t VirtioRdmaDevice::srq_depth(uint32_t id)
{
    Srq* srq = _srqs.find(id);
    return srq ? srq->queue.count(_memory) : 0;
}

bool VirtioRdmaDevice::complete(uint32_t id, const Completion& completion)
{
    Cq* cq = _cqs.find(id);
    if (!cq) {
        return false;
    }
    bool had_failed = cq->queue.has_failed();
    if (!cq->queue.write(_memory, encode_completion(completion))) {
        ++_stats.cq_overruns;
        if (!had_failed) {
            add_event(VIRTIO_RDMA_EVENT_CQ_ERR, cq->number, cq->pending_events);
        }
        return false;
    }
    if (cq->queue.look_at_arm(_memory, completion.solicited) == CompletionQueue::Event::wanted) {
        add_completion_event(id, *cq);
    }
    return true;
}

} // namespace rdma
