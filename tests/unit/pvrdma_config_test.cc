// SPDX-License-Identifier: GPL-2.0-or-later
#include <gtest/gtest.h>

#include "pvrdma_guest.h"

namespace rdma::test {

namespace {

std::string error_of(void (*change)(PvrdmaConfig&))
{
    PvrdmaConfig config = default_config();
    change(config);
    auto checked = check_config(config);
    return checked ? "" : checked.error();
}

} // namespace

TEST(PvrdmaConfig, the_default_is_valid_and_has_vmwares_limits_but_for_deeper_queues)
{
    PvrdmaConfig config = default_config();
    EXPECT_TRUE(check_config(config));
    EXPECT_EQ(config.version, 20u);
    EXPECT_EQ(config.roce_version, 2u);
    EXPECT_EQ(config.max_qp, 32768u);
    EXPECT_EQ(config.max_qp_wr, 16384u); // VMware: 1024; UCX asks for 4096
    EXPECT_EQ(config.max_sge, 16u);
    EXPECT_EQ(config.max_cq, 4096u);
    EXPECT_EQ(config.max_cqe, 262144u);
    EXPECT_EQ(config.max_mr, 262144u);
    EXPECT_EQ(config.max_mr_size, 0xffffffffu);
}

TEST(PvrdmaConfig, the_message_names_the_property_and_its_range)
{
    EXPECT_EQ(error_of([](PvrdmaConfig& c) { c.max_qp = 65536; }),
              "property 'max-qp' is 65536: it must be from 3 to 65535");
    EXPECT_EQ(error_of([](PvrdmaConfig& c) { c.max_qp_wr = 1000; }),
              "property 'max-qp-wr' is 1000: it must be a power of two from 1 to 32768");
}

struct BadLimit {
    const char* property;
    void (*change)(PvrdmaConfig&);
};
class PvrdmaBadLimit : public testing::TestWithParam<BadLimit> {};

TEST_P(PvrdmaBadLimit, is_refused_by_name)
{
    std::string error = error_of(GetParam().change);
    EXPECT_NE(error.find("'" + std::string(GetParam().property) + "'"), std::string::npos) << error;
}

#define BAD(property, member, value)                                                               \
    BadLimit                                                                                       \
    {                                                                                              \
        property, [](PvrdmaConfig& c) { c.member = value; }                                        \
    }
INSTANTIATE_TEST_SUITE_P(
    Limits, PvrdmaBadLimit,
    testing::Values(BAD("version", version, 16), BAD("version", version, 21),
                    BAD("roce-version", roce_version, 0), BAD("roce-version", roce_version, 3),
                    BAD("max-qp", max_qp, 2), BAD("max-qp-wr", max_qp_wr, 65536),
                    BAD("max-sge", max_sge, 0), BAD("max-sge", max_sge, 33),
                    BAD("max-cq", max_cq, 0), BAD("max-cqe", max_cqe, 3), BAD("max-mr", max_mr, 0),
                    BAD("max-mr", max_mr, 1u << 24), BAD("max-mr-size", max_mr_size, 4095),
                    BAD("max-pd", max_pd, 0), BAD("max-srq", max_srq, 65536),
                    BAD("max-srq-wr", max_srq_wr, 0), BAD("max-srq-sge", max_srq_sge, 33),
                    BAD("max-ah", max_ah, 0), BAD("max-uar", max_uar, 1),
                    BAD("max-uar", max_uar, 1000), BAD("gid-tbl-len", gid_tbl_len, 257),
                    BAD("max-qp-rd-atom", max_qp_rd_atom, 0),
                    BAD("max-qp-init-rd-atom", max_qp_init_rd_atom, 129)));
#undef BAD

TEST(PvrdmaConfig, version_17_is_for_roce_v1)
{
    EXPECT_NE(error_of([](PvrdmaConfig& c) { c.version = 17; }), "");
    EXPECT_EQ(error_of([](PvrdmaConfig& c) {
                  c.version = 17;
                  c.roce_version = 1;
              }),
              "");
}

TEST(PvrdmaConfig, qpns_may_differ_from_handles_from_version_20_on)
{
    PvrdmaConfig config = default_config();
    EXPECT_TRUE(limits_of(config).qpn_generations);
    config.version = 19;
    EXPECT_FALSE(limits_of(config).qpn_generations);
}

TEST(PvrdmaConfig, the_backend_serves_sges_rounded_up_as_the_driver_does)
{
    PvrdmaConfig config = default_config();
    config.max_sge = 30;
    EXPECT_EQ(limits_of(config).max_sge, 32u);
}

} // namespace rdma::test
