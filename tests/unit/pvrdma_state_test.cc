// SPDX-License-Identifier: GPL-2.0-or-later
//
// The PVRDMA device saved and loaded: a second device takes over the guest of
// the first, with its memory as it is.
#include <gtest/gtest.h>

#include <memory>

#include "archive.h"
#include "device_state.h"
#include "pvrdma_guest.h"
#include "hw/pvrdma/state_fields.h"

namespace rdma::test {
namespace {

using migration::DeviceKind;
using migration::SectionKind;
using migration::Status;
using migration::StreamWriter;

struct PvrdmaState : testing::Test {
    ModelGuest guest;
    FakeHost new_host;
    Statistics new_stats;

    StatefulDevice parts(ModelGuest& g) { return {DeviceKind::pvrdma, "roce", g.device, g.backend, g.stats}; }
    std::vector<uint8_t> saved()
    {
        StreamWriter stream(DeviceKind::pvrdma);
        save_state(parts(guest), stream);
        auto bytes = stream.finish();
        return {bytes.begin(), bytes.end()};
    }
    // A device that has taken over guest's memory and backend.
    std::unique_ptr<PvrdmaDevice> taken_over(const PvrdmaConfig& config, std::string& error)
    {
        auto bytes = saved();
        auto device = std::make_unique<PvrdmaDevice>(config, new_host, guest.memory, guest.backend,
                                                     new_stats);
        Status status =
            load_state({DeviceKind::pvrdma, "roce", *device, guest.backend, new_stats}, bytes, true);
        error = status ? "" : status.error();
        return device;
    }
    std::unique_ptr<PvrdmaDevice> taken_over()
    {
        std::string error;
        auto device = taken_over(guest.config, error);
        EXPECT_EQ(error, "");
        return device;
    }
};

TEST_F(PvrdmaState, a_device_that_no_driver_has_touched_can_be_taken_over)
{
    auto device = taken_over();
    EXPECT_EQ(device->bar_read(PVRDMA_BAR_REGS, reg_version, 4), 20u);
    EXPECT_EQ(device->bar_read(PVRDMA_BAR_REGS, reg_imr, 4), ~0u);
}

TEST_F(PvrdmaState, registers_stay)
{
    guest.set_up();
    guest.write(reg_imr, 2);
    guest.post(cmd_resize_cq, CmdHandle{});
    uint32_t error = guest.read(reg_err);
    ASSERT_NE(error, 0u);
    auto device = taken_over();
    EXPECT_EQ(device->bar_read(PVRDMA_BAR_REGS, reg_err, 4), error);
    EXPECT_EQ(device->bar_read(PVRDMA_BAR_REGS, reg_imr, 4), 2u);
}

TEST_F(PvrdmaState, the_command_channel_goes_on)
{
    guest.set_up();
    auto device = taken_over();
    CmdCreatePd cmd{};
    cmd.hdr = {.response = 99, .cmd = cmd_create_pd, .reserved = 0};
    guest.ram.at<CmdCreatePd>(guest.command_slot) = cmd;
    device->bar_write(PVRDMA_BAR_REGS, reg_request, 0, 4);
    EXPECT_EQ(device->bar_read(PVRDMA_BAR_REGS, reg_err, 4), 0u);
    EXPECT_EQ(guest.response<RespHdr>().response, 99u);
    EXPECT_EQ(new_host.irqs[vector_response], 1);
}

TEST_F(PvrdmaState, completions_come_where_the_old_device_left_off)
{
    guest.set_up();
    ModelQp qp = guest.create_qp({});
    Completion completion;
    completion.qp = qp.handle;
    completion.wc.wr_id = 1;
    ASSERT_TRUE(guest.device.complete(guest.cq.handle, completion));
    guest.ring(uar_cq_offset, guest.cq.handle | uar_cq_arm);
    auto device = taken_over();
    completion.wc.wr_id = 2;
    ASSERT_TRUE(device->complete(guest.cq.handle, completion));
    ASSERT_EQ(guest.cq.ring.unread(), 2u);
    EXPECT_EQ(guest.cq.ring.take<pvrdma_cqe>().wr_id, 1u);
    EXPECT_EQ(guest.cq.ring.take<pvrdma_cqe>().wr_id, 2u);
    // It was armed at the old one.
    EXPECT_EQ(new_host.irqs[vector_cq], 1);
    EXPECT_EQ(guest.notifications().take<uint32_t>(), guest.cq.handle);
}

TEST_F(PvrdmaState, requests_are_taken_where_the_old_device_left_off)
{
    guest.set_up();
    ModelSrq srq = guest.create_srq(8, 2);
    ModelQp qp = guest.create_qp({.srq = srq.handle});
    for (uint64_t id = 1; id <= 2; ++id) {
        auto& send = qp.sq.next<pvrdma_sq_wqe_hdr>();
        send.wr_id = id;
        send.opcode = PVRDMA_WR_SEND;
        qp.sq.publish();
        auto& recv = srq.ring.next<pvrdma_rq_wqe_hdr>();
        recv.wr_id = 10 + id;
        srq.ring.publish();
    }
    SendRequest send;
    RecvRequest recv;
    ASSERT_TRUE(guest.device.pull_send(qp.handle, send));
    ASSERT_TRUE(guest.device.pull_srq_recv(srq.handle, recv));
    auto device = taken_over();
    ASSERT_TRUE(device->pull_send(qp.handle, send));
    EXPECT_EQ(send.wr.wr_id, 2u);
    EXPECT_FALSE(device->pull_send(qp.handle, send));
    ASSERT_TRUE(device->pull_srq_recv(srq.handle, recv));
    EXPECT_EQ(recv.wr_id, 12u);
}

TEST_F(PvrdmaState, event_rings_and_late_notifications_stay)
{
    guest.set_up();
    std::vector<ModelCq> cqs;
    for (int i = 0; i < 1030; ++i) {
        cqs.push_back(guest.create_cq(1));
        guest.ring(uar_cq_offset, cqs.back().handle | uar_cq_arm);
        ASSERT_TRUE(guest.device.complete(cqs.back().handle, {}));
    }
    guest.device.async_event(IBV_EVENT_CQ_ERR, 3);
    auto notifications = guest.notifications();
    auto device = taken_over();
    device->async_event(IBV_EVENT_CQ_ERR, 4);
    auto events = guest.async_ring();
    EXPECT_EQ(events.take<EventEntry>().info, 3u);
    EXPECT_EQ(events.take<EventEntry>().info, 4u);
    // The ring had room for 1024; the others come when there is room again.
    for (int i = 0; i < 1024; ++i) {
        ASSERT_EQ(notifications.take<uint32_t>(), cqs[static_cast<size_t>(i)].handle);
    }
    device->bar_write(PVRDMA_BAR_UAR, 4096 + uar_cq_offset, cqs[0].handle | uar_cq_arm, 4);
    for (int i = 1024; i < 1030; ++i) {
        ASSERT_EQ(notifications.take<uint32_t>(), cqs[static_cast<size_t>(i)].handle);
    }
}

TEST_F(PvrdmaState, a_carrier_that_is_gone_at_the_destination_is_told)
{
    guest.set_up();
    auto device = taken_over();
    device->start();
    EXPECT_EQ(new_host.irqs[vector_async], 0);
    new_host.nic.link_up = false;
    device->start();
    EXPECT_EQ(new_host.irqs[vector_async], 1);
    EXPECT_EQ(guest.async_ring().take<EventEntry>().type, +IBV_EVENT_PORT_ERR);
}

// With queues of 128 requests as perftest has them, in pages that do not follow
// one another. The other half of 1 KiB is the backend's.
TEST_F(PvrdmaState, a_qp_takes_at_most_512_bytes)
{
    guest.set_up();
    size_t before = saved().size();
    for (int i = 0; i < 10; ++i) {
        guest.create_qp({.send_wr = 128, .recv_wr = 512, .send_sge = 1, .recv_sge = 1});
    }
    EXPECT_LE(saved().size() - before, 10u * 512);
}

TEST_F(PvrdmaState, counters_stay)
{
    guest.set_up();
    guest.stats.tx_packets = 1234567;
    taken_over();
    EXPECT_EQ(new_stats.tx_packets, 1234567u);
    EXPECT_EQ(new_stats.commands, guest.stats.commands);
}

TEST_F(PvrdmaState, another_configuration_is_refused_by_name)
{
    guest.set_up();
    struct Other {
        uint32_t PvrdmaConfig::* field;
        uint32_t value;
        std::string message;
    };
    const Other others[] = {
        {&PvrdmaConfig::max_qp, 1000, "property 'max-qp' is 1000 here and 32768 in the saved state"},
        {&PvrdmaConfig::version, 19, "property 'version' is 19 here and 20 in the saved state"},
        {&PvrdmaConfig::roce_version, 1, "property 'roce' is 1 here and 2 in the saved state"},
        {&PvrdmaConfig::max_cq, 8192, "property 'max-cq' is 8192 here and 4096 in the saved state"},
        {&PvrdmaConfig::max_uar, 1024, "property 'max-uar' is 1024 here and 512 in the saved state"},
    };
    for (const Other& other : others) {
        PvrdmaConfig config = guest.config;
        config.*other.field = other.value;
        std::string error;
        taken_over(config, error);
        EXPECT_EQ(error, other.message);
    }
}

// Every object of the one side must have its other half.
TEST_F(PvrdmaState, objects_that_one_side_lacks_are_refused)
{
    guest.set_up();
    guest.create_qp({});
    auto bytes = saved();
    guest.backend.qps.ids.insert(500);
    PvrdmaDevice device(guest.config, new_host, guest.memory, guest.backend, new_stats);
    Status status = load_state({DeviceKind::pvrdma, "roce", device, guest.backend, new_stats}, bytes, true);
    ASSERT_FALSE(status.has_value());
    EXPECT_EQ(status.error(), "the objects of the device and of its backend are not the same");

    guest.backend.qps.ids.clear();
    PvrdmaDevice other(guest.config, new_host, guest.memory, guest.backend, new_stats);
    status = load_state({DeviceKind::pvrdma, "roce", other, guest.backend, new_stats}, bytes, true);
    ASSERT_FALSE(status.has_value());
    EXPECT_NE(status.error().find("section pvrdma-qp: QP"), std::string::npos) << status.error();
}

// A ring's pages are a few bytes of a stream, however many they are.
TEST_F(PvrdmaState, rings_with_more_pages_than_their_entries_take_are_refused)
{
    guest.set_up();
    ModelSrq srq = guest.create_srq(8, 2);
    guest.create_qp({});
    guest.create_qp({.srq = srq.handle});
    auto bytes = saved();
    auto widen = [](GuestRing& ring, uint32_t to) {
        std::vector<uint64_t> pages;
        for (uint64_t i = 0; i < to; ++i) {
            pages.push_back(i * page_size);
        }
        ring = GuestRing(ring.state(), std::move(pages), ring.entry_size(), ring.slots());
    };
    // The stream with one ring changed: widened(kind, fn) of each section of that kind.
    auto error_of = [&](SectionKind kind, unsigned which, auto&& change) {
        StreamWriter changed(DeviceKind::pvrdma);
        auto reader = migration::StreamReader::open(bytes, DeviceKind::pvrdma);
        while (auto section = reader->next()) {
            if (section->kind == kind && which-- == 0) {
                changed.section(kind, [&](auto& a) { change(*section, a); });
            } else {
                changed.section(section->kind, [&](auto& a) { a.bytes("", section->body); });
            }
        }
        PvrdmaDevice device(guest.config, new_host, guest.memory, guest.backend, new_stats);
        Status status = load_state({DeviceKind::pvrdma, "roce", device, guest.backend, new_stats},
                                   changed.finish(), true);
        return status ? std::string() : status.error();
    };
    auto of_object = [&]<typename Object>(Object object, auto&& change) {
        return [=](const migration::Section& section, auto& a) mutable {
            uint32_t handle = 0;
            EXPECT_TRUE(migration::read_section(
                section, [&](auto& b) { describe(b, handle, object); }).has_value());
            change(object);
            describe(a, handle, object);
        };
    };
    using Qp = PvrdmaDevice::Qp;
    const std::string too_many = "field 'pages' has too many pages";
    auto in = [&](const char* name) { return std::string("section ") + name + ": " + too_many; };
    for (uint32_t more : {300u, 32768u}) {
        EXPECT_EQ(error_of(SectionKind::pvrdma_qp, 0,
                           of_object(Qp{}, [&](Qp& qp) { widen(qp.sq, more); })),
                  in("pvrdma-qp"));
        EXPECT_EQ(error_of(SectionKind::pvrdma_qp, 0,
                           of_object(Qp{}, [&](Qp& qp) { widen(qp.rq, more); })),
                  in("pvrdma-qp"));
        EXPECT_EQ(error_of(SectionKind::pvrdma_qp, 1,
                           of_object(Qp{}, [&](Qp& qp) { widen(qp.rq, more); })),
                  in("pvrdma-qp")) << "of a QP that has no receive queue";
        EXPECT_EQ(error_of(SectionKind::pvrdma_cq, 0,
                           of_object(PvrdmaDevice::Cq{},
                                     [&](PvrdmaDevice::Cq& cq) { widen(cq.ring, more); })),
                  in("pvrdma-cq"));
        EXPECT_EQ(error_of(SectionKind::pvrdma_srq, 0,
                           of_object(PvrdmaDevice::Srq{},
                                     [&](PvrdmaDevice::Srq& s) { widen(s.ring, more); })),
                  in("pvrdma-srq"));
    }
    // Fewer leave entries without a page.
    EXPECT_NE(error_of(SectionKind::pvrdma_qp, 0, of_object(Qp{}, [&](Qp& qp) { widen(qp.sq, 0); })),
              "");
    auto of_device = [&](auto&& change) {
        return [=](const migration::Section& section, auto& a) {
            pvrdma::DeviceState state;
            EXPECT_TRUE(
                migration::read_section(section, [&](auto& b) { describe(b, state); }).has_value());
            change(state);
            describe(a, state);
        };
    };
    EXPECT_EQ(error_of(SectionKind::pvrdma_device, 0,
                       of_device([&](pvrdma::DeviceState& d) { widen(d.async_ring, 64); })),
              in("pvrdma-device"));
    EXPECT_EQ(error_of(SectionKind::pvrdma_device, 0,
                       of_device([&](pvrdma::DeviceState& d) { widen(d.cq_notification_ring, 64); })),
              in("pvrdma-device"));
    EXPECT_EQ(error_of(SectionKind::pvrdma_device, 0,
                       of_device([&](pvrdma::DeviceState& d) { widen(d.async_ring, 63); })),
              "");
}

// A stream may have queues beside a shared region that is not set up, as no device has. An entry
// of an event ring without pages would be looked for behind their list.
TEST_F(PvrdmaState, event_rings_of_a_shared_region_that_is_not_set_up_are_checked)
{
    guest.set_up();
    auto bytes = saved();
    for (auto ring : {&pvrdma::DeviceState::async_ring, &pvrdma::DeviceState::cq_notification_ring}) {
        StreamWriter changed(DeviceKind::pvrdma);
        auto reader = migration::StreamReader::open(bytes, DeviceKind::pvrdma);
        while (auto section = reader->next()) {
            if (section->kind != SectionKind::pvrdma_device) {
                changed.section(section->kind, [&](auto& a) { a.bytes("", section->body); });
                continue;
            }
            pvrdma::DeviceState state;
            ASSERT_TRUE(
                migration::read_section(*section, [&](auto& a) { describe(a, state); }).has_value());
            state.ready = false;
            state.*ring = GuestRing((state.*ring).state(), {}, page_size, 1u << 30);
            changed.section(section->kind, [&](auto& a) { describe(a, state); });
        }
        PvrdmaDevice device(guest.config, new_host, guest.memory, guest.backend, new_stats);
        Status status = load_state({DeviceKind::pvrdma, "roce", device, guest.backend, new_stats},
                                   changed.finish(), true);
        ASSERT_FALSE(status.has_value());
        EXPECT_EQ(status.error(), "section pvrdma-device: an event ring does not fit its pages");
    }
}

} // namespace
} // namespace rdma::test
