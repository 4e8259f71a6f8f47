// SPDX-License-Identifier: GPL-2.0-or-later
//
// Calls that come back: a guest may aim an MSI message at the device's own
// registers, or at what resets or removes the device, so that raising an
// interrupt leads back into the device. At that time nothing may be half done.
#include <gtest/gtest.h>

#include <infiniband/verbs.h>

#include <memory>
#include <vector>

#include "machine.h"

namespace rdma::fuzz {

namespace {

constexpr uint64_t iova = 0x10000;

// Two RC QPs connected to each other, receives posted, the CQ armed.
struct DeviceBoundary : testing::Test {
    DeviceBoundary()
    {
        machine->bring_up();
        machine->bind_gid(0, machine->host());
        uint32_t pd = machine->create_pd();
        cq = machine->create_cq(64, cq_handle);
        lkey = machine->register_memory(pd, machine->pages(4), iova).lkey;
        for (GuestQp& qp : qps) {
            qp = machine->create_qp(qpt_rc, pd, cq_handle);
        }
        for (int i = 0; i < 2; ++i) {
            machine->connect(qps[i], qpt_rc, machine->host(), qps[1 - i].qpn, 0);
        }
        for (int i = 0; i < 8; ++i) {
            machine->post_recv(qps[1], iova, 1000, lkey);
        }
        arm();
    }

    void arm() { machine->ring(1, uar_cq_offset, uar_cq_arm | cq_handle); }
    void send()
    {
        struct {
            SqWqeHdr hdr;
            Sge sge;
        } wqe{};
        wqe.hdr.num_sge = 1;
        wqe.hdr.opcode = wr_send;
        wqe.hdr.send_flags = IBV_SEND_SIGNALED;
        wqe.sge = {iova, 700, lkey};
        machine->publish(qps[0].sq, &wqe, sizeof(wqe));
        machine->ring(1, uar_qp_offset, uar_qp_send | qps[0].handle);
    }
    unsigned completions()
    {
        unsigned count = 0;
        while (auto cqe = machine->poll(cq)) {
            count += cqe->status == IBV_WC_SUCCESS;
        }
        return count;
    }

    std::unique_ptr<Machine> machine = std::make_unique<Machine>();
    Ring cq;
    uint32_t cq_handle = 0;
    uint32_t lkey = 0;
    GuestQp qps[2];
};

} // namespace

TEST_F(DeviceBoundary, an_interrupt_aimed_at_the_devices_own_registers_is_ignored)
{
    std::vector<unsigned> raised;
    machine->on_irq = [&](unsigned vector) {
        raised.push_back(vector);
        machine->write_register(reg_ctl, ctl_reset);
        machine->write_register(reg_request, 0);
        machine->ring(1, uar_qp_offset, uar_qp_send | qps[0].handle);
        EXPECT_EQ(machine->read_register(reg_version), 0u);
    };
    send();
    EXPECT_EQ(raised, std::vector<unsigned>{vector_cq});
    machine->on_irq = nullptr;
    EXPECT_EQ(machine->read_register(reg_version), 20u) << "and heard again afterwards";
    arm();
    send();
    EXPECT_EQ(completions(), 4u);
}

TEST_F(DeviceBoundary, interrupts_come_when_nothing_is_half_done)
{
    // The message is complete at both ends, although the first completion is
    // what the interrupt was raised for.
    unsigned seen = 0;
    machine->on_irq = [&](unsigned) { seen = completions(); };
    send();
    EXPECT_EQ(seen, 2u);
}

TEST_F(DeviceBoundary, an_interrupt_may_reset_the_device)
{
    machine->on_irq = [&](unsigned) { machine->reset(); };
    send();
    machine->on_irq = nullptr;
    EXPECT_FALSE(machine->execute(cmd_create_pd, CmdCreatePd{})) << "no shared region any more";
    machine->bring_up();
    EXPECT_TRUE(machine->execute(cmd_create_pd, CmdCreatePd{}));
}

TEST_F(DeviceBoundary, an_interrupt_may_end_the_device)
{
    machine->on_irq = [&](unsigned) { machine->unplug(); };
    send();
}

// One call raises several, the first of which ends the device.
TEST_F(DeviceBoundary, no_interrupt_comes_from_a_device_that_has_ended)
{
    machine->write_register(reg_imr, ~0u); // held back
    send();
    machine->set_link(false);
    unsigned raised = 0;
    machine->on_irq = [&](unsigned) {
        ++raised;
        machine->unplug();
    };
    machine->write_register(reg_imr, 0);
    EXPECT_EQ(raised, 1u);
}

} // namespace rdma::fuzz
