"""`isthmus version`, `info` and `events`: about the daemon itself."""

import os
import sys

from isthmus import __version__
from isthmus.cli.client import API, Unreachable
from isthmus.cli.flags import INSPECT_FORMAT, Arguments, Command, Flag, Kind, check_filter, filter_query
from isthmus.cli.output import to_json
from isthmus.cli.values import Record, number, record, text, texts
from isthmus.errors import InvalidRequest, IsthmusError


def _formatted(arguments: Arguments, value: object) -> str:
    from isthmus.cli.template import compile_template

    how = arguments.text("format")
    return to_json(value) if how == "json" else compile_template(how)(value)


def _version(arguments: Arguments) -> int:
    machine = os.uname()
    client: Record = {
        "Version": __version__,
        "ApiVersion": API.removeprefix("/v"),
        "Python": ".".join(map(str, sys.version_info[:3])),
        "Os": machine.sysname.lower(),
        "Arch": machine.machine,
    }
    failure: IsthmusError | None = None
    server: object = None
    try:
        server = arguments.client().get("/version")
    except Unreachable as error:
        failure = error
    if arguments.given("format"):
        print(_formatted(arguments, {"Client": client, "Server": server}))
    else:
        print("\n".join(_about("Client", client)))
        if server is not None:
            print("\n".join(["", *_about("Server", record(server))]))
    if failure is not None:
        sys.stdout.flush()
        raise failure
    return 0


def _about(heading: str, facts: Record) -> list[str]:
    least = text(facts.get("MinAPIVersion"))
    shown = {
        "Version": facts.get("Version"),
        "API version": text(facts.get("ApiVersion")) + (f" (minimum version {least})" if least else ""),
        "Python version": facts.get("Python"),
        "OS/Arch": f"{text(facts.get('Os'))}/{text(facts.get('Arch'))}",
        "Kernel": facts.get("KernelVersion"),
    }
    return [f"{heading}:", *(f" {name + ':':<18}{text(value)}" for name, value in shown.items() if value)]


_INFO = (
    ("Server version", "ServerVersion"),
    ("Name", "Name"),
    ("ID", "ID"),
    ("Sandboxes", "Containers"),
    ("Operating system", "OperatingSystem"),
    ("Kernel version", "KernelVersion"),
    ("Architecture", "Architecture"),
    ("CPUs", "NCPU"),
    ("Data root", "DockerRootDir"),
    ("Live restore enabled", "LiveRestoreEnabled"),
)


def _info(arguments: Arguments) -> int:
    facts = record(arguments.client().get("/info"))
    if arguments.given("format"):
        print(_formatted(arguments, facts))
        return 0
    lines = [(name, text(facts[key])) for name, key in _INFO if key in facts]
    lines += [
        ("Total memory", f"{number(facts.get('MemTotal')) / 2**30:.4g}GiB"),
        ("Network drivers", " ".join(texts(record(facts.get("Plugins")).get("Network")))),
        ("Firewall backend", text(record(facts.get("FirewallBackend")).get("Driver"))),
    ]
    for name, value in lines:
        if value:
            print(f"{name}: {value}")
    sys.stdout.flush()
    for warning in texts(facts.get("Warnings")):
        print(warning, file=sys.stderr)
    return 0


def moment(given: str, now: float) -> str:
    """Give the time that *given* means, as the API wants it: seconds since the epoch, with nanoseconds after a point.

    It may be such a number already, a time of RFC 3339 (local, if it names no zone), or a duration before *now*, like
    1h30m.
    """
    import re
    from datetime import datetime

    if re.fullmatch(r"\d+(\.\d+)?", given):
        return given
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
    if re.fullmatch(r"(\d+(\.\d+)?(h|ms|m|us|ns|s))+", given):
        parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|us|ns|s)", given)
        return str(int(now - sum(float(amount) * units[unit] for amount, unit in parts)))
    try:
        when = datetime.fromisoformat(given)
    except ValueError:
        raise InvalidRequest(
            f'invalid time "{given}": it must be like 2026-01-31T12:00:00Z, 2026-01-31, 1h30m (ago), or seconds since '
            "the epoch"
        ) from None
    fraction = re.search(r"\.(\d{1,9})", given)
    nanoseconds = (fraction[1] if fraction else "").ljust(9, "0")
    return f"{int(when.replace(microsecond=0).timestamp())}.{nanoseconds}"


def _events(arguments: Arguments) -> int:
    import time

    how = arguments.text("format")
    query = filter_query(arguments)
    now = time.time()
    query |= {key: moment(arguments.text(key), now) for key in ("since", "until") if arguments.text(key)}
    for event in arguments.client().lines("/events", query):
        print(_formatted(arguments, event) if how else event_line(record(event)), flush=True)
    return 0


def event_line(event: Record) -> str:
    """Write an event as Docker's client does: its time, what happened to which thing, and its attributes."""
    from datetime import datetime

    nanoseconds = number(event.get("timeNano")) or number(event.get("time")) * 10**9
    seconds, fraction = divmod(nanoseconds, 10**9)
    when = datetime.fromtimestamp(seconds).astimezone()
    zone = when.strftime("%z")
    offset = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    actor = record(event.get("Actor"))
    attributes = ", ".join(f"{key}={text(value)}" for key, value in sorted(record(actor.get("Attributes")).items()))
    what = " ".join(map(text, (event.get("Type"), event.get("Action"), actor.get("ID"))))
    return f"{when:%Y-%m-%dT%H:%M:%S}.{fraction:09d}{offset} {what}{f' ({attributes})' if attributes else ''}"


VERSION = Command(
    "isthmus version", "[OPTIONS]", "Show the versions of the program and the daemon", _version, (INSPECT_FORMAT,)
)
INFO = Command("isthmus info", "[OPTIONS]", "Show facts about the daemon and its machine", _info, (INSPECT_FORMAT,))
EVENTS = Command(
    "isthmus events",
    "[OPTIONS]",
    "Show what happens, as it happens",
    _events,
    (
        Flag("filter", "Only what fits, e.g. type=network, event=connect", Kind.LIST, "f", "key=value", check_filter),
        Flag("format", "json, or a Go TEMPLATE"),
        Flag("since", "Begin with what happened at this time (or this long ago)", value="time"),
        Flag("until", "End at this time", value="time"),
    ),
)
