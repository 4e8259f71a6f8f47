// SPDX-License-Identifier: GPL-2.0-or-later
//
// A machine with a PVRDMA device, and a driver that knows what is right, so that what
// is wrong can be put where it hurts. What a fuzz target finds becomes a unit test on this.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "device_machine.h"
#include "pvrdma_abi.h"
#include "queue_abi.h"
#include "pvrdma.h"

namespace rdma::fuzz {

using namespace pvrdma;

// A ring as the driver makes it: a state in guest memory, and pages of entries.
struct Ring {
    uint64_t state = 0; // GPA of a RingState
    std::vector<uint64_t> pages;
    uint32_t entry_size = 0;
    uint32_t slots = 0;
};
struct GuestQp {
    uint32_t handle = 0;
    uint32_t qpn = 0;
    Ring sq;
    Ring rq;
};

// The defaults of the device.
PvrdmaConfig default_config();

class Machine final : public DeviceMachine {
public:
    explicit Machine(uint8_t host = 1, const PvrdmaConfig& config = default_config());
    ~Machine() override;

    uint64_t directory(std::span<const uint64_t> pages);

    // The driver.
    uint64_t dsr = 0;
    uint64_t command_slot = 0;
    uint64_t response_slot = 0;
    void bring_up();
    void write_register(uint32_t offset, uint32_t value);
    uint32_t read_register(uint32_t offset);
    void ring(uint32_t page, uint32_t offset, uint32_t value);
    // Puts a command into the slot and asks for it; whether it was carried out.
    bool execute(const void* command, size_t size, uint32_t number);
    template <typename Cmd>
    bool execute(Command number, const Cmd& cmd)
    {
        return execute(&cmd, sizeof(cmd), number);
    }
    template <typename Resp>
    Resp response()
    {
        return get<Resp>(response_slot);
    }

    // Objects that work.
    uint32_t create_pd();
    Ring create_cq(uint32_t entries, uint32_t& handle);
    RespCreateMr register_memory(uint32_t pd, std::span<const uint64_t> pages, uint64_t iova);
    // srq: in place of a receive queue.
    GuestQp create_qp(uint8_t type, uint32_t pd, uint32_t cq, uint32_t wr = 16, uint32_t sge = 2,
                      std::optional<uint32_t> srq = {});
    Ring create_srq(uint32_t pd, uint32_t wr, uint32_t sge, uint32_t& handle);
    void bind_gid(uint32_t index, uint8_t host_number); // 10.0.0.host_number
    // To RTS. RC and UC: towards the host's dest_qpn, both PSNs as given.
    void connect(const GuestQp& qp, uint8_t type, uint8_t host_number, uint32_t dest_qpn,
                 uint32_t psn, uint8_t retries = 3);

    // Publishes an entry of raw bytes (as many as fit a slot).
    void publish(const Ring& ring, const void* entry, size_t size);
    void post_recv(const GuestQp& qp, uint64_t address, uint32_t length, uint32_t lkey,
                   uint64_t wr_id = 1);
    // As consumer: takes the oldest entry, if there is one; takes all there is.
    std::optional<Cqe> poll(const Ring& cq);
    void drain(const Ring& ring);
    void drain_events();
    // Writes one of the four indices of the two event rings.
    void lie_about_events(uint32_t index, uint32_t value);
    static Av address_vector(uint8_t host_number, uint32_t pd);

private:
    RdmaDevice* create_device(const RdmaHostOps& host_ops, void* opaque) override;
    unsigned last_vector() const override { return 2; }

    const PvrdmaConfig _config;
    const bool _has_qp_handles; // in the answer to CREATE_QP
    const uint8_t _gid_type;
    uint64_t _event_rings[2] = {}; // their states
};

} // namespace rdma::fuzz
