"""Consul, from 1.8 on, by its HTTP API (https://developer.hashicorp.com/consul/api-docs: KV store, txn, session).

A transaction's guards are operations before its changes. To set a key is to delete it first: else it would stay under
the session that it was put under, and could not be put under another one ("lock"). The key that is the root itself,
which Consul's own pages make for a folder, is set by transactions that set no other, for only what is set anew has a
revision. A session also ends when the server, or the agent, that it was made through leaves Consul for good.
"""

import asyncio
import math
import ssl
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from urllib.parse import quote

import msgspec

from isthmus.errors import StoreUnavailable
from isthmus.kv import Conflict, Delta, SessionLost, Snapshot, check_size, differences
from isthmus.kv.servers import PACE, Answer, Pace, Servers

LEAST, MOST = 10, 86400
"""How many seconds a session can last without being renewed (Consul's `session_ttl_min`, and its own limit)."""

_JITTER = 1 / 16
"""By what part of it Consul waits longer for news than it was asked to, at most, so that not all come back at once."""

_REFUSED = ("Permission denied", "ACL not found")


class _Item(msgspec.Struct, frozen=True, rename="pascal"):
    key: str
    modify_index: int
    value: bytes | None = None


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

    async def read(self, prefix: str) -> Snapshot:
        """All items whose key begins with *prefix*."""
        return self._snapshot(await self._ask("GET", self._tree(prefix)))

    async def commit(
        self,
        changes: Mapping[str, bytes | None],
        *,
        absent: Collection[str] = (),
        present: Collection[str] = (),
        equal: Mapping[str, bytes] | None = None,
        session: str = "",
    ) -> int:
        """Do *changes* in one transaction if all guards hold; return its revision."""
        equal = equal or {}
        check_size(changes, len(absent) + len(present) + len(equal))
        guards = [
            *(self._operation("check-not-exists", key) for key in absent),
            *(self._operation("get", key) for key in present),
            *(self._operation("check-index", key, Index=at) for key, at in (await self._indices(equal)).items()),
        ]
        guarded = [*absent, *present, *equal]
        puts = {key: value for key, value in changes.items() if value is not None}
        marks = {} if puts else {"": b""}
        verb, under = ("lock", {"Session": session}) if session else ("set", {})
        operations = [
            *guards,
            *(self._operation("delete", key) for key in (*changes, *marks)),
            *(self._operation(verb, key, Value=value, **under) for key, value in puts.items()),
            *(self._operation("set", key, Value=value) for key, value in marks.items()),
        ]
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
        held, index = since.items, 0
        while True:
            answer = await self._news(prefix, index) if index else await self._ask("GET", self._tree(prefix))
            if answer is None:
                index = 0
                continue
            now = self._snapshot(answer)
            if changes := differences(held, now.items):
                yield Delta(now.revision, changes)
            # An index that goes back means that Consul lost its data, or forgot deletions: it has to be asked anew.
            held, index = now.items, now.revision if now.revision >= index else 0

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
        answers = await asyncio.gather(
            *(self._ask("GET", f"/v1/kv/{quote(self._root + key)}?consistent", expected=(200, 404)) for key in equal)
        )
        found = {}
        for (key, value), answer in zip(equal.items(), answers, strict=True):
            for item in self._servers.decode(answer.body, list[_Item]) if answer.status == 200 else ():
                if (item.value or b"") == value:
                    found[key] = item.modify_index
        if failed := equal.keys() - found.keys():
            raise Conflict(failed)
        return found

    async def _news(self, prefix: str, index: int) -> Answer | None:
        """What is below *prefix*, as soon as it is newer than *index*; None where it has to be read again."""
        server, pace = self._servers.current, self._servers.pace

        async def leader() -> bytes:
            return (await self._ask("GET", "/v1/status/leader", at=server, patience=pace.patience / 2)).body

        async def beat() -> bool:
            # A query is answered by the leader of when it was asked. If that is gone without a word, another one leads
            # soon, but the server that is asked waits for half a minute.
            return await leader() == led

        led = await leader()
        query = f"{self._tree(prefix)}&index={index}&wait={pace.silence:g}s"
        longest = pace.silence * (1 + _JITTER) + pace.patience
        return await self._servers.news(self._ask("GET", query, at=server, patience=longest), beat)

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
    ) -> Answer:
        data = b"" if body is None else msgspec.json.encode(body)
        answer = await self._servers.ask(method, path, data, headers=self._headers, once=once, at=at, patience=patience)
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

    def _snapshot(self, answer: Answer) -> Snapshot:
        """What a read of a tree says: 404 if there is nothing, as other servers say, too, but without an index."""
        if (index := answer.headers.get("X-Consul-Index")) is None:
            raise self._servers.unavailable("what answers is no Consul: is this the right port?")
        items = self._servers.decode(answer.body, list[_Item]) if answer.status == 200 else []
        values = {one.key.removeprefix(self._root): one.value or b"" for one in items}
        values.pop("", None)
        return Snapshot(max(int(index), 1), values)

    def _tree(self, prefix: str) -> str:
        return f"/v1/kv/{quote(self._root + prefix)}?recurse&consistent"

    def _operation(self, verb: str, key: str, **fields: object) -> dict[str, object]:
        return {"KV": {"Verb": verb, "Key": self._root + key, **fields}}
