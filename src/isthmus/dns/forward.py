"""What is asked of others: upstream servers, in order and with patience, and a memory of what they said.

Each question goes from a socket of its own, so from a port that nobody can guess, under a number likewise, and is
answered only by the server that it went to (the socket is connected) and in its own words. Equal questions are asked
once. Servers that did not answer lately are asked last. While none answers, what they said before is good enough
(RFC 8767).
"""

import asyncio
import secrets
import socket
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from struct import Struct

from isthmus.dns import message
from isthmus.dns.cache import STALE_TTL, Cache
from isthmus.dns.files import name_servers
from isthmus.dns.message import REFUSED, SERVFAIL, Malformed, Query, Reply

PORT = 53

MOST_SERVERS = 3
"""How many upstream servers are asked at most (Docker's number, and the C library's)."""

PATIENCE = 4.0
"""For how long, in seconds, a server may take to answer, as in Docker; a quarter of it if it did not answer lately."""

STALE_AFTER = 1.8
"""After how long, in seconds, an old answer is given where there is one (RFC 8767, section 5)."""

SHUNNED = 30.0
"""For how long, in seconds, a server that did not answer is asked last."""

MOST_QUESTIONS = 1024
"""How many questions may be under way at once; as in Docker."""

_LENGTH = Struct(">H")

Server = tuple[str, int]
"""An address and a port."""


class Upstream:
    """Some servers that are asked for what is not ours, and what they answered.

    *Servers* tells which, each time. *Enter* gives the context in which sockets are made: where they are asked from.
    """

    def __init__(
        self,
        servers: Callable[[], Sequence[Server]],
        enter: Callable[[], AbstractContextManager[None]],
        cache: Cache,
        patience: float = PATIENCE,
        stale_after: float = STALE_AFTER,
    ) -> None:
        self._servers = servers
        self._enter = enter
        self._cache = cache
        self._patience = patience
        self._stale_after = stale_after
        self._asking: dict[Hashable, asyncio.Task[Reply | None]] = {}
        self._shunned: dict[Server, float] = {}

    def known(self, query: Query, limit: int) -> bytes | None:
        """The answer to *query* that is remembered and still good; None if it has to be asked for."""
        found = self._cache.fresh(query.key)
        if found is None:
            return None
        reply, age = found
        return message.relay(reply, query, limit, age=age)

    async def ask(self, query: Query, limit: int) -> bytes:
        """The answer to *query*, whatever it takes; that nobody could be asked is an answer, too."""
        key = query.key
        task = self._asking.get(key)
        if task is None:
            if len(self._asking) >= MOST_QUESTIONS:
                return message.answer(query, rcode=SERVFAIL)
            task = self._asking[key] = asyncio.create_task(self._ask_all(query))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        old = self._cache.stale(key)
        await asyncio.wait({task}, timeout=self._stale_after if old else None)
        reply = task.result() if task.done() and not task.cancelled() else None
        if reply and (reply.rcode not in {SERVFAIL, REFUSED} or not old):
            return message.relay(reply, query, limit)
        if old:
            return message.relay(old, query, limit, ttl=STALE_TTL)
        return message.answer(query, rcode=SERVFAIL)

    def close(self) -> None:
        """Wait for nobody any more."""
        for task in tuple(self._asking.values()):
            task.cancel()

    async def _ask_all(self, query: Query) -> Reply | None:
        """What the first of the servers answers that answers properly; else what the last one said, if anything."""
        last: Reply | None = None
        for server in self._in_order():
            patience = self._patience / 4 if server in self._shunned else self._patience
            try:
                async with asyncio.timeout(patience):
                    reply = await self._ask_one(server, query)
            except (OSError, Malformed):  # a timeout is an OSError
                self._shunned[server] = asyncio.get_running_loop().time() + SHUNNED
                continue
            self._shunned.pop(server, None)
            last = reply
            if reply.rcode not in {SERVFAIL, REFUSED}:
                self._cache.put(query.key, reply)
                break
        return last

    def _in_order(self) -> list[Server]:
        now = asyncio.get_running_loop().time()
        self._shunned = {server: until for server, until in self._shunned.items() if until > now}
        return sorted(self._servers()[:MOST_SERVERS], key=lambda server: self._shunned.get(server, 0))

    async def _ask_one(self, server: Server, query: Query) -> Reply:
        """What *server* answers; raises OSError or Malformed."""
        reply = await self._by_datagram(server, query)
        return await self._by_stream(server, query) if reply.truncated else reply

    async def _by_datagram(self, server: Server, query: Query) -> Reply:
        loop = asyncio.get_running_loop()
        number = secrets.randbits(16)
        with self._socket(server, socket.SOCK_DGRAM) as one:
            one.connect(server)
            one.send(message.ask(query, number))
            while True:
                with suppress(Malformed):  # whoever guesses our port must not end our waiting
                    reply = message.parse_reply(await loop.sock_recv(one, message.WHOLE))
                    if reply.id == number and reply.key == query.key[0]:
                        return reply

    async def _by_stream(self, server: Server, query: Query) -> Reply:
        loop = asyncio.get_running_loop()
        number = secrets.randbits(16)
        asked = message.ask(query, number)
        with self._socket(server, socket.SOCK_STREAM) as one:
            await loop.sock_connect(one, server)
            await loop.sock_sendall(one, _LENGTH.pack(len(asked)) + asked)
            (length,) = _LENGTH.unpack(await receive(one, _LENGTH.size))
            reply = message.parse_reply(await receive(one, length))
        if reply.id != number or reply.key != query.key[0]:
            raise Malformed("the answer to another question")
        return reply

    def _socket(self, server: Server, kind: socket.SocketKind) -> socket.socket:
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        with self._enter():
            return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


async def receive(stream: socket.socket, length: int) -> bytes:
    """The next *length* octets; ConnectionResetError if there are fewer."""
    loop = asyncio.get_running_loop()
    parts = b""
    while len(parts) < length:
        part = await loop.sock_recv(stream, length - len(parts))
        if not part:
            raise ConnectionResetError("the other side is gone")
        parts += part
    return parts


class HostServers:
    """The servers of a `resolv.conf`, read again when it is another one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._servers: tuple[Server, ...] = ()

    def __call__(self) -> Sequence[Server]:
        """The servers now; none if there is no such file."""
        try:
            status = self._path.stat()
        except OSError:
            return ()
        seen = status.st_ino, status.st_mtime_ns
        if seen != self._seen:
            text = self._path.read_text(encoding="utf-8", errors="replace")
            self._seen, self._servers = seen, tuple((str(one), PORT) for one in name_servers(text))
        return self._servers
