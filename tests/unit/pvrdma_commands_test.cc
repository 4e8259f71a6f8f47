// SPDX-License-Identifier: GPL-2.0-or-later
//
// The command channel: each command good and bad.
#include <gtest/gtest.h>

#include "pvrdma_guest.h"

namespace rdma::test {

namespace {

struct PvrdmaCommands : testing::Test {
    PvrdmaCommands() { guest.set_up(); }

    // ERR of a CREATE_MR of num_pages pages that begins offset bytes into the
    // first.
    CmdCreateMr mr_command(uint64_t start, uint64_t length, uint32_t num_pages)
    {
        mr_pages = guest.ram.pages(num_pages);
        return {.start = start,
                .length = length,
                .pdir_dma = guest.ram.directory(mr_pages),
                .pd_handle = guest.pd,
                .access_flags = IBV_ACCESS_LOCAL_WRITE,
                .nchunks = num_pages};
    }
    void post_modify_qp(uint32_t handle, int mask, const QpAttr& attrs)
    {
        CmdModifyQp cmd{.hdr = {},
                        .qp_handle = handle,
                        .attr_mask = static_cast<uint32_t>(mask),
                        .attrs = attrs};
        EXPECT_EQ(guest.post(cmd_modify_qp, cmd), 0u);
    }
    // A MODIFY_QP whose outcome the backend tells later.
    void start_change(const ModelQp& qp)
    {
        guest.backend.failure = EINPROGRESS;
        post_modify_qp(qp.handle, IBV_QP_STATE, {.qp_state = IBV_QPS_INIT});
        guest.backend.failure = 0;
    }
    uint32_t create_qp(void (*change)(CmdCreateQp&), ModelGuest::QpShape shape = {})
    {
        std::vector<uint64_t> pages;
        CmdCreateQp cmd = guest.qp_command(shape, pages);
        change(cmd);
        return guest.post(cmd_create_qp, cmd);
    }
    uint32_t create_cq(uint32_t cqe, void (*change)(CmdCreateCq&))
    {
        std::vector<uint64_t> pages;
        CmdCreateCq cmd = guest.cq_command(cqe, pages);
        change(cmd);
        return guest.post(cmd_create_cq, cmd);
    }
    uint32_t create_srq(void (*change)(CmdCreateSrq&))
    {
        std::vector<uint64_t> pages;
        CmdCreateSrq cmd = guest.srq_command(16, 2, pages);
        change(cmd);
        return guest.post(cmd_create_srq, cmd);
    }
    // MODIFY_QP, whose failure is in the response: its err.
    int modify_qp(uint32_t handle, int mask, const QpAttr& attrs)
    {
        int before = guest.host.irqs[vector_response];
        post_modify_qp(handle, mask, attrs);
        EXPECT_EQ(guest.host.irqs[vector_response], before + 1);
        auto resp = guest.response<RespHdr>();
        EXPECT_EQ(resp.ack, cmd_modify_qp | cmd_response_bit);
        return resp.err;
    }

    ModelGuest guest;
    std::vector<uint64_t> mr_pages;
};

constexpr uint32_t einval = EINVAL;
constexpr uint32_t efault = EFAULT;
constexpr uint32_t enoent = ENOENT;
constexpr uint32_t enomem = ENOMEM;

} // namespace

// The channel itself.

TEST_F(PvrdmaCommands, a_response_names_its_command)
{
    auto resp = guest.ask<RespHandle>(cmd_create_pd, CmdCreatePd{});
    EXPECT_EQ(resp.hdr.ack, 0x80000002u);
    EXPECT_EQ(resp.hdr.err, 0);
}

TEST_F(PvrdmaCommands, a_failure_is_in_err_without_an_interrupt)
{
    guest.backend.failure = ENOMEM;
    int before = guest.host.irqs[vector_response];
    EXPECT_EQ(guest.post(cmd_create_pd, CmdCreatePd{}), enomem);
    EXPECT_EQ(guest.host.irqs[vector_response], before);
    EXPECT_EQ(guest.response<RespHdr>().err, ENOMEM);
    EXPECT_EQ(guest.stats.guest_command_errors, 1u);
}

TEST_F(PvrdmaCommands, err_is_cleared_by_the_next_success)
{
    guest.post(cmd_max, CmdCreatePd{});
    EXPECT_NE(guest.read(reg_err), 0u);
    guest.create_pd();
    EXPECT_EQ(guest.read(reg_err), 0u);
}

// The driver does not wait for these: an interrupt could be taken for that of
// the command after.
TEST_F(PvrdmaCommands, what_the_driver_does_not_wait_for_raises_no_interrupt)
{
    ModelQp qp = guest.create_qp({});
    int before = guest.host.irqs[vector_response];
    EXPECT_EQ(guest.destroy(cmd_destroy_qp, qp.handle), 0u);
    EXPECT_EQ(guest.destroy(cmd_destroy_cq, guest.cq.handle), 0u);
    EXPECT_EQ(guest.destroy(cmd_destroy_pd, guest.pd), 0u);
    EXPECT_EQ(guest.post(cmd_create_bind, CmdCreateBind{.gid_type = gid_type_v2}), 0u);
    EXPECT_EQ(guest.post(cmd_destroy_bind, CmdDestroyBind{}), 0u);
    EXPECT_EQ(guest.host.irqs[vector_response], before);
}

TEST_F(PvrdmaCommands, unknown_commands_and_resize_cq_are_not_supported)
{
    for (uint32_t number : {+cmd_resize_cq, +cmd_max, 0x80000000u, 0xffffffffu}) {
        EXPECT_EQ(guest.post(static_cast<Command>(number), CmdHandle{}),
                  static_cast<uint32_t>(EOPNOTSUPP));
    }
}

TEST_F(PvrdmaCommands, slots_that_are_gone_are_an_error)
{
    guest.ram.unplug();
    guest.write(reg_request, 0);
    EXPECT_EQ(guest.read(reg_err), efault);
    guest.ram.plug();
    EXPECT_NO_THROW(guest.create_pd());
}

// Port.

TEST_F(PvrdmaCommands, query_port_describes_the_nic)
{
    auto attrs = guest.ask<RespQueryPort>(cmd_query_port, CmdQueryPort{.port_num = 1}).attrs;
    EXPECT_EQ(attrs.state, +IBV_PORT_ACTIVE);
    EXPECT_EQ(attrs.phys_state, 5);
    EXPECT_EQ(attrs.max_mtu, +IBV_MTU_4096);
    EXPECT_EQ(attrs.active_mtu, +IBV_MTU_1024);
    EXPECT_EQ(attrs.gid_tbl_len, 64u);
    EXPECT_EQ(attrs.pkey_tbl_len, 1);
    guest.host.nic.link_up = false;
    attrs = guest.ask<RespQueryPort>(cmd_query_port, CmdQueryPort{.port_num = 1}).attrs;
    EXPECT_EQ(attrs.state, +IBV_PORT_DOWN);
    EXPECT_EQ(attrs.phys_state, 3);
}

TEST_F(PvrdmaCommands, active_mtu_is_the_largest_that_fits_the_nic)
{
    auto active = [this](uint32_t nic_mtu) {
        guest.host.nic.mtu = nic_mtu;
        return static_cast<int>(
            guest.ask<RespQueryPort>(cmd_query_port, CmdQueryPort{.port_num = 1}).attrs.active_mtu);
    };
    EXPECT_EQ(active(0), IBV_MTU_1024) << "not known";
    EXPECT_EQ(active(68), IBV_MTU_256);
    EXPECT_EQ(active(1119), IBV_MTU_512);
    EXPECT_EQ(active(1120), IBV_MTU_1024);
    EXPECT_EQ(active(1500), IBV_MTU_1024);
    EXPECT_EQ(active(2200), IBV_MTU_2048);
    EXPECT_EQ(active(4191), IBV_MTU_2048);
    EXPECT_EQ(active(4192), IBV_MTU_4096);
    EXPECT_EQ(active(9000), IBV_MTU_4096);
}

TEST_F(PvrdmaCommands, the_port_counts_violations_of_keys)
{
    guest.stats.drop_pkey = 3;
    guest.stats.drop_qkey = uint64_t{1} << 40;
    auto attrs = guest.ask<RespQueryPort>(cmd_query_port, CmdQueryPort{.port_num = 1}).attrs;
    EXPECT_EQ(attrs.bad_pkey_cntr, 3u);
    EXPECT_EQ(attrs.qkey_viol_cntr, UINT32_MAX);
}

TEST_F(PvrdmaCommands, there_is_one_port)
{
    EXPECT_EQ(guest.post(cmd_query_port, CmdQueryPort{.port_num = 0}), einval);
    EXPECT_EQ(guest.post(cmd_query_port, CmdQueryPort{.port_num = 2}), einval);
}

TEST_F(PvrdmaCommands, there_is_one_pkey)
{
    auto resp = guest.ask<RespQueryPkey>(cmd_query_pkey, CmdQueryPkey{.port_num = 1});
    EXPECT_EQ(resp.pkey, 0xffff);
    EXPECT_EQ(guest.post(cmd_query_pkey, CmdQueryPkey{.port_num = 1, .index = 1}), einval);
    EXPECT_EQ(guest.post(cmd_query_pkey, CmdQueryPkey{.port_num = 2}), einval);
}

// GIDs.

TEST_F(PvrdmaCommands, bindings_are_the_backends_gids)
{
    CmdCreateBind bind{.mtu = 1024, .vlan = 0xfff, .index = 5, .gid_type = gid_type_v2};
    bind.gid[15] = 7;
    EXPECT_EQ(guest.post(cmd_create_bind, bind), 0u);
    ASSERT_TRUE(guest.backend.gids.contains(5));
    EXPECT_EQ(guest.backend.gids[5].first.raw[15], 7);
    EXPECT_EQ(guest.backend.gids[5].second, 2u);
    EXPECT_EQ(guest.post(cmd_destroy_bind, CmdDestroyBind{.index = 5}), 0u);
    EXPECT_TRUE(guest.backend.gids.empty());
}

TEST_F(PvrdmaCommands, a_bindings_vlan_is_passed_where_it_is_one)
{
    const std::pair<uint32_t, std::optional<uint16_t>> vlans[] = {
        {0xfff, {}}, // what Linux's driver always says
        {0, {}},     {1, uint16_t{1}}, {4094, uint16_t{4094}}, {4096, {}}, {0xffffffff, {}}};
    for (auto [vlan, passed] : vlans) {
        EXPECT_EQ(guest.post(cmd_create_bind,
                             CmdCreateBind{.vlan = vlan, .index = 5, .gid_type = gid_type_v2}),
                  0u);
        EXPECT_EQ(guest.backend.gid_vlan, passed) << vlan;
    }
}

TEST_F(PvrdmaCommands, a_binding_is_within_the_table_and_of_the_devices_type)
{
    EXPECT_EQ(guest.post(cmd_create_bind, CmdCreateBind{.index = 64, .gid_type = gid_type_v2}),
              einval);
    EXPECT_EQ(guest.post(cmd_create_bind, CmdCreateBind{.gid_type = gid_type_v1}), einval);
    EXPECT_EQ(guest.post(cmd_destroy_bind, CmdDestroyBind{.index = 0xffffffff}), einval);
}

// Contexts and protection domains.

TEST_F(PvrdmaCommands, contexts_are_as_many_as_doorbell_pages_but_the_kernels)
{
    PvrdmaConfig config = default_config();
    config.max_uar = 4;
    ModelGuest small(config);
    small.set_up();
    std::set<uint32_t> handles;
    for (int i = 0; i < 3; ++i) {
        handles.insert(small.ask<RespHandle>(cmd_create_uc, CmdCreateUc{}).handle);
    }
    EXPECT_EQ(handles.size(), 3u);
    EXPECT_FALSE(handles.contains(0)) << "that is the kernel's";
    EXPECT_EQ(small.post(cmd_create_uc, CmdCreateUc{}), enomem);
    EXPECT_EQ(small.destroy(cmd_destroy_uc, *handles.begin()), 0u);
    EXPECT_EQ(small.destroy(cmd_destroy_uc, *handles.begin()), enoent);
    EXPECT_EQ(small.post(cmd_create_uc, CmdCreateUc{}), 0u);
}

TEST_F(PvrdmaCommands, objects_belong_to_contexts_that_exist)
{
    EXPECT_EQ(guest.post(cmd_create_pd, CmdCreatePd{.ctx_handle = 9}), enoent);
    EXPECT_EQ(create_cq(4, [](CmdCreateCq& cmd) { cmd.ctx_handle = 9; }), enoent);
    uint32_t context = guest.ask<RespHandle>(cmd_create_uc, CmdCreateUc{}).handle;
    EXPECT_EQ(guest.post(cmd_create_pd, CmdCreatePd{.ctx_handle = context}), 0u);
}

TEST_F(PvrdmaCommands, what_does_not_exist_cannot_be_destroyed)
{
    for (Command number : {cmd_destroy_pd, cmd_destroy_mr, cmd_destroy_cq, cmd_destroy_qp,
                           cmd_destroy_srq, cmd_destroy_uc}) {
        EXPECT_EQ(guest.destroy(number, 12345), enoent);
        EXPECT_EQ(guest.destroy(number, 0xffffffff), enoent);
    }
}

TEST_F(PvrdmaCommands, what_is_in_use_stays)
{
    ModelQp qp = guest.create_qp({});
    guest.backend.failure = EBUSY;
    EXPECT_EQ(guest.destroy(cmd_destroy_cq, guest.cq.handle), static_cast<uint32_t>(EBUSY));
    EXPECT_EQ(guest.destroy(cmd_destroy_qp, qp.handle), static_cast<uint32_t>(EBUSY));
    guest.backend.failure = 0;
    guest.ring(uar_qp_offset, qp.handle | uar_qp_send);
    EXPECT_EQ(guest.backend.send_doorbells.size(), 1u);
}

// Memory regions.

TEST_F(PvrdmaCommands, a_region_is_its_pages_from_its_start_on)
{
    auto resp = guest.ask<RespCreateMr>(cmd_create_mr, mr_command(0x7f00'0000'0123, 8192, 3));
    EXPECT_EQ(guest.backend.mr.kind, MrInit::Kind::user);
    EXPECT_EQ(guest.backend.mr.iova, 0x7f00'0000'0123u);
    EXPECT_EQ(guest.backend.mr.length, 8192u);
    EXPECT_EQ(guest.backend.mr.pd, guest.pd);
    EXPECT_EQ(guest.backend.mr_pages, mr_pages);
    EXPECT_EQ(resp.lkey, resp.mr_handle << 8 | 1);
    EXPECT_EQ(resp.rkey, resp.mr_handle << 8 | 2);
    EXPECT_EQ(guest.destroy(cmd_destroy_mr, resp.mr_handle), 0u);
}

TEST_F(PvrdmaCommands, access_flags_are_passed_without_hints)
{
    auto cmd = mr_command(0, 4096, 1);
    cmd.access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE |
                       IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_RELAXED_ORDERING;
    guest.ask<RespCreateMr>(cmd_create_mr, cmd);
    EXPECT_EQ(guest.backend.mr.access, 0xf);
}

TEST_F(PvrdmaCommands, a_regions_length_is_within_limits)
{
    EXPECT_EQ(guest.post(cmd_create_mr, mr_command(0, 0, 1)), einval);
    EXPECT_EQ(guest.post(cmd_create_mr, mr_command(0, 0x1'0000'0000, 1)), einval);
    EXPECT_EQ(guest.post(cmd_create_mr, mr_command(UINT64_MAX - 4095, 8192, 2)), einval)
        << "it wraps";
    EXPECT_EQ(guest.post(cmd_create_mr, mr_command(UINT64_MAX - 4095, 4096, 1)), 0u)
        << "it just does not";
}

TEST_F(PvrdmaCommands, a_regions_pages_are_guest_memory)
{
    auto cmd = mr_command(0, 8192, 2);
    mr_pages[1] = GuestRam::hole;
    cmd.pdir_dma = guest.ram.directory(mr_pages);
    EXPECT_EQ(guest.post(cmd_create_mr, cmd), efault);
}

TEST_F(PvrdmaCommands, the_dma_region_has_no_pages)
{
    CmdCreateMr cmd{
        .pd_handle = guest.pd, .access_flags = IBV_ACCESS_LOCAL_WRITE, .flags = mr_flag_dma};
    guest.ask<RespCreateMr>(cmd_create_mr, cmd);
    EXPECT_EQ(guest.backend.mr.kind, MrInit::Kind::dma);
}

TEST_F(PvrdmaCommands, a_fast_register_region_has_room_for_at_most_128_pages)
{
    CmdCreateMr cmd{.pd_handle = guest.pd, .flags = mr_flag_frmr, .nchunks = 128};
    guest.ask<RespCreateMr>(cmd_create_mr, cmd);
    EXPECT_EQ(guest.backend.mr.kind, MrInit::Kind::fast_reg);
    EXPECT_EQ(guest.backend.mr.max_pages, 128u);
    cmd.nchunks = 129;
    EXPECT_EQ(guest.post(cmd_create_mr, cmd), einval);
}

TEST_F(PvrdmaCommands, unknown_kinds_of_region_are_refused)
{
    auto cmd = mr_command(0, 4096, 1);
    for (uint32_t flags : {3u, 4u, 0x80000000u}) {
        cmd.flags = flags;
        EXPECT_EQ(guest.post(cmd_create_mr, cmd), einval);
    }
}

// Completion queues.

TEST_F(PvrdmaCommands, a_cq_has_the_size_asked_for)
{
    EXPECT_EQ(guest.create_cq(1).ring.slots(), 1u);
    EXPECT_EQ(guest.create_cq(4096).ring.slots(), 4096u);
}

TEST_F(PvrdmaCommands, a_cqs_size_is_a_power_of_two_within_the_limit)
{
    for (uint32_t cqe : {0u, 3u, 524288u, 0x80000000u}) {
        std::vector<uint64_t> pages;
        CmdCreateCq cmd = guest.cq_command(4, pages);
        cmd.cqe = cqe;
        cmd.nchunks = page_dir_max_pages;
        EXPECT_EQ(guest.post(cmd_create_cq, cmd), einval);
    }
}

TEST_F(PvrdmaCommands, a_cqs_pages_suffice_and_are_guest_memory)
{
    EXPECT_NE(create_cq(128, [](CmdCreateCq& cmd) { --cmd.nchunks; }), 0u);
    EXPECT_NE(create_cq(128, [](CmdCreateCq& cmd) { cmd.nchunks = 0; }), 0u);
    EXPECT_NE(create_cq(128, [](CmdCreateCq& cmd) { cmd.pdir_dma = GuestRam::hole; }), 0u);
    EXPECT_EQ(create_cq(128, [](CmdCreateCq&) {}), 0u);
}

// Shared receive queues.

TEST_F(PvrdmaCommands, an_srq_is_created_without_a_limit)
{
    EXPECT_EQ(create_srq([](CmdCreateSrq& cmd) { cmd.attrs.srq_limit = 4; }), 0u);
    EXPECT_EQ(guest.backend.srq_attr.max_wr, 16u);
    EXPECT_EQ(guest.backend.srq_attr.max_sge, 2u);
    EXPECT_EQ(guest.backend.srq_attr.srq_limit, 0u);
}

TEST_F(PvrdmaCommands, an_srq_is_within_limits)
{
    EXPECT_EQ(create_srq([](CmdCreateSrq& cmd) { cmd.attrs.max_wr = 0; }), einval);
    EXPECT_EQ(create_srq([](CmdCreateSrq& cmd) { cmd.attrs.max_wr = 12; }), einval);
    EXPECT_EQ(create_srq([](CmdCreateSrq& cmd) { cmd.attrs.max_wr = 8192; }), einval);
    EXPECT_EQ(create_srq([](CmdCreateSrq& cmd) { cmd.attrs.max_sge = 17; }), einval);
    EXPECT_EQ(create_srq([](CmdCreateSrq& cmd) { cmd.srq_type = 1; }), einval);
    EXPECT_NE(create_srq([](CmdCreateSrq& cmd) { cmd.nchunks = 1; }), 0u);
}

TEST_F(PvrdmaCommands, an_srq_is_queried_and_modified)
{
    ModelSrq srq = guest.create_srq(16, 2);
    CmdModifySrq modify{.srq_handle = srq.handle, .attr_mask = IBV_SRQ_LIMIT};
    modify.attrs.srq_limit = 3;
    EXPECT_EQ(guest.post(cmd_modify_srq, modify), 0u);
    EXPECT_EQ(guest.backend.srq_mask, +IBV_SRQ_LIMIT);
    CmdHandle query{.handle = srq.handle};
    EXPECT_EQ(guest.ask<RespQuerySrq>(cmd_query_srq, query).attrs.srq_limit, 3u);
    query.handle = 77;
    EXPECT_EQ(guest.post(cmd_query_srq, query), enoent);
    EXPECT_EQ(guest.destroy(cmd_destroy_srq, srq.handle), 0u);
}

// Queue pairs.

TEST_F(PvrdmaCommands, a_qps_handle_and_number_are_told_apart)
{
    ModelQp qp = guest.create_qp({});
    EXPECT_EQ(qp.handle, 2u);
    EXPECT_EQ(qp.qpn, 0x030002u);
}

TEST(PvrdmaCommandsOld, before_version_20_a_qps_handle_is_its_number)
{
    PvrdmaConfig config = default_config();
    config.version = 19;
    ModelGuest guest(config);
    guest.backend.qpn_high_bits = 0;
    guest.set_up();
    EXPECT_EQ(guest.create_qp({}).qpn, 2u);
    auto resp = guest.response<RespCreateQp>();
    EXPECT_EQ(resp.max_send_wr, 8u);
    EXPECT_EQ(resp.max_recv_wr, 8u);
    EXPECT_EQ(resp.max_send_sge, 2u);
    EXPECT_EQ(resp.max_recv_sge, 2u);
}

TEST_F(PvrdmaCommands, a_qp_is_what_was_asked_for)
{
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { cmd.sq_sig_all = 1; },
                        {.send_wr = 16, .recv_wr = 32, .send_sge = 3, .recv_sge = 4}),
              0u);
    const QpInit& init = guest.backend.qp_init;
    EXPECT_EQ(init.type, IBV_QPT_RC);
    EXPECT_FALSE(init.gsi);
    EXPECT_FALSE(init.use_srq);
    EXPECT_TRUE(init.sq_sig_all);
    EXPECT_EQ(init.pd, guest.pd);
    EXPECT_EQ(init.send_cq, guest.cq.handle);
    EXPECT_EQ(init.cap.max_send_wr, 16u);
    EXPECT_EQ(init.cap.max_recv_wr, 32u);
    EXPECT_EQ(init.cap.max_send_sge, 3u);
    EXPECT_EQ(init.cap.max_recv_sge, 4u);
    EXPECT_EQ(init.cap.max_inline_data, 0u);
}

TEST_F(PvrdmaCommands, qps_are_rc_uc_ud_or_gsi)
{
    guest.create_qp({.type = qpt_uc});
    EXPECT_EQ(guest.backend.qp_init.type, IBV_QPT_UC);
    guest.create_qp({.type = qpt_ud});
    EXPECT_EQ(guest.backend.qp_init.type, IBV_QPT_UD);
    ModelQp gsi = guest.create_qp({.type = qpt_gsi});
    EXPECT_TRUE(guest.backend.qp_init.gsi);
    EXPECT_EQ(gsi.handle, 1u);
    EXPECT_EQ(gsi.qpn, 1u);
    for (unsigned type : {0u, 5u, 6u, 8u, 9u, 255u}) {
        std::vector<uint64_t> pages;
        auto cmd = guest.qp_command({.type = static_cast<uint8_t>(type)}, pages);
        EXPECT_EQ(guest.post(cmd_create_qp, cmd), static_cast<uint32_t>(EOPNOTSUPP));
    }
}

TEST_F(PvrdmaCommands, a_qp_with_an_srq_has_no_receive_queue)
{
    ModelSrq srq = guest.create_srq(16, 2);
    guest.create_qp({.srq = srq.handle});
    EXPECT_TRUE(guest.backend.qp_init.use_srq);
    EXPECT_EQ(guest.backend.qp_init.srq, srq.handle);
    EXPECT_EQ(guest.backend.qp_init.cap.max_recv_wr, 0u);
}

TEST_F(PvrdmaCommands, a_qps_depths_are_powers_of_two_within_the_limit)
{
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { cmd.max_send_wr = 0; }), einval);
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { cmd.max_send_wr = 6; }), einval);
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { cmd.max_send_wr = 2048; }), einval);
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { cmd.max_recv_wr = 0; }), einval);
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { cmd.max_recv_wr = 0x80000000; }), einval);
    EXPECT_EQ(create_qp([](CmdCreateQp&) {}, {.send_wr = 1024, .recv_wr = 1024}), 0u);
}

TEST_F(PvrdmaCommands, a_qps_sges_are_within_the_limit)
{
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { cmd.max_send_sge = 17; }), einval);
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { cmd.max_recv_sge = 0xffffffff; }), einval);
    EXPECT_EQ(create_qp([](CmdCreateQp&) {}, {.send_sge = 16, .recv_sge = 16}), 0u);
}

// Linux's driver rounds what kernel consumers ask for up to a power of two.
TEST(PvrdmaCommandsSge, a_limit_that_is_no_power_of_two_is_served_rounded_up)
{
    PvrdmaConfig config = default_config();
    config.max_sge = 12;
    ModelGuest guest(config);
    guest.set_up();
    EXPECT_NO_THROW(guest.create_qp({.send_sge = 16, .recv_sge = 16}));
}

TEST_F(PvrdmaCommands, a_qps_pages_suffice_and_are_guest_memory)
{
    ModelGuest::QpShape big{.send_wr = 128, .recv_wr = 128, .send_sge = 16, .recv_sge = 16};
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { --cmd.total_chunks; }, big), einval);
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { --cmd.send_chunks; }, big), einval);
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { ++cmd.send_chunks; }, big), einval);
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { cmd.total_chunks = 0; }, big), einval);
    EXPECT_EQ(create_qp([](CmdCreateQp& cmd) { cmd.pdir_dma = GuestRam::hole; }, big), efault);
    EXPECT_EQ(create_qp([](CmdCreateQp&) {}, big), 0u);
}

TEST_F(PvrdmaCommands, a_change_that_takes_long_is_answered_when_it_is_done)
{
    ModelQp qp = guest.create_qp({});
    const int before = guest.host.irqs[vector_response];
    for (int error : {0, EHOSTUNREACH}) {
        start_change(qp);
        EXPECT_EQ(guest.host.irqs[vector_response], before + (error == 0 ? 0 : 1));
        guest.device.modified(qp.handle + 1, EINVAL); // of another QP
        guest.device.modified(qp.handle, error);
        EXPECT_EQ(guest.host.irqs[vector_response], before + (error == 0 ? 1 : 2));
        auto resp = guest.response<RespHdr>();
        EXPECT_EQ(resp.ack, cmd_modify_qp | cmd_response_bit);
        EXPECT_EQ(resp.response, guest.ram.at<CmdHdr>(guest.command_slot).response);
        EXPECT_EQ(resp.err, error);
    }
    guest.device.modified(qp.handle, 0); // it has been answered
    EXPECT_EQ(guest.host.irqs[vector_response], before + 2);
}

TEST_F(PvrdmaCommands, a_change_that_the_driver_has_given_up_is_not_answered)
{
    ModelQp qp = guest.create_qp({});
    start_change(qp);
    EXPECT_EQ(guest.post(cmd_query_pkey,
                         CmdQueryPkey{.hdr = {}, .port_num = 1, .index = 0, .reserved = {}}),
              0u);
    const int before = guest.host.irqs[vector_response];
    guest.device.modified(qp.handle, 0);
    EXPECT_EQ(guest.host.irqs[vector_response], before);
    EXPECT_EQ(guest.response<RespHdr>().ack, cmd_query_pkey | cmd_response_bit);
    start_change(qp);
    guest.device.reset();
    guest.device.modified(qp.handle, 0);
    EXPECT_EQ(guest.host.irqs[vector_response], before);
}

TEST_F(PvrdmaCommands, attributes_named_by_the_mask_reach_the_backend)
{
    ModelQp qp = guest.create_qp({});
    QpAttr attrs{.qp_state = IBV_QPS_RTR,
                 .path_mtu = IBV_MTU_2048,
                 .rq_psn = 0x123456,
                 .dest_qp_num = 0x654321,
                 .max_dest_rd_atomic = 4,
                 .min_rnr_timer = 12};
    attrs.ah_attr.dgid[0] = 0xfe;
    attrs.ah_attr.sgid_index = 3;
    attrs.ah_attr.hop_limit = 64;
    attrs.ah_attr.traffic_class = 0x20;
    attrs.ah_attr.flow_label = 0x12345;
    attrs.ah_attr.ah_flags = 1;
    attrs.ah_attr.port_num = 1;
    const Mac mac{2, 3, 4, 5, 6, 7};
    std::ranges::copy(mac, attrs.ah_attr.dmac);
    int mask = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
               IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
    EXPECT_EQ(modify_qp(qp.handle, mask, attrs), 0);
    const ibv_qp_attr& seen = guest.backend.qp_attr;
    EXPECT_EQ(guest.backend.qp_mask, mask);
    EXPECT_EQ(seen.qp_state, IBV_QPS_RTR);
    EXPECT_EQ(seen.path_mtu, IBV_MTU_2048);
    EXPECT_EQ(seen.rq_psn, 0x123456u);
    EXPECT_EQ(seen.dest_qp_num, 0x654321u);
    EXPECT_EQ(seen.max_dest_rd_atomic, 4);
    EXPECT_EQ(seen.min_rnr_timer, 12);
    EXPECT_EQ(seen.ah_attr.grh.dgid.raw[0], 0xfe);
    EXPECT_EQ(seen.ah_attr.grh.sgid_index, 3);
    EXPECT_EQ(seen.ah_attr.grh.hop_limit, 64);
    EXPECT_EQ(seen.ah_attr.grh.traffic_class, 0x20);
    EXPECT_EQ(seen.ah_attr.grh.flow_label, 0x12345u);
    EXPECT_EQ(seen.ah_attr.is_global, 1);
    EXPECT_EQ(guest.backend.dmac, mac);
}

// A driver's stack may leave anything in attributes that it does not set.
TEST_F(PvrdmaCommands, attributes_the_mask_does_not_name_are_not_looked_at)
{
    ModelQp qp = guest.create_qp({});
    QpAttr attrs{.qp_state = 99, .cur_qp_state = 99, .path_mtu = 99, .path_mig_state = 99};
    EXPECT_EQ(modify_qp(qp.handle, IBV_QP_ACCESS_FLAGS, attrs), 0);
}

TEST_F(PvrdmaCommands, a_failure_of_modify_qp_is_in_the_response)
{
    ModelQp qp = guest.create_qp({});
    EXPECT_EQ(modify_qp(qp.handle, IBV_QP_STATE, {.qp_state = 7}), EINVAL);
    EXPECT_EQ(modify_qp(qp.handle, IBV_QP_CUR_STATE, {.cur_qp_state = 7}), EINVAL);
    EXPECT_EQ(modify_qp(qp.handle, IBV_QP_PATH_MTU, {.path_mtu = 0}), EINVAL);
    EXPECT_EQ(modify_qp(qp.handle, IBV_QP_PATH_MTU, {.path_mtu = 6}), EINVAL);
    EXPECT_EQ(modify_qp(qp.handle, IBV_QP_PATH_MIG_STATE, {.path_mig_state = 3}), EINVAL);
    EXPECT_EQ(modify_qp(77, IBV_QP_STATE, {}), ENOENT);
    guest.backend.failure = EINVAL;
    EXPECT_EQ(modify_qp(qp.handle, IBV_QP_STATE, {.qp_state = IBV_QPS_INIT}), EINVAL);
}

TEST_F(PvrdmaCommands, query_qp_tells_all_attributes)
{
    ModelQp qp = guest.create_qp({});
    ibv_qp_attr& attr = guest.backend.qp_attr;
    attr.qp_state = IBV_QPS_RTS;
    attr.cur_qp_state = IBV_QPS_RTS;
    attr.path_mtu = IBV_MTU_4096;
    attr.qkey = 0x11111111;
    attr.sq_psn = 17;
    attr.cap = {8, 8, 2, 2, 0};
    attr.timeout = 14;
    attr.retry_cnt = 7;
    attr.rnr_retry = 6;
    attr.ah_attr.grh.dgid.raw[15] = 9;
    attr.ah_attr.port_num = 1;
    guest.backend.dmac = {1, 2, 3, 4, 5, 6};
    auto attrs = guest.ask<RespQueryQp>(cmd_query_qp, CmdHandle{.handle = qp.handle}).attrs;
    EXPECT_EQ(attrs.qp_state, +IBV_QPS_RTS);
    EXPECT_EQ(attrs.path_mtu, +IBV_MTU_4096);
    EXPECT_EQ(attrs.qkey, 0x11111111u);
    EXPECT_EQ(attrs.sq_psn, 17u);
    EXPECT_EQ(attrs.cap.max_send_wr, 8u);
    EXPECT_EQ(attrs.cap.max_recv_sge, 2u);
    EXPECT_EQ(attrs.timeout, 14);
    EXPECT_EQ(attrs.retry_cnt, 7);
    EXPECT_EQ(attrs.rnr_retry, 6);
    EXPECT_EQ(attrs.ah_attr.dgid[15], 9);
    EXPECT_EQ(attrs.ah_attr.dmac[5], 6);
    EXPECT_EQ(guest.post(cmd_query_qp, CmdHandle{.handle = 99}), enoent);
}

} // namespace rdma::test
