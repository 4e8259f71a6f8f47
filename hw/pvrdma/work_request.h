// SPDX-License-Identifier: GPL-2.0-or-later
//
// Work queue entries: from the guest's layout to the backend's requests. Each
// byte of a WQE is copied once, and only the copy is looked at.
#pragma once

#include "backend.h"
#include "guest_memory.h"
#include "queue_abi.h"

namespace rdma::pvrdma {

// Bytes of a WQE with room for max_sge entries, as driver and library compute
// it: a power of two, at most a page.
uint32_t sq_wqe_size(uint32_t max_sge);
uint32_t rq_wqe_size(uint32_t max_sge);

// What a QP's requests are judged by.
struct SendLimits {
    uint32_t max_sge;
    uint32_t pd;
    bool datagram; // UD or GSI
};

// Decodes the WQE at gpa. What cannot be carried out is marked malformed; its
// wr_id and flags hold, and it has no SGEs. False: the WQE is not in guest
// memory.
[[nodiscard]] bool read_send_wqe(const GuestMemory& memory, uint64_t gpa, const SendLimits& limits,
                                 SendRequest& out);
[[nodiscard]] bool read_recv_wqe(const GuestMemory& memory, uint64_t gpa, uint32_t max_sge,
                                 RecvRequest& out);

} // namespace rdma::pvrdma
