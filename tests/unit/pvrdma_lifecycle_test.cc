// SPDX-License-Identifier: GPL-2.0-or-later
//
// What there is in the device from bring-up to reset.
#include <gtest/gtest.h>

#include "pvrdma_guest.h"

namespace rdma::test {

namespace {

bool is_empty(const ObjectCounts& counts)
{
    return counts.contexts == 0 && counts.pds == 0 && counts.mrs == 0 && counts.cqs == 0 &&
           counts.srqs == 0 && counts.qps == 0;
}

struct Objects {
    uint32_t context;
    uint32_t pd;
    uint32_t mr;
    uint32_t cq;
    uint32_t srq;
    uint32_t qp;
};

class PvrdmaLifecycle : public testing::Test {
protected:
    // One object of each kind beside the guest's own PD and CQ.
    Objects create()
    {
        Objects made{};
        made.context = guest.ask<RespHandle>(cmd_create_uc, CmdCreateUc{}).handle;
        made.pd = guest.create_pd();
        CmdCreateMr mr{.pd_handle = made.pd, .flags = mr_flag_dma};
        made.mr = guest.ask<RespCreateMr>(cmd_create_mr, mr).mr_handle;
        made.cq = guest.create_cq(16).handle;
        made.srq = guest.create_srq(16, 1).handle;
        made.qp = guest.create_qp({}).handle;
        return made;
    }

    ModelGuest guest;
};

} // namespace

TEST_F(PvrdmaLifecycle, objects_are_counted_as_they_come_and_go)
{
    guest.set_up();
    Objects made = create();
    ObjectCounts counts = guest.device.object_counts();
    EXPECT_EQ(counts.contexts, 1u);
    EXPECT_EQ(counts.pds, 2u);
    EXPECT_EQ(counts.mrs, 1u);
    EXPECT_EQ(counts.cqs, 2u);
    EXPECT_EQ(counts.srqs, 1u);
    EXPECT_EQ(counts.qps, 1u);
    guest.destroy(cmd_destroy_qp, made.qp);
    guest.destroy(cmd_destroy_srq, made.srq);
    guest.destroy(cmd_destroy_cq, made.cq);
    guest.destroy(cmd_destroy_mr, made.mr);
    guest.destroy(cmd_destroy_pd, made.pd);
    guest.destroy(cmd_destroy_uc, made.context);
    guest.destroy(cmd_destroy_cq, guest.cq.handle);
    guest.destroy(cmd_destroy_pd, guest.pd);
    EXPECT_TRUE(is_empty(guest.device.object_counts()));
}

TEST_F(PvrdmaLifecycle, what_failed_is_not_counted)
{
    guest.set_up();
    ObjectCounts before = guest.device.object_counts();
    guest.backend.failure = ENOMEM;
    EXPECT_NE(guest.post(cmd_create_pd, CmdCreatePd{}), 0u);
    EXPECT_NE(guest.destroy(cmd_destroy_pd, guest.pd), 0u);
    ObjectCounts after = guest.device.object_counts();
    EXPECT_EQ(after.pds, before.pds);
}

TEST_F(PvrdmaLifecycle, nothing_outlives_a_reset)
{
    guest.set_up();
    create();
    guest.write(reg_ctl, ctl_reset);
    EXPECT_TRUE(is_empty(guest.device.object_counts()));
    guest.set_up();
    create();
    guest.device.reset();
    EXPECT_TRUE(is_empty(guest.device.object_counts()));
}

TEST_F(PvrdmaLifecycle, nothing_outlives_a_new_shared_region)
{
    guest.set_up();
    create();
    guest.write_dsr(guest.dsr);
    EXPECT_TRUE(is_empty(guest.device.object_counts()));
}

// QEMU tells of every set_link, also of one that changes nothing.
TEST_F(PvrdmaLifecycle, the_port_has_an_event_for_each_change_of_the_link)
{
    guest.set_up();
    guest.device.link_changed();
    EXPECT_EQ(guest.stats.async_events, 0u);
    guest.host.nic.link_up = false;
    guest.device.link_changed();
    guest.device.link_changed();
    EXPECT_EQ(guest.stats.async_events, 1u);
    EXPECT_EQ(guest.async_ring().take<EventEntry>().type, +IBV_EVENT_PORT_ERR);
}

TEST_F(PvrdmaLifecycle, a_link_that_is_down_at_bring_up_is_an_event_when_it_comes_up)
{
    guest.host.nic.link_up = false;
    guest.set_up();
    guest.host.nic.link_up = true;
    guest.device.link_changed();
    EXPECT_EQ(guest.async_ring().take<EventEntry>().type, +IBV_EVENT_PORT_ACTIVE);
}

} // namespace rdma::test
