// SPDX-License-Identifier: GPL-2.0-or-later
//
// The virtio RDMA device in a state stream.
#include "virtio_rdma_device.h"

#include <stdexcept>

namespace rdma {

void VirtioRdmaDevice::save(migration::StreamWriter&)
{
    throw std::runtime_error("a virtio RDMA device cannot be saved");
}

migration::Status VirtioRdmaDevice::load(const migration::Section&)
{
    return std::unexpected(std::string("a section that this device does not have"));
}

migration::Status VirtioRdmaDevice::finish_load()
{
    return {};
}

} // namespace rdma
