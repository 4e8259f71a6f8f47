// SPDX-License-Identifier: GPL-2.0-or-later
//
// What may be wrong in a state that a migration brings.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <cstdint>
#include <vector>

namespace rdma::fuzz {

// Bytes of a field, a section's size or a count, put to what may be on an edge.
inline void change_state(FuzzedDataProvider& data, std::vector<uint8_t>& state)
{
    size_t at = data.ConsumeIntegralInRange<size_t>(0, state.size() - 1);
    auto put = [&](uint64_t value, size_t size) {
        for (size_t i = 0; i < size && at + i < state.size(); ++i) {
            state[at + i] = static_cast<uint8_t>(value >> 8 * i);
        }
    };
    switch (data.ConsumeIntegralInRange(0, 5)) {
    case 0:
        put(data.ConsumeIntegral<uint8_t>(), 1);
        break;
    case 1:
        put(data.PickValueInArray<uint64_t>(
                {0, 1, 2, 0xff, 0xffff, 0x7fffff, 0xffffff, 0x7fffffff, 0xffffffff}),
            4);
        break;
    case 2:
        put(data.ConsumeIntegral<uint64_t>(), 8);
        break;
    case 3:
        put(state[at] + 1u, 1);
        break;
    case 4:
        put(state[at] - 1u, 1);
        break;
    default:
        state.resize(at + 1);
    }
}

// Up to 8 such changes; how many.
inline int change_state_in_places(FuzzedDataProvider& data, std::vector<uint8_t>& state)
{
    int changes = data.ConsumeIntegralInRange(0, 8);
    for (int i = 0; i < changes; ++i) {
        change_state(data, state);
    }
    return changes;
}

} // namespace rdma::fuzz
