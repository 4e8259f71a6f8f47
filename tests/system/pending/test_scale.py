# SPDX-License-Identifier: GPL-2.0-or-later
"""Very many queue pairs and memory regions at once, and what they cost QEMU.

RDMA_SCALE=CONNECTIONS,REGIONS changes how many.
"""
import os

import pytest

from test_programs import both, expect_success
from vm.fabric import Fabric
from vm.memory import own_memory, shared_ram

PROGRAM = "/payload/rdma-verify"
PORT = 18600
RAM = "2G"
CONNECTIONS, REGIONS = map(int, os.environ.get("RDMA_SCALE", "1000,10000").split(","))
ROUNDS = 3
KIB, MIB = 1 << 10, 1 << 20
TIMEOUT = 900


@pytest.fixture(scope="module")
def fabric(tmp_path_factory, image, payload):
    """Two guests whose RAM is told apart from what their QEMUs allocate."""
    pair = Fabric(("pvrdma", "pvrdma"), tmp_path_factory.mktemp("scale"), image, payload=payload,
                  memory=RAM, arguments=shared_ram(RAM))
    yield pair
    pair.stop()


class Run:
    """The client on both guests, held where memory can be looked at."""

    def __init__(self, fabric, options):
        server, client, address, server_gid, client_gid = both(fabric)
        self.guests = [server.guest, client.guest]
        for guest in self.guests:
            guest.check("rm -f /tmp/hold && mkfifo /tmp/hold")
        command = f"{PROGRAM} scale {options} --hold /tmp/hold"
        self.processes = [server.guest.start(f"{command} -d {server.device} -g {server_gid}")]
        server.guest.wait_listening(PORT)
        self.processes.append(
            client.guest.start(f"{command} -d {client.device} -g {client_gid} {address}"))

    def own_memory(self):
        return [own_memory(guest.process.pid) for guest in self.guests]

    def wait_held(self, pattern):
        for process in self.processes:
            process.wait_output(pattern, TIMEOUT)
        return self.own_memory()

    def go_on(self):
        for guest in self.guests:
            guest.check(": > /tmp/hold")

    def expect_success(self):
        expect_success([process.wait(TIMEOUT) for process in self.processes])
        print(self.processes[1].output)
        for guest in self.guests:
            counters = guest.stats()
            print({name: counters[name] for name in (
                "tx-packets", "retransmitted-packets", "timeouts", "drop-congestion", "drop-overload")})


def test_many_connections_move_data_at_once(fabric):
    def run(connections):
        run = Run(fabric, f"--connections {connections}")
        held = run.wait_held("holding")
        run.go_on()
        run.expect_success()
        return held, run.own_memory()

    # What QEMU and its translator need in any case, they have after this.
    run(100)
    first, _ = run(CONNECTIONS)
    _, idle = run(100)
    second, after = run(CONNECTIONS)
    for node in range(2):
        each = (second[node] - idle[node]) / CONNECTIONS
        print(f"QEMU {node + 1}: {idle[node] / MIB:.1f} MiB before, {first[node] / MIB:.1f} and "
              f"{second[node] / MIB:.1f} MiB with {CONNECTIONS} QPs in use ({each:.0f} bytes each), "
              f"{after[node] / MIB:.1f} MiB after")
        assert each <= 4 * KIB
        assert second[node] <= first[node] + 2 * MIB


def test_memory_of_freed_regions_is_used_again(fabric):
    run = Run(fabric, f"--connections 0 --regions {REGIONS} --rounds {ROUNDS}")
    memory = []
    for number in range(1, ROUNDS + 1):
        memory.append(run.wait_held(f"round {number}:"))
        run.go_on()
    run.expect_success()
    for node in range(2):
        print(f"QEMU {node + 1}: " + ", ".join(f"{m[node] / MIB:.2f}" for m in memory) +
              f" MiB after each round of {REGIONS} regions")
        assert memory[-1][node] <= memory[1][node] + MIB
