"""A DHCP client without any input or output: RFC 2131, figure 5, which RFC 8415 (18.2) has in other words.

    INIT ── SELECTING ── REQUESTING ── BOUND ── RENEWING ── REBINDING
     │                                   │ T1            T2      │ the end
     │         REBOOTING ────────────────┘                       │
     └──────────── refused, in use by somebody else, expired ◄───┘

It is told that a frame came or that its deadline passed, and gives the frames to send. All else are facts to look at:
the `lease`, which is what the endpoint may use now; the `status`, for people; the `deadline`, when to `wake` it; and
whether it is `waiting` for an answer. What the frames look like is up to a `Dialect`. Times are nanoseconds since the
epoch, on a clock that nobody sets.

A lease from before a reboot begins in REBOOTING (INIT-REBOOT is left in the same moment); it is kept unless a server
says no. The random wait of up to 10 s before the first word is left out: it is there against all machines of a LAN
starting at once, and here somebody waits for the endpoint.
"""

from collections.abc import Callable
from enum import Enum
from typing import Protocol

import msgspec
from msgspec.structs import replace

from isthmus.dhcp.frame import Datagram, Malformed
from isthmus.dhcp.status import BOUND, CONFLICT, EXPIRED, NO_ANSWER, REBINDING, RENEWING, SEARCHING, Status, refused
from isthmus.model import FOREVER, DhcpLease, IPAddress

SECOND = 1_000_000_000

_PAUSE = 10 * SECOND
"""How long to keep still after a conflict (RFC 2131, 3.1)."""

Frames = tuple[bytes, ...]
"""What is to be sent now."""

Random = Callable[[], float]
"""Gives a number from 0 up to, but not including, 1."""


class State(Enum):
    """What a client is doing."""

    INIT = "init"
    SELECTING = "selecting"
    REQUESTING = "requesting"
    REBOOTING = "rebooting"
    BOUND = "bound"
    RENEWING = "renewing"
    REBINDING = "rebinding"


_WORDS = {State.REBOOTING: RENEWING, State.RENEWING: RENEWING, State.REBINDING: REBINDING}


class Question(msgspec.Struct, frozen=True):
    """What a client in *state* has to say, in the exchange *xid* (32 bits), which is *age* nanoseconds old.

    *server* is the only one that is asked, or empty. *wanted* is the address in question, if there is any.
    """

    state: State
    xid: int
    age: int
    server: str
    wanted: IPAddress | None
    lease: DhcpLease | None


class Offer(msgspec.Struct, frozen=True):
    """A server would give this address. The best *preference* is 255."""

    server: str
    address: IPAddress
    preference: int


class Grant(msgspec.Struct, frozen=True):
    """A server gives this lease."""

    lease: DhcpLease


class Confirmed(msgspec.Struct, frozen=True):
    """A server says that the lease is good here."""


class Forgotten(msgspec.Struct, frozen=True):
    """A server knows nothing of the lease, but would give it anew if it is asked."""

    server: str


class Refusal(msgspec.Struct, frozen=True):
    """A server says no, for a *reason*. A *final* one ends what there was; else there may be better servers."""

    reason: str
    final: bool = True


Answer = Offer | Grant | Confirmed | Forgotten | Refusal


class Dialect(Protocol):
    """How the clients of one family speak."""

    requests: int
    """How often an offer is asked for before another one is looked for."""

    confirmations: int
    """How often is asked about an old lease before its time is trusted."""

    def ask(self, question: Question) -> bytes:
        """Return the frame that asks."""

    def hear(self, datagram: Datagram, question: Question, asked: int) -> Answer | None:
        """Return what *datagram* answers to what was *asked* then; None if it is no answer to that, or not for us.

        Raises:
            Malformed: it makes no sense.
        """

    def wait(self, state: State, attempt: int, left: int, random: float) -> int:
        """How long to wait for an answer to the *attempt* (from 1); *left* is what is left of the lease's stage."""

    def decline(self, lease: DhcpLease, xid: int) -> bytes:
        """Return the frame that tells the server that somebody else has the address."""

    def release(self, lease: DhcpLease, xid: int) -> bytes:
        """Return the frame that gives the lease back."""


class Client:
    """The client of one endpoint. It begins with `start`, `adopt` or `confirm`."""

    def __init__(self, dialect: Dialect, random: Random) -> None:
        self.lease: DhcpLease | None = None
        self.deadline: int | None = None
        self.status = Status(SEARCHING, 0)
        self.state = State.INIT
        self._dialect, self._random = dialect, random
        self._wanted: IPAddress | None = None
        self._server = ""  # the only one that is asked
        self._offer: Offer | None = None  # the best one so far
        self._xid = self._began = self._asked = self._age = self._attempt = self._refusals = 0

    @property
    def waiting(self) -> bool:
        """Whether there may come an answer."""
        return self.state not in {State.INIT, State.BOUND}

    def start(self, now: int, wanted: IPAddress | None = None) -> Frames:
        """Look for a lease, preferably of the *wanted* address."""
        self._wanted = wanted
        self._say(SEARCHING, now)
        return self._enter(State.SELECTING, now)

    def adopt(self, lease: DhcpLease, now: int) -> Frames:
        """Go on with a *lease* whose time runs, as if nothing had been."""
        self.lease = lease
        return self._follow(lease, now)

    def confirm(self, lease: DhcpLease, now: int) -> Frames:
        """Go on with a *lease*, but ask whether it is good where we are now: the host was away."""
        self.lease = lease
        return self._follow(lease, now) if _ended(lease, now) else self._enter(State.REBOOTING, now)

    def wake(self, now: int) -> Frames:
        """Do what is due."""
        if self.deadline is None or now < self.deadline:
            return ()
        if self.state is State.INIT:
            return self._enter(State.SELECTING, now)
        if self._offer:
            return self._choose(self._offer, now)
        limits = {State.REQUESTING: self._dialect.requests, State.REBOOTING: self._dialect.confirmations}
        if self.lease:
            again = self._attempt < limits.get(self.state, 0) and not _ended(self.lease, now)
            return self._ask(now) if again else self._follow(self.lease, now)
        self._say(NO_ANSWER, now)
        again = self._attempt < limits.get(self.state, self._attempt + 1)
        return self._ask(now) if again else self._enter(State.SELECTING, now)

    def retry(self, now: int) -> Frames:
        """Say at once what waits to be said again: the device is back."""
        self._attempt = 0
        return self._ask(now) if self.waiting else ()

    def receive(self, datagram: Datagram, now: int) -> Frames:
        """Take what came; it need not be for this client, or make sense."""
        try:
            answer = self._dialect.hear(datagram, self._question(), self._asked) if self.waiting else None
        except Malformed:
            answer = None
        match answer:
            case Offer():
                return self._consider(answer, now)
            case Grant(lease):
                return self._take(lease, now)
            case Confirmed() if self.lease:
                return self._follow(self.lease, now)
            case Forgotten(server):
                return self._enter(State.REQUESTING, now, server)
            case Refusal():
                return self._heed(answer, now)
            case _:
                return ()

    def decline(self, now: int) -> Frames:
        """Tell the server that somebody else has the address, and look for another one in a while."""
        if not self.lease:
            return ()
        frame = self._dialect.decline(self.lease, self._number())
        self._lose(CONFLICT, now)
        self._wanted, self.deadline = None, now + _PAUSE
        return (frame,)

    def release(self, now: int) -> Frames:
        """Give the lease back; this is the end."""
        lease, self.lease, self.state, self.deadline = self.lease, None, State.INIT, None
        return (self._dialect.release(lease, self._number()),) if lease and not _ended(lease, now) else ()

    def _consider(self, offer: Offer, now: int) -> Frames:
        """Keep the best offer. Others may be better, but are waited for only once (RFC 8415, 18.2.1)."""
        if self._offer is None or offer.preference > self._offer.preference:
            self._offer = offer
        return self._choose(self._offer, now) if offer.preference == 255 or self._attempt > 1 else ()

    def _choose(self, offer: Offer, now: int) -> Frames:
        self._wanted = offer.address
        return self._enter(State.REQUESTING, now, offer.server)

    def _take(self, lease: DhcpLease, now: int) -> Frames:
        """Have this *lease*, to be renewed a little early: not together with all others (RFC 2131, 4.4.5)."""
        self.lease = replace(lease, t1=lease.t1 - int(lease.t1 * self._random() / 16))
        self._refusals = 0
        return self._follow(self.lease, now)

    def _heed(self, refusal: Refusal, now: int) -> Frames:
        """Begin anew after a refusal: at once, but if that leads to the next one, then slowly."""
        if not refusal.final:
            self._say(refused(refusal.reason), now)
            return ()
        self._lose(refused(refusal.reason), now)
        self._wanted = None
        self._refusals += 1
        if self._refusals == 1:
            return self._enter(State.SELECTING, now)
        self.deadline = now + self._dialect.wait(State.SELECTING, self._refusals - 1, 0, self._random())
        return ()

    def _follow(self, lease: DhcpLease, now: int) -> Frames:
        """Be where the time of *lease* says."""
        state = _stage(lease, now)
        if state is State.INIT:
            self._lose(EXPIRED, now)
            self._wanted = lease.address.ip
            return self._enter(State.SELECTING, now)
        if state is State.BOUND:
            self.state, self.deadline = state, _next_stage(lease, now)
            self._say(BOUND, now)
            return ()
        return self._ask(now) if state is self.state else self._enter(state, now)

    def _enter(self, state: State, now: int, server: str = "") -> Frames:
        """Begin to ask in *state*: all servers, or the only one that can answer."""
        if state is not State.REQUESTING or self.lease:
            # A request belongs to the exchange that brought the offer (RFC 2131, table 5).
            self._xid, self._began = self._number(), now
        self.state, self._attempt, self._offer = state, 0, None
        self._server = self.lease.server if self.lease and state is State.RENEWING else server
        self._say(_WORDS.get(state, self.status.word), now)
        return self._ask(now)

    def _ask(self, now: int) -> Frames:
        """Ask once more."""
        self._attempt += 1
        # A lease counts from when it was asked for (RFC 2131, 4.4.1); nobody knows which of several requests was heard.
        if self._attempt == 1 or self.state is State.SELECTING:
            self._asked = now
        end = _next_stage(self.lease, now) if self.lease else None
        left = end - now if end else 0
        wait = self._dialect.wait(self.state, self._attempt, left, self._random())
        self.deadline = now + (min(wait, left) if end else wait)
        if self.state is not State.REQUESTING:
            self._age = now - self._began  # a request has that of the last discovery (RFC 2131, 4.3.1)
        return (self._dialect.ask(self._question()),)

    def _question(self) -> Question:
        wanted = self.lease.address.ip if self.lease else self._wanted
        return Question(self.state, self._xid, self._age, self._server, wanted, self.lease)

    def _number(self) -> int:
        """A number for a new exchange."""
        return int(self._random() * 2**32)

    def _lose(self, word: str, now: int) -> None:
        """Have no lease any more, and keep still."""
        self.lease, self.state, self.deadline, self._offer = None, State.INIT, None, None
        self._say(word, now)

    def _say(self, word: str, now: int) -> None:
        if word != self.status.word or not self.status.since:
            self.status = Status(word, now)


def _times(lease: DhcpLease) -> tuple[int, ...]:
    """When *lease* is to be renewed, to be rebound, and over."""
    return tuple(lease.obtained + seconds * SECOND for seconds in (lease.t1, lease.t2, lease.seconds))


def _stage(lease: DhcpLease, now: int) -> State:
    """What the client of *lease* does at *now*; INIT if it is over."""
    if lease.seconds == FOREVER:
        return State.BOUND
    t1, t2, end = _times(lease)
    if now >= end:
        return State.INIT
    return State.BOUND if now < t1 else State.RENEWING if now < t2 else State.REBINDING


def _next_stage(lease: DhcpLease, now: int) -> int | None:
    """When the client of *lease* has to do the next thing; None if there is none."""
    if lease.seconds == FOREVER:
        return None
    return next((one for one in _times(lease) if one > now), None)


def _ended(lease: DhcpLease, now: int) -> bool:
    return _stage(lease, now) is State.INIT
