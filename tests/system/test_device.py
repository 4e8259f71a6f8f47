# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest and the monitor see of the device."""
import re

from pairs import DEVICES
from pinging import ping


def nodes_of(fabric, *kinds):
    return [node for node in fabric.nodes if node.kind in kinds]


def test_devinfo_prints_what_is_true(fabric):
    for node in nodes_of(fabric, "pvrdma"):
        info = node.guest.check(f"ibv_devinfo -v -d {node.device}")
        field = {m[1]: m[2].strip() for m in re.finditer(r"^\s*(\w+):\s*(.*)$", info, re.M)}
        assert field["vendor_id"] == "0x15ad"
        assert field["max_qp"] == "32768"
        assert field["max_qp_wr"] == "16384"
        assert field["max_sge"] == "16"
        assert field["max_cq"] == "4096"
        assert field["max_cqe"] == "262144"
        assert field["max_mr"] == "262144"
        assert field["max_mr_size"] == "0xffffffff"
        assert field["state"] == "PORT_ACTIVE (4)"
        assert field["active_mtu"] == "4096 (5)"  # the NIC's MTU is 4500
        assert field["link_layer"] == "Ethernet"
        assert f"::ffff:{node.ipv4}, RoCE v2" in info


def test_statistics_count_packets(fabric):
    for node in nodes_of(fabric, *DEVICES):
        before = node.guest.stats()
        other = next(n for n in fabric.nodes if n is not node)
        ping(node, other, 10)
        after = node.guest.stats()
        assert after["rx-packets"] - before["rx-packets"] >= 40
        assert after["tx-packets"] - before["tx-packets"] >= 40
        assert after["drop-icrc"] == 0
        assert after["drop-malformed"] == 0
        assert after["guest-command-errors"] == before["guest-command-errors"]
