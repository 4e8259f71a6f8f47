// SPDX-License-Identifier: GPL-2.0-or-later
//
// A packet sequence number (IBTA vol. 1, 9.7.1): 24 bits that wrap. Two PSNs are compared over
// half the circle: of the 2^24 PSNs, a PSN is after the 2^23 that precede it and before the
// other ones. So the order is one only among PSNs that lie within half the circle.
#pragma once

#include <cstdint>

namespace rdma::roce {

// [IBTA 9.7.1-1]
class Psn {
public:
    static constexpr uint32_t mask = 0xffffff;
    // Half the circle: no more PSNs may be outstanding.
    static constexpr uint32_t half = 1u << 23;

    constexpr Psn() = default;
    // The lower 24 bits count.
    constexpr explicit Psn(uint32_t value) : _value(value & mask) {}

    // As it is on the wire: 0 to mask.
    constexpr uint32_t value() const { return _value; }

    constexpr Psn& operator+=(uint32_t packets) { return *this = Psn(_value + packets); }
    constexpr Psn& operator-=(uint32_t packets) { return *this = Psn(_value - packets); }
    constexpr Psn& operator++() { return *this += 1; }
    friend constexpr Psn operator+(Psn psn, uint32_t packets) { return psn += packets; }
    friend constexpr Psn operator-(Psn psn, uint32_t packets) { return psn -= packets; }

    // How many packets a is after b, -2^23 to 2^23 - 1: negative where it is before b.
    friend constexpr int32_t operator-(Psn a, Psn b)
    {
        return static_cast<int32_t>((a._value - b._value) << 8) >> 8;
    }
    // How many packets it is after another one that is known not to be after it, 0 to mask.
    constexpr uint32_t distance_from(Psn before) const { return (_value - before._value) & mask; }

    friend constexpr bool operator==(Psn a, Psn b) = default;
    friend constexpr bool operator<(Psn a, Psn b) { return a - b < 0; }
    friend constexpr bool operator>(Psn a, Psn b) { return a - b > 0; }
    friend constexpr bool operator<=(Psn a, Psn b) { return a - b <= 0; }
    friend constexpr bool operator>=(Psn a, Psn b) { return a - b >= 0; }

private:
    uint32_t _value = 0;
};

// The later of two PSNs.
constexpr Psn later_of(Psn a, Psn b)
{
    return a < b ? b : a;
}

} // namespace rdma::roce
