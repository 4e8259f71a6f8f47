# SPDX-License-Identifier: GPL-2.0-or-later
"""What is on the wire, as tshark decodes it."""
import collections
import subprocess

import pytest

from pairs import DEVICES, TWO_PVRDMA
from pinging import ping
from test_programs import both, expect_success
from vm.fabric import MTU, run_pair

FIELDS = {
    "source": "ip.src", "opcode": "infiniband.bth.opcode", "psn": "infiniband.bth.psn",
    "ack_request": "infiniband.bth.a", "qpn": "infiniband.bth.destqp",
    "pkey": "infiniband.bth.p_key", "length": "infiniband.reth.dmalen",
    "syndrome": "infiniband.aeth.syndrome", "ttl": "ip.ttl", "checksum": "ip.checksum.status",
}
WRITE_FIRST, WRITE_MIDDLE, WRITE_LAST, READ_REQUEST = 6, 7, 8, 12
READ_FIRST, READ_MIDDLE, READ_LAST, ACKNOWLEDGE = 13, 14, 15, 17


def tshark(*arguments):
    # tshark guesses what a message carries; the guess is not about our packets.
    return subprocess.run(["tshark", "-n", "--disable-protocol", "rpcordma", *arguments],
                          check=True, capture_output=True, text=True).stdout


def packets(capture):
    """The RoCE packets of a capture."""
    lines = tshark("-r", str(capture), "-o", "ip.check_checksum:TRUE",
                   "-Y", "udp.dstport == 4791", "-T", "fields",
                   *(item for field in FIELDS.values() for item in ("-e", field)))
    Packet = collections.namedtuple("Packet", FIELDS)
    return [Packet(*line.split("\t")) for line in lines.splitlines()]


def expect_well_formed(capture):
    assert tshark("-r", str(capture), "-Y", "udp.port == 4791 and _ws.malformed") == ""


# [IBTA 9.2-1] [IBTA 9.2-6] [IBTA 9.2-8] [IBTA 9.3.3-1] [IBTA 9.7.1-3] [IBTA CA17-10]
@pytest.mark.parametrize("test, request_opcodes, response_opcodes", [
    ("ib_write_bw", [WRITE_FIRST, WRITE_MIDDLE, WRITE_LAST], [ACKNOWLEDGE]),
    ("ib_read_bw", [READ_REQUEST], [READ_FIRST, READ_MIDDLE, READ_LAST]),
], ids=["write", "read"])
def test_tshark_decodes_what_was_sent(fabric, tmp_path, test, request_opcodes, response_opcodes):
    server, client, address, server_gid, client_gid = both(fabric)
    size, count = 10000, 5  # three packets at an MTU of 4096
    command = f"{test} -s {size} -n {count} -m 4096 -F"
    capture = tmp_path / "capture.pcap"
    with server.capture(capture):
        expect_success(run_pair(
            server, client, f"{command} -d {server.device} -x {server_gid}",
            f"{command} -d {client.device} -x {client_gid} {address}", 18515))

    expect_well_formed(capture)
    seen = packets(capture)
    requests = [p for p in seen if p.source == client.ipv4]
    responses = [p for p in seen if p.source == server.ipv4]
    assert {int(p.opcode) for p in requests} == set(request_opcodes)
    assert {int(p.opcode) for p in responses} == set(response_opcodes)
    for packet in seen:
        assert int(packet.pkey, 0) == 0xffff
        assert int(packet.ttl) >= 1
        assert packet.checksum in ("Good", "1")
    lengths = [int(p.length) for p in requests if p.length]
    assert lengths == [size] * count
    # Each request's PSNs follow the last one's; a READ takes those of its
    # responses.
    psns = [int(p.psn) for p in (responses if test == "ib_read_bw" else requests)]
    assert psns == [(psns[0] + i) % 2**24 for i in range(len(psns))]
    assert len(psns) == 3 * count


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_connection_management_is_well_formed(fabric, tmp_path, family):
    server, client = fabric.nodes
    address = getattr(server, family)
    capture = tmp_path / "capture.pcap"
    with server.capture(capture):
        ping(server, client, 5, address)
    expect_well_formed(capture)
    attributes = tshark("-r", str(capture), "-Y", "infiniband.mad", "-T", "fields",
                        "-e", "infiniband.mad.attributeid").split()
    connect_request, connect_reply, ready_to_use = 0x10, 0x13, 0x14
    assert [int(a, 0) for a in attributes][:3] == [connect_request, connect_reply, ready_to_use]


# perftest passes no flow label on; the unit tests have it.
@pytest.mark.parametrize("family, traffic_class, hop_limit", [
    ("ipv4", "ip.dsfield", "ip.ttl"),
    ("ipv6", "ipv6.tclass", "ipv6.hlim"),
])
def test_header_fields_are_what_the_guest_asks_for(
        fabric, tmp_path, family, traffic_class, hop_limit):
    server, client, address, server_gid, client_gid = both(fabric, family)
    expedited_ect0 = 0x2e << 2 | 2
    linux_hop_limit = 64
    command = f"ib_write_bw -s 64 -n 5 -F --tclass {expedited_ect0}"
    capture = tmp_path / "capture.pcap"
    with server.capture(capture):
        expect_success(run_pair(
            server, client, f"{command} -d {server.device} -x {server_gid}",
            f"{command} -d {client.device} -x {client_gid} {address}", 18515))
    # Of what a device of ours has sent.
    for node in (node for node in fabric.nodes if node.kind in DEVICES):
        source = f"{'ip' if family == 'ipv4' else 'ipv6'}.src == {getattr(node, family)}"
        lines = tshark("-r", str(capture), "-Y", f"udp.dstport == 4791 and {source}",
                       "-T", "fields", "-e", traffic_class, "-e", hop_limit).splitlines()
        assert lines
        for line in lines:
            assert [int(value, 0) for value in line.split("\t")] == [
                expedited_ect0, linux_hop_limit]


# ibv_rc_pingpong asks for what it is told to, whatever the port says. A virtio device leaves that to its guest.
@TWO_PVRDMA
def test_the_path_mtu_is_within_the_nics(fabric):
    server, client, address, server_gid, client_gid = both(fabric)

    def pingpong(path_mtu):
        command = f"ibv_rc_pingpong -m {path_mtu}"
        return run_pair(server, client, f"{command} -d {server.device} -g {server_gid}",
                        f"{command} -d {client.device} -g {client_gid} {address}", 18515)

    for node in fabric.nodes:
        node.guest.check("ip link set eth0 mtu 1500")
    try:
        for node in fabric.nodes:
            assert "active_mtu:\t\t1024" in node.guest.check(f"ibv_devinfo -d {node.device}")
        # The server connects its QP first; the client sees it go.
        refused = pingpong(2048)
        assert "Failed to modify QP to RTR" in refused[0].output, refused
        assert refused[1].status != 0
        expect_success(pingpong(1024))
    finally:
        for node in fabric.nodes:
            node.guest.check(f"ip link set eth0 mtu {MTU}")
