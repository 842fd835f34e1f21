"""Whether packets of a size come through to other hosts, whole: an echo with the DF bit set, of just that size.

An overlay whose tunnel packets are too large for some link between its hosts works for small packets and hangs with
large ones, which nobody suspects. So what is asked is not what the links here say, but what comes back.
"""

import asyncio
import os
import socket
from collections.abc import Collection
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from struct import Struct

from isthmus.errors import DeviceUnavailable
from isthmus.model import IPAddress

WAIT = 1.0
"""For how long, in seconds, an answer may take."""

_ECHO = Struct("!BBHHH")  # type, code, checksum, identifier, sequence number (RFC 792, RFC 4443)
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_HEADERS = {4: 20 + 8, 6: 40 + 8}
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _IPV6_DONTFRAG = 10, 23, 62
_PMTUDISC_PROBE = 3  # linux/in.h: set DF, and try what is larger than the path was thought to carry


async def reached(
    addresses: Collection[IPAddress], size: int, place: AbstractContextManager[object], wait: float = WAIT
) -> frozenset[IPAddress]:
    """Those of *addresses* from which an echo came back that was an IP packet of *size* bytes.

    It is sent from where the calling thread is within *place*.

    Raises:
        DeviceUnavailable: nothing can be asked from here.
    """
    found: set[IPAddress] = set()
    answered, loop = asyncio.Event(), asyncio.get_running_loop()
    token = os.urandom(16)
    with ExitStack() as held:
        for version in {address.version for address in addresses}:
            asked = {str(address): address for address in addresses if address.version == version}
            with place:
                sender = held.enter_context(_opened(version))

            def hear(sender: socket.socket, asked: dict[str, IPAddress], version: int) -> None:
                while True:
                    try:
                        packet, (source, *_) = sender.recvfrom(1 << 16)
                    except BlockingIOError:
                        return
                    # A raw socket of IPv4 also gets the IP header (raw(7)).
                    start = (packet[0] & 15) * 4 if version == 4 else 0
                    if packet[start : start + 1] == bytes((_REPLY[version],)) and token in packet and source in asked:
                        found.add(asked[source])
                        if len(found) == len(addresses):
                            answered.set()

            loop.add_reader(sender, partial(hear, sender, asked, version))
            held.callback(loop.remove_reader, sender)
            for text in asked:
                _ask(sender, text, version, token, size)
        try:
            async with asyncio.timeout(wait):
                await answered.wait()
        except TimeoutError:
            pass
    return frozenset(found)


def _opened(version: int) -> socket.socket:
    family, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, 58)
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    try:
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise DeviceUnavailable("the host's", f"no echo can be sent: {error.strerror}") from error
    if version == 4:
        opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
    return opened


def _ask(sender: socket.socket, target: str, version: int, token: bytes, size: int) -> None:
    data = token.ljust(size - _HEADERS[version], b"\0")
    packet = _ECHO.pack(_REQUEST[version], 0, 0, os.getpid() & 0xFFFF, 1) + data
    if version == 4:
        # In IPv6 the kernel fills it in (RFC 3542, section 3.1).
        packet = _ECHO.pack(_REQUEST[version], 0, _checksum(packet), os.getpid() & 0xFFFF, 1) + data
    try:
        sender.sendto(packet, (target, 0))
    except OSError:
        return  # larger than the link here carries, or nobody knows the way: no answer comes


def _checksum(packet: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(int.from_bytes(packet[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(packet), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
