// SPDX-License-Identifier: GPL-2.0-or-later
#include "receive_window.h"

#include <new>

namespace rdma::roce {

void ReceiveWindow::limit(uint8_t reads)
{
    while (_resources.size() > reads) {
        _resources.pop_front();
    }
}

bool ReceiveWindow::reserve(uint8_t reads) noexcept
{
    try {
        _resources.reserve(reads);
        _responses.reserve(reads);
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

void ReceiveWindow::carried_out(Psn end, bool message_done)
{
    _expected = end;
    // READs and atomics of half the PSN space ago: their PSNs are those of later packets now, or
    // soon will be.
    while (!_resources.empty() &&
           _expected.distance_from(_resources.front().first_psn) >= Psn::half) {
        _resources.pop_front();
    }
    if (message_done) {
        // [IBTA 9.7.7.1-1]
        _msn = (_msn + 1) & msn_mask;
    }
}

void ReceiveWindow::owe_ack_of_duplicate(Psn psn)
{
    if (_resources.empty() || newest().first_psn <= psn) {
        _ack = true;
    } else if (!_duplicate_ack || psn > *_duplicate_ack) {
        _duplicate_ack = psn;
    }
}

// [IBTA 9.7.5.1.3-1]
bool ReceiveWindow::owe_nak_of_gap()
{
    if (_nak_sent) {
        return false;
    }
    _nak_sent = true;
    owe_nak(aeth_nak_sequence);
    return true;
}

// [IBTA 9.7.4.1.7-1]
bool ReceiveWindow::make_room(uint8_t reads)
{
    while (_responses.size() >= reads && !_responses.empty() && _responses.front().again) {
        _responses.pop_front();
    }
    return _responses.size() < reads;
}

// [IBTA 9.7.5.1.2-4]
void ReceiveWindow::remember(const ResponderResource& resource, uint8_t reads)
{
    if (_resources.size() >= reads) {
        _resources.pop_front();
    }
    _resources.push_back(resource);
}

const ResponderResource* ReceiveWindow::remembered(Psn psn, bool atomic) const
{
    for (size_t i = 0; i < _resources.size(); ++i) {
        const ResponderResource& resource = _resources[i];
        int32_t into = psn - resource.first_psn;
        if (into >= 0 && into < static_cast<int32_t>(resource.num_packets) &&
            resource.atomic == atomic) {
            return &resource;
        }
    }
    return nullptr;
}

// [IBTA C9-110]
void ReceiveWindow::forget_answers_from(Psn psn)
{
    for (size_t i = 0; i < _responses.size(); ++i) {
        const Response& response = _responses[i];
        // A READ may be asked for again from its middle on.
        if (response.psn >= psn || (response.kind == Response::Kind::read &&
                                    response.psn + response.remaining_packets > psn)) {
            _responses.truncate(i);
            return;
        }
    }
}

void ReceiveWindow::forget_owed()
{
    _responses.clear();
    _ack = false;
    _nak = no_nak;
    _duplicate_ack.reset();
}

std::optional<uint8_t> ReceiveWindow::take_nak()
{
    if (_nak == no_nak) {
        return std::nullopt;
    }
    // [IBTA 9.7.5.1.3-2]
    _ack = false; // a NAK acknowledges all before it
    return std::exchange(_nak, no_nak);
}

bool ReceiveWindow::is_sound(uint32_t mtu) const
{
    if (_responses.size() > UINT8_MAX || (mtu == 0 && !_responses.empty())) {
        return false;
    }
    for (size_t i = 0; i < _responses.size(); ++i) {
        const Response& response = _responses[i];
        uint32_t packets =
            response.kind == Response::Kind::read ? packets_of(response.remaining, mtu) : 1;
        if (response.remaining_packets != packets) {
            return false;
        }
    }
    return true;
}

} // namespace rdma::roce
