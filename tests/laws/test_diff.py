"""What a plan leads to, and that it is empty when there is nothing to do."""

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.kernel.fake import FakeKernel
from isthmus.plan import NOTHING, diff
from tests.laws.laws import holds, is_settled
from tests.worlds import HOST_BEFORE, World, acts, worlds


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_what_was_applied_is_observed(world: World) -> None:
    """If the kernel did not show what it was told, the difference would never end."""
    holds(FakeKernel(world.resources, HOST_BEFORE), world)


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_between_a_world_and_itself_there_is_no_difference(world: World) -> None:
    """Comparing is not looking at the order in which things come."""
    assert diff(world.resources, reversed(world.resources)) is NOTHING


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_a_restart_does_nothing(world: World) -> None:
    """A new engine, whichever part of the kernel it looks at first, leaves what runs alone."""
    is_settled(diff, FakeKernel(world.resources, HOST_BEFORE), world)


@settings(max_examples=60, deadline=None)
@given(worlds(), st.data())
def test_what_is_not_ours_stays_as_it_is(world: World, data: st.DataObject) -> None:
    """Other people's links, addresses and routes on the same machine must survive our coming and our going."""
    kernel = FakeKernel(host=HOST_BEFORE)
    before = kernel.host()
    kernel.apply(diff(world.resources, kernel.observe(world.scope)))
    assert kernel.host() == before
    data.draw(st.sampled_from(acts(kernel))).do(kernel)
    kernel.apply(diff((), kernel.observe(world.scope)))
    assert kernel.host() == before
    assert kernel.observe(world.scope) <= {
        one for one in kernel.observe(World(world.resources).scope) if not hasattr(one, "owner")
    }
