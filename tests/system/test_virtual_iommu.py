# SPDX-License-Identifier: GPL-2.0-or-later
"""The device behind a virtual IOMMU, which translates its DMA: Intel's and virtio's, at both ends.

What becomes of a mapping that is taken away is in tests/unit/translation_test.cc.
"""
import re

import pytest

import storage
from pinging import ping
from test_programs import PERFTEST_PORT, both, expect_success
from vm.fabric import Fabric, run_pair

IOMMUS = {
    "intel": {"append": "intel_iommu=on iommu.strict=1", "arguments": ["-device", "intel-iommu,intremap=on"]},
    "virtio": {"append": "iommu.strict=1", "arguments": ["-device", "virtio-iommu-pci,addr=4"]},
}
FUNCTION = "/sys/bus/pci/devices/0000:00:05.1"
PINGPONG_PORT = 18515


@pytest.fixture(scope="module", params=IOMMUS)
def fabric(request, tmp_path_factory, image, payload):
    pair = Fabric(("pvrdma", "pvrdma"), tmp_path_factory.mktemp(request.param), image, payload=payload,
                  machine="q35", **IOMMUS[request.param])
    yield pair
    pair.stop()


@pytest.fixture(autouse=True)
def no_faults(fabric):
    """Fails a test during which an IOMMU has refused an access."""
    yield
    for node in fabric.nodes:
        log = node.guest.check("dmesg")
        assert not re.search(r"\bfault\b", log), log[-3000:]


def expect_translated(node):
    kind = node.guest.check(f"cat {FUNCTION}/iommu_group/type").strip()
    assert kind == "DMA", kind


def test_pingpongs(fabric):
    server, client, address, server_gid, client_gid = both(fabric)
    for node in fabric.nodes:
        expect_translated(node)
    for program in ("ibv_rc_pingpong -c", "ibv_ud_pingpong -s 1024", "ibv_srq_pingpong -c"):
        expect_success(run_pair(
            server, client, f"{program} -d {server.device} -g {server_gid}",
            f"{program} -d {client.device} -g {client_gid} {address}", PINGPONG_PORT))


@pytest.mark.parametrize("test", [
    "ib_write_bw -s 65536 -n 200", "ib_read_bw -s 65536 -n 200", "ib_send_bw -s 65536 -n 200",
    "ib_send_bw -c UD -s 2048 -n 500", "ib_atomic_bw -A FETCH_AND_ADD -n 200", "ib_write_bw -q 16 -s 4096 -n 200",
])
def test_perftest(fabric, test):
    server, client, address, server_gid, client_gid = both(fabric)
    expect_success(run_pair(server, client, f"{test} -F -d {server.device} -x {server_gid}",
                            f"{test} -F -d {client.device} -x {client_gid} {address}", PERFTEST_PORT))


def test_rping(fabric):
    server, client = fabric.nodes
    ping(server, client, 100, options="-V")


def test_nfs(fabric):
    server, client = fabric.nodes
    with storage.ram_disk(server, 64), storage.nfs(server, client, "vers=4.2"):
        assert "proto=rdma" in client.guest.check(f"grep {storage.NFS_MOUNT} /proc/mounts")
        storage.fio(client.guest, f"{storage.NFS_MOUNT}/fio", 8, 0)


def test_translation_goes_off_and_on_while_the_guest_runs(fabric):
    """The guest gives card and device an identity mapping, and a translation again."""
    server, client = fabric.nodes
    for kind in ("identity", "DMA"):
        client.guest.check("modprobe -r vmw_pvrdma && ip link set eth0 down && modprobe -r vmxnet3 && "
                           f"echo {kind} >{FUNCTION}/iommu_group/type")
        client.configure()
        assert client.guest.check(f"cat {FUNCTION}/iommu_group/type").strip() == kind
        address, server_gid, client_gid = both(fabric)[2:]
        expect_success(run_pair(
            server, client, f"ibv_rc_pingpong -c -d {server.device} -g {server_gid}",
            f"ibv_rc_pingpong -c -d {client.device} -g {client_gid} {address}", PINGPONG_PORT))
