# SPDX-License-Identifier: GPL-2.0-or-later
"""Two guests on one network, each with an RDMA device of a given kind."""
import contextlib
import functools
import json
import pathlib

from .guest import Guest
from .migration import Migration

MTU = 4500
KINDS = ("pvrdma", "virtio-rdma", "rxe", "vmxnet3")  # the last: the card alone
# rxe queues packets without bound where it or QEMU is slow: those of a READ of 1 GiB, twice their size.
RXE_MEMORY = "4G"


class Node:
    """A guest on the fabric.

    index: 1 or 2, the last part of its addresses. netdev: QEMU's -netdev without an id; None: datagrams
    between two nodes of this folder. rdma: properties of the device. slot: where card and device
    go, {"bus": ..., "addr": ...}. plugged: False boots without them, configure() plugs them. spare: the
    netdev of the place that it can migrate to. make_guest: Guest, or the like. The rest goes to it.
    """

    def __init__(self, kind, index, directory, image, netdev=None, rdma=None, slot=None, plugged=True,
                 spare=None, make_guest=Guest, name=None, arguments=(), **options):
        if kind == "rxe":
            options.setdefault("memory", RXE_MEMORY)
        self.kind = kind
        self.gid_type = "IB/RoCE v1" if (rdma or {}).get("roce") == "v1" else "RoCE v2"
        self.index = index
        self.ipv4 = f"10.0.0.{index}"
        self.ipv6 = f"fd00::{index}"
        directory = pathlib.Path(directory)
        peer = 3 - index
        self.netdev = netdev or (f"dgram,local.type=unix,local.path={directory}/net{index},"
                                 f"remote.type=unix,remote.path={directory}/net{peer}")
        self.spare = spare
        slot = slot or {"addr": "5"}
        mac = f"52:54:00:00:00:0{index}"
        vmxnet3 = {"driver": "vmxnet3", "id": "nic0"}
        virtio_net = {"driver": "virtio-net-pci", "host_mtu": MTU}
        card, driver, self.module = {
            "pvrdma": (vmxnet3, "pvrdma", "vmw_pvrdma"),
            "virtio-rdma": ({**virtio_net, "id": "nic0"}, "virtio-rdma-pci", "virtio_rdma"),
            "vmxnet3": (vmxnet3, None, None),
            "rxe": (virtio_net, None, "rdma_rxe"),
        }[kind]
        # Linux's drivers, and the RDMA device.
        self.card_module = "vmxnet3" if card is vmxnet3 else "virtio_net"
        self.device = self.module and f"{self.module.removeprefix('rdma_')}0"
        self.devices = [{**card, "netdev": "n0", "mac": mac, **slot}]
        if driver:
            # In the order of hot-plugging: function 0 last.
            self.devices[0].update(addr=slot["addr"] + ".0", multifunction=True)
            self.devices.insert(0, {"driver": driver, "id": "rdma0", **slot, "addr": slot["addr"] + ".1",
                                    **(rdma or {})})
        self._common = list(arguments)
        self.plugged = plugged
        self.guest = make_guest(name or f"{kind}{index}", directory, image,
                                self.arguments(self.netdev), **options)

    def arguments(self, netdev, **properties):
        """QEMU's for the node at this netdev; properties: other ones of its first device."""
        devices = [{**self.devices[0], **properties}, *self.devices[1:]]
        return [*self._common, "-netdev", f"{netdev},id=n0",
                *(word for device in reversed(devices if self.plugged else [])
                  for word in ("-device", json.dumps(device)))]

    def migration(self, extra=(), properties=None, **options):
        """A Migration to the node's other place, which is ready to begin.

        extra: arguments, properties: of the device, for QEMU there.
        """
        arguments = self.arguments(self.spare, **(properties or {})) + list(extra)
        return Migration(self.guest, arguments, on_arrival=self.swap_places, **options)

    def migrate(self, **options):
        """Migrates the guest to its other place; returns query-migrate's answer."""
        return self.migration(**options).run()

    def swap_places(self):
        self.netdev, self.spare = self.spare, self.netdev

    def plug(self):
        """Hot-plugs card and device."""
        for device in self.devices:
            self.guest.qmp.command("device_add", **device)
        self.plugged = True

    def unplug(self):
        """Hot-unplugs card and device, which are one slot."""
        self.guest.qmp.command("device_del", id=self.devices[0]["id"])
        self.wait_unplugged()

    def wait_unplugged(self):
        """Until the guest has let go of card and device."""
        for device in self.devices:
            self.guest.qmp.wait_event("DEVICE_DELETED",
                                      lambda data, id=device["id"]: data.get("device") == id)
        self.plugged = False

    def configure(self):
        """Waits for the guest and brings its network and RDMA device up."""
        guest = self.guest
        guest.wait_ready()
        if not self.plugged:
            self.plug()
        guest.check(
            f"modprobe {self.card_module} && "
            "modprobe -a ib_uverbs rdma_ucm ib_umad && "
            "until [ -e /sys/class/net/eth0 ]; do :; done && "
            f"ip link set eth0 mtu {MTU} up && ip addr add {self.ipv4}/24 dev eth0 && "
            f"ip addr add {self.ipv6}/64 dev eth0 nodad")
        self.configure_driver()

    def configure_driver(self):
        """Brings the RDMA device up where the network is."""
        guest = self.guest
        if self.kind == "vmxnet3":
            return
        if self.kind != "rxe":
            guest.check(f"modprobe {self.module}")
        else:
            # rxe answers a long READ without waiting: a queue that drops what it holds too long, as
            # fq_codel does, loses packets where QEMU is slower than the guest.
            guest.check("tc qdisc replace dev eth0 root pfifo limit 1000000 && "
                        f"modprobe {self.module} && rdma link add rxe0 type rxe netdev eth0")
        guest.check(f"until ibv_devinfo -d {self.device} | grep -q PORT_ACTIVE; do :; done")

    @contextlib.contextmanager
    def capture(self, path):
        """Writes every frame of the guest's network to a pcap file meanwhile."""
        # At the head, to see frames that the device's own filter takes.
        self.guest.qmp.command("object-add", **{
            "qom-type": "filter-dump", "id": "dump", "netdev": "n0", "file": str(path),
            "position": "head"})
        try:
            yield
        finally:
            self.guest.qmp.command("object-del", id="dump")

    def gid_index(self, address, device=None):
        """The index of the GID that an IP address stands for."""
        return int(self.guest.check(
            "python3 - <<'END'\n"
            "import ipaddress, pathlib\n"
            f"a = ipaddress.ip_address('{address}')\n"
            "a = ipaddress.ip_address('::ffff:' + str(a)) if a.version == 4 else a\n"
            f"ports = pathlib.Path('/sys/class/infiniband/{device or self.device}/ports/1')\n"
            "def value(f):\n"
            "    try: return f.read_text().strip()\n"
            "    except OSError: return ''\n"
            "for f in sorted((ports / 'gids').iterdir(), key=lambda f: int(f.name)):\n"
            "    kind = value(ports / 'gid_attrs' / 'types' / f.name)\n"
            f"    if kind == '{self.gid_type}' and ipaddress.ip_address(value(f)) == a:\n"
            "        print(f.name); break\n"
            "else: raise SystemExit('no GID for ' + str(a))\n"
            "END"))


class Fabric:
    """Two nodes, booted and configured; none is left where that fails.

    each: options for Node, of the one and the other.
    """

    def __init__(self, kinds, directory, image, each=({}, {}), **options):
        self._come_up([functools.partial(Node, kind, index, directory, image, **options, **own)
                       for index, (kind, own) in enumerate(zip(kinds, each), start=1)])

    def _come_up(self, makers):
        """The nodes are what the makers make."""
        self.nodes = []
        try:
            for make in makers:
                self.nodes.append(make())
            for node in self.nodes:
                node.configure()
            # Neighbour discovery is not part of what is tested or measured.
            first, second = self.nodes
            first.guest.check(f"ping -q -c 1 {second.ipv4} && ping -q -c 1 {second.ipv6}")
        except BaseException:
            self.stop()
            raise

    def stop(self):
        for node in self.nodes:
            node.guest.stop()


def run_pair(server, client, server_command, client_command, port, timeout=180):
    """Runs a server that listens on a TCP port and a client of it to their ends.

    Returns both results.
    """
    serving = server.guest.start(server_command)
    server.guest.wait_listening(port)
    client_result = client.guest.run(client_command, timeout)
    if client_result.status != 0:
        serving.kill()
    return serving.wait(timeout), client_result
