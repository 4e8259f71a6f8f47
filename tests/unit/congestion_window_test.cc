// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine_harness.h"

namespace rdma::test {
namespace {

using namespace roce;

// Acknowledges whole windows, so many times.
void round_trips(CongestionWindow& window, int count)
{
    for (int i = 0; i < count; ++i) {
        window.acknowledged(window.size());
    }
}

TEST(CongestionWindow, doubles_in_each_round_trip_up_to_its_maximum)
{
    CongestionWindow window;
    EXPECT_EQ(window.size(), 16u);
    round_trips(window, 1);
    EXPECT_EQ(window.size(), 32u);
    round_trips(window, 1);
    EXPECT_EQ(window.size(), 64u);
    round_trips(window, 100);
    EXPECT_EQ(window.size(), CongestionWindow::max);
}

TEST(CongestionWindow, is_halved_by_a_loss_and_grows_by_one_then)
{
    CongestionWindow window;
    round_trips(window, 10);
    window.lost();
    EXPECT_EQ(window.size(), 128u);
    round_trips(window, 1);
    EXPECT_EQ(window.size(), 129u);
    for (uint32_t i = 0; i < 129; ++i) { // one by one
        EXPECT_EQ(window.size(), 129u);
        window.acknowledged(1);
    }
    EXPECT_EQ(window.size(), 130u);
    for (int i = 0; i < 20; ++i) {
        window.lost();
    }
    EXPECT_EQ(window.size(), 2u);
}

TEST(CongestionWindow, begins_again_with_one_after_a_timeout)
{
    CongestionWindow window;
    round_trips(window, 10);
    window.timed_out();
    EXPECT_EQ(window.size(), 1u);
    round_trips(window, 7);
    EXPECT_EQ(window.size(), 128u); // doubled each time, up to half of what was too much
    round_trips(window, 1);
    EXPECT_EQ(window.size(), 129u);
    for (int i = 0; i < 20; ++i) {
        window.timed_out();
        EXPECT_EQ(window.size(), 1u);
    }
    round_trips(window, 1000);
    EXPECT_EQ(window.size(), CongestionWindow::max);
}

// Two devices with many QPs between them.
struct ManyQps : testing::Test {
    static constexpr uint32_t num_qps = 64;
    static constexpr uint64_t depth = 256;
    static constexpr uint32_t size = 2048; // 2 packets

    Node a{1}, b{2};
    Network network;
    MrKeys ka = a.register_ram(), kb = b.register_ram();
    std::vector<QpNumbers> qa, qb;

    void SetUp() override
    {
        network.add(a);
        network.add(b);
        for (uint32_t i = 0; i < num_qps; ++i) {
            qa.push_back(a.create_qp(IBV_QPT_RC));
            qb.push_back(b.create_qp(IBV_QPT_RC));
            connect(a, qa[i], b, qb[i]);
        }
    }
    void post_writes(Node& node, const std::vector<QpNumbers>& qps, uint32_t lkey, uint32_t rkey)
    {
        for (const QpNumbers& qp : qps) {
            for (uint64_t n = 0; n < depth; ++n) {
                node.send_queues[qp.id].push_back(
                    send_request(IBV_WR_RDMA_WRITE, n, ram_base, size, lkey, ram_base, rkey));
            }
            node.engine.send_doorbell(qp.id);
        }
    }
};

// A switch with a short queue, which sends a frame each 2 us: all QPs together would
// fill it many times over.
TEST_F(ManyQps, get_through_a_short_queue)
{
    constexpr int64_t frame_time = 2000; // nanoseconds
    constexpr int64_t queue = 2048;      // frames
    int64_t busy_until = 0;
    int dropped = 0, carried = 0;
    network.filter = [&](Node& from, std::vector<uint8_t>&) {
        if (&from != &a) {
            return true;
        }
        busy_until = std::max(busy_until, network.now);
        if (busy_until - network.now >= queue * frame_time) {
            ++dropped;
            return false;
        }
        busy_until += frame_time;
        ++carried;
        network.delay = busy_until - network.now;
        return true;
    };
    post_writes(a, qa, ka.lkey, kb.rkey);
    ASSERT_TRUE(network.settle());
    auto done = a.take_completions();
    EXPECT_EQ(done.size(), num_qps * depth);
    for (const Completion& completion : done) {
        ASSERT_EQ(completion.wc.status, IBV_WC_SUCCESS);
    }
    EXPECT_GT(a.stats.retransmitted_packets, 0u); // or nothing has been tested
    // What had to be sent again is less than what there was to send.
    EXPECT_LT(carried + dropped, 2 * static_cast<int>(num_qps * depth * size / 1024));
}

// Requests of all QPs wait to be sent; the acknowledgement of one that comes does not.
TEST_F(ManyQps, acknowledge_before_they_ask)
{
    std::vector<std::vector<uint8_t>> sent;
    post_writes(b, qb, kb.lkey, ka.rkey);
    b.transmit = [&](std::vector<uint8_t> frame) { sent.push_back(std::move(frame)); };
    FrameBuilder builder;
    Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
    builder.begin(path, no_vlan, transport_rc | op_write_only, qb.back().qpn, Psn(Connection{}.psn_a), true, false);
    builder.header(Reth{ram_base, kb.rkey, 0});
    b.engine.receive(builder.finish(), network.now);
    b.engine.run(network.now, 32);
    ASSERT_EQ(sent.size(), 32u);
    constexpr size_t bth = 14 + 20 + 8;
    EXPECT_EQ(sent[0][bth], transport_rc | op_acknowledge);
    EXPECT_EQ(sent[1][bth], transport_rc | op_write_first);
}

} // namespace
} // namespace rdma::test
