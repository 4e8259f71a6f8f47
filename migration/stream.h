// SPDX-License-Identifier: GPL-2.0-or-later
//
// The state stream: what a device is saved as and loaded from.
//
//   header   8 bytes magic, le16 format, le16 device kind, le32 reserved (0)
//   section  le16 kind, le16 version, le32 size, then size bytes; any number
//   end      a section of kind `end` whose 4 bytes are the CRC-32 of all before them
//
// A section is one object, or what there is once of a device. Its fields are
// little-endian, in the order that its description lists them (archive.h);
// docs/migration.md has them byte by byte. A later version of a section adds
// fields at its end; a reader takes the versions up to its own.
//
// A stream comes from outside and is read as if an attacker had made it.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sections.h"

namespace rdma::migration {

inline constexpr char stream_magic[9] = "RDMASTAT";
inline constexpr uint16_t stream_format = 1;
inline constexpr size_t header_size = 16;
inline constexpr size_t section_header_size = 8;
// Longest stream, bytes: no longer one is written or read.
inline constexpr uint64_t max_stream_size = uint64_t{1} << 32;

enum class DeviceKind : uint16_t { pvrdma = 1, virtio_rdma = 2 };

#ifdef RDMA_FUZZ
// In fuzzing builds only: what a target makes up is to be read, whatever its CRC.
inline bool fuzz_any_crc = false;
#endif

// Nothing, or what is wrong, for a person.
using Status = std::expected<void, std::string>;

class FieldWriter;

class StreamWriter {
public:
    // nothing: the stream is only measured, and cannot be finished.
    enum class Keep { all, nothing };
    explicit StreamWriter(DeviceKind device, Keep keep = Keep::all,
                          uint64_t most = max_stream_size);

    // Adds a section whose fields describe(FieldWriter&) writes. Throws std::length_error,
    // with a message for a person, where the stream would have more than most bytes.
    template <typename Describe>
    void section(SectionKind kind, Describe&& describe);
    // Adds the end and returns the whole stream.
    std::span<const uint8_t> finish();

private:
    friend class FieldWriter;
    size_t begin_section(SectionKind kind);
    void end_section(size_t begin);

    std::vector<uint8_t> _bytes;
    Keep _keep;
    uint64_t _left; // bytes there may still be, beside the end
    uint64_t _most;
};

struct Section {
    SectionKind kind;
    uint16_t version;
    std::span<const uint8_t> body;
};

// Whether this version knows sections of that kind and version.
Status check_version(const Section& section);

class StreamReader {
public:
    // Checks the header, the frame of every section, and the CRC; bytes must
    // stay where they are.
    static std::expected<StreamReader, std::string> open(std::span<const uint8_t> bytes,
                                                         DeviceKind device);

    // The next section; nothing at the end of the stream.
    std::optional<Section> next();

private:
    explicit StreamReader(std::span<const uint8_t> sections) : _rest(sections) {}
    std::span<const uint8_t> _rest; // without header and end
};

// The length in bytes of the stream at the start of bytes, if there is a whole
// and undamaged one: to find a stream within something larger.
std::optional<size_t> stream_length(std::span<const uint8_t> bytes);

} // namespace rdma::migration
