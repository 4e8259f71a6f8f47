# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that move between a QEMU with the module and one with the device built in.

QEMU_RDMA_QEMU: the command of the first; QEMU_RDMA_BUILT_IN: of the second.
"""
import os
import pathlib
import shlex

import pytest

import vm.qemu
from test_migration import identity
from pairs import DEVICES
from verifying import Stream
from vm.fabric import Fabric
from vm.switch import Switch

MODULE, BUILT_IN = (shlex.split(os.environ[name]) for name in ("QEMU_RDMA_QEMU", "QEMU_RDMA_BUILT_IN"))


@pytest.fixture(params=DEVICES)
def fabric(request, tmp_path):
    switch = Switch(os.environ["RDMA_SWITCH"], tmp_path, 4)
    pair = Fabric((request.param, request.param), tmp_path, pathlib.Path(os.environ["RDMA_GUEST_IMAGE"]),
                  payload=os.environ["RDMA_GUEST_PAYLOAD"],
                  each=[{"netdev": switch.netdev(n), "spare": switch.netdev(n + 1)} for n in (0, 2)])
    yield pair
    pair.stop()
    switch.stop()


def is_the_module_there(guest):
    return "/qemu/qemu-rdma-" in pathlib.Path(f"/proc/{guest.process.pid}/maps").read_text()


def test_guests_migrate_between_module_and_built_in_device(fabric, monkeypatch):
    """Each of two guests, there and back twice, under verified traffic between them."""
    stream = Stream(*fabric.nodes, "--qps 16 --depth 16 --max-size 2048")
    before = [identity(node) for node in fabric.nodes]
    for command in (BUILT_IN, MODULE) * 2:
        monkeypatch.setattr(vm.qemu, "QEMU", command)
        for node, expected in zip(fabric.nodes, before):
            assert is_the_module_there(node.guest) == (command is BUILT_IN)
            node.migrate()
            assert is_the_module_there(node.guest) == (command is MODULE)
            stream.expect_progress()
            assert identity(node) == expected
    stream.end()
