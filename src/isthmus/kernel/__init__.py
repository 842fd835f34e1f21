"""The kernel, as the engine sees it: it can be observed within a scope, and a plan can be applied to it.

Two things speak this protocol, and one suite of tests holds both to it: `linux.LinuxKernel`, the only code of ours that
touches Linux, and `fake.FakeKernel`, which refuses what Linux refuses and removes what Linux removes.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from isthmus.model import Host, IPAddress, Place
from isthmus.naming import Owner
from isthmus.plan import Plan
from isthmus.resources import Key, Resource

ELSEWHERE = "?"
"""Stands for the namespace of a pair's other end, or for a parent, that is out of sight or was not looked for."""


class Scope(msgspec.Struct, frozen=True):
    """What part of the kernel is looked at. All of it is named outright, so that looking costs what there is to see.

    *links* are pairs of a namespace and a link's name: the link, if it bears our mark, with its other end, its
    addresses and its routes. *leaving* are such, too, of links that shall go: what goes with them is not looked for, so
    such a link comes alone, and a pair with its other end `ELSEWHERE`. *ports* are links of others in the host's
    namespace, seen if they are on a bridge of ours. *nicknames* are names by which namespaces of ours may be known
    besides their own. *told* are keys of forwarding entries and neighbours, seen on links of ours whether these are
    named or not. *elements* are keys of such in our table; with *firewall* that is seen, with all its elements.
    With *everything*, all that bears our mark is. Sysctls are seen only where they are named, rules only in the
    namespaces *ruled*, and what shapes or redirects only on those links of ours that are *shaped*.
    """

    namespaces: frozenset[str] = frozenset()
    links: frozenset[tuple[str, str]] = frozenset()
    ports: frozenset[str] = frozenset()
    sysctls: frozenset[tuple[str, str]] = frozenset()
    nicknames: frozenset[str] = frozenset()
    leaving: frozenset[tuple[str, str]] = frozenset()
    told: frozenset[Key] = frozenset()
    elements: frozenset[Key] = frozenset()
    ruled: frozenset[str] = frozenset()
    shaped: frozenset[tuple[str, str]] = frozenset()
    firewall: bool = False
    everything: bool = False


class Count(msgspec.Struct, frozen=True):
    """How often an element of a set of ours has matched."""

    set: str
    match: tuple[str, ...]
    packets: int
    bytes: int


class Lost(msgspec.Struct, frozen=True):
    """A link with the mark of *owner* went, went down, left its bridge, or lost what shapes its traffic."""

    owner: Owner


class Shaken(msgspec.Struct, frozen=True):
    """An address, a route or a link went in the namespace *netns* (`HOST` is the daemon's own), or its name did."""

    netns: str


class FirewallTouched(msgspec.Struct, frozen=True):
    """Somebody else took something out of our table, or all of it."""


class Overrun(msgspec.Struct, frozen=True):
    """There was more news than could be read: anything may have changed."""


class Appeared(msgspec.Struct, frozen=True):
    """A link of this *name* that is not ours came, or went up, in the host's namespace."""

    name: str


class Routed(msgspec.Struct, frozen=True):
    """Somebody else made a route to *destination* in the host's namespace."""

    destination: str


class PathChanged(msgspec.Struct, frozen=True):
    """What leaves the host's namespace may do so by another link, or the links have another MTU."""


class Missed(msgspec.Struct, frozen=True):
    """In the namespace *netns* somebody looked for an address or a MAC, *where*, of which its tunnel was not told."""

    netns: str
    where: IPAddress | str


class Retold(msgspec.Struct, frozen=True):
    """In the namespace *netns* a link of ours was told otherwise of an address or a MAC, *where*, but not by us.

    If it is *gone*, the link knows nothing of it any more; that may be our own doing.
    """

    netns: str
    where: IPAddress | str
    gone: bool


News = Lost | Shaken | FirewallTouched | Overrun | Appeared | Routed | PathChanged | Missed | Retold
"""What a watch of the kernel tells the engine, so that it looks again."""


class Kernel(Protocol):
    """What the engine asks of a kernel. It is used by one thread at a time."""

    def observe(self, scope: Scope) -> frozenset[Resource]:
        """All within *scope* that bears our mark, each field filled in; sysctls that are named there, as they are."""

    def apply(self, plan: Plan) -> None:
        """Do what *plan* says, in its order.

        Raises:
            Refused: the kernel refused to make or change something. What came before stays done; of what comes after
                it, only what went to the same namespace in the same message may be done.
            ExceptionGroup: of `Refused`, from removals. Removing gathers errors and goes on; making and loosening
                are then not tried.
        """

    def host(self) -> Host:
        """The links, addresses and routes of the host's namespace that bear no mark of ours."""

    def counts(self) -> tuple[Count, ...]:
        """The counters of all elements of our table that have one."""

    def hold(self, places: Iterable[Place]) -> Mapping[Place, str]:
        """Keep *places* on the host from all its processes, until `release` or our end.

        The answer has those that cannot be kept, each with the reason. No packet is taken by this.
        """

    def release(self, places: Iterable[Place]) -> None:
        """Keep *places* no more."""

    def holder(self, place: Place) -> str:
        """Which process of the host has *place*, or a part of it; "" if that cannot be told."""

    def send(self, netns: str, link: str, frames: Iterable[bytes]) -> None:
        """Send *frames* out by a link; one that is not there, or is down, sends nothing."""

    def idle(self, told: Iterable[Key], seconds: float) -> frozenset[Key]:
        """Those of the forwarding entries *told* to tunnels by which nothing was sent for so long."""

    def forget(self, addresses: Iterable[IPAddress]) -> None:
        """Have connection tracking forget who went to or came from *addresses*, before somebody has them again."""
