// SPDX-License-Identifier: GPL-2.0-or-later
//
// What stands where in a message of connection management (IBTA vol. 1, 12.6), as
// far as it tells whose message it is.
#pragma once

#include <infiniband/umad_cm.h>
#include <infiniband/verbs.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace rdma::verbs {

// Attribute ids, table 106.
enum class CmKind : uint16_t {
    req = UMAD_CM_ATTR_REQ,
    mra = UMAD_CM_ATTR_MRA,
    rej = UMAD_CM_ATTR_REJ,
    rep = UMAD_CM_ATTR_REP,
    rtu = UMAD_CM_ATTR_RTU,
    dreq = UMAD_CM_ATTR_DREQ,
    drep = UMAD_CM_ATTR_DREP,
    sidr_req = UMAD_CM_ATTR_SIDR_REQ,
    sidr_rep = UMAD_CM_ATTR_SIDR_REP,
    lap = UMAD_CM_ATTR_LAP,
    apr = UMAD_CM_ATTR_APR,
};

struct CmMessage {
    CmKind kind;
    // Communication ids: the sender's own, and the receiver's as the sender knows it;
    // 0: none. SIDR has one id, the requester's: of a SIDR_REQ it is the sender's, of
    // a SIDR_REP the receiver's.
    uint32_t sender_id;
    uint32_t receiver_id;
    // The IP address that a REQ or SIDR_REQ is for, as a GID, where its service is one
    // of the RDMA IP CM service (annex A11).
    std::optional<ibv_gid> ip_destination;

    bool is_request() const { return kind == CmKind::req || kind == CmKind::sidr_req; }
    bool is_sidr() const { return kind == CmKind::sidr_req || kind == CmKind::sidr_rep; }
    // Nothing more is to come of that communication.
    bool is_last() const
    {
        return kind == CmKind::rej || kind == CmKind::drep || kind == CmKind::sidr_rep;
    }
};

// mad: mad_size bytes. Nothing: no message of connection management that is known.
std::optional<CmMessage> parse_cm_message(std::span<const std::byte> mad);

} // namespace rdma::verbs
