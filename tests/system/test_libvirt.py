# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain that virsh migrates between two libvirt daemons of one machine."""
import functools
import os

import pytest

from streams import Stream
from test_migration import DENSE, identity
from vm.fabric import Fabric
from vm.libvirt import Daemon, DomainGuest
from vm.qemu import TOP
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


@pytest.fixture
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


def test_example(daemons):
    """The domain in the documentation is one that libvirt takes, with the device in the card's slot."""
    words = daemons[0].virsh("domxml-to-native", "qemu-argv", str(TOP / "docs" / "libvirt-domain.xml"))
    assert '"driver":"vmxnet3"' in words and '"multifunction":true,"addr":"0x10"' in words, words
    assert "-device pvrdma,id=rdma0,addr=10.1" in words, words
