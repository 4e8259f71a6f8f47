// SPDX-License-Identifier: GPL-2.0-or-later
//
// The backend on a host's RDMA device: every PD, MR, CQ, SRQ and QP of the guest is
// one of the host's. The GSI QP is not: its datagrams pass through umad.
//
// Files: verbs_backend.cc PDs, MRs, CQs, SRQs; queue_pairs.cc QPs; requests.cc
// requests to the host's queues; completions.cc completions from the host;
// host_events.cc its asynchronous events and its end; gsi.cc the GSI QP.
//
// Numbers and keys: a QPN and the keys of an MR are the host's at the time they are
// made, so that peers can use them; ids are ours.
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

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "address_handles.h"
#include "backend.h"
#include "gid_map.h"
#include "guest_memory.h"
#include "handle_table.h"
#include "host_port.h"
#include "mad_port.h"
#include "memory_mapping.h"
#include "removal_watch.h"
#include "slot_table.h"
#include "statistics.h"

namespace rdma::verbs {

class VerbsBackend final : public Backend {
public:
    using Log = std::function<void(int level, std::string_view message)>;

    // limits: no higher than the port's device has. Throws std::runtime_error.
    VerbsBackend(std::shared_ptr<HostPort> port, const Limits& limits, GuestMemory& memory,
                 Statistics& stats, Log log);
    ~VerbsBackend() override;

    // Must be called before anything else.
    void set_client(BackendClient& client) { _client = &client; }

    // Polls readable when handle_events() has something to do; never while stopped.
    int event_fd() const { return _epoll; }
    // Takes what the host has completed and tells of, a bounded amount.
    void handle_events();
    // While stopped the guest's memory and queues are left alone, but for what the
    // host's device does by itself.
    void stop();
    void start();
    bool is_stopped() const { return _stopped; }

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
    int add_gid(uint32_t index, const ibv_gid& gid, uint32_t type,
                std::optional<uint16_t> vlan) override;
    int del_gid(uint32_t index) override;
    void send_doorbell(uint32_t qp) override;
    void recv_doorbell(uint32_t qp) override;
    void srq_doorbell(uint32_t srq) override;
    bool exists(ObjectKind kind, uint32_t id) const override;
    size_t count(ObjectKind kind) const override;
    // There is no state to save: migration is refused (docs/verbs-backend.md).
    void save(migration::StreamWriter&) override {}
    migration::Status load(const migration::Section&) override;

private:
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
        uint32_t pd;
        // In this order: the mapping must outlive what is registered over it.
        MemoryMapping mapping;
        HostMr host;
        bool dma = false; // see register_guard()
        uint64_t num_pages = 0;
        std::vector<Piece> written; // what the host may write to
    };
    struct Cq {
        HostCq host;
        uint32_t id = 0;
        uint32_t users = 0;
        uint32_t needed = 0;  // requests that its queues can hold
        bool overrun = false; // the guest's: its QPs have been failed, or will be
        bool waiting = false; // in _waiting_cqs
        std::unordered_map<uint32_t, uint32_t> srqs; // QPs by SRQ
    };
    struct Srq {
        Srq(HostSrq srq, uint32_t id_, uint32_t pd_, const ibv_srq_attr& attr_)
            : host(std::move(srq)), id(id_), pd(pd_), attr(attr_), slots(attr_.max_wr)
        {
        }
        HostSrq host;
        uint32_t id;
        uint32_t pd;
        uint32_t users = 0;
        ibv_srq_attr attr;
        SlotTable<uint64_t> slots; // the guest's wr_id
        bool failed = false;       // takes no requests any more
    };
    struct PostedSend {
        uint64_t wr_id;
        ibv_wc_opcode opcode;
        bool signaled;
        bool has_address;
        uint32_t address; // of Pd::addresses
    };
    // A request that the host is not given: it completes when all before it have.
    struct Held {
        uint64_t wr_id;
        ibv_wc_status status;
        ibv_wc_opcode opcode;
        bool signaled;
    };
    // Of a QP, that waits for the look-up of its peer's address.
    struct Change {
        ibv_qp_attr attr;
        int mask;
        Mac dmac;
        std::shared_ptr<AddressResolver::Request> address;
    };
    struct Qp {
        explicit Qp(const QpInit& qp_init)
            : init(qp_init), sends(qp_init.cap.max_send_wr),
              recvs(qp_init.use_srq ? 0 : qp_init.cap.max_recv_wr)
        {
        }
        bool is_datagram() const { return init.type == IBV_QPT_UD; }

        QpInit init;
        uint32_t id = 0;
        uint32_t qpn = 0;
        HostQp host; // none: the GSI QP
        ibv_qp_state state = IBV_QPS_RESET;
        ibv_qp_attr attr{}; // as the guest has set them
        Mac dmac{};
        SlotTable<PostedSend> sends;
        SlotTable<uint64_t> recvs; // the guest's wr_id
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

    enum class Queue : uint64_t { send = 1, recv = 2, srq = 3 };
    static uint64_t host_wr_id(Queue queue, uint32_t owner, uint32_t slot)
    {
        return static_cast<uint64_t>(queue) << 62 | uint64_t{owner} << 32 | slot;
    }

    // verbs_backend.cc
    int register_user_mr(const MrInit& init, Mr& mr);
    int register_guard(const MrInit& init, Mr& mr);
    void report_written(const Mr& mr);
    void forget_sizes(const Mr& mr);
    int reserve(Cq& cq, uint32_t requests);

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
    int use_cqs(const QpInit& init);
    void release_cqs(const QpInit& init);
    void count_users(const QpInit& init, int change);
    int to_host(const ibv_qp_attr& attr, int mask, ibv_qp_attr& host);
    bool to_host(ibv_ah_attr& av);
    int change_qp(Qp& qp, const ibv_qp_attr& attr, int mask, const Mac& dmac);
    int check_change(const Qp& qp, const ibv_qp_attr& attr, int mask) const;
    void finish_changes();
    void enter_reset(Qp& qp);
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
    unsigned poll_cq(Cq& cq, unsigned budget);
    void wait_more(Cq& cq);
    void take(const ibv_wc& wc);
    void take_send(Qp& qp, uint32_t slot, const ibv_wc& wc);
    void take_recv(Qp& qp, uint64_t wr_id, const ibv_wc& wc);
    void complete(Qp& qp, uint32_t cq, Completion& completion);
    void complete_without_host(Qp& qp, bool send, const Held& held);
    void settle();
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

    std::unique_ptr<MadPort> _mads; // while there is a GSI QP
    GidMap _gids;
    HandleTable<Pd> _pds;
    HandleTable<Mr> _mrs;
    HandleTable<Cq> _cqs;
    HandleTable<Srq> _srqs;
    HandleTable<Qp> _qps;
    std::unique_ptr<Qp> _gsi;
    std::unordered_map<uint32_t, uint32_t> _id_by_host_qpn;

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
    std::vector<uint32_t> _overrun_cqs; // the guest's, whose QPs are to fail
    std::vector<uint32_t> _waiting_cqs; // out of budget, with more to poll
    Qp* _drained = nullptr;             // see drain_cqs()
};

} // namespace rdma::verbs
