"""Overlay networks in the engine, on a kernel and a store in memory: others' endpoints come as records, and go."""

from ipaddress import ip_address, ip_interface

import pytest
from msgspec.structs import replace

from isthmus.addresses import DEFAULT_POOLS, SubnetRequest
from isthmus.egress import EGRESS
from isthmus.errors import AddressInUse, Forbidden, InvalidOption, NameTaken, NetworkInUse
from isthmus.kernel import Missed, Retold, Scope
from isthmus.model import HOST, Network, Peer, pairs
from isthmus.naming import ENCRYPTED, GATEWAY_NETWORK, hidden, ifb, veth
from isthmus.options import MTU
from isthmus.plan import NOTHING, Change, Make, Plan
from isthmus.questions import Evidence, Reserve, Unanswered
from isthmus.rates import RATE
from isthmus.requests import EndpointRequest, NetworkRequest, NetworkUpdate, SandboxRequest
from isthmus.resources import Forwarding, Namespace, Neighbour, Resource, Route, Shaper, Veth, Vxlan
from isthmus.rules import DefaultBridge, Rules
from tests.unit.test_engine import BRIDGE, LAN, World

SHARED = Rules(
    pools=DEFAULT_POOLS,
    default_bridge=DefaultBridge(options=pairs({f"{BRIDGE}.name": "isthmus0"})),
    shared=True,
    advertise="eth0",
)
MULTI = NetworkRequest("multi", driver="overlay", subnets=(SubnetRequest("10.0.9.0/24"),))


@pytest.fixture
def world() -> World:
    """A host with a store that it shares."""
    return World(LAN, SHARED)


def shared(world: World, request: NetworkRequest = MULTI) -> Network:
    """A shared network that this host made."""
    return world.engine.network(world.engine.create_network(request).id).network


def peer(network: Network, last: int = 77, via: str = "192.0.2.2", name: str = "far") -> Peer:
    """Somebody on another host."""
    mac, address = f"02:00:00:00:00:{last:02x}", ip_interface(f"10.0.9.{last}/24")
    return Peer(f"{last:064x}", network.id, "other", ip_address(via), name, mac, (address,), (name,))


def told(world: World, network: Network) -> set[Resource]:
    """What the tunnels of a network were told."""
    seen = world.kernel.observe(Scope(everything=True))
    mine = (one for one in seen if isinstance(one, Forwarding | Neighbour) and one.netns == hidden(network.id))
    return {one for one in mine if one.link.startswith("vxlan")}


def test_what_hosts_share_is_asked_for_before_it_is_decided(world: World) -> None:
    """Two hosts would else give the same name, number or address."""
    with pytest.raises(Unanswered) as asked:
        world.engine.create_network(MULTI, Evidence())
    (question,) = asked.value.questions
    assert isinstance(question, Reserve)
    assert isinstance(question.record, Network)
    assert question.record.scope == "global"
    made = world.engine.create_network(MULTI, Evidence(granted={question.key: question}))
    assert made.id == question.record.id
    with pytest.raises(Unanswered) as asked:
        world.engine.create_sandbox(SandboxRequest("a", mode="multi"), Evidence())
    (question,) = asked.value.questions
    assert isinstance(question, Reserve)
    assert isinstance(question.record, Peer)
    assert question.record.addresses == (ip_interface("10.0.9.2/24"),)
    # Meanwhile nobody else here is offered that address.
    with pytest.raises(Unanswered) as other:
        world.engine.create_sandbox(SandboxRequest("b", mode="multi"), Evidence())
    (second,) = other.value.questions
    assert isinstance(second, Reserve)
    assert isinstance(second.record, Peer)
    assert second.record.addresses == (ip_interface("10.0.9.3/24"),)
    world.engine.create_sandbox(SandboxRequest("a", mode="multi"), Evidence(granted={question.key: question}))
    (offered,) = world.engine.offers().offered
    # What others were told stays: else they would all have to be told anew.
    assert offered == question.record


def test_others_are_known_as_long_as_they_stand(world: World) -> None:
    """An entry for who left sends packets into the void; one that lacks, none at all."""
    multi = shared(world)
    far = peer(multi)
    world.engine.learn([far], [])
    vxlan = next(one for one in world.kernel.observe(Scope(everything=True)) if isinstance(one, Vxlan))
    assert (vxlan.local, vxlan.mtu, vxlan.learning) == (ip_address("192.0.2.1"), 1450, False)
    assert told(world, multi) == {
        Forwarding(hidden(multi.id), vxlan.name, far.mac, far.via),
        Neighbour(hidden(multi.id), vxlan.name, ip_address("10.0.9.77"), far.mac),
    }
    moved = replace(far, via=ip_address("192.0.2.3"))
    world.engine.learn([moved], [far])
    assert Forwarding(hidden(multi.id), vxlan.name, far.mac, moved.via) in told(world, multi)
    with pytest.raises(AddressInUse):
        world.engine.create_sandbox(
            SandboxRequest("a", "multi", endpoints=(("multi", EndpointRequest(ipv4="10.0.9.77")),))
        )
    with pytest.raises(NetworkInUse, match="far"):
        world.engine.remove_network("multi")
    world.engine.learn([], [moved])
    assert told(world, multi) == set()
    world.engine.remove_network("multi")


def test_a_restart_knows_others_without_asking(world: World) -> None:
    """The store may be away when the daemon starts; then nothing is to change for who stands."""
    multi = shared(world)
    world.engine.learn([peer(multi), peer(multi, 78)], [])
    assert len(told(world, multi)) == 4
    world.engine = world.restart()
    assert world.engine.start() == NOTHING
    assert len(world.engine.others()) == 2


def test_networks_of_others_come_and_go(world: World) -> None:
    """But one on which somebody stands here stays, whatever others say."""
    theirs = Network("b" * 64, "theirs", "overlay", 5, MULTI_SUBNETS, OPTIONS, scope="global")
    assert world.engine.learn([theirs, peer(theirs)], []) == ()
    world.engine.create_sandbox(SandboxRequest("a", mode="theirs"))
    world.engine.learn([], [theirs])
    assert world.engine.network("theirs").network == theirs
    world.engine.remove_sandbox("a")
    world.engine.learn([], [theirs])
    assert [view.network.name for view in world.engine.networks() if view.network.driver == "overlay"] == []
    assert not any(isinstance(one, Vxlan) for one in world.kernel.observe(Scope(everything=True)))


def test_a_network_of_others_that_cannot_be_here_is_passed_over(world: World) -> None:
    """Its name may be one of this host's own."""
    world.engine.create_network(NetworkRequest("theirs"))
    theirs = Network("b" * 64, "theirs", "overlay", 5, MULTI_SUBNETS, OPTIONS, scope="global")
    (why,) = world.engine.learn([theirs, peer(theirs)], [])
    assert "there is a network of that name here" in why
    assert world.engine.offers().networks == ()


MULTI_SUBNETS = shared(World(LAN, SHARED)).subnets
OPTIONS = pairs({"com.docker.network.driver.overlay.vxlanid_list": "4200"})


def routes(world: World, netns: str) -> dict[str, str]:
    """By destination, the interface that leads there."""
    seen = world.kernel.observe(Scope(everything=True))
    return {str(one.destination): one.link for one in seen if isinstance(one, Route) and one.netns == netns}


def test_who_is_enclosed_gets_a_way_out_and_only_then(world: World) -> None:
    """As in Docker: eth0 is the overlay, the interface to the outside comes and goes with the need for it."""
    shared(world)
    world.engine.create_network(replace(MULTI, name="inner", subnets=(), internal=True))
    world.engine.create_sandbox(SandboxRequest("shut", mode="inner"))
    assert routes(world, "shut") == {}
    world.engine.create_sandbox(SandboxRequest("a", mode="multi"))
    assert routes(world, "a") == {"0.0.0.0/0": "eth1"}
    assert [one.network.name for one in world.engine.sandbox("a").endpoints] == ["multi"]
    world.engine.connect("bridge", "a", EndpointRequest())
    assert routes(world, "a") == {"0.0.0.0/0": "eth2"}
    assert world.engine.network(GATEWAY_NETWORK).endpoints == ()
    world.engine.disconnect("bridge", "a")
    assert routes(world, "a") == {"0.0.0.0/0": "eth1"}
    with pytest.raises(Forbidden, match="without being asked"):
        world.engine.connect(GATEWAY_NETWORK, "shut", EndpointRequest())
    world.engine.disconnect("multi", "a")
    assert routes(world, "a") == {}
    assert not any(
        isinstance(one, Veth) and one.peer_netns == "a" for one in world.kernel.observe(Scope(everything=True))
    )
    world.engine = world.restart()
    assert world.engine.start() == NOTHING


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vxlan.port": "0"}, "from 1 to 65535"),
        ({"com.docker.network.driver.overlay.vxlanid_list": "1,2"}, "has 1 subnets"),
        ({"com.docker.network.driver.overlay.vxlanid_list": "0"}, "from 1 to 16777215"),
        ({"isthmus.peers": "nobody"}, "addresses of other hosts"),
        ({"isthmus.peers": "192.0.2.7"}, "each has a VXLAN number of its own"),
        ({"isthmus.pears": "192.0.2.7"}, "no such option"),
        ({"encrypted": "perhaps"}, "true or false"),
        ({"encrypted": "", "isthmus.peers": "192.0.2.7"}, "know no keys of each other"),
        ({MTU: "10"}, "from 68 to 65535"),
    ],
)
def test_options_that_cannot_be_are_refused(world: World, options: dict[str, str], words: str) -> None:
    """A typing error must not become a network that works by half."""
    with pytest.raises(InvalidOption, match=words):
        world.engine.create_network(replace(MULTI, options=pairs(options)))
    assert world.engine.offers().networks == ()


def test_encrypted_networks_have_their_packets_leave_by_one_namespace(world: World) -> None:
    """It comes with the first of them, and goes with the last."""

    def namespaces() -> set[str]:
        return {one.name for one in world.kernel.observe(Scope(everything=True)) if isinstance(one, Namespace)}

    first = shared(world, replace(MULTI, options=pairs({"encrypted": ""})))
    other = NetworkRequest("other", "overlay", subnets=(SubnetRequest("10.0.8.0/24"),))
    second = shared(world, replace(other, options=pairs({"encrypted": "true"})))
    plain = shared(world, NetworkRequest("plain", "overlay", options=pairs({"encrypted": "false"})))
    assert namespaces() == {ENCRYPTED, *(hidden(one.id) for one in (first, second, plain))}
    tunnels = {one.netns: one for one in world.kernel.observe(Scope(everything=True)) if isinstance(one, Vxlan)}
    assert [tunnels[hidden(one.id)].under for one in (first, second, plain)] == [ENCRYPTED, ENCRYPTED, HOST]
    assert (tunnels[hidden(first.id)].local, tunnels[hidden(first.id)].mtu) == (None, 1350)
    world.engine = world.restart()
    assert world.engine.start() == NOTHING
    world.engine.remove_network("multi")
    assert ENCRYPTED in namespaces()
    world.engine.remove_network("other")
    assert namespaces() == {hidden(plain.id)}


def test_without_a_store_hosts_have_to_be_named() -> None:
    """Nobody would tell who is where."""
    alone = World()
    with pytest.raises(Forbidden, match="--cluster-store, or name the other hosts"):
        alone.engine.create_network(MULTI)
    named = {"isthmus.peers": "192.0.2.7,192.0.2.8", "com.docker.network.driver.overlay.vxlanid_list": "7"}
    alone.engine.create_network(replace(MULTI, options=pairs(named)))
    seen = alone.kernel.observe(Scope(everything=True))
    assert {str(one.remote) for one in seen if isinstance(one, Forwarding)} == {"192.0.2.7", "192.0.2.8"}
    assert [one.learning for one in seen if isinstance(one, Vxlan)] == [True]


def test_a_name_is_one_networks_alone(world: World) -> None:
    """As with all networks."""
    shared(world)
    with pytest.raises(NameTaken):
        world.engine.create_network(MULTI)


def test_rates_are_kept_where_the_sandbox_enters_its_network(world: World) -> None:
    """That is not in the host's namespace, as on a bridge network."""
    multi = shared(world)
    world.engine.create_sandbox(SandboxRequest("a", mode="multi"))
    world.engine.change("multi", "a", RATE, "10mbit/5mbit")

    def limits() -> set[tuple[str, int]]:
        seen = world.kernel.observe(Scope(shaped=frozenset(ends)))
        return {(one.netns, one.rate) for one in seen if isinstance(one, Shaper)}

    (place,) = world.engine.sandbox("a").endpoints
    ends = {(hidden(multi.id), veth(place.endpoint.id)), (hidden(multi.id), ifb(place.endpoint.id))}
    assert limits() == {(hidden(multi.id), 10_000_000), (hidden(multi.id), 5_000_000)}
    world.engine.change("multi", "a", RATE, "off")
    assert limits() == set()


def test_a_policy_is_not_lifted_before_the_way_out_is_gone(world: World) -> None:
    """Who leaves the last overlay that has one could call anybody else, for a moment."""
    shared(world, replace(MULTI, options=pairs({EGRESS: "deny"})))
    world.engine.create_sandbox(SandboxRequest("a", mode="multi"))
    world.network("inner", internal=True)
    world.engine.connect("inner", "a", EndpointRequest())
    lines = world.engine.rehearse(lambda engine: engine.disconnect("multi", "a"))
    [lifted] = [number for number, line in enumerate(lines) if "delete element" in line and " policed4 " in line]
    [place] = world.engine.network(GATEWAY_NETWORK).endpoints
    [gone] = [number for number, line in enumerate(lines) if line.endswith(f"link delete {veth(place.endpoint.id)}")]
    assert gone < lifted


def test_what_hosts_share_is_not_changed_where_they_would_not_hear_of_it(world: World) -> None:
    """A daemon without a store would be overruled as soon as it has one."""
    shared(world)
    world.rules = replace(SHARED, shared=False)
    with pytest.raises(Forbidden, match="start the daemon with --cluster-store"):
        world.restart().update_network("multi", NetworkUpdate(labels=pairs({"a": "b"})))


def test_a_lazy_network_is_told_of_whom_somebody_looks_for(world: World) -> None:
    """And stays so, when he moves, and when the daemon lives anew."""
    multi = shared(world, replace(MULTI, options=pairs({"isthmus.lazy": "true"})))
    far, other = peer(multi), peer(multi, 78, name="other")
    world.engine.learn([far, other], [])
    assert told(world, multi) == set()
    world.engine.mend(
        [Missed(hidden(multi.id), ip_address("10.0.9.99")), Missed(hidden(multi.id), "02:00:00:00:00:99")]
    )
    assert told(world, multi) == set()
    world.engine.mend([Missed(hidden(multi.id), ip_address("10.0.9.77"))])
    assert {one.mac for one in told(world, multi) if isinstance(one, Forwarding)} == {far.mac}
    moved = replace(far, via=ip_address("192.0.2.3"))
    world.engine.learn([moved], [])
    assert {one.remote for one in told(world, multi) if isinstance(one, Forwarding)} == {moved.via}
    world.engine = world.restart()
    assert world.engine.start() == NOTHING
    assert {one.mac for one in told(world, multi) if isinstance(one, Forwarding)} == {far.mac}
    world.engine.mend([Missed(hidden(multi.id), other.mac)])
    assert {one.mac for one in told(world, multi) if isinstance(one, Forwarding)} == {far.mac, other.mac}
    world.engine.learn([], [moved, other])
    assert told(world, multi) == set()


def test_a_lazy_network_forgets_to_whom_nobody_sends(world: World) -> None:
    """A host would else hold, by and by, all whom it ever talked to. Who is looked for again is met again."""
    multi = shared(world, replace(MULTI, options=pairs({"isthmus.lazy": "true"})))
    far, other = peer(multi), peer(multi, 78)
    world.engine.learn([far, other], [])
    home = hidden(multi.id)
    world.engine.mend([Missed(home, far.mac), Missed(home, other.mac)])
    entry = next(one for one in told(world, multi) if isinstance(one, Forwarding) and one.mac == far.mac)
    world.kernel.rest(entry.key, 599)
    world.engine.forget_idle(600)
    assert len(told(world, multi)) == 4
    world.kernel.rest(entry.key, 600)
    world.engine.forget_idle(600)
    assert {one.mac for one in told(world, multi) if isinstance(one, Forwarding | Neighbour)} == {other.mac}
    # The kernel tells of it, and nothing follows from that.
    assert world.engine.mend([Retold(home, far.mac, gone=True)]) == NOTHING
    world.engine.mend([Missed(home, far.mac)])
    world.engine.forget_idle(600)
    assert len(told(world, multi)) == 4


def test_who_is_known_from_the_start_is_not_forgotten(world: World) -> None:
    """Only the tunnels of lazy networks tell of whom they do not know."""
    multi = shared(world)
    world.engine.learn([peer(multi)], [])
    before = told(world, multi)
    world.engine.forget_idle(0)
    assert told(world, multi) == before


def test_what_somebody_else_tells_a_tunnel_or_a_port_is_put_right(world: World) -> None:
    """What went may be our own doing, and then nothing is to be done: what is wanted was recorded before."""
    multi = shared(world)
    world.engine.create_sandbox(SandboxRequest("a", mode="multi"))
    far, other = peer(multi), peer(multi, 78)
    world.engine.learn([far, other], [])
    home = hidden(multi.id)
    seen = world.kernel.observe(Scope(everything=True))
    port = next(one for one in seen if isinstance(one, Forwarding) and one.link.startswith("veth"))
    there = next(one for one in seen if isinstance(one, Forwarding) and one.mac == far.mac)
    known = next(one for one in seen if isinstance(one, Neighbour) and one.mac == far.mac)
    for one, where in ((port, port.mac), (there, far.mac), (known, known.address)):
        world.kernel.delete_entry(one.key)
        assert world.engine.mend([Retold(home, where, gone=True)]).make == (Make(one),)
    elsewhere = replace(there, remote=ip_address("192.0.2.9"))
    world.kernel.apply(Plan(make=(Change(elsewhere, there),)))
    assert [str(one) for one in world.engine.mend([Retold(home, far.mac, gone=False)])] == [there.change()]
    stray = replace(elsewhere, mac="02:00:00:00:00:99")
    world.kernel.apply(Plan(make=(Make(stray),)))
    assert world.engine.mend([Retold(home, stray.mac, gone=True)]) == NOTHING
    assert [str(one) for one in world.engine.mend([Retold(home, stray.mac, gone=False)])] == [stray.remove()]
    world.engine.learn([], [other])
    gone = [Retold(home, where, gone=True) for where in (other.mac, other.addresses[0].ip)]
    assert world.engine.mend([*gone, Retold("_ov-gone", far.mac, gone=True)]) == NOTHING


def test_who_came_in_the_place_of_another_stays_when_that_one_is_forgotten(world: World) -> None:
    """They have one address, and so one MAC; in which order others tell of them is chance."""
    multi = shared(world)
    before, after = peer(multi), replace(peer(multi, via="192.0.2.3"), id="e" * 64)
    world.engine.learn([before], [])
    world.engine.learn([after], [])
    world.engine.learn([], [before])
    assert {one.remote for one in told(world, multi) if isinstance(one, Forwarding)} == {after.via}
    assert world.restart().start() == NOTHING
