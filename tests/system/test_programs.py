# SPDX-License-Identifier: GPL-2.0-or-later
"""RDMA programs of the distribution between two guests."""
import pytest

from pinging import ping, wait_cm_listener
from vm.fabric import run_pair

# program: its TCP port for setting up the connection
PINGPONG = {"ibv_rc_pingpong": 18515, "ibv_ud_pingpong": 18515}
PERFTEST_PORT = 18515


def both(fabric, family="ipv4"):
    """The nodes, the server's address for setting up, the GIDs of that family."""
    server, client = fabric.nodes
    return (server, client, server.ipv4, server.gid_index(getattr(server, family)),
            client.gid_index(getattr(client, family)))


def expect_success(results):
    assert all(result.status == 0 for result in results), "".join(
        f"{side}, status {result.status}:\n{result.output}\n"
        for side, result in zip(("server", "client"), results))


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_rc_pingpong(fabric, family):
    server, client, address, server_gid, client_gid = both(fabric, family)
    results = run_pair(
        server, client, f"ibv_rc_pingpong -c -d {server.device} -g {server_gid}",
        f"ibv_rc_pingpong -c -d {client.device} -g {client_gid} {address}", 18515)
    expect_success(results)
    assert "1000 iters" in results[1].output


def test_ud_pingpong(fabric):
    server, client, address, server_gid, client_gid = both(fabric)
    results = run_pair(
        server, client, f"ibv_ud_pingpong -s 1024 -d {server.device} -g {server_gid}",
        f"ibv_ud_pingpong -s 1024 -d {client.device} -g {client_gid} {address}", 18515)
    expect_success(results)
    assert "1000 iters" in results[1].output


@pytest.mark.parametrize("test", [
    "ib_write_bw -s 65536 -n 200", "ib_read_bw -s 65536 -n 200", "ib_send_bw -s 65536 -n 200",
    "ib_write_lat -s 8 -n 200", "ib_read_lat -s 8 -n 200", "ib_send_lat -s 8 -n 200",
    "ib_atomic_bw -A CMP_AND_SWAP -n 200", "ib_atomic_bw -A FETCH_AND_ADD -n 200",
    "ib_write_bw -a -n 50",
])
def test_perftest(fabric, test):
    server, client, address, server_gid, client_gid = both(fabric)
    results = run_pair(server, client, f"{test} -F -d {server.device} -x {server_gid}",
                       f"{test} -F -d {client.device} -x {client_gid} {address}", PERFTEST_PORT)
    expect_success(results)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_rping(fabric, family):
    server, client = fabric.nodes
    ping(server, client, 100, getattr(server, family))


def test_ucmatose(fabric):
    server, client = fabric.nodes
    serving = server.guest.start(f"ucmatose -b {server.ipv4}")
    wait_cm_listener(server)
    result = client.guest.run(f"ucmatose -s {server.ipv4} -b {client.ipv4}")
    assert result.status == 0 and "test complete" in result.output, result.output
    assert "return status 0" in result.output
    assert serving.wait().status == 0


def test_udaddy(fabric):
    server, client = fabric.nodes
    serving = server.guest.start(f"udaddy -b {server.ipv4}")
    wait_cm_listener(server)
    result = client.guest.run(f"udaddy -s {server.ipv4} -b {client.ipv4}")
    assert result.status == 0 and "return status 0" in result.output, result.output
    assert serving.wait().status == 0
