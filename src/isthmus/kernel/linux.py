"""The kernel of this machine: looked at and changed through netlink, by one thread at a time.

What people wait for is a container being attached, so that is made to cost what the kernel takes and little more. A
link's index is chosen here and not asked for, so that all messages about a new pair of veths can be written before the
first is sent: one send makes the host's end, one sets up the other from within.

What people also wait for is a container being detached, and to delete a link takes the kernel 25 milliseconds; but to
delete a hundred at once takes little more. So a link that shall go is *retired*: taken down, its mark and its place in
`observe` gone, its name free, and put into a group. `reap` deletes the group, when there is time for it.

A link of ours bears its owner's mark as its alias, and so does the other end of a pair, after the word `PEER`. What
stands on another link (a macvlan, a VLAN) is made in the namespace of that one, but can be given its mark only in its
own: so that nothing without a mark is left if we die in between, it is born retired. Linux's answers become meanings
here, once: what is there already, or gone already, is success; all else is `Refused`.
"""

import hashlib
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from errno import (
    EADDRINUSE,
    EADDRNOTAVAIL,
    EBUSY,
    EEXIST,
    EINVAL,
    ENETDOWN,
    ENODEV,
    ENOENT,
    EOPNOTSUPP,
    ESRCH,
    EXFULL,
)
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from isthmus import naming, rates
from isthmus.errors import Refused
from isthmus.kernel import ELSEWHERE, Count, Scope, namespaces, netlink, tc
from isthmus.kernel.flows import Flows
from isthmus.kernel.holds import Holds, holder
from isthmus.kernel.netlink import (
    AF_BRIDGE,
    IFF_LOOPBACK,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NTF_SELF,
    NUD_NOARP,
    NUD_PERMANENT,
    AddressMessage,
    AddrGenMode,
    IpvlanFlag,
    IpvlanMode,
    LinkMessage,
    MacvlanMode,
    NeighbourMessage,
    NetlinkError,
    RouteMessage,
    VxlanMessage,
    address,
    deladdr,
    delfdb,
    dellink,
    dellink_group,
    delneigh,
    delroute,
    delrule,
    dumpaddrs,
    dumpfdb,
    dumplinks,
    dumpneighs,
    dumproutes,
    dumprules,
    getfdb,
    getneigh,
    getnsid,
    link,
    neighbour,
    newaddr,
    newfdb,
    newlink,
    newneigh,
    newroute,
    newrule,
    nsid,
    route,
    rule,
    setlink,
    veth,
)
from isthmus.kernel.nft import Firewall
from isthmus.kernel.spaces import Space, Spaces
from isthmus.model import ETHERNET_MTU, HOST, Host, HostLink, IPAddress, IPInterface, Place
from isthmus.naming import ENCRYPTED, MAIN_TABLE, PROTOCOL, Owner
from isthmus.plan import Change, Operation, Plan, fits
from isthmus.resources import (
    NOBODY,
    Address,
    Bridge,
    Child,
    Element,
    Forwarding,
    Ifb,
    Key,
    Link,
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
)

PEER = "peer of "
"""What stands before the mark in the alias of the second end of a pair."""

DYING = 105_105
"""The group of links (`IFLA_GROUP`) that wait to be deleted. They bear no mark."""

_MANY = 64
"""From how many entries on that a link was told, all are read rather than one after the other."""

_REPLACE = (NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE).to_bytes(2, sys.byteorder)
_GONE = frozenset({ENODEV, ENOENT, ESRCH, EADDRNOTAVAIL})
_CHILDREN = frozenset({"macvlan", "ipvlan"})
_LEFT_BEHIND = _CHILDREN | {"vxlan"}
_MODULES = {"vlan": "8021q"}
_FRAMES = "/proc/sys/net/bridge/bridge-nf-call-iptables"
_LOCAL_TABLE = 255
_KERNEL = 2  # RTPROT_KERNEL: the routes that come with an address
_UNICAST = 1
_TRIES = 8
_MOST_MTU = 65535
_INET6_LEAST_MTU = 1280  # RFC 8200, section 5; below it the kernel has no IPv6 on a link
_BATCHES = 32  # half as many namespaces as `Spaces` keeps open in any case


_On = Shaper | Redirect | Address | Route | Forwarding | Neighbour


def whose(alias: str) -> Owner | None:
    """Return whose link bears this *alias*, whichever end of a pair it is; None if it is not ours."""
    return naming.owner(alias.removeprefix(PEER))


class _Batch(NamedTuple):
    """Messages to one namespace that wait to be sent, each with the operation that it belongs to."""

    space: Space
    messages: list[bytes]
    operations: list[Operation]
    rising: list[tuple[Operation, bytes]]
    """What sets links up. It comes after their addresses, so that the kernel can announce these (`arp_notify`)."""

    def rise(self) -> None:
        """Let the links that have their addresses go up, before what comes next."""
        for operation, message in self.rising:
            self.add(operation, message)
        self.rising.clear()

    def add(self, operation: Operation, *messages: bytes) -> None:
        """Let *messages* wait."""
        self.messages.extend(messages)
        self.operations.extend([operation] * len(messages))


class _Work:
    """What one `apply` knows while it makes things: the indices of links it met, and the batches that wait.

    In the namespaces of *unmarked*, links were born retired, of which the marks may still wait.
    """

    __slots__ = ("batches", "indices", "unmarked")

    def __init__(self) -> None:
        self.batches: dict[str, _Batch] = {}
        self.indices: dict[tuple[str, str], int] = {}
        self.unmarked: set[str] = set()


class LinuxKernel:
    """Linux, as `Kernel` says. It speaks of the namespace in which the thread that makes this stands, and must stay.

    *Exec_root* is where the mounts of our namespaces lie (in `netns/`), and *known* where iproute2 looks for their
    names. Up to *pool* namespaces are made in advance, when `prepare` says so.
    """

    def __init__(self, exec_root: Path, *, known: Path = Path("/run/netns"), pool: int = 4) -> None:
        self._spaces = Spaces(exec_root / "netns", known, pool, _take_back)
        self._firewall = Firewall()
        self._flows = Flows()
        self._holds = Holds()
        self._inet6 = os.path.exists("/proc/sys/net/ipv6")
        # Any number does that nobody has; from up here, the kernel does not give them out itself.
        self._index = (1 << 20) + _chance(3)
        # The names of retired links, by namespace, and their indices; there may be some from an earlier life.
        self._dying: dict[str, dict[str, int]] = {HOST: {}}
        self.reap()

    def close(self) -> None:
        """Give all descriptors back. What was made stays."""
        self._spaces.close()
        self._firewall.close()
        self._flows.close()
        self._holds.close()

    def observe(self, scope: Scope) -> frozenset[Resource]:
        """See `Kernel.observe`."""
        found: set[Resource] = set()
        spaces = self._spaces
        if scope.everything:
            self._observe_all(found)
        found.update(Namespace(name) for name in scope.namespaces if spaces.find(name))
        for nickname in spaces.nicknames() if scope.everything else scope.nicknames:
            if netns := spaces.nicknamed(nickname):
                found.add(Nickname(nickname, netns))
        seen: set[tuple[str, int]] = set()
        for netns, name in () if scope.everything else scope.links:
            if (space := spaces.find(netns)) and (message := space.link(name)) and whose(message.alias):
                self._observe_link(space, message, seen, found)
        for netns, name in () if scope.everything else scope.leaving:
            if (
                (space := spaces.find(netns))
                and (message := space.link(name))
                and (owner := naming.owner(message.alias))
            ):
                found.update(self._alone(space, message, owner))
        found.update(port for name in scope.ports if (port := self._port(name)))
        for netns, name in scope.shaped:
            if (space := spaces.find(netns)) and (message := space.link(name)) and whose(message.alias):
                found.update(_shaping(space, message))
        found.update(self._told(scope.told))
        found.update(self._settings(scope.sysctls))
        for ruled in filter(None, map(spaces.find, scope.ruled)):
            found.update(_rules(ruled))
        whole = scope.firewall or scope.everything
        found.update(self._firewall.observe() if whole else self._firewall.look_up(scope.elements))
        return frozenset(found)

    def apply(self, plan: Plan) -> None:
        """See `Kernel.apply`.

        Messages travel in batches: where one is refused, what was sent along with it in the same namespace has been
        done.
        """
        if not plan.remove and not plan.make:
            self._firewall.apply((*plan.tighten, *plan.loosen))
        else:
            self._firewall.apply(plan.tighten)
            if plan.remove:
                self._remove_all(plan.remove)
            if plan.make:
                self._flows.expect(plan.make)
                self._make_all(plan.make)
            self._firewall.apply(plan.loosen)
        self._flows.redirect(plan)

    def host(self) -> Host:
        """See `Kernel.host`. Left out are default routes, and what is local, broadcast, multicast or link-local."""
        wire = self._spaces.host.socket
        links = {message.ifindex: message for message in map(link, wire.dump(dumplinks()))}
        ours = {index for index, message in links.items() if whose(message.alias) or message.group == DYING}
        addresses: dict[int, list[AddressMessage]] = {}
        for held in map(address, wire.dump(dumpaddrs())):
            addresses.setdefault(held.ifindex, []).append(held)
        routes = [route(found) for found in wire.dump(dumproutes(kind=_UNICAST))]
        return Host(
            links=tuple(
                HostLink(
                    message.name,
                    message.kind,
                    message.mtu,
                    tuple(held.address for held in addresses.get(index, ())),
                    message.mac,
                    message.up,
                    wireless=os.path.exists(f"/sys/class/net/{message.name}/phy80211"),
                )
                for index, message in links.items()
                if index not in ours
            ),
            routes=tuple(
                dict.fromkeys(
                    str(found.destination)
                    for found in routes
                    if found.table != _LOCAL_TABLE
                    and found.protocol != PROTOCOL
                    and found.destination.prefixlen
                    and found.oif not in ours
                    and not found.destination.is_multicast
                    and not found.destination.is_link_local
                )
            ),
            frames_filtered=self._firewall.has_strangers() if os.path.exists(_FRAMES) else None,
            mtu=_path_mtu(links, routes),
        )

    def counts(self) -> tuple[Count, ...]:
        """See `Kernel.counts`."""
        return self._firewall.counts()

    def hold(self, places: Iterable[Place]) -> Mapping[Place, str]:
        """See `Kernel.hold`."""
        return self._holds.hold(places)

    def release(self, places: Iterable[Place]) -> None:
        """See `Kernel.release`."""
        self._holds.release(places)

    def holder(self, place: Place) -> str:
        """See `Kernel.holder`."""
        return holder(place)

    def send(self, netns: str, link: str, frames: Iterable[bytes]) -> None:
        """See `Kernel.send`."""
        if space := self._spaces.find(netns):
            with suppress(OSError), namespaces.inside(space.netns, self._spaces.host.netns), _frames() as sender:
                sender.bind((link, 0))
                for frame in frames:
                    sender.send(frame)

    def idle(self, told: Iterable[Key], seconds: float) -> frozenset[Key]:
        """See `Kernel.idle`."""
        found: set[Key] = set()
        for space, message, wanted in self._by_link(told):
            entries = map(neighbour, space.socket.dump(dumpfdb(index=message.ifindex)))
            idle = (one for one in entries if one.unused >= seconds)
            found.update(wanted.intersection(one.key for one in _entries(space.name, message, idle, None)))
        return frozenset(found)

    def forget(self, addresses: Iterable[IPAddress]) -> None:
        """See `Kernel.forget`: it is done by the next `reap`."""
        self._flows.forget(addresses)

    @property
    def prepared(self) -> int:
        """How many namespaces were made ahead of need and not used yet."""
        return self._spaces.prepared

    def prepare(self) -> None:
        """Make namespaces ahead of need, on a thread of its own, until the supply is full."""
        self._spaces.prepare()

    def reap(self) -> None:
        """Delete all links that were retired (15 milliseconds, 30 for a hundred), and forget who used them."""
        while self._dying:
            netns, _ = self._dying.popitem()
            if space := self._spaces.find(netns):
                space.socket.attempt(dellink_group(DYING))  # ENODEV: none is left
        self._flows.clear()
        self._holds.clear()

    @property
    def dying(self) -> bool:
        """Whether there are links for `reap`."""
        return bool(self._dying)

    @property
    def firewall_port(self) -> int:
        """The number by which `nfnetlink.changes` tells our own changes from those of others."""
        return self._firewall.port

    # ---- observing

    def _observe_all(self, found: set[Resource]) -> None:
        """Add all that bears our mark, in the host's namespace and all of ours."""
        spaces = self._spaces
        views = {HOST: _View(spaces.host)}
        by_number: dict[int, _View] = {}
        ends: dict[str, _View] = {}
        for name in spaces.names():
            if space := spaces.find(name):
                found.add(Namespace(name))
                view = views[name] = _View(space)
                ends.update((one.alias, view) for one in view.links.values() if one.alias.startswith(PEER))
                if len(view.links) > 1 and (number := spaces.number(space)) is not None:
                    by_number[number] = view
        for view in views.values():
            for message in view.links.values():
                if message.group == DYING:
                    self._dying.setdefault(view.name, {})  # somebody died before he could reap
                if owner := naming.owner(message.alias):
                    number = message.link_netnsid
                    # A number means something only where it was given.
                    near = by_number.get(number or 0) if view.name == HOST else ends.get(PEER + message.alias)
                    far = view if number is None else near
                    self._observe_in(view, message, owner, far, views[HOST], found)

    def _observe_in(  # noqa: PLR0917 (one loop, in two halves)
        self,
        view: "_View",
        message: LinkMessage,
        owner: Owner,
        far: "_View | None",
        host: "_View",
        found: set[Resource],
    ) -> None:
        """Add a link of ours from its namespace's *view*, with the other end in *far* if it has one there."""
        other = far.links.get(message.link) if far else None
        if message.kind == "bridge":
            found.add(_bridge(view.name, message, owner))
        elif message.kind == "ifb":
            found.add(Ifb(view.name, message.name, owner, message.up))
        elif message.kind == "vxlan":
            if space := self._spaces.find(view.name):
                under = self._under(space, message)
                found.add(_vxlan(view.name, message, owner, view.links.get(message.master), under))
        elif message.kind == "veth" and far and other:
            found.add(_veth(view.name, message, far.name, other, owner, view.links.get(message.master)))
            found.update(far.things(other, owner))
        elif (space := self._spaces.find(view.name)) is None:
            return
        elif _stands(message):
            ground = view if message.kind == "vlan" else host
            found.add(self._standing(space, message, owner, ground.links.get))
        else:
            self._observe_link(space, message, set(), found)
            return
        found.update(view.things(message, owner))

    def _settings(self, named: Iterable[tuple[str, str]]) -> Iterator[Sysctl]:
        """Yield the sysctls of these namespaces and names, as they are."""
        for netns, name in named:
            if space := self._spaces.find(netns):
                try:
                    yield Sysctl(netns, name, " ".join(self._spaces.read(space, _path(name)).split()))
                except OSError:
                    continue  # this kernel or namespace has no such setting

    def _port(self, name: str) -> Port | None:
        """Return the link of others that has this name, if it is up and on a bridge of ours."""
        space = self._spaces.host
        message = space.link(name)
        if not message or not message.master or not message.up or message.group == DYING or whose(message.alias):
            return None
        master = space.link(message.master)
        owner = naming.owner(master.alias) if master and master.kind == "bridge" else None
        return Port(HOST, name, master.name, owner) if master and owner else None

    def _observe_link(
        self, space: Space, message: LinkMessage, seen: set[tuple[str, int]], found: set[Resource]
    ) -> None:
        """Add a link of ours with its other end, and with the addresses and routes of both."""
        owner = whose(message.alias)
        if owner is None or (space.name, message.ifindex) in seen:
            return
        seen.add((space.name, message.ifindex))
        if message.kind != "veth":
            alone = tuple(self._alone(space, message, owner))
            found.update(alone)
            found.update(_things(space, message, owner) if alone and message.kind != "ifb" else ())
            return
        far = self._other_end(space, message)
        if message.alias.startswith(PEER):
            if far and naming.owner(far[1].alias) == owner:
                self._observe_link(far[0], far[1], seen, found)
            return
        found.update(_things(space, message, owner))
        master = space.link(message.master) if message.master else None
        if far is None:
            found.add(_veth(space.name, message, ELSEWHERE, None, owner, master))
            return
        seen.add((far[0].name, far[1].ifindex))
        found.add(_veth(space.name, message, far[0].name, far[1], owner, master))
        found.update(_things(far[0], far[1], owner))

    def _alone(self, space: Space, message: LinkMessage, owner: Owner) -> Iterator[Resource]:
        """Yield a link of ours without anything else."""
        if message.kind == "bridge":
            yield _bridge(space.name, message, owner)
        elif message.kind == "veth":
            yield _veth(space.name, message, ELSEWHERE, None, owner, None)
        elif message.kind == "ifb":
            yield Ifb(space.name, message.name, owner, message.up)
        elif message.kind == "vxlan":
            master = space.link(message.master) if message.master else None
            yield _vxlan(space.name, message, owner, master, self._under(space, message))
        elif _stands(message):
            yield self._standing(space, message, owner)

    def _told(self, keys: Iterable[Key]) -> Iterator[Forwarding | Neighbour]:
        """Yield what links of ours were told, of the entries with these *keys*."""
        for space, message, wanted in self._by_link(keys):
            if len(wanted) > _MANY:
                found = _all_told(space, message)
            else:
                asked = _asked(space.socket, message, wanted)
                found = _entries(space.name, message, asked, space.link(message.master))
            yield from (one for one in found if one.key in wanted)

    def _by_link(self, keys: Iterable[Key]) -> Iterator[tuple[Space, LinkMessage, set[Key]]]:
        """Yield the links of ours of whose entries these are the *keys*, each with its own."""
        by_link: dict[tuple[str, str], set[Key]] = {}
        for key in keys:
            by_link.setdefault((key[1], key[2]), set()).add(key)
        for (netns, name), wanted in by_link.items():
            space = self._spaces.find(netns)
            message = space.link(name) if space else None
            if space and message and whose(message.alias):
                yield space, message, wanted

    def _standing(
        self,
        space: Space,
        message: LinkMessage,
        owner: Owner,
        find: Callable[[int], LinkMessage | None] | None = None,
    ) -> Vlan | Child:
        """Return what stands on another link, which *find*, if given, finds by its index without asking the kernel.

        A child's parent is in the host's namespace, a VLAN's in its own. It may have been moved to another, where the
        same index says nothing.
        """
        near = space is self._spaces.host or message.kind == "vlan"
        ground = find or (space if near else self._spaces.host).link
        number = None if near else self._spaces.number_of_host(space)
        parent = ground(message.link) if message.link_netnsid == number and (near or number is not None) else None
        name = parent.name if parent and parent.group != DYING else ELSEWHERE
        if message.kind == "vlan":
            return Vlan(space.name, message.name, name, message.vlan_id or 0, owner, message.up)
        return _child(space.name, message, name, owner)

    def _other_end(self, space: Space, message: LinkMessage) -> tuple[Space, LinkMessage] | None:
        """Find the other end of a veth, if it is in a namespace of ours."""
        far = self._beyond(space, message)
        other = far.link(message.link) if far else None
        return (far, other) if far and other else None

    def _beyond(self, space: Space, message: LinkMessage) -> Space | None:
        """Return the namespace that the other end of a veth is in, if it is one of ours."""
        number = message.link_netnsid
        if number is None:
            return space
        if space is self._spaces.host:
            return self._spaces.numbered(number)
        # A number means something only where it was given: from within, the other end is sought where it can be.
        for name in (HOST, *self._spaces.names()):
            far = self._spaces.find(name) if name != space.name else None
            if far and (other := far.link(message.link)) and other.kind == "veth" and other.link == message.ifindex:
                return far
        return None

    # ---- making

    def _make_all(self, operations: Iterable[Operation]) -> None:
        """Make and change, dependencies first; what can wait for others that go to the same namespace does."""
        work = _Work()
        try:
            for operation in operations:
                self._make(operation, work)
            self._flush_all(work)
        except Refused:
            for netns in work.unmarked:
                self._dying.setdefault(netns, {})
            raise

    def _make(self, operation: Operation, work: _Work) -> None:
        """Make or change one thing, or let the messages that do so wait."""
        match operation.resource:
            case Veth() as pair:
                self._make_veth(operation, pair, work)
            case (Address() | Forwarding() | Neighbour() | Route() | Rule()) as inner:
                self._make_inner(operation, inner, work)
            case Vxlan() as tunnel:
                self._make_vxlan(operation, tunnel, work)
            case (Namespace() | Nickname() | Sysctl()) as resource:
                self._make_file(operation, resource)
            case Bridge() as switch:
                self._make_bridge(operation, switch, work)
            case (Vlan() | Child()) as standing:
                self._make_standing(operation, standing, work)
            case Port() as port:
                self._make_port(operation, port, work)
            case Ifb() as way:
                self._make_ifb(operation, way, work)
            case (Shaper() | Redirect()) as shaping:
                self._make_shaping(operation, shaping, work)
            case Table() | Element():
                pass  # they have phases of their own

    def _make_file(self, operation: Operation, resource: Namespace | Nickname | Sysctl) -> None:
        """Make what is no matter of messages."""
        try:
            match resource:
                case Namespace(name):
                    self._spaces.make(name)
                case Nickname(name, netns):
                    self._spaces.nickname(name, netns)
                case Sysctl(netns, name, value):
                    self._spaces.write(self._space(operation, netns), _path(name), value)
        except OSError as error:
            raise _refused(operation, error) from error

    def _make_veth(self, operation: Operation, pair: Veth, work: _Work) -> None:
        home = self._space(operation, pair.netns)
        away = self._space(operation, pair.peer_netns)
        if isinstance(operation, Change) and self._complete_veth(operation, pair, home, away, work):
            return
        self._free_name(home, pair.name)
        mtu = pair.mtu or 0
        master = self._index_of(operation, home, pair.master, work) if pair.master else 0
        alias = naming.mark(pair.owner)
        mac = "" if master else _lasting_mac(pair.owner)
        birthplace = -1 if away is home else away.netns
        for _ in range(_TRIES):
            self._index += 2
            index, other = self._index, self._index + 1
            data = veth(pair.peer, netns=birthplace, index=other, mac=pair.mac or "", mtu=mtu, queues=1)
            quiet = AddrGenMode.NONE if self._speaks_inet6(mtu) and (master or pair.ipv6 is False) else None
            open_ = False if pair.told else None
            errors = home.socket.attempt(
                newlink("veth", pair.name, index=index, master=master, mac=mac, mtu=mtu, queues=1, data=data),
                setlink(
                    index, alias=alias, addr_gen_mode=quiet, isolated=pair.isolated or None, learning=open_, flood=open_
                ),
                setlink(index, up=pair.up),
            )
            if not errors:
                break
            if errors[0].index == 0 and errors[0].errno == EBUSY:
                self._index += _chance(2)
                continue
            if errors[0].index == 0 and errors[0].errno == EXFULL and self._dying.get(home.name):
                self._reap_within(work)  # those that are retired still have their ports
                continue
            if errors[0].index == 0 and errors[0].errno == EEXIST:
                if self._complete_veth(operation, pair, home, away, work):
                    return
                continue
            raise _refused(operation, errors[0])
        else:
            raise Refused(operation, EBUSY, _NO_INDEX)
        work.indices[pair.netns, pair.name] = index
        work.indices[pair.peer_netns, pair.peer] = other
        if home is not self._spaces.host:
            self._spaces.tie(away)
        if pair.ipv6:
            self._permit_ipv6(operation, away, pair.peer)
        batch = self._batch(work, away)
        mode = AddrGenMode.NONE if pair.ipv6 is False and self._speaks_inet6(mtu) else None
        batch.add(operation, setlink(other, alias=PEER + alias, addr_gen_mode=mode, announce=pair.announce))
        batch.rising.append((operation, setlink(other, up=pair.peer_up)))

    def _speaks_inet6(self, mtu: int) -> bool:
        """Whether a link with this *mtu* (0: the kernel's choice) has settings of IPv6, which needs 1280 bytes."""
        return self._inet6 and not 0 < mtu < _INET6_LEAST_MTU

    def _permit_ipv6(self, operation: Operation, space: Space, name: str) -> None:
        """Switch IPv6 on, on a link inside that shall have it; our namespaces begin without."""
        if space is not self._spaces.host:
            try:
                self._spaces.write(space, f"net/ipv6/conf/{name}/disable_ipv6", "0")
            except OSError as error:
                raise _refused(operation, error) from error

    def _reap_within(self, work: _Work) -> None:
        """Reap, while things are being made: not those that wait for their marks."""
        self._flush_all(work)
        self.reap()

    def _complete_veth(self, operation: Operation, pair: Veth, home: Space, away: Space, work: _Work) -> bool:
        """Bring a pair that is there to what it shall be; False if a wrong one of ours was in the way and is not now.

        Raises:
            Refused: either name is somebody else's.
        """
        name = pair.name
        message = home.link(name)
        if message is None:
            if isinstance(operation, Change):
                return False
            left = away.link(pair.peer)
            if left and left.alias.startswith(PEER) and self._beyond(away, left) is None:
                # The kernel takes the other end's namespace apart some time after that is gone.
                away.socket.request(dellink(left.ifindex))
                return False
            raise Refused(operation, EEXIST, f"a link named {pair.peer} is in {_place(away.name)} already")
        if naming.owner(message.alias) is None or message.kind != "veth":
            raise _taken(operation, name, home)
        end = self._other_end(home, message)
        if naming.owner(message.alias) != pair.owner or end is None or end[0] is not away:
            self._retire(home, message)
            self._free_name(home, name)
            return False
        other = end[1]
        self._flush_all(work)
        self._send(operation, home, self._host_half(operation, home, pair, message, work))
        if pair.ipv6:
            self._permit_ipv6(operation, away, other.name)
        self._send(operation, away, self._peer_half(pair, other))
        work.indices[pair.netns, pair.name] = message.ifindex
        work.indices[pair.peer_netns, pair.peer] = other.ifindex
        return True

    def _host_half(
        self, operation: Operation, home: Space, pair: Veth, message: LinkMessage, work: _Work
    ) -> Iterator[bytes]:
        """Yield what makes of the end that is *message* the first end of *pair*."""
        index = message.ifindex
        if pair.master:
            master = self._index_of(operation, home, pair.master, work)
            if master != message.master:
                yield setlink(index, master=master)
            if pair.isolated is not None or pair.told is not None:
                open_ = None if pair.told is None else not pair.told
                yield setlink(index, isolated=pair.isolated, learning=open_, flood=open_)
        if pair.mtu is not None and pair.mtu != message.mtu:
            yield setlink(index, mtu=pair.mtu)
        if (pair.master or pair.ipv6 is False) and message.addr_gen_mode not in {None, AddrGenMode.NONE}:
            yield setlink(index, addr_gen_mode=AddrGenMode.NONE)
        elif not pair.master and pair.ipv6 and message.addr_gen_mode == AddrGenMode.NONE:
            yield setlink(index, addr_gen_mode=AddrGenMode.EUI64)
        if pair.up != message.up:
            yield setlink(index, up=pair.up)

    def _peer_half(self, pair: Veth, message: LinkMessage) -> Iterator[bytes]:
        """Yield what makes of the end that is *message* the second end of *pair*."""
        index = message.ifindex
        up = message.up
        if message.name != pair.peer:
            yield setlink(index, up=False)  # Linux before 6.2 renames no link that is up
            yield setlink(index, name=pair.peer)
            up = False
        yield setlink(index, alias=PEER + naming.mark(pair.owner))
        if pair.mac is not None and pair.mac != message.mac:
            yield setlink(index, mac=pair.mac)
        if pair.mtu is not None and pair.mtu != message.mtu:
            yield setlink(index, mtu=pair.mtu)
        if pair.ipv6 is not None and message.addr_gen_mode is not None and _ipv6(message) != pair.ipv6:
            yield setlink(index, addr_gen_mode=AddrGenMode.EUI64 if pair.ipv6 else AddrGenMode.NONE)
        if pair.announce is not None and pair.announce != message.announce:
            yield setlink(index, announce=pair.announce)
        if up != pair.peer_up:
            yield setlink(index, up=pair.peer_up)

    def _make_standing(self, operation: Operation, new: Vlan | Child, work: _Work) -> None:
        space = self._space(operation, new.netns)
        if isinstance(operation, Change) and self._complete_standing(operation, new, space, work):
            return
        ground = space if isinstance(new, Vlan) else self._spaces.host
        parent = self._index_of(operation, ground, new.parent, work)
        self._free_name(space, new.name)
        birthplace = -1 if ground is space else space.netns
        errors: tuple[NetlinkError, ...] = ()
        for _ in range(_TRIES):
            self._index += 2
            errors = ground.socket.attempt(_birth(new, self._index, parent, birthplace))
            if not errors:
                self._mark_standing(operation, new, space, self._index, work)
                return
            if errors[0].errno in {EBUSY, EINVAL} and self._dying:
                self._reap_within(work)  # a birth that was cut short still has its place
            elif errors[0].errno == EBUSY:
                self._index += _chance(2)
            elif errors[0].errno != EEXIST:
                break
            elif self._complete_standing(operation, new, space, work):
                return
        raise self._misplaced(operation, new, ground, errors[0])

    def _mark_standing(self, operation: Operation, new: Vlan | Child, space: Space, index: int, work: _Work) -> None:
        """Let the message wait that makes what was just born ours, and the one that sets it up."""
        work.indices[new.netns, new.name] = index
        work.unmarked.add(new.netns)
        self._spaces.tie(space)
        alias = naming.mark(new.owner)
        mark = setlink(index, alias=alias, group=0)
        if isinstance(new, Child):
            if new.ipv6:
                self._permit_ipv6(operation, space, new.name)
            mode = AddrGenMode.NONE if new.ipv6 is False and self._speaks_inet6(new.mtu or 0) else None
            # In passthru mode it is born with the MAC of its parent, whatever is said.
            mac = new.mac if new.mode == "passthru" else None
            mark = setlink(index, alias=alias, group=0, mac=mac, addr_gen_mode=mode, announce=new.announce)
        batch = self._batch(work, space)
        batch.add(operation, mark)
        batch.rising.append((operation, setlink(index, up=new.up)))

    def _complete_standing(self, operation: Operation, new: Vlan | Child, space: Space, work: _Work) -> bool:
        """Bring what is there to what it shall be; False if there is nothing, or nothing any more, in its way.

        Raises:
            Refused: its name, or the number of a VLAN, is somebody else's.
        """
        message = space.link(new.name)
        if message is None:
            if isinstance(new, Vlan):
                self._check_vid(operation, new, space)
            return False
        if message.group != DYING:
            owner = naming.owner(message.alias)
            if owner is None or not _stands(message):
                raise _taken(operation, new.name, space)
            if fits(new, self._standing(space, message, owner)):
                self._flush_all(work)
                if isinstance(new, Child) and new.ipv6:
                    self._permit_ipv6(operation, space, new.name)
                self._send(operation, space, _standing_changes(new, message))
                work.indices[new.netns, new.name] = message.ifindex
                return True
        self._send(operation, space, _deletion(message.ifindex))
        return False

    def _check_vid(self, operation: Operation, new: Vlan, space: Space) -> None:
        """Refuse a VLAN that its parent has under another name."""
        parent = space.link(new.parent)
        for other in map(link, space.socket.dump(dumplinks(kind="vlan"))):
            if parent and (other.link, other.vlan_id, other.link_netnsid) == (parent.ifindex, new.vid, None):
                raise Refused(
                    operation, EEXIST, f"VLAN {new.vid} of {new.parent} is there already, as {other.name}; use that"
                )

    def _misplaced(self, operation: Operation, new: Vlan | Child, ground: Space, error: NetlinkError) -> Refused:
        """Say why a link cannot stand where it should. The kernel has one errno for several reasons, and no words."""
        kind, name, number = _kind(new), new.parent, error.errno or EINVAL
        parent = ground.link(name)
        if number == EOPNOTSUPP and (not error.text or error.text.startswith("Unknown device")):
            reason = f"this kernel has no {kind}; load its module (modprobe {_MODULES.get(kind, kind)})"
        elif number == EBUSY and parent and parent.master:
            reason = f"{name} is a port of a bridge; take another parent, or that bridge"
        elif number == EBUSY:
            reason = f"{name} is the parent of links of another kind (macvlan and ipvlan exclude each other)"
        elif number == EINVAL and parent and parent.flags & IFF_LOOPBACK:
            reason = f"{name} leads nowhere"
        elif number == EINVAL and parent and isinstance(new, Child) and (new.mtu or 0) > parent.mtu:
            reason = f"its MTU cannot be above that of {name}, {parent.mtu}"
        elif number == EINVAL and kind == "macvlan":
            reason = f"in passthru mode a macvlan is the only one on its parent, and {name} would have two"
        else:
            return _refused(operation, error)
        return Refused(operation, number, reason)

    def _make_bridge(self, operation: Operation, switch: Bridge, work: _Work) -> None:
        space = self._space(operation, switch.netns)
        # With a MAC of its own it keeps it, instead of taking that of one port after the other (what Docker does, too).
        mac = _lasting_mac(switch.owner)
        mode = None if switch.ipv6 is None or not self._speaks_inet6(switch.mtu or 0) else _mode(switch.ipv6)
        # Only an MTU that is changed to what it shall be is kept when a port with a smaller one joins.
        born = switch.mtu ^ 1 if switch.mtu else 0
        errors: tuple[NetlinkError, ...] = ()
        for _ in range(_TRIES):
            self._index += 2
            index = self._index
            errors = space.socket.attempt(
                newlink("bridge", switch.name, index=index, mac=mac, mtu=born, data=_BRIDGE),
                setlink(index, alias=naming.mark(switch.owner), mtu=switch.mtu, addr_gen_mode=mode),
            )
            if not errors:
                if switch.ipv6:
                    self._permit_ipv6(operation, space, switch.name)
                self._send(operation, space, self._rising(space, switch, index))
                self._spaces.tie(space)
                work.indices[switch.netns, switch.name] = index
                return
            if errors[0].index or errors[0].errno != EBUSY:
                break
        if errors[0].errno != EEXIST:
            raise _refused(operation, errors[0])
        message = space.link(switch.name)
        if message is None or message.kind != "bridge" or naming.owner(message.alias) != switch.owner:
            raise _taken(operation, switch.name, space)
        self._send(operation, space, _bridge_changes(switch, message))
        work.indices[switch.netns, switch.name] = message.ifindex

    def _rising(self, space: Space, switch: Bridge, index: int) -> Iterator[bytes]:
        """Set a new bridge up. Its own IPv6 address is of use at once: nobody else can have it."""
        if switch.ipv6:
            with suppress(OSError):
                self._spaces.write(space, f"net/ipv6/conf/{switch.name}/accept_dad", "0")
        yield setlink(index, up=switch.up)

    def _make_vxlan(self, operation: Operation, tunnel: Vxlan, work: _Work) -> None:
        space = self._space(operation, tunnel.netns)
        master = self._index_of(operation, space, tunnel.master, work)
        under = self._space(operation, tunnel.under)
        birthplace = -1 if space is under else space.netns
        local = tunnel.local or (IPv6Address(0) if tunnel.under else None)
        ways = {"learning": tunnel.learning, "asking": tunnel.asking}
        data = netlink.vxlan(tunnel.vni, port=tunnel.port, local=local, **ways)
        alias, quiet = naming.mark(tunnel.owner), AddrGenMode.NONE if self._speaks_inet6(tunnel.mtu or 0) else None
        for _ in range(_TRIES):
            self._index += 2
            index = self._index
            birth = newlink("vxlan", tunnel.name, index=index, mtu=tunnel.mtu or 0, netns=birthplace, data=data)
            errors = under.socket.attempt(birth)
            if not errors:
                if quiet is not None:  # it has no address, but is told who has some
                    self._permit_ipv6(operation, space, tunnel.name)
                marking = (
                    setlink(index, alias=alias, master=master, addr_gen_mode=quiet),
                    setlink(index, learning=False),
                    setlink(index, up=tunnel.up),
                )
                self._send(operation, space, marking)
                work.indices[tunnel.netns, tunnel.name] = index
                return
            if errors[0].errno == EBUSY:
                self._index += _chance(2)
            elif errors[0].errno != EEXIST:
                raise _refused(operation, errors[0])
            elif self._complete_vxlan(operation, tunnel, space, master):
                return
        raise Refused(operation, EBUSY, _NO_INDEX)

    def _under(self, space: Space, tunnel: LinkMessage) -> str:
        """Return the name of the namespace by which the packets of a *tunnel* leave."""
        number = tunnel.link_netnsid
        if number is None:
            return space.name
        if number == self._spaces.number_of_host(space):
            return HOST
        below = self._spaces.find(ENCRYPTED)
        return ENCRYPTED if below and nsid(space.socket.ask(getnsid(below.netns))) == number else ELSEWHERE

    def _complete_vxlan(self, operation: Operation, tunnel: Vxlan, space: Space, master: int) -> bool:
        """Bring a tunnel that is there to what it shall be; False if one of ours was in the way, and is not now.

        Raises:
            Refused: its name or its number is somebody else's.
        """
        there = space.link(tunnel.name)
        if there is None:
            self._free_vni(operation, tunnel)
            return False
        owner = naming.owner(there.alias)
        # One without a mark, in a namespace of ours, was cut short when it was made.
        if (owner or space is not self._spaces.host) and there.kind == "vxlan":
            if owner and fits(tunnel, _vxlan(space.name, there, owner, None, self._under(space, there))):
                self._send(operation, space, _vxlan_changes(tunnel, there, master))
                return True
            space.socket.request(dellink(there.ifindex))
            return False
        raise _taken(operation, tunnel.name, space)

    def _free_vni(self, operation: Operation, tunnel: Vxlan) -> None:
        """Delete the tunnel of ours that has a number and port, wherever it is left.

        Raises:
            Refused: they are somebody else's.
        """
        for name in (HOST, *self._spaces.names()):
            space = self._spaces.find(name)
            for other in map(link, space.socket.dump(dumplinks(kind="vxlan"))) if space else ():
                if space and other.vxlan and other.vxlan[:2] == (tunnel.vni, tunnel.port):
                    if name == HOST and naming.owner(other.alias) is None:
                        raise Refused(
                            operation, EEXIST, f"{other.name} on this host has the VXLAN number {tunnel.vni} already"
                        )
                    space.socket.request(dellink(other.ifindex))
                    return
        raise Refused(operation, EEXIST, f"somebody else on this host has the VXLAN number {tunnel.vni} already")

    def _make_port(self, operation: Operation, port: Port, work: _Work) -> None:
        space = self._space(operation, port.netns)
        master = self._index_of(operation, space, port.master, work)
        self._send(operation, space, (setlink(port.name, master=master), setlink(port.name, up=True)))

    def _make_ifb(self, operation: Operation, way: Ifb, work: _Work) -> None:
        space = self._space(operation, way.netns)
        self._free_name(space, way.name)
        mode = AddrGenMode.NONE if self._inet6 else None
        errors: tuple[NetlinkError, ...] = ()
        for _ in range(_TRIES):
            self._index += 2
            index = self._index
            errors = space.socket.attempt(
                newlink("ifb", way.name, index=index),
                setlink(index, alias=naming.mark(way.owner), addr_gen_mode=mode),
                setlink(index, up=way.up),
            )
            if not errors:
                work.indices[way.netns, way.name] = index
                return
            if errors[0].index or errors[0].errno not in {EBUSY, EEXIST}:
                break
            if errors[0].errno == EEXIST and (message := space.link(way.name)):
                owner = naming.owner(message.alias)
                if owner is None or message.kind != "ifb":
                    raise _taken(operation, way.name, space)
                if owner == way.owner:
                    self._send(operation, space, (setlink(message.ifindex, up=way.up),))
                    work.indices[way.netns, way.name] = message.ifindex
                    return
                self._retire_single(space, message)
                self._free_name(space, way.name)
        raise _refused(operation, errors[0])

    def _make_shaping(self, operation: Operation, shaping: Shaper | Redirect, work: _Work) -> None:
        """Make or change what of traffic control is on a link; what is there is changed in place."""
        space = self._space(operation, shaping.netns)
        index = self._index_of(operation, space, shaping.link, work)
        if isinstance(shaping, Shaper):
            rate = shaping.rate
            burst, limit = rates.burst(rate), rates.limit(rate)
            self._send(operation, space, (tc.newtbf(index, rate=rate // 8, burst=burst, limit=limit),))
            return
        target = self._index_of(operation, space, shaping.target, work)
        # The filter that is there, if one is, has another target, or one that is gone.
        errors = space.socket.attempt(tc.newclsact(index), tc.delredirect(index), tc.newredirect(index, target))
        if refused := next((one for one in errors if one.index != 1), None):
            raise _refused(operation, refused)

    def _make_inner(
        self, operation: Operation, resource: Address | Forwarding | Neighbour | Route | Rule, work: _Work
    ) -> None:
        """Let the message wait that makes what is on a link, or a rule."""
        waiting = work.batches.get(resource.netns)
        space = waiting.space if waiting else self._space(operation, resource.netns)
        if isinstance(resource, Rule):
            self._batch(work, space).add(operation, newrule(resource.source, resource.table))
            return
        index = self._index_of(operation, space, resource.link, work)
        message: bytes
        match resource:
            case Address(interface=interface):
                message = newaddr(index, interface, broadcast=_broadcast(interface))
            case Forwarding(mac=mac, remote=remote):
                message = newfdb(index, mac, remote=remote)
            case Neighbour(address=neighbour_address, mac=mac):
                message = newneigh(index, neighbour_address, mac)
            case Route(destination=destination, via=via, table=table):
                message = newroute(destination, gateway=via, oif=index, table=table)
                message = _replacing(message) if isinstance(operation, Change) else message
        batch = self._batch(work, space)
        if isinstance(resource, Route):
            batch.rise()  # there is no route over a link that is down
        batch.add(operation, message)

    def _batch(self, work: _Work, space: Space) -> _Batch:
        batch = work.batches.get(space.name)
        if batch is None:
            if len(work.batches) >= _BATCHES:
                self._flush_all(work)
            batch = work.batches[space.name] = _Batch(space, [], [], [])
        return batch

    def _flush_all(self, work: _Work) -> None:
        """Send what waits."""
        for batch in work.batches.values():
            batch.rise()
            start = 0
            # What comes after a refused route may lean on it, so it is sent again when that stands.
            while errors := batch.space.socket.attempt(*batch.messages[start:]):
                index = start + errors[0].index
                operation = batch.operations[index]
                resource = operation.resource
                if errors[0].errno != EEXIST or not isinstance(resource, Address | Route | Rule):
                    raise _refused(operation, errors[0])
                message = batch.messages[index]
                match resource:
                    case Route():
                        self._make_route_again(operation, resource, batch.space, message)
                    case Address():
                        self._make_address_again(operation, resource, batch.space, message)
                    case Rule():
                        pass  # it is there
                start = index + 1
        work.batches.clear()

    def _make_address_again(self, operation: Operation, wanted: Address, space: Space, message: bytes) -> None:
        """Put an address where it is already; if the route to its subnet is gone, only a new one brings that back."""
        there = space.link(wanted.link)
        if there is not None:
            held = {address(found).address for found in space.socket.dump(dumpaddrs(index=there.ifindex))}
            whole = any(one.key == wanted.key for one in _things(space, there, wanted.owner))
            if wanted.interface in held and not whole:
                self._send(operation, space, (deladdr(there.ifindex, wanted.interface), message))
                return
        self._send(operation, space, (_replacing(message),))

    def _make_route_again(self, operation: Operation, wanted: Route, space: Space, message: bytes) -> None:
        """Put a route where there is one to the same destination: ours, or in a namespace that is ours."""
        ours = space.socket.dump(dumproutes(protocol=PROTOCOL, table=wanted.table))
        if space is self._spaces.host and all(route(found).destination != wanted.destination for found in ours):
            raise Refused(operation, EEXIST, f"the host has a route to {wanted.destination} that is not ours")
        self._send(operation, space, (_replacing(message),))

    # ---- removing

    def _remove_all(self, operations: Sequence[Operation]) -> None:
        """Remove dependents first, and go on after what is refused."""
        refusals: list[Refused] = []
        for told, some in groupby(operations, _told_link):
            if told:
                netns, name = told
                refusals += self._remove_told(netns, name, tuple(some))
                continue
            for operation in some:
                try:
                    self._remove(operation.resource)
                except OSError as error:
                    if error.errno not in _GONE:
                        refusals.append(_refused(operation, error))
        if refusals:
            raise ExceptionGroup("some could not be removed", refusals)

    def _remove_told(self, netns: str, name: str, operations: Sequence[Operation]) -> Iterator[Refused]:
        """Have a link forget what it was told, which may be a lot; give what is refused."""
        space = self._spaces.find(netns)
        message = space.link(name) if space else None
        if space and message:
            forgetting = (_forgetting(message.ifindex, operation.resource) for operation in operations)
            for error in space.socket.attempt(*forgetting):
                if error.errno not in _GONE:
                    yield _refused(operations[error.index], error)

    def _remove(self, resource: Resource) -> None:
        """Take *resource* away, if it is there and ours."""
        match resource:
            case Nickname(name):
                self._spaces.forget_nickname(name)
            case Namespace(name):
                self._spaces.remove(name)
            case Sysctl() | Table() | Element():
                pass
            case Rule(netns, source, table):
                if space := self._spaces.find(netns):
                    space.socket.request(delrule(source, table))
            case _:
                if space := self._spaces.find(resource.netns):
                    self._remove_link(space, resource)

    def _remove_link(self, space: Space, resource: Link | Port | _On) -> None:
        """Take a link away, or what is on it."""
        name = resource.link if isinstance(resource, _On) else resource.name
        message = space.link(name)
        if message is None:
            return
        index, ours = message.ifindex, naming.owner(message.alias) is not None
        match resource:
            case Veth() if ours and message.kind == "veth":
                self._retire(space, message)
            case Bridge() | Vxlan() if ours:
                space.socket.request(dellink(index))
            case Vlan() | Child() if ours and _stands(message):
                space.socket.request(*_deletion(index))
            case Ifb() if ours and message.kind == "ifb":
                self._retire_single(space, message)
            case Shaper() | Redirect() if ours:
                _remove_shaping(space, index, resource)
            case Port(master=master):
                if message.master and (bridge := space.link(message.master)) and bridge.name == master:
                    space.socket.request(setlink(index, master=0))
            case Address(interface=interface):
                space.socket.request(deladdr(index, interface))
            case Route(destination=destination, table=table):
                space.socket.request(delroute(destination, oif=index, table=table))
            case _:
                pass  # somebody else's thing has that name

    def _retire(self, space: Space, message: LinkMessage) -> None:
        """Let a pair of veths stop at once, and leave the rest to `reap`.

        The marks go first, so that nobody who listens takes what follows for an accident. The end inside is taken down,
        with which its routes go. To take down the other costs the same again, so the port of a bridge is only shut. The
        name inside is freed, for people use it; that of the host's end is taken back when it is needed.
        """
        index = message.ifindex
        port = message.isolated is not None
        if not port or space.socket.attempt(setlink(index, alias="", group=DYING, shut=True)):
            space.socket.request(setlink(index, alias="", group=DYING, up=False))
        self._dying.setdefault(space.name, {})[message.name] = index
        far, index = self._beyond(space, message), message.link
        if far and far.socket.attempt(setlink(index, alias="", group=DYING, name=_nobodys(index), up=False)):
            # Linux before 6.2 renames no link that is up.
            far.socket.request(setlink(index, alias="", group=DYING, up=False), setlink(index, name=_nobodys(index)))

    def _retire_single(self, space: Space, message: LinkMessage) -> None:
        """Let a link that has no other end lose its mark, and leave the rest to `reap`."""
        space.socket.request(setlink(message.ifindex, alias="", group=DYING))
        self._dying.setdefault(space.name, {})[message.name] = message.ifindex

    def _free_name(self, space: Space, name: str) -> None:
        """Rename the retired link that still has this *name*, if there is one.

        To try and see is no way: a pair of which one name is taken costs the kernel 14 milliseconds to take back.
        """
        retired = self._dying.get(space.name)
        if retired and (index := retired.pop(name, None)):
            space.socket.attempt(setlink(index, up=False), setlink(index, name=_nobodys(index)))

    # ---- finding

    def _space(self, operation: Operation, netns: str) -> Space:
        space = self._spaces.find(netns)
        if space is None:
            raise Refused(operation, ENOENT, f"there is no namespace {netns}")
        return space

    def _index_of(self, operation: Operation, space: Space, name: str, work: _Work) -> int:
        index = work.indices.get((space.name, name))
        if index is not None:
            return index
        index = space.socket.index(name)
        if index is None:
            raise Refused(operation, ENODEV, f"there is no link {name} in {_place(space.name)}")
        work.indices[space.name, name] = index
        return index

    def _send(self, operation: Operation, space: Space, messages: Iterable[bytes]) -> None:
        """Send *messages* that all belong to one operation."""
        if errors := space.socket.attempt(*messages):
            raise _refused(operation, errors[0])


class _View:
    """All that is in one namespace, at one moment."""

    __slots__ = ("_addresses", "_entries", "_routes", "links", "name")

    def __init__(self, space: Space) -> None:
        self.name = space.name
        wire = space.socket
        self.links = {message.ifindex: message for message in map(link, wire.dump(dumplinks()))}
        self._addresses: dict[int, list[AddressMessage]] = {}
        self._routes: dict[int, list[RouteMessage]] = {}
        if len(self.links) > 1:
            for held in map(address, wire.dump(dumpaddrs())):
                self._addresses.setdefault(held.ifindex, []).append(held)
            for found in map(route, wire.dump(dumproutes(kind=_UNICAST))):
                self._routes.setdefault(found.oif, []).append(found)
        self._entries: dict[int, list[NeighbourMessage]] = {}
        if any(map(_is_told, self.links.values())):
            for entry in map(neighbour, (*wire.dump(dumpfdb()), *wire.dump(dumpneighs()))):
                self._entries.setdefault(entry.ifindex, []).append(entry)

    def things(self, message: LinkMessage, owner: Owner) -> Iterator[Address | Route | Forwarding | Neighbour]:
        """Yield our addresses and routes on a link, and what it was told."""
        index = message.ifindex
        yield from _inner(self.name, message, owner, self._addresses.get(index, ()), self._routes.get(index, ()))
        yield from _entries(self.name, message, self._entries.get(index, ()), self.links.get(message.master))


def _path_mtu(links: Mapping[int, LinkMessage], routes: Iterable[RouteMessage]) -> int:
    """Return the least MTU of the links by which others' default routes of either family leave that are taken first."""
    defaults: dict[int, RouteMessage] = {}
    for found in routes:
        if found.protocol == PROTOCOL or found.destination.prefixlen:
            continue
        if found.table == MAIN_TABLE and found.oif in links:
            first = defaults.setdefault(found.destination.version, found)
            if found.metric < first.metric:
                defaults[found.destination.version] = found
    # The loopback's MTU is one more than others can have.
    return min((min(links[one.oif].mtu, _MOST_MTU) for one in defaults.values()), default=ETHERNET_MTU)


def _things(space: Space, message: LinkMessage, owner: Owner) -> Iterator[Address | Route | Forwarding | Neighbour]:
    """Yield our addresses and routes on one link, and what it was told, asking for no others."""
    wire, index = space.socket, message.ifindex
    addresses = map(address, wire.dump(dumpaddrs(index=index)))
    routes = [route(found) for found in wire.dump(dumproutes(oif=index, kind=_UNICAST))]
    yield from _inner(space.name, message, owner, addresses, routes)
    if _is_told(message):
        yield from _all_told(space, message)


def _all_told(space: Space, message: LinkMessage) -> Iterator[Forwarding | Neighbour]:
    """Yield all that one link was told."""
    wire, index = space.socket, message.ifindex
    told = (*wire.dump(dumpfdb(index=index)), *(wire.dump(dumpneighs(index=index)) if message.kind == "vxlan" else ()))
    yield from _entries(space.name, message, map(neighbour, told), space.link(message.master))


def _asked(wire: netlink.Socket, message: LinkMessage, keys: Iterable[Key]) -> Iterator[NeighbourMessage]:
    """Yield the entries with *keys* of what one link was told, and maybe others, asking for one after the other."""
    index, tunnel = message.ifindex, message.kind == "vxlan"
    for kind, _, _, what, *_ in keys:
        with suppress(NetlinkError):  # there is none
            if kind == "neighbour":
                found = [wire.ask(getneigh(index, ip_address(what)))]
            elif what == NOBODY:  # it may be with several
                found = list(wire.dump(dumpfdb(index=index)))
            else:
                found = [wire.ask(getfdb(index, what, tunnel=tunnel))]
            # A bridge that is asked for one port answers for all.
            yield from (one for one in map(neighbour, found) if one.ifindex == index)


def _is_told(message: LinkMessage) -> bool:
    """Whether a link is a tunnel, or a port of which its bridge knows only what it is told."""
    return message.kind == "vxlan" or (message.learning is False and message.flood is False)


def _entries(
    netns: str, message: LinkMessage, entries: Iterable[NeighbourMessage], master: LinkMessage | None
) -> Iterator[Forwarding | Neighbour]:
    """Yield what of *entries* on a link it was told, and did not find out or is not there with the link itself.

    A tunnel that learns nothing was told of all; somebody may have said that an entry is to last for a while only.
    """
    tunnel = message.kind == "vxlan"
    learning = message.vxlan is not None and message.vxlan.learning
    for one in entries:
        if one.family != AF_BRIDGE:
            if one.protocol == PROTOCOL and one.address and one.state & NUD_PERMANENT:
                yield Neighbour(netns, message.name, one.address, one.mac)
        elif one.flags & NTF_SELF:
            if tunnel and one.address and (one.state & NUD_PERMANENT or not learning):
                yield Forwarding(netns, message.name, one.mac, one.address)
        elif not tunnel and one.state & NUD_NOARP and master:
            yield Forwarding(netns, message.name, one.mac, master=master.name)


def _inner(
    netns: str,
    message: LinkMessage,
    owner: Owner,
    addresses: Iterable[AddressMessage],
    routes: Sequence[RouteMessage],
) -> Iterator[Address | Route]:
    # An address whose route to its subnet was taken away is of no use: it is not seen, and so made again.
    reached = {found.destination for found in routes if found.protocol == _KERNEL and found.table == MAIN_TABLE}
    for held in addresses:
        subnet = held.address.network
        whole = not message.up or subnet.num_addresses == 1 or subnet in reached
        if held.protocol == PROTOCOL and whole:
            yield Address(netns, message.name, held.address, owner)
    for found in routes:
        if found.protocol == PROTOCOL:
            yield Route(netns, found.destination, message.name, owner, found.gateway, found.table)


def _rules(space: Space) -> Iterator[Rule]:
    """Yield our rules in a namespace."""
    for found in map(rule, space.socket.dump(dumprules())):
        if found.protocol == PROTOCOL and found.source:
            yield Rule(space.name, found.source, found.table)


def _shaping(space: Space, message: LinkMessage) -> Iterator[Shaper | Redirect]:
    """Yield what of traffic control is ours on a link of ours, asking for that alone."""
    wire, index = space.socket, message.ifindex
    with suppress(NetlinkError, BlockingIOError):  # it has the root that it was born with
        root = tc.qdisc(wire.ask(tc.getroot(index)))
        if root.kind == "tbf":
            rate = root.rate * 8
            yield Shaper(space.name, message.name, rate if root.limit == rates.limit(rate) else 0)
    rules = [found for found in map(tc.filter_, wire.dump(tc.dumpredirects(index))) if found.priority]
    if rules:
        target = next((found.target for found in rules if found.target), 0)
        there = space.link(target) if target else None
        name = there.name if there and there.group != DYING else ELSEWHERE
        yield Redirect(space.name, message.name, name)


def _told_link(operation: Operation) -> tuple[str, str] | None:
    """Return where the link is, and its name, that was told what *operation* is about; None if it is about a link."""
    match operation.resource:
        case Forwarding(netns=netns, link=name) | Neighbour(netns=netns, link=name):
            return netns, name
        case _:
            return None


def _forgetting(index: int, entry: Resource) -> bytes:
    """Return what takes back what a link was told."""
    match entry:
        case Forwarding(mac=mac, remote=remote):
            return delfdb(index, mac, remote=remote)
        case Neighbour(address=neighbour_address):
            return delneigh(index, neighbour_address)
        case _:
            raise TypeError(f"no link was told {entry}")


def _remove_shaping(space: Space, index: int, resource: Shaper | Redirect) -> None:
    """Take from a link what is ours of traffic control; the qdisc for filters stays, for others may have some there."""
    try:
        space.socket.request(tc.deltbf(index) if isinstance(resource, Shaper) else tc.delredirect(index))
    except NetlinkError as error:
        if error.errno != EINVAL:  # somebody has put another in its place
            raise


def _bridge(netns: str, message: LinkMessage, owner: Owner) -> Bridge:
    return Bridge(netns, message.name, owner, message.mtu, _ipv6(message), message.up)


def _vxlan(netns: str, message: LinkMessage, owner: Owner, master: LinkMessage | None, under: str) -> Vxlan:
    told = message.vxlan or VxlanMessage(0, 0, None, learning=False, asking=False)
    return Vxlan(
        netns,
        message.name,
        told.vni,
        master.name if master else "",
        owner,
        told.port,
        told.local,
        told.learning,
        told.asking,
        message.mtu,
        message.up,
        under,
    )


def _vxlan_changes(tunnel: Vxlan, message: LinkMessage, master: int) -> Iterator[bytes]:
    index = message.ifindex
    if tunnel.mtu is not None and tunnel.mtu != message.mtu:
        yield setlink(index, mtu=tunnel.mtu)
    if master != message.master:
        yield setlink(index, master=master)
    yield setlink(index, learning=False)
    if tunnel.up != message.up:
        yield setlink(index, up=tunnel.up)


def _veth(  # noqa: PLR0917 (it is called three times, next to the definition of its arguments)
    netns: str, near: LinkMessage, peer_netns: str, far: LinkMessage | None, owner: Owner, master: LinkMessage | None
) -> Veth:
    """Return the pair of these two ends. What differs between them and should not is None, and so to be changed."""
    if far is None:
        return Veth(netns, near.name, peer_netns, "", owner, up=near.up, peer_up=False)
    ipv6: bool | None = _ipv6(far)
    if _ipv6(near) != ipv6 and not (ipv6 and master):
        ipv6 = None
    return Veth(
        netns,
        near.name,
        peer_netns,
        far.name,
        owner,
        far.mac,
        master.name if master else None,
        near.mtu if near.mtu == far.mtu else None,
        bool(near.isolated),
        ipv6,
        far.announce,
        near.learning is False and near.flood is False,
        near.up,
        far.up,
    )


def _stands(message: LinkMessage) -> bool:
    """Whether a link is of a kind that stands on another."""
    return message.kind == "vlan" or message.kind in _CHILDREN


def _take_back(space: Space) -> None:
    """Delete what stands in a namespace that is ours no longer: who comes in its place needs its MACs and numbers."""
    with suppress(OSError):
        links = map(link, space.socket.dump(dumplinks()))
        ours = (one for one in links if one.kind in _LEFT_BEHIND and naming.owner(one.alias))
        space.socket.attempt(*(dellink(one.ifindex) for one in ours))


def _child(netns: str, message: LinkMessage, parent: str, owner: Owner) -> Child:
    if message.kind == "macvlan":
        mode, flag = _MACVLAN_MODES.get(message.macvlan_mode or 0, ""), ""
    else:
        mode, flag = _IPVLAN_MODES.get(message.ipvlan_mode or 0, ""), _IPVLAN_FLAGS.get(message.ipvlan_flag or 0, "")
    mac, mtu, ipv6 = message.mac, message.mtu, _ipv6(message)
    announce, up = message.announce, message.up
    return Child(netns, message.name, parent, message.kind, mode, owner, flag, mac, mtu, ipv6, announce, up)


_MACVLAN_MODES = {mode.value: mode.name.lower() for mode in MacvlanMode}
_IPVLAN_MODES = {mode.value: mode.name.lower() for mode in IpvlanMode}
_IPVLAN_FLAGS = {flag.value: flag.name.lower() for flag in IpvlanFlag if flag is not IpvlanFlag.BRIDGE}


def _kind(new: Vlan | Child) -> str:
    return "vlan" if isinstance(new, Vlan) else new.kind


def _birth(new: Vlan | Child, index: int, parent: int, netns: int) -> bytes:
    """Return the message that makes a link which stands on another: retired, until it bears its mark."""
    if isinstance(new, Vlan):
        data = netlink.vlan(new.vid)
        return newlink("vlan", new.name, index=index, parent=parent, group=DYING, netns=netns, data=data)
    if new.kind == "macvlan":
        data = netlink.macvlan(MacvlanMode[new.mode.upper()])
    else:
        data = netlink.ipvlan(IpvlanMode[new.mode.upper()], IpvlanFlag[(new.flag or "bridge").upper()])
    mac, mtu = new.mac or "", new.mtu or 0
    return newlink(
        new.kind, new.name, index=index, parent=parent, mac=mac, mtu=mtu, group=DYING, netns=netns, data=data
    )


def _standing_changes(new: Vlan | Child, message: LinkMessage) -> Iterator[bytes]:
    index = message.ifindex
    if isinstance(new, Child):
        if new.mac is not None and new.mac != message.mac:
            yield setlink(index, mac=new.mac)
        if new.mtu is not None and new.mtu != message.mtu:
            yield setlink(index, mtu=new.mtu)
        if new.ipv6 is not None and message.addr_gen_mode is not None and _ipv6(message) != new.ipv6:
            yield setlink(index, addr_gen_mode=_mode(new.ipv6))
        if new.announce is not None and new.announce != message.announce:
            yield setlink(index, announce=new.announce)
    if new.up != message.up:
        yield setlink(index, up=new.up)


def _bridge_changes(switch: Bridge, message: LinkMessage) -> Iterator[bytes]:
    index = message.ifindex
    if switch.mtu is not None and switch.mtu != message.mtu:
        yield setlink(index, mtu=switch.mtu)
    if switch.ipv6 is not None and message.addr_gen_mode is not None and _ipv6(message) != switch.ipv6:
        yield setlink(index, addr_gen_mode=_mode(switch.ipv6))
    if switch.up != message.up:
        yield setlink(index, up=switch.up)


_BRIDGE = netlink.bridge(forward_delay=0, stp=False)


def _lasting_mac(owner: Owner) -> str:
    """Return a MAC of its own for the link of *owner* that others know as their gateway.

    It is the same each time that this link is made: who has it in mind reaches the one that takes a lost one's place.
    """
    return f"02:42:{hashlib.sha256(naming.mark(owner).encode()).digest()[:4].hex(':')}"


def _mode(ipv6: bool) -> AddrGenMode:  # noqa: FBT001 (it is the value that is translated)
    return AddrGenMode.EUI64 if ipv6 else AddrGenMode.NONE


def _ipv6(message: LinkMessage) -> bool:
    """Whether a link gets an IPv6 address by itself."""
    return message.addr_gen_mode not in {None, AddrGenMode.NONE}


def _broadcast(interface: IPInterface) -> IPv4Address | None:
    """Return the broadcast address of an IPv4 subnet that has one."""
    subnet = interface.network
    return subnet.broadcast_address if isinstance(subnet, IPv4Network) and subnet.prefixlen < 31 else None


def _replacing(message: bytes) -> bytes:
    """Return the request *message* with flags that let it replace what is there (`ip route replace`)."""
    return message[:6] + _REPLACE + message[8:]


def _frames() -> socket.socket:
    """Return a socket that sends whole frames and hears none."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)


def _chance(size: int) -> int:
    """Return a random number of so many bytes."""
    return int.from_bytes(os.urandom(size), "little")


def _deletion(index: int) -> tuple[bytes, bytes]:
    """Return what deletes a link that stands on another. The alias goes first, as when a pair of veths is retired.

    It is not retired: to take it down makes the kernel wait as long as to delete it does, 15 milliseconds
    (`macvlan_stop`), and while it is there nobody else on its parent can have its MAC, or its number, or its addresses.
    So it goes also before its namespace, which the kernel takes apart some time later.
    """
    return setlink(index, alias="", group=DYING), dellink(index)


def _nobodys(index: int) -> str:
    """Return a name for a link that nobody wants."""
    return f"dying{index:x}"


def _path(name: str) -> str:
    """Return the path of a sysctl: where the name has a dot, it has a slash, and the other way round."""
    return name.translate(_SWAP)


_SWAP = str.maketrans("./", "/.")


def _place(netns: str) -> str:
    return f"the namespace {netns}" if netns else "the host's namespace"


_NO_INDEX = "no index for a new link was free, after several tries"


def _taken(operation: Operation, name: str, space: Space) -> Refused:
    return Refused(operation, EEXIST, f"a link named {name} is in {_place(space.name)} already, and is not ours")


def _refused(operation: Operation, error: OSError) -> Refused:
    """Say in our words what Linux said."""
    number = error.errno or EINVAL
    return Refused(operation, number, _reason(operation.resource, number) or str(error.strerror))


def _reason(resource: Resource, number: int) -> str:
    """Say what Linux's *number* means of this *resource*, where its own words do not tell; else nothing."""
    match resource:
        case Veth() if number == EXFULL:
            return "a bridge has room for 1,023 ports; connect the container to another network"
        case Port(name=name) if number == EBUSY:
            return f"{name} is the parent of macvlan or ipvlan links, or a port of another switch"
        case Vlan(parent=parent) if number == ENETDOWN:
            return f"{parent} is down; set it up (ip link set {parent} up)"
        case Ifb() | Shaper() | Redirect():
            return _reason_of_shaping(resource, number)
        case Child(parent=parent, mac=mac) if number == EADDRINUSE:
            return f"{parent}, or another link on it, has the MAC {mac}"
    return ""


def _reason_of_shaping(resource: Ifb | Shaper | Redirect, number: int) -> str:
    """As `_reason`: for most of this kernels have modules, and not all kernels have those."""
    match resource:
        case Ifb() if number == EOPNOTSUPP:
            return f"this kernel has no ifb; load its module (modprobe ifb), or {_ONE_WAY}"
        case Shaper() if number == ENOENT:
            return "this kernel has no tbf; load its module (modprobe sch_tbf), or set no rate"
        case Redirect() if number == ENOENT:
            return (
                "this kernel lacks clsact, u32 or mirred; load them (modprobe -a sch_ingress cls_u32 act_mirred), or "
                f"{_ONE_WAY}"
            )
        case Redirect(link=link) if number == EINVAL:
            return f"{link} has the qdisc ingress where clsact has to be; remove that (tc qdisc del dev {link} ingress)"
    return ""


_ONE_WAY = "limit what is received alone, as 100mbit/off does"
