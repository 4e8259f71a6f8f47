// SPDX-License-Identifier: GPL-2.0-or-later
#include "vfio_function.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "attacks.h"

namespace hostile {

namespace {

int expect_done(int result, const char* what)
{
    if (result < 0) {
        throw Error(fmt::format("{}: {}", what, std::strerror(errno)));
    }
    return result;
}

vfio_region_info region(int device, unsigned index)
{
    vfio_region_info info{.argsz = sizeof(info), .index = index};
    expect_done(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info), "VFIO_DEVICE_GET_REGION_INFO");
    return info;
}

} // namespace

VfioFunction::VfioFunction(const std::string& address)
    : _container(expect_done(open("/dev/vfio/vfio", O_RDWR), "/dev/vfio/vfio"))
{
    auto group = std::filesystem::read_symlink("/sys/bus/pci/devices/" + address + "/iommu_group")
                     .filename();
    _group = expect_done(open(("/dev/vfio/" + group.string()).c_str(), O_RDWR), "the IOMMU group");
    expect_done(ioctl(_group, VFIO_GROUP_SET_CONTAINER, &_container), "VFIO_GROUP_SET_CONTAINER");
    expect_done(ioctl(_container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");
    _device = expect_done(ioctl(_group, VFIO_GROUP_GET_DEVICE_FD, address.c_str()),
                          "VFIO_GROUP_GET_DEVICE_FD");
    auto config = static_cast<off_t>(region(_device, VFIO_PCI_CONFIG_REGION_INDEX).offset);
    uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE;
    expect_done(static_cast<int>(pwrite(_device, &command, sizeof(command), config + PCI_COMMAND)),
                "configuration space");
}

// The kernel takes mastering from the function, and the mappings with the container.
VfioFunction::~VfioFunction()
{
    close(_device);
    close(_group);
    close(_container);
}

std::span<volatile uint32_t> VfioFunction::map_bar(unsigned n)
{
    vfio_region_info info = region(_device, n);
    void* memory = mmap(nullptr, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, _device,
                        static_cast<off_t>(info.offset));
    if (memory == MAP_FAILED) {
        throw Error(fmt::format("BAR {}: {}", n, std::strerror(errno)));
    }
    return {static_cast<volatile uint32_t*>(memory), info.size / sizeof(uint32_t)};
}

void VfioFunction::map(std::span<uint8_t> memory, uint64_t iova)
{
    vfio_iommu_type1_dma_map map{.argsz = sizeof(map),
                                 .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                 .vaddr = reinterpret_cast<uint64_t>(memory.data()),
                                 .iova = iova,
                                 .size = memory.size()};
    expect_done(ioctl(_container, VFIO_IOMMU_MAP_DMA, &map), "VFIO_IOMMU_MAP_DMA");
}

void VfioFunction::unmap(std::span<uint8_t> memory, uint64_t iova)
{
    vfio_iommu_type1_dma_unmap unmap{
        .argsz = sizeof(unmap), .flags = 0, .iova = iova, .size = memory.size()};
    expect_done(ioctl(_container, VFIO_IOMMU_UNMAP_DMA, &unmap), "VFIO_IOMMU_UNMAP_DMA");
    if (unmap.size != memory.size()) {
        throw Error(fmt::format("unmapped: {} of {} bytes", static_cast<uint64_t>(unmap.size),
                                memory.size()));
    }
}

} // namespace hostile
