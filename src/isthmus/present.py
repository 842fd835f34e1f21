"""What the edges are told: records joined with what follows from them. Pure, as far as the state is."""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network

from isthmus import firewall
from isthmus.addresses import covered
from isthmus.decisions import by_dhcp, offer
from isthmus.drivers import BUILTIN
from isthmus.drivers.traits import Traits
from isthmus.firewall import TRANSLATING
from isthmus.kernel import Count
from isthmus.model import HOST, Binding, Endpoint, HandLink, Host, IPAddress, Network, Sandbox
from isthmus.naming import GATEWAY_NETWORK, dns_names
from isthmus.options import Probe
from isthmus.plan import Plan
from isthmus.questions import WhichLease
from isthmus.render import routers_of, serving
from isthmus.resources import Address, Child, Element
from isthmus.state import State
from isthmus.views import (
    EndpointView,
    Finding,
    LanClient,
    LinkView,
    NatRule,
    NetworkView,
    Offers,
    PortView,
    SandboxView,
    Standing,
    SubnetStatus,
)

Troubles = Mapping[str, tuple[str, ...]]
"""What the wire told that is not as it should be, by the ID of the endpoint, or of the network, that it is about."""


def network(state: State, record: Network, troubles: Troubles) -> NetworkView:
    """A network with its endpoints, and how full its subnets are."""
    endpoints = tuple(endpoint(state, one, troubles) for one in state.on_network(record.id))
    status = tuple(SubnetStatus(str(pool.subnet.cidr), pool.in_use, pool.available) for pool in state.pools[record.id])
    return NetworkView(record, endpoints, status, troubles.get(record.id, ()), state.peers_on(record.id))


def endpoint(state: State, record: Endpoint, troubles: Troubles) -> EndpointView:
    """An endpoint with the names that it answers to, in Docker's order: name, aliases, short ID, hostname."""
    home = state.networks[record.network]
    user = state.sandboxes[record.sandbox]
    routers = routers_of(home, record)
    addresses = {address.version: address for address in record.addresses}
    return EndpointView(
        record,
        home,
        user,
        addresses.get(4),
        addresses.get(6),
        routers.get(4) if 4 in addresses else None,
        routers.get(6) if 6 in addresses else None,
        () if home.predefined else dns_names(user, record),
        troubles.get(record.id, ()),
    )


def sandbox(state: State, record: Sandbox, paths: Mapping[str, str], troubles: Troubles) -> SandboxView:
    """A sandbox with its endpoints; *paths* has that of the host's namespace, and under "*" the directory of ours.

    That by which it goes out if its networks have no way out is its own affair (as in Docker), and not among them.
    """
    gateway = state.network_named(GATEWAY_NETWORK)
    own = gateway.id if gateway and gateway.predefined else ""
    endpoints = [endpoint(state, one, troubles) for one in state.of_sandbox(record.id) if one.network != own]
    path = _path(paths, record.netns)
    by_name = tuple(sorted(endpoints, key=lambda view: view.network.name))
    told = ports(state, record, state.bindings_of(record.id))
    return SandboxView(record, by_name, path, told, troubles.get(record.id, ()))


def ports(state: State, record: Sandbox, bindings: Iterable[Binding]) -> tuple[PortView, ...]:
    """Those ports of a sandbox that *bindings* publish, by number, and where they lead."""
    ordered = sorted(bindings, key=lambda one: (one.port, one.place.protocol, one.place.port, str(one.place.address)))
    served = tuple(serving(state, state.of_sandbox(record.id))) if ordered else ()
    views = []
    for binding in ordered:
        fitting = [one for one in served if firewall.leads(binding, one.target.version, one.mode)]
        targets = tuple(one.target for one in fitting if one.mode in TRANSLATING)
        routed = tuple(one.target for one in fitting if one.mode not in TRANSLATING)
        said = ((one.target.version, binding.callers or str(one.callers or "")) for one in fitting)
        views.append(PortView(binding, targets, routed, {version: callers for version, callers in said if callers}))
    return tuple(views)


def _path(paths: Mapping[str, str], netns: str) -> str:
    return paths[HOST] if netns == HOST else f"{paths['*']}/{netns}"


def offers(state: State) -> Offers:
    """What there is on the networks that hosts share."""
    shared = tuple(one for one in state.networks.values() if one.scope == "global" and not one.removing)
    standing = (one for network in shared for one in state.on_network(network.id) if not one.removing)
    offered = tuple(offer(state.sandboxes[one.sandbox], one) for one in standing)
    return Offers(shared, offered, tuple(block for network in shared for block in state.blocks(network.id)))


def standing(state: State, paths: Mapping[str, str]) -> Standing:
    """What stands on segments that others are on, too, or will when the host has its link for them."""
    networks: set[str] = set()
    holders: dict[str, dict[IPAddress, str]] = {}
    clients: list[LanClient] = []
    for record in state.networks.values():
        traits = BUILTIN[record.driver].traits(record)
        if traits.wired and not (record.config_only or record.removing):
            networks.add(record.id)
            if traits.probe is not Probe.OFF:
                holders.setdefault(traits.segment, {}).update(_holders(state, record))
            clients.extend(_clients(state, record, traits, paths))
    return Standing(frozenset(networks), holders, tuple(clients))


def _holders(state: State, record: Network) -> Iterator[tuple[IPAddress, str]]:
    """The addresses of ours on a network, each with its MAC: the host's own, and the endpoints'."""
    own = tuple(BUILTIN[record.driver].reach(record, ()))
    macs = {one.name: one.mac or "" for one in own if isinstance(one, Child)}
    yield from ((one.interface.ip, macs[one.link]) for one in own if isinstance(one, Address))
    yield from ((one.ip, endpoint.mac) for endpoint in state.on_network(record.id) for one in endpoint.addresses)


def _clients(state: State, record: Network, traits: Traits, paths: Mapping[str, str]) -> Iterator[LanClient]:
    """The endpoints of a network that have addresses from a server, once for each IP version."""
    for version in by_dhcp(record):
        for one in state.on_network(record.id):
            user = state.sandboxes[one.sandbox]
            hostname = user.hostname or user.name
            question = WhichLease(traits.segment, record.id, user.name, version, one.mac, hostname, traits.switched)
            lease = next((lease for lease in one.leases if lease.address.version == version), None)
            yield LanClient(question, lease, _path(paths, user.netns), one.ifname)


def findings(  # noqa: PLR0917 - all that there is to look at
    state: State,
    record: Network,
    host: Host,
    waiting: Mapping[str, str],
    troubles: Troubles,
    plans: Iterable[Plan],
    *,
    mended: bool,
) -> Iterator[Finding]:
    """What a look at a network told: its parent, the kernel, the host's routes, and what was heard of its addresses.

    *Plans* are what the kernel lacks, or lacked until it was *mended*.
    """
    if record.id in waiting:
        yield Finding("parent", ok=False, text=f"the host has no link {waiting[record.id]}, or it is down")
    lines = "; ".join(str(operation) for plan in plans for operation in plan)
    if mended:
        yield Finding("kernel", ok=True, text=f"mended: {lines}" if lines else "all is there that should be")
    else:
        yield Finding("kernel", ok=not lines, text=lines or "all is there that should be")
    routes = [route for route in host.routes if covered(ip_network(route), (one.cidr for one in record.subnets))]
    if BUILTIN[record.driver].traits(record).segment:
        routes = []  # the route to a LAN leads to those who stand on it
    told = f"the host routes {', '.join(routes)} elsewhere: what it sends there does not reach this network"
    yield Finding("routes", ok=not routes, text=told if routes else "none of others lies over its subnets")
    names = {one.id: state.sandboxes[one.sandbox].name for one in state.on_network(record.id)}
    for about, name in {record.id: "the host", **names}.items():
        yield from (Finding("addresses", ok=False, text=f"{name}: {text}") for text in troubles.get(about, ()))


def link(record: HandLink) -> LinkView:
    """A link that was put into a sandbox by hand."""
    return LinkView(record.ifname, record.peer, record.type, record.addresses)


def nat(state: State, host: Host, counts: Iterable[Count]) -> tuple[NatRule, ...]:
    """The rules that rewrite addresses, a line for each published port and each subnet, with what met them."""
    met = {(count.set, count.match): count for count in counts}
    rules = [rule for user in state.sandboxes.values() for rule in _port_rules(state, user, met)]
    for record in state.networks.values():
        if record.config_only:
            continue
        for element in BUILTIN[record.driver].network(record, host):
            if isinstance(element, Element) and element.set[:-1] in {"masquerade", "source"}:
                rules.extend(_rules(record, element, met.get((element.set, element.match))))
    return tuple(rules)


def _port_rules(state: State, user: Sandbox, met: Mapping[tuple[str, tuple[str, ...]], Count]) -> Iterator[NatRule]:
    """The rules by which ports of the host lead to a sandbox."""
    for target, mode, callers in serving(state, state.of_sandbox(user.id)):
        for view in ports(state, user, state.bindings_of(user.id)) if mode in TRANSLATING else ():
            place = view.binding.place
            anywhere = "0.0.0.0/0" if target.version == 4 else "::/0"
            where = f"[{target}]" if target.version == 6 else str(target)
            for element in firewall.published((view.binding,), target, mode, callers):
                if not element.value:
                    continue
                count = met.get((element.set, element.match))
                yield NatRule(
                    chain="PREROUTING",
                    packets=count.packets if count else 0,
                    bytes=count.bytes if count else 0,
                    target="DNAT",
                    protocol=place.protocol,
                    source=anywhere,
                    destination=str(place.address) if element.set.startswith("publish-at") else anywhere,
                    extra=f"{place.protocol} dpt:{place.port} to:{where}:{view.binding.port}",
                )


def _rules(record: Network, element: Element, count: Count | None) -> Iterable[NatRule]:
    version = int(element.set[-1])
    for subnet in record.subnets:
        if subnet.version == version:
            yield NatRule(
                chain="POSTROUTING",
                packets=count.packets if count else 0,
                bytes=count.bytes if count else 0,
                target="SNAT" if element.value else "MASQUERADE",
                source=str(subnet.cidr),
                destination="0.0.0.0/0" if version == 4 else "::/0",
                outgoing=f"!{element.match[0]}",
                extra=f"to:{element.value}" if element.value else "",
                network=record.name,
            )
