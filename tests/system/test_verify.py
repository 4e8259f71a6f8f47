# SPDX-License-Identifier: GPL-2.0-or-later
"""Our own client and server, which check every byte (tests/client)."""
import pytest

from pairs import BY_NIGHT_WITH_VIRTIO, TWO_ALIKE, WITH_RXE, has_rxe
from verifying import NOT_EMPTY, verify

LONG = 900  # seconds; a GiB takes long, and with sanitizers longer


# [IBTA 9.3.4-1] [IBTA 9.7.5.2.1-1] [IBTA CA17-22]
@pytest.mark.parametrize("suite", ["opcodes", "datagrams", "errors"])
def test_verify(fabric, suite):
    verify(fabric, suite, timeout=LONG)


@TWO_ALIKE
@BY_NIGHT_WITH_VIRTIO
def test_maximum(fabric):
    verify(fabric, "maximum", timeout=LONG)


@pytest.mark.nightly
@WITH_RXE
def test_maximum_with_rxe(fabric):
    verify(fabric, "maximum", timeout=LONG)


@pytest.mark.parametrize("options", [
    "--qps 1 --depth 1 --messages 300",
    "--qps 4 --depth 8 --messages 500",
], ids=["one", "four"])
def test_stream(fabric, options):
    verify(fabric, f"stream {options} {NOT_EMPTY if has_rxe(fabric) else ''}")


# Not with rxe: where packets are lost, as under this load, two rxe guests fail
# it as well (a READ sent again that overtakes itself, for one).
@TWO_ALIKE
@pytest.mark.parametrize("options", [
    pytest.param("--qps 8 --depth 32 --messages 2000", marks=BY_NIGHT_WITH_VIRTIO),
    "--qps 64 --depth 64 --messages 200 --max-size 4096",
], ids=["eight", "sixty-four"])
def test_dense_stream(fabric, options):
    verify(fabric, f"stream {options}")
