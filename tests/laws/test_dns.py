"""DNS messages held against dnspython, which knows the whole of it, and against any octets at all."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.dns import message
from isthmus.dns.lookup import address_of, told
from isthmus.dns.message import Malformed

LABELS = st.binary(min_size=1, max_size=63)
NAMES = (
    st.lists(LABELS, max_size=6)
    .filter(lambda labels: sum(len(label) + 1 for label in labels) < 255)
    .map(lambda labels: dns.name.Name([*labels, b""]))
)
PLAIN_NAMES = st.lists(st.from_regex(r"[a-z0-9_-]{1,20}", fullmatch=True), min_size=1, max_size=5).map(".".join)
TYPES = (
    st.integers(1, 65535)
    .filter(lambda kind: kind not in {dns.rdatatype.OPT, dns.rdatatype.TSIG})
    .map(dns.rdatatype.RdataType.make)
)
ADDRESSES = st.one_of(st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address))


def _cookie(data: bytes) -> dns.edns.Option:
    return dns.edns.GenericOption(dns.edns.OptionType.COOKIE, data)


@st.composite
def queries(draw: st.DrawFn) -> dns.message.QueryMessage:
    """Any query that dnspython can make."""
    asked = dns.message.make_query(
        draw(NAMES),
        draw(TYPES),
        use_edns=draw(st.booleans()),
        payload=draw(st.integers(0, 65535)),
        want_dnssec=False,
        options=draw(st.lists(st.binary(max_size=40).map(_cookie), max_size=2)),
        id=draw(st.integers(0, 65535)),
    )
    if asked.edns >= 0 and draw(st.booleans()):
        asked.want_dnssec(wanted=True)
    asked.flags = draw(st.sampled_from([0, dns.flags.RD, dns.flags.RD | dns.flags.CD, dns.flags.AD]))
    return asked


@settings(deadline=None)
@given(queries())
def test_a_query_is_read_as_it_was_meant(asked: dns.message.QueryMessage) -> None:
    """Number, name, type, and what EDNS0 says: all that an answer depends on."""
    query = message.parse_query(asked.to_wire())
    question = asked.question[0]
    assert query.id == asked.id
    assert query.type == question.rdtype
    assert query.klass == question.rdclass
    labels = [label.lower().replace(b".", rb"\.").decode("latin-1") for label in question.name.labels[:-1]]
    assert query.name == ".".join(labels)
    assert query.question[:-4] == question.name.to_wire()
    assert bool(query.payload) is (asked.edns >= 0)
    assert query.payload in {0, max(512, asked.payload)}
    assert query.dnssec is bool(asked.ednsflags & dns.flags.DO and asked.edns >= 0)


@settings(deadline=None)
@given(queries(), st.lists(ADDRESSES, max_size=40), st.sampled_from([message.NOERROR, message.NXDOMAIN]))
def test_an_answer_says_what_was_packed(
    asked: dns.message.QueryMessage, addresses: list[IPv4Address | IPv6Address], rcode: int
) -> None:
    """The question as it was asked, each address, the flags and EDNS0, for whoever reads DNS."""
    query = message.parse_query(asked.to_wire())
    records = [message.record(message.A if one.version == 4 else message.AAAA, 600, one.packed) for one in addresses]
    read = dns.message.from_wire(message.answer(query, records, rcode))
    assert asked.is_response(read)
    assert read.question[0].name.labels == asked.question[0].name.labels
    assert read.rcode() == rcode
    assert bool(read.flags & dns.flags.RA)
    assert (read.flags & dns.flags.RD) == (asked.flags & dns.flags.RD)
    assert (read.edns >= 0) is (asked.edns >= 0)
    found = {ip_address(str(item)) for rrset in read.answer for item in rrset}
    assert found == set(addresses)
    assert all(rrset.ttl == 600 for rrset in read.answer)


@settings(deadline=None)
@given(queries(), st.lists(ADDRESSES, max_size=300))
def test_an_answer_by_datagram_fits_and_says_so_if_it_had_to(
    asked: dns.message.QueryMessage, addresses: list[IPv4Address | IPv6Address]
) -> None:
    """Whoever does not get all is told, and asks again by TCP."""
    query = message.parse_query(asked.to_wire())
    for body in told(query, addresses, query.limit):
        assert len(body) <= query.limit
        read = dns.message.from_wire(body)
        wanted = {message.A: {4}, message.AAAA: {6}, message.ANY: {4, 6}}.get(query.type, set())
        whole = {one for one in addresses if one.version in wanted}
        found = {ip_address(str(item)) for rrset in read.answer for item in rrset}
        assert found <= whole
        assert (found == whole) is not bool(read.flags & dns.flags.TC) or found == whole


@settings(deadline=None)
@given(queries(), st.integers(0, 65535))
def test_what_is_asked_of_others_is_the_same_question(asked: dns.message.QueryMessage, number: int) -> None:
    """Under another number, for only the asker and the server may know it."""
    query = message.parse_query(asked.to_wire())
    read = dns.message.from_wire(message.ask(query, number))
    assert read.id == number
    assert read.question == asked.question
    assert read.flags & dns.flags.RD
    assert (read.edns >= 0) is (asked.edns >= 0)


@settings(deadline=None)
@given(PLAIN_NAMES, st.lists(st.tuples(ADDRESSES, st.integers(0, 2**31 - 1)), min_size=1, max_size=9), st.data())
def test_a_reply_of_others_is_relayed_with_its_age(
    name: str, given_: list[tuple[IPv4Address | IPv6Address, int]], data: st.DataObject
) -> None:
    """What is kept must not seem younger than it is, whatever stands in the message besides."""
    kind = "A" if given_[0][0].version == 4 else "AAAA"
    asked = dns.message.make_query(name, kind, use_edns=data.draw(st.booleans()))
    served = dns.message.make_response(asked)
    ttl = min(one[1] for one in given_)
    addresses = {one for one, _ in given_ if (one.version == 4) == (kind == "A")}
    served.answer.append(dns.rrset.from_text("alias.example.", ttl, "IN", "CNAME", f"{name}."))
    served.answer.append(dns.rrset.from_text(f"{name}.", ttl, "IN", kind, *map(str, addresses)))
    reply = message.parse_reply(served.to_wire())
    assert reply.lifetime == ttl
    query = message.parse_query(asked.to_wire())
    assert reply.key == query.key[0]
    age = data.draw(st.integers(0, 2**32))
    other = dns.message.make_query(name.upper(), kind, id=7)
    read = dns.message.from_wire(message.relay(reply, message.parse_query(other.to_wire()), age=age))
    assert read.id == 7
    assert read.question[0].name.labels == other.question[0].name.labels
    assert {ip_address(str(item)) for item in read.answer[1]} == addresses
    assert {rrset.ttl for rrset in read.answer} == {max(0, ttl - age)}


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_no_octets_are_too_much(data: bytes) -> None:
    """Anybody in a sandbox can send anything: it is refused, and nothing breaks."""
    for parse in (message.parse_query, message.parse_reply):
        try:
            parse(data)
        except Malformed as error:
            if len(data) >= 12 and error.rcode is not None:
                dns.message.from_wire(message.complaint(data, error.rcode))


@settings(deadline=None)
@given(queries(), st.data())
def test_a_damaged_query_is_read_as_dnspython_reads_it_or_refused(
    asked: dns.message.QueryMessage, data: st.DataObject
) -> None:
    """Near misses go further than noise: what we take, others understand alike."""
    wire = bytearray(asked.to_wire())
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(4, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(wire[: data.draw(st.integers(12, len(wire)))])
    try:
        query = message.parse_query(cut)
    except Malformed:
        return
    try:
        read = dns.message.from_wire(cut, ignore_trailing=True, continue_on_error=True)
    except (dns.exception.DNSException, ValueError):
        return
    assert read.question[0].name.to_wire() == query.question[:-4]
    assert read.question[0].rdtype == query.type


@settings(deadline=None)
@given(ADDRESSES)
def test_an_address_is_found_in_the_name_that_asks_back(address: IPv4Address | IPv6Address) -> None:
    """Reverse names are the standard library's."""
    assert address_of(address.reverse_pointer) == address


@settings(deadline=None)
@given(st.one_of(PLAIN_NAMES, st.text(max_size=300)))
def test_a_name_is_packed_as_dnspython_packs_it_or_not_at_all(name: str) -> None:
    """Sandboxes have names that no DNS name can hold: of these there is nothing to tell."""
    packed = message.encode_name(name)
    if packed is not None:
        assert dns.name.from_wire(packed, 0)[0].labels[:-1] == tuple(
            part.encode() for part in name.removesuffix(".").split(".")
        )
