// SPDX-License-Identifier: GPL-2.0-or-later
//
// Engines in virtual time: nodes with memory of their own and a network
// between them that delays, loses, repeats, reorders and corrupts as told.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "../qp_masks.h"
#include "../requests.h"
#include "engine.h"

namespace rdma::test {

inline constexpr uint64_t ram_size = 4 << 20;
inline constexpr uint64_t ram_base = 0x100000;

struct Event {
    ibv_event_type type;
    uint32_t object;
};

// A device with an engine, whose guest is the test.
class Node final : public BackendClient, public roce::Link {
public:
    using Transmit = std::function<void(std::vector<uint8_t>)>;

    explicit Node(uint8_t node_number, const Limits& node_limits = default_limits())
        : number(node_number), limits(node_limits), ram(ram_size),
          engine(limits, memory, stats, *this)
    {
        RdmaMemoryRegion region{ram_base, ram_size, ram.data(), false};
        memory.set_table({&region, 1});
        engine.set_client(*this);
        gid.raw[10] = gid.raw[11] = 0xff;
        gid.raw[12] = 10;
        gid.raw[15] = number;
        add_gid(0, gid, 2);
        pd = engine.alloc_pd().value();
        cq = engine.create_cq().value();
    }

    static Limits default_limits()
    {
        Limits limits{};
        limits.max_qp = 1024;
        limits.max_qp_wr = 1024;
        limits.max_sge = 16;
        limits.max_cq = 1024;
        limits.max_mr = 1024;
        limits.max_mr_size = ram_size;
        limits.max_pd = 1024;
        limits.max_srq = 16;
        limits.max_srq_wr = 1024;
        limits.gid_tbl_len = 16;
        limits.max_qp_rd_atom = 16;
        limits.max_qp_init_rd_atom = 16;
        limits.qpn_generations = true;
        limits.roce_version = 2;
        return limits;
    }

    // BackendClient
    bool pull_send(uint32_t qp, SendRequest& out) override
    {
        return take(send_queues[qp], out);
    }
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
        if (id == overrun_cq) {
            return false;
        }
        completions.push_back(completion);
        return true;
    }
    void async_event(ibv_event_type type, uint32_t object) override
    {
        events.push_back({type, object});
    }

    // As if the VM had been moved to another host: a new engine, made from what
    // the stopped one saves. Memory and queues are the same.
    void migrate(int64_t now)
    {
        migration::StreamWriter writer(migration::DeviceKind::pvrdma);
        engine.save(writer);
        auto bytes = writer.finish();
        std::destroy_at(&engine);
        std::construct_at(&engine, limits, memory, stats, *this);
        engine.set_client(*this);
        engine.stop(now);
        auto stream = migration::StreamReader::open(bytes, migration::DeviceKind::pvrdma);
        ASSERT_TRUE(stream.has_value()) << stream.error();
        while (auto section = stream->next()) {
            auto status = engine.load(*section);
            ASSERT_TRUE(status.has_value()) << status.error();
        }
    }

    // Link
    bool send(std::span<const uint8_t> frame) override
    {
        transmit({frame.begin(), frame.end()});
        return link_takes_more;
    }
    Mac mac() override { return {2, 0, 0, 0, 0, number}; }
    uint32_t mtu() override { return port_mtu; }

    void add_gid(uint8_t index, const ibv_gid& address, uint32_t type)
    {
        EXPECT_EQ(engine.add_gid(index, address, type), 0);
        gids[index] = address;
    }

    // All of RAM as one region with every right; its IOVA is its GPA.
    MrKeys register_ram(int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                                     IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC)
    {
        std::vector<uint64_t> pages;
        for (uint64_t gpa = ram_base; gpa < ram_base + ram_size; gpa += page_size) {
            pages.push_back(gpa);
        }
        MrInit init;
        init.pd = pd;
        init.access = access;
        init.iova = ram_base;
        init.length = ram_size;
        init.pages = pages;
        return engine.reg_mr(init).value();
    }

    // Empty until a fast registration.
    MrKeys fast_reg_region(uint32_t pages, int access)
    {
        MrInit init;
        init.kind = MrInit::Kind::fast_reg;
        init.pd = pd;
        init.access = access;
        init.max_pages = pages;
        return engine.reg_mr(init).value();
    }

    QpInit qp_init(ibv_qp_type type, uint32_t depth = 128) const
    {
        QpInit init;
        init.type = type;
        init.pd = pd;
        init.send_cq = init.recv_cq = cq;
        init.cap = {depth, depth, 16, 16, 0};
        return init;
    }
    QpNumbers create_qp(ibv_qp_type type, uint32_t depth = 128)
    {
        return engine.create_qp(qp_init(type, depth)).value();
    }

    ibv_qp_state state_of(QpNumbers qp)
    {
        ibv_qp_attr attr{};
        Mac dmac;
        EXPECT_EQ(engine.query_qp(qp.id, attr, dmac), 0);
        return attr.qp_state;
    }

    std::byte* at(uint64_t address) { return ram.data() + (address - ram_base); }

    // The completions since the last call.
    std::vector<Completion> take_completions() { return std::exchange(completions, {}); }
    // The status of the only one since then.
    ibv_wc_status only_status()
    {
        auto done = take_completions();
        EXPECT_EQ(done.size(), 1u);
        return done.empty() ? IBV_WC_GENERAL_ERR : done[0].wc.status;
    }

    uint8_t number;
    Limits limits;
    bool stopped = false;   // by Network::stop
    bool refuses = true;    // while stopped: answers with RNR NAK
    bool link_takes_more = true; // what send() returns
    uint32_t port_mtu = 4500;
    std::vector<std::byte> ram;
    GuestMemory memory;
    Statistics stats;
    roce::Engine engine;
    ibv_gid gid{}; // of index 0
    std::map<uint8_t, ibv_gid> gids;
    uint32_t pd = 0;
    uint32_t cq = 0;
    Transmit transmit;
    std::map<uint32_t, std::deque<SendRequest>> send_queues;
    std::map<uint32_t, std::deque<RecvRequest>> recv_queues;
    std::map<uint32_t, std::deque<RecvRequest>> srq_queues;
    std::vector<Completion> completions;
    std::vector<Event> events;
    std::optional<uint32_t> overrun_cq; // takes no completions

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
};

// Chances of what may happen to a frame, each from 0 to 1.
struct Faults {
    double lose = 0;
    double repeat = 0;
    double reorder = 0;
    double corrupt = 0;
    double block = 0; // the sender's link takes no more for up to 100 microseconds
};

// Connects nodes and keeps the time.
class Network {
public:
    explicit Network(uint32_t seed = 1) : _random(seed) {}

    void add(Node& node)
    {
        _nodes.push_back(&node);
        _opens.push_back(roce::no_deadline);
        node.transmit = [this, &node](std::vector<uint8_t> frame) { carry(node, std::move(frame)); };
    }

    Faults faults;
    // Sees every frame before it is carried; false loses it.
    std::function<bool(Node& from, std::vector<uint8_t>& frame)> filter;
    // For filter to set: how much later than else the frame comes, nanoseconds.
    int64_t delay = 0;
    int64_t now = 0;

    void ring(Node& node, uint32_t qp)
    {
        node.engine.send_doorbell(qp);
        run_engines();
    }

    // The node's VM is stopped, and started again.
    void stop(Node& node)
    {
        node.engine.stop(now);
        node.stopped = true;
    }
    void start(Node& node)
    {
        node.stopped = false;
        if (node.link_takes_more) {
            node.engine.tx_ready();
        }
        node.engine.start(now);
        run_engines();
    }

    void run_engines()
    {
        for (bool more = true; more;) {
            more = false;
            for (Node* node : _nodes) {
                more |= !node->stopped && node->engine.run(now, 64);
            }
        }
    }

    // Until nothing is on its way and no timer runs, or the limit (nanoseconds
    // of virtual time) is reached; false in that case.
    bool settle(int64_t limit = 3600'000'000'000)
    {
        int64_t end = now + limit;
        for (;;) {
            run_engines();
            int64_t next = _flying.empty() ? roce::no_deadline : _flying.top().time;
            for (Node* node : _nodes) {
                if (!node->stopped) {
                    next = std::min(next, node->engine.next_deadline());
                }
            }
            next = std::min(next, std::ranges::min(_opens));
            if (next == roce::no_deadline) {
                return true;
            }
            if (next > end) {
                now = end;
                return false;
            }
            now = std::max(now, next);
            open_links();
            for (Node* node : _nodes) {
                if (!node->stopped) {
                    node->engine.advance(now);
                }
            }
            while (!_flying.empty() && _flying.top().time <= now) {
                Flying flying = _flying.top();
                _flying.pop();
                deliver(*flying.to, flying.frame);
                run_engines();
            }
        }
    }

private:
    static constexpr int64_t flight_time = 1000; // nanoseconds
    struct Flying {
        int64_t time;
        uint64_t order;
        Node* to;
        std::vector<uint8_t> frame;
        bool operator<(const Flying& other) const
        {
            return std::tie(time, order) > std::tie(other.time, other.order);
        }
    };

    // The links whose time has come take frames again.
    void open_links()
    {
        for (size_t i = 0; i < _nodes.size(); ++i) {
            if (_opens[i] <= now) {
                _opens[i] = roce::no_deadline;
                _nodes[i]->link_takes_more = true;
                if (!_nodes[i]->stopped) {
                    _nodes[i]->engine.tx_ready(); // else start() does so
                }
            }
        }
    }
    void block(Node& node)
    {
        auto i = std::ranges::find(_nodes, &node) - _nodes.begin();
        _opens[static_cast<size_t>(i)] = now + 1 + static_cast<int64_t>(_random() % 100'000);
        node.link_takes_more = false;
    }

    void deliver(Node& node, std::span<const uint8_t> frame)
    {
        if (!node.engine.wants(frame)) {
            return;
        }
        if (!node.stopped) {
            node.engine.receive(frame, now);
        } else if (node.refuses) {
            node.engine.receive_stopped(frame);
        }
    }

    bool happens(double chance)
    {
        return std::uniform_real_distribution<>(0, 1)(_random) < chance;
    }

    void carry(Node& from, std::vector<uint8_t> frame)
    {
        delay = 0;
        if (faults.block > 0 && happens(faults.block)) {
            block(from);
        }
        if ((filter && !filter(from, frame)) || happens(faults.lose)) {
            return;
        }
        if (happens(faults.corrupt)) {
            size_t bit = _random() % (frame.size() * 8);
            frame[bit / 8] = static_cast<uint8_t>(frame[bit / 8] ^ (1 << bit % 8));
        }
        int copies = happens(faults.repeat) ? 2 : 1;
        for (int i = 0; i < copies; ++i) {
            int64_t flight = flight_time + delay;
            if (happens(faults.reorder) || i > 0) {
                flight += static_cast<int64_t>(_random() % 20000);
            }
            for (Node* node : _nodes) {
                if (node != &from) {
                    _flying.push({now + flight, _order++, node, frame});
                }
            }
        }
    }

    std::vector<Node*> _nodes;
    std::vector<int64_t> _opens; // for each node: when its link takes frames again, nanoseconds
    std::mt19937 _random;
    std::priority_queue<Flying> _flying;
    uint64_t _order = 0;
};

// Attributes of a connected QP that tests change now and then.
struct Connection {
    ibv_mtu mtu = IBV_MTU_1024;
    uint8_t timeout = 8; // 1 ms
    uint8_t retry_cnt = 7;
    uint8_t rnr_retry = 7;
    uint8_t min_rnr_timer = 1; // 10 us
    uint8_t rd_atomic = 4;
    unsigned access = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
    uint32_t psn_a = 0x111111;
    uint32_t psn_b = 0x222222;
    ibv_qp_state up_to = IBV_QPS_RTS; // or RTR
    uint8_t gid_index = 0; // at both ends
    uint8_t traffic_class = 0;
    uint32_t flow_label = 0;
    uint8_t hop_limit = 64;
    uint8_t sl = 0;
};

// Carries a request out; its status.
inline ibv_wc_status carry_out(Network& network, Node& node, QpNumbers qp,
                               const SendRequest& request)
{
    node.send_queues[qp.id].push_back(request);
    network.ring(node, qp.id);
    EXPECT_TRUE(network.settle());
    return node.only_status();
}

// Brings one end of a connection to RTS (or as far as c says).
inline void connect_end(Node& node, QpNumbers qp, Node& peer, QpNumbers peer_qp, bool reliable,
                        const Connection& c, uint32_t own_psn, uint32_t peer_psn)
{
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = 1;
    attr.qp_access_flags = c.access;
    ASSERT_EQ(node.engine.modify_qp(
                  qp.id, attr,
                  IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, {}),
              0);
    attr.qp_state = IBV_QPS_RTR;
    attr.path_mtu = c.mtu;
    attr.dest_qp_num = peer_qp.qpn;
    attr.rq_psn = peer_psn;
    attr.max_dest_rd_atomic = c.rd_atomic;
    attr.min_rnr_timer = c.min_rnr_timer;
    attr.ah_attr.is_global = 1;
    attr.ah_attr.grh.dgid = peer.gids.at(c.gid_index);
    attr.ah_attr.grh.sgid_index = c.gid_index;
    attr.ah_attr.grh.traffic_class = c.traffic_class;
    attr.ah_attr.grh.flow_label = c.flow_label;
    attr.ah_attr.grh.hop_limit = c.hop_limit;
    attr.ah_attr.sl = c.sl;
    ibv_qp_type type = reliable ? IBV_QPT_RC : IBV_QPT_UC;
    ASSERT_EQ(node.engine.modify_qp(qp.id, attr, rtr_mask(type), peer.mac()), 0);
    if (c.up_to == IBV_QPS_RTR) {
        return;
    }
    attr.qp_state = IBV_QPS_RTS;
    attr.timeout = c.timeout;
    attr.retry_cnt = c.retry_cnt;
    attr.rnr_retry = c.rnr_retry;
    attr.sq_psn = own_psn;
    attr.max_rd_atomic = c.rd_atomic;
    ASSERT_EQ(node.engine.modify_qp(qp.id, attr, rts_mask(type), {}), 0);
}

inline void connect(Node& a, QpNumbers qa, Node& b, QpNumbers qb, bool reliable = true,
                    const Connection& c = {})
{
    connect_end(a, qa, b, qb, reliable, c, c.psn_a, c.psn_b);
    connect_end(b, qb, a, qa, reliable, c, c.psn_b, c.psn_a);
}

} // namespace rdma::test
