"""What a request means: it is held against the state, and becomes new records or a refusal.

Nothing here touches a store or a kernel. What chance and time add (IDs, MACs, dates) comes from the two functions that
the decisions are made with. Where Docker has words for a refusal, they are Docker's (moby 29, `daemon/network.go`,
`daemon/container_operations.go`, `runconfig/`).
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address, ip_network
from itertools import islice
from operator import itemgetter

import msgspec
from msgspec.structs import replace

from isthmus.addresses import (
    HOST_ADDRESS,
    AddressPool,
    AnySubnet,
    IPNetwork,
    NoFreeAddress,
    Subnet,
    SubnetRequest,
    check_reserved,
    choose_subnet,
    complete,
    covered,
    default_gateway,
    overlaps,
    parse_ipam,
    random_mac,
    with_host_address,
)
from isthmus.drivers import BUILTIN, Driver
from isthmus.drivers.overlay import LEASE as LEASE_OPTION
from isthmus.drivers.traits import Traits
from isthmus.egress import EGRESS, egress_of
from isthmus.errors import (
    AddressElsewhere,
    AddressInUse,
    AlreadyConnected,
    Forbidden,
    InvalidOption,
    InvalidRequest,
    NameTaken,
    NotFound,
    PoolExhausted,
    PoolOverlap,
    PortTaken,
    Predefined,
)
from isthmus.firewall import Mode
from isthmus.model import (
    HOST,
    Binding,
    DhcpLease,
    Endpoint,
    HandLink,
    Host,
    IPAddress,
    IPInterface,
    Lease,
    Network,
    Pairs,
    Peer,
    Place,
    Record,
    Sandbox,
    pairs,
)
from isthmus.naming import GATEWAY_BRIDGE, GATEWAY_NETWORK, dns_names, veth
from isthmus.naming import mac as mac_of
from isthmus.options import PUBLISH, RECORD, Options, Probe, check_interface
from isthmus.ports import Wish, clash, versions
from isthmus.questions import ASSUMING, AnyBlock, Evidence, Inquiry, Question, Reserve, Unanswered, WhichLease, WhoHas
from isthmus.rates import RATE, Rates
from isthmus.rates import parse as parse_rates
from isthmus.render import SYSCTLS, gateway_endpoint, routers_of
from isthmus.requests import EndpointRequest, LinkRequest, NetworkRequest, NetworkUpdate, SandboxRequest
from isthmus.rules import Rules
from isthmus.state import State

PREDEFINED = frozenset({"bridge", "host", "none", "default"})
"""Names that no user's network can have; `default` is another word for the network that sandboxes join unasked."""

SERIAL = "com.docker.network.ipam.serial"
"""The IPAM option by which addresses are given out one after the other, rather than always the lowest that is free."""

DHCP = "dhcp"
"""The IPAM driver by which a server on the LAN gives out the addresses."""

IPV6 = "isthmus.ipv6"
"""The IPAM option that says how IPv6 addresses come where a server gives out those of IPv4."""

CLAIM = 20 * 10**9
"""For how long, in nanoseconds, an address is held for who asks the wire about it: longer than any asking takes."""

LINK_MODES = ("bridge", "private", "vepa")
"""The modes of a macvlan that is put into a sandbox by hand: passthru would take the parent over, MAC and all."""

LEASE = "isthmus.lease"
"""The IPAM option that says for how long an address is kept for a sandbox that left."""

CHANGEABLE = frozenset({EGRESS, RATE})
"""The options of ours that an endpoint may have, which can be others while it stands."""

IFNAME = "com.docker.network.endpoint.ifname"

_BY_ALIAS = {"default": "bridge"}

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_MAC = re.compile(r"([0-9a-fA-F]{2})([:-])([0-9a-fA-F]{2})(\2[0-9a-fA-F]{2}){4}")
_SYSCTL = re.compile(r"net\.(ipv4|ipv6|mpls)\.[a-z]+\.(ifname|IFNAME)\.[a-z0-9_]+")
_SANDBOX_SYSCTL = re.compile(r"net(\.[A-Za-z0-9_/-]+)+")

_WITH_CONTAINER = {
    "hostname": "hostname and the network mode",
    "links": "container type network can't be used with links. This would result in undefined behavior",
    "dns": "dns and the network mode",
    "extra-hosts": "custom host-to-IP mapping and the network mode",
    "mac-address": "mac-address and the network mode",
    "ports": "port publishing and the container type network mode",
    "exposed-ports": "port exposing and the container type network mode",
}
_WITH_HOST = {
    "links": "host type networking can't be used with links. This would result in undefined behavior",
}

_ALONE = "container cannot be connected to multiple networks with one of the networks in private (none) mode"


class Ipv6(Enum):
    """How IPv6 addresses come where a server gives out those of IPv4: from routers' announcements, or likewise."""

    SLAAC = "slaac"
    DHCPV6 = "dhcpv6"


class _Ipam(msgspec.Struct, frozen=True):
    """A network's IPAM options that say how addresses of ours are given out; *lease* in nanoseconds."""

    serial: bool
    lease: int


class Decisions:
    """What requests mean in a *state*, under the *rules* of the daemon's configuration."""

    def __init__(self, state: State, rules: Rules, *, clock: Callable[[], int], random: Callable[[int], bytes]) -> None:
        self._state = state
        self._rules = rules
        self._clock = clock
        self._random = random
        self._claims: dict[tuple[str, IPAddress], int] = {}

    def network(self, request: NetworkRequest, host: Host, evidence: Evidence | None = None) -> Network:
        """The network that *request* asks for on this *host*.

        Raises:
            Unanswered: there is *evidence*, and it does not suffice.
        """
        inquiry = Inquiry(evidence)
        if isinstance(granted := inquiry.granted("", request.name), Network):
            return granted
        if request.name in PREDEFINED:
            raise Predefined.creating(request.name)
        if not request.name.strip():
            raise InvalidRequest("invalid name: name is empty")
        if self._state.network_named(request.name):
            raise NameTaken(f"network with name {request.name} already exists")
        if request.config_from:
            request = self._configured(request)
        driver = _driver(request.driver)
        if request.ingress or request.scope in {"swarm", "global"}:
            raise Forbidden(
                'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node '
                "to swarm and try again."
            )
        if request.ipam_driver not in {"default", "null", DHCP, ""}:
            raise NotFound(f'could not find plugin "{request.ipam_driver}" among the IPAM drivers: plugin not found')
        network = self._wanted(request)
        self._ipam(network)
        _ipv6(network)
        if network.config_only:
            parsed = parse_ipam(request.subnets, ipv4=True, ipv6=True)
            return replace(network, subnets=tuple(one for one in parsed if isinstance(one, Subnet)))
        if driver.addressed:
            network = replace(network, subnets=self._subnets(network, request.subnets, driver, host))
        network = driver.completed(network, self._networks_made())
        driver.check(network, host, self._networks_made())
        if network.scope == "global":
            inquiry.reserve(Reserve(network))
            self._settle(inquiry)
        return network

    def _wanted(self, request: NetworkRequest) -> Network:
        """The network of *request* as it is before it is held against others."""
        options = dict(self._rules.driver_options.get(request.driver, ())) | dict(request.options)
        network = Network(
            id=self._id(),
            name=request.name,
            driver=request.driver,
            created=self._clock(),
            options=pairs(options),
            ipv4=_family(request.ipv4, options, "com.docker.network.enable_ipv4", default=True),
            ipv6=_family(request.ipv6, options, "com.docker.network.enable_ipv6", default=False),
            internal=request.internal,
            attachable=request.attachable,
            labels=request.labels,
            ipam_driver=request.ipam_driver or "default",
            ipam_options=request.ipam_options,
            config_only=request.config_only,
            config_from=request.config_from,
        )
        if not (network.ipv4 or network.ipv6):
            raise InvalidRequest("IPv4 or IPv6 must be enabled")
        if self._rules.shared and not network.config_only and _driver(network.driver).traits(network).spanning:
            return replace(network, scope="global")
        return network

    def update(self, network: Network, request: NetworkUpdate, host: Host) -> Network:
        """*network* as *request* wants it to be from now on, for all who stand on it."""
        if network.predefined:
            raise Forbidden(
                f"{network.name} is a pre-defined network and cannot be updated: the daemon's configuration says what "
                "it is like"
            )
        if network.scope == "global" and not self._rules.shared:
            raise Forbidden(
                f"{network.name} is shared by several hosts, which hear of a change by the cluster store: start the "
                "daemon with --cluster-store"
            )
        driver = _driver(network.driver)
        options = _merged(network.options, request.options, request.gone_options)
        for key in sorted({key for key, _ in {*options} ^ {*network.options}} - driver.changeable):
            if key.startswith(RECORD):
                continue
            known = ", ".join(sorted(driver.changeable)) or "none"
            hint = f"of a {network.driver} network that exists, these options can be changed: {known}"
            raise InvalidOption(key, dict(options).get(key, ""), hint)
        if request.ranges and LEASE_OPTION in dict(network.options):
            raise Forbidden(f"hosts have blocks of the addresses of {network.name}, so its ranges stay as they are")
        after = replace(
            network,
            labels=_merged(network.labels, request.labels, request.gone_labels),
            options=options,
            subnets=self._resubnetted(network, request, host),
        )
        if network.config_only:
            return after
        if after.subnets != network.subnets:
            self._check_apart(after)
        if (after.options, after.subnets) != (network.options, network.subnets):
            driver.check(after, host, self._networks_made())
        return after

    def _resubnetted(self, network: Network, request: NetworkUpdate, host: Host) -> tuple[Subnet, ...]:
        """The subnets of *network* with those, the ranges and the auxiliary addresses that *request* wants."""
        wanted = [*map(_written, network.subnets), *request.subnets]

        def home(text: str, what: str) -> int:
            with suppress(ValueError):
                first = ip_network(text, strict=False)
                for number, subnet in enumerate(wanted):
                    cidr = ip_network(subnet.subnet, strict=False)
                    if first.version == cidr.version and first.overlaps(cidr):
                        return number
            raise InvalidRequest(f"invalid {what} {text}: no subnet of {network.name} contains it")

        named = {name for subnet in network.subnets for name, _ in subnet.aux}
        if unknown := set(request.gone_aux) - named:
            raise NotFound(f"network {network.name} has no auxiliary address {', '.join(sorted(unknown))}")
        moved = {*request.gone_aux, *dict(request.aux)}
        wanted = [replace(one, aux=tuple(pair for pair in one.aux if pair[0] not in moved)) for one in wanted]
        for text in request.ranges:
            number = home(text, "ip-range")
            wanted[number] = replace(wanted[number], ip_range=text)
        for name, text in request.aux:
            number = home(text, f"auxiliary address {name}")
            wanted[number] = replace(wanted[number], aux=(*wanted[number].aux, (name, text)))
        count = len(network.subnets)
        parsed = parse_ipam(wanted[:count], ipv4=True, ipv6=True)
        kept = tuple(one for one in parsed if isinstance(one, Subnet))
        if not request.subnets:
            return kept
        if network.config_only or network.ipam_driver in {"null", DHCP}:
            raise Forbidden(f"network {network.name} has no addresses of ours, so a subnet cannot be added to it")
        more = parse_ipam(wanted[count:], ipv4=True, ipv6=True)
        for version, on in ((4, network.ipv4), (6, network.ipv6)):
            if not on and any(one.version == version for one in more):
                raise Forbidden(f"network {network.name} has no IPv{version}: make a network that has")
        return self._subnets(replace(network, subnets=kept), wanted[count:], _driver(network.driver), host)

    def _check_apart(self, network: Network) -> None:
        """Refuse what *network*, which there is already, must not have beside those in its segment."""
        beside = self._state.beside(network)
        others = [subnet for other in beside for subnet in other.subnets]
        standing = [one for other in (network, *beside) for one in self._state.on_network(other.id)]
        used = [address.ip for endpoint in standing for address in endpoint.addresses]
        used += [address.ip for peer in self._state.peers_on(network.id) for address in peer.addresses]
        for subnet in network.subnets:
            if _driver(network.driver).traits(network).segment and overlaps(subnet, others):
                raise PoolOverlap
            check_reserved(subnet, others, used)

    def _configured(self, request: NetworkRequest) -> NetworkRequest:
        """*request* with the settings of the configuration-only network that it names."""
        base = self._state.network(request.config_from)
        if not base.config_only:
            raise Forbidden(f"network {base.name} is not a configuration network (it was not made with --config-only)")
        given = {"subnets": request.subnets, "options": request.options, "IPAM options": request.ipam_options}
        own = [word for word, values in given.items() if values]
        if own:
            raise Forbidden(f"{' and '.join(own)} come from the configuration network {base.name}; give them there")
        return replace(
            request,
            config_from=base.name,
            subnets=tuple(map(_written, base.subnets)),
            options=base.options,
            ipv4=base.ipv4,
            ipv6=base.ipv6,
            internal=base.internal or request.internal,
            ipam_driver=base.ipam_driver,
            ipam_options=base.ipam_options,
        )

    def _subnets(
        self, network: Network, requests: Iterable[SubnetRequest], driver: Driver, host: Host
    ) -> tuple[Subnet, ...]:
        """The subnets of a network: those it has, those asked for, and for a family without one a free one.

        What was asked for is held against the network's segment only. What we choose keeps clear of all that we know,
        since the same subnet twice confuses people even where it does no harm.
        """
        asked = parse_ipam(requests, ipv4=network.ipv4, ipv6=network.ipv6)
        traits = driver.traits(network)
        if network.ipam_driver == DHCP:
            _check_dhcp(traits, asked)
        if network.ipam_driver in {"null", DHCP}:
            return ()
        had = network.subnets
        routed = not traits.segment
        beside = self._routed() if routed else self._state.beside(network)
        others = [*had, *(subnet for other in beside if other.id != network.id for subnet in other.subnets)]
        neighbours = () if routed else [one for other in beside for one in self._state.on_network(other.id)]
        used = [address.ip for endpoint in neighbours for address in endpoint.addresses]
        taken = [ip_network(route) for route in host.routes] + list(self._rules.denied)
        taken += [one.cidr for other in self._networks_made() if other.id != network.id for one in other.subnets]
        taken += [one.cidr for one in had]
        chosen = list(had)
        for wish in complete(asked, ipv4=network.ipv4, ipv6=network.ipv6)[: None if not had else len(asked)]:
            if isinstance(wish, AnySubnet):
                subnet = Subnet(choose_subnet(wish, self._rules.pools, taken))
            # A router has one route to a subnet, so what it routes has to be apart whatever the ranges are.
            elif overlaps(Subnet(wish.cidr) if routed else wish, others):
                raise PoolOverlap
            else:
                subnet = wish
            if any(one.version == subnet.version for one in chosen) and not driver.many_subnets:
                raise Forbidden(f"{network.driver} driver doesn't support multiple subnets")
            reserved = [address for other in others for address in other.reserved]
            if subnet.gateway is None and traits.gateway:
                subnet = replace(subnet, gateway=default_gateway(subnet, (*used, *reserved)))
            if traits.host_address and HOST_ADDRESS not in dict(subnet.aux):
                subnet = with_host_address(subnet, (*used, *reserved))
            check_reserved(subnet, others, used)
            taken.append(subnet.cidr)
            others.append(subnet)
            chosen.append(subnet)
        return tuple(sorted(chosen, key=lambda one: one.version))

    def _routed(self) -> tuple[Network, ...]:
        """The networks whose router is the host."""
        return tuple(one for one in self._networks_made() if not _driver(one.driver).traits(one).segment)

    def clashes(self, destination: IPNetwork) -> tuple[Network, ...]:
        """The networks of which the host routes a part elsewhere if it has this route, which is not ours.

        Only those are asked about whose router is the host: a LAN's own route leads to the networks on it.
        """
        return tuple(one for one in self._routed() if covered(destination, (subnet.cidr for subnet in one.subnets)))

    def endpoint(
        self, user: Sandbox, network: Network, request: EndpointRequest, evidence: Evidence | None = None
    ) -> Endpoint:
        """The endpoint by which *user*, which stands already, joins *network*.

        Raises:
            Unanswered: there is *evidence*, and it does not suffice.
        """
        if network.config_only:
            raise Forbidden(f"network {network.name} is a configuration network: nothing can be connected to it")
        if network.predefined and network.name == GATEWAY_NETWORK:
            raise Forbidden(f"who needs a way out stands on {network.name} without being asked: choose another network")
        if network.driver == "host":
            raise InvalidRequest(
                "cannot connect container to host network - container must be created in host network mode"
            )
        if user.netns == HOST or user.mode.startswith("container:"):
            raise InvalidRequest(
                "container sharing network namespace with another container or host cannot be connected to any other "
                "network"
            )
        present = [self._state.networks[endpoint.network] for endpoint in self._state.of_sandbox(user.id)]
        if any(other.id == network.id for other in present):
            raise AlreadyConnected(user.name, network.name)
        if present and any(one.driver == "null" for one in (*present, network)):
            raise InvalidRequest(_ALONE)
        inquiry = Inquiry(evidence)
        endpoint = self._endpoint(user, network, request, inquiry)
        self._settle(inquiry)
        return endpoint

    def changed(self, endpoint: Endpoint, key: str, value: str) -> Endpoint:
        """*endpoint* with another *value* of the option *key*, one of `CHANGEABLE`.

        What is limited no more keeps its rate, as `off`: by that its area is known to be one where a limit may be.
        """
        options = dict(endpoint.options) | {key: value}
        if key == EGRESS and egress_of(value) is None:
            del options[EGRESS]
        user, network = self._state.sandboxes[endpoint.sandbox], self._state.networks[endpoint.network]
        _check_options(user, network, pairs(options))
        return replace(endpoint, options=pairs(options))

    def _settle(self, inquiry: Inquiry) -> None:
        """See that nothing is left to be asked.

        What is being asked for somebody is offered to nobody else for a while, or many who come at once would all ask
        for the same addresses.
        """
        questions = inquiry.close()
        if questions:
            now = self._clock()
            self._claims = {claim: until for claim, until in self._claims.items() if until > now}
            self._claims.update((claim, now + CLAIM) for claim in _claimed(questions))
            raise Unanswered(questions)
        for claim in inquiry.answered():
            self._claims.pop(claim, None)

    def withdraw(self, questions: Iterable[Question]) -> None:
        """Offer to others what was held for who had these *questions*."""
        for claim in _claimed(questions):
            self._claims.pop(claim, None)

    def _traits(self, network: str) -> Traits:
        record = self._state.networks[network]
        return _driver(record.driver).traits(record)

    def _endpoint(
        self,
        user: Sandbox,
        network: Network,
        request: EndpointRequest,
        inquiry: Inquiry,
        before: Iterable[Endpoint] = (),
    ) -> Endpoint:
        """The endpoint that a *request* asks for, when *before* are decided already and not yet recorded."""
        driver = _driver(network.driver)
        _check_sysctls(request.options)
        _check_options(user, network, request.options)
        demanded = _demanded(request)
        if network.predefined and demanded:
            raise InvalidRequest("user-specified IP address is supported on user-defined networks only")
        if network.predefined and request.aliases:
            raise InvalidRequest("network-scoped aliases are only supported for user-defined networks")
        # Where a resolver looks them up, who is linked may come later.
        for link in request.links if network.predefined else ():
            target, _, alias = link.partition(":")
            if not (alias or target).isprintable() or " " in alias:
                raise InvalidRequest(f"bad format for links: {link}")
            if self._state.sandbox_named(target) is None:
                raise InvalidRequest(f"could not get container for {target}: No such container: {target}")
        link_local = tuple(_address("link-local-ip", text) for text in request.link_local)
        ifname = mac = ""
        addresses: tuple[IPInterface, ...] = ()
        leases: tuple[DhcpLease, ...] = ()
        if driver.addressed:
            ifname = self._interface(user, driver.traits(network).prefix, dict(request.options).get(IFNAME, ""), before)
            mac, addresses, leases = self._place(user, network, request, before, inquiry)
        granted = inquiry.granted(network.id, user.name)
        endpoint = Endpoint(
            id=granted.id if isinstance(granted, Peer) else self._id(),
            network=network.id,
            sandbox=user.id,
            created=granted.created if isinstance(granted, Peer) else self._clock(),
            ifname=ifname,
            mac=mac,
            addresses=addresses,
            asked=tuple(demanded),
            link_local=link_local,
            aliases=request.aliases,
            links=request.links,
            options=request.options,
            gateway_priority=request.gateway_priority,
            leases=leases,
        )
        if network.scope == "global" and not self._is_ours(endpoint):
            inquiry.reserve(Reserve(offer(user, endpoint), driver.traits(network).segment))
        return endpoint

    def _is_ours(self, endpoint: Endpoint) -> bool:
        """Whether all addresses of *endpoint* are of blocks that this host has for itself."""
        blocks = [block.cidr for block in self._state.blocks(endpoint.network)]
        return all(any(address.ip in cidr for cidr in blocks) for address in endpoint.addresses)

    def _place(
        self,
        user: Sandbox,
        network: Network,
        request: EndpointRequest,
        before: Iterable[Endpoint],
        inquiry: Inquiry,
    ) -> tuple[str, tuple[IPInterface, ...], tuple[DhcpLease, ...]]:
        """The MAC that *user* has on *network*, its addresses, and the leases that they come from, if they do."""
        traits, demanded = self._traits(network.id), _demanded(request)
        mac = self._mac(user, network, request, traits)
        leases: tuple[DhcpLease, ...] = ()
        if network.ipam_driver == DHCP:
            leases = self._leased(user, network, demanded, mac, inquiry)
            addresses = tuple(lease.address for lease in leases)
        elif isinstance(granted := inquiry.granted(network.id, user.name), Peer):
            addresses = granted.addresses
        else:
            addresses = self._addresses(network, user.name, demanded, before, inquiry)
        if traits.macs and not mac:
            mac = mac_of(network.id, addresses[0].ip if addresses else self._id())
        if traits.probe is not Probe.OFF and not leases:
            for address in addresses:
                inquiry.ask(WhoHas(traits.segment, address.ip, mac, traits.probe))
        return mac, addresses, leases

    def _mac(self, user: Sandbox, network: Network, request: EndpointRequest, traits: Traits) -> str:
        """The MAC that *user* has on *network* whatever its address; "" if it follows from that, or there is none."""
        mac = _mac(request.mac)
        if mac and not traits.macs:
            raise InvalidOption("mac-address", mac, f"on {network.name}, an endpoint has the MAC of its parent")
        if mac or not traits.macs:
            return mac
        kept = self._state.lease(network.id, user.name)
        if kept and kept.mac:
            return kept.mac
        # Here the address follows from the MAC, by the server's records.
        return mac_of(network.id, user.name) if network.ipam_driver == DHCP else ""

    def _leased(
        self, user: Sandbox, network: Network, demanded: Iterable[IPAddress], mac: str, inquiry: Inquiry
    ) -> tuple[DhcpLease, ...]:
        """The lease that the server of *network* gives to *user*, if it gives one in time."""
        for address in demanded:
            raise InvalidOption("ip", address, f"on {network.name} the DHCP server gives the addresses: leave it out")
        if not network.ipv4:
            return ()
        traits, kept = self._traits(network.id), self._state.lease(network.id, user.name)
        wanted = next((address for address in (kept.addresses if kept else ()) if address.version == 4), None)
        hostname = user.hostname or user.name
        question = WhichLease(
            traits.segment, network.id, user.name, 4, mac, hostname, traits.switched, wanted, traits.probe
        )
        lease = inquiry.lease(question)
        return (lease,) if lease else ()

    def _addresses(
        self,
        network: Network,
        name: str,
        demanded: Iterable[IPAddress] = (),
        before: Iterable[Endpoint] = (),
        inquiry: Inquiry = ASSUMING,
    ) -> tuple[IPInterface, ...]:
        """An address of each family of the network: the demanded one, that which *name* had, or the next free one."""
        chosen: list[IPInterface] = []
        pools = self._state.pools[network.id]
        blocked = network.scope == "global" and LEASE_OPTION in dict(network.options)
        segment = self._traits(network.id).segment
        elsewhere = inquiry.taken(segment)
        beside = (endpoint for endpoint in before if self._traits(endpoint.network).segment == segment)
        promised = {address.ip for endpoint in beside for address in endpoint.addresses}
        for address in demanded:
            pool = next((pool for pool in pools if address in pool.subnet.cidr), None)
            if pool is None:
                raise InvalidRequest(f"invalid endpoint settings:\nno configured subnet contains IP address {address}")
            pool.check(address)
            if address in elsewhere:
                raise AddressElsewhere(address, elsewhere[address], segment)
            if address in promised:
                raise AddressInUse(address)
            chosen.append(_within(address, pool))
        # Who demands an address gets it if it is free when all is known; who does not care makes room for others.
        promised.update(elsewhere, self._claimed(segment, inquiry))
        lease = self._state.lease(network.id, name)
        had = [address for address in (lease.addresses if lease else ()) if address not in promised]
        for version, on in ((4, network.ipv4), (6, network.ipv6)):
            fitting = [pool for pool in pools if pool.subnet.version == version]
            if not on or not fitting or any(address.version == version for address in chosen):
                continue
            if blocked:
                fitting = [pool for pool in self._state.blocks(network.id).values() if pool.subnet.version == version]
            again = [
                _within(address, pool)
                for pool in fitting
                for address in had
                if pool.has(address) and (not blocked or address in (pool.subnet.ip_range or ()))
            ]
            try:
                chosen.append(again[0] if again else self._next(network, fitting, promised))
            except NoFreeAddress:
                if blocked and inquiry.reserve(Reserve(AnyBlock(network.id, version))):
                    continue
                raise PoolExhausted(f"IPv{version}", network.name, network.id, elsewhere.items()) from None
        return tuple(sorted(chosen, key=lambda interface: interface.version))

    def _claimed(self, segment: str, inquiry: Inquiry) -> Iterator[IPAddress]:
        """The addresses in *segment* that the wire is being asked for by others."""
        now = self._clock() if self._claims else 0
        for (where, address), until in self._claims.items():
            if where == segment and until > now and not inquiry.asked(segment, address):
                yield address

    def _next(self, network: Network, pools: Iterable[AddressPool], promised: Container[IPAddress]) -> IPInterface:
        """The next free address of the first of *pools* that has one; else the one that is kept the least longer.

        Raises:
            NoFreeAddress: there is none.
        """
        serial = self._ipam(network).serial
        for pool in pools:
            after = self._state.last_given(network.id, pool) if serial else None
            with suppress(NoFreeAddress):
                return _within(pool.choose(after, promised), pool)
        ends = (
            (until, _within(address, pool))
            for pool in pools
            for until, address in islice((end for end in pool.kept() if end[1] not in promised), 1)
        )
        first = min(ends, key=itemgetter(0), default=None)
        if first is None:
            raise NoFreeAddress(network.name)
        return first[1]

    def leases(self, leaving: Iterable[Endpoint]) -> tuple[Lease, ...]:
        """What is kept of the endpoints that are *leaving*, for when a sandbox of the same name comes again."""
        leases = []
        for endpoint in leaving:
            network = self._state.networks[endpoint.network]
            time = self._ipam(network).lease
            if not endpoint.mac or not time:
                continue
            addresses = tuple(address.ip for address in endpoint.addresses)
            follows = bool(addresses) and endpoint.mac == mac_of(network.id, addresses[0])
            name, mac = self._state.sandboxes[endpoint.sandbox].name, "" if follows else endpoint.mac
            leases.append(Lease(network.id, name, addresses, mac, self._clock() + time))
        return tuple(leases)

    def spent(self, new: Iterable[Record]) -> tuple[Lease, ...]:
        """The leases that end with the making of these *new* records: of who is there again, and of what they take."""
        new = tuple(new)
        users = {user.id: user for user in new if isinstance(user, Sandbox)}
        spent: list[Lease | None] = []
        for endpoint in (one for one in new if isinstance(one, Endpoint)):
            user = users.get(endpoint.sandbox) or self._state.sandboxes[endpoint.sandbox]
            spent.append(self._state.lease(endpoint.network, user.name))
            spent += (self._state.keeper(endpoint.network, address.ip) for address in endpoint.addresses)
        return tuple(dict.fromkeys(lease for lease in spent if lease))

    def left_behind(self, network: Network) -> tuple[Lease, ...]:
        """The leases on *network*, as it is to be, of addresses that it does not have any more."""

        def fits(address: IPAddress) -> bool:
            return any(address in subnet.cidr and address not in subnet.reserved for subnet in network.subnets)

        leases = self._state.leases_on(network.id)
        return tuple(lease for lease in leases if not all(map(fits, lease.addresses)))

    def _ipam(self, network: Network) -> _Ipam:
        """What the IPAM options of *network* say.

        Raises:
            InvalidOption: one of them cannot be.
        """
        read = Options(dict(network.ipam_options))
        read.only("isthmus.", frozenset({LEASE, IPV6}))
        return _Ipam(read.boolean(SERIAL, default=False), read.span(LEASE, self._rules.lease))

    def _interface(self, user: Sandbox, prefix: str, asked: str, before: Iterable[Endpoint]) -> str:
        """The interface's name inside: what was asked for, or the prefix with the lowest number that is free."""
        users = self._state.in_netns(user.netns)
        used = {endpoint.ifname for one in users for endpoint in self._state.of_sandbox(one.id)}
        used.update(link.ifname for one in users for link in self._state.links_of(one.id))
        used.update(endpoint.ifname for endpoint in before)
        if asked:
            check_interface(IFNAME, asked)
            if asked in used or asked == "lo":
                raise InvalidRequest(f"the sandbox {user.name} has an interface {asked} already; choose another name")
            return asked
        return next(name for name in (f"{prefix}{number}" for number in range(len(used) + 1)) if name not in used)

    def sandbox(
        self, request: SandboxRequest, evidence: Evidence | None = None
    ) -> tuple[Sandbox, tuple[Endpoint, ...]]:
        """The sandbox that *request* asks for, with its endpoints; raises what `endpoint` raises."""
        if not _NAME.fullmatch(request.name):
            raise InvalidRequest(f"Invalid container name ({request.name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        self._refuse_taken(request.name)
        for name, value in request.sysctls:
            if not _SANDBOX_SYSCTL.fullmatch(name) or not value.isprintable():
                raise InvalidOption("sysctl", f"{name}={value}", "only settings of the network, net.*, can be given")
        inquiry = Inquiry(evidence)
        # What was reserved for it was reserved by this ID.
        identity = request.container or inquiry.granted_sandbox(request.name) or self._id()
        user = Sandbox(
            id=identity,
            name=request.name,
            created=self._clock(),
            # A container may be renamed, and what shares its namespace then must still find it.
            netns=identity[:12] if request.container else request.name,
            mode=request.mode or "default",
            hostname=request.hostname,
            labels=request.labels,
            sysctls=request.sysctls,
            exposed=request.exposed,
            publish_all=request.publish_all,
            domainname=request.domainname,
            dns=request.dns,
            container=bool(request.container),
        )
        if user.mode.startswith("container:"):
            return self._joining(user, request), ()
        if user.mode == "host":
            _refuse_conflicts(request, _WITH_HOST)
            user = replace(user, netns=HOST)
        endpoints: list[Endpoint] = []
        for network, wish in self._networks(user, request):
            if network.config_only:
                raise Forbidden(f"network {network.name} is a configuration network: nothing can be connected to it")
            if any(one.network == network.id for one in endpoints):
                raise AlreadyConnected(user.name, network.name)
            endpoints.append(self._endpoint(user, network, wish, inquiry, endpoints))
        self._settle(inquiry)
        return user, tuple(endpoints)

    def renamed(self, user: Sandbox, new: str) -> Sandbox:
        """*user* by another name."""
        if not _NAME.fullmatch(new):
            raise InvalidRequest(f"Invalid container name ({new}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        self._refuse_taken(new)
        return replace(user, name=new)

    def _refuse_taken(self, name: str) -> None:
        """Refuse a *name* that a sandbox has."""
        if taken := self._state.sandbox_named(name):
            raise NameTaken(
                f'Conflict. The container name "/{name}" is already in use by container "{taken.id}". You have to '
                "remove (or rename) that container to be able to reuse that name."
            )

    def _joining(self, user: Sandbox, request: SandboxRequest) -> Sandbox:
        """*user* in the namespace of the sandbox that its mode names."""
        _refuse_conflicts(request, _WITH_CONTAINER)
        if request.endpoints:
            raise InvalidRequest(
                "conflicting options: a sandbox that joins another's namespace has no networks of its own"
            )
        owner = self._state.sandbox(user.mode.removeprefix("container:"))
        return replace(user, netns=owner.netns, mode=f"container:{owner.name}")

    def _networks(self, user: Sandbox, request: SandboxRequest) -> list[tuple[Network, EndpointRequest]]:
        """The networks that *user* is to stand on, its main one first, and what is asked for on each."""
        networks = [(self._state.network(_BY_ALIAS.get(name, name)), wish) for name, wish in request.endpoints]
        main = _BY_ALIAS.get(user.mode, user.mode)
        if not any(main in {network.name, network.id} for network, _ in networks):
            networks.insert(0, (self._state.network(main), EndpointRequest()))
        drivers = {network.driver for network, _ in networks}
        if "host" in drivers and user.netns != HOST:
            raise InvalidRequest(
                "cannot connect container to host network - container must be created in host network mode"
            )
        if len(networks) > 1 and "host" in drivers:
            raise InvalidRequest(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
            )
        if len(networks) > 1 and "null" in drivers:
            raise InvalidRequest(_ALONE)
        return networks

    def bindings(
        self,
        user: Sandbox,
        wishes: Iterable[Wish],
        endpoints: Iterable[Endpoint],
        busy: Container[Place] = (),
    ) -> tuple[Binding, ...]:
        """The places on the host that lead to *user* on *endpoints*, none of those that others keep *busy*.

        Where *wishes* name no address, the network that serves may have one for that. Those that name what there is
        change who may call there.

        Raises:
            PortTaken: one of ours has it, or nothing is free among those that would do.
        """
        if user.mode == "host":
            raise InvalidRequest(f"{user.name} is in the host's own namespace: what listens there needs no publishing")
        if user.mode.startswith("container:"):
            raise InvalidRequest(f"conflicting options: {_WITH_CONTAINER['ports']}")
        serving = gateway_endpoint(self._state, endpoints, 4)
        usual = self._traits(serving[0].network).binding if serving else None
        chosen: dict[tuple[str, int], dict[IPAddress | None, str]] = {}
        tried: dict[tuple[str, IPAddress | None], Iterator[int]] = {}
        bindings = []
        for wish in wishes:
            protocol, address = wish.protocol, wish.address or usual
            self._check_callers(wish, address, endpoints)
            if changed := self._changed(user, wish, address):
                mine = chosen.setdefault((protocol, changed.place.port), {})
                if not clash(address, mine):
                    mine[address] = user.id
                    bindings.append(changed)
                    continue
            # Many that leave it to us go on where the one before found its port.
            ports = iter(wish.hosts or ())
            if not wish.hosts:
                ports = tried.setdefault((protocol, address), iter(self._rules.automatic))
            for port in ports:
                place = Place(protocol, port, address)
                mine = chosen.setdefault((protocol, port), {})
                holder = clash(address, mine) or clash(address, self._state.on_port(protocol, port))
                if not holder and place not in busy:
                    break
                if len(wish.hosts) == 1:
                    raise self._port_taken(user, place, holder)
            else:
                hosts = wish.hosts or self._rules.automatic
                first = Place(protocol, hosts[0], address)
                raise PortTaken(user.name, f"{first}-{hosts[-1]}", "all ports are allocated", "")
            mine[address] = user.id
            bindings.append(Binding(user.id, wish.port, place, wish.asked, wish.callers))
        return tuple(bindings)

    def _changed(self, user: Sandbox, wish: Wish, address: IPAddress | None) -> Binding | None:
        """What leads to *user* as *wish* wants, but for other callers, with those that it wants."""
        if len(wish.hosts) != 1:
            return None
        before = self._state.binding(user.id, Place(wish.protocol, wish.hosts[0], address))
        same = before and before.port == wish.port and not before.removing
        return replace(before, callers=wish.callers) if before and same and before.callers != wish.callers else None

    def _check_callers(self, wish: Wish, address: IPAddress | None, endpoints: Iterable[Endpoint]) -> None:
        """Refuse a policy of its own for a port that is not reached by its place on the host alone."""
        for version in versions(address) if wish.callers else ():
            if chosen := gateway_endpoint(self._state, endpoints, version):
                network = self._state.networks[chosen[0].network]
                mode = dict(self._traits(network.id).publishing).get(version, Mode.NAT)
                if mode is not Mode.NAT:
                    raise InvalidOption(
                        "Callers",
                        wish.callers,
                        f"no port has callers of its own in the gateway mode {mode.value}, which {network.name} has "
                        f"for IPv{version}; say it of the network ({PUBLISH}), or choose the mode {Mode.NAT.value}",
                    )

    def _port_taken(self, user: Sandbox, place: Place, holder: str) -> PortTaken:
        known = self._state.sandboxes.get(holder)
        name = known.name if known else user.name
        return PortTaken(user.name, place, "port is already allocated", f"sandbox {name}")

    def link(self, user: Sandbox, request: LinkRequest) -> HandLink:
        """The link that *request* puts into *user*."""
        if user.netns == HOST:
            raise InvalidRequest(f"{user.name} is in the host's own namespace, where links are not ours to make")
        _check_link(request)
        identity = self._id()
        return HandLink(
            id=identity,
            sandbox=user.id,
            created=self._clock(),
            type=request.type,
            ifname=self._interface(user, "eth", request.ifname, ()),
            mac=_mac(request.mac) or random_mac(self._random(5)),
            mtu=request.mtu,
            addresses=request.addresses,
            routes=request.routes,
            peer=request.peer or (veth(identity) if request.type == "veth" else ""),
            peer_addresses=request.peer_addresses,
            master=request.master,
            parent=request.parent,
            mode=request.mode or (LINK_MODES[0] if request.type == "macvlan" else ""),
        )

    def default_networks(self, host: Host) -> tuple[Network, ...]:
        """The networks that are there from the start, as the configuration wants them; `removing` if it wants none."""
        shared = tuple(
            Network(self._id(), name, driver, self._clock(), predefined=True)
            for name, driver in (("host", "host"), ("none", "null"))
            if not self._state.network_named(name)
        )
        before = self._state.network_named("bridge")
        wanted = self._rules.default_bridge
        if wanted is None:
            unused = before is not None and not self._state.on_network(before.id)
            return (*shared, replace(before, removing=True)) if before and unused else shared
        network = Network(
            id=before.id if before else self._id(),
            name="bridge",
            driver="bridge",
            created=before.created if before else self._clock(),
            options=wanted.options,
            ipv6=wanted.ipv6,
            predefined=True,
        )
        driver = _driver("bridge")
        driver.check(network, host, self._networks_made())
        if before and not wanted.subnets and before.ipv6 == wanted.ipv6:
            return (*shared, replace(network, subnets=before.subnets))
        return (*shared, replace(network, subnets=self._subnets(network, wanted.subnets, driver, host)))

    def moved(self, network: Network) -> Iterable[Endpoint]:
        """The endpoints on *network* whose addresses it does not have any more, one by one, with new ones."""
        for endpoint in self._state.on_network(network.id):
            fitting = [
                address
                for address in endpoint.addresses
                if any(address.network == one.cidr and address.ip != one.gateway for one in network.subnets)
            ]
            if len(fitting) < len(network.subnets):
                user = self._state.sandboxes[endpoint.sandbox]
                yield replace(endpoint, addresses=self._addresses(network, user.name))

    def lacks_way_out(self, endpoints: Iterable[Endpoint]) -> bool:
        """Whether who stands on *endpoints* shall have a way out, and has none (Docker's `needDefaultGW`)."""
        endpoints = tuple(endpoints)
        enclosed = any(self._traits(one.network).enclosed for one in endpoints)
        return enclosed and not any(routers_of(self._state.networks[one.network], one) for one in endpoints)

    def way_out(self, user: Sandbox, endpoints: Iterable[Endpoint]) -> Endpoint:
        """The endpoint by which *user* goes out, who stands on *endpoints* besides."""
        network = self._state.network(GATEWAY_NETWORK)
        return self._endpoint(user, network, EndpointRequest(), ASSUMING, tuple(endpoints))

    def spare_way_out(self, endpoints: Iterable[Endpoint]) -> Endpoint | None:
        """That of *endpoints* which was a way out, if it is needed no more."""
        endpoints, network = tuple(endpoints), self._state.network_named(GATEWAY_NETWORK)
        ours = network.id if network and network.predefined else ""
        spare = next((one for one in endpoints if one.network == ours), None)
        others = [one for one in endpoints if one is not spare]
        return None if spare is None or self.lacks_way_out(others) else spare

    def gateway_network(self, host: Host) -> Network:
        """The network by which those go out whose own networks have no way out: a bridge on which none sees another."""
        options = {
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
            "com.docker.network.bridge.name": GATEWAY_BRIDGE,
        }
        network = Network(self._id(), GATEWAY_NETWORK, "bridge", self._clock(), options=pairs(options), predefined=True)
        driver = _driver("bridge")
        driver.check(network, host, self._networks_made())
        return replace(network, subnets=self._subnets(network, (), driver, host))

    def _networks_made(self) -> tuple[Network, ...]:
        """The networks that are more than a configuration for others."""
        return tuple(one for one in self._state.networks.values() if not one.config_only)

    def _id(self) -> str:
        return self._random(32).hex()


def offer(user: Sandbox, endpoint: Endpoint) -> Peer:
    """*endpoint* of *user* as other hosts are to see it, but for which host this is."""
    names = dns_names(user, endpoint)
    return Peer(
        id=endpoint.id,
        network=endpoint.network,
        node="",
        via=IPv4Address(0),
        name=user.name,
        mac=endpoint.mac,
        addresses=endpoint.addresses,
        names=names,
        sandbox=user.id,
        created=endpoint.created,
    )


def _claimed(questions: Iterable[Question]) -> Iterator[tuple[str, IPAddress]]:
    """The addresses, by segment, that *questions* are about."""
    for one in questions:
        match one:
            case WhoHas(segment, address):
                yield segment, address
            case Reserve(Peer(addresses=addresses), segment):
                yield from ((segment, address.ip) for address in addresses)
            case _:
                pass


def _driver(name: str) -> Driver:
    """The driver of that name; Docker's words where there is none."""
    try:
        return BUILTIN[name]
    except KeyError:
        raise NotFound(f"could not find plugin {name} in v1 plugin registry: plugin not found") from None


def _written(subnet: Subnet) -> SubnetRequest:
    """*subnet* as a user would have asked for it."""
    return SubnetRequest(
        str(subnet.cidr),
        str(subnet.ip_range or ""),
        str(subnet.gateway or ""),
        tuple((name, str(address)) for name, address in subnet.aux),
    )


def _merged(before: Pairs, new: Pairs, gone: Iterable[str]) -> Pairs:
    """*before* with what is *new*, and without the *gone* keys."""
    return pairs({key: value for key, value in (dict(before) | dict(new)).items() if key not in gone})


def _family(asked: bool | None, options: Mapping[str, str], key: str, *, default: bool) -> bool:  # noqa: FBT001
    """Whether a network has a family of addresses: as asked, else as the option says."""
    return Options(options).boolean(key, default) if asked is None else asked


def _demanded(request: EndpointRequest) -> list[IPAddress]:
    """The addresses that *request* insists on; each must be of the family that its key says."""
    demanded = []
    for version, key, text in ((4, "IPv4Address", request.ipv4), (6, "IPv6Address", request.ipv6)):
        if not text:
            continue
        address = _address(key, text)
        if address.version != version:
            raise InvalidRequest(f"invalid endpoint settings:\ninvalid IPv{version} address: {text}")
        demanded.append(address)
    return demanded


def _address(key: str, text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise InvalidOption(key, text, "it must be an IP address") from None


def _within(address: IPAddress, pool: AddressPool) -> IPInterface:
    """*address* with the prefix length of the subnet that it is of."""
    make = IPv4Interface if pool.subnet.version == 4 else IPv6Interface
    return make((int(address), pool.subnet.cidr.prefixlen))


def _mac(text: str) -> str:
    """*text* as a MAC in lower case with colons; "" for none."""
    if not text:
        return ""
    if not _MAC.fullmatch(text):
        raise InvalidRequest(
            f"invalid MAC address {text}: it must be six pairs of hexadecimal digits, such as 02:42:ac:11:00:02"
        )
    mac = text.replace("-", ":").lower()
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidRequest(f"invalid MAC address {text}: an interface cannot have a multicast or zero address")
    return mac


def by_dhcp(network: Network) -> tuple[int, ...]:
    """The IP versions of which a server gives out the addresses on *network*."""
    if network.ipam_driver != DHCP:
        return ()
    asks6 = network.ipv6 and _ipv6(network) is Ipv6.DHCPV6
    return (4,) * network.ipv4 + (6,) * asks6


def _ipv6(network: Network) -> Ipv6:
    """How IPv6 addresses come on *network*; `InvalidOption` if its option is none of the ways."""
    return Options(dict(network.ipam_options)).choice(IPV6, Ipv6.SLAAC)


def _check_dhcp(traits: Traits, subnets: Iterable[object]) -> None:
    """Refuse to have addresses from a server where none can be asked, or what goes with addresses of our own only."""
    if not traits.wired or not traits.macs:
        raise InvalidOption(
            "ipam-driver", DHCP, "a server can be asked on macvlan (but for passthru) and bridged networks only"
        )
    if any(subnets):
        raise InvalidRequest("with --ipam-driver dhcp the server says which subnet it is: leave --subnet out")
    if traits.host_address:
        raise InvalidOption("isthmus.host_access", "true", "where a server gives the addresses, none is set aside")


def _check_link(request: LinkRequest) -> None:
    """Refuse a link by hand of an unknown type, or with what its type does not have."""
    if request.type not in {"macvlan", "veth"}:
        raise InvalidRequest(f"invalid link type {request.type}: it must be veth or macvlan")
    if request.type == "veth" and (request.parent or request.mode):
        raise InvalidRequest("a veth has no parent and no mode: leave them out")
    if request.type == "macvlan":
        if request.peer or request.peer_addresses or request.master:
            raise InvalidRequest("a macvlan has no other end: leave peer, peer addresses and master out")
        if not request.parent:
            raise InvalidRequest("a macvlan stands on an interface of the host's: name it as parent")
        if request.mode and request.mode not in LINK_MODES:
            raise InvalidOption("mode", request.mode, f"it must be one of {', '.join(LINK_MODES)}")
    for key in ("ifname", "peer", "master", "parent"):
        if name := getattr(request, key):
            check_interface(key.replace("if", ""), name)


def _refuse_conflicts(request: SandboxRequest, words: Mapping[str, str]) -> None:
    """Refuse what was asked for besides and does not go with the mode."""
    for conflict, sentence in words.items():
        if conflict in request.conflicts:
            raise InvalidRequest(f"conflicting options: {sentence}")


def _check_options(user: Sandbox, network: Network, options: Pairs) -> None:
    """Refuse an option of ours that there is not, and one that could not be kept for *user* on *network*."""
    for key, value in options:
        if key.startswith("isthmus.") and key not in CHANGEABLE:
            there = ", ".join(sorted(CHANGEABLE))
            raise InvalidOption(key, value, f"there is no such option of an endpoint; there are {there}")
    traits, given = _driver(network.driver).traits(network), dict(options)
    _check_egress(user, network, traits, given.get(EGRESS, ""))
    rate = given.get(RATE, "")
    if parse_rates(rate) != Rates() and not traits.shapeable:
        hint = (
            "the host has no link of the endpoint's own there; a rate can be kept on a bridge network, or on an overlay"
        )
        raise InvalidOption(RATE, rate, f"{network.name} is a network of the driver {network.driver}: {hint}")


def _check_egress(user: Sandbox, network: Network, traits: Traits, text: str) -> None:
    """Refuse an egress policy where it could not be kept."""
    policy = egress_of(text)
    if policy is None:
        return
    if not traits.polices:
        why = (
            f"what leaves {network.name} does not pass by the host's rules; use an overlay, or a bridge with a gateway"
        )
        raise InvalidOption(EGRESS, text, why)
    if policy.named and (network.predefined or user.dns.off):
        who = f"{user.name} has no resolver" if user.dns.off else f"on the network {network.name} none are told"
        raise InvalidOption(EGRESS, text, f"names become known as the resolver tells them, and {who}: give addresses")


def _check_sysctls(options: Pairs) -> None:
    """Refuse settings of an interface that are not of the form net.X.Y.IFNAME.Z=V."""
    for item in filter(None, dict(options).get(SYSCTLS, "").split(",")):
        name, equals, value = item.partition("=")
        if not (_SYSCTL.fullmatch(name) and equals and value and value.isprintable()):
            raise InvalidOption(SYSCTLS, item, "it must be net.ipv4|ipv6|mpls.SECTION.IFNAME.SETTING=VALUE")
