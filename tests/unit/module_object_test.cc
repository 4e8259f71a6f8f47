// SPDX-License-Identifier: GPL-2.0-or-later
#include "module_object.h"

#include <cstring>
#include <elf.h>
#include <gtest/gtest.h>
#include <vector>

namespace rdma::module::test {

using Bytes = std::vector<std::byte>;

constexpr std::string_view BUILD_ID = "e5588a4ae9dc724ce182d9d2421089e0668fd1bd";
constexpr std::string_view VERSION = "10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)";

template <class T>
void append(Bytes& to, const T& value)
{
    const auto bytes = std::as_bytes(std::span(&value, 1));
    to.insert(to.end(), bytes.begin(), bytes.end());
}

// A note as an assembler writes it: sizes, type, owner and contents, each padded to 4 bytes.
void append_note(Bytes& to, std::string_view owner, uint32_t type,
                 std::span<const std::byte> contents)
{
    append(to, static_cast<uint32_t>(owner.size() + 1));
    append(to, static_cast<uint32_t>(contents.size()));
    append(to, type);
    const auto name = std::as_bytes(std::span(owner));
    to.insert(to.end(), name.begin(), name.end());
    to.push_back(std::byte{0});
    to.resize((to.size() + 3) / 4 * 4);
    to.insert(to.end(), contents.begin(), contents.end());
    to.resize((to.size() + 3) / 4 * 4);
}

Bytes build_id_note()
{
    const std::vector<unsigned char> id{0xe5, 0x58, 0x8a, 0x4a, 0xe9, 0xdc, 0x72, 0x4c, 0xe1, 0x82,
                                        0xd9, 0xd2, 0x42, 0x10, 0x89, 0xe0, 0x66, 0x8f, 0xd1, 0xbd};
    Bytes notes;
    append_note(notes, "GNU", NT_GNU_BUILD_ID, std::as_bytes(std::span(id)));
    return notes;
}

RdmaModuleNote a_module_note()
{
    RdmaModuleNote note{};
    note.plugin_api = 4;
    BUILD_ID.copy(note.build_id, sizeof(note.build_id));
    VERSION.copy(note.version, sizeof(note.version));
    return note;
}

void append_module_note(Bytes& to, const RdmaModuleNote& note, uint32_t type = 1)
{
    append_note(to, "qemu-rdma", type, std::as_bytes(std::span(&note, 1)));
}

// Header, a PT_LOAD of all of it, a PT_NOTE, 64 bytes of code, and a table of one section.
Bytes object_with(const Bytes& notes)
{
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_DYN;
    header.e_machine = EM_X86_64;
    header.e_phoff = sizeof(header);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 2;
    header.e_shentsize = sizeof(Elf64_Shdr);
    header.e_shnum = 1;
    Elf64_Phdr note{.p_type = PT_NOTE, .p_flags = PF_R};
    note.p_offset = sizeof(header) + 2 * sizeof(note);
    note.p_filesz = notes.size();
    header.e_shoff = note.p_offset + note.p_filesz + 64;
    Elf64_Phdr load{.p_type = PT_LOAD, .p_flags = PF_R};
    load.p_filesz = header.e_shoff;

    Bytes file;
    append(file, header);
    append(file, load);
    append(file, note);
    file.insert(file.end(), notes.begin(), notes.end());
    file.resize(file.size() + 64 + sizeof(Elf64_Shdr));
    return file;
}

Bytes a_module()
{
    Bytes notes = build_id_note();
    append_module_note(notes, a_module_note());
    return object_with(notes);
}

std::string refusal(const Bytes& file)
{
    const auto target = read_target(file);
    return target ? "taken" : target.error();
}

template <class Change>
std::string refusal_of_header(Change change)
{
    Bytes file = a_module();
    Elf64_Ehdr header;
    std::memcpy(&header, file.data(), sizeof(header));
    change(header);
    std::memcpy(file.data(), &header, sizeof(header));
    return refusal(file);
}

TEST(ModuleObject, a_module_says_which_qemu_it_is_for)
{
    const auto target = read_target(a_module());
    ASSERT_TRUE(target) << target.error();
    EXPECT_EQ(target->plugin_api, 4u);
    EXPECT_EQ(target->build_id, BUILD_ID);
    EXPECT_EQ(target->version, VERSION);
}

TEST(ModuleObject, a_file_without_its_end_is_refused_wherever_it_ends)
{
    const Bytes whole = a_module();
    for (size_t size = 0; size < whole.size(); size++) {
        EXPECT_EQ(refusal(Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size))),
                  size < sizeof(Elf64_Ehdr) ? "is not an ELF object" : "is cut short")
            << size << " bytes";
    }
}

TEST(ModuleObject, an_object_of_someone_else_is_refused)
{
    EXPECT_EQ(refusal(object_with(build_id_note())), "is not a module of qemu-rdma");
    EXPECT_EQ(refusal(object_with({})), "is not a module of qemu-rdma");
    Bytes other_type;
    append_module_note(other_type, a_module_note(), 2);
    EXPECT_EQ(refusal(object_with(other_type)), "is not a module of qemu-rdma");
}

TEST(ModuleObject, a_note_shorter_than_ours_is_refused)
{
    const auto note = a_module_note();
    const auto bytes = std::as_bytes(std::span(&note, 1));
    Bytes notes;
    append_note(notes, "qemu-rdma", 1, bytes.first(bytes.size() - 1));
    EXPECT_EQ(refusal(object_with(notes)), "is not a module of qemu-rdma");
}

TEST(ModuleObject, only_shared_objects_for_this_architecture_are_taken)
{
    const std::string other = "is not a shared object for x86-64";
    EXPECT_EQ(refusal_of_header([](auto& h) { h.e_machine = EM_AARCH64; }), other);
    EXPECT_EQ(refusal_of_header([](auto& h) { h.e_type = ET_REL; }), other);
    EXPECT_EQ(refusal_of_header([](auto& h) { h.e_ident[EI_CLASS] = ELFCLASS32; }), other);
    EXPECT_EQ(refusal_of_header([](auto& h) { h.e_ident[EI_DATA] = ELFDATA2MSB; }), other);
    EXPECT_EQ(refusal_of_header([](auto& h) { h.e_phentsize = 32; }), other);
    EXPECT_EQ(refusal_of_header([](auto& h) { h.e_ident[0] = 0; }), "is not an ELF object");
}

TEST(ModuleObject, tables_that_lie_outside_of_the_file_are_refused)
{
    for (uint64_t offset : {UINT64_MAX, UINT64_MAX - 63, UINT64_MAX - 111}) {
        EXPECT_EQ(refusal_of_header([&](auto& h) { h.e_phoff = offset; }), "is cut short");
        EXPECT_EQ(refusal_of_header([&](auto& h) { h.e_shoff = offset; }), "is cut short");
    }
    EXPECT_EQ(refusal_of_header([](auto& h) { h.e_phnum = UINT16_MAX; }), "is cut short");
    EXPECT_EQ(refusal_of_header([](auto& h) { h.e_shnum = UINT16_MAX; }), "is cut short");
}

TEST(ModuleObject, strings_without_an_end_stay_within_the_note)
{
    RdmaModuleNote note{};
    std::memset(note.build_id, 'a', sizeof(note.build_id));
    std::memset(note.version, 'v', sizeof(note.version));
    Bytes notes;
    append_module_note(notes, note);
    const auto target = read_target(object_with(notes));
    ASSERT_TRUE(target);
    EXPECT_EQ(target->build_id, std::string(sizeof(note.build_id), 'a'));
    EXPECT_EQ(target->version, std::string(sizeof(note.version), 'v'));
}

TEST(BuildId, is_found_behind_other_notes)
{
    Bytes notes;
    append_note(notes, "GNU", NT_GNU_PROPERTY_TYPE_0, Bytes(16));
    append_note(notes, "someone", NT_GNU_BUILD_ID, Bytes(20));
    const Bytes id = build_id_note();
    notes.insert(notes.end(), id.begin(), id.end());
    EXPECT_EQ(find_build_id(notes), BUILD_ID);
}

TEST(BuildId, notes_that_run_out_have_none)
{
    const Bytes id = build_id_note();
    for (size_t size = 0; size < id.size(); size++) {
        EXPECT_EQ(find_build_id(std::span(id).first(size)), std::nullopt) << size << " bytes";
    }
    // A note whose owner and contents have sizes near 4 GiB.
    Bytes huge;
    append(huge, UINT32_MAX);
    append(huge, UINT32_MAX);
    append(huge, uint32_t{NT_GNU_BUILD_ID});
    huge.insert(huge.end(), id.begin(), id.end());
    EXPECT_EQ(find_build_id(huge), std::nullopt);
}

} // namespace rdma::module::test
