// SPDX-License-Identifier: GPL-2.0-or-later
#include "responder.h"

#include <span>
#include <utility>

#include "requester.h"

namespace rdma::roce {

namespace {

bool is_first(uint8_t op)
{
    return op == op_send_first || op == op_write_first;
}
bool is_middle(uint8_t op)
{
    return op == op_send_middle || op == op_write_middle;
}
bool is_only(uint8_t op)
{
    return op == op_send_only || op == op_send_only_imm || op == op_send_only_inv ||
           op == op_write_only || op == op_write_only_imm;
}
bool is_send(uint8_t op)
{
    return op <= op_send_only_imm || op == op_send_last_inv || op == op_send_only_inv;
}
bool is_write(uint8_t op)
{
    return op >= op_write_first && op <= op_write_only_imm;
}
bool has_immediate(uint8_t op)
{
    return op == op_send_last_imm || op == op_send_only_imm || op == op_write_last_imm ||
           op == op_write_only_imm;
}
bool has_invalidate(uint8_t op)
{
    return op == op_send_last_inv || op == op_send_only_inv;
}
bool starts_message(uint8_t op)
{
    return is_first(op) || is_only(op);
}
bool ends_message(uint8_t op)
{
    return !is_first(op) && !is_middle(op);
}

// Whether what was carried out last is a READ or an atomic, whose answer is its
// acknowledgement. One without the data must not follow it: where the answer was
// lost, it would be an implied NAK, and Linux's rxe takes it for the answer.
bool ends_with_answer(const ResponderState& resp)
{
    if (resp.resources.empty()) {
        return false;
    }
    const ResponderResource& last = resp.resources[resp.resources.size() - 1];
    return last.end_psn() == resp.epsn;
}

// Forgets READs and atomics of half the PSN space ago: their PSNs are those of later
// packets now, or soon will be.
void forget_old(ResponderState& resp)
{
    while (!resp.resources.empty() &&
           resp.epsn.distance_from(resp.resources.front().first_psn) >= Psn::half) {
        resp.resources.pop_front();
    }
}

} // namespace

void Responder::start(QueuePair& qp)
{
    qp.resp.epsn = Psn(qp.attr.rq_psn);
    qp.resp.msn = 0;
    qp.resp.communication_established = false;
}

void Responder::handle_request(QueuePair& qp, const Packet& packet)
{
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
    int32_t ahead = packet.psn - resp.epsn;
    if (!qp.is_reliable()) {
        // UC: a gap ends the message; the next first packet starts afresh
        // (9.8.2.2.3).
        uint8_t op = packet.operation();
        if (ahead != 0 || resp.drop_message) {
            resp.message = ResponderState::Message::none;
            resp.drop_message = !starts_message(op);
            if (resp.drop_message) {
                ++_ctx.stats.drop_sequence;
                resp.epsn = packet.psn + 1;
                return false;
            }
        }
        resp.epsn = packet.psn;
        return true;
    }
    if (ahead < 0) {
        ++_ctx.stats.duplicate_requests;
        handle_duplicate(qp, packet);
        return false;
    }
    if (ahead > 0) {
        ++_ctx.stats.drop_sequence;
        if (!resp.nak_sent) {
            resp.nak_sent = true;
            send_nak(qp, aeth_nak_sequence);
        }
        return false;
    }
    resp.nak_sent = false;
    resp.nak_pending = ResponderState::no_nak;
    return true;
}

// 9.7.5.1.2 and 9.7.4.2: done before; READs are carried out again, atomics
// answered from the record, all else acknowledged again.
void Responder::handle_duplicate(QueuePair& qp, const Packet& packet)
{
    ResponderState& resp = qp.resp;
    uint8_t op = packet.operation();
    if (is_send(op) || is_write(op)) {
        const auto& resources = resp.resources;
        if (!resources.empty() &&
            packet.psn < resources[resources.size() - 1].first_psn) {
            // The requester may wait for a READ or atomic behind this one; an
            // acknowledgement beyond it would be an implied NAK.
            if (!resp.duplicate_ack || packet.psn > *resp.duplicate_ack) {
                resp.duplicate_ack = packet.psn;
            }
        } else {
            resp.ack_pending = true;
        }
        _ctx.schedule_answer(qp);
        return;
    }
    for (size_t i = 0; i < resp.resources.size(); ++i) {
        const ResponderResource& resource = resp.resources[i];
        int32_t into = packet.psn - resource.first_psn;
        if (into < 0 || into >= static_cast<int32_t>(resource.num_packets) ||
            resource.atomic != (op != op_read_request)) {
            continue;
        }
        if (resource.atomic) {
            truncate_responses(qp, packet.psn);
            if (!make_room(qp)) {
                ++_ctx.stats.drop_overload;
                return;
            }
            push_atomic(qp, packet.psn, resource.original, true);
        } else {
            uint32_t packets = packets_of(packet.dma_length, qp.mtu);
            if (packets > resource.num_packets - static_cast<uint32_t>(into) ||
                (packet.dma_length > 0 &&
                 !_ctx.regions.check(packet.rkey, qp.init.pd, packet.remote_address,
                                     packet.dma_length, IBV_ACCESS_REMOTE_READ))) {
                return;
            }
            truncate_responses(qp, packet.psn);
            if (!make_room(qp)) {
                // As if lost on the way: the requester sends faster than it takes
                // the answers.
                ++_ctx.stats.drop_overload;
                return;
            }
            push_read(qp, packet, packets, true);
        }
        _ctx.schedule_answer(qp);
        return;
    }
    ++_ctx.stats.drop_sequence;
}

// The requester has gone back to psn: it will ask again for all from there on.
void Responder::truncate_responses(QueuePair& qp, Psn psn)
{
    auto& responses = qp.resp.responses;
    for (size_t i = 0; i < responses.size(); ++i) {
        Response& response = responses[i];
        if (response.psn >= psn) {
            responses.truncate(i);
            return;
        }
        if (response.kind == Response::Kind::read &&
            response.psn + response.remaining_packets > psn) {
            // This one is asked for again from its middle on.
            responses.truncate(i);
            return;
        }
    }
}

void Responder::execute(QueuePair& qp, const Packet& packet)
{
    ResponderState& resp = qp.resp;
    uint8_t op = packet.operation();
    using Message = ResponderState::Message;
    bool send = is_send(op);
    bool write = is_write(op);
    static constexpr Refusal invalid{aeth_nak_invalid_request, IBV_WC_REM_INV_REQ_ERR,
                                     IBV_EVENT_QP_REQ_ERR};
    // 9.7.4.1.2: first, middle, last in order, one message at a time.
    bool expected = resp.message == Message::none
                        ? ((!send && !write) || starts_message(op))
                        : (send && resp.message == Message::send && !starts_message(op)) ||
                              (write && resp.message == Message::write && !starts_message(op));
    if (!expected) {
        if (!qp.is_reliable() && starts_message(op)) {
            resp.message = Message::none; // UC: the earlier message is lost
        } else {
            refuse(qp, invalid);
            return;
        }
    }
    // 9.7.4.1.6: only the last packet of a message is not full.
    if (send || write) {
        bool partial = is_first(op) || is_middle(op);
        bool tail = !partial && !is_only(op);
        if (partial ? packet.payload.size() != qp.mtu
                    : packet.payload.size() > qp.mtu || (tail && packet.payload.empty())) {
            refuse(qp, invalid);
            return;
        }
    }
    if (send) {
        execute_send(qp, packet);
    } else if (write) {
        execute_write(qp, packet);
    } else if (op == op_read_request) {
        execute_read(qp, packet);
    } else {
        execute_atomic(qp, packet);
    }
}

bool Responder::need_recv(QueuePair& qp, const Packet& packet, bool for_data)
{
    ResponderState& resp = qp.resp;
    if (!resp.have_recv && !_ctx.pull_recv(qp)) {
        if (!qp.is_reliable()) {
            ++_ctx.stats.drop_no_receive;
            resp.drop_message = true;
            resp.message = ResponderState::Message::none;
            resp.epsn = packet.psn + 1;
            return false;
        }
        // 9.7.5.2.8: receiver not ready; the request will come again.
        resp.nak_sent = true;
        send_nak(qp, static_cast<uint8_t>(aeth_rnr_nak |
                                          (qp.attr.min_rnr_timer & aeth_value_mask)));
        return false;
    }
    if (resp.recv.malformed != IBV_WC_SUCCESS) {
        refuse(qp, {aeth_nak_remote_operational, resp.recv.malformed, IBV_EVENT_QP_REQ_ERR});
        return false;
    }
    if (for_data && !_ctx.regions.check({resp.recv.sge.data(), resp.recv.num_sge}, qp.init.pd,
                                        IBV_ACCESS_LOCAL_WRITE)) {
        refuse(qp, {aeth_nak_remote_operational, IBV_WC_LOC_PROT_ERR, IBV_EVENT_QP_REQ_ERR});
        return false;
    }
    return true;
}

void Responder::execute_send(QueuePair& qp, const Packet& packet)
{
    ResponderState& resp = qp.resp;
    uint8_t op = packet.operation();
    if (starts_message(op)) {
        if (!need_recv(qp, packet, true)) {
            return;
        }
        resp.received = 0;
    }
    if (resp.received + packet.payload.size() >
        std::min(resp.recv_length, max_peer_message)) {
        refuse(qp, {aeth_nak_invalid_request, IBV_WC_LOC_LEN_ERR, IBV_EVENT_QP_REQ_ERR});
        return;
    }
    if (!_ctx.regions.scatter({resp.recv.sge.data(), resp.recv.num_sge}, qp.init.pd,
                              resp.received, std::as_bytes(packet.payload))) {
        refuse(qp, {aeth_nak_remote_operational, IBV_WC_LOC_PROT_ERR, IBV_EVENT_QP_REQ_ERR});
        return;
    }
    if (has_invalidate(op) && !_ctx.regions.invalidate(packet.rkey, qp.init.pd, true)) {
        refuse(qp, {aeth_nak_remote_access, IBV_WC_MW_BIND_ERR, IBV_EVENT_QP_ACCESS_ERR});
        return;
    }
    resp.received += packet.payload.size();
    bool done = ends_message(op);
    resp.message = done ? ResponderState::Message::none : ResponderState::Message::send;
    accepted(qp, packet, 1, done);
    if (done) {
        finish_receive(qp, packet, IBV_WC_RECV, resp.received);
    }
}

void Responder::execute_write(QueuePair& qp, const Packet& packet)
{
    ResponderState& resp = qp.resp;
    uint8_t op = packet.operation();
    static constexpr Refusal access{aeth_nak_remote_access, IBV_WC_WR_FLUSH_ERR,
                                    IBV_EVENT_QP_ACCESS_ERR};
    static constexpr Refusal invalid{aeth_nak_invalid_request, IBV_WC_WR_FLUSH_ERR,
                                     IBV_EVENT_QP_REQ_ERR};
    uint64_t address = resp.write_address;
    uint32_t rkey = resp.write_rkey;
    uint32_t remaining = resp.write_remaining;
    uint64_t received = resp.received;
    if (starts_message(op)) {
        address = packet.remote_address;
        rkey = packet.rkey;
        remaining = packet.dma_length;
        received = 0;
        if (remaining > max_peer_message) {
            refuse(qp, invalid);
            return;
        }
        if (!(qp.attr.qp_access_flags & IBV_ACCESS_REMOTE_WRITE) ||
            (remaining > 0 && !_ctx.regions.check(rkey, qp.init.pd, address, remaining,
                                                  IBV_ACCESS_REMOTE_WRITE))) {
            refuse(qp, access);
            return;
        }
    }
    // The payload of the last packet ends exactly where RETH said (9.7.4.1.6).
    size_t size = packet.payload.size();
    bool done = ends_message(op);
    if (done ? size != remaining : size >= remaining) {
        refuse(qp, invalid);
        return;
    }
    if (has_immediate(op) && !need_recv(qp, packet, false)) {
        return;
    }
    if (size > 0) {
        const MemoryRegion* mr =
            _ctx.regions.check(rkey, qp.init.pd, address, size, IBV_ACCESS_REMOTE_WRITE);
        if (!mr || !_ctx.regions.write(*mr, address, std::as_bytes(packet.payload))) {
            refuse(qp, access);
            return;
        }
    }
    resp.write_address = address + size;
    resp.write_rkey = rkey;
    resp.write_remaining = remaining - static_cast<uint32_t>(size);
    resp.received = received + size;
    resp.message = done ? ResponderState::Message::none : ResponderState::Message::write;
    accepted(qp, packet, 1, done);
    if (has_immediate(op)) {
        finish_receive(qp, packet, IBV_WC_RECV_RDMA_WITH_IMM, resp.received);
    }
}

// 9.7.4.1.7: whether a READ or atomic more is within this QP's resources. The
// requester has had the answers that it asked for again, or it would not ask
// for more: they need not be sent.
bool Responder::make_room(QueuePair& qp)
{
    auto& responses = qp.resp.responses;
    while (responses.size() >= qp.attr.max_dest_rd_atomic && !responses.empty() &&
           responses.front().again) {
        responses.pop_front();
    }
    return responses.size() < qp.attr.max_dest_rd_atomic;
}

void Responder::execute_read(QueuePair& qp, const Packet& packet)
{
    uint32_t packets = packets_of(packet.dma_length, qp.mtu);
    if (packet.dma_length > max_peer_message || packets >= max_read_packets || !make_room(qp)) {
        refuse(qp, {aeth_nak_invalid_request, IBV_WC_WR_FLUSH_ERR, IBV_EVENT_QP_REQ_ERR});
        return;
    }
    if (!(qp.attr.qp_access_flags & IBV_ACCESS_REMOTE_READ) ||
        (packet.dma_length > 0 &&
         !_ctx.regions.check(packet.rkey, qp.init.pd, packet.remote_address, packet.dma_length,
                             IBV_ACCESS_REMOTE_READ))) {
        refuse(qp, {aeth_nak_remote_access, IBV_WC_WR_FLUSH_ERR, IBV_EVENT_QP_ACCESS_ERR});
        return;
    }
    remember(qp, {false, packet.psn, packets, 0});
    push_read(qp, packet, packets, false);
    accepted(qp, packet, packets, true);
    _ctx.schedule_answer(qp);
}

void Responder::execute_atomic(QueuePair& qp, const Packet& packet)
{
    // 9.7.4.1.3: naturally aligned; resources as for READ.
    if (packet.remote_address % sizeof(uint64_t) != 0 || !make_room(qp)) {
        refuse(qp, {aeth_nak_invalid_request, IBV_WC_WR_FLUSH_ERR, IBV_EVENT_QP_REQ_ERR});
        return;
    }
    static constexpr Refusal access{aeth_nak_remote_access, IBV_WC_WR_FLUSH_ERR,
                                    IBV_EVENT_QP_ACCESS_ERR};
    const MemoryRegion* mr =
        qp.attr.qp_access_flags & IBV_ACCESS_REMOTE_ATOMIC
            ? _ctx.regions.check(packet.rkey, qp.init.pd, packet.remote_address, sizeof(uint64_t),
                                 IBV_ACCESS_REMOTE_ATOMIC)
            : nullptr;
    if (!mr) {
        refuse(qp, access);
        return;
    }
    uint64_t gpa = mr->gpa_of(packet.remote_address);
    uint64_t original = 0;
    bool done = packet.operation() == op_compare_swap
                    ? _ctx.memory.compare_swap(gpa, packet.compare, packet.swap_add, original)
                    : _ctx.memory.fetch_add(gpa, packet.swap_add, original);
    if (!done) {
        refuse(qp, access);
        return;
    }
    remember(qp, {true, packet.psn, 1, original});
    push_atomic(qp, packet.psn, original, false);
    accepted(qp, packet, 1, true);
    _ctx.schedule_answer(qp);
}

void Responder::remember(QueuePair& qp, const ResponderResource& resource)
{
    auto& resources = qp.resp.resources;
    if (resources.size() >= qp.attr.max_dest_rd_atomic) {
        resources.pop_front();
    }
    resources.push_back(resource);
}

void Responder::push_read(QueuePair& qp, const Packet& packet, uint32_t packets, bool again)
{
    qp.resp.responses.push_back({.kind = Response::Kind::read,
                                 .again = again,
                                 .psn = packet.psn,
                                 .remaining_packets = packets,
                                 .started = false,
                                 .address = packet.remote_address,
                                 .rkey = packet.rkey,
                                 .remaining = packet.dma_length,
                                 .original = 0});
}

void Responder::push_atomic(QueuePair& qp, Psn psn, uint64_t original, bool again)
{
    qp.resp.responses.push_back({.kind = Response::Kind::atomic,
                                 .again = again,
                                 .psn = psn,
                                 .remaining_packets = 1,
                                 .started = false,
                                 .address = 0,
                                 .rkey = 0,
                                 .remaining = 0,
                                 .original = original});
}

// The request at epsn has been carried out.
void Responder::accepted(QueuePair& qp, const Packet& packet, uint32_t psns, bool message_done)
{
    ResponderState& resp = qp.resp;
    resp.epsn = packet.psn + psns;
    forget_old(resp);
    if (message_done) {
        resp.msn = (resp.msn + 1) & msn_mask;
    }
    if (qp.is_reliable() && packet.ack_request) {
        resp.ack_pending = true;
        _ctx.schedule_answer(qp);
    }
}

void Responder::finish_receive(QueuePair& qp, const Packet& packet, ibv_wc_opcode opcode,
                               uint64_t byte_len)
{
    uint8_t op = packet.operation();
    Completion completion;
    completion.wc.status = IBV_WC_SUCCESS;
    completion.wc.opcode = opcode;
    completion.wc.byte_len = static_cast<uint32_t>(byte_len);
    completion.wc.src_qp = qp.attr.dest_qp_num;
    completion.solicited = packet.solicited;
    completion.network = packet.network;
    if (has_immediate(op)) {
        completion.wc.imm_data = packet.immediate;
        completion.wc.wc_flags |= IBV_WC_WITH_IMM;
    } else if (has_invalidate(op)) {
        completion.wc.invalidated_rkey = packet.rkey;
        completion.wc.wc_flags |= IBV_WC_WITH_INV;
    }
    complete_recv(_ctx, qp, completion);
}

void Responder::send_nak(QueuePair& qp, uint8_t syndrome)
{
    qp.resp.nak_pending = syndrome;
    _ctx.schedule_answer(qp);
}

// 9.9.3: the requester is told, the receive request in use fails, and the QP
// goes to the error state. UC tells nobody and goes on with the next message
// (9.9.3, classes D and E).
void Responder::refuse(QueuePair& qp, const Refusal& refusal)
{
    ResponderState& resp = qp.resp;
    resp.message = ResponderState::Message::none;
    bool local_fault = refusal.receive_status != IBV_WC_REM_INV_REQ_ERR &&
                       refusal.receive_status != IBV_WC_WR_FLUSH_ERR;
    if (!qp.is_reliable() && !(resp.have_recv && local_fault)) {
        ++_ctx.stats.drop_opcode;
        resp.drop_message = true;
        return;
    }
    if (resp.have_recv && refusal.receive_status != IBV_WC_WR_FLUSH_ERR) {
        Completion completion;
        completion.wc.opcode = IBV_WC_RECV;
        completion.wc.status = refusal.receive_status;
        complete_recv(_ctx, qp, completion);
    } else {
        _ctx.client->async_event(refusal.event, qp.id);
    }
    enter_error(_ctx, qp, IBV_WC_WR_FLUSH_ERR, Owed::is_sent);
    if (qp.is_reliable()) {
        send_nak(qp, refusal.syndrome);
    }
}

void Responder::build_acknowledge(const QueuePair& qp, Psn psn, uint8_t syndrome)
{
    FrameBuilder& frame =
        _ctx.begin_frame(qp.path, transport_rc | op_acknowledge, qp.attr.dest_qp_num, psn);
    frame.header(Aeth{syndrome, qp.resp.msn});
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
        send_nak(qp, aeth_wake); // another NAK of the same packet says no more
    } else {
        qp.resp.ack_pending = true;
        _ctx.schedule_answer(qp);
    }
}

bool Responder::transmit_short(QueuePair& qp)
{
    auto& responses = qp.resp.responses;
    bool long_one = !responses.empty() && responses.front().kind == Response::Kind::read;
    if (long_one && qp.resp.duplicate_ack) {
        long_one = *qp.resp.duplicate_ack >= responses.front().psn;
    }
    return !long_one && transmit(qp);
}

// What has no data. False: there is none.
bool Responder::transmit_acknowledge(QueuePair& qp)
{
    ResponderState& resp = qp.resp;
    if (resp.nak_pending != ResponderState::no_nak) {
        uint8_t syndrome = std::exchange(resp.nak_pending, ResponderState::no_nak);
        resp.ack_pending = false; // a NAK acknowledges all before it
        if ((syndrome & aeth_type_mask) == aeth_rnr_nak) {
            ++_ctx.stats.rnr_naks_sent;
        } else {
            ++(syndrome == aeth_nak_sequence ? _ctx.stats.sequence_naks_sent
                                             : _ctx.stats.error_naks_sent);
        }
        send_acknowledge(qp, resp.epsn, syndrome);
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
    ResponderState& resp = qp.resp;
    if (!std::exchange(resp.ack_pending, false) || ends_with_answer(resp)) {
        return false;
    }
    ++_ctx.stats.acks_sent;
    build_acknowledge(qp, resp.epsn - 1, aeth_ack | aeth_ack_no_credits);
    return true;
}

bool Responder::transmit(QueuePair& qp)
{
    ResponderState& resp = qp.resp;
    if (!qp.path.valid()) {
        return false;
    }
    if (resp.duplicate_ack && (resp.responses.empty() ||
                               *resp.duplicate_ack < resp.responses.front().psn)) {
        ++_ctx.stats.acks_sent;
        send_acknowledge(qp, *std::exchange(resp.duplicate_ack, std::nullopt),
                         aeth_ack | aeth_ack_no_credits);
        return true;
    }
    if (resp.responses.empty()) {
        return transmit_acknowledge(qp);
    }
    Response& response = resp.responses.front();
    FrameBuilder& frame = _ctx.builder;
    switch (response.kind) {
    case Response::Kind::atomic:
        _ctx.begin_frame(qp.path, transport_rc | op_atomic_acknowledge, qp.attr.dest_qp_num,
                         response.psn);
        frame.header(Aeth{aeth_ack | aeth_ack_no_credits, resp.msn});
        frame.header(AtomicAckEth{response.original});
        resp.responses.pop_front();
        _ctx.emit(qp.path);
        return true;
    case Response::Kind::read:
        break;
    }
    uint32_t size = std::min(response.remaining, qp.mtu);
    bool first = !response.started;
    bool last = response.remaining_packets == 1;
    uint8_t op = first ? (last ? op_read_response_only : op_read_response_first)
                       : (last ? op_read_response_last : op_read_response_middle);
    _ctx.begin_frame(qp.path, transport_rc | op, qp.attr.dest_qp_num, response.psn);
    if (op != op_read_response_middle) {
        frame.header(Aeth{aeth_ack | aeth_ack_no_credits, resp.msn});
    }
    const MemoryRegion* mr = size == 0 ? nullptr
                                       : _ctx.regions.check(response.rkey, qp.init.pd,
                                                            response.address, size,
                                                            IBV_ACCESS_REMOTE_READ);
    if (size > 0 && (!mr || !_ctx.regions.read(*mr, response.address, frame.payload(size)))) {
        // The region has gone since the request came.
        Psn psn = response.psn;
        resp.forget_answers();
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
        resp.responses.pop_front();
    }
    _ctx.emit(qp.path);
    return true;
}

} // namespace rdma::roce
