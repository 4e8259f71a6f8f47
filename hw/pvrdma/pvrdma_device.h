// SPDX-License-Identifier: GPL-2.0-or-later
//
// The PVRDMA function: registers, shared region, command channel, doorbells
// and rings, over a backend.
//
// Files: pvrdma_device.cc registers and doorbells; shared_region.cc bring-up;
// commands.cc the command channel; queue_commands.cc the commands of CQ, SRQ
// and QP; data_path.cc requests out of the guest's rings and completions into
// them; events.cc asynchronous events and CQ notifications; device_state.cc
// saving and loading.
//
// All ring positions are in guest memory and nowhere else (guest_ring.h).
#pragma once

#include <fmt/format.h>

#include <expected>
#include <optional>
#include <string>
#include <vector>

#include "backend.h"
#include "device.h"
#include "guest_errors.h"
#include "guest_ring.h"
#include "handle_table.h"
#include "idle_polls.h"
#include "interrupts.h"
#include "pvrdma.h"
#include "pvrdma_abi.h"
#include "statistics.h"
#include "work_request.h"

namespace rdma {

// The highest that properties may be, where something else depends on it.
inline constexpr uint32_t max_wr_limit = PVRDMA_MAX_WR;
inline constexpr uint32_t max_cqe_limit = PVRDMA_MAX_CQE;

// Most pages of entries that all queues of a device have, 128 GiB: each costs the device 8 bytes,
// even where a guest names the same page for all of them.
inline constexpr size_t max_queue_pages = size_t{32} << 20;

// Most pages of an event ring, state page included. Linux's driver uses 4.
inline constexpr uint32_t max_event_ring_pages = 64;

// Nothing, or what is wrong: the property by its name and its valid range.
std::expected<void, std::string> check_config(const PvrdmaConfig& config);
// The same with no limit above the host device's. Throws std::runtime_error where
// that cannot be.
PvrdmaConfig fit_to_host(const PvrdmaConfig& config, const ibv_device_attr& host);
// What the backend must serve.
Limits limits_of(const PvrdmaConfig& config);

class PvrdmaDevice final : public Device {
public:
    // config: one that check_config finds nothing wrong with. backend: created
    // with limits_of(config).
    PvrdmaDevice(const PvrdmaConfig& config, DeviceHost& host, GuestMemory& memory,
                 Backend& backend, Statistics& stats);

    void reset() override;
    void fail() override;
    uint32_t bar_read(unsigned bar, uint64_t offset, unsigned size) override;
    void bar_write(unsigned bar, uint64_t offset, uint32_t value, unsigned size) override;
    void link_changed() override;
    ObjectCounts object_counts() const override;
    // The carrier may have changed while the VM was stopped.
    void start() override { link_changed(); }
    std::vector<Property> guest_visible_properties() const override;
    void save(migration::StreamWriter& stream) override;
    migration::Status load(const migration::Section& section) override;
    migration::Status finish_load() override;

    bool pull_send(uint32_t qp, SendRequest& out) override;
    bool pull_recv(uint32_t qp, RecvRequest& out) override;
    bool pull_srq_recv(uint32_t srq, RecvRequest& out) override;
    uint32_t srq_depth(uint32_t srq) override;
    bool complete(uint32_t cq, const Completion& completion) override;
    void modified(uint32_t qp, int error) override;
    void async_event(ibv_event_type type, uint32_t object) override;

    // What the device itself keeps of its objects.
    struct Qp {
        GuestRing sq;
        GuestRing rq; // without slots where an SRQ takes its place
        pvrdma::SendLimits send_limits;
        uint32_t max_recv_sge;
        bool ring_failed = false; // the guest has been told
        size_t num_pages() const { return sq.num_pages() + rq.num_pages(); }
    };
    struct Cq {
        GuestRing ring;
        bool armed = false;
        bool armed_solicited = false;
        bool overrun = false;     // in error: takes no completions any more
        bool notify_late = false; // in _late_notifications
        size_t num_pages() const { return ring.num_pages(); }
    };
    struct Srq {
        GuestRing ring;
        uint32_t max_sge;
        bool ring_failed = false; // the guest has been told
        size_t num_pages() const { return ring.num_pages(); }
    };
    struct Context {}; // of a user process

private:
    // pvrdma_device.cc
    uint32_t read_register(uint64_t offset);
    void write_register(uint64_t offset, uint32_t value);
    void control(uint32_t value);
    void doorbell(uint32_t page, uint64_t offset, uint32_t value);
    void qp_doorbell(uint32_t value);
    void cq_doorbell(uint32_t page, uint32_t value);
    void srq_doorbell(uint32_t value);
    template <typename... Args>
    void guest_error(uint64_t& counter, fmt::format_string<Args...> what, Args&&... args)
    {
        report_guest_error(_host, "pvrdma", counter, what, std::forward<Args>(args)...);
    }

    // shared_region.cc
    void drop_shared_region();
    bool set_up_shared_region();

    // commands.cc. Handlers return 0 or a positive errno value.
    struct CommandEntry {
        pvrdma::Command cmd;
        bool answered; // Linux's driver waits for the response
        int (*execute)(PvrdmaDevice&, const pvrdma::CommandSlot&, pvrdma::ResponseSlot&);
    };
    static const CommandEntry* find_command(uint32_t cmd); // null: not served
    template <auto handler>
    static int invoke(PvrdmaDevice& device, const pvrdma::CommandSlot& command,
                      pvrdma::ResponseSlot& response);
    void execute_command();
    void answer(const pvrdma::CmdHdr& hdr, int error, pvrdma::ResponseSlot& response);
    int query_port(const pvrdma::CmdQueryPort& cmd, pvrdma::RespQueryPort& resp);
    int query_pkey(const pvrdma::CmdQueryPkey& cmd, pvrdma::RespQueryPkey& resp);
    int create_uc(const pvrdma::CmdCreateUc& cmd, pvrdma::RespHandle& resp);
    int destroy_uc(const pvrdma::CmdHandle& cmd);
    int create_pd(const pvrdma::CmdCreatePd& cmd, pvrdma::RespHandle& resp);
    int destroy_pd(const pvrdma::CmdHandle& cmd);
    int create_mr(const pvrdma::CmdCreateMr& cmd, pvrdma::RespCreateMr& resp);
    int destroy_mr(const pvrdma::CmdHandle& cmd);
    int create_bind(const pvrdma::CmdCreateBind& cmd);
    int destroy_bind(const pvrdma::CmdDestroyBind& cmd);
    bool is_context(uint32_t handle) const;

    // queue_commands.cc
    int create_cq(const pvrdma::CmdCreateCq& cmd, pvrdma::RespCreateCq& resp);
    int destroy_cq(const pvrdma::CmdHandle& cmd);
    int create_srq(const pvrdma::CmdCreateSrq& cmd, pvrdma::RespHandle& resp);
    int modify_srq(const pvrdma::CmdModifySrq& cmd);
    int query_srq(const pvrdma::CmdHandle& cmd, pvrdma::RespQuerySrq& resp);
    int destroy_srq(const pvrdma::CmdHandle& cmd);
    int create_qp(const pvrdma::CmdCreateQp& cmd, pvrdma::ResponseSlot& response);
    int modify_qp(const pvrdma::CmdModifyQp& cmd);
    int query_qp(const pvrdma::CmdHandle& cmd, pvrdma::RespQueryQp& resp);
    int destroy_qp(const pvrdma::CmdHandle& cmd);

    // Whether so many pages of a queue are within max_queue_pages.
    bool has_room_for(size_t pages) const { return pages <= max_queue_pages - _queue_pages; }
    template <typename Object>
    void insert(HandleTable<Object>& table, uint32_t handle, Object&& object)
    {
        _queue_pages += object.num_pages();
        table.insert(handle, std::move(object));
    }
    template <typename Object>
    void erase(HandleTable<Object>& table, uint32_t handle)
    {
        _queue_pages -= table.find(handle)->num_pages();
        table.erase(handle);
    }

    // data_path.cc
    template <typename Object, typename Request, typename Read>
    bool pull(uint32_t handle, Object& object, GuestRing& ring, Request& out, Read&& read);
    void report_ring_failure(uint32_t qp, Qp& object);
    void report_ring_failure(uint32_t srq, Srq& object);

    // device_state.cc
    migration::Status load_device(const migration::Section& section);
    migration::Status load_cq(const migration::Section& section);
    migration::Status load_srq(const migration::Section& section);
    migration::Status load_qp(const migration::Section& section);

    // events.cc
    void notify(uint32_t handle, Cq& cq);
    bool write_notification(uint32_t handle);
    void write_late_notifications();

    const PvrdmaConfig _config;
    DeviceHost& _host;
    GuestMemory& _memory;
    Backend& _backend;
    Statistics& _stats;

    // Registers.
    uint64_t _dsr_address = 0;
    uint32_t _error = 0; // errno of the last request
    pvrdma::Interrupts _interrupts;
    // MODIFY_QP whose outcome the backend has not told yet. Another command takes its
    // place: the driver has given up waiting then.
    struct UnansweredCommand {
        pvrdma::CmdHdr hdr;
        uint32_t qp;
    };
    std::optional<UnansweredCommand> _unanswered;

    // From the shared region; valid while _ready.
    bool _ready = false;
    bool _link_up = false; // what the guest has been told last
    uint64_t _command_slot = 0;
    uint64_t _response_slot = 0;
    GuestRing _async_ring;
    GuestRing _cq_notification_ring;
    // CQs whose notification found no room in the ring, oldest first.
    std::vector<uint32_t> _late_notifications;

    // By handle, which is the backend's id.
    HandleTable<Qp> _qps{UINT32_MAX};
    HandleTable<Cq> _cqs{UINT32_MAX};
    HandleTable<Srq> _srqs{UINT32_MAX};
    size_t _queue_pages = 0; // of all of them
    HandleTable<Context> _contexts;
    IdlePolls _idle_polls;
};

} // namespace rdma
