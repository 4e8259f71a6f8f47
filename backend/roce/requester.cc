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
constexpr uint32_t rnr_timer_10us[32] = {
    65536, 1,   2,   3,   4,   6,   8,    12,   16,   24,   32,   48,   64,   96,    128,   192,
    256,   384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152};

std::span<const ibv_sge> sges_of(const SendWqe& wqe)
{
    return wqe.sges;
}

bool is_write(int opcode)
{
    return opcode == IBV_WR_RDMA_WRITE || opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
}

bool is_local(int opcode)
{
    return opcode == IBV_WR_LOCAL_INV || opcode == wr_fast_reg;
}

// The BTH operation of one packet of a SEND or WRITE (9.2.1).
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

// PSNs that have been sent, or sent again, and await an answer.
uint32_t unacknowledged(const RequesterState& req)
{
    return req.send_psn.distance_from(req.una_psn);
}

} // namespace

ibv_wc_status check_request(const QueuePair& qp, const SendWqe& wqe)
{
    switch (wqe.opcode) {
    case IBV_WR_SEND:
    case IBV_WR_SEND_WITH_IMM:
    case IBV_WR_RDMA_WRITE:
    case IBV_WR_RDMA_WRITE_WITH_IMM:
        break;
    case IBV_WR_SEND_WITH_INV:
        if (!qp.is_reliable()) {
            return IBV_WC_LOC_QP_OP_ERR;
        }
        break;
    case IBV_WR_RDMA_READ:
        if (!qp.is_reliable() || qp.attr.max_rd_atomic == 0) {
            return IBV_WC_LOC_QP_OP_ERR;
        }
        break;
    case IBV_WR_ATOMIC_CMP_AND_SWP:
    case IBV_WR_ATOMIC_FETCH_AND_ADD:
        if (!qp.is_reliable() || qp.attr.max_rd_atomic == 0) {
            return IBV_WC_LOC_QP_OP_ERR;
        }
        if (wqe.length != sizeof(uint64_t)) {
            return IBV_WC_LOC_LEN_ERR;
        }
        break;
    case IBV_WR_LOCAL_INV:
    case wr_fast_reg:
        return IBV_WC_SUCCESS;
    default:
        return IBV_WC_LOC_QP_OP_ERR;
    }
    return wqe.length > max_message ? IBV_WC_LOC_LEN_ERR : IBV_WC_SUCCESS;
}

uint32_t packets_of(uint64_t length, uint32_t mtu)
{
    return length == 0 ? 1 : static_cast<uint32_t>((length + mtu - 1) / mtu);
}

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
    req.next_psn = req.send_psn = req.max_psn = req.una_psn = Psn(qp.attr.sq_psn);
    req.since_ack_request = 0;
    req.window = {};
    req.retries_left = qp.attr.retry_cnt;
    req.rnr_retries_left = qp.attr.rnr_retry;
}

bool Requester::accept(QueuePair& qp)
{
    RequesterState& req = qp.req;
    // A QP that is refused one has others, whose completion leads here again.
    if (qp.state != IBV_QPS_RTS || req.sq.size() >= max_accepted ||
        (req.sq.size() >= least_accepted && _ctx.accepted >= max_accepted_of_all)) {
        return false;
    }
    // Room in PSN space for the longest message there may be.
    uint32_t outstanding = req.next_psn.distance_from(req.una_psn);
    if (!qp.is_datagram() &&
        outstanding + max_message / qp.mtu >= Psn::half) {
        return false;
    }
    _scratch.malformed = IBV_WC_SUCCESS;
    if (!_ctx.client->pull_send(qp.id, _scratch)) {
        return false;
    }
    const ibv_send_wr& wr = _scratch.wr;
    SendWqe& wqe = req.sq.push_back(_ctx.wqe_slots);
    ++_ctx.accepted;
    wqe.wr_id = wr.wr_id;
    wqe.opcode = _scratch.opcode;
    wqe.send_flags = wr.send_flags;
    wqe.signaled = qp.init.sq_sig_all || (wr.send_flags & IBV_SEND_SIGNALED);
    wqe.initiated = false;
    wqe.immediate = wr.imm_data;
    wqe.sges.assign(_scratch.sge.begin(), _scratch.sge.begin() + wr.num_sge);
    wqe.length = 0;
    for (const ibv_sge& sge : wqe.sges) {
        wqe.length += sge.length;
    }
    wqe.first_psn = req.next_psn;
    wqe.num_packets = 0;
    wqe.status = _scratch.malformed;
    if (wqe.opcode == wr_fast_reg && wqe.status == IBV_WC_SUCCESS) {
        const auto& reg = _scratch.fast_reg;
        req.registration.iova = reg.iova;
        req.registration.length = reg.length;
        req.registration.key = reg.key;
        req.registration.access = reg.access;
        req.registration.pages.assign(reg.pages.begin(), reg.pages.begin() + reg.num_pages);
    }
    if (wqe.status != IBV_WC_SUCCESS) {
        return true;
    }
    if (qp.is_datagram()) {
        wqe.remote_qpn = wr.wr.ud.remote_qpn;
        wqe.remote_qkey = wr.wr.ud.remote_qkey;
        wqe.av = _scratch.av;
        return true;
    }
    if (wqe.is_atomic()) {
        wqe.remote_address = wr.wr.atomic.remote_addr;
        wqe.rkey = wr.wr.atomic.rkey;
        wqe.compare_add = wr.wr.atomic.compare_add;
        wqe.swap = wr.wr.atomic.swap;
    } else {
        wqe.remote_address = wr.wr.rdma.remote_addr;
        wqe.rkey = wr.wr.rdma.rkey;
    }
    wqe.status = check_request(qp, wqe);
    if (wqe.status == IBV_WC_SUCCESS && !is_local(wqe.opcode) &&
        !_ctx.regions.check(sges_of(wqe), qp.init.pd,
                            wqe.has_response() ? IBV_ACCESS_LOCAL_WRITE : 0)) {
        wqe.status = IBV_WC_LOC_PROT_ERR;
    }
    if (wqe.status == IBV_WC_SUCCESS && !is_local(wqe.opcode)) {
        wqe.num_packets = packets_of(wqe.length, qp.mtu);
        req.next_psn += wqe.num_packets;
    }
    return true;
}

// The WQE fails once everything before it has completed.
void Requester::fail_at_turn(QueuePair& qp, SendWqe& wqe, ibv_wc_status status)
{
    wqe.status = status;
    if (&wqe == &qp.req.sq.front()) {
        enter_error(_ctx, qp, status);
    }
}

// A request's first packet may have to wait (10.8.3.3 and 9.7.3.1).
bool Requester::may_start(QueuePair& qp, SendWqe& wqe)
{
    if (wqe.initiated) {
        return true;
    }
    if ((wqe.send_flags & IBV_SEND_FENCE) && qp.req.outstanding_reads > 0) {
        return false;
    }
    return !wqe.has_response() || qp.req.outstanding_reads < qp.attr.max_rd_atomic;
}

// LOCAL_INV waits for all that was posted before it: a request before it may
// have to be sent again from the region.
bool Requester::execute_local(QueuePair& qp, SendWqe& wqe)
{
    if (wqe.opcode == IBV_WR_LOCAL_INV && &wqe != &qp.req.sq.front()) {
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
    wqe.initiated = true;
    ++qp.req.cursor;
    complete_acknowledged(qp);
    return true;
}

bool Requester::transmit(QueuePair& qp)
{
    RequesterState& req = qp.req;
    if (!qp.can_send() || req.rnr_wait) {
        return false;
    }
    if (req.cursor == req.sq.size() && !accept(qp)) {
        return false;
    }
    SendWqe& wqe = req.sq[req.cursor];
    if (wqe.status != IBV_WC_SUCCESS) {
        if (req.cursor == 0) {
            enter_error(_ctx, qp, wqe.status);
        }
        return false;
    }
    if (!may_start(qp, wqe)) {
        return false;
    }
    if (wqe.num_packets == 0) {
        return execute_local(qp, wqe) && qp.can_send();
    }
    if (qp.is_reliable() && unacknowledged(req) >= req.window.size()) {
        return false;
    }
    return send_packet(qp, wqe);
}

// Whether to ask for an acknowledgement: where nothing follows that would, now
// and then in a long run, and always when sending again.
bool Requester::wants_ack(QueuePair& qp, bool last)
{
    RequesterState& req = qp.req;
    bool ask = ++req.since_ack_request >= ack_request_interval || req.send_psn < req.max_psn;
    if (last && !ask) {
        bool more = req.cursor + 1 < req.sq.size() || accept(qp);
        if (more) {
            const SendWqe& next = req.sq[req.cursor + 1];
            more = next.status == IBV_WC_SUCCESS && next.num_packets > 0 && may_start(qp, req.sq[req.cursor + 1]);
        }
        ask = !more;
    }
    // The window is about to close.
    ask |= unacknowledged(req) + 1 >= req.window.size();
    if (ask) {
        req.since_ack_request = 0;
    }
    return ask;
}

bool Requester::send_packet(QueuePair& qp, SendWqe& first_look)
{
    RequesterState& req = qp.req;
    size_t index = req.cursor;
    uint32_t packet_index = req.send_psn.distance_from(first_look.first_psn);
    uint32_t num_packets = first_look.num_packets;
    bool first = packet_index == 0;
    bool last = packet_index + 1 == num_packets || first_look.has_response();
    bool ask = qp.is_reliable() && !first_look.has_response() && wants_ack(qp, last);
    // Accepting another request may have moved the queue's elements.
    SendWqe& wqe = req.sq[index];

    uint64_t offset = uint64_t{packet_index} * qp.mtu;
    uint8_t operation = wqe.is_read() ? uint8_t{op_read_request}
                        : wqe.opcode == IBV_WR_ATOMIC_CMP_AND_SWP ? uint8_t{op_compare_swap}
                        : wqe.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD
                            ? uint8_t{op_fetch_add}
                            : operation_of(wqe.opcode, first, last);
    auto opcode = static_cast<uint8_t>(qp.transport() | operation);
    FrameBuilder& frame =
        _ctx.begin_frame(qp.path, opcode, qp.attr.dest_qp_num, req.send_psn, ask,
                         last && (wqe.send_flags & IBV_SEND_SOLICITED));
    uint32_t psns = 1;
    if (wqe.is_read()) {
        // A READ sent again asks for what is still missing.
        frame.header(Reth{wqe.remote_address + offset, wqe.rkey,
                          static_cast<uint32_t>(wqe.length - offset)});
        psns = num_packets - packet_index;
    } else if (wqe.is_atomic()) {
        bool swap = wqe.opcode == IBV_WR_ATOMIC_CMP_AND_SWP;
        frame.header(AtomicEth{wqe.remote_address, wqe.rkey, swap ? wqe.swap : wqe.compare_add,
                               swap ? wqe.compare_add : 0});
    } else {
        if (first && is_write(wqe.opcode)) {
            frame.header(
                Reth{wqe.remote_address, wqe.rkey, static_cast<uint32_t>(wqe.length)});
        }
        if (last && (wqe.opcode == IBV_WR_SEND_WITH_IMM ||
                     wqe.opcode == IBV_WR_RDMA_WRITE_WITH_IMM)) {
            ImmDt imm;
            std::memcpy(imm.bytes.data(), &wqe.immediate, sizeof(imm));
            frame.header(imm);
        } else if (last && wqe.opcode == IBV_WR_SEND_WITH_INV) {
            frame.header(Ieth{wqe.immediate});
        }
        uint64_t size = std::min<uint64_t>(qp.mtu, wqe.length - offset);
        if (!_ctx.regions.gather(sges_of(wqe), qp.init.pd, offset, frame.payload(size))) {
            fail_at_turn(qp, wqe, IBV_WC_LOC_PROT_ERR);
            return qp.can_send();
        }
    }
    if (!wqe.initiated) {
        wqe.initiated = true;
        req.outstanding_reads += wqe.has_response();
    }
    if (req.send_psn < req.max_psn) {
        ++_ctx.stats.retransmitted_packets;
    }
    req.send_psn += psns;
    req.max_psn = later_of(req.max_psn, req.send_psn);
    if (last) {
        ++req.cursor;
    }
    if (!qp.is_reliable()) {
        // UC: sent is done (9.8.2.1).
        req.una_psn = req.send_psn;
        complete_acknowledged(qp);
    } else if (req.timer.deadline == no_deadline) {
        restart_timer(qp);
    }
    _ctx.emit(qp.path);
    return true;
}

void Requester::restart_timer(QueuePair& qp)
{
    int64_t timeout = ack_timeout_ns(qp.attr.timeout);
    bool idle = unacknowledged(qp.req) == 0;
    _ctx.set_timer(qp, idle || timeout == no_deadline ? no_deadline : _ctx.now + timeout);
}

SendWqe* Requester::wqe_of(QueuePair& qp, Psn psn)
{
    for (size_t i = 0; i < qp.req.sq.size(); ++i) {
        SendWqe& wqe = qp.req.sq[i];
        if (wqe.num_packets > 0 && psn >= wqe.first_psn &&
            psn < wqe.end_psn()) {
            return &wqe;
        }
    }
    return nullptr;
}

// Everything before psn is acknowledged, as far as that can be: a READ or
// atomic is acknowledged by its response only (9.7.5.1.2). False where one
// whose response has not come stands in the way.
bool Requester::advance(QueuePair& qp, Psn psn)
{
    RequesterState& req = qp.req;
    if (psn <= req.una_psn) {
        return true;
    }
    Psn limit = psn;
    bool blocked = false;
    for (size_t i = 0; i < req.sq.size(); ++i) {
        const SendWqe& wqe = req.sq[i];
        if (wqe.num_packets == 0) {
            continue;
        }
        if (psn <= wqe.first_psn) {
            break;
        }
        if (wqe.has_response() && req.una_psn < wqe.end_psn()) {
            limit = later_of(wqe.first_psn, req.una_psn);
            blocked = true;
            break;
        }
    }
    if (limit > req.una_psn) {
        acknowledge(req, limit);
        complete_acknowledged(qp);
    }
    return !blocked;
}

// All before psn is acknowledged.
void Requester::acknowledge(RequesterState& req, Psn psn)
{
    req.window.acknowledged(psn.distance_from(req.una_psn));
    req.una_psn = psn;
}

// Progress: completes what una_psn has passed.
void Requester::complete_acknowledged(QueuePair& qp)
{
    RequesterState& req = qp.req;
    req.retries_left = qp.attr.retry_cnt;
    req.rnr_retries_left = qp.attr.rnr_retry;
    req.recovering = false;
    req.last_progress = _ctx.now;
    while (!req.sq.empty()) {
        const SendWqe& wqe = req.sq.front();
        bool done = wqe.num_packets > 0 ? req.una_psn >= wqe.end_psn()
                                        : wqe.initiated;
        if (!done || wqe.status != IBV_WC_SUCCESS) {
            break;
        }
        complete_send(_ctx, qp, IBV_WC_SUCCESS);
    }
    if (req.una_psn > req.send_psn) {
        req.send_psn = req.una_psn;
        position_cursor(qp);
    }
    if (qp.is_reliable() && !req.rnr_wait) {
        restart_timer(qp);
    }
    if (qp.state == IBV_QPS_SQD && req.sq.empty() && qp.attr.en_sqd_async_notify) {
        qp.attr.en_sqd_async_notify = 0;
        _ctx.client->async_event(IBV_EVENT_SQ_DRAINED, qp.id);
    }
    _ctx.schedule(qp);
}

void Requester::position_cursor(QueuePair& qp)
{
    RequesterState& req = qp.req;
    for (req.cursor = 0; req.cursor < req.sq.size(); ++req.cursor) {
        const SendWqe& wqe = req.sq[req.cursor];
        if (wqe.num_packets > 0 ? req.send_psn < wqe.end_psn() : !wqe.initiated) {
            break;
        }
    }
}

void Requester::go_back(QueuePair& qp)
{
    qp.req.send_psn = qp.req.una_psn;
    qp.req.recovering = true;
    position_cursor(qp);
    _ctx.schedule(qp);
    _ctx.set_timer(qp, no_deadline); // the next packet starts it
}

// One retry less (9.7.6.1.3 and 9.7.5.2.8). False: there was none left, and the QP
// is in error.
bool Requester::spend_retry(QueuePair& qp)
{
    if (qp.req.retries_left == 0) {
        enter_error(_ctx, qp, IBV_WC_RETRY_EXC_ERR);
        return false;
    }
    --qp.req.retries_left;
    return true;
}

// The peer has shown that a packet is missing. Once is enough until una_psn moves.
void Requester::handle_loss(QueuePair& qp)
{
    if (qp.req.recovering || qp.req.rnr_wait || !spend_retry(qp)) {
        return;
    }
    qp.req.window.lost();
    go_back(qp);
}

// A response is missing: what came acknowledges a later request (9.7.5.2.1).
void Requester::handle_implied_nak(QueuePair& qp)
{
    _ctx.stats.implied_naks += !qp.req.recovering && !qp.req.rnr_wait;
    handle_loss(qp);
}

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
    if (req.una_psn == req.max_psn) {
        return;
    }
    ++_ctx.stats.timeouts;
    if (spend_retry(qp)) {
        req.window.timed_out();
        go_back(qp);
    }
}

void Requester::handle_response(QueuePair& qp, const Packet& packet)
{
    RequesterState& req = qp.req;
    if (qp.can_send() && packet.operation() == op_acknowledge &&
        (packet.syndrome & aeth_type_mask) == aeth_ack &&
        packet.psn == req.una_psn - 1) {
        handle_wake(qp);
        return;
    }
    // 9.7.5.1.1: a response to nothing outstanding (a ghost) is dropped. A wake
    // tells what has been carried out, of which the answer may be lost.
    bool wake = packet.operation() == op_acknowledge && packet.syndrome == aeth_wake;
    if (!qp.can_send() || packet.psn < req.una_psn || req.una_psn == req.max_psn ||
        packet.psn - req.max_psn >= (wake ? 1 : 0)) {
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
    qp.req.window.resume();
    go_back(qp);
}

void Requester::handle_acknowledge(QueuePair& qp, const Packet& packet)
{
    RequesterState& req = qp.req;
    uint8_t type = packet.syndrome & aeth_type_mask;
    Psn acknowledged = type == aeth_ack ? packet.psn + 1 : packet.psn;
    if (!advance(qp, acknowledged)) {
        handle_implied_nak(qp);
        return;
    }
    if (type == aeth_ack) {
        // What the RNR NAK was about has been carried out since.
        if (req.rnr_wait && req.una_psn > req.rnr_psn) {
            resend(qp);
        }
        return;
    }
    if (type == aeth_rnr_nak) {
        if (req.una_psn != req.max_psn) {
            handle_rnr(qp, packet);
        }
        return;
    }
    ibv_wc_status status;
    switch (packet.syndrome) {
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
        return; // reserved (9.7.5.2.1)
    }
    ++_ctx.stats.error_naks_received;
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
    if (qp.attr.rnr_retry != rnr_retry_infinite) {
        if (req.rnr_retries_left == 0) {
            enter_error(_ctx, qp, IBV_WC_RNR_RETRY_EXC_ERR);
            return;
        }
        --req.rnr_retries_left;
    }
    req.rnr_wait = true;
    req.rnr_psn = packet.psn;
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
    SendWqe* wqe = wqe_of(qp, packet.psn);
    bool atomic = packet.operation() == op_atomic_acknowledge;
    if (!wqe || !wqe->initiated || !(atomic ? wqe->is_atomic() : wqe->is_read())) {
        // 9.7.5.2.1 (bad response): the connection makes no sense any more.
        enter_error(_ctx, qp, IBV_WC_BAD_RESP_ERR);
        return;
    }
    bool written;
    if (atomic) {
        auto bytes = std::as_bytes(std::span(&packet.original, 1));
        written = _ctx.regions.scatter(sges_of(*wqe), qp.init.pd, 0, bytes);
    } else {
        uint64_t offset = uint64_t{packet.psn.distance_from(wqe->first_psn)} * qp.mtu;
        bool last = packet.psn + 1 == wqe->end_psn();
        bool last_opcode = packet.operation() == op_read_response_last ||
                           packet.operation() == op_read_response_only;
        uint64_t expected = std::min<uint64_t>(qp.mtu, wqe->length - offset);
        if (last != last_opcode || packet.payload.size() != expected) {
            enter_error(_ctx, qp, IBV_WC_BAD_RESP_ERR);
            return;
        }
        written = _ctx.regions.scatter(sges_of(*wqe), qp.init.pd, offset,
                                       std::as_bytes(packet.payload));
    }
    if (!written) {
        enter_error(_ctx, qp, IBV_WC_LOC_PROT_ERR);
        return;
    }
    acknowledge(req, packet.psn + 1);
    complete_acknowledged(qp);
}

} // namespace rdma::roce
