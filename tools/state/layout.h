// SPDX-License-Identifier: GPL-2.0-or-later
//
// An archive (migration/archive.h) that lists the fields of a section, for
// docs/migration.md.
#pragma once

#include "archive.h"

namespace rdma::migration {

class Layout {
public:
    static constexpr bool is_reader = false;

    // Lines like "    u32 name", what belongs to a list or record indented.
    const std::string& lines() const { return _lines; }

    template <typename T>
    void u8(const char* name, T&, uint8_t = 0)
    {
        line("u8", name);
    }
    template <typename T>
    void u16(const char* name, T&, uint16_t = 0)
    {
        line("u16", name);
    }
    template <typename T>
    void u32(const char* name, T&, uint32_t = 0)
    {
        line("u32", name);
    }
    template <typename T>
    void u64(const char* name, T&, uint64_t = 0)
    {
        line("u64", name);
    }
    void flag(const char* name, bool) { line("flag", name); }
    void bytes(const char* name, std::span<const uint8_t> value)
    {
        line("bytes[" + std::to_string(value.size()) + "]", name);
    }
    void text(const char* name, const std::string&, size_t) { line("text", name); }
    void blob(const char* name, std::span<const uint8_t>, size_t) { line("blob", name); }
    void pages(const char* name, const std::vector<uint64_t>&, size_t) { line("pages", name); }
    template <typename Container, typename Fn>
    void list(const char* name, Container&, size_t, Fn&& fn)
    {
        line("list", name);
        Container example;
        auto& element = append_to(example);
        indented([&] { fn(*this, element); });
    }
    template <typename Fn>
    void since(uint16_t version, Fn&& fn)
    {
        line("since version", std::to_string(version).c_str());
        indented(fn);
    }
    template <typename Fn>
    void present(const char* name, bool, Fn&& fn)
    {
        line("present", name);
        indented(fn);
    }
    template <typename Fn>
    void record(const char* name, Fn&& fn)
    {
        line("record", name);
        indented(fn);
    }

private:
    void line(const std::string& type, const char* name)
    {
        _lines += std::string(_depth * 2, ' ') + type + ' ' + name + '\n';
    }
    template <typename Fn>
    void indented(Fn&& fn)
    {
        ++_depth;
        fn();
        --_depth;
    }

    std::string _lines;
    size_t _depth = 2;
};

} // namespace rdma::migration
