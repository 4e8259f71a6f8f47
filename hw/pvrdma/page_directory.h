// SPDX-License-Identifier: GPL-2.0-or-later
//
// Page directories: a page of addresses of page tables, each a page of
// addresses of pages.
#pragma once

#include <span>

#include "guest_memory.h"

namespace rdma::pvrdma {

// Copies the GPAs of the first pages.size() pages of the directory at GPA
// directory: no more of it is read. False, with pages undefined, where that is
// none or more than a directory can hold, or where any of it, the pages
// included, is not page-aligned guest memory.
[[nodiscard]] bool read_page_directory(const GuestMemory& memory, uint64_t directory,
                                       std::span<uint64_t> pages);

} // namespace rdma::pvrdma
