"""Asks on the wire who has an address, keeps an ear on those that are ours, and tries whether a second MAC can be used.

All questions are such that no neighbour changes its tables for them: over IPv4 they are probes, which say nothing about
their sender's address (RFC 5227, 2.1), over IPv6 the solicitations of duplicate address detection (RFC 4862, 5.4). They
are sent with the device's own MAC, since answers to another would not come back through every switch; to learn whether
they do is what `Prober.check` is for.

What is not heard: the addresses of the host itself, and answers of macvlan children on the same device, to which no
frame of their parent's goes. Those that are not ours are heard when they say something of their own accord while their
address is asked for.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import msgspec

from isthmus.errors import DeviceUnavailable
from isthmus.model import IPAddress
from isthmus.wire.advice import Finding, Verdict
from isthmus.wire.guard import Guard
from isthmus.wire.line import Line
from isthmus.wire.packets import ALL_NODES, Claim, Packet, arp_probe, multicast_mac, probe, solicitation, solicited_node

LINGER = 5.0
"""For how long, in seconds, a device is tapped after the last question on it."""

DEFEND_INTERVAL = 60.0
"""For how long, in seconds, a conflict with one MAC over one address is not told again."""

REPORTS = 256
"""How many conflicts on a device are told within that time: who makes up MACs is not to fill our memory and log."""

ANNOUNCE_WAIT = 2.0
"""For how long, in seconds, an answer to the last probe may take (RFC 5227, 1.1)."""

_LINK_LOCAL = bytes.fromhex("fe80 0000 0000 0000")


class Schedule(msgspec.Struct, frozen=True):
    """When probes are sent, in seconds since the question, and after what *wait* nobody counts as having answered.

    Probes that are due later are sent all the same, behind the answer.
    """

    probes: tuple[float, ...]
    wait: float


def fast(wait: float = 0.2) -> Schedule:
    """What an attach waits for: a probe at once and one more within *wait*; then, behind it, two a second apart.

    >>> fast(0.5)
    Schedule(probes=(0.0, 0.25, 1.5, 2.5), wait=0.5)
    """
    return Schedule((0.0, wait / 2, wait + 1.0, wait + 2.0), wait)


def strict(random: Callable[[], float]) -> Schedule:
    """RFC 5227's own schedule, which takes 4 to 7 s; *random* gives numbers from 0 to 1.

    >>> strict(lambda: 0.5)
    Schedule(probes=(0.5, 2.0, 3.5), wait=5.5)
    """
    first = random()  # PROBE_WAIT: 1 s at most
    second = first + 1.0 + random()  # PROBE_MIN and PROBE_MAX: 1 s and 2 s
    third = second + 1.0 + random()
    return Schedule((first, second, third), third + ANNOUNCE_WAIT)


class Prober:
    """Asks and listens on the devices of the namespace that the loop's thread is in. It is used on that thread.

    *Conflict* is called with a device, an address of ours there and the MAC of who else claims it, at most once a
    minute with the same three. When a device goes down or away, all questions on it fail, and nothing is guarded on it
    until `guard` is called again. For *linger* seconds after the last question on a device its tap is kept.
    """

    def __init__(self, conflict: Callable[[str, IPAddress, str], None], linger: float = LINGER) -> None:
        self._conflict, self._linger = conflict, linger
        self._lines: dict[str, Line] = {}
        self._guards: dict[str, Guard] = {}
        self._told: dict[tuple[str, IPAddress, str], float] = {}

    async def probe(
        self, device: str, holders: Mapping[IPAddress, str], schedule: Schedule, *, ours: Container[str] = ()
    ) -> dict[IPAddress, str]:
        """Return the MAC of who has each address on the wire of *device*, or wants it as we do; "" for nobody.

        The answer comes as soon as there is one for each address, at the latest after the schedule's wait. Each
        address is given with the MAC that its holder here has or will have, or ""; what is heard from that MAC, from
        the device's own or one in *ours* is no answer. The rest of the schedule is kept behind the answer, for the
        addresses that nobody had; what is heard then is a conflict.

        Raises:
            DeviceUnavailable: nothing can be heard on the device.
        """
        if not holders:
            return {}
        question = _Question(self._line(device), dict(holders), ours, schedule, partial(self._tell, device))
        try:
            return await question.answer()
        except BaseException:
            question.end()
            raise

    def guard(self, device: str, holders: Mapping[IPAddress, str], *, ours: Container[str] = ()) -> None:
        """Listen on *device* for who claims one of the addresses with another MAC than the one that it is given with.

        This is RFC 5227's detection of later conflicts (2.4) and its like for IPv6: an ARP packet with the address as
        its sender's, or an advertisement of it. The device's own MAC and those in *ours* do not count. The addresses
        replace those that were guarded on the device before; with none, it is no longer listened on. What is sent to
        one endpoint alone is not heard, nor what macvlan children of others on the device say (see `guard`).

        Raises:
            DeviceUnavailable: nothing can be heard on the device.
        """
        if holders and device not in self._guards:
            self._guards[device] = Guard(device, partial(self._tell, device), partial(self._guards.pop, device))
        if device in self._guards:
            self._guards[device].keep(holders, ours)

    async def check(self, device: str, targets: Collection[IPAddress], wait: float = 2.0) -> Finding:
        """Find out whether a second MAC can be used on *device*, by asking for *targets* from it and from the own one.

        The device takes frames to the second MAC as it would for a macvlan child. That one counts as answered when a
        frame comes back to it; then the finding is there at once, else after *wait* seconds. Over IPv4 both ask
        without an address, as whatever else they told would be believed; over IPv6 each with a link-local one made up
        for it, since who asks without any is answered by a multicast, which all MACs hear.

        Raises:
            DeviceUnavailable: nothing can be heard on the device.
        """
        return await _Trial(self._line(device), targets).finding(wait if targets else 0.0)

    def close(self) -> None:
        """Ask and hear nothing more; open questions fail."""
        for line in tuple(self._lines.values()):
            line.close()
        for guard in tuple(self._guards.values()):
            guard.close()

    def _line(self, device: str) -> Line:
        if device not in self._lines:
            self._lines[device] = Line(device, self._linger, partial(self._lines.pop, device))
        return self._lines[device]

    def _tell(self, device: str, address: IPAddress, mac: str) -> None:
        """Tell that *mac* claims *address*, which is ours, unless that was just told."""
        now, rival = asyncio.get_running_loop().time(), (device, address, mac)
        self._told = {told: when for told, when in self._told.items() if now - when < DEFEND_INTERVAL}
        if rival not in self._told and sum(where == device for where, _, _ in self._told) < REPORTS:
            self._told[rival] = now
            self._conflict(*rival)


class _Question:
    """Who has some addresses: asked until the schedule is over, or each has been claimed."""

    def __init__(
        self,
        line: Line,
        holders: Mapping[IPAddress, str],
        ours: Container[str],
        schedule: Schedule,
        conflict: Callable[[IPAddress, str], None],
    ) -> None:
        self._line, self._holders, self._ours, self._schedule = line, holders, ours, schedule
        self._conflict = conflict
        # RFC 4862, 5.4.2: others who would like to have an address ask for it in its group. Answers go to all nodes.
        self._groups = _groups(holders)
        self._claimed: dict[IPAddress, str] = {}
        self._behind = False
        self._answered: asyncio.Future[DeviceUnavailable | None] = asyncio.get_running_loop().create_future()
        self._timers: list[asyncio.TimerHandle] = []

    async def answer(self) -> dict[IPAddress, str]:
        """Begin to ask; return what is known when each address has been claimed, or the wait is over."""
        loop, schedule = asyncio.get_running_loop(), self._schedule
        self._line.add(self, self._holders, self._groups)
        end = max(schedule.wait, max(schedule.probes) + ANNOUNCE_WAIT)
        self._timers = [loop.call_later(after, self._ask) for after in schedule.probes]
        self._timers.append(loop.call_later(end, self.end))
        await asyncio.wait((self._answered,), timeout=schedule.wait)
        if self._answered.done() and (error := self._answered.result()):
            raise error
        self._behind = True
        found = {address: self._claimed.get(address, "") for address in self._holders}
        if all(found.values()):
            self.end()
        return found

    def end(self) -> None:
        """Ask no more."""
        self._forget_timers()
        self._line.remove(self, self._holders, self._groups)

    def hear(self, _: Packet, said: Claim) -> None:
        """Somebody claims an address: the answer, or a conflict if that was given already."""
        if said.address in self._claimed or said.mac == self._holders[said.address] or said.mac in self._ours:
            return
        self._claimed[said.address] = said.mac
        if self._behind:
            self._conflict(said.address, said.mac)
        elif len(self._claimed) == len(self._holders) and not self._answered.done():
            self._answered.set_result(None)

    def lose(self, error: DeviceUnavailable) -> None:
        """There is nobody to ask any more."""
        self._forget_timers()
        if not self._answered.done():
            self._answered.set_result(error)

    def _ask(self) -> None:
        mac = self._line.mac
        for address in self._holders.keys() - self._claimed.keys():
            self._line.send(probe(mac, address))

    def _forget_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()


class _Trial:
    """Whether *targets* answer to the device's own MAC, and to one made up for this."""

    def __init__(self, line: Line, targets: Collection[IPAddress]) -> None:
        self._line, self._targets = line, targets
        self._own, self._second = line.mac, "02:" + secrets.token_bytes(5).hex(":")
        self._senders = {mac: IPv6Address(_LINK_LOCAL + secrets.token_bytes(8)) for mac in (self._own, self._second)}
        self._finding = Finding(Verdict.NOBODY)
        self._answered: asyncio.Future[DeviceUnavailable | None] = asyncio.get_running_loop().create_future()
        self._begun = asyncio.get_running_loop().time()

    async def finding(self, wait: float) -> Finding:
        """Ask, and again after half of *wait*; return what is known at its end, or when the second MAC is answered."""
        again = asyncio.get_running_loop().call_later(wait / 2, self._ask)
        try:
            self._line.add(self, self._targets, (self._second,))
            self._ask()
            await asyncio.wait((self._answered,), timeout=wait)
        finally:
            again.cancel()
            self._line.remove(self, self._targets, (self._second,))
        if self._answered.done() and (error := self._answered.result()):
            raise error
        return self._finding

    def hear(self, packet: Packet, said: Claim) -> None:
        """A target has answered, or said something to others."""
        took = asyncio.get_running_loop().time() - self._begun
        if packet.destination == self._second and not self._answered.done():
            self._finding = Finding(Verdict.BOTH, said.address, said.mac, took)
            self._answered.set_result(None)
        elif packet.destination == self._own and self._finding.verdict is Verdict.NOBODY:
            self._finding = Finding(Verdict.PARENT_ONLY, said.address, said.mac, took)

    def lose(self, error: DeviceUnavailable) -> None:
        """There is nobody to ask any more."""
        if not self._answered.done():
            self._answered.set_result(error)

    def _ask(self) -> None:
        for target in self._targets:
            for mac, sender in self._senders.items():
                if isinstance(target, IPv4Address):
                    self._line.send(arp_probe(mac, target))
                else:
                    self._line.send(solicitation(mac, sender, target))


def _groups(addresses: Iterable[IPAddress]) -> tuple[str, ...]:
    """The MACs of the groups in which IPv6's *addresses* are asked for, and of the one in which that is answered."""
    asked = tuple(multicast_mac(solicited_node(one)) for one in addresses if isinstance(one, IPv6Address))
    return (*asked, multicast_mac(ALL_NODES)) if asked else ()
