// SPDX-License-Identifier: GPL-2.0-or-later
//
// Makes host address handles on threads of its own: the host looks up the Ethernet
// address of the destination, which takes it up to a second where nobody answers.
#pragma once

#include <infiniband/verbs.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "backend.h"

namespace rdma::verbs {

using SharedAh = std::shared_ptr<ibv_ah>;

class AddressResolver {
public:
    // Runs on a thread of the resolver's, and may take long.
    using Make = std::function<Result<SharedAh>()>;

    // A handle that is being made; one that nobody waits for any more is not begun.
    class Request {
    public:
        bool is_done() const { return _done.load(std::memory_order_acquire); }
        // Once it is done.
        Result<SharedAh>& result() { return _result; }

    private:
        friend class AddressResolver;
        Result<SharedAh> _result;
        std::atomic<bool> _done = false;
    };

    // told: called on a thread of the resolver's when a request is done.
    // Throws std::system_error where there is no thread to be had.
    explicit AddressResolver(std::function<void()> told);
    // Waits for what has been begun.
    ~AddressResolver();
    AddressResolver(const AddressResolver&) = delete;
    AddressResolver& operator=(const AddressResolver&) = delete;

    std::shared_ptr<Request> start(Make make);
    // Whether a request has become done since the last call.
    bool take_news() { return _news.exchange(false, std::memory_order_acquire); }

    // Destinations that do not answer keep no more than this many waiting at once.
    static constexpr size_t max_threads = 4;

private:
    struct Job {
        std::weak_ptr<Request> request;
        Make make;
    };

    void add_thread();
    void work();

    const std::function<void()> _told;
    std::atomic<bool> _news = false;
    std::mutex _mutex;
    std::condition_variable _changed;
    std::deque<Job> _jobs;
    size_t _idle = 0; // threads that wait for a job
    bool _ended = false;
    std::vector<std::thread> _threads;
};

} // namespace rdma::verbs
