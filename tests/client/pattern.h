// SPDX-License-Identifier: GPL-2.0-or-later
//
// What messages hold: a stream of bytes made from a seed, so that a byte of
// another message, or of another place in the same one, shows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

#include "verbs.h"

namespace verify {

// A well mixed 64-bit number (the finalizer of MurmurHash3).
inline uint64_t mix(uint64_t value)
{
    value ^= value >> 33;
    value *= 0xff51afd7ed558ccd;
    value ^= value >> 33;
    value *= 0xc4ceb9fe1a85ec53;
    return value ^ value >> 33;
}

// Calls use(place, bytes) for every 8 bytes (fewer at the end) of a piece that
// begins at offset of the stream.
template <typename Use>
void for_pattern(uint64_t seed, uint64_t offset, size_t size, Use&& use)
{
    for (size_t at = 0; at < size;) {
        uint64_t word = mix(seed ^ (offset + at) / 8 * 0x9e3779b97f4a7c15);
        size_t skip = (offset + at) % 8;
        size_t length = std::min(8 - skip, size - at);
        use(at, reinterpret_cast<const uint8_t*>(&word) + skip, length);
        at += length;
    }
}

inline void fill(std::span<uint8_t> out, uint64_t seed, uint64_t offset = 0)
{
    for_pattern(seed, offset, out.size(), [&](size_t at, const uint8_t* bytes, size_t length) {
        std::memcpy(out.data() + at, bytes, length);
    });
}

inline void check(std::span<const uint8_t> in, uint64_t seed, uint64_t offset, const char* what)
{
    for_pattern(seed, offset, in.size(), [&](size_t at, const uint8_t* bytes, size_t length) {
        if (std::memcmp(in.data() + at, bytes, length) != 0) {
            throw Failure(fmt::format("{}: wrong byte in the 8 from offset {} of {}", what,
                                      offset + at, offset + in.size()));
        }
    });
}

// What memory holds that nothing may write to.
inline constexpr uint8_t untouched = 0xa5;

inline void poison(std::span<uint8_t> memory)
{
    std::memset(memory.data(), untouched, memory.size());
}

inline void check_untouched(std::span<const uint8_t> memory, const char* what)
{
    auto bad = std::ranges::find_if(memory, [](uint8_t byte) { return byte != untouched; });
    expect(bad == memory.end(), "{}: byte {} outside of the message was written", what,
           bad - memory.begin());
}

} // namespace verify
