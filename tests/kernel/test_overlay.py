"""Networks that are on several hosts: what passes between them, and what does not."""

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from ipaddress import IPv4Address, ip_address, ip_network
from itertools import count
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import NamedTuple, Self, TypeVar

import pytest
from msgspec.structs import replace

from isthmus import naming
from isthmus.addresses import DEFAULT_POOLS, Subnet, SubnetRequest
from isthmus.engine import Engine
from isthmus.kernel import namespaces
from isthmus.kernel.linux import LinuxKernel
from isthmus.kernel.watch import Watch
from isthmus.model import HOST, Network, Peer, pairs
from isthmus.requests import EndpointRequest, NetworkRequest, SandboxRequest
from isthmus.resources import Forwarding, Neighbour
from isthmus.rules import Rules
from isthmus.store.memory import MemoryStore
from isthmus.views import Event
from tests.kernel.realm import PATIENCE, apart, depart, pings, run, shown, silent

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")]

T = TypeVar("T")

ID = "a" * 64
SHARED = Network(
    ID,
    "shared",
    "overlay",
    1,
    subnets=(
        Subnet(ip_network("10.6.0.0/24"), ip_address("10.6.0.1")),
        Subnet(ip_network("fd00:6::/64"), ip_address("fd00:6::1")),
    ),
    options=pairs({"com.docker.network.driver.overlay.vxlanid_list": "4100"}),
    ipv6=True,
    scope="global",
)
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD
NOBODYS = "02:42:de:ad:be:ef"


class Node:
    """A host on the wire, with an engine, on a thread that stays in its namespace; its address is 192.0.2.*number*."""

    def __init__(self, number: int, directory: Path) -> None:
        self.via = IPv4Address(f"192.0.2.{number}")
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._directory = directory / str(number)
        run("ip", "link", "add", f"wire{number}", "type", "veth", "peer", "name", f"eth{number}")
        run("ip", "link", "set", f"wire{number}", "master", "lan", "up")
        where = self.do(self._enter)
        run("ip", "link", "set", f"eth{number}", "netns", where)
        self.do(self._start, number)
        self._lives = True

    def do(self, body: Callable[..., T], *arguments: object) -> T:
        """Have *body* done there."""
        return self._thread.submit(body, *arguments).result()

    def run(self, *command: str) -> str:
        """What a program prints there."""
        return self.do(run, *command)

    def _enter(self) -> str:
        depart()
        return f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"

    def _start(self, number: int) -> None:
        run("ip", "address", "add", f"{self.via}/24", "dev", f"eth{number}")
        run("ip", "link", "set", f"eth{number}", "up")
        run("ip", "link", "set", "lo", "up")
        self.kernel = LinuxKernel(self._directory)
        numbers = count(1)
        events: list[Event] = []
        self.engine = Engine(
            MemoryStore(),
            self.kernel,
            Rules(pools=DEFAULT_POOLS, boot_id="one", shared=True, advertise=str(self.via)),
            clock=lambda: next(numbers),
            random=lambda size: sha256(f"{number} {next(numbers)}".encode()).digest()[:size],
            publish=events.append,
            paths={HOST: "/proc/1/ns/net", "*": str(self._directory)},
        )
        self.engine.start()

    def learn(self, *put: Network | Peer) -> None:
        """Tell the engine what others have."""
        self.do(self.engine.learn, put, ())

    def lose(self, *gone: Peer) -> None:
        """Tell the engine what others had."""
        self.do(self.engine.learn, (), gone)

    def sandbox(self, name: str, number: int, net: int = 6) -> Peer:
        """Make a sandbox with the addresses of this *number*; what others have to know of it."""
        place = EndpointRequest(ipv4=f"10.{net}.0.{number}", ipv6=f"fd00:{net}::{number}")
        self.do(self.engine.create_sandbox, SandboxRequest(name, mode="shared", endpoints=(("shared", place),)))
        [offered] = [one for one in self.do(self.engine.offers).offered if one.name == name]
        return replace(offered, node=str(self.via), via=self.via)

    def pings(self, netns: str, address: str) -> bool:
        """Whether *address* answers."""
        return self.do(pings, netns, address)

    def silent(self, netns: str, address: str) -> bool:
        """Whether *address* does not."""
        return self.do(silent, netns, address)

    def stop(self) -> None:
        """End the engine, and give back all that it held."""
        if self._lives:
            self._lives = False
            self.do(self.kernel.close)

    def close(self) -> None:
        """End the thread, and with it the host."""
        self.stop()
        self._thread.shutdown()


class Frame(NamedTuple):
    """A frame that passed between hosts, by whom it was sent and to whom."""

    source: IPv4Address
    target: IPv4Address
    mac: str
    protocol: int
    kind: int
    """Of ICMPv6; 0 for all else."""


class Wire:
    """What the hosts say to each other in tunnels, from its making on."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def frames(self) -> Iterator[Frame]:
        """All that passed so far; what a host was answered, it was sent before."""
        while True:
            try:
                packet = self._socket.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            outer = packet[14:]
            if packet[12:14] != ETH_P_IP.to_bytes(2) or outer[9] != socket.IPPROTO_UDP:
                continue
            if int.from_bytes(outer[22:24]) == 4789:
                inner = outer[36:]
                protocol = int.from_bytes(inner[12:14])
                kind = inner[54] if protocol == ETH_P_IPV6 and inner[20] == socket.IPPROTO_ICMPV6 else 0
                yield Frame(IPv4Address(outer[12:16]), IPv4Address(outer[16:20]), inner[:6].hex(":"), protocol, kind)


@contextmanager
def hosts(directory: Path, number: int) -> Iterator[list[Node]]:
    """So many hosts on one wire."""
    run("ip", "link", "add", "lan", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
    run("ip", "link", "set", "lan", "up")
    nodes = [Node(one + 1, directory) for one in range(number)]
    try:
        yield nodes
    finally:
        for node in nodes:
            node.close()


@contextmanager
def pair(directory: Path, number: int = 2) -> Iterator[tuple[list[Node], Peer, Peer]]:
    """Hosts of which the first two have a sandbox each on one network, `web` and `db`, and know of each other."""
    with hosts(directory, number) as nodes:
        for node in nodes:
            node.learn(SHARED)
        web, db = nodes[0].sandbox("web", 2), nodes[1].sandbox("db", 3)
        nodes[0].learn(db)
        nodes[1].learn(web)
        yield nodes, web, db


@apart
def test_who_is_known_is_reached_and_nothing_is_flooded(tmp_path: Path) -> None:
    """Hosts that nobody concerns hear nothing, and no question about addresses crosses the wire."""
    with pair(tmp_path) as ([one, two], web, db), Wire() as wire:
        for address in ("10.6.0.3", "fd00:6::3"):
            assert one.pings("web", address)
        for address in ("10.6.0.2", "fd00:6::2"):
            assert two.pings("db", address)
        frames = set(wire.frames())
        to_db, to_web = (one.via, two.via, db.mac), (two.via, one.via, web.mac)
        echoes = {(ETH_P_IP, 0), (ETH_P_IPV6, 128), (ETH_P_IPV6, 129)}
        assert frames == {Frame(*way, *echo) for way in (to_db, to_web) for echo in echoes}


@apart
def test_who_is_on_another_subnet_is_reached_by_the_gateway_of_ones_own_host(tmp_path: Path) -> None:
    """Each host routes itself, as one router with one MAC."""
    more = (
        Subnet(ip_network("10.7.0.0/24"), ip_address("10.7.0.1")),
        Subnet(ip_network("fd00:7::/64"), ip_address("fd00:7::1")),
    )
    options = pairs({"com.docker.network.driver.overlay.vxlanid_list": "4100,4101"})
    routed = replace(SHARED, subnets=(*SHARED.subnets, *more), options=options)
    with hosts(tmp_path, 2) as [one, two], Wire() as wire:
        one.learn(routed)
        two.learn(routed)
        web, db = one.sandbox("web", 2), two.sandbox("db", 3, net=7)
        one.learn(db)
        two.learn(web)
        for address in ("10.7.0.3", "fd00:7::3"):
            assert one.pings("web", address)
        assert {(frame.target, frame.mac) for frame in wire.frames()} == {(two.via, db.mac), (one.via, web.mac)}


@apart
def test_a_frame_for_nobody_known_is_dropped(tmp_path: Path) -> None:
    """A network of a thousand hosts cannot be asked who that may be."""
    with pair(tmp_path) as ([one, two], web, _), Wire() as wire:
        other = one.sandbox("other", 4)
        two.learn(other)
        sender = one.do(_raw, "web")
        heard = one.do(_raw, "other")
        with sender, heard:
            frame = bytes.fromhex((NOBODYS + web.mac).replace(":", "")) + b"\x08\x00" + bytes(46)
            marked = bytes.fromhex((other.mac + web.mac).replace(":", "")) + b"\x88\xb5" + bytes(46)
            sender.send(frame)
            sender.send(marked)
            got = [heard.recv(2048)]
            while got[-1][12:14] != b"\x88\xb5":
                got.append(heard.recv(2048))
            assert NOBODYS not in {one[:6].hex(":") for one in got}
        assert one.pings("web", "10.6.0.3")
        assert NOBODYS not in {one.mac for one in wire.frames()}


def _raw(netns: str) -> socket.socket:
    """A packet socket on eth0 in *netns*."""
    there = namespaces.open_path(f"/run/netns/{netns}")
    try:
        with namespaces.inside(there):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            raw.bind(("eth0", ETH_P_ALL))
            raw.settimeout(PATIENCE)
            return raw
    finally:
        os.close(there)


@apart
def test_the_kernel_tells_to_whom_nothing_was_sent_for_long(tmp_path: Path) -> None:
    """Also of entries that are for good; to look at them, or to say where somebody is by now, is no use of them."""
    with pair(tmp_path) as ([one, two], _, db):
        third = two.sandbox("third", 4)
        one.learn(third)
        home, tunnel = naming.hidden(ID), naming.tunnel(4100)
        known = {peer.name: Forwarding(home, tunnel, peer.mac).key for peer in (db, third)}
        neighbour = Neighbour(home, tunnel, db.addresses[0].ip, db.mac).key

        def idle(seconds: float) -> set[str]:
            found = one.do(one.kernel.idle, (*known.values(), neighbour), seconds)
            assert neighbour not in found
            return {name for name, key in known.items() if key in found}

        assert idle(0) == {"db", "third"}
        end = time.monotonic() + PATIENCE
        while idle(1) != {"db", "third"}:
            assert time.monotonic() < end
        began = time.monotonic()
        assert one.pings("web", "10.6.0.3")
        one.learn(replace(third, via=ip_address("192.0.2.9")))
        assert idle(time.monotonic() - began + 0.9) == {"third"}


@apart
def test_who_was_forgotten_is_met_again_although_his_mac_is_remembered(tmp_path: Path) -> None:
    """Nobody asks for his address again: the tunnel tells that it does not know where that MAC is."""
    lazy = replace(SHARED, options=pairs({**dict(SHARED.options), "isthmus.lazy": "true"}))
    with hosts(tmp_path, 2) as [one, two]:
        one.learn(lazy)
        two.learn(lazy)
        web, db = one.sandbox("web", 2), two.sandbox("db", 3)
        one.learn(db)
        two.learn(web)
        watches = [one.do(Watch, tmp_path / "1/netns", 0), two.do(Watch, tmp_path / "2/netns", 0)]

        def reaches() -> bool:
            """Whether an echo comes back while both engines hear what their kernels tell."""
            ask = ("ip", "netns", "exec", "web", "ping", "-c", "1", "-i", "0.1", "-w", str(int(PATIENCE)), "10.6.0.3")
            asking = one.do(lambda: Popen(ask, stdout=DEVNULL))
            while asking.poll() is None:
                select.select(watches, (), (), 0.1)
                one.do(lambda: one.engine.mend(watches[0].read()))
                two.do(lambda: two.engine.mend(watches[1].read()))
            return asking.wait() == 0

        try:
            assert reaches()
            one.do(one.engine.forget_idle, 0)
            assert one.run("ip", "-n", naming.hidden(ID), "neigh", "show", "dev", naming.tunnel(4100)) == ""
            assert reaches()
        finally:
            for watch in watches:
                watch.close()


@apart
def test_a_peer_that_moves_is_found_where_it_is(tmp_path: Path) -> None:
    """And one that is gone is found nowhere."""
    with pair(tmp_path, 3) as ([one, two, three], web, db), Wire() as wire:
        assert one.pings("web", "10.6.0.3")
        two.do(two.engine.remove_sandbox, "db")
        three.learn(web)
        moved = three.sandbox("db", 3)
        one.lose(db)
        assert one.silent("web", "10.6.0.3")
        one.learn(moved)
        [*wire.frames()]
        assert one.pings("web", "10.6.0.3")
        assert one.pings("web", "fd00:6::3")
        assert {(frame.source, frame.target) for frame in wire.frames()} == {
            (one.via, three.via),
            (three.via, one.via),
        }
        one.learn(replace(moved, via=two.via))
        assert one.silent("web", "10.6.0.3")
        one.learn(moved)
        assert one.pings("web", "10.6.0.3")


@apart
def test_the_largest_packet_passes_and_a_larger_one_does_not(tmp_path: Path) -> None:
    """What is around each frame has room on the hosts' wire, and nothing is cut into pieces."""
    with pair(tmp_path) as ([one, _], _, _):
        [link] = one.do(shown, "ip", "-n", "web", "-j", "link", "show", "eth0")
        assert link["mtu"] == 1450
        assert one.pings("web", "10.6.0.3")
        for size, address in ((1422, "10.6.0.3"), (1402, "fd00:6::3")):
            ping = ("ip", "netns", "exec", "web", "ping", "-n", "-c1", "-W5", "-M", "do", "-s")
            one.run(*ping, str(size), address)
            with pytest.raises(Exception, match="non-zero exit status"):
                one.run(*ping, str(size + 1), address)


@apart
def test_traffic_outlives_the_engine(tmp_path: Path) -> None:
    """Nobody but the kernel has a hand in it."""
    with pair(tmp_path) as ([one, two], _, _):
        one.stop()
        two.stop()
        for address in ("10.6.0.3", "fd00:6::3"):
            assert one.pings("web", address)


@apart
def test_hosts_that_a_network_names_itself_may_be_anybodys(tmp_path: Path) -> None:
    """It is plain VXLAN."""
    with hosts(tmp_path, 2) as [one, two]:
        options = {"com.docker.network.driver.overlay.vxlanid_list": "7", "isthmus.peers": str(two.via)}
        request = NetworkRequest(
            "static",
            driver="overlay",
            subnets=(SubnetRequest("10.7.0.0/24", gateway="10.7.0.1"),),
            options=pairs(options),
        )
        one.do(one.engine.create_network, request)
        place = EndpointRequest(ipv4="10.7.0.2")
        one.do(one.engine.create_sandbox, SandboxRequest("web", mode="static", endpoints=(("static", place),)))
        ways = ("local", str(two.via), "remote", str(one.via), "dstport", "4789")
        two.run("ip", "link", "add", "plain", "mtu", "1450", "type", "vxlan", "id", "7", *ways)
        two.run("ip", "address", "add", "10.7.0.9/24", "dev", "plain")
        two.run("ip", "link", "set", "plain", "up")
        assert two.pings(HOST, "10.7.0.2")
        assert one.pings("web", "10.7.0.9")
        assert two.pings(HOST, "10.7.0.1")
