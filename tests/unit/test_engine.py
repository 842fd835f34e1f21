"""The engine on a kernel and a store in memory: what is asked for comes about, what is refused leaves no trace."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from errno import EPERM
from hashlib import sha256
from ipaddress import ip_address, ip_interface, ip_network
from itertools import count

import pytest
from msgspec.structs import replace

from isthmus import firewall, render
from isthmus.addresses import DEFAULT_POOLS, SubnetRequest
from isthmus.engine import Engine
from isthmus.errors import (
    AddressInUse,
    AlreadyConnected,
    Ambiguous,
    Forbidden,
    InvalidOption,
    InvalidRequest,
    IsthmusError,
    NameTaken,
    NetworkInUse,
    NetworkNotFound,
    NotConnected,
    PoolExhausted,
    PoolOverlap,
    Predefined,
    Refused,
    SandboxNotFound,
)
from isthmus.kernel import FirewallTouched, Lost, Overrun, PathChanged, Scope, Shaken
from isthmus.kernel.fake import FakeKernel
from isthmus.model import HOST, Block, Host, HostLink, Network, pairs
from isthmus.naming import MAIN_TABLE, Owner, ifb, veth
from isthmus.plan import NOTHING, Make, Plan
from isthmus.rates import RATE
from isthmus.requests import EndpointRequest, LinkRequest, NetworkRequest, NetworkUpdate, SandboxRequest
from isthmus.resources import (
    Address,
    Bridge,
    Element,
    Ifb,
    Nickname,
    Port,
    Redirect,
    Resource,
    Route,
    Rule,
    Shaper,
    Sysctl,
    Table,
    Veth,
)
from isthmus.rules import DefaultBridge, Rules
from isthmus.state import State
from isthmus.store import records
from isthmus.store.memory import MemoryStore
from isthmus.views import Event

LAN = Host(links=(HostLink("eth0", "veth", 1500, (ip_interface("192.0.2.1/24"),)), HostLink("eth1", "veth", 1500)))
BRIDGE = "com.docker.network.bridge"


class World:
    """An engine with its kernel, its store, and what it announced."""

    def __init__(self, host: Host = LAN, rules: Rules | None = None) -> None:
        self.kernel = FakeKernel(host=host)
        self.store = MemoryStore()
        self.events: list[Event] = []
        default = DefaultBridge(options=pairs({f"{BRIDGE}.name": "isthmus0"}))
        self.rules = rules or Rules(pools=DEFAULT_POOLS, boot_id="one", default_bridge=default)
        self.numbers = count(1)
        self.engine = self.restart()

    def restart(self) -> Engine:
        """The engine that the daemon's next life would have."""
        self.engine = Engine(
            self.store,
            self.kernel,
            self.rules,
            clock=lambda: next(self.numbers),
            random=lambda size: sha256(str(next(self.numbers)).encode()).digest()[:size],
            publish=self.events.append,
            paths={HOST: "/proc/1/ns/net", "*": "/run/isthmus/netns"},
        )
        self.engine.start()
        return self.engine

    def network(self, name: str, subnet: str = "", gateway: str = "", **fields: object) -> str:
        """Make a network; its ID."""
        subnets = (SubnetRequest(subnet, gateway=gateway),) if subnet else ()
        return self.engine.create_network(NetworkRequest(name, subnets=subnets, **fields)).id  # type: ignore[arg-type]

    def sandbox(self, name: str, mode: str = "default", ipv4: str = "") -> str:
        """Make a sandbox; its ID."""
        endpoints = ((mode, EndpointRequest(ipv4=ipv4)),) if ipv4 else ()
        return self.engine.create_sandbox(SandboxRequest(name, mode=mode, endpoints=endpoints)).id

    def seen(self, *kinds: type) -> set[Resource]:
        """What the kernel holds of these kinds."""
        return {one for one in self.kernel.observe(Scope(everything=True, firewall=True)) if isinstance(one, kinds)}

    def routes(self, netns: str) -> set[tuple[str, str, str]]:
        """Destination, gateway and interface of the routes in the main table of a namespace."""
        return {
            (str(one.destination), str(one.via), one.link)
            for one in self.seen(Route)
            if isinstance(one, Route) and one.netns == netns and one.table == MAIN_TABLE
        }

    def returns(self, netns: str) -> set[tuple[str, str, str]]:
        """Source, gateway and interface of the default routes that a rule leads to."""
        rules = [one for one in self.kernel.observe(Scope(ruled=frozenset({netns}))) if isinstance(one, Rule)]
        return {
            (str(rule.source), str(one.via), one.link)
            for rule in rules
            for one in self.seen(Route)
            if isinstance(one, Route) and (one.netns, one.table) == (netns, rule.table)
            if not one.destination.prefixlen and one.destination.version == rule.source.version
        }


@pytest.fixture
def world() -> World:
    """A host with two NICs and a daemon that has just started."""
    return World()


def test_a_sandbox_gets_an_interface_an_address_and_a_way_out(world: World) -> None:
    """The promise that all the rest is built for."""
    world.network("front", "10.5.0.0/24", "10.5.0.1")
    world.sandbox("web", "front", ipv4="10.5.0.9")
    [pair] = [one for one in world.seen(Veth) if isinstance(one, Veth)]
    [place] = world.engine.network("front").endpoints
    assert (pair.peer_netns, pair.peer, pair.mac) == ("web", "eth0", place.endpoint.mac)
    assert pair.name == veth(place.endpoint.id)
    assert ("web", "eth0", ip_interface("10.5.0.9/24")) in {
        (one.netns, one.link, one.interface) for one in world.seen(Address) if isinstance(one, Address)
    }
    assert world.routes("web") == {("0.0.0.0/0", "10.5.0.1", "eth0")}


def test_the_default_network_is_there_from_the_start(world: World) -> None:
    """Sandboxes that name no network join `bridge`, whose device is isthmus0."""
    world.sandbox("web")
    assert [view.network.name for view in world.engine.networks()] == ["host", "none", "bridge"]
    assert {one.name for one in world.seen(Bridge) if isinstance(one, Bridge)} == {"isthmus0"}
    [view] = world.engine.sandbox("web").endpoints
    assert str(view.ipv4) == "172.17.0.2/16"


def test_a_restart_plans_nothing(world: World) -> None:
    """The next start adopts what stands, and drops no packet."""
    world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    before = str(world.kernel)
    world.restart()
    assert world.engine.start() == NOTHING
    assert str(world.kernel) == before


def test_after_a_reboot_all_is_made_again(world: World) -> None:
    """What is wanted outlives the kernel's memory of it, with the same addresses and MACs."""
    world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    before = world.seen(Veth, Address, Bridge)
    world.kernel.reboot()
    world.restart()
    assert world.seen(Veth, Address, Bridge) == before


def test_disconnecting_takes_the_interface_and_frees_the_address(world: World) -> None:
    """What is gone is gone from the kernel, and its address can be given to another who needs it."""
    world.network("front", "10.5.0.0/30")
    world.sandbox("web", "none")
    world.sandbox("one", "front")
    world.engine.disconnect("front", "one")
    assert not world.seen(Veth)
    world.sandbox("two", "front")
    [view] = world.engine.network("front").endpoints
    assert str(view.ipv4) == "10.5.0.2/30"


def test_removing_a_sandbox_leaves_nothing_of_it_but_its_lease(world: World) -> None:
    """No link, no address, no record remains, but for what it had, should it come again."""
    identity = world.network("front", "10.5.0.0/24")
    before, items = str(world.kernel), dict(world.store.read().items)
    world.sandbox("web", "front")
    world.engine.remove_sandbox("web")
    assert str(world.kernel) == before
    world.engine.write_behind()
    assert {key for key in world.store.read().items if key not in items} == {f"lease/{identity}/web"}
    assert items.items() <= world.store.read().items.items()


@pytest.mark.parametrize("then", ["dies", "goes on"])
def test_what_has_gone_does_not_come_back_if_the_store_was_not_told(world: World, then: str) -> None:
    """Nobody waits for the second half of a removal's records: a start makes it up, and so does the next change."""
    identity = world.network("front", "10.5.0.0/24")
    items = dict(world.store.read().items)
    world.sandbox("web", "front")
    world.engine.remove_sandbox("web")
    assert [key for key in world.store.read().items if key.startswith("sandbox/")], "the store was told at once"
    if then == "dies":
        world.restart()
    else:
        world.network("back", "10.6.0.0/24")
        world.engine.remove_network("back")
        world.engine.write_behind()
    assert {key for key in world.store.read().items if key not in items} == {f"lease/{identity}/web"}
    world.sandbox("web", "front")
    assert [str(one) for one in world.engine.sandbox("web").endpoints[0].endpoint.addresses] == ["10.5.0.2/24"]


def test_a_shared_network_whose_removal_was_cut_off_leaves_nothing(world: World) -> None:
    """A block of a network that is there no more would stop every later start."""
    before = dict(world.store.read().items)
    identity = world.network("front", "10.5.0.0/24")
    network = records.decode(f"network/{identity}", world.store.read().items[f"network/{identity}"])
    assert isinstance(network, Network)
    block = Block(identity, ip_network("10.5.0.64/26"))
    left = (replace(network, removing=True), block)
    world.store.commit({records.key(one): records.encode(one) for one in left})
    for _ in range(2):
        world.restart()
        assert dict(world.store.read().items) == before


def test_the_kernels_refusal_undoes_the_whole_request(world: World) -> None:
    """If one step cannot be done, none of it remains, and the caller hears the reason."""
    world.network("front", "10.5.0.0/24")
    before, records = str(world.kernel), dict(world.store.read().items)
    world.kernel.forbid(("address", "web", "eth0", "10.5.0.2/24"), 28)
    with pytest.raises(Refused, match=r"10\.5\.0\.2/24"):
        world.sandbox("web", "front")
    world.kernel.permit()
    assert str(world.kernel) == before
    assert dict(world.store.read().items) == records


def test_a_removal_that_the_kernel_refuses_is_finished_by_the_next_start(world: World) -> None:
    """The record says that it is being removed, so nothing is forgotten."""
    identity = world.network("front", "10.5.0.0/24")
    world.kernel.forbid(("link", HOST, f"br-{identity[:12]}"), 16)
    with pytest.raises(ExceptionGroup):
        world.engine.remove_network("front")
    world.kernel.permit()
    world.restart()
    assert [view.network.name for view in world.engine.networks()] == ["host", "none", "bridge"]
    assert {one.name for one in world.seen(Bridge) if isinstance(one, Bridge)} == {"isthmus0"}


def test_joiners_keep_the_namespace_while_its_owner_is_made_anew(world: World) -> None:
    """`container:web` follows the name: the new web and those who joined the old one share a namespace."""
    world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    world.sandbox("side", "container:web")
    world.engine.remove_sandbox("web")
    assert world.engine.sandbox("side").netns_path == "/run/isthmus/netns/web"
    assert world.seen(Nickname) == {Nickname("side", "web")}
    assert not world.seen(Veth)
    world.sandbox("web", "front")
    [pair] = [one for one in world.seen(Veth) if isinstance(one, Veth)]
    assert pair.peer_netns == "web"
    world.engine.remove_sandbox("side")
    world.engine.remove_sandbox("web")
    assert "web" not in str(world.kernel)


def test_the_default_route_goes_by_priority_then_by_name(world: World) -> None:
    """With several networks it is never left to chance which one leads outside."""
    for number, name in enumerate(("beta", "alpha", "gamma"), start=5):
        world.network(name, f"10.{number}.0.0/24")
    world.sandbox("web", "beta")
    assert world.routes("web") == {("0.0.0.0/0", "10.5.0.1", "eth0")}
    world.engine.connect("alpha", "web", EndpointRequest())
    assert world.routes("web") == {("0.0.0.0/0", "10.6.0.1", "eth1")}
    world.engine.connect("gamma", "web", EndpointRequest(gateway_priority=1))
    assert world.routes("web") == {("0.0.0.0/0", "10.7.0.1", "eth2")}
    world.engine.disconnect("gamma", "web")
    assert world.routes("web") == {("0.0.0.0/0", "10.6.0.1", "eth1")}


def test_with_several_ways_out_each_address_has_its_own(world: World) -> None:
    """An answer that leaves by another interface than the question came in on is dropped by every stateful router."""
    for number, name in enumerate(("alpha", "beta"), start=5):
        subnets = (SubnetRequest(f"10.{number}.0.0/24"), SubnetRequest(f"fd00:{number}::/64"))
        world.engine.create_network(NetworkRequest(name, subnets=subnets, ipv6=True))
    world.network("back", "10.9.0.0/24", internal=True)
    world.sandbox("web", "alpha")
    world.engine.connect("back", "web", EndpointRequest())
    assert not world.returns("web")
    world.engine.connect("beta", "web", EndpointRequest())
    first = {("10.5.0.2", "10.5.0.1", "eth0"), ("fd00:5::2", "fd00:5::1", "eth0")}
    second = {("10.6.0.2", "10.6.0.1", "eth2"), ("fd00:6::2", "fd00:6::1", "eth2")}
    assert world.returns("web") == first | second
    near = {str(one.destination) for one in world.seen(Route) if isinstance(one, Route) and one.via is None}
    assert near == {"10.5.0.0/24", "10.6.0.0/24", "fd00:5::/64", "fd00:6::/64"}
    assert not len(world.restart().start())
    world.engine.disconnect("beta", "web")
    assert not world.returns("web")
    assert not [one for one in world.seen(Route) if isinstance(one, Route) and one.table != MAIN_TABLE]


def _mtus(world: World) -> dict[str, int | None]:
    """The MTU of each device, and of each pair by the name of its sandbox."""
    return {
        one.name if isinstance(one, Bridge) else one.peer_netns: one.mtu
        for one in (*world.seen(Bridge), *world.seen(Veth))
        if isinstance(one, Bridge | Veth)
    }


def test_the_mtu_is_that_of_the_way_out_and_follows_it(world: World) -> None:
    """Behind a VPN or a cloud's tunnel, 1500 is too much, and what is too long vanishes without a word."""
    world.kernel.set_mtu("eth0", 1450)
    world.kernel.add_route(ip_network("0.0.0.0/0"), "eth0")
    world.network("front", "10.5.0.0/24")
    world.network("fixed", "10.6.0.0/24", options=pairs({"com.docker.network.driver.mtu": "1300"}))
    for name, network in (("web", "front"), ("db", "fixed")):
        world.sandbox(name, network)
    device = f"br-{world.engine.network('front').network.id[:12]}"
    fixed = f"br-{world.engine.network('fixed').network.id[:12]}"
    assert _mtus(world) == {"isthmus0": 1450, device: 1450, "web": 1450, fixed: 1300, "db": 1300}
    assert "com.docker.network.driver.mtu" not in dict(world.engine.network("front").network.options)
    world.kernel.set_mtu("eth0", 1400)
    world.engine.mend([PathChanged()])
    assert _mtus(world) == {"isthmus0": 1400, device: 1400, "web": 1400, fixed: 1300, "db": 1300}
    assert not len(world.engine.mend([PathChanged()]))
    world.kernel.delete_route(ip_network("0.0.0.0/0"))
    world.engine.mend([PathChanged()])
    assert (_mtus(world)[device], _mtus(world)["web"]) == (1500, 1500)


def test_a_bridged_network_has_the_mtu_of_its_uplink(world: World) -> None:
    """What it sends stays on that LAN: the default route has no say."""
    world.kernel.set_mtu("eth1", 9000)
    world.network("lan", "198.51.100.0/24", options=pairs({"isthmus.uplink": "eth1"}))
    world.sandbox("web", "lan")
    assert _mtus(world)["web"] == 9000


MTU = "com.docker.network.driver.mtu"


def test_a_network_is_updated_with_all_who_stand_on_it(world: World) -> None:
    """Whoever has to make a network anew has to stop everything on it first."""
    world.network("front", "10.5.0.0/24", options=pairs({f"{BRIDGE}.enable_icc": "false"}))
    world.sandbox("web", "front")
    before = world.engine.network("front").network
    update = NetworkUpdate(
        labels=pairs({"tier": "one", "old": ""}), options=pairs({MTU: "1400", f"{BRIDGE}.enable_icc": "true"})
    )
    world.engine.update_network("front", update)
    after = world.engine.network("front").network
    assert after.labels == (("old", ""), ("tier", "one"))
    [pair] = [one for one in world.seen(Veth) if isinstance(one, Veth)]
    assert (pair.mtu, pair.isolated) == (1400, False)
    assert ("neighbours", "") in {(one.set, one.value) for one in world.seen(Element) if isinstance(one, Element)}
    assert (after.id, after.created, after.subnets) == (before.id, before.created, before.subnets)
    world.engine.update_network("front", NetworkUpdate(gone_labels=("old",), gone_options=(MTU,)))
    assert world.engine.network("front").network.labels == (("tier", "one"),)
    assert _mtus(world)["web"] == 1500
    assert not len(world.restart().start())
    assert [event.action for event in world.events if event.kind == "network"][-2:] == ["update", "update"]


def test_ranges_and_auxiliary_addresses_are_updated(world: World) -> None:
    """A range that is full is made larger, and a new printer keeps its address."""
    world.engine.create_network(
        NetworkRequest(
            "front", subnets=(SubnetRequest("10.5.0.0/24", "10.5.0.2/32", "10.5.0.1", (("nas", "10.5.0.7"),)),)
        )
    )
    world.sandbox("web", "front")
    with pytest.raises(PoolExhausted):
        world.sandbox("db", "front")
    update = NetworkUpdate(ranges=("10.5.0.0/29",), aux=(("printer", "10.5.0.3"),), gone_aux=("nas",))
    world.engine.update_network("front", update)
    for name in ("db", "one", "two", "three"):
        world.sandbox(name, "front")
    given = [str(one.interface) for one in world.seen(Address) if isinstance(one, Address) and one.netns != HOST]
    assert sorted(given) == [f"10.5.0.{number}/24" for number in (2, 4, 5, 6, 7)]


def test_further_subnets_come_while_sandboxes_stand(world: World) -> None:
    """Who comes when the first is full gets an address of the second; it may not collide with any there is."""
    first = SubnetRequest("10.7.0.0/30")
    world.engine.create_network(NetworkRequest("lan", driver="macvlan", subnets=(first,)))
    before = world.engine.network("lan").network.subnets
    world.sandbox("web", "lan")
    more = (SubnetRequest("10.8.0.0/24"),)
    update = NetworkUpdate(subnets=more, ranges=("10.8.0.128/25",), aux=(("nas", "10.8.0.129"),))
    world.engine.update_network("lan", update)
    after = world.engine.network("lan").network.subnets
    assert after[0] == before[0]
    assert (str(after[1].ip_range), [name for name, _ in after[1].aux]) == ("10.8.0.128/25", ["nas"])
    given = [world.sandbox(name, "lan") for name in ("db", "late")]
    assert given
    seen = {str(one.interface) for one in world.seen(Address) if isinstance(one, Address) and one.netns != HOST}
    assert {"10.8.0.128/24"} <= seen
    for clash in ("10.8.0.0/16", "10.7.0.0/30"):
        with pytest.raises(PoolOverlap):
            world.engine.update_network("lan", NetworkUpdate(subnets=(SubnetRequest(clash),)))
    assert world.engine.network("lan").network.subnets == after


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (NetworkUpdate(options=pairs({f"{BRIDGE}.name": "br9"})), f"{BRIDGE}.name value: br9 (of a bridge network"),
        (NetworkUpdate(options=pairs({MTU: "12"})), "a whole number from 68 to 65535"),
        (NetworkUpdate(ranges=("10.6.0.0/25",)), "invalid ip-range 10.6.0.0/25: no subnet of front contains it"),
        (NetworkUpdate(ranges=("nonsense",)), "invalid ip-range nonsense: no subnet of front contains it"),
        (NetworkUpdate(aux=(("nas", "10.6.0.1"),)), "no subnet of front contains it"),
        (NetworkUpdate(aux=(("nas", "10.5.0.2"),)), "Address already in use"),
        (NetworkUpdate(aux=(("nas", "10.5.0.1"),)), "is used already, by the gateway"),
        (NetworkUpdate(gone_aux=("nas",)), "network front has no auxiliary address nas"),
        (NetworkUpdate(subnets=(SubnetRequest("10.6.0.0/24"),)), "bridge driver doesn't support multiple subnets"),
        (NetworkUpdate(subnets=(SubnetRequest("fd00::/64"),)), "network front has no IPv6: make a network that has"),
        (NetworkUpdate(subnets=(SubnetRequest("nonsense"),)), "invalid subnet nonsense"),
    ],
    ids=str,
)
def test_an_update_that_cannot_be_is_refused_whole(world: World, update: NetworkUpdate, words: str) -> None:
    """The message names what is wrong, and nothing else of the request was done."""
    world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    before = world.engine.network("front").network
    with pytest.raises(IsthmusError, match=re.escape(words)):
        world.engine.update_network("front", replace(update, labels=(("new", ""),)))
    assert world.engine.network("front").network == before


def test_an_update_that_the_kernel_refuses_is_taken_back(world: World) -> None:
    """A network is as it was, or as it shall be."""
    world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    [pair] = [one for one in world.seen(Veth) if isinstance(one, Veth)]
    held = str(world.kernel)
    world.kernel.forbid(pair.key, EPERM)
    with pytest.raises(Refused):
        world.engine.update_network("front", NetworkUpdate(options=pairs({MTU: "1400"})))
    world.kernel.permit()
    assert (str(world.kernel), dict(world.engine.network("front").network.options)) == (held, {})


def test_the_predefined_networks_are_what_the_configuration_says(world: World) -> None:
    """An update would be gone with the next start."""
    with pytest.raises(Forbidden, match="bridge is a pre-defined network"):
        world.engine.update_network("bridge", NetworkUpdate(labels=(("a", ""),)))


def test_a_rule_that_somebody_takes_is_put_back(world: World) -> None:
    """Whoever flushes rules inside does not mean ours."""
    world.network("alpha", "10.5.0.0/24")
    world.network("beta", "10.6.0.0/24")
    world.sandbox("web", "alpha")
    world.engine.connect("beta", "web", EndpointRequest())
    world.kernel.delete_rule(ip_address("10.6.0.2"), "web")
    plan = world.engine.mend([Shaken("web")])
    assert [str(one)[:40] for one in plan] == ["ip -n web rule add from 10.6.0.2 lookup "]


def test_an_internal_network_leads_nowhere(world: World) -> None:
    """Its members have no default route, and its rules let nothing in or out."""
    world.network("back", "10.5.0.0/24", internal=True)
    world.sandbox("db", "back")
    assert not world.routes("db")
    rules = {
        (one.set, one.value) for one in world.seen(Element) if isinstance(one, Element) and one.match[0] != "isthmus0"
    }
    assert {("enter4", "drop"), ("leave4", "drop")} <= rules
    assert not any(name.startswith("masquerade") for name, _ in rules)


def test_a_bridged_network_stands_on_the_lan(world: World) -> None:
    """No address of ours on the bridge, no NAT; the uplink is a port of it, and comes off when the network goes."""
    uplinks = Scope(ports=frozenset({"eth1"}))
    world.network("lan", "198.51.100.0/24", "198.51.100.254", options=pairs({"isthmus.uplink": "eth1"}))
    world.sandbox("web", "lan")
    [port] = [one for one in world.kernel.observe(uplinks) if isinstance(one, Port)]
    assert world.routes("web") == {("0.0.0.0/0", "198.51.100.254", "eth0")}
    assert not any(
        one.netns == HOST and one.link == port.master for one in world.seen(Address) if isinstance(one, Address)
    )
    assert not any(
        one.set == "masquerade4" and one.match == (port.master,)
        for one in world.seen(Element)
        if isinstance(one, Element)
    )
    world.engine.remove_sandbox("web")
    world.engine.remove_network("lan")
    assert not world.kernel.observe(uplinks)
    assert world.kernel.host().link("eth1")


def test_an_uplink_that_has_an_address_is_refused(world: World) -> None:
    """On a bridge it could not use the address: the host would cut itself off."""
    with pytest.raises(InvalidOption, match=r"isthmus\.uplink"):
        world.network("lan", "198.51.100.0/24", options=pairs({"isthmus.uplink": "eth0"}))


def test_an_existing_bridge_is_used_and_never_removed() -> None:
    """What bears no mark of ours is not ours to change."""
    world = World(Host(links=(HostLink("br0", "bridge", 1500, (ip_interface("10.5.0.1/24"),)),)))
    world.network("front", "10.5.0.0/24", "10.5.0.1", options=pairs({f"{BRIDGE}.name": "br0"}))
    world.sandbox("web", "front")
    [pair] = [one for one in world.seen(Veth) if isinstance(one, Veth)]
    assert pair.master == "br0"
    world.engine.remove_sandbox("web")
    world.engine.remove_network("front")
    assert world.kernel.host().link("br0")


def test_subnets_avoid_what_the_host_routes() -> None:
    """A subnet that we choose collides with no route of the host, a VPN's included."""
    vpn = HostLink("tun0", "tun", 1500, (ip_interface("172.17.3.4/16"), ip_interface("172.18.5.6/24")))
    world = World(Host(links=(vpn,)))
    assert [str(one.cidr) for one in world.engine.network("bridge").network.subnets] == ["172.19.0.0/16"]


def test_forwarding_is_switched_on_for_containers_only(world: World) -> None:
    """If it was us who made the host forward, its own interfaces stay apart."""
    assert ("net.ipv4.ip_forward", "1") in {
        (one.name, one.value)
        for one in world.kernel.observe(Scope(sysctls=frozenset({(HOST, "net.ipv4.ip_forward")})))
        if isinstance(one, Sysctl)
    }
    closed = {one.match[0] for one in world.seen(Element) if isinstance(one, Element) and one.set == "closed4"}
    assert closed == {"eth0", "eth1"}


def test_rehearsal_shows_the_plan_and_does_nothing(world: World) -> None:
    """`--dry-run` prints what would be done, line by line, and leaves kernel, store and listeners as they were."""
    before, records, events = str(world.kernel), dict(world.store.read().items), len(world.events)
    lines = world.engine.rehearse(lambda double: double.create_network(NetworkRequest("front")))
    assert any(line.startswith("ip link add br-") for line in lines)
    assert any(line.startswith("nft add element inet isthmus masquerade4") for line in lines)
    assert (str(world.kernel), dict(world.store.read().items), len(world.events)) == (before, records, events)


def test_events_tell_what_happened(world: World) -> None:
    """Docker's clients follow networks by their events."""
    world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    world.engine.remove_sandbox("web")
    world.engine.remove_network("front")
    told = [(event.kind, event.action) for event in world.events]
    assert told == [
        ("network", "create"),
        ("container", "create"),
        ("network", "connect"),
        ("network", "disconnect"),
        ("container", "destroy"),
        ("network", "destroy"),
    ]


def test_what_others_break_is_mended(world: World) -> None:
    """Whoever takes away a link, an address, a route or our table, it comes back."""
    identity = world.network("front", "10.5.0.0/24")
    world.sandbox("web", "front")
    [place] = world.engine.network("front").endpoints
    whole = str(world.kernel)
    owner = Owner(identity, place.endpoint.id)
    bridge = f"br-{identity[:12]}"
    damages: list[tuple[Callable[[], None], object]] = [
        (lambda: world.kernel.delete_link(veth(place.endpoint.id)), Lost(owner)),
        (lambda: world.kernel.delete_link(bridge), Lost(Owner(identity))),
        (lambda: world.kernel.set_down("eth0", "web"), Shaken("web")),
        (lambda: world.kernel.delete_route(ip_network("0.0.0.0/0"), "web"), Shaken("web")),
        (lambda: world.kernel.delete_address(bridge, ip_interface("10.5.0.1/24")), Shaken(HOST)),
        (lambda: world.kernel.nomaster(veth(place.endpoint.id)), Lost(owner)),
        (world.kernel.flush_ruleset, FirewallTouched()),
        (world.kernel.reboot, Overrun()),
    ]
    for damage, news in damages:
        damage()
        assert str(world.kernel) != whole
        assert world.engine.mend([news]) != NOTHING  # type: ignore[list-item]
        assert str(world.kernel) == whole
        assert world.engine.mend([Overrun()]) == NOTHING


def test_news_of_what_is_not_ours_means_nothing(world: World) -> None:
    """Links that we removed ourselves, and strangers', are not brought back."""
    assert world.engine.mend([Lost(Owner("gone", "gone")), Shaken("elsewhere")]) == NOTHING


def refusals() -> Iterator[tuple[str, Callable[[World], object], type[IsthmusError], str]]:
    """Requests that are refused, with the class and Docker's words."""
    yield "no name", lambda w: w.network(" "), InvalidRequest, "invalid name: name is empty"
    yield (
        "predefined",
        lambda w: w.network("bridge"),
        Predefined,
        "operation is not permitted on predefined bridge network $",
    )
    yield "same name", lambda w: w.network("front"), NameTaken, "network with name front already exists"
    yield "overlap", lambda w: w.network("x", "10.5.0.0/25"), PoolOverlap, "Pool overlaps with other one"
    yield "driver", lambda w: w.network("x", driver="nope"), IsthmusError, "could not find plugin nope"
    yield (
        "second host",
        lambda w: w.network("x", driver="host"),
        Forbidden,
        'only one instance of "host" network is allowed',
    )
    yield (
        "two subnets",
        lambda w: w.engine.create_network(
            NetworkRequest("x", subnets=(SubnetRequest("10.8.0.0/24"), SubnetRequest("10.9.0.0/24")))
        ),
        Forbidden,
        "bridge driver doesn't support multiple subnets",
    )
    yield (
        "bad option",
        lambda w: w.network("x", options=pairs({f"{BRIDGE}.enable_icc": "maybe"})),
        InvalidOption,
        f"failed to parse {BRIDGE}.enable_icc value: maybe",
    )
    yield (
        "isolated",
        lambda w: w.network("x", options=pairs({f"{BRIDGE}.gateway_mode_ipv4": "isolated"})),
        InvalidOption,
        "--internal",
    )
    yield (
        "same bridge",
        lambda w: w.network("x", options=pairs({f"{BRIDGE}.name": "isthmus0"})),
        Forbidden,
        "networks have same bridge name",
    )
    yield (
        "removing predefined",
        lambda w: w.engine.remove_network("host"),
        Predefined,
        "is a pre-defined network and cannot",
    )
    yield (
        "in use",
        lambda w: w.engine.remove_network("front"),
        NetworkInUse,
        'network front has active endpoints \\(name:"web"',
    )
    yield "unknown network", lambda w: w.engine.network("nope"), NetworkNotFound, "network nope not found"
    yield (
        "unknown sandbox",
        lambda w: w.engine.connect("front", "nope", EndpointRequest()),
        SandboxNotFound,
        "No such container: nope",
    )
    yield (
        "connected",
        lambda w: w.engine.connect("front", "web", EndpointRequest()),
        AlreadyConnected,
        "endpoint with name web already exists in network front",
    )
    yield (
        "not connected",
        lambda w: w.engine.disconnect("bridge", "web"),
        NotConnected,
        "container web is not connected to the network bridge",
    )
    yield (
        "host",
        lambda w: w.engine.connect("host", "web", EndpointRequest()),
        InvalidRequest,
        "container must be created in host network mode",
    )
    yield (
        "none beside others",
        lambda w: w.engine.connect("none", "web", EndpointRequest()),
        InvalidRequest,
        "in private \\(none\\) mode",
    )
    yield (
        "joined",
        lambda w: w.engine.connect("bridge", "side", EndpointRequest()),
        InvalidRequest,
        "sharing network namespace with another container",
    )
    yield "taken", lambda w: w.sandbox("x", "front", ipv4="10.5.0.9"), AddressInUse, "Address already in use"
    yield "gateway", lambda w: w.sandbox("x", "front", ipv4="10.5.0.1"), AddressInUse, "Address already in use"
    yield (
        "outside",
        lambda w: w.sandbox("x", "front", ipv4="10.6.0.1"),
        InvalidRequest,
        "no configured subnet contains IP address 10.6.0.1",
    )
    yield (
        "static on bridge",
        lambda w: w.sandbox("x", "bridge", ipv4="172.17.0.9"),
        InvalidRequest,
        "user-specified IP address is supported on user-defined networks only",
    )
    yield "sandbox name taken", lambda w: w.sandbox("web"), NameTaken, 'The container name "/web" is already in use'
    yield "bad sandbox name", lambda w: w.sandbox("../web"), InvalidRequest, "Invalid container name"
    yield (
        "full",
        lambda w: w.sandbox("x", "tiny"),
        PoolExhausted,
        "no available IPv4 addresses on this network's address pools: tiny",
    )
    yield "unknown link", lambda w: w.engine.remove_link("web", "eth9"), IsthmusError, "no link eth9"
    yield "link type", lambda w: w.engine.add_link("web", LinkRequest("wifi")), InvalidRequest, "invalid link type wifi"
    yield (
        "mac",
        lambda w: w.engine.connect("bridge", "web", EndpointRequest(mac="01:00:00:00:00:01")),
        InvalidRequest,
        "invalid MAC address",
    )
    for conflict, words in (
        ("hostname", "hostname and the network mode"),
        ("dns", "dns and the network mode"),
        ("ports", "port publishing and the container type network mode"),
        ("exposed-ports", "port exposing and the container type network mode"),
        ("mac-address", "mac-address and the network mode"),
        ("links", "container type network can't be used with links"),
        ("extra-hosts", "custom host-to-IP mapping and the network mode"),
    ):
        yield (
            f"container: and {conflict}",
            lambda w, conflict=conflict: w.engine.create_sandbox(  # type: ignore[misc]
                SandboxRequest("x", mode="container:web", conflicts=frozenset({conflict}))
            ),
            InvalidRequest,
            words,
        )


@pytest.mark.parametrize(("request_", "error", "words"), [pytest.param(*rest, id=name) for name, *rest in refusals()])
def test_a_refused_request_changes_nothing(
    world: World, request_: Callable[[World], object], error: type[IsthmusError], words: str
) -> None:
    """Bad input has a clear answer, and the kernel and the store are as they were."""
    world.network("front", "10.5.0.0/24", "10.5.0.1")
    world.network("tiny", "10.7.0.0/30")
    world.sandbox("web", "front", ipv4="10.5.0.9")
    world.sandbox("side", "container:web")
    world.sandbox("only", "tiny")
    before, records, events = str(world.kernel), dict(world.store.read().items), len(world.events)
    with pytest.raises(error, match=words):
        request_(world)
    assert (str(world.kernel), dict(world.store.read().items), len(world.events)) == (before, records, events)


def test_a_prefix_of_several_ids_is_ambiguous(world: World) -> None:
    """Rather than guess, we ask again."""
    for number in range(14):
        world.network(f"n{number}", f"10.{number}.0.0/24")
    firsts = Counter(view.network.id[0] for view in world.engine.networks())
    [(digit, times)] = firsts.most_common(1)
    with pytest.raises(Ambiguous, match=rf"{times} matches found based on ID prefix"):
        world.engine.network(digit)


def test_endpoints_follow_the_default_bridge_to_a_new_subnet(world: World) -> None:
    """When `bip` changes, nobody is left behind with an address that leads nowhere."""
    world.sandbox("web")
    moved = DefaultBridge(
        options=pairs({f"{BRIDGE}.name": "isthmus0"}),
        subnets=(SubnetRequest("192.168.0.0/24", gateway="192.168.0.11"),),
    )
    world.rules = Rules(pools=DEFAULT_POOLS, boot_id="one", default_bridge=moved)
    world.restart()
    [view] = world.engine.sandbox("web").endpoints
    assert view.ipv4 is not None
    assert view.ipv4.network == ip_network("192.168.0.0/24")
    assert world.routes("web") == {("0.0.0.0/0", "192.168.0.11", "eth0")}
    assert ip_address("192.168.0.11") in {one.interface.ip for one in world.seen(Address) if isinstance(one, Address)}


def test_prune_spares_what_is_used_predefined_or_kept(world: World) -> None:
    """Only networks of users' on which nobody stands go."""
    world.network("used", "10.5.0.0/24")
    world.network("kept", "10.6.0.0/24")
    world.network("idle", "10.7.0.0/24")
    world.sandbox("web", "used")
    assert world.engine.prune_networks(lambda network: network.name == "kept") == ("idle",)


def test_frames_on_a_bridge_are_spared_the_filter_unless_others_count_on_it() -> None:
    """br_netfilter costs a seventh of the speed; whoever has rules of his own for such frames keeps them."""
    frames = Scope(sysctls=frozenset((HOST, name) for name in render.FRAMES))
    for filtered, value, detoured in ((False, "0", False), (True, "1", True), (None, "1", False)):
        world = World(Host(frames_filtered=filtered))
        for name in render.FRAMES:
            world.kernel.write_sysctl(name, "1")
        world.restart()
        assert {one.value for one in world.kernel.observe(frames) if isinstance(one, Sysctl)} == {value}
        assert any(isinstance(one, Element) and one.set == "detoured" for one in world.seen(Element)) == detoured


def test_rules_that_hardly_anybody_needs_are_there_while_somebody_does(world: World) -> None:
    """Each set that a packet is looked up in costs it time."""
    trusted, source = "com.docker.network.bridge.trusted_host_interfaces", "com.docker.network.host_ipv4"

    def asked() -> set[str]:
        (table,) = [one for one in world.seen(Table) if isinstance(one, Table)]
        lines = [line for lines in firewall.chains(table).values() for line in lines]
        return {name for name in firewall.SELDOM if any(f"@{name}" in line for line in lines)}

    assert asked() == set()
    world.network("front")
    world.engine.create_network(NetworkRequest("own", options=pairs({trusted: "eth1", source: "203.0.113.2"})))
    assert asked() == {"trusted", "source4"}
    world.restart()
    assert asked() == {"trusted", "source4"}
    world.network("back", internal=True)
    assert asked() == {"leave4", "leave6", "trusted", "source4"}
    world.engine.remove_network("own")
    assert asked() == {"leave4", "leave6"}
    world.engine.remove_network("back")
    assert asked() == set()
    assert any(isinstance(one, Element) and one.set == "neighbours" for one in world.seen(Element))


# Rates.


def limits(world: World, name: str) -> set[Resource]:
    """What limits the rates of a sandbox's endpoints."""
    names = [(HOST, made(one.endpoint.id)) for one in world.engine.sandbox(name).endpoints for made in (veth, ifb)]
    return {*world.kernel.observe(Scope(shaped=frozenset(names))), *world.seen(Ifb)}


def limited(world: World, name: str, rate: str, network: str = "front") -> str:
    """Make a sandbox with a rate; the ID of its endpoint."""
    wish = EndpointRequest(options=pairs({RATE: rate}))
    world.engine.create_sandbox(SandboxRequest(name, mode=network, endpoints=((network, wish),)))
    [view] = world.engine.sandbox(name).endpoints
    return view.endpoint.id


def test_a_rate_limits_both_ways(world: World) -> None:
    """What goes to the sandbox at the host's end of its pair, what comes from it by a link of its own."""
    front = world.network("front")
    end = limited(world, "web", "100mbit/20mbit")
    assert limits(world, "web") == {
        Shaper(HOST, veth(end), 10**8),
        Ifb(HOST, ifb(end), Owner(front, end)),
        Shaper(HOST, ifb(end), 2 * 10**7),
        Redirect(HOST, veth(end), ifb(end)),
    }
    assert not len(world.restart().start())


def test_a_rate_is_changed_and_lifted_while_the_sandbox_stands(world: World) -> None:
    """Its links and addresses stay as they are."""
    world.network("front")
    world.sandbox("web", "front")
    before = world.seen(Veth, Address, Route)
    [view] = world.engine.sandbox("web").endpoints
    end = view.endpoint.id
    world.engine.change("front", "web", "isthmus.rate", "100mbit/off")
    assert limits(world, "web") == {Shaper(HOST, veth(end), 10**8)}
    world.engine.change("front", "web", "isthmus.rate", "50mbit")
    assert {one.rate for one in limits(world, "web") if isinstance(one, Shaper)} == {5 * 10**7}
    assert len(limits(world, "web")) == 4
    world.engine.change("front", "web", "isthmus.rate", "off")
    assert limits(world, "web") == set()
    assert world.seen(Veth, Address, Route) == before
    assert [event.action for event in world.events[-3:]] == ["rate"] * 3


def test_a_crash_while_a_rate_is_lifted_leaves_no_limit(world: World) -> None:
    """A redirection to a link that is gone would drop all that the sandbox sends."""
    world.network("front")
    end = limited(world, "web", "100mbit")
    world.kernel.forbid(("redirect", HOST, veth(end)), EPERM)
    world.kernel.forbid(("shaper", HOST, veth(end)), EPERM)
    with pytest.raises(ExceptionGroup):
        world.engine.change("front", "web", "isthmus.rate", "off")
    assert len(limits(world, "web")) == 4
    world.kernel.permit()
    world.engine.change("front", "web", "isthmus.rate", "off")
    world.kernel.apply(Plan(make=(Make(Shaper(HOST, veth(end), 10**8)),)))
    world.restart()
    assert limits(world, "web") == set()


def test_a_rate_that_the_kernel_refuses_is_as_it_was(world: World) -> None:
    """Who had none has none, and is not half limited."""
    world.network("front")
    world.sandbox("web", "front")
    [view] = world.engine.sandbox("web").endpoints
    world.kernel.forbid(("shaper", HOST, ifb(view.endpoint.id)), EPERM)
    with pytest.raises(Refused):
        world.engine.change("front", "web", "isthmus.rate", "100mbit")
    assert limits(world, "web") == set()
    assert not len(world.restart().start())


def test_a_limit_that_somebody_takes_away_comes_back(world: World) -> None:
    """The watch tells whose link it was."""
    front = world.network("front")
    end = limited(world, "web", "100mbit")
    before = limits(world, "web")
    world.kernel.delete_shaper(veth(end))
    world.kernel.delete_link(ifb(end))
    world.engine.mend([Lost(Owner(front, end))])
    assert limits(world, "web") == before


def test_what_limits_a_sandbox_goes_with_it(world: World) -> None:
    """By leaving the network, or for good."""
    world.network("front")
    limited(world, "web", "100mbit")
    world.engine.disconnect("front", "web")
    assert world.seen(Ifb, Veth) == set()
    limited(world, "db", "100mbit")
    world.engine.remove_sandbox("db")
    assert world.seen(Ifb, Veth) == set()


def test_who_has_no_rate_is_not_looked_at_for_one(world: World) -> None:
    """Each look costs an answer of the kernel."""
    world.network("front")
    world.sandbox("web", "front")
    state = State(records.decode(key, value) for key, value in world.store.read().items.items())
    assert not render.sandbox(state, "web", LAN).scope.shaped


@pytest.mark.parametrize(("driver", "options"), [("macvlan", {"parent": "eth1"}), ("ipvlan", {"parent": "eth1"})])
def test_where_the_host_has_no_end_a_rate_is_refused(world: World, driver: str, options: dict[str, str]) -> None:
    """Silence would be a promise that nobody keeps."""
    world.network("lan", driver=driver, options=pairs(options))
    wish = EndpointRequest(options=pairs({RATE: "100mbit"}))
    with pytest.raises(InvalidOption, match=rf"isthmus\.rate value: 100mbit .*{driver}.*bridge network"):
        world.engine.create_sandbox(SandboxRequest("web", mode="lan", endpoints=(("lan", wish),)))
    world.sandbox("web", "lan")
    with pytest.raises(InvalidOption, match="bridge network"):
        world.engine.change("lan", "web", "isthmus.rate", "100mbit")


@pytest.mark.parametrize("mode", ["host", "none"])
def test_modes_without_an_interface_have_no_rate(world: World, mode: str) -> None:
    """Nor is there one to limit."""
    wish = EndpointRequest(options=pairs({RATE: "100mbit"}))
    with pytest.raises(InvalidOption, match="bridge network"):
        world.engine.create_sandbox(SandboxRequest("web", mode=mode, endpoints=((mode, wish),)))


def test_an_option_of_an_endpoint_that_there_is_not_is_refused(world: World) -> None:
    """A slip of the pen would limit nothing."""
    world.network("front")
    wish = EndpointRequest(options=pairs({"isthmus.rates": "100mbit"}))
    with pytest.raises(InvalidOption, match=r"there are .*isthmus\.rate"):
        world.engine.create_sandbox(SandboxRequest("web", mode="front", endpoints=(("front", wish),)))


def test_a_rate_is_of_who_stands_there(world: World) -> None:
    """And of a rate that can be meant."""
    world.network("front")
    world.sandbox("web")
    with pytest.raises(NotConnected):
        world.engine.change("front", "web", "isthmus.rate", "100mbit")
    with pytest.raises(InvalidOption, match="100mbit"):
        world.engine.change("bridge", "web", "isthmus.rate", "fast")
    with pytest.raises(InvalidOption, match="100mbit"):
        limited(world, "db", "fast")
