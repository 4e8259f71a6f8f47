// SPDX-License-Identifier: GPL-2.0-or-later
//
// Registers, interrupts and bring-up.
#include <gtest/gtest.h>

#include "pvrdma_guest.h"

namespace rdma::test {

namespace {

struct PvrdmaRegisters : testing::Test {
    ModelGuest guest;
};
struct PvrdmaBringUp : testing::Test {
    // ERR after the shared region has been set.
    uint32_t error()
    {
        guest.write_dsr(guest.dsr);
        return guest.read(reg_err);
    }
    ModelGuest guest;
};
struct PvrdmaInterrupts : testing::Test {
    PvrdmaInterrupts() { guest.set_up(); }
    void event() { guest.device.async_event(IBV_EVENT_PORT_ERR, 1); }
    ModelGuest guest;
};

} // namespace

TEST_F(PvrdmaRegisters, version_is_the_configured_one)
{
    EXPECT_EQ(guest.read(reg_version), 20u);
}

TEST_F(PvrdmaRegisters, mac_is_the_nics)
{
    EXPECT_EQ(guest.read(reg_mac_low), 0x12005452u);
    EXPECT_EQ(guest.read(reg_mac_high), 0x5634u);
    guest.write(reg_mac_low, 0);
    EXPECT_EQ(guest.read(reg_mac_low), 0x12005452u);
}

TEST_F(PvrdmaRegisters, an_unknown_register_reads_0_and_is_counted)
{
    EXPECT_EQ(guest.read(0x28), 0u);
    EXPECT_EQ(guest.read(2), 0u);
    EXPECT_EQ(guest.read(4092), 0u);
    guest.write(0x28, 1);
    EXPECT_EQ(guest.stats.guest_register_errors, 4u);
}

TEST_F(PvrdmaRegisters, another_size_than_4_is_refused)
{
    EXPECT_EQ(guest.device.bar_read(PVRDMA_BAR_REGS, reg_version, 1), 0u);
    guest.device.bar_write(PVRDMA_BAR_REGS, reg_imr, 0, 8);
    EXPECT_EQ(guest.read(reg_imr), ~0u);
    EXPECT_EQ(guest.stats.guest_register_errors, 2u);
}

TEST_F(PvrdmaRegisters, a_guest_cannot_fill_the_log)
{
    for (int i = 0; i < 1000; ++i) {
        guest.write(0x100, 0);
    }
    EXPECT_EQ(guest.stats.guest_register_errors, 1000u);
    EXPECT_LE(guest.host.logged.size(), 20u);
}

TEST_F(PvrdmaRegisters, an_unknown_control_request_is_an_error)
{
    guest.bring_up();
    guest.write(reg_ctl, 3);
    EXPECT_EQ(guest.read(reg_err), static_cast<uint32_t>(EINVAL));
}

TEST_F(PvrdmaRegisters, activation_needs_a_shared_region)
{
    guest.write(reg_ctl, ctl_activate);
    EXPECT_NE(guest.read(reg_err), 0u);
    guest.write(reg_ctl, ctl_unquiesce);
    EXPECT_NE(guest.read(reg_err), 0u);
}

TEST_F(PvrdmaBringUp, succeeds)
{
    EXPECT_TRUE(guest.bring_up());
    guest.write(reg_ctl, ctl_unquiesce); // the NIC has come up
    EXPECT_EQ(guest.read(reg_err), 0u);
}

TEST_F(PvrdmaBringUp, fills_in_the_capabilities_at_once)
{
    guest.write_dsr(guest.dsr);
    const DeviceCaps& caps = guest.region().caps;
    EXPECT_EQ(caps.max_qp, 32768u);
    EXPECT_EQ(caps.max_sge, 16u);
    EXPECT_EQ(caps.max_sge_rd, 16u);
    EXPECT_EQ(caps.max_mr_size, 0xffffffffu);
    EXPECT_EQ(caps.page_size_cap, 4096u);
    EXPECT_EQ(caps.phys_port_cnt, 1u);
    EXPECT_EQ(caps.max_pkeys, 1u);
    EXPECT_EQ(caps.vendor_id, 0x15adu);
    EXPECT_EQ(caps.vendor_part_id, 0x0820u);
    EXPECT_EQ(caps.max_fast_reg_page_list_len, 128u);
    EXPECT_EQ(caps.atomic_ops, 3u);
    EXPECT_EQ(caps.bmme_flags, 7u);
    EXPECT_TRUE(std::has_single_bit(caps.max_uar));
}

// What Linux's driver demands before it goes on.
TEST_F(PvrdmaBringUp, the_driver_supports_the_device)
{
    guest.write_dsr(guest.dsr);
    const DeviceCaps& caps = guest.region().caps;
    EXPECT_EQ(caps.mode, 0);
    EXPECT_GE(guest.read(reg_version), 18u);
    EXPECT_EQ(caps.gid_types, 2u) << "RoCEv2 and nothing else";
}

TEST(PvrdmaBringUpVersions, version_17_names_roce_v1_alone)
{
    PvrdmaConfig config = default_config();
    config.version = 17;
    config.roce_version = 1;
    ModelGuest guest(config);
    ASSERT_TRUE(guest.bring_up());
    EXPECT_EQ(guest.read(reg_version), 17u);
    EXPECT_EQ(guest.region().caps.gid_types, 1u);
}

TEST_F(PvrdmaBringUp, guids_are_made_from_the_mac)
{
    guest.write_dsr(guest.dsr);
    const std::array<uint8_t, 8> eui64{0x50, 0x54, 0x00, 0xff, 0xfe, 0x12, 0x34, 0x56};
    EXPECT_EQ(guest.region().caps.node_guid, std::bit_cast<uint64_t>(eui64));
    EXPECT_EQ(guest.region().caps.sys_image_guid, std::bit_cast<uint64_t>(eui64));
}

TEST(PvrdmaBringUpVersions, a_configured_guid_is_shown_big_endian)
{
    PvrdmaConfig config = default_config();
    config.node_guid = 0x0102030405060708;
    ModelGuest guest(config);
    guest.bring_up();
    EXPECT_EQ(guest.region().caps.node_guid, 0x0807060504030201u);
}

TEST_F(PvrdmaBringUp, the_region_is_guest_memory)
{
    guest.write_dsr(GuestRam::hole);
    EXPECT_NE(guest.read(reg_err), 0u);
    guest.write_dsr(GuestRam::base + GuestRam::size - 8); // the end of memory
    EXPECT_NE(guest.read(reg_err), 0u);
    guest.write_dsr(UINT64_MAX - 7);
    EXPECT_NE(guest.read(reg_err), 0u);
    guest.write_dsr(GuestRam::rom);
    EXPECT_NE(guest.read(reg_err), 0u);
    EXPECT_TRUE(guest.bring_up()) << "and the device goes on";
}

TEST_F(PvrdmaBringUp, the_command_slot_is_guest_memory)
{
    guest.region().cmd_slot_dma = GuestRam::hole;
    EXPECT_NE(error(), 0u);
}

TEST_F(PvrdmaBringUp, the_response_slot_is_writable_guest_memory)
{
    guest.region().resp_slot_dma = GuestRam::hole;
    EXPECT_NE(error(), 0u);
    guest.region().resp_slot_dma = GuestRam::rom;
    EXPECT_NE(error(), 0u);
}

TEST_F(PvrdmaBringUp, event_rings_have_a_sensible_number_of_pages)
{
    for (uint32_t pages : {0u, 1u, 65u, 0xffffffffu}) {
        guest.region().async_ring.num_pages = pages;
        EXPECT_NE(error(), 0u);
    }
    guest.region().async_ring.num_pages = 4;
    guest.region().cq_ring.num_pages = 0;
    EXPECT_NE(error(), 0u);
}

TEST_F(PvrdmaBringUp, event_rings_are_guest_memory)
{
    auto good = guest.region().cq_ring;
    guest.region().cq_ring.pdir_dma = GuestRam::hole;
    EXPECT_NE(error(), 0u);
    guest.region().cq_ring = good;
    guest.region().async_ring.pdir_dma += 1;
    EXPECT_NE(error(), 0u);
}

TEST_F(PvrdmaBringUp, a_region_set_again_starts_anew)
{
    guest.set_up();
    int resets = guest.backend.resets;
    ASSERT_TRUE(guest.bring_up());
    EXPECT_GT(guest.backend.resets, resets);
    EXPECT_NE(guest.destroy(cmd_destroy_cq, guest.cq.handle), 0u) << "the CQ is gone";
    guest.ring(uar_cq_offset, guest.cq.handle | uar_cq_arm);
    EXPECT_EQ(guest.stats.guest_doorbell_errors, 1u);
}

TEST_F(PvrdmaBringUp, half_an_address_is_no_region)
{
    guest.bring_up();
    guest.write(reg_dsr_low, 0);
    EXPECT_NE(guest.post(cmd_create_pd, CmdCreatePd{}), 0u);
}

TEST_F(PvrdmaBringUp, reset_by_the_driver_drops_everything)
{
    guest.set_up();
    guest.write(reg_ctl, ctl_reset);
    EXPECT_EQ(guest.read(reg_err), 0u);
    EXPECT_EQ(guest.read(reg_imr), ~0u);
    EXPECT_NE(guest.post(cmd_create_pd, CmdCreatePd{}), 0u);
    EXPECT_NO_THROW(guest.set_up()) << "the driver is loaded again";
}

TEST_F(PvrdmaBringUp, reset_of_the_machine_drops_everything)
{
    guest.set_up();
    guest.device.reset();
    EXPECT_EQ(guest.read(reg_icr), 0u);
    EXPECT_FALSE(guest.host.intx);
    EXPECT_NE(guest.post(cmd_create_pd, CmdCreatePd{}), 0u);
}

TEST_F(PvrdmaInterrupts, a_message_is_sent_for_each_cause)
{
    guest.create_pd();
    event();
    EXPECT_EQ(guest.host.irqs[vector_async], 1);
    EXPECT_GE(guest.host.irqs[vector_response], 1);
}

TEST_F(PvrdmaInterrupts, the_level_follows_causes_that_are_not_masked)
{
    guest.read(reg_icr);
    EXPECT_FALSE(guest.host.intx);
    event();
    EXPECT_TRUE(guest.host.intx);
    guest.write(reg_imr, 1u << vector_async);
    EXPECT_FALSE(guest.host.intx);
    guest.write(reg_imr, 0);
    EXPECT_TRUE(guest.host.intx);
    EXPECT_EQ(guest.read(reg_icr), 1u << vector_async);
    EXPECT_FALSE(guest.host.intx);
    EXPECT_EQ(guest.read(reg_icr), 0u);
}

// Linux's handler completes a command only where RESPONSE is the sole cause.
TEST_F(PvrdmaInterrupts, a_response_is_shown_alone)
{
    guest.read(reg_icr);
    event();
    guest.create_pd();
    EXPECT_EQ(guest.read(reg_icr), 1u << vector_response);
    EXPECT_TRUE(guest.host.intx) << "there is another cause to come for";
    EXPECT_EQ(guest.read(reg_icr), 1u << vector_async);
    EXPECT_FALSE(guest.host.intx);
}

TEST_F(PvrdmaInterrupts, a_masked_message_is_sent_when_the_mask_is_lifted)
{
    guest.write(reg_imr, ~0u);
    event();
    EXPECT_EQ(guest.host.irqs[vector_async], 0);
    guest.write(reg_imr, ~0u & ~(1u << vector_cq));
    EXPECT_EQ(guest.host.irqs[vector_async], 0);
    guest.write(reg_imr, 0);
    EXPECT_EQ(guest.host.irqs[vector_async], 1);
    guest.write(reg_imr, ~0u);
    guest.write(reg_imr, 0);
    EXPECT_EQ(guest.host.irqs[vector_async], 1) << "once";
}

} // namespace rdma::test
