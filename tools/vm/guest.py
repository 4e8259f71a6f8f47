# SPDX-License-Identifier: GPL-2.0-or-later
"""One virtual machine: boot, run commands, watch its kernel, shut down."""
import collections
import contextlib
import json
import pathlib
import queue
import re
import threading
import time

from .qemu import Qemu

# What a healthy kernel never prints.
KERNEL_TROUBLE = re.compile(
    r"WARNING: CPU|BUG:|Oops|general protection fault|Kernel panic|INFO: task .* blocked|"
    r"rcu_(?:sched|preempt).*(?:stall|self-detected)|possible (?:circular|recursive) locking|"
    r"Call Trace:|UBSAN:|KASAN:")

# What a QEMU built with sanitizers prints of itself.
QEMU_TROUBLE = re.compile(r"ERROR: \w+Sanitizer|runtime error:")

BOOT_TIMEOUT = 180  # seconds; 6 are usual
READY = b'{"ready": true}'  # the agent's first line
LOST = -1  # status of a process whose guest has restarted

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
                    f" within {timeout} s; output so far:\n{self.end_of_output()}")

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
                             f"without {pattern!r}:\n{self.end_of_output()}")
        return found

    def wait_until(self, condition, timeout=60):
        """Until the condition holds for the output so far."""
        self._wait(lambda: condition(self.output) or self.status is not None, timeout, "progress")
        if not condition(self.output):
            raise GuestError(f"{self.guest.name}: {self.command!r} ended with {self.status}:\n{self.end_of_output()}")

    def end_of_output(self):
        """What it has printed last: all that a failure has room for."""
        return self.output[-4000:]

    def kill(self):
        self.guest._send({"id": self.number, "kill": True})


class Guest:
    """A VM.

    arguments: QEMU's, beside the ones every guest has. append: arguments for the kernel.
    reboot: whether the guest may restart; otherwise QEMU ends when it does. prefix: of QEMU's
    command. accel: QEMU's arguments for how the guest's instructions are carried out.
    """

    def __init__(self, name, directory, image, arguments, memory="1G", payload=None, machine="pc",
                 append="", reboot=False, prefix=(), accel=("-accel", "tcg,thread=multi")):
        self.name = name
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.serial_log = self.directory / f"{name}.serial"
        self.qemu_log = self.directory / f"{name}.qemu"
        self.failure = None
        self._processes = {}
        self._number = 0
        self._started = 0
        self._ready = threading.Event()
        self._lock = threading.RLock()
        self._qemus = queue.SimpleQueue()
        self._prefix = prefix
        self._machine = [
            "-machine", machine, *([] if reboot else ["-no-reboot"]),
            *accel, "-m", memory,
            "-kernel", f"{image}/vmlinuz", "-initrd", f"{image}/initramfs.img",
            "-append", f"console=ttyS0 quiet panic=-1 loglevel=5 no_timer_check mitigations=off "
            f"rcupdate.rcu_cpu_stall_suppress_at_boot=1 guest={self.name} {append}",
            "-chardev", f"file,id=serial,path={self.serial_log},append=on", "-serial", "chardev:serial",
            "-drive", f"if=virtio,format=raw,readonly=on,file={image}/root.squashfs",
            "-device", "virtio-serial-pci,max_ports=2",
            "-device", "virtserialport,chardev=agent,name=agent",
        ]
        if payload:
            self._machine += ["-drive", f"if=virtio,format=raw,readonly=on,file={payload}"]
        self._arguments = list(arguments)
        for log in (self.serial_log, self.qemu_log):
            log.unlink(missing_ok=True)
        self.qemu = None
        self.adopt(self.start_qemu())
        threading.Thread(target=self._receive, daemon=True).start()

    def start_qemu(self, arguments=None, extra=()):
        """Another QEMU with the guest's machine; arguments: None, the same as ever."""
        self._started += 1
        return Qemu(f"{self.name}.{self._started}", self.directory, self.qemu_log,
                    [*self._machine, *(self._arguments if arguments is None else arguments), *extra],
                    self._prefix)

    def adopt(self, qemu):
        """The guest runs in this QEMU from now on; the one before may end."""
        self.qemu = qemu
        threading.Thread(target=self._watch, args=(qemu,), daemon=True).start()
        self._qemus.put(qemu)

    @property
    def process(self):
        """QEMU's."""
        return self.qemu.process

    @property
    def qmp(self):
        return self.qemu.qmp

    def _watch(self, qemu):
        status = qemu.process.wait()
        if qemu is self.qemu and not qemu.may_end:
            self._fail(f"QEMU ended with {status}: {qemu.output()}")

    def _fail(self, reason):
        self.failure = self.failure or reason
        self._ready.set()
        for process in list(self._processes.values()):
            process._feed({})

    def _receive(self):
        pending = b""
        while True:
            # What a QEMU has sent before its end comes before what the next one sends.
            qemu = self._qemus.get()
            while chunk := qemu.receive():
                pending += chunk
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    self._take(line)

    def _take(self, line):
        # After a restart what the last line was to be is lost.
        message = json.loads(READY if line.endswith(READY) else line)
        if "ready" in message:
            self._lose_processes()
            self._ready.set()
        else:
            self._processes[message["id"]]._feed(message)

    def _lose_processes(self):
        for process in list(self._processes.values()):
            if process.status is None:
                process._feed({"status": LOST})

    def _send(self, message):
        with self._lock:
            self.qemu.agent.sendall(json.dumps(message).encode() + b"\n")

    @contextlib.contextmanager
    def silence(self):
        """Nothing is on its way to the guest's agent, and nothing is sent to it meanwhile."""
        with self._lock:
            self.check("true")
            yield

    def wait_ready(self):
        """Until the guest takes commands."""
        if not self._ready.wait(BOOT_TIMEOUT) or self.failure:
            raise GuestError(f"{self.name} did not boot: {self.failure}\n"
                             f"{self.serial_log.read_text(errors='replace')[-4000:]}")

    def restart(self, action):
        """Runs action, which makes the guest restart, and waits until it takes commands again.

        What ran in the guest ends with the status LOST.
        """
        self._ready.clear()
        action()
        self.wait_ready()

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

    def qemu_trouble(self):
        """Lines of QEMU's own output that should not be there."""
        log = self.qemu_log.read_text(errors="replace")
        return [line for line in log.splitlines() if QEMU_TROUBLE.search(line)]

    def wait_stats(self, condition, timeout=60, device="rdma0"):
        """Until the counters of a pvrdma device of the guest meet a condition; returns them."""
        end = time.monotonic() + timeout
        while not condition(stats := self.stats(device)):
            if time.monotonic() > end or self.failure:
                raise GuestError(f"{self.name}: {self.failure or 'counters still are'} {stats}")
        return stats

    def stats(self, device="rdma0"):
        """The counters of a pvrdma device of the guest."""
        return self.qmp.command("qom-get", path=f"/machine/peripheral/{device}", property="stats")

    def stop(self):
        """Ends the VM at once."""
        self.failure = self.failure or "stopped"
        self.qemu.stop()
