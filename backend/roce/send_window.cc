// SPDX-License-Identifier: GPL-2.0-or-later
#include "send_window.h"

namespace rdma::roce {

void SendWindow::send_last_before_again(const SendWqe& wqe)
{
    Psn last = wqe.first_psn - 1;
    const SendWqe* before = last >= _una ? find(last) : nullptr;
    if (before && !before->has_response()) {
        _send = last;
        position_cursor();
    }
}

// [IBTA 9.7.2-2]
SendWindow::Acknowledged SendWindow::acknowledge(Psn psn)
{
    if (psn <= _una) {
        return {0, false};
    }
    Psn limit = psn;
    bool blocked = false;
    for (size_t i = 0; i < _requests.size(); ++i) {
        const SendWqe& wqe = _requests[i];
        if (wqe.num_packets == 0) {
            continue;
        }
        if (psn <= wqe.first_psn) {
            break;
        }
        // [IBTA 9.7.2-3]
        if (wqe.has_response() && _una < wqe.end_psn()) {
            limit = later_of(wqe.first_psn, _una);
            blocked = true;
            break;
        }
    }
    uint32_t packets = limit > _una ? limit.distance_from(_una) : 0;
    _una += packets;
    return {packets, blocked};
}

SendWqe* SendWindow::find(Psn psn)
{
    for (size_t i = 0; i < _requests.size(); ++i) {
        if (_requests[i].num_packets > 0 && _requests[i].has(psn)) {
            return &_requests[i];
        }
    }
    return nullptr;
}

void SendWindow::return_to(Psn psn)
{
    _send = psn;
    _answers_ahead = 0;
    position_cursor();
}

void SendWindow::position_cursor()
{
    for (_cursor = 0; _cursor < _requests.size(); ++_cursor) {
        const SendWqe& wqe = _requests[_cursor];
        if (wqe.num_packets > 0 ? _send < wqe.end_psn() : !wqe.initiated) {
            return;
        }
    }
}

const char* SendWindow::restore(bool are_connected)
{
    Psn psn = _una;
    bool any = false;
    _outstanding_reads = 0;
    _answers_ahead = 0;
    for (size_t i = 0; i < _requests.size(); ++i) {
        const SendWqe& wqe = _requests[i];
        if (wqe.num_packets > 0) {
            if (any ? wqe.first_psn != psn : !wqe.has(_una)) {
                // una may be within the first one.
                return "the PSNs of its requests do not follow each other";
            }
            any = true;
            psn = wqe.end_psn();
            if (wqe.is_read() && _send >= psn) {
                _answers_ahead += psn.distance_from(later_of(_una, wqe.first_psn)) - 1;
            }
        }
        _outstanding_reads += wqe.has_response() && wqe.initiated;
    }
    bool in_order = psn == _next && _una <= _send && _send <= _max && _max <= _next && _una <= _next;
    if (are_connected && !in_order) {
        return "the PSNs of its requests are not in order";
    }
    position_cursor();
    return nullptr;
}

} // namespace rdma::roce
