// SPDX-License-Identifier: GPL-2.0-or-later
//
// What went wrong in QEMU's first PVRDMA device (2.12 to 9.0), a test for each
// record, named after it, and for what has none: a guest that does the like gets
// an error, and the device goes on. The test programs run under ASan, with its
// leak check, and UBSan.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <random>

#include "engine.h"
#include "pvrdma_guest.h"

namespace rdma::test {

namespace {

struct PvrdmaSecurity : testing::Test {
    // The device still does its work.
    void expect_alive()
    {
        ModelQp qp = guest.create_qp({});
        qp.sq.next<pvrdma_sq_wqe_hdr>().opcode = PVRDMA_WR_SEND;
        qp.sq.publish();
        EXPECT_TRUE(guest.device.pull_send(qp.handle, *send));
        EXPECT_EQ(guest.destroy(cmd_destroy_qp, qp.handle), 0u);
    }

    ModelGuest guest;
    std::unique_ptr<SendRequest> send = std::make_unique<SendRequest>();
};

} // namespace

// A leak where the device itself could not be made.
TEST(PvrdmaCreation, Cve2018_20123_a_device_that_cannot_be_made_leaves_nothing)
{
    PvrdmaConfig bad = default_config();
    bad.max_qp = 1;
    RdmaHostOps unused{};
    for (int i = 0; i < 10; ++i) {
        char* error = nullptr;
        EXPECT_EQ(pvrdma_device_create(&bad, nullptr, &unused, nullptr, &error), nullptr);
        ASSERT_NE(error, nullptr);
        std::free(error);
    }
}

// Leaks on the error paths of CREATE_CQ and CREATE_QP: what failed has left
// nothing behind, neither here nor in the backend.
TEST_F(PvrdmaSecurity, Cve2018_20126_failed_creation_leaves_nothing)
{
    guest.set_up();
    size_t cqs = guest.backend.cqs.ids.size();
    std::vector<uint64_t> pages;
    for (int i = 0; i < 100; ++i) {
        auto cq = guest.cq_command(64, pages);
        cq.pdir_dma = GuestRam::hole;
        EXPECT_NE(guest.post(cmd_create_cq, cq), 0u);
        auto qp = guest.qp_command({}, pages);
        qp.pdir_dma = GuestRam::hole;
        EXPECT_NE(guest.post(cmd_create_qp, qp), 0u);
        auto srq = guest.srq_command(16, 2, pages);
        srq.pdir_dma = GuestRam::hole;
        EXPECT_NE(guest.post(cmd_create_srq, srq), 0u);
        guest.backend.failure = ENOMEM;
        EXPECT_NE(guest.post(cmd_create_cq, guest.cq_command(64, pages)), 0u);
        EXPECT_NE(guest.post(cmd_create_qp, guest.qp_command({}, pages)), 0u);
        EXPECT_NE(guest.post(cmd_create_srq, guest.srq_command(16, 2, pages)), 0u);
        guest.backend.failure = 0;
    }
    EXPECT_EQ(guest.backend.cqs.ids.size(), cqs);
    EXPECT_TRUE(guest.backend.qps.ids.empty());
    EXPECT_TRUE(guest.backend.srqs.ids.empty());
    expect_alive();
}

// Out of bounds through a large num_sge.
TEST_F(PvrdmaSecurity, Cve2018_20124_num_sge_is_bounded_by_the_queues_own)
{
    guest.set_up();
    ModelQp qp = guest.create_qp({.send_sge = 2, .recv_sge = 2});
    RecvRequest recv;
    for (uint32_t num_sge : {3u, 32u, 33u, 0x10000000u, 0x80000000u, 0xffffffffu}) {
        auto& wqe = qp.sq.next<pvrdma_sq_wqe_hdr>();
        wqe.opcode = PVRDMA_WR_SEND;
        wqe.num_sge = num_sge;
        qp.sq.publish();
        ASSERT_TRUE(guest.device.pull_send(qp.handle, *send));
        EXPECT_EQ(send->malformed, IBV_WC_LOC_QP_OP_ERR);
        EXPECT_EQ(send->wr.num_sge, 0);
        qp.rq.next<pvrdma_rq_wqe_hdr>().num_sge = num_sge;
        qp.rq.publish();
        ASSERT_TRUE(guest.device.pull_recv(qp.handle, recv));
        EXPECT_EQ(recv.malformed, IBV_WC_LOC_QP_OP_ERR);
        EXPECT_EQ(recv.num_sge, 0u);
    }
    expect_alive();
}

// NULL dereference and huge allocation in the rings of CQ and QP.
TEST_F(PvrdmaSecurity, Cve2018_20125_ring_sizes_are_checked_before_memory_is_taken)
{
    guest.set_up();
    std::vector<uint64_t> pages;
    for (uint32_t size : {0u, 0x40000000u, 0x80000000u, 0xffffffffu}) {
        auto cq = guest.cq_command(4, pages);
        cq.cqe = size;
        cq.nchunks = size;
        EXPECT_NE(guest.post(cmd_create_cq, cq), 0u);
        auto qp = guest.qp_command({}, pages);
        qp.max_send_wr = size;
        EXPECT_NE(guest.post(cmd_create_qp, qp), 0u);
        qp = guest.qp_command({}, pages);
        qp.max_recv_wr = size;
        EXPECT_NE(guest.post(cmd_create_qp, qp), 0u);
        qp = guest.qp_command({}, pages);
        qp.max_send_sge = size | 1u << 20;
        qp.max_recv_sge = size | 1u << 20;
        EXPECT_NE(guest.post(cmd_create_qp, qp), 0u);
        auto srq = guest.srq_command(4, 2, pages);
        srq.attrs.max_wr = size;
        EXPECT_NE(guest.post(cmd_create_srq, srq), 0u);
    }
    auto empty = guest.cq_command(4, pages);
    guest.ram.at<uint64_t>(empty.pdir_dma) = 0; // a directory without a table
    EXPECT_NE(guest.post(cmd_create_cq, empty), 0u);
    expect_alive();
}

// No handler for reads of a doorbell page.
TEST_F(PvrdmaSecurity, Cve2018_20191_doorbell_pages_can_be_read)
{
    for (uint64_t offset : {0u, 4u, 8u, 12u, 4092u, 1023u * 4096u}) {
        for (unsigned size : {1u, 2u, 4u, 8u}) {
            EXPECT_EQ(guest.device.bar_read(PVRDMA_BAR_UAR, offset, size), 0u);
        }
    }
}

// An endless loop: a ring's error went unseen.
TEST_F(PvrdmaSecurity, Cve2018_20216_a_bad_ring_gives_no_requests)
{
    guest.set_up();
    ModelQp qp = guest.create_qp({});
    for (uint32_t bad : {9u, 16u, 0xffffu, 0xffffffffu}) {
        qp.sq.tail() = bad;
        EXPECT_FALSE(guest.device.pull_send(qp.handle, *send));
        EXPECT_FALSE(guest.device.pull_send(qp.handle, *send));
    }
    expect_alive();
}

// The length of an MR's mapping was not that of its pages.
TEST_F(PvrdmaSecurity, Cve2021_3582_page_count_and_length_of_a_region_agree)
{
    guest.set_up();
    auto pages = guest.ram.pages(4);
    CmdCreateMr cmd{.start = 0x1000'0800,
                    .length = 8192, // touches 3 pages
                    .pdir_dma = guest.ram.directory(pages),
                    .pd_handle = guest.pd};
    for (uint32_t count : {0u, 1u, 2u, 4u, 262144u, 262145u, 0xffffffffu}) {
        cmd.nchunks = count;
        EXPECT_EQ(guest.post(cmd_create_mr, cmd), static_cast<uint32_t>(EINVAL));
    }
    cmd.nchunks = 3;
    EXPECT_EQ(guest.post(cmd_create_mr, cmd), 0u);
    expect_alive();
}

// Integer overflow in the number of pages of an event ring, when DSRHIGH was
// written.
TEST_F(PvrdmaSecurity, Cve2021_3607_page_counts_that_overflow_are_refused)
{
    for (uint32_t pages : {0u, 1u, 0x40000001u, 0x80000000u, 0xffffffffu}) {
        guest.region().async_ring.num_pages = pages;
        EXPECT_FALSE(guest.bring_up());
        guest.region().async_ring.num_pages = 4;
        guest.region().cq_ring.num_pages = pages;
        EXPECT_FALSE(guest.bring_up());
        guest.region().cq_ring.num_pages = 4;
    }
    guest.set_up();
    expect_alive();
}

// A pointer never set was freed when one part of the shared region was bad:
// after each such failure all can be taken back and begun anew.
TEST_F(PvrdmaSecurity, Cve2021_3608_a_half_made_region_is_taken_back)
{
    SharedRegion right = guest.region();
    for (uint64_t SharedRegion::* slot :
         {&SharedRegion::cmd_slot_dma, &SharedRegion::resp_slot_dma}) {
        guest.region().*slot = GuestRam::hole;
        EXPECT_FALSE(guest.bring_up());
        guest.write(reg_dsr_high, 0); // taken back
        guest.write(reg_ctl, ctl_reset);
        guest.region() = right;
    }
    for (RingPageInfo SharedRegion::* ring :
         {&SharedRegion::async_ring, &SharedRegion::cq_ring}) {
        for (uint64_t directory : {uint64_t{0}, GuestRam::hole, guest.ram.page()}) {
            (guest.region().*ring).pdir_dma = directory;
            EXPECT_FALSE(guest.bring_up());
            guest.write(reg_dsr_high, 0);
            guest.write(reg_ctl, ctl_reset);
            guest.region() = right;
        }
    }
    guest.set_up();
    expect_alive();
}

// Use after free: a command before the shared region was set, or after it was
// taken away.
TEST_F(PvrdmaSecurity, Cve2022_1050_commands_need_a_shared_region)
{
    EXPECT_NE(guest.post(cmd_create_pd, CmdCreatePd{}), 0u);
    EXPECT_EQ(guest.stats.guest_command_errors, 1u);
    guest.set_up();
    guest.write(reg_ctl, ctl_reset);
    EXPECT_NE(guest.post(cmd_create_pd, CmdCreatePd{}), 0u);
    guest.set_up();
    guest.write_dsr(GuestRam::hole);
    EXPECT_NE(guest.post(cmd_create_pd, CmdCreatePd{}), 0u);
    guest.set_up();
    expect_alive();
}

// Out-of-bounds read through an unbounded number of ring pages.
TEST_F(PvrdmaSecurity, Cve2023_1544_ring_page_count_is_bounded)
{
    for (uint32_t pages : {65u, 513u, 0x10000u, 0xffffffffu}) {
        guest.region().async_ring.num_pages = pages;
        EXPECT_FALSE(guest.bring_up());
        guest.region().async_ring.num_pages = 4;
        guest.region().cq_ring.num_pages = pages;
        EXPECT_FALSE(guest.bring_up());
        guest.region().cq_ring.num_pages = 4;
    }
    guest.set_up();
    std::vector<uint64_t> pages;
    auto qp = guest.qp_command({}, pages);
    qp.send_chunks = 65535; // the receive queue would begin far beyond
    qp.total_chunks = 65535;
    EXPECT_EQ(guest.post(cmd_create_qp, qp), static_cast<uint32_t>(EINVAL));
    auto cq = guest.cq_command(64, pages);
    cq.nchunks = page_dir_max_pages + 1;
    EXPECT_NE(guest.post(cmd_create_cq, cq), 0u);
    expect_alive();
}

// Error paths that went on without taking the bad request off its ring.
TEST_F(PvrdmaSecurity, NoRecord_a_bad_request_is_taken_off_its_ring)
{
    guest.set_up();
    ModelQp qp = guest.create_qp({});
    qp.sq.next<pvrdma_sq_wqe_hdr>().opcode = 0xffff;
    qp.sq.publish();
    EXPECT_TRUE(guest.device.pull_send(qp.handle, *send));
    EXPECT_FALSE(guest.device.pull_send(qp.handle, *send));
}

// The same where the ring's state is in memory that cannot be written: the
// request would come again for ever.
TEST_F(PvrdmaSecurity, a_ring_whose_head_cannot_be_written_gives_no_requests)
{
    guest.set_up();
    std::vector<uint64_t> pages;
    auto cmd = guest.qp_command({}, pages);
    pages[0] = GuestRam::rom;
    cmd.pdir_dma = guest.ram.directory(pages);
    auto handle = guest.ask<RespCreateQpV2>(cmd_create_qp, cmd).qp_handle;
    // The same memory, now with an entry to take, but still read-only.
    alignas(8) std::array<uint32_t, 1024> state{1};
    const RdmaMemoryRegion table[] = {
        {GuestRam::base, GuestRam::size, &guest.ram.at<std::byte>(GuestRam::base), false},
        {GuestRam::rom, page_size, state.data(), true}};
    guest.memory.set_table(table);
    EXPECT_FALSE(guest.device.pull_send(handle, *send));
    EXPECT_FALSE(guest.device.pull_send(handle, *send));
    EXPECT_EQ(guest.stats.guest_ring_errors, 2u);
}

// Double fetch of hdr.cmd: the driver's slot can change while the device works.
// Here the response slot is the command slot, so that it does.
TEST_F(PvrdmaSecurity, NoRecord_a_command_is_fetched_once)
{
    guest.region().resp_slot_dma = guest.command_slot;
    ASSERT_TRUE(guest.bring_up());
    CmdCreatePd cmd{};
    EXPECT_EQ(guest.post(cmd_create_pd, cmd), 0u);
    auto resp = guest.ram.at<RespHandle>(guest.command_slot);
    EXPECT_EQ(resp.hdr.ack, cmd_create_pd | cmd_response_bit);
    EXPECT_EQ(guest.backend.pds.ids.size(), 1u);
}

// Double fetch of num_sge: the request is as it was when it was taken, whatever
// the guest writes later.
TEST_F(PvrdmaSecurity, NoRecord_num_sge_is_fetched_once)
{
    guest.set_up();
    ModelQp qp = guest.create_qp({});
    auto& wqe = qp.sq.next<pvrdma_sq_wqe_hdr>();
    wqe.opcode = PVRDMA_WR_SEND;
    wqe.num_sge = 1;
    qp.sq.publish();
    ASSERT_TRUE(guest.device.pull_send(qp.handle, *send));
    wqe.num_sge = 0xffff;
    EXPECT_EQ(send->wr.num_sge, 1);
}

// Off by one when a table of handles is full: whatever the kind, as many are
// made as are advertised, the handles stay below that, and one more is refused.
TEST(PvrdmaHandles, NoRecord_handles_stay_below_their_limit)
{
    // On the real engine, which hands them out.
    constexpr uint32_t limit = 8;
    Statistics stats;
    GuestMemory memory;
    Limits limits{};
    limits.max_pd = limits.max_mr = limits.max_cq = limits.max_srq = limits.max_qp = limit;
    limits.max_qp_wr = limits.max_srq_wr = 4;
    limits.max_sge = limits.gid_tbl_len = 1;
    struct NoLink final : roce::Link {
        bool send(std::span<const uint8_t>) override { return true; }
        Mac mac() override { return {}; }
        uint32_t mtu() override { return 1500; }
    } link;
    roce::Engine engine(limits, memory, stats, link);
    auto fill = [&](auto&& make, uint32_t first = 0) {
        uint32_t made = 0;
        for (Result<uint32_t> id = make(); id; id = make()) {
            EXPECT_LT(*id - first, limit);
            if (++made > limit) {
                break;
            }
        }
        EXPECT_LE(made, limit);
        EXPECT_GE(made, limit - 2); // handles 0 and 1 may be reserved
    };
    fill([&] { return engine.alloc_pd(); });
    fill([&] { return engine.create_cq(); });
    fill([&] { return engine.create_srq(0, {4, 1, 0}); });
    fill([&]() -> Result<uint32_t> {
        QpInit init;
        init.type = IBV_QPT_RC;
        init.cap = {4, 4, 1, 1, 0};
        auto numbers = engine.create_qp(init);
        return numbers ? Result<uint32_t>(numbers->id) : std::unexpected(numbers.error());
    });
    fill([&]() -> Result<uint32_t> {
        MrInit init;
        init.kind = MrInit::Kind::dma;
        auto keys = engine.reg_mr(init);
        return keys ? Result<uint32_t>(keys->id) : std::unexpected(keys.error());
    }, 1); // so that no key is 0
}

TEST_F(PvrdmaSecurity, NoRecord_contexts_stay_below_their_limit)
{
    PvrdmaConfig config = default_config();
    config.max_uar = 8;
    ModelGuest small(config);
    small.set_up();
    for (uint32_t i = 1; i < 8; ++i) {
        EXPECT_LT(small.ask<RespHandle>(cmd_create_uc, CmdCreateUc{}).handle, 8u);
    }
    EXPECT_EQ(small.post(cmd_create_uc, CmdCreateUc{}), static_cast<uint32_t>(ENOMEM));
}

// A ring's state was unmapped through a pointer that had been moved to the second
// half of it. Nothing is mapped here: the device finds a ring where guest memory
// is now, and when the queue ends leaves it as it is.
TEST_F(PvrdmaSecurity, NoRecord_a_ring_is_found_anew_and_left_alone_at_its_end)
{
    guest.set_up();
    ModelCq cq = guest.create_cq(4);
    ASSERT_TRUE(guest.device.complete(cq.handle, {}));
    ASSERT_EQ(cq.ring.tail(), 1u);
    guest.ram.move();
    ASSERT_TRUE(guest.device.complete(cq.handle, {}));
    EXPECT_EQ(cq.ring.tail(), 2u);
    EXPECT_EQ(guest.destroy(cmd_destroy_cq, cq.handle), 0u);
    EXPECT_FALSE(guest.device.complete(cq.handle, {}));
    EXPECT_EQ(cq.ring.tail(), 2u);
    EXPECT_EQ(cq.ring.head(), 0u);
    expect_alive();
}

// Whatever a guest writes wherever: it gets errors, and the device goes on.
TEST_F(PvrdmaSecurity, random_commands_and_doorbells_do_no_harm)
{
    guest.set_up();
    ModelQp qp = guest.create_qp({});
    std::mt19937_64 random(20231544);
    std::array<uint64_t, sizeof(CommandSlot) / 8> words{};
    const uint64_t addresses[] = {guest.ram.page(), guest.ram.directory(guest.ram.pages(8)),
                                  GuestRam::hole,   GuestRam::rom,
                                  guest.dsr,        UINT64_MAX - 4095};
    RecvRequest recv;
    for (int i = 0; i < 20000; ++i) {
        for (uint64_t& word : words) {
            switch (random() % 4) {
            case 0:
                word = random();
                break;
            case 1:
                word = random() % 4 | (random() % 4) << 32;
                break;
            case 2:
                word = addresses[random() % std::size(addresses)];
                break;
            default:
                word = 0;
            }
        }
        words[1] = random() % (cmd_max + 1);
        guest.ram.at<decltype(words)>(guest.command_slot) = words;
        guest.write(reg_request, 0);
        guest.ring(random() % 4 * 4, static_cast<uint32_t>(random() & 0xe000'0007));
        qp.sq.tail() = static_cast<uint32_t>(random() % 20);
        qp.sq.entry<uint64_t>(static_cast<uint32_t>(random() % 8)) = random();
        guest.device.pull_send(qp.handle, *send);
        guest.device.pull_srq_recv(static_cast<uint32_t>(random() % 3), recv);
        guest.device.complete(static_cast<uint32_t>(random() % 4), {});
        guest.device.async_event(static_cast<ibv_event_type>(random() % 22), 1);
    }
    guest.set_up();
    expect_alive();
}

} // namespace rdma::test
