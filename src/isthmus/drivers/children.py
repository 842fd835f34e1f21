"""macvlan and ipvlan: endpoints that stand on the wire of one of the host's links, their *parent*, beside the host.

A macvlan child has a MAC of its own: to the LAN it is one more machine. An ipvlan child has its parent's MAC and is
told apart by its address. Either way the LAN's router is theirs, and nothing of ours lies in between.

The parent is a link of the host's, which we use and never change; or `eth0.50`, which is made as a VLAN of eth0 where
the host has none of that name, and which goes with the last network on it; or, where the user named none, one end of a
pair of veths whose other end leads nowhere: then the network is one of its endpoints alone. (Docker takes a dummy for
that, of which not every kernel has the module.)

The kernel keeps a parent and its children apart, so the host cannot reach them. Asked for it, we give the host a child
of its own, the *shim*, with an address (the auxiliary one that is named `host`) and routes to the endpoints, which are
longer than the LAN's and so win.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_interface

import msgspec

from isthmus import naming
from isthmus.addresses import HOST_ADDRESS, Subnet
from isthmus.drivers.traits import Traits
from isthmus.errors import Forbidden, InvalidOption, InvalidRequest
from isthmus.model import HOST, Endpoint, Host, IPAddress, Network, Pairs, Peer
from isthmus.naming import Owner
from isthmus.options import MTU, PREFIX, Options, Probe, check_mtu
from isthmus.resources import Address, Child, IPNetwork, Resource, Route, Sysctl, Veth, Vlan, setting_of

HOST_ACCESS = "isthmus.host_access"

_OURS = frozenset({"isthmus.exclusive_parent", HOST_ACCESS, "isthmus.probe"})
_VLANS = range(1, 4095)


class Parsed(msgspec.Struct, frozen=True):
    """A network's options, by what they mean. *parent* is "" if the user named none.

    *switched* tells whether the kernel carries frames between the children of one parent. Without *host_access* the
    host has its shim if an auxiliary address asks for it.
    """

    parent: str
    mode: str
    flag: str
    switched: bool
    mtu: int | None
    prefix: str
    exclusive: bool
    host_access: bool | None
    probe: Probe


class Children(msgspec.Struct, frozen=True):
    """The driver of one *kind* of child: its *modes* and *flags*, of which the first is the default."""

    name: str
    modes: tuple[str, ...]
    flags: tuple[str, ...] = ("",)
    routed: frozenset[str] = frozenset()
    """The modes in which the parent routes for its children, and no neighbour is asked for."""
    addressed: bool = True
    many_subnets: bool = True
    singular: bool = False
    changeable: frozenset[str] = frozenset({MTU, PREFIX, HOST_ACCESS, "isthmus.exclusive_parent", "isthmus.probe"})

    def check(self, network: Network, host: Host, others: Iterable[Network]) -> None:
        """Refuse options that cannot be, a parent that is not there, and one that another network has for itself."""
        options = self._options(network)
        if options.parent == "lo":
            raise InvalidOption("parent", "lo", f"loopback interface is not a valid {self.name} parent link")
        check_mtu(options.mtu, ipv6=network.ipv6)
        if _shimmed(network, options) and not options.switched:
            raise InvalidOption(
                HOST_ACCESS,
                "true",
                f"in {self.name} mode {options.flag or options.mode} the kernel carries nothing between the children "
                "of one parent, and to reach the others the host would be one; use bridge, or set it to false",
            )
        missing = self.waits_for(network, host)
        if missing == options.parent != "":
            hint = "the host has no such link, or it is one of ours; a name such as eth0.50 makes a VLAN of eth0"
            raise InvalidOption("parent", options.parent, hint)
        if missing:
            hint = f"to make this VLAN, the host has to have a link {missing} that is up"
            raise InvalidOption("parent", options.parent, hint)
        link = host.link(options.parent)
        if link and link.kind in _DRIVERS:
            hint = f"it is a {link.kind} itself: name the link that it stands on"
            raise InvalidOption("parent", options.parent, hint)
        for other in others:
            if other.id != network.id and other.driver in _DRIVERS:
                self._check_beside(network, options, other)

    def _check_beside(self, network: Network, options: Parsed, other: Network) -> None:
        """Refuse a parent that *other* has for itself, or that cannot serve both."""
        theirs = parse(other.driver, other.options)
        if not options.parent or options.parent != theirs.parent:
            return
        if other.driver != self.name:
            raise Forbidden(
                f"network {other.name} is already using parent interface {options.parent} for {other.driver}, and the "
                "kernel lets a link have children of one kind"
            )
        if theirs.mode == "passthru":
            raise Forbidden(
                f"{self.name} network {other.id} is already using parent interface {options.parent} in mode passthru"
            )
        if options.mode == "passthru":
            raise Forbidden(
                f"cannot use mode passthru, {self.name} network {other.id} is already using parent interface "
                f"{options.parent}"
            )
        shared = self.name == "macvlan" or (options.mode, options.flag) == (theirs.mode, theirs.flag)
        if options.exclusive or theirs.exclusive or not shared:
            raise Forbidden(f"network {other.name} is already using parent interface {options.parent}")

    def completed(self, network: Network, others: Iterable[Network]) -> Network:
        """As it is: nothing is left to us."""
        return network

    def traits(self, network: Network) -> Traits:
        """The LAN has its own router, or none (as in Docker since 29); we are not it."""
        options = self._options(network)
        wired = bool(options.parent) and options.mode not in self.routed
        return Traits(
            prefix=options.prefix,
            macs=self._has_macs(options),
            host_address=options.host_access is True,
            segment=self._parent(network),
            wired=wired,
            nic=options.parent,
            probe=options.probe if wired else Probe.OFF,
        )

    def waits_for(self, network: Network, host: Host) -> str:
        """The parent, or the one below the VLAN that has to be made."""
        parent = self._options(network).parent
        if not parent or host.link(parent):
            return ""
        vlan = _vlan(parent)
        below = host.link(vlan[0]) if vlan else None
        if vlan is None:
            return parent
        # A VLAN on a link that is down cannot be set up.
        return "" if below and below.up else vlan[0]

    def mtu(self, network: Network, host: Host) -> int | None:
        """What its option says; else a child is born with that of its parent, and never keeps a greater one."""
        return self._options(network).mtu

    def network(self, network: Network, host: Host) -> Iterator[Resource]:
        """The parent, if that is ours to make."""
        options = self._options(network)
        if not options.parent:
            parent, blind = naming.dummy(network.id)
            yield Veth(HOST, parent, HOST, blind, Owner(network.id), mtu=options.mtu, ipv6=False)
        elif host.link(options.parent) is None and (vlan := _vlan(options.parent)):
            yield Vlan(HOST, options.parent, *vlan, Owner(naming.PARENT, options.parent))

    def reach(self, network: Network, endpoints: Iterable[Endpoint]) -> Iterator[Resource]:
        """The shim with its addresses, and routes by it: to the ranges, and to those addresses that lie in none."""
        options, mine, shim = self._options(network), Owner(network.id), naming.shim(network.id)
        shimmed = _shimmed(network, options)
        if not shimmed:
            return
        yield Child(
            HOST,
            shim,
            self._parent(network),
            self.name,
            options.mode,
            mine,
            options.flag,
            mac=naming.mac(network.id, HOST_ADDRESS) if self._has_macs(options) else None,
            mtu=options.mtu,
            ipv6=any(subnet.version == 6 for subnet in shimmed),
        )
        addresses = [interface.ip for endpoint in endpoints for interface in endpoint.addresses]
        for subnet, address in shimmed.items():
            yield Address(HOST, shim, ip_interface(address), mine)
            for prefix in _prefixes(subnet, addresses):
                yield Route(HOST, prefix, shim, mine)

    def peers(self, network: Network, known: Iterable[Peer]) -> Iterator[Resource]:
        """Nothing: nobody is elsewhere."""
        yield from ()

    def endpoint(self, network: Network, endpoint: Endpoint, netns: str, host: Host) -> Iterator[Resource]:
        """A child of the parent, born inside, with its addresses; it announces them when it goes up."""
        options, mine = self._options(network), Owner(network.id, endpoint.id)
        asked_for = options.mode not in self.routed
        yield Child(
            netns,
            endpoint.ifname,
            self._parent(network),
            self.name,
            options.mode,
            mine,
            options.flag,
            mac=endpoint.mac or None,
            mtu=options.mtu or endpoint.mtu,
            ipv6=network.ipv6,
            announce=True if network.ipv4 and asked_for else None,
        )
        if network.ipv6 and asked_for:
            yield Sysctl(netns, setting_of(endpoint.ifname, 6, "ndisc_notify"), "1")
        for interface in (*endpoint.addresses, *map(ip_interface, endpoint.link_local)):
            yield Address(netns, endpoint.ifname, interface, mine)

    def routers(self, network: Network, endpoint: Endpoint) -> Mapping[int, IPAddress | None]:
        """The gateway of the subnet that each of its addresses is of; where the parent routes, the link itself."""
        options = self._options(network)
        if network.internal or not options.parent:
            return {}
        if options.mode in self.routed:
            return dict.fromkeys(address.version for address in endpoint.addresses)
        return {
            subnet.version: subnet.gateway
            for address in endpoint.addresses
            for subnet in network.subnets
            if subnet.gateway and address.ip in subnet.cidr
        }

    def _has_macs(self, options: Parsed) -> bool:
        """Whether each endpoint has a MAC of its own; in passthru it has that of its parent."""
        return self.name == "macvlan" and options.mode != "passthru"

    def _parent(self, network: Network) -> str:
        return self._options(network).parent or naming.dummy(network.id)[0]

    def _options(self, network: Network) -> Parsed:
        return parse(self.name, network.options)


MACVLAN = Children("macvlan", ("bridge", "private", "vepa", "passthru"))
IPVLAN = Children("ipvlan", ("l2", "l3", "l3s"), ("bridge", "private", "vepa"), routed=frozenset({"l3", "l3s"}))

_DRIVERS = {driver.name: driver for driver in (MACVLAN, IPVLAN)}


@lru_cache(maxsize=4096)
def parse(kind: str, options: Pairs) -> Parsed:
    """What *options* mean to the driver of this *kind* of child.

    Raises:
        InvalidRequest: a mode or flag is none, in Docker's words.
        InvalidOption: another option cannot be.
    """
    driver, read = _DRIVERS[kind], Options(dict(options))
    read.only("isthmus.", _OURS)
    mode = _word(driver, "mode", read.text(f"{kind}_mode"), driver.modes)
    flag = _word(driver, "flag", read.text(f"{kind}_flag"), driver.flags)
    return Parsed(
        parent=read.interface("parent"),
        mode=mode,
        flag="" if flag == driver.flags[0] else flag,
        switched="bridge" in {mode, flag},
        mtu=read.mtu(),
        prefix=read.interface(PREFIX, "eth"),
        exclusive=read.boolean("isthmus.exclusive_parent", default=False),
        host_access=read.boolean(HOST_ACCESS, default=False) if read.text(HOST_ACCESS) else None,
        probe=read.choice("isthmus.probe", Probe.FAST),
    )


def _word(driver: Children, kind: str, value: str, known: tuple[str, ...]) -> str:
    """One of the words *known* for a mode or flag; the first if none is given."""
    if not value or value in known:
        return value or known[0]
    default = f"'{known[0]}' {kind} is the {driver.name} driver default"
    raise InvalidRequest(f"requested {driver.name} {kind} '{value}' is not valid, {default}")


def _vlan(name: str) -> tuple[str, int] | None:
    """The link and the 802.1Q number that make a VLAN of this *name*; None if it is not of that form."""
    link, _, number = name.rpartition(".")
    if not link or not (number.isascii() and number.isdigit()) or int(number) not in _VLANS:
        return None
    return link, int(number)


def _shimmed(network: Network, options: Parsed) -> dict[Subnet, IPAddress]:
    """The subnets in which the host has an address of its own, with that."""
    if options.host_access is False:
        return {}
    return {subnet: address for subnet in network.subnets if (address := dict(subnet.aux).get(HOST_ADDRESS))}


def _prefixes(subnet: Subnet, addresses: Iterable[IPAddress]) -> Iterator[IPNetwork]:
    """The range of *subnet*, and the fewest prefixes that cover just those of its *addresses* that are outside it."""
    if subnet.ip_range:
        yield subnet.ip_range
    lone = [one for one in addresses if one in subnet.cidr and not (subnet.ip_range and one in subnet.ip_range)]
    yield from collapse_addresses(IPv4Network(one) for one in lone if isinstance(one, IPv4Address))
    yield from collapse_addresses(IPv6Network(one) for one in lone if isinstance(one, IPv6Address))
