// SPDX-License-Identifier: GPL-2.0-or-later
//
// The fields of libibverbs' and the interface's own types in a state stream
// (migration/archive.h has the notation), for all backends.
#pragma once

#include "archive.h"
#include "backend.h"

namespace rdma {

template <typename Archive>
void describe(Archive& a, ibv_ah_attr& ah)
{
    a.bytes("dgid", ah.grh.dgid.raw);
    a.u32("flow_label", ah.grh.flow_label);
    a.u8("sgid_index", ah.grh.sgid_index);
    a.u8("hop_limit", ah.grh.hop_limit);
    a.u8("traffic_class", ah.grh.traffic_class);
    a.u16("dlid", ah.dlid);
    a.u8("sl", ah.sl);
    a.u8("src_path_bits", ah.src_path_bits);
    a.u8("static_rate", ah.static_rate);
    a.u8("is_global", ah.is_global);
    a.u8("port_num", ah.port_num);
}

template <typename Archive>
void describe(Archive& a, ibv_sge& sge)
{
    a.u64("addr", sge.addr);
    a.u32("length", sge.length);
    a.u32("lkey", sge.lkey);
}

template <typename Archive>
void describe(Archive& a, QpInit& init)
{
    a.u8("type", init.type, IBV_QPT_UD);
    a.flag("gsi", init.gsi);
    a.u32("pd", init.pd);
    a.u32("send_cq", init.send_cq);
    a.u32("recv_cq", init.recv_cq);
    a.flag("use_srq", init.use_srq);
    a.u32("srq", init.srq);
    a.u32("max_send_wr", init.cap.max_send_wr);
    a.u32("max_recv_wr", init.cap.max_recv_wr);
    a.u32("max_send_sge", init.cap.max_send_sge);
    a.u32("max_recv_sge", init.cap.max_recv_sge);
    a.flag("sq_sig_all", init.sq_sig_all);
}

// The rest of what modify_qp has set: cap is QpInit's, states are the QP's own.
template <typename Archive>
void describe(Archive& a, ibv_qp_attr& attr)
{
    a.u8("path_mtu", attr.path_mtu, IBV_MTU_4096);
    a.u8("path_mig_state", attr.path_mig_state, IBV_MIG_ARMED);
    a.u32("qkey", attr.qkey);
    a.u32("rq_psn", attr.rq_psn, 0xffffff);
    a.u32("sq_psn", attr.sq_psn, 0xffffff);
    a.u32("dest_qp_num", attr.dest_qp_num, 0xffffff);
    a.u32("qp_access_flags", attr.qp_access_flags);
    a.record("ah_attr", [&] { describe(a, attr.ah_attr); });
    a.record("alt_ah_attr", [&] { describe(a, attr.alt_ah_attr); });
    a.u16("pkey_index", attr.pkey_index);
    a.u16("alt_pkey_index", attr.alt_pkey_index);
    a.u8("en_sqd_async_notify", attr.en_sqd_async_notify);
    a.u8("max_rd_atomic", attr.max_rd_atomic);
    a.u8("max_dest_rd_atomic", attr.max_dest_rd_atomic);
    a.u8("min_rnr_timer", attr.min_rnr_timer);
    a.u8("port_num", attr.port_num);
    a.u8("timeout", attr.timeout);
    a.u8("retry_cnt", attr.retry_cnt);
    a.u8("rnr_retry", attr.rnr_retry);
    a.u8("alt_port_num", attr.alt_port_num);
    a.u8("alt_timeout", attr.alt_timeout);
}

} // namespace rdma
