// SPDX-License-Identifier: GPL-2.0-or-later
//
// What becomes of backends when the host's port goes down and when its RDMA device is
// removed. They change the link of the command line's first device, an rxe one, and
// put it up again.
#include <cerrno>
#include <future>

#include <fmt/format.h>

#include "backend_test.h"
#include "interface_address.h"
#include "verbs_host.h"

namespace rdma::test {
namespace {

class HostEvents : public BackendTest {
protected:
    ~HostEvents() override
    {
        pair.reset();
        shell(fmt::format("ip link set {0} up; rdma link show {1}/1 || "
                          "rdma link add {1} type rxe netdev {0}; "
                          "until ibv_devinfo -d {1} | grep -q PORT_ACTIVE; do :; done",
                          interface, device));
    }

    std::future<int> remove_device()
    {
        return std::async(std::launch::async,
                          [this] { return shell("rdma link delete " + device); });
    }

    static bool is_failed(const BackendEnd& end)
    {
        return end.has_event(IBV_EVENT_DEVICE_FATAL, 1);
    }

    std::string device = devices_under_test().front();
    std::string interface = verbs::interface_name(open_port(device)->interface_index());
};

TEST_P(HostEvents, a_link_that_goes_down_and_up_is_a_ports_event)
{
    ASSERT_EQ(shell(fmt::format("ip link set {} down", interface)), 0);
    EXPECT_TRUE(pair->run_until([&] { return a.has_event(IBV_EVENT_PORT_ERR, 1); }));
    EXPECT_EQ(a.backend->host_port()->state, IBV_PORT_DOWN);
    EXPECT_FALSE(a.has_event(IBV_EVENT_PORT_ACTIVE, 1));
    ASSERT_EQ(shell(fmt::format("ip link set {} up", interface)), 0);
    EXPECT_TRUE(pair->run_until([&] { return a.has_event(IBV_EVENT_PORT_ACTIVE, 1); }));
    EXPECT_EQ(a.backend->host_port()->state, IBV_PORT_ACTIVE);
    EXPECT_FALSE(is_failed(a));
}

// Traffic from a to b on several QPs, each request posted again when it is done.
class Removal : public HostEvents {
protected:
    struct Queue {
        BackendEnd* end;
        uint32_t qp;
        std::function<void(uint64_t wr_id)> post;
        uint64_t posted = 0;
        uint64_t done = 0;
    };

    void add_stream(ibv_qp_type type)
    {
        connect_pair(type);
        QpNumbers to = qb;
        uint32_t from = qa.id;
        queues.push_back({&b, to.id, [this, to](uint64_t wr_id) {
                              b.post_recv(to.id, recv_request(wr_id, target, 4096, b.mr.lkey));
                          }});
        queues.push_back({&a, from, [this, to, from, type](uint64_t wr_id) {
                              SendRequest request =
                                  type == IBV_QPT_UD
                                      ? datagram(b, to.qpn, Connection{}.qkey, source, 512,
                                                 a.mr.lkey)
                                      : send_request(IBV_WR_SEND, 0, source, 2048, a.mr.lkey);
                              request.wr.wr_id = wr_id;
                              a.post_send(from, request);
                          }});
    }
    // Of each queue the completions come in order.
    void count(BackendEnd& end)
    {
        for (const Completion& completion : std::exchange(end.completions, {})) {
            auto queue = std::ranges::find_if(
                queues, [&](const Queue& q) { return q.end == &end && q.qp == completion.qp; });
            ASSERT_NE(queue, queues.end());
            EXPECT_EQ(completion.wc.wr_id, queue->done);
            ++queue->done;
            ++total;
            flushed += completion.wc.status == IBV_WC_WR_FLUSH_ERR;
        }
    }
    void count()
    {
        count(a);
        count(b);
    }
    void keep_going()
    {
        count();
        for (Queue& queue : queues) {
            while (queue.posted < queue.done + in_flight) {
                queue.post(queue.posted++);
            }
        }
    }
    bool is_all_done()
    {
        count();
        return std::ranges::all_of(queues, [](const Queue& q) { return q.done == q.posted; });
    }

    static constexpr uint64_t in_flight = 32;
    std::vector<Queue> queues;
    uint64_t total = 0;
    uint64_t flushed = 0;
};

TEST_P(Removal, a_device_that_is_removed_in_mid_traffic_ends_without_a_hang)
{
    for (ibv_qp_type type : {IBV_QPT_RC, IBV_QPT_RC, IBV_QPT_UD}) {
        add_stream(type);
    }
    QpInit with_srq = b.qp_init(IBV_QPT_RC);
    with_srq.use_srq = true;
    with_srq.srq = b.backend->create_srq(b.pd, {64, 1, 0}).value();
    b.post_srq(with_srq.srq, recv_request(1, target, 64, b.mr.lkey));
    uint32_t on_srq = b.backend->create_qp(with_srq).value().id;
    ASSERT_TRUE(pair->run_until([&] {
        keep_going();
        return total >= 200;
    }));

    auto removed = remove_device();
    bool told = pair->run_until([&] {
        keep_going();
        return is_failed(a) && is_failed(b);
    });
    EXPECT_TRUE(told);
    if (!told) {
        pair.reset(); // the removal waits for it
        return;
    }
    EXPECT_TRUE(pair->run_until([&] { return is_all_done(); }));
    EXPECT_GT(flushed, 0u);
    // The host is rid of its device while there are the guest's objects still.
    EXPECT_EQ(removed.get(), 0);

    uint64_t before = flushed;
    for (Queue& queue : queues) {
        queue.post(queue.posted++);
        EXPECT_EQ(state_of(*queue.end, queue.qp), IBV_QPS_ERR);
    }
    EXPECT_TRUE(pair->run_until([&] { return is_all_done(); }));
    EXPECT_EQ(flushed, before + queues.size());
    EXPECT_EQ(error_of(b.backend->alloc_pd()), EIO);
    EXPECT_EQ(error_of(b.backend->create_cq()), EIO);
    EXPECT_EQ(error_of(b.backend->create_srq(b.pd, {64, 1, 0})), EIO);
    EXPECT_EQ(error_of(b.backend->create_qp(b.qp_init(IBV_QPT_RC))), EIO);
    EXPECT_EQ(error_of(b.register_pages(target, page_size, all_rights)), EIO);
    EXPECT_EQ(b.backend->modify_srq(with_srq.srq, {0, 0, 4}, IBV_SRQ_LIMIT), EIO);
    EXPECT_EQ(b.backend->add_gid(1, b.gid, 2, {}), EIO);
    EXPECT_EQ(to_state(b, qb.id, IBV_QPS_RESET), 0);
    EXPECT_EQ(to_init(b, qb.id, IBV_QPT_UD), EIO);
    EXPECT_EQ(b.backend->host_port()->state, IBV_PORT_DOWN);
    b.post_srq(with_srq.srq, recv_request(2, target, 64, b.mr.lkey));

    EXPECT_EQ(b.backend->destroy_qp(on_srq), 0);
    EXPECT_EQ(b.backend->destroy_srq(with_srq.srq), 0);
    for (Queue& queue : queues) {
        EXPECT_EQ(queue.end->backend->destroy_qp(queue.qp), 0);
    }
    for (BackendEnd* end : {&a, &b}) {
        EXPECT_EQ(end->backend->dereg_mr(end->mr.id), 0);
        EXPECT_EQ(end->backend->destroy_cq(end->cq), 0);
        EXPECT_EQ(end->backend->dealloc_pd(end->pd), 0);
        EXPECT_EQ(end->backend->del_gid(0), 0);
        EXPECT_EQ(std::ranges::count(end->events, IBV_EVENT_DEVICE_FATAL, &Event::type), 1);
    }
}

TEST_P(Removal, a_device_that_is_removed_can_be_reset)
{
    add_stream(IBV_QPT_RC);
    keep_going();
    auto removed = remove_device();
    bool told = pair->run_until([&] { return is_failed(a) && is_failed(b); });
    EXPECT_TRUE(told);
    if (!told) {
        pair.reset();
        return;
    }
    EXPECT_EQ(removed.get(), 0);
    a.backend->reset();
    for (ObjectKind kind : {ObjectKind::pd, ObjectKind::mr, ObjectKind::cq, ObjectKind::qp}) {
        EXPECT_EQ(a.backend->count(kind), 0u);
    }
    EXPECT_EQ(error_of(a.backend->alloc_pd()), EIO);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(HostEvents);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Removal);
INSTANTIATE_TEST_SUITE_P(Backend, HostEvents, testing::ValuesIn(host_kinds()), name_of);
INSTANTIATE_TEST_SUITE_P(Backend, Removal, testing::ValuesIn(host_kinds()), name_of);

} // namespace
} // namespace rdma::test
