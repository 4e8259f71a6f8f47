# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tools' shell library (tools/lib/*.sh) makes of machines that are set up in other ways."""
import os
import pathlib
import re
import subprocess

import pytest

LIB = pathlib.Path(__file__).resolve().parents[2] / "tools/lib"

MIRROR = "http://mirror.example/debian"
SECURITY = "http://security.example/debian-security"
DEBIAN_12 = f"deb {MIRROR} bookworm main\n"
DEB822 = f"""\
# Debian 13's installer writes this.
Types: deb deb-src
URIs: {MIRROR}/
Suites: trixie trixie-updates
# A comment within an entry.
Components: main
 non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: {SECURITY}
Suites: trixie-security
Components: main
"""


@pytest.fixture
def shell(tmp_path):
    """A function that runs lines of Bash with a library in a process of their own."""
    def run(lines, library="build-guest.sh"):
        script = tmp_path / "script"
        script.write_text(f". {LIB}/{library}\n{lines}\n")
        return subprocess.run(["bash", script], capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, env={**os.environ, "XDG_CACHE_HOME": f"{tmp_path}/cache"})
    return run


@pytest.fixture
def apt(tmp_path):
    """A function that makes a folder like /etc/apt."""
    def make(**files):
        folder = tmp_path / "apt"
        (folder / "sources.list.d").mkdir(parents=True)
        for name, text in files.items():
            name = name.replace("_", ".")
            (folder / ("" if name == "sources.list" else "sources.list.d") / name).write_text(text)
        return folder
    return make


def output(ended):
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("lines", [
    "fails() {\n    false\n}\nfails",
    "value=$(printf 'a\\n' | grep b | sort)",
    "(cd / && ls | grep nothing-like-it >/dev/null)",
    "read -r value </dev/null",
])
def test_a_script_that_ends_says_where_and_with_what_command(shell, lines):
    ended = shell(lines + "\necho not reached")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.search(r"^error: \S+/script:\d: status 1 of: (false|value=|.*grep nothing|read)", ended.stderr, re.M), ended


@pytest.mark.parametrize("lines", [
    "false || true",
    "if grep nothing-like-it /dev/null; then false; fi",
    "say \"found: $(grep nothing-like-it /dev/null | tail -n 1)\"",
])
def test_a_script_that_goes_on_does_not_speak_of_an_error(shell, lines):
    ended = shell(lines)
    assert ended.returncode == 0 and "error:" not in ended.stderr, ended


def test_what_ends_a_logged_function_is_shown(shell):
    ended = shell("ends() { die 'the reason'; }\nrun_logged step ends")
    assert ended.returncode == 1
    assert "error: the reason\nerror: step failed; the whole log is in" in ended.stderr


@pytest.mark.parametrize("files", [
    {"sources_list": DEBIAN_12},
    {"sources_list": f"deb [ arch=amd64 signed-by=/a/key ] {MIRROR} trixie main # and more\n"},
    {"debian_sources": DEB822},
    {"debian_sources": DEB822.replace("Types:", "Enabled: yes\ntypes :").replace("\n\n", "\n \n")},
    # Others are there first.
    {"sources_list": DEBIAN_12, "a_list": "deb http://a.example/debian bookworm stable\n",
     "b_sources": "Types: deb\nURIs: http://b.example/debian\nSuites: trixie\nComponents: stable\n"},
    {"sources_list": "deb http://a.example bookworm main\n#deb http://b.example/debian bookworm main\n"
                     "deb-src http://c.example/debian bookworm main\n", "z_list": DEBIAN_12},
    {"a_sources": "Types: deb\nURIs: http://a.example/debian\nSuites: sid\nComponents: main\nEnabled: no\n\n"
                  "Types: deb-src\nURIs: http://b.example/debian\nSuites: sid\nComponents: main\n", "b_sources": DEB822},
    # Not apt's.
    {"a_list_disabled": "deb http://a.example/debian bookworm main\n", "b_list": DEBIAN_12},
])
def test_the_mirror_is_the_machines_own_in_either_format(shell, apt, files):
    assert output(shell(f"debian_mirror {apt(**files)}")).strip().rstrip("/") == MIRROR


def test_a_machine_without_a_debian_mirror_is_told_so(shell, apt):
    ended = shell(f"mirror=$(debian_mirror {apt()})\necho not reached")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"error: no Debian mirror (.../debian, with main) in" in ended.stderr


@pytest.mark.parametrize("files, mirror, security", [
    ({"debian_sources": DEB822}, MIRROR + "/", SECURITY),
    # No security suite is named: beside the rest.
    ({"sources_list": DEBIAN_12}, MIRROR, MIRROR + "-security"),
    ({"sources_list": f"deb {MIRROR}/ trixie main\n"}, MIRROR + "/", MIRROR + "-security"),
    # As in Debian's images for clouds.
    ({"sources_list": "deb mirror+file:/etc/apt/mirrors/debian.list bookworm main\n"},
     "mirror+file:/etc/apt/mirrors/debian.list", "mirror+file:/etc/apt/mirrors/debian-security.list"),
    # Whatever suites there are beside them.
    ({"a_list": f"deb {MIRROR} sid main\ndeb {MIRROR} bookworm-backports main\n", "b_list": DEBIAN_12,
      "c_list": f"deb {SECURITY} bookworm-security main\ndeb {SECURITY} trixie-security main\n"}, MIRROR, SECURITY),
])
def test_the_guest_is_of_one_suite_whatever_the_machine_has(shell, apt, files, mirror, security):
    assert output(shell(f"guest_sources {apt(**files)}")).splitlines() == [
        f"deb {mirror} bookworm main", f"deb {mirror} bookworm-updates main", f"deb {security} bookworm-security main"]


# What apt-cache answers with image, headers and source of 6.12.9 and of some 6.12.10.
APT_CACHE = """
private_apt() {
    case "$*" in
    "guest apt-cache pkgnames linux-image-6.12.")
        printf 'linux-image-%%s\\n' 6.12.9+deb12-amd64 6.12.10+deb12-amd64 6.12.9+deb12-rt-amd64 6.12-amd64
        ;;
    "guest apt-cache policy linux-image-"*) v=${4#*6.12.}; echo "  Candidate: 6.12.${v%%%%+*}-1~deb12u1" ;;
    "guest apt-cache show "*) [[ $4 =~ ^(%s)= ]] ;;
    *) false ;;
    esac
}
"""


@pytest.mark.parametrize("there, kernel", [
    (r"linux-headers-6.12.(9|10)\+deb12-amd64|linux-source-6.12", "6.12.10+deb12-amd64 6.12.10-1~deb12u1"),
    (r"linux-headers-6.12.9\+deb12-amd64|linux-source-6.12", "6.12.9+deb12-amd64 6.12.9-1~deb12u1"),
])
def test_the_kernel_is_the_newest_that_has_headers_and_source(shell, there, kernel):
    lines = APT_CACHE % there + 'find_kernel\necho "$kernel_release $kernel_version"'
    assert output(shell(lines)).strip() == kernel


def test_lists_without_a_kernel_are_no_silent_end(shell):
    ended = shell("private_apt() { :; }\nfind_kernel")
    assert ended.returncode == 1 and "error: no 6.12 kernel with headers and source in bookworm" in ended.stderr


def test_lists_without_qemu_are_no_silent_end(shell):
    ended = shell("private_apt() { :; }\nunpack_qemu", "build-qemu.sh")
    assert ended.returncode == 1 and "error: the suites have no QEMU 10.0 source" in ended.stderr


@pytest.mark.parametrize("folder", ["lib", "usr/lib"])
def test_a_kernels_modules_are_found_where_debian_12_and_13_have_them(shell, tmp_path, folder):
    (tmp_path / "kernel" / folder / "modules/6.12").mkdir(parents=True)
    (tmp_path / "kernel" / folder / "modules/6.12/a.ko").write_text("")
    (tmp_path / "root/usr/lib").mkdir(parents=True)
    output(shell(f"install_modules {tmp_path}/kernel {tmp_path}/root"))
    assert (tmp_path / "root/usr/lib/modules/6.12/a.ko").exists()
