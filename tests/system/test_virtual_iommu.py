# SPDX-License-Identifier: GPL-2.0-or-later
"""The device behind a virtual IOMMU, which translates its DMA: Intel's and virtio's, at both ends.

Card and device are at a port where they can be unplugged, and each guest has a second place to migrate to.
What may become of a mapping that is taken away is in tests/unit/translation_test.cc.
"""
import os
import re

import pytest

import storage
from pairs import BY_NIGHT_WITH_VIRTIO, by_night
from pinging import ping
from test_hotplug import PORT, ROOT_PORT, is_realized
from test_programs import PERFTEST_PORT, both, expect_success
from verifying import Stream
from vm.fabric import Fabric, run_pair
from vm.switch import Switch

IOMMUS = {
    "intel": {"append": "intel_iommu=on iommu.strict=1", "arguments": ["-device", "intel-iommu,intremap=on"]},
    "virtio": {"append": "iommu.strict=1", "arguments": ["-device", "virtio-iommu-pci,addr=4"]},
}
ADDRESS = "0000:01:00.1"
FUNCTIONS = (ADDRESS, "0000:01:00.0")
FUNCTION = f"/sys/bus/pci/devices/{ADDRESS}"
PINGPONG_PORT = 18515
STREAM = "--qps 4 --depth 8"
KINDS_AND_IOMMUS = [("pvrdma", "intel"), ("pvrdma", "virtio"), ("virtio-rdma", "intel"),
                    by_night(("virtio-rdma", "virtio"), id="virtio-rdma-virtio")]


@pytest.fixture(scope="module", params=KINDS_AND_IOMMUS, ids="-".join)
def fabric(request, tmp_path_factory, image, payload):
    kind, iommu = request.param
    directory = tmp_path_factory.mktemp(iommu)
    switch = Switch(os.environ["RDMA_SWITCH"], directory, 4)
    options = dict(IOMMUS[iommu])
    options["arguments"] = [*options["arguments"], *ROOT_PORT]
    pair = Fabric((kind, kind), directory, image, payload=payload, machine="q35", slot=PORT, **options,
                  each=[{"netdev": switch.netdev(n), "spare": switch.netdev(n + 1)} for n in (0, 2)])
    yield pair
    pair.stop()
    switch.stop()


def remove_drivers(node):
    """A command after which card and device have no driver."""
    remove = f"modprobe -r {node.module} && ip link set eth0 down && modprobe -r {node.card_module}"
    # virtio's transport is a driver, which other devices of the guest have, too.
    return remove + "".join(f" && echo {function} >/sys/bus/pci/drivers/virtio-pci/unbind"
                            for function in FUNCTIONS if node.kind == "virtio-rdma")


def take_faults(node):
    """The accesses that the IOMMU has refused, as the guest's kernel logged them, since the last call."""
    return [line for line in node.guest.check("dmesg --read-clear").splitlines()
            if re.search(r"\bfault\b", line) and "handling fault status" not in line]


@pytest.fixture(autouse=True)
def no_faults(fabric):
    """Fails a test during which an IOMMU has refused an access."""
    yield
    for node in fabric.nodes:
        assert not take_faults(node)


def expect_translated(node):
    kind = node.guest.check(f"cat {FUNCTION}/iommu_group/type").strip()
    assert kind == "DMA", kind


# [virtio-rdma DEV-6]
def test_pingpongs(fabric):
    server, client, address, server_gid, client_gid = both(fabric)
    for node in fabric.nodes:
        expect_translated(node)
    for program in ("ibv_rc_pingpong -c", "ibv_ud_pingpong -s 1024", "ibv_srq_pingpong -c"):
        expect_success(run_pair(
            server, client, f"{program} -d {server.device} -g {server_gid}",
            f"{program} -d {client.device} -g {client_gid} {address}", PINGPONG_PORT))


@BY_NIGHT_WITH_VIRTIO
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


@BY_NIGHT_WITH_VIRTIO
def test_nfs(fabric):
    server, client = fabric.nodes
    with storage.ram_disk(server, 64), storage.nfs(server, client, "vers=4.2"):
        assert "proto=rdma" in client.guest.check(f"grep {storage.NFS_MOUNT} /proc/mounts")
        storage.fio(client.guest, f"{storage.NFS_MOUNT}/fio", 8, 0)


@BY_NIGHT_WITH_VIRTIO
def test_a_mapping_taken_away_under_load_is_an_error_of_that_request(fabric):
    """rdma-hostile drives the device (VFIO) and checks what becomes of two QPs, one of which loses its region."""
    node = fabric.nodes[1]
    guest = node.guest
    if node.kind == "virtio-rdma":
        pytest.skip("rdma-hostile has a driver for pvrdma alone")
    # The card, in the device's IOMMU group, may have no driver. virtio-iommu does not remap interrupts; none is used.
    guest.check(f"{remove_drivers(node)} && modprobe vfio_iommu_type1 allow_unsafe_interrupts=1 && modprobe vfio-pci && "
                f"echo vfio-pci >{FUNCTION}/driver_override && echo {ADDRESS} >/sys/bus/pci/drivers/vfio-pci/bind")
    result = guest.run(f"/payload/rdma-hostile unmap {ADDRESS}")
    guest.check(f"echo {ADDRESS} >{FUNCTION}/driver/unbind && echo >{FUNCTION}/driver_override")
    faults = take_faults(node)
    node.configure()
    assert result.status == 0, result.output
    # Nothing else was refused.
    assert faults and all(re.search(r"(addr|at) 0x2000[0-9a-f]000\b", fault) for fault in faults), faults
    ping(*fabric.nodes, 10, options="-V")


def test_both_guests_migrate_in_mid_traffic(fabric):
    stream = Stream(*fabric.nodes, STREAM)
    for node in fabric.nodes:
        node.migrate()
        expect_translated(node)
        stream.expect_progress()
    stream.end()


@BY_NIGHT_WITH_VIRTIO
def test_unplugged_and_plugged_again(fabric):
    for node in fabric.nodes:
        node.unplug()
        assert not is_realized(node, "rdma0") and not is_realized(node, "nic0")
        node.configure()
        expect_translated(node)
    Stream(*fabric.nodes, STREAM).end()


@BY_NIGHT_WITH_VIRTIO
def test_translation_goes_off_and_on_while_the_guest_runs(fabric):
    """The guest gives card and device an identity mapping, and a translation again."""
    server, client = fabric.nodes
    for kind in ("identity", "DMA"):
        client.guest.check(f"{remove_drivers(client)} && "
                           f"echo {kind} >{FUNCTION}/iommu_group/type")
        client.guest.check("\n".join(f"echo {function} >/sys/bus/pci/drivers_probe" for function in FUNCTIONS))
        client.configure()
        assert client.guest.check(f"cat {FUNCTION}/iommu_group/type").strip() == kind
        address, server_gid, client_gid = both(fabric)[2:]
        expect_success(run_pair(
            server, client, f"ibv_rc_pingpong -c -d {server.device} -g {server_gid}",
            f"ibv_rc_pingpong -c -d {client.device} -g {client_gid} {address}", PINGPONG_PORT))
