"""A shared store in memory: for tests and simulations, with a clock that the caller moves."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping

from isthmus.errors import StoreUnavailable
from isthmus.kv import UNGUARDED, Conflict, Delta, Guards, SessionLost, Snapshot, check_size, differences


class Cluster:
    """What several `Memory` share. Its *clock* gives seconds; `tick` has what is due by it happen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.away = False
        self.revision = 1
        self.items: dict[str, tuple[bytes, str]] = {}
        self.sessions: dict[str, tuple[float, float]] = {}
        self._joined = 0
        self._news = asyncio.Event()

    def tick(self) -> None:
        """End the sessions whose time is over."""
        now = self._clock()
        for session in [one for one, (_, end) in self.sessions.items() if end <= now]:
            self.end(session)

    def stop(self) -> None:
        """Answer nobody until `start`; whoever watches is told."""
        self.away = True
        self._tell()

    def start(self, *, wiped: bool = False) -> None:
        """Answer again: with all data, or *wiped* with none, as if it were a new store."""
        if wiped:
            self.revision, self.items, self.sessions = 1, {}, {}
        self.away = False

    def join(self, ttl: float) -> str:
        """A session of *ttl* seconds."""
        self._joined += 1
        session = f"session-{self._joined}"
        self.sessions[session] = (ttl, self._clock() + ttl)
        return session

    def renew(self, session: str) -> None:
        """Have a *session* last from now."""
        if session not in self.sessions:
            raise SessionLost(session)
        ttl, _ = self.sessions[session]
        self.sessions[session] = (ttl, self._clock() + ttl)

    def end(self, session: str) -> None:
        """End a *session*, if it is there, and forget what was put under it."""
        if self.sessions.pop(session, None):
            self.change(dict.fromkeys((key for key, (_, holder) in self.items.items() if holder == session), None), "")

    def change(self, changes: Mapping[str, bytes | None], session: str) -> None:
        """Do *changes*, of which there may be none, as one."""
        for key, value in changes.items():
            if value is None:
                self.items.pop(key, None)
            else:
                self.items[key] = (value, session)
        if changes:
            self.revision += 1
            self._tell()

    def below(self, prefix: str) -> Snapshot:
        """The items whose key begins with *prefix*."""
        return Snapshot(
            self.revision, {key: value for key, (value, _) in sorted(self.items.items()) if key.startswith(prefix)}
        )

    async def news(self) -> None:
        """Wait until something may have changed."""
        await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class Memory:
    """A `SharedStore` that one host has in a *cluster*."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def read(self, prefix: str) -> Snapshot:
        """All items whose key begins with *prefix*, sorted by key."""
        return (await self._reach()).below(prefix)

    async def commit(
        self, changes: Mapping[str, bytes | None], guards: Guards = UNGUARDED, *, session: str = ""
    ) -> int:
        """Do *changes* in one transaction if all guards hold; return its revision."""
        check_size(changes, guards)
        cluster = await self._reach()
        held = {key: cluster.items[key][0] for key in guards.keys if key in cluster.items}
        if failed := guards.broken(held):
            raise Conflict(failed)
        if session and session not in cluster.sessions and any(value is not None for value in changes.values()):
            raise SessionLost(session)
        cluster.change(changes, session)
        return cluster.revision

    async def watch(self, prefix: str, since: Snapshot) -> AsyncGenerator[Delta, None]:
        """What changes below *prefix* after the snapshot *since*."""
        held = since.items
        while True:
            now = (await self._reach()).below(prefix)
            if changes := differences(held, now.items):
                yield Delta(now.revision, changes)
            held = now.items
            # Nothing is awaited between this look and the waiting, so that no news are missed.
            if not differences(held, self._cluster.below(prefix).items) and not self._cluster.away:
                await self._cluster.news()

    async def join(self, ttl: float) -> str:
        """A new session, which ends if it is not renewed for *ttl* seconds."""
        return (await self._reach()).join(ttl)

    async def renew(self, session: str) -> None:
        """Have a *session* last for its time to live from now."""
        (await self._reach()).renew(session)

    async def leave(self, session: str) -> None:
        """End a *session*; one that has ended is success."""
        (await self._reach()).end(session)

    async def close(self) -> None:
        """Nothing is held."""

    async def _reach(self) -> Cluster:
        """The cluster, after others had their turn, as it is with a network between."""
        await asyncio.sleep(0)
        if self._cluster.away:
            raise StoreUnavailable("the shared store (in memory) is not to be had: it was stopped")
        self._cluster.tick()
        return self._cluster
