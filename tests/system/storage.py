# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux's storage services over RDMA: set up in a guest, used in another, taken down again.

Each function is a context manager. What is exported lies on a RAM disk of the server.
"""
import contextlib
import json
import time

RAM_DISK = "/dev/ram0"
NFS_EXPORT = "/srv/export"
NFS_MOUNT = "/mnt/nfs"
NFS_RDMA_PORT = 20049


@contextlib.contextmanager
def steps(guest, up, down):
    """Runs shell commands in order, and at the end the ones that undo them.

    After a failure all of down runs, as far as it can.
    """
    try:
        guest.check("set -e\n" + "\n".join(up))
        yield
    except BaseException:
        guest.run("\n".join(down))
        raise
    guest.check("set -e\n" + "\n".join(down))


def ram_disk(server, mebibytes):
    return steps(server.guest, [f"modprobe brd rd_nr=1 rd_size={mebibytes * 1024}"],
                 ["modprobe -r brd"])


@contextlib.contextmanager
def nfs(server, client, options):
    """An ext4 file system of the server at NFS_MOUNT of the client."""
    export = steps(
        server.guest,
        [f"mkfs.ext4 -q {RAM_DISK}", f"mkdir -p {NFS_EXPORT}", f"mount {RAM_DISK} {NFS_EXPORT}",
         "modprobe -a nfsd rpcrdma", "mount -t nfsd nfsd /proc/fs/nfsd", "mkdir -p /run/rpcbind",
         "rpcbind -w", "rpc.mountd",
         f"exportfs -i -o rw,no_root_squash,insecure,fsid=0 '*:{NFS_EXPORT}'",
         f"rpc.nfsd --rdma={NFS_RDMA_PORT} --grace-time 1 4",
         "echo Y >/proc/fs/nfsd/v4_end_grace"],
        ["rpc.nfsd 0", "exportfs -ua", "kill $(pidof rpc.mountd)", "kill $(pidof rpcbind)",
         "umount /proc/fs/nfsd", f"umount {NFS_EXPORT}"])
    # NFSv4 sees the export as its root, NFSv3 by its name.
    path = NFS_EXPORT if "vers=3" in options else "/"
    mount = steps(
        client.guest,
        ["modprobe -a nfs rpcrdma", f"mkdir -p {NFS_MOUNT}",
         f"mount -t nfs -o rdma,port={NFS_RDMA_PORT},{options} {server.ipv4}:{path} {NFS_MOUNT}"],
        [f"umount {NFS_MOUNT}"])
    with export, mount:
        yield


def fio(guest, path, mebibytes, seconds, engine="libaio"):
    """Mixed random reads and writes, each block read back and its CRC-32C checked.

    Passes over mebibytes of path, each with a seed of its own, until seconds
    have passed; one at least. Returns what was done.
    """
    total = dict(passes=0, written=0, read=0, operations=0, milliseconds=0)
    end = time.monotonic() + seconds
    while total["passes"] == 0 or time.monotonic() < end:
        guest.check(
            f"fio --name=verify --filename={path} --size={mebibytes}M --rw=randrw "
            f"--bsrange=4k-256k --ioengine={engine} --direct=1 --iodepth=16 "
            f"--verify=crc32c --verify_fatal=1 --verify_backlog=64 --randseed={total['passes'] + 1} "
            "--output-format=json --output=/tmp/fio.json", timeout=300)
        job = json.loads(guest.check("cat /tmp/fio.json"))["jobs"][0]
        assert job["error"] == 0
        total["passes"] += 1
        total["written"] += job["write"]["io_bytes"]
        total["read"] += job["read"]["io_bytes"]
        total["operations"] += job["read"]["total_ios"] + job["write"]["total_ios"]
        total["milliseconds"] += job["job_runtime"]
    assert total["written"] > 0
    return total


def describe(total):
    """A line of figures."""
    seconds = total["milliseconds"] / 1000
    moved = total["written"] + total["read"]
    return (f"{total['passes']} passes, {seconds:.0f} s: {total['written'] / 1e6:.0f} MB written "
            f"and verified, {moved / 1e6 / seconds:.1f} MB/s, "
            f"{total['operations'] / seconds:.0f} operations/s")
