"""overlay: one network on several hosts; between them its frames travel whole, inside UDP packets (VXLAN, RFC 7348).

On each host the network lives in a namespace of its own, so that its subnets may be those of the host, too. In there is
a bridge, with a veth for each sandbox and a tunnel for each subnet; the tunnel's packets leave by the host's namespace.
Nobody learns and nothing is flooded: bridge and tunnel are told who is where, those on other hosts by `Peer`s, and the
tunnel answers itself who asks for their addresses. The bridge has the gateway's address, and the same MAC on every
host, so that a sandbox finds its way from one of the network's subnets to another wherever it is.

With the option `encrypted` the tunnel's packets leave by another namespace instead, in which there is nothing but ways
by WireGuard (`kernel.wireguard`). So nothing leaves, or comes in, that is not encrypted, whatever else fails.

A network may also name its hosts itself (`isthmus.peers`), and then needs no store that tells who is where: the tunnel
learns that by what comes, and sends what is for all to each of the hosts, as plain VXLAN does.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_interface
from itertools import islice

import msgspec
from msgspec.structs import replace

from isthmus import naming
from isthmus.addresses import IPNetwork, Subnet
from isthmus.drivers.limits import limits
from isthmus.drivers.traits import Traits
from isthmus.egress import EGRESS, Egress, egress_of
from isthmus.errors import Forbidden, InvalidOption
from isthmus.model import HOST, Endpoint, Host, IPAddress, Network, Pairs, Peer, pairs
from isthmus.naming import Owner
from isthmus.options import MIN_IPV6_MTU, MTU, PREFIX, Options, check_mtu
from isthmus.resources import (
    NOBODY,
    Address,
    Bridge,
    Forwarding,
    Namespace,
    Neighbour,
    Resource,
    Route,
    Sysctl,
    Veth,
    Vxlan,
)
from isthmus.wireguard import OVERHEAD

addressed = True
many_subnets = True
singular = False
changeable = frozenset({EGRESS, MTU, PREFIX, "isthmus.peers"})

VXLANS = "com.docker.network.driver.overlay.vxlanid_list"
"""The option that names the VXLAN numbers of a network's subnets, in their order."""

PORT = 4789
"""The UDP port of VXLAN (RFC 7348, section 5)."""

BRIDGE = "br0"
"""The bridge in a network's namespace."""

FIRST_VNI = 4096
"""The least VXLAN number that we choose ourselves: lower ones may be those of VLANs (as in Docker)."""

LEASE = "isthmus.lease"
"""The option by which each host has blocks of the pool for itself, so large; then an attach asks nobody."""

HEADERS = {4: 50, 6: 70}
"""How many bytes are put around what a sandbox sends, by the IP version between hosts: Ethernet, VXLAN, UDP and IP."""

_VNIS = range(1, 1 << 24)
_OURS = frozenset({EGRESS, "isthmus.peers", "isthmus.lazy", LEASE})


class Parsed(msgspec.Struct, frozen=True):
    """A network's options, by what they mean. *peers* are the hosts that it names itself.

    Hosts have blocks of its pool for themselves, with so many *bits* for addresses in each; None if they have none. If
    it is *lazy*, a host is told only of those elsewhere whom somebody on it looks for.
    """

    vnis: tuple[int, ...]
    port: int
    peers: tuple[IPAddress, ...]
    mtu: int | None
    prefix: str
    encrypted: bool
    bits: int | None
    lazy: bool
    egress: Egress | None

    def blocks(self, subnets: Iterable[Subnet], version: int) -> Iterator[IPNetwork]:
        """The blocks that *subnets* of an IP version are divided into."""
        for one in subnets:
            whole = one.ip_range or one.cidr
            if one.version == version and self.bits is not None:
                length = max(whole.max_prefixlen - self.bits, whole.prefixlen)
                yield from whole.subnets(new_prefix=length)


@lru_cache(maxsize=4096)
def parse(options: Pairs) -> Parsed:
    """What *options* mean.

    Raises:
        InvalidOption: one of them cannot be.
    """
    read = Options(dict(options))
    read.only("isthmus.", _OURS)
    return Parsed(
        vnis=tuple(_vni(text.strip()) for text in read.text(VXLANS).split(",") if text.strip()),
        port=read.integer("vxlan.port", 1, 65535) or PORT,
        peers=tuple(
            dict.fromkeys(_host(text.strip()) for text in read.text("isthmus.peers").split(",") if text.strip())
        ),
        mtu=read.mtu(),
        prefix=read.interface(PREFIX, "eth"),
        encrypted=read.boolean("encrypted", "encrypted" in dict(options)),
        bits=_bits(read.text(LEASE)),
        lazy=read.boolean("isthmus.lazy", default=False),
        egress=egress_of(read.text(EGRESS)),
    )


def _bits(text: str) -> int | None:
    if text and text not in {"/28", "/29", "/30"}:
        raise InvalidOption(LEASE, text, "it must be /28, /29 or /30: a block of 16, 8 or 4 addresses for a host")
    return 32 - int(text[1:]) if text else None


def _vni(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 9 and int(text) in _VNIS:
        return int(text)
    raise InvalidOption(VXLANS, text, f"a VXLAN number is from 1 to {_VNIS[-1]}")


def _host(text: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        address = None
    if address is None or address.is_multicast or address.is_unspecified or address.is_loopback:
        raise InvalidOption("isthmus.peers", text, "it must be addresses of other hosts, with commas between")
    return address


def is_encrypted(network: Network) -> bool:
    """Whether what goes from host to host is encrypted."""
    return network.driver == "overlay" and parse(network.options).encrypted


def check(network: Network, host: Host, others: Iterable[Network]) -> None:
    """Refuse a network that nobody would tell who is where, and VXLAN numbers that cannot be."""
    options = parse(network.options)
    check_mtu(options.mtu, ipv6=network.ipv6)
    count = len(_main(network))
    if network.scope != "global" and not options.peers:
        raise Forbidden(
            f"overlay network {network.name} needs a store that tells who is on which host: start the daemon with "
            "--cluster-store, or name the other hosts with -o isthmus.peers=ADDRESS,..."
        )
    if network.scope == "global" and options.peers:
        hint = f"other hosts hear of {network.name} by the store that they share: make another network for these"
        raise InvalidOption("isthmus.peers", dict(network.options)["isthmus.peers"], hint)
    if options.encrypted and options.peers:
        hint = "the hosts that isthmus.peers names know no keys of each other: leave one of the two out"
        raise InvalidOption("encrypted", "true", hint)
    if len(options.vnis) != count:
        hint = f"{network.name} has {count} subnets, and each has a VXLAN number of its own, the same on all hosts"
        raise InvalidOption(VXLANS, ",".join(map(str, options.vnis)), hint)
    if options.lazy and options.peers:
        raise InvalidOption(
            "isthmus.lazy", "true", "where a network names its hosts itself, tunnels learn who is where"
        )
    if options.bits and options.peers:
        raise InvalidOption(LEASE, dict(network.options)[LEASE], "without a store hosts cannot have blocks of the pool")
    if len({*options.vnis}) != count:
        raise InvalidOption(VXLANS, dict(network.options)[VXLANS], "one number stands there twice")
    for other in others:
        if other.id != network.id and other.driver == network.driver:
            theirs = parse(other.options)
            if twice := {*options.vnis} & {*theirs.vnis}:
                raise InvalidOption(VXLANS, min(twice), f"network {other.name} has that number")


def completed(network: Network, others: Iterable[Network]) -> Network:
    """*network* with a VXLAN number for each of its subnets, none of those that *others* have.

    Where it names its hosts itself, these know of no choice of ours, so its user has to make it.
    """
    options = parse(network.options)
    if options.vnis or options.peers:
        return network
    theirs = (parse(other.options).vnis for other in others if other.driver == network.driver)
    used = {vni for vnis in theirs for vni in vnis}
    free = (number for number in range(FIRST_VNI, _VNIS.stop) if number not in used)
    chosen = ",".join(str(number) for number in islice(free, len(_main(network))))
    return replace(network, options=pairs(dict(network.options) | {VXLANS: chosen}))


def traits(network: Network) -> Traits:
    """It is a segment of its own, apart from all that the host knows."""
    options = parse(network.options)
    return Traits(
        prefix=options.prefix,
        gateway=True,
        segment=naming.hidden(network.id),
        polices=True,
        egress=options.egress,
        shapeable=True,
        spanning=not options.peers,
        lazy=options.lazy,
        enclosed=not network.internal,
    )


def waits_for(network: Network, host: Host) -> str:
    """Nothing: without a way to other hosts, those on this one reach each other."""
    return ""


def mtu(network: Network, host: Host) -> int:
    """What its option says; else that of the way to other hosts, without what is put around each frame."""
    options = parse(network.options)
    if options.mtu:
        return options.mtu
    outside = host.advertised
    six = any(address.version == 6 for address in (*options.peers, *([outside] if outside else ())))
    path = host.outward - (HEADERS[6] + OVERHEAD if options.encrypted else HEADERS[6 if six else 4])
    return max(path, MIN_IPV6_MTU) if network.ipv6 else path


def network(network: Network, host: Host) -> Iterator[Resource]:
    """The namespace, with the bridge and the tunnels in it."""
    options, netns, mine = parse(network.options), naming.hidden(network.id), Owner(network.id)
    size = mtu(network, host)
    yield Namespace(netns)
    under = naming.ENCRYPTED if options.encrypted else HOST
    if options.encrypted:
        yield Namespace(under)
    yield Bridge(netns, BRIDGE, mine, mtu=size, ipv6=network.ipv6)
    for subnet in network.subnets:
        if subnet.gateway:
            yield Address(netns, BRIDGE, ip_interface(f"{subnet.gateway}/{subnet.cidr.prefixlen}"), mine)
    for vni in options.vnis:
        tunnel = naming.tunnel(vni)
        local = None if options.encrypted else host.advertised
        yield Vxlan(
            netns,
            tunnel,
            vni,
            BRIDGE,
            mine,
            options.port,
            local,
            bool(options.peers),
            asking=options.lazy,
            mtu=size,
            under=under,
        )
        for peer in options.peers:
            yield Forwarding(netns, tunnel, NOBODY, peer)
    if host.frames_filtered is not None:
        # Nobody has rules in there, and to pass them costs all the same.
        yield from (Sysctl(netns, f"net.bridge.bridge-nf-call-{what}", "0") for what in ("iptables", "ip6tables"))
    if len(_main(network)) > 1:
        yield Sysctl(netns, "net.ipv4.ip_forward", "1")
        if network.ipv6:
            yield Sysctl(netns, "net.ipv6.conf.all.forwarding", "1")


def peers(network: Network, known: Iterable[Peer]) -> Iterator[Resource]:
    """Where those *known* are, and which MACs have their addresses."""
    netns = naming.hidden(network.id)
    for peer in known:
        tunnel = _tunnel(network, peer)
        yield Forwarding(netns, tunnel, peer.mac, peer.via)
        for address in peer.addresses:
            yield Neighbour(netns, tunnel, address.ip, peer.mac)


def reach(network: Network, endpoints: Iterable[Endpoint]) -> Iterator[Resource]:
    """Nothing: the host itself has no place here."""
    yield from ()


def endpoint(network: Network, endpoint: Endpoint, netns: str, host: Host) -> Iterator[Resource]:
    """A pair of veths between the network's namespace and the sandbox's, and routes to the network's other subnets."""
    home, mine = naming.hidden(network.id), Owner(network.id, endpoint.id)
    veth = naming.veth(endpoint.id)
    yield Veth(
        home,
        veth,
        netns,
        endpoint.ifname,
        mine,
        mac=endpoint.mac,
        master=BRIDGE,
        mtu=mtu(network, host),
        ipv6=network.ipv6,
        told=True,
    )
    yield Forwarding(home, veth, endpoint.mac, master=BRIDGE)
    if endpoint.options:
        yield from limits(endpoint, home)
    for interface in (*endpoint.addresses, *map(ip_interface, endpoint.link_local)):
        yield Address(netns, endpoint.ifname, interface, mine)
    for address in endpoint.addresses:
        gateway = next((one.gateway for one in network.subnets if address.ip in one.cidr), None)
        for subnet in network.subnets:
            if gateway and subnet.version == address.version and address.ip not in subnet.cidr:
                yield Route(netns, subnet.cidr, endpoint.ifname, mine, via=gateway)


def routers(network: Network, endpoint: Endpoint) -> Mapping[int, IPAddress | None]:
    """None: from here nothing leads out."""
    return {}


def _main(network: Network) -> tuple[Subnet | None, ...]:
    """The subnets that have a tunnel each: those of IPv4, and with IPv4 goes IPv6; without it, those of IPv6."""
    first = min((subnet.version for subnet in network.subnets), default=4)
    return tuple(subnet for subnet in network.subnets if subnet.version == first) or (None,)


def _tunnel(network: Network, peer: Peer) -> str:
    """The tunnel by which a peer is reached: that of the subnet of its first address."""
    vnis = parse(network.options).vnis
    if len(vnis) == 1:
        return naming.tunnel(vnis[0])
    mine = (
        vni
        for vni, subnet in zip(vnis, _main(network), strict=False)
        if subnet and any(address.ip in subnet.cidr for address in peer.addresses)
    )
    return naming.tunnel(next(mine, vnis[0]))
