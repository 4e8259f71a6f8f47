// SPDX-License-Identifier: GPL-2.0-or-later
//
// UC queue pairs: a local error stops the send queue alone (IBTA vol. 1, 10.3.1.7), and nobody is
// told what got lost (9.8.2.2).
#include "reliable_connection.h"

namespace rdma::test {
namespace {

struct UnreliableConnection : testing::Test {
    Node a{1}, b{2};
    Network network;
    MrKeys ka = a.register_ram(), kb = b.register_ram();
    QpNumbers qa = a.create_qp(IBV_QPT_UC), qb = b.create_qp(IBV_QPT_UC);

    void SetUp() override
    {
        network.add(a);
        network.add(b);
        connect(a, qa, b, qb, false);
    }
    static SendRequest send(uint32_t lkey, uint32_t length = 100)
    {
        return send_request(IBV_WR_SEND, 1, a_buffer, length, lkey);
    }
    ibv_wc_status carry_out(Node& node, QpNumbers qp, const SendRequest& request)
    {
        return test::carry_out(network, node, qp, request);
    }
    void resume()
    {
        ibv_qp_attr attr{};
        attr.qp_state = IBV_QPS_RTS;
        ASSERT_EQ(a.engine.modify_qp(qa.id, attr, IBV_QP_STATE, {}), 0);
    }
    void post_recv(Node& node, QpNumbers qp, uint32_t lkey)
    {
        node.recv_queues[qp.id].push_back(recv_request(9, b_buffer, 0x4000, lkey));
    }
};

// [IBTA 9.9.2-3]
TEST_F(UnreliableConnection, a_send_error_leaves_the_receive_queue_alone)
{
    post_recv(a, qa, ka.lkey);
    EXPECT_EQ(carry_out(a, qa, send(ka.lkey + 1)), IBV_WC_LOC_PROT_ERR);
    EXPECT_EQ(a.state_of(qa), IBV_QPS_SQE);
    EXPECT_EQ(carry_out(a, qa, send(ka.lkey)), IBV_WC_WR_FLUSH_ERR);
    EXPECT_EQ(carry_out(b, qb, send(kb.lkey)), IBV_WC_SUCCESS);
    auto received = a.take_completions();
    ASSERT_EQ(received.size(), 1u);
    EXPECT_EQ(received[0].wc.status, IBV_WC_SUCCESS);
    resume();
    post_recv(b, qb, kb.lkey);
    EXPECT_EQ(carry_out(a, qa, send(ka.lkey)), IBV_WC_SUCCESS);
    EXPECT_EQ(b.take_completions().size(), 1u);
}

// [IBTA 9.8.2.1-2]
TEST_F(UnreliableConnection, an_operation_that_it_does_not_have_stops_the_send_queue)
{
    EXPECT_EQ(carry_out(a, qa, send_request(IBV_WR_RDMA_READ, 1, a_buffer, 8, ka.lkey, b_buffer,
                                            kb.rkey)),
              IBV_WC_LOC_QP_OP_ERR);
    EXPECT_EQ(a.state_of(qa), IBV_QPS_SQE);
}

// The first page is RAM and the others are not.
TEST_F(UnreliableConnection, goes_on_after_a_message_that_failed_in_its_middle)
{
    MrInit init;
    std::vector<uint64_t> pages{a_buffer, uint64_t{1} << 40, uint64_t{1} << 41};
    init.pd = a.pd;
    init.access = IBV_ACCESS_LOCAL_WRITE;
    init.iova = a_buffer;
    init.length = 3 * page_size;
    init.pages = pages;
    MrKeys holes = a.engine.reg_mr(init).value();
    post_recv(b, qb, kb.lkey);
    EXPECT_EQ(carry_out(a, qa, send(holes.lkey, 3 * page_size)), IBV_WC_LOC_PROT_ERR);
    EXPECT_EQ(a.state_of(qa), IBV_QPS_SQE);
    EXPECT_TRUE(b.take_completions().empty());
    resume();
    a.migrate(network.now); // a state that can be loaded
    a.engine.start(network.now);
    EXPECT_EQ(carry_out(a, qa, send(ka.lkey)), IBV_WC_SUCCESS);
    auto received = b.take_completions();
    ASSERT_EQ(received.size(), 1u);
    EXPECT_EQ(received[0].wc.byte_len, 100u);
}

} // namespace
} // namespace rdma::test
