"""One device's port, shared by all who ask something on its wire, and by those whose addresses are guarded there.

While something is asked, the kernel lets all ARP and Neighbour Discovery through. When nobody has asked for a while,
the port hears only who claims a guarded address and is not its holder, and nothing else wakes the loop; with nothing to
guard it is closed.
"""

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Protocol

from isthmus.errors import DeviceUnavailable
from isthmus.model import IPAddress
from isthmus.wire import filters
from isthmus.wire.packets import ALL_NODES, Claim, DecodeError, Packet, claim, decode, encode, multicast_mac
from isthmus.wire.port import AWAY, Port

DEFEND_INTERVAL = 60.0
"""For how long, in seconds, a conflict with one MAC over one address is not told again."""

REPORTS = 256
"""How many conflicts are told within that time: whoever makes up MACs is not to fill our memory and log."""


class Asker(Protocol):
    """Somebody who wants to know of claims to some addresses."""

    def hear(self, packet: Packet, said: Claim) -> None:
        """Take notice of what *packet* *said* about one of the addresses; it is not from the device itself."""

    def lose(self, error: DeviceUnavailable) -> None:
        """Know that nothing more will be heard."""


class Line:
    """The wire of *device*, heard until nobody has had anything to do with it for *linger* seconds.

    *Conflict* is called with a guarded address and the MAC of who else claims it; *ended* when the line is closed, with
    the reason if that is because the device went down or away.

    Raises:
        DeviceUnavailable: nothing can be heard on the device.
    """

    def __init__(
        self,
        device: str,
        linger: float,
        conflict: Callable[[IPAddress, str], None],
        ended: Callable[[DeviceUnavailable | None], None],
    ) -> None:
        self._device, self._linger, self._conflict, self._ended = device, linger, conflict, ended
        self._loop = asyncio.get_running_loop()
        self._askers: dict[IPAddress, list[Asker]] = {}
        self._holders: Mapping[IPAddress, str] = {}
        self._ours: Container[str] = ()
        self._told: dict[tuple[IPAddress, str], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._port = Port(device, filters.NEIGHBOURS, self._hear, self._lose)
        try:
            self._port.join(multicast_mac(ALL_NODES))
        except DeviceUnavailable:
            self._port.close()
            raise
        self._settle()

    @property
    def mac(self) -> str:
        """The device's own MAC."""
        return self._port.mac

    def send(self, packet: Packet) -> None:
        """Put *packet* on the wire; if the device is gone, the line is closed."""
        if self._port.fileno() < 0:
            return
        try:
            self._port.send(encode(packet))
        except DeviceUnavailable as error:
            self.close(error)

    def add(self, asker: Asker, addresses: Iterable[IPAddress], macs: Iterable[str]) -> None:
        """Tell *asker* of all claims to *addresses*, until it is taken off again; hear what is sent to *macs*, too."""
        for address in addresses:
            self._askers.setdefault(address, []).append(asker)
        self._port.filter(filters.NEIGHBOURS)
        for mac in macs:
            self._port.join(mac)

    def remove(self, asker: Asker, addresses: Iterable[IPAddress], macs: Iterable[str]) -> None:
        """Take one `add` back; does nothing if the line is closed."""
        if self._port.fileno() < 0:
            return
        for address in addresses:
            self._askers[address].remove(asker)
            if not self._askers[address]:
                del self._askers[address]
        for mac in macs:
            self._port.leave(mac)
        self._settle()

    def guard(self, holders: Mapping[IPAddress, str], ours: Container[str]) -> None:
        """Tell of conflicts over these addresses, and no others, from now on."""
        self._ours = ours
        if holders != self._holders:
            self._holders = dict(holders)
            self._port.filter(filters.NEIGHBOURS)
            self._settle()

    def tell(self, address: IPAddress, mac: str) -> None:
        """Tell that *mac* claims *address*, which is ours, unless that was just told."""
        now = self._loop.time()
        self._told = {rival: when for rival, when in self._told.items() if now - when < DEFEND_INTERVAL}
        if (address, mac) not in self._told and len(self._told) < REPORTS:
            self._told[address, mac] = now
            self._conflict(address, mac)

    def close(self, error: DeviceUnavailable | None = None) -> None:
        """Hear nothing any more; who still asks is told *error*."""
        if self._timer:
            self._timer.cancel()
        self._port.close()
        askers = {id(asker): asker for askers in self._askers.values() for asker in askers}
        self._askers.clear()
        self._ended(error)
        for asker in askers.values():
            asker.lose(error or DeviceUnavailable(self._device, "nobody listens there any more"))

    def _lose(self) -> None:
        self.close(DeviceUnavailable(self._device, AWAY))

    def _hear(self, frame: bytes, _: int) -> None:
        try:
            packet = decode(frame)
        except DecodeError:
            return
        said = claim(packet)
        if said is None:
            return
        askers, holder = self._askers.get(said.address, ()), self._holders.get(said.address)
        if (holder is None and not askers) or said.mac == self._port.mac:
            return
        for asker in tuple(askers):
            asker.hear(packet, said)
        if said.held and holder is not None and said.mac != holder and said.mac not in self._ours:
            self.tell(said.address, said.mac)

    def _settle(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._linger, self._rest)

    def _rest(self) -> None:
        """Hear less, or nothing, unless somebody asks; he will settle when he is done."""
        if self._askers:
            return
        if self._holders:
            self._port.filter(filters.rivals(self._holders))
        else:
            self.close()
