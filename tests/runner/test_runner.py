# SPDX-License-Identifier: GPL-2.0-or-later
"""What tools/test makes of test programs that misbehave: none of it may pass for a success.

MISBEHAVING: the program of misbehaving_test.cc, built with ASan.
"""
import os
import pathlib
import re
import subprocess
import sys

import pytest

LIB = pathlib.Path(__file__).resolve().parents[2] / "tools/lib"
PROGRAM = os.environ["MISBEHAVING"]
LAST_LINE = re.compile(r"(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\n$")


def count(reports):
    """count-tests.py's exit status, what it prints, and the numbers of its last line."""
    judged = subprocess.run([sys.executable, LIB / "count-tests.py", reports], capture_output=True, text=True)
    numbers = LAST_LINE.search(judged.stdout)
    assert numbers, judged
    return judged.returncode, judged.stdout, [int(number or 0) for number in numbers.groups()]


def run(reports, misbehave="", *options):
    """run-native.py with the program that does so, and what is counted then."""
    subprocess.run([sys.executable, LIB / "run-native.py", "--reports", reports, *options, PROGRAM],
                   env={**os.environ, "MISBEHAVE": misbehave}, check=True)
    return count(reports)


def test_a_good_program_passes(tmp_path):
    assert run(tmp_path)[::2] == (0, [2, 0, 0])


@pytest.mark.parametrize("misbehave, failures, named", [
    ("fail", 1, "FAILED Misbehaving.does_as_told"),
    # Found when all tests have passed and the report is written.
    ("leak", 1, r"FAILED misbehaving_test: did not end well, .* \(status: 1\)"),
    ("end badly", 1, r"FAILED misbehaving_test: .* \(status: 3\)"),
    # No report: that, and each test that is in none.
    ("crash", 3, r"FAILED misbehaving_test: no report"),
    ("leave", 3, r"FAILED misbehaving_test: Misbehaving.goes_on has not run \(status: 0\)"),
])
def test_a_program_that_does_not_end_well_fails(tmp_path, misbehave, failures, named):
    status, output, (_, failed, _) = run(tmp_path, misbehave)
    assert (status, failed) == (1, failures), output
    assert re.search(named, output), output


def test_a_program_that_hangs_fails_when_its_time_is_over(tmp_path):
    status, output, (passed, failed, _) = run(tmp_path, "hang", "--time-limit", "2")
    assert (status, passed, failed) == (1, 0, 3), output
    assert "Misbehaving.does_as_told has not run (status: hung: no end within 2 s)" in output


def test_a_test_that_is_skipped_is_counted_as_such(tmp_path):
    assert run(tmp_path, "skip")[::2] == (0, [1, 0, 1])


def test_parts_of_a_program_run_each_test_once(tmp_path):
    subprocess.run([sys.executable, LIB / "run-native.py", "--reports", tmp_path, f"{PROGRAM}:2"], check=True)
    assert count(tmp_path)[::2] == (0, [2, 0, 0])


def test_a_program_that_is_not_there_fails(tmp_path):
    subprocess.run([sys.executable, LIB / "run-native.py", "--reports", tmp_path, tmp_path / "none_test"], check=True)
    status, output, numbers = count(tmp_path)
    assert (status, numbers) == (1, [0, 1, 0]), output
    assert "none_test: no report (status: it does not list its tests" in output


def test_no_test_is_no_success(tmp_path):
    assert count(tmp_path)[::2] == (1, [0, 0, 0])


@pytest.mark.parametrize("status", ["2", "3", "not done within 5 s", None])
def test_pytest_that_is_cut_short_fails(tmp_path, status):
    (tmp_path / "system.xml").write_text('<testsuite><testcase classname="a" name="b"/></testsuite>')
    if status:
        (tmp_path / "system.status").write_text(f"{status}\n")
    assert count(tmp_path)[::2] == (1, [1, 1, 0])


def test_a_test_of_pytest_that_hangs_is_named(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_that_hangs():\n    while True:\n        pass\n")
    ended = subprocess.run([sys.executable, "-m", "pytest", "-q", "--timeout=1", "--timeout-method=signal",
                            f"--junitxml={tmp_path}/system.xml", tmp_path / "test_it.py"], capture_output=True)
    (tmp_path / "system.status").write_text(f"{ended.returncode}\n")
    status, output, numbers = count(tmp_path)
    assert (status, numbers) == (1, [0, 1, 0]), output
    assert "FAILED test_it.test_that_hangs" in output


def test_a_run_that_ends_early_has_a_last_line(tmp_path):
    for name in ("dpkg-query", "apt-get", "sudo"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    ended = subprocess.run([LIB.parent / "test", "threads"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                           env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}",
                                "XDG_CACHE_HOME": str(tmp_path)})
    assert ended.returncode == 1 and "apt-update failed" in ended.stderr
    assert ended.stdout.splitlines()[-1] == "0 passed, 1 failed"
