"""The ports of the host that are published, kept from its processes; and who has one that cannot be kept.

What is published is translated before it reaches any socket, so a process that bound the same port would listen and
hear nothing. A socket of ours, bound and never listening, makes its bind(2) fail instead, and tells us the same of a
process that was there first. It takes no packet: what is not translated is refused for TCP, as if nobody were there,
and dropped for the others. It ends with the daemon; what then takes the port is found at the next start.

Who has a port is asked for only when it is wanted: the kernel knows sockets by inode (sock_diag(7)), and /proc whose
they are.
"""

import resource
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from errno import EADDRINUSE, EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT
from pathlib import Path
from struct import Struct

from isthmus import bpf
from isthmus.kernel.netlink import NLM_F_DUMP, NLM_F_REQUEST, Socket
from isthmus.model import Place

_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_UNKNOWN = frozenset({EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT})
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = Struct("=IHHIIBBBBI48s")  # struct nlmsghdr, then struct inet_diag_req_v2 with an empty socket ID
_PORT = Struct(">H")
_INODE = Struct("=I")
_EVERY_STATE = 0xFFFF_FFFF
_FEW = 16
_SPARE = 256  # descriptors that are left to the rest of the daemon


class Holds:
    """The places that are kept, in the namespace of the thread that made this."""

    def __init__(self) -> None:
        self._sockets: dict[Place, socket.socket | None] = {}
        self._released: dict[Place, socket.socket] = {}
        self._most = 0

    def close(self) -> None:
        """Keep nothing more."""
        self.release(tuple(self._sockets))
        self.clear()

    def hold(self, places: Iterable[Place]) -> dict[Place, str]:
        """Keep *places*; return those that cannot be had, each with the reason."""
        refused = {}
        for place in places:
            if place in self._released:
                self._sockets[place] = self._released.pop(place)
            elif place not in self._sockets:
                self._make_room()
                try:
                    self._sockets[place] = _bound(place)
                except OSError as error:
                    refused[place] = "address already in use" if error.errno == EADDRINUSE else _lower(error)
        return refused

    def release(self, places: Iterable[Place]) -> None:
        """Keep *places* no more: few from now on, many when there is time for it (`clear`), for each takes a while."""
        for place in places:
            if held := self._sockets.pop(place, None):
                self._released[place] = held
        if len(self._released) <= _FEW:
            self.clear()

    def clear(self) -> None:
        """Leave what was released to others."""
        for held in self._released.values():
            held.close()
        self._released.clear()

    def _make_room(self) -> None:
        """Have the kernel let us open more descriptors, if we come near what it lets us have."""
        if len(self._sockets) + len(self._released) + _SPARE < self._most:
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._most = hard if hard != resource.RLIM_INFINITY else 1 << 30


def _bound(place: Place) -> socket.socket | None:
    """Make the socket that keeps *place*; None where the kernel does not know the protocol: nobody can have it."""
    kind, protocol = _KINDS[place.protocol]
    address = place.address
    families = [socket.AF_INET if address and address.version == 4 else socket.AF_INET6]
    if address is None:
        families.append(socket.AF_INET)  # for a host without IPv6
    for family in families:
        try:
            held = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
        else:
            _bind(held, place)
            return held
    return None


def _bind(held: socket.socket, place: Place) -> None:
    """Bind *held* to *place*, or close it."""
    try:
        if held.family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if place.address else 0)
        if place.protocol == "udp":
            bpf.attach(held, ((bpf.RETURN, 0, 0, 0),))  # else what is not translated would pile up in it
        held.bind((str(place.address) if place.address else "", place.port))
    except OSError:
        held.close()
        raise


def _lower(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def holder(place: Place) -> str:
    """Return which process has *place* or a part of it, as `nginx, process 812`; "" if that cannot be told."""
    inodes = set(_inodes(place))
    names = {f"socket:[{inode}]" for inode in inodes if inode}
    for directory in Path("/proc").iterdir() if names else ():
        if directory.name.isdigit():
            with suppress(OSError):
                for descriptor in (directory / "fd").iterdir():
                    with suppress(OSError):
                        if str(descriptor.readlink()) in names:
                            return f"{(directory / 'comm').read_text().strip()}, process {directory.name}"
    # What waits for late packets of a connection that ended is no process's any more (RFC 9293, TIME-WAIT).
    return "connections that have just ended, for a minute" if inodes else ""


def _inodes(place: Place) -> Iterator[int]:
    """Tell the sockets at the port of *place* by inode, 0 for those that are nobody's; addresses are not compared."""
    if place.protocol == "sctp":
        return
    _, protocol = _KINDS[place.protocol]
    flags = NLM_F_REQUEST | NLM_F_DUMP
    with Socket(_NETLINK_SOCK_DIAG) as wire:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = (72, _SOCK_DIAG_BY_FAMILY, flags, 0, 0, family, protocol, 0, 0, _EVERY_STATE, bytes(48))
            for answer in wire.dump(_REQUEST.pack(*request)):
                # In struct inet_diag_msg, after the header, the port is behind four bytes, and the inode comes last.
                (port,), (inode,) = _PORT.unpack_from(answer, 16 + 4), _INODE.unpack_from(answer, 16 + 68)
                if port == place.port:
                    yield inode
