"""What has to be done so that the kernel holds what is wanted: `diff` compares two sets of resources, a `Plan` says it.

A plan has four phases, and their order is what makes every step of it safe:

1. *tighten*: permissions are withdrawn and prohibitions set. A rule may name an interface that does not exist yet, so
   a network is guarded before it is up.
2. *remove*: what is no longer wanted goes, dependents first.
3. *make*: what is wanted comes, dependencies first.
4. *loosen*: permissions are given, and prohibitions dropped whose object is gone.

So at no step does a rule let packets through to something that is not there, nor can a sandbox be reached before its
rules stand. The first phase and the last are one transaction each. There is no undo: after a failure or a crash at any
step, `diff` against what the kernel then holds gives the rest. What must be known of the kernel for that to take one
round only:

* A link that goes takes its addresses, routes and sysctls along, a namespace its links, a pair of veths its other end.
  These need no step of their own, but what is still wanted of them has to be made again.
* A bridge that goes leaves its ports behind, which have to be put on the next one. A link that goes takes those along
  that stand on its wire: macvlans, ipvlans and VLANs.
* An IPv4 address that goes takes along the later ones of its subnet (unless `promote_secondaries` is set), and the last
  one all IPv4 routes of its link. So where one address of a link is removed, its others and its routes are made again:
  making what is there is success.
* What shapes the traffic of a link goes with that link, and so does a redirection. One whose target goes stays, and
  drops what comes: it is taken away before, or led elsewhere.
* What a tunnel was told goes with it, and what a bridge was told of a port goes with either, and when the port leaves.
* A rule outlives the links and routes that it leads to, but not its namespace.
* An address may move from one link to another, so all removing comes before all making.
* A permission that is to mean something else is withdrawn and given again, so that it never leads to what is gone.
* A table that is loaded anew is empty but for what comes in the same transaction: all prohibitions, also those of what
  is about to go. One that comes to need other of what is optional is not: it gets that first of all, and loses last of
  all what it needs no more.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

import msgspec

from isthmus.resources import (
    ORDER,
    TABLES,
    Address,
    Bridge,
    Child,
    Element,
    Forwarding,
    Ifb,
    Key,
    Neighbour,
    Nickname,
    Redirect,
    Resource,
    Route,
    Rule,
    Shaper,
    Sysctl,
    Table,
    Veth,
    Vlan,
    Vxlan,
    link_key,
    provided,
    satisfied,
)

_RANK = {kind: rank for rank, kind in enumerate(ORDER)}
_FIXED: Mapping[type, tuple[str, ...]] = {
    Bridge: ("owner",),
    Vlan: ("owner", "parent", "vid"),
    Veth: ("owner", "peer_netns", "peer"),
    Child: ("owner", "parent", "kind", "mode", "flag"),
    Ifb: ("owner",),
    Vxlan: ("owner", "vni", "port", "local", "learning", "asking", "under"),
    Rule: ("table",),
    Table: ("digest",),
}
"""What cannot be changed in a thing that stands: if it differs, the thing is made anew (a table in one transaction)."""


# `gc=False` as in `resources.Element`: of these, too, there may be thousands.
class Make(msgspec.Struct, frozen=True, gc=False):
    """Bring *resource* into being; if it is there already, that is success."""

    resource: Resource

    def __str__(self) -> str:
        return self.resource.make()


class Change(msgspec.Struct, frozen=True, gc=False):
    """Make of *was* what *resource* says, without taking it away in between."""

    resource: Resource
    was: Resource

    def __str__(self) -> str:
        return self.resource.change()


class Remove(msgspec.Struct, frozen=True, gc=False):
    """Take *resource* away; if it is gone already, that is success."""

    resource: Resource

    def __str__(self) -> str:
        return self.resource.remove()


Operation = Make | Change | Remove


class Plan(msgspec.Struct, frozen=True):
    """Operations in the order in which they are to be done; as text, one shell command a line."""

    tighten: tuple[Operation, ...] = ()
    remove: tuple[Operation, ...] = ()
    make: tuple[Operation, ...] = ()
    loosen: tuple[Operation, ...] = ()

    def __iter__(self) -> Iterator[Operation]:
        yield from self.tighten
        yield from self.remove
        yield from self.make
        yield from self.loosen

    def __len__(self) -> int:
        return len(self.tighten) + len(self.remove) + len(self.make) + len(self.loosen)

    def __str__(self) -> str:
        return "\n".join(str(operation) for operation in self)

    def steps(self) -> Iterator["Plan"]:
        """The same plan cut into plans of one operation each, in order: what a crash may cut it into."""
        yield from (Plan(tighten=(operation,)) for operation in self.tighten)
        yield from (Plan(remove=(operation,)) for operation in self.remove)
        yield from (Plan(make=(operation,)) for operation in self.make)
        yield from (Plan(loosen=(operation,)) for operation in self.loosen)

    def __add__(self, other: "Plan") -> "Plan":
        """Both plans as one, phase by phase."""
        return Plan(
            self.tighten + other.tighten,
            self.remove + other.remove,
            self.make + other.make,
            self.loosen + other.loosen,
        )


NOTHING = Plan()


def diff(desired: Iterable[Resource], actual: Iterable[Resource]) -> Plan:
    """The plan after which a kernel that holds *actual* holds *desired* (of the same scope), and nothing else of ours.

    It is `NOTHING` if all that is desired is there and nothing besides.
    """
    have = {resource.key: resource for resource in actual}
    if not have:
        return _phases([Make(resource) for resource in desired])
    want = {resource.key: resource for resource in desired}
    going = sorted(key for key, old in have.items() if _leaves(old, want.get(key)))
    leaving = [have[key] for key in going]
    if not leaving and all(key in have and satisfied(new, have[key]) for key, new in want.items()):
        return NOTHING
    dead = _dead(going, have) if going else set()
    # An address that comes to a link that stands may have been there, without being whole; then routes leaned on it.
    fresh = {link_key(new.netns, new.link) for key, new in want.items() if isinstance(new, Address) and key not in have}
    shaken = {link_key(old.netns, old.link) for old in leaving if isinstance(old, Address)}
    operations: list[Operation] = [
        Remove(old)
        for old in leaving
        if not _falls(old, dead, want) and not (isinstance(old, Table) and old.key in want)
    ]
    # A table that is loaded anew comes without these, but what they guard is still there.
    if not dead.isdisjoint(TABLES) and not want.keys().isdisjoint(TABLES):
        operations += [Make(old) for old in leaving if _guards(old) and old.key not in want]
    for key, new in want.items():
        was = have.get(key)
        if was is None or key in dead or _leans(new, shaken) or (isinstance(new, Route) and _leans(new, fresh)):
            operations.append(Make(new))
        elif not satisfied(new, was) or not dead.isdisjoint(new.needs):
            operations += _changes(new, was)
    return _phases(operations)


def fits(desired: Resource, actual: Resource) -> bool:
    """Whether *actual* can become what is *desired* without being made anew."""
    if type(desired) is not type(actual):
        return False
    return all(
        (wanted := getattr(desired, field)) is None or wanted == getattr(actual, field)
        for field in _FIXED.get(type(desired), ())
    )


def sysctl_link(name: str) -> str | None:
    """The link that the sysctl of this *name* belongs to, and goes with; None for those of a whole namespace."""
    match name.split("."):
        case ["net", "ipv4" | "ipv6", "conf" | "neigh", link, _] if link not in {"all", "default"}:
            return link.replace("/", ".")
    return None


def _leaves(actual: Resource, desired: Resource | None) -> bool:
    """Whether *actual* has to go: it is not wanted (sysctls stay), or cannot be changed into what is *desired*."""
    if desired is None:
        return not isinstance(actual, Sysctl)
    if isinstance(desired, Element) and isinstance(actual, Element):
        # A permission that is to mean something else is withdrawn before and given after all the rest.
        return actual.permits and desired != actual
    return not fits(desired, actual)


def _dead(going: Iterable[Key], have: Mapping[Key, Resource]) -> set[Key]:
    """The keys of all that is gone once what has the keys *going* has gone: these, and what cannot outlast them."""
    dead = set(going)
    # There may be thousands of elements, and nothing hangs on them.
    others = [one for one in have.values() if not isinstance(one, Element)]
    dead.update(key for one in others if one.key in dead for key in provided(one))
    for resource in sorted(others, key=_rank):
        if not dead.isdisjoint(_lifelines(resource)):
            dead.update(provided(resource))
    if not dead.isdisjoint(TABLES):
        dead.update(key for key, one in have.items() if isinstance(one, Element))
    return dead


def _lifelines(resource: Resource) -> tuple[Key, ...]:
    """That without which *resource* is gone. A veth and a tunnel outlive their bridge, a nickname its namespace."""
    match resource:
        case Veth() | Vxlan():
            return tuple(key for key in resource.needs if key[0] == "namespace")
        case Nickname():
            return ()
        case Sysctl(netns=netns, name=name) if link := sysctl_link(name):
            return (*resource.needs, link_key(netns, link))
    return resource.needs


def _falls(resource: Resource, dead: AbstractSet[Key], want: Mapping[Key, Resource]) -> bool:
    """Whether *resource* goes by itself, with its link or its table, and no later than it has to.

    A table that is made anew is emptied first of all, so permissions fall, but one that is not wanted goes last of all.
    """
    if isinstance(resource, Element):
        return resource.permits != (TABLES[0] not in want) and TABLES[0] in dead
    if isinstance(resource, Redirect):
        return link_key(resource.netns, resource.link) in dead
    hanging = isinstance(resource, Address | Forwarding | Neighbour | Route | Rule | Shaper)
    return hanging and not dead.isdisjoint(resource.needs)


def _guards(resource: Resource) -> bool:
    """Whether *resource* keeps packets out."""
    return isinstance(resource, Element) and not resource.permits


def _leans(resource: Resource, shaken: AbstractSet[Key]) -> bool:
    """Whether *resource* may go when its link loses an address."""
    return isinstance(resource, Address | Route) and link_key(resource.netns, resource.link) in shaken


def _changes(new: Resource, was: Resource) -> Iterator[Change]:
    """What makes *new* of *was*: a table first comes to have all that either needs, and then no more than is needed."""
    if isinstance(new, Table) and isinstance(was, Table):
        both = Table(new.digest, tuple(sorted({*new.needed, *was.needed})))
        yield from (Change(one, before) for one, before in ((both, was), (new, both)) if one != before)
    else:
        yield Change(new, was)


def _is_smaller(operation: Operation) -> bool:
    """Whether a table loses by *operation* what is needed no more."""
    if isinstance(operation, Change) and isinstance(operation.was, Table) and isinstance(operation.resource, Table):
        return len(operation.resource.needed) < len(operation.was.needed)
    return isinstance(operation, Remove)


def _is_indirect(resource: Resource) -> bool:
    """Whether *resource* is a route by a gateway, which another route may have to lead to first."""
    return isinstance(resource, Route) and resource.via is not None


def _rank(resource: Resource) -> int:
    return _RANK.get(type(resource), len(ORDER))


def _phases(operations: Iterable[Operation]) -> Plan:
    """Put *operations* into their phases, and into the order of `ORDER` within them."""
    tighten: list[Operation] = []
    remove: list[Operation] = []
    make: list[Operation] = []
    loosen: list[Operation] = []
    for operation in operations:
        taking = isinstance(operation, Remove)
        match operation.resource:
            case Table():
                (loosen if _is_smaller(operation) else tighten).append(operation)
            case Element(permits=permits):
                (loosen if taking != permits else tighten).append(operation)
            case _:
                (remove if taking else make).append(operation)
    tighten.sort(key=lambda operation: not isinstance(operation.resource, Table))
    loosen.sort(key=lambda operation: isinstance(operation.resource, Table))
    remove.sort(key=lambda operation: -_rank(operation.resource))
    make.sort(key=lambda operation: (_rank(operation.resource), _is_indirect(operation.resource)))
    return Plan(tuple(tighten), tuple(remove), tuple(make), tuple(loosen))
