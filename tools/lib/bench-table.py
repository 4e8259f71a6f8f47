#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the benchmarks and their peers, and prints tables with ratios.

usage: bench-table.py DEVICE_BENCH

Ours: two devices in one thread, CPU time of both ends. UCX: ucx_perftest over TCP on the loopback
interface and over shared memory, two processes, each with a CPU to itself if there are two.
"""
import json
import os
import re
import socket
import subprocess
import sys

REPETITIONS = 5
UCX = {"UCX over TCP": "tcp", "UCX over shared memory": "posix"}
# What a peer measures, by UCX's name of it; iterations that take about a second.
UCX_TESTS = {
    "Write/4096/64": ("ucp_put_bw", 4096, 200000), "Write/65536/64": ("ucp_put_bw", 65536, 20000),
    "Read/4096/64": ("ucp_get", 4096, 20000), "Read/65536/64": ("ucp_get", 65536, 20000),
    "Send/4096/64": ("tag_bw", 4096, 200000), "Send/65536/64": ("tag_bw", 65536, 20000),
    "MessageRate/8/64": ("ucp_put_bw", 8, 1000000),
}
ROWS = [
    ("4 KiB write", "Write/4096/64", "Memcpy/4096/64"),
    ("64 KiB write", "Write/65536/64", "Memcpy/65536/64"),
    ("64 KiB write, 4 MiB used", "Write/65536/4096", "Memcpy/65536/4096"),
    ("4 KiB read", "Read/4096/64", "Memcpy/4096/64"),
    ("64 KiB read", "Read/65536/64", "Memcpy/65536/64"),
    ("64 KiB read, 4 MiB used", "Read/65536/4096", "Memcpy/65536/4096"),
    ("4 KiB send", "Send/4096/64", "Memcpy/4096/64"),
    ("64 KiB send", "Send/65536/64", "Memcpy/65536/64"),
    ("64 KiB send, 4 MiB used", "Send/65536/4096", "Memcpy/65536/4096"),
]


def say(text):
    print(text, file=sys.stderr, flush=True)


def ours(program):
    """The medians of all benchmarks, by name."""
    run = subprocess.run(
        [program, f"--benchmark_repetitions={REPETITIONS}", "--benchmark_report_aggregates_only=true",
         "--benchmark_enable_random_interleaving=true", "--benchmark_min_time=0.2",
         "--benchmark_format=json"],
        check=True, stdout=subprocess.PIPE, text=True)
    results = {}
    for entry in json.loads(run.stdout)["benchmarks"]:
        if entry.get("error_occurred"):
            raise SystemExit(f"{entry['name']}: {entry['error_message']}")
        if entry["aggregate_name"] == "median":
            results[entry["run_name"]] = entry
    return results


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def ucx(transport, test, size, iterations):
    """What ucx_perftest says: typical latency (us), bandwidth (10^6 bytes/s), messages/s."""
    environment = {**os.environ, "UCX_TLS": f"{transport},self", "UCX_NET_DEVICES": "lo",
                   "UCX_LOG_LEVEL": "error"}
    if transport != "tcp":
        del environment["UCX_NET_DEVICES"]
    port = free_port()
    server = subprocess.Popen(["ucx_perftest", "-p", port], env=environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:  # until the server listens
            client = subprocess.run(
                ["ucx_perftest", "127.0.0.1", "-p", port, "-t", test, "-s", str(size), "-n",
                 str(iterations), "-w", str(iterations // 20)],
                env=environment, capture_output=True, text=True, timeout=120)
            if "onnection refused" not in client.stdout + client.stderr:
                break
    finally:
        server.terminate()
        server.wait()
    final = re.search(r"^Final:\s+(.*)$", client.stdout, re.M)
    if not final:
        raise SystemExit(f"ucx_perftest {test} has failed:\n{client.stdout}{client.stderr}")
    _count, typical, _average, _overall, _bandwidth, bandwidth, _rate, rate = map(
        float, final[1].split())
    return typical, bandwidth * 1.048576, rate


def print_table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
    print()


def main(program):
    say("measuring the devices")
    results = ours(program)
    peers = {}
    for name, (test, size, iterations) in UCX_TESTS.items():
        for peer, transport in UCX.items():
            say(f"measuring {peer}: {test}, {size} bytes")
            peers[name, peer] = ucx(transport, test, size, iterations)
    latency = {peer: ucx(transport, "ucp_put_lat", 8, 200000)[0] for peer, transport in UCX.items()}

    def bandwidth(name):
        return results[name]["bytes_per_second"] / 1e6

    rows = [["bandwidth, MB/s", "ours", "memcpy", "ours/memcpy",
             *(cell for peer in UCX for cell in (peer, "ours/UCX"))]]
    for label, name, copy in ROWS:
        row = [label, f"{bandwidth(name):.0f}", f"{bandwidth(copy):.0f}",
               f"1/{bandwidth(copy) / bandwidth(name):.1f}"]
        for peer in UCX:
            if (name, peer) in peers:
                theirs = peers[name, peer][1]
                row += [f"{theirs:.0f}", f"{bandwidth(name) / theirs:.2f}"]
            else:
                row += ["", ""]
        rows.append(row)
    print_table(rows)

    rate = results["MessageRate/8/64"]["items_per_second"]
    time = results["WriteLatency/8/64"]["cpu_time"] / 1000
    rows = [["8 B writes", "ours", *(cell for peer in UCX for cell in (peer, "ours/UCX"))],
            ["million a second", f"{rate / 1e6:.2f}"],
            ["one at a time, us", f"{time:.2f}"]]
    for peer in UCX:
        theirs = peers["MessageRate/8/64", peer][2]
        rows[1] += [f"{theirs / 1e6:.2f}", f"{rate / theirs:.2f}"]
        rows[2] += [f"{latency[peer]:.2f}", f"{time / latency[peer]:.2f}"]
    print_table(rows)

    packet = results["Write/4096/64"]["cpu_time"] / 64
    crc = results["Crc/4096"]["cpu_time"]
    rows = [["pieces", "ns"],
            ["4 KiB write in all, one packet and its part of an acknowledgement", f"{packet:.0f}"],
            [f"of that CRC-32 at both ends: {2 * crc / packet * 100:.0f} %", f"{2 * crc:.0f}"]]
    rows += [[f"lookup of a memory region among {count}", f"{results[f'MrLookup/{count}']['cpu_time']:.1f}"]
             for count in (1, 1000, 262143)]
    print_table(rows)

    rows = [["objects", "creation and destruction, ns", "heap bytes of one"]]
    for label, name in [("RC QP, connected (64 + 64 requests)", "QueuePairs/30000"),
                        ("memory region of one page", "MemoryRegionsOfOnePage/100000"),
                        ("CQ (64 entries)", "CompletionQueues/4000"),
                        ("SRQ (64 requests)", "SharedReceiveQueues/4000"),
                        ("PD", "ProtectionDomains/30000")]:
        entry = results[name]
        rows.append([label, f"{1e9 / entry['items_per_second']:.0f}", f"{entry['bytes_each']:.0f}"])
    print_table(rows)


main(*sys.argv[1:])
