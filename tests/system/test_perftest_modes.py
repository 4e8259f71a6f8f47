# SPDX-License-Identifier: GPL-2.0-or-later
"""Modes of perftest and the pingpongs: many QPs, SRQs, events, the connection manager, depth, both directions."""
import pytest

from pairs import BY_NIGHT_WITH_VIRTIO, TWO_ALIKE, pvrdma_by_day
from pinging import expect_pings, rping, wait_cm_listener
from test_programs import PERFTEST_PORT, both, expect_success
from vm.fabric import run_pair

pytestmark = TWO_ALIKE

MODES = [
    # many queue pairs of one process
    "ib_send_bw -q 64 -s 4096 -n 100", "ib_write_bw -q 64 -s 4096 -n 100",
    "ib_read_bw -q 16 -s 4096 -n 100",
    # a shared receive queue
    "ib_send_bw --use-srq -s 4096 -n 1000", "ib_send_bw --use-srq -q 8 -s 4096 -n 200",
    "ib_send_lat --use-srq -n 200",
    # completion events; perftest has none for WRITE. Its sender takes at most 16 completions for an event and
    # then waits for the next one (fixed in 23.07): more than 16 in the whole run can leave it waiting for ever.
    "ib_send_bw -e -s 65536 -n 200", "ib_read_bw -e -s 65536 -n 200",
    "ib_send_bw -e -q 16 -s 4096 -n 100", "ib_send_lat -e -n 200", "ib_read_lat -e -n 200",
    "ib_atomic_lat -e -n 200",
    # deep queues; lists of requests; few completions; a receive queue that runs dry
    "ib_send_bw -t 512 -s 4096 -n 1000", "ib_write_bw -t 512 -s 4096 -n 1000",
    "ib_read_bw -t 512 -s 4096 -n 1000", "ib_send_bw -l 16 -q 4 -s 4096 -n 320",
    "ib_write_bw -Q 10 -n 200", "ib_send_bw -r 16 -t 64 -s 4096 -n 1000",
    # both directions
    "ib_send_bw -b -s 65536 -n 200", "ib_write_bw -b -s 65536 -n 200",
    "ib_read_bw -b -s 65536 -n 200", "ib_send_bw -b --report-both -s 65536 -n 200",
    "ib_write_bw -b --report-both -s 65536 -n 200",
    # datagrams, no more than the receive queue holds: nothing makes up for a lost one
    "ib_send_bw -c UD -s 2048 -n 500", "ib_send_bw -c UD -b -s 2048 -n 500",
    "ib_send_lat -c UD -n 200",
]
# Those in which the virtio device's own queues differ from pvrdma's.
MODES_WITH_BOTH = [
    "ib_send_bw -q 64 -s 4096 -n 100", "ib_send_bw --use-srq -s 4096 -n 1000", "ib_send_bw -e -s 65536 -n 200",
    "ib_send_lat -e -n 200", "ib_write_bw -t 512 -s 4096 -n 1000", "ib_send_bw -l 16 -q 4 -s 4096 -n 320",
    "ib_send_bw -r 16 -t 64 -s 4096 -n 1000", "ib_send_bw -c UD -b -s 2048 -n 500",
]
CONNECTION_MANAGER_MODES = [
    "ib_write_bw -R -s 65536 -n 200", "ib_read_bw -R -s 65536 -n 200",
    "ib_send_bw -R -s 65536 -n 200", "ib_write_bw -R -q 16 -s 4096 -n 200",
    "ib_send_bw -R -c UD -s 1024 -n 200", "ib_send_lat -R -n 200",
]


def commands(fabric, test):
    """The server's command and the client's."""
    server, client, address, server_gid, client_gid = both(fabric)
    return (f"{test} -F -d {server.device} -x {server_gid}",
            f"{test} -F -d {client.device} -x {client_gid} {address}")


@pytest.mark.parametrize("test", pvrdma_by_day(MODES, MODES_WITH_BOTH))
def test_mode(fabric, test):
    expect_success(run_pair(*fabric.nodes, *commands(fabric, test), PERFTEST_PORT))


@pytest.mark.parametrize("test", pvrdma_by_day(CONNECTION_MANAGER_MODES, CONNECTION_MANAGER_MODES[2:3]))
def test_connected_by_connection_manager(fabric, test):
    server, client = fabric.nodes
    server_command, client_command = commands(fabric, test)
    serving = server.guest.start(server_command)
    wait_cm_listener(server)
    result = client.guest.run(client_command, timeout=180)
    if result.status != 0:
        serving.kill()
    expect_success((serving.wait(), result))


@pytest.mark.parametrize("program", [
    "ibv_rc_pingpong -c -e", "ibv_ud_pingpong -e -s 1024", "ibv_srq_pingpong -c", "ibv_srq_pingpong -e",
])
def test_pingpong_mode(fabric, program):
    server, client, address, server_gid, client_gid = both(fabric)
    expect_success(run_pair(
        server, client, f"{program} -n 500 -d {server.device} -g {server_gid}",
        f"{program} -n 500 -d {client.device} -g {client_gid} {address}", 18515))


def test_inline_data_is_not_offered(fabric):
    """vmw_pvrdma answers every QP that it has no room for any; perftest asks none of a device that it does not know."""
    results = run_pair(*fabric.nodes, *commands(fabric, "ib_send_lat -I 64 -n 200"), PERFTEST_PORT)
    expect_success(results)
    assert "Max inline data : 0[B]" in results[1].output


@pytest.mark.parametrize("program, message", [
    ("ibv_uc_pingpong", "Couldn't create QP"),
    ("ibv_xsrq_pingpong", "Couldn't Open the XRC Domain"),
], ids=["uc", "xrc"])
def test_transport_the_driver_has_not(fabric, program, message):
    for node in fabric.nodes:
        result = node.guest.run(f"{program} -d {node.device} -g {node.gid_index(node.ipv4)}")
        assert result.status == 1 and message in result.output, result.output


def test_multicast_the_driver_has_not(fabric):
    """libvmw_pvrdma cannot attach a QP to a group."""
    node = fabric.nodes[0]
    result = node.guest.run(f"mckey -m 239.1.1.1 -b {node.ipv4} -C 1")
    assert "event: RDMA_CM_EVENT_MULTICAST_ERROR" in result.output, result.output


def test_rping_serves_one_after_another(fabric):
    server, client = fabric.nodes
    serving = server.guest.start(f"rping -s -P -a {server.ipv4}")
    wait_cm_listener(server)
    for _ in range(3):
        expect_pings(client.guest.run(rping(f"-c -a {server.ipv4} -V -C 50")), 50)
    serving.kill()


@BY_NIGHT_WITH_VIRTIO
@pytest.mark.parametrize("options", ["", "-T b", "-T n"], ids=["any", "blocking", "nonblocking"])
@pytest.mark.parametrize("program", ["rstream", "riostream"])
def test_rsocket_stream(fabric, program, options):
    """Each checks what it receives.

    Without -T a: rstream's server then takes the client's end for an error, between two rxe guests, too.
    """
    server, client = fabric.nodes
    command = f"{program} -T v {options} -I 10 -C 10 -S 65536"
    serving = server.guest.start(command)
    wait_cm_listener(server)
    expect_success((client.guest.run(f"{command} -s {server.ipv4}", timeout=180), serving.wait(180)))


def test_rcopy(fabric):
    """A stream socket over RDMA (rsockets) carries a file."""
    server, client = fabric.nodes
    serving = server.guest.start("rcopy")
    wait_cm_listener(server)
    result = client.guest.run(f"rcopy /bin/bash {server.ipv4}:/tmp/copy")
    serving.kill()
    assert result.status == 0, result.output
    server.guest.check("cmp /bin/bash /tmp/copy && rm /tmp/copy")
