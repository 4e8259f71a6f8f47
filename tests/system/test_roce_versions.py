# SPDX-License-Identifier: GPL-2.0-or-later
"""RoCE v1 and v2, and the versions of the device that offer them.

Version 20 with RoCE v2, the default, is what all other tests use.
"""
import re

import pytest

from pinging import ping
from test_programs import both, expect_success
from test_wire import tshark
from vm.fabric import Fabric, run_pair

ROCE_V1_FRAMES = "eth.type == 0x8915"
ROCE_V2_FRAMES = "udp.dstport == 4791"


@pytest.fixture(scope="module", params=[("v1", 17), ("v1", 20), ("v2", 18), ("v2", 19)],
                ids=lambda p: f"{p[0]}-{p[1]}")
def offered(request):
    """A RoCE version and a version of the device."""
    return request.param


@pytest.fixture(scope="module")
def fabric(offered, tmp_path_factory, image, payload):
    """Two pvrdma guests of that version."""
    roce, version = offered
    pair = Fabric(("pvrdma", "pvrdma"), tmp_path_factory.mktemp(f"{roce}-{version}"), image,
                  payload=payload, rdma={"roce": roce, "version": version})
    yield pair
    pair.stop()


def test_one_roce_version_is_offered(fabric, offered):
    roce, version = offered
    for node in fabric.nodes:
        info = node.guest.check(f"ibv_devinfo -v -d {node.device}")
        assert re.search(rf"hw_ver:\s+{version:#x}\n", info)
        kinds = re.findall(r"GID\[.*, (RoCE v\d)", info)
        assert set(kinds) == {f"RoCE {roce}"}
        # As ibv_devinfo prints the one and the other.
        address = f":ffff:0a00:000{node.index}" if roce == "v1" else f"::ffff:{node.ipv4}"
        assert f"{address}, RoCE {roce}" in info
        assert f"device version {version}," in node.guest.check("dmesg")


@pytest.mark.parametrize("program, family", [
    ("ibv_rc_pingpong -c", "ipv4"), ("ibv_rc_pingpong -c", "ipv6"),
    ("ibv_ud_pingpong -s 1024", "ipv4")])
def test_pingpong(fabric, offered, tmp_path, program, family):
    server, client, address, server_gid, client_gid = both(fabric, family)
    capture = tmp_path / "capture.pcap"
    with server.capture(capture):
        expect_success(run_pair(server, client, f"{program} -d {server.device} -g {server_gid}",
                                f"{program} -d {client.device} -g {client_gid} {address}", 18515))
    frames = {wanted: tshark("-r", str(capture), "-Y", wanted).count("\n")
              for wanted in (ROCE_V1_FRAMES, ROCE_V2_FRAMES)}
    used, unused = frames.values() if offered[0] == "v1" else reversed(frames.values())
    assert used >= 2000 and unused == 0
    assert tshark("-r", str(capture), "-Y", "infiniband and _ws.malformed") == ""


def test_rping(fabric):
    ping(*fabric.nodes, 10)
