// SPDX-License-Identifier: GPL-2.0-or-later
//
// The backend on a host's RDMA device: every PD, MR, CQ, SRQ and QP of the guest is
// one of the host's. The GSI QP is not: its datagrams pass through umad.
//
// Files: verbs_backend.cc PDs, CQs, SRQs, GIDs; memory_regions.cc MRs; queue_pairs.cc
// QPs; requests.cc requests to the host's queues; completions.cc completions from the
// host; host_events.cc its asynchronous events and its end; gsi.cc the GSI QP; peers.cc
// other devices of this kind, with which a QP outlives a migration: own_move.cc of this
// device, peer_move.cc of another one, reconnect.cc the QP's new connection; state.cc
// what is saved and loaded.
//
// Numbers and keys: a QPN and the keys of an MR are the host's at the time they are
// made, so that peers can use them; ids are ours. They stay when the device has come
// to another host, whose numbers are others then: that is between this backend and
// those at the other ends.
//
// Every request is signaled on the host, whatever the guest asked for: that tells
// which are done, and what is left when one fails. A host CQ has room for all that
// the queues on it can hold, so it cannot overflow; where the guest's own CQ is
// smaller and full, the device says so as with any backend.
//
// What may wait in the host for the answer of a peer, the look-up of an Ethernet
// address, is done on threads of AddressResolver: a datagram waits for its address
// handle in front of those behind it, and a QP's change for the look-up.
//
// When the host's device is gone the guest is told by IBV_EVENT_DEVICE_FATAL, its
// requests are flushed, and its objects can be destroyed; all else fails with EIO.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "address_handles.h"
#include "backend.h"
#include "gid_map.h"
#include "guest_keys.h"
#include "guest_memory.h"
#include "handle_table.h"
#include "host_port.h"
#include "mad_port.h"
#include "memory_mapping.h"
#include "peer_channel.h"
#include "posted_requests.h"
#include "removal_watch.h"
#include "statistics.h"

namespace rdma::verbs {

struct QpState; // state_fields.h

class VerbsBackend final : public Backend, private PeerChannel::Handler {
public:
    using Log = std::function<void(int level, std::string_view message)>;

    // limits: no higher than the port's device has. Throws std::runtime_error.
    VerbsBackend(std::shared_ptr<HostPort> port, const Limits& limits, GuestMemory& memory,
                 Statistics& stats, Log log);
    ~VerbsBackend() override;

    // Must be called before anything else.
    void set_client(BackendClient& client) { _client = &client; }

    // Polls readable when handle_events() has something to do; while stopped that is
    // what other devices have to say.
    int event_fd() const { return _epoll; }
    // Takes what the host has completed and tells of, a bounded amount.
    void handle_events();
    // While stopped the guest's memory and queues are left alone, but for what the
    // host's device does by itself. With peers of this kind that is nothing: stop()
    // has them rest and waits, up to a second, for what is in flight.
    void stop();
    void start();
    bool is_stopped() const { return _stopped; }
    // As rdma_device_finish_migration().
    void finish_migration();
    // The host's number of a QP, which the guest knows by another one after a move; 0:
    // there is no such QP.
    uint32_t host_qpn(uint32_t qp) const
    {
        const Qp* found = _qps.find(qp);
        return found && found->host ? found->host->qp_num : 0;
    }
    // Nothing where this device can move to another host, or why not, for a person.
    std::optional<std::string> migration_obstacle() const;

    void reset() override;
    Features features() const override;
    std::optional<ibv_port_attr> host_port() const override;
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
    void fail_qp(uint32_t qp) override;
    int add_gid(uint32_t index, const ibv_gid& gid, uint32_t type,
                std::optional<uint16_t> vlan) override;
    int del_gid(uint32_t index) override;
    void send_doorbell(uint32_t qp) override;
    void recv_doorbell(uint32_t qp) override;
    void srq_doorbell(uint32_t srq) override;
    bool exists(ObjectKind kind, uint32_t id) const override;
    size_t count(ObjectKind kind) const override;
    void save(migration::StreamWriter& stream) override;
    migration::Status load(const migration::Section& section) override;

private:
    using Clock = std::chrono::steady_clock;

    struct Pd {
        Pd(HostPd pd, AddressResolver& resolver);
        HostPd host;
        uint32_t users = 0;
        AddressHandles addresses;
    };
    // Of guest memory.
    struct Piece {
        uint64_t gpa;
        uint64_t size; // bytes
    };
    struct Mr {
        uint32_t pd = 0;
        // In this order: the mapping must outlive what is registered over it.
        MemoryMapping mapping;
        HostMr host;
        uint32_t lkey = 0; // as the guest knows them
        uint32_t rkey = 0;
        bool dma = false; // see register_guard()
        int access = 0;
        uint64_t iova = 0;
        uint64_t length = 0;
        uint64_t num_pages = 0;
        std::vector<Piece> pieces;
    };
    struct Cq {
        HostCq host;
        uint32_t id = 0;
        uint32_t users = 0;
        uint32_t needed = 0;  // requests that its queues can hold
        bool overrun = false; // the guest's: its QPs have been failed, or will be
        bool waiting = false; // in _waiting_cqs
        std::unordered_set<uint32_t> qps;            // that use it
        std::unordered_map<uint32_t, uint32_t> srqs; // QPs by SRQ
    };
    struct Srq {
        Srq(HostSrq srq, uint32_t id_, uint32_t pd_, const ibv_srq_attr& attr_)
            : host(std::move(srq)), id(id_), pd(pd_), attr(attr_),
              posted(attr_.max_wr, attr_.max_sge)
        {
        }
        HostSrq host;
        uint32_t id;
        uint32_t pd;
        uint32_t users = 0;
        ibv_srq_attr attr;
        PostedRequests<PostedRecv> posted;
        std::deque<KeptRecv> replays; // go to the host before any other
        bool failed = false;          // takes no requests any more
    };
    // A request that the host is not given: it completes when all before it have.
    struct Held {
        uint64_t wr_id;
        ibv_wc_status status;
        ibv_wc_opcode opcode;
        bool signaled;
    };
    // A device with this backend that QPs are connected to.
    struct Peer {
        bool known = false;
        GuestKeys keys;                  // its own
        Clock::time_point retry{};       // not known: asked again from then on
    };
    // Of a QP, that waits for the look-up of its peer's address, and for what the peer
    // says.
    struct Change {
        ibv_qp_attr attr;
        int mask;
        Mac dmac;
        std::shared_ptr<AddressResolver::Request> address;
        uint32_t question = 0; // of the peer; 0: answered
        uint32_t host_qpn = 0; // of its QP; 0: as the guest has it
    };
    struct Qp {
        explicit Qp(const QpInit& qp_init)
            : init(qp_init), sends(qp_init.cap.max_send_wr,
                                   qp_init.type == IBV_QPT_UD ? 0 : qp_init.cap.max_send_sge),
              recvs(qp_init.use_srq ? 0 : qp_init.cap.max_recv_wr,
                    qp_init.type == IBV_QPT_UD ? 0 : qp_init.cap.max_recv_sge)
        {
        }
        bool is_datagram() const { return init.type == IBV_QPT_UD; }
        // Knows a peer.
        bool is_connected() const
        {
            return !is_datagram() && (state == IBV_QPS_RTR || state == IBV_QPS_RTS ||
                                      state == IBV_QPS_SQD || state == IBV_QPS_SQE);
        }

        QpInit init;
        uint32_t id = 0;
        uint32_t qpn = 0;
        HostQp host; // none: the GSI QP
        ibv_qp_state state = IBV_QPS_RESET;
        bool queues_failed = false; // fail_qp()
        ibv_qp_attr attr{}; // as the guest has set them
        Mac dmac{};
        PostedRequests<PostedSend> sends;
        PostedRequests<PostedRecv> recvs;
        // They go to the host before any other.
        std::deque<KeptSend> replays;
        std::deque<KeptRecv> recv_replays;
        // The other end, where it is of this kind, and the number of its QP on its host.
        std::shared_ptr<Peer> peer;
        uint32_t peer_host_qpn = 0;
        bool suspended = false; // sends nothing: an end moves
        bool frozen = false;    // so that this end can: the host's is in the error state
        uint32_t num_flushed = 0; // requests that it has given up, and are still posted
        bool arriving = false;  // has come here, and the other end has not said that it knows
        bool announced = false; // and has been asked to
        bool lost = false;      // has come here without its connection
        Clock::time_point suspended_until{};
        // Messages that took a receive, since the connection was made or made anew.
        uint64_t num_received = 0;
        uint64_t num_sent = 0;        // and have been acknowledged
        uint64_t num_received_before = 0; // by the time of the move
        uint32_t sq_psn = 0;   // that it was connected with here
        uint32_t rq_psn = 0;
        // Pulled, and waits for its address handle.
        std::unique_ptr<SendRequest> deferred_send;
        AddressHandles::Ticket ticket;
        std::optional<Change> change;
        std::optional<Held> held_send;
        std::optional<Held> held_recv;
        std::vector<Held> refused; // by the host, behind held_send
        // Requests are flushed: those the host has by the host, then the others by us.
        bool send_failed = false;
        bool recv_failed = false;
        bool waiting = false; // in _waiting_qps: for an address
        bool touched = false; // in _touched
    };
    // QPs that a peer wants to rest, before it moves.
    struct Rest {
        PeerName from;
        PeerChannel::Asker asker;
        std::vector<uint32_t> qps; // 0: no such QP
    };

    enum class Queue : uint64_t { send = 1, recv = 2, srq = 3 };
    static uint64_t host_wr_id(Queue queue, uint32_t owner, uint32_t slot)
    {
        return static_cast<uint64_t>(queue) << 62 | uint64_t{owner} << 32 | slot;
    }

    // verbs_backend.cc
    Result<HostPd> alloc_host_pd();
    int create_host_cq(Cq& cq);
    Result<HostSrq> create_host_srq(uint32_t pd, const ibv_srq_attr& attr);
    int reserve(Cq& cq, uint32_t requests);
    int change_gid(uint32_t index, const std::function<int()>& change);

    // memory_regions.cc
    int register_user_mr(const MrInit& init, Mr& mr);
    int register_guard(const MrInit& init, Mr& mr);
    HostMr register_on_host(const Mr& mr);
    HostMr register_once(const Mr& mr);
    HostMr register_guard_page(uint32_t pd);
    bool is_reserved(const ibv_mr& mr) const;
    int register_again(uint32_t id);
    void know_keys(uint32_t id, const Mr& mr);
    int register_region(const MrInit& init, Mr& mr);
    void report_written(const Mr& mr);
    void count_region(uint32_t id, Mr& mr, size_t num_pages);
    void uncount_region(const Mr& mr);

    // queue_pairs.cc
    Qp* find_qp(uint32_t id) const { return id == 1 ? _gsi.get() : _qps.find(id); }
    template <typename Fn>
    void for_each_qp(Fn&& fn) const
    {
        if (_gsi) {
            fn(*_gsi);
        }
        _qps.for_each([&](uint32_t, Qp& qp) { fn(qp); });
    }
    int create_host_qp(const QpInit& init, Qp& qp);
    int check_objects(const QpInit& init) const;
    int set_up_qp(Qp& qp);
    Qp* find_by_qpn(uint32_t qpn) const;
    int use_cqs(const QpInit& init);
    void release_cqs(const QpInit& init);
    void add_user(const Qp& qp);
    void remove_user(uint32_t qp, const QpInit& init);
    void count_users(const QpInit& init, int change);
    int to_host(const Qp& qp, const ibv_qp_attr& attr, int mask, ibv_qp_attr& host);
    bool to_host(ibv_ah_attr& av);
    int change_qp(Qp& qp, const ibv_qp_attr& attr, int mask, const Mac& dmac);
    int check_change(const Qp& qp, const ibv_qp_attr& attr, int mask) const;
    bool is_out_of_reach(const Qp& qp, const Change& change);
    void finish_changes();
    static void set_first_attributes(Qp& qp);
    void enter_reset(Qp& qp);
    static void fail_host(const Qp& qp);
    void enter_error(Qp& qp);
    void forget_requests(Qp& qp);
    void drain_cqs(Qp& qp);

    // requests.cc
    void doorbell(Qp* qp);
    void pump(Qp& qp);
    void pump_sends(Qp& qp);
    void pump_recvs(Qp& qp);
    void pump_srq(Srq& srq);
    bool next_send(Qp& qp, SendRequest& request);
    bool next_recv(Qp& qp, RecvRequest& request);
    bool next_srq_recv(Srq& srq, RecvRequest& request);
    void encode_recv(PostedRequests<PostedRecv>& posted, Queue queue, uint32_t owner,
                     unsigned index);
    bool encode_send(Qp& qp, SendRequest& request, ibv_send_wr& wr);
    void wait_for_address(Qp& qp);
    void stop_waiting(Qp& qp);
    void wake_waiting();
    void release_address(const Qp& qp, const PostedSend& posted);
    void offer_room();
    void post_sends(Qp& qp, unsigned count);
    void finish_held(Qp& qp);
    void fail_queue(Qp& qp, bool send);
    void flush(Qp& qp);

    // peers.cc
    using Answered = std::function<void(std::optional<std::span<const uint8_t>>)>;
    PeerName peer_name(const ibv_qp_attr& attr) const;
    std::shared_ptr<Peer> remember_peer(const PeerName& name);
    uint32_t ask(const PeerName& name, PeerMessage kind, const std::vector<uint8_t>& body,
                 Answered answered);
    uint32_t ask_for_qp(Qp& qp, const ibv_qp_attr& attr);
    void take_found(uint32_t id, uint32_t question, const PeerName& name,
                    const std::shared_ptr<Peer>& peer,
                    std::optional<std::span<const uint8_t>> body);
    FindAnswer find(const PeerName& from, const FindRequest& request);
    KeysAnswer take_keys(const PeerName& from, const KeysRequest& request);
    bool is_peer(const PeerName& from) const override;
    // False: it is no such body, or has more keys than a device like this one has regions.
    template <typename Body>
    bool understand(std::span<const uint8_t> bytes, Body& body) const
    {
        return decode(bytes, body) && body.keys.size() <= _limits.max_mr;
    }
    void peer_asks(const PeerName& from, const PeerChannel::Asker& asker,
                   std::span<const uint8_t> body) override;
    void peer_answers(uint32_t id, std::optional<std::span<const uint8_t>> body) override;
    static void set_keys(Peer& peer, const KeyList& keys);
    KeyList keys_for(const PeerName& name) const;
    const KeyList& keys_told(const PeerName& name);
    std::map<PeerName, std::vector<uint32_t>> connections() const;
    std::vector<uint8_t> encode_links(const std::vector<uint32_t>& qps) const;
    bool is_connected_to(const Qp& qp, const PeerName& from) const;
    bool is_about_to_be(const Qp& qp, const PeerName& from) const;
    Qp* find_link(const PeerName& from, const QpLink& link);

    // peer_move.cc
    // Until QPs go on whose peer was about to move and has not been heard of since.
    static constexpr std::chrono::seconds suspension_time{60};
    void suspend(const PeerName& from, const PeerChannel::Asker& asker,
                 const LinksRequest& request);
    LinksAnswer status_of(const Rest& rest) const;
    void answer_rests(bool stalled);
    LinksAnswer resume(const PeerName& from, const LinksRequest& request);
    MoveAnswer take_moves(const PeerName& from, const MoveRequest& request);
    Moved take_move(const PeerName& from, const Move& move);

    // reconnect.cc
    int reconnect(Qp& qp, uint64_t received_by_peer);
    int reset_host(Qp& qp);
    int connect_host(Qp& qp);
    bool finish_executed(Qp& qp, uint64_t received_by_peer);
    void lose(Qp& qp);
    void poll_cqs(const Qp& qp);
    void begin_connection(Qp& qp);
    void freeze(Qp& qp);

    // own_move.cc
    // After which a device that is stopped says again that its peers are to rest.
    static constexpr std::chrono::seconds refresh_time = suspension_time / 3;
    void rest();
    void report_all_written();
    void work_until(const std::function<bool()>& done);
    void ask_again();
    void resume_peers();
    void wake_peers();
    void arrive();
    void announce();
    void take_moved(const std::vector<uint32_t>& qps, Peer& peer,
                    std::optional<std::span<const uint8_t>> body);
    void take_moved(Qp& qp, const Moved& moved);
    void set_tick(bool on);
    void tick();
    static bool can_move(const Qp& qp);

    // state.cc
    migration::Status load_gid(const migration::Section& section);
    migration::Status load_pd(const migration::Section& section);
    migration::Status load_mr(const migration::Section& section);
    migration::Status load_cq(const migration::Section& section);
    migration::Status load_srq(const migration::Section& section);
    migration::Status check_loaded(const QpState& state);
    migration::Status load_qp(const migration::Section& section);
    void look_up_peer(const Qp& qp);

    // gsi.cc
    void open_mad_port();
    void tell_addresses();
    template <typename Fn>
    bool for_each_piece(uint32_t pd, std::span<const ibv_sge> sges, size_t size, Fn&& fn);
    bool send_mad(Qp& qp, const SendRequest& request);
    void take_mad(const Mad& mad);
    void take_mads(unsigned budget);
    void pump_gsi(Qp& qp);

    // completions.cc
    // QPs that fail in one run for their CQ has overrun: each has its queues to flush.
    static constexpr size_t max_failed_in_a_run = 64;
    unsigned poll_cq(Cq& cq, unsigned budget);
    void wait_more(Cq& cq);
    bool stays(Qp& qp, const ibv_wc& wc);
    void take(const ibv_wc& wc);
    void take_send(Qp& qp, uint32_t slot, const ibv_wc& wc);
    void take_recv(Qp& qp, uint64_t wr_id, const ibv_wc& wc);
    void complete(Qp& qp, uint32_t cq, Completion& completion);
    void complete_without_host(Qp& qp, bool send, const Held& held);
    void settle(size_t max_failed = max_failed_in_a_run);
    void finish_stop();
    void overrun(Cq& cq);
    size_t fail_overrun_qps(size_t most);
    void touch(Qp& qp);
    bool take_cq_event();
    void kick();
    void watch(int operation);

    // host_events.cc
    bool take_async_event();
    void tell(const ibv_async_event& event);
    int host_error(int error);
    void fail_device();
    void close_host();
    void flush_host_requests(Qp& qp);

    std::shared_ptr<HostPort> _port;
    const Limits _limits;
    GuestMemory& _memory;
    Statistics& _stats;
    Log _log;
    BackendClient* _client = nullptr;

    std::optional<AddressResolver> _resolver;
    HostChannel _channel;
    int _epoll = -1;
    int _kick = -1; // an eventfd: there is more to do
    bool _stopped = false;
    RemovalWatch _removal;
    bool _failing = false; // the host's device is gone: fail_device() is due
    bool _dead = false;    // it is gone and closed

    std::unique_ptr<PeerChannel> _peer_channel; // none: no migration
    std::map<PeerName, std::shared_ptr<Peer>> _peers;
    std::unordered_map<uint32_t, Answered> _questions;
    bool _answered = false; // one that a QP's change waits for
    std::map<PeerName, KeyList> _keys_told;        // to those who asked in this turn of the channel
    std::vector<Rest> _rests;                      // one of each peer at most
    std::vector<AddressHandles::Ticket> _arrivals; // look-ups for QPs that are connected later
    bool _resting = false;       // this device is about to stop: nothing is given to the host
    bool _told_to_rest = false;  // and its peers are
    bool _silent = false;        // its state is saved: peers find it elsewhere
    bool _arrived = false;       // a state has been loaded: peers are to be told
    uint64_t _progress = 0;      // completions taken
    uint64_t _last_progress = 0; // at the last tick
    int _idle_ticks = 0;         // without progress, since a peer asked for a rest
    Clock::time_point _refresh{}; // of what peers have been told
    Clock::time_point _give_up{}; // peers that have not answered by then are lost
    int _timer = -1;             // a timerfd: tick()

    std::unique_ptr<MadPort> _mads; // while there is a GSI QP
    GidMap _gids;
    HandleTable<Pd> _pds;
    HandleTable<Mr> _mrs;
    std::unordered_map<uint32_t, uint32_t> _dma_regions; // ids by L_Key
    HandleTable<Cq> _cqs;
    HandleTable<Srq> _srqs;
    HandleTable<Qp> _qps;
    std::unique_ptr<Qp> _gsi;
    std::unordered_map<uint32_t, uint32_t> _id_by_host_qpn;
    std::unordered_map<uint32_t, uint32_t> _id_by_qpn; // as guests know it
    OwnKeys _lkeys;
    OwnKeys _rkeys;

    // Requests on their way to the host, made once.
    static constexpr unsigned batch_size = 16;
    struct Batch;
    std::unique_ptr<Batch> _batch;

    // Of all MRs: pages, and mappings they are made of.
    uint64_t _num_pages = 0;
    size_t _num_runs = 0;
    const size_t _max_runs = MemoryMapping::max_process_runs();

    std::vector<uint32_t> _touched;     // QPs that may have room for more
    std::vector<uint32_t> _waiting_qps; // for an address
    bool _handle_wanted = false;        // one of them for an address handle to be free
    std::vector<uint32_t> _changing;    // QPs with a change
    // That are to fail, for a CQ of theirs has overrun or their queues have failed.
    std::vector<uint32_t> _overrun_qps;
    std::vector<uint32_t> _waiting_cqs; // out of budget, with more to poll
    Qp* _drained = nullptr;             // see drain_cqs()
};

} // namespace rdma::verbs
