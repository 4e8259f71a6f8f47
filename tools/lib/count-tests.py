#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Adds up the test cases of JUnit and GoogleTest reports.

usage: count-tests.py BROKEN REPORT.xml...
BROKEN: test programs that left no report; each counts as a failure. The exit
status is 0 when something ran and nothing failed.
"""
import sys
import xml.etree.ElementTree as tree


def outcome(case):
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    if case.find("skipped") is not None or case.get("status") == "notrun":
        return "skipped"
    return "passed"


def main(broken, *reports):
    count = {"passed": 0, "failed": int(broken), "skipped": 0}
    for report in reports:
        for case in tree.parse(report).iter("testcase"):
            result = outcome(case)
            count[result] += 1
            if result == "failed":
                print(f"FAILED {case.get('classname')}.{case.get('name')}")
    skipped = f", {count['skipped']} skipped" if count["skipped"] else ""
    print(f"{count['passed']} passed, {count['failed']} failed{skipped}")
    return 0 if count["failed"] == 0 and count["passed"] > 0 else 1


sys.exit(main(*sys.argv[1:]))
