# SPDX-License-Identifier: GPL-2.0-or-later
"""What a migration costs; not part of the tests.

    tools/test system tests/system/migration_figures.py -s

prints a table for docs/migration.md. Each line is the median of MIGRATIONS migrations of a guest back
and forth; "saving" and "loading" are the device's share of the downtime as QEMU traces it.
"""
import contextlib
import os
import re
import statistics

from streams import Stream
from vm.fabric import Fabric
from vm.switch import Switch

MIGRATIONS = 5
STREAMS = ["--qps 1 --depth 16 --max-size 4096", "--qps 100 --depth 8 --max-size 4096",
           "--qps 1000 --depth 2 --max-size 1024"]
SHARE = re.compile(r"vmstate_downtime_(save|load) type=\S+ idstr=\S+/pvrdma instance_id=0 downtime=(\d+)")
HEADER = ("guest", "QEMU's downtime, ms", "saving, ms", "loading, ms", "gap at the peer, ms")


@contextlib.contextmanager
def pair(kinds, tmp_path_factory, image, payload):
    """Two guests, of which the first can migrate."""
    directory = tmp_path_factory.mktemp("figures")
    switch = Switch(os.environ["RDMA_SWITCH"], directory, 3)
    fabric = Fabric(kinds, directory, image, payload=payload,
                    each=[{"netdev": switch.netdev(0), "spare": switch.netdev(1)},
                          {"netdev": switch.netdev(2)}])
    try:
        yield fabric.nodes
    finally:
        fabric.stop()
        switch.stop()


def trace(qmp):
    qmp.command("trace-event-set-state", name="vmstate_downtime_*", enable=True)


def measure(name, node, stream=None):
    """Migrates a node; returns a line of the table."""
    downtimes, gaps, shares = [], [], {"save": [], "load": []}
    for _ in range(MIGRATIONS):
        migration = node.migration()
        log_size = len(node.guest.qemu_log.read_text(errors="replace"))
        trace(migration.source.qmp)
        trace(migration.destination.qmp)
        reports = stream.num_reports() if stream else None
        downtimes.append(migration.run()["downtime"])
        log = node.guest.qemu_log.read_text(errors="replace")[log_size:]
        for direction, microseconds in SHARE.findall(log):
            shares[direction].append(int(microseconds) / 1000)
        if stream:
            stream.expect_progress()
            gaps.append(stream.longest_gaps(reports)[1])
    return (name, f"{statistics.median(downtimes):.0f}",
            *(f"{statistics.median(share):.2f}" if share else "" for share in shares.values()),
            f"{statistics.median(gaps):.0f}" if gaps else "")


def test_figures(tmp_path_factory, image, payload):
    rows = [HEADER]
    with pair(("pvrdma", "pvrdma"), tmp_path_factory, image, payload) as nodes:
        for options in STREAMS:
            stream = Stream(*nodes, options)
            rows.append(measure(f"busy, {options}", nodes[0], stream))
            for node in nodes:
                node.guest.check("kill -STOP $(pidof rdma-verify)")
            rows.append(measure(f"idle, {options}", nodes[0]))
            for node in nodes:
                node.guest.check("kill -CONT $(pidof rdma-verify)")
            stream.end()
        rows.append(measure("no QPs", nodes[0]))
    with pair(("vmxnet3", "pvrdma"), tmp_path_factory, image, payload) as nodes:
        rows.append(measure("without the device", nodes[0]))
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    rows.insert(1, tuple("-" * width for width in widths))
    print()
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
