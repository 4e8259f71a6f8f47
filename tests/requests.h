// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests as tests post them to a backend.
#pragma once

#include "backend.h"

namespace rdma::test {

inline SendRequest send_request(int opcode, uint64_t wr_id, uint64_t address, uint32_t length,
                                uint32_t lkey, uint64_t remote = 0, uint32_t rkey = 0)
{
    SendRequest request;
    request.opcode = opcode;
    request.wr.wr_id = wr_id;
    request.wr.send_flags = IBV_SEND_SIGNALED;
    request.wr.num_sge = 1;
    request.sge[0] = {address, length, lkey};
    if (opcode == IBV_WR_ATOMIC_CMP_AND_SWP || opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
        request.wr.wr.atomic.remote_addr = remote;
        request.wr.wr.atomic.rkey = rkey;
    } else {
        request.wr.wr.rdma.remote_addr = remote;
        request.wr.wr.rdma.rkey = rkey;
    }
    return request;
}

inline RecvRequest recv_request(uint64_t wr_id, uint64_t address, uint32_t length, uint32_t lkey)
{
    RecvRequest request;
    request.wr_id = wr_id;
    request.num_sge = 1;
    request.sge[0] = {address, length, lkey};
    return request;
}

} // namespace rdma::test
