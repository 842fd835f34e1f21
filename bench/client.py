"""A client of an HTTP API on a unix socket, on connections that are kept: it takes little time itself, and measures."""

import json
import selectors
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE = 120
"""How long to wait for an answer, in seconds."""

STALE = 20
"""After how many seconds without a request a connection is not trusted to be open still."""


class Answer(NamedTuple):
    """What came back, and after how many milliseconds."""

    status: int
    body: bytes
    took: float

    def json(self) -> Any:  # noqa: ANN401 - any JSON
        """The body, read."""
        return json.loads(self.body)


def request(method: str, path: str, body: object = None) -> bytes:
    r"""The request as it goes over the wire; a *body* of bytes goes as it is, any other as JSON, None not at all.

    >>> request("DELETE", "/x")
    b'DELETE /x HTTP/1.1\r\nHost: bench\r\n\r\n'
    """
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    kind, content = ("x-tar", body) if isinstance(body, bytes) else ("json", json.dumps(body).encode())
    return f"{head}Content-Type: application/{kind}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def parse(received: bytes) -> tuple[int, bytes] | None:
    r"""The status and body of an answer, or None if more of it has to come.

    >>> parse(b"HTTP/1.1 204 No Content\r\n\r\n")
    (204, b'')
    >>> parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab")
    >>> parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    (200, b'abc')
    """
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return None
    status = int(head[9:12])
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        match name.lower():
            case b"content-length":
                return (status, body) if len(body) >= int(value) else None
            case b"transfer-encoding":
                return (status, _joined(body)) if body.endswith(b"0\r\n\r\n") else None
            case _:
                pass
    return status, body


def _joined(body: bytes) -> bytes:
    """What all chunks of a *body* say together."""
    content = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        content += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return content


class Client:
    """One kept connection to the API at a socket's *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._used = time.monotonic()
        self.socket = _connected(path)

    def close(self) -> None:
        """End the connection."""
        self.socket.close()

    def renew(self) -> None:
        """Connect anew, after the other side died."""
        self.socket.close()
        self.socket = _connected(self._path)

    def send(self, method: str, path: str, body: object = None) -> Answer:
        """Ask, and wait for the answer, whatever it is."""
        message = request(method, path, body)
        received = b""
        if time.monotonic() - self._used > STALE:
            self.renew()
        self._used = time.monotonic()
        began = time.perf_counter_ns()
        self.socket.sendall(message)
        while (parsed := parse(received)) is None:
            piece = self.socket.recv(1 << 16)
            if not piece:
                raise ConnectionError(f"{method} {path}: the connection was closed instead of an answer")
            received += piece
        return Answer(*parsed, (time.perf_counter_ns() - began) / 1e6)

    def do(self, method: str, path: str, body: object = None) -> Answer:
        """Ask for what has to succeed."""
        answer = self.send(method, path, body)
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.body.decode(errors='replace')}")
        return answer


def at_once(clients: Sequence[Client], messages: Sequence[bytes]) -> float:
    """Send each client's message, and return after how many milliseconds the last was answered, all well."""
    received = dict.fromkeys(clients, b"")
    with selectors.DefaultSelector() as selector:
        began = time.perf_counter_ns()
        for client, message in zip(clients, messages, strict=True):
            client.socket.sendall(message)
            selector.register(client.socket, selectors.EVENT_READ, client)
        while selector.get_map():
            for key, _ in selector.select(PATIENCE):
                client = key.data
                received[client] += client.socket.recv(1 << 16)
                parsed = parse(received[client])
                if parsed:
                    selector.unregister(client.socket)
                    if parsed[0] >= 300:
                        raise RuntimeError(f"refused: {parsed}")
        return (time.perf_counter_ns() - began) / 1e6


def _connected(path: Path) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.settimeout(PATIENCE)
    one.connect(str(path))
    return one
