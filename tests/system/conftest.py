# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the system tests: pairs of booted guests, one at a time; which tests share a worker."""
import os
import pathlib
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tools"))

from pairs import PAIRS, PAIRS_BY_NIGHT  # noqa: E402
from vm.fabric import Fabric  # noqa: E402

# What takes longest comes first: the shorter ones then fill the other workers' time.
LONGEST = ["test_lifecycle.py", "pvrdma-pvrdma", "virtio-rdma-virtio-rdma", "test_verbs_whole_stack.py",
           "test_migration.py", "rxe-pvrdma", "test_virtual_iommu.py", "pvrdma-rxe", "test_hotplug.py"]


def pytest_configure(config):
    config.addinivalue_line("markers", "nightly: too long for every run")
    config.addinivalue_line("markers", "nightly_with(kind): too long for every run with devices of that kind")
    config.addinivalue_line("markers", "alone: has bounds by the clock, so that nothing else runs beside it")


def kind_of_guests(item):
    """The kind of the first guest, where tests run with several."""
    of = item.callspec.params.get("fabric") if hasattr(item, "callspec") else None
    return of if isinstance(of, str) or of is None else of[0]


def guests_of(item):
    """One word for the guests that the test shares with others: the pair's kinds, or the file that boots its own."""
    fixtures = item._fixtureinfo.name2fixturedefs.get("fabric")  # pylint: disable=protected-access
    if fixtures and fixtures[-1].scope == "session":
        return "-".join(item.callspec.params["fabric"])
    return item.path.name


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Tests that share guests are on one worker, one after the other."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(guests_of(item)))
        if guests_of(item) in PAIRS_BY_NIGHT and (
                item.path.name != "test_programs.py" or item.originalname == "test_perftest"):
            item.add_marker(pytest.mark.nightly)
        if any(kind_of_guests(item) in mark.args for mark in item.iter_markers("nightly_with")):
            item.add_marker(pytest.mark.nightly)
    items.sort(key=lambda item: LONGEST.index(guests_of(item)) if guests_of(item) in LONGEST else len(LONGEST))


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
