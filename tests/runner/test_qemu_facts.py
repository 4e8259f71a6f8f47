# SPDX-License-Identifier: GPL-2.0-or-later
"""hw/module/qemu-facts: what the module is built for, asked of a QEMU and its source that are stand-ins."""
import os
import pathlib
import subprocess

import pytest

QEMU_FACTS = pathlib.Path(__file__).resolve().parents[2] / "hw/module/qemu-facts"


def facts(folder, source_version, binary_version):
    """What it says of a source and a binary of these versions."""
    build = folder / "source/build"
    build.mkdir(parents=True)
    (build / "config-host.mak").write_text("SRC_PATH=..\n")
    (build.parent / "VERSION").write_text(f"{source_version}\n")
    for name, output in [("qemu", f"QEMU emulator version {binary_version}"), ("readelf", "    Build ID: 12ab")]:
        (folder / name).write_text(f"#!/bin/sh\necho '{output}'\n")
        (folder / name).chmod(0o755)
    return subprocess.run([QEMU_FACTS, build, folder / "qemu"], capture_output=True, text=True,
                          env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})


@pytest.mark.parametrize("version", ["10.0.13", "10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)"])
def test_a_binary_of_the_source_is_described(tmp_path, version):
    ended = facts(tmp_path, "10.0.13", version)
    assert (ended.returncode, ended.stdout) == (0, f"{tmp_path}/source\n12ab\n{version}\n")


@pytest.mark.parametrize("version", ["10.0.1", "10.0.130 (Debian 1)", "10.0.13-rc1", "110.0.13", ""])
def test_a_binary_of_another_source_is_refused(tmp_path, version):
    ended = facts(tmp_path, "10.0.13", version)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"{tmp_path}/qemu is QEMU {version}, and {tmp_path}/source has 10.0.13\n"
