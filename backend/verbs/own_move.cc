// SPDX-License-Identifier: GPL-2.0-or-later
//
// This device moves to another host, or stops and goes on. Before, it and its peers rest:
// nothing is in flight. On the new host QPs and regions have other numbers; the peers hear
// them and connect their QPs anew, with the requests that wait in them
// (docs/verbs-backend.md).
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "interface_address.h"
#include "verbs_backend.h"

namespace rdma::verbs {

namespace {

using namespace std::chrono_literals;

// Where nothing has been completed for so many waits for events or ticks, what is in flight
// waits for a receive request that will not come: it stays for the other host. By their
// number, not the clock: while a thread does not run it sees nothing complete. A peer's
// ticks end before the waits of the one that has asked it.
constexpr auto tick_period = 50ms;
constexpr int enough_ticks = 3;
constexpr auto short_wait = 10ms;
constexpr int enough_waits = 25;
// Most that a stop of the VM waits for.
constexpr auto rest_time = 1s;
// Until a peer that cannot be reached after a migration is given up.
constexpr auto arrival_time = 10s;

} // namespace

// Has the peers rest and waits for what is in flight, so that nothing writes to the
// guest's memory any more.
void VerbsBackend::rest()
{
    if (!_peer_channel || _dead || _arrived) {
        return;
    }
    _told_to_rest = true;
    // Of those that do not answer.
    auto stalled = std::make_shared<std::set<uint32_t>>();
    auto asked = std::make_shared<size_t>(0);
    for (const auto& [name, qps] : connections()) {
        ++*asked;
        stalled->insert(qps.begin(), qps.end());
        ask(name, PeerMessage::suspend, encode_links(qps), [=](auto body) {
            --*asked;
            LinksAnswer answer;
            bool ok = body && decode(*body, answer) && answer.links.size() == qps.size();
            for (size_t i = 0; ok && i < qps.size(); ++i) {
                if (answer.links[i] == LinkStatus::quiet) {
                    stalled->erase(qps[i]);
                }
            }
        });
    }
    auto all_of_qps = [this](auto&& is) {
        bool all = true;
        _qps.for_each([&](uint32_t, Qp& qp) { all &= is(qp); });
        return all;
    };
    work_until([&] {
        return *asked == 0 && all_of_qps([](const Qp& qp) { return qp.sends.used() == 0; });
    });
    // What is in flight still will not be done: of each request it must be known whether
    // it was.
    _qps.for_each([&](uint32_t id, Qp& qp) {
        if (qp.is_connected() && qp.peer && (qp.sends.used() > 0 || stalled->contains(id))) {
            freeze(qp);
        }
    });
    work_until([&] {
        return all_of_qps([](const Qp& qp) {
            return !qp.frozen || qp.num_flushed >= qp.sends.used() + qp.recvs.used();
        });
    });
    report_all_written();
    _refresh = Clock::now() + refresh_time;
    if (!connections().empty()) {
        set_tick(true); // which ends by itself
    }
}

// The host's device has written where it has not told.
void VerbsBackend::report_all_written()
{
    _mrs.for_each([this](uint32_t, Mr& mr) { report_written(mr); });
}

void VerbsBackend::finish_migration()
{
    if (!_stopped || _dead || _arrived) {
        return;
    }
    if (_port->loses_on_migrate()) {
        // Completions of what is flushed are the guest's, as in rest(); it gives nothing more.
        _resting = true;
        _stopped = false;
        watch(EPOLL_CTL_ADD);
        work_until([this] {
            bool all_flushed = true;
            _qps.for_each([&](uint32_t, Qp& qp) {
                // Also one that the guest has had connected just before it stopped.
                if (!can_move(qp)) {
                    lose(qp);
                }
                all_flushed &= qp.state != IBV_QPS_ERR ||
                               (qp.sends.used() == 0 && qp.recvs.used() == 0);
            });
            return all_flushed;
        });
        finish_stop();
    }
    // Peers of another kind may have written to memory since the VM stopped.
    report_all_written();
}

// Until done(), or nothing more happens, but for a second at most.
void VerbsBackend::work_until(const std::function<bool()>& done)
{
    auto end = Clock::now() + rest_time;
    uint64_t progress = _progress;
    for (int fruitless = 0;;) {
        handle_events();
        if (_progress != std::exchange(progress, _progress)) {
            fruitless = 0;
        }
        if (done() || fruitless == enough_waits || Clock::now() >= end) {
            return;
        }
        pollfd fd{_epoll, POLLIN, 0};
        fruitless += poll(&fd, 1, short_wait.count()) == 0;
    }
}

// The device goes on: where it was, or where it has come to.
void VerbsBackend::wake_peers()
{
    _resting = false;
    if (!_peer_channel) {
        return;
    }
    if (std::exchange(_silent, false)) {
        _gids.for_each([this](uint32_t, const ibv_gid& gid, uint32_t) { _peer_channel->listen(gid); });
        ask_again();
    }
    bool has_rested = std::exchange(_told_to_rest, false);
    if (std::exchange(_arrived, false)) {
        arrive();
    } else if (has_rested) {
        resume_peers();
    }
}

// What has not been answered when the channel was closed.
void VerbsBackend::ask_again()
{
    for (uint32_t id : _changing) {
        Qp& qp = *_qps.find(id);
        if (qp.change->question != 0) {
            qp.change->question = ask_for_qp(qp, qp.change->attr);
        }
    }
    _qps.for_each([](uint32_t, Qp& qp) { qp.announced = false; }); // announce() asks again
    _answered = true;
    kick();
}

// It goes on where it was: frozen QPs are connected anew, others are as they were.
void VerbsBackend::resume_peers()
{
    _give_up = Clock::now() + arrival_time;
    _qps.for_each([this](uint32_t, Qp& qp) {
        if (qp.frozen) {
            begin_connection(qp);
            if (reset_host(qp) != 0 || connect_host(qp) != 0) {
                lose(qp);
            }
        }
    });
    for (auto& [name, qps] : connections()) {
        std::erase_if(qps, [this](uint32_t id) { return _qps.find(id)->arriving; });
        if (!qps.empty()) {
            ask(name, PeerMessage::resume, encode_links(qps), [](auto) {});
        }
    }
    announce();
}

// A state has been loaded, and the device starts.
void VerbsBackend::arrive()
{
    _give_up = Clock::now() + arrival_time;
    _srqs.for_each([this](uint32_t, Srq& srq) { pump_srq(srq); });
    _qps.for_each([this](uint32_t, Qp& qp) {
        if (qp.lost) {
            lose(qp);
        } else if (qp.state == IBV_QPS_INIT || qp.arriving) {
            if (qp.arriving) {
                begin_connection(qp);
            }
            if (connect_host(qp) != 0) {
                lose(qp);
            }
        }
    });
    _arrivals.clear();
    announce();
}

// Tells the peers of those QPs that they have not been told of.
void VerbsBackend::announce()
{
    std::map<PeerName, std::vector<uint32_t>> to_tell;
    for (const auto& [name, qps] : connections()) {
        std::ranges::copy_if(qps, std::back_inserter(to_tell[name]), [this](uint32_t id) {
            const Qp& qp = *_qps.find(id);
            return qp.arriving && !qp.announced;
        });
    }
    std::erase_if(to_tell, [](const auto& entry) { return entry.second.empty(); });
    for (const auto& [name, qps] : to_tell) {
        MoveRequest request;
        for (uint32_t id : qps) {
            Qp& qp = *_qps.find(id);
            qp.announced = true;
            request.moves.push_back({{qp.attr.dest_qp_num, qp.qpn},
                                     qp.host->qp_num,
                                     qp.peer_host_qpn,
                                     qp.rq_psn,
                                     qp.sq_psn,
                                     qp.num_received_before});
        }
        request.keys = keys_for(name);
        auto peer = remember_peer(name);
        ask(name, PeerMessage::move, encode(request),
            [this, qps, peer](auto body) { take_moved(qps, *peer, body); });
    }
    if (!to_tell.empty()) {
        set_tick(true);
    }
}

void VerbsBackend::take_moved(const std::vector<uint32_t>& qps, Peer& peer,
                              std::optional<std::span<const uint8_t>> body)
{
    MoveAnswer answer;
    bool ok = body && understand(*body, answer) && answer.moved.size() == qps.size();
    if (ok) {
        set_keys(peer, answer.keys);
    }
    for (size_t i = 0; i < qps.size(); ++i) {
        Qp* qp = _qps.find(qps[i]);
        if (!qp || !qp->arriving) {
            continue;
        }
        qp->announced = false; // unless all is well, the tick has it asked again
        if (ok) {
            take_moved(*qp, answer.moved[i]);
        }
    }
}

void VerbsBackend::take_moved(Qp& qp, const Moved& moved)
{
    switch (moved.status) {
    case MoveStatus::done:
        if (!finish_executed(qp, moved.received)) {
            lose(qp);
            break;
        }
        qp.arriving = qp.suspended = false;
        touch(qp);
        break;
    case MoveStatus::elsewhere:
        qp.peer_host_qpn = moved.host_qpn;
        if (reset_host(qp) != 0 || connect_host(qp) != 0) {
            lose(qp);
        }
        break;
    case MoveStatus::not_now:
        _give_up = Clock::now() + arrival_time; // it is there
        break;
    case MoveStatus::mine:
        qp.announced = true;
        break;
    default:
        lose(qp);
        break;
    }
}

void VerbsBackend::set_tick(bool on)
{
    itimerspec spec{};
    if (on) {
        spec.it_value.tv_nsec = spec.it_interval.tv_nsec =
            std::chrono::nanoseconds(tick_period).count();
    }
    timerfd_settime(_timer, 0, &spec, nullptr);
}

void VerbsBackend::tick()
{
    uint64_t expirations;
    if (read(_timer, &expirations, sizeof(expirations)) < 0) {
        return;
    }
    bool idle = _progress == std::exchange(_last_progress, _progress);
    _idle_ticks = idle ? _idle_ticks + 1 : 0;
    answer_rests(_idle_ticks >= enough_ticks);
    bool wanted = !_rests.empty();
    auto now = Clock::now();
    if (_stopped && _told_to_rest && !_silent) {
        wanted = true;
        if (now >= _refresh) {
            _refresh = now + refresh_time;
            for (const auto& [name, qps] : connections()) {
                ask(name, PeerMessage::suspend, encode_links(qps), [](auto) {});
            }
        }
    } else if (!_stopped) {
        _qps.for_each([&](uint32_t, Qp& qp) {
            if (qp.arriving && now >= _give_up) {
                lose(qp);
            } else if (qp.suspended && !qp.arriving && now >= qp.suspended_until) {
                qp.suspended = false;
                touch(qp);
            }
            wanted |= qp.suspended || qp.arriving;
        });
        announce();
    }
    set_tick(wanted);
}

// Why not, for a person.
std::optional<std::string> VerbsBackend::migration_obstacle() const
{
    if (!_peer_channel) {
        return _port->fixed_gid() ? "property 'gid-index' is set: devices that share an address "
                                    "cannot be told apart"
                                  : "property 'peer-port' is 0: peers cannot be told";
    }
    if (_dead) {
        return fmt::format("RDMA device '{}' is gone", _port->device_name());
    }
    if (_port->loses_on_migrate()) {
        return std::nullopt;
    }
    constexpr size_t max_named = 8;
    std::vector<std::string> named;
    size_t count = 0;
    _qps.for_each([&](uint32_t, const Qp& qp) {
        if (can_move(qp)) {
            return;
        }
        if (++count <= max_named) {
            named.push_back(qp.is_datagram()
                                ? fmt::format("QP {} (datagrams)", qp.qpn)
                                : fmt::format("QP {} (to QP {} at {})", qp.qpn,
                                              qp.attr.dest_qp_num,
                                              address_of(qp.attr.ah_attr.grh.dgid)));
        }
    });
    if (count == 0) {
        return std::nullopt;
    }
    return fmt::format("{}{}: the other end is no device with backend=verbs that can be told "
                       "(property 'on-migrate=error' gives such QPs up)",
                       fmt::join(named, ", "),
                       count > max_named ? fmt::format(" and {} more", count - max_named) : "");
}

// Whether a QP outlives a migration.
bool VerbsBackend::can_move(const Qp& qp)
{
    return qp.is_datagram() ? qp.state == IBV_QPS_RESET || qp.state == IBV_QPS_ERR
                            : !qp.is_connected() || (qp.peer && qp.peer->known);
}

} // namespace rdma::verbs
