// SPDX-License-Identifier: GPL-2.0-or-later
#include "stream.h"

#include <fmt/format.h>
#include <isa-l/crc.h>

#include <cstring>
#include <stdexcept>

#include "archive.h"

namespace rdma::migration {

namespace {

constexpr size_t crc_size = 4;

template <typename T>
T load_le(std::span<const uint8_t> bytes, size_t offset)
{
    T value = 0;
    for (size_t i = sizeof(T); i-- > 0;) {
        value = static_cast<T>(value << 8 | bytes[offset + i]);
    }
    return value;
}

template <typename T>
void append_le(std::vector<uint8_t>& bytes, T value)
{
    for (size_t i = 0; i < sizeof(T); ++i) {
        bytes.push_back(static_cast<uint8_t>(value >> 8 * i));
    }
}

Section section_at(std::span<const uint8_t> bytes)
{
    return {static_cast<SectionKind>(load_le<uint16_t>(bytes, 0)), load_le<uint16_t>(bytes, 2),
            bytes.subspan(section_header_size, load_le<uint32_t>(bytes, 4))};
}

bool is_whole_section(std::span<const uint8_t> bytes)
{
    return bytes.size() >= section_header_size &&
           load_le<uint32_t>(bytes, 4) <= bytes.size() - section_header_size;
}

// Bytes in front of the end section; nothing where there is none.
std::optional<size_t> find_end(std::span<const uint8_t> bytes)
{
    size_t at = header_size;
    while (at <= bytes.size() && is_whole_section(bytes.subspan(at))) {
        Section section = section_at(bytes.subspan(at));
        if (section.kind == SectionKind::end) {
            return section.body.size() == crc_size ? std::optional(at) : std::nullopt;
        }
        at += section_header_size + section.body.size();
    }
    return std::nullopt;
}

bool is_crc_right(std::span<const uint8_t> bytes, size_t end)
{
#ifdef RDMA_FUZZ
    if (fuzz_any_crc) {
        return true;
    }
#endif
    size_t covered = end + section_header_size;
    return load_le<uint32_t>(bytes, covered) == crc32_gzip_refl(0, bytes.data(), covered);
}

bool has_magic(std::span<const uint8_t> bytes)
{
    return bytes.size() >= header_size && std::memcmp(bytes.data(), stream_magic, 8) == 0;
}

} // namespace

Status check_version(const Section& section)
{
    const SectionType* type = find_section_type(section.kind);
    if (!type) {
        return std::unexpected("this QEMU does not know it");
    }
    if (section.version == 0 || section.version > type->version) {
        return std::unexpected(fmt::format("it has version {}, this QEMU reads up to {}",
                                           section.version, type->version));
    }
    return {};
}

StreamWriter::StreamWriter(DeviceKind device, Keep keep, uint64_t most)
    : _keep(keep), _left(most - header_size - section_header_size - crc_size), _most(most)
{
    _bytes.assign(stream_magic, stream_magic + 8);
    append_le(_bytes, stream_format);
    append_le(_bytes, static_cast<uint16_t>(device));
    append_le(_bytes, uint32_t{0});
}

size_t StreamWriter::begin_section(SectionKind kind)
{
    append_le(_bytes, static_cast<uint16_t>(kind));
    const SectionType* type = find_section_type(kind);
    append_le(_bytes, type ? type->version : uint16_t{1}); // the end has 1
    append_le(_bytes, uint32_t{0}); // its size comes with its end
    return _bytes.size();
}

void StreamWriter::end_section(size_t begin)
{
    uint64_t added = section_header_size + (_bytes.size() - begin);
    if (added > _left) {
        throw std::length_error(fmt::format("its state takes more than {} MiB", _most >> 20));
    }
    _left -= added;
    auto size = static_cast<uint32_t>(_bytes.size() - begin);
    for (size_t i = 0; i < sizeof(size); ++i) {
        _bytes[begin - sizeof(size) + i] = static_cast<uint8_t>(size >> 8 * i);
    }
    if (_keep == Keep::nothing) {
        _bytes.clear();
    }
}

std::span<const uint8_t> StreamWriter::finish()
{
    // Its size is set before it is: the CRC covers it.
    _left += section_header_size + crc_size; // kept for it
    size_t begin = begin_section(SectionKind::end);
    append_le(_bytes, uint32_t{0});
    end_section(begin);
    _bytes.resize(begin);
    append_le(_bytes, crc32_gzip_refl(0, _bytes.data(), _bytes.size()));
    return _bytes;
}

std::expected<StreamReader, std::string> StreamReader::open(std::span<const uint8_t> bytes,
                                                            DeviceKind device)
{
    if (!has_magic(bytes)) {
        return std::unexpected(std::string("not the saved state of an RDMA device"));
    }
    auto format = load_le<uint16_t>(bytes, 8);
    if (format != stream_format) {
        return std::unexpected(fmt::format("the stream has format {}, this version reads {}",
                                           format, stream_format));
    }
    auto kind = load_le<uint16_t>(bytes, 10);
    if (kind != static_cast<uint16_t>(device)) {
        return std::unexpected(
            fmt::format("the stream is of a device of kind {}, this one's is {}", kind,
                        static_cast<uint16_t>(device)));
    }
    auto end = find_end(bytes);
    if (!end || *end + section_header_size + crc_size != bytes.size()) {
        return std::unexpected(std::string("the stream is cut short or its sections do not fit"));
    }
    if (!is_crc_right(bytes, *end)) {
        return std::unexpected(std::string("the stream is damaged: its CRC does not match"));
    }
    return StreamReader(bytes.subspan(header_size, *end - header_size));
}

std::optional<Section> StreamReader::next()
{
    if (_rest.empty()) {
        return std::nullopt;
    }
    Section section = section_at(_rest);
    _rest = _rest.subspan(section_header_size + section.body.size());
    return section;
}

std::optional<size_t> stream_length(std::span<const uint8_t> bytes)
{
    auto end = has_magic(bytes) ? find_end(bytes) : std::nullopt;
    if (!end || !is_crc_right(bytes, *end)) {
        return std::nullopt;
    }
    return *end + section_header_size + crc_size;
}

} // namespace rdma::migration
