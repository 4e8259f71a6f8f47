# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests on a network that loses, repeats, delays and corrupts frames."""
import os

import pytest

from pairs import ALIKE_AND_RXE, BY_NIGHT_WITH_VIRTIO, TWO_ALIKE
from pinging import ping
from test_programs import both, expect_success
from verifying import verify
from vm.fabric import Fabric, run_pair
from vm.switch import Switch

PERFTEST_PORT = 18515
FAULTS = {"lose": 0.01, "repeat": 0.005, "reorder": 0.01, "corrupt": 0.002}


# Loss is the engine's.
pytestmark = BY_NIGHT_WITH_VIRTIO


@pytest.fixture(scope="module", params=ALIKE_AND_RXE, ids="-".join)
def fabric(request, tmp_path_factory, image, payload):
    """Two guests at a switch, which is set up without faults."""
    directory = tmp_path_factory.mktemp("loss")
    switch = Switch(os.environ["RDMA_SWITCH"], directory, 2)
    pair = Fabric(request.param, directory, image, payload=payload,
                  each=({"netdev": switch.netdev(0)}, {"netdev": switch.netdev(1)}))
    pair.switch = switch
    yield pair
    pair.stop()
    switch.stop()


@pytest.fixture(autouse=True)
def faults(fabric):
    """Has faults on during a test, and fails it if there were none."""
    before = fabric.switch.stats()
    fabric.switch.faults(**FAULTS)
    yield
    fabric.switch.faults()
    after = fabric.switch.stats()
    assert after["lost"] > before["lost"], after


# Two rxe guests fail it as well where packets are lost.
@TWO_ALIKE
@pytest.mark.parametrize("options", [
    "--qps 4 --depth 8 --messages 1000",
    "--qps 64 --depth 16 --messages 100 --max-size 4096",
], ids=["four", "sixty-four"])
def test_stream(fabric, options):
    before = [node.guest.stats() for node in fabric.nodes]
    verify(fabric, f"stream {options}")
    for node, counters in zip(fabric.nodes, before):
        after = node.guest.stats()
        assert after["retransmitted-packets"] > counters["retransmitted-packets"]
        assert after["drop-icrc"] > counters["drop-icrc"]


@pytest.mark.parametrize("test", [
    "ib_write_bw -s 65536 -n 200", "ib_read_bw -s 65536 -n 200", "ib_send_bw -s 65536 -n 200",
    "ib_send_lat -s 8 -n 1000",
])
def test_perftest(fabric, test):
    server, client, address, server_gid, client_gid = both(fabric)
    expect_success(run_pair(server, client, f"{test} -F -d {server.device} -x {server_gid}",
                            f"{test} -F -d {client.device} -x {client_gid} {address}",
                            PERFTEST_PORT))


def test_rping(fabric):
    ping(*fabric.nodes, 300, options="-V")
