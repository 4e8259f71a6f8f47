# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux's driver of the virtio RDMA device (guest-driver/linux) is built, without a warning, for the kernels
whose headers are installed."""
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
DRIVER = TOP / "guest-driver/linux"
NEEDS = ("CONFIG_INFINIBAND=", "CONFIG_INFINIBAND_USER_ACCESS=", "CONFIG_VIRTIO=")


def kernels():
    """Folders of headers, of kernels that have what the driver needs."""
    configs = {path.resolve() for path in pathlib.Path("/lib/modules").glob("*/build/.config")}
    return sorted(path.parent for path in configs if all(f"\n{need}" in path.read_text() for need in NEEDS))


@pytest.mark.parametrize("kernel", kernels(), ids=lambda kernel: kernel.name)
def test_the_driver_is_built_without_a_warning(kernel, tmp_path):
    for folder in ("linux", "include"):
        shutil.copytree(TOP / "guest-driver" / folder, tmp_path / folder,
                        ignore=shutil.ignore_patterns("*.o", "*.ko", "*.mod*", ".*.cmd"))
    sparse = ["C=1", "CF=-D__CHECK_ENDIAN__"] if shutil.which("sparse") else []
    # The host's compiler and BTF tools need not be those of the kernel.
    built = subprocess.run(["make", "-C", tmp_path / "linux", f"KDIR={kernel}", "W=1", "CC=gcc",
                            "CONFIG_DEBUG_INFO_BTF_MODULES=", *sparse], capture_output=True, text=True)
    said = built.stdout + built.stderr
    assert built.returncode == 0, said[-4000:]
    assert re.findall(r"^\S*\.[ch]:\d+.*(?:warning|error):.*$", said, re.MULTILINE) == []
    module = (tmp_path / "linux/virtio_rdma.ko").read_bytes()
    assert b"alias=virtio:d0000002Av*" in module, "udev would not load it"


def test_rules_that_the_driver_names_are_in_the_specification():
    rules = {rule for page in (TOP / "docs/virtio-rdma").glob("*.md")
             for rule in re.findall(r"^- \*\*([A-Z]{3}-\d+)\*\* ", page.read_text(), re.MULTILINE)}
    named = {(path.name, rule) for path in DRIVER.glob("*.[ch]")
             for rule in re.findall(r"\b[A-Z]{3}-\d+\b(?!\.)", path.read_text())}
    assert named
    assert [(name, rule) for name, rule in sorted(named) if rule not in rules] == []
