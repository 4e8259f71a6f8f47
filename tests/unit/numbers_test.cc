// SPDX-License-Identifier: GPL-2.0-or-later
//
// QP numbers and memory keys: where they begin, and when one comes again. A peer that has
// not heard of a QP's or a region's end must not reach the next one.
#include <set>

#include "engine_harness.h"

namespace rdma::test {
namespace {

constexpr unsigned uses = 1000;

Limits limits_with(uint64_t seed, bool generations = true)
{
    Limits limits = Node::default_limits();
    limits.max_qp = 4096;
    limits.max_mr = 4096;
    limits.qpn_generations = generations;
    limits.number_seed = seed;
    return limits;
}

struct Numbers : testing::TestWithParam<bool> {
    static QpNumbers use_qp(Node& node)
    {
        QpNumbers qp = node.create_qp(IBV_QPT_RC);
        EXPECT_EQ(node.engine.destroy_qp(qp.id), 0);
        return qp;
    }
    static MrKeys use_mr(Node& node)
    {
        uint64_t page = ram_base;
        MrInit init;
        init.pd = node.pd;
        init.access = IBV_ACCESS_LOCAL_WRITE;
        init.iova = ram_base;
        init.length = page_size;
        init.pages = {&page, 1};
        MrKeys keys = node.engine.reg_mr(init).value();
        EXPECT_EQ(node.engine.dereg_mr(keys.id), 0);
        return keys;
    }
};

INSTANTIATE_TEST_SUITE_P(Generations, Numbers, testing::Bool());

// [virtio-rdma CTL-9]
TEST_P(Numbers, do_not_come_again_within_a_thousand_uses)
{
    Node node(1, limits_with(0x123456789abcdef0, GetParam()));
    std::set<uint32_t> qpns, keys;
    for (unsigned i = 0; i < uses; ++i) {
        QpNumbers qp = use_qp(node);
        EXPECT_LT(qp.id, node.limits.max_qp);
        EXPECT_EQ(GetParam() ? qp.qpn & 0xffff : qp.qpn, qp.id);
        EXPECT_TRUE(qpns.insert(qp.qpn).second) << qp.qpn << " after " << i;
        MrKeys mr = use_mr(node);
        EXPECT_LE(mr.id, node.limits.max_mr);
        EXPECT_TRUE(keys.insert(mr.rkey).second) << mr.rkey << " after " << i;
    }
}

TEST_P(Numbers, begin_where_the_seed_says)
{
    std::set<uint32_t> qpns, keys;
    std::mt19937_64 random(1);
    for (unsigned i = 0; i < 50; ++i) {
        uint64_t seed = random();
        Node node(1, limits_with(seed, GetParam())), twin(2, limits_with(seed, GetParam()));
        QpNumbers qp = use_qp(node);
        MrKeys mr = use_mr(node);
        EXPECT_EQ(use_qp(twin).qpn, qp.qpn);
        EXPECT_EQ(use_mr(twin).rkey, mr.rkey);
        qpns.insert(qp.qpn);
        keys.insert(mr.rkey);
    }
    // A few of them may be the same by chance.
    EXPECT_GT(qpns.size(), 40u);
    EXPECT_GT(keys.size(), 40u);
}

// [virtio-rdma CTL-9]
TEST_P(Numbers, go_on_after_a_reset_and_a_migration)
{
    Node node(1, limits_with(0x123456789abcdef0, GetParam()));
    std::set<uint32_t> qpns, keys;
    for (unsigned i = 0; i < uses; ++i) {
        if (i % 100 == 50) {
            node.engine.stop(0);
            node.limits.number_seed += 1ull << 50; // another process
            node.migrate(0);
            node.engine.start(0);
        } else if (i % 100 == 99) {
            node.engine.reset();
            node.pd = node.engine.alloc_pd().value();
            node.cq = node.engine.create_cq().value();
        }
        QpNumbers qp = use_qp(node);
        EXPECT_TRUE(qpns.insert(qp.qpn).second) << qp.qpn << " after " << i;
        MrKeys mr = use_mr(node);
        EXPECT_TRUE(keys.insert(mr.rkey).second) << mr.rkey << " after " << i;
    }
}

TEST(NumbersAtTheLimit, are_used_again_when_there_is_no_other)
{
    Limits limits = limits_with(0xfedcba9876543210);
    limits.max_qp = 4; // two ids beside the special ones
    limits.max_mr = 2;
    Node node(1, limits);
    for (unsigned i = 0; i < 1000; ++i) {
        QpNumbers first = node.create_qp(IBV_QPT_RC), second = node.create_qp(IBV_QPT_RC);
        EXPECT_FALSE(node.engine.create_qp(node.qp_init(IBV_QPT_RC)).has_value());
        EXPECT_EQ(node.engine.destroy_qp(first.id), 0);
        EXPECT_EQ(node.engine.destroy_qp(second.id), 0);
    }
}

} // namespace
} // namespace rdma::test
