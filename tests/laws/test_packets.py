"""What is written to the wire is what is read from it; whatever else comes is refused in one way."""

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

from hypothesis import example, given
from hypothesis import strategies as st

from isthmus.wire import packets
from isthmus.wire.packets import Advertisement, Arp, DecodeError, Operation, Packet, Solicitation

macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
perhaps = st.just("") | macs
fours = st.ip_addresses(v=4)
sixes = st.ip_addresses(v=6)
hosts = sixes.filter(lambda address: not address.is_multicast)
arps = st.builds(Arp, macs, macs, st.sampled_from(Operation), macs, fours, macs, fours)
checks = st.builds(packets.dad_solicitation, macs, hosts)
solicitations = checks | st.builds(Solicitation, macs, macs, hosts.filter(int), sixes, hosts, perhaps)
flags = st.booleans()
answers = st.builds(Advertisement, macs, macs, hosts, hosts, hosts, perhaps, flags, flags, flags)
news = st.builds(Advertisement, macs, macs, hosts, sixes, hosts, perhaps, flags, st.just(False), flags)  # noqa: FBT003
drawn: st.SearchStrategy[Packet] = arps | solicitations | answers | news


@given(drawn, st.binary(max_size=20))
def test_a_packet_is_read_as_it_was_written(packet: Packet, padding: bytes) -> None:
    """Whatever the wire adds to make a short frame long enough."""
    assert packets.decode(packets.encode(packet) + padding) == packet


@given(macs, macs, fours, fours)
def test_an_arp_reply_answers_its_request(asker: str, mac: str, sender: IPv4Address, target: IPv4Address) -> None:
    """It goes to the asker alone, and says what was asked for."""
    reply = packets.arp_reply(packets.arp_request(asker, sender, target), mac)
    assert (reply.destination, reply.target_mac, reply.target) == (asker, asker, sender)
    assert (reply.sender_mac, reply.sender) == (mac, target)


@given(macs, macs, hosts.filter(int), hosts)
def test_an_advertisement_answers_its_solicitation(
    asker: str, mac: str, sender: IPv6Address, target: IPv6Address
) -> None:
    """Who has no address yet cannot be answered alone."""
    alone = packets.advertisement(packets.solicitation(asker, sender, target), mac)
    all_ = packets.advertisement(packets.dad_solicitation(asker, target), mac)
    assert (alone.destination, alone.solicited, alone.target, alone.mac) == (asker, True, target, mac)
    assert (all_.destination, all_.receiver, all_.solicited) == ("33:33:00:00:00:01", packets.ALL_NODES, False)
    assert packets.decode(packets.encode(alone)) == alone
    assert packets.decode(packets.encode(all_)) == all_


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a frame of ours with some of its bytes changed, and perhaps its end cut off."""
    frame = bytearray(packets.encode(draw(drawn)))
    for position, value in draw(
        st.dictionaries(st.integers(0, len(frame) - 1), st.integers(0, 255), max_size=8)
    ).items():
        frame[position] = value
    return bytes(frame[: draw(st.integers(0, len(frame)))])


@st.composite
def summed(draw: st.DrawFn) -> bytes:
    """Draw garbage that a right checksum says is a message of Neighbour Discovery."""
    kind = draw(st.sampled_from([packets.ND_NEIGHBOR_SOLICIT, packets.ND_NEIGHBOR_ADVERT]))
    body = bytes([kind, 0]) + bytes(2) + draw(st.binary(min_size=20, max_size=80))
    sender, receiver = draw(sixes).packed, draw(sixes).packed
    checksum = packets._checksum(sender, receiver, body).to_bytes(2, "big")
    header = b"\x60\0\0\0" + len(body).to_bytes(2, "big") + bytes([58, 255]) + sender + receiver
    return bytes(12) + b"\x86\xdd" + header + body[:2] + checksum + body[4:]


@given(damaged() | summed() | st.binary(max_size=120))
@example(b"")
def test_no_frame_is_more_than_the_decoder_can_bear(frame: bytes) -> None:
    """Anybody on the wire can send anything, and the daemon reads it as root."""
    with suppress(DecodeError):
        packet = packets.decode(frame)
        assert packets.decode(packets.encode(packet)) == packet
        packets.claim(packet)


@given(solicitations | answers, st.integers(0, 8 * 24 - 1))
def test_a_flipped_bit_is_noticed(packet: Solicitation | Advertisement, bit: int) -> None:
    """ICMPv6 alone has a checksum here; a wrong address would be told as a conflict."""
    frame = bytearray(packets.encode(packet))
    frame[54 + bit // 8] ^= 1 << bit % 8
    with suppress(DecodeError):
        raise AssertionError(packets.decode(bytes(frame)))
