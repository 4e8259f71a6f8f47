// SPDX-License-Identifier: GPL-2.0-or-later
//
// With on-migrate=error, QPs whose other end cannot be told of a migration are given up before
// memory is sent for the last time: what their peers have had acknowledged is in what is sent.
#include "../backend/backend_test.h"
#include "../backend/moving_home.h"
#include "stand_in_host.h"

namespace rdma::test {
namespace {

constexpr uint16_t peer_port = 4793;
constexpr const char* own = "127.0.5.1";
constexpr const char* foreign = "127.0.5.2"; // nobody listens there

class VerbsLastPass : public testing::Test {
protected:
    VerbsLastPass()
    {
        a.wait_events = [this] {
            home.backend->handle_events();
            return true;
        };
        qp = a.backend->create_qp(a.qp_init(IBV_QPT_RC)).value();
        ud = a.backend->create_qp(a.qp_init(IBV_QPT_UD)).value();
    }
    void SetUp() override
    {
        BackendEnd peer{small_limits()};
        peer.gid = gid_of(foreign);
        ASSERT_EQ(to_init(a, qp.id, IBV_QPT_RC), 0);
        a.post_recv(qp.id, recv_request(1, ram_base, 64, a.mr.lkey));
        ASSERT_EQ(to_rtr(a, qp.id, IBV_QPT_RC, peer, 100, psn_b), 0);
        ASSERT_EQ(to_rts(a, qp.id, IBV_QPT_RC, psn_a), 0);
        ASSERT_EQ(to_init(a, ud.id, IBV_QPT_UD), 0);
        ASSERT_EQ(to_state(a, ud.id, IBV_QPS_RTR), 0);
        a.post_recv(ud.id, recv_request(2, ram_base, 64, a.mr.lkey));
    }
    bool write()
    {
        return host.write_from_outside("alpha", home.backend->host_qpn(qp.id), a.mr.rkey, ram_base,
                                       std::as_bytes(std::span("word")));
    }
    std::vector<uint64_t> flushed() const
    {
        std::vector<uint64_t> ids;
        for (const Completion& completion : a.completions) {
            EXPECT_EQ(completion.wc.status, IBV_WC_WR_FLUSH_ERR);
            ids.push_back(completion.wc.wr_id);
        }
        std::ranges::sort(ids);
        return ids;
    }

    struct Network : StandInHost {
        Network() { add_device("alpha", {gid_of(own)}); }
    };
    Network host;
    BackendEnd a{small_limits()};
    Home home{a, "alpha", peer_port, true};
    QpNumbers qp{};
    QpNumbers ud{};
};

TEST_F(VerbsLastPass, a_qp_that_cannot_come_along_is_given_up_before_it)
{
    EXPECT_EQ(home.backend->migration_obstacle(), std::nullopt);
    home.backend->stop();
    // In a pause it goes on.
    EXPECT_TRUE(write());
    EXPECT_TRUE(a.events.empty());

    home.backend->finish_migration();
    EXPECT_FALSE(write());
    EXPECT_EQ(host.qp_state("alpha", home.backend->host_qpn(ud.id)), IBV_QPS_ERR);
    EXPECT_TRUE(home.backend->is_stopped());
    EXPECT_TRUE(a.has_event(IBV_EVENT_QP_FATAL, qp.id));
    EXPECT_TRUE(a.has_event(IBV_EVENT_QP_FATAL, ud.id));
    EXPECT_EQ(flushed(), (std::vector<uint64_t>{1, 2}));

    // Once is enough, at the destination too.
    arrive(home, saved_state(home));
    EXPECT_EQ(state_of(a, qp.id), IBV_QPS_ERR);
    EXPECT_EQ(state_of(a, ud.id), IBV_QPS_ERR);
    EXPECT_EQ(a.events.size(), 2u);
    EXPECT_EQ(a.completions.size(), 2u);
}

TEST_F(VerbsLastPass, what_the_device_wrote_in_a_pause_is_reported)
{
    std::vector<uint64_t> dirty;
    home.backend->stop();
    a.memory.set_dirty_log(
        true,
        [](void* opaque, uint64_t gpa, uint64_t) {
            static_cast<std::vector<uint64_t>*>(opaque)->push_back(gpa);
        },
        &dirty);
    home.backend->finish_migration();
    EXPECT_NE(std::ranges::find(dirty, ram_base), dirty.end());
    a.memory.set_dirty_log(false, nullptr, nullptr);
}

} // namespace
} // namespace rdma::test
