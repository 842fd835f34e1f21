"""What the records mean for the kernel: `State` in, resources and the scope to look at out.

The unit is an area: one namespace with all that joins it to networks, or the host's half of everything, or both for
all. What is being removed is not wanted, but lies in the scope, so that it is found and goes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from ipaddress import ip_network
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from isthmus import firewall, policing
from isthmus.drivers import BUILTIN
from isthmus.firewall import Mode
from isthmus.kernel import Scope
from isthmus.model import HOST, Binding, Endpoint, HandLink, Host, IPAddress, Network, Peer, Sandbox
from isthmus.naming import Owner, ifb, veth
from isthmus.naming import table as table_of
from isthmus.options import FOLLOW, Callers
from isthmus.rates import RATE
from isthmus.resources import (
    Address,
    Bridge,
    Child,
    Element,
    Ifb,
    Key,
    Namespace,
    Nickname,
    Port,
    Resource,
    Route,
    Rule,
    Sysctl,
    Veth,
    Vlan,
    Vxlan,
    announcing,
)
from isthmus.rules import Rules
from isthmus.state import State

FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
"""The sysctl that makes a host forward packets of an IP version."""

SYSCTLS = "com.docker.network.endpoint.sysctls"
"""The option of an endpoint that sets sysctls of its interface."""

FRAMES = tuple(f"net.bridge.bridge-nf-call-{filter_}" for filter_ in ("arptables", "ip6tables", "iptables"))
"""The sysctls that send frames between ports of a bridge through the packet filter."""

_LINKS = (Bridge, Vlan, Veth, Child, Ifb, Vxlan)

DEFAULT = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
BOTH = frozenset(DEFAULT)


class Area(msgspec.Struct, frozen=True):
    """What is *desired* of a part of the kernel, and the *scope* in which to look for what is there.

    What is *leaving* lets packets through, shall go, and is not in that scope, for it is known: it is what was made.
    """

    desired: tuple[Resource, ...]
    scope: Scope
    leaving: tuple[Element, ...] = ()


def sandbox(
    state: State,
    netns: str,
    host: Host,
    waiting: AbstractSet[str] = frozenset(),
    ruled: AbstractSet[int] = BOTH,
) -> Area:
    """The namespace *netns*, if somebody still wants it, and whatever leads into it, on a *host* as it was seen last.

    What stands on the networks *waiting* (their IDs) cannot be made yet. With an endpoint go the host's routes to it.
    Ports are published for the IP versions that are *ruled*.
    """
    wanted: list[Resource] = []
    links: set[tuple[str, str]] = set()
    leaving: set[tuple[str, str]] = set()
    shaped: set[tuple[str, str]] = set()
    users = state.in_netns(netns)
    alive = any(not user.removing for user in users)
    guests = [] if netns == HOST else [user for user in users if user.name != netns]
    if netns != HOST and alive:
        wanted.append(Namespace(netns))
        wanted.extend(Nickname(guest.name, netns) for guest in guests if not guest.removing)
    endpoints = state.endpoints_in(netns)
    removing = {user.id for user in users if user.removing}
    staying = _staying(state, endpoints, waiting)
    held = tuple(policing.elements(_standing_with(state, endpoints)))
    rules = {one.key for one in held}
    for endpoint in endpoints:
        network = state.networks[endpoint.network]
        settings = tuple(_sysctls(endpoint, netns))
        resources = tuple(_heeding(settings, BUILTIN[network.driver].endpoint(network, endpoint, netns, host)))
        stays = endpoint in staying
        (links if stays else leaving).update((one.netns, one.name) for one in resources if isinstance(one, _LINKS))
        if endpoint.options and RATE in dict(endpoint.options):
            # Whatever the rate is now, there may be what limited it before.
            home = next((one.netns for one in resources if isinstance(one, Veth)), HOST)
            (links if stays else leaving).add((home, ifb(endpoint.id)))
            shaped.update({(home, veth(endpoint.id)), (home, ifb(endpoint.id))} if stays else ())
        if stays:
            wanted.extend(resources)
            wanted.extend(settings)
            wanted.extend(_leased_routes(network, endpoint, netns))
    # Most often nobody goes.
    wanted.extend(held if len(staying) == len(endpoints) else policing.elements(_standing_with(state, staying)))
    for touched in dict.fromkeys(endpoint.network for endpoint in endpoints):
        ways = tuple(_reach(state, touched, lambda _: True))
        # Most often the host has no place there, or one that is the same without these endpoints.
        if ways and ways != tuple(_reach(state, touched, lambda one: one not in endpoints)):
            links.update((one.netns, one.name) for one in ways if isinstance(one, _LINKS))
            if touched not in waiting:
                wanted.extend(_reach(state, touched, partial(_live, state)))
    wanted.extend(_default_routes(state, staying, netns))
    wanted.extend(_return_routes(state, staying, netns))
    bindings = [binding for user in users for binding in state.bindings_of(user.id)]
    published = _publishing(state, bindings, endpoints, waiting, ruled)
    wanted.extend(published.desired)
    for user in users:
        for link in state.links_of(user.id):
            made = tuple(hand_link(link, netns))
            stays = not link.removing and user.id not in removing
            (links if stays else leaving).update((one.netns, one.name) for one in made if isinstance(one, _LINKS))
            if stays:
                wanted.extend(made)
    if netns != HOST:
        wanted.extend(Sysctl(netns, *setting) for user in users if not user.removing for setting in user.sysctls)
    scope = Scope(
        namespaces=frozenset() if netns == HOST else frozenset({netns}),
        nicknames=frozenset(guest.name for guest in guests),
        links=frozenset(links),
        leaving=frozenset(leaving - links),
        ruled=frozenset({netns}) if netns != HOST and len(endpoints) > 1 else frozenset(),
        sysctls=frozenset((netns, one.name) for one in wanted if isinstance(one, Sysctl)),
        elements=published.scope.elements.union(rules),
        shaped=frozenset(shaped),
    )
    return Area(tuple(wanted), scope, published.leaving)


def peers(state: State, network: Network, changed: Iterable[Peer]) -> Area:
    """What this host has to know of those who are on *network* elsewhere, as far as it is about who *changed*."""
    changed, driver = tuple(changed), BUILTIN[network.driver]
    # Who came in the place of another has his address, and so his MAC.
    places = ((one.mac, *(address.ip for address in one.addresses)) for one in changed)
    there = [state.peer_at(network.id, where) for several in places for where in several]
    known = dict.fromkeys(filter(None, (*there, *(state.peer(network.id, one.id) for one in changed))))
    wanted = tuple(dict.fromkeys(driver.peers(network, (one for one in known if state.is_told(network, one)))))
    told = {one.key for one in (*wanted, *driver.peers(network, changed))}
    return Area(() if network.removing else wanted, Scope(told=frozenset(told)))


def ports(
    state: State,
    user: Sandbox,
    bindings: Iterable[Binding],
    waiting: AbstractSet[str] = frozenset(),
    ruled: AbstractSet[int] = BOTH,
) -> Area:
    """Of what `sandbox` would say of *user*, only what is at the places of *bindings*, as they are, or were before.

    A change of one costs the same among many.
    """
    known = {one: state.binding(user.id, one.place) for one in bindings}
    before = [one for one, now in known.items() if not (now and _goes(state, now))]
    current = dict.fromkeys(filter(None, known.values()))
    return _publishing(state, current, state.endpoints_in(user.netns), waiting, ruled, before=before)


def _staying(state: State, endpoints: Iterable[Endpoint], waiting: AbstractSet[str]) -> list[Endpoint]:
    """Those of *endpoints* that can be made, and that nothing says are to go."""
    return [endpoint for endpoint in endpoints if endpoint.network not in waiting and _live(state, endpoint)]


class Service(NamedTuple):
    """At which address of a sandbox its ports are published, and how; who may call as far as the network says."""

    target: IPAddress
    mode: Mode
    callers: Callers | None


def serving(state: State, endpoints: Iterable[Endpoint]) -> Iterator[Service]:
    """At which addresses of a sandbox its ports are published, and how; at most one for each IP version.

    They are those by which what it sends leaves it, or its answers would not come back to who asks.
    """
    endpoints = tuple(endpoints)
    for version in DEFAULT:
        if chosen := gateway_endpoint(state, endpoints, version):
            yield from _targets(state, chosen[0], version)


def _targets(state: State, endpoint: Endpoint, version: int) -> Iterator[Service]:
    network = state.networks[endpoint.network]
    traits = BUILTIN[network.driver].traits(network)
    mode = dict(traits.publishing).get(version)
    if mode:
        yield from (Service(one.ip, mode, traits.callers) for one in endpoint.addresses if one.version == version)


def _published(
    state: State, bindings: Iterable[Binding], endpoints: Iterable[Endpoint], ruled: AbstractSet[int]
) -> Iterator[Element]:
    """The elements by which *bindings* hold for who stands on *endpoints*."""
    bindings = tuple(bindings)
    for service in serving(state, endpoints) if bindings else ():
        if service.target.version in ruled:
            yield from firewall.published(bindings, *service)


def _lasting(state: State, bindings: Iterable[Binding]) -> Iterator[Binding]:
    """Those of *bindings* that nothing says are to go."""
    return (one for one in bindings if not _goes(state, one))


def _goes(state: State, binding: Binding) -> bool:
    """Whether *binding* is to go."""
    return binding.removing or state.sandboxes[binding.sandbox].removing


def _publishing(
    state: State,
    bindings: Iterable[Binding],
    endpoints: Iterable[Endpoint],
    waiting: AbstractSet[str],
    ruled: AbstractSet[int],
    *,
    before: Iterable[Binding] = (),
) -> Area:
    """The elements of *bindings*, for who stands on *endpoints*; they may have been otherwise *before*.

    What translates a port is its own, so that it is known to go with it. What opens one may be for several, and what
    keeps callers out goes last, so for these is looked.
    """
    endpoints = tuple(endpoints)
    lasting: list[Binding] = []
    going: list[Binding] = []
    for binding in bindings:
        (going if _goes(state, binding) else lasting).append(binding)
    desired = tuple(_published(state, lasting, _staying(state, endpoints, waiting), ruled))
    there = (one for one in endpoints if one.network not in waiting)
    known: list[Element] = []
    others: list[Key] = []
    for one in _published(state, going, there, ruled):
        if one.set in firewall.PUBLISHING:
            known.append(one)
        else:
            others.append(one.key)
    scope = Scope(elements=frozenset((*_places(state, (*lasting, *before), endpoints), *others)))
    return Area(desired, scope, tuple(known))


def _places(state: State, bindings: Iterable[Binding], endpoints: Iterable[Endpoint]) -> Iterator[Key]:
    """The keys of all elements that *bindings* may have had while there were *endpoints*."""
    bindings = tuple(bindings)
    if not bindings:
        return
    services = [one for endpoint in endpoints for version in DEFAULT for one in _targets(state, endpoint, version)]
    routed = [one.target for one in services if one.mode is Mode.ROUTED]
    follow = any(one.callers == FOLLOW for one in services)
    led = {address.version for endpoint in endpoints for address in endpoint.addresses}
    yield from firewall.places(bindings, led, follow=follow)
    for target in routed:
        yield from (one.key for one in firewall.published(bindings, target, Mode.ROUTED))


def host(
    state: State,
    host: Host,
    rules: Rules,
    closed: Mapping[int, Iterable[str]],
    waiting: AbstractSet[str] = frozenset(),
) -> Area:
    """All networks themselves, and our table: what the host has of them.

    *closed* tells for each IP version the interfaces between which the host is not to forward. The networks *waiting*
    (their IDs) cannot be made yet.
    """
    wanted: list[Resource] = [*firewall.marked(rules.marks), *_guards(state, waiting)]
    links: set[tuple[str, str]] = set()
    namespaces: set[str] = set()
    ports: set[str] = set()
    versions: set[int] = set()
    for network in (one for one in state.networks.values() if not one.config_only):
        resources = (
            *BUILTIN[network.driver].network(network, host),
            *_reach(state, network.id, partial(_live, state)),
            *BUILTIN[network.driver].peers(network, state.told_on(network)),
        )
        namespaces.update(one.name for one in resources if isinstance(one, Namespace))
        links.update((one.netns, one.name) for one in resources if isinstance(one, _LINKS))
        ports.update(one.name for one in resources if isinstance(one, Port))
        if not network.removing and network.id not in waiting:
            wanted.extend(one for one in resources if not isinstance(one, Element) or _ruled(one, rules.firewall))
            if not network.internal and any(
                isinstance(one, Element) and one.set.startswith("enter") for one in resources
            ):
                versions.update(subnet.version for subnet in network.subnets)
    wanted.extend(_all_published(state, waiting, rules.firewall))
    wanted.extend(Sysctl(HOST, FORWARDING[version], "1") for version in sorted(versions & rules.forward))
    if host.frames_filtered is False:
        wanted.extend(Sysctl(HOST, name, "0") for name in FRAMES)
    # A bridge of the host's own may be the device of one of our networks.
    switches = {one.match[0] for one in wanted if isinstance(one, Element) and one.set == "switched"}
    for version, interfaces in closed.items():
        wanted.extend(firewall.closed(version, (name for name in interfaces if name not in switches)))
    sysctls = frozenset((one.netns, one.name) for one in wanted if isinstance(one, Sysctl))
    scope = Scope(frozenset(namespaces), frozenset(links), frozenset(ports), sysctls, firewall=True)
    filled = firewall.SELDOM.intersection(one.set for one in wanted if isinstance(one, Element))
    return Area((firewall.table(chains(state, host) | filled), *wanted), scope)


def chains(state: State, host: Host) -> frozenset[str]:
    """Those optional chains of our table that are needed on *host*."""
    followed = _is_followed(state)
    needed = {
        firewall.DETOUR: host.frames_filtered is True,
        firewall.GUARD: any(_guarded(state)),
        firewall.EGRESS: any(map(partial(_live, state), state.policed())) or any(map(_is_policed, _made(state))),
        firewall.ASK: followed,
        firewall.JUDGE: followed or any(binding.callers for binding in _lasting(state, state.bindings())),
    }
    return frozenset(name for name, there in needed.items() if there)


def _made(state: State) -> Iterator[Network]:
    """The networks that there are to be."""
    return (one for one in state.networks.values() if not (one.config_only or one.removing))


def _is_policed(network: Network) -> bool:
    """Whether *network* holds all who stand on it to an egress policy."""
    return BUILTIN[network.driver].traits(network).egress is not None


def _is_followed(state: State) -> bool:
    """Whether the host's own rules say of some port who may call, as its network or the port itself has it."""
    callers = (BUILTIN[one.driver].traits(one).callers for one in _made(state))
    return FOLLOW in callers or any(map(follows, _lasting(state, state.bindings())))


def follows(binding: Binding) -> bool:
    """Whether *binding* has a policy of its own by which the host's own rules say who may call."""
    return binding.callers == str(FOLLOW)


def _guarded(state: State) -> Iterator[Network]:
    """The networks for the sake of which somebody is held to what he is."""
    policed = {one.network for one in state.policed() if _live(state, one)}
    for network in _made(state):
        traits = BUILTIN[network.driver].traits(network)
        if network.id in policed or traits.guarded or (traits.enclosed and traits.egress):
            yield network


def _guards(state: State, waiting: AbstractSet[str]) -> Iterator[Element]:
    """The elements that hold people to what they are, and to policies of their own."""
    endpoints = (endpoint for network in _guarded(state) for endpoint in state.on_network(network.id))
    for netns in dict.fromkeys(state.sandboxes[endpoint.sandbox].netns for endpoint in endpoints):
        yield from policing.elements(_standing_with(state, _staying(state, state.endpoints_in(netns), waiting)))


def _standing_with(state: State, endpoints: Iterable[Endpoint]) -> Iterator[tuple[Network, Endpoint]]:
    """*Endpoints*, each with its network."""
    return ((state.networks[one.network], one) for one in endpoints)


def _all_published(state: State, waiting: AbstractSet[str], ruled: AbstractSet[int]) -> Iterator[Element]:
    """The elements of all bindings there are."""
    for name in dict.fromkeys(binding.sandbox for binding in state.bindings()):
        endpoints = state.endpoints_in(state.sandboxes[name].netns)
        bindings = _lasting(state, state.bindings_of(name))
        yield from _published(state, bindings, _staying(state, endpoints, waiting), ruled)


def _reach(state: State, network: str, counts: Callable[[Endpoint], bool]) -> Iterator[Resource]:
    """The host's place on a network, if of the endpoints there only those for which *counts* is true were there."""
    record = state.networks[network]
    return BUILTIN[record.driver].reach(record, _standing(state, network, counts))


def _standing(state: State, network: str, counts: Callable[[Endpoint], bool]) -> Iterator[Endpoint]:
    """Those endpoints of a network for which *counts* is true; who does not read them does not pay for them."""
    yield from filter(counts, state.on_network(network))


def _live(state: State, endpoint: Endpoint) -> bool:
    """Whether nothing says that *endpoint* is to go."""
    return not (endpoint.removing or state.sandboxes[endpoint.sandbox].removing)


def _ruled(element: Element, versions: AbstractSet[int]) -> bool:
    """Whether our rules are made for the IP version that *element* is about, if it is about one."""
    return not element.set[-1].isdigit() or int(element.set[-1]) in versions


def everything(
    state: State,
    of_host: Area,
    host: Host,
    waiting: AbstractSet[str] = frozenset(),
    ruled: AbstractSet[int] = BOTH,
) -> Area:
    """All that is wanted anywhere, to be held against all that bears our mark; *of_host* is the host's half."""
    namespaces = {user.netns for user in state.sandboxes.values()}
    area = together(of_host, *(sandbox(state, netns, host, waiting, ruled) for netns in sorted(namespaces)))
    return replace(area, scope=replace(area.scope, everything=True))


def together(*areas: Area) -> Area:
    """All of *areas* as one. What is in several of them (a published port is in both halves) is wanted once."""
    wanted = dict.fromkeys(resource for area in areas for resource in area.desired)
    united = {name: _united(getattr(area.scope, name) for area in areas) for name in Scope.__struct_fields__}
    scope = Scope(**united)
    # Where all of our table is looked at, what is leaving is seen there.
    leaving = () if scope.firewall else dict.fromkeys(one for area in areas for one in area.leaving)
    return Area(tuple(wanted), scope, tuple(leaving))


def searching(area: Area) -> Area:
    """The same *area*, where what is leaving may not be there, or may be otherwise, so that it has to be looked for."""
    elements = area.scope.elements.union(one.key for one in area.leaving)
    return Area(area.desired, replace(area.scope, elements=elements)) if area.leaving else area


def _united(parts: Iterable[Any]) -> Any:  # noqa: ANN401 - what the fields of a scope are: sets, and what is true or not
    first, *rest = parts
    return first.union(*rest) if isinstance(first, frozenset) else any((first, *rest))


def gateway_endpoint(
    state: State, endpoints: Iterable[Endpoint], version: int
) -> tuple[Endpoint, IPAddress | None] | None:
    """Through which of a sandbox's *endpoints*, and by which router, its default route of that IP version goes.

    It is the one with the highest priority (`--gw-priority`), among equals that whose network's name sorts first. Where
    the router is None, the route leads straight onto the link.
    """
    return min(
        _ways_out(state, endpoints, version),
        key=lambda way: (-way[0].gateway_priority, state.networks[way[0].network].name),
        default=None,
    )


def _ways_out(state: State, endpoints: Iterable[Endpoint], version: int) -> Iterator[tuple[Endpoint, IPAddress | None]]:
    """Those of *endpoints* by which packets of that IP version may leave their network, each with its router."""
    for endpoint in endpoints:
        routers = routers_of(state.networks[endpoint.network], endpoint)
        if version in routers and any(address.version == version for address in endpoint.addresses):
            yield endpoint, routers[version]


def routers_of(network: Network, endpoint: Endpoint) -> Mapping[int, IPAddress | None]:
    """By IP version, where *endpoint* sends what leaves its network: what a DHCP server says of that counts most."""
    routers = dict(BUILTIN[network.driver].routers(network, endpoint))
    for lease in () if network.internal else endpoint.leases:
        ways = [gateway for destination, gateway in lease.routes if not destination.prefixlen] or lease.routers
        routers.update((lease.address.version, way) for way in ways[:1])
    return routers


def _leased_routes(network: Network, endpoint: Endpoint, netns: str) -> Iterator[Route]:
    """The routes that a DHCP server gave besides the default one."""
    for lease in () if network.internal else endpoint.leases:
        for destination, gateway in lease.routes:
            if destination.prefixlen:
                yield Route(netns, destination, endpoint.ifname, Owner(network.id, endpoint.id), via=gateway)


def hand_link(link: HandLink, netns: str) -> Iterator[Resource]:
    """What a link is made of that its user put into a sandbox by hand."""
    mine, mac, mtu = Owner("", link.id), link.mac or None, link.mtu or None
    if link.type == "macvlan":
        yield Child(netns, link.ifname, link.parent, link.type, link.mode, mine, mac=mac, mtu=mtu, ipv6=True)
    else:
        master = link.master or None
        yield Veth(HOST, link.peer, netns, link.ifname, mine, mac=mac, master=master, mtu=mtu, ipv6=True)
    for address in link.peer_addresses:
        yield Address(HOST, link.peer, address, mine)
    for address in link.addresses:
        yield Address(netns, link.ifname, address, mine)
    for route in link.routes:
        yield Route(netns, ip_network(route.destination), link.ifname, mine, via=route.gateway)


def _heeding(settings: Iterable[Sysctl], resources: Iterable[Resource]) -> Iterator[Resource]:
    """*Resources* without what a user's own *settings* say, maybe otherwise."""
    named = {one.name for one in settings}
    for resource in resources:
        match resource:
            case Veth(peer=ifname) | Child(name=ifname) if announcing(ifname) in named:
                yield replace(resource, announce=None)
            case _:
                yield resource


def _sysctls(endpoint: Endpoint, netns: str) -> Iterator[Sysctl]:
    """The settings of its interface that an endpoint's user asked for; IFNAME stands for the interface's name."""
    ifname = endpoint.ifname.replace(".", "/")
    for item in filter(None, dict(endpoint.options).get(SYSCTLS, "").split(",")):
        name, _, value = item.partition("=")
        section, family, part, _, setting = name.split(".")
        yield Sysctl(netns, f"{section}.{family}.{part}.{ifname}.{setting}", value)


def _default_routes(state: State, endpoints: Iterable[Endpoint], netns: str) -> Iterator[Route]:
    for version, destination in DEFAULT.items():
        chosen = gateway_endpoint(state, endpoints, version)
        if chosen:
            endpoint, router = chosen
            yield Route(netns, destination, endpoint.ifname, Owner(endpoint.network, endpoint.id), via=router)


def _return_routes(state: State, endpoints: Iterable[Endpoint], netns: str) -> Iterator[Route | Rule]:
    """Where a sandbox has several ways out, what makes answers leave by the interface that the question came in on.

    What is sent from an endpoint's address is routed by a table that knows its network only.
    """
    for version, everywhere in DEFAULT.items():
        ways = tuple(_ways_out(state, endpoints, version))
        for endpoint, router in ways if len(ways) > 1 else ():
            network, table = state.networks[endpoint.network], table_of(endpoint.id)
            mine = Owner(network.id, endpoint.id)
            for address in endpoint.addresses:
                if address.version == version:
                    yield Rule(netns, address.ip, table)
                    if address.network.num_addresses > 1:
                        yield Route(netns, ip_network(address.network), endpoint.ifname, mine, table=table)
            yield Route(netns, everywhere, endpoint.ifname, mine, via=router, table=table)
            for route in _leased_routes(network, endpoint, netns):
                if route.destination.version == version:
                    yield replace(route, table=table)
