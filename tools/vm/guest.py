# SPDX-License-Identifier: GPL-2.0-or-later
"""One virtual machine: boot, run commands, watch its kernel, shut down."""
import collections
import json
import os
import pathlib
import queue
import re
import signal
import socket
import subprocess
import threading

from .qmp import Qmp

TOP = pathlib.Path(__file__).resolve().parents[2]
QEMU = TOP / "tools" / "qemu-system-x86_64"

# What a healthy kernel never prints.
KERNEL_TROUBLE = re.compile(
    r"WARNING: CPU|BUG:|Oops|general protection fault|Kernel panic|INFO: task .* blocked|"
    r"rcu_(?:sched|preempt).*(?:stall|self-detected)|possible (?:circular|recursive) locking|"
    r"Call Trace:|UBSAN:|KASAN:")

BOOT_TIMEOUT = 180  # seconds; 6 are usual

Result = collections.namedtuple("Result", "status output")


class GuestError(Exception):
    """A guest did not do what it was told."""


class Process:
    """A command running in a guest."""

    def __init__(self, guest, number, command):
        self.guest = guest
        self.number = number
        self.command = command
        self.output = ""
        self.status = None
        self._changed = threading.Condition()

    def _feed(self, message):
        with self._changed:
            self.output += message.get("out", "")
            self.status = message.get("status", self.status)
            self._changed.notify_all()

    def _wait(self, condition, timeout, what):
        with self._changed:
            if not self._changed.wait_for(
                    lambda: condition() or self.guest.failure, timeout) or self.guest.failure:
                raise GuestError(
                    f"{self.guest.name}: {self.command!r}: {self.guest.failure or 'no ' + what}"
                    f" within {timeout} s; output so far:\n{self.output}")

    def wait(self, timeout=60):
        """The command's exit status and output."""
        self._wait(lambda: self.status is not None, timeout, "end")
        return Result(self.status, self.output)

    def wait_output(self, pattern, timeout=60):
        """Until the output so far matches, or the command ends."""
        self._wait(lambda: re.search(pattern, self.output) or self.status is not None,
                   timeout, f"{pattern!r} in its output")
        found = re.search(pattern, self.output)
        if not found:
            raise GuestError(f"{self.guest.name}: {self.command!r} ended with {self.status} "
                             f"without {pattern!r}:\n{self.output}")
        return found

    def kill(self):
        self.guest._send({"id": self.number, "kill": True})


class Guest:
    """A VM. arguments: QEMU's, beside the ones every guest has."""

    def __init__(self, name, directory, image, arguments, memory="1G", payload=None):
        self.name = name
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.serial_log = self.directory / f"{name}.serial"
        self.qemu_log = self.directory / f"{name}.qemu"
        self.failure = None
        self._processes = {}
        self._number = 0
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._start(pathlib.Path(image), arguments, memory, payload)

    def _start(self, image, arguments, memory, payload):
        agent_path = str(self.directory / f"{self.name}.agent")
        qmp_path = str(self.directory / f"{self.name}.qmp")
        for path in (agent_path, qmp_path):
            pathlib.Path(path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(agent_path)
        listener.listen(1)
        listener.settimeout(BOOT_TIMEOUT)
        command = [
            str(QEMU), "-nodefaults", "-nographic", "-accel", "tcg,thread=multi", "-m", memory,
            "-cpu", "max", "-kernel", str(image / "vmlinuz"),
            "-initrd", str(image / "initramfs.img"),
            "-append", f"console=ttyS0 quiet no_timer_check panic=-1 loglevel=5 guest={self.name}",
            "-no-reboot", "-serial", f"file:{self.serial_log}",
            "-qmp", f"unix:{qmp_path},server=on,wait=off",
            "-drive", f"if=virtio,format=raw,readonly=on,file={image}/root.squashfs",
            "-device", "virtio-serial-pci,max_ports=2", "-chardev", f"socket,id=agent,path={agent_path}",
            "-device", "virtserialport,chardev=agent,name=agent",
        ]
        if payload:
            command += ["-drive", f"if=virtio,format=raw,readonly=on,file={payload}"]
        with open(self.qemu_log, "wb") as log:
            self.process = subprocess.Popen(command + list(arguments), stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=subprocess.STDOUT)
        threading.Thread(target=self._watch_qemu, daemon=True).start()
        while True:
            listener.settimeout(1)
            try:
                self._agent, _ = listener.accept()
                break
            except TimeoutError:
                if self.process.poll() is not None:
                    raise GuestError(f"{self.name}: QEMU ended at once:\n"
                                     f"{self.qemu_log.read_text()}") from None
        listener.close()
        self._agent.settimeout(None)
        self.qmp = Qmp(qmp_path)
        threading.Thread(target=self._receive, daemon=True).start()

    def _watch_qemu(self):
        status = self.process.wait()
        self._fail(f"QEMU ended with {status}: {self.qemu_log.read_text(errors='replace')}")

    def _fail(self, reason):
        self.failure = self.failure or reason
        self._ready.set()
        for process in list(self._processes.values()):
            process._feed({})

    def _receive(self):
        pending = b""
        while chunk := self._agent.recv(65536):
            pending += chunk
            *lines, pending = pending.split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "ready" in message:
                    self._ready.set()
                else:
                    self._processes[message["id"]]._feed(message)

    def _send(self, message):
        with self._lock:
            self._agent.sendall(json.dumps(message).encode() + b"\n")

    def wait_ready(self):
        """Until the guest takes commands."""
        if not self._ready.wait(BOOT_TIMEOUT) or self.failure:
            raise GuestError(f"{self.name} did not boot: {self.failure}\n"
                             f"{self.serial_log.read_text(errors='replace')[-4000:]}")

    def start(self, command):
        """Starts a shell command; returns its Process."""
        with self._lock:
            self._number += 1
            process = Process(self, self._number, command)
            self._processes[process.number] = process
        self._send({"id": process.number, "run": command})
        return process

    def run(self, command, timeout=60):
        """Runs a shell command to its end."""
        return self.start(command).wait(timeout)

    def check(self, command, timeout=60):
        """Runs a command that must succeed; returns its output."""
        result = self.run(command, timeout)
        if result.status != 0:
            raise GuestError(f"{self.name}: {command!r} ended with {result.status}:\n"
                             f"{result.output}")
        return result.output

    def wait_listening(self, port, timeout=60):
        """Until a TCP port is listened on."""
        self.check(f"until ss -Hltn 'sport = :{port}' | grep -q .; do :; done", timeout)

    def kernel_trouble(self):
        """Lines of the kernel's log that should not be there."""
        log = self.serial_log.read_text(errors="replace")
        return [line for line in log.splitlines() if KERNEL_TROUBLE.search(line)]

    def stats(self):
        """The counters of the guest's pvrdma device."""
        return self.qmp.command("qom-get", path="/machine/peripheral/rdma0", property="stats")

    def stop(self):
        """Ends the VM at once."""
        self.failure = self.failure or "stopped"
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
