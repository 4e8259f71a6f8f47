# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs backend with all that stands above it: QEMU in a guest, the host, on the host's rxe, and in that
QEMU a guest with vmw_pvrdma. The peer is the host's other rxe."""
import functools
import os
import types

import pytest

from pinging import expect_pings, rping
from test_programs import expect_success
from test_verbs_backend import LINKS
from vm.fabric import Node
from vm.guest import Guest
from vm.memory import shared_ram
from vm.nested import PATIENCE, NestedGuest, host_arguments, prepare_host, save_booted

RAM = "512M"
PEER = "10.0.1.1"
HOST = "10.0.2.2"  # for TCP, the host as the nested guest sees it
# The kernel's RDMA CM looks a request's way back up without the interface that it would come from (rdma_cm,
# validate_ipv4_net_dev()), so that the rule of LINKS does not hold for it.
WAY_BACK = "ip rule add pref 12 from 10.0.1.1 to 10.0.0.1 oif eth1 lookup 11"


class Stack:
    """The host and the guest in it."""

    def __init__(self, directory, image, payload):
        arguments = [*shared_ram(RAM), "-netdev", "user,id=u0", "-device", "virtio-net-pci,netdev=u0"]
        saved = save_booted(directory, image, arguments, memory=RAM)
        self.host = Guest("host", directory, image, host_arguments(directory, os.environ["RDMA_NESTED_DISK"], saved),
                          memory="2G", payload=payload)
        self.host.wait_ready()
        self.host.check(LINKS)
        self.host.check(f"modprobe ib_umad && {WAY_BACK}")
        prepare_host(self.host)
        self.node = Node(
            "pvrdma", 1, directory, image, netdev="hubport,hubid=0",
            rdma={"backend": "verbs", "ibdev": "rxe0"},
            make_guest=functools.partial(NestedGuest, self.host), name="nested", plugged=False, memory=RAM,
            arguments=arguments)
        self.guest = self.node.guest
        self.node.configure()
        mac = self.host.check("cat /sys/class/net/eth1/address").strip()
        self.guest.check(
            "modprobe virtio_net && until [ -e /sys/class/net/eth1 ]; do :; done && "
            "ip link set eth1 up && ip addr add 10.0.2.15/24 dev eth1 && "
            f"ip route add {PEER}/32 dev eth0 && ip neigh add {PEER} lladdr {mac} dev eth0 nud permanent")
        self.guest_gid = self.node.gid_index("10.0.0.1")
        peer = types.SimpleNamespace(guest=self.host, gid_type="RoCE v2", device="rxe1")
        self.host_gid = Node.gid_index(peer, PEER)

    def run(self, program, port=18515):
        """A program's server in the host on rxe1, its client in the nested guest; {device} and {gid} stand for the
        end's. Returns what the client has printed."""
        server = self.host.start(program.format(device="rxe1", gid=self.host_gid))
        self.host.wait_listening(port)
        results = self._end(server, f"{program.format(device='vmw_pvrdma0', gid=self.guest_gid)} {HOST}")
        expect_success(results)
        return results[1].output

    def run_connected(self, server, client):
        """The same with programs that connect by RDMA CM. Returns the results of server and client."""
        # The host's ib_cm comes after QEMU: the first port's messages are the guest's.
        self.host.check("modprobe rdma_ucm")
        server = self.host.start(server)
        self.host.check("until rdma resource show cm_id | grep -q LISTEN; do :; done")
        return self._end(server, client)

    def _end(self, server, client):
        client = self.guest.run(client)
        if client.status != 0:
            server.kill()
        return server.wait(PATIENCE), client


@pytest.fixture(scope="module")
def stack(tmp_path_factory, image, payload):
    stack = Stack(tmp_path_factory.mktemp("stack"), image, payload)
    yield stack
    trouble = stack.host.kernel_trouble() + stack.guest.kernel_trouble()
    stack.guest.stop()
    stack.host.stop()
    assert not trouble, trouble


@pytest.mark.parametrize("program", [
    "ibv_rc_pingpong -d {device} -g {gid} -n 50",
    "ibv_ud_pingpong -d {device} -g {gid} -n 50",
    "ibv_srq_pingpong -d {device} -g {gid} -n 50 -q 4",
], ids=lambda program: program.split()[0])
def test_pingpong(stack, program):
    assert " iters in " in stack.run(program)


@pytest.mark.parametrize("program", [
    "ib_write_bw -s 65536 -n 100",
    "ib_send_bw -s 4096 -n 100",
    "ib_send_bw -s 4096 -n 50 --use-srq -q 2",
    "ib_read_bw -s 65536 -n 100",
    "ib_atomic_bw -n 100",
    "ib_write_lat -s 8 -n 50",
    "ib_send_lat -s 8 -n 50",
    "ib_read_lat -s 8 -n 50",
    "ib_atomic_lat -n 50",
    "ib_atomic_lat -A CMP_AND_SWAP -n 50",
])
def test_perftest(stack, program):
    assert "#bytes" in stack.run(f"{program} -d {{device}} -x {{gid}} -F -p 18600", port=18600)


def test_objects_are_the_hosts(stack):
    """What the guest has made is the host's, and ends with the guest's program."""
    before = stack.host.check("rdma resource show")
    process = stack.guest.start(f"ibv_rc_pingpong -d vmw_pvrdma0 -g {stack.guest_gid} -p 18700")
    stack.guest.wait_listening(18700, timeout=PATIENCE)
    assert stack.host.check("rdma resource show") != before
    process.kill()
    process.wait(PATIENCE)
    assert stack.host.check("rdma resource show") == before


@pytest.mark.parametrize("server, client", [
    (f"ucmatose -b {PEER}", f"ucmatose -s {PEER}"),
    (f"udaddy -b {PEER}", f"udaddy -s {PEER}"),
], ids=["ucmatose", "udaddy"])
def test_connection_manager(stack, server, client):
    """The guest's RDMA CM, through umad of the host's first port, and the host's own at its second."""
    expect_success(stack.run_connected(server, client))


def test_rping(stack):
    for result in stack.run_connected(rping(f"-s -a {PEER} -C 5"), rping(f"-c -a {PEER} -C 5")):
        expect_pings(result, 5)
