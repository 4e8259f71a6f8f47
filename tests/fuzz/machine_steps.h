// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the guests of every kind of device do, each made from the input (guest_steps.h,
// virtio_steps.h).
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <cstdint>
#include <vector>

#include "device_machine.h"

namespace rdma::fuzz {

class MachineSteps {
public:
    // To the world: time, network, link, memory map.
    void change_world();
    void change_memory(); // between two reads of the device

protected:
    MachineSteps(FuzzedDataProvider& data, DeviceMachine& machine) : _data(data), _machine(machine)
    {}

    // Mostly small, or one of what matters.
    uint32_t value();
    // Mostly one that is known.
    uint32_t one_of(const std::vector<uint32_t>& known);

    FuzzedDataProvider& _data;

private:
    DeviceMachine& _machine;
};

} // namespace rdma::fuzz
