"""What the edges are told: records joined with what follows from them. Pure, as far as the state is."""

from collections.abc import Iterable, Mapping

from isthmus.drivers import BUILTIN
from isthmus.kernel import Count
from isthmus.model import HOST, Endpoint, HandLink, Host, Network, Sandbox
from isthmus.resources import Element
from isthmus.state import State
from isthmus.views import EndpointView, LinkView, NatRule, NetworkView, SandboxView, SubnetStatus


def network(state: State, record: Network) -> NetworkView:
    """A network with its endpoints, and how full its subnets are."""
    endpoints = tuple(endpoint(state, one) for one in state.on_network(record.id))
    status = tuple(SubnetStatus(str(pool.subnet.cidr), pool.in_use, pool.available) for pool in state.pools[record.id])
    return NetworkView(record, endpoints, status)


def endpoint(state: State, record: Endpoint) -> EndpointView:
    """An endpoint with the names that it answers to, in Docker's order: name, aliases, short ID, hostname."""
    home = state.networks[record.network]
    user = state.sandboxes[record.sandbox]
    routers = BUILTIN[home.driver].routers(home, record)
    addresses = {address.version: address for address in record.addresses}
    names = (user.name, *record.aliases, user.id[:12], user.hostname)
    return EndpointView(
        record,
        home,
        user,
        addresses.get(4),
        addresses.get(6),
        routers.get(4) if 4 in addresses else None,
        routers.get(6) if 6 in addresses else None,
        () if home.predefined else tuple(dict.fromkeys(name for name in names if name)),
    )


def sandbox(state: State, record: Sandbox, paths: Mapping[str, str]) -> SandboxView:
    """A sandbox with its endpoints; *paths* has that of the host's namespace, and under "*" the directory of ours."""
    endpoints = [endpoint(state, one) for one in state.of_sandbox(record.id)]
    path = paths[HOST] if record.netns == HOST else f"{paths['*']}/{record.netns}"
    return SandboxView(record, tuple(sorted(endpoints, key=lambda view: view.network.name)), path)


def link(record: HandLink) -> LinkView:
    """A link that was put into a sandbox by hand."""
    return LinkView(record.ifname, record.peer, record.type, record.addresses)


def nat(state: State, host: Host, counts: Iterable[Count]) -> tuple[NatRule, ...]:
    """The rules that rewrite addresses, a line for each subnet, with what met them."""
    met = {(count.set, count.match): count for count in counts}
    rules: list[NatRule] = []
    for record in state.networks.values():
        if record.config_only:
            continue
        for element in BUILTIN[record.driver].network(record, host):
            if isinstance(element, Element) and element.set[:-1] in {"masquerade", "source"}:
                rules.extend(_rules(record, element, met.get((element.set, element.match))))
    return tuple(rules)


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
