// SPDX-License-Identifier: GPL-2.0-or-later
//
// Objects: made, counted, refused, ended.
#include <cerrno>

#include "backend_test.h"

namespace rdma::test {
namespace {

constexpr uint32_t no_such = 12345;

TEST_P(BackendTest, a_pd_exists_until_it_is_freed)
{
    uint32_t pd = a.backend->alloc_pd().value();
    EXPECT_TRUE(a.backend->exists(ObjectKind::pd, pd));
    EXPECT_EQ(a.backend->count(ObjectKind::pd), 2u);
    EXPECT_EQ(a.backend->dealloc_pd(pd), 0);
    EXPECT_FALSE(a.backend->exists(ObjectKind::pd, pd));
    EXPECT_EQ(a.backend->dealloc_pd(pd), ENOENT);
}

TEST_P(BackendTest, there_are_as_many_pds_as_the_limit_says)
{
    std::vector<uint32_t> pds;
    for (uint32_t i = 1; i < a.limits.max_pd; ++i) {
        pds.push_back(a.backend->alloc_pd().value());
        EXPECT_LT(pds.back(), a.limits.max_pd);
    }
    EXPECT_EQ(error_of(a.backend->alloc_pd()), ENOMEM);
    EXPECT_EQ(a.backend->dealloc_pd(pds.front()), 0);
    EXPECT_EQ(a.backend->alloc_pd().value(), pds.front());
}

TEST_P(BackendTest, a_pd_in_use_is_busy)
{
    EXPECT_EQ(a.backend->dealloc_pd(a.pd), EBUSY);
    EXPECT_EQ(a.backend->dereg_mr(a.mr.id), 0);
    QpNumbers qp = create(a, IBV_QPT_RC);
    EXPECT_EQ(a.backend->dealloc_pd(a.pd), EBUSY);
    EXPECT_EQ(a.backend->destroy_qp(qp.id), 0);
    uint32_t srq = a.backend->create_srq(a.pd, {16, 1, 0}).value();
    EXPECT_EQ(a.backend->dealloc_pd(a.pd), EBUSY);
    EXPECT_EQ(a.backend->destroy_srq(srq), 0);
    EXPECT_EQ(a.backend->dealloc_pd(a.pd), 0);
}

TEST_P(BackendTest, a_cq_in_use_is_busy)
{
    QpNumbers qp = create(a, IBV_QPT_UD);
    EXPECT_EQ(a.backend->destroy_cq(a.cq), EBUSY);
    EXPECT_EQ(a.backend->destroy_qp(qp.id), 0);
    EXPECT_EQ(a.backend->destroy_cq(a.cq), 0);
    EXPECT_EQ(a.backend->destroy_cq(a.cq), ENOENT);
    EXPECT_EQ(a.backend->count(ObjectKind::cq), 0u);
}

TEST_P(BackendTest, there_are_as_many_cqs_as_the_limit_says)
{
    for (uint32_t i = 1; i < a.limits.max_cq; ++i) {
        EXPECT_LT(a.backend->create_cq().value(), a.limits.max_cq);
    }
    EXPECT_EQ(error_of(a.backend->create_cq()), ENOMEM);
}

TEST_P(BackendTest, regions_with_bad_arguments_are_refused)
{
    const uint64_t page = ram_base;
    const uint64_t two[] = {ram_base, ram_base + page_size};
    auto error = [&](uint64_t iova, uint64_t length, int access, std::span<const uint64_t> pages) {
        return error_of(a.register_list(iova, length, access, pages));
    };
    EXPECT_EQ(error(0, 0, all_rights, {&page, 1}), EINVAL);
    EXPECT_EQ(error(0, page_size + 1, all_rights, {&page, 1}), EINVAL);
    EXPECT_EQ(error(1, page_size, all_rights, {&page, 1}), EINVAL);
    EXPECT_EQ(error(0, page_size, all_rights, two), EINVAL);
    EXPECT_EQ(error(0, ram_size + 1, all_rights, {&page, 1}), EINVAL);
    EXPECT_EQ(error(UINT64_MAX - 100, page_size, all_rights, {&page, 1}), EINVAL);
    EXPECT_EQ(error(0, page_size, IBV_ACCESS_REMOTE_WRITE, {&page, 1}), EINVAL);
    EXPECT_EQ(error(0, page_size, IBV_ACCESS_REMOTE_ATOMIC, {&page, 1}), EINVAL);
    a.pd = no_such;
    EXPECT_EQ(error(0, page_size, all_rights, {&page, 1}), ENOENT);
    EXPECT_EQ(a.backend->dereg_mr(no_such), ENOENT);
    EXPECT_EQ(a.backend->count(ObjectKind::mr), 1u);
}

TEST_P(BackendTest, there_are_as_many_regions_as_the_limit_says)
{
    for (uint32_t i = 1; i < a.limits.max_mr; ++i) {
        ASSERT_TRUE(a.register_pages(ram_base, page_size, all_rights).has_value());
    }
    EXPECT_EQ(error_of(a.register_pages(ram_base, page_size, all_rights)), ENOMEM);
    EXPECT_EQ(a.backend->count(ObjectKind::mr), a.limits.max_mr);
}

TEST_P(BackendTest, an_srq_keeps_its_attributes)
{
    uint32_t srq = a.backend->create_srq(a.pd, {32, 2, 0}).value();
    ibv_srq_attr attr{};
    EXPECT_EQ(a.backend->query_srq(srq, attr), 0);
    EXPECT_EQ(attr.max_wr, 32u);
    EXPECT_EQ(attr.srq_limit, 0u);
    EXPECT_EQ(a.backend->query_srq(no_such, attr), ENOENT);
    EXPECT_EQ(a.backend->modify_srq(srq, {64, 0, 0}, IBV_SRQ_MAX_WR), EINVAL);
    EXPECT_EQ(a.backend->modify_srq(srq, {0, 0, 33}, IBV_SRQ_LIMIT), EINVAL);
    EXPECT_EQ(a.backend->modify_srq(no_such, {0, 0, 1}, IBV_SRQ_LIMIT), ENOENT);
    EXPECT_EQ(error_of(a.backend->create_srq(a.pd, {a.limits.max_srq_wr + 1, 1, 0})), EINVAL);
    EXPECT_EQ(error_of(a.backend->create_srq(no_such, {32, 1, 0})), ENOENT);
    EXPECT_EQ(a.backend->destroy_srq(srq), 0);
    EXPECT_EQ(a.backend->destroy_srq(srq), ENOENT);
}

TEST_P(BackendTest, an_srq_in_use_is_busy)
{
    QpInit init = a.qp_init(IBV_QPT_RC);
    init.use_srq = true;
    init.srq = a.backend->create_srq(a.pd, {32, 1, 0}).value();
    QpNumbers qp = a.backend->create_qp(init).value();
    EXPECT_EQ(a.backend->destroy_srq(init.srq), EBUSY);
    EXPECT_EQ(a.backend->destroy_qp(qp.id), 0);
    EXPECT_EQ(a.backend->destroy_srq(init.srq), 0);
}

// [IBTA CA17-28]
TEST_P(BackendTest, a_qp_needs_parts_that_exist)
{
    auto error = [&](auto&& spoil) {
        QpInit init = a.qp_init(IBV_QPT_RC);
        spoil(init);
        return error_of(a.backend->create_qp(init));
    };
    EXPECT_EQ(error([](QpInit& i) { i.pd = no_such; }), ENOENT);
    EXPECT_EQ(error([](QpInit& i) { i.send_cq = no_such; }), ENOENT);
    EXPECT_EQ(error([](QpInit& i) { i.recv_cq = no_such; }), ENOENT);
    EXPECT_EQ(error([](QpInit& i) { i.use_srq = true, i.srq = no_such; }), ENOENT);
    EXPECT_EQ(error([](QpInit& i) { i.cap.max_send_wr = 257; }), EINVAL);
    EXPECT_EQ(error([](QpInit& i) { i.cap.max_recv_wr = 257; }), EINVAL);
    EXPECT_EQ(error([](QpInit& i) { i.cap.max_send_sge = 5; }), EINVAL);
    EXPECT_EQ(error([](QpInit& i) { i.type = IBV_QPT_RAW_PACKET; }), EINVAL);
    EXPECT_EQ(a.backend->count(ObjectKind::qp), 0u);
    // What was refused holds nothing.
    EXPECT_EQ(a.backend->destroy_cq(a.cq), 0);
}

TEST_P(BackendTest, there_are_as_many_qps_as_the_limit_says)
{
    std::vector<QpNumbers> qps;
    for (uint32_t i = 2; i < a.limits.max_qp; ++i) {
        auto qp = a.backend->create_qp(a.qp_init(IBV_QPT_RC, 4));
        ASSERT_TRUE(qp.has_value()) << i;
        EXPECT_LT(qp->id, a.limits.max_qp);
        EXPECT_NE(qp->qpn, 0u);
        qps.push_back(*qp);
    }
    EXPECT_EQ(error_of(a.backend->create_qp(a.qp_init(IBV_QPT_RC, 4))), ENOMEM);
    for (const QpNumbers& qp : qps) {
        EXPECT_EQ(a.backend->destroy_qp(qp.id), 0);
    }
    EXPECT_EQ(a.backend->count(ObjectKind::qp), 0u);
    EXPECT_EQ(a.backend->destroy_qp(qps[0].id), ENOENT);
}

TEST_P(BackendTest, there_is_one_gsi_qp)
{
    QpInit init = a.qp_init(IBV_QPT_UD);
    init.gsi = true;
    QpNumbers qp = a.backend->create_qp(init).value();
    EXPECT_EQ(qp.qpn, 1u);
    EXPECT_EQ(error_of(a.backend->create_qp(init)), EBUSY);
    EXPECT_EQ(to_init(a, qp.id, IBV_QPT_UD), 0);
    EXPECT_EQ(a.backend->destroy_qp(qp.id), 0);
}

TEST_P(BackendTest, gids_that_make_no_sense_are_refused)
{
    EXPECT_EQ(a.backend->add_gid(a.limits.gid_tbl_len, a.gid, 2, {}), EINVAL);
    EXPECT_EQ(a.backend->add_gid(1, a.gid, 0, {}), EINVAL);
    EXPECT_EQ(a.backend->add_gid(1, a.gid, 3, {}), EINVAL);
    EXPECT_EQ(a.backend->del_gid(1), EINVAL);
    EXPECT_EQ(a.backend->del_gid(0), 0);
    EXPECT_EQ(a.backend->del_gid(0), EINVAL);
}

TEST_P(BackendTest, nothing_is_left_by_a_reset)
{
    connect_pair();
    a.post_recv(qa.id, recv_request(1, target, 4096, a.mr.lkey));
    QpInit init = a.qp_init(IBV_QPT_RC);
    init.use_srq = true;
    init.srq = a.backend->create_srq(a.pd, {32, 1, 0}).value();
    ASSERT_TRUE(a.backend->create_qp(init).has_value());
    a.backend->reset();
    for (auto kind :
         {ObjectKind::pd, ObjectKind::mr, ObjectKind::cq, ObjectKind::srq, ObjectKind::qp}) {
        EXPECT_EQ(a.backend->count(kind), 0u);
    }
    a.recv_queues.clear();
    a.completions.clear();
    // And it is of use again.
    a.set_up(*a.backend);
    ASSERT_EQ(b.backend->destroy_qp(qb.id), 0);
    connect_pair();
    b.post_recv(qb.id, recv_request(2, target, 4096, b.mr.lkey));
    a.post_send(qa.id, send_request(IBV_WR_SEND, 3, source, 100, a.mr.lkey));
    EXPECT_EQ(next(b)[0].wc.status, IBV_WC_SUCCESS);
}

TEST_P(BackendTest, doorbells_of_no_queue_are_counted)
{
    a.backend->send_doorbell(50);
    a.backend->recv_doorbell(50);
    EXPECT_EQ(a.stats.guest_doorbell_errors, 2u);
}

} // namespace
} // namespace rdma::test
