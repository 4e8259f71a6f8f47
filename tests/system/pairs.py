# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kinds of guests a test is for; the first is the server."""
import pytest

PAIRS = [("pvrdma", "pvrdma"), ("pvrdma", "rxe"), ("rxe", "pvrdma")]
WITH_RXE = pytest.mark.parametrize("fabric", PAIRS[1:], ids="-".join, indirect=True)
TWO_PVRDMA = pytest.mark.parametrize("fabric", PAIRS[:1], ids="-".join, indirect=True)


def has_rxe(fabric):
    return "rxe" in [node.kind for node in fabric.nodes]
