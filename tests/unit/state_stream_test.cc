// SPDX-License-Identifier: GPL-2.0-or-later
//
// The stream's frame and its fields: what is written is read, and what an
// attacker or a bad disk may make of it is refused.
#include <gtest/gtest.h>

#include <stdexcept>

#include "archive.h"

namespace rdma::migration {
namespace {

struct Everything {
    uint8_t small = 0xfe;
    uint16_t medium = 0x1234;
    uint32_t large = 0x89abcdef;
    uint64_t huge = 0x0123456789abcdef;
    bool yes = true;
    std::array<uint8_t, 3> three{1, 2, 3};
    std::string name = "max-qp";
    std::vector<uint8_t> blob{9, 8, 7};
    std::vector<uint64_t> pages;
    std::vector<uint32_t> numbers{5, 6};
    bool has_extra = true;
    uint32_t extra = 42;

    bool operator==(const Everything&) const = default;
};

template <typename Archive>
void describe(Archive& a, Everything& e)
{
    a.u8("small", e.small, 0xfe);
    a.u16("medium", e.medium);
    a.u32("large", e.large);
    a.u64("huge", e.huge);
    a.flag("yes", e.yes);
    a.bytes("three", e.three);
    a.text("name", e.name, 16);
    a.blob("blob", e.blob, 3);
    a.pages("pages", e.pages, 1000);
    a.list("numbers", e.numbers, 2, [](auto& b, uint32_t& n) { b.u32("n", n); });
    a.present("extra", e.has_extra, [&] { a.u32("extra", e.extra); });
}

std::vector<uint8_t> written(Everything e)
{
    std::vector<uint8_t> bytes;
    FieldWriter writer(bytes);
    describe(writer, e);
    return bytes;
}

std::string error_of(std::span<const uint8_t> bytes)
{
    Everything e;
    FieldReader reader(bytes);
    describe(reader, e);
    auto status = reader.finish();
    return status ? "" : status.error();
}

TEST(Fields, are_little_endian_in_the_order_of_their_description)
{
    Everything e;
    e.pages = {0x1000, 0x2000, 0x8000'0000};
    const std::vector<uint8_t> expected{
        0xfe,                                           // small
        0x34, 0x12,                                     // medium
        0xef, 0xcd, 0xab, 0x89,                         // large
        0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, // huge
        1,                                              // yes
        1,    2,    3,                                  // three
        6,    0,    0,    0,    'm', 'a', 'x', '-', 'q', 'p',
        3,    0,    0,    0,    9,   8,   7, // blob
        // Three pages: page 1, two of them; then 0x7fffd pages on, one.
        3,    2,    2,    0xfa, 0xff, 0x3f, 1,
        2,    0,    0,    0,    5,   0,   0,   0,   6,   0,   0,   0, // numbers
        1,    42,   0,    0,    0,                                    // extra
    };
    EXPECT_EQ(written(e), expected);
}

TEST(Fields, that_an_older_version_lacks_stay_as_they_are)
{
    struct Object {
        uint32_t old_field = 1;
        uint32_t added = 2;
        uint32_t added_later = 3;
    };
    auto describe = [](auto& a, Object& object) {
        a.u32("old_field", object.old_field);
        a.since(2, [&] { a.u32("added", object.added); });
        a.since(3, [&] { a.u32("added_later", object.added_later); });
    };
    std::vector<uint8_t> bytes;
    FieldWriter writer(bytes);
    Object saved{10, 20, 30};
    describe(writer, saved);
    ASSERT_EQ(bytes.size(), 12u);
    for (uint16_t version : std::initializer_list<uint16_t>{1, 2, 3}) {
        Object loaded;
        std::span<const uint8_t> all = bytes;
        FieldReader reader(all.first(4u * version), version);
        describe(reader, loaded);
        EXPECT_TRUE(reader.finish()) << version;
        EXPECT_EQ(loaded.old_field, 10u);
        EXPECT_EQ(loaded.added, version >= 2 ? 20u : 2u);
        EXPECT_EQ(loaded.added_later, version >= 3 ? 30u : 3u);
    }
    // What the version does not have is too much.
    Object loaded;
    FieldReader reader(bytes, 2);
    describe(reader, loaded);
    EXPECT_FALSE(reader.finish());
}

TEST(Fields, come_back_as_they_were)
{
    Everything e;
    for (uint64_t i = 0; i < 1000; ++i) {
        // Up, down, and in runs.
        e.pages.push_back((i % 7 < 3 ? i : (i * 0x9e3779b97f4a7c15u) >> 12) << 12);
    }
    e.has_extra = false;
    e.extra = 0;
    auto bytes = written(e);
    Everything read;
    read.extra = 0;
    FieldReader reader(bytes);
    describe(reader, read);
    ASSERT_TRUE(reader.finish().has_value());
    EXPECT_EQ(read, e);
}

TEST(Fields, cut_short_anywhere_are_refused)
{
    Everything e;
    e.pages = {0x1000, 0x5000};
    auto bytes = written(e);
    for (size_t size = 0; size < bytes.size(); ++size) {
        EXPECT_NE(error_of(std::span(bytes).first(size)), "") << size;
    }
    bytes.push_back(0);
    EXPECT_EQ(error_of(bytes), "1 bytes are left over");
}

TEST(Fields, out_of_range_are_refused_by_name)
{
    auto bytes = written({});
    bytes[0] = 0xff;
    EXPECT_EQ(error_of(bytes), "field 'small' is out of range");
    bytes = written({});
    bytes[15] = 2;
    EXPECT_EQ(error_of(bytes), "field 'yes' is out of range");
    Everything e;
    e.numbers = {1, 2, 3};
    EXPECT_EQ(error_of(written(e)), "field 'numbers' has too many elements");
    e = {};
    e.blob.resize(4);
    EXPECT_EQ(error_of(written(e)), "field 'blob' is too long");
}

// A few bytes must not make a reader take gigabytes.
TEST(Fields, that_promise_more_than_there_is_are_refused)
{
    std::vector<uint8_t> bytes{0xff, 0xff, 0xff, 0x7f};
    std::vector<uint32_t> numbers;
    FieldReader list(bytes);
    list.list("numbers", numbers, SIZE_MAX, [](auto& a, uint32_t& n) { a.u32("n", n); });
    EXPECT_FALSE(list.finish().has_value());
    EXPECT_EQ(numbers.capacity(), 0u);

    std::vector<uint64_t> pages;
    const std::vector<std::vector<uint8_t>> bad_pages{
        {0xff, 0xff, 0xff, 0xff, 0x0f, 0, 1},                            // more than may be
        {2, 0, 3},                                                       // a run too long
        {2, 0, 0},                                                       // an empty one
        {1, 1, 1},                                                       // before page 0
        {2, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, 2},          // past the last page
        {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, // more than 64 bits
    };
    for (const auto& bad : bad_pages) {
        FieldReader reader(bad);
        reader.pages("pages", pages, 1000);
        EXPECT_FALSE(reader.finish().has_value()) << &bad - bad_pages.data();
    }
}

std::vector<uint8_t> a_stream()
{
    StreamWriter writer(DeviceKind::pvrdma);
    uint32_t id = 7;
    writer.section(SectionKind::roce_pd, [&](auto& a) { a.u32("id", id); });
    auto bytes = writer.finish();
    return {bytes.begin(), bytes.end()};
}

TEST(Stream, has_header_sections_and_a_crc)
{
    auto bytes = a_stream();
    const std::vector<uint8_t> begin{'R', 'D', 'M', 'A', 'S', 'T', 'A', 'T', 1, 0, 1, 0, 0, 0, 0, 0,
                                     18,  0,   1,   0,   4,   0,   0,   0,   7, 0, 0, 0,
                                     0xff, 0xff, 1, 0,   4,   0,   0,   0};
    ASSERT_EQ(bytes.size(), begin.size() + 4);
    EXPECT_TRUE(std::equal(begin.begin(), begin.end(), bytes.begin()));
    auto stream = StreamReader::open(bytes, DeviceKind::pvrdma);
    ASSERT_TRUE(stream.has_value());
    auto section = stream->next();
    ASSERT_TRUE(section.has_value());
    EXPECT_EQ(section->kind, SectionKind::roce_pd);
    EXPECT_EQ(section->body.size(), 4u);
    EXPECT_FALSE(stream->next().has_value());
}

TEST(Stream, cut_short_or_damaged_anywhere_is_refused)
{
    auto bytes = a_stream();
    for (size_t size = 0; size < bytes.size(); ++size) {
        EXPECT_FALSE(StreamReader::open(std::span(bytes).first(size), DeviceKind::pvrdma))
            << size;
    }
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
        auto damaged = bytes;
        damaged[bit / 8] = static_cast<uint8_t>(damaged[bit / 8] ^ 1 << bit % 8);
        EXPECT_FALSE(StreamReader::open(damaged, DeviceKind::pvrdma)) << bit;
    }
    bytes.push_back(0);
    EXPECT_FALSE(StreamReader::open(bytes, DeviceKind::pvrdma));
}

TEST(Stream, is_found_within_something_larger)
{
    auto bytes = a_stream();
    auto size = bytes.size();
    bytes.resize(size + 100, 0x55);
    EXPECT_EQ(stream_length(bytes), size);
    EXPECT_EQ(stream_length(std::span(bytes).subspan(1)), std::nullopt);
}

// A stream longer than any that is read is not written: nor measured.
TEST(StateStream, more_than_may_be_is_an_error_of_the_writer)
{
    constexpr uint64_t most = 1 << 20;
    auto add = [](StreamWriter& stream, size_t size) {
        std::vector<uint8_t> blob(size);
        stream.section(SectionKind::config, [&](auto& a) { a.blob("blob", blob, size); });
    };
    constexpr size_t frame = header_size + 2 * section_header_size + 4 + 4; // of a blob's, and the end
    StreamWriter full(DeviceKind::pvrdma, StreamWriter::Keep::all, most);
    add(full, most - frame);
    EXPECT_EQ(full.finish().size(), most);
    for (auto keep : {StreamWriter::Keep::all, StreamWriter::Keep::nothing}) {
        StreamWriter stream(DeviceKind::pvrdma, keep, most);
        add(stream, most / 2);
        try {
            add(stream, most / 2);
            FAIL();
        } catch (const std::length_error& e) {
            EXPECT_STREQ(e.what(), "its state takes more than 1 MiB");
        }
    }
}

} // namespace
} // namespace rdma::migration
