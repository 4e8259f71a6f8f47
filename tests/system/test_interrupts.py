# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests without MSI-X.

Linux's driver then takes the interrupts of command responses alone: its handler for MSI and INTx looks at
no other cause (pvrdma_intr0_handler). Completion events and the connection manager, which lives from
them, need MSI-X; programs that poll do not. That the device shows all causes in ICR is for the
unit tests (pvrdma_registers_test).
"""
import re

import pytest

from test_programs import PERFTEST_PORT, both, expect_success
from verifying import verify
from vm.fabric import Fabric, run_pair

# What /proc/interrupts calls them.
MSI, INTX = r"PCI-MSI-.*edge +vmw_pvrdma", r"IO-APIC .*fasteoi .*vmw_pvrdma"
WAYS = {
    "msi": {"rdma": {"msix": False}},
    "intx": {"rdma": {"msix": False, "msi": False}},
    "nomsi": {"append": "pci=nomsi", "machine": "q35"},
}


@pytest.fixture(scope="module", params=[("msi", "intx"), ("nomsi", "msi")], ids="-".join)
def fabric(request, tmp_path_factory, image, payload):
    pair = Fabric(("pvrdma", "pvrdma"), tmp_path_factory.mktemp("interrupts"), image,
                  payload=payload, each=[WAYS[way] for way in request.param])
    pair.ways = request.param
    yield pair
    pair.stop()


def test_interrupts_are_of_that_kind(fabric):
    for node, way in zip(fabric.nodes, fabric.ways):
        lines = node.guest.check("grep vmw_pvrdma /proc/interrupts").splitlines()
        assert len(lines) == 1, lines
        assert re.search(MSI if way == "msi" else INTX, lines[0]), lines
        assert sum(int(n) for n in re.findall(r"(?<= )\d+(?= )", lines[0])) > 0, lines


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


def test_verify(fabric):
    verify(fabric, "stream --qps 4 --depth 8 --messages 200")


def test_driver_is_loaded_again(fabric):
    for node in fabric.nodes:
        node.guest.check("modprobe -r vmw_pvrdma")
        node.configure_driver()
    test_pingpong(fabric, "ibv_rc_pingpong -c")
