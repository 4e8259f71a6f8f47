# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that resets, unplugs or stops its device from within one of the device's own sends.

A datagram of the device makes another card of the guest, which is on the same hub, raise an interrupt
before the send is done. The guest has had that interrupt written into a register. It is q35, whose
configuration space is in memory.
"""
import re

import pytest

from test_hostile_guest import DRIVER, HOSTILE
from vm.fabric import MTU, Node

PCI_COMMAND = 4
SLOT_CONTROL = 0x18  # from the PCI Express capability (PCIe 5.0, 7.5.3.10)
POWER_OFF = 0x7c0    # power controller and both indicators off
PANICKED = 1         # docs/specs/pvpanic.rst of QEMU
ROUNDS = 50
# The device's frame is for the other card, on the same hub.
CARD = "0000:00:0a.0"
CARD_MAC = "52:54:00:00:00:01"


class Attacker(Node):
    """A guest whose second card and device, behind a root port, are attacked."""

    def __init__(self, directory, image, payload):
        super().__init__(
            "pvrdma", 1, directory, image, netdev="hubport,hubid=1", name="attacker", payload=payload,
            machine="q35", append="iomem=relaxed", slot={"addr": "a"}, arguments=[
                "-action", "panic=pause", "-device", "pvpanic-pci,addr=b",
                "-device", "pcie-root-port,id=root,chassis=1,slot=1,addr=c",
                # The root port takes and gives up what is behind it by itself.
                "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
                "-netdev", "hubport,hubid=1,id=n1",
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
        return self.guest.start(
            f"{HOSTILE} --until /tmp/stop sends {self.function} --card {CARD} --target {target} "
            f"--value {value} --mac {CARD_MAC} --source 10.0.9.1 --destination 10.0.9.2 --rounds {rounds}")


@pytest.fixture(scope="module")
def attacker(tmp_path_factory, image, payload):
    node = Attacker(tmp_path_factory.mktemp("sends"), image, payload)
    node.configure()
    yield node
    node.guest.stop()
    assert not node.guest.qemu_trouble(), node.guest.qemu_log.read_text(errors="replace")


def expect_working(node):
    assert node.guest.failure is None and not node.guest.qemu_trouble()
    assert "vmw_pvrdma0" in node.guest.check("ibv_devinfo -d vmw_pvrdma0")


def test_reset(attacker):
    process = attacker.attack(attacker.register(attacker.function, PCI_COMMAND), 0, ROUNDS)
    result = process.wait(60)
    assert result.status == 0, result.output
    assert f"{ROUNDS} of {ROUNDS} sends led back" in result.output
    expect_working(attacker)


def test_stop(attacker):
    process = attacker.attack(attacker.panic_device(), PANICKED, 1)
    attacker.guest.qmp.wait_event("STOP")
    attacker.guest.qmp.command("cont")
    result = process.wait(60)
    assert result.status == 0, result.output
    expect_working(attacker)


# The last: nothing of the device is left.
def test_unplug(attacker):
    attacker.attack(attacker.slot_control(), POWER_OFF, 1)
    for device in ("rdma1", "nic1"):
        attacker.guest.qmp.wait_event("DEVICE_DELETED", lambda data, id=device: data.get("device") == id)
    expect_working(attacker)
