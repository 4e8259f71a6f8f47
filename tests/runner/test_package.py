# SPDX-License-Identifier: GPL-2.0-or-later
"""What tools/package answers before it builds anything."""
import os
import pathlib
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]


def package(folder, *arguments, **options):
    return subprocess.run([TOP / "tools/package", *map(str, arguments)], capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL, env={**os.environ, "XDG_CACHE_HOME": f"{folder}/cache"}, **options)


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_is_given_before_anything_is_made(tmp_path, word):
    ended = package(tmp_path, word)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "tools/package OUTDIR" in ended.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments, message", [
    ([], "which folder are the packages for"),
    (["out", "12", "13"], "too many arguments"),
    (["out", "11"], "there is no Debian 11 here: 12 or 13"),
    (["--release=12"], "there is no option --release=12"),
])
def test_wrong_arguments_are_told(tmp_path, arguments, message):
    ended = package(tmp_path, *arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"error: {message}")


def test_who_is_not_root_is_told(tmp_path, monkeypatch):
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    ended = package(tmp_path, tmp_path / "out")
    assert ended.returncode == 1 and not (tmp_path / "out").exists()
    assert ended.stderr.startswith("error: tools/package needs root")
