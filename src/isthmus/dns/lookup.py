"""Who is known by which name: the records, indexed for the resolver's questions.

As in Docker (libnetwork, `sandbox_dns_unix.go`), a sandbox finds those who stand on a network with it: by name, alias,
short ID and hostname, on user-defined networks only; `NAME.NETWORK` means the one there. Names of one network are no
business of others. A link is a name that one sandbox alone has for another.

The directory learns of each change as it is recorded, in a few steps for each endpoint, so it need never be made anew,
and who is being removed is gone with the next question. *Version* tells whether it is the same as before.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec
from msgspec.structs import replace

from isthmus.dns.message import (
    AAAA,
    ANY,
    IN,
    NOERROR,
    NXDOMAIN,
    PTR,
    REFUSED,
    A,
    Query,
    answer,
    encode_name,
    record,
)
from isthmus.model import (
    HOST,
    HOST_GATEWAY,
    UNSAID,
    Binding,
    Dns,
    Endpoint,
    IPAddress,
    Network,
    Peer,
    Record,
    Sandbox,
)
from isthmus.naming import dns_names
from isthmus.options import records_of

TTL = 600
"""For how many seconds an answer of ours is good, as in Docker."""

HOST_DOMAIN = "isthmus"
"""What all names end with that the host itself asks for."""

_TURNS = 16  # in so many orders are the addresses of one name told
_ARPA4, _ARPA6 = ".in-addr.arpa", ".ip6.arpa"


class _Zone(msgspec.Struct):
    """The names of one network; by each, the addresses of the endpoints (their IDs) that bear it.

    A name that no endpoint bears may be in the network's own *records*.
    """

    network: Network
    records: dict[str, tuple[IPAddress, ...]] = msgspec.field(default_factory=dict)
    names: dict[str, dict[str, tuple[IPAddress, ...]]] = msgspec.field(default_factory=dict)
    pointers: dict[IPAddress, str] = msgspec.field(default_factory=dict)
    wildcards: int = 0

    def find(self, name: str) -> tuple[IPAddress, ...] | None:
        for one in (name, *self._above(name)) if self.wildcards or self.records else (name,):
            if (held := self.names.get(one)) is not None:
                return tuple(address for addresses in held.values() for address in addresses)
            if one in self.records:
                return self.records[one]
        return None

    @staticmethod
    def _above(name: str) -> Iterator[str]:
        """The wildcards that *name* falls under, the closest first."""
        return (f"*{name[at:]}" for at, letter in enumerate(name) if letter == "." and at)

    def pointer(self, address: IPAddress) -> str | None:
        """The name of who has *address*, with the network's behind it."""
        if address in self.pointers or not self.records:
            return self.pointers.get(address)
        names = (name for name, addresses in self.records.items() if address in addresses and name[0] != "*")
        name = next(names, None)
        return f"{name}.{self.network.name}" if name else None

    def enter(self, own: str, who: Endpoint | Peer, names: Iterable[str]) -> None:
        """Have *who* answer to *names*, of which *own* is that of its sandbox."""
        addresses = tuple(interface.ip for interface in who.addresses)
        for name in names:
            self.names.setdefault(name, {})[who.id] = addresses
            self.wildcards += name.startswith("*.")
        for address in addresses:
            self.pointers[address] = f"{own}.{self.network.name}"

    def leave(self, own: str, who: Endpoint | Peer, names: Iterable[str]) -> None:
        """Have *who* answer to *names* no more."""
        for name in names:
            if self.names.get(name, {}).pop(who.id, None) is not None:
                self.wildcards -= name.startswith("*.")
                if not self.names[name]:
                    del self.names[name]
        for interface in who.addresses:
            if self.pointers.get(interface.ip) == f"{own}.{self.network.name}":
                del self.pointers[interface.ip]

    def learn(self, network: Network) -> None:
        """Know what *network* is now."""
        self.network = network
        self.records = {} if network.config_only or network.predefined else records_of(dict(network.options))


class _Way(msgspec.Struct, frozen=True):
    """A network that a sandbox stands on, and its own names for others there."""

    zone: _Zone
    endpoint: Endpoint
    links: dict[str, str]


class Directory:
    """The names of all networks, from each sandbox's point of view; sandboxes that share a namespace share it.

    *Gateways* are the addresses that `host-gateway` stands for; without any, it is those of the default bridge.
    *Defaults* count where a sandbox's user says nothing.
    """

    def __init__(self, gateways: Iterable[IPAddress] = (), defaults: Dns = UNSAID) -> None:
        self.version = 0
        self._gateways = tuple(gateways)
        self._defaults = defaults
        self._zones: dict[str, _Zone] = {}
        self._sandboxes: dict[str, Sandbox] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._peers: dict[str, Peer] = {}
        self._of_sandbox: dict[str, dict[str, None]] = {}
        self._in_netns: dict[str, dict[str, None]] = {}
        self._ways: dict[str, tuple[_Way, ...]] = {}
        self._hosts: dict[str, dict[str, tuple[IPAddress, ...]]] = {}

    # What is learned.

    def learn(self, put: Iterable[Record], drop: Iterable[Record] = ()) -> set[str]:
        """Know what was recorded, and what no longer is; return the namespaces whose sandboxes or networks changed."""
        touched: set[str] = set()
        # Of published ports, which have no names, there may be thousands.
        put, drop = ([one for one in some if not isinstance(one, Binding)] for some in (put, drop))
        # What an endpoint's names are follows from its sandbox, whichever of them is named first.
        for one in sorted(drop, key=lambda one: isinstance(one, Sandbox)):
            touched.update(self._forget(one))
        for one in put:
            touched.update(self._know(one))
        for netns in touched:
            self._ways.pop(netns, None)
            self._hosts.pop(netns, None)
            if not self._in_netns.get(netns, True):
                del self._in_netns[netns]
        self.version += bool(touched)
        return touched

    def _forget(self, gone: Record) -> Iterator[str]:
        """Know a record no more; yield the namespaces that this concerns."""
        match gone:
            case Endpoint():
                yield from self._forget_endpoint(gone)
            case Peer():
                self._forget_peer(gone)
            case Sandbox():
                yield gone.netns
                self._sandboxes.pop(gone.id, None)
                self._of_sandbox.pop(gone.id, None)
                self._in_netns.get(gone.netns, {}).pop(gone.id, None)
            case Network():
                self._zones.pop(gone.id, None)
                self.version += 1
            case _:
                pass

    def _know(self, new: Record) -> Iterator[str]:
        """Know a record; yield the namespaces that this concerns."""
        match new:
            case Endpoint():
                yield from self._put_endpoint(new)
            case Peer():
                self._put_peer(new)
            case Sandbox():
                yield new.netns
                self._put_sandbox(new)
            case Network():
                self._put_network(new)
            case _:
                pass

    def _put_network(self, network: Network) -> None:
        self._zones.setdefault(network.id, _Zone(network)).learn(network)
        self._ways.clear()
        self._hosts.clear()
        self.version += 1

    def _put_sandbox(self, sandbox: Sandbox) -> None:
        endpoints = [self._endpoints[key] for key in self._of_sandbox.get(sandbox.id, ())]
        for endpoint in endpoints:
            self._leave(endpoint)
        self._sandboxes[sandbox.id] = sandbox
        self._in_netns.setdefault(sandbox.netns, {})[sandbox.id] = None
        for endpoint in endpoints:
            self._enter(endpoint)

    def _put_endpoint(self, endpoint: Endpoint) -> Iterator[str]:
        yield from self._forget_endpoint(endpoint)
        self._endpoints[endpoint.id] = endpoint
        self._of_sandbox.setdefault(endpoint.sandbox, {})[endpoint.id] = None
        self._enter(endpoint)
        yield self._sandboxes[endpoint.sandbox].netns

    def _forget_endpoint(self, endpoint: Endpoint) -> Iterator[str]:
        known = self._endpoints.get(endpoint.id)
        if known:
            self._leave(known)
            del self._endpoints[known.id]
            del self._of_sandbox[known.sandbox][known.id]
            yield self._sandboxes[known.sandbox].netns

    def _enter(self, endpoint: Endpoint) -> None:
        """Have *endpoint* among the names of its network, if it stands and that has names."""
        zone, user = self._zones[endpoint.network], self._sandboxes[endpoint.sandbox]
        if not (zone.network.predefined or endpoint.removing or user.removing):
            zone.enter(user.name, endpoint, _names(user, endpoint))

    def _leave(self, endpoint: Endpoint) -> None:
        zone, user = self._zones.get(endpoint.network), self._sandboxes[endpoint.sandbox]
        if zone:
            zone.leave(user.name, endpoint, _names(user, endpoint))

    def _put_peer(self, peer: Peer) -> None:
        self._forget_peer(peer)
        if zone := self._zones.get(peer.network):
            self._peers[peer.id] = peer
            zone.enter(peer.name, peer, map(str.lower, peer.names))
            self.version += 1

    def _forget_peer(self, peer: Peer) -> None:
        known, zone = self._peers.pop(peer.id, None), self._zones.get(peer.network)
        if known and zone:
            zone.leave(known.name, known, map(str.lower, known.names))
            self.version += 1

    # What is told of a namespace.

    def served(self, netns: str) -> bool:
        """Whether there is to be a resolver: for a sandbox of ours on a network with names, unless it wants none."""
        named = any(not way.zone.network.predefined for way in self._ways_of(netns))
        return netns != HOST and named and not self.dns(netns).off

    def namespaces(self) -> tuple[str, ...]:
        """All namespaces that sandboxes are in."""
        return tuple(self._in_netns)

    def owner(self, netns: str) -> Sandbox | None:
        """The sandbox that *netns* was made for, or the first of those who stay there."""
        users = [self._sandboxes[key] for key in self._in_netns.get(netns, ())]
        present = [user for user in users if not user.removing]
        return next((user for user in present if user.name == netns), present[0] if present else None)

    def dns(self, netns: str) -> Dns:
        """How names are to be looked up there."""
        owner, defaults = self.owner(netns), self._defaults
        if owner is None or owner.dns is defaults:
            return defaults
        own = owner.dns
        return replace(
            own,
            servers=own.servers or defaults.servers,
            options=own.options or defaults.options,
            search=own.search or defaults.search,
        )

    def open(self, netns: str) -> bool:
        """Whether one of the networks there leads outside, so that the host may be asked for what is there."""
        return any(not way.zone.network.internal for way in self._ways_of(netns))

    def endpoints(self, netns: str) -> tuple[Endpoint, ...]:
        """The endpoints there: first that by which the default route goes, as far as priority and name say."""
        return tuple(way.endpoint for way in self._ways_of(netns))

    def standing(self, netns: str) -> Iterator[tuple[Network, Endpoint]]:
        """The same endpoints, each with its network."""
        return ((way.zone.network, way.endpoint) for way in self._ways_of(netns))

    def linked(self, netns: str) -> Iterator[tuple[IPAddress, tuple[str, ...]]]:
        """The sandboxes that are linked on networks without names: each address, with the names for it."""
        for way in self._ways_of(netns):
            if not way.zone.network.predefined:
                continue
            for alias, target in way.links.items():
                for one in self._standing_on(way.endpoint.network):
                    user = self._sandboxes[one.sandbox]
                    if target in {user.name.lower(), user.id, user.id[:12]}:
                        names = tuple(dict.fromkeys((alias, user.hostname or user.id[:12], user.name)))
                        yield from ((interface.ip, names) for interface in one.addresses)

    def hosts(self, netns: str) -> dict[str, tuple[IPAddress, ...]]:
        """The further names that the user gave, in the order given."""
        known = self._hosts.get(netns)
        if known is None:
            known = {}
            for name, text in self.dns(netns).hosts:
                addresses = self._host_gateways() if text == HOST_GATEWAY else (ip_address(text),)
                known[name.lower()] = (*known.get(name.lower(), ()), *addresses)
            if netns in self._in_netns:
                self._hosts[netns] = known
        return known

    def _host_gateways(self) -> tuple[IPAddress, ...]:
        if self._gateways:
            return self._gateways
        bridges = [zone.network for zone in self._zones.values() if zone.network.name == "bridge"]
        return tuple(subnet.gateway for network in bridges for subnet in network.subnets if subnet.gateway)

    def _standing_on(self, network: str) -> Iterator[Endpoint]:
        for one in self._endpoints.values():
            if one.network == network and not (one.removing or self._sandboxes[one.sandbox].removing):
                yield one

    def _ways_of(self, netns: str) -> tuple[_Way, ...]:
        known = self._ways.get(netns)
        if known is None:
            known = tuple(self._find_ways(netns))
            if netns in self._in_netns:
                self._ways[netns] = known
        return known

    def _find_ways(self, netns: str) -> list[_Way]:
        users = [self._sandboxes[key] for key in self._in_netns.get(netns, ())]
        endpoints = [
            self._endpoints[key] for user in users if not user.removing for key in self._of_sandbox.get(user.id, ())
        ]
        ways = [
            _Way(self._zones[one.network], one, dict(map(_link, one.links))) for one in endpoints if not one.removing
        ]
        return sorted(ways, key=lambda way: (-way.endpoint.gateway_priority, way.zone.network.name))

    # What is answered.

    def find(self, netns: str, name: str) -> tuple[IPAddress, ...] | None:
        """The addresses that *name* (in lower case, without a last dot) stands for; None if it is nobody's there."""
        further = self.hosts(netns).get(name)
        if further is not None:
            return further
        ways = self._ways_of(netns)
        # a.b.c is the one of that name, or a.b on the network c, or a on the network b.c
        at = len(name)
        while at > 0:
            within = name[at + 1 :]
            for way in ways:
                target = way.links.get(name[:at])
                if target and _is_named(way, within) and (found := way.zone.find(target)) is not None:
                    return found
            for way in ways:
                if _is_named(way, within) and (found := way.zone.find(name[:at])) is not None:
                    return found
            at = name.rfind(".", 0, at)
        return None

    def name_of(self, netns: str, address: IPAddress) -> str | None:
        """The name of who has *address* on one of the networks there."""
        return next((name for way in self._ways_of(netns) if (name := way.zone.pointer(address))), None)

    def answers(self, netns: str, query: Query, limit: int) -> tuple[bytes, ...] | None:
        """What to answer by turns; None if upstream is to be asked."""
        if query.klass != IN:
            return (answer(query, rcode=REFUSED),)
        if query.type == PTR and (address := address_of(query.name)):
            name = self.name_of(netns, address)
            encoded = encode_name(name) if name else None
            return None if encoded is None else (answer(query, [record(PTR, TTL, encoded)], limit=limit),)
        addresses = self.find(netns, query.name)
        if addresses is None:
            return (answer(query),) if self._stays_here(netns, query) else None
        return told(query, addresses, limit)

    def answers_on_host(self, query: Query, limit: int) -> tuple[bytes, ...]:
        """What to answer the host itself by turns: it asks for NAME.NETWORK.isthmus, and for nothing else."""
        if query.type == PTR and (address := address_of(query.name)):
            encoded = encode_name(f"{self.name_on_host(address)}.{HOST_DOMAIN}")
            return (answer(query, [record(PTR, TTL, encoded)]) if encoded else answer(query, rcode=NXDOMAIN),)
        name = query.name.removesuffix(f".{HOST_DOMAIN}")
        if query.klass != IN or (name == query.name and name != HOST_DOMAIN):
            return (answer(query, rcode=REFUSED),)
        found = self.find_on_host(name)
        if found is not None:
            return told(query, found, limit)
        return (answer(query, rcode=NOERROR if name == HOST_DOMAIN else NXDOMAIN),)

    def name_on_host(self, address: IPAddress) -> str:
        """NAME.NETWORK of who has *address*; "" if it is nobody's."""
        return next((name for zone in self._zones.values() if (name := zone.pointer(address))), "")

    def find_on_host(self, name: str) -> tuple[IPAddress, ...] | None:
        """The addresses that *name* (NAME.NETWORK, in lower case) stands for; None if it is nobody's."""
        for zone in self._zones.values():
            inner = name.removesuffix(f".{zone.network.name.lower()}")
            if inner != name and (found := zone.find(inner)) is not None:
                return found
        return None

    def all_names(self) -> Iterator[tuple[str, str, tuple[IPAddress, ...]]]:
        """Every name, the network where it is known, and what it stands for; by network, then by name."""
        for zone in sorted(self._zones.values(), key=lambda zone: zone.network.name):
            for name in sorted({*zone.names, *zone.records}):
                yield name, zone.network.name, zone.find(name) or ()

    def _stays_here(self, netns: str, query: Query) -> bool:
        """Whether a name of one word is nobody's: where the user set `ndots`, it is to be tried with a domain first."""
        word = "." not in query.name and query.type in {A, AAAA}
        return word and any(option.startswith("ndots:") and option != "ndots:0" for option in self.dns(netns).options)


def told(query: Query, addresses: Iterable[IPAddress], limit: int) -> tuple[bytes, ...]:
    """The answers to *query* about something that has these *addresses*, each beginning with another one."""
    wanted = {A: (4,), AAAA: (6,), ANY: (4, 6)}.get(query.type, ())
    records = [
        record(A if address.version == 4 else AAAA, TTL, address.packed)
        for address in addresses
        if address.version in wanted
    ]
    turns = range(0, max(1, len(records)), max(1, len(records) // _TURNS))
    return tuple(answer(query, (*records[turn:], *records[:turn]), limit=limit) for turn in turns)


def address_of(name: str) -> IPAddress | None:
    """The address that *name*, in lower case, asks back from (RFC 1035, section 3.5; RFC 3596); None if it does not.

    >>> address_of("2.0.18.172.in-addr.arpa")
    IPv4Address('172.18.0.2')
    """
    try:
        if name.endswith(_ARPA4):
            return IPv4Address(".".join(reversed(name.removesuffix(_ARPA4).split("."))))
        digits = name.removesuffix(_ARPA6).split(".")
        if name.endswith(_ARPA6) and len(digits) == 32 and all(len(digit) == 1 for digit in digits):
            return IPv6Address(bytes.fromhex("".join(reversed(digits))))
    except ValueError:
        pass
    return None


def _names(user: Sandbox, endpoint: Endpoint) -> Iterator[str]:
    """The names of *endpoint*, in lower case, once each."""
    return iter(dict.fromkeys(name.lower() for name in dns_names(user, endpoint)))


def _link(text: str) -> tuple[str, str]:
    """The alias and the target of a link, which is written TARGET:ALIAS or TARGET."""
    target, _, alias = text.lower().partition(":")
    return alias or target, target


def _is_named(way: _Way, network: str) -> bool:
    return not network or way.zone.network.name.lower() == network
