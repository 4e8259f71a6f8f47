// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the handlers of commands use.
#pragma once

#include <algorithm>
#include <cstring>

#include "virtio_rdma_device.h"

namespace rdma {

template <typename T>
T VirtioRdmaDevice::Command::fields() const
{
    T value;
    std::memcpy(&value, request.data(), sizeof(value));
    return value;
}

template <typename T>
std::optional<std::vector<uint64_t>> VirtioRdmaDevice::Command::addresses(uint64_t count) const
{
    auto rest = request.subspan(sizeof(T));
    if (rest.size() % sizeof(uint64_t) != 0 || rest.size() / sizeof(uint64_t) != count) {
        return std::nullopt;
    }
    std::vector<uint64_t> list(rest.size() / sizeof(uint64_t));
    if (!list.empty()) {
        std::memcpy(list.data(), rest.data(), rest.size());
    }
    return list;
}

template <typename T>
void VirtioRdmaDevice::Command::answer(const T& fields)
{
    std::memcpy(reply.data(), &fields, sizeof(fields));
}

namespace virtio {

inline bool are_aligned(std::span<const uint64_t> pages)
{
    return std::ranges::all_of(pages, [](uint64_t page) { return page % page_size == 0; });
}

} // namespace virtio

} // namespace rdma
