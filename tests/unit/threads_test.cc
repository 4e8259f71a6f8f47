// SPDX-License-Identifier: GPL-2.0-or-later
//
// The threads that meet in a device, as in QEMU: vCPUs ring doorbells and use
// their queues in guest memory without a lock; the main loop brings packets and
// lets timers fire; a vCPU that polls in vain waits (rdma_pause.c itself, on a
// stand-in for QEMU). tools/test threads builds this with TSan.
//
// Two devices on one network, two vCPUs each; every vCPU sends to a vCPU of the
// other device, and checks what it receives.
#include <gtest/gtest.h>

#include <infiniband/verbs.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "machine.h"

extern "C" {
#include "hw/core/cpu.h"
#include "qemu/main-loop.h"
#include "hw/common/qemu/rdma_pause.h"
}

namespace {

// QEMU's big lock, and the work that waits for a vCPU.
std::mutex big_lock;
struct Work {
    void (*func)(CPUState*, run_on_cpu_data);
    run_on_cpu_data data;
};

} // namespace

struct CPUState {
    std::vector<Work> work;
};

extern "C" {
__thread CPUState* current_cpu;
void bql_lock() { big_lock.lock(); }
void bql_unlock() { big_lock.unlock(); }
void async_run_on_cpu(CPUState* cpu, void (*func)(CPUState*, run_on_cpu_data),
                      run_on_cpu_data data)
{
    cpu->work.push_back({func, data});
}
}

namespace rdma::fuzz {

namespace {

constexpr uint64_t iova = 0x100000;
constexpr uint32_t message_size = 1500; // two packets
constexpr uint32_t slots = 16;
constexpr uint64_t messages = 1000;
constexpr unsigned vcpus_per_device = 2;

// What a program of a guest has: a QP, a CQ and a region.
struct Program {
    Machine* machine;
    Ring cq;
    uint32_t cq_handle;
    GuestQp qp;
    uint64_t gpa; // of the region: slots to send from, slots to receive in
    uint32_t lkey;
    uint32_t uar_page;
    // Messages taken, for the sender's flow control. Relaxed, so that it does
    // not stand in for an ordering that the device must give.
    std::atomic<uint64_t> received = 0;
};

// A word of a ring's state, as a guest's library reads and writes it.
uint32_t* word(Program& p, uint64_t gpa)
{
    return reinterpret_cast<uint32_t*>(p.machine->at(gpa, sizeof(uint32_t)));
}

class Threads : public testing::Test {
protected:
    Threads()
    {
        pause = {.owner = &owner, .news = 0, .waiting = 0, .max_ns = 50'000};
        for (Machine& machine : machines) {
            machine.on_send = [this](std::span<const uint8_t> frame) {
                wire.emplace_back(frame.begin(), frame.end());
            };
            machine.on_poll_idle = [this] { rdma_pause_vcpu(&pause); };
            machine.on_poll_end = [this] { rdma_pause_end(&pause); };
            machine.bring_up();
            machine.bind_gid(0, machine.host());
            for (uint32_t i = 0; i < vcpus_per_device; ++i) {
                make(programs.emplace_back(), machine, i + 1);
            }
        }
        for (unsigned i = 0; i < programs.size(); ++i) {
            Program& peer = peer_of(i);
            programs[i].machine->connect(programs[i].qp, qpt_rc, peer.machine->host(),
                                         peer.qp.qpn, 0);
        }
    }

    Program& peer_of(size_t i) { return programs[(i + vcpus_per_device) % programs.size()]; }

    static void make(Program& p, Machine& machine, uint32_t uar_page)
    {
        p.machine = &machine;
        p.uar_page = uar_page;
        uint32_t pd = machine.create_pd();
        p.cq = machine.create_cq(64, p.cq_handle);
        auto pages = machine.pages(2 * slots * 2048 / page_size);
        p.gpa = pages.front();
        p.lkey = machine.register_memory(pd, pages, iova).lkey;
        p.qp = machine.create_qp(qpt_rc, pd, p.cq_handle, slots, 1);
    }

    // A vCPU's access to a BAR: under the lock, and then the work that has come
    // up meanwhile.
    static void ring(Program& p, uint32_t offset, uint32_t value)
    {
        bql_lock();
        p.machine->ring(p.uar_page, offset, value);
        std::vector<Work> work = std::move(current_cpu->work);
        current_cpu->work.clear();
        for (Work& item : work) {
            item.func(current_cpu, item.data);
        }
        bql_unlock();
    }

    template <typename Wqe>
    static void post(Program& p, const Ring& queue, uint64_t n, const Wqe& wqe)
    {
        uint64_t offset = n % queue.slots * queue.entry_size;
        std::memcpy(p.machine->at(queue.pages[offset / page_size] + offset % page_size, sizeof(wqe)),
                    &wqe, sizeof(wqe));
        __atomic_store_n(word(p, queue.state), static_cast<uint32_t>((n + 1) % (2 * queue.slots)),
                         __ATOMIC_RELEASE);
    }
    static void post_recv(Program& p, uint64_t n)
    {
        struct {
            RqWqeHdr hdr;
            Sge sge;
        } wqe{{n, 1, 0}, {iova + (slots + n % slots) * 2048, 2048, p.lkey}};
        post(p, p.qp.rq, n, wqe);
        ring(p, uar_qp_offset, uar_qp_recv | p.qp.handle);
    }
    static void post_send(Program& p, uint64_t n)
    {
        struct {
            SqWqeHdr hdr;
            Sge sge;
        } wqe{};
        std::memset(p.machine->at(p.gpa + n % slots * 2048, message_size), byte_of(n), message_size);
        wqe.hdr.wr_id = n;
        wqe.hdr.num_sge = 1;
        wqe.hdr.opcode = wr_send;
        wqe.hdr.send_flags = IBV_SEND_SIGNALED;
        wqe.sge = {iova + n % slots * 2048, message_size, p.lkey};
        post(p, p.qp.sq, n, wqe);
        ring(p, uar_qp_offset, uar_qp_send | p.qp.handle);
    }
    static int byte_of(uint64_t n) { return static_cast<int>(n * 7 % 251); }

    // A vCPU: sends, receives and checks, polling in a loop.
    void run_vcpu(Program& p, const Program& peer)
    {
        CPUState cpu;
        current_cpu = &cpu;
        uint64_t sent = 0, completed = 0, received = 0, head = 0;
        for (uint64_t n = 0; n < slots; ++n) {
            post_recv(p, n);
        }
        ++ready;
        while (ready < programs.size()) { // every receive queue is full
        }
        while (!failed && (completed < messages || received < messages)) {
            while (sent < messages && sent - completed < slots &&
                   sent - peer.received.load(std::memory_order_relaxed) < slots) {
                post_send(p, sent++);
            }
            if (__atomic_load_n(word(p, p.cq.state), __ATOMIC_ACQUIRE) == head % (2 * p.cq.slots)) {
                ring(p, uar_cq_offset, uar_cq_poll | p.cq_handle);
                continue;
            }
            uint64_t offset = head % p.cq.slots * sizeof(Cqe);
            Cqe cqe;
            std::memcpy(&cqe, p.machine->at(p.cq.pages[offset / page_size] + offset % page_size, sizeof(cqe)),
                        sizeof(cqe));
            ++head;
            __atomic_store_n(word(p, p.cq.state + sizeof(uint32_t)),
                             static_cast<uint32_t>(head % (2 * p.cq.slots)), __ATOMIC_RELEASE);
            ASSERT_EQ(cqe.status, +IBV_WC_SUCCESS);
            if (cqe.opcode & wc_recv) {
                ASSERT_EQ(cqe.wr_id, received);
                const auto* bytes = reinterpret_cast<const uint8_t*>(
                    p.machine->at(p.gpa + (slots + received % slots) * 2048, message_size));
                for (uint32_t i = 0; i < message_size; ++i) {
                    ASSERT_EQ(bytes[i], byte_of(received)) << "message " << received << ", byte " << i;
                }
                post_recv(p, slots + received++);
                p.received.store(received, std::memory_order_relaxed);
            } else {
                ASSERT_EQ(cqe.wr_id, completed++);
            }
        }
        ++finished;
    }

    // The main loop: frames, and timers in a time of their own.
    void run_main_loop()
    {
        while (finished < programs.size() && !failed) {
            failed = HasFatalFailure();
            std::lock_guard lock(big_lock);
            for (int i = 0; i < 16 && !wire.empty(); ++i) {
                auto frame = std::move(wire.front());
                wire.pop_front();
                machines[frame[5] - 1u].receive(frame);
            }
            for (Machine& machine : machines) {
                machine.advance(1000);
            }
        }
    }

    Object owner{};
    RdmaPause pause{};
    Machine machines[2]{Machine(1), Machine(2)};
    std::deque<std::vector<uint8_t>> wire; // under the lock
    std::deque<Program> programs;
    std::atomic<size_t> ready = 0;
    std::atomic<size_t> finished = 0;
    std::atomic<bool> failed = false;
};

} // namespace

TEST_F(Threads, vcpus_and_the_main_loop_share_a_device)
{
    std::vector<std::thread> vcpus;
    for (size_t i = 0; i < programs.size(); ++i) {
        vcpus.emplace_back([this, i] { run_vcpu(programs[i], peer_of(i)); });
    }
    run_main_loop();
    for (std::thread& vcpu : vcpus) {
        vcpu.join();
    }
    EXPECT_EQ(finished, programs.size());
    EXPECT_EQ(pause.waiting, 0);
    EXPECT_EQ(owner.references, 0);
    EXPECT_GT(pause.news, 0u);
}

} // namespace rdma::fuzz
