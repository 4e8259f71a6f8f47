// SPDX-License-Identifier: GPL-2.0-or-later
//
// Completing work requests, one by one or, in the error state, all of them.
#include "context.h"
#include "opcodes.h"

namespace rdma::roce {

namespace {

Completion send_completion(const QueuePair& qp, uint64_t wr_id, int opcode, ibv_wc_status status)
{
    Completion completion;
    completion.qp = qp.id;
    completion.wc.qp_num = qp.qpn;
    completion.wc.wr_id = wr_id;
    completion.wc.opcode = wc_opcode_of(opcode);
    completion.wc.status = status;
    // [virtio-rdma REQ-13]
    completion.solicited = status != IBV_WC_SUCCESS;
    return completion;
}

Completion flushed_receive()
{
    Completion completion;
    completion.wc.opcode = IBV_WC_RECV;
    completion.wc.status = IBV_WC_WR_FLUSH_ERR;
    return completion;
}

// Completes so many posted requests. False: there are no more.
bool flush_posted_sends(Context& context, QueuePair& qp, uint32_t most)
{
    SendRequest request;
    for (uint32_t i = 0; i < most; ++i) {
        if (!context.client->pull_send(qp.id, request)) {
            return false;
        }
        context.complete(
            qp, qp.init.send_cq,
            send_completion(qp, request.wr.wr_id, request.opcode, IBV_WC_WR_FLUSH_ERR));
    }
    return true;
}

bool flush_posted_receives(Context& context, QueuePair& qp, uint32_t most)
{
    for (uint32_t i = 0; i < most; ++i) {
        if (!context.pull_recv(qp)) {
            return false;
        }
        complete_recv(context, qp, flushed_receive());
    }
    return true;
}

} // namespace

bool gather(const Context& context, const QueuePair& qp, const SendWqe& wqe, uint64_t offset,
            std::span<std::byte> out)
{
    if (wqe.inline_data.empty()) {
        return context.regions.gather(wqe.sges, qp.init.pd, offset, out);
    }
    std::memcpy(out.data(), wqe.inline_data.data() + offset, out.size());
    return true;
}

void complete_send(Context& context, QueuePair& qp, ibv_wc_status status)
{
    const SendWqe& wqe = qp.req.window.front();
    bool report = wqe.signaled || status != IBV_WC_SUCCESS;
    Completion completion;
    if (report) {
        completion = send_completion(qp, wqe.wr_id, wqe.opcode, status);
        if (wqe.has_response()) {
            completion.wc.byte_len = static_cast<uint32_t>(wqe.length);
        }
    }
    qp.req.window.pop();
    --context.accepted;
    if (report) {
        context.complete(qp, qp.init.send_cq, completion);
    }
}

void complete_recv(Context& context, QueuePair& qp, const Completion& completion)
{
    Completion full = completion;
    full.qp = qp.id;
    full.wc.qp_num = qp.qpn;
    full.wc.wr_id = qp.resp.recv.wr_id;
    // [virtio-rdma REQ-13]
    full.solicited |= full.wc.status != IBV_WC_SUCCESS;
    qp.resp.have_recv = false;
    context.complete(qp, qp.init.recv_cq, full);
}

// [IBTA 9.9.2-2]
// [virtio-rdma REQ-5]
void flush_send_queue(Context& context, QueuePair& qp)
{
    while (!qp.req.window.empty()) {
        complete_send(context, qp, IBV_WC_WR_FLUSH_ERR);
    }
    if (flush_posted_sends(context, qp, qp.init.cap.max_send_wr)) {
        context.schedule(qp);
    }
}

// [virtio-rdma REQ-5]
void flush_receive_queue(Context& context, QueuePair& qp)
{
    if (qp.resp.have_recv) {
        complete_recv(context, qp, flushed_receive());
    }
    if (qp.init.use_srq) {
        return; // the requests belong to the SRQ
    }
    if (flush_posted_receives(context, qp, qp.init.cap.max_recv_wr)) {
        context.schedule(qp);
    }
}

bool flush_more(Context& context, QueuePair& qp)
{
    constexpr uint32_t part = 64; // requests of each queue
    bool more = false;
    if (qp.state == IBV_QPS_ERR || qp.state == IBV_QPS_SQE) {
        more = flush_posted_sends(context, qp, part);
    }
    if (qp.state == IBV_QPS_ERR && !qp.init.use_srq) {
        more |= flush_posted_receives(context, qp, part);
    }
    return more;
}

// [virtio-rdma REQ-14]
void fail_sends(Context& context, QueuePair& qp, ibv_wc_status status)
{
    if (qp.is_reliable()) {
        enter_error(context, qp, status);
        return;
    }
    // [IBTA 9.9.2-3]
    qp.state = IBV_QPS_SQE;
    complete_send(context, qp, status);
    flush_send_queue(context, qp);
    if (!qp.is_datagram()) {
        qp.req.window.skip_unsent();
    }
}

void enter_error(Context& context, QueuePair& qp, ibv_wc_status status, Owed owed)
{
    if (qp.state == IBV_QPS_ERR || qp.state == IBV_QPS_RESET) {
        return;
    }
    bool was_init = qp.state == IBV_QPS_INIT;
    // [virtio-rdma REQ-7]
    qp.state = IBV_QPS_ERR;
    qp.req.rnr_wait = false;
    qp.resp.message = ResponderState::Message::none;
    if (owed == Owed::is_dropped) {
        qp.resp.window.forget_owed();
    }
    context.set_timer(qp, no_deadline);
    if (status != IBV_WC_WR_FLUSH_ERR && !qp.req.window.empty()) {
        complete_send(context, qp, status);
    }
    flush_send_queue(context, qp);
    flush_receive_queue(context, qp);
    if (qp.init.use_srq && !was_init) {
        context.client->async_event(IBV_EVENT_QP_LAST_WQE_REACHED, qp.id);
    }
    context.schedule(qp); // to give back what its queues have used
}

} // namespace rdma::roce
