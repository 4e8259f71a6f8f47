// SPDX-License-Identifier: GPL-2.0-or-later
//
// The layouts of queue entries against the kernel's header, and those of
// commands against what the kernel's driver computes from its own.
#include "pvrdma_abi.h"

#include <gtest/gtest.h>
#include <infiniband/verbs.h>
#include <rdma/vmw_pvrdma-abi.h>

#include "queue_abi.h"

using namespace rdma::pvrdma;

#define SAME_SIZE(ours, theirs) static_assert(sizeof(ours) == sizeof(theirs))
#define SAME_PLACE(ours, our_member, theirs, their_member)                                         \
    static_assert(offsetof(ours, our_member) == offsetof(theirs, their_member))

SAME_SIZE(SqWqeHdr, pvrdma_sq_wqe_hdr);
SAME_PLACE(SqWqeHdr, num_sge, pvrdma_sq_wqe_hdr, num_sge);
SAME_PLACE(SqWqeHdr, opcode, pvrdma_sq_wqe_hdr, opcode);
SAME_PLACE(SqWqeHdr, send_flags, pvrdma_sq_wqe_hdr, send_flags);
SAME_PLACE(SqWqeHdr, ex, pvrdma_sq_wqe_hdr, ex.imm_data);
SAME_PLACE(SqWqeHdr, ex, pvrdma_sq_wqe_hdr, ex.invalidate_rkey);
SAME_PLACE(SqWqeHdr, wr.rdma.remote_addr, pvrdma_sq_wqe_hdr, wr.rdma.remote_addr);
SAME_PLACE(SqWqeHdr, wr.rdma.rkey, pvrdma_sq_wqe_hdr, wr.rdma.rkey);
SAME_PLACE(SqWqeHdr, wr.atomic.compare_add, pvrdma_sq_wqe_hdr, wr.atomic.compare_add);
SAME_PLACE(SqWqeHdr, wr.atomic.swap, pvrdma_sq_wqe_hdr, wr.atomic.swap);
SAME_PLACE(SqWqeHdr, wr.atomic.rkey, pvrdma_sq_wqe_hdr, wr.atomic.rkey);
SAME_PLACE(SqWqeHdr, wr.fast_reg.iova_start, pvrdma_sq_wqe_hdr, wr.fast_reg.iova_start);
SAME_PLACE(SqWqeHdr, wr.fast_reg.pl_pdir_dma, pvrdma_sq_wqe_hdr, wr.fast_reg.pl_pdir_dma);
SAME_PLACE(SqWqeHdr, wr.fast_reg.page_shift, pvrdma_sq_wqe_hdr, wr.fast_reg.page_shift);
SAME_PLACE(SqWqeHdr, wr.fast_reg.page_list_len, pvrdma_sq_wqe_hdr, wr.fast_reg.page_list_len);
SAME_PLACE(SqWqeHdr, wr.fast_reg.length, pvrdma_sq_wqe_hdr, wr.fast_reg.length);
SAME_PLACE(SqWqeHdr, wr.fast_reg.access_flags, pvrdma_sq_wqe_hdr, wr.fast_reg.access_flags);
SAME_PLACE(SqWqeHdr, wr.fast_reg.rkey, pvrdma_sq_wqe_hdr, wr.fast_reg.rkey);
SAME_PLACE(SqWqeHdr, wr.ud.remote_qpn, pvrdma_sq_wqe_hdr, wr.ud.remote_qpn);
SAME_PLACE(SqWqeHdr, wr.ud.remote_qkey, pvrdma_sq_wqe_hdr, wr.ud.remote_qkey);
SAME_PLACE(SqWqeHdr, wr.ud.av, pvrdma_sq_wqe_hdr, wr.ud.av);

SAME_SIZE(Av, pvrdma_av);
SAME_PLACE(Av, sl_tclass_flowlabel, pvrdma_av, sl_tclass_flowlabel);
SAME_PLACE(Av, dgid, pvrdma_av, dgid);
SAME_PLACE(Av, gid_index, pvrdma_av, gid_index);
SAME_PLACE(Av, hop_limit, pvrdma_av, hop_limit);
SAME_PLACE(Av, dmac, pvrdma_av, dmac);

SAME_SIZE(RqWqeHdr, pvrdma_rq_wqe_hdr);
SAME_PLACE(RqWqeHdr, num_sge, pvrdma_rq_wqe_hdr, num_sge);
SAME_SIZE(Sge, pvrdma_sge);
SAME_PLACE(Sge, length, pvrdma_sge, length);
SAME_PLACE(Sge, lkey, pvrdma_sge, lkey);

SAME_SIZE(Cqe, pvrdma_cqe);
SAME_PLACE(Cqe, qp, pvrdma_cqe, qp);
SAME_PLACE(Cqe, opcode, pvrdma_cqe, opcode);
SAME_PLACE(Cqe, status, pvrdma_cqe, status);
SAME_PLACE(Cqe, byte_len, pvrdma_cqe, byte_len);
SAME_PLACE(Cqe, imm_data, pvrdma_cqe, imm_data);
SAME_PLACE(Cqe, src_qp, pvrdma_cqe, src_qp);
SAME_PLACE(Cqe, wc_flags, pvrdma_cqe, wc_flags);
SAME_PLACE(Cqe, vendor_err, pvrdma_cqe, vendor_err);
SAME_PLACE(Cqe, pkey_index, pvrdma_cqe, pkey_index);
SAME_PLACE(Cqe, slid, pvrdma_cqe, slid);
SAME_PLACE(Cqe, sl, pvrdma_cqe, sl);
SAME_PLACE(Cqe, port_num, pvrdma_cqe, port_num);
SAME_PLACE(Cqe, smac, pvrdma_cqe, smac);
SAME_PLACE(Cqe, network_hdr_type, pvrdma_cqe, network_hdr_type);

#define SAME(ours, theirs)                                                                         \
    static_assert(static_cast<uint32_t>(ours) == static_cast<uint32_t>(theirs))

SAME(wr_rdma_write, PVRDMA_WR_RDMA_WRITE);
SAME(wr_rdma_write_imm, PVRDMA_WR_RDMA_WRITE_WITH_IMM);
SAME(wr_send, PVRDMA_WR_SEND);
SAME(wr_send_imm, PVRDMA_WR_SEND_WITH_IMM);
SAME(wr_rdma_read, PVRDMA_WR_RDMA_READ);
SAME(wr_cmp_swap, PVRDMA_WR_ATOMIC_CMP_AND_SWP);
SAME(wr_fetch_add, PVRDMA_WR_ATOMIC_FETCH_AND_ADD);
SAME(wr_lso, PVRDMA_WR_LSO);
SAME(wr_send_inv, PVRDMA_WR_SEND_WITH_INV);
SAME(wr_rdma_read_inv, PVRDMA_WR_RDMA_READ_WITH_INV);
SAME(wr_local_inv, PVRDMA_WR_LOCAL_INV);
SAME(wr_fast_reg_mr, PVRDMA_WR_FAST_REG_MR);
SAME(wr_masked_cmp_swap, PVRDMA_WR_MASKED_ATOMIC_CMP_AND_SWP);
SAME(wr_masked_fetch_add, PVRDMA_WR_MASKED_ATOMIC_FETCH_AND_ADD);
SAME(wr_bind_mw, PVRDMA_WR_BIND_MW);
SAME(wr_reg_sig_mr, PVRDMA_WR_REG_SIG_MR);

SAME(wc_send, PVRDMA_WC_SEND);
SAME(wc_rdma_write, PVRDMA_WC_RDMA_WRITE);
SAME(wc_rdma_read, PVRDMA_WC_RDMA_READ);
SAME(wc_comp_swap, PVRDMA_WC_COMP_SWAP);
SAME(wc_fetch_add, PVRDMA_WC_FETCH_ADD);
SAME(wc_local_inv, PVRDMA_WC_LOCAL_INV);
SAME(wc_fast_reg_mr, PVRDMA_WC_FAST_REG_MR);
SAME(wc_recv, PVRDMA_WC_RECV);
SAME(wc_recv_rdma_with_imm, PVRDMA_WC_RECV_RDMA_WITH_IMM);
SAME(wc_flag_grh, PVRDMA_WC_GRH);
SAME(wc_flag_imm, PVRDMA_WC_WITH_IMM);
SAME(wc_flag_inv, PVRDMA_WC_WITH_INVALIDATE);
SAME(wc_flag_network_type, PVRDMA_WC_WITH_NETWORK_HDR_TYPE);
SAME(network_roce_v1, PVRDMA_NETWORK_ROCE_V1);
SAME(network_ipv4, PVRDMA_NETWORK_IPV4);
SAME(network_ipv6, PVRDMA_NETWORK_IPV6);

// Statuses are passed on as they are.
SAME(IBV_WC_SUCCESS, PVRDMA_WC_SUCCESS);
SAME(IBV_WC_LOC_LEN_ERR, PVRDMA_WC_LOC_LEN_ERR);
SAME(IBV_WC_LOC_QP_OP_ERR, PVRDMA_WC_LOC_QP_OP_ERR);
SAME(IBV_WC_LOC_PROT_ERR, PVRDMA_WC_LOC_PROT_ERR);
SAME(IBV_WC_WR_FLUSH_ERR, PVRDMA_WC_WR_FLUSH_ERR);
SAME(IBV_WC_BAD_RESP_ERR, PVRDMA_WC_BAD_RESP_ERR);
SAME(IBV_WC_LOC_ACCESS_ERR, PVRDMA_WC_LOC_ACCESS_ERR);
SAME(IBV_WC_REM_INV_REQ_ERR, PVRDMA_WC_REM_INV_REQ_ERR);
SAME(IBV_WC_REM_ACCESS_ERR, PVRDMA_WC_REM_ACCESS_ERR);
SAME(IBV_WC_REM_OP_ERR, PVRDMA_WC_REM_OP_ERR);
SAME(IBV_WC_RETRY_EXC_ERR, PVRDMA_WC_RETRY_EXC_ERR);
SAME(IBV_WC_RNR_RETRY_EXC_ERR, PVRDMA_WC_RNR_RETRY_EXC_ERR);
SAME(IBV_WC_REM_ABORT_ERR, PVRDMA_WC_REM_ABORT_ERR);
SAME(IBV_WC_FATAL_ERR, PVRDMA_WC_FATAL_ERR);
SAME(IBV_WC_RESP_TIMEOUT_ERR, PVRDMA_WC_RESP_TIMEOUT_ERR);
SAME(IBV_WC_GENERAL_ERR, PVRDMA_WC_GENERAL_ERR);

SAME(uar_handle_mask, PVRDMA_UAR_HANDLE_MASK);
SAME(uar_qp_offset, PVRDMA_UAR_QP_OFFSET);
SAME(uar_qp_send, PVRDMA_UAR_QP_SEND);
SAME(uar_qp_recv, PVRDMA_UAR_QP_RECV);
SAME(uar_cq_offset, PVRDMA_UAR_CQ_OFFSET);
SAME(uar_cq_arm_solicited, PVRDMA_UAR_CQ_ARM_SOL);
SAME(uar_cq_arm, PVRDMA_UAR_CQ_ARM);
SAME(uar_cq_poll, PVRDMA_UAR_CQ_POLL);
SAME(uar_srq_offset, PVRDMA_UAR_SRQ_OFFSET);
SAME(uar_srq_recv, PVRDMA_UAR_SRQ_RECV);

// Asynchronous events: the numbers of Linux's pvrdma_eqe_type.
SAME(IBV_EVENT_CQ_ERR, 0);
SAME(IBV_EVENT_QP_FATAL, 1);
SAME(IBV_EVENT_COMM_EST, 4);
SAME(IBV_EVENT_PORT_ACTIVE, 9);
SAME(IBV_EVENT_PORT_ERR, 10);
SAME(IBV_EVENT_SRQ_ERR, 14);
SAME(IBV_EVENT_SRQ_LIMIT_REACHED, 15);
SAME(IBV_EVENT_QP_LAST_WQE_REACHED, 16);
SAME(IBV_EVENT_GID_CHANGE, 18);

// Offsets in Linux's pvrdma_dev_api.h, which is not installed.
static_assert(sizeof(DeviceCaps) == 208 && offsetof(DeviceCaps, vendor_id) == 64 &&
              offsetof(DeviceCaps, max_uar) == 188 && offsetof(DeviceCaps, gid_types) == 203 &&
              offsetof(DeviceCaps, max_fast_reg_page_list_len) == 204);
static_assert(sizeof(CmdCreateQp) == 80 && offsetof(CmdCreateQp, total_chunks) == 68 &&
              offsetof(CmdCreateQp, send_chunks) == 70 && offsetof(CmdCreateQp, is_srq) == 76);
static_assert(sizeof(CmdModifyQp) == 184 && offsetof(CmdModifyQp, attrs) == 24);
static_assert(offsetof(QpAttr, cap) == 56 && offsetof(QpAttr, ah_attr) == 80 &&
              offsetof(QpAttr, alt_ah_attr) == 120);
static_assert(offsetof(AhAttr, port_num) == 32 && offsetof(AhAttr, dmac) == 33);
static_assert(sizeof(CmdCreateSrq) == 56 && offsetof(CmdCreateSrq, srq_type) == 48);
static_assert(offsetof(CmdCreateBind, gid) == 28 && offsetof(CmdCreateBind, gid_type) == 44);

// What static_assert cannot say.
TEST(PvrdmaAbi, slots_hold_any_command_and_response)
{
    EXPECT_EQ(sizeof(CommandSlot), 184u);
    EXPECT_EQ(sizeof(ResponseSlot), 176u);
}
