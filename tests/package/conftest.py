# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the installed packages take the fixtures and helpers of the system tests."""
import pathlib
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests/system"), str(TOP / "tools")]
