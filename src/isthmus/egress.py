"""Egress policies: who may be called from inside a network, as a user writes it, and as a firewall can look it up.

A policy is a list of rules, of which the last that speaks of a call decides; a call that none speaks of may be made:

    deny, allow *.debian.org:443, allow 10.0.0.0/8:5432/tcp, allow /icmp

Rules about addresses and ports overlap; a set of nftables cannot. So they are cut into boxes that do not: a range of
protocols, one of ports and one of addresses each, in which all may pass. Rules about names are not among them: their
addresses become known when somebody asks for the name, and `told` says what that changes.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import ip_network

import msgspec

from isthmus.addresses import IPNetwork
from isthmus.errors import InvalidOption
from isthmus.model import IPAddress

EGRESS = "isthmus.egress"
"""The option of a network or an endpoint that has its egress policy."""

Range = tuple[int, int]
"""The first and the last of what is meant."""

Box = tuple[Range, Range, Range]
"""Some protocols (their numbers), ports and addresses (as integers). Where a protocol has no ports, all are meant."""

MOST_RULES, MOST_BOXES = 128, 1024
"""How many rules a policy may have, and into how many boxes of one IP version it may be cut."""

_PROTOCOLS: Range = (0, 255)
_PORTS: Range = (0, 65535)
_WITH_PORTS = (6, 17, 132)
_NUMBERS = {"tcp": (6, 6), "udp": (17, 17), "sctp": (132, 132), "icmp": (1, 58)}
"""The protocols that can be named: the number of each with IPv4, and with IPv6."""

_DRY_RUN = "dry-run"
_VERB = re.compile(r"(allow|deny)(?:\s+(\S+))?")
_PROTOCOL = re.compile(r"/([a-z]+)$")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*(?=[a-z0-9_-]*[a-z_]){_LABEL}")
_FORM = "it must be allow or deny, and what: [ADDRESS, CIDR or NAME][:PORT[-PORT]][/tcp, /udp, /sctp or /icmp]"


class Rule(msgspec.Struct, frozen=True):
    """Calls to *target* may be made, or not; to all if it is None. A name may have `*.` in front: all names below.

    *Protocol* is that of `_NUMBERS`; "" means all there are, and with *ports* those that have ports.
    """

    allows: bool
    target: IPNetwork | str | None = None
    ports: Range | None = None
    protocol: str = ""

    def names(self, name: str) -> bool:
        """Whether it speaks of *name*, in lower case."""
        if not isinstance(self.target, str):
            return False
        return name.endswith(self.target[1:]) if self.target.startswith("*.") else name == self.target

    def boxes(self, version: int, called: Range | None = None) -> Iterator[Box]:
        """What it speaks of with this IP *version*; a name stands for the addresses *called*."""
        if self.target is None:
            addresses = everywhere(version)
        elif isinstance(self.target, str):
            if called is None:
                return
            addresses = called
        elif self.target.version == version:
            addresses = (int(self.target.network_address), int(self.target.broadcast_address))
        else:
            return
        if self.protocol:
            number = _NUMBERS[self.protocol][version == 6]
            yield (number, number), self.ports or _PORTS, addresses
        elif self.ports:
            yield from (((number, number), self.ports, addresses) for number in _WITH_PORTS)
        else:
            yield _PROTOCOLS, _PORTS, addresses


class Egress(msgspec.Struct, frozen=True):
    """A policy. With *dry_run* nothing is dropped, but what would be is logged."""

    rules: tuple[Rule, ...]
    dry_run: bool = False

    @property
    def named(self) -> bool:
        """Whether it speaks of names."""
        return any(isinstance(rule.target, str) for rule in self.rules)

    def __add__(self, other: "Egress") -> "Egress":
        """The policy that has the rules of *other* behind its own."""
        return Egress((*self.rules, *other.rules), self.dry_run or other.dry_run)


def everywhere(version: int) -> Range:
    """All addresses of an IP version."""
    return 0, (1 << (32 if version == 4 else 128)) - 1


@lru_cache(maxsize=256)
def egress_of(text: str) -> Egress | None:
    """The policy that *text* is; None if it is blank, or `off`.

    Raises:
        InvalidOption: it is none.
    """
    items = [item.strip().lower() for item in text.split(",") if item.strip()]
    if items in ([], ["off"]):
        return None
    rules = tuple(_rule(item) for item in items if item != _DRY_RUN)
    if len(rules) > MOST_RULES:
        raise InvalidOption(EGRESS, f"{text[:60]}...", f"a policy has at most {MOST_RULES} rules, not {len(rules)}")
    policy = Egress(rules, _DRY_RUN in items)
    for version in (4, 6):
        if (count := len(allowed((policy,), version))) > MOST_BOXES:
            why = f"its rules overlap in {count} ways, more than {MOST_BOXES}; say the same with fewer"
            raise InvalidOption(EGRESS, f"{text[:60]}...", why)
    return policy


def _rule(item: str) -> Rule:
    found = _VERB.fullmatch(item)
    if not found:
        raise InvalidOption(EGRESS, item, _FORM)
    rest = found[2] or ""
    protocol = ""
    if suffix := _PROTOCOL.search(rest):
        protocol, rest = suffix[1], rest[: suffix.start()]
        if protocol not in _NUMBERS:
            raise InvalidOption(EGRESS, item, f"there is no protocol {protocol}; there are {', '.join(_NUMBERS)}")
    if rest.startswith("["):
        target, bracket, ports = rest[1:].partition("]")
        if not bracket or ports[:1] not in {"", ":"}:
            raise InvalidOption(EGRESS, item, _FORM)
        ports = ports[1:]
    elif rest.count(":") > 1:
        target, ports = rest, ""
    else:
        target, colon, ports = rest.partition(":")
        if colon and not ports:
            raise InvalidOption(EGRESS, item, _FORM)
    if ports and protocol == "icmp":
        raise InvalidOption(EGRESS, item, "icmp has no ports: leave them out")
    return Rule(found[1] == "allow", _target(item, target), _ports(item, ports) if ports else None, protocol)


def _target(item: str, text: str) -> IPNetwork | str | None:
    if text in {"", "*"}:
        return None
    try:
        return ip_network(text)
    except ValueError as error:
        if _NAME.fullmatch(text) and len(text) < 254:
            return text
        why = (
            f"{error}; write addresses as 192.0.2.0/24, 2001:db8::/32 or [2001:db8::1]:443, and names as *.example.org"
        )
        raise InvalidOption(EGRESS, item, why) from None


def _ports(item: str, text: str) -> Range:
    first, dash, last = text.partition("-")
    numbers = [int(one) if one.isascii() and one.isdigit() and len(one) < 6 else -1 for one in (first, last or first)]
    low, high = numbers
    if not 0 < low <= high <= _PORTS[1] or (dash and not last):
        raise InvalidOption(EGRESS, item, "a port is a number from 1 to 65535, a range has the lower one first")
    return low, high


@lru_cache(maxsize=256)
def allowed(policies: tuple[Egress, ...], version: int) -> tuple[Box, ...]:
    """The boxes of an IP *version* in which all *policies* let all pass, whatever names stand for.

    None overlaps with another.
    """
    return tuple(_passing(policies, version, everywhere(version)))


def told(policies: Sequence[Egress], name: str, address: IPAddress) -> tuple[list[Box], list[Box]]:
    """What may pass besides, and what may not, once *name* (in lower case) is known to stand for *address*."""
    here = (int(address), int(address))
    if not any(rule.names(name) for policy in policies for rule in policy.rules):
        return [], []
    before = _passing(policies, address.version, here)
    after = _passing(policies, address.version, here, name)
    return _minus(after, before), _minus(before, after)


def _passing(policies: Iterable[Egress], version: int, addresses: Range, name: str = "") -> list[Box]:
    """What may pass to *addresses* by all *policies*, when *name* stands for these."""
    passing: list[Box] = [(_PROTOCOLS, _PORTS, addresses)]
    for policy in policies:
        rules = reversed(policy.rules)
        areas = ((rule.allows, rule.boxes(version, addresses if rule.names(name) else None)) for rule in rules)
        # The next one decides about what this one lets through.
        passing = _decided(areas, passing)
    return passing


def _decided(areas: Iterable[tuple[bool, Iterable[Box]]], undecided: list[Box]) -> list[Box]:
    """The parts of what is *undecided* that may pass, when of *areas* the first that has a call decides."""
    passing: list[Box] = []
    for allows, boxes in areas:
        for area in boxes:
            left: list[Box] = []
            for box in undecided:
                left.extend(_apart(box, area))
                if allows and (common := _common(box, area)):
                    passing.append(common)
            undecided = left
    return passing + undecided


def _minus(boxes: Iterable[Box], others: Sequence[Box]) -> list[Box]:
    """What is in one of *boxes* and in none of *others*."""
    left = list(boxes)
    for other in others:
        left = [part for box in left for part in _apart(box, other)]
    return left


def _common(one: Box, other: Box) -> Box | None:
    """What two boxes have in common."""
    protocols, ports, addresses = (
        (max(low, first), min(high, last)) for (low, high), (first, last) in zip(one, other, strict=True)
    )
    empty = any(low > high for low, high in (protocols, ports, addresses))
    return None if empty else (protocols, ports, addresses)


def _apart(box: Box, other: Box) -> Iterator[Box]:
    """The pieces of *box* around what *other* has of it: cut by addresses first, of which most rules speak."""
    part = _common(box, other)
    if part is None:
        yield box
        return
    protocols, ports, addresses = box
    for piece in _around(addresses, part[2]):
        yield protocols, ports, piece
    for piece in _around(protocols, part[0]):
        yield piece, ports, part[2]
    for piece in _around(ports, part[1]):
        yield part[0], piece, part[2]


def _around(whole: Range, part: Range) -> Iterator[Range]:
    if whole[0] < part[0]:
        yield whole[0], part[0] - 1
    if part[1] < whole[1]:
        yield part[1] + 1, whole[1]
