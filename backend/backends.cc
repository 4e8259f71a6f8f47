// SPDX-License-Identifier: GPL-2.0-or-later
//
// The backends that there are.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string_view>

#include "runner.h"

namespace rdma {

namespace {

struct Entry {
    std::string_view name;
    std::unique_ptr<OpenedBackend> (*open)(const RdmaBackendConfig&);
};

constexpr std::array entries{
    Entry{"roce", roce::open},
    Entry{"verbs", verbs::open},
};

} // namespace

std::unique_ptr<OpenedBackend> open_backend(const RdmaBackendConfig* config)
{
    const RdmaBackendConfig fallback{.name = "roce", .port = {}};
    const RdmaBackendConfig& chosen = config ? *config : fallback;
    std::string_view name = chosen.name ? chosen.name : "";
    auto entry = std::ranges::find(entries, name, &Entry::name);
    if (entry == entries.end()) {
        std::array<std::string_view, entries.size()> names;
        std::ranges::transform(entries, names.begin(), &Entry::name);
        throw std::runtime_error(fmt::format("property 'backend' is '{}': it must be {}", name,
                                             fmt::join(names, " or ")));
    }
    return entry->open(chosen);
}

} // namespace rdma
