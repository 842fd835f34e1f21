"""DHCP servers in memory: what they give out is said beforehand. For tests, and for whoever has no LAN."""

from isthmus.dhcp.manager import Device, Key, Party
from isthmus.dhcp.status import BOUND, NO_ANSWER, Status, advice
from isthmus.model import DhcpLease, IPAddress


class FakeServers:
    """Answers as `Manager` does, at once: a client gets the next of *leases*, and nothing when there are no more.

    `held` are the leases that clients have, by key, `released` the keys of those that were given back.
    """

    def __init__(self, *leases: DhcpLease) -> None:
        self.leases = list(leases)
        self.held: dict[Key, DhcpLease | None] = {}
        self.released: list[Key] = []
        self._parties: dict[Key, Party] = {}

    async def acquire(self, key: Key, party: Party, wanted: IPAddress | None, wait: float) -> DhcpLease | None:
        """See `Manager.acquire`; what is *wanted* is given if it is there, and nobody has to *wait*."""
        del wait
        fitting = [lease for lease in self.leases if lease.address.version == key[2]]
        lease = next((one for one in fitting if one.address.ip == wanted), fitting[0] if fitting else None)
        if lease:
            self.leases.remove(lease)
        self.held[key], self._parties[key] = lease, party
        return lease

    def adopt(self, key: Key, party: Party, lease: DhcpLease) -> None:
        """See `Manager.adopt`."""
        self.held[key], self._parties[key] = lease, party

    def decline(self, key: Key) -> None:
        """See `Manager.decline`."""
        self.held[key] = None

    def release(self, key: Key) -> None:
        """See `Manager.release`."""
        if key in self.held:
            del self.held[key], self._parties[key]
            self.released.append(key)

    def lease(self, key: Key) -> DhcpLease | None:
        """See `Manager.lease`."""
        return self.held.get(key)

    def state(self, key: Key) -> Status | None:
        """See `Manager.state`."""
        if key not in self.held:
            return None
        word = BOUND if self.held[key] else NO_ANSWER
        party = self._parties[key]
        return Status(word, 0, advice(word, party.mac, party.device.name))

    def device_appeared(self, device: Device) -> None:
        """Servers in memory are always there."""

    def close(self) -> None:
        """Nothing is held that lasts."""
