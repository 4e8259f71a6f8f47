// SPDX-License-Identifier: GPL-2.0-or-later
//
// The command channel. A command is copied once out of its slot; what is
// checked and carried out is the copy.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "page_directory.h"
#include "pvrdma_device.h"
#include "work_queue.h"

namespace rdma {

using namespace pvrdma;

namespace {

constexpr uint8_t port_number = 1;
// Largest message, bytes: what the backend serves at every path MTU.
constexpr uint32_t max_message_size = 1u << 30;

// Commands whose response Linux's driver waits for. To the others nothing may
// be answered: the interrupt could be taken for the next command's.
bool is_answered(uint32_t cmd)
{
    switch (cmd) {
    case cmd_destroy_pd:
    case cmd_destroy_mr:
    case cmd_destroy_cq:
    case cmd_destroy_qp:
    case cmd_destroy_uc:
    case cmd_create_bind:
    case cmd_destroy_bind:
    case cmd_modify_srq:
    case cmd_destroy_srq:
        return false;
    default:
        return true;
    }
}

template <typename T>
T& response_as(CommandSlot& slot)
{
    static_assert(sizeof(T) <= sizeof(CommandSlot));
    return *reinterpret_cast<T*>(slot.data());
}

// Largest IB MTU that fits, as Linux's iboe_get_mtu() computes it: GRH, UDP,
// BTH, XRC and atomic headers and ICRC fit beside it.
ibv_mtu active_mtu(uint32_t nic_mtu)
{
    constexpr uint32_t overhead = 40 + 8 + 12 + 4 + 28 + 4;
    for (int mtu = IBV_MTU_4096; mtu > IBV_MTU_256; --mtu) {
        if (nic_mtu >= overhead + (128u << mtu)) {
            return static_cast<ibv_mtu>(mtu);
        }
    }
    return nic_mtu == 0 ? IBV_MTU_1024 : IBV_MTU_256;
}

ibv_ah_attr decode_ah(const AhAttr& ah)
{
    ibv_ah_attr out{};
    std::copy_n(ah.dgid, 16, out.grh.dgid.raw);
    out.grh.flow_label = ah.flow_label;
    out.grh.sgid_index = ah.sgid_index;
    out.grh.hop_limit = ah.hop_limit;
    out.grh.traffic_class = ah.traffic_class;
    out.dlid = ah.dlid;
    out.sl = ah.sl;
    out.src_path_bits = ah.src_path_bits;
    out.static_rate = ah.static_rate;
    out.is_global = ah.ah_flags & 1;
    out.port_num = ah.port_num;
    return out;
}

AhAttr encode_ah(const ibv_ah_attr& ah, const Mac& dmac)
{
    AhAttr out{};
    std::copy_n(ah.grh.dgid.raw, 16, out.dgid);
    out.flow_label = ah.grh.flow_label;
    out.sgid_index = ah.grh.sgid_index;
    out.hop_limit = ah.grh.hop_limit;
    out.traffic_class = ah.grh.traffic_class;
    out.dlid = ah.dlid;
    out.vlan_id = 0xffff; // none
    out.sl = ah.sl;
    out.src_path_bits = ah.src_path_bits;
    out.static_rate = ah.static_rate;
    out.ah_flags = ah.is_global;
    out.port_num = ah.port_num;
    std::ranges::copy(dmac, out.dmac);
    return out;
}

// The rings of CQ and SRQ: a state page, then the entries.
std::optional<GuestRing> make_rx_ring(const GuestMemory& memory, uint64_t directory,
                                      uint32_t num_pages, uint32_t entry_size, uint32_t slots)
{
    uint64_t bytes = uint64_t{entry_size} * slots;
    // More pages than twice what the entries need are of no use to anyone (the
    // library asks for that many with an SRQ).
    uint64_t needed = 1 + (bytes + page_size - 1) / page_size;
    if (num_pages < needed || num_pages > 2 * needed + 1) {
        return std::nullopt;
    }
    auto pages = read_page_directory(memory, directory, num_pages);
    if (!pages) {
        return std::nullopt;
    }
    uint64_t state = pages->front() + ring_rx_offset;
    pages->erase(pages->begin());
    pages->resize(needed - 1);
    return GuestRing(state, std::move(*pages), entry_size, slots);
}

} // namespace

template <typename T>
const T& PvrdmaDevice::as(const CommandSlot& slot)
{
    static_assert(sizeof(T) <= sizeof(CommandSlot));
    return *reinterpret_cast<const T*>(slot.data());
}

void PvrdmaDevice::execute_command()
{
    ++_stats.commands;
    alignas(8) CommandSlot slot;
    if (!_ready || !_memory.read_object(_command_slot, slot)) {
        _error = _ready ? EFAULT : EINVAL;
        guest_error(_stats.guest_command_errors, "pvrdma: command without a shared region");
        return;
    }
    const CmdHdr& hdr = as<CmdHdr>(slot);
    alignas(8) CommandSlot response{};
    int error = dispatch(hdr.cmd, slot, response);
    if (error != 0) {
        guest_error(_stats.guest_command_errors,
                    fmt::format("pvrdma: command {} failed: {}", hdr.cmd, strerror(error)));
    }
    // A guest sees the failure of every command in ERR, but that of MODIFY_QP in
    // the response.
    bool in_response = hdr.cmd == cmd_modify_qp;
    _error = in_response ? 0 : static_cast<uint32_t>(error);
    if (_error != 0 || !is_answered(hdr.cmd)) {
        return;
    }
    RespHdr& resp = response_as<RespHdr>(response);
    resp.response = hdr.response;
    resp.ack = hdr.cmd | cmd_response_bit;
    resp.err = static_cast<uint8_t>(error);
    if (!_memory.write_object(_response_slot, response)) {
        _error = EFAULT;
        return;
    }
    raise(vector_response);
}

int PvrdmaDevice::dispatch(uint32_t cmd, const CommandSlot& slot, CommandSlot& response)
{
    uint32_t handle = as<CmdHandle>(slot).handle;
    switch (cmd) {
    case cmd_query_port:
        return query_port(as<CmdQueryPort>(slot), response_as<RespQueryPort>(response));
    case cmd_query_pkey:
        return query_pkey(as<CmdQueryPkey>(slot), response_as<RespQueryPkey>(response));
    case cmd_create_pd: {
        auto pd = _backend.alloc_pd();
        response_as<RespHandle>(response).handle = pd.value_or(0);
        return pd ? 0 : pd.error();
    }
    case cmd_destroy_pd:
        return _backend.dealloc_pd(handle);
    case cmd_create_mr:
        return create_mr(as<CmdCreateMr>(slot), response_as<RespCreateMr>(response));
    case cmd_destroy_mr:
        return _backend.dereg_mr(handle);
    case cmd_create_cq:
        return create_cq(as<CmdCreateCq>(slot), response_as<RespCreateCq>(response));
    case cmd_destroy_cq: {
        int error = _backend.destroy_cq(handle);
        if (error == 0) {
            _cqs.erase(handle);
        }
        return error;
    }
    case cmd_create_qp:
        return create_qp(as<CmdCreateQp>(slot), response);
    case cmd_modify_qp:
        return modify_qp(as<CmdModifyQp>(slot));
    case cmd_query_qp:
        return query_qp(handle, response_as<RespQueryQp>(response));
    case cmd_destroy_qp: {
        int error = _backend.destroy_qp(handle);
        if (error == 0) {
            _qps.erase(handle);
        }
        return error;
    }
    case cmd_create_uc:
        return create_uc(response_as<RespHandle>(response));
    case cmd_destroy_uc:
        if (handle >= _contexts.size() || !_contexts[handle]) {
            return ENOENT;
        }
        _contexts[handle] = false;
        return 0;
    case cmd_create_bind:
        return create_bind(as<CmdCreateBind>(slot));
    case cmd_destroy_bind:
        return _backend.del_gid(as<CmdDestroyBind>(slot).index);
    case cmd_create_srq:
        return create_srq(as<CmdCreateSrq>(slot), response_as<RespHandle>(response));
    case cmd_modify_srq:
        return modify_srq(as<CmdModifySrq>(slot));
    case cmd_query_srq:
        return query_srq(handle, response_as<RespQuerySrq>(response));
    case cmd_destroy_srq: {
        int error = _backend.destroy_srq(handle);
        if (error == 0) {
            _srqs.erase(handle);
        }
        return error;
    }
    default:
        return EOPNOTSUPP; // RESIZE_CQ among them, which no driver issues
    }
}

int PvrdmaDevice::query_port(const CmdQueryPort& cmd, RespQueryPort& resp)
{
    if (cmd.port_num != port_number) {
        return EINVAL;
    }
    RdmaNicInfo nic = _host.nic_info();
    constexpr uint8_t phys_disabled = 3;
    constexpr uint8_t phys_link_up = 5;
    constexpr uint8_t width_1x = 1;
    constexpr uint8_t speed_qdr = 4; // 10 Gb/s a lane: what the vmxnet3 beside it says
    PortAttr& attrs = resp.attrs;
    attrs.state = nic.link_up ? IBV_PORT_ACTIVE : IBV_PORT_DOWN;
    attrs.max_mtu = IBV_MTU_4096;
    attrs.active_mtu = active_mtu(nic.mtu);
    attrs.gid_tbl_len = _config.gid_tbl_len;
    attrs.port_cap_flags = port_cap_cm_sup | port_cap_ip_based_gids;
    attrs.max_msg_sz = max_message_size;
    attrs.pkey_tbl_len = 1;
    attrs.max_vl_num = 1;
    attrs.active_width = width_1x;
    attrs.active_speed = speed_qdr;
    attrs.phys_state = nic.link_up ? phys_link_up : phys_disabled;
    return 0;
}

int PvrdmaDevice::query_pkey(const CmdQueryPkey& cmd, RespQueryPkey& resp)
{
    if (cmd.port_num != port_number || cmd.index != 0) {
        return EINVAL;
    }
    resp.pkey = 0xffff; // the default P_Key, full membership
    return 0;
}

int PvrdmaDevice::create_uc(RespHandle& resp)
{
    auto it = std::ranges::find(_contexts, false);
    if (it == _contexts.end()) {
        if (_contexts.size() >= _config.max_uar) {
            return ENOMEM;
        }
        it = _contexts.insert(it, false);
    }
    *it = true;
    resp.handle = static_cast<uint32_t>(it - _contexts.begin());
    return 0;
}

int PvrdmaDevice::create_mr(const CmdCreateMr& cmd, RespCreateMr& resp)
{
    MrInit init;
    init.pd = cmd.pd_handle;
    init.access = static_cast<int>(cmd.access_flags);
    std::optional<std::vector<uint64_t>> pages;
    if (cmd.flags == mr_flag_dma) {
        init.kind = MrInit::Kind::dma;
    } else if (cmd.flags == mr_flag_frmr) {
        init.kind = MrInit::Kind::fast_reg;
        init.max_pages = cmd.nchunks;
    } else if (cmd.flags == 0) {
        if (cmd.length == 0 || cmd.length > _config.max_mr_size) {
            return EINVAL;
        }
        pages = read_page_directory(_memory, cmd.pdir_dma, cmd.nchunks);
        if (!pages) {
            return EFAULT;
        }
        init.iova = cmd.start;
        init.length = cmd.length;
        init.pages = *pages;
    } else {
        return EINVAL;
    }
    auto keys = _backend.reg_mr(init);
    if (!keys) {
        return keys.error();
    }
    resp.mr_handle = keys->id;
    resp.lkey = keys->lkey;
    resp.rkey = keys->rkey;
    return 0;
}

int PvrdmaDevice::create_cq(const CmdCreateCq& cmd, RespCreateCq& resp)
{
    if (cmd.cqe == 0 || cmd.cqe > _config.max_cqe || !std::has_single_bit(cmd.cqe)) {
        return EINVAL;
    }
    auto ring = make_rx_ring(_memory, cmd.pdir_dma, cmd.nchunks, sizeof(Cqe), cmd.cqe);
    if (!ring) {
        return EINVAL;
    }
    auto id = _backend.create_cq();
    if (!id) {
        return id.error();
    }
    _cqs[*id] = Cq{.ring = std::move(*ring)};
    resp.cq_handle = *id;
    resp.cqe = cmd.cqe;
    return 0;
}

int PvrdmaDevice::create_srq(const CmdCreateSrq& cmd, RespHandle& resp)
{
    const SrqAttr& attrs = cmd.attrs;
    if (attrs.max_wr == 0 || attrs.max_wr > _config.max_srq_wr ||
        !std::has_single_bit(attrs.max_wr) || attrs.max_sge > _config.max_srq_sge ||
        cmd.srq_type != 0) {
        return EINVAL;
    }
    auto ring = make_rx_ring(_memory, cmd.pdir_dma, cmd.nchunks, rq_wqe_size(attrs.max_sge),
                             attrs.max_wr);
    if (!ring) {
        return EINVAL;
    }
    ibv_srq_attr attr{attrs.max_wr, attrs.max_sge, attrs.srq_limit};
    auto id = _backend.create_srq(cmd.pd_handle, attr);
    if (!id) {
        return id.error();
    }
    _srqs[*id] = Srq{.ring = std::move(*ring), .max_sge = attrs.max_sge};
    resp.handle = *id;
    return 0;
}

int PvrdmaDevice::modify_srq(const CmdModifySrq& cmd)
{
    ibv_srq_attr attr{cmd.attrs.max_wr, cmd.attrs.max_sge, cmd.attrs.srq_limit};
    return _backend.modify_srq(cmd.srq_handle, attr, static_cast<int>(cmd.attr_mask));
}

int PvrdmaDevice::query_srq(uint32_t handle, RespQuerySrq& resp)
{
    ibv_srq_attr attr{};
    int error = _backend.query_srq(handle, attr);
    resp.attrs = {attr.max_wr, attr.max_sge, attr.srq_limit, 0};
    return error;
}

int PvrdmaDevice::create_qp(const CmdCreateQp& cmd, CommandSlot& response)
{
    QpInit init;
    switch (cmd.qp_type) {
    case qpt_gsi:
        init.gsi = true;
        [[fallthrough]];
    case qpt_ud:
        init.type = IBV_QPT_UD;
        break;
    case qpt_rc:
        init.type = IBV_QPT_RC;
        break;
    case qpt_uc:
        init.type = IBV_QPT_UC;
        break;
    default:
        return EOPNOTSUPP;
    }
    bool own_rq = !cmd.is_srq;
    auto is_depth = [this](uint32_t n) {
        return n > 0 && n <= _config.max_qp_wr && std::has_single_bit(n);
    };
    if (!is_depth(cmd.max_send_wr) || cmd.max_send_sge > _config.max_sge ||
        (own_rq && (!is_depth(cmd.max_recv_wr) || cmd.max_recv_sge > _config.max_sge))) {
        return EINVAL;
    }
    // [state page][send_chunks pages of SQ][the rest: RQ]
    uint32_t sq_entry = sq_wqe_size(cmd.max_send_sge);
    uint32_t rq_entry = own_rq ? rq_wqe_size(cmd.max_recv_sge) : 0;
    auto pages_for = [](uint32_t entry, uint32_t slots) {
        return static_cast<uint32_t>((uint64_t{entry} * slots + page_size - 1) / page_size);
    };
    uint32_t sq_pages = pages_for(sq_entry, cmd.max_send_wr);
    uint32_t rq_pages = own_rq ? pages_for(rq_entry, cmd.max_recv_wr) : 0;
    if (cmd.send_chunks < sq_pages || cmd.total_chunks < 1u + cmd.send_chunks + rq_pages) {
        return EINVAL;
    }
    auto pages = read_page_directory(_memory, cmd.pdir_dma, cmd.total_chunks);
    if (!pages) {
        return EFAULT;
    }
    uint64_t state = pages->front();
    auto part = [&](uint32_t first, uint32_t count) {
        return std::vector(pages->begin() + first, pages->begin() + first + count);
    };
    init.pd = cmd.pd_handle;
    init.send_cq = cmd.send_cq_handle;
    init.recv_cq = cmd.recv_cq_handle;
    init.use_srq = cmd.is_srq;
    init.srq = cmd.srq_handle;
    init.sq_sig_all = cmd.sq_sig_all;
    init.cap = {cmd.max_send_wr, own_rq ? cmd.max_recv_wr : 0, cmd.max_send_sge,
                own_rq ? cmd.max_recv_sge : 0, 0};
    auto numbers = _backend.create_qp(init);
    if (!numbers) {
        return numbers.error();
    }
    Qp qp{.sq = GuestRing(state + ring_tx_offset, part(1, sq_pages), sq_entry, cmd.max_send_wr),
          .rq = {},
          .max_send_sge = cmd.max_send_sge,
          .max_recv_sge = init.cap.max_recv_sge,
          .datagram = init.type == IBV_QPT_UD};
    if (own_rq) {
        qp.rq = GuestRing(state + ring_rx_offset, part(1u + cmd.send_chunks, rq_pages), rq_entry,
                          cmd.max_recv_wr);
    }
    _qps[numbers->id] = std::move(qp);

    constexpr uint32_t version_with_handle = 20;
    if (_config.version >= version_with_handle) {
        auto& resp = response_as<RespCreateQpV2>(response);
        resp.qpn = numbers->qpn;
        resp.qp_handle = numbers->id;
        resp.max_send_wr = init.cap.max_send_wr;
        resp.max_recv_wr = init.cap.max_recv_wr;
        resp.max_send_sge = init.cap.max_send_sge;
        resp.max_recv_sge = init.cap.max_recv_sge;
    } else {
        auto& resp = response_as<RespCreateQp>(response);
        resp.qpn = numbers->qpn;
        resp.max_send_wr = init.cap.max_send_wr;
        resp.max_recv_wr = init.cap.max_recv_wr;
        resp.max_send_sge = init.cap.max_send_sge;
        resp.max_recv_sge = init.cap.max_recv_sge;
    }
    return 0;
}

int PvrdmaDevice::modify_qp(const CmdModifyQp& cmd)
{
    const QpAttr& in = cmd.attrs;
    // The guest's masks and enumerations have libibverbs' numbers.
    constexpr uint32_t last_state = IBV_QPS_ERR;
    if (in.qp_state > last_state || in.cur_qp_state > last_state || in.path_mtu > IBV_MTU_4096) {
        return EINVAL;
    }
    ibv_qp_attr attr{};
    attr.qp_state = static_cast<ibv_qp_state>(in.qp_state);
    attr.cur_qp_state = static_cast<ibv_qp_state>(in.cur_qp_state);
    if (in.path_mtu >= IBV_MTU_256) {
        attr.path_mtu = static_cast<ibv_mtu>(in.path_mtu);
    }
    attr.path_mig_state = IBV_MIG_MIGRATED; // the only one there is
    attr.qkey = in.qkey;
    attr.rq_psn = in.rq_psn;
    attr.sq_psn = in.sq_psn;
    attr.dest_qp_num = in.dest_qp_num;
    attr.qp_access_flags = in.qp_access_flags;
    attr.pkey_index = in.pkey_index;
    attr.alt_pkey_index = in.alt_pkey_index;
    attr.en_sqd_async_notify = in.en_sqd_async_notify;
    attr.max_rd_atomic = in.max_rd_atomic;
    attr.max_dest_rd_atomic = in.max_dest_rd_atomic;
    attr.min_rnr_timer = in.min_rnr_timer;
    attr.port_num = in.port_num;
    attr.timeout = in.timeout;
    attr.retry_cnt = in.retry_cnt;
    attr.rnr_retry = in.rnr_retry;
    attr.alt_port_num = in.alt_port_num;
    attr.alt_timeout = in.alt_timeout;
    attr.ah_attr = decode_ah(in.ah_attr);
    attr.alt_ah_attr = decode_ah(in.alt_ah_attr);
    Mac dmac;
    std::ranges::copy(in.ah_attr.dmac, dmac.begin());
    return _backend.modify_qp(cmd.qp_handle, attr, static_cast<int>(cmd.attr_mask), dmac);
}

int PvrdmaDevice::query_qp(uint32_t handle, RespQueryQp& resp)
{
    ibv_qp_attr attr{};
    Mac dmac{};
    int error = _backend.query_qp(handle, attr, dmac);
    if (error != 0) {
        return error;
    }
    QpAttr& out = resp.attrs;
    out.qp_state = attr.qp_state;
    out.cur_qp_state = attr.cur_qp_state;
    out.path_mtu = attr.path_mtu;
    out.path_mig_state = attr.path_mig_state;
    out.qkey = attr.qkey;
    out.rq_psn = attr.rq_psn;
    out.sq_psn = attr.sq_psn;
    out.dest_qp_num = attr.dest_qp_num;
    out.qp_access_flags = attr.qp_access_flags;
    out.pkey_index = attr.pkey_index;
    out.alt_pkey_index = attr.alt_pkey_index;
    out.en_sqd_async_notify = attr.en_sqd_async_notify;
    out.sq_draining = attr.sq_draining;
    out.max_rd_atomic = attr.max_rd_atomic;
    out.max_dest_rd_atomic = attr.max_dest_rd_atomic;
    out.min_rnr_timer = attr.min_rnr_timer;
    out.port_num = attr.port_num;
    out.timeout = attr.timeout;
    out.retry_cnt = attr.retry_cnt;
    out.rnr_retry = attr.rnr_retry;
    out.alt_port_num = attr.alt_port_num;
    out.alt_timeout = attr.alt_timeout;
    out.cap = {attr.cap.max_send_wr, attr.cap.max_recv_wr, attr.cap.max_send_sge,
               attr.cap.max_recv_sge, attr.cap.max_inline_data, 0};
    out.ah_attr = encode_ah(attr.ah_attr, dmac);
    out.alt_ah_attr = encode_ah(attr.alt_ah_attr, {});
    return 0;
}

int PvrdmaDevice::create_bind(const CmdCreateBind& cmd)
{
    uint8_t served = _config.roce_version == 1 ? gid_type_v1 : gid_type_v2;
    if (cmd.gid_type != served) {
        return EINVAL;
    }
    ibv_gid gid;
    std::copy_n(cmd.gid, 16, gid.raw);
    return _backend.add_gid(cmd.index, gid, _config.roce_version);
}

} // namespace rdma
