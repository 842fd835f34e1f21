"""What hosts rely on in a store that they share; the same for the one in memory, a real Consul and a real etcd."""

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, aclosing, asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import StoreUnavailable
from isthmus.kv import LIMIT, SIZE, Conflict, Delta, Guards, SessionLost, SharedStore, Snapshot
from isthmus.kv.consul import Consul
from isthmus.kv.etcd import Etcd
from isthmus.kv.opening import open_store
from isthmus.kv.servers import Pace
from tests.e2e.hosts import Machine, until
from tests.kv_servers import PATIENCE, STARTING, ConsulServer, EtcdServer, InMemory, Real, Servers, program

KINDS = ["memory", "consul", "etcd"]
PACE = Pace(patience=0.5)
SOON = 5.0
"""How long, in seconds, news may take."""

_roots = count()


def skip_without(kind: str) -> None:
    """Skip the test if no server of this *kind* can be started here."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a namespace is made for the server")
    if program(kind) is None:
        pytest.skip(f"{kind} was not fetched: ./bootstrap kernel")


def made(kind: str, directory: Path) -> Servers:
    """A store of this *kind*, which runs."""
    if kind != "memory":
        skip_without(kind)
    servers: Servers
    match kind:
        case "consul":
            servers = ConsulServer(directory / kind)
        case "etcd":
            servers = EtcdServer(directory / kind)
        case _:
            servers = InMemory()
    try:
        servers.start()
    except BaseException:
        servers.close()
        raise
    return servers


@pytest.fixture(params=KINDS, scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A store of every kind, for tests that leave it whole."""
    servers = made(request.param, tmp_path_factory.mktemp("shared"))
    yield servers
    servers.close()


@pytest.fixture(params=KINDS)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    """A store of every kind, for a test that harms it."""
    servers = made(request.param, tmp_path)
    yield servers
    servers.close()


@asynccontextmanager
async def closed(store: SharedStore) -> AsyncIterator[SharedStore]:
    """The *store*, which is closed afterwards."""
    try:
        yield store
    finally:
        await store.close()


def client(servers: Servers, root: str = "isthmus") -> AbstractAsyncContextManager[SharedStore]:
    """A client of *servers*."""
    return closed(servers.client(root))


def use(servers: Servers, work: Callable[[SharedStore], Coroutine[Any, Any, None]]) -> None:
    """Do *work* with a client of *servers*, below a root that nobody else has."""
    root = f"isthmus/{next(_roots)}"

    async def with_client() -> None:
        async with client(servers, root) as store:
            await work(store)

    servers.run(with_client())


async def soon(watch: AsyncGenerator[Delta, None], patience: float = SOON) -> Delta:
    """What *watch* tells next."""
    async with asyncio.timeout(patience):
        return await anext(watch)


class Host:
    """One who writes to the *store*, knows that at once, and hears of what others write, as a cluster's member does."""

    def __init__(self, store: SharedStore) -> None:
        self.store = store
        self.items: dict[str, bytes] = {}
        self._written: dict[str, int] = {}
        self._revision = 0

    async def follow(self) -> None:
        """Hear of all."""
        async with aclosing(self.store.watch("", Snapshot(0, {}))) as watch:
            async for delta in watch:
                assert delta.revision >= self._revision
                self._revision = delta.revision
                self._take({key: v for key, v in delta.changes.items() if delta.revision >= self._written.get(key, 0)})

    async def put(self, keys: Sequence[str], value: str) -> None:
        """Give each of *keys* a *value* that it never had."""
        for number, key in enumerate(keys):
            await self._commit({key: f"{value} {number}".encode()})

    async def delete(self, keys: Sequence[str]) -> None:
        """Take *keys* away."""
        for key in keys:
            await self._commit({key: None})

    async def _commit(self, changes: Mapping[str, bytes | None]) -> None:
        revision = await self.store.commit(changes)
        if revision > self._revision:
            self._written.update(dict.fromkeys(changes, revision))
            self._take(changes)

    def _take(self, changes: Mapping[str, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self.items.pop(key, None)
            else:
                self.items[key] = value


async def gone(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End *tasks*."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def back(store: SharedStore) -> Snapshot:
    """What the *store* holds, once it is to be had again."""
    async with asyncio.timeout(STARTING):
        while True:
            try:
                return await store.read("")
            except StoreUnavailable:
                await asyncio.sleep(0.02)


def test_what_was_committed_is_read(shared: Servers) -> None:
    """A value is bytes, all of them; a prefix takes what begins with it, and nothing else."""

    async def work(store: SharedStore) -> None:
        values = {"a/1": bytes(range(256)), "a/2": b"", "ab/1": b"\0" * 100_000, "a/ü? #%2f&+": b"1"}
        await store.commit(values)
        assert (await store.read("")).items == values
        assert (await store.read("a/")).items.keys() == {"a/1", "a/2", "a/ü? #%2f&+"}
        assert (await store.read("b/")).items == {}
        await store.commit({"a/1": None, "a/2": b"3", "a/none": None})
        assert (await store.read("a/")).items == {"a/2": b"3", "a/ü? #%2f&+": b"1"}

    use(shared, work)


def test_revisions_grow(shared: Servers) -> None:
    """Whoever has seen a revision knows that it has seen what was committed before."""

    async def work(store: SharedStore) -> None:
        first = await store.commit({"a/1": b"1"})
        assert (await store.read("a/")).revision >= first
        second = await store.commit({"a/1": None})
        assert (await store.read("a/")).revision >= second > first
        assert await store.commit({}) >= second

    use(shared, work)


def test_a_commit_whose_guards_hold_is_done(shared: Servers) -> None:
    """All kinds of guards go together, also about keys that are changed."""

    async def work(store: SharedStore) -> None:
        await store.commit({"a": b"1", "b": b"", "c": b"3"})
        await store.commit({"n": b"1", "a": b"2", "b": None}, Guards(["n"], ["a", "c"], {"b": b"", "c": b"3"}))
        assert (await store.read("")).items == {"a": b"2", "c": b"3", "n": b"1"}

    use(shared, work)


@pytest.mark.parametrize(
    ("guards", "failed"),
    [
        ({"absent": ["a", "n"]}, {"a"}),
        ({"absent": ["b"]}, {"b"}),
        ({"present": ["a", "n"]}, {"n"}),
        ({"equal": {"a": b"2"}}, {"a"}),
        ({"equal": {"n": b""}}, {"n"}),
        ({"equal": {"a": b"1", "b": b"0"}}, {"b"}),
        ({"absent": ["b"], "present": ["n"], "equal": {"a": b"1"}}, {"b", "n"}),
    ],
)
def test_a_commit_with_a_guard_that_fails_changes_nothing(
    shared: Servers, guards: dict[str, Any], failed: set[str]
) -> None:
    """It says which guards, so that the caller knows what to look at anew."""

    async def work(store: SharedStore) -> None:
        await store.commit({"a": b"1", "b": b""})
        with pytest.raises(Conflict) as told:
            await store.commit({"a": None, "c": b"1"}, Guards(**guards))
        assert told.value.keys == failed
        assert (await store.read("")).items == {"a": b"1", "b": b""}

    use(shared, work)


def test_of_many_that_want_one_address_one_gets_it(shared: Servers) -> None:
    """Two containers with one address would be the end of every."""
    root = f"isthmus/{next(_roots)}"

    async def want(number: int) -> int | BaseException:
        async with client(shared, root) as store:
            changes: dict[str, bytes | None] = {"address/10.0.0.2": b"%d" % number, f"host/{number}": b"1"}
            return await store.commit(changes, Guards(absent=["address/10.0.0.2"]))

    async def race() -> None:
        answers = await asyncio.gather(*map(want, range(50)), return_exceptions=True)
        (winner,) = (number for number, answer in enumerate(answers) if isinstance(answer, int))
        others = [answer.keys for answer in answers if isinstance(answer, Conflict)]
        assert others == [{"address/10.0.0.2"}] * 49
        async with client(shared, root) as store:
            assert (await store.read("")).items == {"address/10.0.0.2": b"%d" % winner, f"host/{winner}": b"1"}

    shared.run(race())


def test_what_is_too_large_is_a_mistake(shared: Servers) -> None:
    """The most that may be is taken by every store; more is refused before it is asked."""

    async def work(store: SharedStore) -> None:
        session = await store.join(60)
        most: dict[str, bytes | None] = {f"a/{number}": b"x" for number in range(LIMIT)}
        await store.commit(most, session=session)
        await store.commit({"b": b"x" * SIZE})
        assert len((await store.read("")).items) == LIMIT + 1
        with pytest.raises(ValueError, match="make it smaller"):
            await store.commit(most, Guards(absent=["c"]))
        with pytest.raises(ValueError, match="make it smaller"):
            await store.commit({"b": b"x" * SIZE, "c": b"x"})
        await store.leave(session)

    use(shared, work)


def test_what_is_put_under_a_session_goes_with_it(shared: Servers) -> None:
    """A host that leaves takes with it what only it can vouch for."""

    async def work(store: SharedStore) -> None:
        session = await store.join(60)
        await store.commit({"node": b"1", "mine": b"1", "theirs": b"1"}, session=session)
        await store.commit({"mine": b"2"})
        other = await store.join(60)
        await store.commit({"theirs": b"2"}, session=other)
        before = await store.read("")
        async with aclosing(store.watch("", before)) as watch:
            await store.leave(session)
            assert (await soon(watch)).changes == {"node": None}
        await store.leave(session)
        await store.leave(other)
        assert (await store.read("")).items == {"mine": b"2"}

    use(shared, work)


def test_a_session_that_ended_is_told(shared: Servers) -> None:
    """A host that was taken to be dead must not go on as if it were not."""

    async def work(store: SharedStore) -> None:
        session = await store.join(60)
        await store.commit({"a": b"1"})
        await store.leave(session)
        with pytest.raises(SessionLost, match=session):
            await store.renew(session)
        with pytest.raises(SessionLost):
            await store.commit({"a": None, "b": b"1"}, Guards(present=["a"]), session=session)
        with pytest.raises(Conflict):
            await store.commit({"b": b"1"}, Guards(absent=["a"]), session=session)
        assert (await store.read("")).items == {"a": b"1"}

    use(shared, work)


def test_a_session_lasts_as_long_as_it_is_renewed(shared: Servers) -> None:
    """A host whose power fails is gone for the others soon after."""

    async def work(store: SharedStore) -> None:
        renewed, silent = await store.join(shared.least), await store.join(shared.least)
        await store.commit({"renewed": b"1"}, session=renewed)
        await store.commit({"silent": b"1"}, session=silent)
        before = await store.read("")
        async with aclosing(store.watch("", before)) as watch:
            news = asyncio.ensure_future(soon(watch, shared.ends))
            while not news.done():
                await store.renew(renewed)
                await shared.elapse(shared.least / 3, news)
            assert (await news).changes == {"silent": None}
            await store.renew(renewed)
        with pytest.raises(SessionLost):
            await store.renew(silent)

    use(shared, work)


def test_a_watch_tells_what_changes_as_it_changes(shared: Servers) -> None:
    """In order, each with the revision of its commit; what is below another prefix, or put as it was, is no news."""

    async def work(store: SharedStore) -> None:
        await store.commit({"a/1": b"1", "b/1": b"1"})
        async with aclosing(store.watch("a/", await store.read("a/"))) as watch:
            changes: list[dict[str, bytes | None]] = [
                {"a/1": b"2"},
                {"a/2": b"", "a/3": b"3"},
                {"a/1": None, "a/4": b"4"},
            ]
            for change in changes:
                await store.commit({"b/1": b"2"})
                await store.commit({"a/ü": None})
                revision = await store.commit(change)
                assert await soon(watch) == Delta(revision, change)
            await store.commit({"a/4": b"4"})
            revision = await store.commit({"a/3": None})
            assert await soon(watch) == Delta(revision, {"a/3": None})

    use(shared, work)


def test_a_watch_leaves_nothing_out(shared: Servers) -> None:
    """However fast changes come, and whoever makes them, all that they come to is told."""
    root = f"isthmus/{next(_roots)}"

    async def work() -> None:
        async with client(shared, root) as writer, client(shared, root) as reader:
            held: dict[str, bytes] = {}
            revisions = []

            async def follow() -> None:
                async with aclosing(reader.watch("", Snapshot(0, {}))) as watch:
                    while held.get("count") != b"59":
                        delta = await soon(watch)
                        revisions.append(delta.revision)
                        held.update({key: value for key, value in delta.changes.items() if value is not None})
                        for key in [key for key, value in delta.changes.items() if value is None]:
                            del held[key]

            following = asyncio.ensure_future(follow())
            for number in range(60):
                await writer.commit({"count": b"%d" % number, f"a/{number}": b"1", f"a/{number - 3}": None})
            await following
            assert held == (await reader.read("")).items
            assert revisions == sorted(set(revisions))

    shared.run(work())


def test_a_watch_goes_on_where_the_history_was_forgotten(own: Servers) -> None:
    """A host that slept for a night finds what changed, though the store no longer knows when."""

    async def work() -> None:
        async with client(own) as store:
            await store.commit({"a": b"1", "b": b"1"})
            before = await store.read("")
            async with aclosing(store.watch("", before)) as early:
                revision = await store.commit({"a": b"2"})
                assert (await soon(early)).changes == {"a": b"2"}
                for number in range(5):
                    revision = await store.commit({"b": None, "c": b"%d" % number})
                await asyncio.to_thread(own.forget)
                async with aclosing(store.watch("", before)) as late:
                    assert await soon(late) == Delta(revision, {"a": b"2", "b": None, "c": b"4"})
                    revision = await store.commit({"d": b"1"})
                    assert await soon(late) == Delta(revision, {"d": b"1"})
                while (await soon(early)).revision < revision:
                    pass

    own.run(work())


def test_who_writes_and_watches_knows_all_in_the_end(shared: Servers) -> None:
    """A host knows at once what it wrote, and drops of older news what concerns that; nothing may be lost by it."""
    root = f"isthmus/{next(_roots)}"
    keys = [f"a/{number}" for number in range(12)]

    async def work() -> None:
        async with AsyncExitStack() as held:
            hosts = [Host(await held.enter_async_context(client(shared, root))) for _ in range(4)]
            following = [asyncio.ensure_future(host.follow()) for host in hosts]
            held.push_async_callback(gone, following)

            async def until_all_know() -> None:
                now = (await hosts[0].store.read("")).items
                async with asyncio.timeout(SOON):
                    while any(host.items != now for host in hosts):  # noqa: ASYNC110 - a watch tells nobody else
                        await asyncio.sleep(0.01)

            await asyncio.gather(
                *(host.put(keys, f"{at} {turn}") for at, host in enumerate(hosts) for turn in range(5))
            )
            await until_all_know()
            await asyncio.gather(*(host.delete(keys[:9]) for host in hosts), hosts[0].put(keys[9:], "last"))
            await until_all_know()

    shared.run(work())


async def told_away(store: SharedStore, watch: AsyncGenerator[Delta, None]) -> None:
    """Assert that all that is asked of the *store*, and a *watch*, tell in time that it is away."""

    async def told(asked: Coroutine[Any, Any, object]) -> None:
        async with asyncio.timeout(PATIENCE + 2):
            with pytest.raises(StoreUnavailable, match="the shared store"):
                await asked

    await asyncio.gather(
        told(anext(watch)),
        told(store.read("")),
        told(store.commit({"b": b"1"})),
        told(store.join(60)),
        told(store.renew("1")),
        told(store.leave("1")),
    )


@pytest.mark.parametrize("harm", ["killed", "paused"])
def test_a_store_that_is_away_is_told_in_time_and_found_again(own: Servers, harm: str) -> None:
    """A server dies with its connections, or says nothing and keeps them; with its data, all goes on."""

    async def work() -> None:
        async with client(own) as store:
            session = await store.join(600)
            await store.commit({"a": b"1"})
            await store.commit({"node": b"1"}, session=session)
            before = await store.read("")
            async with aclosing(store.watch("", before)) as watch:
                await store.commit({"a": b"2"})
                assert (await soon(watch)).changes == {"a": b"2"}
                (own.kill if harm == "killed" else own.pause)()
                await told_away(store, watch)
            await asyncio.to_thread(own.start if harm == "killed" else own.resume)
            # What was asked of a paused server may have been done: nobody knows.
            assert {"a": b"2", "node": b"1"}.items() <= (await back(store)).items.items()
            await store.renew(session)
            async with aclosing(store.watch("", before)) as watch:
                assert (await soon(watch)).changes.items() >= {"a": b"2"}.items()
                revision = await store.commit({"c": b"1"})
                while (await soon(watch)).revision < revision:
                    pass

    own.run(work())


def test_what_a_store_lost_is_told_as_gone(own: Servers) -> None:
    """A server that is set up anew, or from an old backup, has a shorter history than its clients remember."""

    async def work() -> None:
        async with client(own) as store:
            for number in range(20):
                await store.commit({"a": b"%d" % number, "b": b"1"})
            session = await store.join(600)
            before = await store.read("")
            own.kill()
            await asyncio.to_thread(own.start, wiped=True)
            await back(store)
            async with aclosing(store.watch("", before)) as watch:
                assert (await soon(watch)).changes == {"a": None, "b": None}
                await store.commit({"b": b"2"}, Guards(absent=["b"]))
                assert (await soon(watch)).changes == {"b": b"2"}
            with pytest.raises(SessionLost):
                await store.renew(session)

    own.run(work())


@pytest.mark.parametrize("kind", ["consul", "etcd"])
def test_the_next_server_is_asked_when_one_is_down(kind: str, tmp_path: Path) -> None:
    """Nothing that is asked of the dead one is lost, for it heard nothing."""
    servers = made(kind, tmp_path)
    assert isinstance(servers, Real)
    dead = "127.0.0.1:1"

    async def work() -> None:
        async with closed(open_store(f"{kind}://{dead},{servers.address},{dead}", {})) as store:
            await store.commit({"a": b"1"}, Guards(absent=["a"]))
        async with closed(open_store(f"{kind}://{dead},{servers.address},{dead}", {})) as store:
            before = await store.read("")
            async with aclosing(store.watch("", Snapshot(0, {}))) as watch:
                assert await soon(watch) == Delta(before.revision, {"a": b"1"})

    try:
        servers.run(work())
    finally:
        servers.close()


def test_what_a_server_may_have_done_is_not_asked_again(netns: None) -> None:  # noqa: ARG001 - a loopback of its own
    """A commit whose answer is lost with its connection may be done; done twice, it would look like a conflict."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the first transaction on a connection, and end it after the second."""
        for answer in (
            b'HTTP/1.1 200 OK\r\nContent-Length: 48\r\n\r\n{"Results":[{"KV":{"Key":"a","ModifyIndex":7}}]}',
            b"",
        ):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
            heard.append(head.partition(b" HTTP")[0])
            writer.write(answer)
        writer.close()

    async def work() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            address = "{}:{}".format(*server.sockets[0].getsockname())
            async with closed(Consul([address, address], "isthmus")) as store:
                assert await store.commit({"a": b"1"}) == 7
                with pytest.raises(StoreUnavailable):
                    await store.commit({"a": b"1"})

    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    asyncio.run(work())
    assert heard == [b"PUT /v1/txn"] * 2


def test_an_answer_may_be_long_but_not_pause_for_long(netns: None) -> None:  # noqa: ARG001 - a loopback of its own
    """A store that has much to say says it to many at once; one that falls silent in the middle is away."""
    ended = asyncio.Event()
    item = b'{"Key":"isthmus/items/e8b7b/a","ModifyIndex":7,"Value":"MQ=="}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer by and by: the first time whole, and then not."""
        for whole in (True, False):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: %d\r\n\r\n" % (len(item) + 2))
            for byte in b"[%s]" % item if whole else b"[":
                writer.write(bytes([byte]))
                await asyncio.sleep(PACE.patience / 20)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    async def work() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            address = "{}:{}".format(*server.sockets[0].getsockname())
            async with closed(Consul([address], "isthmus", pace=PACE)) as store:
                assert (await store.read("")).items == {"a": b"1"}
                with pytest.raises(StoreUnavailable, match="in time"):
                    await store.read("")
                await ended.wait()

    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    asyncio.run(work())


def test_consul_finds_what_was_changed_by_hand(tmp_path: Path) -> None:
    """Nobody tells of that; but a small part of all is read again now and then, and another one each time."""
    servers = made("consul", tmp_path)
    assert isinstance(servers, Real)
    servers.pace = Pace(PATIENCE, silence=0.01)

    async def work() -> None:
        async with client(servers) as store:
            for number in range(4):
                await store.commit({f"{number}/{part}": b"1" for part in range(16)})
            path = servers.call("GET", "/v1/kv/isthmus/items/?keys")[0]
            async with aclosing(store.watch("", await store.read(""))) as watch:
                assert servers.call("DELETE", f"/v1/kv/{path}")
                assert (await soon(watch, STARTING)).changes == {path.split("/", 3)[3]: None}

    try:
        servers.run(work())
    finally:
        servers.close()


def test_without_its_log_all_of_consul_is_read_again(tmp_path: Path) -> None:
    """Who deletes what he does not know may delete more; an older backup lacks what was told, too."""
    servers = made("consul", tmp_path)
    assert isinstance(servers, Real)

    async def work() -> None:
        async with client(servers) as store:
            await store.commit({"a": b"1", "b": b"1"})
            async with aclosing(store.watch("", await store.read(""))) as watch:
                for key in ("a", "b"):
                    await store.commit({"c": key.encode()})
                    assert (await soon(watch)).changes == {"c": key.encode()}
                    news = asyncio.ensure_future(soon(watch))
                    (path,) = (one for one in servers.call("GET", "/v1/kv/isthmus/items/?keys") if one.endswith(key))
                    assert servers.call("DELETE", f"/v1/kv/{path}")
                    assert servers.call("DELETE", "/v1/kv/isthmus/log/?recurse")
                    assert (await news).changes == {key: None}
                await store.commit({"c": b"2"})
                assert (await soon(watch)).changes == {"c": b"2"}

    try:
        servers.run(work())
    finally:
        servers.close()


def test_the_log_in_consul_stays_short(tmp_path: Path) -> None:
    """Whoever commits forgets what is old; who has been away for so long that he missed it finds all the same."""
    servers = made("consul", tmp_path)
    assert isinstance(servers, Real)
    servers.pace = Pace(patience=1)
    log = "/v1/kv/isthmus/log/?keys"

    async def work() -> None:
        async with client(servers) as late, client(servers) as store:
            before = await late.read("")
            for number in range(200):
                await store.commit({f"a/{number % 7}": b"%d" % number})
            assert len(servers.call("GET", log)) > 100
            await servers.elapse(3 * servers.pace.patience, asyncio.get_running_loop().create_future())
            for number in range(40):
                await store.commit({f"b/{number % 7}": b"%d" % number})
            assert len(servers.call("GET", log)) < 100
            async with aclosing(late.watch("", before)) as watch:
                assert (await soon(watch)).changes == (await store.read("")).items

    try:
        servers.run(work())
    finally:
        servers.close()


def test_keys_of_another_layout_are_nothing_to_consul(tmp_path: Path) -> None:
    """Somebody's own, or those of another version, below the same root."""
    servers = made("consul", tmp_path)
    assert isinstance(servers, Real)

    async def work() -> None:
        async with client(servers) as store:
            await store.commit({"a": b"1"})
            for path in (
                "cluster",
                "nodes/1",
                "items/00000/b",
                "items/b",
                "log/b",
                "log/b.x.00000",
                "live/b",
                "items/",
                "",
            ):
                assert servers.call("PUT", f"/v1/kv/isthmus/{path}", "1")
            before = await store.read("")
            assert before.items == {"a": b"1"}
            async with aclosing(store.watch("", before)) as watch:
                await store.commit({"a": b"2"}, Guards(absent=["b"]))
                assert (await soon(watch)).changes == {"a": b"2"}

    try:
        servers.run(work())
    finally:
        servers.close()


def test_etcd_reads_again_where_its_history_ends_before_a_watch_begins(tmp_path: Path) -> None:
    """Somebody may compact it between the two."""
    servers = made("etcd", tmp_path)

    async def work() -> None:
        async with client(servers) as store:
            assert isinstance(store, Etcd)
            for number in range(5):
                await store.commit({"a": b"%d" % number})
            await asyncio.to_thread(servers.forget)
            async with asyncio.timeout(SOON):
                assert [delta async for delta in store._news("", 1)] == []

    try:
        servers.run(work())
    finally:
        servers.close()


@pytest.mark.parametrize("kind", ["consul", "etcd"])
def test_a_watch_without_news_is_begun_anew(kind: str, tmp_path: Path) -> None:
    """A firewall that forgot the connection would keep all news from it."""
    servers = made(kind, tmp_path)
    assert isinstance(servers, Real)
    servers.pace = Pace(PATIENCE, silence=0.5)

    async def work() -> None:
        async with client(servers) as store:
            before = await store.read("")
            async with aclosing(store.watch("", before)) as watch:
                for value in (b"1", b"2"):
                    news = asyncio.ensure_future(soon(watch, STARTING))
                    await asyncio.wait({news}, timeout=1.5)
                    await store.commit({"a": value})
                    assert (await news).changes == {"a": value}

    try:
        servers.run(work())
    finally:
        servers.close()


@pytest.mark.parametrize("kind", ["consul", "etcd"])
def test_a_store_of_three_servers_goes_on_with_two(kind: str, tmp_path: Path) -> None:
    """Its leader goes without a word, as a machine does whose power fails; who watches at another hears of all soon."""
    skip_without(kind)
    make = ConsulServer if kind == "consul" else EtcdServer
    with ExitStack() as held:
        machine = held.enter_context(closing(Machine("three")))
        servers = [
            held.enter_context(closing(make(tmp_path / f"{number}", number=number, machine=machine)))
            for number in (1, 2, 3)
        ]
        for server in servers:
            server.launch()
        for server in servers:
            until(server.ready, "a leader is found", STARTING)

        async def work() -> None:
            (leader,) = (server for server in servers if server.leads())
            others = [server for server in servers if server is not leader]
            every = f"{kind}://{','.join(server.address for server in (leader, *others))}"
            async with client(others[0]) as follower, closed(open_store(every, {})) as store:

                async def news() -> Mapping[str, bytes | None]:
                    while True:
                        try:
                            async with aclosing(follower.watch("", Snapshot(0, {"a": b"1"}))) as watch:
                                return (await anext(watch)).changes
                        except StoreUnavailable:
                            # It was asked while nobody led.
                            await asyncio.sleep(0.02)

                session = await store.join(60)
                await store.commit({"a": b"1"}, session=session)
                hearing = asyncio.ensure_future(news())
                # The leader is to be gone while it holds the question back.
                await asyncio.wait({hearing}, timeout=0.5)
                leader.pause()
                await back(store)
                await store.renew(session)
                await store.commit({"b": b"1"}, session=session)
                async with asyncio.timeout(SOON):
                    assert await hearing == {"b": b"1"}

        servers[0].run(work())


@pytest.mark.parametrize(("kind", "other"), [("consul", "etcd"), ("etcd", "consul")])
def test_a_server_of_another_kind_is_no_empty_store(kind: str, other: str, tmp_path: Path) -> None:
    """A mistaken port must not make a host believe that all networks are gone."""
    servers = made(kind, tmp_path)
    assert isinstance(servers, Real)

    async def work() -> None:
        async with closed(open_store(f"{other}://{servers.address}", {})) as store:
            with pytest.raises(StoreUnavailable, match="right port"):
                await store.read("")
            with pytest.raises(StoreUnavailable, match="right port"):
                await store.commit({"a": b"1"})

    try:
        servers.run(work())
    finally:
        servers.close()
