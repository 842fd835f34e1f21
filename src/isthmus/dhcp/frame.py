"""UDP datagrams in Ethernet frames, written and read without a socket of the kernel's.

A DHCP client speaks before it has an address, and ours speaks for interfaces that lie in other namespaces, so it makes
whole frames. A checksum of UDP is written but not believed: a server on this machine leaves it to a NIC that its frames
never reach, and the tap sees it unfinished. What is ours is known by its transaction number instead.
"""

from ipaddress import IPv4Address, IPv6Address

import msgspec

from isthmus.model import IPAddress

SERVER, CLIENT = 67, 68
SERVER6, CLIENT6 = 547, 546
"""The ports of DHCP (RFC 2131, 4.1) and DHCPv6 (RFC 8415, 7.2)."""

_IPV4, _IPV6, _UDP = 0x0800, 0x86DD, 17
_FRAGMENT = 0x3FFF  # more fragments, or an offset


class Malformed(ValueError):
    """The bytes are not what they should be."""


class Datagram(msgspec.Struct, frozen=True):
    """One UDP datagram between two stations of a LAN. MACs are six bytes; both addresses are of one family."""

    source_mac: bytes
    target_mac: bytes
    source: IPAddress
    target: IPAddress
    source_port: int
    target_port: int
    payload: bytes


def encode(datagram: Datagram) -> bytes:
    """Return *datagram* as an Ethernet frame."""
    source, target = datagram.source.packed, datagram.target.packed
    length = 8 + len(datagram.payload)
    ports = datagram.source_port.to_bytes(2) + datagram.target_port.to_bytes(2) + length.to_bytes(2)
    pseudo = source + target + _UDP.to_bytes(2) + length.to_bytes(2)
    # A sum that comes to zero is sent as its other form: zero says that there is none (RFC 768).
    total = _checksum(pseudo + ports + datagram.payload) or 0xFFFF
    udp = ports + total.to_bytes(2) + datagram.payload
    if datagram.source.version == 4:
        kind = _IPV4
        start = b"\x45\x00" + (20 + length).to_bytes(2) + b"\x00\x00\x00\x00\x40" + bytes([_UDP])
        header = start + _checksum(start + source + target).to_bytes(2) + source + target
    else:
        kind = _IPV6
        header = b"\x60\x00\x00\x00" + length.to_bytes(2) + bytes([_UDP, 64]) + source + target
    return datagram.target_mac + datagram.source_mac + kind.to_bytes(2) + header + udp


def decode(frame: bytes) -> Datagram:
    """Return the datagram in *frame*.

    Raises:
        Malformed: it is cut off or damaged, or holds something else than one whole datagram.
    """
    kind = int.from_bytes(frame[12:14])
    source: IPAddress
    target: IPAddress
    if kind == _IPV4 and len(frame) >= 34:
        packet = frame[14 : 14 + int.from_bytes(frame[16:18])]
        size = (packet[0] & 0xF) * 4 if packet else 0
        if len(packet) < size or size < 20 or packet[0] >> 4 != 4 or _checksum(packet[:size]):
            raise Malformed("the IPv4 header is damaged")
        protocol, fragment = packet[9], int.from_bytes(packet[6:8]) & _FRAGMENT
        source, target = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    elif kind == _IPV6 and len(frame) >= 54:
        size, protocol, fragment = 40, frame[20], 0
        packet = frame[14 : 54 + int.from_bytes(frame[18:20])]
        source, target = IPv6Address(frame[22:38]), IPv6Address(frame[38:54])
    else:
        raise Malformed("the frame holds no IP packet")
    udp = packet[size:]
    length = int.from_bytes(udp[4:6])
    if protocol != _UDP or fragment or not 8 <= length <= len(udp):
        raise Malformed("the packet holds no whole UDP datagram")
    ports = int.from_bytes(udp[0:2]), int.from_bytes(udp[2:4])
    return Datagram(frame[6:12], frame[0:6], source, target, *ports, udp[8:length])


def _checksum(data: bytes) -> int:
    """The ones' complement sum of *data* (RFC 1071). 65,536 is 1 modulo 65,535, so one division folds all carries."""
    total = int.from_bytes(data + b"\x00" if len(data) % 2 else data)
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))
