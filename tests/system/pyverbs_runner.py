# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs rdma-core's own Python tests on one RDMA device. For a guest; the tests are in Debian's python3-pyverbs.

usage: python3 pyverbs_runner.py DEVICE GID_INDEX
Prints JSON: {name of the test: [outcome, reason]}, the outcome being "passed",
"skipped" or "failed".
"""
import gzip
import json
import pathlib
import re
import sys
import unittest

PACKAGED = pathlib.Path("/usr/share/doc/rdma-core/tests")
UNPACKED = pathlib.Path("/tmp/pyverbs/tests")
OF_A_VENDOR = re.compile(r"test_(mlx5|efa|cuda)")


def unpack():
    UNPACKED.mkdir(parents=True, exist_ok=True)
    for packaged in PACKAGED.iterdir():
        content = packaged.read_bytes()
        if packaged.suffix == ".gz":
            content = gzip.decompress(content)
        if not OF_A_VENDOR.match(packaged.name):
            (UNPACKED / packaged.name.removesuffix(".gz")).write_bytes(content)
    sys.path += [str(UNPACKED.parent), str(UNPACKED)]


def use_network_of_gid(base):
    """The tests ask a device's PCI function for its network interface; pvrdma's is another function."""
    def add(self, device, port, gid_index):
        ports = pathlib.Path(f"/sys/class/infiniband/{device}/ports/{port}")
        interface = (ports / f"gid_attrs/ndevs/{gid_index}").read_text().strip()
        self.args.append([device, port, gid_index, *self.get_ip_mac_address(interface)])
    base.RDMATestCase._get_ip_mac = add


class Recorder(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.outcomes = {}

    def _record(self, test, outcome, reason=""):
        name = test.id().removeprefix("tests.")
        if self.outcomes.get(name, ["passed"])[0] == "passed":
            self.outcomes[name] = [outcome, reason]
        print(name, outcome, reason.strip().splitlines()[-1:], file=sys.stderr, flush=True)

    def addSuccess(self, test):
        self._record(test, "passed")

    def addSkip(self, test, reason):
        self._record(test, "skipped", reason)

    def addFailure(self, test, error):
        self._record(test, "failed", self._exc_info_to_string(error, test))

    addError = addFailure

    def addSubTest(self, test, subtest, error):
        if error:
            self.addFailure(test, error)


def main(device, gid_index):
    unpack()
    sys.argv[1:] = ["--dev", device, "--port", "1", "--gid", gid_index]
    import tests
    import tests.base
    from args_parser import parser
    parser.parse_args()
    use_network_of_gid(tests.base)
    recorder = Recorder()
    suite = unittest.defaultTestLoader.loadTestsFromModule(tests)
    suite.run(recorder)
    print(json.dumps(recorder.outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
