"""The socket side of the API: what real connections do to it, kind ones and others."""

import asyncio
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.api.listening import listen
from isthmus.api.message import Request, Response, answer
from isthmus.api.server import Limits, Server
from isthmus.errors import InvalidRequest

DEADLINE = 10
PIECES = (
    *(b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"GET http://h/x HTTP/1.0\r\n", b"CONNECT a:1 HTTP/1.1\r\n"),
    *(b"Host: x\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Upgrade: tcp\r\nConnection: Upgrade\r\n", b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n"),
    *(b"\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"OPTIONS * HTTP/1.1\r\n"),
    *(
        b"GET /%ff%00%zz?%=&&;a=%e HTTP/1.1\r\n",
        b"GET //[::1 HTTP/1.1\r\n",
        b"Cookie: \xff\r\n",
        b"Connection: close\r\n",
    ),
)
"""What requests are made of, and what they should not be made of."""


class Endless:
    """A stream that sends one line and then nothing; it tells when it was closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"{}\n"
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        """Note it."""
        self.closed.set()


async def echo(request: Request) -> Response:
    """What came in."""
    return answer(
        200,
        {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "body": None if request.body is None else request.body.decode(),
            "host": request.headers.get("host"),
        },
    )


def serve(
    tmp_path: Path,
    scene: Callable[[str], Awaitable[None]],
    api: Callable[[Request], Awaitable[Response]] = echo,
    limits: Limits | None = None,
) -> None:
    """Serve *api* on a socket for as long as *scene*, which is given its path, takes."""

    async def run() -> None:
        path = str(tmp_path / "api.sock")
        server = Server(api, limits or Limits())
        await server.start(listen(f"unix://{path}", {}))
        try:
            await asyncio.wait_for(scene(path), DEADLINE)
        finally:
            await server.close(patience=0.1)

    asyncio.run(run())


async def exchange(path: str, text: bytes) -> bytes:
    """What comes back for *text* until the server closes, or has answered a request that asks it to close."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(text)
        return await reader.read()
    finally:
        writer.close()


def http(line: str, body: bytes = b"", *headers: str) -> bytes:
    """A request that ends its connection."""
    announced = [f"Content-Length: {len(body)}"] if body else []
    return (
        "\r\n".join([f"{line} HTTP/1.1", "Host: x", "Connection: close", *announced, *headers, "", ""]).encode() + body
    )


def test_a_request_arrives_as_a_value(tmp_path: Path) -> None:
    """Path and query decoded, the first of several values, and a body that is there or is not."""

    async def scene(path: str) -> None:
        got = await exchange(path, http("POST /a%2Fb?k=1%202&k=3&e", b"hello"))
        assert got.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b'{"method":"POST","path":"/a/b","query":{"e":"","k":"1 2"},"body":"hello","host":"x"}' in got
        assert b'"body":null' in await exchange(path, http("GET /"))
        assert b'"body":""' in await exchange(path, http("POST /", b"", "Transfer-Encoding: chunked") + b"0\r\n\r\n")

    serve(tmp_path, scene)


def test_a_connection_is_kept_for_many_requests(tmp_path: Path) -> None:
    """Clients keep theirs open, and a new one for each request would cost more than the request."""

    async def scene(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        for number in range(3):
            writer.write(f"GET /{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert f'"path":"/{number}"'.encode() in await reader.readuntil(b"}\n")
        writer.close()

    serve(tmp_path, scene)


def test_a_body_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    """Announced or not, it must not fill our memory."""

    async def scene(path: str) -> None:
        assert b'{"message":"the body is too large: it may have at most 10 bytes"}' in await exchange(
            path, http("POST /", b"x" * 11)
        )
        chunks = http("POST /", b"", "Transfer-Encoding: chunked") + b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n"
        assert (await exchange(path, chunks)).startswith(b"HTTP/1.1 413 ")
        assert (await exchange(path, http("POST /", b"x" * 10))).startswith(b"HTTP/1.1 200 ")

    serve(tmp_path, scene, limits=Limits(body=10))


def test_headers_beyond_the_limits_are_refused(tmp_path: Path) -> None:
    """As above, and in Docker's form."""

    async def scene(path: str) -> None:
        for text in (
            http("GET /" + "x" * 300),
            http("GET /", b"", "X: " + "y" * 300),
            http("GET /", b"", *(f"X{number}: y" for number in range(20))),
            b"what is this\r\n\r\n",
        ):
            got = await exchange(path, text)
            assert b" 400 Bad Request\r\n" in got
            assert b'{"message":"malformed HTTP request: ' in got

    serve(tmp_path, scene, limits=Limits(header_line=200, headers=10))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=8).map(b"".join))
def test_nothing_that_a_client_sends_harms_the_next_one(tmp_path: Path, text: bytes) -> None:
    """Whatever arrives is answered with HTTP, or with nothing; and never with a traceback."""

    async def scene(path: str) -> None:
        got = await exchange(path, text)
        assert not got or got.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))
        assert b"Traceback" not in got
        assert b" 500 " not in got
        assert (await exchange(path, http("GET /"))).startswith(b"HTTP/1.1 200 ")

    serve(tmp_path, scene, limits=Limits(header_time=0.05, body_time=0.05, linger=0.05))


@pytest.mark.parametrize("text", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_client_that_never_ends_its_header_is_cut_off(tmp_path: Path, text: bytes) -> None:
    """A thousand of them would keep everybody else out."""

    async def scene(path: str) -> None:
        assert await exchange(path, text) == b""

    serve(tmp_path, scene, limits=Limits(header_time=0.1))


def test_a_client_that_never_ends_its_body_is_refused(tmp_path: Path) -> None:
    """As above."""

    async def scene(path: str) -> None:
        got = await exchange(path, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
        assert got.startswith(b"HTTP/1.1 408 ")

    serve(tmp_path, scene, limits=Limits(body_time=0.1, linger=0.1))


def test_a_client_does_not_pay_for_how_long_its_body_takes_us(tmp_path: Path) -> None:
    """A disk that is slow is no silence of the client's."""

    async def scene(path: str) -> None:
        got = await exchange(path, b"POST /images/load HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello")
        assert b" 200 OK" in got
        assert b"hello" in got

    async def api(request: Request) -> Response:
        assert request.stream
        pieces = []
        async for piece in request.stream:
            await asyncio.to_thread(threading.Event().wait, 0.3)
            pieces.append(piece.decode())
        return answer(200, "".join(pieces))

    serve(tmp_path, scene, api, limits=Limits(body_time=0.1, linger=0.1))


def test_a_connection_too_many_is_told_so(tmp_path: Path) -> None:
    """And the others are served as before."""

    async def scene(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"}\n")
        assert (await exchange(path, b"")).startswith(b"HTTP/1.1 503 ")
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"}\n")
        writer.close()

    serve(tmp_path, scene, limits=Limits(connections=1))


def test_a_stream_ends_when_its_client_goes(tmp_path: Path) -> None:
    """Listeners to events would pile up, each with a queue of its own."""

    async def scene(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"{}\n")
        writer.close()
        await stream.closed.wait()

    async def api(_request: Request) -> Response:
        return Response(200, stream=stream)

    stream = Endless()
    serve(tmp_path, scene, api)


def test_a_stream_reaches_its_client_piece_by_piece(tmp_path: Path) -> None:
    """`docker events` shows what happens while it happens; a client of HTTP/1.0 gets it without chunks."""

    async def scene(path: str) -> None:
        for version, chunked in ((b"1.1", True), (b"1.0", False)):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /events HTTP/" + version + b"\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert (b"Transfer-Encoding: chunked" in head) is chunked
            await reader.readuntil(b"{}\n")
            writer.close()

    async def api(_request: Request) -> Response:
        return Response(200, stream=Endless())

    serve(tmp_path, scene, api)


def test_what_was_begun_is_answered_while_the_server_closes(tmp_path: Path) -> None:
    """A restart of the daemon must not leave a client without the answer to what it did."""

    async def run() -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def api(_request: Request) -> Response:
            begun.set()
            await go.wait()
            return Response(204)

        path = str(tmp_path / "api.sock")
        server = Server(api)
        await server.start(listen(f"unix://{path}", {}))
        pending = asyncio.ensure_future(exchange(path, http("POST /")))
        await begun.wait()
        closing = asyncio.ensure_future(server.close(patience=DEADLINE))
        go.set()
        assert (await pending).startswith(b"HTTP/1.1 204 ")
        await closing

    asyncio.run(asyncio.wait_for(run(), DEADLINE))


def test_the_socket_is_for_its_owner_and_group_only(tmp_path: Path) -> None:
    """Who can talk to the daemon is root."""
    path = tmp_path / "deep" / "api.sock"
    with listen(f"unix://{path}", {}):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    """After a crash the daemon must come up again; but never in the place of one that runs."""
    path = tmp_path / "api.sock"
    listen(f"unix://{path}", {}).close()
    assert path.exists()
    with listen(f"unix://{path}", {}), pytest.raises(InvalidRequest, match="another daemon answers there"):
        listen(f"unix://{path}", {})


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """A wrong -H must not cost anybody a file."""
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(InvalidRequest, match="not a socket"):
        listen(f"unix://{path}", {})
    assert path.read_text() == "mine"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:2375", "unix://relative", "/run/x.sock", "", "fd://"])
def test_other_addresses_are_refused(address: str) -> None:
    """TCP would give root to the network; the rest are slips of the pen."""
    with pytest.raises(InvalidRequest, match="invalid host"):
        listen(address, {})


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    """Linux has 107 bytes for it, and its own error is silent about that."""
    with pytest.raises(InvalidRequest, match="cannot listen at"):
        listen(f"unix://{tmp_path}/{'x' * 120}", {})


def test_the_socket_that_systemd_opened_is_used(tmp_path: Path) -> None:
    """With socket activation a client may come before the daemon; it is passed as file descriptor 3."""
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))
        opened.listen()
        child = os.fork()
        if child == 0:
            os.dup2(opened.fileno(), 3)
            with listen("fd://", {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}) as passed:
                os._exit(0 if passed.getsockname() == str(path) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
