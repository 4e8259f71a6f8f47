// SPDX-License-Identifier: GPL-2.0-or-later
#include "entries.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

namespace rdma::virtio {

namespace {

constexpr uint8_t all_send_flags = VIRTIO_RDMA_SEND_FENCE | VIRTIO_RDMA_SEND_SIGNALED |
                                   VIRTIO_RDMA_SEND_SOLICITED | VIRTIO_RDMA_SEND_INLINE;
constexpr uint32_t number_mask = 0xffffff; // QPNs have 24 bits
constexpr uint32_t flow_label_mask = 0xfffff;
constexpr uint8_t max_priority = 7;

static_assert(sizeof(virtio_rdma_sge) == sizeof(ibv_sge) &&
              offsetof(virtio_rdma_sge, addr) == offsetof(ibv_sge, addr) &&
              offsetof(virtio_rdma_sge, length) == offsetof(ibv_sge, length) &&
              offsetof(virtio_rdma_sge, lkey) == offsetof(ibv_sge, lkey));

// The part of an entry before its SGEs, copied.
union Fields {
    virtio_rdma_sq_entry entry;
    virtio_rdma_sq_rdma rdma;
    virtio_rdma_sq_atomic atomic;
    virtio_rdma_sq_datagram datagram;
    virtio_rdma_sq_registration registration;
};

// What an opcode is, in this queue.
struct Operation {
    int opcode;         // ibv_wr_opcode or wr_fast_reg
    size_t fields;      // bytes before SGEs or bytes inline
    bool may_be_inline;
    enum class Extra { none, immediate, key } extra; // what the union has
};

// False: the queue has no such operation.
bool find_operation(uint8_t opcode, const EntryLimits& limits, Operation& out)
{
    using Extra = Operation::Extra;
    size_t send_fields = limits.datagram ? sizeof(virtio_rdma_sq_datagram)
                                         : sizeof(virtio_rdma_sq_entry);
    bool has_registration =
        has_feature(limits.features, VIRTIO_RDMA_F_FAST_REGISTRATION) && !limits.datagram;
    bool has_atomics = has_feature(limits.features, VIRTIO_RDMA_F_ATOMICS) && !limits.datagram;
    switch (opcode) {
    case VIRTIO_RDMA_OP_SEND:
        out = {IBV_WR_SEND, send_fields, true, Extra::none};
        return true;
    case VIRTIO_RDMA_OP_SEND_IMM:
        out = {IBV_WR_SEND_WITH_IMM, send_fields, true, Extra::immediate};
        return true;
    case VIRTIO_RDMA_OP_SEND_INV:
        out = {IBV_WR_SEND_WITH_INV, send_fields, true, Extra::key};
        return has_registration;
    case VIRTIO_RDMA_OP_WRITE:
        out = {IBV_WR_RDMA_WRITE, sizeof(virtio_rdma_sq_rdma), true, Extra::none};
        return !limits.datagram;
    case VIRTIO_RDMA_OP_WRITE_IMM:
        out = {IBV_WR_RDMA_WRITE_WITH_IMM, sizeof(virtio_rdma_sq_rdma), true, Extra::immediate};
        return !limits.datagram;
    case VIRTIO_RDMA_OP_READ:
        out = {IBV_WR_RDMA_READ, sizeof(virtio_rdma_sq_rdma), false, Extra::none};
        return !limits.datagram;
    case VIRTIO_RDMA_OP_CMP_SWAP:
        out = {IBV_WR_ATOMIC_CMP_AND_SWP, sizeof(virtio_rdma_sq_atomic), false, Extra::none};
        return has_atomics;
    case VIRTIO_RDMA_OP_FETCH_ADD:
        out = {IBV_WR_ATOMIC_FETCH_AND_ADD, sizeof(virtio_rdma_sq_atomic), false, Extra::none};
        return has_atomics;
    // [virtio-rdma QUE-23]
    case VIRTIO_RDMA_OP_LOCAL_INV:
        out = {IBV_WR_LOCAL_INV, sizeof(virtio_rdma_sq_entry), false, Extra::key};
        return has_registration && limits.privileged;
    case VIRTIO_RDMA_OP_FAST_REGISTRATION:
        out = {wr_fast_reg, sizeof(virtio_rdma_sq_registration), false, Extra::none};
        return has_registration && limits.privileged;
    default:
        return false;
    }
}

// The number of addresses that a registration has; 0: it is not one that may be.
uint32_t registration_pages(const virtio_rdma_sq_registration& registration)
{
    uint64_t first = registration.iova % page_size;
    if (registration.length == 0 || registration.length > UINT64_MAX - first ||
        registration.iova + (registration.length - 1) < registration.iova) {
        return 0;
    }
    uint64_t pages = (first + registration.length - 1) / page_size + 1;
    bool fits = pages <= max_fast_reg_pages &&
                registration.pages % page_size + pages * sizeof(uint64_t) <= page_size;
    return fits ? static_cast<uint32_t>(pages) : 0;
}

// False: the entry is not one that may be. An array that is not as it must be makes the
// registration fail.
bool decode_registration(const GuestMemory& memory, const virtio_rdma_sq_registration& in,
                         uint64_t features, SendRequest& out)
{
    auto& registration = out.fast_reg;
    uint32_t num_pages = registration_pages(in);
    if (in.reserved != 0 || in.page_shift != page_shift || in.pages % sizeof(uint64_t) != 0 ||
        num_pages == 0 || !decode_access(in.access, features, registration.access)) {
        return false;
    }
    auto pages = std::span(registration.pages).first(num_pages);
    registration.iova = in.iova;
    registration.length = in.length;
    registration.key = in.key;
    registration.num_pages = num_pages;
    // [virtio-rdma QUE-24]
    if (!memory.read(in.pages, std::as_writable_bytes(pages)) ||
        std::ranges::any_of(pages, [](uint64_t page) { return page % page_size != 0; })) {
        out.malformed = IBV_WC_MW_BIND_ERR; // 11.6.2
    }
    return true;
}

// What the opcode has. False: the entry is not one that may be.
bool decode_fields(const GuestMemory& memory, const Fields& fields, const EntryLimits& limits,
                   SendRequest& out)
{
    switch (out.opcode) {
    case IBV_WR_RDMA_WRITE:
    case IBV_WR_RDMA_WRITE_WITH_IMM:
    case IBV_WR_RDMA_READ:
        out.wr.wr.rdma.remote_addr = fields.rdma.remote_addr;
        out.wr.wr.rdma.rkey = fields.rdma.rkey;
        return fields.rdma.reserved == 0;
    case IBV_WR_ATOMIC_CMP_AND_SWP:
    case IBV_WR_ATOMIC_FETCH_AND_ADD:
        out.wr.wr.atomic.remote_addr = fields.atomic.remote_addr;
        out.wr.wr.atomic.compare_add = fields.atomic.compare_add;
        out.wr.wr.atomic.swap = fields.atomic.swap;
        out.wr.wr.atomic.rkey = fields.atomic.rkey;
        return fields.atomic.reserved == 0 && fields.entry.count == 1;
    case IBV_WR_LOCAL_INV:
        return fields.entry.count == 0;
    case wr_fast_reg:
        return fields.entry.count == 0 &&
               decode_registration(memory, fields.registration, limits.features, out);
    default:
        if (!limits.datagram) {
            return true;
        }
        out.wr.wr.ud.remote_qpn = fields.datagram.qpn;
        out.wr.wr.ud.remote_qkey = fields.datagram.qkey;
        return fields.datagram.qpn <= number_mask && decode_address(fields.datagram.av, out.av);
    }
}

} // namespace

bool decode_address(const virtio_rdma_av& av, AddressVector& out)
{
    out = {};
    out.attr.is_global = 1;
    out.attr.port_num = 1;
    std::copy_n(av.dgid, sizeof(av.dgid), out.attr.grh.dgid.raw);
    out.attr.grh.flow_label = av.flow_label;
    // 8 bits in libibverbs, and 256 GIDs at most here.
    out.attr.grh.sgid_index = static_cast<uint8_t>(av.sgid_index);
    out.attr.grh.hop_limit = av.hop_limit;
    out.attr.grh.traffic_class = av.traffic_class;
    out.attr.sl = av.sl;
    std::copy_n(av.dmac, sizeof(av.dmac), out.dmac.begin());
    return av.flow_label <= flow_label_mask && av.sgid_index <= UINT8_MAX &&
           av.sl <= max_priority && av.reserved == 0;
}

virtio_rdma_av encode_address(const AddressVector& in)
{
    virtio_rdma_av av{};
    std::copy_n(in.attr.grh.dgid.raw, sizeof(av.dgid), av.dgid);
    av.flow_label = in.attr.grh.flow_label;
    av.sgid_index = in.attr.grh.sgid_index;
    av.hop_limit = in.attr.grh.hop_limit;
    av.traffic_class = in.attr.grh.traffic_class;
    av.sl = in.attr.sl;
    std::ranges::copy(in.dmac, av.dmac);
    return av;
}

bool decode_access(uint32_t access, uint64_t features, int& out)
{
    uint32_t known = VIRTIO_RDMA_LOCAL_WRITE | VIRTIO_RDMA_REMOTE_WRITE | VIRTIO_RDMA_REMOTE_READ;
    if (has_feature(features, VIRTIO_RDMA_F_ATOMICS)) {
        known |= VIRTIO_RDMA_REMOTE_ATOMIC;
    }
    // The bits are libibverbs'.
    static_assert(VIRTIO_RDMA_LOCAL_WRITE == +IBV_ACCESS_LOCAL_WRITE &&
                  VIRTIO_RDMA_REMOTE_WRITE == +IBV_ACCESS_REMOTE_WRITE &&
                  VIRTIO_RDMA_REMOTE_READ == +IBV_ACCESS_REMOTE_READ &&
                  VIRTIO_RDMA_REMOTE_ATOMIC == +IBV_ACCESS_REMOTE_ATOMIC);
    out = static_cast<int>(access & known);
    return (access & ~known) == 0;
}

uint32_t encode_access(unsigned access)
{
    return access & (VIRTIO_RDMA_LOCAL_WRITE | VIRTIO_RDMA_REMOTE_WRITE | VIRTIO_RDMA_REMOTE_READ |
                     VIRTIO_RDMA_REMOTE_ATOMIC);
}

bool is_access_of_region(int access)
{
    return (access & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)) == 0 ||
           (access & IBV_ACCESS_LOCAL_WRITE) != 0;
}

bool read_send_entry(const GuestMemory& memory, uint64_t address, const EntryLimits& limits,
                     SendRequest& out)
{
    Fields fields;
    static_assert(sizeof(fields) <= 64); // the smallest entry
    // [virtio-rdma QUE-6]
    if (!memory.read(address, std::as_writable_bytes(std::span(&fields, 1)))) {
        return false;
    }
    const virtio_rdma_sq_entry& entry = fields.entry;
    out.wr = {};
    out.opcode = IBV_WR_SEND;
    out.inline_length = 0;
    out.wr.wr_id = entry.wr_id;
    if (entry.flags & VIRTIO_RDMA_SEND_SIGNALED) {
        out.wr.send_flags |= IBV_SEND_SIGNALED;
    }
    out.malformed = IBV_WC_LOC_QP_OP_ERR;
    Operation operation;
    // [virtio-rdma QUE-22]
    if (!find_operation(entry.opcode, limits, operation) || (entry.flags & ~all_send_flags) != 0 ||
        (operation.extra == Operation::Extra::none && entry.key != 0)) {
        return true;
    }
    bool is_inline = (entry.flags & VIRTIO_RDMA_SEND_INLINE) != 0;
    size_t bytes = is_inline ? entry.count : entry.count * sizeof(virtio_rdma_sge);
    uint32_t most = is_inline ? limits.max_inline : limits.max_sges;
    // [virtio-rdma QUE-22]
    if ((is_inline && !operation.may_be_inline) || entry.count > most ||
        operation.fields + bytes > limits.entry_size) {
        return true;
    }
    auto body = is_inline ? std::span(out.inline_data).first(bytes)
                          : std::as_writable_bytes(std::span(out.sge).first(entry.count));
    // What has come with the fields is not copied again.
    size_t copied = std::min(bytes, sizeof(fields) - operation.fields);
    std::memcpy(body.data(), reinterpret_cast<const std::byte*>(&fields) + operation.fields,
                copied);
    if (!memory.read(address + operation.fields + copied, body.subspan(copied))) {
        return false;
    }
    out.opcode = operation.opcode;
    out.malformed = IBV_WC_SUCCESS;
    if (!decode_fields(memory, fields, limits, out)) {
        out.malformed = IBV_WC_LOC_QP_OP_ERR;
    }
    if (out.malformed != IBV_WC_SUCCESS) {
        return true;
    }
    out.wr.imm_data = entry.imm_data; // or invalidate_rkey, in the same place
    if (entry.flags & VIRTIO_RDMA_SEND_FENCE) {
        out.wr.send_flags |= IBV_SEND_FENCE;
    }
    if (entry.flags & VIRTIO_RDMA_SEND_SOLICITED) {
        out.wr.send_flags |= IBV_SEND_SOLICITED;
    }
    if (is_inline) {
        out.wr.send_flags |= IBV_SEND_INLINE;
        out.inline_length = entry.count;
    } else {
        out.wr.num_sge = entry.count;
    }
    return true;
}

bool read_receive_entry(const GuestMemory& memory, uint64_t address, const EntryLimits& limits,
                        RecvRequest& out)
{
    virtio_rdma_rq_entry entry;
    // [virtio-rdma QUE-6]
    if (!memory.read_object(address, entry)) {
        return false;
    }
    out.wr_id = entry.wr_id;
    out.num_sge = 0;
    out.malformed = IBV_WC_LOC_QP_OP_ERR;
    // [virtio-rdma QUE-25]
    if (entry.count > std::min(limits.max_sges, receive_sges(limits.entry_size)) ||
        std::ranges::any_of(entry.reserved, [](uint16_t word) { return word != 0; })) {
        return true;
    }
    auto sges = std::span(out.sge).first(entry.count);
    if (!memory.read(address + sizeof(entry), std::as_writable_bytes(sges))) {
        return false;
    }
    out.num_sge = entry.count;
    out.malformed = IBV_WC_SUCCESS;
    return true;
}

namespace {

uint8_t encode_opcode(ibv_wc_opcode opcode)
{
    switch (static_cast<int>(opcode)) {
    case IBV_WC_RDMA_WRITE:
        return VIRTIO_RDMA_WC_WRITE;
    case IBV_WC_RDMA_READ:
        return VIRTIO_RDMA_WC_READ;
    case IBV_WC_COMP_SWAP:
        return VIRTIO_RDMA_WC_CMP_SWAP;
    case IBV_WC_FETCH_ADD:
        return VIRTIO_RDMA_WC_FETCH_ADD;
    case IBV_WC_LOCAL_INV:
        return VIRTIO_RDMA_WC_LOCAL_INV;
    case wc_fast_reg:
        return VIRTIO_RDMA_WC_FAST_REGISTRATION;
    case IBV_WC_RECV:
        return VIRTIO_RDMA_WC_RECV;
    case IBV_WC_RECV_RDMA_WITH_IMM:
        return VIRTIO_RDMA_WC_RECV_WRITE_IMM;
    default:
        return VIRTIO_RDMA_WC_SEND;
    }
}

uint8_t encode_status(ibv_wc_status status)
{
    switch (status) {
    case IBV_WC_SUCCESS:
        return VIRTIO_RDMA_WC_SUCCESS;
    case IBV_WC_LOC_LEN_ERR:
        return VIRTIO_RDMA_WC_LOC_LEN_ERR;
    case IBV_WC_LOC_QP_OP_ERR:
        return VIRTIO_RDMA_WC_LOC_QP_OP_ERR;
    case IBV_WC_LOC_PROT_ERR:
        return VIRTIO_RDMA_WC_LOC_PROT_ERR;
    case IBV_WC_WR_FLUSH_ERR:
        return VIRTIO_RDMA_WC_WR_FLUSH_ERR;
    case IBV_WC_MW_BIND_ERR:
        return VIRTIO_RDMA_WC_MW_BIND_ERR;
    case IBV_WC_BAD_RESP_ERR:
        return VIRTIO_RDMA_WC_BAD_RESP_ERR;
    case IBV_WC_LOC_ACCESS_ERR:
        return VIRTIO_RDMA_WC_LOC_ACCESS_ERR;
    case IBV_WC_REM_INV_REQ_ERR:
        return VIRTIO_RDMA_WC_REM_INV_REQ_ERR;
    case IBV_WC_REM_ACCESS_ERR:
        return VIRTIO_RDMA_WC_REM_ACCESS_ERR;
    case IBV_WC_REM_OP_ERR:
        return VIRTIO_RDMA_WC_REM_OP_ERR;
    case IBV_WC_RETRY_EXC_ERR:
        return VIRTIO_RDMA_WC_RETRY_EXC_ERR;
    case IBV_WC_RNR_RETRY_EXC_ERR:
        return VIRTIO_RDMA_WC_RNR_RETRY_EXC_ERR;
    case IBV_WC_FATAL_ERR:
        return VIRTIO_RDMA_WC_FATAL_ERR;
    default:
        return VIRTIO_RDMA_WC_GENERAL_ERR;
    }
}

bool has_length(ibv_wc_opcode opcode)
{
    return opcode == IBV_WC_RDMA_READ || opcode == IBV_WC_COMP_SWAP ||
           opcode == IBV_WC_FETCH_ADD || (opcode & IBV_WC_RECV) != 0;
}

} // namespace

virtio_rdma_cq_entry encode_completion(const Completion& completion)
{
    const ibv_wc& wc = completion.wc;
    // [virtio-rdma QUE-26]
    virtio_rdma_cq_entry entry{};
    entry.wr_id = wc.wr_id;
    entry.qpn = wc.qp_num;
    entry.status = encode_status(wc.status);
    if (wc.status != IBV_WC_SUCCESS) {
        entry.vendor_err = wc.vendor_err;
        return entry;
    }
    entry.opcode = encode_opcode(wc.opcode);
    if (has_length(wc.opcode)) {
        entry.byte_len = wc.byte_len;
    }
    if (wc.wc_flags & IBV_WC_WITH_IMM) {
        entry.flags |= VIRTIO_RDMA_WC_IMM;
        entry.imm_data = wc.imm_data;
    } else if (wc.wc_flags & IBV_WC_WITH_INV) {
        entry.flags |= VIRTIO_RDMA_WC_INVALIDATED;
        entry.key = wc.invalidated_rkey;
    }
    if (wc.wc_flags & IBV_WC_GRH) {
        entry.flags |= VIRTIO_RDMA_WC_GRH;
        entry.src_qpn = wc.src_qp;
        entry.network = completion.network == NetworkType::ipv4 ? VIRTIO_RDMA_NETWORK_IPV4
                                                                : VIRTIO_RDMA_NETWORK_IPV6;
        std::ranges::copy(completion.smac, entry.smac);
        if (completion.vlan) {
            entry.flags |= VIRTIO_RDMA_WC_VLAN;
            entry.vlan = *completion.vlan;
            entry.sl = wc.sl;
        }
    }
    return entry;
}

} // namespace rdma::virtio
