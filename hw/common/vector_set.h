// SPDX-License-Identifier: GPL-2.0-or-later
//
// A set of interrupt vectors, of which the lowest comes first.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "rdma_host.h"

namespace rdma {

class VectorSet {
public:
    // vector: less than RDMA_MAX_VECTORS.
    void insert(unsigned vector)
    {
        _words[vector / word_bits] |= uint64_t{1} << (vector % word_bits);
        _used |= uint32_t{1} << (vector / word_bits);
    }
    bool empty() const { return _used == 0; }
    // The lowest, which there must be.
    unsigned take()
    {
        auto index = static_cast<unsigned>(std::countr_zero(_used));
        uint64_t& word = _words[index];
        auto bit = static_cast<unsigned>(std::countr_zero(word));
        word &= word - 1;
        if (word == 0) {
            _used &= _used - 1;
        }
        return index * word_bits + bit;
    }
    void clear() { *this = {}; }

private:
    static constexpr unsigned word_bits = 64;

    std::array<uint64_t, RDMA_MAX_VECTORS / word_bits> _words{};
    uint32_t _used = 0; // a bit for each word that is not 0
};

} // namespace rdma
