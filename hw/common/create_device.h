// SPDX-License-Identifier: GPL-2.0-or-later
//
// How each kind of device is put together: hw/pvrdma/pvrdma.h and its like call this.
#pragma once

#include <functional>
#include <memory>

#include "device.h"
#include "guest_memory.h"
#include "rdma_device.h"
#include "runner.h"

namespace rdma {

// One kind of device, with the limits that it has here.
struct DeviceModel {
    migration::DeviceKind kind;
    Limits limits; // that the backend must serve
    std::function<std::unique_ptr<Device>(DeviceHost& host, GuestMemory& memory, Backend& backend,
                                          Statistics& stats)>
        make;
};

// The device over that backend. May throw.
RdmaDevice* new_device(OpenedBackend& backend, const DeviceModel& model, const RdmaHostOps& ops,
                       void* opaque);

// make(). Where that throws, returns null and sets *error to what it said (free() it).
RdmaDevice* create_device(char** error, const std::function<RdmaDevice*()>& make);

} // namespace rdma
