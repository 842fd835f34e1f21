"""What resources say of themselves: who they are, what they need, and how they read."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from msgspec.structs import replace

from isthmus.model import HOST
from isthmus.naming import Owner
from isthmus.resources import (
    Address,
    Bridge,
    Child,
    Element,
    Ifb,
    Namespace,
    Port,
    Redirect,
    Resource,
    Route,
    Shaper,
    Sysctl,
    Table,
    Veth,
    Vlan,
    link_key,
    provided,
    satisfied,
)

NET = Owner("n1")
END = Owner("n1", "e1")
BRIDGE = Bridge(HOST, "br0", NET, mtu=1500, ipv6=False)
VETH = Veth(
    HOST, "veth1", "web", "eth0", END, mac="02:42:0a:00:00:02", master="br0", mtu=1500, isolated=True, ipv6=False
)


CHILD = Child("web", "eth0", "lan0", "macvlan", "bridge", END, mac="02:42:0a:00:00:02", mtu=1400, ipv6=False)


@pytest.mark.parametrize(
    ("resource", "line"),
    [
        (Namespace("web"), "ip netns add web && ip -n web link set lo up"),
        (
            BRIDGE,
            "ip link add br0 mtu 1500 type bridge forward_delay 0 && ip link set br0 mtu 1500 addrgenmode none up",
        ),
        (Bridge("web", "br0", NET), "ip -n web link add br0 type bridge forward_delay 0 && ip -n web link set br0 up"),
        (
            CHILD,
            (
                "ip link add link lan0 name eth0 address 02:42:0a:00:00:02 mtu 1400 netns web type macvlan mode bridge"
                " && ip -n web link set eth0 addrgenmode none up"
            ),
        ),
        (
            Child(HOST, "shim0", "lan0", "ipvlan", "l2", NET, "private"),
            "ip link add link lan0 name shim0 type ipvlan mode l2 private && ip link set shim0 up",
        ),
        (
            Vlan(HOST, "lan0.5", "lan0", 5, NET),
            "ip link add link lan0 name lan0.5 type vlan id 5 && ip link set lan0.5 up",
        ),
        (Port(HOST, "eth9", "br0", NET), "ip link set eth9 up master br0"),
        (Ifb(HOST, "ifb1", END), "ip link add ifb1 type ifb && ip link set ifb1 addrgenmode none up"),
        (
            Shaper(HOST, "veth1", 100_000_000),
            "tc qdisc replace dev veth1 root tbf rate 100mbit burst 125000 latency 50ms",
        ),
        (
            Redirect(HOST, "veth1", "ifb1"),
            (
                "tc qdisc replace dev veth1 clsact && tc filter add dev veth1 ingress pref 105 u32 match u32 0 0"
                " action mirred egress redirect dev ifb1"
            ),
        ),
        (
            Address("web", "eth0", ip_interface("10.0.0.2/24"), END),
            "ip -n web address replace 10.0.0.2/24 brd + dev eth0",
        ),
        (
            Address("web", "eth0", ip_interface("fd00::2/64"), END),
            "ip -n web address replace fd00::2/64 dev eth0 nodad",
        ),
        (
            Route("web", ip_network("0.0.0.0/0"), "eth0", END, ip_address("10.0.0.1")),
            "ip -n web route replace default via 10.0.0.1 dev eth0 proto 105",
        ),
        (
            Route("web", ip_network("::/0"), "eth0", END, ip_address("fd00::1")),
            "ip -n web -6 route replace default via fd00::1 dev eth0 proto 105",
        ),
        (Sysctl(HOST, "net.ipv4.ip_forward", "1"), "sysctl -w net.ipv4.ip_forward=1"),
        (Sysctl("web", "net.ipv4.ip_forward", "1"), "ip netns exec web sysctl -w net.ipv4.ip_forward=1"),
        (Table("v1"), "nft -f isthmus.nft  # v1"),
        (Element("switched", ("br0",), permits=True), "nft add element inet isthmus switched '{ \"br0\" }'"),
        (
            Element("source4", ("br0",), permits=True, value="10.0.0.1"),
            "nft add element inet isthmus source4 '{ \"br0\" : 10.0.0.1 }'",
        ),
    ],
)
def test_making_reads_as_the_command_that_would_do_it(resource: Resource, line: str) -> None:
    """The log, a dry run and the docs show these lines; people paste them."""
    assert resource.make() == line


def test_a_pair_of_veths_is_there_under_both_names() -> None:
    """Addresses lie on the inner end, and must find the pair by it."""
    assert provided(VETH) == (link_key(HOST, "veth1"), link_key("web", "eth0"))
    assert set(Address("web", "eth0", ip_interface("10.0.0.2/24"), END).needs) <= set(provided(VETH))


def test_a_veth_needs_its_namespace_and_its_bridge() -> None:
    """What is needed is made first."""
    assert set(VETH.needs) == {Namespace("web").key, BRIDGE.key}


def test_a_child_needs_its_namespace_and_its_parent() -> None:
    """The parent is in the host's namespace, wherever the child is."""
    assert set(CHILD.needs) == {Namespace("web").key, link_key(HOST, "lan0")}
    assert set(replace(CHILD, parent="lan0.5").needs) > set(provided(Vlan(HOST, "lan0.5", "lan0", 5, NET)))


def test_what_is_in_the_hosts_namespace_needs_no_namespace() -> None:
    """The host's namespace is nobody's to make."""
    assert BRIDGE.needs == ()


@pytest.mark.parametrize(
    "silent",
    [
        replace(VETH, mtu=None),
        replace(VETH, ipv6=None),
        replace(VETH, mac=None),
        replace(VETH, master=None),
        replace(VETH, isolated=None),
        replace(CHILD, mac=None),
        replace(CHILD, mtu=None),
        replace(CHILD, ipv6=None),
    ],
)
def test_a_field_that_is_none_is_not_compared(silent: Veth | Child) -> None:
    """What the user left to the kernel is the kernel's, or every look would find a difference."""
    whole = VETH if isinstance(silent, Veth) else CHILD
    assert satisfied(silent, whole)
    assert not satisfied(whole, silent)


def test_another_kind_of_link_of_the_same_name_does_not_do() -> None:
    """A bridge in the place of a veth is a difference."""
    assert BRIDGE.key == Veth(HOST, "br0", "web", "eth0", END).key
    assert not satisfied(BRIDGE, Veth(HOST, "br0", "web", "eth0", END))
