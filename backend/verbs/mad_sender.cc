// SPDX-License-Identifier: GPL-2.0-or-later
#include "mad_sender.h"

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "gid.h"

namespace rdma::verbs {

struct MadSender::State {
    struct Job {
        Mad mad;
        uint32_t source;
    };
    struct Source {
        size_t waiting = 0;
        unsigned running = 0;
    };

    bool is_running(const ibv_gid& destination) const
    {
        return std::ranges::any_of(running,
                                   [&](const ibv_gid& g) { return same_gid(g, destination); });
    }
    // The oldest that may be begun.
    std::deque<Job>::iterator next()
    {
        return std::ranges::find_if(waiting, [this](const Job& job) {
            return sources[job.source].running < sizes.threads_per_source &&
                   !is_running(job.mad.peer);
        });
    }
    void erase_waiting(const std::function<bool(const Job&)>& matches)
    {
        std::erase_if(waiting, [&](const Job& job) {
            if (!matches(job)) {
                return false;
            }
            --sources[job.source].waiting;
            return true;
        });
    }
    void tidy(uint32_t source)
    {
        auto found = sources.find(source);
        if (found != sources.end() && found->second.waiting == 0 && found->second.running == 0) {
            sources.erase(found);
        }
    }

    MakeSend make;
    Sizes sizes;
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Job> waiting;
    std::map<uint32_t, Source> sources;
    std::vector<ibv_gid> running; // destinations, one of each thread at work
    unsigned threads = 0;
    unsigned idle = 0; // threads that wait for a job
    bool ended = false;
};

MadSender::MadSender(MakeSend make, Sizes sizes) : _state(std::make_shared<State>())
{
    _state->make = std::move(make);
    _state->sizes = sizes;
}

MadSender::~MadSender()
{
    std::lock_guard lock(_state->mutex);
    _state->ended = true;
    _state->waiting.clear();
    _state->changed.notify_all();
}

bool MadSender::send(const Mad& mad, uint32_t source)
{
    std::lock_guard lock(_state->mutex);
    State::Source& its = _state->sources[source];
    if (its.waiting >= _state->sizes.waiting_per_source) {
        return false;
    }
    _state->waiting.push_back({mad, source});
    ++its.waiting;
    if (_state->idle < _state->waiting.size() && _state->threads < _state->sizes.threads) {
        try {
            add_thread();
        } catch (const std::system_error&) {
            // Those that there are do it.
        }
    }
    _state->changed.notify_one();
    return true;
}

void MadSender::forget(uint32_t source)
{
    std::lock_guard lock(_state->mutex);
    _state->erase_waiting([source](const State::Job& job) { return job.source == source; });
    _state->tidy(source);
}

// Signals are the other threads' to take.
void MadSender::add_thread()
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        std::thread(work, _state).detach();
        ++_state->threads;
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void MadSender::work(const std::shared_ptr<State>& state)
{
    Send send;
    std::unique_lock lock(state->mutex);
    for (;;) {
        ++state->idle;
        auto job = state->waiting.end();
        state->changed.wait(lock, [&] {
            job = state->next();
            return state->ended || job != state->waiting.end();
        });
        --state->idle;
        if (state->ended) {
            return;
        }
        State::Job taken = std::move(*job);
        state->waiting.erase(job);
        State::Source& source = state->sources[taken.source];
        --source.waiting;
        ++source.running;
        state->running.push_back(taken.mad.peer);
        lock.unlock();
        if (!send) {
            send = state->make();
        }
        bool sent = send(taken.mad);
        lock.lock();
        auto is_its = [&](const ibv_gid& gid) { return same_gid(gid, taken.mad.peer); };
        state->running.erase(std::ranges::find_if(state->running, is_its));
        --state->sources[taken.source].running;
        if (!sent) {
            state->erase_waiting([&](const State::Job& other) {
                return other.source == taken.source && is_its(other.mad.peer);
            });
        }
        state->tidy(taken.source);
        // Others may have become free to begin.
        state->changed.notify_all();
        if (state->idle >= state->sizes.spare_threads && state->next() == state->waiting.end()) {
            --state->threads;
            return;
        }
    }
}

} // namespace rdma::verbs
