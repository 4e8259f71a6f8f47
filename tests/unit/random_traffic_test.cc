// SPDX-License-Identifier: GPL-2.0-or-later
//
// Many RC and UC queue pairs, over which both ends post at once, on a network that loses, repeats,
// reorders and corrupts packets and whose links block. Every run is made from its seed alone.
//
// Each direction of a QP has an area of its own in both nodes' memory. What each request must leave
// there is computed as it is posted, in order; at the end, memory must equal that model and every
// request must have completed once, in order. Of UC, messages may be missing.
//
//   SEED=n traffic_test --gtest_filter=*RandomTraffic*/0    one run
#include <cstdlib>
#include <set>

#include "engine_harness.h"

namespace rdma::test {
namespace {

constexpr unsigned reliable_qps = 5;
constexpr unsigned qps = reliable_qps + 2; // the others are UC
constexpr unsigned requests = 36;         // of each direction, beside those that manage memory
constexpr uint64_t area = 0x40000;        // bytes, of each direction in each node
// Sources of data lie in the lower half of an area, which nothing writes; every request has a share
// of the upper half, so that the order in which requests are carried out cannot matter.
constexpr uint64_t half = area / 2;
constexpr uint64_t share = half / requests / 8 * 8;
constexpr uint64_t counter = ram_base + qps * 2 * area; // which all FETCH_ADDs of a node's peer share
constexpr uint64_t receive_id = uint64_t{1} << 63;      // in the wr_id of receive requests
constexpr int all_rights = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                           IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

// One end of all the connections.
struct Side {
    explicit Side(uint8_t number) : node(number), all(node.register_ram()) {}

    std::byte* expected(uint64_t address) { return model.data() + (address - ram_base); }

    Node node;
    MrKeys all;
    std::vector<std::byte> model; // what memory must be in the end
    size_t seen = 0;              // completions
    // FETCH_ADDs on the counter here: where its peer gets the value before, and what was added.
    std::vector<std::pair<uint64_t, uint64_t>> added;
};

// A region for fast registrations of an area, at addresses that are not physical ones.
struct FastRegion {
    enum class State { invalid, registering, valid, closing } state = State::invalid;
    uint32_t key = 0;
    uint64_t iova = 0;       // of the area's first byte
    uint64_t registered = 0; // wr_id of its registration
    uint64_t last_use = 0;   // wr_id of the last request with its key

    // The consumer's byte of the key is another one for each registration.
    void invalidated()
    {
        state = State::invalid;
        key = (key & ~0xffu) | ((key + 1) & 0xff);
    }
};

struct Received {
    uint64_t wr_id;
    uint32_t byte_len;
    uint32_t immediate;   // 0 without one
    uint32_t invalidated; // a key, 0 without one
    bool operator==(const Received&) const = default;
};

// What from posts to to on one QP.
struct Direction {
    Side* from;
    Side* to;
    Direction* reverse;
    uint32_t qp; // its id, at both ends
    bool reliable;
    uint64_t base; // of its area, in both nodes

    uint64_t next_id = 1;
    std::vector<uint64_t> signalled, sent; // wr_ids that must complete, that have completed
    std::deque<RecvRequest> held;          // to be posted a little later
    std::vector<Received> expected, received;
    FastRegion local;  // of from, whose key its own requests use
    FastRegion remote; // of to, which to registers, and either end invalidates
    // UC
    struct Message {
        bool write;
        uint32_t size;
    };
    std::map<uint32_t, Message> messages; // by their numbers
    std::vector<uint64_t> posted;         // wr_ids of receive requests

    uint64_t source(unsigned n) const { return base + n * share; }
    uint64_t target(uint64_t n) const { return base + half + n * share; }
    uint64_t completed() const { return sent.empty() ? 0 : sent.back(); }
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
        for (Side* side : {&_a, &_b}) {
            _network.add(side->node);
            for (std::byte& byte : side->node.ram) {
                byte = static_cast<std::byte>(random());
            }
        }
        _network.faults = {pick(5), pick(5), pick(5), pick(5), one_in(2) ? pick(10) : 0};
        if (one_in(3)) {
            _network.faults.repeat = _network.faults.reorder = 0; // UC must stay in order
        }
    }

    void set_loss(double chance) { _network.faults.lose = chance; }

    void play()
    {
        connect_all();
        for (Side* side : {&_a, &_b}) {
            side->model = side->node.ram;
        }
        for (unsigned n = 0; n < requests; ++n) {
            for (Direction& direction : _directions) {
                post(direction, n);
            }
            for (unsigned i = 0; i < qps; ++i) {
                _a.node.engine.send_doorbell(_directions[2 * i].qp);
                _b.node.engine.send_doorbell(_directions[2 * i].qp);
            }
            _network.run_engines();
            if (one_in(2)) {
                _network.settle(random() % 50'000);
            }
            if (_upset == Upset::migration && one_in(4)) {
                migrate();
            }
            observe();
            for (Direction& direction : _directions) {
                if (one_in(2)) {
                    post_held(direction);
                }
            }
        }
        for (Direction& direction : _directions) {
            post_held(direction);
        }
        ASSERT_TRUE(_network.settle()) << "traffic does not come to an end";
        observe();
        verify();
    }

private:
    uint32_t random() { return static_cast<uint32_t>(_generator()); }
    bool one_in(uint32_t n) { return random() % n == 0; }
    double pick(unsigned percent) { return (random() % (percent * 100 + 1)) / 10000.0; }

    void connect_all()
    {
        Connection c;
        c.mtu = static_cast<ibv_mtu>(1 + random() % 5);
        c.rd_atomic = static_cast<uint8_t>(1 + random() % 8);
        c.retry_cnt = 7;
        c.psn_a = random() & 0xffffff;
        c.psn_b = random() & 0xffffff;
        _mtu = 128u << c.mtu;
        _directions.reserve(std::size_t{2} * qps);
        for (unsigned i = 0; i < qps; ++i) {
            bool reliable = i < reliable_qps;
            ibv_qp_type type = reliable ? IBV_QPT_RC : IBV_QPT_UC;
            QpNumbers at_a = _a.node.create_qp(type), at_b = _b.node.create_qp(type);
            ASSERT_EQ(at_b.id, at_a.id);
            connect(_a.node, at_a, _b.node, at_b, reliable, c);
            uint64_t base = ram_base + 2 * i * area;
            add_direction(_a, _b, at_a.id, reliable, base);
            add_direction(_b, _a, at_a.id, reliable, base + area);
            Direction *forth = &_directions.at(2 * i), *back = forth + 1;
            forth->reverse = back;
            back->reverse = forth;
        }
    }

    void add_direction(Side& from, Side& to, uint32_t qp, bool reliable, uint64_t base)
    {
        Direction& d = _directions.emplace_back();
        d.from = &from;
        d.to = &to;
        d.qp = qp;
        d.reliable = reliable;
        d.base = base;
        d.local.key = from.node.fast_reg_region(area / page_size, all_rights).lkey;
        d.local.iova = base + 0x5000'0000'0000;
        d.remote.key = to.node.fast_reg_region(area / page_size, all_rights).rkey;
        d.remote.iova = base + 0x7000'0000'0000;
        if (!reliable) {
            // Messages tell their numbers.
            for (uint32_t n = 0; n < requests; ++n) {
                std::memcpy(from.node.at(d.source(n)), &n, sizeof(n));
            }
        }
    }

    void migrate()
    {
        Node& first = one_in(2) ? _a.node : _b.node;
        Node& second = &first == &_a.node ? _b.node : _a.node;
        bool both = one_in(4);
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

    void post(Direction& d, unsigned n)
    {
        manage_local(d);
        if (d.reliable) {
            manage_remote(d);
            post_reliable(d, n);
        } else {
            post_unreliable(d, n);
        }
    }

    uint64_t push(Direction& d, SendRequest request, bool always_signalled = false)
    {
        request.wr.wr_id = d.next_id++;
        if (!always_signalled && one_in(4)) {
            request.wr.send_flags &= ~unsigned{IBV_SEND_SIGNALED};
        } else {
            d.signalled.push_back(request.wr.wr_id);
        }
        d.from->node.send_queues[d.qp].push_back(request);
        return request.wr.wr_id;
    }

    static SendRequest registration(const Direction& d, const FastRegion& region)
    {
        SendRequest request =
            fast_registration(0, region.key, region.iova, uint32_t{area}, {}, all_rights);
        request.fast_reg.num_pages = area / page_size;
        for (uint32_t i = 0; i < request.fast_reg.num_pages; ++i) {
            request.fast_reg.pages.at(i) = d.base + i * page_size;
        }
        return request;
    }
    static SendRequest invalidation(uint32_t key)
    {
        SendRequest request;
        request.opcode = IBV_WR_LOCAL_INV;
        request.wr.send_flags = IBV_SEND_SIGNALED;
        request.wr.invalidate_rkey = key;
        return request;
    }

    // Requests between the registration and the invalidation may use the key: all are in one queue.
    void manage_local(Direction& d)
    {
        if (d.local.state == FastRegion::State::invalid && one_in(4)) {
            push(d, registration(d, d.local));
            d.local.state = FastRegion::State::valid;
        } else if (d.local.state == FastRegion::State::valid && one_in(4)) {
            push(d, invalidation(d.local.key));
            d.local.invalidated();
        }
    }

    // The peer may use the key from the registration's completion on. It invalidates it itself
    // (post_send()), or its owner does, when no request with it is outstanding.
    void manage_remote(Direction& d)
    {
        if (d.remote.state == FastRegion::State::invalid && one_in(4)) {
            d.remote.registered = push(*d.reverse, registration(d, d.remote), true);
            d.remote.state = FastRegion::State::registering;
        } else if (d.remote.state == FastRegion::State::valid &&
                   d.remote.last_use <= d.completed() && one_in(6)) {
            push(*d.reverse, invalidation(d.remote.key));
            d.remote.invalidated();
        }
    }

    ibv_sge local_sge(const Direction& d, uint64_t address, uint32_t length)
    {
        if (d.local.state == FastRegion::State::valid && one_in(2)) {
            return {d.local.iova + (address - d.base), length, d.local.key};
        }
        return {address, length, d.from->all.lkey};
    }
    // What comes from or goes to address here; in one piece or two.
    SendRequest request_at(const Direction& d, int opcode, uint64_t address, uint32_t length,
                           uint64_t remote)
    {
        uint32_t rkey = d.to->all.rkey;
        if (d.remote.state == FastRegion::State::valid && one_in(2)) {
            remote += d.remote.iova - d.base;
            rkey = d.remote.key;
        }
        SendRequest request = send_request(opcode, 0, address, length, 0, remote, rkey);
        request.sge[0] = local_sge(d, address, length);
        if (length > 8 && one_in(2)) {
            uint32_t first = 1 + random() % (length - 1);
            request.sge[1] = local_sge(d, address + first, length - first);
            request.sge[0].length = first;
            request.wr.num_sge = 2;
        }
        return request;
    }
    static uint32_t rkey_of(const SendRequest& request, bool atomic)
    {
        return atomic ? request.wr.wr.atomic.rkey : request.wr.wr.rdma.rkey;
    }

    void post_reliable(Direction& d, unsigned n)
    {
        static constexpr int opcodes[] = {
            IBV_WR_SEND,      IBV_WR_SEND_WITH_IMM,      IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM,
            IBV_WR_RDMA_READ, IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WR_ATOMIC_FETCH_AND_ADD};
        int opcode = opcodes[random() % std::size(opcodes)];
        bool atomic = opcode == IBV_WR_ATOMIC_CMP_AND_SWP || opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
        auto size = static_cast<uint32_t>(random() % (share - 8));
        uint64_t source = d.base + random() % (half - share);
        uint64_t target = d.target(n);
        SendRequest request;
        if (atomic) {
            request = post_atomic(d, opcode, target);
        } else if (opcode == IBV_WR_RDMA_READ) {
            request = request_at(d, opcode, target, size, source);
            std::memcpy(d.from->expected(target), d.to->expected(source), size);
        } else {
            request = request_at(d, opcode, source, size, target);
            std::memcpy(d.to->expected(target), d.from->expected(source), size);
        }
        bool remote_use = opcode != IBV_WR_SEND && opcode != IBV_WR_SEND_WITH_IMM &&
                          rkey_of(request, atomic) == d.remote.key;
        if (opcode == IBV_WR_SEND && d.remote.state == FastRegion::State::valid && one_in(2)) {
            // Fenced: a READ with the key that it takes back must have all its data.
            request.opcode = IBV_WR_SEND_WITH_INV;
            request.wr.invalidate_rkey = d.remote.key;
            request.wr.send_flags |= IBV_SEND_FENCE;
            d.remote.state = FastRegion::State::closing;
        } else if (!atomic) {
            request.wr.imm_data = n;
        }
        if (opcode == IBV_WR_SEND || opcode == IBV_WR_SEND_WITH_IMM ||
            opcode == IBV_WR_RDMA_WRITE_WITH_IMM) {
            bool immediate = opcode != IBV_WR_SEND;
            bool invalidates = request.opcode == IBV_WR_SEND_WITH_INV;
            d.held.push_back(recv_request(receive_id | n, target, share, d.to->all.lkey));
            d.expected.push_back(
                {receive_id | n, size, immediate ? n : 0, invalidates ? d.remote.key : 0});
            if (!one_in(4)) {
                post_held(d);
            }
        }
        uint64_t id = push(d, request);
        if (remote_use) {
            d.remote.last_use = id;
        }
    }

    SendRequest post_atomic(Direction& d, int opcode, uint64_t target)
    {
        bool counts = opcode == IBV_WR_ATOMIC_FETCH_AND_ADD && one_in(2);
        uint64_t operand = counts ? counter : target;
        SendRequest request = request_at(d, opcode, target, 8, operand);
        if (counts) {
            request.wr.wr.atomic.remote_addr = counter; // beyond the fast region
            request.wr.wr.atomic.rkey = d.to->all.rkey;
            request.wr.wr.atomic.compare_add = 1 + random() % 1000;
            d.to->added.emplace_back(target, request.wr.wr.atomic.compare_add);
            return request;
        }
        uint64_t before;
        std::memcpy(&before, d.to->expected(target), 8);
        request.wr.wr.atomic.compare_add = one_in(2) ? before : random();
        request.wr.wr.atomic.swap = random();
        uint64_t after = opcode == IBV_WR_ATOMIC_FETCH_AND_ADD
                             ? before + request.wr.wr.atomic.compare_add
                         : request.wr.wr.atomic.compare_add == before ? request.wr.wr.atomic.swap
                                                                      : before;
        std::memcpy(d.from->expected(target), &before, 8);
        std::memcpy(d.to->expected(target), &after, 8);
        return request;
    }

    void post_unreliable(Direction& d, unsigned n)
    {
        static constexpr int opcodes[] = {IBV_WR_SEND, IBV_WR_SEND_WITH_IMM, IBV_WR_RDMA_WRITE,
                                          IBV_WR_RDMA_WRITE_WITH_IMM};
        int opcode = opcodes[random() % std::size(opcodes)];
        bool write = opcode == IBV_WR_RDMA_WRITE || opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
        auto size = static_cast<uint32_t>(sizeof(uint32_t) + random() % (share - 8));
        SendRequest request = request_at(d, opcode, d.source(n), size, d.target(n));
        request.wr.imm_data = n;
        d.messages[n] = {write, size};
        if (opcode != IBV_WR_RDMA_WRITE) {
            // Of its own, where a WRITE may have the share n.
            uint64_t buffer = write ? d.source(n) : d.target(n);
            d.held.push_back(recv_request(receive_id | n, buffer, share, d.to->all.lkey));
            d.posted.push_back(receive_id | n);
            if (!one_in(8)) {
                post_held(d);
            }
        }
        push(d, request);
    }

    void post_held(Direction& d)
    {
        auto& queue = d.to->node.recv_queues[d.qp];
        queue.insert(queue.end(), d.held.begin(), d.held.end());
        d.held.clear();
    }

    // What has completed since the last time.
    void observe()
    {
        for (Side* side : {&_a, &_b}) {
            for (; side->seen < side->node.completions.size(); ++side->seen) {
                take(*side, side->node.completions[side->seen]);
            }
        }
    }
    void take(Side& side, const Completion& c)
    {
        EXPECT_EQ(c.wc.status, IBV_WC_SUCCESS) << "of QP " << c.qp << ", request " << c.wc.wr_id;
        bool receive = c.wc.wr_id & receive_id;
        for (Direction& d : _directions) {
            if (d.qp != c.qp || (receive ? d.to : d.from) != &side) {
                continue;
            }
            if (!receive) {
                d.sent.push_back(c.wc.wr_id);
                FastRegion& region = d.reverse->remote;
                if (region.state == FastRegion::State::registering &&
                    region.registered == c.wc.wr_id) {
                    region.state = FastRegion::State::valid;
                }
                continue;
            }
            bool immediate = c.wc.wc_flags & IBV_WC_WITH_IMM;
            bool invalidates = c.wc.wc_flags & IBV_WC_WITH_INV;
            d.received.push_back({c.wc.wr_id, c.wc.byte_len, immediate ? c.wc.imm_data : 0,
                                  invalidates ? c.wc.invalidated_rkey : 0});
            if (invalidates) {
                d.remote.invalidated();
            }
            if (!d.reliable) {
                take_message(d, c);
            }
        }
    }

    // A message over UC: whole, and where packets come in order, after those before it.
    void take_message(Direction& d, const Completion& c)
    {
        uint64_t at = c.wc.wr_id & ~receive_id;
        uint32_t number = c.wc.imm_data;
        bool write = c.wc.opcode == IBV_WC_RECV_RDMA_WITH_IMM;
        if (!(c.wc.wc_flags & IBV_WC_WITH_IMM)) {
            std::memcpy(&number, d.to->node.at(buffer_of(d, at)), sizeof(number));
        }
        auto found = d.messages.find(number);
        ASSERT_NE(found, d.messages.end()) << number;
        EXPECT_EQ(found->second.write, write);
        EXPECT_EQ(found->second.size, c.wc.byte_len);
        uint64_t data = write ? d.target(number) : buffer_of(d, at);
        EXPECT_EQ(std::memcmp(d.to->node.at(data), d.from->expected(d.source(number)), c.wc.byte_len),
                  0)
            << "message " << number << " is not whole";
        if (_network.faults.repeat == 0 && _network.faults.reorder == 0) {
            EXPECT_TRUE(_numbers[&d].empty() || *_numbers[&d].rbegin() < number);
            _numbers[&d].insert(number);
        }
    }
    // Where receive request n of a UC QP has its buffer.
    static uint64_t buffer_of(const Direction& d, uint64_t n)
    {
        return d.messages.at(static_cast<uint32_t>(n)).write ? d.source(static_cast<unsigned>(n))
                                                             : d.target(n);
    }

    void verify()
    {
        for (Direction& d : _directions) {
            SCOPED_TRACE(testing::Message() << (d.from == &_a ? "from a" : "from b") << ", QP " << d.qp);
            EXPECT_EQ(d.sent, d.signalled);
            if (d.reliable) {
                EXPECT_TRUE(d.received == d.expected);
            } else {
                verify_unreliable(d);
            }
        }
        for (Side* side : {&_a, &_b}) {
            verify_counter(*side, side == &_a ? _b : _a);
        }
        for (Side* side : {&_a, &_b}) {
            EXPECT_TRUE(side->node.ram == side->model);
        }
    }

    // Receive requests were used in order, and of a WRITE the beginning came, in whole packets.
    void verify_unreliable(Direction& d)
    {
        ASSERT_LE(d.received.size(), d.posted.size());
        for (size_t i = 0; i < d.received.size(); ++i) {
            EXPECT_EQ(d.received[i].wr_id, d.posted[i]);
        }
        for (const auto& [n, message] : d.messages) {
            std::byte* target = d.to->node.at(d.target(n));
            if (message.write) {
                const std::byte* source = d.from->expected(d.source(n));
                std::byte* expected = d.to->expected(d.target(n));
                for (uint32_t i = 0; i < message.size; i += _mtu) {
                    uint32_t packet = std::min(_mtu, message.size - i);
                    if (std::memcmp(target + i, source + i, packet) != 0) {
                        break;
                    }
                    std::memcpy(expected + i, source + i, packet);
                }
            }
        }
        // What lies in a receive buffer was looked at when it completed.
        for (uint64_t id : d.posted) {
            uint64_t buffer = buffer_of(d, id & ~receive_id);
            std::memcpy(d.to->expected(buffer), d.to->node.at(buffer), share);
        }
    }

    // Each FETCH_ADD on the counter found what another one had left, from the first value on.
    void verify_counter(Side& side, Side& peer)
    {
        std::map<uint64_t, uint64_t> steps;
        for (auto [target, addend] : side.added) {
            uint64_t before;
            std::memcpy(&before, peer.node.at(target), 8);
            EXPECT_TRUE(steps.emplace(before, addend).second) << "two have found " << before;
            std::memcpy(peer.expected(target), &before, 8);
        }
        uint64_t value;
        std::memcpy(&value, side.expected(counter), 8);
        for (auto step = steps.find(value); step != steps.end(); step = steps.find(value)) {
            value += step->second;
            steps.erase(step);
        }
        EXPECT_TRUE(steps.empty()) << steps.size() << " FETCH_ADDs are lost";
        std::memcpy(side.expected(counter), &value, 8);
    }

    std::mt19937 _generator;
    Network _network;
    Upset _upset;
    Side _a{1}, _b{2};
    uint32_t _mtu = 0;
    std::vector<Direction> _directions;
    std::map<const Direction*, std::set<uint32_t>> _numbers; // of messages that came over UC
};

class RandomTraffic : public testing::TestWithParam<uint32_t> {};

constexpr uint32_t seeds_per_case = 25;

void play_seeds(uint32_t number, Upset upset, double loss = -1)
{
    const char* only = std::getenv("SEED");
    uint32_t first = only ? static_cast<uint32_t>(std::atoi(only)) : number * seeds_per_case;
    uint32_t count = only ? 1 : seeds_per_case;
    for (uint32_t seed = first; seed < first + count; ++seed) {
        SCOPED_TRACE(testing::Message() << "SEED=" << seed);
        Scenario scenario(seed, upset);
        if (loss >= 0) {
            scenario.set_loss(loss);
        }
        scenario.play();
        if (testing::Test::HasFailure()) {
            return;
        }
    }
}

// [IBTA 9.4.5-3] [IBTA 9.5-3] [IBTA 9.7.5.1.2-1] [IBTA 9.8.2.1-1] [IBTA 9.8.2.2-2]
TEST_P(RandomTraffic, arrives_once_in_order_and_whole)
{
    play_seeds(GetParam(), Upset::none);
}

TEST_P(RandomTraffic, arrives_so_where_five_percent_are_lost)
{
    play_seeds(GetParam(), Upset::none, 0.05);
}

TEST_P(RandomTraffic, arrives_so_while_its_ends_migrate)
{
    play_seeds(GetParam(), Upset::migration);
}

// 100 seeds each; 1,000 with RDMA_NIGHTLY.
INSTANTIATE_TEST_SUITE_P(Seeds, RandomTraffic, testing::Range(0u, std::getenv("RDMA_NIGHTLY") ? 40u : 4u));

} // namespace
} // namespace rdma::test
