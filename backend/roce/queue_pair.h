// SPDX-License-Identifier: GPL-2.0-or-later
//
// The state of a queue pair: all there is of it, and nothing else of it lies
// anywhere, so that it can be saved between any two packets.
#pragma once

#include "congestion_window.h"
#include "frame_builder.h"
#include "memory_region.h"
#include "receive_window.h"
#include "send_window.h"
#include "timer_queue.h"

namespace rdma::roce {

// rnr_retry has 3 bits; this one is for ever (9.7.5.2.8).
inline constexpr uint8_t rnr_retry_infinite = 7;

// IBTA vol. 1, 9.7: the requester half of a QP.
struct RequesterState {
    SendWindow window;
    // What the fast registration in the window asks for that has not been carried out. There is
    // one at most: a request is accepted when all before it have been begun.
    FastRegistration registration;
    uint32_t since_ack_request = 0; // packets sent since AckReq was last set
    uint8_t retries_left = 0;
    uint8_t rnr_retries_left = 0;
    bool rnr_wait = false;   // the timer is an RNR timer, not the transport timer
    Psn rnr_psn;             // that the peer was not ready for
    bool recovering = false; // gone back already for what window.una() waits for
    int64_t last_progress = 0; // when window.una() moved; not saved
    CongestionWindow congestion; // not saved: another host, another network
    Timer timer;
};

// IBTA vol. 1, 9.7.5 and 9.8.3: the responder half of a QP.
struct ResponderState {
    enum class Message : uint8_t { none, send, write };

    ReceiveWindow window;
    Message message = Message::none; // the one that is partly received
    bool drop_message = false; // UC: until the next first packet (9.8.2.2)
    bool communication_established = false;
    // The receive request in use.
    bool have_recv = false;
    RecvRequest recv;
    uint64_t recv_length = 0; // bytes its entries hold
    uint64_t received = 0;    // bytes of this message
    // The RDMA WRITE in progress.
    uint64_t write_address = 0;
    uint32_t write_rkey = 0;
    uint32_t write_remaining = 0;
};

struct QueuePair {
    uint32_t id = 0;
    uint32_t qpn = 0;
    QpInit init;
    ibv_qp_state state = IBV_QPS_RESET;
    ibv_qp_attr attr{}; // as set by modify_qp
    Mac dmac{};
    Path path; // connected QPs from RTR on
    uint32_t mtu = 0; // bytes
    // The peer's rnr_retry, where the guest's connection manager has agreed on
    // one (connection_message.h); else, from RTS on, this end's: programs set both alike.
    uint8_t peer_rnr_retry = rnr_retry_infinite;
    bool knows_peer_rnr_retry = false; // agreed on; not saved, for it counts on the way to RTS
    // In the engine's lists of QPs with something to send.
    bool scheduled = false;
    bool answering = false;
    bool requesters_turn = false; // to send last; not saved
    RequesterState req;
    ResponderState resp;

    bool is_datagram() const { return init.type == IBV_QPT_UD; }
    bool is_reliable() const { return init.type == IBV_QPT_RC; }
    uint8_t transport() const
    {
        return is_datagram() ? transport_ud : is_reliable() ? transport_rc : transport_uc;
    }
    bool can_receive() const
    {
        return state == IBV_QPS_RTR || state == IBV_QPS_RTS || state == IBV_QPS_SQD ||
               state == IBV_QPS_SQE;
    }
    bool can_send() const { return state == IBV_QPS_RTS || state == IBV_QPS_SQD; }
};

} // namespace rdma::roce
