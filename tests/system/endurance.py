# SPDX-License-Identifier: GPL-2.0-or-later
"""Mixed load for a long time on a network that loses 1 % of the frames.

Not collected with the other tests: tools/test endurance [MINUTES]. Every byte is checked at its
receiver, and QEMU's memory must not grow once it is warm.
"""
import os
import time

import pytest

from pinging import ping
from test_perftest_modes import commands
from test_programs import both, expect_success
from vm.fabric import Fabric, run_pair
from vm.memory import own_memory, shared_ram
from vm.switch import Switch

PROGRAM = "/payload/rdma-verify"
SECONDS = 60 * float(os.environ.get("RDMA_ENDURANCE_MINUTES", "30"))
pytestmark = pytest.mark.timeout(SECONDS + 1800)
RAM = "1G"
FAULTS = {"lose": 0.01, "repeat": 0.002, "reorder": 0.002, "corrupt": 0.001}
MIB = 1 << 20
WARM_UP = 0.25  # of the time
ALLOWED_GROWTH = MIB  # what an allocator's order of use may make
# In the background all the time: port, options. Large messages on few QPs, small ones on many.
STREAMS = [(18601, "--qps 4 --depth 8 --max-size 65536 --seed 1"),
           (18602, "--qps 64 --depth 16 --max-size 2048 --seed 2")]


@pytest.fixture
def fabric(tmp_path, image, payload):
    switch = Switch(os.environ["RDMA_SWITCH"], tmp_path, 2)
    pair = Fabric(("pvrdma", "pvrdma"), tmp_path, image, payload=payload, memory=RAM,
                  arguments=shared_ram(RAM),
                  each=({"netdev": switch.netdev(0)}, {"netdev": switch.netdev(1)}))
    pair.switch = switch
    yield pair
    pair.stop()
    switch.stop()


def verify(fabric, port, arguments, timeout):
    server, client, address, server_gid, client_gid = both(fabric)
    expect_success(run_pair(
        server, client, f"{PROGRAM} -p {port} -d {server.device} -g {server_gid} {arguments}",
        f"{PROGRAM} -p {port} -d {client.device} -g {client_gid} {arguments} {address}", port,
        timeout))


def start_stream(fabric, port, arguments):
    server, client, address, server_gid, client_gid = both(fabric)
    command = f"{PROGRAM} -p {port} stream --seconds {SECONDS:.0f} {arguments}"
    serving = server.guest.start(f"{command} -d {server.device} -g {server_gid}")
    server.guest.wait_listening(port)
    return serving, client.guest.start(f"{command} -d {client.device} -g {client_gid} {address}")


def rping(fabric):
    ping(*fabric.nodes, 100, options="-V", timeout=300)


def write_bandwidth(fabric):
    test = "ib_write_bw -q 8 -s 65536 -n 200 -p 18605 -u 17"  # 0.5 s, as rdma-verify has it
    expect_success(run_pair(*fabric.nodes, *commands(fabric, test), 18605, 600))


# What comes and goes beside the streams, in turn. Not the suite of errors: a NAK that is lost is not sent
# again, as the QP is in the error state.
VISITORS = [
    lambda fabric: verify(fabric, 18603, "opcodes", 600),
    rping,
    lambda fabric: verify(fabric, 18604, "scale --connections 200 --regions 2000", 600),
    write_bandwidth,
]


def test_mixed_load(fabric):
    start = time.monotonic()
    fabric.switch.faults(**FAULTS)
    streams = [stream for port, arguments in STREAMS
               for stream in start_stream(fabric, port, arguments)]
    samples = []  # seconds, bytes of each QEMU
    visits = 0
    while (elapsed := time.monotonic() - start) < SECONDS:
        VISITORS[visits % len(VISITORS)](fabric)
        visits += 1
        for stream in streams:
            assert stream.status in (None, 0), stream.output
        samples.append((elapsed, [own_memory(node.guest.process.pid) for node in fabric.nodes]))
        print(f"{elapsed:5.0f} s: " +
              ", ".join(f"{memory / MIB:.2f} MiB" for memory in samples[-1][1]), flush=True)
    results = [stream.wait(600) for stream in streams]
    expect_success(results)
    fabric.switch.faults()
    network = fabric.switch.stats()
    print(f"{visits} visits; {network}")
    for node, result in zip((0, 1, 0, 1), results):
        print(f"stream, node {node + 1}: {result.output.splitlines()[-1]}")
    for node in fabric.nodes:
        counters = node.guest.stats()
        print({name: counters[name] for name in (
            "rx-packets", "tx-packets", "rx-bytes", "retransmitted-packets", "timeouts",
            "duplicate-requests", "drop-icrc", "completions")})
    assert network["lost"] > 0.005 * network["received"]
    warm = [memory for elapsed, memory in samples if elapsed >= WARM_UP * SECONDS]
    for node in range(2):
        before = max(memory[node] for memory in warm[:len(warm) // 2])
        after = max(memory[node] for memory in warm[len(warm) // 2:])
        assert after <= before + ALLOWED_GROWTH, f"QEMU {node + 1}: {before} bytes, then {after}"
