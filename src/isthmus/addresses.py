"""Which subnet a network has, and which address an endpoint gets.

Nothing here is stored and nothing leaks: an address is taken by the record of the endpoint that has it, and a pool is
an index over those records, made anew from them at every start. So choosing is a question (`choose_subnet`,
`default_gateway`, `AddressPool.choose`) whose answer binds nobody; the caller commits its record and then tells the
pool (`AddressPool.take`).

What must be unique is an address within a *segment*: those who hear each other's ARP. Subnets are held against each
other there (`overlaps`), and the pools of a segment know of all addresses on it.

The rules and the words of the errors are those of moby 29: `daemon/network.go` (what a configuration may say),
`daemon/libnetwork/ipams/defaultipam` (what may overlap, what is kept back, what comes next) and
`daemon/libnetwork/network.go` (the gateway). Where we differ, the function says so.
"""

import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from hashlib import sha256
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)

import msgspec
from msgspec.structs import replace

from isthmus.errors import AddressInUse, InvalidOption, InvalidRequest, InvalidSubnet, NoMoreSubnets

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

LINK_LOCAL = IPv6Network("fe80::/64")
"""What Linux gives every interface; as a subnet it is allowed in exactly this form."""

HOST_ADDRESS = "host"
"""The name of the auxiliary address that is the host's own, where it stands on a network beside the endpoints."""

_BITS = {4: 32, 6: 128}
_ADDRESS = re.compile(r"[0-9a-fA-F.:]+")
_PREFIX = re.compile(r"[0-9a-fA-F.:]+/(0|[1-9][0-9]{0,2})")
_UINT64_MAX = 2**64 - 1


class NoFreeAddress(LookupError):
    """The range of a pool is full; the engine, which knows the network's name, makes `PoolExhausted` of it."""


class Subnet(msgspec.Struct, frozen=True):
    """A subnet of a network: *cidr*, and what of it is for whom.

    Addresses are given out from *ip_range*, or from all of *cidr* without one. *gateway* and the addresses in *aux*,
    which is sorted by name, are never given out; they may lie outside the range.
    """

    cidr: IPNetwork
    gateway: IPAddress | None = None
    ip_range: IPNetwork | None = None
    aux: tuple[tuple[str, IPAddress], ...] = ()

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.cidr.version

    @property
    def reserved(self) -> frozenset[IPAddress]:
        """The addresses that no endpoint can have."""
        gateway = () if self.gateway is None else (self.gateway,)
        return frozenset((*_ends(self.cidr), *gateway, *(address for _, address in self.aux)))


class AnySubnet(msgspec.Struct, frozen=True):
    """The wish for any subnet of IP *version* 4 or 6 from the default pools, of prefix length *size* or the pool's."""

    version: int
    size: int | None = None


class SubnetRequest(msgspec.Struct, frozen=True):
    """A subnet as the user wrote it, with "" for what was not written; *aux* holds pairs of name and address."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    aux: tuple[tuple[str, str], ...] = ()


class Pool(msgspec.Struct, frozen=True):
    """A range of addresses, *base*, that is cut into subnets of prefix length *size*."""

    base: IPNetwork
    size: int


DEFAULT_POOLS = (
    Pool(IPv4Network("172.17.0.0/16"), 16),
    Pool(IPv4Network("172.18.0.0/16"), 16),
    Pool(IPv4Network("172.19.0.0/16"), 16),
    Pool(IPv4Network("172.20.0.0/14"), 16),
    Pool(IPv4Network("172.24.0.0/14"), 16),
    Pool(IPv4Network("172.28.0.0/14"), 16),
    Pool(IPv4Network("192.168.0.0/16"), 20),
)
"""Where the subnets of networks of local scope come from (moby's `ipamutils`); `ula_pool` is their IPv6 companion."""

GLOBAL_POOLS = (Pool(IPv4Network("10.0.0.0/8"), 24),)
"""Where the subnets of networks that span hosts come from."""


def parse_ipam(requests: Iterable[SubnetRequest], *, ipv4: bool, ipv6: bool) -> tuple[Subnet | AnySubnet, ...]:
    """Tell what *requests* ask for, IPv4 first, or all that is wrong with them in one `InvalidSubnet`.

    A subnet of a family that is off is ignored, and so is a request that says nothing, as Docker does. `0.0.0.0/24` and
    `::/96` are any subnet of that size, with neither range nor addresses. Whether subnets overlap is not asked here,
    not even among *requests*: see `overlaps`. An address that is given two roles is refused here, in moby only later,
    when it is reserved.

    >>> parse_ipam([SubnetRequest("10.5.0.0/24", gateway="10.5.0.1")], ipv4=True, ipv6=False)[0].gateway
    IPv4Address('10.5.0.1')
    """
    problems: list[str] = []
    families = {4: ipv4, 6: ipv6}
    parsed = [_parse_request(request, families, problems) for request in requests]
    if problems:
        raise InvalidSubnet(problems)
    return tuple(sorted((subnet for subnet in parsed if subnet is not None), key=lambda subnet: subnet.version))


def complete(subnets: Iterable[Subnet | AnySubnet], *, ipv4: bool, ipv6: bool) -> tuple[Subnet | AnySubnet, ...]:
    """Add to *subnets*, for each family that is on and has none, the wish for any."""
    given = tuple(subnets)
    lacking = {version for version, on in ((4, ipv4), (6, ipv6)) if on} - {subnet.version for subnet in given}
    return given + tuple(AnySubnet(version) for version in sorted(lacking))


def _parse_request(
    request: SubnetRequest, families: Mapping[int, bool], problems: list[str]
) -> Subnet | AnySubnet | None:
    """Tell what *request* asks for, or None if that is nothing; *problems* grows by what is wrong with it."""
    if not request.subnet:
        orphans = [
            f"{key} {value}" for key, value in (("ip-range", request.ip_range), ("gateway", request.gateway)) if value
        ]
        orphans += [f"auxiliary address {name}" for name, _ in sorted(request.aux)]
        problems.extend(f"invalid {orphan}: it must have a corresponding subnet" for orphan in orphans)
        return None
    try:
        parent = _parse_prefix(request.subnet)
    except ValueError:
        problems.append(f"invalid subnet {request.subnet}: invalid CIDR block notation")
        return None
    cidr = parent.network
    if not families[cidr.version]:
        return None
    problems.extend(_subnet_problems(parent))
    ip_range = _parse_range(request.ip_range, parent, problems) if request.ip_range else None
    roles: dict[IPAddress, str] = dict.fromkeys(_ends(cidr), "the subnet itself")
    gateway = (
        _parse_address(f"gateway {request.gateway}", request.gateway, parent, roles, problems)
        if request.gateway
        else None
    )
    aux = tuple(
        (name, address)
        for name, text in sorted(request.aux)
        if (address := _parse_address(f"auxiliary address {name}", text, parent, roles, problems))
    )
    return AnySubnet(cidr.version, cidr.prefixlen or None) if _means_any(cidr) else Subnet(cidr, gateway, ip_range, aux)


def _subnet_problems(subnet: IPv4Interface | IPv6Interface) -> Iterator[str]:
    """Tell what is wrong with *subnet* by itself, for IPv6 in the words of moby's bridge driver."""
    cidr = subnet.network
    if subnet.ip != cidr.network_address:
        yield f"invalid subnet {subnet}: it should be {cidr}"
    if cidr.network_address.is_multicast:
        yield f"invalid subnet {subnet}: multicast subnet '{cidr}' is not allowed"
    if isinstance(cidr, IPv6Network):
        if cidr.network_address.ipv4_mapped is not None:
            yield f"invalid subnet {subnet}: '{cidr}' is not a valid IPv6 subnet"
        if cidr != LINK_LOCAL and cidr.overlaps(LINK_LOCAL) and not _means_any(cidr):
            yield f"invalid subnet {subnet}: '{cidr}' clashes with the Link-Local prefix '{LINK_LOCAL}'"


def _parse_range(text: str, subnet: IPv4Interface | IPv6Interface, problems: list[str]) -> IPNetwork | None:
    """Read the ip-range *text* within *subnet*; *problems* grows by what is wrong with it."""
    try:
        given = _parse_prefix(text)
    except ValueError:
        problems.append(f"invalid ip-range {text}: invalid CIDR block notation")
        return None
    if given.version != subnet.version:
        problems.append(f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block")
        return None
    if given.network.prefixlen < subnet.network.prefixlen:
        problems.append(f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}")
    if given.ip != given.network.network_address:
        problems.append(f"invalid ip-range {given}: it should be {given.network}")
    if not given.network.overlaps(subnet.network) or _means_any(subnet.network):
        problems.append(f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range")
    return given.network


def _parse_address(
    role: str, text: str, subnet: IPv4Interface | IPv6Interface, roles: dict[IPAddress, str], problems: list[str]
) -> IPAddress | None:
    """Read the address *text* within *subnet* and enter it into *roles*; *problems* grows by what is wrong with it."""
    try:
        address = ip_address(text if _ADDRESS.fullmatch(text) else "")
    except ValueError:
        problems.append(f"invalid {role}: invalid address")
        return None
    if address.version != subnet.version:
        problems.append(f"invalid {role}: parent subnet is an IPv{subnet.version} block")
    elif address not in subnet.network or _means_any(subnet.network):
        problems.append(f"invalid {role}: parent subnet {subnet} doesn't contain this address")
    elif address in roles:
        problems.append(f"invalid {role}: {address} is used already, by {roles[address]}")
    else:
        roles[address] = f"the {role}"
    return address


def _parse_prefix(text: str) -> IPv4Interface | IPv6Interface:
    """Read an address with its prefix length; ValueError for what Go's netip refuses too, such as masks and zones."""
    return ip_interface(text if _PREFIX.fullmatch(text) else "")


def _means_any(cidr: IPNetwork) -> bool:
    """Tell whether only the size of *cidr* is meant."""
    return cidr.network_address.is_unspecified


def written(first: IPAddress, last: IPAddress) -> str:
    """All addresses from *first* to *last*: as a prefix if they are one, else with a dash between both.

    >>> written(IPv4Address("10.0.0.0"), IPv4Address("10.0.0.255"))
    '10.0.0.0/24'
    >>> written(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"))
    '10.0.0.1-10.0.0.2'
    """
    low, differing = int(first), int(first) ^ int(last)
    if differing & (differing + 1) or low & differing:
        return f"{first}-{last}"
    return f"{first}/{first.max_prefixlen - differing.bit_length()}"


def _ends(cidr: IPNetwork) -> tuple[IPAddress, ...]:
    """List the addresses at the ends of *cidr* that no interface may have.

    The first is that of the network, in IPv6 the routers' anycast address (RFC 4291, 2.6.1); the last is IPv4's
    broadcast. An IPv4 link of two addresses or one (RFC 3021) has neither.
    """
    if cidr.version == 6:
        return (cidr.network_address,)
    return (cidr.network_address, cidr.broadcast_address) if cidr.prefixlen < 31 else ()


def parse_pool(base: str, size: int) -> Pool:
    """Read an entry of `default-address-pools`; `InvalidOption` if the base cannot be cut so."""
    key, entry = "default-address-pools", f"{base} size {size}"
    try:
        given = _parse_prefix(base)
    except ValueError:
        raise InvalidOption(key, entry, "base must be a CIDR block such as 10.200.0.0/16") from None
    network = given.network
    if given.ip != network.network_address:
        raise InvalidOption(key, entry, f"base should be {network}")
    if not network.prefixlen <= size <= _BITS[network.version]:
        raise InvalidOption(key, entry, f"size must be from {network.prefixlen} to {_BITS[network.version]}")
    return Pool(network, size)


def ula_pool(host_id: str) -> Pool:
    """Derive the IPv6 default pool of the host that has this stable ID: /64s out of a unique local /48 (RFC 4193).

    The prefix is the one that moby derives from the same ID. It is meant for hosts whose configured pools have no IPv6.
    """
    global_id = int.from_bytes(sha256(host_id.encode()).digest()[:8], "big") % 2**40
    return Pool(IPv6Network((0xFD << 120 | global_id << 80, 48)), 64)


def choose_subnet(wanted: AnySubnet, pools: Iterable[Pool], taken: Iterable[IPNetwork]) -> IPNetwork:
    """Choose the lowest subnet of *pools* that overlaps nothing in *taken*; `NoMoreSubnets` if there is none.

    *taken* holds the subnets of our networks, what the host routes, and what an administrator denies, in any order and
    of either family. A default route among them leaves room for us, also as the two halves that VPN clients make of it;
    a route to any smaller prefix does not.
    """
    bits = _BITS[wanted.version]
    fitting = [
        (int(pool.base.network_address), pool.base.prefixlen, wanted.size or pool.size)
        for pool in pools
        if pool.base.version == wanted.version and pool.base.prefixlen <= (wanted.size or pool.size)
    ]
    if not fitting and wanted.size is not None:
        raise InvalidRequest(
            f"invalid address pool: no default address pool can hold an IPv{wanted.version} subnet of size "
            f"/{wanted.size}; name the subnet itself, or a smaller size"
        )
    blocks = sorted(
        (start := int(network.network_address), start + (1 << bits - network.prefixlen))
        for network in taken
        if network.version == wanted.version and not _leads_everywhere(network)
    )
    for base, length, size in sorted(fitting):
        step = 1 << bits - size
        candidate = base
        # Blocks come in the order of their starts, so the first gap that is wide enough is the lowest.
        for start, stop in blocks:
            if candidate + step <= start:
                break
            if candidate < stop:
                candidate = -(-stop // step) * step
        if candidate + step <= base + (1 << bits - length):
            return IPv4Network((candidate, size)) if wanted.version == 4 else IPv6Network((candidate, size))
    raise NoMoreSubnets


def _leads_everywhere(route: IPNetwork) -> bool:
    """Tell whether a route to it is a default route, or one of the two halves that VPN clients make of one."""
    return route.prefixlen <= 1


def overlaps(subnet: Subnet, others: Iterable[Subnet]) -> bool:
    """Tell whether *subnet* gives out addresses that one of *others*, in the same segment, may give out too.

    Subnets may overlap only if both give out from ranges that are apart, as Docker's macvlan users have it who share a
    LAN's subnet between networks. (moby also allows overlapping ranges, issue 46756; we do not.) Since a static address
    may lie outside the range, the pool of each knows the addresses of the others.
    """
    return any(
        subnet.cidr.overlaps(other.cidr)
        and (subnet.ip_range is None or other.ip_range is None or subnet.ip_range.overlaps(other.ip_range))
        for other in others
        if other.version == subnet.version
    )


def check_reserved(subnet: Subnet, others: Iterable[Subnet], used: Iterable[IPAddress]) -> None:
    """Raise `AddressInUse` if *subnet* keeps back what *others* in its segment mean for another machine, or is *used*.

    Networks that share a LAN share its router, too, and name it each for itself. So a gateway may be among the others'
    reserved addresses, and an auxiliary address may be theirs under the same name: that is one machine. Two names are
    two machines.
    """
    names = {address: name for other in others for name, address in other.aux}
    for name, address in subnet.aux:
        if names.get(address, name) != name:
            raise AddressInUse(address)
    for address in subnet.reserved.intersection(used):
        raise AddressInUse(address)


def covered(destination: IPNetwork, cidrs: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """List those of *cidrs* over which a route to *destination* lies, be it wider, narrower or the same.

    A default route lies over none, nor do its halves: a subnet's own route is always narrower, and wins.
    """
    if _leads_everywhere(destination):
        return ()
    return tuple(cidr for cidr in cidrs if cidr.overlaps(destination))


def default_gateway(subnet: Subnet, used: Iterable[IPAddress] = ()) -> IPAddress:
    """Choose the gateway of a *subnet* whose user named none: the first address that could be given out.

    So does moby, where the gateway is an ordinary address from the ip-range (`Network.ipamAllocateVersion`); but it
    fails if an auxiliary address sits there, and we step over it, as over what is *used* in the segment.
    `InvalidSubnet` if there is no room.
    """
    try:
        return AddressPool(subnet, used).choose()
    except NoFreeAddress:
        raise _no_room(subnet, "a gateway") from None


def with_host_address(subnet: Subnet, used: Iterable[IPAddress] = ()) -> Subnet:
    """Set aside an address of *subnet* for the host: the last that could be given out. `InvalidSubnet` if none could.

    What is *used* in the segment is passed over.
    """
    try:
        address = AddressPool(subnet, used).last()
    except NoFreeAddress:
        raise _no_room(subnet, "the host") from None
    return replace(subnet, aux=tuple(sorted((*subnet.aux, (HOST_ADDRESS, address)))))


def _no_room(subnet: Subnet, whom: str) -> InvalidSubnet:
    where = f"subnet {subnet.cidr}" if subnet.ip_range is None else f"ip-range {subnet.ip_range}"
    return InvalidSubnet([f"invalid {where}: no address is left for {whom}; name one, or make it bigger"])


class AddressPool:
    """Which addresses of *subnet* are free, when its reserved ones, those *used* and others' *reserved* are not.

    *used* are the addresses of all endpoints in the segment, *reserved* those that its other networks keep back; what
    lies outside the subnet is passed over. The pool is plain memory, made for one thread: it decides nothing and loses
    nothing when it is thrown away and made anew.

    An address may be free and yet be kept for somebody until some time (`keep`). It is then given to anybody who names
    it (`take`), and chosen only when there is nothing else (`choose`, then the first of `kept`).

    Inside are the edges between what can be chosen and what cannot, as sorted offsets from the subnet's first address:
    a run of such addresses is two numbers, however long. An offset cannot be chosen if an odd number of edges lies at
    or below it. To take a free address and to release a taken one are the same act: each of its two edges is put in if
    it lacks and taken out if it stands. Everything is a bisection and at most one small splice, in a /64 as in a /24.
    """

    __slots__ = (
        "_base",
        "_edges",
        "_ends",
        "_first",
        "_in_range",
        "_in_use",
        "_kept",
        "_make",
        "_reserved",
        "_size",
        "_stop",
        "subnet",
    )

    def __init__(self, subnet: Subnet, used: Iterable[IPAddress] = (), reserved: Iterable[IPAddress] = ()) -> None:
        cidr, span = subnet.cidr, subnet.ip_range or subnet.cidr
        self.subnet = subnet
        self._make: Callable[[int], IPAddress] = IPv4Address if cidr.version == 4 else IPv6Address
        self._base = int(cidr.network_address)
        self._size = cidr.num_addresses
        self._first = int(span.network_address) - self._base
        self._stop = self._first + span.num_addresses
        self._reserved = frozenset(self._offsets((*subnet.reserved, *reserved)))
        self._kept: dict[int, int] = {}
        self._ends: list[tuple[int, int]] = []
        taken = sorted(self._reserved.union(self._offsets(used)))
        self._edges: list[int] = []
        for offset in taken:
            if self._edges and self._edges[-1] == offset:
                self._edges[-1] = offset + 1
            else:
                self._edges += (offset, offset + 1)
        self._in_use = len(taken)
        self._in_range = bisect_left(taken, self._stop) - bisect_left(taken, self._first)

    @property
    def in_use(self) -> int:
        """How many addresses of the subnet are not free; at most 2**64 - 1 (`IPsInUse` of Docker's API)."""
        return min(self._in_use, _UINT64_MAX)

    @property
    def available(self) -> int:
        """How many addresses can be given out, kept ones included; at most 2**64 - 1 (Docker's `DynamicIPsAvailable`).

        So an address that is only kept counts as free here, too.
        """
        return min(self._stop - self._first - self._in_range, _UINT64_MAX)

    def choose(self, after: IPAddress | None = None, besides: Container[IPAddress] = ()) -> IPAddress:
        """Choose the first free address of the range that is kept for nobody, or the first such one *after* another.

        Nothing is taken. Without *after* a released address is the next to be given out; with the address that was last
        given out, it stays unused for as long as can be, for the search goes on at the start of the range. *besides*
        are those that are promised already, and not yet taken. `NoFreeAddress` if there is none.
        """
        start = self._first
        if after is not None and after.version == self.subnet.version:
            following = int(after) - self._base + 1
            if self._first < following < self._stop:
                start = following
        for begin in (start, self._first):
            offset = self._free_from(begin)
            while offset < self._stop:
                address = self._make(self._base + offset)
                if address not in besides:
                    return address
                offset = self._free_from(offset + 1)
        raise NoFreeAddress(f"no free address in {self.subnet.ip_range or self.subnet.cidr}")

    def last(self) -> IPAddress:
        """The last free address of the range. Nothing is taken. `NoFreeAddress` if the range is full."""
        offset = self._stop - 1
        at = bisect_right(self._edges, offset)
        if at % 2:
            offset = self._edges[at - 1] - 1
        if offset < self._first:
            raise NoFreeAddress(f"no free address in {self.subnet.ip_range or self.subnet.cidr}")
        return self._make(self._base + offset)

    def kept(self) -> Iterator[tuple[int, IPAddress]]:
        """Give the kept addresses of the range, in the order in which that ends, each after the time when it does."""
        return ((until, self._make(self._base + offset)) for until, offset in self._ends)

    def has(self, address: IPAddress) -> bool:
        """Tell whether *address* is of this subnet, and free, be it kept or not."""
        return any(offset in self._kept or not self._blocked(offset) for offset in self._offsets((address,)))

    def check(self, address: IPAddress) -> None:
        """Raise `AddressInUse` if *address* is not free, `InvalidRequest` if it is not of this subnet."""
        if address not in self.subnet.cidr:
            raise InvalidRequest("requested address is out of range")
        if not self.has(address):
            raise AddressInUse(address)

    def take(self, address: IPAddress) -> None:
        """Count *address* as used, be it in the range or not; raises what `check` raises."""
        self.check(address)
        self.let_go(address)
        self._count(int(address) - self._base, 1)

    def release(self, address: IPAddress) -> None:
        """Count *address* as free; one that is free, reserved or of another subnet stays what it is."""
        for offset in self._offsets((address,)):
            if offset not in self._reserved and offset not in self._kept and self._blocked(offset):
                self._count(offset, -1)

    def keep(self, address: IPAddress, until: int) -> None:
        """Keep *address* for whoever names it; one that is taken, kept or of another subnet stays what it is."""
        for offset in self._offsets((address,)):
            if not self._blocked(offset):
                self._flip(offset)
                self._kept[offset] = until
                if self._first <= offset < self._stop:
                    insort(self._ends, (until, offset))

    def let_go(self, address: IPAddress) -> None:
        """Keep *address* no longer, if it was kept; it is free as before."""
        for offset in self._offsets((address,)):
            if offset in self._kept:
                self._flip(offset)
                end = self._kept.pop(offset), offset
                if self._first <= offset < self._stop:
                    del self._ends[bisect_left(self._ends, end)]

    def _offsets(self, addresses: Iterable[IPAddress]) -> Iterator[int]:
        """Give the offsets of those *addresses* that are of this subnet."""
        version, base, size = self.subnet.version, self._base, self._size
        return (offset for a in addresses if a.version == version and 0 <= (offset := int(a) - base) < size)

    def _blocked(self, offset: int) -> bool:
        """Tell whether it is never chosen: taken or kept."""
        return bisect_right(self._edges, offset) % 2 == 1

    def _free_from(self, offset: int) -> int:
        """Find the first offset from *offset* on that is neither taken nor kept, which may lie beyond the range."""
        at = bisect_right(self._edges, offset)
        return self._edges[at] if at % 2 else offset

    def _count(self, offset: int, change: int) -> None:
        self._flip(offset)
        self._in_use += change
        self._in_range += change if self._first <= offset < self._stop else 0

    def _flip(self, offset: int) -> None:
        """Make the address at *offset* one that can be chosen if it cannot, and the other way round."""
        edges = self._edges
        at = stop = bisect_left(edges, offset)
        while stop < len(edges) and edges[stop] <= offset + 1:
            stop += 1
        standing = edges[at:stop]
        edges[at:stop] = [edge for edge in (offset, offset + 1) if edge not in standing]


def random_mac(random_bytes: bytes) -> str:
    """Make the MAC 02:..., locally administered and unicast, of five *random_bytes*."""
    if len(random_bytes) != 5:
        raise ValueError(f"a MAC needs 5 random bytes, not {len(random_bytes)}")
    return (b"\x02" + random_bytes).hex(":")


def mac_of(address: IPv4Address) -> str:
    """Derive the MAC 02:42:..., which ends in *address*, so that every host of an overlay can tell it unasked."""
    return (b"\x02\x42" + address.packed).hex(":")
