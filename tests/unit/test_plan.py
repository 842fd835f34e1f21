"""Plans, by example."""

from collections.abc import Iterable
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from msgspec.structs import replace

from isthmus.model import HOST
from isthmus.naming import Owner
from isthmus.plan import NOTHING, Change, Make, Plan, Remove, diff, sysctl_link
from isthmus.resources import (
    Address,
    Bridge,
    Child,
    Element,
    Namespace,
    Port,
    Resource,
    Route,
    Sysctl,
    Table,
    Veth,
    Vlan,
)

NET, END = Owner("n1"), Owner("n1", "e1")
WEB = Namespace("web")
BRIDGE = Bridge(HOST, "br0", NET)
VETH = Veth(HOST, "veth1", "web", "eth0", END, master="br0")
ADDRESS = Address("web", "eth0", ip_interface("10.0.0.2/24"), END)
SECOND = Address("web", "eth0", ip_interface("10.0.0.3/24"), END)
DEFAULT = Route("web", ip_network("0.0.0.0/0"), "eth0", END, ip_address("10.0.0.1"))
PORT = Port(HOST, "eth9", "br0", NET)
TABLE = Table("v1")
GUARD = Element("enter4", ("br0",), permits=False, value="drop")
PERMISSION = Element("masquerade4", ("br0",), permits=True)
ALL: tuple[Resource, ...] = (PERMISSION, DEFAULT, ADDRESS, VETH, PORT, GUARD, BRIDGE, WEB, TABLE)


def wants(resources: Iterable[Resource], *changed: Resource, without: Iterable[Resource] = ()) -> tuple[Resource, ...]:
    """*resources*, with those that are *changed* in the place of what has the same key."""
    new = {one.key: one for one in changed}
    return tuple(new.get(one.key, one) for one in resources if one not in without)


def test_what_is_needed_is_made_first_and_guarded_before_and_opened_after() -> None:
    """In whatever order a driver names things, the kernel takes them in one order only."""
    plan = diff(ALL, ())
    assert plan.tighten == (Make(TABLE), Make(GUARD))
    assert plan.make == tuple(Make(one) for one in (WEB, BRIDGE, PORT, VETH, ADDRESS, DEFAULT))
    assert plan.loosen == (Make(PERMISSION),)


def test_nothing_is_planned_for_what_is_there() -> None:
    """A restart with everything running must not touch it."""
    assert diff(ALL, reversed(ALL)) is NOTHING


def test_removing_withdraws_permissions_first_and_guards_last() -> None:
    """On the way out nothing is reachable that was not before."""
    plan = diff((TABLE,), ALL)
    assert plan == Plan(
        tighten=(Remove(PERMISSION),),
        remove=(Remove(VETH), Remove(PORT), Remove(BRIDGE), Remove(WEB)),
        loosen=(Remove(GUARD),),
    )


def test_an_address_of_a_link_that_stays_is_removed_by_name() -> None:
    """Only what goes by itself needs no step of its own."""
    assert diff(wants(ALL, without=[ADDRESS, DEFAULT]), ALL).remove == (Remove(DEFAULT), Remove(ADDRESS))


def test_what_leans_on_an_address_that_goes_is_made_again() -> None:
    """Linux takes secondaries and routes along without a word."""
    plan = diff(wants((*ALL, SECOND), without=[ADDRESS]), (*ALL, SECOND))
    assert plan == Plan(remove=(Remove(ADDRESS),), make=(Make(SECOND), Make(DEFAULT)))


def test_a_bridge_that_gets_another_owner_is_made_anew_and_gets_its_ports_back() -> None:
    """A mark cannot be trusted if it can be changed under what bears it; the veth outlives its bridge."""
    other = replace(BRIDGE, owner=Owner("n2"))
    plan = diff(wants(ALL, other), ALL)
    assert plan == Plan(remove=(Remove(BRIDGE),), make=(Make(other), Make(PORT), Change(VETH, VETH)))


def test_an_mtu_is_changed_in_place() -> None:
    """A change that Linux can do must not interrupt traffic."""
    other = replace(BRIDGE, mtu=9000)
    assert diff(wants(ALL, other), ALL) == Plan(make=(Change(other, BRIDGE),))


def test_a_veth_whose_inner_name_differs_is_made_anew() -> None:
    """Renaming needs the link down, which would take its routes along."""
    other = replace(VETH, peer="eth1")
    plan = diff((WEB, BRIDGE, other), (WEB, BRIDGE, VETH, ADDRESS))
    assert plan == Plan(remove=(Remove(VETH),), make=(Make(other),))


VLAN = Vlan(HOST, "lan0.5", "lan0", 5, NET)
CHILD = Child("web", "eth0", "lan0.5", "macvlan", "bridge", END)


def test_what_stands_on_a_link_is_made_after_it_and_removed_before() -> None:
    """A macvlan on a VLAN on a bridge: each needs the one below."""
    below = replace(VLAN, parent="br0")
    plan = diff((ADDRESS, CHILD, below, WEB, BRIDGE), ())
    assert plan.make == tuple(Make(one) for one in (WEB, BRIDGE, below, CHILD, ADDRESS))
    plan = diff((), (ADDRESS, CHILD, below, WEB, BRIDGE))
    assert plan.remove == tuple(Remove(one) for one in (CHILD, below, BRIDGE, WEB))


def test_what_stands_on_a_link_that_is_replaced_is_made_again() -> None:
    """It goes with its parent, without a word."""
    other = replace(VLAN, vid=6)
    plan = diff((WEB, other, CHILD, ADDRESS), (WEB, VLAN, CHILD, ADDRESS))
    assert plan == Plan(remove=(Remove(VLAN),), make=(Make(other), Make(CHILD), Make(ADDRESS)))


@pytest.mark.parametrize("other", [replace(CHILD, mode="private"), replace(CHILD, parent="lan0")], ids=repr)
def test_a_child_in_another_mode_or_place_is_made_anew(other: Child) -> None:
    """Linux changes neither in one that stands."""
    assert diff((WEB, VLAN, other), (WEB, VLAN, CHILD)) == Plan(remove=(Remove(CHILD),), make=(Make(other),))


def test_a_new_table_comes_with_all_its_elements() -> None:
    """Loading it empties every set."""
    plan = diff(wants(ALL, Table("v2")), ALL)
    assert plan == Plan(tighten=(Make(Table("v2")), Make(GUARD)), loosen=(Make(PERMISSION),))


def test_a_table_gets_what_it_comes_to_need_first_and_loses_the_rest_last() -> None:
    """What stands in it stays: on the way it has whatever the old or the new needs."""
    was, both, new = (Table("v1", needed) for needed in (("egress", "own"), ("ask", "egress", "own"), ("ask",)))
    other = replace(GUARD, value="accept")
    plan = diff(wants(ALL, new, other), wants(ALL, was))
    assert plan == Plan(tighten=(Change(both, was), Change(other, GUARD)), loosen=(Change(new, both),))
    assert diff(wants(ALL, both), wants(ALL, was)) == Plan(tighten=(Change(both, was),))
    assert diff(wants(ALL, new), wants(ALL, both)) == Plan(loosen=(Change(new, both),))


def test_a_guard_outlasts_a_new_table_until_what_it_guards_is_gone() -> None:
    """An upgrade while a network is removed must not open it for a moment."""
    plan = diff((Table("v2"),), (TABLE, GUARD, PERMISSION, BRIDGE))
    assert plan == Plan(tighten=(Make(Table("v2")), Make(GUARD)), remove=(Remove(BRIDGE),), loosen=(Remove(GUARD),))


def test_permissions_go_before_their_bridge_even_if_the_table_goes_too() -> None:
    """The table is the last to go, and until then what is in it holds."""
    plan = diff((), (TABLE, GUARD, PERMISSION, BRIDGE))
    assert plan == Plan(tighten=(Remove(PERMISSION),), remove=(Remove(BRIDGE),), loosen=(Remove(TABLE),))


def test_a_permission_that_changes_is_withdrawn_first_and_given_last() -> None:
    """A port that moves to another endpoint must not lead to where the old one was."""
    old = Element("source4", ("br0",), permits=True, value="192.0.2.1")
    new = replace(old, value="192.0.2.2")
    assert diff((TABLE, new), (TABLE, old)) == Plan(tighten=(Remove(old),), loosen=(Make(new),))


def test_a_guard_that_changes_is_changed_first_and_in_one_step() -> None:
    """There must be no moment without it."""
    other = replace(GUARD, value="goto enter-nat")
    assert diff(wants(ALL, other), ALL) == Plan(tighten=(Change(other, GUARD),))


def test_the_way_to_a_gateway_is_made_before_the_route_by_it() -> None:
    """A gateway outside of the subnet is reached by a route of its own, or Linux refuses it."""
    way = Route("web", ip_network("192.0.2.1/32"), "eth0", END)
    by_it = Route("web", ip_network("0.0.0.0/0"), "eth0", END, ip_address("192.0.2.1"))
    assert diff((by_it, way), ()).make == (Make(way), Make(by_it))


def test_a_sysctl_is_never_taken_back() -> None:
    """What it was before is not known; a plan with it in would never be empty."""
    assert diff((), (Sysctl(HOST, "net.ipv4.ip_forward", "1"),)) is NOTHING


def test_a_sysctl_of_a_link_goes_and_comes_with_it() -> None:
    """The kernel keeps it in the link."""
    sysctl = Sysctl(HOST, "net.ipv4.conf.br0.route_localnet", "1")
    other = replace(BRIDGE, owner=Owner("n2"))
    assert diff((other, sysctl), (BRIDGE, sysctl)) == Plan(remove=(Remove(BRIDGE),), make=(Make(other), Make(sysctl)))


def test_the_link_of_a_sysctl_is_read_from_its_name() -> None:
    """A slash stands for a dot in a link's name, and `all` and `default` are no links."""
    assert sysctl_link("net.ipv4.conf.eth0/5.rp_filter") == "eth0.5"
    assert sysctl_link("net.ipv4.conf.all.rp_filter") is None
    assert sysctl_link("net.ipv4.ip_forward") is None


def test_a_plan_can_be_cut_into_steps_and_added_up_again() -> None:
    """What a crash leaves is some of the steps, in order."""
    plan = diff(wants(ALL, replace(BRIDGE, owner=Owner("n2"))), ALL)
    assert sum(plan.steps(), NOTHING) == plan
    assert len(list(plan.steps())) == len(plan) == len(list(plan))
