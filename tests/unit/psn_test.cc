// SPDX-License-Identifier: GPL-2.0-or-later
#include "psn.h"

#include <gtest/gtest.h>

namespace rdma::roce {
namespace {

constexpr Psn last{0xffffff};

// [IBTA 9.7.1-1]
TEST(Psn, has_24_bits)
{
    EXPECT_EQ(Psn(0x1000001).value(), 1u);
    EXPECT_EQ(Psn(0xffffffff), last);
}

// [IBTA 9.7.1-1]
TEST(Psn, wraps_when_it_counts)
{
    EXPECT_EQ(last + 2, Psn(1));
    EXPECT_EQ(Psn(1) - 2, last);
    Psn psn = last;
    EXPECT_EQ((++psn).value(), 0u);
    EXPECT_EQ((psn -= 1).value(), 0xffffffu);
    EXPECT_EQ((psn += 0x1000003).value(), 2u);
}

TEST(Psn, differs_by_the_shorter_way)
{
    EXPECT_EQ(Psn(0) - last, 1);
    EXPECT_EQ(last - Psn(0), -1);
    EXPECT_EQ(Psn(5) - Psn(5), 0);
    EXPECT_EQ(Psn(0x7fffff) - Psn(0), 0x7fffff);
}

// 9.7.1: of a responder that expects PSN e, [e - 2^23, e - 1] are duplicates and
// [e + 1, e + 2^23 - 1] are ahead.
// [IBTA 9.7.1-5]
TEST(Psn, is_ordered_over_half_the_circle)
{
    for (uint32_t expected : {0u, 1u, 0x7fffffu, 0x800000u, 0xffffffu}) {
        Psn e{expected};
        for (uint32_t n : {1u, 2u, 0x7ffffeu, Psn::half - 1}) {
            EXPECT_LT(e - n, e) << expected << " " << n;
            EXPECT_GT(e + n, e) << expected << " " << n;
            EXPECT_LE(e - n, e);
            EXPECT_GE(e + n, e);
        }
        EXPECT_LT(e - Psn::half, e) << "the oldest duplicate";
        EXPECT_LE(e, e);
        EXPECT_GE(e, e);
        EXPECT_FALSE(e < e || e > e);
    }
}

TEST(Psn, distance_is_counted_upwards_all_around)
{
    EXPECT_EQ(Psn(0).distance_from(last), 1u);
    EXPECT_EQ(last.distance_from(Psn(0)), 0xffffffu);
    EXPECT_EQ(Psn(Psn::half).distance_from(Psn(0)), Psn::half);
}

TEST(Psn, the_later_one_is_the_later_one_over_the_wrap)
{
    EXPECT_EQ(later_of(last, Psn(0)), Psn(0));
    EXPECT_EQ(later_of(Psn(0), last), Psn(0));
}

} // namespace
} // namespace rdma::roce
