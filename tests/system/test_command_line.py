# SPDX-License-Identifier: GPL-2.0-or-later
"""Command lines and monitor commands, without a guest: what cannot work ends with a message that says what
to change."""
import json
import pathlib
import re
import socket
import struct
import subprocess
import threading

import pytest

from pairs import DEVICES
from vm.qemu import QEMU

TOP = pathlib.Path(__file__).resolve().parents[2]
NETDEV = ["-netdev", "hubport,hubid=0,id=n0"]
NIC = ["-device", "vmxnet3,netdev=n0,addr=5.0,multifunction=on"]
DRIVERS = {"pvrdma": "pvrdma", "virtio-rdma": "virtio-rdma-pci"}
VHOST_USER_GET_FEATURES = 1
VHOST_USER_VERSION = 1
VHOST_USER_REPLY = 1 << 2


def monitor(commands, *arguments):
    """The exit status of a QEMU that carries out these QMP commands and quits, what it says, and the answers."""
    lines = [json.dumps({"execute": name, "arguments": options})
             for name, options in [("qmp_capabilities", {}), *commands, ("quit", {})]]
    run = subprocess.run(
        [*QEMU, "-M", "q35", "-display", "none", "-nodefaults", "-S", "-qmp", "stdio", *arguments],
        input="\n".join(lines), capture_output=True, text=True, timeout=60)
    answers = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return run.returncode, run.stderr, [
        answer["return"] if "return" in answer else answer["error"]["desc"]
        for answer in answers if "return" in answer or "error" in answer][1:1 + len(commands)]


def qemu(*arguments):
    """The exit status of a QEMU that may quit at once, and what it says."""
    status, said, _ = monitor([], *arguments)
    return status, said


@pytest.fixture(params=DEVICES)
def driver(request):
    """QEMU's name of a device of ours."""
    return DRIVERS[request.param]


def rdma(driver, options="", nic=True):
    return qemu(*(NETDEV + NIC if nic else []), "-device", f"{driver},addr=5.1{options}")


def help_of(device):
    """Name, description and default (None: not told) of each property."""
    said = subprocess.run([*QEMU, "-device", f"{device},help"], capture_output=True, text=True, timeout=60, check=True)
    found = re.findall(r"^  ([\w-]+)=<\w+>(?: *- (.*?))?(?: \(default: (.*)\))?$", said.stdout, re.MULTILINE)
    return {name: (description, default) for name, description, default in found}


def test_help_and_the_documentation_have_every_property_with_its_default():
    own = {name: told for name, told in help_of("pvrdma").items() if name not in help_of("vmxnet3")}
    assert len(own) > 30
    docs = "".join((TOP / "docs" / page).read_text() for page in ("pvrdma.md", "verbs-backend.md"))
    for name, (description, default) in own.items():
        assert description, f"{name} has no description"
        assert f"`{name}" in docs or f'"{name}"' in docs, f"{name} is not documented"
        row = re.search(rf"^\| `{name}` \| `?(\S+?)`? \|", docs, re.MULTILINE)
        if row and default:
            same = int(row[1], 0) == int(default) if default.lstrip("-").isdigit() else row[1] == default
            assert same, f"{name} is {default}, documented as {row[1]}"


def test_a_right_one_starts(driver):
    status, said = rdma(driver)
    assert status == 0, said


BAD_OPTIONS = {
    "pvrdma": [
        (",max-qp=1", "property 'max-qp' is 1: it must be"),
        (",max-qp-wr=1000", "property 'max-qp-wr' is 1000: it must be"),
        (",max-cqe=3", "property 'max-cqe' is 3: it must be"),
        (",max-sge=33", "property 'max-sge' is 33: it must be"),
        (",max-mr=0", "property 'max-mr' is 0: it must be"),
        (",gid-tbl-len=257", "property 'gid-tbl-len' is 257: it must be"),
        (",version=21", "property 'version' is 21: it must be"),
        (",version=17,roce=v2", "roce"),
        (",roce=v3", "property 'roce' is 'v3': it must be v1 or v2"),
        (",poll-pause=1001", "property 'poll-pause' is 1001: it must be"),
        (",max-qps=5", "max-qps"),
    ],
    "virtio-rdma": [
        # [virtio-rdma DEV-12]
        (",vectors=9", "property 'vectors' is 9: it must be"),
        (",max-qp=1", "property 'max-qp' is 1: it must be"),
        (",max-qp-wr=1000", "property 'max-qp-wr' is 1000: it must be"),
        (",max-inline=4096", "property 'max-inline' is 4096: it must be"),
        (",max-contexts=17", "property 'max-contexts' is 17: it must be"),
        (",poll-pause=1001", "property 'poll-pause' is 1001: it must be"),
        (",max-qps=5", "max-qps"),
    ],
}


@pytest.mark.parametrize("kind, options, message", [
    (kind, *bad) for kind, options in BAD_OPTIONS.items() for bad in options])
def test_properties_are_checked(kind, options, message):
    status, said = rdma(DRIVERS[kind], options)
    assert status != 0 and message in said, said


def test_without_a_nic(driver):
    status, said = rdma(driver, nic=False)
    assert status != 0
    assert "function 0 of PCI slot 5 is not a network card" in said
    assert "addr=5.0,multifunction=on" in said


def test_function_0_is_something_else(driver):
    status, said = qemu("-device", "pvpanic-pci,addr=5.0,multifunction=on", "-device",
                        f"{driver},addr=5.1")
    assert status != 0 and "function 0 of PCI slot 5 is not a network card" in said, said


def test_as_function_0(driver):
    status, said = qemu(*NETDEV, "-device", f"{driver},addr=5.0")
    assert status != 0 and "function 0 of PCI slot 5 is not a network card" in said, said


def test_without_an_address(driver):
    status, said = qemu(*NETDEV, *NIC, "-device", driver)
    assert status != 0 and "is not a network card" in said and f"{driver},addr=" in said, said


@pytest.mark.parametrize("second", DRIVERS.values())
def test_two_at_one_card(driver, second):
    status, said = qemu(*NETDEV, *NIC, "-device", f"{driver},addr=5.1", "-device", f"{second},addr=5.2")
    assert status != 0 and "slot 5 has an RDMA device already" in said, said


@pytest.mark.parametrize("driver, names", [
    ("pvrdma", ("max-qp=", "roce=", "version=", "poll-pause=", "msix=<bool>", "msi=<bool>")),
    ("virtio-rdma-pci", ("max-qp=", "vectors=", "msix-vectors=", "poll-pause=", "packed=<bool>")),
], ids=DEVICES)
def test_help_names_the_properties(driver, names):
    said = subprocess.run([*QEMU, "-device", f"{driver},help"], check=True, capture_output=True, text=True).stdout
    for name in names:
        assert name in said, said


def device(driver):
    return "-device", f"{driver},id=rdma0,addr=5.1"


LOOK = "qom-list", {"path": "/machine/peripheral/rdma0"}
STATS = "qom-get", {"path": "/machine/peripheral/rdma0", "property": "stats"}


def children(properties):
    return {p["name"]: p["type"] for p in properties if p["type"].startswith("child<")}


@pytest.mark.parametrize("driver, lines", [
    ("pvrdma", ("max-qp = 32768", 'roce = "v2"', "msix = true", "addr = 05.1")),
    ("virtio-rdma-pci", ("max-qp = 32768", "vectors = 2", "addr = 05.1")),
], ids=DEVICES)
def test_info_qtree_shows_the_device(driver, lines):
    _, _, [tree] = monitor([("human-monitor-command", {"command-line": "info qtree"})],
                           *NETDEV, *NIC, *device(driver))
    shown = tree[tree.index(f'dev: {driver}, id "rdma0"'):]
    for line in lines:
        assert line in shown, shown


def test_info_virtio_shows_the_device():
    """QEMU's list of virtio devices, which has no name for the bits of this one's features."""
    path = {"path": "/machine/peripheral/rdma0/virtio-backend"}
    status, said, [devices, shown, queue, _] = monitor(
        [("x-query-virtio", {}), ("x-query-virtio-status", path), ("x-query-virtio-queue-status", {**path, "queue": 1}),
         ("human-monitor-command", {"command-line": f"info virtio-status {path['path']}"})],
        *NETDEV, *NIC, *device("virtio-rdma-pci"))
    assert status == 0, said
    assert {**path, "name": "virtio-rdma"} in devices, devices
    assert shown["device-id"] == 42 and shown["name"] == "virtio-rdma" and shown["num-vqs"] == 4, shown
    assert shown["host-features"]["unknown-dev-features"], shown
    assert queue["queue-index"] == 1 and queue["name"] == "virtio-rdma", queue


# With ACPI's hot-plug, taking out waits for a guest.
ROOT_PORT = ["-device", "pcie-root-port,id=root,chassis=1,slot=1",
             "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]


def plug_device(driver, name="rdma0", function=1):
    return "device_add", {"driver": driver, "id": name, "bus": "root", "addr": f"0.{function}"}


def plug_card(**options):
    return "device_add", {"driver": "vmxnet3", "id": "nic0", "bus": "root", "addr": "0.0",
                          "multifunction": True, **options}


def test_hot_plug_ends_with_function_0(driver):
    status, said, answers = monitor([plug_device(driver), LOOK, plug_card(netdev="n0"), LOOK], *NETDEV, *ROOT_PORT)
    assert status == 0, said
    assert "rdma-filter" not in children(answers[1]), answers
    assert children(answers[3])["rdma-filter"] == "child<filter-rdma>", answers


def test_hot_plug_of_function_0_first(driver):
    _, _, answers = monitor([plug_card(netdev="n0"), plug_device(driver)], *NETDEV, *ROOT_PORT)
    assert "function 0 already occupied by vmxnet3" in answers[1], answers


def test_hot_plug_of_a_card_without_a_network(driver):
    status, said, answers = monitor([plug_device(driver), plug_card(), STATS], *NETDEV, *ROOT_PORT)
    assert status == 0 and answers[2]["tx-packets"] == 0, (said, answers)
    assert "RDMA device 'rdma0' has no network" in said and "give it a netdev=" in said, said


def test_hot_plug_of_two_at_one_card(driver):
    status, said, answers = monitor(
        [plug_device(driver), plug_device(driver, "rdma1", 2), plug_card(netdev="n0"), LOOK], *NETDEV, *ROOT_PORT)
    assert status == 0 and "rdma-filter" in children(answers[3]), (said, answers)
    assert "RDMA device 'rdma1' has no network" in said, said
    assert "has an RDMA device already" in said, said


def test_plug_that_is_given_up(driver):
    """The device is taken out again before there was a function 0, then both are plugged."""
    unplug = "device_del", {"id": "rdma0"}
    status, said, answers = monitor(
        [plug_device(driver), unplug, plug_device(driver), plug_card(netdev="n0"), LOOK], *NETDEV, *ROOT_PORT)
    assert status == 0 and answers[:4] == [{}] * 4, (said, answers)
    assert "rdma-filter" in children(answers[4]), answers


def test_filter_is_the_devices_own(driver):
    _, _, answers = monitor([("object-del", {"id": "rdma-filter"}), LOOK], *NETDEV, *NIC, *device(driver))
    assert "'rdma-filter' not found" in answers[0], answers
    assert "rdma-filter" in children(answers[1]), answers


def test_network_that_is_deleted(driver):
    status, said, answers = monitor([("netdev_del", {"id": "n0"}), LOOK, STATS], *NETDEV, *NIC, *device(driver))
    assert status == 0, said
    assert "rdma-filter" not in children(answers[1]), answers
    assert answers[2]["tx-packets"] == 0, answers


def test_nic_without_a_network(driver):
    status, said = qemu("-device", "vmxnet3,addr=5.0,multifunction=on", "-device", f"{driver},addr=5.1")
    assert status != 0 and "not connected to a network: give it a netdev=" in said, said


class VhostUserBackend(threading.Thread):
    """As much of a vhost-user backend as lets a netdev start: no features."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()

    def run(self):
        connection, _ = self._server.accept()
        with connection:
            while header := connection.recv(12, socket.MSG_WAITALL):
                request, _flags, size = struct.unpack("=III", header)
                if size:
                    connection.recv(size, socket.MSG_WAITALL)
                if request == VHOST_USER_GET_FEATURES:
                    connection.sendall(struct.pack("=IIIQ", request,
                                                   VHOST_USER_VERSION | VHOST_USER_REPLY, 8, 0))


def test_network_that_bypasses_qemu(driver, tmp_path):
    path = tmp_path / "vhost"
    VhostUserBackend(path).start()
    status, said = qemu("-m", "64M", "-object", "memory-backend-memfd,id=ram,size=64M,share=on",
                        "-M", "q35,memory-backend=ram",
                        "-chardev", f"socket,id=c,path={path}", "-netdev", "vhost-user,id=n0,chardev=c",
                        "-device", "virtio-net-pci,netdev=n0,addr=5.0,multifunction=on",
                        "-device", f"{driver},addr=5.1")
    assert status != 0
    assert "network 'n0' passes packets by vhost" in said, said
    assert "vhost=off" in said, said
