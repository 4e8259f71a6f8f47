// SPDX-License-Identifier: GPL-2.0-or-later
#include "executor.h"

#include <algorithm>

namespace rdma::roce {

namespace {

// The engine is sending, until the end of the scope.
class Running {
public:
    explicit Running(bool& running) : _running(running) { _running = true; }
    ~Running() { _running = false; }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

private:
    bool& _running;
};

} // namespace

bool Executor::receive(std::span<const uint8_t> frame)
{
    Layers layers;
    if (!_engine->wants(frame, layers)) {
        return false;
    }
    if (_stopped) {
        // Within the send of a refusal: no further one, and its frame stays as it is.
        if (_refuse && !_running) {
            {
                Running running(_running);
                _engine->receive_stopped(frame);
            }
            run(); // where that has led to start()
        } else {
            ++_stats.drop_stopped;
        }
        return true;
    }
    if (_running) {
        if (_waiting.size() >= max_waiting || frame.size() > max_frame) {
            ++_stats.drop_congestion;
            return true;
        }
        _waiting.push_back().assign(frame.begin(), frame.end());
        return true;
    }
    _engine->receive(frame, layers, _ops.now(_opaque));
    run();
    return true;
}

void Executor::timer()
{
    _deadline = no_deadline;
    if (_stopped || _running) {
        return; // start(), or the run that is under way, sets it again
    }
    _engine->advance(_ops.now(_opaque));
    run();
}

void Executor::tx_ready()
{
    _engine->tx_ready();
    run();
}

void Executor::take_waiting(int64_t now)
{
    while (!_waiting.empty()) {
        // Out of the ring first: more may come meanwhile.
        _received.swap(_waiting.front());
        _waiting.pop_front();
        _engine->receive(_received, now);
    }
}

void Executor::run()
{
    if (_running || _stopped) {
        return;
    }
    {
        Running running(_running);
        unsigned left = budget;
        do {
            int64_t now = _ops.now(_opaque);
            take_waiting(now);
            unsigned share = std::min(left, 64u);
            _engine->run(now, share);
            left -= share;
        } while (left > 0 && has_work());
    }
    if (!_stopped) {
        update_timer();
    }
}

bool Executor::has_work() const
{
    return _engine->has_work() || (!_engine->is_resting() && !_waiting.empty());
}

void Executor::update_timer()
{
    // Out of budget with work left: go on from the timer, at once.
    int64_t deadline = has_work() ? _ops.now(_opaque) : _engine->next_deadline();
    // Setting a timer may wake another thread: one that comes early (an answer
    // has moved the deadline) is left to come.
    if (deadline < _deadline) {
        _deadline = deadline;
        _ops.set_timer(_opaque, deadline);
    }
}

void Executor::reset()
{
    _waiting.clear();
    _engine->set_resting(_stopped);
    _engine->tx_ready();
    _deadline = no_deadline; // of before
    update_timer();
}

// [virtio-rdma MIG-1]
void Executor::stop(bool refuse)
{
    _refuse = refuse;
    if (!_stopped) {
        int64_t now = _ops.now(_opaque);
        take_waiting(now);
        _engine->stop(now);
        _engine->set_resting(true);
        _stopped = true;
    }
}

void Executor::start()
{
    if (_stopped) {
        _stopped = false;
        _engine->set_resting(false);
        _engine->start(_ops.now(_opaque));
        // A timer of before the stop is of no meaning any more.
        _deadline = no_deadline;
        run();
    }
}

bool Executor::send(std::span<const uint8_t> frame)
{
    return _ops.send_packet(_opaque, frame.data(), frame.size());
}

Mac Executor::mac()
{
    RdmaNicInfo info{};
    _ops.nic_info(_opaque, &info);
    Mac mac;
    std::ranges::copy(info.mac, mac.begin());
    return mac;
}

uint32_t Executor::mtu()
{
    RdmaNicInfo info{};
    _ops.nic_info(_opaque, &info);
    return info.mtu;
}

} // namespace rdma::roce
