// SPDX-License-Identifier: GPL-2.0-or-later
//
// mapping_bench [Google Benchmark's options] [RDMA DEVICE OF THE HOST]
//
// What a memory region costs the verbs backend (docs/verbs-backend.md): "map" makes and
// ends the contiguous mapping of its pages; "register" registers and deregisters it on
// the device besides.
#include <sys/mman.h>
#include <unistd.h>

#include <benchmark/benchmark.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "host_port.h"
#include "memory_mapping.h"

namespace {

using namespace rdma;

constexpr uint64_t ram_size = uint64_t{2} << 30;
constexpr int all_rights = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                           IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
constexpr int64_t all_in_one = 1 << 20; // pages: more than any region has

class Ram {
public:
    explicit Ram(unsigned flags) : _fd(memfd_create("guest", MFD_CLOEXEC | flags))
    {
        if (_fd >= 0 && ftruncate(_fd, ram_size) == 0) {
            _hva = mmap(nullptr, ram_size, PROT_READ | PROT_WRITE, MAP_SHARED, _fd, 0);
        }
        if (is_there()) {
            RdmaMemoryRegion region{0, ram_size, _hva, false, true, _fd, 0};
            memory.set_table({&region, 1});
        }
    }
    ~Ram()
    {
        if (is_there()) {
            munmap(_hva, ram_size);
        }
        close(_fd);
    }
    Ram(const Ram&) = delete;
    Ram& operator=(const Ram&) = delete;

    bool is_there() const { return _hva != MAP_FAILED; }
    // The guest has written to what it registers.
    void touch(std::span<const uint64_t> pages)
    {
        for (uint64_t page : pages) {
            static_cast<volatile char*>(_hva)[page] = 1;
        }
    }

    GuestMemory memory;

private:
    int _fd;
    void* _hva = MAP_FAILED;
};

struct Device {
    explicit Device(const char* name)
        : port({.ibdev = name,
                .ibport = 1,
                .gid_index = -1,
                .add_addresses = false,
                .odp = RDMA_ODP_OFF}),
          pd(ibv_alloc_pd(port.context()), ibv_dealloc_pd)
    {
    }
    verbs::HostPort port;
    std::unique_ptr<ibv_pd, int (*)(ibv_pd*)> pd;
};

// bytes of a region; run: pages that are neighbours in guest memory. device: may be
// null.
void measure(benchmark::State& state, unsigned memfd_flags, Device* device)
{
    Ram ram(memfd_flags);
    if (!ram.is_there()) {
        state.SkipWithError("no memory of this kind (vm.nr_hugepages)");
        return;
    }
    auto run = static_cast<uint64_t>(state.range(1));
    std::vector<uint64_t> pages(static_cast<uint64_t>(state.range(0)) / page_size);
    for (uint64_t i = 0; i < pages.size(); ++i) {
        // A page is left out behind each run.
        pages[i] = (i + i / run) * page_size;
    }
    ram.touch(pages);
    for (auto _ : state) {
        auto mapping = verbs::MemoryMapping::make(ram.memory, pages);
        if (!mapping) {
            state.SkipWithError(mapping.error().what.c_str());
            break;
        }
        benchmark::DoNotOptimize(mapping->data());
        if (device) {
            verbs::HostMr mr(ibv_reg_mr_iova2(device->pd.get(), mapping->data(),
                                              pages.size() * page_size, 0, all_rights));
            if (!mr) {
                state.SkipWithError(strerror(errno));
                break;
            }
        }
    }
}

void add(const std::string& what, Device* device)
{
    struct Kind {
        const char* name;
        unsigned memfd_flags;
        std::vector<int64_t> runs;
    };
    for (const Kind& kind :
         {Kind{"", 0, {1, 8, 512, all_in_one}}, Kind{"_huge_pages", MFD_HUGETLB, {all_in_one}}}) {
        auto* benchmark = benchmark::RegisterBenchmark(
            (what + kind.name).c_str(),
            [flags = kind.memfd_flags, device](benchmark::State& state) {
                measure(state, flags, device);
            });
        benchmark->ArgNames({"bytes", "run"})->Unit(benchmark::kMicrosecond);
        benchmark->ArgsProduct({{1 << 20, 64 << 20, 1 << 30}, kind.runs});
    }
}

} // namespace

int main(int argc, char** argv)
{
    benchmark::Initialize(&argc, argv);
    std::unique_ptr<Device> device;
    add("map", nullptr);
    if (argc > 1) {
        device = std::make_unique<Device>(argv[1]);
        add("register", device.get());
    }
    benchmark::RunSpecifiedBenchmarks();
}
