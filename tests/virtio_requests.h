// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests of the virtio RDMA device's control queue as a driver sends them.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace rdma {

// A command's structure and the addresses that follow it.
template <typename Request>
std::vector<uint8_t> bytes_of(const Request& request, std::span<const uint64_t> pages = {})
{
    std::vector<uint8_t> bytes(sizeof(request) + pages.size_bytes());
    std::memcpy(bytes.data(), &request, sizeof(request));
    if (!pages.empty()) {
        std::memcpy(bytes.data() + sizeof(request), pages.data(), pages.size_bytes());
    }
    return bytes;
}

} // namespace rdma
