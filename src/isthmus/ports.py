"""Ports: how Docker writes them, which places on the host clash, and where a free one is looked for. Pure.

A port is written `80/tcp` (the protocol may be left out: tcp), one on the host `8080`, `9000-9100` (any that is free
there) or nothing (any that is free in the range that the kernel takes for itself, as in Docker).
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

import msgspec

from isthmus.errors import InvalidRequest
from isthmus.model import IPAddress

PROTOCOLS: Mapping[str, int] = {"tcp": 6, "udp": 17, "sctp": 132}
"""The protocols that have ports, with their numbers in IP."""

AUTOMATIC = range(49153, 65536)
"""Where a free port is looked for if nobody says otherwise (moby, `portallocator`)."""


class Wish(msgspec.Struct, frozen=True):
    """A sandbox's *port* that shall be published on *address* (None: on all), at a port of the host among *hosts*.

    An empty *hosts* leaves it to us. *Asked* and *callers* are as in `model.Binding`.
    """

    port: int
    protocol: str
    address: IPAddress | None = None
    hosts: range = range(0)
    asked: str | None = ""
    callers: str = ""


def parse_port(text: str) -> tuple[int, str]:
    """The number and the protocol of `80/tcp`.

    Raises:
        InvalidRequest: it is none.
    """
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidRequest(f"invalid port specification {text!r}: invalid proto: {protocol}; it is tcp, udp or sctp")
    port = _number(number)
    if not port:
        raise InvalidRequest(f"invalid port specification {text!r}: a port is a number from 1 to 65535")
    return port, protocol


def parse_hosts(text: str) -> range:
    """The ports of `8080` or `9000-9100`; none for "" and "0", which leave it to us.

    Raises:
        InvalidRequest: it is none of these.
    """
    first, dash, last = text.partition("-")
    low, high = _number(first), _number(last if dash else first)
    if text and (low is None or high is None or low > high or (dash and not low)):
        raise InvalidRequest(f"invalid port specification: {text!r}: a port of the host is a number from 1 to 65535")
    return range(low, high + 1) if low and high else range(0)


def parse_address(text: str) -> IPAddress | None:
    """The address of the host in *text*; None for "".

    Raises:
        InvalidRequest: it is none.
    """
    try:
        address = ip_address(text.removeprefix("[").removesuffix("]")) if text else None
    except ValueError:
        raise InvalidRequest(f"invalid IP address: {text}") from None
    if address and address.version == 6 and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def overlap(one: IPAddress | None, other: IPAddress | None) -> bool:
    """Whether both addresses of the host, each of which may stand for many, have one in common."""
    if one is None or other is None:
        return True
    return one == other or (one.version == other.version and (one.is_unspecified or other.is_unspecified))


def clash(address: IPAddress | None, taken: Mapping[IPAddress | None, str]) -> str:
    """Who has what *address* needs, among those who have *taken* the same port; "" if nobody has."""
    return next((holder for other, holder in taken.items() if overlap(address, other)), "")


def versions(address: IPAddress | None) -> Iterable[int]:
    """The IP versions of which there are addresses behind *address*."""
    return (4, 6) if address is None else (address.version,)


def _number(text: str) -> int | None:
    """The port that *text* is, from 0; None if it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < 65536 else None
