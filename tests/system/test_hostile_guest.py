# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that attacks its device, and a process that attacks its own queues.

Guest 1 has two pvrdma devices on one network: rdma0 works, rdma1 is attacked. QEMU must live,
the traffic of others must arrive to the last byte, and the attacked device must work again
after a reset.
"""
import contextlib

import pytest

from pairs import DEVICES
from test_programs import expect_success
from verifying import PORT, PROGRAM
from vm.fabric import MTU, Fabric, Node

HOSTILE = "/payload/rdma-hostile"
SECOND = "0000:00:06.1"  # the attacked function in guest 1
DRIVER = "/sys/bus/pci/drivers/vmw_pvrdma"
STREAM = "stream --qps 4 --depth 8 --seconds 10"
GUEST_ERRORS = ["guest-register-errors", "guest-command-errors", "guest-doorbell-errors",
                "guest-wqe-errors"]


class TwoDeviceNode(Node):
    """Two cards and two devices on one hub, and a second CPU for the attack."""

    def __init__(self, directory, image, payload):
        second = [
            "-smp", "2",
            "-netdev", f"dgram,id=net,local.type=unix,local.path={directory}/net1,"
                       f"remote.type=unix,remote.path={directory}/net2",
            "-netdev", "hubport,hubid=1,id=port,netdev=net",
            "-netdev", "hubport,hubid=1,id=n1",
            "-device", "vmxnet3,netdev=n1,mac=52:54:00:00:00:11,addr=6.0,multifunction=on",
            "-device", "pvrdma,id=rdma1,addr=6.1"]
        super().__init__("pvrdma", 1, directory, image, netdev="hubport,hubid=1", name="attacked",
                         arguments=second, payload=payload)

    def configure(self):
        super().configure()
        self.guest.check(f"ip link set eth1 mtu {MTU} up && ip addr add 10.0.1.1/24 dev eth1")

    def attacked_stats(self):
        return self.guest.stats("rdma1")


class HostileFabric(Fabric):
    def __init__(self, directory, image, payload):
        self._come_up([lambda: TwoDeviceNode(directory, image, payload),
                       lambda: Node("pvrdma", 2, directory, image, payload=payload)])


@pytest.fixture(scope="module", params=DEVICES)
def fabric(request, tmp_path_factory, image, payload):
    directory = tmp_path_factory.mktemp("hostile")
    if request.param == "pvrdma":
        pair = HostileFabric(directory, image, payload)
    else:
        pair = Fabric((request.param, request.param), directory, image, payload=payload,
                      each=[{"arguments": ["-smp", "2"]}, {}])
    yield pair
    pair.stop()
    for node in pair.nodes:
        assert not node.guest.qemu_trouble(), node.guest.qemu_log.read_text(errors="replace")


@contextlib.contextmanager
def attack(guest, arguments):
    """An attack that goes on meanwhile, and must end as it should."""
    guest.check("rm -f /tmp/stop")
    process = guest.start(f"{HOSTILE} --until /tmp/stop {arguments}")
    process.wait_output("attacking")
    yield
    guest.check("touch /tmp/stop")
    result = process.wait(120)
    assert result.status == 0, result.output
    print(result.output)


def stream_between(fabric):
    """Verified traffic between the two guests, in both directions."""
    one, two = fabric.nodes
    serving = two.guest.start(f"{PROGRAM} -d {two.device} -g {two.gid_index(two.ipv4)} {STREAM}")
    two.guest.wait_listening(PORT)
    client = one.guest.run(
        f"{PROGRAM} -d {one.device} -g {one.gid_index(one.ipv4)} {STREAM} {two.ipv4}", 300)
    if client.status != 0:
        serving.kill()
    expect_success([serving.wait(180), client])


@pytest.mark.parametrize("seed", [1, 2])
def test_a_hostile_guest(fabric, seed):
    node = fabric.nodes[0]
    if node.kind != "pvrdma":
        pytest.skip("rdma-hostile has a driver for pvrdma alone")
    guest = node.guest
    before = node.attacked_stats()
    working = guest.stats()
    guest.check("echo 2 > /proc/sys/vm/nr_hugepages")
    guest.check(f"echo {SECOND} > {DRIVER}/unbind")
    with attack(guest, f"--seed {seed} device {SECOND}"):
        stream_between(fabric)
    # It has come through everywhere, and the other device has heard nothing of it.
    after = node.attacked_stats()
    for counter in GUEST_ERRORS:
        assert after[counter] - before[counter] > 100, counter
    assert after["guest-ring-errors"] > before["guest-ring-errors"]
    assert after["completions"] > before["completions"]
    for counter in GUEST_ERRORS:
        assert guest.stats()[counter] == working[counter], counter
    guest.check(f"echo {SECOND} > {DRIVER}/bind")
    use_attacked_device(guest)


def use_attacked_device(guest):
    """Two processes of the guest, through the device that was attacked."""
    guest.check("until ibv_devinfo -d vmw_pvrdma1 | grep -q PORT_ACTIVE; do :; done")
    program = f"{PROGRAM} -d vmw_pvrdma1 -g {gid_index(guest)} stream --messages 300"
    serving = guest.start(program)
    guest.wait_listening(PORT)
    client = guest.run(f"{program} 127.0.0.1", 180)
    expect_success([serving.wait(180), client])


def gid_index(guest):
    """Of the attacked device's IPv4 address."""
    return int(guest.check(
        "cd /sys/class/infiniband/vmw_pvrdma1/ports/1/gids && "
        "grep -l '0000:0000:0000:0000:0000:ffff:0a00:0101' *").split()[0])


def test_a_hostile_process(fabric):
    node = fabric.nodes[0]
    before = node.guest.stats()
    with attack(node.guest, f"process {node.device} --gid {node.gid_index(node.ipv4)}"):
        stream_between(fabric)
    after = node.guest.stats()
    for counter in ("guest-doorbell-errors", "guest-ring-errors", "guest-wqe-errors"):
        assert after[counter] > before[counter], counter
    assert after["guest-command-errors"] == before["guest-command-errors"]
    stream_between(fabric)
