"""Addresses against naive models: sets of addresses, and candidates tried one by one."""

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.addresses import (
    AddressPool,
    AnySubnet,
    IPAddress,
    IPNetwork,
    NoFreeAddress,
    Pool,
    Subnet,
    SubnetRequest,
    choose_subnet,
    default_gateway,
    parse_ipam,
)
from isthmus.errors import AddressInUse, InvalidRequest, InvalidSubnet, NoMoreSubnets

BITS = {4: 32, 6: 128}


def network(version: int, number: int, prefix: int) -> IPNetwork:
    """Make the network of that length which holds the address with that number."""
    start = number >> BITS[version] - prefix << BITS[version] - prefix
    return IPv4Network((start, prefix)) if version == 4 else IPv6Network((start, prefix))


@st.composite
def networks(draw: st.DrawFn, version: int, host_bits: int) -> IPNetwork:
    """Draw networks of at most 2**host_bits addresses, also at the very ends of the address space."""
    bits = BITS[version]
    number = draw(st.integers(0, 2**bits - 1) | st.sampled_from([1 << bits - 4, 2**bits - 1]))
    return network(version, number, bits - draw(st.integers(0, host_bits)))


@st.composite
def subnets(draw: st.DrawFn) -> Subnet:
    """Draw subnets of up to 64 addresses with or without a range, a gateway and auxiliary addresses."""
    cidr = draw(networks(draw(st.sampled_from([4, 6])), 6))
    inside = st.integers(0, cidr.num_addresses - 1)
    ip_range = None
    if draw(st.booleans()):
        number = int(cidr.network_address) + draw(inside)
        ip_range = network(cidr.version, number, draw(st.integers(cidr.prefixlen, BITS[cidr.version])))
    gateway = cidr[draw(inside)] if draw(st.booleans()) else None
    aux = tuple((f"aux{number}", cidr[number]) for number in sorted(draw(st.sets(inside, max_size=4))))
    return Subnet(cidr, gateway, ip_range, aux)


def kept_back(subnet: Subnet) -> set[IPAddress]:
    """List the addresses that are nobody's, by the definition of each."""
    kept = {address for _, address in subnet.aux} | ({subnet.gateway} if subnet.gateway else set())
    if subnet.cidr.version == 6:
        kept.add(subnet.cidr.network_address)
    elif subnet.cidr.num_addresses > 2:
        kept |= {subnet.cidr.network_address, subnet.cidr.broadcast_address}
    return kept


@st.composite
def histories(draw: st.DrawFn) -> tuple[Subnet, set[IPAddress], list[tuple[str, IPAddress]]]:
    """Draw a subnet, the addresses used at the start, and what happens then, in and near the subnet."""
    subnet = draw(subnets())
    first, bits = int(subnet.cidr.network_address), BITS[subnet.version]
    near = st.integers(max(0, first - 2), min(2**bits - 1, first + subnet.cidr.num_addresses + 1))
    address = near.map(lambda number: network(subnet.version, number, bits).network_address)
    used = draw(st.sets(address, max_size=40))
    events = st.sampled_from(["take", "release", "choose", "keep", "let go"])
    return subnet, used, draw(st.lists(st.tuples(events, address), max_size=40))


@given(histories())
def test_a_pool_behaves_as_a_set_of_addresses(
    history: tuple[Subnet, set[IPAddress], list[tuple[str, IPAddress]]],
) -> None:
    """No address is given out twice, none is lost, and those that are kept come last, whatever the order of events."""
    subnet, used, events = history
    reserved = kept_back(subnet)
    assert subnet.reserved == reserved
    taken = reserved | {address for address in used if address in subnet.cidr}
    kept: dict[IPAddress, int] = {}
    span = list(subnet.ip_range or subnet.cidr)
    pool = AddressPool(subnet, used)
    for moment, (event, address) in enumerate(events):
        until = -moment if moment % 3 else moment
        free = [candidate for candidate in span if candidate not in taken and candidate not in kept]
        match event:
            case "take" if address not in subnet.cidr:
                with pytest.raises(InvalidRequest):
                    pool.take(address)
            case "take" if address in taken:
                with pytest.raises(AddressInUse):
                    pool.take(address)
            case "take":
                pool.take(address)
                taken.add(address)
                kept.pop(address, None)
            case "keep":
                pool.keep(address, until)
                if address in subnet.cidr and address not in taken:
                    kept.setdefault(address, until)
            case "let go":
                pool.let_go(address)
                kept.pop(address, None)
            case "release":
                pool.release(address)
                taken -= {address} - reserved
            case _ if not free:
                with pytest.raises(NoFreeAddress):
                    pool.choose()
                with pytest.raises(NoFreeAddress):
                    pool.last()
                with pytest.raises(NoFreeAddress):
                    pool.choose(address)
            case _:
                first = pool.choose()
                assert first == free[0]
                later = [candidate for candidate in free if address in span and int(candidate) > int(address)]
                assert pool.choose(address) == (later or free)[0]
                assert pool.last() == free[-1]
                if free[1:]:
                    assert pool.choose(None, {first}) == free[1]
        assert pool.in_use == len(taken)
        assert pool.available == sum(candidate not in taken for candidate in span)
        assert pool.has(address) == (address in subnet.cidr and address not in taken)
        assert list(pool.kept()) == sorted((end, one) for one, end in kept.items() if one in span)


@given(histories())
def test_a_pool_made_anew_is_the_same_pool(history: tuple[Subnet, set[IPAddress], list[tuple[str, IPAddress]]]) -> None:
    """A restart knows only the records; it must give out what the daemon before would have given out."""
    subnet, used, events = history
    pool, records = AddressPool(subnet, used), {address for address in used if address in subnet.cidr}
    for event, address in events:
        if event == "release":
            pool.release(address)
            records.discard(address)
        elif event == "take" and address in subnet.cidr and address not in records | kept_back(subnet):
            pool.take(address)
            records.add(address)
    anew = AddressPool(subnet, records)
    assert (anew.in_use, anew.available) == (pool.in_use, pool.available)
    for address in subnet.cidr:
        for one, other in ((pool, anew), (anew, pool)):
            try:
                one.check(address)
            except AddressInUse:
                with pytest.raises(AddressInUse):
                    other.check(address)


@given(subnets())
def test_a_default_gateway_is_an_address_that_an_endpoint_could_have_had(subnet: Subnet) -> None:
    """Whatever is reserved, the gateway of our choice is nobody else's; or we say that there is none."""
    unnamed = Subnet(subnet.cidr, None, subnet.ip_range, subnet.aux)
    free = [address for address in subnet.ip_range or subnet.cidr if address not in kept_back(unnamed)]
    if free:
        assert default_gateway(unnamed) == free[0]
    else:
        with pytest.raises(InvalidSubnet):
            default_gateway(unnamed)


@st.composite
def pools(draw: st.DrawFn, version: int) -> Pool:
    """Draw pools within one /24 or /120, so that they meet each other and what is taken."""
    bits = BITS[version]
    length = st.integers(bits - 8, bits - 5) | st.integers(bits - 8, bits)
    base = network(version, (10 << bits - 8) + draw(st.integers(0, 255)), draw(length))
    return Pool(base, draw(st.integers(base.prefixlen, bits)))


@given(st.sampled_from([4, 6]), st.data())
def test_a_chosen_subnet_is_the_first_that_overlaps_nothing(version: int, data: st.DataObject) -> None:
    """The jumps over what is taken must not jump over what is free."""
    bits = BITS[version]
    known = data.draw(st.lists(pools(version), max_size=3))
    size = data.draw(st.none() | st.integers(bits - 8, bits))
    small, wide = (
        st.builds(
            lambda offset, prefix: network(version, (10 << bits - 8) + offset, prefix), st.integers(0, 255), prefix
        )
        for prefix in (st.integers(bits - 5, bits), st.sampled_from([0, 8, bits - 8, bits - 6]))
    )
    taken = [*data.draw(st.lists(small, max_size=20)), ip_network("0.0.0.0/0"), ip_network("::/0")]
    taken += data.draw(st.just([]) | st.lists(wide, max_size=1))
    real = [one for one in taken if one.version == version and one.prefixlen]
    fitting = sorted((pool.base, size or pool.size) for pool in known if pool.base.prefixlen <= (size or pool.size))
    free = (
        candidate
        for base, length in fitting
        for candidate in base.subnets(new_prefix=length)
        if not any(candidate.overlaps(one) for one in real)
    )
    expected = next(free, None)
    if expected is None:
        with pytest.raises(InvalidRequest if size and not fitting else NoMoreSubnets):
            choose_subnet(AnySubnet(version, size), known, taken)
    else:
        assert choose_subnet(AnySubnet(version, size), known, taken) == expected


def hostile() -> st.SearchStrategy[str]:
    """Draw strings that are nearly addresses and networks, and strings that are not."""
    pieces = st.sampled_from(
        [
            "10.0.0.0",
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "fe80::",
            "ff02::1",
            "fd00:1::",
            "::ffff:10.0.0.1",
            "10.0",
            "01.2.3.4",
        ]
    )
    lengths = st.sampled_from(
        ["", "/0", "/8", "/24", "/31", "/32", "/33", "/64", "/128", "/129", "/-1", "/08", "/²", "/24/24"]
    )
    zones = st.sampled_from(["", "", "", "%eth0", "\n", " ", "\0"])
    return st.text(max_size=20) | st.builds("".join, st.tuples(pieces, zones, lengths, zones))


@given(
    st.lists(
        st.builds(
            SubnetRequest,
            hostile(),
            hostile(),
            hostile(),
            st.lists(st.tuples(st.text(max_size=5), hostile())).map(tuple),
        ),
        max_size=3,
    ),
    st.fixed_dictionaries({"ipv4": st.booleans(), "ipv6": st.booleans()}),
)
def test_hostile_configurations_are_refused_or_sound(requests: list[SubnetRequest], on: dict[str, bool]) -> None:
    """Only one kind of error comes out, and what is let through can be worked with."""
    try:
        parsed = parse_ipam(requests, **on)
    except InvalidSubnet:
        return
    for subnet in parsed:
        assert on[f"ipv{subnet.version}"]
        if isinstance(subnet, Subnet):
            inside = [subnet.gateway, *(address for _, address in subnet.aux)]
            assert all(address in subnet.cidr for address in inside if address is not None)
            assert len(set(inside)) == len(inside)
            assert AddressPool(subnet).available >= 0


@given(subnets())
def test_a_sound_configuration_comes_back_as_it_was_meant(subnet: Subnet) -> None:
    """Parsing refuses nothing that Docker allows, point-to-point links included."""
    roles = [address for address in (subnet.gateway, *(address for _, address in subnet.aux)) if address is not None]
    own = kept_back(Subnet(subnet.cidr))
    request = SubnetRequest(
        str(subnet.cidr),
        str(subnet.ip_range or ""),
        str(subnet.gateway or ""),
        tuple((name, str(address)) for name, address in subnet.aux),
    )
    first = subnet.cidr.network_address
    strange = first.is_multicast or first.is_unspecified or (subnet.version == 6 and first.is_link_local)
    if strange or (subnet.version == 6 and int(first) >> 32 == 0xFFFF):
        return
    if len(set(roles)) < len(roles) or own & set(roles):
        with pytest.raises(InvalidSubnet):
            parse_ipam([request], ipv4=True, ipv6=True)
    else:
        assert parse_ipam([request], ipv4=True, ipv6=True) == (
            Subnet(subnet.cidr, subnet.gateway, subnet.ip_range, tuple(sorted(subnet.aux))),
        )
