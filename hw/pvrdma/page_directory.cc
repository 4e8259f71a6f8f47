// SPDX-License-Identifier: GPL-2.0-or-later
#include "page_directory.h"

#include <algorithm>
#include <array>

#include "pvrdma_abi.h"

namespace rdma::pvrdma {

std::optional<std::vector<uint64_t>> read_page_directory(const GuestMemory& memory,
                                                         uint64_t directory, uint32_t num_pages)
{
    constexpr uint64_t page = 4096;
    if (num_pages == 0 || num_pages > page_dir_max_pages || directory % page != 0) {
        return std::nullopt;
    }
    std::array<uint64_t, entries_per_table> tables;
    if (!memory.read_object(directory, tables)) {
        return std::nullopt;
    }
    std::vector<uint64_t> pages(num_pages);
    for (uint32_t first = 0; first < num_pages; first += entries_per_table) {
        uint64_t table = tables[first / entries_per_table];
        auto part = std::span(pages).subspan(first, std::min(entries_per_table, num_pages - first));
        if (table % page != 0 || !memory.read(table, std::as_writable_bytes(part))) {
            return std::nullopt;
        }
    }
    bool ok = std::ranges::all_of(pages, [&](uint64_t gpa) {
        return gpa % page == 0 && memory.covers(gpa, page, false);
    });
    return ok ? std::optional(std::move(pages)) : std::nullopt;
}

} // namespace rdma::pvrdma
