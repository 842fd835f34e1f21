"""A wire in memory: who is on it is said beforehand. For tests, and for whoever has no wire to ask."""

import asyncio
from collections.abc import Collection, Container, Mapping

from isthmus.errors import DeviceUnavailable
from isthmus.model import IPAddress
from isthmus.wire.advice import Finding, Verdict
from isthmus.wire.prober import Schedule


class FakeWire:
    """Answers as `Prober` does, in the loop's next round: *machines* has the MAC of each address of others, by device.

    A device that is not in there is unavailable. `guarded` is what was asked to be guarded, by device; `probed` what
    was probed, in order, and when it was to be (`schedules`). Where `one_mac` is set, only the device's own MAC is
    answered.
    """

    def __init__(self, machines: Mapping[str, Mapping[IPAddress, str]] | None = None) -> None:
        self.machines = {device: dict(held) for device, held in (machines or {}).items()}
        self.guarded: dict[str, dict[IPAddress, str]] = {}
        self.probed: list[tuple[str, IPAddress]] = []
        self.schedules: list[Schedule] = []
        self.one_mac = False

    async def probe(
        self, device: str, holders: Mapping[IPAddress, str], schedule: Schedule, *, ours: Container[str] = ()
    ) -> dict[IPAddress, str]:
        """See `Prober.probe`; nobody has to wait."""
        if not holders:
            return {}
        machines = self._on(device)
        self.probed += [(device, address) for address in holders]
        self.schedules.append(schedule)
        await asyncio.sleep(0)
        found = {address: machines.get(address, "") for address in holders}
        return {address: "" if mac == holders[address] or mac in ours else mac for address, mac in found.items()}

    def guard(self, device: str, holders: Mapping[IPAddress, str], *, ours: Container[str] = ()) -> None:
        """See `Prober.guard`; nothing happens on this wire later."""
        del ours
        if holders:
            self._on(device)
            self.guarded[device] = dict(holders)
        else:
            self.guarded.pop(device, None)

    async def check(self, device: str, targets: Collection[IPAddress], wait: float = 2.0) -> Finding:
        """See `Prober.check`."""
        del wait
        machines = self._on(device)
        for target in targets:
            if target in machines:
                verdict = Verdict.PARENT_ONLY if self.one_mac else Verdict.BOTH
                return Finding(verdict, target, machines[target])
        return Finding(Verdict.NOBODY)

    def close(self) -> None:
        """Nothing is held."""

    def _on(self, device: str) -> Mapping[IPAddress, str]:
        if device not in self.machines:
            raise DeviceUnavailable(device, "there is no such interface")
        return self.machines[device]
