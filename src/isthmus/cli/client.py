"""A small HTTP/1.1 client for a unix socket: one connection a request.

The standard library's `http.client` takes 29 ms to import, more than all the rest of a command. What the daemon sends
is a status, headers, and a body by length, in chunks, or up to the end (RFC 9112, section 6); that takes a page.
"""

import json
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from socket import SocketIO
from typing import BinaryIO, cast

from isthmus.errors import InvalidRequest, IsthmusError

DEFAULT_HOST = "unix:///run/isthmus/isthmus.sock"
API = "/v1.52"
_PIECE = 1 << 16
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class DaemonError(IsthmusError):
    """The daemon said no, with this HTTP *code*; the message begins as Docker's client begins it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"Error response from daemon: {message}")
        self.code = code


class Unreachable(IsthmusError):
    """There is no daemon to talk to, or it went away while we talked."""


def quote(text: str) -> str:
    """Give *text* as a part of a path or a query (RFC 3986, section 2.1)."""
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in text.encode())


def socket_path(host: str) -> str:
    """Give the path of the socket that *host* (`unix:///path`) names; InvalidRequest for any other kind of host."""
    scheme, _, path = host.partition("://")
    if scheme != "unix" or not path:
        raise InvalidRequest(f'invalid daemon host "{host}": it must be unix:///path/of/the/socket')
    return path


class _Reply:
    """A reply whose head has been read: its *status* and its body."""

    def __init__(self, reader: BufferedReader | SocketIO, method: str) -> None:
        self._reader = reader
        version, _, rest = reader.readline().decode("latin-1").partition(" ")
        code, _, self.reason = rest.strip().partition(" ")
        if not version.startswith("HTTP/1.") or not code.isdecimal():
            raise EOFError
        self.status = int(code)
        self.headers = headers = dict(self._headers())
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._length = int(headers["content-length"]) if "content-length" in headers else None
        if method == "HEAD" or self.status in {204, 304}:
            self._chunked, self._length = False, 0

    def _headers(self) -> Iterator[tuple[str, str]]:
        while line := self._reader.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            yield name.lower(), value.strip()

    def pieces(self) -> Iterator[bytes]:
        """Give the body as it arrives; EOFError if it ends too early."""
        if self._chunked:
            while size := int(self._reader.readline().partition(b";")[0] or b"x", 16):
                yield self._exactly(size)
                self._reader.readline()
        elif self._length is not None:
            yield self._exactly(self._length)
        else:
            while piece := self._reader.read(_PIECE) if isinstance(self._reader, SocketIO) else self._reader.read1():
                yield piece

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._reader.read(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data


class Client:
    """The daemon at *host*, a `unix:///path`. Each method raises DaemonError or Unreachable."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._path = socket_path(host)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> object:
        """Give the JSON value at *path*, which begins with a slash and has no version."""
        return self._call("GET", path, query, None)

    def post(self, path: str, body: object = None, query: Mapping[str, str] | None = None) -> object:
        """Send *body* to *path* and give the JSON value that comes back, None if nothing does."""
        return self._call("POST", path, query, body)

    def delete(self, path: str, query: Mapping[str, str] | None = None) -> object:
        """Delete what is at *path*."""
        return self._call("DELETE", path, query, None)

    def lines(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[object]:
        """Give the JSON values that *path* streams, one on each line, as they come."""
        with self._exchange("GET", path, query, None) as reply:
            yield from self._values(reply)

    def pieces(self, path: str, query: Mapping[str, str]) -> Iterator[tuple[bool, bytes]]:
        """Give what *path* streams, piece by piece, each with whether the output of two streams is in it."""
        with self._exchange("GET", path, query, None) as reply:
            several = "multiplexed" in reply.headers.get("content-type", "")
            yield from ((several, piece) for piece in reply.pieces())

    def upload(self, path: str, file: BinaryIO, query: Iterable[tuple[str, str]]) -> Iterator[object]:
        """Send all of *file* to *path*, piece by piece, and give the JSON values that come back, as they come."""
        lines = ("Content-Type: application/x-tar", "Transfer-Encoding: chunked")

        def send(connection: socket.socket) -> None:
            connection.sendall(_head("POST", path, query, lines))
            with suppress(BrokenPipeError):  # it was refused, and the reply says why
                while piece := file.read(_PIECE):
                    connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                connection.sendall(b"0\r\n\r\n")

        with self._talk(send, "POST") as (reply, _):
            yield from self._values(reply)

    @contextmanager
    def upgraded(self, path: str, body: object, query: Mapping[str, str]) -> Iterator[tuple[socket.socket, bool]]:
        """Post *body* to *path*, and have the connection for what is said on it then.

        With it comes whether the output of two streams is in what is received.
        """
        payload = json.dumps(body).encode()
        lines = ("Content-Type: application/json", f"Content-Length: {len(payload)}", "Upgrade: tcp")
        head = _head("POST", path, query.items(), lines, connection="Upgrade")
        with self._talk(lambda connection: connection.sendall(head + payload), "POST", buffering=0) as (
            reply,
            connection,
        ):
            yield connection, "multiplexed" in reply.headers.get("content-type", "")

    @contextmanager
    def waiting(self, path: str, query: Mapping[str, str]) -> Iterator[Callable[[], object]]:
        """Post to *path* something that is answered late, and have what gives the JSON value when it comes."""
        lines = ("Content-Type: application/json", "Content-Length: 0")
        head = _head("POST", path, query.items(), lines)
        with self._talk(lambda connection: connection.sendall(head), "POST") as (reply, _):
            yield lambda: self._parse(b"".join(reply.pieces()))

    def _values(self, reply: _Reply) -> Iterator[object]:
        rest = b""
        for piece in reply.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            yield from (self._parse(line) for line in lines if line.strip())
        if rest.strip():
            yield self._parse(rest)

    def _call(self, method: str, path: str, query: Mapping[str, str] | None, body: object) -> object:
        with self._exchange(method, path, query, body) as reply:
            content = b"".join(reply.pieces())
        return self._parse(content) if content.strip() else None

    def _parse(self, content: bytes) -> object:
        try:
            value: object = json.loads(content)
        except ValueError as error:
            raise Unreachable(
                f"what listens at {self.host} does not answer in JSON: is it the isthmus daemon?"
            ) from error
        return value

    @contextmanager
    def _exchange(self, method: str, path: str, query: Mapping[str, str] | None, body: object) -> Iterator[_Reply]:
        payload = b"" if body is None else json.dumps(body).encode()
        lines = ("Content-Type: application/json", f"Content-Length: {len(payload)}") if method == "POST" else ()
        head = _head(method, path, (query or {}).items(), lines)
        with self._talk(lambda connection: connection.sendall(head + payload), method) as (reply, _):
            yield reply

    @contextmanager
    def _talk(
        self, send: Callable[[socket.socket], None], method: str, buffering: int = -1
    ) -> Iterator[tuple[_Reply, socket.socket]]:
        """The reply to what is sent on a connection, and that connection."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                self._connect(connection)
                send(connection)
                with connection.makefile("rb", buffering) as reader:
                    reply = _Reply(cast("BufferedReader | SocketIO", reader), method)
                    if reply.status >= 400:
                        raise DaemonError(reply.status, _message(reply))
                    yield reply, connection
            except (EOFError, ValueError, ConnectionResetError) as error:
                raise Unreachable(
                    f"the daemon at {self.host} hung up in the middle of its answer: see its log"
                ) from error

    def _connect(self, connection: socket.socket) -> None:
        try:
            connection.connect(self._path)
        except PermissionError as error:
            raise Unreachable(
                f"permission denied at {self.host}: use sudo, or become a member of the group isthmus"
            ) from error
        except OSError as error:
            raise Unreachable(
                f"cannot connect to the isthmus daemon at {self.host} ({error.strerror or error}): is it running? "
                "`isthmus daemon` starts it, -H or ISTHMUS_HOST names another"
            ) from error


def _head(
    method: str, path: str, query: Iterable[tuple[str, str]], lines: Iterable[str], connection: str = "close"
) -> bytes:
    question = "&".join(f"{quote(key)}={quote(value)}" for key, value in query)
    first = f"{method} {API}{path}{'?' if question else ''}{question} HTTP/1.1"
    return "\r\n".join([first, "Host: isthmus", f"Connection: {connection}", *lines, "", ""]).encode()


def _message(reply: _Reply) -> str:
    content = b"".join(reply.pieces())
    try:
        value = json.loads(content)
        return str(value["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace").strip() or f"{reply.status} {reply.reason}"
