// SPDX-License-Identifier: GPL-2.0-or-later
#include "completion_entry.h"

#include <algorithm>

namespace rdma::pvrdma {

namespace {

constexpr uint8_t only_port = 1;

// The guest's opcodes are those of the kernel's ib_wc_opcode of old.
uint32_t encode_opcode(ibv_wc_opcode opcode)
{
    switch (static_cast<int>(opcode)) {
    case IBV_WC_RDMA_WRITE:
        return wc_rdma_write;
    case IBV_WC_RDMA_READ:
        return wc_rdma_read;
    case IBV_WC_COMP_SWAP:
        return wc_comp_swap;
    case IBV_WC_FETCH_ADD:
        return wc_fetch_add;
    case IBV_WC_LOCAL_INV:
        return wc_local_inv;
    case wc_fast_reg:
        return wc_fast_reg_mr;
    case IBV_WC_RECV:
        return wc_recv;
    case IBV_WC_RECV_RDMA_WITH_IMM:
        return wc_recv_rdma_with_imm;
    default:
        return wc_send;
    }
}

NetworkHeader encode_network(NetworkType network)
{
    switch (network) {
    case NetworkType::ipv4:
        return network_ipv4;
    case NetworkType::ipv6:
        return network_ipv6;
    default:
        return network_roce_v1;
    }
}

} // namespace

Cqe encode_completion(const Completion& completion)
{
    const ibv_wc& wc = completion.wc;
    Cqe cqe{};
    cqe.wr_id = wc.wr_id;
    cqe.qp = completion.qp;
    cqe.opcode = encode_opcode(wc.opcode);
    // The numbers are the same; the guest knows no later ones.
    cqe.status = std::min<uint32_t>(wc.status, IBV_WC_GENERAL_ERR);
    cqe.byte_len = wc.byte_len;
    cqe.src_qp = wc.src_qp;
    cqe.vendor_err = wc.vendor_err;
    cqe.pkey_index = wc.pkey_index;
    cqe.sl = wc.sl;
    cqe.port_num = only_port;
    if (wc.wc_flags & IBV_WC_GRH) {
        // No WITH_SMAC: Linux's driver passes that flag on, but not the address.
        cqe.wc_flags |= wc_flag_grh | wc_flag_network_type;
        cqe.network_hdr_type = encode_network(completion.network);
        std::ranges::copy(completion.smac, cqe.smac);
    }
    if (wc.wc_flags & IBV_WC_WITH_IMM) {
        cqe.wc_flags |= wc_flag_imm;
        cqe.imm_data = wc.imm_data;
    } else if (wc.wc_flags & IBV_WC_WITH_INV) {
        cqe.wc_flags |= wc_flag_inv;
        cqe.imm_data = wc.invalidated_rkey;
    }
    return cqe;
}

} // namespace rdma::pvrdma
