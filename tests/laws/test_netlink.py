"""What is written is what is read; and whatever is read, reading ends with a value or a DecodeError."""

from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from struct import pack

from hypothesis import example, given
from hypothesis import strategies as st

from isthmus.kernel import netlink, nfnetlink, tc
from isthmus.model import IPAddress, IPInterface
from isthmus.naming import FILTER_PRIORITY, PROTOCOL, RULE_PRIORITY

names = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/"), min_size=1, max_size=15)
aliases = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=255)
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
indexes = st.integers(1, 2**31 - 1)
numbers = st.integers(1, 2**32 - 1)
addresses: st.SearchStrategy[IPAddress] = st.ip_addresses()
maybe = st.none() | st.booleans()


@st.composite
def interfaces(draw: st.DrawFn) -> IPInterface:
    """Draw an address with the prefix of its network."""
    if draw(st.booleans()):
        return IPv4Interface((draw(st.ip_addresses(v=4)), draw(st.integers(0, 32))))
    return IPv6Interface((draw(st.ip_addresses(v=6)), draw(st.integers(0, 128))))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=5)), max_size=4), st.binary(max_size=3), st.integers(0, 9)
)
@example([(1, b"a"), (2, b"b")], b"", 0)
@example([(1, b"a"), (3, b"b")], b"", 0)
@example([(1, b"abcde")], b"", 4)
def test_attributes_are_read_wherever_they_are(attributes: list[tuple[int, bytes]], rest: bytes, before: int) -> None:
    """What was read of one message is no guess about another that has its length."""
    message = bytes(before) + b"".join(netlink.attribute(*one) for one in attributes) + rest
    assert netlink.attributes(message, before) == dict(attributes)


@given(names, indexes, macs, numbers, st.sampled_from(netlink.MacvlanMode))
def test_a_link_is_read_as_it_was_written(
    name: str, index: int, mac: str, number: int, mode: netlink.MacvlanMode
) -> None:
    """Else the difference between what is wanted and what is there never ends."""
    data = netlink.macvlan(mode)
    link = netlink.link(
        netlink.newlink(
            "macvlan", name, index=index, parent=index, mac=mac, mtu=number, group=number, up=True, data=data
        )
    )
    assert (link.kind, link.name, link.ifindex, link.link, link.mac) == ("macvlan", name, index, index, mac)
    assert (link.mtu, link.group, link.up, link.macvlan_mode) == (number, number, True, mode)


@given(indexes, aliases, maybe, maybe, st.none() | st.sampled_from(netlink.AddrGenMode))
def test_a_change_is_read_as_it_was_written(
    index: int,
    alias: str,
    isolated: bool | None,  # noqa: FBT001 (drawn)
    hairpin: bool | None,  # noqa: FBT001 (drawn)
    mode: netlink.AddrGenMode | None,
) -> None:
    """None must leave a thing alone, and False must not."""
    link = netlink.link(
        netlink.setlink(index, alias=alias, master=index, isolated=isolated, hairpin=hairpin, addr_gen_mode=mode)
    )
    assert (link.ifindex, link.alias, link.master) == (index, alias, index)
    assert (link.isolated, link.hairpin, link.addr_gen_mode) == (isolated, hairpin, mode)


@given(st.none() | numbers, maybe, maybe)
def test_a_bridge_is_read_as_it_was_written(
    delay: int | None,
    stp: bool | None,  # noqa: FBT001 (drawn)
    nf_call: bool | None,  # noqa: FBT001 (drawn)
) -> None:
    """Likewise for what only a bridge has."""
    data = netlink.bridge(forward_delay=delay, stp=stp, nf_call=nf_call)
    link = netlink.link(netlink.newlink("bridge", "br0", data=data))
    assert (link.forward_delay, link.stp, link.nf_call) == (delay, stp, nf_call)


@given(indexes, interfaces())
def test_an_address_is_read_as_it_was_written(index: int, interface: IPInterface) -> None:
    """Prefixes of every length, and the whole range of both families."""
    address = netlink.address(netlink.newaddr(index, interface))
    assert (address.ifindex, address.address, address.protocol) == (index, interface, PROTOCOL)


@given(st.sampled_from(netlink.IpvlanMode), st.sampled_from(netlink.IpvlanFlag), st.integers(0, 4094))
def test_what_stands_on_a_link_is_read_as_it_was_written(
    mode: netlink.IpvlanMode, flag: netlink.IpvlanFlag, vid: int
) -> None:
    """Likewise for what only these have."""
    ipvlan = netlink.link(netlink.newlink("ipvlan", "i", data=netlink.ipvlan(mode, flag)))
    assert (ipvlan.ipvlan_mode, ipvlan.ipvlan_flag) == (mode, flag)
    assert netlink.link(netlink.newlink("vlan", "v", data=netlink.vlan(vid))).vlan_id == vid


@given(addresses, numbers)
def test_a_rule_is_read_as_it_was_written(source: IPAddress, table: int) -> None:
    """For one address, whole, of either family."""
    rule = netlink.rule(netlink.newrule(source, table))
    assert (rule.source, rule.table, rule.protocol) == (source, table, PROTOCOL)
    assert (rule.priority, rule.event) == (RULE_PRIORITY, netlink.RTM_NEWRULE)


@given(interfaces(), st.none() | addresses, st.integers(0, 2**31 - 1), numbers, numbers)
def test_a_route_is_read_as_it_was_written(
    interface: IPInterface, gateway: IPAddress | None, oif: int, metric: int, table: int
) -> None:
    """Tables above 255 and default routes travel differently from the rest."""
    destination: IPv4Network | IPv6Network = interface.network
    route = netlink.route(netlink.newroute(destination, gateway=gateway, oif=oif, metric=metric, table=table))
    assert (route.destination, route.gateway, route.oif) == (destination, gateway, oif)
    assert (route.metric, route.table, route.protocol) == (metric, table, PROTOCOL)


@given(indexes, addresses, macs)
def test_a_neighbour_is_read_as_it_was_written(index: int, address: IPAddress, mac: str) -> None:
    """Neighbours of the link, and hosts behind a tunnel."""
    found = netlink.neighbour(netlink.newneigh(index, address, mac))
    assert (found.ifindex, found.address, found.mac) == (index, address, mac)
    remote = netlink.neighbour(netlink.newfdb(index, mac, remote=address))
    assert (remote.family, remote.address, remote.mac) == (netlink.AF_BRIDGE, address, mac)


codes = (nfnetlink.NF_DROP, nfnetlink.NF_ACCEPT, nfnetlink.NFT_RETURN)
jumps = (nfnetlink.NFT_JUMP, nfnetlink.NFT_GOTO)
verdicts = st.sampled_from(codes).map(nfnetlink.Verdict) | st.tuples(
    st.sampled_from(jumps), st.from_regex(r"[a-z]{1,30}", fullmatch=True)
).map(lambda fields: nfnetlink.Verdict(*fields))
values = st.none() | st.binary(max_size=64) | verdicts
elements = st.tuples(st.binary(min_size=1, max_size=64), values, st.integers(0, 2**40)).map(
    lambda fields: nfnetlink.Element(*fields)
)


@given(st.lists(elements, max_size=20))
def test_elements_are_read_as_they_were_written(wanted: list[nfnetlink.Element]) -> None:
    """In order, each with its own value and timeout."""
    requests = nfnetlink.newelements("t", "s", wanted)
    assert [element for request in requests for element in nfnetlink.elements(request)] == wanted


@given(st.lists(st.binary(min_size=1, max_size=16), max_size=5))
def test_a_joined_key_falls_apart_into_its_fields(fields: list[bytes]) -> None:
    """Whatever the sizes of the fields."""
    assert nfnetlink.split(nfnetlink.concat(*fields), map(len, fields)) == tuple(fields)


@given(indexes, st.integers(1, 2**40), numbers, numbers)
def test_a_bucket_is_read_as_it_was_written(index: int, rate: int, burst: int, limit: int) -> None:
    """Also a rate that needs more than 32 bits."""
    found = tc.qdisc(tc.newtbf(index, rate=rate, burst=burst, limit=limit))
    assert found == tc.QdiscMessage(tc.RTM_NEWQDISC, index, "tbf", rate, limit)


@given(indexes, indexes)
def test_a_redirection_is_read_as_it_was_written(index: int, target: int) -> None:
    """With the priority by which it is ours."""
    found = tc.filter_(tc.newredirect(index, target))
    assert found == tc.FilterMessage(tc.RTM_NEWTFILTER, index, FILTER_PRIORITY, target)


DECODERS: tuple[Callable[[bytes], object], ...] = (
    netlink.link,
    netlink.address,
    netlink.route,
    netlink.neighbour,
    netlink.nsid,
    tc.qdisc,
    tc.filter_,
    nfnetlink.elements,
    nfnetlink.table,
    nfnetlink.chain,
    nfnetlink.rule,
    nfnetlink.generation,
    nfnetlink.change,
    lambda datagram: list(netlink.messages(datagram)),
)
NFT = nfnetlink.NFNL_SUBSYS_NFTABLES << 8
SAMPLES = (
    netlink.newlink("veth", "v0", master=3, data=netlink.veth("eth0", mac="02:00:00:00:00:01")),
    netlink.newlink("bridge", "br0", data=netlink.bridge(forward_delay=0, stp=False, nf_call=True)),
    netlink.newlink("macvlan", "m", parent=3, data=netlink.macvlan(netlink.MacvlanMode.BRIDGE)),
    netlink.newlink("ipvlan", "i", parent=3, data=netlink.ipvlan(netlink.IpvlanMode.L2)),
    netlink.newlink("vlan", "v", parent=3, data=netlink.vlan(5)),
    netlink.setlink(3, alias="a", isolated=True, addr_gen_mode=netlink.AddrGenMode.NONE),
    netlink.newaddr(3, IPv4Interface("10.0.0.2/24"), broadcast=IPv4Address("10.0.0.255")),
    netlink.newaddr(3, IPv6Interface("fd00::2/64")),
    netlink.newroute(IPv4Network("10.0.0.0/8"), gateway=IPv4Address("10.0.0.1"), metric=5),
    netlink.newneigh(3, IPv6Address("fd00::1"), "02:00:00:00:00:01"),
    tc.newtbf(3, rate=1 << 33, burst=66_000, limit=99_000),
    tc.newredirect(3, 4),
    *nfnetlink.newelements("t", "s", [nfnetlink.Element(b"abcd", nfnetlink.Verdict(nfnetlink.NFT_JUMP, "c"))]),
)
types = st.sampled_from([*range(16, 31), *range(36, 39), *range(44, 47), 88, *range(NFT, NFT + 24)])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a message of ours with some of its bytes changed, and perhaps its end cut off."""
    message = bytearray(draw(st.sampled_from(SAMPLES)))
    for position, value in draw(
        st.dictionaries(st.integers(0, len(message) - 1), st.integers(0, 255), max_size=8)
    ).items():
        message[position] = value
    return bytes(message[: draw(st.integers(0, len(message)))])


@st.composite
def typed(draw: st.DrawFn) -> bytes:
    """Draw garbage that follows a header which says what it should be."""
    body = draw(st.binary(max_size=200))
    return pack("=IHHII", 16 + len(body), draw(types), 0, 0, 0) + body


@given(damaged() | typed() | st.binary(max_size=200))
@example(b"")
def test_no_decoder_fails_otherwise_than_by_saying_so(garbage: bytes) -> None:
    """A kernel of tomorrow, or a bug of ours, must not end the daemon with a traceback about a struct."""
    for decode in DECODERS:
        with suppress(netlink.DecodeError):
            decode(garbage)
