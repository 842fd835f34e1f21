"""Our table in nftables: what stands in it, and how it is brought to what `firewall` says.

Chains are text, which the program `nft` loads, once; elements travel as raw messages, a transaction for each phase of a
plan. If the kernel refuses one, something is not as we think it is: then it is looked at again, and what is still to do
is sent once more; if that is refused as well, the table is loaded anew together with all its elements.

The table's version is the name of an empty chain: a comment of the table, once given, cannot be changed (Linux 6.18),
and the table must stay where it is, because the user's own chain lies in it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from errno import EINVAL, ENOENT
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from isthmus import firewall
from isthmus.addresses import written
from isthmus.errors import Refused
from isthmus.kernel import Count, nfnetlink
from isthmus.kernel.netlink import NETLINK_NETFILTER, NetlinkError, Socket
from isthmus.kernel.nfnetlink import NFPROTO_BRIDGE, NFPROTO_INET, Verdict
from isthmus.naming import TABLE, octets
from isthmus.plan import Change, Operation, Remove
from isthmus.resources import Element, Key, Table


class _Type(NamedTuple):
    """How a value of one nftables type looks: its size in bytes, and both ways between text and bytes.

    In a set of intervals an *address* is a prefix or a range; what else is a *number* may be a range, too.
    """

    size: int
    encode: Callable[[str], bytes]
    decode: Callable[[bytes], str]
    quote: str
    address: bool = False
    number: bool = False


_TYPES = {
    "ifname": _Type(16, nfnetlink.ifname, lambda raw: raw.rstrip(b"\0").decode("utf-8", "surrogateescape"), '"'),
    "mark": _Type(
        4, lambda text: int(text).to_bytes(4, sys.byteorder), lambda raw: str(int.from_bytes(raw, sys.byteorder)), ""
    ),
    "ipv4_addr": _Type(4, lambda text: IPv4Address(text).packed, lambda raw: str(IPv4Address(raw)), "", address=True),
    "ipv6_addr": _Type(16, lambda text: IPv6Address(text).packed, lambda raw: str(IPv6Address(raw)), "", address=True),
    "ether_addr": _Type(6, octets, lambda raw: raw.hex(":"), ""),
    "inet_proto": _Type(1, lambda text: nfnetlink.inet_proto(int(text)), lambda raw: str(raw[0]), "", number=True),
    "inet_service": _Type(
        2,
        lambda text: nfnetlink.inet_service(int(text)),
        lambda raw: str(int.from_bytes(raw, "big")),
        "",
        number=True,
    ),
}
_VERDICTS = {
    "accept": nfnetlink.ACCEPT,
    "drop": nfnetlink.DROP,
    "continue": Verdict(nfnetlink.NFT_CONTINUE),
    "return": Verdict(nfnetlink.NFT_RETURN),
}
_WORDS = {verdict: word for word, verdict in _VERDICTS.items()}
_JUMPS = {nfnetlink.NFT_JUMP: "jump", nfnetlink.NFT_GOTO: "goto"}


def _join(fields: Sequence[_Type], parts: Sequence[str]) -> bytes:
    """Return the bytes of *parts*, one for each of *fields*; several are a concatenation."""
    if len(fields) == 1:
        return fields[0].encode(parts[0])
    return nfnetlink.concat(*(field.encode(part) for field, part in zip(fields, parts, strict=True)))


def _split(fields: Sequence[_Type], raw: bytes) -> tuple[str, ...]:
    """Return the parts that `_join` joined."""
    if len(fields) == 1:
        return (fields[0].decode(raw),)
    parts = nfnetlink.split(raw, [field.size for field in fields])
    return tuple(field.decode(part) for field, part in zip(fields, parts, strict=True))


def _join_ends(fields: Sequence[_Type], parts: Sequence[str]) -> bytes:
    """Return the bytes of the first member of an interval, and those of its last behind them."""
    ends = [_ends(field, part) for field, part in zip(fields, parts, strict=True)]
    return b"".join(_join(fields, end) for end in zip(*ends, strict=True))


def _split_ends(fields: Sequence[_Type], raw: bytes) -> tuple[str, ...]:
    """Return the parts that `_join_ends` joined; where there is no last member, the first is the only one."""
    size = sum((field.size + 3) & ~3 for field in fields)
    first, last = _split(fields, raw[:size]), _split(fields, raw[size:] or raw)
    parts = zip(fields, first, last, strict=True)
    return tuple(_range(field, low, high) for field, low, high in parts)


def _ends(field: _Type, part: str) -> tuple[str, str]:
    """Return the first and the last of what *part* stands for."""
    low, dash, high = part.partition("-")
    if dash and (field.address or field.number):
        return low, high
    if field.address:
        network = ip_network(part)
        return str(network.network_address), str(network.broadcast_address)
    return part, part


def _range(field: _Type, low: str, high: str) -> str:
    """Return what `_ends` took apart."""
    if field.address:
        return written(ip_address(low), ip_address(high))
    return low if low == high else f"{low}-{high}"


_FAMILIES = {"inet": NFPROTO_INET, "bridge": NFPROTO_BRIDGE}

_KNOWN = 4096
"""How many keys and values of a set are remembered in both forms."""


class Set:
    """How the elements of one set look, read from its definition: "type ifname . ifname : verdict; counter".

    Those of a set with timeouts are *passing*: they come and go by themselves, so that nothing is said of them.
    """

    __slots__ = (
        "counted",
        "family",
        "fields",
        "intervals",
        "match",
        "name",
        "of",
        "passing",
        "permits",
        "raw",
        "value",
        "value_of",
        "values",
        "word",
    )

    def __init__(self, name: str, definition: str) -> None:
        first, *options = (part.strip() for part in definition.split(";"))
        key, _, value = first.removeprefix("type ").partition(" : ")
        self.name = name
        self.of = firewall.family(name)
        self.family = _FAMILIES[self.of]
        self.permits = firewall.permits(name)
        self.fields = tuple(_TYPES[field] for field in key.split(" . "))
        self.value = value
        self.values = () if value in {"", "verdict"} else tuple(_TYPES[field] for field in value.split(" . "))
        self.counted = "counter" in options
        flags = {flag for option in options if option.startswith("flags ") for flag in option[6:].split(",")}
        self.intervals = "interval" in flags
        self.passing = "timeout" in flags
        # An element is written and read several times in its life, and many have the same value.
        self.raw = lru_cache(_KNOWN)(partial(_join_ends if self.intervals else _join, self.fields))
        self.match = lru_cache(_KNOWN)(partial(_split_ends if self.intervals else _split, self.fields))
        self.value_of = lru_cache(_KNOWN)(lambda word: _join(self.values, word.split(" . ")))
        self.word = lru_cache(_KNOWN)(lambda raw: " . ".join(_split(self.values, raw)))

    def key(self, element: Element) -> bytes:
        """Return the bytes of what *element* matches."""
        return self.raw(element.match)

    def encode(self, element: Element) -> nfnetlink.Element:
        """Return *element* as the kernel has it."""
        if not self.value:
            return nfnetlink.Element(self.key(element))
        if self.value != "verdict":
            return nfnetlink.Element(self.key(element), self.value_of(element.value))
        verb, _, chain = element.value.partition(" ")
        codes = [code for code, word in _JUMPS.items() if word == verb]
        return nfnetlink.Element(self.key(element), Verdict(codes[0], chain) if codes else _VERDICTS[verb])

    def decode(self, element: nfnetlink.Element) -> Element:
        """Return *element* as `firewall` would make it."""
        return self.made(self.match(element.key), element)

    def made(self, match: tuple[str, ...], element: nfnetlink.Element) -> Element:
        """Return *element*, of which the *match* is known, as `firewall` would make it."""
        value = element.value
        if isinstance(value, Verdict):
            word = f"{_JUMPS[value.code]} {value.chain}" if value.code in _JUMPS else _WORDS[value]
        else:
            word = "" if value is None else self.word(value)
        return Element(self.name, match, self.permits, word, self.of)

    def text(self, element: Element) -> str:
        """Return the line for `nft -f` that adds *element*."""
        parts = zip(self.fields, element.match, strict=True)
        match = " . ".join(f"{field.quote}{part}{field.quote}" for field, part in parts)
        value = f" : {element.value}" if element.value else ""
        return f"add element {firewall.family(self.name)} {TABLE} {self.name} {{ {match}{value} }}\n"


SETS = {name: Set(name, definition) for name, definition in firewall.SETS.items()}
"""All sets of our tables, by name."""

_LASTING = tuple(kind for kind in SETS.values() if not kind.passing)

_OLD_TABLES = (
    "/proc/thread-self/net/ip_tables_names",
    "/proc/thread-self/net/ip6_tables_names",
    "/proc/thread-self/net/arp_tables_names",
)

_FEW = 8
"""Up to how many elements are asked for one by one, rather than all of a set."""

_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_FORWARDED = frozenset({_HOOKS["prerouting"], _HOOKS["forward"], _HOOKS["postrouting"]})
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_ACCEPT = 1


class _Hook(NamedTuple):
    """Where a base chain hangs."""

    kind: str
    hook: int | None
    priority: int | None
    policy: int | None


def _hook(lines: Sequence[str]) -> tuple[_Hook, int]:
    """Read "type nat hook postrouting priority srcnat; policy accept;"; a chain without it hangs nowhere.

    The number of rules comes besides.
    """
    if not lines or not lines[0].startswith("type "):
        return _Hook("", None, None, None), len(lines)
    _, kind, _, hook, _, priority, *_ = lines[0].replace(";", "").split()
    number = _PRIORITIES[priority] if priority in _PRIORITIES else int(priority)
    return _Hook(kind, _HOOKS[hook], number, _ACCEPT), len(lines) - 1


@lru_cache(1)
def _expected(table: Table) -> Mapping[str, tuple[_Hook, int]]:
    """Return where each chain of *table* hangs, and how many rules it has."""
    return {name: _hook(lines) for name, lines in firewall.chains(table).items()}


class Firewall:
    """Our table in the namespace of the thread that makes this."""

    def __init__(self) -> None:
        self._socket = Socket(NETLINK_NETFILTER)

    def close(self) -> None:
        """Give the file descriptor back."""
        self._socket.close()

    @property
    def port(self) -> int:
        """By which `nfnetlink.changes` tells our own changes from those of others."""
        self._socket.ask(nfnetlink.getgeneration())
        return self._socket.port

    def observe(self) -> Iterator[Table | Element]:
        """Yield the table, if there is one, and all elements of its sets but the passing ones.

        If somebody took out a part of what is fixed, the digest of the table says what.
        """
        if not self._stands():
            return
        table = self._table()
        found: list[Element] = []
        for kind in _LASTING:
            elements = self._elements(kind)
            if elements is None:
                table = Table(f"damaged: set {kind.name} is gone")
                continue
            found += [kind.decode(element) for element in elements]
        yield table
        yield from found

    def look_up(self, keys: Iterable[Key]) -> Iterator[Element]:
        """Yield those of our elements that have one of these *keys*, none if the table or the set is gone."""
        wanted: dict[str, set[tuple[str, ...]]] = {}
        for key in keys:
            wanted.setdefault(key[1], set()).add(key[2:])
        for name, matches in wanted.items():
            kind = SETS[name]
            if len(matches) > _FEW:
                found = self._elements(kind, counted=False) or []
            else:
                found = [one for match in matches for one in self._element(kind, kind.raw(match))]
            decoded = ((kind.match(one.key), one) for one in found)
            yield from (kind.made(match, one) for match, one in decoded if match in matches)

    def has_strangers(self) -> bool:
        """Whether others filter what is forwarded, with nftables or with the iptables of old."""
        chains = map(nfnetlink.chain, self._socket.dump(nfnetlink.getchains()))
        ours = {(family, TABLE) for family in _FAMILIES.values()}
        if any(chain.hook in _FORWARDED and (chain.family, chain.table) not in ours for chain in chains):
            return True
        return any(_old_tables(path) for path in _OLD_TABLES)

    def apply(self, operations: Sequence[Operation]) -> None:
        """Carry out *operations* on the table and its elements: in one transaction, unless it goes altogether.

        What is optional in a table that stands comes or goes in one of its own.

        Raises:
            Refused: and nothing was done, but that the table may have what is optional.
        """
        tables = [one for one in operations if isinstance(one.resource, Table)]
        made = [one for one in tables if not isinstance(one, Change)]
        if made and isinstance(made[-1], Remove):
            for family in _FAMILIES.values():
                self._commit(((made[-1], [nfnetlink.deltable(TABLE, family=family)]),), forgiven=ENOENT)
        elif made:
            self._load(made[0], _wanted((), operations), _asked(operations) or firewall.table())
        elif operations:
            try:
                if not tables:
                    self._commit(_gathered(operations))
                    return
                for altering, some in groupby(operations, lambda one: isinstance(one.resource, Table)):
                    if altering:
                        self._alter(some)
                    else:
                        self._commit(_gathered(tuple(some)))
            except Refused:
                self._insist(operations)

    def counts(self) -> tuple[Count, ...]:
        """Return the counters of all elements of the sets that count."""
        return tuple(
            Count(kind.name, kind.match(element.key), element.packets or 0, element.bytes or 0)
            for kind in SETS.values()
            if kind.counted
            for element in self._elements(kind) or ()
        )

    def _insist(self, operations: Sequence[Operation]) -> None:
        """Do what is still to be done of *operations*, or else load the table anew with all that shall be in it."""
        there = list(self.observe())
        present = {resource.key: resource for resource in there if isinstance(resource, Element)}
        wanted = _wanted(present.values(), operations)
        standing = next((one for one in there if isinstance(one, Table) and firewall.known(one)), None)
        asked = _asked(operations)
        if standing and asked in {None, standing}:
            still = [
                (operation, _delete(was) if new is None else [*_delete(was), *_add(new)])
                for operation in operations
                if (was := present.get(operation.resource.key)) != (new := wanted.get(operation.resource.key))
            ]
            try:
                self._commit(still)
            except Refused:
                pass
            else:
                return
        elif not (there or wanted or asked):
            return
        self._load(operations[0], wanted, asked or standing or firewall.table())

    def _commit(self, work: Iterable[tuple[Operation, list[bytes]]], forgiven: int = 0) -> None:
        """Send all requests of *work* as one transaction; the errno *forgiven* is none."""
        requests: list[bytes] = []
        operations: list[Operation] = []
        for operation, messages in work:
            requests += messages
            operations += [operation] * len(messages)
        try:
            nfnetlink.commit(self._socket, *requests)
        except NetlinkError as error:
            if error.errno != forgiven:
                # An index of -1 is about the whole.
                raise Refused(operations[max(error.index, 0)], error.errno or EINVAL, str(error.strerror)) from error

    def _alter(self, operations: Iterable[Operation]) -> None:
        """Have `nft` change what is optional in the table, as *operations* say."""
        for one in operations:
            if isinstance(one, Change) and isinstance(one.was, Table) and isinstance(one.resource, Table):
                _run(one, firewall.alter(one.was, one.resource))

    def _load(self, operation: Operation, elements: dict[tuple[str, ...], Element], table: Table) -> None:
        """Have `nft` load *table*, with *elements* and no others, on behalf of *operation*."""
        words = {number: word for word, number in _FAMILIES.items()}
        chains = [(words[chain.family], chain.name) for chain in self._chains()]
        sets = [(words[kind.family], name) for name, kind in SETS.items() if self._elements(kind) is not None]
        added = "".join(SETS[element.set].text(element) for element in elements.values())
        _run(operation, firewall.load(table, chains, sets) + added)

    def _stands(self) -> bool:
        tables = (nfnetlink.table(message) for message in self._socket.dump(nfnetlink.gettables(family=NFPROTO_INET)))
        return any(table.name == TABLE for table in tables)

    def _chains(self) -> list[nfnetlink.Chain]:
        families = _FAMILIES.values()
        answers = (one for family in families for one in self._socket.dump(nfnetlink.getchains(family=family)))
        return [chain for chain in map(nfnetlink.chain, answers) if chain.table == TABLE]

    def _table(self) -> Table:
        """Return the table, if all that is fixed in it is there."""
        chains = {chain.name: chain for chain in self._chains()}
        versions = [name for name in chains if name.startswith(firewall.VERSION_PREFIX)]
        version = versions[0].removeprefix(firewall.VERSION_PREFIX) if len(versions) == 1 else "without a version"
        rules = [nfnetlink.rule(message).chain for message in self._rules()]
        table = Table.of(version)
        for name, (hook, count) in _expected(table).items():
            chain = chains.get(name)
            if chain is None:
                return Table(f"damaged: chain {name} is gone")
            if (chain.kind, chain.hook, chain.priority, chain.policy) != hook:
                return Table(f"damaged: chain {name} hangs elsewhere")
            if rules.count(name) != count:
                return Table(f"damaged: chain {name} has {rules.count(name)} rules, not {count}")
        if firewall.USER_CHAIN not in chains:
            return Table(f"damaged: chain {firewall.USER_CHAIN} is gone")
        return table

    def _rules(self) -> list[bytes]:
        families = _FAMILIES.values()
        return [one for family in families for one in self._socket.dump(nfnetlink.getrules(family=family, table=TABLE))]

    def _elements(self, kind: Set, *, counted: bool = True) -> list[nfnetlink.Element] | None:
        """Return what is in a set, with counters if that is to be *counted*; None if there is no such set."""
        try:
            answers = self._socket.dump(nfnetlink.getelements(TABLE, kind.name, family=kind.family))
        except NetlinkError as error:
            if error.errno == ENOENT:
                return None
            raise
        return [element for message in answers for element in nfnetlink.elements(message, counted=counted)]

    def _element(self, kind: Set, key: bytes) -> list[nfnetlink.Element]:
        """Return the one element with this *key*, if it is there."""
        request = nfnetlink.getelement(TABLE, kind.name, key, family=kind.family, intervals=kind.intervals)
        try:
            return nfnetlink.elements(self._socket.ask(request))
        except NetlinkError as error:
            if error.errno == ENOENT:
                return []
            raise


def _run(operation: Operation, text: str) -> None:
    """Have `nft` do what *text* says, on behalf of *operation*."""
    program = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise Refused(operation, ENOENT, "the program nft is not installed (Debian: apt-get install nftables)")
    done = subprocess.run(  # noqa: S603 (all of it is ours)
        (program, "-f", "-"), input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(operation, EINVAL, " ".join(done.stderr.split()))


def _old_tables(path: str) -> str:
    """Return the names of the tables that the iptables of old have in this namespace, as /proc tells them."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""  # there are none in this kernel


def _wanted(present: Iterable[Element], operations: Iterable[Operation]) -> dict[tuple[str, ...], Element]:
    """Return the elements that shall be there after *operations*, by key."""
    wanted = {element.key: element for element in present}
    for operation in operations:
        if isinstance(operation, Remove):
            wanted.pop(operation.resource.key, None)
        elif isinstance(operation.resource, Element):
            wanted[operation.resource.key] = operation.resource
    return wanted


def _asked(operations: Iterable[Operation]) -> Table | None:
    """Return the table that shall be there after *operations*, if they say."""
    tables = [one.resource for one in operations if isinstance(one.resource, Table) and not isinstance(one, Remove)]
    return tables[-1] if tables else None


def _gathered(operations: Sequence[Operation]) -> Iterator[tuple[Operation, list[bytes]]]:
    """Yield the messages for *operations*, in order; those that do the same to one set are one message.

    A refusal of it is told of the first of them.
    """
    for kind, alike in groupby(operations, type):
        if kind is Change:
            elements = ((one, one.resource) for one in alike if isinstance(one.resource, Element))
            yield from ((one, [*_delete(element), *_add(element)]) for one, element in elements)
            continue
        make = _deleted if kind is Remove else _added
        for name, group in groupby(alike, attrgetter("resource.set")):
            same = list(group)
            yield same[0], make(name, map(attrgetter("resource"), same))


def _add(element: Element) -> list[bytes]:
    return _added(element.set, (element,))


def _delete(element: Element | None) -> list[bytes]:
    return [] if element is None else _deleted(element.set, (element,))


def _added(name: str, elements: Iterable[Element]) -> list[bytes]:
    kind = SETS[name]
    encoded = map(kind.encode, elements)
    return nfnetlink.newelements(TABLE, name, encoded, family=kind.family, intervals=kind.intervals)


def _deleted(name: str, elements: Iterable[Element]) -> list[bytes]:
    kind = SETS[name]
    keys = map(kind.raw, map(attrgetter("match"), elements))
    return nfnetlink.delelements(TABLE, name, keys, family=kind.family, intervals=kind.intervals)
