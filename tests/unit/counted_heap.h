// SPDX-License-Identifier: GPL-2.0-or-later
//
// Counts what operator new hands out, in a program that has counted_heap.cc.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rdma::test {

inline size_t heap = 0;        // bytes that exist
inline size_t allocations = 0; // ever made
inline size_t allocations_left = SIZE_MAX; // then there is no memory
inline size_t failed_allocations = 0;

} // namespace rdma::test
