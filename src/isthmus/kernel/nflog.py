"""netfilter's log (NFLOG, `linux/netfilter/nfnetlink_log.h`): packets that a rule of our firewall had us told about."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is an exception class

from isthmus.kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    DecodeError,
    NetlinkError,
    attribute,
    attributes,
    messages,
)
from isthmus.ports import PROTOCOLS
from isthmus.views import Call

NFNL_SUBSYS_ULOG = 4
NFULNL_MSG_PACKET, NFULNL_MSG_CONFIG = 0, 1
NFULA_CFG_CMD, NFULA_CFG_MODE, NFULA_CFG_QTHRESH = 1, 2, 5
NFULNL_CFG_CMD_BIND, NFULNL_COPY_PACKET = 1, 2
NFULA_PAYLOAD, NFULA_PREFIX = 9, 10

_MESSAGE = Struct("=IHHIIBBH")  # struct nlmsghdr, then struct nfgenmsg: family, version, group (in network order)
_MODE = Struct(">IBx")
_PORTS = Struct(">HH")
_NLMSG_ERROR = 2
_ERRNO = Struct("=16xi")
_COPIED = 96
_RECEIVE = 1 << 16
_MOST = 256  # datagrams at once, so that others get their turn
_IPV6_HEADER, _LEAST_IPV4_HEADER = 40, 20


class PacketLog:
    """The packets logged to a *group* in the namespace of the thread that makes this.

    Raises:
        OSError: this kernel has no such log, or somebody else has the group.
    """

    def __init__(self, group: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
            mode = _MODE.pack(_COPIED, NFULNL_COPY_PACKET)
            for content in (
                attribute(NFULA_CFG_CMD, bytes((NFULNL_CFG_CMD_BIND,))),
                # Each packet is told at once.
                attribute(NFULA_CFG_MODE, mode) + attribute(NFULA_CFG_QTHRESH, (1).to_bytes(4, "big")),
            ):
                self._configure(group, content)
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)  # noqa: FBT003 - its only parameter

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hear no more, and give the descriptor back."""
        self._socket.close()

    def read(self) -> Iterator[Call]:
        """Yield what was logged since the last time, without waiting; what was too much is lost."""
        with suppress(BlockingIOError):
            for _ in range(_MOST):
                try:
                    data = self._socket.recv(_RECEIVE)
                except BlockingIOError:
                    raise
                except OSError:
                    continue  # ENOBUFS: some were lost
                for _, message in messages(data):
                    if call := decode(message):
                        yield call

    def _configure(self, group: int, content: bytes) -> None:
        size, kind = _MESSAGE.size + len(content), NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG
        header = _MESSAGE.pack(size, kind, NLM_F_REQUEST | NLM_F_ACK, 0, 0, 0, 0, socket.htons(group))
        self._socket.send(header + content)
        answer = self._socket.recv(_RECEIVE)
        if _MESSAGE.unpack_from(answer)[1] == _NLMSG_ERROR and (number := -_ERRNO.unpack_from(answer)[0]):
            raise NetlinkError(number, 0)


def decode(message: bytes) -> Call | None:
    """Read a packet that was logged; None if it is none, or not one that we understand."""
    if len(message) < _MESSAGE.size or _MESSAGE.unpack_from(message)[1] != NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET:
        return None
    try:
        found = attributes(message, _MESSAGE.size)
        packet = found.get(NFULA_PAYLOAD, b"")
        prefix = found.get(NFULA_PREFIX, b"").rstrip(b"\0").decode("ascii", "replace")
        match packet[0] >> 4 if packet else 0:
            case 4 if len(packet) >= _LEAST_IPV4_HEADER:
                protocol, end = packet[9], (packet[0] & 0xF) * 4
                source, target = (str(IPv4Address(packet[at : at + 4])) for at in (12, 16))
            case 6 if len(packet) >= _IPV6_HEADER:
                # Behind other headers a port may be hidden; then there is none to tell.
                protocol, end = packet[6], _IPV6_HEADER
                source, target = (str(IPv6Address(packet[at : at + 16])) for at in (8, 24))
            case _:
                return None
        port = _PORTS.unpack_from(packet, end)[1] if protocol in PROTOCOLS.values() else None
    except (DecodeError, StructError):
        return None
    return Call(prefix, source, target, protocol, port)
