// SPDX-License-Identifier: GPL-2.0-or-later
//
// Asynchronous events of the host's device, and its end.
#include <sys/epoll.h>

#include <cerrno>
#include <cstdlib>

#include <fmt/format.h>

#include "opcodes.h"
#include "verbs_backend.h"

namespace rdma::verbs {

// False: there is none.
bool VerbsBackend::take_async_event()
{
    ibv_async_event event;
    if (_dead || ibv_get_async_event(_port->context(), &event) != 0) {
        _failing |= !_dead && errno != EAGAIN && errno != EINTR;
        return false;
    }
    tell(event);
    ibv_ack_async_event(&event);
    return true;
}

void VerbsBackend::tell(const ibv_async_event& event)
{
    switch (event.event_type) {
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR: {
        Qp& qp = *static_cast<Qp*>(event.element.qp->qp_context);
        _client->async_event(event.event_type, qp.id);
        if (qp.state != IBV_QPS_ERR) {
            enter_error(qp);
        }
        break;
    }
    case IBV_EVENT_COMM_EST:
    case IBV_EVENT_SQ_DRAINED:
    case IBV_EVENT_QP_LAST_WQE_REACHED:
        _client->async_event(event.event_type, static_cast<Qp*>(event.element.qp->qp_context)->id);
        break;
    case IBV_EVENT_CQ_ERR: {
        Cq& cq = *static_cast<Cq*>(event.element.cq->cq_context);
        _client->async_event(event.event_type, cq.id);
        overrun(cq);
        break;
    }
    case IBV_EVENT_SRQ_LIMIT_REACHED: {
        Srq& srq = *static_cast<Srq*>(event.element.srq->srq_context);
        srq.attr.srq_limit = 0;
        _client->async_event(event.event_type, srq.id);
        break;
    }
    case IBV_EVENT_SRQ_ERR: {
        Srq& srq = *static_cast<Srq*>(event.element.srq->srq_context);
        srq.failed = true;
        _client->async_event(event.event_type, srq.id);
        break;
    }
    case IBV_EVENT_GID_CHANGE:
        _gids.forget_indices();
        tell_addresses();
        _pds.for_each([](uint32_t, Pd& pd) { pd.addresses.forget(); });
        wake_waiting();
        break;
    case IBV_EVENT_PORT_ACTIVE:
    case IBV_EVENT_PORT_ERR:
        if (event.element.port_num == _port->number()) {
            _client->async_event(event.event_type, 1);
        }
        break;
    case IBV_EVENT_DEVICE_FATAL:
        _failing = true;
        break;
    default:
        // P_Keys are the guest's own; LIDs, the subnet manager and registration with it
        // are not of RoCE.
        break;
    }
}

// An errno value of libibverbs', as a positive one. Whatever names the device as the
// cause is made sure of: a route's end is ENODEV, too.
int VerbsBackend::host_error(int error)
{
    error = std::abs(error);
    if ((error == EIO || error == ENODEV) && !_dead && !_failing && !_port->query()) {
        _failing = true;
        kick();
    }
    return error;
}

// The host's device is gone, or is to go: the guest's objects stay, without any of the
// host's behind them.
void VerbsBackend::fail_device()
{
    if (_dead) {
        return;
    }
    _log(RDMA_LOG_ERROR, fmt::format("RDMA device '{}' is gone: the guest's device has failed",
                                     _port->device_name()));
    _client->async_event(IBV_EVENT_DEVICE_FATAL, 1);
    _cqs.for_each(
        [this](uint32_t, Cq& cq) { poll_cq(cq, static_cast<unsigned>(cq.host->cqe) + 1); });
    for_each_qp([this](Qp& qp) {
        flush_host_requests(qp);
        if (qp.state != IBV_QPS_RESET) {
            enter_error(qp);
        }
    });
    close_host();
    finish_changes();
}

// In the order of use. The kernel may wait for it before the device can go.
void VerbsBackend::close_host()
{
    watch(EPOLL_CTL_DEL);
    _mads.reset();
    _qps.for_each([](uint32_t, Qp& qp) { qp.host.reset(); });
    _srqs.for_each([](uint32_t, Srq& srq) { srq.host.reset(); });
    _cqs.for_each([](uint32_t, Cq& cq) { cq.host.reset(); });
    _mrs.for_each([](uint32_t, Mr& mr) { mr.host.reset(); });
    _pds.for_each([](uint32_t, Pd& pd) {
        pd.addresses.clear();
        pd.host.reset();
    });
    _channel.reset();
    _port->close();
    _removal.close();
    _waiting_cqs.clear();
    _dead = true;
    if (!_stopped) {
        watch(EPOLL_CTL_ADD);
    }
}

// What the host was given and will not complete any more.
void VerbsBackend::flush_host_requests(Qp& qp)
{
    for (const PostedSend& posted : qp.sends.take_all()) {
        release_address(qp, posted);
        complete_without_host(
            qp, true,
            {posted.wr.wr_id, IBV_WC_WR_FLUSH_ERR, wc_opcode_of(posted.opcode), true});
    }
    for (const PostedRecv& posted : qp.recvs.take_all()) {
        complete_without_host(qp, false, {posted.wr_id, IBV_WC_WR_FLUSH_ERR, IBV_WC_RECV, true});
    }
}

} // namespace rdma::verbs
