"""Whole plans as text, which the log, `--dry-run` and the docs show. `make golden` renews the files."""

from collections.abc import Callable
from ipaddress import ip_address, ip_interface, ip_network

from msgspec.structs import replace

from isthmus import firewall
from isthmus.firewall import Mode, Policy
from isthmus.model import HOST
from isthmus.naming import Owner
from isthmus.plan import diff
from isthmus.resources import (
    Address,
    Bridge,
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
)

Golden = Callable[[str, str], None]

NET, END = Owner("1" * 64), Owner("1" * 64, "2" * 64)
BRIDGE = Bridge(HOST, "br-111111111111", NET, mtu=1500, ipv6=False)
NETWORK: tuple[Resource, ...] = (
    BRIDGE,
    Address(HOST, BRIDGE.name, ip_interface("10.5.0.1/24"), NET),
    Sysctl(HOST, "net.ipv4.ip_forward", "1"),
    Table("0123456789abcdef"),
    *firewall.elements(Policy(BRIDGE.name, Mode.NAT)),
)
ENDPOINT: tuple[Resource, ...] = (
    Namespace("web"),
    Veth(
        HOST, "veth22222222222", "web", "eth0", END, "02:42:0a:05:00:02", BRIDGE.name, 1500, isolated=False, ipv6=False
    ),
    Address("web", "eth0", ip_interface("10.5.0.2/24"), END),
    Route("web", ip_network("0.0.0.0/0"), "eth0", END, ip_address("10.5.0.1")),
)
LIMITS: tuple[Resource, ...] = (
    Shaper(HOST, "veth22222222222", 100_000_000),
    Ifb(HOST, "ifb22222222222", END),
    Shaper(HOST, "ifb22222222222", 20_000_000),
    Redirect(HOST, "veth22222222222", "ifb22222222222"),
)


def test_a_nat_network_is_made(golden: Golden) -> None:
    """The first thing that anyone does."""
    golden("network-create.plan", str(diff(NETWORK, ())) + "\n")


def test_a_sandbox_joins_it(golden: Golden) -> None:
    """The thing that is done most."""
    golden("connect.plan", str(diff((*NETWORK, *ENDPOINT), NETWORK)) + "\n")


def test_a_sandbox_leaves_it(golden: Golden) -> None:
    """What the kernel takes away by itself is not said."""
    golden("disconnect.plan", str(diff(NETWORK, (*NETWORK, *ENDPOINT))) + "\n")


def test_a_network_is_removed(golden: Golden) -> None:
    """Permissions first, prohibitions last."""
    golden("network-remove.plan", str(diff((Table("0123456789abcdef"),), NETWORK)) + "\n")


def test_a_sandbox_joins_it_with_a_rate(golden: Golden) -> None:
    """It is limited before anything can pass."""
    golden("rate-connect.plan", str(diff((*NETWORK, *ENDPOINT, *LIMITS), NETWORK)) + "\n")


def test_a_rate_is_changed(golden: Golden) -> None:
    """In place."""
    wanted = (*LIMITS[:2], Shaper(HOST, "ifb22222222222", 50_000_000), LIMITS[3])
    golden("rate-change.plan", str(diff((*ENDPOINT, *wanted), (*ENDPOINT, *LIMITS))) + "\n")


def test_a_rate_is_lifted(golden: Golden) -> None:
    """What is sent is led by its link no more before that goes."""
    golden("rate-lift.plan", str(diff(ENDPOINT, (*ENDPOINT, *LIMITS))) + "\n")


def test_an_uplink_is_added_and_another_mtu_set(golden: Golden) -> None:
    """What stands is changed where it stands."""
    port = Port(HOST, "eth1", BRIDGE.name, NET)
    wanted = (replace(BRIDGE, mtu=9000), port, *NETWORK[1:])
    golden("change.plan", str(diff(wanted, NETWORK)) + "\n")


def test_a_deleted_bridge_is_repaired(golden: Golden) -> None:
    """The endpoints on it are put back."""
    left = [replace(one, master=None) if isinstance(one, Veth) else one for one in (*NETWORK[2:], *ENDPOINT)]
    golden("repair.plan", str(diff((*NETWORK, *ENDPOINT), left)) + "\n")
