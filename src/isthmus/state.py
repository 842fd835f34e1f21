"""All that is wanted, indexed: the records of the store, and what can be derived from them.

It is memory only, made anew from the records at every start and kept in step by `put` and `drop`, so nothing in it
can leak or go stale. Names and IDs are resolved here, as Docker does: a full ID, then an exact name, then the
beginning of an ID.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from isthmus.addresses import AddressPool
from isthmus.errors import Ambiguous, NetworkNotFound, SandboxNotFound
from isthmus.model import Endpoint, HandLink, IPAddress, Network, Record, Sandbox, Setting

_T = TypeVar("_T", Network, Sandbox)


class State:
    """The records by ID, and the questions that the engine asks of them."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.networks: dict[str, Network] = {}
        self.sandboxes: dict[str, Sandbox] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.links: dict[str, HandLink] = {}
        self.settings: dict[str, str] = {}
        self.pools: dict[str, tuple[AddressPool, ...]] = {}
        self._names: dict[type, dict[str, str]] = {Network: {}, Sandbox: {}}
        self._on_network: dict[str, dict[str, None]] = {}
        self._of_sandbox: dict[str, dict[str, None]] = {}
        self._in_netns: dict[str, dict[str, None]] = {}
        self._last: dict[AddressPool, IPAddress] = {}
        # Pools are made by networks, so networks come first; then in the order of their making.
        for record in sorted(
            records, key=lambda record: (not isinstance(record, Network), getattr(record, "created", 0))
        ):
            self.put(record)

    def records(self) -> Iterator[Record]:
        """Every record, networks first."""
        yield from self.networks.values()
        yield from self.sandboxes.values()
        yield from self.endpoints.values()
        yield from self.links.values()
        yield from (Setting(key, value) for key, value in self.settings.items())

    def put(self, record: Record) -> None:
        """Know *record*, instead of what bore its ID before."""
        match record:
            case Network():
                self._put_network(record)
            case Endpoint():
                self._put_endpoint(record)
            case Sandbox():
                self.sandboxes[record.id] = record
                self._names[Sandbox][record.name] = record.id
                self._in_netns.setdefault(record.netns, {})[record.id] = None
            case HandLink():
                self.links[record.id] = record
            case Setting():
                self.settings[record.id] = record.value

    def drop(self, record: Record) -> None:
        """Forget *record*."""
        match record:
            case Network():
                self.networks.pop(record.id, None)
                self._names[Network].pop(record.name, None)
                for pool in self.pools.pop(record.id, ()):
                    self._last.pop(pool, None)
            case Endpoint():
                if self.endpoints.pop(record.id, None):
                    self._on_network.get(record.network, {}).pop(record.id, None)
                    self._of_sandbox.get(record.sandbox, {}).pop(record.id, None)
                    for address in record.addresses:
                        for pool in self.pools.get(record.network, ()):
                            pool.release(address.ip)
            case Sandbox():
                self.sandboxes.pop(record.id, None)
                self._names[Sandbox].pop(record.name, None)
                self._in_netns.get(record.netns, {}).pop(record.id, None)
                self._of_sandbox.pop(record.id, None)
            case HandLink():
                self.links.pop(record.id, None)
            case Setting():
                self.settings.pop(record.id, None)

    def network(self, name: str) -> Network:
        """The network that *name* stands for.

        Raises:
            NetworkNotFound, Ambiguous.
        """
        found = self._find("network", name, self.networks, self._names[Network])
        if found is None:
            raise NetworkNotFound(name)
        return found

    def sandbox(self, name: str) -> Sandbox:
        """The sandbox that *name* stands for.

        Raises:
            SandboxNotFound, Ambiguous.
        """
        found = self._find("container", name, self.sandboxes, self._names[Sandbox])
        if found is None:
            raise SandboxNotFound(name)
        return found

    def network_named(self, name: str) -> Network | None:
        """The network of exactly this name."""
        return self.networks.get(self._names[Network].get(name, ""))

    def sandbox_named(self, name: str) -> Sandbox | None:
        """The sandbox of exactly this name."""
        return self.sandboxes.get(self._names[Sandbox].get(name, ""))

    def on_network(self, network: str) -> tuple[Endpoint, ...]:
        """The endpoints on the network of this ID, in the order of their making."""
        return tuple(self.endpoints[key] for key in self._on_network.get(network, ()))

    def of_sandbox(self, sandbox: str) -> tuple[Endpoint, ...]:
        """The endpoints of the sandbox of this ID, in the order of their making."""
        return tuple(self.endpoints[key] for key in self._of_sandbox.get(sandbox, ()))

    def in_netns(self, netns: str) -> tuple[Sandbox, ...]:
        """The sandboxes that share the namespace of this name."""
        return tuple(self.sandboxes[key] for key in self._in_netns.get(netns, ()))

    def links_of(self, sandbox: str) -> tuple[HandLink, ...]:
        """The links that were put into the sandbox of this ID by hand."""
        return tuple(link for link in self.links.values() if link.sandbox == sandbox)

    def last_given(self, pool: AddressPool) -> IPAddress | None:
        """The address of *pool* that an endpoint got last, after which the next is looked for."""
        return self._last.get(pool)

    def _put_network(self, network: Network) -> None:
        before = self.networks.get(network.id)
        self.networks[network.id] = network
        if before and before.name != network.name:
            self._names[Network].pop(before.name, None)
        self._names[Network][network.name] = network.id
        if before is None or before.subnets != network.subnets:
            used = [address.ip for endpoint in self.on_network(network.id) for address in endpoint.addresses]
            self.pools[network.id] = tuple(AddressPool(subnet, used) for subnet in network.subnets)

    def _put_endpoint(self, endpoint: Endpoint) -> None:
        before = self.endpoints.get(endpoint.id)
        self.endpoints[endpoint.id] = endpoint
        if before is None:
            self._on_network.setdefault(endpoint.network, {})[endpoint.id] = None
            self._of_sandbox.setdefault(endpoint.sandbox, {})[endpoint.id] = None
        if before is not None and before.addresses == endpoint.addresses:
            return
        for pool in self.pools.get(endpoint.network, ()):
            for address in before.addresses if before else ():
                pool.release(address.ip)
            for address in endpoint.addresses:
                if address.ip in pool.subnet.cidr:
                    pool.take(address.ip)
                    self._last[pool] = address.ip

    @staticmethod
    def _find(kind: str, name: str, by_id: dict[str, _T], by_name: dict[str, str]) -> _T | None:
        if name in by_id:
            return by_id[name]
        if name in by_name:
            return by_id[by_name[name]]
        matches = [one for key, one in by_id.items() if key.startswith(name)] if name else []
        if len(matches) > 1:
            raise Ambiguous(kind, name, len(matches), "ID prefix")
        return matches[0] if matches else None
