"""Hosts that share a store: daemons on a LAN of namespaces, with a real Consul or etcd there, and cables to pull."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, TypeVar

from isthmus.cluster.registry import Registry
from isthmus.naming import hidden, tunnel
from tests.e2e.hosts import PATIENCE, Client, Host, Place, World, pings, until, wire
from tests.kv_servers import ConsulServer, EtcdServer, Real

STORE = "192.0.2.100"

BEAT, TTL = 2, 10
"""How often hosts show themselves, and when they are missed, in seconds: Consul has no shorter sessions."""

GONE = 3.0 * TTL + 5
"""How long it takes at most, in seconds, until what a host had is free: Consul may wait for twice the TTL."""

AGAIN = 25.0
"""How long it takes at most, in seconds, until hosts have found a store again that is back."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tenant:
    """A sandbox on *host*, and the first IPv4 address that it got."""

    host: Host
    place: Place
    address: str

    @property
    def name(self) -> str:
        """The sandbox's name."""
        return self.place.name

    def leave(self) -> None:
        """Be removed."""
        self.host.isthmus(f"sandbox rm {self.name}")


class Cluster:
    """Hosts *h1*, *h2*, ... on a LAN, which is a bridge in *switch*, and a store there."""

    def __init__(self, world: World, store: Real, count: int) -> None:
        self.store = store
        self.switch = world.machine("switch")
        self.switch.batch("link add lan0 type bridge", "link set lan0 up")
        wire(store.machine, "eth0", self.switch, "store")
        self.switch.batch("link set store master lan0")
        store.machine.batch(f"address add {STORE}/24 dev eth0")
        self.hosts = [self._host(world, number) for number in range(1, count + 1)]

    def _host(self, world: World, number: int) -> Host:
        host = world.host(f"h{number}")
        wire(host, "eth0", self.switch, host.name)
        self.switch.batch(f"link set {host.name} master lan0")
        host.batch(f"address add 192.0.2.{number}/24 dev eth0")
        return host

    def start(self, *hosts: Host) -> None:
        """Start the daemons of these *hosts*."""
        config = {
            "cluster-store": f"{self.store.name}://{STORE}:{self.store.port}",
            "cluster-store-opts": {"discovery.ttl": str(TTL), "discovery.heartbeat": str(BEAT)},
            "cluster-advertise": "eth0",
        }
        at_once(partial(host.start, config=config) for host in hosts)

    # The LAN.

    def cut(self, host: Host) -> None:
        """Pull the cable of *host*."""
        self.switch.batch(f"link set {host.name} down")

    def plug(self, host: Host) -> None:
        """Plug it in again."""
        self.switch.batch(f"link set {host.name} up")

    @contextmanager
    def unplugged(self, host: Host) -> Iterator[None]:
        """Have *host* cut off during the block."""
        self.cut(host)
        try:
            yield
        finally:
            self.plug(host)

    # The store.

    @contextmanager
    def storeless(self, *, wiped: bool = False) -> Iterator[None]:
        """Have no store during the block; it dies by SIGKILL, and comes back with its data or without."""
        self.store.kill()
        try:
            yield
        finally:
            self.store.start(wiped=wiped)

    def registry(self) -> Registry:
        """What is in the store."""

        async def read() -> Mapping[str, bytes]:
            client = self.store.client()
            try:
                return (await client.read("")).items
            finally:
                await client.close()

        registry = Registry()
        registry.take(self.store.run(read()))
        return registry

    def taken(self) -> dict[str, str]:
        """Who has which address, as the store has it: names by addresses."""
        return {str(address.ip): peer.name for peer in self.registry().peers() for address in peer.addresses}

    def open(self) -> None:
        """Wait until every host is in touch with the store again."""
        for host in self.hosts:
            until(lambda host=host: host.name in self.nodes(host), f"{host.name} does not find the store", AGAIN)  # type: ignore[misc]

    def nodes(self, host: Host) -> list[str]:
        """The hosts that are there as *host* sees it, by their names; none if it has no store to ask."""
        rows = [row.split() for row in host.isthmus("node ls --format '{{.Hostname}} {{.Status}}'").splitlines()]
        return sorted(row[0] for row in rows if row[1:] == ["ready"])

    def together(self, *but: Host, patience: float = AGAIN) -> None:
        """Wait until every host, *but* these, sees every other one in the store."""
        there = [host for host in self.hosts if host not in but]
        names = sorted(host.name for host in there)
        for host in there:
            until(lambda host=host: self.nodes(host) == names, f"{host.name} sees not {names}: {host.log}", patience)  # type: ignore[misc]

    # Networks.

    def network(self, name: str, flags: str) -> "Shared":
        """An overlay network, made by the first host and heard of by all."""
        self.hosts[0].network(name, f"-d overlay {flags}")
        for host in self.hosts:
            until(lambda host=host: has(host, name), f"{host.name} does not hear of {name}")  # type: ignore[misc]
        return Shared(self, name)

    def clear(self) -> None:
        """Remove all sandboxes and all networks, and see that nothing of them is left anywhere."""
        for host in self.hosts:
            for one in ask(host, "GET", "/sandboxes"):
                ask(host, "DELETE", f"/sandboxes/{one['Name']}")
        until(lambda: not self.taken(), "addresses are left in the store", AGAIN)
        for network in tuple(self.registry().networks.values()):
            self.hosts[0].isthmus(f"network rm {network.name}")
        for host in self.hosts:
            until(lambda host=host: not spaces(host), f"a network's namespace is left on {host.name}")  # type: ignore[misc]
            host.settled()
        assert not [key for key in self.registry().items if key.partition("/")[0] not in {"cluster", "nodes"}]


class Shared:
    """The overlay network *name* of a *cluster*."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        shape = cluster.hosts[0].inspect(name)
        self.id = str(shape["Id"])
        vnis = shape["Options"]["com.docker.network.driver.overlay.vxlanid_list"]
        self.tunnel = tunnel(int(vnis.partition(",")[0]))
        self.space = hidden(self.id)

    def tenant(self, host: Host, name: str, flags: str = "") -> Tenant:
        """A new sandbox."""
        place = host.sandbox(name, f"--network {self.name} {flags}")
        return Tenant(host, place, place.addresses("eth0")[0].partition("/")[0])

    def one_each(self, prefix: str = "s") -> list[Tenant]:
        """A new sandbox on each host: *s1* on *h1*, ..."""
        return [self.tenant(host, host.name.replace("h", prefix)) for host in self.cluster.hosts]

    def inside(self, host: Host, command: str) -> str:
        """What *command* prints in its namespace on *host*."""
        return host.run(f"nsenter --net=/run/isthmus/netns/{self.space} {command}")

    def told(self, host: Host) -> tuple[dict[str, str], dict[str, str]]:
        """What *host* knows of who stands elsewhere: hosts by MACs, and MACs by addresses; nothing without a tunnel."""
        enter = f"nsenter --net=/run/isthmus/netns/{self.space}"
        forwarding = json.loads(host.attempt(f"{enter} bridge -j fdb show dev {self.tunnel}").stdout or "[]")
        neighbours = json.loads(
            host.attempt(f"{enter} ip -j neigh show dev {self.tunnel} nud permanent").stdout or "[]"
        )
        return (
            {one["mac"]: one["dst"] for one in forwarding if "dst" in one},
            {one["dst"]: one["lladdr"] for one in neighbours},
        )

    def knows(self, host: Host, tenants: Iterable[Tenant]) -> bool:
        """Whether *host* knows just those of *tenants* that stand on other hosts, and where."""
        elsewhere = [one for one in tenants if one.host is not host]
        forwarding, neighbours = self.told(host)
        return {address: forwarding.get(mac) for address, mac in neighbours.items() if ":" not in address} == {
            one.address: one.host.address() for one in elsewhere
        } and len(forwarding) == len(elsewhere)

    def settled(self, tenants: Collection[Tenant], *but: Host, patience: float = AGAIN) -> None:
        """Wait until the store and every host, *but* these, know just *tenants*, and see that all reach each other."""
        wanted = {one.address: one.name for one in tenants}
        assert len(wanted) == len(tenants), "an address was given twice"

        def stored() -> dict[str, str]:
            return {address: name for address, name in self.cluster.taken().items() if ":" not in address}

        until(lambda: stored() == wanted, f"the store does not have just {wanted}", patience)
        for host in self.cluster.hosts:
            if host not in but:
                until(
                    lambda host=host: self.knows(host, tenants),  # type: ignore[misc]
                    f"{host.name} does not know just {wanted}: {host.log}",
                    patience,
                )
        self.all_reach(tenants)

    def all_reach(self, tenants: Collection[Tenant]) -> None:
        """See that each of *tenants* reaches each other one, and has the address that it got."""
        for one, other in permutations(tenants, 2):
            assert pings(one.place, other.address), f"{one.name} does not reach {other.name}"
        for one in tenants:
            assert one.address in [text.partition("/")[0] for text in one.place.addresses("eth0")]


def lasts(condition: Callable[[], bool], seconds: float, complaint: str) -> None:
    """See that *condition* holds for so many *seconds*."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), complaint


def attempt(host: Host, method: str, path: str, body: object = None, patience: float = PATIENCE) -> tuple[int, Any]:
    """The status and the decoded answer of *host*'s daemon to a request."""
    client = Client(f"{host.root}/run/isthmus/isthmus.sock")
    client.timeout = patience
    try:
        headers = {} if body is None else {"Content-Type": "application/json"}
        client.request(method, path, None if body is None else json.dumps(body), headers)
        answer = client.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None
    finally:
        client.close()


def ask(host: Host, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - any JSON
    """The decoded answer, which must tell of success."""
    status, answer = attempt(host, method, path, body)
    assert status < 300, (host.name, method, path, status, answer)
    return answer


def attach(host: Host, name: str, network: str, address: str = "", patience: float = PATIENCE) -> tuple[int, Any]:
    """Have *host* create a sandbox on a network, at an *address* if there is one; the status and the answer."""
    endpoints = {network: {"IPAMConfig": {"IPv4Address": address}}} if address else {}
    body = {"HostConfig": {"NetworkMode": network}, "NetworkingConfig": {"EndpointsConfig": endpoints}}
    return attempt(host, "POST", f"/sandboxes/create?name={name}", body, patience)


def has(host: Host, network: str) -> bool:
    """Whether *host* has a network of this name."""
    return attempt(host, "GET", f"/networks/{network}")[0] == 200


def spaces(host: Host) -> list[str]:
    """The namespaces of networks that *host* has."""
    return [path.name for path in (host.root / "run/isthmus/netns").glob("_ov-*")]


def at_once(works: Iterable[Callable[[], T]]) -> list[T]:
    """Do all *works* at the same time; what they return."""
    works = list(works)
    with ThreadPoolExecutor(max(1, len(works))) as pool:
        return [future.result() for future in [pool.submit(work) for work in works]]


@contextmanager
def cluster(kind: str, directory: Path, count: int = 3) -> Iterator[Cluster]:
    """A cluster of *count* hosts with a store of this *kind*, whose daemons run and see each other."""
    if kind == "consul":
        store: Real = ConsulServer(directory / kind, {"addresses": {"http": "0.0.0.0"}})
    else:
        store = EtcdServer(directory / kind, "--listen-client-urls=http://0.0.0.0:2379")
    try:
        with World(directory / "world") as world:
            made = Cluster(world, store, count)
            store.start()
            made.start(*made.hosts)
            made.together()
            yield made
    finally:
        store.close()
