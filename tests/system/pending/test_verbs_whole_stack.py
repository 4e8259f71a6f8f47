# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs backend with all that stands above it: QEMU in a guest, the host, on the host's rxe, and in that
QEMU a guest with vmw_pvrdma. The peer is the host's other rxe."""
import functools
import os

import pytest

from test_verbs_backend import LINKS
from vm.fabric import Node
from vm.guest import Guest
from vm.memory import shared_ram
from vm.nested import NestedGuest, host_arguments, prepare_host

PEER = "10.0.1.1"
PATIENCE = 900  # seconds, for a program in a guest within a guest
HOST = "10.0.2.2"  # for TCP, the host as the nested guest sees it


class Stack:
    """The host and the guest in it."""

    def __init__(self, directory, image, payload):
        disk = os.environ["RDMA_NESTED_DISK"]
        self.host = Guest("host", directory, image, host_arguments(directory, disk), memory="2G", payload=payload)
        self.host.wait_ready()
        self.host.check(LINKS)
        prepare_host(self.host)
        self.node = Node(
            "pvrdma", 1, directory, image, netdev="hubport,hubid=0",
            pvrdma={"backend": "verbs", "ibdev": "rxe0"},
            make_guest=functools.partial(NestedGuest, self.host), name="nested", memory="512M",
            arguments=[*shared_ram("512M"), "-netdev", "user,id=u0", "-device", "virtio-net-pci,netdev=u0"])
        self.guest = self.node.guest
        self.node.configure()
        mac = self.host.check("cat /sys/class/net/eth1/address").strip()
        self.guest.check(
            "modprobe virtio_net && until [ -e /sys/class/net/eth1 ]; do :; done && "
            "ip link set eth1 up && ip addr add 10.0.2.15/24 dev eth1 && "
            f"ip route add {PEER}/32 dev eth0 && ip neigh add {PEER} lladdr {mac} dev eth0 nud permanent", PATIENCE)
        self.guest_gid = self.node.gid_index("10.0.0.1")
        self.host_gid = Node.gid_index(self, PEER, device="rxe1")

    # What Node.gid_index() asks of a node.
    gid_type = "RoCE v2"
    device = "rxe1"

    def run(self, program, port=18515):
        """A program's server in the host on rxe1, its client in the nested guest."""
        server = self.host.start(f"{program.format(device='rxe1', gid=self.host_gid)}")
        self.host.wait_listening(port)
        client = self.guest.run(
            f"{program.format(device='vmw_pvrdma0', gid=self.guest_gid)} {HOST}", PATIENCE)
        assert client.status == 0, client.output[-4000:] + server.output[-2000:]
        result = server.wait(PATIENCE)
        assert result.status == 0, result.output[-4000:]
        return client.output


@pytest.fixture(scope="module")
def stack(tmp_path_factory, image, payload):
    stack = Stack(tmp_path_factory.mktemp("stack"), image, payload)
    yield stack
    trouble = stack.host.kernel_trouble() + stack.guest.kernel_trouble()
    stack.guest.stop()
    stack.host.stop()
    assert not trouble, trouble
