# SPDX-License-Identifier: GPL-2.0-or-later
"""Card and device are plugged and unplugged while the guest runs.

They share a slot, which PCI plugs and unplugs as a whole: function 0 is added last, and goes with
the others.
"""
import pytest

from pairs import BY_NIGHT_WITH_VIRTIO, by_night
from test_lifecycle import expect_retries_exceeded, expect_working, objects, start_traffic
from vm.fabric import Fabric
from vm.qmp import QmpError

PORT = {"bus": "root", "addr": "0"}
ROOT_PORT = ("-device", "pcie-root-port,id=root,chassis=1,slot=1")
NATIVE = ("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")
SLOTS = {
    # ACPI tells the guest.
    "pc": {"slot": {"addr": "6"}},
    "q35": {"machine": "q35", "slot": PORT, "arguments": ROOT_PORT},
    # The root port tells the guest.
    "pcie": {"machine": "q35", "slot": PORT, "arguments": ROOT_PORT + NATIVE},
}
KINDS_AND_SLOTS = [("pvrdma", "pc", "q35"), ("pvrdma", "pcie", "pc"), ("virtio-rdma", "pcie", "pc"),
                   by_night(("virtio-rdma", "pc", "q35"), id="virtio-rdma-pc-q35")]


@pytest.fixture(scope="module", params=KINDS_AND_SLOTS, ids="-".join)
def fabric(request, tmp_path_factory, image, payload):
    """Two guests into which card and device were plugged after they had booted."""
    kind, *slots = request.param
    pair = Fabric((kind, kind), tmp_path_factory.mktemp("hotplug"), image,
                  payload=payload, plugged=False, each=[SLOTS[slot] for slot in slots])
    yield pair
    pair.stop()


def is_realized(node, device):
    return any(child["name"] == device for child in node.guest.qmp.command(
        "qom-list", path="/machine/peripheral"))


def test_works_after_hot_plug(fabric):
    expect_working(fabric)


@pytest.mark.parametrize("index", [0, pytest.param(1, marks=BY_NIGHT_WITH_VIRTIO)], ids=["server", "client"])
def test_unplugged_in_mid_traffic_and_plugged_again(fabric, index):
    processes = start_traffic(fabric)
    node, peer = fabric.nodes[index], fabric.nodes[1 - index]
    node.guest.qmp.command("device_del", id="rdma0")
    if node.kind == "pvrdma":
        # Linux's driver lets go of the device when the last program has closed it.
        processes[index].kill()
        processes[index].wait()
    node.wait_unplugged()
    processes[index].kill()
    processes[index].wait()
    assert not is_realized(node, "rdma0") and not is_realized(node, "nic0")
    if index == 0:
        expect_retries_exceeded(processes[1])
    else:
        processes[0].kill()
        processes[0].wait()
    node.configure()
    peer.guest.check(f"ping -q -c 1 {node.ipv4}")
    expect_working(fabric)


@BY_NIGHT_WITH_VIRTIO
def test_unplugged_by_the_card(fabric):
    node = fabric.nodes[0]
    node.guest.qmp.command("device_del", id="nic0")
    node.wait_unplugged()
    node.configure()
    expect_working(fabric)


@BY_NIGHT_WITH_VIRTIO
def test_wrong_order_is_refused(fabric):
    node = fabric.nodes[1]
    node.unplug()
    device, card = node.devices
    node.guest.qmp.command("device_add", **card)
    with pytest.raises(QmpError, match=f"function 0 already occupied by {card['driver']}"):
        node.guest.qmp.command("device_add", **device)
    node.guest.qmp.command("device_del", id="nic0")
    node.guest.qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == "nic0")
    node.configure()
    expect_working(fabric)


# The PCI function of the RDMA device.
FUNCTION = "device=$(basename $(realpath /sys/class/infiniband/{}/device))\n"
# Sets the secondary bus reset bit of the port above the device for a moment.
RESET_BUS = """
bridge=$(dirname "$(realpath /sys/bus/pci/devices/$device)")
python3 - "$bridge/config" <<'END'
import os, sys
BRIDGE_CONTROL, BUS_RESET = 0x3e, 0x40
config = os.open(sys.argv[1], os.O_RDWR)
[control] = os.pread(config, 1, BRIDGE_CONTROL)
os.pwrite(config, bytes([control | BUS_RESET]), BRIDGE_CONTROL)
os.pwrite(config, bytes([control]), BRIDGE_CONTROL)
END
"""
# Neither driver hears of that: both functions are taken out and found again.
FIND_AGAIN = """
for function in 1 0; do echo 1 >/sys/bus/pci/devices/${device%.*}.$function/remove; done
echo 1 >/sys/bus/pci/rescan
"""


def test_secondary_bus_reset_in_mid_traffic(fabric):
    node = next(node for node in fabric.nodes if node.devices[0].get("bus") == "root")
    processes = start_traffic(fabric)
    node.guest.check(FUNCTION.format(node.device) + RESET_BUS)
    assert not any(objects(node).values()), objects(node)
    for process in reversed(processes):
        if process is processes[1] and node is fabric.nodes[0]:
            expect_retries_exceeded(process)
        else:
            process.kill()
            process.wait()
    node.guest.check(FUNCTION.format(node.device) + FIND_AGAIN)
    node.configure()
    expect_working(fabric)


# Turns off the power of the slot at the port above the device, for a moment: the slot is empty at once. The port
# tells its driver when that may hear of it again, and the slot has power. The driver then turns that off, a second
# later the indicator; QEMU takes that for an ejection of what has been plugged meanwhile.
POWER_OFF = """
port=$(dirname "$(realpath /sys/bus/pci/devices/$device)")
python3 - "$port/config" <<'END'
import os, sys
CAPABILITIES, PCI_EXPRESS, SLOT_CONTROL = 0x34, 0x10, 0x18
ALL_OFF = 0x7c0  # power, both indicators, and no interrupt is enabled
config = os.open(sys.argv[1], os.O_RDWR)
[at] = os.pread(config, 1, CAPABILITIES)
while os.pread(config, 1, at)[0] != PCI_EXPRESS:
    [at] = os.pread(config, 1, at + 1)
control = os.pread(config, 2, at + SLOT_CONTROL)
os.pwrite(config, ALL_OFF.to_bytes(2, "little"), at + SLOT_CONTROL)
os.pwrite(config, control, at + SLOT_CONTROL)
POWER_AND_ITS_INDICATOR_OFF = 0x700
while int.from_bytes(os.pread(config, 2, at + SLOT_CONTROL), "little") & 0x700 != POWER_AND_ITS_INDICATOR_OFF:
    pass
END
while [ -e /sys/bus/pci/devices/$device ]; do :; done
"""


def test_surprise_removal_in_mid_traffic(fabric):
    """The drivers hear of it when card and device are gone."""
    node = fabric.nodes[0]
    if node.kind == "pvrdma" or "bus" not in node.devices[0]:
        pytest.skip("only PCI Express tells of it, and vmw_pvrdma would wait for what is gone")
    processes = start_traffic(fabric)
    node.guest.check(FUNCTION.format(node.device) + POWER_OFF)
    node.wait_unplugged()
    expect_retries_exceeded(processes[1])
    processes[0].kill()
    processes[0].wait()
    node.configure()
    expect_working(fabric)


@BY_NIGHT_WITH_VIRTIO
def test_network_is_deleted_under_it(fabric):
    node = fabric.nodes[1]
    processes = start_traffic(fabric)
    watching = node.guest.start(f"exec stdbuf -oL ibv_asyncwatch -d {node.device}")
    watching.wait_output("async event FD")
    node.guest.qmp.command("netdev_del", id="n0")
    watching.wait_output(r"\(10\), port 1")  # IBV_EVENT_PORT_ERR
    expect_retries_exceeded(processes[1])
    for process in (processes[0], watching):
        process.kill()
        process.wait()
    node.unplug()
    assert not is_realized(node, "rdma0")
