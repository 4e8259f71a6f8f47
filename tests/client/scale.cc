// SPDX-License-Identifier: GPL-2.0-or-later
//
// Very many objects at once: regions registered and freed in rounds; then RC
// queue pairs, each with a region of its own, that are all connected before the
// first moves data, and all have requests outstanding before the first
// completion is looked for.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <set>

#include "pattern.h"
#include "suites.h"

namespace verify {

namespace {

using Clock = std::chrono::steady_clock;

class StopWatch {
public:
    double seconds() { return std::chrono::duration<double>(Clock::now() - _start).count(); }

private:
    Clock::time_point _start = Clock::now();
};

template <typename... Args>
void say(fmt::format_string<Args...> what, Args&&... args)
{
    fmt::print("scale: {}\n", fmt::format(what, std::forward<Args>(args)...));
    std::fflush(stdout);
}

// Until somebody opens the pipe for writing: the host looks at memory meanwhile.
void hold(const std::string& pipe)
{
    if (pipe.empty()) {
        return;
    }
    int file = open(pipe.c_str(), O_RDONLY | O_CLOEXEC);
    expect(file >= 0, "cannot open {}", pipe);
    close(file);
}

// Registers one page again and again, and frees the regions in another order.
void verify_regions(const Device& device, const ScaleOptions& options)
{
    Buffer page(device, 4096);
    for (unsigned round = 0; round < options.rounds; ++round) {
        StopWatch watch;
        std::vector<OwnedMr> regions;
        std::set<uint32_t> keys;
        for (unsigned i = 0; i < options.regions; ++i) {
            regions.push_back(device.reg_mr(page.bytes().data(), 4096, all_access));
            expect(keys.insert(regions.back()->lkey).second, "region {} has the key of another", i);
        }
        double registered = watch.seconds();
        for (unsigned i = 1; i < options.regions; i += 2) {
            regions[i].reset();
        }
        regions.clear();
        say("round {}: {} regions registered in {:.1f} s, freed in {:.1f} s", round + 1,
            options.regions, registered, watch.seconds() - registered);
        hold(options.pipe);
    }
}

class Connections {
public:
    Connections(Peer& peer, const ScaleOptions& options)
        : _peer(peer), _options(options), _memory(peer.device, slots * size_t{options.qps} * size()),
          _send_cq(peer.device.create_cq(static_cast<int>(2 * options.qps))),
          _recv_cq(peer.device.create_cq(static_cast<int>(options.qps)))
    {
    }

    void create()
    {
        StopWatch watch;
        for (unsigned i = 0; i < _options.qps; ++i) {
            _regions.push_back(_peer.device.reg_mr(slot(i, 0).data(), slots * size(), all_access));
            _qps.push_back(_peer.device.create_qp(IBV_QPT_RC, _send_cq.get(), _recv_cq.get(),
                                                  {2, 1, 1, 1, 0}));
        }
        say("{} QPs and regions created in {:.1f} s", _options.qps, watch.seconds());
    }

    void connect_all()
    {
        StopWatch watch;
        for (unsigned i = 0; i < _options.qps; ++i) {
            QpAddress ours = address_of(_peer.device, *_qps[i]);
            Target target{reinterpret_cast<uint64_t>(slot(i, written).data()), _regions[i]->rkey};
            auto theirs = _peer.control.exchange(Address{ours, target});
            connect(_peer.device, _qps[i].get(), ours, theirs.qp, {.timeout = timeout});
            _targets.push_back(theirs.target);
        }
        say("all connected in {:.1f} s", watch.seconds());
    }

    // On every QP a WRITE and a SEND, then a READ of what has been written.
    void transfer(unsigned round)
    {
        StopWatch watch;
        for (unsigned i = 0; i < _options.qps; ++i) {
            ibv_sge sge = sge_of(i, received);
            post_recv(_qps[i].get(), i, {&sge, 1});
            fill(slot(i, source), seed(round, i, _peer.is_client));
        }
        _peer.control.barrier();
        for (unsigned i = 0; i < _options.qps; ++i) {
            post(i, IBV_WR_RDMA_WRITE, source);
            post(i, IBV_WR_SEND_WITH_IMM, source);
        }
        expect_all(_send_cq.get(), 2);
        expect_all(_recv_cq.get(), 1);
        _peer.control.barrier(); // the peer's WRITEs are here
        for (unsigned i = 0; i < _options.qps; ++i) {
            uint64_t theirs = seed(round, i, !_peer.is_client);
            check(slot(i, received), theirs, 0, "SEND");
            check(slot(i, written), theirs, 0, "WRITE");
            poison(slot(i, received));
        }
        for (unsigned i = 0; i < _options.qps; ++i) {
            post(i, IBV_WR_RDMA_READ, received);
        }
        expect_all(_send_cq.get(), 1);
        for (unsigned i = 0; i < _options.qps; ++i) {
            check(slot(i, received), seed(round, i, _peer.is_client), 0, "READ");
        }
        _peer.control.barrier();
        say("round {}: WRITE, SEND and READ of {} bytes on each QP in {:.1f} s", round + 1, size(),
            watch.seconds());
    }

    void destroy()
    {
        StopWatch watch;
        _qps.clear();
        _regions.clear();
        say("all destroyed in {:.1f} s", watch.seconds());
    }

private:
    // What a QP's region holds.
    enum Slot { source, received, written, slots };
    struct Target {
        uint64_t address;
        uint32_t rkey;
    };
    struct Address {
        QpAddress qp;
        Target target;
    };

    size_t size() const { return _options.size; }
    // 1 s: this much at once is a strain on a host with few CPUs.
    static constexpr uint8_t timeout = 18;

    static uint64_t seed(unsigned round, unsigned qp, bool of_client)
    {
        return mix(uint64_t{round} << 33 | uint64_t{qp} << 1 | of_client);
    }
    std::span<uint8_t> slot(unsigned qp, unsigned index) const
    {
        return _memory.bytes().subspan((size_t{slots} * qp + index) * size(), size());
    }
    ibv_sge sge_of(unsigned qp, Slot index) const
    {
        return {reinterpret_cast<uint64_t>(slot(qp, index).data()),
                static_cast<uint32_t>(size()), _regions[qp]->lkey};
    }

    void post(unsigned qp, ibv_wr_opcode opcode, Slot local)
    {
        ibv_sge sge = sge_of(qp, local);
        ibv_send_wr wr{};
        wr.wr_id = qp;
        wr.opcode = opcode;
        wr.imm_data = qp;
        wr.send_flags = IBV_SEND_SIGNALED;
        wr.sg_list = &sge;
        wr.num_sge = 1;
        if (opcode != IBV_WR_SEND_WITH_IMM) {
            wr.wr.rdma = {_targets[qp].address, _targets[qp].rkey};
        }
        post_send(_qps[qp].get(), wr);
    }

    // count completions of each QP, and no other.
    void expect_all(ibv_cq* cq, unsigned count)
    {
        std::vector<unsigned> completed(_options.qps);
        for (size_t n = size_t{count} * _options.qps; n > 0; --n) {
            ibv_wc wc = next_completion(cq);
            expect(wc.wr_id < _options.qps && wc.qp_num == _qps[wc.wr_id]->qp_num,
                   "completion of request {} of QP {:#x}", wc.wr_id, wc.qp_num);
            expect(wc.status == IBV_WC_SUCCESS, "QP {}: {}", wc.wr_id,
                   ibv_wc_status_str(wc.status));
            expect(++completed[wc.wr_id] <= count, "QP {}: a completion too many", wc.wr_id);
            expect(!(wc.opcode & IBV_WC_RECV) ||
                       (wc.imm_data == wc.wr_id && wc.byte_len == size()),
                   "QP {}: received {} bytes of {}", wc.wr_id, wc.byte_len, wc.imm_data);
        }
        expect_empty(cq);
    }

    Peer& _peer;
    const ScaleOptions& _options;
    Buffer _memory;
    OwnedCq _send_cq;
    OwnedCq _recv_cq;
    std::vector<OwnedMr> _regions;
    std::vector<OwnedQp> _qps;
    std::vector<Target> _targets;
};

} // namespace

void verify_scale(Peer& peer, const ScaleOptions& options)
{
    if (options.regions > 0) {
        verify_regions(peer.device, options);
        peer.control.barrier();
    }
    if (options.qps == 0) {
        return;
    }
    Connections connections(peer, options);
    connections.create();
    connections.connect_all();
    for (unsigned round = 0; round < options.rounds; ++round) {
        connections.transfer(round);
    }
    say("holding");
    hold(options.pipe);
    peer.control.barrier();
    connections.destroy();
}

} // namespace verify
