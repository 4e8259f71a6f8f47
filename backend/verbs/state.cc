// SPDX-License-Identifier: GPL-2.0-or-later
//
// The backend in a state stream: what the guest has, but for numbers of the host's, and
// what its queues held. Loading makes it anew on this host; QPs are connected when the
// device starts (own_move.cc).
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "interface_address.h"
#include "qp_rules.h"
#include "state_fields.h"
#include "verbs_backend.h"

namespace rdma::verbs {

using migration::read_section;
using migration::Section;
using migration::SectionKind;
using migration::Status;

namespace {

constexpr uint32_t gsi_qpn = 1;

Status wrong(std::string what)
{
    return std::unexpected(std::move(what));
}

// What the host could not do.
Status failed(const char* what, uint32_t id, int error)
{
    return wrong(fmt::format("{} {} cannot be made on this host: {}", what, id, strerror(error)));
}

template <typename State>
Status read(const Section& section, State& state)
{
    return read_section(section, [&](auto& a) { describe(a, state); });
}

template <typename T>
std::deque<Kept<T>> all_of(const PostedRequests<T>& posted, const std::deque<Kept<T>>& replays)
{
    auto kept = posted.keep_all();
    std::deque<Kept<T>> all(std::make_move_iterator(kept.begin()),
                            std::make_move_iterator(kept.end()));
    std::ranges::copy(replays, std::back_inserter(all));
    return all;
}

template <typename T>
bool fits(const std::deque<Kept<T>>& kept, uint32_t depth, uint32_t width)
{
    return kept.size() <= depth && std::ranges::all_of(kept, [width](const Kept<T>& each) {
               return each.sges.size() <= width;
           });
}

} // namespace

void VerbsBackend::save(migration::StreamWriter& stream)
{
    auto section = [&](SectionKind kind, auto& state) {
        stream.section(kind, [&](auto& a) { describe(a, state); });
    };
    _gids.for_each([&](uint32_t index, const ibv_gid& gid, uint32_t type) {
        GidState state{index, gid, static_cast<uint8_t>(type)};
        section(SectionKind::verbs_gid, state);
    });
    _pds.for_each([&](uint32_t id, Pd&) {
        stream.section(SectionKind::verbs_pd, [&](auto& a) { a.u32("id", id); });
    });
    _mrs.for_each([&](uint32_t id, const Mr& mr) {
        MrState state{id,      mr.pd,   mr.dma,    mr.lkey, mr.rkey, static_cast<uint32_t>(mr.access),
                      mr.iova, mr.length, {}};
        for (const Piece& piece : mr.pieces) {
            for (uint64_t done = 0; done < piece.size; done += page_size) {
                state.pages.push_back(piece.gpa + done);
            }
        }
        section(SectionKind::verbs_mr, state);
    });
    _cqs.for_each([&](uint32_t id, const Cq& cq) {
        CqState state{id, cq.overrun};
        section(SectionKind::verbs_cq, state);
    });
    _srqs.for_each([&](uint32_t id, const Srq& srq) {
        SrqState state{id, srq.pd, srq.attr, srq.failed, all_of(srq.posted, srq.replays)};
        section(SectionKind::verbs_srq, state);
    });
    for_each_qp([&](const Qp& qp) {
        QpState state{.id = qp.id,
                      .qpn = qp.qpn,
                      .init = qp.init,
                      .state = qp.state,
                      .attr = qp.attr,
                      .dmac = qp.dmac,
                      .send_failed = qp.send_failed,
                      .recv_failed = qp.recv_failed,
                      .has_peer = qp.peer && qp.peer->known,
                      .peer_host_qpn = qp.peer_host_qpn,
                      .num_received = qp.num_received,
                      .num_sent = qp.num_sent,
                      .sends = all_of(qp.sends, qp.replays),
                      .recvs = all_of(qp.recvs, qp.recv_replays),
                      .held = {}};
        auto hold = [&](bool send, const Held& held) {
            state.held.push_back({send, held.wr_id, static_cast<uint8_t>(held.status),
                                  static_cast<uint8_t>(held.opcode), held.signaled});
        };
        if (qp.held_recv) {
            hold(false, *qp.held_recv);
        }
        if (qp.held_send) {
            hold(true, *qp.held_send);
        }
        for (const Held& held : qp.refused) {
            hold(true, held);
        }
        section(SectionKind::verbs_qp, state);
    });
    // From now on they find it on the other host, unless it starts again here.
    if (_peer_channel) {
        _peer_channel->close();
        _questions.clear();
        _silent = true;
    }
}

Status VerbsBackend::load(const Section& section)
{
    switch (section.kind) {
    case SectionKind::verbs_gid:
        return load_gid(section);
    case SectionKind::verbs_pd:
        return load_pd(section);
    case SectionKind::verbs_mr:
        return load_mr(section);
    case SectionKind::verbs_cq:
        return load_cq(section);
    case SectionKind::verbs_srq:
        return load_srq(section);
    case SectionKind::verbs_qp:
        return load_qp(section);
    default:
        return wrong("a section that this backend does not have");
    }
}

Status VerbsBackend::load_gid(const Section& section)
{
    GidState gid;
    if (Status status = read(section, gid); !status) {
        return status;
    }
    if (int error = _gids.add(gid.index, gid.gid, gid.type)) {
        return wrong(fmt::format("the guest's address {} cannot be used on this host: {}",
                                 address_of(gid.gid), strerror(error)));
    }
    // Peers come when the device starts: the other host may still have the address.
    _arrived = _silent = true;
    return {};
}

Status VerbsBackend::load_pd(const Section& section)
{
    uint32_t id = 0;
    if (Status status = read_section(section, [&](auto& a) { a.u32("id", id); }); !status) {
        return status;
    }
    auto host = alloc_host_pd();
    if (!host) {
        return failed("PD", id, host.error());
    }
    if (!_pds.insert(id, Pd(std::move(*host), *_resolver))) {
        return wrong("the id is in use or out of range");
    }
    return {};
}

Status VerbsBackend::load_mr(const Section& section)
{
    MrState state;
    // A region need not begin at a page.
    state.max_pages = std::min(max_pages_registered, _limits.max_mr_size / page_size + 1);
    if (Status status = read(section, state); !status) {
        return status;
    }
    if (!_pds.find(state.pd)) {
        return wrong(fmt::format("PD {} is not there", state.pd));
    }
    MrInit init{.kind = state.dma ? MrInit::Kind::dma : MrInit::Kind::user,
                .pd = state.pd,
                .access = static_cast<int>(state.access),
                .iova = state.iova,
                .length = state.length,
                .pages = state.pages,
                .max_pages = 0};
    Mr made;
    if (int error = register_region(init, made)) {
        return failed("memory region", state.id, error);
    }
    made.lkey = state.lkey;
    made.rkey = state.rkey;
    Mr* mr = _mrs.insert(state.id, std::move(made));
    if (!mr) {
        return wrong("the id is in use or out of range");
    }
    count_region(state.id, *mr, state.pages.size());
    know_keys(state.id, *mr);
    // A region that was loaded before this one may have its keys here.
    for (bool remote : {false, true}) {
        auto other = remote ? _rkeys.region_with(state.rkey) : _lkeys.region_with(state.lkey);
        int error = other && *other != state.id ? register_again(*other) : 0;
        if (error != 0) {
            return failed("memory region", *other, error);
        }
    }
    return {};
}

Status VerbsBackend::load_cq(const Section& section)
{
    CqState state;
    if (Status status = read(section, state); !status) {
        return status;
    }
    Cq* cq = _cqs.insert(state.id, Cq());
    if (!cq) {
        return wrong("the id is in use or out of range");
    }
    cq->id = state.id;
    cq->overrun = state.overrun;
    if (int error = create_host_cq(*cq)) {
        return failed("CQ", state.id, error);
    }
    return {};
}

Status VerbsBackend::load_srq(const Section& section)
{
    SrqState state;
    if (Status status = read(section, state); !status) {
        return status;
    }
    Pd* pd = _pds.find(state.pd);
    if (!pd || state.attr.max_wr == 0 || state.attr.max_wr > _limits.max_srq_wr ||
        state.attr.srq_limit > state.attr.max_wr ||
        !fits(state.posted, state.attr.max_wr, state.attr.max_sge)) {
        return wrong("its PD, its limits or its requests are not possible");
    }
    auto host = create_host_srq(state.pd, state.attr);
    if (!host) {
        return failed("SRQ", state.id, host.error());
    }
    Srq* srq = _srqs.insert(state.id, Srq(std::move(*host), state.id, state.pd, state.attr));
    if (!srq) {
        return wrong("the id is in use or out of range");
    }
    srq->host->srq_context = srq;
    srq->failed = state.failed;
    srq->replays = std::move(state.posted);
    ++pd->users;
    if (state.attr.srq_limit != 0) {
        ibv_srq_attr limit{0, 0, state.attr.srq_limit};
        if (int error = ibv_modify_srq(srq->host.get(), &limit, IBV_SRQ_LIMIT)) {
            return failed("limit of SRQ", state.id, error);
        }
    }
    return {};
}

Status VerbsBackend::check_loaded(const QpState& state)
{
    const QpInit& init = state.init;
    if (check_objects(init) != 0 || init.gsi != (state.id == gsi_qpn)) {
        return wrong("its type, its limits or what it refers to are not possible");
    }
    const int all = IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_PATH_MTU | IBV_QP_MIN_RNR_TIMER |
                    IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                    IBV_QP_MAX_QP_RD_ATOMIC | IBV_QP_MAX_DEST_RD_ATOMIC;
    if (check_attributes(state.attr, all, _limits, IBV_MTU_4096) != 0) {
        return wrong("an attribute is out of range");
    }
    if (!init.gsi && (state.qpn <= gsi_qpn || _id_by_qpn.contains(state.qpn))) {
        return wrong("its number is not possible or another QP's");
    }
    uint32_t recv_depth = init.use_srq ? 0 : init.cap.max_recv_wr;
    // Those of datagrams will not be carried out: of them there is but what completes them.
    bool keeps_sges = init.type != IBV_QPT_UD;
    if (!fits(state.sends, init.cap.max_send_wr, keeps_sges ? init.cap.max_send_sge : 0) ||
        !fits(state.recvs, recv_depth, keeps_sges ? init.cap.max_recv_sge : 0) ||
        state.held.size() > init.cap.max_send_wr + size_t{2}) {
        return wrong("it has more requests than it has room for");
    }
    return {};
}

Status VerbsBackend::load_qp(const Section& section)
{
    QpState state;
    if (Status status = read(section, state); !status) {
        return status;
    }
    auto about = [&](const std::string& what) {
        return wrong(fmt::format("QP {}: {}", state.qpn, what));
    };
    if (Status status = check_loaded(state); !status) {
        return about(status.error());
    }
    Qp* qp;
    if (state.init.gsi) {
        _gsi = std::make_unique<Qp>(state.init);
        qp = _gsi.get();
    } else if (!(qp = _qps.insert(state.id, Qp(state.init)))) {
        return about("the id is in use or out of range");
    }
    qp->id = state.id;
    qp->qpn = state.qpn;
    if (int error = set_up_qp(*qp)) {
        _qps.erase(state.id);
        return failed("QP", state.qpn, error);
    }
    if (!state.init.gsi) {
        _id_by_qpn[qp->qpn] = qp->id;
    }
    qp->state = state.state;
    qp->attr = state.attr;
    qp->attr.cap = state.init.cap;
    qp->dmac = state.dmac;
    qp->send_failed = state.send_failed;
    qp->recv_failed = state.recv_failed;
    qp->peer_host_qpn = state.peer_host_qpn;
    qp->num_received = state.num_received;
    qp->num_sent = state.num_sent;
    qp->replays = std::move(state.sends);
    qp->recv_replays = std::move(state.recvs);
    for (const HeldState& each : state.held) {
        Held held{each.wr_id, static_cast<ibv_wc_status>(each.status),
                  static_cast<ibv_wc_opcode>(each.opcode), each.signaled};
        if (!each.send) {
            qp->held_recv = held;
        } else if (!qp->held_send) {
            qp->held_send = held;
        } else {
            qp->refused.push_back(held);
        }
    }
    if (state.has_peer && qp->is_connected()) {
        qp->peer = remember_peer(peer_name(qp->attr));
        qp->peer->known = true;
    }
    qp->arriving = qp->suspended = qp->is_connected() && qp->peer;
    // Of a QP in use without a peer that can be told, what the host had is gone.
    qp->lost = !state.init.gsi && !can_move(*qp);
    if (qp->arriving) {
        look_up_peer(*qp);
    }
    return {};
}

// The host knows the address by the time that the QP is connected.
void VerbsBackend::look_up_peer(const Qp& qp)
{
    ibv_ah_attr av = qp.attr.ah_attr;
    if (to_host(av)) {
        _arrivals.push_back(_pds.find(qp.init.pd)->addresses.look_up(av));
    }
}

} // namespace rdma::verbs
