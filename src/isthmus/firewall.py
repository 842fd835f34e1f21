"""What our nftables table looks like, and how the meanings that drivers speak of are said in it.

The chains are fixed text, loaded once, and changed where something optional is needed; all else that changes is an
element of a set or map, keyed by what a packet carries, so that the thousandth network costs what the first did. A
driver gives one `Policy` for each bridge; `elements` turns it into those elements.

How a packet goes through `forward`:

1. What opens a TCP connection says no greater segment size than the routes both ways bear (`clamp`). Then the user's
   own chain, `user-forward`, which we make and then never touch, is the first that has a say.
2. What belongs to a connection that was let through is let through.
3. From a bridge back into the same one: `neighbours`, unless the network keeps its members apart.
4. `leave`, by the interface that it came in on: an internal network lets nothing out.
5. What comes from a `trusted` interface, or is `marked` by the user's own rules, is let through.
6. `enter`, by the interface that it goes out on: into a network comes only what its gateway mode allows, and where the
   network says who may call, only from those (`callers4` and `callers6` by address, `entrances` by interface).
7. What crosses from one of the host's own interfaces to another is dropped if it was us who switched forwarding on
   (`closed4`, `closed6`): a host does not become a router for strangers because it runs containers.

Before all that, what comes in from a bridge of ours must fit the egress policy of who sent it (`egress`): that of its
address on that bridge (`policed4`, `policed6`), or else that of the bridge (`policed`). What it allows is in `egress4`
and `egress6`, as boxes of protocols, ports and addresses; what it says of names besides is in timed sets (`granted4`,
`granted6`, `refused4`, `refused6`), filled as names are told. It is judged where packets come in, by where they were
sent to: before a published port is translated, and whether they are for the host or for others behind it.

A published port is one element of a map: its place on the host leads to an address and a port of a sandbox. The maps
are asked about the first packet of each connection that is for an address of the host, whether it comes in
(`prerouting`) or from the host itself (`output`). What comes in is asked first whether its place is one that not all
may use (`called`). A place with a policy of its `own` is judged there, and `callers-nat` does not judge it again. A
place that shall `follow` the host's own rules is led to a sandbox for those only whom these let through before: others
go on to the hook `input` untranslated, as if a process of the host were meant. Behind all rules there, `ask` sees who
is left of them, remembers him for five minutes, and drops his packet without a word, so that nothing is known of the
connection, and the packet that he sends again is translated. Who asks keeps his address, but where an answer would not
come back our way: on the bridge that it came from (`hairpin`), and from the host's loopback, whose addresses mean
somebody else inside. To let the loopback in, the kernel has to be told that such addresses may leave
(`route_localnet`); `guard` drops them where they come from our bridges, so that this opens nothing, before connection
tracking could take them for a part of what the host has with itself. IPv6 has no such thing.

Our chains accept with no say over other tables: every table with a chain on the same hook has its own vote, so a host's
firewall stays in charge. The modes are Docker's gateway modes (moby 29, drivers/bridge):

nat             what leaves bears the host's address; what enters must have been addressed to a published port
nat-unprotected the same, but every port can be reached from outside
routed          no NAT; what enters must be ICMP or meant for a published port
isolated        an internal network whose bridge has no address

Frames between the ports of a bridge meet these chains only where `bridge-nf-call-iptables` is on. We switch that off
where nobody else has rules that may count on it; elsewhere such frames are left untracked (`detoured`), which is most
of what the detour costs.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_network

import msgspec

from isthmus.addresses import written
from isthmus.egress import Box, Egress, allowed, told
from isthmus.model import Binding, IPAddress, Place
from isthmus.naming import TABLE
from isthmus.options import FOLLOW, PUBLISH, Callers, callers_of
from isthmus.ports import PROTOCOLS
from isthmus.resources import Element, Key, Table


class Mode(Enum):
    """How a network of one family meets the rest of the world."""

    NAT = "nat"
    UNPROTECTED = "nat-unprotected"
    ROUTED = "routed"
    ISOLATED = "isolated"


TRANSLATING = frozenset({Mode.NAT, Mode.UNPROTECTED})
"""The modes in which the host's addresses stand for those of a network."""


class Policy(msgspec.Struct, frozen=True):
    """What may pass in and out of the network behind *bridge*; *mode4* or *mode6* is None where it has no such family.

    *source4* and *source6* are the addresses that what leaves shall bear, instead of the one of the outgoing interface.
    *trusted* are interfaces of the host from which all may enter. Others may come to what is published: all of them if
    *callers* is None, else only those. *detoured* tells whether frames between members meet our chains. *masquerade* is
    Docker's `enable_ip_masquerade`.
    """

    bridge: str
    mode4: Mode | None
    mode6: Mode | None = None
    internal: bool = False
    icc: bool = True
    masquerade: bool = True
    source4: IPAddress | None = None
    source6: IPAddress | None = None
    trusted: tuple[str, ...] = ()
    callers: Callers | None = None
    detoured: bool = False


def elements(policy: Policy) -> Iterator[Element]:
    """The elements by which *policy* holds."""
    bridge = policy.bridge
    yield from switch(bridge, detoured=policy.detoured)
    if policy.icc:
        yield element("neighbours", (bridge, bridge))
    if not policy.internal and not TRANSLATING.isdisjoint({policy.mode4, policy.mode6}):
        yield element("hairpin", (bridge, bridge))
    for interface in policy.trusted:
        yield element("trusted", (interface, bridge))
    calling = None if policy.callers == FOLLOW else policy.callers
    if calling and not policy.internal:
        yield from (element(f"callers{one.version}", (bridge, str(one))) for one in calling.sources)
        yield from (element("entrances", (one, bridge)) for one in calling.entrances)
    for family, mode, source in (("4", policy.mode4, policy.source4), ("6", policy.mode6, policy.source6)):
        enter = _ENTER if calling is None else _ENTER_CALLING
        yield element(f"enter{family}", (bridge,), "drop" if mode is None or policy.internal else enter[mode])
        if policy.internal:
            yield element(f"leave{family}", (bridge,), "drop")
        elif mode in TRANSLATING and policy.masquerade:
            yield (
                element(f"source{family}", (bridge,), str(source))
                if source
                else element(f"masquerade{family}", (bridge,))
            )


def senders(port: str, mac: str, addresses: Iterable[IPAddress]) -> Iterator[Element]:
    """The elements by which what comes in by *port*, of a bridge, must bear this *mac* and one of *addresses*.

    The unspecified ones are let through besides: who has no address yet asks with them.
    """
    yield element("guarded", (port,))
    yield element("sender", (port, mac))
    for address in (*_UNSPECIFIED, *addresses):
        yield element(f"sender{address.version}", (port, mac, str(address)))


_UNSPECIFIED = (IPv4Address(0), IPv6Address(0))


class Subject(msgspec.Struct, frozen=True):
    """Who is held to egress *policies*: those who come in from *bridge* with one of *sources*; None stands for all.

    Each of the policies has to let a call through. They are all dry runs, or none is.
    """

    bridge: str
    sources: tuple[IPAddress, ...] | None
    policies: tuple[Egress, ...]

    @property
    def named(self) -> bool:
        """Whether they speak of names."""
        return any(policy.named for policy in self.policies)

    def keys(self, version: int) -> Iterator[tuple[str, str]]:
        """What the elements of its boxes for an IP *version* begin with."""
        sources = _UNSPECIFIED if self.sources is None else self.sources
        yield from ((self.bridge, written(one, one)) for one in sources if one.version == version)


def held(subject: Subject) -> Iterator[Element]:
    """The elements by which *subject* is held to its policies, as far as these speak of no names."""
    end = "-dry-run" if any(policy.dry_run for policy in subject.policies) else ""
    for source in subject.sources or ():
        yield element(f"policed{source.version}", (subject.bridge, str(source)), f"goto egress-own{end}")
    if subject.sources is None:
        yield element("policed", (subject.bridge,), f"goto egress-network{end}")
    for version in (4, 6):
        for key in subject.keys(version):
            yield from _boxed(f"egress{version}", key, allowed(subject.policies, version))


def named(subject: Subject, name: str, address: IPAddress) -> Iterator[Element]:
    """The elements, of timed sets, by which *subject* is held to what its policies say of *name* at *address*."""
    granted, refused = told(subject.policies, name, address)
    for key in subject.keys(address.version):
        yield from _boxed(f"granted{address.version}", key, granted)
        yield from _boxed(f"refused{address.version}", key, refused)


def _boxed(name: str, key: tuple[str, str], boxes: Iterable[Box]) -> Iterator[Element]:
    make = IPv4Address if name[-1] == "4" else IPv6Address
    for protocols, ports, (first, last) in boxes:
        yield element(name, (*key, _range(*protocols), _range(*ports), written(make(first), make(last))))


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


PUBLISHING = frozenset({"publish4", "publish6", "publish-at4", "publish-at6"})
"""The maps by which ports are translated, of which no two bindings have the same element."""


def switch(bridge: str, *, detoured: bool) -> Iterator[Element]:
    """The elements that name *bridge* as one of ours, whose frames may be *detoured* through the packet filter."""
    yield element("switched", (bridge,))
    if detoured:
        yield element("detoured", (bridge,))


def published(
    bindings: Iterable[Binding], target: IPAddress, mode: Mode, callers: Callers | None = None
) -> Iterator[Element]:
    """The elements by which *bindings* lead to their ports at *target*, on a network of this *mode* and *callers*.

    There is none for one that does not lead there. Without translation the port is opened, and what it is on the host
    has no meaning.
    """
    version, to = target.version, str(target)
    translating, following = mode in TRANSLATING, callers == FOLLOW
    every = f"publish{version}"
    permitting, table = permits(every), family(every)
    for binding in bindings:
        place = binding.place
        if translating and place.address is None and not (following or binding.callers):
            # So it is with most, of which there may be thousands.
            match = (_NUMBERS[place.protocol], str(place.port))
            yield Element(every, match, permitting, f"{to} . {binding.port}", table)
        elif not leads(binding, version, mode):
            continue
        elif translating:
            yield element(*_place(place, version), f"{to} . {binding.port}")
            if binding.callers:
                yield from _own(binding, version)
            elif following:
                yield element(f"follow{version}", _where(place, version))
        elif mode is Mode.ROUTED:
            yield element(f"open{version}", (to, _NUMBERS[place.protocol], str(binding.port)))


def leads(binding: Binding, version: int, mode: Mode) -> bool:
    """Whether *binding* leads to an address of IP *version* on a network of this *mode*.

    It does not if its place is of the other version. Nor if who may call depends on that place, and there is none:
    where nothing is translated, or where callers need not come by it.
    """
    address = binding.place.address
    return (address is None or address.version == version) and (not binding.callers or mode is Mode.NAT)


def places(bindings: Iterable[Binding], led: Iterable[int], *, follow: bool = False) -> Iterator[Key]:
    """The keys of the elements that the places of *bindings* on the host may have, whatever they lead to.

    *Led* are the IP versions in which they may have led somewhere. *Follow* tells whether a network may have let the
    host's own rules say who may call.
    """
    bindings = tuple(bindings)
    for version in led:
        for binding in bindings:
            place = binding.place
            if place.address is not None and place.address.version != version:
                continue
            name, match = _place(place, version)
            yield ("element", name, *match)
            if binding.callers:
                yield from (one.key for one in _own(binding, version))
            elif follow:
                yield ("element", f"follow{version}", *_where(place, version))


def _own(binding: Binding, version: int) -> Iterator[Element]:
    """The elements by which *binding* has a policy of its own."""
    where = _where(binding.place, version)
    callers = callers_of(PUBLISH, binding.callers)
    yield element(f"own{version}", where)
    if callers == FOLLOW:
        yield element(f"follow{version}", where)
    else:
        sources = callers.sources if callers else _ALL
        yield from (element(f"own-callers{version}", (*where, str(one))) for one in sources if one.version == version)
        yield from (element(f"own-entrances{version}", (*where, one)) for one in (callers.entrances if callers else ()))


_ALL = (ip_network("0.0.0.0/0"), ip_network("::/0"))


def _where(place: Place, version: int) -> tuple[str, str, str]:
    """How sets of intervals have *place*: all addresses of the IP *version*, or one."""
    every = place.address is None or place.address.is_unspecified
    address = _ALL[version == 6] if every else ip_network(place.address or "")
    return str(address), _NUMBERS[place.protocol], str(place.port)


_NUMBERS = {name: str(number) for name, number in PROTOCOLS.items()}


def _place(place: Place, version: int) -> tuple[str, tuple[str, ...]]:
    """The map for *place*, and its key there."""
    match = (_NUMBERS[place.protocol], str(place.port))
    if place.address is None or place.address.is_unspecified:
        return f"publish{version}", match
    return f"publish-at{version}", (str(place.address), *match)


_ENTER = {
    Mode.NAT: "goto enter-nat",
    Mode.UNPROTECTED: "accept",
    Mode.ROUTED: "goto enter-routed",
    Mode.ISOLATED: "drop",
}
_ENTER_CALLING = {**_ENTER, Mode.NAT: "goto callers-nat", Mode.ROUTED: "goto callers-routed"}


def element(name: str, match: tuple[str, ...], value: str = "") -> Element:
    """The element of the set *name* that has this *match* and *value*: whether it permits is the set's to say."""
    return Element(name, match, permits(name), value, family(name))


def permits(name: str) -> bool:
    """Whether what is in the set *name* is let through; else it is kept out, or may be."""
    return name not in _PROHIBITING


def family(name: str) -> str:
    """Of which of our two tables the set or chain *name* is."""
    return "bridge" if name in _OF_BRIDGES else "inet"


FAMILIES = ("inet", "bridge")
"""The families of which we have a table. That of bridges sees the frames between two ports of one."""

_OF_BRIDGES = frozenset({"guarded", "sender", "sender4", "sender6", "known", "arriving"})
_PROHIBITING = frozenset(
    {
        "guarded",
        *("closed4", "closed6", "enter4", "enter6", "leave4", "leave6"),
        *("own4", "own6", "follow4", "follow6"),
        *("policed", "policed4", "policed6", "refused4", "refused6"),
    }
)


def closed(version: int, interfaces: Iterable[str]) -> Iterator[Element]:
    """The elements that keep strangers' packets of IP *version* from crossing between *interfaces* of the host."""
    return (element(f"closed{version}", (interface,)) for interface in interfaces)


def marked(marks: Iterable[int]) -> Iterator[Element]:
    """The elements that let packets with one of these firewall *marks* into every network."""
    return (element("marked", (str(mark),)) for mark in marks)


_BOX4 = "type ifname . ipv4_addr . inet_proto . inet_service . ipv4_addr"
_BOX6 = "type ifname . ipv6_addr . inet_proto . inet_service . ipv6_addr"
_ADMITTED = "flags dynamic,timeout; timeout 5m; size 65536"

SETS: dict[str, str] = {
    "switched": "type ifname",
    "detoured": "type ifname",
    "neighbours": "type ifname . ifname",
    "trusted": "type ifname . ifname",
    "marked": "type mark",
    "closed4": "type ifname",
    "closed6": "type ifname",
    "enter4": "type ifname : verdict",
    "enter6": "type ifname : verdict",
    "leave4": "type ifname : verdict",
    "leave6": "type ifname : verdict",
    "policed": "type ifname : verdict",
    "policed4": "type ifname . ipv4_addr : verdict",
    "policed6": "type ifname . ipv6_addr : verdict",
    "egress4": f"{_BOX4}; flags interval",
    "egress6": f"{_BOX6}; flags interval",
    "granted4": f"{_BOX4}; flags interval,timeout",
    "granted6": f"{_BOX6}; flags interval,timeout",
    "refused4": f"{_BOX4}; flags interval,timeout",
    "refused6": f"{_BOX6}; flags interval,timeout",
    "callers4": "type ifname . ipv4_addr; flags interval",
    "callers6": "type ifname . ipv6_addr; flags interval",
    "entrances": "type ifname . ifname",
    "hairpin": "type ifname . ifname",
    "open4": "type ipv4_addr . inet_proto . inet_service",
    "open6": "type ipv6_addr . inet_proto . inet_service",
    "publish4": "type inet_proto . inet_service : ipv4_addr . inet_service; counter",
    "publish6": "type inet_proto . inet_service : ipv6_addr . inet_service; counter",
    "publish-at4": "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; counter",
    "publish-at6": "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; counter",
    "own4": "type ipv4_addr . inet_proto . inet_service; flags interval",
    "own6": "type ipv6_addr . inet_proto . inet_service; flags interval",
    "own-callers4": "type ipv4_addr . inet_proto . inet_service . ipv4_addr; flags interval",
    "own-callers6": "type ipv6_addr . inet_proto . inet_service . ipv6_addr; flags interval",
    "own-entrances4": "type ipv4_addr . inet_proto . inet_service . ifname; flags interval",
    "own-entrances6": "type ipv6_addr . inet_proto . inet_service . ifname; flags interval",
    "follow4": "type ipv4_addr . inet_proto . inet_service; flags interval",
    "follow6": "type ipv6_addr . inet_proto . inet_service; flags interval",
    "admitted4": f"type ifname . ipv4_addr . ipv4_addr . inet_proto . inet_service; {_ADMITTED}",
    "admitted6": f"type ifname . ipv6_addr . ipv6_addr . inet_proto . inet_service; {_ADMITTED}",
    "guarded": "type ifname",
    "sender": "type ifname . ether_addr",
    "sender4": "type ifname . ether_addr . ipv4_addr",
    "sender6": "type ifname . ether_addr . ipv6_addr",
    "masquerade4": "type ifname; counter",
    "masquerade6": "type ifname; counter",
    "source4": "type ifname : ipv4_addr; counter",
    "source6": "type ifname : ipv6_addr; counter",
}
"""Every set (and, where there is a colon, map) of our tables, by name.

What is in those that have timeouts comes and goes by itself, and is nobody's wish.
"""

LEARNED = frozenset({"granted4", "granted6", "refused4", "refused6"})
"""Those that `named` is about."""

USER_CHAIN = "user-forward"

# By number, as ICMP below: without /etc/protocols, which minimal systems lack, nft knows no names.
_WITH_PORTS = f"meta l4proto {{ {', '.join(map(str, sorted(PROTOCOLS.values())))} }}"

_PLACE4 = f"{_WITH_PORTS} ip daddr . meta l4proto . th dport"
_PLACE6 = f"{_WITH_PORTS} ip6 daddr . meta l4proto . th dport"
_CALLER4 = "iifname . ip saddr . ip daddr . meta l4proto . th dport"
_CALLER6 = "iifname . ip6 saddr . ip6 daddr . meta l4proto . th dport"
# From `th dport` nft learns how long the port behind is: no packet that gets there has the port 0.
_PLACED4 = f"{_WITH_PORTS} th dport != 0 ct original ip daddr . meta l4proto . ct original proto-dst"
_PLACED6 = f"{_WITH_PORTS} th dport != 0 ct original ip6 daddr . meta l4proto . ct original proto-dst"

_CALLERS = (
    "oifname . ip saddr @callers4",
    "oifname . ip6 saddr @callers6",
    "iifname . oifname @entrances",
)


def _judging(mask4: str, mask6: str, end: str) -> tuple[str, ...]:
    """The rules that let through what an egress policy allows, and have all else go to *end*."""
    lines = []
    for family, mask, version in (("ip", mask4, 4), ("ip6", mask6, 6)):
        # Protocols without ports have something else there; their boxes have all there could be.
        what = f"iifname . {family} saddr{mask} . meta l4proto . th dport . {family} daddr"
        lines += [
            f"{what} @refused{version} goto {end}",
            f"{what} @egress{version} accept",
            f"{what} @granted{version} accept",
        ]
    return (*lines, f"goto {end}")


_BY_NETWORK = (" & 0.0.0.0", " & ::")
_BY_SOURCE = ("", "")

EGRESS_LOG = 105
"""The group of netfilter's log (NFLOG) in which is told what egress policies drop, or would drop."""


def _logging(what: str) -> str:
    return f'limit rate 20/second burst 100 packets log prefix "{what}" group {EGRESS_LOG} snaplen 96'


CHAINS: dict[str, tuple[str, ...]] = {
    "egress-denied": (_logging("denied"), "counter drop"),
    "egress-rehearsed": (_logging("dry-run"), "accept"),
    "egress-own": _judging(*_BY_SOURCE, "egress-denied"),
    "egress-own-dry-run": _judging(*_BY_SOURCE, "egress-rehearsed"),
    "egress-network": _judging(*_BY_NETWORK, "egress-denied"),
    "egress-network-dry-run": _judging(*_BY_NETWORK, "egress-rehearsed"),
    "egress": (
        "type filter hook prerouting priority -105; policy accept;",
        "ct state established,related accept",
        # A frame that only passes by on its way to a neighbour (`before`).
        "ct state untracked accept",
        # Who listens to which group, and who is whose neighbour: without these there is no IPv6.
        "icmpv6 type { 130, 131, 132, 133, 134, 135, 136, 137, 143 } accept",
        "meta nfproto ipv4 iifname . ip saddr vmap @policed4",
        "meta nfproto ipv6 iifname . ip6 saddr vmap @policed6",
        "iifname vmap @policed",
    ),
    "enter-nat": ("ct status dnat accept", "counter drop"),
    # ICMP and ICMPv6.
    "enter-routed": (
        "meta l4proto { 1, 58 } accept",
        f"{_WITH_PORTS} ip daddr . meta l4proto . th dport @open4 accept",
        f"{_WITH_PORTS} ip6 daddr . meta l4proto . th dport @open6 accept",
        "counter drop",
    ),
    "callers-nat": (
        f"{_PLACED4} @own4 goto enter-nat",
        f"{_PLACED6} @own6 goto enter-nat",
        *(f"{match} goto enter-nat" for match in _CALLERS),
        "counter drop",
    ),
    "callers-routed": (
        "meta l4proto { 1, 58 } accept",
        *(f"{match} goto enter-routed" for match in _CALLERS),
        "counter drop",
    ),
    "published": (
        # A port is published on all addresses or on one, never on both, so what is usual comes first.
        f"meta nfproto ipv4 {_WITH_PORTS} dnat ip to meta l4proto . th dport map @publish4",
        f"meta nfproto ipv4 {_WITH_PORTS} dnat ip to ip daddr . meta l4proto . th dport map @publish-at4",
        # Neither from nor to these can anything be forwarded: let who asks be refused at once.
        "ip6 daddr { ::1, fe80::/10 } return",
        f"meta nfproto ipv6 {_WITH_PORTS} dnat ip6 to meta l4proto . th dport map @publish6",
        f"meta nfproto ipv6 {_WITH_PORTS} dnat ip6 to ip6 daddr . meta l4proto . th dport map @publish-at6",
    ),
    "own": (
        f"{_PLACE4} . ip saddr @own-callers4 goto published",
        f"{_PLACE6} . ip6 saddr @own-callers6 goto published",
        f"{_PLACE4} . iifname @own-entrances4 goto published",
        f"{_PLACE6} . iifname @own-entrances6 goto published",
        "counter drop",
    ),
    # Who is not admitted yet goes on to the host's own rules for `input`, and to `ask` behind them.
    "follow": (
        f"{_WITH_PORTS} {_CALLER4} @admitted4 goto published",
        f"{_WITH_PORTS} {_CALLER6} @admitted6 goto published",
    ),
    "called": (
        f"{_PLACE4} @follow4 goto follow",
        f"{_PLACE6} @follow6 goto follow",
        f"{_PLACE4} @own4 goto own",
        f"{_PLACE6} @own6 goto own",
        "goto published",
    ),
    "remember": (
        f"{_WITH_PORTS} add @admitted4 {{ {_CALLER4} }}",
        f"{_WITH_PORTS} add @admitted6 {{ {_CALLER6} }}",
        "counter drop",
    ),
    "ask": (
        "type filter hook input priority 300; policy accept;",
        "ip6 daddr { ::1, fe80::/10 } accept",
        f"ct state new {_PLACE4} @follow4 goto remember",
        f"ct state new {_PLACE6} @follow6 goto remember",
    ),
    "guard": (
        "type filter hook prerouting priority raw; policy accept;",
        "ip daddr 127.0.0.0/8 iifname @switched counter drop",
        "ip saddr 127.0.0.0/8 iifname @switched counter drop",
    ),
    "prerouting": (
        "type nat hook prerouting priority dstnat; policy accept;",
        "fib daddr type local jump published",
    ),
    "output": (
        "type nat hook output priority -100; policy accept;",
        "fib daddr type local jump published",
    ),
    "known": (
        "iifname . ether saddr != @sender counter drop",
        "iifname . ether saddr . ip saddr != @sender4 counter drop",
        "iifname . ether saddr . ip6 saddr != @sender6 counter drop",
        "iifname . arp saddr ether . arp saddr ip != @sender4 counter drop",
        "ether type != { 0x0800, 0x0806, 0x86dd } counter drop",
    ),
    "arriving": (
        "type filter hook prerouting priority -300; policy accept;",
        "iifname @guarded jump known",
    ),
    "before": (
        "type filter hook prerouting priority raw; policy accept;",
        "iifname @detoured fib daddr . iif oif exists notrack",
    ),
    "clamp": (
        "iifname @switched tcp option maxseg size set rt mtu return",
        "oifname @switched tcp option maxseg size set rt mtu",
    ),
    "forward": (
        "type filter hook forward priority filter; policy accept;",
        "tcp flags & (syn | rst) == syn jump clamp",
        f"jump {USER_CHAIN}",
        "ct state established,related accept",
        "iifname . oifname @neighbours accept",
        "meta nfproto ipv4 iifname vmap @leave4",
        "meta nfproto ipv6 iifname vmap @leave6",
        "iifname . oifname @trusted accept",
        "meta mark @marked accept",
        "meta nfproto ipv4 oifname vmap @enter4",
        "meta nfproto ipv6 oifname vmap @enter6",
        "meta nfproto ipv4 iifname @closed4 oifname @closed4 counter drop",
        "meta nfproto ipv6 iifname @closed6 oifname @closed6 counter drop",
    ),
    "postrouting": (
        "type nat hook postrouting priority srcnat; policy accept;",
        "ct status dnat iifname . oifname @hairpin masquerade",
        # A detoured frame is translated on the bridge itself, and has come in nowhere, as what the host sends.
        "ct status dnat oifname @detoured iif 0 fib saddr type unicast masquerade",
        "ip saddr 127.0.0.0/8 oifname @switched masquerade",
        "oifname @switched accept",
        "meta nfproto ipv4 snat ip to iifname map @source4",
        "meta nfproto ipv6 snat ip6 to iifname map @source6",
        "meta nfproto ipv4 iifname @masquerade4 masquerade",
        "meta nfproto ipv6 iifname @masquerade6 masquerade",
    ),
}
"""Every chain of ours, in the order in which they can be defined; a base chain's first line is its hook."""


_JUDGED = (*CHAINS["prerouting"][:-1], "fib daddr type local jump called")
"""What `prerouting` says where some ports have policies that are judged before they are translated."""

DETOUR, GUARD, EGRESS, ASK, JUDGE = "before", "arriving", "egress", "ask", "called"
"""The chains that are there only where frames between ports of a bridge meet our chains, where who is on a bridge is
held to what he is, where somebody is held to an egress policy, or where the host's own rules say who may call; and the
last one, that is met only where ports have policies, some of which may be of the latter kind. Others need not pay for
them."""

_CHAINS = frozenset({DETOUR, GUARD, EGRESS, ASK})

SELDOM = frozenset({"leave4", "leave6", "trusted", "marked", "source4", "source6"})
"""The sets, filled with networks or by the daemon's settings, that are empty on most hosts. Rules that ask them are
there only where they are not."""

OPTIONAL = _CHAINS | {JUDGE} | SELDOM

_NEEDS = {name: name for name in SELDOM} | {"detoured": DETOUR}


def chains(table: Table) -> Mapping[str, Sequence[str]]:
    """The chains, with their lines, of *table*, which is of this version."""
    needed = frozenset(table.needed)
    found = {
        name: tuple(line for line in lines if needed.issuperset(_needs(line)))
        for name, lines in CHAINS.items()
        if name not in _CHAINS or name in needed
    }
    return found | {"prerouting": _JUDGED} if JUDGE in needed else found


def _needs(line: str) -> Iterator[str]:
    """What has to be needed for a rule to be there."""
    return (_NEEDS[name] for name in re.findall(r"@(\w+)", line) if name in _NEEDS)


def table(needed: Iterable[str] = ()) -> Table:
    """Our tables, with that of what is `OPTIONAL` that is *needed*."""
    return Table(DIGEST, tuple(sorted(needed)))


def known(table: Table) -> bool:
    """Whether *table* is of this version."""
    return table.digest == DIGEST


def load(table: Table, old_chains: Iterable[tuple[str, str]] = (), old_sets: Iterable[tuple[str, str]] = ()) -> str:
    """The text for `nft -f` that makes *table*, of this version, with all sets empty, in one transaction.

    *old_chains* and *old_sets* are what there is now, each with its family before it: all of it is replaced, but for
    what is named `user-...`.
    """
    lines = [f"add table {one} {TABLE}" for one in FAMILIES] + [f"add chain inet {TABLE} {USER_CHAIN}"]
    ours = sorted((one, name) for one, name in old_chains if not name.startswith("user-"))
    lines += [f"flush chain {one} {TABLE} {name}" for one, name in ours]
    lines += [f"delete set {one} {TABLE} {name}" for one, name in sorted(old_sets) if not name.startswith("user-")]
    lines += [f"delete chain {one} {TABLE} {name}" for one, name in ours]
    return "\n".join(lines) + "\n" + _definition(SETS, chains(table)) + _version("add", table)


def alter(was: Table, new: Table) -> str:
    """The text for `nft -f` that makes *new* of *was*, both of this version, in one transaction; all elements stay."""
    before, after = chains(was), chains(new)
    stale = [(name, family(name)) for name, lines in before.items() if after.get(name) != lines]
    lines = [f"flush chain {one} {TABLE} {name}" for name, one in stale]
    lines += [f"delete chain {one} {TABLE} {name}" for name, one in stale if name not in after]
    fresh = {name: rules for name, rules in after.items() if before.get(name) != rules}
    return "\n".join([*lines, _version("delete", was)]) + _definition({}, fresh) + _version("add", new)


def _version(verb: str, table: Table) -> str:
    return f"{verb} chain inet {TABLE} {VERSION_PREFIX}{table.version}\n"


def _definition(sets: Mapping[str, str], hooked: Mapping[str, Sequence[str]]) -> str:
    text = []
    for one in FAMILIES:
        text.append(f"table {one} {TABLE} {{")
        for name, kind in sets.items():
            if family(name) == one:
                text.append(f"    {'map' if ':' in kind else 'set'} {name} {{ {kind}; }}")
        for name, lines in hooked.items():
            if family(name) == one:
                text += [f"    chain {name} {{", *(f"        {line}" for line in lines), "    }"]
        text.append("}")
    return "\n".join([*text, ""])


DIGEST = hashlib.sha256(f"{_definition(SETS, CHAINS)}{_JUDGED}{sorted(_NEEDS)}".encode()).hexdigest()[:16]
"""Stands for this version of the tables, which has an empty chain named for it: a comment cannot be changed.

The names of what is needed of all that is optional follow it there.
"""

VERSION_PREFIX = "version-"
"""What the name of that chain begins with."""
