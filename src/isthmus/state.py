"""All that is wanted, indexed: the records of the store, and what can be derived from them.

It is memory only, made anew from the records at every start and kept in step by `put` and `drop`, so nothing in it
can leak or go stale. Names and IDs are resolved here, as Docker does: a full ID, then an exact name, then the
beginning of an ID.

The pools of networks in one segment share what they know: each has the endpoints of all of them among its used
addresses, their reserved addresses among its own, and passes over what is kept for any who left.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from msgspec.structs import replace

from isthmus.addresses import AddressPool, IPNetwork, Subnet, overlaps
from isthmus.drivers import BUILTIN
from isthmus.egress import EGRESS
from isthmus.errors import Ambiguous, NetworkNotFound, SandboxNotFound
from isthmus.model import (
    Binding,
    Block,
    Endpoint,
    HandLink,
    IPAddress,
    Lease,
    Network,
    Peer,
    Place,
    Record,
    Sandbox,
    Setting,
)

_T = TypeVar("_T", Network, Sandbox)

_MOST_LEASES = 10_000
"""How many leases there are at most, so that memory has a bound whoever comes and goes; a kilobyte each."""


class State:
    """The records by ID, and the questions that the engine asks of them."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.networks: dict[str, Network] = {}
        self.sandboxes: dict[str, Sandbox] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.links: dict[str, HandLink] = {}
        self.settings: dict[str, str] = {}
        self.pools: dict[str, tuple[AddressPool, ...]] = {}
        self._names: dict[type, dict[str, str]] = {Network: {}, Sandbox: {}}
        self._on_network: dict[str, dict[str, None]] = {}
        self._of_sandbox: dict[str, dict[str, None]] = {}
        self._policed: dict[str, None] = {}
        self._in_netns: dict[str, dict[str, None]] = {}
        self._bindings: dict[str, dict[Place, Binding]] = {}
        self._places: dict[tuple[str, int], dict[IPAddress | None, str]] = {}
        self._in_segment: dict[str, dict[str, None]] = {}
        self._leases: dict[str, dict[str, Lease]] = {}
        self._ends: list[tuple[int, str, str]] = []
        self._peers: dict[str, dict[str, Peer]] = {}
        self._peer_at: dict[tuple[str, IPAddress | str], dict[str, Peer]] = {}
        self._met: set[Peer] = set()
        self._blocks: dict[str, dict[Block, AddressPool]] = {}
        self._keepers: dict[tuple[str, IPAddress], Lease] = {}
        self._last: dict[tuple[str, IPNetwork], IPAddress] = {}
        for record in sorted(records, key=_order):
            self.put(record)

    def records(self) -> Iterator[Record]:
        """Every record, networks first."""
        yield from self.networks.values()
        yield from self.sandboxes.values()
        yield from self.endpoints.values()
        yield from self.bindings()
        yield from self.links.values()
        yield from (Setting(key, value) for key, value in self.settings.items())
        yield from (lease for leases in self._leases.values() for lease in leases.values())
        yield from (peer for peers in self._peers.values() for peer in peers.values())
        yield from (block for blocks in self._blocks.values() for block in blocks)

    def put(self, record: Record) -> None:
        """Know *record*, instead of what bore its ID before."""
        match record:
            # Of these there may be thousands.
            case Binding(place=place):
                self._bindings.setdefault(record.sandbox, {})[place] = record
                self._places.setdefault((place.protocol, place.port), {})[place.address] = record.sandbox
            case Network():
                self._put_network(record)
            case Endpoint():
                self._put_endpoint(record)
            case Sandbox():
                if (before := self.sandboxes.get(record.id)) and before.name != record.name:
                    self._names[Sandbox].pop(before.name, None)
                self.sandboxes[record.id] = record
                self._names[Sandbox][record.name] = record.id
                self._in_netns.setdefault(record.netns, {})[record.id] = None
            case HandLink():
                self.links[record.id] = record
            case Setting():
                self.settings[record.id] = record.value
            case Lease():
                self._put_lease(record)
            case Peer():
                self._put_peer(record)
            case Block():
                self._blocks.setdefault(record.network, {})[record] = self._block_pool(record)

    def drop(self, records: Iterable[Record]) -> None:
        """Forget *records*."""
        for record in records:
            match record:
                case Binding():
                    self._drop_binding(record)
                case Network():
                    self._drop_network(record)
                case Endpoint():
                    self._drop_endpoint(record)
                case Sandbox():
                    self.sandboxes.pop(record.id, None)
                    self._names[Sandbox].pop(record.name, None)
                    self._in_netns.get(record.netns, {}).pop(record.id, None)
                    self._of_sandbox.pop(record.id, None)
                case HandLink():
                    self.links.pop(record.id, None)
                case Setting():
                    self.settings.pop(record.id, None)
                case Lease():
                    self._drop_lease(record)
                case Peer():
                    self._drop_peer(record)
                case Block():
                    self._blocks.get(record.network, {}).pop(record, None)

    def network(self, name: str) -> Network:
        """The network that *name* stands for.

        Raises:
            NetworkNotFound, Ambiguous.
        """
        found = self._find("network", name, self.networks, self._names[Network])
        if found is None:
            raise NetworkNotFound(name)
        return found

    def sandbox(self, name: str) -> Sandbox:
        """The sandbox that *name* stands for.

        Raises:
            SandboxNotFound, Ambiguous.
        """
        found = self._find("container", name, self.sandboxes, self._names[Sandbox])
        if found is None:
            raise SandboxNotFound(name)
        return found

    def network_named(self, name: str) -> Network | None:
        """The network of exactly this name."""
        return self.networks.get(self._names[Network].get(name, ""))

    def sandbox_named(self, name: str) -> Sandbox | None:
        """The sandbox of exactly this name."""
        return self.sandboxes.get(self._names[Sandbox].get(name, ""))

    def on_network(self, network: str) -> tuple[Endpoint, ...]:
        """The endpoints on the network of this ID, in the order of their making."""
        return tuple(self.endpoints[key] for key in self._on_network.get(network, ()))

    def peers_on(self, network: str) -> tuple[Peer, ...]:
        """The endpoints that other hosts have on the network of this ID."""
        return tuple(self._peers.get(network, {}).values())

    def is_told(self, network: Network, peer: Peer) -> bool:
        """Whether the tunnels of *network* are to be told of *peer*: if it is lazy, only when somebody here met him."""
        return not BUILTIN[network.driver].traits(network).lazy or peer in self._met

    def told_on(self, network: Network) -> tuple[Peer, ...]:
        """Those of `peers_on` of whom the tunnels of *network* are to be told."""
        return tuple(peer for peer in self.peers_on(network.id) if self.is_told(network, peer))

    def peer_at(self, network: str, where: IPAddress | str) -> Peer | None:
        """Who on another host has an address or a MAC on the network of this ID; of several, who was told of last."""
        return next(reversed(self._peer_at.get((network, where), {}).values()), None)

    def meet(self, peer: Peer) -> None:
        """Know that somebody here looked for *peer*. It is not stored: the kernel knows it."""
        self._met.add(peer)

    def part(self, peer: Peer) -> None:
        """Know that nobody here talks to *peer* any more."""
        self._met.discard(peer)

    def peer(self, network: str, identity: str) -> Peer | None:
        """The endpoint of this ID that another host has on the network of this ID."""
        return self._peers.get(network, {}).get(identity)

    def blocks(self, network: str) -> Mapping[Block, AddressPool]:
        """The blocks that this host has of the network of this ID, each with what is free in it."""
        return self._blocks.get(network, {})

    def _block_pool(self, block: Block) -> AddressPool:
        network = self.networks[block.network]
        used = [address.ip for one in self.on_network(network.id) for address in one.addresses]
        used += [address.ip for one in self.peers_on(network.id) for address in one.addresses]
        home = next(subnet for subnet in network.subnets if overlaps(Subnet(block.cidr), (subnet,)))
        pool = AddressPool(replace(home, ip_range=block.cidr), used, home.reserved)
        for lease in self.leases_on(network.id):
            for address in lease.addresses:
                pool.keep(address, lease.until)
        return pool

    def of_sandbox(self, sandbox: str) -> tuple[Endpoint, ...]:
        """The endpoints of the sandbox of this ID, in the order of their making."""
        return tuple(self.endpoints[key] for key in self._of_sandbox.get(sandbox, ()))

    def policed(self) -> tuple[Endpoint, ...]:
        """The endpoints that have an egress policy of their own."""
        return tuple(self.endpoints[key] for key in self._policed)

    def in_netns(self, netns: str) -> tuple[Sandbox, ...]:
        """The sandboxes that share the namespace of this name."""
        return tuple(self.sandboxes[key] for key in self._in_netns.get(netns, ()))

    def endpoints_in(self, netns: str) -> tuple[Endpoint, ...]:
        """The endpoints of all sandboxes that share the namespace of this name."""
        return tuple(endpoint for user in self.in_netns(netns) for endpoint in self.of_sandbox(user.id))

    def bindings(self) -> Iterator[Binding]:
        """All places on the host that are published."""
        for of_one in self._bindings.values():
            yield from of_one.values()

    def bindings_of(self, sandbox: str) -> tuple[Binding, ...]:
        """Those that lead to the sandbox of this ID, in the order of their making."""
        return tuple(self._bindings.get(sandbox, {}).values())

    def binding(self, sandbox: str, place: Place) -> Binding | None:
        """What leads from *place* to the sandbox of this ID."""
        return self._bindings.get(sandbox, {}).get(place)

    def on_port(self, protocol: str, port: int) -> Mapping[IPAddress | None, str]:
        """By address, the IDs of the sandboxes to which this port of the host leads."""
        return self._places.get((protocol, port), {})

    def links_of(self, sandbox: str) -> tuple[HandLink, ...]:
        """The links that were put into the sandbox of this ID by hand."""
        return tuple(link for link in self.links.values() if link.sandbox == sandbox)

    def last_given(self, network: str, pool: AddressPool) -> IPAddress | None:
        """The address of a network's *pool* that an endpoint on it got last, after which the next is looked for.

        It is not stored: after a restart it is that of the last who is still there.
        """
        return self._last.get((network, pool.subnet.cidr))

    def beside(self, network: Network) -> tuple[Network, ...]:
        """The other networks in the segment of *network*, which need not be known yet."""
        keys = self._in_segment.get(_segment(network), ())
        return tuple(self.networks[key] for key in keys if key != network.id)

    def lease(self, network: str, name: str) -> Lease | None:
        """What is kept on the network of this ID for a sandbox of this *name*."""
        return self._leases.get(network, {}).get(name)

    def leases_on(self, network: str) -> tuple[Lease, ...]:
        """All that is kept on the network of this ID."""
        return tuple(self._leases.get(network, {}).values())

    def keeper(self, network: str, address: IPAddress) -> Lease | None:
        """The lease that keeps this *address* in the segment of the network of this ID."""
        return self._keepers.get((self._segment_of(network), address))

    def stale_leases(self, now: int) -> tuple[Lease, ...]:
        """The leases that have ended by *now*, and those that end next if there are too many."""
        count = max(bisect_left(self._ends, (now + 1,)), len(self._ends) - _MOST_LEASES)
        return tuple(self._leases[network][name] for _, network, name in self._ends[:count])

    def _drop_binding(self, binding: Binding) -> None:
        place, own = binding.place, self._bindings.get(binding.sandbox)
        if own and own.pop(place, None):
            port = place.protocol, place.port
            on_port = self._places[port]
            if len(on_port) > 1:
                del on_port[place.address]
            else:
                del self._places[port]
            if not own:
                del self._bindings[binding.sandbox]

    def _put_network(self, network: Network) -> None:
        before = self.networks.get(network.id)
        self.networks[network.id] = network
        if before and before.name != network.name:
            self._names[Network].pop(before.name, None)
        self._names[Network][network.name] = network.id
        if before is None or before.subnets != network.subnets:
            segment = _segment(network)
            self._in_segment.setdefault(segment, {})[network.id] = None
            self._fill(segment)

    def _drop_network(self, network: Network) -> None:
        if self.networks.pop(network.id, None):
            self._names[Network].pop(network.name, None)
            for pool in self.pools.pop(network.id):
                self._last.pop((network.id, pool.subnet.cidr), None)
            segment = _segment(network)
            del self._in_segment[segment][network.id]
            self._fill(segment)

    def _fill(self, segment: str) -> None:
        """Make the pools of the networks in *segment*."""
        networks = [self.networks[key] for key in self._in_segment[segment]]
        endpoints = [endpoint for network in networks for endpoint in self.on_network(network.id)]
        used = [address.ip for endpoint in endpoints for address in endpoint.addresses]
        used += [one.ip for network in networks for peer in self.peers_on(network.id) for one in peer.addresses]
        reserved = [address for network in networks for subnet in network.subnets for address in subnet.reserved]
        leases = [lease for network in networks for lease in self.leases_on(network.id)]
        for network in networks:
            blocks = self._blocks.get(network.id, {})
            blocks.update((block, self._block_pool(block)) for block in tuple(blocks))
            pools = tuple(AddressPool(subnet, used, reserved) for subnet in network.subnets)
            for pool in pools:
                for lease in leases:
                    for address in lease.addresses:
                        pool.keep(address, lease.until)
            self.pools[network.id] = pools
        if not networks:
            del self._in_segment[segment]

    def _pools_around(self, network: str) -> Iterator[AddressPool]:
        """The pools in the segment of the network of this ID."""
        for key in self._in_segment.get(self._segment_of(network), ()):
            yield from self.pools[key]
            yield from self._blocks.get(key, {}).values()

    def _segment_of(self, network: str) -> str:
        """The segment of the network of this ID; "" if there is none."""
        home = self.networks.get(network)
        return _segment(home) if home else ""

    def _put_endpoint(self, endpoint: Endpoint) -> None:
        before = self.endpoints.get(endpoint.id)
        self.endpoints[endpoint.id] = endpoint
        if before is None:
            self._on_network.setdefault(endpoint.network, {})[endpoint.id] = None
            self._of_sandbox.setdefault(endpoint.sandbox, {})[endpoint.id] = None
        if dict(endpoint.options).get(EGRESS):
            self._policed[endpoint.id] = None
        elif before is not None:
            self._policed.pop(endpoint.id, None)
        if before is not None and before.addresses == endpoint.addresses:
            return
        for pool in self._pools_around(endpoint.network):
            for address in before.addresses if before else ():
                pool.release(address.ip)
            for address in endpoint.addresses:
                if pool.has(address.ip):
                    pool.take(address.ip)
        for pool in self.pools.get(endpoint.network, ()):
            for address in endpoint.addresses:
                if address.ip in pool.subnet.cidr:
                    self._last[endpoint.network, pool.subnet.cidr] = address.ip

    def _drop_endpoint(self, endpoint: Endpoint) -> None:
        if self.endpoints.pop(endpoint.id, None):
            self._on_network.get(endpoint.network, {}).pop(endpoint.id, None)
            self._of_sandbox.get(endpoint.sandbox, {}).pop(endpoint.id, None)
            self._policed.pop(endpoint.id, None)
            for pool in self._pools_around(endpoint.network):
                for address in endpoint.addresses:
                    pool.release(address.ip)

    def _put_peer(self, peer: Peer) -> None:
        if before := self.peer(peer.network, peer.id):
            met = before in self._met
            self._drop_peer(before)
            if met:
                self.meet(peer)
        self._peers.setdefault(peer.network, {})[peer.id] = peer
        for where in (peer.mac, *(address.ip for address in peer.addresses)):
            self._peer_at.setdefault((peer.network, where), {})[peer.id] = peer
        for pool in self._pools_around(peer.network):
            for address in peer.addresses:
                if pool.has(address.ip):
                    pool.take(address.ip)

    def _drop_peer(self, peer: Peer) -> None:
        if known := self._peers.get(peer.network, {}).pop(peer.id, None):
            self._met.discard(known)
            for where in (known.mac, *(address.ip for address in known.addresses)):
                there = self._peer_at[peer.network, where]
                del there[known.id]
                if not there:
                    del self._peer_at[peer.network, where]
            for pool in self._pools_around(peer.network):
                for address in peer.addresses:
                    pool.release(address.ip)

    def _put_lease(self, lease: Lease) -> None:
        before = self.lease(lease.network, lease.name)
        if before:
            self._drop_lease(before)
        self._leases.setdefault(lease.network, {})[lease.name] = lease
        insort(self._ends, (lease.until, lease.network, lease.name))
        segment = self._segment_of(lease.network)
        for address in lease.addresses:
            self._keepers[segment, address] = lease
            for pool in self._pools_around(lease.network):
                pool.keep(address, lease.until)

    def _drop_lease(self, lease: Lease) -> None:
        known = self._leases.get(lease.network, {}).pop(lease.name, None)
        if known:
            del self._ends[bisect_left(self._ends, (known.until, known.network, known.name))]
            segment = self._segment_of(lease.network)
            for address in known.addresses:
                self._keepers.pop((segment, address), None)
                for pool in self._pools_around(lease.network):
                    pool.let_go(address)

    @staticmethod
    def _find(kind: str, name: str, by_id: dict[str, _T], by_name: dict[str, str]) -> _T | None:
        if name in by_id:
            return by_id[name]
        if name in by_name:
            return by_id[by_name[name]]
        matches = [one for key, one in by_id.items() if key.startswith(name)] if name else []
        if len(matches) > 1:
            raise Ambiguous(kind, name, len(matches), "ID prefix")
        return matches[0] if matches else None


def _segment(network: Network) -> str:
    """What stands for the segment of *network*: a link's name, or its own ID where nobody else is in it."""
    return ("" if network.config_only else BUILTIN[network.driver].traits(network).segment) or network.id


def _order(record: Record) -> tuple[int, int]:
    """How records are to be put, one by one.

    Pools are made by networks, and an address is taken by who has it before it is kept for who left; else, in the order
    of their making.
    """
    match record:
        case Network():
            return 0, record.created
        case Setting():
            return 1, 0
        case Binding(place=place):
            return 1, place.port
        case Lease():
            return 2, record.until
        case Peer() | Block():
            return 1, 0
        case _:
            return 1, record.created
