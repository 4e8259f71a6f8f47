// SPDX-License-Identifier: GPL-2.0-or-later
//
// The state of a queue pair: all there is of it, and nothing else of it lies
// anywhere, so that it can be saved between any two packets.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "growing_ring.h"
#include "memory_region.h"
#include "opcodes.h"
#include "packet.h"
#include "send_window.h"
#include "timer_queue.h"

namespace rdma::roce {

// rnr_retry has 3 bits; this one is for ever (9.7.5.2.8).
inline constexpr uint8_t rnr_retry_infinite = 7;

// A send work request that the requester has accepted.
struct SendWqe {
    uint64_t wr_id;
    int opcode; // ibv_wr_opcode or wr_fast_reg
    unsigned send_flags;
    bool signaled;
    bool initiated;       // its first packet has been sent (or it was executed)
    ibv_wc_status status; // other than success: what it completes with at its turn
    uint32_t immediate;   // immediate data, or the key to invalidate
    uint64_t remote_address;
    uint32_t rkey;
    uint64_t compare_add;
    uint64_t swap;
    uint32_t remote_qpn; // UD
    uint32_t remote_qkey;
    AddressVector av;
    std::vector<ibv_sge> sges;
    uint64_t length;      // bytes
    Psn first_psn;
    uint32_t num_packets; // PSNs it takes (a READ: response packets); 0: local operation

    bool is_read() const { return opcode == IBV_WR_RDMA_READ; }
    bool is_atomic() const { return rdma::is_atomic(opcode); }
    bool has_response() const { return is_read() || is_atomic(); }
    // Whether RequesterState::registration is this one's.
    bool awaits_registration() const
    {
        return opcode == wr_fast_reg && !initiated && status == IBV_WC_SUCCESS;
    }
    Psn end_psn() const { return first_psn + num_packets; } // one past its last
};

// IBTA vol. 1, 9.7: the requester half of an RC or UC QP; of a UD QP only sq
// and cursor are used.
struct RequesterState {
    GrowingRing<SendWqe> sq; // accepted, not completed, oldest first
    size_t cursor = 0;       // in sq: the WQE to send from next
    // What the fast registration in sq asks for that has not been carried out. There is
    // one at most: a request is accepted when all before it have been begun.
    FastRegistration registration;
    Psn next_psn; // of the next WQE accepted
    Psn send_psn; // of the next packet; behind max_psn while sending again
    Psn max_psn;  // one past the highest PSN ever sent
    Psn una_psn;  // oldest not acknowledged
    uint32_t since_ack_request = 0; // packets sent since AckReq was last set
    unsigned outstanding_reads = 0; // initiated READs and atomics not completed
    uint8_t retries_left = 0;
    uint8_t rnr_retries_left = 0;
    bool rnr_wait = false;   // the timer is an RNR timer, not the transport timer
    Psn rnr_psn;             // that the peer was not ready for
    bool recovering = false; // gone back already for what una_psn waits for
    int64_t last_progress = 0; // when una_psn moved; not saved
    SendWindow window;         // not saved: another host, another network
    Timer timer;
};

// A READ or atomic request executed, for when its duplicate comes.
struct ResponderResource {
    bool atomic;
    Psn first_psn;
    uint32_t num_packets;
    uint64_t original; // atomic: the value before

    Psn end_psn() const { return first_psn + num_packets; } // one past its last
};

// The answer to a READ or atomic request that the responder has yet to send.
struct Response {
    enum class Kind : uint8_t { read, atomic } kind;
    bool again;         // sent before: the answer to a duplicate
    Psn psn;            // of the next packet
    uint32_t remaining_packets;
    bool started;       // read: its first packet is out
    uint64_t address;   // read: of the next packet
    uint32_t rkey;
    uint32_t remaining; // read: bytes
    uint64_t original;  // atomic
};

// IBTA vol. 1, 9.7.5 and 9.8.3: the responder half of a QP.
struct ResponderState {
    static constexpr uint8_t no_nak = 0; // the syndrome of an ACK

    enum class Message : uint8_t { none, send, write };

    Psn epsn; // expected
    uint32_t msn = 0;
    Message message = Message::none; // the one that is partly received
    bool drop_message = false; // UC: until the next first packet (9.8.2.2)
    // Acknowledgements to send, after the responses. They say what is so when they are
    // sent: ACK all before epsn; NAK, of this syndrome, the packet with epsn, and ACK
    // all before it. A packet that is carried out takes a NAK back.
    bool ack_pending = false;
    uint8_t nak_pending = no_nak;
    bool nak_sent = false; // or pending; until a packet with epsn comes
    // ACK up to this PSN, before the responses that follow it: a duplicate from before
    // a READ or atomic, whose response may be what the peer waits for.
    std::optional<Psn> duplicate_ack;
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
    // Each at most max_dest_rd_atomic.
    GrowingRing<ResponderResource> resources; // newest last
    GrowingRing<Response> responses;          // in the order of their PSNs

    // As many READs and atomics as the QP may have; the newest are remembered where it
    // had more.
    void make_room(uint8_t max_dest_rd_atomic)
    {
        resources.reserve(max_dest_rd_atomic);
        responses.reserve(max_dest_rd_atomic);
        while (resources.size() > max_dest_rd_atomic) {
            resources.pop_front();
        }
    }
    // Nothing that is owed is sent any more.
    void forget_answers()
    {
        responses.clear();
        ack_pending = false;
        nak_pending = no_nak;
        duplicate_ack.reset();
    }
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
    // one (connection_message.h); else as most have it.
    uint8_t peer_rnr_retry = rnr_retry_infinite;
    // In the engine's lists of QPs with something to send.
    bool scheduled = false;
    bool answering = false;
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
