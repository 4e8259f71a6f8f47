// SPDX-License-Identifier: GPL-2.0-or-later
//
// One end of a pair of backends: guest memory in a file, queues that are the
// test's, and what the backend has told.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <ostream>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "backend.h"
#include "guest_memory.h"
#include "statistics.h"

namespace rdma::test {

inline constexpr uint64_t ram_base = 0x100000;
inline constexpr uint64_t ram_size = 8 << 20;
inline constexpr int all_rights = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                                  IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

// As low as it takes for tests to reach them.
inline Limits small_limits()
{
    Limits limits{};
    limits.max_qp = 64;
    limits.max_qp_wr = 256;
    limits.max_sge = 4;
    limits.max_cq = 16;
    limits.max_mr = 32;
    limits.max_mr_size = ram_size;
    limits.max_pd = 8;
    limits.max_srq = 8;
    limits.max_srq_wr = 128;
    limits.gid_tbl_len = 16;
    limits.max_qp_rd_atom = 16;
    limits.max_qp_init_rd_atom = 16;
    limits.qpn_generations = true;
    limits.roce_version = 2;
    return limits;
}

// 0 where there is a value.
template <typename T>
int error_of(const Result<T>& result)
{
    return result ? 0 : result.error();
}

struct Event {
    ibv_event_type type;
    uint32_t object;
};

class BackendEnd final : public BackendClient {
public:
    explicit BackendEnd(const Limits& its_limits)
        : limits(its_limits), _fd(memfd_create("guest", MFD_CLOEXEC))
    {
        void* mapped = MAP_FAILED;
        if (_fd >= 0 && ftruncate(_fd, ram_size) == 0) {
            mapped = mmap(nullptr, ram_size, PROT_READ | PROT_WRITE, MAP_SHARED, _fd, 0);
        }
        if (mapped == MAP_FAILED) {
            throw std::bad_alloc();
        }
        _ram = static_cast<std::byte*>(mapped);
        RdmaMemoryRegion region{ram_base, ram_size, _ram, false, true, _fd, 0};
        memory.set_table({&region, 1});
    }
    ~BackendEnd()
    {
        munmap(_ram, ram_size);
        close(_fd);
    }
    BackendEnd(const BackendEnd&) = delete;
    BackendEnd& operator=(const BackendEnd&) = delete;

    // Once the backend is there.
    void set_up(Backend& its_backend)
    {
        backend = &its_backend;
        ASSERT_EQ(backend->add_gid(0, gid, 2, {}), 0);
        pd = backend->alloc_pd().value();
        cq = backend->create_cq().value();
        mr = register_pages(ram_base, ram_size, all_rights).value();
    }

    // Pages that lie one behind the other; the IOVA is the GPA.
    Result<MrKeys> register_pages(uint64_t gpa, uint64_t length, int access)
    {
        std::vector<uint64_t> pages;
        for (uint64_t page = gpa & ~(page_size - 1); page < gpa + length; page += page_size) {
            pages.push_back(page);
        }
        return register_list(gpa, length, access, pages);
    }
    Result<MrKeys> register_list(uint64_t iova, uint64_t length, int access,
                                 std::span<const uint64_t> pages)
    {
        MrInit init;
        init.pd = pd;
        init.access = access;
        init.iova = iova;
        init.length = length;
        init.pages = pages;
        return backend->reg_mr(init);
    }

    QpInit qp_init(ibv_qp_type type, uint32_t depth = 64) const
    {
        QpInit init;
        init.type = type;
        init.pd = pd;
        init.send_cq = init.recv_cq = cq;
        init.cap = {depth, depth, 4, 4, 0};
        return init;
    }

    std::byte* at(uint64_t gpa) { return _ram + (gpa - ram_base); }
    std::string text(uint64_t gpa, size_t size) { return {reinterpret_cast<char*>(at(gpa)), size}; }
    void write(uint64_t gpa, std::string_view text)
    {
        std::ranges::copy(text, reinterpret_cast<char*>(at(gpa)));
    }
    uint64_t& word(uint64_t gpa) { return *reinterpret_cast<uint64_t*>(at(gpa)); }

    void post_send(uint32_t qp, const SendRequest& request)
    {
        send_queues[qp].push_back(request);
        backend->send_doorbell(qp);
    }
    void post_recv(uint32_t qp, const RecvRequest& request)
    {
        recv_queues[qp].push_back(request);
        backend->recv_doorbell(qp);
    }
    void post_srq(uint32_t srq, const RecvRequest& request)
    {
        srq_queues[srq].push_back(request);
        backend->srq_doorbell(srq);
    }

    // Waits where the backend does not change a QP at once.
    int modify(uint32_t qp, const ibv_qp_attr& attr, int mask, const Mac& dmac)
    {
        outcomes.erase(qp);
        int error = backend->modify_qp(qp, attr, mask, dmac);
        while (error == EINPROGRESS && wait_events()) {
            if (auto outcome = outcomes.find(qp); outcome != outcomes.end()) {
                return outcome->second;
            }
        }
        return error;
    }

    // BackendClient
    bool pull_send(uint32_t qp, SendRequest& out) override { return take(send_queues[qp], out); }
    bool pull_recv(uint32_t qp, RecvRequest& out) override { return take(recv_queues[qp], out); }
    bool pull_srq_recv(uint32_t srq, RecvRequest& out) override
    {
        return take(srq_queues[srq], out);
    }
    uint32_t srq_depth(uint32_t srq) override
    {
        return static_cast<uint32_t>(srq_queues[srq].size());
    }
    bool complete(uint32_t id, const Completion& completion) override
    {
        if (id == full_cq) {
            return false;
        }
        completions.push_back(completion);
        return true;
    }
    void modified(uint32_t qp, int error) override { outcomes[qp] = error; }
    void async_event(ibv_event_type type, uint32_t object) override
    {
        events.push_back({type, object});
    }
    bool has_event(ibv_event_type type, uint32_t object) const
    {
        return std::ranges::any_of(
            events, [&](const Event& e) { return e.type == type && e.object == object; });
    }

    Limits limits;
    GuestMemory memory;
    Statistics stats;
    ibv_gid gid{}; // of index 0
    Mac mac{};
    Backend* backend = nullptr;
    uint32_t pd = 0;
    uint32_t cq = 0;
    MrKeys mr{}; // all of RAM
    std::map<uint32_t, std::deque<SendRequest>> send_queues;
    std::map<uint32_t, std::deque<RecvRequest>> recv_queues;
    std::map<uint32_t, std::deque<RecvRequest>> srq_queues;
    std::vector<Completion> completions;
    std::vector<Event> events;
    std::map<uint32_t, int> outcomes; // of changes of QPs that took long
    std::optional<uint32_t> full_cq; // takes no completions
    // Lets the backend take its events; false: there are none for long.
    std::function<bool()> wait_events;

private:
    template <typename T>
    static bool take(std::deque<T>& queue, T& out)
    {
        if (queue.empty()) {
            return false;
        }
        out = queue.front();
        queue.pop_front();
        return true;
    }

    int _fd;
    std::byte* _ram = nullptr;
};

// Two ends that reach each other.
class BackendPair {
public:
    virtual ~BackendPair() = default;
    // Lets both work until done() or, with false, nothing more can be expected.
    virtual bool run_until(const std::function<bool()>& done) = 0;

    BackendEnd a{small_limits()};
    BackendEnd b{small_limits()};
};

// A kind of backend that the suite is run with.
struct BackendKind {
    std::string name;
    std::function<std::unique_ptr<BackendPair>()> make;

    friend void PrintTo(const BackendKind& kind, std::ostream* out) { *out << kind.name; }
};

// What the command line says.
std::vector<BackendKind> kinds_under_test();
std::vector<std::string> devices_under_test();
// The last device of the command line.
std::string peer_device();
// Those of kinds_under_test() that are on devices of the host.
std::vector<BackendKind> host_kinds();

std::unique_ptr<BackendPair> make_roce_pair();
// On these RDMA devices of the host; they may be the same one.
std::unique_ptr<BackendPair> make_verbs_pair(const std::string& first, const std::string& second);

} // namespace rdma::test
