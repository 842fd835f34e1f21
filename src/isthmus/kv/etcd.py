"""etcd, from 3.4 on, by its JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway): /v3/kv, lease, watch.

Bytes are base64 there, and numbers of 64 bits are text. A watch first reads everything and only then listens, and does
so again where the history is compacted or data was lost, so that neither is a case of its own.
"""

import asyncio
import math
import ssl
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from functools import partial

import msgspec
from aiohttp import StreamReader

from isthmus.errors import StoreUnavailable
from isthmus.kv import UNGUARDED, Conflict, Delta, Guards, SessionLost, Snapshot, check_size, differences
from isthmus.kv.servers import PACE, Answer, Pace, Servers

_NOT_FOUND = 5
"""A code of gRPC (https://github.com/grpc/grpc/blob/master/doc/statuscodes.md)."""


class _Header(msgspec.Struct, frozen=True):
    revision: int = 0


class _Item(msgspec.Struct, frozen=True):
    key: bytes
    value: bytes = b""
    mod_revision: int = 0


class _Range(msgspec.Struct, frozen=True):
    header: _Header = _Header()
    kvs: list[_Item] = []


class _Response(msgspec.Struct, frozen=True):
    response_range: _Range | None = None


class _Outcome(msgspec.Struct, frozen=True):
    header: _Header
    succeeded: bool = False
    responses: list[_Response] = []


class _Lease(msgspec.Struct, frozen=True):
    ID: str = ""
    TTL: int = 0


class _Event(msgspec.Struct, frozen=True):
    kv: _Item
    type: str = "PUT"


class _News(msgspec.Struct, frozen=True):
    events: list[_Event] = []
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""


class _Token(msgspec.Struct, frozen=True):
    token: str


class _Trouble(msgspec.Struct, frozen=True):
    message: str = ""
    error: str = ""
    code: int = 0


class _Kept(msgspec.Struct, frozen=True):
    result: _Lease = _Lease()
    error: _Trouble | None = None


class _Heard(msgspec.Struct, frozen=True):
    result: _News = _News()
    error: _Trouble | None = None


class Etcd:
    """A `SharedStore` in the etcd at *addresses*, below the key *root*; asked as *user* with *password*, if any."""

    def __init__(
        self,
        addresses: Sequence[str],
        root: str,
        *,
        tls: ssl.SSLContext | None = None,
        user: str = "",
        password: str = "",
        pace: Pace = PACE,
    ) -> None:
        self._servers = Servers("etcd", addresses, tls, pace)
        self._root = f"{root}/"
        self._user, self._password, self._token = user, password, ""

    async def read(self, prefix: str) -> Snapshot:
        """All items whose key begins with *prefix*."""
        found = self._servers.decode((await self._ask("/v3/kv/range", self._below(prefix))).body, _Range)
        return Snapshot(found.header.revision, {self._name(one): one.value for one in found.kvs})

    async def commit(
        self, changes: Mapping[str, bytes | None], guards: Guards = UNGUARDED, *, session: str = ""
    ) -> int:
        """Do *changes* in one transaction if all guards hold; return its revision."""
        check_size(changes, guards)
        guarded = {self._key(key): key for key in guards.keys}
        wish = {
            "compare": [
                *(
                    {"key": self._key(key), "target": "CREATE", "result": "EQUAL", "create_revision": 0}
                    for key in guards.absent
                ),
                *(
                    {"key": self._key(key), "target": "CREATE", "result": "GREATER", "create_revision": 0}
                    for key in guards.present
                ),
                *(
                    {"key": self._key(key), "target": "VALUE", "result": "EQUAL", "value": value}
                    for key, value in guards.equal.items()
                ),
            ],
            "success": [self._change(key, value, session) for key, value in changes.items()],
            "failure": [{"request_range": {"key": key}} for key in guarded],
        }
        answer = await self._ask("/v3/kv/txn", wish, once=True, expected=(200, 404))
        if answer.status == 404:
            raise SessionLost(session)
        outcome = self._servers.decode(answer.body, _Outcome)
        if outcome.succeeded:
            return outcome.header.revision
        ranges = [one.response_range or _Range() for one in outcome.responses]
        held = {key: one.kvs[0].value for key, one in zip(guarded.values(), ranges, strict=True) if one.kvs}
        raise Conflict(guards.broken(held))

    async def watch(self, prefix: str, since: Snapshot) -> AsyncGenerator[Delta, None]:
        """What changes below *prefix* after the snapshot *since*."""
        held = dict(since.items)
        while True:
            now = await self.read(prefix)
            if changes := differences(held, now.items):
                yield Delta(now.revision, changes)
            held = dict(now.items)
            async with aclosing(self._news(prefix, now.revision)) as news:
                async for delta in news:
                    # What is put again as it was is no change.
                    if changes := {key: value for key, value in delta.changes.items() if held.get(key) != value}:
                        yield Delta(delta.revision, changes)
                    for key, value in changes.items():
                        if value is None:
                            held.pop(key, None)
                        else:
                            held[key] = value

    async def join(self, ttl: float) -> str:
        """A new session, which ends if it is not renewed for *ttl* seconds."""
        answer = await self._ask("/v3/lease/grant", {"TTL": max(math.ceil(ttl), 1)})
        return self._servers.decode(answer.body, _Lease).ID

    async def renew(self, session: str) -> None:
        """Have a *session* last for its time to live from now."""
        answer = await self._ask("/v3/lease/keepalive", {"ID": session})
        kept = self._servers.decode(answer.body, _Kept)
        if kept.error:
            raise self._servers.unavailable(f"it does not renew a session: {kept.error.message}")
        if not kept.result.TTL:
            raise SessionLost(session)

    async def leave(self, session: str) -> None:
        """End a *session*; one that has ended is success."""
        await self._ask("/v3/lease/revoke", {"ID": session}, expected=(200, 404))

    async def close(self) -> None:
        """Let go of all connections."""
        await self._servers.close()

    async def _news(self, prefix: str, revision: int) -> AsyncGenerator[Delta, None]:
        """What is put and deleted below *prefix* after *revision*; it ends where everything has to be read again.

        A watch that was silent for too long goes on anew, after what it told last: if a thousand hosts read everything
        then, that would be the most that a store has to do.
        """
        server = self._servers.current
        clock = asyncio.get_running_loop().time
        same = silent = True

        async def beat() -> bool:
            """Whether it is still the store that it was, and not silent for too long."""
            nonlocal same, silent
            wish = {"key": self._key(prefix), "count_only": True}
            answer = await self._ask("/v3/kv/range", wish, at=server, patience=self._servers.pace.patience / 2)
            same = self._servers.decode(answer.body, _Range).header.revision >= revision
            silent = clock() >= end
            return same and not silent

        while same and silent:
            silent = False
            wish = {"create_request": {**self._below(prefix), "start_revision": revision + 1}}
            await self._authenticate()
            async with self._servers.stream("/v3/watch", msgspec.json.encode(wish), self._headers, server) as response:
                if response.status != 200:
                    raise self._trouble(Answer(response.status, response.headers, await response.read()))
                lines = _Lines(response.content)
                end = clock() + self._servers.pace.silence
                while (line := await self._servers.news(lines.next(), beat)) is not None:
                    end = clock() + self._servers.pace.silence
                    heard = self._servers.decode(line, _Heard)
                    if heard.result.compact_revision:
                        return
                    if heard.result.canceled or heard.error:
                        reason = (
                            heard.result.cancel_reason or (heard.error and heard.error.message) or "no reason given"
                        )
                        raise self._servers.unavailable(f"{server}: it ended the watch: {reason}")
                    if events := heard.result.events:
                        revision = max(one.kv.mod_revision for one in events)
                        changes = {self._name(one.kv): None if one.type == "DELETE" else one.kv.value for one in events}
                        yield Delta(revision, changes)

    async def _ask(
        self,
        path: str,
        wish: object,
        *,
        expected: Collection[int] = (200,),
        once: bool = False,
        at: str = "",
        patience: float | None = None,
    ) -> Answer:
        ask = partial(self._servers.ask, "POST", path, msgspec.json.encode(wish), once=once, at=at, patience=patience)
        await self._authenticate()
        answer = await ask(headers=self._headers)
        if answer.status == 401 and self._user:
            # The token is over, or the server that gave it was started anew; nothing was done, so it is asked again.
            self._token = ""
            await self._authenticate()
            answer = await ask(headers=self._headers)
        if answer.status not in expected or (answer.status == 404 and self._code(answer) != _NOT_FOUND):
            raise self._trouble(answer)
        return answer

    async def _authenticate(self) -> None:
        """Have a token, if there is a user."""
        if not self._user or self._token:
            return
        wish = msgspec.json.encode({"name": self._user, "password": self._password})
        answer = await self._servers.ask("POST", "/v3/auth/authenticate", wish)
        if answer.status != 200:
            raise self._trouble(answer)
        self._token = self._servers.decode(answer.body, _Token).token

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token else {}

    def _trouble(self, answer: Answer) -> StoreUnavailable:
        """The error that an *answer* is, with the way out where it is about who asks."""
        if answer.status in {401, 403} or b"authentication failed" in answer.body:
            return self._servers.unavailable(
                f"the user and password in kv.userfile may not do this ({self._said(answer)}); the user's roles must "
                f"allow to read and write keys below {self._root}"
            )
        if b"user name is empty" in answer.body:
            return self._servers.unavailable("it wants a user and a password: name kv.userfile")
        if b"CommonName" in answer.body:
            return self._servers.unavailable(
                "it takes no certificate with a common name (CN) from who has a password: name another (kv.certfile)"
            )
        return self._servers.unexpected(answer)

    def _said(self, answer: Answer) -> str:
        trouble = self._servers.decode(answer.body, _Trouble)
        return trouble.message or trouble.error

    def _code(self, answer: Answer) -> int:
        return self._servers.decode(answer.body, _Trouble).code

    def _change(self, key: str, value: bytes | None, session: str) -> dict[str, object]:
        if value is None:
            return {"request_delete_range": {"key": self._key(key)}}
        return {"request_put": {"key": self._key(key), "value": value} | ({"lease": session} if session else {})}

    def _below(self, prefix: str) -> dict[str, bytes]:
        """The range of all keys that begin with *prefix*: up to the first that does not."""
        # The last byte has a successor, for no text has 0xff.
        first = self._key(prefix)
        return {"key": first, "range_end": first[:-1] + bytes([first[-1] + 1])}

    def _key(self, key: str) -> bytes:
        return (self._root + key).encode()

    def _name(self, item: _Item) -> str:
        return item.key.decode(errors="replace").removeprefix(self._root)


class _Lines:
    """The lines of a body that goes on, of any length."""

    def __init__(self, content: StreamReader) -> None:
        self._content, self._left = content, b""

    async def next(self) -> bytes:
        """The next one; ConnectionResetError if there is none."""
        while b"\n" not in self._left:
            chunk = await self._content.readany()
            if not chunk:
                raise ConnectionResetError("it ended the watch")
            self._left += chunk
        line, _, self._left = self._left.partition(b"\n")
        return line
