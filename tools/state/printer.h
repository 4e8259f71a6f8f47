// SPDX-License-Identifier: GPL-2.0-or-later
//
// An archive (migration/archive.h) that shows the fields of a section as JSON.
#pragma once

#include <nlohmann/json.hpp>

#include "archive.h"

namespace rdma::migration {

using Json = nlohmann::ordered_json;

class Printer {
public:
    static constexpr bool is_reader = true;

    Printer(const Section& section, Json& out)
        : _reader(section.body, section.version), _at(&out)
    {
    }

    template <typename T>
    void u8(const char* name, T& value, uint8_t most = UINT8_MAX)
    {
        _reader.u8(name, value, most);
        show(name, value);
    }
    template <typename T>
    void u16(const char* name, T& value, uint16_t most = UINT16_MAX)
    {
        _reader.u16(name, value, most);
        show(name, value);
    }
    template <typename T>
    void u32(const char* name, T& value, uint32_t most = UINT32_MAX)
    {
        _reader.u32(name, value, most);
        show(name, value);
    }
    template <typename T>
    void u64(const char* name, T& value, uint64_t most = UINT64_MAX)
    {
        _reader.u64(name, value, most);
        show(name, value);
    }
    void flag(const char* name, bool& value)
    {
        _reader.flag(name, value);
        (*_at)[name] = value;
    }
    void bytes(const char* name, std::span<uint8_t> value)
    {
        _reader.bytes(name, value);
        (*_at)[name] = hex(value);
    }
    void text(const char* name, std::string& value, size_t most)
    {
        _reader.text(name, value, most);
        (*_at)[name] = value;
    }
    void blob(const char* name, std::vector<uint8_t>& value, size_t most)
    {
        _reader.blob(name, value, most);
        (*_at)[name] = hex(value);
    }
    void pages(const char* name, std::vector<uint64_t>& value, size_t most)
    {
        _reader.pages(name, value, most);
        (*_at)[name] = value;
    }
    template <typename Container, typename Fn>
    void list(const char* name, Container& container, size_t most, Fn&& fn)
    {
        Json elements = Json::array();
        _reader.list(name, container, most, [&](FieldReader&, auto& element) {
            Json shown = Json::object();
            within(shown, [&] { fn(*this, element); });
            elements.push_back(std::move(shown));
        });
        (*_at)[name] = std::move(elements);
    }
    template <typename Fn>
    void present(const char* name, bool& is_present, Fn&& fn)
    {
        _reader.flag(name, is_present);
        (*_at)[name] = nullptr;
        if (is_present) {
            record(name, fn);
        }
    }
    template <typename Fn>
    void record(const char* name, Fn&& fn)
    {
        Json shown = Json::object();
        within(shown, fn);
        (*_at)[name] = std::move(shown);
    }
    template <typename Fn>
    void since(uint16_t version, Fn&& fn)
    {
        _reader.since(version, fn);
    }
    void fail(const char* name, const char* what) { _reader.fail(name, what); }
    Status finish() { return _reader.finish(); }

private:
    template <typename T>
    void show(const char* name, const T& value)
    {
        (*_at)[name] = static_cast<uint64_t>(value);
    }
    template <typename Fn>
    void within(Json& json, Fn&& fn)
    {
        Json* outer = std::exchange(_at, &json);
        fn();
        _at = outer;
    }
    static std::string hex(std::span<const uint8_t> bytes)
    {
        std::string digits;
        for (uint8_t byte : bytes) {
            digits += "0123456789abcdef"[byte >> 4];
            digits += "0123456789abcdef"[byte & 15];
        }
        return digits;
    }

    FieldReader _reader;
    Json* _at;
};

} // namespace rdma::migration
