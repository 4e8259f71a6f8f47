// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the device tells its driver about itself and its port.
#pragma once

#include "backend.h"
#include "pvrdma.h"
#include "pvrdma_abi.h"

namespace rdma::pvrdma {

inline constexpr uint8_t port_number = 1; // the only port

// What a GID must be marked as: the driver wants one RoCE version.
uint8_t gid_type_of(const PvrdmaConfig& config);

DeviceCaps capabilities_of(const PvrdmaConfig& config, const RdmaNicInfo& nic,
                           const Backend& backend);
PortAttr port_attributes_of(const PvrdmaConfig& config, const RdmaNicInfo& nic,
                            const Backend& backend);

} // namespace rdma::pvrdma
