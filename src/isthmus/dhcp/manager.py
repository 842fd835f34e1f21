"""The DHCP clients of all endpoints, on one event loop.

A client speaks from the device that its endpoint's frames pass through on their way to the LAN, as the endpoint's MAC.
So an address can be had before there is an interface for it, and no sandbox is entered. The clients on one device share
a port, which is there only while one of them waits for an answer: a lease that rests costs a timer and nothing else.

A device that is gone or down is to a client what a server is that does not answer: it asks again, ever more slowly, or
at once when told that the device is back.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from secrets import SystemRandom
from typing import NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from isthmus.dhcp import frame
from isthmus.dhcp.client import SECOND, Client, Dialect, Frames, Random
from isthmus.dhcp.dialect4 import PACE, Dialect4, Pace
from isthmus.dhcp.dialect6 import Dialect6
from isthmus.dhcp.frame import CLIENT, CLIENT6, Malformed
from isthmus.dhcp.identity import Hears, Identity, client_id
from isthmus.dhcp.status import BOUND, NO_DEVICE, Status, advice
from isthmus.errors import DeviceUnavailable
from isthmus.model import HOST, DhcpLease, IPAddress
from isthmus.naming import octets

CHANCE = SystemRandom().random


class Device(NamedTuple):
    """A link, by its name and its namespace."""

    name: str
    netns: str = HOST


class Port(Protocol):
    """A place on a device where frames go out and come in."""

    def send(self, frame: bytes) -> None:
        """Send *frame* as it is; DeviceUnavailable if the device is gone or down."""

    def close(self) -> None:
        """Hear no more."""


Listen = Callable[[Device, int, Callable[[bytes, int], None], Callable[[], None]], Port]
"""Makes a port on a device, on the running loop; DeviceUnavailable if it is not there.

The port hears datagrams to a UDP port, with the kind of packet that each was to the kernel, and is told once if the
device goes away. It may be closed while it is told either.
"""

Key = tuple[str, str, int]
"""The ID of a network, the name of a sandbox on it, an IP version: who has a lease."""

Changed = Callable[[Key, DhcpLease | None, Status], None]
"""Hears by its key of an endpoint with another lease (None: it must use its address no more), or another status."""


class Party(msgspec.Struct, frozen=True):
    """An endpoint as a client: where it speaks, and who it is to servers beside its key."""

    device: Device
    mac: str
    hostname: str = ""
    hears: Hears = Hears.ALL


_Place = tuple[Device, int]
"""A device and an IP version: what has a port."""


class _Session:
    """A client at work."""

    def __init__(self, place: _Place, mac: bytes, client: Client) -> None:
        self.place, self.mac, self.client = place, mac, client
        self.lacks_device: int | None = None  # since when
        self.told: tuple[DhcpLease | None, Status] | None = None
        self.awaited: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def status(self) -> Status:
        status = self.client.status if self.lacks_device is None else Status(NO_DEVICE, self.lacks_device)
        return replace(status, advice=advice(status.word, self.mac.hex(":"), self.place[0].name))

    def facts(self) -> tuple[DhcpLease | None, Status]:
        return self.client.lease, self.status()


class Manager:
    """Holds the client of each key.

    It is made, called and heard of on the thread of the running loop. *Listen* makes its ports.
    """

    def __init__(self, listen: Listen, changed: Changed, random: Random = CHANCE, pace: Pace = PACE) -> None:
        self._listen, self._changed, self._random, self._pace = listen, changed, random, pace
        self._loop = asyncio.get_running_loop()
        # Our own clock: setting the machine's must not end a lease, and a sleep of the machine must.
        self._booted = time.time_ns() - _uptime()
        self._sessions: dict[Key, _Session] = {}
        self._keys: defaultdict[tuple[_Place, bytes], set[Key]] = defaultdict(set)
        self._waiting: defaultdict[_Place, set[Key]] = defaultdict(set)
        self._ports: dict[_Place, Port] = {}

    async def acquire(self, key: Key, party: Party, wanted: IPAddress | None, wait: float) -> DhcpLease | None:
        """Return a lease for a new endpoint, preferably of the *wanted* address.

        None if there is none within *wait* seconds. The client then goes on, and *changed* hears of it.
        """
        session = self._begin(key, party)
        session.awaited = self._loop.create_future()
        self._go_on(key, session, session.client.start(self._now(), wanted))
        try:
            await asyncio.wait({session.awaited}, timeout=wait)
        except asyncio.CancelledError:
            self.release(key)
            raise
        session.awaited = None
        session.told = session.facts()
        return session.client.lease

    def adopt(self, key: Key, party: Party, lease: DhcpLease) -> None:
        """Go on with the *lease* that an endpoint has from an earlier run of the daemon; the endpoint keeps it.

        If the machine was started since, servers are asked whether it is good; *changed* hears if it is not.
        """
        session = self._begin(key, party)
        now = self._now()
        session.told = lease, Status(BOUND, now)
        if lease.obtained > now:
            frames = session.client.confirm(replace(lease, obtained=now), now)  # the clock was set back
        elif lease.obtained < self._booted:
            frames = session.client.confirm(lease, now)
        else:
            frames = session.client.adopt(lease, now)
        self._go_on(key, session, frames)

    def decline(self, key: Key) -> None:
        """Tell the server that somebody else has the address. It is lost, and another one is looked for."""
        if session := self._sessions.get(key):
            self._go_on(key, session, session.client.decline(self._now()))

    def release(self, key: Key) -> None:
        """Give the lease of an endpoint back, and forget it."""
        if session := self._sessions.get(key):
            self._send(session, session.client.release(self._now()))
            self.forget(key)

    def forget(self, key: Key) -> None:
        """Forget an endpoint. Its lease goes on until its time is over."""
        session = self._sessions.pop(key, None)
        if session is None:
            return
        keys = self._keys[session.place, session.mac]
        keys.discard(key)
        if not keys:
            del self._keys[session.place, session.mac]
        self._attend(key, session.place, waiting=False)
        _stop(session)

    def lease(self, key: Key) -> DhcpLease | None:
        """The lease that the client of an endpoint has; None if it has none, or there is no such client."""
        session = self._sessions.get(key)
        return session.client.lease if session else None

    def state(self, key: Key) -> Status | None:
        """How the client of an endpoint stands; None if there is none."""
        session = self._sessions.get(key)
        return session.status() if session else None

    def device_appeared(self, device: Device) -> None:
        """Ask again at once for all that wait on a *device*, which is there again, or up."""
        for place in (device, 4), (device, 6):
            self._leave(place)
            for key, session in self._at(self._waiting.get(place, ())):
                self._go_on(key, session, session.client.retry(self._now()))

    def close(self) -> None:
        """Stop. Nothing is given back: the leases go on, for the next run to adopt."""
        for session in self._sessions.values():
            _stop(session)
        self._sessions.clear()
        for place in tuple(self._ports):
            self._leave(place)

    def _begin(self, key: Key, party: Party) -> _Session:
        self.forget(key)
        network, sandbox, version = key
        mac = octets(party.mac)
        identity = Identity(mac, client_id(network, sandbox), party.hostname, party.hears)
        dialect: Dialect = Dialect4(identity, self._pace) if version == 4 else Dialect6(identity)
        session = _Session((party.device, version), mac, Client(dialect, self._random))
        self._sessions[key] = session
        self._keys[session.place, session.mac].add(key)
        return session

    def _go_on(self, key: Key, session: _Session, frames: Frames) -> None:
        """Do what follows from what a client was told."""
        client = session.client
        self._send(session, frames)
        self._attend(key, session.place, waiting=client.waiting)
        if session.timer:
            session.timer.cancel()
        session.timer = None
        if client.deadline is not None:
            delay = (client.deadline - self._now()) / SECOND
            session.timer = self._loop.call_later(delay, self._wake, key, session)
        self._tell(key, session)

    def _tell(self, key: Key, session: _Session) -> None:
        if session.awaited:
            if session.client.lease and not session.awaited.done():
                session.awaited.set_result(None)
        elif (facts := session.facts()) != session.told:
            session.told = facts
            self._changed(key, *facts)

    def _wake(self, key: Key, session: _Session) -> None:
        self._go_on(key, session, session.client.wake(self._now()))

    def _at(self, keys: Iterable[Key]) -> Iterator[tuple[Key, _Session]]:
        """Those of *keys* that are still there when it is their turn."""
        for key in tuple(keys):
            if session := self._sessions.get(key):
                yield key, session

    def _hear(self, place: _Place, data: bytes) -> None:
        try:
            datagram = frame.decode(data)
        except Malformed:
            return
        mac = datagram.payload[28:34] if place[1] == 4 else datagram.target_mac
        for key, session in self._at(self._keys.get((place, mac), ())):
            if session.client.waiting:
                self._go_on(key, session, session.client.receive(datagram, self._now()))

    def _gone(self, place: _Place) -> None:
        self._leave(place)
        for key, session in self._at(self._waiting.get(place, ())):
            session.lacks_device = session.lacks_device or self._now()
            self._tell(key, session)

    def _send(self, session: _Session, frames: Frames) -> None:
        """Send *frames*; those that cannot be sent are lost, as they might have been on the way."""
        try:
            for one in frames:
                self._port(session.place).send(one)
                session.lacks_device = None
        except DeviceUnavailable:
            session.lacks_device = session.lacks_device or self._now()

    def _port(self, place: _Place) -> Port:
        if place not in self._ports:
            device, version = place
            self._ports[place] = self._listen(
                device,
                CLIENT if version == 4 else CLIENT6,
                lambda data, _: self._hear(place, data),
                lambda: self._gone(place),
            )
        return self._ports[place]

    def _attend(self, key: Key, place: _Place, *, waiting: bool) -> None:
        """Keep the port at *place* for as long as somebody waits there."""
        keys = self._waiting[place]
        if waiting:
            keys.add(key)
            return
        keys.discard(key)
        if not keys:
            del self._waiting[place]
            self._leave(place)

    def _leave(self, place: _Place) -> None:
        if port := self._ports.pop(place, None):
            port.close()

    def _now(self) -> int:
        return self._booted + _uptime()


def _stop(session: _Session) -> None:
    if session.timer:
        session.timer.cancel()
    if session.awaited and not session.awaited.done():
        session.awaited.set_result(None)


def _uptime() -> int:
    """Nanoseconds since the machine was started, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
