// SPDX-License-Identifier: GPL-2.0-or-later
//
// The interrupts of a vmxnet3 card that its driver goes on using: where they are written.
// The guest's kernel must have been started with iomem=relaxed.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace hostile {

class CardInterrupts {
public:
    // The card's PCI address, e.g. 0000:00:05.0.
    explicit CardInterrupts(const std::string& address);
    ~CardInterrupts();
    CardInterrupts(const CardInterrupts&) = delete;
    CardInterrupts& operator=(const CardInterrupts&) = delete;

    // Every vector's message writes this word there (PCI 3.0, 6.8.2).
    void aim(uint64_t target, uint32_t value);
    // Lets each vector be raised once more: the card masks it as it raises it. One that is
    // pending is raised now.
    void unmask();

private:
    std::span<volatile uint32_t> _masks; // BAR 0
    std::span<volatile uint32_t> _table; // BAR 2
};

} // namespace hostile
