// SPDX-License-Identifier: GPL-2.0-or-later
//
// A QP's new connection, after this end or the other one has moved: what the host's QP held
// goes to it again, but for what the peer has carried out.
#include <cerrno>
#include <iterator>
#include <random>
#include <utility>

#include "opcodes.h"
#include "verbs_backend.h"

namespace rdma::verbs {

namespace {

uint32_t random_psn()
{
    static std::mt19937 generator{std::random_device{}()};
    return std::uniform_int_distribution<uint32_t>(0, 0xffffff)(generator);
}

} // namespace

void VerbsBackend::poll_cqs(const Qp& qp)
{
    for (uint32_t id : {qp.init.send_cq, qp.init.recv_cq}) {
        Cq& cq = *_cqs.find(id);
        // No more can be in it, but for what the host adds for other QPs meanwhile.
        poll_cq(cq, static_cast<unsigned>(cq.host->cqe) + 1);
        wait_more(cq);
    }
}

// What this end says of the connection that it is about to make.
void VerbsBackend::begin_connection(Qp& qp)
{
    qp.arriving = qp.suspended = true;
    qp.announced = false;
    qp.sq_psn = random_psn();
    qp.rq_psn = random_psn();
    qp.num_received_before = std::exchange(qp.num_received, 0);
}

// Connects the host's QP, whatever it was before, to the peer's with the PSNs that have
// been agreed on. What it held goes to it again, but for what the peer has received.
// 0 or a positive errno value.
int VerbsBackend::reconnect(Qp& qp, uint64_t received_by_peer)
{
    if (int error = reset_host(qp)) {
        return error;
    }
    if (!finish_executed(qp, received_by_peer)) {
        return EIO;
    }
    return connect_host(qp);
}

// What the host's QP holds is here again. 0 or a positive errno value.
int VerbsBackend::reset_host(Qp& qp)
{
    if (!qp.host) {
        return EIO;
    }
    auto sends = qp.sends.keep_all();
    auto recvs = qp.recvs.keep_all();
    ibv_qp_attr host{};
    host.qp_state = IBV_QPS_RESET;
    if (int error = ibv_modify_qp(qp.host.get(), &host, IBV_QP_STATE)) {
        return host_error(error);
    }
    drain_cqs(qp);
    qp.frozen = false;
    qp.sends.clear();
    qp.recvs.clear();
    qp.num_received = 0;
    qp.replays.insert(qp.replays.begin(), std::make_move_iterator(sends.begin()),
                      std::make_move_iterator(sends.end()));
    qp.recv_replays.insert(qp.recv_replays.begin(), std::make_move_iterator(recvs.begin()),
                           std::make_move_iterator(recvs.end()));
    return 0;
}

int VerbsBackend::connect_host(Qp& qp)
{
    ibv_qp_attr host;
    auto change = [&](ibv_qp_state state, int mask) {
        if (int error = to_host(qp, qp.attr, mask, host)) {
            return error;
        }
        host.qp_state = state;
        host.sq_psn = qp.sq_psn;
        host.rq_psn = qp.rq_psn;
        int error = ibv_modify_qp(qp.host.get(), &host, mask | IBV_QP_STATE);
        return error != 0 ? host_error(error) : 0;
    };
    bool is_rc = qp.init.type == IBV_QPT_RC;
    if (int error = change(IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)) {
        return error;
    }
    pump_recvs(qp);
    if (qp.state == IBV_QPS_INIT) {
        return 0;
    }
    if (int error = change(IBV_QPS_RTR, IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                                            IBV_QP_RQ_PSN |
                                            (is_rc ? IBV_QP_MAX_DEST_RD_ATOMIC |
                                                         IBV_QP_MIN_RNR_TIMER
                                                   : 0))) {
        return error;
    }
    if (qp.state == IBV_QPS_RTR) {
        return 0;
    }
    if (int error =
            change(IBV_QPS_RTS, IBV_QP_SQ_PSN | (is_rc ? IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
                                                             IBV_QP_RNR_RETRY |
                                                             IBV_QP_MAX_QP_RD_ATOMIC
                                                       : 0))) {
        return error;
    }
    return qp.state == IBV_QPS_SQD ? change(IBV_QPS_SQD, 0) : 0;
}

// Requests that the peer has carried out, though its last acknowledgements have not come,
// are complete: up to the last that took one of its receives. Those behind it can be
// carried out again. False: that is not so of an atomic, which has been or may have been.
bool VerbsBackend::finish_executed(Qp& qp, uint64_t received_by_peer)
{
    uint64_t left = received_by_peer > qp.num_sent ? received_by_peer - qp.num_sent : 0;
    qp.num_sent = 0;
    size_t done = 0;
    bool ok = true;
    for (size_t i = 0; i < qp.replays.size() && ok; ++i) {
        const int opcode = qp.replays[i].request.opcode;
        if (takes_receive(opcode)) {
            if (left == 0) {
                break; // neither this nor what is behind it
            }
            done = i + 1;
            --left;
        }
        ok = !is_atomic(opcode);
    }
    std::deque<KeptSend> again; // the memory READs are for has not been written
    for (; done > 0; --done) {
        KeptSend kept = std::move(qp.replays.front());
        qp.replays.pop_front();
        ibv_wc_opcode opcode = wc_opcode_of(kept.request.opcode);
        if (opcode == IBV_WC_RDMA_READ) {
            again.push_back(std::move(kept));
            continue;
        }
        complete_without_host(
            qp, true, {kept.request.wr.wr_id, IBV_WC_SUCCESS, opcode, kept.request.signaled});
    }
    qp.replays.insert(qp.replays.begin(), std::make_move_iterator(again.begin()),
                      std::make_move_iterator(again.end()));
    return ok;
}

// The connection does not outlive a migration.
void VerbsBackend::lose(Qp& qp)
{
    qp.arriving = qp.suspended = qp.lost = false;
    if (std::exchange(qp.frozen, false)) {
        flush_host_requests(qp); // the host has given them up
    }
    _client->async_event(IBV_EVENT_QP_FATAL, qp.id);
    fail_host(qp);
    enter_error(qp);
}

// The host's QP takes and sends nothing more; its requests stay here.
void VerbsBackend::freeze(Qp& qp)
{
    qp.frozen = true;
    qp.num_flushed = 0;
    fail_host(qp);
}

} // namespace rdma::verbs
