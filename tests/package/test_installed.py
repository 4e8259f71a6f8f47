# SPDX-License-Identifier: GPL-2.0-or-later
"""What the packages bring to a system that had nothing of it."""
import pathlib
import re
import subprocess

import pytest

QEMU = "/usr/bin/qemu-system-x86_64"
LIBRARIES = pathlib.Path("/usr/lib/x86_64-linux-gnu/qemu")
HEADERS = sorted(path.parent.name for path in pathlib.Path("/lib/modules").glob("*/build"))


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.mark.parametrize("command", [["rdma-state", "--layout"], ["rdmacm-mux", "--help"]], ids=lambda words: words[0])
def test_a_tool_runs(command):
    assert output(*command)


@pytest.mark.parametrize("page", ["rdma-state.1", "rdmacm-mux.8"])
def test_a_tool_has_a_man_page(page):
    name, section = page.split(".")
    assert pathlib.Path(f"/usr/share/man/man{section}/{page}.gz").exists()


def test_the_daemon_is_off():
    """Whoever uses the host's RDMA devices turns it on."""
    assert pathlib.Path("/usr/lib/systemd/system/rdmacm-mux.socket").exists() or \
        pathlib.Path("/lib/systemd/system/rdmacm-mux.socket").exists()
    assert not list(pathlib.Path("/etc/systemd/system").glob("*/rdmacm-mux.*"))


def test_the_description_names_the_modules():
    described = output("dpkg-query", "-W", "-f", "${Description}", "qemu-rdma")
    versions = re.search(r"^ Modules for QEMU: (.*)\.$", described, re.MULTILINE)[1].split(", ")
    assert len(list(LIBRARIES.glob("qemu-rdma-*.so"))) == len(versions) - versions.count("none")


@pytest.mark.parametrize("kernel", HEADERS)
def test_the_driver_is_built_for_the_suites_kernel(kernel):
    assert re.search(r"^vmw-pvrdma[/, ]+[\d.]+, " + re.escape(kernel) + r", x86_64: installed", output("dkms", "status"),
                     re.MULTILINE)
    assert output("modinfo", "-k", kernel, "-F", "vermagic", "vmw_pvrdma").split()[0] == kernel


def test_there_are_headers_of_a_kernel():
    assert HEADERS
