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
NVME_SUBSYSTEM = "test"
NVME_PORT = 4420
ISCSI_TARGET = "iqn.2026-01.test:disk"
ISCSI_PORT = 3260
CONFIG = "/sys/kernel/config"
MOUNT_CONFIG = f"{{ mountpoint -q {CONFIG} || mount -t configfs configfs {CONFIG}; }}"


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


@contextlib.contextmanager
def nvme(server, client):
    """The server's RAM disk as a block device of the client: its path."""
    tree = f"{CONFIG}/nvmet"
    subsystem, port = f"{tree}/subsystems/{NVME_SUBSYSTEM}", f"{tree}/ports/1"
    target = steps(
        server.guest,
        [MOUNT_CONFIG, "modprobe nvmet-rdma", f"mkdir {subsystem}",
         f"echo 1 >{subsystem}/attr_allow_any_host", f"mkdir {subsystem}/namespaces/1",
         f"echo {RAM_DISK} >{subsystem}/namespaces/1/device_path",
         f"echo 1 >{subsystem}/namespaces/1/enable", f"mkdir {port}",
         f"echo rdma >{port}/addr_trtype", f"echo ipv4 >{port}/addr_adrfam",
         f"echo {server.ipv4} >{port}/addr_traddr", f"echo {NVME_PORT} >{port}/addr_trsvcid",
         f"ln -s {subsystem} {port}/subsystems/"],
        [f"rm -f {port}/subsystems/{NVME_SUBSYSTEM}", f"rmdir {port}",
         f"echo 0 >{subsystem}/namespaces/1/enable", f"rmdir {subsystem}/namespaces/1",
         f"rmdir {subsystem}", "modprobe -r nvmet-rdma"])
    # Queues for reads, for writes and for polled requests: a QP each.
    connection = steps(
        client.guest,
        ["modprobe nvme-rdma",
         f"nvme connect -t rdma -a {server.ipv4} -s {NVME_PORT} -n {NVME_SUBSYSTEM} "
         "--nr-write-queues=1 --nr-poll-queues=1",
         "until [ -b /dev/nvme0n1 ]; do :; done"],
        [f"nvme disconnect -n {NVME_SUBSYSTEM}", "modprobe -r nvme-rdma"])
    with target, connection:
        yield "/dev/nvme0n1"


@contextlib.contextmanager
def iser(server, client):
    """The server's RAM disk as a SCSI disk of the client: its path."""
    tree = f"{CONFIG}/target"
    store, group = f"{tree}/core/iblock_0/disk", f"{tree}/iscsi/{ISCSI_TARGET}/tpgt_1"
    portal = f"{group}/np/{server.ipv4}:{ISCSI_PORT}"
    target = steps(
        server.guest,
        [MOUNT_CONFIG, "mkdir -p /etc/target",
         "modprobe -a iscsi_target_mod target_core_iblock ib_isert",
         f"mkdir -p {store}", f"echo udev_path={RAM_DISK} >{store}/control",
         f"echo 1 >{store}/enable", f"mkdir -p {tree}/iscsi", f"mkdir -p {group}",
         f"mkdir -p {group}/lun/lun_0", f"ln -s {store} {group}/lun/lun_0/disk",
         *(f"echo {value} >{group}/attrib/{name}" for name, value in (
             ("authentication", 0), ("generate_node_acls", 1), ("cache_dynamic_acls", 1),
             ("demo_mode_write_protect", 0))),
         f"mkdir -p {portal}", f"echo 1 >{portal}/iser", f"echo 1 >{group}/enable"],
        [f"echo 0 >{group}/enable", f"rmdir {portal}", f"rm {group}/lun/lun_0/disk",
         f"rmdir {group}/lun/lun_0", f"rmdir {group}", f"rmdir {tree}/iscsi/{ISCSI_TARGET}",
         f"rmdir {tree}/iscsi", f"rmdir {store}", f"rmdir {tree}/core/iblock_0",
         "modprobe -r ib_isert"])
    node = f"iscsiadm -m node -T {ISCSI_TARGET} -p {server.ipv4}:{ISCSI_PORT}"
    session = steps(
        client.guest,
        ["modprobe -a ib_iser sd_mod", "mkdir -p /run/lock/iscsi",
         "echo InitiatorName=iqn.2026-01.test:client >/etc/iscsi/initiatorname.iscsi",
         "pidof iscsid || iscsid", f"{node} -I iser -o new", f"{node} --login",
         "until [ -b /dev/sda ]; do :; done"],
        [f"{node} --logout", f"{node} -o delete", "iscsiadm -k 0", "modprobe -r ib_iser"])
    with target, session:
        yield "/dev/sda"


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
