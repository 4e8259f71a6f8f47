# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon rdmacm-mux as systemd starts it."""
import contextlib
import os
import pathlib
import socket
import struct
import subprocess
import time

UNITS = pathlib.Path(__file__).resolve().parents[2] / "tools" / "rdmacm-mux"
INSTALLED = "/usr/local/sbin/rdmacm-mux"
# backend/verbs/mux_protocol.h
HELLO, REFUSAL, VERSION, MAGIC = 1, 3, 1, 0x52434d58


def test_units_are_valid(tmp_path):
    paths = []
    for kind in ("socket", "service"):
        unit = (UNITS / f"rdmacm-mux.{kind}").read_text()
        assert kind == "socket" or f"ExecStart={INSTALLED}\n" in unit
        paths.append(tmp_path / f"rdmacm-mux.{kind}")
        paths[-1].write_text(unit.replace(INSTALLED, os.environ["RDMA_CM_MUX"]))
    verified = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True)
    assert verified.returncode == 0 and not verified.stderr, verified.stderr


@contextlib.contextmanager
def activated(path):
    """systemd's socket at the path, which starts the daemon with the first client."""
    process = subprocess.Popen(
        ["systemd-socket-activate", "--seqpacket", f"--listen={path}", os.environ["RDMA_CM_MUX"]],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def connect(path):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(10)
    end = time.monotonic() + 10
    while True:
        try:
            client.connect(str(path))
            return client
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < end


def test_the_first_client_starts_it(tmp_path):
    path = tmp_path / "mux.sock"
    with activated(path) as process:
        for _ in range(2):
            with connect(path) as client:
                client.send(struct.pack("=HHI64sI", HELLO, VERSION, MAGIC, b"nosuch7", 1))
                kind, version = struct.unpack_from("=HH", client.recv(4096))
                assert (kind, version) == (REFUSAL, VERSION)
                assert client.recv(4096) == b""
        assert process.poll() is None
    # systemd keeps the socket.
    assert path.exists()
