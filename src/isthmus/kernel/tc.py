"""Traffic control, in the kernel's own words (rtnetlink): what may go out by a link, and where goes what comes in.

As in `netlink`, a message is `bytes` in both directions, and constants keep Linux's names (`linux/pkt_sched.h`,
`pkt_cls.h`, `rtnetlink.h`, `tc_act/tc_mirred.h`). Of all that the kernel can do, there is what two resources need: a
token bucket at the root of a link (`net/sched/sch_tbf.c`), and a filter on what comes in that sends all of it out by
another link (`cls_u32.c`, `act_mirred.c`), under a qdisc that holds filters only (`sch_ingress.c`).
"""

import socket
import struct
from struct import Struct
from typing import NamedTuple

from isthmus.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_ECHO,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    DecodeError,
    attribute,
    attribute_u32,
    attributes,
)
from isthmus.naming import FILTER_PRIORITY

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
RTMGRP_TC = 0x8

TC_H_ROOT = 0xFFFF_FFFF
TC_H_CLSACT = 0xFFFF_FFF1
TC_H_INGRESS_FILTERS = 0xFFFF_FFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TC_LINKLAYER_ETHERNET = 1
TCA_U32_SEL, TCA_U32_ACT = 5, 7
TC_U32_TERMINAL = 1
TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS = 2
TC_ACT_STOLEN = 4
TCA_EGRESS_REDIR = 1

_ETH_P_ALL = 0x0003
_CLSACT_HANDLE = 0xFFFF_0000
_TC = Struct("=IHHIIBxxxiIII")  # nlmsghdr; struct tcmsg: family, index, handle, parent, info
_END = 36
_RATE = "BBHhHI"  # struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate
_TBF = Struct(f"={_RATE}{_RATE}III")  # struct tc_tbf_qopt: rate, peakrate, limit, buffer, mtu
_U64 = Struct("=Q")
_U32_SEL = Struct("=BBBxHHhhIIIii")  # struct tc_u32_sel with one key, which fits every packet
_MIRRED = Struct("=IIiiiiI")  # struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
_NARROW = 0xFFFF_FFFF


class QdiscMessage(NamedTuple):
    """A qdisc of the link *ifindex*; of a "tbf", its *rate* in bytes a second and its *limit* in bytes, else 0."""

    event: int
    ifindex: int
    kind: str
    rate: int
    limit: int


class FilterMessage(NamedTuple):
    """A filter of the link *ifindex*; *target* is the index of the link that it redirects to, 0 if that is gone.

    It is None where the message is not about a rule that redirects.
    """

    event: int
    ifindex: int
    priority: int
    target: int | None


# ---- requests


def newtbf(index: int, *, rate: int, burst: int, limit: int) -> bytes:
    """Have what leaves by the link of this index pass a token bucket; one that is there is changed, and loses nothing.

    *Rate* is in bytes a second, *burst* and *limit* are in bytes. Another root is replaced. ENOENT if this kernel has
    no such qdisc.
    """
    narrow = min(rate, _NARROW)
    parms = _TBF.pack(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, narrow, 0, 0, 0, 0, 0, 0, limit, 0, 0)
    options = attribute(TCA_TBF_PARMS, parms) + attribute_u32(TCA_TBF_BURST, burst)
    options += attribute(TCA_TBF_RATE64, _U64.pack(rate))
    more = attribute(TCA_KIND, b"tbf\0") + attribute(TCA_OPTIONS, options)
    return _message(RTM_NEWQDISC, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE, index, parent=TC_H_ROOT, more=more)


def deltbf(index: int) -> bytes:
    """Take the token bucket from a link; ENOENT or EINVAL if it has none."""
    return _message(RTM_DELQDISC, NLM_F_REQUEST, index, parent=TC_H_ROOT, more=attribute(TCA_KIND, b"tbf\0"))


def getroot(index: int) -> bytes:
    """Ask for the root qdisc of a link (`Socket.ask`). There is no answer, or EINVAL, for one that was never up.

    Of one link alone the kernel tells those who listen, and who asks only if he wants to hear it, too.
    """
    return _message(RTM_GETQDISC, NLM_F_REQUEST | NLM_F_ECHO, index, parent=TC_H_ROOT)


def newclsact(index: int) -> bytes:
    """Let a link have filters. That it can already is success; EINVAL if it has the older qdisc `ingress`."""
    flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE
    more = attribute(TCA_KIND, b"clsact\0")
    return _message(RTM_NEWQDISC, flags, index, handle=_CLSACT_HANDLE, parent=TC_H_CLSACT, more=more)


def newredirect(index: int, target: int) -> bytes:
    """Send out by the link *target* what comes in by that of *index*, by a filter with our priority.

    Each time there is one more. ENOENT if this kernel lacks the classifier or the action.
    """
    selector = _U32_SEL.pack(TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    parms = _MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target)
    action = attribute(TCA_ACT_KIND, b"mirred\0") + attribute(TCA_ACT_OPTIONS, attribute(TCA_MIRRED_PARMS, parms))
    options = attribute(TCA_U32_SEL, selector) + attribute(TCA_U32_ACT, attribute(1, action))
    more = attribute(TCA_KIND, b"u32\0") + attribute(TCA_OPTIONS, options)
    flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
    return _message(RTM_NEWTFILTER, flags, index, parent=TC_H_INGRESS_FILTERS, info=_OURS, more=more)


def delredirect(index: int) -> bytes:
    """Take all filters with our priority from what comes in by a link; ENOENT or EINVAL if there is none."""
    return _message(RTM_DELTFILTER, NLM_F_REQUEST, index, parent=TC_H_INGRESS_FILTERS, info=_OURS)


def dumpredirects(index: int) -> bytes:
    """Ask for the filters with our priority on what comes in by a link (`Socket.dump`)."""
    return _message(RTM_GETTFILTER, NLM_F_REQUEST | NLM_F_DUMP, index, parent=TC_H_INGRESS_FILTERS, info=_OURS)


_OURS = FILTER_PRIORITY << 16 | socket.htons(_ETH_P_ALL)


def _message(
    kind: int, flags: int, index: int, *, handle: int = 0, parent: int = 0, info: int = 0, more: bytes = b""
) -> bytes:
    return _TC.pack(_END + len(more), kind, flags, 0, 0, 0, index, handle, parent, info) + more


# ---- answers


def qdisc(message: bytes) -> QdiscMessage:
    """Read an RTM_NEWQDISC or RTM_DELQDISC; raises DecodeError if it is none."""
    try:
        _, event, _, _, _, _, index, _, _, _ = _TC.unpack_from(message)
        if event not in {RTM_NEWQDISC, RTM_DELQDISC}:
            raise DecodeError(f"message type {event} is no qdisc")
        found = attributes(message, _END)
        kind = _kind(found)
        rate = limit = 0
        if kind == "tbf":
            options = attributes(found.get(TCA_OPTIONS, b""), 0)
            _, _, _, _, _, rate, _, _, _, _, _, _, limit, _, _ = _TBF.unpack_from(options.get(TCA_TBF_PARMS, b""))
            if TCA_TBF_RATE64 in options:
                (rate,) = _U64.unpack(options[TCA_TBF_RATE64])
        return QdiscMessage(event, index, kind, rate, limit)
    except struct.error as error:
        raise DecodeError(f"not a qdisc: {error}") from error


def filter_(message: bytes) -> FilterMessage:
    """Read an RTM_NEWTFILTER or RTM_DELTFILTER; raises DecodeError if it is none."""
    try:
        _, event, _, _, _, _, index, _, _, info = _TC.unpack_from(message)
        if event not in {RTM_NEWTFILTER, RTM_DELTFILTER}:
            raise DecodeError(f"message type {event} is no filter")
        found = attributes(message, _END)
        target = _target(attributes(found.get(TCA_OPTIONS, b""), 0)) if _kind(found) == "u32" else None
        return FilterMessage(event, index, info >> 16, target)
    except struct.error as error:
        raise DecodeError(f"not a filter: {error}") from error


def _target(options: dict[int, bytes]) -> int | None:
    """Where a rule of u32 redirects to, by its first action."""
    first = attributes(options.get(TCA_U32_ACT, b""), 0).get(1, b"")
    action = attributes(first, 0)
    if action.get(TCA_ACT_KIND, b"").rstrip(b"\0") != b"mirred":
        return None
    parms = attributes(action.get(TCA_ACT_OPTIONS, b""), 0).get(TCA_MIRRED_PARMS, b"")
    _, _, _, _, _, eaction, target = _MIRRED.unpack_from(parms)
    return int(target) if eaction == TCA_EGRESS_REDIR else None


def _kind(found: dict[int, bytes]) -> str:
    return found.get(TCA_KIND, b"").partition(b"\0")[0].decode("ascii", "replace")
