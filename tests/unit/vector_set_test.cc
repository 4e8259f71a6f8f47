// SPDX-License-Identifier: GPL-2.0-or-later
#include "vector_set.h"

#include <gtest/gtest.h>

namespace rdma::test {

TEST(VectorSet, gives_each_vector_once_the_lowest_first)
{
    VectorSet set;
    EXPECT_TRUE(set.empty());
    for (unsigned vector : {2047u, 0u, 64u, 63u, 64u, 1000u}) {
        set.insert(vector);
    }
    for (unsigned expected : {0u, 63u, 64u, 1000u, 2047u}) {
        ASSERT_FALSE(set.empty());
        EXPECT_EQ(set.take(), expected);
    }
    EXPECT_TRUE(set.empty());
}

TEST(VectorSet, takes_vectors_back_in_and_forgets_all_of_them)
{
    VectorSet set;
    set.insert(5);
    EXPECT_EQ(set.take(), 5u);
    set.insert(5);
    set.insert(RDMA_MAX_VECTORS - 1);
    set.clear();
    EXPECT_TRUE(set.empty());
    set.insert(7);
    EXPECT_EQ(set.take(), 7u);
    EXPECT_TRUE(set.empty());
}

} // namespace rdma::test
