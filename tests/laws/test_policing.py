"""Law: what a sandbox may call, through the whole engine, is what its policies say when they are read one by one.

Sandboxes stand on overlays, which meet no rules of the host's but by the way out, and on a bridge. They come and go,
and policies become others.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.addresses import SubnetRequest
from isthmus.egress import EGRESS, Egress, egress_of
from isthmus.engine import Engine
from isthmus.model import HOST, pairs
from isthmus.naming import GATEWAY_BRIDGE
from isthmus.plan import NOTHING
from isthmus.requests import EndpointRequest, NetworkRequest, NetworkUpdate, SandboxRequest
from isthmus.resources import Address, Element, Veth
from tests.unit.test_engine import BRIDGE, World

TCP = 6
CALLS = [(IPv4Address(address), port) for address in ("192.0.2.1", "192.0.2.9", "198.51.100.1") for port in (80, 443)]
POLICIES = (
    "",
    "deny",
    "deny, allow 192.0.2.0/24",
    "deny, allow :443",
    "deny 192.0.2.1, allow :80",
    "allow",
    "allow 192.0.2.9:80",
    "dry-run, deny",
)
OVERLAYS = ("one", "two")
NETWORKS = (*OVERLAYS, "inner", "front")
SANDBOXES = ("a", "b")


@dataclass(frozen=True, slots=True)
class Event:
    """*What* is done: a sandbox joins a network or leaves it, or the network or the endpoint has another *policy*."""

    what: str
    network: str
    sandbox: str
    policy: str


EVENTS = st.builds(
    Event,
    what=st.sampled_from(("join", "join", "leave", "update", "change")),
    network=st.sampled_from(NETWORKS),
    sandbox=st.sampled_from(SANDBOXES),
    policy=st.sampled_from(POLICIES),
)


def made() -> World:
    """A host with two overlays, one without a way out, a bridge, and sandboxes on none of them yet."""
    world = World()
    for number, name in enumerate(NETWORKS):
        options = {"isthmus.peers": "192.0.2.7", "com.docker.network.driver.overlay.vxlanid_list": str(100 + number)}
        driver, subnets = "overlay", (SubnetRequest(f"10.{number}.0.0/24"),)
        if name == "front":
            driver, options = "bridge", {f"{BRIDGE}.name": "front0"}
        request = NetworkRequest(name, driver, subnets, pairs(options), internal=name == "inner")
        world.engine.create_network(request)
    for name in SANDBOXES:
        world.engine.create_sandbox(SandboxRequest(name, mode="inner"))
    return world


def happens(event: Event, engine: Engine) -> None:
    """Have the engine do it, if it can be."""
    there = {view.network.name for view in engine.sandbox(event.sandbox).endpoints}
    options = pairs({EGRESS: event.policy} if event.policy else {})
    match event.what:
        case "join" if event.network not in there:
            engine.connect(event.network, event.sandbox, EndpointRequest(options=options))
        case "leave" if event.network in there and len(there) > 1:
            engine.disconnect(event.network, event.sandbox)
        case "update":
            engine.update_network(event.network, NetworkUpdate(options=options, gone_options=(EGRESS,) * (not options)))
        case "change" if event.network in there:
            engine.change(event.network, event.sandbox, EGRESS, event.policy or "off")


def passes(policy: Egress, call: tuple[IPv4Address, int]) -> bool:
    """Whether *call* may be made, read rule by rule."""
    verdict = True
    for rule in policy.rules:
        targeted = rule.target is None or (not isinstance(rule.target, str) and call[0] in rule.target)
        if targeted and (rule.ports is None or rule.ports[0] <= call[1] <= rule.ports[1]):
            verdict = rule.allows
    return verdict


def wanted(world: World, sandbox: str) -> dict[tuple[IPv4Address, int], str]:
    """What is to become of each call of a sandbox: it is "let through", "dropped", or would be ("rehearsed")."""
    views = {view.network.name: view for view in world.engine.sandbox(sandbox).endpoints}
    # A bridge is a way out itself.
    out = ("front",) if "front" in views else OVERLAYS
    policies = []
    for name in out:
        if name in views:
            texts = (dict(one.options).get(EGRESS, "") for one in (views[name].network, views[name].endpoint))
            if text := ", ".join(filter(None, texts)):
                policies.append(egress_of(text))
    strict = [one for one in policies if one and not one.dry_run]
    judging = strict or [one for one in policies if one]
    kept = "dropped" if strict else "rehearsed"
    return {call: "let through" if all(passes(one, call) for one in judging) else kept for call in CALLS}


def judged(elements: Iterable[Element], bridge: str, source: str) -> dict[tuple[IPv4Address, int], str]:
    """What becomes of each call from *source* by these elements, as the chain `egress` reads them."""
    maps = {(one.set, one.match): one.value for one in elements}
    chain = maps.get(("policed4", (bridge, source))) or maps.get(("policed", (bridge,)))
    key = source if chain and "own" in chain else "0.0.0.0"
    boxes = [one.match[2:] for one in elements if one.set == "egress4" and one.match[:2] == (bridge, f"{key}/32")]
    kept = "rehearsed" if chain and chain.endswith("dry-run") else "dropped"
    return {call: "let through" if not chain or any(_within(box, call) for box in boxes) else kept for call in CALLS}


def _within(box: tuple[str, ...], call: tuple[IPv4Address, int]) -> bool:
    protocols, ports, addresses = box
    return _in_range(protocols, TCP) and _in_range(ports, call[1]) and _has(addresses, call[0])


def _in_range(text: str, number: int) -> bool:
    first, _, last = text.partition("-")
    return int(first) <= number <= int(last or first)


def _has(text: str, address: IPv4Address) -> bool:
    if "-" in text:
        first, last = map(IPv4Address, text.split("-"))
        return first <= address <= last
    return address in ip_network(text)


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=12))
def test_who_may_call_whom_follows_from_all_policies(events: list[Event]) -> None:
    """After each event, and no life of the daemon finds anything to mend."""
    world = made()
    for event in events:
        happens(event, world.engine)
        elements = [one for one in world.seen(Element) if isinstance(one, Element)]
        for name in SANDBOXES:
            for bridge in (GATEWAY_BRIDGE, "front0"):
                for source in addresses(world, name, bridge):
                    assert judged(elements, bridge, source) == wanted(world, name), (name, bridge)
                    guarded = {one.match[2] for one in elements if one.set == "sender4"}
                    held = any(one.set == "policed4" and one.match == (bridge, source) for one in elements)
                    assert (source in guarded) == held
        assert world.restart().start() == NOTHING


def addresses(world: World, sandbox: str, bridge: str) -> list[str]:
    """The IPv4 addresses of a sandbox's interface that is on *bridge*."""
    pairs_ = [one for one in world.seen(Veth) if isinstance(one, Veth)]
    inside = {one.peer for one in pairs_ if one.netns == HOST and one.peer_netns == sandbox and one.master == bridge}
    found = [one for one in world.seen(Address) if isinstance(one, Address) and one.netns == sandbox]
    return [str(one.interface.ip) for one in found if one.link in inside and one.interface.version == 4]
