"""Hosts that share a store: their engines, kernels and the store in memory, all on one loop."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from hashlib import sha256
from ipaddress import ip_address, ip_interface
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest
from msgspec.structs import replace

from isthmus.addresses import DEFAULT_POOLS, SubnetRequest
from isthmus.cluster.encryption import Encryption
from isthmus.cluster.member import Member, Times
from isthmus.cluster.registry import CHUNK
from isthmus.dhcp.fake import FakeServers
from isthmus.drivers.overlay import BRIDGE, FIRST_VNI, PORT
from isthmus.egress import EGRESS
from isthmus.engine import Engine
from isthmus.errors import (
    AddressInUse,
    Forbidden,
    IsthmusError,
    NameTaken,
    NetworkInUse,
    PoolExhausted,
    Refused,
    StoreUnavailable,
)
from isthmus.kernel import Missed, Scope
from isthmus.kernel.fake import FakeKernel
from isthmus.kv import UNGUARDED, Guards, Snapshot
from isthmus.kv.memory import Cluster, Memory
from isthmus.lan import Lan
from isthmus.model import HOST, Host, HostLink, Network, pairs
from isthmus.naming import hidden
from isthmus.options import MTU
from isthmus.plan import NOTHING
from isthmus.requests import EndpointRequest, NetworkRequest, NetworkUpdate, SandboxRequest
from isthmus.resources import Element, Forwarding, Resource
from isthmus.rules import Rules
from isthmus.store.memory import MemoryStore
from isthmus.views import Event
from isthmus.wire.fake import FakeWire
from tests.unit.test_wireguard import Ways

T = TypeVar("T")

TIMES = Times(heartbeat=0.05, ttl=10.0, delay=0.1, retry=0.02)
PATIENCE = 10.0


async def until(done: Callable[[], bool]) -> None:
    """Let the loop go on until something is so."""
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end
        await asyncio.sleep(0)


class Store(Cluster):
    """A store whose answers to commits can come *late*, and which does not answer who reads it if it is *silent*."""

    late: asyncio.Event | None = None
    silent = False
    unheard = 0


class Client(Memory):
    """What a host has of it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._store = store

    async def read(self, prefix: str) -> Snapshot:
        """What there is, as one hears it who does not wait for long."""
        if self._store.silent:
            try:
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()
            except TimeoutError:
                self._store.unheard += 1
                raise StoreUnavailable("no answer in time") from None
        return await super().read(prefix)

    async def commit(
        self, changes: Mapping[str, bytes | None], guards: Guards = UNGUARDED, *, session: str = ""
    ) -> int:
        """Do *changes*."""
        revision = await super().commit(changes, guards, session=session)
        if self._store.late:
            await self._store.late.wait()
        return revision


class Machine:
    """One host: what a daemon is made of, but for the API; `live` begins a life of it."""

    def __init__(self, cluster: Store, number: int, there: Path, times: Times) -> None:
        self.cluster, self.number, self.there, self.times = cluster, number, there, times
        self.address = ip_address(f"192.0.2.{number}")
        self.kernel = FakeKernel(host=Host((HostLink("eth0", "veth", 1500, (ip_interface(f"{self.address}/24"),)),)))
        self.store = MemoryStore()
        self.numbers = count()
        self.told: list[Event] = []

    def live(self) -> None:
        """Begin a life, as a daemon does."""
        rules = Rules(pools=DEFAULT_POOLS, shared=True, advertise="eth0")
        self.engine = Engine(
            self.store,
            self.kernel,
            rules,
            clock=lambda: next(self.numbers),
            random=lambda size: sha256(f"{self.number} {next(self.numbers)}".encode()).digest()[:size],
            publish=self.told.append,
            paths={HOST: "/proc/1/ns/net", "*": "/run/isthmus/netns"},
        )
        self.lan = Lan(self.call, lambda _conflict: FakeWire({}), lambda _leased: FakeServers())
        name = f"host{self.number}"
        node = sha256(name.encode()).hexdigest()[:32]
        remembered = self.there / name
        ways = Ways()
        ways.place = None
        self.member = Member(
            self.call,
            Client(self.cluster),
            node,
            name,
            remembered,
            self.times,
            lambda: next(self.numbers),
            Encryption(ways, node, self.there / f"{name}.key", 0.0),
        )
        self.lan.share(self.member)
        self.engine.start()
        self.member.start()

    async def die(self) -> None:
        """End this life, as `kill -9` does: what stands, stands."""
        await self.lan.close()

    async def call(self, work: Callable[[Engine], T], /, *, brief: bool = False) -> T:  # noqa: ARG002 - all of it is
        """Do *work* at once, and have heard what the engine announces."""
        try:
            return work(self.engine)
        finally:
            while self.told:
                self.lan.heard(self.told.pop(0))

    async def network(self, name: str = "multi", subnet: str = "10.0.9.0/24", **options: str) -> str:
        """Make an overlay network; its ID."""
        own = pairs({f"isthmus.{key}": value for key, value in options.items()})
        return (await self.lan.create_network(NetworkRequest(name, "overlay", (SubnetRequest(subnet),), own))).id

    async def sandbox(self, name: str, ipv4: str = "", network: str = "multi") -> str:
        """Make a sandbox; its address."""
        endpoints = ((network, EndpointRequest(ipv4=ipv4)),) if ipv4 else ()
        await self.lan.create_sandbox(SandboxRequest(name, mode=network, endpoints=endpoints))
        return str(self.engine.sandbox(name).endpoints[0].ipv4)

    async def remove(self, name: str) -> None:
        """Remove a sandbox."""
        await self.call(lambda engine: engine.remove_sandbox(name))

    @property
    def heard(self) -> int:
        """How many endpoints of its own the store has, as it knows."""
        return self.member.nodes()[0].held

    @property
    def ways(self) -> dict[str, str]:
        """To which hosts the tunnels send, by MAC."""
        seen = self.kernel.observe(Scope(everything=True))
        return {one.mac: str(one.remote) for one in seen if isinstance(one, Forwarding) and one.remote}

    @property
    def mine(self) -> dict[str, str]:
        """By MAC, that those who stand here are here."""
        return {one.mac: str(self.address) for one in self.engine.offers().offered}


class Hosts:
    """Some hosts with a store, and what a test does with them."""

    def __init__(self, there: Path, times: Times = TIMES) -> None:
        self.cluster = Store()
        self.hosts = [Machine(self.cluster, number, there, times) for number in (1, 2, 3)]

    def run(self, test: Callable[..., Coroutine[object, object, None]]) -> None:
        """Do *test*, given the hosts, which are all in touch with the store."""

        async def main() -> None:
            for host in self.hosts:
                host.live()
            await self.there()
            try:
                await test(*self.hosts)
            finally:
                for host in self.hosts:
                    await host.die()

        asyncio.run(main())

    async def there(self) -> None:
        """Wait until all hosts are in touch with the store, and see each other."""
        await until(lambda: all(not host.member.away for host in self.hosts))
        await until(lambda: all(len(host.member.nodes()) == len(self.hosts) for host in self.hosts))

    @property
    def agree(self) -> bool:
        """Whether each host sends to all others just what they have, and the store has that and no more."""
        standing = {mac: via for host in self.hosts for mac, via in host.mine.items()}
        return len(self.addresses) == len(standing) and all(
            host.ways == {mac: via for mac, via in standing.items() if mac not in host.mine} for host in self.hosts
        )

    @property
    def addresses(self) -> list[str]:
        """The addresses that the store has."""
        return [key.rpartition("/")[2] for key in self.cluster.items if key.startswith("addresses/")]


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    """Three hosts."""
    return Hosts(tmp_path)


def test_what_one_host_has_all_know(hosts: Hosts) -> None:
    """Networks, who stands there, and that he left."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        network = await one.network()
        await until(lambda: all(host.engine.offers().networks for host in (one, two, three)))
        assert await one.sandbox("a") == "10.0.9.2/24"
        assert await two.sandbox("b") == "10.0.9.3/24"
        await until(lambda: hosts.agree)
        with pytest.raises(NetworkInUse, match=r"a.*b"):
            await three.lan.remove_network("multi")
        assert await three.sandbox("c") == "10.0.9.4/24"
        await one.remove("a")
        await two.remove("b")
        await three.remove("c")
        await until(lambda: hosts.agree)
        await two.lan.remove_network(network)
        await until(lambda: not any(host.engine.offers().networks for host in (one, two, three)))
        assert [key for key in hosts.cluster.items if not key.startswith(("nodes/", "cluster"))] == []

    hosts.run(test)


def test_a_network_is_changed_for_all(hosts: Hosts) -> None:
    """Who is away then hears of it later; and of two who change it at once, one is told so."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        network = await one.network()
        await until(lambda: all(host.engine.offers().networks for host in (one, two, three)))
        await two.sandbox("a")
        await three.die()
        await one.lan.update_network("multi", labelled("one"))
        await until(lambda: recorded(two, network).labels == pairs({"made": "one"}))
        results = await asyncio.gather(
            *(host.lan.update_network("multi", labelled(f"at once {host.number}")) for host in (one, two)),
            return_exceptions=True,
        )
        (refusal,) = [str(result) for result in results if result]
        assert refusal == "multi was changed just now by somebody else: look at it, and try again"
        policy = NetworkUpdate(options=pairs({EGRESS: "deny"}), aux=(("nas", "10.0.9.8"),), ranges=("10.0.9.8/29",))
        await one.lan.update_network(network, policy)
        three.live()
        await hosts.there()
        for host in (one, two, three):
            await until(lambda host=host: EGRESS in dict(recorded(host, network).options))  # type: ignore[misc]
            assert recorded(host, network) == recorded(one, network)
            assert host.engine.start() == NOTHING
        assert any(isinstance(one, Element) and one.set == "policed4" for one in seen(two))
        assert await three.sandbox("b") == "10.0.9.9/24"
        hosts.cluster.stop()
        await until(lambda: all(host.member.away for host in (one, two, three)))
        with pytest.raises(StoreUnavailable, match="what stands goes on"):
            await one.lan.update_network("multi", labelled("away"))
        hosts.cluster.start()
        await hosts.there()
        assert recorded(one, network).labels != pairs({"made": "away"})

    hosts.run(test)


def test_a_change_that_cannot_be_is_refused(hosts: Hosts) -> None:
    """For all; what one host cannot follow, it says."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        network = await one.network(lease="/29")
        await until(lambda: all(host.engine.offers().networks for host in (one, two, three)))
        await two.sandbox("a", "10.0.9.77")
        await until(lambda: hosts.agree)
        before = recorded(one, network)
        for update, words in (
            (NetworkUpdate(ranges=("10.0.9.0/25",)), "hosts have blocks of the addresses of multi"),
            (NetworkUpdate(aux=(("nas", "10.0.9.77"),)), "already in use"),
            (NetworkUpdate(options=pairs({"isthmus.peers": "192.0.2.9"})), "make another network for these"),
            (NetworkUpdate(options=pairs({"isthmus.lazy": "true"})), "these options can be changed"),
        ):
            with pytest.raises(IsthmusError, match=words):
                await one.lan.update_network("multi", update)
        assert all(recorded(host, network) == before for host in (one, two, three))
        hosts.cluster.change({f"open/{network}": None}, "")
        with pytest.raises(Forbidden, match="being removed"):
            await one.lan.update_network("multi", labelled("late"))
        hosts.cluster.change({f"open/{network}": network.encode()}, "")
        two.kernel.forbid(("link", hidden(network), BRIDGE), 1)
        with pytest.raises(Forbidden, match="not yet as it should be on this host"):
            await two.lan.update_network("multi", NetworkUpdate(options=pairs({MTU: "1400"})))
        two.kernel.permit()
        await until(lambda: MTU in dict(recorded(one, network).options))
        assert len(two.engine.start())
        assert two.engine.start() == NOTHING

    hosts.run(test)


def test_networks_on_which_nobody_is_anywhere_are_pruned(hosts: Hosts) -> None:
    """For all hosts, unless the store is away: then who is there cannot be known."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        for number, name in enumerate(("idle", "here", "there", "kept")):
            await one.network(name, f"10.0.{number}.0/24")
        await until(lambda: all(len(host.engine.offers().networks) == 4 for host in (one, two, three)))
        await one.sandbox("a", network="here")
        await two.sandbox("b", network="there")
        await until(lambda: hosts.agree)
        assert await one.lan.prune_networks(lambda network: network.name == "kept") == ("idle",)
        await until(lambda: all(len(host.engine.offers().networks) == 3 for host in (one, two, three)))
        hosts.cluster.stop()
        await until(lambda: bool(one.member.away))
        assert await one.lan.prune_networks(lambda _: False) == ()
        hosts.cluster.start()

    hosts.run(test)


def labelled(by: str) -> NetworkUpdate:
    """That a network bears who changed it last."""
    return NetworkUpdate(labels=pairs({"made": by}))


def recorded(host: Machine, network: str) -> Network:
    """What a host knows of a network."""
    return host.engine.network(network).network


def seen(host: Machine) -> frozenset[Resource]:
    """All of ours that a host's kernel holds."""
    return host.kernel.observe(Scope(everything=True, firewall=True))


def test_an_address_a_name_and_a_number_are_given_once(hosts: Hosts) -> None:
    """However many ask at once."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        made = await asyncio.gather(one.network(), two.network(), three.network(), return_exceptions=True)
        assert sorted(type(result) is NameTaken for result in made) == [False, True, True]
        await until(lambda: all(len(host.engine.offers().networks) == 1 for host in (one, two, three)))
        await one.network("small", "10.0.8.0/28")
        await until(lambda: all(len(host.engine.offers().networks) == 2 for host in (one, two, three)))
        wanted = [host.sandbox(f"{host.number}x{n}", network="small") for n in range(6) for host in (one, two, three)]
        results = await asyncio.gather(*wanted, return_exceptions=True)
        given = [result for result in results if isinstance(result, str)]
        assert sorted(given) == sorted(f"10.0.8.{n}/28" for n in range(2, 15))
        assert {type(result) for result in results} == {str, PoolExhausted}
        same = await asyncio.gather(*(host.sandbox("s", "10.0.9.77") for host in (one, two)), return_exceptions=True)
        assert sorted(type(result) is AddressInUse for result in same) == [False, True]
        await until(lambda: hosts.agree)

    hosts.run(test)


def test_while_the_store_is_away_what_stands_goes_on(hosts: Hosts) -> None:
    """And who would come is told what is away."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        await one.network()
        await until(lambda: bool(two.engine.offers().networks))
        await one.sandbox("a")
        await two.sandbox("b")
        await until(lambda: hosts.agree)
        hosts.cluster.stop()
        await until(lambda: all(host.member.away for host in (one, two, three)))
        with pytest.raises(StoreUnavailable, match="what stands goes on"):
            await one.sandbox("c")
        with pytest.raises(StoreUnavailable):
            await one.network("other")
        ways = one.ways, two.ways
        # Who leaves meanwhile frees his address when the store is back; so does a daemon that lives anew.
        await two.remove("b")
        await one.die()
        one.live()
        assert one.ways == ways[0]
        hosts.cluster.start()
        await hosts.there()
        await until(lambda: hosts.agree)
        assert hosts.addresses == ["10.0.9.2"]
        assert await three.sandbox("c") == "10.0.9.3/24"

    hosts.run(test)


def test_a_store_that_was_lost_and_then_says_nothing_is_found_again(hosts: Hosts) -> None:
    """Nobody who looks for it gives up, however often he was not answered in time."""

    async def test(*all_: Machine) -> None:
        hosts.cluster.silent = True
        hosts.cluster.stop()
        await until(lambda: all(host.member.away for host in all_))
        hosts.cluster.start()
        before = hosts.cluster.unheard
        await until(lambda: hosts.cluster.unheard > before + 6)
        hosts.cluster.silent = False
        await hosts.there()

    hosts.run(test)


def test_a_store_that_lost_its_data_is_told_again(hosts: Hosts) -> None:
    """Nothing is pruned because somebody deleted a directory."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        await one.network()
        await one.network("empty", "10.0.10.0/24")
        await until(lambda: len(three.engine.offers().networks) == 2)
        await one.sandbox("a")
        await two.sandbox("b")
        await until(lambda: hosts.agree)
        hosts.cluster.stop()
        await until(lambda: all(host.member.away for host in (one, two, three)))
        hosts.cluster.start(wiped=True)
        await hosts.there()
        await until(lambda: hosts.agree and len(hosts.addresses) == 2)
        assert {view.network.name for view in three.engine.networks() if view.network.driver == "overlay"} == {
            "multi",
            "empty",
        }
        assert {key.partition("/")[2] for key in hosts.cluster.items if key.startswith("names/")} == {"multi", "empty"}
        assert await three.sandbox("c") == "10.0.9.4/24"

    hosts.run(test)


def test_keys_that_somebody_deletes_are_told_again(hosts: Hosts) -> None:
    """One after the other or all at once: what stands is the truth."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        await one.network()
        await until(lambda: bool(three.engine.offers().networks))
        await one.sandbox("a")
        await two.sandbox("b")
        await until(lambda: hosts.agree)
        ways = three.ways
        for key in ("addresses/", "networks/"):
            hosts.cluster.change(dict.fromkeys(one for one in hosts.cluster.items if one.startswith(key)), "")
            await until(lambda: hosts.agree and any(key.startswith("networks/") for key in hosts.cluster.items))
        hosts.cluster.change(dict.fromkeys(hosts.cluster.items), "")
        assert three.ways == ways
        await until(lambda: any(host.member.away for host in (one, two, three)))
        await hosts.there()
        await until(lambda: hosts.agree and len(hosts.addresses) == 2)
        assert await three.sandbox("c") == "10.0.9.4/24"

    hosts.run(test)


def test_an_answer_that_comes_late_undoes_no_news(hosts: Hosts) -> None:
    """What a host wrote may be told to it, and lost, before it hears that it was written."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        await one.network()
        await until(lambda: all(host.engine.offers().networks for host in (one, two, three)))
        hosts.cluster.late = asyncio.Event()
        coming = asyncio.ensure_future(one.sandbox("a"))
        await until(lambda: one.heard == 1)
        hosts.cluster.change({key: None for key in hosts.cluster.items if key.startswith("addresses/")}, "")
        await until(lambda: one.heard == 0)
        hosts.cluster.late.set()
        assert await coming == "10.0.9.2/24"
        await until(lambda: hosts.agree)

    hosts.run(test)


def test_the_addresses_of_a_host_that_is_gone_are_free_again(hosts: Hosts) -> None:
    """A while after its session ended; when it comes back, it claims what is free, and says what is not."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        await one.network()
        await until(lambda: bool(three.engine.offers().networks))
        for number in range(CHUNK + 3):  # more than go into one transaction
            await three.sandbox(f"c{number}")
        await one.sandbox("a")
        await until(lambda: hosts.agree)
        (session,) = {
            session for session in hosts.cluster.sessions if hosts.cluster.items[f"nodes/{node(three)}"][1] == session
        }
        await three.die()
        hosts.cluster.end(session)
        hosts.hosts.remove(three)
        await until(lambda: hosts.agree and len(hosts.addresses) == 1)
        assert await two.sandbox("b", "10.0.9.2") == "10.0.9.2/24"
        hosts.hosts.append(three)
        three.live()
        await hosts.there()
        await until(lambda: len(hosts.addresses) == CHUNK + 4)
        await until(lambda: bool(three.engine.sandbox("c0").endpoints[0].trouble))
        assert "10.0.9.2 was given to b" in three.engine.sandbox("c0").endpoints[0].trouble[0]

    hosts.run(test)


def node(host: Machine) -> str:
    """The ID of a host."""
    return next(view.id for view in host.member.nodes() if view.here)


def test_a_daemon_that_died_between_store_and_record_leaks_nothing(hosts: Hosts) -> None:
    """What the store has of a host, and nobody there, is taken back."""

    async def test(one: Machine, two: Machine, _three: Machine) -> None:
        await one.network()
        await one.sandbox("a")
        await until(lambda: hosts.agree)
        # The kernel refuses, after the address was reserved.
        one.kernel.forbid(("namespace", "b"), 1)
        with pytest.raises(IsthmusError):
            await one.sandbox("b")
        await until(lambda: hosts.addresses == ["10.0.9.2"])
        one.kernel.permit()
        # The daemon dies in the midst of it.
        attach = asyncio.ensure_future(one.sandbox("c"))
        await until(lambda: len(hosts.addresses) == 2)
        attach.cancel()
        await one.die()
        with suppress(asyncio.CancelledError):
            await attach
        one.live()
        await hosts.there()
        await until(lambda: hosts.agree)
        expected = f"10.0.9.{2 + len(hosts.addresses)}/24"
        assert await two.sandbox("d") == expected

    hosts.run(test)


def test_a_network_that_is_removed_takes_its_blocks_with_it(hosts: Hosts) -> None:
    """Those of all hosts, at once: whoever is asked next what the store has finds nothing of it."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        await one.network(subnet="10.0.9.0/27", lease="/29")
        await until(lambda: all(len(host.engine.offers().networks) == 1 for host in (one, two, three)))
        for host in (one, two, three):
            await host.sandbox("a")
            await host.remove("a")
        await until(lambda: hosts.agree)
        assert any(key.startswith("blocks/") for key in hosts.cluster.items)
        await one.lan.remove_network("multi")
        assert [key for key in hosts.cluster.items if not key.startswith(("nodes/", "cluster"))] == []
        await until(lambda: not any(host.engine.offers().networks for host in (one, two, three)))
        assert [key for key in hosts.cluster.items if not key.startswith(("nodes/", "cluster"))] == []

    hosts.run(test)


def test_a_network_that_the_kernel_refuses_is_nowhere(hosts: Hosts) -> None:
    """Others may have heard of it before; then they forget it."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        one.kernel.add_tunnel("theirs", FIRST_VNI, PORT)
        with pytest.raises(Refused, match="File exists"):
            await one.network()
        await until(lambda: not any(key.startswith(("networks/", "open/")) for key in hosts.cluster.items))
        await until(lambda: not any(host.engine.offers().networks for host in (one, two, three)))
        one.kernel.delete_link("theirs")
        await two.network()
        await until(lambda: all(host.engine.offers().networks for host in (one, two, three)))

    hosts.run(test)


def test_hosts_that_have_blocks_ask_nobody(hosts: Hosts) -> None:
    """As long as there is room in them; and nobody else gives out what is theirs."""

    async def test(one: Machine, two: Machine, three: Machine) -> None:
        await one.network(subnet="10.0.9.0/27", lease="/29")
        await until(lambda: all(host.engine.offers().networks for host in (one, two, three)))
        assert await one.sandbox("a") == "10.0.9.2/27"
        assert await two.sandbox("b") == "10.0.9.8/27"
        with pytest.raises(AddressInUse):
            await three.sandbox("c", "10.0.9.5")
        assert await three.sandbox("c", "10.0.9.17") == "10.0.9.17/27"
        hosts.cluster.stop()
        await until(lambda: bool(one.member.away))
        assert await one.sandbox("a2") == "10.0.9.3/27"
        hosts.cluster.start()
        await hosts.there()
        await until(lambda: hosts.agree and len(hosts.addresses) == 4)
        # Those of a block in which somebody has an address already are nobody's block.
        assert await three.sandbox("c2") == "10.0.9.24/27"
        for number in range(4):
            await one.sandbox(f"more{number}")
        with pytest.raises(PoolExhausted):
            await one.sandbox("toomany")
        blocks = sorted(key.rpartition("/")[2] for key in hosts.cluster.items if key.startswith("blocks/"))
        assert blocks == ["10.0.9.0-29", "10.0.9.24-29", "10.0.9.8-29"]
        await two.remove("b")
        await until(lambda: hosts.agree)

    hosts.run(test)


def test_on_a_lazy_network_who_is_not_talked_to_is_forgotten(tmp_path: Path) -> None:
    """Without being asked, as long as the daemon lives."""
    hosts = Hosts(tmp_path, replace(TIMES, idle=0.02))

    async def test(one: Machine, two: Machine, _three: Machine) -> None:
        network = await one.network(lazy="true")
        await until(lambda: bool(two.engine.offers().networks))
        await one.sandbox("a")
        await two.sandbox("b")
        (mac,) = two.mine
        await until(lambda: bool(one.engine.others()))
        one.engine.mend([Missed(hidden(network), mac)])
        assert one.ways == {mac: "192.0.2.2"}
        one.kernel.rest(Forwarding(hidden(network), "vxlan4096", mac, two.address).key, 1.0)
        await until(lambda: not one.ways)

    hosts.run(test)


def test_a_network_that_is_being_removed_takes_nobody(hosts: Hosts) -> None:
    """Or somebody would stand on what is no more."""

    async def test(one: Machine, two: Machine, _three: Machine) -> None:
        network = await one.network()
        await until(lambda: bool(two.engine.offers().networks))
        hosts.cluster.change({f"open/{network}": None}, "")
        with pytest.raises(Forbidden, match="being removed"):
            await two.sandbox("a")
        results = await asyncio.gather(
            one.lan.remove_network("multi"), two.sandbox("a"), two.sandbox("b"), return_exceptions=True
        )
        assert [isinstance(result, IsthmusError) for result in results] == [False, True, True]

    hosts.run(test)
