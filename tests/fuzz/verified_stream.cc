// SPDX-License-Identifier: GPL-2.0-or-later
#include "verified_stream.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace rdma::fuzz {

namespace {

constexpr uint64_t constant_seed = 0x5eed;
constexpr uint64_t recv_wr_id = 1ull << 32;
constexpr uint32_t addend = 3;
constexpr uint8_t max_retries = 7;
constexpr uint32_t first_psn = 0xfffff0; // PSNs wrap soon

void expect(bool right, const char* what)
{
    if (!right) {
        std::fprintf(stderr, "the verified stream was disturbed: %s\n", what);
        abort();
    }
}

} // namespace

VerifiedStream::VerifiedStream(Machine& first, Machine& second) : _sides{Side{first}, Side{second}}
{
    for (Side& side : _sides) {
        set_up(side);
    }
    for (Side& side : _sides) {
        const Side& peer = _sides[&side == &_sides[0]];
        side.machine.connect(side.qp, qpt_rc, peer.machine.host(), peer.qp.qpn, first_psn,
                             max_retries);
    }
    for (Side& side : _sides) {
        expect(side.machine.read_register(reg_err) == 0, "set-up");
        for (uint64_t i = 0; i < slots; ++i) {
            post_receive(side);
        }
    }
}

void VerifiedStream::set_up(Side& side)
{
    Machine& m = side.machine;
    uint32_t pd = m.create_pd();
    uint32_t cq;
    side.cq = m.create_cq(64, cq);
    auto pages = m.pages(region_size / page_size);
    side.gpa = pages.front();
    side.mr = m.register_memory(pd, pages, iova);
    side.qp = m.create_qp(qpt_rc, pd, cq);
    m.put(side.gpa + constant, pattern(constant_seed));
}

VerifiedStream::Pattern VerifiedStream::pattern(uint64_t seed)
{
    Pattern bytes;
    uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
    for (uint8_t& byte : bytes) {
        state = state * 6364136223846793005 + 1442695040888963407;
        byte = static_cast<uint8_t>(state >> 56);
    }
    return bytes;
}

void VerifiedStream::post_receive(Side& side)
{
    uint64_t r = side.receives++;
    side.machine.post_recv(side.qp, iova + received + r % slots * slot_size, slot_size,
                           side.mr.lkey, recv_wr_id + r);
}

void VerifiedStream::post(Side& side, const Side& peer)
{
    uint64_t n = side.posted++;
    uint64_t slot = n % slots * slot_size;
    auto size = static_cast<uint32_t>(size_of(n));
    struct {
        SqWqeHdr hdr;
        Sge sge;
    } wqe{};
    wqe.hdr.wr_id = n;
    wqe.hdr.num_sge = 1;
    wqe.hdr.send_flags = 1 << 1; // IBV_SEND_SIGNALED
    switch (kind_of(n)) {
    case send:
    case write:
        wqe.hdr.opcode = kind_of(n) == send ? +wr_send : +wr_rdma_write;
        wqe.hdr.wr.rdma = {iova + written + slot, peer.mr.rkey, 0};
        wqe.sge = {iova + source + slot, size, side.mr.lkey};
        side.machine.put(side.gpa + source + slot, pattern(seed_of(side, n)));
        break;
    case read:
        wqe.hdr.opcode = wr_rdma_read;
        wqe.hdr.wr.rdma = {iova + constant, peer.mr.rkey, 0};
        wqe.sge = {iova + fetched + slot, size, side.mr.lkey};
        side.machine.put(side.gpa + fetched + slot, Pattern{});
        break;
    default:
        wqe.hdr.opcode = wr_fetch_add;
        wqe.hdr.wr.atomic = {iova + counter, addend, 0, peer.mr.rkey, 0};
        wqe.sge = {iova + fetched + slot, sizeof(uint64_t), side.mr.lkey};
    }
    side.machine.publish(side.qp.sq, &wqe, sizeof(wqe));
    side.machine.ring(1, uar_qp_offset, uar_qp_send | side.qp.handle);
}

void VerifiedStream::expect_pattern(Side& side, uint64_t offset, uint64_t seed, uint64_t size)
{
    auto bytes = side.machine.get<Pattern>(side.gpa + offset);
    auto right = pattern(seed);
    expect(std::equal(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size),
                      right.begin()),
           "content");
}

void VerifiedStream::check_completion(Side& side, Side& peer, const Cqe& cqe)
{
    uint64_t n = side.completed++;
    uint64_t slot = n % slots * slot_size;
    expect(cqe.wr_id == n, "order of completions");
    switch (kind_of(n)) {
    case write:
        expect_pattern(peer, written + slot, seed_of(side, n), size_of(n));
        break;
    case read:
        expect_pattern(side, fetched + slot, constant_seed, size_of(n));
        break;
    case add:
        expect(side.machine.get<uint64_t>(side.gpa + fetched + slot) == n / kinds * addend,
               "value of an atomic");
        break;
    default:
        break;
    }
}

void VerifiedStream::check_receive(Side& side, const Cqe& cqe)
{
    uint64_t r = side.messages++;
    const Side& sender = _sides[&side == &_sides[0]];
    uint64_t n = r * kinds; // every fourth request is a SEND
    expect(cqe.wr_id == recv_wr_id + r, "order of receives");
    expect(cqe.byte_len == size_of(n), "length of a message");
    expect_pattern(side, received + r % slots * slot_size, seed_of(sender, n), size_of(n));
    post_receive(side);
}

bool VerifiedStream::poll(Side& side, Side& peer)
{
    bool any = false;
    while (auto cqe = side.machine.poll(side.cq)) {
        any = true;
        if (cqe->status != 0) {
            std::fprintf(stderr, "status %u\n", cqe->status);
        }
        expect(cqe->status == 0, "status of a completion");
        expect(cqe->qp == side.qp.handle, "QP of a completion");
        if (cqe->opcode & wc_recv) {
            check_receive(side, *cqe);
        } else {
            check_completion(side, peer, *cqe);
        }
    }
    return any;
}

bool VerifiedStream::step(uint64_t limit)
{
    bool any = poll(_sides[0], _sides[1]);
    any = poll(_sides[1], _sides[0]) || any;
    for (Side& side : _sides) {
        while (side.posted < limit && side.posted - side.completed < max_outstanding) {
            post(side, _sides[&side == &_sides[0]]);
        }
    }
    return any;
}

bool VerifiedStream::done(uint64_t limit) const
{
    return std::ranges::all_of(_sides, [&](const Side& side) {
        return side.completed == limit && side.messages == (limit + kinds - 1) / kinds;
    });
}

} // namespace rdma::fuzz
