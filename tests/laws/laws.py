"""The laws that every `diff` must obey, as functions of it, so that broken ones can be tried as well.

Each raises an AssertionError or lets the kernel's `Refused` through. *Danger* is what must not arise on the way, as
values that can be compared: no step may add one.
"""

from collections.abc import Callable, Iterable, Iterator

from hypothesis import strategies as st

from isthmus import firewall
from isthmus.kernel.fake import FakeKernel
from isthmus.naming import Owner
from isthmus.plan import Plan, Remove
from isthmus.resources import (
    TABLES,
    Bridge,
    Child,
    Element,
    Ifb,
    Key,
    Port,
    Redirect,
    Resource,
    Table,
    Veth,
    Vlan,
    Vxlan,
    link_key,
    satisfied,
)
from tests.worlds import BRIDGES, HOST_BEFORE, World, acts

Diff = Callable[[Iterable[Resource], Iterable[Resource]], Plan]
Danger = tuple[str, Key]


def holds(kernel: FakeKernel, world: World) -> None:
    """*Kernel* holds all of *world*, and nothing else of ours."""
    there = {resource.key: resource for resource in kernel.observe(world.scope)}
    for wanted in world.resources:
        assert wanted.key in there, f"missing: {wanted}"
        assert satisfied(wanted, there[wanted.key]), f"wanted: {wanted}, there: {there[wanted.key]}"
    assert there.keys() == {wanted.key for wanted in world.resources}


def converges_at_once(diff: Diff, kernel: FakeKernel, world: World) -> None:
    """One round brings *kernel* to *world*, after which there is nothing to do."""
    strangers = kernel.host().links
    kernel.apply(diff(world.resources, kernel.observe(world.scope)))
    holds(kernel, world)
    assert not len(diff(world.resources, kernel.observe(world.scope)))
    assert kernel.host().links == strangers


def is_settled(diff: Diff, kernel: FakeKernel, world: World) -> None:
    """Nothing is to be done, whichever part of *world* is looked at, and in whatever order its resources come."""
    assert not len(diff(world.resources[::-1], kernel.observe(world.scope)))
    for desired, scope in world.areas():
        assert not len(diff(desired, kernel.observe(scope)))


def survives_a_crash(diff: Diff, before: World, after: World, data: st.DataObject) -> None:
    """From each step of a plan, and after any damage, one round gives the wanted world; no step is unsafe."""
    kernel = FakeKernel(before.resources, HOST_BEFORE)
    for _ in range(data.draw(st.integers(0, 2), label="acts before")):
        data.draw(st.sampled_from(acts(kernel)), label="act").do(kernel)
    start = {resource.key: resource for resource in kernel.observe(after.scope)}
    plan = diff(after.resources, kernel.observe(after.scope))
    where = data.draw(st.integers(0, len(plan)), label="damage after step")
    known = set(dangers(kernel, start, before, after))
    for number, step in enumerate(_steps(plan)):
        if number == where:
            damaged = kernel.copy()
            data.draw(st.sampled_from(acts(damaged)), label="act").do(damaged)
            converges_at_once(diff, damaged, after)
        for operation in step.remove:
            dependents_are_gone(operation, kernel, after)
        kernel.apply(step)
        now = set(dangers(kernel, start, before, after))
        assert now <= known, f"after step {number}, `{step}`, of:\n{plan}"
        known = now
        converges_at_once(diff, kernel.copy(), after)
    assert not known
    holds(kernel, after)


def _steps(plan: Plan) -> Iterator[Plan]:
    """The steps of *plan* after which a crash may find the kernel: tightening and loosening are transactions."""
    yield Plan(tighten=plan.tighten)
    yield from Plan(remove=plan.remove, make=plan.make).steps()
    yield Plan(loosen=plan.loosen)


def dependents_are_gone(operation: object, kernel: FakeKernel, after: World) -> None:
    """What is about to be removed has nothing left on it that is to be removed as well."""
    wanted = {resource.key for resource in after.resources}
    if isinstance(operation, Remove):
        for other in kernel.observe(after.scope):
            if isinstance(other, Bridge | Veth | Vlan | Child | Port | Redirect | Vxlan) and other.key not in wanted:
                # A redirection goes with its link, but not with its target.
                needs = (link_key(other.netns, other.target),) if isinstance(other, Redirect) else other.needs
                assert operation.resource.key not in needs, f"{operation.resource} goes before {other}"


def dangers(kernel: FakeKernel, start: dict[Key, Resource], before: World, after: World) -> Iterator[Danger]:
    """What is unsafe in *kernel* now, on the way from *before* to *after*, which began as *start*."""
    there = {resource.key: resource for resource in kernel.observe(after.scope)}
    wanted = {resource.key: resource for resource in after.resources}
    for key, resource in there.items():
        if isinstance(resource, Element) and resource.permits:
            # A bridge that is replaced by one with the same permissions keeps them meanwhile.
            kept = start.get(key) == resource == wanted.get(key)
            by_link = firewall.SETS[resource.set].startswith("type ifname")
            if by_link and ("link", "", resource.match[0]) not in there and not kept:
                yield "permits to nothing", key
    for name in BRIDGES:
        bridge = there.get(("link", "", name))
        if isinstance(bridge, Bridge) and any(
            isinstance(one, Veth | Port) and one.netns == "" and one.master == name for one in there.values()
        ):
            for key, values in _guards(bridge, before, after).items():
                guard = there.get(key)
                if not (isinstance(guard, Element) and guard.value in values):
                    yield "unguarded", key
    links, began, will = _links(there.values()), _links(start.values()), _links(wanted.values())
    new, old = links - began, (links & began) - will
    if new:
        yield from (("still there", key) for key, _ in old)
    tables = [one for holding in (start, there, wanted) if isinstance(one := holding.get(TABLES[0]), Table)]
    if len(tables) == len((start, there, wanted)) and len({table.digest for table in tables}) == 1:
        was, now, will_be = ({*table.needed} for table in tables)
        lacking = (was if old else set()) | (will_be if new else set()) | was & will_be
        yield from (("without", ("table", name)) for name in lacking - now)
        # Whom somebody else's needs have refused for a moment.
        staying = (one for one in start.values() if isinstance(one, Element) and one.permits)
        yield from (("refused", one.key) for one in staying if wanted.get(one.key) == one != there.get(one.key))


def _links(resources: Iterable[Resource]) -> set[tuple[Key, Owner]]:
    """Which links these are, and whose."""
    return {(one.key, one.owner) for one in resources if isinstance(one, Bridge | Veth | Vlan | Child | Ifb | Vxlan)}


def _guards(bridge: Bridge, before: World, after: World) -> dict[Key, set[str]]:
    """The elements without which *bridge* must have nothing on it, and the values that they may have."""
    old, new = before.bridge(bridge.name), after.bridge(bridge.name)
    was = before.guards(bridge.name) if old and old.owner == bridge.owner else None
    will = after.guards(bridge.name) if new and new.owner == bridge.owner else None
    if was is None:
        return {key: {guard.value} for key, guard in (will or {}).items()}
    future = after.guards(bridge.name)
    return {
        key: {guard.value, *([future[key].value] if key in future else [])}
        for key, guard in was.items()
        if will is None or key in will
    }
