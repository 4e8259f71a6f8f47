# SPDX-License-Identifier: GPL-2.0-or-later
"""What the packages bring to a system that had nothing of it."""
import os
import pathlib
import re
import subprocess

import pytest

QEMU = "/usr/bin/qemu-system-x86_64"
LIBRARIES = pathlib.Path("/usr/lib/x86_64-linux-gnu/qemu")
PROVIDERS = pathlib.Path("/usr/lib/x86_64-linux-gnu/libibverbs")
VIRTIO_RDMA_PCI = "pci:v00001AF4d0000106Asv00001AF4sd00001100bc02sc80i00"
HEADERS = sorted(path.parent.name for path in pathlib.Path("/lib/modules").glob("*/build"))
# A virtio device of the type that the specification names, of any vendor.
MODALIAS = "virtio:d0000002Av00001AF4"


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.mark.parametrize("command", [["rdma-state", "--layout"], ["rdmacm-mux", "--help"]], ids=lambda words: words[0])
def test_a_tool_runs(command):
    assert output(*command)


@pytest.mark.parametrize("page", ["rdma-state.1", "rdmacm-mux.8"])
def test_a_tool_has_a_man_page(page):
    name, section = page.split(".")
    assert pathlib.Path(f"/usr/share/man/man{section}/{page}.gz").exists()


def test_the_daemon_is_off():
    """Whoever uses the host's RDMA devices turns it on."""
    assert pathlib.Path("/usr/lib/systemd/system/rdmacm-mux.socket").exists() or \
        pathlib.Path("/lib/systemd/system/rdmacm-mux.socket").exists()
    assert not list(pathlib.Path("/etc/systemd/system").glob("*/rdmacm-mux.*"))


def test_the_description_names_the_modules():
    described = output("dpkg-query", "-W", "-f", "${Description}", "qemu-rdma")
    versions = re.search(r"^ Modules for QEMU: (.*)\.$", described, re.MULTILINE)[1].split(", ")
    assert len(list(LIBRARIES.glob("qemu-rdma-*.so"))) == len(versions) - versions.count("none")


@pytest.mark.parametrize("kernel", HEADERS)
@pytest.mark.parametrize("package, module", [("vmw-pvrdma", "vmw_pvrdma"), ("virtio-rdma", "virtio_rdma")])
def test_a_driver_is_built_for_the_suites_kernel(package, module, kernel):
    assert re.search(rf"^{package}[/, ]+[\d.]+, {re.escape(kernel)}, x86_64: installed", output("dkms", "status"),
                     re.MULTILINE)
    assert output("modinfo", "-k", kernel, "-F", "vermagic", module).split()[0] == kernel


@pytest.mark.parametrize("kernel", HEADERS)
def test_a_kernel_loads_the_driver_where_it_finds_the_virtio_device(kernel):
    assert output("modprobe", "-S", kernel, "--resolve-alias", MODALIAS) == "virtio_rdma\n"


def test_there_are_headers_of_a_kernel():
    assert HEADERS


# libibverbs asks for devices by netlink, where the kernel of this machine has that, and else looks into sysfs.
NO_NETLINK = """
long syscall(long number, ...);
int *__errno_location(void);
int socket(int domain, int type, int protocol)
{
    if (domain == 16 && protocol == 20) { /* NETLINK_RDMA */
        *__errno_location() = 93; /* EPROTONOSUPPORT */
        return -1;
    }
    return syscall(41, domain, type, protocol);
}
"""


def devices_of_libibverbs(folder, **attributes):
    """stdout and stderr of ibv_devices, where sysfs has such a device."""
    files = {"class/infiniband_verbs/abi_version": "6", "class/infiniband_verbs/uverbs0/ibdev": "rdma0",
             "class/infiniband_verbs/uverbs0/dev": "231:192", "class/infiniband/rdma0/node_type": "1: CA",
             "class/infiniband/rdma0/node_guid": "5054:00ff:fe12:3456",
             "class/infiniband_verbs/uverbs0/abi_version": attributes["abi_version"],
             "class/infiniband/rdma0/device/modalias": attributes["modalias"]}
    for name, contents in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(contents + "\n")
    subprocess.run(["gcc", "-shared", "-nostdlib", "-fPIC", "-o", folder / "socket.so", "-x", "c", "-"],
                   input=NO_NETLINK, text=True, check=True)
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /dev && mkdir /dev/infiniband && "
         "touch /dev/infiniband/uverbs0 && LD_PRELOAD=$SYSFS_PATH/socket.so exec ibv_devices"],
        env={**os.environ, "SYSFS_PATH": str(folder), "IBV_SHOW_WARNINGS": "1"}, capture_output=True, text=True,
        check=True)


def test_libibverbs_takes_the_provider_for_the_virtio_device(tmp_path):
    asked = devices_of_libibverbs(tmp_path, abi_version="1", modalias=VIRTIO_RDMA_PCI)
    assert asked.stderr == ""
    assert re.search(r"^\s*rdma0\s+505400fffe123456$", asked.stdout, re.MULTILINE)


def test_libibverbs_takes_no_provider_for_another_interface_of_the_kernels(tmp_path):
    asked = devices_of_libibverbs(tmp_path, abi_version="2", modalias=VIRTIO_RDMA_PCI)
    assert "Driver virtio_rdma does not support the kernel ABI of 2" in asked.stderr
    assert "rdma0" not in asked.stdout


def test_the_provider_is_of_libibverbs_private_interface():
    """It stands in the file's name. Debian gives the interface no name to depend on: the release is what there is."""
    provider, = PROVIDERS.glob("libvirtio_rdma-rdmav*.so")
    assert (PROVIDERS / provider.name.replace("virtio_rdma", "rxe")).exists()
    release = output("dpkg-query", "-W", "-f", "${source:Upstream-Version}", "libibverbs1").split(".")[0]
    assert output("dpkg-query", "-W", "-f", "${Depends}", "ibverbs-provider-virtio-rdma").startswith(
        f"libibverbs1 (>= {release}), libibverbs1 (<< {int(release) + 1}~)")
