"""Subnets and addresses: Docker's rules, Docker's words."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from isthmus.addresses import (
    DEFAULT_POOLS,
    GLOBAL_POOLS,
    AddressPool,
    AnySubnet,
    IPAddress,
    NoFreeAddress,
    Pool,
    Subnet,
    SubnetRequest,
    check_reserved,
    choose_subnet,
    complete,
    covered,
    default_gateway,
    mac_of,
    overlaps,
    parse_ipam,
    parse_pool,
    random_mac,
    ula_pool,
)
from isthmus.errors import AddressInUse, InvalidOption, InvalidRequest, InvalidSubnet, NoMoreSubnets


def subnet(cidr: str, gateway: str = "", ip_range: str = "", **aux: str) -> Subnet:
    """Make the subnet that these strings describe."""
    return Subnet(
        ip_network(cidr),
        ip_address(gateway) if gateway else None,
        ip_network(ip_range) if ip_range else None,
        tuple((name, ip_address(value)) for name, value in sorted(aux.items())),
    )


def everything(pool: AddressPool) -> list[str]:
    """List all addresses that *pool* gives out, in its order."""
    given: list[IPAddress] = []
    while pool.available:
        given.append(pool.choose(given[-1] if given else None))
        pool.take(given[-1])
    return [str(address) for address in given]


def problems(*requests: SubnetRequest, ipv6: bool = True) -> tuple[str, ...]:
    """Tell what is wrong with *requests*."""
    with pytest.raises(InvalidSubnet) as refusal:
        parse_ipam(requests, ipv4=True, ipv6=ipv6)
    return refusal.value.problems


def test_a_whole_configuration_is_parsed() -> None:
    """The example of every LAN: range, router and a reserved address."""
    request = SubnetRequest("10.0.36.0/24", "10.0.36.192/27", "10.0.36.254", (("host", "10.0.36.223"),))
    expected = subnet("10.0.36.0/24", "10.0.36.254", "10.0.36.192/27", host="10.0.36.223")
    assert parse_ipam([request], ipv4=True, ipv6=False) == (expected,)


def test_ipv4_comes_first_and_aux_addresses_are_sorted() -> None:
    """Docker shows the IPv4 configuration first, and values must compare whatever order the user chose."""
    requests = [
        SubnetRequest("fd00:5::/64"),
        SubnetRequest("10.5.0.0/24", aux=(("b", "10.5.0.2"), ("a", "10.5.0.3"))),
        SubnetRequest("10.6.0.0/24"),
    ]
    expected = (subnet("10.5.0.0/24", a="10.5.0.3", b="10.5.0.2"), subnet("10.6.0.0/24"), subnet("fd00:5::/64"))
    assert parse_ipam(requests, ipv4=True, ipv6=True) == expected


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (SubnetRequest("10.0.0.1/24"), ["invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"]),
        (SubnetRequest("foobar"), ["invalid subnet foobar: invalid CIDR block notation"]),
        (SubnetRequest("10.0.0.0"), ["invalid subnet 10.0.0.0: invalid CIDR block notation"]),
        (
            SubnetRequest("10.0.0.0/255.255.255.0"),
            ["invalid subnet 10.0.0.0/255.255.255.0: invalid CIDR block notation"],
        ),
        (
            SubnetRequest("10.10.10.0/24", "10.0.0.0/8"),
            ["invalid ip-range 10.0.0.0/8: CIDR block is bigger than its parent subnet 10.10.10.0/24"],
        ),
        (
            SubnetRequest("10.0.0.0/8", "192.168.0.1/24", "192.168.0.1", (("router", "192.168.0.1"),)),
            [
                "invalid ip-range 192.168.0.1/24: it should be 192.168.0.0/24",
                "invalid ip-range 192.168.0.1/24: parent subnet 10.0.0.0/8 doesn't contain ip-range",
                "invalid gateway 192.168.0.1: parent subnet 10.0.0.0/8 doesn't contain this address",
                "invalid auxiliary address router: parent subnet 10.0.0.0/8 doesn't contain this address",
            ],
        ),
        (
            SubnetRequest("10.10.10.0/24", "foobar", "1001.10.5.3", (("router", "dummy"),)),
            [
                "invalid ip-range foobar: invalid CIDR block notation",
                "invalid gateway 1001.10.5.3: invalid address",
                "invalid auxiliary address router: invalid address",
            ],
        ),
        (
            SubnetRequest("10.10.10.0/24", "fd00::/64", "fd00::1", (("router", "fd00::1"),)),
            [
                "invalid ip-range fd00::/64: parent subnet is an IPv4 block",
                "invalid gateway fd00::1: parent subnet is an IPv4 block",
                "invalid auxiliary address router: parent subnet is an IPv4 block",
            ],
        ),
        (
            SubnetRequest(gateway="10.0.0.1"),
            ["invalid gateway 10.0.0.1: it must have a corresponding subnet"],
        ),
        (
            SubnetRequest("ff02::/64"),
            ["invalid subnet ff02::/64: multicast subnet 'ff02::/64' is not allowed"],
        ),
        (
            SubnetRequest("fe80::/64", gateway="fe80::1%eth0"),
            ["invalid gateway fe80::1%eth0: invalid address"],
        ),
        (
            SubnetRequest("fe80::/80"),
            ["invalid subnet fe80::/80: 'fe80::/80' clashes with the Link-Local prefix 'fe80::/64'"],
        ),
        (
            SubnetRequest("0.0.0.0/24", "0.0.0.0/25", "0.0.0.1"),
            [
                "invalid ip-range 0.0.0.0/25: parent subnet 0.0.0.0/24 doesn't contain ip-range",
                "invalid gateway 0.0.0.1: parent subnet 0.0.0.0/24 doesn't contain this address",
            ],
        ),
        (
            SubnetRequest("10.0.0.0/24", gateway="10.0.0.255"),
            ["invalid gateway 10.0.0.255: 10.0.0.255 is used already, by the subnet itself"],
        ),
        (
            SubnetRequest("10.0.0.0/24", gateway="10.0.0.9", aux=(("nas", "10.0.0.9"),)),
            ["invalid auxiliary address nas: 10.0.0.9 is used already, by the gateway 10.0.0.9"],
        ),
    ],
)
def test_bad_configurations_are_refused_in_dockers_words(request_: SubnetRequest, expected: list[str]) -> None:
    """Users and their tools know these sentences."""
    assert list(problems(request_)) == expected


def test_the_problems_of_all_subnets_are_told_at_once() -> None:
    """A user should not have to try once for each mistake."""
    assert len(problems(SubnetRequest("10.0.0.1/24"), SubnetRequest("nonsense"), SubnetRequest("fd00::1/64"))) == 3


def test_a_subnet_of_a_family_that_is_off_is_ignored() -> None:
    """Docker takes an IPv6 subnet without --ipv6 for a leftover, even one that would be refused."""
    requests = [SubnetRequest("fe80::1/80"), SubnetRequest("10.0.0.0/24")]
    assert parse_ipam(requests, ipv4=True, ipv6=False) == (subnet("10.0.0.0/24"),)


def test_an_empty_configuration_is_ignored() -> None:
    """Compose and docker-py send `"Config": [{}]` for a network without wishes."""
    assert parse_ipam([SubnetRequest()], ipv4=True, ipv6=False) == ()


def test_link_local_is_allowed_in_exactly_its_own_form() -> None:
    """Linux puts every interface into fe80::/64 anyway, so this very prefix does no harm."""
    assert parse_ipam([SubnetRequest("fe80::/64")], ipv4=True, ipv6=True) == (subnet("fe80::/64"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0/24", AnySubnet(4, 24)),
        ("::/96", AnySubnet(6, 96)),
        ("0.0.0.0/0", AnySubnet(4)),
        ("::/0", AnySubnet(6)),
    ],
)
def test_the_unspecified_address_means_any_subnet_of_that_size(text: str, expected: AnySubnet) -> None:
    """Since Docker 29 a user can ask for a size alone."""
    assert parse_ipam([SubnetRequest(text)], ipv4=True, ipv6=True) == (expected,)


def test_each_family_that_is_on_gets_a_subnet() -> None:
    """A dual-stack network whose user wrote an IPv4 subnet still needs one for IPv6."""
    given = subnet("10.0.0.0/24")
    assert complete([given], ipv4=True, ipv6=True) == (given, AnySubnet(6))
    assert complete([], ipv4=True, ipv6=False) == (AnySubnet(4),)
    assert complete([], ipv4=False, ipv6=False) == ()


def test_the_first_default_subnets_are_dockers() -> None:
    """Firewalls and VPNs out there are set up around 172.17.0.0/16 and what follows."""
    taken: list[IPv4Network | IPv6Network] = []
    for _ in range(31):
        taken.append(choose_subnet(AnySubnet(4), DEFAULT_POOLS, taken))
    assert [str(network) for network in taken[:15]] == [f"172.{n}.0.0/16" for n in range(17, 32)]
    assert [str(network) for network in taken[15:]] == [f"192.168.{n}.0/20" for n in range(0, 256, 16)]
    with pytest.raises(NoMoreSubnets):
        choose_subnet(AnySubnet(4), DEFAULT_POOLS, taken)


def test_a_route_of_the_host_keeps_its_prefix() -> None:
    """A network over the VPN's prefix would cut the host off from it."""
    routes = [ip_network("172.16.0.0/14"), ip_network("172.20.5.0/24"), ip_network("fd00::/8")]
    assert choose_subnet(AnySubnet(4), DEFAULT_POOLS, routes) == ip_network("172.21.0.0/16")


def test_default_routes_keep_nothing() -> None:
    """Every host has one, and many VPN clients write it as two halves."""
    routes = [ip_network("0.0.0.0/0"), ip_network("0.0.0.0/1"), ip_network("128.0.0.0/1")]
    assert choose_subnet(AnySubnet(4), DEFAULT_POOLS, routes) == ip_network("172.17.0.0/16")


def test_a_size_can_be_asked_for() -> None:
    """`--subnet 0.0.0.0/24` cuts a /24 from the first pool with room for one."""
    taken = [ip_network("172.17.0.0/24")]
    assert choose_subnet(AnySubnet(4, 24), DEFAULT_POOLS, taken) == ip_network("172.17.1.0/24")
    assert choose_subnet(AnySubnet(4, 14), DEFAULT_POOLS, taken) == ip_network("172.20.0.0/14")


def test_a_small_subnet_in_the_way_moves_the_choice_to_the_next_boundary() -> None:
    """A subnet must start at a multiple of its size."""
    assert choose_subnet(AnySubnet(4), DEFAULT_POOLS[3:4], [ip_network("172.20.7.0/24")]) == ip_network("172.21.0.0/16")


def test_a_size_that_no_pool_can_hold_is_named() -> None:
    """'All pools are used up' would send the user looking for networks to remove."""
    with pytest.raises(InvalidRequest, match="no default address pool can hold an IPv4 subnet of size /8"):
        choose_subnet(AnySubnet(4, 8), DEFAULT_POOLS, [])


def test_global_networks_come_from_ten_slash_eight() -> None:
    """Overlay networks have a pool of their own, so that they cannot meet the bridges of any host."""
    assert choose_subnet(AnySubnet(4), GLOBAL_POOLS, [ip_network("10.0.0.0/24")]) == ip_network("10.0.1.0/24")


def test_ipv6_subnets_come_from_the_hosts_own_ula_prefix() -> None:
    """Stable for one host and different from its neighbours, without any configuration (moby's derivation)."""
    pool = ula_pool("some-host")
    assert pool == ula_pool("some-host")
    assert pool.base.network_address in IPv6Network("fd00::/8")
    assert pool.base.prefixlen == 48
    assert pool.base != ula_pool("another-host").base
    first = choose_subnet(AnySubnet(6), [*DEFAULT_POOLS, pool], [])
    assert first == IPv6Network((int(pool.base.network_address), 64))


def test_a_configured_pool_is_parsed() -> None:
    """`default-address-pools` of daemon.json."""
    assert parse_pool("10.200.0.0/16", 24) == Pool(ip_network("10.200.0.0/16"), 24)


@pytest.mark.parametrize(
    ("base", "size", "hint"),
    [
        ("10.200.0.1/16", 24, "base should be 10.200.0.0/16"),
        ("10.200.0.0/16", 8, "size must be from 16 to 32"),
        ("10.200.0.0/16", 33, "size must be from 16 to 32"),
        ("ten", 24, "base must be a CIDR block"),
    ],
)
def test_a_pool_that_cannot_be_cut_is_refused(base: str, size: int, hint: str) -> None:
    """A daemon that starts with half its pools would surprise at the tenth network."""
    with pytest.raises(InvalidOption, match=hint):
        parse_pool(base, size)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (subnet("10.0.0.0/24"), subnet("10.0.0.0/24")),
        (subnet("10.0.0.0/16"), subnet("10.0.3.0/24")),
        (subnet("10.0.0.0/24", ip_range="10.0.0.0/25"), subnet("10.0.0.0/24")),
        (subnet("10.0.0.0/24", ip_range="10.0.0.0/25"), subnet("10.0.0.0/24", ip_range="10.0.0.0/26")),
    ],
)
def test_subnets_overlap_if_they_could_give_out_the_same_address(one: Subnet, other: Subnet) -> None:
    """The first thing that goes wrong on a network, and the last that its users suspect."""
    assert overlaps(one, [other])
    assert overlaps(other, [one])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (subnet("10.0.0.0/24"), subnet("10.0.1.0/24")),
        (subnet("10.0.0.0/24", ip_range="10.0.0.0/25"), subnet("10.0.0.0/24", ip_range="10.0.0.128/25")),
        (subnet("10.0.0.0/24"), subnet("fd00::/64")),
    ],
)
def test_subnets_whose_ranges_are_apart_do_not_overlap(one: Subnet, other: Subnet) -> None:
    """Two macvlan networks may share the subnet of their LAN."""
    assert not overlaps(one, [other])
    assert not overlaps(other, [one])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (subnet("10.0.0.0/24", "10.0.0.254"), subnet("10.0.0.0/24", "10.0.0.254")),
        (subnet("10.0.0.0/24", nas="10.0.0.9"), subnet("10.0.0.0/24", nas="10.0.0.9")),
        (subnet("10.0.0.0/24", "10.0.0.9"), subnet("10.0.0.0/24", host="10.0.0.9")),
    ],
)
def test_networks_of_a_segment_may_name_the_same_machine(one: Subnet, other: Subnet) -> None:
    """A LAN has one router and one NAS, however many networks share it."""
    check_reserved(one, [other], [])
    check_reserved(other, [one], [])


def test_two_names_for_an_address_are_two_machines() -> None:
    """One of them would be wrong, and nobody would find out which."""
    with pytest.raises(AddressInUse):
        check_reserved(subnet("10.0.0.0/24", nas="10.0.0.9"), [subnet("10.0.0.0/24", printer="10.0.0.9")], [])


@pytest.mark.parametrize("taken", ["10.0.0.254", "10.0.0.9", "10.0.0.255"])
def test_what_an_endpoint_has_cannot_be_kept_back(taken: str) -> None:
    """Be it the gateway, an auxiliary address, or where the new subnet ends within the old."""
    with pytest.raises(AddressInUse):
        check_reserved(subnet("10.0.0.0/24", "10.0.0.254", nas="10.0.0.9"), [], [ip_address(taken)])


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("10.5.0.0/24", ["10.5.0.0/24"]),
        ("10.5.0.7/32", ["10.5.0.0/24"]),
        ("10.0.0.0/8", ["10.5.0.0/24", "10.6.0.0/24"]),
        ("10.7.0.0/16", []),
        ("0.0.0.0/0", []),
        ("128.0.0.0/1", []),
        ("fd00::/8", ["fd00:5::/64"]),
        ("8000::/1", []),
    ],
)
def test_a_route_lies_over_subnets_unless_it_is_a_default_route(destination: str, expected: list[str]) -> None:
    """A VPN's prefix takes packets away from a network; a way out takes none."""
    cidrs = [ip_network(text) for text in ("10.5.0.0/24", "10.6.0.0/24", "fd00:5::/64")]
    assert [str(one) for one in covered(ip_network(destination), cidrs)] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (subnet("10.5.0.0/24"), "10.5.0.1"),
        (subnet("10.5.0.0/24", ip_range="10.5.0.128/25"), "10.5.0.128"),
        (subnet("10.5.0.0/24", router="10.5.0.1"), "10.5.0.2"),
        (subnet("10.5.0.0/31"), "10.5.0.0"),
        (subnet("10.5.0.7/32"), "10.5.0.7"),
        (subnet("fd00:5::/64"), "fd00:5::1"),
    ],
)
def test_the_default_gateway_is_the_first_address_to_give_out(given: Subnet, expected: str) -> None:
    """As in Docker, where the gateway comes from the ip-range like any other address."""
    assert str(default_gateway(given)) == expected


def test_a_subnet_without_room_for_a_gateway_is_refused() -> None:
    """The only address of this range is the network's own."""
    with pytest.raises(InvalidSubnet, match=r"invalid ip-range 10\.5\.0\.0/32: no address is left for a gateway"):
        default_gateway(subnet("10.5.0.0/24", ip_range="10.5.0.0/32"))


def test_a_range_of_one_address_gives_out_exactly_one() -> None:
    """`--ip-range=10.0.36.115/32 --gateway=10.0.36.254`: the second container gets a refusal."""
    pool = AddressPool(subnet("10.0.36.0/24", "10.0.36.254", "10.0.36.115/32"))
    assert everything(pool) == ["10.0.36.115"]
    with pytest.raises(NoFreeAddress):
        pool.choose()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (subnet("10.5.0.0/29", "10.5.0.1"), [f"10.5.0.{n}" for n in (2, 3, 4, 5, 6)]),
        (subnet("10.5.0.0/29", "10.5.0.6", nas="10.5.0.3"), [f"10.5.0.{n}" for n in (1, 2, 4, 5)]),
        (subnet("10.5.0.0/24", "10.5.0.1", "10.5.0.4/30", nas="10.5.0.6"), [f"10.5.0.{n}" for n in (4, 5, 7)]),
        (subnet("10.5.0.0/31", "10.5.0.0"), ["10.5.0.1"]),
        (subnet("10.5.0.0/31"), ["10.5.0.0", "10.5.0.1"]),
        (subnet("10.5.0.7/32"), ["10.5.0.7"]),
        (subnet("fd00:5::/126", "fd00:5::1"), ["fd00:5::2", "fd00:5::3"]),
    ],
)
def test_what_is_given_out(given: Subnet, expected: list[str]) -> None:
    """All of the range but the subnet's ends, the gateway and the auxiliary addresses."""
    assert everything(AddressPool(given)) == expected


def test_the_order_is_the_callers_choice() -> None:
    """A released address comes back at once, or as late as can be."""
    pool = AddressPool(subnet("10.5.0.0/29", "10.5.0.1"))
    for n in (2, 3):
        pool.take(IPv4Address(f"10.5.0.{n}"))
    pool.release(IPv4Address("10.5.0.2"))
    assert str(pool.choose()) == "10.5.0.2"
    assert str(pool.choose(after=IPv4Address("10.5.0.3"))) == "10.5.0.4"
    assert str(pool.choose(after=IPv4Address("10.5.0.6"))) == "10.5.0.2"
    assert str(pool.choose(after=IPv4Address("192.0.2.1"))) == "10.5.0.2"


def test_choosing_takes_nothing() -> None:
    """Only the commit of a record takes an address, so a failed attach cannot leak one."""
    pool = AddressPool(subnet("10.5.0.0/24"))
    assert pool.choose() == pool.choose()


@pytest.mark.parametrize("address", ["10.5.0.0", "10.5.0.255", "10.5.0.1", "10.5.0.9", "10.5.0.77"])
def test_an_address_that_is_not_free_cannot_be_taken(address: str) -> None:
    """Network, broadcast, gateway, auxiliary or another endpoint's: a static address must be nobody else's."""
    pool = AddressPool(subnet("10.5.0.0/24", "10.5.0.1", nas="10.5.0.9"), [IPv4Address("10.5.0.77")])
    with pytest.raises(AddressInUse, match="Address already in use"):
        pool.take(IPv4Address(address))


def test_a_kept_address_is_free_to_whoever_names_it() -> None:
    """It is passed over by choices, and counts for nothing."""
    pool = AddressPool(subnet("10.5.0.0/29", "10.5.0.1"))
    for number, until in ((2, 30), (3, 10), (4, 20)):
        pool.keep(IPv4Address(f"10.5.0.{number}"), until)
    assert str(pool.choose()) == "10.5.0.5"
    assert (pool.in_use, pool.available) == (3, 5)
    assert [until for until, _ in pool.kept()] == [10, 20, 30]
    pool.take(IPv4Address("10.5.0.3"))
    pool.let_go(IPv4Address("10.5.0.3"))
    assert not pool.has(IPv4Address("10.5.0.3"))
    assert [str(address) for _, address in pool.kept()] == ["10.5.0.4", "10.5.0.2"]


def test_what_others_reserve_in_the_segment_is_not_given_out() -> None:
    """The neighbour network's router is a router for this one, too."""
    pool = AddressPool(subnet("10.5.0.0/29", "10.5.0.1"), reserved=[IPv4Address("10.5.0.2"), IPv4Address("192.0.2.1")])
    pool.release(IPv4Address("10.5.0.2"))
    assert str(pool.choose()) == "10.5.0.3"
    assert pool.in_use == 4


@pytest.mark.parametrize("address", ["10.5.1.0", "10.4.255.255", "fd00::1"])
def test_an_address_outside_is_refused(address: str) -> None:
    """Docker's words for an address of another subnet."""
    with pytest.raises(InvalidRequest, match="requested address is out of range"):
        AddressPool(subnet("10.5.0.0/24")).take(ip_address(address))


def test_a_static_address_may_lie_outside_the_range() -> None:
    """The range binds us, not the user."""
    pool = AddressPool(subnet("10.5.0.0/24", ip_range="10.5.0.128/25"))
    pool.take(IPv4Address("10.5.0.9"))
    assert (pool.in_use, pool.available) == (3, 127)


def test_what_is_reserved_cannot_be_released() -> None:
    """Else a stray release would give the gateway's address to a container."""
    pool = AddressPool(subnet("10.5.0.0/24", "10.5.0.1"))
    for address in ("10.5.0.0", "10.5.0.1", "10.5.0.77", "192.0.2.1", "fd00::1"):
        pool.release(ip_address(address))
    assert str(pool.choose()) == "10.5.0.2"
    assert pool.in_use == 3


def test_the_counters_count_as_dockers_status_does() -> None:
    """As in TestBridgeIPAMStatus of moby: a /24 with a range of two, an auxiliary address in it and one outside."""
    given = subnet("192.168.0.0/24", "192.168.0.1", "192.168.0.64/31", inside="192.168.0.65", outside="192.168.0.128")
    pool = AddressPool(given)
    assert (pool.in_use, pool.available) == (5, 1)


def test_the_counters_of_a_huge_subnet_saturate() -> None:
    """JSON numbers of the API are uint64."""
    assert AddressPool(subnet("fd00::/48")).available == 2**64 - 1
    assert AddressPool(subnet("fd00::/64")).available == 2**64 - 1
    assert AddressPool(subnet("fd00::/65")).available == 2**63 - 1


def test_random_macs_are_local_and_unicast() -> None:
    """Any other first byte would claim a vendor's number or a multicast group."""
    assert random_mac(bytes([1, 2, 3, 4, 0xFF])) == "02:01:02:03:04:ff"
    with pytest.raises(ValueError, match="5 random bytes"):
        random_mac(b"")


def test_an_overlay_mac_is_derived_from_the_address() -> None:
    """Every host can write a neighbour entry without having been told the MAC."""
    assert mac_of(IPv4Address("10.0.1.2")) == "02:42:0a:00:01:02"
