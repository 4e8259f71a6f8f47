# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs backend where it cannot be had: what is wrong, and what to change. Where the machine has RDMA
devices, theirs are the names in the messages."""
import pathlib

import pytest

from test_command_line import NETDEV, NIC, qemu, rdma

SHARED_RAM = ["-m", "64M", "-object", "memory-backend-memfd,id=ram,size=64M,share=on",
              "-machine", "memory-backend=ram"]
HOST_HAS = "this host has"


def on_host(options, ram=SHARED_RAM):
    return qemu(*ram, *NETDEV, *NIC, "-device", f"pvrdma,addr=5.1,backend=verbs{options}")


@pytest.mark.parametrize("options, message", [
    (",backend=tcp", "property 'backend' is 'tcp': it must be roce or verbs"),
    (",ibdev=rxe0", "property 'ibdev' is for backend=verbs"),
])
def test_backends(options, message):
    status, said = rdma("pvrdma", options)
    assert status != 0 and message in said, said


@pytest.mark.parametrize("options, message", [
    ("", "'ibdev' must name an RDMA device: " + HOST_HAS),
    (",ibdev=nosuch7", "property 'ibdev' is 'nosuch7': there is no such RDMA device: " + HOST_HAS),
    (",gid-policy=take", "property 'gid-policy' is 'take': it must be match or add"),
    (",ibdev=rxe0,gid-policy=add", "property 'gid-policy' is add: 'gid-allow' must say which addresses"),
    (",gid-allow=192.0.2.7+host", "property 'gid-allow' is '192.0.2.7+host': 'host' is no IPv4 or IPv6 address"),
    # QEMU's own separator, doubled as it wants it.
    (",gid-allow=192.0.2.7,,192.0.2.8", "(a list such as 192.0.2.7+2001:db8::/64)"),
    (",odp=maybe", "property 'odp' is 'maybe': it must be auto or on or off"),
    (",max-qp=1", "property 'max-qp' is 1: it must be"),
])
def test_properties_are_checked(options, message):
    status, said = on_host(options)
    assert status != 0 and message in said, said


@pytest.mark.parametrize("ram", [
    ["-m", "64M"],
    ["-m", "64M", "-object", "memory-backend-ram,id=ram,size=64M", "-machine", "memory-backend=ram"],
    ["-m", "64M", "-object", "memory-backend-memfd,id=ram,size=64M,share=off", "-machine", "memory-backend=ram"],
], ids=["plain", "anonymous", "private"])
def test_ram_must_be_shared(ram):
    status, said = on_host(",ibdev=rxe0", ram)
    assert status != 0 and "it must be shared memory with a file descriptor" in said, said
    assert "memory-backend-memfd,id=ram,size=SIZE,share=on" in said, said


@pytest.mark.parametrize("iommu", ["intel-iommu,intremap=on", "virtio-iommu-pci"])
def test_a_virtual_iommu_is_refused(iommu):
    status, said = qemu(*SHARED_RAM, "-device", iommu, *NETDEV, *NIC, "-device", "pvrdma,addr=5.1,backend=verbs")
    assert status != 0 and "backend=verbs does not work behind a virtual IOMMU" in said, said
    assert "default_bus_bypass_iommu=on" in said, said


@pytest.mark.skipif(pathlib.Path("/sys/class/infiniband").exists(), reason="the machine has RDMA devices")
def test_a_host_without_devices():
    status, said = on_host(",ibdev=rxe0")
    assert status != 0 and "this host has none (for one in software: rdma link add rxe0" in said, said
