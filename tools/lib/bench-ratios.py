#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the benchmarks of two builds in turn and prints the ratios of their speeds.

usage: bench-ratios.py BEFORE AFTER [ARGUMENT]...

BEFORE and AFTER are benchmark programs; ARGUMENT... goes to both. A figure is the median of the
CPU times of all rounds, the speed of AFTER is given as a multiple of BEFORE's: 1.10 is 10 % faster.
Benchmarks that only one of them has are named.
"""
import json
import os
import statistics
import subprocess
import sys

ROUNDS = 7
NANOSECONDS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}


def measure(program, arguments):
    """The CPU time of each benchmark, in ns."""
    run = subprocess.run([program, "--benchmark_min_time=0.2", "--benchmark_format=json", *arguments],
                         check=True, stdout=subprocess.PIPE, text=True)
    times = {}
    for entry in json.loads(run.stdout or '{"benchmarks": []}')["benchmarks"]:
        if entry.get("error_occurred"):
            raise SystemExit(f"{program}: {entry['name']}: {entry['error_message']}")
        if entry["run_type"] == "iteration":
            times[entry["name"]] = entry["cpu_time"] * NANOSECONDS[entry["time_unit"]]
    return times


def main(before, after, *arguments):
    # Both on one CPU, so that none has the better one.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    times = {before: {}, after: {}}
    for number in range(1, ROUNDS + 1):
        print(f"round {number} of {ROUNDS}", file=sys.stderr, flush=True)
        for program in (before, after) if number % 2 else (after, before):
            for name, time in measure(program, arguments).items():
                times[program].setdefault(name, []).append(time)
    both = [name for name in times[before] if name in times[after]]
    if not both:
        raise SystemExit("the two have no benchmark in common")
    width = max(len("benchmark"), *map(len, both))
    print(f"| {'benchmark':{width}} | before, ns   | after, ns    | speed |")
    print(f"| {'-' * width} | ------------ | ------------ | ----- |")
    for name in both:
        old, new = (statistics.median(times[program][name]) for program in (before, after))
        print(f"| {name:{width}} | {old:12.1f} | {new:12.1f} | {old / new:5.2f} |")
    for program, other, which in ((before, after, "before"), (after, before, "after")):
        for name in times[program].keys() - times[other].keys():
            print(f"only {which}: {name}")


main(*sys.argv[1:])
