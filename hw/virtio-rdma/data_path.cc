// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests out of the guest's queues, completions into them.
#include "virtio_rdma_device.h"

namespace rdma {

using namespace virtio;

// QUE-8: nothing is taken from the SRQ any more, of which the guest is told once.
void VirtioRdmaDevice::report_failure(Srq& srq)
{
    guest_error(_stats.guest_ring_errors, "SRQ {} or its state is not valid", srq.number);
    add_event(VIRTIO_RDMA_EVENT_SRQ_ERR, srq.number, srq);
}

bool VirtioRdmaDevice::pull_send(uint32_t id, SendRequest& out)
{
    Qp* qp = _qps.find(id);
    if (!qp) {
        return false;
    }
    auto taken = qp->sq.take(_memory, [&](uint64_t address) {
        return read_send_entry(_memory, address, qp->send_limits, out);
    });
    if (taken == WorkQueue::Taken::failure) {
        guest_error(_stats.guest_ring_errors, "the send queue of QP {} or its state is not valid",
                    qp->qpn);
        _backend.fail_qp(id);
    }
    bool is_taken = taken == WorkQueue::Taken::entry;
    _stats.guest_wqe_errors += is_taken && out.malformed != IBV_WC_SUCCESS;
    return is_taken;
}

bool VirtioRdmaDevice::pull_recv(uint32_t id, RecvRequest& out)
{
    Qp* qp = _qps.find(id);
    if (!qp || qp->rq.array().entries() == 0) {
        return false;
    }
    auto taken = qp->rq.take(_memory, [&](uint64_t address) {
        return read_receive_entry(_memory, address, qp->receive_limits, out);
    });
    if (taken == WorkQueue::Taken::failure) {
        guest_error(_stats.guest_ring_errors,
                    "the receive queue of QP {} or its state is not valid", qp->qpn);
        _backend.fail_qp(id);
    }
    bool is_taken = taken == WorkQueue::Taken::entry;
    _stats.guest_wqe_errors += is_taken && out.malformed != IBV_WC_SUCCESS;
    return is_taken;
}

bool VirtioRdmaDevice::pull_srq_recv(uint32_t id, RecvRequest& out)
{
    Srq* srq = _srqs.find(id);
    if (!srq) {
        return false;
    }
    auto taken = srq->queue.take(_memory, [&](uint64_t address) {
        return read_receive_entry(_memory, address, srq->limits, out);
    });
    if (taken == WorkQueue::Taken::failure) {
        report_failure(*srq);
    }
    bool is_taken = taken == WorkQueue::Taken::entry;
    _stats.guest_wqe_errors += is_taken && out.malformed != IBV_WC_SUCCESS;
    return is_taken;
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
            add_event(VIRTIO_RDMA_EVENT_CQ_ERR, cq->number, *cq);
        }
        return false;
    }
    if (cq->queue.look_at_arm(_memory, completion.solicited) == CompletionQueue::Event::wanted) {
        add_completion_event(id, *cq);
    }
    return true;
}

} // namespace rdma
