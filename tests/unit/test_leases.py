"""Addresses through the engine: who gets which, who gets the same again, and what must be apart on one segment."""

from ipaddress import ip_address, ip_interface, ip_network
from itertools import count

import pytest

from isthmus.addresses import DEFAULT_POOLS, Pool, SubnetRequest, ula_pool
from isthmus.decisions import Decisions
from isthmus.errors import (
    AddressInUse,
    Forbidden,
    InvalidOption,
    InvalidRequest,
    InvalidSubnet,
    IsthmusError,
    NoMoreSubnets,
    PoolExhausted,
    PoolOverlap,
    Refused,
)
from isthmus.model import HOST, Host, HostLink, Lease, Network, pairs
from isthmus.naming import mac
from isthmus.requests import EndpointRequest, NetworkRequest, SandboxRequest
from isthmus.resources import Veth
from isthmus.rules import DefaultBridge, Rules
from isthmus.state import State
from isthmus.store import records
from isthmus.views import SubnetStatus
from tests.unit.test_engine import BRIDGE, LAN, World

HOUR = 3600 * 10**9


@pytest.fixture
def world() -> World:
    """A host with two NICs and a daemon that has just started."""
    return World()


def pass_time(world: World, time: int) -> None:
    """Let *time* nanoseconds go by."""
    world.numbers = count(next(world.numbers) + time)


def address(world: World, sandbox: str, network: str) -> str:
    """The addresses of a sandbox on a network."""
    [view] = [one for one in world.engine.sandbox(sandbox).endpoints if one.network.name == network]
    return " ".join(str(one.ip) for one in view.endpoint.addresses)


def mac_of(world: World, sandbox: str) -> str:
    """The MAC of a sandbox on its one network."""
    [view] = world.engine.sandbox(sandbox).endpoints
    return view.endpoint.mac


def leases(world: World) -> set[str]:
    """The names of those for whom something is kept, as the store has it."""
    stored = [records.decode(key, value) for key, value in world.store.read("lease/").items.items()]
    return {one.name for one in stored if isinstance(one, Lease)}


def lan(world: World, name: str, subnet: str, parent: str = "eth0", **fields: str) -> str:
    """Make a macvlan network, with `ip_range`, `gateway`, and auxiliary addresses by their names."""
    known = {"ip_range", "gateway"}
    aux = tuple(sorted((key, value) for key, value in fields.items() if key not in known))
    request = SubnetRequest(subnet, fields.get("ip_range", ""), fields.get("gateway", ""), aux)
    options = pairs({"parent": parent})
    return world.engine.create_network(NetworkRequest(name, "macvlan", subnets=(request,), options=options)).id


def status(world: World, network: str) -> list[tuple[int, int]]:
    """How many addresses of each subnet are in use, and how many can be given out."""
    return [(one.in_use, one.available) for one in world.engine.network(network).status]


# An address stays.


def test_a_sandbox_that_is_made_again_has_its_address_again(world: World) -> None:
    """Whoever wrote an address down, or a rule in a firewall, need not look again after each new version."""
    world.network("front", "10.5.0.0/24")
    for name in ("one", "web", "two"):
        world.sandbox(name, "front")
    before = address(world, "web", "front"), mac_of(world, "web")
    world.engine.remove_sandbox("web")
    world.engine.remove_sandbox("one")
    world.sandbox("other", "front")
    world.restart()
    world.sandbox("web", "front")
    assert (address(world, "web", "front"), mac_of(world, "web")) == before == ("10.5.0.3", before[1])
    assert address(world, "other", "front") == "10.5.0.5"
    assert leases(world) == {"one"}


def test_disconnecting_keeps_the_address_too(world: World) -> None:
    """Connecting again is how people mend a network; it must not change one."""
    six = (SubnetRequest("10.5.0.0/24"), SubnetRequest("fd00:5::/64"))
    world.engine.create_network(NetworkRequest("front", subnets=six, ipv6=True))
    world.sandbox("web", "none")
    world.engine.disconnect("none", "web")
    world.engine.connect("front", "web", EndpointRequest(ipv4="10.5.0.77"))
    world.engine.disconnect("front", "web")
    world.sandbox("other", "front")
    world.engine.connect("front", "web", EndpointRequest())
    assert address(world, "web", "front") == "10.5.0.77 fd00:5::2"
    assert address(world, "other", "front") == "10.5.0.2 fd00:5::3"


def test_a_mac_of_ones_own_stays_whatever_the_address(world: World) -> None:
    """Licences and DHCP reservations hang on it."""
    world.network("front", "10.5.0.0/24")
    own = EndpointRequest(mac="02:00:00:00:00:07")
    world.engine.create_sandbox(SandboxRequest("web", mode="front", endpoints=(("front", own),)))
    world.engine.remove_sandbox("web")
    world.sandbox("thief", "front", ipv4="10.5.0.2")
    assert leases(world) == set()
    world.engine.remove_sandbox("thief")
    world.engine.create_sandbox(SandboxRequest("web", mode="front", endpoints=(("front", own),)))
    world.engine.remove_sandbox("web")
    world.sandbox("web", "front", ipv4="10.5.0.99")
    assert mac_of(world, "web") == "02:00:00:00:00:07"


def test_a_mac_that_followed_from_an_address_does_not_outlive_it(world: World) -> None:
    """It is that of whoever has the address now."""
    identity = world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    world.engine.remove_sandbox("web")
    world.sandbox("web", "front", ipv4="10.5.0.99")
    assert mac_of(world, "web") == mac(identity, "10.5.0.99")


def test_a_kept_address_is_free_when_its_time_is_over(world: World) -> None:
    """A day after a removal nobody counts on the address any more."""
    world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    world.engine.remove_sandbox("web")
    pass_time(world, 25 * HOUR)
    world.sandbox("other", "front")
    assert address(world, "other", "front") == "10.5.0.2"
    assert leases(world) == set()


def test_what_ended_while_the_daemon_was_down_has_ended(world: World) -> None:
    """There is no timer that a stopped daemon could miss."""
    world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    world.engine.remove_sandbox("web")
    world.engine.write_behind()
    pass_time(world, 25 * HOUR)
    world.restart()
    world.sandbox("other", "front")
    assert address(world, "other", "front") == "10.5.0.2"


@pytest.mark.parametrize(("option", "hours", "kept"), [("1h", 0, True), ("1h", 2, False), ("0", 0, False)])
def test_a_network_may_have_a_time_of_its_own(world: World, option: str, hours: int, kept: bool) -> None:  # noqa: FBT001
    """Networks for builds have many guests and few returns; others have a VPN's rules to match."""
    world.network("front", "10.5.0.0/24", ipam_options=pairs({"isthmus.lease": option}))
    world.sandbox("web", "front")
    world.engine.remove_sandbox("web")
    pass_time(world, hours * HOUR)
    world.sandbox("other", "front")
    assert (address(world, "other", "front") == "10.5.0.3") is kept


def test_the_daemons_time_is_for_all_other_networks() -> None:
    """Zero gives what Docker does: always the lowest address."""
    world = World(rules=Rules(pools=DEFAULT_POOLS, lease=0))
    world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    world.engine.remove_sandbox("web")
    assert not leases(world)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"isthmus.lease": "soon"}, "failed to parse isthmus.lease value: soon"),
        ({"isthmus.lease": "-1h"}, "failed to parse isthmus.lease value: -1h"),
        ({"isthmus.lease": "99999999h"}, "from 0 to 87600h"),
        ({"isthmus.leese": "1h"}, "there is no such option; there are .*isthmus.lease"),
        ({"com.docker.network.ipam.serial": "perhaps"}, "serial value: perhaps"),
    ],
)
def test_bad_ipam_options_are_refused(world: World, options: dict[str, str], words: str) -> None:
    """A slip of the pen is told at once, not found out a day later."""
    with pytest.raises(InvalidOption, match=words):
        world.network("front", "10.5.0.0/24", ipam_options=pairs(options))


def test_ipam_options_come_with_a_configuration(world: World) -> None:
    """A configuration that lost half of itself on the way would be found out late."""
    options = pairs({"isthmus.lease": "0"})
    world.network("base", "10.5.0.0/24", config_only=True, ipam_options=options)
    with pytest.raises(Forbidden, match="IPAM options come from the configuration network base"):
        world.network("front", config_from="base", ipam_options=options)
    world.network("front", config_from="base")
    world.sandbox("web", "front")
    world.engine.remove_sandbox("web")
    assert not leases(world)


def test_when_nothing_else_is_left_the_lease_that_ends_first_is_taken(world: World) -> None:
    """To keep an address is a courtesy; to refuse a sandbox for it would be none."""
    world.network("front", "10.5.0.0/29")
    for name in ("a", "b", "c", "d", "e"):
        world.sandbox(name, "front")
    for name in ("d", "b", "c"):
        world.engine.remove_sandbox(name)
    assert status(world, "front") == [(5, 3)]
    world.sandbox("x", "front")
    assert address(world, "x", "front") == "10.5.0.5"
    assert leases(world) == {"b", "c"}
    world.sandbox("d", "front")
    assert address(world, "d", "front") == "10.5.0.3"
    world.sandbox("y", "front")
    with pytest.raises(PoolExhausted, match="no available IPv4 addresses on this network's address pools: front"):
        world.sandbox("z", "front")
    assert leases(world) == set()


def test_a_kept_address_can_be_demanded(world: World) -> None:
    """Who names an address needs it more than who might come back for it."""
    world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    world.engine.remove_sandbox("web")
    world.sandbox("other", "front", ipv4="10.5.0.2")
    assert leases(world) == set()
    world.sandbox("web", "front")
    assert address(world, "web", "front") == "10.5.0.3"


def test_a_refused_attach_takes_no_lease_and_leaves_none(world: World) -> None:
    """What did not come about changes nothing, neither for who asked nor for whose address it would have been."""
    world.network("front", "10.5.0.0/30")
    world.sandbox("web", "front")
    world.engine.remove_sandbox("web")
    world.engine.write_behind()
    before = dict(world.store.read().items)
    for name in ("web", "other"):
        world.kernel.forbid(("address", name, "eth0", "10.5.0.2/30"), 28)
        with pytest.raises(Refused):
            world.sandbox(name, "front")
        world.kernel.permit()
        assert dict(world.store.read().items) == before
    world.sandbox("web", "front")
    assert address(world, "web", "front") == "10.5.0.2"


def test_a_removal_that_was_cut_short_keeps_the_address_all_the_same(world: World) -> None:
    """Whether the daemon died in between is not for users to notice."""
    world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    [pair] = [one for one in world.seen(Veth) if isinstance(one, Veth)]
    world.kernel.forbid(("link", HOST, pair.name), 16)
    with pytest.raises(ExceptionGroup):
        world.engine.remove_sandbox("web")
    world.kernel.permit()
    world.restart()
    assert leases(world) == {"web"}


def test_leases_go_with_their_network(world: World) -> None:
    """Nothing is kept of what is gone, nor when the daemon dies in between."""
    identity = world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    world.engine.remove_sandbox("web")
    world.kernel.forbid(("link", HOST, f"br-{identity[:12]}"), 16)
    with pytest.raises(ExceptionGroup):
        world.engine.remove_network("front")
    world.kernel.permit()
    world.restart()
    assert leases(world) == set()


def test_leases_that_do_not_fit_the_default_bridge_any_more_go(world: World) -> None:
    """An address of another subnet leads nowhere."""
    world.sandbox("web")
    world.engine.remove_sandbox("web")
    world.engine.write_behind()
    subnet = SubnetRequest("192.168.0.0/24", gateway="192.168.0.11")
    moved = DefaultBridge(options=pairs({f"{BRIDGE}.name": "isthmus0"}), subnets=(subnet,))
    world.rules = Rules(pools=DEFAULT_POOLS, boot_id="one", default_bridge=moved)
    world.restart()
    assert leases(world) == set()
    world.sandbox("web")
    assert address(world, "web", "bridge") == "192.168.0.1"


def test_an_endpoint_without_addresses_keeps_its_mac(world: World) -> None:
    """A DHCP server outside knows it by that."""
    world.network("front", ipam_driver="null")
    world.sandbox("web", "front")
    before = mac_of(world, "web")
    world.engine.remove_sandbox("web")
    world.sandbox("web", "front")
    assert mac_of(world, "web") == before


def test_there_is_a_bound_to_what_is_kept() -> None:
    """A machine that makes a sandbox a second under ever new names must not grow by it for a day."""
    network = Network("n", "front", "bridge", 1)
    kept = [Lease("n", f"c{number}", (), "02:00:00:00:00:01", 10**18 + number) for number in range(10_002)]
    state = State([network, *kept])
    assert state.stale_leases(1) == (kept[0], kept[1])


# One segment.


def test_one_subnet_on_two_parents_is_allowed(world: World) -> None:
    """Two LANs may have the same numbers and never meet."""
    lan(world, "left", "10.0.36.0/24")
    lan(world, "right", "10.0.36.0/24", parent="eth1")
    world.sandbox("one", "left", ipv4="10.0.36.7")
    world.sandbox("two", "right", ipv4="10.0.36.7")
    assert address(world, "one", "left") == address(world, "two", "right") == "10.0.36.7"


def test_one_subnet_on_one_parent_needs_ranges_that_are_apart(world: World) -> None:
    """Otherwise two networks would give out one address."""
    lan(world, "low", "10.0.36.0/24", ip_range="10.0.36.0/25")
    with pytest.raises(PoolOverlap):
        lan(world, "all", "10.0.36.0/24")
    with pytest.raises(PoolOverlap):
        lan(world, "middle", "10.0.36.0/24", ip_range="10.0.36.64/26")
    lan(world, "high", "10.0.36.0/24", ip_range="10.0.36.128/25")


def test_what_the_host_routes_is_apart_whatever_the_ranges_are(world: World) -> None:
    """The host has one route to a subnet, so one of two bridges would never hear of its packets."""
    request = SubnetRequest("10.5.0.0/24", "10.5.0.0/25")
    world.engine.create_network(NetworkRequest("one", subnets=(request,)))
    with pytest.raises(PoolOverlap):
        world.engine.create_network(NetworkRequest("two", subnets=(SubnetRequest("10.5.0.0/24", "10.5.0.128/25"),)))


def test_an_address_is_nobodys_twice_on_one_segment(world: World) -> None:
    """A static address may lie in the other network's range, and both would answer for it."""
    lan(world, "low", "10.0.36.0/24", ip_range="10.0.36.0/30", gateway="10.0.36.254")
    lan(world, "high", "10.0.36.0/24", ip_range="10.0.36.4/30", gateway="10.0.36.254")
    world.sandbox("one", "high", ipv4="10.0.36.2")
    world.sandbox("two", "low")
    world.sandbox("three", "low")
    assert [address(world, name, "low") for name in ("two", "three")] == ["10.0.36.1", "10.0.36.3"]
    for network, taken in (("low", "10.0.36.2"), ("high", "10.0.36.1"), ("high", "10.0.36.254")):
        with pytest.raises(AddressInUse):
            world.sandbox("four", network, ipv4=taken)
    with pytest.raises(PoolExhausted):
        world.sandbox("four", "low")
    assert status(world, "low") == [(6, 0)]
    world.restart()
    assert status(world, "low") == [(6, 0)]


def test_what_one_network_keeps_back_the_others_of_its_segment_do_not_give_out(world: World) -> None:
    """A printer is a printer, whichever network names it."""
    lan(world, "low", "10.0.36.0/24", ip_range="10.0.36.0/30", printer="10.0.36.4")
    lan(world, "high", "10.0.36.0/24", ip_range="10.0.36.4/30")
    world.sandbox("one", "high")
    assert address(world, "one", "high") == "10.0.36.5"
    with pytest.raises(AddressInUse):
        world.sandbox("two", "high", ipv4="10.0.36.4")
    world.engine.remove_network("low")
    world.sandbox("two", "high", ipv4="10.0.36.4")


def test_what_is_kept_on_one_network_is_kept_on_its_segment(world: World) -> None:
    """The one that comes back would meet the other on the wire."""
    lan(world, "low", "10.0.36.0/24", ip_range="10.0.36.0/30")
    lan(world, "high", "10.0.36.0/24", ip_range="10.0.36.4/30")
    world.sandbox("one", "high", ipv4="10.0.36.1")
    world.engine.remove_sandbox("one")
    world.sandbox("two", "low")
    assert address(world, "two", "low") == "10.0.36.2"
    world.sandbox("one", "high")
    assert address(world, "one", "high") == "10.0.36.1"


def test_a_gateway_and_aux_addresses_are_shared_by_name(world: World) -> None:
    """One LAN has one router and one host; a second name for an address is a second machine."""
    lan(world, "low", "10.0.36.0/24", ip_range="10.0.36.0/30", gateway="10.0.36.254", nas="10.0.36.9")
    lan(world, "high", "10.0.36.0/24", ip_range="10.0.36.4/30", gateway="10.0.36.254", nas="10.0.36.9")
    with pytest.raises(AddressInUse):
        lan(world, "other", "10.0.36.0/24", ip_range="10.0.36.16/30", printer="10.0.36.9")


def test_a_network_cannot_keep_back_what_somebody_has(world: World) -> None:
    """The router that it names would be a sandbox."""
    lan(world, "low", "10.0.36.0/24", ip_range="10.0.36.0/30")
    world.sandbox("one", "low")
    taken = address(world, "one", "low")
    for role in ("gateway", "nas"):
        with pytest.raises(AddressInUse):
            lan(world, "high", "10.0.36.0/24", ip_range="10.0.36.4/30", **{role: taken})


def test_one_request_for_two_networks_of_a_segment_gets_two_addresses(world: World) -> None:
    """Neither is recorded while the other is being chosen."""
    lan(world, "low", "10.0.36.0/24", ip_range="10.0.36.0/30")
    lan(world, "high", "10.0.36.0/24", ip_range="10.0.36.4/30")
    wishes = (("high", EndpointRequest(ipv4="10.0.36.1")), ("low", EndpointRequest()))
    world.engine.create_sandbox(SandboxRequest("web", mode="high", endpoints=wishes))
    assert address(world, "web", "low") == "10.0.36.2"
    both = (("high", EndpointRequest(ipv4="10.0.36.3")), ("low", EndpointRequest(ipv4="10.0.36.3")))
    with pytest.raises(AddressInUse):
        world.engine.create_sandbox(SandboxRequest("app", mode="high", endpoints=both))


def test_a_network_of_several_subnets_gives_from_the_first_with_room(world: World) -> None:
    """As Docker's macvlan: one address of each family, however many subnets there are."""
    subnets = tuple(SubnetRequest(text) for text in ("10.0.36.0/30", "10.0.37.0/30", "fd00:36::/64", "fd00:37::/64"))
    request = NetworkRequest("many", "macvlan", subnets=subnets, options=pairs({"parent": "eth0"}), ipv6=True)
    world.engine.create_network(request)
    for number in range(4):
        world.sandbox(f"c{number}", "many")
    assert [address(world, f"c{number}", "many") for number in range(4)] == [
        "10.0.36.1 fd00:36::1",
        "10.0.36.2 fd00:36::2",
        "10.0.37.1 fd00:36::3",
        "10.0.37.2 fd00:36::4",
    ]
    world.engine.remove_sandbox("c2")
    world.engine.remove_sandbox("c0")
    world.sandbox("x", "many")
    assert address(world, "x", "many").split()[0] == "10.0.37.1"
    world.sandbox("y", "many", ipv4="10.0.36.1")
    with pytest.raises(PoolExhausted):
        world.sandbox("z", "many")


# What fits the surroundings.


def test_a_denied_pool_is_never_chosen_and_may_be_named() -> None:
    """The deny list is for what the daemon cannot see, such as a VPN that is down; a user sees more than we do."""
    world = World(rules=Rules(pools=DEFAULT_POOLS, denied=(ip_network("172.16.0.0/13"),)))
    world.network("front")
    assert str(world.engine.network("front").network.subnets[0].cidr) == "172.24.0.0/16"
    world.network("named", "172.18.0.0/16")


def test_a_chosen_subnet_keeps_clear_of_all_segments_and_of_the_hosts_routes() -> None:
    """The same numbers on two wires harm nobody, but they confuse whoever looks at them."""
    pools = (Pool(ip_network("10.0.0.0/22"), 24),)
    vpn = HostLink("tun0", "tun", 1500, (ip_interface("10.0.0.5/24"),))
    world = World(Host((*LAN.links, vpn)), Rules(pools=pools))
    lan(world, "left", "10.0.1.0/24")
    world.network("front", "10.0.2.0/24")
    world.engine.create_network(NetworkRequest("right", "macvlan", options=pairs({"parent": "eth1"})))
    assert str(world.engine.network("right").network.subnets[0].cidr) == "10.0.3.0/24"
    with pytest.raises(NoMoreSubnets, match="all predefined address pools have been fully subnetted"):
        world.network("none-left")


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("10.5.0.0/24", ["front"]),
        ("10.5.0.128/25", ["front"]),
        ("10.0.0.0/8", ["front", "back"]),
        ("0.0.0.0/0", []),
        ("0.0.0.0/1", []),
        ("128.0.0.0/1", []),
        ("192.0.2.0/24", []),
        ("fd00:6::/48", ["back"]),
        ("::/0", []),
    ],
)
def test_networks_under_a_route_are_found(world: World, destination: str, expected: list[str]) -> None:
    """A VPN that comes up over a network takes its packets; a default route does not, and the LAN's own is meant."""
    world.network("front", "10.5.0.0/24")
    six = (SubnetRequest("10.6.0.0/24"), SubnetRequest("fd00:6::/64"))
    world.engine.create_network(NetworkRequest("back", subnets=six, ipv6=True))
    lan(world, "lan", "10.0.36.0/24")
    state = State(records.decode(key, value) for key, value in world.store.read().items.items())
    decisions = Decisions(state, world.rules, clock=lambda: 1, random=bytes)
    assert [one.name for one in decisions.clashes(ip_network(destination))] == expected


# To the letter.


def test_status_counts_as_docker_does(world: World) -> None:
    """Network, broadcast, gateway, auxiliary addresses and endpoints; what can be given out is of the range."""
    aux = (("inside", "192.168.0.65"), ("outside", "192.168.0.128"))
    request = SubnetRequest("192.168.0.0/24", "192.168.0.64/31", "192.168.0.1", aux)
    world.engine.create_network(NetworkRequest("front", subnets=(request,)))
    assert world.engine.network("front").status == (SubnetStatus("192.168.0.0/24", 5, 1),)
    world.sandbox("web", "front")
    assert status(world, "front") == [(6, 0)]
    world.engine.remove_sandbox("web")
    assert status(world, "front") == [(5, 1)]


def test_the_range_of_one_address_has_room_for_one(world: World) -> None:
    """The first command of the macvlan user: the second container is refused in clear words."""
    lan(world, "xx", "10.0.36.0/24", ip_range="10.0.36.115/32", gateway="10.0.36.254")
    world.sandbox("one", "xx")
    assert address(world, "one", "xx") == "10.0.36.115"
    with pytest.raises(PoolExhausted, match="no available IPv4 addresses on this network's address pools: xx") as error:
        world.sandbox("two", "xx")
    assert error.value.status == 500


def test_without_a_gateway_the_first_address_is_an_endpoints(world: World) -> None:
    """On a LAN we are not the router, and need no address for it."""
    lan(world, "lan", "10.0.36.0/24")
    world.sandbox("one", "lan")
    assert address(world, "one", "lan") == "10.0.36.1"


@pytest.mark.parametrize(
    ("driver", "subnet", "given"),
    [
        ("bridge", "10.5.0.0/31", ["10.5.0.1"]),
        ("bridge", "10.5.0.7/32", []),
        ("macvlan", "10.5.0.0/31", ["10.5.0.0", "10.5.0.1"]),
        ("macvlan", "10.5.0.7/32", ["10.5.0.7"]),
        ("macvlan", "10.5.0.0/30", ["10.5.0.1", "10.5.0.2"]),
    ],
)
def test_the_smallest_networks(world: World, driver: str, subnet: str, given: list[str]) -> None:
    """Point-to-point links have neither network nor broadcast address (RFC 3021)."""
    options = pairs({"parent": "eth0"} if driver == "macvlan" else {})
    world.engine.create_network(NetworkRequest("p2p", driver, subnets=(SubnetRequest(subnet),), options=options))
    for number, expected in enumerate(given):
        world.sandbox(f"c{number}", "p2p")
        assert address(world, f"c{number}", "p2p") == expected
    with pytest.raises(PoolExhausted):
        world.sandbox("more", "p2p")


def test_ipv6_without_a_subnet_gets_one_of_the_hosts_own_prefix() -> None:
    """--ipv6 alone is enough, as in Docker since 27."""
    ula = ula_pool("this-host")
    world = World(rules=Rules(pools=(*DEFAULT_POOLS, ula)))
    world.network("front", ipv6=True)
    four, six = world.engine.network("front").network.subnets
    assert (four.cidr, six.cidr) == (ip_network("172.17.0.0/16"), next(ula.base.subnets(new_prefix=64)))
    world.network("six", ipv4=False, ipv6=True)
    world.sandbox("web", "six")
    assert ip_address(address(world, "web", "six")) == world.engine.network("six").network.subnets[0].cidr[2]


def test_the_link_local_prefix_can_be_a_subnet(world: World) -> None:
    """In exactly its own form."""
    request = NetworkRequest("six", subnets=(SubnetRequest("fe80::/64"),), ipv4=False, ipv6=True)
    world.engine.create_network(request)
    world.sandbox("web", "six")
    assert address(world, "web", "six") == "fe80::2"


def test_serial_allocation_goes_on_after_the_last(world: World) -> None:
    """An address that was just released is the last to come round again."""
    options = pairs({"com.docker.network.ipam.serial": "true", "isthmus.lease": "0"})
    world.network("front", "10.5.0.0/29", ipam_options=options)
    for name in ("a", "b"):
        world.sandbox(name, "front")
    world.engine.remove_sandbox("b")
    world.sandbox("c", "front")
    assert address(world, "c", "front") == "10.5.0.4"


def test_an_ipv6_subnet_without_ipv6_is_ignored(world: World) -> None:
    """Docker takes it for a leftover."""
    world.engine.create_network(
        NetworkRequest("front", subnets=(SubnetRequest("10.5.0.0/24"), SubnetRequest("fd00:5::/64")))
    )
    assert [str(one.cidr) for one in world.engine.network("front").network.subnets] == ["10.5.0.0/24"]


@pytest.mark.parametrize(
    ("request_", "error", "code", "words"),
    [
        (SubnetRequest("10.5.0.128/25"), PoolOverlap, 403, "Pool overlaps with other one on this address space"),
        (SubnetRequest("10.0.0.1/24"), InvalidSubnet, 400, "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"),
        (
            SubnetRequest("10.6.0.0/24", "10.0.0.0/8"),
            InvalidSubnet,
            400,
            "invalid ip-range 10.0.0.0/8: CIDR block is bigger than its parent subnet 10.6.0.0/24",
        ),
        (
            SubnetRequest("10.6.0.0/24", "10.7.0.0/25"),
            InvalidSubnet,
            400,
            "invalid ip-range 10.7.0.0/25: parent subnet 10.6.0.0/24 doesn't contain ip-range",
        ),
        (
            SubnetRequest("10.6.0.0/24", gateway="10.7.0.1"),
            InvalidSubnet,
            400,
            "invalid gateway 10.7.0.1: parent subnet 10.6.0.0/24 doesn't contain this address",
        ),
        (SubnetRequest("10.6.0.0/24", aux=(("nas", "x"),)), InvalidSubnet, 400, "invalid auxiliary address nas: "),
    ],
)
def test_refusals_of_networks_have_dockers_words_and_status(
    world: World, request_: SubnetRequest, error: type[IsthmusError], code: int, words: str
) -> None:
    """Users and their tools know these sentences."""
    world.network("front", "10.5.0.0/24")
    with pytest.raises(error) as refusal:
        world.engine.create_network(NetworkRequest("x", subnets=(request_,)))
    assert words in str(refusal.value)
    assert refusal.value.status == code


@pytest.mark.parametrize(
    ("demanded", "error", "code", "words"),
    [
        ("10.5.0.1", AddressInUse, 403, "Address already in use"),
        ("10.9.0.1", InvalidRequest, 400, "no configured subnet contains IP address 10.9.0.1"),
    ],
)
def test_refusals_of_addresses_have_dockers_words_and_status(
    world: World, demanded: str, error: type[IsthmusError], code: int, words: str
) -> None:
    """As for networks."""
    world.network("front", "10.5.0.0/24", "10.5.0.1")
    with pytest.raises(error, match=words) as refusal:
        world.sandbox("web", "front", ipv4=demanded)
    assert refusal.value.status == code
