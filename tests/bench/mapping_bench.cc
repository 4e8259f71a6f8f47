// SPDX-License-Identifier: GPL-2.0-or-later
//
// Making and ending the contiguous mapping of a memory region's pages, which the
// verbs backend registers regions over (docs/verbs-backend.md): all of a
// registration but what the host's driver does.
#include <sys/mman.h>
#include <unistd.h>

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <vector>

#include "backend.h"
#include "memory_mapping.h"

namespace {

using namespace rdma;

constexpr uint64_t ram_size = uint64_t{2} << 30;

struct Ram {
    int fd = memfd_create("guest", MFD_CLOEXEC);
    GuestMemory memory;

    Ram()
    {
        if (ftruncate(fd, ram_size) != 0) {
            std::abort();
        }
        void* hva = mmap(nullptr, ram_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        RdmaMemoryRegion region{0, ram_size, hva, false, true, fd, 0};
        memory.set_table({&region, 1});
    }
};

// bytes of a region; run: pages that are neighbours in guest memory.
void make(benchmark::State& state)
{
    static Ram ram;
    auto run = static_cast<uint64_t>(state.range(1));
    std::vector<uint64_t> pages(static_cast<uint64_t>(state.range(0)) / page_size);
    for (uint64_t i = 0; i < pages.size(); ++i) {
        // A page is left out behind each run.
        pages[i] = (i + i / run) * page_size;
    }
    for (auto _ : state) {
        auto mapping = verbs::MemoryMapping::make(ram.memory, pages);
        if (!mapping) {
            state.SkipWithError(mapping.error().what.c_str());
            break;
        }
        benchmark::DoNotOptimize(mapping->data());
    }
}
BENCHMARK(make)
    ->ArgNames({"bytes", "run"})
    ->Args({1 << 20, 1 << 20})
    ->Args({1 << 20, 1})
    ->Args({64 << 20, 1 << 20})
    ->Args({64 << 20, 1})
    ->Args({1 << 30, 1 << 20})
    ->Args({1 << 30, 512})
    ->Args({1 << 30, 8})
    ->Unit(benchmark::kMicrosecond);

} // namespace

BENCHMARK_MAIN();
