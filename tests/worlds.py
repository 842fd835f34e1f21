"""Builders that all tests share: records with sensible fields, and worlds of resources for the laws.

A *world* is a consistent set of resources, as drivers give them: nothing in it needs what is not in it. All worlds are
built from few names, so that two of them overlap: the same bridge with another owner, the same veth on another bridge,
the same link with other addresses. `damage` is what others may do to a kernel meanwhile.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from typing import TypeVar

from hypothesis import strategies as st

from isthmus.kernel import Scope
from isthmus.kernel.fake import FakeKernel
from isthmus.model import HOST, Endpoint, Host, HostLink, Network, Sandbox
from isthmus.naming import Owner
from isthmus.resources import (
    Address,
    Bridge,
    Child,
    Element,
    Key,
    Namespace,
    Nickname,
    Port,
    Resource,
    Route,
    Sysctl,
    Table,
    Veth,
    Vlan,
)

Interface = IPv4Interface | IPv6Interface
T = TypeVar("T")


def identifier(number: int) -> str:
    """A whole ID, whose first digits are *number*'s."""
    return f"{number:012x}".ljust(64, "0")


def network(name: str = "front", driver: str = "bridge", number: int = 1, created: int = 1) -> Network:
    """A network without subnets or options; use `dataclasses.replace` for more."""
    return Network(identifier(number), name, driver, created)


def sandbox(name: str = "web", mode: str = "front", number: int = 100, created: int = 2) -> Sandbox:
    """A sandbox with a namespace of its own."""
    return Sandbox(identifier(number), name, created, netns=name, mode=mode)


def endpoint(on: Network, of: Sandbox, *addresses: str, number: int = 200, ifname: str = "eth0") -> Endpoint:
    """The place of a sandbox on a network."""
    mac = f"02:42:{number.to_bytes(4, 'big').hex(':')}"
    interfaces = tuple(ip_interface(address) for address in addresses)
    return Endpoint(identifier(number), on.id, of.id, 3, ifname, mac, interfaces)


# Worlds for the laws.

UPLINKS = ("aa-up", "eth9", "zz-up")
BRIDGES = ("aa0", "br-lan", "zz0")
VETHS = ("ab-veth", "veth1", "veth2", "zz-veth")
NAMESPACES = ("db", "web")

HOST_BEFORE = Host(
    tuple(
        HostLink(name, "dummy", 1500, (ip_interface(f"172.31.{number}.1/24"),)) for number, name in enumerate(UPLINKS)
    )
)
"""The links of others that every kernel of the laws has."""

_V4 = tuple(ip_interface(text) for text in ("10.0.0.1/24", "10.0.0.2/24", "10.0.0.1/16", "10.0.1.1/24"))
_V6 = tuple(ip_interface(text) for text in ("fd00::1/64", "fd00::1/48", "fd00::2/64"))
_GATEWAYS = tuple(ip_address(text) for text in ("10.0.0.9", "10.0.1.9", "fd00::9", "fe80::9"))
_FAR_GATEWAYS = tuple(ip_address(text) for text in ("192.0.2.1", "fd00:f::1"))
_FAR = tuple(ip_network(text) for text in ("10.77.0.0/16", "fd77::/64"))
_DEFAULT = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


@dataclass(frozen=True, slots=True)
class World:
    """A consistent set of *resources*."""

    resources: tuple[Resource, ...]

    @property
    def scope(self) -> Scope:
        """Where to look for all that bears our mark, and for what this world needs to know besides."""
        sysctls = frozenset((one.netns, one.name) for one in self.resources if isinstance(one, Sysctl))
        return Scope(everything=True, firewall=True, ports=frozenset(UPLINKS), sysctls=sysctls)

    def bridge(self, name: str) -> Bridge | None:
        """The bridge of that name in the host's namespace."""
        key = ("link", HOST, name)
        return next((one for one in self.resources if one.key == key and isinstance(one, Bridge)), None)

    def guards(self, bridge: str) -> dict[Key, Element]:
        """The elements without which *bridge* must not have anything on it."""
        return {
            one.key: one
            for one in self.resources
            if isinstance(one, Element) and not one.permits and one.match[0] == bridge and bridge in BRIDGES
        }

    def areas(self) -> Iterator[tuple[tuple[Resource, ...], Scope]]:
        """The same world cut up: each namespace with all that leads into it, and what remains to the host."""
        rest = {one.key: one for one in self.resources}
        for netns in NAMESPACES:
            veths = [one for one in self.resources if isinstance(one, Veth) and netns in {one.peer_netns, one.netns}]
            bridges = [one for one in self.resources if isinstance(one, Bridge) and one.netns == netns]
            links = frozenset({*((one.netns, one.name) for one in veths), *((one.netns, one.name) for one in bridges)})
            ends = links | {(one.peer_netns, one.peer) for one in veths}
            area = [one for one in self.resources if _is_in(one, netns, ends)]
            for one in area:
                rest.pop(one.key, None)
            sysctls = frozenset((one.netns, one.name) for one in area if isinstance(one, Sysctl))
            names = frozenset({f"{netns}-too"})
            yield tuple(area), Scope(frozenset({netns}), links, sysctls=sysctls, nicknames=names)
        links = frozenset((one.netns, one.name) for one in rest.values() if isinstance(one, Bridge | Veth))
        sysctls = frozenset((one.netns, one.name) for one in rest.values() if isinstance(one, Sysctl))
        yield (
            tuple(rest.values()),
            Scope(links=links, ports=frozenset(UPLINKS), sysctls=sysctls, firewall=True),
        )


def _is_in(resource: Resource, netns: str, ends: frozenset[tuple[str, str]]) -> bool:
    match resource:
        case Namespace(name=name):
            return name == netns
        case Bridge() | Veth():
            return (resource.netns, resource.name) in ends
        case Address() | Route():
            return (resource.netns, resource.link) in ends
        case Sysctl() | Nickname():
            return resource.netns == netns
        case _:
            return False


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Consistent worlds."""
    namespaces = _some(draw, NAMESPACES)
    found: list[Resource] = [Namespace(name) for name in namespaces]
    found += [Nickname(f"{name}-too", name) for name in _some(draw, namespaces)]
    bridges = list(_bridges(draw, namespaces))
    veths = list(_veths(draw, namespaces, bridges))
    found += bridges
    found += veths
    by_name = {bridge.name: bridge for bridge in bridges if bridge.netns == HOST}
    if by_name:
        for name in _some(draw, UPLINKS):
            bridge = by_name[draw(st.sampled_from(sorted(by_name)))]
            found.append(Port(HOST, name, bridge.name, bridge.owner))
    ends = [(bridge.netns, bridge.name, bridge.owner, bridge.netns == HOST) for bridge in bridges]
    ends += [(veth.peer_netns, veth.peer, veth.owner, veth.peer_netns == HOST or veth.ipv6 is True) for veth in veths]
    ends += [(veth.netns, veth.name, veth.owner, True) for veth in veths if not veth.master]
    routed: set[Key] = set()
    for netns, name, owner, ipv6 in ends:
        addresses = [one for one in _addresses(draw) if ipv6 or one.version == 4]
        found += [Address(netns, name, address, owner) for address in addresses]
        for route in _routes(draw, netns, name, owner, addresses):
            if route.key not in routed and (ipv6 or route.destination.version == 4):
                routed.add(route.key)
                found.append(route)
    found += _sysctls(draw, namespaces, bridges)
    found += _table(draw, sorted(by_name))
    return World(tuple(draw(st.permutations(_reachable(found)))))


@st.composite
def stories(draw: st.DrawFn) -> tuple[World, World]:
    """Two worlds, of which the second is to follow the first: any other, or the same but for a few changes."""
    before = draw(worlds())
    return before, draw(worlds()) if draw(st.booleans()) else _changed(draw, before)


def _changed(draw: st.DrawFn, world: World) -> World:
    resources = {one.key: one for one in world.resources}
    for _ in range(draw(st.integers(1, 3))):
        if resources:
            kind = draw(st.sampled_from(sorted({key[0] for key in resources})))
            key = draw(st.sampled_from(sorted(key for key in resources if key[0] == kind)))
            if kind == "link" and draw(st.booleans()):
                _rename(key, resources)
            else:
                _change(key, resources)
    return World(tuple(resources.values()))


def _change(key: Key, resources: dict[Key, Resource]) -> None:
    """Change one thing, with all that must then be changed along."""
    match resources[key]:
        case Bridge() | Veth() as link:
            owner = Owner("n3" if link.owner.network != "n3" else "n1", link.owner.endpoint)
            resources.update((one.key, replace(one, owner=owner)) for one in _with(link, resources.values()))
            source = ("element", "source4", link.name)
            if source in resources:  # another network has other rules
                _change(source, resources)
        case Element(set="source4") as element:
            resources[key] = replace(element, value="172.31.2.1")
        case Element(set="enter4") as element:
            resources[key] = replace(element, value="accept")
        case Table() as table:
            resources[key] = replace(table, digest="v3")
        case Sysctl(value=value) as sysctl:
            resources[key] = replace(sysctl, value="0" if value == "1" else "1")
        case Address() as address:
            by_gateway = [
                one.key
                for one in resources.values()
                if isinstance(one, Route) and one.via and (one.netns, one.link) == (address.netns, address.link)
            ]
            for gone in (key, *by_gateway):
                del resources[gone]
        case Element(permits=True) | Port():
            del resources[key]
        case _:
            pass  # much else would have to change along


def _rename(key: Key, resources: dict[Key, Resource]) -> None:
    """Give the other end of a pair another name."""
    link = resources[key]
    if not isinstance(link, Veth):
        return
    on_it = [one for one in _with(link, resources.values()) if isinstance(one, Address | Route)]
    resources[key] = replace(link, peer=f"{link.peer}9")
    for one in on_it:
        if (one.netns, one.link) == (link.peer_netns, link.peer):
            del resources[one.key]
            moved = replace(one, link=f"{link.peer}9")
            resources[moved.key] = moved


def _with(link: Bridge | Veth, resources: Iterable[Resource]) -> list[Bridge | Veth | Address | Route | Port]:
    """*Link*, and what of *resources* shares its owner."""
    ends = {(link.netns, link.name)} | ({(link.peer_netns, link.peer)} if isinstance(link, Veth) else set())
    on_it = [one for one in resources if isinstance(one, Address | Route) and (one.netns, one.link) in ends]
    ports = [one for one in resources if isinstance(one, Port) and (one.netns, one.master) == (link.netns, link.name)]
    return [link, *on_it, *ports]


def _some(draw: st.DrawFn, names: Iterable[T]) -> list[T]:
    """Most of *names*, in their order."""
    return [name for name in names if draw(st.integers(0, 3))]


def _mostly(draw: st.DrawFn, usual: T, *others: T) -> T:
    """What is *usual*, more often than not."""
    return draw(st.sampled_from((usual, usual, usual, *others)))


def _bridges(draw: st.DrawFn, namespaces: list[str]) -> Iterator[Bridge]:
    for name in _some(draw, BRIDGES):
        yield Bridge(
            _mostly(draw, HOST, *namespaces),
            name,
            Owner(draw(st.sampled_from(("n1", "n2")))),
            mtu=_mostly(draw, None, 1400, 9000),
            ipv6=draw(st.sampled_from((None, None, False, True))),
        )


def _veths(draw: st.DrawFn, namespaces: list[str], bridges: list[Bridge]) -> Iterator[Veth]:
    taken = {(bridge.netns, bridge.name) for bridge in bridges} | {(HOST, name) for name in UPLINKS}
    for number, name in enumerate(_some(draw, VETHS)):
        on = _mostly(draw, bridges[number % len(bridges)] if bridges else None, None, *bridges)
        netns = on.netns if on else HOST
        where = _mostly(draw, (namespaces or [HOST])[0], HOST, *namespaces)
        peer = (where, _mostly(draw, f"eth{number}", "eth0", "aa0"))
        if peer in taken or (netns, name) in taken:
            continue
        taken |= {peer, (netns, name)}
        yield Veth(
            netns,
            name,
            *peer,
            Owner("n1", _mostly(draw, "e1", "e2")),
            mac=_mostly(draw, None, "02:42:00:00:00:01", "02:42:00:00:00:02"),
            master=on.name if on else None,
            mtu=_mostly(draw, None, 1400),
            isolated=draw(st.sampled_from((None, None, False, True))) if on else None,
            ipv6=draw(st.sampled_from((True, True, False))),
            announce=draw(st.sampled_from((None, None, False, True))),
        )


def _addresses(draw: st.DrawFn) -> list[Interface]:
    addresses: list[Interface] = list(draw(st.lists(st.sampled_from(_V4), unique=True, max_size=3)))
    addresses += draw(st.lists(st.sampled_from(_V6), unique_by=lambda interface: interface.ip, max_size=2))
    return addresses


def _routes(draw: st.DrawFn, netns: str, link: str, owner: Owner, addresses: list[Interface]) -> Iterator[Route]:
    for destination in draw(st.lists(st.sampled_from(_FAR), unique=True)):
        yield Route(netns, destination, link, owner)
    for gateway in draw(st.lists(st.sampled_from((*_GATEWAYS, *_FAR_GATEWAYS)), unique=True, max_size=2)):
        if gateway in _FAR_GATEWAYS:
            yield Route(netns, ip_network(gateway), link, owner)
        if gateway in _FAR_GATEWAYS or gateway.is_link_local or any(gateway in one.network for one in addresses):
            yield Route(netns, _DEFAULT[gateway.version], link, owner, gateway)


def _reachable(found: Iterable[Resource]) -> list[Resource]:
    """*Found* without the routes by a far gateway to which another link got the direct route."""
    found = list(found)
    direct = {(one.netns, one.destination, one.link) for one in found if isinstance(one, Route)}
    return [
        one
        for one in found
        if not (isinstance(one, Route) and one.via in _FAR_GATEWAYS)
        or (one.netns, ip_network(str(one.via)), one.link) in direct
    ]


def _sysctls(draw: st.DrawFn, namespaces: list[str], bridges: list[Bridge]) -> Iterator[Sysctl]:
    names = [(netns, "net.ipv4.ip_forward") for netns in (HOST, *namespaces)]
    names += [(netns, "net.ipv4.conf.all.promote_secondaries") for netns in (HOST, *namespaces)]
    names += [(bridge.netns, f"net.ipv4.conf.{bridge.name}.route_localnet") for bridge in bridges]
    for netns, name in draw(st.lists(st.sampled_from(names), unique=True, max_size=3)):
        yield Sysctl(netns, name, draw(st.sampled_from(("0", "1"))))


def _table(draw: st.DrawFn, bridges: list[str]) -> Iterator[Resource]:
    digest = draw(st.sampled_from(("v1", "v1", "v2", "")))
    if not digest:
        return
    yield Table(digest)
    for uplink in _some(draw, UPLINKS[:2]):
        yield Element("closed4", (uplink,), permits=False)
    for bridge in bridges:
        yield Element("switched", (bridge,), permits=True)
        yield Element("enter4", (bridge,), permits=False, value=draw(st.sampled_from(("drop", "goto enter-nat"))))
        if draw(st.booleans()):
            yield Element("leave4", (bridge,), permits=False, value="drop")
        if draw(st.booleans()):
            yield Element("neighbours", (bridge, bridge), permits=True)
        yield draw(
            st.sampled_from(
                (
                    Element("masquerade4", (bridge,), permits=True),
                    Element("source4", (bridge,), permits=True, value="172.31.0.1"),
                    Element("source4", (bridge,), permits=True, value="172.31.1.1"),
                )
            )
        )


# What others do meanwhile.


@dataclass(frozen=True, slots=True)
class Act:
    """One verb of `FakeKernel`'s, as another administrator would use it."""

    verb: str
    arguments: tuple[object, ...] = ()

    def do(self, kernel: FakeKernel) -> None:
        """Do it to *kernel*."""
        getattr(kernel, self.verb)(*self.arguments)


def acts(kernel: FakeKernel) -> list[Act]:
    """All that other administrators, and chance, can do to what of ours is in *kernel* now, in a settled order."""
    found: list[Act] = [Act("reboot")]
    for one in sorted(kernel.observe(World(()).scope), key=lambda resource: resource.key):
        match one:
            case Namespace(name=name):
                found.append(Act("delete_namespace", (name,)))
            case Bridge() | Vlan() | Child():
                found += _on_link(one.netns, one.name)
            case Veth():
                found += [*_on_link(one.netns, one.name), *_on_link(one.peer_netns, one.peer)]
                found.append(
                    Act(
                        "nomaster",
                        (
                            one.name,
                            one.netns,
                        ),
                    )
                )
            case Port(name=name):
                found.append(Act("nomaster", (name,)))
            case Nickname():
                pass  # nothing hangs on it
            case Address():
                found.append(
                    Act(
                        "delete_address",
                        (
                            one.link,
                            one.interface,
                            one.netns,
                        ),
                    )
                )
            case Route():
                found.append(
                    Act(
                        "delete_route",
                        (
                            one.destination,
                            one.netns,
                        ),
                    )
                )
            case Element():
                found.append(
                    Act(
                        "delete_element",
                        (
                            one.set,
                            one.match,
                        ),
                    )
                )
            case Table():
                found += [Act("flush_ruleset"), Act("edit_table")]
            case Sysctl():
                pass
    return found


def _on_link(netns: str, name: str) -> Iterator[Act]:
    yield Act(
        "delete_link",
        (
            name,
            netns,
        ),
    )
    yield Act(
        "set_down",
        (
            name,
            netns,
        ),
    )
    yield Act(
        "set_mtu",
        (
            name,
            1300,
            netns,
        ),
    )
