"""The resolver's sockets: two in each sandbox that it serves, at 127.0.0.11, bound there and waited on here.

A socket belongs to the namespace that it was made in, so nothing is translated on the way, and nothing has to run in
the sandbox. What was answered once is kept as it is to be sent, by the query's own octets, until any name changes: the
second time, an answer takes a read, a look and a write. Nobody is waited for: who does not read gets nothing, and who
asks too much is told to come back.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from itertools import count, cycle
from struct import Struct

from isthmus.dns import message
from isthmus.dns.forward import Upstream, receive
from isthmus.dns.message import SERVFAIL, WHOLE, Malformed, Query

log = logging.getLogger("isthmus.dns")

ADDRESS, PORT = "127.0.0.11", 53
"""Where sandboxes ask, as in Docker."""

BURST = 16
"""How many datagrams are answered before others get their turn."""

KEPT = 1024
"""How many answers are kept as they are to be sent, for one sandbox."""

KEPT_OCTETS = 8192
"""How long they may be, in all turns together."""

MOST_WAITING = 128
"""How many questions of one sandbox may wait for upstream at once."""

MOST_STREAMS = 32
"""How many TCP connections one sandbox may have at once."""

IDLE = 10.0
"""After how long, in seconds, a TCP connection on which nothing is asked is closed (RFC 7766, section 6.2.3)."""

_LENGTH = Struct(">H")
_BACKLOG = 16
_MOST_QUERY = 4096

Answers = Callable[[Query, int], tuple[bytes, ...] | None]
"""What to answer by turns to a query, within so many octets; None if upstream is to be asked."""

Told = Callable[[Query, bytes], bool]
"""Hears what is answered to a query before whoever asked does; tells whether the same may be answered without it."""

Peer = tuple[str, int] | tuple[str, int, int, int]
"""Whoever asked, as the kernel tells."""

Enter = Callable[[], AbstractContextManager[None]]
"""Gives the context in which a socket is made that is to belong to some namespace."""


class Point:
    """Where a namespace asks, with its sockets. All methods are for the loop's thread.

    *Version* tells whether *answers* are the same as before; *upstream* whom to ask, if anybody.
    """

    def __init__(
        self,
        enter: Enter,
        answers: Answers,
        version: Callable[[], int],
        upstream: Callable[[], Upstream | None],
        address: tuple[str, int] = (ADDRESS, PORT),
        *,
        told: Told = lambda _query, _answer: True,
    ) -> None:
        """Listen at *address*.

        Raises:
            OSError: the namespace cannot be entered, or somebody else listens there. By TCP alone, that is only logged.
        """
        self._answers = answers
        self._version = version
        self._upstream = upstream
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._kept: dict[bytes, cycle[bytes]] = {}
        self._kept_for = -1
        self._turns = count()
        self._waiting: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Task[None]] = set()
        self._udp, self._tcp = _listen(enter, address)
        self._loop.add_reader(self._udp, self._hear)
        if self._tcp:
            self._loop.add_reader(self._tcp, self._accept, self._tcp)

    def close(self) -> None:
        """Answer nobody any more."""
        for listening in filter(None, (self._udp, self._tcp)):
            self._loop.remove_reader(listening)
            listening.close()
        for task in (*self._waiting, *self._streams):
            task.cancel()

    # Datagrams.

    def _hear(self) -> None:
        """Answer what was asked by UDP."""
        version = self._version()
        if version != self._kept_for:
            self._kept.clear()
            self._kept_for = version
        receive_from, send_to, kept = self._udp.recvfrom, self._udp.sendto, self._kept
        with suppress(OSError):  # there is no more, or nobody takes more
            for _ in range(BURST):
                data, peer = receive_from(_MOST_QUERY)
                known = kept.get(data[2:])
                if known:
                    send_to(data[:2] + next(known), peer)
                else:
                    self._consider(data, peer)

    def _send(self, data: bytes, peer: Peer) -> None:
        with suppress(OSError):  # as with any datagram, whoever wants it asks again
            self._udp.sendto(data, peer)

    def _consider(self, data: bytes, peer: Peer) -> None:
        """Answer a query that was not heard before."""
        try:
            query = message.parse_query(data)
        except Malformed as error:
            if error.rcode is not None:
                self._send(message.complaint(data, error.rcode), peer)
            return
        answers = self._answers(query, query.limit)
        if answers is None:
            self._pass_on(query, peer)
            return
        turn = next(self._turns) % len(answers)
        bodies = [one[2:] for one in (*answers[turn:], *answers[:turn])]
        if len(self._kept) >= KEPT:
            self._kept.clear()
        known = cycle(bodies)
        if self._told(query, answers[0]) and sum(map(len, bodies)) <= KEPT_OCTETS:
            self._kept[data[2:]] = known
        self._send(data[:2] + next(known), peer)

    def _pass_on(self, query: Query, peer: Peer) -> None:
        upstream = self._upstream()
        known = upstream.known(query, query.limit) if upstream else None
        if known is not None:
            self._told(query, known)
            self._send(known, peer)
        elif upstream is None or len(self._waiting) >= MOST_WAITING:
            self._send(message.answer(query, rcode=SERVFAIL), peer)
        else:
            self._spawn(self._waiting, self._bring(upstream, query, peer))

    async def _bring(self, upstream: Upstream, query: Query, peer: Peer) -> None:
        answer = await upstream.ask(query, query.limit)
        if self._udp.fileno() >= 0:
            self._told(query, answer)
            self._send(answer, peer)

    # Streams.

    def _accept(self, listening: socket.socket) -> None:
        """Take what connects by TCP."""
        with suppress(OSError):
            stream, _ = listening.accept()
            if len(self._streams) >= MOST_STREAMS:
                stream.close()
            else:
                stream.setblocking(False)  # noqa: FBT003 - its only parameter
                self._spawn(self._streams, self._converse(stream))

    async def _converse(self, stream: socket.socket) -> None:
        """Answer one after the other what is asked on *stream*."""
        with stream, suppress(OSError):
            while True:
                async with asyncio.timeout(IDLE):
                    (length,) = _LENGTH.unpack(await receive(stream, _LENGTH.size))
                    data = await receive(stream, length)
                answer = await self._answer(data)
                if answer is None:
                    return
                async with asyncio.timeout(IDLE):
                    await self._loop.sock_sendall(stream, _LENGTH.pack(len(answer)) + answer)

    async def _answer(self, data: bytes) -> bytes | None:
        """The answer to what came by TCP; None if it deserves none."""
        try:
            query = message.parse_query(data)
        except Malformed as error:
            return None if error.rcode is None else message.complaint(data, error.rcode)
        answers = self._answers(query, WHOLE)
        upstream = None if answers else self._upstream()
        if answers is not None:
            answer = answers[next(self._turns) % len(answers)]
        elif upstream is None:
            return message.answer(query, rcode=SERVFAIL)
        else:
            answer = upstream.known(query, WHOLE) or await upstream.ask(query, WHOLE)
        self._told(query, answer)
        return answer

    @staticmethod
    def _spawn(among: set[asyncio.Task[None]], work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        among.add(task)
        task.add_done_callback(among.discard)


def _listen(enter: Enter, address: tuple[str, int]) -> tuple[socket.socket, socket.socket | None]:
    """Sockets for datagrams and streams to *address*; none for streams if somebody has that port already.

    A name server of the sandbox's own that wants the port on all addresses can have it beside us, if it says so to the
    kernel, too (SO_REUSEADDR for UDP, SO_REUSEPORT for TCP).
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    udp, tcp = None, None
    try:
        with enter():
            udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            tcp = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        for one in (udp, tcp):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        udp.bind(address)
    except BaseException:
        for one in filter(None, (udp, tcp)):
            one.close()
        raise
    try:
        tcp.bind(address)
        tcp.listen(_BACKLOG)
    except OSError as error:
        log.warning("names are told by UDP only: port %d of %s cannot be had by TCP: %s", address[1], address[0], error)
        tcp.close()
        return udp, None
    return udp, tcp
