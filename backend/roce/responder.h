// SPDX-License-Identifier: GPL-2.0-or-later
//
// The responder of RC and UC queue pairs (IBTA vol. 1, 9.7.3, 9.7.4, 9.7.5.1
// and 9.8.2.2): carries out a peer's requests in PSN order.
#pragma once

#include "context.h"

namespace rdma::roce {

// Longest message that a peer may send or ask for, bytes (IBTA vol. 1, 9.7.1); our own
// are shorter (max_message).
inline constexpr uint64_t max_peer_message = uint64_t{1} << 31;
// A READ has fewer response packets: half the PSN space (9.7.1).
inline constexpr uint32_t max_read_packets = Psn::half;

class Responder {
public:
    explicit Responder(Context& context) : _ctx(context) {}

    void handle_request(QueuePair& qp, const Packet& packet);
    // Sends the next response packet. False: there is none.
    bool transmit(QueuePair& qp);
    // The same for what is not READ data.
    bool transmit_short(QueuePair& qp);
    // The acknowledgement that is still to be sent by a QP that is destroyed, if there is one: its
    // program may have ended with its last message, and the peer would send that again until its
    // retries are over.
    void acknowledge_last(QueuePair& qp);
    // Tells a peer that it need not wait any more.
    void wake(QueuePair& qp);
    // Fresh from modify_qp to RTR: PSNs from attr.rq_psn.
    static void start(QueuePair& qp);

private:
    // Why a request is refused: what its sender is told, and what becomes of
    // the receive request in use, if any.
    struct Refusal {
        uint8_t syndrome;
        ibv_wc_status receive_status;
        ibv_event_type event; // where there is no receive request
    };

    bool check_sequence(QueuePair& qp, const Packet& packet);
    void handle_duplicate(QueuePair& qp, const Packet& packet);
    void execute(QueuePair& qp, const Packet& packet);
    void execute_send(QueuePair& qp, const Packet& packet);
    void execute_write(QueuePair& qp, const Packet& packet);
    void execute_read(QueuePair& qp, const Packet& packet);
    void execute_atomic(QueuePair& qp, const Packet& packet);
    // The receive request for a message; false: none yet, or refused.
    bool need_recv(QueuePair& qp, const Packet& packet, bool for_data);
    void finish_receive(QueuePair& qp, const Packet& packet, ibv_wc_opcode opcode,
                        uint64_t byte_len);
    void accepted(QueuePair& qp, const Packet& packet, uint32_t psns, bool message_done);
    void refuse(QueuePair& qp, const Refusal& refusal);
    // The answers that are owed for a READ and an atomic; again: the request is a duplicate.
    static Response read_response(const Packet& packet, uint32_t packets, bool again);
    static Response atomic_response(Psn psn, uint64_t original, bool again);
    bool transmit_acknowledge(QueuePair& qp);
    // Puts the acknowledgement that is owed, if there is one, into the context's builder.
    bool build_owed(QueuePair& qp);
    void build_acknowledge(const QueuePair& qp, Psn psn, uint8_t syndrome);
    void send_acknowledge(QueuePair& qp, Psn psn, uint8_t syndrome);

    Context& _ctx;
};

} // namespace rdma::roce
