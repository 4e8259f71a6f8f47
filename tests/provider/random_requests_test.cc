// SPDX-License-Identifier: GPL-2.0-or-later
//
// The provider's queues in the memory of a whole device: lists of libibverbs' requests as a
// program posts them, two queue pairs in each of two guests, datagrams or connected, to the other
// guest and to the same one. What memory and completions must be comes from a model that knows
// neither entries nor packets. Each run is made from its seed alone.
#include <cerrno>
#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "provider_guest.h"

namespace rdma::test {
namespace {

constexpr uint32_t qkey = 0x11111111;
constexpr uint32_t grh_bytes = 40;

struct Pair {
    Side* side = nullptr;
    GuestQp qp;
    std::unique_ptr<Ring> sends;
    std::shared_ptr<ReceiveQueue> receives;
    std::unique_ptr<Completions> sent, received;
    Pair* peer = nullptr; // where connected
    vrdma_send_limits limits{};
    uint32_t max_recv_sges = 0;
};

// A request that the provider is given, with all that it points to.
struct Request {
    ibv_send_wr wr{};
    std::vector<ibv_sge> sges;
    std::vector<Bytes> inline_bytes;
    vrdma_ah ah{};
    Pair* to = nullptr;
};

class Scenario {
public:
    explicit Scenario(uint32_t seed) : _generator(seed)
    {
        VirtioGuest::join(_sides[0]->guest, _sides[1]->guest);
        _datagrams = below(2) == 0;
        for (auto& side : _sides) {
            for (uint64_t i = 0; i < area_bytes; ++i)
                *side->at(side->address(sources, i)) = static_cast<uint8_t>(below(256));
            std::memcpy(side->guest.ram.bytes(side->start, region_bytes).data(),
                        side->expected.data(), region_bytes);
            if (below(3) == 0)
                side->shared = std::make_shared<ReceiveQueue>(
                    side->guest, side->guest.create_srq(side->pd, 32, receive_entry_size()));
        }
        for (size_t i = 0; i < _pairs.size(); ++i)
            create(_pairs[i], *_sides[i / 2]);
        const size_t distance = 1 + below(2); // to the same guest, or to the other
        for (size_t i = 0; i < _pairs.size(); ++i)
            connect(_pairs[i], _pairs[i ^ distance]);
    }

    void play()
    {
        for (int step = 0; step < 100 && !testing::Test::HasFailure(); ++step) {
            SCOPED_TRACE(testing::Message() << "step " << step);
            post_receives(_pairs[below(_pairs.size())]);
            arm_some();
            post_sends(_pairs[below(_pairs.size())]);
            poll(below(3) == 0);
        }
        poll(true);
    }

private:
    uint32_t below(uint64_t limit) { return static_cast<uint32_t>(_generator() % limit); }
    uint32_t receive_entry_size() { return vrdma_recv_entry_size(1 + below(8)); }

    // As vrdma_create_qp() lays a queue pair out.
    void create(Pair& pair, Side& side)
    {
        const auto device = side.guest.limits();
        const uint32_t max_sges = 1 + below(8), max_inline = below(device.max_inline + 1U);
        VirtioGuest::QpShape shape;
        shape.type = _datagrams ? VIRTIO_RDMA_QP_UD : VIRTIO_RDMA_QP_RC;
        shape.sq_entries = 4U << below(3);
        shape.sq_entry_size = vrdma_send_entry_size(_datagrams, max_sges, max_inline);
        shape.rq_entries = 4U << below(3);
        shape.rq_entry_size = receive_entry_size();
        if (side.shared) {
            shape.flags = VIRTIO_RDMA_QP_USES_SRQ;
            shape.srq = side.shared->ring.queue.number;
        }
        pair.side = &side;
        pair.sent = std::make_unique<Completions>(side.guest, 32U << below(2));
        pair.received = std::make_unique<Completions>(side.guest, 32U << below(2));
        // [virtio-rdma CTL-18]
        pair.qp = side.guest.create_qp(side.pd, pair.sent->queue, pair.received->queue, shape);
        pair.sends = std::make_unique<Ring>(side.guest, pair.qp.sq);
        pair.receives = side.shared ? side.shared
                                    : std::make_shared<ReceiveQueue>(side.guest, pair.qp.rq);
        pair.limits.datagrams = _datagrams;
        pair.limits.opcodes = vrdma_send_opcodes(_datagrams ? IBV_QPT_UD : IBV_QPT_RC,
                                                 1U << VIRTIO_RDMA_F_ATOMICS);
        pair.limits.max_sges = std::min<uint32_t>(
            device.max_sges, vrdma_send_entry_sges(_datagrams, shape.sq_entry_size));
        pair.limits.max_inline = std::min<uint32_t>(
            device.max_inline, vrdma_send_entry_inline(_datagrams, shape.sq_entry_size));
        pair.max_recv_sges = vrdma_recv_entry_sges(pair.receives->ring.queue.entry_size);
    }
    void connect(Pair& pair, Pair& peer)
    {
        if (_datagrams) {
            pair.side->guest.open(pair.qp, qkey);
        } else {
            pair.peer = &peer;
            pair.side->guest.connect(pair.qp, peer.side->number, peer.qp.qpn);
        }
    }

    // A list of receives, some of which may find the queue full.
    void post_receives(Pair& pair)
    {
        ReceiveQueue& queue = *pair.receives;
        const uint32_t most = std::min<uint32_t>(
            8, static_cast<uint32_t>(pair.side->free_places.size()));
        std::vector<Receive> list(below(most + 1U));
        std::vector<ibv_recv_wr> wrs(list.size());
        for (size_t i = 0; i < list.size(); ++i) {
            list[i].wr_id = _generator();
            list[i].place = pair.side->free_places[i];
            const uint32_t num = 1 + below(pair.max_recv_sges), piece = receive_bytes / num;
            for (uint32_t n = 0; n < num; ++n) {
                const uint64_t offset = list[i].place * receive_bytes + n * piece;
                list[i].sges.push_back({pair.side->address(Area::receives, offset),
                                        piece - below(512 / num), pair.side->mr.lkey});
            }
            wrs[i].wr_id = list[i].wr_id;
            wrs[i].sg_list = list[i].sges.data();
            wrs[i].num_sge = static_cast<int>(num);
            if (i)
                wrs[i - 1].next = &wrs[i];
        }
        const size_t room = queue.ring.queue.entries - queue.posted.size();
        const size_t posted = std::min(list.size(), room);
        ibv_recv_wr* bad = nullptr;
        const int error =
            vrdma_ring_post_recv(&queue.ring.ring, list.empty() ? nullptr : wrs.data(), &bad,
                                 pair.max_recv_sges);
        EXPECT_EQ(error, posted < list.size() ? ENOMEM : 0);
        EXPECT_EQ(bad, error ? &wrs[posted] : nullptr);
        queue.ring.ring_doorbell();
        for (size_t i = 0; i < posted; ++i) {
            queue.posted.push_back(list[i]);
            pair.side->free_places.pop_front();
        }
    }

    void arm_some()
    {
        for (auto& pair : _pairs) {
            for (auto* completions : {pair.sent.get(), pair.received.get()}) {
                if (below(4) == 0)
                    completions->arm(below(2) == 0);
            }
        }
    }

    // Pieces of what an area has, in which so many bytes are gathered or scattered.
    std::vector<ibv_sge> pieces(Side& side, Area area, uint32_t bytes, uint32_t most)
    {
        std::vector<ibv_sge> sges;
        for (uint32_t left = most; left > 0 && (bytes > 0 || below(2)); --left) {
            const uint32_t length = left == 1 ? bytes : below(bytes + 1U);
            sges.push_back({side.address(area, below(area_bytes - length)), length, side.mr.lkey});
            bytes -= length;
        }
        return sges;
    }
    void be_inline(Request& request, uint32_t bytes)
    {
        request.wr.send_flags |= IBV_SEND_INLINE;
        const uint32_t most = 1 + below(10);
        for (uint32_t left = most; left > 0; --left) {
            const uint32_t length = left == 1 ? bytes : below(bytes + 1U);
            Bytes& part = request.inline_bytes.emplace_back(length);
            for (auto& byte : part)
                byte = static_cast<uint8_t>(below(256));
            bytes -= length;
        }
        for (auto& part : request.inline_bytes)
            request.sges.push_back(
                {reinterpret_cast<uintptr_t>(part.data()), static_cast<uint32_t>(part.size()), 0});
    }

    // One that the queue takes. receives: how many the receiver of each has left.
    void make(Request& request, Pair& from, std::map<ReceiveQueue*, size_t>& left)
    {
        auto& wr = request.wr;
        request.to = _datagrams ? &_pairs[below(_pairs.size())] : from.peer;
        Side& to = *request.to->side;
        static constexpr std::array opcodes{
            IBV_WR_SEND,      IBV_WR_SEND_WITH_IMM,       IBV_WR_RDMA_WRITE,
            IBV_WR_RDMA_READ, IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WR_ATOMIC_CMP_AND_SWP,
            IBV_WR_ATOMIC_FETCH_AND_ADD};
        wr.opcode = opcodes[below(_datagrams ? 2 : opcodes.size())];
        const bool is_consumer = wr.opcode == IBV_WR_SEND || wr.opcode == IBV_WR_SEND_WITH_IMM ||
                                 wr.opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
        size_t& receives = left.try_emplace(request.to->receives.get(),
                                            request.to->receives->posted.size()).first->second;
        if (is_consumer && receives > 0)
            --receives;
        else if (is_consumer && !_datagrams)
            wr.opcode = IBV_WR_RDMA_WRITE; // nobody waits for a receive here
        wr.wr_id = _generator();
        for (const unsigned flag : {IBV_SEND_SIGNALED, IBV_SEND_SOLICITED, IBV_SEND_FENCE}) {
            if (below(2))
                wr.send_flags |= flag;
        }
        wr.imm_data = below(UINT32_MAX);

        const uint32_t limit = _datagrams ? 1024 : 3000;
        const bool is_atomic = wr.opcode == IBV_WR_ATOMIC_CMP_AND_SWP ||
                               wr.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
        if (is_atomic) {
            request.sges = {{to_landing(*from.side), 8, from.side->mr.lkey}};
            wr.wr.atomic = {.remote_addr = to.address(windows, below(area_bytes / 8) * 8),
                            .compare_add = _generator(), .swap = _generator(), .rkey = to.mr.rkey};
            if (below(2)) // a comparison that finds what it looks for
                std::memcpy(&wr.wr.atomic.compare_add, to.at(wr.wr.atomic.remote_addr), 8);
        } else if (wr.opcode != IBV_WR_RDMA_READ && below(2)) {
            be_inline(request, below(from.limits.max_inline + 1U));
        } else {
            request.sges = pieces(*from.side, wr.opcode == IBV_WR_RDMA_READ ? landings : sources,
                                  below(limit + 1U), from.limits.max_sges);
        }
        if (_datagrams) {
            request.ah.av = from.side->guest.address_of(to.number);
            wr.wr.ud = {.ah = &request.ah.ibv_ah, .remote_qpn = request.to->qp.qpn,
                        .remote_qkey = qkey};
        } else if (!is_atomic) {
            wr.wr.rdma = {.remote_addr = to.address(windows, below(area_bytes - limit)),
                          .rkey = to.mr.rkey};
        }
    }
    uint64_t to_landing(Side& side) { return side.address(landings, below(area_bytes - 8)); }

    // Makes of it one that the queue does not take.
    void spoil(Request& request, Pair& from)
    {
        request.sges.clear();
        request.inline_bytes.clear();
        request.wr.send_flags &= ~static_cast<unsigned>(IBV_SEND_INLINE);
        switch (below(3)) {
        case 0:
            request.wr.opcode = IBV_WR_SEND;
            be_inline(request, from.limits.max_inline + 1 + below(300));
            break;
        case 1:
            request.wr.opcode = IBV_WR_SEND;
            request.sges.resize(from.limits.max_sges + 1 + below(5));
            break;
        default:
            request.wr.opcode = _datagrams ? IBV_WR_RDMA_WRITE : IBV_WR_LOCAL_INV;
            break;
        }
    }

    // A list of requests, perhaps longer than the queue, and perhaps with one that is refused.
    void post_sends(Pair& from)
    {
        const size_t entries = from.sends->queue.entries;
        std::vector<Request> list(1 + below(entries + 2));
        const size_t spoilt = below(4) ? list.size() : below(list.size());
        const size_t posted = std::min({list.size(), entries, spoilt});
        make_room(from, list.size());
        std::map<ReceiveQueue*, size_t> left;
        bool has_read = false;
        for (size_t i = 0; i < list.size(); ++i) {
            make(list[i], from, left);
            has_read = has_read || list[i].wr.opcode == IBV_WR_RDMA_READ;
            // Without it a READ may bring what a later WRITE writes (IBTA 10.8.3.3).
            if (has_read)
                list[i].wr.send_flags |= IBV_SEND_FENCE;
            if (i == spoilt)
                spoil(list[i], from);
            list[i].wr.sg_list = list[i].sges.data();
            list[i].wr.num_sge = static_cast<int>(list[i].sges.size());
            if (i)
                list[i - 1].wr.next = &list[i].wr;
        }
        // Its completion tells that all are done.
        if (posted > 0)
            list[posted - 1].wr.send_flags |= IBV_SEND_SIGNALED;

        ibv_send_wr* bad = nullptr;
        const int error =
            vrdma_ring_post_send(&from.sends->ring, &list[0].wr, &bad, &from.limits);
        EXPECT_EQ(error, posted == list.size() ? 0 : posted == entries ? ENOMEM : EINVAL);
        EXPECT_EQ(bad, error ? &list[posted].wr : nullptr);
        for (size_t i = 0; i < posted; ++i)
            execute(from, list[i]);
        // What is inline, the program may use again before the device sees the request.
        for (auto& request : list) {
            for (auto& part : request.inline_bytes)
                std::ranges::fill(part, uint8_t{0xee});
        }
        from.sends->ring_doorbell();
        settle();
    }
    // In the queues for completions.
    void make_room(Pair& from, size_t num)
    {
        if (from.sent->expected.size() + num > from.sent->ring.entries)
            poll(true);
        for (auto& pair : _pairs) {
            if (pair.received->expected.size() + num > pair.received->ring.entries)
                poll(true);
        }
    }

    // The model.
    static Bytes gather(Side& side, const Request& request)
    {
        Bytes bytes;
        for (const auto& part : request.inline_bytes)
            bytes.insert(bytes.end(), part.begin(), part.end());
        if (request.inline_bytes.empty()) {
            for (const auto& sge : request.sges)
                bytes.insert(bytes.end(), side.at(sge.addr), side.at(sge.addr) + sge.length);
        }
        return bytes;
    }
    static void scatter(Side& side, const std::vector<ibv_sge>& sges, const Bytes& bytes)
    {
        auto from = bytes.begin();
        for (const auto& sge : sges) {
            const auto length = std::min<ptrdiff_t>(sge.length, bytes.end() - from);
            std::copy_n(from, length, side.at(sge.addr));
            from += length;
        }
    }
    void execute(Pair& from, const Request& request)
    {
        const auto& wr = request.wr;
        Side &here = *from.side, &there = *request.to->side;
        ibv_wc wc{};
        wc.wr_id = wr.wr_id;
        wc.qp_num = from.qp.qpn;
        switch (wr.opcode) {
        case IBV_WR_RDMA_READ: {
            wc.opcode = IBV_WC_RDMA_READ;
            for (const auto& sge : request.sges)
                wc.byte_len += sge.length;
            const auto* source = there.at(wr.wr.rdma.remote_addr);
            scatter(here, request.sges, Bytes(source, source + wc.byte_len));
            break;
        }
        case IBV_WR_ATOMIC_CMP_AND_SWP:
        case IBV_WR_ATOMIC_FETCH_AND_ADD: {
            const auto& atomic = wr.wr.atomic;
            const bool is_swap = wr.opcode == IBV_WR_ATOMIC_CMP_AND_SWP;
            uint8_t* at = there.at(atomic.remote_addr);
            uint64_t old = 0;
            std::memcpy(&old, at, 8);
            uint64_t value = is_swap ? (old == atomic.compare_add ? atomic.swap : old)
                                     : old + atomic.compare_add;
            scatter(here, request.sges, Bytes(at, at + 8));
            std::memcpy(at, &value, 8);
            wc.opcode = is_swap ? IBV_WC_COMP_SWAP : IBV_WC_FETCH_ADD;
            wc.byte_len = 8;
            break;
        }
        case IBV_WR_RDMA_WRITE:
        case IBV_WR_RDMA_WRITE_WITH_IMM:
            wc.opcode = IBV_WC_RDMA_WRITE;
            std::ranges::copy(gather(here, request), there.at(wr.wr.rdma.remote_addr));
            if (wr.opcode == IBV_WR_RDMA_WRITE_WITH_IMM)
                receive(from, request);
            break;
        default:
            wc.opcode = IBV_WC_SEND;
            receive(from, request);
            break;
        }
        if (wr.send_flags & IBV_SEND_SIGNALED)
            from.sent->expect(wc, false);
    }
    void receive(Pair& from, const Request& request)
    {
        Pair& to = *request.to;
        if (to.receives->posted.empty())
            return; // a datagram that nobody receives
        const Receive receive = to.receives->posted.front();
        to.receives->posted.pop_front();
        Bytes message = gather(*from.side, request);
        ibv_wc wc{};
        wc.wr_id = receive.wr_id;
        wc.qp_num = to.qp.qpn;
        wc.opcode = IBV_WC_RECV;
        if (request.wr.opcode != IBV_WR_SEND) {
            wc.wc_flags |= IBV_WC_WITH_IMM;
            wc.imm_data = request.wr.imm_data;
        }
        if (_datagrams) {
            wc.wc_flags |= IBV_WC_GRH;
            wc.src_qp = from.qp.qpn;
            message.insert(message.begin(), grh_bytes, 0);
            _headers.push_back({&to, receive.sges, from.side->number});
        }
        if (request.wr.opcode == IBV_WR_RDMA_WRITE_WITH_IMM)
            wc.opcode = IBV_WC_RECV_RDMA_WITH_IMM;
        else
            scatter(*to.side, receive.sges, message);
        wc.byte_len = static_cast<uint32_t>(message.size());
        to.received->expect(wc, (request.wr.send_flags & IBV_SEND_SOLICITED) != 0, receive.place);
    }

    // Lets the devices end what they have begun, and compares.
    void settle()
    {
        const auto is_done = [&] {
            return std::ranges::all_of(_pairs, [](const Pair& pair) {
                return pair.sent->have_come() && pair.received->have_come();
            });
        };
        for (int i = 0; i < 100 && !is_done(); ++i) {
            for (auto& side : _sides)
                side->guest.run_timer();
        }
        ASSERT_TRUE(is_done());
        take_headers();
        for (auto& side : _sides) {
            // [virtio-rdma REQ-10]
            ASSERT_EQ(std::memcmp(side->actual().data(), side->expected.data(), region_bytes), 0)
                << "guest " << int{side->number} << ", byte "
                << std::ranges::mismatch(std::as_bytes(std::span(side->expected)), side->actual())
                           .in1 - std::as_bytes(std::span(side->expected)).begin();
            std::multiset<uint32_t> events, expected;
            while (auto event = side->guest.completion_event())
                events.insert(*event);
            for (auto& pair : _pairs) {
                for (auto* completions : {pair.sent.get(), pair.received.get()}) {
                    if (pair.side == side.get() && std::exchange(completions->events, 0U))
                        expected.insert(completions->queue.number);
                }
            }
            // [virtio-rdma QUE-20] [virtio-rdma REQ-13]
            EXPECT_EQ(events, expected);
        }
    }
    // The IPv4 header of a datagram has the addresses of its ends; the rest of it is taken as is.
    void take_headers()
    {
        for (const auto& [to, sges, sender] : _headers) {
            Bytes header;
            for (const auto& sge : sges) {
                auto bytes = to->side->guest.ram.bytes(sge.addr, sge.length);
                for (size_t i = 0; i < bytes.size() && header.size() < grh_bytes; ++i)
                    header.push_back(static_cast<uint8_t>(bytes[i]));
            }
            ASSERT_EQ(header.size(), grh_bytes);
            EXPECT_EQ(Bytes(header.end() - 8, header.end()),
                      (Bytes{10, 0, 0, sender, 10, 0, 0, to->side->number}));
            scatter(*to->side, sges, header);
        }
        _headers.clear();
    }

    void poll(bool all)
    {
        for (auto& pair : _pairs) {
            for (auto* completions : {pair.sent.get(), pair.received.get()}) {
                while ((all || below(3)) && !completions->expected.empty() &&
                       !testing::Test::HasFailure())
                    poll_some(*pair.side, *completions);
                EXPECT_FALSE(completions->expected.size() < completions->ring.entries &&
                             completions->has(completions->expected.size()));
            }
        }
    }
    void poll_some(Side& side, Completions& completions)
    {
        std::array<ibv_wc, 8> found;
        const auto most = static_cast<int>(1 + below(found.size()));
        const int num = vrdma_cq_ring_poll(&completions.ring, most, found.data());
        ASSERT_EQ(num, std::min(most, static_cast<int>(completions.expected.size())));
        for (const auto& wc : std::span(found).first(static_cast<size_t>(num))) {
            const auto [expected, place] = completions.expected.front();
            completions.expected.pop_front();
            EXPECT_EQ(wc.status, IBV_WC_SUCCESS);
            // [virtio-rdma REQ-8]
            EXPECT_EQ(wc.wr_id, expected.wr_id);
            EXPECT_EQ(wc.opcode, expected.opcode);
            EXPECT_EQ(wc.qp_num, expected.qp_num);
            EXPECT_EQ(wc.byte_len, expected.byte_len);
            EXPECT_EQ(wc.wc_flags, expected.wc_flags);
            EXPECT_EQ(wc.imm_data, expected.imm_data);
            // [virtio-rdma QUE-26]
            EXPECT_EQ(wc.src_qp, expected.src_qp);
            if (place)
                side.free_places.push_back(*place);
        }
    }

    struct Header {
        Pair* to;
        std::vector<ibv_sge> sges;
        uint8_t sender;
    };

    std::mt19937 _generator;
    bool _datagrams = false;
    std::array<std::unique_ptr<Side>, 2> _sides{std::make_unique<Side>(uint8_t{1}),
                                                std::make_unique<Side>(uint8_t{2})};
    std::array<Pair, 4> _pairs; // two of each side
    std::vector<Header> _headers;
};

TEST(RandomRequests, AreCarriedOutAsAModelHasThem)
{
    const char* only = std::getenv("SEED");
    const uint32_t first = only ? static_cast<uint32_t>(std::atoi(only)) : 0;
    const uint32_t count = only ? 1 : std::getenv("RDMA_NIGHTLY") ? 1000 : 100;
    for (uint32_t seed = first; seed < first + count && !HasFailure(); ++seed) {
        SCOPED_TRACE(testing::Message() << "SEED=" << seed);
        Scenario(seed).play();
    }
}

} // namespace
} // namespace rdma::test
