# SPDX-License-Identifier: GPL-2.0-or-later
"""Two guests that do not come up leave no QEMU behind."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))

from vm.fabric import Fabric  # noqa: E402


@pytest.mark.parametrize("failing, when, started", [
    (1, "start", []), (2, "start", ["pvrdma1"]),
    (1, "boot", ["pvrdma1", "pvrdma2"]), (2, "boot", ["pvrdma1", "pvrdma2"])])
def test_guests_are_stopped_where_one_fails(tmp_path, failing, when, started):
    running, stopped = [], []

    class Failing:
        def __init__(self, name, directory, image, arguments):
            self.name = name
            self.fail_at("start")
            running.append(name)

        def fail_at(self, moment):
            if (self.name, moment) == (f"pvrdma{failing}", when):
                raise RuntimeError(moment)

        def wait_ready(self):
            self.fail_at("boot")

        def check(self, command):
            pass

        def stop(self):
            stopped.append(self.name)

    with pytest.raises(RuntimeError, match=when):
        Fabric(("pvrdma", "pvrdma"), tmp_path, "image", make_guest=Failing)
    assert running == stopped == started
