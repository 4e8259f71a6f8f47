// SPDX-License-Identifier: GPL-2.0-or-later
#include "device_state.h"

#include <fmt/format.h>

#include <algorithm>

#include "archive.h"
#include "shared_state_fields.h"

namespace rdma {

using migration::Section;
using migration::SectionKind;
using migration::Status;
using migration::StreamReader;
using migration::StreamWriter;

namespace {

Status wrong(std::string what)
{
    return std::unexpected(std::move(what));
}

// [virtio-rdma MIG-6]
// Every property must be the same on both sides.
Status check_config(const StatefulDevice& parts, const Section& section)
{
    ConfigState saved;
    if (Status read = migration::read_section(section, [&](auto& a) { describe(a, saved); });
        !read) {
        return read;
    }
    if (saved.backend != parts.backend_name) {
        return wrong(fmt::format("the backend is '{}' here and '{}' in the saved state",
                                 parts.backend_name, saved.backend));
    }
    auto here = parts.device.guest_visible_properties();
    for (const auto& [name, value] : here) {
        auto there = std::ranges::find(saved.properties, name, &Device::Property::first);
        if (there == saved.properties.end()) {
            return wrong(fmt::format("property '{}' is not in the saved state", name));
        }
        if (there->second != value) {
            return wrong(fmt::format("property '{}' is {} here and {} in the saved state", name,
                                     value, there->second));
        }
    }
    for (const auto& [name, value] : saved.properties) {
        if (std::ranges::find(here, name, &Device::Property::first) == here.end()) {
            return wrong(fmt::format("property '{}' of the saved state is not known here", name));
        }
    }
    return {};
}

Status load_statistics(Statistics& stats, const Section& section)
{
    std::vector<Counter> counters;
    Status read = migration::read_section(section, [&](auto& a) { describe(a, counters); });
    // A counter that is not known, of another version, is left out.
    for (const Counter& counter : counters) {
#define X(member, counter_name)                                                                    \
    if (counter.name == counter_name) {                                                            \
        stats.member = counter.value;                                                              \
    }
        RDMA_COUNTERS(X)
#undef X
    }
    return read;
}

Status load_section(const StatefulDevice& parts, const Section& section)
{
    if (section.kind == SectionKind::statistics) {
        return load_statistics(parts.stats, section);
    }
    return is_of_backend(section.kind) ? parts.backend.load(section) : parts.device.load(section);
}

// Names the section where something is wrong.
Status in_section(Status status, const Section& section)
{
    if (status) {
        return status;
    }
    const auto* type = migration::find_section_type(section.kind);
    return wrong(fmt::format("section {}: {}",
                             type ? std::string(type->name)
                                  : fmt::to_string(static_cast<unsigned>(section.kind)),
                             status.error()));
}

} // namespace

void save_config(const StatefulDevice& parts, StreamWriter& stream)
{
    ConfigState config{parts.backend_name, parts.device.guest_visible_properties()};
    stream.section(SectionKind::config, [&](auto& a) { describe(a, config); });
}

void save_state(const StatefulDevice& parts, StreamWriter& stream)
{
    save_config(parts, stream);
    parts.backend.save(stream);
    parts.device.save(stream);
    std::vector<Counter> counters;
#define X(member, name) counters.push_back({name, parts.stats.member});
    RDMA_COUNTERS(X)
#undef X
    stream.section(SectionKind::statistics, [&](auto& a) { describe(a, counters); });
}

Status load_state(const StatefulDevice& parts, std::span<const uint8_t> bytes, bool with_state)
{
    auto stream = StreamReader::open(bytes, parts.kind);
    if (!stream) {
        return wrong(stream.error());
    }
    auto section = stream->next();
    if (!section || section->kind != SectionKind::config) {
        return wrong("the saved state does not begin with a configuration");
    }
    if (Status status = check_version(*section); !status) {
        return in_section(status, *section);
    }
    if (Status status = check_config(parts, *section); !status) {
        return status;
    }
    if (!with_state) {
        return {};
    }
    while ((section = stream->next())) {
        Status status = check_version(*section);
        if (status) {
            status = load_section(parts, *section);
        }
        if (!status) {
            return in_section(status, *section);
        }
    }
    return parts.device.finish_load();
}

} // namespace rdma
