# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests without MSI-X, with fewer vectors than the device has queues, and with packed virtqueues.

Linux's driver of pvrdma then takes the interrupts of command responses alone: its handler for MSI and INTx looks
at no other cause (pvrdma_intr0_handler). Completion events and the connection manager, which lives from
them, need MSI-X; programs that poll do not. That the device shows all causes in ICR is for the
unit tests (pvrdma_registers_test). The virtio device has all its events with each kind of interrupt.
"""
import re

import pytest

from pairs import by_night
from pinging import ping
from test_programs import PERFTEST_PORT, both, expect_success
from verifying import verify
from vm.fabric import Fabric, run_pair

WAYS = {
    "msi": {"rdma": {"msix": False}},
    "intx": {"rdma": {"msix": False, "msi": False}},
    "nomsi": {"append": "pci=nomsi", "machine": "q35"},
    # virtio's: the last has a vector for the configuration and one for all queues, which are packed.
    "no-vectors": {"rdma": {"msix-vectors": 0}},
    "two-vectors": {"rdma": {"msix-vectors": 2, "packed": True}},
}
RING_PACKED = 34  # feature bit VIRTIO_F_RING_PACKED
# What /proc/interrupts has for the device: the kind of interrupt and its names.
INTX = r"IO-APIC .*fasteoi .*{}\b"
LINES = {
    "msi": [r"PCI-MSI-.*edge +{}"], "intx": [INTX], "nomsi": [INTX], "no-vectors": [INTX],
    "two-vectors": [r"PCI-MSIX-.*edge +{}-config", r"PCI-MSIX-.*edge +{}-virtqueues"],
}
WITHOUT_MSIX = [("pvrdma", "msi", "intx"), ("pvrdma", "nomsi", "msi"), ("virtio-rdma", "no-vectors", "two-vectors"),
                by_night(("virtio-rdma", "nomsi", "no-vectors"), id="virtio-rdma-nomsi-no-vectors")]


@pytest.fixture(scope="module", params=WITHOUT_MSIX, ids="-".join)
def fabric(request, tmp_path_factory, image, payload):
    kind, *ways = request.param
    pair = Fabric((kind, kind), tmp_path_factory.mktemp("interrupts"), image,
                  payload=payload, each=[WAYS[way] for way in ways])
    pair.ways = ways
    yield pair
    pair.stop()


def interrupt_name(node):
    """What the kernel calls the device's interrupts."""
    if node.kind == "pvrdma":
        return node.module
    return node.guest.check(f"basename /sys/class/infiniband/{node.device}/device/virtio*").strip()


def test_interrupts_are_of_that_kind(fabric):
    for node, way in zip(fabric.nodes, fabric.ways):
        name = interrupt_name(node)
        lines = node.guest.check(rf"grep '{name}\b' /proc/interrupts").splitlines()
        assert len(lines) == len(LINES[way]), lines
        for line, pattern in zip(lines, LINES[way]):
            assert re.search(pattern.format(name), line), lines
        assert sum(int(n) for n in re.findall(r"(?<= )\d+(?= )", lines[-1])) > 0, lines


def test_queues_are_of_that_kind(fabric):
    for node, way in zip(fabric.nodes, fabric.ways):
        if node.kind == "pvrdma":
            pytest.skip("only virtqueues may be packed")
        features = node.guest.check(f"cat /sys/class/infiniband/{node.device}/device/virtio*/features")
        assert features[RING_PACKED] == ("1" if way == "two-vectors" else "0"), features


@pytest.mark.parametrize("test", ["ibv_rc_pingpong -c", "ibv_ud_pingpong -s 1024"])
def test_pingpong(fabric, test):
    server, client, address, server_gid, client_gid = both(fabric)
    expect_success(run_pair(
        server, client, f"{test} -d {server.device} -g {server_gid}",
        f"{test} -d {client.device} -g {client_gid} {address}", 18515))


@pytest.mark.parametrize("test", ["ib_write_bw -s 65536 -n 200", "ib_send_lat -s 8 -n 200"])
def test_perftest(fabric, test):
    server, client, address, server_gid, client_gid = both(fabric)
    expect_success(run_pair(
        server, client, f"{test} -F -d {server.device} -x {server_gid}",
        f"{test} -F -d {client.device} -x {client_gid} {address}", PERFTEST_PORT))


def test_events(fabric):
    if fabric.nodes[0].kind == "pvrdma":
        pytest.skip("vmw_pvrdma has them with MSI-X alone")
    test_pingpong(fabric, "ibv_rc_pingpong -c -e")
    ping(*fabric.nodes, 20, options="-V")


def test_verify(fabric):
    verify(fabric, "stream --qps 4 --depth 8 --messages 200")


def test_driver_is_loaded_again(fabric):
    for node in fabric.nodes:
        node.guest.check(f"modprobe -r {node.module}")
        node.configure_driver()
    test_pingpong(fabric, "ibv_rc_pingpong -c")
