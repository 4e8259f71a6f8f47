#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs GoogleTest programs, several at a time, each within a time limit.

For each run it leaves three files in the folder of reports, which count-tests.py judges:
NAME.expected, the tests that the program has; NAME.xml, GoogleTest's report; NAME.status, how
the program ended, its last word after the tests (a sanitizer's look for leaks) included.
"""
import argparse
import concurrent.futures
import os
import pathlib
import signal
import subprocess
import sys

LIST_LIMIT = 60  # seconds; a program that lists its tests runs none


def tests_of(program):
    """The full names of the tests that the program has and that are not disabled."""
    listing = subprocess.run([program, "--gtest_list_tests"], check=True, capture_output=True, text=True,
                             timeout=LIST_LIMIT, stdin=subprocess.DEVNULL).stdout
    suite, names = None, []
    for line in listing.splitlines():
        word = line.split("#")[0].strip()
        if line.startswith("  "):
            names.append(f"{suite}{word}")
        elif word.endswith("."):
            suite = word
    return [name for name in names if "DISABLED_" not in name]


def run(name, program, environment, reports, time_limit):
    """Runs the program and leaves how it ended; returns what it printed."""
    log = reports / f"{name}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [program, "--gtest_brief=1", f"--gtest_output=xml:{reports / name}.xml"],
            env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True)
        try:
            ended = str(process.wait(time_limit))
        except subprocess.TimeoutExpired:
            # Its children, too.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ended = f"hung: no end within {time_limit} s"
    (reports / f"{name}.status").write_text(ended + "\n")
    return log.read_text(errors="replace")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reports", type=pathlib.Path, required=True, help="where the files go")
    parser.add_argument("--prefix", default="", help="of the names of the files")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="programs at a time")
    parser.add_argument("--time-limit", type=int, default=900, help="seconds, for each program")
    parser.add_argument("programs", nargs="+", metavar="PROGRAM[:PARTS]",
                        help="PARTS: how many processes share its tests")
    arguments = parser.parse_args()

    runs = []
    for word in arguments.programs:
        program, _, parts = word.partition(":")
        name = arguments.prefix + pathlib.Path(program).name
        try:
            expected = tests_of(program)
        except (OSError, subprocess.SubprocessError) as error:
            # Judged as a program that did not end well.
            (arguments.reports / f"{name}.status").write_text(f"it does not list its tests: {error}\n")
            continue
        parts = int(parts or 1)
        for part in range(parts):
            # GoogleTest gives part i of n each nth test.
            label = name if parts == 1 else f"{name}-{part}"
            (arguments.reports / f"{label}.expected").write_text(
                "".join(f"{test}\n" for test in expected[part::parts]))
            environment = {"GTEST_TOTAL_SHARDS": str(parts), "GTEST_SHARD_INDEX": str(part)}
            runs.append((label, program, environment))

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        results = [pool.submit(run, *each, arguments.reports, arguments.time_limit) for each in runs]
        for result in concurrent.futures.as_completed(results):
            sys.stdout.write(result.result())
            sys.stdout.flush()


main()
