"""Names in egress policies: what a sandbox is told of a name, its firewall learns first.

For who may call a name, its addresses are put into timed sets before the answer goes out, so that the call which
follows finds the way open. They stay somewhat longer than the answer is good, for programs keep addresses longer than
they should; who asks again, renews them. A call that stands is not broken off when they end.
"""

import logging
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Protocol

from isthmus import firewall, policing
from isthmus.dns import message
from isthmus.dns.lookup import Directory
from isthmus.dns.message import Malformed, Query
from isthmus.egress import Egress
from isthmus.errors import IsthmusError
from isthmus.firewall import Subject
from isthmus.model import IPAddress
from isthmus.ports import PROTOCOLS
from isthmus.resources import Element
from isthmus.views import Call

log = logging.getLogger("isthmus.egress")

GRACE = 300
"""For how many seconds an address may be called after the answer that told it has ended."""

QUIET, MOST_LOGGED = 60, 1024
"""For how many seconds nothing more is said of the same call, and of how many that is remembered."""

_PROTOCOLS = {1: "icmp", 58: "icmp", **{number: name for name, number in PROTOCOLS.items()}}
_Key = tuple[str, ...]


class Timed(Protocol):
    """Elements of the firewall that end by themselves."""

    def put(self, elements: Iterable[Element], seconds: int) -> None:
        """Have *elements* for so many *seconds* from now, however long they were to last.

        Raises:
            IsthmusError: the firewall takes none.
        """

    def drop(self, elements: Iterable[Element]) -> None:
        """Have *elements* no more; those that have ended already are no matter."""

    def read(self) -> Iterable[tuple[Element, int]]:
        """All there are, each with the seconds that it has left."""

    def close(self) -> None:
        """Give back what is held for that; the elements stay until they end."""


class Learning:
    """Which addresses are let through, or kept out, for a name. *Clock* gives seconds. For the loop's thread alone."""

    def __init__(self, directory: Directory, timed: Timed, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._timed = timed
        self._clock = clock
        self._until: dict[Element, float] = {}
        self._policies: dict[_Key, tuple[Egress, ...]] = {}
        self._subjects: dict[str, tuple[Subject, ...]] = {}
        self._version = -1
        self._logged: dict[tuple[object, ...], float] = {}

    def judged(self, calls: Iterable[Call]) -> None:
        """Tell in the log which *calls* a policy did not let through, or would not; each once in a while."""
        now = self._clock()
        for call in calls:
            key = call.verdict, call.source, call.target, call.protocol, call.port
            if self._logged.get(key, 0) > now:
                continue
            if len(self._logged) > MOST_LOGGED:
                self._logged.clear()
            self._logged[key] = now + QUIET
            who = self._caller(ip_address(call.source)) or call.source
            protocol = _PROTOCOLS.get(call.protocol, f"protocol {call.protocol}")
            where = call.target if call.port is None else f"{call.target}, port {call.port}"
            what = "would be dropped (dry-run)" if call.verdict == "dry-run" else "was dropped"
            log.info("%s: %s to %s %s by its egress policy", who, protocol, where, what)

    def _caller(self, source: IPAddress) -> str:
        """NAME.NETWORK of who calls from *source*; "" if it is nobody's."""
        for netns in self._directory.namespaces():
            for network, endpoint in self._directory.standing(netns):
                if policing.calls(network, endpoint, source) and (owner := self._directory.owner(netns)):
                    return f"{owner.name}.{network.name}"
        return ""

    def close(self) -> None:
        """Learn no more; what was learned stays until it ends."""
        self._timed.close()

    def adopt(self) -> None:
        """Go on with what was learned by the daemon that was here before."""
        now, policies = self._clock(), self._all_policies()
        self._until = {element: now + left for element, left in self._timed.read()}
        self._policies = {key: policies[key] for element in self._until if (key := element.match[:2]) in policies}
        self.settle()

    def told(self, netns: str, query: Query, answer: bytes) -> bool:
        """Learn from the *answer* to *query* from that namespace; tell whether there was nothing to be learned."""
        subjects = self._of(netns)
        if not subjects:
            return True
        try:
            found = list(message.addresses(answer))
        except Malformed:
            return True  # whoever asked will see that, too
        for subject in subjects:
            for address, ttl in found:
                elements = tuple(firewall.named(subject, query.name, address))
                if elements:
                    self._learn(subject, elements, ttl)
        return False

    def _learn(self, subject: Subject, elements: tuple[Element, ...], ttl: int) -> None:
        """Have *elements* for as long as an answer is good for so many seconds, and some time more."""
        now = self._clock()
        if all(self._until.get(one, 0) >= now + ttl + GRACE / 2 for one in elements):
            return
        try:
            self._timed.put(elements, ttl + GRACE)
        except (IsthmusError, OSError) as error:
            log.warning("what was told about names is not let through: %s", error)
            return
        if len(self._until) > 1024:
            self._until = {one: until for one, until in self._until.items() if until > now}
        self._until.update(dict.fromkeys(elements, now + ttl + GRACE))
        self._policies.update((one.match[:2], subject.policies) for one in elements)

    def settle(self) -> None:
        """Forget what was learned for who is gone, or has another policy now."""
        if not self._until:
            return
        policies = self._all_policies()
        gone = [one for one in self._until if policies.get(key := one.match[:2]) != self._policies.get(key)]
        gone += [one for one in self._until if one.match[:2] not in policies]
        for one in gone:
            self._until.pop(one, None)
        self._policies = {key: policy for key, policy in self._policies.items() if policies.get(key) == policy}
        self._timed.drop(dict.fromkeys(gone))

    def again(self) -> None:
        """Put back all that is still good: the sets were made anew."""
        now = self._clock()
        for one, until in self._until.items():
            if until > now + 1:
                self._timed.put((one,), int(until - now))

    def _of(self, netns: str) -> tuple[Subject, ...]:
        """Those in the namespace whose policies speak of names."""
        if self._version != self._directory.version:
            self._version = self._directory.version
            self._subjects.clear()
        known = self._subjects.get(netns)
        if known is None:
            held = policing.subjects(self._directory.standing(netns))
            known = self._subjects[netns] = tuple(subject for subject in held if subject.named)
        return known

    def _all_policies(self) -> dict[_Key, tuple[Egress, ...]]:
        """The policies that speak of names, by whom they are for: what the elements for him begin with."""
        subjects = (subject for netns in self._directory.namespaces() for subject in self._of(netns))
        return {key: subject.policies for subject in subjects for version in (4, 6) for key in subject.keys(version)}
