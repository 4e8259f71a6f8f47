# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames for a card whose guest does not run: a paused one and one that sleeps (ACPI S3)."""
import contextlib

import pytest

from pairs import by_night
from test_lifecycle import expect_working
from vm.fabric import Fabric

LIMIT = 1 << 20  # bytes of frames that wait for a stopped guest
PAYLOAD = 1400
FRAME = PAYLOAD + 42  # with its Ethernet, IPv4 and UDP headers
COUNT = 3000
PORT = 9999
# Prints the numbers of the datagrams that have come, once the last or a number above all comes.
RECEIVE = f"""python3 -u -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
s.bind(("", {PORT}))
print("bound")
numbers = []
while not numbers or numbers[-1] < {COUNT}:
    numbers.append(int.from_bytes(s.recv(2000)[:4], "big"))
print("numbers", *numbers)
'"""


def send(node, address, numbers):
    """Sends numbered datagrams."""
    node.guest.check(f"""python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in {numbers!r}:
    s.sendto(n.to_bytes(4, "big") + bytes({PAYLOAD - 4}), ("{address}", {PORT}))
'""")


@pytest.fixture(scope="module", params=["pvrdma", by_night("virtio-rdma")])
def fabric(request, tmp_path_factory, image, payload):
    pair = Fabric((request.param, request.param), tmp_path_factory.mktemp("stopped"), image, payload=payload)
    one, two = pair.nodes
    # No answers to wait for while the guest does not run.
    mac = one.guest.check("cat /sys/class/net/eth0/address").strip()
    two.guest.check(f"ip neigh replace {one.ipv4} lladdr {mac} nud permanent dev eth0")
    yield pair
    pair.stop()


@contextlib.contextmanager
def paused(guest):
    guest.qmp.command("stop")
    try:
        yield
    finally:
        guest.qmp.command("cont")


@pytest.fixture
def receiving(fabric):
    process = fabric.nodes[0].guest.start(RECEIVE)
    process.wait_output("bound")
    return process


def received(fabric, process):
    """The numbers that have come, in order."""
    one, two = fabric.nodes
    send(two, one.ipv4, range(COUNT, COUNT + 1))
    process.wait_output("numbers .*\n")
    return [int(word) for word in process.output.split("numbers")[1].split()][:-1]


def test_the_newest_frames_wait_for_a_paused_guest(fabric, receiving):
    one, two = fabric.nodes
    before = one.guest.stats()
    with paused(one.guest):
        send(two, one.ipv4, range(COUNT))
        stats = one.guest.wait_stats(
            lambda stats: stats["card-frames-held"] + stats["card-frames-dropped"] >=
            before["card-frames-dropped"] + COUNT)
    dropped = stats["card-frames-dropped"] - before["card-frames-dropped"]
    # All but a few of the frames are the datagrams.
    assert LIMIT // FRAME - 10 < stats["card-frames-held"] <= LIMIT // FRAME + 10
    assert one.guest.stats()["card-frames-held"] == 0
    numbers = received(fabric, receiving)
    assert numbers == sorted(set(numbers))
    assert dropped - 10 <= numbers[0] <= dropped
    expect_working(fabric)


def test_nothing_waits_for_a_guest_that_sleeps(fabric, receiving):
    one, two = fabric.nodes
    guest = one.guest
    before = guest.stats()
    guest.check(f"modprobe -r {one.module}")
    guest.start("echo mem >/sys/power/state; echo awake")
    guest.qmp.wait_event("SUSPEND")
    send(two, one.ipv4, range(100))
    guest.wait_stats(lambda stats: stats["card-frames-dropped"] >= before["card-frames-dropped"] + 100)
    guest.qmp.command("system_wakeup")
    guest.qmp.wait_event("WAKEUP")
    two.guest.check(f"until ping -q -c 1 -W 1 {one.ipv4}; do :; done")
    # What comes when the VM is stopped and started is what came meanwhile.
    with paused(guest):
        assert guest.stats()["card-frames-held"] == 0
    assert received(fabric, receiving) == []
    one.configure_driver()
    expect_working(fabric)
