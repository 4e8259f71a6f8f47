// SPDX-License-Identifier: GPL-2.0-or-later
//
// The engine in a state stream. What is loaded is checked so far that no later
// step can go wrong with it: references, the order of PSNs, counts. What can be
// computed from the rest is not in the stream.
#include <fmt/format.h>

#include "engine.h"
#include "qp_rules.h"
#include "state_fields.h"

namespace rdma::roce {

using migration::read_section;
using migration::Section;
using migration::SectionKind;
using migration::Status;

namespace {

// Longest time a timer can have left, nanoseconds: the longest ACK timeout.
constexpr int64_t max_remaining = int64_t{4096} << 31;
// retry_cnt and rnr_retry have 3 bits (9.7.6.1.3, 9.7.5.2.8).
constexpr uint8_t max_retries = 7;

Status wrong(std::string what)
{
    return std::unexpected(std::move(what));
}

Status wrong(const QueuePair& qp, const char* what)
{
    return wrong(fmt::format("QP {}: {}", qp.id, what));
}

bool is_past_init(ibv_qp_state state)
{
    return state == IBV_QPS_RTR || state == IBV_QPS_RTS || state == IBV_QPS_SQD ||
           state == IBV_QPS_SQE;
}

Status check_numbers(const QueuePair& qp, const Limits& limits)
{
    constexpr uint32_t qpn_id_mask = 0xffff;
    if (check_init(qp.init, limits) != 0) {
        return wrong(qp, "its type or its limits are not possible");
    }
    bool numbers_fit = qp.init.gsi ? qp.id == gsi_qpn && qp.qpn == gsi_qpn
                                   : (qp.qpn & qpn_id_mask) == qp.id &&
                                         (limits.qpn_generations || qp.qpn == qp.id);
    if (!numbers_fit) {
        return wrong(qp, "id and QPN do not belong together");
    }
    const int all = IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_PATH_MTU | IBV_QP_MIN_RNR_TIMER |
                    IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                    IBV_QP_MAX_QP_RD_ATOMIC | IBV_QP_MAX_DEST_RD_ATOMIC |
                    (qp.path.valid() ? IBV_QP_AV : 0);
    // The port's MTU may have become smaller since.
    if (check_attributes(qp.attr, all, limits, IBV_MTU_4096) != 0) {
        return wrong(qp, "an attribute is out of range");
    }
    // It is set on the way to RTR.
    bool has_mtu = qp.mtu != 0;
    bool needs_path = !qp.is_datagram() && is_past_init(qp.state);
    if ((has_mtu && qp.mtu != mtu_bytes(qp.attr.path_mtu)) ||
        (is_past_init(qp.state) && !has_mtu) || (needs_path && !qp.path.valid())) {
        return wrong(qp, "its path or MTU is missing or wrong");
    }
    return {};
}

// One request of the send queue.
bool is_wqe_ok(const QueuePair& qp, const SendWqe& wqe, const Limits& limits)
{
    if (wqe.sges.size() > limits.max_sge) {
        return false;
    }
    bool local = wqe.opcode == IBV_WR_LOCAL_INV || wqe.opcode == wr_fast_reg;
    if (wqe.num_packets == 0) {
        return qp.is_datagram() || local || wqe.status != IBV_WC_SUCCESS;
    }
    return !qp.is_datagram() && !local && qp.mtu > 0 &&
           check_request(qp, wqe) == IBV_WC_SUCCESS &&
           wqe.num_packets == packets_of(wqe.length, qp.mtu);
}

// Computes what is not in the stream and checks the rest.
Status complete_requester(QueuePair& qp, const Limits& limits)
{
    RequesterState& req = qp.req;
    if (!qp.can_send() && !req.window.empty()) {
        return wrong(qp, "it has send requests in a state without");
    }
    if (req.retries_left > max_retries || req.rnr_retries_left > max_retries) {
        return wrong(qp, "a retry counter is out of range");
    }
    for (size_t i = 0; i < req.window.size(); ++i) {
        SendWqe& wqe = req.window[i];
        wqe.length = wqe.inline_data.size();
        for (const ibv_sge& sge : wqe.sges) {
            wqe.length += sge.length;
        }
        if (!is_wqe_ok(qp, wqe, limits)) {
            return wrong(qp, "a send request makes no sense");
        }
    }
    if (const char* what = req.window.restore(!qp.is_datagram() && qp.can_send())) {
        return wrong(qp, what);
    }
    return {};
}

Status complete_responder(QueuePair& qp)
{
    ResponderState& resp = qp.resp;
    resp.recv_length = 0;
    for (uint32_t i = 0; i < resp.recv.num_sge; ++i) {
        resp.recv_length += resp.recv.sge[i].length;
    }
    using Message = ResponderState::Message;
    if ((resp.message == Message::send &&
         (!resp.have_recv || resp.received > resp.recv_length)) ||
        (resp.message != Message::none &&
         (resp.write_remaining > max_peer_message || resp.received > max_peer_message))) {
        return wrong(qp, "the message it receives does not fit");
    }
    if (!resp.window.is_sound(qp.mtu)) {
        return wrong(qp, "an answer it has to send makes no sense");
    }
    if (qp.is_reliable() && qp.can_receive()) {
        resp.window.limit(qp.attr.max_dest_rd_atomic);
    }
    return {};
}

} // namespace

void Engine::save(migration::StreamWriter& stream)
{
    // Up to the last that has changed.
    std::vector<uint8_t> generations = _generation;
    while (!generations.empty() && generations.back() == _first_generation) {
        generations.pop_back();
    }
    PortState port{_ctx.mac, _ctx.regions.key_variant(), std::move(generations)};
    stream.section(SectionKind::roce_port, [&](auto& a) { describe(a, port); });
    for (uint32_t index = 0; index < _ctx.limits.gid_tbl_len; ++index) {
        if (const GidTable::Entry* found = _ctx.gids.find(index)) {
            GidTable::Entry entry = *found;
            stream.section(SectionKind::roce_gid, [&](auto& a) { describe(a, index, entry); });
        }
    }
    _pds.for_each([&](uint32_t id, Pd&) {
        stream.section(SectionKind::roce_pd, [&](auto& a) { a.u32("id", id); });
    });
    _ctx.regions.for_each([&](uint32_t id, MemoryRegion& mr) {
        stream.section(SectionKind::roce_mr, [&](auto& a) { describe(a, id, mr, 0); });
    });
    _ctx.cqs.for_each([&](uint32_t id, Cq&) {
        stream.section(SectionKind::roce_cq, [&](auto& a) { a.u32("id", id); });
    });
    _ctx.srqs.for_each([&](uint32_t id, Srq& srq) {
        stream.section(SectionKind::roce_srq, [&](auto& a) { describe(a, id, srq); });
    });
    for_each_qp([&](QueuePair& qp) {
        for (uint32_t i = 0; i < qp.req.window.size(); ++i) {
            const auto& data = qp.req.window[i].inline_data;
            if (!data.empty()) {
                auto bytes = reinterpret_cast<const uint8_t*>(data.data());
                InlineState state{qp.id, i, {bytes, bytes + data.size()}};
                stream.section(SectionKind::roce_inline, [&](auto& a) { describe(a, state); });
            }
        }
        int64_t deadline = qp.req.timer.deadline;
        int64_t remaining =
            deadline == no_deadline ? no_deadline : std::max<int64_t>(deadline - _stopped_at, 0);
        stream.section(SectionKind::roce_qp, [&](auto& a) { describe(a, qp, remaining); });
    });
    NumberState numbers{_qps.next(), _ctx.regions.next_id()};
    stream.section(SectionKind::roce_numbers, [&](auto& a) { describe(a, numbers); });
    for (uint32_t cq : _ctx.overrun_cqs) {
        stream.section(SectionKind::roce_overrun, [&](auto& a) { a.u32("cq", cq); });
    }
}

Status Engine::load(const Section& section)
{
    switch (section.kind) {
    case SectionKind::roce_port:
        return load_port(section);
    case SectionKind::roce_gid:
        return load_gid(section);
    case SectionKind::roce_pd:
        return load_pd(section);
    case SectionKind::roce_mr:
        return load_mr(section);
    case SectionKind::roce_cq:
        return load_cq(section);
    case SectionKind::roce_srq:
        return load_srq(section);
    case SectionKind::roce_inline:
        return load_inline(section);
    case SectionKind::roce_qp:
        return load_qp(section);
    case SectionKind::roce_overrun:
        return load_overrun(section);
    case SectionKind::roce_numbers:
        return load_numbers(section);
    default:
        return wrong("a section that the roce backend does not have");
    }
}

Status Engine::load_port(const Section& section)
{
    PortState port;
    Status read = read_section(section, [&](auto& a) { describe(a, port); });
    if (read) {
        _ctx.mac = port.mac;
        _ctx.regions.set_key_variant(port.key_variant);
        _generation = std::move(port.qpn_generations);
    }
    return read;
}

Status Engine::load_gid(const Section& section)
{
    uint32_t index = 0;
    GidTable::Entry entry;
    Status read = read_section(section, [&](auto& a) { describe(a, index, entry); });
    if (!read) {
        return read;
    }
    if (!_ctx.gids.restore(index, entry)) {
        return wrong(fmt::format("GID {} does not fit", index));
    }
    return {};
}

Status Engine::load_pd(const Section& section)
{
    uint32_t id = 0;
    Status read = read_section(section, [&](auto& a) { a.u32("id", id); });
    if (read && !_pds.insert(id, Pd{})) {
        return wrong(fmt::format("PD {} does not fit", id));
    }
    return read;
}

Status Engine::load_mr(const Section& section)
{
    uint32_t id = 0;
    MemoryRegion mr{};
    Status read = read_section(
        section, [&](auto& a) { describe(a, id, mr, _ctx.regions.pages_left()); });
    if (!read) {
        return read;
    }
    Pd* pd = _pds.find(mr.pd);
    if (!pd || !_ctx.regions.restore(id, std::move(mr))) {
        return wrong(fmt::format("MR {} does not fit", id));
    }
    ++pd->users;
    return {};
}

Status Engine::load_cq(const Section& section)
{
    uint32_t id = 0;
    Status read = read_section(section, [&](auto& a) { a.u32("id", id); });
    if (read && !_ctx.cqs.insert(id, Cq{})) {
        return wrong(fmt::format("CQ {} does not fit", id));
    }
    return read;
}

Status Engine::load_srq(const Section& section)
{
    uint32_t id = 0;
    Srq srq{};
    Status read = read_section(section, [&](auto& a) { describe(a, id, srq); });
    if (!read) {
        return read;
    }
    Pd* pd = _pds.find(srq.pd);
    if (!pd || srq.attr.max_wr > _ctx.limits.max_srq_wr ||
        srq.attr.srq_limit > srq.attr.max_wr || !_ctx.srqs.insert(id, std::move(srq))) {
        return wrong(fmt::format("SRQ {} does not fit", id));
    }
    ++pd->users;
    return {};
}

// Numbers go on from where they were. A stream of an earlier version leaves them where
// they begin in this process.
Status Engine::load_numbers(const Section& section)
{
    NumberState numbers;
    Status read = read_section(section, [&](auto& a) { describe(a, numbers); });
    if (!read) {
        return read;
    }
    if (!_qps.is_id(numbers.next_qp) || !_ctx.regions.set_next_id(numbers.next_mr)) {
        return wrong("the next QP or MR has an id that is out of range");
    }
    _qps.rotate(numbers.next_qp);
    return {};
}

// A CQ whose QPs are about to fail.
Status Engine::load_overrun(const Section& section)
{
    uint32_t id = 0;
    Status read = read_section(section, [&](auto& a) { a.u32("cq", id); });
    if (!read) {
        return read;
    }
    Cq* cq = _ctx.cqs.find(id);
    if (!cq || cq->overrun) {
        return wrong(fmt::format("CQ {} does not exist or has overrun twice", id));
    }
    _ctx.note_overrun(id);
    return {};
}

Status Engine::load_inline(const Section& section)
{
    InlineState state;
    Status read = read_section(section, [&](auto& a) { describe(a, state); });
    if (read && !_loaded_inline.try_emplace({state.qp, state.request}, std::move(state.data)).second) {
        return wrong(fmt::format("QP {}: a request has data twice", state.qp));
    }
    return read;
}

// Gives the QP's requests the data that they carry themselves.
void Engine::take_loaded_inline(QueuePair& qp)
{
    auto first = _loaded_inline.lower_bound({qp.id, 0});
    auto end = first;
    for (; end != _loaded_inline.end() && end->first.first == qp.id; ++end) {
        uint32_t request = end->first.second;
        if (request < qp.req.window.size() && qp.req.window[request].sges.empty() &&
            (qp.req.window[request].send_flags & IBV_SEND_INLINE)) {
            auto bytes = std::as_bytes(std::span(end->second));
            qp.req.window[request].inline_data.assign(bytes.begin(), bytes.end());
        }
    }
    _loaded_inline.erase(first, end);
}

Status Engine::load_qp(const Section& section)
{
    QueuePair qp;
    int64_t remaining = no_deadline;
    Status read = read_section(section, [&](auto& a) { describe(a, qp, remaining); });
    if (!read) {
        return read;
    }
    if (!has_parts_of(qp.init)) {
        return wrong(qp, "its PD, CQ or SRQ does not exist");
    }
    if (remaining != no_deadline && remaining > max_remaining) {
        return wrong(qp, "its timer has too much time left");
    }
    qp.attr.cap = qp.init.cap;
    take_loaded_inline(qp);
    if (Status status = check_numbers(qp, _ctx.limits); !status) {
        return status;
    }
    if (Status status = complete_requester(qp, _ctx.limits); !status) {
        return status;
    }
    if (Status status = complete_responder(qp); !status) {
        return status;
    }
    // start() sets the timer, relative to then.
    qp.req.timer.deadline = remaining == no_deadline ? no_deadline : _stopped_at + remaining;
    QpInit init = qp.init;
    uint32_t id = qp.id;
    size_t accepted = qp.req.window.size();
    if (init.gsi ? _gsi != nullptr : _qps.find(id) != nullptr) {
        return wrong(qp, "its id is in use");
    }
    if (init.gsi) {
        _gsi = std::make_unique<QueuePair>(std::move(qp));
    } else if (!_qps.insert(id, std::move(qp))) {
        return wrong(fmt::format("QP {}: its id is out of range", id));
    }
    count_qp_users(init, 1);
    _ctx.accepted += accepted;
    reserve_turns();
    // It may have packets before the device starts.
    _refusals.resize(std::max<size_t>(_refusals.size(), id + 1));
    return {};
}

} // namespace rdma::roce
