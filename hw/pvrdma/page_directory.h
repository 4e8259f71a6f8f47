// SPDX-License-Identifier: GPL-2.0-or-later
//
// Page directories: a page of addresses of page tables, each a page of
// addresses of pages.
#pragma once

#include <optional>
#include <vector>

#include "guest_memory.h"

namespace rdma::pvrdma {

// The GPAs of the first num_pages pages of a directory. Nothing where there
// are none or more than a directory can hold, or where any of it, the pages
// included, is not page-aligned guest memory.
std::optional<std::vector<uint64_t>> read_page_directory(const GuestMemory& memory,
                                                         uint64_t directory, uint32_t num_pages);

} // namespace rdma::pvrdma
