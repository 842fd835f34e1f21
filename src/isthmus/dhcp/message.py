"""DHCP messages (RFC 2131) with their options (RFC 2132), and the lease that an answer grants.

An option that is nonsense is passed over as long as the lease stands without it: a LAN's server is what it is, and a
bad list of domains is no reason to have no address.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TypeVar

import msgspec

from isthmus.dhcp import names
from isthmus.dhcp.frame import Malformed
from isthmus.model import FOREVER, DhcpLease, Hop

T = TypeVar("T")

REQUEST, REPLY = 1, 2
"""The `op` of what clients and what servers send."""

ANY = IPv4Address(0)
EVERYONE = IPv4Address("255.255.255.255")

_COOKIE = b"\x63\x82\x53\x63"
_ETHERNET, _MAC_SIZE = 1, 6
_BROADCAST = 0x8000
_FIXED = 236
_MINIMUM = 300  # BOOTP's size, below which some relays drop (RFC 1542, 2.1)
_PAD, _END = 0, 255
_MTU_MINIMUM = 68


class Type(IntEnum):
    """The kinds of messages (option 53)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7


class Option(IntEnum):
    """The options that we send or read."""

    NETMASK = 1
    ROUTERS = 3
    DNS = 6
    HOSTNAME = 12
    DOMAIN = 15
    MTU = 26
    BROADCAST = 28
    ADDRESS = 50
    SECONDS = 51
    OVERLOAD = 52
    TYPE = 53
    SERVER = 54
    PARAMETERS = 55
    SIZE = 57
    T1 = 58
    T2 = 59
    CLIENT = 61
    SEARCH = 119
    ROUTES = 121


ASKED = bytes(
    [
        Option.NETMASK,
        Option.ROUTES,  # RFC 3442: before the routers, which it replaces
        Option.ROUTERS,
        Option.DNS,
        Option.HOSTNAME,
        Option.DOMAIN,
        Option.MTU,
        Option.BROADCAST,
        Option.SECONDS,
        Option.T1,
        Option.T2,
        Option.SEARCH,
    ]
)
"""What a client asks servers to tell (option 55)."""


class Message(msgspec.Struct, frozen=True):
    """A DHCP message on Ethernet. *options* has each code once, in the order in which they are sent."""

    op: int
    xid: int
    mac: bytes
    options: tuple[tuple[int, bytes], ...]
    seconds: int = 0
    broadcast: bool = False
    client: IPv4Address = ANY
    yours: IPv4Address = ANY
    next_server: IPv4Address = ANY
    relay: IPv4Address = ANY

    def option(self, code: Option) -> bytes | None:
        """The value of an option; None if the message has none such."""
        return dict(self.options).get(code)

    @property
    def type(self) -> int:
        """The kind of message; 0 if it says none, or nonsense."""
        value = self.option(Option.TYPE) or b""
        return value[0] if len(value) == 1 else 0

    @property
    def server(self) -> IPv4Address | None:
        """The server's identifier; None if the message has none."""
        value = self.option(Option.SERVER) or b""
        return IPv4Address(value) if len(value) == 4 else None


def encode(message: Message) -> bytes:
    """Return *message* as the payload of a datagram."""
    flags = _BROADCAST if message.broadcast else 0
    fixed = (
        bytes([message.op, _ETHERNET, _MAC_SIZE, 0])
        + message.xid.to_bytes(4)
        + message.seconds.to_bytes(2)
        + flags.to_bytes(2)
        + b"".join(one.packed for one in (message.client, message.yours, message.next_server, message.relay))
        + message.mac
    )
    options = b"".join(_parts(code, value) for code, value in message.options)
    return (fixed.ljust(_FIXED, b"\0") + _COOKIE + options + bytes([_END])).ljust(_MINIMUM, b"\0")


def _parts(code: int, value: bytes) -> bytes:
    """One option, in as many parts as its length needs (RFC 3396)."""
    parts = [value[start : start + 255] for start in range(0, len(value), 255)] or [b""]
    return b"".join(bytes([code, len(part)]) + part for part in parts)


def decode(data: bytes) -> Message:
    """Return the message in *data*.

    Raises:
        Malformed: it is no DHCP message for Ethernet, or is cut off.
    """
    if len(data) < _FIXED + 4 or data[_FIXED : _FIXED + 4] != _COOKIE:
        raise Malformed("this is no DHCP message")
    if data[0] not in {REQUEST, REPLY} or data[1] != _ETHERNET or data[2] != _MAC_SIZE:
        raise Malformed("the DHCP message is not for Ethernet")
    options: dict[int, bytes] = {}
    _gather(options, data[_FIXED + 4 :])
    # RFC 2131, 4.1: the fields `file` and `sname` may hold more options, in this order.
    overload = options.pop(Option.OVERLOAD, b"\0")[:1] or b"\0"
    if overload[0] & 1:
        _gather(options, data[108:236])
    if overload[0] & 2:
        _gather(options, data[44:108])
    return Message(
        op=data[0],
        xid=int.from_bytes(data[4:8]),
        mac=data[28:34],
        options=tuple(options.items()),
        seconds=int.from_bytes(data[8:10]),
        broadcast=bool(data[10] & 0x80),
        client=IPv4Address(data[12:16]),
        yours=IPv4Address(data[16:20]),
        next_server=IPv4Address(data[20:24]),
        relay=IPv4Address(data[24:28]),
    )


def _gather(options: dict[int, bytes], data: bytes) -> None:
    """Add the options in *data*; parts of one option belong together (RFC 3396)."""
    offset = 0
    while offset < len(data) and data[offset] != _END:
        if data[offset] == _PAD:
            offset += 1
            continue
        size = data[offset + 1] if offset + 1 < len(data) else len(data)
        if offset + 2 + size > len(data):
            raise Malformed("an option of the DHCP message is cut off")
        options[data[offset]] = options.get(data[offset], b"") + data[offset + 2 : offset + 2 + size]
        offset += 2 + size


def lease(answer: Message, mac: bytes, asked: int) -> DhcpLease:
    """Return what the ACK *answer*, which came from *mac*, grants; it counts from when it was *asked* for.

    Raises:
        Malformed: it lacks an address, the server's identifier or the time.
    """
    options = dict(answer.options)
    seconds = _read(options, Option.SECONDS, _number) or 0
    if not usable(answer.yours) or answer.server is None or not seconds:
        raise Malformed("the answer grants no lease")
    t1, t2 = times(seconds, _read(options, Option.T1, _number), _read(options, Option.T2, _number))
    routes = _read(options, Option.ROUTES, _routes) or ()
    return DhcpLease(
        address=IPv4Interface((answer.yours, _read(options, Option.NETMASK, _prefix) or _classful(answer.yours))),
        server=str(answer.server),
        server_mac=mac.hex(":"),
        obtained=asked,
        seconds=seconds,
        t1=t1,
        t2=t2,
        # RFC 3442: where there are routes, the routers do not count.
        routers=() if routes else _read(options, Option.ROUTERS, _addresses) or (),
        routes=routes,
        dns=_read(options, Option.DNS, _addresses) or (),
        domain=_read(options, Option.DOMAIN, names.name) or "",
        search=_read(options, Option.SEARCH, names.decode) or (),
        hostname=_read(options, Option.HOSTNAME, names.name) or "",
        mtu=_read(options, Option.MTU, _mtu) or 0,
        broadcast=next(iter(_read(options, Option.BROADCAST, _addresses) or ()), None),
    )


def times(seconds: int, t1: int | None, t2: int | None) -> tuple[int, int]:
    """Return when a lease of so many *seconds* is renewed and rebound: as the server says, if that can be.

    Else after a half and seven eighths (RFC 2131, 4.4.5); never, if the lease is for ever.
    """
    if seconds == FOREVER:
        return FOREVER, FOREVER
    t2 = t2 if t2 and t2 < seconds else seconds * 7 // 8
    return (t1 if t1 and t1 <= t2 else min(seconds // 2, t2)), t2


def _read(options: Mapping[int, bytes], code: Option, parse: Callable[[bytes], T]) -> T | None:
    """The value of an option; None if it is not there, or is nonsense."""
    try:
        return parse(options[code])
    except (KeyError, Malformed):
        return None


def _number(data: bytes) -> int:
    if len(data) != 4:
        raise Malformed("a time has four bytes")
    return int.from_bytes(data)


def _mtu(data: bytes) -> int:
    if len(data) != 2 or int.from_bytes(data) < _MTU_MINIMUM:
        raise Malformed("an MTU has two bytes, and is 68 at least")
    return int.from_bytes(data)


def _addresses(data: bytes) -> tuple[IPv4Address, ...]:
    if len(data) % 4:
        raise Malformed("an address has four bytes")
    found = (IPv4Address(data[start : start + 4]) for start in range(0, len(data), 4))
    return tuple(one for one in found if one != ANY)


def _prefix(data: bytes) -> int:
    """The prefix length of a netmask."""
    holes = ~int.from_bytes(data) & 0xFFFF_FFFF
    if len(data) != 4 or holes & (holes + 1):
        raise Malformed("this is no netmask")
    return 32 - holes.bit_length()


def _classful(address: IPv4Address) -> int:
    """The prefix length that an address has where nobody says any (RFC 950)."""
    first = address.packed[0]
    return 8 if first < 128 else 16 if first < 192 else 24


def usable(address: IPv4Address) -> bool:
    """Whether an interface may have this *address*."""
    return not (address.is_multicast or address.is_loopback or address.packed[0] in {0, *range(240, 256)})


def _routes(data: bytes) -> tuple[Hop, ...]:
    return tuple(_hops(data))


def _hops(data: bytes) -> Iterator[Hop]:
    """The routes of option 121: a prefix length, as many bytes of the prefix as it needs, and the gateway."""
    offset = 0
    while offset < len(data):
        size = data[offset]
        end = offset + 1 + (size + 7) // 8
        if size > 32 or end + 4 > len(data):
            raise Malformed("a route is cut off")
        prefix, gateway = data[offset + 1 : end].ljust(4, b"\0"), IPv4Address(data[end : end + 4])
        yield IPv4Network((prefix, size), strict=False), None if gateway == ANY else gateway
        offset = end + 4
