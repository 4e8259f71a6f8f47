// SPDX-License-Identifier: GPL-2.0-or-later
#include "work_queue.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "page_directory.h"

namespace rdma::pvrdma {

namespace {

constexpr uint32_t flow_label_mask = 0xfffff;
constexpr unsigned traffic_class_shift = 20;
constexpr uint32_t send_flags_known =
    IBV_SEND_FENCE | IBV_SEND_SIGNALED | IBV_SEND_SOLICITED;

// The guest's SGEs have ibv_sge's layout.
static_assert(sizeof(Sge) == sizeof(ibv_sge) && offsetof(Sge, addr) == offsetof(ibv_sge, addr) &&
              offsetof(Sge, length) == offsetof(ibv_sge, length) &&
              offsetof(Sge, lkey) == offsetof(ibv_sge, lkey));

bool read_sges(const GuestMemory& memory, uint64_t gpa, uint32_t count,
               std::array<ibv_sge, max_sge_limit>& out)
{
    return memory.read(gpa, std::as_writable_bytes(std::span(out).first(count)));
}

AddressVector decode_av(const Av& av)
{
    AddressVector out;
    out.attr.is_global = 1;
    out.attr.port_num = 1;
    std::copy_n(av.dgid, 16, out.attr.grh.dgid.raw);
    out.attr.grh.sgid_index = av.gid_index;
    out.attr.grh.hop_limit = av.hop_limit;
    out.attr.grh.flow_label = av.sl_tclass_flowlabel & flow_label_mask;
    out.attr.grh.traffic_class =
        static_cast<uint8_t>(av.sl_tclass_flowlabel >> traffic_class_shift);
    std::copy_n(av.dmac, 6, out.dmac.begin());
    return out;
}

// False: the registration cannot be carried out.
bool decode_fast_reg(const GuestMemory& memory, const SqWqeHdr& wqe, SendRequest& out)
{
    const auto& reg = wqe.wr.fast_reg;
    constexpr uint32_t page_shift_4k = 12;
    if (reg.page_shift != page_shift_4k || reg.page_list_len > max_fast_reg_page_list) {
        return false;
    }
    auto pages = read_page_directory(memory, reg.pl_pdir_dma, reg.page_list_len);
    if (!pages) {
        return false;
    }
    out.fast_reg.iova = reg.iova_start;
    out.fast_reg.length = reg.length;
    out.fast_reg.key = reg.rkey;
    out.fast_reg.access = static_cast<int>(reg.access_flags);
    out.fast_reg.num_pages = reg.page_list_len;
    std::ranges::copy(*pages, out.fast_reg.pages.begin());
    return true;
}

} // namespace

uint32_t sq_wqe_size(uint32_t max_sge)
{
    return std::bit_ceil(static_cast<uint32_t>(sizeof(SqWqeHdr) + sizeof(Sge) * max_sge));
}

uint32_t rq_wqe_size(uint32_t max_sge)
{
    return std::bit_ceil(static_cast<uint32_t>(sizeof(RqWqeHdr) + sizeof(Sge) * max_sge));
}

bool read_send_wqe(const GuestMemory& memory, uint64_t gpa, uint32_t max_sge, bool datagram,
                   SendRequest& out)
{
    SqWqeHdr wqe;
    if (!memory.read_object(gpa, wqe)) {
        return false;
    }
    out.wr = {};
    out.wr.wr_id = wqe.wr_id;
    out.wr.send_flags = wqe.send_flags & send_flags_known;
    out.wr.imm_data = wqe.ex;
    out.opcode = IBV_WR_SEND;
    out.malformed = IBV_WC_SUCCESS;
    if (wqe.num_sge > std::min<uint32_t>(max_sge, max_sge_limit) ||
        (wqe.send_flags & IBV_SEND_INLINE)) {
        out.malformed = IBV_WC_LOC_QP_OP_ERR;
        return true;
    }
    switch (wqe.opcode) {
    case wr_rdma_write:
    case wr_rdma_write_imm:
    case wr_rdma_read:
        out.wr.wr.rdma.remote_addr = wqe.wr.rdma.remote_addr;
        out.wr.wr.rdma.rkey = wqe.wr.rdma.rkey;
        [[fallthrough]];
    case wr_send:
    case wr_send_imm:
        out.opcode = static_cast<int>(wqe.opcode); // as ibv_wr_opcode
        break;
    case wr_cmp_swap:
    case wr_fetch_add:
        out.opcode = static_cast<int>(wqe.opcode);
        out.wr.wr.atomic.remote_addr = wqe.wr.atomic.remote_addr;
        out.wr.wr.atomic.compare_add = wqe.wr.atomic.compare_add;
        out.wr.wr.atomic.swap = wqe.wr.atomic.swap;
        out.wr.wr.atomic.rkey = wqe.wr.atomic.rkey;
        break;
    case wr_send_inv:
        out.opcode = IBV_WR_SEND_WITH_INV;
        break;
    case wr_local_inv:
        out.opcode = IBV_WR_LOCAL_INV;
        break;
    case wr_fast_reg_mr:
        out.opcode = wr_fast_reg;
        if (!decode_fast_reg(memory, wqe, out)) {
            out.malformed = IBV_WC_LOC_QP_OP_ERR;
        }
        break;
    default:
        out.malformed = IBV_WC_LOC_QP_OP_ERR;
        return true;
    }
    if (datagram) {
        out.wr.wr.ud.remote_qpn = wqe.wr.ud.remote_qpn;
        out.wr.wr.ud.remote_qkey = wqe.wr.ud.remote_qkey;
        out.av = decode_av(wqe.wr.ud.av);
    }
    out.wr.num_sge = static_cast<int>(wqe.num_sge);
    return read_sges(memory, gpa + sizeof(wqe), wqe.num_sge, out.sge);
}

bool read_recv_wqe(const GuestMemory& memory, uint64_t gpa, uint32_t max_sge, RecvRequest& out)
{
    RqWqeHdr wqe;
    if (!memory.read_object(gpa, wqe)) {
        return false;
    }
    out.wr_id = wqe.wr_id;
    out.num_sge = wqe.num_sge;
    out.malformed = IBV_WC_SUCCESS;
    if (wqe.num_sge > std::min<uint32_t>(max_sge, max_sge_limit)) {
        out.num_sge = 0;
        out.malformed = IBV_WC_LOC_QP_OP_ERR;
        return true;
    }
    return read_sges(memory, gpa + sizeof(wqe), wqe.num_sge, out.sge);
}

namespace {

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

uint8_t encode_network(NetworkType network)
{
    switch (network) {
    case NetworkType::ipv4:
        return 1;
    case NetworkType::ipv6:
        return 2;
    default:
        return 0;
    }
}

} // namespace

Cqe encode_cqe(const Completion& completion)
{
    const ibv_wc& wc = completion.wc;
    Cqe cqe{};
    cqe.wr_id = wc.wr_id;
    cqe.qp = completion.qp;
    cqe.opcode = encode_opcode(wc.opcode);
    cqe.status = wc.status; // the same numbers
    cqe.byte_len = wc.byte_len;
    cqe.src_qp = wc.src_qp;
    cqe.vendor_err = wc.vendor_err;
    cqe.port_num = 1;
    if (wc.wc_flags & IBV_WC_GRH) {
        // No WITH_SMAC: Linux's driver passes the flag on but not the address.
        cqe.wc_flags |= wc_flag_grh | wc_flag_network_type;
        cqe.network_hdr_type = encode_network(completion.network);
        std::copy(completion.smac.begin(), completion.smac.end(), cqe.smac);
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
