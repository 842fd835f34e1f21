"""The client of RFC 2131, figure 5, and its dialects: each way from one state to another, by a clock held in hand."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

import pytest
from msgspec.structs import replace

from isthmus.dhcp import frame, message, message6
from isthmus.dhcp.client import SECOND, Client, Frames, State
from isthmus.dhcp.dialect4 import Dialect4, Pace
from isthmus.dhcp.dialect6 import Dialect6
from isthmus.dhcp.frame import Datagram
from isthmus.dhcp.identity import Hears, Identity, client_id
from isthmus.dhcp.message import ANY, EVERYONE, Message, Option, Type
from isthmus.dhcp.message6 import Code
from isthmus.dhcp.message6 import Option as Option6
from isthmus.dhcp.message6 import Type as Type6
from isthmus.model import FOREVER, DhcpLease
from tests.dhcp_servers import SERVER_MAC, Server4, Server6

MAC = bytes.fromhex("021122334455")
WEB = Identity(MAC, client_id("ab" * 32, "web"), "web")
FIRST, SECOND_ONE = IPv4Address("10.9.0.50"), IPv4Address("10.9.0.51")
START = 1000 * SECOND


def chance() -> float:
    """No chance: as long as is said to wait, and the same transaction number for each exchange."""
    return 0.5


@dataclass
class Talk:
    """A client and its server, who hear each other when they are told to."""

    client: Client = field(default_factory=lambda: Client(Dialect4(WEB, Pace()), chance))
    server: Server4 = field(default_factory=Server4)
    now: int = START
    sent: Frames = ()

    def say(self, frames: Frames) -> Message:
        """Take the one frame that the client sent; return what it says."""
        self.sent = frames
        return message.decode(self.datagram().payload)

    def datagram(self) -> Datagram:
        """What the client sent last."""
        (data,) = self.sent
        return frame.decode(data)

    def hear(self, answers: Iterable[bytes]) -> Frames:
        """Let the client hear *answers*."""
        self.sent = ()
        for one in answers:
            self.sent = self.client.receive(frame.decode(one), self.now)
        return self.sent

    def answered(self) -> Frames:
        """Let the server hear the client, and the client the server."""
        (data,) = self.sent
        return self.hear(self.server.answer(data, self.now))

    def later(self, seconds: float) -> Frames:
        """Let time pass."""
        self.now += int(seconds * SECOND)
        self.sent = self.client.wake(self.now)
        return self.sent

    def bound(self) -> DhcpLease:
        """Get a lease the usual way. Without chance its T1 is a 32nd early."""
        self.say(self.client.start(self.now))
        self.answered()
        self.answered()
        assert self.client.lease
        return self.client.lease

    def waits(self) -> float:
        """How many seconds the client waits."""
        assert self.client.deadline is not None
        return (self.client.deadline - self.now) / SECOND


def test_a_client_asks_all_servers_for_broadcasts() -> None:
    """Nobody answers ARP for the address yet, and who asks is known by more than its MAC."""
    talk = Talk()
    said = talk.say(talk.client.start(START, SECOND_ONE))
    assert (said.type, said.broadcast, said.client) == (Type.DISCOVER, True, ANY)
    assert said.option(Option.CLIENT) == WEB.client_id
    assert said.option(Option.HOSTNAME) == b"web"
    assert said.option(Option.ADDRESS) == SECOND_ONE.packed
    assert set(said.option(Option.PARAMETERS) or b"") >= {1, 3, 6, 12, 15, 26, 51, 119, 121}
    sent = talk.datagram()
    assert (sent.source_mac, sent.target_mac, sent.source, sent.target) == (MAC, b"\xff" * 6, ANY, EVERYONE)
    assert talk.client.state is State.SELECTING
    assert talk.client.waiting


def test_an_offer_is_requested_from_its_server() -> None:
    """SELECTING to REQUESTING: other servers learn that theirs was not taken."""
    talk = Talk()
    asked = talk.say(talk.client.start(START))
    said = talk.say(talk.answered())
    assert (said.type, said.xid, said.broadcast) == (Type.REQUEST, asked.xid, True)
    assert said.option(Option.ADDRESS) == FIRST.packed
    assert said.server == talk.server.address
    assert talk.client.state is State.REQUESTING
    assert talk.client.lease is None


def test_an_acknowledged_request_is_a_lease() -> None:
    """REQUESTING to BOUND: from then on there is nothing to be heard until it is to be renewed."""
    talk = Talk()
    lease = talk.bound()
    assert (lease.address.ip, lease.obtained, lease.seconds) == (FIRST, START, 120)
    assert lease.server_mac == SERVER_MAC.hex(":")
    assert talk.client.status.word == "bound"
    assert not talk.client.waiting
    assert talk.waits() == lease.t1 == 59
    assert talk.later(58) == ()


def test_a_lease_counts_from_when_it_was_first_asked_for() -> None:
    """The server may have heard the first of several requests, and its time runs from then on."""
    talk = Talk()
    talk.say(talk.client.start(START))
    (first,) = talk.answered()
    talk.later(4)
    talk.hear(talk.server.answer(first, START))
    assert talk.client.lease
    assert talk.client.lease.obtained == START


def test_a_refused_request_begins_anew() -> None:
    """REQUESTING to INIT: the first time at once, then ever more slowly, and not with the refused address."""
    talk = Talk()
    asked = talk.say(talk.client.start(START, SECOND_ONE))
    said = talk.say(talk.answered())
    assert talk.say(talk.hear([talk.server.reply(said, Type.NAK)])).option(Option.ADDRESS) is None
    assert talk.client.state is State.SELECTING
    assert talk.client.status.word == "refused (NAK)"
    asked = talk.say(talk.answered())
    assert talk.hear([talk.server.reply(asked, Type.NAK)]) == ()
    assert (talk.client.state, talk.waits()) == (State.INIT, 4)
    talk.later(4)
    assert talk.client.state is State.SELECTING


def test_a_lease_in_between_makes_up_for_a_refusal() -> None:
    """What happened on another day is no reason to wait."""
    talk = Talk()
    for _ in range(2):
        talk.bound()
        said = talk.say(talk.later(59))
        assert talk.say(talk.hear([talk.server.reply(said, Type.NAK)])).type == Type.DISCOVER


def test_silence_is_answered_by_asking_ever_less() -> None:
    """SELECTING: after 4, 8, 16, 32 and 64 seconds (RFC 2131, 4.1), for ever."""
    talk = Talk()
    talk.say(talk.client.start(START))
    waits = []
    for _ in range(7):
        waits.append(talk.waits())
        assert talk.say(talk.later(talk.waits())).type == Type.DISCOVER
        assert talk.client.status.word == "no answer"
    assert waits == [4, 8, 16, 32, 64, 64, 64]
    assert talk.client.status.since == START + 4 * SECOND


def test_chance_moves_a_wait_by_a_second() -> None:
    """Those who began together are not to go on together."""
    waits = []
    for number in (0.0, 0.999):
        talk = Talk(Client(Dialect4(WEB, Pace()), iter([0.5, number]).__next__))
        talk.client.start(START)
        waits.append(round(talk.waits(), 1))
    assert waits == [3, 5]


def test_an_offer_that_leads_nowhere_is_left() -> None:
    """REQUESTING to SELECTING: its server may have died in between."""
    talk = Talk()
    talk.say(talk.client.start(START))
    talk.answered()
    types = [talk.say(talk.later(talk.waits())).type for _ in range(4)]
    assert types == [Type.REQUEST, Type.REQUEST, Type.REQUEST, Type.DISCOVER]


def test_a_lease_is_renewed_at_its_server() -> None:
    """BOUND to RENEWING and back: by unicast, with the address itself."""
    talk = Talk()
    first = talk.bound()
    said = talk.say(talk.later(talk.waits()))
    assert (talk.client.state, talk.client.status.word) == (State.RENEWING, "renewing")
    assert (said.type, said.client, said.broadcast) == (Type.REQUEST, FIRST, False)
    assert said.option(Option.ADDRESS) is None
    assert said.option(Option.SERVER) is None
    sent = talk.datagram()
    assert (sent.target_mac, sent.target, sent.source) == (SERVER_MAC, talk.server.address, FIRST)
    talk.answered()
    assert talk.client.state is State.BOUND
    assert talk.client.lease == replace(first, obtained=START + 59 * SECOND)


def test_a_lease_is_renewed_by_broadcast_where_only_that_is_heard() -> None:
    """At a bridge the answer to the address itself would pass us by."""
    talk = Talk(Client(Dialect4(replace(WEB, hears=Hears.BROADCASTS), Pace()), chance))
    talk.bound()
    for seconds, state in ((59, State.RENEWING), (46, State.REBINDING)):
        said = talk.say(talk.later(seconds))
        assert talk.client.state is state
        assert (said.client, said.broadcast, said.option(Option.ADDRESS)) == (ANY, True, FIRST.packed)
        assert talk.datagram().target == EVERYONE


def test_a_renewal_is_only_answered_by_the_server_that_was_asked() -> None:
    """Another one on the LAN may not know the lease."""
    talk = Talk()
    lease = talk.bound()
    said = talk.say(talk.later(59))
    other = Server4(address="10.9.0.2")
    talk.hear([other.reply(said, Type.NAK)])
    talk.hear([other.reply(said, Type.ACK, SECOND_ONE)])
    assert talk.client.lease == lease


def test_a_lease_that_nobody_renews_is_asked_for_everywhere() -> None:
    """RENEWING to REBINDING and back, by any server."""
    talk = Talk()
    talk.bound()
    talk.later(59)
    said = talk.say(talk.later(46))
    assert (talk.client.state, talk.client.status.word) == (State.REBINDING, "rebinding")
    assert (said.client, said.broadcast) == (FIRST, False)
    assert talk.datagram().target == EVERYONE
    talk.hear([Server4(address="10.9.0.2").reply(said, Type.ACK, FIRST)])
    assert talk.client.state is State.BOUND
    assert talk.client.lease
    assert talk.client.lease.server == "10.9.0.2"


@pytest.mark.parametrize("seconds", [59, 105])
def test_a_renewal_that_is_refused_ends_the_lease(seconds: int) -> None:
    """RENEWING or REBINDING to INIT: the address is somebody else's now."""
    talk = Talk()
    talk.bound()
    said = talk.say(talk.later(seconds))
    talk.hear([talk.server.reply(said, Type.NAK)])
    assert talk.client.lease is None
    assert talk.client.state is State.SELECTING
    assert talk.client.status.word == "refused (NAK)"


def test_a_renewal_is_repeated_after_half_of_what_is_left_but_not_hastily() -> None:
    """RENEWING and REBINDING: each half, but not within a minute (4.4.5)."""
    talk = Talk(server=Server4(seconds=3200))
    talk.bound()
    waits = []
    while talk.client.lease:
        waits.append(talk.waits())
        talk.later(waits[-1])
    assert waits == [1550, 625, 312.5, 156.25, 78.125, 60, 18.125, 200, 100, 60, 40]


def test_a_lease_ends_with_its_time() -> None:
    """REBINDING to INIT: it is asked for again, but not used any more."""
    talk = Talk()
    talk.bound()
    talk.later(59)
    talk.later(46)
    said = talk.say(talk.later(15))
    assert talk.client.lease is None
    assert talk.client.status.word == "expired"
    assert (said.type, said.option(Option.ADDRESS)) == (Type.DISCOVER, FIRST.packed)


def test_a_lease_for_ever_is_never_renewed() -> None:
    """A server may give an address away for good."""
    talk = Talk(server=Server4(seconds=FOREVER))
    talk.bound()
    assert talk.client.deadline is None


@pytest.mark.parametrize(
    ("age", "state", "kept"),
    [
        (0, State.BOUND, True),
        (61, State.RENEWING, True),
        (106, State.REBINDING, True),
        (121, State.SELECTING, False),
    ],
)
def test_an_adopted_lease_is_where_its_time_says(age: int, state: State, *, kept: bool) -> None:
    """The daemon was away, and nothing else has changed."""
    lease = Talk().bound()
    talk = Talk(now=START + age * SECOND)
    frames = talk.client.adopt(lease, talk.now)
    assert talk.client.state is state
    assert talk.client.lease == (lease if kept else None)
    assert bool(frames) == (state is not State.BOUND)


def test_a_lease_from_before_a_reboot_is_confirmed() -> None:
    """INIT-REBOOT, REBOOTING to BOUND: in one exchange, and the address stays meanwhile."""
    talk = Talk()
    lease = talk.bound()
    talk.now += 10 * SECOND
    said = talk.say(talk.client.confirm(lease, talk.now))
    assert (talk.client.state, talk.client.lease) == (State.REBOOTING, lease)
    assert (said.type, said.client, said.broadcast) == (Type.REQUEST, ANY, True)
    assert said.option(Option.ADDRESS) == FIRST.packed
    assert said.option(Option.SERVER) is None
    talk.answered()
    assert talk.client.state is State.BOUND
    assert talk.client.lease == replace(lease, obtained=talk.now)


def test_a_lease_from_before_a_reboot_may_be_refused() -> None:
    """REBOOTING to INIT: the machine stands on another LAN now."""
    talk = Talk()
    lease = Talk().bound()
    talk.say(talk.client.confirm(lease, talk.now))
    assert talk.say(talk.answered()).type == Type.DISCOVER
    assert talk.client.lease is None


def test_a_lease_that_nobody_confirms_is_trusted_for_its_time() -> None:
    """REBOOTING to BOUND: the server may come up later than we do (RFC 2131, 3.2)."""
    talk = Talk()
    lease = Talk().bound()
    talk.client.confirm(lease, talk.now)
    assert talk.say(talk.later(4)).type == Type.REQUEST
    assert talk.later(8) == ()
    assert (talk.client.state, talk.client.lease, talk.client.status.word) == (State.BOUND, lease, "bound")


def test_a_lease_that_ended_before_a_reboot_is_not_used() -> None:
    """Somebody else may have it by now."""
    lease = Talk().bound()
    talk = Talk(now=START + 120 * SECOND)
    assert talk.say(talk.client.confirm(lease, talk.now)).type == Type.DISCOVER
    assert talk.client.lease is None


def test_an_address_in_use_is_declined() -> None:
    """The server learns of it, and after a while there is another address."""
    talk = Talk()
    talk.bound()
    said = talk.say(talk.client.decline(talk.now))
    assert (said.type, said.option(Option.ADDRESS), said.client) == (Type.DECLINE, FIRST.packed, ANY)
    assert said.server == talk.server.address
    assert (talk.client.lease, talk.client.status.word, talk.waits()) == (None, "address in use", 10)
    talk.answered()
    talk.say(talk.later(10))
    talk.answered()
    talk.answered()
    assert talk.client.lease
    assert talk.client.lease.address.ip == SECOND_ONE


def test_a_released_address_is_given_back_to_its_server() -> None:
    """Nobody waits for an answer."""
    talk = Talk()
    talk.bound()
    said = talk.say(talk.client.release(talk.now))
    assert (said.type, said.client, said.server) == (Type.RELEASE, FIRST, talk.server.address)
    assert (talk.datagram().target_mac, talk.datagram().target) == (SERVER_MAC, talk.server.address)
    assert said.option(Option.PARAMETERS) is None
    assert (talk.client.lease, talk.client.deadline, talk.client.waiting) == (None, None, False)


def test_what_is_given_back_after_a_restart_has_a_number_of_its_own() -> None:
    """A client that has only adopted its lease has asked nothing yet."""
    talk = Talk()
    talk.client.adopt(Talk().bound(), START)
    assert talk.say(talk.client.release(START)).xid == 2**31


def test_there_is_nothing_to_release_or_decline_without_a_lease() -> None:
    """What has ended may be somebody else's."""
    talk = Talk()
    talk.client.start(START)
    assert talk.client.decline(START) == ()
    assert talk.client.release(START) == ()
    lease = Talk().bound()
    late = Talk()
    late.client.adopt(lease, START)
    assert late.client.release(START + 120 * SECOND) == ()


def test_a_device_that_is_back_is_used_at_once() -> None:
    """Nobody waits out the last of the long pauses."""
    talk = Talk()
    talk.client.start(START)
    for _ in range(5):
        talk.later(talk.waits())
    assert talk.say(talk.client.retry(talk.now)).type == Type.DISCOVER
    assert talk.waits() == 4
    talk = Talk()
    talk.bound()
    assert talk.client.retry(talk.now) == ()


def test_answers_for_others_are_not_ours() -> None:
    """Broadcasts are heard by all: only the transaction and the MAC tell whose they are."""
    talk = Talk()
    said = talk.say(talk.client.start(START))
    server = talk.server
    for other in (
        server.reply(replace(said, xid=said.xid ^ 1), Type.OFFER, FIRST),
        server.reply(replace(said, mac=b"\2" * 6), Type.OFFER, FIRST),
        server.reply(said, Type.OFFER, IPv4Address("224.0.0.1")),
        server.reply(said, Type.ACK, FIRST),
        server.reply(said, Type.NAK),
    ):
        assert talk.hear([other]) == ()
        assert talk.client.state is State.SELECTING


# DHCPv6: what is different.


@dataclass
class Talk6:
    """A DHCPv6 client and its server."""

    client: Client = field(default_factory=lambda: Client(Dialect6(WEB), chance))
    server: Server6 = field(default_factory=Server6)
    now: int = START
    sent: Frames = ()

    def say(self, frames: Frames) -> message6.Message:
        """Take the one frame that the client sent; return what it says."""
        self.sent = frames
        (data,) = frames
        return message6.decode(frame.decode(data).payload)

    def answers(self) -> list[bytes]:
        """What the server answers."""
        (data,) = self.sent
        return list(self.server.answer(data, self.now))

    def hear(self, answers: Iterable[bytes]) -> Frames:
        """Let the client hear *answers*."""
        self.sent = ()
        for one in answers:
            self.sent = self.client.receive(frame.decode(one), self.now)
        return self.sent

    def later(self, seconds: float) -> Frames:
        """Let time pass."""
        self.now += int(seconds * SECOND)
        self.sent = self.client.wake(self.now)
        return self.sent

    def bound(self) -> DhcpLease:
        """Get a lease the usual way."""
        self.server.more = ((Option6.PREFERENCE, b"\xff"),)
        self.say(self.client.start(self.now))
        self.say(self.hear(self.answers()))
        self.hear(self.answers())
        assert self.client.lease
        return self.client.lease


def test_dhcpv6_asks_from_the_link_local_address_of_the_mac() -> None:
    """The one that the kernel gives to the endpoint's interface, and answers for."""
    talk = Talk6()
    said = talk.say(talk.client.start(START, IPv6Address("fd09::53")))
    sent = frame.decode(talk.sent[0])
    assert (sent.source, sent.target) == (IPv6Address("fe80::11:22ff:fe33:4455"), IPv6Address("ff02::1:2"))
    assert sent.target_mac == bytes.fromhex("333300010002")
    assert said.type == Type6.SOLICIT
    assert said.option(Option6.CLIENT) == WEB.client_id[5:]
    assert (said.option(Option6.IA_NA) or b"")[:4] == WEB.client_id[1:5]
    assert IPv6Address("fd09::53").packed in (said.option(Option6.IA_NA) or b"")


def test_dhcpv6_takes_the_best_of_the_advertisements_of_the_first_second() -> None:
    """RFC 8415, 18.2.1."""
    talk = Talk6()
    talk.say(talk.client.start(START))
    poor = talk.answers()
    talk.server.more = ((Option6.PREFERENCE, b"\x07"),)
    talk.server.book.pool = talk.server.book.pool[1:]
    good = talk.answers()
    assert talk.hear([*poor, *good, *poor]) == ()
    said = talk.say(talk.later(1.05))
    assert said.type == Type6.REQUEST
    assert said.option(Option6.SERVER) == Server6.duid
    assert IPv6Address("fd09::51").packed in (said.option(Option6.IA_NA) or b"")


def test_dhcpv6_does_not_wait_for_more_than_the_best() -> None:
    """A preference of 255, or an advertisement that comes late, is taken at once."""
    talk = Talk6()
    lease = talk.bound()
    assert lease.obtained == talk.now == START
    assert str(lease.address) == "fd09::50/128"
    late = Talk6()
    late.client.start(START)
    late.say(late.later(1.05))
    assert late.client.status.word == "no answer"
    assert late.say(late.hear(late.answers())).type == Type6.REQUEST


def test_dhcpv6_may_be_granted_at_once() -> None:
    """Rapid commit: two messages instead of four."""
    talk = Talk6(server=Server6(rapid=True))
    talk.say(talk.client.start(START))
    assert talk.hear(talk.answers()) == ()
    assert talk.client.state is State.BOUND


def test_dhcpv6_goes_on_asking_where_there_is_no_address() -> None:
    """One may become free."""
    talk = Talk6(server=Server6(size=0))
    talk.say(talk.client.start(START))
    assert talk.hear(talk.answers()) == ()
    assert talk.client.status.word == "refused (no addresses available)"
    assert talk.client.state is State.SELECTING
    assert talk.say(talk.later(1.05)).type == Type6.SOLICIT


def test_dhcpv6_renews_rebinds_and_ends() -> None:
    """The same ways as in IPv4, in other words."""
    talk = Talk6()
    lease = talk.bound()
    said = talk.say(talk.later(lease.t1))
    assert (said.type, said.option(Option6.SERVER)) == (Type6.RENEW, Server6.duid)
    assert lease.address.ip.packed in (said.option(Option6.IA_NA) or b"")
    said = talk.say(talk.later(lease.t2 - lease.t1))
    assert (said.type, said.option(Option6.SERVER)) == (Type6.REBIND, None)
    assert talk.hear(talk.answers()) == ()
    assert talk.client.state is State.BOUND
    again = talk.client.lease
    assert again == replace(lease, obtained=START + lease.t2 * SECOND)
    assert talk.say(talk.later(120)).type == Type6.SOLICIT
    assert not talk.client.lease


def test_dhcpv6_is_only_renewed_by_the_server_that_was_asked() -> None:
    """Another one on the LAN may not know the lease."""
    talk = Talk6()
    lease = talk.bound()
    talk.say(talk.later(lease.t1))
    other = Server6(size=0)
    other.duid = b"\x00\x03\x00\x01other"
    asked = frame.decode(talk.sent[0])
    said = message6.decode(asked.payload)
    refusal = other.refusal(WEB.iaid, Code.NO_BINDING)
    assert talk.hear([other.reply(asked, said, Type6.REPLY, refusal)]) == ()
    assert talk.client.state is State.RENEWING


def test_dhcpv6_keeps_an_address_that_the_server_forgot_and_gives_again() -> None:
    """It lost its memory, and we did not (18.2.10.1)."""
    talk = Talk6()
    lease = talk.bound()
    talk.server.book.leases.clear()
    talk.say(talk.later(lease.t1))
    assert talk.say(talk.hear(talk.answers())).type == Type6.REQUEST
    assert talk.client.lease == lease
    talk.hear(talk.answers())
    assert talk.client.state is State.BOUND
    assert talk.client.lease == replace(lease, obtained=talk.now)


def test_dhcpv6_confirms_an_address_after_a_reboot() -> None:
    """On the same link the lease goes on as it was; on another one it is over."""
    talk = Talk6()
    lease = talk.bound()
    assert talk.say(talk.client.confirm(lease, talk.now)).type == Type6.CONFIRM
    talk.hear(talk.answers())
    assert (talk.client.state, talk.client.lease) == (State.BOUND, lease)
    away = Talk6(server=Server6(size=0))
    away.say(away.client.confirm(lease, away.now))
    assert away.say(away.hear(away.answers())).type == Type6.SOLICIT
    assert away.client.lease is None
    assert away.client.status.word == "refused (not on link)"


def test_dhcpv6_declines_and_releases_at_the_server() -> None:
    """All hear it, and the server knows that it is meant."""
    for kind in (Type6.DECLINE, Type6.RELEASE):
        talk = Talk6()
        talk.bound()
        said = talk.say(talk.client.decline(talk.now) if kind is Type6.DECLINE else talk.client.release(talk.now))
        assert (said.type, said.option(Option6.SERVER)) == (kind, Server6.duid)
        assert talk.answers() == []
        assert talk.server.book.leases == {}


def test_dhcpv6_waits_between_solicitations_for_as_long_as_the_server_wishes() -> None:
    """A thousand endpoints with no address left are not to keep a server busy (21.24)."""
    talk = Talk6(server=Server6(size=0))
    talk.server.more = ((Option6.SOLICIT_MAX, (60).to_bytes(4)),)
    talk.say(talk.client.start(START))
    talk.hear(talk.answers())
    for _ in range(12):
        talk.later(3600)
    assert talk.client.deadline == talk.now + 60 * SECOND


def test_dhcpv6_tries_again_what_failed_for_no_reason() -> None:
    """UnspecFail says nothing: it may be better the next time."""
    talk = Talk6()
    lease = talk.bound()
    said = talk.say(talk.later(lease.t1))
    sent = frame.decode(talk.sent[0])
    status = (Option6.STATUS, Code.UNSPECIFIED.to_bytes(2))
    assert talk.hear([talk.server.reply(sent, said, Type6.REPLY, status)]) == ()
    assert (talk.client.state, talk.client.lease) == (State.RENEWING, lease)
