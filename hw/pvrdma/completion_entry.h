// SPDX-License-Identifier: GPL-2.0-or-later
//
// Completion queue entries: from the backend's completions to the guest's
// layout.
#pragma once

#include "backend.h"
#include "queue_abi.h"

namespace rdma::pvrdma {

Cqe encode_completion(const Completion& completion);

} // namespace rdma::pvrdma
