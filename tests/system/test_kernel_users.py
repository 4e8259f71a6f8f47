# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux's kernel as the user of the device: NFS, NVMe and iSCSI over RDMA.

SOAK_SECONDS in the environment: fio goes on for so long (0: one pass), and the
trees unpacked over NFS are larger.
"""
import os

import pytest

import storage
from pairs import BY_NIGHT_WITH_VIRTIO, TWO_ALIKE, pvrdma_by_day

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "0"))
SOURCE = "/usr/src/linux"
TREES = ["net", "include"] if SOAK_SECONDS else ["net/sunrpc", "net/rds", "include/rdma"]
DISK_MEBIBYTES = 320
FIO_MEBIBYTES = 64 if SOAK_SECONDS else 24

# The SCSI target's answer to what the disk's driver asks for at first.
SCSI_PAGE_NOT_THERE = "MODE SENSE: unimplemented page/subpage"

pytestmark = TWO_ALIKE


@pytest.fixture(autouse=True)
def quiet_kernels(fabric):
    """Fails a test during which a guest's kernel logged an error."""
    def errors(node):
        lines = node.guest.check("dmesg --level emerg,alert,crit,err").splitlines()
        return [line for line in lines if SCSI_PAGE_NOT_THERE not in line]

    before = [len(errors(node)) for node in fabric.nodes]
    yield
    for node, count in zip(fabric.nodes, before):
        assert errors(node)[count:] == []


@pytest.fixture
def disk(fabric):
    with storage.ram_disk(fabric.nodes[0], DISK_MEBIBYTES):
        yield


def verify(guest, path, **options):
    total = storage.fio(guest, path, FIO_MEBIBYTES, SOAK_SECONDS, **options)
    print(storage.describe(total))


def checksum(node, path):
    """Of what is on the disk, past the caches."""
    return node.guest.check(f"dd if={path} bs=1M iflag=direct status=none | sha256sum", timeout=300)


@pytest.mark.parametrize("version", pvrdma_by_day(["4.2", "3"], ["4.2"]))
def test_nfs(fabric, disk, version):
    server, client = fabric.nodes
    # Two connections: requests take turns.
    locking = ",nolock" if version == "3" else ""
    with storage.nfs(server, client, f"vers={version},nconnect=2{locking}"):
        assert "proto=rdma" in client.guest.check(f"grep {storage.NFS_MOUNT} /proc/mounts")
        verify(client.guest, f"{storage.NFS_MOUNT}/fio")


@BY_NIGHT_WITH_VIRTIO
def test_tree_over_nfs(fabric, disk):
    server, client = fabric.nodes
    with storage.nfs(server, client, "vers=4.2"):
        copy = f"tar -C {SOURCE} -cf - {' '.join(TREES)} | tar -C {storage.NFS_MOUNT} -xf -"
        client.guest.check(copy, timeout=900)
        # Both guests have the same tree to compare with: the server looks at what
        # arrived, the client reads it back with empty caches.
        for tree in TREES:
            server.guest.check(f"diff -r {SOURCE}/{tree} {storage.NFS_EXPORT}/{tree}", timeout=300)
        client.guest.check("echo 3 >/proc/sys/vm/drop_caches")
        for tree in TREES:
            client.guest.check(f"diff -r {SOURCE}/{tree} {storage.NFS_MOUNT}/{tree}", timeout=900)
        trees = " ".join(TREES)
        print(client.guest.check(
            f"cd {SOURCE} && find {trees} -type f | wc -l && du -cks {trees} | tail -n 1"))


@pytest.mark.parametrize("protocol", pvrdma_by_day(["nvme", "iser"], ["nvme"]))
def test_block_device(fabric, disk, protocol):
    server, client = fabric.nodes
    with getattr(storage, protocol)(server, client) as path:
        verify(client.guest, path)
        assert checksum(client, path) == checksum(server, storage.RAM_DISK)
