# SPDX-License-Identifier: GPL-2.0-or-later
"""What tools/lib builds is built anew when anything that goes into it changes. No build is made here: Meson is a
stand-in, and the tree a copy."""
import pathlib
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path):
    """A copy of the source tree."""
    copy = tmp_path / "tree"
    shutil.copytree(TOP, copy, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    return copy


def shell(tree, script):
    """What a script prints that has the functions of tools/lib/build-qemu.sh."""
    return subprocess.run(["bash", "-c", f". {tree}/tools/lib/build-qemu.sh\n{script}"], check=True, text=True,
                          capture_output=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tree.parent / "home")}).stdout


def folders(tree):
    """Every folder with source files, but for those of documentation and tests."""
    return sorted({path.parent.relative_to(tree) for path in tree.rglob("*.*")
                   if path.is_file() and path.relative_to(tree).parts[0] not in ("docs", "tests")})


def test_qemu_is_built_for_an_edit_in_any_folder(tree):
    before = shell(tree, "qemu_inputs")
    for folder in folders(tree):
        path = next(path for path in sorted((tree / folder).iterdir()) if path.is_file())
        text = path.read_text()
        path.write_text(text + "\n")
        assert shell(tree, "qemu_inputs") != before, path
        path.write_text(text)
    assert shell(tree, "qemu_inputs") == before


def test_qemu_is_built_for_a_new_folder(tree):
    before = shell(tree, "qemu_inputs")
    (tree / "contrib").mkdir()
    (tree / "contrib/new.h").write_text("// new\n")
    assert shell(tree, "qemu_inputs") != before


def test_qemu_is_not_built_for_tests_and_documentation(tree):
    before = shell(tree, "qemu_inputs")
    for path in ("docs/pvrdma.md", "tests/meson.build"):
        (tree / path).write_text("changed\n")
    assert shell(tree, "qemu_inputs") == before


def test_a_fingerprint_tells_names_and_the_ends_of_files(tmp_path, tree):
    """A line that moves from one file to the next is a change, and so is another name."""
    folder = tmp_path / "files"
    folder.mkdir()
    seen = set()
    for contents in ({"a": "1\n2\n", "b": "3\n"}, {"a": "1\n", "b": "2\n3\n"}, {"a": "1\n", "c": "2\n3\n"}):
        for path in folder.iterdir():
            path.unlink()
        for name, text in contents.items():
            (folder / name).write_text(text)
        seen.add(shell(tree, f"fingerprint {folder}"))
    assert len(seen) == 3


def test_a_fingerprint_is_the_same_wherever_the_tree_lies(tree, tmp_path):
    moved = tmp_path / "elsewhere"
    before = shell(tree, 'fingerprint "$top/hw"; qemu_inputs')
    tree.rename(moved)
    assert shell(moved, 'fingerprint "$top/hw"; qemu_inputs') == before


SET_UP = """
setup() { meson=(bash -c 'mkdir -p "${@: -2:1}"; touch "${@: -2:1}/build.ninja"; echo set up' meson)
          run_logged() { shift; "$@"; }
          setup_build name "$cache/folder" "$@"; }
"""


def test_a_build_folder_is_set_up_anew_when_its_options_change(tree):
    script = SET_UP + 'setup -Da=1; setup -Da=1; touch "$cache/folder/old"; setup -Da=2; ls "$cache/folder"'
    assert shell(tree, script).split("\n")[:3] == ["set up", "set up", "build.ninja"]


def test_a_build_folder_is_set_up_anew_when_the_defaults_change(tree):
    assert shell(tree, SET_UP + "setup -Da=1") == "set up\n"
    options = tree / "meson_options.txt"
    options.write_text(options.read_text().replace("value: false", "value: true"))
    assert shell(tree, SET_UP + "setup -Da=1") == "set up\n"
    assert shell(tree, SET_UP + "setup -Da=1") == ""


def test_another_tree_with_older_files_is_built(tree, tmp_path):
    """QEMU's source has one copy of the glue; make and ninja go by times, and another tree's may be older."""
    script = f'qemu_source={tmp_path}/qemu; copy_glue; cat "$qemu_source/hw/rdma/ours/hw/pvrdma/qemu/pvrdma_pci.c"'
    shell(tree, script)
    glue = tree / "hw/pvrdma/qemu/pvrdma_pci.c"
    glue.write_text("another\n")
    subprocess.run(["touch", "-d", "2001-01-01", glue], check=True)
    (tree / "hw/common/qemu/rdma_pause.h").unlink()
    assert shell(tree, script) == "another\n"
    copies = tmp_path / "qemu/hw/rdma/ours/hw"
    assert (copies / "pvrdma/qemu/pvrdma_pci.c").stat().st_mtime > glue.stat().st_mtime
    assert not (copies / "common/qemu/rdma_pause.h").exists()
    # What has not changed is not built again.
    kept = copies / "common/qemu/rdma_nic.c"
    before = kept.stat().st_mtime_ns
    shell(tree, script)
    assert kept.stat().st_mtime_ns == before
