# SPDX-License-Identifier: GPL-2.0-or-later
"""One QEMU process: its monitor and its end of the guest agent's connection."""
import os
import pathlib
import shlex
import signal
import socket
import subprocess

from .qmp import Qmp

TOP = pathlib.Path(__file__).resolve().parents[2]
# The command, without arguments: ours, or another one with the device as a module.
QEMU = shlex.split(os.environ.get("QEMU_RDMA_QEMU", "")) or [str(TOP / "tools" / "qemu-system-x86_64")]
START_TIMEOUT = 180  # seconds; it may have to be built first


class QemuError(Exception):
    """QEMU has not started."""


class Qemu:
    """Starts QEMU; returns once it answers.

    name: of its sockets in directory. log: a file that its output is added to. command: what goes
    before QEMU's arguments; arguments without monitor and agent's chardev ("agent").
    """

    def __init__(self, name, directory, log, arguments, prefix=()):
        self.log = pathlib.Path(log)
        self.may_end = False  # while its guest runs in it: libvirt moves the guest away
        agent_path, qmp_path = (pathlib.Path(directory) / f"{name}.{what}" for what in ("agent", "qmp"))
        for path in (agent_path, qmp_path):
            path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(agent_path))
        listener.listen(1)
        self.process = self._launch(
            ["-nodefaults", "-nographic", "-qmp", f"unix:{qmp_path},server=on,wait=off",
             "-chardev", f"socket,id=agent,path={agent_path}", *arguments], prefix)
        try:
            self.agent = self._accept(listener)
            self.qmp = Qmp(str(qmp_path))
        except BaseException:
            self.stop()
            raise
        finally:
            listener.close()

    def _launch(self, arguments, prefix):
        return self._run([*prefix, *QEMU, *arguments])

    def _run(self, command):
        with open(self.log, "ab") as output:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output,
                                    stderr=subprocess.STDOUT)

    def _accept(self, listener):
        listener.settimeout(1)
        for _ in range(START_TIMEOUT):
            try:
                agent, _ = listener.accept()
                agent.settimeout(None)
                return agent
            except TimeoutError:
                if self.process.poll() is not None:
                    break
        raise QemuError(f"QEMU ended at once, with {self.process.poll()}:\n{self.output()}")

    def receive(self):
        """Bytes from the guest's agent; none at QEMU's end."""
        try:
            return self.agent.recv(65536)
        except ConnectionError:
            return b""

    def output(self):
        """What it and those before it with the same log have printed."""
        return self.log.read_text(errors="replace")

    def stop(self):
        """Ends it at once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
