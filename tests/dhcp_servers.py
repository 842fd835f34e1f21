"""DHCP servers in memory, which do what RFC 2131 and RFC 8415 ask of them, and remember what they granted."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from isthmus.dhcp import frame, message, message6
from isthmus.dhcp.client import SECOND
from isthmus.dhcp.frame import Datagram
from isthmus.dhcp.message import ANY, EVERYONE, Message, Option, Type
from isthmus.dhcp.message6 import Code
from isthmus.dhcp.message6 import Message as Message6
from isthmus.dhcp.message6 import Option as Option6
from isthmus.dhcp.message6 import Type as Type6
from isthmus.model import IPAddress

SERVER_MAC = bytes.fromhex("020000000001")


@dataclass
class Book:
    """Who has which address until when (nanoseconds), and what was ever granted to whom."""

    pool: tuple[IPAddress, ...]
    seconds: int
    leases: dict[bytes, tuple[IPAddress, int]] = field(default_factory=dict)
    offers: dict[bytes, IPAddress] = field(default_factory=dict)
    granted: set[tuple[bytes, IPAddress, int]] = field(default_factory=set)
    declined: set[IPAddress] = field(default_factory=set)

    def held(self, client: bytes) -> IPAddress | None:
        """The address that *client* has, or had last."""
        return self.leases[client][0] if client in self.leases else None

    def free(self, client: bytes, address: IPAddress | None, now: int) -> bool:
        """Whether *client* may have *address*."""
        return address in self.pool and address not in self._taken(client, now)

    def choose(self, client: bytes, wanted: IPAddress | None, now: int) -> IPAddress | None:
        """The address for *client*, preferably the one it has, or the one it wants."""
        taken = self._taken(client, now) | {one for who, one in self.offers.items() if who != client}
        preferred = (one for one in (self.held(client), wanted) if one in self.pool)
        chosen = next((one for one in (*preferred, *self.pool) if one not in taken), None)
        if chosen:
            self.offers[client] = chosen
        return chosen

    def _taken(self, client: bytes, now: int) -> set[IPAddress]:
        others = (one for who, (one, end) in self.leases.items() if who != client and end > now)
        return {*others, *self.declined}

    def grant(self, client: bytes, address: IPAddress, now: int) -> None:
        """Let *client* have *address*."""
        end = now + self.seconds * SECOND
        self.leases[client] = address, end
        self.granted.add((client, address, end))


class Server4:
    """A server for IPv4, the only one on its LAN, which says no to whom it does not know."""

    def __init__(self, size: int = 4, seconds: int = 120, address: str = "10.9.0.1") -> None:
        self.address = IPv4Address(address)
        self.book = Book(tuple(IPv4Address("10.9.0.50") + number for number in range(size)), seconds)
        self.more: tuple[tuple[int, bytes], ...] = ()

    def answer(self, data: bytes, now: int) -> Iterator[bytes]:
        """What there is to be sent after a frame was heard."""
        asked = message.decode(frame.decode(data).payload)
        client = asked.option(Option.CLIENT) or b""
        named = asked.option(Option.ADDRESS)
        wanted = IPv4Address(named) if named else None if asked.client == ANY else asked.client
        match asked.type:
            case Type.DISCOVER:
                if offer := self.book.choose(client, wanted, now):
                    yield self.reply(asked, Type.OFFER, offer)
            case Type.REQUEST if asked.server in {None, self.address}:
                known = asked.server is not None or self.book.held(client) == wanted
                if wanted and known and self.book.free(client, wanted, now):
                    self.book.grant(client, wanted, now)
                    yield self.reply(asked, Type.ACK, wanted)
                else:
                    yield self.reply(asked, Type.NAK)
            case Type.RELEASE | Type.DECLINE if asked.server == self.address and self.book.held(client) == wanted:
                del self.book.leases[client]
                if asked.type == Type.DECLINE and wanted:
                    self.book.declined.add(wanted)

    def reply(self, asked: Message, kind: Type, address: IPAddress = ANY, seconds: int | None = None) -> bytes:
        """A frame that answers what was *asked*."""
        times = [] if kind is Type.NAK else [(Option.SECONDS, (seconds or self.book.seconds).to_bytes(4))]
        reply = Message(
            op=message.REPLY,
            xid=asked.xid,
            mac=asked.mac,
            options=((Option.TYPE, bytes([kind])), (Option.SERVER, self.address.packed), *times, *self.more),
            yours=IPv4Address(address.packed),
        )
        return frame.encode(
            Datagram(SERVER_MAC, b"\xff" * 6, self.address, EVERYONE, frame.SERVER, frame.CLIENT, message.encode(reply))
        )


class Server6:
    """A server for IPv6; a *rapid* one grants at once."""

    duid = b"\x00\x03\x00\x01" + SERVER_MAC

    def __init__(self, size: int = 4, seconds: int = 120, *, rapid: bool = False) -> None:
        self.book = Book(tuple(IPv6Address("fd09::50") + number for number in range(size)), seconds)
        self.rapid = rapid
        self.more: tuple[tuple[int, bytes], ...] = ()

    def answer(self, data: bytes, now: int) -> Iterator[bytes]:
        """What there is to be sent after a frame was heard."""
        datagram = frame.decode(data)
        asked = message6.decode(datagram.payload)
        client = asked.option(Option6.CLIENT) or b""
        association = asked.option(Option6.IA_NA) or b""
        iaid = association[:4]
        wanted = IPv6Address(association[16:32]) if len(association) > 16 else None
        if asked.option(Option6.SERVER) not in {None, self.duid}:
            return
        known = wanted is not None and self.book.held(client) == wanted
        chosen = self.book.choose(client, wanted, now)
        match asked.type:
            case Type6.SOLICIT if not self.rapid:
                yield self.reply(datagram, asked, Type6.ADVERTISE, self.offer(iaid, chosen))
            case Type6.CONFIRM:
                code = Code.SUCCESS if wanted in self.book.pool else Code.NOT_ON_LINK
                yield self.reply(datagram, asked, Type6.REPLY, (Option6.STATUS, code.to_bytes(2)))
            case Type6.RENEW | Type6.REBIND if not known or not self.book.free(client, wanted, now):
                yield self.reply(datagram, asked, Type6.REPLY, self.refusal(iaid, Code.NO_BINDING))
            case Type6.SOLICIT | Type6.REQUEST | Type6.RENEW | Type6.REBIND:
                if chosen:
                    self.book.grant(client, chosen, now)
                rapid = [(Option6.RAPID, b"")] if asked.type == Type6.SOLICIT else []
                yield self.reply(datagram, asked, Type6.REPLY, self.offer(iaid, chosen), *rapid)
            case Type6.RELEASE | Type6.DECLINE if known and wanted:
                del self.book.leases[client]
                if asked.type == Type6.DECLINE:
                    self.book.declined.add(wanted)

    def offer(self, iaid: bytes, address: IPAddress | None) -> tuple[int, bytes]:
        """The option that gives *address* to an interface; with none, that says so."""
        if address is None:
            return self.refusal(iaid, Code.NO_ADDRESSES)
        value = address.packed + self.book.seconds.to_bytes(4) * 2
        return Option6.IA_NA, iaid + bytes(8) + Option6.ADDRESS.to_bytes(2) + len(value).to_bytes(2) + value

    def refusal(self, iaid: bytes, code: Code) -> tuple[int, bytes]:
        """The option that gives an interface nothing."""
        return Option6.IA_NA, iaid + bytes(8) + Option6.STATUS.to_bytes(2) + b"\0\2" + code.to_bytes(2)

    def reply(self, datagram: Datagram, asked: Message6, kind: Type6, *options: tuple[int, bytes]) -> bytes:
        """A frame that answers what was *asked*."""
        who = (Option6.CLIENT, asked.option(Option6.CLIENT) or b""), (Option6.SERVER, self.duid)
        payload = message6.encode(Message6(kind, asked.xid, (*who, *options, *self.more)))
        me = IPv6Address("fe80::1")
        return frame.encode(
            Datagram(SERVER_MAC, datagram.source_mac, me, datagram.source, frame.SERVER6, frame.CLIENT6, payload)
        )
