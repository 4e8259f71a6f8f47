// SPDX-License-Identifier: GPL-2.0-or-later
//
// A PCI function that vfio-pci is bound to, and memory that the IOMMU maps for it and for the rest
// of its group (Linux's Documentation/driver-api/vfio.rst).
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace hostile {

class VfioFunction {
public:
    // The function is reset, and may access the memory that is mapped.
    explicit VfioFunction(const std::string& address);
    ~VfioFunction();
    VfioFunction(const VfioFunction&) = delete;
    VfioFunction& operator=(const VfioFunction&) = delete;

    // The 32-bit words of a BAR.
    std::span<volatile uint32_t> map_bar(unsigned n);

    // Of whole pages; iova: the address for the function. What is unmapped is what was mapped.
    void map(std::span<uint8_t> memory, uint64_t iova);
    void unmap(std::span<uint8_t> memory, uint64_t iova);

private:
    int _container;
    int _group = -1;
    int _device = -1;
};

} // namespace hostile
