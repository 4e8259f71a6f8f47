// SPDX-License-Identifier: GPL-2.0-or-later
//
// A virtio RDMA device that has as many objects of a kind as it may have.
#include <gtest/gtest.h>

#include <array>
#include <utility>
#include <vector>

#include "virtio_rdma_guest.h"

namespace rdma::test {
namespace {

// A device on which a few of each kind may be.
class VirtioRdmaFullTables : public ::testing::Test {
protected:
    static VirtioRdmaConfig few()
    {
        VirtioRdmaConfig config = VirtioGuest::defaults();
        config.max_pd = 3;
        config.max_mr = 3;
        config.max_cq = 3;
        config.max_srq = 3;
        config.max_qp = 3;
        return config;
    }
    VirtioRdmaFullTables() { guest.bring_up(); }

    // Creates until there are three, then one more, and again after one has gone.
    template <typename Create>
    void expect_three(const char* counted, uint32_t destroy, Create&& create)
    {
        std::vector<uint32_t> numbers;
        while (numbers.size() < 3 - held) {
            auto [status, number] = create();
            ASSERT_EQ(status, VIRTIO_RDMA_OK) << counted;
            numbers.push_back(number);
        }
        EXPECT_EQ(create().first, VIRTIO_RDMA_ERR_LIMIT) << counted;
        EXPECT_EQ(guest.statistic(counted), 3u);
        EXPECT_EQ(guest.simple(destroy, numbers.front()), VIRTIO_RDMA_OK);
        numbers.erase(numbers.begin());
        auto [status, number] = create();
        EXPECT_EQ(status, VIRTIO_RDMA_OK) << counted;
        EXPECT_EQ(create().first, VIRTIO_RDMA_ERR_LIMIT) << counted;
        EXPECT_EQ(guest.simple(destroy, number), VIRTIO_RDMA_OK);
        for (uint32_t one : numbers) {
            EXPECT_EQ(guest.simple(destroy, one), VIRTIO_RDMA_OK);
        }
        EXPECT_EQ(guest.statistic(counted), held);
    }

    VirtioGuest guest{1, few()};
    uint32_t held = 0; // of the kind, beside those that are created
};

TEST_F(VirtioRdmaFullTables, AreAnsweredSoAndHaveRoomForOneWhenOneHasGone)
{
    auto number = [](auto answer) {
        return std::pair(answer.first, uint32_t{answer.second.object});
    };
    expect_three("pds", VIRTIO_RDMA_DESTROY_PD, [&] {
        return number(guest.ask(virtio_rdma_request{VIRTIO_RDMA_CREATE_PD, 0}));
    });
    uint64_t page = guest.ram.pages(8);
    uint32_t pd = guest.create_pd();
    expect_three("mrs", VIRTIO_RDMA_DESTROY_MR, [&] {
        virtio_rdma_create_mr request{{VIRTIO_RDMA_CREATE_MR, pd},
                                      VIRTIO_RDMA_MR_PAGES,
                                      12,
                                      0,
                                      VIRTIO_RDMA_LOCAL_WRITE,
                                      page,
                                      page_size};
        auto [status, reply] = guest.ask<virtio_rdma_create_mr_reply>(request, {&page, 1});
        return std::pair(status, uint32_t{reply.reply.object});
    });
    expect_three("cqs", VIRTIO_RDMA_DESTROY_CQ, [&] {
        return number(
            guest.ask(virtio_rdma_create_cq{{VIRTIO_RDMA_CREATE_CQ, 0}, 64, 0, page}, {&page, 1}));
    });
    expect_three("srqs", VIRTIO_RDMA_DESTROY_SRQ, [&] {
        return number(guest.ask(
            virtio_rdma_create_srq{{VIRTIO_RDMA_CREATE_SRQ, pd}, 0, 64, 64, page}, {&page, 1}));
    });
    GuestCq cq = guest.create_cq();
    auto create_qp = [&](uint8_t type) {
        virtio_rdma_create_qp request{};
        request.request = {VIRTIO_RDMA_CREATE_QP, pd};
        request.type = type;
        request.send_cq = request.recv_cq = cq.number;
        request.sq_entries = request.rq_entries = 64;
        request.sq_entry_size = request.rq_entry_size = 64;
        request.sq_state = request.rq_state = page;
        return number(guest.ask(request, std::array{page, page + page_size}));
    };
    expect_three("qps", VIRTIO_RDMA_DESTROY_QP, [&] { return create_qp(VIRTIO_RDMA_QP_RC); });
    // The GSI's is one of them, and exists once.
    EXPECT_EQ(create_qp(VIRTIO_RDMA_QP_GSI).first, VIRTIO_RDMA_OK);
    EXPECT_EQ(create_qp(VIRTIO_RDMA_QP_GSI).first, VIRTIO_RDMA_ERR_BUSY);
    held = 1;
    expect_three("qps", VIRTIO_RDMA_DESTROY_QP, [&] { return create_qp(VIRTIO_RDMA_QP_UD); });
}

} // namespace
} // namespace rdma::test
