// SPDX-License-Identifier: GPL-2.0-or-later
//
// Saving and loading whole devices, as a migration does while the VM is
// stopped: time, and bytes of the stream for each object (docs/migration.md).
#include <benchmark/benchmark.h>

#include "../unit/whole_device.h"

namespace {

using namespace rdma;
using namespace rdma::test;

struct Loaded {
    WholeDevice device{1, 512 << 20};
    uint32_t pd;
    DeviceCq cq;
    size_t empty; // bytes of the stream before there are objects

    Loaded()
    {
        device.bring_up();
        pd = device.create_pd().value();
        cq = device.create_cq(1024, device.queue_pages(WholeDevice::cq_pages(1024))).value();
        device.stop();
        empty = device.save().size();
        device.start();
    }
    // Idle RC QPs in RTS, with queues as perftest has them.
    void add_qps(int64_t count)
    {
        const QueueShape shape{.send_wr = 128, .recv_wr = 512};
        QueuePages pages = device.qp_pages(shape); // idle QPs can share them
        for (int64_t i = 0; i < count; ++i) {
            device.connect(device.create_qp(shape, pd, cq.handle, pages).value(), 2, 0x11);
        }
    }
    // Regions of 64 KiB.
    void add_mrs(int64_t count)
    {
        uint64_t buffer = device.ram.pages(16);
        uint64_t directory = device.ram.directory(buffer, 16);
        for (int64_t i = 0; i < count; ++i) {
            if (!device.register_memory(pd, buffer, 16 * page_size, directory)) {
                throw std::runtime_error("no memory region");
            }
        }
    }
    void add_cqs(int64_t count)
    {
        QueuePages pages = device.queue_pages(WholeDevice::cq_pages(64));
        for (int64_t i = 0; i < count; ++i) {
            device.create_cq(64, pages).value();
        }
    }
};

using Add = void (Loaded::*)(int64_t);

void save(benchmark::State& state, Add add)
{
    Loaded loaded;
    (loaded.*add)(state.range(0));
    loaded.device.stop();
    size_t size = 0;
    for (auto _ : state) {
        size = loaded.device.save().size();
    }
    state.counters["bytes_each"] =
        static_cast<double>(size - loaded.empty) / static_cast<double>(state.range(0));
}

void load(benchmark::State& state, Add add)
{
    Loaded loaded;
    (loaded.*add)(state.range(0));
    loaded.device.stop();
    auto bytes = loaded.device.save();
    for (auto _ : state) {
        if (auto error = loaded.device.load(bytes); !error.empty()) {
            state.SkipWithError(error.c_str());
            return;
        }
    }
}

BENCHMARK_CAPTURE(save, qps, &Loaded::add_qps)->Arg(1)->Arg(100)->Arg(1000)->Arg(10000)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(load, qps, &Loaded::add_qps)->Arg(1)->Arg(100)->Arg(1000)->Arg(10000)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(save, mrs, &Loaded::add_mrs)->Arg(100'000)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(load, mrs, &Loaded::add_mrs)->Arg(100'000)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(save, cqs, &Loaded::add_cqs)->Arg(4000)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(load, cqs, &Loaded::add_cqs)->Arg(4000)->Unit(benchmark::kMillisecond);

} // namespace

BENCHMARK_MAIN();
