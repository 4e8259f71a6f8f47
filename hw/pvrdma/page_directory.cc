// SPDX-License-Identifier: GPL-2.0-or-later
#include "page_directory.h"

#include <algorithm>
#include <array>

#include "backend.h"
#include "pvrdma_abi.h"

namespace rdma::pvrdma {

bool read_page_directory(const GuestMemory& memory, uint64_t directory, std::span<uint64_t> pages)
{
    if (pages.empty() || pages.size() > page_dir_max_pages || directory % page_size != 0) {
        return false;
    }
    std::array<uint64_t, entries_per_table> tables;
    size_t num_tables = (pages.size() - 1) / entries_per_table + 1;
    if (!memory.read(directory, std::as_writable_bytes(std::span(tables).first(num_tables)))) {
        return false;
    }
    auto rest = pages;
    for (uint64_t table : std::span(tables).first(num_tables)) {
        auto part = rest.first(std::min<size_t>(entries_per_table, rest.size()));
        rest = rest.subspan(part.size());
        if (table % page_size != 0 || !memory.read(table, std::as_writable_bytes(part))) {
            return false;
        }
    }
    return std::ranges::all_of(pages, [&](uint64_t gpa) {
        return gpa % page_size == 0 && memory.is_memory(gpa, page_size);
    });
}

} // namespace rdma::pvrdma
