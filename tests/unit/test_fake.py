"""What only the fake kernel has: its copies, its text, and the verbs of other administrators.

That it behaves as Linux does is tested in tests/contract/test_kernel.py.
"""

from errno import EADDRNOTAVAIL, EEXIST, ENODEV, ENOENT, EOPNOTSUPP, EPERM, ERANGE, ESRCH
from ipaddress import ip_interface, ip_network

import pytest
from msgspec.structs import replace

from isthmus.errors import Refused
from isthmus.kernel import Count, Scope
from isthmus.kernel.fake import FakeKernel
from isthmus.model import HOST, Host, HostLink
from isthmus.naming import Owner
from isthmus.plan import NOTHING, Change, Make, Plan, diff
from isthmus.resources import Address, Bridge, Child, Element, Namespace, Resource, Route, Sysctl, Table, Veth, Vlan
from tests.worlds import Act

NET, END = Owner("n1"), Owner("n1", "e1")
WORLD: tuple[Resource, ...] = (
    Table("v1"),
    Element("enter4", ("br0",), permits=False, value="drop"),
    Element("masquerade4", ("br0",), permits=True),
    Namespace("web"),
    Bridge(HOST, "br0", NET),
    Veth(HOST, "veth1", "web", "eth0", END, "02:42:0a:00:00:02", master="br0"),
    Address("web", "eth0", ip_interface("10.0.0.2/24"), END),
    Route("web", ip_network("10.77.0.0/16"), "eth0", END),
)
HOST_LINKS = Host((HostLink("eth9", "dummy", 1500, (ip_interface("192.0.2.1/24"),)),))
ALL = Scope(everything=True)


def test_a_copy_goes_its_own_way() -> None:
    """A law tries out many futures of one kernel."""
    kernel = FakeKernel(WORLD, HOST_LINKS)
    before = str(kernel)
    other = kernel.copy()
    assert str(other) == before
    other.reboot()
    other.add_link(HostLink("wan0", "dummy", 1500))
    assert str(kernel) == before
    assert str(other) != before


def test_it_prints_as_the_commands_that_would_make_it() -> None:
    """A failing test shows the world in words that everyone can read."""
    kernel = FakeKernel(WORLD, HOST_LINKS)
    seen = {one.key: one for one in kernel.observe(ALL)}
    assert str(kernel).splitlines() == [
        "ip netns add web && ip -n web link set lo up",
        *(seen[one.key].make() for one in (*WORLD[4:], *WORLD[:3])),
        "ip link add eth9 mtu 1500 type dummy  # not ours",
        "ip address add 192.0.2.1/24 dev eth9  # not ours",
    ]


def test_a_reboot_leaves_only_what_is_not_ours() -> None:
    """The next start makes all of it again, in one round."""
    kernel = FakeKernel(WORLD, HOST_LINKS)
    before = kernel.host()
    kernel.reboot()
    assert kernel.observe(ALL) == frozenset()
    assert kernel.host() == before
    kernel.apply(diff(WORLD, kernel.observe(ALL)))
    assert diff(WORLD, kernel.observe(ALL)) is NOTHING


@pytest.mark.parametrize(
    ("act", "errno"),
    [
        (Act("delete_link", ("nothing",)), ENODEV),
        (Act("set_down", ("nothing",)), ENODEV),
        (Act("delete_namespace", ("nothing",)), ENOENT),
        (Act("delete_address", ("br0", ip_interface("10.0.0.1/24"))), EADDRNOTAVAIL),
        (Act("delete_route", (ip_network("10.99.0.0/16"),)), ESRCH),
        (Act("delete_element", ("switched", ("br0",))), ENOENT),
        (Act("add_link", (HostLink("br0", "dummy", 1500),)), EEXIST),
        (Act("write_sysctl", ("net.ipv4.conf.nothing.forwarding", "1")), ENOENT),
    ],
    ids=str,
)
def test_other_administrators_are_refused_what_is_not_there(act: Act, errno: int) -> None:
    """A test that damages what is not there tests nothing, and is told so."""
    with pytest.raises(Refused) as refused:
        act.do(FakeKernel(WORLD))
    assert refused.value.errno == errno


def test_what_is_forbidden_is_refused_until_it_is_permitted() -> None:
    """So a test can have any operation fail."""
    kernel = FakeKernel()
    kernel.forbid(Namespace("web").key, EPERM)
    with pytest.raises(Refused) as refused:
        kernel.apply(Plan(make=(Make(Namespace("web")),)))
    assert refused.value.errno == EPERM
    kernel.permit()
    kernel.apply(Plan(make=(Make(Namespace("web")),)))
    assert kernel.observe(ALL) == {Namespace("web")}


def test_tightening_is_one_transaction() -> None:
    """If one rule is refused, the old ones still stand."""
    kernel = FakeKernel(WORLD)
    new = Element("leave4", ("br0",), permits=False, value="drop")
    kernel.forbid(new.key, EPERM)
    with pytest.raises(Refused):
        kernel.apply(Plan(tighten=(Make(Table("v2")), Make(new))))
    assert kernel.observe(Scope(firewall=True)) == set(WORLD[:3])


def test_packets_are_counted_where_a_set_counts() -> None:
    """`isthmus nat` shows what met a rule."""
    kernel = FakeKernel(WORLD)
    kernel.count("masquerade4", ("br0",), packets=2, octets=120)
    kernel.count("masquerade4", ("br0",), packets=1, octets=60)
    assert kernel.counts() == (Count("masquerade4", ("br0",), 3, 180),)


def test_a_sysctl_that_nobody_set_is_zero() -> None:
    """Before forwarding is switched on it is asked whether it was."""
    forward = (HOST, "net.ipv4.ip_forward")
    kernel = FakeKernel()
    assert kernel.observe(Scope(sysctls=frozenset({forward}))) == {Sysctl(*forward, "0")}


ON_A_WIRE: tuple[Resource, ...] = (
    Namespace("web"),
    Vlan(HOST, "eth9.5", "eth9", 5, NET),
    Child("web", "eth0", "eth9.5", "ipvlan", "l2", END, mtu=1400),
    Child(HOST, "shim0", "eth9", "macvlan", "bridge", NET, mac="02:42:0a:00:00:01"),
)


def test_a_link_of_others_takes_along_what_stands_on_it() -> None:
    """Down to the ipvlan on its VLAN."""
    kernel = FakeKernel(ON_A_WIRE, HOST_LINKS)
    assert diff(ON_A_WIRE, kernel.observe(ALL)) is NOTHING
    kernel.delete_link("eth9")
    assert kernel.observe(ALL) == {Namespace("web")}


def test_the_ipvlans_of_one_parent_have_one_mode() -> None:
    """That of the latest: a driver must not let two networks of different modes share a parent."""
    first = Child("web", "eth0", "eth9", "ipvlan", "l2", END)
    kernel = FakeKernel((Namespace("web"), first), HOST_LINKS)
    kernel.apply(Plan(make=(Make(replace(first, name="eth1", mode="l3", flag="private")),)))
    seen = [one for one in kernel.observe(ALL) if isinstance(one, Child)]
    assert {(one.name, one.mode, one.flag) for one in seen} == {("eth0", "l3", "private"), ("eth1", "l3", "private")}


def test_an_ipvlan_has_the_mac_of_its_parent() -> None:
    """And gets no other."""
    child = Child("web", "eth0", "eth9", "ipvlan", "l2", END)
    kernel = FakeKernel((Namespace("web"), child), Host((HostLink("eth9", "dummy", 1500, mac="02:00:00:00:00:09"),)))
    (seen,) = (one for one in kernel.observe(ALL) if isinstance(one, Child))
    assert seen.mac == "02:00:00:00:00:09"
    with pytest.raises(Refused) as refused:
        kernel.apply(Plan(make=(Change(replace(child, mac="02:00:00:00:00:10"), child),)))
    assert refused.value.errno == EOPNOTSUPP


def test_a_vlan_has_a_number_that_there_is() -> None:
    """4095 is reserved (802.1Q)."""
    kernel = FakeKernel((), HOST_LINKS)
    with pytest.raises(Refused) as refused:
        kernel.apply(Plan(make=(Make(Vlan(HOST, "eth9.4095", "eth9", 4095, NET)),)))
    assert refused.value.errno == ERANGE
