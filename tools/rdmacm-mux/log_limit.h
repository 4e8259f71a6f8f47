// SPDX-License-Identifier: GPL-2.0-or-later
//
// Lines on stderr, so many in a minute: clients cannot fill the log.
#pragma once

#include <chrono>
#include <cstdio>
#include <string_view>

#include <fmt/format.h>

namespace rdma::mux {

class LogLimit {
public:
    void operator()(std::string_view line)
    {
        auto now = std::chrono::steady_clock::now();
        if (now - _begin >= std::chrono::minutes(1)) {
            _begin = now;
            _lines = 0;
        }
        if (_lines++ < max_lines) {
            fmt::print(stderr, "rdmacm-mux: {}\n", line);
        } else if (_lines == max_lines + 1) {
            fmt::print(stderr, "rdmacm-mux: more is not told for a minute\n");
        }
    }

private:
    static constexpr unsigned max_lines = 30;
    std::chrono::steady_clock::time_point _begin = std::chrono::steady_clock::now();
    unsigned _lines = 0;
};

} // namespace rdma::mux
