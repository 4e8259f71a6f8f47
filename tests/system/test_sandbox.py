# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU with system calls forbidden by -sandbox."""
import pathlib
import re

import pytest

from test_lifecycle import expect_working
from vm.fabric import Fabric

SANDBOX = ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
FILTERED = 2  # proc(5), Seccomp


def seccomp_mode(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^Seccomp:\s*(\d)", status, re.MULTILINE)[1])


@pytest.fixture(scope="module")
def fabric(tmp_path_factory, image, payload):
    pair = Fabric(("pvrdma", "pvrdma"), tmp_path_factory.mktemp("sandbox"), image, payload=payload,
                  arguments=SANDBOX)
    yield pair
    pair.stop()


def test_the_device_works_in_a_sandbox(fabric):
    for node in fabric.nodes:
        assert seccomp_mode(node.guest.process.pid) == FILTERED
    expect_working(fabric)
    fabric.nodes[0].unplug()
    fabric.nodes[0].configure()
    expect_working(fabric)
