# SPDX-License-Identifier: GPL-2.0-or-later
"""The switch that other tests put between guests."""
import os
import socket
import struct
import threading
import time

import pytest

from vm.switch import Switch

BROADCAST = b"\xff" * 6
ROCE_V1, OTHER = b"\x89\x15", b"\x88\xb5"


def mac(number):
    return bytes([0x52, 0x54, 0, 0, 0, number])


def frame(to, sender, body=b"x" * 60, ethertype=OTHER):
    return to + sender + ethertype + body


class Plug:
    """What QEMU is at a port."""

    def __init__(self, switch, port):
        self._to = f"{switch.directory}/port{port}"
        self._path = f"{switch.directory}/plug{port}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._path)
        self._socket.settimeout(10)

    def send(self, data):
        self._socket.sendto(data, self._to)

    def receive(self):
        return self._socket.recv(65536)

    def unplug(self):
        self._socket.close()
        os.unlink(self._path)


@pytest.fixture
def switch(tmp_path):
    network = Switch(os.environ["RDMA_SWITCH"], tmp_path, 3)
    yield network
    network.stop()


@pytest.fixture
def plugs(switch):
    return [Plug(switch, port) for port in range(3)]


def test_learns_addresses_and_follows_them(switch, plugs):
    first, second, third = plugs
    unknown = frame(mac(2), mac(1))
    first.send(unknown)
    assert second.receive() == third.receive() == unknown
    answer = frame(mac(1), mac(2))
    second.send(answer)
    assert first.receive() == answer
    # The address moves to another port, as a guest that migrates.
    third.send(frame(BROADCAST, mac(2)))
    first.receive()
    # Nothing but the broadcast has come where the answer was not for.
    assert second.receive() == frame(BROADCAST, mac(2))
    first.send(unknown)
    assert third.receive() == unknown
    assert switch.stats()["sent"] == 6


def test_a_port_may_be_left_and_taken_again(switch, plugs):
    first, second, _ = plugs
    second.send(frame(BROADCAST, mac(2)))
    first.receive()
    second.unplug()
    first.send(frame(mac(2), mac(1)))
    while switch.stats()["unplugged"] == 0:
        pass
    second = Plug(switch, 1)
    first.send(frame(mac(2), mac(1), b"again"))
    assert second.receive().endswith(b"again")
    second.send(frame(mac(1), mac(2), b"back"))
    assert first.receive().endswith(b"back")


@pytest.mark.parametrize("fault, counter", [
    ("lose", "lost"), ("repeat", "repeated"), ("reorder", "reordered"), ("corrupt", "corrupted")])
def test_a_fault_befalls_as_many_frames_as_told(switch, plugs, fault, counter):
    first, second, _ = plugs
    second.send(frame(BROADCAST, mac(2)))
    first.receive()
    switch.faults(**{fault: 0.1})
    sent = [frame(mac(2), mac(1), b"y" * 40 + n.to_bytes(4, "big"), ROCE_V1) for n in range(2000)]
    sending = threading.Thread(target=lambda: [first.send(data) for data in sent])
    sending.start()
    received = []

    def all_carried(stats):
        return (stats["received"] == len(sent) + 1 and
                stats["sent"] == 2 + len(sent) - stats["lost"] + stats["repeated"])

    # The broadcast has been sent twice.
    while not all_carried(stats := switch.stats()) or len(received) < stats["sent"] - 2:
        if len(received) < stats["sent"] - 2:
            received.append(second.receive())
    sending.join()

    assert 130 <= stats[counter] <= 270, stats  # 200, give or take 5 standard deviations
    assert sum(stats[c] for c in ("lost", "repeated", "reordered", "corrupted")) == stats[counter]
    originals, arrived = set(sent), set(received)
    if fault == "lose":
        assert received == [data for data in sent if data in arrived]
    elif fault == "repeat":
        assert arrived == originals
    elif fault == "reorder":
        assert sorted(received) == sorted(sent) and received != sent
    else:
        differing = [data for data, original in zip(received, sent) if data != original]
        assert len(received) == len(sent) and len(differing) == stats["corrupted"]


def test_captures_what_comes(switch, plugs, tmp_path):
    path = tmp_path / "frames.pcap"
    switch.capture(path)
    sent = frame(mac(2), mac(1), b"y" * 200)
    before = time.time()
    plugs[0].send(sent)
    assert plugs[1].receive() == sent
    after = time.time()
    switch.capture()
    plugs[0].send(sent)
    assert plugs[1].receive() == sent
    data = path.read_bytes()
    seconds, microseconds, captured, size = struct.unpack_from("<IIII", data, 24)
    assert data[:4] == bytes.fromhex("d4c3b2a1")
    assert int(before * 1e6) <= seconds * 1000000 + microseconds <= after * 1e6
    assert size == len(sent) and data[40:] == sent[:captured]
