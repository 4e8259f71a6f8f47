// SPDX-License-Identifier: GPL-2.0-or-later
#include "qp_attributes.h"

#include <algorithm>

namespace rdma::pvrdma {

namespace {

constexpr uint8_t ah_flag_grh = 1;
constexpr uint16_t no_vlan = 0xffff;

ibv_ah_attr decode_ah(const AhAttr& ah)
{
    ibv_ah_attr out{};
    std::copy_n(ah.dgid, sizeof(ah.dgid), out.grh.dgid.raw);
    out.grh.flow_label = ah.flow_label;
    out.grh.sgid_index = ah.sgid_index;
    out.grh.hop_limit = ah.hop_limit;
    out.grh.traffic_class = ah.traffic_class;
    out.dlid = ah.dlid;
    out.sl = ah.sl;
    out.src_path_bits = ah.src_path_bits;
    out.static_rate = ah.static_rate;
    out.is_global = (ah.ah_flags & ah_flag_grh) != 0;
    out.port_num = ah.port_num;
    return out;
}

AhAttr encode_ah(const ibv_ah_attr& ah, const Mac& dmac)
{
    AhAttr out{};
    std::copy_n(ah.grh.dgid.raw, sizeof(out.dgid), out.dgid);
    out.flow_label = ah.grh.flow_label;
    out.sgid_index = ah.grh.sgid_index;
    out.hop_limit = ah.grh.hop_limit;
    out.traffic_class = ah.grh.traffic_class;
    out.dlid = ah.dlid;
    out.vlan_id = no_vlan;
    out.sl = ah.sl;
    out.src_path_bits = ah.src_path_bits;
    out.static_rate = ah.static_rate;
    out.ah_flags = ah.is_global ? ah_flag_grh : 0;
    out.port_num = ah.port_num;
    std::ranges::copy(dmac, out.dmac);
    return out;
}

} // namespace

bool decode_qp_attributes(const QpAttr& in, int mask, ibv_qp_attr& out, Mac& dmac)
{
    auto given = [mask](int bit) { return (mask & bit) != 0; };
    out = {};
    dmac = {};
    if (given(IBV_QP_STATE)) {
        if (in.qp_state > IBV_QPS_ERR) {
            return false;
        }
        out.qp_state = static_cast<ibv_qp_state>(in.qp_state);
    }
    if (given(IBV_QP_CUR_STATE)) {
        if (in.cur_qp_state > IBV_QPS_ERR) {
            return false;
        }
        out.cur_qp_state = static_cast<ibv_qp_state>(in.cur_qp_state);
    }
    if (given(IBV_QP_PATH_MTU)) {
        if (in.path_mtu < IBV_MTU_256 || in.path_mtu > IBV_MTU_4096) {
            return false;
        }
        out.path_mtu = static_cast<ibv_mtu>(in.path_mtu);
    }
    if (given(IBV_QP_PATH_MIG_STATE)) {
        if (in.path_mig_state > IBV_MIG_ARMED) {
            return false;
        }
        out.path_mig_state = static_cast<ibv_mig_state>(in.path_mig_state);
    }
    if (given(IBV_QP_AV)) {
        out.ah_attr = decode_ah(in.ah_attr);
        std::ranges::copy(in.ah_attr.dmac, dmac.begin());
    }
    if (given(IBV_QP_ALT_PATH)) {
        out.alt_ah_attr = decode_ah(in.alt_ah_attr);
        out.alt_pkey_index = in.alt_pkey_index;
        out.alt_port_num = in.alt_port_num;
        out.alt_timeout = in.alt_timeout;
    }
    // Plain numbers, which can be passed on whether or not they are named.
    out.qkey = in.qkey;
    out.rq_psn = in.rq_psn;
    out.sq_psn = in.sq_psn;
    out.dest_qp_num = in.dest_qp_num;
    out.qp_access_flags = in.qp_access_flags;
    out.pkey_index = in.pkey_index;
    out.en_sqd_async_notify = in.en_sqd_async_notify;
    out.max_rd_atomic = in.max_rd_atomic;
    out.max_dest_rd_atomic = in.max_dest_rd_atomic;
    out.min_rnr_timer = in.min_rnr_timer;
    out.port_num = in.port_num;
    out.timeout = in.timeout;
    out.retry_cnt = in.retry_cnt;
    out.rnr_retry = in.rnr_retry;
    return true;
}

QpAttr encode_qp_attributes(const ibv_qp_attr& in, const Mac& dmac)
{
    QpAttr out{};
    out.qp_state = in.qp_state;
    out.cur_qp_state = in.cur_qp_state;
    out.path_mtu = in.path_mtu;
    out.path_mig_state = in.path_mig_state;
    out.qkey = in.qkey;
    out.rq_psn = in.rq_psn;
    out.sq_psn = in.sq_psn;
    out.dest_qp_num = in.dest_qp_num;
    out.qp_access_flags = in.qp_access_flags;
    out.pkey_index = in.pkey_index;
    out.alt_pkey_index = in.alt_pkey_index;
    out.en_sqd_async_notify = in.en_sqd_async_notify;
    out.sq_draining = in.sq_draining;
    out.max_rd_atomic = in.max_rd_atomic;
    out.max_dest_rd_atomic = in.max_dest_rd_atomic;
    out.min_rnr_timer = in.min_rnr_timer;
    out.port_num = in.port_num;
    out.timeout = in.timeout;
    out.retry_cnt = in.retry_cnt;
    out.rnr_retry = in.rnr_retry;
    out.alt_port_num = in.alt_port_num;
    out.alt_timeout = in.alt_timeout;
    out.cap = {in.cap.max_send_wr,  in.cap.max_recv_wr,     in.cap.max_send_sge,
               in.cap.max_recv_sge, in.cap.max_inline_data, 0};
    out.ah_attr = encode_ah(in.ah_attr, dmac);
    out.alt_ah_attr = encode_ah(in.alt_ah_attr, {});
    return out;
}

} // namespace rdma::pvrdma
