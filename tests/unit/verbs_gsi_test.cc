// SPDX-License-Identifier: GPL-2.0-or-later
//
// The GSI QP of the verbs backend, on the stand-in for a host's devices: it has no QP of
// the host's.
#include "../backend/backend_test.h"
#include "../backend/verbs_host.h"
#include "stand_in_host.h"

namespace rdma::test {
namespace {

class VerbsGsi : public testing::Test {
protected:
    VerbsGsi()
    {
        backend.set_client(end);
        end.gid = address;
        end.set_up(backend);
    }

    static std::shared_ptr<verbs::HostPort> open_in(StandInHost& host)
    {
        host.add_device("alpha", {address});
        return open_port("alpha");
    }

    // Ready to send.
    uint32_t create_gsi()
    {
        QpInit init = end.qp_init(IBV_QPT_UD);
        init.gsi = true;
        uint32_t gsi = backend.create_qp(init).value().id;
        EXPECT_EQ(to_init(end, gsi, IBV_QPT_UD), 0);
        EXPECT_EQ(to_state(end, gsi, IBV_QPS_RTR), 0);
        EXPECT_EQ(to_rts(end, gsi, IBV_QPT_UD, psn_a), 0);
        return gsi;
    }

    static inline const ibv_gid address = gid_of("127.0.4.1");
    StandInHost host;
    std::shared_ptr<verbs::HostPort> port = open_in(host);
    BackendEnd end{small_limits()};
    verbs::VerbsBackend backend{port, end.limits, end.memory, end.stats, print_log};
};

TEST_F(VerbsGsi, fails_when_its_completion_queue_overruns)
{
    uint32_t gsi = create_gsi();
    end.full_cq = end.cq;
    end.post_send(gsi, datagram(end, 1, 0x80010000, ram_base, verbs::mad_size, end.mr.lkey));
    EXPECT_TRUE(end.has_event(IBV_EVENT_QP_FATAL, gsi));
    EXPECT_EQ(state_of(end, gsi), IBV_QPS_ERR);
    EXPECT_TRUE(end.completions.empty());

    // It can be used again, with another CQ.
    EXPECT_EQ(backend.destroy_qp(gsi), 0);
    end.cq = backend.create_cq().value();
    uint32_t again = create_gsi();
    end.post_send(again, datagram(end, 1, 0x80010000, ram_base, verbs::mad_size, end.mr.lkey));
    ASSERT_EQ(end.completions.size(), 1u);
    EXPECT_EQ(end.completions[0].wc.status, IBV_WC_SUCCESS);
}

} // namespace
} // namespace rdma::test
