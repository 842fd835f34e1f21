"""`isthmus sandbox`: network namespaces that the daemon holds, without a process. Flags are those of `docker run`."""

from isthmus.cli.client import quote
from isthmus.cli.flags import (
    DRY_RUN,
    INSPECT_FORMAT,
    LS_FORMAT,
    NO_TRUNC,
    QUIET,
    Arguments,
    Command,
    Flag,
    Kind,
    check_filter,
    check_label,
    dry_run_query,
    filter_query,
    mapping,
)
from isthmus.cli.output import Fields, Row, each, print_created, print_inspected, print_rows, prune
from isthmus.cli.port import lines_of
from isthmus.cli.ports import parse_ports
from isthmus.cli.run import NETWORK_FLAGS
from isthmus.cli.values import Record, label_of, natural, pairs, record, records, text

_FIELDS = Fields(
    headings={
        "ID": "SANDBOX ID",
        "Name": "NAME",
        "Names": "NAMES",
        "Networks": "NETWORKS",
        "Addresses": "ADDRESSES",
        "NetworkMode": "MODE",
        "Hostname": "HOSTNAME",
        "NetnsPath": "NAMESPACE",
        "Labels": "LABELS",
        "Ports": "PORTS",
        "CreatedAt": "CREATED AT",
    },
    shown=("ID", "Name", "NetworkMode", "Networks", "Addresses"),
)


def _check_sysctl(value: str) -> str:
    from isthmus.cli import attach

    return attach.check_sysctl(value)


def _create(arguments: Arguments) -> int:
    from isthmus.cli.attach import endpoints_of

    try:
        ports = parse_ports(arguments.texts("publish"), arguments.texts("expose"))
    except ValueError as error:
        raise arguments.wrong(str(error)) from None
    mode, endpoints = endpoints_of(arguments)
    body = {
        "Hostname": arguments.text("hostname"),
        "Domainname": arguments.text("domainname"),
        "Labels": mapping(arguments.texts("label")),
        "ExposedPorts": ports.exposed,
        "HostConfig": {
            "NetworkMode": mode,
            "PortBindings": ports.bindings,
            "PublishAllPorts": arguments.on("publish-all"),
            "Dns": arguments.texts("dns"),
            "DnsOptions": arguments.texts("dns-option"),
            "DnsSearch": arguments.texts("dns-search"),
            "ExtraHosts": arguments.texts("add-host") or None,
            "Links": arguments.texts("link") or None,
            "Sysctls": mapping(arguments.texts("sysctl")),
        },
        "NetworkingConfig": {"EndpointsConfig": endpoints},
    }
    query = {"name": arguments.words[0]} | dry_run_query(arguments)
    return print_created(arguments.client().post("/sandboxes/create", body, query))


def _row(sandbox: Record, *, whole: bool) -> Row:
    labels, networks = record(sandbox.get("Labels")), record(sandbox.get("Networks"))
    identity, name, mode = (text(sandbox.get(key)) for key in ("Id", "Name", "NetworkMode"))
    return {
        "ID": identity if whole else identity[:12],
        "Name": name,
        "Names": name,
        "Networks": ",".join(sorted(networks)),
        "Addresses": ", ".join(
            address for network in sorted(networks) for address in _addresses(record(networks[network]))
        ),
        "NetworkMode": mode,
        "Hostname": text(sandbox.get("Hostname")),
        "NetnsPath": text(sandbox.get("NetnsPath")),
        "Labels": pairs(labels),
        "Ports": ", ".join(lines_of(sandbox.get("Ports"))),
        "CreatedAt": text(sandbox.get("Created")),
        "Label": label_of(labels),
    }


def _addresses(endpoint: Record) -> list[str]:
    fields = (("IPAddress", "IPPrefixLen"), ("GlobalIPv6Address", "GlobalIPv6PrefixLen"))
    return [f"{endpoint[address]}/{text(endpoint.get(length))}" for address, length in fields if endpoint.get(address)]


def _ls(arguments: Arguments) -> int:
    sandboxes = records(arguments.client().get("/sandboxes", filter_query(arguments)))
    sandboxes.sort(key=lambda sandbox: natural(text(sandbox.get("Name"))))
    return print_rows(arguments, _FIELDS, [_row(sandbox, whole=arguments.on("no-trunc")) for sandbox in sandboxes])


def _inspect(arguments: Arguments) -> int:
    client = arguments.client()
    return print_inspected(arguments, lambda name: client.get(f"/sandboxes/{quote(name)}"))


def _rm(arguments: Arguments) -> int:
    client = arguments.client()
    query = dry_run_query(arguments) | ({"force": "1"} if arguments.on("force") else {})

    def remove(name: str) -> object:
        return client.delete(f"/sandboxes/{quote(name)}", query)

    return each(arguments.words, remove, frozenset({404}) if arguments.on("force") else frozenset())


def _prune(arguments: Arguments) -> int:
    def act() -> object:
        return arguments.client().post("/sandboxes/prune", None, filter_query(arguments) | dry_run_query(arguments))

    return prune(
        arguments, "all sandboxes that are empty and that no other shares", "Deleted Sandboxes", act, "SandboxesDeleted"
    )


def _exec(arguments: Arguments) -> int:
    from isthmus.cli.execute import execute

    name, *command = arguments.words
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise arguments.wrong("no command: isthmus sandbox exec NAME -- COMMAND")
    client = arguments.client()
    sandbox = record(client.get(f"/sandboxes/{quote(name)}"))
    files = record(client.post(f"/sandboxes/{quote(name)}/files"))
    over = {
        f"/etc/{file}": text(files.get(key))
        for key, file in (("ResolvConfPath", "resolv.conf"), ("HostsPath", "hosts"), ("HostnamePath", "hostname"))
    }
    return execute(text(sandbox.get("Name")), text(sandbox.get("NetnsPath")), command, over)


_FILTER = Flag("filter", "Only what fits, e.g. name=web, network=front", Kind.LIST, "f", "key=value", check_filter)
_PRUNE_FILTER = Flag(
    "filter", "Only what fits: until=24h, label=tier, label!=keep", Kind.LIST, "", "key=value", check_filter
)

COMMANDS = (
    Command(
        "isthmus sandbox create",
        "[OPTIONS] NAME",
        "Create a sandbox: a network namespace, with its place on networks",
        _create,
        (
            *NETWORK_FLAGS,
            Flag("label", "Label, with or without a value", Kind.LIST, "l", "key=value", check_label),
            Flag("sysctl", "Sysctl of the namespace, net.*", Kind.LIST, value="key=value", check=_check_sysctl),
            DRY_RUN,
        ),
        1,
        1,
    ),
    Command(
        "isthmus sandbox ls",
        "[OPTIONS]",
        "List sandboxes",
        _ls,
        (_FILTER, LS_FORMAT, NO_TRUNC, QUIET),
        aliases=("list", "ps"),
    ),
    Command(
        "isthmus sandbox inspect",
        "[OPTIONS] SANDBOX [SANDBOX...]",
        "Show all there is to know about sandboxes",
        _inspect,
        (INSPECT_FORMAT,),
        1,
        None,
    ),
    Command(
        "isthmus sandbox rm",
        "[OPTIONS] SANDBOX [SANDBOX...]",
        "Remove sandboxes",
        _rm,
        (Flag("force", "Even if it is in use, and no error if it is not there", Kind.SWITCH, "f"), DRY_RUN),
        1,
        None,
        ("remove",),
    ),
    Command(
        "isthmus sandbox exec",
        "SANDBOX -- COMMAND [ARGUMENT...]",
        "Run a program in a sandbox",
        _exec,
        least=1,
        most=None,
        interspersed=False,
    ),
    Command(
        "isthmus sandbox prune",
        "[OPTIONS]",
        "Remove all sandboxes that nobody uses",
        _prune,
        (_PRUNE_FILTER, Flag("force", "Do not ask", Kind.SWITCH, "f"), DRY_RUN),
    ),
)
