// SPDX-License-Identifier: GPL-2.0-or-later
//
// How many packets a requester may have on their way. RoCE leaves that to the
// requester; peers, switches and hosts have queues that end somewhere, and all
// that a QP loses is sent again from the loss on. So the window is what TCP's is
// (RFC 5681): it doubles in each round trip until it has once been too much, and
// grows by a packet in each from there on; it is halved where something got
// lost, and begins again with one packet where nothing comes back.
#pragma once

#include <algorithm>
#include <cstdint>

namespace rdma::roce {

class CongestionWindow {
public:
    // Packets: at most, and where it begins.
    static constexpr uint32_t max = 256;
    static constexpr uint32_t initial = 16;

    // Packets that may be unacknowledged now.
    uint32_t size() const { return _size; }

    void acknowledged(uint32_t packets)
    {
        if (_size < _threshold) {
            _size = std::min(_size + packets, max);
            return;
        }
        _grown += packets;
        if (_grown >= _size) {
            _grown -= _size;
            _size = std::min(_size + 1, max);
        }
    }

    // A packet has got lost, and others have come through.
    void lost()
    {
        _size = _threshold = half();
        _grown = 0;
    }

    // The ACK timeout is over.
    void timed_out()
    {
        _threshold = half();
        _size = 1;
        _grown = 0;
    }

    // After a pause that had nothing to do with loss.
    void resume() { _size = std::min(_size, initial); }

private:
    uint32_t half() const { return std::max(_size / 2, 2u); }

    uint32_t _size = initial;
    uint32_t _threshold = max; // up to there the window grows fast
    uint32_t _grown = 0;       // acknowledged since it last grew, above the threshold
};

} // namespace rdma::roce
