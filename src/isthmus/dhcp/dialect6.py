"""How DHCPv6 clients speak (RFC 8415), for one address of one interface.

They speak from the link-local address that Linux gives to the interface's MAC, and the interface must be up: servers
ask by neighbour discovery where it is before they answer.
"""

from collections.abc import Iterable
from ipaddress import IPv6Address

from isthmus.dhcp import message6 as messages
from isthmus.dhcp.client import SECOND, Answer, Confirmed, Forgotten, Grant, Offer, Question, Refusal, State
from isthmus.dhcp.frame import CLIENT6, SERVER6, Datagram, encode
from isthmus.dhcp.identity import Identity
from isthmus.dhcp.message6 import Code, Message, Option, Type
from isthmus.model import DhcpLease, IPAddress

_SERVERS, _SERVERS_MAC = IPv6Address("ff02::1:2"), bytes.fromhex("333300010002")
_TYPES = {
    State.SELECTING: Type.SOLICIT,
    State.REQUESTING: Type.REQUEST,
    State.REBOOTING: Type.CONFIRM,
    State.RENEWING: Type.RENEW,
    State.REBINDING: Type.REBIND,
}
_WAITS = {
    State.REQUESTING: (1, 30),
    State.REBOOTING: (1, 4),
    State.RENEWING: (10, 600),
    State.REBINDING: (10, 600),
}
"""How many seconds to wait for an answer, at first and at most (7.6)."""
_SOLICIT, _SOLICIT_MAX = 1, 3600
_ASKED = b"".join(one.to_bytes(2) for one in (Option.DNS, Option.SEARCH, Option.SOLICIT_MAX))
_REASONS: dict[int, str] = {
    Code.NO_ADDRESSES: "no addresses available",
    Code.NOT_ON_LINK: "not on link",
    Code.NO_BINDING: "no binding",
}


class Dialect6:
    """How the client of that *identity* speaks."""

    requests = 10
    confirmations = 4  # in 10 seconds

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._solicit_max = _SOLICIT_MAX

    def ask(self, question: Question) -> bytes:
        """Return the frame that asks."""
        kind = _TYPES[question.state]
        options = [(Option.ELAPSED, min(question.age // (SECOND // 100), 0xFFFF).to_bytes(2))]
        if kind is not Type.CONFIRM:
            options.append((Option.ASKED, _ASKED))
        if kind is Type.SOLICIT:
            options.append((Option.RAPID, b""))
        return self._frame(kind, question.xid, question.server, question.wanted, options)

    def hear(self, datagram: Datagram, question: Question, asked: int) -> Answer | None:
        """Return what *datagram* answers to what was *asked* then; None if it is no answer to that, or not for us.

        Raises:
            Malformed: it makes no sense.
        """
        answer = messages.decode(datagram.payload)
        server = (answer.option(Option.SERVER) or b"").hex()
        ours = (
            answer.option(Option.CLIENT) == self._identity.duid
            and answer.xid == _transaction(_TYPES[question.state], question.xid)
            and server
            and question.server in {"", server}
        )
        if not ours:
            return None
        if limit := messages.solicit_max(answer):
            self._solicit_max = limit
        if answer.type == Type.ADVERTISE and question.state is State.SELECTING:
            return self._offer(answer, server)
        rapid = answer.option(Option.RAPID) is not None
        if answer.type == Type.REPLY and (rapid or question.state is not State.SELECTING):
            return self._reply(answer, server, question.state, datagram.source_mac, asked)
        return None

    def _offer(self, answer: Message, server: str) -> Answer | None:
        code = messages.verdict(answer, self._identity.iaid)
        if code in _REASONS:
            return Refusal(_REASONS[code], final=False)
        address = messages.lease(answer, self._identity.iaid, b"", 0).address.ip
        return None if code else Offer(server, address, messages.preference(answer))

    def _reply(self, answer: Message, server: str, state: State, mac: bytes, asked: int) -> Answer | None:
        code = messages.verdict(answer, self._identity.iaid)
        if code == Code.NO_BINDING and state in {State.RENEWING, State.REBINDING}:
            return Forgotten(server)
        if code in _REASONS:
            return Refusal(_REASONS[code])
        if code:
            return None  # it may be better the next time
        if state is State.REBOOTING:
            return Confirmed()
        return Grant(messages.lease(answer, self._identity.iaid, mac, asked))

    def wait(self, state: State, attempt: int, left: int, random: float) -> int:  # noqa: ARG002 - for IPv4 alone
        """How long to wait for an answer to the *attempt* (from 1); *left* is what is left of the lease's stage."""
        first, most = _WAITS.get(state, (_SOLICIT, self._solicit_max))
        # The first wait for advertisements is never shorter than the others count on (18.2.1).
        chance = random / 10 if state is State.SELECTING and attempt == 1 else (random - 0.5) / 5
        return int(min(first * 2 ** min(attempt - 1, 16), most) * (1 + chance) * SECOND)

    def decline(self, lease: DhcpLease, xid: int) -> bytes:
        """Return the frame that tells the server that somebody else has the address."""
        return self._frame(Type.DECLINE, xid, lease.server, lease.address.ip)

    def release(self, lease: DhcpLease, xid: int) -> bytes:
        """Return the frame that gives the lease back."""
        return self._frame(Type.RELEASE, xid, lease.server, lease.address.ip)

    def _frame(
        self, kind: Type, xid: int, server: str, wanted: IPAddress | None, options: Iterable[tuple[int, bytes]] = ()
    ) -> bytes:
        """Return a message to all servers, or by the name of one, as a frame."""
        me = self._identity
        who = [(Option.CLIENT, me.duid), *([(Option.SERVER, bytes.fromhex(server))] if server else [])]
        asked = messages.association(me.iaid, wanted)
        payload = messages.encode(Message(kind, _transaction(kind, xid), (*who, asked, *options)))
        return encode(Datagram(me.mac, _SERVERS_MAC, me.link_local, _SERVERS, CLIENT6, SERVER6, payload))


def _transaction(kind: Type, xid: int) -> int:
    """The number of a transaction: three bytes, another one for each kind of message (16.1)."""
    return (xid + kind) & 0xFF_FFFF
