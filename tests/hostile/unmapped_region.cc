// SPDX-License-Identifier: GPL-2.0-or-later
//
// Two pairs of QPs of one device, connected with each other. Both write without end; one from, or
// to, a region whose mapping another thread then takes away.
#include <fmt/format.h>
#include <infiniband/verbs.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "attacks.h"
#include "driver.h"
#include "vfio_function.h"

namespace hostile {

namespace {

using namespace rdma::pvrdma;

constexpr uint64_t own_iova = 0x10000000; // what stays mapped
constexpr uint64_t taken_iova = 0x20000000;
constexpr size_t depth = 8; // requests outstanding on each QP, each with a page at both ends
constexpr uint32_t completions = 200; // that are waited for
constexpr uint8_t after = 0xa5;       // what the region holds when its mapping has gone
constexpr auto limit = std::chrono::seconds(60);

template <typename... Args>
void expect(bool condition, fmt::format_string<Args...> what, Args&&... args)
{
    if (!condition) {
        throw Error(fmt::format(what, std::forward<Args>(args)...));
    }
}

std::span<uint8_t> allocate(size_t size)
{
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    expect(memory != MAP_FAILED, "no memory");
    return {static_cast<uint8_t*>(memory), size};
}

// One page for each request that is outstanding, as a memory region.
struct Pages {
    uint32_t key = 0;
    std::vector<uint8_t*> memory;
};

// An RC QP that writes pages from source to target, and what has become of that.
class Writer {
public:
    Writer(Driver& driver, const Driver::Qp& qp, const Pages& source, const Pages& target)
        : _driver(driver), _qp(qp), _source(source), _target(target)
    {
    }

    uint32_t handle() const { return _qp.handle; }
    uint64_t num_posted() const { return _posted; }
    uint32_t num_done() const { return _done; }
    // IBV_WC_SUCCESS: none has failed.
    uint32_t failure() const { return _failure; }

    void post_all()
    {
        while (_failure == IBV_WC_SUCCESS && _posted - _ended < depth) {
            post();
        }
    }

    // is_checked: both regions are still the device's.
    void complete(const Cqe& cqe, bool is_checked)
    {
        expect(cqe.wr_id == _ended, "completion of {} after that of {}", uint64_t{cqe.wr_id},
               _ended);
        ++_ended;
        if (_failure != IBV_WC_SUCCESS) {
            expect(cqe.status == IBV_WC_WR_FLUSH_ERR, "status {} behind a failed request",
                   uint32_t{cqe.status});
        } else if (cqe.status != IBV_WC_SUCCESS) {
            _failure = cqe.status;
        } else {
            ++_done;
            if (is_checked) {
                check(cqe.wr_id);
            }
        }
    }

private:
    // Every word of the request's page.
    static uint64_t word(uint64_t request, uint64_t index)
    {
        return (request << 32 | index) * 0x9e3779b97f4a7c15;
    }

    void post()
    {
        uint64_t slot = _posted % depth;
        for (uint64_t i = 0; i < page_size / 8; ++i) {
            uint64_t value = word(_posted, i);
            std::memcpy(_source.memory[slot] + i * 8, &value, sizeof(value));
        }
        struct {
            SqWqeHdr hdr;
            Sge sge;
        } wqe{};
        uint64_t address = Driver::region_start + slot * page_size;
        wqe.hdr.wr_id = _posted++;
        wqe.hdr.num_sge = 1;
        wqe.hdr.opcode = wr_rdma_write;
        wqe.hdr.send_flags = IBV_SEND_SIGNALED;
        wqe.hdr.wr.rdma = {address, _target.key, 0};
        wqe.sge = {address, page_size, _source.key};
        _driver.post(_qp, wqe);
    }

    void check(uint64_t request)
    {
        for (uint64_t i = 0; i < page_size / 8; ++i) {
            uint64_t value;
            std::memcpy(&value, _target.memory[request % depth] + i * 8, sizeof(value));
            expect(value == word(request, i), "word {} of request {} is {:x}", i, request, value);
        }
    }

    Driver& _driver;
    Driver::Qp _qp;
    const Pages& _source;
    const Pages& _target;
    std::atomic<uint64_t> _posted = 0;
    uint64_t _ended = 0;
    uint32_t _done = 0;
    uint32_t _failure = IBV_WC_SUCCESS;
};

class UnmappedRegion {
public:
    explicit UnmappedRegion(const std::string& device)
        : _function(device), _memory(allocate(2 << 20)), _taken(allocate(depth * page_size)),
          _driver(_function.map_bar(1), _function.map_bar(2), _memory, own_iova)
    {
        _function.map(_memory, own_iova);
        _function.map(_taken, taken_iova);
    }

    // from_source: the writer's memory goes, or else what it writes to.
    void run(bool from_source)
    {
        uint32_t expected = from_source ? IBV_WC_LOC_PROT_ERR : IBV_WC_REM_ACCESS_ERR;
        bring_up();
        Writer other = create_writer(_sources, _targets);
        Writer writer =
            from_source ? create_writer(_region, _peers) : create_writer(_peers, _region);
        go_on(other, writer, true,
              [&] { return std::min(other.num_done(), writer.num_done()) >= completions; });
        expect(writer.failure() == IBV_WC_SUCCESS, "status {} of a mapped region",
               writer.failure());

        uint32_t before = other.num_done();
        std::atomic<uint64_t> posted_before = UINT64_MAX; // requests, when the mapping had gone
        std::jthread taker([&] {
            _function.unmap(_taken, taken_iova);
            posted_before = writer.num_posted();
            if (!from_source) {
                std::ranges::fill(_taken, after);
            }
        });
        go_on(other, writer, false, [&] {
            // Where a translation that has gone is used, the device still gets there.
            expect(writer.num_done() <= posted_before,
                   "{} requests done, of which {} were posted with the mapping", writer.num_done(),
                   posted_before.load());
            return writer.failure() != IBV_WC_SUCCESS && other.num_done() >= before + completions;
        });
        taker.join();
        expect(writer.failure() == expected, "status {} instead of {}", writer.failure(), expected);
        expect(other.failure() == IBV_WC_SUCCESS, "status {} of the other QP", other.failure());
        expect(from_source ||
                   std::ranges::count(_taken, after) == static_cast<ptrdiff_t>(_taken.size()),
               "memory that is not mapped was written");

        _function.map(_taken, taken_iova);
        Writer again =
            from_source ? create_writer(_region, _peers) : create_writer(_peers, _region);
        go_on(other, again, true, [&] { return again.num_done() >= completions; });
        expect(again.failure() == IBV_WC_SUCCESS && other.failure() == IBV_WC_SUCCESS,
               "statuses {} and {} when it is mapped again", again.failure(), other.failure());
        fmt::print("{} taken away: status {} behind {} requests, the other QP has done {}\n",
                   from_source ? "source" : "target", writer.failure(), writer.num_done(),
                   other.num_done());
        _driver.write(reg_ctl, ctl_reset);
    }

private:
    void bring_up()
    {
        _driver.bring_up();
        _driver.bind_address(Driver::own_address);
        _pd = _driver.create_pd();
        _cq = _driver.create_cq();
        for (Pages* pages : {&_sources, &_targets, &_peers}) {
            std::vector<uint64_t> addresses(depth);
            std::ranges::generate(addresses, [this] { return _driver.page(); });
            pages->memory.clear();
            for (uint64_t address : addresses) {
                pages->memory.push_back(_driver.at(address));
            }
            pages->key = _driver.create_mr(_pd, addresses);
        }
        std::vector<uint64_t> addresses;
        _region.memory.clear();
        for (size_t i = 0; i < depth; ++i) {
            addresses.push_back(taken_iova + i * page_size);
            _region.memory.push_back(_taken.data() + i * page_size);
        }
        _region.key = _driver.create_mr(_pd, addresses);
    }

    Writer create_writer(const Pages& source, const Pages& target)
    {
        auto one = _driver.create_qp(_pd, _cq.handle, qpt_rc);
        auto peer = _driver.create_qp(_pd, _cq.handle, qpt_rc);
        _driver.connect(one, qpt_rc, peer.qpn, {.timeout = 14, .retries = 7});
        _driver.connect(peer, qpt_rc, one.qpn, {.timeout = 14, .retries = 7});
        return {_driver, one, source, target};
    }

    // Both write until it is enough. Requests of an earlier writer are flushed meanwhile.
    template <typename IsEnough>
    void go_on(Writer& other, Writer& writer, bool is_mapped, IsEnough&& is_enough)
    {
        auto end = std::chrono::steady_clock::now() + limit;
        while (!is_enough()) {
            other.post_all();
            writer.post_all();
            for (Cqe cqe; _driver.poll(_cq, cqe);) {
                if (cqe.qp == other.handle()) {
                    other.complete(cqe, true);
                } else if (cqe.qp == writer.handle()) {
                    writer.complete(cqe, is_mapped);
                }
            }
            expect(std::chrono::steady_clock::now() < end,
                   "{} and {} requests done, statuses {} and {}, and no end", other.num_done(),
                   writer.num_done(), other.failure(), writer.failure());
        }
    }

    VfioFunction _function;
    std::span<uint8_t> _memory;
    std::span<uint8_t> _taken;
    Driver _driver;
    uint32_t _pd = 0;
    Driver::Cq _cq;
    Pages _sources, _targets; // of the other writer
    Pages _peers;             // of the region's other end
    Pages _region;            // whose mapping is taken away
};

} // namespace

void take_mapping_away(const std::string& device)
{
    UnmappedRegion test(device);
    test.run(false);
    test.run(true);
}

} // namespace hostile
