"""Frames as others send them, and what they claim."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from isthmus.wire import packets
from isthmus.wire.packets import Advertisement, Arp, Claim, DecodeError, Operation, Packet, Solicitation

US, THEM = "02:00:00:00:00:01", "02:00:00:00:00:02"
FOUR, SIX = IPv4Address("192.0.2.7"), IPv6Address("2001:db8::1234:5678")

ARP_PROBE = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 00000000 000000000000 c0000207"
ARP_REPLY = "020000000001 020000000002 0806 0001 0800 06 04 0002 020000000002 c0000207 020000000001 00000000"
DAD = (
    "3333ff345678 020000000001 86dd 60000000 0018 3a ff"
    " 00000000000000000000000000000000 ff0200000000000000000001ff345678"
    " 87 00 8d96 00000000 20010db8000000000000000012345678"
)


def frame(text: str) -> bytes:
    """Return the bytes of *text*."""
    return bytes.fromhex(text)


def changed(text: str, offset: int, value: str) -> bytes:
    """Return the bytes of *text* with others from *offset* on."""
    whole, part = frame(text), bytes.fromhex(value)
    return whole[:offset] + part + whole[offset + len(part) :]


def test_probes_are_laid_out_as_the_standards_say() -> None:
    """Each byte of them, the checksum included."""
    assert packets.encode(packets.arp_probe(US, FOUR)) == frame(ARP_PROBE)
    assert packets.encode(packets.dad_solicitation(US, SIX)) == frame(DAD)


def test_an_arp_reply_is_read() -> None:
    """As a neighbour sends it, padded to the least that Ethernet carries."""
    wanted = Arp(US, THEM, Operation.REPLY, THEM, FOUR, US, packets.ANY4)
    assert packets.decode(frame(ARP_REPLY) + bytes(18)) == wanted


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        frame(ARP_PROBE)[:-1],
        changed(ARP_PROBE, 12, "0800"),
        changed(ARP_PROBE, 12, "8100"),
        changed(ARP_PROBE, 14, "0006"),
        changed(ARP_PROBE, 16, "86dd"),
        changed(ARP_PROBE, 18, "08"),
        changed(ARP_PROBE, 20, "0008"),
        frame(DAD)[:-1],
        changed(DAD, 14, "40"),
        changed(DAD, 18, "0019"),
        changed(DAD, 18, "0010"),
        changed(DAD, 20, "11"),
        changed(DAD, 21, "fe"),
        changed(DAD, 54, "86"),
        changed(DAD, 56, "0000"),
    ],
)
def test_what_may_not_be_believed_is_not_read(garbage: bytes) -> None:
    """Among it IPv6 that came over a router, and ARP of other protocols."""
    with pytest.raises(DecodeError):
        packets.decode(garbage)


@pytest.mark.parametrize(
    "packet",
    [
        Solicitation("33:33:ff:34:56:78", US, packets.ANY6, packets.solicited_node(SIX), SIX, mac=US),
        Solicitation(THEM, US, packets.ANY6, SIX, SIX),
        Solicitation(THEM, US, SIX, SIX, packets.ALL_NODES),
        Advertisement("33:33:00:00:00:01", US, SIX, packets.ALL_NODES, SIX, solicited=True),
    ],
)
def test_what_contradicts_itself_is_not_read(packet: Packet) -> None:
    """RFC 4861, 7.1.1 and 7.1.2."""
    with pytest.raises(DecodeError):
        packets.decode(packets.encode(packet))


@pytest.mark.parametrize("options", ["0100020000000002", "01", "010202000000"])
def test_options_that_end_badly_are_not_read(options: str) -> None:
    """The first of these would have a careless reader go round for ever."""
    body = frame("87000000 00000000" + SIX.packed.hex()) + bytes.fromhex(options)
    checksum = packets._checksum(SIX.packed, SIX.packed, body).to_bytes(2, "big")
    header = frame("60000000") + len(body).to_bytes(2, "big") + frame("3aff") + SIX.packed + SIX.packed
    with pytest.raises(DecodeError):
        packets.decode(bytes(12) + frame("86dd") + header + body[:2] + checksum + body[4:])


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (packets.arp_probe(THEM, FOUR), Claim(FOUR, THEM, held=False)),
        (packets.arp_announcement(THEM, FOUR), Claim(FOUR, THEM, held=True)),
        (packets.arp_request(THEM, FOUR, IPv4Address("192.0.2.1")), Claim(FOUR, THEM, held=True)),
        (packets.arp_reply(packets.arp_probe(US, FOUR), THEM), Claim(FOUR, THEM, held=True)),
        (packets.dad_solicitation(THEM, SIX), Claim(SIX, THEM, held=False)),
        (packets.unsolicited_advertisement(THEM, SIX), Claim(SIX, THEM, held=True)),
        (Advertisement(US, THEM, SIX, SIX, SIX), Claim(SIX, THEM, held=True)),
        (packets.solicitation(THEM, SIX, IPv6Address("fe80::1")), None),
        (Arp(US, THEM, Operation.REPLY, THEM, packets.ANY4, US, FOUR), None),
    ],
)
def test_a_packet_claims_what_its_sender_has_or_wants(packet: Packet, said: Claim | None) -> None:
    """A probe wants, everything else has; asking for a neighbour over IPv6 says nothing that is certain."""
    assert packets.claim(packet) == said
