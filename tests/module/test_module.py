# SPDX-License-Identifier: GPL-2.0-or-later
"""The module in a QEMU that was built without it (docs/module.md).

QEMU_RDMA_PLUGIN: the loader, with its module beside it. QEMU_RDMA_QEMU: the QEMU that the module is for.
QEMU_RDMA_OTHER_QEMU: one that it is not for.
"""
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess

import pytest

LOADER = pathlib.Path(os.environ["QEMU_RDMA_PLUGIN"])
QEMU = os.environ["QEMU_RDMA_QEMU"]
CHECK_LAYOUT = pathlib.Path(__file__).resolve().parents[2] / "hw/module/check-layout"
OTHER_QEMU = os.environ.get("QEMU_RDMA_OTHER_QEMU")


def network_card(device, netdev, slot):
    return ["-netdev", f"socket,id={netdev},udp=127.0.0.1:1,localaddr=127.0.0.1:0",
            "-device", f"{device},netdev={netdev},addr={slot}.0,multifunction=on"]


# Each with the network card that it stands beside.
PVRDMA = [*network_card("vmxnet3", "n0", 5), "-device", "pvrdma,id=pvrdma0,addr=5.1"]
VIRTIO_RDMA = [*network_card("virtio-net-pci", "n1", 6), "-device", "virtio-rdma-pci,id=virtio0,addr=6.1"]
EACH_DEVICE = pytest.mark.parametrize("device", [PVRDMA, VIRTIO_RDMA], ids=["pvrdma", "virtio-rdma"])


def build_id(binary):
    notes = subprocess.run(["readelf", "--notes", binary], capture_output=True, text=True, check=True).stdout
    return re.search(r"Build ID: (\w+)", notes)[1]


def version(qemu):
    output = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout
    return re.match(r"QEMU emulator version (.*)", output)[1]


@pytest.fixture
def folder(tmp_path):
    """A folder of the test's own, with loader and module."""
    for file in LOADER.parent.glob("qemu-rdma*.so"):
        shutil.copy(file, tmp_path)
    return tmp_path


@pytest.fixture
def module(folder):
    return folder / f"qemu-rdma-{build_id(QEMU)}.so"


def run(folder, *arguments, qemu=QEMU, plugin="qemu-rdma.so", commands=()):
    """QEMU with the plugin and a monitor that is given these commands: exit status, the monitor's answers, stderr."""
    words = [{"execute": "qmp_capabilities"}, *commands, {"execute": "quit"}]
    ended = subprocess.run(
        [qemu, "-nodefaults", "-display", "none", "-S", "-qmp", "stdio", "-plugin", f"{folder}/{plugin}", *arguments],
        input="\n".join(map(json.dumps, words)), capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout, ended.stderr


def refusal(*arguments, **options):
    status, answers, errors = run(*arguments, **options)
    assert status == 1, (status, answers, errors)
    assert "is not a valid device model name" not in errors
    return errors


@pytest.mark.parametrize("accel", ["tcg", "kvm"])
def test_the_devices_are_there(folder, accel):
    if accel == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no /dev/kvm")
    status, answers, errors = run(folder, "-accel", accel, *PVRDMA, *VIRTIO_RDMA, commands=[
        {"execute": "qom-get", "arguments": {"path": f"/machine/peripheral/{name}", "property": "stats"}}
        for name in ("pvrdma0", "virtio0")])
    # A host's KVM may lack features of the CPU, which QEMU tells.
    assert status == 0 and "rdma" not in errors, errors
    assert answers.count('"card-frames-held": 0') == 2


def test_the_virtio_device_is_a_pci_function_with_the_ids_of_the_specification(folder):
    _, answers, _ = run(folder, *VIRTIO_RDMA, commands=[
        {"execute": "human-monitor-command", "arguments": {"command-line": "info pci"}}])
    assert "PCI device 1af4:106a" in answers


@pytest.mark.parametrize("driver", ["pvrdma", "virtio-rdma-pci"])
def test_device_add_help_lists_the_properties(folder, driver):
    _, answers, _ = run(folder, commands=[
        {"execute": "human-monitor-command", "arguments": {"command-line": f"device_add {driver},help"}}])
    assert "max-qp-wr=<uint32>" in answers
    assert "a power of two" in answers


def test_the_plugin_given_twice_is_one(folder):
    status, _, errors = run(folder, "-plugin", f"{folder}/qemu-rdma.so", *PVRDMA, *VIRTIO_RDMA)
    assert (status, errors) == (0, "")


def test_an_option_is_refused(folder):
    assert "qemu-rdma: there is no option 'x=1'" in refusal(folder, plugin="qemu-rdma.so,x=1")


@EACH_DEVICE
def test_another_qemu_is_refused_and_told_which_ones_there_are(folder, device):
    if not OTHER_QEMU:
        pytest.skip("no QEMU_RDMA_OTHER_QEMU")
    errors = refusal(folder, *device, qemu=OTHER_QEMU)
    assert f"there is no module for this QEMU, {version(OTHER_QEMU)}, build id {build_id(OTHER_QEMU)}" in errors
    assert f"\n  {version(QEMU)}, build id {build_id(QEMU)}\n" in errors


def test_without_a_module_there_is_none(folder, module):
    module.unlink()
    errors = refusal(folder)
    assert f"there is no module for this QEMU, {version(QEMU)}" in errors
    assert f"modules in {folder}: none" in errors


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99, 1])
def test_a_module_without_its_end_is_refused(folder, module, share):
    whole = module.read_bytes()
    module.write_bytes(whole[:min(int(len(whole) * share), len(whole) - 1)])
    assert re.search(f"qemu-rdma: {module} is (empty|cut short)\n", refusal(folder))


def test_an_object_of_someone_else_is_refused(folder, module):
    shutil.copy(folder / "qemu-rdma.so", module)
    assert f"qemu-rdma: {module} is not a module of qemu-rdma" in refusal(folder)


def test_no_object_at_all_is_refused(folder, module):
    module.write_text("no object\n" * 100)
    assert f"qemu-rdma: {module} is not an ELF object" in refusal(folder)


def test_a_module_under_another_build_id_is_refused(folder, module):
    other = "0" * 40
    module.write_bytes(module.read_bytes().replace(build_id(QEMU).encode(), other.encode()))
    assert f"qemu-rdma: {module} is for another QEMU, {version(QEMU)}, build id {other}" in refusal(folder)


def test_a_module_with_a_symbol_that_qemu_lacks_is_refused_before_anything_is_registered(folder, module):
    contents = module.read_bytes()
    assert b"\0pci_register_bar\0" in contents
    module.write_bytes(contents.replace(b"\0pci_register_bar\0", b"\0pci_register_bat\0"))
    assert "undefined symbol: pci_register_bat" in refusal(folder)


# What our types derive from.
BASES = pytest.mark.parametrize("base", ["pci-device", "virtio-device", "virtio-pci", "netfilter"])


def check_layout(module):
    return subprocess.run([CHECK_LAYOUT, module, QEMU], capture_output=True, text=True)


@BASES
def test_the_build_checks_structures_against_the_binary(module, base):
    checked = check_layout(module)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert re.search(rf"^{base}: here (\d+) and (\d+) bytes, in QEMU \1 and \2$", checked.stdout, re.MULTILINE)


@BASES
def test_the_build_of_a_module_with_other_structures_fails(module, base):
    size, class_size = map(int, re.search(rf"^{base}: here (\d+) and (\d+)", check_layout(module).stdout,
                                          re.MULTILINE).groups())
    contents, sizes = module.read_bytes(), struct.pack("<QQ", size, class_size)
    assert contents.count(sizes) == 1
    module.write_bytes(contents.replace(sizes, struct.pack("<QQ", size + 8, class_size)))
    checked = check_layout(module)
    assert checked.returncode == 1
    assert (f"{base}: here {size + 8} and {class_size} bytes, in QEMU {size} and {class_size}: WRONG\n"
            in checked.stdout)
