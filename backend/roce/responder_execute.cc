// SPDX-License-Identifier: GPL-2.0-or-later
//
// A request in its turn is carried out or refused (IBTA vol. 1, 9.7.4.1 and 9.9.3).
#include <algorithm>
#include <span>

#include "request_operation.h"
#include "responder.h"

namespace rdma::roce {

void Responder::execute(QueuePair& qp, const Packet& packet)
{
    ResponderState& resp = qp.resp;
    uint8_t op = packet.operation();
    using Message = ResponderState::Message;
    bool send = is_send(op);
    bool write = is_write(op);
    static constexpr Refusal invalid{aeth_nak_invalid_request, IBV_WC_REM_INV_REQ_ERR,
                                     IBV_EVENT_QP_REQ_ERR};
    // 9.7.4.1.2: an operation that there is; first, middle, last in order, one message at a time.
    // [IBTA 9.7.4.1.2-1]
    if (packet.is_invalid) {
        refuse(qp, invalid);
        return;
    }
    // [IBTA 9.7.4.1.2-2]
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
        // [IBTA C9-92]
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
            // [IBTA 9.8.2.2-3]
            ++_ctx.stats.drop_no_receive;
            resp.drop_message = true;
            resp.message = ResponderState::Message::none;
            resp.window.expect(packet.psn + 1);
            return false;
        }
        // 9.7.5.2.8: receiver not ready; the request will come again.
        // [IBTA 9.7.5.2.8-1]
        resp.window.owe_rnr_nak(
            static_cast<uint8_t>(aeth_rnr_nak | (qp.attr.min_rnr_timer & aeth_value_mask)));
        _ctx.schedule_answer(qp);
        return false;
    }
    if (resp.recv.malformed != IBV_WC_SUCCESS) {
        // [virtio-rdma QUE-25]
        refuse(qp, {aeth_nak_remote_operational, resp.recv.malformed, IBV_EVENT_QP_REQ_ERR});
        return false;
    }
    // [IBTA 9.7.4-1]
    if (for_data && !_ctx.regions.check({resp.recv.sge.data(), resp.recv.num_sge}, qp.init.pd,
                                        IBV_ACCESS_LOCAL_WRITE)) {
        refuse(qp, {aeth_nak_remote_operational, IBV_WC_LOC_PROT_ERR, IBV_EVENT_QP_REQ_ERR});
        return false;
    }
    return true;
}

// [IBTA 9.4.1-1]
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
    // [IBTA 9.7.4.1.6-2]
    if (resp.received + packet.payload.size() >
        // [IBTA 9.7.1-6]
        std::min(resp.recv_length, max_peer_message)) {
        refuse(qp, {aeth_nak_invalid_request, IBV_WC_LOC_LEN_ERR, IBV_EVENT_QP_REQ_ERR});
        return;
    }
    if (!_ctx.regions.scatter({resp.recv.sge.data(), resp.recv.num_sge}, qp.init.pd,
                              resp.received, std::as_bytes(packet.payload))) {
        refuse(qp, {aeth_nak_remote_operational, IBV_WC_LOC_PROT_ERR, IBV_EVENT_QP_REQ_ERR});
        return;
    }
    // [IBTA 9.4.1-2]
    // [virtio-rdma REQ-17] [virtio-rdma REQ-19]
    if (has_invalidate(op) && !_ctx.regions.invalidate(packet.rkey, qp.init.pd, true)) {
        refuse(qp, {aeth_nak_remote_access, IBV_WC_MW_BIND_ERR, IBV_EVENT_QP_ACCESS_ERR});
        return;
    }
    resp.received += packet.payload.size();
    bool done = ends_message(op);
    resp.message = done ? ResponderState::Message::none : ResponderState::Message::send;
    accepted(qp, packet, 1, done);
    if (done) {
        // [IBTA 9.5-5]
        // [virtio-rdma REQ-9]
        finish_receive(qp, packet, IBV_WC_RECV, resp.received);
    }
}

// [IBTA 9.4.3-1]
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
    const MemoryRegion* mr = nullptr; // that holds all that remains
    if (starts_message(op)) {
        address = packet.remote_address;
        rkey = packet.rkey;
        remaining = packet.dma_length;
        received = 0;
        // [IBTA C9-94]
        if (remaining > max_peer_message) {
            refuse(qp, invalid);
            return;
        }
        // [IBTA C9-88]
        if (remaining > 0) {
            mr = _ctx.regions.check(rkey, qp.init.pd, address, remaining, IBV_ACCESS_REMOTE_WRITE);
        }
        // [IBTA 9.7.4.1.5-2]
        if (!(qp.attr.qp_access_flags & IBV_ACCESS_REMOTE_WRITE) || (remaining > 0 && !mr)) {
            refuse(qp, access);
            return;
        }
    }
    // The payload of the last packet ends exactly where RETH said (9.7.4.1.6).
    size_t size = packet.payload.size();
    bool done = ends_message(op);
    // [IBTA 9.7.4.1.6-1]
    if (done ? size != remaining : size >= remaining) {
        refuse(qp, invalid);
        return;
    }
    if (has_immediate(op) && !need_recv(qp, packet, false)) {
        return;
    }
    if (size > 0) {
        if (!mr) {
            mr = _ctx.regions.check(rkey, qp.init.pd, address, size, IBV_ACCESS_REMOTE_WRITE);
        }
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
        // [IBTA 9.4.3-2]
        finish_receive(qp, packet, IBV_WC_RECV_RDMA_WITH_IMM, resp.received);
    }
}

void Responder::execute_read(QueuePair& qp, const Packet& packet)
{
    uint32_t packets = packets_of(packet.dma_length, qp.mtu);
    // [IBTA C9-94]
    if (packet.dma_length > max_peer_message || packets >= max_read_packets || !qp.resp.window.make_room(qp.attr.max_dest_rd_atomic)) {
        refuse(qp, {aeth_nak_invalid_request, IBV_WC_WR_FLUSH_ERR, IBV_EVENT_QP_REQ_ERR});
        return;
    }
    // [IBTA 9.7.4.1.5-2]
    if (!(qp.attr.qp_access_flags & IBV_ACCESS_REMOTE_READ) ||
        // [IBTA C9-88]
        (packet.dma_length > 0 &&
         !_ctx.regions.check(packet.rkey, qp.init.pd, packet.remote_address, packet.dma_length,
                             IBV_ACCESS_REMOTE_READ))) {
        refuse(qp, {aeth_nak_remote_access, IBV_WC_WR_FLUSH_ERR, IBV_EVENT_QP_ACCESS_ERR});
        return;
    }
    if (!qp.resp.window.reserve(qp.attr.max_dest_rd_atomic)) {
        ++_ctx.stats.drop_overload; // as if lost on the way
        return;
    }
    qp.resp.window.remember({false, packet.psn, packets, 0}, qp.attr.max_dest_rd_atomic);
    qp.resp.window.owe(read_response(packet, packets, false));
    accepted(qp, packet, packets, true);
    _ctx.schedule_answer(qp);
}

void Responder::execute_atomic(QueuePair& qp, const Packet& packet)
{
    // 9.7.4.1.3: naturally aligned; resources as for READ.
    // [IBTA 9.7.4.1.3-1]
    if (packet.remote_address % sizeof(uint64_t) != 0 || !qp.resp.window.make_room(qp.attr.max_dest_rd_atomic)) {
        refuse(qp, {aeth_nak_invalid_request, IBV_WC_WR_FLUSH_ERR, IBV_EVENT_QP_REQ_ERR});
        return;
    }
    static constexpr Refusal access{aeth_nak_remote_access, IBV_WC_WR_FLUSH_ERR,
                                    IBV_EVENT_QP_ACCESS_ERR};
    const MemoryRegion* mr =
        // [IBTA 9.7.4.1.5-2]
        qp.attr.qp_access_flags & IBV_ACCESS_REMOTE_ATOMIC
            ? _ctx.regions.check(packet.rkey, qp.init.pd, packet.remote_address, sizeof(uint64_t),
                                 IBV_ACCESS_REMOTE_ATOMIC)
            : nullptr;
    if (!mr) {
        refuse(qp, access);
        return;
    }
    if (!qp.resp.window.reserve(qp.attr.max_dest_rd_atomic)) {
        ++_ctx.stats.drop_overload; // as if lost on the way
        return;
    }
    uint64_t gpa = mr->gpa_of(packet.remote_address);
    uint64_t original = 0;
    bool done = packet.operation() == op_compare_swap
                    // [IBTA 9.4.5-1]
                    ? _ctx.memory.compare_swap(gpa, packet.compare, packet.swap_add, original)
                    // [IBTA 9.4.5-2]
                    : _ctx.memory.fetch_add(gpa, packet.swap_add, original);
    if (!done) {
        refuse(qp, access);
        return;
    }
    qp.resp.window.remember({true, packet.psn, 1, original}, qp.attr.max_dest_rd_atomic);
    qp.resp.window.owe(atomic_response(packet.psn, original, false));
    accepted(qp, packet, 1, true);
    _ctx.schedule_answer(qp);
}

// The expected request has been carried out.
void Responder::accepted(QueuePair& qp, const Packet& packet, uint32_t psns, bool message_done)
{
    qp.resp.window.carried_out(packet.psn + psns, message_done);
    // [IBTA 9.7.2-1] [IBTA 9.8.2.2-1]
    if (qp.is_reliable() && packet.ack_request) {
        qp.resp.window.owe_ack();
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
    // [IBTA 9.2-2]
    // [virtio-rdma REQ-13]
    completion.solicited = packet.solicited;
    completion.network = packet.network;
    if (has_immediate(op)) {
        // [IBTA 9.3.6-1]
        completion.wc.imm_data = packet.immediate;
        completion.wc.wc_flags |= IBV_WC_WITH_IMM;
    } else if (has_invalidate(op)) {
        completion.wc.invalidated_rkey = packet.rkey;
        completion.wc.wc_flags |= IBV_WC_WITH_INV;
    }
    complete_recv(_ctx, qp, completion);
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
    // [IBTA 9.8.2.2-4]
    if (!qp.is_reliable() && !(resp.have_recv && local_fault)) {
        ++_ctx.stats.drop_opcode;
        resp.drop_message = true;
        return;
    }
    // [IBTA 9.9.3-2]
    if (resp.have_recv && refusal.receive_status != IBV_WC_WR_FLUSH_ERR) {
        Completion completion;
        completion.wc.opcode = IBV_WC_RECV;
        completion.wc.status = refusal.receive_status;
        complete_recv(_ctx, qp, completion);
    } else {
        _ctx.client->async_event(refusal.event, qp.id);
    }
    // [IBTA 9.9.3-1] [IBTA 9.7.5.1.3-3]
    // [virtio-rdma REQ-14]
    enter_error(_ctx, qp, IBV_WC_WR_FLUSH_ERR, Owed::is_sent);
    if (qp.is_reliable()) {
        qp.resp.window.owe_nak(refusal.syndrome);
        _ctx.schedule_answer(qp);
    }
}

} // namespace rdma::roce
