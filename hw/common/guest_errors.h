// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string_view>
#include <utility>

#include "device.h"

namespace rdma {

// Counts what a guest has done wrong. The first of a kind, which is what counter counts, are
// logged: enough to say what is wrong, and a guest cannot fill the log. device: the kind of
// device, for the message.
template <typename... Args>
void report_guest_error(DeviceHost& host, std::string_view device, uint64_t& counter,
                        fmt::format_string<Args...> what, Args&&... args)
{
    constexpr uint64_t logged = 20;
    if (++counter <= logged) {
        host.log(RDMA_LOG_GUEST_ERROR,
                 fmt::format("{}: {}", device, fmt::format(what, std::forward<Args>(args)...)));
    }
}

} // namespace rdma
