// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests on their way from the guest's queues to the host's.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "opcodes.h"
#include "request_batch.h"

namespace rdma::verbs {

namespace {

// Whether a request goes to the host; local ones of memory management do not.
bool is_served(int wr_opcode, ibv_qp_type type)
{
    switch (wr_opcode) {
    case IBV_WR_SEND:
    case IBV_WR_SEND_WITH_IMM:
        return true;
    case IBV_WR_RDMA_WRITE:
    case IBV_WR_RDMA_WRITE_WITH_IMM:
        return type != IBV_QPT_UD;
    case IBV_WR_RDMA_READ:
    case IBV_WR_ATOMIC_CMP_AND_SWP:
    case IBV_WR_ATOMIC_FETCH_AND_ADD:
        return type == IBV_QPT_RC;
    default:
        return false;
    }
}

bool can_send(ibv_qp_state state)
{
    return state == IBV_QPS_RTS || state == IBV_QPS_SQD || state == IBV_QPS_SQE;
}

// As the device gave it; the guest's keys.
void restore(const KeptSend& kept, SendRequest& request)
{
    request.wr = kept.request.wr;
    request.opcode = kept.request.opcode;
    request.malformed = IBV_WC_SUCCESS;
    std::ranges::copy(kept.sges, request.sge.begin());
}

void restore(const KeptRecv& kept, RecvRequest& request)
{
    request.wr_id = kept.request.wr_id;
    request.num_sge = kept.request.num_sge;
    request.malformed = IBV_WC_SUCCESS;
    std::ranges::copy(kept.sges, request.sge.begin());
}

template <typename T, typename Request>
bool take_replay(std::deque<Kept<T>>& replays, Request& request)
{
    if (replays.empty()) {
        return false;
    }
    restore(replays.front(), request);
    replays.pop_front();
    return true;
}

void use_host_keys(const OwnKeys& keys, std::span<ibv_sge> sges)
{
    for (ibv_sge& sge : sges) {
        sge.lkey = keys.host_key(sge.lkey);
    }
}

} // namespace

// False: there is none.
bool VerbsBackend::next_send(Qp& qp, SendRequest& request)
{
    if (qp.deferred_send) {
        request = *std::exchange(qp.deferred_send, nullptr);
        return true;
    }
    return take_replay(qp.replays, request) || _client->pull_send(qp.id, request);
}

bool VerbsBackend::next_recv(Qp& qp, RecvRequest& request)
{
    return take_replay(qp.recv_replays, request) || _client->pull_recv(qp.id, request);
}

bool VerbsBackend::next_srq_recv(Srq& srq, RecvRequest& request)
{
    return take_replay(srq.replays, request) || _client->pull_srq_recv(srq.id, request);
}

void VerbsBackend::wait_for_address(Qp& qp)
{
    if (!qp.waiting) {
        qp.waiting = true;
        _waiting_qps.push_back(qp.id);
    }
}

void VerbsBackend::stop_waiting(Qp& qp)
{
    qp.ticket.reset();
    if (std::exchange(qp.waiting, false)) {
        std::erase(_waiting_qps, qp.id);
        offer_room();
    }
}

// Address handles have been made, or there is room for more.
void VerbsBackend::wake_waiting()
{
    for (uint32_t id : std::exchange(_waiting_qps, {})) {
        Qp& qp = *_qps.find(id);
        qp.waiting = false;
        touch(qp);
    }
}

void VerbsBackend::release_address(const Qp& qp, const PostedSend& posted)
{
    if (posted.has_address) {
        _pds.find(qp.init.pd)->addresses.release(posted.address);
        offer_room();
    }
}

// An address handle may have come out of use.
void VerbsBackend::offer_room()
{
    if (std::exchange(_handle_wanted, false)) {
        wake_waiting();
    }
}

// What the host is to do. False: it cannot be given this request, which is held or
// deferred.
bool VerbsBackend::encode_send(Qp& qp, SendRequest& request, ibv_send_wr& wr)
{
    bool signaled = qp.init.sq_sig_all || (request.wr.send_flags & IBV_SEND_SIGNALED);
    ibv_wc_opcode opcode = wc_opcode_of(request.opcode);
    if (request.malformed != IBV_WC_SUCCESS || !is_served(request.opcode, qp.init.type)) {
        ibv_wc_status status =
            request.malformed != IBV_WC_SUCCESS ? request.malformed : IBV_WC_LOC_QP_OP_ERR;
        qp.held_send = Held{request.wr.wr_id, status, opcode, signaled};
        return false;
    }
    PostedSend posted{request.wr, request.opcode, signaled, false, 0};
    std::span<ibv_sge> sges(request.sge.data(), static_cast<size_t>(request.wr.num_sge));
    wr = request.wr;
    wr.next = nullptr;
    wr.opcode = static_cast<ibv_wr_opcode>(request.opcode);
    wr.sg_list = request.sge.data();
    wr.send_flags =
        (request.wr.send_flags & (IBV_SEND_FENCE | IBV_SEND_SOLICITED)) | IBV_SEND_SIGNALED;
    if (qp.is_datagram()) {
        Pd& pd = *_pds.find(qp.init.pd);
        ibv_ah_attr av = request.av.attr;
        auto use = to_host(av) ? pd.addresses.acquire(av, qp.ticket)
                               : std::unexpected(AddressHandles::Refusal::unreachable);
        if (!use && use.error() != AddressHandles::Refusal::unreachable) {
            _handle_wanted |= use.error() == AddressHandles::Refusal::full;
            qp.deferred_send = std::make_unique<SendRequest>(request);
            wait_for_address(qp);
            return false;
        }
        if (!use) {
            // As on a network: what cannot be delivered is lost.
            ++_stats.drop_unreachable;
            qp.held_send = Held{request.wr.wr_id, IBV_WC_SUCCESS, opcode, signaled};
            return false;
        }
        wr.wr.ud.ah = use->handle;
        posted.has_address = true;
        posted.address = use->index;
    } else if (qp.peer && opcode != IBV_WC_SEND) {
        uint32_t& rkey = is_atomic(request.opcode) ? wr.wr.atomic.rkey : wr.wr.rdma.rkey;
        rkey = qp.peer->keys.host_key(rkey);
    }
    wr.wr_id = host_wr_id(Queue::send, qp.id, qp.sends.put(posted, sges));
    use_host_keys(_lkeys, sges);
    return true;
}

// Gives the host the first so many of the batch.
void VerbsBackend::post_sends(Qp& qp, unsigned count)
{
    if (count == 0) {
        return;
    }
    for (unsigned i = 1; i < count; ++i) {
        _batch->send_wrs[i - 1].next = &_batch->send_wrs[i];
    }
    ibv_send_wr* bad = nullptr;
    if (ibv_post_send(qp.host.get(), _batch->send_wrs.data(), &bad) == 0) {
        return;
    }
    // The first that the host does not take is the QP's last; those behind it are
    // flushed, at their turn.
    std::optional<Held> last = std::exchange(qp.held_send, std::nullopt);
    for (ibv_send_wr* wr = bad; wr; wr = wr->next) {
        PostedSend posted;
        if (!qp.sends.take(static_cast<uint32_t>(wr->wr_id), posted)) {
            continue;
        }
        release_address(qp, posted);
        if (wr == bad && !qp.held_send) {
            qp.held_send = Held{posted.wr.wr_id, IBV_WC_LOC_QP_OP_ERR,
                                wc_opcode_of(posted.opcode), true};
        } else {
            qp.refused.push_back(
                {posted.wr.wr_id, IBV_WC_WR_FLUSH_ERR, wc_opcode_of(posted.opcode), true});
        }
    }
    if (last) {
        qp.refused.push_back({last->wr_id, IBV_WC_WR_FLUSH_ERR, last->opcode, true});
    }
}

void VerbsBackend::pump_sends(Qp& qp)
{
    while (!qp.held_send && !qp.waiting && !qp.send_failed && !qp.suspended && !_resting &&
           can_send(qp.state)) {
        unsigned count = 0;
        bool more = true;
        while (count < batch_size && !qp.sends.full()) {
            SendRequest& request = _batch->sends[count];
            more = next_send(qp, request);
            if (!more || !encode_send(qp, request, _batch->send_wrs[count])) {
                break;
            }
            ++count;
        }
        post_sends(qp, count);
        if (!more || qp.sends.full()) {
            break;
        }
    }
}

// The one of the batch with this index, which goes behind those before it.
void VerbsBackend::encode_recv(PostedRequests<PostedRecv>& posted, Queue queue, uint32_t owner,
                               unsigned index)
{
    RecvRequest& request = _batch->recvs[index];
    std::span<ibv_sge> sges(request.sge.data(), request.num_sge);
    uint32_t slot = posted.put(PostedRecv{request.wr_id, request.num_sge}, sges);
    use_host_keys(_lkeys, sges);
    ibv_recv_wr& wr = _batch->recv_wrs[index];
    wr = {host_wr_id(queue, owner, slot), nullptr, request.sge.data(),
          static_cast<int>(request.num_sge)};
    if (index > 0) {
        _batch->recv_wrs[index - 1].next = &wr;
    }
}

void VerbsBackend::pump_recvs(Qp& qp)
{
    if (qp.init.use_srq || qp.state == IBV_QPS_RESET || _resting) {
        return;
    }
    while (!qp.held_recv && !qp.recv_failed) {
        unsigned count = 0;
        bool more = true;
        while (count < batch_size && !qp.recvs.full()) {
            RecvRequest& request = _batch->recvs[count];
            more = next_recv(qp, request);
            if (!more) {
                break;
            }
            if (request.malformed != IBV_WC_SUCCESS) {
                qp.held_recv = Held{request.wr_id, request.malformed, IBV_WC_RECV, true};
                break;
            }
            encode_recv(qp.recvs, Queue::recv, qp.id, count);
            ++count;
        }
        ibv_recv_wr* bad = nullptr;
        if (count > 0 && ibv_post_recv(qp.host.get(), _batch->recv_wrs.data(), &bad) != 0) {
            for (; bad; bad = bad->next) {
                PostedRecv posted;
                if (qp.recvs.take(static_cast<uint32_t>(bad->wr_id), posted) && !qp.held_recv) {
                    qp.held_recv = Held{posted.wr_id, IBV_WC_LOC_QP_OP_ERR, IBV_WC_RECV, true};
                }
            }
        }
        if (!more || qp.recvs.full()) {
            break;
        }
    }
}

void VerbsBackend::pump_srq(Srq& srq)
{
    while (!srq.failed && !_dead && !_resting) {
        unsigned count = 0;
        bool more = true;
        while (count < batch_size && !srq.posted.full()) {
            RecvRequest& request = _batch->recvs[count];
            more = next_srq_recv(srq, request);
            if (!more) {
                break;
            }
            if (request.malformed != IBV_WC_SUCCESS) {
                // There is no QP yet to complete it with.
                srq.failed = true;
                _client->async_event(IBV_EVENT_SRQ_ERR, srq.id);
                break;
            }
            encode_recv(srq.posted, Queue::srq, srq.id, count);
            ++count;
        }
        ibv_recv_wr* bad = nullptr;
        if (count > 0 && ibv_post_srq_recv(srq.host.get(), _batch->recv_wrs.data(), &bad) != 0) {
            srq.failed = true;
            _client->async_event(IBV_EVENT_SRQ_ERR, srq.id);
        }
        if (!more || srq.posted.full()) {
            break;
        }
    }
}

// What the host was not given completes when all before it has. An error is the
// end of the queue, and of a connected QP.
void VerbsBackend::finish_held(Qp& qp)
{
    if (qp.held_send && qp.sends.used() == 0) {
        Held held = *std::exchange(qp.held_send, std::nullopt);
        complete_without_host(qp, true, held);
        if (held.status != IBV_WC_SUCCESS) {
            fail_queue(qp, true);
        } else {
            touch(qp); // for those behind it
        }
    }
    if (qp.held_recv && qp.recvs.used() == 0) {
        Held held = *std::exchange(qp.held_recv, std::nullopt);
        complete_without_host(qp, false, held);
        fail_queue(qp, false);
    }
    if (qp.send_failed && qp.sends.used() == 0) {
        for (const Held& held : std::exchange(qp.refused, {})) {
            complete_without_host(qp, true, held);
        }
    }
}

// A request of the queue has failed: what follows is flushed. With a connected QP
// that goes for both queues, and the host's QP is told if it does not know.
void VerbsBackend::fail_queue(Qp& qp, bool send)
{
    qp.send_failed = true;
    if (qp.state != IBV_QPS_ERR) {
        if (send && qp.init.type != IBV_QPT_RC) {
            qp.state = IBV_QPS_SQE; // 10.3.1.6: only the send queue
            return;
        }
        fail_host(qp);
    }
    enter_error(qp);
}

// In a failed queue: the requests that the host does not have, once it has none.
void VerbsBackend::flush(Qp& qp)
{
    if (qp.send_failed && !qp.held_send && qp.sends.used() == 0) {
        stop_waiting(qp);
        SendRequest& request = _batch->sends[0];
        for (uint32_t i = 0; i <= qp.init.cap.max_send_wr && next_send(qp, request); ++i) {
            complete_without_host(
                qp, true,
                {request.wr.wr_id, IBV_WC_WR_FLUSH_ERR, wc_opcode_of(request.opcode), true});
        }
    }
    if (qp.recv_failed && !qp.held_recv && !qp.init.use_srq && qp.recvs.used() == 0) {
        RecvRequest& request = _batch->recvs[0];
        for (uint32_t i = 0; i < qp.init.cap.max_recv_wr && next_recv(qp, request); ++i) {
            complete_without_host(qp, false,
                                  {request.wr_id, IBV_WC_WR_FLUSH_ERR, IBV_WC_RECV, true});
        }
    }
}

void VerbsBackend::pump(Qp& qp)
{
    if (qp.init.gsi) {
        pump_gsi(qp);
        return;
    }
    if (_dead && qp.state != IBV_QPS_RESET && qp.state != IBV_QPS_ERR) {
        enter_error(qp);
    }
    pump_sends(qp);
    pump_recvs(qp);
    finish_held(qp);
    flush(qp);
}

void VerbsBackend::send_doorbell(uint32_t id)
{
    doorbell(find_qp(id));
}

void VerbsBackend::recv_doorbell(uint32_t id)
{
    doorbell(find_qp(id));
}

void VerbsBackend::doorbell(Qp* qp)
{
    if (!qp) {
        ++_stats.guest_doorbell_errors;
        return;
    }
    touch(*qp);
    settle();
}

void VerbsBackend::srq_doorbell(uint32_t id)
{
    Srq* srq = _srqs.find(id);
    if (!srq) {
        ++_stats.guest_doorbell_errors;
        return;
    }
    pump_srq(*srq);
}

} // namespace rdma::verbs
