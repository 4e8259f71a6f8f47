// SPDX-License-Identifier: GPL-2.0-or-later
//
// A device on the verbs backend that cannot come along with a migration, behind the C boundary.
#include <gtest/gtest.h>

#include "stand_in_host.h"
#include "whole_device.h"

namespace rdma::test {
namespace {

// A PVRDMA device with a UD QP in use, whose property on-migrate is refuse.
TEST(VerbsRefusal, a_device_that_cannot_come_along_is_not_saved)
{
    StandInHost host;
    host.add_device("alpha", {gid_of("10.0.0.1")});
    RdmaHostPortConfig port{};
    port.ibdev = "alpha";
    port.ibport = 1;
    port.gid_index = -1;
    port.peer_port = 4793;
    PvrdmaConfig config = WholeDevice::defaults();
    WholeDevice device(1, 64 << 20, config, &port);
    device.bring_up();
    uint32_t pd = device.create_pd().value();
    DeviceCq cq = device.create_cq(64, device.queue_pages(WholeDevice::cq_pages(64))).value();
    QueueShape shape{.type = qpt_ud};
    DeviceQp qp = device.create_qp(shape, pd, cq.handle, device.qp_pages(shape)).value();
    device.stop();
    EXPECT_FALSE(device.save().empty());

    device.start();
    CmdModifyQp cmd{.qp_handle = qp.handle,
                    .attr_mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY};
    cmd.attrs.qp_state = IBV_QPS_INIT;
    cmd.attrs.port_num = 1;
    ASSERT_EQ(device.execute(cmd_modify_qp, cmd), 0);
    device.stop();
    try {
        device.save();
        FAIL() << "it is saved";
    } catch (const std::runtime_error& error) {
        EXPECT_NE(std::string(error.what()).find("(datagrams): the other end is no device"),
                  std::string::npos)
            << error.what();
    }
    // It goes on here.
    device.start();
    cmd.attr_mask = IBV_QP_STATE;
    cmd.attrs.qp_state = IBV_QPS_RTR;
    EXPECT_EQ(device.execute(cmd_modify_qp, cmd), 0);
}

} // namespace
} // namespace rdma::test
