# SPDX-License-Identifier: GPL-2.0-or-later
"""What a part of the tree may include of the others: hw -> backend -> core, migration (docs/architecture.md)."""
import pathlib
import re

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
MAY_USE = {
    "core": {"core"},
    "migration": {"migration"},
    "backend": {"backend", "core", "migration"},
    "hw": {"hw", "backend", "core", "migration"},
}


def sources(folder):
    return [path for suffix in ("h", "cc", "c") for path in sorted((TOP / folder).rglob(f"*.{suffix}"))]


def included(folder):
    """Pairs of a source and a header of ours that it includes."""
    headers = {}
    for room in MAY_USE:
        for path in sources(room):
            headers.setdefault(path.name, []).append(path)
    for path in sources(folder):
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
            beside = path.parent / name
            found = [beside] if beside.exists() else headers.get(pathlib.PurePath(name).name, [])
            yield from ((path, header) for header in found)


def uses(folder, is_wrong):
    return [f"{path.relative_to(TOP)} includes {header.relative_to(TOP)}"
            for path, header in included(folder) if is_wrong(header.relative_to(TOP))]


@pytest.mark.parametrize("room", MAY_USE)
def test_a_room_includes_nothing_of_those_above_it(room):
    assert list(included(room))
    assert uses(room, lambda header: header.parts[0] not in MAY_USE[room]) == []


@pytest.mark.parametrize("backend, other", [("roce", "verbs"), ("verbs", "roce")])
def test_backends_do_not_know_each_other(backend, other):
    assert uses(f"backend/{backend}", lambda header: header.parts[1] == other) == []


def test_what_is_common_to_devices_knows_none_of_them():
    devices = {("hw", "pvrdma"), ("hw", "virtio-rdma")}
    assert uses("hw/common", lambda header: header.parts[:2] in devices) == []


@pytest.mark.parametrize("device, other", [("pvrdma", "virtio-rdma"), ("virtio-rdma", "pvrdma")])
def test_devices_do_not_know_each_other(device, other):
    assert uses(f"hw/{device}", lambda header: header.parts[:2] == ("hw", other)) == []
