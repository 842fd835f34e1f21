"""The kernel of this machine: looked at and changed through netlink, by one thread.

What people wait for is a container being attached, so that is made to cost what the kernel takes and little more. A
link's index is chosen here and not asked for, so that all messages about a new pair of veths can be written before the
first is sent: one send makes the host's end, one sets up the other from within.

What people also wait for is a container being detached, and to delete a link takes the kernel 25 milliseconds; but to
delete a hundred at once takes little more. So a link that shall go is *retired*: taken down, its mark and its place in
`observe` gone, its name free, and put into a group. `reap` deletes the group, when there is time for it.

A link of ours bears its owner's mark as its alias, and so does the other end of a pair, after the word `PEER`. Linux's
answers become meanings here, once: what is there already, or gone already, is success; all else is `Refused`.
"""

import hashlib
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from errno import EADDRNOTAVAIL, EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, ESRCH, EXFULL
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import NamedTuple

from isthmus import naming
from isthmus.errors import Refused
from isthmus.kernel import Count, Scope, netlink
from isthmus.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    AddressMessage,
    AddrGenMode,
    LinkMessage,
    NetlinkError,
    RouteMessage,
    address,
    deladdr,
    dellink,
    dellink_group,
    delroute,
    dumpaddrs,
    dumplinks,
    dumproutes,
    link,
    newaddr,
    newlink,
    newroute,
    route,
    setlink,
    veth,
)
from isthmus.kernel.nft import Firewall
from isthmus.kernel.spaces import Space, Spaces
from isthmus.model import HOST, Host, HostLink, IPInterface
from isthmus.naming import PROTOCOL, Owner
from isthmus.plan import Change, Operation, Plan
from isthmus.resources import (
    Address,
    Bridge,
    Element,
    Namespace,
    Nickname,
    Port,
    Resource,
    Route,
    Sysctl,
    Table,
    Veth,
)

PEER = "peer of "
"""What stands before the mark in the alias of the second end of a pair."""

DYING = 105_105
"""The group of links (`IFLA_GROUP`) that wait to be deleted. They bear no mark."""

ELSEWHERE = "?"
"""Stands for the namespace of a pair's other end, if that is none of ours."""

_REPLACE = (NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE).to_bytes(2, sys.byteorder)
_GONE = frozenset({ENODEV, ENOENT, ESRCH, EADDRNOTAVAIL})
_REASONS = {EXFULL: "a bridge has room for 1,023 ports; connect the container to another network"}
_FRAMES = "/proc/sys/net/bridge/bridge-nf-call-iptables"
_MAIN_TABLE = 254
_LOCAL_TABLE = 255
_KERNEL = 2  # RTPROT_KERNEL: the routes that come with an address
_UNICAST = 1
_TRIES = 8
_INET6_LEAST_MTU = 1280  # RFC 8200, section 5; below it the kernel has no IPv6 on a link
_BATCHES = 32  # half as many namespaces as `Spaces` keeps open in any case


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
    """What one `apply` knows while it makes things: the indices of links it met, and the batches that wait."""

    __slots__ = ("batches", "indices")

    def __init__(self) -> None:
        self.batches: dict[str, _Batch] = {}
        self.indices: dict[tuple[str, str], int] = {}


class LinuxKernel:
    """Linux, as `Kernel` says. It speaks of the namespace in which the thread that makes this stands, and must stay.

    *Exec_root* is where the mounts of our namespaces lie (in `netns/`), and *known* where iproute2 looks for their
    names. Up to *pool* namespaces are made in advance, by `prepare`.
    """

    def __init__(self, exec_root: Path, *, known: Path = Path("/run/netns"), pool: int = 4) -> None:
        self._spaces = Spaces(exec_root / "netns", known, pool)
        self._firewall = Firewall()
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
        found.update(port for name in scope.ports if (port := self._port(name)))
        for netns, name in scope.sysctls:
            if space := spaces.find(netns):
                try:
                    found.add(Sysctl(netns, name, " ".join(spaces.read(space, _path(name)).split())))
                except OSError:
                    continue  # this kernel or namespace has no such setting
        if scope.firewall or scope.everything:
            found.update(self._firewall.observe())
        return frozenset(found)

    def apply(self, plan: Plan) -> None:
        """See `Kernel.apply`.

        Messages travel in batches: where one is refused, what was sent along with it in the same namespace has been
        done.
        """
        if not plan.remove and not plan.make:
            self._firewall.apply((*plan.tighten, *plan.loosen))
            return
        self._firewall.apply(plan.tighten)
        if plan.remove:
            self._remove_all(plan.remove)
        if plan.make:
            self._make_all(plan.make)
        self._firewall.apply(plan.loosen)

    def host(self) -> Host:
        """See `Kernel.host`. Left out are default routes, and what is local, broadcast, multicast or link-local."""
        wire = self._spaces.host.socket
        links = {message.ifindex: message for message in map(link, wire.dump(dumplinks()))}
        ours = {index for index, message in links.items() if whose(message.alias) or message.group == DYING}
        addresses: dict[int, list[AddressMessage]] = {}
        for held in map(address, wire.dump(dumpaddrs())):
            addresses.setdefault(held.ifindex, []).append(held)
        return Host(
            links=tuple(
                HostLink(
                    message.name, message.kind, message.mtu, tuple(held.address for held in addresses.get(index, ()))
                )
                for index, message in links.items()
                if index not in ours
            ),
            routes=tuple(
                dict.fromkeys(
                    str(found.destination)
                    for found in map(route, wire.dump(dumproutes()))
                    if found.kind == _UNICAST
                    and found.table != _LOCAL_TABLE
                    and found.protocol != PROTOCOL
                    and found.destination.prefixlen
                    and found.oif not in ours
                    and not found.destination.is_multicast
                    and not found.destination.is_link_local
                )
            ),
            frames_filtered=self._firewall.has_strangers() if os.path.exists(_FRAMES) else None,
        )

    def counts(self) -> tuple[Count, ...]:
        """See `Kernel.counts`."""
        return self._firewall.counts()

    def prepare(self) -> bool:
        """Make one namespace ahead of need, when nothing else is to do; tell whether there is room for more."""
        return self._spaces.prepare()

    def reap(self) -> None:
        """Delete all links that were retired: 15 milliseconds, and 30 for a hundred of them."""
        while self._dying:
            netns, _ = self._dying.popitem()
            if space := self._spaces.find(netns):
                space.socket.attempt(dellink_group(DYING))  # ENODEV: none is left

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
        for name in spaces.names():
            if space := spaces.find(name):
                found.add(Namespace(name))
                view = views[name] = _View(space)
                if len(view.links) > 1 and (number := spaces.number(space)) is not None:
                    by_number[number] = view
        for view in views.values():
            for message in view.links.values():
                owner = naming.owner(message.alias)
                if message.group == DYING:
                    self._dying.setdefault(view.name, {})  # somebody died before he could reap
                if owner is None:
                    continue
                if message.kind == "bridge":
                    found.add(_bridge(view.name, message, owner))
                    found.update(view.things(message, owner))
                elif message.kind == "veth":
                    number = message.link_netnsid
                    home = view if number is None else by_number.get(number) if view.name == HOST else None
                    other = home.links.get(message.link) if home else None
                    if home is None or other is None:
                        if space := spaces.find(view.name):
                            self._observe_link(space, message, set(), found)
                        continue
                    master = view.links.get(message.master)
                    found.add(_veth(view.name, message, home.name, other, owner, master))
                    found.update(view.things(message, owner))
                    found.update(home.things(other, owner))

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
        if message.kind == "bridge":
            found.add(_bridge(space.name, message, owner))
            found.update(_things(space, message, owner))
            return
        if message.kind != "veth":
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
        for operation in operations:
            resource = operation.resource
            match resource:
                case Veth() as pair:
                    self._make_veth(operation, pair, work)
                case Address() | Route():
                    self._make_inner(operation, resource, work)
                case Namespace() | Nickname():
                    try:
                        if isinstance(resource, Namespace):
                            self._spaces.make(resource.name)
                        else:
                            self._spaces.nickname(resource.name, resource.netns)
                    except OSError as error:
                        raise _refused(operation, error) from error
                case Bridge() as switch:
                    self._make_bridge(operation, switch, work)
                case Port() as port:
                    self._make_port(operation, port, work)
                case Sysctl(netns, name, value):
                    try:
                        self._spaces.write(self._space(operation, netns), _path(name), value)
                    except OSError as error:
                        raise _refused(operation, error) from error
                case Table() | Element():
                    pass  # they have phases of their own
        self._flush_all(work)

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
            errors = home.socket.attempt(
                newlink("veth", pair.name, index=index, master=master, mac=mac, mtu=mtu, queues=1, data=data),
                setlink(index, alias=alias, addr_gen_mode=quiet, isolated=pair.isolated if master else None),
                setlink(index, up=pair.up),
            )
            if not errors:
                break
            if errors[0].index == 0 and errors[0].errno == EBUSY:
                self._index += _chance(2)
                continue
            if errors[0].index == 0 and errors[0].errno == EXFULL and self._dying.get(home.name):
                self.reap()  # those that are retired still have their ports
                continue
            if errors[0].index == 0 and errors[0].errno == EEXIST:
                if self._complete_veth(operation, pair, home, away, work):
                    return
                continue
            raise _refused(operation, errors[0])
        else:
            raise Refused(operation, EBUSY, "no index for a new link was free, after several tries")
        work.indices[pair.netns, pair.name] = index
        work.indices[pair.peer_netns, pair.peer] = other
        self._permit_ipv6(operation, away, pair)
        batch = self._batch(work, away)
        mode = AddrGenMode.NONE if pair.ipv6 is False and self._speaks_inet6(mtu) else None
        batch.add(operation, setlink(other, alias=PEER + alias, addr_gen_mode=mode))
        batch.rising.append((operation, setlink(other, up=pair.peer_up)))

    def _speaks_inet6(self, mtu: int) -> bool:
        """Whether a link with this *mtu* (0: the kernel's choice) has settings of IPv6, which needs 1280 bytes."""
        return self._inet6 and not 0 < mtu < _INET6_LEAST_MTU

    def _permit_ipv6(self, operation: Operation, space: Space, pair: Veth) -> None:
        """Switch IPv6 on, on the end inside of a pair that shall have it; our namespaces begin without."""
        if pair.ipv6 and space is not self._spaces.host:
            try:
                self._spaces.write(space, f"net/ipv6/conf/{pair.peer}/disable_ipv6", "0")
            except OSError as error:
                raise _refused(operation, error) from error

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
            raise Refused(operation, EEXIST, f"a link named {pair.peer} is in {_place(away.name)} already")
        if naming.owner(message.alias) is None or message.kind != "veth":
            raise Refused(operation, EEXIST, f"a link named {name} is in {_place(home.name)} already, and is not ours")
        end = self._other_end(home, message)
        if naming.owner(message.alias) != pair.owner or end is None or end[0] is not away:
            self._retire(home, message)
            self._free_name(home, name)
            return False
        other = end[1]
        self._flush_all(work)
        self._send(operation, home, self._host_half(operation, home, pair, message, work))
        self._permit_ipv6_of(operation, away, pair, other)
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
            if pair.isolated is not None:
                yield setlink(index, isolated=pair.isolated)
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
        if up != pair.peer_up:
            yield setlink(index, up=pair.peer_up)

    def _permit_ipv6_of(self, operation: Operation, space: Space, pair: Veth, message: LinkMessage) -> None:
        """As `_permit_ipv6`, on an end that may not have its name yet."""
        if pair.ipv6 and space is not self._spaces.host:
            try:
                self._spaces.write(space, f"net/ipv6/conf/{message.name}/disable_ipv6", "0")
            except OSError as error:
                raise _refused(operation, error) from error

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
                self._send(operation, space, self._rising(space, switch, index))
                work.indices[switch.netns, switch.name] = index
                return
            if errors[0].index or errors[0].errno != EBUSY:
                break
        if errors[0].errno != EEXIST:
            raise _refused(operation, errors[0])
        message = space.link(switch.name)
        if message is None or message.kind != "bridge" or naming.owner(message.alias) != switch.owner:
            raise Refused(
                operation, EEXIST, f"a link named {switch.name} is in {_place(space.name)} already, and is not ours"
            )
        self._send(operation, space, _bridge_changes(switch, message))
        work.indices[switch.netns, switch.name] = message.ifindex

    def _rising(self, space: Space, switch: Bridge, index: int) -> Iterator[bytes]:
        """Set a new bridge up. Its own IPv6 address is of use at once: nobody else can have it."""
        if switch.ipv6:
            with suppress(OSError):
                self._spaces.write(space, f"net/ipv6/conf/{switch.name}/accept_dad", "0")
        yield setlink(index, up=switch.up)

    def _make_port(self, operation: Operation, port: Port, work: _Work) -> None:
        space = self._space(operation, port.netns)
        master = self._index_of(operation, space, port.master, work)
        self._send(operation, space, (setlink(port.name, master=master), setlink(port.name, up=True)))

    def _make_inner(self, operation: Operation, resource: Address | Route, work: _Work) -> None:
        """Let the message that makes an address or a route wait."""
        space = self._space(operation, resource.netns)
        index = self._index_of(operation, space, resource.link, work)
        if isinstance(resource, Address):
            message = newaddr(index, resource.interface, broadcast=_broadcast(resource.interface))
        else:
            message = newroute(resource.destination, gateway=resource.via, oif=index)
            if isinstance(operation, Change):
                message = _replacing(message)
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
                if errors[0].errno != EEXIST or not isinstance(resource, Address | Route):
                    raise _refused(operation, errors[0])
                message = batch.messages[index]
                if isinstance(resource, Route):
                    self._make_route_again(operation, resource, batch.space, message)
                else:
                    self._make_address_again(operation, resource, batch.space, message)
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
        ours = space.socket.dump(dumproutes(protocol=PROTOCOL))
        if space is self._spaces.host and all(route(found).destination != wanted.destination for found in ours):
            raise Refused(operation, EEXIST, f"the host has a route to {wanted.destination} that is not ours")
        self._send(operation, space, (_replacing(message),))

    # ---- removing

    def _remove_all(self, operations: Sequence[Operation]) -> None:
        """Remove dependents first, and go on after what is refused."""
        ending = {operation.resource.name for operation in operations if isinstance(operation.resource, Namespace)}
        refusals: list[Refused] = []
        for operation in operations:
            try:
                self._remove(operation.resource, ending)
            except OSError as error:
                if error.errno not in _GONE:
                    refusals.append(_refused(operation, error))
        if refusals:
            raise ExceptionGroup("some could not be removed", refusals)

    def _remove(self, resource: Resource, ending: set[str]) -> None:
        """Take *resource* away, if it is there and ours."""
        if isinstance(resource, Nickname):
            self._spaces.forget_nickname(resource.name)
            return
        if isinstance(resource, Namespace):
            self._spaces.remove(resource.name)
            return
        if isinstance(resource, Sysctl | Table | Element) or (space := self._spaces.find(resource.netns)) is None:
            return
        name = resource.link if isinstance(resource, Address | Route) else resource.name
        message = space.link(name)
        if message is None:
            return
        index, ours = message.ifindex, naming.owner(message.alias) is not None
        match resource:
            case Veth() if ours and message.kind == "veth":
                self._retire(space, message, ending)
            case Bridge() if ours:
                space.socket.request(dellink(index))
            case Port(master=master):
                if message.master and (bridge := space.link(message.master)) and bridge.name == master:
                    space.socket.request(setlink(index, master=0))
            case Address(interface=interface):
                space.socket.request(deladdr(index, interface))
            case Route(destination=destination):
                space.socket.request(delroute(destination, oif=index))
            case _:
                pass  # somebody else's thing has that name

    def _retire(self, space: Space, message: LinkMessage, ending: Iterable[str] = ()) -> None:
        """Let a pair of veths stop at once, and leave the rest to `reap`.

        The alias goes first, so that nobody who listens takes what follows for an accident. The end inside gets out of
        the way of its name, which people use; that of the host's end is taken back when it is needed, and it leaves its
        bridge when it is deleted, which costs less for many at once. In a namespace of *ending*, nothing more has to be
        done.
        """
        index = message.ifindex
        farewell = setlink(index, alias="", group=DYING)
        space.socket.request(farewell, setlink(index, up=False))
        self._dying.setdefault(space.name, {})[message.name] = index
        far, index = self._beyond(space, message), message.link
        if far is None:
            return
        farewell = setlink(index, alias="", group=DYING)
        if far.name in ending:
            far.socket.request(farewell)
        else:
            far.socket.request(farewell, setlink(index, up=False), _out_of_the_way(index))

    def _free_name(self, space: Space, name: str) -> None:
        """Rename the retired link that still has this *name*, if there is one.

        To try and see is no way: a pair of which one name is taken costs the kernel 14 milliseconds to take back.
        """
        retired = self._dying.get(space.name)
        if retired and (index := retired.pop(name, None)):
            space.socket.attempt(_out_of_the_way(index))

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
        if space is self._spaces.host:
            try:
                index = socket.if_nametoindex(name)
            except OSError:
                index = None
        else:
            message = space.link(name)
            index = message.ifindex if message else None
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

    __slots__ = ("_addresses", "_routes", "links", "name")

    def __init__(self, space: Space) -> None:
        self.name = space.name
        wire = space.socket
        self.links = {message.ifindex: message for message in map(link, wire.dump(dumplinks()))}
        self._addresses: dict[int, list[AddressMessage]] = {}
        self._routes: dict[int, list[RouteMessage]] = {}
        if len(self.links) > 1:
            for held in map(address, wire.dump(dumpaddrs())):
                self._addresses.setdefault(held.ifindex, []).append(held)
            for found in map(route, wire.dump(dumproutes(table=_MAIN_TABLE))):
                self._routes.setdefault(found.oif, []).append(found)

    def things(self, message: LinkMessage, owner: Owner) -> Iterator[Address | Route]:
        """Yield our addresses and routes on a link."""
        index = message.ifindex
        return _inner(self.name, message, owner, self._addresses.get(index, ()), self._routes.get(index, ()))


def _things(space: Space, message: LinkMessage, owner: Owner) -> Iterator[Address | Route]:
    """Yield our addresses and routes on one link, asking for no others."""
    wire, index = space.socket, message.ifindex
    addresses = map(address, wire.dump(dumpaddrs(index=index)))
    routes = [route(found) for found in wire.dump(dumproutes(table=_MAIN_TABLE, oif=index))]
    return _inner(space.name, message, owner, addresses, routes)


def _inner(
    netns: str,
    message: LinkMessage,
    owner: Owner,
    addresses: Iterable[AddressMessage],
    routes: Sequence[RouteMessage],
) -> Iterator[Address | Route]:
    # An address whose route to its subnet was taken away is of no use: it is not seen, and so made again.
    reached = {found.destination for found in routes if found.protocol == _KERNEL}
    for held in addresses:
        subnet = held.address.network
        whole = not message.up or subnet.num_addresses == 1 or subnet in reached
        if held.protocol == PROTOCOL and whole:
            yield Address(netns, message.name, held.address, owner)
    for found in routes:
        if found.protocol == PROTOCOL:
            yield Route(netns, found.destination, message.name, owner, found.gateway)


def _bridge(netns: str, message: LinkMessage, owner: Owner) -> Bridge:
    return Bridge(netns, message.name, owner, message.mtu, _ipv6(message), message.up)


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
        near.up,
        far.up,
    )


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


def _chance(size: int) -> int:
    """Return a random number of so many bytes."""
    return int.from_bytes(os.urandom(size), "little")


def _out_of_the_way(index: int) -> bytes:
    """Return the message that gives a link a name that nobody wants."""
    return setlink(index, name=f"dying{index:x}")


def _path(name: str) -> str:
    """Return the path of a sysctl: where the name has a dot, it has a slash, and the other way round."""
    return name.translate(_SWAP)


_SWAP = str.maketrans("./", "/.")


def _place(netns: str) -> str:
    return f"the namespace {netns}" if netns else "the host's namespace"


def _refused(operation: Operation, error: OSError) -> Refused:
    """Say in our words what Linux said."""
    number = error.errno or EINVAL
    return Refused(operation, number, _REASONS.get(number) or str(error.strerror))
