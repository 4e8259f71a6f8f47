# SPDX-License-Identifier: GPL-2.0-or-later
"""Command lines that cannot work: QEMU ends with a message that says what to change."""
import pathlib
import socket
import struct
import subprocess
import threading

import pytest

QEMU = pathlib.Path(__file__).resolve().parents[2] / "tools/qemu-system-x86_64"
NETDEV = ["-netdev", "hubport,hubid=0,id=n0"]
NIC = ["-device", "vmxnet3,netdev=n0,addr=5.0,multifunction=on"]
VHOST_USER_GET_FEATURES = 1
VHOST_USER_VERSION = 1
VHOST_USER_REPLY = 1 << 2


def qemu(*arguments):
    """The exit status of a QEMU that may quit at once, and what it says."""
    run = subprocess.run(
        [QEMU, "-M", "q35", "-display", "none", "-nodefaults", "-S", "-monitor", "stdio", *arguments],
        input="quit\n", capture_output=True, text=True, timeout=60)
    return run.returncode, run.stderr


def pvrdma(options="", nic=True):
    return qemu(*(NETDEV + NIC if nic else []), "-device", f"pvrdma,addr=5.1{options}")


def test_a_right_one_starts():
    status, said = pvrdma()
    assert status == 0, said


@pytest.mark.parametrize("options, message", [
    (",max-qp=1", "property 'max-qp' is 1: it must be"),
    (",max-qp-wr=1000", "property 'max-qp-wr' is 1000: it must be"),
    (",max-cqe=3", "property 'max-cqe' is 3: it must be"),
    (",max-sge=33", "property 'max-sge' is 33: it must be"),
    (",max-mr=0", "property 'max-mr' is 0: it must be"),
    (",gid-tbl-len=257", "property 'gid-tbl-len' is 257: it must be"),
    (",version=21", "property 'version' is 21: it must be"),
    (",version=17,roce=v2", "roce"),
    (",roce=v3", "property 'roce' is 'v3': it must be v1 or v2"),
    (",poll-pause=1001", "property 'poll-pause' is 1001: it must be"),
    (",max-qps=5", "max-qps"),
])
def test_properties_are_checked(options, message):
    status, said = pvrdma(options)
    assert status != 0 and message in said, said


def test_without_a_nic():
    status, said = pvrdma(nic=False)
    assert status != 0
    assert "function 0 of PCI slot 5 is not a network card" in said
    assert "addr=5.0,multifunction=on" in said


def test_function_0_is_something_else():
    status, said = qemu("-device", "pvpanic-pci,addr=5.0,multifunction=on", "-device",
                        "pvrdma,addr=5.1")
    assert status != 0 and "function 0 of PCI slot 5 is not a network card" in said, said


def test_as_function_0():
    status, said = qemu(*NETDEV, "-device", "pvrdma,addr=5.0")
    assert status != 0 and "function 0 of PCI slot 5 is not a network card" in said, said


def test_nic_without_a_network():
    status, said = qemu("-device", "vmxnet3,addr=5.0,multifunction=on", "-device",
                        "pvrdma,addr=5.1")
    assert status != 0 and "not connected to a network: give it a netdev=" in said, said


class VhostUserBackend(threading.Thread):
    """As much of a vhost-user backend as lets a netdev start: no features."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()

    def run(self):
        connection, _ = self._server.accept()
        with connection:
            while header := connection.recv(12, socket.MSG_WAITALL):
                request, _flags, size = struct.unpack("=III", header)
                if size:
                    connection.recv(size, socket.MSG_WAITALL)
                if request == VHOST_USER_GET_FEATURES:
                    connection.sendall(struct.pack("=IIIQ", request,
                                                   VHOST_USER_VERSION | VHOST_USER_REPLY, 8, 0))


def test_network_that_bypasses_qemu(tmp_path):
    path = tmp_path / "vhost"
    VhostUserBackend(path).start()
    status, said = qemu("-m", "64M", "-object", "memory-backend-memfd,id=ram,size=64M,share=on",
                        "-M", "q35,memory-backend=ram",
                        "-chardev", f"socket,id=c,path={path}", "-netdev", "vhost-user,id=n0,chardev=c",
                        "-device", "virtio-net-pci,netdev=n0,addr=5.0,multifunction=on",
                        "-device", "pvrdma,addr=5.1")
    assert status != 0
    assert "network 'n0' passes packets by vhost" in said, said
    assert "vhost=off" in said, said
