// SPDX-License-Identifier: GPL-2.0-or-later
//
// Fields of a section. One description of an object, a function template
//
//   template <typename Archive> void describe(Archive& a, Object& object)
//
// that names each field with its width, serves them all: FieldWriter saves,
// FieldReader loads and checks, and the printer (print.h) shows what a stream
// holds. An archive has
//
//   u8 u16 u32 u64 (name, value[, most])  an integer or enumeration; reading
//                                         fails where it is above most
//   flag (name, bool)                     a byte, 0 or 1
//   bytes (name, bytes)                   so many bytes
//   text, blob (name, string or bytes, most)  le32 length, bytes
//   pages (name, GPAs, most)              page-aligned addresses in order, see below
//   list (name, container, most, fn)      le32 count, then fn(a, element) of each
//   present (name, bool, fn)              a flag, then fn() where it is set
//   record (name, fn)                     fn(): fields that belong together
//   since (version, fn)                   fn(): fields that older versions of the section lack;
//                                         read from one of those, they stay as they are
//
// Pages: LEB128 number of pages, then runs of consecutive pages until there
// are so many: the page number of the first as LEB128 of its zigzagged
// distance to the page after the last run, and LEB128 the run's length.
#pragma once

#include <concepts>
#include <limits>
#include <type_traits>

#include "stream.h"

namespace rdma::migration {

// One more element at the end of a container.
template <typename Container>
auto& append_to(Container& container)
{
    if constexpr (requires { container.emplace_back(); }) {
        return container.emplace_back();
    } else {
        return container.push_back();
    }
}

class FieldWriter {
public:
    static constexpr bool is_reader = false;

    explicit FieldWriter(std::vector<uint8_t>& bytes) : _bytes(bytes) {}

    template <typename T>
    void u8(const char*, T& value, uint8_t = 0)
    {
        put<uint8_t>(value);
    }
    template <typename T>
    void u16(const char*, T& value, uint16_t = 0)
    {
        put<uint16_t>(value);
    }
    template <typename T>
    void u32(const char*, T& value, uint32_t = 0)
    {
        put<uint32_t>(value);
    }
    template <typename T>
    void u64(const char*, T& value, uint64_t = 0)
    {
        put<uint64_t>(value);
    }
    void flag(const char*, bool value) { put<uint8_t>(value ? 1 : 0); }
    void bytes(const char*, std::span<const uint8_t> value)
    {
        _bytes.insert(_bytes.end(), value.begin(), value.end());
    }
    void text(const char* name, const std::string& value, size_t)
    {
        blob(name, std::span(reinterpret_cast<const uint8_t*>(value.data()), value.size()), 0);
    }
    void blob(const char* name, std::span<const uint8_t> value, size_t)
    {
        put<uint32_t>(value.size());
        bytes(name, value);
    }
    void pages(const char*, const std::vector<uint64_t>& pages, size_t);
    template <typename Container, typename Fn>
    void list(const char*, Container& container, size_t, Fn&& fn)
    {
        put<uint32_t>(container.size());
        for (size_t i = 0; i < container.size(); ++i) {
            fn(*this, container[i]);
        }
    }
    template <typename Fn>
    void record(const char*, Fn&& fn)
    {
        fn();
    }
    template <typename Fn>
    void since(uint16_t, Fn&& fn)
    {
        fn();
    }
    template <typename Fn>
    void present(const char* name, bool is_present, Fn&& fn)
    {
        flag(name, is_present);
        if (is_present) {
            fn();
        }
    }

private:
    template <typename Width, typename T>
    void put(T value)
    {
        auto bits = static_cast<uint64_t>(value);
        // Not insert(), of which GCC 12 says here that it writes past what it has allocated.
        size_t at = _bytes.size();
        _bytes.resize(at + sizeof(Width));
        for (size_t i = 0; i < sizeof(Width); ++i) {
            _bytes[at + i] = static_cast<uint8_t>(bits >> 8 * i);
        }
    }
    void leb128(uint64_t value);

    std::vector<uint8_t>& _bytes;
};

// After a field that is not right the reader has failed: all further fields
// leave what they should fill as it is.
class FieldReader {
public:
    static constexpr bool is_reader = true;

    // version: of the section that the bytes are of.
    explicit FieldReader(std::span<const uint8_t> bytes, uint16_t version = 1)
        : _rest(bytes), _version(version)
    {
    }

    template <typename T>
    void u8(const char* name, T& value, uint8_t most = UINT8_MAX)
    {
        get<uint8_t>(name, value, most);
    }
    template <typename T>
    void u16(const char* name, T& value, uint16_t most = UINT16_MAX)
    {
        get<uint16_t>(name, value, most);
    }
    template <typename T>
    void u32(const char* name, T& value, uint32_t most = UINT32_MAX)
    {
        get<uint32_t>(name, value, most);
    }
    template <typename T>
    void u64(const char* name, T& value, uint64_t most = UINT64_MAX)
    {
        get<uint64_t>(name, value, most);
    }
    void flag(const char* name, bool& value)
    {
        uint8_t byte = 0;
        u8(name, byte, 1);
        value = byte != 0;
    }
    void bytes(const char* name, std::span<uint8_t> value);
    void text(const char* name, std::string& value, size_t most) { counted(name, value, most); }
    void blob(const char* name, std::vector<uint8_t>& value, size_t most)
    {
        counted(name, value, most);
    }
    void pages(const char* name, std::vector<uint64_t>& pages, size_t most);
    template <typename Container, typename Fn>
    void list(const char* name, Container& container, size_t most, Fn&& fn)
    {
        uint32_t count = 0;
        u32(name, count);
        // Every element takes a byte at least, so that memory stays in
        // proportion to the stream.
        if (count > most || count > _rest.size()) {
            fail(name, "has too many elements");
        }
        container.clear();
        for (uint32_t i = 0; i < count && ok(); ++i) {
            fn(*this, append_to(container));
        }
    }
    template <typename Fn>
    void record(const char*, Fn&& fn)
    {
        fn();
    }
    template <typename Fn>
    void since(uint16_t version, Fn&& fn)
    {
        if (_version >= version) {
            fn();
        }
    }
    template <typename Fn>
    void present(const char* name, bool& is_present, Fn&& fn)
    {
        flag(name, is_present);
        if (is_present) {
            fn();
        }
    }

    bool ok() const { return _error.empty(); }
    void fail(const char* name, const char* what);
    // Whether the section has been right and is read to its end.
    Status finish();

private:
    uint64_t take(const char* name, size_t size);
    uint64_t leb128(const char* name);
    template <typename Bytes>
    void counted(const char* name, Bytes& value, size_t most)
    {
        uint32_t size = 0;
        u32(name, size);
        if (size > most || size > _rest.size()) {
            fail(name, "is too long");
        }
        if (ok()) {
            value.assign(_rest.begin(), _rest.begin() + size);
            _rest = _rest.subspan(size);
        }
    }
    template <typename Width, typename T>
    void get(const char* name, T& value, Width most)
    {
        uint64_t bits = take(name, sizeof(Width));
        if (ok() && bits > most) {
            fail(name, "is out of range");
        }
        if (ok()) {
            value = static_cast<T>(static_cast<Width>(bits));
        }
    }

    std::span<const uint8_t> _rest;
    uint16_t _version;
    std::string _error;
};

template <typename Describe>
void StreamWriter::section(SectionKind kind, Describe&& describe)
{
    size_t begin = begin_section(kind);
    FieldWriter writer(_bytes);
    describe(writer);
    end_section(begin);
}

// Reads all of a section's fields by its description.
template <typename Describe>
Status read_section(const Section& section, Describe&& describe)
{
    FieldReader reader(section.body, section.version);
    describe(reader);
    return reader.finish();
}

} // namespace rdma::migration
