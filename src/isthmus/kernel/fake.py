"""A kernel in memory: it refuses what Linux refuses, and removes what Linux removes.

It serves the laws, every test of the engine, and whoever wants to see what a change would do without a machine to do
it on. One suite of tests (`tests/contract/test_kernel.py`) holds it and the real kernel to the same behaviour; what it
knows of Linux was tried on 6.18:

* A link takes its addresses, routes and sysctls along; a pair of veths goes with either end, or with the namespace of
  either. The ports of a bridge that goes stay, without a master, and forget that they were isolated.
* An IPv4 address is the primary of its subnet or comes after one, and then goes with it unless `promote_secondaries` is
  set. With the last IPv4 address of a link all its IPv4 routes go; before that none does, whatever its gateway. IPv6
  has neither custom.
* In our namespaces a link is born without IPv6; only a pair of veths that shall have it gets it, at its second end, and
  a macvlan or ipvlan.
* A link that goes down loses its IPv6 addresses and all its routes, but none of its IPv4 addresses. A VLAN goes down
  and comes up with its parent; a macvlan or ipvlan stays up, with all its routes.
* What stands on a link goes with it, and has no greater MTU. A link is a port of a bridge, or the parent of macvlans,
  or of ipvlans; that of a macvlan in passthru mode is the parent of nothing else. A macvlan that is put on a macvlan
  comes to stand beside it.
* The ipvlans of one parent have one mode: that of the latest. They have no MAC but their parent's.
* A gateway must be covered by an address or a direct route of the same link, unless it is link-local.
* Two tunnels of one number and port exclude each other, in whatever namespaces they are. What a tunnel was told goes
  with it, its neighbours also when it goes down; what a bridge was told of a port goes when that leaves.
* What shapes or redirects the traffic of a link goes with it. A redirection whose target goes stays, without one.
* A rule goes with its namespace only; where the table that it leads to is empty, the next rule has its turn.

What it leaves out: packets, the time that things take, link-local addresses that the kernel gives out, metrics (a table
has one route to a destination), and that a macvlan in passthru mode gives its parent its MAC.

Its verbs beside `Kernel`'s are what other administrators do (`delete_link`, `set_down`, `flush_ruleset`, ...): nothing
there asks for a mark. `str()` prints all that it holds as the commands that would make it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from errno import (
    EACCES,
    EADDRINUSE,
    EADDRNOTAVAIL,
    EBUSY,
    EEXIST,
    EHOSTUNREACH,
    EINVAL,
    ELOOP,
    ENETDOWN,
    ENETUNREACH,
    ENODEV,
    ENOENT,
    EOPNOTSUPP,
    ERANGE,
    ESRCH,
    EXFULL,
)
from ipaddress import ip_interface
from types import UnionType

import msgspec
from msgspec.structs import replace

from isthmus import firewall
from isthmus.errors import Refused
from isthmus.kernel import ELSEWHERE, Count, Scope
from isthmus.model import ETHERNET_MTU, HOST, Host, HostLink, IPAddress, IPInterface, Place
from isthmus.naming import MAIN_TABLE, RULE_PRIORITY, Owner
from isthmus.plan import Change, Make, Operation, Plan, Remove, diff, fits, sysctl_link
from isthmus.ports import overlap
from isthmus.resources import (
    ORDER,
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
    announcing,
)

BRIDGE_PORTS = 1023
"""How many ports a bridge can have (`BR_MAX_PORTS`, of which 0 is none)."""

_NAME_BYTES = 15
_MTU = range(68, 65536)
_MTU_IPV6 = 1280
_VIDS = range(4095)
_CHILDREN = ("macvlan", "ipvlan")
_LOOPBACK = HostLink("lo", "", 65536, (ip_interface("127.0.0.1/8"), ip_interface("::1/128")), "00:00:00:00:00:00")
_PRINTED = (*ORDER, Table, Element)

_End = tuple[str, str]
"""Where a link is: its namespace and its name there."""


class _Link(msgspec.Struct, frozen=True):
    kind: str
    owner: Owner | None = None
    mtu: int = 1500
    mac: str = ""
    up: bool = True
    master: str | None = None
    isolated: bool = False
    ipv6: bool = True
    inet6: bool = True
    told: bool = False
    peer: _End | None = None
    parent: _End | None = None
    tunnel: Vxlan | None = None
    mode: str = ""
    flag: str = ""
    vid: int = 0
    wireless: bool = False


class _Route(msgspec.Struct, frozen=True):
    link: str
    via: IPAddress | None
    ours: bool


class _Element(msgspec.Struct, frozen=True):
    resource: Element
    packets: int = 0
    bytes: int = 0


class FakeKernel:
    """A kernel that holds *resources* of ours and, in the host's namespace, the links of *host*, which are not.

    The routes of *host* are those of its links' addresses; others come by `add_route`.
    """

    def __init__(self, resources: Iterable[Resource] = (), host: Host | None = None) -> None:
        self._frames_filtered = host.frames_filtered if host else None
        self._namespaces: set[str] = set()
        self._nicknames: dict[str, str] = {}
        self._links: dict[_End, _Link] = {}
        self._addresses: dict[tuple[str, str, IPInterface], bool] = {}
        self._routes: dict[tuple[str, IPNetwork, int], _Route] = {}
        self._rules: dict[tuple[str, IPAddress], int] = {}
        self._shapers: dict[_End, int] = {}
        self._redirects: dict[_End, str] = {}
        self._entries: dict[Key, Forwarding | Neighbour] = {}
        self._resting: dict[Key, float] = {}
        self._sysctls: dict[_End, str] = {}
        self._table: Table | None = None
        self._elements: dict[Key, _Element] = {}
        self._strangers: set[str] = set()
        self._forbidden: dict[Key, int] = {}
        self._held: set[Place] = set()
        self._listeners: dict[Place, str] = {}
        self._macs = 0
        for link in (_LOOPBACK, *(host.links if host else ())):
            self.add_link(link)
        self.apply(diff(resources, ()))

    def copy(self) -> "FakeKernel":
        """Another kernel that holds the same, for trying out what may come of it."""
        other = FakeKernel()
        other._namespaces = self._namespaces.copy()
        other._nicknames = self._nicknames.copy()
        other._frames_filtered = self._frames_filtered
        other._links = self._links.copy()
        other._addresses = self._addresses.copy()
        other._routes = self._routes.copy()
        other._rules = self._rules.copy()
        other._shapers = self._shapers.copy()
        other._redirects = self._redirects.copy()
        other._entries = self._entries.copy()
        other._resting = self._resting.copy()
        other._sysctls = self._sysctls.copy()
        other._table = self._table
        other._elements = self._elements.copy()
        other._strangers = self._strangers.copy()
        other._forbidden = self._forbidden.copy()
        other._held = self._held.copy()
        other._listeners = self._listeners.copy()
        other._macs = self._macs
        return other

    def __str__(self) -> str:
        ours = sorted(
            self.observe(
                Scope(
                    everything=True,
                    ports=frozenset(name for _, name in self._links),
                    ruled=frozenset(self._namespaces),
                    shaped=frozenset(self._links),
                )
            ),
            key=lambda resource: (_PRINTED.index(type(resource)), resource.key),
        )
        lines = [resource.make() for resource in ours]
        for (netns, name), link in self._links.items():
            if self._owner(link) is None and name != _LOOPBACK.name:
                lines.append(f"ip{_in(netns)} link add {name} mtu {link.mtu} type {link.kind}  # not ours")
        for (netns, name, interface), mine in self._addresses.items():
            if not mine and name != _LOOPBACK.name:
                lines.append(f"ip{_in(netns)} address add {interface} dev {name}  # not ours")
        for (netns, destination, _), route in self._routes.items():
            if not route.ours:
                via = f" via {route.via}" if route.via else ""
                lines.append(f"ip{_in(netns)} route add {destination}{via} dev {route.link}  # not ours")
        return "".join(f"{line}\n" for line in lines)

    # What the engine asks.

    def observe(self, scope: Scope) -> frozenset[Resource]:
        """All within *scope* that bears our mark, each field filled in; sysctls that are named there, as they are."""
        seen: set[Resource] = set()
        named = self._namespaces if scope.everything else self._namespaces & scope.namespaces
        seen.update(Namespace(name) for name in named)
        nicknames = self._nicknames if scope.everything else self._nicknames.keys() & scope.nicknames
        seen.update(Nickname(name, self._nicknames[name]) for name in nicknames)
        ends: dict[_End, Owner] = {}
        for end in self._links if scope.everything else scope.links:
            link = self._links.get(end)
            owner = self._owner(link) if link else None
            if link and owner:
                ends[end] = owner
                if link.peer:
                    ends[link.peer] = owner
                seen.add(self._seen(end if link.owner else link.peer or end, owner))
        seen.update(
            Address(netns, name, interface, ends[netns, name])
            for (netns, name, interface), ours in self._addresses.items()
            if ours and (netns, name) in ends
        )
        seen.update(
            Route(netns, destination, route.link, ends[netns, route.link], route.via, table)
            for (netns, destination, table), route in self._routes.items()
            if route.ours and (netns, route.link) in ends
        )
        seen.update(
            Rule(netns, source, table) for (netns, source), table in self._rules.items() if netns in scope.ruled
        )
        seen.update(one for end in scope.shaped for one in self._shaping(end))
        seen.update(entry for key in scope.told if (entry := self._entries.get(key)))
        if ends:
            seen.update(one for one in self._entries.values() if (one.netns, one.link) in ends)
        if not scope.everything:
            seen.update(one for end in scope.leaving if (one := self._alone(end)))
        seen.update(port for name in scope.ports if (port := self._port(name)))
        seen.update(
            Sysctl(netns, name, self._sysctls.get((netns, name), "0"))
            for netns, name in scope.sysctls
            if self._has_sysctl(netns, name)
        )
        if self._table is not None and (scope.firewall or scope.everything):
            seen.add(self._table)
            seen.update(element.resource for element in self._elements.values())
        else:
            seen.update(self._elements[key].resource for key in scope.elements if key in self._elements)
        return frozenset(seen)

    def apply(self, plan: Plan) -> None:
        """Do what *plan* says, in its order; raises `Refused`, or an ExceptionGroup of them from removals.

        Tightening is one transaction, and so is loosening: if one operation of it is refused, none is done.
        """
        self._transact(plan.tighten)
        refusals = []
        for operation in plan.remove:
            try:
                self._do(operation)
            except Refused as refusal:
                refusals.append(refusal)
        if refusals:
            raise ExceptionGroup("the kernel refused to remove things", refusals)
        for operation in plan.make:
            self._do(operation)
        self._transact(plan.loosen)

    def host(self) -> Host:
        """The links, addresses and routes of the host's namespace that bear no mark of ours, without default routes."""
        links = {
            name: HostLink(
                name,
                link.kind,
                link.mtu,
                tuple(interface for netns, on, interface in self._addresses if (netns, on) == (HOST, name)),
                link.mac,
                link.up,
                link.wireless,
            )
            for (netns, name), link in self._links.items()
            if netns == HOST and self._owner(link) is None
        }
        connected = (
            str(interface.network)
            for name, link in links.items()
            if name != _LOOPBACK.name and self._links[HOST, name].up
            for interface in link.addresses
        )
        routed = (
            str(destination)
            for (netns, destination, _), route in self._routes.items()
            if netns == HOST and not route.ours and route.link in links and destination.prefixlen
        )
        leaving = [
            min(self._links[HOST, route.link].mtu, max(_MTU))
            for (netns, destination, table), route in self._routes.items()
            if netns == HOST and not destination.prefixlen and table == MAIN_TABLE and not route.ours
        ]
        return Host(
            tuple(links.values()),
            tuple(dict.fromkeys((*connected, *routed))),
            self._frames_filtered,
            min(leaving, default=ETHERNET_MTU),
        )

    def hold(self, places: Iterable[Place]) -> Mapping[Place, str]:
        """Keep *places* from `bind`; answer with those that somebody has."""
        wanted = tuple(places)
        refused = {place: "address already in use" for place in wanted if self.holder(place)}
        self._held.update(place for place in wanted if place not in refused)
        return refused

    def release(self, places: Iterable[Place]) -> None:
        """Keep *places* no more."""
        self._held.difference_update(places)

    def holder(self, place: Place) -> str:
        """The process that `bind`s where *place* is."""
        return next((name for other, name in self._listeners.items() if _meet(place, other)), "")

    def send(self, netns: str, link: str, frames: Iterable[bytes]) -> None:
        """Nothing: here are no packets."""

    def idle(self, told: Iterable[Key], seconds: float) -> frozenset[Key]:
        """Those of the forwarding entries *told* to tunnels by which nothing was sent for so long; see `rest`."""
        there = {key for key in told if isinstance(one := self._entries.get(key), Forwarding) and one.remote}
        return frozenset(key for key in there if self._resting.get(key, 0.0) >= seconds)

    def forget(self, addresses: Iterable[IPAddress]) -> None:
        """Nothing: here are no connections."""

    def bind(self, place: Place, name: str = "a process") -> None:
        """Have a process called *name* listen at *place*; raises OSError if we keep that."""
        if any(_meet(place, other) for other in self._held):
            raise OSError(EADDRINUSE, os.strerror(EADDRINUSE))
        self._listeners[place] = name

    def counts(self) -> tuple[Count, ...]:
        """The counters of all elements of our table that have one."""
        return tuple(
            Count(one.resource.set, one.resource.match, one.packets, one.bytes)
            for one in self._elements.values()
            if "counter" in firewall.SETS[one.resource.set]
        )

    # What other administrators, and the world, do.

    def add_link(self, link: HostLink, netns: str = HOST) -> None:
        """Make a link that is not ours, with its addresses. Without a MAC of its own, it gets one."""
        operation = f"ip{_in(netns)} link add {link.name} type {link.kind}"
        self._free(operation, (netns, link.name))
        self._links[netns, link.name] = _Link(
            link.kind, mtu=link.mtu, mac=link.mac or self._mac(), up=link.up, wireless=link.wireless
        )
        for interface in link.addresses:
            self._addresses[netns, link.name, interface] = False

    def add_tunnel(self, name: str, vni: int, port: int) -> None:
        """Make a tunnel that is not ours."""
        self.add_link(HostLink(name, "vxlan", ETHERNET_MTU, up=False))
        tunnel = Vxlan(HOST, name, vni, "", Owner(""), port)
        self._links[HOST, name] = replace(self._links[HOST, name], tunnel=tunnel)

    def delete_link(self, name: str, netns: str = HOST) -> None:
        """Take a link away, whoever's it is, with all that hangs on it."""
        self._there(f"ip{_in(netns)} link delete {name}", netns, name)
        self._drop_link((netns, name))

    def add_namespace(self, name: str) -> None:
        """Make a namespace that is not ours, of which we know no more than that its name is taken."""
        self._strangers.add(name)

    def delete_namespace(self, name: str) -> None:
        """Take a namespace of ours away, with all that is in it."""
        if name not in self._namespaces:
            raise _refused(f"ip netns delete {name}", ENOENT)
        self._drop_namespace(name)

    def set_up(self, name: str, netns: str = HOST) -> None:
        """Set a link up."""
        self._set(f"ip{_in(netns)} link set {name} up", (netns, name), up=True)

    def set_down(self, name: str, netns: str = HOST) -> None:
        """Set a link down: its IPv6 addresses and all its routes go."""
        self._set(f"ip{_in(netns)} link set {name} down", (netns, name), up=False)

    def set_mtu(self, name: str, mtu: int, netns: str = HOST) -> None:
        """Give a link another MTU."""
        self._set(f"ip{_in(netns)} link set {name} mtu {mtu}", (netns, name), mtu=mtu)

    def set_master(self, name: str, master: str, netns: str = HOST) -> None:
        """Put a link on a bridge."""
        self._enslave(f"ip{_in(netns)} link set {name} master {master}", (netns, name), master)

    def nomaster(self, name: str, netns: str = HOST) -> None:
        """Take a link off its bridge."""
        self._there(f"ip{_in(netns)} link set {name} nomaster", netns, name)
        self._leave_bridge((netns, name))

    def add_address(self, name: str, interface: IPInterface, netns: str = HOST) -> None:
        """Give a link an address that is not ours."""
        self._there(f"ip{_in(netns)} address add {interface} dev {name}", netns, name)
        self._addresses.setdefault((netns, name, interface), False)

    def delete_address(self, name: str, interface: IPInterface, netns: str = HOST) -> None:
        """Take an address from a link, with those of its subnet that came after it."""
        if (netns, name, interface) not in self._addresses:
            raise _refused(f"ip{_in(netns)} address delete {interface} dev {name}", EADDRNOTAVAIL)
        self._drop_address((netns, name, interface))

    def add_route(self, destination: IPNetwork, name: str, via: IPAddress | None = None, netns: str = HOST) -> None:
        """Make a route that is not ours."""
        operation = f"ip{_in(netns)} route add {destination} dev {name}"
        self._reach(operation, Route(netns, destination, name, Owner(""), via))
        self._routes[netns, destination, MAIN_TABLE] = _Route(name, via, ours=False)

    def delete_route(self, destination: IPNetwork, netns: str = HOST, table: int = MAIN_TABLE) -> None:
        """Take a route away."""
        if self._routes.pop((netns, destination, table), None) is None:
            raise _refused(f"ip{_in(netns)} route delete {destination} table {table}", ESRCH)

    def delete_shaper(self, name: str, netns: str = HOST) -> None:
        """Take the root qdisc from a link."""
        if self._shapers.pop((netns, name), None) is None:
            raise _refused(f"tc{_in(netns)} qdisc delete dev {name} root", ENOENT)

    def delete_redirect(self, name: str, netns: str = HOST) -> None:
        """Take all filters from what comes in by a link."""
        if self._redirects.pop((netns, name), None) is None:
            raise _refused(f"tc{_in(netns)} filter delete dev {name} ingress", ENOENT)

    def rest(self, key: Key, seconds: float) -> None:
        """Have nothing been sent by an entry for so long."""
        self._resting[key] = seconds

    def delete_entry(self, key: Key) -> None:
        """Take a forwarding entry or a neighbour away."""
        if self._entries.pop(key, None) is None:
            raise _refused(f"bridge fdb delete {key}", ENOENT)

    def set_rate(self, name: str, rate: int, netns: str = HOST) -> None:
        """Let another *rate* go out by a link."""
        self._shape(f"tc{_in(netns)} qdisc replace dev {name} root tbf", Shaper(netns, name, rate))

    def delete_rule(self, source: IPAddress, netns: str = HOST) -> None:
        """Take a rule away."""
        if self._rules.pop((netns, source), None) is None:
            raise _refused(f"ip{_in(netns)} rule delete priority {RULE_PRIORITY} from {source}", ENOENT)

    def write_sysctl(self, name: str, value: str, netns: str = HOST) -> None:
        """Set a sysctl to another value."""
        self._write(f"sysctl -w {name}={value}", netns, name, value)

    def flush_ruleset(self) -> None:
        """Take all of nftables away: our table with its elements."""
        self._table = None
        self._elements.clear()

    def edit_table(self) -> None:
        """Take a rule out of our table, so that it is no longer what its digest says."""
        if self._table is None:
            raise _refused("nft delete rule inet isthmus", ENOENT)
        self._table = Table("edited")

    def delete_element(self, name: str, match: tuple[str, ...]) -> None:
        """Take one element out of a set of ours."""
        if self._elements.pop(("element", name, *match), None) is None:
            raise _refused(f"nft delete element inet isthmus {name}", ENOENT)

    def count(self, name: str, match: tuple[str, ...], packets: int, octets: int) -> None:
        """Let packets match an element that counts them."""
        key = ("element", name, *match)
        was = self._elements[key]
        self._elements[key] = replace(was, packets=was.packets + packets, bytes=was.bytes + octets)

    def forbid(self, key: Key, errno: int) -> None:
        """Refuse every operation on what has this *key* with *errno*, as a security module would, until `permit`."""
        self._forbidden[key] = errno

    def permit(self) -> None:
        """Forbid nothing any more."""
        self._forbidden.clear()

    def reboot(self) -> None:
        """Start anew: all that is ours is gone, and the host's own links are there as before."""
        for name in tuple(self._namespaces):
            self._drop_namespace(name)
        for end in [end for end, link in self._links.items() if link.owner]:
            if end in self._links:
                self._drop_link(end)
        self._routes = {key: route for key, route in self._routes.items() if not route.ours}
        self._sysctls.clear()
        self._nicknames.clear()
        self.flush_ruleset()

    # One operation.

    def _transact(self, operations: Iterable[Operation]) -> None:
        table, elements = self._table, self._elements.copy()
        try:
            for operation in operations:
                self._do(operation)
        except Refused:
            self._table, self._elements = table, elements
            raise

    def _do(self, operation: Operation) -> None:
        resource = operation.resource
        if resource.key in self._forbidden:
            raise _refused(operation, self._forbidden[resource.key])
        match operation:
            case Remove():
                self._remove(resource)
            case Make() | Change():
                self._bring(operation, resource)

    def _remove(self, resource: Resource) -> None:  # noqa: C901, PLR0912 - a case for each kind
        match resource:
            case Namespace():
                self._drop_namespace(resource.name)
            case Nickname():
                self._nicknames.pop(resource.name, None)
            case Bridge() | Vlan() | Veth() | Child() | Ifb() | Vxlan():
                link = self._links.get((resource.netns, resource.name))
                if link and link.owner == resource.owner:
                    self._drop_link((resource.netns, resource.name))
            case Port():
                end = (resource.netns, resource.name)
                link = self._links.get(end)
                if link and link.master == resource.master:
                    self._leave_bridge(end)
            case Address():
                self._drop_address((resource.netns, resource.link, resource.interface))
            case Route():
                at = (resource.netns, resource.destination, resource.table)
                found = self._routes.get(at)
                if found and found.ours and found.link == resource.link:
                    del self._routes[at]
            case Shaper():
                self._shapers.pop((resource.netns, resource.link), None)
            case Redirect():
                self._redirects.pop((resource.netns, resource.link), None)
            case Forwarding():
                if self._entries.get(resource.key) == resource:
                    del self._entries[resource.key]
            case Neighbour():
                self._entries.pop(resource.key, None)
            case Rule():
                if self._rules.get((resource.netns, resource.source)) == resource.table:
                    del self._rules[resource.netns, resource.source]
            case Sysctl():
                pass
            case Table():
                self.flush_ruleset()
            case Element():
                self._elements.pop(resource.key, None)

    def _bring(self, operation: Operation, resource: Resource) -> None:  # noqa: C901, PLR0912 - a case for each kind
        match resource:
            case Namespace():
                self._bring_namespace(operation, resource)
            case Nickname(name, netns):
                if name in self._namespaces or name in self._strangers:
                    raise _refused(operation, EEXIST)
                self._nicknames[name] = netns
            case Bridge():
                self._bring_bridge(operation, resource)
            case Veth():
                self._bring_veth(operation, resource)
            case Vlan() | Child():
                self._bring_standing(operation, resource)
            case Port():
                end = (resource.netns, resource.name)
                self._there(operation, *end)
                self._enslave(operation, end, resource.master)
                self._set(operation, end, up=True)
            case Ifb():
                self._bring_ifb(operation, resource)
            case Vxlan():
                self._bring_vxlan(operation, resource)
            case Forwarding() | Neighbour():
                self._bring_entry(operation, resource)
            case Shaper():
                self._shape(operation, resource)
            case Redirect():
                self._there(operation, resource.netns, resource.link)
                self._there(operation, resource.netns, resource.target)
                self._redirects[resource.netns, resource.link] = resource.target
            case Address():
                self._bring_address(operation, resource)
            case Route():
                self._bring_route(operation, resource)
            case Rule():
                if resource.netns != HOST and resource.netns not in self._namespaces:
                    raise _refused(operation, ENOENT)
                self._rules[resource.netns, resource.source] = resource.table
            case Sysctl():
                self._write(operation, resource.netns, resource.name, resource.value)
            case Table() | Element():
                self._bring_rules(operation, resource)

    def _bring_namespace(self, operation: Operation, new: Namespace) -> None:
        if new.name in {"", ".", ".."} or "/" in new.name:
            raise _refused(operation, EINVAL)
        if new.name in self._strangers:
            raise _refused(operation, EEXIST)
        self._namespaces.add(new.name)

    def _bring_bridge(self, operation: Operation, new: Bridge) -> None:
        end = (new.netns, new.name)
        link = self._links.get(end)
        if link is None:
            self._make_here(operation, end)
            self._check(operation, mtu=new.mtu)
            self._links[end] = _Link("bridge", new.owner, mac=self._mac(), inet6=end[0] == HOST)
        elif link.owner != new.owner or link.kind != "bridge":
            raise _refused(operation, EEXIST)
        self._set(operation, end, mtu=new.mtu, ipv6=new.ipv6, up=new.up)

    def _bring_veth(self, operation: Operation, new: Veth) -> None:
        end, peer = (new.netns, new.name), (new.peer_netns, new.peer)
        link = self._links.get(end)
        if link and link.owner and link.kind == "veth" and (link.owner, link.peer) != (new.owner, peer):
            self._drop_link(end)  # a wrong one of ours
            link = None
        if link is None:
            self._make_here(operation, end)
            self._make_here(operation, peer)
            if end == peer:
                raise _refused(operation, EEXIST)
            self._check(operation, mtu=new.mtu, mac=new.mac)
            if new.master:
                self._check_master(operation, end, new.master)
            self._links[end] = _Link("veth", new.owner, mac=self._mac(), peer=peer, inet6=end[0] == HOST)
            self._links[peer] = _Link("veth", mac=self._mac(), peer=end, inet6=peer[0] == HOST)
        elif link.owner != new.owner or link.peer != peer:
            raise _refused(operation, EEXIST)
        self._check(operation, mtu=new.mtu, mac=new.mac)
        if new.master:
            self._enslave(operation, end, new.master)
        port = bool(self._links[end].master)
        isolated, told = (new.isolated, new.told) if port else (None, None)
        self._set(operation, end, mtu=new.mtu, ipv6=new.ipv6, up=new.up, isolated=isolated, told=told)
        self._announce(peer, new.announce)
        self._set(operation, peer, mtu=new.mtu, ipv6=new.ipv6, up=new.peer_up, mac=new.mac)
        if new.ipv6:
            self._links[peer] = replace(self._links[peer], inet6=True)

    def _bring_ifb(self, operation: Operation, new: Ifb) -> None:
        end = (new.netns, new.name)
        link = self._links.get(end)
        if link and (not link.owner or link.kind != "ifb"):
            raise _refused(operation, EEXIST)
        if link and link.owner != new.owner:
            self._drop_link(end)  # a wrong one of ours
            link = None
        if link is None:
            self._make_here(operation, end)
            self._links[end] = _Link("ifb", new.owner, mac=self._mac(), up=False, inet6=end[0] == HOST)
        self._set(operation, end, up=new.up)

    def _bring_vxlan(self, operation: Operation, new: Vxlan) -> None:
        end = (new.netns, new.name)
        link = self._links.get(end)
        if link and (not link.owner or not link.tunnel):
            raise _refused(operation, EEXIST)
        if link and link.owner and not fits(new, self._seen(end, link.owner)):
            self._drop_link(end)  # a wrong one of ours
            link = None
        if link is None:
            self._make_here(operation, end)
            if new.under not in {HOST, *self._namespaces}:
                raise _refused(operation, ENOENT)
            self._check(operation, mtu=new.mtu)
            self._check_master(operation, end, new.master)
            for at, other in list(self._links.items()):
                if other.tunnel and (other.tunnel.vni, other.tunnel.port) == (new.vni, new.port):
                    if not other.owner:
                        raise _refused(operation, EEXIST)
                    self._drop_link(at)  # left behind by us
            self._links[end] = _Link("vxlan", new.owner, mac=self._mac(), up=False, inet6=end[0] == HOST, tunnel=new)
        self._enslave(operation, end, new.master)
        self._set(operation, end, mtu=new.mtu, up=new.up)

    def _bring_entry(self, operation: Operation, new: Forwarding | Neighbour) -> None:
        link = self._there(operation, new.netns, new.link)
        if isinstance(new, Forwarding) and (bool(new.remote) != bool(link.tunnel) or not (link.tunnel or link.master)):
            raise _refused(operation, EINVAL if new.remote else EOPNOTSUPP)
        if isinstance(new, Forwarding) and not new.remote:
            new = replace(new, master=link.master)
            # A bridge has each MAC at one port.
            for key, one in list(self._entries.items()):
                if isinstance(one, Forwarding) and (one.netns, one.master, one.mac) == (new.netns, new.master, new.mac):
                    del self._entries[key]
        if new.key not in self._entries:
            self._resting.pop(new.key, None)
        self._entries[new.key] = new

    def _shape(self, operation: object, new: Shaper) -> None:
        self._there(operation, new.netns, new.link)
        self._shapers[new.netns, new.link] = new.rate

    def _bring_standing(self, operation: Operation, new: Vlan | Child) -> None:
        end = (new.netns, new.name)
        link = self._links.get(end)
        if link and (not link.owner or not link.parent):
            raise _refused(operation, EEXIST)
        if link and link.owner and not fits(new, self._seen(end, link.owner)):
            self._drop_link(end)  # a wrong one of ours
            link = None
        if link is None:
            self._links[end] = self._born(operation, end, new)
        if isinstance(new, Vlan):
            self._set(operation, end, up=new.up)
            return
        self._announce(end, new.announce)
        self._set(operation, end, mtu=new.mtu, ipv6=new.ipv6, up=new.up, mac=new.mac if link else None)
        if new.ipv6:
            self._links[end] = replace(self._links[end], inet6=True)

    def _born(self, operation: Operation, end: _End, new: Vlan | Child) -> _Link:
        """What stands on another link, down; a macvlan or ipvlan on another stands on the parent of that."""
        self._make_here(operation, end)
        ground = (new.netns if isinstance(new, Vlan) else HOST, new.parent)
        parent = self._there(operation, *ground)
        inner = end[0] != HOST
        if isinstance(new, Vlan):
            self._check_vlan(operation, ground, new.vid)
            return _Link(
                "vlan", new.owner, parent.mtu, parent.mac, up=False, inet6=not inner, parent=ground, vid=new.vid
            )
        while parent.kind == new.kind and parent.parent:
            ground = parent.parent
            parent = self._links[ground]
        self._check(operation, mtu=new.mtu, mac=new.mac)
        self._check_child(operation, ground, new)
        lent = new.kind == "ipvlan" or (new.mode == "passthru" and not new.mac)
        return _Link(
            new.kind,
            new.owner,
            new.mtu or parent.mtu,
            parent.mac if lent else new.mac or self._mac(),
            up=False,
            inet6=not inner,
            parent=ground,
            mode=new.mode,
            flag=new.flag,
        )

    def _check_vlan(self, operation: object, ground: _End, vid: int) -> None:
        if ground[1] == _LOOPBACK.name:
            raise _refused(operation, EOPNOTSUPP)
        if vid not in _VIDS:
            raise _refused(operation, ERANGE)
        if any(link.kind == "vlan" and link.vid == vid for _, link in self._on(ground)):
            raise _refused(operation, EEXIST)

    def _check_child(self, operation: object, ground: _End, new: Child) -> None:
        parent = self._links[ground]
        beside = [link for _, link in self._on(ground) if link.kind in _CHILDREN]
        if ground[1] == _LOOPBACK.name or (new.kind == "macvlan" and (new.mtu or 0) > parent.mtu):
            raise _refused(operation, EINVAL)
        if parent.master or any(link.kind != new.kind for link in beside):
            raise _refused(operation, EBUSY)
        if new.kind == "macvlan" and beside and "passthru" in {new.mode, *(link.mode for link in beside)}:
            raise _refused(operation, EINVAL)
        if new.kind == "ipvlan":
            for end, link in list(self._on(ground)):
                if link.kind == "ipvlan":
                    self._links[end] = replace(link, mode=new.mode, flag=new.flag)

    def _on(self, ground: _End) -> Iterator[tuple[_End, _Link]]:
        """What stands on a link."""
        return ((end, link) for end, link in self._links.items() if link.parent == ground)

    def _bring_address(self, operation: Operation, new: Address) -> None:
        link = self._there(operation, new.netns, new.link)
        key = (new.netns, new.link, new.interface)
        ip = new.interface.ip
        if ip.version == 6 and key not in self._addresses:
            if not link.inet6:
                raise _refused(operation, EACCES)
            if link.mtu < _MTU_IPV6:
                raise _refused(operation, EINVAL)
            if ip.is_multicast or ip.is_unspecified:
                raise _refused(operation, EADDRNOTAVAIL)
            # The same address with another prefix is the same address, and keeps the prefix that it has.
            key = next((at for at in self._addresses if at[:2] == key[:2] and at[2].ip == ip), key)
        self._addresses[key] = True

    def _bring_route(self, operation: Operation, new: Route) -> None:
        self._reach(operation, new)
        at = (new.netns, new.destination, new.table)
        found = self._routes.get(at)
        if found and not found.ours and new.netns == HOST and isinstance(operation, Make):
            raise _refused(operation, EEXIST)
        self._routes[at] = _Route(new.link, new.via, ours=True)

    def _bring_rules(self, operation: Operation, new: Table | Element) -> None:
        if isinstance(new, Table):
            if not isinstance(operation, Change):
                self._elements.clear()
            elif not (isinstance(operation.was, Table) and operation.was.digest == new.digest):
                raise _refused(operation, EINVAL)  # what is fixed in it cannot be changed
            self._table = new
            return
        if self._table is None or new.set not in firewall.SETS:
            raise _refused(operation, ENOENT)
        key_type, colon, _ = firewall.SETS[new.set].partition(";")[0].removeprefix("type ").partition(":")
        if len(key_type.split(" . ")) != len(new.match) or bool(colon) != bool(new.value):
            raise _refused(operation, EINVAL)
        was = self._elements.get(new.key)
        if was is None or was.resource != new:
            self._elements[new.key] = _Element(new)

    # What Linux checks.

    def _make_here(self, operation: Operation, end: _End) -> None:
        netns, _ = end
        if netns != HOST and netns not in self._namespaces:
            raise _refused(operation, ENOENT)
        self._free(operation, end)

    def _free(self, operation: object, end: _End) -> None:
        netns, name = end
        if len(name.encode()) > _NAME_BYTES:
            raise _refused(operation, ERANGE)
        if name in {"", ".", ".."} or any(letter in "/:" or letter.isspace() for letter in name):
            raise _refused(operation, EINVAL)
        if end in self._links or (netns != HOST and name == _LOOPBACK.name):
            raise _refused(operation, EEXIST)

    @staticmethod
    def _check(operation: object, *, mtu: int | None = None, mac: str | None = None) -> None:
        if mtu is not None and mtu not in _MTU:
            raise _refused(operation, EINVAL)
        if mac is not None and (int(mac[:2], 16) & 1 or not int(mac.replace(":", ""), 16)):
            raise _refused(operation, EADDRNOTAVAIL)

    def _there(self, operation: object, netns: str, name: str) -> _Link:
        link = self._links.get((netns, name))
        if link is None:
            raise _refused(operation, ENODEV if netns == HOST or netns in self._namespaces else ENOENT)
        return link

    def _check_master(self, operation: object, end: _End, master: str) -> None:
        bridge = self._there(operation, end[0], master)
        if bridge.kind != "bridge":
            raise _refused(operation, EOPNOTSUPP)
        ports = sum(link.master == master and netns == end[0] for (netns, _), link in self._links.items())
        if ports >= BRIDGE_PORTS:
            raise _refused(operation, EXFULL)

    def _enslave(self, operation: object, end: _End, master: str) -> None:
        link = self._there(operation, *end)
        if link.master == master:
            return
        self._check_master(operation, end, master)
        if end[1] == _LOOPBACK.name:
            raise _refused(operation, EINVAL)
        if any(one.kind in _CHILDREN for _, one in self._on(end)):
            raise _refused(operation, EBUSY)
        if link.kind == "bridge":
            raise _refused(operation, ELOOP)
        if link.master:
            self._leave_bridge(end)
        self._links[end] = replace(self._links[end], master=master)

    def _reach(self, operation: object, new: Route) -> None:
        netns, name, via, version = new.netns, new.link, new.via, new.destination.version
        link = self._there(operation, netns, name)
        if version == 6 and not link.inet6:
            raise _refused(operation, EACCES)
        if not link.up and (via is None or version == 6):
            raise _refused(operation, ENETDOWN)
        if via is None or (via.version == 6 and via.is_link_local):
            return
        own = [interface for space, on, interface in self._addresses if (space, on) == (netns, name)]
        if version == 6 and any(interface.ip == via for interface in own):
            raise _refused(operation, EINVAL)
        direct = (
            destination
            for (space, destination, table), route in self._routes.items()
            if (space, route.link, route.via) == (netns, name, None) and table in {new.table, MAIN_TABLE}
        )
        if not link.up or not any(via in network for network in (*(interface.network for interface in own), *direct)):
            raise _refused(operation, EHOSTUNREACH if version == 6 else ENETUNREACH)

    def _has_sysctl(self, netns: str, name: str) -> bool:
        if not name.startswith("net.") or (netns != HOST and netns not in self._namespaces):
            return False
        link = sysctl_link(name)
        return link is None or (netns, link) in self._links

    def _write(self, operation: object, netns: str, name: str, value: str) -> None:
        if not self._has_sysctl(netns, name):
            raise _refused(operation, ENOENT)
        self._sysctls[netns, name] = value

    def _announce(self, end: _End, announce: bool | None) -> None:  # noqa: FBT001 - a value, not a mode
        if announce is not None:
            self._sysctls[end[0], announcing(end[1])] = str(int(announce))

    def _announces(self, end: _End) -> bool:
        return self._sysctls.get((end[0], announcing(end[1])), "0") != "0"

    # What Linux does besides.

    def _set(
        self,
        operation: object,
        end: _End,
        *,
        mtu: int | None = None,
        mac: str | None = None,
        up: bool | None = None,
        ipv6: bool | None = None,
        isolated: bool | None = None,
        told: bool | None = None,
        master: str | None = "",
    ) -> None:
        link = self._there(operation, *end)
        self._check(operation, mtu=mtu, mac=mac)
        if link.parent:
            self._check_standing(operation, end, mtu=mtu, mac=mac, up=up)
        self._links[end] = replace(
            link,
            mtu=link.mtu if mtu is None else mtu,
            mac=mac or link.mac,
            up=link.up if up is None else up,
            ipv6=link.ipv6 if ipv6 is None else ipv6,
            isolated=link.isolated if isolated is None else isolated,
            told=link.told if told is None else told,
            master=link.master if master == "" else master,
        )
        if up is False:
            for key in [key for key in self._addresses if key[:2] == end and key[2].version == 6]:
                del self._addresses[key]
            self._drop_routes(end, versions=(4, 6))
            self._forget_told(end, Neighbour)
        for other, standing in list(self._on(end)):
            if up is not None and up != link.up and standing.kind == "vlan":
                self._set(operation, other, up=up)
            if mtu is not None and (mtu < standing.mtu or standing.kind == "ipvlan"):
                self._set(operation, other, mtu=mtu)

    def _check_standing(
        self, operation: object, end: _End, *, mtu: int | None, mac: str | None, up: bool | None
    ) -> None:
        """Refuse what the parent of a link does not bear."""
        link = self._links[end]
        if link.parent is None:
            return
        parent = self._links[link.parent]
        if mtu is not None and mtu > parent.mtu and link.kind != "ipvlan":
            raise _refused(operation, EINVAL)
        if mac is not None and mac != link.mac and link.kind == "ipvlan":
            raise _refused(operation, EOPNOTSUPP)
        rising = up and not link.up
        if link.kind == "vlan" and rising and not parent.up:
            raise _refused(operation, ENETDOWN)
        if link.kind == "macvlan" and link.mode != "passthru" and (rising or (link.up and mac and mac != link.mac)):
            beside = [
                one.mac for other, one in self._on(link.parent) if other != end and one.up and one.kind == link.kind
            ]
            if (mac or link.mac) in {parent.mac, *beside}:
                raise _refused(operation, EADDRINUSE)

    def _drop_namespace(self, name: str) -> None:
        self._namespaces.discard(name)
        tunnels = [end for end, link in self._links.items() if link.tunnel and link.tunnel.under == name]
        for end in [*(end for end in self._links if end[0] == name), *tunnels]:
            if end in self._links:
                self._drop_link(end)
        self._sysctls = {key: value for key, value in self._sysctls.items() if key[0] != name}
        self._rules = {key: table for key, table in self._rules.items() if key[0] != name}

    def _drop_link(self, end: _End) -> None:
        link = self._links.pop(end)
        for key in [key for key in self._addresses if key[:2] == end]:
            del self._addresses[key]
        self._drop_routes(end, versions=(4, 6))
        netns, name = end
        self._shapers.pop(end, None)
        self._redirects.pop(end, None)
        self._forget_told(end, Forwarding | Neighbour)
        for source, target in self._redirects.items():
            if (source[0], target) == end:
                self._redirects[source] = ELSEWHERE
        for setting in [one for one in self._sysctls if one[0] == netns and sysctl_link(one[1]) == name]:
            del self._sysctls[setting]
        if link.kind == "bridge":
            for at, port in self._links.items():
                if at[0] == netns and port.master == name:
                    self._leave_bridge(at)
        for other in [other for other, _ in self._on(end)]:
            self._drop_link(other)
        if link.peer in self._links:
            self._drop_link(link.peer)

    def _leave_bridge(self, end: _End) -> None:
        """Have a link be a port no more: with the bridge it loses what made it one, and what that was told of it."""
        link = self._links[end]
        self._links[end] = replace(link, master=None, isolated=False, told=False)
        if not link.tunnel:
            self._forget_told(end, Forwarding)

    def _forget_told(self, end: _End, kind: type[Forwarding | Neighbour] | UnionType) -> None:
        self._entries = {
            key: one
            for key, one in self._entries.items()
            if not (isinstance(one, kind) and (one.netns, one.link) == end)
        }

    def _drop_address(self, key: tuple[str, str, IPInterface]) -> None:
        if key not in self._addresses:
            return
        netns, name, interface = key
        if interface.version == 4:
            on_link = [at for at in self._addresses if at[:2] == key[:2] and at[2].version == 4]
            subnet = [at for at in on_link if at[2].network == interface.network]
            leaving = subnet if subnet[0] == key and not self._promotes(netns, name) else [key]
            for at in leaving:
                del self._addresses[at]
            if len(leaving) == len(on_link):
                self._drop_routes((netns, name), versions=(4,))
        else:
            del self._addresses[key]

    def _promotes(self, netns: str, name: str) -> bool:
        return any(
            self._sysctls.get((netns, f"net.ipv4.conf.{where}.promote_secondaries"), "0") != "0"
            for where in ("all", name.replace(".", "/"))
        )

    def _drop_routes(self, end: _End, *, versions: Iterable[int]) -> None:
        netns, name = end
        gone = [
            key
            for key, route in self._routes.items()
            if (key[0], route.link) == (netns, name) and key[1].version in versions
        ]
        for key in gone:
            del self._routes[key]

    # What is seen.

    def _seen(self, end: _End, owner: Owner) -> Resource:
        netns, name = end
        link = self._links[end]
        if link.tunnel:
            return replace(link.tunnel, master=link.master or "", owner=owner, mtu=link.mtu, up=link.up)
        if link.parent and link.kind == "vlan":
            return Vlan(netns, name, link.parent[1], link.vid, owner, link.up)
        if link.kind == "ifb":
            return Ifb(netns, name, owner, link.up)
        if link.parent:
            return Child(
                netns,
                name,
                link.parent[1],
                link.kind,
                link.mode,
                owner,
                link.flag,
                link.mac,
                link.mtu,
                link.ipv6,
                self._announces(end),
                link.up,
            )
        if link.peer is None:
            return Bridge(netns, name, owner, link.mtu, link.ipv6, link.up)
        peer = self._links[link.peer]
        return Veth(
            netns,
            name,
            *link.peer,
            owner,
            mac=peer.mac,
            master=link.master,
            mtu=link.mtu if link.mtu == peer.mtu else None,
            isolated=link.isolated,
            ipv6=link.ipv6 if link.ipv6 == peer.ipv6 else None,
            announce=self._announces(link.peer),
            told=link.told,
            up=link.up,
            peer_up=peer.up,
        )

    def _alone(self, end: _End) -> Resource | None:
        link = self._links.get(end)
        if link is None or link.owner is None:
            return None
        seen = self._seen(end, link.owner)
        return Veth(*end, ELSEWHERE, "", link.owner, up=link.up, peer_up=False) if isinstance(seen, Veth) else seen

    def _shaping(self, end: _End) -> Iterator[Shaper | Redirect]:
        link = self._links.get(end)
        if link and self._owner(link):
            if end in self._shapers:
                yield Shaper(*end, self._shapers[end])
            if end in self._redirects:
                yield Redirect(*end, self._redirects[end])

    def _port(self, name: str) -> Port | None:
        link = self._links.get((HOST, name))
        if link is None or link.master is None or not link.up or self._owner(link):
            return None
        owner = self._links[HOST, link.master].owner
        return Port(HOST, name, link.master, owner) if owner else None

    def _owner(self, link: _Link) -> Owner | None:
        return link.owner or (self._links[link.peer].owner if link.peer else None)

    def _mac(self) -> str:
        self._macs += 1
        return f"02:{self._macs.to_bytes(5, 'big').hex(':')}"


def _in(netns: str) -> str:
    return f" -n {netns}" if netns else ""


def _refused(operation: object, errno: int) -> Refused:
    return Refused(operation, errno, os.strerror(errno))


def _meet(one: Place, other: Place) -> bool:
    """Whether two sockets at these places would be in each other's way."""
    return (one.protocol, one.port) == (other.protocol, other.port) and overlap(one.address, other.address)
