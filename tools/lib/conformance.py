#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts the rules of two specifications that are marked in the code and in the tests.

usage: conformance.py [--write] [--list] [TOP]

A mark is a comment with the specification's name and one rule's, in brackets: IBTA 9.7.1-1, or
virtio-rdma CTL-4. It stands where the code keeps the rule, and at a test that fails where the code
does not. The rules are in docs/conformance/ibta-chapter-9.toml and, as far as the device must keep
them, in docs/virtio-rdma. TOP is the tree, by default the one that this program is in.

The exit status is 1, with a line for each fault, where a mark names no rule, a rule's marks are not
those of its status (STATUSES), or docs/conformance.md is not what the rules and marks make of it.
Missing marks of virtio-rdma's rules are no fault yet. --write makes that page anew; --list names
the virtio-rdma rules that lack a mark.
"""
import argparse
import dataclasses
import pathlib
import re
import sys
import textwrap
import tomllib

CODE = ("core", "migration", "backend", "hw", "guest-driver")
TESTS = ("tests",)
SUFFIXES = {".h", ".cc", ".c", ".py"}
IBTA_RULES = "docs/conformance/ibta-chapter-9.toml"
PAGE = "docs/conformance.md"
WIDTH = 110

# Of each status: whether a rule with it has marks in the code, and in tests, and whether it says why.
STATUSES = {
    "kept": (True, True, False),
    "partly": (True, True, True),
    "untested": (True, False, False),
    "not kept": (False, False, True),
}


@dataclasses.dataclass
class Rule:
    name: str
    text: str = ""
    status: str = "kept"
    reason: str = ""
    section: str = ""
    code: list = dataclasses.field(default_factory=list)  # the paths that have its mark, once for each mark
    tests: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Specification:
    name: str  # as marks have it
    title: str
    rules: dict
    must_be_marked: bool
    others: set = dataclasses.field(default_factory=set)  # names of rules that are not counted
    faults: list = dataclasses.field(default_factory=list)


def ibta(top):
    rules, faults = {}, []
    for section in tomllib.loads((top / IBTA_RULES).read_text())["section"]:
        for entry in section["rule"]:
            rule = Rule(section=section["title"], **entry)
            if rule.name in rules:
                faults.append(f"{IBTA_RULES}: {rule.name} is there twice")
            if rule.status not in STATUSES:
                faults.append(f"{IBTA_RULES}: {rule.name}: there is no status {rule.status!r}")
                rule.status = "kept"
            rules[rule.name] = rule
    return Specification("IBTA", "IBTA volume 1, chapter 9 and annex 17", rules, True, faults=faults)


def binds_the_device(rule, heading):
    """Whether what the rule says with MUST is the device's: the list's heading says so, or its words."""
    return bool(re.search(r"\bMUST\b", rule)) and (
        "device" in heading or ("driver" not in heading and "The driver MUST" not in rule))


def virtio_rdma(top):
    rules, others = {}, set()
    for path in sorted((top / "docs/virtio-rdma").glob("*.md")):
        heading = ""
        for block in re.split(r"\n(?=- \*\*[A-Z]{3}-\d)|\n\n", path.read_text()):
            if found := re.match(r"- \*\*([A-Z]{3}-\d+)\*\* ", block):
                if binds_the_device(block, heading):
                    rules[found[1]] = Rule(found[1])
                else:
                    others.add(found[1])
            for line in block.splitlines():
                if line.startswith("#"):
                    heading = ""
                elif re.match(r"What the \w+ must do:", line):
                    heading = line
    return Specification("virtio-rdma", "virtio-rdma, what the device must do", rules, False, others)


def sources(top, folders):
    for folder in folders:
        for path in sorted((top / folder).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield path


def find_marks(top, specifications):
    """Notes each mark at its rule, or that there is no such rule."""
    by_name = {specification.name: specification for specification in specifications}
    pattern = re.compile(rf"\[({'|'.join(by_name)}) ([^\]{{}}\n]*)\]")
    for kind, folders in (("code", CODE), ("tests", TESTS)):
        for path in sources(top, folders):
            place = path.relative_to(top).as_posix()
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                for name, rule in pattern.findall(line):
                    specification = by_name[name]
                    if rule in specification.rules:
                        getattr(specification.rules[rule], kind).append(place)
                    elif rule not in specification.others:
                        specification.faults.append(f"{place}:{number}: there is no rule {name} {rule}")


def check_statuses(specification):
    for rule in specification.rules.values():
        in_code, in_tests, with_reason = STATUSES[rule.status]
        for there, wanted, what in ((rule.code, in_code, "mark in the code"), (rule.tests, in_tests, "mark in a test"),
                                    (rule.reason, with_reason, "reason")):
            if bool(there) != wanted:
                specification.faults.append(f"{specification.name} {rule.name} is {rule.status!r} and has "
                                            f"{'no' if wanted else 'a'} {what}")


def count(specification):
    rules = specification.rules.values()
    marked = (f"{sum(bool(rule.code) for rule in rules)} marked in the code, "
              f"{sum(bool(rule.tests) for rule in rules)} in tests")
    if not specification.must_be_marked:
        return f"{specification.title}: {len(rules)} rules; {marked}"
    by_status = ", ".join(f"{sum(rule.status == status for rule in rules)} {status}" for status in STATUSES)
    return f"{specification.title}: {len(rules)} rules: {by_status}; {marked}"


def files(places):
    return ", ".join(f"`{place}`" for place in dict.fromkeys(places))


def page(specification):
    """docs/conformance.md. It names files and not lines, so that few changes of the code change it."""
    parts = [f"# Conformance: {specification.title}", paragraph(
        f"Made by `tools/lib/conformance.py --write` from `{IBTA_RULES}` and from marks in the code and the tests, "
        "such as `[IBTA C9-140]`: `grep -rF '[IBTA C9-140]' backend core tests` shows where a rule is kept and "
        "which tests fail where it is not."), paragraph(
        "C9 and CA17 numbers are those of the specification's compliance statements, in chapter 9 and in annex 17 "
        "(RoCEv2). Where a rule's statement is not known for certain, its name is the number of its section and one "
        "of ours. What a rule says is told in our words. What concerns InfiniBand links, verbs or "
        "management alone is left out."),
        paragraph("A rule is *kept* if the code keeps it and a test shows that; *partly*, for the reason given; "
                  "*untested* if the code keeps it and no test would fail without it; *not kept*, for the reason "
                  "given."),
        paragraph(count(specification).partition(": ")[2].capitalize() + ".")]
    section = None
    for rule in specification.rules.values():
        if rule.section != section:
            section = rule.section
            parts.append(f"## {section}")
        text = f"- **{rule.name}** {rule.text} *{rule.status.capitalize()}*"
        text += f": {rule.reason}" if rule.reason else "."
        if rule.code:
            text += f" Code: {files(rule.code)}."
        if rule.tests:
            text += f" Tests: {files(rule.tests)}."
        parts.append(paragraph(text, "  "))
    lines = []
    for part, following in zip(parts, parts[1:] + [""]):
        lines.append(part)
        if not (part.startswith("- ") and following.startswith("- ")):
            lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def paragraph(text, indent=""):
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("top", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    options = parser.parse_args(arguments)
    specifications = [ibta(options.top), virtio_rdma(options.top)]
    find_marks(options.top, specifications)
    faults = []
    for specification in specifications:
        if specification.must_be_marked:
            check_statuses(specification)
            made = page(specification)
            path = options.top / PAGE
            if options.write:
                path.write_text(made)
            elif not path.exists() or path.read_text() != made:
                faults.append(f"{PAGE} is out of date: tools/lib/conformance.py --write makes it anew")
        elif options.list:
            for rule in specification.rules.values():
                lacks = [what for what, there in (("code", rule.code), ("tests", rule.tests)) if not there]
                if lacks:
                    print(f"{rule.name}: no mark in {' and '.join(lacks)}")
        faults += specification.faults
        print(count(specification))
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
