"""What a host does so that its encrypted networks reach others: it has keys, and knows the keys of others.

A key that is replaced goes on until all others have the new one, in four steps: there is a second device with the
*next* key; the others are told of it; when each of them has answered it, all is sent and asked for by that (it is the
one of *now*); when they had the time to hear of that, the *old* one goes. What is kept in a file tells how far it is,
so it goes on whoever dies. When the file was written last tells how old the key is.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Protocol

import msgspec

from isthmus.cluster.registry import Key, Node
from isthmus.errors import Busy, DeviceUnavailable, Forbidden, InvalidRequest
from isthmus.model import IPAddress
from isthmus.naming import ENCRYPTED
from isthmus.wireguard import (
    FRESH,
    HEED,
    OVERHEAD,
    PORTS,
    Device,
    address,
    calls_first,
    device,
    is_key,
    lifetime,
    words,
)

log = logging.getLogger("isthmus.cluster")

STEP = 1.0
"""How often, in seconds, it is looked whether all others have answered a new key."""


class News(Protocol):
    """What tells that devices went."""

    def fileno(self) -> int:
        """What becomes readable."""

    def read(self) -> Any:  # noqa: ANN401 - it counts that there was something
        """Hear all there is."""

    def close(self) -> None:
        """Hear no more."""


class Ways(Protocol):
    """What is asked of WireGuard on this host; see `kernel.wireguard.Ways`."""

    def there(self) -> object | None:
        """What tells the namespace of the devices from all others."""

    def entered(self) -> AbstractContextManager[None]:
        """Have the calling thread there."""

    def check(self) -> None:
        """See that there can be devices."""

    def generate(self) -> tuple[str, str]:
        """A new private key, and its public one."""

    def devices(self) -> dict[str, Device]:
        """All that are there."""

    def make(self, public: str, private: str, ports: Iterable[int], mtu: int) -> None:
        """Have a device."""

    def tell(self, name: str, words: Iterable[str]) -> None:
        """Change a device."""

    def lead(self, name: str, mtu: int) -> None:
        """Send all by a device."""

    def remove(self, name: str) -> None:
        """Have a device no more."""

    def watch(self) -> News:
        """Hear of devices that go."""


class Pair(msgspec.Struct, frozen=True):
    """A key."""

    private: str
    public: str


class Pairs(msgspec.Struct, frozen=True):
    """The keys of this host: by that of *now* it is reached, the *next* one will be, the *old* one was."""

    now: Pair
    next: Pair | None = None
    old: Pair | None = None

    def all(self) -> tuple[Pair, ...]:
        """Those that there are."""
        return tuple(filter(None, (self.now, self.next, self.old)))


class Encryption:
    """The keys of the host *node*, in the file *kept*, and its devices. All methods are for the loop's thread."""

    def __init__(
        self, ways: Ways, node: str, kept: Path, grace: float, *, longest: float = 0.0, heed: float = HEED
    ) -> None:
        """For *grace* seconds after others were told of a new key, what they send by the old one is heard.

        No key is used for longer than *longest* seconds, if that is not 0, as long as others can be told of another.
        Who is to call first has *heed* seconds for it.
        """
        self._ways = ways
        self._node = node
        self._kept = kept
        self._grace = grace
        self._longest = longest
        self._heed = heed
        self._pairs = _kept(kept)
        self._told: dict[str, dict[str, str]] = {}
        self._silent: dict[str, dict[str, float]] = {}
        self._place: object | None = None
        self._news: News | None = None
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._lock = asyncio.Lock()
        self._look: Callable[[], None] = lambda: None
        self._timer: asyncio.TimerHandle | None = None
        self.keys: tuple[Key, ...] = ()
        """What others are to know: the keys of this host, that of now first."""

    def start(self, look: Callable[[], None]) -> None:
        """*Look* is called when it is time for `settle`."""
        self._look = look

    def close(self) -> None:
        """Hear no more of devices; what is there stays."""
        if self._timer:
            self._timer.cancel()
        self._watch(None)

    @property
    def address(self) -> IPv6Address | None:
        """The inner address by which others reach this host; None if it never had a key."""
        return address(self._pairs.now.public) if self._pairs else None

    def inside(self) -> AbstractContextManager[None]:
        """Have the calling thread where the devices are."""
        return self._ways.entered()

    async def check(self) -> None:
        """See that this host can have encrypted networks.

        Raises:
            NotImplementedHere: a program is missing.
        """
        await asyncio.to_thread(self._ways.check)

    async def settle(
        self, nodes: Collection[Node], kept: Collection[IPAddress], mtu: int, used: Collection[IPAddress] = ()
    ) -> bool:
        """Have the devices know the keys of *nodes*, and go on with what is under way; whether `keys` changed.

        Where there are no nodes, not even this one, nothing is known of them yet, and those who are known stay; as do
        those who have one of the addresses that are *kept*. The way to others takes packets of *mtu* bytes; they send
        to this host by the inner addresses that are *used*.

        Raises:
            NotImplementedHere: a program is missing.
            DeviceUnavailable: there is no device.
        """
        async with self._lock:
            before = self.keys
            place = self._ways.there()
            if place is None:
                self._watch(place)
                self.keys = ()
                return self.keys != before
            try:
                if place != self._place:
                    self._watch(place)
                pairs = self._pairs
                if pairs is None:
                    pairs = await asyncio.to_thread(self._first)
                wanted = _endpoints(nodes, self._node) if nodes else None
                devices, heeded = await asyncio.to_thread(self._bring, pairs, wanted, kept, mtu)
                if heeded:
                    self._later(1.1 * self._heed)  # that they are over by then, whatever the clocks' grain
                known = {key.public for node in nodes if node.id == self._node for key in node.keys}
                pairs = self._step(pairs, known, devices, used, wanted or {})
                await asyncio.to_thread(self._ways.lead, device(pairs.now.public), mtu - OVERHEAD)
                if self._longest and len(pairs.all()) == len(devices) == 1:
                    await self._age(pairs.now, known)
            except (OSError, DeviceUnavailable) as error:
                if self._ways.there() == place:
                    raise DeviceUnavailable(ENCRYPTED, str(error)) from error
                self._look()  # it is gone, with all that is in it
                return False
            self.keys = tuple(Key(one.public, devices[device(one.public)].port) for one in pairs.all())
            return self.keys != before

    async def rekey(self) -> None:
        """Begin to have another key.

        Raises:
            Forbidden: none is in use.
            Busy: one is being replaced.
        """
        async with self._lock:
            if not self._pairs or not self.keys:
                raise Forbidden("there is no encrypted network on this host, so there is no key to replace")
            if len(self._pairs.all()) > 1:
                raise Busy("the key of this host is being replaced already: wait until the others know it")
            await self._replace(self._pairs.now)

    async def _age(self, now: Pair, known: Collection[str]) -> None:
        """Begin to have another key than *now* if that is old, and *known* to others; else look again when it is."""
        try:
            made = self._kept.stat().st_mtime
        except FileNotFoundError:
            made = 0.0  # who removes it wants another
        left = made + lifetime(now.public, self._longest) - time.time()
        if left > 0:
            self._later(min(left, self._longest))  # it may be of a time when the host's clock was wrong
        elif now.public in known:
            log.info("the key of this host was used for long enough, and is being replaced")
            await self._replace(now)

    async def _replace(self, now: Pair) -> None:
        fresh = Pair(*await asyncio.to_thread(self._ways.generate))
        self._keep(Pairs(now, next=fresh))
        self._look()

    # On a thread.

    def _bring(
        self, pairs: Pairs, wanted: Mapping[str, str] | None, kept: Collection[IPAddress], mtu: int
    ) -> tuple[dict[str, Device], bool]:
        """Have a device for each key of ours, which knows all those of others that are *wanted*.

        Also tell whether some of these are heeded: they call first.
        """
        waiting = False
        devices = self._ways.devices()
        names = {device(one.public) for one in pairs.all()}
        for name in devices.keys() - names:
            self._ways.remove(name)
            self._silent.pop(name, None)
        used = {one.port for name, one in devices.items() if name in names}
        for pair in pairs.all():
            name = device(pair.public)
            there = devices.get(name)
            if not there or there.public != pair.public or there.port not in PORTS:
                before = [key.port for key in self.keys if key.public == pair.public]
                free = [port for port in (*before, *PORTS) if port not in used]
                self._ways.make(pair.public, pair.private, free, mtu - OVERHEAD)
                self._told.pop(name, None)
                devices = self._ways.devices()
                if name not in devices:
                    raise DeviceUnavailable(name, "it is gone again already")
                used.add(devices[name].port)
            told = self._told.setdefault(name, {})
            if wanted is not None:
                heeded = self._heeded(name, devices[name], wanted)
                waiting |= bool(heeded)
                if change := tuple(words(devices[name], wanted, told, kept, heeded)):
                    self._ways.tell(name, change)
                told.update(wanted)
        return devices, waiting

    def _heeded(self, name: str, own: Device, wanted: Iterable[str]) -> set[str]:
        """Those of *wanted* who are to call the device of this *name* first, have not yet, and still have time to."""
        now, before = time.monotonic(), self._silent.get(name, {})
        silent = (other for other in wanted if not calls_first(own.public, other) and not own.others.get(other))
        since = self._silent[name] = {other: before.get(other, now) for other in silent}
        return {other for other, met in since.items() if now - met < self._heed}

    def _first(self) -> Pairs:
        """The first key of this host."""
        self._ways.check()
        return self._keep(Pairs(Pair(*self._ways.generate())))

    def _keep(self, pairs: Pairs) -> Pairs:
        fresh = self._kept.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_bytes(msgspec.json.encode(pairs))
        fresh.replace(self._kept)
        self._pairs = pairs
        return pairs

    # A key is replaced.

    def _step(
        self,
        pairs: Pairs,
        known: Collection[str],
        devices: Mapping[str, Device],
        used: Collection[IPAddress],
        hearing: Collection[str],
    ) -> Pairs:
        """Go on with a key that is being replaced, if it is time.

        The others can know those that are *known*, and which addresses are *used*; those *hearing* hear of a change.
        """
        if pairs.next and pairs.next.public in known:
            if not _there(devices[device(pairs.now.public)]) - _there(devices[device(pairs.next.public)]):
                log.info("all other hosts have answered the new key of this one, which is in use from now on")
                pairs = self._keep(Pairs(pairs.next, old=pairs.now))
                self._since = self._loop.time()
        elif pairs.old:
            if address(pairs.old.public) in used or _there(devices[device(pairs.old.public)]).difference(hearing):
                self._since = self._loop.time()
            elif self._loop.time() - self._since > self._grace:
                pairs = self._keep(Pairs(pairs.now))
        if len(pairs.all()) > 1 or len(devices) > 1:
            self._later(STEP)
        return pairs

    def _later(self, seconds: float) -> None:
        """Look again after so many seconds, if not before."""
        now = self._loop.time()
        if self._timer:
            if now < self._timer.when() <= now + seconds:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(now + seconds, self._look)

    # News.

    def _watch(self, place: object | None) -> None:
        """Hear of what happens to devices in this *place*; who listens in one that is gone would hold it back."""
        if self._news:
            self._loop.remove_reader(self._news.fileno())
            self._news.close()
            self._news = None
        self._place = None
        self._told = {}
        if place is not None:
            self._news = self._ways.watch()
            self._loop.add_reader(self._news.fileno(), self._heard)
            self._place = place

    def _heard(self) -> None:
        if self._news and (news := self._news.read()) and (news.events or not news.complete):
            self._look()


def _kept(file: Path) -> Pairs | None:
    """The keys in a *file*; None if there is none yet."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Pairs)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        raise InvalidRequest(f"the file {file} holds no keys: remove it, and this host makes new ones") from None


def _endpoints(nodes: Iterable[Node], own: str) -> dict[str, str]:
    """By key, where other hosts are reached; what means nothing is passed over."""
    found = {}
    for node in nodes:
        for key in node.keys if node.id != own else ():
            if is_key(key.public) and 0 < key.port < 65536:
                found[key.public] = _endpoint(node.address, key.port)
    return found


def _endpoint(text: str, port: int) -> str:
    try:
        found = ip_address(text)
    except ValueError:
        return ""
    return f"{found}:{port}" if found.version == 4 else f"[{found}]:{port}"


def _there(own: Device) -> set[str]:
    """Who is there, as he answers a device."""
    fresh = time.time() - FRESH
    return {public for public, last in own.others.items() if last > fresh}
