// SPDX-License-Identifier: GPL-2.0-or-later
//
// A process that has nothing but what the driver maps for it (docs/virtio-rdma/security.md): its
// queues, their states and its doorbell page. It rewrites them by guessing, keys and addresses of
// others among the guesses, while another process exchanges messages that are verified.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <set>
#include <vector>

#include "virtio_rdma_guest.h"

namespace rdma::test {
namespace {

constexpr uint8_t host = 1;
constexpr uint32_t hostile_context = 3;
constexpr uint32_t honest_context = 4;
constexpr uint64_t ram_size = 2 << 20;
constexpr uint32_t region_pages = 4;
constexpr uint32_t message_size = 600; // bytes
// What is in memory that the hostile process must not read.
constexpr uint64_t secret = 0x5ec2'e7b1'90d3'46af;

class TwoProcesses {
public:
private:
    struct Process {
        uint32_t context;
        uint32_t pd;
        GuestCq cq;
        uint64_t region; // its GPA, and its IOVA
        GuestMr mr;
        std::vector<GuestQp> qps{};
        std::vector<GuestWorkQueue> srqs{};
    };

public:
    explicit TwoProcesses(uint32_t seed) : random(seed)
    {
        guest.bring_up();
        // The kernel's, which a process reaches by no key.
        kernel_pd = guest.create_pd();
        kernel_pages = guest.ram.pages(8);
        fill_with_secret(kernel_pages, 8 * page_size);
        dma = guest.create_mr({{VIRTIO_RDMA_CREATE_MR, kernel_pd},
                               VIRTIO_RDMA_MR_DMA,
                               12,
                               0,
                               VIRTIO_RDMA_LOCAL_WRITE,
                               0,
                               0});
        fast = guest.create_mr({{VIRTIO_RDMA_CREATE_MR, kernel_pd},
                                VIRTIO_RDMA_MR_FAST_REGISTRATION,
                                12,
                                0,
                                0,
                                0,
                                4 * page_size});
        kernel_cq = guest.create_cq();
        kernel_qp = guest.create_qp(kernel_pd, kernel_cq);
        guest.connect(kernel_qp, host, kernel_qp.qpn);

        a = process(hostile_context);
        guest.ram.pages(1);
        b = process(honest_context);
        fill_with_secret(b.region, region_pages * page_size);
        a.srqs = {guest.create_srq(a.pd, 64, 32, a.context)};
        for (uint8_t flags : {uint8_t{0}, uint8_t{0}, uint8_t{VIRTIO_RDMA_QP_USES_SRQ}}) {
            a.qps.push_back(guest.create_qp(
                a.pd, a.cq,
                {.flags = flags, .context = a.context, .srq = flags ? a.srqs[0].number : 0}));
        }
        a.qps.push_back(guest.create_qp(
            a.pd, a.cq, {.type = VIRTIO_RDMA_QP_UD, .context = a.context, .sq_entry_size = 128}));
        for (int i = 0; i < 2; ++i) {
            b.qps.push_back(guest.create_qp(b.pd, b.cq, {.context = b.context}));
        }
        connect_hostile();
        guest.connect(b.qps[0], host, b.qps[1].qpn);
        guest.connect(b.qps[1], host, b.qps[0].qpn);
        guest.ram.pages(4);
        note_mapped();
    }

    void run()
    {
        for (uint32_t turn = 0; turn < 12; ++turn) {
            for (int i = 0; i < 8; ++i) {
                act();
            }
            if (below(4) == 0) {
                guest.run_timer();
            }
            ASSERT_NO_FATAL_FAILURE(exchange(turn));
            ASSERT_NO_FATAL_FAILURE(expect_own_events());
            ASSERT_NO_FATAL_FAILURE(restart_failed());
        }
        ASSERT_NO_FATAL_FAILURE(expect_memory_of_others());
        for (const GuestQp& qp : {b.qps[0], b.qps[1], kernel_qp}) {
            ASSERT_EQ(guest.query(qp).state, VIRTIO_RDMA_QP_RTS);
        }
        ASSERT_FALSE(guest.poll(kernel_cq));
    }

private:
    Process process(uint32_t context)
    {
        VirtioGuest::require(guest.simple(VIRTIO_RDMA_CREATE_CONTEXT, context), "CREATE_CONTEXT");
        Process p{context, guest.create_pd(), guest.create_cq(), guest.ram.pages(region_pages), {}};
        p.mr = guest.register_ram(p.pd, p.region, region_pages * page_size);
        return p;
    }
    void connect_hostile()
    {
        guest.connect(a.qps[0], host, a.qps[1].qpn);
        guest.connect(a.qps[1], host, a.qps[0].qpn);
        guest.connect(a.qps[2], host, a.qps[2].qpn);
        guest.open(a.qps[3], 0x11111111);
    }
    void fill_with_secret(uint64_t gpa, uint64_t size)
    {
        for (uint64_t at = 0; at < size; at += sizeof(secret)) {
            guest.ram.at<uint64_t>(gpa + at) = secret;
        }
    }
    // Pages of the process that it can write, and what all other memory has now.
    void note_mapped()
    {
        auto map = [&](uint64_t first, uint64_t count) {
            for (uint64_t i = 0; i < count; ++i) {
                mapped.push_back(first + i * page_size);
            }
        };
        for (const GuestQp& qp : a.qps) {
            for (const GuestWorkQueue* queue : {&qp.sq, &qp.rq}) {
                if (queue->state != 0) {
                    queues.push_back(*queue);
                }
            }
        }
        queues.insert(queues.end(), a.srqs.begin(), a.srqs.end());
        for (const GuestWorkQueue& queue : queues) {
            map(queue.state, 1);
            map(queue.first, queue.pages());
        }
        map(a.cq.state, 1);
        map(a.cq.first, 1);
        std::set<uint64_t> touched(mapped.begin(), mapped.end());
        auto touch = [&](uint64_t first, uint64_t count) {
            for (uint64_t i = 0; i < count; ++i) {
                touched.insert(first + i * page_size);
            }
        };
        touch(a.region, region_pages);
        touch(b.region, region_pages);
        touch(b.cq.state, 1);
        touch(b.cq.first, 1);
        for (const GuestQp& qp : b.qps) {
            for (const GuestWorkQueue* queue : {&qp.sq, &qp.rq}) {
                touch(queue->state, 1);
                touch(queue->first, queue->pages());
            }
        }
        for (uint64_t gpa = Ram::base; gpa < Ram::base + ram_size; gpa += page_size) {
            if (!touched.contains(gpa)) {
                auto bytes = guest.ram.bytes(gpa, page_size);
                others.emplace_back(gpa, std::vector(bytes.begin(), bytes.end()));
            }
        }
    }

    uint32_t below(uint32_t limit) { return static_cast<uint32_t>(random() % limit); }
    template <typename T>
    T one_of(std::initializer_list<T> values)
    {
        return *(values.begin() + below(static_cast<uint32_t>(values.size())));
    }
    const GuestWorkQueue& a_queue() { return queues[below(static_cast<uint32_t>(queues.size()))]; }
    uint32_t guessed_key()
    {
        return one_of({a.mr.lkey, a.mr.lkey, a.mr.rkey, b.mr.lkey, b.mr.rkey, dma.lkey, fast.lkey,
                       static_cast<uint32_t>(random())});
    }
    uint64_t guessed_address()
    {
        uint64_t offset = below(region_pages * page_size);
        return one_of({a.region + offset, a.region, b.region + offset, kernel_pages + offset,
                       Ram::base + below(ram_size), uint64_t{random()} << 32 | random()});
    }
    uint32_t guessed_number()
    {
        return one_of({a.qps[0].qpn, b.qps[0].qpn, b.qps[1].qpn, kernel_qp.qpn, a.srqs[0].number,
                       below(16), static_cast<uint32_t>(random())});
    }

    // Everything below writes through the mappings alone.
    void rewrite_bytes()
    {
        uint64_t page = mapped[below(static_cast<uint32_t>(mapped.size()))];
        uint32_t size = 1 + below(200);
        for (std::byte& byte : guest.ram.bytes(page + below(page_size - size), size)) {
            byte = static_cast<std::byte>(random());
        }
    }
    void rewrite_word()
    {
        uint64_t state = below(4) == 0 ? a.cq.state : a_queue().state;
        uint32_t& word = guest.ram.at<uint32_t>(state + 4 * below(32));
        word = one_of({word + 1, word - 1, word + 64, word + below(200), 0u, UINT32_MAX,
                       static_cast<uint32_t>(random())});
    }
    void ring_what_it_guesses()
    {
        uint32_t value = VIRTIO_RDMA_DOORBELL(below(4), guessed_number() & 0xffffff);
        guest.ring(a.context, below(8) == 0 ? value | static_cast<uint32_t>(random()) : value);
    }
    void post_entry()
    {
        GuestWorkQueue queue = a_queue();
        union {
            virtio_rdma_sq_entry entry;
            virtio_rdma_sq_rdma rdma;
            virtio_rdma_sq_atomic atomic;
            virtio_rdma_sq_datagram datagram;
            virtio_rdma_sq_registration registration;
            std::byte bytes[128];
        } wqe{};
        size_t fields = sizeof(wqe.entry);
        wqe.entry.wr_id = random();
        if (queue.kind == VIRTIO_RDMA_DOORBELL_SQ) {
            wqe.entry.opcode = static_cast<uint8_t>(below(12));
            wqe.entry.flags = static_cast<uint8_t>(below(16));
            wqe.entry.count = static_cast<uint16_t>(below(3));
            if (queue.number == a.qps[3].qpn) {
                wqe.entry.opcode = VIRTIO_RDMA_OP_SEND;
                wqe.datagram.qpn = guessed_number() & 0xffffff;
                wqe.datagram.qkey = one_of({0x11111111u, 0x80010000u});
                wqe.datagram.av = guest.address_of(host);
                fields = sizeof(wqe.datagram);
            } else if (wqe.entry.opcode == VIRTIO_RDMA_OP_FAST_REGISTRATION) {
                wqe.registration.length = page_size;
                wqe.registration.iova = guessed_address() / page_size * page_size;
                wqe.registration.pages = guessed_address() / page_size * page_size;
                wqe.registration.key = guessed_key();
                wqe.registration.access = VIRTIO_RDMA_LOCAL_WRITE;
                wqe.registration.page_shift = 12;
                wqe.entry.count = 0;
            } else if (wqe.entry.opcode == VIRTIO_RDMA_OP_CMP_SWAP ||
                       wqe.entry.opcode == VIRTIO_RDMA_OP_FETCH_ADD) {
                wqe.atomic.remote_addr = guessed_address() / 8 * 8;
                wqe.atomic.rkey = guessed_key();
                wqe.entry.count = 1;
                fields = sizeof(wqe.atomic);
            } else if (wqe.entry.opcode == VIRTIO_RDMA_OP_WRITE ||
                       wqe.entry.opcode == VIRTIO_RDMA_OP_WRITE_IMM ||
                       wqe.entry.opcode == VIRTIO_RDMA_OP_READ) {
                wqe.rdma.remote_addr = guessed_address();
                wqe.rdma.rkey = guessed_key();
                fields = sizeof(wqe.rdma);
            } else {
                wqe.entry.key = guessed_key();
            }
        } else {
            wqe.entry.opcode = 1; // of a receive: its count
        }
        for (uint32_t i = 0; i < 2; ++i) {
            virtio_rdma_sge sge{guessed_address(), one_of({8u, below(2000), below(64)}),
                                guessed_key()};
            std::memcpy(wqe.bytes + fields + i * sizeof(sge), &sge, sizeof(sge));
        }
        uint32_t& producer = guest.state(queue).producer;
        std::ranges::copy(std::span(wqe.bytes).first(std::min<size_t>(queue.entry_size, 128)),
                          guest.entry(queue, producer).begin());
        ++producer;
        guest.ring(queue);
    }
    void act()
    {
        switch (below(8)) {
        case 0:
            rewrite_bytes();
            break;
        case 1:
            rewrite_word();
            break;
        case 2:
        case 3:
            ring_what_it_guesses();
            break;
        default:
            post_entry();
        }
    }

    // What the kernel does for a process whose queue pairs have failed.
    void restart_failed()
    {
        for (GuestQp& qp : a.qps) {
            uint8_t state = guest.query(qp).state;
            if (state != VIRTIO_RDMA_QP_ERR && state != VIRTIO_RDMA_QP_SQE) {
                continue;
            }
            ASSERT_EQ(guest.to_state(qp, VIRTIO_RDMA_QP_RESET), VIRTIO_RDMA_OK);
            guest.restart(qp.sq);
            if (qp.rq.state != 0) {
                guest.restart(qp.rq);
            }
            if (&qp == &a.qps[3]) {
                guest.open(qp, 0x11111111);
            } else {
                guest.connect(qp, host, a.qps[&qp == &a.qps[0] ? 1 : &qp == &a.qps[1] ? 0 : 2].qpn);
            }
        }
    }

    // The other process: one request of each kind, and every byte of them.
    void exchange(uint32_t n)
    {
        auto sge = [&](uint64_t offset) {
            return virtio_rdma_sge{b.region + offset, message_size, b.mr.lkey};
        };
        constexpr uint64_t source = 0;
        constexpr uint64_t received = page_size;
        constexpr uint64_t written = 2 * page_size;
        constexpr uint64_t fetched = 3 * page_size;
        for (uint32_t i = 0; i < message_size; ++i) {
            guest.ram.at<uint8_t>(b.region + source + i) = static_cast<uint8_t>(n * 31 + i * 7);
        }
        GuestQp& from = b.qps[n % 2];
        GuestQp& to = b.qps[(n + 1) % 2];
        guest.post_receive(to.rq, n, {sge(received)});
        virtio_rdma_sq_entry send{};
        send.wr_id = n;
        send.opcode = VIRTIO_RDMA_OP_SEND;
        send.flags = VIRTIO_RDMA_SEND_SIGNALED;
        send.count = 1;
        guest.post(from.sq, send, {sge(source)});
        // A doorbell page rings queues of its own context alone (QUE-9).
        for (uint32_t kind = 0; kind < 3; ++kind) {
            guest.ring(a.context, VIRTIO_RDMA_DOORBELL(kind, from.qpn));
        }
        ASSERT_FALSE(guest.poll(b.cq)) << "another's doorbell page has rung";
        ASSERT_TRUE(guest.kick(from.sq));
        for (int i = 0; i < 2; ++i) {
            auto entry = guest.poll(b.cq);
            ASSERT_TRUE(entry);
            ASSERT_EQ(entry->status, VIRTIO_RDMA_WC_SUCCESS);
            ASSERT_EQ(entry->wr_id, n);
            ASSERT_TRUE(entry->qpn == from.qpn || entry->qpn == to.qpn);
        }
        expect_copy(received);
        for (auto [opcode, local, remote] : {std::tuple{VIRTIO_RDMA_OP_WRITE, source, written},
                                             std::tuple{VIRTIO_RDMA_OP_READ, fetched, written}}) {
            virtio_rdma_sq_rdma request{};
            request.entry = send;
            request.entry.opcode = static_cast<uint8_t>(opcode);
            request.remote_addr = b.region + remote;
            request.rkey = b.mr.rkey;
            guest.post(from.sq, request, {sge(local)});
            guest.kick(from.sq);
            auto entry = guest.poll(b.cq);
            ASSERT_TRUE(entry);
            ASSERT_EQ(entry->status, VIRTIO_RDMA_WC_SUCCESS);
            expect_copy(opcode == VIRTIO_RDMA_OP_WRITE ? written : fetched);
        }
        fill_with_secret(b.region, region_pages * page_size);
    }
    void expect_copy(uint64_t offset)
    {
        ASSERT_TRUE(std::ranges::equal(guest.ram.bytes(b.region, message_size),
                                       guest.ram.bytes(b.region + offset, message_size)));
    }

    // Events are of the hostile process's objects alone.
    void expect_own_events()
    {
        while (auto event = guest.event()) {
            bool is_own = event->type == VIRTIO_RDMA_EVENT_CQ_ERR ? event->object == a.cq.number
                          : event->type == VIRTIO_RDMA_EVENT_SRQ_ERR ||
                                  event->type == VIRTIO_RDMA_EVENT_SRQ_LIMIT
                              ? event->object == a.srqs[0].number
                              : std::ranges::any_of(a.qps, [&](const GuestQp& qp) {
                                    return qp.qpn == event->object;
                                });
            ASSERT_TRUE(is_own || event->type == VIRTIO_RDMA_EVENT_COMM_EST)
                << "event " << event->type << " of " << event->object;
        }
        while (auto cq = guest.completion_event()) {
            ASSERT_EQ(*cq, a.cq.number);
        }
    }
    // Nothing of other memory has been written, or read into what the process sees.
    void expect_memory_of_others()
    {
        for (const auto& [gpa, bytes] : others) {
            ASSERT_TRUE(std::ranges::equal(guest.ram.bytes(gpa, page_size), bytes))
                << "page " << gpa << " has been written";
        }
        for (uint64_t at = 0; at < region_pages * page_size; at += sizeof(secret)) {
            ASSERT_EQ(guest.ram.at<uint64_t>(b.region + at), secret) << "has been written";
        }
        auto expect_no_secret = [&](uint64_t gpa) {
            auto bytes = guest.ram.bytes(gpa, page_size);
            // From any byte on: accesses need not be aligned.
            auto wanted = std::as_bytes(std::span(&secret, 1));
            ASSERT_TRUE(std::ranges::search(bytes, wanted).empty()) << "has been read";
        };
        for (uint32_t i = 0; i < region_pages; ++i) {
            expect_no_secret(a.region + i * page_size);
        }
        std::ranges::for_each(mapped, expect_no_secret);
    }

    VirtioGuest guest{host, VirtioGuest::defaults(), ram_size};
    std::mt19937 random;
    uint32_t kernel_pd = 0;
    uint64_t kernel_pages = 0;
    GuestMr dma, fast;
    GuestCq kernel_cq;
    GuestQp kernel_qp;
    Process a{}; // the hostile one
    Process b{};
    std::vector<GuestWorkQueue> queues; // the hostile one's
    std::vector<uint64_t> mapped;       // pages
    std::vector<std::pair<uint64_t, std::vector<std::byte>>>
        others; // pages of neither, as at first
};

// 100 seeds; 1,000 with RDMA_NIGHTLY.
// [virtio-rdma QUE-9] [virtio-rdma SEC-3]
TEST(VirtioRdmaProcess, ThatRewritesAllItHasHarmsItselfAlone)
{
    uint32_t seeds = std::getenv("RDMA_NIGHTLY") ? 1000 : 100;
    for (uint32_t seed = 0; seed < seeds; ++seed) {
        SCOPED_TRACE(seed);
        ASSERT_NO_FATAL_FAILURE(TwoProcesses(seed).run());
    }
}

} // namespace
} // namespace rdma::test
