// SPDX-License-Identifier: GPL-2.0-or-later
//
// Steps of a guest with a virtio RDMA device that is out to do harm, each made from the input:
// most are near to what a driver or a process does, and wrong in one place.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <vector>

#include "machine_steps.h"
#include "virtio_machine.h"

namespace rdma::fuzz {

// The default, or small limits, whose tables are full at once.
VirtioRdmaConfig pick_virtio_config(FuzzedDataProvider& data);

class VirtioSteps : public MachineSteps {
public:
    VirtioSteps(FuzzedDataProvider& data, VirtioMachine& machine)
        : MachineSteps(data, machine), _m(machine)
    {}

    // A program at work, with a context of its own and perhaps an SRQ: queue pairs of RC, the
    // first for a peer, two more for each other, and one of UD. The kernel has a GSI queue pair,
    // and where is_privileged a region for DMA and one for fast registration.
    void set_up_program(bool is_privileged);
    // The first queue pair, towards that of a peer's program.
    void connect_first(uint8_t host, uint32_t qpn);
    const std::vector<VirtioQp>& qps() const { return _qps; }

    // One step of any kind but those below.
    void step();
    // Commands: as they must be, or wrong in one place, or any bytes.
    void send_command();
    void post_send();
    void post_receive();
    void write_ring_entry(); // raw bytes
    void lie_about_ring();
    void ring_doorbell();
    void write_memory();
    void drain_and_arm();
    void negotiate(); // features and event queues, at any time
    void stop_and_start();
    // As a driver does before it sets the device up: nothing of the old one is left.
    void reset();

private:
    uint32_t a(Kind kind);
    uint64_t gpa();
    uint64_t address();
    std::vector<uint64_t> some_pages(uint64_t right_count);
    std::vector<const VirtioQueue*> queues() const;
    const VirtioQueue* a_queue();
    std::vector<uint8_t> request(uint32_t command);
    void spoil(std::vector<uint8_t>& request);
    void keep_made(const std::vector<uint8_t>& request);
    void restart_queues(uint32_t qpn);

    VirtioMachine& _m;
    std::vector<VirtioQp> _qps;
    std::vector<VirtioQueue> _srqs;
    std::vector<VirtioCq> _cqs;
    std::vector<uint32_t> _keys;
};

} // namespace rdma::fuzz
