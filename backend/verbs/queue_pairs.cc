// SPDX-License-Identifier: GPL-2.0-or-later
//
// Queue pairs: creation, change, destruction.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "interface_address.h"
#include "qp_rules.h"
#include "verbs_backend.h"

namespace rdma::verbs {

namespace {

constexpr uint32_t gsi_qpn = 1;
// What means something to a QP.
constexpr unsigned access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                                  IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

} // namespace

int VerbsBackend::create_host_qp(const QpInit& init, Qp& qp)
{
    ibv_qp_init_attr host{};
    host.qp_context = &qp;
    host.send_cq = _cqs.find(init.send_cq)->host.get();
    host.recv_cq = _cqs.find(init.recv_cq)->host.get();
    host.srq = init.use_srq ? _srqs.find(init.srq)->host.get() : nullptr;
    host.cap = {std::max(init.cap.max_send_wr, 1u), init.use_srq ? 0 : init.cap.max_recv_wr,
                std::max(init.cap.max_send_sge, 1u),
                init.use_srq ? 0 : std::max(init.cap.max_recv_sge, 1u), 0};
    host.qp_type = init.type;
    // A number that the guest knows another QP by, which has come from another host,
    // is left to nobody: those are kept until there is a better one.
    std::vector<HostQp> refused;
    do {
        if (qp.host) {
            refused.push_back(std::move(qp.host));
        }
        qp.host.reset(ibv_create_qp(_pds.find(init.pd)->host.get(), &host));
    } while (qp.host && _id_by_qpn.contains(qp.host->qp_num) && refused.size() < 64);
    if (!qp.host) {
        return host_error(errno);
    }
    return _id_by_qpn.contains(qp.host->qp_num) ? ENOMEM : 0;
}

// The QP's requests need room in its CQs, those of an SRQ once for each CQ.
int VerbsBackend::use_cqs(const QpInit& init)
{
    Cq& send_cq = *_cqs.find(init.send_cq);
    Cq& recv_cq = *_cqs.find(init.recv_cq);
    uint32_t recvs = init.cap.max_recv_wr;
    if (init.use_srq) {
        recvs = recv_cq.srqs.contains(init.srq) ? 0 : _srqs.find(init.srq)->attr.max_wr;
    }
    if (int error = reserve(send_cq, init.cap.max_send_wr)) {
        return error;
    }
    if (int error = reserve(recv_cq, recvs)) {
        send_cq.needed -= init.cap.max_send_wr;
        return error;
    }
    if (init.use_srq) {
        ++recv_cq.srqs[init.srq];
    }
    return 0;
}

void VerbsBackend::release_cqs(const QpInit& init)
{
    Cq& recv_cq = *_cqs.find(init.recv_cq);
    _cqs.find(init.send_cq)->needed -= init.cap.max_send_wr;
    if (!init.use_srq) {
        recv_cq.needed -= init.cap.max_recv_wr;
    } else if (auto use = recv_cq.srqs.find(init.srq); --use->second == 0) {
        recv_cq.srqs.erase(use);
        recv_cq.needed -= _srqs.find(init.srq)->attr.max_wr;
    }
}

void VerbsBackend::add_user(const Qp& qp)
{
    for (uint32_t cq : {qp.init.send_cq, qp.init.recv_cq}) {
        _cqs.find(cq)->qps.insert(qp.id);
    }
    count_users(qp.init, 1);
}

void VerbsBackend::remove_user(uint32_t qp, const QpInit& init)
{
    for (uint32_t cq : {init.send_cq, init.recv_cq}) {
        _cqs.find(cq)->qps.erase(qp);
    }
    count_users(init, -1);
}

void VerbsBackend::count_users(const QpInit& init, int change)
{
    auto add = static_cast<uint32_t>(change);
    _pds.find(init.pd)->users += add;
    _cqs.find(init.send_cq)->users += add;
    _cqs.find(init.recv_cq)->users += add;
    if (init.use_srq) {
        _srqs.find(init.srq)->users += add;
    }
}

// Whether there can be such a QP: 0 or a positive errno value.
int VerbsBackend::check_objects(const QpInit& init) const
{
    if (!_pds.find(init.pd) || !_cqs.find(init.send_cq) || !_cqs.find(init.recv_cq) ||
        (init.use_srq && !_srqs.find(init.srq))) {
        return ENOENT;
    }
    if (_dead) {
        return EIO;
    }
    if (check_init(init, _limits) != 0) {
        return EINVAL;
    }
    return init.gsi && _gsi ? EBUSY : 0;
}

// What a QP has in RESET. Each value is in its range, as check_attributes() asks for.
void VerbsBackend::set_first_attributes(Qp& qp)
{
    qp.attr = {};
    qp.attr.cap = qp.init.cap;
    qp.attr.port_num = 1;
    qp.attr.path_mtu = IBV_MTU_1024;
}

// A QP that has an id: what it needs, and the host's.
int VerbsBackend::set_up_qp(Qp& qp)
{
    set_first_attributes(qp);
    if (qp.init.gsi) {
        open_mad_port();
    } else {
        int error = use_cqs(qp.init);
        if (error == 0 && (error = create_host_qp(qp.init, qp)) != 0) {
            release_cqs(qp.init);
        }
        if (error != 0) {
            return error;
        }
        _id_by_host_qpn[qp.host->qp_num] = qp.id;
    }
    add_user(qp);
    return 0;
}

VerbsBackend::Qp* VerbsBackend::find_by_qpn(uint32_t qpn) const
{
    auto found = _id_by_qpn.find(qpn);
    return found == _id_by_qpn.end() ? nullptr : _qps.find(found->second);
}

Result<QpNumbers> VerbsBackend::create_qp(const QpInit& init)
{
    if (int error = check_objects(init)) {
        return std::unexpected(error);
    }
    Qp* qp;
    uint32_t id = gsi_qpn;
    if (init.gsi) {
        _gsi = std::make_unique<Qp>(init);
        qp = _gsi.get();
    } else {
        std::tie(qp, id) = _qps.emplace(init);
        if (!qp) {
            return std::unexpected(ENOMEM);
        }
    }
    qp->id = id;
    qp->qpn = id;
    if (int error = set_up_qp(*qp)) {
        _qps.erase(id);
        return std::unexpected(error);
    }
    if (!init.gsi) {
        qp->qpn = qp->host->qp_num;
        _id_by_qpn[qp->qpn] = id;
    }
    return QpNumbers{id, qp->qpn};
}

// Takes what the QP's CQs hold, so that nothing of the QP comes later; its own
// completions are dropped, as they are from the guest's CQ.
void VerbsBackend::drain_cqs(Qp& qp)
{
    if (_dead) {
        return;
    }
    _drained = &qp;
    poll_cqs(qp);
    _drained = nullptr;
}

int VerbsBackend::destroy_qp(uint32_t id)
{
    Qp* qp = find_qp(id);
    if (!qp) {
        return ENOENT;
    }
    QpInit init = qp->init;
    if (init.gsi) {
        _mads.reset();
        std::erase(_touched, id);
        _gsi.reset();
    } else {
        // Without a host's there is nothing of it in the CQs.
        uint32_t host_qpn = qp->host ? qp->host->qp_num : 0;
        qp->host.reset();
        drain_cqs(*qp);
        _id_by_host_qpn.erase(host_qpn);
        _id_by_qpn.erase(qp->qpn);
        forget_requests(*qp);
        std::erase(_touched, id);
        std::erase(_changing, id);
        release_cqs(init);
        _qps.erase(id);
    }
    remove_user(id, init);
    settle();
    return 0;
}

void VerbsBackend::forget_requests(Qp& qp)
{
    for (const PostedSend& posted : qp.sends.take_all()) {
        release_address(qp, posted);
    }
    qp.deferred_send.reset();
    stop_waiting(qp);
    qp.recvs.clear();
    qp.held_send.reset();
    qp.held_recv.reset();
    qp.refused.clear();
    qp.replays.clear();
    qp.recv_replays.clear();
    qp.send_failed = qp.recv_failed = false;
    qp.suspended = qp.frozen = qp.arriving = qp.lost = false;
    qp.num_received = qp.num_sent = 0;
}

void VerbsBackend::enter_reset(Qp& qp)
{
    if (!qp.init.gsi) {
        drain_cqs(qp);
    }
    forget_requests(qp);
    qp.queues_failed = false;
    set_first_attributes(qp);
    qp.dmac = {};
    qp.peer.reset();
    qp.peer_host_qpn = 0;
}

// The host's QP, where there is one, takes and sends nothing more: the GSI QP has none,
// and no QP has once the host's device is gone.
void VerbsBackend::fail_host(const Qp& qp)
{
    if (qp.host) {
        ibv_qp_attr attr{};
        attr.qp_state = IBV_QPS_ERR;
        ibv_modify_qp(qp.host.get(), &attr, IBV_QP_STATE);
    }
}

void VerbsBackend::enter_error(Qp& qp)
{
    qp.state = IBV_QPS_ERR;
    qp.send_failed = qp.recv_failed = true;
    touch(qp);
}

// An address vector with what the guest's means to the host. False: there is no
// such GID.
bool VerbsBackend::to_host(ibv_ah_attr& av)
{
    auto index = _gids.host_index(av.grh.sgid_index);
    if (!index) {
        return false;
    }
    av.grh.sgid_index = *index;
    av.port_num = _port->number();
    av.is_global = 1;
    av.dlid = 0;
    av.src_path_bits = 0;
    av.static_rate = 0;
    return true;
}

int VerbsBackend::to_host(const Qp& qp, const ibv_qp_attr& attr, int mask, ibv_qp_attr& host)
{
    host = attr;
    if ((mask & IBV_QP_DEST_QPN) && qp.peer_host_qpn != 0) {
        host.dest_qp_num = qp.peer_host_qpn;
    }
    host.port_num = _port->number();
    host.qp_access_flags &= access_flags;
    if ((mask & IBV_QP_AV) && !to_host(host.ah_attr)) {
        return EINVAL;
    }
    return 0;
}

int VerbsBackend::check_change(const Qp& qp, const ibv_qp_attr& attr, int mask) const
{
    if ((mask & IBV_QP_CUR_STATE) && attr.cur_qp_state != qp.state) {
        return EINVAL;
    }
    ibv_qp_state to = mask & IBV_QP_STATE ? attr.qp_state : qp.state;
    if (_dead && to != IBV_QPS_RESET && to != IBV_QPS_ERR) {
        return EIO;
    }
    bool fits = check_transition(qp.init.type, qp.init.gsi, qp.state, to, mask) == 0 &&
                check_attributes(attr, mask, _limits, host_port()->active_mtu) == 0;
    return fits ? 0 : EINVAL;
}

int VerbsBackend::modify_qp(uint32_t id, const ibv_qp_attr& attr, int mask, const Mac& dmac)
{
    Qp* qp = find_qp(id);
    if (!qp) {
        return ENOENT;
    }
    // The state may be about to change by what has happened already.
    if (!_stopped) {
        handle_events();
    }
    std::erase(_changing, id);
    qp->change.reset();
    if (!qp->host || !(mask & IBV_QP_AV)) {
        return change_qp(*qp, attr, mask, dmac);
    }
    ibv_qp_attr host;
    int error = check_change(*qp, attr, mask);
    if (error == 0) {
        error = to_host(*qp, attr, mask, host);
    }
    if (error != 0) {
        return error;
    }
    // The host looks the address up again in changing its QP: it knows it then.
    qp->change = {attr, mask, dmac, _pds.find(qp->init.pd)->addresses.look_up(host.ah_attr)};
    if (mask & IBV_QP_DEST_QPN) {
        qp->change->question = ask_for_qp(*qp, attr);
    }
    _changing.push_back(id);
    return EINPROGRESS;
}

// A QP that has come from another host has another number here. A peer that cannot be told
// it has the one that the guest knows, be it from RDMA CM's messages, and would send to that.
bool VerbsBackend::is_out_of_reach(const Qp& qp, const Change& change)
{
    if (!(change.mask & IBV_QP_DEST_QPN) || qp.peer || qp.host->qp_num == qp.qpn) {
        return false;
    }
    _log(RDMA_LOG_WARNING,
         fmt::format("QP {} cannot be connected to QP {} at {}: it was made before a migration, and "
                     "the other end is no device with backend=verbs that can be told its number "
                     "on this host; a QP that is made now can be",
                     qp.qpn, change.attr.dest_qp_num, address_of(change.attr.ah_attr.grh.dgid)));
    return true;
}

void VerbsBackend::finish_changes()
{
    for (uint32_t id : std::exchange(_changing, {})) {
        Qp& qp = *_qps.find(id);
        if (!_dead && (!qp.change->address->is_done() || qp.change->question != 0)) {
            _changing.push_back(id);
            continue;
        }
        Change change = *std::exchange(qp.change, std::nullopt);
        int error = EIO;
        if (!_dead) {
            auto& address = change.address->result();
            if (change.mask & IBV_QP_DEST_QPN) {
                qp.peer_host_qpn = change.host_qpn;
            }
            error = !address ? host_error(address.error())
                    : is_out_of_reach(qp, change)
                        ? ENOTSUP
                        : change_qp(qp, change.attr, change.mask, change.dmac);
        }
        _client->modified(id, error);
    }
}

// 0 or a positive errno value.
int VerbsBackend::change_qp(Qp& qp, const ibv_qp_attr& attr, int mask, const Mac& dmac)
{
    if (int error = check_change(qp, attr, mask)) {
        return error;
    }
    ibv_qp_state to = mask & IBV_QP_STATE ? attr.qp_state : qp.state;
    // Linux's table of transitions does not have this one; there is nothing to flush.
    bool is_ours = qp.state == IBV_QPS_RESET && to == IBV_QPS_ERR;
    if (qp.host && !is_ours) {
        ibv_qp_attr host;
        if (int error = to_host(qp, attr, mask, host)) {
            return error;
        }
        // The host may not have heard of an error as we have, or the other way round.
        int host_mask = (mask & ~(IBV_QP_CUR_STATE | IBV_QP_PATH_MIG_STATE)) | IBV_QP_STATE;
        host.qp_state = to;
        int error = ibv_modify_qp(qp.host.get(), &host, host_mask);
        if (error != 0) {
            return host_error(error);
        }
    }
    if (to == IBV_QPS_RESET) {
        enter_reset(qp);
        qp.state = to;
    } else if (to == IBV_QPS_ERR) {
        enter_error(qp);
    } else {
        merge_attributes(qp.attr, attr, mask);
        if (mask & IBV_QP_AV) {
            qp.dmac = dmac;
        }
        if (qp.state == IBV_QPS_SQE) {
            qp.send_failed = false;
        }
        qp.state = to;
        touch(qp);
    }
    settle();
    return 0;
}

int VerbsBackend::query_qp(uint32_t id, ibv_qp_attr& attr, Mac& dmac)
{
    Qp* qp = find_qp(id);
    if (!qp) {
        return ENOENT;
    }
    if (!_stopped) {
        handle_events();
    }
    attr = qp->attr;
    attr.qp_state = attr.cur_qp_state = qp->state;
    dmac = qp->dmac;
    if (!qp->host) {
        return 0;
    }
    ibv_qp_attr host{};
    ibv_qp_init_attr init{};
    int error =
        ibv_query_qp(qp->host.get(), &host, IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_RQ_PSN, &init);
    if (error != 0) {
        return host_error(error);
    }
    attr.sq_psn = host.sq_psn;
    attr.rq_psn = host.rq_psn;
    attr.sq_draining = host.sq_draining;
    // Between an error and what tells of it.
    if (host.qp_state == IBV_QPS_ERR && qp->state != IBV_QPS_ERR) {
        enter_error(*qp);
        settle();
    }
    attr.qp_state = attr.cur_qp_state = qp->state;
    return 0;
}

} // namespace rdma::verbs
