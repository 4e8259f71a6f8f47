// SPDX-License-Identifier: GPL-2.0-or-later
//
// The fields of the sections that devices of every kind have
// (migration/archive.h has the notation).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "archive.h"

namespace rdma {

inline constexpr size_t max_name = 64; // bytes, of a property or counter

struct ConfigState {
    std::string backend;
    std::vector<std::pair<std::string, uint64_t>> properties;
};

struct Counter {
    std::string name;
    uint64_t value = 0;
};

template <typename Archive>
void describe(Archive& a, ConfigState& config)
{
    a.text("backend", config.backend, max_name);
    a.list("properties", config.properties, 256, [](auto& b, auto& property) {
        b.text("name", property.first, max_name);
        b.u64("value", property.second);
    });
}

template <typename Archive>
void describe(Archive& a, std::vector<Counter>& counters)
{
    a.list("counters", counters, 1024, [](auto& b, Counter& counter) {
        b.text("name", counter.name, max_name);
        b.u64("value", counter.value);
    });
}

} // namespace rdma
