"""Links, addresses, routes and neighbours, in the kernel's own words (rtnetlink).

A message is `bytes` in both directions. The functions at the top make requests (`newlink`, `deladdr`, ...), those in
the middle read answers (`link`, `address`, ...), and `Socket` carries both; nothing above `Socket` does any input or
output. The layout is that of `linux/rtnetlink.h`, `if_link.h`, `if_addr.h` and `neighbour.h`; constants keep Linux's
names.

Attaching a container is a handful of system calls, so what Python adds to them is what a user waits for. Therefore a
message is one concatenation of bytes made by ready structs, without an object for each attribute, and `Socket.request`
sends many messages in one system call and asks for an acknowledgement of the last alone: the kernel works through a
batch in order, tells of every failure whether it was asked or not, and goes on after it.

What the kernel does not do, measured on 6.18, and why the signatures are as they are:

- It ignores IFLA_IFALIAS and a port's options when a link is made, and refuses IFLA_AF_SPEC: `setlink` sets them.
- A port's options can only be set when the link is a port already: not in the message that puts it on the bridge.
- The *peer* of a veth cannot be made up (ENOTCONN), and its index is obeyed only if the other end's is given, too.
"""

import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from errno import EAGAIN, EMSGSIZE, ENOBUFS
from fcntl import ioctl
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address
from os import strerror
from struct import Struct
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

from isthmus import bpf
from isthmus.bpf import Instruction
from isthmus.model import IPAddress, IPInterface
from isthmus.naming import MAIN_TABLE, PROTOCOL, RULE_PRIORITY, octets
from isthmus.resources import NOBODY

IPNetwork = IPv4Network | IPv6Network

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_LISTEN_ALL_NSID = 8
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_ECHO = 0x8
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_REPLACE = 0x100
NLM_F_APPEND = 0x800
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWNSID, RTM_GETNSID = 88, 90

AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10
IFF_UP, IFF_LOOPBACK = 0x1, 0x8

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 18, 20, 26, 27, 28
IFLA_EXT_MASK, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES, IFLA_LINK_NETNSID, IFLA_EVENT = 29, 31, 32, 37, 44
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_INET_CONF = 1
IPV4_DEVCONF_ARP_NOTIFY = 22
IFLA_INET6_ADDR_GEN_MODE = 8
IFLA_BR_FORWARD_DELAY, IFLA_BR_STP_STATE, IFLA_BR_MCAST_SNOOPING = 1, 5, 23
IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES, IFLA_BR_NF_CALL_ARPTABLES = 36, 37, 38
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE, IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD = 1, 4, 8, 9
IFLA_BRPORT_FLUSH, IFLA_BRPORT_ISOLATED = 24, 33
BR_STATE_DISABLED = 0
IFLA_MACVLAN_MODE = 1
IFLA_IPVLAN_MODE, IFLA_IPVLAN_FLAGS = 1, 2
IFLA_VLAN_ID = 1
IFLA_VXLAN_ID, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PROXY = 1, 4, 7, 11
IFLA_VXLAN_L2MISS, IFLA_VXLAN_L3MISS, IFLA_VXLAN_PORT, IFLA_VXLAN_LOCAL6 = 13, 14, 15, 17
VETH_INFO_PEER = 1
RTEXT_FILTER_SKIP_STATS = 8

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS, IFA_PROTO = 1, 2, 4, 8, 11
IFA_F_NODAD = 0x02

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255
RTN_UNICAST = 1

FRA_SRC, FRA_PRIORITY, FRA_TABLE, FRA_PROTOCOL = 2, 6, 15, 21
FR_ACT_TO_TBL = 1

NDA_DST, NDA_LLADDR, NDA_CACHEINFO, NDA_IFINDEX, NDA_MASTER, NDA_PROTOCOL = 1, 2, 3, 8, 9, 12
NUD_FAILED, NUD_NOARP, NUD_PERMANENT = 0x20, 0x40, 0x80
NTF_SELF, NTF_MASTER, NTF_EXT_LEARNED = 0x02, 0x04, 0x10

NETNSA_NSID, NETNSA_FD = 1, 3

RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE = 0x1, 0x4, 0x10, 0x40, 0x80
RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE, RTMGRP_IPV6_RULE = 0x100, 0x400, 0x4_0000

T = TypeVar("T")

_HEADER = Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
_LINK = Struct("=IHHIIBxHiII")  # ... and struct ifinfomsg: family, hardware type, index, flags, which flags to change
_PEER = Struct("=BxHiII")  # struct ifinfomsg alone
_ADDRESS = Struct("=IHHIIBBBBi")  # ... and struct ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = Struct(
    "=IHHIIBBBBBBBBI"
)  # ... and struct rtmsg: family, two prefix lengths, tos, table, protocol, scope, type
_NEIGHBOUR = Struct("=IHHIIBxxxiHBB")  # ... and struct ndmsg: family, index, state, flags, type
_GENERAL = Struct("=IHHIIBxxx")  # ... and struct rtgenmsg: family
_ATTRIBUTE = Struct("=HH")  # struct nlattr: length, type
_ATTRIBUTE_U8 = Struct("=HHBxxx")
_ATTRIBUTE_U16 = Struct("=HHHxx")
_ATTRIBUTE_PORT = Struct("=HH2sxx")
_ATTRIBUTE_U32 = Struct("=HHI")
_ATTRIBUTE_S32 = Struct("=HHi")
_U16 = Struct("=H")
_U32 = Struct("=I")
_S32 = Struct("=i")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class DecodeError(ValueError):
    """Bytes that are no message of the kind asked for."""


class NetlinkError(OSError):
    """The kernel refused message *index* of a batch (from 0) with *errno*; *text* is its explanation, or empty."""

    def __init__(self, index: int, errno: int, text: str = "") -> None:
        super().__init__(errno, text or strerror(errno))
        self.index, self.text = index, text


class AddrGenMode(IntEnum):
    """How a link gets its IPv6 link-local address (`enum in6_addr_gen_mode`); NONE: it does not."""

    EUI64 = 0
    NONE = 1
    STABLE_PRIVACY = 2
    RANDOM = 3


class MacvlanMode(IntEnum):
    """What the macvlans of one parent can say to each other (`enum macvlan_mode`)."""

    PRIVATE = 1
    VEPA = 2
    BRIDGE = 4
    PASSTHRU = 8


class IpvlanMode(IntEnum):
    """At which layer the ipvlans of one parent are told apart (`enum ipvlan_mode`)."""

    L2 = 0
    L3 = 1
    L3S = 2


class IpvlanFlag(IntEnum):
    """What the ipvlans of one parent can say to each other (`IPVLAN_F_PRIVATE`, `IPVLAN_F_VEPA`)."""

    BRIDGE = 0
    PRIVATE = 1
    VEPA = 2


# ---- requests: attributes


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes; put NLA_F_NESTED into *kind* where the kernel checks for it."""
    size = len(payload)
    return _ATTRIBUTE.pack(size + 4, kind) + payload + _PADDING[size & 3]


def attribute_u32(kind: int, value: int) -> bytes:
    """One attribute that holds a 32-bit number in the machine's byte order."""
    return _ATTRIBUTE_U32.pack(8, kind, value)


def _attribute_u8(kind: int, value: int) -> bytes:
    return _ATTRIBUTE_U8.pack(5, kind, value)


def _attribute_u16(kind: int, value: int) -> bytes:
    return _ATTRIBUTE_U16.pack(6, kind, value)


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode("utf-8", "surrogateescape") + b"\0")


_ADDR_GEN_MODE = {
    mode: attribute(NLA_F_NESTED | AF_INET6, _ATTRIBUTE_U8.pack(5, IFLA_INET6_ADDR_GEN_MODE, mode))
    for mode in AddrGenMode
}
_ANNOUNCE = {
    announce: attribute(
        NLA_F_NESTED | AF_INET,
        attribute(NLA_F_NESTED | IFLA_INET_CONF, attribute_u32(IPV4_DEVCONF_ARP_NOTIFY, announce)),
    )
    for announce in (False, True)
}
_QUEUES = {n: attribute_u32(IFLA_NUM_TX_QUEUES, n) + attribute_u32(IFLA_NUM_RX_QUEUES, n) for n in range(1, 9)}
_SHUT = _attribute_u8(IFLA_BRPORT_STATE, BR_STATE_DISABLED) + attribute(IFLA_BRPORT_FLUSH, b"")
_SKIP_STATS = attribute_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)


# ---- requests: links


def _birth(name: str, mac: str, mtu: int, group: int, queues: int) -> bytes:
    """Return the attributes that either end of a pair may be born with."""
    attributes = _text(IFLA_IFNAME, name)
    if mac:
        attributes += attribute(IFLA_ADDRESS, octets(mac))
    if mtu:
        attributes += attribute_u32(IFLA_MTU, mtu)
    if group:
        attributes += attribute_u32(IFLA_GROUP, group)
    if queues:
        attributes += _QUEUES[queues]
    return attributes


def newlink(
    kind: str,
    name: str,
    *,
    index: int = 0,
    parent: int = 0,
    master: int = 0,
    mac: str = "",
    mtu: int = 0,
    group: int = 0,
    queues: int = 0,
    netns: int = -1,
    up: bool = False,
    data: bytes = b"",
) -> bytes:
    """Make a link of this *kind* ("bridge", "veth", "macvlan", "dummy", ...); EEXIST if its name or index is taken.

    Whatever is 0 or empty is left to the kernel. *Parent* is the index of the link below (of a macvlan, ipvlan or VLAN)
    in the socket's own namespace, *master* that of the bridge it becomes a port of; *netns* the descriptor of the
    namespace that it is born in; *queues* (1 to 8) how many it has in each direction; *data* what the kind's own
    function here returns.
    """
    attributes = _birth(name, mac, mtu, group, queues)
    if parent:
        attributes += attribute_u32(IFLA_LINK, parent)
    if master:
        attributes += attribute_u32(IFLA_MASTER, master)
    if netns >= 0:
        attributes += attribute_u32(IFLA_NET_NS_FD, netns)
    info = attribute(IFLA_INFO_KIND, kind.encode("ascii"))
    if data:
        info += attribute(IFLA_INFO_DATA, data)
    attributes += attribute(IFLA_LINKINFO, info)
    flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
    return _LINK.pack(32 + len(attributes), RTM_NEWLINK, flags, 0, 0, 0, 0, index, up, up) + attributes


def veth(
    name: str, *, netns: int = -1, index: int = 0, mac: str = "", mtu: int = 0, group: int = 0, queues: int = 0
) -> bytes:
    """Return the `data` of a veth: its other end, born in the namespace of descriptor *netns* if one is given."""
    peer = _PEER.pack(0, 0, index, 0, 0) + _birth(name, mac, mtu, group, queues)
    if netns >= 0:
        peer += attribute_u32(IFLA_NET_NS_FD, netns)
    return attribute(VETH_INFO_PEER, peer)


def bridge(
    *,
    forward_delay: int | None = None,
    stp: bool | None = None,
    multicast_snooping: bool | None = None,
    nf_call: bool | None = None,
) -> bytes:
    """Return the `data` of a bridge; None leaves the kernel's default. *Forward_delay* is in hundredths of a second.

    *Nf_call* sends what it bridges through iptables, ip6tables and arptables (and so through nftables' hooks of IP), as
    the sysctls `net.bridge.bridge-nf-call-*` do for every bridge of the namespace: False cannot take it back from
    those.
    """
    data = b""
    if forward_delay is not None:
        data += attribute_u32(IFLA_BR_FORWARD_DELAY, forward_delay)
    if stp is not None:
        data += attribute_u32(IFLA_BR_STP_STATE, stp)
    if multicast_snooping is not None:
        data += _attribute_u8(IFLA_BR_MCAST_SNOOPING, multicast_snooping)
    if nf_call is not None:
        data += _attribute_u8(IFLA_BR_NF_CALL_IPTABLES, nf_call)
        data += _attribute_u8(IFLA_BR_NF_CALL_IP6TABLES, nf_call)
        data += _attribute_u8(IFLA_BR_NF_CALL_ARPTABLES, nf_call)
    return data


def macvlan(mode: MacvlanMode) -> bytes:
    """Return the `data` of a macvlan."""
    return attribute_u32(IFLA_MACVLAN_MODE, mode)


def ipvlan(mode: IpvlanMode, flag: IpvlanFlag = IpvlanFlag.BRIDGE) -> bytes:
    """Return the `data` of an ipvlan. All ipvlans of its parent get this mode and flag, too."""
    return _attribute_u16(IFLA_IPVLAN_MODE, mode) + _attribute_u16(IFLA_IPVLAN_FLAGS, flag)


def vlan(vid: int) -> bytes:
    """Return the `data` of a VLAN of 802.1Q, *vid* from 0 to 4094."""
    return _attribute_u16(IFLA_VLAN_ID, vid)


def vxlan(
    vni: int, *, port: int, local: IPAddress | None = None, learning: bool = False, asking: bool = False
) -> bytes:
    """Return the `data` of a tunnel (RFC 7348) of the number *vni*, on the UDP *port*, sent from *local*.

    If it is not *learning*, it knows only what it is told, and answers itself who has an address that it was told of.
    With *asking* the kernel tells (RTM_GETNEIGH, to those who hear of neighbours) of whom it should have been told.
    """
    data = attribute_u32(IFLA_VXLAN_ID, vni) + _ATTRIBUTE_PORT.pack(6, IFLA_VXLAN_PORT, port.to_bytes(2, "big"))
    if local is not None:
        data += attribute(IFLA_VXLAN_LOCAL if local.version == 4 else IFLA_VXLAN_LOCAL6, local.packed)
    data += _attribute_u8(IFLA_VXLAN_LEARNING, learning) + _attribute_u8(IFLA_VXLAN_PROXY, not learning)
    return data + _attribute_u8(IFLA_VXLAN_L2MISS, asking) + _attribute_u8(IFLA_VXLAN_L3MISS, asking)


def setlink(
    link: int | str,
    *,
    up: bool | None = None,
    master: int | None = None,
    name: str | None = None,
    alias: str | None = None,
    mac: str | None = None,
    mtu: int | None = None,
    group: int | None = None,
    addr_gen_mode: AddrGenMode | None = None,
    announce: bool | None = None,
    isolated: bool | None = None,
    hairpin: bool | None = None,
    learning: bool | None = None,
    flood: bool | None = None,
    shut: bool = False,
) -> bytes:
    """Change the link of this index or name; None leaves a thing as it is. ENODEV if there is none.

    *Master* 0 takes it off its bridge; an empty *alias* removes the alias; *isolated*, *hairpin*, *learning*, *flood*
    and *shut* need a link that is a port already. The bridge of a *learning* port knows who is behind it by what comes
    in there; with *flood* it sends there what is for nobody that it knows. A port that is *shut* lets nothing through,
    and its bridge forgets who was behind it; EBUSY if that runs the spanning tree protocol. *Announce* is the sysctl
    `arp_notify` of its IPv4 side, which a link has from an MTU of 68 on. The kernel carries a message out in this
    order: port options, mac, mtu, group, name, alias,
    up, master, addr_gen_mode, announce. So to come up without an IPv6 link-local address takes two messages; and so
    does to take a link down and rename it, where the kernel (before 6.2) renames none that is up.
    """
    index, attributes = (link, b"") if isinstance(link, int) else (0, _text(IFLA_IFNAME, link))
    if name is not None:
        attributes += _text(IFLA_IFNAME, name)
    if alias is not None:
        attributes += attribute(IFLA_IFALIAS, alias.encode("utf-8", "surrogateescape") or b"\0")
    if master is not None:
        attributes += attribute_u32(IFLA_MASTER, master)
    if mac is not None:
        attributes += attribute(IFLA_ADDRESS, octets(mac))
    if mtu is not None:
        attributes += attribute_u32(IFLA_MTU, mtu)
    if group is not None:
        attributes += attribute_u32(IFLA_GROUP, group)
    if addr_gen_mode is not None or announce is not None:
        families = _ADDR_GEN_MODE[addr_gen_mode] if addr_gen_mode is not None else b""
        if announce is not None:
            families += _ANNOUNCE[announce]
        attributes += attribute(NLA_F_NESTED | IFLA_AF_SPEC, families)
    options = (
        (IFLA_BRPORT_ISOLATED, isolated),
        (IFLA_BRPORT_MODE, hairpin),
        (IFLA_BRPORT_LEARNING, learning),
        (IFLA_BRPORT_UNICAST_FLOOD, flood),
    )
    port = _SHUT if shut else b""
    for kind_of_option, value in options:
        if value is not None:
            port += _attribute_u8(kind_of_option, value)
    if port:
        kind = attribute(IFLA_INFO_SLAVE_KIND, b"bridge")
        attributes += attribute(IFLA_LINKINFO, kind + attribute(IFLA_INFO_SLAVE_DATA, port))
    flags, change = (IFF_UP if up else 0, 0 if up is None else IFF_UP)
    return _LINK.pack(32 + len(attributes), RTM_NEWLINK, NLM_F_REQUEST, 0, 0, 0, 0, index, flags, change) + attributes


def movelink(name: str, netns: int) -> bytes:
    """Have the link of this *name* go to the namespace of the descriptor *netns*, where it is down at first."""
    attributes = _text(IFLA_IFNAME, name) + attribute_u32(IFLA_NET_NS_FD, netns)
    return _LINK.pack(32 + len(attributes), RTM_NEWLINK, NLM_F_REQUEST, 0, 0, 0, 0, 0, 0, 0) + attributes


def dellink(link: int | str) -> bytes:
    """Delete the link of this index or name (of a veth: both ends); ENODEV if there is none. Takes some 20 ms."""
    index, attributes = (link, b"") if isinstance(link, int) else (0, _text(IFLA_IFNAME, link))
    return _LINK.pack(32 + len(attributes), RTM_DELLINK, NLM_F_REQUEST, 0, 0, 0, 0, index, 0, 0) + attributes


def dellink_group(group: int) -> bytes:
    """Delete all links of this *group* at once, in little more time than one takes; ENODEV if there is none."""
    return _LINK.pack(40, RTM_DELLINK, NLM_F_REQUEST, 0, 0, 0, 0, 0, 0, 0) + attribute_u32(IFLA_GROUP, group)


def getlink(link: int | str) -> bytes:
    """Ask for the link of this index or name (`Socket.ask`); ENODEV if there is none."""
    index, attributes = (link, _SKIP_STATS) if isinstance(link, int) else (0, _SKIP_STATS + _text(IFLA_IFNAME, link))
    return _LINK.pack(32 + len(attributes), RTM_GETLINK, NLM_F_REQUEST, 0, 0, 0, 0, index, 0, 0) + attributes


def dumplinks(*, master: int = 0, kind: str = "") -> bytes:
    """Ask for all links (`Socket.dump`), or only the ports of a bridge, or only those of one kind."""
    attributes = _SKIP_STATS
    if master:
        attributes += attribute_u32(IFLA_MASTER, master)
    if kind:
        attributes += attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode("ascii")))
    flags = NLM_F_REQUEST | NLM_F_DUMP
    return _LINK.pack(32 + len(attributes), RTM_GETLINK, flags, 0, 0, 0, 0, 0, 0, 0) + attributes


# ---- requests: addresses


def newaddr(
    index: int, address: IPInterface, *, broadcast: IPv4Address | None = None, flags: int | None = None
) -> bytes:
    """Give the link of this index an *address*, with our mark; EEXIST if it has it.

    Without *flags*, an IPv6 address is used at once, without a check that nobody else has it (IFA_F_NODAD): we gave it
    out.
    """
    packed = address.packed
    attributes = attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if broadcast is not None:
        attributes += attribute(IFA_BROADCAST, broadcast.packed)
    if flags is None and len(packed) == 16:
        flags = IFA_F_NODAD
    if flags:
        attributes += attribute_u32(IFA_FLAGS, flags)
    attributes += _IFA_PROTO
    return _address(RTM_NEWADDR, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL, index, address, attributes)


def deladdr(index: int, address: IPInterface) -> bytes:
    """Take an *address* from the link of this index; EADDRNOTAVAIL if it has it not."""
    packed = address.packed
    attributes = attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    return _address(RTM_DELADDR, NLM_F_REQUEST, index, address, attributes)


def dumpaddrs(*, index: int = 0, family: int = AF_UNSPEC) -> bytes:
    """Ask for all addresses (`Socket.dump`), or only those of one link, or of one family."""
    return _ADDRESS.pack(24, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 0, 0, family, 0, 0, 0, index)


def _address(kind: int, flags: int, index: int, address: IPInterface, attributes: bytes) -> bytes:
    family = AF_INET if address.version == 4 else AF_INET6
    prefix = address.network.prefixlen
    return _ADDRESS.pack(24 + len(attributes), kind, flags, 0, 0, family, prefix, 0, 0, index) + attributes


_IFA_PROTO = _attribute_u8(IFA_PROTO, PROTOCOL)


# ---- requests: routes


def newroute(
    destination: IPNetwork,
    *,
    gateway: IPAddress | None = None,
    oif: int = 0,
    prefsrc: IPAddress | None = None,
    metric: int = 0,
    table: int = MAIN_TABLE,
    kind: int = RTN_UNICAST,
    replace: bool = False,
) -> bytes:
    """Make a route that bears our mark, by way of a *gateway* or of the link of index *oif*; EEXIST if there is one.

    With *replace* it takes the place of that. *Destination* is `0.0.0.0/0` or `::/0` for a default route; *kind* one of
    Linux's RTN types. A *metric* of 0 means 0 in IPv4 and 1024 in IPv6.
    """
    attributes = attribute(RTA_PREFSRC, prefsrc.packed) if prefsrc is not None else b""
    attributes += _path(destination, gateway, oif, metric)
    scope = RT_SCOPE_LINK if gateway is None and kind == RTN_UNICAST else RT_SCOPE_UNIVERSE
    flags = NLM_F_REQUEST | NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    if table > 255:
        attributes += attribute_u32(RTA_TABLE, table)
        table = 0
    size, family, prefix = 28 + len(attributes), _family(destination), destination.prefixlen
    header = _ROUTE.pack(size, RTM_NEWROUTE, flags, 0, 0, family, prefix, 0, 0, table, PROTOCOL, scope, kind, 0)
    return header + attributes


def delroute(
    destination: IPNetwork,
    *,
    gateway: IPAddress | None = None,
    oif: int = 0,
    metric: int = 0,
    table: int = MAIN_TABLE,
    kind: int = RTN_UNICAST,
    protocol: int = PROTOCOL,
) -> bytes:
    """Delete one route to *destination* that bears our mark and agrees with what is given; ESRCH if there is none."""
    attributes = _path(destination, gateway, oif, metric)
    if table > 255:
        attributes += attribute_u32(RTA_TABLE, table)
        table = 0
    size, family, prefix = 28 + len(attributes), _family(destination), destination.prefixlen
    flags, scope = NLM_F_REQUEST, RT_SCOPE_NOWHERE
    header = _ROUTE.pack(size, RTM_DELROUTE, flags, 0, 0, family, prefix, 0, 0, table, protocol, scope, kind, 0)
    return header + attributes


def getroute(destination: IPAddress) -> bytes:
    """Ask which route a packet of ours to *destination* would take (`Socket.ask`); ENETUNREACH if there is none."""
    attributes = attribute(RTA_DST, destination.packed)
    family, bits = (AF_INET, 32) if destination.version == 4 else (AF_INET6, 128)
    size = 28 + len(attributes)
    return _ROUTE.pack(size, RTM_GETROUTE, NLM_F_REQUEST, 0, 0, family, bits, 0, 0, 0, 0, 0, 0, 0) + attributes


def dumproutes(*, family: int = AF_UNSPEC, protocol: int = 0, table: int = 0, oif: int = 0, kind: int = 0) -> bytes:
    """Ask for all routes (`Socket.dump`), or only those with this protocol, table, outgoing link or *kind* (RTN)."""
    attributes = attribute_u32(RTA_TABLE, table) if table else b""
    if oif:
        attributes += attribute_u32(RTA_OIF, oif)
    flags = NLM_F_REQUEST | NLM_F_DUMP
    size = 28 + len(attributes)
    return _ROUTE.pack(size, RTM_GETROUTE, flags, 0, 0, family, 0, 0, 0, 0, protocol, 0, kind, 0) + attributes


def _path(destination: IPNetwork, gateway: IPAddress | None, oif: int, metric: int) -> bytes:
    """Make the attributes that a route is found by."""
    attributes = attribute(RTA_DST, destination.network_address.packed) if destination.prefixlen else b""
    if gateway is not None:
        attributes += attribute(RTA_GATEWAY, gateway.packed)
    if oif:
        attributes += attribute_u32(RTA_OIF, oif)
    if metric:
        attributes += attribute_u32(RTA_PRIORITY, metric)
    return attributes


def _family(value: IPAddress | IPNetwork) -> int:
    return AF_INET if value.version == 4 else AF_INET6


# ---- requests: rules


def newrule(source: IPAddress, table: int) -> bytes:
    """Have what is sent from *source* routed by *table*, a rule that bears our mark; EEXIST if there is that rule."""
    return _rule(RTM_NEWRULE, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL, source, table)


def delrule(source: IPAddress, table: int) -> bytes:
    """Take back what `newrule` said with the same arguments; ENOENT if it is not there."""
    return _rule(RTM_DELRULE, NLM_F_REQUEST, source, table)


def dumprules(*, family: int = AF_UNSPEC) -> bytes:
    """Ask for all rules (`Socket.dump`), or only those of one family."""
    return _ROUTE.pack(28, RTM_GETRULE, NLM_F_REQUEST | NLM_F_DUMP, 0, 0, family, 0, 0, 0, 0, 0, 0, 0, 0)


def _rule(kind: int, flags: int, source: IPAddress, table: int) -> bytes:
    attributes = attribute(FRA_SRC, source.packed) + attribute_u32(FRA_PRIORITY, RULE_PRIORITY)
    attributes += attribute_u32(FRA_TABLE, table) + _attribute_u8(FRA_PROTOCOL, PROTOCOL)
    size, family, bits = 28 + len(attributes), _family(source), source.max_prefixlen
    # struct fib_rule_hdr has the layout of struct rtmsg: what is its type there is its action here.
    return _ROUTE.pack(size, kind, flags, 0, 0, family, 0, bits, 0, 0, 0, 0, FR_ACT_TO_TBL, 0) + attributes


# ---- requests: neighbours and forwarding entries


def newneigh(index: int, address: IPAddress, mac: str) -> bytes:
    """Fix the MAC of a neighbour on the link of this index, for good, with our mark; replaces what was known of it.

    It has the flag NTF_EXT_LEARNED, which it loses when somebody else replaces it.
    """
    attributes = attribute(NDA_DST, address.packed) + attribute(NDA_LLADDR, octets(mac)) + _NDA_PROTOCOL
    return _neighbour(
        RTM_NEWNEIGH, index, attributes, family=_family(address), ntf=NTF_EXT_LEARNED, state=NUD_PERMANENT
    )


def getneigh(index: int, address: IPAddress) -> bytes:
    """Ask for a neighbour on the link of this index (`Socket.ask`); ENOENT if it is not known."""
    return _neighbour(RTM_GETNEIGH, index, attribute(NDA_DST, address.packed), family=_family(address), flags=_ONE)


def delneigh(index: int, address: IPAddress) -> bytes:
    """Forget a neighbour on the link of this index; ENOENT if it was not known."""
    return _neighbour(RTM_DELNEIGH, index, attribute(NDA_DST, address.packed), family=_family(address))


def dumpneighs(*, index: int = 0, family: int = AF_UNSPEC) -> bytes:
    """Ask for all neighbours (`Socket.dump`), or only those on one link, or of one family."""
    attributes = attribute_u32(NDA_IFINDEX, index) if index else b""
    return _neighbour(RTM_GETNEIGH, 0, attributes, family=family)


def newfdb(index: int, mac: str, *, remote: IPAddress | None = None) -> bytes:
    """Fix where *mac* is found: at the port of this index, or through the tunnel of this index behind host *remote*.

    What was known of it is replaced; but a tunnel may send what is for `NOBODY` to several, one by one. A tunnel's has
    the flag NTF_EXT_LEARNED, unless somebody else has made or replaced it: it stays his.
    """
    flags = NLM_F_REQUEST | NLM_F_CREATE | (NLM_F_APPEND if mac == NOBODY else NLM_F_REPLACE)
    if remote:
        return _forwarding(RTM_NEWNEIGH, index, mac, remote, flags, NTF_EXT_LEARNED, NUD_PERMANENT)
    # A permanent one of a bridge's is for the bridge itself.
    return _forwarding(RTM_NEWNEIGH, index, mac, remote, flags, state=NUD_NOARP)


def getfdb(index: int, mac: str, *, tunnel: bool = False) -> bytes:
    """Ask where *mac* is found, at the port or the *tunnel* of this index (`Socket.ask`); ENOENT if nobody said."""
    attributes, ntf = attribute(NDA_LLADDR, octets(mac)), NTF_SELF if tunnel else NTF_MASTER
    return _neighbour(RTM_GETNEIGH, index, attributes, family=AF_BRIDGE, ntf=ntf, flags=_ONE)


def delfdb(index: int, mac: str, *, remote: IPAddress | None = None) -> bytes:
    """Take back what `newfdb` said with the same arguments; ENOENT if it is not there."""
    return _forwarding(RTM_DELNEIGH, index, mac, remote, NLM_F_REQUEST)


def dumpfdb(*, index: int = 0, master: int = 0) -> bytes:
    """Ask for all forwarding entries (`Socket.dump`), or only those of one port or tunnel, or of one bridge."""
    attributes = attribute_u32(NDA_MASTER, master) if master else b""
    return _neighbour(RTM_GETNEIGH, index, attributes, family=AF_BRIDGE)


_ONE = NLM_F_REQUEST
_NDA_PROTOCOL = _attribute_u8(NDA_PROTOCOL, PROTOCOL)
_NEIGHBOUR_FLAGS = {
    RTM_NEWNEIGH: NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE,
    RTM_DELNEIGH: NLM_F_REQUEST,
    RTM_GETNEIGH: NLM_F_REQUEST | NLM_F_DUMP,
}


def _forwarding(  # noqa: PLR0917 (it is the message's own fields)
    message: int, index: int, mac: str, remote: IPAddress | None, flags: int, ntf: int = 0, state: int = 0
) -> bytes:
    attributes, ntf = attribute(NDA_LLADDR, octets(mac)), ntf | (NTF_SELF if remote else NTF_MASTER)
    if remote is not None:
        attributes += attribute(NDA_DST, remote.packed)
    return _neighbour(message, index, attributes, family=AF_BRIDGE, ntf=ntf, flags=flags, state=state)


def _neighbour(
    message: int, index: int, attributes: bytes, *, family: int, ntf: int = 0, flags: int = 0, state: int = 0
) -> bytes:
    flags, size = flags or _NEIGHBOUR_FLAGS[message], 28 + len(attributes)
    return _NEIGHBOUR.pack(size, message, flags, 0, 0, family, index, state, ntf, 0) + attributes


# ---- requests: namespaces, as seen from another


def newnsid(netns: int, nsid: int = -1) -> bytes:
    """Give the namespace of descriptor *netns* a number in the socket's; the kernel picks it for -1.

    EEXIST if it has a number already: the kernel gives one itself to the namespace of a link's other end.
    """
    attributes = attribute_u32(NETNSA_FD, netns) + _ATTRIBUTE_S32.pack(8, NETNSA_NSID, nsid)
    return _GENERAL.pack(20 + len(attributes), RTM_NEWNSID, NLM_F_REQUEST, 0, 0, 0) + attributes


def getnsid(netns: int) -> bytes:
    """Ask for the number of the namespace of descriptor *netns* (`Socket.ask`, then `nsid`)."""
    attributes = attribute_u32(NETNSA_FD, netns)
    return _GENERAL.pack(20 + len(attributes), RTM_GETNSID, NLM_F_REQUEST, 0, 0, 0) + attributes


# ---- answers


class LinkMessage(NamedTuple):
    """A link as the kernel tells of it; what it does not say is 0, empty or None.

    *Event* is RTM_NEWLINK or RTM_DELLINK; *family* is 0, or AF_BRIDGE when it is told as a port. *Link* is the index of
    a veth's other end, or of the parent of a macvlan, ipvlan or VLAN, in the namespace *link_netnsid* if that is not
    None. *Isolated*, *hairpin*, *learning* and *flood* are None unless it is a port of a bridge.
    """

    event: int
    family: int
    ifindex: int
    name: str
    up: bool
    flags: int
    kind: str
    master: int
    mac: str
    mtu: int
    alias: str
    group: int
    link: int
    link_netnsid: int | None
    addr_gen_mode: int | None
    announce: bool | None
    isolated: bool | None
    hairpin: bool | None
    macvlan_mode: int | None
    ipvlan_mode: int | None
    ipvlan_flag: int | None
    vlan_id: int | None
    forward_delay: int | None
    stp: bool | None
    nf_call: bool | None
    learning: bool | None
    flood: bool | None
    vxlan: "VxlanMessage | None"


class VxlanMessage(NamedTuple):
    """What is told of a tunnel besides; *local* is None if the kernel chooses what it is sent from."""

    vni: int
    port: int
    local: IPAddress | None
    learning: bool
    asking: bool


class AddressMessage(NamedTuple):
    """An address of the link *ifindex*; *flags* are Linux's IFA_F; *protocol* is our mark, someone else's, or 0."""

    event: int
    ifindex: int
    address: IPInterface
    flags: int
    protocol: int
    broadcast: IPAddress | None


class RouteMessage(NamedTuple):
    """A route; a default route's *destination* has the prefix length 0; *kind* is one of Linux's RTN types."""

    event: int
    destination: IPNetwork
    gateway: IPAddress | None
    oif: int
    protocol: int
    table: int
    kind: int
    scope: int
    metric: int
    prefsrc: IPAddress | None


class RuleMessage(NamedTuple):
    """A rule that sends packets to a routing table; *source* is None where it is not about one address alone."""

    event: int
    source: IPAddress | None
    table: int
    priority: int
    protocol: int


class NeighbourMessage(NamedTuple):
    """A neighbour, or with the *family* AF_BRIDGE a forwarding entry; *address* is None if there is none.

    *Protocol* is our mark, someone else's, or 0; a forwarding entry has none. For so many seconds it was *unused*; the
    kernel counts that of a tunnel's entries by what was sent by them, and of permanent neighbours not at all.
    """

    event: int
    family: int
    ifindex: int
    state: int
    flags: int
    address: IPAddress | None
    mac: str
    master: int
    protocol: int
    unused: float


def messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each message of what one `recv` returned, header included, with its type; raises DecodeError on garbage."""
    offset, end = 0, len(datagram)
    while offset + 16 <= end:
        size, kind, _, _, _ = _HEADER.unpack_from(datagram, offset)
        if size < 16 or offset + size > end:
            raise DecodeError(f"a message of {size} bytes with {end - offset} left")
        yield kind, datagram[offset : offset + size]
        offset += (size + 3) & ~3


def attributes(message: bytes, offset: int) -> dict[int, bytes]:
    """Read the attributes from *offset* on, by type without its flags; of twins the last. DecodeError on garbage."""
    layout = _layouts.get((offset, len(message)))
    if layout and layout.heads(message) == layout.expected:
        places = layout.places
    else:
        places = tuple(_places(message, offset))
        if layout is None and len(_layouts) < _MANY:
            _layouts[offset, len(message)] = _Layout.of(message, places)
    return {kind: message[place] for kind, place in places}


def _places(message: bytes, offset: int) -> Iterator[tuple[int, slice]]:
    """Yield the type of each attribute from *offset* on, and where what it holds lies."""
    end = len(message)
    unpack = _ATTRIBUTE.unpack_from
    while offset + 4 <= end:
        size, kind = unpack(message, offset)
        if size < 4 or offset + size > end:
            raise DecodeError(f"an attribute of {size} bytes with {end - offset} left")
        yield kind & NLA_TYPE_MASK, slice(offset + 4, offset + size)
        offset += (size + 3) & ~3


class _Layout(NamedTuple):
    """Which attributes there are in messages of one length, and where: of a thousand links all but a few are alike.

    That one is like the others is seen by the *heads* of its attributes, all read at once: these are *expected*.
    """

    heads: Callable[[bytes], tuple[int, ...]]
    expected: tuple[int, ...]
    places: tuple[tuple[int, slice], ...]

    @classmethod
    def of(cls, message: bytes, places: tuple[tuple[int, slice], ...]) -> "_Layout":
        """That of a *message* whose attributes are at these *places*."""
        shape, at = ["="], 0
        for _, place in places:
            shape.append(f"{place.start - 4 - at}xI")
            at = place.start
        # What the last one holds has to be there, too.
        heads = Struct("".join((*shape, f"{len(message) - at}x"))).unpack_from
        return cls(heads, heads(message), places)


_layouts: dict[tuple[int, int], _Layout] = {}
_MANY = 1024
"""How many layouts are remembered: there are some dozens, unless somebody sends us all kinds of things."""


def link(message: bytes) -> LinkMessage:
    """Read an RTM_NEWLINK or RTM_DELLINK; raises DecodeError if it is none."""
    try:
        _, event, _, _, _, family, _, index, flags, _ = _LINK.unpack_from(message)
        if event not in (RTM_NEWLINK, RTM_DELLINK):
            raise DecodeError(f"message type {event} is no link")
        found = attributes(message, 32)
        get = found.get
        kind = ""
        macvlan_mode = ipvlan_mode = ipvlan_flag = vlan_id = None
        forward_delay = stp = nf_call = isolated = hairpin = learning = flood = None
        tunnel = None
        if (info := get(IFLA_LINKINFO)) is not None:
            details = attributes(info, 0)
            kind = _string(details.get(IFLA_INFO_KIND, b""))
            data = details.get(IFLA_INFO_DATA)
            if data is not None and kind == "bridge":
                options = attributes(data, 0)
                forward_delay = _number(options.get(IFLA_BR_FORWARD_DELAY))
                stp = _boolean(options.get(IFLA_BR_STP_STATE))
                nf_call = _boolean(options.get(IFLA_BR_NF_CALL_IPTABLES))
            elif data is not None and kind == "macvlan":
                macvlan_mode = _number(attributes(data, 0).get(IFLA_MACVLAN_MODE))
            elif data is not None and kind == "ipvlan":
                options = attributes(data, 0)
                ipvlan_mode = _number(options.get(IFLA_IPVLAN_MODE))
                ipvlan_flag = _number(options.get(IFLA_IPVLAN_FLAGS))
            elif data is not None and kind == "vlan":
                vlan_id = _number(attributes(data, 0).get(IFLA_VLAN_ID))
            elif data is not None and kind == "vxlan":
                tunnel = _vxlan(attributes(data, 0))
            if _string(details.get(IFLA_INFO_SLAVE_KIND, b"")) == "bridge":
                port = attributes(details.get(IFLA_INFO_SLAVE_DATA, b""), 0)
                isolated = _boolean(port.get(IFLA_BRPORT_ISOLATED))
                hairpin = _boolean(port.get(IFLA_BRPORT_MODE))
                learning = _boolean(port.get(IFLA_BRPORT_LEARNING))
                flood = _boolean(port.get(IFLA_BRPORT_UNICAST_FLOOD))
        addr_gen_mode, announce = _families(get(IFLA_AF_SPEC, b""))
        netnsid = get(IFLA_LINK_NETNSID)
        return LinkMessage(
            event,
            family,
            index,
            _string(get(IFLA_IFNAME, b"")),
            bool(flags & IFF_UP),
            flags,
            kind,
            _number(get(IFLA_MASTER)) or 0,
            get(IFLA_ADDRESS, b"").hex(":"),
            _number(get(IFLA_MTU)) or 0,
            _string(get(IFLA_IFALIAS, b"")),
            _number(get(IFLA_GROUP)) or 0,
            _number(get(IFLA_LINK)) or 0,
            None if netnsid is None else _S32.unpack(netnsid)[0],
            addr_gen_mode,
            announce,
            isolated,
            hairpin,
            macvlan_mode,
            ipvlan_mode,
            ipvlan_flag,
            vlan_id,
            forward_delay,
            stp,
            nf_call,
            learning,
            flood,
            tunnel,
        )
    except struct.error as error:
        raise DecodeError(f"not a link: {error}") from error


def _families(spec: bytes) -> tuple[int | None, bool | None]:
    """Read how a link gets its link-local address, and whether it announces its IPv4 ones, from its IFLA_AF_SPEC."""
    found = attributes(spec, 0)
    mode = _number(attributes(found.get(AF_INET6, b""), 0).get(IFLA_INET6_ADDR_GEN_MODE))
    # All settings of IPv4 are told as an array, of which the first has the number 1.
    settings = attributes(found.get(AF_INET, b""), 0).get(IFLA_INET_CONF, b"")
    return mode, _boolean(settings[4 * IPV4_DEVCONF_ARP_NOTIFY - 4 : 4 * IPV4_DEVCONF_ARP_NOTIFY] or None)


def _vxlan(options: dict[int, bytes]) -> VxlanMessage:
    """Read what is told of a tunnel. Without a *local* address some kernels tell all zeros."""
    local = _ip(options.get(IFLA_VXLAN_LOCAL) or options.get(IFLA_VXLAN_LOCAL6))
    return VxlanMessage(
        _number(options.get(IFLA_VXLAN_ID)) or 0,
        int.from_bytes(options.get(IFLA_VXLAN_PORT, b""), "big"),
        None if local is None or local.is_unspecified else local,
        bool(_boolean(options.get(IFLA_VXLAN_LEARNING))),
        bool(_boolean(options.get(IFLA_VXLAN_L3MISS))),
    )


def address(message: bytes) -> AddressMessage:
    """Read an RTM_NEWADDR or RTM_DELADDR; raises DecodeError if it is none."""
    try:
        _, event, _, _, _, family, prefix, short_flags, _, index = _ADDRESS.unpack_from(message)
        if event not in (RTM_NEWADDR, RTM_DELADDR):
            raise DecodeError(f"message type {event} is no address")
        found = attributes(message, 24)
        local = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b"")
        if len(local) == 4 and family == AF_INET and prefix <= 32:
            interface: IPInterface = IPv4Interface((local, prefix))
        elif len(local) == 16 and family == AF_INET6 and prefix <= 128:
            interface = IPv6Interface((local, prefix))
        else:
            raise DecodeError(f"an address of {len(local)} bytes, family {family}, prefix length {prefix}")
        flags = _number(found.get(IFA_FLAGS))
        return AddressMessage(
            event,
            index,
            interface,
            short_flags if flags is None else flags,
            _number(found.get(IFA_PROTO)) or 0,
            _ip(found.get(IFA_BROADCAST)),
        )
    except struct.error as error:
        raise DecodeError(f"not an address: {error}") from error


def route(message: bytes) -> RouteMessage:
    """Read an RTM_NEWROUTE or RTM_DELROUTE of IPv4 or IPv6; raises DecodeError if it is none."""
    try:
        _, event, _, _, _, family, prefix, _, _, table, protocol, scope, kind, _ = _ROUTE.unpack_from(message)
        if event not in (RTM_NEWROUTE, RTM_DELROUTE):
            raise DecodeError(f"message type {event} is no route")
        found = attributes(message, 28)
        target = found.get(RTA_DST)
        if family == AF_INET and prefix <= 32 and (target is None or len(target) == 4):
            destination: IPNetwork = IPv4Network((target or bytes(4), prefix), strict=False)
        elif family == AF_INET6 and prefix <= 128 and (target is None or len(target) == 16):
            destination = IPv6Network((target or bytes(16), prefix), strict=False)
        else:
            raise DecodeError(f"a route of family {family}, prefix length {prefix}")
        wide_table = _number(found.get(RTA_TABLE))
        return RouteMessage(
            event,
            destination,
            _ip(found.get(RTA_GATEWAY)),
            _number(found.get(RTA_OIF)) or 0,
            protocol,
            table if wide_table is None else wide_table,
            kind,
            scope,
            _number(found.get(RTA_PRIORITY)) or 0,
            _ip(found.get(RTA_PREFSRC)),
        )
    except struct.error as error:
        raise DecodeError(f"not a route: {error}") from error


def rule(message: bytes) -> RuleMessage:
    """Read an RTM_NEWRULE or RTM_DELRULE; raises DecodeError if it is none."""
    try:
        _, event, _, _, _, _, _, bits, _, table, _, _, _, _ = _ROUTE.unpack_from(message)
        if event not in (RTM_NEWRULE, RTM_DELRULE):
            raise DecodeError(f"message type {event} is no rule")
        found = attributes(message, 28)
        source = _ip(found.get(FRA_SRC))
        wide_table = _number(found.get(FRA_TABLE))
        return RuleMessage(
            event,
            source if source and bits == source.max_prefixlen else None,
            table if wide_table is None else wide_table,
            _number(found.get(FRA_PRIORITY)) or 0,
            _number(found.get(FRA_PROTOCOL)) or 0,
        )
    except struct.error as error:
        raise DecodeError(f"not a rule: {error}") from error


def neighbour(message: bytes) -> NeighbourMessage:
    """Read an RTM_NEWNEIGH or RTM_DELNEIGH, or the RTM_GETNEIGH of a tunnel; raises DecodeError if it is none."""
    try:
        _, event, _, _, _, family, index, state, flags, _ = _NEIGHBOUR.unpack_from(message)
        if event not in (RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH):
            raise DecodeError(f"message type {event} is no neighbour")
        found = attributes(message, 28)
        return NeighbourMessage(
            event,
            family,
            index,
            state,
            flags,
            _ip(found.get(NDA_DST)),
            found.get(NDA_LLADDR, b"").hex(":"),
            _number(found.get(NDA_MASTER)) or 0,
            _number(found.get(NDA_PROTOCOL)) or 0,
            (_number(found.get(NDA_CACHEINFO, b"")[4:8]) or 0) / _USER_HZ,
        )
    except struct.error as error:
        raise DecodeError(f"not a neighbour: {error}") from error


def nsid(message: bytes) -> int | None:
    """Read the answer to `getnsid`: the number, or None if the namespace has none."""
    try:
        (number,) = _S32.unpack(attributes(message, 20).get(NETNSA_NSID, b""))
    except struct.error as error:
        raise DecodeError(f"not a namespace's number: {error}") from error
    return None if number < 0 else number


def _string(value: bytes) -> str:
    return value.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(value: bytes | None) -> int | None:
    """Read an unsigned number of any width, in the machine's byte order."""
    return None if value is None else int.from_bytes(value, sys.byteorder)


def _boolean(value: bytes | None) -> bool | None:
    return None if value is None else any(value)


def _ip(value: bytes | None) -> IPAddress | None:
    if value is None:
        return None
    if len(value) not in (4, 16):
        raise DecodeError(f"an address of {len(value)} bytes")
    return ip_address(value)


# ---- the wire

_SEQUENCE_END = 0xF000_0000
_TRIES = 100  # with links coming at full speed all the time, one dump in ten of 600 links is of one moment
# That many refusals fit into the socket's buffer of 208 KiB; it would lose the rest in silence.
_BATCH = 128
_BATCH_BYTES = 128 << 10  # below the send buffer's default of 208 KiB, which bounds one send
_RECEIVE = 64 << 10  # twice the most that the kernel puts into one datagram of a dump
_USER_HZ = 100  # the kernel's clock ticks in a second, as it tells them (jiffies_to_clock_t)
_AT_ONCE = int(socket.MSG_TRUNC | socket.MSG_DONTWAIT)
_SIOCGIFINDEX = 0x8933
_INTERFACE = Struct("=16si20x")  # struct ifreq: name, index


class Socket:
    """A conversation with the kernel, for good about the namespace that the thread which opens it is in.

    One thread at a time may use it. Its file descriptor is the only thing it holds. With another *protocol* it speaks
    to another part of the kernel.
    """

    __slots__ = ("_sequence", "_socket")

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        option = self._socket.setsockopt
        option(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        option(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        if protocol == NETLINK_ROUTE:
            option(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        else:
            # A transaction of nftables travels as one datagram, however large: 1,000 rules are 200 KiB.
            enlarge(self._socket, _SO_SNDBUFFORCE, socket.SO_SNDBUF)
            enlarge(self._socket, _SO_RCVBUFFORCE, socket.SO_RCVBUF)

    def close(self) -> None:
        """Give the file descriptor back."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def index(self, name: str) -> int | None:
        """Return the index of the link of this name, or None; it takes a tenth of what `ask` does (netdevice(7))."""
        try:
            answer = ioctl(self._socket, _SIOCGIFINDEX, _INTERFACE.pack(name.encode("utf-8", "surrogateescape"), 0))
        except OSError:
            return None
        return int(_INTERFACE.unpack(answer)[1])

    @property
    def port(self) -> int:
        """The number under which the kernel knows this socket; 0 until the first request. It marks what we caused."""
        name = self._socket.getsockname()
        return int(name[0])

    def request(self, *requests: bytes) -> None:
        """Have the kernel carry out all *requests*, in order; raises the NetlinkError of the first that it refused.

        Those after a refused one are carried out all the same.
        """
        if errors := self.attempt(*requests):
            raise errors[0]

    def attempt(self, *requests: bytes) -> tuple[NetlinkError, ...]:
        """As `request`, but return what was refused, in order."""
        errors: list[NetlinkError] = []
        batch: list[bytes] = []
        start = size = 0
        for request in requests:
            if len(batch) == _BATCH or size + len(request) > _BATCH_BYTES:
                errors += self.exchange(batch, len(batch) - 1, start)
                start += len(batch)
                batch, size = [], 0
            batch.append(request)
            size += len(request)
        if batch:
            errors += self.exchange(batch, len(batch) - 1, start)
        return tuple(errors)

    def exchange(self, requests: Sequence[bytes], acknowledged: int, start: int = 0) -> list[NetlinkError]:
        """Send *requests* as one datagram, have the one of index *acknowledged* answered; return what was refused.

        In the errors the first request has the index *start*.
        """
        first = self._send(requests, acknowledged)
        errors: list[NetlinkError] = []
        while True:
            try:
                datagram = self._receive()
            except BlockingIOError:
                # The kernel has answered when the sending returns: there is nothing to wait for. A batch that is
                # refused as a whole (nftables, when we are not allowed) has no acknowledgement.
                if errors:
                    return errors
                raise NetlinkError(start, ENOBUFS, "the kernel's answer was lost") from None
            for kind, message in messages(datagram):
                if kind != NLMSG_ERROR:
                    continue
                index = _HEADER.unpack_from(message)[3] - first
                errno, text = _failure(message)
                if errno and 0 <= index < len(requests):
                    errors.append(NetlinkError(start + index, errno, text))
                if index == acknowledged:
                    return errors

    def ask(self, request: bytes) -> bytes:
        """Return the one message that answers a *request* for one thing; raises NetlinkError if there is no answer."""
        sequence = self._send((request,), None)
        while True:
            for kind, message in messages(self._receive()):
                if _HEADER.unpack_from(message)[3] != sequence:
                    continue
                if kind != NLMSG_ERROR:
                    return message
                errno, text = _failure(message)
                raise NetlinkError(0, errno, text)

    def dump(self, request: bytes) -> list[bytes]:
        """Return all messages that answer a *request* for many things, as they stood at one moment.

        The kernel tells when things changed while it was at it; then it is asked again. Raises NetlinkError if it
        refuses.
        """
        for _ in range(_TRIES):
            answers: list[bytes] = []
            if self._dump(request, answers):
                return answers
        raise NetlinkError(0, EAGAIN, f"things changed during each of {_TRIES} dumps")

    def _dump(self, request: bytes, answers: list[bytes]) -> bool:
        """Add the messages that answer *request* to *answers*; False if they are not of one moment."""
        sequence = self._send((request,), None)
        consistent = True
        while True:
            datagram = self._receive()
            offset, end = 0, len(datagram)
            while offset + 16 <= end:
                size, kind, flags, number, _ = _HEADER.unpack_from(datagram, offset)
                if size < 16 or offset + size > end:
                    raise DecodeError(f"a message of {size} bytes with {end - offset} left")
                if number == sequence:
                    if flags & NLM_F_DUMP_INTR:
                        consistent = False
                    if kind in (NLMSG_DONE, NLMSG_ERROR):
                        errno, text = _failure(datagram[offset : offset + size])
                        if errno:
                            raise NetlinkError(0, errno, text)
                        return consistent
                    answers.append(datagram[offset : offset + size])
                offset += (size + 3) & ~3

    def _send(self, requests: Sequence[bytes], acknowledged: int | None) -> int:
        """Send *requests* as one datagram; return the first's sequence number."""
        first = self._sequence + 1
        if first > _SEQUENCE_END:
            first = 1
        datagram = bytearray()
        for index, request in enumerate(requests):
            offset = len(datagram)
            datagram += request
            datagram += _PADDING[len(request) & 3]
            _U32.pack_into(datagram, offset + 8, first + index)
            if index == acknowledged:
                _U16.pack_into(datagram, offset + 6, _U16.unpack_from(datagram, offset + 6)[0] | NLM_F_ACK)
        self._sequence = first + len(requests) - 1
        self._socket.send(datagram)
        return first

    def _receive(self) -> bytes:
        datagram = self._socket.recv(_RECEIVE, _AT_ONCE)
        if len(datagram) > _RECEIVE:
            raise NetlinkError(0, EMSGSIZE, f"an answer of {len(datagram)} bytes")
        return datagram


def _failure(message: bytes) -> tuple[int, str]:
    """Read the errno and text of an NLMSG_ERROR or NLMSG_DONE.

    The text follows the header of the request that it is about (`NETLINK_CAP_ACK` leaves out the rest of it).
    """
    if len(message) < 20:
        return 0, ""
    (errno,) = _S32.unpack_from(message, 16)
    start = 36 if _HEADER.unpack_from(message)[1] == NLMSG_ERROR else 20
    if not errno or len(message) <= start:
        return -errno, ""
    return -errno, _string(attributes(message, start).get(NLMSGERR_ATTR_MSG, b""))


class Event(NamedTuple, Generic[T]):
    """Something that happened in the namespace that ours knows by the number *nsid*; None: in our own."""

    nsid: int | None
    message: T


class News(NamedTuple, Generic[T]):
    """What a monitor heard; if it is not *complete*, some was lost, and anything may have changed."""

    events: list[Event[T]]
    complete: bool


class Monitor(Generic[T]):
    """Hears what the kernel tells of its own accord to *groups*, and *program* does not drop.

    With *tied*, it hears it of all namespaces that have a number in the calling thread's: the kernel gives one to the
    namespace of a veth's other end, `newnsid` to any. `fileno` becomes readable when there is news; `read` never waits.
    """

    __slots__ = ("_decode", "_socket")

    def __init__(
        self,
        protocol: int,
        groups: int,
        program: Iterable[Instruction],
        decode: Callable[[bytes], T | None],
        *,
        tied: bool = False,
    ) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._decode = decode
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        enlarge(self._socket, _SO_RCVBUFFORCE, socket.SO_RCVBUF)
        bpf.attach(self._socket, program)
        if tied:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
        self._socket.bind((0, groups))

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the file descriptor back."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def hear(self, program: Iterable[Instruction]) -> None:
        """Have another *program* drop what comes from now on."""
        bpf.attach(self._socket, program)

    def read(self) -> News[T]:
        """Return all that was heard since the last time, without waiting."""
        events: list[Event[T]] = []
        complete = True
        while True:
            try:
                datagram, ancillary, _, _ = self._socket.recvmsg(_RECEIVE, _ANCILLARY)
            except BlockingIOError:
                return News(events, complete)
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
                complete = False
                continue
            number = next((_S32.unpack(value)[0] for level, _, value in ancillary if level == SOL_NETLINK), None)
            for _, message in messages(datagram):
                if (decoded := self._decode(message)) is not None:
                    events.append(Event(number, decoded))


def enlarge(owner: socket.socket, force: int, option: int) -> None:
    """Set a buffer of *owner* to 4 MiB; without CAP_NET_ADMIN, which *force* needs, as far as *option* may."""
    try:
        owner.setsockopt(socket.SOL_SOCKET, force, 4 << 20)
    except PermissionError:
        owner.setsockopt(socket.SOL_SOCKET, option, 4 << 20)


_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_ANCILLARY = socket.CMSG_SPACE(4)
