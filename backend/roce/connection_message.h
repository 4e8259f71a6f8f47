// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the guest's messages of communication management (IBTA vol. 1, 12.6) tell
// of the connections they make, as they pass on their way out of the GSI QP.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace rdma::roce {

// How often a peer retries after RNR NAK: its QP's rnr_retry, which the other
// end asks for in its REQ or REP. 7: without end.
struct PeerRnrRetry {
    uint32_t qpn; // of the sender of the message
    uint8_t count;
};

// Nothing where the MAD is no REQ or REP.
std::optional<PeerRnrRetry> rnr_retry_asked_for(std::span<const uint8_t> mad);

} // namespace rdma::roce
