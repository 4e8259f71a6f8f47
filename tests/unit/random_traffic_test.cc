// SPDX-License-Identifier: GPL-2.0-or-later
//
// Many RC queue pairs over a network that loses, repeats, reorders and
// corrupts up to 5 % of the packets. Every run is made from its seed alone.
//
// Each QP owns a slice of both nodes' memory. What each request must leave
// there is computed as it is posted, in order; at the end, memory must equal
// that model and every request must have completed once, in order.
//
//   SEED=n traffic_test --gtest_filter=*RandomTraffic*/0    one run
#include <cstdlib>

#include "engine_harness.h"

namespace rdma::test {
namespace {

constexpr unsigned qps = 8;
constexpr uint64_t slice = 0x20000; // bytes, of each QP in each node
constexpr uint64_t half = slice / 2;
constexpr unsigned requests = 40; // of each QP

struct Flow {
    QpNumbers qp;
    uint64_t base; // of its slice in both nodes
    std::vector<uint64_t> sent_ids; // signalled ones, in order
    std::vector<std::pair<uint64_t, uint32_t>> received; // wr_id, byte_len, in order
};

// What happens to the nodes beside the network's faults.
enum class Upset {
    none,
    // Now and then one of them, or both, is stopped for up to 50 ms and goes on
    // as another engine, made from what the first saved.
    migration,
};

class Scenario {
public:
    Scenario(uint32_t seed, Upset upset) : _generator(seed), _network(seed), _upset(upset)
    {
        _network.add(_a);
        _network.add(_b);
        _ka = _a.register_ram();
        _kb = _b.register_ram();
        for (size_t i = 0; i < ram_size; ++i) {
            _a.ram[i] = static_cast<std::byte>(random());
            _b.ram[i] = static_cast<std::byte>(random());
        }
        _model_a = _a.ram;
        _model_b = _b.ram;
        _network.faults = {pick(5), pick(5), pick(5), pick(5)};
    }

    void play()
    {
        Connection c;
        c.mtu = static_cast<ibv_mtu>(1 + random() % 5);
        c.rd_atomic = static_cast<uint8_t>(1 + random() % 8);
        c.retry_cnt = 7;
        c.psn_a = random() & 0xffffff;
        c.psn_b = random() & 0xffffff;
        for (unsigned i = 0; i < qps; ++i) {
            Flow flow{_a.create_qp(IBV_QPT_RC), ram_base + i * slice, {}, {}};
            QpNumbers peer = _b.create_qp(IBV_QPT_RC);
            ASSERT_EQ(peer.id, flow.qp.id);
            connect(_a, flow.qp, _b, peer, true, c);
            _flows.push_back(flow);
        }
        for (unsigned n = 0; n < requests; ++n) {
            for (Flow& flow : _flows) {
                post(flow, n);
            }
            if (random() % 4 == 0) {
                _network.settle(static_cast<int64_t>(random() % 50'000));
            }
            if (_upset == Upset::migration && random() % 4 == 0) {
                migrate();
            }
        }
        ASSERT_TRUE(_network.settle()) << "traffic does not come to an end";
        verify();
    }

private:
    uint32_t random() { return static_cast<uint32_t>(_generator()); }
    double pick(unsigned percent) { return (random() % (percent * 100 + 1)) / 10000.0; }

    void migrate()
    {
        Node& first = random() % 2 ? _a : _b;
        Node& second = &first == &_a ? _b : _a;
        bool both = random() % 4 == 0;
        _network.stop(first);
        _network.settle(random() % 50'000'000);
        if (both) {
            _network.stop(second);
            _network.settle(random() % 50'000'000);
        }
        first.migrate(_network.now);
        _network.start(first);
        if (both) {
            _network.settle(random() % 50'000'000);
            second.migrate(_network.now);
            _network.start(second);
        }
    }

    std::byte* model(std::vector<std::byte>& ram, uint64_t address)
    {
        return ram.data() + (address - ram_base);
    }

    void post(Flow& flow, unsigned n)
    {
        static constexpr int opcodes[] = {
            IBV_WR_SEND, IBV_WR_SEND_WITH_IMM, IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM,
            IBV_WR_RDMA_READ, IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WR_ATOMIC_FETCH_AND_ADD};
        int opcode = opcodes[random() % std::size(opcodes)];
        // Sources lie in the lower half of a slice, which nothing writes;
        // every request has a target of its own in the upper half, so that
        // the order in which they are carried out cannot matter.
        constexpr uint64_t share = half / requests / 8 * 8;
        auto size = static_cast<uint32_t>(random() % (share - 8));
        uint64_t source = flow.base + random() % (half - share);
        uint64_t target = flow.base + half + n * share;
        bool atomic =
            opcode == IBV_WR_ATOMIC_CMP_AND_SWP || opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
        uint64_t id = n + 1;
        SendRequest request;
        if (atomic) {
            request = send_request(opcode, id, target, 8, _ka.lkey, target, _kb.rkey);
            uint64_t before;
            std::memcpy(&before, model(_model_b, target), 8);
            bool equal = random() % 2;
            request.wr.wr.atomic.compare_add = equal ? before : random();
            request.wr.wr.atomic.swap = random();
            uint64_t after = opcode == IBV_WR_ATOMIC_FETCH_AND_ADD
                                 ? before + request.wr.wr.atomic.compare_add
                             : request.wr.wr.atomic.compare_add == before
                                 ? request.wr.wr.atomic.swap
                                 : before;
            std::memcpy(model(_model_a, target), &before, 8);
            std::memcpy(model(_model_b, target), &after, 8);
        } else if (opcode == IBV_WR_RDMA_READ) {
            request = send_request(opcode, id, target, size, _ka.lkey, source, _kb.rkey);
            std::memcpy(model(_model_a, target), model(_model_b, source), size);
        } else {
            request = send_request(opcode, id, source, size, _ka.lkey, target, _kb.rkey);
            std::memcpy(model(_model_b, target), model(_model_a, source), size);
            if (opcode != IBV_WR_RDMA_WRITE) {
                _b.recv_queues[flow.qp.id].push_back(
                    recv_request(id, target, share, _kb.lkey));
                flow.received.emplace_back(id, size);
            }
        }
        if (size > 2 && !atomic) {
            // In two pieces.
            uint32_t first = 1 + random() % (size - 1);
            request.sge[1] = {request.sge[0].addr + first, size - first, _ka.lkey};
            request.sge[0].length = first;
            request.wr.num_sge = 2;
        }
        request.wr.imm_data = n;
        if (random() % 4 == 0) {
            request.wr.send_flags = 0;
        } else {
            flow.sent_ids.push_back(id);
        }
        _a.send_queues[flow.qp.id].push_back(request);
        _network.ring(_a, flow.qp.id);
    }

    void verify()
    {
        for (const Flow& flow : _flows) {
            std::vector<uint64_t> ids;
            for (const Completion& c : _a.completions) {
                if (c.qp == flow.qp.id) {
                    EXPECT_EQ(c.wc.status, IBV_WC_SUCCESS);
                    ids.push_back(c.wc.wr_id);
                }
            }
            EXPECT_EQ(ids, flow.sent_ids);
            std::vector<std::pair<uint64_t, uint32_t>> received;
            for (const Completion& c : _b.completions) {
                if (c.qp == flow.qp.id) {
                    EXPECT_EQ(c.wc.status, IBV_WC_SUCCESS);
                    received.emplace_back(c.wc.wr_id, c.wc.byte_len);
                }
            }
            EXPECT_EQ(received, flow.received);
        }
        EXPECT_TRUE(_a.ram == _model_a);
        EXPECT_TRUE(_b.ram == _model_b);
    }

    std::mt19937 _generator;
    Network _network;
    Upset _upset;
    Node _a{1}, _b{2};
    MrKeys _ka{}, _kb{};
    std::vector<std::byte> _model_a, _model_b;
    std::vector<Flow> _flows;
};

class RandomTraffic : public testing::TestWithParam<uint32_t> {};

constexpr uint32_t seeds_per_case = 25;

void play_seeds(uint32_t number, Upset upset)
{
    const char* only = std::getenv("SEED");
    uint32_t first = only ? static_cast<uint32_t>(std::atoi(only)) : number * seeds_per_case;
    uint32_t count = only ? 1 : seeds_per_case;
    for (uint32_t seed = first; seed < first + count; ++seed) {
        SCOPED_TRACE(testing::Message() << "SEED=" << seed);
        Scenario(seed, upset).play();
        if (testing::Test::HasFailure()) {
            return;
        }
    }
}

TEST_P(RandomTraffic, arrives_once_in_order_and_whole)
{
    play_seeds(GetParam(), Upset::none);
}

TEST_P(RandomTraffic, arrives_so_while_its_ends_migrate)
{
    play_seeds(GetParam(), Upset::migration);
}

// 250 seeds each; 1,000 with RDMA_NIGHTLY.
INSTANTIATE_TEST_SUITE_P(Seeds, RandomTraffic, testing::Range(0u, std::getenv("RDMA_NIGHTLY") ? 40u : 10u));

} // namespace
} // namespace rdma::test
