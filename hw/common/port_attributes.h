// SPDX-License-Identifier: GPL-2.0-or-later
//
// What ports of every kind of device say of themselves with the roce backend.
#pragma once

#include <cstdint>

namespace rdma {

// Local CA ACK delay: 4.096 us * 2^15 = 134 ms, as Linux's rxe says of itself.
inline constexpr uint8_t ca_ack_delay = 15;
// Largest message, bytes: what the engine serves at every path MTU.
inline constexpr uint32_t max_message_size = 1u << 30;
// VLAN identifiers (IEEE 802.1Q).
inline constexpr uint16_t first_vlan = 1;
inline constexpr uint16_t last_vlan = 4094;

} // namespace rdma
