"""One device's tap, shared by all who ask something on its wire.

While it is open, the kernel lets all ARP and Neighbour Discovery through, which wakes the loop on a busy LAN and makes
each frame that leaves the device a little dearer. So it is closed when nobody has asked for a while.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from isthmus.errors import DeviceUnavailable
from isthmus.model import IPAddress
from isthmus.wire import filters
from isthmus.wire.packets import Claim, DecodeError, Packet, claim, decode, encode
from isthmus.wire.port import AWAY, Port


class Asker(Protocol):
    """Somebody who wants to know of claims to some addresses."""

    def hear(self, packet: Packet, said: Claim) -> None:
        """Take notice of what *packet* *said* about one of the addresses; it is not from the device itself."""

    def lose(self, error: DeviceUnavailable) -> None:
        """Know that nothing more will be heard."""


class Line:
    """The wire of *device*, heard until nobody has asked anything for *linger* seconds; *ended* is called then.

    That is also if the device goes down or away, which is told to all who ask.

    Raises:
        DeviceUnavailable: nothing can be heard on the device.
    """

    def __init__(self, device: str, linger: float, ended: Callable[[], object]) -> None:
        self._device, self._linger, self._ended = device, linger, ended
        self._loop = asyncio.get_running_loop()
        self._askers: dict[IPAddress, list[Asker]] = {}
        self._port = Port(device, filters.NEIGHBOURS, self._hear, self._lose)
        self._timer = self._loop.call_later(linger, self._rest)

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
        self._timer.cancel()
        self._timer = self._loop.call_later(self._linger, self._rest)

    def close(self, error: DeviceUnavailable | None = None) -> None:
        """Hear nothing any more; who still asks is told *error*."""
        self._timer.cancel()
        self._port.close()
        askers = {id(asker): asker for askers in self._askers.values() for asker in askers}
        self._askers.clear()
        self._ended()
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
        if said is None or said.address not in self._askers or said.mac == self._port.mac:
            return
        for asker in tuple(self._askers[said.address]):
            asker.hear(packet, said)

    def _rest(self) -> None:
        """Close, unless somebody asks; the time begins anew when he is done."""
        if not self._askers:
            self.close()
