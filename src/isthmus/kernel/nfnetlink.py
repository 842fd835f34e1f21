"""nftables' elements, and what stands in its tables, in the kernel's own words (nfnetlink, `linux/nf_tables.h`).

Only elements of hash sets and maps are written here, some ten microseconds each; the chains around them are text, which
`nft` loads. Requests and answers are `bytes` as in `netlink`, and travel over a `netlink.Socket(NETLINK_NETFILTER)`:
reading with `Socket.dump`, writing with `commit`, which the kernel carries out as a whole or not at all.

A key is raw: each type as nftables lays it out (`ifname`, `inet_proto`, `inet_service`, or `ipaddress`' `packed`), and
joined by `concat` where the set's type is a concatenation. Numbers of nfnetlink itself are in network order.
"""

import socket
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby, islice
from struct import Struct
from typing import NamedTuple

from isthmus.bpf import EVERYTHING, IF_EQUAL, LOAD_WORD, RETURN, Instruction
from isthmus.kernel.netlink import (
    NETLINK_NETFILTER,
    NLA_F_NESTED,
    NLA_TYPE_MASK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    DecodeError,
    Monitor,
    Socket,
    attribute,
    attributes,
)

NFPROTO_INET, NFPROTO_IPV4, NFPROTO_ARP, NFPROTO_NETDEV, NFPROTO_BRIDGE, NFPROTO_IPV6 = 1, 2, 3, 5, 7, 10

NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWTABLE, NFT_MSG_GETTABLE, NFT_MSG_DELTABLE = 0, 1, 2
NFT_MSG_NEWCHAIN, NFT_MSG_GETCHAIN, NFT_MSG_DELCHAIN = 3, 4, 5
NFT_MSG_NEWRULE, NFT_MSG_GETRULE, NFT_MSG_DELRULE = 6, 7, 8
NFT_MSG_NEWSET, NFT_MSG_GETSET, NFT_MSG_DELSET = 9, 10, 11
NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_DELSETELEM = 12, 13, 14
NFT_MSG_NEWGEN, NFT_MSG_GETGEN = 15, 16
NFNLGRP_NFTABLES = 7

NFTA_LIST_ELEM = 1
NFTA_TABLE_NAME, NFTA_TABLE_USE, NFTA_TABLE_HANDLE = 1, 3, 4
NFTA_CHAIN_TABLE, NFTA_CHAIN_HANDLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK = 1, 2, 3, 4
NFTA_CHAIN_POLICY, NFTA_CHAIN_USE, NFTA_CHAIN_TYPE = 5, 6, 7
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_HANDLE, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA = 1, 2, 3, 4, 7
NFTA_SET_TABLE, NFTA_SET_NAME = 1, 2
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_TIMEOUT, NFTA_SET_ELEM_EXPIRATION = 1, 2, 4, 5
NFTA_SET_ELEM_EXPR, NFTA_SET_ELEM_KEY_END, NFTA_SET_ELEM_EXPRESSIONS = 7, 10, 11
NFTA_DATA_VALUE, NFTA_DATA_VERDICT = 1, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS = 1, 2
NFTA_GEN_ID = 1
NFTNL_UDATA_RULE_COMMENT = 0

NF_DROP, NF_ACCEPT = 0, 1
NFT_CONTINUE, NFT_JUMP, NFT_GOTO, NFT_RETURN = -1, -3, -4, -5

_MESSAGE = Struct("=IHHIIBBH")  # struct nlmsghdr, then struct nfgenmsg: family, version, resource (in network order)
_PORT = Struct("=12xI")  # the last field of struct nlmsghdr: whose request it was
_ATTRIBUTE = Struct("=HH")
_S32 = Struct(">i")
_U64 = Struct(">Q")
_FEW = 32
_ELEMENTS_BYTES = 32 << 10  # an attribute, and so the elements of one message, has at most 64 KiB


class Verdict(NamedTuple):
    """What becomes of a packet: an NF or NFT *code*; with NFT_JUMP and NFT_GOTO, the *chain* to go to."""

    code: int
    chain: str = ""


DROP = Verdict(NF_DROP)
ACCEPT = Verdict(NF_ACCEPT)
Value = bytes | Verdict | None
"""What a map holds for a key; None in a set."""


class Element(NamedTuple):
    """An element of a set or map. *Timeout* is in milliseconds, 0 for good; *expiration* is what is left of it.

    In a set of intervals the key is that of its first member, with that of its last behind it. *Packets* and *bytes*
    are None if the set counts none.
    """

    key: bytes
    value: Value = None
    timeout: int = 0
    packets: int | None = None
    bytes: int | None = None
    expiration: int = 0


class Table(NamedTuple):
    """A table; *use* counts its chains, sets, objects and flowtables; *handle* tells it from one made anew."""

    family: int
    name: str
    handle: int
    use: int


class Chain(NamedTuple):
    """A chain; *use* counts its rules and the jumps to it. *Hook*, *priority* and *policy* are None without a hook."""

    family: int
    table: str
    name: str
    handle: int
    use: int
    kind: str
    hook: int | None
    priority: int | None
    policy: int | None


class Rule(NamedTuple):
    """A rule; *packets* and *bytes* are those of its first counter, None if it has none."""

    family: int
    table: str
    chain: str
    handle: int
    comment: str
    packets: int | None
    bytes: int | None


class Change(NamedTuple):
    """Something in *table* was made, changed or removed, as *event* (NFT_MSG) says.

    *Name* is that of the chain or set, of a rule's chain or an element's set; empty for a table. *Port* is the
    `Socket.port` of who did it.
    """

    event: int
    family: int
    table: str
    name: str
    port: int


# ---- keys


def ifname(name: str) -> bytes:
    """Return the key that stands for a link of this name; ValueError if it has more than 15 bytes."""
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > 15:
        raise ValueError(f"link name {name} is longer than 15 bytes")
    return raw.ljust(16, b"\0")


def inet_proto(number: int) -> bytes:
    """Return the key that stands for an IP protocol (6 TCP, 17 UDP, 132 SCTP)."""
    return bytes((number,))


def inet_service(port: int) -> bytes:
    """Return the key that stands for a port."""
    return port.to_bytes(2, "big")


def concat(*fields: bytes) -> bytes:
    """Return the key of a set with a concatenated type (`inet_proto . inet_service`): each field fills whole words."""
    return b"".join(field + bytes(-len(field) & 3) for field in fields)


def split(key: bytes, sizes: Iterable[int]) -> tuple[bytes, ...]:
    """Return the fields that `concat` joined, of these *sizes* in bytes; DecodeError if they do not fill *key*."""
    fields, offset = [], 0
    for size in sizes:
        fields.append(key[offset : offset + size])
        offset += (size + 3) & ~3
    if offset != len(key):
        raise DecodeError(f"a key of {len(key)} bytes, for fields that take {offset}")
    return tuple(fields)


# ---- requests


def newelements(
    table: str, name: str, elements: Iterable[Element], *, family: int = NFPROTO_INET, intervals: bool = False
) -> list[bytes]:
    """Make messages that add *elements* to the set or map *name*, which may be one of *intervals*.

    Counters start at zero. The same element again is no error; another value for a key that is there is EEXIST, and so
    is an interval that overlaps with one that is there, or ENOTEMPTY.
    """
    flags = NLM_F_REQUEST | NLM_F_CREATE
    encoded = (_element(element, intervals=intervals) for element in elements)
    return _elements(NFT_MSG_NEWSETELEM, flags, family, _set(table, name), encoded)


def delelements(
    table: str, name: str, keys: Iterable[bytes], *, family: int = NFPROTO_INET, intervals: bool = False
) -> list[bytes]:
    """Make messages that remove the elements with these *keys*; ENOENT, and nothing is done, if one is not there."""
    elements: Iterable[bytes] = _framed(keys)
    if intervals:
        elements = (attribute(NLA_F_NESTED | NFTA_LIST_ELEM, _key(key, intervals=True)) for key in keys)
    return _elements(NFT_MSG_DELSETELEM, NLM_F_REQUEST, family, _set(table, name), elements)


def clear(table: str, name: str, *, family: int = NFPROTO_INET) -> bytes:
    """Remove all elements of the set or map *name*."""
    return _message(NFT_MSG_DELSETELEM, NLM_F_REQUEST, family, _set(table, name))


def deltable(table: str, *, family: int = NFPROTO_INET) -> bytes:
    """Remove a table with all that is in it; ENOENT if there is none."""
    return _message(NFT_MSG_DELTABLE, NLM_F_REQUEST, family, _name(NFTA_TABLE_NAME, table))


def getelements(table: str, name: str, *, family: int = NFPROTO_INET) -> bytes:
    """Ask for all elements of a set or map (`Socket.dump`, then `elements`); ENOENT if it is not there."""
    return _message(NFT_MSG_GETSETELEM, NLM_F_REQUEST | NLM_F_DUMP, family, _set(table, name))


def getelement(table: str, name: str, key: bytes, *, family: int = NFPROTO_INET, intervals: bool = False) -> bytes:
    """Ask for one element of a set or map (`Socket.ask`, then `elements`); ENOENT if it is not there."""
    one = attribute(NLA_F_NESTED | NFTA_LIST_ELEM, _key(key, intervals=intervals))
    (message,) = _elements(NFT_MSG_GETSETELEM, NLM_F_REQUEST, family, _set(table, name), (one,))
    return message


def gettables(*, family: int = 0) -> bytes:
    """Ask for all tables (`Socket.dump`, then `table`), or those of one family."""
    return _message(NFT_MSG_GETTABLE, NLM_F_REQUEST | NLM_F_DUMP, family, b"")


def getchains(*, family: int = 0) -> bytes:
    """Ask for all chains (`Socket.dump`, then `chain`), or those of one family."""
    return _message(NFT_MSG_GETCHAIN, NLM_F_REQUEST | NLM_F_DUMP, family, b"")


def getrules(*, family: int = 0, table: str = "", chain: str = "") -> bytes:
    """Ask for all rules (`Socket.dump`, then `rule`), or those of one family, table or chain."""
    where = _name(NFTA_RULE_TABLE, table) if table else b""
    if chain:
        where += _name(NFTA_RULE_CHAIN, chain)
    return _message(NFT_MSG_GETRULE, NLM_F_REQUEST | NLM_F_DUMP, family, where)


def getgeneration() -> bytes:
    """Ask how many transactions there were (`Socket.ask`, then `generation`)."""
    return _message(NFT_MSG_GETGEN, NLM_F_REQUEST, 0, b"")


def commit(wire: Socket, *requests: bytes) -> None:
    """Have the kernel carry out all *requests* as one transaction; raises the NetlinkError of the first it refused.

    Then nothing was done. An *index* of -1 means the whole: EPERM if we may not, or EAGAIN and the like.
    """
    if requests:
        errors = wire.exchange((_BEGIN, *requests, _END), len(requests), -1)
        if errors:
            raise errors[0]


_BATCH_RESOURCE = socket.htons(NFNL_SUBSYS_NFTABLES)
_BEGIN = _MESSAGE.pack(20, NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, 0, 0, 0, _BATCH_RESOURCE)
_END = _MESSAGE.pack(20, NFNL_MSG_BATCH_END, NLM_F_REQUEST, 0, 0, 0, 0, _BATCH_RESOURCE)


def _message(kind: int, flags: int, family: int, content: bytes) -> bytes:
    return _MESSAGE.pack(20 + len(content), NFNL_SUBSYS_NFTABLES << 8 | kind, flags, 0, 0, family, 0, 0) + content


def _name(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode("utf-8", "surrogateescape") + b"\0")


def _data(kind: int, value: bytes) -> bytes:
    return attribute(NLA_F_NESTED | kind, attribute(NFTA_DATA_VALUE, value))


def _key(key: bytes, *, intervals: bool) -> bytes:
    if not intervals:
        return _data(NFTA_SET_ELEM_KEY, key)
    half = len(key) // 2
    return _data(NFTA_SET_ELEM_KEY, key[:half]) + _data(NFTA_SET_ELEM_KEY_END, key[half:])


def _framed(keys: Iterable[bytes]) -> Iterator[bytes]:
    """Make elements that have nothing but a key, a few at once: there may be thousands."""
    for size, alike in groupby(keys, len):
        before, after, _ = _frames(size, None)
        while few := tuple(islice(alike, _FEW)):
            yield before + (after + before).join(few) + after


def _mapped(key: bytes, value: bytes) -> bytes:
    """Make an element that has nothing but a *key* and a *value*: of those there are thousands, too."""
    before, between, after = _frames(len(key), len(value))
    return before + key + between + value + after


@lru_cache
def _frames(key: int, value: int | None) -> tuple[bytes, bytes, bytes]:
    """Return what stands before a key of this size, between it and a value of that size (if any), and behind them."""
    data = b"" if value is None else _data(NFTA_SET_ELEM_DATA, bytes(value))
    whole = attribute(NLA_F_NESTED | NFTA_LIST_ELEM, _data(NFTA_SET_ELEM_KEY, bytes(key)) + data)
    begin = 3 * _ATTRIBUTE.size
    other = len(whole) if value is None else len(whole) - len(data) + 2 * _ATTRIBUTE.size
    return whole[:begin], whole[begin + key : other], whole[other + (value or 0) :]


def _element(element: Element, *, intervals: bool) -> bytes:
    value = element.value
    if isinstance(value, bytes) and not (intervals or element.timeout):
        return _mapped(element.key, value)
    content = _key(element.key, intervals=intervals)
    if isinstance(value, Verdict):
        verdict = attribute(NFTA_VERDICT_CODE, _S32.pack(value.code))
        if value.chain:
            verdict += _name(NFTA_VERDICT_CHAIN, value.chain)
        verdict = attribute(NLA_F_NESTED | NFTA_DATA_VERDICT, verdict)
        content += attribute(NLA_F_NESTED | NFTA_SET_ELEM_DATA, verdict)
    elif value is not None:
        content += _data(NFTA_SET_ELEM_DATA, value)
    if element.timeout:
        content += attribute(NFTA_SET_ELEM_TIMEOUT, _U64.pack(element.timeout))
    return attribute(NLA_F_NESTED | NFTA_LIST_ELEM, content)


def _set(table: str, name: str) -> bytes:
    return _name(NFTA_SET_ELEM_LIST_TABLE, table) + _name(NFTA_SET_ELEM_LIST_SET, name)


def _elements(kind: int, flags: int, family: int, where: bytes, encoded: Iterable[bytes]) -> list[bytes]:
    """Make messages with as many elements in each as an attribute can hold."""

    def message(content: bytes | bytearray) -> bytes:
        listed = attribute(NLA_F_NESTED | NFTA_SET_ELEM_LIST_ELEMENTS, bytes(content))
        return _message(kind, flags, family, where + listed)

    result = []
    content = bytearray()
    for element in encoded:
        if len(content) > _ELEMENTS_BYTES:
            result.append(message(content))
            content = bytearray()
        content += element
    if content:
        result.append(message(content))
    return result


# ---- answers


def elements(message: bytes, *, counted: bool = True) -> list[Element]:
    """Read the elements of one NEWSETELEM or DELSETELEM; raises DecodeError if it is none.

    To read their counters takes half of the time, and is left out if they are not to be *counted*.
    """
    found = _content(message, NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM)
    try:
        return [_read_element(item, counted) for item in _list(found.get(NFTA_SET_ELEM_LIST_ELEMENTS, b""))]
    except struct.error as error:
        raise DecodeError(f"not a set's element: {error}") from error


def table(message: bytes) -> Table:
    """Read a NEWTABLE or DELTABLE; raises DecodeError if it is none."""
    found = _content(message, NFT_MSG_NEWTABLE, NFT_MSG_DELTABLE)
    name, handle, use = (found.get(kind, b"") for kind in (NFTA_TABLE_NAME, NFTA_TABLE_HANDLE, NFTA_TABLE_USE))
    return Table(message[16], _string(name), _number(handle), _number(use))


def chain(message: bytes) -> Chain:
    """Read a NEWCHAIN or DELCHAIN; raises DecodeError if it is none."""
    found = _content(message, NFT_MSG_NEWCHAIN, NFT_MSG_DELCHAIN)
    get = found.get
    hook = attributes(get(NFTA_CHAIN_HOOK, b""), 0)
    priority = hook.get(NFTA_HOOK_PRIORITY)
    return Chain(
        message[16],
        _string(get(NFTA_CHAIN_TABLE, b"")),
        _string(get(NFTA_CHAIN_NAME, b"")),
        _number(get(NFTA_CHAIN_HANDLE, b"")),
        _number(get(NFTA_CHAIN_USE, b"")),
        _string(get(NFTA_CHAIN_TYPE, b"")),
        _number(hook[NFTA_HOOK_HOOKNUM]) if NFTA_HOOK_HOOKNUM in hook else None,
        None if priority is None else int.from_bytes(priority, "big", signed=True),
        _number(found[NFTA_CHAIN_POLICY]) if NFTA_CHAIN_POLICY in found else None,
    )


def rule(message: bytes) -> Rule:
    """Read a NEWRULE or DELRULE; raises DecodeError if it is none."""
    found = _content(message, NFT_MSG_NEWRULE, NFT_MSG_DELRULE)
    get = found.get
    packets, size = _counter(_list(get(NFTA_RULE_EXPRESSIONS, b"")))
    return Rule(
        message[16],
        _string(get(NFTA_RULE_TABLE, b"")),
        _string(get(NFTA_RULE_CHAIN, b"")),
        _number(get(NFTA_RULE_HANDLE, b"")),
        _comment(get(NFTA_RULE_USERDATA, b"")),
        packets,
        size,
    )


def generation(message: bytes) -> int:
    """Read the answer to `getgeneration`: a number that every transaction raises by one, and that wraps."""
    return _number(_content(message, NFT_MSG_NEWGEN).get(NFTA_GEN_ID, b""))


def change(message: bytes) -> Change:
    """Read who did what to which table; raises DecodeError if *message* is about no table."""
    event = _kind(message)
    if event not in _NAMES:
        raise DecodeError(f"message {event} of nftables is about no table")
    found = attributes(message, 20)
    # Each kind has the table's name first, but the second name elsewhere.
    name = found.get(_NAMES[event], b"") if _NAMES[event] else b""
    return Change(event, message[16], _string(found.get(1, b"")), _string(name), _PORT.unpack_from(message)[0])


_NAMES = {
    NFT_MSG_NEWTABLE: 0,
    NFT_MSG_DELTABLE: 0,
    NFT_MSG_NEWCHAIN: NFTA_CHAIN_NAME,
    NFT_MSG_DELCHAIN: NFTA_CHAIN_NAME,
    NFT_MSG_NEWRULE: NFTA_RULE_CHAIN,
    NFT_MSG_DELRULE: NFTA_RULE_CHAIN,
    NFT_MSG_NEWSET: NFTA_SET_NAME,
    NFT_MSG_DELSET: NFTA_SET_NAME,
    NFT_MSG_NEWSETELEM: NFTA_SET_ELEM_LIST_SET,
    NFT_MSG_DELSETELEM: NFTA_SET_ELEM_LIST_SET,
}


def _kind(message: bytes) -> int:
    """Tell which NFT_MSG it is."""
    if len(message) < 20:
        raise DecodeError(f"a message of nftables of {len(message)} bytes")
    number: int = _MESSAGE.unpack_from(message)[1]
    if number >> 8 != NFNL_SUBSYS_NFTABLES:
        raise DecodeError(f"message type {number} is not one of nftables")
    return number & 0xFF


def _content(message: bytes, *kinds: int) -> dict[int, bytes]:
    """Read the attributes of *message*, which must be of one of these kinds."""
    kind = _kind(message)
    if kind not in kinds:
        raise DecodeError(f"message {kind} of nftables where one of {kinds} was due")
    return attributes(message, 20)


def _list(content: bytes) -> Iterator[bytes]:
    """Yield the payload of each attribute of a list, all of which have the same type."""
    offset, end = 0, len(content)
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(content, offset)
        if size < 4 or offset + size > end:
            raise DecodeError(f"an attribute of {size} bytes with {end - offset} left")
        if kind & NLA_TYPE_MASK == NFTA_LIST_ELEM:
            yield content[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def _read_element(content: bytes, counted: bool) -> Element:  # noqa: FBT001
    if not counted and (plain := _read_plain(content)):
        return plain
    found = attributes(content, 0)
    _, key = _only(found.get(NFTA_SET_ELEM_KEY, b""))
    if end := found.get(NFTA_SET_ELEM_KEY_END):
        key += _only(end)[1]
    value: Value = None
    if (data := found.get(NFTA_SET_ELEM_DATA)) is not None:
        kind, held = _only(data)
        if kind == NFTA_DATA_VERDICT:
            parts = attributes(held, 0)
            (code,) = _S32.unpack(parts.get(NFTA_VERDICT_CODE, b""))
            value = Verdict(code, _string(parts.get(NFTA_VERDICT_CHAIN, b"")))
        else:
            value = held
    if not counted:
        packets = size = None
    elif (single := found.get(NFTA_SET_ELEM_EXPR)) is not None:
        packets, size = _counter((single,))
    else:
        packets, size = _counter(_list(found.get(NFTA_SET_ELEM_EXPRESSIONS, b"")))
    timeout, left = (_number(found.get(kind, b"")) for kind in (NFTA_SET_ELEM_TIMEOUT, NFTA_SET_ELEM_EXPIRATION))
    return Element(key, value, timeout, packets, size, left)


def _read_plain(content: bytes) -> Element | None:
    """Read an element that begins with a key and a value, of which nothing else is asked; None if it does not."""
    unpack = _ATTRIBUTE.unpack_from
    size, kind = unpack(content)
    at = (size + 3) & ~3
    if kind & NLA_TYPE_MASK != NFTA_SET_ELEM_KEY or len(content) < at + 8:
        return None
    _, data = unpack(content, at)
    (key, _), (value, held) = unpack(content, 4), unpack(content, at + 4)
    if data & NLA_TYPE_MASK != NFTA_SET_ELEM_DATA or held & NLA_TYPE_MASK != NFTA_DATA_VALUE:
        return None
    return Element(content[8 : 4 + key], content[at + 8 : at + 4 + value])


def _only(content: bytes) -> tuple[int, bytes]:
    """Read the kind and the payload of the one attribute in *content*, if it has one."""
    if not content:
        return 0, b""
    size, kind = _ATTRIBUTE.unpack_from(content)
    if size < 4 or size > len(content):
        raise DecodeError(f"an attribute of {size} bytes with {len(content)} left")
    return kind & NLA_TYPE_MASK, content[4:size]


def _counter(expressions: Iterable[bytes]) -> tuple[int | None, int | None]:
    """Read packets and bytes of the first counter among *expressions*."""
    for expression in expressions:
        parts = attributes(expression, 0)
        if parts.get(NFTA_EXPR_NAME) == b"counter\0":
            counts = attributes(parts.get(NFTA_EXPR_DATA, b""), 0)
            return _number(counts.get(NFTA_COUNTER_PACKETS, b"")), _number(counts.get(NFTA_COUNTER_BYTES, b""))
    return None, None


def _comment(userdata: bytes) -> str:
    """Find the comment among what `nft` keeps with a rule: entries of a byte of type, a byte of length, and content."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, size = userdata[offset : offset + 2]
        if kind == NFTNL_UDATA_RULE_COMMENT:
            return _string(userdata[offset + 2 : offset + 2 + size])
        offset += 2 + size
    return ""


def _string(value: bytes) -> str:
    return value.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


# ---- news


def changes(ports: Iterable[int] = ()) -> Monitor[Change]:
    """Hear of every change to the tables of the namespace that the calling thread is in.

    What is done through the sockets with these *ports* (`Socket.port`) never wakes us: a filter in the kernel drops it.
    """
    program: list[Instruction] = [(LOAD_WORD, 0, 0, 12)]  # the last field of struct nlmsghdr
    for port in ports:
        program += ((IF_EQUAL, 0, 1, socket.htonl(port)), (RETURN, 0, 0, 0))
    program.append((RETURN, 0, 0, EVERYTHING))
    return Monitor(NETLINK_NETFILTER, 1 << (NFNLGRP_NFTABLES - 1), program, _change)


def _change(message: bytes) -> Change | None:
    return change(message) if _kind(message) in _NAMES else None
