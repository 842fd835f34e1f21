"""What every kernel does: the fake one and Linux are held to the same words.

Each test on Linux has namespaces of its own. What only Linux has (packets, what is retired and reaped) is tested in
tests/kernel.
"""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from errno import (
    EACCES,
    EADDRINUSE,
    EADDRNOTAVAIL,
    EBUSY,
    EEXIST,
    EHOSTUNREACH,
    EINVAL,
    ENETDOWN,
    ENETUNREACH,
    ENODEV,
    ENOENT,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    EXFULL,
)
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Protocol

import pytest
from msgspec.structs import replace

from isthmus import firewall
from isthmus.egress import Egress, egress_of
from isthmus.errors import Refused
from isthmus.firewall import Mode, Policy, Subject
from isthmus.kernel import ELSEWHERE, Kernel, Scope
from isthmus.kernel.fake import BRIDGE_PORTS, FakeKernel
from isthmus.kernel.linux import LinuxKernel
from isthmus.model import HOST, Binding, HostLink, IPAddress, Place
from isthmus.naming import MAIN_TABLE, Owner
from isthmus.options import Callers
from isthmus.plan import NOTHING, Change, Make, Operation, Plan, Remove, diff
from isthmus.resources import (
    NOBODY,
    Address,
    Bridge,
    Child,
    Element,
    Forwarding,
    Ifb,
    IPNetwork,
    Key,
    Namespace,
    Neighbour,
    Port,
    Redirect,
    Resource,
    Route,
    Rule,
    Shaper,
    Sysctl,
    Table,
    Veth,
    Vlan,
    Vxlan,
    satisfied,
)
from tests.kernel.realm import needs_shaping

NET, OTHER = Owner("a" * 64), Owner("b" * 64)
END, SECOND_END = Owner("a" * 64, "1" * 64), Owner("a" * 64, "2" * 64)
WEB, DB = Namespace("web"), Namespace("db")
BRIDGE = Bridge(HOST, "br-a", NET, mtu=1400, ipv6=False)
VETH = Veth(
    HOST, "veth1", "web", "eth0", END, "02:42:0a:00:00:02", "br-a", 1400, isolated=True, ipv6=True, announce=True
)
GATEWAY = Address(HOST, "br-a", ip_interface("10.0.0.1/24"), NET)
ADDRESS = Address("web", "eth0", ip_interface("10.0.0.2/24"), END)
ADDRESS6 = Address("web", "eth0", ip_interface("fd00::2/64"), END)
DEFAULT = Route("web", ip_network("0.0.0.0/0"), "eth0", END, ip_address("10.0.0.1"))
DEFAULT6 = Route("web", ip_network("::/0"), "eth0", END, ip_address("fd00::1"))
DIRECT = Route("web", ip_network("10.77.0.0/16"), "eth0", END)
BACK = Route("web", ip_network("0.0.0.0/0"), "eth0", END, ip_address("10.0.0.1"), table=1 << 30)
BACK_NEAR = Route("web", ip_network("10.0.0.0/24"), "eth0", END, table=1 << 30)
RULE = Rule("web", ip_address("10.0.0.2"), 1 << 30)
RULE6 = Rule("web", ip_address("fd00::2"), 1 << 30)
RETURN: tuple[Resource, ...] = (BACK, BACK_NEAR, RULE, RULE6)
PORT = Port(HOST, "up0", "br-a", NET)
FORWARD = Sysctl(HOST, "net.ipv4.ip_forward", "1")
TABLE = firewall.table()
PLACE = Place("tcp", 8080)
PUBLISHED = (
    *firewall.published((Binding("web", 80, PLACE),), ip_address("10.0.0.2"), Mode.NAT),
    *firewall.published((Binding("web", 80, PLACE),), ip_address("fd00::2"), Mode.NAT),
    *firewall.published(
        (Binding("web", 53, replace(PLACE, protocol="udp", address=ip_address("127.0.0.1"))),),
        ip_address("10.0.0.2"),
        Mode.NAT,
    ),
    *firewall.published(
        (Binding("web", 53, replace(PLACE, address=ip_address("2001:db8::1"))),), ip_address("fd00::2"), Mode.NAT
    ),
    *firewall.published((Binding("web", 80, PLACE),), ip_address("10.0.0.2"), Mode.ROUTED),
    *firewall.published((Binding("web", 80, PLACE),), ip_address("fd00::2"), Mode.ROUTED),
)
OWN = tuple(
    element
    for number, callers in enumerate(("open", "localhost", "follow", "from 192.0.2.0/24,2001:db8::/32", "on up0,up1"))
    for address in (None, ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    for target in (ip_address("10.0.0.2"), ip_address("fd00::2"))
    for element in firewall.published(
        (Binding("web", 80, Place("tcp", 9000 + 10 * number + bool(address), address), callers=callers),),
        target,
        Mode.NAT,
    )
)
SENDERS = tuple(firewall.senders("veth1", "02:42:0a:00:00:02", (ip_address("10.0.0.2"), ip_address("fd00::2"))))
CALLERS = Callers((ip_network("192.0.2.0/24"), ip_network("198.51.100.7/32"), ip_network("2001:db8::/32")), ("up0",))
POLICY = egress_of("deny 192.0.2.9, deny :80-90/tcp") or Egress(())
HELD = (
    *firewall.held(Subject("br-a", (ADDRESS.interface.ip,), (POLICY,))),
    *firewall.held(Subject("br-a", None, (POLICY,))),
)
ELEMENTS = (*firewall.elements(Policy("br-a", Mode.NAT, callers=CALLERS)), *PUBLISHED, *OWN, *SENDERS, *HELD)
ENTER = next(one for one in ELEMENTS if one.set == "enter4")
ENDPOINT: tuple[Resource, ...] = (BRIDGE, WEB, VETH, GATEWAY, ADDRESS, ADDRESS6, DEFAULT, DEFAULT6, DIRECT, *RETURN)
ALL: tuple[Resource, ...] = (*ENDPOINT, PORT, FORWARD, TABLE, *ELEMENTS)
EVERYTHING = Scope(
    everything=True,
    ports=frozenset({"up0"}),
    sysctls=frozenset({(HOST, "net.ipv4.ip_forward")}),
    ruled=frozenset({"web"}),
)


class Administrator(Protocol):
    """What somebody else does on the same machine."""

    def add_link(self, link: HostLink) -> None:
        """Make a link."""

    def add_tunnel(self, name: str, vni: int, port: int) -> None:
        """Make a tunnel in the host's namespace."""

    def add_namespace(self, name: str) -> None:
        """Make a namespace."""

    def add_address(self, name: str, interface: IPv4Interface | IPv6Interface, netns: str = HOST) -> None:
        """Give a link an address."""

    def add_route(self, destination: IPNetwork, name: str) -> None:
        """Make a route over a link."""

    def delete_link(self, name: str, netns: str = HOST) -> None:
        """Take a link away."""

    def delete_namespace(self, name: str) -> None:
        """Take a namespace of ours away."""

    def delete_address(self, name: str, interface: IPv4Interface | IPv6Interface, netns: str = HOST) -> None:
        """Take an address away."""

    def delete_route(self, destination: IPNetwork, netns: str = HOST, table: int = MAIN_TABLE) -> None:
        """Take a route away."""

    def delete_rule(self, source: IPAddress, netns: str = HOST) -> None:
        """Take a rule away."""

    def delete_shaper(self, name: str) -> None:
        """Take the root qdisc from a link."""

    def delete_redirect(self, name: str) -> None:
        """Take the filters from what comes in by a link."""

    def delete_entry(self, key: Key) -> None:
        """Take a forwarding entry or a neighbour away."""

    def set_rate(self, name: str, rate: int) -> None:
        """Let another rate go out by a link."""

    def delete_element(self, name: str, match: tuple[str, ...]) -> None:
        """Take an element out of a set."""

    def bind(self, place: Place) -> None:
        """Have a process at a port, for as long as there is this administrator; OSError if it cannot be."""

    def set_down(self, name: str, netns: str = HOST) -> None:
        """Set a link down."""

    def set_up(self, name: str, netns: str = HOST) -> None:
        """Set a link up."""

    def set_mtu(self, name: str, mtu: int, netns: str = HOST) -> None:
        """Give a link another MTU."""

    def set_master(self, name: str, master: str, netns: str = HOST) -> None:
        """Put a link on a bridge."""

    def nomaster(self, name: str, netns: str = HOST) -> None:
        """Take a link off its bridge."""

    def write_sysctl(self, name: str, value: str, netns: str = HOST) -> None:
        """Set a sysctl."""

    def flush_ruleset(self) -> None:
        """Take all of nftables away."""

    def edit_table(self) -> None:
        """Spoil our table."""


def run(*command: str) -> str:
    """What a program prints; it must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def ip(netns: str, *command: str) -> str:
    """What iproute2 prints."""
    return run("ip", *(("-n", netns) if netns else ()), *command)


class Shell:
    """An administrator of Linux, with iproute2 and nft."""

    def __init__(self) -> None:
        self._listening: list[socket.socket] = []

    def close(self) -> None:
        """End his processes."""
        for one in self._listening:
            one.close()

    def bind(self, place: Place) -> None:
        """Bind a socket."""
        assert place.address
        family = socket.AF_INET if place.address.version == 4 else socket.AF_INET6
        self._listening.append(
            socket.socket(family, socket.SOCK_DGRAM if place.protocol == "udp" else socket.SOCK_STREAM)
        )
        self._listening[-1].bind((str(place.address), place.port))

    def add_link(self, link: HostLink) -> None:
        """Make a veth, whose other end is `far-NAME`: every kernel has those."""
        mac = ("address", link.mac) if link.mac else ()
        peer = ("type", "veth", "peer", "name", f"far-{link.name}")
        ip(HOST, "link", "add", link.name, *mac, "mtu", str(link.mtu), *peer)
        ip(HOST, "link", "set", f"far-{link.name}", "up", "addrgenmode", "none")
        ip(HOST, "link", "set", link.name, "addrgenmode", "none", "up" if link.up else "down")
        for interface in link.addresses:
            self.add_address(link.name, interface)

    def add_tunnel(self, name: str, vni: int, port: int) -> None:
        """Make a tunnel."""
        ip(HOST, "link", "add", name, "type", "vxlan", "id", str(vni), "dstport", str(port))

    def add_namespace(self, name: str) -> None:
        """Make a namespace."""
        run("ip", "netns", "add", name)

    def add_address(self, name: str, interface: IPv4Interface | IPv6Interface, netns: str = HOST) -> None:
        """Give a link an address."""
        ip(netns, "address", "add", str(interface), "dev", name)

    def add_route(self, destination: IPNetwork, name: str) -> None:
        """Make a route over a link."""
        ip(HOST, f"-{destination.version}", "route", "add", str(destination), "dev", name)

    def delete_link(self, name: str, netns: str = HOST) -> None:
        """Take a link away."""
        ip(netns, "link", "delete", name)

    def delete_namespace(self, name: str) -> None:
        """Take a namespace of ours away."""
        path = Path("/run/netns", name).readlink()
        run("umount", str(path))
        path.unlink()
        Path("/run/netns", name).unlink()

    def delete_address(self, name: str, interface: IPv4Interface | IPv6Interface, netns: str = HOST) -> None:
        """Take an address away."""
        ip(netns, "address", "delete", str(interface), "dev", name)

    def delete_route(self, destination: IPNetwork, netns: str = HOST, table: int = MAIN_TABLE) -> None:
        """Take a route away."""
        ip(netns, f"-{destination.version}", "route", "delete", str(destination), "table", str(table))

    def delete_rule(self, source: IPAddress, netns: str = HOST) -> None:
        """Take a rule away."""
        ip(netns, f"-{source.version}", "rule", "delete", "from", str(source))

    def delete_shaper(self, name: str) -> None:
        """Take the root qdisc from a link."""
        run("tc", "qdisc", "delete", "dev", name, "root")

    def delete_redirect(self, name: str) -> None:
        """Take the filters from what comes in by a link."""
        run("tc", "filter", "delete", "dev", name, "ingress")

    def delete_entry(self, key: Key) -> None:
        """Take a forwarding entry or a neighbour away."""
        kind, netns, name, what, *rest = key
        if kind == "neighbour":
            ip(netns, "neigh", "delete", what, "dev", name)
            return
        where = ["self", *(["dst", rest[0]] if rest[0] else [])] if name.startswith("vxlan") else ["master"]
        run("bridge", "-n", netns, "fdb", "delete", what, "dev", name, *where)

    def set_rate(self, name: str, rate: int) -> None:
        """Let another rate go out by a link."""
        run(*Shaper(HOST, name, rate).make().split())

    def delete_element(self, name: str, match: tuple[str, ...]) -> None:
        """Take an element out of a set."""
        run("nft", f"delete element inet isthmus {name} {{ {' . '.join(match)} }}")

    def set_down(self, name: str, netns: str = HOST) -> None:
        """Set a link down."""
        ip(netns, "link", "set", name, "down")

    def set_up(self, name: str, netns: str = HOST) -> None:
        """Set a link up."""
        ip(netns, "link", "set", name, "up")

    def set_mtu(self, name: str, mtu: int, netns: str = HOST) -> None:
        """Give a link another MTU."""
        ip(netns, "link", "set", name, "mtu", str(mtu))

    def set_master(self, name: str, master: str, netns: str = HOST) -> None:
        """Put a link on a bridge."""
        ip(netns, "link", "set", name, "master", master)

    def nomaster(self, name: str, netns: str = HOST) -> None:
        """Take a link off its bridge."""
        ip(netns, "link", "set", name, "nomaster")

    def write_sysctl(self, name: str, value: str, netns: str = HOST) -> None:
        """Set a sysctl."""
        enter = ("ip", "netns", "exec", netns) if netns else ()
        run(*enter, "sysctl", "-qw", f"{name}={value}")

    def flush_ruleset(self) -> None:
        """Take all of nftables away."""
        run("nft", "flush", "ruleset")

    def edit_table(self) -> None:
        """Spoil our table."""
        run("nft", "flush", "chain", "inet", "isthmus", "forward")


@dataclass(frozen=True, slots=True)
class Machine:
    """A kernel, and the other administrator of the same machine."""

    kernel: Kernel
    admin: Administrator

    def do(self, *operations: Operation) -> None:
        """Apply *operations*, of which each is put into the phase of its kind."""
        nft = tuple(one for one in operations if isinstance(one.resource, Table | Element))
        rest = tuple(one for one in operations if one not in nft)
        removals = tuple(one for one in rest if isinstance(one, Remove))
        self.kernel.apply(Plan(nft, removals, tuple(one for one in rest if one not in removals)))

    def make(self, *resources: Resource) -> None:
        """Make *resources*, in this order."""
        self.do(*map(Make, resources))

    def refuses(self, operation: Operation, *errnos: int) -> None:
        """*Operation* is refused with one of these, and leaves things as they were."""
        before = self.seen()
        with pytest.raises(Refused) as refused:
            self.do(operation)
        assert refused.value.errno in errnos, os.strerror(refused.value.errno)
        assert str(operation) in str(refused.value)
        assert self.seen() == before

    def seen(self, scope: Scope = EVERYTHING) -> frozenset[Resource]:
        """What is observed."""
        return self.kernel.observe(scope)

    def holds(self, *resources: Resource, scope: Scope = EVERYTHING) -> None:
        """Within *scope* there are *resources*, and nothing else; sysctls aside."""
        seen = {one.key: one for one in self.seen(scope)}
        for one in resources:
            assert one.key in seen, f"{one} is not among {sorted(seen)}"
            assert satisfied(one, seen[one.key]), f"{one} is {seen[one.key]}"
        wanted = {one.key for one in resources}
        assert {key for key in seen if key[0] != "sysctl"} == {key for key in wanted if key[0] != "sysctl"}


@pytest.fixture
def fake() -> Machine:
    """A machine in memory."""
    kernel = FakeKernel()
    return Machine(kernel, kernel)


@pytest.fixture
def linux(netns: None, tmp_path: Path) -> Iterator[Machine]:  # noqa: ARG001 - it is entered
    """A machine of the test's own on this Linux."""
    kernel, shell = LinuxKernel(tmp_path), Shell()
    try:
        yield Machine(kernel, shell)
    finally:
        kernel.close()
        shell.close()


@pytest.fixture(params=["fake", pytest.param("linux", marks=pytest.mark.kernel)])
def machine(request: pytest.FixtureRequest) -> Machine:
    """Both kinds in turn."""
    made: Machine = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def running(machine: Machine) -> Machine:
    """A machine on which all is made, and which has an uplink of its own."""
    machine.admin.add_link(HostLink("up0", "veth", 1500))
    machine.kernel.apply(diff(ALL, ()))
    return machine


def without(*gone: Resource, of: Iterable[Resource] = ALL) -> tuple[Resource, ...]:
    """All resources but those *gone*."""
    return tuple(one for one in of if one not in gone)


# Making, changing, removing.


def test_what_was_made_is_observed(running: Machine) -> None:
    """Otherwise the next look would find a difference, and the one after that."""
    running.holds(*ALL)
    assert diff(ALL, running.seen()) is NOTHING


def test_all_is_gone_after_removal(running: Machine) -> None:
    """Nothing may be left behind, and what is not ours stays."""
    before = running.kernel.host()
    running.kernel.apply(diff((), running.seen()))
    running.holds()
    assert running.kernel.host() == before


@pytest.mark.parametrize(
    "resource", [one for one in ALL if not isinstance(one, Table)], ids=lambda one: "-".join(one.key)
)
def test_making_what_is_there_is_success(running: Machine, resource: Resource) -> None:
    """After a crash nobody knows how far it came."""
    running.make(resource)
    running.holds(*ALL)


@pytest.mark.parametrize(
    "resource", [one for one in ALL if not isinstance(one, Sysctl)], ids=lambda one: "-".join(one.key)
)
def test_removing_what_is_gone_is_success(machine: Machine, resource: Resource) -> None:
    """The namespace may be gone, or all that was in it."""
    machine.do(Remove(resource))
    machine.holds()


@pytest.mark.parametrize(
    "resource",
    [one for one in ALL if not isinstance(one, Sysctl | Table | Namespace | Bridge | Veth)],
    ids=lambda one: "-".join(one.key),
)
def test_what_can_be_removed_by_itself_takes_nothing_along(running: Machine, resource: Resource) -> None:
    """A route that goes is one route."""
    rest = without(resource, *((DEFAULT, DIRECT, BACK, BACK_NEAR) if resource == ADDRESS else ()))
    running.do(Remove(resource))
    running.holds(*rest)
    running.kernel.apply(diff(ALL, running.seen()))
    running.holds(*ALL)


CHANGES: dict[str, tuple[Resource, Resource]] = {
    "bridge mtu": (BRIDGE, replace(BRIDGE, mtu=1350)),
    "bridge ipv6": (BRIDGE, replace(BRIDGE, ipv6=True)),
    "veth mac": (VETH, replace(VETH, mac="02:42:0a:00:00:09")),
    "veth mtu": (VETH, replace(VETH, mtu=1300)),
    "veth isolated": (VETH, replace(VETH, isolated=False)),
    "veth announce": (VETH, replace(VETH, announce=False)),
    "route gateway": (DEFAULT, replace(DEFAULT, via=ip_address("10.0.0.7"))),
    "route direct": (DIRECT, replace(DIRECT, via=ip_address("10.0.0.7"))),
    "route in a table": (BACK, replace(BACK, via=ip_address("10.0.0.7"))),
    "sysctl": (FORWARD, replace(FORWARD, value="0")),
    "verdict": (ENTER, replace(ENTER, value="accept")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_field_is_changed_in_place(running: Machine, change: str) -> None:
    """What stands on it stays."""
    was, new = CHANGES[change]
    running.do(Change(new, was))
    running.holds(*without(was), new)


def test_a_veth_moves_to_another_bridge(running: Machine) -> None:
    """Its addresses and routes stay."""
    other = Bridge(HOST, "br-b", OTHER)
    moved = replace(VETH, master="br-b")
    running.do(Make(other), Change(moved, VETH))
    running.holds(*without(VETH), moved, other)


def test_a_veth_gets_ipv6_and_loses_it(machine: Machine) -> None:
    """A network may be made anew with other families."""
    off = replace(VETH, ipv6=False)
    machine.make(BRIDGE, WEB, off)
    machine.holds(BRIDGE, WEB, off)
    machine.refuses(Make(ADDRESS6), EACCES)
    machine.do(Change(VETH, off), Make(ADDRESS6))
    machine.holds(BRIDGE, WEB, VETH, ADDRESS6)
    machine.do(Remove(ADDRESS6), Change(off, VETH))
    machine.holds(BRIDGE, WEB, off)


def test_a_veth_may_have_both_ends_in_one_namespace(machine: Machine) -> None:
    """A link made by hand may lead to the host itself."""
    pair = Veth(HOST, "one", HOST, "two", Owner("", "c" * 64))
    addresses = [
        Address(HOST, name, ip_interface(f"192.0.2.{number}/24"), pair.owner)
        for number, name in enumerate(("one", "two"), 1)
    ]
    machine.make(pair, *addresses)
    machine.holds(pair, *addresses)
    machine.kernel.apply(diff((), machine.seen()))
    machine.holds()


def test_a_veth_changes_its_owner_by_being_made_anew(running: Machine) -> None:
    """The mark says whose it is, for good."""
    wanted = (
        *without(VETH, ADDRESS, ADDRESS6, DEFAULT, DEFAULT6, DIRECT, BACK, BACK_NEAR),
        replace(VETH, owner=SECOND_END),
    )
    running.kernel.apply(diff(wanted, running.seen()))
    running.holds(*wanted)


def test_a_bridge_changes_its_owner_by_being_made_anew(running: Machine) -> None:
    """Its ports are ours still, and stand on the new one."""
    new = (replace(BRIDGE, owner=OTHER), replace(GATEWAY, owner=OTHER), replace(PORT, owner=OTHER))
    wanted = (*without(BRIDGE, GATEWAY, PORT), *new)
    running.kernel.apply(diff(wanted, running.seen()))
    running.holds(*wanted)


def test_a_veth_moves_to_another_namespace(running: Machine) -> None:
    """A sandbox takes over what another had."""
    inner = (ADDRESS, ADDRESS6, DEFAULT, DEFAULT6, DIRECT)
    running.do(*(Remove(one) for one in RETURN))
    wanted = (
        *without(WEB, VETH, *inner, *RETURN),
        DB,
        replace(VETH, peer_netns="db"),
        *(replace(one, netns="db") for one in inner),
    )
    running.kernel.apply(diff(wanted, running.seen()))
    running.holds(*wanted)


# What goes along, and what stays.


def test_a_veth_takes_its_other_end_with_all_on_it(running: Machine) -> None:
    """No step of a plan says so."""
    running.do(Remove(VETH))
    running.holds(*without(VETH, ADDRESS, ADDRESS6, DEFAULT, DEFAULT6, DIRECT, BACK, BACK_NEAR))


def test_a_bridge_leaves_its_ports_behind(running: Machine) -> None:
    """An endpoint outlives its bridge, and an uplink is not ours to remove."""
    running.do(Remove(BRIDGE))
    running.holds(*without(BRIDGE, GATEWAY, PORT, VETH), replace(VETH, master=None, isolated=False, ipv6=None))
    assert running.kernel.host().link("up0")


def test_the_primary_address_takes_its_subnets_others_along(machine: Machine) -> None:
    """So a plan makes them again."""
    others = [Address(HOST, "br-a", ip_interface(text), NET) for text in ("10.0.0.2/24", "10.0.1.1/24", "10.0.0.3/16")]
    machine.make(BRIDGE, GATEWAY, *others)
    machine.do(Remove(GATEWAY))
    machine.holds(BRIDGE, *others[1:])


def test_a_secondary_address_goes_alone(machine: Machine) -> None:
    """It is what came later in the subnet."""
    second = replace(GATEWAY, interface=ip_interface("10.0.0.2/24"))
    machine.make(BRIDGE, GATEWAY, second)
    machine.do(Remove(second))
    machine.holds(BRIDGE, GATEWAY)


def test_with_promote_secondaries_the_next_address_takes_the_primarys_place(machine: Machine) -> None:
    """Some distributions set it."""
    second = replace(GATEWAY, interface=ip_interface("10.0.0.2/24"))
    machine.make(BRIDGE, GATEWAY, second, Sysctl(HOST, "net.ipv4.conf.all.promote_secondaries", "1"))
    machine.do(Remove(GATEWAY))
    machine.holds(BRIDGE, second)


def test_the_last_ipv4_address_takes_the_links_ipv4_routes_along(machine: Machine) -> None:
    """With one address left they all stay, even those whose gateway is in the subnet that is gone."""
    second = replace(ADDRESS, interface=ip_interface("10.9.0.2/24"))
    machine.make(BRIDGE, WEB, VETH, ADDRESS, second, DEFAULT, DIRECT, ADDRESS6, DEFAULT6)
    machine.do(Remove(ADDRESS))
    machine.holds(BRIDGE, WEB, VETH, second, DEFAULT, DIRECT, ADDRESS6, DEFAULT6)
    machine.do(Remove(second))
    machine.holds(BRIDGE, WEB, VETH, ADDRESS6, DEFAULT6)


def test_an_ipv6_address_goes_alone(machine: Machine) -> None:
    """IPv6 has no secondaries, and its routes stay."""
    machine.make(BRIDGE, WEB, VETH, ADDRESS6, DEFAULT6)
    machine.do(Remove(ADDRESS6))
    machine.holds(BRIDGE, WEB, VETH, DEFAULT6)


def test_a_link_that_is_set_down_loses_routes_and_ipv6_addresses(running: Machine) -> None:
    """What another administrator did is seen whole, and is made good in one round."""
    running.admin.set_down("eth0", "web")
    running.holds(*without(VETH, ADDRESS6, DEFAULT, DEFAULT6, DIRECT, BACK, BACK_NEAR), replace(VETH, peer_up=False))


def test_a_namespace_that_goes_takes_all_in_it_along(running: Machine) -> None:
    """The plan names the pairs that lead into it, for the kernel frees those behind our back."""
    running.do(Remove(VETH), Remove(WEB))
    running.holds(*without(WEB, VETH, ADDRESS, ADDRESS6, DEFAULT, DEFAULT6, DIRECT, *RETURN))


def test_a_table_takes_its_elements_along(running: Machine) -> None:
    """One transaction removes all."""
    running.do(Remove(TABLE))
    running.holds(*without(TABLE, *ELEMENTS))


def test_a_table_that_is_made_again_is_empty_but_for_what_came_with_it(running: Machine) -> None:
    """A load replaces the whole; what its own transaction adds is in it from the first moment."""
    guards = tuple(one for one in ELEMENTS if not one.permits)
    running.kernel.apply(Plan(tighten=(Make(TABLE), *(Make(one) for one in guards))))
    running.holds(*without(*(one for one in ELEMENTS if one.permits)))


DAMAGES: dict[str, Callable[[Administrator], None]] = {
    "bridge deleted": lambda admin: admin.delete_link("br-a"),
    "bridge down": lambda admin: admin.set_down("br-a"),
    "bridge mtu": lambda admin: admin.set_mtu("br-a", 1280),
    "veth deleted": lambda admin: admin.delete_link("veth1"),
    "inner end deleted": lambda admin: admin.delete_link("eth0", "web"),
    "veth down": lambda admin: admin.set_down("veth1"),
    "inner end down": lambda admin: admin.set_down("eth0", "web"),
    "inner mtu": lambda admin: admin.set_mtu("eth0", 1300, "web"),
    "veth off its bridge": lambda admin: admin.nomaster("veth1"),
    "uplink off its bridge": lambda admin: admin.nomaster("up0"),
    "uplink down": lambda admin: admin.set_down("up0"),
    "gateway deleted": lambda admin: admin.delete_address("br-a", GATEWAY.interface),
    "address deleted": lambda admin: admin.delete_address("eth0", ADDRESS.interface, "web"),
    "ipv6 address deleted": lambda admin: admin.delete_address("eth0", ADDRESS6.interface, "web"),
    "default route deleted": lambda admin: admin.delete_route(DEFAULT.destination, "web"),
    "route deleted": lambda admin: admin.delete_route(DIRECT.destination, "web"),
    "route in a table deleted": lambda admin: admin.delete_route(BACK.destination, "web", BACK.table),
    "rule deleted": lambda admin: admin.delete_rule(RULE.source, "web"),
    "ruleset flushed": lambda admin: admin.flush_ruleset(),
    "chain flushed": lambda admin: admin.edit_table(),
    "element deleted": lambda admin: admin.delete_element("switched", ("br-a",)),
    "interval deleted": lambda admin: admin.delete_element("callers4", ("br-a", "192.0.2.0/24")),
    "box deleted": lambda admin: admin.delete_element(HELD[-1].set, HELD[-1].match),
    "forwarding off": lambda admin: admin.write_sysctl("net.ipv4.ip_forward", "0"),
    "namespace deleted": lambda admin: admin.delete_namespace("web"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_seen_and_made_good_in_one_round(running: Machine, damage: str) -> None:
    """Repair is not a program of its own: it is the next look."""
    DAMAGES[damage](running.admin)
    plan = diff(ALL, running.seen())
    assert plan is not NOTHING
    running.kernel.apply(plan)
    running.holds(*ALL)


# Refusals.


@pytest.mark.parametrize(
    ("operation", "errnos"),
    [
        (Make(replace(BRIDGE, name="sixteen-letters!")), {ERANGE, EINVAL}),
        (Make(replace(BRIDGE, name="a b")), {EINVAL}),
        (Make(replace(BRIDGE, name="a/b")), {EINVAL}),
        (Make(replace(BRIDGE, name="up0")), {EEXIST}),
        (Make(replace(BRIDGE, name="br-b", mtu=70000)), {EINVAL}),
        (Make(replace(BRIDGE, netns="nowhere")), {ENOENT}),
        (Make(replace(BRIDGE, owner=OTHER)), {EEXIST}),
        (Make(replace(VETH, name="veth2", peer="eth1", master="nothing")), {ENODEV}),
        (Make(replace(VETH, name="veth2", peer="eth1", master="up0")), {EOPNOTSUPP}),
        (Make(replace(VETH, name="veth2", peer="eth1", peer_netns="nowhere")), {ENOENT}),
        (Make(replace(VETH, name="veth2", peer="eth1", mac="01:00:5e:00:00:01")), {EADDRNOTAVAIL}),
        (Make(replace(VETH, name="veth2")), {EEXIST}),
        (Make(replace(VETH, name="up0", peer="eth1")), {EEXIST}),
        (Make(replace(PORT, name="nothing")), {ENODEV}),
        (Make(replace(PORT, master="nothing")), {ENODEV}),
        (Make(replace(ADDRESS, link="nothing")), {ENODEV}),
        (Make(replace(ADDRESS, netns="nowhere")), {ENOENT}),
        (Make(replace(ADDRESS6, interface=ip_interface("ff02::7/64"))), {EADDRNOTAVAIL}),
        (Make(replace(DIRECT, link="nothing")), {ENODEV}),
        (Make(replace(DIRECT, via=ip_address("192.0.2.1"))), {ENETUNREACH}),
        (Make(replace(DEFAULT6, destination=ip_network("fd77::/64"), via=ip_address("fdee::1"))), {EHOSTUNREACH}),
        (Make(replace(DEFAULT6, destination=ip_network("fd77::/64"), via=ip_address("fd00::2"))), {EINVAL}),
        (Make(Sysctl(HOST, "net.ipv4.conf.nothing.forwarding", "1")), {ENOENT}),
        (Make(Sysctl("nowhere", "net.ipv4.ip_forward", "1")), {ENOENT}),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(running: Machine, operation: Operation, errnos: set[int]) -> None:
    """The caller is told which command failed and why, and nothing is half done."""
    running.refuses(operation, *errnos)


def test_a_route_over_a_link_that_is_down_is_refused(running: Machine) -> None:
    """It would lead nowhere."""
    running.admin.set_down("eth0", "web")
    running.refuses(Make(DIRECT), ENETDOWN)


def test_a_namespace_name_of_somebody_elses_is_refused(machine: Machine) -> None:
    """Two cannot be known by one name."""
    machine.admin.add_namespace("web")
    machine.refuses(Make(WEB), EEXIST)


def test_a_route_of_the_hosts_is_not_replaced(running: Machine) -> None:
    """Whoever made it needs it."""
    running.admin.add_route(ip_network("10.66.0.0/16"), "up0")
    running.refuses(Make(Route(HOST, ip_network("10.66.0.0/16"), "br-a", NET)), EEXIST)
    assert "10.66.0.0/16" in running.kernel.host().routes


def test_a_bridge_has_room_for_1023_ports(machine: Machine) -> None:
    """Linux says no to the next, and nothing of it is left."""
    machine.make(BRIDGE)
    pairs = [Veth(HOST, f"n{number}", HOST, f"f{number}", NET, master="br-a") for number in range(BRIDGE_PORTS + 1)]
    machine.make(*pairs[:-1])
    with pytest.raises(Refused) as refused:
        machine.make(pairs[-1])
    assert refused.value.errno == EXFULL
    machine.holds(BRIDGE, *pairs[:-1])


def test_a_plan_stops_at_the_first_refusal(machine: Machine) -> None:
    """What came before stays; what comes after needs what was refused."""
    with pytest.raises(Refused):
        machine.make(WEB, BRIDGE, replace(VETH, master="nothing"), DB)
    machine.holds(WEB, BRIDGE)


def test_after_a_refusal_the_next_round_goes_on(machine: Machine) -> None:
    """No undo is needed."""
    wanted: tuple[Resource, ...] = (WEB, BRIDGE, VETH, ADDRESS)
    machine.admin.add_link(HostLink("veth1", "veth", 1500))
    with pytest.raises(Refused):
        machine.kernel.apply(diff(wanted, machine.seen()))
    machine.admin.delete_link("veth1")
    machine.kernel.apply(diff(wanted, machine.seen()))
    machine.holds(*wanted)


def test_removing_gathers_refusals_goes_on_and_makes_nothing_then() -> None:
    """One thing that will not go must not keep the rest; but nothing may be built on what is in doubt."""
    kernel = FakeKernel(ENDPOINT)
    machine = Machine(kernel, kernel)
    kernel.forbid(GATEWAY.key, EPERM)
    with pytest.raises(ExceptionGroup) as refused:
        machine.do(Remove(GATEWAY), Remove(VETH), Make(DB))
    assert [one.errno for one in refused.value.exceptions if isinstance(one, Refused)] == [EPERM]
    machine.holds(*without(VETH, ADDRESS, ADDRESS6, DEFAULT, DEFAULT6, DIRECT, BACK, BACK_NEAR, of=ENDPOINT))
    kernel.permit()
    machine.do(Remove(GATEWAY))
    machine.holds(BRIDGE, WEB, RULE, RULE6)


# Scopes.

SCOPES: dict[str, tuple[Scope, tuple[Resource, ...]]] = {
    "nothing": (Scope(), ()),
    "a namespace": (Scope(namespaces=frozenset({"web", "db"})), (WEB,)),
    "a bridge": (Scope(links=frozenset({(HOST, "br-a")})), (BRIDGE, GATEWAY)),
    "a veth with both ends": (
        Scope(links=frozenset({(HOST, "veth1")})),
        (VETH, ADDRESS, ADDRESS6, DEFAULT, DEFAULT6, DIRECT, BACK, BACK_NEAR),
    ),
    "a veth by its inner end": (
        Scope(links=frozenset({("web", "eth0")})),
        (VETH, ADDRESS, ADDRESS6, DEFAULT, DEFAULT6, DIRECT, BACK, BACK_NEAR),
    ),
    "a veth that shall go": (
        Scope(leaving=frozenset({(HOST, "veth1")})),
        (Veth(HOST, "veth1", ELSEWHERE, "", END, peer_up=False),),
    ),
    "a bridge that shall go": (Scope(leaving=frozenset({(HOST, "br-a")})), (BRIDGE,)),
    "what shall go and is not there, or not ours": (
        Scope(leaving=frozenset({(HOST, "veth9"), (HOST, "up0"), ("web", "eth0"), ("db", "eth0")})),
        (),
    ),
    "what is not there": (Scope(links=frozenset({(HOST, "veth9"), ("db", "eth0")})), ()),
    "what is not ours": (Scope(links=frozenset({(HOST, "up0"), (HOST, "lo")})), ()),
    "a port": (Scope(ports=frozenset({"up0"})), (PORT,)),
    "what is no port": (Scope(ports=frozenset({"veth1", "lo", "nothing"})), ()),
    "the firewall": (Scope(firewall=True), (TABLE, *ELEMENTS)),
    "rules": (Scope(ruled=frozenset({HOST, "web", "db"})), (RULE, RULE6)),
    "everything": (Scope(everything=True, ports=frozenset({"up0"})), without(FORWARD, RULE, RULE6)),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_exactly_what_the_scope_names_is_seen(running: Machine, scope: str) -> None:
    """What lies outside must not be planned away."""
    looked_at, there = SCOPES[scope]
    running.holds(*there, scope=looked_at)


def test_sysctls_are_seen_only_where_they_are_named_and_exist(running: Machine) -> None:
    """The kernel has thousands."""
    names = frozenset(
        {(HOST, "net.ipv4.ip_forward"), ("web", "net.ipv4.ip_forward"), ("nowhere", "net.ipv4.ip_forward")}
    )
    seen = {(one.netns, one.value) for one in running.seen(Scope(sysctls=names)) if isinstance(one, Sysctl)}
    assert (HOST, "1") in seen
    assert {netns for netns, _ in seen} == {HOST, "web"}


def test_a_link_that_somebody_else_put_on_our_bridge_is_not_seen_unless_it_is_named(running: Machine) -> None:
    """It may be a virtual machine's, and is not ours to take off."""
    running.admin.add_link(HostLink("tap0", "veth", 1500))
    running.admin.set_master("tap0", "br-a")
    running.holds(*ALL)


def test_addresses_of_others_on_our_links_are_not_seen(running: Machine) -> None:
    """An administrator may add one, and it stays."""
    running.admin.add_address("br-a", ip_interface("192.0.2.1/24"))
    running.holds(*ALL)


def test_an_address_that_somebody_else_made_first_becomes_ours(machine: Machine) -> None:
    """Wanted by both, it is there once; taken as missing for ever it would be planned for ever."""
    machine.make(BRIDGE)
    machine.admin.add_address("br-a", GATEWAY.interface)
    machine.holds(BRIDGE)
    machine.make(GATEWAY)
    machine.holds(BRIDGE, GATEWAY)


def test_an_ipv6_address_is_on_a_link_once_whatever_its_prefix(machine: Machine) -> None:
    """Linux keeps the prefix that was there and says nothing; so a plan takes the old one away first."""
    wide = replace(ADDRESS6, interface=ip_interface("fd00::2/48"))
    machine.make(BRIDGE, WEB, VETH, ADDRESS6, wide)
    machine.holds(BRIDGE, WEB, VETH, ADDRESS6)
    machine.kernel.apply(diff((BRIDGE, WEB, VETH, wide), machine.seen()))
    machine.holds(BRIDGE, WEB, VETH, wide)


def test_the_host_is_what_is_not_ours(running: Machine) -> None:
    """Subnets are chosen so that they collide with none of it."""
    wan = HostLink("wan0", "veth", 1450, (ip_interface("192.0.2.1/24"),), mac="02:00:00:00:77:01")
    unused = HostLink("wan1", "veth", 1500, mac="02:00:00:00:77:02", up=False)
    running.admin.add_link(wan)
    running.admin.add_link(unused)
    running.admin.add_route(ip_network("198.51.100.0/24"), "wan0")
    host = running.kernel.host()
    assert host.link("wan0") == wan
    assert host.link("wan1") == unused
    assert not {"br-a", "veth1"} & {link.name for link in host.links}
    assert {link.kind for link in host.links if link.name == "lo"} == {""}
    assert set(host.routes) == {"192.0.2.0/24", "198.51.100.0/24"}


def test_the_host_tells_the_mtu_of_its_way_out(machine: Machine) -> None:
    """Networks take it for theirs; without a way out it is Ethernet's. Ours is none: it would lead back to us."""
    assert machine.kernel.host().mtu == 1500
    ours = Route(HOST, ip_network("0.0.0.0/0"), "br-a", NET)
    machine.make(replace(BRIDGE, mtu=1300), ours)
    assert machine.kernel.host().mtu == 1500
    machine.kernel.apply(diff((), machine.seen()))
    machine.admin.add_link(HostLink("up0", "veth", 1450))
    assert machine.kernel.host().mtu == 1500
    machine.admin.add_route(ip_network("0.0.0.0/0"), "up0")
    assert machine.kernel.host().mtu == 1450
    machine.admin.set_mtu("up0", 9000)
    assert machine.kernel.host().mtu == 9000
    machine.admin.add_link(HostLink("up6", "veth", 1400))
    machine.admin.add_route(ip_network("::/0"), "up6")
    assert machine.kernel.host().mtu == 1400


def test_what_is_removed_by_name_is_not_somebody_elses(machine: Machine) -> None:
    """In the meantime the name may have become another's."""
    machine.admin.add_link(HostLink("veth1", "veth", 1500))
    machine.do(Remove(VETH), Remove(replace(BRIDGE, name="veth1")))
    assert machine.kernel.host().link("veth1")


def test_elements_that_count_have_a_counter(running: Machine) -> None:
    """`isthmus nat` shows them, beginning with nothing."""
    counts = running.kernel.counts()
    published = {(one.set, one.match) for one in (*PUBLISHED, *OWN) if one.value}
    assert {(one.set, one.match) for one in counts} == {("masquerade4", ("br-a",)), *published}
    assert {(one.packets, one.bytes) for one in counts} == {(0, 0)}


# Published ports.


def test_elements_can_be_looked_up_by_key(running: Machine) -> None:
    """A change of one port among many must not cost a look at all of them."""
    wanted = PUBLISHED[:3]
    running.holds(*wanted, scope=Scope(elements=frozenset(one.key for one in wanted)))
    running.do(Remove(wanted[0]))
    running.holds(*wanted[1:], scope=Scope(elements=frozenset(one.key for one in wanted)))
    running.admin.flush_ruleset()
    running.holds(scope=Scope(elements=frozenset(one.key for one in wanted)))


def test_many_elements_come_go_and_are_looked_up_at_once(running: Machine) -> None:
    """A thousand ports of one sandbox are one transaction."""
    bindings = [Binding("web", 80, Place("tcp", port)) for port in range(20_000, 21_000)]
    many = list(firewall.published(bindings, ip_address("10.0.0.2"), Mode.NAT))
    scope = Scope(elements=frozenset(one.key for one in many))
    running.make(*many)
    running.holds(*many, scope=scope)
    running.do(*map(Remove, many))
    running.holds(scope=scope)
    running.holds(*ALL)


def test_of_many_elements_that_go_some_may_be_gone(running: Machine) -> None:
    """Who made a thousand does not look for them before they go; others may have taken what they liked."""
    bindings = [Binding("web", 80, Place("tcp", port)) for port in range(20_000, 21_000)]
    many = list(firewall.published(bindings, ip_address("10.0.0.2"), Mode.NAT))
    running.make(*many)
    running.do(*map(Remove, many[::3]))
    running.do(*map(Remove, many))
    running.holds(scope=Scope(elements=frozenset(one.key for one in many)))
    running.holds(*ALL)


def test_policies_of_single_ports_can_be_looked_up_by_key(running: Machine) -> None:
    """They lie in sets of intervals, where a key is two ends."""
    scope = Scope(elements=frozenset(one.key for one in OWN))
    running.holds(*OWN, scope=scope)
    running.do(*map(Remove, OWN[::2]))
    running.holds(*OWN[1::2], scope=scope)


@pytest.mark.parametrize("other", ["0.0.0.0", "::"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_place_that_is_kept_cannot_be_had_until_it_is_released(machine: Machine, protocol: str, other: str) -> None:
    """Nobody shall listen where nothing arrives, and who did first is found."""
    ours, theirs = Place(protocol, 8080), Place(protocol, 8080, ip_address(other))
    assert machine.kernel.hold([ours]) == {}
    assert machine.kernel.hold([ours]) == {}
    with pytest.raises(OSError, match="in use"):
        machine.admin.bind(theirs)
    machine.kernel.release([ours])
    machine.admin.bind(theirs)
    assert machine.kernel.hold([ours, replace(ours, port=8081)]) == {ours: "address already in use"}
    assert machine.kernel.holder(ours)
    assert not machine.kernel.holder(replace(ours, port=8082))


# What stands on the wire of another link.

LAN = HostLink("lan0", "veth", 1500, mac="02:00:00:00:77:01")
CHILD = Child(
    "web", "eth0", "lan0", "macvlan", "bridge", END, mac="02:42:0a:00:00:02", mtu=1400, ipv6=True, announce=True
)
SHIM = Child(
    HOST, "shim0", "lan0", "macvlan", "bridge", NET, mac="02:42:0a:00:00:01", mtu=1500, ipv6=False, announce=False
)
INNER = Child(
    "db",
    "eth0",
    "br-b",
    "macvlan",
    "private",
    SECOND_END,
    mac="02:42:0a:00:00:03",
    mtu=1500,
    ipv6=False,
    announce=False,
)
BELOW = Bridge(HOST, "br-b", OTHER, mtu=1500, ipv6=False)
NEAR = Route(HOST, ip_network("10.0.0.2/32"), "shim0", NET)
ON_CHILD: tuple[Resource, ...] = (ADDRESS, ADDRESS6, DEFAULT, DEFAULT6, DIRECT)
STANDING: tuple[Resource, ...] = (WEB, DB, BELOW, CHILD, *ON_CHILD, SHIM, NEAR, INNER)
VLAN = Vlan(HOST, "lan0.5", "lan0", 5, NET)
ON_VLAN = replace(CHILD, parent="lan0.5")
IPVLAN = Child("web", "eth0", "lan0", "ipvlan", "l2", END, mac=LAN.mac, mtu=1400, ipv6=True)


def needs(machine: Machine, kind: str) -> None:
    """Skip the test where Linux has no such links; the fake kernel has all."""
    if isinstance(machine.admin, Shell):
        more = ("id", "4000") if kind == "vlan" else ()
        done = subprocess.run(
            ["ip", "link", "add", "link", LAN.name, "name", "probe", "type", kind, *more],
            check=False,
            capture_output=True,
            text=True,
        )
        if "Unknown device type" in done.stderr:
            pytest.skip(f"this kernel has no {kind}")
        assert done.returncode == 0, done.stderr
        ip(HOST, "link", "delete", "probe")


@pytest.fixture
def wired(machine: Machine) -> Machine:
    """A machine with a link of its own that others can stand on."""
    machine.admin.add_link(LAN)
    return machine


@pytest.fixture
def standing(wired: Machine) -> Machine:
    """The same, with all that is above."""
    wired.kernel.apply(diff(STANDING, ()))
    return wired


def test_what_stands_on_a_link_is_observed_as_it_was_made(standing: Machine) -> None:
    """In a namespace of ours, in the host's, on a link of others and on one of ours."""
    standing.holds(*STANDING)
    assert diff(STANDING, standing.seen()) is NOTHING
    assert standing.seen() >= {CHILD, SHIM, INNER}


def test_what_stands_on_a_link_is_seen_where_the_scope_names_it(standing: Machine) -> None:
    """With what is on it, and with nothing else."""
    standing.holds(CHILD, *ON_CHILD, scope=Scope(links=frozenset({("web", "eth0")})))
    standing.holds(SHIM, NEAR, scope=Scope(links=frozenset({(HOST, "shim0")})))


def test_all_that_stands_on_a_link_is_gone_after_removal(standing: Machine) -> None:
    """The link itself is its administrator's."""
    standing.kernel.apply(diff((), standing.seen()))
    standing.holds()
    assert standing.kernel.host().link("lan0") == LAN


@pytest.mark.parametrize("resource", [CHILD, SHIM, INNER, VLAN], ids=lambda one: "-".join(one.key))
def test_removing_what_does_not_stand_is_success(wired: Machine, resource: Resource) -> None:
    """Its parent may be gone, and it with that."""
    wired.do(Remove(resource))
    wired.holds()


@pytest.mark.parametrize("resource", [CHILD, SHIM, INNER], ids=lambda one: "-".join(one.key))
def test_making_what_stands_is_success(standing: Machine, resource: Resource) -> None:
    """After a crash nobody knows how far it came."""
    standing.make(resource)
    standing.holds(*STANDING)


@pytest.mark.parametrize("mode", ["private", "vepa", "bridge", "passthru"])
def test_a_macvlan_is_made_in_every_mode(wired: Machine, mode: str) -> None:
    """A mode that reads otherwise would have it made anew for ever."""
    child = replace(CHILD, mode=mode)
    wired.make(WEB, child)
    wired.holds(WEB, child)


@pytest.mark.parametrize("flag", ["", "private", "vepa"])
@pytest.mark.parametrize("mode", ["l2", "l3"])
def test_an_ipvlan_is_made_in_every_mode(wired: Machine, mode: str, flag: str) -> None:
    """It has the MAC of its parent."""
    needs(wired, "ipvlan")
    child = replace(IPVLAN, mode=mode, flag=flag)
    wired.make(WEB, replace(child, mac=None))
    wired.holds(WEB, child)


@pytest.mark.parametrize(
    "new",
    [
        replace(CHILD, mode="private"),
        replace(CHILD, parent="br-b"),
        replace(CHILD, owner=SECOND_END),
        replace(SHIM, mode="vepa"),
    ],
    ids=repr,
)
def test_what_cannot_be_changed_is_made_anew(standing: Machine, new: Child) -> None:
    """Whether a plan took the old one away before or not."""
    standing.make(new)
    rest = [one for one in STANDING if one not in {CHILD, SHIM} or one.key != new.key]
    gone = ON_CHILD if new.key == CHILD.key else (NEAR,)
    standing.holds(new, *(one for one in rest if one not in gone))


@pytest.mark.parametrize(
    "new",
    [
        replace(CHILD, mac="02:42:0a:00:00:09"),
        replace(CHILD, mtu=1500),
        replace(CHILD, announce=False),
        replace(SHIM, mtu=1400),
        replace(SHIM, ipv6=True),
    ],
    ids=repr,
)
def test_a_field_of_what_stands_is_changed_in_place(standing: Machine, new: Child) -> None:
    """What is on it stays."""
    was = next(one for one in STANDING if one.key == new.key)
    standing.do(Change(new, was))
    standing.holds(new, *without(was, of=STANDING))


def test_what_announces_itself_is_told_by_the_sysctl_too(standing: Machine) -> None:
    """Both are one thing: somebody who sets the one changes the other, and it is seen and set right."""
    scope = Scope(sysctls=frozenset({("web", "net.ipv4.conf.eth0.arp_notify")}))
    assert standing.seen(scope) == {Sysctl("web", "net.ipv4.conf.eth0.arp_notify", "1")}
    standing.admin.write_sysctl("net.ipv4.conf.eth0.arp_notify", "0", "web")
    plan = diff(STANDING, standing.seen())
    assert [one.resource for one in plan] == [CHILD]
    standing.kernel.apply(plan)
    assert standing.seen(scope) == {Sysctl("web", "net.ipv4.conf.eth0.arp_notify", "1")}


def test_a_child_gets_ipv6_and_loses_it(wired: Machine) -> None:
    """A network may be made anew with other families."""
    off = replace(CHILD, ipv6=False)
    wired.make(WEB, off)
    wired.refuses(Make(ADDRESS6), EACCES)
    wired.do(Change(CHILD, off), Make(ADDRESS6))
    wired.holds(WEB, CHILD, ADDRESS6)
    wired.do(Remove(ADDRESS6), Change(off, CHILD))
    wired.holds(WEB, off)


def test_what_is_left_to_the_kernel_is_its_parents(wired: Machine) -> None:
    """None is not ours to say."""
    child = replace(CHILD, mac=None, mtu=None, ipv6=None)
    wired.make(WEB, child)
    wired.holds(WEB, child)
    assert {one.mtu for one in wired.seen() if isinstance(one, Child)} == {LAN.mtu}


def test_a_link_takes_along_what_stands_on_it(standing: Machine) -> None:
    """Wherever that is, and with all that is on it."""
    standing.admin.delete_link("lan0")
    standing.holds(WEB, DB, BELOW, INNER)


def test_a_bridge_takes_along_what_stands_on_it(standing: Machine) -> None:
    """Its ports it would leave."""
    standing.do(Remove(BELOW))
    standing.holds(*without(BELOW, INNER, of=STANDING))


def test_a_pair_of_veths_takes_along_what_stands_on_it(wired: Machine) -> None:
    """A plan that replaces the pair replaces them, too."""
    pair = Veth(HOST, "di-1", HOST, "do-1", NET, ipv6=False)
    child = replace(CHILD, parent="di-1")
    wired.make(WEB, pair, child, ADDRESS)
    wired.holds(WEB, pair, child, ADDRESS)
    other = replace(pair, owner=OTHER)
    wanted = (WEB, other, child, ADDRESS)
    wired.kernel.apply(diff(wanted, wired.seen()))
    wired.holds(*wanted)


def test_a_namespace_takes_along_what_stands_in_it(standing: Machine) -> None:
    """Its parent has room again."""
    standing.do(Remove(CHILD), Remove(WEB))
    standing.holds(*without(WEB, CHILD, *ON_CHILD, of=STANDING))
    standing.make(WEB, CHILD)
    standing.holds(*without(*ON_CHILD, of=STANDING))


def test_what_stands_on_a_link_that_goes_down_keeps_addresses_and_routes(standing: Machine) -> None:
    """Nothing has to be done when the cable is back."""
    standing.admin.set_down("lan0")
    standing.holds(*STANDING)
    standing.admin.set_up("lan0")
    standing.holds(*STANDING)


def test_a_macvlan_may_stand_on_a_link_that_is_down(wired: Machine) -> None:
    """The link may come up when it likes."""
    wired.admin.set_down("lan0")
    wired.make(WEB, CHILD, *ON_CHILD)
    wired.holds(WEB, CHILD, *ON_CHILD)


def test_what_stands_on_a_link_has_no_greater_mtu(standing: Machine) -> None:
    """It is lowered along, and stays so."""
    standing.admin.set_mtu("lan0", 1300)
    lower = replace(CHILD, mtu=1300), replace(SHIM, mtu=1300)
    standing.holds(*without(CHILD, SHIM, of=STANDING), *lower)
    standing.refuses(Change(CHILD, lower[0]), EINVAL)
    standing.admin.set_mtu("lan0", 1500)
    standing.holds(*without(CHILD, SHIM, of=STANDING), *lower)


@pytest.mark.parametrize(
    ("operation", "errnos"),
    [
        (Make(replace(CHILD, name="sixteen-letters!")), {ERANGE, EINVAL}),
        (Make(replace(CHILD, name="eth1", parent="nothing")), {ENODEV}),
        (Make(replace(CHILD, name="eth1", parent="lo")), {EINVAL}),
        (Make(replace(CHILD, name="eth1", netns="nowhere")), {ENOENT}),
        (Make(replace(CHILD, name="eth1", mtu=1501)), {EINVAL}),
        (Make(replace(CHILD, name="eth1", mac="01:00:5e:00:00:01")), {EADDRNOTAVAIL}),
        (Make(replace(CHILD, name="eth1", mode="passthru")), {EINVAL}),
        (Make(replace(CHILD, name="lo")), {EEXIST}),
        (Make(replace(SHIM, name="lan0", parent="br-b")), {EEXIST}),
        (Make(replace(SHIM, name="br-b")), {EEXIST}),
        (Make(Port(HOST, "lan0", "br-b", OTHER)), {EBUSY}),
        (Make(replace(VLAN, parent="nothing")), {ENODEV}),
    ],
    ids=str,
)
def test_what_cannot_stand_is_refused(standing: Machine, operation: Operation, errnos: set[int]) -> None:
    """The caller is told which command failed and why, and nothing is half done."""
    standing.refuses(operation, *errnos)


@pytest.mark.parametrize(
    ("operation", "errnos"),
    [
        (Make(replace(IPVLAN, name="eth1", parent="lo", mac=None)), {EINVAL}),
        (Make(replace(IPVLAN, name="eth1", mac=None)), {EBUSY}),
    ],
    ids=str,
)
def test_an_ipvlan_that_cannot_stand_is_refused(standing: Machine, operation: Operation, errnos: set[int]) -> None:
    """Likewise; macvlan and ipvlan exclude each other."""
    needs(standing, "ipvlan")
    standing.refuses(operation, *errnos)


def test_a_macvlan_in_passthru_mode_keeps_others_off_its_parent(wired: Machine) -> None:
    """The parent's wire is its alone, until it goes."""
    only = replace(CHILD, mode="passthru")
    wired.make(WEB, only)
    wired.refuses(Make(SHIM), EINVAL)
    wired.do(Remove(only), Make(SHIM))
    wired.holds(WEB, SHIM)


def test_a_port_of_a_bridge_is_no_parent(wired: Machine) -> None:
    """All its frames are the bridge's."""
    port = Port(HOST, "lan0", "br-b", OTHER)
    scope = replace(EVERYTHING, ports=frozenset({"lan0"}))
    wired.make(WEB, BELOW, port)
    wired.refuses(Make(CHILD), EBUSY)
    wired.holds(WEB, BELOW, port, scope=scope)


@pytest.mark.parametrize("mac", [CHILD.mac, LAN.mac])
def test_two_on_one_wire_cannot_be_up_with_one_mac(standing: Machine, mac: str) -> None:
    """The second is there, but down; and may have the MAC when the first is gone."""
    second = replace(CHILD, name="eth1", mac=mac, ipv6=None)
    with pytest.raises(Refused) as refused:
        standing.make(second)
    assert refused.value.errno == EADDRINUSE
    assert mac in str(refused.value)
    standing.holds(*STANDING, replace(second, up=False))


def test_a_mac_is_free_as_soon_as_its_holder_is_removed(standing: Machine) -> None:
    """Who connects elsewhere with the same address comes with the same MAC, at once."""
    moved = replace(CHILD, netns="db", name="eth1")
    standing.do(Remove(CHILD), Remove(WEB), Make(moved))
    standing.holds(*without(WEB, CHILD, *ON_CHILD, of=STANDING), moved)


def test_a_macvlan_on_a_macvlan_stands_beside_it(standing: Machine) -> None:
    """A driver has to name the real parent, or there would be a difference for ever."""
    second = replace(CHILD, name="eth1", parent="shim0", mac=None, ipv6=None)
    standing.make(second)
    standing.holds(*STANDING, replace(second, parent="lan0"))


def replace_parent(admin: Administrator) -> None:
    """Take the parent away, and make another of its name."""
    admin.delete_link(LAN.name)
    admin.add_link(LAN)


STANDING_DAMAGES: dict[str, Callable[[Administrator], None]] = {
    "child deleted": lambda admin: admin.delete_link("eth0", "web"),
    "child down": lambda admin: admin.set_down("eth0", "web"),
    "child mtu": lambda admin: admin.set_mtu("eth0", 1300, "web"),
    "child's address deleted": lambda admin: admin.delete_address("eth0", ADDRESS.interface, "web"),
    "shim deleted": lambda admin: admin.delete_link("shim0"),
    "shim down": lambda admin: admin.set_down("shim0"),
    "parent replaced": replace_parent,
    "bridge below deleted": lambda admin: admin.delete_link("br-b"),
    "namespace deleted": lambda admin: admin.delete_namespace("web"),
}


@pytest.mark.parametrize("damage", STANDING_DAMAGES)
def test_damage_to_what_stands_is_seen_and_made_good_in_one_round(standing: Machine, damage: str) -> None:
    """A parent that comes back has nothing on it."""
    STANDING_DAMAGES[damage](standing.admin)
    plan = diff(STANDING, standing.seen())
    assert plan is not NOTHING
    standing.kernel.apply(plan)
    standing.holds(*STANDING)


@pytest.fixture
def tagged(wired: Machine) -> Machine:
    """A machine with a VLAN that something stands on."""
    needs(wired, "vlan")
    wired.make(WEB, VLAN, ON_VLAN, *ON_CHILD)
    return wired


def test_a_vlan_is_observed_with_what_stands_on_it(tagged: Machine) -> None:
    """Docker makes `eth0.5` likewise."""
    wanted = (WEB, VLAN, ON_VLAN, *ON_CHILD)
    tagged.make(VLAN)
    tagged.holds(*wanted)
    assert diff(wanted, tagged.seen()) is NOTHING
    tagged.kernel.apply(diff((), tagged.seen()))
    tagged.holds()


def test_a_vlan_goes_with_its_parent_and_takes_along_what_stands_on_it(tagged: Machine) -> None:
    """Down to the last address."""
    tagged.admin.delete_link("lan0")
    tagged.holds(WEB)


def test_a_vlan_of_another_number_is_made_anew_with_what_stands_on_it(tagged: Machine) -> None:
    """A plan knows that the child goes along."""
    wanted = (WEB, replace(VLAN, vid=6), ON_VLAN, *ON_CHILD)
    tagged.kernel.apply(diff(wanted, tagged.seen()))
    tagged.holds(*wanted)


def test_a_vlan_goes_down_and_comes_up_with_its_parent(tagged: Machine) -> None:
    """By itself, so it needs no mending then."""
    tagged.admin.set_down("lan0")
    tagged.holds(WEB, replace(VLAN, up=False), ON_VLAN, *ON_CHILD)
    tagged.admin.set_up("lan0")
    tagged.holds(WEB, VLAN, ON_VLAN, *ON_CHILD)


def test_a_vlan_cannot_be_up_on_a_parent_that_is_down(wired: Machine) -> None:
    """It is there, down, and comes up with it."""
    needs(wired, "vlan")
    wired.admin.set_down("lan0")
    with pytest.raises(Refused) as refused:
        wired.make(VLAN)
    assert refused.value.errno == ENETDOWN
    wired.holds(replace(VLAN, up=False))
    wired.admin.set_up("lan0")
    wired.holds(VLAN)


def test_a_vlan_is_on_its_parent_once(tagged: Machine) -> None:
    """Whoever has it."""
    tagged.refuses(Make(replace(VLAN, name="lan0-five")), EEXIST)
    tagged.make(replace(VLAN, name="lan0.6", vid=6))
    tagged.holds(WEB, VLAN, ON_VLAN, *ON_CHILD, replace(VLAN, name="lan0.6", vid=6))


# What limits the rate of a link.

IFB = Ifb(HOST, "ifb1", END)
DOWN, UP = Shaper(HOST, "veth1", 100_000_000), Shaper(HOST, "ifb1", 20_000_000)
REDIRECT = Redirect(HOST, "veth1", "ifb1")
LIMITS: tuple[Resource, ...] = (IFB, DOWN, UP, REDIRECT)
LIMITED: tuple[Resource, ...] = (*ENDPOINT, *LIMITS)
WITH_LIMITS = replace(EVERYTHING, shaped=frozenset({(HOST, "veth1"), (HOST, "ifb1")}))


def shapes(machine: Machine) -> None:
    """Skip the test where Linux cannot shape; the fake kernel can."""
    if isinstance(machine.admin, Shell):
        needs_shaping()


@pytest.fixture
def limited(machine: Machine) -> Machine:
    """A machine on which an endpoint's rates are limited."""
    shapes(machine)
    machine.kernel.apply(diff(LIMITED, ()))
    return machine


def test_limits_are_observed_as_they_were_made(limited: Machine) -> None:
    """To the bit."""
    limited.holds(*LIMITED, scope=WITH_LIMITS)
    assert limited.seen(WITH_LIMITS) >= {*LIMITS}
    assert diff(LIMITED, limited.seen(WITH_LIMITS)) is NOTHING


@pytest.mark.parametrize("rate", [8_000, 10**6, 2_500_000_000, 100 * 10**9, 400 * 10**9])
def test_a_rate_is_read_as_it_was_written(limited: Machine, rate: int) -> None:
    """The kernel tells what needs more than 32 bits by an attribute of its own."""
    limited.do(Change(replace(DOWN, rate=rate), DOWN))
    limited.holds(*without(DOWN, of=LIMITED), replace(DOWN, rate=rate), scope=WITH_LIMITS)


def test_limits_are_seen_only_on_links_that_are_named_and_ours(limited: Machine) -> None:
    """Who limits nothing is not to pay for looking, and what others do to their own links is theirs."""
    limited.holds(*ENDPOINT, IFB)
    limited.holds(DOWN, REDIRECT, scope=Scope(shaped=frozenset({(HOST, "veth1"), (HOST, "nothing"), ("db", "eth0")})))
    limited.admin.add_link(HostLink("up0", "veth", 1500))
    limited.admin.set_rate("up0", 10**6)
    limited.holds(scope=Scope(shaped=frozenset({(HOST, "up0")})))


def test_a_link_for_shaping_is_seen_where_the_scope_names_it(limited: Machine) -> None:
    """To stay, or to go."""
    limited.holds(IFB, scope=Scope(links=frozenset({(HOST, "ifb1")})))
    limited.holds(IFB, scope=Scope(leaving=frozenset({(HOST, "ifb1")})))


@pytest.mark.parametrize("resource", LIMITS, ids=lambda one: "-".join(one.key))
def test_making_a_limit_that_is_there_is_success(limited: Machine, resource: Resource) -> None:
    """After a crash nobody knows how far it came."""
    limited.make(resource)
    limited.holds(*LIMITED, scope=WITH_LIMITS)


@pytest.mark.parametrize("resource", LIMITS, ids=lambda one: "-".join(one.key))
def test_removing_a_limit_that_is_gone_is_success(machine: Machine, resource: Resource) -> None:
    """Its link may be gone, or have none."""
    machine.do(Remove(resource))
    machine.make(WEB, BRIDGE, VETH)
    machine.do(Remove(resource))
    machine.holds(WEB, BRIDGE, VETH, scope=WITH_LIMITS)


@pytest.mark.parametrize("gone", [DOWN, UP, REDIRECT], ids=lambda one: "-".join(one.key))
def test_a_limit_goes_alone(limited: Machine, gone: Resource) -> None:
    """And comes back."""
    limited.do(Remove(gone))
    limited.holds(*without(gone, of=LIMITED), scope=WITH_LIMITS)
    limited.kernel.apply(diff(LIMITED, limited.seen(WITH_LIMITS)))
    limited.holds(*LIMITED, scope=WITH_LIMITS)


def test_all_limits_go_at_once(limited: Machine) -> None:
    """The link stays, and what is on it."""
    limited.kernel.apply(diff(ENDPOINT, limited.seen(WITH_LIMITS)))
    limited.holds(*ENDPOINT, scope=WITH_LIMITS)
    limited.make(*LIMITS)
    limited.holds(*LIMITED, scope=WITH_LIMITS)


def test_limits_go_with_their_link(limited: Machine) -> None:
    """No step of a plan says so."""
    limited.do(Remove(VETH))
    limited.make(VETH)
    limited.holds(BRIDGE, GATEWAY, WEB, VETH, RULE, RULE6, IFB, UP, scope=WITH_LIMITS)


def test_a_redirection_stays_without_its_target(limited: Machine) -> None:
    """It would drop what the sandbox sends, so it has to be seen."""
    limited.admin.delete_link("ifb1")
    limited.holds(*without(*LIMITS, of=LIMITED), DOWN, replace(REDIRECT, target=ELSEWHERE), scope=WITH_LIMITS)
    limited.kernel.apply(diff((*ENDPOINT, DOWN), limited.seen(WITH_LIMITS)))
    limited.holds(*ENDPOINT, DOWN, scope=WITH_LIMITS)


def test_a_link_for_shaping_changes_its_owner_by_being_made_anew(limited: Machine) -> None:
    """What came by it comes by the new one."""
    wanted = (*without(IFB, of=LIMITED), replace(IFB, owner=SECOND_END))
    limited.kernel.apply(diff(wanted, limited.seen(WITH_LIMITS)))
    limited.holds(*wanted, scope=WITH_LIMITS)
    limited.make(IFB)
    limited.holds(*without(UP, REDIRECT, of=LIMITED), replace(REDIRECT, target=ELSEWHERE), scope=WITH_LIMITS)


LIMIT_DAMAGES: dict[str, Callable[[Administrator], None]] = {
    "limit deleted": lambda admin: admin.delete_shaper("veth1"),
    "limit of the other way deleted": lambda admin: admin.delete_shaper("ifb1"),
    "other rate": lambda admin: admin.set_rate("veth1", 10**6),
    "redirection deleted": lambda admin: admin.delete_redirect("veth1"),
    "link for shaping deleted": lambda admin: admin.delete_link("ifb1"),
    "link for shaping down": lambda admin: admin.set_down("ifb1"),
    "veth deleted": lambda admin: admin.delete_link("veth1"),
    "namespace deleted": lambda admin: admin.delete_namespace("web"),
}


@pytest.mark.parametrize("damage", LIMIT_DAMAGES)
def test_damage_to_limits_is_seen_and_made_good_in_one_round(limited: Machine, damage: str) -> None:
    """Repair is not a program of its own: it is the next look."""
    LIMIT_DAMAGES[damage](limited.admin)
    plan = diff(LIMITED, limited.seen(WITH_LIMITS))
    assert plan is not NOTHING
    limited.kernel.apply(plan)
    limited.holds(*LIMITED, scope=WITH_LIMITS)


@pytest.mark.parametrize(
    ("operation", "errnos"),
    [
        (Make(replace(IFB, name="sixteen-letters!")), {ERANGE, EINVAL}),
        (Make(replace(IFB, name="veth1")), {EEXIST}),
        (Make(replace(IFB, netns="nowhere")), {ENOENT}),
        (Make(replace(DOWN, link="nothing")), {ENODEV}),
        (Make(replace(DOWN, netns="nowhere")), {ENOENT}),
        (Make(replace(REDIRECT, link="nothing")), {ENODEV}),
        (Make(replace(REDIRECT, target="nothing")), {ENODEV}),
    ],
    ids=str,
)
def test_a_limit_that_cannot_be_is_refused(limited: Machine, operation: Operation, errnos: set[int]) -> None:
    """The caller is told which command failed and why, and nothing is half done."""
    limited.refuses(operation, *errnos)


@pytest.mark.kernel
def test_somebody_elses_qdisc_gives_way_to_a_limit_and_is_left_alone_otherwise(linux: Machine) -> None:
    """Only what we would make is ours."""
    shapes(linux)
    linux.make(WEB, BRIDGE, VETH)
    run("tc", "qdisc", "replace", "dev", "veth1", "root", "pfifo")
    linux.holds(WEB, BRIDGE, VETH, scope=WITH_LIMITS)
    linux.do(Remove(DOWN))
    assert "pfifo" in run("tc", "qdisc", "show", "dev", "veth1")
    linux.make(DOWN)
    linux.holds(WEB, BRIDGE, VETH, DOWN, scope=WITH_LIMITS)


@pytest.mark.kernel
def test_somebody_elses_filter_stays(linux: Machine) -> None:
    """It stands on the same link, with a priority of its own."""
    shapes(linux)
    linux.make(*LIMITED)
    other = ("dev", "veth1", "ingress", "pref", "7")
    redirect = ("u32", "match", "u32", "1", "1", "action", "mirred", "egress", "redirect", "dev", "ifb1")
    run("tc", "filter", "add", *other, *redirect)
    linux.holds(*LIMITED, scope=WITH_LIMITS)
    linux.kernel.apply(diff(ENDPOINT, linux.seen(WITH_LIMITS)))
    linux.holds(*ENDPOINT, scope=WITH_LIMITS)
    assert "pref 7 " in run("tc", "filter", "show", "dev", "veth1", "ingress")


@pytest.mark.kernel
def test_where_filters_cannot_be_the_refusal_says_what_to_do(linux: Machine) -> None:
    """The older qdisc excludes the newer one."""
    shapes(linux)
    linux.make(WEB, BRIDGE, VETH, IFB)
    run("tc", "qdisc", "add", "dev", "veth1", "ingress")
    with pytest.raises(Refused, match="tc qdisc del dev veth1 ingress"):
        linux.make(REDIRECT)


@pytest.mark.kernel
def test_tc_sees_what_was_made_and_a_change_keeps_the_bucket(linux: Machine) -> None:
    """Changed in place, no packet that waits is lost."""
    shapes(linux)
    linux.make(*LIMITED)
    before = run("tc", "qdisc", "show", "dev", "veth1", "root")
    assert "rate 100Mbit burst 125000b lat 50ms" in before
    linux.do(Change(replace(DOWN, rate=2_500_000_000), DOWN))
    after = run("tc", "qdisc", "show", "dev", "veth1", "root")
    assert "rate 2500Mbit" in after
    assert before.split()[2] == after.split()[2]


# Tunnels, and what they and ports are told.

FAR = Namespace("far")
SWITCH = Bridge("far", "br0", NET, mtu=1400, ipv6=True)
TUNNEL = Vxlan("far", "vxlan5", 5, "br0", NET, 4789, ip_address("192.0.2.1"), learning=False, mtu=1400)
LEARNER = Vxlan("far", "vxlan6", 6, "br0", NET, 8472, ip_address("2001:db8::1"), learning=True, mtu=1300)
TOLD = Veth(
    "far",
    "veth5",
    "web",
    "eth5",
    END,
    "02:42:00:00:00:05",
    "br0",
    1400,
    isolated=False,
    ipv6=True,
    announce=False,
    told=True,
)
HERE = Forwarding("far", "veth5", "02:42:00:00:00:05", master="br0")
THERE = Forwarding("far", "vxlan5", "02:42:00:00:00:09", ip_address("192.0.2.9"))
ALL_OVER = tuple(Forwarding("far", "vxlan6", NOBODY, ip_address(f"2001:db8::{number}")) for number in (2, 3))
RESOLVED = Neighbour("far", "vxlan5", ip_address("10.6.0.9"), THERE.mac)
RESOLVED6 = Neighbour("far", "vxlan5", ip_address("fd00:6::9"), THERE.mac)
NEIGHBOURS = (RESOLVED, RESOLVED6)
ENTRIES: tuple[Forwarding | Neighbour, ...] = (HERE, THERE, *ALL_OVER, *NEIGHBOURS)
OVERLAY: tuple[Resource, ...] = (FAR, WEB, SWITCH, TUNNEL, LEARNER, TOLD, *ENTRIES)


@pytest.fixture
def tunnelled(machine: Machine) -> Machine:
    """A machine with a network of which a part is elsewhere."""
    machine.kernel.apply(diff(OVERLAY, ()))
    return machine


def test_tunnels_and_what_is_told_are_observed_as_they_were_made(tunnelled: Machine) -> None:
    """Every field of them; else they would be made again for ever."""
    tunnelled.holds(*OVERLAY)
    assert set(OVERLAY) - {TOLD} <= tunnelled.seen()
    assert diff(OVERLAY, tunnelled.seen()) is NOTHING
    tunnelled.make(*OVERLAY)
    assert diff(OVERLAY, tunnelled.seen()) is NOTHING
    tunnelled.kernel.apply(diff((), tunnelled.seen()))
    tunnelled.holds()


def test_what_is_told_is_seen_with_its_link_and_by_its_key(tunnelled: Machine) -> None:
    """A peer that comes or goes is a matter of its entries alone, among thousands."""
    links = frozenset({("far", "vxlan5"), ("far", "vxlan6"), ("far", "veth5")})
    tunnelled.holds(TUNNEL, LEARNER, TOLD, *ENTRIES, scope=Scope(links=links))
    for one in ENTRIES:
        assert tunnelled.seen(Scope(told=frozenset({one.key}))) == {one}
    others = (
        replace(HERE, mac=THERE.mac),
        replace(THERE, mac=HERE.mac),
        replace(ALL_OVER[0], remote=ip_address("2001:db8::4")),
        replace(RESOLVED, address=ip_address("10.6.0.8")),
        replace(RESOLVED6, link="nothing"),
        replace(THERE, netns="nowhere"),
    )
    assert tunnelled.seen(Scope(told=frozenset(one.key for one in others))) == frozenset()


def test_of_tunnels_is_told_by_which_entries_nothing_was_sent(tunnelled: Machine) -> None:
    """Who is not talked to may be forgotten. Others are never idle: neighbours, ports, and what is not there."""
    others = (replace(THERE, mac=HERE.mac), replace(THERE, link="nothing"), replace(THERE, netns="nowhere"))
    keys = [one.key for one in (*ENTRIES, *others)]
    assert tunnelled.kernel.idle(keys, 0) == {one.key for one in (THERE, *ALL_OVER)}
    assert tunnelled.kernel.idle([THERE.key], 0) == {THERE.key}
    assert tunnelled.kernel.idle(keys, 3600) == frozenset()


@pytest.mark.parametrize("resource", [TUNNEL, LEARNER, *ENTRIES], ids=lambda one: "-".join(one.key))
def test_what_is_gone_is_removed_with_success(tunnelled: Machine, resource: Resource) -> None:
    """After a crash nobody knows how far the last plan came."""
    left = tuple(one for one in OVERLAY if one is not resource and resource.key not in one.needs)
    tunnelled.do(Remove(resource))
    tunnelled.holds(*left)
    tunnelled.do(Remove(resource))
    tunnelled.holds(*left)


@pytest.mark.parametrize(
    "tunnel",
    [
        replace(TUNNEL, owner=OTHER),
        replace(TUNNEL, vni=7),
        replace(TUNNEL, port=4790),
        replace(TUNNEL, local=ip_address("192.0.2.2")),
        replace(TUNNEL, local=ip_address("2001:db8::1")),
        replace(TUNNEL, learning=True),
    ],
    ids=str,
)
def test_another_tunnel_is_made_anew_with_what_it_was_told(tunnelled: Machine, tunnel: Vxlan) -> None:
    """A host that changes its address loses no peer by that."""
    remote = ip_address("2001:db8::9" if tunnel.local and tunnel.local.version == 6 else "192.0.2.9")
    wanted = (*without(TUNNEL, THERE, of=OVERLAY), tunnel, replace(THERE, remote=remote))
    plan = diff(wanted, tunnelled.seen())
    assert Remove(TUNNEL) in plan.remove
    tunnelled.kernel.apply(plan)
    tunnelled.holds(*wanted)
    tunnelled.make(TUNNEL)  # as after a crash that left another one
    tunnelled.holds(*without(TUNNEL, THERE, *NEIGHBOURS, of=OVERLAY), TUNNEL)


def test_a_tunnel_changes_its_mtu_and_its_bridge_where_it_stands(tunnelled: Machine) -> None:
    """It forgets nothing by that."""
    other = replace(SWITCH, name="br1")
    tunnel = replace(TUNNEL, mtu=1350, master="br1")
    wanted = (*without(TUNNEL, of=OVERLAY), other, tunnel)
    plan = diff(wanted, tunnelled.seen())
    assert [*plan] == [Make(other), Change(tunnel, TUNNEL)]
    tunnelled.kernel.apply(plan)
    tunnelled.holds(*wanted)


@pytest.mark.parametrize("where", ["far", "web", HOST])
def test_a_tunnel_that_we_left_behind_gives_its_number_to_the_next(tunnelled: Machine, where: str) -> None:
    """Wherever it is: a number is had once on a host."""
    switch = replace(SWITCH, netns=where, name="br7", owner=OTHER)
    tunnel = replace(TUNNEL, netns=where, name="vxlan7", master="br7", owner=OTHER)
    tunnelled.make(switch, tunnel)
    tunnelled.holds(*without(TUNNEL, THERE, *NEIGHBOURS, of=OVERLAY), switch, tunnel)


def test_one_number_can_be_had_on_two_ports(tunnelled: Machine) -> None:
    """They are two tunnels."""
    second = replace(LEARNER, name="vxlan7", vni=TUNNEL.vni)
    tunnelled.make(second)
    tunnelled.holds(*OVERLAY, second)


def test_a_number_that_somebody_else_has_is_refused(machine: Machine) -> None:
    """His tunnel is left alone."""
    machine.admin.add_tunnel("theirs", TUNNEL.vni, TUNNEL.port)
    machine.make(FAR, SWITCH)
    machine.refuses(Make(TUNNEL), EEXIST)
    machine.admin.delete_link("theirs")
    machine.make(TUNNEL)
    machine.holds(FAR, SWITCH, TUNNEL)


@pytest.mark.kernel
def test_who_has_a_number_is_told(linux: Machine) -> None:
    """The kernel says no more than that something exists."""
    linux.admin.add_tunnel("theirs", TUNNEL.vni, TUNNEL.port)
    linux.make(FAR, SWITCH)
    with pytest.raises(Refused, match="theirs on this host has the VXLAN number 5 already"):
        linux.make(TUNNEL)


def test_a_tunnel_goes_with_its_namespace_and_frees_its_number_at_once(tunnelled: Machine) -> None:
    """The network may be made again at once, under another ID."""
    again = [replace(one, netns="db", name=one.name) for one in (SWITCH, TUNNEL)]
    tunnelled.kernel.apply(diff((WEB,), tunnelled.seen()))
    tunnelled.make(DB, *again)
    tunnelled.holds(WEB, DB, *again)


def test_a_mac_is_at_one_port(tunnelled: Machine) -> None:
    """Who comes by another port has left the first."""
    second = replace(TOLD, name="veth6", peer="eth6", owner=SECOND_END)
    moved = replace(HERE, link="veth6")
    tunnelled.make(second, moved)
    tunnelled.holds(*without(HERE, of=OVERLAY), second, moved)
    tunnelled.do(Remove(HERE))
    tunnelled.holds(*without(HERE, of=OVERLAY), second, moved)


def test_a_mac_moves_from_a_port_to_a_tunnel_and_on(tunnelled: Machine) -> None:
    """From this host to another, and to a third."""
    gone, on = (Forwarding("far", "vxlan5", HERE.mac, ip_address(f"192.0.2.{number}")) for number in (8, 9))
    for wanted in ((*without(HERE, of=OVERLAY), gone), (*without(HERE, of=OVERLAY), on), OVERLAY):
        tunnelled.kernel.apply(diff(wanted, tunnelled.seen()))
        tunnelled.holds(*wanted)


def test_what_was_said_last_of_a_mac_or_an_address_stands(tunnelled: Machine) -> None:
    """News may come in the wrong order, and what is taken back is only what was said."""
    moved = replace(THERE, remote=ip_address("192.0.2.8"))
    known = replace(RESOLVED6, mac=HERE.mac)
    tunnelled.make(moved, known)
    tunnelled.do(Remove(THERE))
    tunnelled.holds(*without(THERE, RESOLVED6, of=OVERLAY), moved, known)
    tunnelled.do(Remove(RESOLVED6))
    tunnelled.holds(*without(THERE, RESOLVED6, of=OVERLAY), moved)


def test_what_is_told_of_a_link_that_is_down_is_known_when_it_is_up(tunnelled: Machine) -> None:
    """But neighbours are forgotten as it goes down."""
    tunnelled.admin.set_down("vxlan5", "far")
    tunnelled.holds(*without(TUNNEL, *NEIGHBOURS, of=OVERLAY), replace(TUNNEL, up=False))
    tunnelled.make(*NEIGHBOURS)
    tunnelled.admin.set_up("vxlan5", "far")
    tunnelled.holds(*OVERLAY)


def test_a_bridge_forgets_a_port_that_leaves_and_a_tunnel_nothing(tunnelled: Machine) -> None:
    """What a tunnel is told it keeps itself."""
    tunnelled.admin.nomaster("veth5", "far")
    tunnelled.admin.nomaster("vxlan5", "far")
    left = replace(TOLD, master=None, told=False, ipv6=None)
    tunnelled.holds(*without(TOLD, HERE, TUNNEL, of=OVERLAY), left, replace(TUNNEL, master=""))


def test_a_bridge_that_goes_takes_along_what_it_was_told(tunnelled: Machine) -> None:
    """Its ports stay."""
    tunnelled.admin.delete_link("br0", "far")
    left = replace(TOLD, master=None, told=False, ipv6=None)
    ports = [replace(one, master="") for one in (TUNNEL, LEARNER)]
    tunnelled.holds(FAR, WEB, *ports, left, *without(HERE, of=ENTRIES))


def test_a_port_that_is_down_is_still_told_of(tunnelled: Machine) -> None:
    """Static entries outlast that, those that were learned do not."""
    tunnelled.admin.set_down("eth5", "web")
    tunnelled.admin.set_down("veth5", "far")
    tunnelled.admin.set_down("br0", "far")
    down = replace(TOLD, up=False, peer_up=False)
    tunnelled.holds(*without(TOLD, SWITCH, of=OVERLAY), down, replace(SWITCH, up=False))


def test_a_bridge_of_another_owner_is_told_again(tunnelled: Machine) -> None:
    """It is made anew, and knows nothing then."""
    wanted = (*without(SWITCH, of=OVERLAY), replace(SWITCH, owner=OTHER))
    tunnelled.kernel.apply(diff(wanted, tunnelled.seen()))
    tunnelled.holds(*wanted)


def test_a_port_moves_to_another_bridge_with_what_is_told_of_it(tunnelled: Machine) -> None:
    """In one round."""
    wanted = (
        *without(TOLD, HERE, of=OVERLAY),
        replace(SWITCH, name="br1"),
        replace(TOLD, master="br1"),
        replace(HERE, master="br1"),
    )
    tunnelled.kernel.apply(diff(wanted, tunnelled.seen()))
    tunnelled.holds(*wanted)


def test_a_port_is_told_or_learns_as_it_is_said(running: Machine) -> None:
    """Where nothing is said, it learns."""
    running.holds(*without(VETH), replace(VETH, told=False))
    for told in (True, False):
        wanted = (*without(VETH), replace(VETH, told=told))
        plan = diff(wanted, running.seen())
        assert [type(one) for one in plan] == [Change]
        running.kernel.apply(plan)
        running.holds(*wanted)


def entry_deleted(key: Key) -> Callable[[Administrator], None]:
    """Take an entry away."""
    return lambda admin: admin.delete_entry(key)


TUNNEL_DAMAGES: dict[str, Callable[[Administrator], None]] = {
    "tunnel deleted": lambda admin: admin.delete_link("vxlan5", "far"),
    "tunnel down": lambda admin: admin.set_down("vxlan5", "far"),
    "tunnel mtu": lambda admin: admin.set_mtu("vxlan5", 1350, "far"),
    "tunnel off its bridge": lambda admin: admin.nomaster("vxlan5", "far"),
    "learning tunnel down": lambda admin: admin.set_down("vxlan6", "far"),
    "port off its bridge": lambda admin: admin.nomaster("veth5", "far"),
    "port deleted": lambda admin: admin.delete_link("veth5", "far"),
    "bridge deleted": lambda admin: admin.delete_link("br0", "far"),
    "bridge down": lambda admin: admin.set_down("br0", "far"),
    "namespace deleted": lambda admin: admin.delete_namespace("far"),
    "sandbox's namespace deleted": lambda admin: admin.delete_namespace("web"),
    **{" ".join(one.key): entry_deleted(one.key) for one in ENTRIES},
}


@pytest.mark.parametrize("damage", TUNNEL_DAMAGES)
def test_damage_to_tunnels_is_seen_and_made_good_in_one_round(tunnelled: Machine, damage: str) -> None:
    """Repair is not a program of its own: it is the next look."""
    TUNNEL_DAMAGES[damage](tunnelled.admin)
    plan = diff(OVERLAY, tunnelled.seen())
    assert plan is not NOTHING
    tunnelled.kernel.apply(plan)
    tunnelled.holds(*OVERLAY)


@pytest.mark.parametrize(
    ("operation", "errnos"),
    [
        (Make(replace(TUNNEL, name="sixteen-letters!", vni=9)), {ERANGE, EINVAL}),
        (Make(replace(TUNNEL, name="veth5")), {EEXIST}),
        (Make(replace(TUNNEL, name="vxlan9", vni=9, netns="nowhere")), {ENOENT}),
        (Make(replace(TUNNEL, name="vxlan9", vni=9, master="nothing")), {ENODEV}),
        (Make(replace(THERE, link="nothing")), {ENODEV}),
        (Make(replace(THERE, netns="nowhere")), {ENOENT}),
        (Make(replace(RESOLVED, link="nothing")), {ENODEV}),
        (Make(Forwarding("web", "eth5", HERE.mac)), {EOPNOTSUPP, EINVAL}),
    ],
    ids=str,
)
def test_what_cannot_be_told_or_tunnelled_is_refused(
    tunnelled: Machine, operation: Operation, errnos: set[int]
) -> None:
    """The caller is told which command failed and why, and nothing is half done."""
    tunnelled.refuses(operation, *errnos)


# What other programs see on Linux.


@pytest.mark.kernel
def test_iproute2_and_nft_see_what_was_made(linux: Machine) -> None:
    """Our own eyes may be as wrong as our own hands."""
    linux.admin.add_link(HostLink("up0", "veth", 1500))
    linux.kernel.apply(diff(ALL, ()))
    links = {link["ifname"]: link for link in json.loads(ip(HOST, "-j", "-d", "link"))}
    assert links["br-a"]["ifalias"] == f"isthmus:{'a' * 64}:"
    assert links["br-a"]["mtu"] == 1400
    assert links["veth1"]["master"] == links["up0"]["master"] == "br-a"
    inner = {link["ifname"]: link for link in json.loads(ip("web", "-j", "address"))}["eth0"]
    assert inner["address"] == VETH.mac
    assert {"10.0.0.2", "fd00::2"} <= {one["local"] for one in inner["addr_info"]}
    routes = [*json.loads(ip("web", "-j", "route")), *json.loads(ip("web", "-6", "-j", "route"))]
    assert {"10.0.0.1", "fd00::1"} <= {one.get("gateway") for one in routes if one["dst"] == "default"}
    table = json.loads(run("nft", "-j", "list", "table", "inet", "isthmus"))["nftables"]
    sets = {one["set"]["name"]: one["set"].get("elem") for one in table if "set" in one}
    assert sets["switched"] == ["br-a"]
