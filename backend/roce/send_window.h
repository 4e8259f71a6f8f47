// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a requester has accepted and not completed (IBTA vol. 1, 9.7.2 and 9.7.6): its requests in
// the order they were posted, the PSNs they take, and how far they have been sent and acknowledged:
//
//     una <= send <= max <= next
//
// una: the oldest PSN that is not acknowledged. send: the next to send. max: one past the highest
// ever sent; what lies before it is sent again. next: the first PSN of the request accepted next.
// Requests without PSNs (local operations, those that fail before they are sent) have their turn
// among the others. Of a UD QP's window only the requests and next are used.
#pragma once

#include <utility>
#include <vector>

#include "growing_ring.h"
#include "memory_region.h"
#include "opcodes.h"
#include "psn.h"

namespace rdma::roce {

struct RequesterState;

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
    std::vector<std::byte> inline_data; // in place of them
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
    bool has(Psn psn) const { return psn >= first_psn && psn < end_psn(); }
};

class SendWindow {
public:
    // The next PSN of all is first. There are no requests.
    void start(Psn first) { _next = _send = _max = _una = first; }

    Psn una() const { return _una; }
    Psn send() const { return _send; }
    Psn max() const { return _max; }
    Psn next() const { return _next; }
    // PSNs that requests have taken and that are not acknowledged.
    uint32_t outstanding() const { return _next.distance_from(_una); }
    // Whether all that has ever been sent is acknowledged.
    bool all_acknowledged() const { return _una == _max; }
    // Whether the next packet has been sent before.
    bool sends_again() const { return _send < _max; }
    // Packets that have been sent, or sent again, and await an answer. A READ is one until its last
    // answer comes.
    uint32_t unacknowledged() const { return _send.distance_from(_una) - _answers_ahead; }
    // READs and atomics begun and not completed.
    unsigned outstanding_reads() const { return _outstanding_reads; }

    // The requests, oldest first.
    size_t size() const { return _requests.size(); }
    bool empty() const { return _requests.empty(); }
    SendWqe& operator[](size_t i) { return _requests[i]; }
    const SendWqe& operator[](size_t i) const { return _requests[i]; }
    SendWqe& front() { return _requests.front(); }
    const SendWqe& front() const { return _requests[0]; }
    // A request more, of which first_psn and num_packets are set. May move the others.
    SendWqe& push(SlotPool<SendWqe>& pool)
    {
        SendWqe& wqe = _requests.push_back(pool);
        wqe.initiated = false;
        wqe.first_psn = _next;
        wqe.num_packets = 0;
        return wqe;
    }
    // The newest request takes so many PSNs.
    // [IBTA 9.7.1-3]
    void number(SendWqe& newest, uint32_t packets)
    {
        newest.num_packets = packets;
        _next += packets;
    }
    // Takes out the oldest one.
    void pop()
    {
        const SendWqe& wqe = front();
        _outstanding_reads -= wqe.has_response() && wqe.initiated;
        _requests.pop_front();
        if (_cursor > 0) {
            --_cursor;
        }
        if (_requests.empty()) {
            _answers_ahead = 0;
        }
    }
    // Gives the memory of an empty window back.
    void release(SlotPool<SendWqe>& pool) { _requests.release(pool); }

    // The request to send from next, as an index; size() where all have been sent.
    size_t cursor() const { return _cursor; }
    // A packet of the request at the cursor has been sent, which takes so many PSNs. last: of it.
    void sent(SendWqe& wqe, uint32_t psns, bool last)
    {
        if (!wqe.initiated) {
            wqe.initiated = true;
            _outstanding_reads += wqe.has_response();
        }
        _answers_ahead += psns - 1;
        _send += psns;
        _max = later_of(_max, _send);
        _cursor += last;
    }
    // The local operation at the cursor has been carried out.
    void executed(SendWqe& wqe)
    {
        wqe.initiated = true;
        ++_cursor;
    }
    // Sends all that is not acknowledged again.
    // [IBTA 9.7.3-2]
    void go_back() { return_to(_una); }
    // Sends the packet before the request again, where it is not acknowledged and not that of a READ
    // or atomic, whose response is awaited in any case.
    void send_last_before_again(const SendWqe& wqe);
    // A UC QP whose send queue has failed goes on with the PSN that follows what it has sent
    // (empty otherwise).
    void skip_unsent() { start(_max); }

    // The oldest requests need no answer any more: everything before psn is acknowledged, as far
    // as that can be: a READ or atomic is acknowledged by its response only (9.7.5.1.2). blocked:
    // one whose response has not come stands in the way. packets: those acknowledged by this.
    struct Acknowledged {
        uint32_t packets;
        bool blocked;
    };
    Acknowledged acknowledge(Psn psn);
    // The response with una's PSN has come, of this READ or atomic.
    void answered(const SendWqe& wqe)
    {
        // An answer that the request sent again has not asked for yet ends what that will ask for.
        if (_una < _send && _una + 1 != wqe.end_psn()) {
            --_answers_ahead;
        }
        ++_una;
    }
    // The PSN of a datagram, which awaits no answer.
    Psn take_psn() { return std::exchange(_next, _next + 1); }
    // UC: sent is done (9.8.2.1).
    void acknowledge_sent() { _una = _send; }
    // Whether the oldest request is done.
    bool front_is_done() const
    {
        const SendWqe& wqe = front();
        return wqe.status == IBV_WC_SUCCESS &&
               (wqe.num_packets > 0 ? _una >= wqe.end_psn() : wqe.initiated);
    }
    // What has been acknowledged need not be sent (again).
    void skip_acknowledged()
    {
        if (_una > _send) {
            return_to(_una);
        }
    }
    // The request with the PSN, null: none.
    SendWqe* find(Psn psn);

    // After a state has been read into it: computes the rest. Not null: what is wrong with it.
    // are_connected: whether PSNs count.
    const char* restore(bool are_connected);

private:
    template <typename Archive>
    friend void describe(Archive& a, RequesterState& req, int64_t& remaining);

    void return_to(Psn psn);
    // Puts the cursor where _send is.
    void position_cursor();

    GrowingRing<SendWqe> _requests;
    size_t _cursor = 0;
    Psn _next;
    Psn _send;
    Psn _max;
    Psn _una;
    unsigned _outstanding_reads = 0;
    uint32_t _answers_ahead = 0; // PSNs from una to send that only READs' answers have
};

} // namespace rdma::roce
