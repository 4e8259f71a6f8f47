# SPDX-License-Identifier: GPL-2.0-or-later
"""RDMA from a VLAN interface on top of the card."""
import contextlib
import ipaddress

import pytest

from test_programs import expect_success
from test_wire import tshark
from vm.fabric import run_pair

VLAN = 5


@pytest.fixture
def vlan(fabric):
    """An interface on the VLAN in both guests; their addresses there."""
    addresses = [f"10.0.{VLAN}.{node.index}" for node in fabric.nodes]
    with contextlib.ExitStack() as stack:
        for node, address in zip(fabric.nodes, addresses):
            node.guest.check(
                "modprobe 8021q && "
                f"ip link add link eth0 name eth0.{VLAN} type vlan id {VLAN} && "
                f"ip addr add {address}/24 dev eth0.{VLAN} && ip link set eth0.{VLAN} up")
            stack.callback(node.guest.check, f"ip link del eth0.{VLAN}")
            gid = str(ipaddress.ip_address(f"::ffff:{address}").exploded)
            node.guest.check(f"until grep -q {gid} /sys/class/infiniband/{node.device}/ports/1/gids/*;"
                             " do :; done")
        yield addresses


@pytest.mark.parametrize("program", ["ibv_rc_pingpong -c", "ibv_ud_pingpong -s 1024"])
def test_pingpong(fabric, vlan, tmp_path, program):
    server, client = fabric.nodes
    gids = [node.gid_index(address) for node, address in zip(fabric.nodes, vlan)]
    capture = tmp_path / "capture.pcap"
    with server.capture(capture):
        expect_success(run_pair(
            server, client, f"{program} -d {server.device} -g {gids[0]}",
            f"{program} -d {client.device} -g {gids[1]} {vlan[0]}", 18515))
    tags = tshark("-r", str(capture), "-Y", "udp.dstport == 4791",
                  "-T", "fields", "-e", "vlan.id").splitlines()
    assert len(tags) >= 2000
    assert set(tags) == {str(VLAN)}


def test_the_parent_stays_untagged(fabric, vlan, tmp_path):
    server, client = fabric.nodes
    gids = [node.gid_index(node.ipv4) for node in fabric.nodes]
    capture = tmp_path / "capture.pcap"
    with server.capture(capture):
        expect_success(run_pair(
            server, client, f"ibv_rc_pingpong -c -d {server.device} -g {gids[0]}",
            f"ibv_rc_pingpong -c -d {client.device} -g {gids[1]} {server.ipv4}", 18515))
    tags = tshark("-r", str(capture), "-Y", "udp.dstport == 4791",
                  "-T", "fields", "-e", "vlan.id").splitlines()
    assert len(tags) >= 2000
    assert set(tags) == {""}
