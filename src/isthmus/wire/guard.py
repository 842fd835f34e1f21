"""Hears who else claims the addresses of ours on a device, at no cost for whatever else passes there.

Whoever takes an address tells everybody: by an announcement, or by asking for a neighbour (RFC 5227, 2.4; RFC 4861,
7.2.6). So sockets of ARP and of IPv6 alone will do: the kernel gives them the broadcasts and multicasts that come in by
the device, and asks them about no other frames. What they do not hear is a claim that is sent to one endpoint only, and
what macvlan children of others on the same device say: that leaves by the device, and does not come in.
"""

from collections.abc import Callable, Container, Iterable, Mapping

from isthmus.bpf import Instruction
from isthmus.model import IPAddress
from isthmus.wire import filters
from isthmus.wire.packets import ALL_NODES, ETH_P_ARP, ETH_P_IPV6, DecodeError, claim, decode, multicast_mac
from isthmus.wire.port import Port


class Guard:
    """Listens on *device*, once it knows what for (`keep`), until it is closed or the device goes: then calls *ended*.

    *Conflict* is called with an address of ours and the MAC of who else claims it, each time that he does.
    """

    def __init__(self, device: str, conflict: Callable[[IPAddress, str], None], ended: Callable[[], object]) -> None:
        self._device, self._conflict, self._ended = device, conflict, ended
        self._ports: dict[int, Port] = {}
        self._holders: Mapping[IPAddress, str] = {}
        self._ours: Container[str] = ()

    def keep(self, holders: Mapping[IPAddress, str], ours: Container[str]) -> None:
        """Hear of claims to these addresses, and no others, from now on; close, if there are none.

        Raises:
            DeviceUnavailable: nothing can be heard on the device; the guard is closed.
        """
        self._ours = ours
        if holders == self._holders:
            return
        self._holders = dict(holders)
        program = filters.rivals(holders)
        versions = {address.version for address in holders}
        try:
            for version in self._ports.keys() - versions:
                self._ports.pop(version).close()
            for port in self._ports.values():
                port.filter(program)
            for version in versions - self._ports.keys():
                self._open(version, program)
        except BaseException:
            self.close()
            raise
        if not holders:
            self.close()

    def _open(self, version: int, program: Iterable[Instruction]) -> None:
        protocol = ETH_P_ARP if version == 4 else ETH_P_IPV6
        self._ports[version] = port = Port(self._device, program, self._hear, self.close, protocol)
        if version == 6:
            port.join(multicast_mac(ALL_NODES))  # the device need not have IPv6 itself

    def close(self) -> None:
        """Hear nothing any more."""
        for port in self._ports.values():
            port.close()
        self._ports.clear()
        self._ended()

    def _hear(self, frame: bytes, _: int) -> None:
        try:
            said = claim(decode(frame))
        except DecodeError:
            return
        if said is None or not said.held or said.address not in self._holders or said.mac in self._ours:
            return
        port = self._ports[said.address.version]
        if said.mac not in {self._holders[said.address], port.mac}:
            self._conflict(said.address, said.mac)
