# SPDX-License-Identifier: GPL-2.0-or-later
"""UCX, libfabric and Open MPI between two guests, on the device's default properties."""
import pathlib
import re

import pytest

from pairs import BY_NIGHT_WITH_VIRTIO, TWO_ALIKE, pvrdma_by_day
from test_programs import expect_success
from vm.fabric import run_pair

pytestmark = TWO_ALIKE

RANKS = pathlib.Path(__file__).with_name("mpi_ranks.py")
UCX_PORT = 13337
LIBFABRIC_PORT = 47592
# The transports of UCX_TLS and the lanes that UCX then reports. rc_v connects its queue pairs over a UD one.
TRANSPORTS = {"rc_v": {"rc_verbs"}, "ud_v": {"ud_verbs"}, "rc_v,ud_v": {"rc_verbs"}}


def ucx_environment(node, transports):
    """The settings that UCX needs: docs/pvrdma.md says why."""
    return {"UCX_TLS": transports, "UCX_NET_DEVICES": f"{node.device}:1", "UCX_IB_GID_INDEX": "0",
            "UCX_LOG_LEVEL": "info"}


def lanes(output, device):
    """The transports that UCX has said it uses on the device."""
    return set(re.findall(rf"(\w+)/{device}:1", "".join(re.findall(r"ep_cfg\[\d+\]: (.*)", output))))


def test_ucx_lists_both_transports(fabric):
    for node in fabric.nodes:
        listed = node.guest.check("ucx_info -d")
        found = re.findall(rf"Transport: (\w+)\n#\s+Device: {node.device}:1", listed)
        assert set(found) == {"rc_verbs", "ud_verbs"}, listed
        assert "ERROR" not in listed, listed


@pytest.mark.parametrize("test", pvrdma_by_day([
    "tag_lat -s 8 -n 300", "tag_bw -s 65536 -n 100", "ucp_put_lat -s 8 -n 300", "ucp_put_bw -s 65536 -n 100",
    "ucp_get -s 65536 -n 50", "ucp_fadd -s 8 -n 300", "ucp_add -s 8 -n 300",
], ["tag_bw -s 65536 -n 100", "ucp_put_bw -s 65536 -n 100", "ucp_fadd -s 8 -n 300"]))
@pytest.mark.parametrize("transports", TRANSPORTS)
def test_ucx_perftest(fabric, transports, test):
    server, client = fabric.nodes
    settings = [" ".join(f"{name}={value}" for name, value in ucx_environment(node, transports).items())
                for node in fabric.nodes]
    results = run_pair(server, client, f"{settings[0]} ucx_perftest",
                       f"{settings[1]} ucx_perftest -t {test} {server.ipv4}", UCX_PORT)
    expect_success(results)
    output = results[1].output
    iterations = re.search(r"^Final:\s+(\d+)", output, re.MULTILINE)
    assert iterations and iterations[1] == test.split()[-1], output
    assert lanes(output, client.device) == TRANSPORTS[transports], output
    assert "ERROR" not in output, output


@pytest.mark.parametrize("endpoint", ["-e msg -p verbs", "-e rdm -p 'verbs;ofi_rxm'"], ids=["msg", "rdm"])
def test_libfabric_pingpong(fabric, endpoint):
    """-c compares every byte."""
    server, client = fabric.nodes
    command = f"fi_pingpong -c -I 50 -S 65536 {endpoint} -d"
    results = run_pair(server, client, f"{command} {server.device}",
                       f"{command} {client.device} {server.ipv4}", LIBFABRIC_PORT)
    expect_success(results)
    # As many sent as acknowledged.
    assert re.search(r"^\S+\s+50\s+=50\s", results[1].output, re.MULTILINE), results[1].output


FI_RMA_BW = "/payload/fi-rma-bw"
RMA_PORT = 18602
PROVIDERS = {"msg": "verbs", "rdm": "verbs;ofi_rxm"}


def run_rma(fabric, options, server_options="", client_options=""):
    server, client = fabric.nodes
    return run_pair(
        server, client, f"{FI_RMA_BW} {options} -d {server.device} {server_options}",
        f"{FI_RMA_BW} {options} -d {client.device} {client_options} {server.ipv4}", RMA_PORT)


@pytest.mark.parametrize("endpoint", PROVIDERS)
def test_libfabric_rma_bandwidth(fabric, endpoint):
    """fi_write and fi_read of 1 B to 1 MiB, all of whose data the program checks."""
    results = run_rma(fabric, f"-e {endpoint} -W 16 -n 2")
    expect_success(results)
    output = results[1].output
    print(output)
    assert f"provider {PROVIDERS[endpoint]}, domain {fabric.nodes[1].device}\n" in output
    measured = re.findall(r"^(write|read) +(\d+) +32 .* [\d.]+ +[\d.]+$", output, re.MULTILINE)
    assert measured == [(name, str(2**n)) for name in ("write", "read") for n in range(21)], output


@BY_NIGHT_WITH_VIRTIO
@pytest.mark.parametrize("operation, damaged", [("write", 1), ("read", 0)])
def test_libfabric_rma_finds_a_damaged_bit(fabric, operation, damaged):
    """Who fills the memory damages it; who receives the data says so."""
    options = ["", ""]
    options[damaged] = "--damage"
    found = run_rma(fabric, "-e msg -W 2 -n 1", *options)[1 - damaged]
    assert found.status == 1, found
    assert f"fi-rma-bw: {operation} of 1 bytes: wrong byte" in found.output, found.output


def run_ranks(server, client, transports):
    """mpi_ranks.py, two ranks in each guest; returns mpirun's result.

    mpirun asks an agent to start its daemon in the other guest: ours leaves the command in a file, and the
    test runs it there.
    """
    agent = ("cat >/tmp/agent <<'END'\n#!/bin/sh\n"
             "shift\necho \"$*\" >/tmp/launch.new && mv /tmp/launch.new /tmp/launch\nEND\n"
             "chmod +x /tmp/agent && rm -f /tmp/launch")
    for node in (server, client):
        node.guest.check(f"{agent} && cat >/tmp/mpi_ranks.py <<'END'\n{RANKS.read_text()}\nEND\n"
                         f"hostname {node.guest.name}")
    settings = " ".join(f"-x {name}={value}" for name, value in ucx_environment(server, transports).items())
    running = server.guest.start(
        "mpirun --allow-run-as-root --mca plm_rsh_agent /tmp/agent --mca oob_tcp_if_include eth0 "
        f"--mca pml ucx --mca osc ucx {settings} --host {server.ipv4}:2,{client.ipv4}:2 -n 4 "
        "python3 -m mpi4py /tmp/mpi_ranks.py")  # which ends all ranks with one that fails
    server.guest.check("until [ -e /tmp/launch ]; do :; done", timeout=120)
    daemon = client.guest.start(server.guest.check("cat /tmp/launch"))
    try:
        return running.wait(timeout=300)
    finally:
        running.kill()
        daemon.kill()


@pytest.mark.parametrize("transports", pvrdma_by_day(["rc_v,sm,self", "rc_v,self", "ud_v,self"], ["rc_v,self"]))
def test_open_mpi(fabric, transports):
    """Two ranks in each guest; without sm those of one guest use the device among themselves, too."""
    server, client = fabric.nodes
    result = run_ranks(server, client, transports)
    assert result.status == 0, result
    for rank in range(4):
        name = fabric.nodes[rank // 2].guest.name
        assert f"rank {rank} of 4 on {name}: all data right" in result.output, result.output
    expected = "ud_verbs" if "ud_v" in transports else "rc_verbs"
    assert lanes(result.output, server.device) == {expected}, result.output
