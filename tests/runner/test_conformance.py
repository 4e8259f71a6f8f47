# SPDX-License-Identifier: GPL-2.0-or-later
"""The marks of specifications' rules in code and tests, and what the program that counts them finds wrong."""
import pathlib
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = TOP / "tools/lib/conformance.py"

RULES = """
[[section]]
title = "9.1: all of it"
[[section.rule]]
name = "9.1-1"
text = "It is kept."
[[section.rule]]
name = "C9-2"
text = "It is not."
status = "not kept"
reason = "for some reason."
"""
CHAPTER = """# Chapter
- **ABC-1** The driver MUST do it.
- **ABC-2** What is done MUST be right.

What the driver must do:
- **ABC-3** It MUST wait.

What the device must do:
- **ABC-4** It MUST answer.
- **ABC-5** It MAY do more.
"""


def mark(name, rule):
    return f"// [{name} {rule}]\n"


def conformance(*arguments):
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=60)


class Tree:
    def __init__(self, top):
        self.top = top
        self.write("docs/conformance/ibta-chapter-9.toml", RULES)
        self.write("docs/virtio-rdma/chapter.md", CHAPTER)
        self.code = self.write("backend/code.cc", mark("IBTA", "9.1-1"))
        self.test = self.write("tests/unit/code_test.cc", mark("IBTA", "9.1-1"))
        assert conformance("--write", top).returncode == 0

    def write(self, path, text):
        path = self.top / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def faults(self):
        run = conformance(self.top)
        assert run.stderr == ""
        faults = [line.removeprefix("FAULT ") for line in run.stdout.splitlines() if line.startswith("FAULT")]
        assert run.returncode == bool(faults)
        return faults


@pytest.fixture(name="tree")
def tree_with_all_marks(tmp_path):
    return Tree(tmp_path)


def test_each_rule_that_is_kept_is_marked_in_code_and_tests(capsys):
    run = conformance()
    with capsys.disabled():
        print(f"\n{run.stdout}", end="")
    assert (run.returncode, run.stderr) == (0, "")


def test_marks_are_counted(tree):
    tree.write("hw/more.h", mark("virtio-rdma", "ABC-4") + mark("IBTA", "9.1-1"))
    run = conformance(tree.top)
    assert ("2 rules: 1 kept, 0 partly, 0 untested, 1 not kept; 1 marked in the code, 1 in tests"
            in run.stdout)
    assert "2 rules; 1 marked in the code, 0 in tests" in run.stdout
    assert conformance("--list", tree.top).stdout.splitlines()[1:3] == [
        "ABC-2: no mark in code and tests", "ABC-4: no mark in tests"]


@pytest.mark.parametrize("kind, what", [("code", "the code"), ("test", "a test")])
def test_a_rule_that_is_kept_needs_its_marks(tree, kind, what):
    getattr(tree, kind).write_text("\n")
    assert f"IBTA 9.1-1 is 'kept' and has no mark in {what}" in tree.faults()


@pytest.mark.parametrize("name, rule", [("IBTA", "9.1-3"), ("IBTA", "9.1"), ("virtio-rdma", "ABC-6")])
def test_a_mark_names_a_rule(tree, name, rule):
    tree.code.write_text(tree.code.read_text() + mark(name, rule))
    assert tree.faults() == [f"backend/code.cc:2: there is no rule {name} {rule}"]


def test_the_drivers_rules_may_be_marked_and_are_not_counted(tree):
    tree.test.write_text(tree.test.read_text() + mark("virtio-rdma", "ABC-3"))
    tree.write("guest-driver/linux/code.c", mark("virtio-rdma", "ABC-3"))
    assert tree.faults() == []
    tree.write("guest-driver/linux/code.c", mark("virtio-rdma", "ABC-6"))
    assert tree.faults() == ["guest-driver/linux/code.c:1: there is no rule virtio-rdma ABC-6"]


def test_what_is_not_kept_has_no_mark(tree):
    tree.code.write_text(tree.code.read_text() + mark("IBTA", "C9-2"))
    assert "IBTA C9-2 is 'not kept' and has a mark in the code" in tree.faults()


@pytest.mark.parametrize("before, after, fault", [
    ('reason = "for some reason."', "", "IBTA C9-2 is 'not kept' and has no reason"),
    ('text = "It is kept."', 'text = "It is kept."\nstatus = "untested"',
     "IBTA 9.1-1 is 'untested' and has a mark in a test"),
    ('name = "C9-2"', 'name = "9.1-1"', "docs/conformance/ibta-chapter-9.toml: 9.1-1 is there twice"),
    ('"not kept"', '"kpet"', "docs/conformance/ibta-chapter-9.toml: C9-2: there is no status 'kpet'"),
])
def test_the_list_makes_sense(tree, before, after, fault):
    tree.write("docs/conformance/ibta-chapter-9.toml", RULES.replace(before, after))
    assert fault in tree.faults()


def test_the_page_is_that_of_the_rules_and_marks(tree):
    stale = "docs/conformance.md is out of date: tools/lib/conformance.py --write makes it anew"
    tree.write("docs/conformance/ibta-chapter-9.toml", RULES.replace("It is kept", "It is kept so"))
    assert tree.faults() == [stale]
    assert conformance("--write", tree.top).returncode == 0
    assert tree.faults() == []
    tree.write("core/code.cc", mark("IBTA", "9.1-1"))
    assert tree.faults() == [stale]
