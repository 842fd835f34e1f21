"""`isthmus link`: interfaces that a user puts into a sandbox by hand."""

from isthmus.cli.client import quote
from isthmus.cli.flags import DRY_RUN, LS_FORMAT, Arguments, Command, Flag, Kind, dry_run_query
from isthmus.cli.output import Fields, each, print_done, print_rows
from isthmus.cli.values import record, records, text, texts

_FIELDS = Fields(
    headings={"Name": "NAME", "Type": "TYPE", "PeerName": "PEER", "Addresses": "ADDRESSES"},
    shown=("Name", "Type", "PeerName", "Addresses"),
)


def _add(arguments: Arguments) -> int:
    if not arguments.text("type"):
        raise arguments.wrong("no --type: veth or macvlan")
    body = {
        "Type": arguments.text("type"),
        "Name": arguments.text("name"),
        "Addresses": arguments.texts("ip"),
        "Routes": [_route(arguments, value) for value in arguments.texts("route")],
        "Peer": {
            "Name": arguments.text("peer"),
            "Addresses": arguments.texts("peer-ip"),
            "Master": arguments.text("master"),
        },
        "Parent": arguments.text("parent"),
        "Mode": arguments.text("mode"),
        "MacAddress": arguments.text("mac"),
        "Mtu": arguments.number("mtu"),
    }
    path = f"/sandboxes/{quote(arguments.words[0])}/links"
    answer = arguments.client().post(path, body, dry_run_query(arguments))
    return print_done(answer, text(record(answer).get("Name")))


def _route(arguments: Arguments, value: str) -> dict[str, str]:
    """Read `DESTINATION,GATEWAY`; `default` is every address of the gateway's family."""
    destination, comma, gateway = value.partition(",")
    if not (destination and comma and gateway):
        raise arguments.wrong(f"invalid route {value}: it must be DESTINATION,GATEWAY, e.g. default,10.9.0.1")
    if destination == "default":
        destination = "::/0" if ":" in gateway else "0.0.0.0/0"
    return {"Destination": destination, "Gateway": gateway}


def _ls(arguments: Arguments) -> int:
    links = records(arguments.client().get(f"/sandboxes/{quote(arguments.words[0])}/links"))
    rows = [
        {name: text(link.get(name)) for name in ("Name", "Type", "PeerName")}
        | {"Addresses": ", ".join(texts(link.get("Addresses")))}
        for link in links
    ]
    return print_rows(arguments, _FIELDS, rows)


def _rm(arguments: Arguments) -> int:
    client, query = arguments.client(), dry_run_query(arguments)
    sandbox, *names = arguments.words
    return each(names, lambda name: client.delete(f"/sandboxes/{quote(sandbox)}/links/{quote(name)}", query))


COMMANDS = (
    Command(
        "isthmus link add",
        "[OPTIONS] SANDBOX",
        "Put an interface into a sandbox",
        _add,
        (
            Flag("type", "Kind of link: veth or macvlan"),
            Flag("name", "Name in the sandbox (else one is chosen)"),
            Flag("ip", "Address with its prefix length", Kind.LIST, value="cidr"),
            Flag("route", "Route; the destination may be default", Kind.LIST, value="destination,gateway"),
            Flag("peer", "Name of a veth's other end, on the host"),
            Flag("peer-ip", "Address of the other end", Kind.LIST, value="cidr"),
            Flag("master", "Bridge that the other end is put on", value="bridge"),
            Flag("parent", "The host's interface that a macvlan stands on", value="interface"),
            Flag("mode", "Mode of a macvlan: bridge (default), private, vepa"),
            Flag("mac", "MAC address in the sandbox", value="address"),
            Flag("mtu", "Largest packet, in bytes", Kind.NUMBER),
            DRY_RUN,
        ),
        1,
        1,
    ),
    Command(
        "isthmus link ls",
        "[OPTIONS] SANDBOX",
        "List the interfaces put into a sandbox by hand",
        _ls,
        (LS_FORMAT,),
        1,
        1,
        ("list",),
    ),
    Command(
        "isthmus link rm",
        "[OPTIONS] SANDBOX NAME [NAME...]",
        "Take such interfaces out of a sandbox",
        _rm,
        (DRY_RUN,),
        2,
        None,
        ("remove",),
    ),
)
