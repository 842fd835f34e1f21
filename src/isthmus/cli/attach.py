"""How a new sandbox stands on its networks: `--network`, short and long, and the flags that go with the first one.

Rules and sentences are those of `docker run`. One difference: Docker's client turns the values of the long form to
lower case, so that it cannot name a network `Front`; here they stay as they were written.
"""

import re
import socket

from isthmus.cli.flags import Arguments, egress_of, split_csv

_LONG = re.compile(r"\w+=\w+(,\w+=\w+)*")
_MAC = re.compile(r"[0-9a-f]{2}([:-][0-9a-f]{2}){5}|[0-9a-f]{4}(\.[0-9a-f]{4}){2}", re.IGNORECASE)
_DOMAIN = re.compile(
    r"(?=.{1,255}$)(?=.*[a-z])[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\.?", re.IGNORECASE
)
_LISTS = frozenset({"alias", "link-local-ip", "driver-opt"})
_SINGLE = frozenset({"name", "ip", "ip6", "mac-address", "gw-priority", "rate"})

Wish = dict[str, list[str]]
"""What is asked for on one network, by the keys of the long form."""


def check_network(value: str) -> str:
    """Take one value of `--network`; ValueError if it cannot be read."""
    read_network(value)
    return value


def read_network(value: str) -> Wish:
    """Read one value of `--network`: a network's name, or `name=NAME,ip=ADDRESS,...`."""
    if not _LONG.search(value):
        return {"name": [value]}
    wish: Wish = {}
    for field in split_csv(value):
        key, equals, rest = field.partition("=")
        key, rest = key.strip().lower(), rest.strip()
        if not (equals and key):
            raise ValueError(f"invalid field {field}")
        if key not in _LISTS | _SINGLE:
            raise ValueError(f"invalid field key {key}")
        if key == "driver-opt" and not ("=" in rest and rest.partition("=")[0]):
            raise ValueError("invalid key value pair format in driver options")
        if key == "gw-priority" and not rest.removeprefix("-").isdecimal():
            raise ValueError(f"invalid gw-priority ({rest}): invalid syntax")
        wish[key] = [*wish.get(key, ()), rest] if key in _LISTS else [rest]
    if not wish.get("name", [""])[0]:
        raise ValueError("network name/id is not specified")
    return wish


def user_defined(network: str) -> bool:
    """Whether *network* is none of the names with a meaning of their own."""
    return network not in {"default", "bridge", "host", "none"} and not network.startswith("container:")


def endpoints_of(arguments: Arguments) -> tuple[str, dict[str, dict[str, object]]]:
    """Give the network mode, and the endpoints by network, that the flags of *arguments* ask for."""
    wishes = [read_network(value) for value in arguments.texts("network")]
    modes = [wish["name"][0].strip() for wish in wishes] or ["default"]
    if not all(modes):
        raise arguments.wrong("no name set for network")
    if len({user_defined(mode) for mode in modes}) > 1:
        raise arguments.wrong("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    twice = next((mode for at, mode in enumerate(modes) if mode in modes[:at]), None)
    if twice is not None:
        raise arguments.wrong(f'network "{twice}" is specified multiple times')
    wishes = wishes or [{}]
    wishes[0] = _with_flags(arguments, wishes[0], modes[0])
    # Who may not be called by one way may not be by another.
    for key, value in egress_of(arguments).items():
        wishes = [{**wish, "driver-opt": [f"{key}={value}", *wish.get("driver-opt", ())]} for wish in wishes]
    endpoints = {mode: _endpoint(arguments, wish, mode) for mode, wish in zip(modes, wishes, strict=True)}
    # The daemon makes the one endpoint by itself where there is nothing to say about it (in host mode there is none).
    if arguments.given("network") and endpoints == {modes[0]: _endpoint(arguments, {}, modes[0])}:
        endpoints = {}
    return modes[0], endpoints


_FLAGS = (
    ("network-alias", "alias", "per-network alias"),
    ("link", "link", "per-network links"),
    ("ip", "ip", "per-network IPv4 address"),
    ("ip6", "ip6", "per-network IPv6 address"),
    ("link-local-ip", "link-local-ip", "per-network link-local IP addresses"),
    ("mac-address", "mac-address", "per-network MAC address"),
    ("rate", "rate", "per-network rate"),
)


def _with_flags(arguments: Arguments, wish: Wish, mode: str) -> Wish:
    """Add to the *wish* for the first network what flags of their own ask for."""
    merged = dict(wish)
    for flag, key, what in _FLAGS:
        values = arguments.texts(flag)
        if values and wish.get(key):
            raise arguments.wrong(f"conflicting options: cannot specify both --{flag} and {what}")
        # Elsewhere links are an older thing, that stands in the host configuration alone.
        if values and (key != "link" or user_defined(mode)):
            merged[key] = values
    return merged


def _endpoint(arguments: Arguments, wish: Wish, mode: str) -> dict[str, object]:
    """Give the EndpointSettings of the API."""
    aliases, links = wish.get("alias"), wish.get("link")
    if aliases and not user_defined(mode):
        raise arguments.wrong("network-scoped aliases are only supported for user-defined networks")
    mac = _last(wish, "mac-address")
    if mac and not _MAC.fullmatch(mac):
        raise arguments.wrong(f"{mac} is not a valid mac address")
    addresses: dict[str, object] = {"IPv4Address": _last(wish, "ip"), "IPv6Address": _last(wish, "ip6")}
    addresses["LinkLocalIPs"] = wish.get("link-local-ip", [])
    options = dict(option.partition("=")[::2] for option in wish.get("driver-opt", ()))
    if rate := _last(wish, "rate"):
        options["isthmus.rate"] = rate
    return {
        "IPAMConfig": {key: value for key, value in addresses.items() if value} or None,
        "Links": links,
        "Aliases": aliases,
        "MacAddress": mac,
        "DriverOpts": options or None,
        "GwPriority": int(_last(wish, "gw-priority") or 0),
    }


def _last(wish: Wish, key: str) -> str:
    return (wish.get(key) or [""])[-1]


# What the flags about names accept.


def check_address(value: str) -> str:
    """Take an IP address and give it in its usual form."""
    family = socket.AF_INET6 if ":" in value else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, value.strip()))
    except (OSError, ValueError):
        raise ValueError(f"IP address is not correctly formatted: {value}") from None


def check_search(value: str) -> str:
    """Take a domain for the search list; `.` stands for none."""
    domain = value.strip(" ")
    if domain != "." and not _DOMAIN.fullmatch(domain):
        raise ValueError(f"{value} is not a valid domain")
    return domain


def check_extra_host(value: str) -> str:
    """Take `name:address` or `name=address` (or `host-gateway` for the address), and give the former."""
    name, separator, address = value.partition("=")
    if not separator:
        name, separator, address = value.partition(":")
    if not (separator and name):
        raise ValueError(f'bad format for add-host: "{value}"')
    if address == "host-gateway":
        return f"{name}:{address}"
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        return f"{name}:{check_address(bare)}"
    except ValueError:
        raise ValueError(f'invalid IP address in add-host: "{address}"') from None


def check_sysctl(value: str) -> str:
    """Take `net.a.b=value`; no other sysctl belongs to a network namespace."""
    name, equals, _ = value.partition("=")
    if not equals or not name.startswith("net."):
        raise ValueError(f"sysctl '{value}' is not allowed")
    return value
