// SPDX-License-Identifier: GPL-2.0-or-later
//
// The interface between the PVRDMA function and its guest driver: registers,
// the shared region, commands. (Rings and their entries: queue_abi.h.) Layouts
// and numbers are VMware's, as Linux's
// drivers/infiniband/hw/vmw_pvrdma/pvrdma_dev_api.h and pvrdma_verbs.h use
// them. All little-endian.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

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

// A page directory is a page of addresses of page tables, each a page of
// addresses of 4 KiB pages: 1 GiB at most.
inline constexpr uint32_t entries_per_table = 512;
inline constexpr uint32_t page_dir_max_pages = entries_per_table * entries_per_table;

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
static_assert(sizeof(DeviceCaps) == 208 && offsetof(DeviceCaps, vendor_id) == 64 &&
              offsetof(DeviceCaps, gid_tbl_len) == 192 && offsetof(DeviceCaps, mode) == 200);

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
    uint64_t pdir_dma; // page directory
};
static_assert(sizeof(RingPageInfo) == 16);

struct SharedRegion {
    uint32_t driver_version;
    uint32_t pad;
    uint64_t gos_info; // guest operating system
    uint64_t cmd_slot_dma;
    uint64_t resp_slot_dma;
    RingPageInfo async_ring;
    RingPageInfo cq_ring;
    uint64_t uar_pfn;
    DeviceCaps caps; // written by the device
};
static_assert(offsetof(SharedRegion, async_ring) == 32 && offsetof(SharedRegion, caps) == 72 &&
              sizeof(SharedRegion) == 280);

// An entry of the asynchronous event ring.
struct EventEntry {
    uint32_t type; // ibv_event_type's numbers, up to IBV_EVENT_GID_CHANGE
    uint32_t info; // handle of the QP, CQ or SRQ, or the port
};
static_assert(sizeof(EventEntry) == 8);
// An entry of the CQ notification ring.
struct CqNotification {
    uint32_t cq_handle;
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

// Enumerations in what follows have the numbers of libibverbs' (ibv_port_state,
// ibv_mtu, ibv_qp_state, ibv_mig_state, ibv_access_flags, ibv_qp_attr_mask).
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
static_assert(sizeof(SrqAttr) == 16);

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
struct CmdCreatePd {
    CmdHdr hdr;
    uint32_t ctx_handle; // 0: the kernel's
    uint32_t reserved;
};
// Commands and responses that carry one handle: to query or destroy, and of what
// was created.
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
    uint64_t start; // IOVA
    uint64_t length;
    uint64_t pdir_dma;
    uint32_t pd_handle;
    uint32_t access_flags;
    uint32_t flags;   // mr_flag_*
    uint32_t nchunks; // pages
};
static_assert(sizeof(CmdCreateMr) == 56);
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
    uint32_t nchunks; // pages, with the state page
    uint32_t reserved;
};
static_assert(sizeof(CmdCreateCq) == 40);
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
    uint8_t srq_type; // 0: basic
    uint8_t reserved[7];
};
static_assert(sizeof(CmdCreateSrq) == 56);
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
    uint16_t total_chunks; // pages: the state page, send queue, receive queue
    uint16_t send_chunks;  // pages of the send queue
    uint16_t max_atomic_arg;
    uint8_t sq_sig_all;
    uint8_t qp_type;
    uint8_t is_srq;
    uint8_t reserved[3];
};
static_assert(sizeof(CmdCreateQp) == 80);
// Versions before 20: the handle is the QPN.
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
static_assert(sizeof(RespCreateQp) == 40 && sizeof(RespCreateQpV2) == 48);
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

static_assert(sizeof(CmdCreateBind) == 48 && sizeof(CmdDestroyBind) == 40);

// The slots are as long as the longest command and response.
using CommandSlot = std::array<std::byte, sizeof(CmdModifyQp)>;
using ResponseSlot = std::array<std::byte, sizeof(RespQueryQp)>;
static_assert(sizeof(ResponseSlot) == 176);

// What begins a slot.
template <typename T>
T read_slot(const CommandSlot& slot)
{
    static_assert(sizeof(T) <= sizeof(slot));
    T value;
    std::memcpy(&value, slot.data(), sizeof(value));
    return value;
}
template <typename T>
void write_slot(ResponseSlot& slot, const T& value)
{
    static_assert(sizeof(T) <= sizeof(slot));
    std::memcpy(slot.data(), &value, sizeof(value));
}

enum QpType : uint8_t { qpt_smi, qpt_gsi, qpt_rc, qpt_uc, qpt_ud };

} // namespace rdma::pvrdma
