// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstddef>
#include <expected>
#include <optional>
#include <span>
#include <string>

#include "module_note.h"

namespace rdma::module {

/// What a module was built for.
struct Target {
    unsigned plugin_api;  // the newest plugin API of that QEMU
    std::string build_id; // of its binary, in hexadecimal
    std::string version;  // as its --version says it
};

/// The build id, in hexadecimal, that the notes of a binary have (a PT_NOTE segment as it lies
/// in memory or in the file, which need not be well-formed); nullopt where there is none.
std::optional<std::string> find_build_id(std::span<const std::byte> notes);

/// What the module in @file was built for. An error, as a sentence's end, where the file is not
/// a whole ELF shared object for x86-64, or not a module of ours: a file that has lost its end
/// would be mapped beyond it. The file's contents are not trusted.
std::expected<Target, std::string> read_target(std::span<const std::byte> file);

} // namespace rdma::module
