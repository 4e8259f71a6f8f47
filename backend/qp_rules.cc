// SPDX-License-Identifier: GPL-2.0-or-later
#include "qp_rules.h"

#include <cerrno>
#include <span>

namespace rdma {

namespace {

constexpr uint32_t qpn_psn_mask = 0xffffff; // QPNs and PSNs have 24 bits

// One row: what a transition needs and what it may have beside that.
struct Transition {
    ibv_qp_state from;
    ibv_qp_state to;
    int required;
    int optional;
};

// Automatic path migration is an option (10.4) that is not offered: there is no
// alternate path, and the one state of migration is MIGRATED.
constexpr int alt = IBV_QP_PATH_MIG_STATE;

constexpr Transition rc_transitions[] = {
    {IBV_QPS_RESET, IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, 0},
    {IBV_QPS_INIT, IBV_QPS_INIT, 0, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS},
    {IBV_QPS_INIT, IBV_QPS_RTR,
     IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
         IBV_QP_MIN_RNR_TIMER,
     IBV_QP_ACCESS_FLAGS | IBV_QP_PKEY_INDEX},
    {IBV_QPS_RTR, IBV_QPS_RTS,
     IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
         IBV_QP_MAX_QP_RD_ATOMIC,
     IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER | alt},
    {IBV_QPS_RTS, IBV_QPS_RTS, 0, IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER | alt},
    {IBV_QPS_RTS, IBV_QPS_SQD, 0, IBV_QP_EN_SQD_ASYNC_NOTIFY},
    {IBV_QPS_SQD, IBV_QPS_RTS, 0, IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER | alt},
    {IBV_QPS_SQD, IBV_QPS_SQD, 0,
     IBV_QP_PORT | IBV_QP_AV | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
         IBV_QP_MAX_QP_RD_ATOMIC | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_ACCESS_FLAGS |
         IBV_QP_PKEY_INDEX | IBV_QP_MIN_RNR_TIMER | alt},
};

constexpr Transition uc_transitions[] = {
    {IBV_QPS_RESET, IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, 0},
    {IBV_QPS_INIT, IBV_QPS_INIT, 0, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS},
    {IBV_QPS_INIT, IBV_QPS_RTR, IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN,
     IBV_QP_ACCESS_FLAGS | IBV_QP_PKEY_INDEX},
    {IBV_QPS_RTR, IBV_QPS_RTS, IBV_QP_SQ_PSN, IBV_QP_ACCESS_FLAGS | alt},
    {IBV_QPS_RTS, IBV_QPS_RTS, 0, IBV_QP_ACCESS_FLAGS | alt},
    {IBV_QPS_RTS, IBV_QPS_SQD, 0, IBV_QP_EN_SQD_ASYNC_NOTIFY},
    {IBV_QPS_SQD, IBV_QPS_RTS, 0, IBV_QP_ACCESS_FLAGS | alt},
    {IBV_QPS_SQD, IBV_QPS_SQD, 0, IBV_QP_AV | IBV_QP_ACCESS_FLAGS | IBV_QP_PKEY_INDEX | alt},
    {IBV_QPS_SQE, IBV_QPS_RTS, 0, IBV_QP_ACCESS_FLAGS},
};

constexpr Transition ud_transitions[] = {
    {IBV_QPS_RESET, IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY, 0},
    {IBV_QPS_INIT, IBV_QPS_INIT, 0, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY},
    {IBV_QPS_INIT, IBV_QPS_RTR, 0, IBV_QP_PKEY_INDEX | IBV_QP_QKEY},
    {IBV_QPS_RTR, IBV_QPS_RTS, IBV_QP_SQ_PSN, IBV_QP_QKEY},
    {IBV_QPS_RTS, IBV_QPS_RTS, 0, IBV_QP_QKEY},
    {IBV_QPS_RTS, IBV_QPS_SQD, 0, IBV_QP_EN_SQD_ASYNC_NOTIFY},
    {IBV_QPS_SQD, IBV_QPS_RTS, 0, IBV_QP_QKEY},
    {IBV_QPS_SQD, IBV_QPS_SQD, 0, IBV_QP_PKEY_INDEX | IBV_QP_QKEY},
    {IBV_QPS_SQE, IBV_QPS_RTS, 0, IBV_QP_QKEY},
};

std::span<const Transition> transitions_of(ibv_qp_type type)
{
    switch (type) {
    case IBV_QPT_RC:
        return rc_transitions;
    case IBV_QPT_UC:
        return uc_transitions;
    default:
        return ud_transitions;
    }
}

const Transition* find_transition(ibv_qp_type type, ibv_qp_state from, ibv_qp_state to)
{
    for (const Transition& row : transitions_of(type)) {
        if (row.from == from && row.to == to) {
            return &row;
        }
    }
    return nullptr;
}

} // namespace

int check_transition(ibv_qp_type type, bool gsi, ibv_qp_state from, ibv_qp_state to, int mask)
{
    mask &= ~(IBV_QP_STATE | IBV_QP_CUR_STATE);
    if (to == IBV_QPS_RESET || to == IBV_QPS_ERR) {
        return mask == 0 ? 0 : EINVAL;
    }
    const Transition* row = find_transition(type, from, to);
    if (!row) {
        return EINVAL;
    }
    // The GSI QP has its port from creation.
    int required = gsi ? row->required & ~IBV_QP_PORT : row->required;
    int allowed = row->required | row->optional;
    return (mask & required) == required && (mask & ~allowed) == 0 ? 0 : EINVAL;
}

bool has_transition(ibv_qp_type type, ibv_qp_state from, ibv_qp_state to)
{
    return to == IBV_QPS_RESET || to == IBV_QPS_ERR || find_transition(type, from, to);
}

int check_init(const QpInit& init, const Limits& limits)
{
    const ibv_qp_cap& cap = init.cap;
    bool ok = cap.max_send_wr <= limits.max_qp_wr && cap.max_recv_wr <= limits.max_qp_wr &&
              cap.max_send_sge <= limits.max_sge && cap.max_recv_sge <= limits.max_sge &&
              // [IBTA CA17-28]
              (init.type == IBV_QPT_RC || init.type == IBV_QPT_UC || init.type == IBV_QPT_UD) &&
              (!init.gsi || init.type == IBV_QPT_UD);
    return ok ? 0 : EINVAL;
}

int check_attributes(const ibv_qp_attr& attr, int mask, const Limits& limits, ibv_mtu port_mtu)
{
    auto given = [mask](int bit) { return (mask & bit) != 0; };
    bool ok = !(given(IBV_QP_PKEY_INDEX) && attr.pkey_index != 0) &&
              !(given(IBV_QP_PORT) && attr.port_num != 1) &&
              !(given(IBV_QP_PATH_MTU) &&
                (attr.path_mtu < IBV_MTU_256 || attr.path_mtu > port_mtu)) &&
              !(given(IBV_QP_PATH_MIG_STATE) && attr.path_mig_state != IBV_MIG_MIGRATED) &&
              !(given(IBV_QP_MIN_RNR_TIMER) && attr.min_rnr_timer > 31) &&
              !(given(IBV_QP_TIMEOUT) && attr.timeout > 31) &&
              !(given(IBV_QP_RETRY_CNT) && attr.retry_cnt > 7) &&
              !(given(IBV_QP_RNR_RETRY) && attr.rnr_retry > 7) &&
              !(given(IBV_QP_MAX_QP_RD_ATOMIC) &&
                attr.max_rd_atomic > limits.max_qp_init_rd_atom) &&
              !(given(IBV_QP_MAX_DEST_RD_ATOMIC) &&
                attr.max_dest_rd_atomic > limits.max_qp_rd_atom) &&
              // A16.4.4: every packet has a GRH.
              !(given(IBV_QP_AV) && (!attr.ah_attr.is_global ||
                                     attr.ah_attr.grh.sgid_index >= limits.gid_tbl_len));
    return ok ? 0 : EINVAL;
}

void merge_attributes(ibv_qp_attr& to, const ibv_qp_attr& from, int mask)
{
    auto given = [mask](int bit) { return (mask & bit) != 0; };
    if (given(IBV_QP_EN_SQD_ASYNC_NOTIFY)) {
        to.en_sqd_async_notify = from.en_sqd_async_notify;
    }
    if (given(IBV_QP_ACCESS_FLAGS)) {
        to.qp_access_flags = from.qp_access_flags;
    }
    if (given(IBV_QP_PKEY_INDEX)) {
        to.pkey_index = from.pkey_index;
    }
    if (given(IBV_QP_PORT)) {
        to.port_num = from.port_num;
    }
    if (given(IBV_QP_QKEY)) {
        to.qkey = from.qkey;
    }
    if (given(IBV_QP_AV)) {
        to.ah_attr = from.ah_attr;
    }
    if (given(IBV_QP_PATH_MTU)) {
        to.path_mtu = from.path_mtu;
    }
    if (given(IBV_QP_TIMEOUT)) {
        to.timeout = from.timeout;
    }
    if (given(IBV_QP_RETRY_CNT)) {
        to.retry_cnt = from.retry_cnt;
    }
    if (given(IBV_QP_RNR_RETRY)) {
        to.rnr_retry = from.rnr_retry;
    }
    if (given(IBV_QP_RQ_PSN)) {
        to.rq_psn = from.rq_psn & qpn_psn_mask;
    }
    if (given(IBV_QP_SQ_PSN)) {
        to.sq_psn = from.sq_psn & qpn_psn_mask;
    }
    if (given(IBV_QP_MAX_QP_RD_ATOMIC)) {
        to.max_rd_atomic = from.max_rd_atomic;
    }
    if (given(IBV_QP_MAX_DEST_RD_ATOMIC)) {
        to.max_dest_rd_atomic = from.max_dest_rd_atomic;
    }
    if (given(IBV_QP_MIN_RNR_TIMER)) {
        to.min_rnr_timer = from.min_rnr_timer;
    }
    if (given(IBV_QP_PATH_MIG_STATE)) {
        to.path_mig_state = from.path_mig_state;
    }
    if (given(IBV_QP_DEST_QPN)) {
        to.dest_qp_num = from.dest_qp_num & qpn_psn_mask;
    }
}

} // namespace rdma
