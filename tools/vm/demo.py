# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures pairs of guests and prints what it found.

usage: python3 -m vm.demo IMAGE DEVICE

DEVICE: pvrdma or virtio-rdma.
"""
import json
import re
import sys
import tempfile
import time

from .fabric import MTU, Fabric, run_pair

PERFTEST_PORT = 18515
IPERF_PORT = 5201

# name, command, unit, whether more is better
MEASUREMENTS = [
    ("64 KiB write bandwidth", "ib_write_bw -s 65536 -n 500", "MB/s", True),
    ("64 KiB read bandwidth", "ib_read_bw -s 65536 -n 500", "MB/s", True),
    ("64 KiB send bandwidth", "ib_send_bw -s 65536 -n 500", "MB/s", True),
    ("8 B write latency", "ib_write_lat -s 8 -n 1000", "us", False),
    ("8 B send latency", "ib_send_lat -s 8 -n 1000", "us", False),
]
# Column of perftest's last line: average bandwidth (MiB/s), typical latency (us).
BANDWIDTH_COLUMN = 3
LATENCY_COLUMN = 4
MIB = 1048576 / 1e6  # perftest's MB is a MiB; the table has 10^6 bytes


def say(start, text):
    print(f"[{time.monotonic() - start:3.0f}s] {text}", file=sys.stderr, flush=True)


def perftest(fabric, command, is_bandwidth):
    server, client = fabric.nodes
    results = run_pair(
        server, client,
        f"{command} -F -d {server.device} -x {server.gid_index(server.ipv4)}",
        f"{command} -F -d {client.device} -x {client.gid_index(client.ipv4)} {server.ipv4}",
        PERFTEST_PORT, timeout=300)
    for result in results:
        if result.status != 0:
            raise SystemExit(f"{command} failed:\n{result.output}")
    rows = [line.split() for line in results[1].output.splitlines()
            if re.match(r"\s*\d+\s+\d+\s+[\d.]", line)]
    if is_bandwidth:
        return float(rows[-1][BANDWIDTH_COLUMN]) * MIB
    return float(rows[-1][LATENCY_COLUMN])


def iperf(fabric):
    server, client = fabric.nodes
    results = run_pair(server, client, "iperf3 -s -1", f"iperf3 -J -t 5 -c {server.ipv4}",
                       IPERF_PORT)
    return json.loads(results[1].output)["end"]["sum_received"]["bits_per_second"] / 8e6


def measure(kind, image, start, steps):
    say(start, f"booting two {kind} guests")
    with tempfile.TemporaryDirectory(prefix="rdma-", ignore_cleanup_errors=True) as directory:
        fabric = Fabric((kind, kind), directory, image)
        try:
            values = []
            for name, command, _, is_bandwidth in MEASUREMENTS:
                say(start, f"{next(steps)}: {kind}: {command}")
                values.append(perftest(fabric, command, is_bandwidth))
            tcp = None
            if kind == "rxe":
                say(start, f"{next(steps)}: TCP over virtio-net: iperf3 -t 5")
                tcp = iperf(fabric)
            return values, tcp
        finally:
            fabric.stop()


def main(image, device):
    start = time.monotonic()
    total = 2 * len(MEASUREMENTS) + 1
    steps = (f"measurement {n} of {total}" for n in range(1, total + 1))
    own, _ = measure(device, image, start, steps)
    rxe, tcp = measure("rxe", image, start, steps)
    rows = [("measured here, MTU " + str(MTU), device, "rxe over virtio-net", f"{device} is")]
    for (name, _, unit, more), ours, theirs in zip(MEASUREMENTS, own, rxe):
        ratio = ours / theirs if more else theirs / ours
        rows.append((name, f"{ours:.1f} {unit}", f"{theirs:.1f} {unit}",
                     f"{ratio:.1f} times {'as fast' if more else 'as quick'}"))
    rows.append(("TCP over virtio-net (iperf3)", "", f"{tcp:.1f} MB/s",
                 f"{own[0] / tcp:.1f} times as fast (write)"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")


main(*sys.argv[1:])
