// SPDX-License-Identifier: GPL-2.0-or-later
#include "pattern.h"
#include "suites.h"

namespace verify {

namespace {

constexpr unsigned pieces = 16;
// What memory stands behind a large region, again and again.
constexpr size_t period = 64 << 20;
// A PVRDMA region's page directory holds no more.
constexpr size_t largest_region = 1 << 30;

// The lengths of the receiver's pieces differ from the sender's, so that each
// byte lands somewhere of its own.
std::vector<size_t> receive_lengths(size_t size)
{
    std::vector<size_t> lengths;
    size_t left = size;
    for (unsigned i = 0; i + 1 < pieces; ++i) {
        lengths.push_back(size / pieces - 1 - 2 * i);
        left -= lengths.back();
    }
    lengths.push_back(left);
    return lengths;
}

// The memory after the SEND: the last bytes of the message have written it over
// for the last time. last: the receiver's last piece; length: each of the
// sender's pieces.
void check_last_turn(std::span<const uint8_t> memory, size_t last, size_t length)
{
    expect(last >= period, "the messages are too small for this test");
    size_t total = length * pieces;
    for (size_t at = total - period; at < total;) {
        size_t place = (at - (total - last)) % period;
        size_t source = at % length % period;
        size_t run = std::min({total - at, period - place, period - source, length - at % length});
        check(memory.subspan(place, run), 1, source, "the largest SEND");
        at += run;
    }
}

} // namespace

void verify_maximum(Peer& peer)
{
    OwnedCq cq = peer.device.create_cq(16);
    OwnedQp qp =
        peer.device.create_qp(IBV_QPT_RC, cq.get(), cq.get(), {8, 8, pieces, pieces, 0});
    QpAddress ours = address_of(peer.device, *qp);
    connect(peer.device, qp.get(), ours, peer.control.exchange(ours));

    uint32_t most = std::min(peer.device.port().max_msg_sz,
                             peer.control.exchange(peer.device.port().max_msg_sz));
    Buffer buffer(peer.device, std::min<size_t>(most, largest_region), all_access, period);
    struct Target {
        uint64_t address;
        uint32_t rkey;
    };
    auto target = peer.control.exchange(Target{buffer.address(), buffer.rkey()});
    auto stream = buffer.bytes().first(period);
    size_t region = buffer.bytes().size();

    // SEND: 16 pieces of the same memory on both sides.
    {
        size_t length = most / pieces;
        std::vector<ibv_sge> list;
        if (peer.is_client) {
            fill(stream, 1);
            list.assign(pieces, buffer.sge(0, length));
            ibv_send_wr wr{};
            wr.wr_id = 1;
            wr.opcode = IBV_WR_SEND;
            wr.send_flags = IBV_SEND_SIGNALED;
            wr.sg_list = list.data();
            wr.num_sge = pieces;
            peer.control.barrier();
            post_send(qp.get(), wr);
            expect_completion(cq.get(), 1);
        } else {
            poison(stream);
            auto lengths = receive_lengths(length * pieces);
            for (size_t each : lengths) {
                list.push_back(buffer.sge(0, each));
            }
            post_recv(qp.get(), 1, list);
            peer.control.barrier();
            ibv_wc wc = expect_completion(cq.get(), 1);
            expect(wc.byte_len == static_cast<uint32_t>(length * pieces), "{} bytes received",
                   wc.byte_len);
            check_last_turn(stream, lengths.back(), length);
        }
        peer.control.barrier();
    }
    // WRITE and READ: as much as a region holds.
    for (ibv_wr_opcode opcode : {IBV_WR_RDMA_WRITE, IBV_WR_RDMA_READ}) {
        uint64_t seed = 2 + opcode;
        bool is_source = peer.is_client == (opcode == IBV_WR_RDMA_WRITE);
        if (is_source) {
            fill(stream, seed);
        } else {
            poison(stream);
        }
        peer.control.barrier();
        if (peer.is_client) {
            ibv_sge sge = buffer.sge(0, region);
            ibv_send_wr wr{};
            wr.wr_id = seed;
            wr.opcode = opcode;
            wr.send_flags = IBV_SEND_SIGNALED;
            wr.sg_list = &sge;
            wr.num_sge = 1;
            wr.wr.rdma = {target.address, target.rkey};
            post_send(qp.get(), wr);
            expect_completion(cq.get(), seed);
        }
        peer.control.barrier();
        check(stream, seed, 0, opcode == IBV_WR_RDMA_READ ? "the largest READ"
                                                          : "the largest WRITE");
    }
    expect_empty(cq.get());
    fmt::print("maximum: SEND of {} bytes, WRITE and READ of {}\n", most / pieces * pieces, region);
}

} // namespace verify
