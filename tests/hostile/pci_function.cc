// SPDX-License-Identifier: GPL-2.0-or-later
#include "pci_function.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/pci_regs.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "attacks.h"

namespace hostile {

namespace {

constexpr uint64_t small_page = 4096;

[[noreturn]] void fail(const std::string& what)
{
    throw Error(fmt::format("{}: {}", what, std::strerror(errno)));
}

// Linux's Documentation/admin-guide/mm/pagemap.rst: bits 0..54 are the frame.
uint64_t physical_address(const void* address)
{
    int file = open("/proc/self/pagemap", O_RDONLY);
    uint64_t entry = 0;
    auto at = static_cast<off_t>(reinterpret_cast<uintptr_t>(address) / small_page * sizeof(entry));
    ssize_t size = pread(file, &entry, sizeof(entry), at);
    close(file);
    uint64_t frame = entry & ((uint64_t{1} << 55) - 1);
    if (size != sizeof(entry) || frame == 0) {
        fail("pagemap");
    }
    return frame * small_page;
}

} // namespace

DmaMemory::DmaMemory()
{
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        fail("a huge page (is nr_hugepages set?)");
    }
    _memory = static_cast<uint8_t*>(memory);
    _memory[0] = 1;
    _physical = physical_address(memory);
}

DmaMemory::~DmaMemory()
{
    munmap(_memory, size);
}

std::span<volatile uint32_t> map_bar(const std::string& folder, unsigned n)
{
    int file = open(fmt::format("{}/resource{}", folder, n).c_str(), O_RDWR);
    struct stat status {};
    fstat(file, &status);
    auto size = static_cast<size_t>(status.st_size);
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) {
        fail(fmt::format("BAR {} of {}", n, folder));
    }
    return {static_cast<volatile uint32_t*>(memory), size / sizeof(uint32_t)};
}

void unmap_bar(std::span<volatile uint32_t> bar)
{
    munmap(const_cast<uint32_t*>(bar.data()), bar.size_bytes());
}

PciFunction::PciFunction(const std::string& address) : _folder("/sys/bus/pci/devices/" + address)
{
    if (access((_folder + "/driver").c_str(), F_OK) == 0) {
        throw Error(address + " has a driver: unbind it first");
    }
    std::ofstream(_folder + "/enable") << "1\n";
    _config = open((_folder + "/config").c_str(), O_RDWR);
    if (_config < 0) {
        fail(_folder);
    }
    std::ifstream resources(_folder + "/resource");
    for (unsigned n = 0; n < std::size(_bars); ++n) {
        uint64_t begin, end, flags;
        resources >> std::hex >> begin >> end >> flags;
        _bars[n] = map_bar(_folder, n);
        _addresses[n] = begin;
    }
    uint8_t config[256] = {};
    if (pread(_config, config, sizeof(config), 0) < 0) {
        fail("configuration space");
    }
    for (uint8_t at = config[PCI_CAPABILITY_LIST]; at != 0; at = config[at + 1]) {
        if (config[at] == PCI_CAP_ID_MSIX) {
            _msix = at;
        }
    }
    enable();
}

PciFunction::~PciFunction()
{
    set_msix(false);
    disable();
    for (auto bar : _bars) {
        unmap_bar(bar);
    }
    close(_config);
    std::ofstream(_folder + "/enable") << "0\n";
}

void PciFunction::write_config(uint32_t offset, uint16_t value)
{
    if (pwrite(_config, &value, sizeof(value), offset) != sizeof(value)) {
        fail("configuration space");
    }
}

void PciFunction::enable()
{
    write_config(PCI_COMMAND,
                 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
}

void PciFunction::disable()
{
    write_config(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
}

void PciFunction::set_msix(bool on)
{
    write_config(_msix + PCI_MSIX_FLAGS, on ? PCI_MSIX_FLAGS_ENABLE : 0);
}

bool PciFunction::is_bus_master() const
{
    uint16_t command = 0;
    if (pread(_config, &command, sizeof(command), PCI_COMMAND) != sizeof(command)) {
        fail("configuration space");
    }
    return command & PCI_COMMAND_MASTER;
}

} // namespace hostile
