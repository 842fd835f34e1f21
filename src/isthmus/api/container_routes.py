"""The routes of containers and of programs in them.

To Docker's clients sandboxes are containers, too: they are listed and inspected with them, on networks like them, but
there is nothing in them that could be started or stopped.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from msgspec import json

from isthmus.api import body, containers, filters, translate
from isthmus.api.message import Duplex, Request, Response, Takeover, answer
from isthmus.containers.logs import Line, instant
from isthmus.containers.manager import name_taken
from isthmus.containers.model import Found
from isthmus.errors import Forbidden, InvalidRequest, IsthmusError, NameTaken, NotImplementedHere

if TYPE_CHECKING:
    from isthmus.api.routes import Api, Handler

_RAW = "application/vnd.docker.raw-stream"
_MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
_SECOND = 10**9


class Streams(Protocol):
    """What a program reads and writes; see `monitor.Attachment`."""

    async def read(self) -> tuple[int, bytes]:
        """The next piece of output."""

    async def write(self, data: bytes) -> None:
        """Have it read something."""

    def end_input(self) -> None:
        """Have it read nothing more."""

    def close(self) -> None:
        """Leave."""


def _number(request: Request, key: str) -> int | None:
    text = request.query.get(key, "")
    if not text:
        return None
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise InvalidRequest(f'invalid value for {key}: {text}: strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def _size(request: Request) -> tuple[int, int]:
    """The rows and columns of a terminal."""
    rows, columns = _number(request, "h"), _number(request, "w")
    if rows is None or columns is None or not (0 <= rows < 2**16 and 0 <= columns < 2**16):
        raise InvalidRequest("invalid size of a terminal: give its rows and columns as ?h=24&w=80")
    return rows, columns


# Containers.


async def _list(api: "Api", request: Request) -> Response:
    """Containers and sandboxes, the newest first; those that do not run only if they are asked for."""
    asked = filters.parse(request.query.get("filters", ""), containers.FILTERS)
    limit = _number(request, "limit") or 0
    views = await api.containers.views()

    def image(name: str) -> Found | None:
        with suppress(IsthmusError):
            return api.images.find(name)
        return None

    wanted = containers.wanted(asked, views, image)
    all_of_them = request.flag("all") or limit > 0 or containers.show_all(asked)
    now = api.clock()
    shapes = [
        (view.record.created, containers.summary(view, now))
        for view in views
        if wanted(view) and (all_of_them or view.state in {"running", "paused", "restarting"})
    ]
    if not {"ancestor", "before", "since", "exited"} & asked.values.keys():
        wanted_sandbox = translate.wanted_sandbox(asked)
        shapes += [
            (view.sandbox.created, translate.container_summary(view, now))
            for view in await api.call(lambda engine: engine.sandboxes())
            if not view.sandbox.container and wanted_sandbox(view)
        ]
    shapes.sort(key=lambda one: -one[0])
    return answer(200, [shape for _, shape in shapes[: limit if limit > 0 else None]])


async def _inspect(api: "Api", request: Request) -> Response:
    (name,) = request.names
    if api.containers.id_of(name):
        view = await api.containers.view(name)
        return answer(200, containers.inspect(view, request.version, api.containers.runtime))
    sandbox = await api.call(lambda engine: engine.sandbox(name.removeprefix("/")), brief=True)
    return answer(200, translate.container_inspect(sandbox, request.version))


async def _create(api: "Api", request: Request) -> Response:
    create = containers.decode(request.headers, request.body)
    if not create.image:
        raise InvalidRequest("no image specified: name one, such as host for this machine's own root file system")
    image = api.images.find(create.image)
    create = containers.placed(containers.merged(create, image.config))
    name = request.query.get("name", "").removeprefix("/")
    told = containers.warnings(name or "unnamed", create)
    identity, warnings = await api.containers.create(name, containers.text_of(create))
    return answer(201, {"Id": identity, "Warnings": [*told, *warnings]})


def _of_container(handler: "Handler") -> "Handler":
    """A handler that is for containers alone, with a sentence for who means a sandbox by it."""

    async def checked(api: "Api", request: Request) -> Response:
        name = request.names[0]
        if api.containers.id_of(name) is None:
            view = await api.call(lambda engine: engine.sandbox(name.removeprefix("/")), brief=True)
            raise NotImplementedHere(
                f"{view.sandbox.name} is a sandbox, in which nothing of ours runs: see isthmus sandbox --help"
            )
        return await handler(api, request)

    return checked


def _to_its_end(handler: "Handler") -> "Handler":
    """A handler whose work goes on if the client goes away: half a start, or half a removal, helps nobody."""

    async def whole(api: "Api", request: Request) -> Response:
        return await api.containers.whole(handler(api, request))

    return whole


async def _start(api: "Api", request: Request) -> Response:
    if request.query.get("checkpoint"):
        raise NotImplementedHere("checkpoints are not supported")
    return Response(204 if await api.containers.start_container(request.names[0]) else 304)


async def _stop(api: "Api", request: Request) -> Response:
    seconds, name = _number(request, "t"), request.query.get("signal", "")
    return Response(204 if await api.containers.stop(request.names[0], seconds, name) else 304)


async def _restart(api: "Api", request: Request) -> Response:
    await api.containers.restart(request.names[0], _number(request, "t"), request.query.get("signal", ""))
    return Response(204)


async def _kill(api: "Api", request: Request) -> Response:
    await api.containers.kill(request.names[0], request.query.get("signal", ""))
    return Response(204)


async def _pause(api: "Api", request: Request) -> Response:
    await api.containers.pause(request.names[0], on=True)
    return Response(204)


async def _unpause(api: "Api", request: Request) -> Response:
    await api.containers.pause(request.names[0], on=False)
    return Response(204)


async def _rename(api: "Api", request: Request) -> Response:
    new = request.query.get("name", "").removeprefix("/")
    if not new:
        raise InvalidRequest("Neither old nor new names may be empty")
    await api.containers.rename(request.names[0], new)
    return Response(204)


async def _remove(api: "Api", request: Request) -> Response:
    if request.flag("link"):
        raise NotImplementedHere("removing links is not supported: they go with the container")
    await api.containers.remove(request.names[0], force=request.flag("force"))
    return Response(204)


async def _prune(api: "Api", request: Request) -> Response:
    may_go = translate.prunable(filters.parse(request.query.get("filters", ""), translate.PRUNE_FILTERS), api.clock())
    gone = await api.containers.prune(may_go)
    return answer(200, {"ContainersDeleted": list(gone) or None, "SpaceReclaimed": 0})


async def _resize(api: "Api", request: Request) -> Response:
    api.containers.resize(request.names[0], *_size(request))
    return Response(200)


class _Wait:
    """The end of a container as one JSON value, which comes when it does; the answer's head comes at once."""

    def __init__(self, over: "asyncio.Future[tuple[int, str]]") -> None:
        self._over = over

    async def __aiter__(self) -> AsyncIterator[bytes]:
        code, error = await self._over
        yield json.encode({"StatusCode": code, **({"Error": {"Message": error}} if error else {})}) + b"\n"

    async def aclose(self) -> None:
        """Wait no more."""
        self._over.cancel()


async def _wait(api: "Api", request: Request) -> Response:
    condition = request.query.get("condition", "") or "not-running"
    if condition not in {"not-running", "next-exit", "removed"}:
        raise InvalidRequest(f'invalid condition: "{condition}"')
    over = api.containers.when_over(request.names[0], condition)
    return Response(200, headers={"Content-Type": "application/json"}, stream=_Wait(over))


async def _top(api: "Api", request: Request) -> Response:
    """What `ps` says of the container's processes."""
    words = (request.query.get("ps_args", "") or "-ef").split()
    pids = set(map(str, await api.containers.processes(request.names[0])))
    try:
        process = await asyncio.create_subprocess_exec(
            "ps", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError:
        raise NotImplementedHere("top needs ps: install Debian's package procps") from None
    said, complained = await process.communicate()
    if process.returncode:
        raise InvalidRequest(f"error running ps: {complained.decode(errors='replace').strip()}")
    head, *lines = said.decode(errors="replace").splitlines() or [""]
    titles = head.split()
    if "PID" not in titles:
        raise InvalidRequest("Couldn't find PID field in ps output")
    rows = [line.split(None, len(titles) - 1) for line in lines]
    place = titles.index("PID")
    return answer(
        200, {"Titles": titles, "Processes": [row for row in rows if len(row) > place and row[place] in pids]}
    )


# Output.


class _Log:
    """What a container wrote, as Docker sends it: raw with a terminal, else each piece with its stream."""

    def __init__(self, lines: AsyncIterator[Line], shape: Callable[[Line], bytes]) -> None:
        self._lines = lines
        self._shape = shape

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for line in self._lines:
            if shaped := self._shape(line):
                yield shaped

    async def aclose(self) -> None:
        """Read no more."""
        if close := getattr(self._lines, "aclose", None):
            await close()


def _shaper(request: Request, *, tty: bool) -> Callable[[Line], bytes]:
    wanted = {stream for stream, key in ((1, "stdout"), (2, "stderr")) if request.flag(key)}
    if not wanted:
        raise InvalidRequest("Bad parameters: you must choose at least one stream")
    stamped = request.flag("timestamps")

    def shape(line: Line) -> bytes:
        if line.stream not in wanted:
            return b""
        text = f"{translate.rfc3339_nano(line.time)} ".encode() + line.text if stamped else line.text
        return text if tty else containers.framed(line.stream, text)

    return shape


async def _logs(api: "Api", request: Request) -> Response:
    (name,) = request.names
    wish = api.containers.wish(name)
    if not wish.logged:
        raise NotImplementedHere("configured logging driver does not support reading")
    tail = request.query.get("tail", "")
    lines = api.containers.lines(
        name,
        since=_instant(request, "since") or 0,
        until=_instant(request, "until"),
        tail=int(tail) if tail.isdecimal() else None,
        follow=request.flag("follow"),
    )
    kind = _kind(request, tty=wish.tty)
    return Response(200, headers={"Content-Type": kind}, stream=_Log(lines, _shaper(request, tty=wish.tty)))


def _instant(request: Request, key: str) -> int | None:
    """A time of the query's in nanoseconds: seconds since the epoch, with a fraction, or as RFC 3339 has it."""
    text = request.query.get(key, "")
    if text in {"", "0"}:
        return None
    seconds, _, fraction = text.partition(".")
    if seconds.isdecimal() and (fraction.isdecimal() or not fraction):
        return int(seconds) * _SECOND + int(f"{fraction:0<9}"[:9])
    if (found := instant(text)) is None:
        raise InvalidRequest(f"invalid value for {key}: {text}: it must be seconds since 1970, or a time of RFC 3339")
    return found


def _kind(request: Request, *, tty: bool) -> str:
    return _RAW if tty or request.version < (1, 42) else _MULTIPLEXED


# Streams.


async def _attach(api: "Api", request: Request) -> Response:
    (name,) = request.names
    wish = api.containers.wish(name)
    keys = containers.detach_keys(request.query.get("detachKeys", "")) if wish.tty else b""
    outputs = {stream for stream, key in ((1, "stdout"), (2, "stderr")) if request.flag(key)}
    stdin = request.flag("stdin") and wish.stdin
    streaming, past = request.flag("stream"), request.flag("logs")
    waiting = await api.containers.attach(name) if streaming else None
    running = waiting is not None and waiting.done()

    async def takeover(client: Duplex) -> None:
        try:
            if past and wish.logged and (running or not streaming):
                async for line in api.containers.lines(name):
                    if line.stream in outputs:
                        await client.write(line.text if wish.tty else containers.framed(line.stream, line.text))
            if waiting is None:
                return
            attached = await waiting
        except (asyncio.CancelledError, ConnectionResetError):
            if waiting and not waiting.done():
                waiting.cancel()
            elif waiting and not waiting.cancelled():
                waiting.result().close()
            return
        await _join(client, attached, outputs, stdin=stdin, tty=wish.tty, keys=keys)

    return _taken_over(request, takeover, tty=wish.tty)


def _taken_over(request: Request, takeover: Takeover, *, tty: bool) -> Response:
    return Response(101, headers={"Content-Type": _kind(request, tty=tty)}, takeover=takeover)


async def _join(client: Duplex, program: Streams, outputs: set[int], *, stdin: bool, tty: bool, keys: bytes) -> None:
    """Bring to *client* what a program writes, and to it what the client sends, until either is over.

    In a terminal the *keys*, one after another, end it and leave the program running.
    """
    reading = asyncio.create_task(_feed(client, program, stdin=stdin, keys=keys))
    writing = asyncio.create_task(_show(client, program, outputs, tty=tty))
    try:
        done, _ = await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        if reading in done and not reading.result():
            await writing
    finally:
        for task in (reading, writing):
            task.cancel()
        await asyncio.gather(reading, writing, return_exceptions=True)
        program.close()


async def _show(client: Duplex, program: Streams, outputs: set[int], *, tty: bool) -> None:
    with suppress(ConnectionResetError):
        while (piece := await program.read())[0]:
            stream, data = piece
            if stream in outputs:
                await client.write(data if tty else containers.framed(stream, data))


async def _feed(client: Duplex, program: Streams, *, stdin: bool, keys: bytes) -> bool:
    """Whether the client left by the keys for that, and not because it has nothing more to send."""
    matched = 0
    while data := await client.read():
        if not stdin:
            continue
        if keys:
            data, matched, leaving = _without_keys(data, keys, matched)
            if data:
                await program.write(data)
            if leaving:
                return True
        else:
            await program.write(data)
    if stdin:
        program.end_input()
    return False


def _without_keys(data: bytes, keys: bytes, matched: int) -> tuple[bytes, int, bool]:
    """*data* for the program, how many of the *keys* came last in it and are held back, and whether all came."""
    passed = bytearray()
    for byte in data:
        if byte == keys[matched]:
            matched += 1
            if matched == len(keys):
                return bytes(passed), 0, True
            continue
        passed += keys[:matched]
        matched = 0
        if byte == keys[0]:
            matched = 1
        else:
            passed.append(byte)
    return bytes(passed), matched, False


# Programs beside a container's own.


async def _create_exec(api: "Api", request: Request) -> Response:
    wish = containers.exec_wish(body.decode(body.ExecCreate, request.headers, request.body))
    containers.detach_keys(wish.detach_keys)
    return answer(201, {"Id": api.containers.create_exec(request.names[0], wish)})


async def _start_exec(api: "Api", request: Request) -> Response:
    (identity,) = request.names
    start = body.decode(body.ExecStart, request.headers, request.body)
    noted = api.containers.execs.find(identity)
    wish = noted.wish
    if start.detach:
        await api.containers.start_exec(noted, quiet=True)
        return Response(200)
    execution = await api.containers.start_exec(noted)
    if start.console_size and len(start.console_size) == 2:
        execution.resize(*(size & 0xFFFF for size in start.console_size))
    outputs = {stream for stream, on in ((1, wish.stdout), (2, wish.stderr)) if on}
    keys = containers.detach_keys(wish.detach_keys) if wish.tty else b""

    async def takeover(client: Duplex) -> None:
        await _join(client, execution, outputs, stdin=wish.stdin, tty=wish.tty, keys=keys)

    return _taken_over(request, takeover, tty=wish.tty)


async def _resize_exec(api: "Api", request: Request) -> Response:
    noted = api.containers.execs.find(request.names[0])
    rows, columns = _size(request)
    if noted.execution is None or noted.code is not None:
        raise NameTaken(f"exec process {noted.id} is not running")
    noted.execution.resize(rows, columns)
    return Response(200)


async def _exec(api: "Api", request: Request) -> Response:
    return answer(200, containers.execution(api.containers.execs.find(request.names[0]).view))


async def _update(_api: "Api", _request: Request) -> Response:
    raise NotImplementedHere("limits of a container cannot be changed: remove it, and make it anew with others")


# Networks of containers.


async def connect(
    api: "Api", network: str, name: str, config: body.EndpointConfig, otherwise: Callable[[], Awaitable[None]]
) -> None:
    """Put a container on one more network; what is no container is put there *otherwise*."""
    identity = api.containers.id_of(name)
    if identity is None:
        await otherwise()
        return
    view = await api.containers.view(identity)
    real = await api.call(lambda engine: engine.network(network).network.name, brief=True)
    asked = containers.with_network(view.record.asked, real, config)
    wish = translate.endpoint_request(config)
    mode = view.asked.sandbox.mode
    if mode == "host" or mode.startswith("container:"):
        raise InvalidRequest(f"a container in the network mode {mode} cannot be put on a network")
    if not view.sandbox and any(real == one for one, _ in view.asked.sandbox.endpoints):
        raise Forbidden(f"endpoint with name {view.record.name} already exists in network {real}")
    await api.containers.connect(real, identity, wish, asked)


async def disconnect(api: "Api", network: str, name: str, otherwise: Callable[[], Awaitable[None]]) -> None:
    """Take a container off a network; what is no container is taken off *otherwise*."""
    identity = api.containers.id_of(name)
    if identity is None:
        await otherwise()
        return
    view = await api.containers.view(identity)
    found = await api.call(lambda engine: engine.network(network).network, brief=True)
    asked = containers.without_network(view.record.asked, found.name, found.id, network)
    await api.containers.disconnect(found.name, identity, asked)


def refuse_container(api: "Api", name: str) -> None:
    """Refuse to remove a sandbox that a container is in."""
    if (identity := api.containers.id_of(name)) is not None:
        raise NameTaken(f"{name} is a container ({identity[:12]}): use isthmus rm, or docker rm")


def refuse_taken(api: "Api", name: str) -> None:
    """Refuse a name for a sandbox that a container has."""
    if (identity := api.containers.is_taken(name)) is not None:
        raise name_taken(name, identity)


ROWS: "tuple[tuple[str, str, Handler], ...]" = (
    ("GET", "/containers/json", _list),
    ("POST", "/containers/create", _to_its_end(_create)),
    ("POST", "/containers/prune", _to_its_end(_prune)),
    ("GET", "/containers/{name}/json", _inspect),
    *(
        (method, f"/containers/{{name}}{path}", _of_container(_to_its_end(handler)))
        for method, path, handler in (
            ("DELETE", "", _remove),
            ("POST", "/start", _start),
            ("POST", "/stop", _stop),
            ("POST", "/restart", _restart),
            ("POST", "/kill", _kill),
            ("POST", "/pause", _pause),
            ("POST", "/unpause", _unpause),
            ("POST", "/rename", _rename),
            ("POST", "/exec", _create_exec),
        )
    ),
    *(
        (method, f"/containers/{{name}}{path}", _of_container(handler))
        for method, path, handler in (
            ("POST", "/resize", _resize),
            ("POST", "/wait", _wait),
            ("POST", "/attach", _attach),
            ("POST", "/update", _update),
            ("GET", "/logs", _logs),
            ("GET", "/top", _top),
        )
    ),
    ("POST", "/exec/{id}/start", _start_exec),
    ("POST", "/exec/{id}/resize", _resize_exec),
    ("GET", "/exec/{id}/json", _exec),
)
"""Each route's method, path and handler."""
