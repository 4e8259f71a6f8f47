# SPDX-License-Identifier: GPL-2.0-or-later
"""What a migration costs; not part of the tests.

    tools/test system tests/system/migration_figures.py -s

prints a table for docs/migration.md. Each line is the median of MIGRATIONS migrations of a guest back
and forth; "saving" and "loading" are what QEMU traces for the device. Saving waits for a destination that is still
at the devices before, so the two overlap; "added" is from when the source has saved and the destination has loaded
the device before (what comes last) until the destination has loaded this one. "first sent" and "first answer" are
when the guest's first RoCEv2 frame comes to the switch and when the next one for it does, after the destination's
RESUME event.
"""
import contextlib
import os
import re
import statistics
import struct

import pytest

from verifying import Scale, Stream
from vm.fabric import Fabric
from vm.switch import Switch

pytestmark = pytest.mark.timeout(3600)  # it measures again and again

MIGRATIONS = 5
STREAMS = ["--qps 1 --depth 16 --max-size 4096", "--qps 100 --depth 8 --max-size 4096",
           "--qps 1000 --depth 2 --max-size 1024"]
CONNECTIONS = 10000
RAM = "2G"
SHARE = re.compile(r"@(\d+\.\d+):vmstate_downtime_(save|load) type=\S+ idstr=(\S+) instance_id=\d+ downtime=(\d+)")
DEVICE = re.compile(r"\S+/pvrdma")
HEADER = ("guest", "QEMU's downtime, ms", "saving, ms", "loading, ms", "added, ms", "gap at the peer, ms",
          "first sent, ms", "first answer, ms")


@contextlib.contextmanager
def pair(kinds, tmp_path_factory, image, payload):
    """Two guests, of which the first can migrate."""
    directory = tmp_path_factory.mktemp("figures")
    switch = Switch(os.environ["RDMA_SWITCH"], directory, 3)
    fabric = Fabric(kinds, directory, image, payload=payload, memory=RAM,
                    arguments=("-msg", "timestamp=on"),
                    each=[{"netdev": switch.netdev(0), "spare": switch.netdev(1)},
                          {"netdev": switch.netdev(2)}])
    try:
        fabric.switch = switch
        yield fabric
    finally:
        fabric.stop()
        switch.stop()


def trace(qmp):
    qmp.command("trace-event-set-state", name="vmstate_downtime_*", enable=True)


def device_shares(log):
    """Milliseconds of saving, loading and of what they add to the downtime; nothing without the device."""
    traced = {"save": [], "load": []}
    for time, direction, name, microseconds in SHARE.findall(log):
        traced[direction].append((float(time) * 1000, DEVICE.fullmatch(name), int(microseconds) / 1000))
    places = {direction: next((i for i, (_, is_device, _) in enumerate(entries) if is_device), None)
              for direction, entries in traced.items()}
    if None in places.values():
        return None
    begin = max(traced[direction][place - 1][0] for direction, place in places.items())
    return (*(traced[direction][place][2] for direction, place in places.items()),
            traced["load"][places["load"]][0] - begin)


def roce_frames(path, mac):
    """(microseconds, whether it is the guest's own) of each RoCEv2 frame over IPv4 in a capture."""
    data = path.read_bytes()
    at = 24
    while at + 16 <= len(data):
        seconds, microseconds, size, _ = struct.unpack_from("<IIII", data, at)
        frame = data[at + 16:at + 16 + size]
        at += 16 + size
        if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[36:38] == (4791).to_bytes(2, "big"):
            yield seconds * 1000000 + microseconds, frame[6:12] == mac


def first_frames(capture, node, started):
    """Milliseconds from the start to the first frame of the guest, and to the next one for it."""
    mac = bytes.fromhex(node.devices[1]["mac"].replace(":", ""))
    sent = None
    for time, is_own in roce_frames(capture, mac):
        if time >= started and is_own and sent is None:
            sent = time
        elif sent is not None and not is_own:
            return (sent - started) / 1000, (time - started) / 1000
    raise AssertionError("no traffic in the capture after the start")


def measure(name, fabric, stream=None):
    """Migrates the first node; returns a line of the table."""
    node = fabric.nodes[0]
    downtimes, gaps, shares, firsts = [], [], [], []
    capture = node.guest.directory / "migration.pcap"
    for _ in range(MIGRATIONS):
        migration = node.migration()
        log_size = len(node.guest.qemu_log.read_text(errors="replace"))
        trace(migration.source.qmp)
        trace(migration.destination.qmp)
        reports = stream.num_reports() if stream else None
        fabric.switch.capture(capture if stream else "")
        downtimes.append(migration.run()["downtime"])
        log = node.guest.qemu_log.read_text(errors="replace")[log_size:]
        if device := device_shares(log):
            shares.append(device)
        if stream:
            stream.expect_progress()
            gaps.append(stream.longest_gaps(reports)[1])
            fabric.switch.capture()
            started = migration.resumed["timestamp"]
            firsts.append(first_frames(capture, node, started["seconds"] * 1000000 + started["microseconds"]))
    return (name, f"{statistics.median(downtimes):.0f}",
            *([f"{statistics.median(times):.1f}" for times in zip(*shares)] or ("", "", "")),
            f"{statistics.median(gaps):.0f}" if gaps else "",
            *([f"{statistics.median(times):.1f}" for times in zip(*firsts)] or ("", "")))


def test_figures(tmp_path_factory, image, payload):
    rows = [HEADER]
    with pair(("pvrdma", "pvrdma"), tmp_path_factory, image, payload) as fabric:
        nodes = fabric.nodes
        for options in STREAMS:
            stream = Stream(*nodes, options)
            rows.append(measure(f"busy, {options}", fabric, stream))
            for node in nodes:
                node.guest.check("kill -STOP $(pidof rdma-verify)")
            rows.append(measure(f"idle, {options}", fabric))
            for node in nodes:
                node.guest.check("kill -CONT $(pidof rdma-verify)")
            stream.end()
        rows.append(measure("no QPs", fabric))
        many = Scale(fabric, f"--connections {CONNECTIONS}")
        many.wait_held("holding")
        rows.append(measure(f"idle, {CONNECTIONS} QPs", fabric))
        many.go_on()
        many.end()
    with pair(("vmxnet3", "pvrdma"), tmp_path_factory, image, payload) as fabric:
        rows.append(measure("without the device", fabric))
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    rows.insert(1, tuple("-" * width for width in widths))
    print()
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
