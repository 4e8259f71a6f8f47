// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "verbs_backend.h"

namespace rdma::verbs {

// Requests as they are pulled and as libibverbs takes them: lists of batch_size.
struct VerbsBackend::Batch {
    std::array<SendRequest, batch_size> sends;
    std::array<ibv_send_wr, batch_size> send_wrs;
    std::array<RecvRequest, batch_size> recvs;
    std::array<ibv_recv_wr, batch_size> recv_wrs;
};

} // namespace rdma::verbs
