# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that migrate between QEMU processes in the middle of transfers.

RDMA_MIGRATIONS: how many times a guest migrates in a row where that counts (4).
"""
import concurrent.futures
import json
import os
import pathlib
import subprocess
import time

import pytest

from pairs import ALIKE_AND_RXE, BY_NIGHT_WITH_VIRTIO, DEVICES, TWO_ALIKE, TWO_PVRDMA, has_rxe
from pinging import wait_cm_listener
from storage import nfs, ram_disk
from test_programs import both, expect_success
from verifying import NOT_EMPTY, PROGRAM, Stream
from vm.fabric import Fabric, Node
from vm.migration import NO_LIMIT, set_capabilities
from vm.switch import Switch

MIGRATIONS = int(os.environ.get("RDMA_MIGRATIONS", "4"))
PERFTEST_PORT = 18515
PATIENCE_PORT = 18601
DENSE = "--qps 64 --depth 64 --max-size 2048"
SPARSE = f"--qps 4 --depth 8 {NOT_EMPTY}"  # what an rxe guest is up to, see docs/testing.md


@pytest.fixture(scope="module", params=ALIKE_AND_RXE, ids="-".join)
def fabric(request, tmp_path_factory, image, payload):
    """Two guests, each with a second place to migrate to, all at one switch."""
    directory = tmp_path_factory.mktemp("migration")
    switch = Switch(os.environ["RDMA_SWITCH"], directory, 4)
    pair = Fabric(request.param, directory, image, payload=payload,
                  each=[{"netdev": switch.netdev(n), "spare": switch.netdev(n + 1)} for n in (0, 2)])
    pair.switch = switch
    yield pair
    pair.stop()
    switch.stop()


def stream_options(fabric):
    return SPARSE if has_rxe(fabric) else DENSE


@pytest.fixture
def stream(fabric):
    """Verified traffic, which must go on to the end of the test and then be complete."""
    traffic = Stream(*fabric.nodes, stream_options(fabric))
    yield traffic
    traffic.expect_progress()
    traffic.end()


def identity(node):
    """What must stay as it is: numbers, keys, states and addresses, as the guest sees them."""
    show = {kind: json.loads(node.guest.check(f"rdma -j -d resource show {kind}"))
            for kind in ("qp", "cq", "mr", "pd")}
    moving = ("sq-psn", "rq-psn", "users")
    objects = {kind: [{key: value for key, value in entry.items() if key not in moving} for entry in found]
               for kind, found in show.items()}
    gids = node.guest.check(f"cat /sys/class/infiniband/{node.device}/ports/1/gids/*")
    return objects, gids


def test_back_and_forth(fabric, stream):
    """Numbers and keys stay the same, and each QP goes on after each migration."""
    node = fabric.nodes[0]
    before = identity(node)
    assert len(before[0]["qp"]) >= int(stream_options(fabric).split()[1])
    errors = node.guest.stats()["completion-errors"]
    for _ in range(MIGRATIONS):
        node.migrate()
        stream.expect_progress()
        assert identity(node) == before
    assert node.guest.stats()["completion-errors"] == errors


@TWO_ALIKE
def test_both_at_once(fabric, stream):
    for _ in range(max(1, MIGRATIONS // 2)):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.migrate(), fabric.nodes))
        stream.expect_progress()


@TWO_ALIKE
@BY_NIGHT_WITH_VIRTIO
def test_with_loss(fabric, stream):
    before = fabric.switch.stats()["lost"]
    fabric.switch.faults(lose=0.01)
    try:
        for node in fabric.nodes:
            node.migrate()
            stream.expect_progress()
    finally:
        fabric.switch.faults()
    assert fabric.switch.stats()["lost"] > before


def test_programs(fabric):
    """perftest and rping meanwhile, on QPs of their own."""
    server, client, address, server_gid, client_gid = both(fabric)
    perftest = "ib_write_bw -F -s 65536 -D 30"
    running = [server.guest.start(f"{perftest} -d {server.device} -x {server_gid}")]
    server.guest.wait_listening(PERFTEST_PORT)
    running.append(client.guest.start(f"{perftest} -d {client.device} -x {client_gid} {address}"))
    running.append(server.guest.start(f"rping -s -a {address} -C 1000000"))
    wait_cm_listener(server)
    pings = client.guest.start(f"rping -c -a {address} -v -V -C 1000000")
    for node in (server, client, server):
        if node.kind in DEVICES:
            node.migrate()
        so_far = pings.output.count("ping data")
        pings.wait_until(lambda output: output.count("ping data") > so_far + 10)
        packets = server.guest.stats()["rx-packets"]
        server.guest.wait_stats(lambda stats: stats["rx-packets"] > packets + 1000)
    assert running[0].status is None and running[1].status is None, "perftest has ended too early"
    expect_success([process.wait() for process in running[:2]])
    client.guest.check("kill -TERM $(pidof rping)")
    pings.wait()
    running[2].kill()
    running[2].wait()


@TWO_ALIKE
@BY_NIGHT_WITH_VIRTIO
def test_nfs(fabric):
    """Files are copied to an NFS mount, read back from the server and compared, without end."""
    server, client = fabric.nodes
    client.guest.check("head -c 16M /dev/urandom >/tmp/data")
    with ram_disk(server, 64), nfs(server, client, "vers=4.2"):
        copying = client.guest.start(
            "rm -f /tmp/enough; n=0; until [ -e /tmp/enough ]; do n=$((n+1)); "
            "cp /tmp/data /mnt/nfs/copy && sync && echo 3 >/proc/sys/vm/drop_caches && "
            "cmp /tmp/data /mnt/nfs/copy && rm /mnt/nfs/copy && echo copy $n is right || exit 1; done")
        copying.wait_output("copy 1 is right")
        for node in (server, client):
            node.migrate()
            so_far = copying.output.count("is right")
            copying.wait_until(lambda output: output.count("is right") > so_far + 1, 120)
        client.guest.check("touch /tmp/enough")
        assert copying.wait().status == 0, copying.output


@TWO_ALIKE
@BY_NIGHT_WITH_VIRTIO
def test_multifd(fabric, stream):
    fabric.nodes[0].migrate(capabilities=["multifd"])


@TWO_ALIKE
def test_post_copy(fabric, stream):
    """The guest runs at the destination before its memory has come."""
    migration = fabric.nodes[0].migration(capabilities=["postcopy-ram"],
                                          parameters={"max-bandwidth": 20 << 20})
    migration.start()
    migration.wait("active")
    migration.source.qmp.command("migrate-start-postcopy")
    migration.wait("postcopy-active")
    info = migration.complete()
    assert info["ram"]["postcopy-requests"] > 0


# Stopped and started without a migration


@BY_NIGHT_WITH_VIRTIO
def test_stop_and_continue(fabric, stream):
    node = fabric.nodes[0]
    before = node.guest.stats()["stopped-rnr-naks-sent"]
    node.guest.qmp.command("stop")
    # The peer asks again and again, and is put off.
    node.guest.wait_stats(lambda stats: stats["stopped-rnr-naks-sent"] >= before + 4)
    node.guest.qmp.command("cont")


def expect_untouched(node, migration):
    """After a migration that came to nothing: the guest has not been stopped."""
    assert node.guest.qmp.command("query-status")["status"] == "running"
    assert not [event for event in migration.source.qmp.events if event["event"] == "STOP"]


@BY_NIGHT_WITH_VIRTIO
def test_cancelled(fabric, stream):
    node = fabric.nodes[0]
    migration = node.migration(parameters={"max-bandwidth": 4 << 20})
    migration.start()
    migration.wait("active")
    migration.source.qmp.command("migrate_cancel")
    migration.wait("cancelled")
    expect_untouched(node, migration)
    migration.give_up()


@BY_NIGHT_WITH_VIRTIO
def test_destination_dies(fabric, stream):
    node = fabric.nodes[0]
    migration = node.migration(parameters={"max-bandwidth": 4 << 20})
    migration.start()
    migration.wait("active")
    migration.destination.process.kill()
    migration.wait("failed")
    expect_untouched(node, migration)
    migration.give_up()


@pytest.mark.parametrize("end", ["cancelled", "killed"])
@BY_NIGHT_WITH_VIRTIO
def test_comes_to_nothing_when_stopped(fabric, stream, end):
    """The guest is stopped already and all but the devices has been sent: it goes on where it is."""
    node = fabric.nodes[0]
    migration = node.migration(capabilities=["pause-before-switchover"])
    migration.start()
    migration.wait("pre-switchover")
    assert node.guest.qmp.command("query-status")["running"] is False
    if end == "cancelled":
        migration.source.qmp.command("migrate_cancel")
    else:
        migration.destination.process.kill()
        migration.source.qmp.command("migrate-continue", state="pre-switchover")
    migration.wait("cancelled" if end == "cancelled" else "failed")
    migration.source.qmp.wait_event("RESUME")
    migration.give_up()


# Destinations that do not fit


@TWO_PVRDMA
@pytest.mark.parametrize("properties, message", [
    ({"max-qp": 1024}, "property 'max-qp' is 1024 here and 32768 in the saved state"),
    ({"max-mr": 1000}, "property 'max-mr' is 1000 here and 262144 in the saved state"),
    ({"version": 19}, "property 'version' is 19 here and 20 in the saved state"),
    ({"roce": "v1"}, "property 'roce' is 1 here and 2 in the saved state"),
], ids=["max-qp", "max-mr", "version", "roce"])
def test_refused(fabric, stream, properties, message):
    node = fabric.nodes[0]
    expect_refusal(node, node.migration(properties=properties), message)


@TWO_ALIKE
def test_refused_without_the_device(fabric, stream):
    node = fabric.nodes[0]
    device = node.devices.pop(0)
    try:
        migration = node.migration()
    finally:
        node.devices.insert(0, device)
    expect_refusal(node, migration, node.kind)


def expect_refusal(node, migration, message):
    migration.start()
    migration.wait("failed")
    migration.destination.process.wait(60)
    assert message in migration.destination.output()
    expect_untouched(node, migration)
    migration.give_up()


# A peer that would not wait


def patience(server, client, while_stopped):
    """Has an impatient client send two messages, the second one while the server is stopped.

    Calls while_stopped(client's process) then, and returns the client's result.
    """
    suite = f"patience --port {PATIENCE_PORT}"
    serving = server.guest.start(
        f"{PROGRAM} -d {server.device} -g {server.gid_index(server.ipv4)} {suite}")
    server.guest.wait_listening(PATIENCE_PORT)
    client.guest.check("rm -f /tmp/go; mkfifo /tmp/go")
    sending = client.guest.start(
        f"exec 3<>/tmp/go; {PROGRAM} -d {client.device} -g {client.gid_index(client.ipv4)} {suite} "
        f"{server.ipv4} <&3")
    sending.wait_output("patience: connected")
    client.guest.check("echo >/tmp/go")
    sending.wait_output("message 0 has arrived")
    server.guest.qmp.command("stop")
    try:
        client.guest.check("echo >/tmp/go")
        sending.wait_output("message 1 is under way")
        while_stopped(sending)
    finally:
        server.guest.qmp.command("cont")
    sending.wait_output("message 1( has arrived|: )")
    if sending.status is None:
        client.guest.check("echo end >/tmp/go")
    result = sending.wait()
    assert serving.wait().status == result.status
    return result


@TWO_ALIKE
@BY_NIGHT_WITH_VIRTIO
def test_impatient_peer(fabric):
    """A peer that gives up after two times 4 ms stays for 2 s, because it is asked to.

    Not so rxe: its ACK timeout goes on while it waits as an RNR NAK says.
    """
    server, client = fabric.nodes
    before = server.guest.stats()["stopped-rnr-naks-sent"]
    # Not to wait for something: so long a stop is what is tested.
    result = patience(server, client, lambda sending: time.sleep(2))
    assert result.status == 0 and "message 1 has arrived" in result.output, result.output
    assert server.guest.stats()["stopped-rnr-naks-sent"] > before

    # A guest does not see the property, so that another QEMU may have another value.
    server.migrate(properties={"stopped-rnr-nak": False})
    result = patience(server, client, lambda sending: sending.wait())
    assert result.status == 1 and "message 1: transport retry counter exceeded" in result.output, result.output
    server.migrate()


# A guest alone, with QPs connected to each other


@pytest.fixture(scope="module")
def alone(tmp_path_factory, image, payload):
    """A guest with a disk for snapshots, whose memory is a file that two QEMUs can share."""
    directory = tmp_path_factory.mktemp("alone")
    memory = pathlib.Path(f"/dev/shm/{directory.name}-{os.getpid()}")
    disk = directory / "disk.qcow2"
    subprocess.run([f"{os.environ['RDMA_QEMU_BUILD']}/qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    arguments = ["-object", f"memory-backend-file,id=ram,size=512M,mem-path={memory},share=on",
                 "-machine", "memory-backend=ram",
                 "-drive", f"if=none,id=disk,format=qcow2,file={disk}"]
    switch = Switch(os.environ["RDMA_SWITCH"], directory, 2)
    node = Node("pvrdma", 1, directory, image, netdev=switch.netdev(0), spare=switch.netdev(1),
                memory="512M", payload=payload, arguments=arguments)
    try:
        node.configure()
        yield node
    finally:
        node.guest.stop()
        switch.stop()
        memory.unlink(missing_ok=True)


@pytest.fixture
def loop(alone):
    """Verified traffic of the guest with itself; its programs print nothing until their end."""
    traffic = Stream(alone, alone, "--qps 8 --depth 16 --max-size 4096", quiet=True)
    expect_loopback(alone)
    yield traffic
    expect_loopback(alone)
    traffic.end()


def expect_loopback(node):
    """Until 1000 more packets have gone from the guest to itself."""
    packets = node.guest.stats()["loopback-packets"]
    node.guest.wait_stats(lambda stats: stats["loopback-packets"] > packets + 1000)


def test_snapshot(alone, loop):
    """loadvm goes back to where savevm was, and from there on all is right again."""
    def monitor(line):
        assert alone.guest.qmp.command("human-monitor-command", **{"command-line": line}) == ""

    before = identity(alone)
    for _ in range(2):
        with alone.guest.silence():
            monitor("savevm before")
            saved = alone.guest.stats()["loopback-packets"]
        expect_loopback(alone)
        with alone.guest.silence():
            alone.guest.qmp.command("stop")
            monitor("loadvm before")
            assert alone.guest.stats()["loopback-packets"] <= saved
            alone.guest.qmp.command("cont")
        expect_loopback(alone)
        assert identity(alone) == before
    monitor("delvm before")


def test_shared_memory(alone, loop):
    """Guest memory stays where it is and is not sent."""
    for _ in range(2):
        info = alone.migrate(capabilities=["x-ignore-shared"])
        assert info["ram"]["transferred"] < 64 << 20
        expect_loopback(alone)


def test_file(alone, loop, tmp_path):
    before = identity(alone)
    state = tmp_path / "state"
    source = alone.guest.qemu
    with alone.guest.silence():
        set_capabilities(source.qmp, ["events"], True)
        source.qmp.command("migrate-set-parameters", **{"max-bandwidth": NO_LIMIT})
        source.qmp.events.clear()
        source.qmp.command("migrate", uri=f"file:{state}")
        event = source.qmp.wait_event(
            "MIGRATION", lambda data: data["status"] in ("completed", "failed"))
        assert event["data"]["status"] == "completed"
        alone.guest.adopt(alone.guest.start_qemu(extra=["-incoming", "defer"]))
        source.stop()
        alone.guest.qmp.command("migrate-incoming", uri=f"file:{state}")
        alone.guest.qmp.wait_event("RESUME")
    expect_loopback(alone)
    assert identity(alone) == before
