"""Which connections have to be forgotten after a plan, and when.

A port that leads elsewhere, or nowhere, must not have its old connections; nor must an address that somebody else gets.
Datagrams would follow them for ever, so for those it is done before the answer; streams end by themselves, so for those
it can wait until nobody asks for anything (`clear`), as a look at the table takes milliseconds.
"""

from collections.abc import Iterable
from functools import partial
from ipaddress import ip_address

from isthmus.firewall import PUBLISHING
from isthmus.kernel.conntrack import Entry, Tracking
from isthmus.kernel.netlink import Socket, address, dumpaddrs
from isthmus.model import IPAddress
from isthmus.plan import Operation, Plan, Remove
from isthmus.ports import PROTOCOLS
from isthmus.resources import Address, Element

_Way = tuple[str, str, str]
"""A protocol, a port of the host, and the address and port that these lead to: as the element has them."""

_TCP = str(PROTOCOLS["tcp"])

_Port = tuple[int, int, int]
"""An IP version, a protocol and a port of the host."""


class Flows:
    """The connections of the namespace that the thread which makes this is in, as far as they end with something."""

    def __init__(self) -> None:
        self._tracking = Tracking()
        self._closed: set[_Way] = set()
        self._left: set[IPAddress] = set()

    def close(self) -> None:
        """Give the file descriptors back."""
        self._tracking.close()

    def forget(self, addresses: Iterable[IPAddress]) -> None:
        """Let `clear` forget who went to or came from *addresses*."""
        self._left.update(addresses)

    def expect(self, operations: Iterable[Operation]) -> None:
        """See that nothing is remembered any more of addresses that *operations* are about to make."""
        if self._left and not self._left.isdisjoint(_made(operations)):
            self.clear()

    def redirect(self, plan: Plan) -> None:
        """See that no connection goes on by a port that *plan* led elsewhere, or passes by one that it opened."""
        ending, shut = _ways(one for one in plan.tighten if isinstance(one, Remove))
        lasting, opened = _ways(one for one in plan.loosen if not isinstance(one, Remove))
        self._closed |= ending
        if lasting:
            self._closed -= lasting
        self._go_through(shut - opened, opened, frozenset())

    def clear(self) -> None:
        """Forget what could wait."""
        shut, left = self._closed, self._left
        self._closed, self._left = set(), set()
        self._go_through(shut, set(), left)

    def _go_through(self, shut: Iterable[_Way], opened: Iterable[_Way], left: Iterable[IPAddress]) -> None:
        shut, left = frozenset(shut), frozenset(left)
        fresh: set[_Port] = {(_version(target), int(protocol), int(port)) for protocol, port, target in opened}
        about = left.union(ip_address(target.partition(" ")[0]) for target in {target for *_, target in shut})
        versions = {one.version for one in about}.union(one[0] for one in fresh)
        if not versions:
            return
        own: frozenset[IPAddress] = _own_addresses() if fresh else frozenset()
        about |= own
        for version in versions:
            self._tracking.forget(version, about, partial(_is_stale, shut, fresh, left, own))


def _is_stale(
    shut: frozenset[_Way],
    fresh: set[_Port],
    left: frozenset[IPAddress],
    own: frozenset[IPAddress],
    entry: Entry,
) -> bool:
    """Whether a connection goes by a way that is *shut*, by a port that is *fresh* and was ours, or to who *left*."""
    first, answer = entry.original, entry.reply
    if entry.translated and shut:
        target = f"{answer.source} . {answer.source_port}"
        if (str(first.protocol), str(first.destination_port), target) in shut:
            return True
    if first.source in left or answer.source in left:
        return True
    port = (first.destination.version, first.protocol, first.destination_port)
    return not entry.translated and port in fresh and first.destination in own


def _ways(operations: Iterable[Operation]) -> tuple[set[_Way], set[_Way]]:
    """Return the ways that *operations* are about: those of streams, and the others."""
    streams: set[_Way] = set()
    others: set[_Way] = set()
    for operation in operations:
        one = operation.resource
        if isinstance(one, Element) and one.set in PUBLISHING:
            match = one.match
            (streams if match[-2] == _TCP else others).add((match[-2], match[-1], one.value))
    return streams, others


def _version(target: str) -> int:
    """Return the IP version of where a way leads."""
    return 6 if ":" in target else 4


def _made(operations: Iterable[Operation]) -> Iterable[IPAddress]:
    return (one.resource.interface.ip for one in operations if isinstance(one.resource, Address))


def _own_addresses() -> frozenset[IPAddress]:
    """Return the addresses of the namespace that the calling thread is in."""
    with Socket() as wire:
        return frozenset(held.address.ip for held in map(address, wire.dump(dumpaddrs())))
