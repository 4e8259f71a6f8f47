# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the system tests: pairs of booted guests, one at a time."""
import os
import pathlib
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tools"))

from pairs import PAIRS  # noqa: E402
from vm.fabric import Fabric  # noqa: E402



@pytest.fixture(scope="session")
def image():
    """The folder of the guest's kernel and root, as tools/test built them."""
    return pathlib.Path(os.environ["RDMA_GUEST_IMAGE"])


@pytest.fixture(scope="session")
def payload():
    """A disk with our own test programs."""
    return os.environ.get("RDMA_GUEST_PAYLOAD")


@pytest.fixture(scope="session", params=PAIRS, ids="-".join)
def fabric(request, tmp_path_factory, image, payload):
    """Two guests on one network: a server and a client of these kinds."""
    directory = tmp_path_factory.mktemp("-".join(request.param))
    pair = Fabric(request.param, directory, image, payload=payload)
    yield pair
    pair.stop()
    # Also of how QEMU ended.
    for node in pair.nodes:
        assert not node.guest.qemu_trouble(), node.guest.qemu_log.read_text(errors="replace")


@pytest.fixture(autouse=True)
def healthy_kernels(request):
    """Fails a test during which a guest's kernel complained or QEMU ended."""
    # Asked for first, so that it is still there afterwards.
    fabric = request.getfixturevalue("fabric") if "fabric" in request.fixturenames else None
    yield
    for node in fabric.nodes if fabric else ():
        trouble = node.guest.kernel_trouble()
        reported = getattr(node.guest, "reported", 0)
        node.guest.reported = len(trouble)
        assert not trouble[reported:], f"kernel of {node.guest.name}: {trouble[reported:]}"
        assert node.guest.failure is None, node.guest.failure
        assert not node.guest.qemu_trouble(), node.guest.qemu_log.read_text(errors="replace")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows the ends of the guests' kernel logs with a failure."""
    outcome = yield
    report = outcome.get_result()
    fabric = getattr(item, "funcargs", {}).get("fabric")
    if report.failed and fabric:
        for node in fabric.nodes:
            log = node.guest.serial_log.read_text(errors="replace")
            report.sections.append((f"kernel of {node.guest.name}", log[-3000:]))
