// SPDX-License-Identifier: GPL-2.0-or-later
#include "module_object.h"

#include <cstring>
#include <elf.h>
#include <string_view>

namespace rdma::module {
namespace {

using Bytes = std::span<const std::byte>;

// [offset, offset + size) of @bytes; nullopt where it is not all there.
std::optional<Bytes> part(Bytes bytes, uint64_t offset, uint64_t size)
{
    if (offset > bytes.size() || size > bytes.size() - offset) {
        return std::nullopt;
    }
    return bytes.subspan(offset, size);
}

template <class T>
std::optional<T> copy_at(Bytes bytes, uint64_t offset)
{
    const auto found = part(bytes, offset, sizeof(T));
    if (!found) {
        return std::nullopt;
    }
    T value;
    std::memcpy(&value, found->data(), sizeof(T));
    return value;
}

// The contents of the note of this owner and type. Names and contents are padded to 4 bytes.
std::optional<Bytes> find_note(Bytes notes, std::string_view owner, uint32_t type)
{
    const auto padded = [](uint64_t size) { return (size + 3) & ~uint64_t{3}; };
    uint64_t offset = 0;
    while (const auto header = copy_at<Elf64_Nhdr>(notes, offset)) {
        offset += sizeof(*header);
        const auto name = part(notes, offset, header->n_namesz);
        offset += padded(header->n_namesz);
        const auto contents = part(notes, offset, header->n_descsz);
        offset += padded(header->n_descsz);
        if (!name || !contents) {
            break;
        }
        // The owner's name ends with a NUL, which counts.
        if (header->n_type == type && name->size() == owner.size() + 1 &&
            std::memcmp(name->data(), owner.data(), owner.size()) == 0) {
            return contents;
        }
    }
    return std::nullopt;
}

std::string hexadecimal(Bytes bytes)
{
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (const std::byte b : bytes) {
        text += digits[std::to_integer<unsigned>(b) >> 4];
        text += digits[std::to_integer<unsigned>(b) & 15];
    }
    return text;
}

template <size_t Size>
std::string string_of(const char (&text)[Size])
{
    return {text, strnlen(text, Size)};
}

// Where one of our notes is among the notes of a segment.
std::optional<Target> find_target(Bytes notes)
{
    const auto contents = find_note(notes, RDMA_MODULE_OWNER, RDMA_MODULE_NOTE);
    const auto note = contents ? copy_at<RdmaModuleNote>(*contents, 0) : std::nullopt;
    if (!note) {
        return std::nullopt;
    }
    return Target{note->plugin_api, string_of(note->build_id), string_of(note->version)};
}

} // namespace

std::optional<std::string> find_build_id(Bytes notes)
{
    const auto id = find_note(notes, ELF_NOTE_GNU, NT_GNU_BUILD_ID);
    return id ? std::optional(hexadecimal(*id)) : std::nullopt;
}

std::expected<Target, std::string> read_target(Bytes file)
{
    const auto header = copy_at<Elf64_Ehdr>(file, 0);
    if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) {
        return std::unexpected("is not an ELF object");
    }
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
        header->e_type != ET_DYN || header->e_machine != EM_X86_64 ||
        header->e_phentsize != sizeof(Elf64_Phdr)) {
        return std::unexpected("is not a shared object for x86-64");
    }
    // The table of sections is the file's end.
    if (!part(file, header->e_shoff, uint64_t{header->e_shnum} * header->e_shentsize)) {
        return std::unexpected("is cut short");
    }
    std::optional<Target> target;
    for (unsigned i = 0; i < header->e_phnum; i++) {
        const auto segment = copy_at<Elf64_Phdr>(file, header->e_phoff + i * sizeof(Elf64_Phdr));
        if (!segment) {
            return std::unexpected("is cut short");
        }
        const auto contents = part(file, segment->p_offset, segment->p_filesz);
        if (!contents) {
            return std::unexpected("is cut short");
        }
        if (segment->p_type == PT_NOTE && !target) {
            target = find_target(*contents);
        }
    }
    if (!target) {
        return std::unexpected("is not a module of qemu-rdma");
    }
    return *target;
}

} // namespace rdma::module
