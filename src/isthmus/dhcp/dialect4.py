"""How DHCP clients for IPv4 speak (RFC 2131).

Answers are asked for as broadcasts, for nobody answers ARP for the address yet. When a lease is renewed, a server
answers to the leased address itself. Where that cannot be heard (see `Hears`) the client asks as after a reboot: that,
too, is answered with the lease and its time anew.
"""

from ipaddress import IPv4Address

import msgspec

from isthmus.dhcp import message as messages
from isthmus.dhcp.client import SECOND, Answer, Grant, Offer, Question, Refusal, State
from isthmus.dhcp.frame import CLIENT, SERVER, Datagram, encode
from isthmus.dhcp.identity import Hears, Identity
from isthmus.dhcp.message import ANY, EVERYONE, Message, Option, Type
from isthmus.model import DhcpLease, IPAddress
from isthmus.naming import octets

_ALL_STATIONS = b"\xff" * 6
_SIZE = (1500).to_bytes(2)


class Pace(msgspec.Struct, frozen=True):
    """How long to wait for an answer, in seconds: *first*, then twice as long each time, up to *ceiling* (4.1).

    A quarter of *first* is left to chance. A renewal is not repeated within *renewal* (4.4.5).
    """

    first: float = 4
    ceiling: float = 64
    renewal: float = 60


PACE = Pace()


class Dialect4:
    """How the client of that *identity* speaks."""

    requests = 4
    confirmations = 2

    def __init__(self, identity: Identity, pace: Pace) -> None:
        self._identity, self._pace = identity, pace

    def ask(self, question: Question) -> bytes:
        """Return the frame that asks."""
        lease, all_heard = question.lease, self._identity.hears is Hears.ALL
        renews = question.state in {State.RENEWING, State.REBINDING} and all_heard
        options = []
        if question.wanted and not renews:
            options.append(_asking(question.wanted))
        if question.state is State.REQUESTING:
            options.append(_naming(question.server))
        message = self._message(
            Type.DISCOVER if question.state is State.SELECTING else Type.REQUEST,
            question.xid,
            (*options, *self._wishes()),
            seconds=min(question.age // SECOND, 0xFFFF),
            client=_address(lease) if lease and renews else ANY,
        )
        return self._frame(message, lease if renews and question.state is State.RENEWING else None)

    def hear(self, datagram: Datagram, question: Question, asked: int) -> Answer | None:
        """Return what *datagram* answers to what was *asked* then; None if it is no answer to that, or not for us.

        Raises:
            Malformed: it makes no sense.
        """
        answer = messages.decode(datagram.payload)
        if answer.op != messages.REPLY or answer.xid != question.xid or answer.mac != self._identity.mac:
            return None
        server = str(answer.server or "")
        if not server or question.server not in {"", server}:
            return None
        if question.state is State.SELECTING:
            offers = answer.type == Type.OFFER and messages.usable(answer.yours)
            return Offer(server, answer.yours, preference=255) if offers else None
        if answer.type == Type.NAK:
            return Refusal("NAK")
        return Grant(messages.lease(answer, datagram.source_mac, asked)) if answer.type == Type.ACK else None

    def wait(self, state: State, attempt: int, left: int, random: float) -> int:
        """How long to wait for an answer to the *attempt* (from 1); *left* is what is left of the lease's stage."""
        if state in {State.RENEWING, State.REBINDING}:
            return max(left // 2, int(self._pace.renewal * SECOND))
        doubled = min(self._pace.first * 2 ** min(attempt - 1, 16), self._pace.ceiling)
        return int((doubled + (random - 0.5) * self._pace.first / 2) * SECOND)

    def decline(self, lease: DhcpLease, xid: int) -> bytes:
        """Return the frame that tells the server that somebody else has the address."""
        options = _asking(lease.address.ip), _naming(lease.server)
        return self._frame(self._message(Type.DECLINE, xid, options))

    def release(self, lease: DhcpLease, xid: int) -> bytes:
        """Return the frame that gives the lease back."""
        message = self._message(Type.RELEASE, xid, (_naming(lease.server),), client=_address(lease))
        return self._frame(message, lease)

    def _wishes(self) -> tuple[tuple[int, bytes], ...]:
        """The options that only go with what wants an answer (table 5)."""
        name = self._identity.hostname.encode()
        wishes = (Option.SIZE, _SIZE), (Option.PARAMETERS, messages.ASKED)
        return ((Option.HOSTNAME, name), *wishes) if name else wishes

    def _message(
        self, kind: Type, xid: int, options: tuple[tuple[int, bytes], ...], seconds: int = 0, client: IPv4Address = ANY
    ) -> Message:
        who = (Option.TYPE, bytes([kind])), (Option.CLIENT, self._identity.client_id)
        return Message(
            op=messages.REQUEST,
            xid=xid,
            mac=self._identity.mac,
            options=(*who, *options),
            seconds=seconds,
            broadcast=kind in {Type.DISCOVER, Type.REQUEST} and client == ANY,
            client=client,
        )

    def _frame(self, message: Message, lease: DhcpLease | None = None) -> bytes:
        """Return *message* as a frame to the server of the *lease*, or to all."""
        mac = octets(lease.server_mac) if lease else _ALL_STATIONS
        target = IPv4Address(lease.server) if lease else EVERYONE
        payload = messages.encode(message)
        return encode(Datagram(self._identity.mac, mac, message.client, target, CLIENT, SERVER, payload))


def _address(lease: DhcpLease) -> IPv4Address:
    return IPv4Address(lease.address.ip.packed)


def _asking(address: IPAddress) -> tuple[int, bytes]:
    return Option.ADDRESS, address.packed


def _naming(server: str) -> tuple[int, bytes]:
    return Option.SERVER, IPv4Address(server).packed
