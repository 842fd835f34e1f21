"""What has to be asked of others before an endpoint can be had, and what they answered.

On a LAN others have addresses, too, and servers give them out. The engine waits for nobody: where a decision needs to
know what the wire says, it raises `Unanswered` with its questions, and nothing was changed. Who asked for the decision
asks the wire (`lan`), and comes again with the evidence. What several hosts share is asked of their store likewise.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from isthmus.model import DhcpLease, IPAddress, Network, Peer
from isthmus.options import Probe


class WhoHas(msgspec.Struct, frozen=True):
    """Whether anybody on *segment*, the link that reaches it, has *address*. The endpoint will have this *mac*."""

    segment: str
    address: IPAddress
    mac: str
    probe: Probe


class WhichLease(msgspec.Struct, frozen=True):
    """Which address of IP *version* a sandbox, by name, gets of the server on *segment*, for a network, by its ID.

    It shall be *wanted*, which the sandbox had before, if it can. It is *switched* if the link is a bridge, which does
    not hear what passes to the *mac*. What the server gives is looked for on the wire as *probe* says.
    """

    segment: str
    network: str
    sandbox: str
    version: int
    mac: str
    hostname: str = ""
    switched: bool = False
    wanted: IPAddress | None = None
    probe: Probe = Probe.OFF

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from all others; it lasts as long as the endpoint."""
        return self.network, self.sandbox, self.version


class AnyBlock(msgspec.Struct, frozen=True):
    """A block of a *network*'s pool (the network's ID), of addresses of that IP version."""

    network: str
    version: int


class Reserve(msgspec.Struct, frozen=True):
    """Whether what the *record* says can be had by this host, of all that share a store with it; if so, it is ours.

    A `Peer` stands for an endpoint of ours, as others are to see it: *node* and *via* are filled in by who asks. What
    block there is for `AnyBlock`, the state knows when the question is answered.
    """

    record: Network | Peer | AnyBlock
    segment: str = ""
    sandbox: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from all others: the network and the sandbox's name, or the network's name alone."""
        match self.record:
            case Peer(network=network, name=name):
                return network, name
            case Network(name=name):
                return "", name
            case AnyBlock(network, version):
                return network, f"/{version}"


Question = WhoHas | WhichLease | Reserve


class Evidence(msgspec.Struct, frozen=True):
    """The answers so far: by segment and address the MAC of who has it, "" for nobody; by `WhichLease.key` the lease.

    A lease of None tells that no server gave one in time; *granted* has, by `Reserve.key`, what is ours. What is not in
    here was not asked yet, or has to be asked anew: others were first, of whom the state knows by now.
    """

    holders: Mapping[tuple[str, IPAddress], str] = msgspec.field(default_factory=dict)
    leases: Mapping[tuple[str, str, int], DhcpLease | None] = msgspec.field(default_factory=dict)
    granted: Mapping[tuple[str, str], Reserve] = msgspec.field(default_factory=dict)

    def __or__(self, other: "Evidence") -> "Evidence":
        """Both together."""
        return Evidence(
            {**self.holders, **other.holders}, {**self.leases, **other.leases}, {**self.granted, **other.granted}
        )


class Unanswered(Exception):
    """The *questions* on whose answers a decision hangs; nothing was changed."""

    def __init__(self, questions: Iterable[Question]) -> None:
        self.questions = tuple(questions)
        super().__init__(f"others have to be asked first: {self.questions}")


class Inquiry:
    """What one decision asks of the *evidence*, and what it has to ask of the wire.

    Without evidence nothing is asked: all that could be is taken to be free, and no server to have answered.
    """

    def __init__(self, evidence: Evidence | None) -> None:
        self._evidence = evidence
        self._open: dict[Question, None] = {}

    def taken(self, segment: str) -> dict[IPAddress, str]:
        """The addresses that somebody has on *segment*, each with the MAC of who has it."""
        holders = self._evidence.holders if self._evidence else {}
        return {address: mac for (where, address), mac in holders.items() if mac and where == segment}

    def asked(self, segment: str, address: IPAddress) -> bool:
        """Whether it is known who has *address*."""
        return self._evidence is None or (segment, address) in self._evidence.holders

    def answered(self) -> Collection[tuple[str, IPAddress]]:
        """The addresses, by segment, of which it is known who has them."""
        if self._evidence is None:
            return ()
        granted = self._evidence.granted.values()
        ours = {(one.segment, at.ip) for one in granted if isinstance(one.record, Peer) for at in one.record.addresses}
        return self._evidence.holders.keys() | ours

    def ask(self, question: WhoHas) -> None:
        """See that it is known who has an address."""
        if not self.asked(question.segment, question.address):
            self._open[question] = None

    def lease(self, question: WhichLease) -> DhcpLease | None:
        """The lease that the server gave; None as long as it has not answered."""
        if self._evidence is None or question.key in self._evidence.leases:
            return self._evidence.leases[question.key] if self._evidence else None
        self._open[question] = None
        return None

    def granted(self, network: str, name: str) -> Network | Peer | AnyBlock | None:
        """What was reserved by this key, if it is ours."""
        found = self._evidence.granted.get((network, name)) if self._evidence else None
        return found.record if found else None

    def granted_sandbox(self, name: str) -> str:
        """The ID of the sandbox of that *name* for which something was reserved; "" if nothing was."""
        granted = self._evidence.granted.values() if self._evidence else ()
        peers = (one.record for one in granted if isinstance(one.record, Peer))
        return next((one.sandbox for one in peers if one.name == name), "")

    def reserve(self, question: Reserve) -> bool:
        """See that something is ours before all others; tell whether that has to be asked."""
        if self._evidence is None or question.key in self._evidence.granted:
            return False
        self._open[question] = None
        return True

    def close(self) -> tuple[Question, ...]:
        """The questions that are left; if there are any, the decision does not stand."""
        return tuple(self._open)


ASSUMING = Inquiry(None)
"""Asks nothing, and takes every address to be free."""
