# SPDX-License-Identifier: GPL-2.0-or-later
"""What rdma-state answers when it is called as it should not be. RDMA_STATE: the program, built with ASan."""
import json
import os
import pathlib
import subprocess

import pytest

STREAM = pathlib.Path(__file__).resolve().parents[1] / "data/streams/pvrdma-1-busy.stream"


def rdma_state(*arguments):
    return subprocess.run([os.environ["RDMA_STATE"], *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("arguments, message", [
    ([], "file or --layout is required"),
    (["--json"], "file or --layout is required"),
    (["--no-such-option"], "--no-such-option"),
    (["/none/such"], "/none/such"),
    ([STREAM.parent], str(STREAM.parent)),
    ([__file__], "holds no undamaged state of an RDMA device"),
])
def test_what_is_no_state_is_named_and_the_status_is_2(arguments, message):
    ended = rdma_state(*arguments)
    assert (ended.returncode, ended.stdout) == (2, ""), ended
    assert message in ended.stderr


def test_a_state_that_is_cut_short_is_none(tmp_path):
    (tmp_path / "cut").write_bytes(STREAM.read_bytes()[:-1])
    ended = rdma_state(tmp_path / "cut")
    assert (ended.returncode, ended.stdout) == (2, ""), ended
    assert "holds no undamaged state" in ended.stderr


def test_a_state_is_shown(tmp_path):
    (tmp_path / "within").write_bytes(b"QEVM" + STREAM.read_bytes() + b"more")
    (sections,) = json.loads(rdma_state("--json", tmp_path / "within").stdout)
    assert sections[0]["section"] == "config"
