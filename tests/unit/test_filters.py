"""What the programs keep, told by the kernel itself: it runs them on the datagrams of a pair of sockets."""

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

import pytest

from isthmus import bpf
from isthmus.bpf import Instruction
from isthmus.model import IPAddress
from isthmus.wire import filters, packets
from isthmus.wire.packets import encode

HOLDER, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
FOUR, SIX = IPv4Address("192.0.2.7"), IPv6Address("2001:db8::1234:5678")


def kept(program: Iterable[Instruction], frames: Iterable[bytes]) -> list[bytes]:
    """Return those of *frames* that *program* keeps."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        bpf.attach(far, program)
        found = []
        for frame in frames:
            near.send(frame)
            try:
                found.append(far.recv(2048, socket.MSG_DONTWAIT))
            except BlockingIOError:
                continue
        return found


def udp(port: int, *, version: int = 4, fragment: str = "0000", protocol: str = "11", options: str = "") -> bytes:
    """Return the frame of a datagram to *port*; *options* follow IPv4's header."""
    ports = (1234).to_bytes(2, "big") + port.to_bytes(2, "big") + bytes(4)
    if version == 6:
        return bytes.fromhex("00" * 12 + "86dd 60000000 0008" + protocol + "40" + "00" * 32) + ports
    first = 0x45 + len(options) // 8
    return (
        bytes.fromhex("00" * 12 + f"0800 {first:02x}00 0000 0000 {fragment} 40 {protocol} 0000" + "00" * 8 + options)
        + ports
    )


ASKED = (
    encode(packets.arp_probe(OTHER, FOUR)),
    encode(packets.arp_announcement(OTHER, FOUR)),
    encode(packets.arp_reply(packets.arp_probe(HOLDER, FOUR), OTHER)),
    encode(packets.dad_solicitation(OTHER, SIX)),
    encode(packets.unsolicited_advertisement(OTHER, SIX)),
)


def test_all_that_neighbours_say_about_addresses_is_kept() -> None:
    """And nothing of what they say to each other."""
    router = bytearray(encode(packets.unsolicited_advertisement(OTHER, SIX)))
    router[54] = 134
    others = (udp(53), udp(53, version=6), bytes(router), b"", bytes(60))
    assert kept(filters.NEIGHBOURS, (*ASKED, *others)) == list(ASKED)


@pytest.mark.parametrize(
    ("mine", "others"),
    [
        pytest.param(udp(68), udp(67), id="port"),
        pytest.param(udp(68, version=6), udp(67, version=6), id="port over IPv6"),
        pytest.param(udp(68, options="01010101"), udp(0x0101, options="01010044"), id="options"),
        pytest.param(udp(68), udp(68, protocol="06"), id="protocol"),
        pytest.param(udp(68, version=6), udp(68, version=6, protocol="06"), id="protocol over IPv6"),
        pytest.param(udp(68, fragment="4000"), udp(68, fragment="2000"), id="first fragment"),
        pytest.param(udp(68), udp(68, fragment="0001"), id="last fragment"),
        pytest.param(udp(68), encode(packets.arp_probe(OTHER, FOUR)), id="ARP"),
    ],
)
def test_datagrams_to_a_port_are_kept(mine: bytes, others: bytes) -> None:
    """Those to others, of other protocols, and fragments whose ports are elsewhere, are not."""
    assert kept(filters.datagrams(68), (others, mine, others)) == [mine]


def claims(mac: str, four: IPv4Address, six: IPv6Address) -> list[bytes]:
    """Return how *mac* may say that it has these addresses."""
    return [
        encode(packets.arp_announcement(mac, four)),
        encode(packets.arp_request(mac, four, IPv4Address("192.0.2.1"))),
        encode(packets.unsolicited_advertisement(mac, six)),
    ]


def neighbourhood(count: int) -> dict[IPAddress, str]:
    """Return *count* addresses of each family around those that are claimed, held by the MAC that is not OTHER."""
    centres: tuple[IPAddress, ...] = (FOUR, SIX)
    return {centre - count // 2 + i: HOLDER for centre in centres for i in range(count)}


@pytest.mark.parametrize("count", [1, 2, 3, 64, filters.BOUND // 2])
def test_who_claims_a_guarded_address_is_heard(count: int) -> None:
    """However many there are; the holder himself wakes nobody."""
    program = filters.rivals(neighbourhood(count))
    assert kept(program, (*claims(HOLDER, FOUR, SIX), *claims(OTHER, FOUR, SIX))) == claims(OTHER, FOUR, SIX)


@pytest.mark.parametrize("count", [1, 2, 3, 64, filters.BOUND // 2])
def test_what_concerns_no_guarded_address_wakes_nobody(count: int) -> None:
    """A busy LAN has thousands of requests a second; and who only asks for an address is answered by its holder."""
    holders = neighbourhood(count)
    asks = (encode(packets.arp_probe(OTHER, FOUR)), encode(packets.dad_solicitation(OTHER, SIX)), udp(53), bytes(60))
    assert kept(filters.rivals(holders), (*claims(OTHER, FOUR + count, SIX + count), *asks)) == []


def test_a_holder_whose_mac_is_not_known_is_heard() -> None:
    """Better than to hear no rival."""
    assert kept(filters.rivals({FOUR: "", SIX: ""}), claims(OTHER, FOUR, SIX)) == claims(OTHER, FOUR, SIX)


def test_addresses_with_the_same_end_are_told_apart_by_nobody() -> None:
    """Each is the other's rival for the program, so both are heard."""
    twin = IPv6Address("fd00::1234:5678")
    frames = claims(HOLDER, FOUR, SIX)[2:] + claims(OTHER, FOUR, twin)[2:]
    assert kept(filters.rivals({SIX: HOLDER, twin: OTHER}), frames) == frames


def test_with_more_addresses_than_can_be_compared_all_claims_are_heard() -> None:
    """A program has a limited size; probes still wake nobody."""
    program = filters.rivals(neighbourhood(filters.BOUND))
    far = claims(OTHER, IPv4Address("10.0.0.1"), IPv6Address("fd00::1"))
    assert kept(program, (encode(packets.arp_probe(OTHER, FOUR)), *far)) == far
