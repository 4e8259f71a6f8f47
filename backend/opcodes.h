// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "backend.h"

namespace rdma {

// The opcode of a send request's completion. wr_opcode: as in SendRequest.
inline ibv_wc_opcode wc_opcode_of(int wr_opcode)
{
    switch (wr_opcode) {
    case IBV_WR_RDMA_WRITE:
    case IBV_WR_RDMA_WRITE_WITH_IMM:
        return IBV_WC_RDMA_WRITE;
    case IBV_WR_RDMA_READ:
        return IBV_WC_RDMA_READ;
    case IBV_WR_ATOMIC_CMP_AND_SWP:
        return IBV_WC_COMP_SWAP;
    case IBV_WR_ATOMIC_FETCH_AND_ADD:
        return IBV_WC_FETCH_ADD;
    case IBV_WR_LOCAL_INV:
        return IBV_WC_LOCAL_INV;
    case wr_fast_reg:
        return wc_fast_reg;
    default:
        return IBV_WC_SEND;
    }
}

inline bool is_atomic(int wr_opcode)
{
    return wr_opcode == IBV_WR_ATOMIC_CMP_AND_SWP || wr_opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
}

// Whether a send request takes a receive request of the peer's.
inline bool takes_receive(int wr_opcode)
{
    return wr_opcode == IBV_WR_SEND || wr_opcode == IBV_WR_SEND_WITH_IMM ||
           wr_opcode == IBV_WR_SEND_WITH_INV || wr_opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
}

} // namespace rdma
