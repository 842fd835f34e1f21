"""The socket side of the API: listening, HTTP, limits, streams. It knows no route.

HTTP is aiohttp's low-level server (`docs/decisions/0003-http.md` says why): one coroutine for each request, no
framework. Nothing here waits for a client without a limit of time or of size, and nothing blocks the loop.
"""

import asyncio
import logging
import re
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from isthmus.api.message import Request, Response, Stream, Takeover, refusal
from isthmus.errors import InvalidRequest

log = logging.getLogger("isthmus.api")

_STREAMED = re.compile(r"(?:/v[0-9.]+)?/images/(?:load|create)")  # what may be larger than memory
_AHEAD = 256 << 10  # how many bytes may come on a connection before they are wanted
_SILENT = logging.Logger("isthmus.api.access", logging.CRITICAL)  # noqa: LOG001 - one that no configuration can wake
_READING = frozenset({"GET", "HEAD"})


class Limits(msgspec.Struct, frozen=True):
    """What a client may take from us. Sizes are in bytes, times in seconds."""

    body: int = 4 * 2**20
    header_line: int = 16 * 2**10
    headers: int = 100
    header_time: float = 60
    """How long a connection may be without a whole header, be it idle, slow, or between two requests."""
    body_time: float = 30
    linger: float = 2
    """How long a client whose body was refused may go on sending it, so that it comes to read our answer."""
    connections: int = 1024


_LIMITS = Limits()


class Server:
    """Serves *api* on sockets until it is closed."""

    def __init__(self, api: Callable[[Request], Awaitable[Response]], limits: Limits = _LIMITS) -> None:
        self._api = api
        self._limits = limits
        self._http: web.Server | None = None
        self._listening: list[asyncio.Server] = []

    async def start(self, *sockets: socket.socket) -> None:
        """Accept connections on these listening *sockets*."""
        # A client that goes away cancels its handler, which is how streams end. Work that the engine was given is
        # done all the same (`Worker.call`).
        self._http = http = web.Server(self._handle, request_factory=self._request, handler_cancellation=True)
        loop = asyncio.get_running_loop()
        limits = self._limits

        def connection() -> asyncio.Protocol:
            if len(http.connections) >= limits.connections:
                return _Full()
            return _Connection(
                http,
                loop=loop,
                keepalive_timeout=limits.header_time,
                lingering_time=limits.linger,
                max_line_size=limits.header_line,
                max_field_size=limits.header_line,
                max_headers=limits.headers,
                auto_decompress=False,
                tcp_keepalive=False,
                access_log=_SILENT,
            )

        for one in sockets:
            self._listening.append(await loop.create_unix_server(connection, sock=one))

    async def close(self, patience: float = 5) -> None:
        """Stop accepting, give the requests that are being served *patience* seconds to end, and cut off the rest."""
        for server in self._listening:
            server.close()
        if self._http:
            self._http.pre_shutdown()
            await self._http.shutdown(patience)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=self._limits.body
        )

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        streamed = http.method == "POST" and http.body_exists and _STREAMED.fullmatch(http.path) is not None
        try:
            body = await self._body(http) if http.body_exists and not streamed else None
        except web.HTTPRequestEntityTooLarge:
            return _closing(refusal(413, f"the body is too large: it may have at most {self._limits.body} bytes"))
        except TimeoutError:
            return _closing(refusal(408, "the body did not come in time"))
        except (web.RequestPayloadError, ValueError):
            return _closing(refusal(400, "the body is not what its headers announce"))
        pairs = _query(http.query_string) if "?" in http.path_qs else ()
        request = Request(
            method=http.method,
            path=http.path,
            query=dict(reversed(pairs)),
            headers=http.headers,
            body=body,
            stream=self._pieces(http) if streamed else None,
            pairs=pairs,
        )
        if http.method not in _READING and log.isEnabledFor(logging.INFO):
            log.info("%s %s%s", request.method, http.path_qs, _peer(http))
        response = await self._api(request)
        if response.takeover:
            return await _hand_over(http, response, response.takeover)
        if response.stream is None:
            return web.Response(status=response.status, body=response.body, headers=response.headers)
        return await _stream(http, response, response.stream)

    async def _pieces(self, http: web.BaseRequest) -> AsyncIterator[bytes]:
        """The body as it comes, however much that is; a client may be silent for a while, but not for ever."""
        try:
            while not http.content.at_eof():
                async with asyncio.timeout(self._limits.body_time):
                    piece = await http.content.readany()
                if piece:
                    yield piece
        except TimeoutError:
            raise InvalidRequest("the body did not come in time") from None
        except (web.RequestPayloadError, ValueError) as error:
            raise InvalidRequest(f"the body is not what its headers announce: {error}") from error

    async def _body(self, http: web.BaseRequest) -> bytes:
        """The body, for which we wait only if it is not here yet, and not for ever."""
        if http.content.is_eof():
            return await http.read()
        async with asyncio.timeout(self._limits.body_time):
            return await http.read()


def _query(text: str) -> tuple[tuple[str, str], ...]:
    """The keys of a query with their values, in their order."""
    return tuple(parse_qsl(text, keep_blank_values=True, errors="replace"))


def _peer(http: web.BaseRequest) -> str:
    """Who is at the other end of a unix socket, for the log."""
    return http.protocol.peer if isinstance(http.protocol, _Connection) else ""


async def _stream(http: web.BaseRequest, response: Response, stream: Stream) -> web.StreamResponse:
    """Send *stream* as the body of *response*, until it ends or the client goes away."""
    sending = web.StreamResponse(status=response.status, headers=response.headers)
    try:
        await sending.prepare(http)
        async for piece in stream:
            await sending.write(piece)
        await sending.write_eof()
    finally:
        await stream.aclose()
    return sending


async def _hand_over(http: web.BaseRequest, response: Response, takeover: Takeover) -> web.StreamResponse:
    """Send the head of *response*, and leave the connection to *takeover*.

    Docker's clients know this as hijacking: they ask for an upgrade to `tcp`, or are content with 200 and raw bytes.
    """
    connection = http.protocol
    upgrade = http.headers.get("Upgrade")
    if not isinstance(connection, _Connection):
        return _Taken()
    head = [f"HTTP/1.1 {'101 UPGRADED' if upgrade else '200 OK'}"]
    head += [f"{name}: {value}" for name, value in response.headers.items()]
    head += ["Connection: Upgrade", f"Upgrade: {upgrade}"] if upgrade else ["Connection: close"]
    connection.taken = taken = _TakenConnection(connection)
    await taken.write("\r\n".join([*head, "", ""]).encode("latin-1"))
    try:
        await takeover(taken)
    finally:
        taken.close()
    return _Taken()


class _Taken(web.StreamResponse):
    """Stands for an answer that was sent already, on a connection that is over."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002 - aiohttp's
        """Send nothing."""
        self.force_close()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing."""


class _TakenConnection:
    """A connection of which the bytes are no HTTP; see `message.Duplex`."""

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection
        self._received: deque[bytes] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._size = 0
        self._over = False

    def feed(self, data: bytes) -> None:
        """Take what came; b"" when no more will."""
        if data:
            self._received.append(data)
            self._size += len(data)
            if self._size > _AHEAD and self._connection.transport is not None:
                self._connection.transport.pause_reading()
        else:
            self._over = True
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    async def read(self) -> bytes:
        """What came, at least a byte of it; b"" when no more will."""
        while not self._received and not self._over:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        if not self._received:
            return b""
        data = b"".join(self._received)
        self._received.clear()
        if self._size > _AHEAD and self._connection.transport is not None:
            self._connection.transport.resume_reading()
        self._size = 0
        return data

    def close(self) -> None:
        """Close it, when what was sent is on its way."""
        if self._connection.transport is not None:
            self._connection.transport.close()

    async def write(self, data: bytes) -> None:
        """Send *data*, when what was sent before is on its way; ConnectionResetError if the client is gone."""
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(data)
        await self._connection._drain_helper()  # noqa: SLF001 - aiohttp's writers use it, too


def _closing(response: Response) -> web.Response:
    """An answer after which the connection is of no more use, since the body was not read to its end."""
    answer = web.Response(status=response.status, body=response.body, headers=response.headers)
    answer.force_close()
    return answer


class _Connection(RequestHandler):
    """aiohttp's connection; what it refuses before it asks us is refused in Docker's form, too."""

    __slots__ = ("peer", "taken")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See who is there: whoever opened the connection, whatever other process it is then given to."""
        super().connection_made(transport)
        self.peer = ""
        self.taken: _TakenConnection | None = None
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family == socket.AF_UNIX:
            pid, uid, _gid = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            self.peer = f" pid={pid} uid={uid}"

    def data_received(self, data: bytes) -> None:
        """Take what came, be it HTTP or none."""
        if self.taken:
            self.taken.feed(data)
        else:
            super().data_received(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Take that the client sends nothing more; if it is no HTTP, it may still listen."""
        if self.taken:
            self.taken.feed(b"")
            return True
        return super().eof_received()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is not HTTP, or to a mistake of this module's."""
        if status >= 500:
            log.error("%s %r failed", request.method, request.path, exc_info=exc)
            return _closing(refusal(status, "internal error: see the daemon's log"))
        words = re.sub(r"\s+", " ", message or "").strip()
        return _closing(refusal(status, f"malformed HTTP request: {words}"))


class _Full(asyncio.Protocol):
    """A connection too many: it is told so and closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer, whatever the question will be."""
        body = refusal(503, "too many connections: close some, or try again later").body
        head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        transport.close()
