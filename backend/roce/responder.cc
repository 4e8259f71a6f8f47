// SPDX-License-Identifier: GPL-2.0-or-later
#include "responder.h"

#include "request_operation.h"

namespace rdma::roce {

void Responder::start(QueuePair& qp)
{
    // [IBTA 9.7.1-2]
    qp.resp.window.start(Psn(qp.attr.rq_psn));
    qp.resp.communication_established = false;
}

void Responder::handle_request(QueuePair& qp, const Packet& packet)
{
    // [IBTA 9.6.1-2]
    if (!qp.can_receive()) {
        ++_ctx.stats.drop_qp_state;
        return;
    }
    if (!check_sequence(qp, packet)) {
        return;
    }
    if (qp.state == IBV_QPS_RTR && !qp.resp.communication_established) {
        qp.resp.communication_established = true;
        _ctx.client->async_event(IBV_EVENT_COMM_EST, qp.id);
    }
    execute(qp, packet);
}

// 9.7.4.1: whether this is the packet expected now.
bool Responder::check_sequence(QueuePair& qp, const Packet& packet)
{
    ResponderState& resp = qp.resp;
    ReceiveWindow::Place place = resp.window.place(packet.psn);
    if (!qp.is_reliable()) {
        // UC: a gap ends the message; the next first packet starts afresh
        // (9.8.2.2.3).
        uint8_t op = packet.operation();
        // [IBTA 9.8.2.2-2]
        if (place != ReceiveWindow::Place::expected || resp.drop_message) {
            resp.message = ResponderState::Message::none;
            resp.drop_message = !starts_message(op);
            if (resp.drop_message) {
                ++_ctx.stats.drop_sequence;
                resp.window.expect(packet.psn + 1);
                return false;
            }
        }
        resp.window.expect(packet.psn);
        return true;
    }
    switch (place) {
    case ReceiveWindow::Place::duplicate:
        ++_ctx.stats.duplicate_requests;
        handle_duplicate(qp, packet);
        return false;
    // [IBTA 9.7.4.1-1]
    case ReceiveWindow::Place::ahead:
        ++_ctx.stats.drop_sequence;
        ++_ctx.stats.out_of_sequence_requests;
        if (resp.window.owe_nak_of_gap()) {
            _ctx.schedule_answer(qp);
        }
        return false;
    // [IBTA 9.5-3]
    case ReceiveWindow::Place::expected:
        break;
    }
    resp.window.arrived();
    return true;
}

Response Responder::read_response(const Packet& packet, uint32_t packets, bool again)
{
    return {.kind = Response::Kind::read,
            .again = again,
            .psn = packet.psn,
            .remaining_packets = packets,
            .started = false,
            .address = packet.remote_address,
            .rkey = packet.rkey,
            .remaining = packet.dma_length,
            .original = 0};
}

Response Responder::atomic_response(Psn psn, uint64_t original, bool again)
{
    return {.kind = Response::Kind::atomic,
            .again = again,
            .psn = psn,
            .remaining_packets = 1,
            .started = false,
            .address = 0,
            .rkey = 0,
            .remaining = 0,
            .original = original};
}

// 9.7.5.1.2 and 9.7.4.2: done before; READs are carried out again, atomics
// answered from the record, all else acknowledged again.
void Responder::handle_duplicate(QueuePair& qp, const Packet& packet)
{
    ReceiveWindow& window = qp.resp.window;
    uint8_t op = packet.operation();
    if (packet.is_invalid) {
        ++_ctx.stats.drop_malformed;
        return;
    }
    // [IBTA 9.7.5.1.2-1]
    if (is_send(op) || is_write(op)) {
        window.owe_ack_of_duplicate(packet.psn);
        _ctx.schedule_answer(qp);
        return;
    }
    bool atomic = op != op_read_request;
    const ResponderResource* resource = window.remembered(packet.psn, atomic);
    // [IBTA 9.7.5.1.2-5]
    if (!resource) {
        ++_ctx.stats.drop_sequence;
        return;
    }
    uint64_t original = resource->original;
    uint32_t packets = atomic ? 1 : packets_of(packet.dma_length, qp.mtu);
    if (!atomic && (packets > resource->end_psn().distance_from(packet.psn) ||
                    (packet.dma_length > 0 &&
                     !_ctx.regions.check(packet.rkey, qp.init.pd, packet.remote_address,
                                         packet.dma_length, IBV_ACCESS_REMOTE_READ)))) {
        return;
    }
    window.forget_answers_from(packet.psn);
    if (!window.make_room(qp.attr.max_dest_rd_atomic) ||
        !window.reserve(qp.attr.max_dest_rd_atomic)) {
        // As if lost on the way: the requester sends faster than it takes the answers.
        ++_ctx.stats.drop_overload;
        return;
    }
    // [IBTA 9.7.5.1.2-3]
    window.owe(atomic ? atomic_response(packet.psn, original, true)
                      // [IBTA 9.7.5.1.2-2]
                      : read_response(packet, packets, true));
    _ctx.schedule_answer(qp);
}

void Responder::build_acknowledge(const QueuePair& qp, Psn psn, uint8_t syndrome)
{
    FrameBuilder& frame =
        _ctx.begin_frame(qp.path, transport_rc | op_acknowledge, qp.attr.dest_qp_num, psn);
    // [IBTA 9.3.5-1]
    frame.header(Aeth{syndrome, qp.resp.window.msn()});
}

void Responder::send_acknowledge(QueuePair& qp, Psn psn, uint8_t syndrome)
{
    build_acknowledge(qp, psn, syndrome);
    _ctx.emit(qp.path);
}

void Responder::acknowledge_last(QueuePair& qp)
{
    if (qp.path.valid() && build_owed(qp)) {
        _ctx.emit_last(qp.path);
    }
}

void Responder::wake(QueuePair& qp)
{
    if (qp.peer_rnr_retry == rnr_retry_infinite) {
        qp.resp.window.owe_nak(aeth_wake); // another NAK of the same packet says no more
    } else {
        qp.resp.window.owe_ack();
    }
    _ctx.schedule_answer(qp);
}

bool Responder::transmit_short(QueuePair& qp)
{
    return !qp.resp.window.sends_read_next() && transmit(qp);
}

// What has no data. False: there is none.
bool Responder::transmit_acknowledge(QueuePair& qp)
{
    if (auto syndrome = qp.resp.window.take_nak()) {
        if ((*syndrome & aeth_type_mask) == aeth_rnr_nak) {
            ++_ctx.stats.rnr_naks_sent;
        } else {
            ++(*syndrome == aeth_nak_sequence ? _ctx.stats.sequence_naks_sent
                                              : _ctx.stats.error_naks_sent);
        }
        send_acknowledge(qp, qp.resp.window.expected(), *syndrome);
        return true;
    }
    if (!build_owed(qp)) {
        return false;
    }
    _ctx.emit(qp.path);
    return true;
}

bool Responder::build_owed(QueuePair& qp)
{
    if (!qp.resp.window.take_ack()) {
        return false;
    }
    ++_ctx.stats.acks_sent;
    build_acknowledge(qp, qp.resp.window.expected() - 1, aeth_ack | aeth_ack_no_credits);
    return true;
}

bool Responder::transmit(QueuePair& qp)
{
    ReceiveWindow& window = qp.resp.window;
    if (!qp.path.valid()) {
        return false;
    }
    if (auto psn = window.take_duplicate_ack()) {
        ++_ctx.stats.acks_sent;
        send_acknowledge(qp, *psn, aeth_ack | aeth_ack_no_credits);
        return true;
    }
    if (window.num_responses() == 0) {
        return transmit_acknowledge(qp);
    }
    Response& response = window.response(0);
    FrameBuilder& frame = _ctx.builder;
    switch (response.kind) {
    case Response::Kind::atomic:
        _ctx.begin_frame(qp.path, transport_rc | op_atomic_acknowledge, qp.attr.dest_qp_num,
                         response.psn);
        frame.header(Aeth{aeth_ack | aeth_ack_no_credits, window.msn()});
        // [IBTA 9.3.5.3-1]
        frame.header(AtomicAckEth{response.original});
        window.pop_response();
        _ctx.emit(qp.path);
        return true;
    case Response::Kind::read:
        break;
    }
    // [IBTA 9.4.4-1]
    uint32_t size = std::min(response.remaining, qp.mtu);
    bool first = !response.started;
    bool last = response.remaining_packets == 1;
    // [IBTA 9.2-1]
    uint8_t op = first ? (last ? op_read_response_only : op_read_response_first)
                       : (last ? op_read_response_last : op_read_response_middle);
    _ctx.begin_frame(qp.path, transport_rc | op, qp.attr.dest_qp_num, response.psn);
    // [IBTA 9.3.5-1]
    if (op != op_read_response_middle) {
        frame.header(Aeth{aeth_ack | aeth_ack_no_credits, window.msn()});
    }
    const MemoryRegion* mr = size == 0 ? nullptr
                                       : _ctx.regions.check(response.rkey, qp.init.pd,
                                                            response.address, size,
                                                            IBV_ACCESS_REMOTE_READ);
    if (size > 0 && (!mr || !_ctx.regions.read(*mr, response.address, frame.payload(size)))) {
        // The region has gone since the request came. An answer sent again is as if lost: the
        // requester may have had the first, and have taken the region back.
        if (response.again) {
            window.pop_response();
            return transmit(qp);
        }
        Psn psn = response.psn;
        window.forget_owed();
        ++_ctx.stats.error_naks_sent;
        if (qp.can_receive()) {
            _ctx.client->async_event(IBV_EVENT_QP_ACCESS_ERR, qp.id);
            enter_error(_ctx, qp);
        }
        send_acknowledge(qp, psn, aeth_nak_remote_access);
        return true;
    }
    response.started = true;
    response.address += size;
    response.remaining -= size;
    ++response.psn;
    if (--response.remaining_packets == 0) {
        window.pop_response();
    }
    _ctx.emit(qp.path);
    return true;
}

} // namespace rdma::roce
