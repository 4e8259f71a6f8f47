// SPDX-License-Identifier: GPL-2.0-or-later
//
// Two whole devices joined in one thread: a frame that one sends is at once in
// the other's hands. What is measured is the CPU time of both ends together,
// from the WQE in guest memory to the CQE, without QEMU, sockets or guests.
// tools/bench runs this beside its peers.
#include <benchmark/benchmark.h>
#include <isa-l/crc.h>
#include <malloc.h>

#include <cstring>
#include <memory>
#include <random>

#include "../unit/whole_device.h"
#include "memory_region.h"

namespace {

using namespace rdma;
using namespace rdma::test;

constexpr uint64_t buffer_size = 4 << 20;

// A device with a CQ, a buffer and one connected QP.
struct End {
    explicit End(uint8_t own) : device(own, 128 << 20), number(own)
    {
        device.bring_up();
        pd = device.create_pd().value();
        cq = device.create_cq(cq_slots, device.queue_pages(WholeDevice::cq_pages(cq_slots)))
                 .value();
        buffer = device.ram.pages(buffer_size / page_size);
        mr = device.register_ram(pd, buffer, buffer_size);
        qp = device.create_qp(shape, pd, cq.handle, device.qp_pages(shape)).value();
        std::ranges::fill(device.ram.bytes(buffer, buffer_size), std::byte{own});
    }

    static constexpr uint32_t cq_slots = 1024;
    const QueueShape shape{.send_wr = 256, .recv_wr = 256};
    WholeDevice device;
    uint8_t number;
    uint32_t pd;
    DeviceCq cq;
    uint64_t buffer;
    DeviceMr mr;
    DeviceQp qp;
};

struct Pair {
    Pair()
    {
        WholeDevice::join(client.device, server.device);
        client.device.connect(client.qp, server.number, server.qp.qpn);
        server.device.connect(server.qp, client.number, client.qp.qpn);
    }
    End client{1};
    End server{2};
};

// Takes a completion, which must come and be good.
bool take(benchmark::State& state, Pair& pair, End& end)
{
    const Cqe* cqe;
    // What a run has left undone goes on from a timer.
    while (!(cqe = end.device.poll(end.cq)) &&
           (pair.client.device.run_timer() || pair.server.device.run_timer())) {
    }
    if (!cqe || cqe->status != 0) {
        state.SkipWithError(cqe ? "a request has failed" : "a request has not completed");
        return false;
    }
    return true;
}

// depth requests of size bytes with one doorbell, then their completions, again
// and again. The buffers are walked through, as a program with many would.
void transfer(benchmark::State& state, WrOpcode opcode, uint32_t size, unsigned depth)
{
    Pair pair;
    End& client = pair.client;
    End& server = pair.server;
    uint64_t offset = 0;
    for (auto _ : state) {
        for (unsigned i = 0; i < depth; ++i) {
            if (opcode == wr_send) {
                server.device.post_recv(server.qp, i, server.buffer + offset, size,
                                        server.mr.lkey);
            }
            client.device.post_send(client.qp, opcode, i, client.buffer + offset, size,
                                    client.mr.lkey, server.buffer + offset, server.mr.rkey);
            offset = (offset + size) % (state.range(1) << 10);
        }
        if (opcode == wr_send) {
            server.device.ring_recv(server.qp);
        }
        client.device.ring_send(client.qp);
        for (unsigned i = 0; i < depth; ++i) {
            if (!take(state, pair, client) || (opcode == wr_send && !take(state, pair, server))) {
                return;
            }
        }
    }
    state.SetBytesProcessed(state.iterations() * depth * size);
    state.SetItemsProcessed(state.iterations() * depth);
}

// Arguments of all bandwidths: bytes of a message, KiB of buffer used.
void Write(benchmark::State& state)
{
    transfer(state, wr_rdma_write, static_cast<uint32_t>(state.range(0)), 64);
}
void Read(benchmark::State& state)
{
    transfer(state, wr_rdma_read, static_cast<uint32_t>(state.range(0)), 16);
}
void Send(benchmark::State& state)
{
    transfer(state, wr_send, static_cast<uint32_t>(state.range(0)), 64);
}
void MessageRate(benchmark::State& state)
{
    transfer(state, wr_rdma_write, static_cast<uint32_t>(state.range(0)), 64);
}
// One request at a time: from its doorbell to its completion.
void WriteLatency(benchmark::State& state)
{
    transfer(state, wr_rdma_write, static_cast<uint32_t>(state.range(0)), 1);
}

// What the same bytes cost at the least: one copy.
void Memcpy(benchmark::State& state)
{
    auto size = static_cast<size_t>(state.range(0));
    auto span = static_cast<size_t>(state.range(1)) << 10;
    std::vector<char> from(buffer_size, 1);
    std::vector<char> to(buffer_size, 2);
    size_t offset = 0;
    for (auto _ : state) {
        std::memcpy(to.data() + offset, from.data() + offset, size);
        benchmark::DoNotOptimize(to.data());
        benchmark::ClobberMemory();
        offset = (offset + size) % span;
    }
    state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(size));
}

// The library's CRC-32, which each packet goes through at both ends.
void Crc(benchmark::State& state)
{
    auto size = static_cast<size_t>(state.range(0));
    std::vector<uint8_t> bytes(size, 1);
    for (auto _ : state) {
        benchmark::DoNotOptimize(crc32_gzip_refl(0, bytes.data(), size));
    }
    state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(size));
}

// The check of a key, address and length that every packet needs, with so many
// regions, in random order.
void MrLookup(benchmark::State& state)
{
    auto count = static_cast<uint32_t>(state.range(0));
    GuestMemory memory;
    roce::MemoryRegions regions(count + 1, 1 << 30, memory);
    const uint64_t page = 0x100000;
    MrInit init;
    init.access = IBV_ACCESS_LOCAL_WRITE;
    init.iova = page;
    init.length = page_size;
    init.pages = {&page, 1};
    std::vector<uint32_t> keys;
    for (uint32_t i = 0; i < count; ++i) {
        keys.push_back(regions.add(init).value().lkey);
    }
    std::shuffle(keys.begin(), keys.end(), std::minstd_rand(1));
    size_t i = 0;
    for (auto _ : state) {
        benchmark::DoNotOptimize(
            regions.check(keys[i], 0, page, page_size, IBV_ACCESS_LOCAL_WRITE));
        i = i + 1 == keys.size() ? 0 : i + 1;
    }
}

// Creation of so many objects and their destruction in the same order, by
// commands: nanoseconds each, and heap bytes of one that exists, as the
// allocator counts them.
template <typename Create>
void objects(benchmark::State& state, WholeDevice& device, Command destroy, Create&& create)
{
    auto count = static_cast<size_t>(state.range(0));
    std::vector<uint32_t> handles(count);
    auto used = [] {
        auto info = mallinfo2();
        return info.uordblks + info.hblkhd;
    };
    size_t before = used();
    size_t bytes = 0;
    for (auto _ : state) {
        for (uint32_t& handle : handles) {
            handle = create();
        }
        bytes = used() - before;
        for (uint32_t handle : handles) {
            if (device.destroy(destroy, handle) != 0) {
                state.SkipWithError("destruction failed");
            }
        }
    }
    state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(count));
    state.counters["bytes_each"] = static_cast<double>(bytes) / static_cast<double>(count);
}

void QueuePairs(benchmark::State& state)
{
    End end(1);
    QueuePages pages = end.device.qp_pages(end.shape);
    objects(state, end.device, cmd_destroy_qp, [&] {
        auto qp = end.device.create_qp(end.shape, end.pd, end.cq.handle, pages).value();
        end.device.connect(qp, 2, 2);
        return qp.handle;
    });
}
void MemoryRegionsOfOnePage(benchmark::State& state)
{
    End end(1);
    uint64_t directory = end.device.ram.directory(end.buffer, 1);
    objects(state, end.device, cmd_destroy_mr, [&] {
        return end.device.register_memory(end.pd, end.buffer, page_size, directory).value().handle;
    });
}
void CompletionQueues(benchmark::State& state)
{
    End end(1);
    QueuePages pages = end.device.queue_pages(1);
    objects(state, end.device, cmd_destroy_cq,
            [&] { return end.device.create_cq(64, pages).value().handle; });
}
void SharedReceiveQueues(benchmark::State& state)
{
    End end(1);
    QueuePages pages = end.device.queue_pages(1);
    objects(state, end.device, cmd_destroy_srq,
            [&] { return end.device.create_srq(end.pd, 64, pages).value(); });
}
void ProtectionDomains(benchmark::State& state)
{
    End end(1);
    objects(state, end.device, cmd_destroy_pd, [&] { return end.device.create_pd().value(); });
}

// In the caches, and through more memory than they hold of both ends.
BENCHMARK(Write)->Args({4096, 64})->Args({65536, 64})->Args({65536, 4096});
BENCHMARK(Read)->Args({4096, 64})->Args({65536, 64})->Args({65536, 4096});
BENCHMARK(Send)->Args({4096, 64})->Args({65536, 64})->Args({65536, 4096});
BENCHMARK(Memcpy)->Args({8, 64})->Args({4096, 64})->Args({65536, 64})->Args({65536, 4096});
BENCHMARK(MessageRate)->Args({8, 64});
BENCHMARK(WriteLatency)->Args({8, 64});
BENCHMARK(Crc)->Arg(4096);
BENCHMARK(MrLookup)->Arg(1)->Arg(1000)->Arg(262143);
BENCHMARK(QueuePairs)->Arg(30000)->Unit(benchmark::kMillisecond);
BENCHMARK(MemoryRegionsOfOnePage)->Arg(100000)->Unit(benchmark::kMillisecond);
BENCHMARK(CompletionQueues)->Arg(4000)->Unit(benchmark::kMillisecond);
BENCHMARK(SharedReceiveQueues)->Arg(4000)->Unit(benchmark::kMillisecond);
BENCHMARK(ProtectionDomains)->Arg(30000)->Unit(benchmark::kMillisecond);

} // namespace

BENCHMARK_MAIN();
