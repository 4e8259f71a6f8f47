// SPDX-License-Identifier: GPL-2.0-or-later
#include "memory_mapping.h"

#include <sys/mman.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include <fmt/format.h>
#include <linux/magic.h>

#include "backend.h"

namespace rdma::verbs {

namespace {

using FilePiece = GuestMemory::FilePiece;

// What a mapping of the file has to be a multiple of, bytes.
uint64_t mapping_unit(int fd)
{
    struct statfs fs;
    bool is_huge = fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC;
    return is_huge ? static_cast<uint64_t>(fs.f_bsize) : page_size;
}

// The run of pages that begins with pages[first] and lies in one piece in the
// file; its size is a multiple of page_size. Nothing where it cannot be mapped.
std::optional<FilePiece> run_at(const GuestMemory& memory, std::span<const uint64_t> pages,
                                size_t first)
{
    auto run = memory.file_piece(pages[first], page_size);
    if (!run || run->size < page_size || run->offset % page_size != 0) {
        return std::nullopt;
    }
    for (size_t i = first + 1; i < pages.size(); ++i) {
        auto next = memory.file_piece(pages[i], page_size);
        if (!next || next->fd != run->fd || next->offset != run->offset + run->size ||
            next->size < page_size) {
            break;
        }
        run->size += page_size;
    }
    return run;
}

} // namespace

size_t MemoryMapping::max_process_runs()
{
    size_t most = 65530; // Linux's default
    std::ifstream("/proc/sys/vm/max_map_count") >> most;
    return most / 2;
}

MemoryMapping::~MemoryMapping()
{
    if (_base) {
        munmap(_base, _size);
    }
}

std::expected<MemoryMapping, MemoryMapping::Error>
MemoryMapping::make(const GuestMemory& memory, std::span<const uint64_t> pages, size_t max_runs)
{
    auto fail = [](int code, std::string what) {
        return std::unexpected(Error{code, std::move(what)});
    };
    auto run = run_at(memory, pages, 0);
    const int fd = run ? run->fd : -1;
    uint64_t unit = run ? mapping_unit(fd) : page_size;
    // Addresses and offsets have the same place within a unit.
    uint64_t skipped = run ? run->offset % unit : 0;
    uint64_t length = (skipped + pages.size() * page_size + unit - 1) / unit * unit;
    // Room to choose a base that is a multiple of the unit.
    uint64_t reserved = length + unit - page_size;
    void* place =
        mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED) {
        return fail(errno, fmt::format("no address space for {} bytes", reserved));
    }
    MemoryMapping mapping(static_cast<std::byte*>(place), reserved);
    uint64_t to_unit = (unit - reinterpret_cast<uint64_t>(place) % unit) % unit;
    mapping._skipped = to_unit + skipped;
    std::byte* mapped_end = mapping._base + to_unit;
    for (size_t i = 0; i < pages.size(); run = run_at(memory, pages, i)) {
        if (!run) {
            return fail(EFAULT,
                        fmt::format("guest memory at {:#x} is not shared, writable RAM", pages[i]));
        }
        if (mapping._runs == max_runs) {
            return fail(ENOMEM,
                        fmt::format("its {} pages lie in more than {} pieces, which is all that "
                                    "are left (half of vm.max_map_count for all regions)",
                                    pages.size(), max_runs));
        }
        std::byte* begin = mapping.data() + i * page_size;
        uint64_t before = reinterpret_cast<uint64_t>(begin) % unit;
        uint64_t size = (before + run->size + unit - 1) / unit * unit;
        // The units of neighbouring runs must not be the same one.
        if (before != run->offset % unit || begin - before < mapped_end ||
            (run->fd != fd && mapping_unit(run->fd) != unit)) {
            return fail(EOPNOTSUPP,
                        fmt::format("pages of the region do not lie together as RAM of {} KiB "
                                    "pages needs: use RAM of 4 KiB pages",
                                    unit / 1024));
        }
        if (mmap(begin - before, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, run->fd,
                 static_cast<off_t>(run->offset - before)) == MAP_FAILED) {
            int error = errno;
            return fail(error, fmt::format("mapping {} pages in more than {} pieces: {}{}",
                                           pages.size(), mapping._runs, strerror(error),
                                           error == ENOMEM ? " (see vm.max_map_count)" : ""));
        }
        mapped_end = begin - before + size;
        ++mapping._runs;
        i += run->size / page_size;
        if (i == pages.size()) {
            break;
        }
    }
    return mapping;
}

} // namespace rdma::verbs
