"""Consul, from 1.8 on, by its HTTP API (https://developer.hashicorp.com/consul/api-docs: KV store, txn, session).

Whoever waits for news of a tree is sent all of it at each change, so nobody waits for the items. Below the root are

    items/<place>/<key>     the items; a place is a short digest of the key, so nearly each has one of its own
    log/<entry>             an entry for each commit, whose name says at which places something changed
    live/<entry>            an entry for each commit with a session, under that: it goes when what was put goes
    head                    the last commit

A watch waits for the names in `log` and in `live`, which are few, and reads what is at the places that they name.

To set a key is to delete it first: else it would stay under the session that it was put under, and could not be put
under another one ("lock"). A session also ends when the server, or the agent, that it was made through leaves Consul
for good.

What is told is exact: a delta of revision n has its places as they were after n, and whatever was committed up to n was
told by then. For who hears of more than a delta's revision drops it where he has written later himself, and it would be
lost for ever. So a reading in which `head` is newer than the log is held back until that was listed again, and what was
touched in between is read again instead. Only the end of a session may be told later than its revision.
"""

import asyncio
import math
import re
import secrets
import ssl
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import cycle, islice
from typing import TypeVar
from urllib.parse import quote
from zlib import crc32

import msgspec

from isthmus.errors import StoreUnavailable
from isthmus.kv import UNGUARDED, Conflict, Delta, Guards, SessionLost, Snapshot, check_size, differences
from isthmus.kv.servers import PACE, Answer, Pace, Servers

LEAST, MOST = 10, 86400
"""How many seconds a session can last without being renewed (Consul's `session_ttl_min`, and its own limit)."""

_JITTER = 1 / 16
"""By what part of it Consul waits longer for news than it was asked to, at most, so that not all come back at once."""

_REFUSED = ("Permission denied", "ACL not found")

_OPERATIONS = 64
"""How many a transaction may have."""

_ITEMS, _LOG, _LIVE, _HEAD = "items/", "log/", "live/", "head"

_ENTRY = re.compile(r"[\w-]+\.([0-9a-f]+)\.((?:[0-9a-f]{5})*)")
"""An entry's name: what is its alone, its floor (see `_Names`), and the places where something changed."""

_PLACE, _AISLE = 5, 2
"""How many digits a place has; and its beginning, which stands for all places that begin so."""

_KEPT = 2
"""How many times the patience of the pace an entry stays in the log. Who did not list it for so long is away anyway."""

_EASE = 4
"""How many times as long as it took to answer a store is left alone after it was read.

What comes next waits so long at most; and where much changes, or many watch, more of it goes in one answer.
"""

_UNLISTED = 16
"""How many commits a client makes until it looks for old entries, if it does not watch."""

_T = TypeVar("_T")


class _Item(msgspec.Struct, frozen=True, rename="pascal"):
    key: str
    modify_index: int
    value: bytes | None = None

    @property
    def content(self) -> bytes:
        """Its value; no bytes are nothing to Consul."""
        return self.value or b""


class _Result(msgspec.Struct, frozen=True):
    KV: _Item


class _Failure(msgspec.Struct, frozen=True, rename="pascal"):
    op_index: int
    what: str


class _Outcome(msgspec.Struct, frozen=True, rename="pascal"):
    results: list[_Result] | None = None
    errors: list[_Failure] | None = None


class _Session(msgspec.Struct, frozen=True):
    ID: str


class _Names(msgspec.Struct, frozen=True):
    """The entries of the log, or those that live, as they were at an *index*.

    Who deletes old entries says in his own, as its floor, at which index he had seen them all. The entry with the
    highest floor of all is always there: only one with a higher floor deletes it.
    """

    index: int
    names: frozenset[str]

    @property
    def floor(self) -> int:
        """Who has listed them at this index, or later, has missed none."""
        return max((int(_parts(name)[0], 16) for name in self.names), default=0)

    def follow(self, before: "_Names") -> bool:
        """Whether nothing was missed since *before*, and it is still the same log.

        If it is not, the store has lost its data, or somebody deleted what is not his.

        >>> first = _Names(7, frozenset({"a.0.00000"}))
        >>> _Names(9, frozenset({"a.0.00000", "b.0.11111"})).follow(first)
        True
        >>> _Names(9, frozenset({"b.7.11111"})).follow(first), _Names(9, frozenset({"b.8.11111"})).follow(first)
        (True, False)
        >>> _Names(9, frozenset({"b.0.11111"})).follow(first), _Names(6, frozenset({"a.0.00000"})).follow(first)
        (False, False)
        """
        floor = self.floor
        shortened = not before.names <= self.names
        return before.index <= self.index and floor <= before.index and (floor > before.floor or not shortened)

    def places(self, but: "_Names") -> set[str]:
        """The places that they name, *but* those that these name."""
        return {
            text[at : at + _PLACE]
            for text in (_parts(name)[1] for name in self.names - but.names)
            for at in range(0, len(text), _PLACE)
        }


class _Reading(Snapshot, frozen=True):
    """What was below a *prefix*, and where a watch goes on from there."""

    prefix: str
    log: _Names
    live: _Names


class _Told:
    """What a watch has told: items, by the places where they are."""

    def __init__(self, items: Mapping[str, bytes]) -> None:
        self._aisles = _aisles(items)

    @property
    def items(self) -> dict[str, bytes]:
        """All of them."""
        return {key: value for aisle in self._aisles.values() for key, value in aisle.items()}

    def take(self, places: Collection[str], items: Mapping[str, bytes]) -> dict[str, bytes | None]:
        """What is changed by having, at *places*, those of *items* that belong there and no others."""
        changes: dict[str, bytes | None] = {}
        found = _aisles(items)
        for place in places:
            there, aisle = found.get(place[:_AISLE], {}), self._aisles.setdefault(place[:_AISLE], {})
            changes |= differences(_at(place, aisle), _at(place, there))
        for key, value in changes.items():
            aisle = self._aisles[_place(key)[:_AISLE]]
            if value is None:
                del aisle[key]
            else:
                aisle[key] = value
        return changes


class Consul:
    """A `SharedStore` in the Consul at *addresses*, below the key *root*; asked with an ACL *token*, if any."""

    def __init__(
        self,
        addresses: Sequence[str],
        root: str,
        *,
        tls: ssl.SSLContext | None = None,
        token: str = "",
        pace: Pace = PACE,
    ) -> None:
        self._servers = Servers("consul", addresses, tls, pace)
        self._root = f"{root}/"
        self._headers = {"X-Consul-Token": token} if token else {}
        self._listed: dict[str, tuple[float, int]] = {}
        self._unlisted = 0
        self._rounds = cycle(f"{number:0{_AISLE}x}" for number in range(16**_AISLE))

    async def read(self, prefix: str) -> Snapshot:
        """All items whose key begins with *prefix*."""
        return await self._read(prefix)

    async def commit(
        self, changes: Mapping[str, bytes | None], guards: Guards = UNGUARDED, *, session: str = ""
    ) -> int:
        """Do *changes* in one transaction if all guards hold; return its revision."""
        check_size(changes, guards)
        if self._unlisted >= _UNLISTED:
            await self._list(_LOG)
        self._unlisted += 1
        indices = await self._indices(guards.equal)
        verb, under = ("lock", {"Session": session}) if session else ("set", {})
        guarded = guards.keys
        own, places = secrets.token_urlsafe(6), "".join(sorted({_place(key) for key in changes}))
        operations = [
            *(self._operation("check-not-exists", _path(key)) for key in guards.absent),
            *(self._operation("get", _path(key)) for key in guards.present),
            *(self._operation("check-index", _path(key), Index=at) for key, at in indices.items()),
            *(self._operation("delete", _path(key)) for key in changes),
            *(
                self._operation(verb, _path(key), Value=value, **under)
                for key, value in changes.items()
                if value is not None
            ),
            self._operation("set", _HEAD, Value=own.encode()),
        ]
        if session and any(value is not None for value in changes.values()):
            operations.append(self._operation("lock", f"{_LIVE}{own}.0.{places}", **under))
        old = self._old(_OPERATIONS - 1 - len(operations))
        floor = max(old.values(), default=0)
        operations += (self._operation("delete", _LOG + name) for name in old)
        operations.append(self._operation("set", f"{_LOG}{own}.{floor:x}.{places}"))
        answer = await self._ask("PUT", "/v1/txn", operations, once=True)
        outcome = self._outcome(answer)
        if outcome.errors:
            if failed := {guarded[one.op_index] for one in outcome.errors if one.op_index < len(guarded)}:
                raise Conflict(failed)
            if all(one.what.startswith("invalid session") for one in outcome.errors):
                raise SessionLost(session)
            raise self._servers.unexpected(answer)
        return max(one.KV.modify_index for one in outcome.results or ())

    async def watch(self, prefix: str, since: Snapshot) -> AsyncGenerator[Delta, None]:
        """What changes below *prefix* after the snapshot *since*."""
        told = _Told(since.items)
        now = since if isinstance(since, _Reading) and since.prefix == prefix else await self._read(prefix)
        while True:
            if changes := differences(told.items, now.items):
                told = _Told(now.items)
                yield Delta(now.revision, changes)
            async with aclosing(self._news(now, told)) as news:
                async for delta in news:
                    yield delta
            now = await self._read(prefix)

    async def join(self, ttl: float) -> str:
        """A new session, which ends if it is not renewed for *ttl* seconds, or for twice as long."""
        seconds = min(max(math.ceil(ttl), LEAST), MOST)
        wish = {"Name": "isthmus", "Behavior": "delete", "LockDelay": "0s", "NodeChecks": [], "TTL": f"{seconds}s"}
        answer = await self._ask("PUT", "/v1/session/create", wish)
        return self._servers.decode(answer.body, _Session).ID

    async def renew(self, session: str) -> None:
        """Have a *session* last for its time to live from now."""
        answer = await self._ask("PUT", f"/v1/session/renew/{quote(session)}", expected=(200, 404))
        if answer.status == 404:
            raise SessionLost(session)

    async def leave(self, session: str) -> None:
        """End a *session*; one that has ended is success."""
        await self._ask("PUT", f"/v1/session/destroy/{quote(session)}")

    async def close(self) -> None:
        """Let go of all connections."""
        await self._servers.close()

    async def _indices(self, equal: Mapping[str, bytes]) -> dict[str, int]:
        """The index of each key of *equal*, which must have that value."""
        _, found = await self._look(map(_place, equal)) if equal else (0, {})
        if failed := {key for key, value in equal.items() if key not in found or found[key].content != value}:
            raise Conflict(failed)
        return {key: found[key].modify_index for key in equal}

    async def _read(self, prefix: str) -> _Reading:
        """Everything, of which the items are kept whose key begins with *prefix*."""
        answer = await self._ask("GET", f"/v1/kv/{quote(self._root)}?recurse&consistent", encoding="gzip")
        revision, there = self._tree(answer, list[_Item])
        items: dict[str, bytes] = {}
        entries: dict[str, dict[str, int]] = {_LOG: {}, _LIVE: {}}
        for one in there:
            path = one.key.removeprefix(self._root)
            tree = path[: path.find("/") + 1]
            if (key := _key(path)) and key.startswith(prefix):
                items[key] = one.content
            elif tree in entries and _ENTRY.fullmatch(path.removeprefix(tree)):
                entries[tree][path.removeprefix(tree)] = one.modify_index
        log = _Names(max(entries[_LOG].values(), default=0), frozenset(entries[_LOG]))
        return _Reading(revision, items, prefix, log, _Names(revision, frozenset(entries[_LIVE])))

    async def _look(self, places: Iterable[str]) -> tuple[int, dict[str, _Item]]:
        """The items at *places*, and which commit was the last one then, by its index."""
        found: dict[str, _Item] = {}
        last, rest = 0, iter(sorted(places))
        while some := [*islice(rest, _OPERATIONS - 1)]:
            wish = [self._operation("get-tree", path) for path in (_HEAD, *(_ITEMS + place for place in some))]
            answer = await self._ask("PUT", "/v1/txn?consistent", wish)
            outcome = self._outcome(answer)
            if outcome.errors:
                raise self._servers.unexpected(answer)
            for one in (result.KV for result in outcome.results or ()):
                path = one.key.removeprefix(self._root)
                if path == _HEAD:
                    last = max(last, one.modify_index)
                elif key := _key(path):
                    found[key] = one
        return last, found

    async def _list(self, tree: str, index: int = 0, at: str = "") -> _Names:
        """The entries in a *tree*, as soon as they are newer than *index*, or it has been silent for long."""
        path, patience = f"/v1/kv/{quote(self._root + tree)}?keys&consistent", None
        if index:
            path += f"&index={index}&wait={self._servers.pace.silence:g}s"
            patience = self._servers.pace.silence * (1 + _JITTER) + self._servers.pace.patience
        answer = await self._ask("GET", path, at=at, patience=patience)
        at_index, there = self._tree(answer, list[str])
        names = (one.removeprefix(self._root + tree) for one in there)
        listed = _Names(at_index, frozenset(name for name in names if _ENTRY.fullmatch(name)))
        if tree == _LOG:
            first = (asyncio.get_running_loop().time(), listed.index)
            self._listed = {name: self._listed.get(name, first) for name in listed.names}
            self._unlisted = 0
        return listed

    def _old(self, most: int) -> dict[str, int]:
        """The entries that were first listed long ago, and at which index; as many at *most*, and others next time."""
        end = asyncio.get_running_loop().time() - _KEPT * self._servers.pace.patience
        names = [*islice((name for name, (when, _) in self._listed.items() if when < end), most)]
        return {name: self._listed.pop(name)[1] for name in names}

    async def _news(self, since: _Reading, told: _Told) -> AsyncGenerator[Delta, None]:
        """What changes after the reading *since*, all of which is *told*; it ends where all has to be read again."""
        clock = asyncio.get_running_loop().time
        log, live, revision, last = since.log, since.live, since.revision, 0
        touched, unsure = set[str](), set[str]()
        found: dict[str, bytes] = {}
        async with aclosing(self._lists(live.index)) as lists:
            async for tree, names in lists:
                if tree == _LOG:
                    if not names.follow(log):
                        return
                    later = names.places(but=log)
                    log, touched = names, touched | later
                    unsure = {place for place in unsure if not any(one.startswith(place) for one in later)}
                    if log.index < last:
                        continue  # it was listed before that was read
                    if changes := told.take(unsure, found):
                        yield Delta(revision, changes)
                    unsure = set()
                elif names.names != live.names:
                    live, touched = names, touched | live.places(but=names)
                else:
                    # What somebody changed past us, by hand, is found in a quiet minute, when its turn comes.
                    live, touched = names, touched | {next(self._rounds)}
                if touched and not unsure:
                    began = clock()
                    last, looked = await self._look(touched)
                    pause = min(_EASE * (clock() - began), self._servers.pace.patience / 2)
                    found = {key: one.content for key, one in looked.items() if key.startswith(since.prefix)}
                    if last > log.index:
                        revision, unsure = max(revision, log.index), touched
                    else:
                        revision = max(revision, log.index, live.index)
                        if changes := told.take(touched, found):
                            yield Delta(revision, changes)
                    touched = set()
                    await asyncio.sleep(pause)

    async def _lists(self, live: int) -> AsyncGenerator[tuple[str, _Names], None]:
        """The log, now and whenever it has changed, and the entries that live, whenever these have since *live*.

        Both also come when they have not changed for long.
        """
        server, pace = self._servers.current, self._servers.pace

        async def leader() -> bytes:
            return (await self._ask("GET", "/v1/status/leader", at=server, patience=pace.patience / 2)).body

        async def beat() -> bool:
            # A query is answered by the leader of when it was asked. If that is gone without a word, another one leads
            # soon, but the server that is asked waits for half a minute.
            return await leader() == led

        led = await leader()
        # The log is listed at once, for a store that lost its data is behind for long.
        indices = {_LOG: 0, _LIVE: live}
        waits: dict[str, asyncio.Task[_Names]] = {}
        try:
            while True:
                for tree, index in indices.items():
                    if tree not in waits:
                        waits[tree] = asyncio.ensure_future(self._list(tree, index, server))
                news = asyncio.wait(waits.values(), return_when=asyncio.FIRST_COMPLETED)
                if await self._servers.news(news, beat) is None:
                    await _cancelled(waits)
                    led = await leader()
                for tree in [one for one in indices if one in waits and waits[one].done()]:
                    names = await waits.pop(tree)
                    indices[tree] = names.index
                    yield tree, names
        finally:
            await _cancelled(waits)

    async def _ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        expected: Collection[int] = (200, 404, 409),
        once: bool = False,
        at: str = "",
        patience: float | None = None,
        encoding: str = "identity",
    ) -> Answer:
        # To compress a short answer takes Consul as long as all else about it.
        data = b"" if body is None else msgspec.json.encode(body)
        headers = {**self._headers, "Accept-Encoding": encoding}
        answer = await self._servers.ask(method, path, data, headers=headers, once=once, at=at, patience=patience)
        if answer.status in {401, 403} or (answer.status == 409 and any(one in answer.text for one in _REFUSED)):
            raise self._refusal()
        if answer.status not in expected:
            raise self._servers.unexpected(answer)
        return answer

    def _refusal(self) -> StoreUnavailable:
        has = "the token in kv.tokenfile may not do this" if self._headers else "it wants a token: name kv.tokenfile"
        return self._servers.unavailable(
            f"{has}; its policy must allow to write keys below {self._root} and sessions (key_prefix, session_prefix)"
        )

    def _outcome(self, answer: Answer) -> _Outcome:
        return self._servers.decode(answer.body, _Outcome)

    def _tree(self, answer: Answer, kind: type[list[_T]]) -> tuple[int, list[_T]]:
        """What is in a tree, and the index of that: 404 if there is nothing, which others say without an index."""
        if (index := answer.headers.get("X-Consul-Index")) is None:
            raise self._servers.unavailable("what answers is no Consul: is this the right port?")
        return max(int(index), 1), self._servers.decode(answer.body, kind) if answer.status == 200 else []

    def _operation(self, verb: str, path: str, **fields: object) -> dict[str, object]:
        return {"KV": {"Verb": verb, "Key": self._root + path, **fields}}


def _place(key: str) -> str:
    """Where a key is: among a million places, so that few have two."""
    return f"{crc32(key.encode()):08x}"[:_PLACE]


def _path(key: str) -> str:
    """Where an item is, below the root."""
    return f"{_ITEMS}{_place(key)}/{key}"


def _key(path: str) -> str:
    """The key of the item that is there; "" if none should be.

    >>> _key(_path("a/1")), _key("items/00000/a/1"), _key("log/a/1")
    ('a/1', '', '')
    """
    key = path[len(_ITEMS) + _PLACE + 1 :]
    return key if path == _path(key) else ""


def _aisles(items: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """*Items*, by the beginnings of their places: few are looked through to find those at one."""
    aisles: dict[str, dict[str, bytes]] = {}
    for key, value in items.items():
        aisles.setdefault(_place(key)[:_AISLE], {})[key] = value
    return aisles


def _at(place: str, aisle: Mapping[str, bytes]) -> dict[str, bytes]:
    return {key: value for key, value in aisle.items() if _place(key).startswith(place)}


def _parts(name: str) -> tuple[str, str]:
    """The floor of an entry, in hexadecimal, and its places, one after the other."""
    _, floor, places = name.split(".")
    return floor, places


async def _cancelled(waits: dict[str, asyncio.Task[_Names]]) -> None:
    """Have nobody wait any more."""
    for task in waits.values():
        task.cancel()
    await asyncio.gather(*waits.values(), return_exceptions=True)
    waits.clear()
