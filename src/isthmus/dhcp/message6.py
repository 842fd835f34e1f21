"""DHCPv6 messages (RFC 8415), as far as one address for one interface needs them, and the lease that one grants."""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from ipaddress import IPv6Address, IPv6Interface

import msgspec

from isthmus.dhcp import names
from isthmus.dhcp.frame import Malformed
from isthmus.model import FOREVER, DhcpLease, IPAddress


class Type(IntEnum):
    """The kinds of messages (7.3)."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9


class Option(IntEnum):
    """The options that we send or read (21, RFC 3646)."""

    CLIENT = 1
    SERVER = 2
    IA_NA = 3
    ADDRESS = 5
    ASKED = 6
    PREFERENCE = 7
    ELAPSED = 8
    STATUS = 13
    RAPID = 14
    DNS = 23
    SEARCH = 24
    SOLICIT_MAX = 82


class Code(IntEnum):
    """What a server thinks of a request (21.13)."""

    SUCCESS = 0
    UNSPECIFIED = 1
    NO_ADDRESSES = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4


Options = tuple[tuple[int, bytes], ...]


class Message(msgspec.Struct, frozen=True):
    """A message between client and server. *options* are in the order in which they are sent; some may come twice."""

    type: int
    xid: int
    options: Options

    def option(self, code: Option) -> bytes | None:
        """The value of the first option of that code; None if there is none."""
        return next((value for found, value in self.options if found == code), None)


def encode(message: Message) -> bytes:
    """Return *message* as the payload of a datagram."""
    return bytes([message.type]) + message.xid.to_bytes(3) + _written(message.options)


def decode(data: bytes) -> Message:
    """Return the message in *data*.

    Raises:
        Malformed: it is cut off.
    """
    if len(data) < 4:
        raise Malformed("this is no DHCPv6 message")
    return Message(data[0], int.from_bytes(data[1:4]), tuple(_options(data[4:])))


def association(iaid: bytes, wanted: IPAddress | None) -> tuple[int, bytes]:
    """Return the option (IA_NA) about an address for the interface *iaid*: the *wanted* one, if there is any."""
    address = [(Option.ADDRESS, wanted.packed + bytes(8))] if wanted else []
    return Option.IA_NA, iaid + bytes(8) + _written(address)


def verdict(message: Message, iaid: bytes) -> int:
    """Return what the server thinks of the request as a whole or, if that is good, of the interface *iaid*."""
    return _status(message.options) or next(
        (_status(ours) for _, _, ours in _associations(message, iaid)), Code.SUCCESS
    )


def preference(message: Message) -> int:
    """Return how much the server wants to be chosen, up to 255."""
    return int.from_bytes((message.option(Option.PREFERENCE) or b"")[:1])


def solicit_max(message: Message) -> int | None:
    """Return the longest time between solicitations that the server wishes, in seconds, if that can be (21.24)."""
    seconds = int.from_bytes(message.option(Option.SOLICIT_MAX) or b"")
    return seconds if 60 <= seconds <= 86400 else None


def lease(answer: Message, iaid: bytes, mac: bytes, asked: int) -> DhcpLease:
    """Return what *answer*, which came from *mac*, grants; it counts from when it was *asked* for.

    Raises:
        Malformed: it grants no address for the interface *iaid*, or does not say whose it is.
    """
    server = answer.option(Option.SERVER) or b""
    for t1, t2, ours in _associations(answer, iaid):
        for address, preferred, valid in _granted(ours):
            renew, rebind = times(preferred, valid, t1, t2)
            return DhcpLease(
                address=IPv6Interface((address, 128)),
                server=server.hex(),
                server_mac=mac.hex(":"),
                obtained=asked,
                seconds=valid,
                t1=renew,
                t2=rebind,
                dns=_addresses(answer.option(Option.DNS) or b""),
                search=_search(answer.option(Option.SEARCH) or b""),
            )
    raise Malformed("the message grants no address")


def _associations(message: Message, iaid: bytes) -> Iterator[tuple[int, int, Options]]:
    """What *message* says about the interface *iaid*: when to renew and to rebind, in seconds, and its options."""
    for code, value in message.options:
        if code == Option.IA_NA and len(value) >= 12 and value[:4] == iaid:
            yield int.from_bytes(value[4:8]), int.from_bytes(value[8:12]), tuple(_options(value[12:]))


def _granted(options: Options) -> Iterator[tuple[IPv6Address, int, int]]:
    """The addresses among *options* that may be used, with the seconds for which each is preferred, and valid."""
    for code, value in options:
        if code == Option.ADDRESS and len(value) >= 24:
            address, preferred, valid = IPv6Address(value[:16]), value[16:20], int.from_bytes(value[20:24])
            if valid and _usable(address) and not _status(tuple(_options(value[24:]))):
                yield address, int.from_bytes(preferred), valid


def _status(options: Options) -> int:
    """What the status code among *options* says; none says success."""
    value = dict(options).get(Option.STATUS, b"\0\0")
    return int.from_bytes(value[:2]) if len(value) >= 2 else Code.UNSPECIFIED


def times(preferred: int, valid: int, t1: int, t2: int) -> tuple[int, int]:
    """Return when an address is renewed and rebound: as the server says, if that can be.

    Else after a half and four fifths of the time for which it is preferred (21.4); never, if it is for ever.
    """
    if valid == FOREVER:
        return FOREVER, FOREVER
    life = min(preferred, valid) or valid
    t2 = t2 if 0 < t2 < valid else life * 4 // 5
    return (t1 if 0 < t1 <= t2 else min(life // 2, t2)), t2


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(data):
        end = offset + 4 + int.from_bytes(data[offset + 2 : offset + 4])
        if offset + 4 > len(data) or end > len(data):
            raise Malformed("an option of the DHCPv6 message is cut off")
        yield int.from_bytes(data[offset : offset + 2]), data[offset + 4 : end]
        offset = end


def _written(options: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(code.to_bytes(2) + len(value).to_bytes(2) + value for code, value in options)


def _usable(address: IPv6Address) -> bool:
    """Whether an interface may have this *address*."""
    return not (address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local)


def _addresses(data: bytes) -> tuple[IPv6Address, ...]:
    """The addresses in an option; none if it is nonsense."""
    if len(data) % 16:
        return ()
    return tuple(IPv6Address(data[start : start + 16]) for start in range(0, len(data), 16))


def _search(data: bytes) -> tuple[str, ...]:
    try:
        return names.decode(data)
    except Malformed:
        return ()
