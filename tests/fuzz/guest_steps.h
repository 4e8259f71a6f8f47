// SPDX-License-Identifier: GPL-2.0-or-later
//
// Steps of a guest that is out to do harm, each made from the input: most are near
// to what a driver or a program does, and wrong in one place. A fuzz target
// chooses among them.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <vector>

#include "machine.h"
#include "machine_steps.h"

namespace rdma::fuzz {

// Where the memory region of a program at work begins, unaligned.
inline constexpr uint64_t region_iova = 0x7f00'0000'0ff0;
inline constexpr uint32_t region_pages = 4;

// A device's configuration: the default, or small limits, another version or
// RoCEv1.
PvrdmaConfig pick_config(FuzzedDataProvider& data);

class GuestSteps : public MachineSteps {
public:
    GuestSteps(FuzzedDataProvider& data, Machine& machine) : MachineSteps(data, machine), _m(machine)
    {}

    // A program at work: two QPs of one device connected to each other (to
    // peer_host's peer_qpn where that is given), with or without an SRQ.
    void set_up_program(std::optional<uint8_t> peer_host = {}, uint32_t peer_qpn = 0);

    // Registers and doorbells.
    void access_bar();
    void ring_doorbell();
    void write_shared_region(); // a DSR that is right, or wrong in one place
    void arm_and_drain();
    void reset();
    // The device has been unplugged: a new one, and a program at work again.
    void plug_again(std::optional<uint8_t> peer_host);
    // Guest memory.
    void write_memory();
    void lie_about_ring();
    void write_ring_entry();
    // Commands.
    void raw_command();
    void create();
    void use_object();
    void ask(); // queries of port and key, unknown commands
    // Requests.
    void post();
    void post_to_srq();

    // Reset brings the device back, whatever has been done; aborts if not.
    void expect_recovery();

    const std::vector<GuestQp>& qps() const { return _qps; }

private:
    uint32_t size();
    uint32_t a_qp();
    uint64_t gpa();
    uint64_t a_directory();
    uint64_t address();
    const Ring* a_ring();
    void create_mr(const CmdCreateMr& cmd);
    void create_right();
    void forget_objects();

    Machine& _m;
    std::vector<uint32_t> _pds, _cqs, _mrs, _srqs, _contexts, _keys;
    std::vector<Ring> _cq_rings, _srq_rings;
    std::vector<GuestQp> _qps;
};

} // namespace rdma::fuzz
