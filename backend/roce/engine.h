// SPDX-License-Identifier: GPL-2.0-or-later
//
// The RoCE engine: a state machine without I/O, threads or clock.
//
// Doorbells (Backend), packets (receive) and time (advance) go in; guest
// memory writes, completions (BackendClient), packets (Link) and the next
// deadline come out. Nothing is sent except from run(), which whoever drives
// the engine calls after each input until it returns false.
#pragma once

#include <map>

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

    // Whether a frame is for one of our addresses; its layers are found, if so. Does not change
    // anything.
    bool wants(std::span<const uint8_t> frame, Layers& layers) const;
    bool wants(std::span<const uint8_t> frame) const
    {
        Layers layers;
        return wants(frame, layers);
    }
    // A frame for which wants() was true, with the layers that it has found. now: nanoseconds,
    // never decreasing.
    void receive(std::span<const uint8_t> frame, const Layers& layers, int64_t now);
    void receive(std::span<const uint8_t> frame, int64_t now);
    // The beginning of a frame that the port's network card sends: tells which
    // VLAN its address is on. Not called for frames of our own.
    void observe_sent(std::span<const uint8_t> head);
    // Lets timers fire, a bounded number of them: next_deadline() may still be
    // in the past.
    void advance(int64_t now);
    // When advance() must be called next, nanoseconds; no_deadline: no need.
    int64_t next_deadline() const { return _ctx.timers.next(); }
    // Whether run() has anything to do.
    bool has_work() const
    {
        return !_ctx.resting &&
               (!_ctx.loopback.empty() || !_ctx.overrun_cqs.empty() || !_ctx.failing_qps.empty() ||
                ((!_ctx.last_frames.empty() || !_ctx.answering.empty() || !_ctx.ready.empty()) &&
                 _ctx.can_emit()));
    }
    // Sends at most budget packets. True: there is more to send and the link
    // takes it.
    bool run(int64_t now, unsigned budget);
    // After Link::send has returned false.
    void tx_ready() { _ctx.link_blocked = false; }

    // While it rests, run() does nothing; one that is under way, of whose packets one has led
    // here, leaves after that packet.
    void set_resting(bool resting) { _ctx.resting = resting; }
    bool is_resting() const { return _ctx.resting; }

    // The VM stops, and guest memory rests with it: packets of the device to
    // itself are taken in, and nothing but receive_stopped() is called any more
    // until start(). May be called from Link::send, within run().
    void stop(int64_t now);
    // A frame for which wants() was true while stopped: a peer's request is
    // answered with RNR NAK, which does not use up the peer's retry counter
    // (9.7.5.2.8); all else is dropped, as if lost.
    void receive_stopped(std::span<const uint8_t> frame);
    // The VM runs again, here or on another host: each peer is told by an
    // acknowledgement, and what was on its way is sent again.
    void start(int64_t now);

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
    void fail_qp(uint32_t qp) override { _ctx.failing_qps.push_back(qp); }
    int add_gid(uint32_t index, const ibv_gid& gid, uint32_t type,
                std::optional<uint16_t> vlan = {}) override;
    int del_gid(uint32_t index) override;
    void send_doorbell(uint32_t qp) override;
    void recv_doorbell(uint32_t qp) override;
    void srq_doorbell(uint32_t) override {}
    bool exists(ObjectKind kind, uint32_t id) const override;
    size_t count(ObjectKind kind) const override;
    void save(migration::StreamWriter& stream) override;
    migration::Status load(const migration::Section& section) override;

private:
    struct Pd {
        uint32_t users = 0;
    };

    QueuePair* find(uint32_t id) const { return id == gsi_qpn ? _gsi.get() : _qps.find(id); }
    QueuePair* find_by_qpn(uint32_t qpn) const;
    template <typename Fn>
    void for_each_qp(Fn&& fn) const
    {
        if (_gsi) {
            fn(*_gsi);
        }
        _qps.for_each([&](uint32_t, QueuePair& qp) { fn(qp); });
    }
    Timer* find_timer(uint32_t id) const;
    void count_received(std::span<const uint8_t> frame);
    void receive_own(int64_t now);
    void send_last();
    void dispatch(const Packet& packet);
    static bool is_from_peer(const QueuePair& qp, const Packet& packet);
    QueuePair* next_of(GrowingRing<uint32_t>& list, bool QueuePair::*listed);
    bool answer(unsigned& budget);
    bool transmit(QueuePair& qp);
    void fail_qps_of_overrun_cqs(unsigned& budget);
    void fail_qps(unsigned& budget);
    bool uses_overrun_cq(const QueuePair& qp) const;
    ibv_mtu max_path_mtu() const;
    int enter_state(QueuePair& qp, ibv_qp_state to);
    void reset_qp(QueuePair& qp);
    void reserve_turns();
    void count_qp_users(const QpInit& init, int change);
    bool has_parts_of(const QpInit& init) const;

    // engine_state.cc
    migration::Status load_port(const migration::Section& section);
    migration::Status load_gid(const migration::Section& section);
    migration::Status load_pd(const migration::Section& section);
    migration::Status load_mr(const migration::Section& section);
    migration::Status load_cq(const migration::Section& section);
    migration::Status load_srq(const migration::Section& section);
    migration::Status load_inline(const migration::Section& section);
    void take_loaded_inline(QueuePair& qp);
    migration::Status load_qp(const migration::Section& section);
    migration::Status load_overrun(const migration::Section& section);
    migration::Status load_numbers(const migration::Section& section);

    Context _ctx;
    Requester _requester;
    Responder _responder;
    Datagram _datagram;
    HandleTable<Pd> _pds;
    HandleTable<QueuePair> _qps;
    std::unique_ptr<QueuePair> _gsi;
    std::vector<uint8_t> _generation; // by QP id: of the next QP that has it
    uint8_t _first_generation;        // of ids that have not had one
    int64_t _stopped_at = 0;          // nanoseconds
    // Of fail_qps_of_overrun_cqs(): QP ids to look at, from which one on.
    uint32_t _qps_to_check = 0;
    uint32_t _next_to_check = 0;
    // While a state is loaded: data of requests, by QP id and place in its window.
    std::map<std::pair<uint32_t, uint32_t>, std::vector<uint8_t>> _loaded_inline;
    std::vector<uint8_t> _refusals;   // by QP id: RNR NAKs sent since the stop
    std::vector<uint8_t> _loopback_frame; // the one being received
};

} // namespace rdma::roce
