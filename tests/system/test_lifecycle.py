# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers, kernels, machines and processes that come and go while RDMA is in use."""
import re

import pytest

from pairs import BY_NIGHT_WITH_VIRTIO, DEVICES
from pinging import ping
from test_programs import both, expect_success
from verifying import PORT, PROGRAM, verify
from vm.fabric import Fabric, run_pair

PERFTEST_PORT = 18515
RETRY_EXCEEDED = 12  # IBV_WC_RETRY_EXC_ERR
OBJECTS = ("contexts", "pds", "mrs", "cqs", "srqs", "qps")
# An orderly restart: drivers are told before (reboot(2), LINUX_REBOOT_CMD_RESTART).
REBOOT = "python3 -c 'import ctypes; ctypes.CDLL(None).reboot(0x1234567)'"


@pytest.fixture(scope="module", params=DEVICES)
def fabric(request, tmp_path_factory, image, payload):
    pair = Fabric((request.param, request.param), tmp_path_factory.mktemp("lifecycle"), image,
                  payload=payload, reboot=True)
    yield pair
    pair.stop()


def objects(node):
    stats = node.guest.stats()
    return {kind: stats[kind] for kind in OBJECTS}


def expect_working(fabric):
    """RDMA in both directions, and the connection manager."""
    for server, client in (fabric.nodes, reversed(fabric.nodes)):
        expect_success(run_pair(
            server, client,
            f"ibv_rc_pingpong -c -n 200 -d {server.device} -g {server.gid_index(server.ipv4)}",
            f"ibv_rc_pingpong -c -n 200 -d {client.device} -g {client.gid_index(client.ipv4)} "
            f"{server.ipv4}", 18515))
        ping(server, client, 5)


def start_traffic(fabric, test="ib_send_bw", port=PERFTEST_PORT):
    """Starts a test that has no end, and waits until data flows; both processes."""
    server, client, address, server_gid, client_gid = both(fabric)
    command = f"{test} -F -s 65536 -D 5 --run_infinitely -p {port}"
    before = server.guest.stats()["rx-packets"]
    serving = server.guest.start(f"{command} -d {server.device} -x {server_gid}")
    server.guest.wait_listening(port)
    running = client.guest.start(f"{command} -d {client.device} -x {client_gid} {address}")
    server.guest.wait_stats(lambda stats: stats["rx-packets"] > before + 500)
    return serving, running


def expect_retries_exceeded(process):
    result = process.wait()
    assert result.status != 0
    assert re.search(rf"Failed status {RETRY_EXCEEDED}\b", result.output), result.output


@pytest.mark.parametrize("traffic", [pytest.param(False, marks=BY_NIGHT_WITH_VIRTIO), True], ids=["idle", "used"])
def test_driver_is_loaded_again(fabric, traffic):
    for node in fabric.nodes:
        if traffic:
            expect_working(fabric)
        node.guest.check(f"modprobe -r {node.module}")
        assert not any(objects(node).values()), objects(node)
        node.configure_driver()
    expect_working(fabric)


def test_driver_of_the_card_is_loaded_again(fabric):
    node = fabric.nodes[0]
    node.guest.check(f"modprobe -r {node.module} {node.card_module}")
    assert not any(objects(node).values()), objects(node)
    node.configure()
    expect_working(fabric)


def kexec(guest):
    guest.check("kexec -l /boot/vmlinuz --initrd=/boot/initramfs.img --reuse-cmdline")
    guest.start("kexec -e")


RESTARTS = {
    "reboot": lambda guest: guest.start(REBOOT),
    "system_reset": lambda guest: guest.qmp.command("system_reset"),
    "kexec": kexec,
}


REQUESTER_AND_RESPONDER = pytest.mark.parametrize(
    "side", [pytest.param("requester", marks=BY_NIGHT_WITH_VIRTIO), "responder"])


# [virtio-rdma DEV-19]
@pytest.mark.parametrize("restart", RESTARTS)
@REQUESTER_AND_RESPONDER
def test_restart_in_mid_traffic(fabric, restart, side):
    server, client = fabric.nodes
    node, peer = (client, server) if side == "requester" else (server, client)
    serving, running = start_traffic(fabric)

    def restart_and_see_the_peer_fail():
        RESTARTS[restart](node.guest)
        if side == "responder":
            expect_retries_exceeded(running)
        else:
            serving.kill()  # it waits for messages, and none come any more
            serving.wait()

    node.guest.restart(restart_and_see_the_peer_fail)
    assert not any(objects(node).values()), objects(node)
    node.configure()
    expect_working(fabric)
    assert peer.guest.kernel_trouble() == []


# [virtio-rdma SEC-2]
def test_processes_have_doorbells_of_their_own(fabric):
    count = 4
    client = fabric.nodes[1]
    before = objects(client)
    pairs = []
    for port in range(PERFTEST_PORT, PERFTEST_PORT + count):
        pairs.append(start_traffic(fabric, "ib_write_bw" if port % 2 else "ib_send_bw", port))
    client.guest.wait_stats(lambda stats: stats["contexts"] == before["contexts"] + count and
                            stats["qps"] == before["qps"] + count)
    # Each has mapped one page of the BAR: its own.
    pages = client.guest.check("cat /proc/[0-9]*/maps | grep /dev/infiniband/uverbs").splitlines()
    assert len(pages) == count, pages
    # They do not disturb each other: another one that counts every message.
    verify(fabric, "stream --messages 200")
    processes = [process for pair in pairs for process in pair]
    for process in processes:
        assert process.status is None, process.output
    # One whose peer is killed ends by itself.
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
    assert objects(client) == before
    expect_working(fabric)


@pytest.mark.parametrize("test", [
    "ib_send_bw", *(pytest.param(test, marks=BY_NIGHT_WITH_VIRTIO) for test in ("ib_write_bw", "ib_read_bw"))])
@REQUESTER_AND_RESPONDER
def test_killed_process_leaves_nothing(fabric, test, side):
    before = [objects(node) for node in fabric.nodes]
    serving, running = start_traffic(fabric, test)
    killed, other = (running, serving) if side == "requester" else (serving, running)
    killed.kill()
    killed.wait()
    resources = killed.guest.check("rdma resource show qp; rdma resource show mr; "
                                   "rdma resource show cq; rdma resource show pd")
    assert "pid" not in resources, resources
    if side == "responder":
        expect_retries_exceeded(other)
    else:
        other.kill()
        other.wait()
    assert [objects(node) for node in fabric.nodes] == before
    expect_working(fabric)


# By the name of the network and by that of the card.
@pytest.mark.parametrize("name", ["n0", pytest.param("nic0", marks=BY_NIGHT_WITH_VIRTIO)])
def test_link_is_the_ports(fabric, name):
    node = fabric.nodes[0]
    watching = node.guest.start(f"exec stdbuf -oL ibv_asyncwatch -d {node.device}")
    watching.wait_output("async event FD")
    set_link(node, name, False)
    watching.wait_output(r"\(10\), port 1")  # IBV_EVENT_PORT_ERR
    assert "PORT_DOWN" in node.guest.check(f"ibv_devinfo -d {node.device}")
    set_link(node, name, True)
    watching.wait_output(r"\(9\), port 1")  # IBV_EVENT_PORT_ACTIVE
    assert "PORT_ACTIVE" in node.guest.check(f"ibv_devinfo -d {node.device}")
    watching.kill()
    watching.wait()
    expect_working(fabric)


def set_link(node, name, up):
    node.guest.qmp.command("set_link", name=name, up=up)


@BY_NIGHT_WITH_VIRTIO
@pytest.mark.parametrize("name", ["n0", "nic0"])
def test_traffic_stalls_and_resumes_with_the_link(fabric, name):
    server, client, address, server_gid, client_gid = both(fabric)
    options = "stream --qps 4 --depth 8 --messages 1500"
    serving = server.guest.start(f"{PROGRAM} -d {server.device} -g {server_gid} {options}")
    server.guest.wait_listening(PORT)
    before = server.guest.stats()["rx-packets"]
    running = client.guest.start(
        f"{PROGRAM} -d {client.device} -g {client_gid} {options} {address}")
    server.guest.wait_stats(lambda stats: stats["rx-packets"] > before + 500)
    set_link(server, name, False)
    timeouts = client.guest.stats()["timeouts"]
    client.guest.wait_stats(lambda stats: stats["timeouts"] > timeouts)
    received = server.guest.stats()["rx-packets"]
    client.guest.wait_stats(lambda stats: stats["timeouts"] > timeouts + 1)
    assert server.guest.stats()["rx-packets"] == received
    set_link(server, name, True)
    expect_success((serving.wait(180), running.wait(180)))


@BY_NIGHT_WITH_VIRTIO
def test_traffic_ends_when_the_link_stays_down(fabric):
    server, client = fabric.nodes
    serving, running = start_traffic(fabric, "ib_write_bw")
    set_link(server, "n0", False)
    expect_retries_exceeded(running)
    set_link(server, "n0", True)
    serving.kill()
    serving.wait()
    expect_working(fabric)
