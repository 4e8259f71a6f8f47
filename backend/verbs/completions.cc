// SPDX-License-Identifier: GPL-2.0-or-later
//
// What comes from the host: completions, and descriptors that tell of them.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "gid.h"
#include "opcodes.h"
#include "verbs_backend.h"

namespace rdma::verbs {

namespace {

// Completions taken from a CQ before it is another's turn, and events before the
// thread is given back to what it was doing.
constexpr unsigned budget_per_cq = 256;
constexpr unsigned max_events = 64;
constexpr int poll_batch = 32;

} // namespace

void VerbsBackend::watch(int operation)
{
    // What peers have to say is heard while stopped, too.
    for (int fd : {_kick, _channel ? _channel->fd : -1, _dead ? -1 : _port->context()->async_fd,
                   _mads ? _mads->fd() : -1, _removal.fd()}) {
        epoll_event event{};
        event.events = EPOLLIN;
        if (fd >= 0) {
            epoll_ctl(_epoll, operation, fd, &event);
        }
    }
}

void VerbsBackend::stop()
{
    if (!_stopped) {
        _resting = true;
        rest();
        finish_stop();
    }
}

// All QPs that are to fail have, and the host is given nothing more.
void VerbsBackend::finish_stop()
{
    settle(SIZE_MAX);
    _stopped = true;
    watch(EPOLL_CTL_DEL);
}

void VerbsBackend::start()
{
    if (_stopped) {
        _stopped = false;
        watch(EPOLL_CTL_ADD);
        wake_peers();
        for_each_qp([this](Qp& qp) { touch(qp); });
        settle();
    }
}

// handle_events() is to be called again.
void VerbsBackend::kick()
{
    eventfd_write(_kick, 1);
}

void VerbsBackend::wait_more(Cq& cq)
{
    if (!cq.waiting) {
        cq.waiting = true;
        _waiting_cqs.push_back(cq.id);
        kick();
    }
}

void VerbsBackend::handle_events()
{
    if (_peer_channel) {
        _keys_told.clear();
        _peer_channel->handle();
        tick();
    }
    if (_stopped) {
        answer_rests(false);
        return;
    }
    eventfd_t ignored;
    eventfd_read(_kick, &ignored);
    if (_resolver->take_news()) {
        wake_waiting();
        _answered = true;
    }
    if (std::exchange(_answered, false)) {
        finish_changes();
    }
    for (uint32_t id : std::exchange(_waiting_cqs, {})) {
        Cq& cq = *_cqs.find(id);
        cq.waiting = false;
        if (poll_cq(cq, budget_per_cq) == budget_per_cq) {
            wait_more(cq);
        }
    }
    for (unsigned i = 0; i < max_events && take_async_event(); ++i) {
    }
    for (unsigned i = 0; i < max_events && take_cq_event(); ++i) {
    }
    take_mads(max_events);
    if (_removal.take() || _failing) {
        fail_device();
    }
    settle();
    answer_rests(false);
}

// False: there is none.
bool VerbsBackend::take_cq_event()
{
    ibv_cq* host;
    void* context;
    if (_dead || ibv_get_cq_event(_channel.get(), &host, &context) != 0) {
        return false;
    }
    ibv_ack_cq_events(host, 1);
    // Armed before it is polled: what comes in between is an event again.
    ibv_req_notify_cq(host, 0);
    Cq& cq = *static_cast<Cq*>(context);
    if (poll_cq(cq, budget_per_cq) == budget_per_cq) {
        wait_more(cq);
    }
    return true;
}

// The number taken, at most budget.
unsigned VerbsBackend::poll_cq(Cq& cq, unsigned budget)
{
    std::array<ibv_wc, poll_batch> wcs;
    unsigned taken = 0;
    while (taken < budget) {
        int wanted = static_cast<int>(std::min<unsigned>(poll_batch, budget - taken));
        int count = ibv_poll_cq(cq.host.get(), wanted, wcs.data());
        if (count <= 0) {
            break;
        }
        for (int i = 0; i < count; ++i) {
            take(wcs[static_cast<size_t>(i)]);
        }
        taken += static_cast<unsigned>(count);
        if (count < wanted) {
            break;
        }
    }
    return taken;
}

void VerbsBackend::take(const ibv_wc& wc)
{
    ++_progress;
    auto slot = static_cast<uint32_t>(wc.wr_id);
    auto owner = static_cast<uint32_t>(wc.wr_id >> 32 & 0x3fffffff);
    switch (static_cast<Queue>(wc.wr_id >> 62)) {
    case Queue::send:
        if (Qp* qp = _qps.find(owner); qp && !stays(*qp, wc)) {
            take_send(*qp, slot, wc);
        }
        break;
    case Queue::recv: {
        Qp* qp = _qps.find(owner);
        PostedRecv posted;
        if (qp && !stays(*qp, wc) && qp->recvs.take(slot, posted)) {
            take_recv(*qp, posted.wr_id, wc);
        }
        break;
    }
    case Queue::srq: {
        Srq* srq = _srqs.find(owner);
        auto id = _id_by_host_qpn.find(wc.qp_num);
        PostedRecv posted;
        Qp* qp = id != _id_by_host_qpn.end() ? _qps.find(id->second) : nullptr;
        if (qp && stays(*qp, wc)) {
            break;
        }
        if (srq && srq->posted.take(slot, posted)) {
            if (qp) {
                take_recv(*qp, posted.wr_id, wc);
            }
            pump_srq(*srq);
        }
        break;
    }
    }
}

// Whether a request that the host gives up waits for a new connection of its QP.
bool VerbsBackend::stays(Qp& qp, const ibv_wc& wc)
{
    bool stays = qp.frozen && wc.status == IBV_WC_WR_FLUSH_ERR && &qp != _drained;
    qp.num_flushed += stays;
    return stays;
}

void VerbsBackend::take_send(Qp& qp, uint32_t slot, const ibv_wc& wc)
{
    PostedSend posted;
    if (!qp.sends.take(slot, posted)) {
        return;
    }
    release_address(qp, posted);
    if (&qp == _drained) {
        return;
    }
    qp.num_sent += wc.status == IBV_WC_SUCCESS && takes_receive(posted.opcode);
    if (posted.signaled || wc.status != IBV_WC_SUCCESS) {
        Completion completion;
        completion.wc = wc;
        completion.wc.wr_id = posted.wr.wr_id;
        completion.wc.opcode = wc_opcode_of(posted.opcode); // says nothing after an error
        completion.wc.wc_flags = 0;
        completion.solicited = wc.status != IBV_WC_SUCCESS;
        complete(qp, qp.init.send_cq, completion);
    }
    if (wc.status != IBV_WC_SUCCESS && !qp.send_failed) {
        if (qp.init.type == IBV_QPT_RC) {
            enter_error(qp);
        } else {
            qp.send_failed = true;
            qp.state = IBV_QPS_SQE;
        }
    }
    touch(qp);
}

void VerbsBackend::take_recv(Qp& qp, uint64_t wr_id, const ibv_wc& wc)
{
    if (&qp == _drained) {
        return;
    }
    qp.num_received += wc.status == IBV_WC_SUCCESS;
    Completion completion;
    completion.wc = wc;
    completion.wc.wr_id = wr_id;
    if (wc.status != IBV_WC_SUCCESS) {
        completion.wc.opcode = IBV_WC_RECV;
        completion.wc.wc_flags = 0;
    }
    // libibverbs does not tell which messages were sent as solicited: all count.
    completion.solicited = true;
    const ibv_gid* gid = _gids.find(qp.attr.ah_attr.grh.sgid_index);
    completion.network = _limits.roce_version == 1    ? NetworkType::roce_v1
                         : gid && !is_v4_mapped(*gid) ? NetworkType::ipv6
                                                      : NetworkType::ipv4;
    complete(qp, qp.init.recv_cq, completion);
    if (wc.status != IBV_WC_SUCCESS && !qp.recv_failed) {
        enter_error(qp);
    }
    touch(qp);
}

void VerbsBackend::complete(Qp& qp, uint32_t id, Completion& completion)
{
    Cq& cq = *_cqs.find(id);
    completion.qp = qp.id;
    completion.wc.qp_num = qp.qpn;
    if (cq.overrun) {
        _overrun_qps.push_back(qp.id); // it was in RESET then
        return;
    }
    ++_stats.completions;
    _stats.completion_errors += completion.wc.status != IBV_WC_SUCCESS;
    if (!_client->complete(id, completion)) {
        overrun(cq);
    }
}

// A completion is lost: as the engine has it (11.6.3.2), settle() fails the CQ's QPs.
void VerbsBackend::overrun(Cq& cq)
{
    if (!std::exchange(cq.overrun, true)) {
        _overrun_qps.insert(_overrun_qps.end(), cq.qps.begin(), cq.qps.end());
    }
}

// Returns how many have failed, at most so many.
size_t VerbsBackend::fail_overrun_qps(size_t most)
{
    size_t failed = 0;
    while (!_overrun_qps.empty() && failed < most) {
        Qp* qp = find_qp(_overrun_qps.back());
        _overrun_qps.pop_back();
        bool fails = qp && qp->state != IBV_QPS_RESET && qp->state != IBV_QPS_ERR &&
                     (qp->queues_failed || _cqs.find(qp->init.send_cq)->overrun ||
                      _cqs.find(qp->init.recv_cq)->overrun);
        if (fails) {
            _client->async_event(IBV_EVENT_QP_FATAL, qp->id);
            fail_queue(*qp, false);
            ++failed;
        }
    }
    return failed;
}

void VerbsBackend::fail_qp(uint32_t id)
{
    if (Qp* qp = find_qp(id)) {
        qp->queues_failed = true;
        _overrun_qps.push_back(id);
        kick();
    }
}

void VerbsBackend::complete_without_host(Qp& qp, bool send, const Held& held)
{
    if (!held.signaled && held.status == IBV_WC_SUCCESS) {
        return;
    }
    Completion completion;
    completion.wc.wr_id = held.wr_id;
    completion.wc.status = held.status;
    completion.wc.opcode = held.opcode;
    completion.solicited = held.status != IBV_WC_SUCCESS;
    complete(qp, send ? qp.init.send_cq : qp.init.recv_cq, completion);
}

void VerbsBackend::touch(Qp& qp)
{
    if (!qp.touched) {
        qp.touched = true;
        _touched.push_back(qp.id);
    }
}

// Lets every QP that has had completions or a doorbell go on. Of QPs of overrun CQs at most so
// many fail now, the others in a later run.
void VerbsBackend::settle(size_t max_failed)
{
    if (_stopped) {
        return;
    }
    do {
        max_failed -= fail_overrun_qps(max_failed);
        while (!_touched.empty()) {
            Qp* qp = find_qp(_touched.back());
            _touched.pop_back();
            if (qp) {
                qp->touched = false;
                pump(*qp);
            }
        }
    } while (!_overrun_qps.empty() && max_failed > 0);
    if (!_overrun_qps.empty()) {
        kick();
    }
}

} // namespace rdma::verbs
