"""What a host knows of the store: news, but none that is older than what it did itself."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping

import pytest

from isthmus.cluster.registry import CLUSTER
from isthmus.cluster.replica import Replica
from isthmus.errors import StoreUnavailable
from isthmus.kv import Conflict, Delta, Guards, Snapshot
from isthmus.kv.memory import Cluster, Memory


class Telling(Memory):
    """A store that tells what it is given to tell."""

    def __init__(self, store: Cluster, *deltas: Delta) -> None:
        super().__init__(store)
        self._deltas = deltas

    async def watch(self, prefix: str, since: Snapshot) -> AsyncGenerator[Delta, None]:  # noqa: ARG002 - it is told
        """What was given."""
        for delta in self._deltas:
            yield delta


def run(test: Coroutine[object, object, None]) -> None:
    """Do *test*."""
    asyncio.run(test)


async def heard(replica: Replica, since: Snapshot) -> list[Mapping[str, bytes | None]]:
    """All news, after each of which it is known."""
    told = []
    async for changes in replica.news(since):
        replica.registry.take(changes)
        told.append(changes)
    return told


def test_what_was_written_here_is_known_and_not_undone() -> None:
    """A store may tell of what was before, after it has taken the change."""

    async def test() -> None:
        store = Cluster()
        replica = Replica(Telling(store, Delta(2, {"a": None, "b": b"1"}), Delta(9, {"a": b"3"})))
        since, _ = await replica.begin()
        for _ in range(3):
            await replica.commit({"a": b"2"})
        assert replica.registry.items == {"a": b"2"}
        assert await heard(replica, since) == [{"b": b"1"}, {"a": b"3"}]
        assert replica.registry.items == {"a": b"3", "b": b"1"}

    run(test())


def test_what_is_older_than_all_that_is_known_is_no_news() -> None:
    """A watch that is slow may be behind a reading."""

    async def test() -> None:
        store = Cluster()
        replica = Replica(Telling(store, Delta(1, {"a": b"1"})))
        since, _ = await replica.begin()
        await Memory(store).commit({"a": b"2"})
        missed = await replica.missed()
        assert missed == {"a": b"2"}
        replica.registry.take(missed)
        assert await heard(replica, since) == [{}]
        assert await replica.missed() == {}

    run(test())


def test_a_store_that_forgets_its_name_is_lost() -> None:
    """Nothing is taken for gone that it has only forgotten."""

    async def test() -> None:
        replica = Replica(Telling(Cluster(), Delta(2, {CLUSTER: None, "a": None})))
        since, _ = await replica.begin()
        with pytest.raises(StoreUnavailable, match="lost its data"):
            await heard(replica, since)

    run(test())


def test_only_what_is_as_it_was_is_taken_back() -> None:
    """Others may have something there by now."""

    async def test() -> None:
        store = Cluster()
        replica, other = Replica(Memory(store)), Memory(store)
        await replica.begin()
        await replica.commit({"a": b"1"})
        await other.commit({"a": b"2"})
        await replica.take_back({"a": b"1"})
        assert (await other.read("")).items == {"a": b"2"}
        with pytest.raises(Conflict):
            await replica.commit({"a": None}, Guards(equal={"a": b"1"}))
        await replica.take_back({"a": b"2"})
        assert (await other.read("")).items == {}

    run(test())
