# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests within a guest: QEMU runs in a guest that stands for a host with RDMA devices.

A host needs the disk that nested_disk() of tools/test made (QEMU, its libraries and firmware), a disk with the state
that save_booted() made, and two wires for each QEMU that runs in it at the same time: to its guest's agent and to its
monitor. A guest is not booted in the host, where that takes minutes, but goes on from the state.
"""
import itertools
import pathlib
import select
import shlex
import socket

from .guest import Guest, GuestError
from .migration import NO_LIMIT, set_capabilities
from .qmp import Qmp

TOOLS = "/nested"  # where the disk is mounted in the host
SAVED = "/dev/vdd"
IMAGE = "/run/image"
FIRMWARE = "seabios ipxe/qemu qemu"
SECTOR = 512
# How guests run. Time by instructions: by the clock, ticks that take longer than they are apart would leave nothing else
# to run. Without HPET, whose timer Linux leaves running when it uses another.
MACHINE = {"machine": "pc,hpet=off", "accel": ("-accel", "tcg,thread=single", "-icount", "shift=8")}
PATIENCE = 900  # seconds, for a command


def save_booted(directory, image, arguments, **options):
    """Boots a guest and saves it for NestedGuest, which must have the same arguments. Returns the file."""
    path = pathlib.Path(directory) / "booted"
    guest = Guest("booted", directory, image, arguments, **MACHINE, **options)
    guest.wait_ready()
    guest.check("modprobe -a vmxnet3 vmw_pvrdma && sync")
    set_capabilities(guest.qmp, ["events"], True)
    guest.qmp.command("migrate-set-parameters", **{"max-bandwidth": NO_LIMIT})
    with guest.silence():
        guest.qmp.command("migrate", uri=f"file:{path}")
        event = guest.qmp.wait_event("MIGRATION", lambda data: data["status"] in ("completed", "failed"))
    guest.stop()
    if event["data"]["status"] != "completed":
        raise GuestError(f"the state was not saved: {guest.qemu.output()}")
    with open(path, "r+b") as file:
        file.truncate(-(-path.stat().st_size // SECTOR) * SECTOR)
    return path


def host_arguments(directory, disk, saved, wires=2):
    """QEMU's for a host of nested guests, with their disk and state. Its wires end at sockets in the directory."""
    arguments = []
    for file in (disk, saved):
        arguments += ["-drive", f"if=virtio,format=raw,readonly=on,file={file}"]
    for wire in range(wires):
        arguments += [
            "-chardev", f"socket,id=wire{wire},path={directory}/wire{wire},server=on,wait=off",
            "-device", f"virtio-serial-pci,id=wires{wire},max_ports=2",
            "-device", f"virtserialport,bus=wires{wire}.0,chardev=wire{wire},name=wire{wire}"]
    return arguments


def prepare_host(host):
    """Makes QEMU and the guests' image of a booted host ready. The image is the host's own."""
    host.check(f"mkdir -p {TOOLS} {IMAGE} && mount -t squashfs -o ro /dev/vdc {TOOLS} && "
               f"ln -s /dev/vda {IMAGE}/root.squashfs && "
               f"ln -s /boot/vmlinuz {IMAGE}/vmlinuz && ln -s /boot/initramfs.img {IMAGE}/initramfs.img")


class NestedQemu:
    """A QEMU in a host. As much of vm.qemu.Qemu as Guest needs."""

    def __init__(self, host, wire, directory, arguments, prefix=()):
        self.agent, self._monitor = (self._connect(host, number) for number in (wire, wire + 1))
        self._host = host
        self.may_end = False
        firmware = " ".join(f"-L {TOOLS}/firmware/{name}" for name in FIRMWARE.split())
        command = shlex.join([
            *prefix, f"{TOOLS}/qemu-system-x86_64", "-nodefaults", "-nographic",
            "-chardev", f"pipe,id=agent,path=/dev/virtio-ports/wire{wire}",
            "-chardev", f"pipe,id=monitor,path=/dev/virtio-ports/wire{wire + 1}",
            "-mon", "chardev=monitor,mode=control", *arguments])
        host.check(f"mkdir -p {directory} /dev/virtio-ports && for p in /sys/class/virtio-ports/*; do "
                   "ln -sf /dev/${p##*/} /dev/virtio-ports/$(cat $p/name); done")
        self.process = host.start(f"LD_LIBRARY_PATH={TOOLS}/lib exec {command} {firmware}")
        while not select.select([self._monitor], [], [], 1)[0]:
            if self.process.status is not None:
                raise GuestError(f"QEMU ended at once, with {self.process.status}:\n{self.output()}")
        self.qmp = Qmp(None, PATIENCE, self._monitor)

    @staticmethod
    def _connect(host, wire):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"{host.directory}/wire{wire}")
        return connection

    def receive(self):
        try:
            return self.agent.recv(65536)
        except OSError:
            return b""

    def output(self):
        return self.process.output

    def stop(self):
        if self.process.status is None and not self._host.failure:
            self.process.kill()
            self.process.wait(PATIENCE)
        # The wires' other end, the host's QEMU, goes on: whoever waits for more from it would for ever, and the next
        # QEMU could not have them.
        for wire in (self.agent, self._monitor):
            wire.shutdown(socket.SHUT_RDWR)
            wire.close()


class NestedGuest(Guest):
    """A guest in a host, which is a Guest too and has been prepared. It has no device that can be plugged yet.

    wires: the first of each pair of wires that its QEMUs use, in turn.
    """

    def __init__(self, host, name, directory, _image, arguments, wires=(0,), **options):
        self.host = host
        self._wires = itertools.cycle(wires)
        super().__init__(name, directory, IMAGE, arguments, **MACHINE, **options)

    def start_qemu(self, arguments=None, extra=()):
        if self.qemu is None:
            extra = [*extra, "-incoming", f"file:{SAVED}"]
        return NestedQemu(self.host, next(self._wires), self.directory,
                          [*self._machine, *(self._arguments if arguments is None else arguments), *extra],
                          self._prefix)

    def _watch(self, qemu):
        try:
            status = qemu.process.wait(timeout=1e6).status
        except GuestError as error:
            status = str(error)
        if qemu is self.qemu and not qemu.may_end:
            self._fail(f"QEMU ended with {status}: {qemu.output()}")

    def wait_ready(self):
        if self._ready.is_set():
            return
        try:
            self.qmp.wait_event("RESUME")
        except (EOFError, OSError) as error:
            raise GuestError(f"{self.name} did not start: {self.failure}\n{self.qemu.output()}") from error
        self._ready.set()

    def run(self, command, timeout=PATIENCE):
        return super().run(command, timeout)

    def check(self, command, timeout=PATIENCE):
        return super().check(command, timeout)

    def kernel_log(self):
        return self.host.run(f"cat {self.serial_log}").output

    def kernel_trouble(self):
        pathlib.Path(self.serial_log).write_text(self.kernel_log())
        return super().kernel_trouble()
