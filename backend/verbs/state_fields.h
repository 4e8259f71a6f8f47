// SPDX-License-Identifier: GPL-2.0-or-later
//
// The fields of the backend's objects in a state stream (migration/archive.h has the
// notation). What a value may be beyond its range is checked in state.cc.
#pragma once

#include <deque>

#include "archive.h"
#include "attribute_fields.h"
#include "opcodes.h"
#include "posted_requests.h"

namespace rdma::verbs {

using rdma::describe;

struct GidState {
    uint32_t index = 0;
    ibv_gid gid{};
    uint8_t type = 0;
};

struct MrState {
    uint32_t id = 0;
    uint32_t pd = 0;
    bool dma = false;
    uint32_t lkey = 0;
    uint32_t rkey = 0;
    uint32_t access = 0;
    uint64_t iova = 0;
    uint64_t length = 0;
    std::vector<uint64_t> pages;
    size_t max_pages = 1 << 18; // most that are read; not saved
};

struct CqState {
    uint32_t id = 0;
    bool overrun = false;
};

struct SrqState {
    uint32_t id = 0;
    uint32_t pd = 0;
    ibv_srq_attr attr{};
    bool failed = false;
    std::deque<KeptRecv> posted;
};

// See VerbsBackend::Held.
struct HeldState {
    bool send = false;
    uint64_t wr_id = 0;
    uint8_t status = 0;
    uint8_t opcode = 0;
    bool signaled = false;
};

struct QpState {
    uint32_t id = 0;
    uint32_t qpn = 0;
    QpInit init;
    ibv_qp_state state = IBV_QPS_RESET;
    ibv_qp_attr attr{};
    Mac dmac{};
    bool send_failed = false;
    bool recv_failed = false;
    bool has_peer = false;
    uint32_t peer_host_qpn = 0;
    uint64_t num_received = 0;
    uint64_t num_sent = 0;
    std::deque<KeptSend> sends;
    std::deque<KeptRecv> recvs;
    std::vector<HeldState> held;
};

// Most requests of a queue: the largest that limits can be.
inline constexpr size_t max_kept = 65536;

template <typename Archive>
void describe(Archive& a, GidState& gid)
{
    a.u32("index", gid.index);
    a.bytes("gid", gid.gid.raw);
    a.u8("type", gid.type, 2);
}

template <typename Archive>
void describe(Archive& a, MrState& mr)
{
    a.u32("id", mr.id);
    a.u32("pd", mr.pd);
    a.flag("dma", mr.dma);
    a.u32("lkey", mr.lkey);
    a.u32("rkey", mr.rkey);
    a.u32("access", mr.access,
          IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
              IBV_ACCESS_REMOTE_ATOMIC);
    a.u64("iova", mr.iova);
    a.u64("length", mr.length);
    a.pages("pages", mr.pages, mr.max_pages);
}

template <typename Archive>
void describe(Archive& a, CqState& cq)
{
    a.u32("id", cq.id);
    a.flag("overrun", cq.overrun);
}

template <typename Archive, typename T>
void describe_sges(Archive& a, Kept<T>& kept)
{
    a.list("sges", kept.sges, max_sge_limit, [](auto& b, ibv_sge& sge) { describe(b, sge); });
}

template <typename Archive>
void describe(Archive& a, KeptRecv& kept)
{
    a.u64("wr_id", kept.request.wr_id);
    describe_sges(a, kept);
    kept.request.num_sge = static_cast<uint32_t>(kept.sges.size());
}

// A connected QP's: without what is datagrams'.
template <typename Archive>
void describe(Archive& a, KeptSend& kept)
{
    ibv_send_wr& wr = kept.request.wr;
    a.u64("wr_id", wr.wr_id);
    a.u8("opcode", kept.request.opcode, IBV_WR_ATOMIC_FETCH_AND_ADD);
    a.u8("send_flags", wr.send_flags);
    a.flag("signaled", kept.request.signaled);
    a.u32("immediate", wr.imm_data);
    bool atomic = is_atomic(kept.request.opcode);
    uint64_t address = atomic ? wr.wr.atomic.remote_addr : wr.wr.rdma.remote_addr;
    uint32_t rkey = atomic ? wr.wr.atomic.rkey : wr.wr.rdma.rkey;
    uint64_t compare_add = atomic ? wr.wr.atomic.compare_add : 0;
    uint64_t swap = atomic ? wr.wr.atomic.swap : 0;
    a.u64("remote_address", address);
    a.u32("rkey", rkey);
    a.u64("compare_add", compare_add);
    a.u64("swap", swap);
    if (Archive::is_reader && atomic) {
        wr.wr.atomic = {address, compare_add, swap, rkey};
    } else if (Archive::is_reader) {
        wr.wr.rdma = {address, rkey};
    }
    describe_sges(a, kept);
    wr.num_sge = static_cast<int>(kept.sges.size());
}

template <typename Archive>
void describe(Archive& a, SrqState& srq)
{
    a.u32("id", srq.id);
    a.u32("pd", srq.pd);
    a.u32("max_wr", srq.attr.max_wr);
    a.u32("max_sge", srq.attr.max_sge, max_sge_limit);
    a.u32("srq_limit", srq.attr.srq_limit);
    a.flag("failed", srq.failed);
    a.list("posted", srq.posted, max_kept, [](auto& b, KeptRecv& kept) { describe(b, kept); });
}

template <typename Archive>
void describe(Archive& a, HeldState& held)
{
    a.flag("send", held.send);
    a.u64("wr_id", held.wr_id);
    a.u8("status", held.status, IBV_WC_GENERAL_ERR);
    a.u8("opcode", held.opcode);
    a.flag("signaled", held.signaled);
}

template <typename Archive>
void describe(Archive& a, QpState& qp)
{
    a.u32("id", qp.id);
    a.u32("qpn", qp.qpn, 0xffffff);
    a.record("init", [&] { describe(a, qp.init); });
    a.u8("state", qp.state, IBV_QPS_ERR);
    a.record("attr", [&] { describe(a, qp.attr); });
    a.bytes("dmac", qp.dmac);
    a.flag("send_failed", qp.send_failed);
    a.flag("recv_failed", qp.recv_failed);
    a.flag("has_peer", qp.has_peer);
    a.u32("peer_host_qpn", qp.peer_host_qpn, 0xffffff);
    a.u64("num_received", qp.num_received);
    a.u64("num_sent", qp.num_sent);
    a.list("sends", qp.sends, max_kept, [](auto& b, KeptSend& kept) { describe(b, kept); });
    a.list("recvs", qp.recvs, max_kept, [](auto& b, KeptRecv& kept) { describe(b, kept); });
    a.list("held", qp.held, 2 * max_kept, [](auto& b, HeldState& held) { describe(b, held); });
}

} // namespace rdma::verbs
