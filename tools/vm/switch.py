# SPDX-License-Identifier: GPL-2.0-or-later
"""A switch between QEMUs (tests/tools/frame_switch.h), which can lose frames."""
import json
import pathlib
import subprocess


class Switch:
    """ports: how many. program: frame-switch, as built."""

    def __init__(self, program, directory, ports, seed=1):
        self.directory = pathlib.Path(directory)
        self._process = subprocess.Popen(
            [str(program), "--seed", str(seed),
             *(f"{self.directory}/port{i}:{self.directory}/plug{i}" for i in range(ports))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.stats()  # the ports are there

    def netdev(self, port):
        """QEMU's -netdev at a port, without its id."""
        return (f"dgram,local.type=unix,local.path={self.directory}/plug{port},"
                f"remote.type=unix,remote.path={self.directory}/port{port}")

    def _ask(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer or answer == "what?":
            raise RuntimeError(f"the switch has answered {line!r} with {answer!r}")
        return answer

    def faults(self, lose=0.0, repeat=0.0, reorder=0.0, corrupt=0.0):
        """From now on, each with this chance from 0 to 1."""
        self._ask(f"faults {lose} {repeat} {reorder} {corrupt}")

    def capture(self, path=""):
        """The beginnings of all frames from now on, with the time of day (pcap); no more without a path."""
        self._ask(f"capture {path}")

    def stats(self):
        return json.loads(self._ask("stats"))

    def stop(self):
        self._process.stdin.close()
        self._process.wait(30)
