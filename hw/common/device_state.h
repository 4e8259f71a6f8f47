// SPDX-License-Identifier: GPL-2.0-or-later
//
// A whole device in a state stream: its configuration, for the check, the
// backend, the device model, the counters, in this order.
#pragma once

#include "backend.h"
#include "device.h"
#include "statistics.h"

namespace rdma {

struct StatefulDevice {
    migration::DeviceKind kind;
    const char* backend_name;
    Device& device;
    Backend& backend;
    Statistics& stats;
};

void save_config(const StatefulDevice& parts, migration::StreamWriter& stream);
void save_state(const StatefulDevice& parts, migration::StreamWriter& stream);

// Reads a stream whose first section is the configuration. with_state: the rest
// too; else there may be none. What is wrong is told by the property's name.
migration::Status load_state(const StatefulDevice& parts, std::span<const uint8_t> bytes,
                             bool with_state);

} // namespace rdma
