"""`isthmus network`: networks, and who stands on them. Flags, sentences and tables are those of `docker network`."""

from collections.abc import Sequence

from isthmus.cli.client import quote
from isthmus.cli.flags import (
    DRY_RUN,
    EGRESS,
    INSPECT_FORMAT,
    LS_FORMAT,
    NO_TRUNC,
    QUIET,
    RATE,
    Arguments,
    Command,
    Flag,
    Kind,
    check_filter,
    check_label,
    check_link,
    dry_run_query,
    egress_of,
    filter_query,
    mapping,
    options_of,
)
from isthmus.cli.output import (
    Fields,
    Row,
    each,
    print_created,
    print_done,
    print_inspected,
    print_rows,
    prune,
)
from isthmus.cli.values import Record, label_of, natural, pairs, record, records, text

_FIELDS = Fields(
    headings={
        "ID": "NETWORK ID",
        "Name": "NAME",
        "Driver": "DRIVER",
        "Scope": "SCOPE",
        "IPv4": "IPV4",
        "IPv6": "IPV6",
        "Internal": "INTERNAL",
        "Labels": "LABELS",
        "CreatedAt": "CREATED AT",
    },
    shown=("ID", "Name", "Driver", "Scope"),
)


def _create(arguments: Arguments) -> int:
    config_from = arguments.text("config-from")
    body: dict[str, object] = {
        "Name": arguments.words[0],
        "Driver": arguments.text("driver", "bridge"),
        "Scope": arguments.text("scope"),
        "IPAM": {
            "Driver": arguments.text("ipam-driver", "default"),
            "Options": mapping(arguments.texts("ipam-opt")),
            "Config": _ipam(arguments),
        },
        "Internal": arguments.on("internal"),
        "Attachable": arguments.on("attachable"),
        "Ingress": arguments.on("ingress"),
        "ConfigOnly": arguments.on("config-only"),
        "ConfigFrom": {"Network": config_from} if config_from else None,
        "Options": _options(arguments),
        "Labels": mapping(arguments.texts("label")),
    }
    # Left out when not given, so that the daemon's defaults for the driver can decide.
    body |= {
        f"EnableIP{version}": arguments.on(f"ip{version}")
        for version in ("v4", "v6")
        if arguments.given(f"ip{version}")
    }
    return print_created(arguments.client().post("/networks/create", body, dry_run_query(arguments)))


def _options(arguments: Arguments) -> dict[str, str]:
    """Give the driver's options, those among them that have flags of their own."""
    options = mapping(arguments.texts("opt"))
    callers = {word: arguments.texts(f"publish-{word}") for word in ("from", "on")}
    if all(callers.values()):
        raise arguments.wrong("--publish-from and --publish-on exclude each other")
    for word, values in callers.items():
        if values:
            options["isthmus.publish"] = f"{word} {','.join(values)}"
    options |= egress_of(arguments)
    for text_ in arguments.texts("record"):
        name, _, address = text_.partition("=")
        key = f"isthmus.record.{name.lower()}"
        options[key] = f"{options[key]},{address}" if key in options else address
    return options


def _ipam(arguments: Arguments) -> list[dict[str, object]]:
    """Give each subnet with the range, gateway and auxiliary addresses that lie in it."""
    subnets, ranges, gateways = map(arguments.texts, ("subnet", "ip-range", "gateway"))
    auxiliary = mapping(arguments.texts("aux-address"))
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise arguments.wrong("every ip-range or gateway must have a corresponding subnet")
    configs: dict[str, dict[str, object]] = {}
    for subnet in subnets:
        if any(_contains(arguments, subnet, other) or _contains(arguments, other, subnet) for other in configs):
            raise arguments.wrong("multiple overlapping subnet configuration is not supported")
        configs[subnet] = {"Subnet": subnet}
    for value in ranges:
        subnet = _subnet_of(arguments, subnets, value, "range")
        if "IPRange" in configs[subnet]:
            both = f"{value}, {configs[subnet]['IPRange']}"
            raise arguments.wrong(f"cannot configure multiple ranges ({both}) on the same subnet ({subnet})")
        configs[subnet]["IPRange"] = value
    for value in gateways:
        subnet = _subnet_of(arguments, subnets, value, "gateway")
        if "Gateway" in configs[subnet]:
            both = f"{value}, {configs[subnet]['Gateway']}"
            raise arguments.wrong(f"cannot configure multiple gateways ({both}) for the same subnet ({subnet})")
        configs[subnet]["Gateway"] = value
    for name, value in auxiliary.items():
        subnet = _subnet_of(arguments, subnets, value, "aux-address")
        reserved = record(configs[subnet].setdefault("AuxiliaryAddresses", {}))
        reserved[name] = value
    return list(configs.values())


def _subnet_of(arguments: Arguments, subnets: Sequence[str], value: str, what: str) -> str:
    found = next((subnet for subnet in subnets if _contains(arguments, subnet, value, cidr=what == "range")), None)
    if found is None:
        raise arguments.wrong(f"no matching subnet for {what} {value}")
    return found


def _contains(arguments: Arguments, subnet: str, value: str, *, cidr: bool = False) -> bool:
    """Whether the address *value*, or the first one of the subnet *value*, lies in *subnet*; *cidr* wants a subnet."""
    from ipaddress import ip_address, ip_network

    for given in (subnet, *([value] if cidr or "/" in value else [])):
        if not given.partition("/")[2].isdecimal():
            raise arguments.wrong(f"invalid CIDR address: {given}")
    try:
        network = ip_network(subnet, strict=False)
        if "/" in value:
            ip_network(value, strict=False)
    except ValueError:
        raise arguments.wrong(f"invalid CIDR address: {value if '/' in value else subnet}") from None
    try:
        return ip_address(value.partition("/")[0]) in network
    except ValueError:
        return False


def _row(network: Record, *, whole: bool) -> Row:
    labels = record(network.get("Labels"))
    identity = text(network.get("Id"))
    return {
        "ID": identity if whole else identity[:12],
        "Name": text(network.get("Name")),
        "Driver": text(network.get("Driver")),
        "Scope": text(network.get("Scope")),
        "IPv4": _word(network.get("EnableIPv4")),
        "IPv6": _word(network.get("EnableIPv6")),
        "Internal": _word(network.get("Internal")),
        "Labels": pairs(labels),
        "CreatedAt": _created(text(network.get("Created"))),
        "Label": label_of(labels),
    }


def _word(value: object) -> str:
    return "true" if value else "false"


def _created(moment: str) -> str:
    """Write an RFC 3339 time as Go prints times: 2025-01-02 03:04:05.5 +0000 UTC."""
    date, _, rest = moment.partition("T")
    if rest.endswith("Z"):
        return f"{date} {rest[:-1]} +0000 UTC"
    offset = rest[-6:].replace(":", "")
    return f"{date} {rest[:-6]} {offset} {offset}"


def _ls(arguments: Arguments) -> int:
    networks = records(arguments.client().get("/networks", filter_query(arguments)))
    networks.sort(key=lambda network: natural(text(network.get("Name"))))
    return print_rows(arguments, _FIELDS, [_row(network, whole=arguments.on("no-trunc")) for network in networks])


def _inspect(arguments: Arguments) -> int:
    client = arguments.client()
    query = {"verbose": "true"} if arguments.on("verbose") else {}
    return print_inspected(arguments, lambda name: client.get(f"/networks/{quote(name)}", query), _for_template)


class _Moment(str):
    """An RFC 3339 time that a template shows as Go does; as JSON it stays what it is."""

    __slots__ = ()

    def __str__(self) -> str:
        return _created(self)


class _Config(Record):
    """A subnet's configuration: what the API leaves out of it is empty in a template, not unknown."""

    def __missing__(self, key: str) -> str:
        return ""


def _for_template(network: object) -> object:
    """Give *network* as templates see it in Docker's client."""
    shown = record(network)
    ipam = record(shown.get("IPAM"))
    configs: Record = {"Config": [_Config(item) for item in records(ipam.get("Config"))]} if ipam.get("Config") else {}
    return {**shown, "Created": _Moment(text(shown.get("Created"))), "IPAM": {**ipam, **configs}}


def _rm(arguments: Arguments) -> int:
    client, query = arguments.client(), dry_run_query(arguments)

    def remove(name: str) -> object:
        return client.delete(f"/networks/{quote(name)}", query)

    return each(arguments.words, remove, frozenset({404}) if arguments.on("force") else frozenset())


def _prune(arguments: Arguments) -> int:
    def act() -> object:
        return arguments.client().post("/networks/prune", None, filter_query(arguments) | dry_run_query(arguments))

    what = "all custom networks not used by at least one container"
    return prune(arguments, what, "Deleted Networks", act, "NetworksDeleted")


def _connect(arguments: Arguments) -> int:
    network, sandbox = arguments.words
    addresses = {"IPv4Address": arguments.text("ip"), "IPv6Address": arguments.text("ip6")}
    local = arguments.texts("link-local-ip")
    endpoint = {
        "IPAMConfig": {key: value for key, value in addresses.items() if value}
        | ({"LinkLocalIPs": local} if local else {}),
        "Links": arguments.texts("link") or None,
        "Aliases": arguments.texts("alias"),
        "MacAddress": arguments.text("mac-address"),
        "DriverOpts": dict(options_of(arguments))
        | egress_of(arguments)
        | ({"isthmus.rate": rate} if (rate := arguments.text("rate")) else {}),
        "GwPriority": arguments.number("gw-priority"),
    }
    body = {"Container": sandbox, "EndpointConfig": endpoint}
    return print_done(arguments.client().post(f"/networks/{quote(network)}/connect", body, dry_run_query(arguments)))


def _egress(arguments: Arguments) -> int:
    network, sandbox, rules = arguments.words
    body = {"Container": sandbox, "Rules": rules}
    return print_done(arguments.client().post(f"/networks/{quote(network)}/egress", body, dry_run_query(arguments)))


def _rate(arguments: Arguments) -> int:
    network, sandbox, rate = arguments.words
    body = {"Container": sandbox, "Rate": rate}
    return print_done(arguments.client().post(f"/networks/{quote(network)}/rate", body, dry_run_query(arguments)))


def _update(arguments: Arguments) -> int:
    options = _options(arguments)
    if mtu := arguments.text("mtu"):
        options["com.docker.network.driver.mtu"] = mtu
    body = {
        "Labels": mapping(arguments.texts("label")),
        "Options": options,
        "Subnets": _new_subnets(arguments),
        "IPRanges": arguments.texts("ip-range"),
        "AuxiliaryAddresses": mapping(arguments.texts("aux-address")),
        "RemoveLabels": arguments.texts("label-rm"),
        "RemoveOptions": [
            *arguments.texts("opt-rm"),
            *(f"isthmus.record.{name.lower()}" for name in arguments.texts("record-rm")),
        ],
        "RemoveAuxiliaryAddresses": arguments.texts("aux-address-rm"),
    }
    name = quote(arguments.words[0])
    return print_done(arguments.client().post(f"/networks/{name}/update", body, dry_run_query(arguments)))


def _new_subnets(arguments: Arguments) -> list[dict[str, object]]:
    """Give each further subnet with its gateway."""
    subnets = arguments.texts("subnet")
    configs: dict[str, dict[str, object]] = {subnet: {"Subnet": subnet} for subnet in subnets}
    for gateway in arguments.texts("gateway"):
        configs[_subnet_of(arguments, subnets, gateway, "gateway")]["Gateway"] = gateway
    return list(configs.values())


def _disconnect(arguments: Arguments) -> int:
    network, sandbox = arguments.words
    body = {"Container": sandbox, "Force": arguments.on("force")}
    return print_done(arguments.client().post(f"/networks/{quote(network)}/disconnect", body, dry_run_query(arguments)))


_OWN = (
    EGRESS,
    Flag("publish-from", "Whose addresses may use published ports (default all)", Kind.CSV, value="cidr"),
    Flag("publish-on", "By which of the host's interfaces who uses published ports comes", Kind.CSV, value="interface"),
    Flag("record", "Name with an address of your own; one name may have several", Kind.LIST, value="name=address"),
)

_FINDINGS = Fields(
    headings={"Subject": "SUBJECT", "Verdict": "VERDICT", "Text": "TEXT"}, shown=("Subject", "Verdict", "Text")
)


def _check(arguments: Arguments) -> int:
    """Show what a look at a network told; the exit status is 1 if anything is not as it should be."""
    found = records(record(arguments.client().get(f"/networks/{quote(arguments.words[0])}/check")).get("Findings"))
    rows: list[Row] = [
        {
            "Subject": text(one.get("Subject")),
            "Verdict": "ok" if one.get("Ok") else "trouble",
            "Text": text(one.get("Text")),
        }
        for one in found
    ]
    print_rows(arguments, _FINDINGS, rows)
    return 0 if all(one.get("Ok") for one in found) else 1


_FILTER = Flag(
    "filter", "Only what fits, e.g. driver=bridge, name=front, label=tier", Kind.LIST, "f", "key=value", check_filter
)
_PRUNE_FILTER = Flag(
    "filter", "Only what fits: until=24h, label=tier, label!=keep", Kind.LIST, "", "key=value", check_filter
)

COMMANDS = (
    Command(
        "isthmus network create",
        "[OPTIONS] NETWORK",
        "Create a network",
        _create,
        (
            Flag("attachable", "Let standalone sandboxes attach (for overlay networks)", Kind.SWITCH),
            Flag("aux-address", "Addresses never given out, each with a name", Kind.LIST, value="name=address"),
            Flag("config-from", "Network whose configuration to take", value="network"),
            Flag("config-only", "Only a configuration, for others to take", Kind.SWITCH),
            Flag("driver", "What makes the network", short="d", default="bridge"),
            Flag("gateway", "Gateway of a subnet", Kind.CSV, value="address"),
            Flag("ingress", "The routing mesh of a swarm", Kind.SWITCH),
            Flag("internal", "No way out, and none in", Kind.SWITCH),
            Flag("ip-range", "Part of a subnet that addresses are given out from", Kind.CSV, value="cidr"),
            Flag("ipam-driver", "What gives out addresses", default="default"),
            Flag("ipam-opt", "Option of the IPAM driver", Kind.LIST, value="key=value"),
            Flag("ipv4", "IPv4 addresses (on unless =false)", Kind.SWITCH),
            Flag("ipv6", "IPv6 addresses", Kind.SWITCH),
            Flag("label", "Label, with or without a value", Kind.LIST, value="key=value", check=check_label),
            Flag("opt", "Option of the driver", Kind.LIST, "o", "key=value"),
            *_OWN,
            Flag("scope", "local, global or swarm"),
            Flag("subnet", "Subnet; 0.0.0.0/24 is any one of this size", Kind.CSV, value="cidr"),
            DRY_RUN,
        ),
        1,
        1,
    ),
    Command(
        "isthmus network ls",
        "[OPTIONS]",
        "List networks",
        _ls,
        (_FILTER, LS_FORMAT, NO_TRUNC, QUIET),
        aliases=("list",),
    ),
    Command(
        "isthmus network inspect",
        "[OPTIONS] NETWORK [NETWORK...]",
        "Show all there is to know about networks",
        _inspect,
        (INSPECT_FORMAT, Flag("verbose", "Diagnostic details, too", Kind.SWITCH, "v")),
        1,
        None,
    ),
    Command(
        "isthmus network check",
        "[OPTIONS] NETWORK",
        "Look whether a network is as it should be, on its wire, too",
        _check,
        (LS_FORMAT,),
        1,
        1,
    ),
    Command(
        "isthmus network update",
        "[OPTIONS] NETWORK",
        "Change a network, and nobody is disconnected",
        _update,
        (
            Flag("aux-address", "Addresses never given out, each with a name", Kind.LIST, value="name=address"),
            Flag("aux-address-rm", "Name of an address that may be given out again", Kind.LIST, value="name"),
            Flag("gateway", "Gateway of a further subnet", Kind.CSV, value="address"),
            Flag("ip-range", "Part of its subnet that addresses are given out from", Kind.CSV, value="cidr"),
            Flag("label", "Label, with or without a value", Kind.LIST, value="key=value", check=check_label),
            Flag("label-rm", "Label that shall go", Kind.LIST, value="key"),
            Flag("mtu", "MTU of its interfaces", value="bytes"),
            Flag("opt", "Option of the driver", Kind.LIST, "o", "key=value"),
            Flag("opt-rm", "Option of the driver that shall go", Kind.LIST, value="key"),
            *_OWN,
            Flag("record-rm", "Name that shall have no address of your own any more", Kind.LIST, value="name"),
            Flag("subnet", "Further subnet, where a network may have several", Kind.CSV, value="cidr"),
            DRY_RUN,
        ),
        1,
        1,
    ),
    Command(
        "isthmus network rm",
        "[OPTIONS] NETWORK [NETWORK...]",
        "Remove networks",
        _rm,
        (Flag("force", "No error for a network that is not there", Kind.SWITCH, "f"), DRY_RUN),
        1,
        None,
        ("remove",),
    ),
    Command(
        "isthmus network prune",
        "[OPTIONS]",
        "Remove all networks that nobody uses",
        _prune,
        (_PRUNE_FILTER, Flag("force", "Do not ask", Kind.SWITCH, "f"), DRY_RUN),
    ),
    Command(
        "isthmus network connect",
        "[OPTIONS] NETWORK SANDBOX",
        "Connect a sandbox or container to a network",
        _connect,
        (
            Flag("alias", "Further name on this network", Kind.CSV, value="name"),
            Flag("driver-opt", "Option of the driver for this endpoint", Kind.CSV, value="key=value"),
            EGRESS,
            Flag("gw-priority", "The highest one has the default gateway", Kind.NUMBER),
            Flag("ip", "IPv4 address", value="address"),
            Flag("ip6", "IPv6 address", value="address"),
            Flag("link", "Another sandbox, under a name for it", Kind.LIST, value="sandbox[:alias]", check=check_link),
            Flag("link-local-ip", "Link-local address", Kind.CSV, value="address"),
            Flag("mac-address", "MAC address", value="address"),
            RATE,
            DRY_RUN,
        ),
        2,
        2,
    ),
    Command(
        "isthmus network egress",
        "[OPTIONS] NETWORK SANDBOX RULES",
        "Say whom a sandbox on a network may call, such as 'deny, allow 10.0.0.0/8:443'; off: all",
        _egress,
        (DRY_RUN,),
        3,
        3,
    ),
    Command(
        "isthmus network rate",
        "[OPTIONS] NETWORK SANDBOX RATE",
        "Limit the rate of a sandbox on a network, such as 50mbit or 50mbit/10mbit; off: no more",
        _rate,
        (DRY_RUN,),
        3,
        3,
    ),
    Command(
        "isthmus network disconnect",
        "[OPTIONS] NETWORK SANDBOX",
        "Disconnect a sandbox or container from a network",
        _disconnect,
        (Flag("force", "Even one that is not there any more", Kind.SWITCH, "f"), DRY_RUN),
        2,
        2,
    ),
)
