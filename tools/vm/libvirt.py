# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt daemons of one's own, several on one machine, and guests in them."""
import os
import pathlib
import select
import signal
import subprocess
import uuid
import xml.etree.ElementTree

from .guest import Guest, GuestError
from .qemu import TOP, Qemu

START_TIMEOUT = 60  # seconds
VIRSH_TIMEOUT = 300
EXAMPLE = TOP / "docs" / "libvirt-domain.xml"
DOMAIN = "rdma"  # its name
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"


class Daemon:
    """A session daemon with sockets, state and host UUID of its own."""

    def __init__(self, directory):
        self._directory = pathlib.Path(directory)
        # libvirtd takes all its paths from these, if it is not root.
        folders = {"XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache",
                   "XDG_DATA_HOME": "data", "HOME": "home"}
        for folder in folders.values():
            (self._directory / folder).mkdir(parents=True)
        config = self._directory / "libvirtd.conf"
        config.write_text(f'host_uuid = "{uuid.uuid4()}"\n')
        settings = self._directory / "config/libvirt/qemu.conf"
        settings.parent.mkdir()
        settings.write_text('stdio_handler = "file"\n')
        not_root = ["unshare", "--user", "--map-user=65534"] if os.geteuid() == 0 else []
        self._log = self._directory / "log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [*not_root, "libvirtd", "-f", str(config), "-p", str(self._directory / "pid")],
                env={**os.environ, **{name: str(self._directory / folder)
                                      for name, folder in folders.items()}},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.uri = f"qemu+unix:///session?socket={self._directory}/run/libvirt/libvirt-sock"
        self._wait_started()

    def _wait_started(self):
        for _ in range(START_TIMEOUT):
            if self._process.poll() is None and self.run("uri", timeout=START_TIMEOUT).returncode == 0:
                return
            try:
                self._process.wait(1)
                break
            except subprocess.TimeoutExpired:
                pass
        raise GuestError(f"libvirtd has not started:\n{self._log.read_text()}")

    def run(self, *words, timeout=300):
        """virsh, connected to this daemon."""
        return subprocess.run(["virsh", "-q", "-c", self.uri, *words], capture_output=True, text=True,
                              timeout=timeout)

    def virsh(self, *words):
        """virsh with a command that must succeed; returns its output."""
        result = self.run(*words)
        if result.returncode != 0:
            raise GuestError(f"virsh {' '.join(words)}: {result.stderr}\n{self.domain_logs()}")
        return result.stdout

    def domain_logs(self):
        """The ends of what the QEMUs have printed."""
        logs = sorted(self._directory.glob("cache/libvirt/qemu/log/*.log"))
        return "\n".join(log.read_text(errors="replace")[-3000:] for log in logs)

    def pid_of_domain(self):
        return int((self._directory / f"run/libvirt/qemu/run/{DOMAIN}.pid").read_text())

    def stop(self):
        self._process.terminate()
        self._process.wait(30)


class ForeignProcess:
    """A process that is not ours, as far as subprocess.Popen goes."""

    def __init__(self, pid):
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def wait(self, timeout=None):
        """Its exit status is not to be had."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired("QEMU", timeout)
        return 0

    def poll(self):
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number):
        signal.pidfd_send_signal(self._pidfd, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class DomainQemu(Qemu):
    """A QEMU that a libvirt daemon has started.

    source: the daemon that a domain comes from by migration, or the file that it was saved in; None:
    it starts from nothing.
    """

    def __init__(self, daemon, source, *arguments):
        self._daemon = daemon
        self._source = source
        super().__init__(*arguments)
        self._virsh = self.process
        self.process = ForeignProcess(daemon.pid_of_domain())

    def _launch(self, arguments, prefix):
        description = self.log.with_suffix(f".{id(self)}.xml")
        description.write_text(domain_xml(arguments))
        if self._source is None:
            return self._run(["virsh", "-c", self._daemon.uri, "create", str(description)])
        if not isinstance(self._source, Daemon):
            return self._run(["virsh", "-c", self._daemon.uri, "restore", str(self._source),
                              "--xml", str(description)])
        return self._run(["virsh", "-c", self._source.uri, "migrate", DOMAIN, "--live", "--p2p",
                          "--xml", str(description), self._daemon.uri])

    def wait_arrived(self):
        """Until virsh has ended well."""
        if self._virsh.wait(VIRSH_TIMEOUT) != 0:
            raise GuestError(self.output() + self._daemon.domain_logs())


def emulator():
    """QEMU itself: libvirt would run the script in tools/ with another home."""
    return pathlib.Path(os.environ["RDMA_QEMU_BUILD"]) / "qemu-system-x86_64"


def domain_xml(arguments):
    """The example with QEMU's arguments in place of its devices."""
    xml.etree.ElementTree.register_namespace("qemu", QEMU_NAMESPACE)
    domain = xml.etree.ElementTree.fromstring(EXAMPLE.read_text())
    domain.set("type", "qemu")
    devices = domain.find("devices")
    devices.find("emulator").text = str(emulator())
    for kind in ("disk", "serial", "interface"):
        devices.remove(devices.find(kind))
    command_line = domain.find(f"{{{QEMU_NAMESPACE}}}commandline")
    command_line.clear()
    for argument in [*os.environ["RDMA_QEMU_FIRMWARE"].split(), *arguments]:
        xml.etree.ElementTree.SubElement(command_line, f"{{{QEMU_NAMESPACE}}}arg", value=argument)
    return xml.etree.ElementTree.tostring(domain, encoding="unicode")


class DomainGuest(Guest):
    """A guest in a domain; daemon: where it runs."""

    def __init__(self, daemon, *arguments, **options):
        self.daemon = daemon
        super().__init__(*arguments, **options)

    def start_qemu(self, arguments=None, extra=(), source=None):
        self._started += 1
        return DomainQemu(self.daemon, source, f"{self.name}.{self._started}", self.directory,
                          self.qemu_log, [*self._machine, *(arguments or self._arguments), *extra])

    def virsh_migrate(self, daemon, arguments):
        """Has libvirt migrate it to another daemon, with other arguments for QEMU there."""
        source, self.daemon = self.daemon, daemon
        with self.silence():
            before = self.qemu
            before.may_end = True
            qemu = self.start_qemu(arguments, source=source)
            qemu.wait_arrived()
            self.adopt(qemu)
            before.process.wait(60)

    def virsh_save_and_restore(self, file, arguments):
        """Has libvirt save it, which ends its QEMU, and restore it in a new one, with other arguments."""
        with self.silence():
            before = self.qemu
            before.may_end = True
            self.daemon.virsh("save", DOMAIN, str(file))
            before.process.wait(60)
            qemu = self.start_qemu(arguments, source=file)
            qemu.wait_arrived()
            self.adopt(qemu)
