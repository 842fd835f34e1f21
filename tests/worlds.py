"""Builders that all tests share: records with sensible fields, and worlds of resources for the laws.

A *world* is a consistent set of resources, as drivers give them: nothing in it needs what is not in it. All worlds are
built from few names, so that two of them overlap: the same bridge with another owner, the same veth on another bridge,
the same link with other addresses. `damage` is what others may do to a kernel meanwhile.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from typing import TypeVar

from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.kernel import Scope
from isthmus.kernel.fake import FakeKernel
from isthmus.model import HOST, Endpoint, Host, HostLink, Network, Sandbox
from isthmus.naming import MAIN_TABLE, Owner
from isthmus.resources import (
    NOBODY,
    Address,
    Bridge,
    Child,
    Element,
    Forwarding,
    Ifb,
    Key,
    Namespace,
    Neighbour,
    Nickname,
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
    provided,
)

Interface = IPv4Interface | IPv6Interface
_Link = Bridge | Veth | Vlan | Child | Ifb | Vxlan
T = TypeVar("T")


def identifier(number: int) -> str:
    """A whole ID, whose first digits are *number*'s."""
    return f"{number:012x}".ljust(64, "0")


def network(name: str = "front", driver: str = "bridge", number: int = 1, created: int = 1) -> Network:
    """A network without subnets or options; use `replace` for more."""
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
BLIND = ("di-1", "do-1")
VLANS = ("aa-up.5", "zz-vlan")
IFBS = ("ab-ifb", "zz-ifb")
RATES = (10**6, 10**8)
CHILDREN = ("aa-ch", "eth0", "zz-ch")
NAMESPACES = ("db", "web")
HIDDEN = "_ov"
SWITCHES = ("br0", "br1")
TUNNELS = ("aa-vxlan", "zz-vxlan")
TOLD = ("aa-told", "zz-told")

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
_TABLES = (7, 1 << 30)
_NEEDED = ("called", "egress", "trusted")
_REMOTES = tuple(ip_address(text) for text in ("192.0.2.7", "192.0.2.8", "2001:db8::7"))
_VNIS = (5, 6, 205)
_PORTS = (4789, 8472)
_MACS = ("02:42:00:00:07:01", "02:42:00:00:07:02")
_DEFAULT = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


SHAPED = frozenset((HOST, name) for name in (*VETHS, *IFBS))
"""The links whose traffic may be shaped."""


@dataclass(frozen=True, slots=True)
class World:
    """A consistent set of *resources*."""

    resources: tuple[Resource, ...]

    @property
    def scope(self) -> Scope:
        """Where to look for all that bears our mark, and for what this world needs to know besides."""
        sysctls = frozenset((one.netns, one.name) for one in self.resources if isinstance(one, Sysctl))
        ruled = frozenset(NAMESPACES)
        ports = frozenset(UPLINKS)
        return Scope(everything=True, firewall=True, ports=ports, sysctls=sysctls, ruled=ruled, shaped=SHAPED)

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
            single = [one for one in self.resources if isinstance(one, Bridge | Child) and one.netns == netns]
            links = frozenset((one.netns, one.name) for one in (*veths, *single))
            ends = links | {(one.peer_netns, one.peer) for one in veths}
            area = [one for one in self.resources if _is_in(one, netns, ends)]
            for one in area:
                rest.pop(one.key, None)
            sysctls = frozenset((one.netns, one.name) for one in area if isinstance(one, Sysctl))
            names = frozenset({f"{netns}-too"})
            ruled = frozenset({netns})
            shaped = ends & SHAPED
            yield tuple(area), Scope(ruled, links, sysctls=sysctls, nicknames=names, ruled=ruled, shaped=shaped)
        links = frozenset((one.netns, one.name) for one in rest.values() if isinstance(one, _Link))
        sysctls = frozenset((one.netns, one.name) for one in rest.values() if isinstance(one, Sysctl))
        yield (
            tuple(rest.values()),
            Scope(frozenset({HIDDEN}), links, frozenset(UPLINKS), sysctls, firewall=True, shaped=links & SHAPED),
        )
        told = [one for one in self.resources if isinstance(one, Forwarding | Neighbour)]
        yield tuple(told), Scope(told=frozenset(one.key for one in told))


def _is_in(resource: Resource, netns: str, ends: frozenset[tuple[str, str]]) -> bool:
    match resource:
        case Namespace(name=name):
            return name == netns
        case Bridge() | Veth() | Vlan() | Child() | Ifb():
            return (resource.netns, resource.name) in ends
        case Address() | Route() | Shaper() | Redirect() | Forwarding():
            return (resource.netns, resource.link) in ends
        case Sysctl() | Nickname() | Rule():
            return resource.netns == netns
        case _:
            return False


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Consistent worlds."""
    namespaces = _some(draw, NAMESPACES)
    found: list[Resource] = [Namespace(name) for name in namespaces]
    if alone := draw(st.sampled_from((*(None,) * 4, _overlay, _overlay, _stacked, _stacked, _ruled))):
        # The worlds are small then, and many, and whatever is changed in one matters.
        return World(tuple(draw(st.permutations([*found, *alone(draw, namespaces)]))))
    found += [Nickname(f"{name}-too", name) for name in _some(draw, namespaces)]
    bridges = list(_bridges(draw, namespaces))
    veths = list(_veths(draw, namespaces, bridges))
    found += bridges
    found += veths
    by_name = {bridge.name: bridge for bridge in bridges if bridge.netns == HOST}
    ports = _some(draw, draw(st.permutations(UPLINKS))[:2]) if by_name else []
    for name in ports:
        bridge = by_name[draw(st.sampled_from(sorted(by_name)))]
        found.append(Port(HOST, name, bridge.name, bridge.owner))
    below: list[Bridge | Veth | Vlan] = list(by_name.values())
    if draw(st.booleans()):
        blind = Veth(HOST, BLIND[0], HOST, BLIND[1], Owner(draw(st.sampled_from(("n1", "n2")))), mtu=1400, ipv6=False)
        veths.append(blind)
        found.append(blind)
        below.append(blind)
    vlans = list(_vlans(draw, sorted(by_name)))
    children = list(_children(draw, namespaces, set(UPLINKS) - set(ports), [*below, *vlans], [*bridges, *veths]))
    found += vlans
    found += children
    found += _shaping(draw, [veth for veth in veths if veth.netns == HOST and veth.name in VETHS])
    ends: list[tuple[str, str, Owner, bool]] = [
        (bridge.netns, bridge.name, bridge.owner, bridge.netns == HOST) for bridge in bridges
    ]
    ends += [(veth.peer_netns, veth.peer, veth.owner, veth.peer_netns == HOST or veth.ipv6 is True) for veth in veths]
    ends += [(veth.netns, veth.name, veth.owner, True) for veth in veths if not veth.master]
    ends += [(vlan.netns, vlan.name, vlan.owner, True) for vlan in vlans]
    ends += [(child.netns, child.name, child.owner, child.netns == HOST or child.ipv6 is True) for child in children]
    routed: set[Key] = set()
    for netns, name, owner, ipv6 in _some(draw, ends):
        addresses = [one for one in _addresses(draw) if ipv6 or one.version == 4]
        found += [Address(netns, name, address, owner) for address in addresses]
        for route in _routes(draw, netns, name, owner, addresses):
            if route.key not in routed and (ipv6 or route.destination.version == 4):
                routed.add(route.key)
                found.append(route)
    found += () if draw(st.integers(0, 3)) else _overlay(draw, namespaces)
    found += _sysctls(draw, namespaces, [*bridges, *children])
    found += [Rule(netns, _V4[0].ip, draw(st.sampled_from(_TABLES))) for netns in _some(draw, namespaces)]
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
            # Of links more than of others, and of these what others stand on: much hangs on them.
            kinds = sorted({type(one) for one in resources.values()}, key=lambda kind: kind.__name__)
            kind = draw(st.sampled_from([one for one in kinds for _ in range(1 + 2 * issubclass(one, _Link))]))
            standing = (one for one in resources.values() if isinstance(one, Vlan | Child | Forwarding | Neighbour))
            below = {key for one in standing for key in one.needs}
            some = sorted(key for key, one in resources.items() if isinstance(one, kind))
            key = draw(st.sampled_from([key for key in some for _ in range(3 if key in below else 1)]))
            if issubclass(kind, _Link) and draw(st.booleans()):
                _alter(key, resources)
            else:
                _change(key, resources)
    return World(tuple(resources.values()))


def _change(key: Key, resources: dict[Key, Resource]) -> None:
    """Change one thing, with all that must then be changed along."""
    match resources[key]:
        case (Bridge() | Veth() | Vlan() | Child() | Ifb() | Vxlan()) as link:
            owner = Owner("n3" if link.owner.network != "n3" else "n1", link.owner.endpoint)
            resources.update((one.key, replace(one, owner=owner)) for one in _with(link, resources.values()))
            source = ("element", "source4", link.name)
            if source in resources:  # another network has other rules
                _change(source, resources)
        case Element() as element:
            _change_element(element, resources)
        case (Shaper() | Redirect()) as shaping:
            _change_shaping(shaping, resources)
        case Table() as table:
            other = _NEEDED[1:] if table.needed == _NEEDED[:2] else _NEEDED[:2]
            resources[key] = replace(table, needed=other) if table.digest == "v1" else replace(table, digest="v3")
        case Rule() as rule:
            resources[key] = replace(rule, table=next(table for table in _TABLES if table != rule.table))
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
        case (Forwarding() | Neighbour()) as told:
            _change_told(told, resources)
        case Port():
            del resources[key]
        case _:
            pass  # much else would have to change along


def _other(this: T, of: Iterable[T]) -> T:
    return next(one for one in of if one != this)


def _change_told(told: Forwarding | Neighbour, resources: dict[Key, Resource]) -> None:
    if isinstance(told, Neighbour):
        resources[told.key] = replace(told, mac=_other(told.mac, _MACS))
    elif told.remote and told.mac != NOBODY:
        resources[told.key] = replace(told, remote=_other(told.remote, _REMOTES))
    else:
        del resources[told.key]


def _change_element(element: Element, resources: dict[Key, Resource]) -> None:
    values = {"source4": "172.31.2.1", "publish4": "10.0.0.4 . 80", "enter4": "accept"}
    if element.set in values:
        resources[element.key] = replace(element, value=values[element.set])
    elif element.permits:
        del resources[element.key]


def _change_shaping(shaping: Shaper | Redirect, resources: dict[Key, Resource]) -> None:
    """Give a shaper its other rate; lead a redirection to another link, or end it with all that it needs alone."""
    if isinstance(shaping, Shaper):
        resources[shaping.key] = replace(shaping, rate=next(rate for rate in RATES if rate != shaping.rate))
        return
    others = [one for one in resources.values() if isinstance(one, Ifb) and one.name != shaping.target]
    if others:
        resources[shaping.key] = replace(shaping, target=others[0].name)
        return
    ifb = ("link", HOST, shaping.target)
    gone = [
        one.key
        for one in resources.values()
        if one.key == ifb or (isinstance(one, Shaper | Redirect) and ifb in one.needs)
    ]
    for key in gone:
        del resources[key]


def _alter(key: Key, resources: dict[Key, Resource]) -> None:
    """Give the other end of a pair another name, a VLAN another number or parent, and a child another mode or flag.

    A pair of which its bridge was told goes to another bridge, and a tunnel gets another number, or another nature.
    """
    match resources[key]:
        case Veth(told=True, master=str() as master) as pair:
            switch = _other(master, SWITCHES)
            if ("link", HIDDEN, switch) in resources:
                resources[key] = replace(pair, master=switch)
                moved = (one for one in resources.values() if isinstance(one, Forwarding) and one.link == pair.name)
                resources.update([(one.key, replace(one, master=switch)) for one in moved])
        case Vxlan() as tunnel:
            resources[key] = _another(tunnel)
        case Veth() as pair:
            _rename(pair, resources)
        case Vlan(vid=vid, parent=parent) as vlan if vid % 2:
            resources[key] = replace(vlan, parent=UPLINKS[parent == UPLINKS[0]])
        case Vlan(vid=vid) as vlan:
            resources[key] = replace(vlan, vid=vid + 100)
        case Child(kind="macvlan", mode="bridge" | "private" as mode) as child:
            shared = (one for one in resources.values() if isinstance(one, Child) and one.mode in {"bridge", "private"})
            other = next((one.parent for one in shared if one.parent != child.parent), "")
            if other:
                resources[key] = replace(child, parent=other, mtu=None)
            else:
                resources[key] = replace(child, mode="private" if mode == "bridge" else "bridge")
        case Child(kind="ipvlan", parent=parent, flag=flag):
            alike = [one for one in resources.values() if isinstance(one, Child) and one.parent == parent]
            resources.update((one.key, replace(one, flag="" if flag else "private")) for one in alike)
        case _:
            pass  # a bridge has nothing of the kind, and a macvlan in passthru mode keeps it


def _another(tunnel: Vxlan) -> Vxlan:
    if tunnel.vni == _VNIS[0]:
        return replace(tunnel, vni=7)
    if tunnel.vni == _VNIS[1]:
        return replace(tunnel, port=_other(tunnel.port, _PORTS))
    if tunnel.local:
        return replace(tunnel, local=_other(tunnel.local, _REMOTES))
    return replace(tunnel, learning=not tunnel.learning)


def _rename(pair: Veth, resources: dict[Key, Resource]) -> None:
    on_it = [one for one in _with(pair, resources.values()) if isinstance(one, Address | Route)]
    resources[pair.key] = replace(pair, peer=f"{pair.peer}9")
    for one in on_it:
        if (one.netns, one.link) == (pair.peer_netns, pair.peer):
            del resources[one.key]
            moved = replace(one, link=f"{pair.peer}9")
            resources[moved.key] = moved


def _with(link: _Link, resources: Iterable[Resource]) -> list[_Link | Address | Route | Port]:
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
        )


def _vlans(draw: st.DrawFn, bridges: list[str]) -> Iterator[Vlan]:
    for number, name in enumerate(_some(draw, VLANS)):
        parent = draw(st.sampled_from((*UPLINKS, *bridges, *bridges)))
        vid = 5 + 2 * number + draw(st.integers(0, 1))
        yield Vlan(HOST, name, parent, vid, Owner(_mostly(draw, "n1", "n2")))


def _children(
    draw: st.DrawFn,
    namespaces: list[str],
    uplinks: set[str],
    below: list[Bridge | Veth | Vlan],
    others: list[Bridge | Veth],
) -> Iterator[Child]:
    taken = {(one.netns, one.name) for one in others}
    taken |= {(one.peer_netns, one.peer) for one in others if isinstance(one, Veth)}
    mtus: dict[str, tuple[int | None, ...]] = dict.fromkeys(uplinks, (None, 1400))
    # Where nobody says what MTU the parent has, it may be lowered for good.
    mtus |= {one.name: (None, 1400) if not isinstance(one, Vlan) and one.mtu else (None,) for one in below}
    modes: dict[str, tuple[str, str, str]] = {}
    for name in _some(draw, CHILDREN):
        netns = _mostly(draw, (namespaces or [HOST])[-1], HOST, *namespaces)
        if not mtus or (netns, name) in taken:
            continue
        parents = sorted(mtus)
        parent = draw(st.sampled_from([*parents, *[name for name in parents if name in VLANS] * 3]))
        was = modes.get(parent)
        kind = was[0] if was else draw(st.sampled_from(("macvlan", "ipvlan")))
        if kind == "ipvlan":  # all of one parent are alike
            mode, flag = (was or (kind, _mostly(draw, "l2", "l3"), _mostly(draw, "", "private")))[1:]
        else:
            mode, flag = _mostly(draw, "bridge", "private", *([] if was else ["passthru"])), ""
        modes[parent] = kind, mode, flag
        if mode == "passthru":
            del mtus[parent]
        own = kind == "macvlan" and mode != "passthru"
        prefix = f"02:42:00:00:{CHILDREN.index(name):02x}"
        yield Child(
            netns,
            name,
            parent,
            kind,
            mode,
            Owner("n1", _mostly(draw, "e1", "e2")),
            flag,
            mac=_mostly(draw, f"{prefix}:01", f"{prefix}:02", None) if own else None,
            mtu=draw(st.sampled_from(mtus.get(parent, (None,)))),
            ipv6=draw(st.sampled_from((True, True, False))),
        )


def _shaping(draw: st.DrawFn, veths: list[Veth]) -> Iterator[Ifb | Shaper | Redirect]:
    ifbs = [Ifb(HOST, name, Owner("n1", _mostly(draw, "e1", "e2"))) for name in _some(draw, IFBS)] if veths else []
    yield from ifbs
    for name in _some(draw, [*(veth.name for veth in veths), *(one.name for one in ifbs)]):
        yield Shaper(HOST, name, draw(st.sampled_from(RATES)))
    for veth in _some(draw, veths) if ifbs else ():
        yield Redirect(HOST, veth.name, draw(st.sampled_from(ifbs)).name)


def _stacked(draw: st.DrawFn, namespaces: list[str]) -> Iterator[Resource]:
    """What stands on links of others and on bridges: VLANs, and children of all of them."""
    bridges = list(_bridges(draw, []))
    vlans = list(_vlans(draw, [bridge.name for bridge in bridges]))
    children = list(_children(draw, namespaces, set(UPLINKS), [*bridges, *vlans], [*bridges]))
    yield from bridges
    yield from vlans
    yield from children
    yield from _sysctls(draw, namespaces, [*bridges, *children])


def _ruled(draw: st.DrawFn, namespaces: list[str]) -> Iterator[Resource]:
    """Bridges, and what the firewall says of them."""
    bridges = list(_bridges(draw, namespaces))
    yield from bridges
    yield from _table(draw, sorted(bridge.name for bridge in bridges if bridge.netns == HOST))


def _overlay(draw: st.DrawFn, namespaces: list[str]) -> Iterator[Resource]:
    owner = Owner(_mostly(draw, "n1", "n2"))
    switches = [SWITCHES[0], *_some(draw, SWITCHES[1:])]
    yield Namespace(HIDDEN)
    yield from (Bridge(HIDDEN, name, owner, mtu=_mostly(draw, None, 1400)) for name in switches)
    for name, vni in zip(_some(draw, TUNNELS), _mostly(draw, _VNIS, _VNIS[::-1], _VNIS[1:]), strict=False):
        master, port, local = draw(st.sampled_from(switches)), _mostly(draw, *_PORTS), _mostly(draw, None, *_REMOTES)
        learning = draw(st.integers(0, 3)) == 0
        yield Vxlan(HIDDEN, name, vni, master, owner, port, local, learning, mtu=_mostly(draw, None, 1400))
        yield from (Forwarding(HIDDEN, name, NOBODY, remote) for remote in _some(draw, _REMOTES[:2]))
        yield from (Forwarding(HIDDEN, name, mac, draw(st.sampled_from(_REMOTES))) for mac in _some(draw, _MACS))
        addresses = _some(draw, (_V4[0].ip, _V6[0].ip))
        yield from (Neighbour(HIDDEN, name, address, draw(st.sampled_from(_MACS))) for address in addresses)
    for number, name in enumerate(_some(draw, TOLD)):
        master, mac = draw(st.sampled_from(switches)), f"02:42:00:00:08:{number:02}"
        peer = (draw(st.sampled_from(namespaces or [HOST])), f"told{number}")
        end = Owner("n1", _mostly(draw, "e1", "e2"))
        yield Veth(HIDDEN, name, *peer, end, mac=mac, master=master, mtu=1400, ipv6=True, told=True)
        yield from (Forwarding(HIDDEN, name, one, master=master) for one in _some(draw, [mac]))


def _addresses(draw: st.DrawFn) -> list[Interface]:
    addresses: list[Interface] = list(draw(st.lists(st.sampled_from(_V4), unique=True, max_size=3)))
    addresses += draw(st.lists(st.sampled_from(_V6), unique_by=lambda interface: interface.ip, max_size=2))
    return addresses


def _routes(draw: st.DrawFn, netns: str, link: str, owner: Owner, addresses: list[Interface]) -> Iterator[Route]:
    for destination in draw(st.lists(st.sampled_from(_FAR), unique=True)):
        yield Route(netns, destination, link, owner, table=_mostly(draw, MAIN_TABLE, *_TABLES))
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


def _sysctls(draw: st.DrawFn, namespaces: list[str], links: list[Bridge | Child]) -> Iterator[Sysctl]:
    names = [(netns, "net.ipv4.ip_forward") for netns in (HOST, *namespaces)]
    names += [(netns, "net.ipv4.conf.all.promote_secondaries") for netns in (HOST, *namespaces)]
    names += [(link.netns, f"net.ipv4.conf.{link.name}.route_localnet") for link in links]
    for netns, name in draw(st.lists(st.sampled_from(names), unique=True, max_size=4)):
        yield Sysctl(netns, name, _mostly(draw, "1", "0"))


def _table(draw: st.DrawFn, bridges: list[str]) -> Iterator[Resource]:
    digest = draw(st.sampled_from(("v1", "v1", "v2", "")))
    if not digest:
        return
    yield Table(digest, draw(st.sampled_from(((), _NEEDED[:2], _NEEDED[1:]))))
    for uplink in _some(draw, UPLINKS[:2]):
        yield Element("closed4", (uplink,), permits=False)
    for bridge in bridges:
        yield Element("switched", (bridge,), permits=True)
        yield Element("enter4", (bridge,), permits=False, value=draw(st.sampled_from(("drop", "goto enter-nat"))))
        if draw(st.booleans()):
            yield Element("leave4", (bridge,), permits=False, value="drop")
        if draw(st.booleans()):
            yield Element("neighbours", (bridge, bridge), permits=True)
        if draw(st.booleans()):
            target = f"10.0.0.{draw(st.integers(2, 3))} . 80"
            yield Element("publish4", ("6", str(8000 + bridges.index(bridge))), permits=True, value=target)
        if draw(st.integers(0, 3)) == 0:
            source = f"10.0.0.{draw(st.integers(2, 3))}"
            yield Element("policed4", (bridge, source), permits=False, value="goto egress-own")
            yield Element("egress4", (bridge, f"{source}/32", "6", "80-90", "10.0.0.0-10.0.0.9"), permits=True)
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
    ours = sorted(kernel.observe(World(()).scope), key=lambda resource: resource.key)
    return [Act("reboot"), *(act for one in ours for act in _acts_on(one))]


def _acts_on(one: Resource) -> Iterator[Act]:
    match one:
        case Namespace(name=name):
            yield Act("delete_namespace", (name,))
        case Bridge() | Veth() | Vlan() | Child() | Ifb() | Vxlan():
            yield from _on_link(one)
        case Shaper() | Redirect():
            yield Act(f"delete_{type(one).__name__.lower()}", (one.link, one.netns))
        case Port(name=name):
            yield Act("nomaster", (name,))
        case Address():
            yield Act("delete_address", (one.link, one.interface, one.netns))
        case Route():
            yield Act("delete_route", (one.destination, one.netns, one.table))
        case Rule():
            yield Act("delete_rule", (one.source, one.netns))
        case Element():
            yield Act("delete_element", (one.set, one.match))
        case Table():
            yield Act("flush_ruleset")
            yield Act("edit_table")
        case Forwarding() | Neighbour():
            yield Act("delete_entry", (one.key,))
        case Sysctl() | Nickname():
            pass  # nothing hangs on it


def _on_link(one: _Link) -> Iterator[Act]:
    for _, netns, name in provided(one):
        yield Act("delete_link", (name, netns))
        yield Act("set_down", (name, netns))
        yield Act("set_mtu", (name, 1300, netns))
    if isinstance(one, Veth | Vxlan):
        yield Act("nomaster", (one.name, one.netns))
