"""One host of those that share a store: it tells what it has there, hears what others have, and asks for more."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path

from isthmus.cluster.encryption import Encryption
from isthmus.cluster.registry import CLUSTER, Changed, Node, Registry, chunks, of_network, of_node, of_peer, opened
from isthmus.drivers.overlay import is_encrypted
from isthmus.errors import Forbidden, IsthmusError, NetworkInUse, StoreUnavailable
from isthmus.kv import Conflict, SessionLost, SharedStore, Snapshot, differences
from isthmus.lan import Call
from isthmus.model import Network, Peer
from isthmus.questions import Evidence, Question, Reserve
from isthmus.views import Event, NodeView, Offers
from isthmus.wireguard import PREFIX

log = logging.getLogger("isthmus.cluster")

RETRY, PATIENCE = 0.5, 15.0
"""After how many seconds a store that is away is looked for again, at first and at most."""


BRIEF = 8
"""How many changes the engine may learn without a thread of its own."""


UNKNOWN = IPv6Address(0)
"""Where somebody is of whom nothing is known: nobody is reached there."""


@dataclass(frozen=True, slots=True)
class Times:
    """How often a host shows that it is there, when it is held to be gone, and how long after that its addresses stay.

    All are seconds; *ttl* counts from the last time that it showed itself, *delay* from when it was missed.
    """

    heartbeat: float
    ttl: float
    delay: float


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
        self._registry = Registry()
        self._written: dict[str, int] = {}
        self._session = ""
        self._since = 0
        self._away = "it was not asked yet"
        self._gone: dict[str, float] = {}
        self._spared_until = 0.0
        # What is being asked for: as long as its asker has not settled, what stands says nothing of it.
        self._pending: dict[Reserve, tuple[str, ...]] = {}
        self._publishing = self._outdated = False
        self._settling = self._unsettled = False
        self._complaint = ""
        self._teaching = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Find the store, and stay in touch with it from now on."""
        self._encryption.start(self.settle)
        self._spawn(self._stay())

    async def close(self) -> None:
        """Let go of the store. The session goes on until its time is over: the next run goes on with what is there."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._encryption.close()
        await self._store.close()

    @property
    def away(self) -> str:
        """Why the store cannot be had; "" if it can."""
        return self._away

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
        keys, needed = await self._keys(question.record)
        self._pending[question] = tuple(keys)
        try:
            await self._commit(keys, absent=keys, present=needed)
        except Conflict as conflict:
            await self._refresh()
            if conflict.keys.intersection(needed):
                raise Forbidden("the network is being removed on another host: it takes nobody any more") from None
            return False
        return True

    async def _keys(self, record: Network | Peer) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """What the store shall have of *record*, and what has to be there for that."""
        if isinstance(record, Network):
            if is_encrypted(record):
                await self._encryption.check()
            return of_network(record), ()
        offers = await self._offers()
        if record.network in _encrypted(offers):
            await self._settle()
        if offers.address is None:
            raise StoreUnavailable(
                "this host has no address by which others could reach it: give --cluster-advertise an address of the "
                "host's, or an interface that has one"
            )
        return of_peer(self._filled(record, offers)), (opened(record.network),)

    def settled(self, questions: Iterable[Question]) -> None:
        """Know that who had *questions* has done what he could with the answers: what he left is taken back."""
        for question in questions:
            if isinstance(question, Reserve):
                self._pending.pop(question, None)
                self.look()

    async def remove_network(self, network: Network) -> None:
        """Have a network be there no more, for nobody, if nobody is on it anywhere.

        Raises:
            NetworkInUse, StoreUnavailable.
        """
        self._check_there()
        door = opened(network.id)
        # Nobody can come from now on, so who is not there now is not there when it goes.
        with suppress(Conflict):
            await self._commit({door: None}, present=(door,))
        await self._refresh()
        here = {one.id: one.name for one in (await self._offers()).offered if one.network == network.id}
        if standing := self._registry.standing(network.id) | here:
            await self._commit({door: network.id.encode()})
            raise NetworkInUse(network.name, ((name, identity) for identity, name in standing.items()))
        await self._commit(dict.fromkeys(of_network(network)))
        await self._teach((), (network,))

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
                pending = {key for keys in self._pending.values() for key in keys}
                known = [key for key in self._registry.held(self._node) if key not in pending]
                await self._mend(await self._offers(), known)
        except (StoreUnavailable, SessionLost) as error:
            self._outdated = True
            log.warning("the store could not be told what is here, and will be when it is back: %s", error)
        finally:
            self._publishing = False

    async def _mend(self, offers: Offers, known: Iterable[str]) -> None:
        """Tell the store what of *offers* it lacks, and take back what of the keys *known* nobody has here any more."""
        standing = {one.network for one in offers.offered}
        for network in offers.networks:
            if network.id not in self._registry.networks and (network.id in standing or self._spared()):
                await self._tell_network(network)
        if offers.address is None:
            return  # it may be back, and until then what is here is nobody else's
        wanted: dict[str, bytes] = {}
        for one in offers.offered:
            wanted |= of_peer(self._filled(one, offers))
        own = self._registry.held(self._node)
        for key in [key for key, value in wanted.items() if own.get(key) != value]:
            await self._tell_address(key, wanted[key])
        extra = {key: own[key] for key in known if key in own and key not in wanted}
        for part in chunks(extra):
            with suppress(Conflict):
                await self._commit(dict.fromkeys(part), equal=part)

    async def _tell_network(self, network: Network) -> None:
        """Have the store know a network again, unless others did that just now."""
        keys = of_network(network)
        try:
            await self._commit(keys, absent=keys)
        except Conflict as conflict:
            await self._refresh()
            if network.id not in self._registry.networks:
                log.error("network %s cannot be told to other hosts: %s", network.name, conflict)  # noqa: TRY400

    async def _tell_address(self, key: str, value: bytes) -> None:
        """Have the store know what is at an address of this host's, unless another has that address by now."""
        before = self._registry.items.get(key)
        try:
            if before is None:
                await self._commit({key: value}, absent=(key,))
            elif key in self._registry.held(self._node):
                await self._commit({key: value}, equal={key: before})
            else:
                self._tell_lost(key)
        except Conflict:
            await self._refresh()
            if key in self._registry.held(self._node):
                self._outdated = True
            else:
                self._tell_lost(key)

    def _tell_lost(self, key: str) -> None:
        if other := self._registry.peer(key):
            address = key.rpartition("/")[2]
            log.error(
                "%s was given to %s on node %s while this host was away: connect who has it here anew",
                address,
                other.name,
                other.node,
            )

    async def _offers(self) -> Offers:
        return await self._call(lambda engine: engine.offers(), brief=True)

    def _filled(self, peer: Peer, offers: Offers) -> Peer:
        via = self._encryption.address if peer.network in _encrypted(offers) else offers.address
        return replace(peer, node=self._node, via=via or UNKNOWN)

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
        kept = {peer.via for peer in offers.peers}
        used = {peer.via for peer in self._registry.peers_of(self._node)}
        changed = await self._encryption.settle(nodes, kept, offers.mtu, used)
        own, address = self._registry.nodes.get(self._node), str(offers.address or "")
        if not self._away and own and (own.address, own.keys) != (address, self._encryption.keys):
            await self._greet()
        if changed:
            self.look()

    # What others tell.

    async def _stay(self) -> None:
        """Find the store again whenever it was lost."""
        pause = RETRY
        self._settling = self._unsettled = True
        await self._settle_all()
        while True:
            try:
                snapshot = await self._meet()
                pause = RETRY
                await self._follow(snapshot)
            except (StoreUnavailable, SessionLost) as error:
                if self._away != str(error):
                    log.warning("the cluster store is away, and what stands goes on: %s", error)
                self._away = str(error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, PATIENCE)

    async def _meet(self) -> Snapshot:
        """Be known to the store, and know all that it knows."""
        snapshot = await self._store.read("")
        self._registry, self._written = Registry(), {}
        self._told_damaged(self._registry.take(snapshot.items))
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
        address = (await self._offers()).address
        keys = self._encryption.keys
        here = of_node(Node(self._node, self._name, str(address or ""), self._session, self._since, keys))
        if not here.items() <= self._registry.items.items():
            await self._commit(here, session=self._session)

    async def _recognize(self) -> None:
        """See whether the store is the one that it was, or has lost its data."""
        known = self._remembered.read_text(encoding="ascii") if self._remembered.exists() else ""
        there = self._registry.items.get(CLUSTER, b"").decode()
        if not there:
            there = secrets.token_hex(16)
            try:
                await self._commit({CLUSTER: there.encode()}, absent=(CLUSTER,))
            except Conflict:
                there = (await self._store.read(CLUSTER)).items[CLUSTER].decode()
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
        reasons: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._renew())
                group.create_task(self._hear(snapshot))
        except* (StoreUnavailable, SessionLost) as lost:
            reasons += map(str, lost.exceptions)
        # What is raised within `except*` comes out in a group.
        raise StoreUnavailable("; ".join(reasons))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._times.heartbeat)
            await self._store.renew(self._session)

    async def _hear(self, snapshot: Snapshot) -> None:
        async for delta in self._store.watch("", snapshot):
            # What this host wrote later is not undone by news that are older.
            fresh = {key: value for key, value in delta.changes.items() if delta.revision >= self._written.get(key, 0)}
            self._written = {key: revision for key, revision in self._written.items() if revision > delta.revision}
            await self._take(fresh)

    async def _refresh(self) -> None:
        """Know all that the store knows now."""
        snapshot = await self._store.read("")
        fresh = differences(self._registry.items, snapshot.items)
        self._written.update(dict.fromkeys(fresh, snapshot.revision))
        await self._take(fresh)

    async def _commit(
        self,
        changes: Mapping[str, bytes | None],
        *,
        absent: Collection[str] = (),
        present: Collection[str] = (),
        equal: Mapping[str, bytes] | None = None,
        session: str = "",
    ) -> None:
        """Change the store, and know of the change at once."""
        revision = await self._store.commit(changes, absent=absent, present=present, equal=equal, session=session)
        self._written.update(dict.fromkeys(changes, revision))
        self._registry.take(changes)

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
        if touched or any(ours) or any(isinstance(one, Network) for one in changed.drop):
            self.look()

    async def _teach(self, put: Iterable[Network | Peer], drop: Iterable[Network | Peer]) -> None:
        """Have the engine know what others have, and no more what they had."""
        put = tuple(one for one in put if isinstance(one, Network) or one.node != self._node)
        drop = tuple(one for one in drop if isinstance(one, Network) or one.node != self._node)
        if put or drop:
            async with self._teaching:
                try:
                    brief = len(put) + len(drop) < BRIEF
                    for why in await self._call(lambda engine: engine.learn(put, drop), brief=brief):
                        log.error("%s", why)
                except (IsthmusError, ExceptionGroup) as error:
                    log.error("what other hosts told could not be followed: %s", error)  # noqa: TRY400 - all is told

    async def _relearn(self) -> None:
        """Have the engine know just what the store has, but spare for a while what that may only have lost."""
        offers, registry = await self._offers(), self._registry
        there: set[Network | Peer] = {*registry.networks.values(), *registry.peers()}
        gone: list[Network | Peer] = []
        if not self._spared():
            peers = {one.id for one in registry.peers()}
            gone += [one for one in offers.peers if one.id not in peers]
            gone += [one for one in offers.networks if one.id not in registry.networks]
        await self._teach(there - {*offers.peers, *offers.networks}, gone)
        self._watch_over()

    def _spared(self) -> bool:
        """Whether what the store lacks may be what it has lost."""
        return self._loop.time() < self._spared_until

    @staticmethod
    def _told_damaged(changed: Changed) -> None:
        if changed.damaged:
            log.error("what the cluster store has at %s means nothing, and is passed over", ", ".join(changed.damaged))

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
        left = dict(self._registry.held(node))
        lost = tuple(dict.fromkeys(self._registry.peers_of(node)))
        log.warning("node %s is gone, so the %d addresses that it had are free again", node, len(left))
        try:
            for part in chunks(left):
                await self._commit(dict.fromkeys(part), absent=(f"nodes/{node}",), equal=part)
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
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("what concerns other hosts was given up", exc_info=error)


def _encrypted(offers: Offers) -> frozenset[str]:
    """The IDs of the networks that are encrypted."""
    return frozenset(network.id for network in offers.networks if is_encrypted(network))
