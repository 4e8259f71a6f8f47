# SPDX-License-Identifier: GPL-2.0-or-later
"""The common backend suite (tests/backend) on RDMA devices of a host: Linux's rxe, in a guest."""
import pathlib
import re

import pytest

from vm.guest import Guest

pytestmark = pytest.mark.alone
SUITE = "/payload/backend-suite"
# rxe serves the first network name space only. For two of its devices to reach each
# other there, what goes from the one's address to the other's must leave by the
# wire between them, and not as what a host has to say to itself.
LINKS = """
set -e
modprobe rdma_rxe
modprobe -a ib_uverbs veth
ip link add eth0 type veth peer name eth1
ip rule add pref 100 lookup local
ip rule del pref 0
sysctl -qw net.ipv4.conf.all.rp_filter=0
for i in 0 1; do
    ip link set eth$i mtu 4500 up
    ip addr add 10.0.$i.1/24 dev eth$i
    sysctl -qw net.ipv4.conf.eth$i.accept_local=1 net.ipv4.conf.eth$i.rp_filter=0
    ip route add 10.0.$((1 - i)).1 dev eth$i table 1$i
    ip rule add pref 1$i iif lo from 10.0.$i.1 to 10.0.$((1 - i)).1 lookup 1$i
    rdma link add rxe$i type rxe netdev eth$i
done
for i in 0 1; do until ibv_devinfo -d rxe$i | grep -q PORT_ACTIVE; do :; done; done
"""
SOURCES = pathlib.Path(__file__).resolve().parents[1] / "backend"
# On any device.
ON_ONE = ["AddressLookup", "BackendTest", "Failures", "VerbsOnly", "VerbsPaging"]
# A backend moves, and its peer is on another device.
ON_TWO = ["VerbsMigration", "VerbsMigrationUnacknowledged", "VerbsMigrationUnderLoad",
          "VerbsMigrationWithSrq"]
# They change the device's link: another one than the other tests have.
HOST_EVENTS = ["HostEvents", "Removal"]
OTHER_LINK = """
set -e
ip link add eth2 type veth peer name eth3
for i in 2 3; do ip link set eth$i mtu 4500 up; done
ip addr add 10.0.3.1/24 dev eth2
rdma link add rxe2 type rxe netdev eth2
until ibv_devinfo -d rxe2 | grep -q PORT_ACTIVE; do :; done
"""

# They need umad, and no connection manager of the host's.
CONNECTION_MANAGER = ["ConnectionManager"]
KERNEL_PEER = ["KernelPeer"]


def tests_in_sources():
    """The names of all tests of the suite, SUITE.NAME, as its sources have them."""
    return {".".join(found) for source in SOURCES.glob("*_test.cc")
            for found in re.findall(r"^TEST_P\((\w+),\s*(\w+)\)", source.read_text(), re.MULTILINE)}


def run_suites(host, devices, suites, timeout):
    """Runs the tests of these suites: each must be there, run and pass. Returns the output."""
    result = host.run(f"{SUITE} {devices} --gtest_filter={':'.join(f'*/{suite}.*' for suite in suites)}",
                      timeout=timeout)
    assert result.status == 0, result.output[-8000:]
    expected = {name for name in tests_in_sources() if name.split(".")[0] in suites}
    passed = set(re.findall(r"^\[       OK \] \w+/(\w+\.\w+)/", result.output, re.MULTILINE))
    assert passed == expected, passed ^ expected
    return result.output


def test_every_suite_is_run():
    suites = ON_ONE + ON_TWO + HOST_EVENTS + CONNECTION_MANAGER + KERNEL_PEER
    assert {name.split(".")[0] for name in tests_in_sources()} == set(suites)


@pytest.fixture(scope="module")
def host(tmp_path_factory, image, payload):
    """A guest with two rxe devices, in the part of the host."""
    guest = Guest("host", tmp_path_factory.mktemp("verbs"), image, [], payload=payload)
    guest.wait_ready()
    guest.check(LINKS)
    yield guest
    trouble = guest.kernel_trouble()
    guest.stop()
    assert not trouble, trouble


@pytest.mark.parametrize("devices, suites", [("rxe0", ON_ONE), ("rxe0 rxe1", ON_ONE + ON_TWO)],
                         ids=["one-link", "two-links"])
def test_suite(host, devices, suites):
    run_suites(host, devices, suites, 600)


def test_host_events(host):
    host.check(OTHER_LINK)
    output = run_suites(host, "rxe2", HOST_EVENTS, 300)
    # Once for each of the two backends of the two tests that remove it.
    assert output.count("RDMA device 'rxe2' is gone") == 4, output[-8000:]


@pytest.mark.parametrize("devices", ["rxe0", "rxe0 rxe1"], ids=["one-link", "two-links"])
def test_connection_manager(host, devices):
    host.check("modprobe ib_umad && ! lsmod | grep -q ^ib_cm")
    run_suites(host, devices, CONNECTION_MANAGER, 300)


def test_kernels_connection_manager(host):
    host.check("modprobe ib_umad")
    run_suites(host, "rxe0 rxe1", KERNEL_PEER, 300)


def test_memory_that_cannot_be_locked(host):
    result = host.run(f"ulimit -l 1024; setpriv --bounding-set -ipc_lock {SUITE} rxe0 --gtest_filter=*a_message_arrives*")
    assert result.status != 0
    assert "does not register a memory region" in result.output and "RLIMIT_MEMLOCK is 1024 KiB" in result.output, \
        result.output
