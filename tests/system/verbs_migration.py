# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration of a VM with the verbs backend: two QEMUs in a guest, the host, each with one of the host's rxe devices and a
guest with vmw_pvrdma. The destination is a third QEMU in the same host."""
import functools
import os
import re

import pytest

from test_verbs_backend import LINKS
from verifying import Stream
from vm.fabric import Node
from vm.guest import Guest
from vm.memory import shared_ram
from vm.migration import MigrationError
from vm.nested import PATIENCE, NestedGuest, host_arguments, prepare_host, save_booted
from vm.qmp import QmpError

pytestmark = pytest.mark.timeout(3600)  # VMs in a VM

RAM = "512M"
# The guests' cards are on a bridge, where the host itself does not answer for their addresses.
BRIDGE = """
set -e
modprobe -a tun bridge
ip link add br0 type bridge
sysctl -qw net.ipv4.conf.br0.arp_ignore=1
for i in 0 1 2; do ip tuntap add tap$i mode tap; ip link set tap$i mtu 4500 master br0 up; done
ip link set br0 up
"""


def tap(number):
    return f"tap,ifname=tap{number},script=no,downscript=no"


class Pair:
    """A host and two guests in it, the first of which can migrate."""

    def __init__(self, directory, image, payload):
        saved = save_booted(directory, image, shared_ram(RAM), memory=RAM, payload=payload)
        self.host = Guest("host", directory, image,
                          host_arguments(directory, os.environ["RDMA_NESTED_DISK"], saved, 6),
                          memory="4G", payload=payload)
        self.host.wait_ready()
        self.host.check(LINKS)
        self.host.check(BRIDGE)
        prepare_host(self.host)
        self.nodes = [self._node(directory, image, 1, tap(0), tap(1), (0, 2)),
                      self._node(directory, image, 2, tap(2), None, (4,))]
        for node in self.nodes:
            node.configure()
            # All of it is one network to the guests.
            node.guest.check(f"ip addr del {node.ipv4}/24 dev eth0 && ip addr add {node.ipv4}/16 dev eth0")
        first, second = self.nodes
        first.guest.check(f"ping -q -c 1 {second.ipv4}")

    def _node(self, directory, image, index, netdev, spare, wires):
        node = Node(
            "pvrdma", index, directory, image, netdev=netdev, spare=spare,
            rdma={"backend": "verbs", "ibdev": f"rxe{index - 1}"},
            make_guest=functools.partial(NestedGuest, self.host, wires=wires), name=f"nested{index}",
            plugged=False, memory=RAM, payload="/dev/vdb", arguments=shared_ram(RAM))
        node.ipv4 = f"10.0.{index - 1}.1"  # that of the host's interface
        return node


@pytest.fixture(scope="module")
def pair(tmp_path_factory, image, payload):
    pair = Pair(tmp_path_factory.mktemp("pair"), image, payload)
    yield pair
    trouble = [line for guest in (pair.host, *(node.guest for node in pair.nodes)) for line in guest.kernel_trouble()]
    for node in pair.nodes:
        node.guest.stop()
    pair.host.stop()
    assert not trouble, trouble


def qp_numbers(guest):
    return re.findall(r"lqpn (\d+)", guest.check("rdma resource show qp"))


def test_traffic_goes_on(pair):
    node, peer = pair.nodes
    stream = Stream(node, peer, "--qps 2 --depth 4 --max-size 4096 --min-size 1")
    numbers = qp_numbers(node.guest)
    for _ in range(int(os.environ.get("RDMA_MIGRATIONS", "1"))):
        reports = stream.num_reports()
        info = node.migrate()
        stream.expect_progress(PATIENCE)
        print(f"downtime {info['downtime']} ms, gaps {stream.longest_gaps(reports)} ms")
    assert qp_numbers(node.guest) == numbers
    stream.end(PATIENCE)


class ForeignPeer:
    """A QP of the guest's and, at its other end, one that is not paravirtual: the host's own program on its device."""

    def __init__(self, pair):
        self.pair = pair
        self.node = pair.nodes[0]
        self.processes = [self.node.guest.start(
            f"ibv_rc_pingpong -d vmw_pvrdma0 -g {self.node.gid_index(self.node.ipv4)} -n 1000000")]
        self.node.guest.wait_listening(18515, PATIENCE)

    def connect(self):
        host = self.pair.host
        gid = Node.gid_index(type("Host", (), {"guest": host, "gid_type": "RoCE v2", "device": "rxe1"})(), "10.0.1.1")
        host.check("ip addr show dev br0 | grep -q 10.0.0.254 || "
                   "{ ip addr add 10.0.0.254/32 dev br0 && ip route add 10.0.0.1/32 dev br0 table 99 && "
                   "ip rule add pref 5 ipproto tcp to 10.0.0.1 lookup 99; }")
        self.processes.append(host.start(f"ibv_rc_pingpong -d rxe1 -g {gid} -n 1000000 10.0.0.1"))
        host.check("until rdma resource show qp | grep rc_pingpong | grep -q RTS; do :; done", PATIENCE)

    def end(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait(PATIENCE)


def test_a_background_snapshot_is_refused(pair):
    """The host's device goes on writing memory that such a snapshot takes to be still."""
    qmp = pair.nodes[0].guest.qmp
    capability = {"capability": "background-snapshot", "state": True}
    qmp.command("migrate-set-capabilities", capabilities=[capability])
    with pytest.raises(QmpError, match="backend=verbs does not make background snapshots"):
        qmp.command("migrate", uri="file:/dev/null")
    qmp.command("migrate-set-capabilities", capabilities=[{**capability, "state": False}])


def test_a_peer_that_cannot_be_told_keeps_it_here(pair):
    peer = ForeignPeer(pair)
    peer.connect()
    migration = peer.node.migration()
    with pytest.raises(MigrationError, match=r"the other end is no device with backend=verbs"):
        migration.run()
    migration.give_up()
    peer.end()


def test_one_that_connects_during_the_migration_keeps_it_here(pair):
    """The QP is in INIT when the migration begins, and that could come along."""
    peer = ForeignPeer(pair)
    migration = peer.node.migration(parameters={"max-bandwidth": 1 << 20})
    migration.start()
    migration.wait("active")
    peer.connect()
    source = peer.node.guest.qemu
    source.qmp.command("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    assert migration.wait("failed", "completed") == "failed"
    source.qmp.wait_event("RESUME")
    migration.give_up()
    assert "the other end is no device with backend=verbs" in source.output()
    # The VM goes on, and so does the connection.
    peer.node.guest.check("rdma resource show qp | grep -q RTS")
    peer.end()
