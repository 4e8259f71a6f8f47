// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a requester takes from the guest's ring, and whether it may.
#include "requester.h"

namespace rdma::roce {

namespace {

bool is_local(int opcode)
{
    return opcode == IBV_WR_LOCAL_INV || opcode == wr_fast_reg;
}

} // namespace

// [IBTA 9.8.2.1-2]
ibv_wc_status check_request(const QueuePair& qp, const SendWqe& wqe)
{
    switch (wqe.opcode) {
    case IBV_WR_SEND:
    case IBV_WR_SEND_WITH_IMM:
    case IBV_WR_RDMA_WRITE:
    case IBV_WR_RDMA_WRITE_WITH_IMM:
        break;
    case IBV_WR_SEND_WITH_INV:
        if (!qp.is_reliable()) {
            return IBV_WC_LOC_QP_OP_ERR;
        }
        break;
    case IBV_WR_RDMA_READ:
        if (!qp.is_reliable() || qp.attr.max_rd_atomic == 0) {
            return IBV_WC_LOC_QP_OP_ERR;
        }
        break;
    case IBV_WR_ATOMIC_CMP_AND_SWP:
    case IBV_WR_ATOMIC_FETCH_AND_ADD:
        if (!qp.is_reliable() || qp.attr.max_rd_atomic == 0) {
            return IBV_WC_LOC_QP_OP_ERR;
        }
        if (wqe.length != sizeof(uint64_t)) {
            return IBV_WC_LOC_LEN_ERR;
        }
        break;
    case IBV_WR_LOCAL_INV:
    case wr_fast_reg:
        return IBV_WC_SUCCESS;
    default:
        return IBV_WC_LOC_QP_OP_ERR;
    }
    return wqe.length > max_message ? IBV_WC_LOC_LEN_ERR : IBV_WC_SUCCESS;
}

bool Requester::accept(QueuePair& qp)
{
    RequesterState& req = qp.req;
    // [virtio-rdma QUE-7] [virtio-rdma REQ-5]
    // A QP that is refused one has others, whose completion leads here again.
    if (qp.state != IBV_QPS_RTS || req.window.size() >= max_accepted ||
        (req.window.size() >= least_accepted && _ctx.accepted >= max_accepted_of_all)) {
        return false;
    }
    // Room in PSN space for the longest message there may be.
    if (!qp.is_datagram() &&
        // [IBTA 9.7.1-4]
        req.window.outstanding() + max_message / qp.mtu >= Psn::half) {
        return false;
    }
    _scratch.malformed = IBV_WC_SUCCESS;
    _scratch.inline_length = 0;
    if (!_ctx.client->pull_send(qp.id, _scratch)) {
        return false;
    }
    const ibv_send_wr& wr = _scratch.wr;
    SendWqe& wqe = req.window.push(_ctx.wqe_slots);
    ++_ctx.accepted;
    wqe.wr_id = wr.wr_id;
    wqe.opcode = _scratch.opcode;
    wqe.send_flags = wr.send_flags;
    wqe.signaled = qp.init.sq_sig_all || (wr.send_flags & IBV_SEND_SIGNALED);
    wqe.immediate = wr.imm_data;
    wqe.sges.assign(_scratch.sge.begin(), _scratch.sge.begin() + wr.num_sge);
    // [virtio-rdma REQ-11]
    wqe.inline_data.assign(_scratch.inline_data.begin(),
                           _scratch.inline_data.begin() + _scratch.inline_length);
    wqe.length = _scratch.inline_length;
    for (const ibv_sge& sge : wqe.sges) {
        wqe.length += sge.length;
    }
    wqe.status = _scratch.malformed;
    if (wqe.opcode == wr_fast_reg && wqe.status == IBV_WC_SUCCESS) {
        const auto& reg = _scratch.fast_reg;
        req.registration.iova = reg.iova;
        req.registration.length = reg.length;
        req.registration.key = reg.key;
        req.registration.access = reg.access;
        req.registration.pages.assign(reg.pages.begin(), reg.pages.begin() + reg.num_pages);
    }
    if (wqe.status != IBV_WC_SUCCESS) {
        return true;
    }
    if (qp.is_datagram()) {
        wqe.remote_qpn = wr.wr.ud.remote_qpn;
        wqe.remote_qkey = wr.wr.ud.remote_qkey;
        wqe.av = _scratch.av;
        return true;
    }
    if (wqe.is_atomic()) {
        wqe.remote_address = wr.wr.atomic.remote_addr;
        wqe.rkey = wr.wr.atomic.rkey;
        wqe.compare_add = wr.wr.atomic.compare_add;
        wqe.swap = wr.wr.atomic.swap;
    } else {
        wqe.remote_address = wr.wr.rdma.remote_addr;
        wqe.rkey = wr.wr.rdma.rkey;
    }
    wqe.status = check_request(qp, wqe);
    if (wqe.status == IBV_WC_SUCCESS && !is_local(wqe.opcode) &&
        !_ctx.regions.check(wqe.sges, qp.init.pd,
                            wqe.has_response() ? IBV_ACCESS_LOCAL_WRITE : 0)) {
        wqe.status = IBV_WC_LOC_PROT_ERR;
    }
    if (wqe.status == IBV_WC_SUCCESS && !is_local(wqe.opcode)) {
        req.window.number(wqe, packets_of(wqe.length, qp.mtu));
    }
    return true;
}

} // namespace rdma::roce
