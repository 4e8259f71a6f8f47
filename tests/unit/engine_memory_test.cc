// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the engine takes of the heap, and when: packets make it allocate nothing but a queue
// pair's first READ or atomic, queue pairs that have gone leave nothing, and a queue pair has at most what
// docs/security.md says.
#include "counted_heap.h"
#include "reliable_connection.h"

namespace rdma::test {
namespace {

struct EngineMemory : Responding {
    // The allocations made while b receives a packet with these headers.
    template <typename... Header>
    size_t allocations_of(uint8_t op, Psn at, const Header&... headers)
    {
        FrameBuilder builder;
        Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
        builder.begin(path, no_vlan, op, qb.qpn, at, true, false);
        (builder.header(headers), ...);
        auto frame = builder.finish();
        size_t before = allocations;
        allocations_left = left;
        b.engine.receive(frame, network.now);
        allocations_left = SIZE_MAX;
        return allocations - before;
    }

    size_t left = SIZE_MAX; // allocations for a packet; then there is no memory
};

// While nothing can be sent, which is when most piles up.
TEST_F(EngineMemory, a_packet_makes_the_engine_allocate_nothing)
{
    Connection c;
    c.rd_atomic = 16;
    c.mtu = IBV_MTU_256;
    connect_up(c);
    b.recv_queues[qb.id];
    b.completions.reserve(16); // the test's own
    block_link();
    b.send_queues[qb.id].push_back(
        send_request(IBV_WR_RDMA_WRITE, 1, b_buffer, 0, kb.lkey, a_buffer, ka.rkey));
    b.engine.send_doorbell(qb.id);
    run(); // the link is blocked now
    constexpr uint32_t read_size = 64 * 256;
    // What the QP remembers of READs and atomics, and its answers.
    EXPECT_EQ(allocations_of(op_read_request, psn, Reth{b_buffer, kb.rkey, read_size}), 2u);
    psn += 64;
    size_t made = 0;
    for (uint32_t i = 0; i < 8; ++i) {
        if (i > 0) {
            made += allocations_of(op_read_request, psn, Reth{b_buffer, kb.rkey, read_size});
            psn += 64;
        }
        made += allocations_of(op_fetch_add, psn, AtomicEth{b_buffer, kb.rkey, 1, 0});
        ++psn;
    }
    for (uint32_t i = 0; i < 2000; ++i) {
        // No receive request; a gap; a write before a READ once more; READs in pieces.
        made += allocations_of(op_send_only, psn);
        made += allocations_of(op_write_only, psn + 5 + i, Reth{b_buffer, kb.rkey, 0});
        made += allocations_of(op_write_only, psn - 200 - i % 100, Reth{b_buffer, kb.rkey, 0});
        made += allocations_of(op_read_request, psn - 65 + i % 64, Reth{b_buffer, kb.rkey, 256});
        made += allocations_of(op_fetch_add, psn - 1, AtomicEth{b_buffer, kb.rkey, 1, 0});
        made += allocations_of(op_acknowledge, Psn(0x222222), Aeth{aeth_ack, 0});
    }
    EXPECT_EQ(made, 0u);
    b.engine.stop(network.now);
    FrameBuilder builder;
    Path path(NetworkType::ipv4, a.mac(), b.mac(), a.gid, b.gid, 0, 0, 64, 0xc000);
    builder.begin(path, no_vlan, op_send_only, qb.qpn, psn, true, false);
    auto frame = builder.finish();
    b.transmit = [](std::vector<uint8_t>) {};
    size_t before = allocations;
    b.engine.receive_stopped(frame);
    EXPECT_LE(allocations - before, 1u) << "one is the test's own, for the answer";
}

// Without memory for them a READ and an atomic are lost, as on a network, and come again.
TEST_F(EngineMemory, a_read_or_an_atomic_waits_for_memory)
{
    connect_up();
    auto value = [&] {
        uint64_t word;
        std::memcpy(&word, b.at(b_buffer), sizeof(word));
        return word;
    };
    uint64_t before = value();
    left = 0;
    allocations_of(op_read_request, psn, Reth{b_buffer, kb.rkey, 8});
    allocations_of(op_fetch_add, psn, AtomicEth{b_buffer, kb.rkey, 1, 0});
    left = 1;
    allocations_of(op_read_request, psn, Reth{b_buffer, kb.rkey, 8});
    run();
    EXPECT_TRUE(answers.empty());
    EXPECT_EQ(value(), before);
    EXPECT_EQ(b.stats.drop_overload, 3u);
    request(op_fetch_add, psn, AtomicEth{b_buffer, kb.rkey, 1, 0});
    run();
    EXPECT_EQ(answers.size(), 1u);
    EXPECT_EQ(value(), before + 1);
    EXPECT_EQ(b.state_of(qb), IBV_QPS_RTS);
}

TEST_F(EngineMemory, a_qp_that_is_destroyed_while_the_link_is_blocked_leaves_nothing)
{
    connect_up();
    block_link();
    write(psn);
    run();
    auto cycle = [&] {
        QpNumbers qp = b.create_qp(IBV_QPT_RC);
        b.engine.send_doorbell(qp.id);
        ASSERT_EQ(b.engine.destroy_qp(qp.id), 0);
    };
    for (int i = 0; i < 1024; ++i) {
        cycle();
    }
    size_t before = heap;
    for (int i = 0; i < 100'000; ++i) {
        cycle();
    }
    EXPECT_EQ(heap, before);
}

// A's end of a connection whose peer falls silent.
struct FullQueuePair : ReliableConnection {
    static constexpr uint32_t depth = 256; // max_accepted
    static constexpr uint32_t most_sges = max_sge_limit;

    static Limits limits()
    {
        Limits limits = Node::default_limits();
        limits.max_sge = most_sges;
        return limits;
    }
    // Heap bytes that the requests in node's queue take, once they have been accepted.
    size_t cost_of_posted(Node& node, QpNumbers qp)
    {
        node.transmit = [](std::vector<uint8_t>) {};
        node.engine.send_doorbell(qp.id);
        auto posted = std::exchange(node.send_queues, {});
        size_t before = heap;
        node.send_queues = posted;
        while (node.engine.run(network.now, 64)) {
        }
        EXPECT_TRUE(node.send_queues[qp.id].empty());
        node.send_queues.clear();
        return heap - before;
    }
};

// Registrations are carried out at once; the requests stay in the queue behind one that is
// not acknowledged, but not their page lists.
TEST_F(FullQueuePair, fast_registrations_do_not_keep_their_page_lists)
{
    connect_up();
    std::vector<MrKeys> regions;
    for (uint32_t i = 1; i < depth; ++i) {
        MrInit init;
        init.kind = MrInit::Kind::fast_reg;
        init.pd = a.pd;
        init.max_pages = max_fast_reg_pages;
        regions.push_back(a.engine.reg_mr(init).value());
    }
    auto& queue = a.send_queues[qa.id];
    queue.push_back(send_request(IBV_WR_RDMA_WRITE, 0, a_buffer, 8, ka.lkey, b_buffer, kb.rkey));
    for (const MrKeys& region : regions) {
        SendRequest request = send_request(wr_fast_reg, 1, 0, 0, 0);
        request.wr.num_sge = 0;
        request.fast_reg.iova = 0x100000;
        request.fast_reg.length = max_fast_reg_pages * page_size;
        request.fast_reg.key = region.lkey;
        request.fast_reg.access = IBV_ACCESS_LOCAL_WRITE;
        request.fast_reg.num_pages = max_fast_reg_pages;
        request.fast_reg.pages.fill(ram_base);
        queue.push_back(request);
    }
    size_t bytes = cost_of_posted(a, qa);
    RecordProperty("bytes", std::to_string(bytes));
    EXPECT_LE(bytes, 128u << 10);
}

// The most that a queue pair has: what docs/security.md says, from here.
TEST_F(FullQueuePair, requests_of_the_most_entries_take_what_the_docs_say)
{
    Node c(1, limits());
    Network other;
    other.add(c);
    other.add(b);
    MrKeys key = c.register_ram();
    QpInit init = c.qp_init(IBV_QPT_RC, depth);
    init.cap.max_send_sge = most_sges;
    Connection connection;
    connection.rd_atomic = 16;
    QpNumbers peer = b.create_qp(IBV_QPT_RC);
    c.create_qp(IBV_QPT_RC); // the tables' first one
    size_t before = heap;
    QpNumbers qp = c.engine.create_qp(init).value();
    connect(c, qp, b, peer, true, connection);
    size_t idle = heap - before;
    SendRequest write =
        send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 1, key.lkey, b_buffer, kb.rkey);
    // Acknowledgements open the window.
    for (int i = 0; i < 4000; ++i) {
        c.send_queues[qp.id].push_back(write);
        other.ring(c, qp.id);
        ASSERT_TRUE(other.settle());
    }
    write.wr.num_sge = most_sges;
    write.sge.fill(write.sge[0]);
    for (uint32_t i = 0; i < depth; ++i) {
        c.send_queues[qp.id].push_back(write);
    }
    size_t bytes = cost_of_posted(c, qp);
    RecordProperty("idle_bytes", std::to_string(idle));
    RecordProperty("bytes", std::to_string(bytes));
    std::printf("an idle queue pair: %zu bytes; one with %u requests of %u entries: %zu more\n",
                idle, depth, most_sges, bytes);
    EXPECT_LE(idle, 2u << 10);
    EXPECT_LE(bytes, 216u << 10);
}

} // namespace
} // namespace rdma::test
