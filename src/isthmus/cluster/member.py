"""One host of those that share a store: it tells what it has there, hears what others have, and asks for more."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, nullcontext, suppress
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path

import msgspec
from msgspec.structs import replace

from isthmus.cluster.encryption import Encryption
from isthmus.cluster.path import reached
from isthmus.cluster.registry import (
    CLUSTER,
    Changed,
    Node,
    Registry,
    around,
    chunks,
    of_block,
    of_network,
    of_node,
    of_peer,
    opened,
    recorded,
)
from isthmus.cluster.replica import Replica
from isthmus.drivers.overlay import is_encrypted
from isthmus.engine import Engine
from isthmus.errors import AddressInUse, Forbidden, IsthmusError, NetworkInUse, PoolExhausted, StoreUnavailable
from isthmus.kv import Conflict, Guards, SessionLost, SharedStore, Snapshot
from isthmus.lan import Call
from isthmus.model import Block, IPAddress, Network, Peer
from isthmus.questions import AnyBlock, Evidence, Question, Reserve
from isthmus.tasks import together
from isthmus.views import Event, Finding, NodeView, Offers
from isthmus.wireguard import PREFIX

log = logging.getLogger("isthmus.cluster")

PATIENCE = 10
"""How many times as long as at first it takes at most until a store that is away is looked for again."""


BRIEF, LESSON = 8, 500
"""How many changes the engine may learn without a thread of its own, and how many at once: who asks waits for those."""


_SHUT = "the network is being removed on another host: it takes nobody any more"

_UNTOLD = "the network is not in the cluster store: wait until it is told again, or make another"

UNKNOWN = IPv6Address(0)
"""Where somebody is of whom nothing is known: nobody is reached there."""


class Times(msgspec.Struct, frozen=True):
    """How often a host shows that it is there, when it is held to be gone, and how long after that its addresses stay.

    All are seconds; *ttl* counts from the last time that it showed itself, *delay* from when it was missed. A store
    that is away is looked for again after *retry*, and then later and later. On lazy networks, the host forgets to whom
    nobody on it sent anything for *idle* seconds, or half as long again.
    """

    heartbeat: float
    ttl: float
    delay: float
    retry: float = 0.5
    idle: float = 600.0


class Member:
    """The host *node*, ours, in a cluster. All methods are for the loop's thread.

    *Call* leads to the engine; the ID of the store is *remembered* in a file.
    """

    def __init__(  # noqa: PLR0917 - all that it has to do with
        self,
        call: Call,
        store: SharedStore,
        node: str,
        name: str,
        remembered: Path,
        times: Times,
        clock: Callable[[], int],
        encryption: Encryption,
    ) -> None:
        self._call = call
        self._store = store
        self._node, self._name = node, name
        self._remembered = remembered
        self._times = times
        self._clock = clock
        self._encryption = encryption
        self._replica = Replica(store)
        self._session = ""
        self._since = 0
        self._away = "it was not asked yet"
        self._gone: dict[str, float] = {}
        self._spared_until = 0.0
        # What is being asked for: as long as its asker has not settled, what stands says nothing of it.
        self._pending: dict[object, tuple[str, ...]] = {}
        self._lost: dict[str, str] = {}
        self._publishing = self._outdated = self._closing = False
        self._moved = asyncio.Event()
        self._settling = self._unsettled = False
        self._complaint = ""
        self._teaching = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Find the store, and stay in touch with it from now on."""
        self._encryption.start(self.settle)
        self._spawn(self._stay())
        self._spawn(self._forget())

    async def close(self) -> None:
        """Let go of the store. The session goes on until its time is over: the next run goes on with what is there."""
        self._closing = True
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._encryption.close()
        await self._store.close()

    @property
    def away(self) -> str:
        """Why the store cannot be had; "" if it can."""
        return self._away

    @property
    def _registry(self) -> Registry:
        return self._replica.registry

    # What users ask for.

    async def reserve(self, questions: Iterable[Reserve]) -> Evidence:
        """Which of *questions* are answered with yes. Where others were first, the engine knows of them by now.

        Raises:
            StoreUnavailable: the store is away.
            Forbidden: the network is being removed.
        """
        granted = {}
        for question in questions:
            if await self._take_for(question):
                granted[question.key] = question
        return Evidence(granted=granted)

    async def _take_for(self, question: Reserve) -> bool:
        """Have the store know that what is asked for is this host's; tell whether it is."""
        self._check_there()
        if isinstance(question.record, AnyBlock):
            await self._take_block(question.record)
            return False
        keys, needed, lacking = await self._keys(question.record)
        self._pending[question] = tuple(keys)
        try:
            await self._replica.commit(keys, Guards(absent=(*keys, *lacking), present=needed))
        except Conflict as conflict:
            await self._refresh()
            if conflict.keys.intersection(needed):
                raise Forbidden(_SHUT) from None
            if isinstance(question.record, Peer) and conflict.keys.intersection(lacking):
                raise AddressInUse(question.record.addresses[0].ip) from None  # it is of another host's block
            return False
        return True

    async def _take_block(self, wanted: AnyBlock) -> None:
        """Have one more block of a network's pool for this host, of which the engine knows then.

        Raises:
            PoolExhausted: there is none that nobody has, or has an address in.
        """
        network = self._registry.networks.get(wanted.network)
        if network is None:
            raise Forbidden(_UNTOLD)
        asking = object()
        while block := next(self._registry.free_blocks(network, wanted.version), None):
            keys = of_block(block, self._node)
            self._pending[asking] = tuple(keys)
            # Nobody may have come to have an address of it meanwhile.
            addresses = (f"addresses/{network.id}/{address}" for address in block.cidr)
            try:
                await self._replica.commit(keys, Guards(absent=(*keys, *addresses), present=(opened(network.id),)))
                await self._call(partial(_keep, block))
            except Conflict as conflict:
                await self._refresh()
                if opened(network.id) in conflict.keys:
                    raise Forbidden(_SHUT) from None
            else:
                return
            finally:
                del self._pending[asking]
        raise PoolExhausted(f"IPv{wanted.version}", network.name, network.id, ())

    async def _keys(self, record: Network | Peer) -> tuple[dict[str, bytes], tuple[str, ...], tuple[str, ...]]:
        """What the store shall have of *record*, what has to be there for that, and what must not."""
        if isinstance(record, Network):
            if is_encrypted(record):
                await self._encryption.check()
            return of_network(record), (), ()
        network = self._registry.networks.get(record.network)
        encrypted = {network.id} if network and is_encrypted(network) else set()
        if encrypted:
            await self._settle()
        address = await self._address()
        if address is None:
            raise StoreUnavailable(
                "this host has no address by which others could reach it: give --cluster-advertise an address of the "
                "host's, or an interface that has one"
            )
        own = self._registry.blocks(self._node)
        others = tuple(key for key in (around(network, record) if network else ()) if key not in own)
        return of_peer(self._filled(record, address, encrypted)), (opened(record.network),), others

    def settled(self, questions: Iterable[Question]) -> None:
        """Know that who had *questions* has done what he could with the answers: what he left is taken back."""
        for question in questions:
            if isinstance(question, Reserve):
                self._pending.pop(question, None)
                self.look()
                if isinstance(question.record, Network):
                    self._spawn(self._withdraw(question.record))

    async def _withdraw(self, network: Network) -> None:
        """Have a network that was asked for here be nobody's, if it did not come to be: the kernel may have refused."""
        there = (one.id for one in (await self._offers()).networks)
        if network.id not in self._registry.networks or network.id in there:
            return
        try:
            await self.remove_network(network)
        except (NetworkInUse, StoreUnavailable) as error:
            log.warning("network %s could not be made here, and stays for other hosts: %s", network.name, error)

    async def update_network(self, before: Network, after: Network) -> None:
        """Have a network be as *after* for all hosts, if it is still as *before*; the engine knows of it then.

        Raises:
            Forbidden: it is another by now, or being removed; or this host could not follow whole.
            StoreUnavailable: the store is away.
        """
        self._check_there()
        key, door = recorded(before.id), opened(before.id)
        changed = Forbidden(f"{before.name} was changed just now by somebody else: look at it, and try again")
        if before.id not in self._registry.networks:
            raise Forbidden(_UNTOLD)
        if not self._registry.has(before):
            raise changed
        if after == before:
            return
        change = {key: of_network(after)[key]}
        try:
            await self._replica.commit(change, Guards(present=(door,), equal={key: self._registry.items[key]}))
        except Conflict as conflict:
            await self._refresh()
            raise Forbidden(_SHUT) if door in conflict.keys else changed from None
        if complaints := await self._teach((after,), ()):
            raise Forbidden("; ".join(complaints))

    async def remove_network(self, network: Network) -> None:
        """Have a network be there no more, for nobody, if nobody is on it anywhere.

        Raises:
            NetworkInUse, StoreUnavailable.
        """
        self._check_there()
        door = opened(network.id)
        # Nobody can come from now on, so who is not there now is not there when it goes.
        with suppress(Conflict):
            await self._replica.commit({door: None}, Guards(present=(door,)))
        await self._refresh()
        here = {one.id: one.name for one in (await self._offers()).offered if one.network == network.id}
        if standing := self._registry.standing(network.id) | here:
            await self._replica.commit({door: network.id.encode()})
            raise NetworkInUse(network.name, ((name, identity) for identity, name in standing.items()))
        await self._replica.commit(dict.fromkeys(of_network(network)))
        await self._replica.take_back(self._registry.blocks_on(network.id))
        await self._teach((), (network,))

    async def check(self, network: Network) -> tuple[Finding, ...]:
        """Whether the store and this host agree about a network, and its packets reach the others who are on it.

        What they do not agree about is mended, as the store has it for others, and as it is here for what is ours.
        """
        if self._away:
            return (Finding("store", ok=False, text=f"it is away: {self._away}"),)
        await self._refresh()
        before = await self._others()
        await self._relearn()
        await self._mend(await self._offers(), ())
        told = len({*before} ^ {*await self._others()})
        text = (
            f"{told} entries differed, and are mended" if told else "it knows what is here, and this host what it has"
        )
        return Finding("store", ok=True, text=text), *await self._paths(network)

    async def _paths(self, network: Network) -> list[Finding]:
        """Whether packets of the network's full size come through to each host on it."""
        peers = [peer for peer in self._registry.peers() if peer.network == network.id and peer.node != self._node]
        hosts = {peer.via: peer.node for peer in peers}
        findings = []
        for version in sorted({via.version for via in hosts}):
            asked = [via for via in hosts if via.version == version]
            size = await self._call(partial(_packet_size, network.id, version))
            there = await reached(asked, size, self._encryption.inside() if is_encrypted(network) else nullcontext())
            for via in asked:
                node = self._registry.nodes.get(hosts[via])
                name = f"{node.name if node else hosts[via][:12]} ({via})"
                text = f"packets of {size} bytes {'come' if via in there else 'do not come'} through whole to {name}"
                if via not in there:
                    text += ": is it there, does it answer an echo, and is the network's MTU not too large for the way?"
                findings.append(Finding("path", ok=via in there, text=text))
        return findings

    def nodes(self) -> tuple[NodeView, ...]:
        """The hosts that are known, this one first; of one that is gone, what it left is still kept for it."""
        registry = self._registry
        views = [self._view(node, "unknown" if self._away else "ready") for node in registry.nodes.values()]
        for identity in registry.holders() - registry.nodes.keys():
            via = next((str(peer.via) for peer in registry.peers_of(identity) if peer.via not in PREFIX), "")
            views.append(self._view(Node(identity, "", via, "", 0), "down"))
        return tuple(sorted(views, key=lambda view: (not view.here, view.name, view.id)))

    def _view(self, node: Node, status: str) -> NodeView:
        held = len({peer.id for peer in self._registry.peers_of(node.id)})
        return NodeView(node.id, node.name, node.address, status, node.since, held, here=node.id == self._node)

    def _check_there(self) -> None:
        if self._away:
            raise StoreUnavailable(
                f"the cluster store is away ({self._away}): what stands goes on, but nobody can come to a shared "
                "network until it is back"
            )

    # What happens here.

    def heard(self, event: Event) -> None:
        """Take notice of what the engine announced."""
        if event.kind == "network" and event.action in {"connect", "disconnect", "destroy"}:
            self.look()
        if event.kind == "network" and event.action in {"create", "destroy"}:
            self.settle()

    def moved(self) -> None:
        """Know that the ways between other hosts and this one may be others."""
        self.look()
        self.settle()

    def look(self) -> None:
        """See soon whether the store has what this host has, and nothing besides, and mend it."""
        self._outdated = True
        if not self._publishing and not self._away:
            self._publishing = True
            self._spawn(self._publish())

    async def _publish(self) -> None:
        try:
            while self._outdated and not self._away:
                self._outdated = False
                # What is asked for from now on may come to stand unseen by this look.
                known = self._settled_keys()
                await self._mend(await self._offers(), known)
        except (StoreUnavailable, SessionLost) as error:
            self._outdated = True
            log.warning("the store could not be told what is here, and will be when it is back: %s", error)
            self._loop.call_later(self._times.retry, self.look)  # it need not be away: one connection may have broken
        finally:
            self._publishing = False

    def _settled_keys(self) -> frozenset[str]:
        """The keys that this host has in the store, but for those that are being asked for."""
        pending = {key for keys in self._pending.values() for key in keys}
        registry = self._registry
        return frozenset((*registry.held(self._node), *registry.blocks(self._node))) - pending

    async def _mend(self, offers: Offers, known: Collection[str]) -> None:
        """Tell the store what of *offers* it lacks, and take back what of the keys *known* nobody has here any more."""
        standing = {one.network for one in offers.offered}
        for network in offers.networks:
            if network.id not in self._registry.networks and (network.id in standing or self._spared()):
                await self._tell_network(network)
        await self._mend_blocks(offers, known)
        here = self._registry.nodes.get(self._node)
        if here is None:
            await self._greet()
        elif here.address != str(offers.address or ""):
            self._moved.set()
            return
        if offers.address is None:
            return  # it may be back, and until then what is here is nobody else's
        wanted: dict[str, bytes] = {}
        encrypted = _encrypted(offers)
        for one in offers.offered:
            wanted |= of_peer(self._filled(one, offers.address, encrypted))
        own = self._registry.held(self._node)
        for key in [key for key, value in wanted.items() if own.get(key) != value]:
            await self._tell_address(key, wanted[key])
        own = self._registry.held(self._node)
        lost = {one.id: key for one in offers.offered for key in of_peer(one) if key not in own}
        for one in offers.offered:
            await self._tell_lost(one.id, lost.get(one.id, ""))
        await self._replica.take_back({key: own[key] for key in known if key in own and key not in wanted})

    async def _mend_blocks(self, offers: Offers, known: Collection[str]) -> None:
        """Have the store and the engine agree about this host's blocks, and give back those beyond one spare."""
        blocks: dict[str, Block] = {}
        for block in offers.blocks:
            blocks |= dict.fromkeys(of_block(block, self._node), block)
        for key in blocks.keys() - self._registry.blocks(self._node).keys():
            with suppress(Conflict):
                await self._replica.commit({key: self._node.encode()}, Guards(absent=(key,)))
        own = self._registry.blocks(self._node)
        lost = [block for key, block in blocks.items() if key not in own]
        idle: dict[tuple[str, int], list[Block]] = {}
        for block in (block for key, block in blocks.items() if key in own):
            members = (one for one in offers.offered if one.network == block.network)
            if not any(address.ip in block.cidr for one in members for address in one.addresses):
                idle.setdefault((block.network, block.cidr.version), []).append(block)
        spare = [block for several in idle.values() for block in several[1:]]
        if lost or spare:
            gone = await self._call(lambda engine: engine.keep_blocks((), lost, spare))
            blocks = {key: block for key, block in blocks.items() if block not in gone}
        await self._replica.take_back({key: own[key] for key in known if key in own and key not in blocks})

    async def _tell_network(self, network: Network) -> None:
        """Have the store know a network again, unless others did that just now."""
        there = self._registry.items
        lacking = {key: value for key, value in of_network(network).items() if there.get(key) != value}
        try:
            await self._replica.commit(lacking, Guards(absent=lacking))
        except Conflict as conflict:
            await self._refresh()
            if network.id not in self._registry.networks:
                log.error("network %s cannot be told to other hosts: %s", network.name, conflict)  # noqa: TRY400

    async def _tell_address(self, key: str, value: bytes) -> None:
        """Have the store know what is at an address of this host's, unless another has that address by now."""
        before = self._registry.items.get(key)
        try:
            if before is None:
                await self._replica.commit({key: value}, Guards(absent=(key,)))
            elif key in self._registry.held(self._node):
                await self._replica.commit({key: value}, Guards(equal={key: before}))
        except Conflict:
            await self._refresh()
            if key in self._registry.held(self._node):
                self._outdated = True

    async def _tell_lost(self, endpoint: str, key: str) -> None:
        """Show with an *endpoint* here that somebody else has its address, that of *key*, by now; "" if nobody has."""
        other = self._registry.peer(key)
        text = ""
        if other:
            text = (
                f"{key.rpartition('/')[2]} was given to {other.name} on node {other.node[:12]} while this host was away"
            )
            text += "; connect it anew for another address"
        if self._lost.get(endpoint, "") != text:
            self._lost[endpoint] = text
            if text:
                log.error("%s", text)
            await self._call(lambda engine: engine.tell(endpoint, "store", text))

    async def _offers(self) -> Offers:
        return await self._call(lambda engine: engine.offers(), brief=True)

    async def _others(self) -> tuple[Peer, ...]:
        return await self._call(lambda engine: engine.others())

    async def _address(self) -> IPAddress | None:
        return await self._call(lambda engine: engine.advertised(), brief=True)

    def _filled(self, peer: Peer, address: IPAddress, encrypted: Collection[str]) -> Peer:
        via = (self._encryption.address or UNKNOWN) if peer.network in encrypted else address
        return replace(peer, node=self._node, via=via)

    # Encrypted networks.

    def settle(self) -> None:
        """See soon whether the ways to other hosts are as they should be."""
        self._unsettled = True
        if not self._settling:
            self._settling = True
            self._spawn(self._settle_all())

    async def rekey(self) -> None:
        """Begin to have another key."""
        self._check_there()
        await self._encryption.rekey()

    async def _settle_all(self) -> None:
        try:
            while self._unsettled:
                self._unsettled = False
                try:
                    await self._settle()
                    self._complaint = ""
                except (StoreUnavailable, SessionLost):
                    pass  # it is told when the store is back
                except IsthmusError as error:
                    if self._complaint != str(error):
                        log.error("encrypted networks reach no other host: %s", error)  # noqa: TRY400 - all is told
                    self._complaint = str(error)
                    self._loop.call_later(PATIENCE, self.settle)
        finally:
            self._settling = False

    async def _settle(self) -> None:
        """Have the ways to other hosts be as they should, and tell these of what changed with them."""
        offers = await self._offers()
        nodes = tuple(self._registry.nodes.values())
        kept = {peer.via for peer in await self._others()} if _encrypted(offers) else set()
        used = {peer.via for peer in self._registry.peers_of(self._node)}
        changed = await self._encryption.settle(nodes, kept, offers.mtu, used)
        own = self._registry.nodes.get(self._node)
        if not self._away and own and own.keys != self._encryption.keys:
            await self._greet()
        if changed:
            self.look()

    # What others tell.

    async def _stay(self) -> None:
        """Find the store again whenever it was lost."""
        pause = self._times.retry
        self._settling = self._unsettled = True
        await self._settle_all()
        while True:
            try:
                snapshot = await self._meet()
                pause = self._times.retry
                await self._follow(snapshot)
            except (StoreUnavailable, SessionLost) as error:
                if self._away != str(error):
                    log.warning("the cluster store is away, and what stands goes on: %s", error)
                self._away = str(error)
            # Connections of before lead nowhere, and a watch on one would hear nothing for long.
            await self._store.close()
            await asyncio.sleep(pause)
            pause = min(2 * pause, PATIENCE * self._times.retry)

    async def _meet(self) -> Snapshot:
        """Be known to the store, and know all that it knows."""
        self._moved.clear()
        snapshot, changed = await self._replica.begin()
        self._told_damaged(changed)
        await self._greet()
        await self._recognize()
        self._gone = {}
        await self._relearn()
        if self._away:
            log.info("the cluster store is there, with %d hosts", len(self._registry.nodes))
        self._away = ""
        self.look()
        self.settle()
        return snapshot

    async def _greet(self) -> None:
        """Have a session, and this host known by it."""
        if self._session:
            try:
                await self._store.renew(self._session)
            except SessionLost:
                self._session = ""
        before = self._registry.nodes.get(self._node)
        if before and before.session != self._session:
            await self._store.leave(before.session)  # that of an earlier life
            self._registry.take({f"nodes/{self._node}": None})
        if not self._session:
            self._session = await self._store.join(self._times.ttl)
            self._since = self._clock()
        address, keys = await self._address(), self._encryption.keys
        here = of_node(Node(self._node, self._name, str(address or ""), self._session, self._since, keys))
        if not here.items() <= self._registry.items.items():
            await self._replica.commit(here, session=self._session)

    async def _recognize(self) -> None:
        """See whether the store is the one that it was, or has lost its data."""
        known = self._remembered.read_text(encoding="ascii") if self._remembered.exists() else ""
        there = self._registry.items.get(CLUSTER, b"").decode()
        if not there:
            there = secrets.token_hex(16)
            try:
                await self._replica.commit({CLUSTER: there.encode()}, Guards(absent=(CLUSTER,)))
            except Conflict:
                there = (await self._store.read(CLUSTER)).items.get(CLUSTER, b"").decode()
                if not there:
                    raise StoreUnavailable("it has lost its data") from None
        if there == known:
            return
        self._remembered.write_text(there, encoding="ascii")
        if known:
            log.warning("the cluster store has lost its data: it is told again what is here")
            patience = self._times.ttl + self._times.delay
            self._spared_until = self._loop.time() + patience
            self._later(patience, self._relearn)

    async def _follow(self, snapshot: Snapshot) -> None:
        """Renew the session and hear what changes, until the store is lost."""
        await together(self._renew(), self._hear(snapshot), self._move())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._times.heartbeat)
            await self._store.renew(self._session)

    async def _move(self) -> None:
        """Begin anew when this host has another address: what was connected from the old one is deaf."""
        await self._moved.wait()
        raise StoreUnavailable("this host has another address")

    async def _hear(self, snapshot: Snapshot) -> None:
        async with aclosing(self._replica.news(snapshot)) as news:
            async for changes in news:
                await self._take(changes)

    async def _refresh(self) -> None:
        """Know all that the store knows now."""
        await self._take(await self._replica.missed())

    async def _take(self, changes: Mapping[str, bytes | None]) -> None:
        """Know what changed in the store, and have the engine know it."""
        held = self._registry.held(self._node)
        touched = any(key in held and held[key] != value for key, value in changes.items())
        changed = self._registry.take(changes)
        self._told_damaged(changed)
        await self._teach(changed.put, changed.drop)
        if any(key.startswith("nodes/") for key in changes):
            self._watch_over()
        left = (one for one in changed.drop if isinstance(one, Peer) and one.node not in self._registry.nodes)
        if any(left) or any(key.startswith(("nodes/", "networks/")) for key in changes):
            self.settle()
        ours = (one for one in changed.put if isinstance(one, Peer) and one.node == self._node)
        touched = touched or f"nodes/{self._node}" in changes
        if touched or any(ours) or any(isinstance(one, Network) for one in changed.drop):
            self.look()

    async def _teach(self, put: Iterable[Network | Peer], drop: Iterable[Network | Peer]) -> tuple[str, ...]:
        """Have the engine know what others have, and no more what they had; what it complains of."""
        async with self._teaching:
            # While one waits, others may have been told what is newer.
            registry = self._registry
            # And who stands on a network is of use to the engine only when it knows that.
            fresh = {one.id for one in put if isinstance(one, Network)}
            there = [peer for peer in registry.peers() if peer.network in fresh] if fresh else []
            put = tuple(one for one in dict.fromkeys((*put, *there)) if registry.has(one) and not self._is_here(one))
            drop = tuple(one for one in drop if not (registry.knows(one) or self._is_here(one)))
            complaints: list[str] = []
            for come, gone in _lessons(put, drop):
                complaints += await self._teach_at_once(come, gone)
            return tuple(complaints)

    async def _teach_at_once(self, put: Sequence[Network | Peer], drop: Sequence[Network | Peer]) -> Sequence[str]:
        try:
            brief = len(put) + len(drop) < BRIEF
            complaints = await self._call(lambda engine: engine.learn(put, drop), brief=brief)
        except (IsthmusError, ExceptionGroup) as error:
            complaints = (f"what other hosts told could not be followed: {error}",)
        for complaint in complaints:
            log.error("%s", complaint)
        return complaints

    def _is_here(self, record: Network | Peer) -> bool:
        return isinstance(record, Peer) and record.node == self._node

    async def _relearn(self) -> None:
        """Have the engine know just what the store has, but spare for a while what that may only have lost."""
        networks, registry = (await self._offers()).networks, self._registry
        others = await self._others()
        there: set[Network | Peer] = {*registry.networks.values(), *registry.peers()}
        gone: list[Network | Peer] = []
        if not self._spared():
            peers = {one.id for one in registry.peers()}
            gone += [one for one in others if one.id not in peers]
            gone += [one for one in networks if one.id not in registry.networks]
        await self._teach(there, gone)
        self._watch_over()

    def _spared(self) -> bool:
        """Whether what the store lacks may be what it has lost."""
        return self._loop.time() < self._spared_until

    @staticmethod
    def _told_damaged(changed: Changed) -> None:
        if changed.damaged:
            log.error("what the cluster store has at %s means nothing, and is passed over", ", ".join(changed.damaged))

    async def _forget(self) -> None:
        """Have the engine forget, now and then, those to whom nobody here talks any more."""
        while True:
            await asyncio.sleep(self._times.idle / 2)
            try:
                await self._call(lambda engine: engine.forget_idle(self._times.idle))
            except (IsthmusError, ExceptionGroup, OSError) as error:
                log.error("who is not talked to could not be forgotten: %s", error)  # noqa: TRY400 - all is told

    # Hosts that are gone.

    def _watch_over(self) -> None:
        """Notice who is gone, so that what he had is free again after a while."""
        now, registry = self._loop.time(), self._registry
        missing = registry.holders() - registry.nodes.keys() - {self._node}
        self._gone = {node: self._gone.get(node, now) for node in missing}
        for node, since in self._gone.items():
            if since == now:
                self._later(self._times.delay, partial(self._bury, node, now))

    async def _bury(self, node: str, since: float) -> None:
        """Free what a host had that is gone *since* then; one of those who are there does so for all."""
        if self._away or self._gone.get(node) != since:
            return
        if min(self._registry.nodes, default="") != self._node:
            # Who should do it may be gone himself by now.
            self._later(self._times.delay, partial(self._bury, node, since))
            return
        left = {**self._registry.held(node), **self._registry.blocks(node)}
        lost = tuple(dict.fromkeys(self._registry.peers_of(node)))
        log.warning("node %s is gone, so the %d addresses that it had are free again", node, len(left))
        try:
            for part in chunks(left):
                await self._replica.commit(dict.fromkeys(part), Guards(absent=(f"nodes/{node}",), equal=part))
        except Conflict:
            await self._refresh()  # it is back
        except StoreUnavailable:
            return
        still = {peer.id for peer in self._registry.peers_of(node)}
        await self._teach((), [peer for peer in lost if peer.id not in still])

    # Small things.

    def _later(self, delay: float, work: Callable[[], Coroutine[object, object, None]]) -> None:
        self._loop.call_later(delay, lambda: self._spawn(work()))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        if self._closing:
            work.close()  # what it would look at is another's by now
            return
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("what concerns other hosts was given up", exc_info=error)


def _lessons(
    put: Sequence[Network | Peer], drop: Sequence[Network | Peer]
) -> Iterator[tuple[Sequence[Network | Peer], Sequence[Network | Peer]]]:
    """What the engine learns at a time. An address passes from who goes to who comes, so the one goes first."""
    if len(put) + len(drop) <= LESSON:
        if put or drop:
            yield put, drop
        return
    gone = [one for one in drop if isinstance(one, Peer)]
    yield from (((), gone[at : at + LESSON]) for at in range(0, len(gone), LESSON))
    come = sorted(put, key=lambda one: isinstance(one, Peer))  # nobody is known on a network that is not
    yield from ((come[at : at + LESSON], ()) for at in range(0, len(come), LESSON))
    yield (), [one for one in drop if isinstance(one, Network)]


def _encrypted(offers: Offers) -> frozenset[str]:
    """The IDs of the networks that are encrypted."""
    return frozenset(network.id for network in offers.networks if is_encrypted(network))


def _packet_size(network: str, version: int, engine: Engine) -> int:
    return engine.packet_size(network, version)


def _keep(block: Block, engine: Engine) -> None:
    engine.keep_blocks((block,), (), ())
