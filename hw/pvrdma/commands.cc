// SPDX-License-Identifier: GPL-2.0-or-later
//
// The command channel. A command is copied once out of its slot; what is
// checked and carried out is the copy.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "capabilities.h"
#include "page_directory.h"
#include "port_attributes.h"
#include "pvrdma_device.h"

namespace rdma {

using namespace pvrdma;

namespace {

constexpr uint16_t default_pkey = 0xffff; // full membership
// Bits of access_flags that mean something here; hints such as relaxed ordering
// do not.
constexpr uint32_t access_flags_passed = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                                         IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
// Pages that [start, start + length) touches; 0 where length is 0 or it wraps.
uint64_t pages_touched(uint64_t start, uint64_t length)
{
    uint64_t last = start + length - 1;
    return length == 0 || last < start ? 0 : last / page_size - start / page_size + 1;
}

// The three shapes of a handler.
template <typename Cmd>
int call(PvrdmaDevice& device, int (PvrdmaDevice::*handler)(const Cmd&), const CommandSlot& command,
         ResponseSlot&)
{
    return (device.*handler)(read_slot<Cmd>(command));
}
template <typename Cmd>
int call(PvrdmaDevice& device, int (PvrdmaDevice::*handler)(const Cmd&, ResponseSlot&),
         const CommandSlot& command, ResponseSlot& response)
{
    return (device.*handler)(read_slot<Cmd>(command), response);
}
template <typename Cmd, typename Resp>
int call(PvrdmaDevice& device, int (PvrdmaDevice::*handler)(const Cmd&, Resp&),
         const CommandSlot& command, ResponseSlot& response)
{
    Resp resp{};
    int error = (device.*handler)(read_slot<Cmd>(command), resp);
    write_slot(response, resp);
    return error;
}

} // namespace

template <auto handler>
int PvrdmaDevice::invoke(PvrdmaDevice& device, const CommandSlot& command, ResponseSlot& response)
{
    return call(device, handler, command, response);
}

const PvrdmaDevice::CommandEntry* PvrdmaDevice::find_command(uint32_t cmd)
{
    using D = PvrdmaDevice;
    // To what is not answered nothing may be: an interrupt that comes late could
    // be taken for that of the next command.
    static constexpr CommandEntry table[] = {
        {cmd_query_port, true, &invoke<&D::query_port>},
        {cmd_query_pkey, true, &invoke<&D::query_pkey>},
        {cmd_create_pd, true, &invoke<&D::create_pd>},
        {cmd_destroy_pd, false, &invoke<&D::destroy_pd>},
        {cmd_create_mr, true, &invoke<&D::create_mr>},
        {cmd_destroy_mr, false, &invoke<&D::destroy_mr>},
        {cmd_create_cq, true, &invoke<&D::create_cq>},
        {cmd_resize_cq, true, nullptr}, // no driver issues it
        {cmd_destroy_cq, false, &invoke<&D::destroy_cq>},
        {cmd_create_qp, true, &invoke<&D::create_qp>},
        {cmd_modify_qp, true, &invoke<&D::modify_qp>},
        {cmd_query_qp, true, &invoke<&D::query_qp>},
        {cmd_destroy_qp, false, &invoke<&D::destroy_qp>},
        {cmd_create_uc, true, &invoke<&D::create_uc>},
        {cmd_destroy_uc, false, &invoke<&D::destroy_uc>},
        {cmd_create_bind, false, &invoke<&D::create_bind>},
        {cmd_destroy_bind, false, &invoke<&D::destroy_bind>},
        {cmd_create_srq, true, &invoke<&D::create_srq>},
        {cmd_modify_srq, false, &invoke<&D::modify_srq>},
        {cmd_query_srq, true, &invoke<&D::query_srq>},
        {cmd_destroy_srq, false, &invoke<&D::destroy_srq>},
    };
    static_assert(std::size(table) == cmd_max);
    static_assert(std::ranges::is_sorted(table, {}, &CommandEntry::cmd));
    return cmd < cmd_max && table[cmd].execute ? &table[cmd] : nullptr;
}

void PvrdmaDevice::execute_command()
{
    ++_stats.commands;
    _unanswered.reset();
    CommandSlot slot;
    if (!_ready || !_memory.read_object(_command_slot, slot)) {
        _error = _ready ? EFAULT : EINVAL;
        guest_error(_stats.guest_command_errors, "command without a shared region");
        return;
    }
    auto hdr = read_slot<CmdHdr>(slot);
    const CommandEntry* entry = find_command(hdr.cmd);
    ResponseSlot response{};
    int error = entry ? entry->execute(*this, slot, response) : EOPNOTSUPP;
    if (error == EINPROGRESS && hdr.cmd == cmd_modify_qp) {
        _unanswered = {hdr, read_slot<CmdModifyQp>(slot).qp_handle};
        _error = 0;
        return;
    }
    answer(hdr, error, response);
}

void PvrdmaDevice::modified(uint32_t qp, int error)
{
    if (_unanswered && _unanswered->qp == qp) {
        ResponseSlot response{};
        answer(std::exchange(_unanswered, std::nullopt)->hdr, error, response);
    }
}

void PvrdmaDevice::answer(const CmdHdr& hdr, int error, ResponseSlot& response)
{
    const CommandEntry* entry = find_command(hdr.cmd);
    if (error != 0) {
        guest_error(_stats.guest_command_errors, "command {} failed: {}", hdr.cmd, strerror(error));
        response = {};
    }
    write_slot(response, RespHdr{.response = hdr.response,
                                 .ack = hdr.cmd | cmd_response_bit,
                                 .err = static_cast<uint8_t>(error),
                                 .reserved = {}});
    bool is_written = _memory.write_object(_response_slot, response);
    // A driver looks for the failure of MODIFY_QP in the response, for that of
    // all else in ERR.
    bool is_answered = entry && entry->answered && (error == 0 || hdr.cmd == cmd_modify_qp);
    if (is_answered) {
        _error = is_written ? 0 : EFAULT;
    } else {
        _error = static_cast<uint32_t>(error);
    }
    if (is_answered && is_written) {
        _interrupts.raise(vector_response);
    }
}

int PvrdmaDevice::query_port(const CmdQueryPort& cmd, RespQueryPort& resp)
{
    if (cmd.port_num != port_number) {
        return EINVAL;
    }
    auto counter = [](uint64_t value) {
        return static_cast<uint32_t>(std::min<uint64_t>(value, UINT32_MAX));
    };
    resp.attrs = port_attributes_of(_config, _host.nic_info(), _backend);
    resp.attrs.bad_pkey_cntr = counter(_stats.drop_pkey);
    resp.attrs.qkey_viol_cntr = counter(_stats.drop_qkey);
    return 0;
}

int PvrdmaDevice::query_pkey(const CmdQueryPkey& cmd, RespQueryPkey& resp)
{
    if (cmd.port_num != port_number || cmd.index != 0) {
        return EINVAL;
    }
    resp.pkey = default_pkey;
    return 0;
}

int PvrdmaDevice::create_uc(const CmdCreateUc&, RespHandle& resp)
{
    auto [context, handle] = _contexts.emplace();
    resp.handle = handle;
    return context ? 0 : ENOMEM;
}

int PvrdmaDevice::destroy_uc(const CmdHandle& cmd)
{
    return _contexts.erase(cmd.handle) ? 0 : ENOENT;
}

bool PvrdmaDevice::is_context(uint32_t handle) const
{
    return handle == 0 || _contexts.find(handle);
}

int PvrdmaDevice::create_pd(const CmdCreatePd& cmd, RespHandle& resp)
{
    if (!is_context(cmd.ctx_handle)) {
        return ENOENT;
    }
    auto pd = _backend.alloc_pd();
    resp.handle = pd.value_or(0);
    return pd ? 0 : pd.error();
}

int PvrdmaDevice::destroy_pd(const CmdHandle& cmd)
{
    return _backend.dealloc_pd(cmd.handle);
}

int PvrdmaDevice::create_mr(const CmdCreateMr& cmd, RespCreateMr& resp)
{
    MrInit init;
    init.pd = cmd.pd_handle;
    init.access = static_cast<int>(cmd.access_flags & access_flags_passed);
    uint32_t num_pages = 0;
    std::vector<uint64_t> pages;
    switch (cmd.flags) {
    case mr_flag_dma:
        init.kind = MrInit::Kind::dma;
        break;
    case mr_flag_frmr:
        if (cmd.nchunks > max_fast_reg_page_list) {
            return EINVAL;
        }
        init.kind = MrInit::Kind::fast_reg;
        init.max_pages = num_pages = cmd.nchunks;
        break;
    case 0:
        if (cmd.nchunks == 0 || cmd.length > _config.max_mr_size ||
            pages_touched(cmd.start, cmd.length) != cmd.nchunks) {
            return EINVAL;
        }
        num_pages = cmd.nchunks;
        break;
    default:
        return EINVAL;
    }
    if (num_pages > page_dir_max_pages) {
        return EINVAL;
    }
    if (init.kind == MrInit::Kind::user) {
        pages.resize(num_pages);
        if (!read_page_directory(_memory, cmd.pdir_dma, pages)) {
            return EFAULT;
        }
        init.iova = cmd.start;
        init.length = cmd.length;
        init.pages = pages;
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

int PvrdmaDevice::destroy_mr(const CmdHandle& cmd)
{
    return _backend.dereg_mr(cmd.handle);
}

int PvrdmaDevice::create_bind(const CmdCreateBind& cmd)
{
    if (cmd.gid_type != gid_type_of(_config) || cmd.index >= _config.gid_tbl_len) {
        return EINVAL;
    }
    ibv_gid gid;
    std::copy_n(cmd.gid, sizeof(cmd.gid), gid.raw);
    // 4095 says nothing (and is what Linux's driver always says).
    std::optional<uint16_t> vlan;
    if (cmd.vlan >= first_vlan && cmd.vlan <= last_vlan) {
        vlan = static_cast<uint16_t>(cmd.vlan);
    }
    return _backend.add_gid(cmd.index, gid, _config.roce_version, vlan);
}

int PvrdmaDevice::destroy_bind(const CmdDestroyBind& cmd)
{
    return cmd.index < _config.gid_tbl_len ? _backend.del_gid(cmd.index) : EINVAL;
}

} // namespace rdma
