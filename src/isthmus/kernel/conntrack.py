"""What connection tracking remembers, read and forgotten in the kernel's own words (`nfnetlink_conntrack.h`).

Where a connection leads is decided at its first packet and kept. For TCP that is as it should be; a stream of datagrams
that never pauses would go on to a sandbox that is gone, or pass by one that has come. So what is remembered of a port
is forgotten when that leads elsewhere.

To look costs a walk through the kernel's whole table (8 milliseconds for 262,144 buckets, full or empty), as it has
no index by port.
"""

import socket
from collections.abc import Callable, Collection, Iterable
from errno import ENOENT
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from isthmus.kernel.netlink import (
    NETLINK_NETFILTER,
    NLA_F_NESTED,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    Socket,
    attribute,
    attributes,
)
from isthmus.model import IPAddress

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE, IPCTNL_MSG_CT_GET_STATS = 1, 2, 5
CTA_STATS_GLOBAL_ENTRIES = 1
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_ID, CTA_ZONE = 1, 2, 3, 12, 18
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
IPS_DST_NAT = 1 << 5

_MESSAGE = Struct("=IHHIIBBH")
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

_FEW = 32
"""Up to how many addresses are looked for in a message before it is read."""


class Tuple(NamedTuple):
    """One direction of a connection: who sends to whom, and by which ports (0 where there are none)."""

    protocol: int
    source: IPAddress
    destination: IPAddress
    source_port: int
    destination_port: int


class Entry(NamedTuple):
    """A connection, as its first packet was (*original*) and as an answer is (*reply*); *key* names it for `delete`."""

    original: Tuple
    reply: Tuple
    status: int
    family: int
    key: bytes

    @property
    def translated(self) -> bool:
        """Whether its destination was changed."""
        return bool(self.status & IPS_DST_NAT)


def getcount() -> bytes:
    """Ask how many connections there are (`Socket.ask`, then `count`), which takes microseconds."""
    return _message(IPCTNL_MSG_CT_GET_STATS, NLM_F_REQUEST, 0, b"")


def count(message: bytes) -> int:
    """Read the answer to `getcount`."""
    return int.from_bytes(attributes(message, 20).get(CTA_STATS_GLOBAL_ENTRIES, b""), "big")


def dump(version: int) -> bytes:
    """Ask for all connections of this IP version (`Socket.dump`, then `entry`)."""
    return _message(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, _FAMILIES[version], b"")


def delete(one: Entry) -> bytes:
    """Forget *one*; ENOENT if it is gone."""
    return _message(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST, one.family, one.key)


def entry(message: bytes) -> Entry:
    """Read a connection."""
    found = attributes(message, 20)
    get = found.get
    key = attribute(NLA_F_NESTED | CTA_TUPLE_ORIG, get(CTA_TUPLE_ORIG, b""))
    for kind in (CTA_ID, CTA_ZONE):
        if kind in found:
            key += attribute(kind, found[kind])
    return Entry(
        _tuple(get(CTA_TUPLE_ORIG, b"")),
        _tuple(get(CTA_TUPLE_REPLY, b"")),
        int.from_bytes(get(CTA_STATUS, b""), "big"),
        message[16],
        key,
    )


def _tuple(content: bytes) -> Tuple:
    parts = attributes(content, 0)
    ends, proto = attributes(parts.get(CTA_TUPLE_IP, b""), 0), attributes(parts.get(CTA_TUPLE_PROTO, b""), 0)
    source: IPAddress
    destination: IPAddress
    if CTA_IP_V4_SRC in ends:
        source, destination = IPv4Address(ends[CTA_IP_V4_SRC]), IPv4Address(ends[CTA_IP_V4_DST])
    else:
        source, destination = IPv6Address(ends[CTA_IP_V6_SRC]), IPv6Address(ends[CTA_IP_V6_DST])
    numbers = (
        int.from_bytes(proto.get(kind, b""), "big") for kind in (CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT)
    )
    protocol, source_port, destination_port = numbers
    return Tuple(protocol, source, destination, source_port, destination_port)


def _message(kind: int, flags: int, family: int, content: bytes) -> bytes:
    return _MESSAGE.pack(20 + len(content), NFNL_SUBSYS_CTNETLINK << 8 | kind, flags, 0, 0, family, 0, 0) + content


class Tracking:
    """Connection tracking in the namespace of the thread that makes this."""

    def __init__(self) -> None:
        self._socket = Socket(NETLINK_NETFILTER)

    def close(self) -> None:
        """Give the file descriptor back."""
        self._socket.close()

    def forget(self, version: int, about: Collection[IPAddress], stale: Callable[[Entry], bool]) -> int:
        """Forget all connections of this IP version that are *stale*, as only those *about* one of these addresses are.

        How many they were is returned.
        """
        if not count(self._socket.ask(getcount())):
            return 0
        found: Iterable[bytes] = self._socket.dump(dump(version))
        if len(about) <= _FEW:
            # To read one takes twenty microseconds, and there may be hundreds of thousands.
            parts = [address.packed for address in about if address.version == version]
            found = (message for message in found if any(part in message for part in parts))
        entries = [one for one in map(entry, found) if stale(one)]
        errors = self._socket.attempt(*map(delete, entries))
        for error in errors:
            if error.errno != ENOENT:
                raise error
        return len(entries)
