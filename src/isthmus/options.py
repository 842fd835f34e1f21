"""Parsing of option values: text in, typed values out, and a clear refusal for what cannot be meant.

Docker's daemon reads its options with Go's `strconv`, so what that takes for true, false or a number is taken here, and
durations are written as Go writes them.
"""

import re
from collections.abc import Mapping
from enum import Enum
from ipaddress import collapse_addresses, ip_address, ip_network
from typing import TypeVar

import msgspec

from isthmus.addresses import IPNetwork
from isthmus.errors import InvalidOption
from isthmus.model import IPAddress


class Probe(Enum):
    """How an address is looked for on the wire before it is used (RFC 5227, RFC 4862): the option `isthmus.probe`."""

    FAST = "fast"
    STRICT = "strict"
    OFF = "off"


class Callers(msgspec.Struct, frozen=True):
    """Who may use published ports: who has an address in *sources*, or comes in by one of the host's *entrances*.

    With *follow*, it is instead whom the host's own rules let through to its processes. The host itself always may.
    """

    sources: tuple[IPNetwork, ...] = ()
    entrances: tuple[str, ...] = ()
    follow: bool = False

    def __str__(self) -> str:
        if self.follow:
            return "follow"
        if self.entrances:
            return f"on {','.join(self.entrances)}"
        return f"from {','.join(map(str, self.sources))}" if self.sources else "localhost"


FOLLOW = Callers(follow=True)

PUBLISH = "isthmus.publish"
"""The option that says who may use ports: `open`, `localhost`, `follow`, `from CIDR,...`, `on INTERFACE,...`.

One port can have a policy of its own, in the same words.
"""

RECORD = "isthmus.record."
"""What the options begin with that give a name, which follows, addresses of your own, with commas between."""

MTU = "com.docker.network.driver.mtu"
PREFIX = "com.docker.network.container_iface_prefix"
"""How interfaces in sandboxes are named, without their number."""

MIN_IPV6_MTU = 1280
"""The least that a link with IPv6 must carry, in bytes (RFC 8200, section 5)."""

_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*")
_LONGEST_NAME = 253
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_E = TypeVar("_E", bound=Enum)

SPAN = re.compile(r"(?:\d{1,12}(?:\.\d{1,9})?(?:ns|us|µs|μs|ms|s|m|h))+|0")
"""A duration as Go writes it, not a negative one: `24h`, `1h30m`, `1.5s`, `0`."""

_PART = re.compile(r"([\d.]+)(\D+)")
_SECOND = 10**9
_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": _SECOND,
    "m": 60 * _SECOND,
    "h": 3600 * _SECOND,
}
_TEN_YEARS = 87_600 * 3600 * _SECOND


class Options:
    """A network's options, read one by one. What was not given, or is empty, has the default."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, key: str, default: str = "") -> str:
        """The value of *key* as it stands."""
        return self._values.get(key) or default

    def boolean(self, key: str, default: bool) -> bool:  # noqa: FBT001 - a default value, not a mode
        """The value of *key* as Go's `ParseBool` reads it."""
        value = self._values.get(key, "")
        if not value:
            return default
        if value in _TRUE or value in _FALSE:
            return value in _TRUE
        raise InvalidOption(key, value, "it must be true or false")

    def integer(self, key: str, low: int, high: int) -> int | None:
        """The value of *key*, a decimal number from *low* to *high*; None if it was not given."""
        value = self._values.get(key, "")
        if not value:
            return None
        if value.isascii() and value.isdigit() and len(value) < len(str(high)) + 1 and low <= int(value) <= high:
            return int(value)
        raise InvalidOption(key, value, f"it must be a whole number from {low} to {high}")

    def choice(self, key: str, default: _E) -> _E:
        """The member of *default*'s enumeration whose value *key* has."""
        value = self._values.get(key, "")
        if not value:
            return default
        try:
            return type(default)(value)
        except ValueError:
            raise InvalidOption(
                key, value, f"it must be one of {', '.join(one.value for one in type(default))}"
            ) from None

    def mtu(self) -> int | None:
        """The MTU that is asked for; None if none is, for which Docker takes 0, too."""
        return None if self.text(MTU) == "0" else self.integer(MTU, 68, 65535)

    def span(self, key: str, default: int) -> int:
        """The value of *key*, a duration, in nanoseconds."""
        value = self._values.get(key, "")
        return span(key, value) if value else default

    def address(self, key: str, version: int) -> IPAddress | None:
        """The value of *key*, an address of IP *version* 4 or 6; None if it was not given."""
        value = self._values.get(key, "")
        if not value:
            return None
        try:
            address = ip_address(value)
        except ValueError:
            address = None
        if address is None or address.version != version:
            raise InvalidOption(key, value, f"it must be an IPv{version} address")
        return address

    def interface(self, key: str, default: str = "") -> str:
        """The value of *key*, a name that Linux takes for an interface."""
        value = self._values.get(key) or default
        if value:
            check_interface(key, value)
        return value

    def callers(self) -> Callers | None:
        """Who may use published ports; None if all may."""
        return callers_of(PUBLISH, self.text(PUBLISH, "open"))

    def only(self, prefix: str, known: frozenset[str]) -> None:
        """Refuse keys that begin with *prefix* and are none of *known*: those are ours, so it is a slip of the pen.

        Every network may have records besides.
        """
        records_of(self._values)
        for key, value in self._values.items():
            if key.startswith(prefix) and key not in known and not key.startswith(RECORD):
                there = ", ".join(sorted({*known, f"{RECORD}NAME"}))
                raise InvalidOption(key, value, f"there is no such option; there are {there}")


def callers_of(key: str, text: str) -> Callers | None:
    """Whom *text* lets use published ports, None for all; `InvalidOption`, with *key*, if it says no such thing."""
    word, *rest = text.replace(",", " ").split() or [""]
    if word in {"open", "localhost", "follow"} and not rest:
        return {"open": None, "localhost": Callers(), "follow": FOLLOW}[word]
    if word == "on" and rest:
        for name in rest:
            check_interface(key, name)
        return Callers(entrances=tuple(dict.fromkeys(rest)))
    if word != "from" or not rest:
        hint = "it must be open, localhost, follow, from CIDR[,CIDR...] or on INTERFACE[,...]"
        raise InvalidOption(key, text, hint)
    try:
        sources = [ip_network(one) for one in rest]
    except ValueError as error:
        raise InvalidOption(key, text, f"{error}; write addresses as 192.0.2.0/24 or 2001:db8::/32") from None
    four = collapse_addresses(one for one in sources if one.version == 4)
    six = collapse_addresses(one for one in sources if one.version == 6)
    return Callers(sources=(*four, *six))


def records_of(values: Mapping[str, str]) -> dict[str, tuple[IPAddress, ...]]:
    """The names, in lower case, that a network's options *values* give addresses; `*.` in front means all below.

    Raises:
        InvalidOption: a name or an address is none.
    """
    found = {}
    for key, value in values.items():
        if not key.startswith(RECORD):
            continue
        name = key.removeprefix(RECORD).lower()
        if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
            raise InvalidOption(key, value, "a name has labels of letters, digits, - and _, with dots between")
        try:
            found[name] = tuple(dict.fromkeys(ip_address(one.strip()) for one in value.split(",")))
        except ValueError:
            hint = "it must be one or more addresses with commas between, such as 10.5.0.77 or 10.5.0.77,fd00::77"
            raise InvalidOption(key, value, hint) from None
    return found


def nanoseconds(text: str) -> int:
    """How long a duration lasts whose *text* fits `SPAN`.

    >>> nanoseconds("1m0.5s")
    60500000000
    """
    return sum(int(float(number) * _UNITS[unit]) for number, unit in _PART.findall(text))


def span(key: str, text: str) -> int:
    """The nanoseconds of *text*, a duration of ten years at most; `InvalidOption`, with *key*, if it is none."""
    length = nanoseconds(text) if SPAN.fullmatch(text) else -1
    if not 0 <= length <= _TEN_YEARS:
        raise InvalidOption(key, text, "it must be a duration from 0 to 87600h, such as 24h or 1h30m")
    return length


def check_mtu(mtu: int | None, *, ipv6: bool) -> None:
    """Refuse an *mtu* that a network with IPv6 cannot have."""
    if ipv6 and mtu and mtu < MIN_IPV6_MTU:
        raise InvalidOption(MTU, mtu, f"IPv6 needs at least {MIN_IPV6_MTU} (RFC 8200); raise it, or leave IPv6 out")


def check_interface(key: str, name: str) -> None:
    """Refuse a *name* that Linux would not take for an interface (`dev_valid_name`), or that nftables could misread."""
    fits = 0 < len(name.encode()) < 16 and name not in {".", ".."}
    if not fits or any(letter in '/:"*' or letter.isspace() or not letter.isprintable() for letter in name):
        raise InvalidOption(key, name, 'an interface name has 1 to 15 bytes, without blanks and none of / : " *')
