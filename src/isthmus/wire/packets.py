"""Who has an address: ARP for IPv4, Neighbour Discovery for IPv6, as values that are written to and read from frames.

ARP is RFC 826, and RFC 5227 where it is used to find out whether an address is free: a *probe* asks without saying that
its sender has any address, so no neighbour changes its table for it. Neighbour Discovery is RFC 4861; RFC 4862 asks
with it in the same way (there it is a solicitation from the unspecified address).

A frame begins at its Ethernet header and ends without a checksum; what follows a packet (padding) is not looked at. A
MAC is text, six pairs of lower-case digits.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

import msgspec

from isthmus.model import IPAddress
from isthmus.naming import octets

EVERYBODY = "ff:ff:ff:ff:ff:ff"
UNKNOWN = "00:00:00:00:00:00"
ANY4 = IPv4Address("0.0.0.0")  # noqa: S104 - here it says "no address"
ANY6 = IPv6Address("::")
ALL_NODES = IPv6Address("ff02::1")

ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0800, 0x0806, 0x86DD
IPPROTO_ICMPV6 = 58
ND_NEIGHBOR_SOLICIT, ND_NEIGHBOR_ADVERT = 135, 136
ND_OPT_SOURCE_LINKADDR, ND_OPT_TARGET_LINKADDR = 1, 2

_ETHERNET = Struct("!6s6sH")
_ARP = Struct("!HHBBH6s4s6s4s")
_IPV6 = Struct("!IHBB16s16s")
_ICMPV6 = Struct("!BBHI16s")
_OPTION = Struct("!BB6s")
_ARPHRD_ETHER = 1
_VERSION_6 = 6 << 28
_HOPS = 255  # RFC 4861, 7.1: so that nothing from beyond a router is believed
_ROUTER, _SOLICITED, _OVERRIDE = 1 << 31, 1 << 30, 1 << 29


class DecodeError(ValueError):
    """A frame that holds none of these packets, or a damaged one."""


class Operation(IntEnum):
    """What an ARP packet is for."""

    REQUEST = 1
    REPLY = 2


class Arp(msgspec.Struct, frozen=True):
    """An ARP packet, and the MACs of its frame. In a request, *target_mac* says nothing."""

    destination: str
    source: str
    operation: Operation
    sender_mac: str
    sender: IPv4Address
    target_mac: str
    target: IPv4Address


class Solicitation(msgspec.Struct, frozen=True):
    """A Neighbour Solicitation from *sender* to *receiver*: who has *target*? *mac* is its sender's, or "" (unsaid)."""

    destination: str
    source: str
    sender: IPv6Address
    receiver: IPv6Address
    target: IPv6Address
    mac: str = ""


class Advertisement(msgspec.Struct, frozen=True):
    """A Neighbour Advertisement from *sender* to *receiver*: *mac* has *target* ("": the frame's source has it)."""

    destination: str
    source: str
    sender: IPv6Address
    receiver: IPv6Address
    target: IPv6Address
    mac: str = ""
    router: bool = False
    solicited: bool = False
    override: bool = False


Packet = Arp | Solicitation | Advertisement


# ---- what we say


def arp_request(mac: str, sender: IPv4Address, target: IPv4Address) -> Arp:
    """Ask for the MAC of *target*; whoever hears it learns that *sender* is at *mac*."""
    return Arp(EVERYBODY, mac, Operation.REQUEST, mac, sender, UNKNOWN, target)


def arp_probe(mac: str, target: IPv4Address) -> Arp:
    """Ask whether anybody has *target*; nobody learns anything from it (RFC 5227, 2.1.1)."""
    return arp_request(mac, ANY4, target)


def arp_announcement(mac: str, address: IPv4Address) -> Arp:
    """Tell everybody that *mac* has *address* (RFC 5227, 2.3)."""
    return arp_request(mac, address, address)


def arp_reply(request: Arp, mac: str) -> Arp:
    """Answer *request*: the address that it asks for is at *mac*."""
    return Arp(request.sender_mac, mac, Operation.REPLY, mac, request.target, request.sender_mac, request.sender)


def solicitation(mac: str, sender: IPv6Address, target: IPv6Address) -> Solicitation:
    """Ask for the MAC of *target*; whoever has it learns that *sender* is at *mac*, and answers there."""
    group = solicited_node(target)
    return Solicitation(multicast_mac(group), mac, sender, group, target, mac)


def dad_solicitation(mac: str, target: IPv6Address) -> Solicitation:
    """Ask whether anybody has *target*; who has it tells everybody (RFC 4862, 5.4.2)."""
    group = solicited_node(target)
    return Solicitation(multicast_mac(group), mac, ANY6, group, target)


def advertisement(request: Solicitation, mac: str) -> Advertisement:
    """Answer *request*: its target is at *mac* (RFC 4861, 7.2.4). One that has no address is answered to everybody."""
    if request.sender == ANY6:
        return unsolicited_advertisement(mac, request.target)
    destination = request.mac or request.source
    return Advertisement(
        destination, mac, request.target, request.sender, request.target, mac, solicited=True, override=True
    )


def unsolicited_advertisement(mac: str, address: IPv6Address) -> Advertisement:
    """Tell everybody that *mac* has *address* (RFC 4861, 7.2.6)."""
    return Advertisement(multicast_mac(ALL_NODES), mac, address, ALL_NODES, address, mac, override=True)


def announcement(mac: str, address: IPAddress) -> Packet:
    """Tell everybody that *mac* has *address*, in the way of its IP version."""
    return (
        arp_announcement(mac, address) if isinstance(address, IPv4Address) else unsolicited_advertisement(mac, address)
    )


def probe(mac: str, target: IPAddress) -> Packet:
    """Ask whether anybody has *target*, with an address of neither family as sender."""
    return arp_probe(mac, target) if isinstance(target, IPv4Address) else dad_solicitation(mac, target)


def solicited_node(address: IPv6Address) -> IPv6Address:
    """The group that whoever has *address* is in (RFC 4291, 2.7.1)."""
    return IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + address.packed[-3:])


def multicast_mac(group: IPv6Address) -> str:
    """The MAC by which a multicast *group* is reached (RFC 2464, 7)."""
    return (b"\x33\x33" + group.packed[-4:]).hex(":")


# ---- what is meant


class Claim(NamedTuple):
    """Somebody at *mac* has *address* (*held*), or is about to take it and asks whether it is free."""

    address: IPAddress
    mac: str
    held: bool


def claim(packet: Packet) -> Claim | None:
    """Return what *packet* claims; None if it only asks for a MAC.

    An ARP packet of either operation says that its sender has its address, and a probe that it would like to have the
    target's (RFC 5227, 2.1.1 and 2.4). Of IPv6's, an advertisement says the first, a solicitation from nobody the
    second (RFC 4862, 5.4.3 and 5.4.4).
    """
    match packet:
        case Arp(sender=sender, sender_mac=mac) if sender != ANY4:
            return Claim(sender, mac, held=True)
        case Arp(operation=Operation.REQUEST, target=target, sender_mac=mac):
            return Claim(target, mac, held=False)
        case Advertisement(target=target, mac=mac, source=source):
            return Claim(target, mac or source, held=True)
        case Solicitation(sender=sender, target=target, source=source) if sender == ANY6:
            return Claim(target, source, held=False)
        case _:
            return None


# ---- writing


def encode(packet: Packet) -> bytes:
    """Return the frame that *packet* travels as."""
    match packet:
        case Arp():
            return _frame(packet, ETH_P_ARP) + _ARP.pack(
                _ARPHRD_ETHER,
                ETH_P_IP,
                6,
                4,
                packet.operation,
                octets(packet.sender_mac),
                packet.sender.packed,
                octets(packet.target_mac),
                packet.target.packed,
            )
        case Solicitation():
            return _icmpv6(packet, ND_NEIGHBOR_SOLICIT, 0, ND_OPT_SOURCE_LINKADDR)
        case Advertisement():
            flags = packet.router * _ROUTER | packet.solicited * _SOLICITED | packet.override * _OVERRIDE
            return _icmpv6(packet, ND_NEIGHBOR_ADVERT, flags, ND_OPT_TARGET_LINKADDR)


def _frame(packet: Packet, ethertype: int) -> bytes:
    return _ETHERNET.pack(octets(packet.destination), octets(packet.source), ethertype)


def _icmpv6(packet: Solicitation | Advertisement, kind: int, flags: int, option: int) -> bytes:
    options = _OPTION.pack(option, 1, octets(packet.mac)) if packet.mac else b""
    sender, receiver = packet.sender.packed, packet.receiver.packed
    checksum = _checksum(sender, receiver, _ICMPV6.pack(kind, 0, 0, flags, packet.target.packed) + options)
    message = _ICMPV6.pack(kind, 0, checksum, flags, packet.target.packed) + options
    header = _IPV6.pack(_VERSION_6, len(message), IPPROTO_ICMPV6, _HOPS, sender, receiver)
    return _frame(packet, ETH_P_IPV6) + header + message


def _checksum(sender: bytes, receiver: bytes, message: bytes) -> int:
    """What makes the sum over *message* and its pseudo-header come out as all ones (RFC 4443, 2.3; RFC 1071).

    Of a message that holds its checksum already, it is 0.
    """
    data = sender + receiver + struct.pack("!II", len(message), IPPROTO_ICMPV6) + message
    # To add 16-bit words, and each carry to the end, is to divide the whole as one number by 0xffff; what is left is
    # from 1 to 0xffff, as no sum of such words is 0.
    return 0xFFFE - (int.from_bytes(data + bytes(len(data) & 1), "big") - 1) % 0xFFFF


# ---- reading


def decode(frame: bytes) -> Packet:
    """Read a frame; raises DecodeError unless it holds one of these packets, and one that may be believed.

    What is not to be believed is dropped as RFC 4861, 7.1, and RFC 826 say: among it what came over a router, what has
    a wrong checksum, and a duplicate address detection that asks one host alone.
    """
    try:
        destination, source, ethertype = _ETHERNET.unpack_from(frame)
        if ethertype == ETH_P_ARP:
            return _decode_arp(destination.hex(":"), source.hex(":"), frame)
        if ethertype == ETH_P_IPV6:
            return _decode_nd(destination.hex(":"), source.hex(":"), frame)
    except struct.error as error:
        raise DecodeError(f"a frame that ends too soon: {error}") from error
    raise DecodeError(f"ethertype {ethertype:#06x}")


def _decode_arp(destination: str, source: str, frame: bytes) -> Arp:
    hardware, protocol, mac_size, address_size, operation, *addresses = _ARP.unpack_from(frame, _ETHERNET.size)
    if (hardware, protocol, mac_size, address_size) != (_ARPHRD_ETHER, ETH_P_IP, 6, 4):
        raise DecodeError(f"ARP between hardware {hardware} and protocol {protocol:#06x}")
    if operation not in (Operation.REQUEST, Operation.REPLY):
        raise DecodeError(f"ARP operation {operation}")
    sender_mac, sender, target_mac, target = addresses
    return Arp(
        destination,
        source,
        Operation(operation),
        sender_mac.hex(":"),
        IPv4Address(sender),
        target_mac.hex(":"),
        IPv4Address(target),
    )


def _decode_nd(destination: str, source: str, frame: bytes) -> Solicitation | Advertisement:
    start = _ETHERNET.size + _IPV6.size
    version, size, protocol, hops, raw_sender, raw_receiver = _IPV6.unpack_from(frame, _ETHERNET.size)
    message = frame[start : start + size]
    if version >> 28 != 6 or protocol != IPPROTO_ICMPV6 or hops != _HOPS or len(message) != size:
        raise DecodeError(
            f"IP version {version >> 28}, protocol {protocol}, {hops} hops, {len(message)} of {size} bytes"
        )
    kind, code, _, flags, raw_target = _ICMPV6.unpack_from(message)
    if code or _checksum(raw_sender, raw_receiver, message):
        raise DecodeError(f"ICMPv6 code {code}, or a wrong checksum")
    sender, receiver, target = IPv6Address(raw_sender), IPv6Address(raw_receiver), IPv6Address(raw_target)
    if target.is_multicast:
        raise DecodeError(f"nobody has the multicast address {target}")
    options = dict(_options(message))
    if kind == ND_NEIGHBOR_SOLICIT:
        mac = options.get(ND_OPT_SOURCE_LINKADDR, "")
        if sender == ANY6 and (mac or receiver != solicited_node(receiver)):
            raise DecodeError("an address is checked, but not with everybody, or by somebody who has one")
        return Solicitation(destination, source, sender, receiver, target, mac)
    if kind == ND_NEIGHBOR_ADVERT:
        solicited = bool(flags & _SOLICITED)
        if solicited and receiver.is_multicast:
            raise DecodeError("an answer to one, sent to many")
        mac = options.get(ND_OPT_TARGET_LINKADDR, "")
        router, override = bool(flags & _ROUTER), bool(flags & _OVERRIDE)
        return Advertisement(destination, source, sender, receiver, target, mac, router, solicited, override)
    raise DecodeError(f"ICMPv6 type {kind}")


def _options(message: bytes) -> Iterator[tuple[int, str]]:
    """Yield each option that may hold a MAC, as its type and the MAC."""
    offset = _ICMPV6.size
    while offset < len(message):
        kind, eights, mac = _OPTION.unpack_from(message, offset)
        if not eights:
            raise DecodeError("an option without length")
        if eights == 1:
            yield kind, mac.hex(":")
        offset += 8 * eights
    if offset > len(message):
        raise DecodeError("an option that ends too soon")
