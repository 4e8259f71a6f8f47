// SPDX-License-Identifier: GPL-2.0-or-later
//
// The requester of RC and UC queue pairs (IBTA vol. 1, 9.7.2 - 9.7.6 and
// 9.8.2): turns send requests into packets, and acknowledgements into
// completions.
#pragma once

#include "context.h"

namespace rdma::roce {

// Send requests held by a QP at a time; the rest waits in the guest's ring.
inline constexpr uint32_t max_accepted = 256;
// All QPs together hold no more, but for so many that each may: 256 QPs at full speed. It
// bounds what a guest can have the host keep, and send in a migration.
inline constexpr size_t max_accepted_of_all = 65536;
inline constexpr uint32_t least_accepted = 16;
// An acknowledgement is asked for at least every so many packets.
inline constexpr uint32_t ack_request_interval = 16;
// Longest message, bytes: 2^30, so that at the least MTU its PSNs stay within
// half the PSN space.
inline constexpr uint64_t max_message = 1u << 30;

class Requester {
public:
    explicit Requester(Context& context) : _ctx(context) {}

    // Sends the next packet. False: there is nothing that may be sent now.
    bool transmit(QueuePair& qp);
    // An acknowledgement, READ response or atomic response.
    void handle_response(QueuePair& qp, const Packet& packet);
    // The QP's timer has fired.
    void handle_timeout(QueuePair& qp);
    // Fresh from modify_qp to RTS: PSNs from attr.sq_psn.
    static void start(QueuePair& qp);
    // Back in RTS: the attributes may have changed.
    static void renew_retries(QueuePair& qp);

    // Takes the next request of the guest's ring into qp.req.window.
    bool accept(QueuePair& qp);
    // The VM has been stopped, and what was on its way may be lost: sends all
    // that is not acknowledged again, which is not a retry.
    void resend(QueuePair& qp);

private:
    static bool may_start(const QueuePair& qp, const SendWqe& wqe);
    bool execute_local(QueuePair& qp, SendWqe& wqe);
    bool send_packet(QueuePair& qp, SendWqe& wqe);
    bool wants_ack(QueuePair& qp, bool last);
    void fail_at_turn(QueuePair& qp, SendWqe& wqe, ibv_wc_status status);

    bool advance(QueuePair& qp, Psn psn);
    void complete_acknowledged(QueuePair& qp);
    void complete_done(QueuePair& qp);
    void go_back(QueuePair& qp);
    bool spend_retry(QueuePair& qp);
    void handle_loss(QueuePair& qp);
    void handle_implied_nak(QueuePair& qp);
    void restart_timer(QueuePair& qp);
    void handle_acknowledge(QueuePair& qp, const Packet& packet);
    void handle_wake(QueuePair& qp);
    void handle_rnr(QueuePair& qp, const Packet& packet);
    void handle_data_response(QueuePair& qp, const Packet& packet);

    Context& _ctx;
    SendRequest _scratch;
};

// Whether the QP's type has the operation and the request's length is one that
// it may have (9.2.1, table 35): otherwise, the status it completes with.
ibv_wc_status check_request(const QueuePair& qp, const SendWqe& wqe);
// Nanoseconds of a local ACK timeout code (9.7.6.1.3: 4.096 us * 2^code);
// no_deadline for 0.
int64_t ack_timeout_ns(uint8_t code);
// Nanoseconds of an RNR NAK timer code (9.7.5.2.8, table 45).
int64_t rnr_timer_ns(uint8_t code);

} // namespace rdma::roce
