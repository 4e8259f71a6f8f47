# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's monitor while frames for a device come in."""
import os
import socket
import subprocess
import threading

import pytest

from pairs import by_night
from verifying import Stream
from vm.fabric import Fabric
from vm.qmp import Qmp

SNAPSHOTS = 5
MONITORS = 2  # where somebody always waits for an answer
PROMPT = b"(qemu) "


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("monitor")


@pytest.fixture(scope="module", params=["pvrdma", by_night("virtio-rdma")])
def fabric(request, directory, image, payload):
    """The first guest has a disk for snapshots, a monitor for people and some for programs."""
    directory = directory / request.param
    directory.mkdir()
    disk = directory / "snapshots.qcow2"
    subprocess.run([f"{os.environ['RDMA_QEMU_BUILD']}/qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"],
                   check=True)
    arguments = ["-drive", f"if=none,id=snapshots,format=qcow2,file={disk}",
                 "-device", "virtio-blk-pci,drive=snapshots,addr=b",
                 "-chardev", f"socket,id=hmp,path={directory}/hmp,server=on,wait=off",
                 "-mon", "chardev=hmp,mode=readline"]
    for n in range(MONITORS):
        arguments += ["-qmp", f"unix:{directory}/qmp{n},server=on,wait=off"]
    pair = Fabric((request.param, request.param), directory, image, payload=payload, each=[{"arguments": arguments}, {}])
    yield pair
    pair.stop()


class Watcher(threading.Thread):
    """Asks a monitor for the VM's state again and again."""

    def __init__(self, path):
        super().__init__()
        self.states = []
        self._qmp = Qmp(str(path))
        self._ended = threading.Event()
        self.start()

    def run(self):
        try:
            while not self._ended.is_set():
                self.states.append(self._qmp.command("query-status")["status"])
        except (OSError, EOFError) as error:  # QEMU has ended
            self.states.append(str(error))

    def end(self):
        self._ended.set()
        self.join()
        return self.states


class HumanMonitor:
    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(120)
        self._socket.connect(str(path))
        self._wait_prompt()

    def _wait_prompt(self):
        output = b""
        while not output.endswith(PROMPT):
            received = self._socket.recv(4096)
            if not received:
                raise EOFError("QEMU has closed its monitor")
            output += received
        return output

    def command(self, line):
        self._socket.sendall(line.encode() + b"\n")
        return self._wait_prompt().decode()


def test_no_command_is_carried_out_in_the_middle_of_a_snapshot(directory, fabric):
    """A snapshot waits for the disk in an event loop of its own, which is not the monitors'.

    A QMP command that is carried out there would find the VM in a state that it has there alone. QEMU
    itself aborts where one begins within a command of another monitor (do_qmp_dispatch_bh()).
    """
    directory /= fabric.nodes[0].kind
    monitor = HumanMonitor(directory / "hmp")
    stream = Stream(*fabric.nodes, "--qps 16 --depth 32 --max-size 4096", quiet=True)
    watchers = [Watcher(directory / f"qmp{n}") for n in range(MONITORS)]
    guest = fabric.nodes[0].guest
    for _ in range(SNAPSHOTS):
        packets = guest.stats()["rx-packets"]
        guest.wait_stats(lambda stats, packets=packets: stats["rx-packets"] > packets + 1000)
        assert "Error" not in monitor.command("savevm now")
    states = [watcher.end() for watcher in watchers]
    stream.end()
    assert all(len(seen) > SNAPSHOTS for seen in states)
    assert {state for seen in states for state in seen} == {"running"}
