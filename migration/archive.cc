// SPDX-License-Identifier: GPL-2.0-or-later
#include "archive.h"

#include <fmt/format.h>

#include <algorithm>

namespace rdma::migration {

namespace {

constexpr unsigned page_bits = 12;

uint64_t zigzag(int64_t value)
{
    return static_cast<uint64_t>(value) << 1 ^ static_cast<uint64_t>(value >> 63);
}

int64_t unzigzag(uint64_t value)
{
    return static_cast<int64_t>(value >> 1 ^ (~(value & 1) + 1));
}

} // namespace

void FieldWriter::leb128(uint64_t value)
{
    for (; value >= 0x80; value >>= 7) {
        _bytes.push_back(static_cast<uint8_t>(value | 0x80));
    }
    _bytes.push_back(static_cast<uint8_t>(value));
}

void FieldWriter::pages(const char*, const std::vector<uint64_t>& pages, size_t)
{
    leb128(pages.size());
    uint64_t expected = 0;
    for (size_t i = 0; i < pages.size();) {
        uint64_t first = pages[i] >> page_bits;
        size_t run = 1;
        while (i + run < pages.size() && pages[i + run] >> page_bits == first + run) {
            ++run;
        }
        leb128(zigzag(static_cast<int64_t>(first - expected)));
        leb128(run);
        expected = first + run;
        i += run;
    }
}

void FieldReader::fail(const char* name, const char* what)
{
    if (ok()) {
        _error = fmt::format("field '{}' {}", name, what);
    }
}

uint64_t FieldReader::take(const char* name, size_t size)
{
    if (!ok()) {
        return 0;
    }
    if (_rest.size() < size) {
        fail(name, "is missing");
        return 0;
    }
    uint64_t value = 0;
    for (size_t i = size; i-- > 0;) {
        value = value << 8 | _rest[i];
    }
    _rest = _rest.subspan(size);
    return value;
}

uint64_t FieldReader::leb128(const char* name)
{
    uint64_t value = 0;
    for (unsigned shift = 0; ok(); shift += 7) {
        uint64_t byte = take(name, 1);
        if (shift > 63 || (shift == 63 && byte > 1)) {
            fail(name, "is out of range");
            break;
        }
        value |= (byte & 0x7f) << shift;
        if (byte < 0x80) {
            return value;
        }
    }
    return 0;
}

void FieldReader::bytes(const char* name, std::span<uint8_t> value)
{
    if (ok() && _rest.size() < value.size()) {
        fail(name, "is missing");
    }
    if (ok()) {
        std::ranges::copy(_rest.first(value.size()), value.begin());
        _rest = _rest.subspan(value.size());
    }
}

void FieldReader::pages(const char* name, std::vector<uint64_t>& pages, size_t most)
{
    constexpr uint64_t last_page = UINT64_MAX >> page_bits;
    uint64_t count = leb128(name);
    if (count > most) {
        fail(name, "has too many pages");
    }
    pages.clear();
    uint64_t expected = 0;
    while (ok() && pages.size() < count) {
        uint64_t first = expected + static_cast<uint64_t>(unzigzag(leb128(name)));
        uint64_t run = leb128(name);
        if (first > last_page || run == 0 || run > count - pages.size() ||
            run - 1 > last_page - first) {
            fail(name, "has a run that does not fit");
            return;
        }
        for (uint64_t i = 0; i < run; ++i) {
            pages.push_back((first + i) << page_bits);
        }
        expected = first + run;
    }
}

Status FieldReader::finish()
{
    if (ok() && !_rest.empty()) {
        _error = fmt::format("{} bytes are left over", _rest.size());
    }
    return ok() ? Status{} : std::unexpected(_error);
}

} // namespace rdma::migration
