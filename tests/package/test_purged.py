# SPDX-License-Identifier: GPL-2.0-or-later
"""What the packages leave when they are purged. The last tests in a root: nothing of the packages is there then."""
import pathlib
import re
import subprocess

import pytest

NAMES = re.compile(r"qemu-rdma|rdma-state|rdmacm-mux|vmw-pvrdma|vmw_pvrdma\.ko|virtio[-_]rdma")
# What the tests brought, and what is not of this system.
NOT_OURS = ("/tree", "/packages", "/parts", "/reports", "/guest", "/proc", "/sys", "/dev", "/tmp")


def lines(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def installed_packages():
    return [name for name in lines("dpkg-query", "-W", "-f", "${Package}\n") if NAMES.search(name)]


def files_of_that_name():
    found = lines("find", "/", *(word for path in NOT_OURS for word in ("-path", path, "-prune", "-o")), "-print")
    return [path for path in found if NAMES.search(pathlib.Path(path).name)]


@pytest.fixture(scope="module")
def purged():
    packages = installed_packages()
    assert {"vmw-pvrdma-dkms", "virtio-rdma-dkms", "ibverbs-provider-virtio-rdma", "qemu-rdma"} <= set(packages)
    assert files_of_that_name()
    subprocess.run(["apt-get", "purge", "-y", *packages], check=True)


def test_no_package_is_left(purged):
    assert installed_packages() == []


def test_no_file_is_left(purged):
    assert files_of_that_name() == []
