// SPDX-License-Identifier: GPL-2.0-or-later
//
// A whole device behind an IOMMU: what it is given are addresses of the IOMMU's, and a mapping may
// be taken away at any time. guest_memory_test has the cache of translations.
#include "whole_device.h"

#include <functional>
#include <set>

#include <gtest/gtest.h>

namespace rdma::test {
namespace {

constexpr uint8_t number = 1;
constexpr uint64_t shift = uint64_t{1} << 40; // from the IOMMU's addresses to those of the table

class TranslatedDevice : public WholeDevice {
public:
    TranslatedDevice() : WholeDevice(number) { turn_on(); }

    void turn_on()
    {
        RdmaMemoryRegion region = ram.region();
        region.gpa += shift;
        rdma_device_set_memory(handle(), &region, 1);
        rdma_device_set_translation(handle(), translate);
    }
    void turn_off()
    {
        RdmaMemoryRegion region = ram.region();
        rdma_device_set_memory(handle(), &region, 1);
        rdma_device_set_translation(handle(), nullptr);
    }
    void unmap(uint64_t page)
    {
        unmapped.insert(page);
        rdma_device_invalidate_translations(handle());
    }

    std::set<uint64_t> unmapped;
    std::set<uint64_t> read_only;
    std::set<uint64_t> write_only;
    std::function<void(uint64_t page)> before_translation;

private:
    static bool translate(void* opaque, uint64_t address, bool write, uint64_t* gpa)
    {
        auto& self = *static_cast<TranslatedDevice*>(static_cast<WholeDevice*>(opaque));
        if (self.before_translation) {
            self.before_translation(address);
        }
        *gpa = address + shift;
        const auto& refused = write ? self.read_only : self.write_only;
        return !self.unmapped.contains(address) && !refused.contains(address);
    }
};

// Pairs of queue pairs of one device, and a region of four pages.
struct Translation : testing::Test {
    static constexpr uint32_t length = 2 * page_size;

    void SetUp() override
    {
        device.bring_up();
        pd = device.create_pd().value();
        cq = device.create_cq(64, device.queue_pages(WholeDevice::cq_pages(64))).value();
        source = device.ram.pages(4);
        target = source + 2 * page_size;
        key = device.register_ram(pd, source, 4 * page_size).lkey;
        for (auto* qp : {&a, &b, &c, &d}) {
            *qp = device.create_qp({}, pd, cq.handle, device.qp_pages({})).value();
        }
        connect(a, b);
        connect(c, d);
    }
    void connect(const DeviceQp& one, const DeviceQp& other)
    {
        device.connect(one, number, other.qpn);
        device.connect(other, number, one.qpn);
    }
    // The status of a request from source to target; -1: none has completed.
    int run(const DeviceQp& qp, WrOpcode opcode = wr_rdma_write)
    {
        device.ram.at<uint64_t>(source + length - 8) = ++value;
        device.post_send(qp, opcode, value, source, length, key, target, key);
        device.ring_send(qp);
        const Cqe* cqe = device.poll(cq);
        return cqe && cqe->wr_id == value ? static_cast<int>(cqe->status) : -1;
    }
    uint64_t last_word() { return device.ram.at<uint64_t>(target + length - 8); }
    void expect_works(const DeviceQp& qp)
    {
        EXPECT_EQ(run(qp), IBV_WC_SUCCESS);
        EXPECT_EQ(last_word(), value);
    }

    TranslatedDevice device;
    uint32_t pd = 0;
    DeviceCq cq{};
    DeviceQp a{}, b{}, c{}, d{};
    uint64_t source = 0;
    uint64_t target = 0;
    uint32_t key = 0;
    uint64_t value = 0;
};

TEST_F(Translation, a_device_behind_an_iommu_works)
{
    expect_works(a);
    expect_works(b);
}

TEST_F(Translation, a_source_that_is_unmapped_is_a_local_error_of_that_request)
{
    expect_works(a);
    device.unmap(source + page_size);
    EXPECT_EQ(run(a), IBV_WC_LOC_PROT_ERR);
    device.unmapped.clear();
    expect_works(c);
}

TEST_F(Translation, a_target_that_is_unmapped_is_a_remote_access_error_of_that_request)
{
    expect_works(a);
    device.unmap(target + page_size);
    EXPECT_EQ(run(a), IBV_WC_REM_ACCESS_ERR);
    EXPECT_EQ(last_word(), value - 1);
    device.unmapped.clear();
    expect_works(c);
}

TEST_F(Translation, a_target_that_may_only_be_read_is_not_written)
{
    device.read_only.insert(target + page_size);
    EXPECT_EQ(run(a), IBV_WC_REM_ACCESS_ERR);
    EXPECT_EQ(last_word(), 0u);
}

// Linux maps what a device only writes for writing alone.
TEST_F(Translation, a_region_may_be_for_writing_only)
{
    device.write_only = {target, target + page_size};
    rdma_device_invalidate_translations(device.handle());
    auto directory = device.ram.directory(target, 2);
    auto region = device.register_memory(pd, target, length, directory);
    ASSERT_TRUE(region.has_value()) << region.error();
    device.ram.at<uint64_t>(source + length - 8) = 7;
    device.post_send(a, wr_rdma_write, 1, source, length, key, target, region->rkey);
    device.ring_send(a);
    const Cqe* cqe = device.poll(cq);
    ASSERT_TRUE(cqe);
    EXPECT_EQ(cqe->status, static_cast<uint32_t>(IBV_WC_SUCCESS));
    EXPECT_EQ(last_word(), 7u);
}

TEST_F(Translation, a_read_into_what_is_unmapped_is_a_local_error)
{
    device.unmap(source);
    EXPECT_EQ(run(a, wr_rdma_read), IBV_WC_LOC_PROT_ERR);
    device.unmapped.clear();
    expect_works(c);
}

TEST_F(Translation, the_guest_turns_it_off_and_on_again)
{
    expect_works(a);
    device.turn_off();
    expect_works(a);
    device.turn_on();
    expect_works(a);
    device.unmap(source);
    EXPECT_EQ(run(a), IBV_WC_LOC_PROT_ERR);
}

// An IOMMU reports what it refuses by an interrupt, which the guest may have written into the
// register that resets the device.
TEST_F(Translation, a_reset_that_comes_from_a_translation_ends_the_access)
{
    rdma_device_invalidate_translations(device.handle());
    device.before_translation = [this](uint64_t page) {
        if (page == target) {
            device.reset();
        }
    };
    EXPECT_EQ(run(a), -1);
    EXPECT_EQ(device.ram.at<uint64_t>(target), 0u);
    EXPECT_EQ(last_word(), 0u);
}

} // namespace
} // namespace rdma::test
