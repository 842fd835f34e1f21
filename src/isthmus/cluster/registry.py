"""What the store holds that hosts share, read and indexed. Pure: it is told what changed, and tells what that means."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from itertools import islice
from types import MappingProxyType

import msgspec

from isthmus.drivers import BUILTIN, overlay
from isthmus.errors import IsthmusError
from isthmus.kv import LIMIT
from isthmus.model import Block, Network, Peer
from isthmus.store import records

CLUSTER = "cluster"
"""The key of the ID of a store."""

CHUNK = (LIMIT - 1) // 2
"""How many keys are changed in one transaction, with a guard for each, and one besides."""

_NOTHING: Mapping[str, bytes] = MappingProxyType({})


class Key(msgspec.Struct, frozen=True):
    """A *public* key of WireGuard's, and the UDP *port* at which it is answered."""

    public: str
    port: int


class Node(msgspec.Struct, frozen=True):
    """A host, as it tells of itself: *session* is that which its key goes with, *since* nanoseconds since the epoch.

    Its *keys* are those by which it has encrypted networks: the one to use, and others that were or will be.
    """

    id: str
    name: str
    address: str
    session: str
    since: int
    keys: tuple[Key, ...] = ()


class Changed(msgspec.Struct, frozen=True):
    """What is new and what is gone of that which the engine knows; *damaged* are keys whose values mean nothing."""

    put: tuple[Network | Peer, ...] = ()
    drop: tuple[Network | Peer, ...] = ()
    damaged: tuple[str, ...] = ()


def of_node(node: Node) -> dict[str, bytes]:
    """What is kept of a host."""
    return {f"nodes/{node.id}": msgspec.json.encode(node)}


def of_network(network: Network) -> dict[str, bytes]:
    """What is kept of a network: its record, and what is its alone."""
    mine = network.id.encode()
    vnis = overlay.parse(network.options).vnis
    return {
        recorded(network.id): records.encode(network),
        f"names/{network.name}": mine,
        **{f"vnis/{vni}": mine for vni in vnis},
        opened(network.id): mine,
    }


def recorded(network: str) -> str:
    """The key of the record of the network of this ID."""
    return f"networks/{network}"


def opened(network: str) -> str:
    """The key without which nobody can come to the network of this ID."""
    return f"open/{network}"


def of_peer(peer: Peer) -> dict[str, bytes]:
    """What is kept of an endpoint: itself, under each of its addresses."""
    return dict.fromkeys(keys_of(peer), records.encode(peer))


def keys_of(peer: Peer) -> list[str]:
    """The keys of an endpoint's addresses."""
    return [f"addresses/{peer.network}/{address.ip}" for address in peer.addresses]


def of_block(block: Block, node: str) -> dict[str, bytes]:
    """What is kept of a block that a host has for itself."""
    return {f"blocks/{block.network}/{str(block.cidr).replace('/', '-')}": node.encode()}


def around(network: Network, peer: Peer) -> tuple[str, ...]:
    """The keys of the blocks that the addresses of *peer* lie in."""
    parsed = overlay.parse(network.options)
    keys: list[str] = []
    for address in peer.addresses if parsed.bits is not None else ():
        home = next(one for one in network.subnets if address.ip in one.cidr)
        length = max(address.max_prefixlen - (parsed.bits or 0), (home.ip_range or home.cidr).prefixlen)
        keys += of_block(Block(network.id, ip_network(f"{address.ip}/{length}", strict=False)), "")
    return tuple(keys)


def chunks(items: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    """*items*, as many at a time as go into one transaction."""
    rest = iter(items.items())
    while part := dict(islice(rest, CHUNK)):
        yield part


class Registry(msgspec.Struct):
    """What is in the store, by its keys, and by what they mean."""

    items: dict[str, bytes] = msgspec.field(default_factory=dict)
    networks: dict[str, Network] = msgspec.field(default_factory=dict)
    nodes: dict[str, Node] = msgspec.field(default_factory=dict)
    _peers: dict[str, Peer] = msgspec.field(default_factory=dict)
    _blocks: dict[str, bytes] = msgspec.field(default_factory=dict)
    _held: dict[str, dict[str, bytes]] = msgspec.field(default_factory=dict)

    def take(self, changes: Mapping[str, bytes | None]) -> Changed:
        """Know that each key has another value, or is gone where that is None."""
        put: list[Network | Peer] = []
        drop: list[Network | Peer] = []
        damaged: list[str] = []
        for key, value in changes.items():
            if self.items.get(key) == value:
                continue
            if before := self._forget(key):
                drop.append(before)
            if value is None:
                continue
            self.items[key] = value
            try:
                if now := self._read(key, value):
                    put.append(now)
            except (IsthmusError, msgspec.MsgspecError):
                damaged.append(key)
        # Who has two addresses may lose one at a time; who is changed is first forgotten, then known anew.
        there = {peer.id for peer in put if isinstance(peer, Peer)}
        there.update(
            one.id for one in drop if isinstance(one, Peer) and any(self._is_at(key, one.id) for key in keys_of(one))
        )
        gone = dict.fromkeys(one for one in drop if not (isinstance(one, Peer) and one.id in there))
        kept = {one.id for one in put if isinstance(one, Network)}
        return Changed(
            tuple(dict.fromkeys(put)),
            tuple(one for one in gone if not (isinstance(one, Network) and one.id in kept)),
            tuple(damaged),
        )

    def peers(self) -> Iterator[Peer]:
        """All endpoints, each once for each of its addresses."""
        return iter(self._peers.values())

    def peers_of(self, node: str) -> Iterator[Peer]:
        """Those that a host has."""
        return (self._peers[key] for key in self._held.get(node, ()))

    def has(self, record: Network | Peer) -> bool:
        """Whether *record* is just what the store has."""
        if isinstance(record, Network):
            return self.networks.get(record.id) == record
        return any(self._peers.get(key) == record for key in keys_of(record))

    def knows(self, record: Network | Peer) -> bool:
        """Whether the store has what *record* was, be it another by now."""
        if isinstance(record, Network):
            return record.id in self.networks
        return any((one := self._peers.get(key)) is not None and one.id == record.id for key in keys_of(record))

    def peer(self, key: str) -> Peer | None:
        """Who has the address of this key."""
        return self._peers.get(key)

    def held(self, node: str) -> Mapping[str, bytes]:
        """The addresses that a host has, as they stand in the store."""
        return self._held.get(node, _NOTHING)

    def holders(self) -> frozenset[str]:
        """The hosts that have addresses, or blocks of them."""
        return frozenset(self._held) | {value.decode(errors="replace") for value in self._blocks.values()}

    def blocks(self, node: str) -> dict[str, bytes]:
        """The blocks that a host has, as they stand in the store."""
        mine = node.encode()
        return {key: value for key, value in self._blocks.items() if value == mine}

    def blocks_on(self, network: str) -> dict[str, bytes]:
        """The blocks that hosts have of a network's pool, as they stand in the store."""
        return {key: value for key, value in self._blocks.items() if key.startswith(f"blocks/{network}/")}

    def free_blocks(self, network: Network, version: int) -> Iterator[Block]:
        """Those blocks of a network's pool that nobody has, and nobody an address in, in their order."""
        prefix = f"addresses/{network.id}/"
        used = sorted(int(ip_address(key.removeprefix(prefix))) for key in self._peers if key.startswith(prefix))
        for cidr in overlay.parse(network.options).blocks(network.subnets, version):
            block = Block(network.id, cidr)
            first = int(cidr.network_address)
            at = bisect_left(used, first)
            taken = at < len(used) and used[at] < first + cidr.num_addresses
            if not taken and not of_block(block, "").keys() & self._blocks.keys():
                yield block

    def standing(self, network: str) -> dict[str, str]:
        """Who stands on a network, anywhere: names by the endpoints' IDs."""
        return {peer.id: peer.name for peer in self._peers.values() if peer.network == network}

    def _is_at(self, key: str, identity: str) -> bool:
        peer = self._peers.get(key)
        return peer is not None and peer.id == identity

    def _forget(self, key: str) -> Network | Peer | None:
        self.items.pop(key, None)
        kind, _, rest = key.partition("/")
        match kind:
            case "networks":
                return self.networks.pop(rest, None)
            case "nodes":
                self.nodes.pop(rest, None)
            case "blocks":
                self._blocks.pop(key, None)
            case "addresses" if peer := self._peers.pop(key, None):
                held = self._held[peer.node]
                del held[key]
                if not held:
                    del self._held[peer.node]
                return peer
            case _:
                pass
        return None

    def _read(self, key: str, value: bytes) -> Network | Peer | None:
        """What a value means to the engine; raises what tells that it means nothing."""
        kind, _, rest = key.partition("/")
        match kind:
            case "networks":
                network = records.decode(f"network/{rest}", value)
                if isinstance(network, Network) and BUILTIN[network.driver].traits(network).spanning:
                    self.networks[rest] = network
                    return network
            case "blocks":
                self._blocks[key] = value
            case "nodes":
                self.nodes[rest] = msgspec.json.decode(value, type=Node)
            case "addresses":
                identity = msgspec.json.decode(value, type=_Envelope).record.id
                peer = records.decode(f"peer/{rest.partition('/')[0]}/{identity}", value)
                if isinstance(peer, Peer) and key in keys_of(peer):
                    self._peers[key] = peer
                    self._held.setdefault(peer.node, {})[key] = value
                    return peer
            case _:
                pass
        return None


class _Identified(msgspec.Struct):
    id: str


class _Envelope(msgspec.Struct):
    record: _Identified
