# SPDX-License-Identifier: GPL-2.0-or-later
"""The specification of the virtio RDMA device (docs/virtio-rdma) against itself and against its header."""
import pathlib
import re
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
HEADER = TOP / "guest-driver/include/virtio_rdma_abi.h"
PAGES = {path.name: path.read_text() for path in sorted((TOP / "docs/virtio-rdma").glob("*.md"))}

DEFINITION = re.compile(r"^- \*\*([A-Z]{3})-(\d+)\*\* ", re.MULTILINE)
# "MIG-1" or "QUE-6 to QUE-11" of any chapter, without other words such as "RFC 2119".
REFERENCE = re.compile(r"\b([A-Z]{3})-(\d+)\b")
# Of "struct X" in backquotes, the size behind it.
SIZE = re.compile(r"`struct (\w+)` \((\d+) bytes\)")
# NAME value, with or without backquotes, with the value behind it or in the next cell.
NAMED_VALUE = re.compile(r"\b([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)`? (?:\| |\()?(\d+)\b")
VALUE_AND_NAME = re.compile(r"^\| (\d+) \| `(VIRTIO_RDMA_\w+)` \|", re.MULTILINE)
HEADING = re.compile(r"^## (\d+)(?:, | to )?(\d+)?: (.*)$", re.MULTILINE)

# What names in a table stand for, by the first cell of its heading.
KINDS = {
    "opcode": ["OP_"],
    "status": ["WC_", "ERR_", ""],
    "type": ["EVENT_", "MR_"],
}
ANY_KIND = ["", "OP_", "WC_", "ERR_", "EVENT_", "MR_", "QP_", "SEND_", "ARM_", "DOORBELL_", "S_", "F_",
            "ATTR_", "MTU_", "NETWORK_"]


def one_line(text):
    return re.sub(r"\s+", " ", text)


def tables(text):
    """Pairs of a table's first heading and its rows."""
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        rows = block.splitlines()
        yield rows[0].split("|")[1].strip(" `"), rows[2:]


def run_c(tmp_path, body):
    """The lines that a C program with this body prints, which includes the header alone."""
    source = tmp_path / "program.c"
    # -Wpadded: a hole in a layout would be another size elsewhere.
    source.write_text(f'#include "{HEADER}"\n#include <stdio.h>\nint main(void)\n{{\n{body}\nreturn 0;\n}}\n')
    subprocess.run(["cc", "-Wall", "-Wextra", "-Wpadded", "-Werror", source, "-o", tmp_path / "program"], check=True)
    return subprocess.run([tmp_path / "program"], check=True, capture_output=True, text=True).stdout.split()


@pytest.fixture(name="constants", scope="module")
def constants_of_the_header(tmp_path_factory):
    text = HEADER.read_text()
    names = re.findall(r"^#define (VIRTIO_RDMA_\w+) ", text, re.MULTILINE)
    names += re.findall(r"^\t(VIRTIO_RDMA_\w+)(?: =|,)", text, re.MULTILINE)
    body = "\n".join(f'printf("%llu\\n", (unsigned long long){name});' for name in names)
    return dict(zip(names, map(int, run_c(tmp_path_factory.mktemp("constants"), body)), strict=True))


def values_of(name, kinds, constants):
    name = name.removeprefix("VIRTIO_RDMA_")
    return {constants[full] for kind in kinds if (full := f"VIRTIO_RDMA_{kind}{name}") in constants}


def rules():
    return [(page, chapter, int(number)) for page, text in PAGES.items()
            for chapter, number in DEFINITION.findall(text)]


def test_each_rule_is_defined_once():
    names = [f"{chapter}-{number}" for _, chapter, number in rules()]
    assert names
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_the_rules_of_a_chapter_are_on_one_page_and_numbered_without_gaps():
    by_chapter = {}
    for page, chapter, number in rules():
        by_chapter.setdefault(chapter, []).append((page, number))
    for chapter, found in by_chapter.items():
        assert len({page for page, _ in found}) == 1, chapter
        assert [number for _, number in found] == list(range(1, len(found) + 1)), chapter


def test_each_rule_that_is_referred_to_exists():
    defined = {(chapter, number) for _, chapter, number in rules()}
    chapters = {chapter for chapter, _ in defined}
    texts = {**PAGES, HEADER.name: HEADER.read_text()}
    assert [f"{page}: {chapter}-{number}" for page, text in texts.items()
            for chapter, number in REFERENCE.findall(text)
            if chapter in chapters and (chapter, int(number)) not in defined] == []


def test_each_rule_says_who_must():
    for page, text in PAGES.items():
        for rule in re.split(r"\n(?=- \*\*[A-Z]{3}-\d)", text)[1:]:
            rule = rule.split("\n\n")[0]
            assert re.search(r"\b(MUST|SHOULD|MAY)\b", rule), f"{page}: {rule}"


def test_nothing_but_a_rule_says_must():
    for page, text in PAGES.items():
        text = re.sub(r"^- \*\*[A-Z]{3}-\d+\*\*.*\n(?:  .*\n)*", "", text + "\n", flags=re.MULTILINE)
        text = text.replace("MUST, MUST NOT, SHOULD and MAY are those of RFC 2119", "")
        assert re.findall(r".*\b(?:MUST|SHOULD|MAY)\b.*", text) == [], page


def test_a_size_in_the_text_is_that_of_the_header(tmp_path):
    said = {(page, name, int(size)) for page, text in PAGES.items() for name, size in SIZE.findall(one_line(text))}
    names = sorted({name for _, name, _ in said})
    assert len(names) > 10
    body = "\n".join(f'printf("%zu\\n", sizeof(struct {name}));' for name in names)
    sizes = dict(zip(names, map(int, run_c(tmp_path, body)), strict=True))
    assert [(page, name, size, sizes[name]) for page, name, size in sorted(said) if size != sizes[name]] == []


def test_a_struct_in_the_text_is_one_of_the_header():
    header = HEADER.read_text()
    for page, text in PAGES.items():
        for kind, name in re.findall(r"\b(struct|enum) (virtio_rdma_\w+)", one_line(text)):
            assert re.search(rf"^{kind} {name} {{", header, re.MULTILINE), f"{page}: {kind} {name}"


def test_a_constant_in_the_text_is_one_of_the_header(constants):
    for page, text in PAGES.items():
        for name in re.findall(r"\bVIRTIO_RDMA_\w+", text):
            if not name.endswith("_"):
                assert name in constants, f"{page}: {name}"


def test_a_value_in_a_table_is_that_of_the_header(constants):
    compared = 0
    for page, text in PAGES.items():
        for heading, rows in tables(text):
            for row in rows:
                for name, value in NAMED_VALUE.findall(row):
                    values = values_of(name, KINDS.get(heading, ANY_KIND), constants)
                    if values:
                        compared += 1
                        assert int(value) in values, f"{page}: {name} {value}: {values}"
        for value, name in VALUE_AND_NAME.findall(text):
            compared += 1
            assert constants[name] == int(value), f"{page}: {name} {value}"
    assert compared > 40


def test_a_value_in_a_sentence_is_that_of_the_header(constants):
    compared = 0
    for page, text in PAGES.items():
        for name, value in NAMED_VALUE.findall(one_line(re.sub(r"^\|.*\n", "", text, flags=re.MULTILINE))):
            if values := values_of(name, ANY_KIND, constants):
                compared += 1
                assert int(value) in values, f"{page}: {name} {value}: {values}"
    assert compared > 20


def test_a_heading_of_a_command_has_its_number(constants):
    count = 0
    for first, last, names in HEADING.findall(PAGES["control.md"]):
        numbers = range(int(first), int(last or first) + 1)
        names = [name if name.startswith("VIRTIO_RDMA_") else f"VIRTIO_RDMA_{name}" for name in names.split(", ")]
        assert [constants[name] for name in names] == list(numbers), names
        count += len(names)
    assert count == len(re.findall(r"^\tVIRTIO_RDMA_\w+ = \d+,$", re.search(
        r"^enum virtio_rdma_command {(.*?)^}", HEADER.read_text(), re.MULTILINE | re.DOTALL)[1], re.MULTILINE))
