// SPDX-License-Identifier: GPL-2.0-or-later
//
// The attributes that a program names on a QP's way to RTS (ibv_modify_qp(3)).
#pragma once

#include <infiniband/verbs.h>

namespace rdma::test {

constexpr int rtr_mask(ibv_qp_type type)
{
    int mask = IBV_QP_STATE;
    if (type == IBV_QPT_RC || type == IBV_QPT_UC) {
        mask |= IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN;
    }
    if (type == IBV_QPT_RC) {
        mask |= IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
    }
    return mask;
}

constexpr int rts_mask(ibv_qp_type type)
{
    int mask = IBV_QP_STATE | IBV_QP_SQ_PSN;
    if (type == IBV_QPT_RC) {
        mask |= IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC;
    }
    return mask;
}

} // namespace rdma::test
