// SPDX-License-Identifier: GPL-2.0-or-later
//
// The PVRDMA function: registers, shared region, command channel, doorbells
// and rings, over a backend.
//
// Files: pvrdma_device.cc registers, doorbells and set-up; commands.cc the
// command channel; completion_queue.cc completions and events.
#pragma once

#include <expected>
#include <string>
#include <unordered_map>

#include "backend.h"
#include "device.h"
#include "guest_ring.h"
#include "pvrdma_abi.h"
#include "statistics.h"

namespace rdma {

// Nothing, or what is wrong: the property by its name and its valid range.
std::expected<void, std::string> check_config(const PvrdmaConfig& config);
// What the backend must serve.
Limits limits_of(const PvrdmaConfig& config);

class PvrdmaDevice final : public Device, public BackendClient {
public:
    PvrdmaDevice(const PvrdmaConfig& config, DeviceHost& host, GuestMemory& memory,
                 Backend& backend, Statistics& stats);

    void reset() override;
    uint32_t bar_read(unsigned bar, uint64_t offset, unsigned size) override;
    void bar_write(unsigned bar, uint64_t offset, uint32_t value, unsigned size) override;
    void link_changed() override;

    bool pull_send(uint32_t qp, SendRequest& out) override;
    bool pull_recv(uint32_t qp, RecvRequest& out) override;
    bool pull_srq_recv(uint32_t srq, RecvRequest& out) override;
    bool complete(uint32_t cq, const Completion& completion) override;
    void async_event(ibv_event_type type, uint32_t object) override;

private:
    struct Qp {
        pvrdma::GuestRing sq;
        pvrdma::GuestRing rq;
        uint32_t max_send_sge;
        uint32_t max_recv_sge;
        bool datagram;
        bool ring_failed = false; // told the guest already
    };
    struct Cq {
        pvrdma::GuestRing ring;
        bool armed = false;
        bool armed_solicited = false;
        bool overrun = false;
    };
    struct Srq {
        pvrdma::GuestRing ring;
        uint32_t max_sge;
        uint32_t limit = 0; // 0: not armed
    };

    // pvrdma_device.cc
    uint32_t read_register(uint64_t offset);
    void write_register(uint64_t offset, uint32_t value);
    void doorbell(uint64_t offset, uint32_t value);
    bool set_up_shared_region();
    bool set_up_event_ring(const pvrdma::RingPageInfo& info, uint32_t entry_size,
                           pvrdma::GuestRing& ring);
    pvrdma::DeviceCaps capabilities();
    void control(uint32_t value);
    void raise(pvrdma::Vector vector);
    void update_intx();
    void drop_objects();
    void guest_error(uint64_t& counter, const std::string& what);

    // commands.cc; each returns 0 or a positive errno value.
    void execute_command();
    template <typename T>
    static const T& as(const pvrdma::CommandSlot& slot);
    int dispatch(uint32_t cmd, const pvrdma::CommandSlot& slot, pvrdma::CommandSlot& response);
    int query_port(const pvrdma::CmdQueryPort& cmd, pvrdma::RespQueryPort& resp);
    int query_pkey(const pvrdma::CmdQueryPkey& cmd, pvrdma::RespQueryPkey& resp);
    int create_uc(pvrdma::RespHandle& resp);
    int create_mr(const pvrdma::CmdCreateMr& cmd, pvrdma::RespCreateMr& resp);
    int create_cq(const pvrdma::CmdCreateCq& cmd, pvrdma::RespCreateCq& resp);
    int create_srq(const pvrdma::CmdCreateSrq& cmd, pvrdma::RespHandle& resp);
    int modify_srq(const pvrdma::CmdModifySrq& cmd);
    int query_srq(uint32_t handle, pvrdma::RespQuerySrq& resp);
    int create_qp(const pvrdma::CmdCreateQp& cmd, pvrdma::CommandSlot& response);
    int modify_qp(const pvrdma::CmdModifyQp& cmd);
    int query_qp(uint32_t handle, pvrdma::RespQueryQp& resp);
    int create_bind(const pvrdma::CmdCreateBind& cmd);

    // completion_queue.cc
    void notify(uint32_t cq);
    void arm(uint32_t handle, bool solicited);
    void report_ring_failure(uint32_t qp_handle, Qp& qp);

    const PvrdmaConfig _config;
    DeviceHost& _host;
    GuestMemory& _memory;
    Backend& _backend;
    Statistics& _stats;

    // Registers.
    uint64_t _dsr_address = 0;
    uint32_t _error = 0;
    uint32_t _interrupt_cause = 0;
    uint32_t _interrupt_mask = ~0u;
    uint32_t _mac[2] = {};
    // From the shared region; valid while _ready.
    bool _ready = false;
    uint64_t _command_slot = 0;
    uint64_t _response_slot = 0;
    pvrdma::GuestRing _async_ring;
    pvrdma::GuestRing _cq_notification_ring;

    std::unordered_map<uint32_t, Qp> _qps; // by handle
    std::unordered_map<uint32_t, Cq> _cqs;
    std::unordered_map<uint32_t, Srq> _srqs;
    std::vector<bool> _contexts; // user contexts in use
};

} // namespace rdma
