"""What came in and what goes out, without a socket: the values between `server` and `routes`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

import msgspec
from msgspec import json

Version = tuple[int, int]


class Stream(Protocol):
    """A body that is sent piece by piece; `aclose` is called in the end, however that comes."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Free what the stream holds; it may have been read to its end, in part, or not at all."""


class Duplex(Protocol):
    """A connection that is no HTTP any more: what the client sends, and what is sent to it."""

    async def read(self) -> bytes:
        """What came, at least a byte of it; b"" when no more will."""

    async def write(self, data: bytes) -> None:
        """Send *data*, when what was sent before is on its way."""


Takeover = Callable[[Duplex], Awaitable[None]]
"""What is done with a connection; when it returns, that is closed, and it is cancelled when the client goes away."""


class Request(msgspec.Struct, frozen=True):
    """A request as it came. *path* is decoded, of a query key the first value counts, *headers* are read in lower case.

    *body* is None if the client announced none (`Content-Length: 0` or nothing), which is not the same as a body that
    turned out to be empty. Where a body may be too large to be held, it comes as a *stream* instead. *pairs* are all of
    the query. *version* and *names* (the words that the route's pattern left open) are filled in by the
    routing.
    """

    method: str
    path: str
    query: Mapping[str, str] = msgspec.field(default_factory=dict)
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: bytes | None = None
    version: Version = (0, 0)
    names: tuple[str, ...] = ()
    stream: AsyncIterator[bytes] | None = None
    pairs: tuple[tuple[str, str], ...] = ()

    def query_all(self, key: str) -> list[str]:
        """All values of *key* in the query, in their order."""
        return [value for name, value in self.pairs if name == key]

    def flag(self, key: str) -> bool:
        """Whether the query says yes to *key*, read as Docker does: everything but a few words for no is a yes."""
        return self.query.get(key, "").strip().lower() not in {"", "0", "no", "false", "none"}


class Response(msgspec.Struct, frozen=True):
    """An answer. *headers* are those that not all answers bear; a *stream* is sent in the place of the body.

    With a *takeover* the connection is given over to that after the answer's head.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    stream: Stream | None = None
    takeover: Takeover | None = None


JSON = {"Content-Type": "application/json"}


def answer(status: int, shape: object) -> Response:
    """An answer whose body is *shape* as JSON, with a line's end, as Go's encoder writes it."""
    return Response(status, json.encode(shape) + b"\n", JSON)


def refusal(status: int, message: str) -> Response:
    """An answer that tells what went wrong, in Docker's form."""
    # A header of the client's may be quoted in it, and that may hold any bytes.
    return answer(status, {"message": message.encode("utf-8", "replace").decode()})
