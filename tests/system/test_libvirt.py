# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain that virsh migrates between two libvirt daemons of one machine."""
import functools
import json
import os
import subprocess

import pytest

from verifying import Stream
from test_migration import DENSE, identity
from test_sandbox import FILTERED, seccomp_mode
from vm.fabric import Fabric
from vm.libvirt import EXAMPLE, Daemon, DomainGuest, emulator
from vm.switch import Switch


@pytest.fixture(scope="module")
def daemons(tmp_path_factory):
    """Two daemons with their own sockets, state and host UUIDs."""
    running = []
    try:
        for name in ("a", "b"):
            running.append(Daemon(tmp_path_factory.mktemp("libvirt") / name))
        yield running
    finally:
        for daemon in running:
            daemon.stop()


@pytest.fixture(scope="module")
def fabric(tmp_path_factory, image, payload, daemons):
    """A domain of the first daemon and a guest as they always are, at one switch."""
    directory = tmp_path_factory.mktemp("domain")
    switch = Switch(os.environ["RDMA_SWITCH"], directory, 3)
    pair = Fabric(("pvrdma", "pvrdma"), directory, image, payload=payload,
                  each=[{"netdev": switch.netdev(0), "spare": switch.netdev(1),
                         "make_guest": functools.partial(DomainGuest, daemons[0])},
                        {"netdev": switch.netdev(2)}])
    yield pair
    pair.stop()
    switch.stop()


def test_a_domain_has_a_sandbox(daemons, fabric):
    """libvirt's default."""
    assert seccomp_mode(daemons[0].pid_of_domain()) == FILTERED


def test_virsh_migrate(fabric, daemons):
    """To the other daemon and back, peer to peer, under verified traffic."""
    node = fabric.nodes[0]
    stream = Stream(*fabric.nodes, DENSE)
    before = identity(node)
    for daemon in (daemons[1], daemons[0]):
        node.guest.virsh_migrate(daemon, node.arguments(node.spare))
        node.swap_places()
        assert daemon.virsh("list", "--name").split() == ["rdma"]
        stream.expect_progress()
        assert identity(node) == before
    stream.end()


def test_virsh_save_and_restore(fabric, tmp_path):
    """A guest wakes in another QEMU with what it had, and its device works."""
    node = fabric.nodes[0]
    before = identity(node)
    node.guest.virsh_save_and_restore(tmp_path / "saved", node.arguments(node.spare))
    node.swap_places()
    assert identity(node) == before
    stream = Stream(*fabric.nodes, DENSE)
    stream.end()


def test_example(daemons, tmp_path):
    """The domain in the documentation starts, with the device in the card's slot."""
    disk = tmp_path / "disk.qcow2"
    subprocess.run([emulator().with_name("qemu-img"), "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    firmware = "".join(f"<qemu:arg value='{word}'/>" for word in os.environ["RDMA_QEMU_FIRMWARE"].split())
    text = EXAMPLE.read_text()
    # What this machine has in place of what the example names.
    for ours, theirs in [
            ("type='kvm'", "type='qemu'"),
            ("/usr/local/bin/qemu-system-x86_64", str(emulator())),
            ("/var/lib/libvirt/images/rdma.qcow2", str(disk)),
            ("<interface type='bridge'>", "<interface type='udp'>"),
            ("<source bridge='br0'/>",
             "<source address='127.0.0.1' port='0'><local address='127.0.0.1' port='0'/></source>"),
            ("<qemu:commandline>", f"<qemu:commandline>{firmware}")]:
        assert ours in text
        text = text.replace(ours, theirs)
    description = tmp_path / "domain.xml"
    description.write_text(text)
    daemons[1].virsh("create", "--validate", "--paused", str(description))
    try:
        answer = json.loads(daemons[1].virsh("qemu-monitor-command", "rdma", json.dumps({
            "execute": "qom-get", "arguments": {"path": "/machine/peripheral/rdma0", "property": "stats"}})))
        assert answer["return"]["rx-packets"] == 0
    finally:
        daemons[1].virsh("destroy", "rdma")
