# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kinds of guests a test is for; the first is the server."""
import pytest

PAIRS = [("pvrdma", "pvrdma"), ("pvrdma", "rxe"), ("rxe", "pvrdma"),
         ("virtio-rdma", "virtio-rdma"), ("virtio-rdma", "rxe"), ("rxe", "virtio-rdma"), ("pvrdma", "virtio-rdma")]
# Of these every run has the programs of the distribution alone, without perftest.
PAIRS_BY_NIGHT = ("virtio-rdma-rxe", "rxe-virtio-rdma", "pvrdma-virtio-rdma")
DEVICES = ("pvrdma", "virtio-rdma")  # ours
WITH_RXE = pytest.mark.parametrize("fabric", [pair for pair in PAIRS if "rxe" in pair], ids="-".join, indirect=True)
TWO_PVRDMA = pytest.mark.parametrize("fabric", PAIRS[:1], ids="-".join, indirect=True)
ALIKE = [(kind, kind) for kind in DEVICES]
ALIKE_AND_RXE = [*ALIKE, ("pvrdma", "rxe")]
TWO_ALIKE = pytest.mark.parametrize("fabric", ALIKE, ids="-".join, indirect=True)
# What every run has with pvrdma alone.
BY_NIGHT_WITH_VIRTIO = pytest.mark.nightly_with("virtio-rdma")


def pvrdma_by_day(values, with_both):
    """Values of a parameter: those in with_both for every run with either device, the others with pvrdma alone."""
    return [value if value in with_both else pytest.param(value, marks=BY_NIGHT_WITH_VIRTIO) for value in values]


def by_night(*values, id=None):
    """Values of a parameter whose tests are too long for every run."""
    return pytest.param(*values, marks=pytest.mark.nightly, id=id)


def has_rxe(fabric):
    return "rxe" in [node.kind for node in fabric.nodes]
