"""What holds of DHCP whatever is on the wire: codecs read what they write, and clients claim only what they got."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.dhcp import frame, message, message6, names
from isthmus.dhcp.client import SECOND, Client, Dialect
from isthmus.dhcp.dialect4 import Dialect4, Pace
from isthmus.dhcp.dialect6 import Dialect6
from isthmus.dhcp.frame import Datagram, Malformed
from isthmus.dhcp.identity import Identity, client_id
from isthmus.dhcp.message import Message, Option
from tests.dhcp_servers import Server4, Server6

four = st.ip_addresses(v=4)
six = st.ip_addresses(v=6)
ports = st.integers(0, 0xFFFF)
macs = st.binary(min_size=6, max_size=6)
payloads = st.binary(max_size=600)
datagrams = st.builds(Datagram, macs, macs, four, four, ports, ports, payloads) | st.builds(
    Datagram, macs, macs, six, six, ports, ports, payloads
)
codes = st.integers(1, 254).filter(lambda code: code != Option.OVERLOAD)
options = st.dictionaries(codes, st.binary(max_size=600), max_size=8).map(lambda found: tuple(found.items()))
messages = st.builds(
    Message,
    op=st.sampled_from([message.REQUEST, message.REPLY]),
    xid=st.integers(0, 2**32 - 1),
    mac=macs,
    options=options,
    seconds=ports,
    broadcast=st.booleans(),
    client=four,
    yours=four,
    next_server=four,
    relay=four,
)
messages6 = st.builds(
    message6.Message,
    st.integers(0, 255),
    st.integers(0, 2**24 - 1),
    st.lists(st.tuples(ports, st.binary(max_size=100)), max_size=8).map(tuple),
)
labels = st.text("abcXYZ019-_", min_size=1, max_size=63)
hostnames = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda name: len(name) < 254)


@given(datagrams)
def test_a_frame_is_read_as_it_was_written(datagram: Datagram) -> None:
    """And its checksum of UDP is right, which we do not look at ourselves, but servers do."""
    data = frame.encode(datagram)
    assert frame.decode(data) == datagram
    start = 34 if datagram.source.version == 4 else 54
    pseudo = datagram.source.packed + datagram.target.packed + b"\0\x11" + data[start + 4 : start + 6]
    summed = pseudo + data[start:]
    total = sum(int.from_bytes(summed[at : at + 2].ljust(2, b"\0")) for at in range(0, len(summed), 2))
    assert data[start + 6 : start + 8] != b"\0\0"
    assert total % 0xFFFF == 0


@given(messages)
def test_a_message_is_read_as_it_was_written(written: Message) -> None:
    """Also if its options are longer than one option can be (RFC 3396)."""
    assert message.decode(message.encode(written)) == written


@given(messages6)
def test_a_message_of_dhcpv6_is_read_as_it_was_written(written: message6.Message) -> None:
    """Options may come more than once there."""
    assert message6.decode(message6.encode(written)) == written


@given(st.lists(hostnames, max_size=5).map(tuple))
def test_domain_names_are_read_as_they_were_written(written: tuple[str, ...]) -> None:
    """They end up in a resolv.conf."""
    assert names.decode(names.encode(written)) == written


@given(st.binary(max_size=400))
def test_no_list_of_domains_leads_astray(data: bytes) -> None:
    """Pointers may lead in circles; and what comes out must not be able to forge a line of a file."""
    try:
        found = names.decode(data)
    except Malformed:
        return
    assert all(set(one) <= set("-_.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for one in found)


def _damaged(good: bytes, data: st.DataObject) -> bytes:
    """*Good*, cut off somewhere, with some bytes changed."""
    changed = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for _ in range(data.draw(st.integers(0, 4)) if changed else 0):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    return bytes(changed)


@given(datagrams, st.data())
def test_no_frame_makes_the_reader_fail(datagram: Datagram, data: st.DataObject) -> None:
    """Anybody on the LAN may send anything."""
    try:
        frame.decode(_damaged(frame.encode(datagram), data))
    except Malformed:
        return


@dataclass
class Lan:
    """Two clients and a server on a wire that loses, doubles and reorders."""

    server: Server4 | Server6
    clients: list[Client]
    ids: list[bytes]
    now: int = SECOND
    wire: list[bytes] = field(default_factory=list)

    def put(self, frames: Iterable[bytes]) -> None:
        """Let *frames* be on their way."""
        self.wire.extend(frames)

    def deliver(self, data: bytes) -> None:
        """Let all hear a frame."""
        datagram = frame.decode(data)
        if datagram.target_port in {frame.SERVER, frame.SERVER6}:
            self.put(self.server.answer(data, self.now))
        else:
            for client in self.clients:
                self.put(client.receive(datagram, self.now))

    def tick(self, most: int) -> None:
        """Let time go on to the next deadline, or by *most*."""
        due = [one.deadline for one in self.clients if one.deadline is not None]
        self.now = min([*due, self.now + most])
        for client in self.clients:
            self.put(client.wake(self.now))

    def check(self) -> None:
        """No client claims what it was not given, or for longer."""
        for client, who in zip(self.clients, self.ids, strict=True):
            if client.lease:
                end = client.lease.obtained + client.lease.seconds * SECOND
                address = client.lease.address.ip
                assert any(one[:2] == (who, address) and one[2] >= end for one in self.server.book.granted)
                assert client.deadline is not None
                assert self.now < end
                assert client.deadline <= end


def lan4(seed: int) -> Lan:
    """A LAN of IPv4."""
    identities = [Identity(bytes([2, 0, 0, 0, 1, one]), client_id("n", str(one)), f"h{one}") for one in range(2)]
    chance = Random(seed).random
    clients: list[Dialect] = [Dialect4(one, Pace()) for one in identities]
    return Lan(Server4(), [Client(one, chance) for one in clients], [one.client_id for one in identities])


def lan6(seed: int) -> Lan:
    """A LAN of IPv6."""
    identities = [Identity(bytes([2, 0, 0, 0, 1, one]), client_id("n", str(one))) for one in range(2)]
    chance = Random(seed).random
    clients: list[Dialect] = [Dialect6(one) for one in identities]
    return Lan(Server6(), [Client(one, chance) for one in clients], [one.duid for one in identities])


ACTS = ("deliver", "deliver", "deliver", "lose", "double", "tick", "tick", "forget", "restart", "confirm")


@pytest.mark.parametrize("make", [lan4, lan6], ids=["4", "6"])
@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_a_client_claims_only_what_it_was_given_and_gets_there_in_the_end(
    make: Callable[[int], Lan], seed: int, data: st.DataObject
) -> None:
    """Whatever the wire does, however often the server loses its memory or the daemon starts anew."""
    lan = make(seed)
    for client in lan.clients:
        lan.put(client.start(lan.now))
    for act in data.draw(st.lists(st.sampled_from(ACTS), max_size=60)):
        _do(act, lan, data)
        lan.check()
    calm = lan.now
    while not all(client.lease and client.lease.obtained > calm for client in lan.clients):
        assert lan.now < calm + 3600 * SECOND
        if lan.wire:
            lan.deliver(lan.wire.pop(0))
        else:
            lan.tick(3600 * SECOND)
        lan.check()
    held = [client.lease.address.ip for client in lan.clients if client.lease]
    assert held == [lan.server.book.held(who) for who in lan.ids]
    assert len(set(held)) == 2


def _do(act: str, lan: Lan, data: st.DataObject) -> None:
    """One *act* of the world."""
    if act == "tick":
        lan.tick(data.draw(st.integers(1, 90)) * SECOND)
    elif act == "forget":
        lan.server.book.leases.clear()
    elif act in {"restart", "confirm"}:
        client = lan.clients[data.draw(st.integers(0, 1))]
        if client.lease:
            begin = client.adopt if act == "restart" else client.confirm
            lan.put(begin(client.lease, lan.now))
    elif lan.wire:
        one = lan.wire[data.draw(st.integers(0, len(lan.wire) - 1))]
        if act != "double":
            lan.wire.remove(one)
        if act != "lose":
            lan.deliver(one)


@pytest.mark.parametrize("make", [lan4, lan6], ids=["4", "6"])
@given(data=st.data())
def test_no_answer_makes_a_client_fail(make: Callable[[int], Lan], data: st.DataObject) -> None:
    """Anybody on the LAN may answer anything, whatever is asked."""
    lan = make(0)
    for client in lan.clients:
        lan.put(client.start(lan.now))
    for act in data.draw(st.lists(st.sampled_from(("deliver", "tick", "confirm")), max_size=20)):
        _do(act, lan, data)
    for one in lan.wire:
        datagram = frame.decode(one)
        changed = replace(datagram, payload=_damaged(datagram.payload, data))
        for client in lan.clients:
            client.receive(changed, lan.now)
