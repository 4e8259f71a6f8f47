# SPDX-License-Identifier: GPL-2.0-or-later
"""A card whose interrupt unplugs the slot, while QEMU tells card and device of a change of the carrier.

No guest runs: the test writes the registers that a guest would write (QEMU's docs/devel/testing/qtest.rst).
The machine is q35, whose configuration space is in memory.
"""
import contextlib
import pathlib
import socket
import subprocess

import pytest

from vm.guest import QEMU_TROUBLE
from vm.qemu import QEMU
from vm.qmp import Qmp

ECAM = 0xb0000000
WINDOW = 0xc0000000        # of the root port
MASKS = WINDOW             # the card's BAR 0: VMXNET3_REG_IMR
CARD_REGISTERS = WINDOW + 0x1000  # its BAR 1
TABLE = WINDOW + 0x2000    # its BAR 2: the MSI-X table
# The card's shared memory (QEMU's hw/net/vmxnet3.h, struct Vmxnet3_DriverShared) and where its driver says so.
SHARED = 0x100000
MAGIC, MTU, QUEUES = 0, 56, 60
SHARED_ADDRESS_LOW, SHARED_ADDRESS_HIGH, CARD_COMMAND = 0x10, 0x18, 0x20
ACTIVATE = 0xcafe0000
ROOT_PORT = (0, 0xc, 0)
CARD = (1, 0, 0)
# Registers of configuration space (PCI 3.0, 6.1; PCI-to-PCI Bridge 1.2, 3.2).
COMMAND, BAR_0, BAR_1, BAR_2, BUSES, MEMORY_WINDOW, CAPABILITIES = 0x04, 0x10, 0x14, 0x18, 0x18, 0x20, 0x34
MEMORY_AND_MASTER = 6
PCI_EXPRESS, MSIX = 0x10, 0x11
MSIX_ENABLE = 1 << 31      # in the capability's first word
SLOT_CONTROL = 0x18        # from the PCI Express capability (PCIe 5.0, 7.5.3.10)
POWER_OFF = 0x7c0          # power controller and both indicators off


class Machine:
    """QEMU without a guest, and its registers."""

    def __init__(self, directory, device):
        self.log = pathlib.Path(directory) / "qemu"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{directory}/qtest")
        listener.listen(1)
        listener.settimeout(180)
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                [*QEMU, "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "qtest", "-m", "64",
                 "-qtest", f"unix:{directory}/qtest", "-qtest-log", "none",
                 "-qmp", f"unix:{directory}/qmp,server=on,wait=off",
                 "-device", "pcie-root-port,id=root,chassis=1,slot=1,addr=c",
                 "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
                 "-netdev", "hubport,hubid=1,id=n1",
                 "-device", "vmxnet3,id=nic1,netdev=n1,bus=root,addr=0.0,multifunction=on",
                 "-device", f"{device},id=rdma1,bus=root,addr=0.1"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        with contextlib.closing(listener):
            connection, _ = listener.accept()
        self._qtest = connection.makefile("rw")
        self.qmp = Qmp(f"{directory}/qmp")

    def _ask(self, command):
        self._qtest.write(command + "\n")
        self._qtest.flush()
        answer = self._qtest.readline().split()
        assert answer and answer[0] == "OK", (command, answer, self.log.read_text(errors="replace"))
        return answer[1:]

    def out(self, port, word):
        self._ask(f"outl {port:#x} {word:#x}")

    def write(self, address, word):
        self._ask(f"writel {address:#x} {word:#x}")

    def read(self, address):
        return int(self._ask(f"readl {address:#x}")[0], 16)

    def configuration(self, function, offset):
        """The address of a register of configuration space."""
        bus, device, number = function
        return ECAM + (bus << 20 | device << 15 | number << 12) + offset

    def capability(self, function, kind):
        at = self.read(self.configuration(function, CAPABILITIES)) & 0xff
        while (word := self.read(self.configuration(function, at))) & 0xff != kind:
            at = word >> 8 & 0xff
        return self.configuration(function, at)

    def end(self):
        """What QEMU has printed."""
        self.process.terminate()
        self.process.wait(180)
        return self.log.read_text(errors="replace")


@pytest.mark.parametrize("device", ["pvrdma", "virtio-rdma-pci"])
def test_the_cards_interrupt_for_its_link_unplugs_the_device(tmp_path, device):
    machine = Machine(tmp_path, device)
    # Configuration space is in memory at ECAM (the host bridge's PCIEXBAR).
    machine.out(0xcf8, 0x80000060)
    machine.out(0xcfc, ECAM | 1)
    for function, registers in ((ROOT_PORT, {BUSES: 0x010100, MEMORY_WINDOW: WINDOW | WINDOW >> 16}),
                                (CARD, {BAR_0: MASKS, BAR_1: CARD_REGISTERS, BAR_2: TABLE})):
        for register, word in (registers | {COMMAND: MEMORY_AND_MASTER}).items():
            machine.write(machine.configuration(function, register), word)
    slot_control = machine.capability(ROOT_PORT, PCI_EXPRESS) + SLOT_CONTROL
    for i, word in enumerate((slot_control, 0, POWER_OFF, 0)):
        machine.write(TABLE + 4 * i, word)
    machine.write(machine.capability(CARD, MSIX), MSIX_ENABLE)
    for field, word in {MAGIC: 0xbabefee1, MTU: 1500, QUEUES: 1 << 16 | 1 << 24}.items():
        machine.write(SHARED + field, word)
    for register, word in {SHARED_ADDRESS_LOW: SHARED, SHARED_ADDRESS_HIGH: 0, CARD_COMMAND: ACTIVATE}.items():
        machine.write(CARD_REGISTERS + register, word)
    machine.write(MASKS, 0)
    machine.qmp.command("set_link", name="n1", up=False)
    for device in ("rdma1", "nic1"):
        machine.qmp.wait_event("DEVICE_DELETED", lambda data, id=device: data.get("device") == id)
    output = machine.end()
    assert machine.process.returncode == 0 and not QEMU_TROUBLE.search(output), output
