// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a guest's driver or library and the device share in queues: ring states,
// work queue and completion queue entries. Layouts and numbers are those of
// Linux's include/uapi/rdma/vmw_pvrdma-abi.h and of the driver's
// pvrdma_ring.h. All little-endian, but for immediate data.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rdma::pvrdma {

// One direction of a ring. Two of them stand at the start of a state page: tx,
// of send queues, and rx, of everything else.
struct RingState {
    uint32_t prod_tail;
    uint32_t cons_head;
};
inline constexpr uint64_t ring_tx_offset = 0;
inline constexpr uint64_t ring_rx_offset = sizeof(RingState);

// Address vector of a datagram.
struct Av {
    uint32_t port_pd;             // port from bit 24 on, PD handle below
    uint32_t sl_tclass_flowlabel; // traffic class from bit 20 on, flow label below
    uint8_t dgid[16];
    uint8_t src_path_bits;
    uint8_t gid_index;
    uint8_t stat_rate;
    uint8_t hop_limit;
    uint8_t dmac[6];
    uint8_t reserved[6];
};
static_assert(sizeof(Av) == 40 && offsetof(Av, gid_index) == 25 && offsetof(Av, dmac) == 28);

struct Sge {
    uint64_t addr;
    uint32_t length;
    uint32_t lkey;
};
static_assert(sizeof(Sge) == 16);

struct RqWqeHdr {
    uint64_t wr_id;
    uint32_t num_sge;
    uint32_t total_len;
};
static_assert(sizeof(RqWqeHdr) == 16);

struct SqWqeHdr {
    uint64_t wr_id;
    uint32_t num_sge;
    uint32_t total_len;
    uint32_t opcode;     // WrOpcode
    uint32_t send_flags; // ibv_send_flags' numbers
    uint32_t ex;         // immediate data, or the key to invalidate
    uint32_t reserved;
    union {
        struct {
            uint64_t remote_addr;
            uint32_t rkey;
            uint32_t reserved;
        } rdma;
        struct {
            uint64_t remote_addr;
            uint64_t compare_add;
            uint64_t swap;
            uint32_t rkey;
            uint32_t reserved;
        } atomic;
        struct {
            uint64_t iova_start;
            uint64_t pl_pdir_dma; // page directory
            uint32_t page_shift;
            uint32_t page_list_len;
            uint32_t length;
            uint32_t access_flags;
            uint32_t rkey;
            uint32_t reserved;
        } fast_reg;
        struct {
            uint32_t remote_qpn;
            uint32_t remote_qkey;
            Av av;
        } ud;
        uint64_t masked_atomic[6];
    } wr;
};
static_assert(sizeof(SqWqeHdr) == 80 && offsetof(SqWqeHdr, opcode) == 16 &&
              offsetof(SqWqeHdr, wr) == 32);

enum WrOpcode : uint32_t {
    wr_rdma_write,
    wr_rdma_write_imm,
    wr_send,
    wr_send_imm,
    wr_rdma_read,
    wr_cmp_swap,
    wr_fetch_add,
    wr_lso,
    wr_send_inv,
    wr_rdma_read_inv,
    wr_local_inv,
    wr_fast_reg_mr,
    wr_masked_cmp_swap,
    wr_masked_fetch_add,
    wr_bind_mw,
    wr_reg_sig_mr,
};

struct Cqe {
    uint64_t wr_id;
    uint64_t qp;     // handle, not QPN
    uint32_t opcode; // WcOpcode
    uint32_t status; // ibv_wc_status' numbers, up to IBV_WC_GENERAL_ERR
    uint32_t byte_len;
    uint32_t imm_data; // or the key invalidated
    uint32_t src_qp;
    uint32_t wc_flags;
    uint32_t vendor_err;
    uint16_t pkey_index;
    uint16_t slid;
    uint8_t sl;
    uint8_t dlid_path_bits;
    uint8_t port_num;
    uint8_t smac[6];
    uint8_t network_hdr_type;
    uint8_t reserved[6];
};
static_assert(sizeof(Cqe) == 64 && offsetof(Cqe, network_hdr_type) == 57);

enum WcOpcode : uint32_t {
    wc_send,
    wc_rdma_write,
    wc_rdma_read,
    wc_comp_swap,
    wc_fetch_add,
    wc_bind_mw,
    wc_lso,
    wc_local_inv,
    wc_fast_reg_mr,
    wc_masked_comp_swap,
    wc_masked_fetch_add,
    wc_recv = 1 << 7,
    wc_recv_rdma_with_imm,
};
// Cqe::wc_flags
inline constexpr uint32_t wc_flag_grh = 1;
inline constexpr uint32_t wc_flag_imm = 2;
inline constexpr uint32_t wc_flag_inv = 4;
inline constexpr uint32_t wc_flag_network_type = 1 << 6;
// Cqe::network_hdr_type
enum NetworkHeader : uint8_t { network_roce_v1, network_ipv4, network_ipv6 };

} // namespace rdma::pvrdma
