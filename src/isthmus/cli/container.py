"""`isthmus run`, `ps`, `exec` and their like, in the words of Docker's client.

Exit codes are those of the program; 125 if the daemon refused, 126 if the program cannot be run, 127 if there is none.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import cast

from isthmus.cli.client import Client, DaemonError, quote
from isthmus.cli.flags import (
    INSPECT_FORMAT,
    LS_FORMAT,
    NO_TRUNC,
    QUIET,
    Arguments,
    Command,
    Flag,
    Kind,
    check_filter,
    filter_query,
)
from isthmus.cli.output import Fields, Row, each, print_inspected, print_rows
from isthmus.cli.output import prune as pruned
from isthmus.cli.run import ENVIRONMENT_FLAGS, RUN_FLAGS, body_of, environment_of, streams_of
from isthmus.cli.values import Record, label_of, number, pairs, record, records, text, texts
from isthmus.errors import InvalidRequest

_REFUSED = 125
_OUTPUT = frozenset({"stdout", "stderr"})
_FIELDS = Fields(
    headings={
        "ID": "CONTAINER ID",
        "Image": "IMAGE",
        "Command": "COMMAND",
        "RunningFor": "CREATED",
        "Status": "STATUS",
        "State": "STATE",
        "Ports": "PORTS",
        "Names": "NAMES",
        "Networks": "NETWORKS",
        "Labels": "LABELS",
        "CreatedAt": "CREATED AT",
    },
    shown=("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"),
)


def _path(name: str, rest: str = "") -> str:
    return f"/containers/{quote(name)}{rest}"


# Running.


def _code_of(error: DaemonError) -> int:
    """The exit code that Docker's client makes of a refusal."""
    words = str(error)
    if any(part in words for part in ("executable file not found", "no such file or directory")):
        return 127
    return 126 if "permission denied" in words else _REFUSED


def _made(arguments: Arguments, client: Client) -> str:
    """Have the container made that *arguments* ask for; its ID."""
    body = body_of(arguments)
    query = {"name": arguments.text("name")} if arguments.given("name") else {}
    place = arguments.text("cidfile")
    with _reserved(place):
        made = record(client.post("/containers/create", body, query))
    identity = text(made.get("Id"))
    if place:
        Path(place).write_text(identity, encoding="utf-8")
    for warning in texts(made.get("Warnings")):
        print(f"WARNING: {warning}", file=sys.stderr)
    return identity


@contextmanager
def _reserved(path: str) -> Iterator[None]:
    """Have a new file at *path*, if there is to be one, which goes again when what follows fails."""
    try:
        if path:
            Path(path).touch(exist_ok=False)
    except FileExistsError:
        raise InvalidRequest(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidRequest(f"failed to create the container ID file: open {path}: {reason}") from None
    try:
        yield
    except BaseException:
        if path:
            Path(path).unlink()
        raise


def _create(arguments: Arguments) -> int:
    print(_made(arguments, arguments.client()))
    return 0


def _run(arguments: Arguments) -> int:
    client, streams = arguments.client(), streams_of(arguments)
    try:
        identity = _made(arguments, client)
        if streams <= {"stdin"}:
            print(identity, flush=True)
        if not streams:
            client.post(_path(identity, "/start"))
            return 0
        return _attached(arguments, client, identity, streams, start=True)
    except DaemonError as error:
        print(f"isthmus: {error}", file=sys.stderr)
        return _code_of(error)


def _attached(arguments: Arguments, client: Client, identity: str, streams: frozenset[str], *, start: bool) -> int:
    """Bring these *streams* of a container to ours until it ends; its exit code.

    Where that is standard input alone, nobody waits for the end.
    """
    config = record(record(client.get(_path(identity, "/json"))).get("Config"))
    if not config.get("OpenStdin"):
        streams -= {"stdin"}
    tty, stdin, output = bool(config.get("Tty")), "stdin" in streams, bool(streams - {"stdin"})
    removed = start and arguments.on("rm")
    query = {"stream": "1", **dict.fromkeys(sorted(streams), "1")}
    if arguments.given("detach-keys"):
        query["detachKeys"] = arguments.text("detach-keys")
    # Whoever waits does so before it starts, lest it end first.
    with client.waiting(_path(identity, "/wait"), {"condition": "removed" if removed else "next-exit"}) as over:
        with client.upgraded(_path(identity, "/attach"), None, query) as (connection, several):
            if start:
                client.post(_path(identity, "/start"))
            _talk(arguments, client, _path(identity), (connection, several), tty=tty, stdin=stdin, output=output)
        if not output:
            return 0
        if tty and not start and _runs(client, identity):
            return 0
        if tty and start and not removed and _runs(client, identity):
            return 0  # its user left it by the keys for that
        return number(record(over()).get("StatusCode"))


def _runs(client: Client, identity: str) -> bool:
    state = record(record(client.get(_path(identity, "/json"))).get("State"))
    return bool(state.get("Running"))


def _talk(
    arguments: Arguments,
    client: Client,
    path: str,
    streams: tuple[object, bool],
    *,
    tty: bool,
    stdin: bool,
    output: bool = True,
) -> None:
    import socket

    from isthmus.cli.streams import proxied, relay, terminal

    def resize(rows: int, columns: int) -> None:
        with suppress(DaemonError):
            client.post(f"{path}/resize", None, {"h": str(rows), "w": str(columns)})

    def send(number: int) -> None:
        with suppress(DaemonError):
            client.post(f"{path}/kill", None, {"signal": str(number)})

    connection, several = streams
    with ExitStack() as held:
        if tty and sys.stdin.isatty():
            held.enter_context(terminal(resize))
        elif not tty and arguments.on("sig-proxy", default=True) and path.startswith("/containers/"):
            held.enter_context(proxied(send))
        relay(cast("socket.socket", connection), several=several, stdin=stdin, output=output)


def _attach(arguments: Arguments) -> int:
    client = arguments.client()
    (name,) = arguments.words
    state = record(record(client.get(_path(name, "/json"))).get("State"))
    if not state.get("Running"):
        raise InvalidRequest("You cannot attach to a stopped container, start it first")
    return _attached(arguments, client, name, _OUTPUT if arguments.on("no-stdin") else _OUTPUT | {"stdin"}, start=False)


def _start(arguments: Arguments) -> int:
    client = arguments.client()
    if arguments.on("attach") or arguments.on("interactive"):
        if len(arguments.words) != 1:
            raise arguments.wrong("you cannot start and attach multiple containers at once")
        streams = _OUTPUT | {"stdin"} if arguments.on("interactive") else _OUTPUT
        return _attached(arguments, client, arguments.words[0], streams, start=True)
    return each(arguments.words, lambda name: client.post(_path(name, "/start")))


def _exec(arguments: Arguments) -> int:
    client = arguments.client()
    name, *command = arguments.words
    detached, tty = arguments.on("detach"), arguments.on("tty")
    body = {
        "AttachStdin": arguments.on("interactive") and not detached,
        "AttachStdout": not detached,
        "AttachStderr": not detached,
        "DetachKeys": arguments.text("detach-keys"),
        "Tty": tty,
        "Env": environment_of(arguments),
        "Cmd": command,
        "Privileged": arguments.on("privileged"),
        "User": arguments.text("user"),
        "WorkingDir": arguments.text("workdir"),
    }
    identity = text(record(client.post(_path(name, "/exec"), body)).get("Id"))
    path = f"/exec/{identity}"
    if detached:
        client.post(f"{path}/start", {"Detach": True, "Tty": tty})
        return 0
    with client.upgraded(f"{path}/start", {"Detach": False, "Tty": tty}, {}) as streams:
        _talk(arguments, client, path, streams, tty=tty, stdin=arguments.on("interactive"))
    return number(record(client.get(f"{path}/json")).get("ExitCode"))


# Looking.


def _ps(arguments: Arguments) -> int:
    query = filter_query(arguments)
    if arguments.on("all"):
        query["all"] = "1"
    if arguments.on("latest") or arguments.given("last"):
        query["limit"] = "1" if arguments.on("latest") else arguments.text("last")
    found = records(arguments.client().get("/containers/json", query))
    whole = arguments.on("no-trunc")
    return print_rows(arguments, _FIELDS, [_row(one, whole=whole) for one in found])


def _row(one: Record, *, whole: bool) -> Row:
    from isthmus.cli.image import ago, moment

    identity, command, labels = text(one.get("Id")), text(one.get("Command")), record(one.get("Labels"))
    if not whole and len(command) > 20:
        command = f"{command[:19]}…"
    networks = record(record(one.get("NetworkSettings")).get("Networks"))
    image = text(one.get("Image"))
    return {
        "ID": identity if whole else identity[:12],
        "Image": image or "<no image>",
        "Command": f'"{command}"',
        "RunningFor": ago(number(one.get("Created"))),
        "CreatedAt": moment(number(one.get("Created"))),
        "Status": text(one.get("Status")),
        "State": text(one.get("State")),
        "Ports": ports_text(records(one.get("Ports"))),
        "Names": ",".join(name.removeprefix("/") for name in texts(one.get("Names"))),
        "Networks": ",".join(sorted(networks)),
        "Labels": pairs(labels),
        "Label": label_of(labels),
    }


def ports_text(ports: list[Record]) -> str:
    """The published and the exposed ports, as Docker's client lists them."""
    words = []
    for port in sorted(ports, key=lambda one: (number(one.get("PrivatePort")), text(one.get("Type")))):
        inside = f"{number(port.get('PrivatePort'))}/{text(port.get('Type'))}"
        if public := number(port.get("PublicPort")):
            address = text(port.get("IP"))
            where = f"[{address}]:{public}" if ":" in address else f"{address}:{public}"
            words.append(f"{where}->{inside}")
        else:
            words.append(inside)
    return ", ".join(dict.fromkeys(words))


def _inspect(arguments: Arguments) -> int:
    client = arguments.client()

    def fetch(name: str) -> object:
        for path in (_path(name, "/json"), f"/images/{quote(name)}/json", f"/networks/{quote(name)}"):
            try:
                found = record(client.get(path))
            except DaemonError as error:
                if error.code != 404:
                    raise
                continue
            # What Docker's API shows as a container without an image is a sandbox.
            sandbox = path.startswith("/containers/") and not record(found.get("Config")).get("Image")
            return client.get(f"/sandboxes/{quote(name)}") if sandbox else found
        raise DaemonError(404, f"No such object: {name}")

    return print_inspected(arguments, fetch)


def _inspect_containers(arguments: Arguments) -> int:
    client = arguments.client()
    return print_inspected(arguments, lambda name: client.get(_path(name, "/json")))


def _logs(arguments: Arguments) -> int:
    from isthmus.cli.streams import Demultiplexer

    query = {"stdout": "1", "stderr": "1"}
    for flag in ("follow", "timestamps"):
        if arguments.on(flag):
            query[flag] = "1"
    for flag in ("since", "until", "tail"):
        if arguments.given(flag):
            query[flag] = _moment_of(arguments.text(flag)) if flag != "tail" else arguments.text(flag)
    out: Demultiplexer | None = None
    for several, piece in arguments.client().pieces(_path(arguments.words[0], "/logs"), query):
        out = out or Demultiplexer(several=several)
        out.feed(piece)
    return 0


def _moment_of(value: str) -> str:
    """A time as the API takes it; `10m` is that long ago."""
    import re
    import time

    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", value)
    if value and found:
        hours, minutes, seconds = (float(part or 0) for part in found.groups())
        return f"{time.time() - hours * 3600 - minutes * 60 - seconds:.9f}"
    return value


def _top(arguments: Arguments) -> int:
    from isthmus.cli.output import align

    name, *words = arguments.words
    found = record(arguments.client().get(_path(name, "/top"), {"ps_args": " ".join(words)} if words else None))
    processes = found.get("Processes")
    rows = [texts(row) for row in processes] if isinstance(processes, list) else []
    print(align([texts(found.get("Titles")), *rows]))
    return 0


# Changing.


def _stop(arguments: Arguments) -> int:
    return _each(arguments, "/stop")


def _restart(arguments: Arguments) -> int:
    return _each(arguments, "/restart")


def _each(arguments: Arguments, path: str) -> int:
    client = arguments.client()
    query = {"t": arguments.text("time")} if arguments.given("time") else {}
    query |= {"signal": arguments.text("signal")} if arguments.given("signal") else {}
    return each(arguments.words, lambda name: client.post(_path(name, path), None, query))


def _kill(arguments: Arguments) -> int:
    return _each(arguments, "/kill")


def _pause(arguments: Arguments) -> int:
    return _each(arguments, "/pause")


def _unpause(arguments: Arguments) -> int:
    return _each(arguments, "/unpause")


def _rm(arguments: Arguments) -> int:
    client, force = arguments.client(), arguments.on("force")
    query = {"force": "1"} if force else {}
    forgiven = frozenset({404}) if force else frozenset[int]()
    return each(arguments.words, lambda name: client.delete(_path(name), query), forgiven)


def _rename(arguments: Arguments) -> int:
    old, new = arguments.words
    arguments.client().post(_path(old, "/rename"), None, {"name": new})
    return 0


def _wait(arguments: Arguments) -> int:
    client = arguments.client()

    def wait(name: str) -> object:
        print(number(record(client.post(_path(name, "/wait"))).get("StatusCode")))
        return None

    failures = 0
    for name in arguments.words:
        try:
            wait(name)
        except DaemonError as error:
            print(error, file=sys.stderr)
            failures = 1
    return failures


def _prune(arguments: Arguments) -> int:
    def act() -> object:
        return arguments.client().post("/containers/prune", None, filter_query(arguments))

    return pruned(arguments, "all stopped containers", "Deleted Containers", act, "ContainersDeleted")


_DETACH_KEYS = Flag("detach-keys", "Keys that leave it running, such as ctrl-p,ctrl-q")
_SIG_PROXY = Flag("sig-proxy", "Send it the signals that we get (default true)", Kind.SWITCH)
_TIME = Flag("time", "Seconds until it is killed", Kind.NUMBER, "t")
_SIGNAL = Flag("signal", "Signal to send", short="s")
_FILTER = Flag("filter", "Only what fits, e.g. status=exited", Kind.LIST, "f", "key=value", check_filter)
_PS = (
    Flag("all", "Those that do not run, too", Kind.SWITCH, "a"),
    _FILTER,
    LS_FORMAT,
    Flag("last", "The last ones that were made, running or not", Kind.NUMBER, "n"),
    Flag("latest", "The last one that was made", Kind.SWITCH, "l"),
    NO_TRUNC,
    QUIET,
)
_EXEC = (
    Flag("detach", "Do not wait for it", Kind.SWITCH, "d"),
    _DETACH_KEYS,
    *ENVIRONMENT_FLAGS,
    Flag("interactive", "Keep standard input open", Kind.SWITCH, "i"),
    Flag("privileged", "All capabilities", Kind.SWITCH),
    Flag("tty", "Give it a terminal", Kind.SWITCH, "t"),
    Flag("user", "User to run as", short="u"),
    Flag("workdir", "Directory to run in", short="w"),
)
_LOGS = (
    Flag("follow", "Go on with what comes", Kind.SWITCH, "f"),
    Flag("since", "From this time on, or since so long (10m)", value="time"),
    Flag("tail", "How many lines from the end", short="n", default="all"),
    Flag("timestamps", "With the time of each line", Kind.SWITCH, "t"),
    Flag("until", "Up to this time", value="time"),
)
_RUN = (
    *RUN_FLAGS,
    Flag("detach", "Do not wait for it", Kind.SWITCH, "d"),
    _DETACH_KEYS,
    _SIG_PROXY,
)
_ONE, _SOME = "CONTAINER", "CONTAINER [CONTAINER...]"


_BY_FORCE = Flag("force", "Even if it runs, and no error if it is not there", Kind.SWITCH, "f")
_PROGRAM = "IMAGE [COMMAND] [ARGUMENT...]"
_ATTACH = (_DETACH_KEYS, Flag("no-stdin", "Only look", Kind.SWITCH), _SIG_PROXY)
_START = (
    Flag("attach", "Show what it writes", Kind.SWITCH, "a"),
    _DETACH_KEYS,
    Flag("interactive", "Give it our standard input", Kind.SWITCH, "i"),
)
_PRUNE = (
    Flag("filter", "Only what fits: until=24h, label=tier", Kind.LIST, "", "key=value", check_filter),
    Flag("force", "Do not ask", Kind.SWITCH, "f"),
)


def _line(  # noqa: PLR0917 - a line of the table
    synopsis: str,
    summary: str,
    run: Callable[[Arguments], int],
    flags: tuple[Flag, ...] = (),
    least: int = 1,
    most: int | None = None,
    *,
    interspersed: bool = True,
) -> Command:
    return Command("", f"[OPTIONS] {synopsis}".strip(), summary, run, flags, least, most, (), interspersed)


_TABLE = {
    "attach": _line(_ONE, "Stand at the streams of a container", _attach, _ATTACH, 1, 1),
    "create": _line(_PROGRAM, "Create a container", _create, RUN_FLAGS, interspersed=False),
    "exec": _line(
        f"{_ONE} COMMAND [ARGUMENT...]",
        "Run a program in a container that runs",
        _exec,
        _EXEC,
        2,
        interspersed=False,
    ),
    "inspect": _line(
        "NAME [NAME...]",
        "Show all there is to know about containers, sandboxes, images or networks",
        _inspect,
        (INSPECT_FORMAT,),
    ),
    "kill": _line(_SOME, "Send containers a signal", _kill, (_SIGNAL,)),
    "logs": _line(_ONE, "Show what a container wrote", _logs, _LOGS, 1, 1),
    "pause": _line(_SOME, "Have containers stand still", _pause),
    "ps": _line("", "List containers", _ps, _PS, 0, 0),
    "rename": _line(f"{_ONE} NAME", "Give a container another name", _rename, (), 2, 2),
    "restart": _line(_SOME, "Have containers end and start again", _restart, (_SIGNAL, _TIME)),
    "rm": _line(_SOME, "Remove containers", _rm, (_BY_FORCE,)),
    "run": _line(_PROGRAM, "Run a program in a new container", _run, _RUN, interspersed=False),
    "start": _line(_SOME, "Start containers", _start, _START),
    "stop": _line(_SOME, "Have containers end", _stop, (_SIGNAL, _TIME)),
    "top": _line(f"{_ONE} [PS OPTION...]", "Show the processes of a container", _top, interspersed=False),
    "unpause": _line(_SOME, "Have containers go on", _unpause),
    "wait": _line(_SOME, "Wait until containers end, and show their exit codes", _wait),
}

COMMANDS = (
    *(one._replace(path=f"isthmus container {name}") for name, one in _TABLE.items() if name not in {"inspect", "ps"}),
    _TABLE["ps"]._replace(path="isthmus container ls", aliases=("list", "ps")),
    _line(_SOME, "Show all there is to know about containers", _inspect_containers, (INSPECT_FORMAT,))._replace(
        path="isthmus container inspect"
    ),
    _line("", "Remove all containers that do not run", _prune, _PRUNE, 0, 0)._replace(path="isthmus container prune"),
)


def single(name: str) -> Command:
    """The command of this name that belongs to no group."""
    return _TABLE[name]._replace(path=f"isthmus {name}")
