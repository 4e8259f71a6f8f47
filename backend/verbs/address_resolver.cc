// SPDX-License-Identifier: GPL-2.0-or-later
#include "address_resolver.h"

#include <csignal>
#include <system_error>

namespace rdma::verbs {

AddressResolver::AddressResolver(std::function<void()> told) : _told(std::move(told))
{
    add_thread();
}

AddressResolver::~AddressResolver()
{
    {
        std::lock_guard lock(_mutex);
        _ended = true;
    }
    _changed.notify_all();
    for (std::thread& thread : _threads) {
        thread.join();
    }
}

std::shared_ptr<AddressResolver::Request> AddressResolver::start(Make make)
{
    auto request = std::make_shared<Request>();
    std::lock_guard lock(_mutex);
    _jobs.push_back({request, std::move(make)});
    if (_idle < _jobs.size() && _threads.size() < max_threads) {
        try {
            add_thread();
        } catch (const std::system_error&) {
            // Those that there are do it.
        }
    }
    _changed.notify_one();
    return request;
}

// Signals are the other threads' to take.
void AddressResolver::add_thread()
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        _threads.emplace_back([this] { work(); });
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void AddressResolver::work()
{
    std::unique_lock lock(_mutex);
    for (;;) {
        ++_idle;
        _changed.wait(lock, [this] { return _ended || !_jobs.empty(); });
        --_idle;
        if (_ended) {
            return;
        }
        Job job = std::move(_jobs.front());
        _jobs.pop_front();
        lock.unlock();
        if (!job.request.expired()) {
            Result<SharedAh> result = job.make();
            if (auto request = job.request.lock()) {
                request->_result = std::move(result);
                request->_done.store(true, std::memory_order_release);
            }
            _news.store(true, std::memory_order_release);
            _told();
        }
        // What it holds may end here.
        job = {};
        lock.lock();
    }
}

} // namespace rdma::verbs
