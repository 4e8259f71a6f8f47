// SPDX-License-Identifier: GPL-2.0-or-later
//
// qemu-rdma.so: what a user gives to QEMU's option -plugin. Beside it lie modules, each for
// exactly one QEMU, named after its binary's build id. The loader finds which QEMU it is in and
// opens the one for it: QEMU's functions and structures differ between versions, and nothing of
// them can be asked for. So all checks are here, before anything of QEMU is touched, and the
// loader itself uses no symbol of QEMU.
//
// QEMU reads qemu_plugin_version when the loader has been opened, and takes a range that
// depends on its version (10.0: 2 to 4; 11.1: 7 alone). So it is set when the loader is
// opened, to the module's.
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <filesystem>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "module_object.h"

namespace fs = std::filesystem;
using rdma::module::Target;

extern "C" {
__attribute__((visibility("default"))) int qemu_plugin_version = 0;
__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void* info,
                                                               int argc, char** argv);
}

namespace {

// A module's file name is PREFIX, the build id in hexadecimal, SUFFIX.
constexpr const char* PREFIX = "qemu-rdma-";
constexpr const char* SUFFIX = ".so";

// For QEMU's stderr, as its own messages are.
void say(const std::string& message)
{
    std::fprintf(stderr, "qemu-rdma: %s\n", message.c_str());
}

// The program that this process runs, as it lies in memory.
class Program {
public:
    Program() { dl_iterate_phdr(&first, &_info); }

    std::optional<std::string> build_id() const
    {
        std::optional<std::string> id;
        for_each(PT_NOTE, [&](auto bytes) { id = id ? id : rdma::module::find_build_id(bytes); });
        return id;
    }

    // As --version says it, without calling anything of a QEMU that we do not know.
    std::string version() const
    {
        constexpr std::string_view before = "QEMU emulator version ";
        std::string version;
        for_each(PT_LOAD, [&](std::span<const std::byte> bytes) {
            const std::string_view text{reinterpret_cast<const char*>(bytes.data()), bytes.size()};
            const auto found = text.find(before);
            if (version.empty() && found != text.npos) {
                const auto rest = text.substr(found + before.size(), 256);
                version = rest.substr(0, rest.find_first_of(std::string_view("\n\0", 2)));
            }
        });
        return version.empty() ? "of unknown version" : version;
    }

private:
    // The first object that is told is the program.
    static int first(dl_phdr_info* info, size_t, void* result)
    {
        *static_cast<dl_phdr_info*>(result) = *info;
        return 1;
    }

    // Segments that can be read and are not written to.
    template <class Visit>
    void for_each(uint32_t type, Visit visit) const
    {
        for (unsigned i = 0; i < _info.dlpi_phnum; i++) {
            const auto& segment = _info.dlpi_phdr[i];
            if (segment.p_type == type && (segment.p_flags & (PF_R | PF_W)) == PF_R) {
                visit(
                    std::span(reinterpret_cast<const std::byte*>(_info.dlpi_addr + segment.p_vaddr),
                              segment.p_memsz));
            }
        }
    }

    dl_phdr_info _info{};
};

// "VERSION, build id ID"
std::string name_of(const std::string& version, const std::string& build_id)
{
    return version + ", build id " + build_id;
}

// The loader's own folder.
fs::path folder()
{
    Dl_info info{};
    return dladdr(&qemu_plugin_version, &info) ? fs::path(info.dli_fname).parent_path()
                                               : fs::path{};
}

// What the file was built for.
std::expected<Target, std::string> read_target(const fs::path& file)
{
    const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (fd < 0 || fstat(fd, &status) != 0) {
        const std::string reason = std::strerror(errno);
        if (fd >= 0) {
            close(fd);
        }
        return std::unexpected("cannot be read: " + reason);
    }
    const auto size = static_cast<size_t>(status.st_size);
    void* bytes = size ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    if (bytes == MAP_FAILED) {
        return std::unexpected(size ? "cannot be mapped" : "is empty");
    }
    auto target = rdma::module::read_target({static_cast<const std::byte*>(bytes), size});
    munmap(bytes, size);
    return target;
}

void say_what_there_is(const fs::path& here)
{
    std::string list;
    std::error_code error;
    // Without a range-for, whose steps throw.
    for (fs::directory_iterator entry(here, error), end; !error && entry != end;
         entry.increment(error)) {
        const fs::path file = entry->path();
        const std::string name = file.filename().string();
        if (name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            const auto target = read_target(file);
            list += "\n  " + (target ? name_of(target->version, target->build_id)
                                     : name + ", which " + target.error());
        }
    }
    if (error) {
        list = " unknown: " + error.message(); // of the folder, which a security policy may close
    }
    say("modules in " + here.string() + ":" + (list.empty() ? " none" : list));
}

struct Choice {
    fs::path file; // empty: none, and it has been said why
    Target target{};
};

Choice choose()
{
    const Program program;
    const auto build_id = program.build_id();
    const auto here = folder();
    if (!build_id) {
        say("this QEMU, " + program.version() + ", has no build id");
        return {};
    }
    const auto file = here / (PREFIX + *build_id + SUFFIX);
    std::error_code error;
    if (!fs::exists(file, error)) {
        say("there is no module for this QEMU, " + name_of(program.version(), *build_id));
        say_what_there_is(here);
        return {};
    }
    const auto target = read_target(file);
    if (!target) {
        say(file.string() + " " + target.error());
        return {};
    }
    if (target->build_id != *build_id) {
        say(file.string() + " is for another QEMU, " + name_of(target->version, target->build_id) +
            ": this one is " + name_of(program.version(), *build_id));
        return {};
    }
    return {file, *target};
}

Choice& choice()
{
    static Choice chosen = choose();
    return chosen;
}

__attribute__((constructor)) void tell_plugin_version()
{
    qemu_plugin_version = static_cast<int>(choice().target.plugin_api);
}

} // namespace

int qemu_plugin_install(uint64_t, const void*, int argc, char** argv)
{
    static bool registered = false;
    if (argc > 0) {
        say(std::string("there is no option '") + argv[0] + "'");
        return -1;
    }
    if (choice().file.empty()) {
        return -1;
    }
    if (registered) {
        return 0;
    }
    // All symbols now: one that is missing is told, and nothing has been registered. It is never
    // closed: QEMU keeps pointers into it.
    void* object = dlopen(choice().file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!object) {
        say(dlerror());
        return -1;
    }
#define STRING(name) #name
#define STRING_OF(name) STRING(name)
    const auto entry = reinterpret_cast<void (*)()>(dlsym(object, STRING_OF(RDMA_MODULE_REGISTER)));
    if (!entry) {
        say(dlerror());
        return -1;
    }
    entry();
    registered = true;
    return 0;
}
