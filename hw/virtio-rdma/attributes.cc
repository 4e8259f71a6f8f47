// SPDX-License-Identifier: GPL-2.0-or-later
#include "attributes.h"

namespace rdma::virtio {

namespace {

constexpr uint32_t psn_mask = 0xffffff; // PSNs and QPNs have 24 bits
constexpr uint8_t max_timer = 31;
constexpr uint8_t max_retries = 7;

struct MaskBit {
    uint32_t guest;
    int verbs;
};
constexpr MaskBit mask_bits[] = {
    {VIRTIO_RDMA_ATTR_STATE, IBV_QP_STATE},
    {VIRTIO_RDMA_ATTR_CURRENT_STATE, IBV_QP_CUR_STATE},
    {VIRTIO_RDMA_ATTR_ACCESS, IBV_QP_ACCESS_FLAGS},
    {VIRTIO_RDMA_ATTR_QKEY, IBV_QP_QKEY},
    {VIRTIO_RDMA_ATTR_AV, IBV_QP_AV},
    {VIRTIO_RDMA_ATTR_PATH_MTU, IBV_QP_PATH_MTU},
    {VIRTIO_RDMA_ATTR_TIMEOUT, IBV_QP_TIMEOUT},
    {VIRTIO_RDMA_ATTR_RETRY_COUNT, IBV_QP_RETRY_CNT},
    {VIRTIO_RDMA_ATTR_RNR_RETRY, IBV_QP_RNR_RETRY},
    {VIRTIO_RDMA_ATTR_RQ_PSN, IBV_QP_RQ_PSN},
    {VIRTIO_RDMA_ATTR_MAX_RD_ATOMIC, IBV_QP_MAX_QP_RD_ATOMIC},
    {VIRTIO_RDMA_ATTR_MIN_RNR_TIMER, IBV_QP_MIN_RNR_TIMER},
    {VIRTIO_RDMA_ATTR_SQ_PSN, IBV_QP_SQ_PSN},
    {VIRTIO_RDMA_ATTR_MAX_DEST_RD_ATOMIC, IBV_QP_MAX_DEST_RD_ATOMIC},
    {VIRTIO_RDMA_ATTR_DEST_QPN, IBV_QP_DEST_QPN},
    {VIRTIO_RDMA_ATTR_SQD_EVENT, IBV_QP_EN_SQD_ASYNC_NOTIFY},
};

constexpr uint32_t all_attributes()
{
    uint32_t mask = 0;
    for (const MaskBit& bit : mask_bits) {
        mask |= bit.guest;
    }
    return mask;
}

// States have libibverbs' numbers.
static_assert(VIRTIO_RDMA_QP_RESET == +IBV_QPS_RESET && VIRTIO_RDMA_QP_INIT == +IBV_QPS_INIT &&
              VIRTIO_RDMA_QP_RTR == +IBV_QPS_RTR && VIRTIO_RDMA_QP_RTS == +IBV_QPS_RTS &&
              VIRTIO_RDMA_QP_SQD == +IBV_QPS_SQD && VIRTIO_RDMA_QP_SQE == +IBV_QPS_SQE &&
              VIRTIO_RDMA_QP_ERR == +IBV_QPS_ERR);

} // namespace

bool decode_attributes(const virtio_rdma_qp_attributes& in, const AttributeLimits& limits,
                       ibv_qp_attr& attr, int& mask, Mac& dmac)
{
    attr = {};
    mask = 0;
    dmac = {};
    for (const MaskBit& bit : mask_bits) {
        mask |= in.mask & bit.guest ? bit.verbs : 0;
    }
    bool ok = (in.mask & ~all_attributes()) == 0 && in.reserved == 0;
    // Whether an attribute that is named is in its range.
    auto check = [&](int bit, bool is_in_range) {
        bool named = (mask & bit) != 0;
        ok = ok && (!named || is_in_range);
        return named && is_in_range;
    };
    if (check(IBV_QP_STATE, in.state <= VIRTIO_RDMA_QP_ERR)) {
        attr.qp_state = static_cast<ibv_qp_state>(in.state);
    }
    if (check(IBV_QP_CUR_STATE, in.current_state <= VIRTIO_RDMA_QP_ERR)) {
        attr.cur_qp_state = static_cast<ibv_qp_state>(in.current_state);
    }
    int access = 0;
    if (check(IBV_QP_ACCESS_FLAGS, decode_access(in.access, limits.features, access))) {
        attr.qp_access_flags = static_cast<unsigned>(access);
    }
    if (check(IBV_QP_QKEY, true)) {
        attr.qkey = in.qkey;
    }
    AddressVector av;
    if (check(IBV_QP_AV, decode_address(in.av, av))) {
        attr.ah_attr = av.attr;
        dmac = av.dmac;
    }
    if (check(IBV_QP_PATH_MTU, in.path_mtu >= VIRTIO_RDMA_MTU_256 && in.path_mtu <= limits.max_mtu)) {
        attr.path_mtu = static_cast<ibv_mtu>(in.path_mtu);
    }
    if (check(IBV_QP_TIMEOUT, in.timeout <= max_timer)) {
        attr.timeout = in.timeout;
    }
    if (check(IBV_QP_RETRY_CNT, in.retry_count <= max_retries)) {
        attr.retry_cnt = in.retry_count;
    }
    if (check(IBV_QP_RNR_RETRY, in.rnr_retry <= max_retries)) {
        attr.rnr_retry = in.rnr_retry;
    }
    if (check(IBV_QP_RQ_PSN, in.rq_psn <= psn_mask)) {
        attr.rq_psn = in.rq_psn;
    }
    if (check(IBV_QP_MAX_QP_RD_ATOMIC, in.max_rd_atomic <= limits.max_rd_atomic)) {
        attr.max_rd_atomic = in.max_rd_atomic;
    }
    if (check(IBV_QP_MIN_RNR_TIMER, in.min_rnr_timer <= max_timer)) {
        attr.min_rnr_timer = in.min_rnr_timer;
    }
    if (check(IBV_QP_SQ_PSN, in.sq_psn <= psn_mask)) {
        attr.sq_psn = in.sq_psn;
    }
    if (check(IBV_QP_MAX_DEST_RD_ATOMIC, in.max_dest_rd_atomic <= limits.max_dest_rd_atomic)) {
        attr.max_dest_rd_atomic = in.max_dest_rd_atomic;
    }
    if (check(IBV_QP_DEST_QPN, in.dest_qpn <= psn_mask)) {
        attr.dest_qp_num = in.dest_qpn;
    }
    if (check(IBV_QP_EN_SQD_ASYNC_NOTIFY, in.sqd_event <= 1)) {
        attr.en_sqd_async_notify = in.sqd_event;
    }
    return ok;
}

virtio_rdma_qp_attributes encode_attributes(const ibv_qp_attr& attr, const Mac& dmac)
{
    virtio_rdma_qp_attributes out{};
    out.mask = all_attributes();
    out.state = static_cast<uint8_t>(attr.qp_state);
    out.current_state = static_cast<uint8_t>(attr.cur_qp_state);
    out.path_mtu = static_cast<uint8_t>(attr.path_mtu);
    out.max_rd_atomic = attr.max_rd_atomic;
    out.max_dest_rd_atomic = attr.max_dest_rd_atomic;
    out.min_rnr_timer = attr.min_rnr_timer;
    out.timeout = attr.timeout;
    out.retry_count = attr.retry_cnt;
    out.rnr_retry = attr.rnr_retry;
    out.sqd_event = attr.en_sqd_async_notify;
    out.sq_draining = attr.sq_draining;
    out.access = encode_access(attr.qp_access_flags);
    out.qkey = attr.qkey;
    out.rq_psn = attr.rq_psn;
    out.sq_psn = attr.sq_psn;
    out.dest_qpn = attr.dest_qp_num;
    out.av = encode_address({attr.ah_attr, dmac});
    return out;
}

} // namespace rdma::virtio
