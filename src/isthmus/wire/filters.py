"""What the kernel lets through to a port, so that a busy wire does not wake the daemon for nothing.

Frames of all VLANs pass a device, and a VLAN is another wire. How a socket tells its own wire's frames is where a
port's program begins (`UNTAGGED`, `arrived`); the others here say what is kept of those.
"""

from collections.abc import Iterator, Mapping

from isthmus.bpf import (
    COPY,
    COPY_HEADER_LENGTH,
    EVERYTHING,
    IF_AT_LEAST,
    IF_BITS,
    IF_COPY_EQUAL,
    IF_EQUAL,
    LOAD_BYTE,
    LOAD_HALF,
    LOAD_HALF_BEYOND,
    LOAD_VALUE,
    LOAD_WORD,
    RETURN,
    SKIP,
    Instruction,
)
from isthmus.model import IPAddress
from isthmus.naming import octets
from isthmus.wire.packets import (
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_ICMPV6,
    ND_NEIGHBOR_ADVERT,
    ND_NEIGHBOR_SOLICIT,
)

BOUND = 256
"""How many addresses a program compares at most; kernels before 6.8 have room for little more (`optmem_max`)."""

_IPPROTO_UDP = 17
_PACKET_OTHERHOST = 3
_VLAN_ID = 0x0FFF
_KEEP: Instruction = (RETURN, 0, 0, EVERYTHING)
_DROP: Instruction = (RETURN, 0, 0, 0)

# Beside a frame, not in it: SKF_AD_OFF and SKF_AD_PKTTYPE, SKF_AD_IFINDEX, SKF_AD_VLAN_TAG (linux/filter.h).
_KIND, _DEVICE, _VLAN_TAG = (0xFFFF_F000 + offset for offset in (4, 8, 44))

# Where things are: in the Ethernet header, in ARP's, in IPv6's, in ICMPv6's (with the last word of the target).
_SOURCE_END, _ETHERTYPE = 8, 12
_ARP_SENDER = 28
_IP_FRAGMENT, _IP_PROTOCOL, _IP_START, _IP_PORT = 20, 23, 14, 16
_IPV6_PROTOCOL, _IPV6_PORT = 20, 56
_ICMPV6_TYPE, _ND_TARGET_END = 54, 74

UNTAGGED: tuple[Instruction, ...] = ((LOAD_WORD, 0, 0, _VLAN_TAG), (IF_BITS, 0, 1, _VLAN_ID), _DROP)
"""How a tap's program begins: it sees the frames of every VLAN, with the tag beside them."""


def arrived(index: int) -> tuple[Instruction, ...]:
    """How the program of a socket begins that hears one protocol on the device of this *index*.

    By then the kernel has taken the tag off. A frame of a VLAN that the host has a device for has become that device's,
    and is heard all the same; one of any other VLAN is marked as for another host (`__netif_receive_skb_core`).
    """
    return (
        (LOAD_WORD, 0, 0, _DEVICE),
        (IF_EQUAL, 1, 0, index),
        _DROP,
        (LOAD_WORD, 0, 0, _KIND),
        (IF_EQUAL, 0, 1, _PACKET_OTHERHOST),
        _DROP,
    )


NEIGHBOURS: tuple[Instruction, ...] = (
    (LOAD_HALF, 0, 0, _ETHERTYPE),
    (IF_EQUAL, 6, 0, ETH_P_ARP),
    (IF_EQUAL, 0, 4, ETH_P_IPV6),
    (LOAD_BYTE, 0, 0, _IPV6_PROTOCOL),
    (IF_EQUAL, 0, 2, IPPROTO_ICMPV6),
    (LOAD_BYTE, 0, 0, _ICMPV6_TYPE),
    (IF_EQUAL, 1, 0, ND_NEIGHBOR_ADVERT),
    (IF_EQUAL, 0, 1, ND_NEIGHBOR_SOLICIT),
    _KEEP,
    _DROP,
)
"""All of ARP, and of IPv6 the solicitations and advertisements of neighbours."""


def datagrams(port: int) -> tuple[Instruction, ...]:
    """Keep the UDP datagrams to *port*, of IPv4 and IPv6; no fragments."""
    return (
        (LOAD_HALF, 0, 0, _ETHERTYPE),
        (IF_EQUAL, 5, 0, ETH_P_IP),
        (IF_EQUAL, 0, 12, ETH_P_IPV6),
        (LOAD_BYTE, 0, 0, _IPV6_PROTOCOL),
        (IF_EQUAL, 0, 10, _IPPROTO_UDP),
        (LOAD_HALF, 0, 0, _IPV6_PORT),
        (IF_EQUAL, 7, 8, port),
        (LOAD_BYTE, 0, 0, _IP_PROTOCOL),
        (IF_EQUAL, 0, 6, _IPPROTO_UDP),
        (LOAD_HALF, 0, 0, _IP_FRAGMENT),
        (IF_BITS, 4, 0, 0x3FFF),  # it has an offset, or more of it follows
        (COPY_HEADER_LENGTH, 0, 0, _IP_START),
        (LOAD_HALF_BEYOND, 0, 0, _IP_PORT),
        (IF_EQUAL, 0, 1, port),
        _KEEP,
        _DROP,
    )


def rivals(holders: Mapping[IPAddress, str]) -> tuple[Instruction, ...]:
    """Keep the ARP packets and advertisements that claim one of the addresses, unless its holder's MAC sent them.

    A MAC is told by its last four bytes, an IPv6 address by its last four. A search costs steps as the logarithm of
    the number of addresses. Of more than `BOUND` none is compared, and all that claims any address is kept.
    """
    four, six = _keys(holders, 4), _keys(holders, 6)
    known = len(four) + len(six) <= BOUND
    inet6 = (
        (IF_EQUAL, 1, 0, ETH_P_IPV6),
        _DROP,
        (LOAD_BYTE, 0, 0, _IPV6_PROTOCOL),
        (IF_EQUAL, 1, 0, IPPROTO_ICMPV6),
        _DROP,
        (LOAD_BYTE, 0, 0, _ICMPV6_TYPE),
        (IF_EQUAL, 1, 0, ND_NEIGHBOR_ADVERT),
        _DROP,
        (LOAD_WORD, 0, 0, _ND_TARGET_END),
        *(_search(six) if known else (_KEEP,)),
    )
    return (
        (LOAD_WORD, 0, 0, _SOURCE_END),
        (COPY, 0, 0, 0),
        (LOAD_HALF, 0, 0, _ETHERTYPE),
        (IF_EQUAL, 0, 2, ETH_P_ARP),
        (LOAD_WORD, 0, 0, _ARP_SENDER),
        (SKIP, 0, 0, len(inet6)),
        *inet6,
        *(_search(four) if known else ((IF_EQUAL, 0, 1, 0), _DROP, _KEEP)),
    )


_Key = tuple[int, int | None]


def _keys(holders: Mapping[IPAddress, str], version: int) -> tuple[_Key, ...]:
    """The end of each address of this *version*, in order, with that of its MAC: None if there is none, or several."""
    found: dict[int, int | None] = {}
    for address, mac in holders.items():
        if address.version == version:
            end = _end(address.packed)
            found[end] = _end(octets(mac)) if mac and end not in found else None
    return tuple(sorted(found.items(), key=lambda key: key[0]))


def _end(raw: bytes) -> int:
    return int.from_bytes(raw[-4:], "big")


def _search(keys: tuple[_Key, ...]) -> Iterator[Instruction]:
    """Yield a program that looks for the first register among *keys*, and holds the second against the MAC there."""
    match keys:
        case ():
            yield _DROP
        case ((number, None),):
            yield from ((IF_EQUAL, 0, 1, number), _KEEP, _DROP)
        case ((number, int(mac)),):
            yield from ((IF_EQUAL, 1, 0, number), _DROP)
            yield from ((LOAD_VALUE, 0, 0, mac), (IF_COPY_EQUAL, 0, 1, 0), _DROP, _KEEP)
        case _:
            middle = len(keys) // 2
            below = tuple(_search(keys[:middle]))
            yield from ((IF_AT_LEAST, 0, 1, keys[middle][0]), (SKIP, 0, 0, len(below)))
            yield from below
            yield from _search(keys[middle:])
