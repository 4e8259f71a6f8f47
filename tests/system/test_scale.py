# SPDX-License-Identifier: GPL-2.0-or-later
"""Very many queue pairs and memory regions at once, and what they cost QEMU.

RDMA_SCALE=CONNECTIONS,REGIONS changes how many.
"""
import os

import pytest

from verifying import Scale
from vm.fabric import Fabric
from vm.memory import own_memory, shared_ram

RAM = "2G"
CONNECTIONS, REGIONS = map(int, os.environ.get("RDMA_SCALE", "1000,10000").split(","))
ROUNDS = 3
# With sanitizers QEMU has more, which they keep back: then only the traffic is tested.
IS_BOUNDED = "QEMU_RDMA_SANITIZE" not in os.environ
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(scope="module")
def fabric(tmp_path_factory, image, payload):
    """Two guests whose RAM is told apart from what their QEMUs allocate."""
    pair = Fabric(("pvrdma", "pvrdma"), tmp_path_factory.mktemp("scale"), image, payload=payload,
                  memory=RAM, arguments=shared_ram(RAM))
    yield pair
    pair.stop()


def memory_of(fabric):
    return [own_memory(node.guest.process.pid) for node in fabric.nodes]


def end(run):
    print(run.end())
    for guest in run.guests:
        counters = guest.stats()
        print({name: counters[name] for name in (
            "tx-packets", "retransmitted-packets", "timeouts", "drop-congestion", "drop-overload")})


def test_many_connections_move_data_at_once(fabric):
    def run(connections):
        run = Scale(fabric, f"--connections {connections}")
        run.wait_held("holding")
        held = memory_of(fabric)
        run.go_on()
        end(run)
        return held, memory_of(fabric)

    # What QEMU and its translator need in any case, they have after this.
    _, idle = run(100)
    first, _ = run(CONNECTIONS)
    run(100)
    second, after = run(CONNECTIONS)
    for node in range(2):
        each = (first[node] - idle[node]) / CONNECTIONS
        print(f"QEMU {node + 1}: {idle[node] / MIB:.1f} MiB before, {first[node] / MIB:.1f} and "
              f"{second[node] / MIB:.1f} MiB with {CONNECTIONS} QPs in use ({each:.0f} bytes each), "
              f"{after[node] / MIB:.1f} MiB after")
        assert each <= 4 * KIB or not IS_BOUNDED
        assert second[node] <= first[node] + 2 * MIB or not IS_BOUNDED


def test_memory_of_freed_regions_is_used_again(fabric):
    run = Scale(fabric, f"--connections 0 --regions {REGIONS} --rounds {ROUNDS}")
    memory = []
    for number in range(1, ROUNDS + 1):
        run.wait_held(f"round {number}:")
        memory.append(memory_of(fabric))
        run.go_on()
    end(run)
    for node in range(2):
        print(f"QEMU {node + 1}: " + ", ".join(f"{m[node] / MIB:.2f}" for m in memory) +
              f" MiB after each round of {REGIONS} regions")
        assert memory[-1][node] <= memory[1][node] + MIB or not IS_BOUNDED
