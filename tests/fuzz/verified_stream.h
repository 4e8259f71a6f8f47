// SPDX-License-Identifier: GPL-2.0-or-later
//
// Two machines whose programs exchange requests of every kind over an RC
// connection and check every byte, count and order: what must go on undisturbed
// whatever a third machine does.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "machine.h"

namespace rdma::fuzz {

class VerifiedStream {
public:
    VerifiedStream(Machine& first, Machine& second);

    // Posts what there is room for, up to limit requests of each side; takes
    // completions and checks them. Aborts where one is wrong. True: there was one.
    bool step(uint64_t limit);
    // Both sides have had limit requests completed, and received what they must.
    bool done(uint64_t limit) const;

private:
    static constexpr uint64_t slots = 8;
    static constexpr uint64_t slot_size = 1024;
    static constexpr uint64_t max_outstanding = 4;
    static constexpr uint64_t iova = 0x10'0000;
    // Parts of a side's region.
    static constexpr uint64_t source = 0;
    static constexpr uint64_t received = slots * slot_size;
    static constexpr uint64_t written = 2 * slots * slot_size;
    static constexpr uint64_t fetched = 3 * slots * slot_size;
    static constexpr uint64_t constant = 4 * slots * slot_size; // what READs read
    static constexpr uint64_t counter = constant + slot_size;
    static constexpr uint64_t region_size = constant + 4096;

    enum Kind { send, write, read, add, kinds };
    static Kind kind_of(uint64_t n) { return static_cast<Kind>(n % kinds); }

    struct Side {
        Machine& machine;
        uint64_t gpa = 0; // of the region, whose pages are contiguous
        RespCreateMr mr{};
        Ring cq;
        GuestQp qp;
        uint64_t posted = 0;
        uint64_t completed = 0;
        uint64_t receives = 0; // posted
        uint64_t messages = 0; // received
    };
    using Pattern = std::array<uint8_t, slot_size>;

    void set_up(Side& side);
    void post_receive(Side& side);
    void post(Side& side, const Side& peer);
    bool poll(Side& side, Side& peer);
    void check_completion(Side& side, Side& peer, const Cqe& cqe);
    void check_receive(Side& side, const Cqe& cqe);
    void expect_pattern(Side& side, uint64_t offset, uint64_t seed, uint64_t size);

    uint64_t seed_of(const Side& side, uint64_t n) const
    {
        return n * 2 + (&side == &_sides[0]);
    }
    static uint64_t size_of(uint64_t n) { return 1 + n * 211 % (slot_size - 1); }
    static Pattern pattern(uint64_t seed);

    std::array<Side, 2> _sides;
};

} // namespace rdma::fuzz
