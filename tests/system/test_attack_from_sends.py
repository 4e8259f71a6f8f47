# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that resets, unplugs or stops its device from within one of the device's own sends.

The network delivers a datagram of the device to another card of the guest, or answers it, before the
send is done. The card that gets the frame raises an interrupt, which the guest has had written into a
register. It is q35, whose configuration space is in memory.
"""
import dataclasses
import re

import pytest

from test_hostile_guest import DRIVER, HOSTILE
from vm.fabric import MTU, Node

PCI_COMMAND = 4
SLOT_CONTROL = 0x18  # from the PCI Express capability (PCIe 5.0, 7.5.3.10)
POWER_OFF = 0x7c0    # power controller and both indicators off
PANICKED = 1         # docs/specs/pvpanic.rst of QEMU
ROUNDS = 50
# A card in a slot of its own.
CARD = "0000:00:0a.0"
CARD_MAC = "52:54:00:00:00:01"
# QEMU's user network. Its router answers what has no hop left within the call that takes the frame:
# by ICMP "time exceeded" or, where it does not know the sender's MAC, by an ARP request first.
ROUTER = "10.0.2.2"
ROUTER_MAC = "52:55:0a:00:02:02"
USER_ADDRESS = "10.0.2.15"


@dataclasses.dataclass(frozen=True)
class Network:
    """What the device is on, and a datagram that leads to a frame for a card.

    netdevs: QEMU's; n1 is the network of the device's own card. own_card: the frame is for that card,
    otherwise for CARD.
    """
    netdevs: tuple
    own_card: bool
    mac: str
    source: str
    destination: str
    hop_limit: int

    @property
    def arguments(self):
        return [word for netdev in self.netdevs for word in ("-netdev", netdev)]


HUB = Network(("hubport,hubid=1,id=n1",), False, CARD_MAC, "10.0.9.1", "10.0.9.2", 64)
USER = Network(("user,id=n1",), True, ROUTER_MAC, USER_ADDRESS, ROUTER, 1)
# Of an address that the router asks for by a broadcast, which CARD gets.
USER_BEHIND_HUB = Network(("user,id=user", "hubport,hubid=1,id=h1,netdev=user", "hubport,hubid=1,id=n1"),
                          False, ROUTER_MAC, "10.0.2.77", ROUTER, 1)


class Attacker(Node):
    """A guest whose second card and device, behind a root port, are attacked."""

    def __init__(self, directory, image, payload, network):
        self.network = network
        super().__init__(
            "pvrdma", 1, directory, image, netdev="hubport,hubid=1", name="attacker", payload=payload,
            machine="q35", append="iomem=relaxed", slot={"addr": "a"}, arguments=[
                "-action", "panic=pause", "-device", "pvpanic-pci,addr=b",
                "-device", "pcie-root-port,id=root,chassis=1,slot=1,addr=c",
                # The root port takes and gives up what is behind it by itself.
                "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off", *network.arguments,
                "-device", "vmxnet3,id=nic1,netdev=n1,mac=52:54:00:00:00:11,bus=root,addr=0.0,multifunction=on",
                "-device", "pvrdma,id=rdma1,bus=root,addr=0.1"])

    def configure(self):
        super().configure()
        check = self.guest.check
        self.function = check(f"ls {DRIVER} | grep : | grep -v 00:0a.1").strip()
        second = check(f"ls /sys/bus/pci/devices/{self.function[:-1]}0/net").strip()
        check(f"ip link set {second} mtu {MTU} up")
        check(f"echo 2 > /proc/sys/vm/nr_hugepages && echo {self.function} > {DRIVER}/unbind")
        self.ecam = int(check(r"grep -E 'ECAM|MMCONFIG' /proc/iomem").split("-")[0], 16)

    def register(self, function, offset):
        """The address in memory of a register of configuration space."""
        bus, device, number = re.fullmatch(r"0000:(\w+):(\w+)\.(\d)", function).groups()
        return self.ecam + (int(bus, 16) << 20 | int(device, 16) << 15 | int(number) << 12) + offset

    def slot_control(self):
        port = self.guest.check(f"basename $(dirname $(readlink -f /sys/bus/pci/devices/{self.function}))").strip()
        capability = self.guest.check(
            f"python3 -c 'c = open(\"/sys/bus/pci/devices/{port}/config\", \"rb\").read()\n"
            "at = c[0x34]\nwhile c[at] != 0x10: at = c[at + 1]\nprint(at)'")
        return self.register(port, int(capability) + SLOT_CONTROL)

    def panic_device(self):
        return int(self.guest.check("cat $(dirname $(grep -l 0x0011 /sys/bus/pci/devices/*/device))/resource")
                   .split()[0], 16)

    def attack(self, target, value, rounds):
        """Begins it."""
        network = self.network
        card = f"{self.function[:-1]}0" if network.own_card else CARD
        return self.guest.start(
            f"{HOSTILE} --until /tmp/stop sends {self.function} --card {card} --target {target} "
            f"--value {value} --mac {network.mac} --source {network.source} "
            f"--destination {network.destination} --hop-limit {network.hop_limit} --rounds {rounds}")


@pytest.fixture(scope="module")
def attacker(request, tmp_path_factory, image, payload):
    node = Attacker(tmp_path_factory.mktemp("sends"), image, payload, request.param)
    try:
        node.configure()
        yield node
    finally:
        node.guest.stop()
    assert not node.guest.qemu_trouble(), node.guest.qemu_log.read_text(errors="replace")


def on_networks(**networks):
    """One guest for each network, which the tests of one share."""
    return pytest.mark.parametrize("attacker", networks.values(), ids=networks.keys(), indirect=True,
                                   scope="module")


def expect_working(node):
    assert node.guest.failure is None and not node.guest.qemu_trouble()
    assert "vmw_pvrdma0" in node.guest.check("ibv_devinfo -d vmw_pvrdma0")


@on_networks(hub=HUB, user=USER)
def test_reset(attacker):
    process = attacker.attack(attacker.register(attacker.function, PCI_COMMAND), 0, ROUNDS)
    result = process.wait(60)
    assert result.status == 0, result.output
    # Now and then another frame of the guest's has used the interrupt up before the send.
    led_back, sends = re.search(r"(\d+) of (\d+) sends led back", result.output).groups()
    assert int(led_back) >= 9 * ROUNDS // 10 and int(sends) == ROUNDS
    expect_working(attacker)


@on_networks(hub=HUB, user=USER)
def test_stop(attacker):
    process = attacker.attack(attacker.panic_device(), PANICKED, 1)
    attacker.guest.qmp.wait_event("STOP")
    attacker.guest.qmp.command("cont")
    result = process.wait(60)
    assert result.status == 0, result.output
    expect_working(attacker)


# The last: nothing of the device is left. The frame is not for the device's own card: QEMU's vmxnet3
# uses what it has freed where the interrupt for a frame unplugs it, with an RDMA device or without.
@on_networks(hub=HUB, user_behind_hub=USER_BEHIND_HUB)
def test_unplug(attacker):
    attacker.attack(attacker.slot_control(), POWER_OFF, 1)
    for device in ("rdma1", "nic1"):
        attacker.guest.qmp.wait_event("DEVICE_DELETED", lambda data, id=device: data.get("device") == id)
    expect_working(attacker)
