// SPDX-License-Identifier: GPL-2.0-or-later
//
// The interface between the PVRDMA function and its guest driver: registers,
// the shared region, commands, rings. Layouts and numbers are VMware's, as
// Linux's drivers/infiniband/hw/vmw_pvrdma/pvrdma_dev_api.h, pvrdma_verbs.h and
// include/uapi/rdma/vmw_pvrdma-abi.h use them. All little-endian.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace rdma::pvrdma {

static_assert(std::endian::native == std::endian::little,
              "guest structures are read and written as they are");

// Registers of BAR 1.
enum Register : uint32_t {
    reg_version = 0x00,  // R
    reg_dsr_low = 0x04,  // W: address of the shared region, bits 31..0
    reg_dsr_high = 0x08, // W: bits 63..32; sets the region up
    reg_ctl = 0x0c,      // W: Control
    reg_request = 0x10,  // W: execute the command in the command slot
    reg_err = 0x14,      // R: errno of the last request, 0 for none
    reg_icr = 0x18,      // R: interrupt cause, cleared by the read
    reg_imr = 0x1c,      // RW: interrupt mask, a set bit masks
    reg_mac_low = 0x20,  // RW: bytes 0..3 of the MAC address
    reg_mac_high = 0x24, // RW: bytes 4..5
};

enum Control : uint32_t { ctl_activate = 0, ctl_unquiesce = 1, ctl_reset = 2 };
enum Vector : unsigned { vector_response = 0, vector_async = 1, vector_cq = 2 };

// Doorbells, offsets in a page of BAR 2; the handle is in the low 24 bits.
inline constexpr uint32_t uar_qp_offset = 0;
inline constexpr uint32_t uar_qp_send = 1u << 30;
inline constexpr uint32_t uar_qp_recv = 1u << 31;
inline constexpr uint32_t uar_cq_offset = 4;
inline constexpr uint32_t uar_cq_arm_solicited = 1u << 29;
inline constexpr uint32_t uar_cq_arm = 1u << 30;
inline constexpr uint32_t uar_cq_poll = 1u << 31;
inline constexpr uint32_t uar_srq_offset = 8;
inline constexpr uint32_t uar_srq_recv = 1u << 30;
inline constexpr uint32_t uar_handle_mask = 0xffffff;

inline constexpr uint32_t page_dir_max_pages = 512 * 512;
inline constexpr uint32_t entries_per_table = 512;

struct DeviceCaps {
    uint64_t fw_ver;
    uint64_t node_guid;      // big-endian
    uint64_t sys_image_guid; // big-endian
    uint64_t max_mr_size;
    uint64_t page_size_cap;
    uint64_t atomic_arg_sizes;
    uint32_t ex_comp_mask;
    uint32_t device_cap_flags2;
    uint32_t max_fa_bit_boundary;
    uint32_t log_max_atomic_inline_arg;
    uint32_t vendor_id;
    uint32_t vendor_part_id;
    uint32_t hw_ver;
    uint32_t max_qp;
    uint32_t max_qp_wr;
    uint32_t device_cap_flags;
    uint32_t max_sge;
    uint32_t max_sge_rd;
    uint32_t max_cq;
    uint32_t max_cqe;
    uint32_t max_mr;
    uint32_t max_pd;
    uint32_t max_qp_rd_atom;
    uint32_t max_ee_rd_atom;
    uint32_t max_res_rd_atom;
    uint32_t max_qp_init_rd_atom;
    uint32_t max_ee_init_rd_atom;
    uint32_t max_ee;
    uint32_t max_rdd;
    uint32_t max_mw;
    uint32_t max_raw_ipv6_qp;
    uint32_t max_raw_ethy_qp;
    uint32_t max_mcast_grp;
    uint32_t max_mcast_qp_attach;
    uint32_t max_total_mcast_qp_attach;
    uint32_t max_ah;
    uint32_t max_fmr;
    uint32_t max_map_per_fmr;
    uint32_t max_srq;
    uint32_t max_srq_wr;
    uint32_t max_srq_sge;
    uint32_t max_uar;
    uint32_t gid_tbl_len;
    uint16_t max_pkeys;
    uint8_t local_ca_ack_delay;
    uint8_t phys_port_cnt;
    uint8_t mode;
    uint8_t atomic_ops;
    uint8_t bmme_flags;
    uint8_t gid_types;
    uint32_t max_fast_reg_page_list_len;
};
static_assert(sizeof(DeviceCaps) == 208);

inline constexpr uint8_t mode_roce = 0;
inline constexpr uint8_t atomic_op_comp_swap = 1;
inline constexpr uint8_t atomic_op_fetch_add = 2;
inline constexpr uint8_t bmme_local_inv = 1;
inline constexpr uint8_t bmme_remote_inv = 2;
inline constexpr uint8_t bmme_fast_reg_wr = 4;
inline constexpr uint8_t gid_type_v1 = 1;
inline constexpr uint8_t gid_type_v2 = 2;
// The driver never registers more pages at once.
inline constexpr uint32_t max_fast_reg_page_list = 128;

struct RingPageInfo {
    uint32_t num_pages; // with the state page
    uint32_t reserved;
    uint64_t pdir_dma;
};
static_assert(sizeof(RingPageInfo) == 16);

struct SharedRegion {
    uint32_t driver_version;
    uint32_t pad;
    uint64_t gos_info;
    uint64_t cmd_slot_dma;
    uint64_t resp_slot_dma;
    RingPageInfo async_ring;
    RingPageInfo cq_ring;
    uint64_t uar_pfn;
    DeviceCaps caps; // written by the device
};
static_assert(offsetof(SharedRegion, caps) == 72);

struct EventEntry {
    uint32_t type; // ib_event_type
    uint32_t info; // handle, or port
};
static_assert(sizeof(EventEntry) == 8);

enum EventType : uint32_t {
    event_cq_err,
    event_qp_fatal,
    event_qp_req_err,
    event_qp_access_err,
    event_comm_est,
    event_sq_drained,
    event_path_mig,
    event_path_mig_err,
    event_device_fatal,
    event_port_active,
    event_port_err,
    event_lid_change,
    event_pkey_change,
    event_sm_change,
    event_srq_err,
    event_srq_limit_reached,
    event_qp_last_wqe_reached,
    event_client_reregister,
    event_gid_change,
};

enum Command : uint32_t {
    cmd_query_port,
    cmd_query_pkey,
    cmd_create_pd,
    cmd_destroy_pd,
    cmd_create_mr,
    cmd_destroy_mr,
    cmd_create_cq,
    cmd_resize_cq,
    cmd_destroy_cq,
    cmd_create_qp,
    cmd_modify_qp,
    cmd_query_qp,
    cmd_destroy_qp,
    cmd_create_uc,
    cmd_destroy_uc,
    cmd_create_bind,
    cmd_destroy_bind,
    cmd_create_srq,
    cmd_modify_srq,
    cmd_query_srq,
    cmd_destroy_srq,
    cmd_max,
};
inline constexpr uint32_t cmd_response_bit = 1u << 31;

struct CmdHdr {
    uint64_t response;
    uint32_t cmd;
    uint32_t reserved;
};
struct RespHdr {
    uint64_t response;
    uint32_t ack;
    uint8_t err;
    uint8_t reserved[3];
};
static_assert(sizeof(CmdHdr) == 16 && sizeof(RespHdr) == 16);

struct PortAttr {
    uint32_t state;
    uint32_t max_mtu;
    uint32_t active_mtu;
    uint32_t gid_tbl_len;
    uint32_t port_cap_flags;
    uint32_t max_msg_sz;
    uint32_t bad_pkey_cntr;
    uint32_t qkey_viol_cntr;
    uint16_t pkey_tbl_len;
    uint16_t lid;
    uint16_t sm_lid;
    uint8_t lmc;
    uint8_t max_vl_num;
    uint8_t sm_sl;
    uint8_t subnet_timeout;
    uint8_t init_type_reply;
    uint8_t active_width;
    uint8_t active_speed;
    uint8_t phys_state;
    uint8_t reserved[2];
};
static_assert(sizeof(PortAttr) == 48);

inline constexpr uint32_t port_cap_cm_sup = 1u << 16;
inline constexpr uint32_t port_cap_ip_based_gids = 1u << 26;

struct AhAttr {
    uint8_t dgid[16];
    uint32_t flow_label;
    uint8_t sgid_index;
    uint8_t hop_limit;
    uint8_t traffic_class;
    uint8_t reserved0;
    uint16_t dlid;
    uint16_t vlan_id;
    uint8_t sl;
    uint8_t src_path_bits;
    uint8_t static_rate;
    uint8_t ah_flags;
    uint8_t port_num;
    uint8_t dmac[6];
    uint8_t reserved;
};
static_assert(sizeof(AhAttr) == 40);

struct QpCap {
    uint32_t max_send_wr;
    uint32_t max_recv_wr;
    uint32_t max_send_sge;
    uint32_t max_recv_sge;
    uint32_t max_inline_data;
    uint32_t reserved;
};
static_assert(sizeof(QpCap) == 24);

struct QpAttr {
    uint32_t qp_state;
    uint32_t cur_qp_state;
    uint32_t path_mtu;
    uint32_t path_mig_state;
    uint32_t qkey;
    uint32_t rq_psn;
    uint32_t sq_psn;
    uint32_t dest_qp_num;
    uint32_t qp_access_flags;
    uint16_t pkey_index;
    uint16_t alt_pkey_index;
    uint8_t en_sqd_async_notify;
    uint8_t sq_draining;
    uint8_t max_rd_atomic;
    uint8_t max_dest_rd_atomic;
    uint8_t min_rnr_timer;
    uint8_t port_num;
    uint8_t timeout;
    uint8_t retry_cnt;
    uint8_t rnr_retry;
    uint8_t alt_port_num;
    uint8_t alt_timeout;
    uint8_t reserved[5];
    QpCap cap;
    AhAttr ah_attr;
    AhAttr alt_ah_attr;
};
static_assert(sizeof(QpAttr) == 160);

struct SrqAttr {
    uint32_t max_wr;
    uint32_t max_sge;
    uint32_t srq_limit;
    uint32_t reserved;
};

struct CmdQueryPort {
    CmdHdr hdr;
    uint8_t port_num;
    uint8_t reserved[7];
};
struct RespQueryPort {
    RespHdr hdr;
    PortAttr attrs;
};
struct CmdQueryPkey {
    CmdHdr hdr;
    uint8_t port_num;
    uint8_t index;
    uint8_t reserved[6];
};
struct RespQueryPkey {
    RespHdr hdr;
    uint16_t pkey;
    uint8_t reserved[6];
};
struct CmdCreateUc {
    CmdHdr hdr;
    uint64_t pfn;
};
// Commands and responses that carry one handle.
struct CmdHandle {
    CmdHdr hdr;
    uint32_t handle;
    uint32_t reserved;
};
struct RespHandle {
    RespHdr hdr;
    uint32_t handle;
    uint32_t reserved;
};
struct CmdCreateMr {
    CmdHdr hdr;
    uint64_t start;
    uint64_t length;
    uint64_t pdir_dma;
    uint32_t pd_handle;
    uint32_t access_flags;
    uint32_t flags;
    uint32_t nchunks;
};
inline constexpr uint32_t mr_flag_dma = 1;
inline constexpr uint32_t mr_flag_frmr = 2;
struct RespCreateMr {
    RespHdr hdr;
    uint32_t mr_handle;
    uint32_t lkey;
    uint32_t rkey;
    uint32_t reserved;
};
struct CmdCreateCq {
    CmdHdr hdr;
    uint64_t pdir_dma;
    uint32_t ctx_handle;
    uint32_t cqe;
    uint32_t nchunks;
    uint32_t reserved;
};
struct RespCreateCq {
    RespHdr hdr;
    uint32_t cq_handle;
    uint32_t cqe;
};
struct CmdCreateSrq {
    CmdHdr hdr;
    uint64_t pdir_dma;
    uint32_t pd_handle;
    uint32_t nchunks;
    SrqAttr attrs;
    uint8_t srq_type;
    uint8_t reserved[7];
};
struct CmdModifySrq {
    CmdHdr hdr;
    uint32_t srq_handle;
    uint32_t attr_mask;
    SrqAttr attrs;
};
struct RespQuerySrq {
    RespHdr hdr;
    SrqAttr attrs;
};
struct CmdCreateQp {
    CmdHdr hdr;
    uint64_t pdir_dma;
    uint32_t pd_handle;
    uint32_t send_cq_handle;
    uint32_t recv_cq_handle;
    uint32_t srq_handle;
    uint32_t max_send_wr;
    uint32_t max_recv_wr;
    uint32_t max_send_sge;
    uint32_t max_recv_sge;
    uint32_t max_inline_data;
    uint32_t lkey;
    uint32_t access_flags;
    uint16_t total_chunks;
    uint16_t send_chunks; // without the state page
    uint16_t max_atomic_arg;
    uint8_t sq_sig_all;
    uint8_t qp_type;
    uint8_t is_srq;
    uint8_t reserved[3];
};
static_assert(sizeof(CmdCreateQp) == 80);
struct RespCreateQp {
    RespHdr hdr;
    uint32_t qpn;
    uint32_t max_send_wr;
    uint32_t max_recv_wr;
    uint32_t max_send_sge;
    uint32_t max_recv_sge;
    uint32_t max_inline_data;
};
struct RespCreateQpV2 {
    RespHdr hdr;
    uint32_t qpn;
    uint32_t qp_handle;
    uint32_t max_send_wr;
    uint32_t max_recv_wr;
    uint32_t max_send_sge;
    uint32_t max_recv_sge;
    uint32_t max_inline_data;
    uint32_t pad;
};
struct CmdModifyQp {
    CmdHdr hdr;
    uint32_t qp_handle;
    uint32_t attr_mask;
    QpAttr attrs;
};
static_assert(sizeof(CmdModifyQp) == 184);
struct RespQueryQp {
    RespHdr hdr;
    QpAttr attrs;
};
struct CmdCreateBind {
    CmdHdr hdr;
    uint32_t mtu;
    uint32_t vlan;
    uint32_t index;
    uint8_t gid[16];
    uint8_t gid_type;
    uint8_t reserved[3];
};
struct CmdDestroyBind {
    CmdHdr hdr;
    uint32_t index;
    uint8_t gid[16];
    uint8_t reserved[4];
};

// The command slot: as long as the longest command.
using CommandSlot = std::array<std::byte, sizeof(CmdModifyQp)>;

enum QpType : uint8_t { qpt_smi, qpt_gsi, qpt_rc, qpt_uc, qpt_ud };

// One direction of a ring; two of them (tx, rx) at the start of a state page.
struct RingState {
    uint32_t prod_tail;
    uint32_t cons_head;
};
inline constexpr uint64_t ring_tx_offset = 0;
inline constexpr uint64_t ring_rx_offset = sizeof(RingState);

struct Av {
    uint32_t port_pd;
    uint32_t sl_tclass_flowlabel; // traffic class from bit 20 on, flow label below
    uint8_t dgid[16];
    uint8_t src_path_bits;
    uint8_t gid_index;
    uint8_t stat_rate;
    uint8_t hop_limit;
    uint8_t dmac[6];
    uint8_t reserved[6];
};
static_assert(sizeof(Av) == 40);

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
    uint32_t opcode;
    uint32_t send_flags;
    uint32_t ex; // immediate data, or the key to invalidate
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
            uint64_t pl_pdir_dma;
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
static_assert(sizeof(SqWqeHdr) == 80);

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
};

struct Cqe {
    uint64_t wr_id;
    uint64_t qp; // handle
    uint32_t opcode;
    uint32_t status;
    uint32_t byte_len;
    uint32_t imm_data;
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
static_assert(sizeof(Cqe) == 64);

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
    wc_recv = 1 << 7,
    wc_recv_rdma_with_imm,
};
inline constexpr uint32_t wc_flag_grh = 1;
inline constexpr uint32_t wc_flag_imm = 2;
inline constexpr uint32_t wc_flag_inv = 4;
inline constexpr uint32_t wc_flag_network_type = 1 << 6;

} // namespace rdma::pvrdma
