"""What a lease is made of, when servers write it well and when they do not."""

from ipaddress import IPv4Address, IPv4Interface, ip_address, ip_network

import pytest
from msgspec.structs import replace

from isthmus.dhcp import frame, message, message6, names
from isthmus.dhcp.frame import Datagram, Malformed
from isthmus.dhcp.identity import Identity, client_id
from isthmus.dhcp.message import Message, Option, Type
from isthmus.dhcp.message6 import Option as Option6
from isthmus.model import FOREVER, DhcpLease

MAC = bytes.fromhex("020000000001")
ACK = Message(
    op=message.REPLY,
    xid=1,
    mac=MAC,
    options=(
        (Option.TYPE, bytes([Type.ACK])),
        (Option.SERVER, ip_address("10.9.0.1").packed),
        (Option.SECONDS, (3600).to_bytes(4)),
    ),
    yours=IPv4Address("10.9.0.50"),
)


def lease(**options: bytes) -> DhcpLease:
    """The lease of an ACK with these *options*, by name."""
    said = dict(ACK.options)
    said.update({Option[name.upper()]: value for name, value in options.items()})
    return message.lease(replace(ACK, options=tuple(said.items())), MAC, 0)


def test_a_lease_stands_without_anything_but_address_server_and_time() -> None:
    """All else has an old default (RFC 950, RFC 2131 4.4.5), or none."""
    found = lease()
    assert found.address == IPv4Interface("10.9.0.50/8")
    assert (found.server, found.server_mac) == ("10.9.0.1", "02:00:00:00:00:01")
    assert (found.seconds, found.t1, found.t2) == (3600, 1800, 3150)
    assert (found.routers, found.routes, found.dns, found.search) == ((), (), (), ())
    assert (found.domain, found.hostname, found.mtu, found.broadcast) == ("", "", 0, None)


def test_a_lease_holds_what_the_server_says() -> None:
    """Each option in the units that a kernel and a resolver want."""
    found = lease(
        netmask=b"\xff\xff\xfe\x00",
        routers=bytes([10, 9, 0, 254, 0, 0, 0, 0, 10, 9, 0, 253]),
        dns=bytes([10, 9, 0, 2]),
        hostname=b"web",
        domain=b"lan.example.\0",
        mtu=b"\x05\x78",
        broadcast=bytes([10, 9, 1, 255]),
        t1=(100).to_bytes(4),
        t2=(200).to_bytes(4),
        search=b"\x03lan\x07example\x00\xc0\x04",
    )
    assert found.address == IPv4Interface("10.9.0.50/23")
    assert found.routers == (IPv4Address("10.9.0.254"), IPv4Address("10.9.0.253"))
    assert found.dns == (IPv4Address("10.9.0.2"),)
    assert (found.hostname, found.domain, found.mtu) == ("web", "lan.example", 1400)
    assert found.broadcast == IPv4Address("10.9.1.255")
    assert (found.t1, found.t2) == (100, 200)
    assert found.search == ("lan.example", "example")


def test_routes_take_the_place_of_routers() -> None:
    """RFC 3442: also the default route must then be among them. A gateway of zeros is none."""
    found = lease(
        routers=bytes([10, 9, 0, 254]),
        routes=bytes([0, 10, 9, 0, 253, 12, 172, 31, 10, 9, 0, 252, 24, 192, 168, 7, 0, 0, 0, 0]),
    )
    assert found.routers == ()
    assert found.routes == (
        (ip_network("0.0.0.0/0"), IPv4Address("10.9.0.253")),
        (ip_network("172.16.0.0/12"), IPv4Address("10.9.0.252")),
        (ip_network("192.168.7.0/24"), None),
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("netmask", b"\xff\x00\xff\x00"),
        ("netmask", b"\xff\xff\xff"),
        ("routers", b"\x0a\x09"),
        ("dns", b"\x0a\x09\x00\x02\x0a"),
        ("hostname", b"web\nnameserver 6.6.6.6"),
        ("domain", b"two words"),
        ("domain", b""),
        ("mtu", b"\x00\x43"),
        ("mtu", b"\x05"),
        ("t1", b"\x00"),
        ("t2", (3600).to_bytes(4)),
        ("search", b"\x03lan\xc0\x00"),
        ("search", b"\x03lan"),
        ("search", b"\x40lan"),
        ("routes", b"\x21\x0a\x09\x00\x01\x00\x0a\x09\x00\x01"),
        ("routes", b"\x18\x0a\x09"),
    ],
)
def test_nonsense_in_an_option_is_passed_over(option: str, value: bytes) -> None:
    """A LAN's server is what it is: the lease stands as if the option were not there."""
    assert lease(**{option: value}) == lease()


@pytest.mark.parametrize(
    "answer",
    [
        replace(ACK, yours=IPv4Address("0.0.0.0")),
        replace(ACK, yours=IPv4Address("127.0.0.1")),
        replace(ACK, yours=IPv4Address("255.255.255.255")),
        replace(ACK, options=ACK.options[:2]),
        replace(ACK, options=(ACK.options[0], ACK.options[2])),
        replace(ACK, options=(*ACK.options[:2], (Option.SECONDS, bytes(4)))),
    ],
)
def test_an_answer_without_address_server_or_time_is_no_lease(answer: Message) -> None:
    """An address that cannot be used, or given back, or that ends nobody knows when, is none."""
    with pytest.raises(Malformed):
        message.lease(answer, MAC, 0)


def test_a_lease_for_ever_has_no_times() -> None:
    """Whatever the server says beside it."""
    found = lease(seconds=b"\xff" * 4, t1=(100).to_bytes(4))
    assert (found.seconds, found.t1, found.t2) == (FOREVER, FOREVER, FOREVER)


def test_options_may_go_on_in_the_fields_for_names_of_files() -> None:
    """Option 52: a server with much to say uses them (RFC 2131, 4.1)."""
    plain = bytearray(message.encode(replace(ACK, options=((Option.OVERLOAD, b"\x03"), *ACK.options))))
    plain[108:113] = bytes([Option.DNS, 2, 10, 9, 255])
    plain[44:49] = bytes([Option.DNS, 2, 0, 2, 255])
    assert message.decode(bytes(plain)).option(Option.DNS) == bytes([10, 9, 0, 2])


@pytest.mark.parametrize(
    "data",
    [b"", bytes(300), message.encode(ACK)[:252], message.encode(replace(ACK, op=1)).replace(b"\x01", b"\x07", 1)],
)
def test_what_is_no_dhcp_message_is_malformed(data: bytes) -> None:
    """Too short, without the cookie, cut off within an option, of no kind."""
    with pytest.raises(Malformed):
        message.decode(data)


def test_a_damaged_ip_header_is_noticed_but_an_unfinished_sum_of_udp_is_not() -> None:
    """A server on this machine leaves the second to a NIC that its frames never reach."""
    sent = Datagram(MAC, MAC, IPv4Address("10.9.0.1"), IPv4Address("10.9.0.2"), 67, 68, b"hello")
    good = bytearray(frame.encode(sent))
    good[40] ^= 0xFF
    assert frame.decode(bytes(good)) == sent
    good[30] ^= 0xFF
    with pytest.raises(Malformed):
        frame.decode(bytes(good))


def test_a_sum_of_udp_is_never_written_as_none() -> None:
    """A sum that comes to zero has another form, for zero says that there is no sum, which IPv6 forbids (RFC 8200)."""
    sent = Datagram(MAC, MAC, IPv4Address("10.9.0.1"), IPv4Address("10.9.0.2"), 67, 68, b"\0\0")
    total = frame.encode(sent)[40:42]
    assert frame.encode(replace(sent, payload=total))[40:42] == b"\xff\xff"


def test_a_name_in_circles_is_malformed() -> None:
    """A pointer leads back, never forward and never to itself."""
    for data in (b"\xc0\x00", b"\x01a\xc0\x00", b"\x01a\xc0\x04\x00"):
        with pytest.raises(Malformed):
            names.decode(data)


def test_a_client_is_known_by_its_network_and_name() -> None:
    """Whatever its MAC is; and another one's name on the same network is another client."""
    known = client_id("n", "web")
    assert known == client_id("n", "web")
    assert len({known, client_id("n", "db"), client_id("m", "web")}) == 3
    # RFC 4361: a type of 255, an IAID of four bytes, a DUID of type 4, which holds a UUID.
    assert (known[0], known[5:7], len(known)) == (255, b"\0\4", 23)
    assert Identity(MAC, known).iaid + Identity(MAC, known).duid == known[1:]


def test_a_lease_of_dhcpv6_holds_what_the_server_says() -> None:
    """Without times of its own it follows that for which the address is preferred (RFC 8415, 21.4)."""
    address = ip_address("fd09::50").packed + (1000).to_bytes(4) + (3600).to_bytes(4)
    association = b"iaid" + bytes(8) + Option6.ADDRESS.to_bytes(2) + len(address).to_bytes(2) + address
    answer = message6.Message(
        message6.Type.REPLY,
        1,
        (
            (Option6.SERVER, b"duid"),
            (Option6.IA_NA, b"else" + association[4:]),
            (Option6.IA_NA, association),
            (Option6.DNS, ip_address("fd09::2").packed),
            (Option6.SEARCH, b"\x03lan\x07example\x00"),
        ),
    )
    found = message6.lease(answer, b"iaid", MAC, 7)
    assert (str(found.address), found.server, found.obtained) == ("fd09::50/128", b"duid".hex(), 7)
    assert (found.seconds, found.t1, found.t2) == (3600, 500, 800)
    assert (found.dns, found.search) == ((ip_address("fd09::2"),), ("lan.example",))
    with pytest.raises(Malformed):
        message6.lease(answer, b"none", MAC, 7)
