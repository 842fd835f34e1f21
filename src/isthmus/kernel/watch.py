"""What goes while nobody of ours took it, and what others bring: heard of as it happens.

Programs of others remove what is ours: systemd-networkd deletes routes that it does not know, firewalls begin with `nft
flush ruleset`, people type `ip link del`. The kernel tells of it, and a `Watch` says whose it was, so that the engine
looks again. It is for an event loop: neither it nor the kernel's filters, which drop what is only made, wait for
anything.

Of our own doing little comes through. A link that the kernel's side retires loses its mark first; the addresses that it
takes along are known by its group. (A veth that is made is seen down for a moment: such news has `ifi_change` all set,
and is dropped.) What still does is harmless: the engine looks, and finds all as it should be.

What comes is heard of by a socket of its own, in the host's namespace alone: a parent that a network waits for, a route
that lies over a subnet of ours, another address of the host's, another default route, another MTU of what leads
outside. A link that is renamed while it is up is not heard of, for the kernel tells of that in the words in which it
tells of all else.

When a link is told of who is where, the kernel does not say by whom. But what we tell a tunnel has a flag, which goes
when somebody else replaces it: only what lacks it is heard. Of what goes all is heard, unless it goes with a link that
we retired; whether it is still wanted, the engine knows.
"""

import os
import select
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from struct import Struct

from isthmus import inotify, naming
from isthmus.bpf import (
    COPY,
    COPY_BACK,
    EVERYTHING,
    IF_BITS,
    IF_EQUAL,
    LOAD_BYTE,
    LOAD_BYTE_BEYOND,
    LOAD_HALF,
    LOAD_WORD,
    LOAD_WORD_BEYOND,
    RETURN,
    Instruction,
    attribute,
)
from isthmus.kernel import (
    Appeared,
    FirewallTouched,
    Lost,
    Missed,
    News,
    Overrun,
    PathChanged,
    Retold,
    Routed,
    Shaken,
    namespaces,
    nfnetlink,
)
from isthmus.kernel.linux import DYING, whose
from isthmus.kernel.netlink import (
    AF_BRIDGE,
    AF_UNSPEC,
    IFF_UP,
    IFLA_EVENT,
    IFLA_IFNAME,
    IFLA_MTU,
    NDA_PROTOCOL,
    NETLINK_ROUTE,
    NTF_EXT_LEARNED,
    NTF_SELF,
    NUD_FAILED,
    NUD_NOARP,
    NUD_PERMANENT,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_GETNEIGH,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV4_RULE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_IPV6_RULE,
    RTMGRP_LINK,
    RTMGRP_NEIGH,
    RTN_UNICAST,
    AddressMessage,
    Event,
    LinkMessage,
    Monitor,
    NeighbourMessage,
    NetlinkError,
    RouteMessage,
    RuleMessage,
    Socket,
    address,
    dumpaddrs,
    dumplinks,
    getlink,
    getnsid,
    link,
    neighbour,
    nsid,
    route,
    rule,
)
from isthmus.kernel.nft import SETS
from isthmus.kernel.tc import RTM_DELQDISC, RTM_DELTFILTER, RTMGRP_TC, FilterMessage, QdiscMessage, filter_, qdisc
from isthmus.model import HOST
from isthmus.naming import MAIN_TABLE, PROTOCOL, Owner

_Message = LinkMessage | AddressMessage | RouteMessage | RuleMessage | NeighbourMessage | QdiscMessage | FilterMessage
_USER = "user-"
_PASSING = frozenset(kind.name for kind in SETS.values() if kind.passing)


class Watch:
    """What happens to our things in the namespace of the thread that makes this, and in all of ours tied to it.

    *Directory* holds the mounts of our namespaces, and *known* is where iproute2 knows their names, until somebody
    deletes one there; changes through the nftables socket of *firewall_port* are our own (`LinuxKernel.firewall_port`).
    When `fileno` is readable, there may be something to `read`.
    """

    def __init__(self, directory: Path, firewall_port: int, *, known: Path = Path("/run/netns")) -> None:
        self._directory = directory
        self._socket = Socket()
        self._links: Monitor[_Message] = Monitor(NETLINK_ROUTE, _GROUPS, _FILTER, _decode, tied=True)
        self._comings: Monitor[_Message] = Monitor(NETLINK_ROUTE, _COMING_GROUPS, _coming_filter(()), _decode)
        self._addresses: Monitor[_Message] = Monitor(NETLINK_ROUTE, _ADDRESS_GROUPS, _ADDRESS_FILTER, _decode)
        self._misses: Monitor[_Message] = Monitor(NETLINK_ROUTE, RTMGRP_NEIGH, _MISS_FILTER, _decode, tied=True)
        self._told: Monitor[_Message] = Monitor(NETLINK_ROUTE, RTMGRP_NEIGH, _TOLD_FILTER, _decode, tied=True)
        self._rules = nfnetlink.changes((firewall_port,))
        self._departures = inotify.Watch(str(known), inotify.DELETED)
        heard = (self._links, self._comings, self._addresses, self._misses, self._told, self._rules)
        self._any = select.epoll()
        for number in (*(one.fileno() for one in heard), self._departures.fileno()):
            self._any.register(number, select.EPOLLIN)
        self._names: dict[int, str] = {}
        self._dying: set[tuple[int | None, int]] = set()
        self._held = {(one.ifindex, one.address) for one in map(address, self._socket.dump(dumpaddrs()))}
        self._known = {
            one.ifindex: _state(one) for one in map(link, self._socket.dump(dumplinks())) if not _is_ours(one)
        }
        self._remember()

    def close(self) -> None:
        """Give all descriptors back."""
        self._any.close()
        self._socket.close()
        self._links.close()
        self._comings.close()
        self._addresses.close()
        self._misses.close()
        self._told.close()
        self._rules.close()
        self._departures.close()

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._any.fileno()

    def read(self) -> tuple[News, ...]:
        """Return all that was heard since the last time, each thing once, without waiting."""
        links = self._links.read()
        comings = self._comings.read()
        addresses = self._addresses.read()
        told = self._told.read()
        rules = self._rules.read()
        if not all(one.complete for one in (links, comings, addresses, told, rules)):
            self._dying.clear()
            return (Overrun(),)
        # Who deletes a namespace by its name leaves the file below its mount, which we take away ourselves.
        departed = (name for name in self._departures.read() if os.path.lexists(f"{self._directory}/{name}"))
        news: dict[News, None] = dict.fromkeys(map(Shaken, departed))
        self._learn(links.events)
        shaken: dict[int | None, None] = {}
        for event in links.events:
            message = event.message
            if isinstance(message, LinkMessage) and (owner := self._owner(event.nsid, message)):
                news[Lost(owner)] = None
            elif isinstance(message, QdiscMessage | FilterMessage):
                if event.nsid is None and (owner := self._limited(message)):
                    news[Lost(owner)] = None
            elif not isinstance(message, NeighbourMessage) and self._matters(event.nsid, message):
                shaken[event.nsid] = None
        for number in shaken:
            if (name := self._name(number)) is not None:
                news[Shaken(name)] = None
        if any(_touches(event.message) for event in rules.events):
            news[FirewallTouched()] = None
        before = self._known.copy()
        news.update(
            (one, None) for event in (*comings.events, *addresses.events) for one in self._comings_of(event.message)
        )
        news.update((one, None) for event in self._misses.read().events for one in self._missed(event))
        news.update((one, None) for one in self._retold(told.events))
        if self._known != before:
            self._remember()
        self._forget(links.events)
        return tuple(news)

    def _remember(self) -> None:
        """Do not hear any more of links that are as they are known to be."""
        self._comings.hear(_coming_filter((index, mtu) for index, (_, mtu) in self._known.items()))

    def _learn(self, events: Iterable[Event[_Message]]) -> None:
        """Remember the links that are about to be deleted by us: what goes with them is no loss."""
        for number, message in events:
            if isinstance(message, LinkMessage) and message.group == DYING:
                self._dying.add((number, message.ifindex))

    def _forget(self, events: Iterable[Event[_Message]]) -> None:
        """Forget the links that are gone now."""
        for number, message in events:
            if isinstance(message, LinkMessage) and message.event == RTM_DELLINK and message.family != AF_BRIDGE:
                self._dying.discard((number, message.ifindex))

    def _owner(self, number: int | None, message: LinkMessage) -> Owner | None:
        """Return whose link it was that went, went down, or left its bridge."""
        if message.group == DYING:
            return None
        if message.family != AF_BRIDGE:
            owner = whose(message.alias)
        elif number is None and (now := self._ask(message.ifindex)) and now.group != DYING:
            owner = whose(now.alias)  # as a port, it was told of without its alias
        else:
            return None
        if owner is None and number is None and message.master and (master := self._ask(message.master)):
            return naming.owner(master.alias)  # a link of others, on a bridge of ours
        return owner

    def _limited(self, message: QdiscMessage | FilterMessage) -> Owner | None:
        """Return whose link it is that a limit, or what one needs, went from; the qdisc it was born with is none."""
        if isinstance(message, QdiscMessage) and message.kind not in {"tbf", "clsact"}:
            return None
        now = self._ask(message.ifindex)
        return whose(now.alias) if now else None

    def _matters(self, number: int | None, message: LinkMessage | AddressMessage | RouteMessage | RuleMessage) -> bool:
        """Whether an address, route or rule that went was ours, and is not gone with a link that had to go.

        So does a link that left its bridge in a network's namespace: it is told of without its alias.
        """
        if isinstance(message, LinkMessage):
            stays = message.family == AF_BRIDGE and (number, message.ifindex) not in self._dying
            return stays and number is not None and naming.is_hidden(self._name(number) or "")
        if isinstance(message, RuleMessage):
            return message.protocol == PROTOCOL
        index = message.ifindex if isinstance(message, AddressMessage) else message.oif
        if (number, index) in self._dying:
            return False
        if isinstance(message, RouteMessage) and message.protocol == _KERNEL:
            # In the host's namespace most links are not ours.
            return number is not None or bool((now := self._ask(index)) and whose(now.alias))
        return message.protocol == PROTOCOL

    def _moves(self, message: AddressMessage) -> bool:
        """Whether an address of the host's own came or went; one that is there is told of whenever it is renewed."""
        held = (message.ifindex, message.address)
        if (message.event == RTM_DELADDR) is not (held in self._held):
            return False
        self._held ^= {held}
        return True

    def _missed(self, event: Event[_Message]) -> Iterator[Missed]:
        """Yield whom somebody looked for in a namespace of ours; what is lost of that, is looked for again."""
        if isinstance(message := event.message, NeighbourMessage) and event.nsid is not None:
            where = message.address or message.mac
            if where and (name := self._name(event.nsid)):
                yield Missed(name, where)

    def _retold(self, events: Iterable[Event[_Message]]) -> Iterator[Retold]:
        """Yield of whom a link in a network's namespace was told otherwise."""
        homes = {number: self._name(number) or "" for number in {event.nsid for event in events}}
        for number, message in events:
            if isinstance(message, NeighbourMessage) and naming.is_hidden(home := homes[number]):
                where = message.mac if message.family == AF_BRIDGE else message.address
                if where and (number, message.ifindex) not in self._dying:
                    yield Retold(home, where, message.event == RTM_DELNEIGH)

    def _comings_of(self, message: _Message) -> Iterator[News]:
        """Yield what it means for us that this came, or went, if it is not ours."""
        if isinstance(message, RouteMessage):
            destination = message.destination
            known = destination.is_link_local or destination.is_multicast
            now = None if known or not message.oif else self._ask(message.oif)
            if not destination.prefixlen:
                if message.table == MAIN_TABLE:
                    yield PathChanged()
            elif not known and not (now and _is_ours(now)):
                yield Routed(str(destination))
        elif isinstance(message, AddressMessage):
            if self._moves(message) and not ((now := self._ask(message.ifindex)) and _is_ours(now)):
                yield PathChanged()
        elif isinstance(message, LinkMessage) and not _is_ours(message):
            yield from self._link_came(message)

    def _link_came(self, message: LinkMessage) -> Iterator[News]:
        """Yield what is new of a link that was not ours when this was told."""
        before = self._known.pop(message.ifindex, None)
        if message.event == RTM_DELLINK:
            yield PathChanged()
            return
        self._known[message.ifindex] = _state(message)
        was_up, mtu = before or (False, message.mtu)
        if (was_up and not message.up) or mtu != message.mtu:
            yield PathChanged()
        fresh = before is None or (message.up and not was_up)
        if fresh and (now := self._ask(message.ifindex)) and not _is_ours(now):
            yield Appeared(now.name)

    def _name(self, number: int | None) -> str | None:
        """Return the name of the namespace that ours knows by this *number*; None if it is none of ours (any more)."""
        if number is None:
            return HOST
        known = self._names.get(number)
        # The kernel gives the number of a dead namespace to the next one.
        if known is not None and self._number(known) == number:
            return known
        self._names = {found: name for name, found in self._numbered()}
        return self._names.get(number)

    def _numbered(self) -> Iterator[tuple[str, int]]:
        for name in os.listdir(self._directory):
            number = self._number(name)
            if number is not None:
                yield name, number

    def _number(self, name: str) -> int | None:
        try:
            netns = namespaces.open_path(f"{self._directory}/{name}")
        except OSError:
            return None  # it is gone
        try:
            return nsid(self._socket.ask(getnsid(netns)))
        finally:
            os.close(netns)

    def _ask(self, index: int) -> LinkMessage | None:
        try:
            return link(self._socket.ask(getlink(index)))
        except NetlinkError:
            return None  # it is gone, too


def _touches(change: nfnetlink.Change) -> bool:
    """Whether *change* is one to our table, and not to what users have in it."""
    if change.table != naming.TABLE or change.family not in {nfnetlink.NFPROTO_INET, nfnetlink.NFPROTO_BRIDGE}:
        return False
    if change.event in {nfnetlink.NFT_MSG_NEWSETELEM, nfnetlink.NFT_MSG_DELSETELEM} and change.name in _PASSING:
        return False
    theirs = change.name.startswith(_USER)
    return not theirs or change.event == nfnetlink.NFT_MSG_DELCHAIN


def _is_ours(message: LinkMessage) -> bool:
    """Whether a link is ours, or was until it was retired."""
    return message.group == DYING or whose(message.alias) is not None


def _state(message: LinkMessage) -> tuple[bool, int]:
    """Whether a link is up, and its MTU."""
    return message.up, message.mtu


def _decode(message: bytes) -> _Message | None:
    # With a qdisc that goes comes the one that takes its place, in the same datagram.
    decode = _DECODERS.get(int.from_bytes(message[4:6], sys.byteorder))
    return decode(message) if decode else None


_DECODERS: dict[int, Callable[[bytes], _Message]] = {
    RTM_NEWLINK: link,
    RTM_DELLINK: link,
    RTM_NEWADDR: address,
    RTM_DELADDR: address,
    RTM_DELROUTE: route,
    RTM_DELRULE: rule,
    RTM_NEWROUTE: route,
    RTM_GETNEIGH: neighbour,
    RTM_NEWNEIGH: neighbour,
    RTM_DELNEIGH: neighbour,
    RTM_DELQDISC: qdisc,
    RTM_DELTFILTER: filter_,
}
_ROUTE_GROUPS = RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
_RULE_GROUPS = RTMGRP_IPV4_RULE | RTMGRP_IPV6_RULE
_GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | _ROUTE_GROUPS | _RULE_GROUPS | RTMGRP_TC
_LOW = 0 if sys.byteorder == "little" else 3  # where in a word the byte with IFF_UP is

_KERNEL = 2  # RTPROT_KERNEL: the routes to the subnets of addresses
_LOCAL_TABLE = 255

# nlmsg_type is at 4, ifi_flags at 24, ifi_change at 28, rtm_table at 20, rtm_protocol at 21. A jump is over so many
# instructions.
_FILTER: tuple[Instruction, ...] = (
    (LOAD_HALF, 0, 0, 4),
    (IF_EQUAL, 17, 0, socket.htons(RTM_DELLINK)),
    (IF_EQUAL, 16, 0, socket.htons(RTM_DELADDR)),
    (IF_EQUAL, 15, 0, socket.htons(RTM_DELRULE)),
    (IF_EQUAL, 14, 0, socket.htons(RTM_DELQDISC)),
    (IF_EQUAL, 13, 0, socket.htons(RTM_DELTFILTER)),
    (IF_EQUAL, 7, 0, socket.htons(RTM_DELROUTE)),
    (IF_EQUAL, 0, 12, socket.htons(RTM_NEWLINK)),
    (LOAD_BYTE, 0, 0, 24 + _LOW),
    (IF_BITS, 10, 0, IFF_UP),
    (LOAD_WORD, 0, 0, 28),
    (IF_EQUAL, 8, 0, 0xFFFF_FFFF),
    (LOAD_BYTE, 0, 0, 28 + _LOW),
    (IF_BITS, 5, 6, IFF_UP),
    (LOAD_BYTE, 0, 0, 20),
    (IF_EQUAL, 4, 0, _LOCAL_TABLE),
    (LOAD_BYTE, 0, 0, 21),
    (IF_EQUAL, 1, 0, PROTOCOL),
    (IF_EQUAL, 0, 1, _KERNEL),
    (RETURN, 0, 0, EVERYTHING),
    (RETURN, 0, 0, 0),
)

_COMING_GROUPS = RTMGRP_LINK | _ROUTE_GROUPS
# A link's name is the first of its attributes, which begin at 32.
_NAME_OF_15 = int.from_bytes(Struct("=HH").pack(4 + 15 + 1, IFLA_IFNAME), "big")
_VETH = int.from_bytes(b"veth", "big")

# As above; ifi_family is at 16, rtm_dst_len at 17, rtm_type at 23. The host's ends of our veths, which come and go up
# for each endpoint, are dropped by the form of their names (`naming.veth`), so that nobody is woken by them.
_COMING_FILTER: tuple[Instruction, ...] = (
    (LOAD_HALF, 0, 0, 4),
    (IF_EQUAL, 18, 0, socket.htons(RTM_NEWROUTE)),
    (IF_EQUAL, 15, 0, socket.htons(RTM_DELROUTE)),
    (IF_EQUAL, 1, 0, socket.htons(RTM_DELLINK)),
    (IF_EQUAL, 0, 22, socket.htons(RTM_NEWLINK)),
    (LOAD_BYTE, 0, 0, 16),
    (IF_EQUAL, 0, 20, AF_UNSPEC),
    (LOAD_WORD, 0, 0, 28),
    (IF_EQUAL, 3, 0, 0xFFFF_FFFF),
    (IF_EQUAL, 2, 0, 0),
    (LOAD_BYTE, 0, 0, 28 + _LOW),
    (IF_BITS, 0, 15, IFF_UP),
    (LOAD_WORD, 0, 0, 32),
    (IF_EQUAL, 0, 2, _NAME_OF_15),
    (LOAD_WORD, 0, 0, 36),
    (IF_EQUAL, 11, 0, _VETH),
    (LOAD_WORD, 0, 0, 28),
    (IF_EQUAL, 10, 8, 0),
    # Of routes that go, only default ones matter.
    (LOAD_BYTE, 0, 0, 17),
    (IF_EQUAL, 0, 7, 0),
    (LOAD_BYTE, 0, 0, 23),
    (IF_EQUAL, 0, 5, RTN_UNICAST),
    (LOAD_BYTE, 0, 0, 21),
    (IF_EQUAL, 3, 0, PROTOCOL),
    (LOAD_BYTE, 0, 0, 20),
    (IF_EQUAL, 1, 0, _LOCAL_TABLE),
    (RETURN, 0, 0, EVERYTHING),
    (RETURN, 0, 0, 0),
    # Where no flags changed, the MTU may have: unless it says what else it is, or the MTU is known.
    *attribute(IFLA_EVENT, 32),
    (IF_EQUAL, 1, 0, 0),
    (RETURN, 0, 0, 0),
    *attribute(IFLA_MTU, 32),
    (COPY, 0, 0, 0),
    (LOAD_WORD_BEYOND, 0, 0, 4),
    (COPY, 0, 0, 0),
)
_ADDRESS_GROUPS = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
# As above; ifa_scope is at 19. Link-local addresses come with every link.
_ADDRESS_FILTER: tuple[Instruction, ...] = (
    (LOAD_BYTE, 0, 0, 19),
    (IF_EQUAL, 0, 1, 0),
    (RETURN, 0, 0, EVERYTHING),
    (RETURN, 0, 0, 0),
)
# As above: of neighbours, only that a tunnel was not told of one.
_MISS_FILTER: tuple[Instruction, ...] = (
    (LOAD_HALF, 0, 0, 4),
    (IF_EQUAL, 0, 1, socket.htons(RTM_GETNEIGH)),
    (RETURN, 0, 0, EVERYTHING),
    (RETURN, 0, 0, 0),
)
_LOWER = 0 if sys.byteorder == "little" else 1  # where in a half the byte with the states is

# As above; ndm_family is at 16, ndm_state at 24, ndm_flags at 26, and the attributes begin at 28. Kept is what a tunnel
# is told for good without our flag; of what goes, all that a tunnel was told, and what was fixed on a bridge's ports.
_TOLD_FILTER: tuple[Instruction, ...] = (
    (LOAD_HALF, 0, 0, 4),
    (IF_EQUAL, 11, 0, socket.htons(RTM_DELNEIGH)),
    (IF_EQUAL, 0, 23, socket.htons(RTM_NEWNEIGH)),
    (LOAD_BYTE, 0, 0, 26),
    (IF_BITS, 21, 0, NTF_EXT_LEARNED),
    (LOAD_BYTE, 0, 0, 24 + _LOWER),
    (IF_BITS, 19, 0, NUD_FAILED),
    (LOAD_BYTE, 0, 0, 16),
    (IF_EQUAL, 0, 10, AF_BRIDGE),
    (LOAD_BYTE, 0, 0, 24 + _LOWER),
    (IF_BITS, 0, 15, NUD_NOARP | NUD_PERMANENT),
    (LOAD_BYTE, 0, 0, 26),
    (IF_BITS, 12, 13, NTF_SELF),
    (LOAD_BYTE, 0, 0, 16),
    (IF_EQUAL, 0, 4, AF_BRIDGE),
    (LOAD_BYTE, 0, 0, 26),
    (IF_BITS, 8, 0, NTF_SELF),
    (LOAD_BYTE, 0, 0, 24 + _LOWER),
    (IF_BITS, 6, 7, NUD_NOARP),
    # A neighbour that was ever ours has our mark.
    *attribute(NDA_PROTOCOL, 28),
    (COPY, 0, 0, 0),
    (LOAD_BYTE_BEYOND, 0, 0, 4),
    (IF_EQUAL, 0, 1, PROTOCOL),
    (RETURN, 0, 0, EVERYTHING),
    (RETURN, 0, 0, 0),
)
_REMEMBERED = 64


def _coming_filter(mtus: Iterable[tuple[int, int]]) -> Iterator[Instruction]:
    """The filter for what comes, when the links of these indices are known to have these *mtus*.

    Each macvlan that is put on a link makes the kernel tell of that link as if its MTU had changed.
    """
    yield from _COMING_FILTER
    for index, mtu in islice(mtus, _REMEMBERED):
        yield LOAD_WORD, 0, 0, 20
        yield IF_EQUAL, 0, 3, socket.htonl(index)
        yield COPY_BACK, 0, 0, 0
        yield IF_EQUAL, 0, 1, socket.htonl(mtu)
        yield RETURN, 0, 0, 0
    yield RETURN, 0, 0, EVERYTHING
