"""What this host knows of the store that hosts share: a copy of it that is never older than what was done here."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

from isthmus.cluster.registry import CLUSTER, Changed, Registry, chunks
from isthmus.errors import StoreUnavailable
from isthmus.kv import UNGUARDED, Conflict, Delta, Guards, SharedStore, Snapshot, differences


class Replica:
    """What *store* holds, read and indexed in a `registry`. All methods are for the loop's thread.

    What is committed here is known here at once, and so before the store tells of it; what the store tells then may be
    older.
    """

    def __init__(self, store: SharedStore) -> None:
        self.registry = Registry()
        self._store = store
        self._written: dict[str, int] = {}
        self._revision = 0

    async def begin(self) -> tuple[Snapshot, Changed]:
        """Know just what the store holds now; what a watch goes on from, and what all of it means."""
        snapshot = await self._store.read("")
        self.registry, self._written, self._revision = Registry(), {}, snapshot.revision
        return snapshot, self.registry.take(snapshot.items)

    async def news(self, since: Snapshot) -> AsyncGenerator[Mapping[str, bytes | None], None]:
        """What becomes otherwise than it is known here; whoever hears of it has the registry take it.

        Raises:
            StoreUnavailable: the store was lost, or has lost its data.
        """
        async with aclosing(self._store.watch("", since)) as deltas:
            async for delta in deltas:
                if delta.changes.get(CLUSTER, b"") is None:
                    # Or it shows us nothing any more, as Consul does where a token may not read.
                    raise StoreUnavailable("it has lost its data")
                yield self._fresh(delta)

    async def missed(self) -> Mapping[str, bytes | None]:
        """What is otherwise in the store now than it is known here."""
        snapshot = await self._store.read("")
        return self._fresh(Delta(snapshot.revision, differences(self.registry.items, snapshot.items)))

    async def commit(
        self, changes: Mapping[str, bytes | None], guards: Guards = UNGUARDED, *, session: str = ""
    ) -> None:
        """Change the store (see `SharedStore.commit`), and know of the change at once."""
        revision = await self._store.commit(changes, guards, session=session)
        if revision > self._revision:  # else what came of it was heard before the answer, and perhaps what came after
            self._written.update(dict.fromkeys(changes, revision))
            self.registry.take(changes)

    async def take_back(self, items: Mapping[str, bytes]) -> None:
        """Have the store hold *items* no more, but for what is something else there by now."""
        for part in chunks(items):
            with suppress(Conflict):
                await self.commit(dict.fromkeys(part), Guards(equal=part))

    def _fresh(self, delta: Delta) -> Mapping[str, bytes | None]:
        """What is news of a *delta*: nothing, if what is known is of a later revision."""
        if delta.revision < self._revision:
            return {}
        # What this host wrote later is not undone.
        fresh = {key: value for key, value in delta.changes.items() if delta.revision >= self._written.get(key, 0)}
        self._written = {key: written for key, written in self._written.items() if written > delta.revision}
        self._revision = delta.revision
        return fresh
