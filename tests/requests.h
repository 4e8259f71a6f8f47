// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests as tests post them to a backend.
#pragma once

#include <algorithm>
#include <initializer_list>

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

// The fast registration of pages, the first of which has iova.
inline SendRequest fast_registration(uint64_t wr_id, uint32_t key, uint64_t iova, uint32_t length,
                                     std::initializer_list<uint64_t> pages, int access,
                                     unsigned flags = IBV_SEND_SIGNALED)
{
    SendRequest request;
    request.opcode = wr_fast_reg;
    request.wr.wr_id = wr_id;
    request.wr.send_flags = flags;
    request.fast_reg.iova = iova;
    request.fast_reg.length = length;
    request.fast_reg.key = key;
    request.fast_reg.access = access;
    request.fast_reg.num_pages = static_cast<uint32_t>(pages.size());
    std::ranges::copy(pages, request.fast_reg.pages.begin());
    return request;
}

} // namespace rdma::test
