// SPDX-License-Identifier: GPL-2.0-or-later
//
// The commands of completion queues, shared receive queues and queue pairs.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <optional>

#include "page_directory.h"
#include "pvrdma_device.h"
#include "qp_attributes.h"

namespace rdma {

using namespace pvrdma;

namespace {

constexpr uint32_t version_with_qp_handle = 20;
constexpr uint8_t srq_type_basic = 0;

// The ring of a CQ or an SRQ: a state page, then the entries. num_pages may be
// more than that takes (an SRQ's are about twice as many); no more are read.
std::optional<GuestRing> make_rx_ring(const GuestMemory& memory, uint64_t directory,
                                      uint32_t num_pages, uint32_t entry_size, uint32_t slots)
{
    std::vector<uint64_t> pages(1 + GuestRing::pages_for(entry_size, slots));
    if (num_pages < pages.size() || num_pages > page_dir_max_pages ||
        !read_page_directory(memory, directory, pages)) {
        return std::nullopt;
    }
    uint64_t state = pages.front() + ring_rx_offset;
    pages.erase(pages.begin());
    return GuestRing(state, std::move(pages), entry_size, slots);
}

bool is_depth(uint32_t wanted, uint32_t most)
{
    return wanted > 0 && wanted <= most && std::has_single_bit(wanted);
}

} // namespace

int PvrdmaDevice::create_cq(const CmdCreateCq& cmd, RespCreateCq& resp)
{
    if (!is_context(cmd.ctx_handle)) {
        return ENOENT;
    }
    if (!is_depth(cmd.cqe, _config.max_cqe)) {
        return EINVAL;
    }
    if (!has_room_for(GuestRing::pages_for(sizeof(Cqe), cmd.cqe))) {
        return ENOMEM;
    }
    auto ring = make_rx_ring(_memory, cmd.pdir_dma, cmd.nchunks, sizeof(Cqe), cmd.cqe);
    if (!ring) {
        return EFAULT;
    }
    auto id = _backend.create_cq();
    if (!id) {
        return id.error();
    }
    insert(_cqs, *id, Cq{.ring = std::move(*ring)});
    resp.cq_handle = *id;
    resp.cqe = cmd.cqe;
    return 0;
}

int PvrdmaDevice::destroy_cq(const CmdHandle& cmd)
{
    int error = _backend.destroy_cq(cmd.handle);
    if (error == 0) {
        std::erase(_late_notifications, cmd.handle);
        erase(_cqs, cmd.handle);
    }
    return error;
}

int PvrdmaDevice::create_srq(const CmdCreateSrq& cmd, RespHandle& resp)
{
    const SrqAttr& attrs = cmd.attrs;
    if (cmd.srq_type != srq_type_basic || !is_depth(attrs.max_wr, _config.max_srq_wr) ||
        attrs.max_sge > _config.max_srq_sge) {
        return EINVAL;
    }
    uint32_t entry_size = rq_wqe_size(attrs.max_sge);
    if (!has_room_for(GuestRing::pages_for(entry_size, attrs.max_wr))) {
        return ENOMEM;
    }
    auto ring = make_rx_ring(_memory, cmd.pdir_dma, cmd.nchunks, entry_size, attrs.max_wr);
    if (!ring) {
        return EFAULT;
    }
    // The limit is armed by MODIFY_SRQ alone.
    auto id = _backend.create_srq(cmd.pd_handle, {attrs.max_wr, attrs.max_sge, 0});
    if (!id) {
        return id.error();
    }
    insert(_srqs, *id, Srq{.ring = std::move(*ring), .max_sge = attrs.max_sge});
    resp.handle = *id;
    return 0;
}

int PvrdmaDevice::modify_srq(const CmdModifySrq& cmd)
{
    ibv_srq_attr attr{cmd.attrs.max_wr, cmd.attrs.max_sge, cmd.attrs.srq_limit};
    return _backend.modify_srq(cmd.srq_handle, attr, static_cast<int>(cmd.attr_mask));
}

int PvrdmaDevice::query_srq(const CmdHandle& cmd, RespQuerySrq& resp)
{
    ibv_srq_attr attr{};
    int error = _backend.query_srq(cmd.handle, attr);
    resp.attrs = {attr.max_wr, attr.max_sge, attr.srq_limit, 0};
    return error;
}

int PvrdmaDevice::destroy_srq(const CmdHandle& cmd)
{
    int error = _backend.destroy_srq(cmd.handle);
    if (error == 0) {
        erase(_srqs, cmd.handle);
    }
    return error;
}

int PvrdmaDevice::create_qp(const CmdCreateQp& cmd, ResponseSlot& response)
{
    QpInit init;
    switch (cmd.qp_type) {
    case qpt_gsi:
        init.gsi = true;
        init.type = IBV_QPT_UD;
        break;
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
    bool has_rq = !cmd.is_srq;
    uint32_t max_recv_wr = has_rq ? cmd.max_recv_wr : 0;
    uint32_t max_recv_sge = has_rq ? cmd.max_recv_sge : 0;
    // Linux's driver rounds the number of SGEs up for kernel consumers.
    uint32_t max_sge = std::bit_ceil(_config.max_sge);
    if (!is_depth(cmd.max_send_wr, _config.max_qp_wr) || cmd.max_send_sge > max_sge ||
        (has_rq && !is_depth(max_recv_wr, _config.max_qp_wr)) || max_recv_sge > max_sge) {
        return EINVAL;
    }
    // [state page][send_chunks pages of SQ][the rest: RQ]
    uint32_t sq_entry = sq_wqe_size(cmd.max_send_sge);
    uint32_t rq_entry = rq_wqe_size(max_recv_sge);
    uint32_t sq_pages = GuestRing::pages_for(sq_entry, cmd.max_send_wr);
    uint32_t rq_pages = GuestRing::pages_for(rq_entry, max_recv_wr);
    uint32_t rq_first = 1u + cmd.send_chunks;
    if (cmd.send_chunks < sq_pages ||
        cmd.send_chunks > GuestRing::pages_for(sq_wqe_size(max_sge), _config.max_qp_wr) ||
        cmd.total_chunks < rq_first + rq_pages) {
        return EINVAL;
    }
    if (!has_room_for(sq_pages + rq_pages)) {
        return ENOMEM;
    }
    std::vector<uint64_t> pages(rq_first + rq_pages);
    if (!read_page_directory(_memory, cmd.pdir_dma, pages)) {
        return EFAULT;
    }
    init.pd = cmd.pd_handle;
    init.send_cq = cmd.send_cq_handle;
    init.recv_cq = cmd.recv_cq_handle;
    init.use_srq = !has_rq;
    init.srq = cmd.srq_handle;
    init.sq_sig_all = cmd.sq_sig_all;
    init.cap = {cmd.max_send_wr, max_recv_wr, cmd.max_send_sge, max_recv_sge, 0};
    auto numbers = _backend.create_qp(init);
    if (!numbers) {
        return numbers.error();
    }
    auto part = [&](uint32_t first, uint32_t count) {
        return std::vector(pages.begin() + first, pages.begin() + first + count);
    };
    insert(
        _qps, numbers->id,
        Qp{.sq = GuestRing(pages[0] + ring_tx_offset, part(1, sq_pages), sq_entry, cmd.max_send_wr),
           .rq = GuestRing(pages[0] + ring_rx_offset, part(rq_first, rq_pages), rq_entry,
                           max_recv_wr),
           .send_limits = {.max_sge = cmd.max_send_sge,
                           .pd = cmd.pd_handle,
                           .datagram = init.type == IBV_QPT_UD},
           .max_recv_sge = max_recv_sge});
    if (_config.version >= version_with_qp_handle) {
        write_slot(response, RespCreateQpV2{.qpn = numbers->qpn,
                                            .qp_handle = numbers->id,
                                            .max_send_wr = cmd.max_send_wr,
                                            .max_recv_wr = max_recv_wr,
                                            .max_send_sge = cmd.max_send_sge,
                                            .max_recv_sge = max_recv_sge});
    } else {
        write_slot(response, RespCreateQp{.qpn = numbers->qpn,
                                          .max_send_wr = cmd.max_send_wr,
                                          .max_recv_wr = max_recv_wr,
                                          .max_send_sge = cmd.max_send_sge,
                                          .max_recv_sge = max_recv_sge});
    }
    return 0;
}

int PvrdmaDevice::modify_qp(const CmdModifyQp& cmd)
{
    // The guest's masks and enumerations have libibverbs' numbers.
    int mask = static_cast<int>(cmd.attr_mask);
    ibv_qp_attr attr;
    Mac dmac;
    if (!decode_qp_attributes(cmd.attrs, mask, attr, dmac)) {
        return EINVAL;
    }
    int error = _backend.modify_qp(cmd.qp_handle, attr, mask, dmac);
    if (error == 0 && (mask & IBV_QP_STATE) && attr.qp_state == IBV_QPS_RESET) {
        // The guest puts the rings' indices back to 0 when it sees the response.
        _qps.find(cmd.qp_handle)->ring_failed = false;
    }
    return error;
}

int PvrdmaDevice::query_qp(const CmdHandle& cmd, RespQueryQp& resp)
{
    ibv_qp_attr attr{};
    Mac dmac{};
    int error = _backend.query_qp(cmd.handle, attr, dmac);
    resp.attrs = encode_qp_attributes(attr, dmac);
    return error;
}

int PvrdmaDevice::destroy_qp(const CmdHandle& cmd)
{
    int error = _backend.destroy_qp(cmd.handle);
    if (error == 0) {
        erase(_qps, cmd.handle);
    }
    return error;
}

} // namespace rdma
