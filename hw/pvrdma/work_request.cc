// SPDX-License-Identifier: GPL-2.0-or-later
#include "work_request.h"

#include <algorithm>
#include <bit>

#include "page_directory.h"
#include "pvrdma_abi.h"

namespace rdma::pvrdma {

namespace {

constexpr uint32_t flow_label_mask = 0xfffff;
constexpr unsigned traffic_class_shift = 20;
constexpr unsigned av_port_shift = 24;
constexpr uint32_t av_pd_mask = 0xffffff;
constexpr uint32_t send_flags_passed = IBV_SEND_FENCE | IBV_SEND_SIGNALED | IBV_SEND_SOLICITED;
constexpr uint32_t access_flags_passed = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                                         IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

// The guest's SGEs have ibv_sge's layout.
static_assert(sizeof(Sge) == sizeof(ibv_sge) && offsetof(Sge, addr) == offsetof(ibv_sge, addr) &&
              offsetof(Sge, length) == offsetof(ibv_sge, length) &&
              offsetof(Sge, lkey) == offsetof(ibv_sge, lkey));
// So do its opcodes, as far as they are passed on as they are.
static_assert(wr_rdma_write == +IBV_WR_RDMA_WRITE &&
              wr_rdma_write_imm == +IBV_WR_RDMA_WRITE_WITH_IMM && wr_send == +IBV_WR_SEND &&
              wr_send_imm == +IBV_WR_SEND_WITH_IMM && wr_rdma_read == +IBV_WR_RDMA_READ &&
              wr_cmp_swap == +IBV_WR_ATOMIC_CMP_AND_SWP &&
              wr_fetch_add == +IBV_WR_ATOMIC_FETCH_AND_ADD);

bool read_sges(const GuestMemory& memory, uint64_t gpa, uint32_t count,
               std::array<ibv_sge, max_sge_limit>& out)
{
    return memory.read(gpa, std::as_writable_bytes(std::span(out).first(count)));
}

// False: another port or protection domain than the QP's.
bool decode_av(const Av& av, uint32_t pd, AddressVector& out)
{
    constexpr uint32_t only_port = 1;
    out = {};
    out.attr.is_global = 1;
    out.attr.port_num = only_port;
    std::copy_n(av.dgid, sizeof(av.dgid), out.attr.grh.dgid.raw);
    out.attr.grh.sgid_index = av.gid_index;
    out.attr.grh.hop_limit = av.hop_limit;
    out.attr.grh.flow_label = av.sl_tclass_flowlabel & flow_label_mask;
    out.attr.grh.traffic_class =
        static_cast<uint8_t>(av.sl_tclass_flowlabel >> traffic_class_shift);
    std::copy_n(av.dmac, sizeof(av.dmac), out.dmac.begin());
    return av.port_pd >> av_port_shift == only_port && (av.port_pd & av_pd_mask) == pd;
}

// False: the registration cannot be carried out.
bool decode_fast_reg(const GuestMemory& memory, const SqWqeHdr& wqe, SendRequest& out)
{
    const auto& reg = wqe.wr.fast_reg;
    static_assert(max_fast_reg_page_list <= max_fast_reg_pages);
    if (reg.page_shift != page_shift || reg.page_list_len > max_fast_reg_page_list ||
        !read_page_directory(memory, reg.pl_pdir_dma,
                             std::span(out.fast_reg.pages).first(reg.page_list_len))) {
        return false;
    }
    out.fast_reg.iova = reg.iova_start;
    out.fast_reg.length = reg.length;
    out.fast_reg.key = reg.rkey;
    out.fast_reg.access = static_cast<int>(reg.access_flags & access_flags_passed);
    out.fast_reg.num_pages = reg.page_list_len;
    return true;
}

bool is_for_datagrams(uint32_t opcode)
{
    return opcode == wr_send || opcode == wr_send_imm;
}

// Opcode and operands; false where there is no such request.
bool decode_operation(const GuestMemory& memory, const SqWqeHdr& wqe, const SendLimits& limits,
                      SendRequest& out)
{
    if (limits.datagram) {
        out.opcode = static_cast<int>(wqe.opcode);
        out.wr.wr.ud.remote_qpn = wqe.wr.ud.remote_qpn;
        out.wr.wr.ud.remote_qkey = wqe.wr.ud.remote_qkey;
        return is_for_datagrams(wqe.opcode) && decode_av(wqe.wr.ud.av, limits.pd, out.av);
    }
    switch (wqe.opcode) {
    case wr_send:
    case wr_send_imm:
        out.opcode = static_cast<int>(wqe.opcode);
        return true;
    case wr_rdma_write:
    case wr_rdma_write_imm:
    case wr_rdma_read:
        out.opcode = static_cast<int>(wqe.opcode);
        out.wr.wr.rdma.remote_addr = wqe.wr.rdma.remote_addr;
        out.wr.wr.rdma.rkey = wqe.wr.rdma.rkey;
        return true;
    case wr_cmp_swap:
    case wr_fetch_add:
        out.opcode = static_cast<int>(wqe.opcode);
        out.wr.wr.atomic.remote_addr = wqe.wr.atomic.remote_addr;
        out.wr.wr.atomic.compare_add = wqe.wr.atomic.compare_add;
        out.wr.wr.atomic.swap = wqe.wr.atomic.swap;
        out.wr.wr.atomic.rkey = wqe.wr.atomic.rkey;
        return true;
    case wr_send_inv:
        out.opcode = IBV_WR_SEND_WITH_INV;
        return true;
    case wr_local_inv:
        out.opcode = IBV_WR_LOCAL_INV;
        return true;
    case wr_fast_reg_mr:
        out.opcode = wr_fast_reg;
        out.malformed = IBV_WC_MW_BIND_ERR; // unless it is good (11.6.2)
        return decode_fast_reg(memory, wqe, out);
    default:
        // Masked atomics among them, for which the driver fills in no operands.
        return false;
    }
}

// The library promises no room for inline data, nor does it copy any; a
// request of no bytes may carry the flag all the same.
bool has_inline_data(const SqWqeHdr& wqe, std::span<const ibv_sge> sges)
{
    return (wqe.send_flags & IBV_SEND_INLINE) &&
           std::ranges::any_of(sges, [](const ibv_sge& sge) { return sge.length != 0; });
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

bool read_send_wqe(const GuestMemory& memory, uint64_t gpa, const SendLimits& limits,
                   SendRequest& out)
{
    SqWqeHdr wqe;
    if (!memory.read_object(gpa, wqe)) {
        return false;
    }
    out.opcode = IBV_WR_SEND;
    out.wr = {};
    out.wr.wr_id = wqe.wr_id;
    out.wr.send_flags = wqe.send_flags & send_flags_passed;
    out.wr.imm_data = wqe.ex; // or invalidate_rkey, in the same place
    out.malformed = IBV_WC_LOC_QP_OP_ERR;
    if (wqe.num_sge > std::min<uint32_t>(limits.max_sge, max_sge_limit)) {
        return true;
    }
    if (!read_sges(memory, gpa + sizeof(wqe), wqe.num_sge, out.sge)) {
        return false;
    }
    if (!decode_operation(memory, wqe, limits, out) ||
        has_inline_data(wqe, std::span(out.sge).first(wqe.num_sge))) {
        return true;
    }
    out.wr.num_sge = static_cast<int>(wqe.num_sge);
    out.malformed = IBV_WC_SUCCESS;
    return true;
}

bool read_recv_wqe(const GuestMemory& memory, uint64_t gpa, uint32_t max_sge, RecvRequest& out)
{
    RqWqeHdr wqe;
    if (!memory.read_object(gpa, wqe)) {
        return false;
    }
    out.wr_id = wqe.wr_id;
    out.num_sge = 0;
    out.malformed = IBV_WC_LOC_QP_OP_ERR;
    if (wqe.num_sge > std::min<uint32_t>(max_sge, max_sge_limit)) {
        return true;
    }
    if (!read_sges(memory, gpa + sizeof(wqe), wqe.num_sge, out.sge)) {
        return false;
    }
    out.num_sge = wqe.num_sge;
    out.malformed = IBV_WC_SUCCESS;
    return true;
}

} // namespace rdma::pvrdma
