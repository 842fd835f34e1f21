"""`isthmus port`, `publish` and `unpublish`: which ports of the host lead to a sandbox, for whom, and changes."""

from isthmus.cli.client import quote
from isthmus.cli.flags import DRY_RUN, Arguments, Command, dry_run_query
from isthmus.cli.output import print_done
from isthmus.cli.ports import parse_ports
from isthmus.cli.values import record, records, text
from isthmus.errors import NotFound


def lines_of(ports: object, only: str = "") -> list[str]:
    """Give a line for each place on the host in `NetworkSettings.Ports`, as `docker port` has it; of one port *only*.

    Where the port is reached at the sandbox's own address, the host's has no meaning. If not all may call, it says who.
    """
    found = []
    for port, places in sorted(record(ports).items(), key=lambda item: (int(item[0].partition("/")[0]), item[0])):
        for place in records(places):
            address, number = text(place.get("HostIp")), text(place.get("HostPort"))
            where = (f"[{address}]:{number}" if ":" in address else f"{address}:{number}") if number else "routed"
            if callers := text(place.get("Callers")):
                where += f" ({callers})"
            if not only:
                found.append(f"{port} -> {where}")
            elif only == port:
                found.append(where)
    return found


def _port(arguments: Arguments) -> int:
    name, *rest = arguments.words
    only = rest[0].lower() if rest else ""
    if only and "/" not in only:
        only += "/tcp"
    lines = lines_of(arguments.client().get(f"/sandboxes/{quote(name)}/ports"), only)
    if only and not lines:
        raise NotFound(f"no public port '{only}' published for {name}")
    print("\n".join(lines), end="\n" if lines else "")
    return 0


def _publish(arguments: Arguments) -> int:
    return _change(arguments, "")


def _unpublish(arguments: Arguments) -> int:
    return _change(arguments, "/remove")


def _change(arguments: Arguments, how: str) -> int:
    name, *words = arguments.words
    if how and any(" " in word.strip() for word in words):
        raise arguments.wrong("a port is unpublished for all: name it without who may use it")
    try:
        bindings = parse_ports(words, []).bindings
    except ValueError as error:
        raise arguments.wrong(str(error)) from None
    path = f"/sandboxes/{quote(name)}/ports{how}"
    answer = arguments.client().post(path, {"PortBindings": bindings}, dry_run_query(arguments))
    return print_done(answer, "\n".join(lines_of(answer)))


PORT = Command(
    "isthmus port",
    "SANDBOX [PORT[/PROTOCOL]]",
    "Show which ports of the host lead to a sandbox",
    _port,
    least=1,
    most=2,
)
PUBLISH = Command(
    "isthmus publish",
    "[OPTIONS] SANDBOX [[ADDRESS:]PORT:]PORT[/PROTOCOL][ CALLERS]...",
    "Publish more ports of a sandbox, or say who may use them",
    _publish,
    (DRY_RUN,),
    2,
    None,
)
UNPUBLISH = Command(
    "isthmus unpublish",
    "[OPTIONS] SANDBOX [[ADDRESS:]PORT:]PORT[/PROTOCOL]...",
    "Publish ports of a sandbox no more",
    _unpublish,
    (DRY_RUN,),
    2,
    None,
)
