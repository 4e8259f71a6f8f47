// SPDX-License-Identifier: GPL-2.0-or-later
//
// A PCI function without a driver, and memory for it, from user space (root).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace hostile {

// A huge page: its physical address is known, and stays.
class DmaMemory {
public:
    DmaMemory();
    ~DmaMemory();
    DmaMemory(const DmaMemory&) = delete;
    DmaMemory& operator=(const DmaMemory&) = delete;

    static constexpr size_t size = 2 << 20;
    uint64_t physical() const { return _physical; }
    uint8_t* memory() const { return _memory; }

private:
    uint8_t* _memory;
    uint64_t _physical;
};

// The 32-bit words of a BAR of the function whose folder in sysfs this is.
std::span<volatile uint32_t> map_bar(const std::string& folder, unsigned n);
void unmap_bar(std::span<volatile uint32_t> bar);

class PciFunction {
public:
    explicit PciFunction(const std::string& address);
    ~PciFunction();
    PciFunction(const PciFunction&) = delete;
    PciFunction& operator=(const PciFunction&) = delete;

    // The 32-bit words of a BAR.
    std::span<volatile uint32_t> bar(unsigned n) const { return _bars[n]; }
    uint64_t bar_address(unsigned n) const { return _addresses[n]; }
    // Bus mastering on and off; INTx stays off, for nobody would answer it. The BARs
    // stay where they are: with TCG, QEMU 10.0.13 ends with an assertion in
    // iotlb_to_section() where they go while another vCPU accesses any device.
    void enable();
    void disable();
    void set_msix(bool on);
    bool is_bus_master() const;
    // Writes a word of the configuration space, and may spoil the device's
    // state as a whole.
    void write_config(uint32_t offset, uint16_t value);

private:
    std::string _folder;
    int _config;
    uint32_t _msix = 0; // capability
    std::span<volatile uint32_t> _bars[3];
    uint64_t _addresses[3] = {};
};

} // namespace hostile
