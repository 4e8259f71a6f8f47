# SPDX-License-Identifier: GPL-2.0-or-later
"""Each kind of QEMU network as the RDMA fabric, and the machine types."""
import contextlib
import itertools
import os
import socket
import subprocess
import types

import pytest

from pinging import ping
from test_programs import both, test_rc_pingpong
from verifying import PROGRAM, verify
from vm.fabric import MTU, Fabric, Node


# Below those that a host gives to whoever asks for any.
ports = itertools.count(20000)


def free_port(kind):
    while True:
        port = next(ports)
        with contextlib.closing(socket.socket(socket.AF_INET, kind)) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


# Each gives the -netdev of the first and of the second guest.
def socket_tcp(_directory):
    port = free_port(socket.SOCK_STREAM)
    return f"socket,listen=127.0.0.1:{port}", f"socket,connect=127.0.0.1:{port}"


def stream_tcp(_directory):
    address = f"addr.type=inet,addr.host=127.0.0.1,addr.port={free_port(socket.SOCK_STREAM)}"
    return f"stream,server=on,{address}", f"stream,server=off,{address}"


def stream_unix(directory):
    address = f"addr.type=unix,addr.path={directory}/stream"
    return f"stream,server=on,{address}", f"stream,server=off,{address}"


def dgram_udp(_directory):
    first, second = (free_port(socket.SOCK_DGRAM) for _ in range(2))
    end = "{0}.type=inet,{0}.host=127.0.0.1,{0}.port={1}"
    return [f"dgram,{end.format('local', mine)},{end.format('remote', other)}"
            for mine, other in ((first, second), (second, first))]


# Datagrams of AF_UNIX are what all other tests run over.
NETWORKS = [(socket_tcp, "pc", "pc"), (stream_tcp, "q35", "pc"), (stream_unix, "q35", "q35"),
            (dgram_udp, "pc", "q35")]


@pytest.fixture(scope="module", params=NETWORKS,
                ids=lambda param: f"{param[0].__name__}-{param[1]}-{param[2]}")
def fabric(request, tmp_path_factory, image, payload):
    network, *machines = request.param
    directory = tmp_path_factory.mktemp(network.__name__)
    pair = Fabric(("pvrdma", "pvrdma"), directory, image, payload=payload,
                  each=[{"netdev": netdev, "machine": machine}
                        for netdev, machine in zip(network(directory), machines)])
    yield pair
    pair.stop()


def expect_traffic(fabric):
    """The connection manager, and requests of all kinds and sizes with every byte checked."""
    ping(*fabric.nodes, 20)
    verify(fabric, "stream --qps 4 --depth 16 --messages 40")


def test_two_guests(fabric):
    test_rc_pingpong(fabric, "ipv6")
    expect_traffic(fabric)


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def bridge():
    """A network namespace with two taps on a bridge."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK) or os.geteuid() != 0:
        pytest.skip("no tap devices here: this takes root and /dev/net/tun")
    namespace = f"rdma-{os.getpid()}"
    ip("netns", "add", namespace)
    try:
        inside = ("-n", namespace)
        ip(*inside, "link", "add", "bridge", "mtu", str(MTU), "type", "bridge")
        ip(*inside, "link", "set", "bridge", "up")
        for tap in ("tap1", "tap2"):
            ip(*inside, "tuntap", "add", tap, "mode", "tap")
            ip(*inside, "link", "set", tap, "mtu", str(MTU), "master", "bridge", "up")
        yield namespace
    finally:
        ip("netns", "delete", namespace)


def test_taps_on_a_bridge(bridge, tmp_path, image, payload):
    pair = Fabric(("pvrdma", "pvrdma"), tmp_path, image, payload=payload,
                  prefix=("ip", "netns", "exec", bridge),
                  each=[{"netdev": f"tap,ifname=tap{n},script=no,downscript=no,vhost=off"}
                        for n in (1, 2)])
    with contextlib.ExitStack() as stack:
        stack.callback(pair.stop)
        expect_traffic(pair)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, image, payload):
    """A guest on QEMU's user network, as both ends of what is tested."""
    node = Node("pvrdma", 1, tmp_path_factory.mktemp("user"), image, payload=payload,
                netdev="user,net=10.0.0.0/24")
    with contextlib.ExitStack() as stack:
        stack.callback(node.guest.stop)
        node.configure()
        yield types.SimpleNamespace(nodes=(node, node))


def test_one_guest_with_itself(alone):
    node = alone.nodes[0]
    before = node.guest.stats()
    test_rc_pingpong(alone, "ipv4")
    test_rc_pingpong(alone, "ipv6")
    expect_traffic(alone)
    after = node.guest.stats()
    sent = after["tx-packets"] - before["tx-packets"]
    assert after["loopback-packets"] - before["loopback-packets"] == sent > 1000


@pytest.mark.parametrize("suite", ["opcodes", "datagrams", "errors"])
def test_verify_one_guest_with_itself(alone, suite):
    verify(alone, suite)


def test_two_devices_on_two_networks(tmp_path, image, payload):
    def second(index):
        return ("-netdev", f"dgram,id=n1,local.type=unix,local.path={tmp_path}/second{index},"
                           f"remote.type=unix,remote.path={tmp_path}/second{3 - index}",
                "-device", f"vmxnet3,netdev=n1,mac=52:54:00:00:01:0{index},addr=6.0,multifunction=on",
                "-device", "pvrdma,id=rdma1,addr=6.1")

    pair = Fabric(("pvrdma", "pvrdma"), tmp_path, image, payload=payload,
                  each=[{"arguments": second(index)} for index in (1, 2)])
    with contextlib.ExitStack() as stack:
        stack.callback(pair.stop)
        for node in pair.nodes:
            node.guest.check(f"ip link set eth1 mtu {MTU} up && "
                             f"ip addr add 10.0.1.{node.index}/24 dev eth1")
            node.guest.check("until ibv_devinfo -d vmw_pvrdma1 | grep -q PORT_ACTIVE; do :; done")
        pair.nodes[0].guest.check("ping -q -c 1 10.0.1.2")
        others = types.SimpleNamespace(nodes=[types.SimpleNamespace(
            guest=node.guest, device="vmw_pvrdma1", ipv4=f"10.0.1.{node.index}",
            gid_index=lambda address, node=node: node.gid_index(address, "vmw_pvrdma1"))
            for node in pair.nodes])
        # On one network while the other is in use.
        server, client, address, server_gid, client_gid = both(others)
        options = "-p 18700 stream --qps 4 --depth 8 --seconds 600"
        serving = server.guest.start(f"{PROGRAM} -d vmw_pvrdma1 -g {server_gid} {options}")
        server.guest.wait_listening(18700)
        running = client.guest.start(
            f"{PROGRAM} -d vmw_pvrdma1 -g {client_gid} {options} {address}")
        server.guest.wait_stats(lambda stats: stats["rx-packets"] > 1000, device="rdma1")
        expect_traffic(pair)
        for process in (running, serving):
            assert process.status is None, process.output
            process.kill()
            process.wait()
        expect_traffic(others)
        for node in pair.nodes:
            for device in ("rdma0", "rdma1"):
                assert node.guest.stats(device)["guest-command-errors"] == 0
            assert node.guest.kernel_trouble() == []
