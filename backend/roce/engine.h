// SPDX-License-Identifier: GPL-2.0-or-later
//
// The RoCE engine: a state machine without I/O, threads or clock.
//
// Doorbells (Backend), packets (receive) and time (advance) go in; guest
// memory writes, completions (BackendClient), packets (Link) and the next
// deadline come out. Nothing is sent except from run(), which whoever drives
// the engine calls after each input until it returns false.
#pragma once

#include "context.h"
#include "datagram.h"
#include "requester.h"
#include "responder.h"

namespace rdma::roce {

class Engine final : public Backend {
public:
    Engine(const Limits& limits, GuestMemory& memory, Statistics& stats, Link& link);

    // Must be called before anything else.
    void set_client(BackendClient& client) { _ctx.client = &client; }

    // Whether a frame is for one of our addresses. Does not change anything.
    bool wants(std::span<const uint8_t> frame) const;
    // A frame for which wants() was true. now: nanoseconds, never decreasing.
    void receive(std::span<const uint8_t> frame, int64_t now);
    // Lets timers fire, a bounded number of them: next_deadline() may still be
    // in the past.
    void advance(int64_t now);
    // When advance() must be called next, nanoseconds; no_deadline: no need.
    int64_t next_deadline() const { return _ctx.timers.next(); }
    // Whether run() has anything to do.
    bool has_work() const
    {
        return !_ctx.loopback.empty() || (!_ctx.ready.empty() && _ctx.can_emit());
    }
    // Sends at most budget packets. True: there is more to send and the link
    // takes it.
    bool run(int64_t now, unsigned budget);
    // After Link::send has returned false.
    void tx_ready() { _ctx.link_blocked = false; }

    void reset() override;
    Result<uint32_t> alloc_pd() override;
    int dealloc_pd(uint32_t pd) override;
    Result<MrKeys> reg_mr(const MrInit& init) override;
    int dereg_mr(uint32_t mr) override;
    Result<uint32_t> create_cq() override;
    int destroy_cq(uint32_t cq) override;
    Result<uint32_t> create_srq(uint32_t pd, const ibv_srq_attr& attr) override;
    int modify_srq(uint32_t srq, const ibv_srq_attr& attr, int mask) override;
    int query_srq(uint32_t srq, ibv_srq_attr& attr) override;
    int destroy_srq(uint32_t srq) override;
    Result<QpNumbers> create_qp(const QpInit& init) override;
    int modify_qp(uint32_t qp, const ibv_qp_attr& attr, int mask, const Mac& dmac) override;
    int query_qp(uint32_t qp, ibv_qp_attr& attr, Mac& dmac) override;
    int destroy_qp(uint32_t qp) override;
    int add_gid(uint32_t index, const ibv_gid& gid, uint32_t type) override;
    int del_gid(uint32_t index) override;
    void send_doorbell(uint32_t qp) override;
    void recv_doorbell(uint32_t qp) override;
    void srq_doorbell(uint32_t) override {}

private:
    struct Pd {
        uint32_t users = 0;
    };
    struct Cq {
        uint32_t users = 0;
    };
    // MRs know their PD; this is only for counting its users.
    struct MrOwner {
        uint32_t pd;
    };

    QueuePair* find_by_qpn(uint32_t qpn) const;
    void dispatch(const Packet& packet);
    bool transmit(QueuePair& qp);
    int enter_state(QueuePair& qp, ibv_qp_state to);
    void reset_qp(QueuePair& qp);
    void count_qp_users(const QpInit& init, int change);

    Context _ctx;
    Requester _requester;
    Responder _responder;
    Datagram _datagram;
    HandleTable<Pd> _pds;
    HandleTable<Cq> _cqs;
    std::vector<uint32_t> _mr_pd; // by MR id
    HandleTable<QueuePair> _qps;
    std::unique_ptr<QueuePair> _gsi;
    std::vector<uint8_t> _generation; // by QP id
};

} // namespace rdma::roce
