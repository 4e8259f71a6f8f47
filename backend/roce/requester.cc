// SPDX-License-Identifier: GPL-2.0-or-later
#include "requester.h"

#include <cassert>
#include <span>

namespace rdma::roce {

namespace {

// A duplicate of the last acknowledgement means that the peer's VM was stopped
// only where it comes so long after it; sooner it is a packet repeated.
constexpr int64_t wake_silence_ns = 1'000'000;

// 9.7.5.2.8, table 45, in units of 10 us.
// [IBTA 9.7.5.2.8-4]
constexpr uint32_t rnr_timer_10us[32] = {
    65536, 1,   2,   3,   4,   6,   8,    12,   16,   24,   32,   48,   64,   96,    128,   192,
    256,   384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152};

bool is_write(int opcode)
{
    return opcode == IBV_WR_RDMA_WRITE || opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
}

// The BTH operation of one packet of a SEND or WRITE (9.2.1).
// [IBTA 9.2-1]
uint8_t operation_of(int opcode, bool first, bool last)
{
    switch (opcode) {
    case IBV_WR_SEND:
        return first ? (last ? op_send_only : op_send_first)
                     : (last ? op_send_last : op_send_middle);
    case IBV_WR_SEND_WITH_IMM:
        return first ? (last ? op_send_only_imm : op_send_first)
                     : (last ? op_send_last_imm : op_send_middle);
    case IBV_WR_SEND_WITH_INV:
        return first ? (last ? op_send_only_inv : op_send_first)
                     : (last ? op_send_last_inv : op_send_middle);
    case IBV_WR_RDMA_WRITE_WITH_IMM:
        return first ? (last ? op_write_only_imm : op_write_first)
                     : (last ? op_write_last_imm : op_write_middle);
    default:
        return first ? (last ? op_write_only : op_write_first)
                     : (last ? op_write_last : op_write_middle);
    }
}

} // namespace

// [IBTA C9-140]
int64_t ack_timeout_ns(uint8_t code)
{
    return code == 0 ? no_deadline : int64_t{4096} << (code & 0x1f);
}

int64_t rnr_timer_ns(uint8_t code)
{
    return int64_t{rnr_timer_10us[code & aeth_value_mask]} * 10'000;
}

void Requester::start(QueuePair& qp)
{
    RequesterState& req = qp.req;
    // [IBTA 9.7.1-2]
    req.window.start(Psn(qp.attr.sq_psn));
    req.since_ack_request = 0;
    req.congestion = {};
    renew_retries(qp);
}

// The WQE fails once everything before it has completed.
// [IBTA 9.9.2-1]
void Requester::fail_at_turn(QueuePair& qp, SendWqe& wqe, ibv_wc_status status)
{
    wqe.status = status;
    if (&wqe == &qp.req.window.front()) {
        fail_sends(_ctx, qp, status);
    }
}

// A request's first packet may have to wait (10.8.3.3 and 9.7.3.1).
// [virtio-rdma REQ-12]
bool Requester::may_start(const QueuePair& qp, const SendWqe& wqe)
{
    if (wqe.initiated) {
        return true;
    }
    // [IBTA 9.5-4]
    if ((wqe.send_flags & IBV_SEND_FENCE) && qp.req.window.outstanding_reads() > 0) {
        return false;
    }
    // [IBTA 9.7.3.1-1]
    return !wqe.has_response() || qp.req.window.outstanding_reads() < qp.attr.max_rd_atomic;
}

// LOCAL_INV waits for all that was posted before it: a request before it may
// have to be sent again from the region.
bool Requester::execute_local(QueuePair& qp, SendWqe& wqe)
{
    if (wqe.initiated) {
        qp.req.window.executed(wqe); // what is before it has been sent again
        return true;
    }
    // [virtio-rdma REQ-12] [virtio-rdma REQ-19]
    if (wqe.opcode == IBV_WR_LOCAL_INV && &wqe != &qp.req.window.front()) {
        return false;
    }
    bool done;
    if (wqe.opcode == IBV_WR_LOCAL_INV) {
        done = _ctx.regions.invalidate(wqe.immediate, qp.init.pd, false);
    } else {
        done = _ctx.regions.fast_register(qp.req.registration, qp.init.pd);
    }
    if (!done) {
        // 11.6.2: a memory management operation error.
        fail_at_turn(qp, wqe, IBV_WC_MW_BIND_ERR);
        return true;
    }
    qp.req.window.executed(wqe);
    complete_done(qp);
    return true;
}

// [IBTA 9.5-1]
bool Requester::transmit(QueuePair& qp)
{
    RequesterState& req = qp.req;
    if (!qp.can_send() || req.rnr_wait) {
        return false;
    }
    if (req.window.cursor() == req.window.size() && !accept(qp)) {
        return false;
    }
    SendWqe& wqe = req.window[req.window.cursor()];
    if (wqe.status != IBV_WC_SUCCESS) {
        if (req.window.cursor() == 0) {
            fail_sends(_ctx, qp, wqe.status);
        }
        return false;
    }
    if (!may_start(qp, wqe)) {
        return false;
    }
    if (wqe.num_packets == 0) {
        return execute_local(qp, wqe) && qp.can_send();
    }
    if (qp.is_reliable() && req.window.unacknowledged() >= req.congestion.size()) {
        return false;
    }
    return send_packet(qp, wqe);
}

// Whether to ask for an acknowledgement: where nothing follows that would, now
// and then in a long run, and always when sending again.
// [IBTA 9.2-7]
bool Requester::wants_ack(QueuePair& qp, bool last)
{
    RequesterState& req = qp.req;
    bool ask = ++req.since_ack_request >= ack_request_interval || req.window.sends_again();
    if (last && !ask) {
        size_t following = req.window.cursor() + 1;
        bool more = following < req.window.size() || accept(qp);
        if (more) {
            const SendWqe& next = req.window[following];
            more = next.status == IBV_WC_SUCCESS && next.num_packets > 0 && may_start(qp, next);
        }
        ask = !more;
    }
    // The window is about to close.
    ask |= req.window.unacknowledged() + 1 >= req.congestion.size();
    if (ask) {
        req.since_ack_request = 0;
    }
    return ask;
}

bool Requester::send_packet(QueuePair& qp, SendWqe& first_look)
{
    RequesterState& req = qp.req;
    Psn psn = req.window.send();
    uint32_t packet_index = psn.distance_from(first_look.first_psn);
    uint32_t num_packets = first_look.num_packets;
    bool first = packet_index == 0;
    bool last = packet_index + 1 == num_packets || first_look.has_response();
    bool ask = qp.is_reliable() && !first_look.has_response() && wants_ack(qp, last);
    // Accepting another request may have moved the queue's elements.
    SendWqe& wqe = req.window[req.window.cursor()];

    uint64_t offset = uint64_t{packet_index} * qp.mtu;
    uint8_t operation = wqe.is_read() ? uint8_t{op_read_request}
                        : wqe.opcode == IBV_WR_ATOMIC_CMP_AND_SWP ? uint8_t{op_compare_swap}
                        : wqe.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD
                            ? uint8_t{op_fetch_add}
                            : operation_of(wqe.opcode, first, last);
    auto opcode = static_cast<uint8_t>(qp.transport() | operation);
    FrameBuilder& frame =
        _ctx.begin_frame(qp.path, opcode, qp.attr.dest_qp_num, psn, ask,
                         // [IBTA 9.2-2]
                         last && (wqe.send_flags & IBV_SEND_SOLICITED));
    uint32_t psns = 1;
    if (wqe.is_read()) {
        // A READ sent again asks for what is still missing.
        // [IBTA 9.3.3-1] [IBTA 9.7.3-3]
        // [virtio-rdma REQ-16]
        frame.header(Reth{wqe.remote_address + offset, wqe.rkey,
                          static_cast<uint32_t>(wqe.length - offset)});
        psns = num_packets - packet_index;
    } else if (wqe.is_atomic()) {
        bool swap = wqe.opcode == IBV_WR_ATOMIC_CMP_AND_SWP;
        // [IBTA 9.3.4-1]
        frame.header(AtomicEth{wqe.remote_address, wqe.rkey, swap ? wqe.swap : wqe.compare_add,
                               swap ? wqe.compare_add : 0});
    } else {
        // [IBTA 9.3.3-1]
        if (first && is_write(wqe.opcode)) {
            frame.header(
                Reth{wqe.remote_address, wqe.rkey, static_cast<uint32_t>(wqe.length)});
        }
        if (last && (wqe.opcode == IBV_WR_SEND_WITH_IMM ||
                     wqe.opcode == IBV_WR_RDMA_WRITE_WITH_IMM)) {
            // [IBTA 9.3.6-1]
            ImmDt imm;
            std::memcpy(imm.bytes.data(), &wqe.immediate, sizeof(imm));
            frame.header(imm);
        } else if (last && wqe.opcode == IBV_WR_SEND_WITH_INV) {
            // [IBTA 9.3.7-1]
            frame.header(Ieth{wqe.immediate});
        }
        // [IBTA 9.7.3-1]
        uint64_t size = std::min<uint64_t>(qp.mtu, wqe.length - offset);
        if (!gather(_ctx, qp, wqe, offset, frame.payload(size))) {
            // What is before it did not ask for an acknowledgement, as this request was to.
            req.window.send_last_before_again(wqe);
            fail_at_turn(qp, wqe, IBV_WC_LOC_PROT_ERR);
            return qp.can_send();
        }
    }
    _ctx.stats.retransmitted_packets += req.window.sends_again();
    req.window.sent(wqe, psns, last);
    if (!qp.is_reliable()) {
        // UC: sent is done (9.8.2.1).
        // [IBTA 9.8.2.1-1]
        req.window.acknowledge_sent();
        complete_done(qp);
    } else if (req.timer.deadline == no_deadline) {
        restart_timer(qp);
    }
    _ctx.emit(qp.path);
    return true;
}

void Requester::restart_timer(QueuePair& qp)
{
    int64_t timeout = ack_timeout_ns(qp.attr.timeout);
    bool idle = qp.req.window.send() == qp.req.window.una();
    _ctx.set_timer(qp, idle || timeout == no_deadline ? no_deadline : _ctx.now + timeout);
}

// Everything before psn is acknowledged, as far as that can be (SendWindow::acknowledge). False
// where a READ or atomic stands in the way.
bool Requester::advance(QueuePair& qp, Psn psn)
{
    auto [packets, blocked] = qp.req.window.acknowledge(psn);
    if (packets > 0) {
        qp.req.congestion.acknowledged(packets);
        complete_acknowledged(qp);
    }
    return !blocked;
}

// [IBTA 9.7.6.1.3-3]
void Requester::renew_retries(QueuePair& qp)
{
    qp.req.retries_left = qp.attr.retry_cnt;
    qp.req.rnr_retries_left = qp.attr.rnr_retry;
}

// The peer has acknowledged more: completes that.
void Requester::complete_acknowledged(QueuePair& qp)
{
    RequesterState& req = qp.req;
    renew_retries(qp);
    req.recovering = false;
    req.last_progress = _ctx.now;
    complete_done(qp);
    req.window.skip_acknowledged();
    if (!req.rnr_wait) {
        restart_timer(qp);
    }
}

// Completes the requests that are done, from the oldest on.
// [IBTA 9.5-2]
// [virtio-rdma REQ-6] [virtio-rdma REQ-8]
void Requester::complete_done(QueuePair& qp)
{
    RequesterState& req = qp.req;
    while (!req.window.empty() && req.window.front_is_done()) {
        complete_send(_ctx, qp, IBV_WC_SUCCESS);
    }
    if (qp.state == IBV_QPS_SQD && req.window.empty() && qp.attr.en_sqd_async_notify) {
        qp.attr.en_sqd_async_notify = 0;
        _ctx.client->async_event(IBV_EVENT_SQ_DRAINED, qp.id);
    }
    _ctx.schedule(qp);
}

void Requester::go_back(QueuePair& qp)
{
    qp.req.window.go_back();
    qp.req.recovering = true;
    _ctx.schedule(qp);
    _ctx.set_timer(qp, no_deadline); // the next packet starts it
}

// One retry less (9.7.6.1.3 and 9.7.5.2.8). False: there was none left, and the QP
// is in error.
// [IBTA 9.7.6.1.3-2]
bool Requester::spend_retry(QueuePair& qp)
{
    if (qp.req.retries_left == 0) {
        ++_ctx.stats.retries_exceeded;
        enter_error(_ctx, qp, IBV_WC_RETRY_EXC_ERR);
        return false;
    }
    --qp.req.retries_left;
    return true;
}

// The peer has shown that a packet is missing. Once is enough until window.una() moves.
void Requester::handle_loss(QueuePair& qp)
{
    if (qp.req.recovering || qp.req.rnr_wait || !spend_retry(qp)) {
        return;
    }
    qp.req.congestion.lost();
    go_back(qp);
}

// A response is missing: what came acknowledges a later request (9.7.5.2.1).
// [IBTA 9.7.6-2]
void Requester::handle_implied_nak(QueuePair& qp)
{
    _ctx.stats.implied_naks += !qp.req.recovering && !qp.req.rnr_wait;
    handle_loss(qp);
}

// [IBTA 9.7.6.1.3-1]
void Requester::handle_timeout(QueuePair& qp)
{
    RequesterState& req = qp.req;
    if (!qp.can_send()) {
        return;
    }
    if (req.rnr_wait) {
        resend(qp);
        return;
    }
    if (req.window.all_acknowledged()) {
        return;
    }
    ++_ctx.stats.timeouts;
    if (spend_retry(qp)) {
        req.congestion.timed_out();
        go_back(qp);
    }
}

void Requester::handle_response(QueuePair& qp, const Packet& packet)
{
    RequesterState& req = qp.req;
    if (qp.can_send() && packet.operation() == op_acknowledge &&
        (packet.syndrome & aeth_type_mask) == aeth_ack &&
        packet.psn == req.window.una() - 1) {
        handle_wake(qp);
        return;
    }
    // 9.7.5.1.1: a response to nothing outstanding (a ghost) is dropped. A wake
    // tells what has been carried out, of which the answer may be lost.
    bool wake = packet.operation() == op_acknowledge && packet.syndrome == aeth_wake;
    if (!qp.can_send() || packet.psn < req.window.una() || req.window.all_acknowledged() ||
        // [IBTA 9.7.6-1]
        packet.psn - req.window.max() >= (wake ? 1 : 0)) {
        ++_ctx.stats.drop_sequence;
        return;
    }
    if (packet.operation() == op_acknowledge) {
        handle_acknowledge(qp, packet);
    } else {
        handle_data_response(qp, packet);
    }
}

// The shortest RNR NAK, or the last acknowledgement once more, in the time that
// an RNR NAK asked to wait for: the peer's VM was stopped and goes on, maybe on
// another host. (Without an RNR NAK an acknowledgement is what a slow peer answers
// duplicates with.)
void Requester::handle_wake(QueuePair& qp)
{
    RequesterState& req = qp.req;
    if (!req.rnr_wait || _ctx.now - req.last_progress < wake_silence_ns) {
        ++_ctx.stats.drop_sequence; // a repeated packet
        return;
    }
    ++_ctx.stats.wakes_received;
    req.last_progress = _ctx.now;
    resend(qp);
}

void Requester::resend(QueuePair& qp)
{
    qp.req.rnr_wait = false;
    qp.req.congestion.resume();
    go_back(qp);
}

void Requester::handle_acknowledge(QueuePair& qp, const Packet& packet)
{
    RequesterState& req = qp.req;
    uint8_t type = packet.syndrome & aeth_type_mask;
    // [IBTA 9.7.5.1.3-2]
    Psn acknowledged = type == aeth_ack ? packet.psn + 1 : packet.psn;
    if (!advance(qp, acknowledged)) {
        handle_implied_nak(qp);
        return;
    }
    if (type == aeth_ack) {
        // What the RNR NAK was about has been carried out since.
        if (req.rnr_wait && req.window.una() > req.rnr_psn) {
            resend(qp);
        }
        return;
    }
    if (type == aeth_rnr_nak) {
        if (!req.window.all_acknowledged()) {
            handle_rnr(qp, packet);
        }
        return;
    }
    ibv_wc_status status;
    switch (packet.syndrome) {
    // [IBTA 9.7.6-3]
    case aeth_nak_sequence:
        ++_ctx.stats.sequence_naks_received;
        handle_loss(qp);
        return;
    case aeth_nak_invalid_request:
        status = IBV_WC_REM_INV_REQ_ERR;
        break;
    case aeth_nak_remote_access:
        status = IBV_WC_REM_ACCESS_ERR;
        break;
    case aeth_nak_remote_operational:
        status = IBV_WC_REM_OP_ERR;
        break;
    default:
        // [IBTA 9.7.5.2.1-2]
        return; // reserved (9.7.5.2.1)
    }
    ++_ctx.stats.error_naks_received;
    // [IBTA 9.7.6-4]
    enter_error(_ctx, qp, status);
}

void Requester::handle_rnr(QueuePair& qp, const Packet& packet)
{
    RequesterState& req = qp.req;
    ++_ctx.stats.rnr_naks_received;
    if (req.rnr_wait) {
        if (packet.syndrome == aeth_wake) {
            handle_wake(qp);
        }
        return;
    }
    // The peer lives and hears us, however long it takes: retries are against
    // loss.
    req.retries_left = qp.attr.retry_cnt;
    // [IBTA 9.7.5.2.8-6]
    if (qp.attr.rnr_retry != rnr_retry_infinite) {
        // [IBTA 9.7.5.2.8-5]
        if (req.rnr_retries_left == 0) {
            enter_error(_ctx, qp, IBV_WC_RNR_RETRY_EXC_ERR);
            return;
        }
        --req.rnr_retries_left;
    }
    req.rnr_wait = true;
    req.rnr_psn = packet.psn;
    // [IBTA 9.7.5.2.8-3]
    _ctx.set_timer(qp, _ctx.now + rnr_timer_ns(packet.syndrome));
}

void Requester::handle_data_response(QueuePair& qp, const Packet& packet)
{
    RequesterState& req = qp.req;
    if (!advance(qp, packet.psn)) {
        handle_implied_nak(qp);
        // The rest of an answer of which a part was lost: the peer comes to what has
        // been asked again once it has sent all of it, so that nothing is late yet.
        if (req.timer.deadline != no_deadline && !req.rnr_wait) {
            restart_timer(qp);
        }
        return;
    }
    SendWqe* wqe = req.window.find(packet.psn);
    bool atomic = packet.operation() == op_atomic_acknowledge;
    if (!wqe || !wqe->initiated || !(atomic ? wqe->is_atomic() : wqe->is_read())) {
        // 9.7.5.2.1 (bad response): the connection makes no sense any more.
        enter_error(_ctx, qp, IBV_WC_BAD_RESP_ERR);
        return;
    }
    bool written;
    if (atomic) {
        auto bytes = std::as_bytes(std::span(&packet.original, 1));
        written = _ctx.regions.scatter(wqe->sges, qp.init.pd, 0, bytes);
    } else {
        uint64_t offset = uint64_t{packet.psn.distance_from(wqe->first_psn)} * qp.mtu;
        bool last = packet.psn + 1 == wqe->end_psn();
        bool last_opcode = packet.operation() == op_read_response_last ||
                           packet.operation() == op_read_response_only;
        uint64_t expected = std::min<uint64_t>(qp.mtu, wqe->length - offset);
        // [IBTA 9.7.6-5]
        if (last != last_opcode || packet.payload.size() != expected) {
            enter_error(_ctx, qp, IBV_WC_BAD_RESP_ERR);
            return;
        }
        written = _ctx.regions.scatter(wqe->sges, qp.init.pd, offset,
                                       std::as_bytes(packet.payload));
    }
    if (!written) {
        enter_error(_ctx, qp, IBV_WC_LOC_PROT_ERR);
        return;
    }
    // [virtio-rdma REQ-9]
    req.window.answered(*wqe);
    req.congestion.acknowledged(1);
    complete_acknowledged(qp);
}

} // namespace rdma::roce
