// SPDX-License-Identifier: GPL-2.0-or-later
//
// Calls that come back: a guest may aim an MSI message at the device's own
// registers, or at what resets or removes the device, so that raising an
// interrupt leads back into the device. At that time nothing may be half done.
// Sending a frame leads back as well: a network that delivers at once has another card
// of the VM raise an interrupt, with such a message.
#include <gtest/gtest.h>

#include <infiniband/verbs.h>

#include <algorithm>
#include <map>
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

// The device reports changes of the carrier to a guest whose interrupt changes the carrier.
TEST_F(DeviceBoundary, interrupts_that_lead_to_interrupts_leave_the_host_its_thread)
{
    bool up = true;
    unsigned raised = 0;
    machine->on_irq = [&](unsigned) {
        if (++raised < 1000) {
            machine->set_link(up = !up);
        }
    };
    machine->set_link(up = !up);
    EXPECT_LE(raised, 16u);
    EXPECT_EQ(machine->deadline(), 0) << "and go on from the timer";
    unsigned before = raised;
    machine->advance(0);
    EXPECT_GT(raised, before);
}

// A QP of a type, towards another host; frames go to the test.
class Sending : public testing::TestWithParam<uint8_t> {
protected:
    static constexpr uint32_t requests = 8;
    static constexpr uint8_t peer = 2;

    void SetUp() override { set_up(); }
    void set_up()
    {
        machine->bring_up();
        machine->bind_gid(0, machine->host());
        pd = machine->create_pd();
        cq = machine->create_cq(64, cq_handle);
        lkey = machine->register_memory(pd, machine->pages(4), iova).lkey;
        qp = machine->create_qp(GetParam(), pd, cq_handle);
        machine->connect(qp, GetParam(), peer, peer_qpn, 0, 7);
        machine->ring(1, uar_cq_offset, uar_cq_arm | cq_handle);
        machine->set_dirty_log(true);
        machine->on_irq = [this](unsigned) { ++interrupts; };
        machine->on_send = [this](std::span<const uint8_t> frame) {
            ++frames[psn_of(frame)];
            if (auto once = std::exchange(during_send, nullptr)) {
                once();
            }
        };
    }
    void post()
    {
        struct {
            SqWqeHdr hdr;
            Sge sge;
        } wqe{};
        wqe.hdr.wr_id = posted++;
        wqe.hdr.num_sge = 1;
        wqe.hdr.opcode = wr_send;
        wqe.hdr.send_flags = IBV_SEND_SIGNALED;
        if (GetParam() == qpt_ud) {
            wqe.hdr.wr.ud = {peer_qpn, 0x11111111, Machine::address_vector(peer, pd)};
        }
        wqe.sge = {iova, 100, lkey};
        machine->publish(qp.sq, &wqe, sizeof(wqe));
    }
    // All requests, by one doorbell; then(): within the first send.
    void send(std::function<void()> then)
    {
        during_send = std::move(then);
        for (uint32_t i = 0; i < requests; ++i) {
            post();
        }
        machine->ring(1, uar_qp_offset, uar_qp_send | qp.handle);
    }
    unsigned num_frames() const
    {
        unsigned count = 0;
        for (auto [psn, times] : frames) {
            count += times;
        }
        return count;
    }
    std::vector<uint64_t> completed()
    {
        std::vector<uint64_t> ids;
        while (auto cqe = machine->poll(cq)) {
            EXPECT_EQ(cqe->status, +IBV_WC_SUCCESS);
            ids.push_back(cqe->wr_id);
        }
        return ids;
    }
    std::vector<std::byte> ram()
    {
        const std::byte* bytes = machine->at(Machine::ram, Machine::ram_size);
        return {bytes, bytes + Machine::ram_size};
    }
    // That the peer has had all that there is to be had; UC and UD: once.
    void expect_all_sent()
    {
        ASSERT_EQ(frames.size(), requests);
        EXPECT_EQ(frames.begin()->first, 0u);
        EXPECT_EQ(frames.rbegin()->first, requests - 1);
        if (GetParam() != qpt_rc) {
            EXPECT_EQ(num_frames(), requests);
            std::vector<uint64_t> all(requests);
            std::ranges::generate(all, [id = uint64_t{0}]() mutable { return id++; });
            EXPECT_EQ(completed(), all);
        } else {
            EXPECT_TRUE(completed().empty()) << "nothing is acknowledged";
        }
    }
    // IPv4: 14 + 20 + 8 bytes in front of the BTH, whose bytes 9 to 11 are the PSN.
    static uint32_t psn_of(std::span<const uint8_t> frame)
    {
        constexpr size_t at = 14 + 20 + 8 + 9;
        return static_cast<uint32_t>(frame[at] << 16 | frame[at + 1] << 8 | frame[at + 2]);
    }

    static constexpr uint32_t peer_qpn = 0x123;
    std::unique_ptr<Machine> machine = std::make_unique<Machine>();
    uint32_t pd = 0;
    Ring cq;
    uint32_t cq_handle = 0;
    uint32_t lkey = 0;
    GuestQp qp;
    uint64_t posted = 0;
    unsigned interrupts = 0;
    std::map<uint32_t, unsigned> frames; // how many, by PSN
    std::function<void()> during_send;
};

TEST_P(Sending, a_frame_may_reset_the_device)
{
    send([&] { machine->reset(); });
    EXPECT_EQ(num_frames(), 1u) << "nothing comes from a device that has been reset";
    EXPECT_EQ(interrupts, 0u);
    EXPECT_FALSE(machine->execute(cmd_create_pd, CmdCreatePd{})) << "no shared region any more";
    frames.clear();
    posted = 0;
    set_up();
    send([] {});
    expect_all_sent();
}

TEST_P(Sending, a_frame_may_end_the_device)
{
    send([&] { machine->unplug(); });
    EXPECT_EQ(num_frames(), 1u);
    EXPECT_EQ(interrupts, 0u);
}

TEST_P(Sending, a_device_that_has_been_reset_in_a_send_may_end_in_it)
{
    send([&] {
        machine->reset();
        machine->unplug();
    });
    EXPECT_EQ(num_frames(), 1u);
}

// The machine aborts where the device writes memory or raises an interrupt then.
TEST_P(Sending, a_device_that_is_stopped_in_a_send_rests_when_stop_returns)
{
    std::vector<std::byte> then;
    send([&] {
        machine->stop();
        then = ram();
    });
    EXPECT_EQ(num_frames(), 1u);
    EXPECT_TRUE(ram() == then);
    machine->advance(1'000'000'000);
    EXPECT_EQ(num_frames(), 1u);
    machine->start();
    expect_all_sent();
}

TEST_P(Sending, an_interrupt_that_is_due_comes_before_stop_returns)
{
    unsigned then = 0;
    send([&] {
        machine->stop();
        then = interrupts;
    });
    EXPECT_EQ(then, GetParam() == qpt_rc ? 0u : 1u) << "of the completion of what was sent";
    EXPECT_EQ(interrupts, then);
}

TEST_P(Sending, a_device_may_be_stopped_and_started_in_a_send)
{
    send([&] {
        machine->stop();
        machine->start();
    });
    expect_all_sent();
}

TEST_P(Sending, nothing_is_lost_or_repeated_when_a_device_is_saved_that_was_stopped_in_a_send)
{
    send([&] { machine->stop(); });
    auto state = machine->save();
    machine->unplug();
    machine->plug();
    machine->stop();
    ASSERT_EQ(machine->load(state), "");
    machine->start();
    expect_all_sent();
}

TEST_P(Sending, a_device_that_is_reset_and_stopped_in_a_send_is_stopped)
{
    send([&] {
        machine->reset();
        machine->stop();
    });
    machine->start();
    EXPECT_EQ(num_frames(), 1u);
    frames.clear();
    posted = 0;
    set_up();
    send([] {});
    expect_all_sent();
}

TEST_P(Sending, time_may_pass_in_a_send)
{
    send([&] { machine->advance(1'000'000); });
    expect_all_sent();
}

// Interrupts go out at the end of the call, when a frame may still lead to more.
TEST_P(Sending, an_interrupt_may_lead_to_a_frame_that_ends_the_device)
{
    machine->on_irq = [&](unsigned) {
        machine->on_irq = nullptr;
        during_send = [&] { machine->unplug(); };
        machine->advance(10'000'000'000); // what is not acknowledged is sent again
    };
    send([&] { machine->set_link(false); });
    if (GetParam() == qpt_rc) {
        EXPECT_FALSE(machine->is_plugged());
    }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, Sending, testing::Values(+qpt_rc, +qpt_uc, +qpt_ud),
                         [](const auto& param) {
                             return param.param == qpt_rc   ? "RC"
                                    : param.param == qpt_uc ? "UC"
                                                            : "UD";
                         });

} // namespace rdma::fuzz
