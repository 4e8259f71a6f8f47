# SPDX-License-Identifier: GPL-2.0-or-later
"""One rank of an MPI program that checks all that it gets; run in the guests by test_mpi.py.

Messages between all ranks, small and large; collective operations; one-sided PUT, GET and atomics.
"""
import struct

from mpi4py import MPI

SIZES = (0, 1, 1000, 65536, 1 << 20)  # bytes; UCX sends the largest by rendezvous
HALF = 65536  # bytes: the first half of a window is read, the second written

world = MPI.COMM_WORLD
rank, ranks = world.Get_rank(), world.Get_size()


def payload(source, size, seed):
    """What rank source sends."""
    pattern = bytes((source * 37 + seed * 11 + i * 7) & 255 for i in range(251))
    return (pattern * (size // 251 + 1))[:size]


def check(got, expected, what):
    if bytes(got) != expected:
        raise SystemExit(f"rank {rank}: wrong data: {what}")


def neighbours():
    """Whom this rank sends to, and who sends to it, in each step."""
    return [(step, (rank + step) % ranks, (rank - step) % ranks) for step in range(1, ranks)]


for size in SIZES:
    for step, to, source in neighbours():
        got = bytearray(size)
        world.Sendrecv([payload(rank, size, step), MPI.BYTE], to, step, [got, MPI.BYTE], source, step)
        check(got, payload(source, size, step), f"{size} bytes from rank {source}")

if world.allreduce(rank + 1) != ranks * (ranks + 1) // 2:
    raise SystemExit("wrong sum")
if world.alltoall([(rank, to) for to in range(ranks)]) != [(source, rank) for source in range(ranks)]:
    raise SystemExit("wrong exchange")

window = MPI.Win.Allocate(2 * HALF, comm=world)
window.tomemory()[:HALF] = payload(rank, HALF, 0)
for step, to, source in neighbours():
    window.Fence()
    # MPI may read what is PUT until the next Fence, and mpi4py does not keep it.
    sent, got = payload(rank, HALF, step), bytearray(HALF)
    window.Put([sent, MPI.BYTE], to, HALF)
    window.Get([got, MPI.BYTE], to, 0)
    window.Fence()
    check(window.tomemory()[HALF:], payload(source, HALF, step), f"PUT of rank {source}")
    check(got, payload(to, HALF, 0), f"GET from rank {to}")

counter = MPI.Win.Allocate(8, comm=world)
counter.tomemory()[:] = bytes(8)
counter.Fence()
seen = []
for _ in range(100):
    one, old = struct.pack("<q", 1), bytearray(8)
    counter.Lock(0, MPI.LOCK_SHARED)
    counter.Fetch_and_op([one, MPI.INT64_T], [old, MPI.INT64_T], 0)
    counter.Unlock(0)
    seen += struct.unpack("<q", old)
# Each value has been seen once, by one of the ranks.
everyones = sorted(value for values in world.allgather(seen) for value in values)
if everyones != list(range(100 * ranks)):
    raise SystemExit("wrong counts of atomics")

print(f"rank {rank} of {ranks} on {MPI.Get_processor_name()}: all data right", flush=True)
counter.Free()
window.Free()
