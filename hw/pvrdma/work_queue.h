// SPDX-License-Identifier: GPL-2.0-or-later
//
// Work queue and completion queue entries: from the guest's layout to the
// backend's and back. Each WQE is copied once, and only the copy is looked at.
#pragma once

#include "backend.h"
#include "guest_ring.h"
#include "pvrdma_abi.h"

namespace rdma::pvrdma {

// Bytes of a WQE with room for max_sge entries, as driver and library compute
// it.
uint32_t sq_wqe_size(uint32_t max_sge);
uint32_t rq_wqe_size(uint32_t max_sge);

// Decodes the WQE at gpa. datagram: the QP is UD or GSI. What cannot be decoded
// is marked malformed. False: it is not in guest memory.
bool read_send_wqe(const GuestMemory& memory, uint64_t gpa, uint32_t max_sge, bool datagram,
                   SendRequest& out);
bool read_recv_wqe(const GuestMemory& memory, uint64_t gpa, uint32_t max_sge, RecvRequest& out);

Cqe encode_cqe(const Completion& completion);

} // namespace rdma::pvrdma
