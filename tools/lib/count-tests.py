#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Adds up the test cases of JUnit and GoogleTest reports, and judges how the programs ended.

usage: count-tests.py FOLDER

FOLDER holds, for each run of a test program, NAME.status (its exit status, or in words why it has
none), NAME.xml (its report) and where it is known beforehand NAME.expected (the tests that must be in
the report, one a line). These count as a failure, and are named: a run without a status, a bad status
that no failed test explains, a report that is missing or cannot be read, and a test that is expected
and not in the report. Before the last line, "N passed, M failed", stand the slowest tests. The exit
status is 0 when something ran and nothing failed.
"""
import pathlib
import sys
import xml.etree.ElementTree as tree

SLOWEST = 30  # tests that are listed


def outcome(case):
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    if case.find("skipped") is not None or case.get("status") == "notrun":
        return "skipped"
    return "passed"


def name_of(case):
    return f"{case.get('classname')}.{case.get('name')}"


def cases_of(report):
    """The cases of a report; None where it cannot be read."""
    try:
        return list(tree.parse(report).iter("testcase"))
    except (OSError, tree.ParseError):
        return None


def judge(folder, run, cases):
    """What is wrong with the run beside its failed cases."""
    try:
        status = (folder / f"{run}.status").read_text().strip()
    except OSError:
        status = "no end is known"
    if cases is None:
        yield f"{run}: no report (status: {status})"
        cases = []
    elif status != "0" and not (status == "1" and "failed" in map(outcome, cases)):
        # 1 says that a test has failed.
        yield f"{run}: did not end well, whatever its tests say (status: {status})"
    expected = folder / f"{run}.expected"
    if expected.exists():
        reported = {name_of(case) for case in cases if case.get("status") != "notrun"}
        for name in expected.read_text().splitlines():
            if name not in reported:
                yield f"{run}: {name} has not run (status: {status})"


def main(folder):
    folder = pathlib.Path(folder)
    count = {"passed": 0, "failed": 0, "skipped": 0}
    times = []
    for run in sorted({path.stem for kind in ("status", "xml", "expected") for path in folder.glob(f"*.{kind}")}):
        cases = cases_of(folder / f"{run}.xml")
        for case in cases or ():
            result = outcome(case)
            count[result] += 1
            times.append((float(case.get("time") or 0), name_of(case)))
            if result == "failed":
                print(f"FAILED {name_of(case)}")
        for trouble in judge(folder, run, cases):
            count["failed"] += 1
            print(f"FAILED {trouble}")
    print("the slowest tests, in seconds:")
    for seconds, name in sorted(times, reverse=True)[:SLOWEST]:
        print(f"{seconds:8.1f}  {name}")
    skipped = f", {count['skipped']} skipped" if count["skipped"] else ""
    print(f"{count['passed']} passed, {count['failed']} failed{skipped}")
    return 0 if count["failed"] == 0 and count["passed"] > 0 else 1


sys.exit(main(*sys.argv[1:]))
