"""bridge: a virtual switch on the host; every sandbox has a pair of veths, one end inside, the other on the switch.

As Docker's bridge, the host is the gateway: the bridge has the gateway's address, and what leaves is masqueraded,
routed or kept in, by the gateway mode (see `firewall`). Besides there is the plain *bridged* network
(`isthmus.bridged`): no address of ours on the bridge and no NAT; with an uplink on the bridge (`isthmus.uplink`), its
sandboxes stand on the LAN as machines of their own, and the LAN's router, if one is named with --gateway, is theirs.

A bridge that exists already and is not ours is used as it is, never changed, never removed.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_interface

import msgspec

from isthmus import firewall, naming
from isthmus.drivers.limits import limits
from isthmus.drivers.traits import Traits
from isthmus.egress import EGRESS, Egress, egress_of
from isthmus.errors import Forbidden, InvalidOption
from isthmus.firewall import TRANSLATING, Mode, Policy, Subject
from isthmus.model import HOST, Endpoint, Host, IPAddress, Network, Pairs, Peer
from isthmus.naming import Owner
from isthmus.options import (
    FOLLOW,
    MIN_IPV6_MTU,
    MTU,
    PREFIX,
    PUBLISH,
    Callers,
    Options,
    Probe,
    check_interface,
    check_mtu,
)
from isthmus.resources import Address, Bridge, Port, Resource, Sysctl, Veth, setting_of

addressed = True
many_subnets = False
singular = False

_BRIDGE = "com.docker.network.bridge"
_OURS = frozenset({"isthmus.antispoof", "isthmus.bridged", EGRESS, "isthmus.probe", "isthmus.uplink", PUBLISH})

changeable = frozenset(
    {
        f"{_BRIDGE}.gateway_mode_ipv4",
        f"{_BRIDGE}.gateway_mode_ipv6",
        f"{_BRIDGE}.enable_ip_masquerade",
        f"{_BRIDGE}.enable_icc",
        f"{_BRIDGE}.trusted_host_interfaces",
        f"{_BRIDGE}.host_binding_ipv4",
        PREFIX,
        "com.docker.network.host_ipv4",
        "com.docker.network.host_ipv6",
        EGRESS,
        MTU,
        PUBLISH,
        "isthmus.antispoof",
        "isthmus.probe",
    }
)


class Parsed(msgspec.Struct, frozen=True):
    """A bridge network's options, by what they mean. *device* is "" if the user named none."""

    device: str
    mode4: Mode
    mode6: Mode
    masquerade: bool
    icc: bool
    inhibit_ipv4: bool
    trusted: tuple[str, ...]
    source4: IPAddress | None
    source6: IPAddress | None
    mtu: int | None
    prefix: str
    bridged: bool
    uplink: str
    probe: Probe
    antispoof: bool
    callers: Callers | None
    egress: Egress | None
    binding: IPAddress | None


@lru_cache(maxsize=4096)
def parse(options: Pairs) -> Parsed:
    """What *options* mean.

    Raises:
        InvalidOption: one of them cannot be.
    """
    read = Options(dict(options))
    read.only("isthmus.", _OURS)
    trusted = tuple(name for name in read.text(f"{_BRIDGE}.trusted_host_interfaces").split(":") if name)
    for name in trusted:
        check_interface(f"{_BRIDGE}.trusted_host_interfaces", name)
    uplink = read.interface("isthmus.uplink")
    bridged = read.boolean("isthmus.bridged", default=bool(uplink))
    if uplink and not bridged:
        raise InvalidOption("isthmus.uplink", uplink, "an uplink goes with isthmus.bridged=true only")
    mode4, mode6 = (read.choice(f"{_BRIDGE}.gateway_mode_ipv{version}", Mode.NAT) for version in (4, 6))
    callers = read.callers()
    if callers and bridged:
        raise InvalidOption(PUBLISH, read.text(PUBLISH), "on a bridged network no ports of the host are published")
    if callers and Mode.UNPROTECTED in {mode4, mode6}:
        why = f"with the gateway mode {Mode.UNPROTECTED.value} all ports are open to all; choose {Mode.NAT.value}"
        raise InvalidOption(PUBLISH, read.text(PUBLISH), why)
    if callers == FOLLOW and Mode.ROUTED in {mode4, mode6}:
        why = f"with the gateway mode {Mode.ROUTED.value} the host is not called; choose {Mode.NAT.value}, or others"
        raise InvalidOption(PUBLISH, read.text(PUBLISH), why)
    egress = egress_of(read.text(EGRESS))
    if egress and bridged:
        why = "on a bridged network packets do not pass by the host's rules: say it where they do, at the LAN's router"
        raise InvalidOption(EGRESS, read.text(EGRESS), why)
    return Parsed(
        device=read.interface(f"{_BRIDGE}.name"),
        mode4=mode4,
        mode6=mode6,
        masquerade=read.boolean(f"{_BRIDGE}.enable_ip_masquerade", default=True),
        icc=read.boolean(f"{_BRIDGE}.enable_icc", default=True),
        inhibit_ipv4=read.boolean(f"{_BRIDGE}.inhibit_ipv4", default=False),
        trusted=trusted,
        source4=read.address("com.docker.network.host_ipv4", 4),
        source6=read.address("com.docker.network.host_ipv6", 6),
        mtu=read.mtu(),
        prefix=read.interface(PREFIX, "eth"),
        bridged=bridged,
        uplink=uplink,
        probe=read.choice("isthmus.probe", Probe.FAST),
        antispoof=read.boolean("isthmus.antispoof", default=False),
        callers=callers,
        egress=egress,
        binding=read.address(f"{_BRIDGE}.host_binding_ipv4", 4),
    )


def check(network: Network, host: Host, others: Iterable[Network]) -> None:
    """Refuse options that cannot be, a device that another network has, and an uplink that would cut the host off."""
    options = parse(network.options)
    for family, mode in (("4", options.mode4), ("6", options.mode6)):
        if mode is Mode.ISOLATED and not network.internal:
            key = f"{_BRIDGE}.gateway_mode_ipv{family}"
            raise InvalidOption(key, mode.value, "gateway mode isolated is for networks made with --internal")
    if options.egress and options.egress.named and network.predefined:
        why = "names are told on networks of users' own only: give addresses, or make a network"
        raise InvalidOption(EGRESS, dict(network.options)[EGRESS], why)
    device = _device(network)
    check_mtu(options.mtu, ipv6=network.ipv6)
    for other in others:
        if other.id == network.id or other.driver != network.driver:
            continue
        if _device(other) == device:
            raise Forbidden(
                f"cannot create network {network.id} ({device}): conflicts with network {other.id} ({_device(other)}): "
                "networks have same bridge name"
            )
        if options.uplink and parse(other.options).uplink == options.uplink:
            raise Forbidden(f"cannot create network {network.id}: network {other.name} has the uplink {options.uplink}")
    existing = host.link(device)
    if existing and existing.kind != "bridge":
        raise InvalidOption(
            f"{_BRIDGE}.name", device, f"a link of that name exists, and is no bridge but {existing.kind}"
        )
    if options.uplink and existing:
        raise InvalidOption(
            "isthmus.uplink", options.uplink, f"the bridge {device} is yours: put the uplink on it yourself"
        )
    if options.uplink:
        _check_uplink(options.uplink, host)


def _check_uplink(uplink: str, host: Host) -> None:
    link = host.link(uplink)
    if link is None:
        raise InvalidOption("isthmus.uplink", uplink, "the host has no such link, or it is one of ours")
    held = ", ".join(str(address) for address in link.addresses if not address.is_link_local)
    if held:
        raise InvalidOption(
            "isthmus.uplink",
            uplink,
            f"it has {held}, which a port of a bridge cannot use; take a NIC without an address, or put both on a "
            f"bridge of your own and name that with {_BRIDGE}.name",
        )


def completed(network: Network, others: Iterable[Network]) -> Network:
    """As it is: nothing is left to us."""
    return network


def traits(network: Network) -> Traits:
    """The host is the gateway, and behind it there is nobody but ours; or it is not, on a LAN that has its own."""
    options = parse(network.options)
    if not options.bridged:
        modes = ((4, options.mode4), (6, options.mode6))
        return Traits(
            prefix=options.prefix,
            gateway=True,
            guarded=options.antispoof,
            publishing=() if network.internal else modes,
            # As in Docker, all of IPv4 stands for all there is.
            binding=None if options.binding and options.binding.is_unspecified else options.binding,
            callers=options.callers,
            entrance=_device(network),
            polices=True,
            egress=options.egress,
            shapeable=True,
        )
    return Traits(
        prefix=options.prefix,
        segment=_device(network),
        wired=True,
        switched=True,
        nic=options.uplink,
        probe=options.probe,
        guarded=options.antispoof,
        shapeable=True,
    )


def waits_for(network: Network, host: Host) -> str:
    """Nothing: an uplink is wished for, but sandboxes reach each other without it."""
    return ""


def reach(network: Network, endpoints: Iterable[Endpoint]) -> Iterator[Resource]:
    """Nothing: the host reaches all endpoints over the bridge's subnets."""
    yield from ()


def mtu(network: Network, host: Host) -> int:
    """What its option says; else that of the way out: the uplink, the user's own bridge, or the host's default route.

    Where that is less than IPv6 needs, a network with IPv6 has what it needs; its packets are fragmented on the way.
    """
    options = parse(network.options)
    if options.mtu:
        return options.mtu
    below = host.link(options.uplink) or host.link(_device(network))
    path = below.mtu if below else host.mtu
    return max(path, MIN_IPV6_MTU) if network.ipv6 else path


def network(network: Network, host: Host) -> Iterator[Resource]:
    """The bridge with the gateways' addresses, its uplink, and its rules."""
    options = parse(network.options)
    device, mine = _device(network), Owner(network.id)
    if host.link(device) is None:
        yield Bridge(HOST, device, mine, mtu=mtu(network, host), ipv6=network.ipv6)
        if not options.bridged:
            for subnet in network.subnets:
                mode = options.mode4 if subnet.version == 4 else options.mode6
                hidden = mode is Mode.ISOLATED or (subnet.version == 4 and options.inhibit_ipv4)
                if subnet.gateway and not hidden:
                    yield Address(HOST, device, ip_interface(f"{subnet.gateway}/{subnet.cidr.prefixlen}"), mine)
            if network.ipv4 and options.mode4 in TRANSLATING and not network.internal:
                # So that 127.0.0.1 can lead to a published port; `firewall` keeps others from using it.
                yield Sysctl(HOST, setting_of(device, 4, "route_localnet"), "1")
        if options.uplink:
            yield Port(HOST, options.uplink, device, mine)
    if not options.bridged:
        yield from firewall.elements(
            Policy(
                bridge=device,
                mode4=options.mode4 if network.ipv4 else None,
                mode6=options.mode6 if network.ipv6 else None,
                internal=network.internal,
                icc=options.icc,
                masquerade=options.masquerade,
                source4=options.source4,
                source6=options.source6,
                trusted=options.trusted,
                callers=options.callers,
                detoured=host.frames_filtered is True,
            )
        )
        if options.egress:
            yield from firewall.held(Subject(device, None, (options.egress,)))
    else:
        yield from firewall.switch(device, detoured=host.frames_filtered is True)


def peers(network: Network, known: Iterable[Peer]) -> Iterator[Resource]:
    """Nothing: nobody is elsewhere."""
    yield from ()


def endpoint(network: Network, endpoint: Endpoint, netns: str, host: Host) -> Iterator[Resource]:
    """A pair of veths with the limits of what passes it, and the addresses of the end inside.

    The kernel announces these when the link goes up, if somebody may know another MAC for them. Elsewhere that is
    spared: a broadcast goes to each port of the bridge.
    """
    options = parse(network.options)
    mine = Owner(network.id, endpoint.id)
    strange = not endpoint.addresses or endpoint.mac != naming.mac(network.id, endpoint.addresses[0].ip)
    # Somebody may know another MAC for its address: on a LAN, and where the user demanded one.
    outside = strange or options.bridged
    yield Veth(
        HOST,
        naming.veth(endpoint.id),
        netns,
        endpoint.ifname,
        mine,
        mac=endpoint.mac,
        master=_device(network),
        mtu=options.mtu or endpoint.mtu or mtu(network, host),
        isolated=not options.icc,
        ipv6=network.ipv6,
        announce=True if network.ipv4 and outside else None,
    )
    if endpoint.options:
        yield from limits(endpoint, HOST)
    # The same goes for a second address that shares the MAC of the first.
    if network.ipv6 and (outside or network.ipv4):
        yield Sysctl(netns, setting_of(endpoint.ifname, 6, "ndisc_notify"), "1")
    for interface in (*endpoint.addresses, *map(ip_interface, endpoint.link_local)):
        yield Address(netns, endpoint.ifname, interface, mine)


def routers(network: Network, endpoint: Endpoint) -> Mapping[int, IPAddress | None]:
    """The gateways, unless nothing may leave; on a LAN, the router that the user named.

    An auxiliary address of the name that Docker gives to `default-gateway` comes first.
    """
    if network.internal:
        return {}
    named = ((subnet, dict(subnet.aux).get(f"DefaultGatewayIPv{subnet.version}")) for subnet in network.subnets)
    return {subnet.version: router for subnet, aux in named if (router := aux or subnet.gateway)}


def _device(network: Network) -> str:
    return parse(network.options).device or naming.bridge(network.id)
