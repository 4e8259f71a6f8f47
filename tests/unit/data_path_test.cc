// SPDX-License-Identifier: GPL-2.0-or-later
//
// The data path of two whole devices, joined: what it must not do.
#include "counted_heap.h"
#include "whole_device.h"

#include <gtest/gtest.h>

namespace rdma::test {
namespace {

constexpr uint64_t buffer_size = 1 << 20;

struct End {
    explicit End(uint8_t own) : device(own), number(own)
    {
        device.bring_up();
        pd = device.create_pd().value();
        cq = device.create_cq(cq_slots, device.queue_pages(WholeDevice::cq_pages(cq_slots))).value();
        buffer = device.ram.pages(buffer_size / page_size);
        mr = device.register_ram(pd, buffer, buffer_size);
        for (DeviceQp& qp : qps) {
            qp = device.create_qp(shape, pd, cq.handle, device.qp_pages(shape)).value();
        }
    }

    static constexpr uint32_t cq_slots = 1024;
    const QueueShape shape{};
    WholeDevice device;
    uint8_t number;
    uint32_t pd;
    DeviceCq cq;
    uint64_t buffer;
    DeviceMr mr;
    std::array<DeviceQp, 8> qps{};
};

class DataPath : public testing::Test {
protected:
    void SetUp() override
    {
        WholeDevice::join(a.device, b.device);
        for (size_t i = 0; i < a.qps.size(); ++i) {
            a.device.connect(a.qps[i], b.number, b.qps[i].qpn);
            b.device.connect(b.qps[i], a.number, a.qps[i].qpn);
        }
    }

    // On every QP so many requests of each kind, all done before the next burst.
    void burst(unsigned depth, uint32_t size)
    {
        unsigned sent = 0;
        for (size_t i = 0; i < a.qps.size(); ++i) {
            for (unsigned n = 0; n < depth; ++n) {
                WrOpcode opcode = n % 3 == 0 ? wr_send : n % 3 == 1 ? wr_rdma_write : wr_rdma_read;
                if (opcode == wr_send) {
                    b.device.post_recv(b.qps[i], n, b.buffer, size, b.mr.lkey);
                    ++sent;
                }
                a.device.post_send(a.qps[i], opcode, n, a.buffer, size, a.mr.lkey, b.buffer,
                                   b.mr.rkey);
            }
            a.device.ring_send(a.qps[i]);
        }
        while (a.device.run_timer() || b.device.run_timer()) {
        }
        ASSERT_EQ(completions(a), depth * a.qps.size());
        ASSERT_EQ(completions(b), sent);
    }
    static unsigned completions(End& end)
    {
        unsigned count = 0;
        while (const Cqe* cqe = end.device.poll(end.cq)) {
            EXPECT_EQ(cqe->status, 0u);
            ++count;
        }
        return count;
    }

    End a{1};
    End b{2};
};

// Idle queue pairs give back what they have used; that a busy one takes it again
// and again must cost nothing either.
TEST_F(DataPath, AllocatesNothingInSteadyState)
{
    for (unsigned depth : {1u, 8u, 64u}) {
        for (int i = 0; i < 20; ++i) {
            burst(depth, 5000);
        }
        size_t before = allocations;
        for (int i = 0; i < 100; ++i) {
            burst(depth, 5000);
        }
        EXPECT_EQ(allocations, before) << "bursts of " << depth;
    }
}

} // namespace
} // namespace rdma::test
