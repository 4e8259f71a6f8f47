// SPDX-License-Identifier: GPL-2.0-or-later
//
// Streams that earlier versions have written go on to be loaded. Each file in
// tests/data/streams is the state of a device of a real guest in the middle of
// traffic, as migrated to a file; they are kept as they are for ever.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include <gtest/gtest.h>

#include "shared_state_fields.h"
#include "whole_device.h"

namespace rdma::test {
namespace {

constexpr uint64_t guest_ram = 1 << 30; // as much as those guests had

// The properties of the devices that wrote them, where the defaults have changed.
PvrdmaConfig config_then()
{
    PvrdmaConfig config = WholeDevice::defaults();
    config.max_uar = 1024;
    config.max_qp_wr = 1024;
    return config;
}

std::vector<uint8_t> content_of(const std::filesystem::path& path)
{
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// What a stream holds. Counters are by name: a later version has more of them.
struct Content {
    std::vector<std::pair<migration::SectionKind, std::vector<uint8_t>>> sections;
    std::map<std::string, uint64_t> counters;
};

Content taken_apart(std::span<const uint8_t> bytes)
{
    Content content;
    auto stream = migration::StreamReader::open(bytes, migration::DeviceKind::pvrdma);
    EXPECT_TRUE(stream.has_value());
    while (auto section = stream ? stream->next() : std::nullopt) {
        if (section->kind != migration::SectionKind::statistics) {
            content.sections.emplace_back(section->kind, std::vector<uint8_t>(section->body.begin(), section->body.end()));
            continue;
        }
        std::vector<Counter> counters;
        EXPECT_TRUE(migration::read_section(*section, [&](auto& a) { describe(a, counters); }).has_value());
        for (const Counter& counter : counters) {
            content.counters[counter.name] = counter.value;
        }
    }
    return content;
}

TEST(KeptStreams, are_loaded_and_nothing_is_lost)
{
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(KEPT_STREAMS)) {
        SCOPED_TRACE(entry.path().string());
        ++files;
        auto kept = content_of(entry.path());
        WholeDevice device(1, guest_ram, config_then());
        device.stop();
        ASSERT_EQ(device.load(kept), "");
        // What is saved at once is the same again, in today's format.
        std::vector<uint8_t> saved = device.save();
        Content before = taken_apart(kept);
        Content after = taken_apart(saved);
        std::erase_if(after.sections, [&](const auto& section) { // a kind there was not then
            return std::ranges::find(before.sections, section.first,
                                     [](const auto& s) { return s.first; }) ==
                   before.sections.end();
        });
        EXPECT_TRUE(after.sections == before.sections);
        EXPECT_GT(before.counters.size(), 40u);
        for (const auto& [name, value] : before.counters) {
            EXPECT_EQ(after.counters[name], value) << name;
        }
        // And it is not only accepted: it runs.
        device.start();
        device.stop();
        EXPECT_FALSE(device.save().empty());
    }
    EXPECT_GE(files, 1);
}

TEST(KeptStreams, are_refused_when_a_byte_is_wrong)
{
    for (const auto& entry : std::filesystem::directory_iterator(KEPT_STREAMS)) {
        auto kept = content_of(entry.path());
        for (size_t at = 0; at < kept.size(); at += 997) {
            auto spoiled = kept;
            spoiled[at] ^= 0x10;
            WholeDevice device(1, 1 << 20, config_then());
            device.stop();
            EXPECT_NE(device.load(spoiled), "") << at;
        }
    }
}

} // namespace
} // namespace rdma::test
