"""A raw socket on one device: whole Ethernet frames in and out, for the daemon's event loop.

A tap (packet(7), ETH_P_ALL) hears what comes in, before a bridge or a macvlan takes it away, and what goes out, that of
macvlan children included, though never what it sent itself. For that it is not free: each frame that leaves the device
is cloned before a program sees it, so whoever only now and then asks something should close it in between. A port of
one protocol hears only what comes in and up to the host: of frames to a bridge's ports or to macvlan children no more
than broadcasts and multicasts. It costs other frames nothing.

A program in the kernel drops what is not wanted; who wants little is seldom woken.

A device that goes down or away ends its port: the kernel tells this once, and does not tell one from the other.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from errno import EAGAIN, EBADF, ENETDOWN, ENOBUFS, ENODEV, ENXIO
from struct import Struct

from isthmus import bpf
from isthmus.bpf import Instruction
from isthmus.errors import DeviceUnavailable
from isthmus.naming import octets
from isthmus.wire import filters

PACKET_OUTGOING = 4
"""The type of a frame that a neighbour on this machine sent through the device; others came in by it."""

ETH_P_ALL = 0x0003
"""The protocol of a tap."""

AWAY = "it went down or away"
"""Why a device cannot be used any more: the kernel tells this of both alike."""

_NOWHERE = "there is no such interface"
_ARPHRD_ETHER = 1
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP, _PACKET_DROP_MEMBERSHIP = 1, 2
_PACKET_MR_MULTICAST, _PACKET_MR_UNICAST = 0, 3
_MEMBERSHIP = Struct("@iHH8s")  # struct packet_mreq: device, type, length of the address, address
_LARGEST = 64 << 10
_AT_ONCE = 64  # so that a flood on the wire leaves room for everything else that the loop waits for
_AWAY = {EBADF, ENETDOWN, ENODEV, ENXIO}  # the first one after we closed it ourselves
_FULL = {EAGAIN, ENOBUFS}


class Port:
    """A place on the wire of *device*, a link in the namespace of the thread that makes this, on its running loop.

    *Hear* is called with each frame that *program* keeps, and its packet type (`PACKET_OUTGOING`, ...); frames of VLANs
    on the device are not its own. *Gone* is called once if the device goes down or away; the port is closed then.
    *Protocol* is an EtherType, of which alone the frames are heard that come in; without it, the port is a tap.

    Raises:
        DeviceUnavailable: there is no such device, it is down, or it carries no Ethernet frames.
    """

    def __init__(
        self,
        device: str,
        program: Iterable[Instruction],
        hear: Callable[[bytes, int], None],
        gone: Callable[[], None] = lambda: None,
        protocol: int = ETH_P_ALL,
    ) -> None:
        self.device = device
        self._hear, self._gone = hear, gone
        self._loop = asyncio.get_running_loop()
        try:
            self._index = socket.if_nametoindex(device)
        except OSError as error:
            raise DeviceUnavailable(device, _NOWHERE) from error
        self._own = filters.UNTAGGED if protocol == ETH_P_ALL else filters.arrived(self._index)
        # Without a protocol it hears nothing: neither before its program is there, nor from other devices.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        try:
            self.filter(program)
            self._bind(protocol)
        except BaseException:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket.fileno(), self._read)

    def _bind(self, protocol: int) -> None:
        try:
            self._socket.bind((self.device, protocol))
        except OSError as error:
            raise DeviceUnavailable(self.device, _NOWHERE) from error
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise DeviceUnavailable(self.device, "it is down")
        if (kind := self._socket.getsockname()[3]) != _ARPHRD_ETHER:
            raise DeviceUnavailable(self.device, f"it carries no Ethernet frames (its hardware type is {kind})")

    @property
    def mac(self) -> str:
        """The device's own MAC, as it is now: a bridge's changes with its ports."""
        raw: bytes = self._socket.getsockname()[4]
        return raw.hex(":")

    def send(self, frame: bytes) -> None:
        """Put *frame* on the wire as it is; lost, as on any wire, if there is no room for it.

        Raises:
            DeviceUnavailable: the device is down or gone.
        """
        try:
            self._socket.send(frame)
        except OSError as error:
            if error.errno in _AWAY:
                raise DeviceUnavailable(self.device, AWAY) from error
            if error.errno not in _FULL:
                raise

    def filter(self, program: Iterable[Instruction]) -> None:
        """Hear what *program* keeps instead."""
        bpf.attach(self._socket, (*self._own, *program))

    def join(self, mac: str) -> None:
        """Have the device take frames to *mac*, a group's or one more of its own; counted, so `leave` as often.

        Raises:
            DeviceUnavailable: the device is gone, or can do no such thing.
        """
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, self._membership(mac))
        except OSError as error:
            raise DeviceUnavailable(self.device, f"it takes no frames to {mac}: {error.strerror}") from error

    def leave(self, mac: str) -> None:
        """Take one `join` of *mac* back."""
        with contextlib.suppress(OSError):  # the device took it along
            self._socket.setsockopt(_SOL_PACKET, _PACKET_DROP_MEMBERSHIP, self._membership(mac))

    def _membership(self, mac: str) -> bytes:
        raw = octets(mac)
        kind = _PACKET_MR_MULTICAST if raw[0] & 1 else _PACKET_MR_UNICAST
        return _MEMBERSHIP.pack(self._index, kind, len(raw), raw)

    def fileno(self) -> int:
        """Return the descriptor; -1 once it is closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hear nothing any more, and give the descriptor back; memberships go with it."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                frame, origin = self._socket.recvfrom(_LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _AWAY:
                    raise
                self.close()
                self._gone()
                return
            self._hear(frame, origin[2])
            if self._socket.fileno() < 0:
                return  # whoever heard it has closed the port
