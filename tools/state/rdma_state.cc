// SPDX-License-Identifier: GPL-2.0-or-later
//
// Shows the state that an RDMA device was saved as, as text or JSON: from a file
// that holds the stream alone, or anywhere within one, such as QEMU's migration
// to a file or a snapshot.
#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "layout.h"
#include "printer.h"
#include "state_sections.h"

using namespace rdma;
using namespace rdma::migration;

namespace {

void print_layouts()
{
    for (const SectionType& type : section_types) {
        Layout layout;
        describe_section(layout, type.kind);
        fmt::print("{} ({})\n{}", type.name, static_cast<unsigned>(type.kind), layout.lines());
    }
}

// The streams within bytes. One that holds only a configuration, which QEMU
// sends first, is left out where there is another.
std::vector<std::span<const uint8_t>> find_streams(std::span<const uint8_t> bytes)
{
    std::vector<std::span<const uint8_t>> streams;
    std::string_view magic(stream_magic);
    for (auto at = bytes.begin(); at != bytes.end();) {
        at = std::search(at, bytes.end(), magic.begin(), magic.end());
        auto rest = bytes.subspan(static_cast<size_t>(at - bytes.begin()));
        if (auto length = stream_length(rest)) {
            streams.push_back(rest.first(*length));
            at += static_cast<std::ptrdiff_t>(*length);
        } else if (at != bytes.end()) {
            ++at;
        }
    }
    return streams;
}

Json as_json(std::span<const uint8_t> bytes)
{
    Json sections = Json::array();
    auto stream = StreamReader::open(bytes, DeviceKind::pvrdma);
    if (!stream) {
        throw std::runtime_error(stream.error());
    }
    while (auto section = stream->next()) {
        Json json = Json::object();
        const SectionType* type = find_section_type(section->kind);
        json["section"] = type ? Json(type->name) : Json(static_cast<unsigned>(section->kind));
        json["version"] = section->version;
        json["bytes"] = section->body.size();
        Json fields = Json::object();
        Printer printer(*section, fields);
        if (auto known = check_version(*section); !known) {
            json["error"] = known.error();
        } else if (describe_section(printer, section->kind)) {
            if (auto status = printer.finish(); !status) {
                json["error"] = status.error();
            }
        }
        json["fields"] = std::move(fields);
        sections.push_back(std::move(json));
    }
    return sections;
}

void print_text(const Json& json, size_t depth)
{
    std::string indent(depth * 2, ' ');
    for (const auto& [name, value] : json.items()) {
        bool is_scalar_list =
            value.is_array() && std::ranges::none_of(value, [](const Json& element) {
                return element.is_structured();
            });
        if (value.is_structured() && !is_scalar_list) {
            fmt::print("{}{}:{}\n", indent, name, value.empty() ? " none" : "");
            print_text(value, depth + 1);
        } else {
            fmt::print("{}{}: {}\n", indent, name, value.dump());
        }
    }
}

// The exit status where the arguments or the file are not what they should be.
constexpr int bad_input = 2;

} // namespace

int main(int argc, char** argv)
{
    CLI::App app{"Shows the saved state of an RDMA device: a stream as docs/migration.md has it, "
                 "alone or within a file of QEMU's (migrate to file:..., a snapshot)."};
    std::string file;
    bool json = false;
    bool layout = false;
    app.add_option("file", file, "the file")->check(CLI::ExistingFile);
    app.add_flag("--json", json, "as JSON");
    app.add_flag("--layout", layout, "the fields of every kind of section, instead of a file");
    try {
        app.parse(argc, argv);
        if (!layout && file.empty()) {
            throw CLI::RequiredError("file or --layout");
        }
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : bad_input;
    }
    if (layout) {
        print_layouts();
        return 0;
    }
    std::ifstream in(file, std::ios::binary);
    std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(in), {}};
    if (!in.good() && bytes.empty()) {
        fmt::print(stderr, "rdma-state: cannot read '{}'\n", file);
        return bad_input;
    }
    auto streams = find_streams(bytes);
    if (streams.empty()) {
        fmt::print(stderr, "rdma-state: '{}' holds no undamaged state of an RDMA device\n", file);
        return bad_input;
    }
    Json all = Json::array();
    try {
        for (auto stream : streams) {
            all.push_back(as_json(stream));
        }
    } catch (const std::runtime_error& error) {
        fmt::print(stderr, "rdma-state: '{}': {}\n", file, error.what());
        return bad_input;
    }
    if (json) {
        fmt::print("{}\n", all.dump(2));
        return 0;
    }
    for (const Json& stream : all) {
        for (const Json& section : stream) {
            fmt::print("{} ({} bytes)\n", section["section"].dump(), section["bytes"].dump());
            print_text(section["fields"], 1);
            if (section.contains("error")) {
                fmt::print("  error: {}\n", section["error"].get<std::string>());
            }
        }
    }
    return 0;
}
