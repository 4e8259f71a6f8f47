// SPDX-License-Identifier: GPL-2.0-or-later
#include "card_interrupts.h"

#include "pci_function.h"

namespace hostile {

namespace {

constexpr unsigned max_vectors = 25; // VMXNET3_MAX_INTRS
constexpr unsigned mask_stride = 2;  // words from one vector's mask to the next (VMXNET3_REG_IMR)
constexpr unsigned entry_words = 4;  // of the MSI-X table

} // namespace

CardInterrupts::CardInterrupts(const std::string& address)
    : _masks(map_bar("/sys/bus/pci/devices/" + address, 0)),
      _table(map_bar("/sys/bus/pci/devices/" + address, 2))
{
}

CardInterrupts::~CardInterrupts()
{
    unmap_bar(_masks);
    unmap_bar(_table);
}

void CardInterrupts::aim(uint64_t target, uint32_t value)
{
    for (unsigned vector = 0; vector < max_vectors; ++vector) {
        auto entry = _table.subspan(vector * entry_words, entry_words);
        entry[0] = static_cast<uint32_t>(target);
        entry[1] = static_cast<uint32_t>(target >> 32);
        entry[2] = value;
        entry[3] = 0;
    }
}

void CardInterrupts::unmask()
{
    for (unsigned vector = 0; vector < max_vectors; ++vector) {
        _masks[vector * mask_stride] = 0;
    }
}

} // namespace hostile
